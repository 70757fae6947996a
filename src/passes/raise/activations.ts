/** Activation functions that exporters spell out: GELU, SiLU, HardSwish, Mish, Softplus, LeakyRelu. */
import type { Attr } from "../../ir/types.js";
import { any, constant, either, type Match, near, op, type Pattern, scalar } from "../match.js";
import { type Draft, elementwise, type Replacement, type Rule, rewritePass } from "../rewrite.js";

const x = any("x");
const floatAttr = (value: number): Attr => ({ kind: "float", value });
const mul = (a: Pattern, b: Pattern): Pattern => op("Mul", [a, b]);
const add = (a: Pattern, b: Pattern): Pattern => op("Add", [a, b]);
/** a * b * c, however it is bracketed. */
const product = (a: Pattern, b: Pattern, c: Pattern): Pattern => either(mul(mul(a, b), c), mul(mul(a, c), b), mul(mul(b, c), a));
/** p * k, also written as p / (1 / k). */
const times = (p: Pattern, k: number): Pattern => either(mul(p, scalar(k)), op("Div", [p, scalar(1 / k)]));
const squared = (p: Pattern): Pattern => either(op("Pow", [p, scalar(2)]), mul(p, p));
/** x * s / 2, however it is bracketed; s is 1 + erf or 1 + tanh. */
const halfProduct = (s: Pattern): Pattern => either(times(mul(x, s), 0.5), mul(times(x, 0.5), s), mul(x, times(s, 0.5)));

const inverseRoot2 = Math.SQRT1_2;
const erf = op("Erf", [times(x, inverseRoot2)]);
/** erf(-x / sqrt 2), for spellings by erfc(z) = 1 - erf(z). */
const erfOfNegative = op("Erf", [
  either(times(x, -inverseRoot2), times(op("Neg", [x]), inverseRoot2), op("Neg", [times(x, inverseRoot2)])),
]);
const gelu = either(
  halfProduct(either(add(erf, scalar(1)), op("Sub", [scalar(1), erfOfNegative]))),
  mul(x, add(mul(erf, scalar(0.5)), scalar(0.5))),
);

const [c, k] = [Math.sqrt(2 / Math.PI), 0.044715];
const cube = either(op("Pow", [x, scalar(3)]), mul(squared(x), x));
/** sqrt(2 / pi) (x + k x^3), bracketed as PyTorch, TensorFlow, Hugging Face and ONNX Runtime's FastGelu do. */
const tanhArgument = either(
  mul(scalar(c), add(x, either(mul(cube, scalar(k)), product(x, scalar(k), squared(x))))),
  product(x, scalar(c), add(scalar(1), mul(squared(x), scalar(k)))),
  mul(x, add(scalar(c), mul(squared(x), scalar(c * k)))),
);
const geluTanh = halfProduct(add(op("Tanh", [tanhArgument]), scalar(1)));

const sigmoidOf = (p: Pattern): Pattern => {
  const below = add(op("Exp", [op("Neg", [p])]), scalar(1));
  return either(op("Sigmoid", [p]), op("Reciprocal", [below]), op("Div", [scalar(1), below]));
};
const swish = either(mul(x, sigmoidOf(x)), op("Div", [x, add(op("Exp", [op("Neg", [x])]), scalar(1))]));
const swishScaled = mul(
  x,
  sigmoidOf(
    mul(
      x,
      constant("alpha", (v, s) => (s.constant(v)?.dims.length ?? 1) === 0),
    ),
  ),
);

const shifted = add(x, scalar(3));
const clipped = either(
  op("Clip", [shifted, scalar(0), scalar(6)]),
  op("Min", [either(op("Relu", [shifted]), op("Max", [shifted, scalar(0)])), scalar(6)]),
);
/** clip(x + 3, 0, 6) / 6. */
const hardSigmoid = either(
  times(clipped, 1 / 6),
  op("HardSigmoid", [x], {
    where: (n) => {
      const [alpha, beta] = [n.attrs["alpha"], n.attrs["beta"]];
      return (
        alpha?.kind === "float" &&
        near(alpha.value, 1 / 6, "float32") &&
        (beta === undefined || (beta.kind === "float" && beta.value === 0.5))
      );
    },
  }),
);
const hardSwish = either(mul(x, hardSigmoid), times(mul(x, clipped), 1 / 6), mul(times(x, 1 / 6), clipped));

const softplus = op("Log", [add(op("Exp", [x]), scalar(1))]);
const mish = mul(x, op("Tanh", [either(op("Softplus", [x]), softplus)]));
const leakyRelu = op("Max", [
  x,
  mul(
    x,
    scalar((a) => a > 0 && a < 1, "alpha"),
  ),
]);

const unary =
  (name: string, attrs: (found: Match) => Readonly<Record<string, Attr>> = () => ({})) =>
  (found: Match, draft: Draft): Replacement | undefined =>
    elementwise(found, draft) && isFloat(found, draft) ? { op: name, ins: [found.value("x")], attrs: attrs(found) } : undefined;
function isFloat(found: Match, draft: Draft): boolean {
  const t = draft.type(found.value("x"));
  // float64 stays as it is: no GPU engine takes it, and ONNX Runtime lacks some of these kernels for it.
  return t.kind === "tensor" && (t.dtype === "float32" || t.dtype === "float16" || t.dtype === "bfloat16");
}

const rules: readonly Rule[] = [
  { name: "GELU", pattern: gelu, replace: unary("Gelu", () => ({ approximate: { kind: "string", value: "none" } })) },
  { name: "GELU (tanh)", pattern: geluTanh, replace: unary("Gelu", () => ({ approximate: { kind: "string", value: "tanh" } })) },
  { name: "Mish", pattern: mish, replace: unary("Mish") },
  { name: "HardSwish", pattern: hardSwish, replace: unary("HardSwish") },
  { name: "SiLU", pattern: swish, replace: unary("Swish", () => ({ alpha: floatAttr(1) })) },
  { name: "SiLU (scaled)", pattern: swishScaled, replace: unary("Swish", (found) => ({ alpha: floatAttr(found.number("alpha") ?? 1) })) },
  { name: "Softplus", pattern: softplus, replace: unary("Softplus") },
  {
    name: "HardSigmoid",
    pattern: times(clipped, 1 / 6),
    replace: unary("HardSigmoid", () => ({ alpha: floatAttr(Math.fround(1 / 6)), beta: floatAttr(0.5) })),
  },
  { name: "LeakyRelu", pattern: leakyRelu, replace: unary("LeakyRelu", (found) => ({ alpha: floatAttr(found.number("alpha") ?? 0) })) },
];

export const raiseActivations = rewritePass({
  name: "raise-activations",
  why: "An activation of five to nine elementwise nodes is one function: as one node it becomes the epilogue of the operator before it.",
  rules,
});
