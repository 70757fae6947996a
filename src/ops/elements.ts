/**
 * Small tensors whose elements are known, as numbers or as symbolic dims: the evaluator of shape arithmetic. Exact or silent: what a type
 * cannot hold, or what rounding would make differ from ONNX Runtime, becomes unknown.
 */
import { isStatic, isStaticShape, UNKNOWN } from "../ir/dims.js";
import { isInteger } from "../ir/dtypes.js";
import type { Dim, DType, Shape } from "../ir/types.js";
import { dtypeOf, type Fact, MAX_ELEMENTS, shapeOf } from "./define.js";
import { elementsOf } from "./shapes.js";

/** Elements row-major, as many as the dims hold. */
export interface Small {
  readonly dims: readonly number[];
  readonly e: readonly Dim[];
}

const count = (dims: readonly number[]): number => dims.reduce((a, d) => a * d, 1);

/** The elements of a fact, when it has any and its shape is static. */
export function small(f: Fact | undefined): Small | undefined {
  // A constant's bytes are read only when its size says that they are few.
  if (f === undefined || (f.elements === undefined && f.constant === undefined)) return undefined;
  const dims = shapeOf(f);
  if (!isStaticShape(dims) || count(dims) > MAX_ELEMENTS) return undefined;
  const e = elementsOf(f);
  return e !== undefined && e.length === count(dims) ? { dims, e } : undefined;
}
/** As `small`; a tensor of small static shape of which nothing is known has unknown elements. */
export function partly(f: Fact | undefined): Small | undefined {
  const dims = shapeOf(f);
  if (!isStaticShape(dims) || count(dims) > MAX_ELEMENTS) return undefined;
  return small(f) ?? { dims, e: new Array<Dim>(count(dims)).fill(UNKNOWN) };
}

const ranges: Readonly<Partial<Record<DType, readonly [number, number]>>> = {
  int8: [-128, 127],
  uint8: [0, 255],
  int16: [-32768, 32767],
  uint16: [0, 65535],
  int32: [-(2 ** 31), 2 ** 31 - 1],
  uint32: [0, 2 ** 32 - 1],
  bool: [0, 1],
};
/** An element as its type holds it; unknown where it would wrap or lose precision. Symbols are integers of 32 or 64 bits. */
function held(x: Dim, dtype: DType): Dim {
  if (!isStatic(x)) return dtype === "int64" || dtype === "int32" ? x : UNKNOWN;
  if (dtype === "float32") return Math.fround(x);
  if (dtype === "float64") return x;
  if (!isInteger(dtype) && dtype !== "bool") return UNKNOWN;
  const [low, high] = ranges[dtype] ?? [-Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER];
  // Adding 0 makes -0 the 0 it is.
  return Number.isInteger(x) && x >= low && x <= high ? x + 0 : UNKNOWN;
}
/** The fact with these elements, if there are as many as its shape holds and anything is known of them. */
export function known(y: Fact, e: readonly Dim[] | undefined): Fact {
  const [dtype, dims] = [dtypeOf(y), shapeOf(y)];
  if (e === undefined || dtype === undefined || !isStaticShape(dims) || count(dims) !== e.length || e.length > MAX_ELEMENTS) return y;
  const elements = e.map((x) => held(x, dtype));
  return elements.length > 0 && elements.every((x) => x === UNKNOWN) ? y : { ...y, elements };
}

/** Row-major strides, in elements. */
function stridesOf(dims: readonly number[]): number[] {
  const out = new Array<number>(dims.length).fill(1);
  for (let i = dims.length - 2; i >= 0; i--) out[i] = (out[i + 1] ?? 1) * (dims[i + 1] ?? 1);
  return out;
}
/** `visit` is given every index of `dims`, in row-major order. The array is reused. */
function forEachIndex(dims: readonly number[], visit: (index: readonly number[]) => void): void {
  const index = new Array<number>(dims.length).fill(0);
  for (let n = count(dims); n > 0; n--) {
    visit(index);
    for (let i = dims.length - 1; i >= 0; i--) {
      index[i] = (index[i] ?? 0) + 1;
      if ((index[i] ?? 0) < (dims[i] ?? 0)) break;
      index[i] = 0;
    }
  }
}
/** Elements of a result of dims `out` whose element at an index is the operand's at `place(index)`. */
function taken(x: Small, out: readonly number[], place: (index: readonly number[]) => readonly number[]): readonly Dim[] {
  const strides = stridesOf(x.dims);
  const e: Dim[] = [];
  forEachIndex(out, (index) => {
    let at = 0;
    place(index).forEach((k, i) => {
      at += k * (strides[i] ?? 0);
    });
    e.push(x.e[at] ?? UNKNOWN);
  });
  return e;
}
const fits = (s: Shape): s is readonly number[] => isStaticShape(s) && count(s) <= MAX_ELEMENTS;

