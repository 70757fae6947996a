import { describe, expect, it } from "vitest";
import { parse } from "../../src/ir/parse.js";
import { inferGraph } from "../../src/ops/infer.js";
import { deadCode } from "../../src/passes/dead-code.js";
import { lower } from "../../src/passes/lower.js";
import { raiseAttention as raise } from "../../src/passes/raise/attention.js";
import { Tensor } from "../../src/tensor.js";
import { relativeError, runGraph } from "../../src/testing.js";
import { applied, difference, feeds, graph, leaves, ops } from "./support.js";

const consts: Readonly<Record<string, string>> = {
  two: "float32[] [2.0]",
  half: "float32[] [0.5]",
  root: "float32[] [0.75]",
  zero: "float32[] [0.0]",
  ninf: "float32[] [-inf]",
  lowest: "float32[] [-3.4028234663852886e+38]",
  small: "float32[] [-10000.0]",
  minus: "float32[] [-4.0]",
  axis2: "int64[1] [2]",
};
const q = "%q: float32[2, 6, 5, 4]";
const kv = "%k: float32[2, 6, 7, 4], %v: float32[2, 6, 7, 3]";
/** A graph around the given lines; the scalars they name are declared. */
const text = (inputs: string, outputs: string, ...lines: string[]): string =>
  graph(
    inputs,
    outputs,
    ...Object.entries(consts)
      .filter(([name]) => lines.some((l) => new RegExp(`%${name}\\b`).test(l)))
      .map(([name, c]) => `const %${name} = ${c}`),
    ...lines,
  );
const kt = "%t = Transpose(%k) {perm = [0, 1, 3, 2]}";
const end = ["%p = Softmax(%s)", "%y = MatMul(%p, %v)"];

async function raises(
  inputs: string,
  lines: readonly string[],
  last: string,
  before: readonly string[] = [],
  tolerance = 1e-5,
): Promise<void> {
  const done = await applied(raise, text(inputs, "%y", ...lines));
  expect(done.nodes).toEqual([...before, last]);
  expect(await difference(done)).toBeLessThan(tolerance);
}

describe("raise-attention: scales", () => {
  it.each([
    ["none", ["%s = MatMul(%q, %t)"], "1.0"],
    ["scores divided", ["%m = MatMul(%q, %t)", "%s = Div(%m, %two)"], "0.5"],
    ["scores multiplied", ["%m = MatMul(%q, %t)", "%s = Mul(%half, %m)"], "0.5"],
    ["Q multiplied", ["%a = Mul(%q, %half)", "%s = MatMul(%a, %t)"], "0.5"],
    ["K divided", ["%b = Div(%t, %two)", "%s = MatMul(%q, %b)"], "0.5"],
    ["Q and K multiplied", ["%a = Mul(%q, %root)", "%b = Mul(%t, %root)", "%s = MatMul(%a, %b)"], "0.5625"],
    ["Q, K and the scores", ["%a = Mul(%q, %root)", "%b = Mul(%t, %root)", "%m = MatMul(%a, %b)", "%s = Div(%m, %two)"], "0.28125"],
  ])("%s", async (_, lines, scale) => {
    await raises(`${q}, ${kv}`, [kt, ...lines, ...end], `%y = Attention(%q, %k, %v) {scale = ${scale}}`);
  });
  it("a scale that is no constant goes to Q", async () => {
    await raises(
      `${q}, ${kv}, %f: float32[1]`,
      [kt, "%m = MatMul(%q, %t)", "%s = Div(%m, %f)", ...end],
      "%y = Attention(%attention/scale, %k, %v) {scale = 1.0}",
      ['%attention/scale = Div(%q, %f) @"/scale" from [""]'],
      1e-4,
    );
  });
  it("a batch that is open", async () => {
    await raises(
      "%q: float32[n, 6, s, 4], %k: float32[n, 6, t, 4], %v: float32[n, 6, t, 3]",
      [kt, "%s = MatMul(%q, %t)", ...end],
      "%y = Attention(%q, %k, %v) {scale = 1.0}",
    );
  });
});

