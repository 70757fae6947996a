/**
 * One streaming pass over feeds: the graph runs with the wanted tensors as its outputs, and each is counted where it is computed. Counts
 * are whole and sums exact, so that threads, order, batches and shards do not change the result by a bit; only the tensors' own values
 * could, and every run has one thread.
 */
import { defineError, type Remarks } from "../diagnostics.js";
import { typeAt, valueAt } from "../ir/graph.js";
import type { Graph, ValueId, ValueType } from "../ir/types.js";
import { noFeeds } from "./feeds.js";
import { mergeObservations, type Observation, type Observations } from "./histogram.js";
import { KERNEL } from "./kernel.js";
import { exposing } from "./layers.js";
import type { Feeds, ReducerModule, Reduction, Runner } from "./types.js";

export const notObservable = defineError<{ what: string; fix: string }>("P1614", "a tensor cannot be calibrated", ({ what, fix }) => ({
  what,
  fix,
}));
export const nothingFinite = defineError<{ count: number }>("P1615", "a tensor held nothing finite during calibration", ({ count }) => ({
  what: `all of its ${count} elements were NaN or infinite`,
  why: "there is no range to take a scale from",
  fix: "check the model's weights and the feeds (their preprocessing above all), or exclude the tensor from quantization",
}));
export interface ObserveProgress {
  /** Feeds counted. */
  readonly done: number;
  readonly total: number | undefined;
  /** From the speed so far; undefined without a total. */
  readonly secondsLeft: number | undefined;
}
export interface ObserveOptions {
  /** Tensors whose channels are wanted too, with their axis (from the end when negative). */
  readonly channels?: ReadonlyMap<ValueId, number> | undefined;
  /** Number of feeds, where it is known: for the time left. A function where it becomes known. */
  readonly total?: number | (() => number | undefined) | undefined;
  /** What no feed at all is: an error (the default), or nothing seen. */
  readonly empty?: "refuse" | "allow" | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: ObserveProgress) => void) | undefined;
  readonly remarks?: Remarks | undefined;
  /** Called about every `checkpointSeconds` (30), and when the signal ends the pass, with what `done` feeds have shown; the pass waits for it. */
  readonly onCheckpoint?: ((observations: Observations, done: number) => void | Promise<void>) | undefined;
  readonly checkpointSeconds?: number | undefined;
}

/**
 * What the tensors hold over all feeds, by name, in the order of `tensors`. Inputs of the graph may be among the tensors, constants not.
 * Throws P1601 without feeds, P1614 for a value that is no floating-point tensor, P1615 for one that held nothing finite, P20xx, or the
 * signal's reason. NaN and infinities among finite values are a remark.
 */
export async function observe(
  graph: Graph,
  tensors: readonly ValueId[],
  feeds: AsyncIterable<Feeds> | Iterable<Feeds>,
  runner: Runner,
  options: ObserveOptions = {},
): Promise<Observations> {
  const wanted = [...new Set(tensors)];
  for (const v of wanted) demandObservable(graph, v);
  const names = wanted.map((v) => ({ name: valueAt(graph, v).name, axis: options.channels?.get(v), steady: isSteady(typeAt(graph, v)) }));
  if (names.length === 0) return new Map();
  const inputs = new Set(graph.inputs);
  const computed = wanted.filter((v) => !inputs.has(v));
  const reducer: ReducerModule = {
    module: new URL("./reducer.mjs", import.meta.url),
    settings: { kernel: Buffer.from(KERNEL, "base64"), tensors: names },
    unordered: new Set(names.filter((n) => n.axis === undefined).map((n) => n.name)),
  };
  const reduction = await openReduction(exposing(graph, computed), computed.length === 0, runner, reducer);
  try {
    const done = await stream(reduction, feeds, options);
    if (done === 0 && options.empty !== "allow") throw noFeeds({}, { file: graph.extra?.file });
    const seen = await gather(reduction);
    report(graph, seen, options.remarks);
    return seen;
  } finally {
    await reduction.dispose();
  }
}

function demandObservable(g: Graph, v: ValueId): void {
  const { name } = valueAt(g, v);
  const type = typeAt(g, v);
  const where = { file: g.extra?.file, value: name };
  if (g.constants.has(v)) throw notObservable({ what: "it is a constant", fix: "take its range from its values" }, where);
  if (type.kind !== "tensor" || !["float32", "float16", "float64"].includes(type.dtype))
    throw notObservable(
      {
        what: `it is ${type.kind === "tensor" ? type.dtype : type.kind}`,
        fix: "observe float32, float16 and float64 tensors",
      },
      where,
    );
}

