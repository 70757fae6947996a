/** Matrix products and convolutions as the templates take them, with every dimension known. */

/** Element types of the operands. f16, bf16 and tf32 accumulate in FP32 on the matrix units, f32 is FP32 throughout, s8 accumulates in int32. */
export type Precision = "f16" | "bf16" | "tf32" | "f32" | "s8";

/** A matrix in memory; strides in elements. */
export interface Operand {
  /** From one row (m of A, n of B) to the next. */
  readonly rowStride: number;
  /** From one k to the next. */
  readonly colStride: number;
  /** One stride per entry of the problem's `batch`; 0 shares the operand. Absent: 0 throughout. */
  readonly batchStride?: readonly number[] | undefined;
  /** Bytes the address is known to be a multiple of; 16 when absent. */
  readonly align?: number | undefined;
}

/** out[b, m, n] = epilogue(sum over k of A[b, m, k] * B[b, n, k]). */
export interface GemmProblem {
  readonly M: number;
  readonly N: number;
  readonly K: number;
  /** Batch dims, outermost first; none or [1] for one product. The epilogue's b counts them row-major. */
  readonly batch: readonly number[];
  readonly dtype: Precision;
  readonly a: Operand;
  /** [N, K]: rows are output columns. */
  readonly b: Operand;
}

/**
 * Convolution of a channels-last input (N[D]HWC) with weights [K, [T,] R, S, C / groups]. Row m of the result is output position
 * ((n*O + o)*P + p)*Q + q, column is the output channel over all groups; the epilogue's b is 0.
 */
export interface ConvProblem {
  readonly n: number;
  readonly h: number;
  readonly w: number;
  /** Input channels over all groups. */
  readonly c: number;
  /** Output channels over all groups. */
  readonly k: number;
  /** Filter rows and columns. */
  readonly r: number;
  readonly s: number;
  /** Output rows and columns. */
  readonly p: number;
  readonly q: number;
  /** [rows, columns] or [depth, rows, columns]. */
  readonly stride: readonly number[];
  readonly dilation: readonly number[];
  /** Leading pads alone; the trailing ones follow from p and q. */
  readonly pad: readonly number[];
  readonly groups: number;
  readonly dtype: Precision;
  /** Input depth, filter depth, output depth of a 3-D convolution. */
  readonly depth?: { readonly d: number; readonly t: number; readonly o: number } | undefined;
  /** Elements from one output channel's weights to the next; T*R*S*C/groups when absent. More lets odd rows start aligned. */
  readonly weightStride?: number | undefined;
  /** Elements from one pixel to the next; c when absent. More reads channels of a wider tensor. */
  readonly pixelStride?: number | undefined;
  /** Elements from one input row to the next; w * pixelStride when absent. Less than that lets neighbouring pixels overlap, as runs of taps do. */
  readonly lineStride?: number | undefined;
  /** Bytes the input's address is known to be a multiple of; 16 when absent. */
  readonly align?: number | undefined;
}

export const elementBytes: Readonly<Record<Precision, 1 | 2 | 4>> = { f16: 2, bf16: 2, tf32: 4, f32: 4, s8: 1 };
export const precisionIndex: Readonly<Record<Precision, number>> = { f16: 0, bf16: 1, tf32: 2, f32: 3, s8: 4 };
export const storageType: Readonly<Record<Precision, string>> = {
  f16: "unsigned short",
  bf16: "unsigned short",
  tf32: "float",
  f32: "float",
  s8: "signed char",
};

/** Floating-point (or integer) operations of a product: a multiplication and an addition per step. */
export const gemmFlops = (p: GemmProblem): number => 2 * p.M * p.N * p.K * p.batch.reduce((a, b) => a * b, 1);
export const convFlops = (p: ConvProblem): number => 2 * convRows(p) * p.k * convDepth(p);

/** Rows of the implicit product: output positions. */
export const convRows = (p: ConvProblem): number => p.n * (p.depth?.o ?? 1) * p.p * p.q;
/** Its k: filter taps times channels of a group. */
export const convDepth = (p: ConvProblem): number => ((p.depth?.t ?? 1) * p.r * p.s * p.c) / p.groups;
