/** What the parts of quantization exchange: feeds, runners, ranges, and where quantizers go. */
import type { Graph, NodeId, ValueId } from "../ir/types.js";
import type { TensorLike } from "../tensor.js";

/** One set of inputs by the graph's input names. */
export type Feeds = Readonly<Record<string, TensorLike>>;

/** An input of a graph: name, element type, dims (numbers, or names of dynamic dims). */
export interface FeedPort {
  readonly name: string;
  readonly type: string;
  readonly dims: readonly (number | string)[] | undefined;
  /** Whether infinities may be fed: no quantizer reads it, so that a mask of -inf spoils no range. */
  readonly infinite?: boolean | undefined;
}

/** Feeds that can be read again from the start, in the same order. */
export interface FeedStore {
  /** Number of feeds. */
  readonly length: number;
  /** SHA-256 over names, types, dims and bytes of all feeds, independent of their order. */
  readonly hash: string;
  all(): AsyncIterable<Feeds>;
  /** Two disjoint stores; `share` (0 to 1) of the feeds go to the second. Which ones depends on the feeds' content alone. */
  split(share: number): readonly [FeedStore, FeedStore];
}

/** Evaluates graphs; compile.ts supplies ONNX Runtime. Quantization imports no engine. */
export interface Runner {
  open(graph: Graph): Promise<OpenGraph>;
  /** Runs a graph and takes its outputs in where they are computed; without it they are handed over by `open`'s `run`. */
  reduce?(graph: Graph, reducer: ReducerModule): Promise<Reduction>;
}
/** A plain JavaScript module whose `open(settings)` gives a reducer (see reducer.mjs), and the settings; they pass to worker threads. */
export interface ReducerModule {
  readonly module: URL;
  readonly settings: unknown;
  /** Outputs whose elements may come in another order than their dims say. */
  readonly unordered: ReadonlySet<string>;
}
export interface Reduction {
  /** Runs that make sense at once. */
  readonly streams: number;
  /** May be called concurrently. */
  run(feeds: Feeds): Promise<void>;
  /** What every thread's reducer has seen so far, in no order. Not while a run is under way. */
  collect(): Promise<readonly unknown[]>;
  dispose(): Promise<void>;
}
export interface OpenGraph {
  /** Values of the graph's outputs by name. May be called concurrently. */
  run(feeds: Feeds): Promise<Readonly<Record<string, TensorLike>>>;
  dispose(): Promise<void>;
}

/** How the range of a tensor is chosen from its histogram. */
export type RangeMethod = "max" | "percentile-99.9" | "percentile-99.99" | "percentile-99.999" | "percentile-99.9999" | "entropy" | "mse";

/** By value name: the largest magnitude that stays unclipped; the scale is amax / 127. */
export type Ranges = ReadonlyMap<string, number>;

/** A place in a graph where a tensor could be quantized, and what was decided. */
export interface QuantizerDecision {
  readonly value: ValueId;
  /** The value's name. */
  readonly name: string;
  /** The node that reads it quantized, or undefined where a quantizer serves every reader. */
  readonly reader: NodeId | undefined;
  /** "activation": per tensor; "weight": per output channel; "bias": int32; "float": left as it was. */
  readonly kind: "activation" | "weight" | "bias" | "float";
  /** Why, in words for the report: the rule that placed or refused it. */
  readonly why: string;
  /** Per tensor one scale; per channel one for each. Empty for "float". */
  readonly scales: readonly number[];
  /** The dim that the scales lie along; undefined for a single one. */
  readonly axis?: number | undefined;
}
