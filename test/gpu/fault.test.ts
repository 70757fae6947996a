/** A fault inside a kernel: told with the driver's words, and no crash. In a process of its own, since the GPU is lost to it. */
import { describe, expect, it } from "vitest";
import { openPlan } from "../../src/engines/cuda/executable.js";
import { Tensor } from "../../src/tensor.js";
import { affinePlan, affineWeights, launchOf } from "../engines/cuda/plans.js";
import { compiled, gpuMissing, needsGpu, openCompiled } from "./gpu.js";

describe.skipIf(gpuMissing !== undefined)(needsGpu("a fault inside a kernel"), () => {
  it("P2105 for the run, for those that wait, and for every other executable; disposal still works", async () => {
    const c = await compiled(affinePlan(64));
    const good = await openPlan(c.plan, c.cubins, affineWeights(64));
    const x = [new Tensor("float32", new Float32Array(64), [64])];
    await good.run(x);
    const bad = await openCompiled(
      affinePlan(64, {
        inputs: [],
        outputs: [],
        buffers: [],
        arenaBytes: 0,
        weightsBytes: 0,
        operations: [launchOf({ kernel: "wild", args: [{ kind: "i32", value: 64 }], nodes: ["/layer1/conv"] })],
        sources: [{ kernels: ["wild"], source: `extern "C" __global__ void wild(int n) { *(volatile int*)(16ull * n) = 1; }` }],
      }),
    );
    const results = await Promise.allSettled([bad.run([]), bad.run([])]);
    for (const r of results)
      expect(String(r.status === "rejected" ? r.reason.message : "resolved")).toMatch(
        /^P2105 running the kernels failed: cu\w+: CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered\. Dispose of the session/,
      );
    await expect(bad.run([])).rejects.toThrow("P2105");
    await expect(good.run(x)).rejects.toThrow("P2105");
    await expect(openPlan(c.plan, c.cubins, affineWeights(64))).rejects.toThrow(/^P210[459] /);
    await bad.dispose();
    await good.dispose();
  });
});
