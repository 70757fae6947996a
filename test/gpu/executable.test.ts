/** The executable on a real GPU: results, graphs, clusters, dependent launches, tensor maps, concurrency, memory, limits. */
import { performance } from "node:perf_hooks";
import { afterEach, describe, expect, it } from "vitest";
import { compilerInfo, compileSource } from "../../src/engines/cuda/compiler.js";
import { inspectCubin } from "../../src/engines/cuda/cubin.js";
import { type CudaExecutable, openPlan } from "../../src/engines/cuda/executable.js";
import { native } from "../../src/engines/cuda/native.js";
import type { KernelPlan, TensorMap } from "../../src/engines/cuda/plan.js";
import { doctor } from "../../src/runtime/doctor.js";
import { Tensor } from "../../src/tensor.js";
import { affinePlan, affineWeights, launchOf } from "../engines/cuda/plans.js";
import { craftCubin } from "../support/fake-cuda.js";
import { compiled, figure, gpu, gpuMissing, median, needsGpu, openCompiled, rounded } from "./gpu.js";

const opened: CudaExecutable[] = [];
const keep = (e: CudaExecutable): CudaExecutable => {
  opened.push(e);
  return e;
};
const floats = (t: Tensor | undefined): Float32Array => {
  if (!(t?.data instanceof Float32Array)) throw new Error(`expected floats, got ${t?.type}`);
  return t.data;
};
const ramp = (n: number, k = 0): Tensor =>
  new Tensor(
    "float32",
    Float32Array.from({ length: n }, (_, i) => (i % 251) - k),
    [n],
  );
/** What affinePlan computes for `ramp`. */
function checkAffine(y: Tensor | undefined, n: number, k = 0): void {
  const got = floats(y);
  expect(got.length).toBe(n);
  for (let i = 0; i < n; i++)
    if (got[i] !== Math.fround(Math.fround((i % 251) - k + Math.fround(i)) * 2)) expect.fail(`element ${i} is ${got[i]}`);
}
/** A plan of one source with one float output of `n`, for kernels of the form f(float* out, ...). */
const outputPlan = (kernel: string, source: string, n: number, change: Partial<KernelPlan> = {}): KernelPlan =>
  affinePlan(n, {
    inputs: [],
    outputs: [{ name: "y", dtype: "float32", dims: [n], buffer: 0 }],
    buffers: [{ kind: "output", offset: 0, bytes: n * 4 }],
    arenaBytes: 0,
    weightsBytes: 0,
    operations: [launchOf({ kernel, args: [{ kind: "buffer", buffer: 0, offset: 0 }] })],
    sources: [{ kernels: [kernel], source }],
    ...change,
  });

