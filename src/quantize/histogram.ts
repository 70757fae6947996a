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

/**
 * What was seen in each channel of a tensor. Sums are exact, of values rounded to multiples of 2^-36 (those of 256 and more are some) and
 * clamped to +-2^48: 2^16 high + low, high whole, low in [0, 2^16). Arrays are indexed by channel.
 */
export interface ChannelStatistics {
  /** The tensor's axis of channels, as it was asked for: from the end when negative. */
  readonly axis: number;
  /** Largest finite |x|. */
  readonly absmax: Float32Array;
  readonly high: Float64Array;
  readonly low: Float64Array;
  /** Finite elements. */
  readonly counts: Float64Array;
}

/** Mean of each channel; 0 where it held nothing finite. */
export const channelMeans = (c: ChannelStatistics): Float64Array =>
  c.counts.map((n, i) => (n === 0 ? 0 : ((c.high[i] as number) * 2 ** 16 + (c.low[i] as number)) / n));

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

/** Gathers the channels of one tensor, in plain TypeScript: what the kernel is held to. */
export class ChannelObserver {
  readonly #axis: number;
  readonly #absmax: Float32Array;
  readonly #high: Float64Array;
  readonly #low: Float64Array;
  readonly #counts: Float64Array;

  constructor(axis: number, channels: number) {
    this.#axis = axis;
    this.#absmax = new Float32Array(channels);
    [this.#high, this.#low, this.#counts] = [new Float64Array(channels), new Float64Array(channels), new Float64Array(channels)];
  }

  /** `inner` elements of one channel lie next to each other, then those of the next. */
  add(values: Float32Array, inner: number): void {
    const channels = this.#absmax.length;
    for (let i = 0; i < values.length; i++) {
      const x = values[i] as number;
      if (x - x !== 0) continue;
      const c = Math.floor(i / inner) % channels;
      this.#absmax[c] = Math.max(this.#absmax[c] as number, Math.abs(x));
      // Adding and subtracting 3 * 2^15 rounds to multiples of 2^-36, the worth of its last bit.
      const y = Math.abs(x) < 256 ? x + 98304 - 98304 : Math.min(Math.max(x, -(2 ** 48)), 2 ** 48);
      const units = Math.floor(y / 2 ** 16);
      const sum = (this.#low[c] as number) + (y - units * 2 ** 16);
      const carry = Math.floor(sum / 2 ** 16);
      this.#high[c] = (this.#high[c] as number) + units + carry;
      this.#low[c] = sum - carry * 2 ** 16;
      this.#counts[c] = (this.#counts[c] as number) + 1;
    }
  }

  finish(): ChannelStatistics {
    return {
      axis: this.#axis,
      absmax: this.#absmax.slice(),
      high: this.#high.slice(),
      low: this.#low.slice(),
      counts: this.#counts.slice(),
    };
  }
}

/** The observation of everything that any of these saw. The order does not matter. Throws a RangeError when they disagree on channels. */
export function mergeObservations(parts: readonly Observation[]): Observation {
  const seen = parts.filter((p) => p.count > 0);
  const exponent = Math.max(LEAST_EXPONENT, ...seen.map((p) => p.histogram.exponent));
  const counts = new Float64Array(BINS);
  for (const p of seen) {
    const of = folded(p.histogram, exponent);
    for (let b = 0; b < BINS; b++) counts[b] = (counts[b] as number) + (of[b] as number);
  }
  const sum = (of: (p: Observation) => number): number => parts.reduce((total, p) => total + of(p), 0);
  const channels = parts.map((p) => p.channels).filter((c) => c !== undefined);
  return {
    min: seen.length === 0 ? 0 : Math.min(...seen.map((p) => p.min)),
    max: seen.length === 0 ? 0 : Math.max(...seen.map((p) => p.max)),
    count: sum((p) => p.count),
    zeros: sum((p) => p.zeros),
    nonFinite: sum((p) => p.nonFinite),
    histogram: { exponent, counts },
    ...(channels.length === 0 ? {} : { channels: mergeChannels(channels) }),
  };
}

function mergeChannels(parts: readonly ChannelStatistics[]): ChannelStatistics {
  const [first, ...others] = parts;
  if (first === undefined || others.some((p) => p.axis !== first.axis || p.absmax.length !== first.absmax.length))
    throw new RangeError("observations of one tensor differ in their channels");
  const merged = {
    axis: first.axis,
    absmax: first.absmax.slice(),
    high: first.high.slice(),
    low: first.low.slice(),
    counts: first.counts.slice(),
  };
  for (const p of others)
    for (let c = 0; c < merged.absmax.length; c++) {
      merged.absmax[c] = Math.max(merged.absmax[c] as number, p.absmax[c] as number);
      const low = (merged.low[c] as number) + (p.low[c] as number);
      const carry = Math.floor(low / 2 ** 16);
      merged.high[c] = (merged.high[c] as number) + (p.high[c] as number) + carry;
      merged.low[c] = low - carry * 2 ** 16;
      merged.counts[c] = (merged.counts[c] as number) + (p.counts[c] as number);
    }
  return merged;
}
