/**
 * What an engine takes in parts: a graph that is planned for several engines keeps the operators that one of them takes whole, and the others are
 * asked about the nodes that such an operator is spelled out in, which is what they get when the segment is built.
 */
import type { Graph, Node, NodeId, ValueId } from "../ir/types.js";
import type { Fact } from "../ops/define.js";
import { inferGraph } from "../ops/infer.js";
import { spelledOut } from "./lower.js";
import type { Keep } from "./spelling.js";

export interface Parts {
  /** The whole graph with what the engine does not take whole spelled out. */
  readonly graph: Graph;
  readonly facts: (v: ValueId) => Fact;
  /** The nodes of `graph` that stand for a node; undefined for one that stays as it is. */
  readonly of: (node: NodeId) => readonly Node[] | undefined;
  /** The node that a node of `graph` stands for, or is. */
  readonly owner: (part: NodeId) => NodeId;
}

/** `keeps`: what the engine takes whole. `shapes` as for `inferGraph`. Undefined where nothing is spelled out. */
export function partsOf(g: Graph, keeps: Keep, how: Parameters<typeof inferGraph>[1]): Parts | undefined {
  const owners = new Map<NodeId, NodeId>();
  const owner = (part: NodeId): NodeId => owners.get(part) ?? part;
  // A part may be spelled out in turn: it is told of after the one that it belongs to.
  const spelled = spelledOut(g, keeps, (part, of) => void owners.set(part, owner(of)));
  if (spelled === g) return undefined;
  const { graph, facts } = inferGraph(spelled, how);
  const parts = new Map<NodeId, Node[]>();
  for (const n of graph.nodes) {
    const whole = owner(n.id);
    const known = parts.get(whole);
    if (known === undefined) parts.set(whole, [n]);
    else known.push(n);
  }
  for (const n of g.nodes) {
    const [first, ...others] = parts.get(n.id) ?? [];
    if (others.length === 0 && first?.op === n.op && first.domain === n.domain) parts.delete(n.id);
  }
  return { graph, facts, owner, of: (node) => parts.get(node) };
}
