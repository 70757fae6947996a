/**
 * Simulated quantization as QuantizeLinear and DequantizeLinear, scales and zero points by TensorFlow's nudging rules
 * (fake_quant_ops_functor.h, quantize_and_dequantize_op.h). They are computed in the graph, so that constant ranges fold and others work.
 * A value exactly between two steps goes to the even one, where TensorFlow goes up.
 */
import { typedOf } from "../../ir/payload.js";
import { defineTfOp, type TfBuilder, type TfNode, type Val } from "./define.js";
import { upTo } from "./helpers.js";

const k = (b: TfBuilder, v: number): Val => b.scalar("float32", v);

/** Quantizes and dequantizes along `axis` (undefined: one scale). `limits`: clamps before, where the storage type saturates wider. */
function roundTrip(
  b: TfBuilder,
  x: Val,
  scale: Val,
  zero: Val,
  axis: number | undefined,
  limits: readonly [low: Val, high: Val] | undefined,
): Val {
  const held = limits === undefined ? x : b.op("Min", [b.op("Max", [x, limits[0]]), limits[1]]);
  const attrs = axis === undefined ? undefined : { axis };
  return b.op("DequantizeLinear", [b.op("QuantizeLinear", [held, scale, zero], attrs), scale, zero], attrs);
}

interface Nudged {
  readonly scale: Val;
  /** As a float, counted from 0 of the unsigned range. */
  readonly zero: Val;
  readonly low: Val;
  readonly high: Val;
}
/** Moves the range so that zero is a step: the zero point is rounded, and held inside the steps. */
function nudged(b: TfBuilder, min: Val, max: Val, least: number, most: number): Nudged {
  // A range of nothing makes zeros: any scale does.
  const none = b.op("And", [b.op("Equal", [min, k(b, 0)]), b.op("Equal", [max, k(b, 0)])]);
  const scale = b.where(none, k(b, 1), b.div(b.sub(max, min), k(b, most - least)));
  const from = b.sub(k(b, least), b.div(min, scale));
  const zero = b.op("Max", [b.op("Min", [b.op("Floor", [b.add(from, k(b, 0.5))]), k(b, most)]), k(b, least)]);
  const low = b.mul(b.sub(k(b, least), zero), scale);
  const high = b.mul(b.sub(k(b, most), zero), scale);
  const unlessNone = (v: Val): Val => b.where(none, k(b, 0), v);
  return { scale, zero, low: unlessNone(low), high: unlessNone(high) };
}
const numbersOf = (x: Val): readonly number[] | undefined => {
  const c = x.constant;
  return c === undefined || c.dtype !== "float32" ? undefined : Array.from(typedOf(c) as ArrayLike<number>);
};
function fakeQuant(n: TfNode, b: TfBuilder, min: Val, max: Val, axis: number | undefined): Val {
  const bits = n.int("num_bits", 8);
  const narrow = n.bool("narrow_range", false);
  if (bits < 2 || bits > 16) return n.refuse(`it quantizes to ${bits} bits`, "use 2 to 16 bits");
  const [least, most] = [narrow ? 1 : 0, 2 ** bits - 1];
  const q = nudged(b, min, max, least, most);
  if (bits > 8) {
    // Engines quantize to eight bits; more are simulated by the arithmetic itself.
    const held = b.op("Min", [b.op("Max", [n.in(0), q.low]), q.high]);
    const steps = b.op("Floor", [b.add(b.div(b.sub(held, q.low), q.scale), k(b, 0.5))]);
    return b.add(b.mul(steps, q.scale), q.low);
  }
  // A zero point in the middle means a symmetric range, which engines want as signed steps without a zero point.
  const [known, knownMax] = [numbersOf(min), numbersOf(max)];
  const middle = 128;
  const symmetric =
    known !== undefined && knownMax !== undefined
      ? known.every((low, i) => Math.round(least - low / (((knownMax[i] ?? 0) - low) / (most - least))) === middle)
      : narrow && bits === 8;
  const zero = b.cast(symmetric ? b.sub(q.zero, k(b, middle)) : q.zero, symmetric ? "int8" : "uint8");
  const exact = bits === 8 && !narrow;
  const onlyZero = known?.every((v) => v === 0) === true && knownMax?.every((v) => v === 0) === true;
  return roundTrip(b, n.in(0), q.scale, zero, axis, exact && !onlyZero && known !== undefined ? undefined : [q.low, q.high]);
}
const MADE = [
  "QuantizeLinear",
  "DequantizeLinear",
  "Min",
  "Max",
  "Sub",
  "Add",
  "Mul",
  "Div",
  "Floor",
  "Where",
  "Equal",
  "And",
  "Cast",
  "Round",
];
const why = "ties between two steps go to the even one";
export const fakeQuantArgs = defineTfOp({
  name: "FakeQuantWithMinMaxArgs",
  to: MADE,
  why,
  lower: (n, b) => fakeQuant(n, b, k(b, n.float("min", -6)), k(b, n.float("max", 6)), undefined),
});
export const fakeQuantVars = defineTfOp({
  name: "FakeQuantWithMinMaxVars",
  to: MADE,
  why,
  lower: (n, b) => fakeQuant(n, b, b.reshape(n.in(1), []), b.reshape(n.in(2), []), undefined),
});
export const fakeQuantPerChannel = defineTfOp({
  name: "FakeQuantWithMinMaxVarsPerChannel",
  to: MADE,
  why,
  lower: (n, b) => fakeQuant(n, b, n.in(1), n.in(2), b.rank(n.in(0)) - 1),
});

