/**
 * NumPy's .npy (versions 1 to 3) and .npz (zip, stored or deflated) files as tensors, both ways. Formats: numpy.lib.format and PKWARE's
 * APPNOTE (zip64 sizes are read). Lengths in a file are checked against the file before anything is allocated by them.
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { crc32, inflateRawSync } from "node:zlib";
import { replaceFile } from "./atomic.js";
import { defineError } from "./diagnostics.js";
import { isTensorDType, type NumericDType, Tensor, type TensorDType, type TensorLike, typedArrayOf } from "./tensor.js";

export const npyError = defineError<{ what: string; fix?: string }>("P1110", "a NumPy file cannot be read or written", ({ what, fix }) => ({
  what,
  fix: fix ?? "write the file again with numpy.save or numpy.savez",
}));

/** No tensor of feeds is larger than this; a length beyond it is a damaged file. */
const MAX_BYTES = 2 ** 33;

const fromDescr: Readonly<Record<string, NumericDType>> = {
  f4: "float32",
  f8: "float64",
  f2: "float16",
  // NumPy has no bfloat16: arrays of the type that ml_dtypes and TensorFlow register are written as two opaque bytes.
  V2: "bfloat16",
  i1: "int8",
  i2: "int16",
  i4: "int32",
  i8: "int64",
  u1: "uint8",
  u2: "uint16",
  u4: "uint32",
  u8: "uint64",
  b1: "bool",
};
const toDescr: Readonly<Record<NumericDType, string>> = {
  float32: "<f4",
  float64: "<f8",
  float16: "<f2",
  bfloat16: "<V2",
  int8: "|i1",
  int16: "<i2",
  int32: "<i4",
  int64: "<i8",
  uint8: "|u1",
  uint16: "<u2",
  uint32: "<u4",
  uint64: "<u8",
  bool: "|b1",
};

/** Reads one array. `file` names it in errors. Throws P1110. */
export function readNpy(source: string | URL | Uint8Array, file = named(source, "npy data")): Tensor {
  const bytes = load(source, file);
  const fail = (what: string): never => {
    throw npyError({ what }, { file });
  };
  if (bytes.length < 10 || bytes[0] !== 0x93 || Buffer.from(bytes.subarray(1, 6)).toString("latin1") !== "NUMPY")
    fail("it does not begin with the .npy magic");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const major = bytes[6] ?? 0;
  if (major < 1 || major > 3) fail(`.npy version ${major} is unknown`);
  const start = major === 1 ? 10 : 12;
  if (bytes.length < start) fail("the header is cut off");
  const headerLength = major === 1 ? view.getUint16(8, true) : view.getUint32(8, true);
  if (start + headerLength > bytes.length) fail(`the header says ${headerLength} bytes, the file has ${bytes.length - start} left`);
  const header = Buffer.from(bytes.subarray(start, start + headerLength)).toString(major === 3 ? "utf8" : "latin1");
  const descr = /'descr'\s*:\s*'([^']*)'/.exec(header)?.[1] ?? fail("the header has no simple 'descr' (structured arrays are not tensors)");
  const fortran = /'fortran_order'\s*:\s*True/.test(header);
  const shapeText = /'shape'\s*:\s*\(([^)]*)\)/.exec(header)?.[1] ?? fail("the header has no 'shape'");
  const dims = shapeText
    .split(",")
    .map((s) => s.trim().replace(/L$/, ""))
    .filter((s) => s !== "")
    .map(Number);
  if (dims.some((d) => !Number.isSafeInteger(d) || d < 0)) fail(`shape (${shapeText}) is not a list of non-negative integers`);
  const count = dims.reduce((a, b) => a * b, 1);
  const body = bytes.subarray(start + headerLength);
  const order = descr[0] ?? "|";
  const kind = descr.slice(1);
  if (kind.startsWith("U") || kind.startsWith("S")) return readStrings(kind, order, body, dims, count, fortran, fail);
  const type =
    fromDescr[kind] ??
    fail(`element type '${descr}' has no tensor type${kind.startsWith("O") ? " (pickled objects are never loaded)" : ""}`);
  const Wanted = typedArrayOf(type);
  const length = count * Wanted.BYTES_PER_ELEMENT;
  if (length > MAX_BYTES || length > body.length)
    fail(`shape (${dims.join(", ")}) of ${type} needs ${length} bytes, the file has ${body.length}`);
  // Own, aligned bytes: the file's buffer may be shared by many arrays and lie anywhere.
  const copy = new Uint8Array(length);
  copy.set(body.subarray(0, length));
  if (order === ">") swapBytes(copy, Wanted.BYTES_PER_ELEMENT);
  let data = new Wanted(copy.buffer) as Tensor["data"] & { length: number };
  if (fortran && dims.length > 1) data = transposed(data as never, dims, (n) => new Wanted(n) as never);
  return new Tensor(type, data as never, dims);
}

