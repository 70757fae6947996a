import { describe, expect, it } from "vitest";
import { raiseNormalizations as raise } from "../../src/passes/raise/normalizations.js";
import { applied, difference, graph, leaves, raisesTo } from "./support.js";

const floats = (...x: number[]): string => `[${x.map((v) => (Number.isInteger(v) ? `${v}.0` : v)).join(", ")}]`;
const eight = [1, -2, 0.5, 3, 0.25, 1.5, -1, 2];
const params: Readonly<Record<string, string>> = {
  axes: "int64[1] [-1]",
  last: "int64[1] [2]",
  lastTwo: "int64[2] [1, 2]",
  first: "int64[1] [1]",
  plane: "int64[2] [2, 3]",
  two: "float32[] [2.0]",
  one: "float32[] [1.0]",
  half: "float32[] [0.5]",
  minusHalf: "float32[] [-0.5]",
  eps: "float32[] [0.00001]",
  tiny: "float32[] [0.000000000001]",
  tinier: "float32[] [1e-24]",
  epsTwo: "float32[2, 1, 1] [1e-5, 1e-5]",
  tinyTwo: "float32[2, 1, 1] [1e-12, 1e-12]",
  w: `float32[8] ${floats(...eight)}`,
  b: `float32[8] ${floats(...eight.map((x) => x / 2))}`,
  w111: `float32[1, 1, 8] ${floats(...eight)}`,
  w1111: `float32[1, 1, 1, 8] ${floats(...eight)}`,
  wOne: "float32[1] [3.0]",
  w38: `float32[3, 8] ${floats(...eight, ...eight, ...eight)}`,
  wc: `float32[1, 4, 1, 1] ${floats(1, 2, -3, 0.5)}`,
  w41: `float32[4, 1] ${floats(1, 2, -3, 0.5)}`,
  bc: `float32[4, 1, 1] ${floats(0.1, 0.2, 0.3, 0.4)}`,
  ones2: "float32[2] [1.0, 1.0]",
  zeros2: "float32[2] [0.0, 0.0]",
  twos2: "float32[2] [2.0, 2.0]",
  split: "int64[3] [0, 2, -1]",
  whole: "int64[4] [2, 4, 3, 5]",
};
const text = (x: string, ...lines: string[]): string =>
  graph(
    `%x: ${x}`,
    "%y",
    ...Object.entries(params)
      .filter(([name]) => lines.some((l) => new RegExp(`%${name}\\b`).test(l)))
      .map(([name, value]) => `const %${name} = ${value}`),
    ...lines,
  );
/** The first half of a LayerNorm: mean, difference, variance, deviation. */
const stats = (axes = "axes"): string[] => [
  `%m = ReduceMean(%x, %${axes})`,
  "%d = Sub(%x, %m)",
  "%s = Pow(%d, %two)",
  `%v = ReduceMean(%s, %${axes})`,
  "%e = Add(%v, %eps)",
  "%r = Sqrt(%e)",
];
const rms = ["%s = Pow(%x, %two)", "%v = ReduceMean(%s, %axes)", "%e = Add(%v, %eps)", "%r = Sqrt(%e)"];

