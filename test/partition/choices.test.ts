/** Choices by time, suppositions, gains, and the partitioner against the other methods on generated graphs. */
import { describe, expect, it } from "vitest";
import { baselines, dropSmall } from "../../bench/partition/baselines.js";
import { generate, shapes } from "../../bench/partition/generators.js";
import { measure } from "../../bench/partition/measure.js";
import { report } from "../../src/compile.js";
import { no, yes } from "../../src/diagnostics.js";
import { parse } from "../../src/ir/parse.js";
import type { Graph } from "../../src/ir/types.js";
import type { EngineName } from "../../src/ops/define.js";
import { inferGraph } from "../../src/ops/infer.js";
import { type Partition, type PartitionOptions, partition } from "../../src/partition/assign.js";
import { check } from "../../src/partition/check.js";
import { segment } from "../../src/partition/segment.js";
import { judge, type Verdicts } from "../../src/partition/verdicts.js";

/** A chain of operators over a tensor of `size` floats; names are the operator and its place. */
const chain = (size: number, ...ops: readonly string[]): Graph =>
  parse(
    `graph "g" opset {"": 18} (%v0: float32[${size}]) -> (%v${ops.length}) {\n${ops.map((op, i) => `%v${i + 1}: float32[${size}] = ${op}(%v${i})${op === "BitCast" ? " {to = 1}" : ""} @"${op.toLowerCase()}${i}"`).join("\n")}\n}`,
  );
function divide(
  g: Graph,
  engines: readonly EngineName[],
  options: Partial<PartitionOptions>,
  takes?: (name: string, e: EngineName) => boolean,
): string[] {
  const { graph, facts } = inferGraph(g);
  const verdicts: Verdicts =
    takes === undefined
      ? judge(graph, { engines, target: { sm: 90, tensorrt: 110_200, precision: "fp32" }, facts })
      : {
          engines,
          pinned: new Map(),
          of: (id, e) => (e === "host" || takes(graph.nodes.find((n) => n.id === id)?.name ?? "", e) ? yes : no("drawn so")),
        };
  const p: Partition = partition(graph, verdicts, { minimumSegmentSize: 1, facts, ...options });
  check(graph, p.segments);
  return p.segments.map((s) => `${s.engine}: ${s.nodes.map((id) => graph.nodes.find((n) => n.id === id)?.name).join(" ")}`);
}

describe("choice by time", () => {
  it("leaves to the host what is not worth the transfers, and only where the host takes part", () => {
    const small = chain(4, "Relu", "Exp", "Neg");
    expect(divide(small, ["cuda"], { objective: "order" })).toEqual(["cuda: relu0 exp1 neg2"]);
    expect(divide(small, ["cuda"], { objective: "time" })).toEqual(["cuda: relu0 exp1 neg2"]);
    expect(divide(small, ["cuda"], { objective: "time-or-host" })).toEqual(["host: relu0 exp1 neg2"]);
    const large = chain(50_000_000, "Relu", "Exp", "Neg");
    expect(divide(large, ["cuda"], { objective: "time-or-host" })).toEqual(["cuda: relu0 exp1 neg2"]);
  });
  it("takes the order of preference where engines are equal, and measured times where there are any", () => {
    const g = chain(1_000_000, "Relu", "Exp", "Neg");
    expect(divide(g, ["tensorrt", "cuda"], { objective: "order" })).toEqual(["tensorrt: relu0 exp1 neg2"]);
    const slow = (_: unknown, e: EngineName): number => (e === "tensorrt" ? 50 : 5);
    expect(divide(g, ["tensorrt", "cuda"], { objective: "time", measured: slow })).toEqual(["cuda: relu0 exp1 neg2"]);
    expect(divide(g, ["tensorrt", "cuda"], { objective: "order", measured: slow })).toEqual(["tensorrt: relu0 exp1 neg2"]);
  });
  it("takes a user's times by name, says which fit no node, and shows them", async () => {
    const g = chain(1_000_000, "Relu", "Exp", "Neg");
    const times = (tensorrt: number): Record<string, Record<string, number>> =>
      Object.fromEntries(["relu0", "exp1", "neg2"].map((name) => [name, { host: 900, cuda: 5, tensorrt }]));
    const target = ["tensorrt", "cuda"] as const;
    const slow = await report(g, { target, times: { ...times(50), gone: { host: 1 } } });
    expect(slow.data.segments.map((s) => [s.engine, s.estimatedUs])).toEqual([["cuda", 15]]);
    expect(slow.data.nodes.map((n) => n.measuredUs)).toEqual([5, 5, 5]);
    expect(slow.data.remarks?.map((r) => r.text)).toEqual(["1 of 4 measured times are of no single node, the first of 'gone'"]);
    const fast = await report(g, { target, times: times(1) });
    expect(fast.data.segments.map((s) => [s.engine, s.estimatedUs])).toEqual([["tensorrt", 3]]);
    await expect(report(g, { target, times: { relu0: { cuda: -1 } } })).rejects.toThrow("option 'times.relu0' has a negative time");
    await expect(report(g, { target, times: { relu0: { gpu: 1 } as never } })).rejects.toThrow("P1001");
  });
  it("does not change engines where one takes all", () => {
    const g = chain(1_000_000, "Relu", "Exp", "Neg", "Abs");
    const takes = (name: string, e: EngineName): boolean => e === "cuda" || name !== "exp1";
    expect(divide(g, ["tensorrt", "cuda"], { objective: "order" }, takes)).toEqual([
      "tensorrt: relu0",
      "cuda: exp1",
      "tensorrt: neg2 abs3",
    ]);
    expect(divide(g, ["tensorrt", "cuda"], { objective: "time" }, takes)).toEqual(["cuda: relu0 exp1 neg2 abs3"]);
  });
  it("runs beside the host what does not wait for it, when that saves more than a start", () => {
    const g = parse(`graph "g" opset {"": 18} (%x: float32[1000000], %z: float32[1000000]) -> (%y, %w) {
      %h = BitCast(%x) {to = 1} @"h"
      %a = Exp(%h) @"a"
      %y = Relu(%a) @"y"
      %b = Exp(%z) @"b"
      %w = Relu(%b) @"w"
    }`);
    const us = (_: unknown, e: EngineName): number => (e === "host" ? 500 : 50);
    expect(divide(g, ["cuda"], { objective: "order" })).toEqual(["host: h", "cuda: a y b w"]);
    expect(divide(g, ["cuda"], { objective: "time", measured: us })).toEqual(["cuda: b w", "host: h", "cuda: a y"]);
  });
  it("puts heavy tensors inside segments and cuts at light ones", () => {
    // The branch may change sides before or after its expansion; either way the host stands between.
    const g = parse(`graph "g" opset {"": 18} (%x: float32[8]) -> (%y) {
      const %s = int64[1] [100000]
      %a: float32[8] = Relu(%x) @"a"
      %h: float32[8] = BitCast(%a) {to = 1} @"h"
      %k: float32[8] = Exp(%h) @"k"
      %b: float32[8] = Neg(%a) @"b"
      %c: float32[800000] = Tile(%b, %s) @"c"
      %d: float32[800000] = Abs(%c) @"d"
      %y: float32[800008] = Concat(%k, %d) {axis = 0} @"y"
    }`);
    expect(divide(g, ["cuda"], {})).toEqual(["cuda: a", "host: h", "cuda: k b c d y"]);
  });
});

