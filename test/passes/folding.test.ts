/** Passes that compute ahead: shape arithmetic, constant regions, BatchNormalization into weights. In bodies too. */
import { describe, expect, it } from "vitest";
import type { Remark } from "../../src/diagnostics.js";
import { evaluate } from "../../src/engines/host/index.js";
import { parse } from "../../src/ir/parse.js";
import { print } from "../../src/ir/print.js";
import { inferGraph } from "../../src/ops/infer.js";
import { deadCode } from "../../src/passes/dead-code.js";
import { foldBatchNorm } from "../../src/passes/fold-batchnorm.js";
import { foldConstants } from "../../src/passes/fold-constants.js";
import { foldShapes } from "../../src/passes/fold-shapes.js";
import { type RunPassesOptions, runPasses } from "../../src/passes/pass.js";
import { applied, difference, graph, leaves, nodes, ops } from "./support.js";

const run = async (
  text: string,
  options: RunPassesOptions,
): Promise<{ readonly nodes: readonly string[]; readonly text: string; readonly remarks: readonly Remark[] }> => {
  const remarks: Remark[] = [];
  const { graph: out } = await runPasses(inferGraph(parse(text)).graph, [foldConstants], {
    verify: true,
    remarks: (r) => remarks.push(r),
    ...options,
  });
  const shown = print(out, { inlineElements: 64 });
  return { nodes: nodes(shown), text: shown, remarks };
};

describe("fold-constants", () => {
  const weight = graph(
    "%x: float32[2, 2]",
    "%y",
    "const %w = float32[4] [1.0, 4.0, 9.0, 16.0]",
    "%a = Sqrt(%w)",
    "const %s = int64[2] [2, 2]",
    "%b = Reshape(%a, %s)",
    "%y = Add(%x, %b)",
  );
  it("computes regions and leaves one constant for each result", async () => {
    const done = await run(weight, { evaluate });
    expect(done.nodes).toContain("%y = Add(%x, %b.folded)");
    expect(done.text).toContain("const %b.folded = float32[2, 2] [1.0, 2.0, 3.0, 4.0]");
  });
  it("keeps what is above the cap", async () => {
    expect((await run(weight, { evaluate, maxFoldedBytes: 15 })).nodes).toContain("%y = Add(%x, %b)");
    expect((await run(weight, { evaluate, maxFoldedBytes: 16 })).nodes).toContain("%y = Add(%x, %b.folded)");
  });
  it("says so when there is nothing to evaluate with", async () => {
    const done = await run(weight, {});
    expect(done.nodes).toHaveLength(3);
    expect(done.remarks.map((r) => r.text)).toEqual(["2 nodes depend on constants alone and were not folded: there is no evaluator"]);
  });
  it("says why when the evaluator fails, and changes nothing", async () => {
    const done = await run(weight, {
      evaluate: () => {
        throw new Error("no such kernel");
      },
    });
    expect(done.nodes).toHaveLength(3);
    expect(done.remarks.map((r) => r.text)).toEqual(["constants were not folded: no such kernel"]);
  });
  it("does not unfold big tensors out of small ones", async () => {
    const t = graph(
      "%x: float32[64, 64]",
      "%y",
      "const %s = int64[2] [64, 64]",
      "%z = ConstantOfShape(%s)",
      "const %o = float32[] [1.0]",
      "%e = Expand(%o, %s)",
      "%a = Add(%x, %z)",
      "%y = Mul(%a, %e)",
    );
    expect((await run(t, { evaluate })).nodes).toHaveLength(4);
  });
  it("leaves unknown operators and those of bodies that read more than constants", async () => {
    const t = graph(
      "%x: float32[2]",
      "%y, %z",
      "const %w = float32[2] [1.0, 4.0]",
      "%a = custom.Thing(%w)",
      "%y = Add(%x, %a)",
      "%b = com.microsoft.Gelu(%w)",
      "%z = Add(%x, %b)",
    );
    expect((await run(t, { evaluate })).nodes).toHaveLength(4);
  });
  it("leaves what draws: a Dropout in training", async () => {
    const lines = ["const %k = float32[2] [1.0, 2.0]", "const %r = float32[] [0.5]", "const %on = bool[] [1]"];
    await leaves(foldConstants, graph("%x: float32[2]", "%y", ...lines, "%d = Dropout(%k, %r, %on)", "%y = Mul(%x, %d)"));
  });
  it("folds in bodies", async () => {
    const t = `graph "g" opset {"": 18} (%x: float32[2], %n: int64[]) -> (%y) {
  const %go = bool[] [1]
  %y = Loop(%n, %go, %x) {
    body = graph "b" (%i: int64[], %on: bool[], %k: float32[2]) -> (%on, %r) {
      const %w = float32[2] [1.0, 4.0]
      %q = Sqrt(%w)
      %r = Mul(%k, %q)
    }
  }
}`;
    const done = await run(t, { evaluate });
    expect(done.text).toContain("const %q.folded = float32[2] [1.0, 2.0]");
    expect(done.text).toContain("Mul(%k, %q.folded)");
  });
});

