/**
 * Moves pieces of segments to another engine, or to the host, where their own time, their start and their transfers come out lower there.
 * One call judges every piece against the partition as it stands; the caller partitions anew and keeps the result only if the whole gains.
 */
import type { NodeId } from "../ir/types.js";
import type { Cost, EngineName } from "../ops/define.js";
import { convertUs, nodeUs, startUs, transferUs } from "./cost.js";
import { Components } from "./dag.js";
import type { Classes, Problem } from "./problem.js";
import type { Segmentation } from "./segment.js";

export interface ImproveContext {
  readonly problem: Problem;
  readonly classes: Classes;
  readonly precision: string;
  /** Whether a node may go to a class. */
  readonly allowed: (node: number, engineClass: number) => boolean;
  readonly toHost: boolean;
  readonly measured?: ((node: NodeId, engine: EngineName) => number | undefined) | undefined;
}

/** The engine of every node after the moves; undefined when no move gains. */
export function improve(context: ImproveContext, s: Segmentation): Uint8Array | undefined {
  const { problem: p, classes, allowed, toHost } = context;
  const n = p.graph.nodes.length;
  const engine = Uint8Array.from({ length: n }, (_, i) => s.engineOf[s.segmentOf[i] as number] as number);
  const pieces = piecesOf(p, s, engine);
  const perSegment = new Int32Array(s.count);
  for (const piece of pieces) {
    const of = s.segmentOf[piece[0] as number] as number;
    perSegment[of] = (perSegment[of] as number) + 1;
  }
  let moved = false;
  for (const piece of pieces) {
    const from = engine[piece[0] as number] as number;
    const alone = perSegment[s.segmentOf[piece[0] as number] as number] === 1;
    let bestGain = 0;
    let bestClass = from;
    for (let c = toHost ? 0 : 1; c < classes.length; c++) {
      if (c === from || !piece.every((i) => allowed(i, c))) continue;
      const gain = gainOf(context, piece, engine, from, c, alone);
      if (gain > bestGain) [bestGain, bestClass] = [gain, c];
    }
    if (bestClass === from) continue;
    for (const i of piece) engine[i] = bestClass;
    moved = true;
  }
  return moved ? engine : undefined;
}

/** Connected parts of the engine segments, each in topological order. */
function piecesOf(p: Problem, s: Segmentation, engine: Uint8Array): readonly (readonly number[])[] {
  const { starts, targets } = p.successors;
  const groups = new Components(engine.length);
  for (let v = 0; v < engine.length; v++)
    for (let e = starts[v] as number; e < (starts[v + 1] as number); e++) {
      const t = targets[e] as number;
      if (s.segmentOf[v] === s.segmentOf[t]) groups.unite(v, t);
    }
  const lists = new Map<number, number[]>();
  for (let v = 0; v < engine.length; v++) {
    if (engine[v] === 0) continue;
    const root = groups.find(v);
    const list = lists.get(root);
    if (list === undefined) lists.set(root, [v]);
    else list.push(v);
  }
  return [...lists.values()];
}

/** Microseconds saved when a piece goes from one class to another and everything else stays. */
function gainOf(
  { problem: p, classes, precision, measured }: ImproveContext,
  piece: readonly number[],
  engine: Uint8Array,
  from: number,
  to: number,
  alone: boolean,
): number {
  const time = (i: number, c: number): number => {
    const e = classes[c] ?? "host";
    return measured?.((p.graph.nodes[i] as { id: NodeId }).id, e) ?? nodeUs(e, p.costs[i] as Cost, precision);
  };
  let gain = alone ? startUs(classes[from] ?? "host") : 0;
  for (const i of piece) gain += time(i, from) - time(i, to);
  // A new start, unless a neighbour of the same class takes the piece in.
  let joins = to === 0;
  const touched = new Set<number>();
  for (const i of piece) {
    const node = p.graph.nodes[i];
    for (const v of [...(node?.outs ?? []), ...(node?.ins ?? [])]) {
      const t = v === undefined ? -1 : (p.indexOf[v] as number);
      if (t >= 0) touched.add(t);
    }
  }
  const move = (c: number): void => {
    for (const i of piece) engine[i] = c;
  };
  const transfers = (): number => {
    let us = 0;
    for (const v of touched) us += borderUs(p, v, engine, precision);
    return us;
  };
  gain += transfers();
  move(to);
  gain -= transfers();
  move(from);
  for (const v of touched) {
    const maker = p.values.producer[v] as number;
    if (maker >= 0 && engine[maker] === to) joins = true;
    for (let e = p.values.readers.starts[v] as number; !joins && e < (p.values.readers.starts[v + 1] as number); e++)
      joins = engine[p.values.readers.targets[e] as number] === to;
  }
  return joins ? gain : gain - startUs(classes[to] ?? "host");
}

/** What a value's way between host and device costs, given the engine of each node. */
function borderUs(p: Problem, v: number, engine: Uint8Array, precision: string): number {
  const { producer, readers, bytes, exported } = p.values;
  const maker = producer[v] as number;
  const onHost = maker < 0 || engine[maker] === 0;
  let crosses = !onHost && exported?.[v] === 1;
  for (let e = readers.starts[v] as number; !crosses && e < (readers.starts[v + 1] as number); e++)
    crosses = (engine[readers.targets[e] as number] === 0) !== onHost;
  const b = bytes[v] as number;
  return crosses ? transferUs(b) + convertUs(b, precision) : 0;
}
