/** Reads the files of the ONNX backend suite: a TensorProto, SequenceProto or OptionalProto by itself. Field numbers: onnx.proto, onnx-data.proto. */

import { BYTES, Cursor, FIXED32 } from "../../src/import/onnx/wire.js";
import { dtypeBits, dtypeFromOnnx } from "../../src/ir/dtypes.js";
import { bfloat16ToNumber } from "../../src/ir/numeric.js";
import { aligned } from "../../src/ir/payload.js";
import type { DType, ValueType } from "../../src/ir/types.js";
import { isTensorDType, Tensor, typedArrayOf } from "../../src/tensor.js";

/** What a file holds. `foreign`: an element type that JavaScript tensors lack, its elements decoded to the numbers they stand for. */
export type ProtoValue =
  | { readonly kind: "tensor"; readonly tensor: Tensor }
  | { readonly kind: "foreign"; readonly dtype: DType | undefined; readonly dims: readonly number[]; readonly values: readonly number[] }
  | { readonly kind: "list"; readonly items: readonly ProtoValue[] }
  | { readonly kind: "nothing" };

/** Reads the bytes as the kind of value that `type` says. */
export function readProto(bytes: Uint8Array, type: ValueType): ProtoValue {
  return protoValueOf(new Cursor(bytes, 0, bytes.length, undefined), type.kind);
}
function protoValueOf(c: Cursor, kind: ValueType["kind"]): ProtoValue {
  if (kind === "sequence") return sequenceOf(c);
  if (kind === "optional") return optionalOf(c);
  return tensorOf(c);
}
/** SequenceProto: 2 elem_type (1 tensor, 2 sparse, 3 sequence, 4 map, 5 optional); 3 to 7 the values of those kinds. */
function sequenceOf(c: Cursor): ProtoValue {
  const items: ProtoValue[] = [];
  while (c.next()) {
    if (c.field === 3) items.push(tensorOf(c.message()));
    else if (c.field === 5) items.push(sequenceOf(c.message()));
    else if (c.field === 7) items.push(optionalOf(c.message()));
    else c.skip();
  }
  return { kind: "list", items };
}
/** OptionalProto: 2 elem_type; 3 tensor, 4 sparse, 5 sequence, 6 map, 7 optional. */
function optionalOf(c: Cursor): ProtoValue {
  let value: ProtoValue = { kind: "nothing" };
  while (c.next()) {
    if (c.field === 3) value = tensorOf(c.message());
    else if (c.field === 5) value = sequenceOf(c.message());
    else if (c.field === 7) value = optionalOf(c.message());
    else c.skip();
  }
  return value;
}

/** TensorProto: 1 dims, 2 data_type, 4 float, 5 int32, 6 string, 7 int64, 9 raw, 10 double, 11 uint64. */
function tensorOf(c: Cursor): ProtoValue {
  const dims: number[] = [];
  let code = 0;
  let raw: Uint8Array | undefined;
  const strings: string[] = [];
  const numbers: (number | bigint)[] = [];
  const packed = (into: (number | bigint)[], one: (k: Cursor) => number | bigint): void => {
    if (c.type !== BYTES) {
      into.push(one(c));
      return;
    }
    const m = c.message();
    while (m.at < m.end) into.push(one(m));
  };
  const double = (k: Cursor): number => {
    if (k.end - k.at < 8) k.fail("a double is cut off");
    k.at += 8;
    return new DataView(k.bytes.buffer, k.bytes.byteOffset + k.at - 8, 8).getFloat64(0, true);
  };
  while (c.next()) {
    if (c.field === 1) packed(dims as (number | bigint)[], (k) => k.int());
    else if (c.field === 2) code = c.uint();
    else if (c.field === 4 && (c.type === BYTES || c.type === FIXED32)) packed(numbers, (k) => k.float());
    else if (c.field === 5 || c.field === 7 || c.field === 11) packed(numbers, (k) => k.int64());
    else if (c.field === 6) strings.push(Buffer.from(c.view()).toString("utf8"));
    else if (c.field === 9) raw = c.view();
    else if (c.field === 10) packed(numbers, double);
    else c.skip();
  }
  const dtype = dtypeFromOnnx(code);
  if (dtype === undefined || !isTensorDType(dtype) || dtype === "bfloat16") {
    const count = dims.reduce((a, d) => a * d, 1);
    const values = dtype === undefined ? [] : numbersOf(dtype, count, raw ?? packedBytes(dtype, numbers.map(Number)));
    return { kind: "foreign", dtype, dims, values };
  }
  if (dtype === "string") return { kind: "tensor", tensor: new Tensor("string", strings, dims) };
  const make = typedArrayOf(dtype);
  if (raw !== undefined) {
    const width = dtypeBits(dtype) / 8;
    const a = aligned(raw, width);
    return {
      kind: "tensor",
      tensor: new Tensor(dtype, new make(a.buffer as ArrayBuffer, a.byteOffset, a.byteLength / width) as never, dims),
    };
  }
  // Halves stand in int32_data as their bits.
  const values = dtype === "uint64" ? numbers.map((x) => BigInt.asUintN(64, BigInt(x))) : numbers;
  if (dtype === "float16") return { kind: "tensor", tensor: new Tensor("float16", Uint16Array.from(values, Number), dims) };
  if (values.length === 0 && dims.includes(0)) return { kind: "tensor", tensor: new Tensor(dtype, new make(0) as never, dims) };
  return { kind: "tensor", tensor: new Tensor(dtype, values, dims) };
}

