/** Reading by index, and writing by index: gathers, scatters, one-hot, stitching, partitioning. */
import { defineTfOp, type TfBuilder, type TfNode, type Val } from "./define.js";
import { bounded, dimOf, productOf, scattered, shapeFrom, upTo } from "./helpers.js";
import { compute, plainType } from "./kernels.js";

/** `batch` leading dims are common to both; the gathered axis is brought behind them. */
function gathered(b: TfBuilder, x: Val, indices: Val, axis: number, batch: number): Val {
  const index = indices.dtype === "int32" || indices.dtype === "int64" ? indices : b.cast(indices, "int64");
  if (batch === 0) return b.gather(x, index, axis);
  const rank = b.rank(x);
  const at = axis < 0 ? axis + rank : axis;
  const front = upTo(rank).filter((i) => i !== at);
  front.splice(batch, 0, at);
  const y = b.op("GatherND", [b.transpose(x, front), b.unsqueeze(b.cast(index, "int64"), [-1])], { batch_dims: batch });
  // [batch, index dims, dims before the axis, dims behind it]: the middle two change places.
  const places = b.rank(index) - batch;
  const between = at - batch;
  if (between === 0) return y;
  const total = rank + places - 1;
  return b.transpose(y, [
    ...upTo(batch),
    ...upTo(between).map((i) => batch + places + i),
    ...upTo(places).map((i) => batch + i),
    ...upTo(total).slice(batch + places + between),
  ]);
}
export const gatherV2 = defineTfOp({
  name: "GatherV2",
  to: ["Gather", "GatherND", "Transpose", "Unsqueeze"],
  lower: (n, b) => {
    const batch = n.int("batch_dims", 0);
    const rank = n.in(1).rank;
    const axis = b.number(n.in(2), "the axis");
    return gathered(b, n.in(0), n.in(1), axis, batch < 0 ? batch + (rank ?? 0) : batch);
  },
});
export const gather = defineTfOp({ name: "Gather", to: ["Gather"], lower: (n, b) => gathered(b, n.in(0), n.in(1), 0, 0) });
export const resourceGather = defineTfOp({
  name: "ResourceGather",
  to: ["Gather", "GatherND"],
  lower: (n, b) => {
    const [v] = n.ins;
    if (v?.kind !== "variable") return n.refuse("what it reads is no variable");
    return gathered(b, v.value, n.in(1), n.int("batch_dims", 0), n.int("batch_dims", 0));
  },
});
function gatherNd(n: TfNode, b: TfBuilder, x: Val, indices: Val, batch: number): Val {
  if (indices.shape?.[indices.shape.length - 1] !== 0) return b.op("GatherND", [x, b.cast(indices, "int64")], { batch_dims: batch });
  // Indices of no places mean the whole operand, once for each.
  if (batch > 0) return n.refuse("it gathers whole batches");
  const outer = upTo(b.rank(indices) - 1).map((i) => dimOf(b, indices, i));
  return compute(n, b)("Expand", [x, shapeFrom(b, [...outer, ...upTo(b.rank(x)).map((i) => dimOf(b, x, i))])]);
}
export const gatherNdOp = defineTfOp({
  name: "GatherNd",
  to: ["GatherND", "Expand"],
  lower: (n, b) => gatherNd(n, b, n.in(0), n.in(1), n.int("batch_dims", 0)),
});
export const resourceGatherNd = defineTfOp({
  name: "ResourceGatherNd",
  to: ["GatherND"],
  lower: (n, b) => {
    const [v] = n.ins;
    return v?.kind === "variable" ? gatherNd(n, b, v.value, n.in(1), 0) : n.refuse("what it reads is no variable");
  },
});

/** Compared with every class, so that an index outside of them hits none; ONNX's OneHot counts negative ones from the end. */
export const oneHot = defineTfOp({
  name: "OneHot",
  to: ["Range", "Equal", "Where", "Unsqueeze"],
  lower: (n, b) => {
    const [indices, on, off] = [b.cast(n.in(0), "int64"), n.in(2), n.in(3)];
    const depth = b.cast(b.reshape(n.in(1), []), "int64");
    const rank = b.rank(indices);
    const axis = n.int("axis", -1);
    const at = axis < 0 ? rank : axis;
    const classes = b.reshape(b.op("Range", [b.int64(0), depth, b.int64(1)]), [-1, ...new Array<number>(rank - at).fill(1)]);
    const hit = b.op("Equal", [b.unsqueeze(indices, [at]), classes]);
    return compute(n, b)("Where", [hit, b.reshape(on, []), b.reshape(off, [])]);
  },
});

// ---- writing ------------------------------------------------------------------------------------------------------------------------------

