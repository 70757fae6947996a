/**
 * TensorFlow's tensor bundle (checkpoint format V2): `prefix.index`, a sorted-string table of BundleEntryProtos, and `prefix.data-xxxxx-of-xxxxx`,
 * the shards, whose ranges become payloads that are read, and checked against their CRC-32C, when somebody needs them.
 */
import { readFileSync, realpathSync, statSync } from "node:fs";
import { basename } from "node:path";
import { defineError, type Where } from "../../diagnostics.js";
import { byteLength } from "../../ir/dtypes.js";
import { bytesOf, elementCount, readRange } from "../../ir/payload.js";
import type { Constant, DType } from "../../ir/types.js";
import { dtypeFromTf, tfTypeName } from "../../ops/tf/types.js";
import { Cursor } from "../onnx/wire.js";
import { decodeMessage } from "./binary.js";
import { crc32c, unmasked } from "./crc32c.js";
import type { BundleEntry, BundleHeader } from "./schema.js";
import { common, copyPart, type Part, type Piece, sameRegion, sliceKey, volume, wholeRegion, within } from "./slices.js";
import { shapeOfProto } from "./tensors.js";

export const badIndex = defineError<{ what: string }>("P1311", "the index of a checkpoint is malformed", ({ what }) => ({
  what,
  fix: "copy the checkpoint again, index and data files together, or save it again",
}));
export const damagedBundle = defineError<{ what: string }>("P1312", "a checkpoint's checksum does not fit its bytes", ({ what }) => ({
  what,
  fix: "copy or download the checkpoint again; it is damaged",
}));
export const missingShard = defineError<{ what: string }>("P1313", "a checkpoint's data file is missing or too short", ({ what }) => ({
  what,
  fix: "put all data files of the checkpoint beside its index",
}));

const FOOTER = 48;
const MAGIC = [0x57, 0xfb, 0x80, 0x8b, 0x24, 0x75, 0x47, 0xdb] as const;
const MAX_ENTRIES = 2_000_000;
const MAX_KEY_BYTES = 1 << 28;
/** Types whose tensors are not plain element bytes in a shard. */
const DT_STRING = 7;

export interface Bundle {
  has(key: string): boolean;
  keys(): readonly string[];
  /** The tensor under a key, or a part of it; undefined when there is none. Throws P1303, P1311, P1313. */
  tensor(key: string, part?: Part | undefined): Constant | undefined;
}

