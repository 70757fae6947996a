/** Matrix products and convolutions as problems for the templates: which dims are rows, columns and batches, and how operands lie in memory. */

import { operand, output, type Site } from "./site.js";
import type { ConvProblem, GemmProblem, Operand, Precision } from "./templates/index.js";
import type { View } from "./view.js";
import { windowOf } from "./windows.js";

/** The template's element type for operands that are stored as this view is. */
export function precisionOf(view: Pick<View, "dtype">, asked: string): Precision | undefined {
  switch (view.dtype) {
    case "float16":
      return "f16";
    case "bfloat16":
      return "bf16";
    case "int8":
      return "s8";
    case "float32":
      return asked === "tf32" ? "tf32" : "f32";
    default:
      return undefined;
  }
}

/** A product over views of A [..., M, K] and B [..., K, N], batch dims broadcast. */
export interface Product {
  readonly problem: GemmProblem;
  /** Dims of the result that the problem's rows stand for, from the left: batch dims joined into M included. */
  readonly rowDims: readonly number[];
  readonly batchDims: readonly number[];
  readonly columnDims: readonly number[];
}

interface Matrix {
  readonly batch: readonly number[];
  readonly batchStrides: readonly number[];
  readonly row: number;
  readonly rowStride: number;
  readonly depth: number;
  readonly depthStride: number;
}
function matrix(v: View, rows: number, depth: number): Matrix {
  const outer = v.dims.map((_, i) => i).filter((i) => i !== rows && i !== depth);
  return {
    batch: outer.map((i) => v.dims[i] as number),
    batchStrides: outer.map((i) => v.strides[i] as number),
    row: v.dims[rows] as number,
    rowStride: v.strides[rows] as number,
    depth: v.dims[depth] as number,
    depthStride: v.strides[depth] as number,
  };
}
/** Powers of two that an address of this view is sure to be a multiple of, bytes: buffers begin at multiples of 256. */
const alignment = (v: View, bytes: number): number => {
  let a = 16;
  while (a > 1 && (v.offset * bytes) % a !== 0) a /= 2;
  return a;
};

export function matmul(a: View, b: View, dtype: Precision): Product | undefined {
  if (a.dims.length < 2 || b.dims.length < 2) return undefined;
  const left = matrix(a, a.dims.length - 2, a.dims.length - 1);
  const right = matrix(b, b.dims.length - 1, b.dims.length - 2);
  return contraction(left, right, dtype, alignment(a, bytesOf(dtype)), alignment(b, bytesOf(dtype)));
}
const bytesOf = (p: Precision): number => (p === "f16" || p === "bf16" ? 2 : p === "s8" ? 1 : 4);

export function gemm(s: Site, a: View, b: View, dtype: Precision): Product | undefined {
  const left = s.attrs.transA ? matrix(a, 1, 0) : matrix(a, 0, 1);
  const right = s.attrs.transB ? matrix(b, 0, 1) : matrix(b, 1, 0);
  return contraction(left, right, dtype, alignment(a, bytesOf(dtype)), alignment(b, bytesOf(dtype)));
}

function contraction(left: Matrix, right: Matrix, dtype: Precision, alignA: number, alignB: number): Product {
  const rank = Math.max(left.batch.length, right.batch.length);
  const widen = (m: Matrix): { dims: readonly number[]; strides: readonly number[] } => ({
    dims: [...new Array<number>(rank - m.batch.length).fill(1), ...m.batch],
    strides: [...new Array<number>(rank - m.batch.length).fill(0), ...m.batchStrides],
  });
  const [l, r] = [widen(left), widen(right)];
  const batch = l.dims.map((d, i) => Math.max(d, r.dims[i] as number) * (d === 0 || r.dims[i] === 0 ? 0 : 1));
  const strides = (w: typeof l): readonly number[] => w.dims.map((d, i) => (d === 1 ? 0 : (w.strides[i] as number)));
  const [sa, sb] = [strides(l), strides(r)];
  // Batch dims of A alone whose rows follow one another are more rows.
  const rowDims = [left.row];
  let rowStride = left.rowStride;
  let rows = left.row;
  let kept = batch.length;
  while (kept > 0) {
    const i = kept - 1;
    const [d, st] = [batch[i] as number, sa[i] as number];
    const shared = d === 1 || (sb[i] === 0 && ((l.dims[i] === d && st === rows * rowStride) || rows === 1));
    if (!shared) break;
    if (rows === 1 && d > 1) rowStride = st;
    rows *= d;
    rowDims.unshift(d);
    kept--;
  }
  const operandOf = (m: Matrix, batchStride: readonly number[], stride: number, align: number): Operand => ({
    rowStride: stride,
    colStride: m.depthStride,
    batchStride: batchStride.slice(0, kept),
    align,
  });
  return {
    problem: {
      M: rows,
      N: right.row,
      K: left.depth,
      batch: batch.slice(0, kept),
      dtype,
      a: operandOf(left, sa, rowStride, alignA),
      b: operandOf(right, sb, right.rowStride, alignB),
    },
    rowDims,
    batchDims: batch.slice(0, kept),
    columnDims: [right.row],
  };
}

/** A convolution over a channels-last view of the input; undefined when the view is no dense channels-last tensor. */
export function conv(s: Site, x: View, dtype: Precision): ConvProblem | undefined {
  const [w, y] = [operand(s, 1), output(s)];
  const n = x.dims.length - 2;
  if (n < 1 || n > 3) return undefined;
  const window = windowOf(s, x, y, w.dims.slice(2));
  const pixel = x.strides[n + 1] as number;
  if (x.strides[1] !== 1 && x.dims[1] !== 1) return undefined;
  let step = pixel;
  for (let i = n + 1; i >= 2; i--) {
    if (x.dims[i] !== 1 && x.strides[i] !== step) return undefined;
    step *= x.dims[i] as number;
  }
  if (x.dims[0] !== 1 && x.strides[0] !== step) return undefined;
  const flat = n === 1;
  const at = (list: readonly number[], i: number, otherwise: number): number =>
    flat && i === 0 ? otherwise : (list[flat ? 0 : list.length - 2 + i] as number);
  const pair = (list: readonly number[], otherwise: number): readonly number[] =>
    n === 3 ? list : [at(list, 0, otherwise), flat ? (list[0] as number) : (list[1] as number)];
  const [h, wd] = flat ? [1, x.dims[2] as number] : [x.dims[n] as number, x.dims[n + 1] as number];
  const [p, q] = flat ? [1, y.dims[2] as number] : [y.dims[n] as number, y.dims[n + 1] as number];
  const [r, t] = flat ? [1, w.dims[2] as number] : [w.dims[n] as number, w.dims[n + 1] as number];
  return {
    n: x.dims[0] as number,
    h,
    w: wd,
    c: x.dims[1] as number,
    k: y.dims[1] as number,
    r,
    s: t,
    p,
    q,
    stride: pair(window.strides, 1),
    dilation: pair(window.dilations, 1),
    pad: pair(window.begin, 0),
    groups: s.attrs.group,
    dtype,
    ...(n === 3 ? { depth: { d: x.dims[2] as number, t: w.dims[2] as number, o: y.dims[2] as number } } : {}),
    pixelStride: pixel,
    align: alignment(x, bytesOf(dtype)),
  };
}
