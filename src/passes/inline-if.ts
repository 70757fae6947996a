/** Puts the branch that will run in the place of an If whose condition is known. */
import { Editor } from "../ir/edit.js";
import { valueAt } from "../ir/graph.js";
import type { Attr, Body, Graph, Node, ValueId } from "../ir/types.js";
import { deep, definePass, type PassContext } from "./pass.js";

export const inlineIf = definePass({
  name: "inline-if",
  why: "PyTorch asks the rank of a tensor with an If. Once shapes are known so is the answer, and the branch need not hold its operators on the host.",
  run: (g, context) => deep(g, (inner) => settled(inner, context)),
});

/** A branch may hold further Ifs, whose conditions are known once it stands in the open. */
function settled(g: Graph, context: PassContext): Graph {
  let graph = g;
  for (;;) {
    const facts = context.facts(graph);
    const draft = new Editor(graph);
    for (const n of graph.nodes) {
      const [condition] = n.ins;
      if (n.op !== "If" || n.domain !== "" || condition === undefined) continue;
      const known = facts(condition).elements?.[0];
      if (typeof known !== "number") continue;
      // The draft's node: what it captures may be the result of an If that is gone already.
      const now = draft.node(n.id);
      const branch = now?.attrs[known === 0 ? "else_branch" : "then_branch"];
      if (now !== undefined && branch?.kind === "graph") inline(draft, now, branch.value);
    }
    if (!draft.changed) return graph;
    graph = draft.finish();
  }
}

function inline(draft: Editor, n: Node, { graph: body, captures }: Body): void {
  draft.remove(n.id);
  const outer = new Map<ValueId, ValueId>();
  body.captures.forEach((v, i) => {
    const captured = captures[i];
    if (captured !== undefined) outer.set(v, captured);
  });
  for (const [v, c] of body.constants) outer.set(v, draft.addConstant(valueAt(body, v).name, c));
  const at = (v: ValueId): ValueId => {
    const known = outer.get(v);
    if (known !== undefined) return known;
    const { name, type } = valueAt(body, v);
    const made = draft.declare(name, type);
    outer.set(v, made);
    return made;
  };
  const each = (list: readonly (ValueId | undefined)[]): (ValueId | undefined)[] => list.map((v) => (v === undefined ? v : at(v)));
  for (const inner of body.nodes) {
    const attrs: Record<string, Attr> = {};
    for (const [key, a] of Object.entries(inner.attrs)) attrs[key] = recaptured(a, at);
    draft.add({ ...inner, ins: each(inner.ins), outs: each(inner.outs), attrs });
  }
  n.outs.forEach((v, i) => {
    const result = body.outputs[i];
    if (v !== undefined && result !== undefined) draft.replaceUses(v, at(result));
  });
}
/** Bodies inside the branch capture what now stands outside. */
function recaptured(a: Attr, at: (v: ValueId) => ValueId): Attr {
  if (a.kind === "graph") return { kind: "graph", value: { graph: a.value.graph, captures: a.value.captures.map(at) } };
  if (a.kind === "graphs") return { kind: "graphs", value: a.value.map((b) => ({ graph: b.graph, captures: b.captures.map(at) })) };
  return a;
}
