/**
 * The choice among configurations: range methods, equalization, bias correction, and last the layers that stay float. Each is a trial on feeds
 * held out of calibration, judged by the divergence of the outputs from the float graph's, and kept only if it measures better. The best so far
 * stands after every trial; trials measured before, in a state that was saved, are not run again.
 */
import type { Graph, Node, NodeId, ValueId } from "../ir/types.js";
import type { Fact } from "../ops/define.js";
import { type BiasShift, biasShifts, correctBias } from "./bias.js";
import { type Alphas, type ChannelRanges, equalizable, equalize } from "./equalize.js";
import type { Observations } from "./histogram.js";
import { Judging } from "./judged.js";
import { exposing } from "./layers.js";
import { type Crowd, crowdOf, wilson } from "./leads.js";
import { place } from "./place.js";
import { learnRounding } from "./rounding.js";
import { marginsOf, marginsOver, type Outputs, outputsOf, type Score, scoreOf } from "./score.js";
import type { FeedStore, OpenGraph, RangeMethod, Ranges, Runner } from "./types.js";

/** One way to quantize a graph. */
export interface Configuration extends Alphas {
  readonly method: RangeMethod | "auto";
  readonly correctBias: boolean;
  /** Weights rounded by what their layers compute, not to the nearest. */
  readonly rounding: boolean;
  /** Names of the nodes left float by sensitivity, most sensitive first. */
  readonly floats: readonly string[];
}
export interface Trial extends Score {
  readonly name: string;
  readonly configuration: Configuration;
  /** Whether it was the best when it was measured. */
  readonly kept: boolean;
}
/** What has been measured so far; plain JSON. */
export interface SearchState {
  readonly trials: readonly Trial[];
}

