/** Merges neighbouring Transposes and Reshapes, and moves Transposes past elementwise operators where two of them then meet. */
import type { Editor } from "../ir/edit.js";
import { smallNumbers } from "../ir/payload.js";
import type { Attr, Graph, Node, ValueId } from "../ir/types.js";
import { dimsOf } from "./match.js";
import { equalShapes } from "./no-ops.js";
import { deep, definePass, type PassContext } from "./pass.js";
import { type Draft, draftOf } from "./rewrite.js";

const perm = (n: Node | undefined): readonly number[] | undefined => {
  const a = n?.op === "Transpose" && n.domain === "" ? n.attrs["perm"] : undefined;
  return a?.kind === "ints" ? a.value.map(Number) : undefined;
};
const attr = (p: readonly number[]): Record<string, Attr> => ({ perm: { kind: "ints", value: p } });
const isIdentity = (p: readonly number[]): boolean => p.every((x, i) => x === i);
/** One operand, elementwise: a Transpose may stand on either side. */
const ELEMENTWISE: ReadonlySet<string> = new Set(
  "Relu Sigmoid Tanh LeakyRelu Elu Selu Celu Clip HardSigmoid HardSwish Softplus Softsign Erf Gelu Mish Swish Abs Neg Exp Log Sqrt Reciprocal Sign Ceil Floor Round Cast Identity ThresholdedRelu".split(
    " ",
  ),
);
const BINARY: ReadonlySet<string> = new Set("Add Sub Mul Div Max Min".split(" "));

export const cancelViews = definePass({
  name: "cancel-views",
  why: "Layout changes of exporters and of the TensorFlow import come in pairs; what is between them decides whether they cancel.",
  run: (g, context) => deep(g, (inner) => cancelled(inner, context)),
});

function cancelled(g: Graph, context: PassContext): Graph {
  const view = draftOf(g, context);
  const draft = view.edit;
  for (let round = 0; round < 8; round++) {
    let changed = false;
    for (const n of draft.nodes()) {
      if (draft.node(n.id) === undefined) continue;
      changed = mergeTransposes(draft, n) || dropReshape(view, n) || mergeReshapes(draft, n) || sink(draft, n) || changed;
    }
    if (!changed) break;
  }
  return draft.finish();
}

function mergeTransposes(draft: Editor, n: Node): boolean {
  const outer = perm(draft.node(n.id));
  const [x] = (draft.node(n.id) ?? n).ins;
  const [y] = n.outs;
  if (outer === undefined || y === undefined || x === undefined) return false;
  if (isIdentity(outer) && !(draft.isOutput(y) && (draft.producer(x) === undefined || draft.isOutput(x)))) {
    draft.replaceUses(y, x);
    draft.remove(n.id);
    return true;
  }
  const before = draft.producer(x);
  const inner = perm(before);
  if (inner === undefined || before === undefined || inner.length !== outer.length) return false;
  draft.patch(n.id, { ins: [before.ins[0]], attrs: attr(outer.map((p) => inner[p] ?? 0)) });
  if (draft.uses(x).length === 0 && !draft.isOutput(x)) draft.remove(before.id);
  return true;
}

/** A Reshape to the dims its input has, as neighbours that merged may leave one. */
function dropReshape(view: Draft, n: Node): boolean {
  const draft = view.edit;
  const now = draft.node(n.id);
  const [x] = now?.ins ?? [];
  const [y] = n.outs;
  if (now?.op !== "Reshape" || now.domain !== "" || x === undefined || y === undefined) return false;
  if (!equalShapes(dimsOf(view, x), dimsOf(view, y))) return false;
  if (draft.isOutput(y) && (draft.producer(x) === undefined || draft.isOutput(x))) return false;
  draft.replaceUses(y, x);
  draft.remove(n.id);
  return true;
}

