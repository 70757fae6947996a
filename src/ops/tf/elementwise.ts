/** Elementwise operators: arithmetic, comparison, logic, casts. TensorFlow and ONNX broadcast alike. */
import { isFloat, isInteger } from "../../ir/dtypes.js";
import type { DType } from "../../ir/types.js";
import { defineTfOp, type TfBuilder, type Val } from "./define.js";

/** One canonical operator with the operands as they stand. */
const same = (names: readonly string[], op: string) => defineTfOp({ names, to: [op], lower: (n, b) => b.op(op, n.list(0)) });

export const add = same(["Add", "AddV2"], "Add");
export const sub = same(["Sub"], "Sub");
export const mul = same(["Mul"], "Mul");
/** Of integers RealDiv does not exist; Div truncates, as ONNX's. */
export const div = same(["RealDiv", "Div", "TruncateDiv"], "Div");
export const neg = same(["Neg"], "Neg");
export const abs = same(["Abs"], "Abs");
export const relu = same(["Relu"], "Relu");
export const tanh = same(["Tanh"], "Tanh");
export const sigmoid = same(["Sigmoid"], "Sigmoid");
export const exp = same(["Exp"], "Exp");
export const log = same(["Log"], "Log");
export const sqrt = same(["Sqrt"], "Sqrt");
export const logicalAnd = same(["LogicalAnd"], "And");
export const logicalOr = same(["LogicalOr"], "Or");
export const logicalNot = same(["LogicalNot"], "Not");
export const equal = same(["Equal"], "Equal");
export const less = same(["Less"], "Less");
export const lessEqual = same(["LessEqual"], "LessOrEqual");
export const greater = same(["Greater"], "Greater");
export const greaterEqual = same(["GreaterEqual"], "GreaterOrEqual");
export const notEqual = defineTfOp({
  name: "NotEqual",
  to: ["Equal", "Not"],
  lower: (n, b) => b.op("Not", [b.op("Equal", [n.in(0), n.in(1)])]),
});
export const maximum = same(["Maximum"], "Max");
export const minimum = same(["Minimum"], "Min");
export const pow = same(["Pow"], "Pow");
export const relu6 = defineTfOp({
  name: "Relu6",
  to: ["Clip"],
  lower: (n, b) => clip(b, n.in(0), 0, 6),
});
const clip = (b: TfBuilder, x: Val, low: number, high: number): Val => {
  const dtype = numeric(x.dtype);
  return b.op("Clip", [x, b.scalar(dtype, low), b.scalar(dtype, high)]);
};
const numeric = (d: DType): Exclude<DType, "string"> => {
  if (isFloat(d) || isInteger(d)) return d as Exclude<DType, "string">;
  throw new Error(`${d} is not a numeric type`);
};
export const square = defineTfOp({ name: "Square", to: ["Mul"], lower: (n, b) => b.mul(n.in(0), n.in(0)) });
export const rsqrt = defineTfOp({
  name: "Rsqrt",
  to: ["Sqrt", "Reciprocal"],
  lower: (n, b) => b.op("Reciprocal", [b.op("Sqrt", [n.in(0)])]),
});
export const squaredDifference = defineTfOp({
  name: "SquaredDifference",
  to: ["Sub", "Mul"],
  lower: (n, b) => {
    const d = b.sub(n.in(0), n.in(1));
    return b.mul(d, d);
  },
});
export const cast = defineTfOp({
  name: "Cast",
  to: ["Cast"],
  lower: (n, b) => b.cast(n.in(0), n.type("DstT")),
});
