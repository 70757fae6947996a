/** The page for people who come from TF-TRT: its blocks run in order, as one program, on a frozen graph and a SavedModel of one small net. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { compile } from "../../src/compile.js";
import type { Program } from "../../src/index.js";
import type { Report } from "../../src/report/report.js";
import { Tensor } from "../../src/tensor.js";
import { calibGraphToInferGraph, createInferenceGraph, type InferenceGraph, TrtGraphConverterV2 } from "../../src/tftrt.js";
import {
  bool,
  constant,
  FLOAT,
  graphDef,
  INT32,
  ints,
  type NodeSpec,
  node,
  placeholder,
  shape,
  text,
  type,
  writeSavedModel,
} from "../support/tf-graph.js";

const root = join(dirname(fileURLToPath(import.meta.url)), "../..");
const folder = mkdtempSync(join(tmpdir(), "partita-from-tf-trt-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const T = type(FLOAT);
const wave = (n: number): number[] => Array.from({ length: n }, (_, i) => Math.sin(1.7 * i) / 4);
const WEIGHTS: readonly (readonly [name: string, dims: readonly number[], values: readonly number[]])[] = [
  ["kernel", [3, 3, 3, 16], wave(432)],
  ["bias", [16], wave(16)],
  ["kernel2", [3, 3, 16, 16], wave(2304)],
  ["dense", [16, 5], wave(80)],
];
/** Two convolutions, Relu, mean, product, softmax; `w` makes the nodes of a weight and says what to read. */
const net = (images: string, w: (name: string) => string): NodeSpec[] => [
  placeholder(images, FLOAT, [-1, 16, 16, 3]),
  node("conv", "Conv2D", [images, w("kernel")], { T, strides: ints(1, 2, 2, 1), padding: text("SAME") }),
  node("biased", "BiasAdd", ["conv", w("bias")], { T }),
  node("relu", "Relu", ["biased"], { T }),
  node("conv2", "Conv2D", ["relu", w("kernel2")], { T, strides: ints(1, 1, 1, 1), padding: text("SAME") }),
  node("relu2", "Relu", ["conv2"], { T }),
  constant("axes", INT32, [2], [1, 2]),
  node("mean", "Mean", ["relu2", "axes"], { T, Tidx: type(INT32), keep_dims: bool(false) }),
  node("logits", "MatMul", ["mean", w("dense")], { T }),
  node("probabilities", "Softmax", ["logits"], { T }),
];

interface Page {
  readonly program: Program;
  readonly probabilities: Tensor;
  readonly saved: Program;
  readonly ports: readonly string[];
  readonly half: Program;
  readonly quantized: Program;
  readonly planned: Report;
  readonly quality: { readonly engineSegments: number; readonly flopsCovered: number };
  readonly converter: TrtGraphConverterV2;
  readonly converted: InferenceGraph;
  readonly scores: Tensor;
  readonly final: InferenceGraph;
  readonly integer: Tensor;
}

