/**
 * Random numbers: ONNX Runtime's, so that distribution, type and shape are TensorFlow's and the numbers are not, whatever the seed.
 */
import { defineTfOp, type TfBuilder, type TfNode, type Val } from "./define.js";
import { dimOf, inverseErf, shapeFrom } from "./helpers.js";

const why = "the distribution is TensorFlow's, the numbers are not, whatever the seed";
const vector64 = (b: TfBuilder, shape: Val): Val => b.cast(shape, "int64");
const seedOf = (n: TfNode): { seed?: number } => {
  const seed = n.int("seed", 0) * 31 + n.int("seed2", 0);
  return seed === 0 ? {} : { seed: seed % (1 << 24) };
};
function drawn(n: TfNode, b: TfBuilder, op: "RandomUniformLike" | "RandomNormalLike", shape: Val): Val {
  return b.op(op, [b.fill("float32", 0, vector64(b, shape))], { dtype: 1, ...seedOf(n) });
}
const uniform = (n: TfNode, b: TfBuilder, shape: Val): Val => drawn(n, b, "RandomUniformLike", shape);
/** Uniform in [least positive, 1), for logarithms. */
const positive = (n: TfNode, b: TfBuilder, shape: Val): Val => b.op("Max", [uniform(n, b, shape), b.scalar("float32", 2 ** -24)]);