describe("raise-normalizations: LayerNorm", () => {
  it.each([
    ["PyTorch", [...stats(), "%n = Div(%d, %r)", "%g = Mul(%n, %w)", "%y = Add(%g, %b)"]],
    ["scale first", [...stats(), "%n = Div(%d, %r)", "%g = Mul(%w, %n)", "%y = Add(%b, %g)"]],
    ["a square by product", [...stats().map((l) => l.replace("Pow(%d, %two)", "Mul(%d, %d)")), "%n = Div(%d, %r)", "%y = Mul(%n, %w)"]],
    [
      "two differences",
      [...stats().map((l) => l.replace("Pow(%d,", "Pow(%d2,")), "%d2 = Sub(%x, %m)", "%n = Div(%d, %r)", "%y = Mul(%n, %w)"],
    ],
    ["a reciprocal", [...stats(), "%i = Reciprocal(%r)", "%n = Mul(%d, %i)", "%g = Mul(%n, %w)", "%y = Add(%g, %b)"]],
    ["one over the root", [...stats(), "%i = Div(%one, %r)", "%n = Mul(%i, %d)", "%y = Mul(%n, %w)"]],
    ["a power", [...stats().slice(0, -1), "%i = Pow(%e, %minusHalf)", "%n = Mul(%d, %i)", "%g = Mul(%n, %w)", "%y = Add(%g, %b)"]],
    ["a root by power", [...stats().slice(0, -1), "%r = Pow(%e, %half)", "%n = Div(%d, %r)", "%y = Mul(%n, %w)"]],
    ["no scale", [...stats(), "%y = Div(%d, %r)"]],
    ["no scale, a bias", [...stats(), "%n = Div(%d, %r)", "%y = Add(%n, %b)"]],
    ["parameters of more dims", [...stats(), "%n = Div(%d, %r)", "%y = Mul(%n, %w111)"]],
    ["a scale of one element", [...stats(), "%n = Div(%d, %r)", "%y = Mul(%n, %wOne)"]],
    ["natural axes", [...stats("last"), "%n = Div(%d, %r)", "%y = Mul(%n, %w)"]],
    ["two axes", [...stats("lastTwo"), "%n = Div(%d, %r)", "%y = Mul(%n, %w38)"]],
    [
      "TensorFlow",
      [
        ...stats(),
        "%i = Reciprocal(%r)",
        "%f = Mul(%i, %w)",
        "%p = Mul(%x, %f)",
        "%q = Mul(%m, %f)",
        "%t = Sub(%b, %q)",
        "%y = Add(%p, %t)",
      ],
    ],
  ])("%s", async (title, lines) => {
    const done = await raisesTo(raise, "LayerNormalization", text("float32[2, 3, 8]", ...(lines as string[])), 1e-5);
    expect(done.nodes[0]).toContain(title === "two axes" ? "axis = -2" : "axis = -1");
    expect(done.nodes[0]).toContain("epsilon = 0.000009999999747378752");
  });
  it("in float16, with statistics in float32 between Casts", async () => {
    const half = graph(
      "%x: float16[2, 64]",
      "%y",
      "const %two = float32[] [2.0]",
      "const %axes = int64[1] [-1]",
      "const %eps = float32[] [0.00001]",
      `const %w = float16[64] hex "${"003c".repeat(32)}${"0040".repeat(32)}"`,
      "%x32 = Cast(%x) {to = 1}",
      ...stats().map((l) => l.replaceAll("%x", "%x32")),
      "%n = Div(%d, %r)",
      "%n16 = Cast(%n) {to = 10}",
      "%y = Mul(%n16, %w)",
    );
    const done = await applied(raise, half);
    expect(done.nodes).toEqual(["%y = LayerNormalization(%x, %w) {axis = -1, epsilon = 0.000009999999747378752, stash_type = 1}"]);
    expect(await difference(done)).toBeLessThan(4e-3);
  });
  it("in float16 throughout", async () => {
    const half = graph(
      "%x: float16[2, 64]",
      "%y",
      'const %two = float16[] hex "0040"',
      "const %axes = int64[1] [-1]",
      'const %eps = float16[] hex "a800"',
      `const %w = float16[64] hex "${"003c".repeat(32)}${"0040".repeat(32)}"`,
      ...stats(),
      "%n = Div(%d, %r)",
      "%y = Mul(%n, %w)",
    );
    await raisesTo(raise, "LayerNormalization", half, 1e-2);
  });
  it("keeps a residual behind it apart from the bias", async () => {
    const done = await applied(raise, text("float32[2, 3, 8]", ...stats(), "%n = Div(%d, %r)", "%g = Mul(%n, %w)", "%y = Add(%g, %x)"));
    expect(done.nodes).toEqual([
      "%g = LayerNormalization(%x, %w) {axis = -1, epsilon = 0.000009999999747378752, stash_type = 1}",
      "%y = Add(%g, %x)",
    ]);
    expect(await difference(done)).toBeLessThan(1e-5);
  });
  it("leaves what nothing but a reader outside separates from one, and says so", async () => {
    const lines = [...stats(), "%n = Div(%d, %r)", "%y = Mul(%n, %w)"];
    const { remarks } = await leaves(raise, text("float32[2, 3, 8]", ...lines).replace("-> (%y)", "-> (%y, %v)"));
    expect(remarks.map((r) => r.text)).toContain("LayerNorm was recognised and left as it is: 'v' inside it is read elsewhere");
  });
  it.each([
    ["mean and variance over different axes", stats().map((l) => l.replace("%s, %axes", "%s, %first"))],
    ["statistics over a middle axis", stats("first")],
  ])("leaves %s, and says so", async (_, lines) => {
    const { remarks } = await leaves(raise, text("float32[2, 3, 8]", ...lines, "%n = Div(%d, %r)", "%y = Mul(%n, %w)"));
    expect(remarks.length).toBeGreaterThan(0);
    expect(remarks[0]?.text).toMatch(/^LayerNorm was recognised and left as it is: /);
  });
  it.each([
    ["a variance without its square", stats().map((l) => l.replace("Pow(%d, %two)", "Pow(%d, %one)"))],
    ["a root of something else", stats().map((l) => l.replace("Sqrt(%e)", "Exp(%e)"))],
    ["another numerator", stats().map((l) => l.replace("%s = Pow(%d", "%s = Pow(%x"))],
    ["an epsilon of two", stats().map((l) => l.replace("%eps", "%two"))],
  ])("leaves %s", async (_, lines) => {
    await leaves(raise, text("float32[2, 3, 8]", ...lines, "%n = Div(%d, %r)", "%y = Mul(%n, %w)"));
  });
  it("leaves a scale that would add a dim", async () => {
    await applied(raise, text("float32[2, 3, 8]", ...stats(), "%n = Div(%d, %r)", "%y = Mul(%n, %w1111)")).then((done) =>
      expect(done.nodes.at(-1)).toBe("%y = Mul(%n, %w1111)"),
    );
  });
});

