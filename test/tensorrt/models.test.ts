/**
 * Models through a real TensorRT: what builds without a GPU, and with one also what it computes, against ONNX Runtime. What was found is written to
 * `.cache/tensorrt/models.json`. What only a complete TensorRT can show is in full.test.ts.
 */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { performance } from "node:perf_hooks";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { tensorrtEngine } from "../../src/engines/tensorrt/index.js";
import { smText } from "../../src/engines/tensorrt/library.js";
import { loadLibrary, presentGpu } from "../../src/engines/tensorrt/load.js";
import { type CompileOptions, compile, load } from "../../src/index.js";
import { parse } from "../../src/ir/parse.js";
import { readNpz } from "../../src/npz.js";
import { type Measured, measure } from "../../src/runtime/measure.js";
import { untouched } from "../../src/runtime/untouched.js";
import { Tensor } from "../../src/tensor.js";
import { dataDir, NO_DATA } from "../support/data.js";
import { type Model, onnxModels, recordedRun } from "../support/models.js";
import { realLibrary } from "../support/tensorrt-real.js";

/** What ONNX Runtime gives for the file itself, by name. */
const reference = async (path: string, feeds: Record<string, Tensor>): Promise<Record<string, Tensor>> =>
  Object.fromEntries(await (await untouched(path)).values(feeds, []));

const [proper, rtx] = [realLibrary("tensorrt"), realLibrary("rtx")];
const real = proper.files === undefined ? rtx : proper;
const device = presentGpu();
const flavor = proper.files === undefined ? "rtx" : "tensorrt";
/** What plans are built for: this GPU, where the library serves it; TensorRT-RTX alone builds for others. */
const targets = flavor === "tensorrt" ? [smText(device?.properties.sm ?? 0)] : ["8.9", "12.0"];
const here = device === undefined ? undefined : smText(device.properties.sm);
/** Whether plans can be run, besides being built. */
const runs = here !== undefined && targets.includes(here);

interface Row {
  readonly model: string;
  readonly precision: string;
  readonly computeCapability: string;
  readonly buildMs: number;
  readonly planBytes: number;
  readonly engineSegments: number;
  readonly hostNodes: number;
  readonly flopsCovered: number;
  readonly reasons: readonly string[];
  /** Microseconds of one run of the engine segments on the device. */
  readonly deviceUs?: number;
  readonly relativeError?: number;
  readonly sqnrDb?: number;
}
const rows: Row[] = [];
const facts: Record<string, unknown> = {};
const skipped =
  real.files === undefined
    ? real.why
    : flavor === "tensorrt" && device === undefined
      ? " (skipped: TensorRT builds nothing without a GPU)"
      : "";

