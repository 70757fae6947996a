/** NVIDIA's own library, where PARTITA_TENSORRT_DIR names one. */
import type { LibraryFiles } from "../../src/engines/tensorrt/library.js";
import { findLibraries } from "../../src/engines/tensorrt/library.js";

export interface Real {
  readonly files: LibraryFiles | undefined;
  /** " (skipped: ...)" for the names of tests; empty where the library is there. */
  readonly why: string;
}
/** TensorRT-RTX ("rtx") or TensorRT itself, with its parser. */
export function realLibrary(flavor: LibraryFiles["flavor"]): Real {
  const named = process.env["PARTITA_TENSORRT_DIR"] ?? "";
  if (named === "") return { files: undefined, why: " (skipped: PARTITA_TENSORRT_DIR is not set)" };
  const files = findLibraries().find((f) => f.flavor === flavor && f.parser !== undefined);
  return { files, why: files === undefined ? ` (skipped: no ${flavor} with a parser in PARTITA_TENSORRT_DIR)` : "" };
}
