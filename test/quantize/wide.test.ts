/** More channels than a call takes arguments: the head of a language model with a vocabulary of a quarter million. */
import { expect, it } from "vitest";
import { Editor } from "../../src/ir/edit.js";
import { parse } from "../../src/ir/parse.js";
import { makeConstant } from "../../src/ir/payload.js";
import type { Graph, NodeId, ValueId } from "../../src/ir/types.js";
import { inferGraph } from "../../src/ops/infer.js";
import { driftOf } from "../../src/quantize/drift.js";
import { equalize } from "../../src/quantize/equalize.js";
import type { FeedStore, Runner } from "../../src/quantize/types.js";

const WORDS = 250_000;
const named = (g: Graph, name: string): ValueId => g.values.findIndex((v) => v?.name === name) as ValueId;
/** x [2, 3] times [3, WORDS], and that times [WORDS, 2]. */
function wide(): Graph {
  const g = parse(`graph "head" opset {"": 18} (%x: float32[2, 3]) -> (%y) {
    const %w = float32[3, 1] [1, 1, 1]
    const %v = float32[1, 2] [1, 1]
    %h = MatMul(%x, %w) @"head"
    %y = MatMul(%h, %v) @"back"
  }`);
  const e = new Editor(g);
  const filled = (dims: readonly number[]): ValueId =>
    e.addConstant(
      "filled",
      makeConstant(
        "float32",
        dims,
        Array.from({ length: dims[0] === 3 ? 3 * WORDS : 2 * WORDS }, (_, i) => 1 + (i % 3)),
      ),
    );
  for (const n of g.nodes) e.patch(n.id, { ins: [n.ins[0], filled(n.name === "head" ? [3, WORDS] : [WORDS, 2])] });
  return inferGraph(e.finish()).graph;
}
const graph = wide();
const none: FeedStore = { length: 0, hash: "", async *all() {}, split: () => [none, none] };
const idle: Runner = { open: () => Promise.reject(new Error("nothing is to be run")) };

it("their scales have an extent", async () => {
  const [head] = graph.nodes;
  const scales = Array.from({ length: WORDS }, (_, i) => 0.5 + (i % 7));
  const decision = {
    value: head?.ins[1] as ValueId,
    name: "w",
    reader: head?.id as NodeId,
    kind: "weight",
    why: "",
    scales,
    axis: 1,
  } as const;
  const drift = await driftOf(graph, { graph, decisions: [decision] }, new Map(), none, idle);
  expect(drift.weights[0]?.scales).toEqual([0.5, 6.5]);
});
it("they are equalized", () => {
  const absmax = Float32Array.from({ length: WORDS }, (_, i) => 1 + (i % 4));
  expect(graph.values[named(graph, "h")]?.name).toBe("h");
  const { equalized } = equalize(graph, inferGraph(graph).facts, new Map([["h", absmax]]), { alpha: 1, inputs: undefined });
  expect(equalized).toEqual([{ tensors: ["h"], spread: 4 }]);
});
