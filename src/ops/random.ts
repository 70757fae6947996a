/** Random numbers: never folded, never merged; on the host, whose generator defines them. */

import { UNKNOWN } from "../ir/dims.js";
import { dtypeFromOnnx } from "../ir/dtypes.js";
import { hostOnly } from "./answers.js";
import { type AttrSpecs, absent, defineOp, dtypeOf, float, int, ints, optFloat, optInt, shapeOf, tensor } from "./define.js";
import { aInt, aInts, random } from "./samples.js";
import { fact, perOutput } from "./shapes.js";

const on = hostOnly("random numbers come from the host's generator", "feed them as an input");
const int8 = absent("random numbers are not quantized");
const drawn = <const N extends string, const S extends AttrSpecs>(name: N, doc: string, attrs: S) =>
  defineOp({
    name,
    doc,
    reads: { onnx: [{ since: 1 }] },
    in: {},
    out: { y: tensor() },
    attrs: { ...attrs, dtype: int(1), seed: optFloat(), shape: ints() },
    role: "compute",
    random: true,
    infer: (at) => [fact(dtypeFromOnnx(at.attrs.dtype as number), at.attrs.shape as readonly number[])],
    cost: perOutput(10),
    int8,
    on,
    *samples() {
      yield { name: "vector", in: {}, attrs: { shape: aInts(3, 2) } };
    },
  });
const like = <const N extends string, const S extends AttrSpecs>(name: N, doc: string, attrs: S, since = 1) =>
  defineOp({
    name,
    doc,
    reads: { onnx: [{ since }] },
    in: { x: tensor() },
    out: { y: tensor() },
    attrs: { ...attrs, dtype: optInt(), seed: optFloat() },
    role: "compute",
    random: true,
    infer: (at) => [fact(at.attrs.dtype === undefined ? dtypeOf(at.in.x) : dtypeFromOnnx(at.attrs.dtype as number), shapeOf(at.in.x))],
    cost: perOutput(10),
    int8,
    on,
    *samples() {
      yield { name: "like", in: { x: { dtype: "float32", dims: [2, 3], fill: [0.1, 0.5, 0.9, 0, 1, 0.3] } } };
    },
  });
export const randomNormal = drawn("RandomNormal", "Draws from a normal distribution.", { mean: float(0), scale: float(1) });
export const randomUniform = drawn("RandomUniform", "Draws from a uniform distribution.", { high: float(1), low: float(0) });
export const randomNormalLike = like("RandomNormalLike", "Draws from a normal distribution, shaped like its input.", {
  mean: float(0),
  scale: float(1),
});
export const randomUniformLike = like("RandomUniformLike", "Draws from a uniform distribution, shaped like its input.", {
  high: float(1),
  low: float(0),
});
export const bernoulli = like("Bernoulli", "Draws 0 or 1 with the probabilities given.", {}, 15);
export const multinomial = defineOp({
  name: "Multinomial",
  doc: "Draws class indices from rows of unnormalised log probabilities.",
  reads: { onnx: [{ since: 7 }] },
  in: { x: tensor() },
  out: { y: tensor() },
  attrs: { dtype: int(6), sample_size: int(1), seed: optFloat() },
  role: "compute",
  random: true,
  infer: (at) => [fact(dtypeFromOnnx(at.attrs.dtype), [shapeOf(at.in.x)?.[0] ?? UNKNOWN, at.attrs.sample_size])],
  cost: perOutput(10),
  int8,
  on,
  *samples() {
    yield { name: "two rows", in: { x: random("float32", 2, 4) }, attrs: { sample_size: aInt(3) } };
  },
});
