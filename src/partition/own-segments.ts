/** Segments of their own for nodes that no runtime takes together with others: the user's operators in JavaScript. */
import { readsOf } from "../ir/graph.js";
import type { Graph, Node, NodeId, ValueId } from "../ir/types.js";
import type { EngineName } from "../ops/define.js";
import type { Partition, Segment } from "./assign.js";

/** What such a segment is called, before its index. */
const NAME = "javascript";

/**
 * Splits host segments at the nodes that `own` names. Nodes go by how many such nodes lie before them on a path: those of one number make a segment,
 * and what is not needed earlier goes as late as its readers allow, so that fewer tensors lie across.
 */
export function ownSegments(p: Partition, g: Graph, own: (n: Node) => boolean): Partition {
  const nodes = new Map(g.nodes.map((n) => [n.id, n]));
  const alone = new Set(g.nodes.filter(own).map((n) => n.id));
  if (alone.size === 0) return p;
  const maker = new Map<ValueId, NodeId>();
  for (const n of g.nodes) for (const v of n.outs) if (v !== undefined) maker.set(v, n.id);
  const pieces = p.segments.flatMap((s): readonly Piece[] => {
    if (!s.nodes.some((id) => alone.has(id))) return [{ engine: s.engine, name: s.engine, nodes: s.nodes }];
    return split(s, nodes, maker, alone);
  });
  return { ...p, segments: interfaces(g, pieces, maker, p), quality: { ...p.quality, segments: pieces.length } };
}

interface Piece {
  readonly engine: EngineName;
  readonly name: string;
  readonly nodes: readonly NodeId[];
}

function split(
  s: Segment,
  nodes: ReadonlyMap<NodeId, Node>,
  maker: ReadonlyMap<ValueId, NodeId>,
  alone: ReadonlySet<NodeId>,
): readonly Piece[] {
  const inside = new Set(s.nodes);
  const before = (id: NodeId): readonly NodeId[] =>
    readsOf(nodes.get(id) as Node)
      .map((v) => maker.get(v))
      .filter((m): m is NodeId => m !== undefined && inside.has(m));
  const depth = new Map<NodeId, number>();
  for (const id of s.nodes)
    depth.set(
      id,
      before(id).reduce((a, m) => Math.max(a, (depth.get(m) ?? 0) + (alone.has(m) ? 1 : 0)), 0),
    );
  const latest = new Map<NodeId, number>();
  for (const id of s.nodes.toReversed()) {
    const limit = latest.get(id);
    if (!alone.has(id) && limit !== undefined) depth.set(id, Math.max(depth.get(id) ?? 0, limit));
    for (const m of before(id)) latest.set(m, Math.min(latest.get(m) ?? Number.POSITIVE_INFINITY, depth.get(id) ?? 0));
  }
  // By depth in one sweep: a chain of the user's operators is as deep as it is long.
  const levels: NodeId[][] = [];
  for (const id of s.nodes) (levels[depth.get(id) ?? 0] ??= []).push(id);
  const pieces: Piece[] = [];
  for (const here of levels) {
    const together = here.filter((id) => !alone.has(id));
    if (together.length > 0) pieces.push({ engine: s.engine, name: s.engine, nodes: together });
    for (const id of here) if (alone.has(id)) pieces.push({ engine: s.engine, name: NAME, nodes: [id] });
  }
  return pieces;
}

function interfaces(g: Graph, pieces: readonly Piece[], maker: ReadonlyMap<ValueId, NodeId>, p: Partition): readonly Segment[] {
  const nodes = new Map(g.nodes.map((n) => [n.id, n]));
  const owner = new Map(pieces.flatMap((piece, i) => piece.nodes.map((id) => [id, i] as const)));
  const outputs: Set<ValueId>[] = pieces.map(() => new Set());
  const inputs: Set<ValueId>[] = pieces.map(() => new Set());
  const constants: Set<ValueId>[] = pieces.map(() => new Set());
  const made = (v: ValueId): number | undefined => {
    const by = maker.get(v);
    return by === undefined ? undefined : owner.get(by);
  };
  pieces.forEach((piece, i) => {
    for (const id of piece.nodes)
      for (const v of readsOf(nodes.get(id) as Node)) {
        const from = made(v);
        if (g.constants.has(v)) constants[i]?.add(v);
        else if (from !== i) {
          inputs[i]?.add(v);
          if (from !== undefined) outputs[from]?.add(v);
        }
      }
  });
  for (const v of g.outputs) outputs[made(v) ?? -1]?.add(v);
  return pieces.map(({ engine, name, nodes: own }, index) => {
    const costs = own.map((id) => p.costs.get(id) ?? { flops: 0, bytes: 0 });
    return {
      index,
      name: `${name}_${index}`,
      engine,
      nodes: own,
      inputs: [...(inputs[index] ?? [])],
      outputs: [...(outputs[index] ?? [])],
      constants: [...(constants[index] ?? [])],
      cost: { flops: costs.reduce((a, c) => a + c.flops, 0), bytes: costs.reduce((a, c) => a + c.bytes, 0) },
    };
  });
}
