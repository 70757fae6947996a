/** Honest comparison of two tensors: the largest error, where it is, and both values. */
import { elementNumber } from "../../src/ir/numeric.js";
import type { TensorLike } from "../../src/tensor.js";

export interface Comparison {
  readonly ok: boolean;
  /** Largest absolute difference; Infinity when types, dims or non-finite values disagree. */
  readonly maxError: number;
  /** `maxError` over the largest finite magnitude of the expected tensor (1 when that is 0). */
  readonly relative: number;
  /** Flat index of the largest error. */
  readonly index: number;
  readonly message: string;
}

export interface Tolerance {
  /** Allowed error as a share of the largest expected magnitude. 0: equality. */
  readonly rtolOfMax?: number;
  /** Absolute floor, for tensors that are all near zero. */
  readonly atol?: number;
}

/** Integers, booleans and strings must be equal; floats within the tolerance; NaN equals NaN, infinities equal themselves. */
export function compareTensors(actual: TensorLike, expected: TensorLike, { rtolOfMax = 1e-5, atol = 1e-7 }: Tolerance = {}): Comparison {
  const bad = (message: string): Comparison => ({
    ok: false,
    maxError: Number.POSITIVE_INFINITY,
    relative: Number.POSITIVE_INFINITY,
    index: -1,
    message,
  });
  if (actual.type !== expected.type) return bad(`type ${actual.type}, expected ${expected.type}`);
  if (actual.dims.length !== expected.dims.length || actual.dims.some((d, i) => d !== expected.dims[i]))
    return bad(`dims [${actual.dims}], expected [${expected.dims}]`);
  const isFloat = /^b?float/.test(expected.type);
  const read = (t: TensorLike, i: number): number | bigint | string => {
    const x = t.data[i] as number | bigint | string;
    return (t.type === "float16" || t.type === "bfloat16") && t.data instanceof Uint16Array ? elementNumber(t.type, x) : x;
  };
  let maxError = 0;
  let index = -1;
  let scale = 0;
  for (let i = 0; i < expected.data.length; i++) {
    const [a, e] = [read(actual, i), read(expected, i)];
    if (!isFloat) {
      if (a !== e) return { ...bad(`element ${i} is ${a}, expected ${e}`), index: i };
      continue;
    }
    const [x, y] = [Number(a), Number(e)];
    if (Number.isFinite(y)) scale = Math.max(scale, Math.abs(y));
    const error = Object.is(x, y) || x === y || (Number.isNaN(x) && Number.isNaN(y)) ? 0 : Math.abs(x - y);
    if (Number.isNaN(error)) return { ...bad(`element ${i} is ${x}, expected ${y}`), index: i };
    if (error > maxError) [maxError, index] = [error, i];
  }
  const limit = rtolOfMax === 0 ? 0 : Math.max(rtolOfMax * scale, atol);
  const relative = maxError / (scale === 0 ? 1 : scale);
  const at = index < 0 ? "" : ` at ${index}: ${read(actual, index)}, expected ${read(expected, index)}`;
  return {
    ok: maxError <= limit,
    maxError,
    relative,
    index,
    message: `max error ${maxError} (${relative} of the largest value)${at}; limit ${limit}`,
  };
}
