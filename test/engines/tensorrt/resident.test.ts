/** Tensors that stay on the device between TensorRT and CUDA segments of one session, on stand-ins for both. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type CudaExecutable, openPlan } from "../../../src/engines/cuda/executable.js";
import { native } from "../../../src/engines/cuda/native.js";
import type { Executable } from "../../../src/engines/engine.js";
import { tensorrtEngine } from "../../../src/engines/tensorrt/index.js";
import { parse } from "../../../src/ir/parse.js";
import { Lane } from "../../../src/runtime/lane.js";
import type { Plan } from "../../../src/runtime/ports.js";
import { Session } from "../../../src/runtime/session.js";
import { Tensor } from "../../../src/tensor.js";
import { craftCubin, useFakeDriver } from "../../support/fake-cuda.js";
import { standInFolder } from "../../support/tensorrt-folder.js";
import { affinePlan } from "../cuda/plans.js";

const N = 12;
const sessionOf = (plan: Plan, executables: readonly Executable[]): Session => new Session(plan, [new Lane(plan, executables)]);
const noDriver = useFakeDriver({ memory: 256 << 20, devices: 2 });
const { folder: installed, missing: noLibrary } = standInFolder("11");
const missing = noDriver ?? noLibrary;

describe.skipIf(missing !== undefined)(`tensors on the device${missing === undefined ? "" : ` (skipped: ${missing})`}`, () => {
  const cache = mkdtempSync(join(tmpdir(), "partita-resident-"));
  const before = { ...process.env };
  beforeAll(() => {
    process.env["PARTITA_TENSORRT_DIR"] = installed;
    process.env["PARTITA_CACHE_DIR"] = cache;
  });
  afterAll(() => {
    process.env = before;
    rmSync(cache, { recursive: true, force: true });
  });

  /** y = relu(x) + x. */
  const trt = async (streams: number, device = 0): Promise<Executable> => {
    const g = parse(`graph "net" opset {"": 18} (%x: float32[${N}]) -> (%y) { %r = Relu(%x)\n %y = Add(%r, %x) }`);
    const artifact = await tensorrtEngine.build(g, { target: { sm: 90, tensorrt: 110_201, precision: "fp32" } });
    return await tensorrtEngine.open(artifact, { streams, threads: 1, device });
  };
  const weights = new Uint8Array(256 + N * 4);
  new Float32Array(weights.buffer, 256).set(Array.from({ length: N }, (_, i) => i));
  /** y = (a + i) * 2. */
  const cuda = async (streams: number): Promise<CudaExecutable> => await openPlan(affinePlan(N), [craftCubin()], weights, { streams });
  const expected = (x: readonly number[]): number[] => {
    const f = (v: number): number => Math.max(v, 0) + v;
    return x.map((v, i) => f((f(v) + i) * 2));
  };
  const numbers = (t: Tensor | undefined): number[] => (t?.data instanceof Float32Array ? [...t.data] : []);
  const port = (name: string) => ({ name, type: "float32", dims: [N] });
  const chain: Plan = {
    inputs: [port("x")],
    outputs: [port("y")],
    steps: [
      { segment: "tensorrt_0", inputs: ["x"], outputs: ["m"] },
      { segment: "cuda_1", inputs: ["m"], outputs: ["n"] },
      { segment: "tensorrt_2", inputs: ["n"], outputs: ["y"] },
    ],
    direct: {},
  };
  const feed = (seed: number): Tensor =>
    new Tensor(
      "float32",
      Float32Array.from({ length: N }, (_, i) => ((i * 5 + seed) % 9) - 4),
      [N],
    );

  it("no tensor between them is seen by the host; the values are right, run after run and many at once", async () => {
    const executables = [await trt(2), await cuda(2), await trt(2)];
    // Whoever is asked to run from the host alone was handed a tensor there.
    const guarded = executables.map(
      (e): Executable => ({
        ...e,
        run: () => Promise.reject(new Error("by way of the host")),
        runResident: (inputs, keep, options) => e.runResident?.(inputs, keep, options) ?? Promise.reject(new Error("not on the device")),
        dispose: () => e.dispose(),
      }),
    );
    const session = sessionOf(chain, guarded);
    for (let i = 0; i < 5; i++) expect(numbers((await session.run({ x: feed(i) }))["y"])).toEqual(expected(numbers(feed(i))));
    const many = await Promise.all(Array.from({ length: 100 }, (_, i) => session.run({ x: feed(i) })));
    many.forEach(({ y }, i) => expect([...(y as Tensor<"float32">).data]).toEqual(expected([...(feed(i).data as Float32Array)])));
    await session.dispose();
  });

  it("a tensor that the host reads too is fetched", async () => {
    const session = sessionOf({ ...chain, outputs: [port("y"), port("n")] }, [await trt(1), await cuda(1), await trt(1)]);
    const { y, n } = await session.run({ x: feed(1) });
    expect([...(y as Tensor<"float32">).data]).toEqual(expected([...(feed(1).data as Float32Array)]));
    expect(n?.dims).toEqual([N]);
    await session.dispose();
  });

  it("takes no memory with it, also where a step fails", async () => {
    const { addon } = native();
    const start = addon.live();
    for (let round = 0; round < 3; round++) {
      const failing: Executable = { ...(await trt(1)) };
      const last = await trt(1);
      const session = sessionOf(chain, [
        failing,
        await cuda(1),
        { ...last, runResident: () => Promise.reject(new Error("no")), dispose: () => last.dispose() },
      ]);
      for (let i = 0; i < 20; i++) await expect(session.run({ x: feed(i) })).rejects.toThrow("no");
      await session.dispose();
    }
    expect(addon.live()).toEqual(start);
  });

  it("feeds for which there is no memory leave those that came before as good as they were", async () => {
    const g = parse(`graph "net" opset {"": 18} (%x: float32[n]) -> (%y) { %r = Relu(%x)\n %y = Add(%r, %x) }`);
    const at = (n: number): ReadonlyMap<string, number> => new Map([["n", n]]);
    const ranges = { min: at(1), opt: at(N), max: at(2 ** 28) };
    const artifact = await tensorrtEngine.build(g, { target: { sm: 90, tensorrt: 110_201, precision: "fp32" }, ranges });
    const executable = await tensorrtEngine.open(artifact, { streams: 1, threads: 1 });
    const run = async (n: number): Promise<number[]> =>
      numbers((await executable.run([new Tensor("float32", new Float32Array(n).fill(1, 0, Math.min(n, N)), [n])]))[0]);
    expect(await run(N)).toEqual(new Array(N).fill(2));
    for (let i = 0; i < 2; i++) {
      await expect(run(90_000_000)).rejects.toThrow(/^P2104/);
      expect(await run(N)).toEqual(new Array(N).fill(2));
    }
    await executable.dispose();
  });
  it("a plan is opened on the device asked for", async () => {
    for (const device of [0, 1]) {
      const e = await trt(1, device);
      const [kept] = (await e.runResident?.([feed(1)], [true])) ?? [];
      if (kept === undefined || !("fetch" in kept)) throw new Error("it is not on the device");
      expect(kept.device).toBe(device);
      const relu = (v: number): number => Math.max(v, 0) + v;
      expect([...((await kept.fetch()).data as Float32Array)]).toEqual([...(feed(1).data as Float32Array)].map(relu));
      kept.release();
      await e.dispose();
    }
    await expect(trt(1, 5)).rejects.toMatchObject({ code: "P2103" });
  });

  it("an executable's own results stay as they are when the next run writes elsewhere", async () => {
    const e = await cuda(1);
    const [first] = (await e.runResident?.([feed(1)], [true])) ?? [];
    const [second] = (await e.runResident?.([feed(2)], [true])) ?? [];
    expect(first).not.toBe(second);
    const t = await trt(1);
    for (const [kept, seed] of [
      [first, 1],
      [second, 2],
    ] as const) {
      if (kept === undefined || !("release" in kept)) throw new Error("it is not on the device");
      const [y] = (await t.runResident?.([kept], [false])) ?? [];
      const f = (v: number): number => Math.max(v, 0) + v;
      expect([...((y as Tensor<"float32">).data as Float32Array)]).toEqual(
        [...(feed(seed).data as Float32Array)].map((v, i) => f((v + i) * 2)),
      );
      kept.release();
      kept.release();
    }
    await e.dispose();
    await t.dispose();
  });
});
