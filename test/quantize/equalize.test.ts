/** Channel scaling: which tensors hang together, that outputs stay what they were, and that ranges come out even. */
import { describe, expect, it } from "vitest";
import { compile, plan } from "../../src/compile.js";
import { parse } from "../../src/ir/parse.js";
import type { Graph } from "../../src/ir/types.js";
import { inferGraph } from "../../src/ops/infer.js";
import { channelClasses, inputShares, scaleChannels } from "../../src/quantize/channels.js";
import { entryClasses } from "../../src/quantize/entries.js";
import { equalizable, equalize } from "../../src/quantize/equalize.js";
import { Tensor, type TensorLike } from "../../src/tensor.js";
import { dataDir } from "../support/data.js";

let seed = 1;
const random = (): number => {
  seed = (seed * 48271) % 2147483647;
  return (seed / 2147483647) * 2 - 1;
};
const weights = (name: string, ...dims: number[]): string =>
  `const %${name} = float32[${dims.join(", ")}] [${Array.from({ length: dims.reduce((a, d) => a * d, 1) }, () => random().toFixed(4)).join(", ")}]`;

const net = (): Graph =>
  parse(`graph "net" opset {"": 18} (%x: float32[2, 3, 8, 8]) -> (%y) {
    ${weights("w0", 6, 3, 3, 3)}
    ${weights("b0", 6)}
    ${weights("w1", 6, 1, 3, 3)}
    ${weights("w2", 4, 6, 1, 1)}
    ${weights("k", 1, 4, 1, 1)}
    ${weights("w3", 8, 2, 1, 1)}
    ${weights("w4", 8, 5)}
    ${weights("b4", 5)}
    const %axes = int64[2] [2, 3]
    %c0 = Conv(%x, %w0, %b0) {pads = [1, 1, 1, 1]} @"c0"
    %r0 = Relu(%c0)
    %c1 = Conv(%r0, %w1) {pads = [1, 1, 1, 1], group = 6} @"depthwise"
    %r1 = LeakyRelu(%c1) {alpha = 0.25}
    %c2 = Conv(%r1, %w2) @"c2"
    %s2 = Add(%c2, %k)
    %c3 = Conv(%s2, %w3) {group = 2} @"grouped"
    %p3 = MaxPool(%c3) {kernel_shape = [2, 2], strides = [2, 2]}
    %m3 = ReduceMean(%p3, %axes) {keepdims = 0}
    %y = Gemm(%m3, %w4, %b4) @"head"
  }`);
const tokens = (): Graph =>
  parse(`graph "tokens" opset {"": 18} (%x: float32[2, 5, 8]) -> (%y) {
    ${weights("g", 8)}
    ${weights("b", 8)}
    ${weights("wq", 8, 6)}
    ${weights("bq", 6)}
    ${weights("wk", 8, 6)}
    ${weights("wo", 6, 8)}
    %n = LayerNormalization(%x, %g, %b) @"norm"
    %q = MatMul(%n, %wq) @"q"
    %qb = Add(%bq, %q)
    %k = MatMul(%n, %wk) @"k"
    %z = Relu(%k)
    %s = Add(%qb, %z)
    %o = MatMul(%s, %wo) @"o"
    %y = Add(%x, %o)
  }`);

