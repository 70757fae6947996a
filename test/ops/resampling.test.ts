/** Operators that change spatial dims, where ONNX Runtime decides what the specification leaves open. */
import { expect, it } from "vitest";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { importOnnx } from "../../src/import/onnx/index.js";
import { typeAt } from "../../src/ir/graph.js";
import { parse } from "../../src/ir/parse.js";
import type { ValueId } from "../../src/ir/types.js";
import { inferGraph } from "../../src/ops/infer.js";
import { Tensor } from "../../src/tensor.js";
import { referenceOf } from "../fuzz/reference.js";
import { FLOAT, info, model, rawData, tensor } from "../support/onnx-model.js";

const counted = (...dims: number[]): Tensor => {
  const n = dims.reduce((a, d) => a * d, 1);
  return new Tensor(
    "float32",
    Float32Array.from({ length: n }, (_, i) => i),
    dims,
  );
};

it.each([
  ["shrinks", [1, 1, 0.6, 0.3]],
  ["shrinks one dim and stretches another", [1, 1, 0.6, 1.5]],
  ["stretches", [1, 1, 2.4, 1.5]],
])("reads what Resize of opset 10 takes where it %s", async (_, factors) => {
  const x = { x: counted(1, 2, 7, 9) };
  const bytes = model({
    nodes: [{ op: "Resize", ins: ["x", "s"], outs: ["y"] }],
    inputs: [info("x", [1, 2, 7, 9])],
    outputs: [info("y")],
    initializers: [tensor("s", [4], FLOAT, rawData(new Uint8Array(Float32Array.from(factors).buffer)))],
    opsets: { "": 10 },
  });
  const [theirs, ours] = [
    await referenceOf(bytes, "", x, true, "disabled"),
    await referenceOf(encodeOnnx(importOnnx(bytes)), "", x, true, "disabled"),
  ];
  expect(ours).toEqual(theirs);
  expect(ours).toHaveProperty("results");
});

it.each([
  ["", 2, 1],
  ["", 3, 1],
  ["output_padding = [1], ", 2, 1],
  ["", 2, 2],
  ["", 1, 1],
])("ConvTranspose {%sstrides = [3]} of %d taps, dilated by %d, has the dims of ONNX Runtime under SAME_*", async (more, taps, dilation) => {
  for (const side of ["UPPER", "LOWER"]) {
    const { graph } = inferGraph(
      parse(`graph "g" opset {"": 18} (%x: float32[1, 1, 5], %w: float32[1, 1, ${taps}]) -> (%y) {
        %y = ConvTranspose(%x, %w) {${more}strides = [3], dilations = [${dilation}], auto_pad = "SAME_${side}"}
      }`),
    );
    const found = await referenceOf(encodeOnnx(graph), "", { x: counted(1, 1, 5), w: counted(1, 1, taps) }, true, "disabled");
    if ("error" in found) throw new Error(found.error);
    expect(typeAt(graph, graph.outputs[0] as ValueId)).toMatchObject({ shape: found.results["y"]?.dims });
  }
});
