import { describe, expect, it } from "vitest";
import { PartitaError } from "../../src/diagnostics.js";
import { parse } from "../../src/ir/parse.js";
import type { Graph, ValueId } from "../../src/ir/types.js";
import type { Fact } from "../../src/ops/define.js";
import { inferGraph } from "../../src/ops/infer.js";
import { partition, type Segment } from "../../src/partition/assign.js";
import { check } from "../../src/partition/check.js";
import { edgesOf, segment } from "../../src/partition/segment.js";
import { judge } from "../../src/partition/verdicts.js";
import { generator } from "../../src/runtime/measure.js";
import { randomGraph, randomVerdicts } from "./random.js";

const TARGET = { sm: 90, tensorrt: 110_200, precision: "fp32" } as const;
const typeFacts =
  (g: Graph) =>
  (v: ValueId): Fact => ({ type: g.values[v]?.type ?? { kind: "unknown" } });
/** Engine and node names of each segment. */
const shape = (g: Graph, segments: readonly Segment[]): string[] =>
  segments.map((s) => `${s.engine}: ${s.nodes.map((id) => g.nodes.find((n) => n.id === id)?.name).join(" ")}`);
function cut(
  text: string,
  options: { minimumSegmentSize?: number; pins?: Parameters<typeof judge>[1]["pins"]; strict?: boolean } = {},
): { g: Graph; segments: readonly Segment[]; text: string[]; bound: number } {
  const { graph: g, facts } = inferGraph(parse(text));
  const verdicts = judge(g, { engines: ["cuda"], target: TARGET, pins: options.pins, facts });
  const p = partition(g, verdicts, { minimumSegmentSize: options.minimumSegmentSize ?? 1, strict: options.strict, facts });
  check(g, p.segments);
  return { g, segments: p.segments, text: shape(g, p.segments), bound: p.quality.lowerBound };
}
const chain = (...ops: readonly string[]): string =>
  `graph "g" opset {"": 18} (%v0: float32[4]) -> (%v${ops.length}) {\n${ops.map((op, i) => `%v${i + 1}: float32[4] = ${op}(%v${i}) @"${op.toLowerCase()}${i}"`).join("\n")}\n}`;

describe("partition", () => {
  it("cuts where an operator is not supported", () => {
    expect(cut(chain("Relu", "Exp", "BitCast", "Neg").replace("BitCast(%v2)", "BitCast(%v2) {to = 1}")).text).toEqual([
      "cuda: relu0 exp1",
      "host: bitcast2",
      "cuda: neg3",
    ]);
  });
  it("leaves segments below the floor to the host, and joins what then touches", () => {
    expect(
      cut(chain("Relu", "BitCast", "Neg", "Exp", "Abs").replace("BitCast(%v1)", "BitCast(%v1) {to = 1}"), { minimumSegmentSize: 3 }).text,
    ).toEqual(["host: relu0 bitcast1", "cuda: neg2 exp3 abs4"]);
  });
  it("never makes a segment that a path leaves and enters again", () => {
    const { text } = cut(`graph "g" opset {"": 18} (%x: float32[4]) -> (%y) {
      %a = Relu(%x) @"a"
      %b = BitCast(%a) {to = 1} @"b"
      %y = Add(%a, %b) @"y"
    }`);
    expect(text).toEqual(["cuda: a", "host: b", "cuda: y"]);
  });
  it("joins across levels where the order allows", () => {
    const { text, bound } = cut(`graph "g" opset {"": 18} (%x: float32[4], %z: float32[4]) -> (%y) {
      %a = Relu(%x) @"a"
      %h = BitCast(%z) {to = 1} @"h"
      %k = Exp(%h) @"k"
      %l = BitCast(%k) {to = 1} @"l"
      %y = Add(%a, %l) @"y"
    }`);
    expect(text).toEqual(["host: h", "cuda: k", "host: l", "cuda: a y"]);
    expect(bound).toBe(2);
  });
  it("does not count views towards the floor", () => {
    const { text } = cut(
      'graph "g" opset {"": 18} (%x: float32[4]) -> (%y) {\nconst %s = int64[2] [2, 2]\n%a = Reshape(%x, %s) @"a"\n%b = Transpose(%a) @"b"\n%y = Relu(%b) @"y"\n}',
      { minimumSegmentSize: 2 },
    );
    expect(text).toEqual(["host: a b y"]);
  });

  it("obeys pins by name, operator, pattern and region", () => {
    const text = chain("Relu", "Exp", "Neg", "Abs");
    expect(cut(text, { pins: [{ match: "exp1", to: "host" }] }).text).toEqual(["cuda: relu0", "host: exp1", "cuda: neg2 abs3"]);
    expect(cut(text, { pins: [{ match: "Neg", to: "host" }] }).text).toEqual(["cuda: relu0 exp1", "host: neg2", "cuda: abs3"]);
    expect(cut(text, { pins: [{ match: "*e*", to: "host" }] }).text).toEqual(["host: relu0 exp1 neg2", "cuda: abs3"]);
    expect(cut(text, { pins: [{ match: /^abs/, to: "host" }] }).text).toEqual(["cuda: relu0 exp1 neg2", "host: abs3"]);
    expect(cut(text, { pins: [{ match: "exp1..neg2", to: "host" }] }).text).toEqual(["cuda: relu0", "host: exp1 neg2", "cuda: abs3"]);
    expect(cut(text, { pins: [{ match: "neg2..", to: "host" }] }).text).toEqual(["cuda: relu0 exp1", "host: neg2 abs3"]);
    expect(cut(text, { pins: [{ match: "..exp1", to: "host" }] }).text).toEqual(["host: relu0 exp1", "cuda: neg2 abs3"]);
    expect(cut(text, { minimumSegmentSize: 10, pins: [{ match: "exp1", to: "cuda" }] }).text).toEqual(["cuda: relu0 exp1 neg2 abs3"]);
  });
  it.each([
    [{ pins: [{ match: "exq1", to: "host" as const }] }, "P1701 no node, origin or operator matches the pin 'exq1'. Did you mean 'exp1'?"],
    [
      { pins: [{ match: "nothing.like/it", to: "host" as const }] },
      "P1701 no node, origin or operator matches the pin 'nothing.like/it'. List the names with `partita inspect MODEL --ir`.",
    ],
    [
      { pins: [{ match: "BitCast", to: "cuda" as const }] },
      "P1702 node 'bitcast2' (BitCast): it is pinned to 'cuda', which cannot run it: a reinterpretation of bits is not emitted",
    ],
    [
      { strict: true },
      "P1703 node 'bitcast2' (BitCast): 1 node would run on the host, the first because a reinterpretation of bits is not emitted",
    ],
  ])("refuses %#", (options, message) => {
    const text = chain("Relu", "Exp", "BitCast", "Neg").replace("BitCast(%v2)", "BitCast(%v2) {to = 1}");
    expect(() => cut(text, options)).toThrow(message.replace("?.", "?"));
  });
});

