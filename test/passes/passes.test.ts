import { describe, expect, it } from "vitest";
import { evaluate } from "../../src/engines/host/index.js";
import { parse } from "../../src/ir/parse.js";
import { print } from "../../src/ir/print.js";
import { inferGraph } from "../../src/ops/infer.js";
import { cancelViews } from "../../src/passes/cancel-views.js";
import { commonSubexpressions } from "../../src/passes/common-subexpressions.js";
import { deadCode } from "../../src/passes/dead-code.js";
import { foldBatchNorm } from "../../src/passes/fold-batchnorm.js";
import { foldConstants } from "../../src/passes/fold-constants.js";
import { foldShapes } from "../../src/passes/fold-shapes.js";
import { noOps } from "../../src/passes/no-ops.js";
import { runPasses } from "../../src/passes/pass.js";
import { pipeline } from "../../src/passes/pipeline.js";
import { generator } from "../../src/runtime/measure.js";
import { Tensor } from "../../src/tensor.js";
import { applyPass, relativeError, runGraph } from "../../src/testing.js";

/** The nodes alone: one line each, types left out. */
const nodes = (text: string): string[] =>
  text
    .split("\n")
    .filter((l) => / = (?!graph)/.test(l) && !l.includes("const "))
    .map((l) => l.trim().replace(/: [a-z0-9]+(\[[^\]]*\])?(?= =|,)/g, ""));
const graph = (inputs: string, outputs: string, ...lines: string[]): string =>
  `graph "g" opset {"": 18} (${inputs}) -> (${outputs}) {\n${lines.join("\n")}\n}`;

describe("no-ops", () => {
  it("removes identities, same casts, empty pads and unit products, and keeps output names", async () => {
    const out = await applyPass(
      noOps,
      graph(
        "%x: float32[2, 3]",
        "%y",
        "const %p = int64[4] [0, 0, 0, 0]",
        "const %one = float32[1] [1.0]",
        "%a = Identity(%x)",
        "%b = Cast(%a) {to = 1}",
        "%c = Pad(%b, %p)",
        "%d = Mul(%c, %one)",
        "%e = Relu(%d)",
        "%y = Dropout(%e)",
      ),
    );
    expect(nodes(out)).toEqual(["%y = Relu(%x)"]);
  });
  it("keeps an Identity between an input and an output", async () => {
    expect(nodes(await applyPass(noOps, graph("%x: float32[2]", "%y", "%y = Identity(%x)")))).toEqual(["%y = Identity(%x)"]);
  });
  it("keeps what changes dims or type", async () => {
    const text = graph(
      "%x: float32[1, 3]",
      "%a, %b",
      "const %s = int64[1] [3]",
      "const %one = float32[2, 1] [1.0, 1.0]",
      "%a = Reshape(%x, %s)",
      "%b = Mul(%x, %one)",
    );
    expect(nodes(await applyPass(noOps, text))).toHaveLength(2);
  });
});

describe("dead-code", () => {
  it("drops unread nodes and optional outputs, also in bodies", async () => {
    const out = await applyPass(
      deadCode,
      graph(
        "%x: float32[4], %c: bool[]",
        "%y",
        "%unused = Relu(%x)",
        "%m, %i = MaxPool(%x) {kernel_shape = [1]}",
        '%y = If(%c) {\n then_branch = graph "t" () captures (%k: float32[4] = %m, %gone: float32[4] = %unused) -> (%r) {\n %dead = Neg(%k)\n %r = Abs(%k)\n }\n else_branch = graph "e" () captures (%k: float32[4] = %m) -> (%r) {\n %r = Neg(%k)\n }\n }',
      ).replace("MaxPool(%x) {kernel_shape = [1]}", "Dropout(%x)"),
    );
    expect(out).not.toContain("%unused");
    expect(out).not.toContain("%dead");
    expect(out).not.toContain("%i");
    expect(out).toContain("Dropout(%x)");
  });
});

