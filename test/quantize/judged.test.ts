/** What trials are judged by where outputs hide noise: ranks, selections, masks, and numbers so small that no divergence shows. */
import { describe, expect, it } from "vitest";
import { compile } from "../../src/compile.js";
import { parse } from "../../src/ir/parse.js";
import type { Graph } from "../../src/ir/types.js";
import type { CalibrationOptions } from "../../src/options.js";
import { generator } from "../../src/runtime/measure.js";
import { Tensor } from "../../src/tensor.js";

const normals = (seed: number) => {
  const next = generator(seed);
  return (): number => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
};
const list = (count: number, of: () => number): string => Array.from({ length: count }, () => of().toFixed(5)).join(", ");
const model = (outputs: string, nodes: string, size = 20): Graph => {
  const normal = normals(3);
  return parse(`graph "net" opset {"": 18} (%x: float32[n, 32]) -> (${outputs}) {
    const %w1 = float32[32, 48] [${list(32 * 48, () => normal() / Math.sqrt(32))}]
    const %w2 = float32[48, ${size}] [${list(48 * size, () => normal() / Math.sqrt(48))}]
    const %half = float32[] [0.5]
    const %none = float32[] [-inf]
    const %mask = bool[${size}] [${Array.from({ length: size }, (_, i) => (i % 3 === 0 ? 0 : 1)).join(", ")}]
    const %flat = int64[1] [-1]
    %h = MatMul(%x, %w1) @"first"
    ${nodes}
  }`);
};
const normal = normals(5);
const data = Array.from({ length: 40 }, () => ({ x: new Tensor("float32", Float32Array.from({ length: 64 }, normal), [2, 32]) }));
const quantized = async (graph: Graph, options: Partial<CalibrationOptions> = {}) =>
  (await compile(graph, { precision: "int8", calibration: { data, method: "max", ...options } })).report.data.quantization;
const plain = `%r = Relu(%h)
    %l = MatMul(%r, %w2) @"head"`;

describe("trials are judged by", () => {
  it("the scores that a class is ranked by, not by the class, which hides all noise but the last bit of it", async () => {
    const q = await quantized(model("%y", `${plain}\n    %y = ArgMax(%l) {axis = 1, keepdims = 0}`));
    const logits = await quantized(model("%l", plain));
    expect(q?.loss).toBeGreaterThan(0);
    expect(q?.agreement?.rows).toBe(40);
    expect([q?.loss, q?.likely]).toEqual([logits?.loss, logits?.likely]);
  });
  it("what a selection reads where the size of its result depends on what is fed", async () => {
    const select = `${plain}
    %all = Reshape(%l, %flat)
    %some = Greater(%all, %half)
    %y = Compress(%all, %some) {axis = 0}`;
    const q = await quantized(model("%y", select));
    expect(q?.trials.every((t) => t.loss !== null && t.loss > 0 && t.loss < 0.1)).toBe(true);
  });
  it("the numbers of an output that holds infinities too", async () => {
    const masked = await quantized(model("%y", `${plain}\n    %y = Where(%mask, %l, %none)`));
    expect(masked?.trials.every((t) => t.loss !== null && t.loss > 0)).toBe(true);
    expect(masked?.likely).toBeLessThan(1);
  });
  it("nothing that no quantizer changes", async () => {
    const [both, alone] = [await quantized(model("%x, %l, %w2", plain)), await quantized(model("%l", plain))];
    expect([both?.loss, both?.agreement, both?.likely]).toEqual([alone?.loss, alone?.agreement, alone?.likely]);
  });
});

describe("an embedding of length 1", () => {
  it("is not taken for lossless because its elements are small", async () => {
    // Elements of very different size in every row: one scale keeps the largest few.
    const skewed = `%s = Mul(%h, %three)
    %e = Exp(%s)
    %c = MatMul(%e, %w2) @"second"
    %y = LpNormalization(%c) {axis = 1}`;
    const graph = model("%y", skewed.replace("%three", "%h"), 512);
    const q = await quantized(graph, { maxFloatShare: 0 });
    expect(q?.loss).toBeLessThan(1e-3);
    expect(q?.shortfall).toMatch(/points of agreement are lost/);
  });
});
