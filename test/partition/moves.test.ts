/** Moves of clusters between waves: every one saves what it says, breaks no order, and starves no wave. */
import { describe, expect, it } from "vitest";
import { generate } from "../../bench/partition/generators.js";
import { edgesOf, heaviestFirst, reversed } from "../../src/partition/dag.js";
import type { SegmentInput } from "../../src/partition/input.js";
import { moveClusters } from "../../src/partition/moves.js";
import { type Dag, earliest } from "../../src/partition/waves.js";

const dagOf = (input: SegmentInput): Dag => ({ ...input, predecessors: reversed(input.n, input.successors) });

/** Bytes of engine tensors that some reader in another wave, or the host, or a caller reads. */
function crossing({ engine, values }: SegmentInput, level: Int32Array): number {
  let total = 0;
  if (values === undefined) return 0;
  values.producer.forEach((p, t) => {
    const readers = values.readers.targets.subarray(values.readers.starts[t], values.readers.starts[t + 1]);
    const leaves = values.exported?.[t] === 1 || readers.some((r) => engine[r] !== engine[p] || level[r] !== level[p]);
    if (p >= 0 && engine[p] !== 0 && leaves) total += values.bytes[t] ?? 0;
  });
  return total;
}
function weights({ n, engine, size }: SegmentInput, level: Int32Array): Map<number, number> {
  const found = new Map<number, number>();
  for (let v = 0; v < n; v++) if (engine[v] !== 0) found.set(level[v] ?? 0, (found.get(level[v] ?? 0) ?? 0) + (size[v] ?? 0));
  return found;
}

describe("moves of clusters", () => {
  it("bring what is read two waves later to its reader", () => {
    // 6 and 7 make what 4 reads, which waits for two visits to the host; they wait for none.
    const [from, to] = [
      [0, 1, 2, 3, 5, 6, 7],
      [1, 2, 3, 4, 6, 4, 4],
    ];
    const successors = edgesOf(8, from, to);
    const input: SegmentInput = {
      n: 8,
      successors,
      engine: Uint8Array.of(1, 0, 1, 0, 1, 1, 1, 1),
      size: new Uint8Array(8).fill(1),
      minimumSize: 1,
      values: {
        producer: Int32Array.from({ length: 8 }, (_, i) => i),
        readers: successors,
        bytes: Float64Array.of(1, 1, 1, 1, 1, 10, 500, 300),
        exported: Uint8Array.of(0, 0, 0, 0, 0, 1, 0, 0),
      },
    };
    const g = dagOf(input);
    const level = earliest(g, input.engine);
    expect([...level]).toEqual([0, 1, 1, 2, 2, 0, 0, 0]);
    const before = crossing(input, level);
    const saved = moveClusters(g, input.engine, input.values as never, level, heaviestFirst(input.values?.bytes as never), input);
    // 5 leaves the graph anyway, so that 6 costs nothing to take away from it.
    expect([...level]).toEqual([0, 1, 1, 2, 2, 0, 2, 2]);
    expect(saved).toBe(800);
    expect(before - crossing(input, level)).toBe(800);
  });

  it("save what they say on random graphs, in an order that can run, with waves as large as they were", () => {
    let total = 0;
    for (let seed = 1; seed <= 60; seed++) {
      const drawn = generate("random", 120, 0.15, seed);
      const exported = Uint8Array.from({ length: drawn.n }, (_, i) => (i % 7 === 0 ? 1 : 0));
      const values = { ...(drawn.values as NonNullable<typeof drawn.values>), exported };
      const input = { ...drawn, values };
      const g = dagOf(input);
      const level = earliest(g, input.engine);
      const [bytes, sizes] = [crossing(input, level), weights(input, level)];
      const saved = moveClusters(g, input.engine, values, level, heaviestFirst(values.bytes), input);
      total += saved;
      expect(bytes - crossing(input, level)).toBe(saved);
      for (let v = 0; v < g.n; v++)
        for (const t of g.successors.targets.subarray(g.successors.starts[v], g.successors.starts[v + 1]))
          expect(level[t]).toBeGreaterThanOrEqual((level[v] ?? 0) + ((input.engine[v] ?? 0) > (input.engine[t] ?? 0) ? 1 : 0));
      for (const [l, weight] of weights(input, level)) if (weight < input.minimumSize) expect(sizes.get(l)).toBeLessThan(input.minimumSize);
    }
    expect(total).toBeGreaterThan(0);
  });
});
