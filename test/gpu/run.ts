/** A graph through the emitter and the GPU, noted in the ledger. */
import { compileSource } from "../../src/engines/cuda/compiler.js";
import { openPlan } from "../../src/engines/cuda/executable.js";
import { type LowerOptions, lower, type Problem } from "../../src/engines/cuda/lower.js";
import { a100, type DeviceModel, h200 } from "../../src/engines/cuda/templates/index.js";
import type { Graph } from "../../src/ir/types.js";
import type { Tensor, TensorLike } from "../../src/tensor.js";
import { compareTensors } from "../support/compare.js";
import { note, templateOf } from "../support/ledger.js";
import { gpu } from "./gpu.js";

/** Allowed error as a share of the largest value: rounding of the arithmetic, times what a few operations add up. */
export const tolerance = { fp32: 1e-5, tf32: 2e-3, fp16: 2e-3, bf16: 1.6e-2 } as const;
const limits = { ...tolerance, int8: 0 } as const;
export type Precision = keyof typeof tolerance;

export const device = (): DeviceModel => {
  const { sm } = gpu().properties;
  return sm === 90 ? h200 : { ...a100, arch: `sm_${sm}` };
};

/** Values, and what is wrong with them. Throws what the engine throws. */
export async function onGpu(
  graph: Graph,
  inputs: readonly TensorLike[],
  expected: readonly Tensor[],
  precision: keyof typeof limits,
  options: Partial<LowerOptions> = {},
): Promise<{ readonly wrong: string | undefined; readonly relative: number; readonly templates: readonly string[] }> {
  const { plan, weights } = lower(graph, { precision, device: device(), ...options });
  const cubins = await Promise.all(plan.sources.map((s) => compileSource(s.source, plan.arch, { name: s.kernels[0] ?? "kernels" })));
  const executable = await openPlan(
    plan,
    cubins.map((c) => c.cubin),
    weights,
    { streams: 1 },
  );
  let relative = 0;
  let wrong: string | undefined;
  try {
    const found = await executable.run(inputs);
    for (const [i, e] of expected.entries()) {
      const result = compareTensors(found[i] as Tensor, e, { rtolOfMax: limits[precision] });
      if (!result.ok) wrong ??= `output ${i}: ${result.message}`;
      else relative = Math.max(relative, result.relative);
    }
  } finally {
    await executable.dispose();
  }
  if (wrong === undefined) note(plan.sources, precision, relative);
  return { wrong, relative, templates: plan.sources.map((s) => templateOf(s.source)) };
}

/** For each template that can compute the graph's products, which tactic to pick. */
export function ways(graph: Graph, precision: keyof typeof limits): ReadonlyMap<string, ReadonlyMap<string, number>> {
  const problems: Problem[] = [];
  lower(graph, { precision, device: device(), onProblem: (p) => problems.push(p) });
  const found = new Map<string, Map<string, number>>();
  for (const p of problems)
    p.tactics.forEach((t, i) => {
      // Split sums are a way of their own.
      const name = `${t.template}${"split" in t && t.split > 1 ? ` ${t.reduce}` : ""}`;
      const picks = found.get(name) ?? new Map<string, number>();
      if (!picks.has(p.key)) picks.set(p.key, i);
      found.set(name, picks);
    });
  return found.size === 0 ? new Map([["", new Map()]]) : found;
}

/** Runs tasks, `width` of them at a time: compilers work side by side. */
export async function pooled<T>(items: readonly T[], width: number, task: (item: T) => Promise<void>): Promise<void> {
  const queue = [...items];
  await Promise.all(
    Array.from({ length: width }, async () => {
      for (let item = queue.shift(); item !== undefined; item = queue.shift()) await task(item);
    }),
  );
}
