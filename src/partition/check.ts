/**
 * The independent proof of a partition. It shares no code with segment.ts and trusts none of its bookkeeping:
 * cover     every node lies in exactly one segment
 * order     a segment reads only graph inputs, constants and values of segments before it: the quotient graph is acyclic, hence every
 *           segment convex
 * interface a segment's inputs and outputs are exactly what crosses its border, and something does: no engine runs what has no result
 * equality  the segments inlined again, in their order, are the graph: same nodes, same edges, same outputs
 */
import { defineError } from "../diagnostics.js";
import { bodiesOf } from "../ir/graph.js";
import type { Graph, Node, NodeId, ValueId } from "../ir/types.js";
import type { Segment } from "./assign.js";
import { extractSegment } from "./extract.js";

export const partitionBroken = defineError<{ what: string }>(
  "P1710",
  "a partition is not sound",
  ({ what }) => ({ what, fix: "report it with the model: the partitioner made a mistake" }),
  70,
);

/** Throws P1710 with the first fault. */
export function check(g: Graph, segments: readonly Segment[]): void {
  const broken = (what: string): never => {
    throw partitionBroken({ what }, { file: g.extra?.file });
  };
  const nodeById = new Map<NodeId, Node>();
  for (const n of g.nodes) nodeById.set(n.id, n);
  const owner = new Map<NodeId, number>();
  segments.forEach((s, i) => {
    if (s.nodes.length === 0) broken(`segment ${s.name} is empty`);
    for (const id of s.nodes) {
      if (!nodeById.has(id)) broken(`segment ${s.name} holds node ${id}, which the graph does not have`);
      if (owner.has(id)) broken(`node ${id} lies in ${segments[owner.get(id) as number]?.name} and in ${s.name}`);
      owner.set(id, i);
    }
  });
  for (const n of g.nodes) if (!owner.has(n.id)) broken(`node ${n.id} (${n.op}) lies in no segment`);
  const maker = new Map<ValueId, number>();
  for (const n of g.nodes) for (const v of n.outs) if (v !== undefined) maker.set(v, owner.get(n.id) as number);
  const given = new Set<ValueId>([...g.inputs, ...g.captures]);
  const crossing: Set<ValueId>[] = segments.map(() => new Set());
  segments.forEach((s, i) => {
    const needs = new Set<ValueId>();
    const weights = new Set<ValueId>();
    for (const id of s.nodes) {
      for (const v of everythingRead(nodeById.get(id) as Node)) {
        if (g.constants.has(v)) weights.add(v);
        else if (given.has(v)) needs.add(v);
        else {
          const m = maker.get(v);
          if (m === undefined) broken(`segment ${s.name} reads value ${v}, which nothing makes`);
          else if (m > i) broken(`segment ${s.name} reads '${g.values[v]?.name}' of ${segments[m]?.name}, which runs after it`);
          else if (m < i) {
            needs.add(v);
            crossing[m]?.add(v);
          }
        }
      }
    }
    same(s.inputs, needs, (v) => broken(`inputs of ${s.name} and what it reads differ at '${g.values[v]?.name}'`));
    same(s.constants, weights, (v) => broken(`constants of ${s.name} and what it reads differ at '${g.values[v]?.name}'`));
  });
  for (const v of g.outputs) {
    const m = maker.get(v);
    if (m !== undefined) crossing[m]?.add(v);
  }
  for (const s of segments) if (s.outputs.length === 0) broken(`nothing reads what ${s.name} makes`);
  segments.forEach((s, i) =>
    same(s.outputs, crossing[i] as Set<ValueId>, (v) => broken(`outputs of ${s.name} and what leaves it differ at '${g.values[v]?.name}'`)),
  );
  // Inlining again: nothing may be lost, added or changed on the way through the extracted graphs.
  let count = 0;
  for (const s of segments) {
    const part = extractSegment(g, s);
    const known = new Set<ValueId>([...part.inputs, ...part.constants.keys()]);
    for (const n of part.nodes) {
      if (nodeById.get(n.id) !== n) broken(`node ${n.id} changed on its way into ${s.name}`);
      for (const v of everythingRead(n))
        if (!known.has(v)) broken(`in ${s.name}, node ${n.id} reads '${g.values[v]?.name}' before it is there`);
      for (const v of n.outs) if (v !== undefined) known.add(v);
      count++;
    }
    for (const v of part.outputs) if (!known.has(v)) broken(`${s.name} promises '${g.values[v]?.name}' and does not make it`);
  }
  if (count !== g.nodes.length) broken(`the segments hold ${count} nodes, the graph ${g.nodes.length}`);
}

function everythingRead(n: Node): ValueId[] {
  const read = n.ins.filter((v) => v !== undefined);
  for (const { body } of bodiesOf(n)) read.push(...body.captures);
  return read;
}

function same(claimed: readonly ValueId[], found: ReadonlySet<ValueId>, differ: (v: ValueId) => never): void {
  const listed = new Set(claimed);
  if (listed.size !== claimed.length) differ(claimed.find((v, i) => claimed.indexOf(v) !== i) as ValueId);
  for (const v of listed) if (!found.has(v)) differ(v);
  for (const v of found) if (!listed.has(v)) differ(v);
}
