/** Quantized layers and blocks on the GPU, the ways to compute their products each by itself: every bit as the reference arithmetic gives it. */
import { describe, expect, it } from "vitest";
import { integerCases } from "../support/integer-cases.js";
import { figure, gpuMissing, needsGpu } from "./gpu.js";
import { onGpu, ways } from "./run.js";

describe.skipIf(gpuMissing !== undefined)(needsGpu("int8 on the GPU"), () => {
  it.each(integerCases().map((c) => [c.title, c] as const))("%s", async (title, c) => {
    const [wrong, seen] = [[] as string[], new Set<string>()];
    for (const [way, picks] of ways(c.graph, "int8")) {
      const result = await onGpu(c.graph, c.inputs, c.expected, "int8", { picks });
      for (const t of result.templates) seen.add(t);
      if (result.wrong !== undefined) wrong.push(`by ${way}: ${result.wrong}`);
    }
    figure(`integers, ${title}`, { templates: [...seen].sort().join(" ") });
    expect(wrong).toEqual([]);
  });
});
