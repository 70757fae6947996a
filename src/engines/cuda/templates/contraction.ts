/** The common form behind products and convolutions: what rows of A and B are, as loader types and offset functions of the templates. */
import { type ConvProblem, convDepth, convRows, elementBytes, type GemmProblem, type Operand, type Precision } from "./problem.js";
import type { Constants } from "./text.js";

/** How one operand's tile is fetched. */
export interface Side {
  /** Chunks run along k (true) or along the rows. */
  readonly alongK: boolean;
  /** Elements a chunk holds. */
  readonly vector: number;
  /** `Source` type of loaders.cu for a chunk of `vector` elements. */
  source(vector: number): string;
  /** Body of `long long offset(int batch)`. */
  readonly offset: string;
}

/** One product per batch element (or group), ready for a template. */
export interface Contraction {
  readonly M: number;
  readonly N: number;
  readonly K: number;
  readonly batches: number;
  readonly dtype: Precision;
  readonly a: Side;
  readonly b: Side;
  /** Columns of the result per batch step, when batches are the groups of a convolution; 0 otherwise. */
  readonly nBase: number;
  /** True when A is the windows of a convolution, whose state costs registers. */
  readonly windows: boolean;
  /** Further constants of the source. */
  readonly constants: Constants;
  /** Declarations before the loaders' types. */
  readonly declarations: string;
}

const product = (values: readonly number[]) => values.reduce((a, b) => a * b, 1);

/** Largest chunk of 16, 8, 4, ... bytes that all of the given distances (elements) and the alignment allow, in elements. */
export function chunkElements(bytes: number, align: number, distances: readonly number[]): number {
  for (let size = 16; size > bytes; size /= 2)
    if (align % size === 0 && distances.every((d) => (d * bytes) % size === 0)) return size / bytes;
  return 1;
}

/** The element offset of batch index `b` as a C expression: row-major digits times strides. */
function batchOffset(batch: readonly number[], strides: readonly number[] | undefined): string {
  const terms: string[] = [];
  let below = 1;
  for (let i = batch.length - 1; i >= 0; i--) {
    const extent = batch[i] ?? 1;
    const stride = strides?.[i] ?? 0;
    if (extent > 1 && stride !== 0) {
      const shifted = below === 1 ? "batch" : `batch / ${below}`;
      const digit = product(batch.slice(0, i)) === 1 ? shifted : `${below === 1 ? shifted : `(${shifted})`} % ${extent}`;
      terms.unshift(`${below === 1 && digit === "batch" ? "batch" : `(${digit})`} * ${stride}LL`);
    }
    below *= extent;
  }
  return terms.length === 0 ? "0" : terms.join(" + ");
}

function matrixSide(o: Operand, rows: number, depth: number, batch: readonly number[], dtype: Precision): Side {
  const bytes = elementBytes[dtype];
  const batchStrides = batch.flatMap((extent, i) => (extent > 1 ? [o.batchStride?.[i] ?? 0] : []));
  const align = o.align ?? 16;
  const along = (unit: number, other: number, otherExtent: number) =>
    unit === 1 ? chunkElements(bytes, align, [...(otherExtent > 1 ? [other] : []), ...batchStrides]) : 1;
  const k = along(depth > 1 ? o.colStride : 1, o.rowStride, rows);
  const r = along(rows > 1 ? o.rowStride : 1, o.colStride, depth);
  // The contiguous direction; k when both or neither are.
  const alongK = o.colStride === 1 || depth === 1 ? !(rows > 1 && o.rowStride === 1 && r > k) : o.rowStride !== 1 || rows === 1;
  return {
    alongK,
    vector: alongK ? k : r,
    source: (vector) => `${alongK ? "AlongK" : "AlongRows"}<${vector}, ${rows}, ${o.rowStride}, ${o.colStride}>`,
    offset: batchOffset(batch, o.batchStride),
  };
}

/** A matrix product as a contraction. */
export function gemmContraction(p: GemmProblem): Contraction {
  const { M, N, K, batch, dtype } = p;
  return {
    M,
    N,
    K,
    batches: product(batch),
    dtype,
    a: matrixSide(p.a, M, K, batch, dtype),
    b: matrixSide(p.b, N, K, batch, dtype),
    nBase: 0,
    windows: false,
    constants: {},
    declarations: "",
  };
}

/** True when the convolution is a product of the input as it lies: 1x1, no padding, stride 1. */
export function isPointwise(p: ConvProblem): boolean {
  const { d, t, o } = p.depth ?? { d: 1, t: 1, o: 1 };
  return (
    p.lineStride === undefined &&
    t * p.r * p.s === 1 &&
    p.pad.every((v) => v === 0) &&
    p.stride.every((v) => v === 1) &&
    p.p === p.h &&
    p.q === p.w &&
    o === d
  );
}

/** A convolution as a contraction; groups are batches. */
export function convContraction(p: ConvProblem): Contraction {
  const { dtype, groups } = p;
  const bytes = elementBytes[dtype];
  const K = convDepth(p);
  const channels = p.c / groups;
  const N = p.k / groups;
  const pixel = p.pixelStride ?? p.c;
  const weightStride = p.weightStride ?? K;
  const batch = groups > 1 ? [groups] : [];
  const weights: Operand = { rowStride: weightStride, colStride: 1, batchStride: [N * weightStride] };
  const b = matrixSide(weights, N, K, batch, dtype);
  const common = { M: convRows(p), N, K, batches: groups, dtype, b, nBase: groups > 1 ? N : 0 };
  if (isPointwise(p)) {
    const input: Operand = { rowStride: pixel, colStride: 1, batchStride: [channels], align: p.align };
    return { ...common, a: matrixSide(input, common.M, K, batch, dtype), windows: false, constants: {}, declarations: "" };
  }
  const three = (v: readonly number[], fill: number): readonly number[] => (v.length === 2 ? [fill, ...v] : v);
  const [strideD = 1, strideH = 1, strideW = 1] = three(p.stride, 1);
  const [dilationD = 1, dilationH = 1, dilationW = 1] = three(p.dilation, 1);
  const [padD = 0, padH = 0, padW = 0] = three(p.pad, 0);
  const { d, t, o } = p.depth ?? { d: 1, t: 1, o: 1 };
  const line = p.lineStride ?? p.w * pixel;
  const wide = p.n * d * p.h * line > 0x7fffffff;
  return {
    ...common,
    a: {
      alongK: true,
      vector: chunkElements(bytes, p.align ?? 16, [channels, pixel, line]),
      source: (vector) => `Windows<${vector}>`,
      offset: groups > 1 ? `batch * ${channels}` : "0",
    },
    windows: true,
    constants: {
      C: channels,
      X_D: d,
      X_H: p.h,
      X_W: p.w,
      X_C: pixel,
      X_LINE: line,
      FILTER_T: t,
      FILTER_R: p.r,
      FILTER_S: p.s,
      OUT_D: o,
      OUT_H: p.p,
      OUT_W: p.q,
      STRIDE_D: strideD,
      STRIDE_H: strideH,
      STRIDE_W: strideW,
      PAD_D: padD,
      PAD_H: padH,
      PAD_W: padW,
      DILATION_D: dilationD,
      DILATION_H: dilationH,
      DILATION_W: dilationW,
    },
    declarations: `using Offset = ${wide ? "long long" : "int"};`,
  };
}
