/**
 * Where ONNX Runtime 1.30 needs help.
 *
 * A known wrong result: at full optimisation a Transpose is folded into a MatMul that has a 1-D operand, which then multiplies the wrong
 * axis. A vector operand beside a transposed one is made a matrix, which is not affected, and squeezed back.
 *
 * A crash: LSTM, GRU and RNN read three dims of their input, and Einsum as many as its term has letters, before they look whether the input
 * has them, and end the process.
 *
 * Another: Einsum whose operands have ellipses of different ranks. Dims of 1 make them equal, which is what broadcasting does.
 *
 * Another wrong result: a body that gives one value twice leaves the second unwritten. The second becomes a copy.
 *
 * A needless refusal: Range runs on operands of one element and rank 1, but its shape inference refuses them once their rank is known.
 */
import { Editor } from "../../ir/edit.js";
import { shapeOfType, typeAt } from "../../ir/graph.js";
import { int64Constant } from "../../ir/payload.js";
import type { Attr, Graph, Node, ValueId } from "../../ir/types.js";
import { deep } from "../../passes/pass.js";

export function guarded(g: Graph): Graph {
  return deep(g, (inner) => ranked(ellipses(distinctOutputs(scalarRanges(vectorProducts(inner))))));
}

/** Operators that trust their inputs' ranks read those of unknown rank through a Transpose in place, which refuses every other rank. */
function ranked(g: Graph): Graph {
  const open = g.nodes.flatMap((n) => {
    const ranks = trustedRanks(n);
    const ins = n.ins.map((v, i) =>
      v === undefined || ranks[i] === undefined || shapeOfType(typeAt(g, v)) !== undefined ? undefined : ranks[i],
    );
    return ins.some((rank) => rank !== undefined) ? [{ n, ranks: ins }] : [];
  });
  if (open.length === 0) return g;
  const draft = new Editor(g);
  for (const { n, ranks } of open) {
    const ins = n.ins.map((v, i) => {
      const rank = ranks[i];
      if (v === undefined || rank === undefined) return v;
      const perm: Attr = { kind: "ints", value: Array.from({ length: rank }, (_, axis) => axis) };
      return draft.add({ op: "Transpose", ins: [v], outs: 1, name: `${n.name}/rank`, attrs: { perm }, origin: n.origin ?? [n.name] })
        .outs[0];
    });
    draft.patch(n.id, { ins });
  }
  return draft.finish();
}

/** By input: the rank that ONNX Runtime takes for granted. */
function trustedRanks(n: Node): readonly (number | undefined)[] {
  if (n.domain !== "") return [];
  if (RECURRENT.has(n.op)) return [3];
  return (termsOf(n) ?? []).map((term) => (term.includes("...") ? undefined : term.length));
}
/** An Einsum's terms, one an input; undefined for other operators, and where the equation is no text. */
function termsOf(n: Node): readonly string[] | undefined {
  const equation = n.attrs["equation"];
  if (n.op !== "Einsum" || n.domain !== "" || equation?.kind !== "string" || typeof equation.value !== "string") return undefined;
  const [terms = ""] = equation.value.replaceAll(/\s/g, "").split("->");
  return terms.split(",");
}
const RECURRENT: ReadonlySet<string> = new Set(["LSTM", "GRU", "RNN"]);

/** Dims of 1 in front of what an operand's ellipsis stands for, up to the longest of its Einsum. */
function ellipses(g: Graph): Graph {
  if (!g.nodes.some((n) => n.op === "Einsum" && n.domain === "")) return g;
  const draft = new Editor(g);
  for (const n of g.nodes) {
    const terms = termsOf(n);
    if (terms === undefined) continue;
    const hidden = terms.map((term, i) => {
      const v = n.ins[i];
      const rank = v === undefined ? undefined : shapeOfType(draft.type(v))?.length;
      return rank === undefined || !term.includes("...") ? undefined : rank - (term.length - 3);
    });
    const most = Math.max(...hidden.map((h) => h ?? 0));
    const ins = n.ins.map((v, i) => {
      const own = hidden[i];
      if (v === undefined || own === undefined || own < 0 || own === most) return v;
      const before = (terms[i] ?? "").indexOf("...");
      const axes = draft.addConstant(`${n.name}/axes`, int64Constant(Array.from({ length: most - own }, (_, k) => before + k)));
      return draft.add({ op: "Unsqueeze", ins: [v, axes], outs: 1, name: `${n.name}/broadcast`, origin: n.origin ?? [n.name] }).outs[0];
    });
    if (ins.some((v, i) => v !== n.ins[i])) draft.patch(n.id, { ins });
  }
  return draft.finish();
}

