/** Shape rules that several operators share. Formulas: ONNX operator specifications (Conv, pooling, MatMul, broadcasting). */
import { add, broadcastDim, ceilDiv, floorDiv, isStatic, mul, sub, UNKNOWN } from "../ir/dims.js";
import { smallNumbers } from "../ir/payload.js";
import type { Dim, DType, Shape } from "../ir/types.js";
import { type Cost, type Fact, MAX_ELEMENTS, shapeOf, tensorType, unknownType } from "./define.js";

export const unknownFact: Fact = { type: unknownType };
export const fact = (dtype: DType | undefined, shape: Shape): Fact =>
  dtype === undefined ? unknownFact : { type: tensorType(dtype, shape) };
/** A shape-tensor fact: int64 (or `dtype`) of rank 0 or 1 with known elements. */
export const elementsFact = (elements: readonly Dim[], rank: 0 | 1, dtype: DType = "int64"): Fact => ({
  type: tensorType(dtype, rank === 0 ? [] : [elements.length]),
  ...(elements.length <= MAX_ELEMENTS ? { elements } : {}),
});
/** As many unknown dims; no shape at all for a rank that no tensor has (it may come from a declared length). */
export const unknownDims = (rank: number): Shape =>
  Number.isInteger(rank) && rank >= 0 && rank <= 1024 ? new Array<Dim>(rank).fill(UNKNOWN) : undefined;

/** The known integer elements of a small tensor: from shape arithmetic, or from a constant of any small numeric type. */
export const elementsOf = (f: Fact | undefined): readonly Dim[] | undefined => f?.elements ?? smallNumbers(f?.constant, MAX_ELEMENTS);
/** As `elementsOf`, when all are numbers. */
export function numbersOf(f: Fact | undefined): readonly number[] | undefined {
  const e = elementsOf(f);
  return e?.every(isStatic) === true ? (e as readonly number[]) : undefined;
}

/** Axis in 0..rank-1, or undefined when it is out of range. */
export function axisOf(axis: number, rank: number): number | undefined {
  const a = axis < 0 ? axis + rank : axis;
  return Number.isInteger(a) && a >= 0 && a < rank ? a : undefined;
}
export function axesOf(axes: readonly number[], rank: number): readonly number[] | undefined {
  const out = axes.map((a) => axisOf(a, rank));
  return out.every((a) => a !== undefined) ? (out as readonly number[]) : undefined;
}

/** NumPy broadcasting of any number of shapes; `null` when they certainly do not fit. */
export function broadcast(...shapes: readonly Shape[]): Shape | null {
  let out: readonly Dim[] = [];
  for (const s of shapes) {
    if (s === undefined) return undefined;
    const rank = Math.max(out.length, s.length);
    const next: Dim[] = [];
    for (let i = 0; i < rank; i++) {
      const d = broadcastDim(out[i - rank + out.length] ?? 1, s[i - rank + s.length] ?? 1);
      if (d === undefined) return null;
      next.push(d);
    }
    out = next;
  }
  return out;
}

export interface Window {
  readonly kernel: readonly Dim[];
  readonly strides: readonly number[];
  readonly dilations: readonly number[];
  /** Begins, then ends. */
  readonly pads: readonly number[];
  readonly autoPad: string;
  readonly ceilMode: boolean;
}
/** Completes a sliding window's attributes with their defaults for `n` spatial axes. */
export function windowOf(
  n: number,
  a: {
    readonly strides?: readonly number[] | undefined;
    readonly dilations?: readonly number[] | undefined;
    readonly pads?: readonly number[] | undefined;
    readonly auto_pad?: string | undefined;
    readonly ceil_mode?: boolean | undefined;
  },
  kernel: readonly Dim[],
): Window {
  const ones = new Array<number>(n).fill(1);
  return {
    kernel,
    strides: a.strides ?? ones,
    dilations: a.dilations ?? ones,
    pads: a.pads ?? new Array<number>(2 * n).fill(0),
    autoPad: a.auto_pad ?? "NOTSET",
    ceilMode: a.ceil_mode ?? false,
  };
}
/**
 * Output size of a convolution or pool along axis `i`. NOTSET and VALID: (x + pads - ((k - 1) d + 1)) / s + 1, rounded down, or up under
 * ceil_mode without a window that begins in the end padding; SAME_*: ceil(x / s).
 */
export function windowDim(x: Dim, w: Window, i: number): Dim {
  const [k, s, d] = [w.kernel[i] ?? UNKNOWN, w.strides[i] ?? 1, w.dilations[i] ?? 1];
  if (w.autoPad.startsWith("SAME")) return ceilDiv(x, s);
  const half = w.pads.length / 2;
  const [before, after] = w.autoPad === "VALID" ? [0, 0] : [w.pads[i] ?? 0, w.pads[i + half] ?? 0];
  const span = sub(add(x, before + after), add(mul(sub(k, 1), d), 1));
  if (!w.ceilMode) return add(floorDiv(span, s), 1);
  const out = add(ceilDiv(span, s), 1);
  if (isStatic(out) && isStatic(x) && (out - 1) * s >= x + before) return out - 1;
  return isStatic(out) ? out : UNKNOWN;
}

