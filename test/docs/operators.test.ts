/** docs/operators.md is what the registries say. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { file, page } from "../../scripts/operators.mjs";
import { allOps } from "../../src/ops/registry.js";
import { allTfOps } from "../../src/ops/tf/registry.js";

const root = join(import.meta.dirname, "../..");

it("is what scripts/operators.mjs makes (run `npm run docs`)", () => {
  expect(readFileSync(join(root, file), "utf8")).toBe(page(allOps(), allTfOps()));
});

it("names every operator once, with an answer of each engine", () => {
  const text = readFileSync(join(root, file), "utf8");
  for (const def of allOps()) {
    const rows = text
      .split("\n")
      .filter((line) => line.startsWith(`| \`${def.name}\` | ${def.doc.replaceAll("|", "\\|").replaceAll("<", "&lt;")}`));
    expect(rows.length, def.name).toBe(1);
    expect(rows[0]?.match(/ \| (yes|no)(:|\b)/g)?.length, def.name).toBeGreaterThanOrEqual(2);
  }
});