/** The scale that brings the range into the steps with zero staying zero, decided by the side that needs the smaller one. */
function quantizeAndDequantize(n: TfNode, b: TfBuilder, bits: number): Val {
  const signed = n.bool("signed_input", true);
  const narrow = n.bool("narrow_range", false);
  if (bits < 2 || bits > 16) return n.refuse(`it quantizes to ${bits} bits`, "use 2 to 16 bits");
  const own = n.in(0).dtype;
  const x = b.cast(n.in(0), "float32");
  const wanted = n.int("axis", -1);
  const axis = wanted === -1 ? undefined : wanted < 0 ? wanted + b.rank(x) : wanted;
  const least = signed ? -(2 ** (bits - 1)) + (narrow ? 1 : 0) : 0;
  const most = signed ? 2 ** (bits - 1) - 1 : 2 ** bits - 1;
  const given = n.bool("range_given", n.op === "QuantizeAndDequantize" ? false : n.op === "QuantizeAndDequantizeV3");
  const over = (op: "ReduceMin" | "ReduceMax"): Val =>
    axis === undefined
      ? b.op(op, [x], { keepdims: false })
      : b.op(op, [x, b.int64(upTo(b.rank(x)).filter((i) => i !== axis))], { keepdims: false });
  const range = (i: number): Val => (axis === undefined ? b.reshape(b.cast(n.in(i), "float32"), []) : b.cast(n.in(i), "float32"));
  const min = given ? range(1) : over("ReduceMin");
  const max = given ? range(2) : over("ReduceMax");
  // Steps per unit on either side; a side that does not count has none.
  const far = k(b, 3.4028234663852886e38);
  const side = (steps: number, bound: Val): Val => {
    const product = b.mul(bound, k(b, steps));
    const counts = b.op("Greater", [product, k(b, 0)]);
    return b.where(counts, b.div(k(b, steps), b.where(counts, bound, k(b, 1))), far);
  };
  const byMin = b.op("Less", [side(least, min), side(most, max)]);
  const scale = least === 0 ? b.div(max, k(b, most)) : b.where(byMin, b.div(min, k(b, least)), b.div(max, k(b, most)));
  const positive = b.where(b.op("Greater", [scale, k(b, 0)]), scale, k(b, 1));
  const across = (v: Val): Val =>
    axis === undefined
      ? v
      : b.unsqueeze(
          v,
          upTo(b.rank(x) - 1 - axis).map((i) => i + 1),
        );
  const limits = [b.mul(across(positive), k(b, least)), b.mul(across(positive), k(b, most))] as const;
  if (bits > 8) {
    const held = b.op("Min", [b.op("Max", [x, limits[0]]), limits[1]]);
    return b.cast(b.mul(b.op("Round", [b.div(held, across(positive))]), across(positive)), own);
  }
  const zero = b.cast(b.mul(positive, k(b, 0)), signed ? "int8" : "uint8");
  const exact = bits === 8 && !(signed && narrow);
  return b.cast(roundTrip(b, x, positive, zero, axis, exact ? undefined : limits), own);
}
const RANGED = [...MADE, "ReduceMin", "ReduceMax", "Greater", "Less"];
export const quantizeAndDequantizeV2 = defineTfOp({
  names: ["QuantizeAndDequantizeV2", "QuantizeAndDequantizeV4"],
  to: RANGED,
  why,
  lower: (n, b) => quantizeAndDequantize(n, b, n.int("num_bits", 8)),
});
export const quantizeAndDequantizeV3 = defineTfOp({
  name: "QuantizeAndDequantizeV3",
  to: RANGED,
  why,
  lower: (n, b) => quantizeAndDequantize(n, b, b.number(n.in(3), "the number of bits")),
});

