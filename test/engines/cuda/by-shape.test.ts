/** Segments of open dims: an executable per set of dims, on the host and on the device, and which of them stay open. */
import { describe, expect, it } from "vitest";
import { ByShape } from "../../../src/engines/cuda/by-shape.js";
import { openDevice } from "../../../src/engines/cuda/device.js";
import { type CudaExecutable, openPlan } from "../../../src/engines/cuda/executable.js";
import { native } from "../../../src/engines/cuda/native.js";
import type { DeviceTensor } from "../../../src/engines/engine.js";
import { Tensor } from "../../../src/tensor.js";
import { craftCubin, useFakeDriver } from "../../support/fake-cuda.js";
import { affinePlan, affineWeights } from "./plans.js";

const missing = useFakeDriver({ memory: 64 << 20 });
const cubin = craftCubin();
const input = (n: number): Tensor =>
  new Tensor(
    "float32",
    Float32Array.from({ length: n }, (_, i) => i % 97),
    [n],
  );
const expected = (n: number): number[] => Array.from({ length: n }, (_, i) => ((i % 97) + i) * 2);
const floats = (t: Tensor | DeviceTensor | undefined): number[] => {
  if (!(t instanceof Tensor)) throw new Error("it is not on the host");
  return Array.from(t.data as Float32Array);
};

function open(kept: number): { readonly e: ByShape; readonly made: number[] } {
  const made: number[] = [];
  const e = new ByShape(async (dims): Promise<CudaExecutable> => {
    const n = dims[0]?.[0] ?? 0;
    made.push(n);
    if (n === 13) throw new Error("13 cannot be made");
    return await openPlan(affinePlan(n), [cubin], affineWeights(n), { streams: 1 });
  }, kept);
  return { e, made };
}

describe.skipIf(missing !== undefined)(`open dims on a stand-in driver${missing === undefined ? "" : ` (skipped: ${missing})`}`, () => {
  const live = (): Record<string, number> => ({ ...native().addon.live() });

  it("makes what the dims ask for, once, and keeps the ones used last", async () => {
    const { e, made } = open(2);
    for (const n of [10, 20, 10, 30, 10, 20]) expect(floats((await e.run([input(n)]))[0])).toEqual(expected(n));
    // 30 took the place of 20, which came back; 10 was used in between.
    expect(made).toEqual([10, 20, 30, 20]);
    expect(live()["module"]).toBe(2);
    await e.dispose();
    expect(live()["device memory"]).toBe(0);
    await expect(e.run([input(10)])).rejects.toThrow("P2112");
  });

  it("more sets of dims at once than are kept: every run ends, those that wait too", async () => {
    const { e, made } = open(1);
    const sizes = [10, 20, 30, 10, 20, 30, 10, 20, 30];
    const results = await Promise.all(sizes.map((n) => e.run([input(n)])));
    results.forEach(([y], i) => expect(floats(y)).toEqual(expected(sizes[i] ?? 0)));
    expect(made).toEqual([10, 20, 30]);
    expect(live()["module"]).toBe(1);
    await e.dispose();
    expect(live()["module"]).toBe(0);
  });

  it("what cannot be made is said to all who asked, and tried again", async () => {
    const { e, made } = open(2);
    const both = await Promise.allSettled([e.run([input(13)]), e.run([input(13)])]);
    for (const r of both) expect(String(r.status === "rejected" ? r.reason : "resolved")).toBe("Error: 13 cannot be made");
    await expect(e.run([input(13)])).rejects.toThrow("13 cannot be made");
    expect(made).toEqual([13, 13]);
    expect(floats((await e.run([input(5)]))[0])).toEqual(expected(5));
    await e.dispose();
  });

  it("tensors stay on the device between runs of other dims, also when what made them is closed", async () => {
    const { e } = open(1);
    const { addon, context } = openDevice();
    const before = addon.memoryInfo(context).freeBytes;
    const [kept] = await e.runResident([input(40)], [true]);
    expect(kept instanceof Tensor).toBe(false);
    expect((kept as DeviceTensor).dims).toEqual([40]);
    // 50 takes the only place: the maker of the tensor is gone, its memory is not.
    await e.run([input(50)]);
    const [y] = await e.runResident([kept as DeviceTensor], [false]);
    expect(floats(y)).toEqual(expected(40).map((x, i) => (x + i) * 2));
    (kept as DeviceTensor).release();
    await expect(e.runResident([input(40), input(40)], [true])).rejects.toThrow("P2111 2 inputs were given");
    await e.dispose();
    expect(addon.memoryInfo(context).freeBytes).toBe(before);
  });

  it("times what it is given", async () => {
    const { e } = open(1);
    expect(await e.timeUs([input(7)])).toBe(500);
    await e.dispose();
  });
});
