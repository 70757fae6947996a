/** Latency and throughput of a program, and of bare onnxruntime-node on the same file in the same run, interleaved. */
import { performance } from "node:perf_hooks";
import { randomFeeds } from "./measure.js";
import type { Program } from "./program.js";

export interface BenchRow {
  readonly batch: number;
  readonly engine: "partita" | "onnxruntime-node";
  readonly itemsPerSecond: number;
  readonly p50Us: number;
  readonly p90Us: number;
  readonly p99Us: number;
  /** Highest resident memory of the process seen so far, bytes. */
  readonly peakBytes: number;
  readonly runs: number;
}

/** Times rounds of both in turn, so that drift of the machine meets both alike. `path`: the model for the bare run; undefined leaves it out. */
export async function benchmark(
  program: Program,
  path: string | undefined,
  batches: readonly number[],
  seconds: number,
  onProgress: (stage: string, fraction: number) => void,
): Promise<readonly BenchRow[]> {
  const rows: BenchRow[] = [];
  const session = await program.createSession();
  const ort = path === undefined ? undefined : await import("onnxruntime-node");
  const bare = ort === undefined || path === undefined ? undefined : await ort.InferenceSession.create(path);
  try {
    for (const [i, batch] of batches.entries()) {
      const feeds = randomFeeds(program.inputs, batch);
      const bareFeeds =
        ort === undefined
          ? undefined
          : Object.fromEntries(
              Object.entries(feeds).map(([name, t]) => [name, new ort.Tensor(t.type as "float32", t.data as Float32Array, t.dims)]),
            );
      const contenders: { readonly engine: BenchRow["engine"]; readonly run: () => Promise<unknown>; readonly times: number[] }[] = [
        { engine: "partita", run: () => session.run(feeds), times: [] },
      ];
      if (bare !== undefined && bareFeeds !== undefined)
        contenders.push({ engine: "onnxruntime-node", run: () => bare.run(bareFeeds), times: [] });
      for (const c of contenders) for (let k = 0; k < 10; k++) await c.run();
      const rounds = 10;
      for (let r = 0; r < rounds; r++) {
        onProgress(`batch ${batch}`, (i + r / rounds) / batches.length);
        for (const c of contenders) {
          const end = performance.now() + (seconds * 1000) / rounds;
          while (performance.now() < end) {
            const start = performance.now();
            await c.run();
            c.times.push(performance.now() - start);
          }
        }
      }
      for (const c of contenders) {
        const sorted = Float64Array.from(c.times).sort();
        const at = (q: number): number => 1000 * (sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? 0);
        const total = sorted.reduce((a, b) => a + b, 0);
        rows.push({
          batch,
          engine: c.engine,
          itemsPerSecond: (1000 * batch * sorted.length) / total,
          p50Us: at(0.5),
          p90Us: at(0.9),
          p99Us: at(0.99),
          peakBytes: process.resourceUsage().maxRSS * 1024,
          runs: sorted.length,
        });
      }
    }
    onProgress("done", 1);
  } finally {
    await session.dispose();
    await bare?.release();
  }
  return rows;
}