describe("fold-shapes", () => {
  it.each([
    ["Shape", "%s = Shape(%x)", "[2, 3, 4]"],
    ["a slice of Shape", "%s = Shape(%x) {start = 1}", "[3, 4]"],
    ["Size", "%s = Size(%x)", "24"],
    ["arithmetic", "%t = Shape(%x)\nconst %two = int64[1] [2]\n%s = Mul(%t, %two)", "[4, 6, 8]"],
  ])("%s", async (_, lines, value) => {
    const done = await applied(
      foldShapes,
      graph("%x: float32[2, 3, 4]", "%y, %u", ...lines.split("\n"), "%y = Cast(%s) {to = 1}", "%u = Relu(%x)"),
    );
    expect(done.text).toMatch(
      new RegExp(`const %s\\.folded = int64(\\[\\d*\\])? ${value.startsWith("[") ? value.replace(/[[\]]/g, "\\$&") : `\\[${value}\\]`}`),
    );
    expect(done.nodes).toContain("%y = Cast(%s.folded) {to = 1}");
  });
  it("leaves nothing behind that would look like a reader", async () => {
    const done = await applied(
      foldShapes,
      graph(
        "%x: float32[n, 12], %z: float32[n, 3, 4]",
        "%y",
        "const %zero = int64[] [0]",
        "const %four = int64[1] [4]",
        "const %axis = int64[1] [0]",
        "%s = Shape(%z)",
        "%b = Gather(%s, %zero)",
        "%u = Unsqueeze(%b, %axis)",
        "%three = Shape(%z) {start = 1, end = 2}",
        "%to = Concat(%u, %three, %four) {axis = 0}",
        "%y = Reshape(%x, %to)",
      ),
    );
    expect(done.nodes).toEqual(["%y = Reshape(%x, %y.shape)"]);
  });
  it("leaves what depends on an open dim, and graph outputs", async () => {
    await leaves(foldShapes, graph("%x: float32[n, 3]", "%y", "%s = Shape(%x)", "%y = Cast(%s) {to = 1}"));
    await leaves(foldShapes, graph("%x: float32[2, 3]", "%s", "%s = Shape(%x)"));
  });
  it("knows a dim that is known beside an open one", async () => {
    const done = await applied(
      foldShapes,
      graph("%x: float32[n, 3]", "%y", "%s = Shape(%x)", "const %i = int64[] [1]", "%d = Gather(%s, %i)", "%y = Cast(%d) {to = 1}"),
    );
    expect(done.text).toContain("const %d.folded = int64[] [3]");
  });
  it("folds in bodies", async () => {
    const done = await applied(
      foldShapes,
      graph(
        "%x: float32[2, 3], %c: bool[]",
        "%y",
        "%y = If(%c) {",
        '  then_branch = graph "t" () captures (%k: float32[2, 3] = %x) -> (%r) {',
        "    %s = Shape(%k)",
        "    %r = Cast(%s) {to = 1}",
        "  }",
        '  else_branch = graph "e" () captures (%k: float32[2, 3] = %x) -> (%r) {',
        "    const %f = float32[2] [0.0, 0.0]",
        "    %r = Neg(%f)",
        "  }",
        "}",
      ),
    );
    expect(done.text).toContain("const %s.folded = int64[2] [2, 3]");
  });
});

