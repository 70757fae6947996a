/** One order of the nodes for one graph, however a file lists them: what is decided by order downstream is then decided by the graph. */
import { readsOf } from "./graph.js";
import type { Attr, Graph, Node, ValueId } from "./types.js";

/**
 * The graph with its nodes in depth-first post-order from its outputs, inputs in their order, bodies likewise; nodes that no output needs
 * follow by name. Topological, linear, and the same for every listing of the same nodes.
 */
export function canonicalOrder(g: Graph): Graph {
  const producer = new Map<ValueId, Node>();
  for (const n of g.nodes) for (const v of n.outs) if (v !== undefined) producer.set(v, n);
  const done = new Set<Node>();
  const order: Node[] = [];
  const stack: { readonly node: Node; readonly reads: readonly ValueId[]; at: number }[] = [];
  const visit = (root: Node | undefined): void => {
    if (root === undefined || done.has(root)) return;
    done.add(root);
    stack.push({ node: root, reads: readsOf(root), at: 0 });
    for (let top = stack[stack.length - 1]; top !== undefined; top = stack[stack.length - 1]) {
      const v = top.reads[top.at++];
      if (v === undefined) {
        order.push(inside(top.node));
        stack.pop();
        continue;
      }
      const next = producer.get(v);
      if (next === undefined || done.has(next)) continue;
      done.add(next);
      stack.push({ node: next, reads: readsOf(next), at: 0 });
    }
  };
  for (const v of g.outputs) visit(producer.get(v));
  if (order.length < g.nodes.length) {
    const key = (n: Node): string => `${n.outs.map((v) => (v === undefined ? "" : (g.values[v]?.name ?? ""))).join()}|${n.name}|${n.op}`;
    const rest = g.nodes.filter((n) => !done.has(n)).map((n) => ({ n, k: key(n) }));
    for (const { n } of rest.sort((a, b) => (a.k < b.k ? -1 : a.k > b.k ? 1 : 0))) visit(n);
  }
  return { ...g, nodes: order };
}

function inside(n: Node): Node {
  let attrs: Record<string, Attr> | undefined;
  for (const [name, a] of Object.entries(n.attrs)) {
    if (a.kind === "graph")
      (attrs ??= { ...n.attrs })[name] = { kind: "graph", value: { ...a.value, graph: canonicalOrder(a.value.graph) } };
    else if (a.kind === "graphs")
      (attrs ??= { ...n.attrs })[name] = { kind: "graphs", value: a.value.map((b) => ({ ...b, graph: canonicalOrder(b.graph) })) };
  }
  return attrs === undefined ? n : { ...n, attrs };
}
