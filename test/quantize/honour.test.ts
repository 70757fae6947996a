/** Graphs with quantizers of their own: constants become integers, and the function stays the same. */
import { describe, expect, test } from "vitest";
import { hostRunner } from "../../src/engines/host/runner.js";
import { parse } from "../../src/ir/parse.js";
import { typedOf } from "../../src/ir/payload.js";
import { print } from "../../src/ir/print.js";
import type { Graph } from "../../src/ir/types.js";
import { verify } from "../../src/ir/verify.js";
import { inferGraph } from "../../src/ops/infer.js";
import { honoured } from "../../src/quantize/honour.js";
import { Tensor } from "../../src/tensor.js";
import { nodes } from "../passes/support.js";
import { generator } from "../support/integer-kernels.js";

const random = generator(21);
const floats = (name: string, ...dims: number[]): string =>
  `const %${name} = float32[${dims.join(", ")}] [${Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => (random() - 0.5).toFixed(4)).join(", ")}]`;
const list = (n: number, from: number): string => Array.from({ length: n }, (_, i) => (from * (1 + i / 8)).toFixed(5)).join(", ");

/** As quantization-aware training writes it: weights quantized where they are read, the last dim that of channels, the bias in float. */
const trained = (zero: string): Graph =>
  parse(`graph "qat" opset {"": 21} (%x: float32[1, 4, 6, 6]) -> (%y) {
    ${floats("w", 3, 3, 4, 16)}
    ${floats("b", 16)}
    const %sw = float32[16] [${list(16, 0.004)}]
    const %zw = int8[16] [${new Array(16).fill(0).join(", ")}]
    const %sx = float32[] [0.02]
    const %zx = ${zero}
    const %sy = float32[] [0.03]
    %xq = QuantizeLinear(%x, %sx, %zx)
    %xd = DequantizeLinear(%xq, %sx, %zx)
    %wq = QuantizeLinear(%w, %sw, %zw) {axis = 3}
    %wd = DequantizeLinear(%wq, %sw, %zw) {axis = -1}
    %wt = Transpose(%wd) {perm = [3, 2, 0, 1]}
    %c = Conv(%xd, %wt, %b) {pads = [1, 1, 1, 1]}
    %r = Relu(%c)
    %yq = QuantizeLinear(%r, %sy, %zx)
    %y = DequantizeLinear(%yq, %sy, %zx)
  }`);
async function run(g: Graph): Promise<Float32Array> {
  const opened = await hostRunner({ threads: 1 }).open(inferGraph(g).graph);
  const data = Float32Array.from({ length: 144 }, (_, i) => Math.sin(i) * 2);
  const { y } = await opened.run({ x: new Tensor("float32", data, [1, 4, 6, 6]) });
  await opened.dispose();
  return y?.data as Float32Array;
}

describe("a graph from quantization-aware training", () => {
  const g = trained("int8[] [0]");
  const made = honoured(g);
  test("has integers for constants", () => {
    verify(made);
    const lines = nodes(print(made)).map((l) => l.replace(/ @.*/, ""));
    expect(lines.filter((l) => l.includes("QuantizeLinear(") && !l.includes("Dequantize"))).toHaveLength(2);
    expect(lines.find((l) => l.startsWith("%wt"))).toBe("%wt = DequantizeLinear(%wq.folded.moved, %sw, %zw) {axis = 0}");
    expect(lines.some((l) => l.includes("Transpose"))).toBe(false);
    const conv = lines.find((l) => l.startsWith("%c = Conv"));
    expect(conv).toMatch(/^%c = Conv\(%xd, %wt, %\S*b\S*\) /);
    const constants = new Map([...made.constants].map(([v, c]) => [made.values[v]?.name, c]));
    expect(constants.get("wq.folded.moved")?.dims).toEqual([16, 4, 3, 3]);
    // Element [k, c, i, j] of the new order is [i, j, c, k] of the old.
    const [old, now] = [
      typedOf([...g.constants.values()][0] as never) as Float32Array,
      typedOf(constants.get("wq.folded.moved") as never) as Int8Array,
    ];
    const at = (k: number, c: number, i: number, j: number): [number, number] => [
      ((i * 3 + j) * 4 + c) * 16 + k,
      ((k * 4 + c) * 3 + i) * 3 + j,
    ];
    for (const [k, c, i, j] of [
      [0, 0, 0, 0],
      [5, 3, 1, 2],
      [15, 2, 2, 0],
    ] as const) {
      const [from, to] = at(k, c, i, j);
      const scale = Math.fround(Number((0.004 * (1 + k / 8)).toFixed(5)));
      expect(now[to]).toBe(Math.max(-128, Math.min(127, Math.round(Math.fround((old[from] as number) / scale)))));
    }
    expect(constants.get("b/int32")?.dtype).toBe("int32");
  });
  test("computes what it computed, but for the rounding of the bias", async () => {
    const [before, after] = [await run(g), await run(made)];
    // One step of the output.
    expect(Math.max(...before.map((v, i) => Math.abs(v - (after[i] as number))))).toBeLessThan(0.0301);
    expect(before.filter((v, i) => v !== after[i]).length).toBeLessThan(before.length / 50);
  });
  test("asymmetric activations keep their float bias", async () => {
    const asymmetric = trained("uint8[] [128]");
    const constants = honoured(asymmetric);
    expect(nodes(print(constants)).some((l) => l.includes("%b)"))).toBe(true);
    const [before, after] = [await run(asymmetric), await run(constants)];
    expect(Math.max(...before.map((v, i) => Math.abs(v - (after[i] as number))))).toBeLessThan(0.0301);
  });
});

test("a graph without anything to change is the same graph", () => {
  const g = parse(`graph "q" opset {"": 21} (%x: float32[2, 16]) -> (%y) {
    const %s = float32[] [0.05]
    const %z = int8[] [0]
    %q = QuantizeLinear(%x, %s, %z)
    %y = DequantizeLinear(%q, %s, %z)
  }`);
  expect(honoured(g)).toBe(g);
});
