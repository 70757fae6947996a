/** Stand-ins for TensorRT (fake-tensorrt.cc), one a family of versions, compiled where a C++ compiler is at hand. */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Family } from "../../src/engines/tensorrt/native.js";

interface Slot {
  readonly kind: string;
  readonly name: string;
  readonly cells: readonly { readonly value: number; readonly since: number }[];
}
interface Generator {
  readonly families: readonly Family[];
  readSlots(): readonly Slot[];
}
const here = dirname(fileURLToPath(import.meta.url));
export const generator = (await import(join(here, "../../scripts/tensorrt-slots.mjs"))) as Generator;

/** A version of each family, as getInferLibVersion tells it, and the names its files go by. */
export const standIns: Readonly<
  Record<Family, { readonly version: number; readonly text: string; readonly core: string; readonly parser: string }>
> = {
  "10": { version: 101302, text: "10.13.2", core: "libnvinfer.so.10", parser: "libnvonnxparser.so.10" },
  "11": { version: 110201, text: "11.2.1", core: "libnvinfer.so.11", parser: "libnvonnxparser.so.11" },
  "rtx-1.3": { version: 10400, text: "1.4.0", core: "libtensorrt_rtx.so.1", parser: "libtensorrt_onnxparser_rtx.so.1" },
  "rtx-1.5": { version: 10701, text: "1.7.1", core: "libtensorrt_rtx.so.1", parser: "libtensorrt_onnxparser_rtx.so.1" },
};

/** The header that makes fake-tensorrt.cc one family: slots, -1 where there are none, and values of enumerations. */
export function tableHeader(family: Family, version: number): string {
  const column = generator.families.indexOf(family);
  const lines = generator.readSlots().map(({ kind, name, cells }) => {
    const cell = cells[column];
    const there = cell !== undefined && (cell.since === 0 || Math.floor(version / 100) % 100 >= cell.since);
    return `#define ${kind === "E" ? "VALUE" : "SLOT"}_${name} ${there ? cell.value : -1}`;
  });
  return [`#define FAMILY "${family}"`, `#define VERSION ${version}`, ...lines, ""].join("\n");
}

export interface StandIn {
  readonly family: Family;
  readonly text: string;
  readonly folder: string;
  readonly library: string;
  readonly parser: string;
}

const SOURCES = ["fake-tensorrt.cc", "fake-tensorrt-model.h", "fake-tensorrt-build.h", "fake-tensorrt-run.h"];

/** Compiles one, unless an earlier run did; the reason when that is not possible. PARTITA_STANDIN_FLAGS are flags where none are given. */
export function compileStandIn(
  family: Family,
  options: { readonly version?: number; readonly flags?: readonly string[] } = {},
): StandIn | string {
  const { core, text, ...known } = standIns[family];
  const table = tableHeader(family, options.version ?? known.version);
  const flags = [
    "-std=c++20",
    "-shared",
    "-fPIC",
    "-O0",
    "-w",
    ...(options.flags ?? (process.env["PARTITA_STANDIN_FLAGS"] ?? "").split(" ").filter((f) => f !== "")),
  ];
  const hash = createHash("sha256").update(JSON.stringify([table, flags]));
  for (const name of SOURCES) hash.update(readFileSync(join(here, name)));
  const folder = join(here, "../../.cache/tensorrt-stand-ins", `${family}-${hash.digest("hex").slice(0, 16)}`);
  // One library is both: the parser's symbols are in it too.
  const found: StandIn = { family, text, folder, library: join(folder, core), parser: join(folder, core) };
  if (existsSync(found.library)) return found;
  mkdirSync(dirname(folder), { recursive: true });
  const work = mkdtempSync(`${folder}-`);
  try {
    writeFileSync(join(work, "table.h"), table);
    // What it opens by bare name, as TensorRT its kernels.
    writeFileSync(join(work, "resource.cc"), "");
    spawnSync("c++", ["-shared", "-fPIC", "-o", join(work, "libfake_builder_resource.so.1.2.3"), join(work, "resource.cc")]);
    const made = spawnSync("c++", [...flags, "-I", work, "-o", join(work, core), join(here, "fake-tensorrt.cc"), "-ldl", "-lpthread"], {
      encoding: "utf8",
    });
    if (made.error !== undefined) return `no C++ compiler: ${made.error.message}`;
    if (made.status !== 0) return made.stderr;
    // Another process may have been faster.
    if (!existsSync(folder)) renameSync(work, folder);
  } catch (error) {
    if (!existsSync(found.library)) throw error;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return found;
}
