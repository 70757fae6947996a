/** Dense layers that are written as Einsum. */
import { expect, it } from "vitest";
import { calibrate } from "../../src/calibrate.js";
import { compile } from "../../src/compile.js";
import { hostRunner } from "../../src/engines/host/runner.js";
import { parse } from "../../src/ir/parse.js";
import type { Graph } from "../../src/ir/types.js";
import { inferGraph } from "../../src/ops/infer.js";
import { einsumsAsProducts } from "../../src/quantize/einsum.js";
import { generator } from "../../src/runtime/measure.js";
import { Tensor } from "../../src/tensor.js";

const next = generator(2);
const dense = (equation: string, x: readonly (number | string)[], w: readonly number[], first = false): Graph => {
  const values = Array.from({ length: w.reduce((a, d) => a * d, 1) }, () => (next() - 0.5).toFixed(4));
  return inferGraph(
    parse(`graph "dense" opset {"": 18} (%x: float32[${x.join(", ")}]) -> (%y) {
      const %w = float32[${w.join(", ")}] [${values.join(", ")}]
      %y = Einsum(${first ? "%w, %x" : "%x, %w"}) {equation = "${equation}"} @"layer"
    }`),
  ).graph;
};
const fed = (...dims: number[]): Tensor =>
  new Tensor(
    "float32",
    Float32Array.from({ length: dims.reduce((a, d) => a * d, 1) }, () => next() - 0.5),
    dims,
  );
const runner = hostRunner({ threads: 1 });

it.each([
  ["abc,cd->abd", ["n", 5, 16], [16, 20], false],
  ["abc,cde->abde", ["n", 5, 16], [16, 4, 6], false],
  ["abcd,cde->abe", ["n", 5, 4, 6], [4, 6, 20], false],
  ["abcd,edc->eab", ["n", 5, 4, 6], [20, 6, 4], false],
  ["cd,acb->abd", ["n", 16, 5], [16, 20], true],
  ["nchw,oc->nohw", ["n", 16, 3, 2], [20, 16], false],
] as const)("%s is a product, of the same values", async (equation, x, w, first) => {
  const g = dense(equation, x, w, first);
  const spelled = einsumsAsProducts(g, undefined);
  expect(spelled.nodes.filter((n) => n.op === "MatMul").map((n) => n.name)).toEqual(["layer"]);
  expect(spelled.nodes.some((n) => n.op === "Einsum")).toBe(false);
  const feed = { x: fed(...x.map((d) => (typeof d === "number" ? d : 3))) };
  const [a, b] = [await runner.open(g), await runner.open(spelled)];
  const [want, got] = [await a.run(feed), await b.run(feed)];
  await Promise.all([a.dispose(), b.dispose()]);
  expect(got["y"]?.dims).toEqual(want["y"]?.dims);
  const exact = Array.from(want["y"]?.data as Float32Array);
  Array.from(got["y"]?.data as Float32Array).forEach((v, i) => void expect(v).toBeCloseTo(exact[i] ?? Number.NaN, 5));
});
it.each([
  ["abc,acd->abd", [3, 5, 16], [3, 16, 20]],
  ["abc,cd->ad", [3, 5, 16], [16, 20]],
  ["aab,bc->ac", [3, 3, 16], [16, 20]],
  ["ab,bc->ca", ["n", "k"], [16, 20]],
  ["a,ab->b", [16], [16, 20]],
  ["ab,cd->abcd", [3, 5], [4, 6]],
] as const)("%s stays", (equation, x, w) => {
  const g = dense(equation, x, w);
  expect(einsumsAsProducts(g, undefined).nodes.some((n) => n.op === "Einsum")).toBe(true);
});
it("they run in int8, with ranges of feeds and of a file, unless they are excluded", async () => {
  const g = dense("abc,cde->abde", ["n", 5, 32], [32, 4, 6]);
  const data = Array.from({ length: 40 }, () => ({ x: fed(1, 5, 32) }));
  const ops = async (calibration: object) => (await compile(g, { precision: "int8", calibration })).report.data.nodes.map((n) => n.op);
  expect(await ops({ data, search: "none" })).toContain("QuantizeLinear");
  expect(await ops({ data, search: "none", exclude: ["layer"] })).toEqual(["Einsum"]);
  const { calibration } = await calibrate(g, { data });
  expect([...calibration.observations.keys()]).toEqual(["x"]);
});