describe("raise-attention: capped scores", () => {
  const mask = "%mask: float32[5, 7]";
  const scores = [kt, "%m = MatMul(%q, %t)"];
  it.each([
    [
      "divided by the cap and multiplied again (Gemma 2)",
      ["%a = Mul(%m, %root)", "%b = Div(%a, %two)", "%c = Tanh(%b)", "%d = Mul(%c, %two)"],
      "0.75",
      "2.0",
    ],
    ["by another number than they are divided by", ["%a = Mul(%m, %root)", "%c = Tanh(%a)", "%d = Mul(%two, %c)"], "1.5", "2.0"],
    ["by a negative number", ["%c = Tanh(%m)", "%d = Div(%c, %minus)"], "-0.25", "0.25"],
    ["at one", ["%d = Tanh(%m)"], "1.0", "1.0"],
  ])("%s", async (_, lines, scale, cap) => {
    const all = [...scores, ...lines, "%s = Add(%d, %mask)", ...end];
    await raises(`${q}, ${kv}, ${mask}`, all, `%y = Attention(%q, %k, %v, %mask) {scale = ${scale}, softcap = ${cap}}`, [], 1e-4);
  });
  it("scaled by a number that is no constant before the cap", async () => {
    const lines = ["%a = Mul(%m, %f)", "%c = Tanh(%a)", "%s = Mul(%c, %two)"];
    await raises(
      `${q}, ${kv}, %f: float32[1]`,
      [...scores, ...lines, ...end],
      "%y = Attention(%attention/scale, %k, %v) {scale = 2.0, softcap = 2.0}",
      ['%attention/scale = Mul(%q, %f) @"/scale" from [""]'],
      1e-4,
    );
  });
  it.each([
    ["a mask inside the cap", ["%a = Add(%m, %mask)", "%c = Tanh(%a)", "%s = Mul(%c, %two)"], "Mul 's'"],
    ["two caps", ["%a = Tanh(%m)", "%b = Mul(%a, %two)", "%c = Tanh(%b)", "%s = Add(%c, %mask)"], "Add 's'"],
    ["a number that is no constant behind the cap", ["%a = Tanh(%m)", "%c = Mul(%a, %f)", "%s = Add(%c, %mask)"], "Add 's'"],
  ])("stay with %s", async (_, lines, from) => {
    const { remarks } = await leaves(raise, text(`${q}, ${kv}, ${mask}, %f: float32[1]`, "%y", ...scores, ...lines, ...end));
    expect(remarks.map((r) => r.text)).toEqual([
      `attention was recognised and left as it is: its scores come from ${from}, not from a product of Q and K that is scaled and masked`,
    ]);
  });
});

