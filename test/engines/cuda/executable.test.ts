/** The executable over the stand-in driver: everything but real kernels. What only a GPU can show is in test/gpu. */
import { afterEach, describe, expect, it } from "vitest";
import { openDevice } from "../../../src/engines/cuda/device.js";
import { type CudaExecutable, openPlan } from "../../../src/engines/cuda/executable.js";
import { native } from "../../../src/engines/cuda/native.js";
import type { KernelPlan, Buffer as PlanBuffer } from "../../../src/engines/cuda/plan.js";
import { Tensor } from "../../../src/tensor.js";
import { craftCubin, useFakeDriver } from "../../support/fake-cuda.js";
import { affinePlan, affineWeights, launchOf } from "./plans.js";

const missing = useFakeDriver({ memory: 64 << 20 });
const cubin = craftCubin();
const N = 1000;
const input = (n = N): Tensor =>
  new Tensor(
    "float32",
    Float32Array.from({ length: n }, (_, i) => i % 97),
    [n],
  );
const expected = (n = N): number[] => Array.from({ length: n }, (_, i) => ((i % 97) + i) * 2);

const opened: CudaExecutable[] = [];
async function open(plan: KernelPlan = affinePlan(N), weights = affineWeights(N), options = {}): Promise<CudaExecutable> {
  const e = await openPlan(plan, [cubin], weights, options);
  opened.push(e);
  return e;
}
/** A plan of one kernel over one arena buffer. */
const single = (kernel: string, change: Partial<KernelPlan> = {}): KernelPlan =>
  affinePlan(N, {
    inputs: [],
    outputs: [],
    buffers: [{ kind: "arena", offset: 0, bytes: 256 }],
    arenaBytes: 256,
    weightsBytes: 0,
    operations: [launchOf({ kernel, args: [{ kind: "buffer", buffer: 0, offset: 0 }], nodes: ["/n1", "/n2"] })],
    sources: [{ kernels: [kernel], source: "" }],
    ...change,
  });
function floats(t: Tensor | undefined): Float32Array {
  if (!(t?.data instanceof Float32Array)) throw new Error(`expected floats, got ${t?.type}`);
  return t.data;
}
const live = (): Record<string, number> => ({ ...native().addon.live() });
const nothing = (): Record<string, number> => ({
  context: 1,
  module: 0,
  function: 0,
  "device memory": 0,
  "pinned memory": 0,
  stream: 0,
  event: 0,
  graph: 0,
  "device bytes": 0,
});