/** int32_data as the bytes that raw_data would hold: one entry an element, or a byte of packed elements. */
function packedBytes(dtype: DType, numbers: readonly number[]): Uint8Array {
  return dtype === "bfloat16" ? new Uint8Array(Uint16Array.from(numbers).buffer) : Uint8Array.from(numbers);
}

/** Bits of the exponent and fraction, exponent bias, and whether the format has infinities ("ieee"), NaN alone ("fn"), or NaN as -0 ("fnuz"). */
const smallFloats: Readonly<Partial<Record<DType, readonly [exponent: number, fraction: number, bias: number, style: string]>>> = {
  float8e4m3fn: [4, 3, 7, "fn"],
  float8e4m3fnuz: [4, 3, 8, "fnuz"],
  float8e5m2: [5, 2, 15, "ieee"],
  float8e5m2fnuz: [5, 2, 16, "fnuz"],
  float4e2m1: [2, 1, 1, "finite"],
};
function smallFloat(bits: number, [e, f, bias, style]: readonly [number, number, number, string]): number {
  const top = 2 ** (e + f);
  const negative = bits >= top;
  const magnitude = bits % top;
  const [exponent, fraction] = [Math.floor(magnitude / 2 ** f), magnitude % 2 ** f];
  if (style === "fnuz" && bits === top) return Number.NaN;
  if (style === "fn" && magnitude === top - 1) return Number.NaN;
  if (style === "ieee" && exponent === 2 ** e - 1)
    return fraction > 0 ? Number.NaN : negative ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY;
  const x = exponent === 0 ? (fraction / 2 ** f) * 2 ** (1 - bias) : (1 + fraction / 2 ** f) * 2 ** (exponent - bias);
  return negative ? -x : x;
}
/** The numbers that packed elements stand for. 4-bit and 2-bit elements lie from the low bits up. */
function numbersOf(dtype: DType, count: number, bytes: Uint8Array): readonly number[] {
  const bits = dtypeBits(dtype);
  const at = (i: number): number => {
    if (bits >= 8) return bytes[i] ?? 0;
    const per = 8 / bits;
    return ((bytes[Math.floor(i / per)] ?? 0) >> ((i % per) * bits)) & (2 ** bits - 1);
  };
  const format = smallFloats[dtype];
  return Array.from({ length: count }, (_, i) => {
    if (dtype === "bfloat16") return bfloat16ToNumber((bytes[2 * i] ?? 0) | ((bytes[2 * i + 1] ?? 0) << 8));
    if (dtype === "float8e8m0") return at(i) === 255 ? Number.NaN : 2 ** (at(i) - 127);
    if (format !== undefined) return smallFloat(at(i), format);
    const x = at(i);
    return dtype.startsWith("int") && x >= 2 ** (bits - 1) ? x - 2 ** bits : x;
  });
}
