/**
 * Einsums of an activation with a constant weight as products of matrices, which integer kernels compute: dense layers are written so in Keras and JAX
 * ("abc,cd->abd", "abc,cde->abde", "abcd,cde->abe"). The weight becomes a matrix here, its summed dims first; products of two activations stay.
 */
import { Editor } from "../ir/edit.js";
import { int64Constant, transposed } from "../ir/payload.js";
import type { Attr, Graph, Node, ValueId } from "../ir/types.js";
import { type Fact, rankOf } from "../ops/define.js";
import { type InferOptions, inferGraph } from "../ops/infer.js";
import { floats } from "../passes/weights.js";

/** Those that `stays` does not name. */
export function einsumsAsProducts(g: Graph, shapes: InferOptions["shapes"], stays: (n: Node) => boolean = () => false): Graph {
  const found = g.nodes.filter((n) => n.op === "Einsum" && n.domain === "" && !stays(n));
  if (found.length === 0) return g;
  const { facts } = inferGraph(g, { shapes });
  const draft = new Editor(g);
  for (const n of found) spell(draft, n, facts);
  return draft.changed ? inferGraph(draft.finish(), { shapes }).graph : g;
}

function spell(draft: Editor, n: Node, facts: (v: ValueId) => Fact): void {
  const equation = n.attrs["equation"];
  const text = equation?.kind === "string" && typeof equation.value === "string" ? equation.value.replaceAll(" ", "") : "";
  const [, ...terms] = /^([A-Za-z]+),([A-Za-z]+)->([A-Za-z]+)$/.exec(text) ?? [];
  const [first = "", second = "", out = ""] = terms;
  const slot = draft.constant(n.ins[1]) !== undefined ? 1 : 0;
  const [x, w] = slot === 1 ? [n.ins[0], n.ins[1]] : [n.ins[1], n.ins[0]];
  const [of, by] = slot === 1 ? [first, second] : [second, first];
  const weight = draft.constant(w);
  const values = floats(weight);
  if (out === "" || n.ins.length !== 2 || x === undefined || w === undefined || draft.constant(x) !== undefined) return;
  if (weight === undefined || values === undefined || weight.dims.length !== by.length || rankOf(facts(x)) !== of.length) return;
  if ([of, by, out].some((letters) => new Set(letters).size !== letters.length)) return;
  const rows = [...out].filter((c) => of.includes(c) && !by.includes(c));
  const columns = [...out].filter((c) => by.includes(c) && !of.includes(c));
  const summed = [...of].filter((c) => by.includes(c) && !out.includes(c));
  if (rows.length === 0 || columns.length === 0 || summed.length === 0) return;
  // No letter of a batch, none that one operand sums by itself, and no dim of 1 that stands for the other operand's.
  if (
    rows.length + columns.length !== out.length ||
    rows.length + summed.length !== of.length ||
    columns.length + summed.length !== by.length
  )
    return;
  const type = facts(x).type;
  const own = type.kind === "tensor" ? type.shape : undefined;
  const sizes = new Map([...by].map((c, i) => [c, weight.dims[i] as number]));
  if (values.length === 0 || summed.some((c) => own?.[of.indexOf(c)] !== sizes.get(c))) return;
  const size = (letters: readonly string[]): number => letters.reduce((a, c) => a * (sizes.get(c) ?? 1), 1);

  const stem = n.name === "" ? draft.value(n.outs[0] as ValueId).name : n.name;
  const origin = n.origin ?? [n.name];
  const steps: { op: string; more: readonly ValueId[]; attrs: Readonly<Record<string, Attr>>; name: string }[] = [];
  const turn = (from: readonly string[], to: readonly string[]): void => {
    const perm = to.map((c) => from.indexOf(c));
    if (perm.some((p, i) => p !== i))
      steps.push({ op: "Transpose", more: [], attrs: { perm: { kind: "ints", value: perm } }, name: `${stem}/turned` });
  };
  const shape = (tail: readonly number[]): void => {
    const dims = draft.addConstant(`${stem}/dims`, int64Constant([...rows.map(() => 0), ...tail]));
    steps.push({ op: "Reshape", more: [dims], attrs: {}, name: `${stem}/shaped` });
  };
  turn([...of], [...rows, ...summed]);
  if (summed.length > 1) shape([size(summed)]);
  const turned = transposed(
    weight,
    [...summed, ...columns].map((c) => by.indexOf(c)),
  );
  const product = draft.addConstant(`${draft.value(w).name}/matrix`, { ...turned, dims: [size(summed), size(columns)] });
  steps.push({ op: "MatMul", more: [product], attrs: {}, name: n.name });
  if (columns.length > 1) shape(columns.map((c) => sizes.get(c) as number));
  turn([...rows, ...columns], [...out]);
  let at = x;
  steps.forEach(({ op, more, attrs, name }, i) => {
    const last = i === steps.length - 1;
    if (last) draft.patch(n.id, { op, ins: [at, ...more], attrs, name, origin });
    else at = draft.add({ op, ins: [at, ...more], outs: 1, attrs, name, origin }).outs[0] as ValueId;
  });
}
