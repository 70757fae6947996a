/** Sessions on two GPUs of the stand-in driver, in a process that must end by itself; what crosses to each is larger than the event loop copies. */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { addonPaths } from "../../src/engines/cuda/native.js";
import { affinePlan, affineWeights } from "../engines/cuda/plans.js";
import { craftCubin, useFakeDriver } from "../support/fake-cuda.js";
import { transpiled } from "../support/transpile.js";

const missing = useFakeDriver({ memory: 256 << 20, devices: 2 });
const native = process.env["PARTITA_NATIVE"] ?? addonPaths().find((path) => existsSync(path));

it.skipIf(missing !== undefined)(
  `one device, both, one again: right, released, over${missing === undefined ? "" : ` (${missing})`}`,
  () => {
    // A little more than a megabyte.
    const n = 270_000;
    const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString("base64");
    const child = spawnSync(process.execPath, [join(import.meta.dirname, "../support/devices-child.mjs"), transpiled()], {
      encoding: "utf8",
      // Fewer threads than runs: those of one device must not keep the other's from ending.
      env: { ...process.env, PARTITA_NATIVE: native, UV_THREADPOOL_SIZE: "2" },
      input: JSON.stringify({ plan: affinePlan(n), cubin: base64(craftCubin()), weights: base64(affineWeights(n)) }),
      timeout: 60_000,
      killSignal: "SIGKILL",
    });
    expect(child.stderr).toBe("");
    expect([child.signal, child.status]).toEqual([null, 0]);
    const found = JSON.parse(child.stdout);
    expect(found).toMatchObject({ wrong: 0, held: [0, 0, 0] });
    // Callers' runs, of each other caller one called off; one stream a device; the last six.
    expect(found.right + found.cancelled).toBe(4 * 6 * 4 + 4 + 3 * 6);
    expect(found.cancelled).toBe(2 + 4 + 2);
    const [, both] = found.runs;
    expect(Math.min(...both)).toBeGreaterThan(10);
  },
  90_000,
);