describe("fold-shapes: Reshape with open dims", () => {
  const reshaped = (x: string, ...lines: string[]): string => graph(`%x: float32[${x}]`, "%y", ...lines, "%y = Reshape(%x, %t)");
  const shapeOf = (axis: number, name: string): string[] => [`const %i${name} = int64[1] [${axis}]`, `%${name} = Gather(%s, %i${name})`];
  it.each<[string, string, readonly string[], string]>([
    [
      "copies what stays",
      "n, 6",
      ["%s = Shape(%x)", ...shapeOf(0, "a"), "const %c = int64[2] [2, 3]", "%t = Concat(%a, %c) {axis = 0}"],
      "int64[3] [0, 2, 3]",
    ],
    [
      "copies two dims that stay",
      "n, m, 6",
      ["%s = Shape(%x)", ...shapeOf(0, "a"), ...shapeOf(1, "b"), "const %c = int64[2] [2, 3]", "%t = Concat(%a, %b, %c) {axis = 0}"],
      "int64[4] [0, 0, 2, 3]",
    ],
    [
      "leaves one to follow",
      "n, 4, 6",
      [
        "%s = Shape(%x)",
        ...shapeOf(0, "a"),
        "const %f = int64[1] [4]",
        "%p = Mul(%a, %f)",
        "const %c = int64[1] [6]",
        "%t = Concat(%p, %c) {axis = 0}",
      ],
      "int64[2] [-1, 6]",
    ],
    [
      "works out what -1 stands for where the open dims cancel",
      "n, 4, 6",
      ["%s = Shape(%x)", ...shapeOf(0, "a"), "const %c = int64[1] [-1]", "%t = Concat(%a, %c) {axis = 0}"],
      "int64[2] [0, 24]",
    ],
  ])("%s", async (_, x, lines, wanted) => {
    const done = await applied([foldShapes, deadCode], reshaped(x, ...lines));
    expect(done.nodes).toEqual(["%y = Reshape(%x, %y.shape)"]);
    expect(done.text).toContain(`const %y.shape = ${wanted}`);
    expect(await difference(done)).toBe(0);
  });
  it.each<[string, string, readonly string[]]>([
    [
      "two dims that are neither",
      "n, m, 6",
      [
        "%s = Shape(%x)",
        ...shapeOf(0, "a"),
        ...shapeOf(1, "b"),
        "const %f = int64[1] [2]",
        "%p = Mul(%a, %f)",
        "const %c = int64[1] [3]",
        "%t = Concat(%b, %p, %c) {axis = 0}",
      ],
    ],
    [
      "one that follows beside one that stays",
      "n, m, 6",
      [
        "%s = Shape(%x)",
        ...shapeOf(0, "a"),
        ...shapeOf(1, "b"),
        "const %f = int64[1] [2]",
        "%p = Mul(%b, %f)",
        "const %c = int64[1] [3]",
        "%t = Concat(%a, %p, %c) {axis = 0}",
      ],
    ],
  ])("leaves %s", async (_, x, lines) => {
    expect((await applied(foldShapes, reshaped(x, ...lines))).nodes.at(-1)).toBe("%y = Reshape(%x, %t)");
  });
});