const MADE = ["RandomUniformLike", "RandomNormalLike", "ConstantOfShape", "Cast", "Min", "Max", "Mul", "Add"];
export const randomUniform = defineTfOp({
  names: ["RandomUniform", "StatelessRandomUniform", "StatelessRandomUniformV2"],
  random: true,
  to: MADE,
  why,
  // A float32 just below 1 may round to 1 in a narrower type: held below it.
  lower: (n, b) => {
    const to = n.type("dtype", "float32");
    const u = uniform(n, b, n.in(0));
    const below = to === "float16" ? 1 - 2 ** -11 : to === "bfloat16" ? 1 - 2 ** -8 : undefined;
    return b.cast(below === undefined ? u : b.op("Min", [u, b.scalar("float32", below)]), to);
  },
});
export const randomNormal = defineTfOp({
  names: ["RandomStandardNormal", "StatelessRandomNormal", "StatelessRandomNormalV2"],
  random: true,
  to: MADE,
  why,
  lower: (n, b) => b.cast(drawn(n, b, "RandomNormalLike", n.in(0)), n.type("dtype", "float32")),
});
/** Two standard deviations at most: the inverse of the distribution over the middle 95.45 % of probabilities. */
export const truncatedNormal = defineTfOp({
  names: ["TruncatedNormal", "StatelessTruncatedNormal", "StatelessTruncatedNormalV2"],
  random: true,
  to: [...MADE, "Sub", "Log", "Sqrt", "Where", "Neg", "Less", "Abs", "Equal"],
  why,
  lower: (n, b) => {
    const k = (v: number): Val => b.scalar("float32", v);
    const spread = 0.954499736103642;
    const centred = b.mul(b.sub(uniform(n, b, n.in(0)), k(0.5)), k(2 * spread));
    return b.cast(b.mul(inverseErf(b, centred), k(Math.SQRT2)), n.type("dtype", "float32"));
  },
});
export const randomUniformInt = defineTfOp({
  names: ["RandomUniformInt", "StatelessRandomUniformInt", "StatelessRandomUniformIntV2"],
  random: true,
  to: [...MADE, "Mul", "Floor", "Add", "Sub", "Min"],
  why,
  lower: (n, b) => {
    const [low, high] = n.list(-2);
    if (low === undefined || high === undefined) return n.refuse("it has no bounds");
    const wide = (x: Val): Val => b.cast(b.reshape(x, []), "float64");
    const span = b.sub(wide(high), wide(low));
    const steps = b.op("Floor", [b.mul(b.cast(uniform(n, b, n.in(0)), "float64"), span)]);
    return b.cast(b.add(b.op("Min", [steps, b.sub(span, b.scalar("float64", 1))]), wide(low)), low.dtype);
  },
});
export const randomShuffle = defineTfOp({
  names: ["RandomShuffle", "StatelessShuffle"],
  random: true,
  to: [...MADE, "TopK", "Gather"],
  why,
  lower: (n, b) => {
    const x = n.in(0);
    const count = shapeFrom(b, [dimOf(b, x, 0)]);
    const [, order] = b.ops("TopK", [uniform(n, b, count), count], { axis: -1 }, 2);
    return order === undefined ? n.refuse("TopK made no result") : b.gather(x, order, 0);
  },
});
/** The largest of the logits with Gumbel noise, for every sample. */
export const multinomial = defineTfOp({
  names: ["Multinomial", "StatelessMultinomial"],
  random: true,
  to: [...MADE, "Log", "Neg", "Add", "ArgMax", "Unsqueeze", "Max"],
  why,
  lower: (n, b) => {
    const logits = b.cast(n.in(0), "float32");
    const samples = b.cast(b.reshape(n.in(1), []), "int64");
    const u = positive(n, b, shapeFrom(b, [dimOf(b, logits, 0), samples, dimOf(b, logits, 1)]));
    const noise = b.op("Neg", [b.op("Log", [b.op("Neg", [b.op("Log", [b.op("Min", [u, b.scalar("float32", 1 - 2 ** -24)])])])])]);
    const best = b.op("ArgMax", [b.add(b.unsqueeze(logits, [1]), noise)], { axis: -1, keepdims: false });
    return b.cast(best, n.type("output_dtype", "int64"));
  },
});
/** Arrivals before `rate` of a process whose gaps are exponential; as many gaps as the largest rate needs but with a chance below 1e-12. */
export const poisson = defineTfOp({
  names: ["RandomPoissonV2", "RandomPoisson", "StatelessRandomPoisson"],
  random: true,
  to: [...MADE, "Log", "Neg", "CumSum", "Less", "ReduceSum", "ReduceMax", "Sqrt", "Ceil", "Max"],
  why,
  lower: (n, b) => {
    const rate = b.cast(n.in(n.op === "StatelessRandomPoisson" ? 2 : 1), "float32");
    const k = (v: number): Val => b.scalar("float32", v);
    const most = b.op("Max", [
      b.op("ReduceMax", [b.concat([b.reshape(rate, [-1]), b.const("float32", [1], [0])], 0)], { keepdims: false }),
      k(0),
    ]);
    const gaps = b.cast(b.op("Ceil", [b.add(b.add(most, b.mul(b.op("Sqrt", [most]), k(8))), k(24))]), "int64");
    const shape = n.op === "StatelessRandomPoisson" ? vector64(b, n.in(0)) : b.concat([vector64(b, n.in(0)), b.shape(rate)], 0);
    const times = b.op("CumSum", [b.op("Neg", [b.op("Log", [positive(n, b, b.concat([shape, b.reshape(gaps, [1])], 0))])]), b.int64(-1)]);
    const before = b.op("Less", [times, b.unsqueeze(rate, [-1])]);
    const count = b.op("ReduceSum", [b.cast(before, "float32"), b.int64([-1])], { keepdims: false });
    return b.cast(count, n.type("dtype", n.op === "RandomPoisson" ? rate.dtype : "int64"));
  },
});
export const otherRandom = defineTfOp({
  names: [
    "RandomGamma",
    "RandomGammaGrad",
    "StatelessRandomGammaV2",
    "StatelessRandomGammaV3",
    "StatelessRandomBinomial",
    "ParameterizedTruncatedNormal",
    "StatelessParameterizedTruncatedNormal",
    "StatefulUniform",
    "StatefulUniformInt",
    "StatefulUniformFullInt",
    "StatefulStandardNormalV2",
    "StatefulTruncatedNormal",
    "StatefulRandomBinomial",
    "StatelessRandomUniformFullInt",
    "StatelessRandomUniformFullIntV2",
    "StatelessRandomGetKeyCounter",
    "StatelessRandomGetKeyCounterAlg",
    "StatelessRandomGetAlg",
    "RngSkip",
    "RngReadAndSkip",
    "LogUniformCandidateSampler",
    "UniformCandidateSampler",
    "LearnedUnigramCandidateSampler",
    "FixedUnigramCandidateSampler",
    "AllCandidateSampler",
    "ThreadUnsafeUnigramCandidateSampler",
  ],
  random: true,
  absent: "ONNX has no generator of these random numbers",
  fix: "draw them in your program and cut the graph behind this node with `inputs`",
});
