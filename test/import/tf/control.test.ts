/** Control flow of both generations against the values TensorFlow's semantics give: branches, loops, nesting, TensorArray, TensorList. */
import { describe, expect, it } from "vitest";
import { importTf } from "../../../src/import/tf/index.js";
import { typedOf } from "../../../src/ir/payload.js";
import type { Graph, ValueId } from "../../../src/ir/types.js";
import { verify } from "../../../src/ir/verify.js";
import { Tensor } from "../../../src/tensor.js";
import { runGraph } from "../../../src/testing.js";
import {
  BOOL,
  bool,
  constant,
  FLOAT,
  type FunctionSpec,
  func,
  funcs,
  graphDef,
  INT32,
  int,
  type NodeSpec,
  node,
  placeholder,
  shape,
  text,
  type,
  VARIANT,
} from "../../support/tf-graph.js";

const T = type(FLOAT);
const I = type(INT32);
async function run(g: Graph, ...feeds: Tensor[]): Promise<number[][]> {
  verify(g);
  return (await runGraph(g, feeds)).map((t) => Array.from(t.data as ArrayLike<number>, Number));
}
const scalar = (x: number): Tensor => new Tensor("float32", [x], []);

describe("TensorFlow 1", () => {
  const branches: NodeSpec[] = [
    placeholder("x", FLOAT, []),
    constant("zero", FLOAT, [], [0]),
    constant("ten", FLOAT, [], [10]),
    node("positive", "Greater", ["x", "zero"], { T }),
    node("id", "Identity", ["positive"], { T: type(BOOL) }),
    node("sx", "Switch", ["x", "id"], { T }),
    node("st", "Switch", ["ten", "positive"], { T }),
    node("double", "Add", ["sx:1", "st:1"], { T }),
    node("minus", "Neg", ["sx:0"], { T }),
    node("y", "Merge", ["minus", "double"], { T, N: int(2) }),
    node("square", "Square", ["sx:1"], { T }),
    node("z", "Merge", ["square", "minus"], { T, N: int(2) }),
  ];
  it("Switch and Merge are one If; results of one predicate share it", async () => {
    const g = importTf(graphDef(branches), { outputs: ["y", "z", "z:1"] });
    expect(g.nodes.filter((n) => n.op === "If").length).toBe(1);
    expect(await run(g, scalar(3))).toEqual([[13], [9], [0]]);
    expect(await run(g, scalar(-3))).toEqual([[3], [3], [1]]);
  });
  it("a branch that only its control input ties to the Switch is found", async () => {
    const g = importTf(
      graphDef([
        ...branches.slice(0, 6),
        node("pivot_t", "Identity", ["sx:1"], { T }),
        node("pivot_f", "Identity", ["sx:0"], { T }),
        { ...constant("one", FLOAT, [], [1]), inputs: ["^pivot_t"] },
        { ...constant("two", FLOAT, [], [2]), inputs: ["^pivot_f"] },
        node("y", "Merge", ["two", "one"], { T, N: int(2) }),
      ]),
    );
    expect(await run(g, scalar(5))).toEqual([[1]]);
    expect(await run(g, scalar(-5))).toEqual([[2]]);
  });
  /** while (i < n) { i += 1; v = v * 2 + bias } with an invariant and a TensorArray written at i. */
  const loop = (frame: string, outer = ""): NodeSpec[] => {
    const at = (s: string): string => `${outer}${s}`;
    const enter = (name: string, from: string, t: number, invariant = false): NodeSpec =>
      node(at(name), "Enter", [from], { T: type(t), frame_name: text(frame), is_constant: bool(invariant) });
    return [
      constant(at("i0"), INT32, [], [0]),
      enter("i_enter", at("i0"), INT32),
      enter("v_enter", "x", FLOAT),
      enter("n_enter", "n", INT32, true),
      enter("bias_enter", "bias", FLOAT, true),
      node(at("i"), "Merge", [at("i_enter"), at("i_next")], { T: I, N: int(2) }),
      node(at("v"), "Merge", [at("v_enter"), at("v_next")], { T, N: int(2) }),
      node(at("less"), "Less", [at("i"), at("n_enter")], { T: I }),
      node(at("go"), "LoopCond", [at("less")]),
      node(at("i_switch"), "Switch", [at("i"), at("go")], { T: I }),
      node(at("v_switch"), "Switch", [at("v"), at("go")], { T }),
      { ...constant(at("one"), INT32, [], [1]), inputs: [`^${at("i_switch")}`] },
      node(at("i_add"), "Add", [`${at("i_switch")}:1`, at("one")], { T: I }),
      node(at("v_twice"), "Add", [`${at("v_switch")}:1`, `${at("v_switch")}:1`], { T }),
      node(at("v_add"), "Add", [at("v_twice"), at("bias_enter")], { T }),
      node(at("i_next"), "NextIteration", [at("i_add")], { T: I }),
      node(at("v_next"), "NextIteration", [at("v_add")], { T }),
      node(at("i_exit"), "Exit", [at("i_switch")], { T: I }),
      node(at("v_exit"), "Exit", [at("v_switch")], { T }),
    ];
  };
  const inputs = [placeholder("x", FLOAT, []), placeholder("n", INT32, []), constant("bias", FLOAT, [], [1])];
  it("a frame is one Loop, invariants captured", async () => {
    const g = importTf(graphDef([...inputs, ...loop("f")]), { outputs: ["i_exit", "v_exit"] });
    expect(g.nodes.map((n) => n.op)).toContain("Loop");
    expect(g.nodes.find((n) => n.op === "Loop")?.outs.length).toBe(2);
    const n = (k: number): Tensor => new Tensor("int32", [k], []);
    expect(await run(g, scalar(1), n(3))).toEqual([[3], [15]]);
    expect(await run(g, scalar(1), n(0))).toEqual([[0], [1]]);
  });
  it("variables that nothing needs are dropped", () => {
    const g = importTf(graphDef([...inputs, ...loop("f")]), { outputs: ["i_exit"] });
    expect(g.nodes.find((n) => n.op === "Loop")?.outs.length).toBe(1);
  });
  it("a loop inside a branch, and branches inside a loop", async () => {
    const g = importTf(
      graphDef([
        ...inputs,
        ...loop("f").map((n) =>
          // The doubling becomes a branch on i < 1.
          n.name === "v_twice" ? node("v_twice", "Merge", ["keep", "twice"], { T, N: int(2) }) : n,
        ),
        { ...constant("limit", INT32, [], [1]), inputs: ["^i_switch"] },
        node("early", "Less", ["i_switch:1", "limit"], { T: I }),
        node("vv", "Switch", ["v_switch:1", "early"], { T }),
        node("twice", "Add", ["vv:1", "vv:1"], { T }),
        node("keep", "Identity", ["vv:0"], { T }),
      ]),
      { outputs: ["v_exit"] },
    );
    // 5 -> 11 (doubled, i = 0) -> 12 -> 13.
    expect(await run(g, scalar(5), new Tensor("int32", [3], []))).toEqual([[13]]);
  });
  it("a TensorArray written in a loop is one carried tensor", async () => {
    const array = { dtype: T, dynamic_size: bool(false), element_shape: shape(undefined) };
    const g = importTf(
      graphDef([
        ...inputs,
        ...loop("f"),
        node("array", "TensorArrayV3", ["n"], array),
        node("flow_enter", "Enter", ["array:1"], { T, frame_name: text("f"), is_constant: bool(false) }),
        node("handle_enter", "Enter", ["array"], { T, frame_name: text("f"), is_constant: bool(true) }),
        node("flow", "Merge", ["flow_enter", "flow_next"], { T, N: int(2) }),
        node("flow_switch", "Switch", ["flow", "go"], { T }),
        node("write", "TensorArrayWriteV3", ["handle_enter", "i_switch:1", "v_switch:1", "flow_switch:1"], { T }),
        node("flow_next", "NextIteration", ["write"], { T }),
        node("flow_exit", "Exit", ["flow_switch"], { T }),
        node("size", "TensorArraySizeV3", ["array", "flow_exit"]),
        constant("from", INT32, [], [0]),
        constant("step", INT32, [], [1]),
        node("all", "Range", ["from", "size", "step"], { Tidx: I }),
        node("stack", "TensorArrayGatherV3", ["array", "all", "flow_exit"], { dtype: T }),
      ]),
      { outputs: ["stack", "size"] },
    );
    expect(await run(g, scalar(1), new Tensor("int32", [4], []))).toEqual([[1, 3, 7, 15], [4]]);
  });
});

