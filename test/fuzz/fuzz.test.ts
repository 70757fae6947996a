/**
 * Mutated models and bundles: each gives a coded error or a right result. No crash, no hang, no memory beyond 1 GiB, nothing written elsewhere.
 * PARTITA_FUZZ: how many models and TensorFlow models (a fifth as many bundles; default 10,000 and 2,000). PARTITA_SEED: another series (default 1).
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { fuzz, MEMORY_LIMIT, summary } from "./harness.js";

const count = Number(process.env["PARTITA_FUZZ"] ?? 10_000);
const seed = Number(process.env["PARTITA_SEED"] ?? 1);
const data = process.env["PARTITA_TEST_DATA"];

test.each([
  ["models", count],
  ["tensorflow", count],
  ["bundles", Math.ceil(count / 5)],
] as const)("mutated %s", async (kind, n) => {
  const result = await fuzz({
    kind,
    count: n,
    seed,
    processes: 2,
    ...(kind !== "bundles" && data !== undefined && data !== "" ? { data } : {}),
  });
  const text = summary(result);
  process.stdout.write(`\nmutated ${kind}, seed ${seed}: ${text}\n`);
  const folder = join(import.meta.dirname, "../../.cache/fuzz");
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, `${kind}.txt`), `${text}\n`);
  expect(result.failures, text).toEqual([]);
  // Known: ONNX Runtime's threads now and then bring a process down after a run was abandoned. Rare, or something is new.
  expect(result.deaths.length, text).toBeLessThan(Math.max(3, n / 1000));
  expect([...result.counts.values()].reduce((a, b) => a + b, 0)).toBe(n);
  expect(result.hungriest?.peak ?? 0).toBeLessThan(MEMORY_LIMIT);
  // Mutations that all ended one way would prove nothing.
  expect(result.counts.get("equal") ?? 0).toBeGreaterThan(n / 50);
  expect(result.counts.size).toBeGreaterThan(5);
});