describe.skipIf(missing !== undefined)(`executable on a stand-in driver${missing === undefined ? "" : ` (skipped: ${missing})`}`, () => {
  afterEach(async () => {
    await Promise.all(opened.splice(0).map((e) => e.dispose()));
    expect(live()).toMatchObject(nothing());
  });

  it("computes, with weights, arena, clears and dependent launches", async () => {
    const e = await open();
    const [y] = await e.run([input()]);
    expect(y?.type).toBe("float32");
    expect(y?.dims).toEqual([N]);
    expect(Array.from(floats(y))).toEqual(expected());
    expect(e.device).toMatchObject({ name: "Fake GPU 0", sm: 90, ordinal: 0 });
    expect(e.memory).toEqual({ weights: 256 + 4 * N, arena: 512 + 4 * N, ports: 8 * N, pinned: 8192 });
    expect([...e.kernels.keys()]).toEqual(["add", "scale"]);
  });
  it("results do not share memory, and inputs may be views, arrays of numbers, shared memory", async () => {
    const e = await open();
    const wide = new Float32Array(N + 10);
    wide.set(input().data as Float32Array, 5);
    const shared = new Float32Array(new SharedArrayBuffer(4 * N));
    shared.set(input().data as Float32Array);
    const [a] = await e.run([{ type: "float32", dims: [N], data: wide.subarray(5, 5 + N) }]);
    const [b] = await e.run([{ type: "float32", dims: [N], data: Array.from(input().data as Float32Array) }]);
    const [c] = await e.run([{ type: "float32", dims: [N], data: shared }]);
    for (const t of [a, b, c]) expect(Array.from(floats(t))).toEqual(expected());
    expect(floats(a).buffer).not.toBe(floats(b).buffer);
  });
  it("tensors larger than what the event loop copies itself go another way to the same end", async () => {
    const n = 600_000;
    const e = await open(affinePlan(n), affineWeights(n), { streams: 2 });
    const results = await Promise.all(Array.from({ length: 5 }, () => e.run([input(n)])));
    for (const [y] of results)
      expect(Buffer.compare(Buffer.from(floats(y).buffer), Buffer.from(Float32Array.from(expected(n)).buffer))).toBe(0);
    const shared = new Float32Array(new SharedArrayBuffer(4 * n));
    const [zero] = await e.run([{ type: "float32", dims: [n], data: shared }]);
    expect(floats(zero)[n - 1]).toBe((n - 1) * 2);
  });
  it("large inputs cross in pieces while the next are staged, from plain, pinned and the device's memory alike", async () => {
    // A little more than two of the rings that pieces go through, so that every place of them is used again.
    const n = 2_400_000 + 7;
    const e = await open(affinePlan(n), affineWeights(n));
    const { addon, context } = openDevice();
    const data = new Float32Array(n).map((_, i) => (i * 7) % 1009);
    const right = (y: Tensor | undefined): boolean => floats(y).every((v, i) => v === (((i * 7) % 1009) + i) * 2);
    expect(right((await e.run([new Tensor("float32", data, [n])]))[0])).toBe(true);
    const { handle, buffer } = addon.hostAlloc(context, 4 * n + 64);
    const pinned = new Float32Array(buffer, 64, n);
    pinned.set(data);
    const running = e.run([new Tensor("float32", pinned, [n])]);
    await new Promise(setImmediate);
    expect(() => addon.release(handle)).toThrow("the pinned memory is in use by a run");
    expect(right((await running)[0])).toBe(true);
    addon.release(handle);
    // A run whose parts are told, and the timing of its copies, have all of it in pinned memory.
    expect(right((await e.run([new Tensor("float32", data, [n])], { phases: [] }))[0])).toBe(true);
    expect((await e.timeGraph({ inputs: [new Tensor("float32", data, [n])], copies: true, samples: 1 })).median).toBeGreaterThan(0);
  });
  it("has scalars, empty tensors, every host type, no inputs, outputs that are weights or inputs", async () => {
    const e = await openPlan(
      affinePlan(N, {
        inputs: [
          { name: "half", dtype: "float16", dims: [2, 2], buffer: 0 },
          { name: "flag", dtype: "bool", dims: [], buffer: 1 },
          { name: "long", dtype: "int64", dims: [2], buffer: 2 },
          { name: "empty", dtype: "float32", dims: [0, 3], buffer: 3 },
        ],
        outputs: [
          { name: "half2", dtype: "float16", dims: [4], buffer: 0 },
          { name: "flag2", dtype: "bool", dims: [], buffer: 1 },
          { name: "long2", dtype: "int64", dims: [2], buffer: 2 },
          { name: "empty2", dtype: "float32", dims: [0, 3], buffer: 3 },
          { name: "w", dtype: "float32", dims: [3], buffer: 4 },
        ],
        buffers: [
          ...[8, 1, 16, 0].map((bytes): PlanBuffer => ({ kind: "input", offset: 0, bytes })),
          { kind: "weights", offset: 256, bytes: 12 },
        ],
        operations: [launchOf({ kernel: "none" })],
        sources: [{ kernels: ["none"], source: "" }],
      }),
      [cubin],
      affineWeights(N),
    );
    opened.push(e);
    const out = await e.run([
      new Tensor("float16", Uint16Array.of(1, 2, 3, 65535), [2, 2]),
      new Tensor("bool", Uint8Array.of(1), []),
      new Tensor("int64", BigInt64Array.of(-1n, 2n ** 62n), [2]),
      new Tensor("float32", new Float32Array(0), [0, 3]),
    ]);
    expect(out.map((t) => [t.type, t.dims, Array.from(t.data as Float32Array)])).toEqual([
      ["float16", [4], [1, 2, 3, 65535]],
      ["bool", [], [1]],
      ["int64", [2], [-1n, 2n ** 62n]],
      ["float32", [0, 3], []],
      ["float32", [3], [0, 1, 2]],
    ]);
    const bare = await open(
      affinePlan(N, { inputs: [], outputs: [], operations: [], sources: [], buffers: [], arenaBytes: 0, weightsBytes: 0 }),
      new Uint8Array(0),
    ).catch((error) => error);
    expect(String(bare)).toContain("P2108 the kernel plan is not sound: it has 0 sources and 1 compiled ones");
    const none = await openPlan(
      affinePlan(N, { inputs: [], outputs: [], operations: [], sources: [], buffers: [], arenaBytes: 0, weightsBytes: 0 }),
      [],
      new Uint8Array(0),
    );
    opened.push(none);
    expect(await none.run([])).toEqual([]);
  });
  it("P2111: inputs of another number, type or shape", async () => {
    const e = await open();
    await expect(e.run([])).rejects.toThrow(
      "P2111 0 inputs were given, the kernels take 1. Give inputs of the type and dims that the plan was made for.",
    );
    await expect(e.run([new Tensor("int32", new Int32Array(N), [N])])).rejects.toThrow(
      "P2111 input 'a' is int32 [1000], the kernels take float32 [1000].",
    );
    await expect(e.run([new Tensor("float32", new Float32Array(N), [N, 1])])).rejects.toThrow("input 'a' is float32 [1000, 1]");
    await expect(e.run([{ type: "float32", dims: [N], data: new Float32Array(3) }])).rejects.toThrow("P3101");
  });
  it("runs beyond the streams wait; results stay with their callers", async () => {
    for (const streams of [1, 3]) {
      const e = await open(affinePlan(N), affineWeights(N), { streams });
      const outs = await Promise.all(
        Array.from({ length: 20 }, (_, k) => e.run([new Tensor("float32", new Float32Array(N).fill(k), [N])])),
      );
      outs.forEach(([y], k) => expect(floats(y)[10]).toBe((k + 10) * 2));
    }
  });
  it("a waiting run can be called off, a running one runs on", async () => {
    const e = await open(single("slow"), new Uint8Array(0));
    const stop = new AbortController();
    const first = e.run([], { signal: stop.signal });
    const second = e.run([], { signal: stop.signal });
    const third = e.run([]);
    stop.abort(new Error("called off"));
    await expect(second).rejects.toThrow("called off");
    await Promise.all([first, third]);
    await expect(e.run([], { signal: stop.signal })).rejects.toThrow("called off");
    await e.run([]);
  });
  it("P2112: dispose waits for what runs, refuses what waits and what comes, and may come twice", async () => {
    const e = await open(single("slow"), new Uint8Array(0));
    const running = e.run([]);
    const waiting = e.run([]);
    const done = e.dispose();
    expect(e.dispose()).toBe(done);
    await expect(waiting).rejects.toThrow("P2112 this executable has been disposed of. Open it again.");
    await running;
    await done;
    await expect(e.run([])).rejects.toThrow("P2112");
    expect(live()).toMatchObject(nothing());
  });
  it("P2104: out of memory, for weights, arena, ports and pinned memory; nothing stays behind", async () => {
    const giB = 2 ** 30;
    const none = new Uint8Array(0);
    await expect(open(single("none", { arenaBytes: 4 * giB, operations: [] }), none)).rejects.toThrow(
      /^P2104 memory for intermediate results needs 4096\.0 MiB, the GPU has 64\.0 MiB free\. Free memory on the GPU/,
    );
    const ports: readonly PlanBuffer[] = [
      { kind: "input", offset: 0, bytes: giB / 64 },
      { kind: "output", offset: 0, bytes: 2 * giB },
    ];
    await expect(open(single("none", { buffers: ports, operations: [] }), none)).rejects.toThrow(
      /^P2104 memory for an output needs 2048\.0 MiB/,
    );
    await expect(open(affinePlan(N, { arenaBytes: 3 << 20 }), affineWeights(N), { streams: 30 })).rejects.toThrow(
      /^P2104 memory for intermediate results needs 3\.0 MiB/,
    );
    expect(live()).toMatchObject(nothing());
    const e = await open();
    expect(await e.run([input()])).toHaveLength(1);
  });
  it("P2108: weights, cubins, parameters and sizes that do not go with the plan", async () => {
    await expect(open(affinePlan(N), new Uint8Array(3))).rejects.toThrow("its weights should have 4256 bytes, they have 3");
    const wrong = affinePlan(N, { operations: [launchOf({ kernel: "add", args: [{ kind: "i32", value: 1 }] })] });
    await expect(open(wrong)).rejects.toThrow("kernel 'add': its parameters take 8 at 0, 8 at 8, 8 at 16, 4 at 24, the plan gives 4 at 0");
    await expect(openPlan({ ...affinePlan(N), arch: "x" }, [cubin], affineWeights(N))).rejects.toThrow("P2108");
  });
  it("P2109, P2110: damaged cubins, without the kernel, of another GPU", async () => {
    const with_ = (bytes: Uint8Array): Promise<CudaExecutable> => openPlan(affinePlan(N), [bytes], affineWeights(N));
    await expect(with_(cubin.subarray(0, 200))).rejects.toThrow("P2109 a compiled kernel is damaged");
    await expect(with_(craftCubin([]))).rejects.toThrow("P2109 a compiled source lacks its kernel 'add'");
    await expect(with_(craftCubin(undefined, 80))).rejects.toThrow(
      "P2110 the kernels were compiled for sm_80, this GPU is sm_90a. Compile the model for sm_90a (computeCapability).",
    );
    await expect(with_(craftCubin(undefined, 100))).rejects.toThrow("P2110");
    const unknown = craftCubin([{ name: "absent", parameters: [] }]);
    const plan = single("absent", { operations: [launchOf({ kernel: "absent" })] });
    await expect(openPlan(plan, [unknown], new Uint8Array(0))).rejects.toThrow(
      "P2109 preparing kernel 'absent' with 0 bytes of shared memory failed: cuModuleGetFunction absent: CUDA_ERROR_NOT_FOUND",
    );
    expect(live()).toMatchObject(nothing());
  });
  it("tensor maps are encoded over the buffer they name", async () => {
    const map = {
      mode: "tiled",
      dtype: "float16",
      dims: [64, 8],
      strides: [128],
      box: [64, 4],
      elementStrides: [1, 1],
      swizzle: 128,
    } as const;
    const im2col = {
      ...map,
      mode: "im2col",
      dims: [64, 2, 2, 2],
      strides: [128, 256, 512],
      box: [64, 32],
      elementStrides: [1, 1, 1, 1],
      lowerCorner: [-1, -1],
      upperCorner: [-1, -1],
    } as const;
    for (const m of [map, im2col]) {
      const e = await open(
        affinePlan(N, {
          inputs: [],
          outputs: [{ name: "map", dtype: "int64", dims: [16], buffer: 1 }],
          buffers: [
            { kind: "arena", offset: 256, bytes: 2048 },
            { kind: "output", offset: 0, bytes: 128 },
          ],
          arenaBytes: 4096,
          operations: [
            launchOf({
              kernel: "map",
              args: [
                { kind: "tensorMap", buffer: 0, offset: 512, map: m },
                { kind: "buffer", buffer: 1, offset: 0 },
              ],
            }),
          ],
          sources: [{ kernels: ["map"], source: "" }],
        }),
      );
      const [t] = await e.run([]);
      const words = Array.from(t?.data as BigInt64Array, Number);
      const address = words[3] ?? 0;
      if (m.mode === "tiled") expect(words.slice(0, 7)).toEqual([0x7454, 6, 2, address, 64, 64, 3]);
      else expect(words.slice(0, 9)).toEqual([0x1332, 6, 4, address, 64, 64, 3, 32, -1]);
      expect((address - 512) % 256).toBe(0);
    }
  });
  it("times the graph and each operation", async () => {
    const e = await open();
    const t = await e.timeGraph({ samples: 8, warmup: 1, inputs: [input()] });
    expect([t.median, t.min, t.samples.length]).toEqual([0.5, 0.5, 8]);
    expect((await e.timeGraph({ samples: 3, copies: true })).median).toBe(0.5);
    expect(await e.profile({ repeats: 10, samples: 3, inputs: [input()] })).toEqual([
      { operation: 0, name: "clear", nodes: [], ms: 0.05 },
      { operation: 1, name: "add", nodes: ["/add"], ms: 0.05 },
      { operation: 2, name: "scale", nodes: ["/mul"], ms: 0.05 },
    ]);
    expect(live()["graph"]).toBe(2);
    const [y] = await e.run([input()]);
    expect(Array.from(floats(y))).toEqual(expected());
  });
  it("leaves nothing behind after 100 rounds, and 2000 runs take no memory", async () => {
    const { addon, context } = openDevice();
    const free = addon.memoryInfo(context).freeBytes;
    for (let i = 0; i < 100; i++) {
      const e = await openPlan(affinePlan(N), [cubin], affineWeights(N), { streams: 2 });
      await Promise.all([e.run([input()]), e.run([input()]), e.run([input()])]);
      await e.dispose();
    }
    expect(addon.memoryInfo(context).freeBytes).toBe(free);
    const e = await open();
    const before = { ...live(), free: addon.memoryInfo(context).freeBytes };
    for (let i = 0; i < 2000; i++) await e.run([input()]);
    expect({ ...live(), free: addon.memoryInfo(context).freeBytes }).toEqual(before);
  });
  // Last: what a fault leaves is not mended in this process.
  it("P2105: a fault inside a kernel is told with the driver's words, to all who come after it too", async () => {
    const good = await open();
    const e = await open(single("fault"), new Uint8Array(0));
    const [first, second] = await Promise.allSettled([e.run([]), e.run([])]);
    for (const r of [first, second])
      expect(String(r.status === "rejected" ? r.reason.message : "resolved")).toMatch(
        /^P2105 running the kernels failed: cuStreamSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS\. Dispose of the session; after a fault/,
      );
    await expect(e.run([])).rejects.toThrow("P2105");
    await expect(good.run([input()])).rejects.toThrow("P2105");
    await e.dispose();
    await good.dispose();
    expect(live()).toMatchObject(nothing());
  });
});
