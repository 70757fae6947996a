/** Quantized operators spelled out as quantizers and float operators: the numbers of ONNX Runtime's own kernels, or the neighbouring step. */
import { describe, expect, it } from "vitest";
import { valueAt } from "../../src/ir/graph.js";
import { inferGraph } from "../../src/ops/infer.js";
import { allOps } from "../../src/ops/registry.js";
import { lower } from "../../src/passes/lower.js";
import { fusedQuantizedSpellings, quantizedSpellings } from "../../src/passes/quantized.js";
import type { Tensor, TensorLike } from "../../src/tensor.js";
import { relativeError, runGraph } from "../../src/testing.js";
import { buildSample } from "../support/samples.js";

const spelled = (domain: string | undefined, op: string): boolean =>
  Object.hasOwn(domain === "com.microsoft" ? fusedQuantizedSpellings : quantizedSpellings, op);
const samples = allOps()
  .filter((def) => spelled(def.domain, def.name))
  .flatMap((def) =>
    [...def.samples()].map((sample) => ({ title: `${def.domain ?? ""} ${def.name}, ${sample.name}`, ...buildSample(def, sample, false) })),
  );
/** Types of these have no kernels elsewhere. */
const STAY = /Linear, uint16$/;
/** The largest difference in steps, and how many elements differ. */
function steps(found: readonly Tensor[], wanted: readonly Tensor[]): { most: number; differ: number } {
  let [most, differ] = [0, 0];
  wanted.forEach((w, k) => {
    const [a, b] = [found[k]?.data as ArrayLike<number>, w.data as ArrayLike<number>];
    for (let i = 0; i < b.length; i++) {
      const d = Math.abs((a[i] as number) - (b[i] as number));
      most = Math.max(most, d);
      if (d !== 0) differ++;
    }
  });
  return { most, differ };
}

describe("quantized operators", () => {
  it("every spelling has a sample", () => {
    const names = (domain: string): string[] =>
      allOps().flatMap((d) => ((d.domain ?? "") === domain && spelled(d.domain, d.name) ? [d.name] : []));
    expect(names("").sort()).toEqual(Object.keys(quantizedSpellings).sort());
    expect(names("com.microsoft").sort()).toEqual(Object.keys(fusedQuantizedSpellings).sort());
  });
  it.each(samples)("$title", async ({ title, graph, feeds }) => {
    const before = inferGraph(graph).graph;
    const after = inferGraph(lower(before, (_, n) => !spelled(n.domain, n.op))).graph;
    expect(after.nodes.some((n) => spelled(n.domain, n.op) && n.domain !== "")).toBe(STAY.test(title));
    const inputs = graph.inputs.map((v) => feeds[valueAt(graph, v).name] as TensorLike);
    const [wanted, found] = [await runGraph(before, inputs), await runGraph(after, inputs)];
    expect(found.map((t) => [t.type, t.dims])).toEqual(wanted.map((t) => [t.type, t.dims]));
    if (wanted[0]?.type === "float32") expect(relativeError(found, wanted)).toBeLessThan(1e-6);
    else expect(steps(found, wanted).most).toBeLessThanOrEqual(1);
  });
});