describe.skipIf(gpuMissing !== undefined)(needsGpu("on the GPU"), () => {
  afterEach(async () => {
    await Promise.all(opened.splice(0).map((e) => e.dispose()));
    expect(native().addon.live()).toMatchObject({ module: 0, "device memory": 0, "pinned memory": 0, stream: 0, graph: 0 });
  });

  it("is what doctor says", async () => {
    for (const f of await doctor()) console.log(`${f.ok ? "found  " : "missing"} ${f.name}: ${f.detail}`);
    const { properties, driver } = gpu();
    expect(properties.sm).toBeGreaterThanOrEqual(75);
    expect(properties.memoryBytes).toBeGreaterThan(1e9);
    expect(gpu().freeBytes).toBeGreaterThan(1e8);
    const { kind, version } = await compilerInfo();
    figure("machine", { gpu: properties.name, sm: properties.sm, driver: driver.version, compiler: `${kind} ${version}` });
  });

  it.each([1, 7, 255, 256, 257, 1000, 65_537, (1 << 20) + 3])("adds and scales %i floats", async (n) => {
    const e = keep(await openCompiled(affinePlan(n), affineWeights(n)));
    for (let k = 0; k < 3; k++) checkAffine((await e.run([ramp(n, k)]))[0], n, k);
    const add = e.kernels.get("add");
    expect(add?.registers).toBeGreaterThan(0);
    expect(add?.registers).toBeLessThan(64);
  });
  it("copies inputs to outputs without a kernel, of every type of the host", async () => {
    const data = {
      float32: Float32Array.of(1, -0, Number.NaN, Number.POSITIVE_INFINITY),
      float64: Float64Array.of(1, 2, 3, 5e-324),
      float16: Uint16Array.of(0x3c00, 0x7c00, 0xfe00, 1),
      int8: Int8Array.of(-128, 127, 0, 1),
      int16: Int16Array.of(-32768, 1, 2, 3),
      int32: Int32Array.of(-(2 ** 31), 1, 2, 3),
      int64: BigInt64Array.of(-(2n ** 63n), 1n, 2n, 3n),
      uint8: Uint8Array.of(255, 1, 2, 3),
      uint16: Uint16Array.of(65535, 1, 2, 3),
      uint32: Uint32Array.of(2 ** 32 - 1, 1, 2, 3),
      uint64: BigUint64Array.of(2n ** 64n - 1n, 1n, 2n, 3n),
      bool: Uint8Array.of(0, 1, 1, 0),
    };
    const types = Object.keys(data) as (keyof typeof data)[];
    const ports = types.map((dtype, buffer) => ({ name: dtype, dtype, dims: [2, 2], buffer }));
    const empty = { name: "empty", dtype: "float32", dims: [3, 0], buffer: types.length } as const;
    const scalar = { name: "scalar", dtype: "int32", dims: [], buffer: types.length + 1 } as const;
    const plan = affinePlan(1, {
      inputs: [...ports, empty, scalar],
      outputs: [...ports, empty, scalar],
      buffers: [...types.map((t) => data[t].byteLength), 0, 4].map((bytes) => ({ kind: "input", offset: 0, bytes })),
      arenaBytes: 0,
      weightsBytes: 0,
      operations: [],
      sources: [],
    });
    const e = keep(await openPlan(plan, [], new Uint8Array(0)));
    const inputs = [
      ...types.map((t) => new Tensor(t, data[t], [2, 2])),
      new Tensor("float32", new Float32Array(0), [3, 0]),
      new Tensor("int32", Int32Array.of(7), []),
    ];
    expect(await e.run(inputs)).toEqual(inputs);
  });
  it("replays its graph with fresh inputs, 200 times over, large tensors among them", async () => {
    for (const n of [1000, 700_000]) {
      const e = keep(await openCompiled(affinePlan(n), affineWeights(n)));
      for (let k = 0; k < 200; k += n > 1000 ? 20 : 1) checkAffine((await e.run([ramp(n, k)]))[0], n, k);
    }
  });
  it("serves many callers at once, on one stream and on several, two plans side by side", async () => {
    const n = 50_000;
    const c = await compiled(affinePlan(n));
    const one = keep(await openPlan(c.plan, c.cubins, affineWeights(n)));
    const four = keep(await openPlan(c.plan, c.cubins, affineWeights(n), { streams: 4 }));
    await Promise.all(
      Array.from({ length: 120 }, async (_, k) => {
        const [y] = await (k % 2 === 0 ? one : four).run([ramp(n, k)]);
        checkAffine(y, n, k);
      }),
    );
  });
  it("disposes while runs are under way and waiting", async () => {
    const n = 100_000;
    for (let round = 0; round < 10; round++) {
      const e = await openCompiled(affinePlan(n), affineWeights(n), { streams: 2 });
      const runs = Array.from({ length: 8 }, (_, k) => e.run([ramp(n, k)]));
      const settled = Promise.allSettled(runs);
      await e.dispose();
      const results = await settled;
      expect(results.slice(0, 2).every((r) => r.status === "fulfilled")).toBe(true);
      for (const r of results.slice(2)) expect(r.status === "fulfilled" || String(r.reason).includes("P2112")).toBe(true);
    }
  });
  it("clears what a plan says is cleared, each time", async () => {
    const n = 3000;
    const source = `extern "C" __global__ void count(float* y, float* sum) {
      int i = blockIdx.x * blockDim.x + threadIdx.x;
      float before = atomicAdd(sum, 1.0f);
      if (i < ${n}) y[i] = before < ${n}.0f ? 1.0f : -1.0f;
    }`;
    const plan = outputPlan("count", source, n, {
      buffers: [
        { kind: "output", offset: 0, bytes: n * 4 },
        { kind: "arena", offset: 256, bytes: 4 },
      ],
      arenaBytes: 512,
      operations: [
        { kind: "clear", buffer: 1, offset: 0, bytes: 4 },
        launchOf({
          kernel: "count",
          grid: [12, 1, 1],
          block: [250, 1, 1],
          args: [
            { kind: "buffer", buffer: 0, offset: 0 },
            { kind: "buffer", buffer: 1, offset: 0 },
          ],
        }),
      ],
    });
    const e = keep(await openCompiled(plan));
    for (let k = 0; k < 5; k++) expect(floats((await e.run([]))[0]).every((x) => x === 1)).toBe(true);
  });
  it("keeps the order of a chain of dependent launches", async () => {
    // Every kernel may start before the one before it ends; it reads what that one wrote, in reverse, which only works in order.
    const n = 1 << 16;
    const source = `extern "C" __global__ void step(const float* x, float* y, float k) {
      asm volatile("griddepcontrol.launch_dependents;");
      asm volatile("griddepcontrol.wait;" ::: "memory");
      int i = blockIdx.x * blockDim.x + threadIdx.x;
      y[i] = (k == 0.0f ? 0.0f : x[${n} - 1 - i] * 0.5f) + k;
    }`;
    if (gpu().properties.sm < 90) return;
    const steps = 60;
    const run = async (dependent: boolean): Promise<{ y: Float32Array; ms: number }> => {
      const plan = outputPlan("step", source, n, {
        outputs: [{ name: "y", dtype: "float32", dims: [n], buffer: (steps - 1) % 2 }],
        buffers: [
          { kind: "output", offset: 0, bytes: n * 4 },
          { kind: "arena", offset: 0, bytes: n * 4 },
        ],
        arenaBytes: n * 4,
        operations: Array.from({ length: steps }, (_, k) =>
          launchOf({
            kernel: "step",
            grid: [n / 256, 1, 1],
            dependent,
            args: [
              { kind: "buffer", buffer: (k + 1) % 2, offset: 0 },
              { kind: "buffer", buffer: k % 2, offset: 0 },
              { kind: "f32", value: k },
            ],
          }),
        ),
      });
      const e = keep(await openCompiled(plan));
      const [y] = await e.run([]);
      return { y: floats(y), ms: (await e.timeGraph({ samples: 100 })).median };
    };
    let want = 0;
    for (let k = 0; k < steps; k++) want = Math.fround(Math.fround(k === 0 ? 0 : want * 0.5) + k);
    const plain = await run(false);
    const chained = await run(true);
    for (const { y } of [plain, chained]) expect(y.every((x) => x === want)).toBe(true);
    figure("graph of 60 kernels, us a kernel", {
      plain: rounded((plain.ms * 1000) / steps),
      dependent: rounded((chained.ms * 1000) / steps),
    });
  });
  it("launches clusters", async () => {
    if (gpu().properties.sm < 90) return;
    const source = `extern "C" __global__ void rank(float* y) {
      unsigned rank, size;
      asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
      asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
      if (threadIdx.x == 0) y[blockIdx.x] = rank + 100.0f * size;
    }`;
    const plan = outputPlan("rank", source, 16, {
      operations: [
        launchOf({
          kernel: "rank",
          grid: [16, 1, 1],
          block: [32, 1, 1],
          cluster: [4, 1, 1],
          args: [{ kind: "buffer", buffer: 0, offset: 0 }],
        }),
      ],
    });
    const e = keep(await openCompiled(plan));
    expect(Array.from(floats((await e.run([]))[0]))).toEqual(Array.from({ length: 16 }, (_, i) => 400 + (i % 4)));
  });
  it("opts in to more than 48 KiB of shared memory", async () => {
    const bytes = 96 * 1024;
    const source = `extern "C" __global__ void wide(float* y) {
      extern __shared__ float s[];
      for (int i = threadIdx.x; i < ${bytes / 4}; i += blockDim.x) s[i] = i;
      __syncthreads();
      y[threadIdx.x] = s[${bytes / 4 - 1} - threadIdx.x];
    }`;
    const plan = outputPlan("wide", source, 256, {
      operations: [launchOf({ kernel: "wide", shared: bytes, args: [{ kind: "buffer", buffer: 0, offset: 0 }] })],
    });
    const e = keep(await openCompiled(plan));
    expect(Array.from(floats((await e.run([]))[0])).slice(0, 3)).toEqual([24575, 24574, 24573]);
  });
  it("loads tiles through tensor maps, zeros outside", async () => {
    if (gpu().properties.sm < 90) return;
    const load = (at: string): string => `extern "C" __global__ void tile(const __grid_constant__ Map map, float* y) {
      __shared__ alignas(1024) float s[8 * 32];
      __shared__ alignas(8) unsigned long long bar;
      unsigned b = (unsigned)__cvta_generic_to_shared(&bar), d = (unsigned)__cvta_generic_to_shared(s);
      if (threadIdx.x == 0) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(b));
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 1024;" :: "r"(b) : "memory");
        ${at}
      }
      __syncthreads();
      unsigned done = 0;
      while (!done)
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], 0; selp.u32 %0, 1, 0, p; }" : "=r"(done) : "r"(b) : "memory");
      y[threadIdx.x] = s[threadIdx.x];
    }`;
    const header = "struct alignas(64) Map { char bytes[128]; };\n";
    const tiled: TensorMap = {
      mode: "tiled",
      dtype: "float32",
      dims: [40, 20],
      strides: [160],
      box: [32, 8],
      elementStrides: [1, 1],
      swizzle: 0,
    };
    // NHWC 1 x 8 x 8 x 32: 8 pixels of the first row and column of outputs of a 3x3 window with padding 1, at its corner (0, 0).
    const im2col: TensorMap = {
      mode: "im2col",
      dtype: "float32",
      dims: [32, 8, 8, 1],
      strides: [128, 1024, 8192],
      box: [32, 8],
      elementStrides: [1, 1, 1, 1],
      lowerCorner: [-1, -1],
      upperCorner: [-1, -1],
      swizzle: 0,
    };
    const cases = [
      {
        map: tiled,
        at: `asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {16, 14}], [%2];"
          :: "r"(d), "l"(&map), "r"(b) : "memory");`,
        want: (row: number, c: number): number => (14 + row < 20 && 16 + c < 40 ? (14 + row) * 40 + 16 + c : 0),
        elements: 800,
      },
      {
        map: im2col,
        at: `asm volatile("cp.async.bulk.tensor.4d.im2col.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {0, -1, -1, 0}], [%2], {%3, %3};"
          :: "r"(d), "l"(&map), "r"(b), "h"((short)1) : "memory");`,
        // Base (w, h) = (-1, -1) plus the window's offset (1, 1): the pixels (0, 0) to (7, 0).
        want: (row: number, c: number): number => row * 32 + c,
        elements: 2048,
      },
    ];
    for (const { map, at, want, elements } of cases) {
      const plan = affinePlan(elements, {
        inputs: [{ name: "x", dtype: "float32", dims: [elements], buffer: 0 }],
        outputs: [{ name: "y", dtype: "float32", dims: [8, 32], buffer: 1 }],
        buffers: [
          { kind: "input", offset: 0, bytes: elements * 4 },
          { kind: "output", offset: 0, bytes: 1024 },
        ],
        arenaBytes: 0,
        weightsBytes: 0,
        operations: [
          launchOf({
            kernel: "tile",
            args: [
              { kind: "tensorMap", buffer: 0, offset: 0, map },
              { kind: "buffer", buffer: 1, offset: 0 },
            ],
          }),
        ],
        sources: [{ kernels: ["tile"], source: header + load(at) }],
      });
      const e = keep(await openCompiled(plan));
      const [y] = await e.run([
        new Tensor(
          "float32",
          Float32Array.from({ length: elements }, (_, i) => i),
          [elements],
        ),
      ]);
      expect(Array.from(floats(y)), map.mode).toEqual(Array.from({ length: 256 }, (_, i) => want(i >> 5, i & 31)));
    }
  });

  it("P2104 when memory is short, and goes on", async () => {
    const total = gpu().properties.memoryBytes;
    const huge = outputPlan("none", `extern "C" __global__ void none(float*) {}`, 4, {
      buffers: [
        { kind: "output", offset: 0, bytes: 16 },
        { kind: "arena", offset: 0, bytes: 16 },
      ],
      arenaBytes: Math.ceil(total / 256) * 256 + 2 ** 30,
    });
    await expect(openCompiled(huge)).rejects.toThrow(
      /^P2104 memory for intermediate results needs \d+\.\d MiB, the GPU has \d+\.\d MiB free\./,
    );
    checkAffine((await keep(await openCompiled(affinePlan(100), affineWeights(100))).run([ramp(100)]))[0], 100);
  });
  it("P2109, P2110, P2108 for cubins that are damaged, of another architecture, of other parameters", async () => {
    const c = await compiled(affinePlan(100));
    const [cubin = new Uint8Array(0)] = c.cubins;
    const attempt = (bytes: Uint8Array, plan = c.plan): Promise<CudaExecutable> => openPlan(plan, [bytes], affineWeights(100));
    await expect(attempt(cubin.subarray(0, cubin.length >> 1))).rejects.toThrow("P2109");
    const stranger = gpu().properties.sm >= 100 ? "sm_90" : "sm_100";
    const other = await compileSource(affinePlan(100).sources[0]?.source ?? "", stranger, { cache: false });
    expect(inspectCubin(other.cubin).sm).toBe(Number(stranger.slice(3)));
    await expect(attempt(other.cubin)).rejects.toThrow("P2110");
    const wrong = { ...c.plan, operations: [launchOf({ kernel: "add", args: [{ kind: "i32", value: 1 }] })] };
    await expect(attempt(cubin, wrong)).rejects.toThrow(
      "P2108 the kernel plan is not sound: kernel 'add': its parameters take 8 at 0, 8 at 8",
    );
    // Right headers and no code: whatever the driver makes of it, it is a coded error or loads.
    await attempt(craftCubin(undefined, gpu().properties.sm)).then(
      (e) => e.dispose(),
      (error) => expect(error).toMatchObject({ name: "PartitaError" }),
    );
    checkAffine((await keep(await attempt(cubin)).run([ramp(100)]))[0], 100);
  });
  it("P2108 for more threads or shared memory than a kernel can have", async () => {
    const source = `extern "C" __global__ void __launch_bounds__(128) few(float* y) { y[threadIdx.x] = 1; }`;
    await expect(openCompiled(outputPlan("few", source, 256))).rejects.toThrow(/kernel 'few': 256 threads a block, it can run with 128/);
    const { sharedPerBlockBytes } = gpu().properties;
    const wide = `extern "C" __global__ void wide(float* y) { __shared__ float s[4096]; s[threadIdx.x] = y[threadIdx.x]; __syncthreads(); y[threadIdx.x] = s[255 - threadIdx.x]; }`;
    const plan = outputPlan("wide", wide, 256, {
      operations: [launchOf({ kernel: "wide", shared: sharedPerBlockBytes, args: [{ kind: "buffer", buffer: 0, offset: 0 }] })],
    });
    await expect(openCompiled(plan)).rejects.toThrow(/^P210[58] /);
  });

  it("times the graph, each operation, and a whole run", async () => {
    const n = 1 << 24;
    const big = keep(await openCompiled(affinePlan(n), affineWeights(n)));
    const inputs = [ramp(n)];
    const t = await big.timeGraph({ samples: 50, inputs });
    const profile = await big.profile({ inputs });
    const bytes = { clear: 4 * n, add: 12 * n, scale: 8 * n };
    expect(profile.map((p) => p.name)).toEqual(["clear", "add", "scale"]);
    const sum = profile.reduce((s, p) => s + p.ms, 0);
    expect(t.median).toBeGreaterThan(sum * 0.5);
    expect(t.median).toBeLessThan(sum * 3 + 0.1);
    figure("16M floats, GB/s", Object.fromEntries(profile.map((p) => [p.name, rounded(bytes[p.name as keyof typeof bytes] / p.ms / 1e6)])));
    figure("16M floats, ms", { graph: rounded(t.median, 4), sumOfOperations: rounded(sum, 4) });
    const small = keep(await openCompiled(affinePlan(1000), affineWeights(1000)));
    const graph = await small.timeGraph({ samples: 200 });
    const whole = await small.timeGraph({ samples: 200, copies: true });
    const runs: number[] = [];
    for (let i = 0; i < 2000; i++) {
      const start = performance.now();
      await small.run([ramp(1000)]);
      runs.push(performance.now() - start);
    }
    figure("1000 floats, us", {
      graph: rounded(graph.median * 1000),
      withCopies: rounded(whole.median * 1000),
      run: rounded(median(runs.slice(500)) * 1000),
    });
    const image = 128 * 3 * 224 * 224;
    const copy = keep(
      await openPlan(
        affinePlan(1, {
          inputs: [{ name: "x", dtype: "float32", dims: [image], buffer: 0 }],
          outputs: [],
          buffers: [{ kind: "input", offset: 0, bytes: image * 4 }],
          arenaBytes: 0,
          weightsBytes: 0,
          operations: [],
          sources: [],
        }),
        [],
        new Uint8Array(0),
      ),
    );
    const x = [ramp(image)];
    const times: number[] = [];
    for (let i = 0; i < 12; i++) {
      const start = performance.now();
      await copy.run(x);
      times.push(performance.now() - start);
    }
    figure("a batch of 128 images in, ms", {
      run: rounded(median(times)),
      graph: rounded((await copy.timeGraph({ copies: true })).median),
    });
  });
  it("compiles many sources at once faster than one after another", async () => {
    const source = (i: number): string =>
      `template <int N> __device__ float f(float x) { return f<N - 1>(x * 1.0001f + ${i}) * x; }
       template <> __device__ float f<0>(float x) { return x; }
       extern "C" __global__ void k(float* p) { float v = p[threadIdx.x];
         #pragma unroll
         for (int i = 0; i < 48; i++) v = f<20>(v + i);
         p[threadIdx.x] = v; }`;
    const { arch } = gpu();
    await compileSource(source(-1), arch, { cache: false });
    let start = performance.now();
    for (let i = 0; i < 6; i++) await compileSource(source(i), arch, { cache: false });
    const serial = performance.now() - start;
    start = performance.now();
    await Promise.all(Array.from({ length: 6 }, (_, i) => compileSource(source(100 + i), arch, { cache: false })));
    figure("6 compilations, ms", {
      serial: rounded(serial),
      parallel: rounded(performance.now() - start),
      threads: process.env["UV_THREADPOOL_SIZE"] ?? "4",
    });
  });
});
