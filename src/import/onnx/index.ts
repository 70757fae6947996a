/** From an ONNX file to a graph: reads the bytes (by ranges when the file is big), resolves external data, decodes, builds. */
import { closeSync, fstatSync, lstatSync, openSync, readFileSync, readSync, realpathSync, statSync } from "node:fs";
import { dirname, isAbsolute, join, relative, sep } from "node:path";
import { defineError, PartitaError } from "../../diagnostics.js";
import type { Graph, Payload } from "../../ir/types.js";
import { ModelBuilder } from "./build.js";
import { badTensorProto } from "./fields.js";
import { Decoder } from "./model.js";
import type { ExternalData, RawModel } from "./records.js";
import { skeletonOf } from "./skeleton.js";

export const cannotRead = defineError<{ what: string }>("P1103", "a model file cannot be read", ({ what }) => ({
  what,
  fix: "check the path and its permissions",
}));
export const externalEscape = defineError<{ location: string; why: string }>(
  "P1220",
  "external data lies outside the model's folder",
  ({ location, why }) => ({
    what: `external data location '${location}' ${why}`,
    why: "a model may only name files below its own folder",
    fix: "put the data file beside the model and write a relative path into it",
  }),
);
export const externalMissing = defineError<{ what: string }>("P1221", "external data is missing or too short", ({ what }) => ({
  what,
  fix: "copy the data file whole beside the model, or save the model again",
}));

/** Files from this size on are indexed by ranges; their weights stay on disk. */
const BY_RANGE = 64 * 2 ** 20;

export interface ImportOnnxOptions {
  /** Names the model in messages; the path by default. */
  readonly file?: string | undefined;
  /** Folder that external data is relative to; the model file's own by default. Bytes without one may not refer to external data. */
  readonly folder?: string | undefined;
}

/** Reads an ONNX model from a path or bytes. The bytes are kept by reference: do not change them afterwards. Throws P11xx, P12xx, P1401. */
export function importOnnx(input: string | Uint8Array, options: ImportOnnxOptions = {}): Graph {
  const file = options.file ?? (typeof input === "string" ? input : undefined);
  return new ModelBuilder(decodeOnnx(input, options), file).build();
}

/** Reads a model file as far as its records: lengths, types, tensors and external data are checked, no graph is built. Throws P11xx, P12xx. */
export function decodeOnnx(input: string | Uint8Array, options: ImportOnnxOptions = {}): RawModel {
  const file = options.file ?? (typeof input === "string" ? input : undefined);
  const folder = options.folder ?? (typeof input === "string" ? dirname(input) : undefined);
  const external = externalData(folder, file);
  let bytes: Uint8Array;
  let ranges: string | undefined;
  if (typeof input === "string") {
    try {
      const stat = statSync(input);
      if (!stat.isFile()) throw cannotRead({ what: "it is not a regular file" }, { file });
      if (stat.size >= BY_RANGE) {
        const fd = openSync(input, "r");
        try {
          bytes = skeletonOf((at, into) => readSync(fd, into, 0, into.length, at), fstatSync(fd).size, file);
        } finally {
          closeSync(fd);
        }
        ranges = realpathSync(input);
      } else bytes = readFileSync(input);
    } catch (cause) {
      // Of the file system, or of Node.js about the path (a NUL in it).
      if (cause instanceof Error && "code" in cause && !(cause instanceof PartitaError))
        throw cannotRead({ what: cause.message }, { file }, cause);
      throw cause;
    }
  } else bytes = input;
  return new Decoder(file, external, ranges).model(bytes);
}

/** Resolves external-data references below `folder`, refusing everything that leaves it. */
function externalData(folder: string | undefined, file: string | undefined): ExternalData {
  const sizes = new Map<string, { readonly path: string; readonly size: number }>();
  return (entries, bytes, name): Payload => {
    const where = { file, value: name === "" ? undefined : name };
    const location = entries.get("location") ?? "";
    const natural = (key: string, fallback: number): number => {
      const text = entries.get(key);
      if (text === undefined || text === "") return fallback;
      const n = Number(text);
      if (!/^\d{1,16}$/.test(text) || !Number.isSafeInteger(n))
        throw badTensorProto({ what: `its external data ${key} '${text}' is not a natural number` }, where);
      return n;
    };
    const offset = natural("offset", 0);
    const length = natural("length", bytes);
    if (length !== bytes) throw badTensorProto({ what: `its external data has length ${length}, its type needs ${bytes}` }, where);
    if (location === "") throw externalEscape({ location, why: "is empty" }, where);
    if (folder === undefined) throw externalEscape({ location, why: "cannot be resolved: the model was given as bytes" }, where);
    let target = sizes.get(location);
    if (target === undefined) {
      if (isAbsolute(location) || /^[A-Za-z]:/.test(location) || location.includes("\0"))
        throw externalEscape({ location, why: "is not a relative path" }, where);
      if (location.split(/[\\/]/).includes("..")) throw externalEscape({ location, why: "has '..' in it" }, where);
      const path = join(folder, location);
      try {
        const real = realpathSync(path);
        const inside = relative(realpathSync(folder), real);
        if (inside.startsWith(`..${sep}`) || inside === ".." || isAbsolute(inside))
          throw externalEscape({ location, why: `is a link to '${real}', outside` }, where);
        if (!lstatSync(real).isFile()) throw externalMissing({ what: `'${location}' is not a regular file` }, where);
        target = { path: real, size: statSync(real).size };
      } catch (cause) {
        if (cause instanceof Error && "syscall" in cause)
          throw externalMissing({ what: `'${location}' cannot be read: ${cause.message}` }, where, cause);
        throw cause;
      }
      sizes.set(location, target);
    }
    if (offset + length > target.size)
      throw externalMissing({ what: `'${location}' has ${target.size} bytes, the tensor wants ${offset} to ${offset + length}` }, where);
    return { kind: "file", path: target.path, offset, length };
  };
}
