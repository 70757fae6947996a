/** Quantize and dequantize. */

import { no, yes } from "../diagnostics.js";
import { dtypeFromOnnx } from "../ir/dtypes.js";
import type { DType } from "../ir/types.js";
import { all, attribute, gpu, on, when } from "./answers.js";
import { absent, defineOp, dtypeOf, type Fact, flag, int, optional, shapeOf, tensor } from "./define.js";
import { aInt, given, random } from "./samples.js";
import { fact, perOutput } from "./shapes.js";

const QUANTIZED: readonly DType[] = [
  "int8",
  "uint8",
  "int16",
  "uint16",
  "int32",
  "int4",
  "uint4",
  "int2",
  "uint2",
  "float8e4m3fn",
  "float8e4m3fnuz",
  "float8e5m2",
  "float8e5m2fnuz",
  "float4e2m1",
];
/** Symmetric int8: the only quantization that the engines' integer kernels take. */
const symmetric = gpu(
  all(
    when("symmetric int8", (at) => {
      const zero = at.in["zero"] as Fact | undefined;
      if (zero !== undefined && dtypeOf(zero) !== "int8")
        return no(`zero point of type ${dtypeOf(zero)}; engines take symmetric int8`, "quantize symmetrically to int8");
      if (zero?.elements?.some((z) => z !== 0) === true) return no("a zero point other than 0", "quantize symmetrically");
      return yes;
    }),
    attribute("block_size", [0], "use one scale per tensor or per channel"),
  ),
);
/** As arithmetic in float, the CUDA engine takes any zero point; only symmetric int8 runs on integer units. */
const anyZero = gpu(attribute("block_size", [0], "use one scale per tensor or per channel"));
export const quantizeLinear = defineOp({
  name: "QuantizeLinear",
  doc: "round(x / scale) + zero point, half to even, saturated; per tensor, per axis or per block.",
  reads: { onnx: [{ since: 10 }] },
  in: { x: tensor(), scale: tensor(), zero: optional("Q") },
  out: { y: tensor("Q") },
  types: { Q: QUANTIZED },
  attrs: { axis: int(1), block_size: int(0), output_dtype: int(0), precision: int(0), saturate: flag(true) },
  role: "compute",
  infer: (at) => [
    fact(
      at.in.zero !== undefined ? dtypeOf(at.in.zero) : at.attrs.output_dtype !== 0 ? dtypeFromOnnx(at.attrs.output_dtype) : "uint8",
      shapeOf(at.in.x),
    ),
  ],
  cost: perOutput(3),
  int8: absent("it is what int8 is made with"),
  on: { ...symmetric, cuda: anyZero.cuda },
  *samples() {
    yield { name: "int8", in: { x: random("float32", 2, 5), scale: given("float32", [], [0.05]), zero: given("int8", [], [0]) } };
    yield {
      name: "per channel",
      in: { x: random("float32", 2, 3, 2), scale: given("float32", [3], [0.1, 0.02, 0.5]), zero: given("int8", [3], [0, 0, 0]) },
      attrs: { axis: aInt(1) },
    };
    yield {
      name: "uint8 with a zero point",
      in: { x: random("float32", 3, 4), scale: given("float32", [], [0.02]), zero: given("uint8", [], [117]) },
    };
    yield { name: "default uint8", in: { x: random("float32", 4), scale: given("float32", [], [0.1]) } };
  },
});
export const dequantizeLinear = defineOp({
  name: "DequantizeLinear",
  doc: "(x - zero point) * scale; per tensor, per axis or per block.",
  reads: { onnx: [{ since: 10 }] },
  in: { x: tensor("Q"), scale: tensor("S"), zero: optional("Q") },
  out: { y: tensor("S") },
  types: { Q: QUANTIZED, S: ["float32", "float16", "bfloat16"] },
  attrs: { axis: int(1), block_size: int(0), output_dtype: int(0) },
  role: "compute",
  infer: (at) => [fact(at.attrs.output_dtype !== 0 ? dtypeFromOnnx(at.attrs.output_dtype) : dtypeOf(at.in.scale), shapeOf(at.in.x))],
  cost: perOutput(2),
  int8: absent("it is what int8 is read with"),
  on: { ...symmetric, cuda: anyZero.cuda },
  *samples() {
    yield { name: "int8", in: { x: random("int8", 2, 5), scale: given("float32", [], [0.05]), zero: given("int8", [], [0]) } };
    yield {
      name: "per channel",
      in: { x: random("int8", 2, 3, 2), scale: given("float32", [3], [0.1, 0.02, 0.5]) },
      attrs: { axis: aInt(1) },
    };
    yield {
      name: "uint8 with a zero point",
      in: { x: random("uint8", 3, 4), scale: given("float32", [], [0.02]), zero: given("uint8", [], [117]) },
    };
    yield { name: "int32 bias", in: { x: random("int32", 4), scale: given("float32", [], [0.001]) } };
  },
});
export const dynamicQuantizeLinear = defineOp({
  name: "DynamicQuantizeLinear",
  doc: "Quantizes to uint8 with scale and zero point taken from the data.",
  reads: { onnx: [{ since: 11 }] },
  in: { x: tensor("float32") },
  out: { y: tensor("uint8"), scale: tensor("float32"), zero: tensor("uint8") },
  attrs: {},
  role: "compute",
  infer: (at) => [fact("uint8", shapeOf(at.in.x)), fact("float32", []), fact("uint8", [])],
  cost: perOutput(5),
  int8: absent("its scale is only known at run time"),
  on: on(
    undefined,
    absent("TensorRT takes scales that are known when it builds", "calibrate, and quantize statically; or let the cuda engine take it"),
  ),
  *samples() {
    yield { name: "matrix", in: { x: random("float32", 3, 4) }, outs: 3 };
    yield { name: "above zero", in: { x: given("float32", [5], [0.5, 3, 1.25, 2, 0.75]) }, outs: 3 };
    yield { name: "zeros", in: { x: given("float32", [2, 2], [0, 0, 0, 0]) }, outs: 3 };
    yield { name: "large", in: { x: random("float32", 2, 96, 9, 8) }, outs: 3 };
  },
});
