/** Elementwise operators of one operand: mathematical functions, rounding, activations, casts. */
import { dtypeBits, isFloat, isInteger, onnxNumber } from "../../ir/dtypes.js";
import { defineTfOp, type TfBuilder, type TfNode, type Val } from "./define.js";
import { compute, like } from "./kernels.js";

const same = (names: readonly string[], op: string) => defineTfOp({ names, to: [op], lower: (n, b) => compute(n, b)(op, [n.in(0)]) });

export const abs = defineTfOp({
  name: "Abs",
  to: ["Abs"],
  lower: (n, b) => compute(n, b)("Abs", [n.in(0)]),
});
export const neg = same(["Neg"], "Neg");
export const sign = same(["Sign"], "Sign");
export const exp = same(["Exp"], "Exp");
export const log = same(["Log"], "Log");
export const sqrt = same(["Sqrt"], "Sqrt");
export const sin = same(["Sin"], "Sin");
export const cos = same(["Cos"], "Cos");
export const tan = same(["Tan"], "Tan");
export const asin = same(["Asin"], "Asin");
export const acos = same(["Acos"], "Acos");
export const atan = same(["Atan"], "Atan");
export const sinh = same(["Sinh"], "Sinh");
export const cosh = same(["Cosh"], "Cosh");
export const tanh = same(["Tanh"], "Tanh");
export const asinh = same(["Asinh"], "Asinh");
export const acosh = same(["Acosh"], "Acosh");
export const atanh = same(["Atanh"], "Atanh");
export const erf = same(["Erf"], "Erf");
export const sigmoid = same(["Sigmoid"], "Sigmoid");
export const relu = defineTfOp({
  name: "Relu",
  to: ["Relu", "Max"],
  lower: (n, b) => {
    const x = n.in(0);
    return isFloat(x.dtype) ? compute(n, b)("Relu", [x]) : compute(n, b)("Max", [x, like(n, b, x, 0)]);
  },
});
export const softplus = defineTfOp({
  name: "Softplus",
  to: ["Softplus"],
  lower: (n, b) => compute(n, b)("Softplus", [n.in(0)]),
});
export const softsign = same(["Softsign"], "Softsign");
export const elu = same(["Elu"], "Elu");
export const selu = same(["Selu"], "Selu");
export const floor = same(["Floor"], "Floor");
export const ceil = same(["Ceil"], "Ceil");
export const reciprocal = defineTfOp({
  names: ["Reciprocal", "Inv"],
  to: ["Reciprocal", "Div"],
  lower: (n, b) => {
    const x = n.in(0);
    return isFloat(x.dtype) ? compute(n, b)("Reciprocal", [x]) : compute(n, b)("Div", [like(n, b, x, 1), x]);
  },
});
/** Both round halves to even; of integers Round is the identity. */
export const round = defineTfOp({
  names: ["Round", "Rint"],
  to: ["Round"],
  lower: (n, b) => (isInteger(n.in(0).dtype) ? n.in(0) : compute(n, b)("Round", [n.in(0)])),
});
export const square = defineTfOp({ name: "Square", to: ["Mul"], lower: (n, b) => compute(n, b)("Mul", [n.in(0), n.in(0)]) });
export const rsqrt = defineTfOp({
  name: "Rsqrt",
  to: ["Sqrt", "Reciprocal"],
  lower: (n, b) => {
    const k = compute(n, b);
    return k("Reciprocal", [k("Sqrt", [n.in(0)])]);
  },
});
export const erfc = defineTfOp({
  name: "Erfc",
  to: ["Erf", "Sub"],
  lower: (n, b) => {
    const k = compute(n, b);
    const e = k("Erf", [n.in(0)]);
    return k("Sub", [like(n, b, e, 1), e]);
  },
});
/**
 * exp(x) - 1 and log(1 + x) near zero by Kahan's correction: the rounding error of u = exp(x) (or 1 + x) cancels in (u - 1) x / log(u)
 * (or log(u) x / (u - 1)).
 */
