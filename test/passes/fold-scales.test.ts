import { describe, expect, it } from "vitest";
import { foldScales } from "../../src/passes/fold-scales.js";
import { applied, difference, graph, leaves, ops } from "./support.js";

const consts: Readonly<Record<string, string>> = {
  w: "float32[2, 3, 1, 1] [1.0, 2.0, 3.0, -4.0, 5.0, 6.0]",
  wt: "float32[3, 2, 1, 1] [1.0, 2.0, 3.0, -4.0, 5.0, 6.0]",
  wg: "float32[4, 1, 1, 1] [1.0, 2.0, 3.0, -4.0]",
  m: "float32[3, 2] [1.0, 2.0, 3.0, -4.0, 5.0, 6.0]",
  mt: "float32[2, 3] [1.0, 2.0, 3.0, -4.0, 5.0, 6.0]",
  bias: "float32[2] [0.5, -1.0]",
  s: "float32[1, 2, 1, 1] [2.0, -3.0]",
  t: "float32[2, 1, 1] [0.25, 0.75]",
  sg: "float32[1, 4, 1, 1] [2.0, -3.0, 0.5, 1.5]",
  v: "float32[2] [2.0, -3.0]",
  u: "float32[2] [0.25, 0.75]",
  row: "float32[1, 2] [2.0, -3.0]",
  rows: "float32[4, 1] [2.0, -3.0, 1.0, 1.0]",
  two: "float32[] [2.0]",
  one5: "float32[1, 1, 1, 1, 1] [2.0]",
};
const text = (x: string, ...lines: string[]): string =>
  graph(
    `%x: float32[${x}]`,
    "%y",
    ...Object.entries(consts)
      .filter(([name]) => lines.some((l) => new RegExp(`%${name}\\b`).test(l)))
      .map(([name, c]) => `const %${name} = ${c}`),
    ...lines,
  );
const image = "2, 3, 4, 4";

describe("fold-scales", () => {
  it.each<[string, string, readonly string[], readonly string[]]>([
    ["a product and a sum behind Conv", image, ["%c = Conv(%x, %w)", "%p = Mul(%c, %s)", "%y = Add(%t, %p)"], ["Conv"]],
    ["behind a Conv with a bias", image, ["%c = Conv(%x, %w, %bias)", "%p = Mul(%s, %c)", "%y = Sub(%p, %t)"], ["Conv"]],
    ["a sum, a product and a sum", image, ["%c = Conv(%x, %w)", "%o = Add(%c, %t)", "%p = Mul(%o, %s)", "%y = Add(%p, %t)"], ["Conv"]],
    ["one number", image, ["%c = Conv(%x, %w, %bias)", "%p = Mul(%c, %two)", "%y = Add(%p, %two)"], ["Conv"]],
    ["ConvTranspose", image, ["%c = ConvTranspose(%x, %wt)", "%p = Mul(%c, %s)", "%y = Add(%p, %t)"], ["ConvTranspose"]],
    ["a grouped ConvTranspose", "2, 4, 3, 3", ["%c = ConvTranspose(%x, %wg) {group = 4}", "%y = Mul(%c, %sg)"], ["ConvTranspose"]],
    ["a depthwise Conv", "2, 4, 3, 3", ["%c = Conv(%x, %wg) {group = 4}", "%y = Mul(%c, %sg)"], ["Conv"]],
    ["Gemm", "4, 3", ["%c = Gemm(%x, %m, %bias)", "%p = Mul(%c, %v)", "%y = Add(%p, %row)"], ["Gemm"]],
    ["a transposed Gemm", "4, 3", ["%c = Gemm(%x, %mt) {transB = 1}", "%p = Mul(%c, %v)", "%y = Add(%p, %u)"], ["Gemm"]],
    ["MatMul", "4, 3", ["%c = MatMul(%x, %m)", "%y = Mul(%c, %v)"], ["MatMul"]],
    [
      "MatMul and its bias",
      "2, 4, 3",
      ["%c = MatMul(%x, %m)", "%o = Add(%c, %u)", "%p = Mul(%o, %row)", "%y = Add(%p, %u)"],
      ["MatMul", "Add"],
    ],
    ["two sums", "4, 2", ["%o = Add(%x, %u)", "%y = Add(%o, %v)"], ["Add"]],
  ])("%s", async (_, x, lines, wanted) => {
    const done = await applied(foldScales, text(x, ...lines));
    expect(ops(done.after)).toEqual(wanted);
    expect(await difference(done)).toBeLessThan(1e-6);
  });
  it("keeps the output's name and all origins", async () => {
    const done = await applied(
      foldScales,
      text(image, '%c = Conv(%x, %w) @"conv"', '%p = Mul(%c, %s) @"bn/mul"', '%y = Add(%p, %t) @"bn/add"'),
    );
    expect(done.nodes).toEqual(['%y = Conv(%x, %w.scaled, %t.bias) @"conv" from ["conv", "bn/mul", "bn/add"]']);
  });
  it.each<[string, string, readonly string[]]>([
    ["another reader", image, ["%c = Conv(%x, %w)", "%p = Mul(%c, %s)", "%y = Add(%p, %c)"]],
    ["a constant over rows", "4, 3", ["%c = Gemm(%x, %m)", "%y = Mul(%c, %rows)"]],
    [
      "a vector over the last dim of an image",
      image,
      ["%c = Conv(%x, %w)", "%y = Mul(%c, %big)", "const %big = float32[4] [1.0, 2.0, 3.0, 4.0]"],
    ],
    ["a constant that adds a dim", image, ["%c = Conv(%x, %w)", "%y = Mul(%c, %one5)"]],
    ["a difference the other way", image, ["%c = Conv(%x, %w)", "%y = Sub(%t, %c)"]],
    ["a Gemm that scales", "4, 3", ["%c = Gemm(%x, %m) {alpha = 2.0}", "%y = Mul(%c, %v)"]],
    ["a Gemm that scales its bias", "4, 3", ["%c = Gemm(%x, %m, %bias) {beta = 2.0}", "%y = Add(%c, %v)"]],
    ["a Gemm that would scale the bias it gets", "4, 3", ["%c = Gemm(%x, %m) {beta = 0.5}", "%y = Add(%c, %v)"]],
    ["sums of constants of other dims", "4, 2", ["%o = Add(%x, %u)", "%y = Add(%o, %rows)"]],
    ["a row behind a vector", "3", ["%c = MatMul(%x, %m)", "%y = Mul(%c, %row)"]],
  ])("leaves %s", async (_, x, lines) => {
    await leaves(foldScales, text(x, ...lines));
  });
  it("leaves an output in between", async () => {
    await leaves(foldScales, text(image, "%c = Conv(%x, %w)", "%y = Mul(%c, %s)").replace("-> (%y)", "-> (%y, %c)"));
  });
});