/** Opens the checkpoint `prefix`. Throws P1311 to P1313. */
export function openBundle(prefix: string): Bundle {
  const path = `${prefix}.index`;
  let bytes: Uint8Array;
  try {
    if (!statSync(path).isFile()) throw new Error("it is not a regular file");
    bytes = readFileSync(path);
  } catch (cause) {
    throw missingShard(
      { what: `its index '${basename(path)}' cannot be read: ${cause instanceof Error ? cause.message : cause}` },
      { file: path },
      cause,
    );
  }
  const entries = readTable(bytes, path);
  const header = decodeMessage<BundleHeader>("BundleHeaderProto", entries.get("") ?? new Uint8Array(0), path);
  if (!entries.has("")) throw badIndex({ what: "it has no header entry" }, { file: path });
  if (Number(header.endianness ?? 0) !== 0) throw badIndex({ what: "its tensors are big-endian" }, { file: path });
  const shards = Number(header.num_shards ?? 1);
  entries.delete("");
  const files = new Map<number, { readonly path: string; readonly size: number }>();
  const shard = (id: number, key: string): { readonly path: string; readonly size: number } => {
    const known = files.get(id);
    if (known !== undefined) return known;
    // The prefix may end in a slash: a checkpoint saved under a folder's name is made of `.index` and `.data-...` in it.
    const data = `${prefix}.data-${String(id).padStart(5, "0")}-of-${String(shards).padStart(5, "0")}`;
    if (!Number.isSafeInteger(id) || id < 0 || id >= shards)
      throw badIndex({ what: `'${key}' lies in shard ${id} of ${shards}` }, { file: path, value: key });
    let found: { path: string; size: number };
    try {
      const real = realpathSync(data);
      const stat = statSync(real);
      if (!stat.isFile()) throw new Error("it is not a regular file");
      found = { path: real, size: stat.size };
    } catch (cause) {
      throw missingShard(
        { what: `'${basename(data)}' cannot be read: ${cause instanceof Error ? cause.message : cause}` },
        { file: path, value: key },
        cause,
      );
    }
    files.set(id, found);
    return found;
  };
  const entryOf = (key: string): BundleEntry | undefined => {
    const raw = entries.get(key);
    return raw === undefined ? undefined : decodeMessage<BundleEntry>("BundleEntryProto", raw, path);
  };
  const typeOf = (e: BundleEntry, where: Where): { readonly dtype: DType; readonly dims: readonly number[]; readonly count: number } => {
    const dtype = dtypeFromTf(Number(e.dtype ?? 0));
    const dims = shapeOfProto(e.shape ?? {}, where) ?? [];
    const count = elementCount(dims);
    if (dtype === undefined) throw badIndex({ what: `the tensor has type ${tfTypeName(Number(e.dtype ?? 0))}` }, where);
    if (count === undefined)
      throw badIndex({ what: `its dims [${dims.join(", ")}] are not natural numbers with a representable product` }, where);
    return { dtype, dims, count };
  };
  const stored = (e: BundleEntry, key: string): Constant => {
    const where = { file: path, value: key };
    const { dtype, dims, count } = typeOf(e, where);
    const [offset, size] = [Number(e.offset ?? 0), Number(e.size ?? 0)];
    const file = shard(Number(e.shard_id ?? 0), key);
    if (!(offset >= 0 && size >= 0 && offset + size <= file.size))
      throw missingShard(
        { what: `'${basename(file.path)}' has ${file.size} bytes, the tensor wants ${offset} to ${offset + size}` },
        where,
      );
    const [run] = e.crc32c?.runs ?? [];
    const sum = run === undefined || run.length < 4 ? undefined : unmasked(new DataView(run.buffer, run.byteOffset, 4).getUint32(0, true));
    if (Number(e.dtype) === DT_STRING)
      return { dtype, dims, data: { kind: "strings", values: readStrings(readRange(file.path, offset, size), count, where) } };
    const needs = byteLength(dtype, count);
    if (size !== needs)
      throw badIndex({ what: `a ${dtype} tensor of dims [${dims.join(", ")}] needs ${needs} bytes, the index gives it ${size}` }, where);
    const read = (): Uint8Array => {
      const data = readRange(file.path, offset, size);
      if (sum !== undefined && crc32c(data) !== sum)
        throw damagedBundle(
          { what: `the ${size} bytes at ${offset} of '${basename(file.path)}' have another checksum than the index says` },
          where,
        );
      return data;
    };
    return { dtype, dims, data: { kind: "lazy", length: size, read } };
  };
  /** The slices that a tensor is kept in, or the whole of it. */
  const piecesOf = (e: BundleEntry, key: string, dims: readonly number[]): readonly Piece[] => {
    if ((e.slices ?? []).length === 0) return [{ region: wholeRegion(dims), constant: stored(e, key) }];
    return (e.slices ?? []).map((s) => {
      const extents = dims.map((_, i) => {
        const x = s.extent?.[i];
        return { start: Number(x?.start ?? 0), length: Number(x?.length ?? -1) };
      });
      const region = extents.map((x, i) => (x.length === -1 ? { start: 0, length: dims[i] ?? 0 } : x));
      const found = entryOf(sliceKey(key, extents));
      const where = { file: path, value: key };
      if (found === undefined || !region.every((r, i) => within(r.start, r.length, dims[i] ?? 0)))
        throw badIndex(
          { what: `it lacks the slice ${region.map((r) => `${r.start},${r.length}`).join(":")} of dims [${dims.join(", ")}]` },
          where,
        );
      const constant = stored(found, key);
      if (constant.dims.length !== region.length || constant.dims.some((d, i) => d !== region[i]?.length))
        throw badIndex({ what: `a slice has dims [${constant.dims.join(", ")}], not those of its place` }, where);
      return { region, constant };
    });
  };
  return {
    has: (key) => entries.has(key),
    keys: () => [...entries.keys()].filter((k) => !k.startsWith("\0")),
    tensor(key, part) {
      const e = entryOf(key);
      if (e === undefined) return undefined;
      if (part === undefined && (e.slices ?? []).length === 0) return stored(e, key);
      const where = { file: path, value: key };
      const { dtype, dims } = typeOf(e, where);
      if (part !== undefined && (part.dims.length !== dims.length || part.dims.some((d, i) => d !== dims[i])))
        throw badIndex({ what: `a part of dims [${part.dims.join(", ")}] is wanted of dims [${dims.join(", ")}]` }, where);
      const wanted = part?.region ?? wholeRegion(dims);
      const pieces = piecesOf(e, key, dims);
      const exact = pieces.find((p) => sameRegion(p.region, wanted));
      if (exact !== undefined) return exact.constant;
      if (dtype === "string" || pieces.some((p) => p.constant.dtype !== dtype))
        throw badIndex({ what: "its slices are text, or not of the tensor's type" }, where);
      const covered = pieces.reduce((n, p) => n + volume(common(wanted, p.region) ?? [{ start: 0, length: 0 }]), 0);
      const length = byteLength(dtype, volume(wanted));
      // Slices lie side by side in their files: what is longer than these is made up.
      const room = [...files.values()].reduce((n, f) => n + f.size, 0);
      if (covered !== volume(wanted) || length > room)
        throw badIndex({ what: `its slices have ${covered} of ${volume(wanted)} elements` }, where);
      const read = (): Uint8Array => {
        const out = new Uint8Array(length);
        for (const p of pieces)
          if (common(wanted, p.region) !== undefined) copyPart(out, wanted, p.region, bytesOf(p.constant), byteLength(dtype, 1));
        return out;
      };
      return { dtype, dims: wanted.map((r) => r.length), data: { kind: "lazy", length, read } };
    },
  };
}

