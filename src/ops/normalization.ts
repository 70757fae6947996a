/** Normalisations and Dropout. */
import { no, yes } from "../diagnostics.js";
import { intOf } from "../ir/attributes.js";
import { dtypeFromOnnx } from "../ir/dtypes.js";
import { all, attribute, FLOATS64, gpu, on, outputsOnly, when } from "./answers.js";
import {
  absent,
  defineOp,
  dtypeOf,
  type Fact,
  flag,
  float,
  int,
  optInts,
  optional,
  type RawNode,
  type Rewriter,
  shapeOf,
  tensor,
} from "./define.js";
import { aFloat, aInt, aInts, given, random } from "./samples.js";
import { axisOf, fact, perOutput } from "./shapes.js";

const island = absent("a float island: statistics lose too much in eight bits");
const strip =
  (...names: readonly string[]) =>
  (n: RawNode, to: Rewriter): void => {
    const attrs = Object.fromEntries(Object.entries(n.attrs).filter(([key]) => !names.includes(key)));
    to.emit(n.op, n.ins, attrs, n.outs);
  };

/** Before opset 14 training was told by the number of outputs (and, up to 6, by is_test); inference has one. */
function oldBatchNorm(n: RawNode, to: Rewriter): void {
  const { is_test: _, spatial, consumed_inputs: __, ...rest } = n.attrs;
  if (spatial?.kind === "int" && Number(spatial.value) === 0) {
    to.keep();
    return;
  }
  to.emit("BatchNormalization", n.ins, rest, n.outs.slice(0, 1));
}
export const batchNormalization = defineOp({
  name: "BatchNormalization",
  doc: "(x - mean) / sqrt(var + epsilon) * scale + bias per channel, x [N, C, ...]; training mode also updates the running statistics.",
  reads: { onnx: [{ since: 1, adapt: oldBatchNorm }, { since: 14 }] },
  in: { x: tensor("T"), scale: tensor(), bias: tensor(), mean: tensor(), variance: tensor() },
  out: { y: tensor("T"), runningMean: optional(), runningVariance: optional() },
  types: { T: FLOATS64 },
  attrs: { epsilon: float(1e-5), momentum: float(0.9), training_mode: flag(false) },
  role: "compute",
  // Training gives the statistics, or ONNX Runtime does not load it.
  least: (n) => (intOf(n, "training_mode", 0) === 0 ? 1 : 3),
  infer: (at) => {
    const mode = at.node.attrs["training_mode"];
    // ONNX Runtime takes other numbers for training here and for inference there, and ends the process.
    if (mode?.kind === "int" && Number(mode.value) !== 0 && Number(mode.value) !== 1)
      at.fail(`training_mode is ${mode.value}`, "set it to 0 or 1 where the model is made");
    return [
      fact(dtypeOf(at.in.x), shapeOf(at.in.x)),
      fact(dtypeOf(at.in.mean), shapeOf(at.in.mean)),
      fact(dtypeOf(at.in.variance), shapeOf(at.in.variance)),
    ];
  },
  cost: perOutput(2),
  int8: absent("folded into the convolution before it"),
  on: gpu(attribute("training_mode", [false], "export the model for inference")),
  *samples() {
    const p = (...v: number[]) => given("float32", [3], v);
    yield {
      name: "inference",
      in: { x: random("float32", 2, 3, 4, 5), scale: p(1, 2, 0.5), bias: p(0, -1, 1), mean: p(0.1, 0.2, -0.3), variance: p(1, 0.5, 2) },
    };
    yield {
      name: "matrix",
      in: { x: random("float32", 4, 3), scale: p(1, 2, 0.5), bias: p(0, -1, 1), mean: p(0.1, 0.2, -0.3), variance: p(1, 0.5, 2) },
      attrs: { epsilon: aFloat(0.01) },
    };
  },
});
export const instanceNormalization = defineOp({
  name: "InstanceNormalization",
  doc: "Normalises every channel of every item over its spatial dims, then scales and shifts.",
  reads: { onnx: [{ since: 1, adapt: strip("consumed_inputs") }, { since: 6 }] },
  in: { x: tensor("T"), scale: tensor("T"), bias: tensor("T") },
  out: { y: tensor("T") },
  types: { T: FLOATS64 },
  attrs: { epsilon: float(1e-5) },
  role: "compute",
  infer: (at) => [fact(dtypeOf(at.in.x), shapeOf(at.in.x))],
  cost: perOutput(6),
  int8: island,
  on: gpu(),
  *samples() {
    yield { name: "plane", in: { x: random("float32", 2, 3, 4, 5), scale: random("float32", 3), bias: random("float32", 3) } };
  },
});
export const layerNormalization = defineOp({
  name: "LayerNormalization",
  doc: "Normalises over all dims from `axis` on, then scales and shifts; optionally gives mean and inverse deviation.",
  reads: { onnx: [{ since: 1 }] },
  in: { x: tensor("T"), scale: tensor("T"), bias: optional("T") },
  out: { y: tensor("T"), mean: optional(), invStdDev: optional() },
  types: { T: FLOATS64 },
  attrs: { axis: int(-1), epsilon: float(1e-5), stash_type: int(1) },
  role: "compute",
  infer: (at) => {
    const x = shapeOf(at.in.x);
    const axis = x === undefined ? undefined : axisOf(at.attrs.axis, x.length);
    const stats = axis === undefined ? undefined : x?.map((d, i) => (i < axis ? d : 1));
    const u = dtypeFromOnnx(at.attrs.stash_type);
    return [fact(dtypeOf(at.in.x), x), fact(u, stats), fact(u, stats)];
  },
  cost: perOutput(8),
  int8: island,
  on: gpu(outputsOnly(1, "the statistics")),
  *samples() {
    yield { name: "last", in: { x: random("float32", 2, 3, 8), scale: random("float32", 8), bias: random("float32", 8) } };
    yield { name: "two dims", in: { x: random("float32", 2, 3, 5), scale: random("float32", 3, 5) }, attrs: { axis: aInt(1) } };
  },
});
/** Scale and bias were per group in opset 18; today they are per channel. */
function perGroup(n: RawNode, to: Rewriter): void {
  const groups = n.attrs["num_groups"];
  const x = to.typeOf(n.ins[0]);
  const channels = x.kind === "tensor" ? x.shape?.[1] : undefined;
  const count = groups?.kind === "int" ? Number(groups.value) : 0;
  if (typeof channels !== "number" || count === 0 || channels % count !== 0) {
    to.keep();
    return;
  }
  const wide = (v: (typeof n.ins)[number]) => {
    const [column] = to.emit("Reshape", [v, to.int64([-1, 1])]);
    const [expanded] = to.emit("Expand", [column, to.int64([count, channels / count])]);
    return to.emit("Reshape", [expanded, to.int64([-1])])[0];
  };
  to.emit("GroupNormalization", [n.ins[0], wide(n.ins[1]), wide(n.ins[2])], n.attrs, n.outs);
}
export const groupNormalization = defineOp({
  name: "GroupNormalization",
  doc: "Normalises groups of channels of every item, then scales and shifts per channel.",
  reads: { onnx: [{ since: 18, adapt: perGroup }, { since: 21 }] },
  in: { x: tensor("T"), scale: tensor("T"), bias: tensor("T") },
  out: { y: tensor("T") },
  types: { T: FLOATS64 },
  attrs: { epsilon: float(1e-5), num_groups: int(), stash_type: int(1) },
  role: "compute",
  infer: (at) => [fact(dtypeOf(at.in.x), shapeOf(at.in.x))],
  cost: perOutput(8),
  int8: island,
  on: gpu(),
  *samples() {
    yield {
      name: "two groups",
      in: { x: random("float32", 2, 4, 3, 3), scale: random("float32", 4), bias: random("float32", 4) },
      attrs: { num_groups: aInt(2) },
    };
  },
});
export const rmsNormalization = defineOp({
  name: "RMSNormalization",
  doc: "x / sqrt(mean(x^2) + epsilon) * scale over all dims from `axis` on.",
  reads: { onnx: [{ since: 23 }] },
  in: { x: tensor("T"), scale: tensor("V") },
  out: { y: tensor("V") },
  types: { T: FLOATS64, V: FLOATS64 },
  attrs: { axis: int(-1), epsilon: float(1e-5), stash_type: int(1) },
  role: "compute",
  infer: (at) => {
    const x = shapeOf(at.in.x);
    if (x !== undefined && axisOf(at.attrs.axis, x.length) === undefined)
      at.fail(`axis ${at.attrs.axis} is not one of a tensor of ${x.length} dims`, "set it where the model is made");
    return [fact(dtypeOf(at.in.scale), x)];
  },
  cost: perOutput(5),
  int8: island,
  on: on(undefined, absent("the one-node form is not translated for TensorRT", "it is spelled out as its arithmetic, which is")),
  *samples() {
    yield { name: "last", in: { x: random("float32", 2, 3, 8), scale: random("float32", 8) } };
  },
});
export const lrn = defineOp({
  name: "LRN",
  doc: "Local response normalisation across channels.",
  reads: { onnx: [{ since: 1 }] },
  in: { x: tensor("T") },
  out: { y: tensor("T") },
  types: { T: FLOATS64 },
  attrs: { alpha: float(1e-4), beta: float(0.75), bias: float(1), size: int() },
  role: "compute",
  infer: (at) => [fact(dtypeOf(at.in.x), shapeOf(at.in.x))],
  cost: (at) => perOutput(2 * at.attrs.size + 8)(at),
  int8: island,
  on: gpu(),
  *samples() {
    yield { name: "three", in: { x: random("float32", 2, 5, 3, 3) }, attrs: { size: aInt(3) } };
  },
});
export const meanVarianceNormalization = defineOp({
  name: "MeanVarianceNormalization",
  doc: "(x - mean) / deviation over axes.",
  reads: { onnx: [{ since: 9 }] },
  in: { x: tensor("T") },
  out: { y: tensor("T") },
  types: { T: FLOATS64 },
  attrs: { axes: optInts() },
  role: "compute",
  infer: (at) => [fact(dtypeOf(at.in.x), shapeOf(at.in.x))],
  cost: perOutput(6),
  int8: island,
  on: gpu(),
  *samples() {
    yield { name: "default", in: { x: random("float32", 2, 3, 4, 4) } };
    yield { name: "spatial", in: { x: random("float32", 2, 3, 4, 4) }, attrs: { axes: aInts(2, 3) } };
  },
});
export const lpNormalization = defineOp({
  name: "LpNormalization",
  doc: "x divided by its p-norm along an axis.",
  reads: { onnx: [{ since: 1 }] },
  in: { x: tensor("T") },
  out: { y: tensor("T") },
  types: { T: FLOATS64 },
  attrs: { axis: int(-1), p: int(2) },
  role: "compute",
  infer: (at) => [fact(dtypeOf(at.in.x), shapeOf(at.in.x))],
  cost: perOutput(4),
  int8: island,
  on: gpu(),
  *samples() {
    yield { name: "2-norm", in: { x: random("float32", 3, 4) } };
    yield { name: "1-norm", in: { x: random("float32", 2, 3, 2) }, attrs: { axis: aInt(1), p: aInt(1) } };
  },
});

