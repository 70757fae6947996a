/** Finds the importer that a model needs. */
import { closeSync, existsSync, openSync, readSync, statSync } from "node:fs";
import { join } from "node:path";
import { defineError } from "../diagnostics.js";
import type { Graph } from "../ir/types.js";
import { importOnnx } from "./onnx/index.js";

export const unknownFormat = defineError<{ what: string }>("P1104", "a model's format is not recognised", ({ what }) => ({
  what,
  fix: "give an ONNX file (.onnx), or a bundle that partita wrote",
}));
export const noSuchModel = defineError<{ what: string }>("P1105", "there is no model at a path", ({ what }) => ({
  what,
  fix: "check the path",
}));
export const tensorflowPending = defineError<{ kind: string }>("P1301", "TensorFlow models are not read yet", ({ kind }) => ({
  what: `this is a TensorFlow ${kind}`,
  fix: "convert it to ONNX; reading TensorFlow graphs directly is being built",
}));

export type Format = "onnx" | "graphdef" | "saved-model" | "bundle";

/** What a path holds, by its content. Throws P1104 and P1105. */
export function detect(path: string): Format {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined) throw noSuchModel({ what: "the file does not exist" }, { file: path });
  if (stat.isDirectory()) {
    if (existsSync(join(path, "manifest.json"))) return "bundle";
    if (existsSync(join(path, "saved_model.pb")) || existsSync(join(path, "saved_model.pbtxt"))) return "saved-model";
    throw unknownFormat({ what: "the folder holds neither a bundle (manifest.json) nor a SavedModel (saved_model.pb)" }, { file: path });
  }
  if (!stat.isFile()) throw unknownFormat({ what: "it is no regular file" }, { file: path });
  if (stat.size === 0) throw unknownFormat({ what: "the file is empty" }, { file: path });
  const head = Buffer.alloc(64);
  const file = openSync(path, "r");
  let length: number;
  try {
    length = readSync(file, head, 0, head.length, 0);
  } finally {
    closeSync(file);
  }
  const bytes = head.subarray(0, length);
  if (path.endsWith(".pbtxt") || /^\s*(node|versions|library)\s*\{/.test(bytes.toString("latin1"))) return "graphdef";
  // GraphDef begins with field 1, a message (node); ModelProto's field 1 is ir_version, a varint, and its other fields have other numbers.
  if (bytes[0] === 0x0a) return "graphdef";
  return "onnx";
}

/** Reads a model from a path or bytes. */
export async function importModel(input: string | Uint8Array, _options: { readonly signature?: string | undefined } = {}): Promise<Graph> {
  if (typeof input !== "string") return importOnnx(input);
  const format = detect(input);
  switch (format) {
    case "onnx":
      return importOnnx(input);
    case "graphdef":
      throw tensorflowPending({ kind: "GraphDef" }, { file: input });
    case "saved-model":
      throw tensorflowPending({ kind: "SavedModel" }, { file: input });
    case "bundle":
      throw unknownFormat({ what: "this is a compiled bundle, not a model" }, { file: input });
    default:
      return format satisfies never;
  }
}
