/**
 * Operators of com.microsoft: what ONNX Runtime's optimiser and its transformer tools fuse models into. The host runs them as they are;
 * the GPU engines make their own fusions from the operators these stand for.
 */
import { add, exactQuotient, isStatic, mul, UNKNOWN } from "../ir/dims.js";
import type { Dim, Shape } from "../ir/types.js";
import { FLOATS64, hostOnly } from "./answers.js";
import { convAttributes, convCost, convShape } from "./convolutions.js";
import {
  absent,
  defineOp,
  dtypeOf,
  type Fact,
  flag,
  float,
  int,
  optFloat,
  optFloats,
  optInts,
  optional,
  optString,
  shapeOf,
  tensor,
} from "./define.js";
import { aFloat, aInt, aInts, aText, random } from "./samples.js";
import { broadcast, count, fact, matmulShape, perOutput, perSum, traffic } from "./shapes.js";

const domain = "com.microsoft";
const reads = { onnx: [{ since: 1 }] };
const on = hostOnly(
  "ONNX Runtime fused several operators into this one; the engine makes such fusions itself, from the operators",
  "export the model without ONNX Runtime's graph optimisations",
);
const inFloat = absent("fused by ONNX Runtime and left to it, in float");
const lastOf = (s: Shape): Dim => s?.[s.length - 1] ?? UNKNOWN;

/** As MatMul after transposing the last two dims, or moving the first dim of a batch behind them. */
function arranged(s: Shape, transpose: boolean, batch: boolean): Shape {
  if (s === undefined || s.length < 2) return s;
  const t = batch ? [...s.slice(1, -1), s[0] ?? UNKNOWN, s[s.length - 1] ?? UNKNOWN] : [...s];
  const n = t.length;
  if (transpose) [t[n - 2], t[n - 1]] = [t[n - 1] ?? UNKNOWN, t[n - 2] ?? UNKNOWN];
  return t;
}
export const fusedMatMul = defineOp({
  name: "FusedMatMul",
  domain,
  doc: "alpha * A B, either operand transposed in its last two dims, or with its first dim moved in front of the last.",
  reads,
  in: { a: tensor("T"), b: tensor("T") },
  out: { y: tensor("T") },
  types: { T: FLOATS64 },
  attrs: { alpha: float(1), transA: flag(false), transB: flag(false), transBatchA: flag(false), transBatchB: flag(false) },
  role: "compute",
  infer: (at) => {
    const { transA, transB, transBatchA, transBatchB } = at.attrs;
    const s = matmulShape(arranged(shapeOf(at.in.a), transA, transBatchA), arranged(shapeOf(at.in.b), transB, transBatchB));
    if (s === null) return at.fail("its operands do not fit", "make the inner dims, after transposing, equal");
    return [fact(dtypeOf(at.in.a), s)];
  },
  cost: (at) => {
    return perSum(shapeOf(at.in.a)?.at(at.attrs.transA ? -2 : -1))(at);
  },
  int8: inFloat,
  on,
  *samples() {
    yield { name: "plain", in: { a: random("float32", 2, 3, 4), b: random("float32", 2, 4, 5) }, attrs: { alpha: aFloat(0.5) } };
    yield {
      name: "transposed",
      in: { a: random("float32", 4, 3), b: random("float32", 5, 4) },
      attrs: { transA: aInt(1), transB: aInt(1) },
    };
  },
});

export const fusedConv = defineOp({
  name: "FusedConv",
  domain,
  doc: "Conv, then the addition of z, then an activation.",
  reads,
  in: { x: tensor("T"), w: tensor("T"), b: optional("T"), z: optional("T") },
  out: { y: tensor("T") },
  types: { T: ["float32", "float16"] },
  attrs: { ...convAttributes, activation: optString(), activation_params: optFloats() },
  role: "compute",
  infer: (at) => [fact(dtypeOf(at.in.x), convShape(at, shapeOf(at.in.x), shapeOf(at.in.w)))],
  cost: (at) => convCost(at.in, at.out),
  int8: inFloat,
  on,
  *samples() {
    yield {
      name: "ReLU",
      in: { x: random("float32", 1, 3, 6, 6), w: random("float32", 4, 3, 3, 3), b: random("float32", 4) },
      attrs: { activation: aText("Relu"), pads: aInts(1, 1, 1, 1) },
    };
  },
});

