/** The proof that a dim can be padded, checked against what padding does: where it says yes, garbage in the padding changes no result. */
import { describe, expect, it } from "vitest";
import { hostEngine } from "../../src/engines/host/index.js";
import { paddingRefusal } from "../../src/engines/padding.js";
import { resized } from "../../src/engines/resize.js";
import { openSegment } from "../../src/engines/symbols.js";
import { parse } from "../../src/ir/parse.js";
import type { Graph } from "../../src/ir/types.js";
import { Tensor, type TensorLike } from "../../src/tensor.js";

const ramp = (n: number): string => Array.from({ length: n }, (_, i) => `${((i * 7) % 11) - 5}.0`).join(", ");
const graph = (inputs: string, body: string): Graph => parse(`graph "g" opset {"": 18} (${inputs}) -> (%y) {\n${body}\n}`);
const refusal = (g: Graph, symbol: string): string | undefined => {
  const s = openSegment(g);
  const found = paddingRefusal(s.graph, s.facts, symbol);
  return found === undefined ? undefined : `${found.op ?? ""} ${found.why}`.trim();
};

/** Results at 3, and at 5 of which the last two are garbage, cut back to 3. */
async function padded(g: Graph, axis: readonly (number | undefined)[]): Promise<readonly [TensorLike, TensorLike]> {
  const artifact = await hostEngine.build(g, { target: { sm: 0, tensorrt: 0, precision: "fp32" } });
  const session = await hostEngine.open(artifact, { streams: 1, threads: 1 });
  try {
    const feeds = g.inputs.map((v, k) => {
      const type = g.values[v]?.type;
      if (type?.kind !== "tensor") throw new Error("no tensor");
      const dims = (type.shape ?? []).map((d) => (typeof d === "number" ? d : 3));
      const n = dims.reduce((a, d) => a * d, 1);
      const small =
        type.dtype === "int64"
          ? new Tensor(
              "int64",
              BigInt64Array.from({ length: n }, (_, i) => BigInt(i % 2)),
              dims,
            )
          : new Tensor(
              "float32",
              Float32Array.from({ length: n }, (_, i) => Math.sin(i + k)),
              dims,
            );
      const at = axis[k];
      if (at === undefined) return [small, small] as const;
      const large = resized(
        small,
        dims.map((d, i) => (i === at ? 5 : d)),
        () => "last",
      ) as Tensor;
      const inner = dims.slice(at + 1).reduce((a, d) => a * d, 1);
      // Infinity and NaN would show wherever they are read.
      if (type.dtype === "float32")
        (large.data as Float32Array).forEach((_, i, all) => {
          if (Math.floor(i / inner) % 5 >= 3) all[i] = i % 2 === 0 ? Number.NaN : 1e30;
        });
      return [small, large] as const;
    });
    const [[a], [b]] = [await session.run(feeds.map((f) => f[0])), await session.run(feeds.map((f) => f[1]))];
    if (a === undefined || b === undefined) throw new Error("no result");
    return [a, resized(b, a.dims)];
  } finally {
    await session.dispose();
  }
}

const X = "%x: float32[n, 4]";
const W = `const %w = float32[4, 4] [${ramp(16)}]`;
const provable: readonly (readonly [string, Graph, readonly (number | undefined)[]])[] = [
  ["rows of products, biases and activations", graph(X, `${W}\n%a = MatMul(%x, %w)\n%b = Add(%a, %x)\n%y = Relu(%b)`), [0]],
  ["Gemm's rows", graph(X, `${W}\n%y = Gemm(%x, %w)`), [0]],
  ["a softmax of each row", graph(X, `%y = Softmax(%x) {axis = -1}`), [0]],
  ["a reduction of each row, without keeping it", graph(X, `const %i = int64[1] [1]\n%y = ReduceSum(%x, %i) {keepdims = 0}`), [0]],
  [
    "a batch norm and a pool of each image",
    graph(
      "%x: float32[n, 2, 4, 4]",
      `const %s = float32[2] [1.0, 2.0]\n%a = BatchNormalization(%x, %s, %s, %s, %s)\n%y = GlobalAveragePool(%a)`,
    ),
    [0],
  ],
  [
    "a convolution of each image",
    graph("%x: float32[n, 1, 4, 4]", `const %w = float32[2, 1, 3, 3] [${ramp(18)}]\n%y = Conv(%x, %w) {pads = [1, 1, 1, 1]}`),
    [0],
  ],
  [
    "a view that keeps the rows in front",
    graph(X, `const %s = int64[3] [-1, 2, 2]\n%a = Reshape(%x, %s)\n%y = Transpose(%a) {perm = [0, 2, 1]}`),
    [0],
  ],
  ["rows moved behind", graph(X, `%y = Transpose(%x) {perm = [1, 0]}`), [0]],
  ["two batches multiplied", graph("%x: float32[n, 2, 3], %z: float32[n, 3, 2]", `%y = MatMul(%x, %z)`), [0, 0]],
  ["embeddings of tokens", graph("%x: int64[n, 2]", `const %t = float32[3, 2] [${ramp(6)}]\n%y = Gather(%t, %x) {axis = 0}`), [0]],
  [
    "a normalisation behind the dim",
    graph("%x: float32[2, n, 4]", `const %s = float32[4] [${ramp(4)}]\n%y = LayerNormalization(%x, %s) {axis = -1}`),
    [1],
  ],
  ["the first place alone", graph("%x: float32[2, n, 4]", `const %i = int64[] [0]\n%y = Gather(%x, %i) {axis = 1}`), [1]],
  ["an equation that keeps the letter", graph(X, `${W}\n%y = Einsum(%x, %w) {equation = "nk,kj->nj"}`), [0]],
];
const refused: readonly (readonly [string, Graph, RegExp])[] = [
  ["a sum over the dim", graph(X, `const %i = int64[1] [0]\n%y = ReduceSum(%x, %i)`), /ReduceSum reduces over the dim/],
  ["a mean over everything", graph(X, `%y = ReduceMean(%x)`), /ReduceMean reduces over the dim/],
  ["a softmax along it", graph(X, `%y = Softmax(%x) {axis = 0}`), /Softmax works along the dim/],
  ["a product that sums over it", graph("%x: float32[n, 4], %z: float32[4, n]", `%y = MatMul(%z, %x)`), /MatMul sums over the dim/],
  ["its last place", graph(X, `const %i = int64[] [-1]\n%y = Gather(%x, %i) {axis = 0}`), /Gather picks places of the dim/],
  [
    "a view that mixes it with the axis before",
    graph("%x: float32[2, n, 4]", `const %s = int64[2] [-1, 4]\n%y = Reshape(%x, %s)`),
    /Reshape mixes the dim with those before it/,
  ],
  [
    "its size as a number",
    graph(X, `%s = Shape(%x)\n%f = Cast(%s) {to = 1}\n%r = Sqrt(%f)\n%m = ReduceSum(%r)\n%y = Mul(%x, %m)`),
    /computes with the size of the dim/,
  ],
  [
    "a batch norm that trains",
    graph("%x: float32[n, 2, 4, 4]", `const %s = float32[2] [1.0, 2.0]\n%y = BatchNormalization(%x, %s, %s, %s, %s) {training_mode = 1}`),
    /normalises over the batch/,
  ],
  ["a join along it", graph(X, `%y = Concat(%x, %x) {axis = 0}`), /Concat joins along the dim/],
  [
    "an operator without a rule",
    graph(X, `%y = CumSum(%x, %i)\n`.replace("%y", "const %i = int64[] [0]\n  %y")),
    /no rule says what CumSum does/,
  ],
  [
    "attention's own product",
    graph("%x: float32[2, n, 4]", `%t = Transpose(%x) {perm = [0, 2, 1]}\n%y = MatMul(%x, %t)`),
    /along different axes|several axes/,
  ],
];

