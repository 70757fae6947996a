/** Reads the files of the ONNX backend suite: a TensorProto, SequenceProto or OptionalProto by itself. Field numbers: onnx.proto, onnx-data.proto. */

import { BYTES, Cursor, FIXED32 } from "../../src/import/onnx/wire.js";
import { dtypeBits, dtypeFromOnnx } from "../../src/ir/dtypes.js";
import { aligned } from "../../src/ir/payload.js";
import type { DType, ValueType } from "../../src/ir/types.js";
import { isTensorDType, Tensor, typedArrayOf } from "../../src/tensor.js";

/** What a file holds. `foreign`: an element type that JavaScript tensors lack. */
export type ProtoValue =
  | { readonly kind: "tensor"; readonly tensor: Tensor }
  | { readonly kind: "foreign"; readonly dtype: DType | undefined }
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
  if (dtype === undefined || !isTensorDType(dtype)) return { kind: "foreign", dtype };
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