const activation = <const N extends string>(name: N, doc: string) =>
  defineOp({
    name,
    domain,
    doc,
    reads,
    in: { x: tensor("T"), bias: optional("T") },
    out: { y: tensor("T") },
    types: { T: FLOATS64 },
    attrs: name === "QuickGelu" ? { alpha: float(1.702) } : {},
    role: "compute",
    infer: (at) => [fact(dtypeOf(at.in.x), broadcast(shapeOf(at.in.x), at.in.bias === undefined ? [] : shapeOf(at.in.bias)) ?? undefined)],
    cost: perOutput(16),
    int8: inFloat,
    on,
    *samples() {
      if (name !== "BiasGelu") yield { name: "alone", in: { x: random("float32", 2, 3, 8) } };
      if (name === "BiasGelu" || name === "FastGelu")
        yield { name: "bias", in: { x: random("float32", 2, 3, 8), bias: random("float32", 8) } };
    },
  });
export const geluContrib = activation("Gelu", "Gaussian error linear unit, by the error function.");
export const fastGelu = activation("FastGelu", "Gaussian error linear unit by tanh, of x plus an optional bias.");
export const biasGelu = activation("BiasGelu", "Gaussian error linear unit, by the error function, of x plus a bias.");
export const quickGelu = activation("QuickGelu", "x * sigmoid(alpha * x).");

/** Outputs of the skip normalisations: the result, two statistics that inference on the CPU leaves empty, and the sum. */
function skipFacts(x: Fact, skip: Fact): readonly Fact[] {
  const s = shapeOf(x) ?? shapeOf(skip);
  const statistics = s === undefined ? undefined : [...s.slice(0, -1), 1];
  return [fact(dtypeOf(x), s), fact("float32", statistics), fact("float32", statistics), fact(dtypeOf(x), s)];
}
export const skipLayerNormalization = defineOp({
  name: "SkipLayerNormalization",
  domain,
  doc: "LayerNormalization over the last dim of input + skip (+ bias); the sum is the fourth output.",
  reads,
  in: { x: tensor("T"), skip: tensor("T"), gamma: tensor("T"), beta: optional("T"), bias: optional("T") },
  out: { y: tensor("T"), mean: optional(), inverse: optional(), sum: optional("T") },
  types: { T: ["float32", "float16"] },
  attrs: { epsilon: float(1e-12) },
  role: "compute",
  infer: (at) => skipFacts(at.in.x, at.in.skip),
  cost: perOutput(10),
  int8: inFloat,
  on,
  *samples() {
    const [x, v] = [random("float32", 2, 3, 8), random("float32", 8)];
    yield { name: "plain", in: { x, skip: x, gamma: v, beta: v }, tolerance: 1e-4 };
    yield { name: "bias", in: { x, skip: x, gamma: v, beta: v, bias: v }, tolerance: 1e-4 };
  },
});
export const skipSimplifiedLayerNormalization = defineOp({
  name: "SkipSimplifiedLayerNormalization",
  domain,
  doc: "Root-mean-square normalisation over the last dim of input + skip (+ bias); the sum is the fourth output.",
  reads,
  in: { x: tensor("T"), skip: tensor("T"), gamma: tensor("T"), bias: optional("T") },
  out: { y: tensor("T"), mean: optional(), inverse: optional(), sum: optional("T") },
  types: { T: ["float32", "float16"] },
  attrs: { epsilon: float(1e-12) },
  role: "compute",
  infer: (at) => skipFacts(at.in.x, at.in.skip),
  cost: perOutput(8),
  int8: inFloat,
  on,
  *samples() {
    const [x, v] = [random("float32", 2, 3, 8), random("float32", 8)];
    yield { name: "plain", in: { x, skip: x, gamma: v }, tolerance: 1e-4 };
  },
});
export const embedLayerNormalization = defineOp({
  name: "EmbedLayerNormalization",
  domain,
  doc: "Sum of word, position and segment embeddings, then LayerNormalization: [batch, length, hidden], the mask's lengths [batch], and the sum.",
  reads,
  in: {
    ids: tensor("int32"),
    segments: optional("int32"),
    words: tensor("T"),
    positionTable: tensor("T"),
    segmentTable: optional("T"),
    gamma: tensor("T"),
    beta: tensor("T"),
    mask: optional("int32"),
    positions: optional("int32"),
  },
  out: { y: tensor("T"), lengths: optional("int32"), sum: optional("T") },
  types: { T: ["float32", "float16"] },
  attrs: { epsilon: float(1e-12), mask_index_type: int(0) },
  role: "compute",
  infer: (at) => {
    const ids = shapeOf(at.in.ids);
    const dtype = dtypeOf(at.in.words);
    const y = ids === undefined ? undefined : [...ids, lastOf(shapeOf(at.in.words))];
    return [fact(dtype, y), fact("int32", ids === undefined ? undefined : [ids[0] ?? UNKNOWN]), fact(dtype, y)];
  },
  cost: perOutput(10),
  int8: inFloat,
  on,
  *samples() {
    const ids = { dtype: "int32" as const, dims: [2, 3], fill: [0, 4, 2, 1, 1, 3] };
    const v = random("float32", 8);
    yield {
      name: "words and positions",
      in: { ids, words: random("float32", 5, 8), positionTable: random("float32", 6, 8), gamma: v, beta: v },
      outs: 2,
      tolerance: 1e-4,
    };
    yield {
      name: "segments and mask",
      in: {
        ids,
        segments: { dtype: "int32", dims: [2, 3], fill: [0, 1, 1, 0, 0, 1] },
        words: random("float32", 5, 8),
        positionTable: random("float32", 6, 8),
        segmentTable: random("float32", 2, 8),
        gamma: v,
        beta: v,
        mask: { dtype: "int32", dims: [2, 3], fill: [1, 1, 0, 1, 1, 1] },
      },
      outs: 2,
      tolerance: 1e-4,
    };
  },
});

