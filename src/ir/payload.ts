/** Constants' bytes: reading them from wherever they are, typed views, and making new ones. Nothing is copied unless alignment forces it. */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { defineError } from "../diagnostics.js";
import { isTensorDType, type NumericDType, Tensor, type TensorDType, typedArrayOf } from "../tensor.js";
import { byteLength, dtypeBits } from "./dtypes.js";
import { numberToBfloat16, numberToHalf } from "./numeric.js";
import type { Constant, Dim, DType, Payload } from "./types.js";

export const weightsGone = defineError<{ what: string }>("P1101", "a file of weights cannot be read", ({ what }) => ({
  what,
  why: "the model refers to bytes that are not there any more",
  fix: "put the weights file back beside the model, or import the model again",
}));
export const payloadMismatch = defineError<{ dtype: DType; dims: readonly number[]; needs: number; has: number }>(
  "P1102",
  "a tensor's bytes do not fit its type",
  ({ dtype, dims, needs, has }) => ({
    what: `a ${dtype} tensor of dims [${dims.join(", ")}] needs ${needs} bytes and has ${has}`,
    fix: "write the model again; the file is damaged",
  }),
);

/** Product of dims; `undefined` when it is not a safe integer or a dim is not a natural number. */
export function elementCount(dims: readonly number[]): number | undefined {
  let count = 1;
  for (const d of dims) {
    if (!Number.isSafeInteger(d) || d < 0) return undefined;
    count *= d;
  }
  return Number.isSafeInteger(count) ? count : undefined;
}

/** Length of a payload in bytes without reading it; for strings and sparse tensors, of what they hold. */
export function payloadLength(p: Payload): number {
  switch (p.kind) {
    case "bytes":
      return p.bytes.length;
    case "file":
      return p.length;
    case "lazy":
      return p.length;
    case "strings":
      return p.values.reduce((a, s) => a + s.length, 0);
    case "sparse":
      return payloadLength(p.values.data) + payloadLength(p.indices.data);
    default:
      return p satisfies never;
  }
}

/** The dense bytes of a constant, little-endian; a view where there is one. Throws P1101. Not for strings and sparse tensors. */
export function bytesOf(c: Constant): Uint8Array {
  switch (c.data.kind) {
    case "bytes":
      return c.data.bytes;
    case "file":
      return readRange(c.data.path, c.data.offset, c.data.length);
    case "lazy":
      return c.data.read();
    case "sparse":
      return denseOf(c);
    case "strings":
      throw new Error("a string tensor has no dense bytes");
    default:
      return c.data satisfies never;
  }
}

/** Reads a range of a file, in pieces below Node's limit of 2 GiB a call. Throws P1101. */
export function readRange(path: string, offset: number, length: number): Uint8Array {
  let file: number;
  try {
    file = openSync(path, "r");
  } catch (cause) {
    throw weightsGone({ what: `it cannot be opened: ${cause instanceof Error ? cause.message : String(cause)}` }, { file: path }, cause);
  }
  try {
    const size = fstatSync(file).size;
    if (offset + length > size)
      throw weightsGone({ what: `bytes ${offset} to ${offset + length} are wanted, the file has ${size}` }, { file: path });
    const out = new Uint8Array(length);
    for (let at = 0; at < length; ) {
      const got = readSync(file, out, at, Math.min(length - at, 1 << 30), offset + at);
      if (got === 0) throw weightsGone({ what: `it ends at byte ${offset + at}` }, { file: path });
      at += got;
    }
    return out;
  } finally {
    closeSync(file);
  }
}

function denseOf(c: Constant): Uint8Array {
  if (c.data.kind !== "sparse") throw new Error("not a sparse tensor");
  const width = dtypeBits(c.dtype) / 8;
  const count = elementCount(c.dims) ?? 0;
  const out = new Uint8Array(count * width);
  const values = bytesOf(c.data.values);
  const indices = int64sOf(c.data.indices);
  const rank = c.data.indices.dims.length === 2 ? c.dims.length : 1;
  const n = c.data.values.dims[0] ?? 0;
  for (let i = 0; i < n; i++) {
    let flat = 0;
    if (rank === 1 && c.data.indices.dims.length === 1) flat = Number(indices[i] ?? 0n);
    else for (let k = 0; k < rank; k++) flat = flat * (c.dims[k] ?? 0) + Number(indices[i * rank + k] ?? 0n);
    if (flat < 0 || flat >= count) throw payloadMismatch({ dtype: c.dtype, dims: c.dims, needs: flat, has: count });
    out.set(values.subarray(i * width, (i + 1) * width), flat * width);
  }
  return out;
}

function int64sOf(c: Constant): BigInt64Array {
  const b = aligned(bytesOf(c), 8);
  return new BigInt64Array(b.buffer as ArrayBuffer, b.byteOffset, b.byteLength / 8);
}

/** The same bytes at an address a typed array of `width`-byte elements may start at: the view itself, or an aligned copy. */
export function aligned(bytes: Uint8Array, width: number): Uint8Array {
  // A Buffer's own slice would be a view again.
  return bytes.byteOffset % width === 0 ? bytes : Uint8Array.prototype.slice.call(bytes);
}

/** A typed view of a constant whose dtype has a typed array (float16 and bfloat16 as bits). Throws P1101, P1102. */
export function typedOf(
  c: Constant,
):
  | Float32Array
  | Float64Array
  | Uint16Array
  | Int8Array
  | Int16Array
  | Int32Array
  | BigInt64Array
  | Uint8Array
  | Uint32Array
  | BigUint64Array {
  if (!isTensorDType(c.dtype) || c.dtype === "string") return checkedBytes(c);
  const Wanted = typedArrayOf(c.dtype);
  const b = aligned(checkedBytes(c), Wanted.BYTES_PER_ELEMENT);
  return new Wanted(b.buffer as ArrayBuffer, b.byteOffset, b.byteLength / Wanted.BYTES_PER_ELEMENT);
}

