/** How many rows noise is expected to turn round: the formula against closed forms and against counting. */
import { describe, expect, it } from "vitest";
import { crowdOf, type Lead, noiseOf, overtaken, wilson } from "../../src/quantize/leads.js";
import { generator } from "../../src/runtime/measure.js";

/** A sampler of a standard normal. */
function normals(seed: number): () => number {
  const next = generator(seed);
  return () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
}

describe("the share of rows that are overtaken", () => {
  it("of level rows is arctan(sigma / width) / pi: a lead and the noise on it, both normal, differ in sign by the angle between them", () => {
    const level = { margins: [0, 0, 0], width: 0.8 };
    for (const sigma of [0.01, 0.1, 0.8, 2, 6]) expect(overtaken(level, sigma)).toBeCloseTo(Math.atan(sigma / 0.8) / Math.PI, 4);
  });
  it("of rows without spread is the normal distribution's tail", () => {
    // P(Z > 1), P(Z > 2).
    expect(overtaken({ margins: [1], width: 0 }, 1)).toBeCloseTo(0.1586553, 6);
    expect(overtaken({ margins: [1, 1], width: 0 }, 0.5)).toBeCloseTo(0.0227501, 6);
  });
  it("is none without noise, all with noise that is not finite, and grows with the noise between", () => {
    const crowd = crowdOf([0.1, 0.5, 1, 2, 3, 5, 8]);
    expect(overtaken(crowd, 0)).toBe(0);
    expect(overtaken(crowd, Number.NaN)).toBe(1);
    expect(overtaken(crowdOf([]), 1)).toBe(0);
    const shares = [0.01, 0.1, 0.5, 1, 3, 10].map((s) => overtaken(crowd, s));
    expect(shares).toEqual([...shares].sort((a, b) => a - b));
    expect(shares.at(-1)).toBeLessThan(0.5);
  });
  it("goes from the density to the rows themselves without a step worth naming", () => {
    const normal = normals(4);
    const margins = Array.from({ length: 200 }, () => Math.abs(3 * normal()));
    const { width } = crowdOf(margins);
    const [narrow, wide] = [1e-9, -1e-9].map((e) => overtaken({ margins, width }, 8 * width * (1 + e)));
    expect(Math.abs((narrow ?? 0) - (wide ?? 0))).toBeLessThan(0.01 * (wide ?? 0));
  });
  it("is nearer to what is counted on many rows than the mean over the same hundred rows, and than their count", () => {
    const normal = normals(7);
    const sigma = 0.15;
    const lead = (): number => Math.abs(4 * normal());
    // Both are normal about 0.
    const truth = Math.atan(sigma / 4) / Math.PI;
    let [smooth, plain, counted] = [0, 0, 0];
    for (let i = 0; i < 60; i++) {
      const margins = Array.from({ length: 100 }, lead);
      const crowd = crowdOf(margins);
      smooth += (overtaken(crowd, sigma) - truth) ** 2;
      plain += (overtaken({ margins, width: 0 }, sigma) - truth) ** 2;
      counted += (margins.filter((m) => m + sigma * normal() < 0).length / 100 - truth) ** 2;
    }
    expect(Math.sqrt(smooth / 60)).toBeLessThan(0.25 * truth);
    expect(smooth).toBeLessThan(plain / 4);
    expect(plain).toBeLessThan(counted);
  });
});
it("noise is that of the less decided half", () => {
  const leads: readonly Lead[] = [
    { margin: 9, moved: 100 },
    { margin: 1, moved: 3 },
    { margin: 2, moved: -4 },
    { margin: 5, moved: -50 },
  ];
  expect(noiseOf(leads)).toBeCloseTo(Math.sqrt(12.5), 12);
});
it("bandwidths are Silverman's, of what is finite", () => {
  // Deviation sqrt(2), quartiles 2 and 4: 0.9 min(1.414, 2 / 1.34) 5^(-1/5).
  expect(crowdOf([1, 2, 3, 4, 5, Number.NaN]).width).toBeCloseTo(0.9 * Math.SQRT2 * 5 ** -0.2, 12);
});
it("Wilson's interval holds the share and stays inside 0 and 1", () => {
  expect(wilson(0, 90).low).toBe(0);
  expect(wilson(1, 90).high).toBeLessThanOrEqual(1);
  expect(wilson(1, 90).high).toBeCloseTo(1, 12);
  // One of 90 rows may be two of a thousand.
  expect(wilson(1 / 90, 90).low).toBeCloseTo(0.00196, 4);
});
