/**
 * Quantized operators of com.microsoft: the QOperator form of ONNX Runtime's quantizer, and what it fuses dynamically quantized products into. The host runs
 * them as they are; for the other engines they are spelled out as quantizers and float operators (passes/quantized.ts).
 */
import { add, isStatic, UNKNOWN } from "../ir/dims.js";
import type { Attr, Dim, DType, Shape } from "../ir/types.js";
import { FLOATS, hostOnly, inParts } from "./answers.js";
import { convAttributes, convCost, convShape } from "./convolutions.js";
import {
  type AttrSpecs,
  absent,
  defineOp,
  dtypeOf,
  type Fact,
  flag,
  float,
  int,
  ints,
  optFloats,
  optInts,
  optional,
  optStrings,
  type SampleInput,
  shapeOf,
  tensor,
  variadic,
  word,
} from "./define.js";
import { aFloat, aInt, aInts, given, random } from "./samples.js";
import { axisOf, broadcast, fact, matmulCost, matmulShape, perOutput, perSum, traffic, windowDim, windowOf } from "./shapes.js";

const domain = "com.microsoft";
const reads = { onnx: [{ since: 1 }] };
const BYTES: readonly DType[] = ["int8", "uint8"];
const quantized = absent("it is quantized already, with zero points that symmetric int8 does not have");
const on = inParts;
const [scale, zero] = [given("float32", [], [0.05]), given("uint8", [], [128])];

/** x [N, C, spatial...] as it is, or as one of channels last says. */
const channelsFirst = (s: Shape, last: boolean): Shape =>
  last && s !== undefined ? [s[0] ?? UNKNOWN, s.at(-1) ?? UNKNOWN, ...s.slice(1, -1)] : s;
const channelsBack = (s: Shape, last: boolean): Shape => (last && s !== undefined ? [s[0] ?? UNKNOWN, ...s.slice(2), s[1] ?? UNKNOWN] : s);

const binary = <const N extends string>(name: N, doc: string) =>
  defineOp({
    name,
    domain,
    doc,
    reads,
    in: {
      a: tensor("T"),
      aScale: tensor("float32"),
      aZero: optional("T"),
      b: tensor("T"),
      bScale: tensor("float32"),
      bZero: optional("T"),
      yScale: tensor("float32"),
      yZero: optional("T"),
    },
    out: { y: tensor("T") },
    types: { T: BYTES },
    attrs: {},
    role: "compute",
    infer: (at) => {
      const s = broadcast(shapeOf(at.in.a), shapeOf(at.in.b));
      if (s === null) return at.fail("its operands do not broadcast", "make each pair of trailing dims equal, or one of them 1");
      return [fact(dtypeOf(at.in.a), s)];
    },
    cost: perOutput(6),
    int8: quantized,
    on,
    *samples() {
      yield {
        name: "uint8",
        in: {
          a: random("uint8", 2, 3),
          aScale: scale,
          aZero: zero,
          b: random("uint8", 3),
          bScale: scale,
          bZero: zero,
          yScale: scale,
          yZero: zero,
        },
      };
    },
  });
export const qLinearAdd = binary("QLinearAdd", "a + b of quantized operands, elementwise, quantized again.");
export const qLinearMul = binary("QLinearMul", "a * b of quantized operands, elementwise, quantized again.");

interface Unary {
  readonly name: string;
  readonly in: Readonly<Record<string, SampleInput>>;
  readonly attrs?: Readonly<Record<string, Attr>>;
}
const byOne = { xScale: scale, xZero: zero, yScale: given("float32", [], [0.02]), yZero: given("uint8", [], [100]) };
const unary = <const N extends string, const S extends AttrSpecs>(
  name: N,
  doc: string,
  attrs: S,
  infer: (x: Shape, attrs: { readonly [K in keyof S]: never }) => Shape,
  flops: number,
  samples: readonly Unary[],
) =>
  defineOp({
    name,
    domain,
    doc,
    reads,
    in: { x: tensor("T"), xScale: tensor("float32"), xZero: optional("T"), yScale: tensor("float32"), yZero: optional("T") },
    out: { y: tensor("T") },
    types: { T: BYTES },
    attrs,
    role: "compute",
    infer: (at) => [fact(dtypeOf(at.in.x), infer(shapeOf(at.in.x), at.attrs as never))],
    cost: perOutput(flops),
    int8: quantized,
    on,
    *samples() {
      yield* samples;
    },
  });