describe.skipIf(skipped !== "")(`models${skipped}`, () => {
  const folder = mkdtempSync(join(tmpdir(), "partita-trt-models-"));
  const before = { ...process.env };
  beforeAll(async () => {
    process.env["PARTITA_CACHE_DIR"] = join(folder, "cache");
    const { rt, why } = await loadLibrary({ flavor, sm: device?.properties.sm ?? 0 });
    facts["library"] = { ...rt.version, path: rt.library, why };
  });
  afterAll(() => {
    process.env = before;
    rmSync(folder, { recursive: true, force: true });
    const path = ".cache/tensorrt/models.json";
    const machine = {
      cpu: cpus()[0]?.model,
      cores: availableParallelism(),
      gpu: device?.properties ?? null,
      driver: device?.driver ?? null,
      node: process.version,
    };
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, `${JSON.stringify({ schema: "partita.tensorrt-results/1", machine, ...facts, rows }, null, 1)}\n`);
  });

  /** Compiles for one GPU, saves, and where it can be run compares the first output with ONNX Runtime's. */
  async function built(
    model: string,
    path: string,
    options: CompileOptions,
    feeds?: Readonly<Record<string, Tensor>>,
  ): Promise<{ readonly row: Row; readonly error: Measured | undefined }> {
    const start = performance.now();
    const program = await compile(path, { target: "tensorrt", ...options });
    const buildMs = performance.now() - start;
    const { quality, segments, reasons } = program.report.data;
    const bundle = join(folder, `${model}-${options.precision}-${options.computeCapability}.partita`);
    await program.save(bundle);
    let error: Measured | undefined;
    if (runs && options.computeCapability === here && feeds !== undefined) {
      const session = await (await load(bundle)).createSession();
      try {
        const [results, expected] = [await session.run(feeds), await reference(path, feeds)];
        const [name] = session.outputs.map((o) => o.name);
        error = measure(results[name ?? ""], expected[name ?? ""] as Tensor);
      } finally {
        await session.dispose();
      }
    }
    const deviceUs = segments.reduce(
      (t, s) => t + (s.engine === "tensorrt" ? (s.times?.find((x) => x.engine === "tensorrt")?.us ?? 0) : 0),
      0,
    );
    const row: Row = {
      model,
      precision: options.precision ?? "fp32",
      computeCapability: String(options.computeCapability),
      buildMs: Math.round(buildMs),
      planBytes: bytesIn(join(bundle, "engines")),
      engineSegments: quality.engineSegments,
      hostNodes: segments.filter((s) => s.engine === "host").reduce((n, s) => n + s.nodes, 0),
      flopsCovered: quality.flopsCovered,
      reasons: reasons.map((r) => `${r.nodes} x ${r.ops.join(", ")}: ${r.why}`),
      ...(deviceUs === 0 ? {} : { deviceUs }),
      ...(error === undefined ? {} : { relativeError: error.relative, sqnrDb: error.sqnrDb }),
    };
    rows.push(row);
    return { row, error };
  }

  const digits = dataDir("digits");
  const shapes = { x: { min: [1, 1, 16, 16], opt: [8, 1, 16, 16], max: [32, 1, 16, 16] } };
  const pixels = (set: string, from: number, count: number): Tensor => {
    const x = readNpz(join(digits ?? "", "data.npz")).get(set);
    if (!(x?.data instanceof Float32Array)) throw new Error(`data.npz has no float32 '${set}'`);
    return new Tensor("float32", x.data.slice(from * 256, (from + count) * 256), [count, 1, 16, 16]);
  };
  const tolerance = { fp32: 1e-4, fp16: 2e-2, bf16: 8e-2, int8: 0.25 } as const;
  describe.skipIf(digits === undefined)(`digits${digits === undefined ? ` (skipped: ${NO_DATA})` : ""}`, () => {
    for (const model of ["resnet", "mobilenet", "vit"])
      for (const precision of ["fp32", "fp16", "bf16", "int8"] as const)
        it.each(targets)(`${model} in ${precision} for %s, with a profile of 1 to 32`, async (computeCapability) => {
          const calibration = {
            data: (async function* () {
              for (let i = 0; i < 64; i += 16) yield { x: pixels("x_val", i, 16) };
            })(),
          };
          const options = { precision, computeCapability, shapes, ...(precision === "int8" ? { calibration } : {}) };
          const { row, error } = await built(model, join(digits ?? "", `${model}.onnx`), options, { x: pixels("x_test", 0, 32) });
          expect(row).toMatchObject({ engineSegments: 1, hostNodes: 0, flopsCovered: 1 });
          if (error !== undefined) expect(error.relative).toBeLessThan(tolerance[precision]);
        });
  });

  const zoo = new Map(onnxModels().map((m) => [m.name, m]));
  /** Name, and how many nodes must be left to the host. */
  const networks: readonly (readonly [name: string, host: number])[] = [
    ["torch/resnet50", 0],
    ["torch/mobilenet_v2", 0],
    ["torch/timm_vit_tiny", 0],
    ["torch/hf_bert", 0],
    ["torch/yolo8_nms", 5],
  ];
  describe.skipIf(zoo.size === 0)(`networks${zoo.size === 0 ? ` (skipped: ${NO_DATA})` : ""}`, () => {
    it.each(networks.flatMap(([name, host]) => [[name, "fp16", host] as const, [name, "fp32", host] as const]))(
      "%s in %s",
      async (name, precision, host) => {
        const model = zoo.get(name) as Model;
        const feeds = recordedRun(model)?.feeds ?? {};
        const fixed = Object.fromEntries(Object.entries(feeds).map(([k, t]) => [k, t.dims]));
        const { row, error } = await built(
          name.replace("/", "-"),
          model.path,
          { precision, computeCapability: targets[0], shapes: fixed },
          feeds,
        );
        expect(row.hostNodes).toBeLessThanOrEqual(host);
        expect(row.flopsCovered).toBeGreaterThan(0.999);
        if (error !== undefined && !name.includes("nms")) expect(error.relative).toBeLessThan(precision === "fp16" ? 5e-2 : 2e-3);
      },
    );
  });

  it("an error of the parser has the model's own name for the node", async () => {
    const g = parse(
      `graph "odd" opset {"": 18} (%x: float32[4, 4]) -> (%y) { %a = Relu(%x) @"fine"\n %y = OddOp(%a) @"the layer in question" }`,
    );
    await expect(
      tensorrtEngine.build(g, { target: { sm: Math.round(10 * Number(targets[0])), tensorrt: 0, precision: "fp32" } }),
    ).rejects.toMatchObject({ code: "P2213", where: { node: "the layer in question", op: "OddOp" } });
  });

  it.skipIf(flavor !== "rtx")("compute capability 9.0 is refused with the library's words, and the segment falls to the host", async () => {
    const g = parse(`graph "net" opset {"": 18} (%x: float32[4, 4]) -> (%y) { %a = Relu(%x)\n %b = Add(%a, %x)\n %y = Relu(%b) }`);
    const options: CompileOptions = { target: "tensorrt", computeCapability: 9, minimumSegmentSize: 1, tensorrt: { library: "rtx" } };
    await expect(compile(g, { ...options, strict: true })).rejects.toMatchObject({
      code: "P2214",
      message: expect.stringContaining("Compute capability is invalid or not supported"),
      fix: expect.stringMatching(/^compile the segment with --target cuda or host/),
    });
    const program = await compile(g, options);
    expect(program.report.data.segments.map((s) => s.engine)).toEqual(["host"]);
    expect(program.report.data.reasons[0]?.why).toContain("Compute capability is invalid or not supported");
  });
});

/** Bytes of the plans under a bundle's folder of engines. */
function bytesIn(path: string): number {
  return readdirSync(path, { recursive: true, withFileTypes: true })
    .filter((f) => f.isFile() && f.name === "engine.plan")
    .reduce((n, f) => n + statSync(join(f.parentPath, f.name)).size, 0);
}
