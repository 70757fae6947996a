import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  add,
  broadcastDim,
  ceilDiv,
  floorDiv,
  max,
  min,
  mod,
  mul,
  sameDim,
  sub,
  substitute,
  symbol,
  symbolsOf,
} from "../../src/ir/dims.js";
import type { Dim } from "../../src/ir/types.js";

type Expression = { readonly dim: Dim; readonly at: (n: number, m: number) => number };
const leaf = fc.oneof(
  fc.integer({ min: 0, max: 9 }).map((k): Expression => ({ dim: k, at: () => k })),
  fc.constantFrom<Expression>({ dim: "n", at: (n) => n }, { dim: "m", at: (_, m) => m }),
);
const binary: readonly (readonly [(a: Dim, b: Dim) => Dim, (a: number, b: number) => number])[] = [
  [add, (a, b) => a + b],
  [sub, (a, b) => a - b],
  [mul, (a, b) => a * b],
  [floorDiv, (a, b) => Math.floor(a / b)],
  [ceilDiv, (a, b) => Math.ceil(a / b)],
  [mod, (a, b) => a - b * Math.floor(a / b)],
  [max, Math.max],
  [min, Math.min],
];
const expression = fc.letrec<{ e: Expression }>((tie) => ({
  e: fc.oneof(
    { maxDepth: 4 },
    leaf,
    fc
      .tuple(fc.constantFrom(...binary), tie("e"), tie("e"))
      .map(([[dim, number], a, b]): Expression => ({ dim: dim(a.dim, b.dim), at: (n, m) => number(a.at(n, m), b.at(n, m)) })),
  ),
})).e;

describe("dims", () => {
  it("arithmetic agrees with numbers at every binding", () => {
    fc.assert(
      fc.property(expression, fc.integer({ min: 1, max: 50 }), fc.integer({ min: 1, max: 50 }), (e, n, m) => {
        const wanted = e.at(n, m);
        if (!Number.isFinite(wanted)) return;
        const found = substitute(
          e.dim,
          new Map([
            ["n", n],
            ["m", m],
          ]),
        );
        if (found === "?") return;
        // -0 is 0 here.
        expect(Number(found) + 0).toBe(wanted + 0);
      }),
      { numRuns: 2000, seed: 7 },
    );
  });

  it("canonical text reads back as itself", () => {
    fc.assert(
      fc.property(expression, (e) => {
        if (typeof e.dim === "string" && e.dim !== "?") expect(symbol(e.dim)).toBe(e.dim);
      }),
      { numRuns: 1000, seed: 8 },
    );
  });

  it.each([
    ["past + 1", "past + 1"],
    ["1+past", "past + 1"],
    ["2*n*m - n*m", "m*n"],
    ["batch size", "`batch size`"],
    ["", "?"],
    ["3", 3],
    ["x::y", "`x::y`"],
  ])("reads %s as %s", (text, dim) => expect(symbol(text)).toBe(dim));

  it("decides equality where it can", () => {
    expect(sameDim("n", "n")).toBe(true);
    expect(sameDim(add("n", 1), "n")).toBe(false);
    expect(sameDim("n", -1)).toBe(false);
    expect(sameDim("n", "m")).toBeUndefined();
    expect(sameDim("?", "?")).toBeUndefined();
    expect(sameDim(add(floorDiv("n", 2), 1), 0)).toBe(false);
    expect(sameDim(max("n", 3), mul(-2, "m"))).toBe(false);
    expect(sameDim(floorDiv(sub("n", 1), 2), -1)).toBeUndefined();
  });

  it("takes the larger and the smaller where it is certain, symbols being at least 0", () => {
    expect(max(0, "n")).toBe("n");
    expect(max(add("n", "past"), "n")).toBe("n + past");
    expect(min(add("n", "past"), "n")).toBe("n");
    expect(max(1, add(floorDiv(mul("n", "m"), 4), 1))).toBe("floordiv(m*n, 4) + 1");
    expect(min(0, floorDiv("n", 3))).toBe(0);
    for (const d of [sub("n", 1), floorDiv(sub("n", 1), 2), mod("n", "m"), floorDiv("n", "m"), sub("n", "m")])
      expect(String(max(0, d))).toMatch(/^max\(/);
    expect(max(0, mul(-1, "n"))).toBe(0);
    expect(max(1, "n")).toBe("max(1, n)");
  });

  it("broadcasts by NumPy's rule", () => {
    expect(broadcastDim(1, "n")).toBe("n");
    expect(broadcastDim(4, "n")).toBe(4);
    expect(broadcastDim(4, 3)).toBeUndefined();
    expect(broadcastDim("n", "m")).toBe("?");
    // A table of 512 rows cut to n: where it broadcasts with n at all, it has n.
    expect(broadcastDim(min(512, "n"), "n")).toBe("n");
    expect(broadcastDim("n", min(512, "n"))).toBe("n");
    // With 1 it might be 1 where n is not.
    expect(broadcastDim("n", min("m", "n"))).toBe("?");
  });

  it("names its free symbols", () => expect(symbolsOf(floorDiv(add("n", mul("m", "`odd one`")), 3))).toEqual(["`odd one`", "m", "n"]));
});
