/** The inference driver: coded errors, shape arithmetic, precedence over declared types, and its running time. */
import { describe, expect, it } from "vitest";
import { Editor } from "../../src/ir/edit.js";
import { shapeOfType, typeAt } from "../../src/ir/graph.js";
import { parse } from "../../src/ir/parse.js";
import { int64Constant } from "../../src/ir/payload.js";
import { print } from "../../src/ir/print.js";
import type { Attrs, DType, Graph, Shape, ValueId, ValueType } from "../../src/ir/types.js";
import { inferGraph } from "../../src/ops/infer.js";
import { exportOpset, readingOf } from "../../src/ops/registry.js";

const t = (dtype: DType, shape: Shape): ValueType => ({ kind: "tensor", dtype, shape });
function single(op: string, types: readonly ValueType[], attrs: Attrs = {}): Graph {
  const e = new Editor({ name: "g", opsets: { "": 18 } });
  const ins = types.map((type, i) => e.addInput(`in${i}`, type));
  e.setOutputs([e.add({ op, name: "node", ins, outs: 1, attrs }).outs[0] ?? e.declare("none")]);
  return e.finish();
}
describe("errors", () => {
  it.each([
    ["P1501", "do not broadcast", single("Add", [t("float32", [2]), t("float32", [3])])],
    ["P1502", "required input 'b' is missing", single("Add", [t("float32", [2])])],
    ["P1503", "required and missing", single("Cast", [t("float32", [2])])],
    ["P1503", "UP", single("BitShift", [t("uint8", [2]), t("uint8", [2])], { direction: { kind: "string", value: "UP" } })],
    ["P1504", "'b' is int64, where float32", single("Add", [t("float32", [2]), t("int64", [2])])],
    ["P1505", "takes 1 inputs, the node has 2", single("Relu", [t("float32", [2]), t("float32", [2])])],
  ] as const)("%s: %s", (code, text, graph) => {
    expect(() => inferGraph(graph)).toThrow(expect.objectContaining({ code, message: expect.stringContaining(text) }));
    expect(() => inferGraph(graph)).toThrow(/node 'node'/);
  });
});
it.each([
  ["the pool of 4 has no whole 2-grams from 1 to 4", [0, 1], [0, 1]],
  ["the pool of 4 has no whole 1-grams from 3 to 2", [3, 2], [0, 1]],
  ["3 n-grams in the pool, 2 indexes", [0, 2], [0, 1]],
  ["an index is negative", [0, 2], [0, 1, -1]],
  ["grams of 1 to 2 items, counts for 1", [0], [0, 1, 2, 3]],
])("TfIdfVectorizer whose parts disagree, which ends ONNX Runtime's process: %s", (text, counts, indexes) => {
  const ints = (value: readonly number[]) => ({ kind: "ints" as const, value: [...value] });
  const int = (value: number) => ({ kind: "int" as const, value });
  const attrs: Attrs = {
    max_gram_length: int(2),
    max_skip_count: int(0),
    min_gram_length: int(1),
    mode: { kind: "string", value: "TF" },
    ngram_counts: ints(counts),
    ngram_indexes: ints(indexes),
    pool_int64s: ints([5, 6, 7, 8]),
  };
  const graph = single("TfIdfVectorizer", [t("int64", [3])], attrs);
  expect(() => inferGraph(graph)).toThrow(expect.objectContaining({ code: "P1501", message: expect.stringContaining(text) }));
});
it.each([
  ["index 'j' of '...ij,...jk->...ik' is 2 and 3", "...ij,...jk->...ik", [5, 2], [5, 3, 4]],
  ["operand 1 has rank 1, its term 'jk' of 'ij,jk->ik' another", "ij,jk->ik", [2, 3], [3]],
  ["the dims of '...' in '...i,...i->...' do not broadcast", "...i,...i->...", [2, 4], [3, 4]],
])("Einsum whose operands do not fit, which ends ONNX Runtime's process: %s", (text, equation, a, b) => {
  const graph = single("Einsum", [t("float32", a), t("float32", b)], { equation: { kind: "string", value: equation } });
  expect(() => inferGraph(graph)).toThrow(expect.objectContaining({ code: "P1501", message: expect.stringContaining(text) }));
});
it.each([
  ["batch_dims is 9223372036854776000, not from 0 to 1", 9223372036854775807n, [2, 1]],
  ["batch_dims is -1, not from 0 to 1", -1, [2, 1]],
  ["index vectors of 3 entries behind 1 batch dims, for rank 3", 1, [2, 3]],
])("GatherND that ends ONNX Runtime's process: %s", (text, value, indices) => {
  const graph = single("GatherND", [t("float32", [2, 3, 2]), t("int64", indices)], { batch_dims: { kind: "int", value } });
  expect(() => inferGraph(graph)).toThrow(expect.objectContaining({ code: "P1501", message: expect.stringContaining(text) }));
});
it("inference wins over a wrong declaration, and a declaration fills what inference leaves open", () => {
  const e = new Editor({ name: "g", opsets: { "": 18 } });
  const x = e.addInput("x", t("float32", [2, "n"]));
  const y = e.declare("y", t("float32", [7, 5]));
  e.add({ op: "Relu", ins: [x], outs: [y] });
  e.setOutputs([y]);
  expect(inferGraph(e.finish()).facts(y).type).toEqual(t("float32", [2, 5]));
});
it("carries integer elements through arithmetic, symbols included, and binds them by given shapes", () => {
  const e = new Editor({ name: "g", opsets: { "": 18 } });
  const x = e.addInput("x", t("float32", ["n", 4]));
  const [s] = e.add({ op: "Shape", ins: [x], outs: 1 }).outs;
  const [m] = e.add({ op: "Mul", ins: [s, e.addConstant("two", int64Constant([2, 3]))], outs: 1 }).outs;
  if (m === undefined) throw new Error("no output");
  e.setOutputs([m]);
  expect(inferGraph(e.finish()).facts(m).elements).toEqual(["2*n", 12]);
  expect(inferGraph(e.finish(), { shapes: { x: [5, 4] } }).facts(m).elements).toEqual([10, 12]);
});
it("knows that what is a dim of a tensor is not negative, in its graph and in the bodies there", () => {
  const range = ["%s = Shape(%x)", "%d = Gather(%s, %zero)", "%l = Sub(%d, %one)", "%r = Range(%zero, %l, %one)"];
  const numbers = ["const %zero = int64[] [0]", "const %one = int64[] [1]"];
  const inferred = (inputs: string, ...lines: string[]): string =>
    print(inferGraph(parse([`graph "g" opset {"": 18} (${inputs}) -> (%r) {`, ...lines, "}"].join("\n"))).graph);
  expect(inferred("%x: float32[n]", ...numbers, ...range)).toContain("%r: int64[max(0, n - 1)]");
  expect(inferred("%x: float32[n], %y: float32[n - 1, 3]", ...numbers, ...range)).toContain("%r: int64[n - 1]");
  const branch = (name: string): string[] => [
    `${name}_branch = graph "${name}" () captures (%x: float32[n] = %x) -> (%r) {`,
    ...numbers,
    ...range,
    "}",
  ];
  const both = ["%r = If(%c) {", ...branch("then"), ...branch("else"), "}"];
  expect(inferred("%x: float32[n], %c: bool[]", ...both)).toContain("max(0, n - 1)");
  expect(inferred("%x: float32[n], %c: bool[], %y: float32[n - 1, 3]", ...both)).not.toContain("max(0, n - 1)");
});
it.each([
  ["n", "0", "1", "min(1, n)"],
  ["n", "1", "9223372036854775807", "max(0, n - 1)"],
  ["n", "-1", "9223372036854775807", "min(1, n)"],
  ["n", "2", "-1", "max(0, n - 3)"],
  ["n", "-3", "-1", "?"],
  ["n + 1", "0", "%n", "n"],
  ["9", "0", "%n", "min(9, n)"],
  ["n + 8", "%n", "9223372036854775807", "8"],
  ["2*n", "%n", "%m", "max(0, min(2*n, m) - n)"],
  // The difference may be negative, and would count from the end.
  ["n", "0", "%less", "?"],
  ["n", "%less", "9223372036854775807", "?"],
])("the length of a slice: [%s] from %s to %s is %s", (dim, from, to, length) => {
  const name = (s: string, c: string): string => (s.startsWith("%") ? s : c);
  const given = [["%from", from] as const, ["%to", to] as const].flatMap(([c, v]) =>
    v.startsWith("%") ? [] : [`const ${c} = int64[1] [${v}]`],
  );
  const text = [
    `graph "g" opset {"": 18} (%x: float32[${dim}], %p: bool[n], %q: bool[m]) -> (%y) {`,
    "const %one = int64[] [1]",
    ...given,
    "%n = Shape(%p)",
    "%m = Shape(%q)",
    "%less = Sub(%n, %one)",
    `%y = Slice(%x, ${name(from, "%from")}, ${name(to, "%to")})`,
    "}",
  ];
  const g = inferGraph(parse(text.join("\n"))).graph;
  expect(shapeOfType(typeAt(g, g.outputs[0] as ValueId))?.map(String)).toEqual([length]);
});
it("the length of a range that counts down", () => {
  const g = inferGraph(
    parse(
      [
        'graph "g" opset {"": 18} (%p: bool[n]) -> (%y) {',
        "const %zero = int64[] [0]",
        "const %step = int64[] [-2]",
        "%n = Shape(%p)",
        "%start = Gather(%n, %zero)",
        "%end = Neg(%start)",
        "%y = Range(%start, %end, %step)",
        "}",
      ].join("\n"),
    ),
  ).graph;
  expect(shapeOfType(typeAt(g, g.outputs[0] as ValueId))).toEqual(["n"]);
});
it("half of a dim rounded up by negation is not: ONNX divides towards zero", () => {
  const lines = [
    "%n = Shape(%p)",
    "%m = Neg(%n)",
    "const %two = int64[1] [2]",
    "%h = Div(%m, %two)",
    "%e = Neg(%h)",
    "%y = ConstantOfShape(%e)",
  ];
  const g = inferGraph(parse(`graph "g" opset {"": 18} (%p: bool[n]) -> (%y) {\n${lines.join("\n")}\n}`)).graph;
  expect(shapeOfType(typeAt(g, g.outputs[0] as ValueId))).toEqual(["floordiv(n, 2)"]);
});
it.each(["9223372036854775807", "100000", "-1"])("a region's samples are counted before ONNX Runtime does: sampling_ratio %s", (ratio) => {
  const g = parse(
    [
      'graph "g" opset {"": 18} (%x: float32[1, 1, 6, 6], %rois: float32[1, 4], %batch: int64[1]) -> (%y) {',
      `%y = RoiAlign(%x, %rois, %batch) {output_height = 2, output_width = 2, sampling_ratio = ${ratio}}`,
      "}",
    ].join("\n"),
  );
  expect(() => inferGraph(g)).toThrow(expect.objectContaining({ code: "P1501", message: expect.stringContaining("sampling_ratio") }));
});
it("reads a spelling by operator set", () => {
  expect(readingOf("", "Clip", 6)?.reading.since).toBe(1);
  expect(readingOf("", "Clip", 20)?.reading.adapt).toBeUndefined();
  expect(exportOpset("", "Clip")).toBe(11);
});
it("takes 200,000 nodes in linear time", () => {
  const e = new Editor({ name: "g", opsets: { "": 18 } });
  let v = e.addInput("x", t("float32", [2, 3]));
  for (let i = 0; i < 200_000; i++) v = e.add({ op: "Relu", ins: [v], outs: 1 }).outs[0] ?? v;
  e.setOutputs([v]);
  const g = e.finish();
  const start = performance.now();
  expect(inferGraph(g).facts(v).type).toEqual(t("float32", [2, 3]));
  console.log("200,000 nodes:", Math.round(performance.now() - start), "ms");
  expect(performance.now() - start).toBeLessThan(5000);
});
