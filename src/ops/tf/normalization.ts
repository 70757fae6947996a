/** Normalisations, softmax and the losses made of it. */
import { isStatic } from "../../ir/dims.js";
import { defineTfOp, type TfBuilder, type TfNode, type Val } from "./define.js";
import { upTo } from "./helpers.js";
import { compute, like } from "./kernels.js";

/** Inference normalises by the given mean and variance, training by the batch's own, whose variance is then given out unbiased. */
function batchNorm(n: TfNode, b: TfBuilder): readonly Val[] {
  const [given, scale, offset, mean, variance] = [n.in(0), n.in(1), n.in(2), n.in(3), n.in(4)];
  const format = n.string("data_format", "NHWC");
  const channelsFirst = format.startsWith("NC");
  const own = given.dtype;
  const x = b.cast(given, own === "float64" ? own : "float32");
  const epsilon = n.float("epsilon", 1e-4);
  const reserve = n.op === "FusedBatchNormV3" ? [b.const("float32", [0], [])] : [];
  if (!n.bool("is_training", true)) {
    const first = channelsFirst ? x : b.toChannelsFirst(x);
    const y = b.op("BatchNormalization", [first, scale, offset, mean, variance], { epsilon });
    return [b.cast(channelsFirst ? y : b.toChannelsLast(y), own), mean, variance, mean, variance, ...reserve];
  }
  const rank = b.rank(x);
  const channel = channelsFirst ? 1 : rank - 1;
  const over = b.int64(upTo(rank).filter((i) => i !== channel));
  const meanOf = (v: Val): Val => b.op("ReduceMean", [v, over], { keepdims: true });
  const across = (v: Val): Val =>
    channelsFirst
      ? b.unsqueeze(
          v,
          upTo(rank - 2).map((i) => i + 1),
        )
      : v;
  const batchMean = meanOf(x);
  const centred = b.sub(x, batchMean);
  const batchVariance = meanOf(b.mul(centred, centred));
  const factor = b.div(across(scale), b.op("Sqrt", [b.add(batchVariance, like(n, b, x, epsilon))]));
  const y = b.add(b.mul(centred, factor), across(offset));
  const flat = (v: Val): Val => b.reshape(v, [-1]);
  const [m, v] = [flat(batchMean), flat(batchVariance)];
  const count = b.cast(b.div(b.size(x), b.op("Max", [b.size(m), b.int64(1)])), x.dtype);
  const unbiased = b.mul(v, b.div(count, b.op("Max", [b.sub(count, like(n, b, x, 1)), like(n, b, x, 1)])));
  const keep = n.float("exponential_avg_factor", 1);
  const mixed = (old: Val, now: Val): Val =>
    keep === 1 ? now : b.add(b.mul(old, like(n, b, x, 1 - keep)), b.mul(now, like(n, b, x, keep)));
  return [b.cast(y, own), mixed(mean, m), mixed(variance, unbiased), m, v, ...reserve];
}
const BATCH_NORM = ["BatchNormalization", "Transpose", "Cast", "ReduceMean", "Sub", "Mul", "Div", "Sqrt", "Add", "Max"];
export const fusedBatchNorm = defineTfOp({
  names: ["FusedBatchNorm", "FusedBatchNormV2"],
  outs: ["y", "batch_mean", "batch_variance", "reserve_space_1", "reserve_space_2"],
  to: BATCH_NORM,
  lower: batchNorm,
});
export const fusedBatchNormV3 = defineTfOp({
  name: "FusedBatchNormV3",
  outs: ["y", "batch_mean", "batch_variance", "reserve_space_1", "reserve_space_2", "reserve_space_3"],
  to: BATCH_NORM,
  lower: batchNorm,
});
/** As FusedBatchNorm in training, with a side input and an activation behind. */
export const fusedBatchNormEx = defineTfOp({
  name: "_FusedBatchNormEx",
  outs: ["y", "batch_mean", "batch_variance", "reserve_space_1", "reserve_space_2", "reserve_space_3"],
  to: [...BATCH_NORM, "Relu"],
  lower: (n, b) => {
    const [y, ...rest] = batchNorm(n, b);
    if (y === undefined) return n.refuse("it has no result");
    const k = compute(n, b);
    const summed = n.int("num_side_inputs", 0) === 1 ? k("Add", [y, n.in(5)]) : y;
    return [n.string("activation_mode", "Identity") === "Relu" ? k("Relu", [summed]) : summed, ...rest];
  },
});
export const oldBatchNorm = defineTfOp({
  name: "BatchNormWithGlobalNormalization",
  to: ["Sub", "Mul", "Add", "Div", "Sqrt"],
  lower: (n, b) => {
    const [x, mean, variance, beta, gamma] = [n.in(0), n.in(1), n.in(2), n.in(3), n.in(4)];
    const k = compute(n, b);
    const scale = k("Div", [
      n.bool("scale_after_normalization") ? gamma : like(n, b, x, 1),
      k("Sqrt", [k("Add", [variance, like(n, b, x, n.float("variance_epsilon"))])]),
    ]);
    return k("Add", [k("Mul", [k("Sub", [x, mean]), scale]), beta]);
  },
});
/** ONNX divides alpha by the number of channels it sums. */
export const lrn = defineTfOp({
  name: "LRN",
  to: ["LRN", "Transpose"],
  lower: (n, b) => {
    const size = 2 * n.int("depth_radius", 5) + 1;
    const attrs = { size, alpha: n.float("alpha", 1) * size, beta: n.float("beta", 0.5), bias: n.float("bias", 1) };
    return b.toChannelsLast(compute(n, b)("LRN", [b.toChannelsFirst(n.in(0))], attrs));
  },
});
export const softmax = defineTfOp({ name: "Softmax", to: ["Softmax"], lower: (n, b) => compute(n, b)("Softmax", [n.in(0)], { axis: -1 }) });
export const logSoftmax = defineTfOp({
  name: "LogSoftmax",
  to: ["LogSoftmax"],
  lower: (n, b) => compute(n, b)("LogSoftmax", [n.in(0)], { axis: -1 }),
});

