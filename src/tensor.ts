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
/** The kind of a typed array, "Uint8Array" of a Buffer and of one that another realm made; undefined for what is none. */
export const arrayKind = (data: unknown): string | undefined =>
  ArrayBuffer.isView(data) ? (data as Uint8Array)[Symbol.toStringTag] : undefined;
/** A copy in memory of its own: a Buffer's `slice` is a view. */
export const copyOf = <A extends ArrayBufferView>(data: A): A => Uint8Array.prototype.slice.call(data) as unknown as A;
export const isTensorDType = (type: string): type is TensorDType => type === "string" || Object.hasOwn(arrays, type);

export const badTensor = defineError<{ what: string; fix: string }>("P3101", "a tensor is malformed", ({ what, fix }) => ({ what, fix }));

/** Dims as a list. Throws P3101 for what is none. */
export function listOfDims(dims: Iterable<number>): readonly number[] {
  if (typeof (dims as Iterable<number> | null | undefined)?.[Symbol.iterator] === "function") return [...dims];
  throw badTensor({ what: `the dims are ${dims === null ? "null" : typeof dims}`, fix: "give a list of whole, non-negative dims" });
}

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
    this.dims = dims === undefined ? [this.data.length] : listOfDims(dims);
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
  if (data instanceof Wanted && data.constructor === Wanted) return data;
  if (Array.isArray(data)) return converted(type, Wanted, data);
  // Others over the same bytes: a Buffer, an array of another realm, a Uint8ClampedArray, a native Float16Array.
  const kind = arrayKind(data);
  if (kind === Wanted.name || (type === "uint8" && kind === "Uint8ClampedArray") || (type === "float16" && kind === "Float16Array")) {
    const { buffer, byteOffset, length } = data as Uint8Array;
    return new Wanted(buffer as ArrayBuffer, byteOffset, length) as TensorData;
  }
  const found = data === null ? "null" : typeof data === "object" ? (data.constructor?.name ?? "object") : typeof data;
  throw badTensor({ what: `a ${type} tensor was given a ${found}`, fix: `pass a ${Wanted.name} (data is never converted silently)` });
}

function converted(type: TensorDType, Wanted: (typeof arrays)[NumericDType], data: readonly unknown[]): TensorData {
  const number = (x: unknown): number | bigint | boolean => {
    if (typeof x === "number" || typeof x === "bigint" || typeof x === "boolean") return x;
    throw new TypeError(`${x === null ? "null" : typeof x === "string" ? `'${x}'` : `a ${typeof x}`} is no number`);
  };
  try {
    if (Wanted === BigInt64Array || Wanted === BigUint64Array)
      return (Wanted as BigInt64ArrayConstructor).from(data as readonly bigint[], (x) => BigInt(number(x)));
    return (Wanted as Float32ArrayConstructor).from(data as readonly number[], (x) => Number(number(x))) as TensorData;
  } catch (cause) {
    throw badTensor(
      { what: `a ${type} tensor was given a list: ${(cause as Error).message}`, fix: "give numbers of that type" },
      {},
      cause,
    );
  }
}
