/** What ONNX Runtime fused, spelled out: the same numbers from its own kernels for the fused node and for its parts. */
import { describe, expect, it } from "vitest";
import { valueAt } from "../../src/ir/graph.js";
import { parse } from "../../src/ir/parse.js";
import { inferGraph } from "../../src/ops/infer.js";
import { allOps } from "../../src/ops/registry.js";
import { fusedSpellings } from "../../src/passes/fused.js";
import { keepAll, lower } from "../../src/passes/lower.js";
import { Tensor, type TensorLike } from "../../src/tensor.js";
import { relativeError, runGraph } from "../../src/testing.js";
import { buildSample } from "../support/samples.js";

const FUSED = "com.microsoft";
const samples = allOps()
  .filter((def) => def.domain === FUSED && Object.hasOwn(fusedSpellings, def.name))
  .flatMap((def) => [...def.samples()].map((sample) => ({ title: `${def.name}, ${sample.name}`, ...buildSample(def, sample, false) })));

/** They give out the lengths of the mask's rows, which have no spelling. */
const STAY: readonly string[] = ["EmbedLayerNormalization, words and positions", "EmbedLayerNormalization, segments and mask"];

describe("fused operators", () => {
  it("every spelling has a sample", () => {
    expect([...new Set(samples.map((s) => s.title.split(",")[0]))].sort()).toEqual(Object.keys(fusedSpellings).sort());
  });
  it.each(samples)("$title", async ({ title, graph, feeds }) => {
    const before = inferGraph(graph).graph;
    const after = inferGraph(lower(before, (_, n) => n.domain !== FUSED)).graph;
    expect(after.nodes.some((n) => n.domain === FUSED)).toBe(STAY.includes(title));
    const inputs = graph.inputs.map((v) => feeds[valueAt(graph, v).name] as TensorLike);
    expect(relativeError(await runGraph(after, inputs), await runGraph(before, inputs))).toBeLessThan(1e-5);
    expect(lower(before, keepAll)).toBe(before);
  });

  const floats = (dims: readonly number[], seed: number): Tensor =>
    new Tensor(
      "float32",
      Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(seed + 1.7 * i)),
      dims,
    );
  it("attention with a past, a mask of keys and a causal order, as GPT-2's exporter writes it", async () => {
    const g =
      parse(`graph "g" opset {"": 18, "com.microsoft": 1} (%x: float32[2, 3, 8], %m: int32[2, 7], %p: float32[2, 2, 2, 4, 4], %w: float32[8, 24], %b: float32[24]) -> (%y, %present) {
      %y: float32[2, 3, 8], %present: float32[2, 2, 2, 7, 4] = "com.microsoft"."Attention"(%x, %w, %b, %m, %p) {num_heads = 2, unidirectional = 1, mask_filter_value = -10000.0}
    }`);
    const inputs = [
      floats([2, 3, 8], 1),
      new Tensor("int32", Int32Array.of(1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1), [2, 7]),
      floats([2, 2, 2, 4, 4], 2),
      floats([8, 24], 3),
      floats([24], 4),
    ];
    const before = inferGraph(g).graph;
    const after = inferGraph(lower(before, (_, n) => n.domain !== FUSED)).graph;
    expect(after.nodes.map((n) => n.op)).toContain("Attention");
    expect(after.nodes.some((n) => n.domain === FUSED)).toBe(false);
    expect(relativeError(await runGraph(after, inputs), await runGraph(before, inputs))).toBeLessThan(1e-5);
  });
  it("a sum that is read elsewhere keeps its name; an activation with parameters keeps them", async () => {
    const norm = parse(`graph "g" opset {"": 18, "com.microsoft": 1} (%x: float32[2, 3, 8], %g: float32[8]) -> (%y, %sum) {
      %y: float32[2, 3, 8], _, _, %sum: float32[2, 3, 8] = "com.microsoft"."SkipLayerNormalization"(%x, %x, %g, %g, %g)
    }`);
    const conv =
      parse(`graph "g" opset {"": 18, "com.microsoft": 1} (%x: float32[1, 2, 5, 5], %w: float32[3, 2, 3, 3], %z: float32[1, 3, 3, 3]) -> (%y) {
      %y: float32[1, 3, 3, 3] = "com.microsoft"."FusedConv"(%x, %w, _, %z) {activation = "LeakyRelu", activation_params = [0.2]}
    }`);
    const embedding = (
      positions: string,
    ): string => `graph "g" opset {"": 18, "com.microsoft": 1} (%i: int32[2, 3], %w: float32[5, 8], %p: float32[6, 8], %s: float32[2, 8], %g: float32[8]) -> (%y, %sum) {
      const %segments = int32[2, 3] [0, 1, 1, 0, 0, 1]
      const %places = int32[2, 3] [2, 0, 5, 1, 1, 4]
      %y: float32[2, 3, 8], _, %sum: float32[2, 3, 8] = "com.microsoft"."EmbedLayerNormalization"(%i, %segments, %w, %p, %s, %g, %g, _, ${positions})
    }`;
    for (const g of [norm, conv, parse(embedding("%places")), parse(embedding("_"))]) {
      const inputs = g.inputs.map((v, i) => {
        const { type } = valueAt(g, v);
        if (type.kind === "tensor" && type.dtype === "int32") return new Tensor("int32", Int32Array.of(0, 4, 2, 1, 1, 3), [2, 3]);
        return floats(type.kind === "tensor" ? (type.shape as readonly number[]) : [], i);
      });
      const before = inferGraph(g).graph;
      const after = inferGraph(lower(before, (_, n) => n.domain !== FUSED)).graph;
      expect(after.nodes.some((n) => n.domain === FUSED)).toBe(false);
      expect(relativeError(await runGraph(after, inputs), await runGraph(before, inputs))).toBeLessThan(1e-5);
    }
  });
});
