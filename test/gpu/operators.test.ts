/** Every sample of the registry that the CUDA engine takes, on the GPU, against ONNX Runtime; then special values and empty tensors. */
import { describe, expect, it } from "vitest";
import { parse } from "../../src/ir/parse.js";
import { Tensor } from "../../src/tensor.js";
import { type EmittedSample, emittedSamples, reference } from "../support/emitted.js";
import { figure, gpuMissing, needsGpu } from "./gpu.js";
import { onGpu, type Precision, pooled, tolerance } from "./run.js";

const WIDTH = 12;

async function all(samples: readonly EmittedSample[], precision: Precision): Promise<void> {
  const wrong: string[] = [];
  let [compared, largest, worst] = [0, 0, ""];
  await pooled(samples, WIDTH, async (s) => {
    try {
      const expected = await reference(s);
      if (expected === undefined) return;
      const result = await onGpu(s.graph, s.inputs, expected, precision);
      compared++;
      if (result.wrong !== undefined) wrong.push(`${s.title}: ${result.wrong}`);
      else if (result.relative > largest) [largest, worst] = [result.relative, s.title];
    } catch (error) {
      wrong.push(`${s.title}: ${error instanceof Error ? error.message.slice(0, 600) : error}`);
    }
  });
  figure(`operator samples, ${precision}`, { compared, wrong: wrong.length, largestRelativeError: largest, of: worst });
  expect(wrong).toEqual([]);
}

describe.skipIf(gpuMissing !== undefined)(needsGpu("operators on the GPU"), () => {
  const samples = gpuMissing === undefined ? emittedSamples() : [];
  it.each(Object.keys(tolerance) as Precision[])("%s", (precision) => all(samples, precision));
});

describe.skipIf(gpuMissing !== undefined)(needsGpu("special values"), () => {
  const { NaN: nan, POSITIVE_INFINITY: inf } = Number;
  const values = [0, -0, 1, -1, 0.5, -2.5, 3.5, 1e30, -1e30, 1e-40, inf, -inf, nan, 88, -88, 1000];
  const unary = ["Abs", "Ceil", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish", "IsInf", "IsNaN", "LeakyRelu", "Neg", "Relu", "Round"];
  const more = ["Sigmoid", "Sign", "Softplus", "Softsign", "Sqrt", "Tanh", "Reciprocal", "Elu", "Selu", "Mish", "Celu", "ThresholdedRelu"];
  const binary = ["Add", "Sub", "Mul", "Div", "Max", "Min", "Equal", "Less", "GreaterOrEqual"];
  const boolean = new Set(["IsInf", "IsNaN", "Equal", "Less", "GreaterOrEqual"]);
  const n = values.length;
  const cases: EmittedSample[] = [
    ...[...unary, ...more].map((op) => ({
      title: op,
      graph: parse(
        `graph "g" opset {"": 20} (%x: float32[${n}]) -> (%y) { %y: ${boolean.has(op) ? "bool" : "float32"}[${n}] = ${op}(%x) }`,
      ),
      inputs: [new Tensor("float32", Float32Array.from(values), [n])],
    })),
    ...binary.map((op) => ({
      title: op,
      graph: parse(
        `graph "g" opset {"": 20} (%x: float32[${n}, 1], %z: float32[${n}]) -> (%y) { %y: ${boolean.has(op) ? "bool" : "float32"}[${n}, ${n}] = ${op}(%x, %z) }`,
      ),
      inputs: [new Tensor("float32", Float32Array.from(values), [n, 1]), new Tensor("float32", Float32Array.from(values), [n])],
    })),
    // ONNX Runtime drops a NaN among those whose largest or smallest is asked for; the engine hands it on.
    ...["ReduceMax", "ReduceMin", "ReduceSum"].map((op) => ({
      title: op,
      graph: parse(`graph "g" opset {"": 20} (%x: float32[3, 40]) -> (%y) {
        const %a = int64[1] [1]
        %y: float32[3, 1] = ${op}(%x, %a)
      }`),
      inputs: [
        new Tensor(
          "float32",
          Float32Array.from({ length: 120 }, (_, i) => (i === 7 && op === "ReduceSum" ? nan : i === 50 ? inf : i === 51 ? 3 : i % 11)),
          [3, 40],
        ),
      ],
    })),
    {
      title: "Softmax",
      graph: parse(`graph "g" opset {"": 20} (%x: float32[3, 40]) -> (%y) { %y: float32[3, 40] = Softmax(%x) }`),
      inputs: [
        new Tensor(
          "float32",
          Float32Array.from({ length: 120 }, (_, i) => (i === 7 ? nan : i === 50 ? -inf : i % 11)),
          [3, 40],
        ),
      ],
    },
  ];
  it("NaN, infinities, zeros of both signs, numbers near the ends of the range", async () => {
    const wrong: string[] = [];
    let compared = 0;
    await pooled(cases, WIDTH, async (c) => {
      const expected = await reference(c);
      if (expected === undefined) return;
      const result = await onGpu(c.graph, c.inputs, expected, "fp32");
      compared++;
      if (result.wrong !== undefined) wrong.push(`${c.title}: ${result.wrong}`);
    });
    figure("special values", { compared, wrong: wrong.length });
    expect(wrong).toEqual([]);
  });

  it("empty tensors", async () => {
    const wrong: string[] = [];
    const text = (inputs: string, out: string, node: string): string =>
      `graph "g" opset {"": 20} (${inputs}) -> (%y) { const %axes = int64[1] [0]\n %y: ${out} = ${node} }`;
    const empties: [string, readonly (readonly number[])[]][] = [
      [text("%x: float32[0, 4], %z: float32[4]", "float32[0, 4]", "Add(%x, %z)"), [[0, 4], [4]]],
      [
        text("%x: float32[0, 4], %z: float32[4, 5]", "float32[0, 5]", "MatMul(%x, %z)"),
        [
          [0, 4],
          [4, 5],
        ],
      ],
      [
        text("%x: float32[3, 0], %z: float32[0, 5]", "float32[3, 5]", "MatMul(%x, %z)"),
        [
          [3, 0],
          [0, 5],
        ],
      ],
      [text("%x: float32[0, 4]", "float32[1, 4]", "ReduceSum(%x, %axes)"), [[0, 4]]],
      [
        text("%x: float32[2, 0], %z: float32[2, 3]", "float32[2, 3]", "Concat(%x, %z) {axis = 1}"),
        [
          [2, 0],
          [2, 3],
        ],
      ],
      [text("%x: float32[0, 4]", "float32[4, 0]", "Transpose(%x) {perm = [1, 0]}"), [[0, 4]]],
      [text("%x: float32[0, 4]", "float32[0, 4]", "Softmax(%x)"), [[0, 4]]],
    ];
    for (const [graph, dims] of empties) {
      const inputs = dims.map((d) => {
        const count = d.reduce((a, b) => a * b, 1);
        return new Tensor(
          "float32",
          Float32Array.from({ length: count }, (_, i) => i - 3),
          d,
        );
      });
      const c = { title: graph, graph: parse(graph), inputs };
      const expected = await reference(c);
      if (expected === undefined) continue;
      const { wrong: found } = await onGpu(c.graph, c.inputs, expected, "fp32");
      if (found !== undefined) wrong.push(`${graph}: ${found}`);
    }
    expect(wrong).toEqual([]);
  });
});
