/** The report's part on quantization, in its three forms. */

import * as v from "valibot";
import { expect, it } from "vitest";
import type { Trial } from "../../src/quantize/search.js";
import { quantizationReport, quantizationSchema } from "../../src/report/quantization.js";
import { quantizationHtml, quantizationText } from "../../src/report/quantization-text.js";

const trial = (name: string, loss: number, kept: boolean): Trial => ({
  name,
  configuration: { method: "mse", alpha: undefined, inputs: undefined, correctBias: false, rounding: false, floats: [] },
  loss,
  likely: 0.98,
  agreement: 0.975,
  rows: 40,
  kept,
});
const tensor = (name: string, accumulatedSqnr: number | undefined) => ({
  name,
  node: "conv <1>",
  why: "every input of Conv is quantized",
  amax: 1.23456789,
  absmax: 2,
  ranges: {
    max: 2,
    "percentile-99.9": 1,
    "percentile-99.99": 1.1,
    "percentile-99.999": 1.2,
    "percentile-99.9999": 1.3,
    entropy: 0.9,
    mse: 1.23456789,
  },
  clipped: 0.0125,
  localSqnr: 41.24,
  accumulatedSqnr,
  cosine: 0.9999,
});
const report = quantizationReport({
  source: "calibration",
  feeds: { calibration: 143, held: 36 },
  configuration: "ranges by mse",
  best: trial("ranges by mse", 0.0125, true),
  trials: [trial("ranges by max", Number.POSITIVE_INFINITY, true), trial("ranges by mse", 0.0125, true)],
  stopped: "the time for trials, 3 s, was over",
  drift: {
    feeds: 16,
    tensors: [tensor("quiet", 50), tensor("noisy", 12.5), tensor("exact", undefined)],
    weights: [{ name: "w", node: "conv <1>", scales: [0.001, 0.02], sqnr: 38 }],
  },
  decisions: [{ value: 1 as never, name: "s", reader: undefined, kind: "float", why: "a <softmax>", scales: [] }],
});

it("keeps six digits, says infinity as null, and follows its schema", () => {
  expect(v.parse(quantizationSchema, JSON.parse(JSON.stringify(report)))).toEqual(report);
  expect(report.trials.map((t) => t.loss)).toEqual([null, 0.0125]);
  expect(report.tensors[0]?.amax).toBe(1.23457);
  expect(report.floats).toEqual([{ name: "s", why: "a <softmax>" }]);
});
it("gives the agreement with Wilson's interval", () => {
  // 39 of 40: 0.871 to 0.996, as tables give it.
  expect(report.agreement?.low).toBeCloseTo(0.8712, 3);
  expect(report.agreement?.high).toBeCloseTo(0.9956, 3);
});
it("as text: summary, trials, the noisiest tensors first", () => {
  const lines = quantizationText(report, 2);
  expect(lines[0]).toBe(
    "ranges from 143 feeds; ranges by mse; on 36 feeds held out, loss 0.0125, 97.50 % of 40 rows as in float (95 % interval 87.12 % to 99.56 %), 98.00 % expected of many.",
  );
  expect(lines.find((l) => l.includes("ranges by max"))).toMatch(/not finite +97\.50 % +98\.00 %/);
  expect(lines.filter((l) => / (quiet|noisy|exact)$/.test(l)).map((l) => l.trim().split(/\s+/).at(-1))).toEqual(["noisy", "quiet"]);
  expect(lines.at(-1)).toContain("1 quieter");
});
it("as HTML: escaped, every tensor, every method", () => {
  const html = quantizationHtml(report);
  expect(html).toContain("a &lt;softmax&gt;");
  expect(html).toContain("percentile-99.999");
  for (const name of ["quiet", "noisy", "exact"]) expect(html).toContain(`<td>${name}</td>`);
  expect(html).not.toContain("<1>");
});