function readStrings(
  kind: string,
  order: string,
  body: Uint8Array,
  dims: number[],
  count: number,
  fortran: boolean,
  fail: (what: string) => never,
): Tensor {
  const width = Number(kind.slice(1)) * (kind[0] === "U" ? 4 : 1);
  // NumPy writes no strings of no width; a file that does would ask for any number of them.
  if (!Number.isSafeInteger(width) || count * Math.max(width, 1) > body.length)
    fail(`${count} strings of ${width} bytes do not fit into ${body.length}`);
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  const one = (i: number): string => {
    if (kind[0] === "S")
      return Buffer.from(body.subarray(i * width, (i + 1) * width))
        .toString("utf8")
        .replace(/\0+$/, "");
    let text = "";
    for (let at = i * width; at < (i + 1) * width; at += 4) {
      const point = view.getUint32(at, order !== ">");
      if (point > 0x10ffff) fail(`code point ${point} is not Unicode`);
      text += String.fromCodePoint(point);
    }
    return text.replace(/\0+$/, "");
  };
  let texts = Array.from({ length: count }, (_, i) => one(i));
  if (fortran && dims.length > 1) texts = transposed(texts, dims, (n) => new Array<string>(n));
  return new Tensor("string", texts, dims);
}

/** Column-major to row-major. */
function transposed<A extends { [i: number]: unknown; length: number }>(data: A, dims: readonly number[], make: (n: number) => A): A {
  const out = make(data.length);
  const strides = dims.map((_, axis) => dims.slice(0, axis).reduce((a, b) => a * b, 1));
  const index = new Array<number>(dims.length).fill(0);
  for (let i = 0; i < data.length; i++) {
    let from = 0;
    for (let axis = 0; axis < dims.length; axis++) from += (index[axis] ?? 0) * (strides[axis] ?? 0);
    (out as Record<number, unknown>)[i] = data[from];
    for (let axis = dims.length - 1; axis >= 0; axis--) {
      const next = (index[axis] ?? 0) + 1;
      index[axis] = next;
      if (next < (dims[axis] ?? 0)) break;
      index[axis] = 0;
    }
  }
  return out;
}

function swapBytes(bytes: Uint8Array, width: number): void {
  for (let i = 0; i + width <= bytes.length; i += width) bytes.subarray(i, i + width).reverse();
}