const same = (x: Shape): Shape => x;
export const qLinearSigmoid = unary("QLinearSigmoid", "Sigmoid of a quantized operand, quantized again.", {}, same, 8, [
  { name: "uint8", in: { x: random("uint8", 2, 3), ...byOne } },
]);
export const qLinearLeakyRelu = unary(
  "QLinearLeakyRelu",
  "LeakyRelu of a quantized operand, quantized again.",
  { alpha: float(0.01) },
  same,
  4,
  [{ name: "uint8", in: { x: random("uint8", 2, 3), ...byOne }, attrs: { alpha: aFloat(0.2) } }],
);
export const qLinearSoftmax = unary(
  "QLinearSoftmax",
  "Softmax of a quantized operand, quantized again; up to opset 12 over all dims from its axis on.",
  { axis: int(-1), opset: int() },
  same,
  8,
  [
    {
      name: "last dim",
      in: { x: random("uint8", 2, 5), xScale: scale, xZero: zero, yScale: given("float32", [], [1 / 256]), yZero: given("uint8", [], [0]) },
      attrs: { axis: aInt(-1), opset: aInt(13) },
    },
  ],
);
export const qLinearGlobalAveragePool = unary(
  "QLinearGlobalAveragePool",
  "Mean over all spatial dims of a quantized x, [N, C, spatial...] or with the channels last, quantized again.",
  { channels_last: flag(false) },
  (x, { channels_last: last }) =>
    channelsBack(
      channelsFirst(x, last)?.map((d, i) => (i < 2 ? d : 1)),
      last,
    ),
  4,
  [
    { name: "channels first", in: { x: random("uint8", 1, 3, 4, 5), ...byOne } },
    { name: "channels last", in: { x: random("uint8", 1, 4, 5, 3), ...byOne }, attrs: { channels_last: aInt(1) } },
  ],
);
const pool = {
  auto_pad: word("NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"),
  ceil_mode: flag(false),
  channels_last: flag(false),
  count_include_pad: flag(false),
  kernel_shape: ints(),
  pads: optInts(),
  strides: optInts(),
};
export const qLinearAveragePool = unary(
  "QLinearAveragePool",
  "Mean over a sliding window of a quantized x, [N, C, spatial...] or with the channels last, quantized again.",
  pool,
  (x, a: Parameters<typeof windowOf>[1] & { readonly channels_last: boolean; readonly kernel_shape: readonly number[] }) => {
    const s = channelsFirst(x, a.channels_last);
    if (s === undefined) return undefined;
    const w = windowOf(a.kernel_shape.length, a, a.kernel_shape);
    return channelsBack([...s.slice(0, 2), ...s.slice(2).map((d, i) => windowDim(d, w, i))], a.channels_last);
  },
  6,
  [
    {
      name: "padded",
      in: { x: random("uint8", 1, 2, 7, 6), ...byOne },
      attrs: { kernel_shape: aInts(3, 2), pads: aInts(1, 0, 1, 1), strides: aInts(2, 1) },
    },
    {
      name: "channels last",
      in: { x: random("uint8", 1, 6, 6, 3), ...byOne },
      attrs: { kernel_shape: aInts(2, 2), channels_last: aInt(1) },
    },
  ],
);

