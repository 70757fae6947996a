/** Convolutions. x is [N, C, spatial...], w is [K, C / group, kernel...] (transposed: [C, K / group, kernel...]). */

import { no, yes } from "../diagnostics.js";
import { add, isStatic, mul, sub, UNKNOWN } from "../ir/dims.js";
import { makeConstant } from "../ir/payload.js";
import type { Dim } from "../ir/types.js";
import { all, FLOATS64, gpu, hostOnly, inParts, integersAreQuantized, on, spatialDims, when } from "./answers.js";
import { type ConvAttrs, convAttributes, convCost, convShape } from "./convolutions.js";
import {
  absent,
  defineOp,
  dtypeOf,
  type Fact,
  int,
  optInts,
  optional,
  type RawNode,
  type Rewriter,
  shapeOf,
  tensor,
  word,
} from "./define.js";
import { aInt, aInts, aText, given, random } from "./samples.js";
import { count, fact, traffic } from "./shapes.js";

export const conv = defineOp({
  name: "Conv",
  doc: "Convolution over any number of spatial dims, with groups, strides, dilations and padding.",
  reads: { onnx: [{ since: 1 }] },
  in: { x: tensor("T"), w: tensor("T"), b: optional("T") },
  out: { y: tensor("T") },
  types: { T: FLOATS64 },
  attrs: convAttributes,
  role: "compute",
  infer: (at) => [fact(dtypeOf(at.in.x), convShape(at, shapeOf(at.in.x), shapeOf(at.in.w)))],
  cost: (at) => convCost(at.in, at.out),
  int8: { axis: 0, accumulate: "i32" },
  on: gpu(spatialDims(1, 3)),
  *samples() {
    yield {
      name: "3x3 padded",
      in: { x: random("float32", 1, 8, 9, 9), w: random("float32", 4, 8, 3, 3), b: random("float32", 4) },
      attrs: { pads: aInts(1, 1, 1, 1), strides: aInts(2, 2) },
    };
    yield {
      name: "depthwise, dilated",
      in: { x: random("float32", 2, 6, 11, 7), w: random("float32", 6, 1, 3, 3) },
      attrs: { group: aInt(6), dilations: aInts(2, 1) },
    };
    yield { name: "1-D, asymmetric", in: { x: random("float32", 1, 3, 13), w: random("float32", 5, 3, 4) }, attrs: { pads: aInts(0, 2) } };
    yield { name: "3-D", in: { x: random("float32", 1, 2, 5, 4, 6), w: random("float32", 3, 2, 2, 2, 3) } };
    yield {
      name: "same lower",
      in: { x: random("float32", 1, 2, 6, 6), w: random("float32", 3, 2, 2, 2) },
      attrs: { auto_pad: aText("SAME_LOWER"), strides: aInts(2, 1) },
    };
    yield { name: "empty batch", in: { x: random("float32", 0, 2, 5, 5), w: random("float32", 3, 2, 3, 3) } };
  },
});