describe("fold-batchnorm", () => {
  const bn = [
    "const %s = float32[2] [1.5, 0.5]",
    "const %b = float32[2] [0.1, 0.2]",
    "const %m = float32[2] [0.3, -0.4]",
    "const %v = float32[2] [1.0, 4.0]",
  ];
  const conv = "const %w = float32[2, 1, 1, 1] [2.0, 3.0]\n%c = Conv(%x, %w)";
  const text = (...lines: string[]): string => graph("%x: float32[1, 1, 2, 2]", "%y", ...bn, ...lines);
  it("keeps the output's name and both origins", async () => {
    const done = await applied(
      foldBatchNorm,
      text(conv.replace("Conv(%x, %w)", 'Conv(%x, %w) @"conv"'), '%y = BatchNormalization(%c, %s, %b, %m, %v) @"bn"'),
    );
    expect(done.nodes).toEqual(['%y = Conv(%x, %w.bn, %w.bn.bias) @"conv" from ["conv", "bn"]']);
  });
  it("folds one after the other", async () => {
    const done = await applied(
      foldBatchNorm,
      text(conv, "%d = BatchNormalization(%c, %s, %b, %m, %v)", "%y = BatchNormalization(%d, %s, %b, %m, %v)"),
    );
    expect(ops(done.after)).toEqual(["Conv"]);
    expect(await difference(done)).toBeLessThan(1e-6);
  });
  it("shares weights between two convolutions and folds into neither's", async () => {
    const done = await applied(
      foldBatchNorm,
      graph("%x: float32[1, 1, 2, 2]", "%y, %z", ...bn, conv, "%z = Conv(%x, %w)", "%y = BatchNormalization(%c, %s, %b, %m, %v)"),
    );
    expect(done.nodes).toContain("%z = Conv(%x, %w)");
    expect(await difference(done)).toBeLessThan(1e-6);
  });
  it.each([
    ["another reader of the convolution", text(conv, "%n = Neg(%c)", "%o = BatchNormalization(%c, %s, %b, %m, %v)", "%y = Add(%n, %o)")],
    ["an output in between", text(conv, "%y = BatchNormalization(%c, %s, %b, %m, %v)").replace("-> (%y)", "-> (%y, %c)")],
    ["something else before it", text("%c = Concat(%x, %x) {axis = 1}", "%y = BatchNormalization(%c, %s, %b, %m, %v)")],
    ["training mode", text(conv, "%y, %rm, %rv = BatchNormalization(%c, %s, %b, %m, %v) {training_mode = 1}")],
    [
      "weights that are no constants",
      graph(
        "%x: float32[1, 1, 2, 2], %w: float32[2, 1, 1, 1]",
        "%y",
        ...bn,
        "%c = Conv(%x, %w)",
        "%y = BatchNormalization(%c, %s, %b, %m, %v)",
      ),
    ],
    [
      "a Gemm that scales",
      graph(
        "%x: float32[4, 3]",
        "%y",
        ...bn,
        "const %w = float32[3, 2] [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]",
        "%c = Gemm(%x, %w) {alpha = 2.0}",
        "%y = BatchNormalization(%c, %s, %b, %m, %v)",
      ),
    ],
    [
      "a Gemm whose addend is a column",
      graph(
        "%x: float32[2, 3]",
        "%y",
        ...bn,
        "const %w = float32[3, 2] [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]",
        "const %column = float32[2, 1] [1.0, 2.0]",
        "%c = Gemm(%x, %w, %column)",
        "%y = BatchNormalization(%c, %s, %b, %m, %v)",
      ),
    ],
  ])("leaves %s", async (_, t) => {
    await leaves(foldBatchNorm, t);
  });
  it("folds in bodies", async () => {
    const done = await applied(
      foldBatchNorm,
      graph(
        "%x: float32[1, 1, 2, 2], %c: bool[]",
        "%y",
        "%y = If(%c) {",
        '  then_branch = graph "t" () captures (%k: float32[1, 1, 2, 2] = %x) -> (%r) {',
        ...bn.map((l) => l.replace("%b", "%b0")),
        "    const %w = float32[2, 1, 1, 1] [2.0, 3.0]",
        "    %q = Conv(%k, %w)",
        "    %r = BatchNormalization(%q, %s, %b0, %m, %v)",
        "  }",
        '  else_branch = graph "e" () captures (%k: float32[1, 1, 2, 2] = %x) -> (%r) {',
        "    %r = Concat(%k, %k) {axis = 1}",
        "  }",
        "}",
      ),
    );
    expect(done.text).not.toContain("BatchNormalization");
    expect(await difference(done)).toBeLessThan(1e-6);
  });
});