export interface SearchContext {
  readonly graph: Graph;
  readonly facts: (g: Graph) => (v: ValueId) => Fact;
  readonly runner: Runner;
  /** Feeds that ranges are measured on, and feeds that trials are judged on. */
  readonly calibration: FeedStore;
  readonly held: FeedStore;
  observe(g: Graph, tensors: readonly ValueId[], channels?: ReadonlyMap<ValueId, number>): Promise<Observations>;
  ranges(g: Graph, observations: Observations, method: RangeMethod | "auto"): Ranges;
  quantizable(g: Graph): readonly ValueId[];
  /** The user's exclusions. */
  readonly keepFloat: (n: Node) => string | undefined;
}
export interface SearchOptions {
  /** Only this method is tried. */
  readonly method?: RangeMethod | "auto" | undefined;
  /** Steps beyond the choice of a method; all by default. */
  readonly steps?: readonly SearchStep[] | undefined;
  /** Points of agreement with the float graph (in percent) that may be lost before layers are left float. */
  readonly maxDrop: number;
  /** What may be spent on float layers. */
  readonly floatBudget: FloatBudget;
  /** No trial starts after this many milliseconds. */
  readonly budgetMs: number;
  readonly state?: SearchState | undefined;
  readonly onTrial?: ((trial: Trial, state: SearchState) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}
/** Prices and the purse in one unit: multiplications, or microseconds. */
export interface FloatBudget {
  /** What one node in float costs more than in int8. */
  readonly price: (n: Node) => number;
  /** What all may cost, when these are the quantized products. */
  readonly purse: (products: readonly Node[]) => number;
  /** "needed": no more than brings the loss of agreement within `maxDrop`; "all": as long as anything is won. */
  readonly spend: "needed" | "all";
  /** The purse in words, for what falls short. */
  readonly words: string;
}
export type SearchStep = "equalize" | "correct-bias" | "round" | "mixed-precision";

export interface Found {
  readonly best: Trial;
  readonly trials: readonly Trial[];
  /** Why the search ended before its last step, if it did. */
  readonly stopped: string | undefined;
  /** What is lost beyond `maxDrop`, and what would not allow more float layers; undefined where all is within it. */
  readonly shortfall: string | undefined;
  /** Learnt roundings of weights, by node; empty where they go to the nearest. */
  readonly rounded: ReadonlyMap<NodeId, Int8Array>;
  /** The float graph with equalization and corrected biases: what ranges are to be measured on and quantizers placed in. */
  readonly graph: Graph;
}

const METHODS: readonly (RangeMethod | "auto")[] = ["auto", "max", "mse", "entropy", "percentile-99.99", "percentile-99.999"];
const ALPHAS = [0.5, 0.75, 1] as const;
/** Layers tried in leave-one-out at most, largest first; and layers left float at most. */
const SENSITIVITY_LAYERS = 64;
const FLOAT_LAYERS = 32;
/** So many in a row that win nothing beside those left float end it. */
const FLOAT_MISSES = 8;
const AS_IT_IS: Alphas = { alpha: undefined, inputs: undefined };
const evenness = ({ alpha, inputs }: Alphas): string => `${alpha} ${inputs}`;
const NEAREST: ReadonlyMap<NodeId, Int8Array> = new Map();
/** A loss below this is rounding of the outputs themselves: no weight can mend it. */
const EXACT = 1e-7;
/** A configuration with more in it must leave at most this share of the loss: the feeds held out are few, and trials many. */
const BETTER = 0.98;
/** A divergence below this (nats a row, or noise over signal) is nothing to mend with float layers. */
const NOTHING = 1e-3;

/** The reason of layers that sensitivity left float. */
export const LEFT_FLOAT = "left float by the search: quantizing it costs too much agreement";

export async function search(context: SearchContext, options: SearchOptions): Promise<Found> {
  return await new Searching(context, options).run();
}

/** The float graph on the feeds held out: values that are compared, what it gives there, and the leads of its rows on all feeds. */
interface Reference {
  readonly judged: readonly ValueId[];
  readonly outputs: Outputs;
  readonly crowd: Crowd;
}

class Searching {
  readonly #c: SearchContext;
  readonly #o: SearchOptions;
  readonly #start = performance.now();
  readonly #trials: Trial[] = [];
  readonly #known: ReadonlyMap<string, Trial>;
  /** Graphs by equalization, their observations, shifts of biases and roundings: what trials share. */
  readonly #graphs = new Map<string, Graph>();
  readonly #observed = new Map<string, Observations>();
  readonly #shifts = new Map<string, readonly BiasShift[]>();
  readonly #rounded = new Map<string, ReadonlyMap<NodeId, Int8Array>>();
  #float: Reference | undefined;
  #best: Trial | undefined;
  #stopped: string | undefined;

  constructor(context: SearchContext, options: SearchOptions) {
    this.#c = context;
    this.#o = options;
    this.#known = new Map((options.state?.trials ?? []).map((t) => [t.name, t]));
  }