export const softmaxCrossEntropy = defineTfOp({
  name: "SoftmaxCrossEntropyWithLogits",
  outs: ["loss", "backprop"],
  to: ["LogSoftmax", "Softmax", "Mul", "ReduceSum", "Neg", "Sub", "Add"],
  lower: (n, b) => {
    const k = compute(n, b);
    const [logits, labels] = [n.in(0), n.in(1)];
    const wide = sameShape(logits, labels) ? logits : k("Add", [logits, k("Mul", [labels, like(n, b, labels, 0)])]);
    const loss = k("ReduceSum", [k("Mul", [labels, k("LogSoftmax", [wide], { axis: -1 })]), b.int64([-1])], { keepdims: false });
    return [k("Neg", [loss]), k("Sub", [k("Softmax", [wide], { axis: -1 }), labels])];
  },
});
const sameShape = (x: Val, y: Val): boolean =>
  x.shape !== undefined &&
  y.shape !== undefined &&
  x.shape.length === y.shape.length &&
  x.shape.every((d, i) => d === y.shape?.[i] && isStatic(d));
/** Labels beside the classes give NaN. */
export const sparseSoftmaxCrossEntropy = defineTfOp({
  name: "SparseSoftmaxCrossEntropyWithLogits",
  outs: ["loss", "backprop"],
  to: ["LogSoftmax", "Softmax", "Equal", "And", "Less", "GreaterOrEqual", "ReduceSum", "Neg", "Sub", "Where"],
  lower: (n, b) => {
    const k = compute(n, b);
    const [logits, labels] = [n.in(0), b.cast(n.in(1), "int64")];
    const classes = b.dim(logits, 1);
    const hit = b.op("Equal", [b.unsqueeze(labels, [-1]), b.op("Range", [b.int64(0), classes, b.int64(1)])]);
    const one = b.cast(hit, logits.dtype);
    const chosen = k("Where", [hit, k("LogSoftmax", [logits], { axis: -1 }), like(n, b, logits, 0)]);
    const loss = k("Neg", [k("ReduceSum", [chosen, b.int64([-1])], { keepdims: false })]);
    const inside = b.op("And", [b.op("GreaterOrEqual", [labels, b.int64(0)]), b.op("Less", [labels, classes])]);
    const nan = b.cast(b.scalar("float32", Number.NaN), logits.dtype);
    const gradient = k("Sub", [k("Softmax", [logits], { axis: -1 }), one]);
    return [k("Where", [inside, loss, nan]), k("Where", [b.unsqueeze(inside, [-1]), gradient, nan])];
  },
});
