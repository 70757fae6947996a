/** The second half of the suite: runs, graphs, the end of things, other weights. */
import { Worker } from "node:worker_threads";
import { describe, expect, it } from "vitest";
import { native } from "../../src/engines/cuda/native.js";
import type { Engine, Family, TensorRt } from "../../src/engines/tensorrt/native.js";
import { type Gpu, ramp } from "./tensorrt-gpu.js";
import { layer, layerValues, reshape, WEIGHT } from "./tensorrt-models.js";

export const caught = async (work: Promise<unknown>): Promise<Error & { readonly code?: string }> =>
  await work.then(
    () => new Error("nothing failed"),
    (error: unknown) => error as Error,
  );

export interface Harness {
  plan(options?: Parameters<TensorRt["build"]>[1], model?: Uint8Array): Promise<Uint8Array>;
  load(plan: Uint8Array): Promise<Engine>;
  /** The lines that the stand-in wrote meanwhile. */
  recorded(work: () => Promise<unknown>): Promise<readonly string[]>;
  /** What the work rejects with while a function of the stand-in gives nothing. */
  failing(name: string, work: () => Promise<unknown>): Promise<Error & { readonly code?: string }>;
  gpu(): Gpu;
  readonly library: string;
  readonly family: Family;
}

export function runs({ plan, load, recorded, failing, gpu, library, family }: Harness): void {
  describe("runs", () => {
    it("take a part of a buffer, keep results on the device, and tell the outputs' dims before and after", async () => {
      const engine = await load(await plan());
      const context = await engine.createContext();
      expect(context.outputDims([{ name: "x", dims: [7, 3] }])).toEqual({ y: [7, 3] });
      const stream = gpu().stream();
      const memory = gpu().memory(4096);
      const x = ramp(2) as Float32Array<ArrayBuffer>;
      const y = new Float32Array(6);
      await gpu().addon.execute(stream, undefined, [[memory, 256, x]], []);
      const result = await context.run({
        stream,
        inputs: [{ name: "x", dims: [2, 3], memory, offset: 256 }],
        outputs: [{ name: "y", memory, offset: 512 }],
      });
      expect(result).toEqual({ dims: [[2, 3]] });
      await gpu().addon.execute(stream, undefined, [], [[memory, 512, y]]);
      expect(y).toEqual(layerValues(x));
      await engine.dispose();
      for (const h of [stream, memory]) gpu().addon.release(h);
    });
    it("the time of each layer", async () => {
      const engine = await load(await plan());
      const context = await engine.createContext();
      const { request, y, release } = gpu().request(ramp(4));
      const { layers, dims } = await context.profile(request);
      expect(dims).toEqual([[4, 3]]);
      expect(layers.map((l) => l.name)).toEqual(["product", "bias", "relu"]);
      expect(layers.every((l) => l.ms >= 0 && l.ms < 1000)).toBe(true);
      expect(y).toEqual(layerValues(ramp(4)));
      await context.run(request);
      await engine.dispose();
      release();
    });
    it("as a CUDA graph: the addon's execute runs it, and it holds its context", async () => {
      const engine = await load(await plan());
      const context = await engine.createContext();
      const { request, release } = gpu().request(ramp(3));
      const graph = await context.capture(request);
      const [input, output] = [request.inputs[0]?.memory, request.outputs[0]?.memory];
      if (input === undefined || output === undefined) throw new Error("no memory");
      const [x, y] = [ramp(3, 4) as Float32Array<ArrayBuffer>, new Float32Array(9)];
      await gpu().addon.execute(request.stream, graph, [[input, 0, x]], [[output, 0, y]]);
      expect(y).toEqual(layerValues(x));
      expect((await caught(context.dispose())).message).toMatch(/^P2217 the execution context still has a live graph: release that first/);
      expect((await caught(engine.dispose())).code).toBe("P2217");
      gpu().addon.release(graph);
      await engine.dispose();
      release();
    });
    it("shape tensors are read on the host", async () => {
      const ranges = [
        { name: "x", min: [1, 6], opt: [2, 6], max: [4, 6] },
        { name: "s", min: [1, 1], opt: [3, 4], max: [24, 24], values: true },
      ];
      const engine = await load(await plan({ profiles: [ranges] }, reshape()));
      expect(engine.io.map((t) => [t.name, t.location, t.dtype])).toEqual([
        ["x", "device", "float32"],
        ["s", "host", "int64"],
        ["y", "device", "float32"],
      ]);
      const context = await engine.createContext();
      const s = { name: "s", dims: [2], host: BigInt64Array.from([4n, 3n]) };
      expect(context.outputDims([{ name: "x", dims: [2, 6] }, s])).toEqual({ y: [4, 3] });
      const stream = gpu().stream();
      const [input, output] = [gpu().memory(48), gpu().memory(48)];
      const x = ramp(4) as Float32Array<ArrayBuffer>;
      const y = new Float32Array(12);
      const run = (shape: BigInt64Array<ArrayBuffer> | undefined): ReturnType<typeof context.run> =>
        context.run({
          stream,
          inputs: [
            { name: "x", dims: [2, 6], memory: input, host: x },
            { ...s, host: shape },
          ],
          outputs: [{ name: "y", memory: output, host: y }],
        });
      expect(await run(s.host)).toEqual({ dims: [[4, 3]] });
      expect(y).toEqual(x);
      expect((await caught(run(BigInt64Array.from([5n, 3n])))).message).toMatch(/^P2217 the dims do not go together/);
      expect((await caught(run(BigInt64Array.from([5n])))).message).toMatch(
        /^P2217 input 's' of dims \[2\] needs 16 bytes, its memory has 8/,
      );
      expect((await caught(run(undefined))).message).toMatch(/^P2217 input 's' is a shape tensor: it needs a host array/);
      await engine.dispose();
      for (const h of [stream, input, output]) gpu().addon.release(h);
    });
    it("P2217: requests that do not fit", async () => {
      const engine = await load(await plan());
      const context = await engine.createContext();
      const { request, release } = gpu().request(ramp(3), 8);
      const [input] = request.inputs;
      const [output] = request.outputs;
      if (input === undefined || output === undefined) throw new Error("no request");
      const stale = gpu().memory(12);
      gpu().addon.release(stale);
      const wrong: readonly (readonly [Partial<typeof request>, RegExp])[] = [
        [{ inputs: [] }, /input 'x' of the engine is not given/],
        [{ outputs: [] }, /output 'y' of the engine is not given/],
        [{ inputs: [input, input] }, /input 'x' is given twice/],
        [{ inputs: [{ ...input, name: "z" }] }, /the engine has no input 'z'/],
        [{ outputs: [{ ...output, name: "x" }] }, /the engine has no output 'x'/],
        [{ inputs: [{ ...input, dims: [9, 3], host: undefined }] }, /input 'x' of dims \[9x3\] needs 108 bytes, its memory has 96/],
        [{ inputs: [{ ...input, dims: [3, 2] }] }, /input 'x' of dims \[3x2\] has 24 bytes, its array 36/],
        [
          { inputs: [{ ...input, dims: [0, 3], host: undefined }] },
          /dims \[0x3\] of input 'x' are refused: Error Code 3: .*exceeds the profile's min ~ max/,
        ],
        [{ inputs: [{ ...input, dims: [3], host: undefined }] }, /dims \[3\] of input 'x' are refused: .*the rank of x does not match/],
        [{ inputs: [{ ...input, dims: [2 ** 40, 2 ** 40], host: undefined }] }, /needs more bytes than there are/],
        [{ inputs: [{ ...input, dims: [-1, 3] }] }, /the dims of input 'x' must be a whole number from 0/],
        [{ inputs: [{ ...input, dims: Array.from({ length: 9 }, () => 1) }] }, /the dims of input 'x' has more than eight entries/],
        [{ inputs: [{ ...input, offset: 97 }] }, /outside memory of 96 bytes/],
        [{ outputs: [{ ...output, offset: 90 }] }, /output 'y' of dims \[3x3\] needs 36 bytes, its memory has 6/],
        [{ outputs: [{ ...output, host: new Float32Array(3) }] }, /output 'y' of dims \[3x3\] needs 36 bytes, its array has 12/],
        [{ inputs: [{ ...input, memory: stale }] }, /expected a live device memory handle/],
        [{ stream: input.memory as never }, /expected a stream handle, got a device memory/],
      ];
      for (const [change, message] of wrong) {
        const error = await caught(context.run({ ...request, ...change }));
        expect(error.message).toMatch(message);
        expect(error.code).toBe("P2217");
      }
      expect(() => context.outputDims([{ name: "x", dims: [3] }])).toThrow(/^P2217 dims \[3\] of input 'x' are refused/);
      expect(() => context.outputDims([{ name: "z", dims: [3] }])).toThrow("P2217 the engine has no input 'z'");
      // None of it left the context unfit.
      await context.run(request);
      await engine.dispose();
      release();
    });
    it("P2218 and P2217: a run that fails, an output whose dims the data decides", async () => {
      const engine = await load(await plan({}, layer({ name: "fake:fail-run" })));
      const failed = await caught(gpu().run(engine, ramp(2)));
      expect(failed.message).toBe(
        "P2218 TensorRT failed in a run: enqueueV3: Error Code 7: IExecutionContext::enqueueV3: Cask (Cask Gemm execution). " +
          "Dispose of the session; after a fault inside a kernel the process must start again.",
      );
      await engine.dispose();
      const open = await load(await plan({}, layer({ name: "fake:data-dims" })));
      expect((await caught(gpu().run(open, ramp(2)))).message).toMatch(
        /^P2217 the dims of output 'y' are known only after the run: \[-1x3\]/,
      );
      await open.dispose();
    });
    it("outputs whose dims the data decides: TensorRT asks for memory, more of it when a run needs more", async () => {
      const engine = await load(await plan({}, layer({ name: "fake:data-dims" })));
      const context = await engine.createContext();
      const { request, release } = gpu().request(ramp(8));
      const [input] = request.inputs;
      if (input === undefined) throw new Error("no request");
      expect(context.outputDims([{ name: "x", dims: [8, 3] }])).toEqual({ y: [-1, 3] });
      const kept = (x: Float32Array): readonly number[] => {
        const all = Array.from(layerValues(x));
        return all.filter((_, i) => all[i - (i % 3)] !== 0);
      };
      const live = gpu().addon.live();
      for (const rows of [1, 8, 3, 8]) {
        const x = ramp(rows, rows) as Float32Array<ArrayBuffer>;
        const found = await context.run({ ...request, inputs: [{ ...input, dims: [rows, 3], host: x }], outputs: [{ name: "y" }] });
        const values = kept(x);
        expect(found.dims).toEqual([[values.length / 3, 3]]);
        expect(Array.from(new Float32Array(new Uint8Array(found.data?.[0] ?? []).buffer))).toEqual(values);
      }
      const { layers, data } = await context.profile({ ...request, outputs: [{ name: "y" }] });
      expect([layers.length, data?.length]).toEqual([3, 1]);
      expect((await caught(context.capture({ ...request, outputs: [{ name: "y" }] }))).message).toMatch(
        /^P2217 output 'y' has no memory: a graph needs its address/,
      );
      expect((await caught(context.run({ ...request, outputs: [{ name: "y", host: new Float32Array(3) }] }))).message).toMatch(
        /^P2217 output 'y' has an array and no memory/,
      );
      // Memory that is given is used again, and refused where its dims are not known.
      expect((await caught(context.run(request))).message).toMatch(/^P2217 the dims of output 'y' are known only after the run/);
      expect(gpu().addon.live()).toEqual(live);
      await engine.dispose();
      release();
    });
    it("P2218 and P2221: dims that are never told, memory that cannot be had", async () => {
      const request = async (name: string): Promise<Error & { readonly code?: string }> => {
        const engine = await load(await plan({}, layer({ name })));
        const context = await engine.createContext();
        const { request: asked, release } = gpu().request(ramp(4));
        const error = await caught(context.run({ ...asked, outputs: [{ name: "y" }] }));
        await engine.dispose();
        release();
        return error;
      };
      expect((await request("fake:data-dims:untold")).message).toMatch(/^P2218 TensorRT failed in a run: .*told no dims of output 'y'/);
      process.env["FAKE_CUDA_MEMORY"] = "300";
      try {
        expect((await request("fake:data-dims:memory")).message).toMatch(/^P2221 enqueueV3 found no memory: .*an output of \d+ bytes/);
      } finally {
        delete process.env["FAKE_CUDA_MEMORY"];
      }
    });
    it("1,000 from 8 callers over 4 contexts, all right", async () => {
      const engine = await load(await plan());
      const contexts = await Promise.all(Array.from({ length: 4 }, () => engine.createContext()));
      let wrong = 0;
      await Promise.all(
        Array.from({ length: 8 }, async (_, caller) => {
          const { request, y, release } = gpu().request(ramp(8), 8);
          const [input] = request.inputs;
          for (let i = 0; i < 125; i++) {
            const rows = 1 + ((caller + i) % 8);
            const x = ramp(rows, caller * 125 + i) as Float32Array<ArrayBuffer>;
            const inputs = [{ ...input, name: "x", dims: [rows, 3], host: x }];
            await contexts[(caller + i) % 4]?.run({ ...request, inputs });
            const expected = layerValues(x);
            if (expected.some((v, k) => v !== y[k])) wrong++;
          }
          release();
        }),
      );
      expect(wrong).toBe(0);
      await engine.dispose();
    });
  });

  describe("the end", () => {
    const slow = async (): Promise<Engine> => await load(await plan({}, layer({ name: "fake:slow:40" })));

    it("of a context waits for its runs; those that come after are refused (P2225)", async () => {
      const engine = await slow();
      const context = await engine.createContext();
      const { request, y, release } = gpu().request(ramp(2));
      let ran = 0;
      const runs = [1, 2].map(() => context.run(request).then(() => ran++));
      const disposing = context.dispose();
      expect((await caught(context.run(request))).message).toBe("P2225 this context has been disposed of. Load the plan again.");
      await disposing;
      expect(ran).toBe(2);
      await Promise.all(runs);
      expect(y).toEqual(layerValues(ramp(2)));
      await context.dispose();
      await engine.dispose();
      release();
    });
    it("of an engine ends its contexts, after their runs and while one is made", async () => {
      const engine = await slow();
      const contexts = [await engine.createContext(), await engine.createContext()];
      const requests = contexts.map(() => gpu().request(ramp(2)));
      const runs = contexts.map((c, i) => c.run(requests[i]?.request ?? { stream: 0 as never, inputs: [], outputs: [] }));
      const coming = caught(engine.createContext());
      const list = await recorded(() => engine.dispose());
      await Promise.all(runs);
      expect((await coming).message).toMatch(/^P2225 this engine has been disposed of/);
      expect(list.slice(-2)).toEqual(["delete CudaEngine", "delete Runtime"]);
      expect(list.filter((l) => l === "delete ExecutionContext")).toHaveLength(3);
      expect(() => engine.inspect()).toThrow("P2225 this engine has been disposed of");
      expect((await caught(engine.createContext())).code).toBe("P2225");
      await engine.dispose();
      for (const r of requests) r.release();
    });
    it("of what a run uses is refused until it settles", async () => {
      // Long enough that a busy machine looks while it runs.
      const engine = await load(await plan({}, layer({ name: "fake:slow:300" })));
      const context = await engine.createContext();
      const { request, release } = gpu().request(ramp(2));
      const running = context.run(request);
      await new Promise((resolve) => setTimeout(resolve, 5));
      expect(() => gpu().addon.release(request.stream)).toThrow("the stream is in use by a run");
      for (const memory of [request.inputs[0]?.memory, request.outputs[0]?.memory])
        expect(() => gpu().addon.release(memory as never)).toThrow("the device memory is in use by a run");
      expect(() => context.outputDims([{ name: "x", dims: [2, 3] }])).toThrow("in use by a run");
      await running;
      await engine.dispose();
      release();
    });
    it("of a worker thread ends what it left, a run under way among it", async () => {
      const code = `
        const { parentPort, workerData } = require("node:worker_threads");
        const addon = require(workerData.path);
        const { library, family, plan, cuda } = workerData;
        (async () => {
          addon.open([cuda]);
          const gpu = addon.contextCreate(0);
          const { id } = addon.tensorrt.open(library, undefined);
          addon.tensorrt.bind(id, family);
          const { handle } = await addon.tensorrt.deserialize(id, plan, gpu, false);
          const context = await addon.tensorrt.contextCreate(handle, 0);
          const stream = addon.streamCreate(gpu);
          const memory = [addon.memAlloc(gpu, 24), addon.memAlloc(gpu, 24)];
          addon.tensorrt.run(context, stream, [{ name: "x", dims: [2, 3], memory: memory[0] }], [{ name: "y", memory: memory[1] }], false);
          parentPort.postMessage("runs");
        })();`;
      const bytes = await plan({}, layer({ name: "fake:slow:40" }));
      const list = await recorded(async () => {
        const workerData = { path: native().path, library, family, plan: bytes, cuda: process.env["PARTITA_CUDA_DRIVER"] };
        const worker = new Worker(code, { eval: true, workerData });
        expect(await new Promise((resolve) => worker.once("message", resolve))).toBe("runs");
        await worker.terminate();
      });
      expect(list.slice(-3)).toEqual(["delete ExecutionContext", "delete CudaEngine", "delete Runtime"]);
    });
    it("leaves nothing behind", () => {
      expect(gpu().addon.live()).toMatchObject({ "TensorRT engine": 0, "execution context": 0, stream: 0, "device memory": 0, graph: 0 });
    });
  });

  describe("other weights", () => {
    const doubled = WEIGHT.map((w) => w * 2);
    const bytes = (values: readonly number[]): Uint8Array => new Uint8Array(Float32Array.from(values).buffer);

    it("by name, and from a model, while runs wait", async () => {
      const engine = await load(await plan({ refit: "all" }));
      expect(engine.canRefit).toBe(true);
      expect(await engine.refittable()).toEqual({ all: ["b", "w"], missing: [] });
      const context = await engine.createContext();
      const { request, y, release } = gpu().request(ramp(2));
      await context.run(request);
      expect(y).toEqual(layerValues(ramp(2)));
      const refitting = engine.refit([{ name: "w", dtype: "float32", data: bytes(doubled) }]);
      const running = context.run(request);
      await Promise.all([refitting, running]);
      expect(y).toEqual(layerValues(ramp(2), doubled));
      await engine.refit(layer());
      await context.run(request);
      expect(y).toEqual(layerValues(ramp(2)));
      await engine.dispose();
      release();
    });
    it("a stripped plan lacks them until a refit", async () => {
      const engine = await load(await plan({ stripPlan: true }));
      expect(await engine.refittable()).toEqual({ all: ["b", "w"], missing: ["b", "w"] });
      await engine.refit(layer({ weight: doubled }));
      expect(await engine.refittable()).toEqual({ all: ["b", "w"], missing: [] });
      expect(await gpu().run(engine, ramp(3))).toEqual(layerValues(ramp(3), doubled));
      await engine.dispose();
    });
    it("P2220: weights that the engine does not have, or of another size", async () => {
      const engine = await load(await plan({ stripPlan: true }));
      const refit = async (name: string, values: readonly number[]): Promise<string> =>
        (await caught(engine.refit([{ name, dtype: "float32", data: bytes(values) }]))).message;
      expect(await refit("z", [1])).toBe(
        "P2220 the weights of the engine cannot be exchanged: Error Code 3: IRefitter::setNamedWeights: z has other weights. " +
          "Build with refit, and give weights of the names, types and sizes that `refittable` names.",
      );
      expect(await refit("w", [1])).toMatch(/^P2220 .*w has other weights/);
      expect(await refit("w", doubled)).toMatch(/^P2220 .*missing weights b/);
      expect((await caught(engine.refit(new Uint8Array(9)))).message).toMatch(/^P2220 /);
      expect((await failing("createInferRefitter", () => engine.refittable())).code).toBe("P2220");
      await engine.dispose();
    });
  });
}
