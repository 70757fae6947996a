/** Parts of the benchmark: the warm-up's rule, both kinds of load, accuracy, energy from a stand-in for NVML. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { native } from "../../src/engines/cuda/native.js";
import { accuracyOf, rowsOf } from "../../src/runtime/accuracy.js";
import { feedsFor } from "../../src/runtime/bench.js";
import { energyMeter } from "../../src/runtime/energy.js";
import { arrivals, underLoad } from "../../src/runtime/load.js";
import { generator } from "../../src/runtime/measure.js";
import { queueFull } from "../../src/runtime/queue.js";
import { mser5, warmUp } from "../../src/runtime/steady.js";
import { Tensor } from "../../src/tensor.js";
import { useFakeDriver } from "../support/fake-cuda.js";

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

describe("warm-up", () => {
  const noise = generator(3);
  const flat = (n: number, level = 1): number[] => Array.from({ length: n }, () => level + 0.2 * noise());
  it("is over at once where latencies are level, after the slow start where there is one, and not while they fall", () => {
    expect(mser5(flat(49))).toBeUndefined();
    expect(mser5(flat(200))).toBeLessThan(100);
    // 40 slow runs and few fast ones: the cut that is wanted lies behind the slow ones, in the second half.
    expect(mser5([...flat(40, 5), ...flat(30)])).toBeUndefined();
    const cut = mser5([...flat(40, 5), ...flat(200)]);
    expect(cut).toBeGreaterThanOrEqual(40);
    expect(cut).toBeLessThan(120);
    expect(mser5(Array.from({ length: 400 }, (_, i) => 400 - i))).toBeUndefined();
  });
  it("runs until the rule is met, or the time is over", async () => {
    let clock = 0;
    let runs = 0;
    const run = async (): Promise<void> => {
      clock += ++runs <= 30 ? 50 : 10 + (runs % 3);
    };
    const warm = await warmUp(run, 1000, () => clock);
    expect(warm.steady).toBe(true);
    expect(warm.runs).toBeGreaterThan(60);
    expect(warm.runs).toBeLessThan(300);
    const never = await warmUp(
      async () => void (clock += 1e6 / ++runs),
      5,
      () => clock,
    );
    expect(never.steady).toBe(false);
    expect(never.seconds).toBeGreaterThanOrEqual(5);
  });
});

describe("load", () => {
  it("arrivals are Poisson at the rate: mean gap, spread, and none after the end", () => {
    const due = arrivals(1000, 20_000, 7);
    expect(due.length).toBeGreaterThan(19_500);
    expect(due.length).toBeLessThan(20_500);
    const gaps = Array.from(due, (t, i) => t - (i === 0 ? 0 : (due[i - 1] as number)));
    const mean = gaps.reduce((a, b) => a + b, 0) / gaps.length;
    const deviation = Math.sqrt(gaps.reduce((a, g) => a + (g - mean) ** 2, 0) / gaps.length);
    expect(deviation / mean).toBeCloseTo(1, 1);
    expect(due.at(-1)).toBeLessThan(20_000);
    expect(arrivals(1000, 20_000, 7)).toEqual(due);
  });
  it("closed: so many at once, never more", async () => {
    let [now, most] = [0, 0];
    const run = async (): Promise<void> => {
      most = Math.max(most, ++now);
      await sleep(2);
      now--;
    };
    const { latencies, ms } = await underLoad(run, { kind: "closed", concurrency: 3 }, 40, 1);
    expect(most).toBe(3);
    expect(latencies.length).toBeGreaterThanOrEqual(6);
    expect(ms).toBeGreaterThanOrEqual(40);
  });
  it("open: a run that blocks the thread delays the clocks of those that were due meanwhile", async () => {
    let first = true;
    const run = async (): Promise<void> => {
      if (!first) return;
      first = false;
      const end = performance.now() + 100;
      while (performance.now() < end);
    };
    const { latencies } = await underLoad(run, { kind: "open", rate: 200 }, 300, 1);
    // About twenty were due in those 100 ms, ten at the least; measured from their calls all but the first would have taken no time.
    const late = latencies.filter((l) => l > 20).length;
    expect(late).toBeGreaterThanOrEqual(5);
    expect(Math.max(...latencies)).toBeGreaterThan(80);
  });
  it("open: refusals of a full queue are counted, other errors are not swallowed", async () => {
    let n = 0;
    const found = await underLoad(
      async () => {
        if (++n % 2 === 0) throw queueFull({ waiting: 1, maxQueue: 1 } as never);
      },
      { kind: "open", rate: 500 },
      100,
      2,
    );
    expect(found.refused).toBe(Math.floor(n / 2));
    expect(found.latencies.length + found.refused).toBe(n);
    await expect(underLoad(() => Promise.reject(new Error("broken")), { kind: "open", rate: 500 }, 20, 3)).rejects.toThrow("broken");
  });
});

describe("accuracy", () => {
  const inputs = [{ name: "x", type: "float32", dims: ["N", 2] }];
  const x = new Tensor("float32", [1, 0, 0, 1, 1, 0, 0, 1, 0, 1], [5, 2]);
  const scores = async (feeds: Record<string, Tensor>): Promise<Tensor> => feeds["x"] as Tensor;
  const labels = (...list: number[]): Tensor => new Tensor("int32", list, [list.length]);
  it("counts the rows whose largest score is the label's, in batches, with Wilson's interval", async () => {
    const found = await accuracyOf(inputs, { x }, labels(0, 1, 0, 1, 0), 2, scores);
    expect(found).toMatchObject({ share: 0.8, rows: 5 });
    // Wilson (1927) for 4 of 5: 0.3755 to 0.9638.
    expect(found).toMatchObject({ low: expect.closeTo(0.3755, 3), high: expect.closeTo(0.9638, 3) });
  });
  it("fills up the last run of a fixed batch, and takes classes as they are", async () => {
    const sizes: unknown[] = [];
    const fixed = [{ name: "x", type: "float32", dims: [3, 2] }];
    const found = await accuracyOf(fixed, { x }, labels(0, 1, 0, 1, 1), 7, async (feeds) => {
      sizes.push(feeds["x"]?.dims);
      const d = feeds["x"]?.data as Float32Array;
      return new Tensor(
        "int64",
        Array.from({ length: 3 }, (_, r) => ((d[2 * r + 1] as number) > 0.5 ? 1n : 0n)),
        [3],
      );
    });
    expect(sizes).toEqual([
      [3, 2],
      [3, 2],
    ]);
    expect(found).toMatchObject({ share: 1, rows: 5 });
  });
  it("says why there is no figure", async () => {
    expect(await accuracyOf(inputs, { x }, labels(1, 1), 2, scores)).toEqual({ missing: "there are 2 labels, and input 'x' has 5 rows" });
    expect(await accuracyOf(inputs, { x }, labels(0, 1, 0, 1, 1), 2, async () => new Tensor("float32", [1], [1]))).toEqual({
      missing: "the first output is no row of scores for each row of feeds: float32[1]",
    });
  });
  it("rows are cut, and repeated past the end; feeds fill the batch", () => {
    expect(Array.from(rowsOf(x, 3, 4).data as Float32Array)).toEqual([0, 1, 0, 1, 1, 0, 0, 1]);
    expect(feedsFor(inputs, 7, { x })["x"]?.dims).toEqual([7, 2]);
    expect(feedsFor([{ name: "x", type: "float32", dims: ["N", "T"] }], 4, undefined)["x"]?.dims).toEqual([4, 1]);
  });
});

const folder = mkdtempSync(join(tmpdir(), "partita-nvml-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const library = join(folder, "libnvidia-ml.so.1");
const source = join(dirname(fileURLToPath(import.meta.url)), "../support/fake-nvml.c");
const noCompiler =
  useFakeDriver() ??
  (spawnSync("cc", ["-shared", "-fPIC", "-o", library, source]).status === 0 ? undefined : "the stand-in does not compile");

describe.skipIf(noCompiler !== undefined)(`energy${noCompiler === undefined ? "" : ` (skipped: ${noCompiler})`}`, () => {
  it("says why there is none: no library, one that does not start, a GPU that tells nothing", () => {
    process.env["PARTITA_NVML"] = join(folder, "nothing.so");
    expect(energyMeter()).toEqual({ missing: expect.stringMatching(/^NVML: .*nothing\.so/) });
    process.env["PARTITA_NVML"] = library;
    process.env["FAKE_NVML"] = "broken";
    expect(energyMeter()).toEqual({ missing: "NVML: Driver Not Loaded" });
    process.env["FAKE_NVML"] = "none";
    expect(energyMeter()).toEqual({ missing: "NVML: Not Supported; power: Not Supported" });
  });
  it.each([
    ["", "NVML's energy counter"],
    ["power", "NVML's power, sampled every 20 ms"],
  ])("tells the joules of 200 W (%s)", async (mode, how) => {
    process.env["FAKE_NVML"] = mode;
    const meter = energyMeter();
    if (!("start" in meter)) throw new Error(meter.missing);
    expect(meter.how).toBe(how);
    const [from, stop] = [performance.now(), meter.start()];
    await sleep(150);
    const joules = stop();
    const seconds = (performance.now() - from) / 1000;
    expect(joules / seconds).toBeGreaterThan(180);
    expect(joules / seconds).toBeLessThan(220);
  });
  it("reads memory, and refuses a GPU it does not know", () => {
    expect(native().addon.nvmlRead("0000:00:00.0")).toMatchObject({ usedBytes: 400, refused: {} });
    expect(() => native().addon.nvmlRead("0000:ff:00.0")).toThrow("Not Found");
  });
});
