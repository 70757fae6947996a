/** The INT8 cases that the GPU suite holds kernels to are what ONNX Runtime computes in float, give or take a step, and reach every template for integers. */
import { describe, expect, it } from "vitest";
import { lower } from "../../../src/engines/cuda/lower.js";
import { h200 } from "../../../src/engines/cuda/templates/index.js";
import type { Tensor } from "../../../src/tensor.js";
import { reference } from "../../support/emitted.js";
import { integerCases } from "../../support/integer-cases.js";
import { templateOf } from "../../support/ledger.js";

describe("INT8 cases", () => {
  const cases = integerCases();
  it.each(cases.map((c) => [c.title, c] as const))("%s", async (_, c) => {
    const found = (await reference(c)) as readonly Tensor[];
    for (const [i, expected] of c.expected.entries()) {
      const steps = found[i]?.data as Int8Array;
      const apart = Array.from(expected.data as Int8Array, (v, at) => Math.abs(v - (steps[at] as number)));
      expect(Math.max(...apart)).toBeLessThanOrEqual(1);
      // Float rounding decides the few that lie next to a half.
      expect(apart.filter((d) => d > 0).length).toBeLessThanOrEqual(apart.length / 1000);
      expect(new Set(expected.data as Int8Array).size).toBeGreaterThan(30);
    }
  });
  it("reach every template", () => {
    const found = new Set<string>();
    for (const c of cases) {
      const onProblem = (p: { readonly tactics: readonly { readonly template: string }[] }) =>
        p.tactics.forEach((t) => found.add(t.template));
      for (const s of lower(c.graph, { precision: "int8", device: h200, onProblem }).plan.sources) found.add(templateOf(s.source));
    }
    expect([...found].sort()).toEqual(["depthwise", "loops", "mma", "pooled", "wgmma"]);
  });
});
