/** Einsum: contractions of two operands are written as matrix products before emission, every other equation is one sum over its free indices. */
import { Editor } from "../../ir/edit.js";
import { valueAt } from "../../ir/graph.js";
import { int64Constant } from "../../ir/payload.js";
import type { Graph, Node, ValueId } from "../../ir/types.js";
import { doneSite, inferGraph } from "../../ops/infer.js";
import { type Index, product, ZERO } from "./indexing.js";
import { literal } from "./pointwise.js";
import { type Reduction, sum } from "./reduction.js";
import { operand, output, Refused, type Site } from "./site.js";
import { storage } from "./storage.js";

interface Equation {
  /** Indices of each operand's dims, and of the result's; those of an ellipsis are called by upper-case numbers. */
  readonly terms: readonly (readonly string[])[];
  readonly out: readonly string[];
  readonly sizes: ReadonlyMap<string, number>;
}

/** The equation over dims; undefined where they do not go together. */
function read(text: string, dims: readonly (readonly number[])[]): Equation | undefined {
  const [left = "", right] = text.replaceAll(" ", "").split("->");
  const sizes = new Map<string, number>();
  const seen = new Map<string, number>();
  let hidden = 0;
  const written = left.split(",");
  if (written.length !== dims.length) return undefined;
  written.forEach((term, i) => {
    if (term.includes("...")) hidden = Math.max(hidden, (dims[i] as readonly number[]).length - (term.length - 3));
  });
  const ellipsis = (n: number): readonly string[] => Array.from({ length: n }, (_, k) => `#${hidden - n + k}`);
  const spell = (term: string, rank?: number): readonly string[] => {
    const at = term.indexOf("...");
    if (at < 0) return [...term];
    const n = rank === undefined ? hidden : rank - (term.length - 3);
    return [...term.slice(0, at), ...ellipsis(n), ...term.slice(at + 3)];
  };
  const terms = written.map((term, i) => spell(term, (dims[i] as readonly number[]).length));
  for (const [i, term] of terms.entries()) {
    const own = dims[i] as readonly number[];
    if (term.length !== own.length) return undefined;
    for (const [k, c] of term.entries()) {
      const [known, d] = [sizes.get(c) ?? 1, own[k] as number];
      if (known !== 1 && d !== 1 && known !== d) return undefined;
      sizes.set(c, Math.max(known, d) * (d === 0 ? 0 : 1));
      seen.set(c, (seen.get(c) ?? 0) + 1);
    }
  }
  const single = [...seen].filter(([c, n]) => n === 1 && !c.startsWith("#")).map(([c]) => c);
  return { terms, out: right === undefined ? [...ellipsis(hidden), ...single.sort()] : spell(right), sizes };
}

/** One sum over the indices that the result does not have. */
export function einsum(s: Site): Reduction {
  const xs = s.ins.map((_, i) => operand(s, i));
  const e = read(
    s.attrs.equation ?? "",
    xs.map((x) => x.dims),
  );
  if (e === undefined) throw new Refused("its equation does not go with its operands");
  const summed = [...e.sizes.keys()].filter((c) => !e.out.includes(c));
  const register = storage(output(s).dtype).register;
  return {
    over: summed.map((c) => e.sizes.get(c) as number),
    accumulators: [{ type: register, start: literal(0, register) }],
    element: (scope, out, at) => {
      const index = (c: string): Index => (e.out.includes(c) ? (out[e.out.indexOf(c)] as Index) : (at[summed.indexOf(c)] as Index));
      const factors = xs.map((x, i) =>
        x.at(
          scope,
          (e.terms[i] as readonly string[]).map((c, k) => (x.dims[k] === 1 ? ZERO : index(c))),
        ),
      );
      return [scope.let(register, factors.join(" * "))];
    },
    combine: sum,
    finish: (_, [total = ""]) => total,
  };
}

/** Einsum nodes that contract two operands, as Transpose, Reshape and MatMul: the templates' products run on the matrix units. */
export function spellEinsums(g: Graph): Graph {
  if (!g.nodes.some((n) => n.op === "Einsum" && n.domain === "")) return g;
  const { graph, facts } = inferGraph(g);
  const draft = new Editor(graph);
  for (const n of graph.nodes) {
    if (n.op !== "Einsum" || n.domain !== "" || n.ins.length !== 2) continue;
    const dims = n.ins.map((v) => {
      const t = v === undefined ? undefined : facts(v).type;
      return t?.kind === "tensor" && t.shape?.every((d) => typeof d === "number") === true ? (t.shape as readonly number[]) : undefined;
    });
    const [a, b] = dims;
    const site = doneSite(graph, n, facts)?.site;
    const e = a === undefined || b === undefined || site === undefined ? undefined : read(String(site.attrs["equation"] ?? ""), [a, b]);
    if (a !== undefined && b !== undefined && e !== undefined) spell(draft, graph, n, e, a, b);
  }
  return draft.finish();
}

function spell(draft: Editor, g: Graph, n: Node, e: Equation, a: readonly number[], b: readonly number[]): void {
  const [l, r] = e.terms as [readonly string[], readonly string[]];
  const plain = (term: readonly string[], dims: readonly number[]): boolean =>
    new Set(term).size === term.length && term.every((c, i) => dims[i] === e.sizes.get(c));
  if (!plain(l, a) || !plain(r, b) || product(a) * product(b) === 0) return;
  const both = l.filter((c) => r.includes(c));
  const batch = e.out.filter((c) => both.includes(c));
  const summed = both.filter((c) => !e.out.includes(c));
  const rows = e.out.filter((c) => l.includes(c) && !r.includes(c));
  const columns = e.out.filter((c) => r.includes(c) && !l.includes(c));
  // An index of one operand alone that the result lacks is a sum of its own, and without a common one there is nothing to multiply along.
  if (
    summed.length === 0 ||
    batch.length + summed.length + rows.length !== l.length ||
    batch.length + summed.length + columns.length !== r.length
  )
    return;
  const size = (list: readonly string[]): number => product(list.map((c) => e.sizes.get(c) as number));
  const stem = n.name === "" ? valueAt(g, n.outs[0] as ValueId).name : n.name;
  const origin = n.origin ?? [n.name];
  let count = 0;
  const made = (
    op: string,
    ins: readonly ValueId[],
    attrs: Parameters<Editor["add"]>[0]["attrs"] = {},
    outs?: readonly (ValueId | undefined)[],
  ): ValueId => draft.add({ op, ins, attrs, outs: outs ?? 1, name: `${stem}.${op}${count++}`, origin }).outs[0] as ValueId;
  const shaped = (x: ValueId, dims: readonly number[], outs?: readonly (ValueId | undefined)[]): ValueId =>
    made("Reshape", [x, draft.addConstant(`${stem}.dims${count}`, int64Constant(dims))], {}, outs);
  const turned = (x: ValueId, from: readonly string[], to: readonly string[], outs?: readonly (ValueId | undefined)[]): ValueId =>
    made("Transpose", [x], { perm: { kind: "ints", value: to.map((c) => from.indexOf(c)) } }, outs);
  const left = shaped(turned(n.ins[0] as ValueId, l, [...batch, ...rows, ...summed]), [size(batch), size(rows), size(summed)]);
  const right = shaped(turned(n.ins[1] as ValueId, r, [...batch, ...summed, ...columns]), [size(batch), size(summed), size(columns)]);
  const order = [...batch, ...rows, ...columns];
  draft.remove(n.id);
  const whole = shaped(
    made("MatMul", [left, right]),
    order.map((c) => e.sizes.get(c) as number),
  );
  turned(whole, order, e.out, n.outs);
}
