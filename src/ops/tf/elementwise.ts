/** Elementwise operators of two or more operands: arithmetic, comparison, logic, selection. TensorFlow and ONNX broadcast alike. */
import { dtypeClass, isFloat, isInteger } from "../../ir/dtypes.js";
import { defineTfOp, type TfBuilder, type TfNode, type Val } from "./define.js";
import { compute, like } from "./kernels.js";

/** One canonical operator with the operands as they stand. */
const same = (names: readonly string[], op: string) => defineTfOp({ names, to: [op], lower: (n, b) => compute(n, b)(op, n.list(0)) });

export const add = defineTfOp({
  names: ["Add", "AddV2"],
  to: ["Add", "StringConcat"],
  lower: (n, b) => (n.in(0).dtype === "string" ? b.op("StringConcat", n.list(0)) : compute(n, b)("Add", n.list(0))),
});
export const sub = same(["Sub"], "Sub");
export const mul = same(["Mul"], "Mul");
export const realDiv = same(["RealDiv"], "Div");
/** Of integers both truncate, as ONNX's Div. */
export const div = defineTfOp({
  names: ["Div", "TruncateDiv"],
  to: ["Div", "Floor", "Ceil", "Where", "Less"],
  lower: (n, b) => {
    const k = compute(n, b);
    const q = k("Div", n.list(0));
    if (n.op === "Div" || isInteger(q.dtype)) return q;
    return k("Where", [k("Less", [q, like(n, b, q, 0)]), k("Ceil", [q]), k("Floor", [q])]);
  },
});
export const floorDiv = defineTfOp({
  name: "FloorDiv",
  to: ["Div", "Mod", "Sub", "Floor"],
  lower: (n, b) => {
    const k = compute(n, b);
    const [x, y] = [n.in(0), n.in(1)];
    if (isFloat(x.dtype)) return k("Floor", [k("Div", [x, y])]);
    if (dtypeClass(x.dtype) === "uint") return k("Div", [x, y]);
    // Mod has the divisor's sign, so that what is left divides exactly.
    return k("Div", [k("Sub", [x, k("Mod", [x, y])]), y]);
  },
});
export const floorMod = defineTfOp({
  name: "FloorMod",
  to: ["Mod", "Add", "Where", "Xor", "Less", "And", "Not", "Equal"],
  lower: (n, b) => {
    const k = compute(n, b);
    const [x, y] = [n.in(0), n.in(1)];
    if (!isFloat(x.dtype)) return k("Mod", [x, y]);
    const rest = fmod(n, b, x, y);
    const zero = like(n, b, rest, 0);
    const signs = b.op("Xor", [k("Less", [y, zero]), k("Less", [rest, zero])]);
    const off = b.op("And", [signs, b.op("Not", [k("Equal", [rest, zero])])]);
    return k("Where", [off, k("Add", [rest, y]), rest]);
  },
});
/** The remainder with the dividend's sign, as C's. */
export const mod = defineTfOp({ names: ["Mod", "TruncateMod"], to: ["Mod"], lower: (n, b) => fmod(n, b, n.in(0), n.in(1)) });
function fmod(n: TfNode, b: TfBuilder, x: Val, y: Val): Val {
  if (x.dtype === "bfloat16") return b.cast(b.op("Mod", [b.cast(x, "float32"), b.cast(y, "float32")], { fmod: 1 }), x.dtype);
  if (!isFloat(x.dtype) && !isInteger(x.dtype)) return n.refuse(`there is no remainder of ${x.dtype}`);
  return b.op("Mod", [x, y], { fmod: 1 });
}

/** Elsewhere `f` of the operands, zero where `where` is zero. */
const orZero = (name: string, where: 0 | 1, to: readonly string[], f: (n: TfNode, b: TfBuilder, x: Val, y: Val) => Val) =>
  defineTfOp({
    name,
    to: [...to, "Equal", "Where"],
    lower: (n, b) => {
      const k = compute(n, b);
      const [x, y] = [n.in(0), n.in(1)];
      const zero = like(n, b, x, 0);
      return k("Where", [k("Equal", [where === 0 ? x : y, zero]), zero, f(n, b, x, y)]);
    },
  });
export const divNoNan = orZero("DivNoNan", 1, ["Div"], (n, b, x, y) => compute(n, b)("Div", [x, y]));
export const mulNoNan = orZero("MulNoNan", 1, ["Mul"], (n, b, x, y) => compute(n, b)("Mul", [x, y]));
export const xdivy = orZero("Xdivy", 0, ["Div"], (n, b, x, y) => compute(n, b)("Div", [x, y]));
export const xlogy = orZero("Xlogy", 0, ["Mul", "Log"], (n, b, x, y) => {
  const k = compute(n, b);
  return k("Mul", [x, k("Log", [y])]);
});
export const xlog1py = orZero("Xlog1py", 0, ["Mul", "Log", "Add"], (n, b, x, y) => {
  const k = compute(n, b);
  return k("Mul", [x, k("Log", [k("Add", [y, like(n, b, y, 1)])])]);
});