  async run(): Promise<Found> {
    const steps = new Set<SearchStep>(this.#o.steps ?? ["equalize", "correct-bias", "round", "mixed-precision"]);
    const methods = this.#o.method === undefined ? METHODS : [this.#o.method];
    const plain: Configuration = {
      method: methods[0] ?? "auto",
      alpha: undefined,
      inputs: undefined,
      correctBias: false,
      rounding: false,
      floats: [],
    };
    for (const method of methods) await this.#try({ ...plain, method });
    if (steps.has("equalize")) {
      const before = this.#leader();
      for (const inputs of ALPHAS)
        if (await this.#equalizes({ alpha: undefined, inputs })) await this.#try({ ...before.configuration, inputs });
      const { inputs } = this.#leader().configuration;
      for (const alpha of ALPHAS)
        if (await this.#equalizes({ alpha, inputs: undefined })) await this.#try({ ...before.configuration, inputs, alpha });
      // With even channels another method may be best.
      const even = this.#leader();
      if (even !== before) for (const method of methods) await this.#try({ ...even.configuration, method });
    }
    if (steps.has("correct-bias")) await this.#try({ ...this.#leader().configuration, correctBias: true });
    if (steps.has("round") && this.#leader().loss > EXACT) await this.#try({ ...this.#leader().configuration, rounding: true });
    if (steps.has("mixed-precision")) await this.#mixed();
    // Where the products that read the inputs stay float, scaling them wins nothing more.
    const { configuration } = this.#leader();
    if (configuration.inputs !== undefined && configuration.floats.length > 0)
      await this.#try({ ...configuration, inputs: undefined }, 1 / BETTER);
    const best = this.#leader();
    return {
      best,
      trials: this.#trials,
      stopped: this.#stopped,
      shortfall: this.#lost(best) ? this.#shortfall(best) : undefined,
      graph: await this.#graphOf(best.configuration),
      rounded: await this.#roundedOf(best.configuration),
    };
  }

  #leader(): Trial {
    if (this.#best === undefined) throw new Error("no trial was run");
    return this.#best;
  }
  /** Whether a further trial may start; the first always does. */
  #mayGoOn(): boolean {
    this.#o.signal?.throwIfAborted();
    if (this.#best === undefined) return true;
    if (performance.now() - this.#start > this.#o.budgetMs) {
      this.#stopped ??= `the time for trials, ${Math.round(this.#o.budgetMs / 1000)} s, was over`;
      return false;
    }
    return true;
  }

  /** Measures a configuration, unless it was. It becomes the best when it leaves less than `share` of the best's loss. */
  async #try(configuration: Configuration, share = BETTER): Promise<Trial | undefined> {
    const name = nameOf(configuration);
    const done = this.#trials.find((t) => t.name === name);
    const known = this.#known.get(name);
    // What is known costs no time.
    if (done !== undefined || (known === undefined && !this.#mayGoOn())) return done;
    const score = known ?? (await this.#score(configuration));
    const kept = this.#best === undefined || score.loss < this.#best.loss * share;
    const { loss, noise, agreement, likely, rows } = score;
    const trial: Trial = { name, configuration, loss, noise, agreement, likely, rows, kept };
    this.#trials.push(trial);
    if (kept) this.#best = trial;
    this.#o.onTrial?.(trial, { trials: this.#trials });
    return trial;
  }

  async #score(configuration: Configuration): Promise<Score> {
    const float = (this.#float ??= await this.#reference());
    const graph = await this.#graphOf(configuration);
    const observed = await this.#observations(configuration);
    const floats = new Set(configuration.floats);
    const placed = place(graph, this.#c.facts(graph), this.#c.ranges(graph, observed, configuration.method), {
      rounded: await this.#roundedOf(configuration),
      keepFloat: (n) => this.#c.keepFloat(n) ?? (floats.has(n.name) ? LEFT_FLOAT : undefined),
    });
    return scoreOf(
      float.outputs,
      await this.#opened(exposing(placed.graph, float.judged), (open) => outputsOf(open, this.#c.held, this.#o.signal)),
      float.crowd,
    );
  }
  /** No quantized graph was fitted to any of this. */
  async #reference(): Promise<Reference> {
    const { graph, facts, held, calibration } = this.#c;
    const judging = new Judging(graph, facts(graph), new Set(this.#c.quantizable(graph)));
    for (;;) {
      const judged = judging.values();
      const found = await this.#opened(exposing(graph, judged), async (open) => {
        const outputs = await outputsOf(open, held, this.#o.signal);
        if (await judging.refuses(judged, outputs, held)) return undefined;
        const margins = outputs.flatMap(marginsOf);
        const more = margins.length === 0 || held === calibration ? [] : await marginsOver(open, calibration, this.#o.signal);
        return { judged, outputs, crowd: crowdOf([...margins, ...more]) };
      });
      if (found !== undefined) return found;
    }
  }
  async #opened<T>(g: Graph, use: (open: OpenGraph) => Promise<T>): Promise<T> {
    const open = await this.#c.runner.open(g);
    try {
      return await use(open);
    } finally {
      await open.dispose();
    }
  }

  async #graphOf(c: Configuration): Promise<Graph> {
    const even = await this.#equalized(c);
    if (!c.correctBias) return even;
    const key = `${evenness(c)} ${c.method}`;
    let shifts = this.#shifts.get(key);
    if (shifts === undefined) {
      const ranges = this.#c.ranges(even, await this.#observations(c), c.method);
      shifts = await biasShifts(even, this.#c.facts, ranges, this.#c.calibration, this.#c.runner, {
        keepFloat: this.#c.keepFloat,
        signal: this.#o.signal,
      });
      this.#shifts.set(key, shifts);
    }
    const floats = new Set(c.floats);
    return correctBias(even, shifts, (n) => !floats.has(n.name));
  }
  async #roundedOf(c: Configuration): Promise<ReadonlyMap<NodeId, Int8Array>> {
    if (!c.rounding) return NEAREST;
    const key = `${evenness(c)} ${c.method} ${c.correctBias}`;
    let rounded = this.#rounded.get(key);
    if (rounded === undefined) {
      const graph = await this.#graphOf({ ...c, floats: [] });
      const ranges = this.#c.ranges(graph, await this.#observations(c), c.method);
      const { keepFloat } = this.#c;
      rounded = await learnRounding(graph, this.#c.facts, ranges, this.#c.calibration, this.#c.runner, {
        keepFloat,
        signal: this.#o.signal,
      });
      this.#rounded.set(key, rounded);
    }
    return rounded;
  }
  async #equalized(c: Alphas): Promise<Graph> {
    const { graph: base } = this.#c;
    const key = evenness(c);
    if (key === evenness(AS_IT_IS)) return base;
    let graph = this.#graphs.get(key);
    if (graph === undefined) {
      graph = equalize(base, this.#c.facts(base), channelRanges(await this.#observations(AS_IT_IS)), c).graph;
      this.#graphs.set(key, graph);
    }
    return graph;
  }
  /** Whether equalization changes anything. */
  async #equalizes(c: Alphas): Promise<boolean> {
    return (await this.#equalized(c)) !== this.#c.graph;
  }
  async #observations(c: Alphas): Promise<Observations> {
    const key = evenness(c);
    let found = this.#observed.get(key);
    if (found === undefined) {
      const g = await this.#equalized(c);
      const quantizable = this.#c.quantizable(g);
      const channels = g === this.#c.graph ? equalizable(g, this.#c.facts(g), new Set(quantizable)) : undefined;
      const tensors = [...new Set([...quantizable, ...(channels?.keys() ?? [])])];
      found = await this.#c.observe(g, tensors, channels);
      this.#observed.set(key, found);
    }
    return found;
  }

