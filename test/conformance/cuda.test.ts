/** Every sample that the CUDA engine takes becomes source that a CUDA compiler accepts. Right values are shown on a GPU (test/gpu/operators.test.ts). */
import { describe, expect, it } from "vitest";
import { compileSource } from "../../src/engines/cuda/compiler.js";
import { lower } from "../../src/engines/cuda/lower.js";
import { h200 } from "../../src/engines/cuda/templates/index.js";
import { compilerMissing, needsCompiler } from "../support/cuda.js";
import { emittedSamples } from "../support/emitted.js";

describe.skipIf(compilerMissing !== undefined)(needsCompiler("emitted sources compile"), () => {
  const samples = emittedSamples();
  it(`covers many operators: ${samples.length} samples`, () => {
    expect(new Set(samples.map((s) => s.title.split(":")[0])).size).toBeGreaterThan(110);
  });
  it.each(["fp32", "fp16"] as const)("%s", async (precision) => {
    const failed: string[] = [];
    for (const s of samples) {
      try {
        for (const { source, kernels } of lower(s.graph, { precision, device: h200 }).plan.sources)
          await compileSource(source, "sm_90a", { name: kernels[0] ?? "kernels", cache: false });
      } catch (error) {
        failed.push(`${s.title}: ${error instanceof Error ? error.message : error}`);
      }
    }
    expect(failed.slice(0, 10)).toEqual([]);
  });
});
