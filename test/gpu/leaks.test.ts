/** Nothing grows: 10,000 runs, 100 rounds of loading and disposing. */
import { describe, expect, it } from "vitest";
import { openPlan } from "../../src/engines/cuda/executable.js";
import { native } from "../../src/engines/cuda/native.js";
import { Tensor } from "../../src/tensor.js";
import { affinePlan, affineWeights } from "../engines/cuda/plans.js";
import { compiled, figure, gpu, gpuMissing, needsGpu } from "./gpu.js";

const MiB = 2 ** 20;
const free = (): number => gpu().freeBytes ?? 0;
const resident = (): number => {
  globalThis.gc?.();
  return process.memoryUsage().rss;
};

describe.skipIf(gpuMissing !== undefined)(needsGpu("leaks"), () => {
  const n = 40_000;
  const input = [new Tensor("float32", new Float32Array(n).fill(1), [n])];

  it("10,000 runs take no memory of the GPU and none of the host", async () => {
    const c = await compiled(affinePlan(n));
    const e = await openPlan(c.plan, c.cubins, affineWeights(n), { streams: 2 });
    const runs = async (count: number): Promise<void> => {
      for (let i = 0; i < count; i += 4) await Promise.all([e.run(input), e.run(input), e.run(input), e.run(input)]);
    };
    await runs(2000);
    const before = { free: free(), resident: resident(), live: native().addon.live() };
    await runs(10_000);
    const after = { free: free(), resident: resident() };
    figure("10,000 runs", { gpuBytes: before.free - after.free, hostMiB: Math.round((after.resident - before.resident) / MiB) });
    expect(native().addon.live()).toEqual(before.live);
    // 210 bytes a run would show.
    expect(before.free - after.free).toBeLessThan(2 * MiB);
    // 10,000 results of 160 kB would be 1.6 GB; a collector that is late leaves some.
    expect(after.resident - before.resident).toBeLessThan(200 * MiB);
    await e.dispose();
  });
  it("100 rounds of load, run and dispose leave nothing", async () => {
    const c = await compiled(affinePlan(n));
    const round = async (): Promise<void> => {
      const e = await openPlan(c.plan, c.cubins, affineWeights(n), { streams: 2 });
      await Promise.all([e.run(input), e.run(input), e.run(input)]);
      await e.timeGraph({ samples: 2 });
      await e.profile({ samples: 1, repeats: 2 });
      await e.dispose();
    };
    for (let i = 0; i < 10; i++) await round();
    const before = { free: free(), resident: resident(), live: native().addon.live() };
    for (let i = 0; i < 100; i++) await round();
    const after = { free: free(), resident: resident() };
    figure("100 rounds", { gpuBytes: before.free - after.free, hostMiB: Math.round((after.resident - before.resident) / MiB) });
    expect(native().addon.live()).toEqual(before.live);
    // The driver keeps small pools of its own; what a round allocates would show as 100 times as much.
    expect(before.free - after.free).toBeLessThanOrEqual(4 * MiB);
    expect(after.resident - before.resident).toBeLessThan(200 * MiB);
  });
});