  /**
   * Points of agreement that are lost: what noise and leads make likely, or what was counted where even the lower end of its 95 % interval is more.
   * Without ranked rows: all, unless there is no noise.
   */
  #pointsLost(t: Trial): number {
    if (!(t.loss > NOTHING || (t.noise ?? 0) > NOTHING)) return 0;
    if (t.likely === undefined || t.agreement === undefined) return 100;
    return 100 * Math.max(1 - t.likely, wilson(1 - t.agreement, t.rows).low);
  }
  #lost(t: Trial): boolean {
    return this.#pointsLost(t) > this.#o.maxDrop;
  }
  #shortfall(t: Trial): string | undefined {
    if (t.agreement === undefined) return undefined;
    const points = this.#pointsLost(t).toFixed(1);
    return `about ${points} points of agreement are lost, ${this.#o.maxDrop} were allowed; ${this.#o.floatBudget.words}`;
  }

  /** Leaves layers float while more is lost than may be and the purse allows it: residuals first, then layers, those that win most for their price. */
  async #mixed(): Promise<void> {
    const { price, purse, spend } = this.#o.floatBudget;
    const goesOn = (): boolean => spend === "all" || this.#lost(this.#leader());
    if (!goesOn()) return;
    const { residuals, products } = await this.#quantizedBy(this.#leader().configuration);
    let left = purse(products);
    // They cost no multiplication, and every block adds its rounding to the same tensors.
    const skipping = residuals.reduce((a, n) => a + price(n), 0);
    if (residuals.length > 0 && skipping <= left) {
      const before = this.#leader();
      await this.#try({ ...before.configuration, floats: residuals.map((n) => n.name) });
      if (this.#leader() !== before) left -= skipping;
    }
    if (!goesOn()) return;
    const start = this.#leader();
    const floatsWith = (names: readonly string[]): Configuration => ({
      ...start.configuration,
      floats: [...start.configuration.floats, ...names],
    });
    const ranked: { readonly node: Node; readonly loss: number }[] = [];
    for (const node of [...products].sort((a, b) => price(b) - price(a)).slice(0, SENSITIVITY_LAYERS)) {
      const trial = await this.#try(floatsWith([node.name]), price(node) <= left ? BETTER : 0);
      if (trial === undefined) break;
      ranked.push({ node, loss: trial.loss });
    }
    // By what is won for the price; free ones first. One that wins nothing alone may do so once louder ones are gone.
    const least = Math.max(1e-3 * products.reduce((a, n) => a + price(n), 0), Number.MIN_VALUE);
    const gain = (r: { readonly node: Node; readonly loss: number }): number => (start.loss - r.loss || 0) / Math.max(price(r.node), least);
    const names: string[] = [];
    let loss = start.loss;
    let misses = 0;
    for (const { node } of ranked.sort((a, b) => gain(b) - gain(a))) {
      if (!goesOn() || names.length >= FLOAT_LAYERS || misses >= FLOAT_MISSES) break;
      if (price(node) > left) continue;
      const trial = await this.#try(floatsWith([...names, node.name]));
      if (trial === undefined) break;
      misses = trial.loss >= loss ? misses + 1 : 0;
      if (misses > 0) continue;
      loss = trial.loss;
      names.push(node.name);
      left -= price(node);
    }
  }
  /** The products that a configuration quantizes, and the sums whose residual operand it quantizes. */
  async #quantizedBy(c: Configuration): Promise<{ readonly residuals: readonly Node[]; readonly products: readonly Node[] }> {
    const graph = await this.#graphOf(c);
    const ranges = this.#c.ranges(graph, await this.#observations(c), c.method);
    const placed = place(graph, this.#c.facts(graph), ranges, { keepFloat: this.#c.keepFloat });
    const weighted = new Set<NodeId>(placed.decisions.flatMap((d) => (d.kind === "float" || d.reader === undefined ? [] : [d.reader])));
    const changed = new Set(placed.graph.nodes.filter((n) => n.op === "Add").map((n) => `${n.id} ${n.ins.join()}`));
    const named = graph.nodes.filter((n) => n.name !== "");
    return {
      residuals: named.filter((n) => n.op === "Add" && !changed.has(`${n.id} ${n.ins.join()}`)),
      products: named.filter((n) => n.op !== "Add" && weighted.has(n.id)),
    };
  }
}

/** One line that says what a configuration does; the key of a saved trial. */
export function nameOf(c: Configuration): string {
  return [
    `ranges by ${c.method}`,
    ...(c.inputs === undefined ? [] : [`inputs scaled, alpha ${c.inputs}`]),
    ...(c.alpha === undefined ? [] : [`equalized, alpha ${c.alpha}`]),
    ...(c.correctBias ? ["biases corrected"] : []),
    ...(c.rounding ? ["weights rounded by their layers' outputs"] : []),
    ...(c.floats.length === 0 ? [] : [`float: ${c.floats.join(", ")}`]),
  ].join("; ");
}

function channelRanges(o: Observations): ChannelRanges {
  return new Map([...o].flatMap(([name, { channels }]) => (channels === undefined ? [] : [[name, channels.absmax] as const])));
}
