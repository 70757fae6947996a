/**
 * The dyadic histogram of |x|: 4096 bins of width 2^e. When the range grows, pairs of bins fold into one and e grows by one, so that e is a
 * function of the largest magnitude alone. With whole counts and power-of-two widths the result does not depend on the order, the batching
 * or the sharding of what was counted, bit for bit, and histograms merge exactly.
 */

/** Bins of a histogram. */
export const BINS = 4096;
/** Width of the bins of a histogram that holds only zeros, and the least there is: 2^-126, so that its inverse is a normal float32. */
export const LEAST_EXPONENT = -126;

export interface Histogram {
  /** e: bin b counts b * 2^e <= |x| < (b + 1) * 2^e. The largest magnitude lies in the upper half unless e is `LEAST_EXPONENT`. */
  readonly exponent: number;
  /** Whole numbers, exact up to 2^53; `BINS` of them. Zeros are in bin 0. */
  readonly counts: Float64Array;
}

/** What was seen in one channel of a tensor. Means are of values rounded to multiples of 2^-36 and clamped to +-2^48, and exact beyond that. */
export interface ChannelStatistics {
  /** The axis of the tensor that is the channel's. */
  readonly axis: number;
  /** Largest finite |x| by channel. */
  readonly absmax: Float32Array;
  readonly mean: Float64Array;
  /** Finite elements by channel (the same for all unless there were non-finite ones). */
  readonly counts: Float64Array;
}

/** What was seen of one tensor over all feeds. */
export interface Observation {
  /** Smallest and largest finite element; 0 when there was none. */
  readonly min: number;
  readonly max: number;
  /** Finite elements: the sum of the histogram's counts. */
  readonly count: number;
  readonly zeros: number;
  /** NaN and infinities; they are in no other figure. */
  readonly nonFinite: number;
  readonly histogram: Histogram;
  readonly channels?: ChannelStatistics | undefined;
}

/** By value name. */
export type Observations = ReadonlyMap<string, Observation>;

/** Largest finite magnitude. */
export const absmaxOf = (o: Observation): number => Math.max(Math.abs(o.min), Math.abs(o.max));

/** The smallest e for which `absmax` lies below `BINS` * 2^e. */
export function exponentOf(absmax: number): number {
  if (absmax === 0) return LEAST_EXPONENT;
  // floor(log2) from the float64's own exponent: Math.log2 rounds up just below powers of two.
  scratch.setFloat64(0, absmax);
  const log2 = ((scratch.getUint32(0) >>> 20) & 0x7ff) - 1023;
  return Math.max(LEAST_EXPONENT, log2 + 1 - Math.log2(BINS));
}
const scratch = new DataView(new ArrayBuffer(8));

/** Counts of the same elements in bins of width 2^to, `to` at least the histogram's own exponent. */
export function folded(h: Histogram, to: number): Float64Array {
  const shift = to - h.exponent;
  if (shift === 0) return h.counts.slice();
  const counts = new Float64Array(BINS);
  // Beyond 12 folds everything is in bin 0; 2 ** shift stays a float64 either way.
  const per = 2 ** shift;
  for (let b = 0; b < BINS; b++) {
    const n = h.counts[b] as number;
    if (n !== 0) counts[Math.floor(b / per)] = (counts[Math.floor(b / per)] as number) + n;
  }
  return counts;
}

/** Gathers one tensor's observation, in plain TypeScript: what the WebAssembly kernel is held to, bit for bit. */
export class Observer {
  #min = Number.POSITIVE_INFINITY;
  #max = Number.NEGATIVE_INFINITY;
  #count = 0;
  #zeros = 0;
  #nonFinite = 0;
  #exponent = LEAST_EXPONENT;
  #counts: Float64Array = new Float64Array(BINS);

  add(values: Float32Array): void {
    let [min, max] = [this.#min, this.#max];
    for (const x of values) {
      if (x - x !== 0) this.#nonFinite++;
      else {
        if (x < min) min = x;
        if (x > max) max = x;
        if (x === 0) this.#zeros++;
        this.#count++;
      }
    }
    if (max < min) return;
    [this.#min, this.#max] = [min, max];
    this.#widen(exponentOf(Math.max(Math.abs(min), Math.abs(max))));
    const perUnit = 2 ** -this.#exponent;
    const counts = this.#counts;
    for (const x of values) {
      if (x - x !== 0) continue;
      const b = Math.floor(Math.abs(x) * perUnit);
      counts[b] = (counts[b] as number) + 1;
    }
  }

  #widen(exponent: number): void {
    if (exponent <= this.#exponent) return;
    this.#counts = folded({ exponent: this.#exponent, counts: this.#counts }, exponent);
    this.#exponent = exponent;
  }

  finish(): Observation {
    const none = this.#count === 0;
    return {
      // Adding 0 turns -0, which compares equal to 0 and would depend on the order, into 0.
      min: none ? 0 : this.#min + 0,
      max: none ? 0 : this.#max + 0,
      count: this.#count,
      zeros: this.#zeros,
      nonFinite: this.#nonFinite,
      histogram: { exponent: this.#exponent, counts: this.#counts.slice() },
    };
  }
}

/** The observation of everything that any of these saw. The order does not matter. Throws when they disagree on channels. */
export function mergeObservations(parts: readonly Observation[]): Observation {
  const seen = parts.filter((p) => p.count > 0);
  const exponent = Math.max(LEAST_EXPONENT, ...seen.map((p) => p.histogram.exponent));
  const counts = new Float64Array(BINS);
  for (const p of seen) {
    const of = folded(p.histogram, exponent);
    for (let b = 0; b < BINS; b++) counts[b] = (counts[b] as number) + (of[b] as number);
  }
  const sum = (of: (p: Observation) => number): number => parts.reduce((total, p) => total + of(p), 0);
  return {
    min: seen.length === 0 ? 0 : Math.min(...seen.map((p) => p.min)),
    max: seen.length === 0 ? 0 : Math.max(...seen.map((p) => p.max)),
    count: sum((p) => p.count),
    zeros: sum((p) => p.zeros),
    nonFinite: sum((p) => p.nonFinite),
    histogram: { exponent, counts },
  };
}
