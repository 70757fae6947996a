/** The TensorRT engine whole, against a stand-in for TensorRT 11 and a stand-in driver: compile, save, load, run; what goes wrong, and where it then runs. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { openEngine } from "../../../src/engines/tensorrt/executable.js";
import { loadLibrary, presentGpu } from "../../../src/engines/tensorrt/load.js";
import { encodeOnnx } from "../../../src/import/onnx/export.js";
import { type CompileOptions, compile, load, report } from "../../../src/index.js";
import { parse } from "../../../src/ir/parse.js";
import type { Graph } from "../../../src/ir/types.js";
import { Tensor } from "../../../src/tensor.js";
import { useFakeDriver } from "../../support/fake-cuda.js";
import { standInFolder } from "../../support/tensorrt-folder.js";

const noDriver = useFakeDriver({ memory: 256 << 20 });
const { folder: installed, missing: noLibrary } = standInFolder("11");
const missing = noDriver ?? noLibrary;

const net = (middle = "relu", op = "Relu", rows = "N"): Graph =>
  parse(`graph "net" opset {"": 18} (%x: float32[${rows}, 3]) -> (%y) {
  const %w = float32[3, 3] [1.0, -2.0, 0.5, 0.0, 1.0, 1.0, -1.0, 3.0, 2.0]
  const %b = float32[3] [0.25, -0.5, 1.0]
  %p = MatMul(%x, %w) @"product"
  %s = Add(%p, %b) @"bias"
  %r = ${op}(%s) @"${middle}"
  %t = Add(%r, %p) @"sum"
  %y = Relu(%t) @"last"
}`);
const x = (rows: number, from = 0): Tensor =>
  new Tensor(
    "float32",
    Float32Array.from({ length: rows * 3 }, (_, i) => ((i + from) % 11) - 5),
    [rows, 3],
  );
const numbers = (results: Readonly<Record<string, Tensor | undefined>> | undefined): number[] => {
  const data = results?.["y"]?.data;
  return data instanceof Float32Array ? [...data] : [];
};
const target: CompileOptions = { target: "tensorrt", minimumSegmentSize: 1, tune: "none" };
const ranged: CompileOptions = { ...target, shapes: { x: { min: [1, 3], opt: [4, 3], max: [8, 3] } } };

describe.skipIf(missing !== undefined)(`the TensorRT engine${missing === undefined ? "" : ` (skipped: ${missing})`}`, () => {
  const folder = mkdtempSync(join(tmpdir(), "partita-trt-"));
  const calls = join(folder, "calls");
  const before = { ...process.env };
  beforeAll(() => {
    process.env["PARTITA_TENSORRT_DIR"] = installed;
    process.env["PARTITA_CACHE_DIR"] = join(folder, "cache");
  });
  // Each test builds its own engines.
  const forget = (): void => rmSync(join(folder, "cache", "engines"), { recursive: true, force: true });
  afterEach(() => {
    forget();
    delete process.env["FAKE_TENSORRT_FAIL"];
    delete process.env["FAKE_TENSORRT_CALLS"];
  });
  afterAll(() => {
    process.env = before;
    rmSync(folder, { recursive: true, force: true });
  });
  const recorded = async (work: () => Promise<unknown>): Promise<string> => {
    rmSync(calls, { force: true });
    process.env["FAKE_TENSORRT_CALLS"] = calls;
    await work();
    return existsSync(calls) ? readFileSync(calls, "utf8") : "";
  };
  const engines = (program: Awaited<ReturnType<typeof compile>>): string[] => program.report.data.segments.map((s) => s.engine);
  const hostValues = async (g: Graph, t: Tensor): Promise<Float32Array> => {
    const session = await (await compile(g, { target: "host" })).createSession();
    try {
      return (await session.run({ x: t }))["y"]?.data as Float32Array;
    } finally {
      await session.dispose();
    }
  };

  it("compiles, saves, loads and runs; equal to the host", async () => {
    const program = await compile(net("relu", "Relu", "4"), target);
    expect(engines(program)).toEqual(["tensorrt"]);
    await program.save(join(folder, "net.partita"));
    const session = await (await load(join(folder, "net.partita"))).createSession({ streams: 2 });
    for (let i = 0; i < 4; i++) {
      const { y } = await session.run({ x: x(4, i) });
      expect([y?.type, y?.dims]).toEqual(["float32", [4, 3]]);
      expect(numbers({ y })).toEqual([...(await hostValues(net("relu", "Relu", "4"), x(4, i)))]);
    }
    await session.dispose();
    await expect(session.run({ x: x(4) })).rejects.toMatchObject({ code: "P3105" });
  });

  it("runs of dims that come again are CUDA graphs, and give the same", async () => {
    const program = await compile(net("relu", "Relu", "4"), target);
    const session = await program.createSession();
    const expected = [...(await hostValues(net("relu", "Relu", "4"), x(4)))];
    const text = await recorded(async () => {
      for (let i = 0; i < 6; i++) expect(numbers(await session.run({ x: x(4) }))).toEqual(expected);
    });
    // The first run, the second, the one before the capture and the captured one.
    expect(text.split("\n").filter((l) => l.includes("enqueueV3")).length).toBeLessThanOrEqual(4);
    await session.dispose();
    const plain = await (await compile(net("relu", "Relu", "4"), { ...target, tensorrt: { cudaGraphs: false } })).createSession();
    const every = await recorded(async () => {
      for (let i = 0; i < 6; i++) expect(numbers(await plain.run({ x: x(4) }))).toEqual(expected);
    });
    expect(every.split("\n").filter((l) => l.includes("enqueueV3"))).toHaveLength(6);
    await plain.dispose();
  });

  it("graphs of weights that were exchanged are captured anew", async () => {
    const device = presentGpu();
    if (device === undefined) throw new Error("there is no GPU");
    const { rt } = await loadLibrary({ sm: device.properties.sm });
    const weighted = (factor: number): Uint8Array =>
      encodeOnnx(
        parse(`graph "net" opset {"": 18} (%x: float32[4, 3]) -> (%y) {
  const %w = float32[3, 2] [${[1, -2, 0.5, 0, 1, 3].map((v) => (factor * v).toFixed(2)).join(", ")}]
  %y = MatMul(%x, %w) @"product"
}`),
      );
    const { plan } = await rt.build(weighted(1), { refit: "all", context: device.context });
    const engine = await rt.deserialize(plan, { context: device.context });
    const opened = await openEngine(engine, { device, inputs: ["x"], outputs: ["y"], streams: 1, graphs: true });
    const run = async (): Promise<number[]> => numbers({ y: (await opened.run([x(4)]))[0] });
    let once: number[] = [];
    for (let i = 0; i < 4; i++) once = await run();
    const replayed = await recorded(run);
    expect(replayed).not.toContain("enqueueV3");
    await engine.refit(weighted(2));
    const text = await recorded(async () => expect(await run()).toEqual(once.map((v) => 2 * v)));
    expect(text).toContain("enqueueV3");
    for (let i = 0; i < 4; i++) expect(await run()).toEqual(once.map((v) => 2 * v));
    expect(await recorded(run)).not.toContain("enqueueV3");
    await opened.dispose();
  });

  it("serves every size of a profile, many at once, and refuses what lies outside: P2204", async () => {
    const session = await (await compile(net(), ranged)).createSession({ streams: 4 });
    const sizes = Array.from({ length: 200 }, (_, i) => 1 + (i % 8));
    const results = await Promise.all(sizes.map((n, i) => session.run({ x: x(n, i) })));
    for (const i of [0, 7, 63, 199]) {
      const n = sizes[i] as number;
      expect(numbers(results[i])).toEqual([...(await hostValues(net(), x(n, i)))]);
    }
    await expect(session.run({ x: x(9) })).rejects.toMatchObject({ code: "P2204", message: expect.stringContaining("[1, 3] to [8, 3]") });
    await session.dispose();
  });

  it("waits for runs that are under way when it is disposed of", async () => {
    const session = await (await compile(net("fake:slow:20", "Relu", "4"), target)).createSession();
    const running = [session.run({ x: x(4) }), session.run({ x: x(4) })];
    await session.dispose();
    for (const r of running) expect((await r)["y"]?.dims).toEqual([4, 3]);
  });

  it("a node that the parser does not take goes to the host with the parser's words; under strict that fails", async () => {
    const program = await compile(net("odd", "Sigmoid", "4"), target);
    expect(engines(program)).toContain("host");
    const [why] = program.report.why("odd");
    expect(JSON.stringify(why)).toMatch(/TensorRT 11\.2\.1's parser does not take it/);
    const session = await program.createSession();
    expect((await session.run({ x: x(4) }))["y"]?.dims).toEqual([4, 3]);
    await session.dispose();
    await expect(compile(net("odd", "Sigmoid", "4"), { ...target, strict: true })).rejects.toMatchObject({
      code: "P1703",
      message: expect.stringContaining("parser does not take it"),
    });
  });

  it("a segment that is not built falls back with the reason, and fails under strict: P2214", async () => {
    const program = await compile(net("fake:fail-build", "Relu", "4"), target);
    expect(engines(program)).toEqual(["host"]);
    expect(program.report.data.reasons[0]).toMatchObject({ engine: "tensorrt", nodes: 5, why: expect.stringContaining("(P2214)") });
    await expect(compile(net("fake:fail-build", "Relu", "4"), { ...target, strict: true })).rejects.toMatchObject({ code: "P2214" });
    await expect(
      compile(net("fake:fail-build", "Relu", "4"), { ...target, pin: [{ match: "product", to: "tensorrt" }] }),
    ).rejects.toMatchObject({ code: "P2214" });
  });

  it("a library that cannot start falls back too, with its own words: P2224", async () => {
    process.env["FAKE_TENSORRT_FAIL"] = "createInferBuilder";
    const program = await compile(net("relu", "Relu", "4"), target);
    expect(engines(program)).toEqual(["host"]);
    expect(program.report.data.reasons[0]?.why).toContain("(P2224)");
    await expect(compile(net("relu", "Relu", "4"), { ...target, strict: true })).rejects.toMatchObject({ code: "P2224", exit: 3 });
  });

  it("an open dim without a range is P2230, and names the input", async () => {
    await expect(compile(net(), { ...target, strict: true })).rejects.toMatchObject({
      code: "P2230",
      message: expect.stringContaining("dim 'N' of 'x' has no range"),
    });
  });

  it("with dynamic shapes a plan is built for the batch that comes, serves smaller ones, and comes from the disk in the next session", async () => {
    const path = join(folder, "open.partita");
    await (await compile(net(), { ...target, dynamic: true })).save(path);
    for (const round of [0, 1]) {
      const session = await (await load(path)).createSession();
      for (const rows of [5, 3, 5]) expect(numbers(await session.run({ x: x(rows) }))).toEqual([...(await hostValues(net(), x(rows)))]);
      expect(session.stats().cache, `round ${round}`).toEqual({ hits: 2, misses: 1, builds: 1, evictions: 0, fallbacks: 0 });
      await session.dispose();
    }
  });

  it("buckets are ranges of a plan, one for each, built beforehand", async () => {
    const program = await compile(net(), { ...target, dynamic: { buckets: { N: [2, 8] } } });
    expect(program.report.data.segments[0]?.deviceMemory).toEqual([{ workspaceLimitBytes: 2 ** 30 }]);
    const session = await program.createSession();
    for (const rows of [1, 2, 3, 8]) expect(numbers(await session.run({ x: x(rows) }))).toEqual([...(await hostValues(net(), x(rows)))]);
    expect(session.stats().cache).toMatchObject({ hits: 4, builds: 0 });
    await session.dispose();
  });

  it("TensorRT does not build for a GPU that is not here: P2232", async () => {
    await expect(compile(net("relu", "Relu", "4"), { ...target, strict: true, computeCapability: 8.9 })).rejects.toMatchObject({
      code: "P2232",
      message: expect.stringContaining("compute capability 8.9 was asked for, and this GPU has 9.0"),
    });
  });

  it("keeps what was measured, by version and GPU, and hands it to the next build", async () => {
    const timing = join(folder, "own.timing");
    const options = { ...target, tensorrt: { timingCache: timing } };
    await compile(net("relu", "Relu", "4"), options);
    const first = readFileSync(timing);
    expect(first.subarray(0, 8).toString()).toBe("PTTIME01");
    await compile(net("relu", "Relu", "4"), options);
    expect(readFileSync(timing)).toEqual(first);
    forget();
    await compile(net("relu", "Relu", "4"), options);
    expect(readFileSync(timing)).toEqual(first);
    // A damaged file counts as none, and is replaced.
    writeFileSync(timing, first.subarray(0, first.length - 1));
    forget();
    await compile(net("relu", "Relu", "4"), options);
    expect(readFileSync(timing)).toEqual(first);
    expect(readdirSync(join(folder, "cache", "tensorrt"))).toContain("TensorRT-11.2.1-Fake-GPU-0-sm_90.timing");
    rmSync(join(folder, "cache"), { recursive: true });
    await compile(net("relu", "Relu", "4"), { ...target, tensorrt: { timingCache: false } });
    expect(readdirSync(join(folder, "cache", "tensorrt"))).toEqual(["plans"]);
  });

  it("a plan without weights takes them from the segment beside it", async () => {
    const program = await compile(net("relu", "Relu", "4"), { ...target, tensorrt: { stripWeights: true } });
    const bundle = join(folder, "stripped.partita");
    await program.save(bundle);
    const session = await (await load(bundle)).createSession();
    expect(numbers(await session.run({ x: x(4) }))).toEqual([...(await hostValues(net("relu", "Relu", "4"), x(4)))]);
    await session.dispose();
  });

  it("with a GPU the report has times, layers and the inspector's words", async () => {
    const program = await compile(net("relu", "Relu", "4"), { ...target, tune: "quick", tensorrt: { inspection: "detailed" } });
    const [segment] = program.report.data.segments;
    expect(segment?.times).toHaveLength(1);
    expect(segment?.times?.[0]).toMatchObject({ engine: "tensorrt" });
    expect(segment?.layers?.length).toBeGreaterThan(0);
    expect(segment?.inspection).toBeDefined();
  });

  it("plans of another version, of another GPU, incomplete or damaged ones are refused: P2202, P2203, P2216", async () => {
    const { tensorrtEngine } = await import("../../../src/engines/tensorrt/index.js");
    const segment = net("relu", "Relu", "4");
    const artifact = await tensorrtEngine.build(segment, { target: { sm: 90, tensorrt: 110_201, precision: "fp32" } });
    const open = (change: object) => tensorrtEngine.open({ ...artifact, ...change }, { streams: 1, threads: 1 });
    const settings = (change: object): object => ({ settings: { ...artifact.settings, ...change } });
    await expect(open(settings({ version: "11.1.0" }))).rejects.toMatchObject({
      code: "P2202",
      message: expect.stringContaining("built by TensorRT 11.1.0 for compute capability 9.0, this machine has TensorRT 11.2.1"),
    });
    await expect(open(settings({ sm: "89" }))).rejects.toMatchObject({ code: "P2202" });
    await expect(open({ files: [] })).rejects.toMatchObject({ code: "P2203" });
    await expect(open({ inputs: ["z"] })).rejects.toMatchObject({ code: "P2203", message: expect.stringContaining("no input 'z'") });
    await expect(open({ files: [{ name: "engine.plan", bytes: new Uint8Array(64) }] })).rejects.toMatchObject({ code: "P2216" });
    const executable = await open({});
    await expect(executable.run([])).rejects.toMatchObject({ code: "P2204" });
    await expect(executable.run([new Tensor("int32", Int32Array.of(1), [1])])).rejects.toMatchObject({ code: "P2204" });
    await executable.dispose();
    await executable.dispose();
    await expect(async () => await executable.run([x(4)])).rejects.toMatchObject({ code: "P2205" });
  });

  it("a report needs no plan to be built", async () => {
    const text = await recorded(async () => {
      expect((await report(net("relu", "Relu", "4"), target)).data.segments[0]?.engine).toBe("tensorrt");
    });
    expect(text).not.toContain("buildSerializedNetwork");
  });
});