const transposedAttrs = { ...convAttributes, output_padding: optInts(), output_shape: optInts() };
/** y = (x - 1) s + ((k - 1) d + 1) + output_padding - pads; SAME_*: x s, where that many are reached. */
function transposedDim(
  x: Dim,
  i: number,
  n: number,
  k: Dim,
  a: ConvAttrs & { readonly output_padding: readonly number[] | undefined; readonly output_shape: readonly number[] | undefined },
): Dim {
  if (a.output_shape !== undefined) return a.output_shape[a.output_shape.length - n + i] ?? UNKNOWN;
  const [s, d, extra] = [a.strides?.[i] ?? 1, a.dilations?.[i] ?? 1, a.output_padding?.[i] ?? 0];
  const span = add(add(mul(sub(k, 1), d), 1), extra);
  const same = a.auto_pad.startsWith("SAME");
  if (same && (!isStatic(span) || span >= s)) return isStatic(span) ? mul(x, s) : UNKNOWN;
  const pads = same || a.auto_pad === "VALID" ? 0 : (a.pads?.[i] ?? 0) + (a.pads?.[i + n] ?? 0);
  return sub(add(mul(sub(x, 1), s), span), pads);
}
export const convTranspose = defineOp({
  name: "ConvTranspose",
  doc: "Transposed convolution: the gradient of Conv with respect to its input.",
  reads: { onnx: [{ since: 1 }] },
  in: { x: tensor("T"), w: tensor("T"), b: optional("T") },
  out: { y: tensor("T") },
  types: { T: FLOATS64 },
  attrs: transposedAttrs,
  role: "compute",
  infer: (at) => {
    const [x, w] = [shapeOf(at.in.x), shapeOf(at.in.w)];
    if (x === undefined || w === undefined) return [fact(dtypeOf(at.in.x), undefined)];
    const n = x.length - 2;
    const kernel = at.attrs.kernel_shape ?? w.slice(2);
    return [
      fact(dtypeOf(at.in.x), [
        x[0] ?? UNKNOWN,
        mul(w[1] ?? UNKNOWN, at.attrs.group),
        ...x.slice(2).map((d, i) => transposedDim(d, i, n, kernel[i] ?? UNKNOWN, at.attrs)),
      ]),
    ];
  },
  cost: (at) => {
    const w = (shapeOf(at.in.w) ?? []).slice(1).reduce<number>((a, d) => a * (isStatic(d) ? d : 1), 1);
    return { flops: 2 * w * count(at.in.x), bytes: traffic(at.in, at.out) };
  },
  int8: { axis: 1, accumulate: "i32" },
  on: gpu(spatialDims(1, 3)),
  *samples() {
    yield {
      name: "stride 2",
      in: { x: random("float32", 1, 3, 4, 5), w: random("float32", 3, 2, 3, 3), b: random("float32", 2) },
      attrs: { strides: aInts(2, 2), pads: aInts(1, 1, 1, 1), output_padding: aInts(1, 1) },
    };
    yield {
      name: "groups",
      in: { x: random("float32", 2, 4, 5), w: random("float32", 4, 3, 2) },
      attrs: { group: aInt(2), dilations: aInts(2) },
    };
    yield {
      name: "output shape",
      in: { x: random("float32", 1, 1, 3, 3), w: random("float32", 1, 2, 3, 3) },
      attrs: { strides: aInts(3, 2), output_shape: aInts(10, 8) },
    };
  },
});

