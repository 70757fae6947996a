/** Constants as the kernels want them: another element type, another order of dims, one blob for the whole segment. */
import { bfloat16ToNumber, halfToNumber, numberToBfloat16 } from "../../ir/numeric.js";
import { bytesOf, typedOf } from "../../ir/payload.js";
import type { Constant, DType } from "../../ir/types.js";
import { product } from "./indexing.js";
import { storage } from "./storage.js";

/** Elements of a constant, in the order that strides over it give, as bytes of another type. `strides` and `offset` are in elements. */
export function packed(
  c: Constant,
  view: { readonly dims: readonly number[]; readonly strides: readonly number[]; readonly offset: number },
  dtype: DType,
): Uint8Array {
  const count = product(view.dims);
  if (c.dtype === dtype && view.offset === 0 && count === product(c.dims) && isNatural(view.dims, view.strides)) return bytesOf(c);
  const source = typedOf(c) as unknown as ArrayLike<number | bigint>;
  const out = new Uint8Array(count * storage(dtype).bytes);
  const convert = converter(c.dtype, dtype, source, out);
  const inner = view.dims.at(-1) ?? 1;
  const step = view.strides.at(-1) ?? 0;
  const outer = view.dims.slice(0, -1);
  const index = new Array<number>(outer.length).fill(0);
  let from = view.offset;
  for (let to = 0; to < count; to += inner) {
    convert(to, from, step, inner);
    for (let d = outer.length - 1; d >= 0; d--) {
      const [size, stride] = [outer[d] as number, view.strides[d] as number];
      const next = (index[d] as number) + 1;
      if (next < size) {
        index[d] = next;
        from += stride;
        break;
      }
      index[d] = 0;
      from -= stride * (size - 1);
    }
  }
  return out;
}

function isNatural(dims: readonly number[], strides: readonly number[]): boolean {
  let step = 1;
  for (let d = dims.length - 1; d >= 0; d--) {
    if (dims[d] !== 1 && strides[d] !== step) return false;
    step *= dims[d] as number;
  }
  return true;
}

/** Copies `n` elements from `from`, `step` apart, to `to` and the following. */
type Convert = (to: number, from: number, step: number, n: number) => void;

function converter(from: DType, to: DType, source: ArrayLike<number | bigint>, bytes: Uint8Array): Convert {
  const { buffer } = bytes;
  if (to === "float16" && source instanceof Float32Array) {
    const [bits, out] = [new Uint32Array(source.buffer, source.byteOffset, source.length), new Uint16Array(buffer)];
    return (t, f, step, n) => {
      for (let i = 0; i < n; i++) out[t + i] = halfBits(bits[f + i * step] as number);
    };
  }
  const read: (i: number) => number | bigint =
    from === "float16"
      ? (i) => halfToNumber(source[i] as number)
      : from === "bfloat16"
        ? (i) => bfloat16ToNumber(source[i] as number)
        : (i) => source[i] as number | bigint;
  const each =
    (write: (i: number, x: number | bigint) => void): Convert =>
    (t, f, step, n) => {
      for (let i = 0; i < n; i++) write(t + i, read(f + i * step));
    };
  const numbers = (out: { [i: number]: number }): Convert =>
    each((i, x) => {
      out[i] = Number(x);
    });
  switch (to) {
    case "float32":
      return numbers(new Float32Array(buffer));
    case "float16": {
      const [out, one] = [new Uint16Array(buffer), new Float32Array(1)];
      const bits = new Uint32Array(one.buffer);
      return each((i, x) => {
        one[0] = Number(x);
        out[i] = halfBits(bits[0] as number);
      });
    }
    case "bfloat16": {
      const out = new Uint16Array(buffer);
      return each((i, x) => {
        out[i] = numberToBfloat16(Number(x));
      });
    }
    case "int64": {
      const out = new BigInt64Array(buffer);
      return each((i, x) => {
        out[i] = BigInt(x);
      });
    }
    case "int32":
      return numbers(new Int32Array(buffer));
    default:
      return numbers(bytes);
  }
}

/** Bits of a single-precision number to those of the nearest half, ties to even. */
export function halfBits(single: number): number {
  const sign = (single >>> 16) & 0x8000;
  const x = single & 0x7fffffff;
  if (x >= 0x47800000) return sign | (x > 0x7f800000 ? 0x7e00 : 0x7c00);
  if (x >= 0x38800000) {
    // Normal: a carry out of the mantissa goes on into the exponent, up to infinity.
    const h = (x - 0x38000000) >>> 13;
    const rest = x & 0x1fff;
    return sign | (rest > 0x1000 || (rest === 0x1000 && (h & 1) === 1) ? h + 1 : h);
  }
  if (x < 0x33000000) return sign;
  const shift = 126 - (x >>> 23);
  const mantissa = (x & 0x7fffff) | 0x800000;
  const h = mantissa >>> shift;
  const [rest, tie] = [mantissa & ((1 << shift) - 1), 1 << (shift - 1)];
  return sign | (rest > tie || (rest === tie && (h & 1) === 1) ? h + 1 : h);
}

/** The first element of a constant. */
const sizes = new WeakMap<Constant, number>();
/** The largest distance from 0 of an element; infinity where one is not a number, or the type is none of float32, int8, uint8 and int32. */
export function largest(c: Constant): number {
  const known = sizes.get(c);
  if (known !== undefined) return known;
  let most = 0;
  if (c.dtype === "float32" || c.dtype === "int8" || c.dtype === "uint8" || c.dtype === "int32")
    for (const x of typedOf(c) as Iterable<number>)
      most = Math.abs(x) <= most ? most : Number.isNaN(x) ? Number.POSITIVE_INFINITY : Math.abs(x);
  else most = Number.POSITIVE_INFINITY;
  sizes.set(c, most);
  return most;
}
/**
 * The largest sum of int8 operands times a column of constant int8 weights that can be: 128 times the column's absolute sum. `columns` is the dim that
 * counts columns. Undefined where the weights are no constant.
 */
export function largestSum({ constant: weights }: { readonly constant: Constant | undefined }, columns: number): number | undefined {
  if (weights?.dtype !== "int8") return undefined;
  const of = typedOf(weights) as Int8Array;
  const count = weights.dims[columns] as number;
  const inner = weights.dims.slice(columns + 1).reduce((a, b) => a * b, 1);
  const sums = new Float64Array(count);
  for (let i = 0; i < of.length; i++)
    sums[Math.floor(i / inner) % count] = (sums[Math.floor(i / inner) % count] as number) + Math.abs(of[i] as number);
  return 128 * sums.reduce((a, b) => Math.max(a, b), 0);
}
export function scalarOf(c: Constant): number | bigint {
  const [first] = typedOf(c) as unknown as ArrayLike<number | bigint> & Iterable<number | bigint>;
  const raw = first as number | bigint;
  return typeof raw === "bigint" || (c.dtype !== "float16" && c.dtype !== "bfloat16") ? raw : halfScalar(c);
}
function halfScalar(c: Constant): number {
  const view = packed(c, { dims: [1], strides: [1], offset: 0 }, "float32");
  return new Float32Array(view.buffer, view.byteOffset, 1)[0] as number;
}