export const qLinearConcat = defineOp({
  name: "QLinearConcat",
  domain,
  doc: "Joins quantized operands along an axis: the scale and zero point of the result, then an operand, its scale and its zero point in turn.",
  reads,
  in: { yScale: tensor("float32"), yZero: tensor(), xs: variadic() },
  out: { y: tensor() },
  attrs: { axis: int() },
  role: "compute",
  infer: (at) => {
    const shapes = at.in.xs.filter((_, i) => i % 3 === 0).map(shapeOf);
    const [first] = shapes;
    const axis = first === undefined ? undefined : axisOf(at.attrs.axis, first.length);
    if (first === undefined || axis === undefined || shapes.some((s) => s?.length !== first.length))
      return [fact(dtypeOf(at.in.yZero), undefined)];
    const along = shapes.reduce<Dim>((sum, s) => add(sum, s?.[axis] ?? UNKNOWN), 0);
    return [
      fact(
        dtypeOf(at.in.yZero),
        first.map((d, i) => (i === axis ? along : d)),
      ),
    ];
  },
  cost: perOutput(4),
  int8: quantized,
  on,
  *samples() {
    const part = (columns: number, step: number, z: number) => [
      random("uint8", 2, columns),
      given("float32", [], [step]),
      given("uint8", [], [z]),
    ];
    yield {
      name: "two scales",
      in: { yScale: scale, yZero: zero, xs: [...part(3, 0.05, 128), ...part(2, 0.1, 3)] },
      attrs: { axis: aInt(1) },
    };
  },
});
export const qLinearWhere = defineOp({
  name: "QLinearWhere",
  domain,
  doc: "Elements of one quantized operand where a condition holds, of another elsewhere, quantized again.",
  reads,
  in: {
    condition: tensor("bool"),
    x: tensor("T"),
    xScale: tensor("float32"),
    xZero: tensor("T"),
    y: tensor("T"),
    yScale: tensor("float32"),
    yZero: tensor("T"),
    zScale: tensor("float32"),
    zZero: tensor("T"),
  },
  out: { z: tensor("T") },
  types: { T: BYTES },
  attrs: {},
  role: "compute",
  infer: (at) => [fact(dtypeOf(at.in.x), broadcast(shapeOf(at.in.condition), shapeOf(at.in.x), shapeOf(at.in.y)) ?? undefined)],
  cost: perOutput(6),
  int8: quantized,
  on,
  *samples() {
    const [x, y] = [random("uint8", 2, 3), random("uint8", 2, 3)];
    yield {
      name: "uint8",
      in: {
        condition: random("bool", 2, 3),
        x,
        xScale: scale,
        xZero: zero,
        y,
        yScale: scale,
        yZero: zero,
        zScale: given("float32", [], [0.07]),
        zZero: zero,
      },
    };
  },
});
export const qLinearConvContrib = defineOp({
  name: "QLinearConv",
  domain,
  doc: "QLinearConv that also takes its channels last.",
  reads,
  in: {
    x: tensor("T1"),
    xScale: tensor("float32"),
    xZero: tensor("T1"),
    w: tensor("T2"),
    wScale: tensor("float32"),
    wZero: tensor("T2"),
    yScale: tensor("float32"),
    yZero: tensor("T3"),
    b: optional("int32"),
  },
  out: { y: tensor("T3") },
  types: { T1: BYTES, T2: BYTES, T3: BYTES },
  attrs: { ...convAttributes, channels_last: flag(false) },
  role: "compute",
  infer: (at) => {
    const last = at.attrs.channels_last;
    return [fact(dtypeOf(at.in.yZero), channelsBack(convShape(at, channelsFirst(shapeOf(at.in.x), last), shapeOf(at.in.w)), last))];
  },
  cost: (at) => convCost(at.in, at.out),
  int8: quantized,
  on,
  *samples() {
    const w = given(
      "int8",
      [2, 3, 2, 2],
      Array.from({ length: 24 }, (_, i) => ((i * 7) % 23) - 11),
    );
    const scales = {
      xScale: scale,
      xZero: zero,
      w,
      wScale: given("float32", [2], [0.1, 0.03]),
      wZero: given("int8", [2], [0, 0]),
      yScale: scale,
      yZero: zero,
    };
    yield {
      name: "channels last",
      in: { x: random("uint8", 1, 5, 4, 3), ...scales, b: given("int32", [2], [40, -9]) },
      attrs: { channels_last: aInt(1) },
    };
  },
});

