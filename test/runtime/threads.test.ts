/** A session in each of several worker threads: one bundle, loaded there, on the host engine and on a stand-in for the GPU's driver. */
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import { expect, it } from "vitest";
import { compile } from "../../src/compile.js";
import { addonPaths } from "../../src/engines/cuda/native.js";
import { parse } from "../../src/ir/parse.js";
import { affinePlan } from "../engines/cuda/plans.js";
import { craftCubin, useFakeDriver } from "../support/fake-cuda.js";
import { transpiled } from "../support/transpile.js";

const THREADS = 4;
const N = 3;
const missing = useFakeDriver({ memory: 1 << 20 });
// The sources lie elsewhere for the threads, the addon does not.
process.env["PARTITA_NATIVE"] ??= addonPaths().find((path) => existsSync(path));

it(`${THREADS} threads load a bundle and run it at once${missing === undefined ? "" : ` (without kernels: ${missing})`}`, async () => {
  const scratch = mkdtempSync(join(tmpdir(), "partita-threads-"));
  try {
    const bundle = join(scratch, "net.partita");
    await (
      await compile(parse(`graph "g" opset {"": 18} (%x: float32[N, 3]) -> (%y) { %r = Relu(%x)\n %y = Add(%r, %x) }`), { target: "host" })
    ).save(bundle);
    const weights = new Uint8Array(256 + N * 4);
    new Float32Array(weights.buffer, 256).set([0, 1, 2]);
    const kernels = missing === undefined ? { plan: affinePlan(N), cubin: craftCubin(), weights } : {};
    const rows = (t: number): Float32Array[] => Array.from({ length: 20 }, (_, i) => Float32Array.of(i - 10, t, i * t));
    const folder = transpiled();
    const found = await Promise.all(
      Array.from(
        { length: THREADS },
        (_, t) =>
          new Promise<{ readonly answers: number[][]; readonly kernels: number[][] | undefined }>((resolve, reject) => {
            const worker = new Worker(join(import.meta.dirname, "../support/thread-child.mjs"), {
              workerData: { folder, bundle, rows: rows(t), ...kernels },
            });
            worker.once("message", resolve).once("error", reject);
          }),
      ),
    );
    for (const [t, { answers, kernels: launched }] of found.entries()) {
      expect(answers).toEqual(rows(t).map((r) => [...r].map((v) => Math.max(v, 0) + v)));
      if (missing === undefined) expect(launched).toEqual(rows(t).map((r) => [...r].map((v, i) => (v + i) * 2)));
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}, 120_000);