describe("raise-attention: masks", () => {
  const scores = [kt, "%m = MatMul(%q, %t)", "%n = Mul(%m, %half)"];
  it.each([
    ["per batch", "2, 1, 5, 7"],
    ["for all queries", "2, 1, 1, 7"],
    ["a matrix", "5, 7"],
    ["per head", "6, 5, 7"],
  ])("added, %s", async (_, dims) => {
    const lines = [...scores, "%s = Add(%n, %mask)", ...end];
    await raises(`${q}, ${kv}, %mask: float32[${dims}]`, lines, "%y = Attention(%q, %k, %v, %mask) {scale = 0.5}");
    await raises(
      `${q}, ${kv}, %mask: float32[${dims}]`,
      lines.map((l) => l.replace("%n, %mask", "%mask, %n")),
      "%y = Attention(%q, %k, %v, %mask) {scale = 0.5}",
    );
  });
  it("two added", async () => {
    await raises(
      `${q}, ${kv}, %bias: float32[6, 5, 7], %mask: float32[2, 1, 1, 7]`,
      [...scores, "%o = Add(%n, %bias)", "%s = Add(%o, %mask)", ...end],
      "%y = Attention(%q, %k, %v, %attention/mask) {scale = 0.5}",
      ['%attention/mask = Add(%mask, %bias) @"/mask" from [""]'],
    );
  });
  it.each([
    ["one image", 1, 3, "3, 1, 5, 5", ["Add", "Attention"]],
    ["a batch", 2, 3, "1, 3, 1, 5, 5", ["Expand", "Reshape", "Add", "Attention"]],
  ])("per window, and a bias per head (Swin), %s", async (_, batch, windows, mask, wanted) => {
    const n = batch * windows;
    const done = await applied(
      raise,
      text(
        `%q: float32[${n}, 2, 5, 4], %k: float32[${n}, 2, 5, 4], %v: float32[${n}, 2, 5, 4], %bias: float32[1, 2, 5, 5], %mask: float32[${mask}]`,
        "%y",
        `const %five = int64[5] [${batch}, ${windows}, 2, 5, 5]`,
        "const %four = int64[4] [-1, 2, 5, 5]",
        kt,
        "%a = Mul(%q, %half)",
        "%m = MatMul(%a, %t)",
        "%b = Add(%m, %bias)",
        "%w = Reshape(%b, %five)",
        "%c = Add(%w, %mask)",
        "%s = Reshape(%c, %four)",
        ...end,
      ),
    );
    expect(ops(done.after)).toEqual(wanted);
    expect(await difference(done)).toBeLessThan(1e-5);
  });
  it("chosen by Where, -inf elsewhere: a boolean mask", async () => {
    const lines = [...scores, "%s = Where(%mask, %n, %ninf)", ...end];
    await raises(`${q}, ${kv}, %mask: bool[2, 1, 5, 7]`, lines, "%y = Attention(%q, %k, %v, %mask) {scale = 0.5}");
    await raises(
      `${q}, ${kv}, %mask: bool[2, 1, 5, 7]`,
      lines.map((l) => l.replace("Where(%mask, %n, %ninf)", "Where(%out, %ninf, %n)")).concat("%out = Not(%mask)"),
      "%y = Attention(%q, %k, %v, %attention/mask) {scale = 0.5}",
      ["%out = Not(%mask)", '%attention/mask = Not(%out) @"/mask" from [""]'],
    );
  });
  it("chosen by Where, the lowest number elsewhere: added", async () => {
    const done = await applied(
      raise,
      text(`${q}, ${kv}, %mask: bool[2, 1, 5, 7]`, "%y", ...scores, "%s = Where(%mask, %n, %lowest)", ...end),
    );
    expect(ops(done.after)).toEqual(["Where", "Attention"]);
    // A row without any key is the mean of V here, not 0.
    const inputs = feeds(done.before);
    inputs[3] = new Tensor("bool", new Uint8Array(70), [2, 1, 5, 7]);
    expect(await difference(done, inputs)).toBeLessThan(1e-5);
  });
  it("without the guard, a closed row stays what it was: the node remembers", async () => {
    const lines = [...scores, "%s = Add(%n, %mask)", ...end];
    const done = await applied(raise, text(`${q}, ${kv}, %mask: float32[5, 7]`, "%y", ...lines));
    expect(done.after.nodes[0]?.extra?.metadata).toEqual([["partita.closed_rows", "nan"]]);
    expect(ops(lower(done.after, () => false))).not.toContain("IsNaN");
    expect(lower(done.after, () => false).nodes.every((n) => n.extra === undefined)).toBe(true);
    const finite = text(`${q}, ${kv}, %c: bool[5, 7]`, "%y", ...lines, "%mask = Where(%c, %zero, %lowest)");
    expect((await applied(raise, finite)).after.nodes.every((n) => n.extra === undefined)).toBe(true);
  });
  it("with the guard against rows that are masked altogether", async () => {
    const guard = ["%p0 = Softmax(%s)", "%i = IsNaN(%p0)", "%p = Where(%i, %zero, %p0)", "%y = MatMul(%p, %v)"];
    const done = await applied(raise, text(`${q}, ${kv}, %mask: float32[5, 7]`, "%y", ...scores, "%s = Add(%n, %mask)", ...guard));
    expect(done.nodes).toEqual(["%y = Attention(%q, %k, %v, %mask) {scale = 0.5}"]);
    const inputs = feeds(done.before);
    inputs[3] = new Tensor("float32", new Float32Array(35).fill(Number.NEGATIVE_INFINITY, 0, 10), [5, 7]);
    const [wanted] = await runGraph(done.before, inputs);
    expect(Array.from(wanted?.data.slice(0, 3) as Float32Array)).toEqual([0, 0, 0]);
    expect(await difference(done, inputs)).toBeLessThan(1e-5);
  });
});

