/** `partita/tftrt`: every parameter that TF-TRT documents, its engine cache's rules, calibration, building, saving, the summary. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, it, vi } from "vitest";
import { PartitaError } from "../../src/diagnostics.js";
import { load } from "../../src/index.js";
import { Tensor, type TensorLike } from "../../src/tensor.js";
import {
  calibGraphToInferGraph,
  createInferenceGraph,
  type InferenceGraph,
  type InferenceGraphParameters,
  TrtGraphConverterV2,
  TrtPrecisionMode,
} from "../../src/tftrt.js";
import { constant, FLOAT, float, graphDef, int, node, placeholder, shape, text, type, writeSavedModel } from "../support/tf-graph.js";

const folder = mkdtempSync(join(tmpdir(), "partita-tftrt-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const open: InferenceGraph[] = [];
const kept = <G extends InferenceGraph>(g: G): G => {
  open.push(g);
  return g;
};
afterEach(async () => {
  vi.restoreAllMocks();
  await Promise.all(open.splice(0).map((g) => g.dispose()));
});
async function failure(p: Promise<unknown> | (() => unknown)): Promise<PartitaError> {
  try {
    await (typeof p === "function" ? p() : p);
  } catch (error) {
    expect(error).toBeInstanceOf(PartitaError);
    return error as PartitaError;
  }
  throw new Error("nothing was thrown");
}

const T = type(FLOAT);
/** relu(x w + b), then a string operator beside it that nothing converts. */
const nodes = (dims: readonly number[]) => [
  placeholder("x", FLOAT, dims),
  constant("w", FLOAT, [2, 3], [1, 2, 3, -4, 5, -6]),
  constant("b", FLOAT, [3], [0.5, -0.5, 0]),
  node("mm", "MatMul", ["x", "w"], { T }),
  node("add", "BiasAdd", ["mm", "b"], { T }),
  node("relu", "Relu", ["add"], { T }),
  node("y", "Neg", ["relu"], { T }),
];
const frozen = graphDef(nodes([-1, 2]));
const savedModel = join(folder, "saved");
writeSavedModel(savedModel, {
  nodes: [
    placeholder("serving_x", FLOAT, [-1, 2]),
    { name: "w", op: "VarHandleOp", attrs: { dtype: T, shape: shape([2, 3]), shared_name: text("w") } },
    node("w/read", "ReadVariableOp", ["w"], { dtype: T }),
    node("mm", "MatMul", ["serving_x", "w/read"], { T }),
    node("twice", "AddV2", ["mm", "mm"], { T }),
  ],
  signatures: {
    serving_default: { inputs: { x: "serving_x:0" }, outputs: { out: "mm:0" } },
    doubled: { inputs: { x: "serving_x:0" }, outputs: { out: "twice:0" } },
  },
  variables: [{ key: "w", dims: [2, 3], values: [1, 2, 3, -4, 5, -6] }],
});
const rows = (n: number, columns = 2): Tensor =>
  new Tensor(
    "float32",
    Float32Array.from({ length: n * columns }, (_, i) => i - 2),
    [n, columns],
  );
const numbers = (t: TensorLike | undefined): number[] => Array.from((t?.data ?? []) as ArrayLike<number>, Number);
const expected = (n: number): number[] =>
  Array.from({ length: n }, (_, i) => [2 * i - 2, 2 * i - 1] as const).flatMap(([a, b]) =>
    [a - 4 * b + 0.5, 2 * a + 5 * b - 0.5, 3 * a - 6 * b].map((v) => -Math.max(0, v)),
  );
const create = async (parameters: InferenceGraphParameters = {}): Promise<InferenceGraph> =>
  kept(await createInferenceGraph(frozen, ["y"], parameters));
const check = async (g: InferenceGraph, n: number): Promise<void> => {
  const { "y:0": y } = await g.run({ x: rows(n) });
  expect(y?.dims).toEqual([n, 3]);
  numbers(y).forEach((v, i) => expect(v).toBeCloseTo(expected(n)[i] ?? 0, 3));
};