describe("common-subexpressions", () => {
  it("merges equal nodes and small equal constants, not random ones", async () => {
    const out = await applyPass(
      commonSubexpressions,
      graph(
        "%x: float32[2]",
        "%y, %r, %s",
        "const %a = float32[1] [2.0]",
        "const %b = float32[1] [2.0]",
        "%p = Mul(%x, %a)",
        "%q = Mul(%x, %b)",
        "%y = Add(%p, %q)",
        "%r1 = RandomUniform() {shape = [2]}",
        "%r2 = RandomUniform() {shape = [2]}",
        "%r = Relu(%r1)",
        "%s = Relu(%r2)",
      ),
    );
    expect(nodes(out)).toEqual([
      "%p = Mul(%x, %a)",
      "%y = Add(%p, %p)",
      "%r1 = RandomUniform() {shape = [2]}",
      "%r2 = RandomUniform() {shape = [2]}",
      "%r = Relu(%r1)",
      "%s = Relu(%r2)",
    ]);
  });
  it("tells -0 from 0 in attributes", async () => {
    const out = await applyPass(
      commonSubexpressions,
      graph("%x: float32[2]", "%y", "%a = LeakyRelu(%x) {alpha = 0.0}", "%b = LeakyRelu(%x) {alpha = -0.0}", "%y = Add(%a, %b)"),
    );
    expect(nodes(out)).toHaveLength(3);
  });
});

describe("folding", () => {
  it("replaces shape arithmetic that is known", async () => {
    const text = graph(
      "%x: float32[n, 4, 6]",
      "%y",
      "const %i = int64[1] [1]",
      "const %m = int64[1] [-1]",
      "%s = Shape(%x)",
      "%c = Gather(%s, %i)",
      "%t = Concat(%c, %m) {axis = 0}",
      "%y = Reshape(%x, %t)",
    );
    const out = await applyPass(deadCode, await applyPass(foldShapes, text));
    expect(nodes(out)).toEqual(["%y = Reshape(%x, %t.folded)"]);
    expect(out).toContain("const %t.folded = int64[2] [4, -1]");
  });
  it("evaluates constant regions on ONNX Runtime, in one go", async () => {
    const text = graph("%x: float32[2]", "%y", "const %w = float32[2] [1.0, 4.0]", "%a = Sqrt(%w)", "%b = Neg(%a)", "%y = Add(%x, %b)");
    let calls = 0;
    const { graph: out } = await runPasses(inferGraph(parse(text)).graph, [foldConstants, deadCode], {
      evaluate: async (g) => {
        calls++;
        return await evaluate(g);
      },
    });
    expect(calls).toBe(1);
    expect(print(out)).toContain("const %b.folded = float32[2] [-1.0, -2.0]");
  });
  it("does not fold beyond the cap, random numbers, or dequantized weights", async () => {
    const text = graph(
      "%x: float32[2]",
      "%y, %z, %q",
      "const %w = float32[2] [1.0, 4.0]",
      "const %k = int8[2] [1, 2]",
      "const %s = float32[] [0.5]",
      "%a = Sqrt(%w)",
      "%y = Add(%x, %a)",
      "%r = RandomUniform() {shape = [2]}",
      "%z = Add(%x, %r)",
      "%d = DequantizeLinear(%k, %s)",
      "%q = Add(%x, %d)",
    );
    const { graph: out } = await runPasses(inferGraph(parse(text)).graph, [foldConstants], { evaluate, maxFoldedBytes: 4 });
    expect(out.nodes).toHaveLength(6);
  });
  it.each([
    ["Conv", "const %w = float32[2, 1, 1, 1] [2.0, 3.0]\n%c = Conv(%x, %w)", "%x: float32[1, 1, 2, 2]"],
    [
      "Conv with bias",
      "const %w = float32[2, 1, 1, 1] [2.0, 3.0]\nconst %b0 = float32[2] [1.0, -1.0]\n%c = Conv(%x, %w, %b0)",
      "%x: float32[1, 1, 2, 2]",
    ],
    [
      "grouped ConvTranspose",
      "const %w = float32[2, 1, 1, 1] [2.0, 3.0]\n%c = ConvTranspose(%x, %w) {group = 2}",
      "%x: float32[1, 2, 2, 2]",
    ],
    [
      "Gemm",
      "const %w = float32[3, 2] [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]\nconst %b0 = float32[2] [1.0, -1.0]\n%c = Gemm(%x, %w, %b0) {beta = 0.5}",
      "%x: float32[4, 3]",
    ],
  ])("folds BatchNormalization into %s", async (_, body, input) => {
    const text = graph(
      input,
      "%y",
      "const %s = float32[2] [1.5, 0.5]",
      "const %b = float32[2] [0.1, 0.2]",
      "const %m = float32[2] [0.3, -0.4]",
      "const %v = float32[2] [1.0, 4.0]",
      body,
      "%y = BatchNormalization(%c, %s, %b, %m, %v)",
    );
    const before = inferGraph(parse(text)).graph;
    const { graph: after } = await runPasses(before, [foldBatchNorm], { verify: true });
    expect(after.nodes).toHaveLength(1);
    const dims = (/\[([\d, ]+)\]/.exec(input)?.[1] ?? "").split(", ").map(Number);
    const next = generator(3);
    const x = new Tensor(
      "float32",
      Array.from({ length: dims.reduce((a, d) => a * d, 1) }, () => next() * 2 - 1),
      dims,
    );
    expect(relativeError(await runGraph(after, [x]), await runGraph(before, [x]))).toBeLessThan(1e-6);
  });
});

