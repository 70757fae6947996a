import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Life, planMemory } from "../../../src/engines/cuda/memory.js";

const life = (steps: number): fc.Arbitrary<Omit<Life, "name">> =>
  fc
    .tuple(fc.nat(steps), fc.nat(steps), fc.integer({ min: 0, max: 100_000 }))
    .map(([a, b, bytes]) => ({ from: Math.min(a, b), to: Math.max(a, b), bytes }));

describe("arena", () => {
  it("never lets buffers that live at once share a byte, and wastes little", () => {
    let [waste, runs] = [0, 0];
    fc.assert(
      fc.property(fc.array(life(30), { minLength: 1, maxLength: 60 }), (found) => {
        const lives = found.map((l, i) => ({ ...l, name: `b${i}` }));
        const { offsets, bytes, floor } = planMemory(lives);
        for (const [i, a] of lives.entries()) {
          const at = offsets.get(a.name) as number;
          expect(at % 256).toBe(0);
          expect(at + a.bytes).toBeLessThanOrEqual(bytes);
          for (const b of lives.slice(i + 1)) {
            if (a.to < b.from || b.to < a.from) continue;
            const other = offsets.get(b.name) as number;
            expect(at + a.bytes <= other || other + b.bytes <= at || a.bytes === 0 || b.bytes === 0, `${a.name} and ${b.name}`).toBe(true);
          }
        }
        expect(bytes).toBeGreaterThanOrEqual(floor);
        waste += floor === 0 ? 1 : bytes / floor;
        runs++;
      }),
      { numRuns: 300 },
    );
    expect(waste / runs).toBeLessThan(1.15);
  });
  it("reuses what has ended", () => {
    const { bytes } = planMemory([
      { name: "a", bytes: 1024, from: 0, to: 1 },
      { name: "b", bytes: 1024, from: 1, to: 2 },
      { name: "c", bytes: 1024, from: 2, to: 3 },
    ]);
    expect(bytes).toBe(2048);
  });
});