describe("createInferenceGraph", () => {
  it("has TF-TRT's defaults: FP32, an engine for batches of 1, other batches as they were", async () => {
    const g = await create();
    expect(g.engines).toEqual([{ "x:0": { min: [1, 2], opt: [1, 2], max: [1, 2] } }]);
    await check(g, 1);
    await check(g, 3);
    expect(g.counters).toEqual({ hits: 1, misses: 1, builds: 1, evictions: 0, fallbacks: 1 });
    const { options } = (await g.report()).toJSON();
    expect(options).toMatchObject({ precision: "fp32", minimumSegmentSize: 3 });
  });
  it("outputs: the results asked for, nodes or tensors", async () => {
    const g = kept(await createInferenceGraph(frozen, ["relu:0", "mm"]));
    expect(g.outputs.map((o) => o.name)).toEqual(["relu:0", "mm:0"]);
  });
  it("maxBatchSize: an engine serves every batch up to it", async () => {
    const g = await create({ maxBatchSize: 8 });
    for (const n of [1, 8, 3]) await check(g, n);
    expect(g.counters).toMatchObject({ hits: 3, builds: 1, fallbacks: 0 });
    await check(g, 9);
    expect(g.counters).toMatchObject({ hits: 3, builds: 1, fallbacks: 1 });
  });
  it("precisionMode: TF-TRT's names, in either case", async () => {
    for (const precisionMode of [TrtPrecisionMode.FP16, "fp16"] as const) {
      const g = await create({ precisionMode });
      expect((await g.report()).toJSON().options).toMatchObject({ precision: "fp16" });
      await check(g, 1);
    }
  });
  it("minimumSegmentSize: smaller segments are not converted", async () => {
    const inside = async (minimumSegmentSize: number): Promise<number> => {
      // The report is made without building anything.
      const g = await create({ minimumSegmentSize, target: "tensorrt", isDynamicOp: true });
      return (await g.report()).toJSON().segments.filter((s) => s.engine === "tensorrt").length;
    };
    expect([await inside(1), await inside(20)]).toEqual([1, 0]);
  });
  it("maxWorkspaceSizeBytes and maximumCachedEngines are checked, and go to compile", async () => {
    const g = await create({ maxWorkspaceSizeBytes: 1 << 20, maximumCachedEngines: 2, isDynamicOp: true });
    await check(g, 2);
    expect((await failure(create({ maxWorkspaceSizeBytes: -1 }))).message).toMatch(
      /^P1008 createInferenceGraph: 'maxWorkspaceSizeBytes' is below 0/,
    );
    expect((await failure(create({ maximumCachedEngines: 0 }))).code).toBe("P1008");
  });
  it("isDynamicOp: engines are built for the shapes that come", async () => {
    const g = await create({ isDynamicOp: true });
    expect(g.engines).toEqual([]);
    await check(g, 4);
    expect(g.engines).toEqual([{ "x:0": { min: [1, 2], opt: [4, 2], max: [4, 2] } }]);
    await check(g, 2);
    expect(g.counters).toEqual({ hits: 1, misses: 1, builds: 1, evictions: 0, fallbacks: 0 });
  });
  it("a static graph with more than its batch open is not converted before shapes are known, and says so", async () => {
    const warned = vi.spyOn(process, "emitWarning").mockImplementation(() => {});
    const g = kept(await createInferenceGraph(graphDef([placeholder("x", FLOAT, [-1, -1]), node("y", "Neg", ["x"], { T })]), ["y"]));
    expect(warned.mock.calls.map(([w]) => String(w)).join()).toContain("set isDynamicOp");
    expect(g.engines).toEqual([]);
    expect(numbers((await g.run({ x: rows(1) }))["y:0"])).toEqual([2, 1]);
    expect(g.counters.fallbacks).toBe(1);
  });
  it("inputSavedModelDir, inputSavedModelSignatureKey, outputSavedModelDir", async () => {
    const outputSavedModelDir = join(folder, "out.partita");
    const inputSavedModelSignatureKey = "doubled";
    const g = kept(
      await createInferenceGraph(undefined, undefined, {
        inputSavedModelDir: savedModel,
        inputSavedModelSignatureKey,
        outputSavedModelDir,
        maxBatchSize: 2,
      }),
    );
    const x = rows(2);
    const { out } = await g.run({ x });
    await using session = await (await load(outputSavedModelDir)).createSession();
    expect(numbers((await session.run({ x }))["out"])).toEqual(numbers(out));
    expect(numbers(out).slice(0, 1)).toEqual([2 * (-2 + 4)]);
    expect((await failure(createInferenceGraph(frozen, ["y"], { inputSavedModelDir: savedModel }))).what).toContain("one of the two");
    expect((await failure(createInferenceGraph(undefined, undefined))).code).toBe("P1008");
  });
  it("parameters that do not exist are refused, TensorFlow's spelling with the right one", async () => {
    const say = async (p: object): Promise<string> => (await failure(create(p))).fix;
    expect(await say({ max_batch_size: 4 })).toBe("did you mean 'maxBatchSize'?");
    expect(await say({ precisonMode: "FP16" })).toBe("did you mean 'precisionMode'?");
    expect(await say({ rewriterConfigTemplate: {} })).toContain("its parameters are");
    expect((await failure(create({ precisionMode: "FP8" as never }))).what).toContain("is none of FP32, FP16, INT8");
  });
});