/** The second of two Reshapes decides alone, unless it copies dims (0) of the first. */
function mergeReshapes(draft: Editor, n: Node): boolean {
  const now = draft.node(n.id);
  if (now?.op !== "Reshape" || now.domain !== "") return false;
  const before = draft.producer(now.ins[0]);
  if (before === undefined || before.domain !== "" || !["Reshape", "Flatten", "Squeeze", "Unsqueeze"].includes(before.op)) return false;
  // A dim of 0 copies that of the first Reshape's result, unless allowzero makes it one of no elements.
  const shape = smallNumbers(draft.constant(now.ins[1]));
  if (shape === undefined || shape.includes(0)) return false;
  draft.patch(n.id, { ins: [before.ins[0], now.ins[1]] });
  const x = now.ins[0] as ValueId;
  if (draft.uses(x).length === 0 && !draft.isOutput(x)) draft.remove(before.id);
  return true;
}

/** f(T(x)) = T(f(x)): moves a Transpose behind the operator when its other side, too, is transposed or does not care. */
function sink(draft: Editor, n: Node): boolean {
  const now = draft.node(n.id);
  const [y] = now?.outs ?? [];
  if (now === undefined || y === undefined || now.domain !== "" || now.outs.length !== 1) return false;
  const first = draft.producer(now.ins[0]);
  const second = now.ins.length === 2 ? draft.producer(now.ins[1]) : undefined;
  const [p, q] = [perm(first), perm(second)];
  if (
    ELEMENTWISE.has(now.op) &&
    first !== undefined &&
    p !== undefined &&
    now.ins.slice(1).every((v) => v === undefined || scalar(draft, v))
  ) {
    if (!worthwhile(draft, now, [first])) return false;
    return move(draft, now, p, [first.ins[0], ...now.ins.slice(1)], [now.ins[0]]);
  }
  if (!BINARY.has(now.op)) return false;
  if (first !== undefined && second !== undefined && p !== undefined && q !== undefined && p.join() === q.join())
    return move(draft, now, p, [first.ins[0], second.ins[0]], [now.ins[0], now.ins[1]]);
  if (first !== undefined && p !== undefined && now.ins[1] !== undefined && scalar(draft, now.ins[1]) && worthwhile(draft, now, [first]))
    return move(draft, now, p, [first.ins[0], now.ins[1]], [now.ins[0]]);
  if (second !== undefined && q !== undefined && now.ins[0] !== undefined && scalar(draft, now.ins[0]) && worthwhile(draft, now, [second]))
    return move(draft, now, q, [now.ins[0], second.ins[0]], [now.ins[1]]);
  return false;
}
/** Moving pays when the result then meets another Transpose; otherwise it would only change places. */
function worthwhile(draft: Editor, n: Node, transposes: readonly Node[]): boolean {
  const [y] = n.outs;
  if (y === undefined || draft.isOutput(y)) return false;
  if (!transposes.every((t) => t.outs[0] !== undefined && draft.hasOneUser(t.outs[0]))) return false;
  let at: Node | undefined = n;
  for (let steps = 0; steps < 16 && at !== undefined; steps++) {
    const out: ValueId | undefined = at.outs[0];
    if (out === undefined) return false;
    const users = draft.uses(out);
    if (users.some((u) => perm(u) !== undefined)) return true;
    const [only] = users;
    if (users.length !== 1 || only === undefined || !(ELEMENTWISE.has(only.op) || BINARY.has(only.op))) return false;
    at = only;
  }
  return false;
}
function scalar(draft: Editor, v: ValueId): boolean {
  const t = draft.type(v);
  return t.kind === "tensor" && t.shape !== undefined && t.shape.every((d) => d === 1) && t.shape.length <= 1;
}
function move(
  draft: Editor,
  n: Node,
  p: readonly number[],
  ins: readonly (ValueId | undefined)[],
  old: readonly (ValueId | undefined)[],
): boolean {
  const [y] = n.outs;
  if (y === undefined) return false;
  const inner = draft.declare(`${draft.value(y).name}.moved`);
  draft.patch(n.id, { ins, outs: [inner] });
  draft.add({ op: "Transpose", ins: [inner], outs: [y], attrs: attr(p), name: n.name, origin: n.origin });
  for (const v of old) {
    const t = draft.producer(v);
    if (v !== undefined && t !== undefined && draft.uses(v).length === 0 && !draft.isOutput(v)) draft.remove(t.id);
  }
  return true;
}
