/**
 * Random graphs for CUDA where there is no GPU: every one is planned and its kernels are emitted, some are run on the CPU and compared with ONNX Runtime
 * without its own optimizer. PARTITA_EMITTED: how many graphs (default 400). PARTITA_EMULATED: how many of them run (default 60; they need a C++ compiler).
 * PARTITA_SEED: another series.
 */
import { expect, test } from "vitest";
import { type Planned, plan } from "../../src/compile.js";
import { check } from "../../src/partition/check.js";
import { generator } from "../../src/runtime/measure.js";
import { compareTensors } from "../support/compare.js";
import { emulationMissing, NotEmulated } from "../support/emulate.js";
import { BATCH } from "./builder.js";
import { drawnPins, emitted, runEmulated } from "./emulated.js";
import { randomGraph, TOLERANCE } from "./graphs.js";
import { referenceOf } from "./reference.js";

const total = Number(process.env["PARTITA_EMITTED"] ?? 400);
const run = emulationMissing === undefined ? Number(process.env["PARTITA_EMULATED"] ?? 60) : 0;
const series = Number(process.env["PARTITA_SEED"] ?? 2);

test(`${total} random graphs emitted for cuda, ${run} of them run on the CPU, series ${series}`, async () => {
  const failures: string[] = [];
  let [segments, kernels, compared, wild, passed, worst] = [0, 0, 0, 0, 0, 0];
  for (let i = 0; i < total; i++) {
    const seed = series * 1_000_000 + i;
    const { bytes, feeds, ops } = randomGraph(seed);
    const fail = (what: string): void => {
      failures.push(`graph ${seed}${what}; ${ops.join(" ")}`);
    };
    try {
      const planned = await planOf(bytes, generator(seed));
      check(planned.graph, planned.partition.segments);
      const sizes = new Map([[BATCH, Object.values(feeds)[0]?.dims[0] ?? 1]]);
      for (const s of planned.partition.segments) {
        segments++;
        if (s.engine === "cuda") kernels += emitted(planned, s, sizes).plan.operations.length;
      }
      if (Math.floor((i * run) / total) === Math.floor(((i + 1) * run) / total)) continue;
      const reference = await referenceOf(bytes, "", feeds, true, "disabled");
      if (
        "error" in reference ||
        Object.values(reference.results).some((t) => (t.data as Float32Array).some((x) => !(Math.abs(x) < 1e6)))
      ) {
        wild++;
        continue;
      }
      const found = await runEmulated(planned, feeds, sizes);
      for (const [name, expected] of Object.entries(reference.results)) {
        const actual = found.get(name);
        const c = actual === undefined ? undefined : compareTensors(actual, expected, TOLERANCE);
        if (c?.ok !== true) fail(`, '${name}': ${c?.message ?? "it is not there"}`);
        else worst = Math.max(worst, Math.min(c.relative, c.maxError));
      }
      compared++;
    } catch (error) {
      if (error instanceof NotEmulated) passed++;
      else fail(`: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  process.stdout.write(
    `\nrandom graphs emitted for cuda, series ${series}: ${total} graphs, ${segments} segments, ${kernels} launches; ${compared} run on the CPU, worst error ${worst.toExponential(1)}, ${wild} without a reference, ${passed} with kernels for a GPU alone; ${failures.length} failures\n${failures.slice(0, 20).join("\n")}\n`,
  );
  expect(failures).toEqual([]);
  expect(kernels).toBeGreaterThan(total);
  expect(compared).toBeGreaterThanOrEqual(0.7 * run);
});

async function planOf(bytes: Uint8Array, next: () => number): Promise<Planned> {
  const options = { target: "cuda", computeCapability: 9, minimumSegmentSize: 1 } as const;
  const first = await plan(bytes, options);
  const pin = drawnPins(
    first.report.toJSON().segments.flatMap((s) => (s.engine === "cuda" ? Object.keys(s.ops) : [])),
    next,
  );
  return pin.length === 0 ? first : await plan(bytes, { ...options, pin });
}