describe("the engine cache", () => {
  it("takes the smallest batch that fits, other dims equal", async () => {
    const open2 = graphDef([placeholder("x", FLOAT, [-1, -1]), node("n", "Neg", ["x"], { T }), node("y", "Abs", ["n"], { T })]);
    const g = kept(await createInferenceGraph(open2, ["y"], { isDynamicOp: true, maximumCachedEngines: 4 }));
    for (const [n, columns] of [
      [8, 2],
      [4, 3],
    ] as const)
      await g.run({ x: rows(n, columns) });
    // A larger batch than any of its other dims; then each is served by what is there.
    await g.run({ x: rows(16, 2) });
    expect(g.engines.map((e) => e["x:0"]?.max)).toEqual([
      [8, 2],
      [4, 3],
      [16, 2],
    ]);
    for (const [n, columns] of [
      [8, 2],
      [1, 2],
      [16, 2],
      [12, 2],
      [4, 3],
    ] as const)
      await g.run({ x: rows(n, columns) });
    expect(g.counters).toEqual({ hits: 5, misses: 3, builds: 3, evictions: 0, fallbacks: 0 });
    await g.run({ x: rows(1, 4) });
    expect(g.counters).toMatchObject({ misses: 4, builds: 4 });
  });
  it("drops the engine that was not used for the longest time", async () => {
    const open2 = graphDef([placeholder("x", FLOAT, [-1, -1]), node("y", "Neg", ["x"], { T })]);
    const g = kept(await createInferenceGraph(open2, ["y"], { isDynamicOp: true, maximumCachedEngines: 2 }));
    for (const columns of [2, 3, 2, 4]) await g.run({ x: rows(1, columns) });
    expect(g.engines.map((e) => e["x:0"]?.max[1])).toEqual([2, 4]);
    expect(g.counters).toEqual({ hits: 1, misses: 3, builds: 3, evictions: 1, fallbacks: 0 });
  });
  it("many runs at once build each engine once, and evictions wait for the runs they would end", async () => {
    const g = await create({ isDynamicOp: true });
    await Promise.all(Array.from({ length: 12 }, (_, i) => check(g, i < 6 ? 3 : 5)));
    expect(g.counters.builds).toBe(2);
    expect(g.counters.evictions).toBe(1);
    await g.dispose();
    expect((await failure(g.run({ x: rows(1) }))).code).toBe("P3105");
  });
  it("feeds that are not the graph's are refused as a session refuses them, and build nothing", async () => {
    const g = await create({ isDynamicOp: true });
    expect((await failure(g.run({ x: rows(1, 5) }))).code).toBe("P3104");
    expect((await failure(g.run({}))).code).toBe("P3102");
    expect(g.counters).toMatchObject({ builds: 0, fallbacks: 2 });
  });
});

