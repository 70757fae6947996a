/** The tensor that users hand in and get back: onnxruntime-common's constructor order, type names and typed-array mapping. */
import { defineError } from "./diagnostics.js";

export interface TensorDataByType {
  float32: Float32Array;
  float64: Float64Array;
  /** IEEE half bits. */
  float16: Uint16Array;
  /** The upper half of a binary32's bits. onnxruntime-common has no such tensors. */
  bfloat16: Uint16Array;
  int8: Int8Array;
  int16: Int16Array;
  int32: Int32Array;
  int64: BigInt64Array;
  uint8: Uint8Array;
  uint16: Uint16Array;
  uint32: Uint32Array;
  uint64: BigUint64Array;
  /** One byte an element, 0 or 1. */
  bool: Uint8Array;
  string: readonly string[];
}
export type TensorDType = keyof TensorDataByType;
export type TensorData = TensorDataByType[TensorDType];

/** Anything shaped like a tensor: a `Tensor`, or onnxruntime-common's. */
export interface TensorLike {
  readonly type: string;
  readonly data: TensorData | ArrayLike<number> | ArrayLike<bigint> | readonly string[];
  readonly dims: readonly number[];
}

const arrays = {
  float32: Float32Array,
  float64: Float64Array,
  float16: Uint16Array,
  bfloat16: Uint16Array,
  int8: Int8Array,
  int16: Int16Array,
  int32: Int32Array,
  int64: BigInt64Array,
  uint8: Uint8Array,
  uint16: Uint16Array,
  uint32: Uint32Array,
  uint64: BigUint64Array,
  bool: Uint8Array,
} as const;
export type NumericDType = Exclude<TensorDType, "string">;
export const typedArrayOf = (type: NumericDType): (typeof arrays)[NumericDType] => arrays[type];
export const isTensorDType = (type: string): type is TensorDType => type === "string" || Object.hasOwn(arrays, type);

export const badTensor = defineError<{ what: string; fix: string }>("P3101", "a tensor is malformed", ({ what, fix }) => ({ what, fix }));

/** A dense tensor on the host. `data.length` equals the product of `dims`. Throws P3101. */
export class Tensor<T extends TensorDType = TensorDType> implements TensorLike {
  readonly type: T;
  readonly data: TensorDataByType[T];
  readonly dims: readonly number[];

  constructor(type: T, data: TensorDataByType[T] | readonly (number | bigint | boolean)[], dims?: readonly number[]) {
    if (!isTensorDType(type))
      throw badTensor({ what: `tensor type '${String(type)}' is unknown`, fix: `use one of ${Object.keys(arrays).join(", ")}, string` });
    this.type = type;
    this.data = convert(type, data) as TensorDataByType[T];
    this.dims = dims === undefined ? [this.data.length] : [...dims];
    let count = 1;
    for (const d of this.dims) {
      if (!Number.isSafeInteger(d) || d < 0)
        throw badTensor({
          what: `dimension ${d} of [${this.dims.join(", ")}] is not a non-negative integer`,
          fix: "give whole, non-negative dims",
        });
      count *= d;
    }
    if (count !== this.data.length)
      throw badTensor({
        what: `dims [${this.dims.join(", ")}] hold ${count} elements, the data has ${this.data.length}`,
        fix: "make dims and data agree",
      });
  }

  /** Element count. */
  get size(): number {
    return this.data.length;
  }
}

function convert(type: TensorDType, data: unknown): TensorData {
  if (type === "string") {
    if (Array.isArray(data) && data.every((s) => typeof s === "string")) return data;
    throw badTensor({ what: "a string tensor was given data other than an array of strings", fix: "pass string[]" });
  }
  const Wanted = arrays[type];
  if (data instanceof Wanted) return data;
  if (Array.isArray(data)) {
    if (Wanted === BigInt64Array) return BigInt64Array.from(data, (x) => BigInt(x));
    if (Wanted === BigUint64Array) return BigUint64Array.from(data, (x) => BigInt(x));
    return (Wanted as Float32ArrayConstructor).from(data, Number) as TensorData;
  }
  // A Uint8ClampedArray or a native Float16Array shares its bytes without conversion.
  if (
    ArrayBuffer.isView(data) &&
    ((type === "uint8" && data instanceof Uint8ClampedArray) || (type === "float16" && data.constructor.name === "Float16Array"))
  )
    return new Wanted(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength / Wanted.BYTES_PER_ELEMENT) as TensorData;
  const found = data === null || typeof data !== "object" ? typeof data : data.constructor.name;
  throw badTensor({ what: `a ${type} tensor was given a ${found}`, fix: `pass a ${Wanted.name} (data is never converted silently)` });
}
