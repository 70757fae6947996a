/** Puts the branch that will run in the place of an If whose condition is known. */
import { Editor } from "../ir/edit.js";
import type { Body, Graph, Node } from "../ir/types.js";
import { spellBody } from "./inline-body.js";
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

function inline(draft: Editor, n: Node, body: Body): void {
  draft.remove(n.id);
  const at = spellBody(draft, body, new Map());
  n.outs.forEach((v, i) => {
    const result = body.graph.outputs[i];
    if (v !== undefined && result !== undefined) draft.replaceUses(v, at(result));
  });
}