/** 2 * (query and value sizes) operations for every pair of positions, and the softmax. */
const attentionCost = (scores: readonly Dim[], size: Dim, operands: object, out: readonly Fact["type"][]) => ({
  flops: scores.reduce<number>((n, d) => n * (isStatic(d) ? d : 1), 1) * (4 * (isStatic(size) ? size : 1) + 8),
  bytes: traffic(operands, out),
});
export const packedAttention = defineOp({
  name: "Attention",
  domain,
  doc: "Projection of x [batch, length, in] by packed weights [in, 3 * hidden], then multi-head attention; the past [2, batch, heads, length, size] grows.",
  reads,
  in: {
    x: tensor("T"),
    weights: tensor("T"),
    bias: optional("T"),
    mask: optional("int32"),
    past: optional("T"),
    scores: optional("T"),
    pastLength: optional("int32"),
  },
  out: { y: tensor("T"), present: optional("T") },
  types: { T: ["float32", "float16"] },
  attrs: {
    num_heads: int(),
    unidirectional: flag(false),
    mask_filter_value: optFloat(),
    scale: optFloat(),
    qkv_hidden_sizes: optInts(),
    do_rotary: flag(false),
    rotary_embedding_dim: int(0),
    past_present_share_buffer: flag(false),
  },
  role: "compute",
  infer: (at) => {
    const [x, w] = [shapeOf(at.in.x), shapeOf(at.in.weights)];
    const dtype = dtypeOf(at.in.x);
    const sizes = at.attrs.qkv_hidden_sizes;
    const third = exactQuotient(w?.[1] ?? UNKNOWN, 3) ?? UNKNOWN;
    const [key, value]: readonly Dim[] = [sizes?.[1] ?? third, sizes?.[2] ?? third];
    const past = at.in.past === undefined ? 0 : (shapeOf(at.in.past)?.[3] ?? UNKNOWN);
    const total = at.attrs.past_present_share_buffer ? past : add(past, x?.[1] ?? UNKNOWN);
    const size = exactQuotient(key ?? UNKNOWN, at.attrs.num_heads) ?? UNKNOWN;
    return [
      fact(dtype, x === undefined ? undefined : [x[0] ?? UNKNOWN, x[1] ?? UNKNOWN, value ?? UNKNOWN]),
      fact(dtype, [2, x?.[0] ?? UNKNOWN, at.attrs.num_heads, total, size]),
    ];
  },
  cost: (at) => {
    const [x, w] = [shapeOf(at.in.x), shapeOf(at.in.weights)];
    const length = x?.[1] ?? 1;
    const past = at.in.past === undefined ? 0 : (shapeOf(at.in.past)?.[3] ?? 0);
    const size = exactQuotient(w?.[1] ?? UNKNOWN, 3 * at.attrs.num_heads) ?? 1;
    const scores = attentionCost([x?.[0] ?? 1, at.attrs.num_heads, length, add(length, past)], size, at.in, at.out);
    const columns = w?.[1] ?? 1;
    return { flops: scores.flops + 2 * count(at.in.x) * (isStatic(columns) ? columns : 1), bytes: scores.bytes };
  },
  int8: inFloat,
  on,
  *samples() {
    const base = { x: random("float32", 2, 3, 8), weights: random("float32", 8, 24), bias: random("float32", 24) };
    yield { name: "plain", in: base, attrs: { num_heads: aInt(2) }, tolerance: 1e-4 };
    yield {
      name: "causal, past",
      in: { ...base, past: random("float32", 2, 2, 2, 4, 4) },
      attrs: { num_heads: aInt(2), unidirectional: aInt(1) },
      outs: 2,
      tolerance: 1e-4,
    };
  },
});
export const multiHeadAttention = defineOp({
  name: "MultiHeadAttention",
  domain,
  doc: "Multi-head attention over projected operands [batch, length, hidden]; keys and values may come as [batch, heads, length, size].",
  reads,
  in: {
    q: tensor("T"),
    k: optional("T"),
    v: optional("T"),
    bias: optional("T"),
    padding: optional("int32"),
    scores: optional("T"),
    pastKey: optional("T"),
    pastValue: optional("T"),
    pastLength: optional("int32"),
    indirection: optional("int32"),
  },
  out: { y: tensor("T"), presentKey: optional("T"), presentValue: optional("T"), qk: optional("T") },
  types: { T: ["float32", "float16"] },
  attrs: { num_heads: int(), unidirectional: flag(false), mask_filter_value: optFloat(), scale: optFloat() },
  role: "compute",
  infer: (at) => {
    const { num_heads: heads } = at.attrs;
    const [q, k, v] = [shapeOf(at.in.q), shapeOf(at.in.k), shapeOf(at.in.v)];
    const dtype = dtypeOf(at.in.q);
    // Packed forms (five dims, or keys without values) are left to ONNX Runtime.
    if (q?.length !== 3 || k === undefined || v === undefined || k.length === 5) return [fact(dtype, undefined)];
    const value = v.length === 4 ? mul(v[1] ?? UNKNOWN, v[3] ?? UNKNOWN) : lastOf(v);
    const length = k[k.length - 2] ?? UNKNOWN;
    const past = at.in.pastKey === undefined ? 0 : (shapeOf(at.in.pastKey)?.[2] ?? UNKNOWN);
    const total = at.in.pastLength === undefined ? add(past, length) : UNKNOWN;
    const size = (d: Dim): Dim => exactQuotient(d, heads) ?? UNKNOWN;
    const batch = q[0] ?? UNKNOWN;
    return [
      fact(dtype, [batch, q[1] ?? UNKNOWN, value]),
      fact(dtype, [batch, heads, total, size(lastOf(q))]),
      fact(dtype, [batch, heads, total, size(value)]),
      fact(dtype, [batch, heads, q[1] ?? UNKNOWN, total]),
    ];
  },
  cost: (at) => {
    const [q, k] = [shapeOf(at.in.q), shapeOf(at.in.k) ?? shapeOf(at.in.q)];
    const size = exactQuotient(lastOf(q), at.attrs.num_heads) ?? 1;
    return attentionCost([q?.[0] ?? 1, at.attrs.num_heads, q?.[1] ?? 1, k?.[k.length - 2] ?? 1], size, at.in, at.out);
  },
  int8: inFloat,
  on,
  *samples() {
    const x = (length: number) => random("float32", 2, length, 8);
    yield { name: "cross", in: { q: x(3), k: x(5), v: x(5) }, attrs: { num_heads: aInt(2) }, tolerance: 1e-4 };
    yield {
      name: "past",
      in: { q: x(3), k: x(3), v: x(3), pastKey: random("float32", 2, 2, 4, 4), pastValue: random("float32", 2, 2, 4, 4) },
      attrs: { num_heads: aInt(2) },
      outs: 3,
      tolerance: 1e-4,
    };
  },
});