describe("INT8", () => {
  const feeds = Array.from({ length: 6 }, (_, k) => ({
    x: new Tensor(
      "float32",
      Float32Array.from({ length: 8 }, (_, i) => Math.sin(i + 3 * k) * 2),
      [4, 2],
    ),
  }));
  const calibration = { method: "max", search: "none" } as const;
  const near = (t: TensorLike | undefined, want: readonly number[]): void =>
    numbers(t).forEach((v, i) => expect(Math.abs(v - (want[i] ?? 0))).toBeLessThan(0.4));

  it("useCalibration: a graph that remembers its feeds, then the final one", async () => {
    const calib = await createInferenceGraph(frozen, ["y"], { precisionMode: "INT8", maxBatchSize: 4, calibration });
    expect((await failure(calibGraphToInferGraph(calib))).what).toContain("has not been run");
    for (const f of feeds) await calib.run(f);
    const g = kept(await calibGraphToInferGraph(calib));
    expect((await g.report()).toJSON().options).toMatchObject({ precision: "int8" });
    near((await g.run({ x: rows(1) }))["y:0"], expected(1));
    expect((await failure(calib.run(feeds[0] as never))).code).toBe("P3105");
    expect((await failure(calibGraphToInferGraph(g))).what).toContain("not being calibrated");
  });
  it("calibrates on what was fed, though the feeds are handed over or filled again", async () => {
    const calib = await createInferenceGraph(frozen, ["y"], { precisionMode: "INT8", maxBatchSize: 4, calibration });
    for (const f of feeds) {
      const x = new Tensor("float32", f.x.data.slice(), [4, 2]);
      const running = calib.run({ x }, { transfer: true });
      if (x.data.length > 0) x.data.fill(1000);
      await running.catch(() => undefined);
    }
    const g = kept(await calibGraphToInferGraph(calib));
    near((await g.run({ x: rows(1) }))["y:0"], expected(1));
  });
  it("useCalibration false: ranges come from the quantization nodes of the graph", async () => {
    const attrs = { min: float(-16), max: float(16), num_bits: int(8) };
    const quantized = graphDef([
      placeholder("x", FLOAT, [-1, 2]),
      constant("w", FLOAT, [2, 3], [1, 2, 3, -4, 5, -6]),
      node("qx", "FakeQuantWithMinMaxArgs", ["x"], attrs),
      node("qw", "FakeQuantWithMinMaxArgs", ["w"], attrs),
      node("y", "MatMul", ["qx", "qw"], { T }),
    ]);
    const g = kept(await createInferenceGraph(quantized, ["y"], { precisionMode: "INT8", useCalibration: false }));
    near((await g.run({ x: rows(1) }))["y:0"], [2, -9, 0]);
  });
});