describe("docs/from-tf-trt.md", () => {
  let page: Page;
  const printed: string[] = [];
  beforeAll(async () => {
    writeFileSync(
      join(folder, "net.pb"),
      graphDef([...WEIGHTS.map(([name, dims, values]) => constant(name, FLOAT, dims, values)), ...net("images", (name) => name)]),
    );
    writeSavedModel(join(folder, "net_saved_model"), {
      nodes: [
        ...WEIGHTS.flatMap(([name, dims]) => [
          node(name, "VarHandleOp", [], { dtype: T, shape: shape(dims), shared_name: text(name) }),
          node(`${name}/read`, "ReadVariableOp", [name], { dtype: T }),
        ]),
        ...net("serving_images", (name) => `${name}/read`),
      ],
      signatures: { serving_default: { inputs: { images: "serving_images:0" }, outputs: { scores: "probabilities:0" } } },
      variables: WEIGHTS.map(([key, dims, values]) => ({ key, dims, values })),
    });
    const blocks = [...readFileSync(join(root, "docs/from-tf-trt.md"), "utf8").matchAll(/```ts ([a-z0-9]+)\n([\s\S]*?)```/g)];
    expect(blocks.map(([, title]) => title)).toEqual(["frozen", "saved", "fp16", "int8", "report", "names"]);
    const entry: Readonly<Record<string, string>> = { partita: "index", "partita/tftrt": "tftrt" };
    const names =
      "program, probabilities, saved, ports, half, quantized, planned, quality, reasons, converter, converted, scores, final, integer";
    const source = blocks
      .map(([, , code]) => code ?? "")
      .join("\n")
      .replace(/from "(partita[a-z/]*)"/g, (_, name: string) => `from ${JSON.stringify(join(root, "src", `${entry[name]}.ts`))}`)
      .replace(/"\.\/([\w.]+)"/g, (_, name: string) => JSON.stringify(join(folder, name)));
    mkdirSync(join(root, ".cache/docs"), { recursive: true });
    const file = join(root, ".cache/docs/from-tf-trt.ts");
    writeFileSync(file, `${source}\nexport { ${names} };\n`);
    const log = vi.spyOn(console, "log").mockImplementation((s: string) => void printed.push(s));
    try {
      page = (await import(file)) as Page;
    } finally {
      log.mockRestore();
    }
  }, 60_000);

  const rows = (t: Tensor): number[][] =>
    Array.from({ length: t.dims[0] ?? 0 }, (_, i) => Array.from(t.data.slice(5 * i, 5 * i + 5) as Float32Array));
  const near = (actual: Tensor, tolerance: number): void => {
    expect(actual.dims).toEqual([8, 5]);
    const want = rows(page.probabilities);
    for (const [i, row] of rows(actual).entries())
      for (const [k, p] of row.entries()) expect(Math.abs(p - (want[i]?.[k] ?? Number.NaN))).toBeLessThan(tolerance);
  };
  const images = new Tensor("float32", new Float32Array(8 * 768).fill(0.5), [8, 16, 16, 3]);

  it("the frozen graph gives probabilities, from a bundle", () => {
    for (const row of rows(page.probabilities)) expect(row.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 5);
    expect(page.program.outputs.map((o) => o.name)).toEqual(["probabilities:0"]);
  });
  it("the SavedModel gives the same under its signature's names, in FP16 and INT8 as well", async () => {
    expect(page.ports).toEqual(["images: float32[images.d0,16,16,3]"]);
    for (const [program, tolerance] of [
      [page.saved, 1e-6],
      [page.half, 2e-3],
      [page.quantized, 0.02],
    ] as const) {
      await using session = await program.createSession();
      const { scores } = await session.run({ images });
      near(scores as Tensor, tolerance);
    }
    const { quantization } = page.quantized.report.toJSON();
    expect(quantization?.feeds?.calibration).toBe(32);
    expect(quantization?.trials?.length).toBeGreaterThan(1);
  });
  it("the report says what TensorRT would take", () => {
    expect(printed.some((s) => s.includes("tensorrt"))).toBe(true);
    expect(page.quality).toMatchObject({ engineSegments: 1, flopsCovered: 1 });
  });
  it("the old names give the same", async () => {
    near(page.scores, 2e-3);
    near(page.integer, 0.02);
    expect(page.converted.engines).toEqual([{ images: { min: [1, 16, 16, 3], opt: [8, 16, 16, 3], max: [8, 16, 16, 3] } }]);
    expect(printed.some((s) => s.includes("operators converted"))).toBe(true);
    await Promise.all([page.converted.dispose(), page.final.dispose()]);
  });

  const MODELS = { frozen: "net.pb", saved: "net_saved_model" } as const;
  const TOLERANCE = { FP32: 1e-6, FP16: 2e-3, INT8: 0.02 } as const;
  const ways = (["frozen", "saved"] as const).flatMap((model) =>
    (["FP32", "FP16", "INT8"] as const).map((precision) => ({ model, precision })),
  );
  function* calibration() {
    for (let i = 0; i < 16; i++)
      yield {
        images: new Tensor(
          "float32",
          Float32Array.from({ length: 768 }, (_, k) => Math.sin(k * (i + 1)) / 2 + 0.5),
          [1, 16, 16, 3],
        ),
      };
  }
  const probabilitiesOf = (results: Record<string, Tensor>): Tensor => Object.values(results)[0] as Tensor;

  it.each(ways)("compile: a $model graph in $precision", async ({ model, precision }) => {
    const program = await compile(join(folder, MODELS[model]), {
      precision: precision.toLowerCase() as "fp32",
      ...(model === "frozen" ? { outputs: ["probabilities"] } : {}),
      ...(precision === "INT8" ? { calibration: { data: calibration() } } : {}),
    });
    await using session = await program.createSession();
    near(probabilitiesOf(await session.run({ images })), TOLERANCE[precision]);
    expect(program.report.toJSON().quantization !== undefined).toBe(precision === "INT8");
  });
  it.each(ways)("the old names: a $model graph in $precision", async ({ model, precision }) => {
    const path = join(folder, MODELS[model]);
    let graph: InferenceGraph;
    if (model === "frozen") {
      graph = await createInferenceGraph(path, ["probabilities"], { precisionMode: precision, maxBatchSize: 8 });
      if (precision === "INT8") {
        for (const feeds of calibration()) await graph.run(feeds);
        const calibrated = graph;
        graph = await calibGraphToInferGraph(calibrated);
        await calibrated.dispose();
      }
    } else {
      const converter = new TrtGraphConverterV2({ inputSavedModelDir: path, precisionMode: precision });
      graph = await converter.convert(precision === "INT8" ? calibration : undefined);
    }
    near(probabilitiesOf(await graph.run({ images })), TOLERANCE[precision]);
    await graph.dispose();
  });
});
