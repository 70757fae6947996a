/** Reductions of rows that share a segment, and counting: segment sums and their kin, histograms. */
import { defineTfOp, type TfBuilder, type TfNode, type Val } from "./define.js";
import { dimOf, finiteLimit, productOf, scattered, shapeFrom, upTo } from "./helpers.js";
import { compute, like, plainType } from "./kernels.js";

type Reduction = "add" | "mul" | "max" | "min";
const startOf = (dtype: string, r: Reduction): number | bigint =>
  r === "add" ? 0 : r === "mul" ? 1 : finiteLimit(dtype, r === "max" ? "lowest" : "highest");

/** `ids` [k dims] name a row of the result for every row [k dims, rest] of `data`. */
function segmented(n: TfNode, b: TfBuilder, data: Val, ids: Val, count: number | Val, reduction: Reduction): Val {
  const lead = b.rank(ids);
  const rest = upTo(b.rank(data) - lead).map((i) => dimOf(b, data, lead + i));
  const base = b.fill(plainType(n, data.dtype), startOf(data.dtype, reduction), shapeFrom(b, [count, ...rest]));
  const rows = b.reshape(data, shapeFrom(b, [productOf(b, data, 0, lead), ...rest]));
  return scattered(n, b, base, b.unsqueeze(b.reshape(ids, [-1]), [-1]), rows, reduction);
}
const MADE = ["ScatterElements", "ConstantOfShape", "Reshape", "Expand", "Where", "Less", "Slice", "Add", "Mul"];

const unsorted = (name: string, reduction: Reduction) =>
  defineTfOp({
    name,
    to: MADE,
    lower: (n, b) => {
      const ids = b.cast(n.in(1), "int64");
      const count = b.cast(b.reshape(n.in(2), []), "int64");
      // Negative ids are dropped: they go to a row behind the last, which is cut off.
      const kept = b.where(b.op("Less", [ids, b.int64(0)]), count, ids);
      const all = segmented(n, b, n.in(0), kept, b.add(count, b.int64(1)), reduction);
      return b.op("Slice", [all, b.int64([0]), b.reshape(count, [1]), b.int64([0])]);
    },
  });
export const unsortedSegmentSum = unsorted("UnsortedSegmentSum", "add");
export const unsortedSegmentProd = unsorted("UnsortedSegmentProd", "mul");
export const unsortedSegmentMax = unsorted("UnsortedSegmentMax", "max");
export const unsortedSegmentMin = unsorted("UnsortedSegmentMin", "min");

/** Sorted ids: the last one tells the number of segments. */
function segmentCount(b: TfBuilder, ids: Val): Val {
  const last = b.op("ReduceMax", [b.concat([b.int64([-1]), ids], 0)], { keepdims: false });
  return b.add(last, b.int64(1));
}
/** How many rows fall to each segment, shaped to divide or select rows of `like`. */
function sizes(n: TfNode, b: TfBuilder, ids: Val, count: Val, of: Val): Val {
  const ones = b.fill("int64", 1, b.shape(ids));
  const per = segmented(n, b, ones, ids, count, "add");
  return b.unsqueeze(
    per,
    upTo(b.rank(of) - 1).map((i) => i + 1),
  );
}
function sorted(n: TfNode, b: TfBuilder, data: Val, raw: Val, given: Val | undefined, kind: Reduction | "mean" | "sqrtn"): Val {
  const ids = b.cast(raw, "int64");
  const count = given ?? segmentCount(b, ids);
  const k = compute(n, b);
  if (kind === "add" || kind === "mul") return segmented(n, b, data, ids, count, kind);
  const per = sizes(n, b, ids, count, data);
  if (kind === "max" || kind === "min") {
    const none = b.op("Equal", [per, b.int64(0)]);
    return k("Where", [none, like(n, b, data, 0), segmented(n, b, data, ids, count, kind)]);
  }
  const divisor = b.cast(b.op("Max", [per, b.int64(1)]), data.dtype);
  return k("Div", [segmented(n, b, data, ids, count, "add"), kind === "mean" ? divisor : k("Sqrt", [divisor])]);
}
const SORTED = [...MADE, "ReduceMax", "Equal", "Div", "Max", "Sqrt", "Gather"];
const segment = (name: string, kind: Reduction | "mean") =>
  defineTfOp({ name, to: SORTED, lower: (n, b) => sorted(n, b, n.in(0), n.in(1), undefined, kind) });