export const qGemm = defineOp({
  name: "QGemm",
  domain,
  doc: "alpha * A B + C of quantized operands, either transposed; quantized again when an output scale is given, else float32.",
  reads,
  in: {
    a: tensor("TA"),
    aScale: tensor("float32"),
    aZero: tensor("TA"),
    b: tensor("TB"),
    bScale: tensor("float32"),
    bZero: tensor("TB"),
    c: optional("int32"),
    yScale: optional("float32"),
    yZero: optional("TA"),
  },
  out: { y: tensor() },
  types: { TA: BYTES, TB: BYTES },
  attrs: { alpha: float(1), transA: flag(false), transB: flag(false) },
  role: "compute",
  infer: (at) => {
    const [a, b] = [shapeOf(at.in.a), shapeOf(at.in.b)];
    const s = [a?.[at.attrs.transA ? 1 : 0] ?? UNKNOWN, b?.[at.attrs.transB ? 0 : 1] ?? UNKNOWN];
    return [fact(at.in.yScale === undefined ? "float32" : (dtypeOf(at.in.yZero) ?? dtypeOf(at.in.a)), s)];
  },
  cost: (at) => {
    return perSum(shapeOf(at.in.a)?.[at.attrs.transA ? 0 : 1])(at);
  },
  int8: quantized,
  on,
  *samples() {
    const [a, b] = [random("uint8", 3, 4), given("int8", [4, 2], [1, -2, 3, 4, -5, 6, 7, 8])];
    const operands = { a, aScale: scale, aZero: given("uint8", [], [8]), b, bScale: scale, bZero: given("int8", [], [0]) };
    yield { name: "float", in: operands };
    yield { name: "quantized", in: { ...operands, c: random("int32", 2), yScale: scale, yZero: given("uint8", [], [10]) } };
  },
});

const product = (at: { readonly in: { readonly a: Fact; readonly b: Fact }; fail(what: string, fix: string): never }): Shape => {
  const s = matmulShape(shapeOf(at.in.a), shapeOf(at.in.b));
  return s === null ? at.fail("its operands do not fit", "make the inner dims equal") : s;
};
const weights = given("int8", [4, 3], [1, -2, 3, 4, -5, 6, 7, 8, -9, 10, 11, 12]);
const columns = {
  b: weights,
  bScale: given("float32", [3], [0.1, 0.2, 0.05]),
  bZero: given("int8", [3], [0, 0, 0]),
  bias: random("float32", 3),
};
export const matMulIntegerToFloat = defineOp({
  name: "MatMulIntegerToFloat",
  domain,
  doc: "MatMulInteger, times the product of both scales, plus a bias.",
  reads,
  in: {
    a: tensor("TA"),
    b: tensor("TB"),
    aScale: tensor("T"),
    bScale: tensor("T"),
    aZero: optional("TA"),
    bZero: optional("TB"),
    bias: optional("T"),
  },
  out: { y: tensor("T") },
  types: { TA: BYTES, TB: BYTES, T: FLOATS },
  attrs: {},
  role: "compute",
  infer: (at) => [fact(dtypeOf(at.in.aScale), product(at))],
  cost: matmulCost,
  int8: quantized,
  on,
  *samples() {
    const a = random("uint8", 2, 5, 4);
    yield { name: "one scale", in: { a, b: weights, aScale: scale, bScale: scale, aZero: given("uint8", [], [9]) } };
    yield { name: "a scale for each column", in: { a, aScale: scale, aZero: given("uint8", [], [9]), ...columns } };
  },
});
export const dynamicQuantizeMatMul = defineOp({
  name: "DynamicQuantizeMatMul",
  domain,
  doc: "DynamicQuantizeLinear of a, then MatMulIntegerToFloat by quantized weights.",
  reads,
  in: { a: tensor("T"), b: tensor("TB"), bScale: tensor("T"), bZero: optional("TB"), bias: optional("T") },
  out: { y: tensor("T") },
  types: { TB: BYTES, T: ["float32"] },
  attrs: {},
  role: "compute",
  infer: (at) => [fact(dtypeOf(at.in.a), product(at))],
  cost: matmulCost,
  int8: quantized,
  on,
  *samples() {
    yield { name: "one scale", in: { a: random("float32", 2, 5, 4), b: weights, bScale: given("float32", [], [0.1]) } };
    yield { name: "a scale for each column", in: { a: random("float32", 3, 4), ...columns } };
  },
});
export const dynamicQuantizeLstm = defineOp({
  name: "DynamicQuantizeLSTM",
  domain,
  doc: "LSTM by quantized weights W [dirs, input, 4 hidden] and R [dirs, hidden, 4 hidden]; x and every step's state are quantized as they come.",
  reads,
  in: {
    x: tensor("T"),
    w: tensor("TW"),
    r: tensor("TW"),
    b: optional("T"),
    lengths: optional("int32"),
    initialH: optional("T"),
    initialC: optional("T"),
    p: optional("T"),
    wScale: tensor("T"),
    wZero: tensor("TW"),
    rScale: tensor("T"),
    rZero: tensor("TW"),
  },
  out: { y: optional("T"), yH: optional("T"), yC: optional("T") },
  types: { TW: BYTES, T: ["float32"] },
  attrs: {
    activation_alpha: optFloats(),
    activation_beta: optFloats(),
    activations: optStrings(),
    clip: float(0),
    direction: word("forward", "forward", "reverse", "bidirectional"),
    hidden_size: int(),
    input_forget: flag(false),
  },
  role: "compute",
  infer: (at) => {
    const [x, r] = [shapeOf(at.in.x), shapeOf(at.in.r)];
    const [length, batch, dirs, hidden] = [x?.[0] ?? UNKNOWN, x?.[1] ?? UNKNOWN, r?.[0] ?? UNKNOWN, r?.[1] ?? UNKNOWN];
    const state = fact("float32", [dirs, batch, hidden]);
    return [fact("float32", [length, dirs, batch, hidden]), state, state];
  },
  cost: (at) => {
    const [x, w, r] = [shapeOf(at.in.x), shapeOf(at.in.w), shapeOf(at.in.r)];
    const size = (s: Shape): number => (s ?? []).reduce<number>((n, d) => n * (isStatic(d) ? d : 1), 1);
    return { flops: 2 * size(x?.slice(0, 2)) * (size(w) + size(r)), bytes: traffic(at.in, at.out) };
  },
  int8: quantized,
  on: hostOnly("it quantizes its state anew in every step", "quantize the model without its LSTM layers: those in float have a kernel"),
  *samples() {
    const list = (n: number): number[] => Array.from({ length: n }, (_, i) => ((i * 29) % 201) - 100);
    yield {
      name: "forward",
      in: {
        x: random("float32", 3, 2, 4),
        w: given("int8", [1, 4, 20], list(80)),
        r: given("int8", [1, 5, 20], list(100)),
        b: random("float32", 1, 40),
        wScale: given("float32", [1], [0.01]),
        wZero: given("int8", [1], [0]),
        rScale: given("float32", [1], [0.01]),
        rZero: given("int8", [1], [0]),
      },
      attrs: { hidden_size: aInt(5) },
      outs: 3,
    };
  },
});

