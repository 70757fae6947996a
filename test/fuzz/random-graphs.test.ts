/**
 * Random graphs against ONNX Runtime without its own optimizer: whatever the passes, the partitioner and an engine make of them, the results are
 * the same. PARTITA_GRAPHS: how many (default 1,500). PARTITA_SEED: another series. PARTITA_TARGET: the engine (default host; cuda needs a GPU).
 */
import { expect, test } from "vitest";
import { compile } from "../../src/compile.js";
import { generator } from "../../src/runtime/measure.js";
import type { Program } from "../../src/runtime/program.js";
import type { Tensor } from "../../src/tensor.js";
import { compareTensors } from "../support/compare.js";
import { drawnPins } from "./emulated.js";
import { randomGraph, TOLERANCE } from "./graphs.js";
import { referenceOf } from "./reference.js";

const total = Number(process.env["PARTITA_GRAPHS"] ?? 1_500);
const series = Number(process.env["PARTITA_SEED"] ?? 1);
const target = (process.env["PARTITA_TARGET"] ?? "host") as "host" | "cuda";

test(`${total} random graphs on ${target}, series ${series}`, async () => {
  const failures: string[] = [];
  const refused: number[] = [];
  const seen = new Map<string, number>();
  let [compared, wild, worst] = [0, 0, 0];
  for (let i = 0; i < total; i++) {
    const seed = series * 1_000_000 + i;
    const { bytes, feeds, ops } = randomGraph(seed);
    const reference = await referenceOf(bytes, "", feeds, true, "disabled");
    if ("error" in reference) {
      // ONNX Runtime now and then loses a value that a body reads from outside; there is nothing to compare with then.
      refused.push(seed);
      continue;
    }
    const expected = reference.results;
    // Powers of powers overflow now and then: there is nothing to compare then.
    if (Object.values(expected).some((t) => (t.data as Float32Array).some((x) => !(Math.abs(x) < 1e6)))) {
      wild++;
      continue;
    }
    try {
      const session = await (await compiled(bytes, generator(seed))).createSession();
      try {
        const actual = await session.run(feeds);
        for (const [name, t] of Object.entries(expected)) {
          const c = compareTensors(actual[name] as Tensor, t, TOLERANCE);
          if (!c.ok) failures.push(`graph ${seed}, '${name}': ${c.message}; ${ops.join(" ")}`);
          else worst = Math.max(worst, Math.min(c.relative, c.maxError));
        }
      } finally {
        await session.dispose();
      }
    } catch (error) {
      failures.push(`graph ${seed}: ${error instanceof Error ? error.message : String(error)}; ${ops.join(" ")}`);
    }
    compared++;
    for (const op of ops) seen.set(op, (seen.get(op) ?? 0) + 1);
  }
  process.stdout.write(
    `\nrandom graphs, ${target}, series ${series}: ${compared} compared, ${wild} overflowed, ${refused.length} refused by ONNX Runtime (${refused.slice(0, 5)}), ${seen.size} operators, worst error ${worst.toExponential(1)}, ${failures.length} failures\n${failures.slice(0, 20).join("\n")}\n`,
  );
  expect(failures).toEqual([]);
  expect(compared).toBeGreaterThan(0.8 * total);
  expect(seen.size).toBeGreaterThan(Math.min(50, total / 4));
});

/** With an engine, an operator or two of half of the graphs stay on the host, which cuts them into segments. */
async function compiled(bytes: Uint8Array, next: () => number): Promise<Program> {
  if (target === "host") return await compile(bytes, { target });
  const options = { target, tune: "none", minimumSegmentSize: 1 } as const;
  const program = await compile(bytes, options);
  const pin = drawnPins(
    program.report.toJSON().segments.flatMap((s) => (s.engine === target ? Object.keys(s.ops) : [])),
    next,
  );
  return pin.length === 0 ? program : await compile(bytes, { ...options, pin });
}