/** NumPy broadcasting to `out`, which may have more dims. */
export function spread(x: Small | undefined, out: Shape): readonly Dim[] | undefined {
  if (x === undefined || !fits(out)) return undefined;
  const lead = out.length - x.dims.length;
  return taken(x, out, (index) => x.dims.map((d, i) => (d === 1 ? 0 : (index[i + lead] ?? 0))));
}
/** `f` of the operands' elements, broadcast to `out`. */
export function pointwise(out: Shape, f: (...x: readonly Dim[]) => Dim, ...xs: readonly (Small | undefined)[]): readonly Dim[] | undefined {
  const all = xs.map((x) => spread(x, out));
  const [first] = all;
  if (first === undefined || all.some((e) => e === undefined)) return undefined;
  return first.map((_, i) => f(...all.map((e) => e?.[i] ?? UNKNOWN)));
}
export function transposed(x: Small | undefined, perm: readonly number[]): readonly Dim[] | undefined {
  if (x === undefined) return undefined;
  const out = perm.map((p) => x.dims[p] ?? 0);
  return taken(x, out, (index) => x.dims.map((_, i) => index[perm.indexOf(i)] ?? 0));
}
/** Slices along `axis` at `indices` (of any rank; negative ones count from the end), as Gather takes them. */
export function gathered(x: Small | undefined, indices: Small | undefined, axis: number): readonly Dim[] | undefined {
  if (x === undefined || indices === undefined) return undefined;
  const out = [...x.dims.slice(0, axis), ...indices.dims, ...x.dims.slice(axis + 1)];
  if (!fits(out)) return undefined;
  const strides = stridesOf(indices.dims);
  const size = x.dims[axis] ?? 0;
  const rank = indices.dims.length;
  const { e } = indices;
  return taken(x, out, (index) => {
    const at = index.slice(axis, axis + rank).reduce((a, k, i) => a + k * (strides[i] ?? 0), 0);
    const k = e[at] ?? UNKNOWN;
    // An index that is not known, or not there, leads outside the operand: unknown.
    const place = isStatic(k) && k >= -size && k < size ? (k < 0 ? k + size : k) : Number.NaN;
    return [...index.slice(0, axis), place, ...index.slice(axis + rank)];
  });
}
/** `out[axis]` elements from `first` on in steps of `step`, along one axis. */
export function strided(x: Small | undefined, axis: number, first: number, step: number, length: number): Small | undefined {
  if (x === undefined) return undefined;
  const dims = x.dims.map((d, i) => (i === axis ? length : d));
  return { dims, e: taken(x, dims, (index) => index.map((k, i) => (i === axis ? first + k * step : k))) };
}
/** Operands joined along an axis. */
export function joined(xs: readonly (Small | undefined)[], axis: number): readonly Dim[] | undefined {
  const all: Small[] = [];
  for (const x of xs) {
    if (x === undefined) return undefined;
    all.push(x);
  }
  const [first] = all;
  if (first === undefined) return undefined;
  const dims = first.dims.map((d, i) => (i === axis ? all.reduce((a, x) => a + (x.dims[axis] ?? 0), 0) : d));
  if (!fits(dims)) return undefined;
  const outer = count(first.dims.slice(0, axis));
  const out: Dim[] = [];
  for (let o = 0; o < outer; o++) {
    for (const x of all) {
      const block = count(x.dims.slice(axis));
      out.push(...x.e.slice(o * block, (o + 1) * block));
    }
  }
  return out;
}
/** Folds `f` over axes; `start` is what no elements give. */
export function reduced(
  x: Small | undefined,
  axes: readonly number[],
  f: (a: Dim, b: Dim) => Dim,
  start: Dim | undefined,
): readonly Dim[] | undefined {
  if (x === undefined) return undefined;
  const kept = x.dims.map((d, i) => (axes.includes(i) ? 1 : d));
  const out = new Array<Dim | undefined>(count(kept)).fill(start);
  const strides = stridesOf(kept);
  let at = 0;
  forEachIndex(x.dims, (index) => {
    const to = index.reduce((a, k, i) => a + (axes.includes(i) ? 0 : k * (strides[i] ?? 0)), 0);
    const e = x.e[at++] ?? UNKNOWN;
    const before = out[to];
    out[to] = before === undefined ? e : f(before, e);
  });
  return out.every((e) => e !== undefined) ? (out as readonly Dim[]) : undefined;
}
/** Indices of the elements that are not zero, as [rank, found]; undefined when one is unknown. A scalar counts as one of rank 1. */
export function nonZero(x: Small | undefined): { readonly dims: readonly [number, number]; readonly e: readonly number[] } | undefined {
  if (x === undefined || !x.e.every(isStatic)) return undefined;
  const dims = x.dims.length === 0 ? [1] : x.dims;
  const found: number[][] = [];
  let at = 0;
  forEachIndex(dims, (index) => {
    if (x.e[at++] !== 0) found.push([...index]);
  });
  return { dims: [dims.length, found.length], e: dims.flatMap((_, axis) => found.map((index) => index[axis] ?? 0)) };
}

/** A function of numbers, and one of dims where a symbol is among the operands. */
export const exactly =
  (numbers: (x: number, y: number) => number, symbols: (x: Dim, y: Dim) => Dim = () => UNKNOWN) =>
  (x: Dim, y: Dim): Dim =>
    isStatic(x) && isStatic(y) ? numbers(x, y) : symbols(x, y);
