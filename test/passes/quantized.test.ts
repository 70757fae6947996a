/** Quantized operators spelled out as quantizers and float operators: the numbers of ONNX Runtime's own kernels, or the neighbouring step. */
import { describe, expect, it } from "vitest";
import { keeps } from "../../src/engines/host/keeps.js";
import { valueAt } from "../../src/ir/graph.js";
import { parse } from "../../src/ir/parse.js";
import type { Graph, Node } from "../../src/ir/types.js";
import type { EngineName } from "../../src/ops/define.js";
import { inferGraph } from "../../src/ops/infer.js";
import { allOps } from "../../src/ops/registry.js";
import { lower } from "../../src/passes/lower.js";
import { fusedQuantizedSpellings, quantizedSpellings, staysQuantized } from "../../src/passes/quantized.js";
import { carriesQuantizers } from "../../src/quantize/place.js";
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

describe("quantized operators without the cuda engine", () => {
  const sum = (zero: string, type: string): Graph =>
    inferGraph(
      parse(`graph "g" opset {"": 18, "com.microsoft": 1} (%a: ${type}[2, 3], %b: ${type}[3]) -> (%y) {
      const %s = float32[] [0.05]
      const %z = ${type}[] [${zero}]
      %y: ${type}[2, 3] = "com.microsoft"."QLinearAdd"(%a, %s, %z, %b, %s, %z, %s, %z)
    }`),
    ).graph;
  const kept = (g: Graph, ...engines: EngineName[]): boolean => staysQuantized(engines)(g, g.nodes[0] as Node, inferGraph(g).facts);
  it("stay whole unless their zero points are 0, of int8: the parts would be torn between TensorRT and the host", () => {
    expect(kept(sum("0", "int8"), "tensorrt")).toBe(false);
    expect(kept(sum("3", "int8"), "tensorrt")).toBe(true);
    expect(kept(sum("128", "uint8"), "tensorrt")).toBe(true);
    expect(kept(sum("128", "uint8"), "tensorrt", "cuda")).toBe(false);
  });
  it("count as quantizers: int8 needs no calibration", () => {
    expect(carriesQuantizers(sum("3", "int8"))).toBe(true);
  });
  it("stay whole on the host, and where dims are not known", () => {
    const g = sum("128", "uint8");
    expect(lower(g, keeps)).toBe(g);
    const open = parse(`graph "g" opset {"": 18, "com.microsoft": 1} (%a: uint8[?, 3], %b: uint8[3]) -> (%y) {
      const %s = float32[] [0.05]
      const %z = uint8[] [7]
      %y: uint8[?, 3] = "com.microsoft"."QLinearAdd"(%a, %s, %z, %b, %s, %z, %s, %z)
    }`);
    expect(lower(inferGraph(open).graph, () => false).nodes.map((n) => n.op)).toEqual(["QLinearAdd"]);
  });
});
