/** Order and membership: the greatest elements, the n-th, unique ones, set differences. */
import { defineTfOp, type TfBuilder, type TfNode, type Val } from "./define.js";
import { compute } from "./kernels.js";

/** Values and positions along the last axis, in a type that has a kernel. */
function top(n: TfNode, b: TfBuilder, x: Val, k: Val, largest: boolean): readonly [values: Val, indices: Val] {
  const own = x.dtype;
  // Wider integers keep their order; uint64 above 2^63 is rare enough to be refused by its own kernel.
  const via = own === "bfloat16" ? "float32" : own === "uint16" ? "int32" : own === "uint32" ? "int64" : own === "bool" ? "uint8" : own;
  const [values, indices] = b.ops("TopK", [b.cast(x, via), k], { axis: -1, largest, sorted: true }, 2);
  if (values === undefined || indices === undefined) return n.refuse("TopK made no result");
  return [b.cast(values, own), indices];
}
export const topKV2 = defineTfOp({
  name: "TopKV2",
  outs: ["values", "indices"],
  to: ["TopK", "Cast"],
  why: "results that need not be sorted are",
  lower: (n, b) => {
    const k = b.reshape(b.cast(n.in(1), "int64"), [1]);
    if (!n.bool("sorted", true)) b.remark("unsorted results come in descending order here; TensorFlow leaves the order open");
    const [values, indices] = top(n, b, n.in(0), k, true);
    return [values, b.cast(indices, n.type("index_type", "int32"))];
  },
});
export const topK = defineTfOp({
  name: "TopK",
  outs: ["values", "indices"],
  to: ["TopK", "Cast"],
  lower: (n, b) => {
    const [values, indices] = top(n, b, n.in(0), b.int64([n.int("k")]), true);
    return [values, b.cast(indices, "int32")];
  },
});
export const nthElement = defineTfOp({
  name: "NthElement",
  to: ["TopK", "Add", "Gather"],
  lower: (n, b) => {
    const place = b.cast(b.reshape(n.in(1), []), "int64");
    const k = b.reshape(b.add(place, b.int64(1)), [1]);
    const [values] = top(n, b, n.in(0), k, n.bool("reverse", false));
    return b.gather(values, place, -1);
  },
});
/** A class is among the first k when fewer than k are strictly better; never where its own score is not finite or the class does not exist. */
export const inTopK = defineTfOp({
  names: ["InTopKV2", "InTopK"],
  to: ["Range", "Equal", "Where", "ReduceSum", "Greater", "Less", "And", "IsNaN", "IsInf", "Or", "Not"],
  lower: (n, b) => {
    const [scores, targets] = [b.cast(n.in(0), "float32"), b.cast(n.in(1), "int64")];
    const k = n.op === "InTopK" ? b.int64(n.int("k")) : b.cast(b.reshape(n.in(2), []), "int64");
    const classes = b.op("Range", [b.int64(0), b.dim(scores, 1), b.int64(1)]);
    const hit = b.op("Equal", [b.unsqueeze(targets, [1]), classes]);
    const own = b.op("ReduceSum", [b.where(hit, scores, b.scalar("float32", 0)), b.int64([1])], { keepdims: true });
    const better = b.op("ReduceSum", [b.cast(b.op("Greater", [scores, own]), "int64"), b.int64([1])], { keepdims: false });
    const hits = b.op("ReduceSum", [b.cast(hit, "int64"), b.int64([1])], { keepdims: false });
    const flat = b.squeeze(own, [1]);
    const finite = b.op("Not", [b.op("Or", [b.op("IsNaN", [flat]), b.op("IsInf", [flat])])]);
    const known = b.op("And", [b.op("Equal", [hits, b.int64(1)]), finite]);
    return b.op("And", [known, b.op("Less", [better, k])]);
  },
});

