/** Local functions: attributes handed on, operator sets of their own, names and origins of what is inlined, and what hostile ones may cost. */
import { describe, expect, it } from "vitest";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { importOnnx } from "../../src/import/onnx/index.js";
import type { Graph } from "../../src/ir/types.js";
import { type Field, intField, messageField, textField } from "../fuzz/proto.js";
import { attribute, FLOAT, info, model, type NodeSpec, node, rawData, tensor } from "../support/onnx-model.js";
import { refusal } from "../support/refusal.js";

interface FunctionSpec {
  readonly name: string;
  readonly ins?: readonly string[];
  readonly outs?: readonly string[];
  readonly attrs?: readonly string[];
  readonly defaults?: readonly Field[];
  readonly nodes: readonly NodeSpec[];
  readonly opsets?: Readonly<Record<string, number>>;
}
const local = (f: FunctionSpec): readonly Field[] => [
  textField(1, f.name),
  ...(f.ins ?? ["a"]).map((s) => textField(4, s)),
  ...(f.outs ?? ["b"]).map((s) => textField(5, s)),
  ...(f.attrs ?? []).map((s) => textField(6, s)),
  ...f.nodes.map((n) => messageField(7, "node", ...node(n))),
  ...Object.entries(f.opsets ?? { "": 18, own: 1 }).map(([d, v]) => messageField(9, "opset", textField(1, d), intField(2, v))),
  textField(10, "own"),
  // Field 11 has the shape of a node's attributes.
  ...(f.defaults ?? []).map((a) => ({ ...a, number: 11 })),
];
const float = (name: string, x: number): Field =>
  attribute(name, { number: 2, wire: 5, value: new Uint8Array(Float32Array.of(x).buffer) }, intField(20, 1));
const reference = (name: string, to: string): Field => attribute(name, textField(21, to), intField(20, 1));
const calls = (functions: readonly FunctionSpec[], nodes: readonly NodeSpec[], opsets = { "": 18, own: 1 }): Uint8Array =>
  model({ nodes, opsets, functions: functions.map(local) });
const call = (op: string, attrs: readonly Field[] = [], name?: string): NodeSpec => ({
  op,
  ins: ["x"],
  outs: ["y"],
  domain: "own",
  attrs,
  ...(name === undefined ? {} : { name }),
});
const single = (g: Graph) => {
  expect(g.nodes).toHaveLength(1);
  return g.nodes[0] as Graph["nodes"][number];
};

describe("an attribute that a function hands on", () => {
  const leaky: NodeSpec = { op: "LeakyRelu", ins: ["a"], outs: ["b"], attrs: [reference("alpha", "alpha")] };
  const inner = { name: "Inner", attrs: ["alpha"], nodes: [leaky] };
  const outer = {
    name: "Outer",
    attrs: ["slope"],
    nodes: [{ op: "Inner", ins: ["a"], outs: ["b"], domain: "own", attrs: [reference("alpha", "slope")] }],
  };
  it("arrives", () => {
    expect(single(importOnnx(calls([inner, outer], [call("Outer", [float("slope", 0.5)])]))).attrs).toEqual({
      alpha: { kind: "float", value: 0.5 },
    });
  });
  it("is absent where the caller gives none, and not 0", () => {
    expect(single(importOnnx(calls([inner, outer], [call("Outer")]))).attrs).toEqual({});
  });
  it("leaves the inner function's default in force", () => {
    const withDefault = { name: "Inner", defaults: [float("alpha", 0.25)], nodes: [leaky] };
    expect(single(importOnnx(calls([withDefault, outer], [call("Outer")]))).attrs).toEqual({ alpha: { kind: "float", value: 0.25 } });
  });
  it("is refused outside of functions", () => {
    const error = refusal(() => importOnnx(model({ nodes: [{ ...leaky, ins: ["x"], outs: ["y"], name: "act" }] }), { file: "m.onnx" }));
    expect(error.message).toMatch(
      /^P1216 m\.onnx, node 'act' \(LeakyRelu\), attribute 'alpha': it refers to a function's attribute 'alpha'/,
    );
  });
});

