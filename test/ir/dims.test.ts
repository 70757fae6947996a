import fc from "fast-check";
import { describe, expect, test } from "vitest";
import * as dims from "../../src/ir/dims.js";
import type { Dim } from "../../src/ir/types.js";

const atoms = ["a", "b", "past.0", "`odd * (name`"] as const;
const operations = {
  add: (x: number, y: number) => x + y,
  sub: (x: number, y: number) => x - y,
  mul: (x: number, y: number) => x * y,
  floorDiv: (x: number, y: number) => (y === 0 ? Number.NaN : Math.floor(x / y)),
  ceilDiv: (x: number, y: number) => (y === 0 ? Number.NaN : Math.ceil(x / y)),
  mod: (x: number, y: number) => (y === 0 ? Number.NaN : x - y * Math.floor(x / y)),
  max: Math.max,
  min: Math.min,
};
type Operation = keyof typeof operations;
type Tree = Dim | readonly [Operation, Tree, Tree];

const { tree } = fc.letrec<{ tree: Tree }>((tie) => ({
  tree: fc.oneof(
    { depthSize: "small" },
    fc.integer({ min: -4, max: 9 }),
    fc.constantFrom(...atoms),
    fc.tuple(fc.constantFrom(...(Object.keys(operations) as Operation[])), tie("tree"), tie("tree")),
  ),
}));
const { add, sub, mul, floorDiv, ceilDiv, mod, max, min } = dims;
const made = { add, sub, mul, floorDiv, ceilDiv, mod, max, min };
const build = (t: Tree): Dim => (Array.isArray(t) ? made[t[0] as Operation](build(t[1] as Tree), build(t[2] as Tree)) : (t as Dim));
/** NaN stands for a division by zero. */
function evaluate(t: Tree, bindings: ReadonlyMap<string, number>): number {
  if (!Array.isArray(t)) return typeof t === "number" ? t : (bindings.get(t as string) ?? Number.NaN);
  return operations[t[0] as Operation](evaluate(t[1] as Tree, bindings), evaluate(t[2] as Tree, bindings));
}

describe("arithmetic on dims", () => {
  test("agrees with integers under any binding, and its text is canonical", () => {
    const bound = fc.array(fc.integer({ min: 0, max: 7 }), { minLength: atoms.length, maxLength: atoms.length });
    fc.assert(
      fc.property(tree, bound, (t, numbers) => {
        const bindings = new Map(atoms.map((a, i) => [a as string, numbers[i] ?? 0]));
        const dim = build(t);
        if (dim === dims.UNKNOWN) return;
        if (typeof dim === "string") expect(dims.symbol(dim)).toBe(dim);
        else expect(Object.is(dim, -0)).toBe(false);
        const expected = evaluate(t, bindings);
        const actual = dims.substitute(dim, bindings);
        // A divisor that is zero only under this binding makes the result unknown, or cancelled before.
        if (Number.isNaN(expected) || actual === dims.UNKNOWN) return;
        expect(Math.abs((actual as number) - expected)).toBe(0);
      }),
      { numRuns: 3000 },
    );
  });

  test("any text is a symbol, and reads the same again", () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 60 }), (text) => {
        const once = dims.symbol(text);
        expect(typeof once === "string" ? dims.symbol(once) : once).toBe(once);
      }),
      { numRuns: 2000 },
    );
  });

  test.each([
    ["batch", "batch"],
    ["past + 1", "past + 1"],
    ["1+past", "past + 1"],
    ["2*a + 3*a", "5*a"],
    ["a - a", 0],
    ["floordiv(2*a, 2)", "a"],
    ["max(b,a)", "max(a, b)"],
    ["floordiv(a, 2)*3 + floordiv(a,2)", "4*floordiv(a, 2)"],
    ["", "?"],
    ["?", "?"],
    ["odd name", "`odd name`"],
    ["a * ", "`a *`"],
    ["7", 7],
  ])("reads '%s' as %s", (text, dim) => {
    expect(dims.symbol(text)).toBe(dim);
  });

  test("deep nesting is quoted, not evaluated", () => {
    const deep = `${"(".repeat(150)}a${")".repeat(150)}`;
    expect(dims.symbol(deep)).toBe(`\`${deep}\``);
  });

  test("broadcasting follows NumPy, symbols giving way to numbers", () => {
    expect(dims.broadcastDim(1, "n")).toBe("n");
    expect(dims.broadcastDim("n", 4)).toBe(4);
    expect(dims.broadcastDim(3, 4)).toBeUndefined();
    expect(dims.broadcastDim("n", "m")).toBe("?");
    expect(dims.broadcastDim("n", "n")).toBe("n");
  });

  test("unknown equals nothing", () => {
    expect(dims.sameDim("?", "?")).toBeUndefined();
    expect(dims.sameDim("n + 1", "n")).toBe(false);
    expect(dims.sameDim("n", "m")).toBeUndefined();
  });
});
