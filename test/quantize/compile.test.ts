/** Compiling with precision int8: what must be supplied, what is honoured, and that a program keeps its results through a bundle. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { calibrate } from "../../src/calibrate.js";
import { parseCalibration } from "../../src/cli/syntax.js";
import { compile, load, report } from "../../src/compile.js";
import type { Remark } from "../../src/diagnostics.js";
import { hostRunner } from "../../src/engines/host/runner.js";
import { parse } from "../../src/ir/parse.js";
import type { Graph } from "../../src/ir/types.js";
import { inferGraph } from "../../src/ops/infer.js";
import { type Calibration, writeCalibration } from "../../src/quantize/calibration.js";
import { quantize } from "../../src/quantize/index.js";
import { rangesOf } from "../../src/quantize/ranges.js";
import { tableText } from "../../src/quantize/table.js";
import { Tensor } from "../../src/tensor.js";
import { generator } from "../support/integer-kernels.js";

const folder = mkdtempSync(join(tmpdir(), "partita-int8-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const random = generator(9);
const weights = (name: string, ...dims: number[]): string =>
  `const %${name} = float32[${dims.join(", ")}] [${Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => (random() - 0.5).toFixed(3)).join(", ")}]`;
const model = (): Graph =>
  parse(`graph "small" opset {"": 21} (%x: float32[N, 4, 6, 6]) -> (%y) {
    ${weights("w1", 16, 4, 3, 3)}
    ${weights("b1", 16)}
    ${weights("w2", 20, 16)}
    %c = Conv(%x, %w1, %b1) {pads = [1, 1, 1, 1]} @"stem"
    %r = Relu(%c) @"relu"
    %p = GlobalAveragePool(%r) @"pool"
    %f = Flatten(%p) {axis = 1} @"flat"
    %y = Gemm(%f, %w2) {transB = 1} @"head"
  }`);
const feeds = (count: number): { x: Tensor }[] =>
  Array.from({ length: count }, () => ({
    x: new Tensor(
      "float32",
      Float32Array.from({ length: 144 }, () => random() * 2 - 1),
      [1, 4, 6, 6],
    ),
  }));
const small = model();
const data = feeds(40);
/** Without the search: it has tests of its own. */
const calibration = { data, search: "none" } as const;

describe("a calibration table of TensorRT", () => {
  test("that calibration wrote gives the program that the ranges behind it give, to the bit", async () => {
    const { calibration: found, graph } = await calibrate(small, { data });
    const ranges = rangesOf(graph, found.observations, "max");
    const table = join(folder, "ranges.table");
    writeFileSync(table, tableText(ranges));
    const [byTable, byFeeds] = [
      await compile(small, { precision: "int8", calibration: { table } }),
      await compile(small, { precision: "int8", calibration: { ...calibration, method: "max" } }),
    ];
    expect(byTable.report.data.quantization).toMatchObject({ source: "table", configuration: "ranges as given" });
    const quantizers = (p: typeof byTable) => p.report.data.nodes.filter((n) => n.op === "QuantizeLinear").map((n) => n.name);
    expect(quantizers(byTable).length).toBeGreaterThan(0);
    expect(quantizers(byTable)).toEqual(quantizers(byFeeds));
    await using a = await byTable.createSession({ threads: 1 });
    await using b = await byFeeds.createSession({ threads: 1 });
    for (const feed of data.slice(0, 5)) expect((await a.run(feed))["y"]?.data).toEqual((await b.run(feed))["y"]?.data);
    // And it is the table's: half the range of the input clips it.
    writeFileSync(table, tableText(new Map([...ranges].map(([name, r]) => [name, name === "x" ? r / 2 : r]))));
    await using c = await (await compile(small, { precision: "int8", calibration: { table } })).createSession({ threads: 1 });
    expect((await c.run(data[0] ?? {}))["y"]?.data).not.toEqual((await a.run(data[0] ?? {}))["y"]?.data);
  });
});

