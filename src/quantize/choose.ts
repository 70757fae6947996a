/** Feeds parted for the search, the search, and its state on disk. */
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import * as v from "valibot";
import { replaceFile } from "../atomic.js";
import { defineError } from "../diagnostics.js";
import { graphHash } from "../ir/hash.js";
import type { Graph, Node, NodeId, ValueId } from "../ir/types.js";
import type { EngineName, Fact } from "../ops/define.js";
import { costOf } from "../ops/infer.js";
import { nodeUs, startUs } from "../partition/cost.js";
import { passedSlots } from "./candidates.js";
import { observe } from "./observe.js";
import { quantizable } from "./place.js";
import { rangesOf } from "./ranges.js";
import { RANGE_METHODS } from "./scales.js";
import { type FloatBudget, type Found, type SearchState, search, type Trial } from "./search.js";
import type { FeedStore, RangeMethod, Runner } from "./types.js";

export const staleTrials = defineError<{ path: string; why: string }>(
  "P1650",
  "a file of trials is not of this search",
  ({ path, why }) => ({
    what: `'${path}' ${why}`,
    fix: "name another file in calibration.trials (--trials), or delete this one to search anew",
  }),
  2,
);

/** How long and how far the best configuration is looked for. */
export interface ChooseOptions {
  /** Points of agreement with the float model that may be lost before layers are left float. Default 0.5. */
  readonly maxDrop?: number | undefined;
  /**
   * Share of the quantized multiplications that may go back to float for it, 0 to 1, small first layers not counted; 0: none. Default 0.1, and up to 0.5 of
   * models that int8 makes faster by less than a call of their engine costs.
   */
  readonly maxFloatShare?: number | undefined;
  /**
   * How much longer than all in int8 the model may take, 1.2 for a fifth, by the estimate of times for its target. Where it is given, layers go back to
   * float as long as anything is won by it, whatever `maxDrop` and `maxFloatShare` say. At least 1.
   */
  readonly maxSlowdown?: number | undefined;
  /** No trial starts after this many seconds. Default 120. */
  readonly budgetSeconds?: number | undefined;
  /** A JSON file that keeps every trial; a search that was stopped goes on from it. */
  readonly trials?: string | undefined;
}
export interface ChooseContext extends ChooseOptions {
  readonly method?: RangeMethod | "auto" | undefined;
  readonly keepFloat: (n: Node) => string | undefined;
  /** What is known of a graph's values. */
  readonly facts: (g: Graph) => (v: ValueId) => Fact;
  readonly runner: Runner;
  /** The engine whose times are estimated for `maxSlowdown`. */
  readonly engine?: EngineName | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onTrial?: ((trial: Trial) => void) | undefined;
  /** A feed, of how many, was observed for the ranges of a trial. */
  readonly onFeed?: ((done: number, of: number) => void) | undefined;
}
export interface Chosen extends Found {
  /** Feeds that the trials were judged on. */
  readonly held: FeedStore;
}

/**
 * Half of the feeds judges the trials: a loss of half a point shows on some hundred rows, not on dozens, and ranges need fewer feeds than that (the
 * chosen configuration's come from all). No more than `HELD_MOST`, and of a large model no more than what makes a trial HELD_FLOPS, but
 * `HELD_LEAST`. Ranges during the search come from at most `PROBED` others.
 */
const HELD_SHARE = 0.5;
const HELD_MOST = 256;
const HELD_LEAST = 64;
const HELD_FLOPS = 3e10;
const PROBED = 128;
/** Fewer feeds than this are not parted: the same ones measure and judge. */
const FEW = 10;

/** Share of the quantized multiplications that may go back to float where nothing else is said. */
const MOST_FLOAT = 0.1;
/** First layers with at most this share of all multiplications may stay float beside the others. */
const FIRST_LAYER_SHARE = 0.25;
/**
 * Multiplications by node, which keeps its id when a graph is equalized or its biases corrected. First layers count as free: they read data as
 * it comes in, whose channels may differ more than one scale holds, and engines gain least from them.
 */
