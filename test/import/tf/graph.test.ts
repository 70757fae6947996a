/** TensorFlow graphs: names, inputs and outputs, constants, functions, what stays unread. */
import { describe, expect, it } from "vitest";
import { importTf } from "../../../src/import/tf/index.js";
import { unreadableNodes } from "../../../src/import/tf/unreadable.js";
import { originOf, valueAt } from "../../../src/ir/graph.js";
import { typedOf } from "../../../src/ir/payload.js";
import type { Graph } from "../../../src/ir/types.js";
import { verify } from "../../../src/ir/verify.js";
import { Tensor } from "../../../src/tensor.js";
import { runGraph } from "../../../src/testing.js";
import { BOOL, constant, FLOAT, func, graphDef, INT32, int, node, placeholder, STRING, text, type } from "../../support/tf-graph.js";

const names = (g: Graph, side: "inputs" | "outputs"): string[] => g[side].map((v) => valueAt(g, v).name);
const floats = (t: Tensor | undefined): number[] => Array.from((t?.data ?? []) as Iterable<number>);
const T = type(FLOAT);
const mlp = [
  placeholder("x", FLOAT, [-1, 2]),
  constant("w", FLOAT, [2, 3], [1, 2, 3, 4, 5, 6]),
  constant("b", FLOAT, [3], [0.5]),
  node("fc", "MatMul", ["x", "w"], { T }),
  node("bias", "BiasAdd", ["fc", "b"], { T }),
  node("act", "Relu", ["bias:0"], { T }),
];

describe("names", () => {
  it("are TensorFlow's: node:port for values, the node for nodes and origins", () => {
    const g = importTf(graphDef(mlp));
    verify(g);
    expect(names(g, "inputs")).toEqual(["x:0"]);
    expect(names(g, "outputs")).toEqual(["act:0"]);
    expect(new Set(g.nodes.flatMap(originOf))).toEqual(new Set(["fc", "bias", "act"]));
  });
  it("give open dims a symbol of the input", () => {
    const g = importTf(graphDef(mlp));
    expect(valueAt(g, g.inputs[0] as never).type).toEqual({ kind: "tensor", dtype: "float32", shape: ["x.d0", 2] });
  });
  it("keep the name of an output that is an alias of another tensor, an input or a constant", async () => {
    const g = importTf(
      graphDef([
        placeholder("x", FLOAT, [2]),
        node("same", "Identity", ["x"], { T }),
        constant("c", FLOAT, [2], [1, 2]),
        node("neg", "Neg", ["x"], { T }),
        node("again", "Identity", ["neg"], { T }),
      ]),
      { outputs: ["same", "c", "neg", "again:0"] },
    );
    verify(g);
    expect(names(g, "outputs")).toEqual(["same:0", "c:0", "neg:0", "again:0"]);
    const results = await runGraph(g, [new Tensor("float32", [3, -4])]);
    expect(results.map((t) => [...(t.data as Float32Array)])).toEqual([
      [3, -4],
      [1, 2],
      [-3, 4],
      [-3, 4],
    ]);
  });
});

describe("inputs and outputs", () => {
  it("default to the placeholders that are needed and the results nobody reads", () => {
    const g = importTf(
      graphDef([placeholder("unused", FLOAT, [1]), ...mlp, node("top", "TopKV2", ["act", "k"], { T }), constant("k", INT32, [], [2])]),
    );
    expect(names(g, "inputs")).toEqual(["x:0"]);
    expect(names(g, "outputs")).toEqual(["top:0", "top:1"]);
  });
  it("leave out control-only nodes, assertions and savers", () => {
    const g = importTf(
      graphDef([
        ...mlp,
        node("done", "NoOp", ["^act"]),
        node("check", "Assert", ["ok"]),
        constant("ok", BOOL, [], [1]),
        node("final", "Identity", ["act", "^check"], { T }),
      ]),
    );
    expect(names(g, "outputs")).toEqual(["final:0"]);
  });
  it("cut the graph before and behind", async () => {
    const g = importTf(graphDef(mlp), { inputs: ["fc"], outputs: ["bias"] });
    verify(g);
    expect(names(g, "inputs")).toEqual(["fc:0"]);
    expect(valueAt(g, g.inputs[0] as never).type).toEqual({ kind: "tensor", dtype: "float32", shape: ["x.d0", 3] });
    const [y] = await runGraph(g, [new Tensor("float32", [1, 2, 3], [1, 3])]);
    expect(floats(y)).toEqual([1.5, 2.5, 3.5]);
  });
  it("take shapes from the caller", () => {
    const g = importTf(graphDef(mlp), { shapes: { x: [7, 2] } });
    expect(valueAt(g, g.outputs[0] as never).type).toEqual({ kind: "tensor", dtype: "float32", shape: [7, 3] });
  });
});