describe("check", () => {
  const count = Number(process.env["PARTITA_GRAPHS"] ?? 10_000);
  it(`accepts every partition of ${count} random graphs with random verdicts, engines and pins`, { timeout: 600_000 }, () => {
    const next = generator(2026);
    for (let i = 0; i < count; i++) {
      const g = randomGraph(next, 1 + Math.floor(next() * 40));
      const engines = next() < 0.5 ? (["cuda"] as const) : (["tensorrt", "cuda"] as const);
      const verdicts = randomVerdicts(g, next, engines, next());
      const objective = (["order", "order", "order", "time", "time-or-host"] as const)[Math.floor(next() * 5)];
      // Measured times that favour now one engine, now another, so that pieces move and waves part.
      const measured = next() < 0.5 ? undefined : () => 1 + next() * 100;
      const p = partition(g, verdicts, { minimumSegmentSize: 1 + Math.floor(next() * 4), facts: typeFacts(g), objective, measured });
      check(g, p.segments);
      for (const s of p.segments)
        for (const id of s.nodes)
          if (!verdicts.of(id, s.engine).ok) throw new Error(`graph ${i}: node ${id} runs on ${s.engine}, which refused it`);
      if (p.quality.engineSegments < p.quality.lowerBound) throw new Error(`graph ${i}: fewer segments than the bound`);
    }
  });

  it("rejects each of 1,000 broken partitions", () => {
    const next = generator(99);
    let tried = 0;
    while (tried < 1000) {
      const g = randomGraph(next, 6 + Math.floor(next() * 20));
      const { segments } = partition(g, randomVerdicts(g, next, ["cuda"], 0.6), { minimumSegmentSize: 1, facts: typeFacts(g) });
      const broken = damage(segments, next);
      if (broken === undefined) continue;
      tried++;
      let error: unknown;
      try {
        check(g, broken);
      } catch (e) {
        error = e;
      }
      expect(error).toBeInstanceOf(PartitaError);
      expect((error as PartitaError).code).toBe("P1710");
    }
  });
});

/** One deliberate fault; undefined where the draw does not apply. */
function damage(segments: readonly Segment[], next: () => number): readonly Segment[] | undefined {
  const at = Math.floor(next() * segments.length);
  const s = segments[at] as Segment;
  const replace = (changed: Segment): readonly Segment[] => segments.map((x, i) => (i === at ? changed : x));
  switch (Math.floor(next() * 6)) {
    case 0:
      return replace({ ...s, nodes: s.nodes.slice(1) });
    case 1:
      return replace({ ...s, nodes: [...s.nodes, s.nodes[0] as never] });
    case 2:
      return s.inputs.length === 0 ? undefined : replace({ ...s, inputs: s.inputs.slice(1) });
    case 3:
      return s.outputs.length === 0 ? undefined : replace({ ...s, outputs: s.outputs.slice(1) });
    case 4:
      return segments.filter((_, i) => i !== at);
    default: {
      // A segment that runs before one it reads from.
      const reader = segments.findIndex((x) => x.inputs.some((v) => s.outputs.includes(v)));
      if (reader < 0 || reader === at) return undefined;
      const swapped = [...segments];
      [swapped[at], swapped[reader]] = [swapped[reader] as Segment, s];
      return swapped;
    }
  }
}

describe("segment", () => {
  it("takes near-linear time, hubs included", () => {
    const time = (n: number, hub: boolean): number => {
      const next = generator(5);
      const [from, to]: [number[], number[]] = [[], []];
      for (let i = 1; i < n; i++) {
        from.push(Math.max(0, i - 1 - Math.floor(next() * 8)));
        to.push(i);
        if (hub) {
          from.push(0);
          to.push(i);
        }
      }
      const engine = Uint8Array.from({ length: n }, () => (next() < 0.9 ? 1 : 0));
      const start = performance.now();
      segment({ n, successors: edgesOf(n, from, to), engine, size: new Uint8Array(n).fill(1), minimumSize: 3 });
      return performance.now() - start;
    };
    time(20_000, false);
    const [small, large, hub] = [time(20_000, false), time(200_000, false), time(200_000, true)];
    // Generous: two cores that other tests share. bench/partition has the figures.
    expect(large / small).toBeLessThan(40);
    expect(hub / large).toBeLessThan(8);
  });
});