/** Values of two heads of four, weighed and joined, then projected. */
const attending = (joining = "0, 2, 1, 3"): Graph =>
  parse(`graph "attending" opset {"": 24} (%x: float32[2, 5, 8]) -> (%y) {
    ${weights("wq", 8, 8)}
    ${weights("wk", 8, 8)}
    ${weights("wv", 8, 8)}
    ${weights("bv", 8)}
    ${weights("wo", 8, 8)}
    const %heads = int64[4] [0, 0, 2, 4]
    const %whole = int64[3] [0, 0, 8]
    %q = MatMul(%x, %wq) @"q"
    %k = MatMul(%x, %wk) @"k"
    %v = MatMul(%x, %wv) @"v"
    %vb = Add(%v, %bv)
    %q4 = Reshape(%q, %heads)
    %k4 = Reshape(%k, %heads)
    %v4 = Reshape(%vb, %heads)
    %qh = Transpose(%q4) {perm = [0, 2, 1, 3]}
    %kh = Transpose(%k4) {perm = [0, 2, 1, 3]}
    %vh = Transpose(%v4) {perm = [0, 2, 1, 3]}
    %ah = Attention(%qh, %kh, %vh)
    %a4 = Transpose(%ah) {perm = [${joining}]}
    %a = Reshape(%a4, %whole)
    %y = MatMul(%a, %wo) @"o"
  }`);

const feed = (g: Graph): Record<string, TensorLike> =>
  Object.fromEntries(
    g.inputs.map((v) => {
      const value = g.values[v];
      if (value?.type.kind !== "tensor" || value.type.shape === undefined) throw new Error("an input without a shape");
      const dims = value.type.shape.map((d) => (typeof d === "number" ? d : 2));
      return [value.name, new Tensor("float32", Float32Array.from({ length: dims.reduce((a, d) => a * d, 1) }, random), dims)];
    }),
  );
async function outputs(g: Graph, feeds: Record<string, TensorLike>): Promise<readonly Float32Array[]> {
  await using session = await (await compile(g)).createSession({ threads: 1 });
  return Object.values(await session.run(feeds)).map((t) => t.data as Float32Array);
}
/** Largest difference, as a share of the largest value. */
async function moved(a: Graph, b: Graph): Promise<number> {
  const feeds = feed(a);
  const [before, after] = [await outputs(a, feeds), await outputs(b, feeds)];
  return Math.max(
    ...before.map((x, i) => {
      const largest = x.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
      return x.reduce((m, v, j) => Math.max(m, Math.abs(v - (after[i]?.[j] ?? Number.NaN))), 0) / largest;
    }),
  );
}
const classesOf = (g: Graph) => channelClasses(g, inferGraph(g).facts);
const names = (g: Graph, ids: readonly number[]): string[] => ids.map((id) => g.nodes.find((n) => n.id === id)?.name ?? "?");

describe("classes", () => {
  it("join what a factor passes through, up to the weights that take it", () => {
    const g = net();
    expect(
      classesOf(g).map((c) => ({
        tensors: c.tensors.map((t) => g.values[t.value]?.name),
        producers: names(g, c.producers),
        consumers: names(g, c.consumers),
        constants: c.constants.map((k) => g.values[k.value]?.name),
      })),
    ).toEqual([
      { tensors: ["r0", "c0"], producers: ["c0"], consumers: ["depthwise"], constants: [] },
      { tensors: ["r1", "c1"], producers: ["depthwise"], consumers: ["c2"], constants: [] },
      { tensors: ["s2", "c2"], producers: ["c2"], consumers: ["grouped"], constants: ["k"] },
      { tensors: ["m3", "p3", "c3"], producers: ["grouped"], consumers: ["head"], constants: [] },
    ]);
  });
  it("hold every reader of a normalization, and both sides of a sum", () => {
    const g = tokens();
    expect(classesOf(g).map((c) => [names(g, c.producers), names(g, c.consumers), c.constants.length])).toEqual([
      [["norm"], ["q", "k"], 0],
      [["k", "q"].sort().reverse(), ["o"], 1],
    ]);
  });
  it("go through the values of attention, from their projection to that of what is joined", () => {
    const g = attending();
    expect(classesOf(g).map((c) => [c.tensors.map((t) => g.values[t.value]?.name), names(g, c.producers), names(g, c.consumers)])).toEqual([
      [["a", "vb", "v"], ["v"], ["o"]],
    ]);
    // Not where something else sees the weighed values, nor where other heads join them.
    const value = g.values.find((v) => v?.name === "ah")?.id;
    expect(classesOf({ ...g, outputs: [...g.outputs, value as never] })).toEqual([]);
    expect(classesOf(attending("0, 2, 3, 1"))).toEqual([]);
  });
  it.each([
    ["a graph output", "%r = Relu(%c)\n%y = Conv(%r, %w1)", "%y, %r"],
    ["a bound above", "const %lo = float32[] [0]\nconst %hi = float32[] [6]\n%r = Clip(%c, %lo, %hi)\n%y = Conv(%r, %w1)", "%y"],
    ["a curve", "%r = Sigmoid(%c)\n%y = Conv(%r, %w1)", "%y"],
    ["a reader without weights", "%r = Relu(%c)\n%z = Conv(%r, %w1)\n%e = Exp(%r)\n%y = Add(%z, %e)", "%y"],
    ["a sum with one constant for all channels", "const %k = float32[] [3]\n%r = Add(%c, %k)\n%y = Conv(%r, %w1)", "%y"],
  ])("end at %s", (_, lines, outs) => {
    const g = parse(`graph "g" opset {"": 18} (%x: float32[1, 4, 3, 3]) -> (${outs}) {
      ${weights("w0", 4, 4, 1, 1)}
      ${weights("w1", 4, 4, 1, 1)}
      %c = Conv(%x, %w0)
      ${lines}
    }`);
    expect(classesOf(g)).toEqual([]);
  });
});

