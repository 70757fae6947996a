/** Replaces shape arithmetic whose result inference knows by constants. */
import { isStatic } from "../ir/dims.js";
import { Editor } from "../ir/edit.js";
import { makeConstant } from "../ir/payload.js";
import type { Graph } from "../ir/types.js";
import { deep, definePass, type PassContext } from "./pass.js";

export const foldShapes = definePass({
  name: "fold-shapes",
  why: "Once shapes are known, Shape, Gather and Concat chains are numbers; as constants they let Reshapes cancel and segments stay whole.",
  run: (g, context) => deep(g, (inner) => folded(inner, context)),
});

function folded(g: Graph, context: PassContext): Graph {
  const facts = context.facts(g);
  const draft = new Editor(g);
  for (const n of g.nodes) {
    for (const v of n.outs) {
      if (v === undefined) continue;
      const { type, elements } = facts(v);
      if (
        elements === undefined ||
        type.kind !== "tensor" ||
        type.shape === undefined ||
        !elements.every(isStatic) ||
        !type.shape.every(isStatic)
      )
        continue;
      if (type.dtype !== "int64" && type.dtype !== "int32" && type.dtype !== "bool") continue;
      if (elements.length !== type.shape.reduce((a, d) => a * d, 1) || draft.isOutput(v) || draft.uses(v).length === 0) continue;
      draft.replaceUses(v, draft.addConstant(`${draft.value(v).name}.folded`, makeConstant(type.dtype, type.shape, elements)));
    }
  }
  return draft.finish();
}
