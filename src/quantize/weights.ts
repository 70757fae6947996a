/** Weights and biases as integers: symmetric, per output channel, in [-127, 127]; biases as int32 at the scale of the sums. */
import { makeConstant } from "../ir/payload.js";
import type { Constant } from "../ir/types.js";
import { floats } from "../passes/weights.js";
import { roundHalfEven } from "./arithmetic.js";

/** Weights never reach -128, so that a sum of products cannot leave the symmetric range that engines assume. */
const MOST = 127;
/** No scale is below this: a channel of zeros has one, and its product with an activation's stays a normal float32. */
export const LEAST_SCALE = 2 ** -60;
/** Biases stay below this, so that the sums of products beside them have room in an int32. */
const MOST_BIAS = 2 ** 30;

export interface IntegerWeight {
  /** int8, of the weight's dims. */
  readonly steps: Constant;
  /** One per index of `axis`, or a single one where there is no axis. */
  readonly scales: Float32Array;
  /** int32, where there is a bias: its scale is fl(xScale * scales[k]). */
  readonly bias: Constant | undefined;
}
export interface WeightLayout {
  /** The axis of output channels; undefined: one scale for all. */
  readonly axis: number | undefined;
  /** The scale of the activation that the weight multiplies. */
  readonly xScale: number;
  /** float32, per output channel; its k-th entry belongs to scale k modulo their number (groups of a ConvTranspose share scales). */
  readonly bias?: Float32Array | undefined;
}

/** Largest magnitudes along an axis, or of all elements. NaN does not count. */
export function channelMaxima(values: Float32Array, dims: readonly number[], axis: number | undefined): Float64Array {
  const channels = axis === undefined ? 1 : (dims[axis] ?? 1);
  const inner = axis === undefined ? values.length : dims.slice(axis + 1).reduce((a, b) => a * b, 1);
  const most = new Float64Array(channels);
  for (let i = 0, c = 0; i < values.length; c = (c + 1) % channels)
    for (const end = i + inner; i < end; i++) {
      const x = Math.abs(values[i] as number);
      if (x > (most[c] as number)) most[c] = x;
    }
  return most;
}

/**
 * A constant float32 weight as integers: scale = max|w| / 127 per channel, half to even. A scale is enlarged where the bias at
 * fl(xScale * scale) would leave 2^30, and never below `LEAST_SCALE`. Undefined when the constant is not dense float32, or not finite.
 */
export function integerWeight(weight: Constant, layout: WeightLayout): IntegerWeight | undefined {
  const values = floats(weight);
  if (values === undefined) return undefined;
  const { axis, xScale, bias } = layout;
  const maxima = channelMaxima(values, weight.dims, axis);
  bias?.forEach((b, k) => {
    const c = k % maxima.length;
    maxima[c] = Math.max(maxima[c] as number, (Math.abs(b) / (xScale * MOST_BIAS)) * MOST);
  });
  const scales = Float32Array.from(maxima, (m) => Math.max(m / MOST, LEAST_SCALE));
  if (!scales.every(Number.isFinite) || values.some(Number.isNaN) || bias?.every(Number.isFinite) === false) return undefined;
  const inner = axis === undefined ? values.length : weight.dims.slice(axis + 1).reduce((a, b) => a * b, 1);
  const steps = new Int8Array(values.length);
  for (let i = 0, c = 0; i < values.length; c = (c + 1) % scales.length) {
    const s = scales[c] as number;
    for (const end = i + inner; i < end; i++)
      steps[i] = Math.max(-MOST, Math.min(MOST, roundHalfEven(Math.fround((values[i] as number) / s))));
  }
  return {
    steps: { dtype: "int8", dims: weight.dims, data: { kind: "bytes", bytes: new Uint8Array(steps.buffer) } },
    scales,
    bias: bias === undefined ? undefined : integerBias(bias, scales, xScale),
  };
}
/** A bias in steps of fl(xScale * scales[k]), k modulo the number of scales. */
export function integerBias(bias: Float32Array, scales: Float32Array, xScale: number): Constant {
  const steps = Array.from(bias, (b, k) => roundHalfEven(b / Math.fround(xScale * (scales[k % scales.length] as number))));
  return makeConstant("int32", [bias.length], steps);
}
/** The scale of an activation whose magnitudes reach `amax`. One that calibration saw as zeros alone gets steps of 1 / 127. */
export const activationScale = (amax: number): number => Math.max(Math.fround((amax > 0 ? amax : 1) / MOST), LEAST_SCALE);
