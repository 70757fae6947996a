/** Activation functions, Softmax and its kin. */
import { makeConstant } from "../ir/payload.js";
import type { Attr } from "../ir/types.js";
import { FLOATS64, gpu, hostOnly, NUMBERS, on } from "./answers.js";
import { type AttrSpecs, absent, defineOp, dtypeOf, float, int, type RawNode, type Rewriter, shapeOf, tensor, word } from "./define.js";
import { unary } from "./pointwise.js";
import { aFloat, aInt, aText, random } from "./samples.js";
import { broadcast, fact, perOutput } from "./shapes.js";

const fused = absent("activation: it is fused behind the operator before it");
const withAttrs = <const N extends string, const S extends AttrSpecs>(
  name: N,
  doc: string,
  since: number,
  flops: number,
  attrs: S,
  sample: Readonly<Record<string, Attr>>,
) =>
  defineOp({
    name,
    doc,
    reads: { onnx: since === 1 ? [{ since: 1, adapt: dropHints }, { since: 6 }] : [{ since }] },
    in: { x: tensor("T") },
    out: { y: tensor("T") },
    types: { T: FLOATS64 },
    attrs,
    role: "compute",
    infer: (at) => [fact(dtypeOf(at.in.x), shapeOf(at.in.x))],
    cost: perOutput(flops),
    int8: fused,
    on: gpu(),
    *samples() {
      yield { name: "defaults", in: { x: random("float32", 2, 5) } };
      yield { name: "attributes", in: { x: random("float32", 3, 1, 2) }, attrs: sample };
      yield { name: "empty", in: { x: random("float32", 0) } };
    },
  });
/** Opset 1's in-place hints say nothing. */
function dropHints(n: RawNode, to: Rewriter): void {
  const { consumed_inputs: _, ...rest } = n.attrs;
  to.emit(n.op, n.ins, rest, n.outs);
}

export const relu = unary("Relu", "max(x, 0).", NUMBERS, 1);
export const sigmoid = unary("Sigmoid", "1 / (1 + exp(-x)).", FLOATS64, 1, 8);
export const tanh = unary("Tanh", "Hyperbolic tangent.", FLOATS64, 1, 8);
export const softplus = unary("Softplus", "ln(1 + exp(x)).", FLOATS64, 1, 12);
export const softsign = unary("Softsign", "x / (1 + |x|).", FLOATS64, 1, 4);
export const hardSwish = unary("HardSwish", "x * max(0, min(1, x / 6 + 0.5)).", FLOATS64, 14, 4);
export const mish = unary("Mish", "x * tanh(softplus(x)).", FLOATS64, 18, 20);
export const leakyRelu = withAttrs(
  "LeakyRelu",
  "x where positive, alpha * x elsewhere.",
  1,
  2,
  { alpha: float(0.01) },
  { alpha: aFloat(0.2) },
);
export const elu = withAttrs(
  "Elu",
  "x where positive, alpha * (exp(x) - 1) elsewhere.",
  1,
  10,
  { alpha: float(1) },
  { alpha: aFloat(0.5) },
);
export const celu = withAttrs(
  "Celu",
  "max(0, x) + min(0, alpha * (exp(x / alpha) - 1)).",
  12,
  12,
  { alpha: float(1) },
  { alpha: aFloat(2) },
);
export const selu = withAttrs(
  "Selu",
  "Scaled exponential linear unit.",
  1,
  10,
  { alpha: float(1.6732631921768188), gamma: float(1.0507010221481323) },
  { alpha: aFloat(2), gamma: aFloat(3) },
);
export const hardSigmoid = withAttrs(
  "HardSigmoid",
  "max(0, min(1, alpha * x + beta)).",
  1,
  3,
  { alpha: float(0.2), beta: float(0.5) },
  { alpha: aFloat(0.5), beta: aFloat(0.6) },
);
export const thresholdedRelu = withAttrs(
  "ThresholdedRelu",
  "x where above alpha, 0 elsewhere.",
  10,
  1,
  { alpha: float(1) },
  { alpha: aFloat(0.5) },
);
export const shrink = withAttrs(
  "Shrink",
  "x + bias below -lambd, x - bias above lambd, 0 between.",
  9,
  3,
  { bias: float(0), lambd: float(0.5) },
  { bias: aFloat(0.3), lambd: aFloat(1) },
);
export const gelu = withAttrs(
  "Gelu",
  "Gaussian error linear unit, exact or by tanh.",
  20,
  16,
  { approximate: word("none", "none", "tanh") },
  { approximate: aText("tanh") },
);
export const swish = defineOp({
  ...withAttrs("Swish", "x * sigmoid(alpha * x).", 24, 10, { alpha: float(1) }, { alpha: aFloat(1.5) }),
  on: on(undefined, absent("the one-node form is not translated for TensorRT", "it is spelled out as Sigmoid and Mul, which are")),
});

