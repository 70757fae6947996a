/** A machine whose GPUs are hidden from this process: what asks for the GPU says so, what does not runs on the host. In a process of its own. */
import { describe, expect, it } from "vitest";
import { gpuVerdict } from "../../src/engines/cuda/device.js";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { compile } from "../../src/index.js";
import { parse } from "../../src/ir/parse.js";
import { Tensor } from "../../src/tensor.js";

// The driver reads it once, when it is opened.
process.env["CUDA_VISIBLE_DEVICES"] = "-1";
const verdict = gpuVerdict();
const driver = !verdict.ok && verdict.why.includes("CUDA_ERROR_NO_DEVICE");
const graph = parse(`graph "g" opset {"": 20} (%x: float32[4]) -> (%y) {
  %a: float32[4] = Exp(%x) @"exp"
  %y: float32[4] = Neg(%a) @"neg"
}`);
const feeds = { x: new Tensor("float32", Float32Array.of(0, 1, 2, 3), [4]) };

describe.skipIf(!driver)(driver ? "GPUs that are hidden" : "GPUs that are hidden (skipped: no driver)", () => {
  it("P2103 where the GPU was asked for", async () => {
    const program = await compile(encodeOnnx(graph), { target: "cuda", minimumSegmentSize: 1, computeCapability: 9 });
    await expect(program.createSession()).rejects.toThrow(
      /^P2103 there is no usable NVIDIA GPU: cuInit: CUDA_ERROR_NO_DEVICE.*\. Check CUDA_VISIBLE_DEVICES and nvidia-smi\./,
    );
  });
  it("the host where anything would do, with the reason in the report", async () => {
    const program = await compile(encodeOnnx(graph), { target: "auto" });
    expect(program.report.data.segments.map((s) => s.engine)).toEqual(["host"]);
    expect((program.report.data.remarks ?? []).map((r) => r.text).join("\n")).toContain("CUDA_ERROR_NO_DEVICE");
    await using session = await program.createSession();
    expect(Math.abs(Number((await session.run(feeds))["y"]?.data[0]) + 1)).toBeLessThan(1e-6);
  });
});
