/** Reads files of a model: regular ones alone, so that a device or a pipe in the place of one is an error and not an endless read. */
import { readFileSync, statSync } from "node:fs";
import { PartitaError } from "../../diagnostics.js";
import { cannotRead } from "../onnx/index.js";

/** Throws P1103: missing, no regular file, no permission, beyond 2 GiB (no protobuf is larger). */
export function readWhole(path: string): Uint8Array {
  try {
    if (!statSync(path).isFile()) throw cannotRead({ what: "it is not a regular file" }, { file: path });
    return readFileSync(path);
  } catch (cause) {
    if (cause instanceof PartitaError || !(cause instanceof Error)) throw cause;
    throw cannotRead({ what: cause.message }, { file: path }, cause);
  }
}
