/** The passes stay linear: graphs that a quadratic pass would take minutes for. */
import { describe, expect, it } from "vitest";
import { Editor } from "../../src/ir/edit.js";
import { makeConstant } from "../../src/ir/payload.js";
import type { Attr, Graph, ValueId } from "../../src/ir/types.js";
import { inferGraph } from "../../src/ops/infer.js";
import { lower } from "../../src/passes/lower.js";
import { runPasses } from "../../src/passes/pass.js";
import { pipeline } from "../../src/passes/pipeline.js";

/** Nodes of each graph. A pass that rebuilds its graph for every node would take minutes. */
const N = 21_000;
const text = (value: string): Attr => ({ kind: "string", value });
const perm: Readonly<Record<string, Attr>> = { perm: { kind: "ints", value: [1, 0] } };

class Build {
  readonly draft = new Editor({ name: "g", opsets: { "": 18 } });
  readonly x = this.draft.addInput("x", { kind: "tensor", dtype: "float32", shape: [4, 4] });
  node(op: string, ins: readonly ValueId[], attrs: Readonly<Record<string, Attr>> = {}): ValueId {
    const [y] = this.draft.add({ op, ins, outs: 1, attrs }).outs;
    return y as ValueId;
  }
  scalar(x: number): ValueId {
    return this.draft.addConstant("c", makeConstant("float32", [], [x]));
  }
  /** `step` again and again, from the input on, until there are N nodes. */
  chain(step: (v: ValueId, i: number) => ValueId, perStep: number): Graph {
    let v = this.x;
    for (let i = 0; i < N / perStep; i++) v = step(v, i);
    this.draft.setOutputs([v]);
    return this.draft.finish();
  }
}

const cases: readonly (readonly [string, () => Graph, number])[] = [
  ["SiLU after SiLU", () => ((b) => b.chain((v) => b.node("Mul", [v, b.node("Sigmoid", [v])]), 2))(new Build()), N / 2],
  [
    "GELU after GELU, one set of constants",
    () => {
      const b = new Build();
      const [root2, one, half] = [b.scalar(Math.SQRT2), b.scalar(1), b.scalar(0.5)];
      return b.chain((v) => b.node("Mul", [b.node("Mul", [v, b.node("Add", [b.node("Erf", [b.node("Div", [v, root2])]), one])]), half]), 5);
    },
    N / 5,
  ],
  ["sums of a value with itself", () => ((b) => b.chain((v) => b.node("Add", [v, v]), 1))(new Build()), N],
  ["identities", () => ((b) => b.chain((v, i) => b.node(i % 10 === 0 ? "Relu" : "Identity", [v]), 1))(new Build()), N / 10],
  [
    "transposes",
    () => ((b) => b.chain((v, i) => b.node(i % 3 === 2 ? "Relu" : "Transpose", [v], i % 3 === 2 ? {} : perm), 1))(new Build()),
    N / 3,
  ],
  [
    "shape arithmetic",
    () => ((b) => b.chain((v) => b.node("Relu", [b.node("Reshape", [v, b.node("Shape", [v])])]), 3))(new Build()),
    N / 3,
  ],
  [
    "one value with as many readers",
    () => {
      const b = new Build();
      const v = b.node("Identity", [b.node("Relu", [b.x])]);
      b.draft.setOutputs(Array.from({ length: N - 2 }, (_, i) => b.node("LeakyRelu", [v], { alpha: { kind: "float", value: i } })));
      return b.draft.finish();
    },
    N - 1,
  ],
];

describe("passes over large graphs", () => {
  it.each(cases)(
    "%s",
    async (_, build, wanted) => {
      const before = inferGraph(build()).graph;
      const start = process.cpuUsage();
      const { graph: after } = await runPasses(before, pipeline);
      const spelled = lower(after, () => false);
      // Of this process, however busy the machine is.
      const seconds = process.cpuUsage(start).user / 1e6;
      expect(after.nodes).toHaveLength(wanted);
      expect(spelled.nodes.length).toBeGreaterThanOrEqual(wanted);
      // Less than one on an idle core.
      expect(seconds).toBeLessThan(15);
    },
    120_000,
  );
  it("text attributes are compared by content", async () => {
    const b = new Build();
    const [p, q] = [b.node("Gelu", [b.x], { approximate: text("tanh") }), b.node("Gelu", [b.x], { approximate: text("tanh") })];
    b.draft.setOutputs([b.node("Add", [p, q])]);
    const { graph: after } = await runPasses(inferGraph(b.draft.finish()).graph, pipeline);
    expect(after.nodes.map((n) => n.op)).toEqual(["Gelu", "Add"]);
  });
});
