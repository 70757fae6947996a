/**
 * How far a quantized graph's outputs are from the float graph's: what trials are judged by. Outputs that rank classes are compared as
 * distributions, the others by their noise.
 */
import { elementNumber } from "../ir/numeric.js";
import type { TensorLike } from "../tensor.js";
import { type Crowd, crowdOf, type Lead, largest, leadOf, logProbabilities, marginOf, noiseOf, overtaken } from "./leads.js";
import type { FeedStore, OpenGraph } from "./types.js";

/** Outputs of the float graph on every feed of a store, in its order. */
export type Outputs = readonly Readonly<Record<string, TensorLike>>[];

export interface Score {
  /**
   * What is minimised: the sum over outputs of the mean divergence of softened rows (nats) or the noise-to-signal ratio. Infinite when an output is not finite
   * where the float graph's is; where the float graph's is not, nothing is compared.
   */
  readonly loss: number;
  /** Noise over signal of the ranked rows about their means: the divergence of small numbers (embeddings of length 1) is small whatever they lose. */
  readonly noise?: number | undefined;
  /** Share of the ranked rows (logits along the last axis) whose largest element is where the float graph has it; undefined without such outputs. */
  readonly agreement: number | undefined;
  /** The share that agreement tends to on many rows: by the noise of the leads and their density (`overtaken`). */
  readonly likely: number | undefined;
  /** Rows that were ranked. */
  readonly rows: number;
}

/** Feeds that are under way at once. */
const CONCURRENCY = 2;
/** Runs a graph over a store. */
export const outputsOf = (open: OpenGraph, feeds: FeedStore, signal?: AbortSignal): Promise<Outputs> =>
  mapOutputs(open, feeds, (out) => out, signal);
/** The leads of all ranked rows that a graph gives over a store. */
export async function marginsOver(open: OpenGraph, feeds: FeedStore, signal?: AbortSignal): Promise<readonly number[]> {
  return (await mapOutputs(open, feeds, marginsOf, signal)).flat();
}
async function mapOutputs<T>(open: OpenGraph, feeds: FeedStore, take: (out: Outputs[number]) => T, signal?: AbortSignal): Promise<T[]> {
  const results: T[] = [];
  const running = new Set<Promise<void>>();
  let index = 0;
  for await (const feed of feeds.all()) {
    signal?.throwIfAborted();
    const at = index++;
    const run = open.run(feed).then((out) => {
      results[at] = take(out);
      running.delete(run);
    });
    running.add(run);
    if (running.size >= CONCURRENCY) await Promise.race(running);
  }
  await Promise.all(running);
  return results;
}

/** The leads of the rows of a record's ranked outputs. */
export function marginsOf(record: Outputs[number]): readonly number[] {
  return Object.values(record).flatMap((t) => {
    const x = numbers(t);
    const classes = t.dims.at(-1) ?? 1;
    if (x === undefined || !ranks(t)) return [];
    const starts = Array.from({ length: x.length / classes }, (_, i) => i * classes);
    return starts.filter((at) => comparable(x, at, classes)).map((at) => marginOf(x, at, classes));
  });
}

/** Compares outputs feed by feed. `crowd`: leads of more rows than these of the float graph; theirs alone without it. */
export function scoreOf(expected: Outputs, actual: Outputs, crowd?: Crowd): Score {
  const totals = new Map<string, { ranked: boolean; sum: number; weight: number }>();
  const leads: Lead[] = [];
  const spread = { noise: 0, signal: 0 };
  let agreed = 0;
  let [given, compared] = [0, 0];
  for (const [i, record] of expected.entries()) {
    for (const [name, want] of Object.entries(record)) {
      const got = actual[i]?.[name];
      const [x, y] = [numbers(want), got === undefined ? undefined : numbers(got)];
      if (x === undefined || x.length === 0) continue;
      const total = totals.get(name) ?? { ranked: ranks(want), sum: 0, weight: 0 };
      totals.set(name, total);
      given += x.length;
      if (y === undefined || y.length !== x.length) {
        total.sum = Number.POSITIVE_INFINITY;
        continue;
      }
      if (total.ranked) {
        const classes = want.dims.at(-1) ?? 1;
        for (let at = 0; at < x.length; at += classes) {
          if (!comparable(x, at, classes)) continue;
          compared += classes;
          const { noise, signal } = variances(x, y, at, classes);
          spread.noise += noise;
          spread.signal += signal;
          total.sum += divergence(x, y, at, classes);
          total.weight += 1;
          leads.push(leadOf(x, y, at, classes));
          if (largest(x, at, classes) === largest(y, at, classes)) agreed += 1;
        }
      } else {
        const { noise, signal, count } = energies(x, y);
        compared += count;
        total.sum += noise;
        total.weight += signal;
      }
    }
  }
  // Noise where there is no signal at all counts as much as the signal would: an infinite loss could not tell trials apart.
  const losses = [...totals.values()].map(({ sum, weight }) =>
    weight > 0 ? sum / weight : sum > 0 && sum < Number.POSITIVE_INFINITY ? 1 : sum,
  );
  const loss = losses.reduce((a, b) => a + b, 0);
  const rows = leads.length;
  return {
    loss: Number.isNaN(loss) || (given > 0 && compared === 0) ? Number.POSITIVE_INFINITY : loss,
    noise: rows === 0 || !(spread.signal > 0) ? undefined : spread.noise / spread.signal,
    agreement: rows === 0 ? undefined : agreed / rows,
    likely: rows === 0 ? undefined : 1 - overtaken(crowd ?? crowdOf(leads.map((l) => l.margin)), noiseOf(leads)),
    rows,
  };
}