describe("raise-attention: causal masks", () => {
  const square = "%q: float32[2, 6, 3, 4], %k: float32[2, 6, 3, 4], %v: float32[2, 6, 3, 4]";
  const scores = [kt, "%m = MatMul(%q, %t)", "%n = Mul(%m, %half)"];
  const fill = (x: string): string => `[0.0, ${x}, ${x}, 0.0, 0.0, ${x}, 0.0, 0.0, 0.0]`;
  it.each([
    ["-inf", "[3, 3]"],
    ["-3.4028234663852886e+38", "[1, 1, 3, 3]"],
    ["-10000.0", "[1, 3, 3]"],
  ])("added, of %s", async (x, dims) => {
    const lines = [`const %mask = float32${dims} ${fill(x)}`, ...scores, "%s = Add(%n, %mask)", ...end];
    await raises(square, lines, "%y = Attention(%q, %k, %v) {scale = 0.5, is_causal = 1}");
  });
  it.each([
    ["the lower triangle", "[1, 0, 0, 1, 1, 0, 1, 1, 1]", "Where(%mask, %n, %small)"],
    ["the upper one", "[0, 1, 1, 0, 0, 1, 0, 0, 0]", "Where(%mask, %ninf, %n)"],
  ])("chosen by Where, %s", async (_, bits, where) => {
    await raises(
      square,
      [`const %mask = bool[3, 3] ${bits}`, ...scores, `%s = ${where}`, ...end],
      "%y = Attention(%q, %k, %v) {scale = 0.5, is_causal = 1}",
    );
  });
  it("beside a mask of padding", async () => {
    const lines = [`const %mask = float32[3, 3] ${fill("-inf")}`, ...scores, "%o = Add(%n, %mask)", "%s = Add(%o, %pad)", ...end];
    await raises(`${square}, %pad: float32[2, 1, 3, 3]`, lines, "%y = Attention(%q, %k, %v, %pad) {scale = 0.5, is_causal = 1}");
    const weak = lines.map((l) => l.replaceAll("-inf", "-10000.0"));
    const done = await applied(raise, text(`${square}, %pad: float32[2, 1, 3, 3]`, "%y", ...weak));
    expect(ops(done.after)).toEqual(["Add", "Attention"]);
    expect(done.nodes.at(-1)).not.toContain("is_causal");
  });
  it.each([
    ["a band", "[0.0, -inf, -inf, 0.0, 0.0, -inf, -inf, 0.0, 0.0]"],
    ["a bias above the diagonal", fill("1.0")],
    ["a row that looks ahead", "[0.0, 0.0, -inf, 0.0, 0.0, -inf, 0.0, 0.0, 0.0]"],
  ])("%s stays a mask", async (_, values) => {
    const lines = [`const %mask = float32[3, 3] ${values}`, ...scores, "%s = Add(%n, %mask)", ...end];
    await raises(square, lines, "%y = Attention(%q, %k, %v, %mask) {scale = 0.5}");
  });
});