export const expm1 = defineTfOp({
  name: "Expm1",
  to: ["Exp", "Sub", "Log", "Mul", "Div", "Equal", "Abs", "Less", "Where"],
  lower: (n, b) =>
    nearZero(n, b, (k, x, one) => {
      const u = k("Exp", [x]);
      const d = k("Sub", [u, one]);
      return { plain: d, corrected: k("Div", [k("Mul", [d, x]), k("Log", [u])]), vanished: k("Equal", [u, one]) };
    }),
});
export const log1p = defineTfOp({
  name: "Log1p",
  to: ["Add", "Sub", "Log", "Mul", "Div", "Equal", "Abs", "Less", "Where"],
  lower: (n, b) =>
    nearZero(n, b, (k, x, one) => {
      const u = k("Add", [one, x]);
      const l = k("Log", [u]);
      return { plain: l, corrected: k("Div", [k("Mul", [l, x]), k("Sub", [u, one])]), vanished: k("Equal", [u, one]) };
    }),
});
function nearZero(
  n: TfNode,
  b: TfBuilder,
  f: (k: ReturnType<typeof compute>, x: Val, one: Val) => { readonly plain: Val; readonly corrected: Val; readonly vanished: Val },
): Val {
  const own = n.in(0).dtype;
  const x = own === "float64" ? n.in(0) : b.cast(n.in(0), "float32");
  const k = compute(n, b);
  const { plain, corrected, vanished } = f(k, x, like(n, b, x, 1));
  const near = k("Less", [k("Abs", [x]), like(n, b, x, 0.5)]);
  return b.cast(k("Where", [near, k("Where", [vanished, x, corrected]), plain]), own);
}

export const relu6 = defineTfOp({
  name: "Relu6",
  to: ["Clip"],
  lower: (n, b) => compute(n, b)("Clip", [n.in(0), like(n, b, n.in(0), 0), like(n, b, n.in(0), 6)]),
});
export const leakyRelu = defineTfOp({
  name: "LeakyRelu",
  to: ["LeakyRelu"],
  lower: (n, b) => compute(n, b)("LeakyRelu", [n.in(0)], { alpha: n.float("alpha", 0.2) }),
});
export const isNan = same(["IsNan"], "IsNaN");
export const isInf = same(["IsInf"], "IsInf");
export const finite = defineTfOp({
  name: "IsFinite",
  to: ["IsNaN", "IsInf", "Or", "Not"],
  lower: (n, b) => {
    const k = compute(n, b);
    return b.op("Not", [b.op("Or", [k("IsNaN", [n.in(0)]), k("IsInf", [n.in(0)])])]);
  },
});

export const cast = defineTfOp({
  name: "Cast",
  to: ["Cast"],
  why: "a float outside an integer type's range gives a different number than on TensorFlow's machine, where it is undefined",
  lower: (n, b) => {
    const [x, to] = [n.in(0), n.type("DstT")];
    if (x.dtype.startsWith("complex") || to.startsWith("complex"))
      return n.refuse("ONNX Runtime has no complex numbers", "split the model into real and imaginary parts where it is made");
    return b.cast(x, to);
  },
});
export const bitcast = defineTfOp({
  name: "Bitcast",
  to: ["BitCast"],
  lower: (n, b) => {
    const [x, to] = [n.in(0), n.type("type")];
    if (x.dtype === to) return x;
    if (dtypeBits(x.dtype) !== dtypeBits(to)) return n.refuse(`it takes ${x.dtype} apart as ${to}, elements of another size`);
    return b.op("BitCast", [x], { to: onnxNumber(to) });
  },
});
const noComplex = {
  absent: "ONNX Runtime has no complex numbers",
  fix: "split the model into real and imaginary parts where it is made, or cut it with `inputs` and `outputs`",
} as const;
export const complexParts = defineTfOp({ names: ["Complex", "ComplexAbs", "Conj"], ...noComplex });
/** Real operands are their own real part; their angle is 0, or pi where they are negative. */
export const real = defineTfOp({
  names: ["Real", "Imag", "Angle"],
  to: ["Where", "Less", "Mul"],
  lower: (n, b) => {
    const x = n.in(0);
    if (!isFloat(x.dtype)) return n.refuse(noComplex.absent, noComplex.fix);
    const k = compute(n, b);
    const zero = like(n, b, x, 0);
    if (n.op === "Real") return x;
    const zeros = k("Mul", [x, zero]);
    return n.op === "Imag" ? zeros : k("Where", [k("Less", [x, zero]), like(n, b, x, Math.PI), zeros]);
  },
});
