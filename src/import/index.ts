/** Finds the importer that a model needs. */
import { closeSync, existsSync, openSync, readSync, type Stats, statSync } from "node:fs";
import { basename, join } from "node:path";
import { defineError } from "../diagnostics.js";
import type { Graph } from "../ir/types.js";
import { cut } from "./cut.js";
import { importOnnx } from "./onnx/index.js";
import { type ImportTfOptions, importTf } from "./tf/index.js";

export const unknownFormat = defineError<{ what: string }>("P1104", "a model's format is not recognised", ({ what }) => ({
  what,
  fix: "give an ONNX file (.onnx), a TensorFlow GraphDef (.pb, .pbtxt), a SavedModel folder, or a bundle that partita wrote",
}));
export const noSuchModel = defineError<{ what: string }>("P1105", "there is no model at a path", ({ what }) => ({
  what,
  fix: "check the path",
}));
export type Format = "onnx" | "graphdef" | "saved-model" | "bundle";

/** What a path holds, by its content. Throws P1104 and P1105. */
export function detect(path: string): Format {
  let stat: Stats | undefined;
  try {
    stat = statSync(path, { throwIfNoEntry: false });
  } catch (cause) {
    // No permission, too long a name, a loop of links, a NUL in it.
    throw noSuchModel({ what: cause instanceof Error ? cause.message : String(cause) }, { file: path }, cause);
  }
  if (stat === undefined) throw noSuchModel({ what: "the file does not exist" }, { file: path });
  if (stat.isDirectory()) {
    if (existsSync(join(path, "manifest.json"))) return "bundle";
    if (existsSync(join(path, "saved_model.pb")) || existsSync(join(path, "saved_model.pbtxt"))) return "saved-model";
    throw unknownFormat({ what: "the folder holds neither a bundle (manifest.json) nor a SavedModel (saved_model.pb)" }, { file: path });
  }
  if (!stat.isFile()) throw unknownFormat({ what: "it is no regular file" }, { file: path });
  if (stat.size === 0) throw unknownFormat({ what: "the file is empty" }, { file: path });
  const bytes = headOf(path);
  if (/^saved_model\.pb(txt)?$/.test(basename(path))) return "saved-model";
  return path.endsWith(".pbtxt") || path.endsWith(".meta") ? "graphdef" : detectBytes(bytes);
}

function headOf(path: string): Uint8Array {
  const head = Buffer.alloc(64);
  let file: number;
  try {
    file = openSync(path, "r");
  } catch (cause) {
    throw noSuchModel({ what: `it cannot be opened: ${cause instanceof Error ? cause.message : cause}` }, { file: path }, cause);
  }
  try {
    return head.subarray(0, readSync(file, head, 0, head.length, 0));
  } finally {
    closeSync(file);
  }
}

/** What bytes hold: a GraphDef begins with its first node (field 1, a message), a ModelProto with its ir_version (field 1, a number). */
export const detectBytes = (bytes: Uint8Array): "onnx" | "graphdef" =>
  bytes[0] === 0x0a || /^\s*(#|node\s*\{|versions\s*\{|library\s*\{)/.test(Buffer.from(bytes.subarray(0, 64)).toString("latin1"))
    ? "graphdef"
    : "onnx";

export type ImportOptions = ImportTfOptions;

/** Reads a model from a path or bytes. `signature` and `shapes` are for TensorFlow. Throws P1003, P1004, P11xx to P13xx. */
export async function importModel(input: string | Uint8Array, options: ImportOptions = {}): Promise<Graph> {
  if (typeof input !== "string" && !(input instanceof Uint8Array))
    throw unknownFormat({ what: `a model is a path, a file URL, bytes or a graph; this is ${input === null ? "null" : typeof input}` });
  if (input.length === 0) throw unknownFormat({ what: typeof input === "string" ? "the path is empty" : "there are no bytes" });
  const format = typeof input === "string" ? detect(input) : detectBytes(input);
  switch (format) {
    case "onnx":
      return cut(importOnnx(input), options.inputs, options.outputs);
    case "graphdef":
    case "saved-model":
      return importTf(input, options);
    case "bundle":
      throw unknownFormat({ what: "this is a compiled bundle, not a model" }, { file: typeof input === "string" ? input : undefined });
    default:
      return format satisfies never;
  }
}