describe("raise-attention: views of K and V", () => {
  it("K transposed from [batch, length, heads, size] in one go", async () => {
    await raises(
      `${q}, %k: float32[2, 7, 6, 4], %v: float32[2, 6, 7, 3]`,
      ["%t = Transpose(%k) {perm = [0, 2, 3, 1]}", "%s = MatMul(%q, %t)", ...end],
      "%y = Attention(%q, %attention/key, %v) {scale = 1.0}",
      ['%attention/key = Transpose(%k) {perm = [0, 2, 1, 3]} @"/key" from [""]'],
    );
  });
  it("K that comes transposed", async () => {
    await raises(
      `${q}, %k: float32[2, 6, 4, 7], %v: float32[2, 6, 7, 3]`,
      ["%s = MatMul(%q, %k)", ...end],
      "%y = Attention(%q, %attention/key, %v) {scale = 1.0}",
      ['%attention/key = Transpose(%k) {perm = [0, 1, 3, 2]} @"/key" from [""]'],
    );
  });
  const merged = ["const %a3 = int64[3] [-1, 7, 4]", "const %a4 = int64[4] [2, 6, 4, 7]"];
  it("K transposed with its heads merged", async () => {
    const lines = [
      "%r = Reshape(%k, %a3)",
      "%u = Transpose(%r) {perm = [0, 2, 1]}",
      "%t = Reshape(%u, %a4)",
      "%s = MatMul(%q, %t)",
      ...end,
    ];
    await raises(`${q}, ${kv}`, [...merged, ...lines], "%y = Attention(%q, %k, %v) {scale = 1.0}");
  });
  it("K transposed from [length, batch * heads, size]", async () => {
    const lines = [
      "const %a4 = int64[4] [2, 6, 4, 7]",
      "%u = Transpose(%k) {perm = [1, 2, 0]}",
      "%t = Reshape(%u, %a4)",
      "%s = MatMul(%q, %t)",
      ...end,
    ];
    await raises(`${q}, %k: float32[7, 12, 4], %v: float32[2, 6, 7, 3]`, lines, "%y = Attention(%q, %attention/key.1, %v) {scale = 1.0}", [
      '%attention/key = Transpose(%k) {perm = [1, 0, 2]} @"/key" from [""]',
      '%attention/key.1 = Reshape(%attention/key, %/shape) @"/key" from [""]',
    ]);
  });
  const repeat = (x: string, d: number): string[] => [
    `const %e${x} = int64[5] [2, 2, 3, 7, ${d}]`,
    `const %r${x} = int64[4] [2, 6, 7, ${d}]`,
    `%u${x} = Unsqueeze(%${x}, %axis2)`,
    `%x${x} = Expand(%u${x}, %e${x})`,
    `%h${x} = Reshape(%x${x}, %r${x})`,
  ];
  const grouped = "%k: float32[2, 2, 7, 4], %v: float32[2, 2, 7, 3]";
  it("heads of K and V repeated for groups of queries", async () => {
    await raises(
      `${q}, ${grouped}`,
      [
        ...repeat("k", 4),
        ...repeat("v", 3),
        "%t = Transpose(%hk) {perm = [0, 1, 3, 2]}",
        "%s = MatMul(%q, %t)",
        "%p = Softmax(%s)",
        "%y = MatMul(%p, %hv)",
      ],
      "%y = Attention(%q, %k, %v) {scale = 1.0}",
    );
  });
  it("one head of K and V for all queries", async () => {
    await raises(
      `${q}, %k: float32[2, 1, 7, 4], %v: float32[2, 1, 7, 3]`,
      [kt, "%s = MatMul(%q, %t)", ...end],
      "%y = Attention(%q, %k, %v) {scale = 1.0}",
    );
  });
  it("three dims: one head", async () => {
    const done = await applied(
      raise,
      text(
        "%q: float32[6, 5, 4], %k: float32[6, 7, 4], %v: float32[6, 7, 3], %mask: float32[6, 5, 7]",
        "%y",
        "%t = Transpose(%k) {perm = [0, 2, 1]}",
        "%m = MatMul(%q, %t)",
        "%s = Add(%m, %mask)",
        ...end,
      ),
    );
    expect(ops(done.after)).toEqual(["Unsqueeze", "Unsqueeze", "Unsqueeze", "Unsqueeze", "Attention", "Squeeze"]);
    expect(await difference(done)).toBeLessThan(1e-5);
  });
});

