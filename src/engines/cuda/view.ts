/** A tensor in device memory: logical dims over a buffer by strides, so that transposes, slices and layouts cost nothing. */
import type { DType } from "../../ir/types.js";

/** Names a buffer before memory is planned: a materialised value, a packed copy, a weight, a port. */
export type BufferName = string;

export interface View {
  readonly buffer: BufferName;
  readonly dtype: DType;
  readonly dims: readonly number[];
  /** In elements; 0 along broadcast dims. */
  readonly strides: readonly number[];
  /** In elements. */
  readonly offset: number;
}

/** Strides that put dims in this order, the last fastest. */
export function stridesOf(dims: readonly number[], order: readonly number[]): readonly number[] {
  const strides = new Array<number>(dims.length).fill(0);
  let step = 1;
  for (const d of [...order].reverse()) {
    strides[d] = step;
    step *= dims[d] as number;
  }
  return strides;
}
export const channelsLast = (rank: number): readonly number[] => [0, ...Array.from({ length: rank - 2 }, (_, i) => i + 2), 1];
export const naturalOrder = (rank: number): readonly number[] => Array.from({ length: rank }, (_, i) => i);