describe("TensorFlow 2", () => {
  const f = (name: string, op: string): FunctionSpec => ({
    name,
    args: [["v", FLOAT]],
    results: [["out", FLOAT, `${op.toLowerCase()}:y:0`]],
    nodes: [node(op.toLowerCase(), op, ["v"], { T })],
  });
  it("If runs one branch; a constant condition leaves that branch alone", async () => {
    const nodes = (test: NodeSpec): NodeSpec[] => [
      placeholder("x", FLOAT, []),
      test,
      node("y", "StatelessIf", ["c", "x"], { then_branch: func("neg"), else_branch: func("square"), Tcond: type(BOOL) }),
    ];
    const functions = [f("neg", "Neg"), f("square", "Square")];
    const g = importTf(graphDef(nodes(placeholder("c", BOOL, [])), functions));
    expect(await run(g, scalar(3), new Tensor("bool", [1], []))).toEqual([[-3]]);
    expect(await run(g, scalar(3), new Tensor("bool", [0], []))).toEqual([[9]]);
    expect(importTf(graphDef(nodes(constant("c", BOOL, [], [1])), functions)).nodes.map((n) => n.op)).toEqual(["Neg", "Identity"]);
  });
  it("Case takes the branch of its index, the last one when that is out of range", async () => {
    const g = importTf(
      graphDef(
        [
          placeholder("k", INT32, []),
          placeholder("x", FLOAT, []),
          node("y", "Case", ["k", "x"], { branches: funcs("neg", "square", "relu") }),
        ],
        [f("neg", "Neg"), f("square", "Square"), f("relu", "Relu")],
      ),
    );
    for (const [k, want] of [
      [0, 2],
      [1, 4],
      [2, 0],
      [9, 0],
      [-1, 0],
    ] as const)
      expect(await run(g, new Tensor("int32", [k], []), scalar(-2))).toEqual([[want]]);
  });
  /** while (i < n) { list[i] = v; v = v * 2; i += 1 } */
  const while_ = (n: number, x: readonly NodeSpec[] = [placeholder("x", FLOAT, [-1, 2])]): Graph => {
    const args = [
      ["i", INT32],
      ["v", FLOAT],
      ["list", VARIANT],
      ["n", INT32],
    ] as const;
    return importTf(
      graphDef(
        [
          ...x,
          placeholder("n", INT32, []),
          constant("zero", INT32, [], [0]),
          x.length > 1 ? constant("any", INT32, [1], [-1]) : constant("any", INT32, [2], [-1, 2]),
          node("list", "TensorListReserve", ["any", n < 0 ? "n" : "fixed"], { element_dtype: T, shape_type: I }),
          constant("fixed", INT32, [], [n]),
          node("loop", "While", ["zero", "x", "list", n < 0 ? "n" : "fixed"], { cond: func("cond"), body: func("body") }),
          node("stack", "TensorListStack", ["loop:2", "any"], { element_dtype: T, num_elements: int(-1) }),
          node("last", "Identity", ["loop:1"], { T }),
        ],
        [
          { name: "cond", args, results: [["go", BOOL, "less:z:0"]], nodes: [node("less", "Less", ["i", "n"], { T: I })] },
          {
            name: "body",
            args,
            results: [
              ["i_out", INT32, "next:z:0"],
              ["v_out", FLOAT, "twice:z:0"],
              ["list_out", VARIANT, "set:output_handle:0"],
              ["n_out", INT32, "same:output:0"],
            ],
            nodes: [
              constant("one", INT32, [], [1]),
              node("next", "AddV2", ["i", "one:output:0"], { T: I }),
              node("twice", "AddV2", ["v", "v"], { T }),
              node("set", "TensorListSetItem", ["list", "i", "v"], { element_dtype: T }),
              node("same", "Identity", ["n"], { T: I }),
            ],
          },
        ],
      ),
      { outputs: ["stack", "last"] },
    );
  };
  it("While with a TensorList is a Loop over a tensor; the elements' open dim is found at run time", async () => {
    const x = new Tensor("float32", [1, 2, 3, 4], [2, 2]);
    expect(await run(while_(3), x)).toEqual([
      [1, 2, 3, 4, 2, 4, 6, 8, 4, 8, 12, 16],
      [8, 16, 24, 32],
    ]);
    expect(await run(while_(-1), x, new Tensor("int32", [2], []))).toEqual([
      [1, 2, 3, 4, 2, 4, 6, 8],
      [4, 8, 12, 16],
    ]);
  });
  it("a loop whose trip count is known counts: no condition, no counter, and a list written at the counter is a scan output", async () => {
    const g = while_(3);
    const loop = g.nodes.find((n) => n.op === "Loop");
    const trips = g.constants.get(loop?.ins[0] as ValueId);
    expect(trips && [...typedOf(trips)]).toEqual([3n]);
    // The doubled value is carried; the list comes out stacked.
    expect(loop?.ins.length).toBe(3);
    expect(loop?.outs.length).toBe(2);
    const body = loop?.attrs["body"];
    const ops = body?.kind === "graph" ? body.value.graph.nodes.map((n) => n.op) : [];
    expect(ops.filter((op) => op === "ScatterND" || op === "Less")).toEqual([]);
    const dynamic = while_(-1).nodes.find((n) => n.op === "Loop");
    expect(dynamic?.ins[0]).toBeUndefined();
  });
  it("a list whose elements' dims only a run reveals takes those of the first iteration", async () => {
    const x = new Tensor("float32", [1, 0, 3, 4], [4]);
    const g = while_(-1, [
      placeholder("raw", FLOAT, [4]),
      constant("none", FLOAT, [], [0]),
      node("big", "Greater", ["raw", "none"], { T }),
      node("where", "Where", ["big"], { T: type(BOOL) }),
      constant("flat", INT32, [1], [-1]),
      node("picked", "Reshape", ["where", "flat"], { T: type(9) }),
      constant("axis", INT32, [], [0]),
      node("x", "GatherV2", ["raw", "picked", "axis"], { Tparams: T, Tindices: type(9), Taxis: I }),
    ]);
    expect(await run(g, x, new Tensor("int32", [2], []))).toEqual([
      [1, 3, 4, 2, 6, 8],
      [4, 12, 16],
    ]);
  });
  it("a loop that runs once, or never, is none", async () => {
    const x = new Tensor("float32", [1, 2], [1, 2]);
    expect(while_(1).nodes.map((n) => n.op)).not.toContain("Loop");
    expect(await run(while_(1), x)).toEqual([
      [1, 2],
      [2, 4],
    ]);
    expect(while_(0).nodes.map((n) => n.op)).not.toContain("Loop");
  });
  it("what constants decide is computed outside the body", () => {
    const args = [
      ["i", INT32],
      ["v", FLOAT],
    ] as const;
    const g = importTf(
      graphDef(
        [
          placeholder("x", FLOAT, [2, 2]),
          placeholder("start", INT32, []),
          constant("w", FLOAT, [2, 2], [1, 2, 3, 4]),
          node("loop", "While", ["start", "x"], { cond: func("cond"), body: func("body") }),
        ],
        [
          {
            name: "cond",
            args,
            results: [["go", BOOL, "less:z:0"]],
            nodes: [constant("three", INT32, [], [3]), node("less", "Less", ["i", "three:output:0"], { T: I })],
          },
          {
            name: "body",
            args,
            results: [
              ["i_out", INT32, "next:z:0"],
              ["v_out", FLOAT, "mm:product:0"],
            ],
            nodes: [
              constant("one", INT32, [], [1]),
              constant("weights", FLOAT, [2, 2], [1, 2, 3, 4]),
              node("wt", "Exp", ["weights:output:0"], { T }),
              node("next", "AddV2", ["i", "one:output:0"], { T: I }),
              node("mm", "MatMul", ["v", "wt:y:0"], { T }),
            ],
          },
        ],
      ),
      { outputs: ["loop:1"] },
    );
    expect(g.nodes.map((n) => n.op)).toContain("Exp");
    expect(g.nodes.find((n) => n.op === "Exp")?.name).toBe("wt");
  });
  it("a loop that changes a variable's shape settles on an open dim", async () => {
    const args = [
      ["i", INT32],
      ["v", FLOAT],
    ] as const;
    const g = importTf(
      graphDef(
        [
          placeholder("x", FLOAT, [1]),
          constant("zero", INT32, [], [0]),
          node("loop", "StatelessWhile", ["zero", "x"], { cond: func("cond"), body: func("body") }),
        ],
        [
          {
            name: "cond",
            args,
            results: [["go", BOOL, "less:z:0"]],
            nodes: [constant("three", INT32, [], [3]), node("less", "Less", ["i", "three:output:0"], { T: I })],
          },
          {
            name: "body",
            args,
            results: [
              ["i_out", INT32, "next:z:0"],
              ["v_out", FLOAT, "grown:output:0"],
            ],
            nodes: [
              constant("one", INT32, [], [1]),
              constant("axis", INT32, [], [0]),
              node("next", "AddV2", ["i", "one:output:0"], { T: I }),
              node("grown", "ConcatV2", ["v", "v", "axis:output:0"], { T, N: int(2), Tidx: I }),
            ],
          },
        ],
      ),
      { outputs: ["loop:1"] },
    );
    expect(await run(g, new Tensor("float32", [7]))).toEqual([[7, 7, 7, 7, 7, 7, 7, 7]]);
  });
});
