/** A slice of the fuzz suite (`npm run test:fuzz`) with a fixed seed and the project's own models, so that every run of the tests has it. */
import { expect, test } from "vitest";
import { fuzz, MEMORY_LIMIT, summary } from "../fuzz/harness.js";

test.each([
  ["models", 300],
  ["bundles", 60],
] as const)(
  "mutated %s give coded errors or right results",
  async (kind, count) => {
    const result = await fuzz({ kind, count, seed: 20_260_101, processes: 2 });
    const text = summary(result);
    expect(result.failures, text).toEqual([]);
    expect([...result.counts.values()].reduce((a, b) => a + b, 0)).toBe(count);
    expect(result.hungriest?.peak ?? 0).toBeLessThan(MEMORY_LIMIT);
    expect(result.counts.get("equal") ?? 0).toBeGreaterThan(3);
  },
  120_000,
);
