import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  add,
  delinear,
  divide,
  type Index,
  isConstant,
  linear,
  modulo,
  range,
  rowMajor,
  scale,
  text,
  variable,
} from "../../../src/engines/cuda/indexing.js";

/** The value of an index for values of its variables. */
function evaluate(x: Index, values: Readonly<Record<string, number>>): number {
  return (
    x.terms.reduce((sum, { atom, factor }) => {
      if (atom.kind === "variable") return sum + factor * (values[atom.key] as number);
      const inner = evaluate(atom.inner, values);
      return sum + factor * (atom.kind === "div" ? Math.floor(inner / atom.by) : inner - atom.by * Math.floor(inner / atom.by));
    }, x.constant + 0) + 0
  );
}

const extents = { i: 7, j: 4, k: 12 } as const;
const variables = fc.constantFrom(...(Object.keys(extents) as (keyof typeof extents)[])).map((name) => variable(name, extents[name] - 1));
const expression: fc.Arbitrary<Index> = fc.letrec<{ e: Index }>((tie) => ({
  e: fc.oneof(
    { maxDepth: 5 },
    variables,
    fc.tuple(tie("e"), tie("e")).map(([a, b]) => add(a, b)),
    fc.tuple(tie("e"), fc.integer({ min: -20, max: 20 })).map(([a, n]) => add(a, n)),
    fc.tuple(tie("e"), fc.integer({ min: -6, max: 12 })).map(([a, n]) => scale(a, n)),
    fc.tuple(tie("e"), fc.integer({ min: 1, max: 24 })).map(([a, n]) => divide(a, n)),
    fc.tuple(tie("e"), fc.integer({ min: 1, max: 24 })).map(([a, n]) => modulo(a, n)),
  ),
})).e;
const point = fc.record({ i: fc.nat(extents.i - 1), j: fc.nat(extents.j - 1), k: fc.nat(extents.k - 1) });

describe("index expressions", () => {
  it("quotients and remainders are those of the value, however they were simplified", () => {
    fc.assert(
      fc.property(expression, fc.integer({ min: 1, max: 40 }), point, (x, by, at) => {
        const value = evaluate(x, at) + 0;
        expect(evaluate(divide(x, by), at)).toBe(Math.floor(value / by) + 0);
        expect(evaluate(modulo(x, by), at)).toBe(value - by * Math.floor(value / by) + 0);
        const { min, max } = range(x);
        expect(value).toBeGreaterThanOrEqual(min);
        expect(value).toBeLessThanOrEqual(max);
      }),
      { numRuns: 3000 },
    );
  });
  it("taking a position apart and putting it together gives the position", () => {
    const dims = [3, 4, 5, 6];
    const p = variable("p", 359);
    expect(text(linear(delinear(p, dims), rowMajor(dims)))).toBe("p");
    // The same through another shape of as many elements.
    expect(text(linear(delinear(linear(delinear(p, dims), rowMajor(dims)), [12, 30]), [30, 1]))).toBe("p");
  });
  it("sees through lanes", () => {
    const i = variable("i", 99);
    const eighth = add(scale(i, 8), 3);
    expect(text(divide(eighth, 8))).toBe("i");
    expect(text(modulo(eighth, 8))).toBe("3");
    expect(text(divide(eighth, 16))).toBe("((i)/2)");
    expect(isConstant(divide(variable("j", 7), 8))).toBe(true);
  });
});
