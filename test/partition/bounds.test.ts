/** The bounds that the benchmark proves with: never above what any method reaches, and the cut exactly what trying all sides finds. */
import { describe, expect, it } from "vitest";
import { baselines, dropSmall } from "../../bench/partition/baselines.js";
import { boundsAt } from "../../bench/partition/bounds.js";
import { measure } from "../../bench/partition/measure.js";
import { edgesOf } from "../../src/partition/dag.js";
import type { SegmentInput } from "../../src/partition/input.js";
import { segment } from "../../src/partition/segment.js";
import { generator } from "../../src/runtime/measure.js";

function drawn(next: () => number, n: number): { readonly input: SegmentInput; readonly work: Float64Array } {
  const [from, to]: [number[], number[]] = [[], []];
  for (let v = 1; v < n; v++)
    for (let k = 0; k < 2; k++) {
      if (next() < 0.2) continue;
      from.push(Math.floor(next() * v));
      to.push(v);
    }
  const successors = edgesOf(n, from, to);
  const input: SegmentInput = {
    n,
    successors,
    engine: Uint8Array.from({ length: n }, () => (next() < 0.7 ? 1 : 0)),
    size: new Uint8Array(n).fill(1),
    minimumSize: 1 + Math.floor(next() * 3),
    values: {
      producer: Int32Array.from({ length: n }, (_, i) => i),
      readers: successors,
      bytes: Float64Array.from({ length: n }, () => 1 + Math.floor(next() * 100)),
      exported: Uint8Array.from({ length: n }, () => (next() < 0.2 ? 1 : 0)),
    },
  };
  return { input, work: Float64Array.from({ length: n }, () => (next() < 0.6 ? 1 : 0)) };
}

/** By trying every side of the nodes that may choose. */
function leastBytes({ n, engine, values }: SegmentInput, group: Int32Array, work: Float64Array): number {
  const free = Array.from({ length: n }, (_, v) => v).filter((v) => engine[v] !== 0 && !((group[v] ?? -1) >= 0 && (work[v] ?? 0) > 0));
  let least = Number.POSITIVE_INFINITY;
  for (let mask = 0; mask < 2 ** free.length; mask++) {
    const on = Array.from({ length: n }, (_, v) => engine[v] !== 0 && !free.includes(v));
    for (const [i, v] of free.entries()) on[v] = ((mask >> i) & 1) === 1;
    let bytes = 0;
    for (let t = 0; t < n; t++) {
      const readers = [...(values?.readers.targets.subarray(values.readers.starts[t], values.readers.starts[t + 1]) ?? [])];
      const maker = on[t] === true;
      if ((maker && values?.exported?.[t] === 1) || readers.some((r) => on[r] !== maker)) bytes += values?.bytes[t] ?? 0;
    }
    least = Math.min(least, bytes);
  }
  return least;
}

describe("the least that any partition could have", () => {
  it("is never above what a method reaches with the same work covered", () => {
    const next = generator(11);
    for (let i = 0; i < 400; i++) {
      const { input, work } = drawn(next, 2 + Math.floor(next() * 40));
      const s = segment(input);
      const groups = [s.segmentOf.map((k) => (s.engineOf[k] === 0 ? -1 : k)), ...baselines.map((b) => dropSmall(input, b.run(input)))];
      for (const group of groups) {
        const [reached, least] = [measure(input, group, work), boundsAt(input, group, work)];
        expect(least.segments).toBeLessThanOrEqual(reached.segments);
        expect(least.crossings).toBeLessThanOrEqual(reached.crossings);
        expect(least.boundaryBytes).toBeLessThanOrEqual(reached.boundaryBytes);
      }
    }
  });

  it("is in bytes what trying every side finds", () => {
    const next = generator(12);
    let positive = 0;
    for (let i = 0; i < 200; i++) {
      const { input, work } = drawn(next, 2 + Math.floor(next() * 8));
      const s = segment(input);
      const group = s.segmentOf.map((k) => (s.engineOf[k] === 0 ? -1 : k));
      const { boundaryBytes } = boundsAt(input, group, work);
      expect(boundaryBytes).toBe(leastBytes(input, group, work));
      if (boundaryBytes > 0) positive++;
    }
    expect(positive).toBeGreaterThan(50);
  });

  it("counts the runs that a chain cannot avoid, and none for what may choose", () => {
    const chain = edgesOf(5, [0, 1, 2, 3], [1, 2, 3, 4]);
    const input: SegmentInput = {
      n: 5,
      successors: chain,
      engine: Uint8Array.of(1, 0, 1, 0, 1),
      size: new Uint8Array(5).fill(1),
      minimumSize: 1,
      values: {
        producer: Int32Array.of(0, 1, 2, 3, 4),
        readers: chain,
        bytes: Float64Array.of(1, 10, 100, 1000, 10_000),
        exported: Uint8Array.of(0, 0, 0, 0, 1),
      },
    };
    const all = Int32Array.of(0, -1, 1, -1, 2);
    expect(boundsAt(input, all, Float64Array.of(1, 1, 1, 1, 1))).toEqual({ segments: 3, crossings: 4, boundaryBytes: 11_111 });
    // The middle one computes nothing and the last one was left to the host: one run is left.
    expect(boundsAt(input, Int32Array.of(0, -1, 1, -1, -1), Float64Array.of(1, 1, 0, 1, 1))).toEqual({
      segments: 1,
      crossings: 1,
      boundaryBytes: 1,
    });
  });
});

describe("a small piece beside a large one", () => {
  // 0, 1, 2 are a piece of three that the host's 5 reads; 3 stands alone, and the host's 4 reads it.
  const successors = edgesOf(6, [0, 1, 2, 3, 4], [1, 2, 5, 4, 5]);
  const input = (flops: number): SegmentInput => ({
    n: 6,
    successors,
    engine: Uint8Array.of(1, 1, 1, 1, 0, 0),
    size: new Uint8Array(6).fill(1),
    minimumSize: 3,
    values: { producer: Int32Array.of(0, 1, 2, 3, 4, 5), readers: successors, bytes: new Float64Array(6).fill(512) },
    // Half a microsecond more on the host, where the tensor's crossing takes about one.
    lossUs: Float64Array.of(5, 5, 5, 0.5, 0, 0),
    flops: Float64Array.of(1, 1, 1, flops, 1, 1),
  });
  it("stays with its work, and goes to the host where it computes nothing and its tensor costs more than it saves", () => {
    const engines = (s: ReturnType<typeof segment>): number[] => [...s.segmentOf].map((k) => s.engineOf[k] ?? -1);
    expect(engines(segment(input(1)))).toEqual([1, 1, 1, 1, 0, 0]);
    expect(engines(segment(input(0)))).toEqual([1, 1, 1, 0, 0, 0]);
  });
});
