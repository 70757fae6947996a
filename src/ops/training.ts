/**
 * Operators of ai.onnx.preview.training. ONNX Runtime for inference has none of them: the optimisers are read as the arithmetic that they
 * abbreviate, and run wherever that runs; Gradient would need differentiation, and stays as it is. Formulas: ONNX operator specifications.
 */
import { makeConstant } from "../ir/payload.js";
import type { ValueId } from "../ir/types.js";
import { hostOnly } from "./answers.js";
import {
  absent,
  defineOp,
  type Fact,
  float,
  optString,
  optStrings,
  type RawNode,
  type Rewriter,
  shapeOf,
  tensor,
  variadic,
  word,
} from "./define.js";
import { aFloat, aText, fed, random } from "./samples.js";
import { traffic, unknownFact } from "./shapes.js";

const domain = "ai.onnx.preview.training";
const int8 = absent("training runs in float");
const unread = {
  ...hostOnly("an optimiser is read as its arithmetic; this node was not"),
  host: absent("ONNX Runtime does not have the operator", "give the node all its operands, so that it can be read as its arithmetic"),
};

/** Arithmetic on values of one element type, written with the rewriter. */
class Arithmetic {
  readonly #to: Rewriter;
  readonly #dtype: "float32" | "float64";

  constructor(to: Rewriter, like: ValueId | undefined) {
    this.#to = to;
    const t = to.typeOf(like);
    this.#dtype = t.kind === "tensor" && t.dtype === "float64" ? "float64" : "float32";
  }
  number(x: number): ValueId {
    return this.#to.constant(makeConstant(this.#dtype, [], [x]));
  }
  /** A scalar operand in the element type. */
  scalar(v: ValueId): ValueId {
    return this.op("Cast", [v], { to: { kind: "int", value: this.#dtype === "float64" ? 11 : 1 } });
  }
  op(name: string, ins: readonly ValueId[], attrs = {}): ValueId {
    return this.#to.emit(name, ins, attrs)[0] as ValueId;
  }
  add = (a: ValueId, b: ValueId): ValueId => this.op("Add", [a, b]);
  sub = (a: ValueId, b: ValueId): ValueId => this.op("Sub", [a, b]);
  mul = (a: ValueId, b: ValueId): ValueId => this.op("Mul", [a, b]);
  div = (a: ValueId, b: ValueId): ValueId => this.op("Div", [a, b]);
  /** The result, under the raw node's output. */
  give(v: ValueId, out: ValueId | undefined): void {
    if (out !== undefined) this.#to.emit("Identity", [v], {}, [out]);
  }
}
const numberAttr = (n: RawNode, name: string, fallback: number): number => {
  const a = n.attrs[name];
  return a?.kind === "float" ? a.value : fallback;
};
/** Operands behind rate and step, as lists of one length each; undefined when the node is incomplete. */
function grouped(
  n: RawNode,
  groups: number,
): { readonly rate: ValueId; readonly step: ValueId; readonly lists: readonly (readonly ValueId[])[] } | undefined {
  const [rate, step, ...rest] = n.ins;
  const count = rest.length / groups;
  if (rate === undefined || step === undefined || !Number.isInteger(count) || count === 0) return undefined;
  const all = rest.filter((v) => v !== undefined);
  if (all.length !== rest.length) return undefined;
  return { rate, step, lists: Array.from({ length: groups }, (_, i) => all.slice(i * count, (i + 1) * count)) };
}
/** Reads an optimiser: `update` gives, for tensor `i`, the values of the node's output groups. */
const optimiser =
  (
    groups: number,
    update: (
      a: Arithmetic,
      n: RawNode,
      of: { readonly rate: ValueId; readonly step: ValueId; readonly of: readonly ValueId[] },
    ) => readonly ValueId[],
  ) =>
  (n: RawNode, to: Rewriter): void => {
    const operands = grouped(n, groups);
    if (operands === undefined) {
      to.keep();
      return;
    }
    const count = operands.lists[0]?.length ?? 0;
    for (let i = 0; i < count; i++) {
      const own = operands.lists.map((list) => list[i] as ValueId);
      const a = new Arithmetic(to, own[0]);
      const results = update(a, n, { rate: a.scalar(operands.rate), step: a.scalar(operands.step), of: own });
      results.forEach((v, g) => a.give(v, n.outs[g * count + i]));
    }
  };
/** The gradient with the regularisation term: norm_coefficient * x + g. */
const regularised = (a: Arithmetic, n: RawNode, x: ValueId, g: ValueId): ValueId =>
  a.add(a.mul(a.number(numberAttr(n, "norm_coefficient", 0)), x), g);

const optimiserCost =
  (flops: number) => (at: { readonly in: { readonly tensors: readonly (Fact | undefined)[] }; readonly out: readonly Fact["type"][] }) => ({
    flops: at.out.reduce(
      (n, t) => n + (t.kind === "tensor" ? (t.shape ?? []).reduce<number>((k, d) => k * (typeof d === "number" ? d : 1), flops) : 0),
      0,
    ),
    bytes: traffic(at.in, at.out),
  });
/** Outputs: the updated tensors and states, typed as the operands they replace. `from`: the operand group of each output group. */
const updatedFacts = (tensors: readonly (Fact | undefined)[], groups: number, from: readonly number[]): readonly Fact[] => {
  const count = tensors.length / groups;
  return from.flatMap((g) => Array.from({ length: count }, (_, i) => tensors[g * count + i] ?? unknownFact)).map((f) => ({ type: f.type }));
};
const operands = { rate: tensor(), step: tensor("int64"), tensors: variadic() };
const results = { updated: variadic() };
const scalars = { rate: fed("float32", [], [0.1]), step: fed("int64", [], [3]) };

export const adagrad = defineOp({
  name: "Adagrad",
  domain,
  doc: "One step of Adagrad on tensors x with gradients g and accumulated squares h.",
  reads: {
    onnx: [
      {
        since: 1,
        adapt: optimiser(3, (a, n, { rate, step, of: [x, g, h] }) => {
          const [value, gradient, squares] = [x, g, h] as [ValueId, ValueId, ValueId];
          const r = a.div(rate, a.add(a.number(1), a.mul(step, a.number(numberAttr(n, "decay_factor", 0)))));
          const full = regularised(a, n, value, gradient);
          const next = a.add(squares, a.mul(full, full));
          const scale = a.add(a.op("Sqrt", [next]), a.number(numberAttr(n, "epsilon", 1e-6)));
          return [a.sub(value, a.div(a.mul(r, full), scale)), next];
        }),
      },
    ],
  },
  in: operands,
  out: results,
  attrs: { decay_factor: float(0), epsilon: float(1e-6), norm_coefficient: float(0) },
  role: "compute",
  infer: (at) => updatedFacts(at.in.tensors, 3, [0, 2]),
  cost: optimiserCost(4),
  int8,
  on: unread,
  *samples() {
    const x = random("float32", 3);
    const attrs = { norm_coefficient: aFloat(0.01), decay_factor: aFloat(0.1) };
    yield { name: "one tensor", in: { ...scalars, tensors: [x, x, fed("float32", [3], [1, 2, 0.5])] }, attrs, outs: 2 };
  },
});
export const adam = defineOp({
  name: "Adam",
  domain,
  doc: "One step of Adam on tensors x with gradients g, momenta v and squared gradients h.",
  reads: {
    onnx: [
      {
        since: 1,
        adapt: optimiser(4, (a, n, { rate, step, of }) => {
          const [x, g, v, h] = of as [ValueId, ValueId, ValueId, ValueId];
          const [alpha, beta] = [numberAttr(n, "alpha", 0.9), numberAttr(n, "beta", 0.999)];
          const full = regularised(a, n, x, g);
          const momentum = a.add(a.mul(a.number(alpha), v), a.mul(a.number(1 - alpha), full));
          const squares = a.add(a.mul(a.number(beta), h), a.mul(a.number(1 - beta), a.mul(full, full)));
          const scale = a.add(a.op("Sqrt", [squares]), a.number(numberAttr(n, "epsilon", 1e-6)));
          // In later steps the rate makes up for the momenta's start at zero.
          const power = (base: number): ValueId => a.sub(a.number(1), a.op("Pow", [a.number(base), step]));
          const later = a.mul(rate, a.div(a.op("Sqrt", [power(beta)]), power(alpha)));
          const r = a.op("Where", [a.op("Greater", [step, a.number(0)]), later, rate]);
          const next = a.sub(x, a.div(a.mul(r, momentum), scale));
          return [a.mul(a.number(1 - numberAttr(n, "norm_coefficient_post", 0)), next), momentum, squares];
        }),
      },
    ],
  },
  in: operands,
  out: results,
  attrs: { alpha: float(0.9), beta: float(0.999), epsilon: float(1e-6), norm_coefficient: float(0), norm_coefficient_post: float(0) },
  role: "compute",
  infer: (at) => updatedFacts(at.in.tensors, 4, [0, 2, 3]),
  cost: optimiserCost(6),
  int8,
  on: unread,
  *samples() {
    const x = random("float32", 3);
    yield { name: "one tensor", in: { ...scalars, tensors: [x, x, x, fed("float32", [3], [1, 2, 0.5])] }, outs: 3 };
  },
});
export const momentum = defineOp({
  name: "Momentum",
  domain,
  doc: "One step of stochastic gradient descent with momentum, plain or Nesterov's, on tensors x with gradients g and momenta v.",
  reads: {
    onnx: [
      {
        since: 1,
        adapt: optimiser(3, (a, n, { rate, step, of }) => {
          const [x, g, v] = of as [ValueId, ValueId, ValueId];
          const alpha = a.number(numberAttr(n, "alpha", 0));
          const full = regularised(a, n, x, g);
          // The first step takes the gradient whole.
          const beta = a.op("Where", [a.op("Greater", [step, a.number(0)]), a.number(numberAttr(n, "beta", 0)), a.number(1)]);
          const next = a.add(a.mul(alpha, v), a.mul(beta, full));
          const mode = n.attrs["mode"];
          const direction = mode?.kind === "string" && mode.value === "nesterov" ? a.add(full, a.mul(alpha, next)) : next;
          return [a.sub(x, a.mul(rate, direction)), next];
        }),
      },
    ],
  },
  in: operands,
  out: results,
  attrs: { alpha: float(), beta: float(), mode: word(undefined, "standard", "nesterov"), norm_coefficient: float() },
  role: "compute",
  infer: (at) => updatedFacts(at.in.tensors, 3, [0, 2]),
  cost: optimiserCost(4),
  int8,
  on: unread,
  *samples() {
    const x = random("float32", 3);
    const attrs = { alpha: aFloat(0.9), beta: aFloat(0.5), norm_coefficient: aFloat(0.01) };
    yield { name: "standard", in: { ...scalars, tensors: [x, x, x] }, attrs: { ...attrs, mode: aText("standard") }, outs: 2 };
    yield { name: "Nesterov", in: { ...scalars, tensors: [x, x, x] }, attrs: { ...attrs, mode: aText("nesterov") }, outs: 2 };
  },
});
export const gradient = defineOp({
  name: "Gradient",
  domain,
  doc: "Derivatives of a tensor of the graph with respect to others, named by `y` and `xs`.",
  reads: { onnx: [{ since: 1 }] },
  in: { values: variadic() },
  out: { derivatives: variadic() },
  attrs: { xs: optStrings(), y: optString(), zs: optStrings() },
  role: "compute",
  infer: (at) => at.in.values.slice(0, at.attrs.xs?.length).map((f) => ({ type: f?.type ?? unknownFact.type })),
  cost: (at) => ({ flops: at.in.values.reduce((n, f) => n + (shapeOf(f)?.length ?? 0), 0), bytes: traffic(at.in, at.out) }),
  int8,
  on: {
    ...hostOnly("no engine differentiates graphs", "export the forward graph alone"),
    host: absent("ONNX Runtime for inference does not differentiate graphs", "export the forward graph alone"),
  },
  *samples() {},
});
