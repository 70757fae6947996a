/**
 * The line of quantization: the graph that the passes left -> ranges -> a graph with Q/DQ. A graph that carries quantizers keeps them.
 *
 * Whatever chooses among configurations (range methods, graph transforms that keep the function, nodes left float) does so between the
 * ranges and `place`: it hands over another graph, other ranges, another `keepFloat`.
 */
import { defineError, didYouMean, type Remarks } from "../diagnostics.js";
import { displayName, valueAt } from "../ir/graph.js";
import type { Graph, Node } from "../ir/types.js";
import type { EngineName } from "../ops/define.js";
import { type InferOptions, inferGraph } from "../ops/infer.js";
import { matched } from "../partition/verdicts.js";
import { whyNone } from "./candidates.js";
import { type ChooseContext, type ChooseOptions, type Chosen, choose } from "./choose.js";
import { type Drift, driftOf } from "./drift.js";
import { einsumsAsProducts } from "./einsum.js";
import type { Observations } from "./histogram.js";
import { honoured } from "./honour.js";
import { observe } from "./observe.js";
import { carriesQuantizers, place, quantizable } from "./place.js";
import { rangesOf } from "./ranges.js";
import { LEFT_FLOAT, type Trial } from "./search.js";
import type { FeedStore, QuantizerDecision, RangeMethod, Ranges, Runner } from "./types.js";

export const nothingToCalibrate = defineError<Record<never, never>>(
  "P1630",
  "int8 was asked for without ranges",
  () => ({
    what: "precision int8 needs the ranges of the model's activations, and neither the options nor the model give them",
    why: "the model carries no QuantizeLinear and DequantizeLinear, and there is no calibration",
    fix: "give calibration: { data } with some hundred typical feeds (--calibration FILE.npz or a folder), a calibration file or table, or a model with Q/DQ from quantization-aware training",
  }),
  2,
);
export const excludedNothing = defineError<{ match: string; near: string | undefined }>(
  "P1631",
  "an exclusion from quantization matches nothing",
  ({ match, near }) => ({
    what: `no node, origin or operator matches '${match}' in calibration.exclude`,
    fix: near === undefined ? "list the names with `partita inspect MODEL --ir`" : `did you mean '${near}'?`,
  }),
  2,
);
export const rangesMissing = defineError<{ count: number; of: number; first: string }>(
  "P1632",
  "a calibration does not cover the model",
  ({ count, of, first }) => ({
    what: `${count} of the ${of} tensors that int8 quantizes have no range in it, the first is '${first}'`,
    why: "it was made for another model, or for another version of this one",
    fix: "calibrate this model: partita calibrate MODEL --data ...",
  }),
);
export const nothingToQuantize = defineError<{ reason: string }>(
  "P1633",
  "int8 was asked for and nothing can be quantized",
  ({ reason }) => ({
    what: `no operand of the graph can be read as int8: ${reason}`,
    fix: "compile with another precision, or loosen calibration.exclude",
  }),
);

export interface QuantizeOptions {
  /** Feeds to observe; or what was observed, or the ranges themselves. */
  readonly feeds?: FeedStore | undefined;
  readonly observations?: Observations | undefined;
  /** Number of feeds behind `observations`. */
  readonly observed?: number | undefined;
  readonly ranges?: Ranges | undefined;
  /** Where observations and ranges come from, for the report. */
  readonly source?: "file" | "table" | undefined;
  readonly method?: RangeMethod | "auto" | undefined;
  /** Nodes that stay float, by name, operator, pattern or region as in `pin`. */
  readonly exclude?: readonly (string | RegExp)[] | undefined;
  /** Look for the best configuration on a part of the feeds; undefined: the method alone decides. */
  readonly search?: ChooseOptions | undefined;
  /** Fail where nothing can be quantized; a remark says so otherwise. */
  readonly strict?: boolean | undefined;
  readonly shapes?: InferOptions["shapes"];
  readonly runner: Runner;
  /** The engine that the graph is meant for. */
  readonly engine?: EngineName | undefined;
  readonly remarks?: Remarks | undefined;
  readonly signal?: AbortSignal | undefined;
  /** 0 to 1, and how far it is in words. */
  readonly onProgress?: ((fraction: number, detail: string) => void) | undefined;
}
export interface QuantizationSummary {
  readonly source: "calibration" | "graph" | "file" | "table";
  readonly feeds: { readonly calibration: number; readonly held: number };
  /** How ranges were chosen, in words. */
  readonly configuration: string;
  readonly decisions: readonly QuantizerDecision[];
  readonly observations?: Observations | undefined;
  /** What was tried, the best of it, and why the search ended early if it did. */
  readonly trials: readonly Trial[];
  readonly best?: Trial | undefined;
  readonly stopped?: string | undefined;
  readonly shortfall?: string | undefined;
  /** Where the graph leaves the float one; measured on the feeds held out. */
  readonly drift?: Drift | undefined;
}
export interface Quantized {
  readonly graph: Graph;
  readonly summary: QuantizationSummary;
}