function checkedBytes(c: Constant): Uint8Array {
  const bytes = bytesOf(c);
  const count = elementCount(c.dims);
  const needs = count === undefined ? Number.NaN : byteLength(c.dtype, count);
  if (bytes.length !== needs) throw payloadMismatch({ dtype: c.dtype, dims: c.dims, needs, has: bytes.length });
  return bytes;
}

/** The elements of a small integer, bool or float32/64 constant as numbers; undefined for other types and beyond `limit` elements. */
export function smallNumbers(c: Constant | undefined, limit = 4096): readonly number[] | undefined {
  if (c === undefined) return undefined;
  const count = elementCount(c.dims);
  if (count === undefined || count > limit) return undefined;
  if (!isTensorDType(c.dtype) || c.dtype === "string" || c.dtype === "float16" || c.dtype === "bfloat16") return undefined;
  return Array.from(typedOf(c) as ArrayLike<number | bigint>, Number);
}

/** As a 64-bit integer; numbers beyond the range (2^63, where a double rounded 2^63 - 1 up to) stop at its end. */
function saturated(x: number | bigint | boolean): bigint {
  if (typeof x !== "number") return BigInt(x);
  return x >= 2 ** 63 ? 2n ** 63n - 1n : x <= -(2 ** 63) ? -(2n ** 63n) : BigInt(x);
}

/** A constant from numbers, for dtypes with whole bytes. Values are converted as the typed array converts them; floats round to nearest even. */
export function makeConstant(
  dtype: Exclude<DType, "string">,
  dims: readonly number[],
  values: readonly (number | bigint | boolean)[],
): Constant {
  let array: ArrayBufferView;
  if (dtype === "float16") array = Uint16Array.from(values, (x) => numberToHalf(Number(x)));
  else if (dtype === "bfloat16") array = Uint16Array.from(values, (x) => numberToBfloat16(Number(x)));
  else if (dtype === "int64") array = BigInt64Array.from(values, saturated);
  else if (dtype === "uint64") array = BigUint64Array.from(values, (x) => BigInt(x));
  else if (isTensorDType(dtype)) array = (typedArrayOf(dtype as NumericDType) as unknown as Float32ArrayConstructor).from(values, Number);
  else throw new Error(`makeConstant does not write ${dtype}`);
  return { dtype, dims, data: { kind: "bytes", bytes: new Uint8Array(array.buffer, array.byteOffset, array.byteLength) } };
}
export const int64Constant = (values: readonly (number | bigint)[] | number): Constant =>
  typeof values === "number" ? makeConstant("int64", [], [values]) : makeConstant("int64", [values.length], values);

/** A tensor's bytes as a constant (shared, not copied). */
export function fromTensor(t: Tensor): Constant {
  if (t.type === "string")
    return {
      dtype: "string",
      dims: t.dims,
      data: { kind: "strings", values: (t.data as readonly string[]).map((s) => Buffer.from(s, "utf8")) },
    };
  const d = t.data as Uint8Array;
  return { dtype: t.type, dims: t.dims, data: { kind: "bytes", bytes: new Uint8Array(d.buffer, d.byteOffset, d.byteLength) } };
}

/** A constant as a tensor; undefined for element types that tensors do not have. */
export function toTensor(c: Constant): Tensor | undefined {
  if (c.dtype === "string")
    return c.data.kind === "strings"
      ? new Tensor(
          "string",
          c.data.values.map((s) => Buffer.from(s).toString("utf8")),
          c.dims,
        )
      : undefined;
  if (!isTensorDType(c.dtype)) return undefined;
  return new Tensor(c.dtype as TensorDType, typedOf(c) as never, c.dims);
}

/** Whether the axes that are not 1 wide keep their order, so that the bytes stay where they are. */
export function movesNothing(dims: readonly Dim[], perm: readonly number[]): boolean {
  const wide = perm.filter((p) => dims[p] !== 1);
  return wide.every((p, i) => i === 0 || (wide[i - 1] ?? 0) < p);
}

/** A constant in another order of axes. */
export function transposed(c: Constant, perm: readonly number[]): Constant {
  const dims = perm.map((p) => c.dims[p] ?? 0);
  if (movesNothing(c.dims, perm)) return { ...c, dims };
  const width = dtypeBits(c.dtype) / 8;
  const read = (): Uint8Array => {
    const from = bytesOf(c);
    const out = new Uint8Array(from.length);
    const strides = c.dims.map((_, i) => c.dims.slice(i + 1).reduce((a, d) => a * d, 1));
    const count = elementCount(dims) ?? 0;
    const index = new Array<number>(dims.length).fill(0);
    let source = 0;
    for (let k = 0; k < count; k++) {
      for (let b = 0; b < width; b++) out[k * width + b] = from[source * width + b] ?? 0;
      for (let axis = dims.length - 1; axis >= 0; axis--) {
        const step = strides[perm[axis] ?? 0] ?? 0;
        index[axis] = (index[axis] ?? 0) + 1;
        source += step;
        if ((index[axis] ?? 0) < (dims[axis] ?? 0)) break;
        source -= step * (dims[axis] ?? 0);
        index[axis] = 0;
      }
    }
    return out;
  };
  return { dtype: c.dtype, dims, data: { kind: "bytes", bytes: read() } };
}
