import { describe, expect, it } from "vitest";
import { hostEngine } from "../../src/engines/host/index.js";
import { parse } from "../../src/ir/parse.js";
import { print } from "../../src/ir/print.js";
import { inferGraph } from "../../src/ops/infer.js";
import { keepAccepted, keepAll, lower, lowerable } from "../../src/passes/lower.js";
import { runPasses } from "../../src/passes/pass.js";
import { raiseActivations } from "../../src/passes/raise/activations.js";
import { raiseAttention } from "../../src/passes/raise/attention.js";
import { raiseNormalizations } from "../../src/passes/raise/normalizations.js";
import type { Keep } from "../../src/passes/spelling.js";
import { relativeError, runGraph } from "../../src/testing.js";
import { feeds, graph, nodes, ops } from "./support.js";

const nothing: Keep = () => false;
const lowered = (text: string, keep: Keep = nothing) => {
  const before = inferGraph(parse(text)).graph;
  const after = inferGraph(lower(before, keep)).graph;
  return { before, after, nodes: nodes(print(after, { inlineElements: 64 })) };
};

const cases: readonly (readonly [title: string, text: string, ops: readonly string[]])[] = [
  ["Gelu", graph("%x: float32[n, 8]", "%y", "%y = Gelu(%x)"), ["Div", "Erf", "Add", "Mul", "Mul"]],
  [
    "Gelu by tanh",
    graph("%x: float32[n, 8]", "%y", '%y = Gelu(%x) {approximate = "tanh"}'),
    ["Pow", "Mul", "Add", "Mul", "Tanh", "Mul", "Add", "Mul"],
  ],
  ["Swish", graph("%x: float32[n, 8]", "%y", "%y = Swish(%x)"), ["Sigmoid", "Mul"]],
  ["scaled Swish", graph("%x: float32[n, 8]", "%y", "%y = Swish(%x) {alpha = 1.702}"), ["Mul", "Sigmoid", "Mul"]],
  [
    "RMSNormalization",
    graph("%x: float32[n, 8], %w: float32[8]", "%y", "%y = RMSNormalization(%x, %w)"),
    ["Pow", "ReduceMean", "Add", "Sqrt", "Div", "Mul"],
  ],
  [
    "RMSNormalization over two dims",
    graph("%x: float32[n, 3, 8], %w: float32[3, 8]", "%y", "%y = RMSNormalization(%x, %w) {axis = 1, epsilon = 0.01}"),
    ["Pow", "ReduceMean", "Add", "Sqrt", "Div", "Mul"],
  ],
  [
    "GroupNormalization",
    graph("%x: float32[n, 4, 3, 3], %w: float32[4], %b: float32[4]", "%y", "%y = GroupNormalization(%x, %w, %b) {num_groups = 2}"),
    ["Reshape", "InstanceNormalization", "Shape", "Reshape", "Unsqueeze", "Mul", "Unsqueeze", "Add"],
  ],
  [
    "Attention",
    graph("%q: float32[n, 2, 3, 4], %k: float32[n, 2, 5, 4], %v: float32[n, 2, 5, 4]", "%y", "%y = Attention(%q, %k, %v)"),
    ["Transpose", "MatMul", "Div", "Softmax", "MatMul"],
  ],
  [
    "Attention with groups and a boolean mask",
    graph(
      "%q: float32[1, 6, 3, 4], %k: float32[1, 2, 5, 4], %v: float32[1, 2, 5, 4], %m: bool[3, 5]",
      "%y",
      "%y = Attention(%q, %k, %v, %m)",
    ),
    [
      "Unsqueeze",
      "Expand",
      "Reshape",
      "Unsqueeze",
      "Expand",
      "Reshape",
      "Transpose",
      "MatMul",
      "Div",
      "Where",
      "Add",
      "Softmax",
      "IsNaN",
      "Where",
      "MatMul",
    ],
  ],
  [
    "Attention, causal",
    graph("%q: float32[n, 2, 5, 4]", "%y", "%y = Attention(%q, %q, %q) {is_causal = 1}"),
    ["Transpose", "MatMul", "Div", "Add", "Softmax", "MatMul"],
  ],
  [
    "Attention, causal and with a mask",
    graph("%q: float32[2, 2, 5, 4], %m: bool[2, 1, 5, 5]", "%y", "%y = Attention(%q, %q, %q, %m) {is_causal = 1}"),
    ["Transpose", "MatMul", "Div", "Add", "Where", "Add", "Softmax", "IsNaN", "Where", "MatMul"],
  ],
  [
    "Attention with capped scores",
    graph("%q: float32[n, 2, 5, 4], %m: float32[5, 5]", "%y", "%y = Attention(%q, %q, %q, %m) {softcap = 0.5, is_causal = 1}"),
    ["Transpose", "MatMul", "Div", "Div", "Tanh", "Mul", "Add", "Add", "Softmax", "IsNaN", "Where", "MatMul"],
  ],
  [
    "Attention with a cache",
    graph(
      "%q: float32[1, 2, 3, 4], %k: float32[1, 2, 3, 4], %v: float32[1, 2, 3, 4], %p: float32[1, 2, 2, 4]",
      "%y, %pk, %pv",
      "%y, %pk, %pv = Attention(%q, %k, %v, _, %p, %p)",
    ),
    ["Concat", "Concat", "Transpose", "MatMul", "Div", "Softmax", "MatMul"],
  ],
];

