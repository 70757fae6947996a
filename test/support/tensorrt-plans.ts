/** Damaged plans: made, tried in child processes, put into bundles whose hashes are right. */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { addonPaths } from "../../src/engines/cuda/native.js";
import type { TensorRt } from "../../src/engines/tensorrt/native.js";
import { manifestHash } from "../../src/runtime/bundle.js";

/** The plan that `tryDamaged` tries as number `index` of the series `seed`. */
export const { damage: damagedPlan } = (await import(join(import.meta.dirname, "tensorrt-damage.mjs"))) as {
  readonly damage: (plan: Uint8Array, seed: number, index: number) => Uint8Array;
};

export interface Outcomes {
  /** How many ended in what. */
  readonly counts: Readonly<Record<string, number>>;
  /** Those that ended their process, with how; "hung: ..." where there was no outcome for so long that it was ended. */
  readonly deaths: readonly { readonly index: number; readonly how: string }[];
}
const BATCH = 250;

/**
 * Tries `count` damages of the plan; a child that dies is followed by one that goes on after what killed it. One that has told no outcome for
 * `quietMs`, its start included, is taken to hang.
 */
export async function tryDamaged(trt: TensorRt, plan: Uint8Array, count: number, seed: number, quietMs = 20_000): Promise<Outcomes> {
  const folder = mkdtempSync(join(tmpdir(), "partita-plans-"));
  const file = join(folder, "plan");
  writeFileSync(file, plan);
  const [addon = ""] = addonPaths();
  const counts: Record<string, number> = {};
  const deaths: { index: number; how: string }[] = [];
  const child = (from: number, to: number): Promise<{ readonly next: number; readonly how: string | undefined }> =>
    new Promise((resolve, reject) => {
      const args = [addon, trt.library, trt.family, file, seed, from, to].map(String);
      const p = spawn(process.execPath, [join(import.meta.dirname, "tensorrt-plans-child.mjs"), ...args], {
        stdio: ["ignore", "pipe", "pipe"],
      });
      let [text, said, next, hung] = ["", "", from, false];
      const timer = setTimeout(() => {
        hung = true;
        p.kill("SIGKILL");
      }, quietMs);
      p.stdout.on("data", (data: Buffer) => {
        text += data.toString();
        timer.refresh();
      });
      p.stderr.on("data", (data: Buffer) => {
        said = `${said}${data.toString()}`.slice(-1000);
      });
      p.once("error", reject);
      p.once("close", (code, signal) => {
        clearTimeout(timer);
        for (const line of text.split("\n").filter((l) => l !== "")) {
          const [index = "", outcome = ""] = line.split(" ");
          counts[outcome] = (counts[outcome] ?? 0) + 1;
          next = Number(index) + 1;
        }
        const end = hung ? `hung: no outcome in ${quietMs} ms` : `${signal ?? code}: ${said.trim()}`;
        resolve({ next, how: next >= to && code === 0 ? undefined : end });
      });
    });
  for (let from = 0; from < count; ) {
    const { next, how } = await child(from, Math.min(from + BATCH, count));
    if (how !== undefined) deaths.push({ index: next, how });
    from = how === undefined ? next : next + 1;
  }
  rmSync(folder, { recursive: true, force: true });
  return { counts, deaths };
}

/** Writes the bundle to another folder with another plan in its only TensorRT segment, and with the hashes that go with it; gives the folder back. */
export function withPlan(bundle: string, to: string, plan: Uint8Array): string {
  rmSync(to, { recursive: true, force: true });
  cpSync(bundle, to, { recursive: true });
  const path = join(to, "manifest.json");
  const manifest = JSON.parse(readFileSync(path, "utf8")) as {
    sha256: string;
    readonly artifacts: readonly {
      readonly files: readonly { readonly name: string; readonly path: string; bytes: number; sha256: string }[];
    }[];
  };
  const plans = manifest.artifacts.flatMap((a) => a.files).filter((f) => f.name === "engine.plan");
  const [file] = plans;
  if (file === undefined || plans.length !== 1) throw new Error(`'${bundle}' has ${plans.length} plans`);
  writeFileSync(join(to, file.path), plan);
  Object.assign(file, { bytes: plan.length, sha256: createHash("sha256").update(plan).digest("hex") });
  manifest.sha256 = manifestHash({ ...manifest });
  writeFileSync(path, JSON.stringify(manifest));
  return to;
}
