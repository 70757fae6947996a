/** Segments by hand: lists of node names become host segments, in the order given. */
import { readsOf } from "../../src/ir/graph.js";
import type { Graph, ValueId } from "../../src/ir/types.js";
import type { Segment } from "../../src/partition/assign.js";

export function segmented(g: Graph, lists: readonly (readonly string[])[]): readonly Segment[] {
  const read = new Map<ValueId, Set<number>>();
  const place = new Map(lists.flatMap((names, i) => names.map((name) => [name, i] as const)));
  for (const n of g.nodes) for (const v of readsOf(n)) read.set(v, (read.get(v) ?? new Set<number>()).add(place.get(n.name) ?? -1));
  return lists.map((names, index): Segment => {
    const nodes = g.nodes.filter((n) => names.includes(n.name));
    const made = new Set(nodes.flatMap((n) => n.outs.filter((v) => v !== undefined)));
    const needed = [...new Set(nodes.flatMap((n) => readsOf(n)))].filter((v) => !made.has(v));
    return {
      index,
      name: `host_${index}`,
      engine: "host",
      nodes: nodes.map((n) => n.id),
      inputs: needed.filter((v) => !g.constants.has(v)),
      outputs: [...made].filter((v) => g.outputs.includes(v) || [...(read.get(v) ?? [])].some((i) => i !== index)),
      constants: needed.filter((v) => g.constants.has(v)),
      cost: { flops: 0, bytes: 0 },
    };
  });
}
