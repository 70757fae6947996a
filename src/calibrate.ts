/**
 * Calibration on its own: a model and data to a calibration file's content, whole or one shard of it, resumable. The graph is prepared as
 * compilation prepares it, and the tensors are those that int8 may quantize.
 */
import { existsSync } from "node:fs";
import { PartitaError, type Remarks } from "./diagnostics.js";
import { hostRunner } from "./engines/host/runner.js";
import { valueAt } from "./ir/graph.js";
import type { Graph } from "./ir/types.js";
import { inferGraph } from "./ops/infer.js";
import { badOption, type CompileOptions, settle } from "./options.js";
import { type ModelInput, prepare } from "./prepare.js";
import { type Calibration, COUNTING, modelKey, readCalibration, writeCalibration } from "./quantize/calibration.js";
import { candidates, whyNone } from "./quantize/candidates.js";
import { einsumsAsProducts } from "./quantize/einsum.js";
import { type FeedSource, FeedTally, feedsOf, hashOfUnion, portsOf, preprocessingOf } from "./quantize/feeds.js";
import { mergeObservations, type Observation, type Observations, Observer } from "./quantize/histogram.js";
import type { Preprocessing } from "./quantize/images.js";
import { nothingToQuantize } from "./quantize/index.js";
import { type ObserveProgress, observe } from "./quantize/observe.js";
import { carriesQuantizers, quantizable } from "./quantize/place.js";
import type { Feeds } from "./quantize/types.js";

export interface CalibrateOptions {
  readonly data: FeedSource;
  /** Rows of one feed where an array is cut into feeds. Default 1. */
  readonly batch?: number | undefined;
  readonly preprocessing?: Preprocessing | undefined;
  /** Every `of`-th feed, from the `index`-th (1 to `of`) on. A shard beyond the last feed is an empty calibration, with a remark. */
  readonly shard?: { readonly index: number; readonly of: number } | undefined;
  /** Threads over all runs; the machine's by default. */
  readonly threads?: number | undefined;
  /** A file that keeps what was seen, about every 30 s and when `signal` ends the pass; a later call with the same data goes on from it. */
  readonly checkpoint?: string | undefined;
  readonly onProgress?: ((progress: ObserveProgress) => void) | undefined;
}
export interface Calibrated {
  readonly calibration: Calibration;
  /** The graph whose tensors were observed. */
  readonly graph: Graph;
  /** Feeds that an earlier, interrupted call had counted. */
  readonly resumed: number;
}

/**
 * Observes a model's tensors over data. `compileOptions` are those that the model will be compiled with, as far as they change its graph:
 * shapes, inputs, outputs, signature. Throws P1001 for a shard that is none and for a model that carries quantizers already, P1633 for one
 * with nothing to quantize, P16xx for data that does not serve, and the signal's reason, after the checkpoint is written.
 */
