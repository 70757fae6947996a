/** Random graphs for the partitioner: layered DAGs with long edges, several outputs a node, optional control-flow-like fan-in. */

import { no, yes } from "../../src/diagnostics.js";
import { Editor } from "../../src/ir/edit.js";
import type { Graph, Node, NodeId, ValueId } from "../../src/ir/types.js";
import { type EngineName, engineNames } from "../../src/ops/define.js";
import type { Verdicts } from "../../src/partition/verdicts.js";

export function randomGraph(next: () => number, size: number): Graph {
  const draft = new Editor({ name: "random", opsets: { "": 18 } });
  const type = { kind: "tensor", dtype: "float32", shape: [2, 3] } as const;
  const values: ValueId[] = [draft.addInput("x", type), draft.addInput("x2", type)];
  const reach = 1 + Math.floor(next() * size);
  for (let i = 0; i < size; i++) {
    const pick = (): ValueId => values[Math.max(0, values.length - 1 - Math.floor(next() * reach))] as ValueId;
    const arity = 1 + Math.floor(next() * 3);
    const node: Node = draft.add({
      op: arity === 1 ? "Relu" : "Sum",
      name: `n${i}`,
      ins: Array.from({ length: arity }, pick),
      outs: [draft.declare(`v${i}`, type)],
    });
    values.push(node.outs[0] as ValueId);
  }
  // What is partitioned has no dead nodes.
  draft.setOutputs(values.slice(2).filter((v) => next() < 0.2 || draft.uses(v).length === 0));
  return draft.finish();
}

/** Each engine takes each node with probability `share`; the host always does. */
export function randomVerdicts(g: Graph, next: () => number, engines: readonly EngineName[], share: number): Verdicts {
  const table = new Map<NodeId, ReadonlySet<EngineName>>(g.nodes.map((n) => [n.id, new Set(engines.filter(() => next() < share))]));
  const pinned = new Map<NodeId, EngineName>();
  for (const n of g.nodes) if (next() < 0.03) pinned.set(n.id, engineNames[Math.floor(next() * (engines.length + 1))] ?? "host");
  return {
    engines,
    pinned,
    of: (id, e) =>
      e === "host" || pinned.get(id) === e || (pinned.get(id) === undefined && table.get(id)?.has(e) === true) ? yes : no("drawn so"),
  };
}
