/** Questions about a graph: producers, uses, captures, topological order. Reads only; edit.ts is the way to change one. */
import type { Body, Constant, Graph, Node, Shape, Value, ValueId, ValueType } from "./types.js";

export const NO_ATTRS: Node["attrs"] = Object.freeze({});
export const UNKNOWN_TYPE: ValueType = Object.freeze({ kind: "unknown" });

/** The value behind an id; throws when the id is not of this graph (a programming error, not bad input). */
export function valueAt(g: Graph, id: ValueId): Value {
  const v = g.values[id];
  if (v === undefined) throw new Error(`value ${id} is not in graph '${g.name}'`);
  return v;
}
export const typeAt = (g: Graph, id: ValueId): ValueType => valueAt(g, id).type;
export const shapeOfType = (t: ValueType): Shape => (t.kind === "tensor" || t.kind === "sparse" ? t.shape : undefined);
export const constantOf = (g: Graph, id: ValueId | undefined): Constant | undefined => (id === undefined ? undefined : g.constants.get(id));

type Held = { readonly attribute: string; readonly body: Body };
const NO_BODIES: readonly Held[] = Object.freeze([]);

/** The control-flow bodies a node holds, with the attribute they are under. */
export function bodiesOf(node: Node): readonly Held[] {
  const { attrs } = node;
  if (attrs === NO_ATTRS) return NO_BODIES;
  let found: Held[] | undefined;
  for (const attribute in attrs) {
    const a = attrs[attribute];
    if (a?.kind === "graph") (found ??= []).push({ attribute, body: a.value });
    else if (a?.kind === "graphs") for (const body of a.value) (found ??= []).push({ attribute, body });
  }
  return found ?? NO_BODIES;
}

/** Every value a node reads: its inputs, then what its bodies capture. May repeat. */
export function readsOf(node: Node): readonly ValueId[] {
  const bodies = bodiesOf(node);
  // Most nodes have no bodies and leave nothing out: their inputs are the answer.
  if (bodies.length === 0 && !node.ins.includes(undefined)) return node.ins as readonly ValueId[];
  const reads: ValueId[] = [];
  for (const v of node.ins) if (v !== undefined) reads.push(v);
  for (const { body } of bodies) reads.push(...body.captures);
  return reads;
}

/** Producing node by value id; undefined for inputs, captures and constants. */
export function producersOf(g: Graph): readonly (Node | undefined)[] {
  const producers = new Array<Node | undefined>(g.values.length).fill(undefined);
  for (const n of g.nodes) for (const v of n.outs) if (v !== undefined) producers[v] = n;
  return producers;
}

/** Reading nodes by value id, in topological order, each once; graph outputs are not among them. */
export function usesOf(g: Graph): readonly (readonly Node[])[] {
  const uses: Node[][] = Array.from({ length: g.values.length }, () => []);
  for (const n of g.nodes) {
    for (const v of readsOf(n)) {
      const list = uses[v];
      if (list !== undefined && list[list.length - 1] !== n) list.push(n);
    }
  }
  return uses;
}

/** A node's name as a person would say it: its own, else its first output's. */
export function displayName(g: Graph, node: Node): string {
  if (node.name !== "") return node.name;
  const out = node.outs.find((v) => v !== undefined);
  return out === undefined ? `${node.op}#${node.id}` : valueAt(g, out).name;
}
/** The user's own names for a node. */
export const originOf = (node: Node): readonly string[] => node.origin ?? [node.name];
/** `Conv`, or `com.microsoft.Attention`. */
export const qualifiedOp = (node: { readonly op: string; readonly domain: string }): string =>
  node.domain === "" ? node.op : `${node.domain}.${node.op}`;

/**
 * Stable topological order (Kahn; ties go to the earlier node). Returns the nodes that lie on or behind a cycle as `rest`.
 * Time and memory linear in nodes plus edges.
 */
export function topologicalOrder(nodes: readonly Node[], valueCount: number): { readonly order: Node[]; readonly rest: Node[] } {
  const producer = new Int32Array(valueCount).fill(-1);
  nodes.forEach((n, i) => {
    for (const v of n.outs) if (v !== undefined) producer[v] = i;
  });
  const missing = new Int32Array(nodes.length);
  const starts = new Int32Array(nodes.length + 1);
  const edges: { readonly from: number; readonly to: number }[] = [];
  let sorted = true;
  nodes.forEach((n, i) => {
    for (const v of readsOf(n)) {
      const p = producer[v] ?? -1;
      if (p < 0) continue;
      if (p >= i) sorted = false;
    }
  });
  if (sorted) return { order: [...nodes], rest: [] };
  nodes.forEach((n, i) => {
    for (const v of readsOf(n)) {
      const p = producer[v] ?? -1;
      if (p < 0) continue;
      edges.push({ from: p, to: i });
      missing[i] = (missing[i] ?? 0) + 1;
      starts[p + 1] = (starts[p + 1] ?? 0) + 1;
    }
  });
  for (let i = 0; i < nodes.length; i++) starts[i + 1] = (starts[i + 1] ?? 0) + (starts[i] ?? 0);
  const targets = new Int32Array(edges.length);
  const fill = starts.slice();
  for (const { from, to } of edges) {
    const at = fill[from] ?? 0;
    targets[at] = to;
    fill[from] = at + 1;
  }
  const ready = new MinHeap();
  missing.forEach((m, i) => {
    if (m === 0) ready.push(i);
  });
  const order: Node[] = [];
  for (let i = ready.pop(); i !== undefined; i = ready.pop()) {
    const n = nodes[i];
    if (n !== undefined) order.push(n);
    for (let e = starts[i] ?? 0; e < (starts[i + 1] ?? 0); e++) {
      const t = targets[e] ?? 0;
      const left = (missing[t] ?? 0) - 1;
      missing[t] = left;
      if (left === 0) ready.push(t);
    }
  }
  return { order, rest: order.length === nodes.length ? [] : nodes.filter((_, i) => (missing[i] ?? 0) > 0) };
}

/** Binary heap of indices, smallest first. */
class MinHeap {
  readonly #items: number[] = [];
  push(x: number): void {
    const a = this.#items;
    let i = a.push(x) - 1;
    while (i > 0) {
      const parent = (i - 1) >> 1;
      const p = a[parent] ?? 0;
      if (p <= x) break;
      a[i] = p;
      i = parent;
    }
    a[i] = x;
  }
  pop(): number | undefined {
    const a = this.#items;
    const top = a[0];
    const last = a.pop();
    if (top === undefined || last === undefined || a.length === 0) return top;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= a.length) break;
      if (child + 1 < a.length && (a[child + 1] ?? 0) < (a[child] ?? 0)) child++;
      const c = a[child] ?? 0;
      if (c >= last) break;
      a[i] = c;
      i = child;
    }
    a[i] = last;
    return top;
  }
}