describe("scaling", () => {
  it.each([
    ["convolutions", net],
    ["tokens", tokens],
    ["attention", () => attending()],
  ])("by factors from 1/1000 to 1000 leaves the outputs: %s", async (_, make) => {
    const g = make();
    const chosen = classesOf(g).map((of) => ({ of, factors: Float64Array.from({ length: of.channels }, () => 10 ** (3 * random())) }));
    expect(chosen.length).toBeGreaterThan(0);
    const scaled = scaleChannels(g, chosen);
    expect(scaled).not.toBe(g);
    expect(await moved(g, scaled)).toBeLessThan(1e-5);
  });
  it.skipIf(dataDir("digits") === undefined).each(["resnet", "mobilenet_bn", "vit"])(
    "leaves a trained network's outputs: %s",
    async (name) => {
      const { inferred } = await plan(`${dataDir("digits")}/${name}.onnx`);
      const g = inferred.graph;
      const chosen = classesOf(g).map((of) => ({ of, factors: Float64Array.from({ length: of.channels }, () => 10 ** (1.5 * random())) }));
      expect(chosen.length).toBeGreaterThan(2);
      expect(await moved(g, scaleChannels(g, chosen))).toBeLessThan(1e-5);
    },
  );
});

describe("equalize", () => {
  it("evens out what only a depthwise convolution reads, and balances the rest", async () => {
    const g = net();
    const { facts } = inferGraph(g);
    const axes = equalizable(g, facts, new Set());
    const ranges = new Map([...axes].map(([v]) => [g.values[v]?.name ?? "", Float64Array.from({ length: 8 }, (_, i) => 10 ** (i % 3))]));
    const sized = new Map([...ranges].map(([name, r]) => [name, r.slice(0, name === "r0" || name === "r1" ? 6 : name === "s2" ? 4 : 8)]));
    const { graph, equalized } = equalize(g, facts, sized, { alpha: 0.5, inputs: undefined });
    expect(equalized.map((e) => e.tensors)).toEqual([
      ["r0", "c0"],
      ["r1", "c1"],
      ["s2", "c2"],
      ["m3", "p3", "c3"],
    ]);
    // Ranges of 1, 10 and 100 become 100 each.
    expect(equalized[0]?.spread).toBeCloseTo(100, 8);
    expect(await moved(g, graph)).toBeLessThan(1e-5);
  });
  it("leaves even channels and unknown ranges alone", () => {
    const g = tokens();
    const { facts } = inferGraph(g);
    expect(equalize(g, facts, new Map(), { alpha: 0.5, inputs: undefined }).graph).toBe(g);
    const even = new Map(
      [...equalizable(g, facts, new Set()).keys()].map((v) => [g.values[v]?.name ?? "", new Float64Array(v === undefined ? 0 : 8).fill(2)]),
    );
    expect(equalize(g, facts, even, { alpha: 1, inputs: undefined }).graph).toBe(g);
  });
  it("multiplies inputs in front of the products that read them, by factors worth an operator, and nothing else that reads them", async () => {
    const g = parse(`graph "table" opset {"": 18} (%x: float32[2, 2, 3], %p: float32[1, 4, 5, 5]) -> (%y, %z, %c, %m) {
      ${weights("w0", 6, 16)}
      ${weights("w1", 6, 5)}
      ${weights("k", 16, 4, 3, 3)}
      const %rows = int64[2] [2, 6]
      %f = Reshape(%x, %rows)
      %y = MatMul(%f, %w0) @"first"
      %z = Gemm(%f, %w1) @"second"
      %c = Conv(%p, %k) @"conv"
      %m = Relu(%f)
    }`);
    const { facts } = inferGraph(g);
    const [f, p] = ["f", "p"].map((name) => g.values.find((v) => v?.name === name)?.id);
    const classes = entryClasses(g, facts);
    expect(classes.map((c) => [c.tensors, c.producers, c.consumers.length])).toEqual([
      [[{ value: f, axis: 1 }], [], 2],
      [[{ value: p, axis: 1 }], [], 1],
    ]);
    expect([...equalizable(g, facts, new Set(f === undefined ? [] : [f]))]).toEqual([[f, 1]]);
    const ranges = new Map([
      ["f", Float64Array.from([1, 1000, 1, 3, 200, 1])],
      ["p", Float64Array.from([1, 2, 300, 1])],
    ]);
    const scaled = equalize(g, facts, ranges, { alpha: undefined, inputs: 1 });
    // The largest stays, the others come up to it.
    expect(scaled.equalized.map((e) => e.spread)).toEqual([1000, 300].map((x) => expect.closeTo(x, 6)));
    expect(scaled.graph.nodes.filter((n) => n.op === "Mul")).toHaveLength(2);
    expect(await moved(g, scaled.graph)).toBeLessThan(1e-5);
    // Factors within 4 of each other win less than two bits.
    const even = new Map([["f", Float64Array.from([1, 3, 2, 1, 1, 1])]]);
    expect(equalize(g, facts, even, { alpha: undefined, inputs: 1 }).graph).toBe(g);
    expect(equalize(g, facts, ranges, { alpha: 1, inputs: undefined }).graph).toBe(g);
  });
  it("survives channels that never spoke", async () => {
    const g = net();
    const { facts } = inferGraph(g);
    const silent = new Map([["r0", Float64Array.from([0, 1, 0, 5, 1e-30, 2])]]);
    expect(await moved(g, equalize(g, facts, silent, { alpha: 1, inputs: undefined }).graph)).toBeLessThan(1e-5);
  });
});

it("input channels' shares of their output channels' ranges", () => {
  const g = parse(`graph "g" opset {"": 18} (%x: float32[1, 2]) -> (%a, %b, %c) {
    const %w = float32[2, 3] [1, 2, 3, 4, -1, 1]
    const %t = float32[3, 2] [1, 4, 2, -1, 3, 1]
    const %k = float32[2, 1, 1] [7, 9]
    const %s = int64[3] [1, 2, 1]
    %a = MatMul(%x, %w)
    %b = Gemm(%x, %t) {transB = 1}
    %i = Reshape(%x, %s)
    %c = Conv(%i, %k) {group = 2}
  }`);
  const shares = g.nodes.filter((n) => n.op !== "Reshape").map((n) => inputShares(g, n, 2));
  expect(shares.map((s) => (s === undefined ? undefined : [...s]))).toEqual([[1, 1], [1, 1], undefined]);
});