describe("lower", () => {
  it.each(cases)("%s, with the numbers of ONNX Runtime's own", async (_, text, wanted) => {
    const { before, after } = lowered(text);
    expect([...ops(after)].sort()).toEqual([...wanted].sort());
    const inputs = feeds(before);
    expect(relativeError(await runGraph(after, inputs), await runGraph(before, inputs))).toBeLessThan(1e-5);
  });
  it("has a case for everything it can spell out", () => {
    const tested = new Set(cases.map(([title]) => title.split(/[ ,]/)[0]).map((t) => (t === "scaled" ? "Swish" : t)));
    expect([...tested].sort()).toEqual([...lowerable].sort());
  });
  it("guards rows that a mask closes altogether, unless the mask cannot", () => {
    const inputs = "%q: float32[1, 2, 2, 4], %c: bool[2, 2]";
    const text = (fill: string, ...lines: string[]): string =>
      graph(inputs, "%y", `const %f = float32[] [${fill}]`, "const %z = float32[] [0.0]", ...lines, "%y = Attention(%q, %q, %q, %m)");
    expect(ops(lowered(text("-3.4028234663852886e+38", "%m = Where(%c, %z, %f)")).after)).not.toContain("IsNaN");
    expect(ops(lowered(text("-inf", "%m = Where(%c, %z, %f)")).after)).toContain("IsNaN");
    expect(ops(lowered(text("-10000.0", "%i = Cast(%c) {to = 1}", "%m = Mul(%i, %f)")).after)).not.toContain("IsNaN");
    expect(
      ops(
        lowered(
          text(
            "0.0",
            "%w = Unsqueeze(%f, %a)",
            "const %a = int64[2] [0, 1]",
            "%e = Expand(%w, %s)",
            "const %s = int64[2] [2, 2]",
            "%m = Identity(%e)",
          ),
        ).after,
      ),
    ).not.toContain("IsNaN");
    expect(ops(lowered(text("0.0", "%l = Cast(%c) {to = 1}", "%m = Log(%l)")).after)).toContain("IsNaN");
  });
  it("shares a boolean mask between layers", () => {
    const text = graph("%q: float32[1, 2, 2, 4], %m: bool[2, 2]", "%y", "%a = Attention(%q, %q, %q, %m)", "%y = Attention(%a, %a, %a, %m)");
    // One Where makes the mask, one guards each softmax.
    expect(ops(lowered(text).after).filter((o) => o === "Where")).toHaveLength(3);
  });
  it("leaves what it has no spelling for: scores capped at a negative number, and causal attention of more keys than queries", () => {
    const capped = graph("%q: float32[1, 2, 3, 4]", "%y", "%y = Attention(%q, %q, %q) {softcap = -2.0}");
    expect(ops(lowered(capped).after)).toEqual(["Attention"]);
    const causal = graph("%q: float32[1, 2, 3, 4], %k: float32[1, 2, 5, 4]", "%y", "%y = Attention(%q, %k, %k) {is_causal = 1}");
    expect(ops(lowered(causal).after)).toEqual(["Attention"]);
  });
  it("leaves a mask narrower than the keys to the operator, which pads it", () => {
    const text = graph("%q: float32[1, 2, 3, 4], %m: float32[3, 2]", "%y", "%y = Attention(%q, %q, %q, %m)");
    expect(ops(lowered(text).after)).toEqual(["Attention"]);
  });
  it("leaves three-dimensional attention, and scores asked for", () => {
    const three = graph("%q: float32[1, 3, 8]", "%y", "%y = Attention(%q, %q, %q) {q_num_heads = 2, kv_num_heads = 2}");
    expect(ops(lowered(three).after)).toEqual(["Attention"]);
    const scores = graph("%q: float32[1, 2, 3, 4]", "%y, %s", "%y, _, _, %s = Attention(%q, %q, %q)");
    expect(ops(lowered(scores).after)).toEqual(["Attention"]);
  });
  it("names the new nodes after the old one, and keeps its origin", () => {
    const { nodes: lines } = lowered(graph("%x: float32[2]", "%y", '%y = Swish(%x) @"act" from ["sig", "mul"]'));
    expect(lines).toEqual([
      '%act/Sigmoid = Sigmoid(%x) @"act/Sigmoid" from ["sig", "mul"]',
      '%y = Mul(%x, %act/Sigmoid) @"act" from ["sig", "mul"]',
    ]);
  });
  it("reaches into bodies", () => {
    const text = graph(
      "%x: float32[2], %c: bool[]",
      "%y",
      "%y = If(%c) {",
      '  then_branch = graph "t" () captures (%k: float32[2] = %x) -> (%r) {',
      "    %r = Gelu(%k)",
      "  }",
      '  else_branch = graph "e" () captures (%k: float32[2] = %x) -> (%r) {',
      "    %r = Neg(%k)",
      "  }",
      "}",
    );
    expect(print(lowered(text).after)).toContain("Erf");
  });
  it("is undone by raising", async () => {
    for (const [, text] of cases) {
      const { before, after } = lowered(text);
      const { graph: again } = await runPasses(after, [raiseNormalizations, raiseActivations, raiseAttention], { verify: true });
      const left = again.nodes.filter((n) => lowerable.includes(n.op)).map((n) => n.op);
      expect(left).toEqual(before.nodes.map((n) => n.op));
    }
  });
});

