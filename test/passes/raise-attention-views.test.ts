/** Attention whose scores, masks, operands or results are seen with other leading dims: batch and heads as one dim, windows and groups of heads as dims of their own. */
import { describe, expect, it } from "vitest";
import { deadCode } from "../../src/passes/dead-code.js";
import { noOps } from "../../src/passes/no-ops.js";
import { raiseAttention as raise } from "../../src/passes/raise/attention.js";
import { applied, difference, graph, leaves, ops } from "./support.js";

/** Raised, without what nobody reads any more; the same numbers. */
async function raised(inputs: string, lines: readonly string[], tolerance = 1e-5): Promise<readonly string[]> {
  const done = await applied([noOps, raise, deadCode], graph(inputs, "%y", ...lines));
  expect(await difference(done)).toBeLessThan(tolerance);
  expect(ops(done.after)).not.toContain("Softmax");
  return done.nodes.map((l) => l.replace(/ @".*$/, ""));
}
const ints = (name: string, ...values: readonly number[]): string => `const %${name} = int64[${values.length}] [${values.join(", ")}]`;
const end = ["%p = Softmax(%s)", "%y = MatMul(%p, %v)"];

describe("raise-attention: batch and heads as one dim", () => {
  const open = "%q: float32[n, 6, s, 4], %k: float32[n, 6, t, 4], %v: float32[n, 6, t, 3]";
  const dims = [ints("less", -1), ints("six", 6), ints("three", 3), ints("eighteen", 18)];
  const shapes = [
    ...dims,
    "%n1 = Shape(%q) {start = 0, end = 1}",
    "%s1 = Shape(%q) {start = 2, end = 3}",
    "%t1 = Shape(%k) {start = 2, end = 3}",
    "%scores4 = Concat(%n1, %six, %s1, %t1) {axis = 0}",
    "%scores3 = Concat(%less, %s1, %t1) {axis = 0}",
    "%y4 = Concat(%n1, %six, %s1, %three) {axis = 0}",
    ...["q", "k", "v"].flatMap((x) => [
      `%${x}1 = Shape(%${x}) {start = 2}`,
      `%${x}s = Concat(%less, %${x}1) {axis = 0}`,
      `%${x}3 = Reshape(%${x}, %${x}s)`,
    ]),
    "%kt = Transpose(%k3) {perm = [0, 2, 1]}",
    "%m3 = MatMul(%q3, %kt)",
    "%m = Reshape(%m3, %scores4)",
  ];
  const result = ["%y3 = MatMul(%w, %v3)", "%again = Reshape(%y3, %y4)", "%y = Transpose(%again) {perm = [0, 2, 1, 3]}"];
  const turned = "%y = Transpose(%attention/heads) {perm = [0, 2, 1, 3]}";
  it("in the products and the softmax, not under the mask (OPT, BART)", async () => {
    const lines = ["%a = Add(%m, %mask)", "%s = Reshape(%a, %scores3)", "%w = Softmax(%s)"];
    expect(await raised(`${open}, %mask: float32[n, 1, s, t]`, [...shapes, ...lines, ...result])).toEqual([
      "%attention/heads = Attention(%q, %k, %v, %mask) {scale = 1.0}",
      turned,
    ]);
  });
  it("in the products, not in the softmax, with slopes over merged heads (BLOOM)", async () => {
    const lines = [
      ints("one", 1),
      "%rows = Concat(%less, %one, %t1) {axis = 0}",
      "%slopes = Reshape(%each, %rows)",
      "%b3 = Add(%m3, %slopes)",
      "%b = Reshape(%b3, %scores4)",
      "%s = Add(%b, %mask)",
      "%p = Softmax(%s)",
      "%w = Reshape(%p, %scores3)",
    ];
    const inputs = `${open}, %mask: float32[n, 1, s, t], %each: float32[n, 6, t]`;
    const found = await raised(inputs, [...shapes.slice(0, -1), ...lines, ...result]);
    expect(found.slice(-3)).toEqual([
      "%attention/mask.3 = Add(%mask, %attention/mask.2)",
      "%attention/heads = Attention(%q, %k, %v, %attention/mask.3) {scale = 1.0}",
      turned,
    ]);
    expect(found).toContain("%attention/mask.2 = Reshape(%slopes, %attention/mask.1)");
  });
  it("scores kept above the lowest number (XGLM)", async () => {
    const lines = [
      "const %lowest = float32[] [-3.4028234663852886e+38]",
      "const %zero = float32[] [0.0]",
      "%mask = Where(%c, %zero, %lowest)",
      "%a = Add(%m, %mask)",
      "%x = Max(%a, %lowest)",
      "%s = Reshape(%x, %scores3)",
      "%p = Softmax(%s)",
      "%again4 = Reshape(%p, %scores4)",
      "%w = Reshape(%again4, %scores3)",
    ];
    expect(await raised(`${open}, %c: bool[n, 1, s, t]`, [...shapes, ...lines, ...result])).toEqual([
      "%mask = Where(%c, %zero, %lowest)",
      "%attention/heads = Attention(%q, %k, %v, %mask) {scale = 1.0}",
      turned,
    ]);
  });
  it("in the result, which others read so", async () => {
    const lines = ["%a = Add(%m, %mask)", "%s = Reshape(%a, %scores3)", "%w = Softmax(%s)", "%y3 = MatMul(%w, %v3)", "%y = Neg(%y3)"];
    const found = await raised(`${open}, %mask: float32[n, 1, s, t]`, [...shapes, ...lines]);
    expect(found[0]).toBe("%attention/heads = Attention(%q, %k, %v, %mask) {scale = 1.0}");
    expect(found.slice(-2)).toEqual(["%y3 = Reshape(%attention/heads, %attention/heads.2)", "%y = Neg(%y3)"]);
  });
  it("with a mask of a row for each, in fixed dims", async () => {
    const lines = [
      ints("a4", 2, 6, 5, 7),
      ints("a3", 12, 5, 7),
      "%t = Transpose(%k) {perm = [0, 2, 1]}",
      "%m3 = MatMul(%q, %t)",
      "%b3 = Add(%m3, %bias)",
      "%b = Reshape(%b3, %a4)",
      "%c = Add(%b, %mask)",
      "%s = Reshape(%c, %a3)",
      ...end,
    ];
    const inputs =
      "%q: float32[12, 5, 4], %k: float32[12, 7, 4], %v: float32[12, 7, 3], %bias: float32[12, 1, 7], %mask: float32[2, 1, 5, 7]";
    const found = await raised(inputs, lines);
    expect(found.map((l) => / = (\w+)/.exec(l)?.[1])).toEqual(["Reshape", "Reshape", "Reshape", "Reshape", "Add", "Attention", "Reshape"]);
  });
});

describe("raise-attention: windows and groups", () => {
  it("a mask for each window, over a batch that is open (Swin)", async () => {
    const lines = [
      ints("five", -1, 3, 2, 5, 5),
      ints("four", -1, 2, 5, 5),
      "%t = Transpose(%k) {perm = [0, 1, 3, 2]}",
      "%m = MatMul(%q, %t)",
      "%b = Add(%m, %bias)",
      "%w = Reshape(%b, %five)",
      "%c = Add(%w, %mask)",
      "%s = Reshape(%c, %four)",
      ...end,
    ];
    const windows = [ints("heads", -1, 2, 5, 4), ...["q", "k", "v"].map((x) => `%${x} = Reshape(%${x}5, %heads)`)];
    const x = "float32[n, 3, 2, 5, 4]";
    const inputs = `%q5: ${x}, %k5: ${x}, %v5: ${x}, %bias: float32[1, 2, 5, 5], %mask: float32[1, 3, 1, 5, 5]`;
    const found = await raised(inputs, [...windows, ...lines]);
    const made = found.map((l) => / = (\w+)/.exec(l)?.[1]);
    expect(made).toEqual(["Reshape", "Reshape", "Reshape", "Reshape", "Shape", "Div", "Concat", "Tile", "Add", "Attention"]);
  });
  it("five dims (Hiera)", async () => {
    const lines = ["%t = Transpose(%k) {perm = [0, 1, 2, 4, 3]}", "%m = MatMul(%q, %t)", "%s = Add(%m, %mask)", ...end];
    const found = await raised(
      "%q: float32[n, 2, 6, 5, 4], %k: float32[n, 2, 6, 7, 4], %v: float32[n, 2, 6, 7, 3], %mask: float32[5, 7]",
      lines,
    );
    expect(found).toEqual([
      "%attention/query = Reshape(%q, %/shape)",
      "%attention/key = Reshape(%k, %/shape.1)",
      "%attention/value = Reshape(%v, %/shape.2)",
      "%attention/heads = Attention(%attention/query, %attention/key, %attention/value, %mask) {scale = 1.0}",
      "%y = Reshape(%attention/heads, %/shape.3)",
    ]);
  });
  it("heads of queries in groups, over a head of keys each", async () => {
    const lines = ["%t = Transpose(%k) {perm = [0, 1, 2, 4, 3]}", "%m = MatMul(%q, %t)", "%s = Add(%m, %mask)", ...end];
    const inputs = "%q: float32[2, 3, 4, 5, 8], %k: float32[2, 3, 1, 7, 8], %v: float32[2, 3, 1, 7, 3], %mask: float32[2, 1, 1, 5, 7]";
    const found = await raised(inputs, lines);
    expect(found).toEqual([
      "%attention/query = Reshape(%q, %/shape)",
      "%attention/key = Reshape(%k, %/shape.1)",
      "%attention/value = Reshape(%v, %/shape.2)",
      "%attention/mask = Reshape(%mask, %/shape.3)",
      "%attention/heads = Attention(%attention/query, %attention/key, %attention/value, %attention/mask) {scale = 1.0}",
      "%y = Reshape(%attention/heads, %/shape.4)",
    ]);
  });
  it("a mask of one of the dims that are made one, expanded", async () => {
    const lines = ["%t = Transpose(%k) {perm = [0, 1, 2, 4, 3]}", "%m = MatMul(%q, %t)", "%s = Add(%m, %mask)", ...end];
    const x = (d: number): string => `float32[2, 3, 4, 5, ${d}]`;
    const found = await raised(`%q: ${x(8)}, %k: ${x(8)}, %v: ${x(3)}, %mask: float32[1, 3, 1, 5, 5]`, lines);
    expect(found.filter((l) => l.includes("Expand"))).toEqual(["%attention/mask = Expand(%mask, %/shape.3)"]);
  });
  it("leaves a mask over dims that are parted otherwise", async () => {
    const lines = [
      ints("a4", 4, 3, 5, 7),
      ints("b4", 2, 6, 5, 7),
      "%t = Transpose(%k) {perm = [0, 1, 3, 2]}",
      "%m = MatMul(%q, %t)",
      "%r = Reshape(%m, %a4)",
      "%a = Add(%r, %mask)",
      "%s = Reshape(%a, %b4)",
      ...end,
    ];
    const inputs = "%q: float32[2, 6, 5, 4], %k: float32[2, 6, 7, 4], %v: float32[2, 6, 7, 3], %mask: float32[4, 1, 5, 7]";
    const { remarks } = await leaves(raise, graph(inputs, "%y", ...lines));
    expect(remarks.map((r) => r.text)).toEqual([
      "attention was recognised and left as it is: its mask of dims [4,1,5,7] cannot be seen over [2,6]",
    ]);
  });
});

describe("raise-attention: shapes that are asked for inside", () => {
  const inputs = "%q: float32[n, 6, s, 4], %k: float32[n, 6, t, 4], %v: float32[n, 6, t, 3]";
  const product = ["%t = Transpose(%k) {perm = [0, 1, 3, 2]}", "%s = MatMul(%q, %t)"];
  it("of scores and weights, are those of Q and K (DeBERTa v2)", async () => {
    const lines = [
      ints("zero", 0),
      ...product,
      "%four = Shape(%s)",
      "%p = Softmax(%s)",
      "%last = Shape(%p) {start = -1}",
      "%y4 = MatMul(%p, %v)",
      "%sums = ReduceSum(%four) {keepdims = 1}",
      "%both = Concat(%zero, %zero, %sums, %last) {axis = 0}",
      "%all = ReduceSum(%both) {keepdims = 1}",
      "%f = Cast(%all) {to = 1}",
      "%y = Add(%y4, %f)",
    ];
    const found = await raised(inputs, lines);
    expect(found).toContain("%y4 = Attention(%q, %k, %v) {scale = 1.0}");
    expect(found.filter((l) => l.includes("= Shape("))).toEqual([
      "%attention/shape = Shape(%k) {start = 2, end = 3}",
      "%attention/shape.1 = Shape(%q) {start = 0, end = 1}",
      "%attention/shape.2 = Shape(%q) {start = 2, end = 3}",
      "%attention/shape.3 = Shape(%k) {start = 2, end = 3}",
    ]);
  });
  it("stay where they are given out", async () => {
    const text = graph(inputs, "%y, %d", ...product, "%d = Shape(%s)", ...end);
    const { remarks } = await leaves(raise, text);
    expect(remarks.map((r) => r.text)).toEqual(["attention was recognised and left as it is: 's' inside it is read elsewhere"]);
  });
});

describe("raise-attention: masks before scales, and casts", () => {
  it("scores scaled by a number for each head (Swin v2)", async () => {
    const lines = [
      "%t = Transpose(%k) {perm = [0, 1, 3, 2]}",
      "%m = MatMul(%q, %t)",
      "%a = Mul(%m, %scales)",
      "%s = Add(%a, %mask)",
      ...end,
    ];
    const inputs =
      "%q: float32[2, 6, 5, 4], %k: float32[2, 6, 7, 4], %v: float32[2, 6, 7, 3], %mask: float32[6, 5, 7], %scales: float32[6, 1, 1]";
    expect(await raised(inputs, lines, 1e-4)).toEqual([
      "%attention/scale = Mul(%q, %scales)",
      "%y = Attention(%attention/scale, %k, %v, %mask) {scale = 1.0}",
    ]);
  });
  it("a mask cut from a table of the longest length (GPT Neo)", async () => {
    const lines = [
      "const %lowest = float32[] [-inf]",
      ints("zeros", 0, 0),
      ints("axes", 0, 1),
      "%length = Shape(%q) {start = 2, end = 3}",
      "%ends = Concat(%length, %length) {axis = 0}",
      "%look = Slice(%table, %zeros, %ends, %axes)",
      "%t = Transpose(%k) {perm = [0, 1, 3, 2]}",
      "%m = MatMul(%q, %t)",
      "%s = Where(%look, %m, %lowest)",
      ...end,
    ];
    const inputs = "%q: float32[n, 6, s, 4], %k: float32[n, 6, s, 4], %v: float32[n, 6, s, 3], %table: bool[64, 64]";
    expect((await raised(inputs, lines)).at(-1)).toBe("%y = Attention(%q, %k, %v, %look) {scale = 1.0}");
  });
  it("a mask that is scaled with the scores (CodeGen)", async () => {
    const lines = [
      "const %two = float32[] [2.0]",
      "%t = Transpose(%k) {perm = [0, 1, 3, 2]}",
      "%m = MatMul(%q, %t)",
      "%a = Add(%m, %mask)",
      "%s = Div(%a, %two)",
      ...end,
    ];
    expect(await raised("%q: float32[2, 6, 5, 4], %k: float32[2, 6, 7, 4], %v: float32[2, 6, 7, 3], %mask: float32[5, 7]", lines)).toEqual([
      "%attention/mask = Mul(%mask, %/mask)",
      "%y = Attention(%q, %k, %v, %attention/mask) {scale = 0.5}",
    ]);
  });
  it("a product in float16 and all behind it in float32 (PyTorch's decomposition in TorchScript)", async () => {
    const lines = [
      "%t = Transpose(%k) {perm = [0, 1, 3, 2]}",
      "%m = MatMul(%q, %t)",
      "%wide = Cast(%m) {to = 1}",
      "%s = Add(%wide, %mask)",
      "%p = Softmax(%s)",
      "%w = Cast(%v) {to = 1}",
      "%y = MatMul(%p, %w)",
    ];
    const x = "float16[1, 2, 8, 16]";
    expect(await raised(`%q: ${x}, %k: ${x}, %v: ${x}, %mask: float32[8, 8]`, lines, 1e-2)).toEqual([
      "%w = Cast(%v) {to = 1}",
      "%attention/query = Cast(%q) {to = 1}",
      "%attention/key = Cast(%k) {to = 1}",
      "%y = Attention(%attention/query, %attention/key, %w, %mask) {scale = 1.0}",
    ]);
  });
  it("a softmax in float16 whose result is cast to float32 and back", async () => {
    const x = "float16[1, 2, 8, 16]";
    const lines = [
      "%t = Transpose(%k) {perm = [0, 1, 3, 2]}",
      "%s = MatMul(%q, %t)",
      "%p = Softmax(%s)",
      "%wide = Cast(%p) {to = 1}",
      "%w = Cast(%wide) {to = 10}",
      "%y = MatMul(%w, %v)",
    ];
    expect(await raised(`%q: ${x}, %k: ${x}, %v: ${x}`, lines, 1e-2)).toEqual(["%y = Attention(%q, %k, %v) {scale = 1.0}"]);
  });
});

describe("raise-attention: Einsum", () => {
  const inputs = "%q: float32[n, 5, 6, 4], %k: float32[n, 7, 6, 4], %v: float32[n, 7, 6, 3]";
  const eq = (equation: string): string => `{equation = "${equation}"}`;
  it("of Keras: heads behind the positions", async () => {
    const lines = [
      "const %half = float32[] [0.5]",
      `%m = Einsum(%q, %k) ${eq("btnh,bsnh->bnts")}`,
      "%s = Mul(%m, %half)",
      "%p = Softmax(%s)",
      `%y = Einsum(%p, %v) ${eq("bnts, bsnh -> btnh")}`,
    ];
    expect(await raised(inputs, lines)).toEqual([
      "%einsum/turned = Transpose(%q) {perm = [0, 2, 1, 3]}",
      "%einsum/turned.2 = Transpose(%v) {perm = [0, 2, 1, 3]}",
      "%einsum/product/key = Transpose(%k) {perm = [0, 2, 1, 3]}",
      "%einsum/product = Attention(%einsum/turned, %einsum/product/key, %einsum/turned.2) {scale = 0.5}",
      '%y = Transpose(%einsum/product) {perm = [0, 2, 1, 3]} from [""]',
    ]);
  });
  it("with keys first, over one of two axes", async () => {
    const x = (d: number): string => `float32[n, 3, 5, 6, ${d}]`;
    const lines = [
      `%s = Einsum(%k, %q) ${eq("abcde,abfde->abdfc")}`,
      "%p = Softmax(%s)",
      `%y = Einsum(%p, %v) ${eq("abdfc,abcdg->abfdg")}`,
    ];
    const found = await raised(`%q: ${x(4)}, %k: ${x(4)}, %v: ${x(7)}`, lines);
    expect(found.filter((l) => l.includes("Attention("))).toHaveLength(1);
  });
  it.each([
    ["a sum over the queries", "btnh,bsnh->bnts", "bnts,btnh->bsnh"],
    ["a sum over two letters", "btnh,bsnh->bts", "bts,bsnh->btnh"],
    ["a letter that one operand sums alone", "btnh,bsnx->bnts", "bnts,bsnh->btnh"],
  ])("leaves %s", async (_, scores, result) => {
    const lines = [`%s = Einsum(%q, %k) ${eq(scores)}`, "%p = Softmax(%s)", `%y = Einsum(%p, %v) ${eq(result)}`];
    await leaves(raise, graph("%q: float32[2, 5, 5, 4], %k: float32[2, 5, 5, 4], %v: float32[2, 5, 5, 3]", "%y", ...lines));
  });
});

describe("raise-attention: a choice by arithmetic", () => {
  const inputs =
    "%q: float32[2, 6, 5, 4], %k: float32[2, 6, 7, 4], %v: float32[2, 6, 7, 3], %look: bool[2, 1, 5, 7], %other: bool[2, 1, 5, 7]";
  const lines = (not: string, fill: string): readonly string[] => [
    `const %fill = float32[] [${fill}]`,
    "%t = Transpose(%k) {perm = [0, 1, 3, 2]}",
    "%m = MatMul(%q, %t)",
    "%open = Cast(%look) {to = 1}",
    `%n = Not(${not})`,
    "%shut = Cast(%n) {to = 1}",
    "%a = Mul(%open, %m)",
    "%b = Mul(%fill, %shut)",
    "%s = Add(%a, %b)",
    ...end,
  ];
  it("scores * look + number * !look (tf2onnx)", async () => {
    const found = await raised(inputs, lines("%look", "-1.0e+9"));
    expect(found).toEqual([
      "%attention/mask = Where(%look, %/mask, %/mask.1)",
      "%y = Attention(%q, %k, %v, %attention/mask) {scale = 1.0}",
    ]);
  });
  it.each([
    ["two masks", "%other", "-1.0e+9", "its scores are no product of two matrices"],
    ["a number that masks nothing", "%look", "2.0", "its mask puts something else than a large negative number in the place of scores"],
  ])("stays with %s", async (_, not, fill, why) => {
    const { remarks } = await leaves(raise, graph(inputs, "%y", ...lines(not, fill)));
    expect(remarks.map((r) => r.text)).toEqual([`attention was recognised and left as it is: ${why}`]);
  });
});
