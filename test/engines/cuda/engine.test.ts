/** The engine's artifacts over the stand-in driver: kernels for another GPU are compiled again and said so, or refused with what would help. */
import { describe, expect, it } from "vitest";
import type { Remark } from "../../../src/diagnostics.js";
import { cudaEngine } from "../../../src/engines/cuda/index.js";
import type { KernelPlan } from "../../../src/engines/cuda/plan.js";
import type { Artifact } from "../../../src/engines/engine.js";
import { Tensor } from "../../../src/tensor.js";
import { compilerMissing, needsCompiler } from "../../support/cuda.js";
import { craftCubin, useFakeDriver } from "../../support/fake-cuda.js";
import { affinePlan, affineWeights, launchOf } from "./plans.js";

const missing = useFakeDriver({ memory: 64 << 20, sm: 80 });
const N = 100;
const text = (value: unknown): Uint8Array => new TextEncoder().encode(typeof value === "string" ? value : JSON.stringify(value));
function artifact(plan: KernelPlan, change: Readonly<Record<string, Uint8Array | undefined>> = {}): Artifact {
  const files: Record<string, Uint8Array | undefined> = {
    "plan.json": text({ ...plan, sources: plan.sources.map((s) => s.kernels) }),
    ...Object.fromEntries(plan.sources.map((s, i) => [`unit_${i}.cu`, text(s.source)])),
    ...Object.fromEntries(plan.sources.map((_, i) => [`unit_${i}.${plan.arch}.cubin`, craftCubin()])),
    "weights.bin": affineWeights(N),
    ...change,
  };
  return {
    engine: "cuda",
    key: "0".repeat(64),
    inputs: ["x"],
    outputs: ["y"],
    settings: { precision: "fp32", sm: "90", shapes: "fixed" },
    files: Object.entries(files).flatMap(([name, bytes]) => (bytes === undefined ? [] : [{ name, bytes }])),
  };
}
const foreign = (change: Partial<KernelPlan> = {}): KernelPlan => affinePlan(N, { arch: "sm_90a", ...change });
const context = { streams: 1, threads: 1 };
const input = new Tensor(
  "float32",
  Float32Array.from({ length: N }, (_, i) => i),
  [N],
);

describe.skipIf(missing !== undefined)(
  `artifacts on a stand-in GPU of sm_80${missing === undefined ? "" : ` (skipped: ${missing})`}`,
  () => {
    it.skipIf(compilerMissing !== undefined)(needsCompiler("for another architecture: compiled again, and said so"), async () => {
      const remarks: Remark[] = [];
      const e = await cudaEngine.open(artifact(foreign()), { ...context, onRemark: (r) => remarks.push(r) });
      const [y] = await e.run([input]);
      expect(Array.from((y as Tensor).data as Float32Array).slice(0, 3)).toEqual([0, 4, 8]);
      await e.dispose();
      expect(remarks.map((r) => r.text)).toEqual([
        "kernels of y were compiled for sm_90a; this GPU is sm_80, for which they were compiled again",
      ]);
    });

    const clusters = launchOf({ kernel: "add", cluster: [2, 1, 1], grid: [2, 1, 1], args: [] });
    it.each<[string, Partial<KernelPlan>]>([
      ["clusters", { operations: [clusters] }],
      ["warpgroup products", { sources: [{ kernels: ["add", "scale"], source: "// wgmma.mma_async" }] }],
    ])("P2110 for kernels with %s, which this GPU has not", async (_, change) => {
      await expect(cudaEngine.open(artifact(foreign(change)), context)).rejects.toMatchObject({
        code: "P2110",
        message: expect.stringContaining("Compile the model for sm_80 (computeCapability)"),
      });
    });

    it("P2109 for a damaged cubin, P2115 for a missing file, P2108 for a plan that is not sound", async () => {
      const own = affinePlan(N, { arch: "sm_80" });
      await expect(cudaEngine.open(artifact(own, { "unit_0.sm_80.cubin": craftCubin().subarray(0, 200) }), context)).rejects.toMatchObject({
        code: "P2109",
      });
      await expect(cudaEngine.open(artifact(own, { "weights.bin": undefined }), context)).rejects.toMatchObject({ code: "P2115" });
      await expect(cudaEngine.open(artifact(own, { "unit_0.cu": undefined }), context)).rejects.toMatchObject({ code: "P2115" });
      await expect(cudaEngine.open(artifact({ ...own, arenaBytes: -1 }), context)).rejects.toMatchObject({ code: "P2108" });
    });
  },
);