/** Lengths as varints, their checksum, then the strings. */
function readStrings(bytes: Uint8Array, count: number, where: { readonly file: string; readonly value: string }): readonly Uint8Array[] {
  const c = new Cursor(bytes, 0, bytes.length, where.file, (a, w) => badIndex(a, { ...where, ...w }));
  if (count > bytes.length) throw badIndex({ what: `${count} strings cannot lie in ${bytes.length} bytes` }, where);
  const lengths = Array.from({ length: count }, () => c.uint());
  let at = c.at + 4;
  return lengths.map((n) => {
    if (n > bytes.length - at) throw badIndex({ what: "a string reaches past its tensor" }, where);
    at += n;
    return bytes.subarray(at - n, at);
  });
}

/** All entries of a sorted-string table (LevelDB's format), values as views. Throws P1311, P1312. */
export function readTable(bytes: Uint8Array, file: string): Map<string, Uint8Array> {
  const fail: (what: string) => never = (what) => {
    throw badIndex({ what }, { file });
  };
  if (bytes.length < FOOTER) fail(`it has ${bytes.length} bytes, its footer alone needs ${FOOTER}`);
  const footer = bytes.subarray(bytes.length - FOOTER);
  if (!MAGIC.every((b, i) => footer[FOOTER - 8 + i] === b)) fail("it does not end as a table does");
  const cursor = (b: Uint8Array): Cursor => new Cursor(b, 0, b.length, file, (a) => badIndex(a, { file }));
  const f = cursor(footer.subarray(0, FOOTER - 8));
  f.uint();
  f.uint();
  const block = (offset: number, size: number): Uint8Array => {
    if (!(offset + size + 5 <= bytes.length)) fail(`a block of ${size} bytes at ${offset} lies outside its ${bytes.length} bytes`);
    blockBytes += size;
    if (blockBytes > bytes.length) fail("its blocks overlap");
    const whole = bytes.subarray(offset, offset + size + 1);
    const stored = new DataView(bytes.buffer, bytes.byteOffset + offset + size + 1, 4).getUint32(0, true);
    if (crc32c(whole) !== unmasked(stored))
      throw damagedBundle({ what: `the index block at ${offset} has another checksum than it says` }, { file });
    const kind = whole[size];
    if (kind !== 0)
      fail(kind === 1 ? "its blocks are compressed with Snappy, which TensorFlow does not write" : `its blocks have compression ${kind}`);
    return whole.subarray(0, size);
  };
  const out = new Map<string, Uint8Array>();
  const text = new TextDecoder();
  // Keys of slices are codes of bytes, which begin with 0.
  const named = (key: Uint8Array): string => (key[0] === 0 ? Buffer.from(key).toString("latin1") : text.decode(key));
  // Keys share prefixes and blocks have addresses: few bytes could ask for work without end.
  let [keyBytes, blockBytes] = [0, 0];
  const walk = (b: Uint8Array, visit: (key: Uint8Array, value: Uint8Array) => void): void => {
    if (b.length < 4) fail("a block is too short");
    const restarts = new DataView(b.buffer, b.byteOffset + b.length - 4, 4).getUint32(0, true);
    const end = b.length - 4 - 4 * restarts;
    if (end < 0) fail("a block's restart points reach past it");
    const c = new Cursor(b, 0, end, file, (a) => badIndex(a, { file }));
    let key = new Uint8Array(0);
    while (c.at < c.end) {
      const [shared, fresh, length] = [c.uint(), c.uint(), c.uint()];
      if (shared > key.length || fresh + length > c.end - c.at) fail("an entry reaches past its block");
      keyBytes += shared + fresh;
      if (keyBytes > MAX_KEY_BYTES) fail(`its keys have more than ${MAX_KEY_BYTES} bytes`);
      const next = new Uint8Array(shared + fresh);
      next.set(key.subarray(0, shared));
      next.set(b.subarray(c.at, c.at + fresh), shared);
      key = next;
      c.at += fresh + length;
      visit(key, b.subarray(c.at - length, c.at));
    }
  };
  walk(block(f.uint(), f.uint()), (_, handle) => {
    const h = cursor(handle);
    walk(block(h.uint(), h.uint()), (key, value) => {
      if (out.size >= MAX_ENTRIES) fail(`it has more than ${MAX_ENTRIES} entries`);
      out.set(named(key), value);
    });
  });
  return out;
}