describe("raise-attention: caches", () => {
  const past = "%pk: float32[2, 6, 4, 4], %pv: float32[2, 6, 4, 3]";
  const cached = ["%ck = Concat(%pk, %k) {axis = 2}", "%cv = Concat(%pv, %v) {axis = -2}", "%t = Transpose(%ck) {perm = [0, 1, 3, 2]}"];
  const rest = ["%s = MatMul(%q, %t)", "%p = Softmax(%s)", "%y = MatMul(%p, %cv)"];
  it("becomes past and present", async () => {
    const done = await applied(raise, text(`${q}, ${kv}, ${past}`, "%y, %ck, %cv", ...cached, ...rest));
    expect(done.nodes).toEqual(["%y, %ck, %cv = Attention(%q, %k, %v, _, %pk, %pv) {scale = 1.0}"]);
    expect(await difference(done)).toBeLessThan(1e-5);
    const inputs = feeds(done.before);
    expect(relativeError(await runGraph(done.after, inputs), await runGraph(done.before, inputs))).toBeLessThan(1e-5);
  });
  it("that nobody reads afterwards, with a mask over all keys", async () => {
    const lines = [...cached, "%m = MatMul(%q, %t)", "%s = Add(%m, %mask)", ...rest.slice(1)];
    const done = await applied(raise, text(`${q}, ${kv}, ${past}, %mask: float32[5, 11]`, "%y", ...lines));
    expect(ops(done.after)).toEqual(["Attention"]);
    expect(await difference(done)).toBeLessThan(1e-5);
  });
  it("whose shape says how often heads are repeated", async () => {
    const heads = (to: string, from: string): string[] => [
      `%${to}0 = Shape(%${from}) {start = 0, end = 2}`,
      `%${to}1 = Shape(%${from}) {start = 2}`,
      `%${to}s = Concat(%${to}0, %three, %${to}1) {axis = 0}`,
      `%${to}u = Unsqueeze(%${from}, %axis2)`,
      `%${to}e = Expand(%${to}u, %${to}s)`,
      `%${to} = Reshape(%${to}e, %merged)`,
    ];
    const lines = (more: string): string =>
      graph(
        "%q: float32[n, 6, s, 4], %k: float32[n, 2, s, 4], %v: float32[n, 2, s, 4], %pk: float32[n, 2, past, 4], %pv: float32[n, 2, past, 4]",
        "%y, %ck, %cv, %z",
        "const %three = int64[1] [3]",
        "const %axis2 = int64[1] [2]",
        "const %merged = int64[4] [0, 6, -1, 4]",
        "%ck = Concat(%pk, %k) {axis = 2}",
        "%cv = Concat(%pv, %v) {axis = 2}",
        ...heads("kk", "ck"),
        ...heads("vv", "cv"),
        "%t = Transpose(%kk) {perm = [0, 1, 3, 2]}",
        "%s = MatMul(%q, %t)",
        "%p = Softmax(%s)",
        "%y = MatMul(%p, %vv)",
        more,
      );
    const done = await applied([raise, deadCode], lines("%z = Neg(%q)"));
    expect(done.nodes).toContain("%y, %ck, %cv = Attention(%q, %k, %v, _, %pk, %pv) {scale = 1.0}");
    expect(ops(done.after)).not.toContain("Concat");
    expect(await difference(done)).toBeLessThan(1e-5);
    // Repeated keys that somebody else reads keep their shape arithmetic, which keeps the cache.
    const kept = await applied([raise, deadCode], lines("%z = Neg(%kke)"));
    expect(kept.nodes).toContain("%y = Attention(%q, %ck, %cv) {scale = 1.0}");
    expect(await difference(kept)).toBeLessThan(1e-5);
  });
  it("that others compute with stays in front", async () => {
    const done = await applied(raise, text(`${q}, ${kv}, ${past}`, "%y, %z", ...cached, ...rest, "%z = Neg(%ck)"));
    expect(done.nodes).toContain("%y = Attention(%q, %ck, %cv) {scale = 1.0}");
    expect(ops(done.after).sort()).toEqual(["Attention", "Concat", "Concat", "Neg"]);
    expect(await difference(done)).toBeLessThan(1e-5);
  });
});

