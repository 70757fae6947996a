/** The addon's handles and memory over the stand-in driver: what is stale, foreign, busy or out of bounds is an error, never a wild pointer. */
import { Worker } from "node:worker_threads";
import { beforeAll, describe, expect, it } from "vitest";
import { type ContextHandle, type NativeAddon, native, type RunNumber, type StreamHandle } from "../../../src/engines/cuda/native.js";
import { craftCubin, useFakeDriver } from "../../support/fake-cuda.js";

const missing = useFakeDriver({ devices: 2, memory: 64 << 20 });

describe.skipIf(missing !== undefined)(`handles on a stand-in driver${missing === undefined ? "" : ` (skipped: ${missing})`}`, () => {
  let addon: NativeAddon;
  let context: ContextHandle;
  let stream: StreamHandle;
  const library = (): string => process.env["PARTITA_CUDA_DRIVER"] ?? "";
  const free = (): number => addon.memoryInfo(context).freeBytes;

  beforeAll(() => {
    addon = native().addon;
    expect(addon.open([library()])).toEqual({ version: 13000, devices: 2, library: library() });
    context = addon.contextCreate(1);
    stream = addon.streamCreate(context);
  });

  it("describes devices, and says which do not exist", () => {
    expect(addon.deviceInfo(1)).toMatchObject({ name: "Fake GPU 1", sm: 90, multiprocessors: 4, memoryBytes: 64 << 20 });
    expect(() => addon.deviceInfo(2)).toThrow("cuDeviceGet: CUDA_ERROR_INVALID_DEVICE");
    for (const odd of [-1, 0.5, Number.NaN, 1e12]) expect(() => addon.deviceInfo(odd)).toThrow(RangeError);
  });
  it("memory: bounds of every copy and fill", async () => {
    const m = addon.memAlloc(context, 100);
    const { handle, buffer } = addon.hostAlloc(context, 50);
    expect(buffer.byteLength).toBe(50);
    const outside = /outside memory of (100|50) bytes/;
    expect(() => addon.fill(stream, m, 90, 11, 0)).toThrow(outside);
    expect(() => addon.fill(stream, m, 2 ** 52, 2 ** 52, 0)).toThrow(outside);
    expect(() => addon.fill(stream, m, 0, 100, 256)).toThrow(RangeError);
    expect(() => addon.copy(stream, m, 60, handle, 0, 50)).toThrow(outside);
    expect(() => addon.copy(stream, m, 0, handle, 1, 50)).toThrow(outside);
    expect(() => addon.copy(stream, handle, 0, m, 60, 50)).toThrow(outside);
    expect(() => addon.copy(stream, handle, 0, handle, 0, 1)).toThrow("needs no GPU");
    expect(() => addon.execute(stream, undefined, [[m, 1, new Uint8Array(100)]], [])).toThrow(outside);
    expect(() => addon.execute(stream, undefined, [], [[handle, 0, new Uint8Array(51)]])).toThrow(outside);
    expect(() => addon.execute(stream, undefined, [], [[m, -1, new Uint8Array(1)]])).toThrow(RangeError);
    const out = new Uint8Array(100);
    await addon.execute(stream, undefined, [[m, 0, Uint8Array.from({ length: 100 }, (_, i) => i)]], [[m, 0, out]]);
    expect(out[99]).toBe(99);
    addon.fill(stream, m, 10, 80, 7);
    addon.copy(stream, handle, 0, m, 0, 50);
    await addon.execute(stream, undefined, [], []);
    expect(Array.from(new Uint8Array(buffer).subarray(8, 12))).toEqual([8, 9, 7, 7]);
    addon.release(m);
    addon.release(handle);
  });
  it("a released handle is stale everywhere, its number is never used again, releasing it twice is no error", () => {
    const m = addon.memAlloc(context, 100);
    addon.release(m);
    addon.release(m);
    expect(() => addon.memAddress(m)).toThrow(new TypeError(`expected a live device memory handle, got ${m}`));
    expect(() => addon.fill(stream, m, 0, 1, 0)).toThrow(TypeError);
    expect(() => addon.execute(stream, undefined, [[m, 0, new Uint8Array(1)]], [])).toThrow(TypeError);
    const again = addon.memAlloc(context, 100);
    expect(again).toBeGreaterThan(m);
    expect(() => addon.memAddress(stream as never)).toThrow(new TypeError("expected a device memory handle, got a stream"));
    addon.release(again);
  });
  it("pinned buffers are emptied when their memory goes", () => {
    const { handle, buffer } = addon.hostAlloc(context, 4096);
    const view = new Float32Array(buffer);
    view[0] = 5;
    addon.release(handle);
    expect([buffer.byteLength, view.length, view[0]]).toEqual([0, 0, undefined]);
  });
  it("what goes by way of pinned memory has room there, and goes to a device", () => {
    const m = addon.memAlloc(context, 100);
    const { handle } = addon.hostAlloc(context, 50);
    const array = new Uint8Array(50);
    expect(() => addon.execute(stream, undefined, [[m, 0, array, handle, 1]], [])).toThrow(/outside memory of 50 bytes/);
    expect(() => addon.execute(stream, undefined, [[handle, 0, array, handle, 0]], [])).toThrow("only what goes to device memory");
    expect(() => addon.execute(stream, undefined, [[m, 0, array, m as never, 0]], [])).toThrow("expected a pinned memory handle");
    addon.release(handle);
    addon.release(m);
  });
  it("what a run uses cannot be released before it settles", async () => {
    const module = addon.moduleLoad(context, craftCubin());
    const slow = addon.functionGet(module, "slow", 0);
    const m = addon.memAlloc(context, 8);
    addon.captureBegin(stream);
    addon.launch(stream, slow.handle, [1, 1, 1], [1, 1, 1], 0, new Uint8Array(8), undefined, false);
    const graph = addon.captureEnd(stream);
    const out = new Uint8Array(8);
    const running = addon.execute(stream, graph, [], [[m, 0, out]]);
    for (const [handle, name] of [
      [stream, "stream"],
      [graph, "graph"],
      [m, "device memory"],
    ] as const)
      expect(() => addon.release(handle)).toThrow(`the ${name} is in use by a run: release it when that has settled`);
    await running;
    addon.release(graph);
    addon.release(m);
    addon.release(module);
    expect(() => addon.launch(stream, slow.handle, [1, 1, 1], [1, 1, 1], 0, new Uint8Array(8), undefined, false)).toThrow(
      new TypeError(`expected a live function handle, got ${slow.handle}`),
    );
  });
  it("a run that has begun: asked until it is over, or left to a thread; what it uses stays, and its number is used once", async () => {
    const module = addon.moduleLoad(context, craftCubin());
    const slow = addon.functionGet(module, "slow", 0);
    const m = addon.memAlloc(context, 1 << 20);
    const ring = addon.hostAlloc(context, 1 << 20);
    addon.captureBegin(stream);
    addon.launch(stream, slow.handle, [1, 1, 1], [1, 1, 1], 0, new Uint8Array(8), undefined, false);
    const graph = addon.captureEnd(stream);
    // By way of pinned memory, and back into some.
    const array = Uint8Array.from({ length: (1 << 18) + 5 }, (_, i) => i % 251);
    const back = addon.hostAlloc(context, array.length);
    const view = new Uint8Array(back.buffer);
    const whole = [[[m, 0, array, ring.handle, 0]], [[m, 0, view]]] as const;
    const run = addon.begin(stream, graph, ...whole) as RunNumber;
    for (const h of [stream, graph, m, ring.handle, back.handle]) expect(() => addon.release(h)).toThrow("in use by a run");
    let asked = 0;
    for (; !addon.ended(run); asked++) await new Promise((resolve) => setImmediate(resolve));
    expect(asked).toBeGreaterThan(2);
    expect(Buffer.from(view).equals(Buffer.from(array))).toBe(true);
    expect(() => addon.ended(run)).toThrow(new TypeError(`expected a run that has begun, got ${run}`));
    expect(() => addon.wait(run)).toThrow(TypeError);

    view.fill(0);
    const left = addon.begin(stream, graph, ...whole) as RunNumber;
    expect(addon.ended(left)).toBe(false);
    const waited = addon.wait(left);
    expect(() => addon.ended(left)).toThrow(TypeError);
    expect(() => addon.release(m)).toThrow("in use by a run");
    await waited;
    expect(Buffer.from(view).equals(Buffer.from(array))).toBe(true);

    // An array that the driver itself would wait for, and one that is too large to copy here.
    expect(addon.begin(stream, graph, [[m, 0, array]], [])).toBeUndefined();
    expect(addon.begin(stream, graph, [], [[m, 0, new Uint8Array(8)]])).toBeUndefined();
    const large = new Uint8Array((1 << 20) + 1);
    const [more, its] = [addon.memAlloc(context, large.length), addon.hostAlloc(context, large.length)];
    expect(addon.begin(stream, graph, [[more, 0, large, its.handle, 0]], [])).toBeUndefined();
    expect(addon.begin(stream, graph, [], [[its.handle, 0, large]])).toBeUndefined();
    for (const h of [graph, m, ring.handle, back.handle, module, more, its.handle]) addon.release(h);
  });
  it("a context with anything alive in it stays", () => {
    const other = addon.contextCreate(0);
    const m = addon.memAlloc(other, 1);
    expect(() => addon.release(other)).toThrow("the context still has a live device memory: release that first");
    addon.release(m);
    addon.release(other);
    expect(() => addon.memAlloc(other, 1)).toThrow(TypeError);
  });
  it("modules, launches and captures that the driver refuses leave no handle", () => {
    const before = addon.live();
    expect(() => addon.moduleLoad(context, new Uint8Array(0))).toThrow("an empty image is no module");
    expect(() => addon.moduleLoad(context, new Uint8Array(100))).toThrow("cuModuleLoadData: CUDA_ERROR_INVALID_IMAGE");
    const module = addon.moduleLoad(context, craftCubin());
    expect(() => addon.functionGet(module, "absent", 0)).toThrow("cuModuleGetFunction absent: CUDA_ERROR_NOT_FOUND");
    expect(() => addon.functionGet(module, "add", 300_000)).toThrow("cuFuncSetAttribute add: CUDA_ERROR_INVALID_VALUE");
    const add = addon.functionGet(module, "add", 0);
    expect(add.parameters).toEqual([
      [0, 8],
      [8, 8],
      [16, 8],
      [24, 4],
    ]);
    const launch = (parameters: Uint8Array, grid: readonly number[] = [1, 1, 1]): void =>
      addon.launch(stream, add.handle, grid as never, [1, 1, 1], 0, parameters, undefined, true);
    expect(() => launch(new Uint8Array(27))).toThrow("cuLaunchKernelEx: CUDA_ERROR_INVALID_VALUE");
    expect(() => launch(new Uint8Array(4097))).toThrow("more than 4096 bytes");
    expect(() => launch(new Uint8Array(28), [1, 1])).toThrow("grid must have three numbers");
    expect(() => launch(new Uint8Array(28), [1, 1, -1])).toThrow(RangeError);
    expect(() => addon.captureEnd(stream)).toThrow("cuStreamEndCapture: CUDA error 901");
    addon.captureBegin(stream);
    expect(() => addon.captureBegin(stream)).toThrow("cuStreamBeginCapture");
    addon.release(addon.captureEnd(stream));
    addon.release(module);
    expect(addon.live()).toEqual(before);
  });
  it("memory that is not there: the error says how much was asked for, nothing leaks", () => {
    const before = free();
    expect(() => addon.memAlloc(context, 65 << 20)).toThrow(/^cuMemAlloc of 68157440 bytes: CUDA_ERROR_OUT_OF_MEMORY: out of memory$/);
    expect(() => addon.hostAlloc(context, 65 << 20)).toThrow(/^cuMemHostAlloc of 68157440 bytes: CUDA_ERROR_OUT_OF_MEMORY/);
    expect(() => addon.memAlloc(context, 2 ** 50)).toThrow(RangeError);
    const m = addon.memAlloc(context, 0);
    expect(addon.memAddress(m)).not.toBe(0n);
    addon.release(m);
    expect(free()).toBe(before);
  });
  it("tensor maps: ranks, ranges, memory", () => {
    const m = addon.memAlloc(context, 4096);
    const tiled = (dims: number[], strides: number[], offset = 0): Uint8Array =>
      addon.tensorMapTiled(
        m,
        offset,
        7,
        dims,
        strides,
        dims,
        dims.map(() => 1),
        0,
        0,
        0,
        0,
      );
    expect(tiled([8, 8], [32])).toHaveLength(128);
    expect(() => tiled([], [])).toThrow("1 to 5 dims");
    expect(() => tiled([8, 8], [])).toThrow("1 to 5 dims");
    expect(() => tiled([1, 1, 1, 1, 1, 1], [16, 16, 16, 16, 16])).toThrow("more than five");
    expect(() => tiled([8], [], 4097)).toThrow("outside memory of 4096 bytes");
    expect(() => addon.tensorMapIm2col(m, 0, 7, [8, 8, 8], [32, 256], [0], [0, 0], 8, 8, [1, 1, 1], 0, 0, 0, 0)).toThrow(
      "an im2col map has 3 to 5 dims",
    );
    addon.release(m);
  });
  it("timings come off the event loop, and hold their graph meanwhile", async () => {
    addon.captureBegin(stream);
    const graph = addon.captureEnd(stream);
    const timing = addon.timeGraph(stream, graph, 2, 5);
    expect(() => addon.release(graph)).toThrow("in use by a run");
    expect(Array.from(await timing)).toEqual([0.5, 0.5, 0.5, 0.5, 0.5]);
    expect(() => addon.timeGraph(stream, graph, 0, 1e9)).toThrow(RangeError);
    addon.release(graph);
  });
  it("a worker thread has handles of its own, and its end frees what it left", async () => {
    const before = free();
    const code = `
      const { parentPort, workerData } = require("node:worker_threads");
      const addon = require(workerData.path);
      addon.open([workerData.library]);
      const context = addon.contextCreate(1);
      let foreign = "taken";
      try { addon.memAddress(workerData.memory); } catch (error) { foreign = error.message; }
      const memory = addon.memAlloc(context, 1 << 20);
      const pinned = addon.hostAlloc(context, 1000);
      const stream = addon.streamCreate(context);
      addon.captureBegin(stream);
      addon.captureEnd(stream);
      parentPort.postMessage({ foreign, free: addon.memoryInfo(context).freeBytes, live: addon.live() });
      if (workerData.busy === "thread") addon.execute(stream, undefined, [[memory, 0, new Uint8Array(1 << 20)]], []);
      if (workerData.busy === "begun") addon.begin(stream, undefined, [[memory, 0, new Uint8Array(1000), pinned.handle, 0]], []);
      if (workerData.busy !== "no") parentPort.close();`;
    const memory = addon.memAlloc(context, 10);
    for (const busy of ["no", "thread", "begun"]) {
      const worker = new Worker(code, { eval: true, workerData: { path: native().path, library: library(), memory, busy } });
      const told = await new Promise<{ foreign: string; free: number; live: Record<string, number> }>((resolve, reject) => {
        worker.once("message", resolve);
        worker.once("error", reject);
      });
      if (busy !== "no") await worker.terminate();
      else await new Promise((done) => worker.once("exit", done));
      expect(told.foreign).toMatch(/^expected a (live )?device memory handle, got/);
      expect(told.free).toBeLessThan(before - (1 << 20));
      expect(told.live).toMatchObject({ context: 1, "device memory": 1, "pinned memory": 1, stream: 1, graph: 1, "device bytes": 1 << 20 });
      expect(free()).toBe(before - 10);
    }
    addon.release(memory);
    expect(free()).toBe(before);
  });
});