/**
 * Up to opset 12 the input was coerced to two dims at `axis` (default 1) and the function ran over the second. On the last axis that is
 * today's meaning; elsewhere Flatten and Reshape stand around it.
 */
function coerced(n: RawNode, to: Rewriter): void {
  const a = n.attrs["axis"];
  const axis = a?.kind === "int" ? Number(a.value) : 1;
  const t = to.typeOf(n.ins[0]);
  const rank = t.kind === "tensor" ? t.shape?.length : undefined;
  if (axis === -1 || (rank !== undefined && (axis < 0 ? axis + rank : axis) === rank - 1)) {
    to.emit(n.op, n.ins, { axis: { kind: "int", value: -1 } }, n.outs);
    return;
  }
  const [shape] = to.emit("Shape", [n.ins[0]]);
  const [flat] = to.emit("Flatten", [n.ins[0]], { axis: { kind: "int", value: axis } });
  const [y] = to.emit(n.op, [flat], { axis: { kind: "int", value: -1 } });
  to.emit("Reshape", [y, shape], {}, n.outs);
}
const softmaxLike = <const N extends string>(name: N, doc: string) =>
  defineOp({
    name,
    doc,
    reads: { onnx: [{ since: 1, adapt: coerced }, { since: 13 }] },
    in: { x: tensor("T") },
    out: { y: tensor("T") },
    types: { T: FLOATS64 },
    attrs: { axis: int(-1) },
    role: "compute",
    infer: (at) => [fact(dtypeOf(at.in.x), shapeOf(at.in.x))],
    cost: perOutput(12),
    int8: absent("a float island: eight bits lose the tail of the distribution"),
    on: gpu(),
    *samples() {
      yield { name: "last", in: { x: random("float32", 2, 5) } };
      yield { name: "middle", in: { x: random("float32", 2, 3, 4) }, attrs: { axis: aInt(1) } };
      yield { name: "first", in: { x: random("float32", 3, 2) }, attrs: { axis: aInt(-2) } };
    },
  });
export const softmax = softmaxLike("Softmax", "exp(x) / sum(exp(x)) along an axis.");
export const logSoftmax = softmaxLike("LogSoftmax", "Logarithm of Softmax along an axis.");
export const hardmax = softmaxLike("Hardmax", "1 at the first largest element along an axis, 0 elsewhere.");

/** SwiGLU as the gate and the product it abbreviates: no runtime has it, and every engine has those. */
function gated(n: RawNode, to: Rewriter): void {
  const a = n.attrs["alpha"];
  const alpha = a?.kind === "float" ? a.value : 1;
  const t = to.typeOf(n.ins[0]);
  const dtype = t.kind === "tensor" && (t.dtype === "float16" || t.dtype === "float64" || t.dtype === "bfloat16") ? t.dtype : "float32";
  const [scaled] = alpha === 1 ? [n.ins[0]] : to.emit("Mul", [n.ins[0], to.constant(makeConstant(dtype, [], [alpha]))]);
  const [gate] = to.emit("Sigmoid", [scaled]);
  const [swished] = to.emit("Mul", [n.ins[0], gate]);
  to.emit("Mul", [swished, n.ins[1]], {}, n.outs);
}
export const swiGlu = defineOp({
  name: "SwiGLU",
  doc: "a * sigmoid(alpha * a) * b.",
  reads: { onnx: [{ since: 28, adapt: gated }] },
  in: { a: tensor("T"), b: tensor("T") },
  out: { y: tensor("T") },
  types: { T: FLOATS64 },
  attrs: { alpha: float(1) },
  role: "compute",
  infer: (at) => [fact(dtypeOf(at.in.a), broadcast(shapeOf(at.in.a), shapeOf(at.in.b)) ?? undefined)],
  cost: perOutput(11),
  int8: absent("elementwise: it is fused into its neighbours and runs at their scale"),
  on: {
    ...hostOnly("it is read as Sigmoid and Mul"),
    host: absent("ONNX Runtime 1.30 stops at opset 26", "import the model: it is read as Sigmoid and Mul"),
  },
  *samples() {
    yield { name: "plain", in: { a: random("float32", 2, 4), b: random("float32", 2, 4) } };
    yield { name: "alpha", in: { a: random("float32", 2, 4), b: random("float32", 2, 4) }, attrs: { alpha: aFloat(0.5) } };
  },
});
