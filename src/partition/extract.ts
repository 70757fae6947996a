/** A segment as a graph of its own: inputs and outputs under the names of the whole graph's values, constants shared. */
import { readsOf } from "../ir/graph.js";
import type { Graph, ValueId } from "../ir/types.js";
import type { Segment } from "./assign.js";

export function extractSegment(g: Graph, s: Segment): Graph {
  const inside = new Set(s.nodes);
  const nodes = g.nodes.filter((n) => inside.has(n.id));
  const live = new Set<ValueId>([...s.inputs, ...s.outputs, ...s.constants]);
  for (const n of nodes) {
    for (const v of readsOf(n)) live.add(v);
    for (const v of n.outs) if (v !== undefined) live.add(v);
  }
  const extra = g.extra?.file === undefined ? {} : { extra: { file: g.extra.file } };
  return {
    name: s.name,
    inputs: s.inputs,
    captures: [],
    outputs: s.outputs,
    nodes,
    values: g.values.map((v) => (v !== undefined && live.has(v.id) ? v : undefined)),
    constants: new Map(s.constants.map((v) => [v, g.constants.get(v) as never])),
    opsets: g.opsets,
    nodeLimit: g.nodeLimit,
    ...extra,
  };
}
