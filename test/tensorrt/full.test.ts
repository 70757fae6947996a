/**
 * `npm run test:tensorrt -- --full`: everything that only a complete TensorRT and a GPU can show, into one result file. With stand-ins for both
 * (`--dry-run`) the same checks run over a small network, so that the run itself is known to work.
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { performance } from "node:perf_hooks";
import { afterAll, beforeAll, describe, expect } from "vitest";
import { contextOf, segmentFor } from "../../src/build.js";
import { plan } from "../../src/compile.js";
import { PartitaError } from "../../src/diagnostics.js";
import { hostEngine } from "../../src/engines/host/index.js";
import { tensorRtFacts } from "../../src/engines/tensorrt/doctor.js";
import { openEngine } from "../../src/engines/tensorrt/executable.js";
import { tensorrtEngine } from "../../src/engines/tensorrt/index.js";
import { loadLibrary, presentGpu } from "../../src/engines/tensorrt/load.js";
import type { Engine, ProfileRange, TensorRt } from "../../src/engines/tensorrt/native.js";
import { prepareSegment } from "../../src/engines/tensorrt/prepare.js";
import { probeTensorRt } from "../../src/engines/tensorrt/probe.js";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { importOnnx } from "../../src/import/onnx/index.js";
import { type CompileOptions, compile, load, type ReportData } from "../../src/index.js";
import { Editor } from "../../src/ir/edit.js";
import { displayName, valueAt } from "../../src/ir/graph.js";
import { parse } from "../../src/ir/parse.js";
import { makeConstant, typedOf } from "../../src/ir/payload.js";
import type { Graph } from "../../src/ir/types.js";
import { readNpz } from "../../src/npz.js";
import { inferGraph } from "../../src/ops/infer.js";
import { type Agreement, agreementOf } from "../../src/runtime/agreement.js";
import { measure, randomFeeds } from "../../src/runtime/measure.js";
import { Tensor, type TensorLike } from "../../src/tensor.js";
import { dataDir } from "../support/data.js";
import { useFakeDriver } from "../support/fake-cuda.js";
import { onnxModels, recordedRun } from "../support/models.js";
import { standInFolder } from "../support/tensorrt-folder.js";
import {
  check,
  checkAlone,
  claim,
  dry,
  fill,
  LeftOut,
  median,
  mode,
  note,
  onnxRuntime,
  runBare,
  type Subject,
  shared,
  variants,
} from "../support/tensorrt-full.js";
import { damagedPlan, tryDamaged, withPlan } from "../support/tensorrt-plans.js";

const before = { ...process.env };
const noDriver = dry ? useFakeDriver({ memory: 2 ** 24 }) : undefined;
const standIn = dry ? standInFolder("11") : undefined;
if (standIn !== undefined) process.env["PARTITA_TENSORRT_DIR"] = standIn.folder;
const why = mode === "" ? "--full was not asked for" : (noDriver ?? standIn?.missing);

/** How long the networks' builders look for tactics: what is compared is the same plan, in Partita and without it. TensorRT's own choice when not given. */
const given = process.env["PARTITA_TENSORRT_LEVEL"];
const level = given === undefined || given === "" ? undefined : Number(given);

const folder = mkdtempSync(join(tmpdir(), "partita-trt-full-"));
const ROWS = { min: 1, opt: 8, max: 32 };

/** x W + b twice, with Relu between and behind. A node's name tells the stand-in to take its time, and `odd` is for what it does not take. */
const mlp = (name: string, nodes: { readonly bias?: string; readonly odd?: string } = {}): string => {
  const numbers = (count: number, seed: number): string =>
    Array.from({ length: count }, (_, i) => (Math.round(1000 * Math.sin(seed + 7 * i)) / 1000).toFixed(3)).join(", ");
  return `graph "${name}" opset {"": 18} (%x: float32[N, 24]) -> (%y) {
  const %w1 = float32[24, 32] [${numbers(768, 1)}]
  const %b1 = float32[32] [${numbers(32, 2)}]
  const %w2 = float32[32, 16] [${numbers(512, 3)}]
  const %b2 = float32[16] [${numbers(16, 4)}]
  %p = MatMul(%x, %w1) @"product"
  %s = Add(%p, %b1) @"${nodes.bias ?? "bias"}"
  %h = ${nodes.odd ?? "Relu"}(%s) @"between"
  %q = MatMul(%h, %w2) @"second"
  %t = Add(%q, %b2) @"sum"
  %y = Relu(%t) @"last"
}`;
};
const mlpRows = (rows: number, seed = 0): Readonly<Record<string, Tensor>> => ({
  x: new Tensor(
    "float32",
    Float32Array.from({ length: rows * 24 }, (_, i) => Math.sin(seed + 0.37 * i)),
    [rows, 24],
  ),
});
function written(name: string, text: string): string {
  const path = join(folder, `${name}.onnx`);
  // The parser wants the types of outputs said.
  writeFileSync(path, encodeOnnx(inferGraph(parse(text)).graph));
  return path;
}