it("raise-normalizations leaves float64, whose statistics the operators would keep in float32", async () => {
  const sixtyFour = (...lines: string[]): string => text("float32[2, 3, 8]", ...lines).replaceAll("float32", "float64");
  await leaves(raise, sixtyFour(...stats(), "%n = Div(%d, %r)", "%y = Mul(%n, %w)"));
  await leaves(raise, sixtyFour(...rms, "%n = Div(%x, %r)", "%y = Mul(%n, %w)"));
});

describe("raise-normalizations: RMSNorm", () => {
  it.each([
    ["a quotient", [...rms, "%n = Div(%x, %r)", "%y = Mul(%n, %w)"]],
    ["a reciprocal", [...rms, "%i = Reciprocal(%r)", "%n = Mul(%x, %i)", "%y = Mul(%w, %n)"]],
    ["a scaled reciprocal", [...rms, "%i = Reciprocal(%r)", "%f = Mul(%i, %w)", "%y = Mul(%x, %f)"]],
    ["a square by product", ["%s = Mul(%x, %x)", ...rms.slice(1), "%n = Div(%x, %r)", "%y = Mul(%n, %w)"]],
    ["no scale", [...rms, "%y = Div(%x, %r)"]],
  ])("%s", async (_, lines) => {
    await raisesTo(raise, "RMSNormalization", text("float32[2, 3, 8]", ...lines));
  });
  it("in float16, with statistics in float32 between Casts", async () => {
    const half = graph(
      "%x: float16[2, 64]",
      "%y",
      "const %two = float32[] [2.0]",
      "const %axes = int64[1] [-1]",
      "const %eps = float32[] [0.00001]",
      `const %w = float16[64] hex "${"003c".repeat(32)}${"0040".repeat(32)}"`,
      "%x32 = Cast(%x) {to = 1}",
      ...rms.map((l) => l.replaceAll("%x", "%x32")),
      "%i = Reciprocal(%r)",
      "%n = Mul(%x32, %i)",
      "%n16 = Cast(%n) {to = 10}",
      "%y = Mul(%w, %n16)",
    );
    await raisesTo(raise, "RMSNormalization", half, 4e-3);
  });
  it("leaves a mean over the first axis", async () => {
    const lines = [...rms.map((l) => l.replace("%axes", "%first")), "%n = Div(%x, %r)", "%y = Mul(%n, %w)"];
    const { remarks } = await leaves(raise, text("float32[2, 3, 8]", ...lines));
    expect(remarks.map((r) => r.text)).toContain("RMSNorm was recognised and left as it is: its mean is not over the last dims");
  });
});

describe("raise-normalizations: InstanceNorm and GroupNorm", () => {
  it.each([
    ["scale and bias", ["%n = Div(%d, %r)", "%g = Mul(%n, %wc)", "%y = Add(%g, %bc)"]],
    ["neither", ["%y = Div(%d, %r)"]],
  ])("InstanceNorm with %s", async (_, lines) => {
    await raisesTo(raise, "InstanceNormalization", text("float32[2, 4, 3, 5]", ...stats("plane"), ...lines));
  });
  it("three dims are a LayerNorm, unless the parameters are per channel", async () => {
    await raisesTo(raise, "LayerNormalization", text("float32[2, 4, 8]", ...stats("last"), "%y = Div(%d, %r)"));
    const lines = [...stats("last"), "%n = Div(%d, %r)", "%y = Mul(%n, %w41)"];
    await raisesTo(raise, "InstanceNormalization", text("float32[2, 4, 8]", ...lines));
  });
  it("takes no vector over the last dim for a scale of channels", async () => {
    const lines = [...stats("plane"), "%n = Div(%d, %r)", "%y = Mul(%n, %w)"];
    const done = await applied(raise, text("float32[2, 8, 8, 8]", ...lines));
    expect(done.nodes.at(-1)).toBe("%y = Mul(%n, %w)");
    expect(await difference(done)).toBeLessThan(1e-5);
  });
  const grouped = ["%i = Reshape(%x, %split)", "%n = InstanceNormalization(%i, %ones2, %zeros2)", "%o = Reshape(%n, %whole)"];
  it.each([
    ["scale and bias", [...grouped, "%g = Mul(%o, %wc)", "%y = Add(%g, %bc)"]],
    ["a bias", [...grouped, "%y = Add(%o, %bc)"]],
    ["neither", [...grouped.slice(0, 2), "%y = Reshape(%n, %whole)"]],
  ])("GroupNorm with %s", async (_, lines) => {
    const done = await raisesTo(raise, "GroupNormalization", text("float32[2, 4, 3, 5]", ...lines));
    expect(done.nodes[0]).toContain("num_groups = 2");
  });
  it("leaves groups with weights of their own, and says so", async () => {
    const lines = [...grouped.map((l) => l.replace("%ones2", "%twos2")), "%y = Add(%o, %bc)"];
    const { remarks } = await leaves(raise, text("float32[2, 4, 3, 5]", ...lines));
    expect(remarks.map((r) => r.text)).toContain("GroupNorm was recognised and left as it is: its groups have weights of their own");
  });
});