it("what only a function imports is exported in the function's version", () => {
  const encoder: NodeSpec = { op: "LabelEncoder", ins: ["a"], outs: ["b"], domain: "ai.onnx.ml" };
  const encode = { name: "Encode", nodes: [encoder], opsets: { "": 18, "ai.onnx.ml": 3 } };
  for (const opsets of [
    { "": 18, own: 1 },
    { "": 18, own: 1, "ai.onnx.ml": 1 },
  ]) {
    const g = importOnnx(calls([encode], [call("Encode")], opsets));
    expect(importOnnx(encodeOnnx(g)).opsets["ai.onnx.ml"]).toBe(3);
  }
});

it("what is inlined comes from the call, whatever stands in the call's name", () => {
  const inner = { name: "Inner", nodes: [{ op: "Neg", ins: ["a"], outs: ["b"], name: "neg" }] };
  const outer = { name: "Outer", nodes: [{ op: "Inner", ins: ["a"], outs: ["b"], domain: "own", name: "inner" }] };
  const n = single(importOnnx(calls([inner, outer], [call("Outer", [], "/model/layer.0/act")])));
  expect([n.name, n.origin]).toEqual(["/model/layer.0/act/inner/neg", ["/model/layer.0/act"]]);
});

describe("functions that grow without measure are P1212", () => {
  const many = 5000;
  const list = Array.from({ length: many }, (_, i) => `v${i}`);
  const repeated = (nodes: NodeSpec): NodeSpec[] => Array.from({ length: many }, () => nodes);
  const bare: NodeSpec = { op: "F", ins: ["x"], outs: [], domain: "own", name: "call" };
  const weights = list.map((name) => messageField(5, "tensor", ...tensor(name, [], FLOAT, rawData(new Uint8Array(4)))));
  const body = messageField(6, "graph", textField(2, "body"), ...weights);
  it.each([
    ["inputs", { name: "F", ins: list, outs: [], nodes: [] }],
    ["inputs of a node", { name: "F", outs: [], nodes: [{ op: "Concat", ins: list.map(() => "a"), outs: ["b"] }] }],
    [
      "weights in bodies",
      { name: "F", outs: [], nodes: [{ op: "If", ins: ["a"], attrs: [attribute("then_branch", body, intField(20, 5))] }] },
    ],
  ] satisfies readonly (readonly [string, FunctionSpec])[])("%s", (_, f) => {
    const bytes = calls([f], repeated(bare));
    const start = performance.now();
    expect(refusal(() => importOnnx(bytes)).message).toMatch(/^P1212 .*'F' would, with the others, become more than \d+ nodes and values/);
    expect(performance.now() - start).toBeLessThan(10_000);
  });
});

it("bodies in functions in bodies are P1202 where they are too deep", () => {
  const branch = (n: NodeSpec): NodeSpec => ({
    op: "If",
    ins: ["a"],
    outs: ["b"],
    attrs: [
      attribute(
        "then_branch",
        messageField(6, "graph", messageField(1, "node", ...node(n)), messageField(12, "info", ...info("b"))),
        intField(20, 5),
      ),
    ],
  });
  const functions = Array.from({ length: 90 }, (_, i) => {
    let n: NodeSpec = i === 0 ? { op: "Neg", ins: ["a"], outs: ["b"] } : { op: `F${i - 1}`, ins: ["a"], outs: ["b"], domain: "own" };
    for (let k = 0; k < 60; k++) n = branch(n);
    return { name: `F${i}`, nodes: [n] };
  });
  expect(refusal(() => importOnnx(calls(functions, [call("F89")]))).message).toMatch(/^P1202 .*nested more than 64 deep/);
});

it("long names are not written out for every call", () => {
  const long = "n".repeat(100_000);
  const f = {
    name: "F",
    outs: ["o"],
    nodes: [
      { op: "Neg", ins: ["a"], outs: [long], name: long },
      { op: "Neg", ins: [long], outs: ["o"] },
    ],
  };
  const g = importOnnx(
    calls(
      [f],
      Array.from({ length: 1000 }, (_, i) => ({ ...call("F"), outs: [`y${i === 0 ? "" : i}`] })),
    ),
  );
  expect(g.nodes).toHaveLength(2000);
  expect(encodeOnnx(g).length).toBeLessThan(2 ** 23);
});