function subjects(): readonly Subject[] {
  if (dry)
    return [
      {
        name: "mlp",
        path: written("mlp", mlp("mlp")),
        shapes: { x: { min: [ROWS.min, 24], opt: [ROWS.opt, 24], max: [ROWS.max, 24] } },
        feeds: Array.from({ length: 4 }, (_, i) => mlpRows(ROWS.opt, i)),
        precisions: ["fp32", "fp16", "int8"],
        batch: mlpRows,
      },
    ];
  const digits = dataDir("digits");
  const small = ["resnet", "mobilenet", "vit"].flatMap((name): Subject[] => {
    if (digits === undefined) return [];
    const arrays = readNpz(join(digits, "data.npz"));
    const rows = (set: string, from: number, count: number): Readonly<Record<string, Tensor>> => {
      const x = arrays.get(set);
      if (!(x?.data instanceof Float32Array)) throw new Error(`data.npz has no float32 '${set}'`);
      return { x: new Tensor("float32", x.data.slice(from * 256, (from + count) * 256), [count, 1, 16, 16]) };
    };
    return [
      {
        name: `digits ${name}`,
        path: join(digits, `${name}.onnx`),
        shapes: { x: { min: [1, 1, 16, 16], opt: [8, 1, 16, 16], max: [32, 1, 16, 16] } },
        feeds: [rows("x_test", 0, 8), ...Array.from({ length: 7 }, (_, i) => rows("x_val", 8 * i, 8))],
        precisions: ["fp32", "fp16", "int8"],
        batch: (n) => rows("x_test", 0, n),
      },
    ];
  });
  const zoo = onnxModels().filter((m) => ["torch/resnet50", "torch/mobilenet_v2", "torch/timm_vit_tiny", "torch/hf_bert"].includes(m.name));
  const large = zoo.flatMap((m): Subject[] => {
    const feeds = recordedRun(m)?.feeds;
    if (feeds === undefined) return [];
    const shapes = Object.fromEntries(Object.entries(feeds).map(([name, t]) => [name, t.dims]));
    return [
      {
        name: m.name.replace("torch/", ""),
        path: m.path,
        shapes,
        feeds: [feeds, ...variants(feeds, 7)],
        precisions: ["fp32", "fp16", "int8"],
      },
    ];
  });
  return [...small, ...large];
}

