/** Scores of quantized outputs: divergence of rows, noise of the rest. */
import { describe, expect, it } from "vitest";
import { scoreOf } from "../../src/quantize/score.js";
import { Tensor } from "../../src/tensor.js";

const row = (...values: number[]) => ({ y: new Tensor("float32", Float32Array.from(values), [1, values.length]) });
const map = (...values: number[]) => ({ y: new Tensor("float32", Float32Array.from(values), [1, values.length, 1]) });

describe("logits", () => {
  it("that are the same cost nothing, shifted ones neither", () => {
    expect(scoreOf([row(1, 2, 3)], [row(1, 2, 3)])).toEqual({ loss: 0, noise: 0, agreement: 1, likely: 1, rows: 1 });
    expect(scoreOf([row(1, 2, 3)], [row(5, 6, 7)]).loss).toBeCloseTo(0, 12);
  });
  it("cost the KL divergence of their softened distributions, by the formula", () => {
    const [x, y] = [
      [1, 2, 0.5],
      [0.7, 2.4, 0.1],
    ];
    const p = x?.map((v) => Math.exp(v / 8) / x.reduce((a, b) => a + Math.exp(b / 8), 0)) ?? [];
    const q = y?.map((v) => Math.exp(v / 8) / y.reduce((a, b) => a + Math.exp(b / 8), 0)) ?? [];
    const kl = p.reduce((a, v, i) => a + v * Math.log(v / (q[i] as number)), 0);
    expect(scoreOf([row(...(x ?? []))], [row(...(y ?? []))]).loss).toBeCloseTo(64 * kl, 6);
  });
  it("agree where the largest is in its place", () => {
    expect(scoreOf([row(1, 2), row(3, 1), row(0, 1)], [row(1, 2), row(1, 3), row(0, 4)]).agreement).toBeCloseTo(2 / 3);
  });
  it("are likely to agree as their leads stand over their noise", () => {
    // Leads of 2 in every row, moved by +-1: sigma is 1, P(Z > 2) = 0.02275.
    const rows = [1, -1, 1, -1].map((moved) => [row(2, 0, -9), row(2 + moved, 0, -9)] as const);
    const score = scoreOf(
      rows.map(([x]) => x),
      rows.map(([, y]) => y),
    );
    expect(score.agreement).toBe(1);
    expect(score.likely).toBeCloseTo(1 - 0.0227501, 6);
    expect(scoreOf([row(2, 0)], [row(Number.NaN, 0)]).likely).toBe(0);
  });
  it("that are probabilities are taken as such, with zeros", () => {
    expect(scoreOf([row(0.25, 0.75)], [row(0.25, 0.75)]).loss).toBe(0);
    const { loss } = scoreOf([row(0.5, 0.5)], [row(1, 0)]);
    expect(loss).toBeGreaterThan(10);
    expect(Number.isFinite(loss)).toBe(true);
  });
});
describe("other outputs", () => {
  it("cost noise over signal", () => {
    expect(scoreOf([map(3, 4)], [map(3, 5)])).toEqual({ loss: 1 / 25, agreement: undefined, likely: undefined, rows: 0 });
  });
  it("cost nothing where both are zero, and as much as a signal would where only the reference is", () => {
    expect(scoreOf([map(0, 0)], [map(0, 0)]).loss).toBe(0);
    expect(scoreOf([map(0, 0)], [map(0, 1)]).loss).toBe(1);
  });
  it("are compared where the reference is finite", () => {
    const [inf, nan] = [Number.POSITIVE_INFINITY, Number.NaN];
    expect(scoreOf([map(-inf, 3, nan, 4)], [map(-inf, 3, 0, 5)]).loss).toBe(1 / 25);
    expect(scoreOf([map(nan, inf)], [map(nan, inf)]).loss).toBe(inf);
    // A row whose second class is masked has no lead that noise could turn.
    expect(scoreOf([row(1, -inf, 2), row(-inf, 5, -inf), row(nan, 1, 2)], [row(1, -inf, 2), row(-inf, 5, -inf), row(0, 1, 2)])).toEqual({
      loss: 0,
      noise: 0,
      agreement: 1,
      likely: 1,
      rows: 1,
    });
  });
  it("that are missing, of another size or not finite are the worst", () => {
    expect(scoreOf([map(1, 2)], [{}]).loss).toBe(Number.POSITIVE_INFINITY);
    expect(scoreOf([map(1, 2)], [map(1)]).loss).toBe(Number.POSITIVE_INFINITY);
    expect(scoreOf([map(1, 2)], [map(1, Number.NaN)]).loss).toBe(Number.POSITIVE_INFINITY);
  });
  it("of integers do not count", () => {
    const ints = { n: new Tensor("int64", BigInt64Array.from([1n]), [1]) };
    expect(scoreOf([ints], [ints])).toEqual({ loss: 0, agreement: undefined, likely: undefined, rows: 0 });
  });
});