describe("cancel-views", () => {
  it("cancels transposes around elementwise operators", async () => {
    const out = await applyPass(
      cancelViews,
      graph(
        "%x: float32[1, 2, 3, 4]",
        "%y",
        "%a = Transpose(%x) {perm = [0, 2, 3, 1]}",
        "%b = Relu(%a)",
        "%c = Transpose(%b) {perm = [0, 3, 1, 2]}",
        "%y = Sigmoid(%c)",
      ),
    );
    expect(nodes(out).filter((l) => l.includes("Transpose"))).toEqual([]);
  });
  it("composes transposes and reshapes that do not cancel", async () => {
    const out = await applyPass(
      cancelViews,
      graph(
        "%x: float32[2, 3, 4]",
        "%y, %z",
        "const %s = int64[1] [24]",
        "const %t = int64[2] [6, 4]",
        "%a = Transpose(%x) {perm = [1, 0, 2]}",
        "%y = Transpose(%a) {perm = [2, 1, 0]}",
        "%r = Reshape(%x, %s)",
        "%z = Reshape(%r, %t)",
      ),
    );
    expect(nodes(out)).toEqual(["%y = Transpose(%x) {perm = [2, 0, 1]}", "%z = Reshape(%x, %t)"]);
  });
  it("leaves a Reshape that copies dims of the one before", async () => {
    const text = graph(
      "%x: float32[2, 3, 4]",
      "%z",
      "const %s = int64[2] [6, 4]",
      "const %t = int64[3] [0, 2, 2]",
      "%r = Reshape(%x, %s)",
      "%z = Reshape(%r, %t)",
    );
    expect(nodes(await applyPass(cancelViews, text))).toHaveLength(2);
  });
});

describe("pipeline", () => {
  it("gives each pass a name and a reason of its own", () => {
    expect(new Set(pipeline.map((p) => p.name)).size).toBe(pipeline.length);
    for (const p of pipeline) expect(p.why.length).toBeGreaterThan(40);
  });
  it("names the pass that breaks a graph", async () => {
    const g = parse('graph "g" (%x: float32) -> (%y) {\n  %y = Relu(%x)\n}');
    const bad = { name: "bad", why: "it drops nodes", run: () => ({ ...g, nodes: [] }) };
    await expect(runPasses(g, [bad], { verify: true })).rejects.toThrow(
      "P1410 invariant 7 does not hold after pass 'bad': output 'y' is not defined",
    );
  });
});
