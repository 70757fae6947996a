/** A stand-in for TensorRT in a folder of the layout that the engine looks for, the parser under a name of its own. */
import { mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Family } from "../../src/engines/tensorrt/native.js";
import { compileStandIn, standIns } from "./fake-tensorrt.js";

/** The folder for PARTITA_TENSORRT_DIR; `missing` is the reason where there is none. */
export function standInFolder(family: Family): { readonly folder: string; readonly missing?: string } {
  const folder = mkdtempSync(join(tmpdir(), "partita-standin-"));
  process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
  const made = compileStandIn(family);
  if (typeof made === "string") return { folder, missing: made };
  symlinkSync(made.library, join(folder, standIns[family].core));
  symlinkSync(made.library, join(folder, standIns[family].parser));
  return { folder };
}
