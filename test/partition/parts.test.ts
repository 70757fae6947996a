/** Planning for several engines: what one takes whole, another is asked about in parts, and gets in parts. */
import { describe, expect, it } from "vitest";
import { segmentFor } from "../../src/build.js";
import { plan } from "../../src/compile.js";
import { tensorrtEngine } from "../../src/engines/tensorrt/index.js";
import { parse } from "../../src/ir/parse.js";
import { inferGraph } from "../../src/ops/infer.js";
import { keepKnown } from "../../src/passes/lower.js";
import { partsOf } from "../../src/passes/parts.js";

const both = { target: ["tensorrt", "cuda"], computeCapability: 9.0, minimumSegmentSize: 1 } as const;
const swish = parse(`graph "swish" opset {"": 24} (%x: float32[2, 8]) -> (%y) {
  const %w = float32[8, 8] [${Array.from({ length: 64 }, (_, i) => i % 5).join(", ")}]
  %p = MatMul(%x, %w) @"product"
  %s = Swish(%p) {alpha = 1.0} @"gate"
  %y = MatMul(%s, %w) @"last"
}`);
const heads = (
  past: string,
): string => `graph "heads" opset {"": 24} (%q: float32[1, 2, 4, 8], %k: float32[1, 2, 4, 8]${past === "" ? "" : ", %n: int64[1]"}) -> (%y) {
  %y = Attention(%q, %k, %k${past}) @"attention"
}`;

describe("in parts", () => {
  it("TensorRT takes what it gets spelled out, and a pin may say so", async () => {
    const planned = await plan(swish, { ...both, pin: [{ match: "*", to: "tensorrt" }] });
    expect(planned.partition.segments.map((s) => [s.engine, s.nodes.length])).toEqual([["tensorrt", 3]]);
    const [segment] = planned.partition.segments;
    if (segment === undefined) throw new Error("there is no segment");
    expect(segmentFor(tensorrtEngine, planned, segment).nodes.map((n) => n.op)).toEqual(["MatMul", "Sigmoid", "Mul", "MatMul"]);
  });
  it("the CUDA engine still gets the operator whole", async () => {
    const planned = await plan(swish, { ...both, pin: [{ match: "*", to: "cuda" }] });
    expect(planned.graph.nodes.map((n) => n.op)).toEqual(["MatMul", "Swish", "MatMul"]);
  });
  it("a chain of operators for both may be either engine's as a whole", async () => {
    for (const [first, second] of [
      ["tensorrt", "cuda"],
      ["cuda", "tensorrt"],
    ] as const) {
      const { verdicts, graph } = await plan(swish, { ...both, target: [first, second] });
      for (const n of graph.nodes) expect([verdicts.of(n.id, "cuda").ok, verdicts.of(n.id, "tensorrt").ok]).toEqual([true, true]);
    }
  });
  it("attention goes as products and a softmax; what has no spelling keeps its reason", async () => {
    const taken = await plan(parse(heads("")), { ...both });
    expect(taken.verdicts.of(taken.graph.nodes[0]?.id ?? (-1 as never), "tensorrt")).toEqual({ ok: true });
    const lengths = await plan(parse(heads(", _, _, _, %n")), { ...both });
    const [n] = lengths.graph.nodes;
    expect(n?.op).toBe("Attention");
    expect(lengths.verdicts.of(n?.id ?? (-1 as never), "tensorrt")).toMatchObject({
      ok: false,
      why: expect.stringContaining("one-node form"),
    });
  });
  it("a part that is refused refuses the whole, with the part's reason", async () => {
    const { graph } = inferGraph(parse(`graph "wide" opset {"": 24} (%x: float64[4]) -> (%y) { %y = Swish(%x) {alpha = 1.0} @"gate" }`));
    const planned = await plan(graph, { ...both });
    expect(planned.verdicts.of(planned.graph.nodes.at(-1)?.id ?? (-1 as never), "tensorrt")).toMatchObject({
      ok: false,
      why: expect.stringContaining("float64 operands have no tensorrt kernel"),
    });
  });
  it("knows whose part a node is, also of parts of parts", () => {
    const g = inferGraph(
      parse(`graph "fused" opset {"": 20, "com.microsoft": 1} (%x: float32[2, 8], %b: float32[8]) -> (%y) {
  %y = "com.microsoft"."BiasGelu"(%x, %b) @"both"
}`),
    ).graph;
    const parts = partsOf(g, (_, n) => n.op !== "BiasGelu" && n.op !== "Gelu", {});
    const [whole] = g.nodes;
    if (parts === undefined || whole === undefined) throw new Error("nothing was spelled out");
    expect(parts.graph.nodes.map((n) => n.op)).toEqual(["Add", "Div", "Erf", "Add", "Mul", "Mul"]);
    for (const n of parts.graph.nodes) expect(parts.owner(n.id)).toBe(whole.id);
    expect(parts.of(whole.id)).toHaveLength(6);
  });
  it("a graph that an engine takes as it is has no parts", () => {
    const g = inferGraph(parse(`graph "plain" opset {"": 20} (%x: float32[2]) -> (%y) { %y = Relu(%x) }`)).graph;
    expect(partsOf(g, keepKnown("tensorrt"), {})).toBeUndefined();
  });
});