/** Ratio and mode moved from attributes to inputs; in inference neither matters. */
function oldDropout(n: RawNode, to: Rewriter): void {
  const ratio = n.attrs["ratio"];
  const seed = n.attrs["seed"];
  to.emit(
    "Dropout",
    ratio?.kind === "float"
      ? [
          n.ins[0],
          to.constant({ dtype: "float32", dims: [], data: { kind: "bytes", bytes: new Uint8Array(Float32Array.of(ratio.value).buffer) } }),
        ]
      : [n.ins[0]],
    seed === undefined ? {} : { seed },
    n.outs,
  );
}
const inference = when("in inference", (at) =>
  at.in["training"] === undefined || (at.in["training"] as Fact).elements?.[0] === 0
    ? yes
    : no("training mode draws random numbers", "export the model for inference"),
);
export const dropout = defineOp({
  name: "Dropout",
  doc: "In training zeroes elements at random; in inference passes its input through (the mask is then all true).",
  reads: { onnx: [{ since: 1, adapt: oldDropout }, { since: 12 }] },
  in: { x: tensor("T"), ratio: optional(), training: optional("bool") },
  out: { y: tensor("T"), mask: optional("bool") },
  types: { T: FLOATS64 },
  attrs: { seed: int(0) },
  role: "view",
  infer: (at) => [fact(dtypeOf(at.in.x), shapeOf(at.in.x)), fact("bool", shapeOf(at.in.x))],
  cost: perOutput(0),
  int8: { passes: "same-scale" },
  on: on(inference, all(inference, outputsOnly(1, "the mask"))),
  *samples() {
    yield { name: "inference", in: { x: random("float32", 2, 3) } };
    yield { name: "mask", in: { x: random("float32", 4), ratio: given("float32", [], [0.3]) }, outs: 2 };
  },
});