describe("raise-attention: float16", () => {
  it("with softmax in float32", async () => {
    const done = await applied(
      raise,
      graph(
        "%q: float16[1, 2, 8, 16], %k: float16[1, 2, 8, 16], %v: float16[1, 2, 8, 16]",
        "%y",
        'const %f = float16[] hex "0034"',
        "%t = Transpose(%k) {perm = [0, 1, 3, 2]}",
        "%m = MatMul(%q, %t)",
        "%n = Mul(%m, %f)",
        "%s = Cast(%n) {to = 1}",
        "%p = Softmax(%s)",
        "%w = Cast(%p) {to = 10}",
        "%y = MatMul(%w, %v)",
      ),
    );
    expect(done.nodes).toEqual(["%y = Attention(%q, %k, %v) {scale = 0.25, softmax_precision = 1}"]);
    expect(await difference(done)).toBeLessThan(1e-2);
  });
  const masked = (yes: string, no: string, ...mask: string[]): string =>
    graph(
      "%q: float16[1, 2, 8, 16], %k: float16[1, 2, 8, 16], %v: float16[1, 2, 8, 16], %c: bool[1, 1, 8, 8], %e: float32[8, 8]",
      "%y",
      'const %f = float16[] hex "0034"',
      `const %yes = float32[1] [${yes}]`,
      `const %no = float32[1] [${no}]`,
      "%t = Transpose(%k) {perm = [0, 1, 3, 2]}",
      "%m = MatMul(%q, %t)",
      "%n = Mul(%m, %f)",
      "%wide = Cast(%n) {to = 1}",
      ...mask,
      "%p = Softmax(%s)",
      "%w = Cast(%p) {to = 10}",
      "%y = MatMul(%w, %v)",
    );
  const chosen = "%b = Where(%c, %yes, %no)";
  it.each([
    ["0.0", "-inf", "%c", []],
    ["-inf", "0.0", "%y/mask", ['%y/mask = Not(%c) @"/mask" from [""]']],
  ])("with a float32 mask of %s and %s", async (yes, no, mask, before) => {
    const done = await applied(raise, masked(yes, no, chosen, "%s = Add(%wide, %b)"));
    expect(done.nodes.filter((l) => !l.includes("Where")).map((l) => l.replaceAll("%attention/mask", "%y/mask"))).toEqual([
      ...before,
      `%y = Attention(%q, %k, %v, ${mask}) {scale = 0.25, softmax_precision = 1}`,
    ]);
    expect(await difference(done)).toBeLessThan(1e-2);
  });
  it.each([
    ["numbers", masked("0.0", "-1.0e+30", chosen, "%s = Add(%wide, %b)")],
    ["fed numbers", masked("0.0", "-inf", "%s = Add(%wide, %e)")],
    ["a large number in the place of scores", masked("0.0", "-1.0e+30", "%s = Where(%c, %wide, %no)")],
  ])("stays beside a float32 mask of %s", async (_, t) => {
    const done = await leaves(raise, t);
    expect(done.remarks.map((r) => r.text).join()).toContain(
      "its mask holds other numbers than 0 and -inf, in a wider type than its operands",
    );
  });
});

