/** Every sample that the CUDA engine takes, on the GPU, against ONNX Runtime. */
import { describe, expect, it } from "vitest";
import { cudaEngine } from "../../src/engines/cuda/index.js";
import { compareTensors } from "../support/compare.js";
import { emittedSamples, reference } from "../support/emitted.js";
import { figure, gpuMissing, needsGpu } from "./gpu.js";

/** Allowed error as a share of the largest value: rounding of the arithmetic, times what a few operations add up. */
const tolerance = { fp32: 1e-5, tf32: 2e-3, fp16: 2e-3, bf16: 1.6e-2 } as const;

describe.skipIf(gpuMissing !== undefined)(needsGpu("operators on the GPU"), () => {
  const samples = gpuMissing === undefined ? emittedSamples() : [];
  it.each(Object.entries(tolerance))("%s within %d", async (precision, rtolOfMax) => {
    const wrong: string[] = [];
    let [compared, largest] = [0, 0];
    for (const s of samples) {
      const expected = await reference(s);
      if (expected === undefined) continue;
      const target = { sm: 90, tensorrt: 0, precision: precision as keyof typeof tolerance };
      const executable = await cudaEngine.open(await cudaEngine.build(s.graph, { target }), { streams: 1, threads: 1 });
      const found = await executable.run(s.inputs);
      await executable.dispose();
      compared++;
      for (const [i, e] of expected.entries()) {
        const result = compareTensors(found[i] as never, e, { rtolOfMax });
        if (!result.ok) wrong.push(`${s.title}: ${result.message}`);
        else largest = Math.max(largest, result.relative);
      }
    }
    figure(`operator samples, ${precision}`, { compared, wrong: wrong.length, largestRelativeError: largest });
    expect(wrong).toEqual([]);
  });
});
