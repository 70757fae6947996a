/** Segments as TensorRT gets them: half precision, names, quantized biases, profiles. */
import { describe, expect, it } from "vitest";
import { hostEngine } from "../../../src/engines/host/index.js";
import { prepareSegment, spelledForParser } from "../../../src/engines/tensorrt/prepare.js";
import { atHalfPrecision, halfConstant } from "../../../src/engines/tensorrt/typed.js";
import { importOnnx } from "../../../src/import/onnx/index.js";
import { valueAt } from "../../../src/ir/graph.js";
import { halfToNumber } from "../../../src/ir/numeric.js";
import { parse } from "../../../src/ir/parse.js";
import { bytesOf, makeConstant, typedOf } from "../../../src/ir/payload.js";
import { print } from "../../../src/ir/print.js";
import type { Graph } from "../../../src/ir/types.js";
import { verify } from "../../../src/ir/verify.js";
import { inferGraph } from "../../../src/ops/infer.js";
import { Tensor } from "../../../src/tensor.js";

const typed = (text: string): Graph => inferGraph(parse(text)).graph;
const half = (text: string, type: "float16" | "bfloat16" = "float16"): Graph => {
  const g = atHalfPrecision(typed(text), type);
  verify(g);
  // What the types say must be what inference finds.
  inferGraph(g);
  return g;
};
const ops = (g: Graph): string => g.nodes.map((n) => n.op).join(" ");
const types = (g: Graph, ids: Graph["inputs"]): string[] =>
  ids.map((v) => {
    const { name, type } = valueAt(g, v);
    return `${name}: ${type.kind === "tensor" ? type.dtype : type.kind}`;
  });

describe("half precision", () => {
  const MLP = `graph "g" opset {"": 18} (%x: float32[4, 2]) -> (%y) {
  const %w = float32[2, 2] [1.0, 2.0, 3.0, 100000.0]
  %h = MatMul(%x, %w) @"fc"
  %y = Relu(%h) @"act"
}`;
  it("casts at the edge alone, and keeps the names and types of the interface", () => {
    const g = half(MLP);
    expect(ops(g)).toBe("Cast MatMul Relu Cast");
    expect([...types(g, g.inputs), ...types(g, g.outputs)]).toEqual(["x: float32", "y: float32"]);
    expect(g.nodes.map((n) => n.name)).toEqual(["x/float16/Cast", "fc", "act", "y/Cast"]);
  });
  it("weights are rounded to nearest even; what is finite stays finite", () => {
    const [w] = [...half(MLP).constants.values()];
    expect(Array.from(typedOf(w as never) as Uint16Array, halfToNumber)).toEqual([1, 2, 3, 65504]);
    const c = makeConstant("float32", [5], [1 + 2 ** -11, 1 + 3 * 2 ** -11, Number.NEGATIVE_INFINITY, Number.NaN, 3.4e38]);
    expect(Array.from(new Uint16Array(new Uint8Array(bytesOf(halfConstant(c, "float16"))).buffer), halfToNumber)).toEqual([
      1,
      1 + 2 ** -9,
      Number.NEGATIVE_INFINITY,
      Number.NaN,
      65504,
    ]);
    expect([...new Uint16Array(new Uint8Array(bytesOf(halfConstant(c, "bfloat16"))).buffer)]).toEqual([
      0x3f80, 0x3f80, 0xff80, 0x7fc0, 0x7f7f,
    ]);
  });
  it("computes what float32 does, as near as half precision can", async () => {
    const g = half(MLP.replace("100000.0", "0.125"));
    const artifact = await hostEngine.build(g, { target: { sm: 90, tensorrt: 0, precision: "fp32" } });
    const executable = await hostEngine.open(artifact, { streams: 1, threads: 1 });
    const [y] = await executable.run([new Tensor("float32", Float32Array.of(1, 2, 3, 4, -1, 0.5, 0.1, 0.2), [4, 2])]);
    const expected = [7, 2.25, 15, 6.5, 0.5, 0, 0.7, 0.225];
    const data = y?.data as Float32Array | undefined;
    for (const [i, e] of expected.entries()) expect(Math.abs((data?.[i] ?? Number.NaN) - e)).toBeLessThan(0.016);
    await executable.dispose();
  });
  it("sums and powers stay float32, with casts around the whole run of them", () => {
    const g = half(`graph "g" opset {"": 18} (%x: float32[4, 8]) -> (%y) {
  const %two = float32[] [2.0]
  const %axes = int64[1] [1]
  %p = Pow(%x, %two)
  %s = ReduceSum(%p, %axes)
  %y = Sqrt(%s)
}`);
    expect(ops(g)).toBe("Pow ReduceSum Cast Sqrt Cast");
  });
  it("what comes from integers stays float32 until it meets data; a mask stays finite", () => {
    const g = half(`graph "g" opset {"": 18} (%x: float32[2, 4], %mask: int64[2, 4]) -> (%y) {
  const %one = float32[] [1.0]
  const %low = float32[] [-3.4e38]
  %f = Cast(%mask) {to = 1}
  %not = Sub(%one, %f)
  %m = Mul(%not, %low)
  %s = Add(%x, %m)
  %y = Softmax(%s) {axis = -1}
}`);
    const text = print(g);
    expect(ops(g)).toBe("Cast Sub Mul Cast Clip Cast Add Softmax Cast");
    expect(text).toContain("float32");
  });
  it("an output that is read inside is float32 outside and half within", () => {
    const g = half(`graph "g" opset {"": 18} (%x: float32[4]) -> (%a, %b) { %a = Relu(%x)\n %b = Exp(%a) }`);
    expect(types(g, g.outputs)).toEqual(["a: float32", "b: float32"]);
    expect(ops(g)).toBe("Cast Relu Cast Exp");
  });
  it("attributes that name a type follow it; Resize keeps its scales", () => {
    const g = half(`graph "g" opset {"": 18} (%x: float32[1, 1, 4, 4], %i: int64[4]) -> (%y, %z) {
  const %scales = float32[4] [1.0, 1.0, 2.0, 2.0]
  const %table = float32[8, 2] [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0]
  %h = Cast(%x) {to = 10}
  %f = Cast(%h) {to = 1}
  %y = Resize(%f, _, %scales) {mode = "nearest"}
  %z = Gather(%table, %i)
}`);
    const scales = [...g.constants].find(([v]) => valueAt(g, v).name === "scales");
    expect(scales?.[1].dtype).toBe("float32");
    const cast = g.nodes.find((n) => n.outs.some((v) => v !== undefined && valueAt(g, v).name === "f"));
    expect(cast?.attrs["to"]).toEqual({ kind: "int", value: 10 });
    const gather = g.nodes.find((n) => n.op === "Gather");
    expect(types(g, gather?.outs as never)).toEqual(["z/float16: float16"]);
  });
  it("a graph without float32 comes back as it is", () => {
    const g = typed(`graph "g" opset {"": 18} (%x: int32[4]) -> (%y) { %y = Neg(%x) }`);
    expect(atHalfPrecision(g, "bfloat16")).toBe(g);
  });
});