export async function calibrate(model: ModelInput, options: CalibrateOptions, compileOptions: CompileOptions = {}): Promise<Calibrated> {
  const settings = settle({ ...compileOptions, precision: "fp32", calibration: undefined });
  const { onRemark: remarks, signal } = settings;
  const { shard, checkpoint, batch, preprocessing } = options;
  if (
    shard !== undefined &&
    !(Number.isSafeInteger(shard.of) && Number.isSafeInteger(shard.index) && shard.index >= 1 && shard.index <= shard.of)
  )
    throw badOption({ name: "shard", what: `is ${shard.index}/${shard.of}`, fix: "write i/n, i from 1 to n" });
  const { graph: prepared, shapes } = await prepare(model, settings, remarks);
  if (carriesQuantizers(prepared))
    throw badOption({
      name: "model",
      what: "carries quantizers of its own",
      fix: "compile it with precision int8 as it is: it needs no calibration",
    });
  const graph = einsumsAsProducts(prepared, shapes);
  const { facts } = inferGraph(graph, { shapes });
  const tensors = quantizable(graph, facts);
  if (tensors.length === 0)
    throw nothingToQuantize({ reason: candidates(graph, facts).refused[0]?.why ?? whyNone(graph) }, { file: graph.extra?.file });
  const ports = portsOf(graph, new Set(tensors));
  const of = (observations: Observations, feeds: number, data: string): Calibration => ({
    keys: { model: modelKey(prepared), data, preprocessing: preprocessingOf(options.data, ports, preprocessing), version: COUNTING },
    feeds,
    ...(shard === undefined ? {} : { shards: { of: shard.of, have: [shard.index] } }),
    observations,
  });

  const file = typeof options.data === "string" ? options.data : undefined;
  let total: number | undefined;
  const onTotal = (n: number): void => {
    total = shard === undefined ? n : Math.max(0, Math.ceil((n - shard.index + 1) / shard.of));
  };
  let given = 0;
  const feeds = (): AsyncIterable<Feeds> =>
    sharded(feedsOf(options.data, ports, { batch, preprocessing, signal, onTotal }), shard, (n) => {
      given = n;
    });
  const nothing: Observations = new Map(tensors.map((v) => [valueAt(graph, v).name, NOTHING]));
  const before = await interrupted(checkpoint, of(nothing, 0, ""), file === undefined ? undefined : feeds, remarks);
  const done = before?.feeds ?? 0;

  const tally = new FeedTally();
  const hashes: string[] = [];
  async function* rest(): AsyncGenerator<Feeds> {
    for await (const feed of feeds()) {
      const hash = tally.add(feed);
      if (tally.count <= done) continue;
      hashes.push(hash);
      yield feed;
    }
  }
  const joined = (seen: Observations): Observations =>
    before === undefined
      ? seen
      : new Map([...before.observations].map(([name, o]) => [name, mergeObservations([o, seen.get(name) ?? NOTHING])]));
  const seen = await observe(graph, tensors, rest(), hostRunner({ threads: options.threads }), {
    signal,
    remarks,
    total: () => (total === undefined ? undefined : total - done),
    onProgress: (p) => options.onProgress?.({ ...p, done: done + p.done, total: p.total === undefined ? undefined : done + p.total }),
    onCheckpoint:
      checkpoint === undefined
        ? undefined
        : (sofar, count) => {
            // Feeds are read ahead of their runs: the hash is of those that were counted.
            const data = hashOfUnion([...(before === undefined ? [] : [before.keys.data]), ...hashes.slice(0, count)]);
            writeCalibration(checkpoint, of(joined(sofar), done + count, data));
          },
    empty: before === undefined && shard === undefined ? "refuse" : "allow",
  });
  if (shard !== undefined && tally.count === 0 && given > 0) {
    remarks({
      severity: "warning",
      text: `shard ${shard.index} of ${shard.of} holds no feed: the data makes ${given} feed${given === 1 ? "" : "s"} for ${shard.of} shards; its calibration is empty, and merges like any other`,
      where: { file },
      fix: `give at most ${given} shards`,
    });
    return { calibration: of(nothing, 0, tally.hash), graph, resumed: 0 };
  }
  tally.finish(remarks, file);
  return { calibration: of(joined(seen), tally.count, tally.hash), graph, resumed: done };
}

const NOTHING: Observation = new Observer().finish();

/** Every `of`-th feed; `onEnd` gets how many there were in all. */
async function* sharded(
  feeds: AsyncIterable<Feeds>,
  shard: CalibrateOptions["shard"],
  onEnd: (feeds: number) => void,
): AsyncGenerator<Feeds> {
  let i = 0;
  for await (const feed of feeds) if (i++ % (shard?.of ?? 1) === (shard?.index ?? 1) - 1) yield feed;
  onEnd(i);
}

/**
 * What an interrupted call left in its checkpoint, if it was of the same model, tensors, shard and preprocessing, and the data begins with
 * the feeds that it had counted.
 */
async function interrupted(
  checkpoint: string | undefined,
  like: Calibration,
  feeds: (() => AsyncIterable<Feeds>) | undefined,
  remarks: Remarks,
): Promise<Calibration | undefined> {
  if (checkpoint === undefined || feeds === undefined || !existsSync(checkpoint)) return undefined;
  const anew = (why: string): undefined => {
    remarks({
      severity: "warning",
      text: `the interrupted calibration is not used, a new one starts: ${why}`,
      where: { file: checkpoint },
    });
  };
  let found: Calibration;
  try {
    found = readCalibration(checkpoint);
  } catch (error) {
    if (error instanceof PartitaError) return anew(error.what);
    throw error;
  }
  const { model, preprocessing, version } = found.keys;
  if (model !== like.keys.model || version !== like.keys.version) return anew("it is of another model");
  if (preprocessing !== like.keys.preprocessing) return anew("its preprocessing was another");
  if (JSON.stringify(found.shards) !== JSON.stringify(like.shards)) return anew("it is of another shard");
  if ([...like.observations.keys()].some((name) => !found.observations.has(name))) return anew("it is of other tensors");
  const tally = new FeedTally();
  if (found.feeds > 0)
    for await (const feed of feeds()) {
      tally.add(feed);
      if (tally.count === found.feeds) break;
    }
  return tally.hash === found.keys.data ? found : anew("the data has changed");
}
