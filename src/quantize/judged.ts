/**
 * What trials are judged by: the outputs, where these are floating-point tensors. What ranks, counts or selects (ArgMax, a threshold, NonMaxSuppression)
 * hides noise until it turns a decision, so such outputs are judged by the tensors that they are made of.
 */
import { producersOf, readsOf } from "../ir/graph.js";
import type { Graph, Node, ValueId } from "../ir/types.js";
import { dtypeOf, type Fact, shapeOf } from "../ops/define.js";
import type { Outputs } from "./score.js";
import type { FeedStore } from "./types.js";

const FLOATS: ReadonlySet<string | undefined> = new Set(["float32", "float64", "float16"]);
/** Every round runs the feeds; after so many, tensors of unknown size are taken as loose unseen. */
const ROUNDS = 4;
/** Operators that read a tensor for its dims alone. */
const DIMS_ALONE: ReadonlySet<string> = new Set(["Shape", "Size"]);

export class Judging {
  readonly #g: Graph;
  readonly #facts: (v: ValueId) => Fact;
  readonly #producers: readonly (Node | undefined)[];
  /** What is made from quantized tensors; the rest is the same in every trial, and would only dilute shares. */
  readonly #changed = new Set<ValueId>();
  /** Tensors whose size depends on what is fed, not on its size alone: those of two graphs do not compare. */
  readonly #loose = new Set<ValueId>();
  #rounds = 0;

  constructor(g: Graph, facts: (v: ValueId) => Fact, quantized: ReadonlySet<ValueId>) {
    this.#g = g;
    this.#facts = facts;
    this.#producers = producersOf(g);
    for (const n of g.nodes)
      if (readsOf(n).some((v) => quantized.has(v) || this.#changed.has(v)))
        for (const v of n.outs) if (v !== undefined) this.#changed.add(v);
  }

  /** The nearest tensors to the outputs that trials can be judged by; the outputs where there are none. */
  values(): readonly ValueId[] {
    const found: ValueId[] = [];
    const queue = [...new Set(this.#g.outputs)];
    const seen = new Set(queue);
    for (const v of queue) {
      if (!this.#changed.has(v)) continue;
      if (FLOATS.has(dtypeOf(this.#facts(v))) && !this.#loose.has(v) && (this.#rounds < ROUNDS || this.#steady(v))) {
        found.push(v);
        continue;
      }
      const maker = this.#producers[v];
      for (const u of maker === undefined || DIMS_ALONE.has(maker.op) ? [] : readsOf(maker))
        if (!seen.has(u)) {
          seen.add(u);
          queue.push(u);
        }
    }
    return found.length > 0 ? found : this.#g.outputs;
  }

  /** Whether some of these turned out not to compare; `values` gives others then. */
  async refuses(judged: readonly ValueId[], outputs: Outputs, feeds: FeedStore): Promise<boolean> {
    const open = judged.filter((v) => this.#changed.has(v) && !this.#loose.has(v) && !this.#steady(v));
    if (open.length === 0) return false;
    this.#rounds += 1;
    const known = new Map<string, string>();
    let [any, i] = [false, 0];
    for await (const feed of feeds.all()) {
      const sizes = Object.entries(feed).map(([name, t]) => `${name} ${t.dims.join()}`);
      const record = outputs[i++] ?? {};
      for (const v of open) {
        const dims = record[this.#g.values[v]?.name ?? ""]?.dims.join() ?? "";
        const key = JSON.stringify([v, ...sizes]);
        const before = known.get(key) ?? dims;
        known.set(key, before);
        if (before === dims || this.#loose.has(v)) continue;
        this.#loose.add(v);
        any = true;
      }
    }
    return any;
  }
  /** Whether equal dims of the inputs give it equal dims, as far as inference knows. */
  #steady(v: ValueId): boolean {
    return shapeOf(this.#facts(v))?.includes("?") === false;
  }
}