describe("TrtGraphConverterV2", () => {
  const converter = (p: object = {}): TrtGraphConverterV2 => new TrtGraphConverterV2({ inputSavedModelDir: savedModel, ...p });
  const inputs =
    (...batches: readonly number[]) =>
    () =>
      batches.map((n) => ({ x: rows(n) }));

  it("convert: engines are built when shapes come; allowBuildAtRuntime false leaves them to the host", async () => {
    const g = kept(await converter({ maximumCachedEngines: 2 }).convert());
    await g.run({ x: rows(3) });
    expect(g.counters).toMatchObject({ builds: 1, fallbacks: 0 });
    const fixed = kept(await converter({ allowBuildAtRuntime: false }).convert());
    expect(numbers((await fixed.run({ x: rows(1) }))["out"])).toEqual([2, -9, 0]);
    expect(fixed.counters).toMatchObject({ builds: 0, fallbacks: 1 });
  });
  it("inputSavedModelSignatureKey", async () => {
    const g = kept(await converter({ inputSavedModelSignatureKey: "doubled" }).convert());
    expect(numbers((await g.run({ x: rows(1) }))["out"])).toEqual([4, -18, 0]);
  });
  it.each([
    [
      "ImplicitBatchModeCompatible",
      false,
      [
        [
          [1, 2],
          [4, 2],
        ],
        [
          [1, 2],
          [8, 2],
        ],
      ],
    ],
    [
      "Range",
      true,
      [
        [
          [2, 2],
          [8, 2],
        ],
      ],
    ],
    [
      "Optimal",
      true,
      [
        [
          [4, 2],
          [4, 2],
        ],
        [
          [2, 2],
          [2, 2],
        ],
        [
          [8, 2],
          [8, 2],
        ],
      ],
    ],
    [
      "Range+Optimal",
      true,
      [
        [
          [2, 2],
          [8, 2],
        ],
        [
          [4, 2],
          [4, 2],
        ],
        [
          [2, 2],
          [2, 2],
        ],
        [
          [8, 2],
          [8, 2],
        ],
      ],
    ],
  ] as const)("build, dynamicShapeProfileStrategy %s", async (dynamicShapeProfileStrategy, useDynamicShape, want) => {
    const c = converter({ maximumCachedEngines: 8, useDynamicShape, ...(useDynamicShape ? { dynamicShapeProfileStrategy } : {}) });
    const g = kept(await c.convert());
    await c.build(inputs(4, 2, 8));
    expect(g.engines.map((e) => [e["x"]?.min, e["x"]?.max])).toEqual(want);
    await g.run({ x: rows(4) });
    expect(g.counters).toMatchObject({ hits: 1, misses: 0 });
  });
  it("save: one bundle serves every shape that was built", async () => {
    const c = converter({ useDynamicShape: true, dynamicShapeProfileStrategy: "Optimal", maximumCachedEngines: 4 });
    const g = kept(await c.convert());
    await c.build(inputs(2, 6));
    await c.save(join(folder, "v2.partita"));
    await using session = await (await load(join(folder, "v2.partita"))).createSession();
    for (const n of [2, 4, 6])
      expect(numbers((await session.run({ x: rows(n) }))["out"])).toEqual(numbers((await g.run({ x: rows(n) }))["out"]));
  });
  it("INT8: convert takes calibrationInputFn, feeds by name or in order", async () => {
    const c = converter({ precisionMode: "INT8", calibration: { method: "max", search: "none" } });
    const feeds = Array.from({ length: 5 }, (_, k) => new Tensor("float32", [Math.sin(k) * 2, Math.cos(k) * 2], [1, 2]));
    const g = kept(
      await c.convert(async function* () {
        for (const [i, x] of feeds.entries()) yield i % 2 === 0 ? { x } : [x];
      }),
    );
    const right = async (graph: InferenceGraph): Promise<void> => {
      const { out } = await graph.run({ x: new Tensor("float32", [1, -1], [1, 2]) });
      [5, -3, 9].forEach((v, i) => expect(Math.abs((numbers(out)[i] ?? 0) - v)).toBeLessThan(0.4));
    };
    await right(g);
    // One array, filled again for every feed.
    const x = new Tensor("float32", [0, 0], [1, 2]);
    const again = converter({ precisionMode: "INT8", calibration: { method: "max", search: "none" } });
    await right(
      kept(
        await again.convert(function* () {
          for (const feed of [...feeds, new Tensor("float32", [0.01, 0.01], [1, 2])]) {
            x.data.set(feed.data);
            yield [x];
          }
        }),
      ),
    );
    expect((await failure(again.build(5 as never))).what).toBe("build was given no function");
    expect((await failure(again.convert((() => undefined) as never))).what).toBe(
      "the function that convert was given returned nothing to iterate over",
    );
    expect((await failure(again.build(() => [null as never]))).what).toBe("a feed is null");
    expect((await failure(converter({ precisionMode: "INT8" }).convert())).what).toContain("needs a calibrationInputFn");
    expect((await failure(converter().convert(inputs(1)))).what).toContain("for INT8 with calibration alone");
  });
  it("summary prints the engines, what they hold, and what was not converted", async () => {
    const c = converter({ target: ["tensorrt", "host"], minimumSegmentSize: 1, allowBuildAtRuntime: false });
    kept(await c.convert());
    const printed: string[] = [];
    const returned = await c.summary(100, true, (s) => void printed.push(s));
    expect(printed).toEqual([returned]);
    expect(returned).toMatch(/engine +device +nodes +inputs +outputs/);
    expect(returned).toMatch(/engines: \d+; operators converted: \d+ of \d+ \(\d+\.\d %\)/);
    for (const line of returned.split("\n").slice(0, 3)) expect(line.length).toBeLessThanOrEqual(100);
  });
  it("what is asked too early, or misspelt, is refused", async () => {
    expect((await failure(converter().save("x"))).what).toBe("save was called before convert");
    expect((await failure(converter().summary())).code).toBe("P1008");
    expect((await failure(() => converter({ useDynamicShapes: true }))).fix).toBe("did you mean 'useDynamicShape'?");
    expect((await failure(() => new TrtGraphConverterV2({} as never))).what).toContain("needs 'inputSavedModelDir'");
    const c = converter();
    kept(await c.convert());
    expect((await failure(c.build(() => []))).what).toContain("given no feeds");
    expect((await failure(c.build(() => [[rows(1), rows(1)]]))).what).toContain("a feed has 2 tensors");
    expect((await failure(c.build(() => [{ z: rows(1) }]))).what).toContain("a feed has no 'x'");
  });
});