/** Unique elements in the order of their first appearance. */
function unique(n: TfNode, b: TfBuilder, axis: number | undefined, counts: boolean): readonly Val[] {
  const x = n.in(0);
  const index = n.type("out_idx", "int32");
  const via = (
    { int32: "int64", int16: "int64", uint8: "int64", uint16: "int64", uint32: "int64", bool: "int64", bfloat16: "float32" } as const
  )[x.dtype as "int32"];
  const carried = via === undefined ? x : b.cast(x, via);
  const [y, , places, many] = b.ops("Unique", [carried], { sorted: false, ...(axis === undefined ? {} : { axis }) }, 4);
  if (y === undefined || places === undefined || many === undefined) return n.refuse("Unique made no result");
  const first = [b.cast(y, x.dtype), b.cast(places, index)];
  return counts ? [...first, b.cast(many, index)] : first;
}
function axisOf(n: TfNode, b: TfBuilder): number | undefined {
  const [axis] = b.numbers(n.in(1), "the axis");
  return axis;
}
export const uniqueOp = defineTfOp({
  name: "Unique",
  outs: ["y", "idx"],
  to: ["Unique", "Cast"],
  lower: (n, b) => unique(n, b, undefined, false),
});
export const uniqueV2 = defineTfOp({
  name: "UniqueV2",
  outs: ["y", "idx"],
  to: ["Unique", "Cast"],
  lower: (n, b) => unique(n, b, axisOf(n, b), false),
});
export const uniqueWithCounts = defineTfOp({
  name: "UniqueWithCounts",
  outs: ["y", "idx", "count"],
  to: ["Unique", "Cast"],
  lower: (n, b) => unique(n, b, undefined, true),
});
export const uniqueWithCountsV2 = defineTfOp({
  name: "UniqueWithCountsV2",
  outs: ["y", "idx", "count"],
  to: ["Unique", "Cast"],
  lower: (n, b) => unique(n, b, axisOf(n, b), true),
});
/** Elements of x that y has not, and their positions. */
export const listDiff = defineTfOp({
  names: ["ListDiff", "SetDiff1D"],
  outs: ["out", "idx"],
  to: ["Equal", "ReduceSum", "Compress", "Range", "Cast", "Unsqueeze"],
  lower: (n, b) => {
    const [x, y] = [n.in(0), n.in(1)];
    const [known, without] = [x.numbers, y.numbers];
    if (known !== undefined && without !== undefined && x.dtype !== "string") {
      const kept = known.flatMap((v, i) => (without.includes(v) ? [] : [i]));
      const index = n.type("out_idx", "int32") === "int64" ? "int64" : "int32";
      return [
        b.const(
          x.dtype,
          [kept.length],
          kept.map((i) => known[i] ?? 0),
        ),
        b.const(index, [kept.length], kept),
      ];
    }
    const k = compute(n, b);
    const same = k("Equal", [b.unsqueeze(x, [1]), b.unsqueeze(y, [0])]);
    const hits = b.op("ReduceSum", [b.cast(same, "int32"), b.int64([1])], { keepdims: false });
    const keep = b.op("Equal", [hits, b.scalar("int32", 0)]);
    const places = b.op("Range", [b.int64(0), b.dim(x, 0), b.int64(1)]);
    return [k("Compress", [x, keep], { axis: 0 }), b.cast(b.op("Compress", [places, keep], { axis: 0 }), n.type("out_idx", "int32"))];
  },
});
/** For every value the number of sorted elements before it (or not behind it, for upper bounds). */
const bound = (name: string, op: "Less" | "LessOrEqual") =>
  defineTfOp({
    name,
    to: [op, "ReduceSum", "Unsqueeze", "Cast"],
    lower: (n, b) => {
      const before = compute(n, b)(op, [b.unsqueeze(n.in(0), [1]), b.unsqueeze(n.in(1), [2])]);
      const count = b.op("ReduceSum", [b.cast(before, "int32"), b.int64([2])], { keepdims: false });
      return b.cast(count, n.type("out_type", "int32"));
    },
  });
export const lowerBound = bound("LowerBound", "Less");
export const upperBound = bound("UpperBound", "LessOrEqual");
export const bucketize = defineTfOp({
  name: "Bucketize",
  to: ["GreaterOrEqual", "ReduceSum", "Unsqueeze", "Cast"],
  lower: (n, b) => {
    const edges = n.floats("boundaries");
    const x = b.cast(n.in(0), n.in(0).dtype === "float64" ? "float64" : "float32");
    const over = b.op("GreaterOrEqual", [
      b.unsqueeze(x, [-1]),
      b.const(x.dtype === "float64" ? "float64" : "float32", [edges.length], edges),
    ]);
    return b.op("ReduceSum", [b.cast(over, "int32"), b.int64([-1])], { keepdims: false });
  },
});