describe("what the parser gets", () => {
  const QDQ = `graph "g" opset {"": 21} (%x: float32[2, 3]) -> (%y) {
  const %s = float32[] [0.5]
  const %ws = float32[2] [0.25, 0.5]
  const %w = int8[3, 2] [1, 2, 3, 4, 5, 6]
  const %b = int32[2] [8, -8]
  %q = QuantizeLinear(%x, %s) {output_dtype = 3}
  %dx = DequantizeLinear(%q, %s)
  %dw = DequantizeLinear(%w, %ws) {axis = -1}
  %db = DequantizeLinear(%b, %ws) {axis = 0}
  %m = MatMul(%dx, %dw) @"product"
  %y = Add(%m, %db) @"product"
}`;
  it("biases of int32 are constants, axes count from the front, and no two nodes share a name", () => {
    const g = spelledForParser(typed(QDQ));
    expect(ops(g)).toBe("QuantizeLinear DequantizeLinear DequantizeLinear MatMul Add");
    expect(g.nodes.map((n) => n.name)).toEqual(["q", "dx", "dw", "product", "product.1"]);
    expect(g.nodes[2]?.attrs["axis"]).toEqual({ kind: "int", value: 1 });
    const bias = [...g.constants].find(([v]) => valueAt(g, v).name === "db");
    expect([...(typedOf(bias?.[1] as never) as Float32Array)]).toEqual([2, -4]);
  });
  it("is an ONNX model that reads back with the same names; the user's names are kept by place", () => {
    const { onnx, nodes, profile } = prepareSegment(typed(QDQ), "int8");
    const back = importOnnx(onnx);
    expect(back.nodes.map((n) => n.name)).toEqual(["q", "dx", "dw", "product", "product.1"]);
    expect(nodes[3]).toEqual({ name: "product", op: "MatMul" });
    expect(profile).toEqual([]);
  });
});

describe("profiles", () => {
  const bindings = (entries: Readonly<Record<string, number>>): ReadonlyMap<string, number> => new Map(Object.entries(entries));
  const ranges = { min: bindings({ N: 1, L: 8 }), opt: bindings({ N: 4, L: 16 }), max: bindings({ N: 16, L: 32 }) };
  it("every open input has one, symbols and what is computed of them", () => {
    const g = typed(
      `graph "g" opset {"": 18} (%x: float32[N, 3], %z: float32[2*N, L], %c: float32[3]) -> (%y, %w) { %y = Add(%x, %c)\n %w = Relu(%z) }`,
    );
    expect(prepareSegment(g, "fp32", ranges).profile).toEqual([
      { name: "x", min: [1, 3], opt: [4, 3], max: [16, 3] },
      { name: "z", min: [2, 8], opt: [8, 16], max: [32, 32] },
    ]);
  });
  it("P2230 names the input and the dim without a range", () => {
    const g = typed(`graph "g" opset {"": 18} (%x: float32[N, M]) -> (%y) { %y = Relu(%x) }`);
    expect(() => prepareSegment(g, "fp32", ranges)).toThrow(/^P2230 .*dim 'M' of 'x' has no range/);
  });
  it("P2231: a shape from outside of which nothing is known", () => {
    const g = typed(`graph "g" opset {"": 18} (%x: float32[4, 3], %s: int64[2]) -> (%y) { %y = Reshape(%x, %s) }`);
    expect(() => prepareSegment(g, "fp32", ranges)).toThrow(/^P2231 .*'s' is read as a shape/);
  });
});
