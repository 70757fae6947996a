/** Seeded feeds, and measures of error between tensors. */
import { defineError } from "../diagnostics.js";
import { elementNumber, numberToBfloat16, numberToHalf } from "../ir/numeric.js";
import { isTensorDType, Tensor, type TensorLike, typedArrayOf } from "../tensor.js";
import type { Port } from "./ports.js";

/** A small, seeded generator (mulberry32): the same feeds everywhere. */
export function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Bytes that seeded feeds may have together: as much as one buffer of Node.js holds. */
const MOST_BYTES = 2 ** 32;
export const tooManyFeeds = defineError<{ bytes: number }>(
  "P3111",
  "random feeds would be too large",
  ({ bytes }) => ({
    what: `the inputs would hold ${(bytes / 2 ** 30).toFixed(1)} GiB`,
    fix: "give smaller dims (--batch), or feeds of your own (--input)",
  }),
  2,
);

/** Feeds drawn from [-1, 1) (integers: 0 or 1), dynamic dims set to `size`. Throws P3111. */
export function randomFeeds(inputs: readonly Port[], size: number, seed = 1): Record<string, Tensor> {
  const next = generator(seed);
  const feeds: Record<string, Tensor> = {};
  let bytes = 0;
  for (const p of inputs) {
    const dims = (p.dims ?? []).map((d) => (typeof d === "number" ? d : size));
    const count = dims.reduce((a, d) => a * d, 1);
    if (!isTensorDType(p.type)) continue;
    bytes += count * (p.type === "string" ? 8 : typedArrayOf(p.type).BYTES_PER_ELEMENT);
    if (bytes > MOST_BYTES) throw tooManyFeeds({ bytes });
    if (p.type === "string") feeds[p.name] = new Tensor("string", new Array<string>(count).fill(""), dims);
    else {
      const data = new (typedArrayOf(p.type))(count);
      for (let i = 0; i < count; i++) {
        const x = next();
        (data as Record<number, number | bigint>)[i] =
          p.type === "int64" || p.type === "uint64"
            ? BigInt(Math.round(x))
            : p.type === "float16"
              ? numberToHalf(2 * x - 1)
              : p.type === "bfloat16"
                ? numberToBfloat16(2 * x - 1)
                : p.type.startsWith("float")
                  ? 2 * x - 1
                  : Math.round(x);
      }
      feeds[p.name] = new Tensor(p.type, data as never, dims);
    }
  }
  return feeds;
}

export interface Measured {
  /** Largest absolute difference; Infinity when types or dims differ. */
  readonly maxError: number;
  /** `maxError` over the largest finite magnitude expected. */
  readonly relative: number;
  readonly index: number;
  readonly actual: string;
  readonly expected: string;
  /** 20 log10(|x| / |x - y|) over the tensor, decibel. */
  readonly sqnrDb: number;
}
export function measure(actual: TensorLike | undefined, expected: TensorLike): Measured {
  const worst = Number.POSITIVE_INFINITY;
  if (actual === undefined || actual.type !== expected.type || actual.dims.join() !== expected.dims.join())
    return {
      maxError: worst,
      relative: worst,
      index: -1,
      actual: actual === undefined ? "nothing" : `${actual.type}[${actual.dims}]`,
      expected: `${expected.type}[${expected.dims}]`,
      sqnrDb: Number.NEGATIVE_INFINITY,
    };
  const value = (t: TensorLike, i: number): number => elementNumber(t.type, t.data[i]);
  let [maxError, index, scale, signal, noise] = [0, 0, 0, 0, 0];
  for (let i = 0; i < expected.data.length; i++) {
    if (expected.type === "string" ? actual.data[i] === expected.data[i] : Object.is(value(actual, i), value(expected, i))) {
      const x = value(expected, i);
      if (Number.isFinite(x)) [scale, signal] = [Math.max(scale, Math.abs(x)), signal + x * x];
      continue;
    }
    const [x, y] = [value(actual, i), value(expected, i)];
    const error = Math.abs(x - y);
    if (Number.isFinite(y)) [scale, signal] = [Math.max(scale, Math.abs(y)), signal + y * y];
    noise += error * error;
    if (!(error <= maxError)) [maxError, index] = [Number.isNaN(error) ? worst : error, i];
  }
  return {
    maxError,
    relative: maxError === 0 ? 0 : maxError / (scale === 0 ? 1 : scale),
    index,
    actual: String(actual.data[index]),
    expected: String(expected.data[index]),
    sqnrDb: noise === 0 ? worst : 10 * Math.log10(signal / noise),
  };
}
