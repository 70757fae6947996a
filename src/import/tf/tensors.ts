/** TensorProto as a constant: views where the bytes are there, decoding and filling put off until somebody reads. */
import { defineError, type Where } from "../../diagnostics.js";
import { byteLength } from "../../ir/dtypes.js";
import { elementCount } from "../../ir/payload.js";
import type { Constant, DType, Payload } from "../../ir/types.js";
import { dtypeFromTf, tfTypeName } from "../../ops/tf/types.js";
import { Cursor } from "../onnx/wire.js";
import type { Numbers, ShapeProto, TensorProto } from "./schema.js";

export const badTensor = defineError<{ what: string }>("P1303", "a tensor in a TensorFlow graph is malformed", ({ what }) => ({
  what,
  fix: "freeze or save the model again; the tensor is damaged or written by a faulty tool",
}));

/** A tensor that one number fills may claim any shape; beyond this many bytes it is refused instead of being made. */
const MAX_FILLED_BYTES = 1 << 28;

/** A shape with unknown dims -1; undefined for an unknown rank. Throws P1303 on sizes that cannot be. */
export function shapeOfProto(s: ShapeProto | undefined, where: Where): readonly number[] | undefined {
  if (s === undefined || s.unknown_rank === true) return undefined;
  const dims = (s.dim ?? []).map((d) => Number(d.size ?? 0));
  if (dims.length > 254) throw badTensor({ what: `a shape has ${dims.length} dimensions` }, where);
  for (const d of dims) if (!Number.isSafeInteger(d) || d < -1) throw badTensor({ what: `a shape has dimension ${d}` }, where);
  return dims;
}

export function constantOfProto(t: TensorProto, where: Where): Constant {
  const number = t.dtype ?? 0;
  const dtype = dtypeFromTf(number);
  if (dtype === undefined) throw badTensor({ what: `a tensor has type ${tfTypeName(number)}, which holds no elements` }, where);
  const dims = shapeOfProto(t.tensor_shape ?? {}, where) ?? [];
  const count = elementCount(dims);
  if (count === undefined)
    throw badTensor({ what: `its dims [${dims.join(", ")}] are not natural numbers with a representable product` }, where);
  const done = (data: Payload): Constant => ({ dtype, dims, data });
  if (dtype === "string") return done({ kind: "strings", values: stringsOf(t, count, dims, where) });
  const needs = byteLength(dtype, count);
  const content = t.tensor_content;
  if (content !== undefined && content.length > 0) {
    if (content.length !== needs)
      throw badTensor(
        { what: `a ${dtype} tensor of dims [${dims.join(", ")}] needs ${needs} bytes, tensor_content has ${content.length}` },
        where,
      );
    return done({ kind: "bytes", bytes: content });
  }
  if (count === 0) return done({ kind: "bytes", bytes: new Uint8Array(0) });
  const complex = dtype === "complex64" || dtype === "complex128";
  const source = valuesOf(t, dtype);
  const entries = count * (complex ? 2 : 1);
  const has = source === undefined ? 0 : sizeOf(source.numbers, source.width);
  const width = source?.width ?? 0;
  const torn = width === 0 ? undefined : source?.numbers.runs.find((r) => r.length % width !== 0);
  if (torn !== undefined) throw badTensor({ what: `${torn.length} bytes of packed values are not whole numbers of ${width} bytes` }, where);
  if (has > entries) throw badTensor({ what: `a tensor of dims [${dims.join(", ")}] has ${has} values` }, where);
  // Packed numbers of the tensor's own width are the payload already.
  const [only] = source?.numbers.runs ?? [];
  if (source !== undefined && has === entries && source.numbers.runs.length === 1 && source.raw && only !== undefined)
    return done({ kind: "bytes", bytes: only });
  if (needs > MAX_FILLED_BYTES)
    throw badTensor(
      { what: `a ${dtype} tensor of dims [${dims.join(", ")}] has ${has} of its ${entries} values, too few to be meant` },
      where,
    );
  return done({ kind: "lazy", length: needs, read: () => fill(source, dtype, entries, needs) });
}