describe("suppositions", () => {
  const g = chain(4_000_000, "Relu", "Exp", "BitCast", "Neg", "Abs");
  it("show the partition as if, beside the one that is", async () => {
    const r = await report(g, { target: "cuda", minimumSegmentSize: 1, whatIf: { BitCast: "cuda" } });
    expect(r.data.quality.engineSegments).toBe(1);
    expect(r.data.whatIf?.assumed).toEqual({ BitCast: "cuda" });
    expect(r.data.whatIf?.before.engineSegments).toBe(2);
    expect(r.data.quality.estimatedUs).toBeLessThan(r.data.whatIf?.before.estimatedUs ?? 0);
    expect(r.toText()).toContain("What if: BitCast on cuda");
    const without = await report(g, { target: "cuda", minimumSegmentSize: 1, whatIf: { Neg: "host" } });
    expect(without.data.segments.map((s) => Object.keys(s.ops).join())).toEqual(["Exp,Relu", "BitCast,Neg", "Abs"]);
  });
  it("name operators that are there", async () => {
    await expect(report(g, { target: "cuda", whatIf: { BitCats: "cuda" } })).rejects.toThrow(
      "P1704 no node has the operator 'BitCats'. Did you mean 'BitCast'?",
    );
  });
  it("rank operators and reasons by what they would save", async () => {
    const r = await report(g, { target: "cuda", minimumSegmentSize: 1 });
    expect(r.data.support?.map((s) => [s.op, s.nodes, s.engineSegments])).toEqual([["BitCast", 1, 1]]);
    const gain = r.data.support?.[0]?.gainUs ?? 0;
    expect(gain).toBeGreaterThan(0);
    expect(r.data.reasons[0]?.gainUs).toBe(gain);
    const [why] = r.why("bitcast2");
    expect(why?.segment).toBe("host_1");
    expect(why?.notOn[0]).toMatchObject({ engine: "cuda", why: "a reinterpretation of bits is not emitted", sameReason: 1, gainUs: gain });
    expect(r.toText()).toContain("Operators whose support would help most");
  });
  it("say what a lower floor would bring", async () => {
    const r = await report(chain(4_000_000, "Relu", "BitCast", "Exp", "Neg", "Abs"), { target: "cuda", minimumSegmentSize: 3 });
    const [why] = r.why("relu0");
    expect(why?.engine).toBe("host");
    expect(why?.notOn[0]?.why).toBe("its segment has fewer than 3 compute nodes");
    expect(why?.notOn[0]?.gainUs).toBeDefined();
  });
});

describe("against the other methods", () => {
  it.each(shapes)("%s: no more segments and no more boundary bytes than any", (shape) => {
    for (const seed of [1, 2]) {
      const input = generate(shape, 4000, 0.1, seed);
      const s = segment(input);
      const ours = measure(
        input,
        s.segmentOf.map((k) => (s.engineOf[k] === 0 ? -1 : k)),
      );
      expect(ours.segments).toBeLessThanOrEqual(s.lowerBound * 1.01);
      for (const b of baselines) {
        const theirs = measure(input, dropSmall(input, b.run(input)));
        expect(ours.segments, b.name).toBeLessThanOrEqual(theirs.segments);
        expect(ours.boundaryBytes, b.name).toBeLessThanOrEqual(theirs.boundaryBytes);
      }
    }
  });
});