describe("constants", () => {
  it("repeat their last value, and stay views where the bytes are there", () => {
    const bytes = graphDef([
      constant("c", FLOAT, [2, 2], [1, 2]),
      constant("d", FLOAT, [2], [3, 4]),
      node("s", "AddN", ["c", "c"], { T, N: int(2) }),
    ]);
    const g = importTf(bytes, { outputs: ["c", "d"] });
    const [c, d] = g.nodes.map((n) => g.constants.get(n.ins[0] as never));
    expect(c && [...typedOf(c)]).toEqual([1, 2, 2, 2]);
    expect(d?.data.kind === "bytes" && d.data.bytes.buffer).toBe(bytes.buffer);
  });
  it("hold strings", async () => {
    const g = importTf(graphDef([constant("s", STRING, [2], ["ä", "b"]), node("y", "Identity", ["s"], { T: type(STRING) })]));
    expect((await runGraph(g, []))[0]?.data).toEqual(["ä", "b"]);
  });
  it("of shape arithmetic come out as constants, so that a dynamic batch costs one Reshape", () => {
    const g = importTf(
      graphDef([
        placeholder("x", FLOAT, [-1, 2, 3]),
        node("shape", "Shape", ["x"], { T }),
        constant("from", INT32, [1], [0]),
        constant("to", INT32, [1], [1]),
        constant("one", INT32, [1], [1]),
        node("batch", "StridedSlice", ["shape", "from", "to", "one"], { T: type(INT32), shrink_axis_mask: int(1) }),
        constant("six", INT32, [], [6]),
        node("dims", "Pack", ["batch", "six"], { N: int(2), T: type(INT32) }),
        node("flat", "Reshape", ["x", "dims"], { T }),
      ]),
    );
    const reshape = g.nodes.find((n) => n.op === "Reshape");
    const dims = g.constants.get(reshape?.ins[1] as never);
    expect(dims && [...typedOf(dims)]).toEqual([-1n, 6n]);
  });
});

describe("functions", () => {
  const scale = {
    name: "scale",
    args: [
      ["v", FLOAT],
      ["by", FLOAT],
    ] as const,
    results: [["out", FLOAT, "product:z:0"]] as const,
    nodes: [node("product", "Mul", ["v", "by"], { T })],
  };
  it("are inlined; names stay those of the body, and take the caller's in front when they are taken", async () => {
    const g = importTf(
      graphDef(
        [
          placeholder("x", FLOAT, [2]),
          constant("two", FLOAT, [], [2]),
          node("first", "PartitionedCall", ["x", "two"], { f: func("scale") }),
          node("second", "StatefulPartitionedCall", ["first", "two"], { f: func("scale") }),
          node("third", "scale", ["second", "two"]),
        ],
        [scale],
      ),
    );
    verify(g);
    expect(g.nodes.map((n) => n.name)).toEqual(["product", "second/product", "third/product", "third"]);
    expect(names(g, "outputs")).toEqual(["third:0"]);
    expect(floats((await runGraph(g, [new Tensor("float32", [1, 2])]))[0])).toEqual([8, 16]);
  });
});

describe("operators without a lowering", () => {
  const nodes = [
    placeholder("x", FLOAT, [2]),
    node("odd", "FrobnicateV7", ["x"], { T, mode: text("fast") }),
    node("after", "Relu", ["odd:1"], { T }),
    node("fine", "Relu", ["x"], { T }),
  ];
  it("stay in the graph with the reason, and what does not need them does not care", () => {
    const remarks: string[] = [];
    const g = importTf(graphDef(nodes), { remarks: (r) => remarks.push(`${r.where?.node}: ${r.text}`) });
    verify(g);
    expect(remarks).toEqual(["odd: operator FrobnicateV7 is not known"]);
    expect(unreadableNodes(g).map((n) => [n.name, n.op, n.extra?.doc])).toEqual([
      ["odd", "FrobnicateV7", "operator FrobnicateV7 is not known"],
    ]);
    expect(unreadableNodes(importTf(graphDef(nodes), { outputs: ["fine"] }))).toEqual([]);
  });
});

it("a graph of 20,000 nodes in a row is read without recursion", () => {
  const nodes = [placeholder("n0", FLOAT, [2])];
  for (let i = 1; i <= 20_000; i++) nodes.push(node(`n${i}`, "Relu", [`n${i - 1}`], { T }));
  const start = performance.now();
  expect(importTf(graphDef(nodes)).nodes.length).toBe(20_000);
  expect(performance.now() - start).toBeLessThan(5000);
});