/** MatMul's output shape by NumPy's rule; `null` when the operands certainly do not fit. */
export function matmulShape(a: Shape, b: Shape): Shape | null {
  if (a === undefined || b === undefined) return undefined;
  if (a.length === 0 || b.length === 0) return null;
  const [x, y] = [a.length === 1 ? [1, ...a] : a, b.length === 1 ? [...b, 1] : b];
  const [k1, k2] = [x[x.length - 1], y[y.length - 2]];
  if (isStatic(k1 ?? UNKNOWN) && isStatic(k2 ?? UNKNOWN) && k1 !== k2) return null;
  const batch = broadcast(x.slice(0, -2), y.slice(0, -2));
  if (batch === null || batch === undefined) return batch;
  return [...batch, ...(a.length === 1 ? [] : [x[x.length - 2] ?? UNKNOWN]), ...(b.length === 1 ? [] : [y[y.length - 1] ?? UNKNOWN])];
}

/** Shape after reducing `axes` (all when undefined). */
export function reducedShape(shape: Shape, axes: readonly number[] | undefined, keep: boolean): Shape {
  if (shape === undefined) return undefined;
  const all = axes === undefined ? shape.map((_, i) => i) : axesOf(axes, shape.length);
  if (all === undefined) return undefined;
  return keep ? shape.map((d, i) => (all.includes(i) ? 1 : d)) : shape.filter((_, i) => !all.includes(i));
}

/** Number of elements with unknown and symbolic dims counted as 1. */
export function count(f: Fact | { readonly type: Fact["type"] } | undefined): number {
  const s = f === undefined ? undefined : shapeOf(f as Fact);
  return s === undefined ? 1 : s.reduce<number>((a, d) => a * (isStatic(d) ? d : 1), 1);
}
const bytesPerElement: Readonly<Partial<Record<DType, number>>> = {
  float64: 8,
  int64: 8,
  uint64: 8,
  complex64: 8,
  complex128: 16,
  float16: 2,
  bfloat16: 2,
  int16: 2,
  uint16: 2,
  int8: 1,
  uint8: 1,
  bool: 1,
};
export function bytes(f: Fact | { readonly type: Fact["type"] } | undefined): number {
  if (f === undefined) return 0;
  const t = f.type;
  return t.kind === "tensor"
    ? count(f) *
        (t.dtype.includes("4") && !t.dtype.includes("64") ? 0.5 : t.dtype.startsWith("float8") ? 1 : (bytesPerElement[t.dtype] ?? 4))
    : 0;
}
/** Bytes of all operands once, plus the outputs. */
export function traffic(ins: object, outs: readonly Fact["type"][]): number {
  let total = 0;
  for (const v of Object.values(ins) as (Fact | undefined | readonly (Fact | undefined)[])[]) {
    if (Array.isArray(v)) for (const f of v as readonly (Fact | undefined)[]) total += bytes(f);
    else total += bytes(v as Fact | undefined);
  }
  for (const type of outs) total += bytes({ type });
  return total;
}
/** `perElement` operations for every element of the first output. */
export const perOutput =
  (perElement: number) =>
  (at: { readonly in: object; readonly out: readonly Fact["type"][] }): Cost => ({
    flops: perElement * (at.out[0] === undefined ? 0 : count({ type: at.out[0] })),
    bytes: traffic(at.in, at.out),
  });
/** Products and sums: a multiplication and an addition for each of `k` terms of every element of the first output. Unknown numbers of terms count as 1. */
export const perSum = (k: Dim | undefined): ReturnType<typeof perOutput> => perOutput(2 * (k !== undefined && isStatic(k) ? k : 1));
/** `a` times something: sums over a's last dim. */
export const matmulCost = (at: { readonly in: { readonly a: Fact }; readonly out: readonly Fact["type"][] }): Cost =>
  perSum(shapeOf(at.in.a)?.at(-1))(at);
/** `perElement` operations for every element of the first input. */
export const perInput =
  (perElement: number) =>
  (at: { readonly in: object; readonly out: readonly Fact["type"][] }): Cost => ({
    flops: perElement * count(Object.values(at.in)[0] as Fact | undefined),
    bytes: traffic(at.in, at.out),
  });
/** Bytes that change place, no arithmetic. */
export const moves = (at: { readonly in: object; readonly out: readonly Fact["type"][] }): Cost => ({
  flops: 0,
  bytes: traffic(at.in, at.out),
});
/** A view: nothing moves. */
export const free = (): Cost => ({ flops: 0, bytes: 0 });