/** Every output of a graph once; a further one of the same value is a copy. */
function distinctOutputs(g: Graph): Graph {
  if (new Set(g.outputs).size === g.outputs.length) return g;
  const draft = new Editor(g);
  const seen = new Set<ValueId>();
  const outputs = g.outputs.map((v) => {
    const { name } = draft.value(v);
    const [copy] = seen.has(v) ? draft.add({ op: "Identity", ins: [v], outs: 1, name: `${name}/copy`, origin: [] }).outs : [];
    seen.add(v);
    return copy ?? v;
  });
  draft.setOutputs(outputs);
  return draft.finish();
}

/** Operands of Range that are known to be of rank 1 become scalars. */
function scalarRanges(g: Graph): Graph {
  if (!g.nodes.some((n) => n.op === "Range" && n.domain === "")) return g;
  const draft = new Editor(g);
  for (const n of g.nodes) {
    if (n.op !== "Range" || n.domain !== "") continue;
    const ins = n.ins.map((v) => {
      if (v === undefined || shapeOfType(draft.type(v))?.length !== 1) return v;
      return draft.add({ op: "Squeeze", ins: [v], outs: 1, name: `${n.name}/scalar`, origin: n.origin ?? [n.name] }).outs[0];
    });
    if (ins.some((v, i) => v !== n.ins[i])) draft.patch(n.id, { ins });
  }
  return draft.finish();
}

function vectorProducts(g: Graph): Graph {
  if (!g.nodes.some((n) => n.op === "MatMul" && n.domain === "") || !g.nodes.some((n) => n.op === "Transpose")) return g;
  const draft = new Editor(g);
  // ONNX Runtime looks through Cast, and may move a Transpose through other operators before it fuses; any transposed operand counts.
  const transposed = (v: ValueId | undefined, depth = 0): boolean => {
    const p = draft.producer(v);
    if (p === undefined || depth > 4) return false;
    return p.op === "Transpose" || (p.ins.length > 0 && p.ins.some((i) => transposed(i, depth + 1)));
  };
  const rank = (v: ValueId | undefined): number | undefined => (v === undefined ? undefined : shapeOfType(draft.type(v))?.length);
  for (const n of draft.nodes()) {
    if (n.op !== "MatMul" || n.domain !== "") continue;
    const [a, b] = n.ins;
    if (a === undefined || b === undefined) continue;
    // An unknown rank may be 1, but then nothing can be rewritten safely here; ONNX Runtime does not fuse without a known shape either.
    if (rank(b) === 1 && rank(a) !== 1 && transposed(a)) widen(draft, n, 1);
    else if (rank(a) === 1 && rank(b) !== 1 && transposed(b)) widen(draft, n, 0);
  }
  return draft.finish();
}

/** MatMul(a, v) as Squeeze(MatMul(a, [v])): the vector becomes a column (side 1) or a row (side 0). */
function widen(draft: Editor, n: Node, side: 0 | 1): void {
  const [out] = n.outs;
  const vector = n.ins[side];
  if (out === undefined || vector === undefined) return;
  const axis = side === 1 ? -1 : -2;
  const axes = draft.addConstant(`${n.name}/axis`, int64Constant([side === 1 ? 1 : 0]));
  const back = draft.addConstant(`${n.name}/axis`, int64Constant([axis]));
  const wide = draft.add({ op: "Unsqueeze", ins: [vector, axes], outs: 1, name: `${n.name}/vector`, origin: n.origin ?? [n.name] }).outs[0];
  const product = draft.declare(`${n.name}/matrix`);
  draft.patch(n.id, { ins: side === 1 ? [n.ins[0], wide] : [wide, n.ins[1]], outs: [product] });
  draft.add({ op: "Squeeze", ins: [product, back], outs: [out], name: `${n.name}/squeeze`, origin: n.origin ?? [n.name] });
}
