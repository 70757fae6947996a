/**
 * A branch of an If that makes no sense at the dims that are known: it is for others, and never run at these. ONNX Runtime infers the dims in both
 * branches when it loads a model, and refuses it for either; it is told less of them.
 */
import { PartitaError } from "../../diagnostics.js";
import { bodiesOf, typeAt } from "../../ir/graph.js";
import type { Attr, Graph, Node, Value } from "../../ir/types.js";
import { constantFact, inferNode, mapDims } from "../../ops/infer.js";

/** Whether some If has such a branch, bodies included. */
export function misfits(g: Graph): boolean {
  return g.nodes.some((n) => (n.op === "If" && n.domain === "" && misfit(g, n)) || bodiesOf(n).some(({ body }) => misfits(body.graph)));
}
function misfit(g: Graph, n: Node): boolean {
  return bodiesOf(n).some(({ body }) => {
    const value: Attr = { kind: "graph", value: body };
    try {
      inferNode({ ...n, attrs: { then_branch: value, else_branch: value } }, (v) => {
        const c = g.constants.get(v);
        return c === undefined ? { type: typeAt(g, v) } : constantFact(c);
      });
      return false;
    } catch (error) {
      if (error instanceof PartitaError) return true;
      throw error;
    }
  });
}

/** The graph with every dim open that no constant says. */
export function withOpenDims(g: Graph): Graph {
  const values = g.values.map((v): Value | undefined =>
    v === undefined || g.constants.has(v.id) ? v : { ...v, type: mapDims(v.type, () => "?") },
  );
  const nodes = g.nodes.map((n): Node => {
    const bodies = bodiesOf(n);
    if (bodies.length === 0) return n;
    const attrs: Record<string, Attr> = { ...n.attrs };
    for (const { attribute, body } of bodies)
      if (attrs[attribute]?.kind === "graph") attrs[attribute] = { kind: "graph", value: { ...body, graph: withOpenDims(body.graph) } };
    return { ...n, attrs };
  });
  return { ...g, values, nodes };
}