export const quantizeLinearContrib = defineOp({
  name: "QuantizeLinear",
  domain,
  doc: "QuantizeLinear as com.microsoft had it before ai.onnx had all its types.",
  reads,
  in: { x: tensor(), scale: tensor(), zero: optional("Q") },
  out: { y: tensor("Q") },
  types: { Q: ["int8", "uint8", "int16", "uint16", "int4", "uint4"] },
  attrs: { axis: int(1), saturate: flag(true), block_size: int(0) },
  role: "compute",
  infer: (at) => [fact(at.in.zero === undefined ? "uint8" : dtypeOf(at.in.zero), shapeOf(at.in.x))],
  cost: perOutput(3),
  int8: quantized,
  on: hostOnly("16 and 4 bits have no kernel", "quantize to 8 bits"),
  *samples() {
    yield { name: "uint8", in: { x: random("float32", 2, 3), scale, zero } };
    yield { name: "uint16", in: { x: random("float32", 2, 3), scale, zero: given("uint16", [], [1000]) } };
  },
});
export const dequantizeLinearContrib = defineOp({
  name: "DequantizeLinear",
  domain,
  doc: "DequantizeLinear as com.microsoft had it before ai.onnx had all its types.",
  reads,
  in: { x: tensor("Q"), scale: tensor("S"), zero: optional("Q") },
  out: { y: tensor("S") },
  types: { Q: ["int8", "uint8", "int16", "uint16", "int32", "int4", "uint4"], S: ["float32", "float16"] },
  attrs: { axis: int(1), block_size: int(0) },
  role: "compute",
  infer: (at) => [fact(dtypeOf(at.in.scale), shapeOf(at.in.x))],
  cost: perOutput(2),
  int8: quantized,
  on: hostOnly("16 and 4 bits have no kernel", "quantize to 8 bits"),
  *samples() {
    yield { name: "uint8", in: { x: random("uint8", 2, 3), scale, zero } };
    yield { name: "uint16", in: { x: random("uint16", 2, 3), scale, zero: given("uint16", [], [5]) } };
  },
});
