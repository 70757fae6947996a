/** A graph as the partitioner sees it: typed arrays of edges, tensors, costs. Built once; engines are assigned to it as often as asked. */
import { isStatic, substitute } from "../ir/dims.js";
import { readsOf } from "../ir/graph.js";
import type { Graph, NodeId, ValueId } from "../ir/types.js";
import type { Cost, EngineName, Fact } from "../ops/define.js";
import { costOf } from "../ops/infer.js";
import { lookup } from "../ops/registry.js";
import { bytes as factBytes } from "../ops/shapes.js";
import { type Edges, edgesOf } from "./dag.js";
import type { Values } from "./waves.js";

export interface Problem {
  readonly graph: Graph;
  /** Place of a node in `graph.nodes`. */
  readonly at: ReadonlyMap<NodeId, number>;
  readonly successors: Edges;
  /** Tensors in the order of the nodes that make them, then the graph's inputs (producer -1). Constants are not among them. */
  readonly values: Values;
  /** Index into `values` by value id; -1 for constants. */
  readonly indexOf: Int32Array;
  /** What each node counts towards the floor: 1 for compute, 0 for views and shape arithmetic. */
  readonly size: Uint8Array;
  readonly costs: readonly Cost[];
  /** Arithmetic by node, of `costs`. */
  readonly flops: Float64Array;
}

/** `bindings`: numbers for symbolic dims; those without one count as 1. */
export function problemOf(g: Graph, facts: (v: ValueId) => Fact, bindings?: ReadonlyMap<string, number>): Problem {
  const { nodes } = g;
  // Own numbers, not value ids: ties between tensors must not depend on how a file numbers them.
  const indexOf = new Int32Array(g.values.length).fill(-1);
  const ids: ValueId[] = [];
  const makers: number[] = [];
  nodes.forEach((n, i) => {
    for (const v of n.outs) {
      if (v === undefined) continue;
      indexOf[v] = ids.push(v) - 1;
      makers.push(i);
    }
  });
  for (const v of [...g.inputs, ...g.captures]) {
    if ((indexOf[v] as number) >= 0) continue;
    indexOf[v] = ids.push(v) - 1;
    makers.push(-1);
  }
  const from: number[] = [];
  const to: number[] = [];
  const read: number[] = [];
  const reader: number[] = [];
  const size = new Uint8Array(nodes.length);
  nodes.forEach((n, i) => {
    size[i] = (lookup(n.domain, n.op)?.role ?? "compute") === "compute" ? 1 : 0;
    for (const v of new Set(readsOf(n))) {
      const t = indexOf[v] as number;
      if (t < 0) continue;
      read.push(t);
      reader.push(i);
      const p = makers[t] as number;
      if (p < 0) continue;
      from.push(p);
      to.push(i);
    }
  });
  const costs = nodes.map((n) => costOf(g, n, facts, bindings));
  const exported = new Uint8Array(ids.length);
  for (const v of g.outputs) if ((indexOf[v] as number) >= 0) exported[indexOf[v] as number] = 1;
  return {
    graph: g,
    at: new Map(nodes.map((n, i) => [n.id, i])),
    successors: edgesOf(nodes.length, from, to),
    values: {
      producer: Int32Array.from(makers),
      readers: edgesOf(ids.length, read, reader),
      bytes: Float64Array.from(ids, (v) => valueBytes(facts(v), bindings)),
      exported,
    },
    indexOf,
    size,
    costs,
    flops: Float64Array.from(costs, (c) => c.flops),
  };
}

/** Bytes of a value, symbols bound. */
export function valueBytes(fact: Fact, bindings: ReadonlyMap<string, number> | undefined): number {
  if (bindings === undefined || bindings.size === 0 || fact.type.kind !== "tensor") return factBytes(fact);
  const shape = fact.type.shape?.map((d) => (isStatic(d) ? d : substitute(d, bindings)));
  return factBytes({ ...fact, type: { ...fact.type, shape } });
}

/** Bindings for symbolic dims from a user's shapes: each free symbol of an input gets the number at its place. */
export function bindingsOf(g: Graph, shapes: Readonly<Record<string, readonly number[]>> | undefined): ReadonlyMap<string, number> {
  const bindings = new Map<string, number>();
  for (const v of g.inputs) {
    const value = g.values[v];
    const given = value === undefined || shapes === undefined || !Object.hasOwn(shapes, value.name) ? undefined : shapes[value.name];
    if (given === undefined || value?.type.kind !== "tensor") continue;
    value.type.shape?.forEach((d, i) => {
      if (!isStatic(d) && d !== "?" && given[i] !== undefined) bindings.set(d, given[i] as number);
    });
  }
  return bindings;
}

/** Engine classes in the order of their numbers; 0 is the host. */
export type Classes = readonly EngineName[];
