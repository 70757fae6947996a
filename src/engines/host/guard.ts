/**
 * Where ONNX Runtime 1.30 needs help.
 *
 * A wrong result: from level "extended" on a Transpose is folded into a MatMul by a vector, which then multiplies the wrong axis (vectors.ts). The
 * vector is made a matrix of one column, which is not affected, and the result squeezed back.
 *
 * A crash: LSTM, GRU and RNN read three dims of their input, and Einsum as many as its term has letters, before they look whether the input
 * has them, and end the process.
 *
 * Another: Einsum whose operands have ellipses of different ranks. Dims of 1 make them equal, which is what broadcasting does.
 *
 * Another wrong result: a body that gives one value twice leaves the second unwritten. The second becomes a copy.
 *
 * A third: from level "basic" on a Transpose is moved through a Pad as if it had no axes. Its counts are written out for all of them.
 *
 * A needless refusal: Range runs on operands of one element and rank 1, but its shape inference refuses them once their rank is known.
 */
import { Editor } from "../../ir/edit.js";
import { shapeOfType, typeAt } from "../../ir/graph.js";
import { int64Constant, smallNumbers } from "../../ir/payload.js";
import type { Attr, Dim, Graph, Node, TensorType, ValueId } from "../../ir/types.js";
import { deep } from "../../passes/pass.js";
import { flag, vectorProducts } from "./vectors.js";

export function guarded(g: Graph): Graph {
  return deep(g, (inner) => ranked(ellipses(distinctOutputs(scalarRanges(padsOfAllAxes(columns(inner)))))));
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

/** A Pad of some axes as one of all, where it is known which they are. */
function padsOfAllAxes(g: Graph): Graph {
  if (!g.nodes.some((n) => n.op === "Pad" && n.domain === "" && n.ins[3] !== undefined)) return g;
  const draft = new Editor(g);
  for (const n of g.nodes) {
    const [x, pads, value, some] = n.ins;
    if (n.op !== "Pad" || n.domain !== "" || x === undefined || pads === undefined || some === undefined) continue;
    const rank = shapeOfType(draft.type(x))?.length;
    const axes = smallNumbers(draft.constant(some));
    if (rank === undefined || axes === undefined) continue;
    const places = [0, rank].flatMap((end) => axes.map((a) => (a < 0 ? a + rank : a) + end));
    const known = smallNumbers(draft.constant(pads));
    const none = new Array<number>(2 * rank).fill(0);
    const constant = (suffix: string, numbers: readonly number[]): ValueId =>
      draft.addConstant(`${n.name}/${suffix}`, int64Constant(numbers));
    const all =
      known === undefined
        ? draft.add({
            op: "ScatterElements",
            ins: [constant("none", none), constant("places", places), pads],
            outs: 1,
            name: `${n.name}/pads`,
            origin: n.origin ?? [n.name],
          }).outs[0]
        : constant(
            "pads",
            places.reduce((list, at, i) => list.with(at, known[i] ?? 0), none),
          );
    draft.patch(n.id, { ins: value === undefined ? [x, all] : [x, all, value] });
  }
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

/** Vectors that multiply what may be transposed become columns. */
function columns(g: Graph): Graph {
  // A rank that is not known may be another: that optimizer is left out then (avoid.ts).
  const products = vectorProducts(g).filter(({ rank }) => rank === 1);
  if (products.length === 0) return g;
  const draft = new Editor(g);
  for (const { node, a, b } of products) {
    const origin = node.origin ?? [node.name];
    const type = draft.type(b) as TensorType;
    const [length] = type.shape as readonly [Dim];
    // FusedMatMul transposes no vector; it would the matrix.
    const row = flag(node, "transB");
    const axis = draft.addConstant(`${node.name}/axis`, int64Constant([row ? 0 : 1]));
    const last = draft.addConstant(`${node.name}/axis`, int64Constant([-1]));
    const column = draft.declare(`${node.name}/vector`, { ...type, shape: row ? [1, length] : [length, 1] });
    draft.add({ op: "Unsqueeze", ins: [b, axis], outs: [column], name: `${node.name}/vector`, origin });
    const product = draft.declare(`${node.name}/matrix`);
    draft.patch(node.id, { ins: [a, column], outs: [product] });
    draft.add({ op: "Squeeze", ins: [product, last], outs: node.outs, name: `${node.name}/squeeze`, origin });
  }
  return draft.finish();
}
