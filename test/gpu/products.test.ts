/** Every template, on the GPU, over awkward sizes: 1, primes, no multiples of 8; the ways to compute a product each by itself. Against ONNX Runtime. */
import { describe, expect, it } from "vitest";
import { attentions, cachedAttentions, convolutions, matrices, recurrences } from "../support/cuda-cases.js";
import { reference } from "../support/emitted.js";
import { figure, gpuMissing, needsGpu } from "./gpu.js";
import { onGpu, type Precision, pooled, tolerance, ways } from "./run.js";

describe.skipIf(gpuMissing !== undefined)(needsGpu("templates on the GPU"), () => {
  const families = { matrices, convolutions, attentions, cachedAttentions, recurrences };
  describe.each(Object.entries(families))("%s", (family, make) => {
    it.each(Object.keys(tolerance) as Precision[])("%s", async (precision) => {
      const wrong: string[] = [];
      const seen = new Map<string, number>();
      let largest = 0;
      await pooled(make(), 8, async (c) => {
        try {
          const expected = await reference(c);
          if (expected === undefined) throw new Error("ONNX Runtime does not run it");
          for (const [way, picks] of ways(c.graph, precision)) {
            const result = await onGpu(c.graph, c.inputs, expected, precision, { picks });
            for (const t of result.templates) seen.set(t, (seen.get(t) ?? 0) + 1);
            if (result.wrong !== undefined) wrong.push(`${c.title} by ${way}: ${result.wrong}`);
            else largest = Math.max(largest, result.relative);
          }
        } catch (error) {
          wrong.push(`${c.title}: ${error instanceof Error ? error.message.slice(0, 600) : error}`);
        }
      });
      figure(`${family}, ${precision}`, { ...Object.fromEntries(seen), wrong: wrong.length, largestRelativeError: largest });
      expect(wrong).toEqual([]);
    });
  });
});