export const scatterNd = defineTfOp({
  name: "ScatterNd",
  to: ["ScatterElements", "ConstantOfShape", "Reshape", "Expand", "Mul", "Add"],
  lower: (n, b) => {
    const [indices, updates, shape] = [n.in(0), n.in(1), b.cast(n.in(2), "int64")];
    const type = plainType(n, updates.dtype);
    if (type === "bool") return b.cast(scattered(n, b, b.fill("int32", 0, shape), indices, b.cast(updates, "int32"), "max"), "bool");
    return scattered(n, b, b.fill(type, 0, shape), indices, updates, "add");
  },
});
const tensorScatter = (name: string, reduction: "none" | "add" | "max" | "min") =>
  defineTfOp({
    name,
    to: ["ScatterElements", "Reshape", "Expand", "Mul", "Add"],
    lower: (n, b) => scattered(n, b, n.in(0), n.in(1), n.in(2), reduction),
  });
export const tensorScatterUpdate = tensorScatter("TensorScatterUpdate", "none");
export const tensorScatterAdd = tensorScatter("TensorScatterAdd", "add");
export const tensorScatterMax = tensorScatter("TensorScatterMax", "max");
export const tensorScatterMin = tensorScatter("TensorScatterMin", "min");
export const tensorScatterSub = defineTfOp({
  name: "TensorScatterSub",
  to: ["ScatterElements", "Sub", "Reshape", "Expand", "Mul", "Add"],
  lower: (n, b) => {
    const k = compute(n, b);
    const zero = b.scalar(plainType(n, n.in(2).dtype), 0);
    return scattered(n, b, n.in(0), n.in(1), k("Sub", [zero, n.in(2)]), "add");
  },
});
export const scatterNdNonAliasing = tensorScatter("ScatterNdNonAliasingAdd", "add");

/** Elements of a slice of `x` taken from `v`, x[i, ...] = v or += v. */
const inplace = (name: string, reduction: "none" | "add") =>
  defineTfOp({
    name,
    to: ["ScatterElements", "Reshape", "Expand"],
    lower: (n, b) => scattered(n, b, n.in(0), b.unsqueeze(b.reshape(n.in(1), [-1]), [-1]), n.in(2), reduction),
  });
export const inplaceUpdate = inplace("InplaceUpdate", "none");
export const inplaceAdd = inplace("InplaceAdd", "add");

/** Rows of several tensors at the places that the indices name; where two claim one place the later wins. */
export const dynamicStitch = defineTfOp({
  names: ["DynamicStitch", "ParallelDynamicStitch"],
  to: ["Concat", "Reshape", "ReduceMax", "ConstantOfShape", "ScatterElements", "Expand", "Add", "Mul"],
  lower: (n, b) => {
    const count = n.int("N");
    const [indices, data] = [n.list(0, count), n.list(count)];
    const [d0, i0] = [data[0], indices[0]];
    if (d0 === undefined || i0 === undefined) return n.refuse("it has no operands");
    const lead = b.rank(i0);
    const rest = upTo(b.rank(d0) - lead).map((i) => dimOf(b, d0, lead + i));
    const flat = b.concat(
      indices.map((i) => b.reshape(b.cast(i, "int64"), [-1])),
      0,
    );
    const rows = b.concat(
      data.map((d, i) => b.reshape(d, shapeFrom(b, [productOf(b, d, 0, b.rank(indices[i] ?? i0)), ...rest]))),
      0,
    );
    // A -1 in front keeps the maximum of no indices defined.
    const size = b.add(b.op("ReduceMax", [b.concat([b.int64([-1]), flat], 0)], { keepdims: false }), b.int64(1));
    const base = b.fill(plainType(n, d0.dtype), 0, shapeFrom(b, [size, ...rest]));
    return scattered(n, b, base, b.unsqueeze(flat, [-1]), rows, "none");
  },
});
export const dynamicPartition = defineTfOp({
  name: "DynamicPartition",
  to: ["Equal", "Compress", "Reshape"],
  lower: (n, b) => {
    const [data, partitions] = [n.in(0), n.in(1)];
    const lead = b.rank(partitions);
    const rest = upTo(b.rank(data) - lead).map((i) => dimOf(b, data, lead + i));
    const rows = lead === 1 ? data : b.reshape(data, shapeFrom(b, [productOf(b, data, 0, lead), ...rest]));
    const flat = b.reshape(partitions, [-1]);
    return upTo(bounded(n, n.int("num_partitions"), 65_536, "the number of its results")).map((i) =>
      compute(n, b)("Compress", [rows, b.op("Equal", [flat, b.scalar("int32", i)])], { axis: 0 }),
    );
  },
});
export const where = defineTfOp({
  name: "Where",
  to: ["NonZero", "Transpose", "Cast"],
  lower: (n, b) => b.transpose(b.op("NonZero", [b.cast(n.in(0), "bool")]), [1, 0]),
});