function costsOf(g: Graph, facts: (v: ValueId) => Fact, free: number): ReadonlyMap<NodeId, number> {
  const costs = new Map(g.nodes.map((n) => [n.id, costOf(g, n, facts).flops] as const));
  const total = [...costs.values()].reduce((a, b) => a + b, 0);
  const fed = new Set<ValueId>(g.inputs);
  for (const n of g.nodes) {
    const [x] = n.ins;
    if (x === undefined || !fed.has(x)) continue;
    if (passedSlots(n, g) !== undefined) for (const v of n.outs) if (v !== undefined) fed.add(v);
    if ((costs.get(n.id) ?? 0) <= free * total) costs.set(n.id, 0);
  }
  return costs;
}

/** Times that ONNX Runtime's integer Conv is faster than its float one: 3.5 measured with VNNI instructions (64 channels, 3 x 3, 56 x 56, one thread). */
const HOST_INT8 = 3.5;
/**
 * Estimated microseconds that nodes take in int8, and that each takes longer in float: of nodes by themselves, without what surrounds a segment.
 * What int8 leaves in float is float32. By node, which keeps its id in graphs that are made of this one.
 */
function timesOf(
  g: Graph,
  { facts, engine = "host" }: ChooseContext,
): { readonly int8: number; readonly longer: ReadonlyMap<NodeId, number> } {
  const known = facts(g);
  let all = 0;
  const longer = new Map<NodeId, number>();
  for (const n of g.nodes) {
    const cost = costOf(g, n, known);
    const int8 = nodeUs(engine, engine === "host" ? { ...cost, flops: cost.flops / HOST_INT8 } : cost, "int8");
    all += int8;
    longer.set(n.id, Math.max(0, nodeUs(engine, cost, "fp32") - int8));
  }
  return { int8: all, longer };
}

/** Where all that int8 wins is less than a call costs, the share of the multiplications that may go back to float: the rest stays int8, as was asked. */
const MOST_FLOAT_SMALL = 0.5;
/** A share of the multiplications; more of a model so small that what it takes longer is less than what a call of its engine costs anyway. */
function multiplications(g: Graph, context: ChooseContext): FloatBudget {
  const { facts, engine = "host", maxFloatShare } = context;
  const costs = costsOf(g, facts(g), maxFloatShare === 0 ? 0 : FIRST_LAYER_SHARE);
  const price = (n: Node): number => (n.op === "Add" ? 0 : (costs.get(n.id) ?? 0));
  const { longer } = timesOf(g, context);
  return {
    price,
    purse: (products) => {
      const won = products.reduce((a, n) => a + (longer.get(n.id) ?? 0), 0);
      const share = maxFloatShare ?? Math.max(MOST_FLOAT, Math.min(MOST_FLOAT_SMALL, startUs(engine) / won));
      return share * products.reduce((a, n) => a + price(n), 0);
    },
    spend: "needed",
    words: `${maxFloatShare === undefined ? "the default of maxFloatShare" : `maxFloatShare ${maxFloatShare}`} allows no more float layers that would mend it`,
  };
}
function microseconds(g: Graph, context: ChooseContext, maxSlowdown: number): FloatBudget {
  const { int8, longer } = timesOf(g, context);
  return {
    price: (n) => longer.get(n.id) ?? 0,
    purse: () => (maxSlowdown - 1) * int8,
    spend: "all",
    words: `maxSlowdown ${maxSlowdown} allows no more float layers that would mend it`,
  };
}

