/** Reductions over axes: sums, means, extrema, norms, logic; positions of extrema; running sums. */
import { isFloat, isInteger } from "../../ir/dtypes.js";
import { defineTfOp, type TfBuilder, type TfNode, type Val } from "./define.js";
import { limitOf } from "./helpers.js";
import { compute, like, plainType } from "./kernels.js";

/** TensorFlow reduces nothing over an empty list of axes, ONNX everything unless told otherwise. */
function reduced(n: TfNode, b: TfBuilder, op: string, x: Val, keep = n.bool("keep_dims", false)): Val {
  const axes = b.cast(n.in(1), "int64");
  const flat = axes.rank === 0 ? b.unsqueeze(axes, [0]) : axes;
  if (flat.numbers?.length === 0) return x;
  return compute(n, b)(op, [x, flat], { keepdims: keep, noop_with_empty_axes: true });
}
const reduction = (name: string, op: string) => defineTfOp({ name, to: [op], lower: (n, b) => reduced(n, b, op, n.in(0)) });

export const sum = reduction("Sum", "ReduceSum");
export const prod = reduction("Prod", "ReduceProd");
export const euclideanNorm = reduction("EuclideanNorm", "ReduceL2");

/** The extremum of nothing is the least (greatest) value of the type; ONNX Runtime reduces no empty axis, so that one value is put in front. */
const extremum = (name: string, op: "ReduceMax" | "ReduceMin") =>
  defineTfOp({
    name,
    to: [op, "Concat", "Expand"],
    lower: (n, b) => {
      const x = n.in(0);
      const axes = n.in(1).numbers;
      const empty = x.shape?.some((d, i) => d === 0 && (axes === undefined || axes.some((a) => (a < 0 ? a + (x.rank ?? 0) : a) === i)));
      if (empty !== true) return reduced(n, b, op, x);
      if (axes === undefined || x.shape === undefined) return n.refuse("it reduces an empty axis, and the axes are not known");
      const rank = x.shape.length;
      const over = new Set(axes.map((a) => (a < 0 ? a + rank : a)));
      const shape = b.shape(x);
      const dims = x.shape.map((_, i) => (over.has(i) ? b.int64([1]) : b.op("Slice", [shape, b.int64([i]), b.int64([i + 1])])));
      const kept = b.expand(like(n, b, x, limitOf(plainType(n, x.dtype), op === "ReduceMax" ? "lowest" : "highest")), b.concat(dims, 0));
      return n.bool("keep_dims", false) ? kept : b.squeeze(kept, [...over]);
    },
  });
export const max = extremum("Max", "ReduceMax");
export const min = extremum("Min", "ReduceMin");

/** Of integers the sum is divided towards zero. */
export const mean = defineTfOp({
  name: "Mean",
  to: ["ReduceMean", "ReduceSum", "Div", "Max"],
  lower: (n, b) => {
    const x = n.in(0);
    if (!isInteger(x.dtype)) return reduced(n, b, "ReduceMean", x);
    const k = compute(n, b);
    const total = reduced(n, b, "ReduceSum", x);
    const atLeastOne = (v: Val): Val => b.op("Max", [v, b.int64(1)]);
    return k("Div", [total, b.cast(atLeastOne(b.div(b.size(x), atLeastOne(b.size(total)))), x.dtype)]);
  },
});
const logic = (name: string, op: "ReduceMax" | "ReduceMin") =>
  defineTfOp({
    name,
    to: [op, "ReduceSum", "Equal", "Not", "Cast"],
    lower: (n, b) => {
      const x = n.in(0);
      // Sums of nothing are zero, so that empty axes need no care: Any counts truths, All counts falsehoods.
      const counted = b.cast(op === "ReduceMax" ? x : b.op("Not", [x]), "int32");
      const none = b.op("Equal", [reduced(n, b, "ReduceSum", counted), b.scalar("int32", 0)]);
      return op === "ReduceMax" ? b.op("Not", [none]) : none;
    },
  });
export const any = logic("Any", "ReduceMax");
export const all = logic("All", "ReduceMin");

export const l2Loss = defineTfOp({
  name: "L2Loss",
  to: ["Mul", "ReduceSumSquare"],
  lower: (n, b) => {
    const x = n.in(0);
    const half = (v: Val): Val => b.mul(b.op("ReduceSumSquare", [v], { keepdims: false }), like(n, b, v, 0.5));
    return x.dtype === "float64" ? half(x) : b.via(x, "float32", half);
  },
});

const position = (name: string) =>
  defineTfOp({
    name,
    to: [name, "Cast"],
    lower: (n, b) => {
      const axis = b.number(n.in(1), "the axis");
      const x = n.in(0);
      // Truths are compared as numbers.
      const y = compute(n, b)(name, [x.dtype === "bool" ? b.cast(x, "uint8") : x], { axis, keepdims: false });
      return b.cast(y, n.type("output_type", "int64"));
    },
  });
export const argMax = position("ArgMax");
export const argMin = position("ArgMin");

const running = (name: string, op: string) =>
  defineTfOp({
    name,
    to: [op],
    lower: (n, b) =>
      compute(n, b)(op, [n.in(0), b.cast(n.in(1), "int64")], {
        exclusive: n.bool("exclusive", false),
        reverse: n.bool("reverse", false),
      }),
  });
export const cumsum = running("Cumsum", "CumSum");
export const cumprod = running("Cumprod", "CumProd");
export const cumulativeLogsumexp = defineTfOp({
  name: "CumulativeLogsumexp",
  to: ["ReduceMax", "Sub", "Exp", "CumSum", "Log", "Add"],
  why: "the largest element of the axis is taken out; sums far below it lose precision",
  lower: (n, b) => {
    const x = n.in(0);
    if (!isFloat(x.dtype)) return n.refuse(`it is given ${x.dtype}`);
    const k = compute(n, b);
    const axis = b.cast(n.in(1), "int64");
    const top = k("ReduceMax", [x, axis.rank === 0 ? b.unsqueeze(axis, [0]) : axis], { keepdims: true });
    const flags = { exclusive: n.bool("exclusive", false), reverse: n.bool("reverse", false) };
    return k("Add", [k("Log", [k("CumSum", [k("Exp", [k("Sub", [x, top])]), axis], flags)]), top]);
  },
});
