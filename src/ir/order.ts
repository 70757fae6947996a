/** One listing for one graph, however a file lists it: what order and numbers decide downstream is then decided by the graph. */
import { readsOf } from "./graph.js";
import type { Attr, Body, Constant, Graph, Node, NodeId, Value, ValueId } from "./types.js";

/**
 * The graph with its nodes in depth-first post-order from its outputs, inputs in their order, bodies likewise; nodes that no output needs
 * follow by name. Nodes, values and constants are numbered in the order in which that listing meets them. Topological, linear, and the
 * same for every listing of the same nodes.
 */
export function canonicalOrder(g: Graph): Graph {
  const order = listed(g);
  const values: Value[] = [];
  const renamed = new Map<ValueId, ValueId>();
  const meet = (v: ValueId): ValueId => {
    const known = renamed.get(v);
    if (known !== undefined) return known;
    const value = g.values[v];
    if (value === undefined) throw new Error(`value ${v} is not in graph '${g.name}'`);
    const id = values.length as ValueId;
    values.push({ ...value, id });
    renamed.set(v, id);
    return id;
  };
  const inputs = g.inputs.map(meet);
  const captures = g.captures.map(meet);
  const nodes = order.map((n, i): Node => {
    const ins = n.ins.map((v) => (v === undefined ? undefined : meet(v)));
    const attrs = withBodies(n, (b) => ({ captures: b.captures.map(meet), graph: canonicalOrder(b.graph) }));
    return { ...n, id: i as NodeId, ins, attrs, outs: n.outs.map((v) => (v === undefined ? undefined : meet(v))) };
  });
  const outputs = g.outputs.map(meet);
  const rest = g.values.filter((v): v is Value => v !== undefined && !renamed.has(v.id));
  for (const v of rest.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0))) meet(v.id);
  const constants = [...g.constants].map(([v, c]): readonly [ValueId, Constant] => [meet(v), c]).sort(([a], [b]) => a - b);
  return { ...g, inputs, captures, outputs, nodes, values, constants: new Map(constants), nodeLimit: nodes.length };
}

function listed(g: Graph): readonly Node[] {
  const producer = new Map<ValueId, Node>();
  for (const n of g.nodes) for (const v of n.outs) if (v !== undefined) producer.set(v, n);
  const done = new Set<Node>();
  const order: Node[] = [];
  const stack: { readonly node: Node; readonly reads: readonly ValueId[]; at: number }[] = [];
  const enter = (n: Node | undefined): void => {
    if (n === undefined || done.has(n)) return;
    done.add(n);
    stack.push({ node: n, reads: readsOf(n), at: 0 });
  };
  const visit = (root: Node | undefined): void => {
    enter(root);
    for (let top = stack[stack.length - 1]; top !== undefined; top = stack[stack.length - 1]) {
      const v = top.reads[top.at++];
      if (v !== undefined) {
        enter(producer.get(v));
        continue;
      }
      order.push(top.node);
      stack.pop();
    }
  };
  for (const v of g.outputs) visit(producer.get(v));
  if (order.length < g.nodes.length) {
    const key = (n: Node): string => `${n.outs.map((v) => (v === undefined ? "" : (g.values[v]?.name ?? ""))).join()}|${n.name}|${n.op}`;
    const rest = g.nodes.filter((n) => !done.has(n)).map((n) => ({ n, k: key(n) }));
    for (const { n } of rest.sort((a, b) => (a.k < b.k ? -1 : a.k > b.k ? 1 : 0))) visit(n);
  }
  return order;
}

/** A node's attributes with its bodies changed; the same object when it has none. */
function withBodies(n: Node, change: (b: Body) => Body): Node["attrs"] {
  let attrs: Record<string, Attr> | undefined;
  for (const [name, a] of Object.entries(n.attrs)) {
    if (a.kind === "graph") {
      attrs ??= { ...n.attrs };
      attrs[name] = { kind: "graph", value: change(a.value) };
    } else if (a.kind === "graphs") {
      attrs ??= { ...n.attrs };
      attrs[name] = { kind: "graphs", value: a.value.map(change) };
    }
  }
  return attrs ?? n.attrs;
}