describe("what is proved", () => {
  it.each(provable)("%s: the proof holds, and garbage in the padding changes nothing", async (_, g, axis) => {
    expect(refusal(g, "n")).toBeUndefined();
    const [a, b] = await padded(g, axis);
    expect(b.dims).toEqual(a.dims);
    expect(b.data).toEqual(a.data);
  });
  it.each(refused)("%s is refused, with the node and why", (_, g, why) => {
    expect(refusal(g, "n")).toMatch(why);
  });
});

describe("tensors of other dims", () => {
  const t = (dims: readonly number[]): Tensor =>
    new Tensor(
      "float32",
      Float32Array.from({ length: dims.reduce((a, d) => a * d, 1) }, (_, i) => i + 1),
      dims,
    );
  it("grow by their last place or by zeros, axis by axis, and are cut back to themselves", () => {
    expect([...(resized(t([2, 2]), [3, 2], () => "last").data as Float32Array)]).toEqual([1, 2, 3, 4, 3, 4]);
    expect([...(resized(t([2, 2]), [2, 3]).data as Float32Array)]).toEqual([1, 2, 0, 3, 4, 0]);
    const both = resized(t([2, 2]), [3, 3], (axis) => (axis === 0 ? "last" : "zero"));
    expect([...(both.data as Float32Array)]).toEqual([1, 2, 0, 3, 4, 0, 3, 4, 0]);
    for (const dims of [
      [1, 1, 1],
      [2, 3, 4],
      [3, 1, 5],
    ]) {
      const x = t(dims);
      expect(
        resized(
          resized(
            x,
            dims.map((d) => d + 2),
            () => "last",
          ),
          dims,
        ).data,
      ).toEqual(x.data);
    }
  });
  it("stay as they are where nothing changes; text grows too; nothing has no last place", () => {
    const x = t([2, 2]);
    expect(resized(x, [2, 2])).toBe(x);
    expect(resized(new Tensor("string", ["a", "b"], [2]), [3], () => "last").data).toEqual(["a", "b", "b"]);
    expect([...(resized(t([0, 2]), [2, 2], () => "last").data as Float32Array)]).toEqual([0, 0, 0, 0]);
  });
});

describe("symbols of a segment", () => {
  it("are solved from plain and linear dims, and refuse dims that do not agree", () => {
    const s = openSegment(graph("%x: float32[n, 4], %z: float32[2*n + 1, 4]", "%y = Relu(%x)"));
    expect(s.symbols).toEqual(["n"]);
    expect([
      ...(s.bind([
        [3, 4],
        [7, 4],
      ]) ?? []),
    ]).toEqual([["n", 3]]);
    expect(
      s.bind([
        [3, 4],
        [8, 4],
      ]),
    ).toBeUndefined();
    expect(
      s.bind([
        [3, 5],
        [7, 4],
      ]),
    ).toBeUndefined();
  });
  it("dims without a name, or behind a division, are symbols of their own", () => {
    const s = openSegment(graph("%x: float32[?, floordiv(h, 2)]", "%y = Relu(%x)"));
    expect(s.symbols).toEqual(["x_0", "x_1"]);
    expect([...(s.bind([[3, 5]]) ?? [])]).toEqual([
      ["x_0", 3],
      ["x_1", 5],
    ]);
  });
});
