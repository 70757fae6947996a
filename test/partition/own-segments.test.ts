/** Segments of the user's own operators in graphs of any size. */
import { expect, it } from "vitest";
import type { Graph, Node, NodeId, ValueId } from "../../src/ir/types.js";
import type { Partition } from "../../src/partition/assign.js";
import { ownSegments } from "../../src/partition/own-segments.js";

/** A chain of which every node with `own` is the user's, in one host segment. */
function chain(length: number, own: (i: number) => boolean): { readonly g: Graph; readonly p: Partition } {
  const nodes = Array.from({ length }, (_, i) => ({
    id: i as NodeId,
    op: own(i) ? "Own" : "Relu",
    domain: "",
    ins: [i as ValueId],
    outs: [(i + 1) as ValueId],
    attrs: {},
    name: "",
  }));
  const segment = {
    index: 0,
    name: "host_0",
    engine: "host",
    nodes: nodes.map((n) => n.id),
    inputs: [0],
    outputs: [length],
    constants: [],
  };
  const g = { nodes, inputs: [0], outputs: [length], constants: new Map(), values: [] } as unknown as Graph;
  return { g, p: { segments: [segment], quality: { segments: 1 }, costs: new Map() } as unknown as Partition };
}
const isOwn = (n: Node): boolean => n.op === "Own";

it("one operator parts a graph of more nodes than a call takes arguments", () => {
  const { g, p } = chain(150_000, (i) => i === 70_000);
  const { segments } = ownSegments(p, g, isOwn);
  expect(segments.map((s) => [s.name, s.nodes.length])).toEqual([
    ["host_0", 70_000],
    ["javascript_1", 1],
    ["host_2", 79_999],
  ]);
});
it("a long chain of them takes time by its length, not by its square", () => {
  const { g, p } = chain(40_000, (i) => i % 2 === 1);
  const { segments } = ownSegments(p, g, isOwn);
  expect(segments).toHaveLength(40_000);
  expect(segments[2]).toMatchObject({ name: "host_2", nodes: [2], inputs: [2], outputs: [3] });
});