/** Throws P1650 for a file of other trials, and what running a graph throws. */
export async function choose(graph: Graph, feeds: FeedStore, context: ChooseContext): Promise<Chosen> {
  const work = graph.nodes.reduce((a, n) => a + costOf(graph, n, context.facts(graph)).flops, 0);
  const most = Math.max(HELD_LEAST, Math.min(HELD_MOST, Math.floor(HELD_FLOPS / Math.max(work, 1))));
  const [rest, held] = feeds.length < FEW ? [feeds, feeds] : feeds.split(Math.min(HELD_SHARE, most / feeds.length));
  const calibration = rest.length > PROBED ? rest.split(PROBED / rest.length)[1] : rest;
  const { facts, keepFloat, runner, signal } = context;
  const key = createHash("sha256")
    .update(`${graphHash(graph, "trials/4")} ${feeds.hash} ${context.method ?? ""}`)
    .digest("hex");
  const path = context.trials;
  const state = path === undefined ? undefined : readTrials(path, key);
  const found = await search(
    {
      graph,
      facts,
      runner,
      calibration,
      held,
      observe: (g, tensors, channels) =>
        observe(g, tensors, calibration.all(), runner, {
          channels,
          total: calibration.length,
          signal,
          onProgress: ({ done }) => context.onFeed?.(done, calibration.length),
        }),
      ranges: rangesOf,
      quantizable: (g) => quantizable(g, facts(g), { keepFloat }),
      keepFloat,
    },
    {
      method: context.method === "auto" ? undefined : context.method,
      maxDrop: context.maxDrop ?? 0.5,
      floatBudget: context.maxSlowdown === undefined ? multiplications(graph, context) : microseconds(graph, context, context.maxSlowdown),
      budgetMs: 1000 * (context.budgetSeconds ?? 120),
      state,
      signal,
      onTrial(trial, all) {
        if (path !== undefined) writeTrials(path, key, all);
        context.onTrial?.(trial);
      },
    },
  );
  return { ...found, held };
}

const SCHEMA = "partita.trials/4";
const amount = v.pipe(v.number(), v.minValue(0));
const trials = v.strictObject({
  schema: v.literal(SCHEMA),
  key: v.string(),
  trials: v.array(
    v.strictObject({
      name: v.string(),
      configuration: v.strictObject({
        method: v.picklist(["auto", ...RANGE_METHODS]),
        alpha: v.optional(amount),
        inputs: v.optional(amount),
        correctBias: v.boolean(),
        rounding: v.boolean(),
        floats: v.array(v.string()),
      }),
      /** Null: the outputs were not finite. */
      loss: v.nullable(amount),
      noise: v.optional(v.nullable(amount)),
      agreement: v.optional(amount),
      likely: v.optional(amount),
      rows: amount,
      kept: v.boolean(),
    }),
  ),
});

function readTrials(path: string, key: string): SearchState | undefined {
  if (!existsSync(path)) return undefined;
  let raw: unknown;
  try {
    raw = JSON.parse(readFileSync(path, "utf8"));
  } catch (error) {
    throw staleTrials({ path, why: `cannot be read: ${error instanceof Error ? error.message : error}` });
  }
  const parsed = v.safeParse(trials, raw);
  if (!parsed.success) throw staleTrials({ path, why: `is no file of trials: ${parsed.issues[0].message}` });
  if (parsed.output.key !== key) throw staleTrials({ path, why: "belongs to another model, other feeds or another method" });
  return {
    trials: parsed.output.trials.map((t) => ({
      ...t,
      configuration: { ...t.configuration, alpha: t.configuration.alpha, inputs: t.configuration.inputs },
      loss: t.loss ?? Number.POSITIVE_INFINITY,
      noise: t.noise === null ? Number.POSITIVE_INFINITY : t.noise,
      agreement: t.agreement,
      likely: t.likely,
    })),
  };
}
function writeTrials(path: string, key: string, state: SearchState): void {
  const text = JSON.stringify({ schema: SCHEMA, key, trials: state.trials }, undefined, 1);
  // JSON writes Infinity as null, which reading turns back.
  replaceFile(path, `${text}\n`);
}