describe.skipIf(why !== undefined)(`everything${why === undefined ? "" : ` (skipped: ${why})`}`, () => {
  const all = why === undefined ? subjects() : [];
  const first = all[0] as Subject;
  const [main] = (all[0] === undefined ? [] : [first.feeds[0]]) as readonly Readonly<Record<string, Tensor>>[];
  let rt: TensorRt;
  let sm = 0;

  beforeAll(async () => {
    process.env["PARTITA_CACHE_DIR"] = join(shared ?? folder, "cache");
    const device = presentGpu();
    sm = device?.properties.sm ?? 0;
    note({
      gpu: device?.properties ?? null,
      driver: device?.driver ?? null,
      models: all.map((s) => s.name),
      optimizationLevel: level ?? null,
    });
    // The library is tried in a child by one process of the run; the others find what it told.
    const ready = join(shared ?? folder, "ready");
    const first = claim("the first use of the library");
    for (let i = 0; !first && !existsSync(ready) && i < 1800; i++) await new Promise((resolve) => setTimeout(resolve, 100));
    const loaded = await loadLibrary({ sm }).finally(() => writeFileSync(ready, ""));
    rt = loaded.rt;
    note({ library: { ...rt.version, family: rt.family, path: rt.library, parser: rt.parser ?? null, why: loaded.why } });
  });
  afterAll(() => {
    process.env = before;
    rmSync(folder, { recursive: true, force: true });
  });

  const only = (r: ReportData): ReportData["segments"][number] => {
    const [s, ...others] = r.segments;
    if (s === undefined || others.length > 0 || s.engine !== "tensorrt")
      throw new Error(
        `not one TensorRT segment: ${r.segments.map((x) => x.name).join(", ")}; ${r.reasons.map((x) => `${x.ops.join(", ")}: ${x.why}`).join("; ")}`,
      );
    return s;
  };
  const options = (s: Subject, precision: Subject["precisions"][number], more: CompileOptions = {}): CompileOptions => ({
    target: "tensorrt",
    precision,
    shapes: s.shapes,
    ...(precision === "int8" ? { calibration: { data: s.feeds, search: s.batch === undefined ? "none" : "auto" } } : {}),
    ...more,
    tensorrt: { ...(level === undefined ? {} : { optimizationLevel: level }), ...more.tensorrt },
  });
  const planOf = async (
    s: Subject,
    o: CompileOptions,
    to: string,
  ): Promise<{ readonly data: ReportData; readonly bundle: string; readonly plan: Uint8Array }> => {
    const program = await compile(s.path, o);
    const bundle = join(shared ?? folder, "bundles", to);
    mkdirSync(dirname(bundle), { recursive: true });
    await program.save(bundle);
    only(program.report.data);
    return { data: program.report.data, bundle, plan: planIn(bundle) };
  };
  const planIn = (bundle: string): Uint8Array => {
    const file = readdirSync(bundle, { recursive: true, encoding: "utf8" }).find((f) => f.endsWith("engine.plan"));
    return readFileSync(join(bundle, file ?? ""));
  };
  const opened = async <T>(engine: Engine, work: (e: Awaited<ReturnType<typeof openEngine>>) => Promise<T>): Promise<T> => {
    const device = presentGpu();
    if (device === undefined) throw new Error("there is no GPU");
    const ports = (m: "input" | "output"): string[] => engine.io.filter((t) => t.mode === m).map((t) => t.name);
    const e = await openEngine(engine, { device, inputs: ports("input"), outputs: ports("output"), streams: 1, graphs: true });
    try {
      return await work(e);
    } finally {
      await e.dispose();
    }
  };
  /** The GPU to build on, where there is one. */
  const gpuOf = (): { readonly context?: NonNullable<ReturnType<typeof presentGpu>>["context"] } => {
    const context = presentGpu()?.context;
    return context === undefined ? {} : { context };
  };
  const deserialized = async (plan: Uint8Array): Promise<Engine> => await rt.deserialize(plan, { context: presentGpu()?.context });
  const ordered = (engine: Engine, feeds: Readonly<Record<string, Tensor>>): readonly Tensor[] =>
    engine.io.filter((t) => t.mode === "input").map((t) => feeds[t.name] as Tensor);
  /** The largest relative error over the outputs. */
  const errors = (found: Readonly<Record<string, Tensor>>, expected: Readonly<Record<string, Tensor>>) =>
    Object.entries(expected).map(([name, t]) => ({ name, ...measure(found[name], t) }));
  const profiles = (s: Subject): readonly ProfileRange[] =>
    Object.entries(s.shapes).flatMap(([name, r]) => (Array.isArray(r) ? [] : [{ name, ...(r as Omit<ProfileRange, "name">) }]));

  check("the library: found, tried in a child process, and what doctor says of all that are there", async (figures) => {
    figures["doctor"] = await tensorRtFacts(sm, process.env, (f) =>
      probeTensorRt({ library: f.library, ...(f.parser === undefined ? {} : { parser: f.parser }), fresh: true }),
    );
    expect((await tensorrtEngine.available()).ok).toBe(true);
  });

  check("1,000 damaged plans in child processes", async (figures) => {
    const { plan, bundle } = await planOf(first, options(first, "fp32", { tune: "none" }), "damaged");
    const { counts, deaths } = await tryDamaged(rt, plan, Number(process.env["PARTITA_FUZZ"] ?? (dry ? 50 : 1000)), 1);
    Object.assign(figures, { counts, deaths });
    // What TensorRT itself does not survive, Partita tries in a process of its own first. The bundles are whole by their checksums.
    figures["sessions"] = await Promise.all(
      deaths.map(async ({ index }) => {
        const to = withPlan(bundle, join(folder, `damaged-${index}`), damagedPlan(plan, 1, index));
        const session = (await load(to)).createSession();
        return await session.then(
          async (s) => {
            await s.dispose();
            return { index, ended: "opened" };
          },
          (e: unknown) => ({ index, ended: e instanceof PartitaError ? e.message : `no code: ${e}` }),
        );
      }),
    );
    for (const { ended } of figures["sessions"] as readonly { readonly ended: string }[]) expect(ended).toMatch(/^(?:P22\d\d |opened)/);
  });

  // The large ones first: processes that share the work end at about the same time.
  const variations = all
    .toReversed()
    .flatMap((s) => s.precisions.toReversed().map((precision) => ({ s, precision, name: `${s.name} in ${precision}` })));
  for (const { s, precision, name } of variations)
    check(name, async (figures) => {
      const feeds = s.feeds[0] as Readonly<Record<string, Tensor>>;
      const { data, bundle, plan } = await planOf(s, options(s, precision), `${s.name}-${precision}`);
      const { layers, ...segment } = only(data);
      const session = await (await load(bundle)).createSession();
      const found = await session.run(feeds).finally(() => session.dispose());
      Object.assign(figures, { planBytes: plan.length, layers: layers?.length, int8: segment.int8 });
      const worst = errors(found, await onnxRuntime(s.path, feeds));
      figures["error"] = worst;
      const allowed = precision === "fp16" ? Math.max(5e-3, 4 * (await halfError(s, figures))) : precision === "fp32" ? 2e-3 : 0.5;
      for (const e of worst) expect(e.relative, e.name).toBeLessThan(allowed);
      if (precision === "int8") await besideReference(s, segment.int8, figures);
    });
  /** The error of half precision itself: of the model that TensorRT's parser gets, in ONNX Runtime. TensorRT may add up in half precision besides. */
  async function halfError(s: Subject, figures: Record<string, unknown>): Promise<number> {
    const feeds = s.feeds[0] as Readonly<Record<string, Tensor>>;
    const planned = await plan(s.path, {
      ...options(s, "fp16"),
      shapes: Object.fromEntries(Object.entries(feeds).map(([k, t]) => [k, t.dims])),
    });
    const [segment] = planned.partition.segments;
    if (segment === undefined || planned.partition.segments.length > 1) throw new Error("the half-precision model is not one segment");
    const { onnx } = prepareSegment(segmentFor(tensorrtEngine, planned, segment), "fp16");
    const half = errors(await onnxRuntime(onnx, feeds), await onnxRuntime(s.path, feeds));
    figures["halfInOnnxRuntime"] = half;
    return Math.max(...half.map((e) => e.relative));
  }
  /**
   * TensorRT may round floats between the integer layers as it likes. Where that turns out to change much, it is held to how far the reference
   * arithmetic goes from itself on floats that are moved by half a step of TF32: in a deep network one other rounding becomes many.
   */
  async function besideReference(s: Subject, found: Agreement | undefined, figures: Record<string, unknown>): Promise<void> {
    if (found === undefined) throw new Error("the report has nothing of the reference arithmetic");
    if (found.mismatchPpm < 10_000) return;
    const own = await movedByTf32(s);
    figures["referenceMovedByTf32"] = own;
    expect(found.maxSteps).toBeLessThan(3 * (own?.maxSteps ?? 0) + 1);
  }
  /** The reference arithmetic beside itself: with its float inputs moved, or, where it has none, the tables that its integers look up. */
  async function movedByTf32(s: Subject): Promise<Agreement | undefined> {
    const planned = await plan(s.path, options(s, "int8"));
    const [segment] = planned.partition.segments;
    if (segment === undefined || planned.partition.segments.length > 1) throw new Error("the quantized model is not one segment");
    const g = segmentFor(hostEngine, planned, segment);
    const nudged = (x: Float32Array): Float32Array => x.map((v, i) => v * (1 + 2 ** -12 * Math.sin(12.9898 * i + 1)));
    const first = s.feeds[0] as Readonly<Record<string, Tensor>>;
    const names = g.inputs.map((v) => valueAt(g, v).name);
    // The report's feeds are random too.
    const feeds = randomFeeds(names.map((name) => ({ name, type: first[name]?.type, dims: first[name]?.dims })) as never, 1);
    const given = names.map((name) => feeds[name] as Tensor);
    const floats = given.some((t) => t.data instanceof Float32Array);
    const moved = given.map((t) => (t.data instanceof Float32Array ? new Tensor("float32", nudged(t.data), t.dims) : t));
    const draft = new Editor(g);
    const tables = new Set(floats ? [] : g.nodes.filter((n) => n.op === "Gather").map((n) => n.ins[0]));
    for (const [id, c] of g.constants)
      if (tables.has(id) && c.dtype === "float32")
        draft.setConstant(id, makeConstant("float32", c.dims, Array.from(nudged(typedOf(c) as Float32Array))));
    const run = async (graph: Graph, inputs: readonly Tensor[]): Promise<readonly TensorLike[]> => {
      const executable = await hostEngine.open(await hostEngine.build(graph, contextOf(planned)), { streams: 1, threads: 0 });
      return await executable.run(inputs).finally(() => executable.dispose());
    };
    return agreementOf(g, await run(draft.finish(), moved), await run(g, given));
  }

  check("a profile of 1 to 32: every batch in it, none outside", async (figures) => {
    const s = all.find((x) => x.batch !== undefined);
    if (s?.batch === undefined) throw new LeftOut("no model with an open batch");
    const { bundle } = await planOf(s, options(s, "fp32"), "profile");
    const session = await (await load(bundle)).createSession();
    try {
      const relative: Record<string, number> = {};
      for (const rows of [1, 2, 8, 31, 32, 8, 1]) {
        const feeds = s.batch(rows);
        relative[rows] = Math.max(...errors(await session.run(feeds), await onnxRuntime(s.path, feeds)).map((e) => e.relative));
      }
      figures["relative"] = relative;
      expect(Math.max(...Object.values(relative))).toBeLessThan(2e-3);
      await expect(session.run(s.batch(33))).rejects.toMatchObject({ code: "P2204", message: expect.stringContaining("was built for") });
    } finally {
      await session.dispose();
    }
  });

  check("weights that are exchanged, and plans without weights", async (figures) => {
    const g = importOnnx(first.path);
    const other = rescaled(g);
    const range = first.batch === undefined ? {} : { profiles: [profiles(first)] };
    const { plan } = await rt.build(readFileSync(first.path), { ...range, refit: "all", tf32: false, ...gpuOf() });
    const engine = await deserialized(plan);
    const names = await engine.refittable();
    figures["refittable"] = names.all.length;
    expect(engine.canRefit).toBe(true);
    await opened(engine, async (e) => {
      const outputs = engine.io.filter((t) => t.mode === "output").map((t) => t.name);
      const run = async (): Promise<Record<string, Tensor>> =>
        Object.fromEntries((await e.run(ordered(engine, main ?? {}))).map((t, i) => [outputs[i] ?? "", t]));
      const compared = async (model: Uint8Array | string): Promise<number> =>
        Math.max(...errors(await run(), await onnxRuntime(model, main ?? {})).map((x) => x.relative));
      figures["before"] = await compared(first.path);
      await engine.refit(other.onnx);
      figures["after"] = await compared(other.onnx);
      figures["unlike"] = await compared(first.path);
      await engine.refit(readFileSync(first.path));
      figures["back"] = await compared(first.path);
    });
    for (const key of ["before", "after", "back"]) expect(figures[key], key).toBeLessThan(2e-3);
    expect(figures["unlike"]).toBeGreaterThan(2e-2);
    const { bundle, plan: stripped } = await planOf(first, options(first, "fp32", { tensorrt: { stripWeights: true } }), "stripped");
    figures["strippedBytes"] = [stripped.length, plan.length];
    const session = await (await load(bundle)).createSession();
    try {
      for (const e of errors(await session.run(main ?? {}), await onnxRuntime(first.path, main ?? {})))
        expect(e.relative, e.name).toBeLessThan(2e-3);
    } finally {
      await session.dispose();
    }
  });

  check("engines of one session: tensorrt, cuda and host, with boxes that the host sorts out", async (figures) => {
    const zoo = onnxModels().find((m) => m.name === "torch/yolo8_nms");
    const recorded = dry || zoo === undefined ? undefined : recordedRun(zoo);
    if (!dry && (zoo === undefined || recorded === undefined)) throw new LeftOut("PARTITA_TEST_DATA has no torch/yolo8_nms");
    const path = dry ? written("mixed", mlp("mixed", { odd: "Sigmoid" })) : (zoo?.path ?? "");
    const feeds = dry ? (main ?? {}) : (recorded?.feeds ?? {});
    const shapes = dry ? first.shapes : Object.fromEntries(Object.entries(feeds).map(([k, t]) => [k, t.dims]));
    const pool = dry ? undefined : importOnnx(path).nodes.find((n) => n.op === "MaxPool");
    // What leads to the first pool on one engine, the pool on the other: the rest goes where it is estimated to be faster.
    const name = pool === undefined ? "" : displayName(importOnnx(path), pool);
    const pin =
      pool === undefined
        ? []
        : [
            { match: `..${name}`, to: "tensorrt" as const },
            { match: name, to: "cuda" as const },
          ];
    const program = await compile(path, {
      target: dry ? ["tensorrt"] : ["tensorrt", "cuda"],
      shapes,
      pin,
      minimumSegmentSize: 1,
      tune: "none",
    });
    const made = dry ? undefined : await beforeTheHost(path, feeds, { shapes, pin, minimumSegmentSize: 1, tune: "none" }, figures);
    const engines = program.report.data.segments.map((s) => s.engine);
    figures["segments"] = engines;
    figures["reasons"] = program.report.data.reasons.map((r) => `${r.engine}, ${r.ops.join(" ")}: ${r.why}`);
    expect(new Set(engines)).toEqual(new Set(dry ? ["tensorrt", "host"] : ["tensorrt", "cuda", "host"]));
    const session = await program.createSession();
    try {
      const expected = await onnxRuntime(path, feeds);
      const found = await session.run(feeds);
      figures["dims"] = Object.entries(expected).map(([name, t]) => [name, t.dims, found[name]?.dims]);
      // Boxes of like scores may change places: what is held to ONNX Runtime is what they are chosen from, and what the host makes of that.
      figures["error"] = errors(found, expected);
      const own = errors(found, made ?? expected);
      figures["errorOfTheHost"] = own;
      for (const e of own) expect(e.relative, e.name).toBeLessThan(dry ? 5e-2 : 1e-6);
    } finally {
      await session.dispose();
    }
  });
  /** Compares what the host's part of a network reads, from the GPU's engines beside ONNX Runtime, alone and together; gives what ONNX Runtime makes of that. */
  async function beforeTheHost(
    path: string,
    feeds: Readonly<Record<string, Tensor>>,
    asked: CompileOptions,
    figures: Record<string, unknown>,
  ): Promise<Readonly<Record<string, Tensor>>> {
    const planned = await plan(path, { ...asked, target: ["tensorrt", "cuda"] });
    const last = planned.partition.segments.at(-1);
    if (last?.engine !== "host") throw new Error("the network does not end on the host");
    const tail = segmentFor(hostEngine, planned, last);
    const outputs = tail.inputs.map((v) => valueAt(tail, v).name);
    const run = async (more: CompileOptions): Promise<Readonly<Record<string, Tensor>>> => {
      const session = await (await compile(path, { ...asked, outputs, ...more })).createSession();
      return await session.run(feeds).finally(() => session.dispose());
    };
    const expected = await run({ target: "host", pin: [] });
    const both = await run({ target: ["tensorrt", "cuda"] });
    const worst = (found: Readonly<Record<string, Tensor>>): number => Math.max(...errors(found, expected).map((e) => e.relative));
    figures["beforeTheHost"] = {
      together: errors(both, expected),
      tensorrt: worst(await run({ target: "tensorrt", pin: [] })),
      cuda: worst(await run({ target: "cuda", pin: [] })),
    };
    expect(worst(both)).toBeLessThan(2e-3);
    return await onnxRuntime(encodeOnnx(tail), both);
  }

  // Stand-ins tell nothing of time.
  if (!dry)
    checkAlone("where both engines can take a network, both are built and timed, and the faster one has it", async (figures) => {
      for (const s of all.filter((x) => ["digits resnet", "hf_bert"].includes(x.name))) {
        const program = await compile(s.path, { ...options(s, "fp16"), target: ["tensorrt", "cuda"] });
        const { segments } = program.report.data;
        figures[s.name] = segments.map(({ engine, times }) => ({ engine, times }));
        const session = await program.createSession();
        try {
          const feeds = s.feeds[0] as Readonly<Record<string, Tensor>>;
          for (const e of errors(await session.run(feeds), await onnxRuntime(s.path, feeds))) expect(e.relative, e.name).toBeLessThan(2e-2);
        } finally {
          await session.dispose();
        }
        expect(segments.length).toBeGreaterThan(0);
        for (const { engine, times = [] } of segments) {
          expect(times.map((t) => t.engine).toSorted()).toEqual(["cuda", "tensorrt"]);
          expect(engine).toBe(times.toSorted((a, b) => a.us - b.us)[0]?.engine);
        }
      }
    });

  check("outputs whose dims the data decides", async (figures) => {
    if (rt.version.product === "TensorRT-RTX") throw new LeftOut("TensorRT-RTX has no operator whose dims the data decides");
    const text = dry
      ? mlp("rows", { bias: "fake:data-dims" })
      : `graph "found" opset {"": 18} (%x: float32[6, 7]) -> (%y) { %a = Relu(%x)\n %y = NonZero(%a) }`;
    const path = written("found", text);
    const x = new Tensor(
      "float32",
      Float32Array.from({ length: 42 }, (_, i) => Math.sin(3 * i)),
      [6, 7],
    );
    const feeds = dry ? (main ?? {}) : { x };
    // The planner leaves such operators to the host: this is of the engine alone.
    const { plan } = await rt.build(readFileSync(path), { ...(dry ? { profiles: [profiles(first)] } : {}), ...gpuOf() });
    const engine = await deserialized(plan);
    const expected = (await onnxRuntime(path, feeds))["y"] as Tensor;
    await opened(engine, async (e) => {
      for (let i = 0; i < 3; i++) {
        const [y] = await e.run(ordered(engine, feeds));
        figures["dims"] = y?.dims;
        if (!dry)
          expect([y?.dims, Array.from(y?.data as BigInt64Array)]).toEqual([expected.dims, Array.from(expected.data as BigInt64Array)]);
        // The stand-in keeps the rows that do not begin with zero.
        else expect(y?.dims).toEqual([Array.from({ length: ROWS.opt }, (_, k) => expected.data[16 * k]).filter((v) => v !== 0).length, 16]);
      }
    });
  });

  check("1,000 runs from 8 callers; the end of a session while they run", async (figures) => {
    const { bundle } = await planOf(first, options(first, "fp32", { tune: "none" }), "callers");
    const program = await load(bundle);
    const session = await program.createSession({ streams: 4 });
    const expected = await Promise.all(first.feeds.map((f) => onnxRuntime(first.path, f)));
    let wrong = 0;
    await Promise.all(
      Array.from({ length: 8 }, async (_, caller) => {
        for (let i = 0; i < 125; i++) {
          const k = (caller + i) % first.feeds.length;
          const found = await session.run(first.feeds[k] as Readonly<Record<string, Tensor>>);
          if (errors(found, expected[k] as Record<string, Tensor>).some((e) => !(e.relative < 2e-3))) wrong++;
        }
      }),
    );
    figures["wrong"] = wrong;
    expect(wrong).toBe(0);
    const runs = Array.from({ length: 32 }, () =>
      session.run(main ?? {}).then(
        () => "ran",
        (e: { readonly code?: string }) => e.code ?? "no code",
      ),
    );
    await session.dispose();
    const ends = await Promise.all(runs);
    figures["ends"] = Object.fromEntries([...new Set(ends)].map((e) => [e, ends.filter((x) => x === e).length]));
    expect(ends.filter((e) => e === "no code")).toEqual([]);
    await expect(session.run(main ?? {})).rejects.toMatchObject({ code: expect.stringMatching(/^P\d{4}$/) });
  });

  check("what does not go: coded errors, and the segment elsewhere", async (figures) => {
    const caught = async (name: string, code: RegExp, work: () => Promise<unknown>): Promise<void> => {
      const error = await work().then(
        () => undefined,
        (e: unknown) => e as { readonly code?: string; readonly message: string },
      );
      figures[name] = error?.message ?? "nothing failed";
      expect(error?.code, name).toMatch(code);
    };
    const odd = parse(mlp("odd", { odd: "OddOp" }));
    const shapes = { x: { min: [1, 24], opt: [8, 24], max: [32, 24] } };
    await caught("a node that no engine takes, strictly", /^P\d{4}$/, () => compile(odd, { target: "tensorrt", shapes, strict: true }));
    await caught("no range for an open dim", /^P2230$/, () =>
      compile(parse(mlp("open")), { target: "tensorrt", strict: true, minimumSegmentSize: 1 }),
    );
    if (rt.version.product === "TensorRT")
      await caught("another GPU", /^P2232$/, () =>
        compile(parse(mlp("other")), {
          target: "tensorrt",
          shapes,
          strict: true,
          computeCapability: sm === 89 ? 8.6 : 8.9,
          tensorrt: { library: "tensorrt" },
        }),
      );
    const { plan } = await planOf(first, options(first, "fp32", { tune: "none" }), "refused");
    await caught("a plan cut short", /^P2216$/, () => deserialized(plan.subarray(0, plan.length >> 1)));
    await caught("no plan at all", /^P2216$/, () => deserialized(new Uint8Array(4096)));
    await caught("a broken model", /^P2213$/, () => rt.build(new Uint8Array(64).fill(255)));
    const stopped = new AbortController();
    stopped.abort(new Error("enough"));
    await expect(compile(first.path, { ...options(first, "fp32"), signal: stopped.signal })).rejects.toThrow("enough");
  });

  check("the log at its most talkative comes from all of TensorRT's threads", async (figures) => {
    const said: Record<string, number> = {};
    const range = first.batch === undefined ? {} : { profiles: [profiles(first)] };
    await rt.build(readFileSync(first.path), {
      ...range,
      ...gpuOf(),
      logLevel: "verbose",
      onLog: ({ severity }) => {
        said[severity] = (said[severity] ?? 0) + 1;
      },
    });
    Object.assign(figures, said);
    expect(Object.values(said).reduce((a, b) => a + b, 0)).toBeGreaterThan(10);
  });

  for (const { s, precision, name } of variations)
    checkAlone(`the time of ${name}`, async (figures) => {
      const feeds = s.feeds[0] as Readonly<Record<string, Tensor>>;
      const bundle = join(shared ?? folder, "bundles", `${s.name}-${precision}`);
      if (!existsSync(bundle)) throw new LeftOut("its check above made no plan");
      const plan = planIn(bundle);
      const session = await (await load(bundle)).createSession();
      const waited = async (fed: Readonly<Record<string, Tensor>>): Promise<number> => {
        const us: number[] = [];
        const [warmup, runs] = dry ? [5, 20] : [200, 500];
        for (let i = -warmup; i < runs; i++) {
          const start = performance.now();
          await session.run(fed);
          if (i >= 0) us.push(1000 * (performance.now() - start));
        }
        return median(us);
      };
      let host: { readonly partita: number; readonly pageLocked: number };
      try {
        const locked = Object.fromEntries(
          Object.entries(feeds).map(([k, t]) => {
            const own = session.allocate(t.type as "float32", t.dims);
            own.data.set(t.data as Float32Array);
            return [k, own];
          }),
        );
        host = { partita: await waited(feeds), pageLocked: await waited(locked) };
      } finally {
        await session.dispose();
      }
      // The same plan from C++, before and behind ours: the better of two is of a quiet machine.
      const bare = [runBare(rt, folder, plan, feeds, dry ? 20 : 300)];
      const engine = await deserialized(plan);
      const [ours = Number.NaN, again = Number.NaN] = await opened(engine, async (e) => [
        await e.timeUs?.(ordered(engine, feeds)),
        await e.timeUs?.(ordered(engine, feeds)),
      ]);
      bare.push(runBare(rt, folder, plan, feeds, dry ? 20 : 300));
      const least = (pick: "deviceUs" | "hostUs"): number => Math.min(...bare.map((b) => b[pick]));
      const device = { partita: Math.min(ours, again), bare: least("deviceUs"), graph: bare[0]?.graph };
      // What one caller waits. The bare loop's inputs lie in page-locked memory.
      figures["latencyUs"] = { device, host: { ...host, bare: least("hostUs") } };
      // What the stand-in's GPU tells of time means nothing.
      if (!dry) expect(device.partita / device.bare).toBeLessThan(1.03);
    });

  checkAlone("a timing cache: the second build takes at most a fifth of the first", async (figures) => {
    if (rt.version.product === "TensorRT-RTX") throw new LeftOut("TensorRT-RTX times nothing when it builds: its timing cache is empty");
    const s = all.find((x) => x.name === "resnet50") ?? first;
    const model = dry ? encodeOnnx(parse(mlp("slow", { bias: "fake:slow:400" }))) : readFileSync(s.path);
    const range = s.batch === undefined ? {} : { profiles: [profiles(s)] };
    const build = async (timingCache: Uint8Array) => await rt.build(model, { ...range, ...gpuOf(), timingCache });
    const one = await build(new Uint8Array());
    const two = await build(one.timingCache ?? new Uint8Array());
    Object.assign(figures, {
      model: s.name,
      firstMs: one.buildMs,
      secondMs: two.buildMs,
      cacheBytes: one.timingCache?.length,
      times: one.buildMs / two.buildMs,
    });
    expect(one.timingCache?.length).toBeGreaterThan(0);
    expect(one.buildMs / two.buildMs).toBeGreaterThanOrEqual(5);
  });

  checkAlone("the time of each layer, and what the inspector says", async (figures) => {
    const program = await compile(first.path, options(first, "fp16", { tensorrt: { inspection: "detailed" } }));
    const { layers = [], times = [], inspection } = only(program.report.data);
    const sum = layers.reduce((us, l) => us + (l.us ?? 0), 0);
    Object.assign(figures, {
      model: first.name,
      layers,
      sumUs: sum,
      wholeUs: times[0]?.us,
      inspectionBytes: JSON.stringify(inspection ?? "").length,
    });
    expect(layers.length).toBeGreaterThan(0);
    expect(layers.every((l) => l.name !== "")).toBe(true);
    expect(inspection).toBeTypeOf("object");
  });

  checkAlone("no memory on the GPU is a coded error, and there is memory again after it", async (figures) => {
    const s = all.find((x) => x.name === "resnet50") ?? first;
    const { bundle } = await planOf(s, options(s, "fp32", { tune: "none" }), "memory");
    const program = await load(bundle);
    const device = presentGpu();
    if (device === undefined) throw new LeftOut("there is no GPU");
    const release = fill(device, dry ? 256 : 2 ** 20);
    let error: { readonly code?: string; readonly message: string } | undefined;
    try {
      const session = await program.createSession();
      await session.run(s.feeds[0] ?? {}).finally(() => session.dispose());
    } catch (e) {
      error = e as { readonly code?: string; readonly message: string };
    } finally {
      release();
    }
    figures["error"] = error?.message ?? "nothing failed";
    expect(error?.code).toMatch(/^P2[12]\d\d$/);
    const session = await program.createSession();
    await session.run(s.feeds[0] ?? {}).finally(() => session.dispose());
  });
});

/** The model with its largest matrix of weights halved. */
function rescaled(g: Graph): { readonly onnx: Uint8Array } {
  const matrices = [...g.constants].filter(([, c]) => c.dtype === "float32" && c.dims.length >= 2);
  const [id, largest] = matrices.reduce((a, b) => (size(b[1].dims) > size(a[1].dims) ? b : a));
  const draft = new Editor(g);
  draft.setConstant(
    id,
    makeConstant(
      "float32",
      largest.dims,
      Array.from(typedOf(largest) as Float32Array, (x) => 0.5 * x),
    ),
  );
  return { onnx: encodeOnnx(draft.finish()) };
}
const size = (dims: readonly number[]): number => dims.reduce((a, b) => a * b, 1);