export const segmentSum = segment("SegmentSum", "add");
export const segmentProd = segment("SegmentProd", "mul");
export const segmentMax = segment("SegmentMax", "max");
export const segmentMin = segment("SegmentMin", "min");
export const segmentMean = segment("SegmentMean", "mean");
const segmentV2 = (name: string, kind: Reduction) => unsorted(name, kind);
export const segmentSumV2 = segmentV2("SegmentSumV2", "add");
export const segmentProdV2 = segmentV2("SegmentProdV2", "mul");
export const segmentMaxV2 = segmentV2("SegmentMaxV2", "max");
export const segmentMinV2 = segmentV2("SegmentMinV2", "min");

/** Rows are picked by index first. */
const sparse = (name: string, kind: "add" | "mean" | "sqrtn") =>
  defineTfOp({
    names: [name, `${name}WithNumSegments`],
    to: SORTED,
    lower: (n, b) => {
      const count = n.ins.length > 3 ? b.cast(b.reshape(n.in(3), []), "int64") : undefined;
      return sorted(n, b, b.gather(n.in(0), n.in(1)), n.in(2), count, kind);
    },
  });
export const sparseSegmentSum = sparse("SparseSegmentSum", "add");
export const sparseSegmentMean = sparse("SparseSegmentMean", "mean");
export const sparseSegmentSqrtN = sparse("SparseSegmentSqrtN", "sqrtn");

// ---- counting -----------------------------------------------------------------------------------------------------------------------------

/** Values from `size` on are not counted: they go to a row behind the last. */
function counted(n: TfNode, b: TfBuilder, values: Val, size: Val, weights: Val, binary: boolean): Val {
  const type = plainType(n, weights.dtype);
  const at = b.op("Min", [b.reshape(b.cast(values, "int64"), [-1]), size]);
  // Ones behind the weights: where there are no weights they come first.
  const ones = b.fill(type, 1, b.shape(at));
  const unweighted = weights.shape?.includes(0) === true || binary;
  const both = unweighted ? ones : b.concat([b.reshape(weights, [-1]), ones], 0);
  const amounts = unweighted ? ones : b.op("Slice", [both, b.int64([0]), b.shape(at), b.int64([0])]);
  const all = segmented(n, b, amounts, at, b.add(size, b.int64(1)), binary ? "max" : "add");
  const cut = b.op("Slice", [all, b.int64([0]), b.reshape(size, [1]), b.int64([0])]);
  return binary ? compute(n, b)("Max", [cut, b.scalar(type, 0)]) : cut;
}
export const bincount = defineTfOp({
  names: ["Bincount", "DenseBincount"],
  to: [...MADE, "Min", "Max"],
  lower: (n, b) => {
    const size = b.cast(b.reshape(n.in(1), []), "int64");
    const binary = n.op === "DenseBincount" && n.bool("binary_output", false);
    const values = n.in(0);
    if (n.op === "Bincount" || values.rank === 1) return counted(n, b, values, size, n.in(2), binary);
    const rows = values.shape?.[0];
    if (values.rank !== 2 || typeof rows !== "number" || rows > 64) return n.refuse("it counts rows of an unknown or large number");
    const weights = n.in(2);
    const row = (x: Val, i: number): Val => b.reshape(b.slice(x, [i], [i + 1], [0]), [-1]);
    const weighted = weights.shape?.includes(0) !== true;
    return b.concat(
      upTo(rows).map((i) => b.unsqueeze(counted(n, b, row(values, i), size, weighted ? row(weights, i) : weights, binary), [0])),
      0,
    );
  },
});
export const histogramFixedWidth = defineTfOp({
  name: "HistogramFixedWidth",
  to: [...MADE, "Sub", "Div", "Max", "Min", "Cast"],
  lower: (n, b) => {
    const [values, range] = [b.reshape(n.in(0), [-1]), n.in(1)];
    const bins = b.cast(b.reshape(n.in(2), []), "int64");
    const end = (i: number): Val => b.reshape(b.slice(range, [i], [i + 1], [0]), []);
    const k = compute(n, b);
    const width = b.cast(k("Sub", [end(1), end(0)]), "float64");
    const step = b.div(width, b.cast(bins, "float64"));
    const above = b.cast(k("Sub", [k("Max", [values, end(0)]), end(0)]), "float64");
    // Far values are held to the last bin before they become integers.
    const last = b.sub(bins, b.int64(1));
    const at = b.cast(b.op("Min", [b.div(above, step), b.cast(last, "float64")]), "int64");
    const type = plainType(n, n.type("dtype", "int32"));
    return segmented(n, b, b.fill(type, 1, b.shape(at)), at, bins, "add");
  },
});