interface Source {
  readonly numbers: Numbers;
  /** Bytes of one value on the wire; 0 for varints. */
  readonly width: 0 | 4 | 8;
  /** The wire form is the tensor's own. */
  readonly raw: boolean;
}
function valuesOf(t: TensorProto, dtype: DType): Source | undefined {
  const of = (numbers: Numbers | undefined, width: 0 | 4 | 8, raw: boolean): Source | undefined =>
    numbers === undefined ? undefined : { numbers, width, raw };
  switch (dtype) {
    case "float32":
      return of(t.float_val, 4, true);
    case "float64":
      return of(t.double_val, 8, true);
    case "complex64":
      return of(t.scomplex_val, 4, true);
    case "complex128":
      return of(t.dcomplex_val, 8, true);
    case "int64":
      return of(t.int64_val, 0, false);
    case "bool":
      return of(t.bool_val, 0, false);
    case "uint32":
      return of(t.uint32_val, 0, false);
    case "uint64":
      return of(t.uint64_val, 0, false);
    case "float16":
    case "bfloat16":
      return of(t.half_val, 0, false);
    case "float8e5m2":
    case "float8e4m3fn":
      return t.float8_val === undefined ? undefined : { numbers: { runs: [], values: [...t.float8_val] }, width: 0, raw: false };
    default:
      return of(t.int_val, 0, false);
  }
}
function sizeOf(n: Numbers, width: 0 | 4 | 8): number {
  let count = n.values.length;
  for (const r of n.runs) {
    if (width > 0) count += Math.floor(r.length / width);
    else for (const b of r) if (b < 128) count++;
  }
  return count;
}

/** Elements in order; the last one repeats to the end, and a tensor without any is zeros. */
function fill(source: Source | undefined, dtype: DType, entries: number, bytes: number): Uint8Array {
  const out = new Uint8Array(bytes);
  if (source === undefined) return out;
  const width = bytes / entries;
  let at = 0;
  if (source.raw && source.numbers.runs.length > 0) {
    for (const r of source.numbers.runs) {
      out.set(r, at);
      at += r.length;
    }
  } else {
    const view = new DataView(out.buffer);
    const put = putter(view, dtype);
    for (const v of source.numbers.values) {
      put(at, v);
      at += width;
    }
    for (const r of source.numbers.runs) {
      const c = new Cursor(r, 0, r.length, undefined);
      while (c.at < c.end) {
        put(at, c.int64());
        at += width;
      }
    }
  }
  if (at < width) return out;
  // Doubling copies; a complex element is two entries wide.
  const unit = dtype.startsWith("complex") ? 2 * width : width;
  const last = out.slice(at - unit, at);
  if (last.every((b) => b === 0)) return out;
  if (at < bytes) {
    out.set(last, at);
    for (let done = unit; at + done < bytes; ) {
      const n = Math.min(done, bytes - at - done);
      out.copyWithin(at + done, at, at + n);
      done += n;
    }
  }
  return out;
}

/** How one value is stored; half_val holds bits, in both formats. */
function putter(view: DataView, dtype: DType): (at: number, v: number | bigint) => void {
  const integer = (v: number | bigint): bigint => (typeof v === "bigint" ? v : Number.isFinite(v) ? BigInt(Math.trunc(v)) : 0n);
  switch (dtype) {
    case "float32":
    case "complex64":
      return (at, v) => view.setFloat32(at, Number(v), true);
    case "float64":
    case "complex128":
      return (at, v) => view.setFloat64(at, Number(v), true);
    case "int64":
    case "uint64":
      return (at, v) => view.setBigInt64(at, BigInt.asIntN(64, integer(v)), true);
    case "int32":
    case "uint32":
      return (at, v) => view.setInt32(at, Number(BigInt.asIntN(32, integer(v))), true);
    case "float16":
    case "bfloat16":
    case "int16":
    case "uint16":
      return (at, v) => view.setInt16(at, Number(BigInt.asIntN(16, integer(v))), true);
    case "bool":
      return (at, v) => view.setUint8(at, Number(v) === 0 ? 0 : 1);
    default:
      return (at, v) => view.setInt8(at, Number(BigInt.asIntN(8, integer(v))));
  }
}

function stringsOf(t: TensorProto, count: number, dims: readonly number[], where: Where): readonly Uint8Array[] {
  const values = t.string_val ?? [];
  if (values.length > count) throw badTensor({ what: `a string tensor of dims [${dims.join(", ")}] has ${values.length} values` }, where);
  if (values.length === count) return values;
  if (count > 1 << 22) throw badTensor({ what: `a string tensor of dims [${dims.join(", ")}] has ${values.length} values` }, where);
  const last = values[values.length - 1] ?? new Uint8Array(0);
  return Array.from({ length: count }, (_, i) => values[i] ?? last);
}
