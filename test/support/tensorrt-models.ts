/** Small models for TensorRT: what the stand-in computes, a real library builds too. */
import type { ProfileRange } from "../../src/engines/tensorrt/native.js";
import { FLOAT, INT64, info, model, rawData, tensor } from "./onnx-model.js";

const floats = (values: readonly number[]): Uint8Array => new Uint8Array(Float32Array.from(values).buffer);

export const WEIGHT = [1, -2, 0.5, 0, 1, 1, -1, 3, 2];
export const BIAS = [0.25, -0.5, 1];
interface LayerOptions {
  /** Name of the middle node: the stand-in does what names beginning with "fake:" say. */
  readonly name?: string;
  readonly op?: string;
  readonly weight?: readonly number[];
  readonly rows?: number | string;
}
/** y = relu(x W + b), x of [N, 3]. */
export const layer = ({ name = "bias", op = "Add", weight = WEIGHT, rows = "N" }: LayerOptions = {}): Uint8Array =>
  model({
    nodes: [
      { op: "MatMul", name: "product", ins: ["x", "w"], outs: ["p"] },
      { op, name, ins: ["p", "b"], outs: ["s"] },
      { op: "Relu", name: "relu", ins: ["s"], outs: ["y"] },
    ],
    inputs: [info("x", [rows, 3])],
    outputs: [info("y", [rows, 3])],
    initializers: [tensor("w", [3, 3], FLOAT, rawData(floats(weight))), tensor("b", [3], FLOAT, rawData(floats(BIAS)))],
  });
export function layerValues(x: Float32Array, weight: readonly number[] = WEIGHT): Float32Array {
  const out = new Float32Array(x.length);
  for (let i = 0; i < x.length; i++) {
    const row = i - (i % 3);
    let sum = 0;
    for (let k = 0; k < 3; k++) sum += (x[row + k] ?? 0) * (weight[k * 3 + (i % 3)] ?? 0);
    out[i] = Math.max(sum + (BIAS[i % 3] ?? 0), 0);
  }
  return out;
}
/** y = reshape(x, s): s is a shape tensor. */
export const reshape = (): Uint8Array =>
  model({
    nodes: [{ op: "Reshape", name: "reshape", ins: ["x", "s"], outs: ["y"] }],
    inputs: [info("x", ["N", 6]), info("s", [2], INT64)],
    outputs: [info("y", ["A", "B"])],
  });
export const batch = (min: number, opt: number, max: number, name = "x"): ProfileRange => ({
  name,
  min: [min, 3],
  opt: [opt, 3],
  max: [max, 3],
});
