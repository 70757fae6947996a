/** Damaged plans, tried in child processes. */
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { addonPaths } from "../../src/engines/cuda/native.js";
import type { TensorRt } from "../../src/engines/tensorrt/native.js";

export interface Outcomes {
  /** How many ended in what. */
  readonly counts: Readonly<Record<string, number>>;
  /** Those that ended their process, with how. */
  readonly deaths: readonly { readonly index: number; readonly how: string }[];
}
const BATCH = 250;

/** Tries `count` damages of the plan; a child that dies is followed by one that goes on after what killed it. */
export async function tryDamaged(trt: TensorRt, plan: Uint8Array, count: number, seed: number): Promise<Outcomes> {
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
      const timer = setTimeout(() => p.kill("SIGKILL"), 120_000);
      let [text, said, next] = ["", "", from];
      p.stdout.on("data", (data: Buffer) => {
        text += data.toString();
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
        resolve({ next, how: next >= to && code === 0 ? undefined : `${signal ?? code}: ${said.trim()}` });
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
