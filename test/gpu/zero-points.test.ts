/** Integer products with zero points and dynamic quantization on the GPU: the bits that ONNX Runtime's own kernels give. */
import { describe, expect, it } from "vitest";
import { runGraph } from "../../src/testing.js";
import { graphsOf, zeroPointCases } from "../support/zero-points.js";
import { figure, gpuMissing, needsGpu } from "./gpu.js";
import { onGpu } from "./run.js";

describe.skipIf(gpuMissing !== undefined)(needsGpu("zero points on the GPU"), () => {
  it.each(zeroPointCases)("$title", async (c) => {
    const { title, inputs } = c;
    const { before, spelled } = graphsOf(c);
    const expected = await runGraph(before, inputs);
    // Integers are exact; what is real behind them may be rounded once less.
    const exact = expected.every((t) => t.type !== "float32");
    const { wrong, relative, templates } = await onGpu(spelled, inputs, expected, exact ? "int8" : "fp32");
    figure(title, { relative, templates: templates.join(" ") });
    expect(wrong).toBeUndefined();
  });
});
