/** docs/gpu-models.md is what the results say. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { file, render } from "../../scripts/gpu-models.mjs";

const root = join(import.meta.dirname, "../..");

it("docs/gpu-models.md is what scripts/gpu-models.mjs makes (run `npm run docs`)", () => {
  expect(readFileSync(join(root, file), "utf8")).toBe(render());
});
it("every model that is beyond its limit, or not on the GPU, says why", () => {
  const { rows } = JSON.parse(readFileSync(join(root, "bench/results/gpu-models.json"), "utf8")) as {
    rows: readonly { name: string; ok?: boolean; note?: string; share?: number; remains?: readonly unknown[] }[];
  };
  expect(rows.length).toBeGreaterThan(160);
  expect(rows.filter((r) => r.ok !== true && r.note === undefined)).toEqual([]);
  expect(rows.filter((r) => (r.share ?? 0) < 1 && (r.remains ?? []).length === 0)).toEqual([]);
});