/** Throws P1630 without ranges, P1631 for an exclusion of nothing, P1632 for ranges of another model, P1633 when nothing is left to quantize (strict), and what `observe` throws. */
export async function quantize(given: Graph, options: QuantizeOptions): Promise<Quantized> {
  if (carriesQuantizers(given)) {
    if (options.feeds !== undefined || options.observations !== undefined || options.ranges !== undefined)
      options.remarks?.({ severity: "note", text: "the model carries quantizers of its own; they are used, and the calibration is not" });
    const feeds = { calibration: 0, held: 0 };
    const summary = { source: "graph", feeds, configuration: "the model's own quantizers", decisions: [], trials: [] } as const;
    return { graph: honoured(given), summary };
  }
  const { feeds, method = "auto" } = options;
  if (feeds === undefined && options.observations === undefined && options.ranges === undefined)
    throw nothingToCalibrate({}, { file: given.extra?.file });
  const excluded = exclusions(given, options.exclude ?? []);
  const graph = einsumsAsProducts(given, options.shapes, (n) => excluded(n) !== undefined);
  const factsOf = inferredOnce(options.shapes);
  const searching =
    feeds !== undefined && options.search !== undefined && quantizable(graph, factsOf(graph), { keepFloat: excluded }).length > 0;
  const chosen = searching ? await chosenFor(graph, feeds, { keepFloat: excluded, facts: factsOf }, options) : undefined;
  const even = chosen?.graph ?? graph;
  const floats = new Set(chosen?.best.configuration.floats);
  const keepFloat = (n: Node): string | undefined => excluded(n) ?? (floats.has(n.name) ? LEFT_FLOAT : undefined);
  const facts = factsOf(even);
  const tensors = quantizable(even, facts, { keepFloat });
  const observations =
    feeds === undefined
      ? options.observations
      : await observe(even, tensors, feeds.all(), options.runner, {
          total: feeds.length,
          signal: options.signal,
          remarks: options.remarks,
          onProgress: ({ done }) =>
            options.onProgress?.(SEARCHING + ((1 - SEARCHING) * done) / feeds.length, `ranges from feed ${done} of ${feeds.length}`),
        });
  const ranges = options.ranges ?? rangesOf(even, observations ?? new Map(), chosen?.best.configuration.method ?? method);
  const open = tensors.filter((v) => !ranges.has(valueAt(even, v).name));
  const [first] = open;
  if (first !== undefined)
    throw rangesMissing({ count: open.length, of: tensors.length, first: valueAt(even, first).name }, { file: graph.extra?.file });
  const placed = place(even, facts, ranges, { keepFloat, rounded: chosen?.rounded });
  const { decisions } = placed;
  if (!decisions.some((d) => d.kind === "activation")) {
    const reason = decisions.find((d) => d.kind === "float")?.why ?? whyNone(graph);
    const none = nothingToQuantize({ reason }, { file: graph.extra?.file });
    if (options.strict === true) throw none;
    options.remarks?.({ severity: "warning", text: `${none.what}; the model runs in float`, where: none.where, fix: none.fix });
  }
  const drift =
    chosen === undefined || observations === undefined
      ? undefined
      : await driftOf(even, placed, observations, chosen.held, options.runner, { signal: options.signal });
  const byRule = method === "auto" ? "mse; max behind normalisations, GELU and attention" : method;
  return {
    graph: placed.graph,
    summary: {
      source: feeds === undefined ? (options.source ?? "file") : "calibration",
      feeds: { calibration: feeds?.length ?? options.observed ?? 0, held: chosen?.held.length ?? 0 },
      configuration: chosen?.best.name ?? (options.ranges !== undefined ? "ranges as given" : byRule),
      decisions,
      trials: chosen?.trials ?? [],
      ...(chosen === undefined ? {} : { best: chosen.best, stopped: chosen.stopped, shortfall: chosen.shortfall, drift }),
      ...(observations === undefined ? {} : { observations }),
    },
  };
}

/** Share of the progress that the search takes. */
const SEARCHING = 0.6;

/** Facts of graphs, each inferred once. */
function inferredOnce(shapes: InferOptions["shapes"]): ChooseContext["facts"] {
  const known = new WeakMap<Graph, ReturnType<ChooseContext["facts"]>>();
  return (g) => {
    let facts = known.get(g);
    if (facts === undefined) known.set(g, (facts = inferGraph(g, { shapes }).facts));
    return facts;
  };
}

function chosenFor(
  graph: Graph,
  feeds: FeedStore,
  context: Pick<ChooseContext, "keepFloat" | "facts">,
  options: QuantizeOptions,
): Promise<Chosen> {
  let done = 0;
  let best: Trial | undefined;
  return choose(graph, feeds, {
    ...options.search,
    ...context,
    method: options.method,
    runner: options.runner,
    engine: options.engine,
    signal: options.signal,
    // Trials observe as well; they tell more.
    onFeed: (feed, of) => done === 0 && options.onProgress?.(0, `ranges of the first trial from feed ${feed} of ${of}`),
    // The number of trials is not known beforehand: every one takes a part of what is left.
    onTrial(trial) {
      if (best === undefined || trial.kept) best = trial;
      options.onProgress?.(SEARCHING * (1 - 0.85 ** ++done), `trial ${done}, best so far '${best.name}' (${scoreText(best)})`);
    },
  });
}

const scoreText = ({ likely, loss }: Trial): string =>
  likely === undefined ? `loss ${loss.toPrecision(3)}` : `expected agreement ${(100 * likely).toFixed(2)} %`;

/** The user's exclusions as a reason by node. Throws P1631. */
export function exclusions(g: Graph, exclude: readonly (string | RegExp)[]): (n: Node) => string | undefined {
  const reasons = new Map<number, string>();
  for (const match of exclude) {
    const nodes = matched(g, match);
    if (nodes.length === 0)
      throw excludedNothing({
        match: String(match),
        near: typeof match === "string" ? didYouMean(match, new Set(g.nodes.flatMap((n) => [displayName(g, n), n.op]))) : undefined,
      });
    for (const n of nodes) reasons.set(n.id, `excluded by '${String(match)}'`);
  }
  return (n) => reasons.get(n.id);
}
