/** Which method gives a tensor its range, and the ranges of all tensors by it. */
import { producersOf } from "../ir/graph.js";
import type { Graph, Node, ValueId } from "../ir/types.js";
import { passedSlots } from "./candidates.js";
import type { Observations } from "./histogram.js";
import { amaxOf } from "./scales.js";
import type { RangeMethod, Ranges } from "./types.js";

/**
 * Results whose rare large elements carry meaning, so that nothing may be clipped: normalised activations keep outlier channels, GELU and
 * attention long tails. "MSE" clips them, and the layers behind them lose more than it saves.
 */
const UNCLIPPED: ReadonlySet<string> = new Set([
  "LayerNormalization",
  "RMSNormalization",
  "SkipLayerNormalization",
  "SkipSimplifiedLayerNormalization",
  "SimplifiedLayerNormalization",
  "Gelu",
  "FastGelu",
  "BiasGelu",
  "QuickGelu",
  "Softmax",
  "Attention",
  "MultiHeadAttention",
  "GroupQueryAttention",
]);

/** By value: "max" behind a normalisation, a GELU or an attention, through operators that only move elements; "mse" elsewhere. */
export function methodsOf(g: Graph): (v: ValueId) => RangeMethod {
  const producers = producersOf(g);
  return (v) => {
    let p: Node | undefined = producers[v];
    for (let left = 16; p !== undefined && left > 0 && passedSlots(p, g)?.[0] === 0; left--) {
      const x: ValueId | undefined = p.ins[0];
      p = x === undefined ? undefined : producers[x];
    }
    return p !== undefined && UNCLIPPED.has(p.op) ? "max" : "mse";
  };
}

/** The ranges of what was observed: by one method, or ("auto") by the rule for each tensor. */
export function rangesOf(g: Graph, observations: Observations, method: RangeMethod | "auto"): Ranges {
  const rule = methodsOf(g);
  const ranges = new Map<string, number>();
  for (const v of g.values) {
    const seen = v === undefined ? undefined : observations.get(v.name);
    if (v !== undefined && seen !== undefined) ranges.set(v.name, amaxOf(seen, method === "auto" ? rule(v.id) : method));
  }
  return ranges;
}
