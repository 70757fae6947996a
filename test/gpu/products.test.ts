/** Every template, on the GPU, over awkward sizes: 1, primes, no multiples of 8; the ways to compute a product each by itself. Against ONNX Runtime. */
import { describe, expect, it } from "vitest";
import { lower, type Problem } from "../../src/engines/cuda/lower.js";
import { attentions, type Case, cachedAttentions, convolutions, matrices, recurrences } from "../support/cuda-cases.js";
import { reference } from "../support/emitted.js";
import { figure, gpuMissing, needsGpu } from "./gpu.js";
import { device, onGpu, type Precision, pooled, tolerance } from "./run.js";

/** For each template that can compute the graph's products, which tactic to pick. */
function ways(c: Case, precision: Precision): ReadonlyMap<string, ReadonlyMap<string, number>> {
  const problems: Problem[] = [];
  lower(c.graph, { precision, device: device(), onProblem: (p) => problems.push(p) });
  const found = new Map<string, Map<string, number>>();
  for (const p of problems)
    p.tactics.forEach((t, i) => {
      // Split sums are a way of their own.
      const name = `${t.template}${"split" in t && t.split > 1 ? ` ${t.reduce}` : ""}`;
      const picks = found.get(name) ?? new Map<string, number>();
      if (!picks.has(p.key)) picks.set(p.key, i);
      found.set(name, picks);
    });
  return found.size === 0 ? new Map([["", new Map()]]) : found;
}

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
          for (const [way, picks] of ways(c, precision)) {
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
