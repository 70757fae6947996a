/** Zero points and dynamic quantization, spelled out for the matrix units: the same bits as ONNX Runtime's own kernels, and kernels for all of it. */
import { describe, expect, it } from "vitest";
import { cudaRefusals } from "../../../src/engines/cuda/index.js";
import { spellIntegers } from "../../../src/engines/cuda/integers.js";
import { lower } from "../../../src/engines/cuda/lower.js";
import { integerRegions } from "../../../src/engines/cuda/quantized.js";
import { h200 } from "../../../src/engines/cuda/templates/index.js";
import { runGraph } from "../../../src/testing.js";
import { graphsOf, zeroPointCases } from "../../support/zero-points.js";

const plain = (op: string): boolean => op !== "DynamicQuantizeLinear";

describe("integers with zero points", () => {
  it.each(zeroPointCases)("$title", async (c) => {
    const { before, spelled } = graphsOf(c);
    const { graph: after } = spellIntegers(integerRegions(spelled));
    for (const n of after.nodes) {
      expect(plain(n.op)).toBe(true);
      if (n.op === "MatMulInteger" || n.op === "ConvInteger") expect(n.ins).toHaveLength(2);
    }
    expect(cudaRefusals(spelled, "fp32", 90).size).toBe(0);
    const [wanted, found] = [await runGraph(before, c.inputs), await runGraph(after, c.inputs)];
    for (const [i, w] of wanted.entries()) {
      expect(found[i]?.type).toBe(w.type);
      expect(found[i]?.dims).toEqual(w.dims);
      expect(found[i]?.data).toEqual(w.data);
    }
    const { plan } = lower(spelled, { precision: "fp32", device: h200 });
    expect(plan.operations.length).toBeGreaterThan(0);
  });
});
