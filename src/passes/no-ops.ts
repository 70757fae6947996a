/** Removes nodes that give back their input. */
import { sameDim } from "../ir/dims.js";
import { dtypeFromOnnx, holdsAll } from "../ir/dtypes.js";
import { Editor } from "../ir/edit.js";
import { shapeOfType } from "../ir/graph.js";
import { smallNumbers } from "../ir/payload.js";
import type { Graph, Node, Shape, ValueId } from "../ir/types.js";
import { dtypeOf, type Fact } from "../ops/define.js";
import { swept } from "./dead-code.js";
import { uniform } from "./match.js";
import { deep, definePass, type PassContext } from "./pass.js";

export const noOps = definePass({
  name: "no-ops",
  why: "Identities, inference Dropouts, casts to the same type, reshapes to the same dims and choices that are known stand between operators that fuse.",
  run: (g, context) => deep(g, (inner) => shortened(inner, context)),
});

function shortened(g: Graph, context: PassContext): Graph {
  const facts = context.facts(g);
  const draft = new Editor(g);
  const skipped = g.nodes.filter((n) => skipWider(draft, n, facts)).length;
  for (const { id } of g.nodes) {
    // The draft's node, not the base graph's: an earlier removal may have changed what it reads.
    const n = draft.node(id);
    if (n === undefined) continue;
    const x = n.ins[n.op === "Where" ? chosen(g, n) : 0];
    const [y] = n.outs;
    if (x === undefined || y === undefined || n.domain !== "" || !passesThrough(g, n, facts)) continue;
    // An input that goes straight to an output keeps its Identity: the output has a name of its own.
    if (draft.isOutput(y) && draft.producer(x) === undefined) continue;
    if (draft.isOutput(y) && draft.isOutput(x)) continue;
    draft.replaceUses(y, x);
    draft.remove(n.id);
  }
  // A cast to the wider type that nobody reads any more would look like a reader to the passes after it.
  return skipped > 0 ? swept(draft.finish()) : draft.finish();
}

/**
 * A cast that takes a wider type back to the one it was made from reads that. ONNX Runtime joins such pairs as well, and loses the value where
 * only a body reads it.
 */
function skipWider(draft: Editor, n: Node, facts: (v: ValueId) => Fact): boolean {
  const [x] = n.ins;
  const before = n.op === "Cast" && n.domain === "" ? draft.producer(x) : undefined;
  const [source] = before?.ins ?? [];
  if (x === undefined || source === undefined || before?.op !== "Cast" || before.domain !== "") return false;
  const [narrow, wide, back] = [source, x, n.outs[0] as ValueId].map((v) => dtypeOf(facts(v)));
  if (narrow === undefined || wide === undefined || back !== narrow || !holdsAll(wide, narrow)) return false;
  draft.patch(n.id, { ins: [source] });
  return true;
}

/** The operand of a Where that every element comes from; the condition's place where that is open. */
function chosen(g: Graph, n: Node): number {
  const condition = uniform(n.ins[0] === undefined ? undefined : g.constants.get(n.ins[0]));
  return condition === undefined ? 0 : condition === 0 ? 2 : 1;
}

function passesThrough(g: Graph, n: Node, facts: (v: ValueId) => Fact): boolean {
  const x = n.ins[0] as ValueId;
  const [from, to] = [shapeOfType(facts(x).type), shapeOfType(facts(n.outs[0] as ValueId).type)];
  const others = n.outs.slice(1).every((v) => v === undefined);
  const constant = (i: number): readonly number[] | undefined =>
    smallNumbers(n.ins[i] === undefined ? undefined : g.constants.get(n.ins[i]));
  const ints = (name: string): readonly number[] | undefined => {
    const a = n.attrs[name];
    return a?.kind === "ints" ? a.value.map(Number) : undefined;
  };
  switch (n.op) {
    case "Identity":
      return true;
    case "Dropout":
      return others && (n.ins[2] === undefined || constant(2)?.[0] === 0);
    case "Cast": {
      const a = n.attrs["to"];
      return a?.kind === "int" && dtypeFromOnnx(Number(a.value)) === dtypeOf(facts(x));
    }
    case "Transpose":
      return ints("perm")?.every((p, i) => p === i) ?? false;
    case "Reshape":
    case "Expand":
    case "Flatten":
    case "Squeeze":
    case "Unsqueeze":
    case "Tile":
      return equalShapes(from, to) && (n.op !== "Tile" || (constant(1)?.every((r) => r === 1) ?? false));
    case "Pad":
      return constant(1)?.every((p) => p === 0) ?? false;
    case "Slice":
      return equalShapes(from, to) && (n.ins[4] === undefined || (constant(4)?.every((s) => s === 1) ?? false));
    case "Where": {
      const at = chosen(g, n);
      const operand = n.ins[at];
      return at > 0 && operand !== undefined && equalShapes(shapeOfType(facts(operand).type), to);
    }
    case "Concat":
      return n.ins.length === 1;
    case "Sum":
    case "Max":
    case "Min":
    case "Mean":
      return n.ins.length === 1;
    case "Mul":
    case "Div":
      return n.ins[1] !== undefined && equalShapes(from, to) && isAll(g, n.ins[1], 1);
    case "Add":
    case "Sub":
      return n.ins[1] !== undefined && equalShapes(from, to) && isAll(g, n.ins[1], 0);
    default:
      return false;
  }
}

/** Certainly the same dims; unknown ones are never the same. */
export const equalShapes = (a: Shape, b: Shape): boolean =>
  a !== undefined && b !== undefined && a.length === b.length && a.every((d, i) => sameDim(d, b[i] ?? "?") === true);
const isAll = (g: Graph, v: ValueId, x: number): boolean => uniform(g.constants.get(v)) === x;