describe("what int8 needs", () => {
  test("ranges: without them compiling is refused, and a report says so", async () => {
    await expect(compile(small, { precision: "int8" })).rejects.toThrow(
      /^P1630 precision int8 needs the ranges of the model's activations.*Give calibration: \{ data \}/,
    );
    const remarks: Remark[] = [];
    const r = await report(small, { precision: "int8", onRemark: (remark) => remarks.push(remark) });
    expect(r.data.nodes.length).toBeGreaterThan(0);
    expect(remarks.map((m) => m.text)).toContain("the report is of the float graph: int8 needs ranges, and there is no calibration");
  });
  test("to be asked for: calibration without int8 is remarked on", async () => {
    const remarks: Remark[] = [];
    await report(small, { calibration: { data: [] }, onRemark: (remark) => remarks.push(remark) });
    expect(remarks.map((m) => m.text)).toEqual(["calibration is given and nothing is quantized: the precision is fp32"]);
  });
  test("one source of them", async () => {
    await expect(compile(small, { precision: "int8", calibration: {} })).rejects.toThrow("P1001 option 'calibration' names no data");
    await expect(compile(small, { precision: "int8", calibration: { data, table: "t" } })).rejects.toThrow(
      "P1001 option 'calibration' has data and table. Give one of data, file and table.",
    );
    await expect(compile(small, { precision: "int8", calibration: { data: 3 as never } })).rejects.toThrow(
      "P1001 option 'calibration.data'",
    );
  });
  test("ranges of this model", async () => {
    const options = { runner: hostRunner(), ranges: new Map([["x", 1]]) };
    await expect(quantize(inferGraph(small).graph, options)).rejects.toThrow(
      "P1632 3 of the 4 tensors that int8 quantizes have no range in it, the first is",
    );
  });
  test("something to quantize, where strict", async () => {
    const plain = parse(`graph "p" opset {"": 21} (%x: float32[N, 4, 6, 6]) -> (%y) { %y = Relu(%x) }`);
    await expect(compile(plain, { precision: "int8", calibration, strict: true })).rejects.toThrow(
      "P1633 no operand of the graph can be read as int8: it has no Conv, ConvTranspose, Gemm or MatMul of float32",
    );
    const remarks: string[] = [];
    await compile(plain, { precision: "int8", calibration, onRemark: (r) => remarks.push(r.text) });
    expect(remarks.some((text) => text.endsWith("the model runs in float"))).toBe(true);
  });
  test("and products in the body of an If are not said to be none", async () => {
    const branches = parse(`graph "b" opset {"": 21} (%x: float32[N, 16], %c: bool[]) -> (%y) {
      ${weights("w", 16, 16)}
      %y = If(%c) {
        then_branch = graph "then" () captures (%a = %x, %v = %w) -> (%r) { %r = MatMul(%a, %v) },
        else_branch = graph "else" () captures (%a = %x) -> (%r) { %r = Relu(%a) }
      } @"choice"
    }`);
    const fed = Array.from({ length: 3 }, (_, i) => ({
      x: new Tensor("float32", new Float32Array(16).fill(i), [1, 16]),
      c: new Tensor("bool", [1], []),
    }));
    const wanted = "P1633 no operand of the graph can be read as int8: its products are in the body of If 'choice', and";
    await expect(compile(branches, { precision: "int8", calibration: { data: fed }, strict: true })).rejects.toThrow(wanted);
    await expect(calibrate(branches, { data: fed })).rejects.toThrow(wanted);
  });
  test("feeds with a mask of -inf beside the data", async () => {
    const masked = parse(`graph "m" opset {"": 21} (%x: float32[8, 16], %mask: float32[8, 16]) -> (%y) {
      ${weights("w", 16, 16)}
      %h = MatMul(%x, %w)
      %s = Add(%h, %mask)
      %y = Softmax(%s)
    }`);
    const mask = new Tensor(
      "float32",
      Float32Array.from({ length: 128 }, (_, i) => (i % 16 > 12 ? Number.NEGATIVE_INFINITY : 0)),
      [8, 16],
    );
    const fed = Array.from({ length: 12 }, () => ({ x: new Tensor("float32", Float32Array.from({ length: 128 }, random), [8, 16]), mask }));
    const program = await compile(masked, { precision: "int8", calibration: { data: fed } });
    expect(program.report.data.quantization?.agreement?.rows).toBe(48);
    expect((await calibrate(masked, { data: fed })).calibration.feeds).toBe(12);
    const spoiled = fed.map(({ x }) => ({ x: mask, mask: x }));
    await expect(compile(masked, { precision: "int8", calibration: { data: spoiled } })).rejects.toThrow(/^P1603 .*value 'x'/);
  });
});

