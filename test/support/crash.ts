/** Kills a process that writes at random moments, and looks at what it left: the old state or the new one of everything, never half of one. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout } from "node:timers/promises";
import { expect } from "vitest";
import { native } from "../../src/engines/cuda/native.js";
import { DiskCache } from "../../src/engines/disk-cache.js";
import { load } from "../../src/index.js";
import { readNpz } from "../../src/npz.js";
import { readCalibration } from "../../src/quantize/calibration.js";
import { generator } from "../../src/runtime/measure.js";
import { Tensor } from "../../src/tensor.js";
import { compilerMissing } from "./cuda.js";
import { transpiled } from "./transpile.js";

export interface CrashOptions {
  readonly moments: number;
  readonly seed: number;
  /** Compiling for the cuda engine takes part, where there is a compiler. */
  readonly compile: boolean;
  /** Longest time from the first write to the end, in rounds of writing everything once, as long as a round takes on this machine. */
  readonly within: number;
}
/** What was seen after the kills, by kind. */
export interface Seen {
  readonly bundles: Set<number>;
  readonly calibrations: Set<string>;
  readonly feeds: Set<number>;
  entries: number;
}

/** `moments` processes one after another on the same folder, each killed; throws where one left half of something. */
export async function killed({ moments, seed, compile, within }: CrashOptions): Promise<Seen> {
  const folder = mkdtempSync(join(tmpdir(), "partita-crash-"));
  const random = generator(seed);
  const cuda = compile && compilerMissing === undefined;
  const js = cuda ? transpiled("kernels") : transpiled();
  const seen: Seen = { bundles: new Set(), calibrations: new Set(), feeds: new Set(), entries: 0 };
  try {
    const round = await one(js, folder, 0, cuda);
    for (let i = 1; i <= moments; i++) {
      await one(js, folder, i, cuda, random() * within * round);
      await look(folder, seen);
    }
    return seen;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A process that writes, from state `first` on, killed after so many milliseconds, or at the end of its first round. Gives the milliseconds that it wrote. */
async function one(js: string, folder: string, first: number, cuda: boolean, after?: number): Promise<number> {
  const script = join(import.meta.dirname, "crash-child.mjs");
  const child = spawn(process.execPath, [script, join(js, "src"), folder, String(first), cuda ? "1" : "0"], {
    stdio: ["ignore", "pipe", "inherit"],
    env: { ...process.env, PARTITA_CACHE_DIR: join(folder, "cache"), ...(cuda ? { PARTITA_NATIVE: native().path } : {}) },
  });
  const closed = once(child, "close");
  const said = createInterface(child.stdout)[Symbol.asyncIterator]();
  const next = async (): Promise<void> => {
    if ((await said.next()).done === true) throw new Error(`the process that writes ended by itself with ${(await closed)[0]}`);
  };
  await next();
  const start = performance.now();
  await (after === undefined ? next() : setTimeout(after));
  child.kill("SIGKILL");
  const end = performance.now();
  const [code] = (await closed) as [number | null];
  if (code !== null) throw new Error(`the process that writes ended by itself with ${code}`);
  return end - start;
}

async function look(folder: string, seen: Seen): Promise<void> {
  const bundle = join(folder, "net.partita");
  // The first kill may have come before anything was written.
  if (existsSync(bundle) || readdirSync(folder).some((n) => n.startsWith(".net.partita."))) {
    const began = existsSync(bundle);
    const program = await load(bundle).catch((error: unknown) => {
      // Nothing stood there, and the first save was not complete.
      if (seen.bundles.size === 0 && !began) return undefined;
      throw error;
    });
    if (program !== undefined) {
      const session = await program.createSession({ threads: 1 });
      const { y } = await session.run({ x: new Tensor("float32", new Float32Array(2048).fill(1), [32, 64]) });
      await session.dispose();
      const values = new Set(y?.data as Float32Array);
      expect([...values]).toHaveLength(1);
      const [value = Number.NaN] = values;
      expect([64, 128]).toContain(value);
      seen.bundles.add(value);
    }
  }
  const calibration = join(folder, "calibration.json");
  if (existsSync(calibration)) seen.calibrations.add(readCalibration(calibration).keys.model);
  const feeds = join(folder, "feeds.npz");
  if (existsSync(feeds)) {
    const values = new Set(readNpz(feeds).get("x")?.data as Float32Array);
    expect([...values]).toHaveLength(1);
    for (const v of values) seen.feeds.add(v as number);
  }
  for (const kind of ["entries", "cache/engines", "cache/kernels"]) {
    const cache = new DiskCache(join(folder, kind));
    for (const name of existsSync(cache.folder) ? readdirSync(cache.folder, { recursive: true }).map(String) : []) {
      const [, first = "", rest = ""] = /^([0-9a-f]{2})[\\/]([0-9a-f]{62})$/.exec(name) ?? [];
      if (rest === "") continue;
      expect(await cache.get(first + rest), `${kind}/${name}`).toBeDefined();
      seen.entries++;
    }
  }
}