// ---- tensors that are stored quantized ----------------------------------------------------------------------------------------------------

/** Of the three modes: MIN_COMBINED spreads the range over all steps (signed ones are counted from the middle), SCALED keeps zero at zero. */
export const dequantize = defineTfOp({
  name: "Dequantize",
  to: ["Cast", "Add", "Sub", "Mul", "Div", "Max"],
  lower: (n, b) => {
    const x = n.in(0);
    const bits = x.dtype.endsWith("16") ? 16 : x.dtype.endsWith("32") ? 32 : 8;
    const signed = !x.dtype.startsWith("u");
    const mode = n.string("mode", "MIN_COMBINED");
    if (n.int("axis", -1) !== -1) return n.refuse("it dequantizes by channel", "dequantize by tensor");
    const scalar = (i: number): Val => b.reshape(b.cast(n.in(i), "float32"), []);
    const [min, max] = [scalar(1), scalar(2)];
    const steps = 2 ** bits - 1;
    const value = b.cast(x, "float32");
    const out = n.type("dtype", "float32");
    if (mode === "SCALED") {
      const most = signed ? 2 ** (bits - 1) - 1 : steps;
      const least = signed ? -(2 ** (bits - 1)) + (n.bool("narrow_range", false) ? 1 : 0) : 0;
      const scale = signed ? b.op("Max", [b.div(min, k(b, least)), b.div(max, k(b, most))]) : b.div(max, k(b, most));
      return b.cast(b.mul(value, scale), out);
    }
    const scale = b.div(b.sub(max, min), k(b, steps));
    const offset = mode === "MIN_FIRST" ? (signed ? 2 ** (bits - 1) : 0) : signed ? (steps + 1) / 2 : 0;
    if (mode !== "MIN_FIRST") return b.cast(b.add(b.mul(b.add(value, k(b, offset)), scale), min), out);
    const first = b.mul(b.op("Round", [b.div(min, scale)]), scale);
    return b.cast(b.add(b.mul(b.add(value, k(b, offset)), scale), first), out);
  },
});
export const quantizedKernels = defineTfOp({
  names: [
    "QuantizeV2",
    "Requantize",
    "RequantizePerChannel",
    "RequantizationRange",
    "RequantizationRangePerChannel",
    "QuantizeDownAndShrinkRange",
    "QuantizedAdd",
    "QuantizedAvgPool",
    "QuantizedBatchNormWithGlobalNormalization",
    "QuantizedBiasAdd",
    "QuantizedConcat",
    "QuantizedConcatV2",
    "QuantizedConv2D",
    "QuantizedConv2DAndRelu",
    "QuantizedConv2DAndReluAndRequantize",
    "QuantizedConv2DAndRequantize",
    "QuantizedConv2DPerChannel",
    "QuantizedConv2DWithBias",
    "QuantizedConv2DWithBiasAndRelu",
    "QuantizedConv2DWithBiasAndReluAndRequantize",
    "QuantizedConv2DWithBiasAndRequantize",
    "QuantizedConv2DWithBiasSumAndRelu",
    "QuantizedDepthwiseConv2D",
    "QuantizedInstanceNorm",
    "QuantizedMatMul",
    "QuantizedMatMulWithBias",
    "QuantizedMaxPool",
    "QuantizedMul",
    "QuantizedRelu",
    "QuantizedRelu6",
    "QuantizedReluX",
    "QuantizedReshape",
    "QuantizedResizeBilinear",
    "UniformQuantize",
    "UniformDequantize",
    "UniformRequantize",
    "UniformQuantizedConvolution",
    "UniformQuantizedDot",
    "UniformQuantizedAdd",
    "UniformQuantizedClipByValue",
  ],
  absent: "it computes in TensorFlow's own quantized format, whose ranges travel beside the tensors",
  fix: "start from the float model, or one with FakeQuant nodes, and let Partita quantize it",
});