describe("a compiled model", () => {
  test("gives nearly what the float one gives, and exactly the same from its bundle", async () => {
    const [float, int8] = [await compile(small), await compile(small, { precision: "int8", calibration })];
    await int8.save(join(folder, "small.partita"));
    const opened = await Promise.all([float, int8, await load(join(folder, "small.partita"))].map((p) => p.createSession()));
    const [test] = feeds(1);
    const outs = await Promise.all(opened.map(async (s) => (await s.run(test as never))["y"]?.data as Float32Array));
    await Promise.all(opened.map((s) => s.dispose()));
    const [exact = new Float32Array(), near = new Float32Array(), loaded] = outs;
    const most = Math.max(...exact.map(Math.abs));
    const error = Math.max(...exact.map((v, i) => Math.abs(v - (near[i] as number))));
    expect(error / most).toBeGreaterThan(0);
    expect(error / most).toBeLessThan(0.1);
    expect(loaded).toEqual(near);
  });
  test("keeps what is excluded in float", async () => {
    const r = await report(small, { precision: "int8", calibration: { ...calibration, exclude: ["Conv"] } });
    expect(r.data.quantization?.floats.map((f) => f.why)).toContain("excluded by 'Conv'");
    expect(r.data.nodes.filter((n) => n.op === "QuantizeLinear").length).toBe(3);
  });
  test("from a calibration file as from the data", async () => {
    const made = await calibrate(small, { data });
    const path = join(folder, "calibration.json");
    writeCalibration(path, made.calibration);
    const [a, b] = await Promise.all([
      report(small, { precision: "int8", calibration }),
      report(small, { precision: "int8", calibration: { file: path } }),
    ]);
    expect(b.data.quantization?.source).toBe("file");
    expect(b.data.quantization?.feeds.calibration).toBe(40);
    expect(b.data.nodes.map((n) => n.name)).toEqual(a.data.nodes.map((n) => n.name));
    const other: Calibration = { ...made.calibration, keys: { ...made.calibration.keys, model: "0".repeat(64) } };
    writeCalibration(path, other);
    await expect(report(small, { precision: "int8", calibration: { file: path } })).rejects.toThrow("P1611");
  });
});

test("a graph that carries quantizers is used as it is", async () => {
  const carrying = parse(`graph "q" opset {"": 21} (%x: float32[2, 16]) -> (%y) {
    const %s = float32[] [0.05]
    const %z = int8[] [0]
    ${weights("w", 16, 16)}
    %q = QuantizeLinear(%x, %s, %z)
    %d = DequantizeLinear(%q, %s, %z)
    %y = MatMul(%d, %w)
  }`);
  const remarks: string[] = [];
  await compile(carrying, { precision: "int8" });
  const { summary, graph } = await quantize(carrying, { runner: hostRunner(), ranges: new Map(), remarks: (r) => remarks.push(r.text) });
  expect(summary.source).toBe("graph");
  expect(graph.nodes).toHaveLength(3);
  expect(remarks).toEqual(["the model carries quantizers of its own; they are used, and the calibration is not"]);
});

test("--calibration tells files, tables and data apart", () => {
  expect(parseCalibration("a/b.json.gz")).toEqual({ file: "a/b.json.gz" });
  expect(parseCalibration("resnet.cache")).toEqual({ table: "resnet.cache" });
  expect(parseCalibration("images")).toEqual({ data: "images" });
});