/** Whether equal dims of the inputs give it equal dims, as far as inference knows. */
const isSteady = (t: ValueType): boolean => t.kind === "tensor" && t.shape?.includes("?") === false;

/** The runner's own reduction, or one on top of its plain runs, in this thread. */
async function openReduction(graph: Graph, idle: boolean, runner: Runner, reducer: ReducerModule): Promise<Reduction> {
  if (!idle && runner.reduce !== undefined) return await runner.reduce(graph, reducer);
  const { open } = (await import(reducer.module.href)) as {
    open(settings: unknown): Promise<{
      add(name: string, type: string, data: unknown, dims: readonly number[]): void;
      collect(): { readonly seen: unknown };
    }>;
  };
  const counter = await open(reducer.settings);
  const model = idle ? undefined : await runner.open(graph);
  return {
    streams: 2,
    async run(feeds) {
      const results = model === undefined ? {} : await model.run(feeds);
      for (const [name, t] of [...Object.entries(feeds), ...Object.entries(results)]) counter.add(name, t.type, t.data, t.dims);
    },
    collect: async () => [counter.collect().seen],
    dispose: async () => await model?.dispose(),
  };
}

/** Runs every feed, as many at once as pay; returns how many there were. The first failure ends it, after what is under way. */
async function stream(reduction: Reduction, feeds: AsyncIterable<Feeds> | Iterable<Feeds>, options: ObserveOptions): Promise<number> {
  const start = performance.now();
  const every = (options.checkpointSeconds ?? 30) * 1000;
  let saved = start;
  let done = 0;
  const running = new Set<Promise<void>>();
  const failures: unknown[] = [];
  const step = async (feed: Feeds): Promise<void> => {
    await reduction.run(feed);
    done++;
    const seconds = (performance.now() - start) / 1000;
    const total = typeof options.total === "function" ? options.total() : options.total;
    options.onProgress?.({ done, total, secondsLeft: total === undefined ? undefined : (seconds / done) * Math.max(0, total - done) });
  };
  try {
    for await (const feed of feeds) {
      if (options.signal?.aborted === true) break;
      if (failures.length > 0) break;
      const run: Promise<void> = step(feed)
        .catch((error: unknown) => void failures.push(error))
        .finally(() => running.delete(run));
      running.add(run);
      // One more than run at once: the next feed is read meanwhile.
      if (running.size > reduction.streams) await Promise.race(running);
      if (options.onCheckpoint !== undefined && performance.now() - saved > every) {
        await Promise.all(running);
        if (failures.length > 0) break;
        await options.onCheckpoint(await gather(reduction), done);
        saved = performance.now();
      }
    }
  } catch (error) {
    await Promise.all(running);
    if (options.signal?.aborted !== true) throw error;
  }
  await Promise.all(running);
  if (failures.length > 0) throw failures[0];
  if (options.signal?.aborted === true) {
    // Everything that was begun is counted: what was seen is of the first `done` feeds.
    await options.onCheckpoint?.(await gather(reduction), done);
    throw options.signal.reason;
  }
  return done;
}

async function gather(reduction: Reduction): Promise<Observations> {
  const parts = (await reduction.collect()) as readonly (readonly (Observation & { readonly name: string })[])[];
  const [first = []] = parts;
  return new Map(
    first.map(({ name }, i) => {
      const { name: _, ...merged } = { name, ...mergeObservations(parts.flatMap((p) => p[i] ?? [])) };
      return [name, merged] as const;
    }),
  );
}

function report(g: Graph, seen: Observations, remarks: Remarks | undefined): void {
  for (const [name, o] of seen) {
    const where = { file: g.extra?.file, value: name };
    if (o.count === 0 && o.nonFinite > 0) throw nothingFinite({ count: o.nonFinite }, where);
    if (o.nonFinite > 0)
      remarks?.({
        severity: "warning",
        text: `${o.nonFinite} of ${o.count + o.nonFinite} elements of '${name}' were NaN or infinite during calibration; its range is that of the others`,
        where,
        fix: "check the feeds and the model; a mask of -inf is harmless, NaN is not",
      });
  }
}
