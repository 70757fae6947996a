/** What a node's weights look like: figures over a sample, so that a report of gigabytes of weights costs milliseconds. */

import { elementNumber } from "../ir/numeric.js";
import { bytesOf, typedOf } from "../ir/payload.js";
import type { Constant } from "../ir/types.js";

/** Over the first elements of a constant, `sampled` of them. Numbers are rounded to six digits. */
export interface WeightFigures {
  readonly min: number;
  readonly max: number;
  readonly mean: number;
  readonly std: number;
  /** Share of exact zeros. */
  readonly zeros: number;
  readonly sampled: number;
}
const SAMPLE = 16_384;
const WIDTH: Readonly<Record<string, number>> = { float32: 4, float64: 8, float16: 2, int8: 1, uint8: 1, int32: 4 };

/** Undefined for element types that have no figures worth showing, and for scalars. */
export function weightFigures(c: Constant): WeightFigures | undefined {
  const width = WIDTH[c.dtype];
  const count = c.dims.reduce((a, d) => a * d, 1);
  if (width === undefined || count < 2) return undefined;
  const sampled = Math.min(SAMPLE, count);
  let numbers: ArrayLike<number | bigint>;
  const { data } = c;
  if (data.kind === "bytes")
    numbers = typedOf({ ...c, dims: [sampled], data: { kind: "bytes", bytes: data.bytes.subarray(0, sampled * width) } });
  else if (data.kind === "file") numbers = typedOf({ ...c, dims: [sampled], data: { ...data, length: sampled * width } });
  else if (data.kind === "lazy" && data.length <= 4 * 2 ** 20) numbers = typedOf({ ...c, data: { kind: "bytes", bytes: bytesOf(c) } });
  else return undefined;
  let [min, max, sum, squares, zeros] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 0, 0, 0];
  for (let i = 0; i < sampled; i++) {
    const x = elementNumber(c.dtype, numbers[i]);
    if (x < min) min = x;
    if (x > max) max = x;
    if (x === 0) zeros++;
    sum += x;
    squares += x * x;
  }
  const mean = sum / sampled;
  const all = { min, max, mean, std: Math.sqrt(Math.max(0, squares / sampled - mean * mean)), zeros: zeros / sampled, sampled };
  // Weights with infinities or NaN have no figures that JSON can hold.
  if (!Object.values(all).every(Number.isFinite)) return undefined;
  return { ...all, min: short(min), max: short(max), mean: short(all.mean), std: short(all.std), zeros: short(all.zeros) };
}
const short = (x: number): number => Number(x.toPrecision(6));