/** Elements as numbers; undefined for text and for integers, whose exact values a score does not weigh. */
export function numbers(t: TensorLike): ArrayLike<number> | undefined {
  if (t.type === "float32" || t.type === "float64") return t.data as Float32Array | Float64Array;
  if (t.type === "float16") return Float64Array.from(t.data as ArrayLike<number>, (bits) => elementNumber("float16", bits));
  return undefined;
}

/** Rows of logits or probabilities: [batch, classes]. */
const ranks = (t: TensorLike): boolean => t.dims.length === 2 && (t.dims[1] ?? 0) > 1;

/**
 * The temperature that rows are softened at. At 1 the divergence of a hundred rows is that of the two or three that are undecided, and ranks
 * configurations by chance; softened, every class of every row says how much noise there is.
 */
const SOFT = 8;
/**
 * SOFT^2 KL(softmax(x / SOFT) || softmax(y / SOFT)) of a row, in nats, x and y logits or the logarithms of probabilities: the measure of
 * distillation (Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2).
 */
function divergence(x: ArrayLike<number>, y: ArrayLike<number>, at: number, n: number): number {
  const [p, q] = [softened(logProbabilities(x, at, n)), softened(logProbabilities(y, at, n))];
  let sum = 0;
  for (let i = 0; i < n; i++)
    if ((p[i] as number) > Number.NEGATIVE_INFINITY) sum += Math.exp(p[i] as number) * ((p[i] as number) - (q[i] as number));
  return SOFT ** 2 * sum;
}
function softened(logits: Float64Array): Float64Array {
  const cooled = logits.map((v) => v / SOFT);
  const log = Math.log(cooled.reduce((a, v) => a + Math.exp(v), 0));
  return cooled.map((v) => v - log);
}
/** Whether two classes of a row are numbers, and none a NaN or above all: a lead stands between two. */
function comparable(x: ArrayLike<number>, at: number, n: number): boolean {
  let finite = 0;
  for (let i = at; i < at + n; i++) {
    const v = x[i] as number;
    if (v - v === 0) finite += 1;
    else if (v !== Number.NEGATIVE_INFINITY) return false;
  }
  return finite > 1;
}
/** As `energies`, of one row, each about its own mean: what all classes share moves none. */
function variances(x: ArrayLike<number>, y: ArrayLike<number>, at: number, n: number): ReturnType<typeof energies> {
  const finite = Array.from({ length: n }, (_, i) => at + i).filter((i) => (x[i] as number) > Number.NEGATIVE_INFINITY);
  const mean = (of: ArrayLike<number>): number => finite.reduce((a, i) => a + (of[i] as number), 0) / finite.length;
  const [a, b] = [mean(x), mean(y)];
  return energies(
    finite.map((i) => (x[i] as number) - a),
    finite.map((i) => (y[i] as number) - b),
  );
}
/** Sums of squares of the difference and of the reference, where that is finite. */
export function energies(x: ArrayLike<number>, y: ArrayLike<number>): Readonly<Record<"noise" | "signal" | "count", number>> {
  let [noise, signal, count] = [0, 0, 0];
  for (let i = 0; i < x.length; i++) {
    const v = x[i] as number;
    if (v - v !== 0) continue;
    const d = v - (y[i] as number);
    noise += d * d;
    signal += v * v;
    count += 1;
  }
  return { noise, signal, count };
}