export const maximum = same(["Maximum"], "Max");
export const minimum = same(["Minimum"], "Min");
export const pow = same(["Pow"], "Pow");
export const squaredDifference = defineTfOp({
  name: "SquaredDifference",
  to: ["Sub", "Mul"],
  lower: (n, b) => {
    const k = compute(n, b);
    const d = k("Sub", n.list(0));
    return k("Mul", [d, d]);
  },
});
export const addN = defineTfOp({
  names: ["AddN", "AccumulateNV2"],
  to: ["Sum", "Add"],
  lower: (n, b) => {
    const [first, ...rest] = n.list(0);
    if (first === undefined) return n.refuse("it has no operands");
    if (rest.length === 0) return first;
    const k = compute(n, b);
    return isFloat(first.dtype) && rest.length > 1 ? k("Sum", n.list(0)) : rest.reduce((sum, x) => k("Add", [sum, x]), first);
  },
});
export const clipByValue = defineTfOp({
  name: "ClipByValue",
  to: ["Clip", "Max", "Min"],
  lower: (n, b) => {
    const k = compute(n, b);
    const [x, low, high] = [n.in(0), n.in(1), n.in(2)];
    if (low.rank === 0 && high.rank === 0) return k("Clip", [x, low, high]);
    return k("Max", [k("Min", [x, high]), low]);
  },
});
/** The angle of (x, y): the arc tangent of y / x moved into its quadrant; on the axes by sign. */
export const atan2 = defineTfOp({
  name: "Atan2",
  to: ["Atan", "Div", "Where", "Less", "Equal", "Add", "Sub", "Mul", "Sign"],
  lower: (n, b) => {
    const k = compute(n, b);
    const [y, x] = [n.in(0), n.in(1)];
    const c = (v: number): Val => like(n, b, x, v);
    const [zero, pi] = [c(0), c(Math.PI)];
    const base = k("Atan", [k("Div", [y, x])]);
    const below = k("Less", [y, zero]);
    const left = k("Add", [base, k("Where", [below, c(-Math.PI), pi])]);
    const onAxis = k("Where", [k("Equal", [y, zero]), zero, k("Mul", [k("Sign", [y]), c(Math.PI / 2)])]);
    return k("Where", [k("Equal", [x, zero]), onAxis, k("Where", [k("Less", [x, zero]), left, base])]);
  },
});
export const cross = defineTfOp({
  name: "Cross",
  to: ["Gather", "Mul", "Sub"],
  lower: (n, b) => {
    const k = compute(n, b);
    const turned = (x: Val, by: number): Val => b.gather(x, b.int64([0, 1, 2].map((i) => (i + by) % 3)), -1);
    const [x, y] = [n.in(0), n.in(1)];
    return k("Sub", [k("Mul", [turned(x, 1), turned(y, 2)]), k("Mul", [turned(x, 2), turned(y, 1)])]);
  },
});
export const approximateEqual = defineTfOp({
  name: "ApproximateEqual",
  to: ["Sub", "Abs", "Less"],
  lower: (n, b) => {
    const k = compute(n, b);
    const d = k("Abs", [k("Sub", n.list(0))]);
    return k("Less", [d, like(n, b, d, n.float("tolerance", 1e-5))]);
  },
});

// ---- comparison and logic ---------------------------------------------------------------------------------------------------------------

const compared = (name: string, op: string, negated = false) =>
  defineTfOp({
    name,
    to: negated ? [op, "Not"] : [op],
    lower: (n, b) => {
      const [x, y] = [n.in(0), n.in(1)];
      const r = x.dtype === "string" ? b.op(op, [x, y]) : compute(n, b)(op, [x, y]);
      return negated ? b.op("Not", [r]) : r;
    },
  });
export const equal = compared("Equal", "Equal");
export const notEqual = compared("NotEqual", "Equal", true);
export const less = compared("Less", "Less");
export const lessEqual = compared("LessEqual", "LessOrEqual");
export const greater = compared("Greater", "Greater");
export const greaterEqual = compared("GreaterEqual", "GreaterOrEqual");
export const logicalAnd = same(["LogicalAnd"], "And");
export const logicalOr = same(["LogicalOr"], "Or");
export const logicalNot = same(["LogicalNot"], "Not");

// ---- selection ------------------------------------------------------------------------------------------------------------------------------

export const selectV2 = defineTfOp({
  name: "SelectV2",
  to: ["Where"],
  lower: (n, b) => compute(n, b)("Where", [n.in(0), n.in(1), n.in(2)]),
});
/** The condition has the operands' shape, is a scalar, or a vector over their first dimension. */
export const select = defineTfOp({
  name: "Select",
  to: ["Where", "Unsqueeze"],
  lower: (n, b) => {
    const [condition, x, y] = [n.in(0), n.in(1), n.in(2)];
    const rank = x.rank ?? y.rank;
    let c = condition;
    if (condition.rank === 1 && rank !== 1) {
      if (rank === undefined) return n.refuse("the rank of its operands is not known", "give the graph's inputs shapes");
      c = b.unsqueeze(
        condition,
        Array.from({ length: rank - 1 }, (_, i) => i + 1),
      );
    }
    return compute(n, b)("Where", [c, x, y]);
  },
});
