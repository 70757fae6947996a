/** Replaces shape arithmetic whose result inference knows by constants, and what Reshape can work out for itself. */
import { exactQuotient, isStatic, isUnknown, product, sameDim } from "../ir/dims.js";
import { Editor } from "../ir/edit.js";
import { int64Constant, makeConstant } from "../ir/payload.js";
import type { Graph, Node, ValueId } from "../ir/types.js";
import { type Fact, shapeOf } from "../ops/define.js";
import { swept } from "./dead-code.js";
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
  for (const n of g.nodes) openReshape(draft, n, facts);
  // What nobody reads any more would look like a reader to the passes after it.
  return swept(draft.finish());
}

/**
 * A Reshape needs no arithmetic for dims that stay where they are (0 copies them) nor for one that follows from the others (-1), so that open
 * dims, a batch for instance, are not computed at all.
 */
function openReshape(draft: Editor, { id }: Node, facts: (v: ValueId) => Fact): void {
  const n = draft.node(id);
  const [x, shape] = n?.ins ?? [];
  const [y] = n?.outs ?? [];
  if (n?.op !== "Reshape" || n.domain !== "" || x === undefined || shape === undefined || y === undefined) return;
  if (draft.constant(shape) !== undefined || facts(x).type.kind !== "tensor") return;
  const [from, to, elements] = [shapeOf(facts(x)), shapeOf(facts(y)), facts(shape).elements];
  // The elements decide, not the result's dims: those may be what a file declares, and a shape that is fed at run time need not agree.
  if (from === undefined || to === undefined || to.includes(0) || elements?.length !== to.length) return;
  // What -1 stands for, where the open dims cancel: [N, 48, 4, 4] as [N, 48, -1] leaves 16.
  const given = elements.filter((e) => e !== -1);
  const left = given.length === elements.length - 1 && !given.some(isUnknown) ? exactQuotient(product(from), product(given)) : undefined;
  const dims = elements.map((e, i) => {
    if (e === -1 && left !== undefined && isStatic(left)) return left;
    if (isUnknown(e) || e === -1) return -1;
    if (isStatic(e)) return e;
    return sameDim(e, from[i] ?? "?") === true ? 0 : -1;
  });
  // With both, an empty tensor could not say what -1 is.
  if (dims.filter((d) => d === -1).length > (dims.includes(0) ? 0 : 1)) return;
  const { allowzero: _, ...attrs } = n.attrs;
  draft.patch(n.id, { ins: [x, draft.addConstant(`${draft.value(y).name}.shape`, int64Constant(dims))], attrs });
}
