/** The products of attention where they are spelled as Einsum (Keras): as MatMul with transpositions, so that they are recognised like any other. */
import type { Dim, Node, ValueId } from "../../ir/types.js";
import { dimsOf } from "../match.js";
import type { Draft } from "../rewrite.js";
import { isIdentity } from "./walk.js";

/** What attention may have between its softmax and its products. */
const BETWEEN: ReadonlySet<string> = new Set("Add Mul Div Where Cast Max Tanh Reshape IsNaN Identity Squeeze".split(" "));
const STEPS = 24;

/** A sum over one letter of two operands, each with one letter of its own: `left` has the first of those, `right` the second. */
interface Product {
  readonly left: { readonly id: ValueId; readonly letters: string };
  readonly right: { readonly id: ValueId; readonly letters: string };
  readonly out: string;
  readonly batch: string;
  readonly summed: string;
  readonly row: string;
  readonly column: string;
}

/** An Einsum as a product of matrices, `left` being the operand that has the first free letter of the result, or the one given. */
function productOf(n: Node, first?: ValueId): Product | undefined {
  const a = n.attrs["equation"];
  const equation = a?.kind === "string" && typeof a.value === "string" ? a.value.replaceAll(" ", "") : "";
  const [, x = "", y = "", out = ""] = /^([A-Za-z]+),([A-Za-z]+)->([A-Za-z]+)$/.exec(equation) ?? [];
  const [p, q] = n.ins;
  if (x === "" || p === undefined || q === undefined || p === q || n.ins.length !== 2) return undefined;
  if ([x, y, out].some((w) => new Set(w).size !== w.length)) return undefined;
  const all = [...new Set(x + y)];
  if ([...out].some((c) => !all.includes(c))) return undefined;
  const of = (inX: boolean, inY: boolean, inOut: boolean): string =>
    all.filter((c) => x.includes(c) === inX && y.includes(c) === inY && out.includes(c) === inOut).join("");
  const [batch, summed, ofX, ofY] = [of(true, true, true), of(true, true, false), of(true, false, true), of(false, true, true)];
  if (summed.length !== 1 || ofX.length !== 1 || ofY.length !== 1 || batch.length + 3 !== all.length) return undefined;
  const leftIsX = first === undefined ? out.indexOf(ofX) < out.indexOf(ofY) : first === p;
  const [l, r] = [
    { id: p, letters: x },
    { id: q, letters: y },
  ];
  return leftIsX
    ? { left: l, right: r, out, batch, summed, row: ofX, column: ofY }
    : { left: r, right: l, out, batch, summed, row: ofY, column: ofX };
}

/** Writes the Einsums around every softmax as products of matrices, where both of its neighbours are products. */
export function einsumsAsProducts(draft: Draft, nodes: readonly Node[]): void {
  if (!nodes.some((n) => n.op === "Einsum" && n.domain === "")) return;
  for (const n of nodes) {
    if (n.op !== "Softmax" || n.domain !== "" || n.outs[0] === undefined) continue;
    const scores = below(draft, n);
    const root = scores === undefined ? undefined : above(draft, n);
    if (scores === undefined || root === undefined) continue;
    if (root.node.op === "Einsum") {
      const p = productOf(root.node, root.by);
      // The weights as they are: their last two letters are the row and what is summed.
      if (p === undefined || !p.left.letters.endsWith(p.row + p.summed)) continue;
      if (scores.op === "Einsum" && !written(draft, scores)) continue;
      write(draft, root.node, p, p.left.letters.slice(0, -2));
    } else if (scores.op === "Einsum") written(draft, scores);
  }
}
/** Writes Q K' where its result has the dims of scores: rows and columns last. */
function written(draft: Draft, n: Node): boolean {
  const p = productOf(n);
  return p === undefined || !p.out.endsWith(p.row + p.column) ? false : write(draft, n, p, p.out.slice(0, -2));
}

function write(draft: Draft, n: Node, p: Product, batch: string): boolean {
  const { edit } = draft;
  const stem = n.name === "" ? "einsum" : n.name;
  const origin = n.origin ?? [n.name];
  const type = draft.type(p.left.id);
  if (type.kind !== "tensor" || batch.length !== p.batch.length) return false;
  const dims = new Map<string, Dim>();
  for (const { id, letters } of [p.left, p.right])
    [...letters].forEach((c, i) => {
      dims.set(c, dimsOf(draft, id)?.[i] ?? "?");
    });
  const shaped = (letters: string) => ({ ...type, shape: [...letters].map((c) => dims.get(c) ?? "?") });
  const turned = (id: ValueId, from: string, to: string): ValueId => {
    const perm = [...to].map((c) => from.indexOf(c));
    if (isIdentity(perm)) return id;
    const y = edit.declare(`${stem}/turned`, shaped(to));
    edit.add({ op: "Transpose", ins: [id], outs: [y], attrs: { perm: { kind: "ints", value: perm } }, name: `${stem}/turned`, origin });
    return y;
  };
  const left = turned(p.left.id, p.left.letters, batch + p.row + p.summed);
  const right = turned(p.right.id, p.right.letters, batch + p.summed + p.column);
  const made = batch + p.row + p.column;
  if (made === p.out) {
    edit.patch(n.id, { op: "MatMul", ins: [left, right], attrs: {}, origin });
    return true;
  }
  const y = edit.declare(`${stem}/product`, shaped(made));
  edit.add({ op: "MatMul", ins: [left, right], outs: [y], name: `${stem}/product`, origin });
  const perm = [...p.out].map((c) => made.indexOf(c));
  edit.patch(n.id, { op: "Transpose", ins: [y], attrs: { perm: { kind: "ints", value: perm } }, origin });
  return true;
}

/** The product that a softmax's scores come from. */
function below(draft: Draft, softmax: Node): Node | undefined {
  const todo = softmax.ins.slice(0, 1);
  for (let steps = 0; steps < STEPS; steps++) {
    const n = draft.producer(todo.shift());
    if (n === undefined) {
      if (todo.length === 0) return undefined;
      continue;
    }
    if (n.domain === "" && (n.op === "Einsum" || n.op === "MatMul")) return n;
    if (n.domain === "" && BETWEEN.has(n.op)) todo.push(...(n.op === "Reshape" || n.op === "Squeeze" ? n.ins.slice(0, 1) : n.ins));
  }
  return undefined;
}
/** The product that reads a softmax's weights, and the value that it reads them as. */
function above(draft: Draft, softmax: Node): { readonly node: Node; readonly by: ValueId } | undefined {
  const todo = [softmax.outs[0]];
  for (let steps = 0; steps < STEPS && todo.length > 0; steps++) {
    const v = todo.shift();
    for (const u of v === undefined ? [] : draft.uses(v)) {
      if (v !== undefined && u.domain === "" && (u.op === "Einsum" || u.op === "MatMul")) return { node: u, by: v };
      if (u.domain === "" && BETWEEN.has(u.op)) todo.push(u.outs[0]);
    }
  }
  return undefined;
}