/** Writes one array as .npy 1.0 bytes. */
export function npyBytes(t: TensorLike): Uint8Array {
  demandTensor(t);
  if (!isTensorDType(t.type))
    throw npyError({ what: `a tensor of type '${t.type}' has no NumPy element type`, fix: "cast it before writing" });
  const { descr, body } = npyBody(t, t.type);
  const shape = t.dims.length === 1 ? `${t.dims[0]},` : t.dims.join(", ");
  let header = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${shape}), }`;
  header = header.padEnd(Math.ceil((header.length + 11) / 64) * 64 - 11, " ");
  const out = new Uint8Array(10 + header.length + 1 + body.length);
  out.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0]);
  new DataView(out.buffer).setUint16(8, header.length + 1, true);
  out.set(Buffer.from(`${header}\n`, "latin1"), 10);
  out.set(body, 10 + header.length + 1);
  return out;
}

/** What is written must be what its type and dims say. Throws P1110. */
function demandTensor(t: TensorLike): void {
  const fix = "give a Tensor";
  if (t === null || typeof t !== "object" || !Array.isArray(t.dims) || typeof t.data?.length !== "number")
    throw npyError({ what: `what is to be written is ${t === null ? "null" : typeof t}, not a tensor`, fix });
  const count = t.dims.reduce((a, d) => a * d, 1);
  if (t.data.length !== count || (t.type !== "string" && isTensorDType(t.type) && !ArrayBuffer.isView(t.data)))
    throw npyError({ what: `the data of ${t.type}[${t.dims.join(", ")}] is ${t.data.length} elements in ${t.data.constructor.name}`, fix });
}

function npyBody(t: TensorLike, type: TensorDType): { descr: string; body: Uint8Array } {
  if (type !== "string") {
    const d = t.data as Uint8Array;
    return { descr: toDescr[type], body: new Uint8Array(d.buffer, d.byteOffset, d.byteLength) };
  }
  const texts = Array.from(t.data as readonly string[], (s) => Array.from(s, (c) => c.codePointAt(0) ?? 0));
  const width = Math.max(1, ...texts.map((s) => s.length));
  const points = new Uint32Array(texts.length * width);
  for (const [i, s] of texts.entries()) points.set(s, i * width);
  return { descr: `<U${width}`, body: new Uint8Array(points.buffer) };
}

/** Reads every array of an .npz, by name (without `.npy`), in the archive's order. Throws P1110. */
export function readNpz(source: string | URL | Uint8Array, file = named(source, "npz data")): Map<string, Tensor> {
  const bytes = load(source, file);
  const arrays = new Map<string, Tensor>();
  for (const entry of zipEntries(bytes, file)) {
    if (!entry.name.endsWith(".npy")) continue;
    arrays.set(entry.name.slice(0, -4), readNpy(zipContent(bytes, entry, file), `${file}/${entry.name}`));
  }
  return arrays;
}

interface ZipEntry {
  readonly name: string;
  readonly method: number;
  readonly packed: number;
  readonly size: number;
  readonly at: number;
  readonly crc: number;
}

function zipEntries(bytes: Uint8Array, file: string): ZipEntry[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const fail = (what: string): never => {
    throw npyError({ what }, { file });
  };
  let end = -1;
  for (let i = bytes.length - 22; i >= Math.max(0, bytes.length - 22 - 65535); i--) {
    if (view.getUint32(i, true) === 0x06054b50) {
      end = i;
      break;
    }
  }
  if (end < 0) fail("it has no zip directory (not an .npz, or cut off)");
  let count = view.getUint16(end + 10, true);
  let at = view.getUint32(end + 16, true);
  if ((count === 0xffff || at === 0xffffffff) && end >= 20 && view.getUint32(end - 20, true) === 0x07064b50) {
    const end64 = Number(view.getBigUint64(end - 12, true));
    if (end64 + 56 > bytes.length) fail("its zip64 directory lies outside the file");
    count = Number(view.getBigUint64(end64 + 32, true));
    at = Number(view.getBigUint64(end64 + 48, true));
  }
  const entries: ZipEntry[] = [];
  for (let i = 0; i < count; i++) {
    if (at + 46 > bytes.length || view.getUint32(at, true) !== 0x02014b50) fail(`zip entry ${i} of ${count} is damaged`);
    const [nameLength, extraLength, commentLength] = [
      view.getUint16(at + 28, true),
      view.getUint16(at + 30, true),
      view.getUint16(at + 32, true),
    ];
    let [packed, size, offset] = [view.getUint32(at + 20, true), view.getUint32(at + 24, true), view.getUint32(at + 42, true)];
    const name = Buffer.from(bytes.subarray(at + 46, at + 46 + nameLength)).toString("utf8");
    const extraEnd = Math.min(bytes.length, at + 46 + nameLength + extraLength);
    for (let e = at + 46 + nameLength; e + 4 <= extraEnd; ) {
      const [id, length] = [view.getUint16(e, true), view.getUint16(e + 2, true)];
      if (id === 1 && e + 4 + length <= extraEnd) {
        let f = e + 4;
        const next = (was: number): number => {
          if (was !== 0xffffffff || f + 8 > e + 4 + length) return was;
          f += 8;
          return Number(view.getBigUint64(f - 8, true));
        };
        size = next(size);
        packed = next(packed);
        offset = next(offset);
      }
      e += 4 + length;
    }
    entries.push({ name, method: view.getUint16(at + 10, true), packed, size, at: offset, crc: view.getUint32(at + 16, true) });
    at += 46 + nameLength + extraLength + commentLength;
  }
  return entries;
}

function zipContent(bytes: Uint8Array, e: ZipEntry, file: string): Uint8Array {
  const fail = (what: string, cause?: unknown): never => {
    throw npyError({ what: `entry '${e.name}' ${what}` }, { file }, cause);
  };
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (e.at + 30 > bytes.length || view.getUint32(e.at, true) !== 0x04034b50) fail("has no local header");
  const start = e.at + 30 + view.getUint16(e.at + 26, true) + view.getUint16(e.at + 28, true);
  if (start + e.packed > bytes.length || e.size > MAX_BYTES) fail(`says ${e.packed} bytes at ${start}, the file has ${bytes.length}`);
  const packed = bytes.subarray(start, start + e.packed);
  let content: Uint8Array;
  if (e.method === 0) content = packed;
  else if (e.method === 8) {
    try {
      content = inflateRawSync(packed, { maxOutputLength: Math.max(1, e.size) });
    } catch (cause) {
      return fail("does not inflate", cause);
    }
  } else return fail(`is packed by method ${e.method}; stored and deflate are known`);
  if (content.length !== e.size) fail(`unpacks to ${content.length} bytes, its directory says ${e.size}`);
  if (crc(content) !== e.crc) fail("has a wrong checksum");
  return content;
}

/** zlib.crc32 is there from Node 20.15 on; older 20.x use the table. */
function crc(bytes: Uint8Array): number {
  if (typeof crc32 === "function") return crc32(bytes) >>> 0;
  let c = 0xffffffff;
  for (const b of bytes) c = (crcTable[(c ^ b) & 0xff] ?? 0) ^ (c >>> 8);
  return (c ^ 0xffffffff) >>> 0;
}
const crcTable = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
  return c >>> 0;
});

const PAIRS = "give Object.entries(tensors), or a Map of tensors by name";
/** An .npz (stored, as numpy.savez writes) of named tensors. Throws P1110 for what is none. */
export function npzBytes(arrays: Iterable<readonly [string, TensorLike]>): Uint8Array {
  const parts: Uint8Array[] = [];
  const directory: Uint8Array[] = [];
  let at = 0;
  let count = 0;
  if (typeof arrays?.[Symbol.iterator] !== "function")
    throw npyError({
      what: `arrays are given as ${arrays === null ? "null" : typeof arrays}, not as pairs of name and tensor`,
      fix: PAIRS,
    });
  for (const pair of arrays) {
    if (!Array.isArray(pair) || typeof pair[0] !== "string")
      throw npyError({ what: "an array is not given as a pair of name and tensor", fix: PAIRS });
    const [name, t] = pair as readonly [string, TensorLike];
    const content = npyBytes(t);
    const fileName = Buffer.from(`${name}.npy`, "utf8");
    const local = Buffer.alloc(30);
    local.writeUInt32LE(0x04034b50, 0);
    local.writeUInt16LE(20, 4);
    local.writeUInt16LE(0x800, 6);
    local.writeUInt16LE(0x21, 12);
    local.writeUInt32LE(crc(content), 14);
    local.writeUInt32LE(content.length, 18);
    local.writeUInt32LE(content.length, 22);
    local.writeUInt16LE(fileName.length, 26);
    const central = Buffer.alloc(46);
    central.writeUInt32LE(0x02014b50, 0);
    central.writeUInt16LE(20, 4);
    local.copy(central, 6, 4, 28);
    central.writeUInt16LE(fileName.length, 28);
    central.writeUInt32LE(at, 42);
    parts.push(local, fileName, content);
    directory.push(central, fileName);
    at += 30 + fileName.length + content.length;
    count++;
    if (at > 0xffffffff || count > 0xffff)
      throw npyError({ what: "the arrays are more than an .npz of 4 GiB holds", fix: "write them to several files" });
  }
  const size = directory.reduce((a, p) => a + p.length, 0);
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt16LE(count, 8);
  end.writeUInt16LE(count, 10);
  end.writeUInt32LE(size, 12);
  end.writeUInt32LE(at, 16);
  return Buffer.concat([...parts, ...directory, end]);
}

/** Writes an .npz whole or not at all. Throws P1110. */
export function writeNpz(path: string, arrays: Iterable<readonly [string, TensorLike]>): void {
  const bytes = npzBytes(arrays);
  try {
    replaceFile(path, bytes);
  } catch (cause) {
    if (cause instanceof Error && "code" in cause)
      throw npyError(
        { what: `it cannot be written: ${cause.message}`, fix: "check the folder and its permissions" },
        { file: path },
        cause,
      );
    throw cause;
  }
}

function named(source: string | URL | Uint8Array, otherwise: string): string {
  return typeof source === "string" ? source : source instanceof URL ? fileURLToPath(source) : otherwise;
}
function load(source: string | URL | Uint8Array, file: string): Uint8Array {
  if (source instanceof Uint8Array) return source;
  try {
    return readFileSync(source);
  } catch (cause) {
    throw npyError(
      { what: `it cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`, fix: "check the path" },
      { file },
      cause,
    );
  }
}