describe("raise-attention leaves, with its reason,", () => {
  const scores = [kt, "%m = MatMul(%q, %t)"];
  it.each<[string, string, string, readonly string[], string | undefined]>([
    [
      "weights that are an output",
      `${q}, ${kv}`,
      "%y, %p",
      [...scores, "%p = Softmax(%m)", "%y = MatMul(%p, %v)"],
      "'p' inside it is read elsewhere",
    ],
    [
      "scores that are read elsewhere",
      `${q}, ${kv}`,
      "%y, %z",
      [...scores, "%p = Softmax(%m)", "%y = MatMul(%p, %v)", "%z = Neg(%m)"],
      "'m' inside it is read elsewhere",
    ],
    ["softmax over another axis", `${q}, ${kv}`, "%y", [...scores, "%p = Softmax(%m) {axis = 1}", "%y = MatMul(%p, %v)"], undefined],
    [
      "a mask without the keys' dim",
      `${q}, ${kv}, %mask: float32[2, 1, 5, 1]`,
      "%y",
      [...scores, "%s = Add(%m, %mask)", ...end],
      "dim 3 of its mask is 1, that of its scores 7",
    ],
    [
      "a mask that widens the scores",
      "%q: float32[1, 6, 5, 4], %k: float32[1, 6, 7, 4], %v: float32[2, 6, 7, 3], %mask: float32[2, 1, 5, 7]",
      "%y",
      [...scores, "%s = Add(%m, %mask)", ...end],
      "its mask widens the scores",
    ],
    [
      "a batch that broadcasts",
      "%q: float32[2, 6, 5, 4], %k: float32[1, 6, 7, 4], %v: float32[1, 6, 7, 3]",
      "%y",
      [...scores, "%p = Softmax(%m)", "%y = MatMul(%p, %v)"],
      "dim 0 of Q, K and V is 2, 1 and 1; they must be known to be equal",
    ],
    [
      "a mask of numbers too small to mask",
      `${q}, ${kv}, %mask: bool[5, 7]`,
      "%y",
      [...scores, "%s = Where(%mask, %m, %small)", ...end],
      "its mask puts -10000 in the place of scores, which is too small to mask exactly",
    ],
    [
      "a mask of numbers that mask nothing",
      `${q}, ${kv}, %mask: bool[5, 7]`,
      "%y",
      [...scores, "%s = Where(%mask, %m, %two)", ...end],
      "its mask puts something else than a large negative number in the place of scores",
    ],
    [
      "scores that are something else",
      "%x: float32[2, 6, 5, 7], %v: float32[2, 6, 7, 3]",
      "%y",
      ["%s = Tanh(%x)", ...end],
      "its scores come from Tanh 's', not from a product of Q and K that is scaled and masked",
    ],
    [
      "two dims",
      "%q: float32[5, 4], %t: float32[4, 7], %v: float32[7, 3]",
      "%y",
      ["%s = MatMul(%q, %t)", ...end],
      "its operands have 2, 2 and 2 dims",
    ],
    [
      "scores whose rows a Reshape breaks",
      "%q: float32[2, 6, 4, 4], %t: float32[2, 6, 4, 8], %v: float32[2, 3, 4, 3]",
      "%y",
      ["const %r = int64[4] [2, 3, 16, 4]", "%m = MatMul(%q, %t)", "%s = Reshape(%m, %r)", ...end],
      "its mask widens the scores",
    ],
    [
      "scores kept above a number that they reach",
      `${q}, ${kv}`,
      "%y",
      [...scores, "%s = Max(%m, %small)", ...end],
      "its scores come from Max 's', not from a product of Q and K that is scaled and masked",
    ],
    [
      "scores kept above the lowest number beside a mask that may be lower",
      `${q}, ${kv}, %mask: float32[5, 7]`,
      "%y",
      [...scores, "%n = Add(%m, %mask)", "%s = Max(%n, %lowest)", ...end],
      "its scores are kept above a number, and its mask may be below it",
    ],
    [
      "a mask that a scale makes larger",
      `${q}, ${kv}, %mask: float32[5, 7]`,
      "%y",
      [...scores, "%n = Add(%m, %mask)", "%s = Mul(%n, %two)", ...end],
      "its mask is scaled by 2",
    ],
    [
      "a scale that is no constant over a mask",
      `${q}, ${kv}, %mask: float32[5, 7], %f: float32[1]`,
      "%y",
      [...scores, "%n = Add(%m, %mask)", "%s = Mul(%n, %f)", ...end],
      "its scores come from Mul 's', not from a product of Q and K that is scaled and masked",
    ],
    [
      "five dims, keys that serve batches",
      "%q: float32[2, 3, 6, 5, 4], %t: float32[2, 1, 6, 4, 7], %v: float32[2, 1, 6, 7, 3]",
      "%y",
      ["%s = MatMul(%q, %t)", ...end],
      "the dims [2,1,6] of K and V do not go with [2,3,6]",
    ],
    [
      "five dims, queries that serve heads",
      "%q: float32[2, 1, 6, 5, 4], %t: float32[2, 3, 6, 4, 7], %v: float32[2, 3, 6, 7, 3]",
      "%y",
      ["%s = MatMul(%q, %t)", ...end],
      "Q of dims [2,1,6,5,4] cannot be seen over [6,6]",
    ],
  ])("%s", async (_, inputs, outputs, lines, why) => {
    const { remarks } = await leaves(raise, text(inputs, outputs, ...lines));
    expect(remarks.map((r) => r.text)).toEqual(why === undefined ? [] : [`attention was recognised and left as it is: ${why}`]);
  });
  it("float64, and says so", async () => {
    const t = text(`${q}, ${kv}`, "%y", ...scores, "%p = Softmax(%m)", "%y = MatMul(%p, %v)").replaceAll("float32", "float64");
    expect((await applied(raise, t)).remarks.map((r) => r.text)).toEqual([
      "attention was recognised and left as it is: float64 stays as it is",
    ]);
  });
  it("nothing in a graph without Softmax", async () => {
    const g = inferGraph(parse(graph("%x: float32[2, 2]", "%y", "%y = MatMul(%x, %x)"))).graph;
    expect(await raise.run(g, { remarks: () => {}, maxFoldedBytes: 0, facts: () => () => ({ type: { kind: "unknown" } }) })).toBe(g);
  });
});