describe("raise-normalizations: L2 and pools", () => {
  it.each([
    ["ReduceL2", ["%n = ReduceL2(%x, %axes)", "%y = Div(%x, %n)"]],
    ["a clipped norm", ["%n = ReduceL2(%x, %axes)", "%c = Clip(%n, %tiny)", "%y = Div(%x, %c)"]],
    ["the root of a sum", ["%s = Mul(%x, %x)", "%t = ReduceSum(%s, %axes)", "%n = Sqrt(%t)", "%y = Div(%x, %n)"]],
    [
      "TensorFlow",
      [
        "%s = Mul(%x, %x)",
        "%t = ReduceSum(%s, %axes)",
        "%c = Max(%t, %tinier)",
        "%n = Sqrt(%c)",
        "%i = Reciprocal(%n)",
        "%y = Mul(%x, %i)",
      ],
    ],
    [
      "PyTorch, expanded",
      ["%n = ReduceL2(%x, %axes)", "%c = Clip(%n, %tiny)", "%sh = Shape(%x)", "%e = Expand(%c, %sh)", "%y = Div(%x, %e)"],
    ],
  ])("L2 normalisation by %s", async (_, lines) => {
    const done = await applied(raise, text("float32[2, 3, 8]", ...lines));
    expect(done.nodes.at(-1)).toBe("%y = LpNormalization(%x) {axis = 2, p = 2}");
    expect(await difference(done)).toBeLessThan(1e-5);
  });
  it("leaves a norm over two axes, and one that is kept from zero by much", async () => {
    await leaves(raise, text("float32[2, 3, 8]", "%n = ReduceL2(%x, %lastTwo)", "%y = Div(%x, %n)"));
    await leaves(raise, text("float32[2, 3, 8]", "%n = ReduceL2(%x, %axes)", "%c = Max(%n, %half)", "%y = Div(%x, %c)"));
  });
  it("leaves a sum of squares that is kept above a number: norms of a millionth are below it", async () => {
    const root = ["%s = Mul(%x, %x)", "%t = ReduceSum(%s, %axes)", "%c = Max(%t, %tiny)", "%n = Sqrt(%c)", "%i = Reciprocal(%n)"];
    await leaves(raise, text("float32[2, 3, 8]", ...root, "%y = Mul(%x, %i)"));
  });
  it.each([
    ["an epsilon", ["%s = Mul(%x, %x)", "%t = ReduceMean(%s, %axes)", "%e = Add(%t, %epsTwo)", "%n = Sqrt(%e)", "%y = Div(%x, %n)"]],
    ["a guard", ["%n = ReduceL2(%x, %axes)", "%c = Max(%n, %tinyTwo)", "%y = Div(%x, %c)"]],
  ])("leaves %s that makes the result wider than the input", async (_, lines) => {
    await leaves(raise, text("float32[1, 3, 8]", ...lines));
  });
  it("a mean over all spatial dims is a global pool", async () => {
    await raisesTo(raise, "GlobalAveragePool", text("float32[2, 4, 3, 5]", "%y = ReduceMean(%x, %plane)"));
    const flat = await applied(raise, text("float32[2, 4, 3, 5]", "%y = ReduceMean(%x, %plane) {keepdims = 0}"));
    expect(flat.nodes.map((l) => / = (\w+)/.exec(l)?.[1])).toEqual(["GlobalAveragePool", "Flatten"]);
    expect(await difference(flat)).toBeLessThan(1e-6);
  });
  it("leaves a mean over features, and over some of the spatial dims", async () => {
    await leaves(raise, text("float32[2, 3, 8]", "%y = ReduceMean(%x, %last)"));
    await leaves(raise, text("float32[2, 4, 3, 5]", "%y = ReduceMean(%x, %last)"));
  });
});
