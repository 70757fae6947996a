/**
 * Where a quantized graph leaves the float graph: every quantized tensor's range by every method, what its scale clips, and the noise that its
 * own quantizer makes (local) beside the noise that has come together up to it (accumulated).
 */
import { displayName, producersOf } from "../ir/graph.js";
import type { Graph, ValueId } from "../ir/types.js";
import { floats } from "../passes/weights.js";
import { roundHalfEven } from "./arithmetic.js";
import { absmaxOf, type Observations } from "./histogram.js";
import { exposing } from "./layers.js";
import type { Placed } from "./place.js";
import { amaxOf, clippedShare, RANGE_METHODS } from "./scales.js";
import { numbers } from "./score.js";
import type { FeedStore, RangeMethod, Runner } from "./types.js";

/** One quantized activation. Ratios in dB; undefined where nothing was lost, or nothing was there to lose. */
export interface TensorDrift {
  readonly name: string;
  /** The node that makes it; undefined for a graph input. */
  readonly node: string | undefined;
  readonly why: string;
  /** The largest magnitude that stays unclipped, scale * 127. */
  readonly amax: number;
  readonly absmax: number;
  /** What every method would have chosen. */
  readonly ranges: Readonly<Record<RangeMethod, number>>;
  /** Share of the elements that lie outside, 0 to 1. */
  readonly clipped: number;
  /** 20 log10(|x| / |x - q(x)|) of float values quantized here. */
  readonly localSqnr: number | undefined;
  /** 20 log10(|x| / |x - y|), y what the quantized graph has here before its quantizer. */
  readonly accumulatedSqnr: number | undefined;
  /** Cosine of the angle between x and y. */
  readonly cosine: number | undefined;
}
/** One quantized weight. */
export interface WeightDrift {
  readonly name: string;
  readonly node: string | undefined;
  /** Smallest and largest scale of its output channels. */
  readonly scales: readonly [least: number, most: number];
  readonly sqnr: number | undefined;
}
export interface Drift {
  /** Feeds that the noise was measured on. */
  readonly feeds: number;
  readonly tensors: readonly TensorDrift[];
  readonly weights: readonly WeightDrift[];
}
export interface DriftOptions {
  /** Feeds that noise is measured on; 16 when absent. */
  readonly feeds?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

const LEAST = -128;
const MOST = 127;

/** `float` is the graph that `placed` was made of. Values are matched by id. */
export async function driftOf(
  float: Graph,
  placed: Placed,
  observations: Observations,
  feeds: FeedStore,
  runner: Runner,
  options: DriftOptions = {},
): Promise<Drift> {
  const activations = new Map(placed.decisions.flatMap((d) => (d.kind === "activation" ? [[d.value, d] as const] : [])));
  const values = [...activations.keys()];
  const sums = new Map<ValueId, Sums>(values.map((v) => [v, { signal: 0, local: 0, noise: 0, dot: 0, other: 0 }]));
  const limit = options.feeds ?? 16;
  // Which feeds depends on what they hold, not on their order.
  const few = feeds.length > limit ? feeds.split(limit / feeds.length)[1] : feeds;
  let seen = 0;
  if (values.length > 0 && feeds.length > 0) {
    const [a, b] = [await runner.open(exposing(float, values)), await runner.open(exposing(placed.graph, values))];
    try {
      for await (const feed of few.all()) {
        options.signal?.throwIfAborted();
        const [x, y] = await Promise.all([a.run(feed), b.run(feed)]);
        for (const v of values) {
          const name = float.values[v]?.name ?? "";
          const [p, q] = [x[name], y[name]];
          const [left, right] = [p === undefined ? undefined : numbers(p), q === undefined ? undefined : numbers(q)];
          const sum = sums.get(v);
          if (left !== undefined && right !== undefined && sum !== undefined && left.length === right.length)
            gather(sum, left, right, activations.get(v)?.scales[0] ?? 1);
        }
        seen += 1;
      }
    } finally {
      await Promise.all([a.dispose(), b.dispose()]);
    }
  }
  const producers = producersOf(float);
  return {
    feeds: seen,
    tensors: values.map((v) => {
      const d = activations.get(v);
      const o = observations.get(d?.name ?? "");
      const s = sums.get(v) as Sums;
      const producer = producers[v];
      const amax = (d?.scales[0] ?? 0) * MOST;
      return {
        name: d?.name ?? "",
        node: producer === undefined ? undefined : displayName(float, producer),
        why: d?.why ?? "",
        amax,
        absmax: o === undefined ? 0 : absmaxOf(o),
        ranges: Object.fromEntries(RANGE_METHODS.map((m) => [m, o === undefined ? 0 : amaxOf(o, m)])) as Record<RangeMethod, number>,
        // Up to half a step beyond the last level is rounding, not clipping.
        clipped: o === undefined ? 0 : clippedShare(o, ((MOST + 0.5) / MOST) * amax),
        localSqnr: decibels(s.signal, s.local),
        accumulatedSqnr: decibels(s.signal, s.noise),
        cosine: s.signal > 0 && s.other > 0 ? s.dot / Math.sqrt(s.signal * s.other) : undefined,
      };
    }),
    weights: weightsOf(float, placed),
  };
}

interface Sums {
  signal: number;
  local: number;
  noise: number;
  dot: number;
  other: number;
}
function gather(s: Sums, x: ArrayLike<number>, y: ArrayLike<number>, scale: number): void {
  for (let i = 0; i < x.length; i++) {
    const [a, b] = [x[i] as number, y[i] as number];
    const q = Math.max(LEAST, Math.min(MOST, roundHalfEven(a / scale))) * scale;
    s.signal += a * a;
    s.local += (a - q) ** 2;
    s.noise += (a - b) ** 2;
    s.dot += a * b;
    s.other += b * b;
  }
}
const decibels = (signal: number, noise: number): number | undefined =>
  noise === 0 || signal === 0 || !Number.isFinite(signal + noise) ? undefined : 10 * Math.log10(signal / noise);

/** Least and greatest; a vocabulary has more output channels than a call takes arguments. */
const extent = (scales: readonly number[]): readonly [number, number] => [
  scales.reduce((a, s) => Math.min(a, s), Number.POSITIVE_INFINITY),
  scales.reduce((a, s) => Math.max(a, s), 0),
];

function weightsOf(float: Graph, placed: Placed): readonly WeightDrift[] {
  const nodes = new Map(float.nodes.map((n) => [n.id, n]));
  return placed.decisions.flatMap((d) => {
    const w = d.kind === "weight" ? float.constants.get(d.value) : undefined;
    const values = floats(w);
    const reader = d.reader === undefined ? undefined : nodes.get(d.reader);
    if (w === undefined || values === undefined) return [];
    const { axis } = d;
    const inner = axis === undefined ? values.length : w.dims.slice(axis + 1).reduce((a, b) => a * b, 1);
    let [signal, noise] = [0, 0];
    for (let i = 0; i < values.length; i++) {
      const x = values[i] as number;
      const s = d.scales[axis === undefined ? 0 : Math.floor(i / inner) % d.scales.length] as number;
      const q = Math.max(-MOST, Math.min(MOST, roundHalfEven(x / s))) * s;
      signal += x * x;
      noise += (x - q) ** 2;
    }
    return [
      {
        name: d.name,
        node: reader === undefined ? undefined : displayName(float, reader),
        scales: extent(d.scales),
        sqnr: decibels(signal, noise),
      },
    ];
  });
}
