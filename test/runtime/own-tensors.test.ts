/** Tensors of a session's own, on two GPUs of the stand-in driver: pinned memory that is fed without a copy, and feeds on a GPU, whose runs go there. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { compile } from "../../src/compile.js";
import { openPlan } from "../../src/engines/cuda/executable.js";
import { native } from "../../src/engines/cuda/native.js";
import { parse } from "../../src/ir/parse.js";
import { Lane } from "../../src/runtime/lane.js";
import type { Plan, Port } from "../../src/runtime/ports.js";
import { Session } from "../../src/runtime/session.js";
import { Tensor } from "../../src/tensor.js";
import { affinePlan, affineWeights } from "../engines/cuda/plans.js";
import { craftCubin, useFakeDriver } from "../support/fake-cuda.js";

const missing = useFakeDriver({ memory: 64 << 20, devices: 2 });
const messageOf = async (work: () => unknown): Promise<string> => {
  try {
    await work();
    return "none";
  } catch (error) {
    return (error as Error).message;
  }
};
// More than the event loop copies itself.
const N = 300_001;
const port = (name: string): Port => ({ name, type: "float32", dims: [N] });
const plan: Plan = {
  inputs: [port("a")],
  outputs: [port("y"), port("same")],
  steps: [{ segment: "cuda_0", inputs: ["a"], outputs: ["y"] }],
  direct: { same: { input: "a" } },
};
const feed = (seed: number): Tensor<"float32"> =>
  new Tensor(
    "float32",
    new Float32Array(N).map((_, i) => (i + seed) % 97),
    [N],
  );
const right = (seed: number, y: Tensor | undefined): boolean =>
  y?.data instanceof Float32Array && y.data.every((v, i) => v === (((i + seed) % 97) + i) * 2);

describe.skipIf(missing !== undefined)(`on a stand-in driver${missing === undefined ? "" : ` (skipped: ${missing})`}`, () => {
  let session: Session;
  let lanes: Lane[];
  beforeAll(async () => {
    lanes = await Promise.all(
      [0, 1].map(async (device) => {
        const executable = await openPlan(affinePlan(N), [craftCubin()], affineWeights(N), { device, streams: 2 });
        return new Lane(plan, [executable], { engines: ["cuda"], device, streams: 2 });
      }),
    );
    session = new Session(plan, lanes);
  });
  afterAll(async () => {
    await session.dispose();
    expect(native().addon.live()).toMatchObject({ "device memory": 0, "pinned memory": 0, stream: 0, graph: 0 });
  });

  it("allocate: zeros in pinned memory, fed again and again as it is filled, empty once the session is over", async () => {
    const other = new Session(plan, lanes.slice(0, 0));
    await other.dispose();
    expect(await messageOf(() => other.allocate("float32", [1]))).toMatch(/^P3105/);
    const before = native().addon.live()["pinned memory"] as number;
    const a = session.allocate("float32", [N]);
    expect(native().addon.live()["pinned memory"]).toBe(before + 1);
    expect([a.type, a.dims, a.data.length, a.data.every((v) => v === 0)]).toEqual(["float32", [N], N, true]);
    for (const seed of [3, 50]) {
      a.data.set(feed(seed).data);
      const results = await Promise.all(Array.from({ length: 5 }, () => session.run({ a })));
      expect(results.every(({ y }) => right(seed, y))).toBe(true);
    }
    // Its memory goes with the session: nobody else may take it over.
    await messageOf(() => structuredClone(a.data, { transfer: [a.data.buffer as ArrayBuffer] }));
    expect(a.data.length).toBe(N);
    expect(session.allocate("int64", [2, 0]).data).toEqual(new BigInt64Array(0));
    expect(await messageOf(() => session.allocate("string" as never, [1]))).toMatch(/^P3130 the type of a tensor is string/);
    expect(await messageOf(() => session.allocate("float32", [-1, -4]))).toMatch(/^P3101/);
    expect(await messageOf(() => session.allocate("float32", [2 ** 30]))).toMatch(/^P2104/);
  });

  it("upload: runs go to the GPU that has the feed, results that are the feed come back", async () => {
    const [zero, one] = [await session.upload(feed(1)), await session.upload(feed(2), 1)];
    expect([zero.device, one.device, zero.type, zero.dims]).toEqual([0, 1, "float32", [N]]);
    const runs = lanes.map((l) => l.times[0]?.runs ?? 0);
    const results = await Promise.all(Array.from({ length: 6 }, (_, i) => session.run({ a: i < 2 ? zero : one })));
    expect(results.every(({ y }, i) => right(i < 2 ? 1 : 2, y))).toBe(true);
    expect(results[5]?.["same"]?.data).toEqual(feed(2).data);
    expect(lanes.map((l, i) => (l.times[0]?.runs ?? 0) - (runs[i] as number))).toEqual([2, 4]);
    zero.release();
    expect(await messageOf(() => session.run({ a: zero }))).toMatch(/^P3104 .*it is float32\[300001\] on a GPU, and was released/);
    expect(right(2, (await session.run({ a: one }, { outputs: ["y"] }))["y"])).toBe(true);
    expect(await messageOf(async () => session.run({ a: await session.upload(new Tensor("int32", [1], [1])) }))).toMatch(/^P3104 .*int32/);
  });
  it("upload: what cannot be", async () => {
    expect(await messageOf(() => session.upload(feed(1), 2))).toBe("P3130 the device of a tensor is 2. Give one of the session's: 0, 1.");
    expect(await messageOf(() => session.upload({ type: "string", data: ["a"], dims: [1] }))).toMatch(/^P3130 the type of a tensor/);
    expect(await messageOf(() => session.upload({ type: "float32", data: new Float32Array(2), dims: [3] }))).toMatch(/^P3101/);
    const lone = new Session(plan, lanes.slice(1));
    const there = await session.upload(feed(1), 0);
    expect(await messageOf(() => lone.run({ a: there }))).toMatch(
      /^P3104 .*it is on GPU 0, the graph takes what is on the host or on a GPU of the/,
    );
    there.release();
    const stream = session.stream({ carry: { a: "y" } });
    const far = await session.upload(feed(1), 1);
    expect(await messageOf(() => stream.run({ a: far }))).toMatch(/^P3104 .*it is on GPU 1, the graph takes all that is on a GPU on 0/);
    await stream.dispose();
  });
});

it("without a GPU: plain tensors, and nothing to upload to", async () => {
  const program = await compile(parse(`graph "g" opset {"": 18} (%x: float32[2]) -> (%y) { %y = Neg(%x) }`), { target: "host" });
  const session = await program.createSession({ threads: 1 });
  const x = session.allocate("float32", [2]);
  x.data.set([1, -2]);
  expect((await session.run({ x }))["y"]?.data).toEqual(Float32Array.of(-1, 2));
  expect(await messageOf(() => session.upload(x))).toMatch(/^P3130 the device of a tensor is to be a GPU, and the session uses none/);
  await session.dispose();
  expect(x.data.length).toBe(2);
});