const isKnown = (f: Fact): boolean => f.constant !== undefined || f.elements?.every((x) => typeof x === "number") === true;
export const convInteger = defineOp({
  name: "ConvInteger",
  doc: "Integer convolution with zero points, accumulated in int32.",
  reads: { onnx: [{ since: 10 }] },
  in: { x: tensor("T1"), w: tensor("T2"), xZero: optional("T1"), wZero: optional("T2") },
  out: { y: tensor("int32") },
  types: { T1: ["int8", "uint8"], T2: ["int8", "uint8"] },
  attrs: convAttributes,
  role: "compute",
  infer: (at) => [fact("int32", convShape(at, shapeOf(at.in.x), shapeOf(at.in.w)))],
  cost: (at) => convCost(at.in, at.out),
  int8: { axis: 0, accumulate: "i32" },
  on: on(
    all(
      spatialDims(1, 3),
      when("constant w, unless both are int8 without zero points", (at) => {
        const [w, zero] = [at.in["w"] as Fact, at.in["wZero"] as Fact | undefined];
        if (isKnown(w) && (zero === undefined || isKnown(zero))) return yes;
        const plain = dtypeOf(at.in["x"] as Fact) === "int8" && dtypeOf(w) === "int8" && zero === undefined && at.in["xZero"] === undefined;
        return plain
          ? yes
          : no("its weights or their zero points are not constants", "make them initializers, or let constant folding compute them");
      }),
    ),
    integersAreQuantized,
  ),
  *samples() {
    yield { name: "uint8", in: { x: random("uint8", 1, 1, 3, 3), w: random("uint8", 1, 1, 2, 2), xZero: given("uint8", [], [1]) } };
    const weights = (...dims: readonly number[]) =>
      ({
        dtype: "uint8",
        dims,
        fill: Array.from({ length: dims.reduce((a, d) => a * d, 1) }, (_, i) => (i * 89) % 256),
        constant: true,
      }) as const;
    const one = (dtype: "uint8", x: number) => ({ dtype, dims: [], fill: [x], constant: true }) as const;
    yield {
      name: "weights with a zero point, padded",
      in: { x: random("uint8", 2, 16, 6, 5), w: weights(8, 16, 3, 3), xZero: given("uint8", [], [5]), wZero: one("uint8", 117) },
      attrs: { pads: aInts(1, 0, 1, 2), strides: aInts(2, 1) },
    };
    yield {
      name: "groups",
      in: { x: random("uint8", 1, 32, 5, 5), w: weights(32, 16, 3, 3), xZero: given("uint8", [], [9]), wZero: one("uint8", 100) },
      attrs: { group: aInt(2), auto_pad: aText("SAME_UPPER") },
    };
    yield {
      name: "depthwise",
      in: { x: random("uint8", 1, 8, 7, 7), w: weights(8, 1, 3, 3), xZero: given("uint8", [], [3]), wZero: one("uint8", 130) },
      attrs: { group: aInt(8), pads: aInts(1, 1, 1, 1) },
    };
  },
});
export const qLinearConv = defineOp({
  name: "QLinearConv",
  doc: "Quantized convolution: int8 or uint8 operands with scales and zero points, int32 bias, requantized output.",
  reads: { onnx: [{ since: 10 }] },
  in: {
    x: tensor("T1"),
    xScale: tensor(),
    xZero: tensor("T1"),
    w: tensor("T2"),
    wScale: tensor(),
    wZero: tensor("T2"),
    yScale: tensor(),
    yZero: tensor("T3"),
    b: optional("int32"),
  },
  out: { y: tensor("T3") },
  types: { T1: ["int8", "uint8"], T2: ["int8", "uint8"], T3: ["int8", "uint8"] },
  attrs: convAttributes,
  role: "compute",
  infer: (at) => [fact(dtypeOf(at.in.yZero), convShape(at, shapeOf(at.in.x), shapeOf(at.in.w)))],
  cost: (at) => convCost(at.in, at.out),
  int8: { axis: 0, accumulate: "i32" },
  on: inParts,
  *samples() {
    const s = (x: number) => given("float32", [], [x]);
    const z = (x: number) => given("uint8", [], [x]);
    yield {
      name: "uint8",
      in: {
        x: random("uint8", 1, 2, 4, 4),
        xScale: s(0.1),
        xZero: z(3),
        w: given("uint8", [1, 2, 1, 1], [2, 5]),
        wScale: s(0.2),
        wZero: z(1),
        yScale: s(0.5),
        yZero: z(2),
      },
    };
  },
});
export const deformConv = defineOp({
  name: "DeformConv",
  doc: "Convolution whose samples are moved by learned offsets.",
  reads: { onnx: [{ since: 19 }] },
  in: { x: tensor("T"), w: tensor("T"), offset: tensor("T"), b: optional("T"), mask: optional("T") },
  out: { y: tensor("T") },
  types: { T: FLOATS64 },
  attrs: { dilations: optInts(), group: int(1), kernel_shape: optInts(), offset_group: int(1), pads: optInts(), strides: optInts() },
  role: "compute",
  infer: (at) => [
    fact(dtypeOf(at.in.x), convShape({ attrs: { ...at.attrs, auto_pad: "NOTSET" }, fail: at.fail }, shapeOf(at.in.x), shapeOf(at.in.w))),
  ],
  cost: (at) => convCost(at.in, at.out),
  int8: absent("its bilinear samples need float"),
  on: hostOnly("deformable sampling has no kernel"),
  *samples() {
    yield {
      name: "offsets",
      in: { x: random("float32", 1, 1, 3, 3), w: random("float32", 1, 1, 2, 2), offset: random("float32", 1, 8, 2, 2) },
    };
  },
});