describe("what an engine keeps", () => {
  const target = { sm: 90, tensorrt: 110_200, precision: "fp32" } as const;
  const cache = cases.find(([title]) => title === "Attention with a cache")?.[1] ?? "";
  it("everything, where no engine is asked for", () => {
    expect(ops(lowered(cache, keepAccepted([], target)).after)).toEqual(["Attention"]);
    expect(ops(lowered(cache, keepAll).after)).toEqual(["Attention"]);
  });
  it("what one of the engines takes, by its verdict", () => {
    const plain = cases.find(([title]) => title === "Attention")?.[1] ?? "";
    expect(ops(lowered(plain, keepAccepted(["tensorrt"], target)).after)).toContain("Softmax");
    const gelu = graph("%x: float32[2, 8]", "%y", "%y = Gelu(%x)");
    expect(ops(lowered(gelu, keepAccepted(["tensorrt", "cuda"], target)).after)).toEqual(["Gelu"]);
    // No GPU engine has float64 kernels.
    expect(ops(lowered(gelu.replace("float32", "float64"), keepAccepted(["cuda"], target)).after)).toContain("Erf");
  });
  it("takes a step at a time: the cache goes in front, attention stays", () => {
    const without: Keep = (_, n, facts) => n.ins[4] === undefined && n.ins.every((v) => v === undefined || facts(v).type.kind === "tensor");
    expect(ops(lowered(cache, without).after)).toEqual(["Concat", "Concat", "Attention"]);
  });
  it("the host: attention, unless its mask could close a row in a way its kernel sees differently", () => {
    const host = hostEngine.keeps as Keep;
    const text = (mask: string, ...lines: string[]): string =>
      graph(`%q: float32[1, 2, 2, 4]${mask}`, "%y", ...lines, "%y = Attention(%q, %q, %q, %m)");
    const kept = (t: string): boolean => ops(lowered(t, host).after).at(-1) === "Attention";
    expect(kept(graph("%q: float32[1, 2, 2, 4]", "%y", "%y = Attention(%q, %q, %q)"))).toBe(true);
    expect(kept(text(", %m: bool[2, 2]"))).toBe(true);
    expect(kept(text(", %m: float32[2, 2]"))).toBe(false);
    expect(kept(text(", %m: bool[1, 2]"))).toBe(false);
    expect(kept(text("", "const %m = float32[2, 2] [0.0, -inf, 0.0, 0.0]"))).toBe(true);
    expect(kept(text("", "const %m = float32[2, 2] [-3.4028234663852886e+38, -3.4028234663852886e+38, 0.0, 0.0]"))).toBe(false);
    expect(kept(graph("%q: float16[1, 2, 2, 4]", "%y", "%y = Attention(%q, %q, %q)"))).toBe(false);
    expect(kept(graph("%x: float32[2]", "%y", "%y = Gelu(%x)"))).toBe(false);
  });
});
