/**
 * From a tensor's histogram to the magnitude that stays unclipped: max, percentiles, entropy and MSE. Prefix sums make one candidate cost
 * as many steps as there are quantization levels, whatever the number of bins.
 */
import { absmaxOf, BINS, type Histogram, type Observation } from "./histogram.js";
import type { RangeMethod } from "./types.js";

/** Every method, in the order of reports. */
export const RANGE_METHODS: readonly RangeMethod[] = [
  "max",
  "percentile-99.9",
  "percentile-99.99",
  "percentile-99.999",
  "percentile-99.9999",
  "entropy",
  "mse",
];

/** Positive levels of symmetric INT8; the scale is amax / 127. */
const LEVELS = 127;
/** Magnitudes that NVIDIA's entropy calibration merges bins into. */
const ENTROPY_LEVELS = 128;

/**
 * The largest magnitude that a method leaves unclipped: in (0, absmax], or 0 for a tensor that held only zeros or nothing finite (a caller
 * floors the scale).
 */
export function amaxOf(o: Observation, method: RangeMethod): number {
  const absmax = absmaxOf(o);
  if (absmax === 0) return 0;
  switch (method) {
    case "max":
      return absmax;
    case "percentile-99.9":
    case "percentile-99.99":
    case "percentile-99.999":
    case "percentile-99.9999":
      return Math.min(absmax, percentile(o, Number(method.slice("percentile-".length))));
    case "entropy":
      return Math.min(absmax, entropy(o.histogram));
    case "mse":
      return Math.min(absmax, meanSquares(o));
    default:
      return method satisfies never;
  }
}

/** Share of the finite elements that a range clips: those in bins that lie wholly above `amax`, and the part of its bin above it. */
export function clippedShare(o: Observation, amax: number): number {
  if (o.count === 0 || amax >= absmaxOf(o)) return 0;
  const { exponent, counts } = o.histogram;
  const at = amax / 2 ** exponent;
  const b = Math.min(BINS - 1, Math.floor(at));
  let above = (counts[b] as number) * (1 - (at - b));
  for (let i = b + 1; i < BINS; i++) above += counts[i] as number;
  return above / o.count;
}

/** Where `percent` of the magnitudes lie below, linear within a bin. */
function percentile(o: Observation, percent: number): number {
  const { exponent, counts } = o.histogram;
  const wanted = (percent / 100) * o.count;
  let below = 0;
  for (let b = 0; b < BINS; b++) {
    const n = counts[b] as number;
    if (n > 0 && below + n >= wanted) return (b + (wanted - below) / n) * 2 ** exponent;
    below += n;
  }
  return absmaxOf(o);
}

/**
 * The threshold of least KL divergence, after S. Migacz, "8-bit inference with TensorRT", GTC 2017. The histogram is read in bins of
 * 2^(e+1), of which 1025 to 2048 hold something (2048 there). h[0] becomes h[1]: a ReLU's zeros would drown the rest. For every i from 128
 * to the number of bins: P is h[0..i) with all above added to its last bin; Q is h[0..i) merged into 128 levels, level j holding bins
 * floor(j i / 128) to floor((j + 1) i / 128), each level's mass spread evenly over those of its bins that P does not leave empty. The last
 * i with the least KL(P || Q) gives (i + 0.5) bin widths.
 *
 * Within a level log Q is constant, so the divergence of one i is 128 terms over prefix sums of h, of non-empty bins and of h log h.
 */
function entropy(histogram: Histogram): number {
  const h = new Float64Array(BINS / 2);
  for (let b = 0; b < h.length; b++) h[b] = (histogram.counts[2 * b] as number) + (histogram.counts[2 * b + 1] as number);
  h[0] = h[1] as number;
  const width = 2 ** (histogram.exponent + 1);
  let used = h.length;
  while (used > 0 && h[used - 1] === 0) used--;
  const [mass, filled, self] = [new Float64Array(used + 1), new Float64Array(used + 1), new Float64Array(used + 1)];
  for (let b = 0; b < used; b++) {
    const n = h[b] as number;
    mass[b + 1] = (mass[b] as number) + n;
    filled[b + 1] = (filled[b] as number) + (n > 0 ? 1 : 0);
    self[b + 1] = (self[b] as number) + (n > 0 ? n * Math.log(n) : 0);
  }
  const total = mass[used] as number;
  let best = used;
  let least = Number.POSITIVE_INFINITY;
  for (let i = ENTROPY_LEVELS; i <= used; i++) {
    const inside = mass[i] as number;
    const tail = total - inside;
    const last = h[i - 1] as number;
    // Sum of P log P, times the total, with the tail in the last bin.
    let divergence =
      (self[i] as number) - (last > 0 ? last * Math.log(last) : 0) + (last + tail > 0 ? (last + tail) * Math.log(last + tail) : 0);
    let from = 0;
    for (let j = 1; j <= ENTROPY_LEVELS; j++) {
      const to = Math.floor((j * i) / ENTROPY_LEVELS);
      const m = (mass[to] as number) - (mass[from] as number);
      let bins = (filled[to] as number) - (filled[from] as number);
      let weight = m;
      if (j === ENTROPY_LEVELS) {
        if (last === 0 && tail > 0) bins++;
        weight += tail;
      }
      if (weight > 0) divergence -= m > 0 ? weight * Math.log(m / bins) : Number.NEGATIVE_INFINITY;
      from = to;
    }
    // KL = (divergence + total log inside - total log total) / total.
    const kl = divergence / total + Math.log(inside / total);
    if (kl <= least) [least, best] = [kl, i];
  }
  return (best + 0.5) * width;
}

/**
 * The threshold of least squared error: over every i from 128 bins to those in use, the sum over bins of h_b (c_b - FQ_i(c_b))^2, c_b the
 * bin's centre (0 for zeros), FQ_i rounding to the nearest multiple of s = i / 127 bins and clamping at 127 s. Per level that is
 * S2 - 2 q s S1 + (q s)^2 S0 over the level's bins.
 */
function meanSquares(o: Observation): number {
  const { exponent, counts } = o.histogram;
  let used = BINS;
  while (used > 0 && counts[used - 1] === 0) used--;
  const [s0, s1, s2] = [new Float64Array(used + 1), new Float64Array(used + 1), new Float64Array(used + 1)];
  for (let b = 0; b < used; b++) {
    const n = (counts[b] as number) - (b === 0 ? o.zeros : 0);
    const c = b + 0.5;
    s0[b + 1] = (s0[b] as number) + n;
    s1[b + 1] = (s1[b] as number) + n * c;
    s2[b + 1] = (s2[b] as number) + n * c * c;
  }
  let best = used;
  let least = Number.POSITIVE_INFINITY;
  for (let i = Math.min(used, LEVELS + 1); i <= used; i++) {
    const s = i / LEVELS;
    let error = 0;
    let from = 0;
    for (let q = 0; q <= LEVELS; q++) {
      // Bins whose centre b + 0.5 lies below the boundary (q + 0.5) s.
      const to = q === LEVELS ? used : Math.min(used, Math.ceil((q + 0.5) * s - 0.5));
      const y = q * s;
      error +=
        (s2[to] as number) -
        (s2[from] as number) -
        2 * y * ((s1[to] as number) - (s1[from] as number)) +
        y * y * ((s0[to] as number) - (s0[from] as number));
      from = to;
    }
    if (error <= least) [least, best] = [error, i];
  }
  return best * 2 ** exponent;
}