/** The padding in front, the depthwise convolution, the activation and the last inputs, one by one. */
function causal(n: RawNode, to: Rewriter): void {
  const [x, w, b, past] = n.ins;
  const [y, state] = n.outs;
  const [input, weight] = [to.typeOf(x), to.typeOf(w)];
  const channels = weight.kind === "tensor" ? weight.shape?.[0] : undefined;
  const kernel = weight.kind === "tensor" ? weight.shape?.[2] : undefined;
  const batch = input.kind === "tensor" ? input.shape?.[0] : undefined;
  const dtype = input.kind === "tensor" ? input.dtype : undefined;
  const activation = n.attrs["activation"];
  const silu = activation?.kind === "string" && (activation.value === "silu" || activation.value === "swish");
  const known = typeof channels === "number" && typeof kernel === "number" && typeof batch === "number";
  const padded = known && kernel >= 1 ? batch * channels * (kernel - 1) : Number.NaN;
  // Zeros in front are written out where nothing is handed over from before.
  if (!known || !(padded <= 2 ** 22) || (dtype !== "float32" && dtype !== "float64" && dtype !== "float16")) {
    to.keep();
    return;
  }
  const before = past ?? to.constant(makeConstant(dtype, [batch, channels, kernel - 1], new Array<number>(padded).fill(0)));
  const [whole] = to.emit("Concat", [before, x], { axis: { kind: "int", value: 2 } });
  const result = to.emit("Conv", b === undefined ? [whole, w] : [whole, w, b], { group: { kind: "int", value: channels } }, silu ? 1 : [y]);
  if (silu) to.emit("Mul", [result[0], to.emit("Sigmoid", [result[0]])[0]], {}, [y]);
  if (state === undefined) return;
  const [from, end, axis] = [to.int64([-(kernel - 1)]), to.int64([Number.MAX_SAFE_INTEGER]), to.int64([2])];
  // A kernel of one keeps nothing, and a slice from -0 would keep all.
  to.emit("Slice", kernel === 1 ? [whole, to.int64([0]), to.int64([0]), axis] : [whole, from, end, axis], {}, [state]);
}
export const causalConvWithState = defineOp({
  name: "CausalConvWithState",
  doc: "Depthwise convolution along the last dim of x [N, C, length] that sees the past alone; the last kernel - 1 inputs are its state.",
  reads: { onnx: [{ since: 27, adapt: causal }] },
  in: { x: tensor("T"), w: tensor("T"), b: optional("T"), past: optional("T") },
  out: { y: tensor("T"), state: optional("T") },
  types: { T: FLOATS64 },
  attrs: { activation: word("none", "none", "silu", "swish") },
  role: "compute",
  infer: (at) => {
    const [x, w] = [shapeOf(at.in.x), shapeOf(at.in.w)];
    const state = x === undefined || w === undefined ? undefined : [x[0] ?? UNKNOWN, x[1] ?? UNKNOWN, sub(w[2] ?? UNKNOWN, 1)];
    return [fact(dtypeOf(at.in.x), x), fact(dtypeOf(at.in.x), state)];
  },
  cost: (at) => convCost(at.in, at.out),
  int8: { axis: 0, accumulate: "i32" },
  on: {
    ...hostOnly("it is read as Concat and Conv where its dims are known", "fix the dims of its operands"),
    host: absent("ONNX Runtime 1.30 stops at opset 26", "fix the dims of its operands: it is then read as Concat and Conv"),
  },
  *samples() {
    const [x, w] = [random("float32", 2, 4, 8), random("float32", 4, 1, 3)];
    yield { name: "plain", in: { x, w }, outs: 2 };
    yield {
      name: "state, bias, SiLU",
      in: { x, w, b: random("float32", 4), past: random("float32", 2, 4, 2) },
      attrs: { activation: aText("silu") },
      outs: 2,
    };
    yield { name: "kernel of one", in: { x, w: random("float32", 4, 1, 1) }, outs: 2 };
  },
});
