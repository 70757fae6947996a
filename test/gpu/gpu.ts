/** What the GPU suites share: the device or why there is none, plans compiled for it, figures for the log. */
import { appendFileSync } from "node:fs";
import { join } from "node:path";
import { compileSource } from "../../src/engines/cuda/compiler.js";
import { type Device, gpuVerdict, openDevice } from "../../src/engines/cuda/device.js";
import { type CudaExecutable, type OpenPlanOptions, openPlan } from "../../src/engines/cuda/executable.js";
import type { KernelPlan } from "../../src/engines/cuda/plan.js";

const verdict = gpuVerdict();
/** PARTITA_REQUIRE_GPU=1 turns a missing GPU from a skip into a failure. */
if (!verdict.ok && process.env["PARTITA_REQUIRE_GPU"] === "1") throw new Error(`PARTITA_REQUIRE_GPU is set, and ${verdict.why}`);
export const gpuMissing: string | undefined = verdict.ok ? undefined : verdict.why;
export const needsGpu = (name: string): string => (gpuMissing === undefined ? name : `${name} (skipped: no GPU)`);

export const gpu = (): Device => openDevice();

/** The plan for this GPU: sources compiled for its architecture. */
export async function compiled(plan: KernelPlan): Promise<{ readonly plan: KernelPlan; readonly cubins: readonly Uint8Array[] }> {
  const { arch } = gpu();
  const made = await Promise.all(plan.sources.map((s) => compileSource(s.source, arch, { cache: false })));
  return { plan: { ...plan, arch }, cubins: made.map((m) => m.cubin) };
}
export async function openCompiled(
  plan: KernelPlan,
  weights: Uint8Array = new Uint8Array(0),
  options: OpenPlanOptions = {},
): Promise<CudaExecutable> {
  const c = await compiled(plan);
  return await openPlan(c.plan, c.cubins, weights, options);
}

/** A line for the log, and for figures.jsonl in the folder that OUT names. */
export function figure(name: string, values: Readonly<Record<string, number | string>>): void {
  const line = JSON.stringify({ name, ...values });
  console.log(`figure ${line}`);
  if (process.env["OUT"] !== undefined) appendFileSync(join(process.env["OUT"], "figures.jsonl"), `${line}\n`);
}
export const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1] ?? Number.NaN;
export const rounded = (x: number, digits = 2): number => Number(x.toFixed(digits));
