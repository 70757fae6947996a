/**
 * How far a quantized graph's outputs are from the float graph's: what trials are judged by. Outputs that rank classes are compared as
 * distributions, the others by their noise.
 */
import { elementNumber } from "../ir/numeric.js";
import type { TensorLike } from "../tensor.js";
import type { FeedStore, OpenGraph } from "./types.js";

/** Outputs of the float graph on every feed of a store, in its order. */
export type Outputs = readonly Readonly<Record<string, TensorLike>>[];

export interface Score {
  /**
   * What is minimised: the sum over outputs of the mean divergence (nats) or the noise-to-signal ratio. Infinite when an output is not finite
   * where the float graph's is.
   */
  readonly loss: number;
  /** Share of the ranked rows (logits along the last axis) whose largest element is where the float graph has it; undefined without such outputs. */
  readonly agreement: number | undefined;
  /** Rows that were ranked. */
  readonly rows: number;
}

/** Runs a graph over a store. `concurrency` feeds are under way at once. */
export async function outputsOf(open: OpenGraph, feeds: FeedStore, signal?: AbortSignal, concurrency = 2): Promise<Outputs> {
  const results: Readonly<Record<string, TensorLike>>[] = [];
  const running = new Set<Promise<void>>();
  let index = 0;
  for await (const feed of feeds.all()) {
    signal?.throwIfAborted();
    const at = index++;
    const run = open.run(feed).then((out) => {
      results[at] = out;
      running.delete(run);
    });
    running.add(run);
    if (running.size >= concurrency) await Promise.race(running);
  }
  await Promise.all(running);
  return results;
}

/** Compares outputs feed by feed. */
export function scoreOf(expected: Outputs, actual: Outputs): Score {
  const totals = new Map<string, { ranked: boolean; sum: number; weight: number }>();
  let [agreed, rows] = [0, 0];
  for (const [i, record] of expected.entries()) {
    for (const [name, want] of Object.entries(record)) {
      const got = actual[i]?.[name];
      const [x, y] = [numbers(want), got === undefined ? undefined : numbers(got)];
      if (x === undefined || x.length === 0) continue;
      const total = totals.get(name) ?? { ranked: ranks(want), sum: 0, weight: 0 };
      totals.set(name, total);
      if (y === undefined || y.length !== x.length) {
        total.sum = Number.POSITIVE_INFINITY;
        continue;
      }
      if (total.ranked) {
        const classes = want.dims.at(-1) ?? 1;
        for (let at = 0; at < x.length; at += classes) {
          total.sum += divergence(x, y, at, classes);
          total.weight += 1;
          rows += 1;
          if (largest(x, at, classes) === largest(y, at, classes)) agreed += 1;
        }
      } else {
        const { noise, signal } = energies(x, y);
        total.sum += noise;
        total.weight += signal;
      }
    }
  }
  const losses = [...totals.values()].map(({ ranked, sum, weight }) =>
    ranked ? sum / weight : weight === 0 ? (sum === 0 ? 0 : Number.POSITIVE_INFINITY) : sum / weight,
  );
  const loss = losses.reduce((a, b) => a + b, 0);
  return { loss: Number.isNaN(loss) ? Number.POSITIVE_INFINITY : loss, agreement: rows === 0 ? undefined : agreed / rows, rows };
}

/** Elements as numbers; undefined for text and for integers, whose exact values a score does not weigh. */
export function numbers(t: TensorLike): ArrayLike<number> | undefined {
  if (t.type === "float32" || t.type === "float64") return t.data as Float32Array | Float64Array;
  if (t.type === "float16") return Float64Array.from(t.data as ArrayLike<number>, (bits) => elementNumber("float16", bits));
  return undefined;
}

/** Rows of logits or probabilities: [batch, classes]. */
const ranks = (t: TensorLike): boolean => t.dims.length === 2 && (t.dims[1] ?? 0) > 1;

/** KL(softmax(x) || softmax(y)) of a row, in nats; of the rows themselves where both are distributions already. */
function divergence(x: ArrayLike<number>, y: ArrayLike<number>, at: number, n: number): number {
  const [p, q] = [logProbabilities(x, at, n), logProbabilities(y, at, n)];
  let sum = 0;
  for (let i = 0; i < n; i++)
    if ((p[i] as number) > Number.NEGATIVE_INFINITY) sum += Math.exp(p[i] as number) * ((p[i] as number) - (q[i] as number));
  return sum;
}
/** A probability that quantization made 0 counts as this. */
const LEAST = 1e-12;
function logProbabilities(x: ArrayLike<number>, at: number, n: number): Float64Array {
  const row = Float64Array.from({ length: n }, (_, i) => x[at + i] as number);
  const sum = row.reduce((a, b) => a + b, 0);
  if (Math.abs(sum - 1) < 1e-3 && row.every((v) => v >= 0)) return row.map((v) => Math.log(Math.max(v, LEAST)));
  const most = row.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const log = most + Math.log(row.reduce((a, v) => a + Math.exp(v - most), 0));
  return row.map((v) => v - log);
}

function largest(x: ArrayLike<number>, at: number, n: number): number {
  let best = 0;
  for (let i = 1; i < n; i++) if ((x[at + i] as number) > (x[at + best] as number)) best = i;
  return best;
}

/** Sums of squares of the difference and of the reference. */
export function energies(x: ArrayLike<number>, y: ArrayLike<number>): { readonly noise: number; readonly signal: number } {
  let [noise, signal] = [0, 0];
  for (let i = 0; i < x.length; i++) {
    const v = x[i] as number;
    const d = v - (y[i] as number);
    noise += d * d;
    signal += v * v;
  }
  return { noise, signal };
}
