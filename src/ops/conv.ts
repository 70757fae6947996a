/** Convolutions. x is [N, C, spatial...], w is [K, C / group, kernel...] (transposed: [C, K / group, kernel...]). */

import { no, type Verdict, yes } from "../diagnostics.js";
import { add, isStatic, mul, sub, UNKNOWN } from "../ir/dims.js";
import type { Dim } from "../ir/types.js";
import { FLOATS64, gpu, hostOnly } from "./answers.js";
import { type ConvAttrs, convAttributes, convCost, convShape } from "./convolutions.js";
import { absent, defineOp, dtypeOf, type Fact, int, optInts, optional, shapeOf, tensor } from "./define.js";
import { aInt, aInts, aText, given, random } from "./samples.js";
import { count, fact, traffic } from "./shapes.js";

const spatialLimit = (at: { readonly in: { readonly x?: Fact } }): Verdict => {
  const rank = shapeOf(at.in.x)?.length ?? 4;
  return rank >= 3 && rank <= 5
    ? yes
    : no(`a convolution over ${rank - 2} spatial dims has no kernel`, "reshape to one, two or three spatial dims");
};

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
  on: gpu(spatialLimit),
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
/** y = (x - 1) s + ((k - 1) d + 1) + output_padding - pads; SAME_*: x s. */
function transposedDim(
  x: Dim,
  i: number,
  n: number,
  k: Dim,
  a: ConvAttrs & { readonly output_padding: readonly number[] | undefined; readonly output_shape: readonly number[] | undefined },
): Dim {
  if (a.output_shape !== undefined) return a.output_shape[a.output_shape.length - n + i] ?? UNKNOWN;
  const [s, d, extra] = [a.strides?.[i] ?? 1, a.dilations?.[i] ?? 1, a.output_padding?.[i] ?? 0];
  if (a.auto_pad.startsWith("SAME")) return mul(x, s);
  const pads = a.auto_pad === "VALID" ? 0 : (a.pads?.[i] ?? 0) + (a.pads?.[i + n] ?? 0);
  return sub(add(add(mul(sub(x, 1), s), add(mul(sub(k, 1), d), 1)), extra), pads);
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
  on: gpu(spatialLimit),
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
  on: hostOnly("integer convolutions are written with QuantizeLinear and DequantizeLinear for engines", "quantize with Q/DQ instead"),
  *samples() {
    yield { name: "uint8", in: { x: random("uint8", 1, 1, 3, 3), w: random("uint8", 1, 1, 2, 2), xZero: given("uint8", [], [1]) } };
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
  on: hostOnly("it carries zero points; engines take symmetric Q/DQ", "export the model with QuantizeLinear and DequantizeLinear"),
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
