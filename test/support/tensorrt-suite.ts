/** What the whole addon does with one family's stand-in: the same calls that a real library gets. One family a process: their files share names. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Engine, Family, LogMessage, Progress, TensorRt } from "../../src/engines/tensorrt/native.js";
import { openTensorRt } from "../../src/engines/tensorrt/open.js";
import { useFakeDriver } from "./fake-cuda.js";
import { compileStandIn, generator, type StandIn } from "./fake-tensorrt.js";
import { Gpu, ramp } from "./tensorrt-gpu.js";
import { batch, layer, layerValues, WEIGHT } from "./tensorrt-models.js";
import { caught, runs } from "./tensorrt-runs.js";

export function suite(
  family: Family,
  options: { readonly version?: number; readonly text?: string; readonly flags?: readonly string[] } = {},
): void {
  const missing = useFakeDriver({ memory: 256 << 20 });
  const made = missing === undefined ? compileStandIn(family, options) : missing;
  const versioned = family === "11" || family === "rtx-1.5";

  describe.skipIf(typeof made === "string")(`the stand-in for ${family}${typeof made === "string" ? ` (skipped: ${made})` : ""}`, () => {
    const { library, parser } = made as StandIn;
    const text = options.text ?? (made as StandIn).text;
    const folder = mkdtempSync(join(tmpdir(), "partita-calls-"));
    const calls = join(folder, "calls");
    const lines = (): readonly string[] => (existsSync(calls) ? readFileSync(calls, "utf8").trim().split("\n") : []);
    let trt: TensorRt;
    let gpu: Gpu;
    beforeAll(() => {
      process.env["FAKE_TENSORRT_CALLS"] = calls;
      trt = openTensorRt({ library, parser });
      gpu = new Gpu();
    });
    afterAll(() => {
      delete process.env["FAKE_TENSORRT_CALLS"];
      rmSync(folder, { recursive: true, force: true });
    });

    const plan = async (options: Parameters<TensorRt["build"]>[1] = {}, model = layer()): Promise<Uint8Array> =>
      (await trt.build(model, { profiles: [[batch(1, 4, 8)]], ...options })).plan;
    const load = async (bytes: Uint8Array): Promise<Engine> => await trt.deserialize(bytes, { context: gpu.context });
    const recorded = async (work: () => Promise<unknown>): Promise<readonly string[]> => {
      const before = lines().length;
      await work();
      return lines().slice(before);
    };
    const failing = async (name: string, work: () => Promise<unknown>): Promise<Error & { readonly code?: string }> => {
      await trt.rest();
      process.env["FAKE_TENSORRT_FAIL"] = name;
      try {
        return await caught(work());
      } finally {
        delete process.env["FAKE_TENSORRT_FAIL"];
      }
    };

    it("says what it is; opened again it is the same", () => {
      expect(trt).toMatchObject({ family, library, parser, version: { text } });
      expect(openTensorRt({ library }).version).toEqual(trt.version);
    });

    describe("building", () => {
      it("gives a plan, the log of the library's own threads in the order of each, and progress", async () => {
        const seen: LogMessage[] = [];
        const steps: Progress[] = [];
        const result = await trt.build(layer(), {
          profiles: [[batch(1, 4, 8)]],
          onLog: (m) => seen.push(m),
          onProgress: (p) => steps.push(p),
        });
        expect(Buffer.from(result.plan.subarray(0, 8)).toString()).toBe("FAKEPLAN");
        for (const thread of [0, 1])
          expect(result.log.filter((m) => m.text.startsWith(`thread ${thread}:`)).map((m) => m.text)).toEqual(
            Array.from({ length: 50 }, (_, i) => `thread ${thread}: tactic ${i}`),
          );
        expect(result.log.filter((m) => m.severity === "warning")).toHaveLength(2);
        // Every line has come by the time the promise settles, and nothing after.
        expect(seen).toEqual(result.log);
        expect(steps).toEqual([
          { phase: "Building Engine", parent: undefined, step: 0, steps: 3 },
          { phase: "Timing", parent: "Building Engine", step: 0, steps: 3 },
          ...[1, 2, 3].map((step) => ({ phase: "Timing", parent: "Building Engine", step, steps: 3 })),
          { phase: "Timing", parent: "Building Engine", step: undefined, steps: 3 },
          { phase: "Building Engine", parent: undefined, step: undefined, steps: 3 },
        ]);
      });
      it("keeps the log at the level asked for, warnings and errors in any case", async () => {
        const { log } = await trt.build(layer(), { profiles: [[batch(1, 4, 8)]], logLevel: "error" });
        expect(log.map((m) => m.severity)).toEqual(["warning", "warning"]);
      });
      it("passes on every option, strongly typed networks among them, and ends every object", async () => {
        const rtx = trt.version.product === "TensorRT-RTX";
        await trt.rest();
        const list = await recorded(async () => {
          await plan({
            workspaceBytes: 1 << 30,
            optimizationLevel: 5,
            hardwareCompatibility: "ampere-plus",
            refit: "all",
            stripPlan: true,
            versionCompatible: true,
            tf32: false,
            sparseWeights: true,
            tacticSources: 3,
            maxAuxiliaryStreams: 2,
            profilingVerbosity: "detailed",
            timingCache: new Uint8Array(0),
            ...(rtx ? { computeCapabilities: [89, 120] } : {}),
          });
          await trt.rest();
        });
        expect(list).toContain(`network flags ${versioned ? 1 : 2}`);
        const count = (name: string): number => list.filter((l) => l === name).length;
        expect(count("BuilderConfig.setFlag")).toBe(4);
        expect(count("BuilderConfig.clearFlag")).toBe(1);
        expect(count("BuilderConfig.setComputeCapability")).toBe(rtx ? 2 : 0);
        for (const name of ["setMemoryPoolLimit", "setBuilderOptimizationLevel", "setHardwareCompatibilityLevel", "setMaxAuxStreams"])
          expect(count(`BuilderConfig.${name}`)).toBe(1);
        for (const name of ["Builder", "BuilderConfig", "NetworkDefinition", "Parser", "HostMemory", "TimingCache"])
          expect(count(`delete ${name}`), name).toBe(
            list.filter((l) => l.startsWith("new ") || l.startsWith("create")).filter((l) => l.endsWith(name)).length,
          );
        // The parser goes before its network, the builder last.
        expect(list.indexOf("delete Parser")).toBeLessThan(list.indexOf("delete NetworkDefinition"));
        expect(list.at(-1)).toBe("delete Builder");
      });
      it("one builder serves many networks and the parser's questions; one that failed, or that rested, is not used again", async () => {
        await trt.rest();
        const made = async (work: () => Promise<unknown>): Promise<readonly [number, number]> => {
          const list = await recorded(work);
          return [list.filter((l) => l === "createInferBuilder").length, list.filter((l) => l === "delete Builder").length];
        };
        expect(
          await made(async () => {
            await trt.supports(layer());
            await plan();
            await caught(trt.build(new Uint8Array(9)));
            await trt.supports(new Uint8Array(3));
            await plan({ refit: "all" });
          }),
        ).toEqual([1, 0]);
        // Another GPU's, or none's, is not this one's.
        expect(await made(() => plan({ context: gpu.context }))).toEqual([1, 0]);
        expect(await made(() => trt.supports(layer(), gpu.context))).toEqual([0, 0]);
        expect(await made(() => caught(trt.build(layer())))).toEqual([0, 1]);
        expect(await made(() => plan())).toEqual([1, 0]);
        // Two at once are two, and the second ends with its call.
        const slow = (): Promise<unknown> => plan({}, layer({ name: "fake:slow:40" }));
        expect(await made(() => Promise.all([slow(), slow()]))).toEqual([1, 1]);
        expect(await made(() => trt.rest())).toEqual([0, 2]);
        expect(await made(() => trt.rest())).toEqual([0, 0]);
      });
      // The sanitizer opens libraries itself, and the loader then looks where the sanitizer's own are.
      const sanitized = process.env["LD_PRELOAD"]?.includes("libasan") === true;
      const besides = `its kernels are looked for beside it, whatever LD_LIBRARY_PATH says${sanitized ? " (skipped: the sanitizer opens libraries)" : ""}`;
      it.skipIf(sanitized)(besides, async () => {
        await trt.rest();
        process.env["FAKE_TENSORRT_RESOURCE"] = "libfake_builder_resource.so.1.2.3";
        try {
          await plan();
          await trt.rest();
          process.env["FAKE_TENSORRT_RESOURCE"] = "libfake_builder_resource.so.3.2.1";
          expect((await caught(plan())).message).toMatch(/^P2224 .*Unable to load library: libfake_builder_resource.so.3.2.1/);
        } finally {
          delete process.env["FAKE_TENSORRT_RESOURCE"];
        }
      });
      it("reads a model from its file", async () => {
        const file = join(folder, "layer.onnx");
        writeFileSync(file, layer());
        expect((await trt.build(file, { profiles: [[batch(1, 4, 8)]] })).plan).toEqual(await plan());
        expect((await caught(trt.build(join(folder, "none.onnx")))).message).toMatch(/^P2213 .*Input file cannot be found/);
      });
      it("timing caches go in and come out; one that is refused starts anew, with a warning", async () => {
        const bytes = async (timingCache: Uint8Array): Promise<readonly [string, boolean]> => {
          const r = await trt.build(layer(), { profiles: [[batch(1, 4, 8)]], timingCache });
          return [Buffer.from(r.timingCache ?? []).toString(), r.log.some((m) => m.text.includes("timing cache is refused"))];
        };
        expect(await bytes(new Uint8Array(0))).toEqual(["FAKECACHE3", false]);
        expect(await bytes(Buffer.from("FAKECACHE7"))).toEqual(["FAKECACHE3", false]);
        expect(await bytes(Buffer.from("something else"))).toEqual(["FAKECACHE3", true]);
        expect((await trt.build(layer(), { profiles: [[batch(1, 4, 8)]] })).timingCache).toBeUndefined();
      });
      it("an aborted build ends at the next step and rejects with the reason", async () => {
        const controller = new AbortController();
        const reason = new Error("enough");
        const building = plan({ signal: controller.signal, onProgress: () => controller.abort(reason) }, layer({ name: "fake:slow:20" }));
        expect(await caught(building)).toBe(reason);
        expect(await caught(plan({ signal: AbortSignal.abort(reason) }))).toBe(reason);
      });
      it("what a listener throws ends the build and is what it rejects with", async () => {
        const thrown = new Error("the listener's own");
        const angry = (): never => {
          throw thrown;
        };
        expect(await caught(plan({ onLog: angry }, layer({ name: "fake:slow:20" })))).toBe(thrown);
        expect(await caught(plan({ onProgress: angry }))).toBe(thrown);
      });
      it("eight at once keep their results apart", async () => {
        const plans = await Promise.all(Array.from({ length: 8 }, (_, i) => plan({}, layer({ weight: WEIGHT.map((w) => w + i) }))));
        const engines = await Promise.all(plans.map(load));
        for (const [i, engine] of engines.entries()) {
          expect(await gpu.run(engine, ramp(2))).toEqual(
            layerValues(
              ramp(2),
              WEIGHT.map((w) => w + i),
            ),
          );
          await engine.dispose();
        }
      });
    });

    describe("what cannot be built", () => {
      it("P2213: the parser's error with the node's own name", async () => {
        const error = await caught(plan({}, layer({ name: "the odd one", op: "Erf" })));
        expect(error.message).toBe(
          "P2213 node 'the odd one' (Erf): TensorRT's parser does not take the segment: unsupported node: no importer registered for op: Erf. " +
            "Pin the node to another engine, or use a newer TensorRT.",
        );
        expect(error).toMatchObject({
          code: "P2213",
          where: { node: "the odd one", op: "Erf" },
          cause: { parser: [{ node: 1, nodeName: "the odd one", op: "Erf", code: "unsupported node" }] },
        });
      });
      it("P2213: bytes that are no model", async () => {
        for (const bytes of [new Uint8Array(0), new Uint8Array(100), layer().subarray(0, 60)])
          expect((await caught(plan({}, bytes))).message).toMatch(/^P2213 .*model is no ONNX: Failed to parse the ONNX model\. /);
      });
      it("P2214: no profile for an open dim, a range that is none, a node without an implementation", async () => {
        expect((await caught(trt.build(layer()))).message).toBe(
          "P2214 TensorRT builds no engine of the segment: Error Code 4: IBuilder::buildSerializedNetwork: Network has dynamic or shape inputs, but no " +
            "optimization profile has been defined. Give a profile for every open dim, more workspace, or compile the segment with --target cuda or host.",
        );
        expect((await caught(plan({ profiles: [[batch(1, 4, 8, "z")]] }))).message).toMatch(
          /^P2214 .*Dynamic input tensor x is missing dimensions in profile 0/,
        );
        expect((await caught(plan({}, layer({ name: "fake:fail-build" })))).message).toMatch(
          /^P2214 .*Could not find any implementation for node fake:fail-build/,
        );
        expect((await caught(plan({ tacticSources: 99 }))).message).toMatch(/^P2214 .*setTacticSources/);
      });
      it("P2221: no memory for the build", async () => {
        expect((await caught(plan({}, layer({ name: "fake:oom-build" })))).message).toBe(
          "P2221 buildSerializedNetwork found no memory: Error Code 5: IBuilder::buildSerializedNetwork: OutOfMemory (Requested size was 68719476736 bytes.). " +
            "Free memory on the GPU, lower the workspace limit, or use smaller profiles.",
        );
      });
      it("P2219: options that this version does not have", async () => {
        if (trt.version.product === "TensorRT")
          expect((await caught(plan({ computeCapabilities: [89] }))).message).toBe(
            `P2219 TensorRT ${text} does not know computeCapabilities. Leave it out: TensorRT builds for the GPU that is there; TensorRT-RTX builds for others.`,
          );
        else
          expect((await caught(plan({ computeCapabilities: [90] }))).message).toMatch(
            /^P2214 .*Compute capability is invalid or not supported/,
          );
        if (versioned)
          expect((await caught(plan({ stronglyTyped: false }))).message).toMatch(/^P2219 .*does not know stronglyTyped: false/);
        else expect(await recorded(() => plan({ stronglyTyped: false }))).toContain("network flags 0");
        for (const optimizationLevel of [6, -1, 1.5]) expect((await caught(plan({ optimizationLevel }))).code).toBe("P2219");
      });
      it.each(["createInferBuilder", "new NetworkDefinition", "createNvOnnxParser", "new BuilderConfig"])(
        "P2224: %s gives nothing",
        async (name) => {
          const error = await failing(name, () => plan());
          expect(error.message).toMatch(/^P2224 create\w+ gave nothing/);
        },
      );
      it.each(["new HostMemory", "new OptimizationProfile"])("P2214: %s gives nothing", async (name) => {
        expect((await failing(name, () => plan())).code).toBe("P2214");
      });
      it("a library that says why it cannot start is quoted", async () => {
        expect((await failing("createInferBuilder", () => plan())).message).toContain("Unable to load library libfake_builder_resource.so");
      });
    });

    it("the parser's opinion: subgraphs by node, and why not", async () => {
      // TensorRT 10.0 can only say yes or no.
      const told = trt.version.minor > 0;
      const all = told ? [{ supported: true, nodes: [0, 1, 2] }] : [];
      expect(await trt.supports(layer())).toMatchObject({ supported: true, subgraphs: all, errors: [] });
      const parts = [0, 1, 2].map((i) => ({ supported: i !== 1, nodes: [i] }));
      expect(await trt.supports(layer({ name: "odd", op: "Erf" }))).toMatchObject({
        supported: false,
        subgraphs: told ? parts : [],
        errors: [{ node: 1, nodeName: "odd", op: "Erf", code: "unsupported node", text: "no importer registered for op: Erf" }],
      });
      expect((await trt.supports(new Uint8Array(3))).supported).toBe(false);
    });

    describe("engines", () => {
      it("tell what they take, and in which profiles", async () => {
        const engine = await load(await plan({ profiles: [[batch(1, 4, 8)], [batch(9, 16, 32)]], profilingVerbosity: "detailed" }));
        expect(engine).toMatchObject({ profiles: 2, layers: 3, canRefit: false, deviceMemoryBytes: 4096 });
        expect(engine.io).toEqual([
          { name: "x", mode: "input", dtype: "float32", dims: [-1, 3], location: "device" },
          { name: "y", mode: "output", dtype: "float32", dims: [-1, 3], location: "device" },
        ]);
        expect(engine.range("x", 1)).toEqual({ name: "x", min: [9, 3], opt: [16, 3], max: [32, 3] });
        for (const [name, profile] of [
          ["x", 2],
          ["y", 0],
          ["z", 0],
        ] as const)
          expect(() => engine.range(name, profile)).toThrow(`P2217 the engine has no input '${name}' in profile ${profile}`);
        expect(engine.inspect()).toEqual({ Layers: ["product", "bias", "relu"], Verbosity: 2 });
        expect(await gpu.run(engine, ramp(5))).toEqual(layerValues(ramp(5)));
        expect(await gpu.run(engine, ramp(20), 1)).toEqual(layerValues(ramp(20)));
        expect((await caught(engine.createContext({ profile: 2 }))).message).toMatch(/^P2217 the engine has no profile 2/);
        await engine.dispose();
      });
      it("P2216: plans that are damaged, of another version, or none", async () => {
        const good = await plan();
        const damaged = Uint8Array.from(good);
        damaged[damaged.length - 20] = (damaged.at(-20) ?? 0) ^ 1;
        const other = Uint8Array.from(good);
        new DataView(other.buffer).setInt32(16, 80601, true);
        for (const [bytes, why] of [
          [damaged, "checksum failed"],
          [other, "not compatible with this version of TensorRT, expecting library version"],
          [good.subarray(0, 100), "plan.header.size == blobSize failed"],
          [good.subarray(0, 10), "shorter than a header"],
          [new Uint8Array(1000), "kEXPECTED_MAGIC_TAG"],
        ] as const)
          expect((await caught(load(bytes))).message).toMatch(new RegExp(`^P2216 TensorRT does not load the plan: .*${why}`));
        expect((await caught(load(new Uint8Array(0)))).message).toMatch(
          /^P2216 TensorRT does not load the plan: it is empty\. Compile again/,
        );
      });
      it("P2221 and P2216: no context", async () => {
        const engine = await load(await plan({}, layer({ name: "fake:oom-context" })));
        expect((await caught(engine.createContext())).message).toMatch(/^P2221 createExecutionContext found no memory/);
        await engine.dispose();
        const other = await load(await plan());
        expect((await failing("new ExecutionContext", () => other.createContext())).message).toMatch(
          /^P2216 .*createExecutionContext: returned null/,
        );
        expect((await failing("new EngineInspector", async () => other.inspect())).message).toMatch(
          /^P2216 .*createEngineInspector: returned null/,
        );
        await other.dispose();
        expect((await failing("new CudaEngine", async () => load(await plan()))).code).toBe("P2216");
        expect((await failing("createInferRuntime", async () => load(await plan()))).code).toBe("P2224");
      });
      it("without a GPU they load but do not run", async () => {
        const engine = await trt.deserialize(await plan(), { allowHostCode: true });
        expect(engine.layers).toBe(3);
        expect((await caught(engine.createContext())).message).toMatch(/^P2217 an engine that was loaded without a GPU cannot run/);
        await engine.dispose();
      });
    });

    runs({ plan, load, recorded, failing, gpu: () => gpu, library, family });

    it("everything of the table was called, and every object was ended", () => {
      const list = lines();
      const called = new Set(list);
      const minor = trt.version.minor;
      const column = generator.families.indexOf(family);
      const slots = generator
        .readSlots()
        .filter(({ kind, cells }) => kind === "V" && (cells[column]?.value ?? -1) >= 0 && minor >= (cells[column]?.since ?? 0));
      const names = slots.map((s) => s.name.replace("_", "."));
      // Two have a successor, which is used where it is there.
      const old = names.filter((n) => names.includes(`${n}V2`));
      expect(names.filter((n) => !called.has(n))).toEqual(old);
      for (const kind of [
        "BuilderConfig",
        "NetworkDefinition",
        "HostMemory",
        "TimingCache",
        "CudaEngine",
        "ExecutionContext",
        "EngineInspector",
      ])
        expect(list.filter((l) => l === `delete ${kind}`).length, kind).toBe(
          list.filter((l) => l === `new ${kind}`).length - list.filter((l) => l === `failing new ${kind}`).length,
        );
    });
  });
}
