/** Finds the importer that a model needs. */
import { closeSync, existsSync, openSync, readSync, type Stats, statSync } from "node:fs";
import { basename, join } from "node:path";
import { defineError } from "../diagnostics.js";
import type { Graph } from "../ir/types.js";
import { cut } from "./cut.js";
import { importOnnx } from "./onnx/index.js";
import { type ImportTfOptions, importTf } from "./tf/index.js";

export const unknownFormat = defineError<{ what: string; fix?: string }>(
  "P1104",
  "a model's format is not recognised",
  ({ what, fix }) => ({
    what,
    fix: fix ?? "give an ONNX file (.onnx), a TensorFlow GraphDef (.pb, .pbtxt), a SavedModel folder, or a bundle that partita wrote",
  }),
);
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
  if (/^saved_model\.pb(txt)?$/.test(basename(path))) return "saved-model";
  if (path.endsWith(".pbtxt") || path.endsWith(".meta")) return "graphdef";
  let file: number;
  try {
    file = openSync(path, "r");
  } catch (cause) {
    throw noSuchModel({ what: `it cannot be opened: ${cause instanceof Error ? cause.message : cause}` }, { file: path }, cause);
  }
  try {
    const buffer = Buffer.alloc(64);
    return detectContent((at) => buffer.subarray(0, readSync(file, buffer, 0, buffer.length, at)), path);
  } finally {
    closeSync(file);
  }
}

export const detectBytes = (bytes: Uint8Array): "onnx" | "graphdef" => detectContent((at) => bytes.subarray(at, at + 64));

/** What is taken for a model by mistake. No protobuf of a model begins so. */
const NEITHER = [
  { begins: "PK\x03\x04", called: "a zip archive (.npz, .zip)" },
  { begins: "\x93NUMPY", called: "a NumPy array (.npy)" },
  { begins: "\x89HDF", called: "an HDF5 file (a Keras model: export it to ONNX or as a SavedModel)" },
  { begins: "\x1f\x8b", called: "compressed with gzip" },
  { begins: "version https://git-lfs", called: "a Git LFS pointer: fetch the file itself (git lfs pull)" },
  { begins: "{", called: "JSON" },
  { begins: "<", called: "HTML or XML" },
] as const;

/** Fields looked at: a GraphDef whose functions or versions come first says what it is once its first node comes. */
const FIELDS = 32;

/**
 * What a protobuf, or the text of one, holds: field 1 of a GraphDef is a node, a message; that of a ModelProto its ir_version, a number. Fields 2 to 4
 * are in both, others in a ModelProto alone. `read` gives up to 64 bytes at a place.
 */
function detectContent(read: (at: number) => Uint8Array, file?: string): "onnx" | "graphdef" {
  const start = Buffer.from(read(0)).toString("latin1");
  const other = NEITHER.find(({ begins }) => start.startsWith(begins));
  if (other !== undefined) throw unknownFormat({ what: `it is ${other.called}, not a model` }, { file });
  if (/^\s*(#|node\s*\{|versions\s*\{|library\s*\{)/.test(start)) return "graphdef";
  for (let at = 0, seen = 0; seen < FIELDS; seen++) {
    const bytes = read(at);
    const [tag = 0] = bytes;
    const [field, wire] = [tag >> 3, tag & 7];
    if (field === 1) return wire === 2 ? "graphdef" : "onnx";
    if (wire !== 2 || field < 2 || field > 4) return "onnx";
    let [length, i] = [0, 1];
    for (; ; i++) {
      const b = bytes[i];
      if (b === undefined || i > 6) return "onnx";
      length += (b & 127) * 2 ** (7 * (i - 1));
      if (b < 128) break;
    }
    at += i + 1 + length;
  }
  return "onnx";
}

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
      throw unknownFormat(
        {
          what: "this is a compiled bundle, not a model",
          fix: "give the model that it was compiled from; report, run, bench and verify take bundles",
        },
        { file: typeof input === "string" ? input : undefined },
      );
    default:
      return format satisfies never;
  }
}
