import { describe, expect, test } from "vitest";
import { parse } from "../../src/ir/parse.js";
import type { Graph, Node, ValueId } from "../../src/ir/types.js";
import { verify } from "../../src/ir/verify.js";

const good = parse(`graph "g" opset {"": 18} (%x: float32[2], %c: bool) -> (%z) {
  const %w = float32[2] [1.0, 2.0]
  %y = Add(%x, %w) @"add"
  %z = If(%c) {
    then_branch = graph "t" () captures (%o = %y) -> (%r) { %r = Neg(%o) }
    else_branch = graph "e" () captures (%o = %y) -> (%o) { }
  } @"if"
}`);
const id = (name: string): ValueId => good.values.find((v) => v?.name === name)?.id as ValueId;
const node = (name: string): Node => good.nodes.find((n) => n.name === name) as Node;
const withNode = (name: string, changes: Partial<Node>): Graph => ({
  ...good,
  nodes: good.nodes.map((n) => (n.name === name ? { ...n, ...changes } : n)),
});
const branch = node("if").attrs["then_branch"];
const values = [...good.values];
const renamed = values.map((v) => (v?.name === "y" ? { ...v, name: "x" } : v));

const MEND = "Mend the pass; src/ir/verify.ts lists the invariants.";
const cases: readonly (readonly [string, Graph, string])[] = [
  [
    "an id out of range",
    withNode("add", { ins: [id("x"), 99 as ValueId] }),
    "P1410 node 'add': invariant 1 does not hold after pass 'p': it reads 'id 99', which is not a value of the graph.",
  ],
  [
    "a second origin",
    withNode("add", { outs: [id("x")] }),
    "P1410 node 'add': invariant 2 does not hold after pass 'p': 'x' has a second origin: output of a node:.",
  ],
  [
    "order",
    { ...good, nodes: [...good.nodes].reverse() },
    "P1410 node 'if': invariant 3 does not hold after pass 'p': it reads 'y' before that is defined.",
  ],
  ["equal names", { ...good, values: renamed }, "P1410 invariant 4 does not hold after pass 'p': two values are named 'x'."],
  ["node ids", { ...good, nodeLimit: 1 }, "P1410 node 'if': invariant 5 does not hold after pass 'p': node id 1 is not below the limit."],
  [
    "constants' bytes",
    { ...good, constants: new Map([[id("w"), { dtype: "float32", dims: [3], data: { kind: "bytes", bytes: new Uint8Array(8) } }]]) },
    "P1410 invariant 6 does not hold after pass 'p': constant 'w' needs 12 bytes and has 8.",
  ],
  [
    "constants' dims",
    { ...good, constants: new Map([[id("w"), { dtype: "float32", dims: [-1], data: { kind: "bytes", bytes: new Uint8Array(8) } }]]) },
    "P1410 invariant 6 does not hold after pass 'p': constant 'w' has dims [-1].",
  ],
  ["outputs", { ...good, nodes: good.nodes.slice(0, 1) }, "P1410 invariant 7 does not hold after pass 'p': output 'z' is not defined."],
  [
    "captures",
    withNode("if", {
      attrs: {
        then_branch:
          branch?.kind === "graph" ? { kind: "graph", value: { graph: branch.value.graph, captures: [] } } : { kind: "int", value: 0 },
      },
    }),
    "P1410 node 'if': invariant 8 does not hold after pass 'p': body 'then_branch' has 1 captures, 0 are bound.",
  ],
  ["captures at the top", { ...good, captures: [id("x")] }, "P1410 invariant 8 does not hold after pass 'p': the top graph has captures."],
];

describe("the verifier", () => {
  test("passes a sound graph", () => {
    verify(good);
  });
  test.each(cases)("finds %s", (_, g, message) => {
    expect(() => verify(g, "p")).toThrow(`${message} ${MEND}`);
  });
  test("blames the importer when no pass has run", () => {
    expect(() => verify({ ...good, nodeLimit: 0 })).toThrow(
      /^P1410 node 'add': invariant 5 does not hold: .* Report it with the model: the importer should have refused it\.$/,
    );
  });
});
