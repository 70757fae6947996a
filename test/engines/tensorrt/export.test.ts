/** Exports of bundles with TensorRT segments: EPContext models and Triton model repositories. Plans come from a stand-in for TensorRT. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { InferenceSession } from "onnxruntime-node";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { run as commandLine } from "../../../src/cli/program.js";
import { importOnnx } from "../../../src/import/onnx/index.js";
import { compile } from "../../../src/index.js";
import { valueAt } from "../../../src/ir/graph.js";
import { parse } from "../../../src/ir/parse.js";
import type { Graph } from "../../../src/ir/types.js";
import { useFakeDriver } from "../../support/fake-cuda.js";
import { type Message, parseText, problems } from "../../support/pbtxt.js";
import { standInFolder } from "../../support/tensorrt-folder.js";

const noDriver = useFakeDriver();
const { folder: installed, missing: noLibrary } = standInFolder("11");
const missing = noDriver ?? noLibrary;

/** Two TensorRT segments with a host part between them, an input handed through, and an open dim. */
const MIXED = `graph "mixed" opset {"": 18} (%x: float32[N, 3]) -> (%y, %h, %x) {
  const %w = float32[3, 3] [1.0, -2.0, 0.5, 0.0, 1.0, 1.0, -1.0, 3.0, 2.0]
  const %b = float32[3] [0.25, -0.5, 1.0]
  %p = MatMul(%x, %w) @"product"
  %s = Add(%p, %b) @"bias"
  %h = Sigmoid(%s) @"odd"
  %q = MatMul(%h, %w) @"second"
  %t = Add(%q, %b) @"sum"
  %y = Relu(%t) @"last"
}`;
const WHOLE = MIXED.replace("Sigmoid", "Relu").replace("-> (%y, %h, %x)", "-> (%y)");

describe.skipIf(missing !== undefined)(`exports${missing === undefined ? "" : ` (skipped: ${missing})`}`, () => {
  const folder = mkdtempSync(join(tmpdir(), "partita-exports-"));
  const before = { ...process.env };
  beforeAll(async () => {
    process.env["PARTITA_TENSORRT_DIR"] = installed;
    process.env["PARTITA_CACHE_DIR"] = join(folder, "cache");
    const options = {
      target: "tensorrt",
      minimumSegmentSize: 1,
      tune: "none",
      shapes: { x: { min: [1, 3], opt: [4, 3], max: [8, 3] } },
    } as const;
    await (await compile(parse(MIXED), options)).save(join(folder, "mixed.partita"));
    await (await compile(parse(WHOLE), { ...options, tensorrt: { stripWeights: true } })).save(join(folder, "whole.partita"));
  });
  afterAll(() => {
    process.env = before;
    rmSync(folder, { recursive: true, force: true });
  });
  const exported = async (bundle: string, format: string, to: string): Promise<{ readonly code: number; readonly error: string }> => {
    let error = "";
    const io = { stdout: { write: () => {} }, stderr: { write: (s: string) => void (error += s) }, env: {} };
    return { code: await commandLine(["export", join(folder, bundle), format, "-o", join(folder, to)], io), error };
  };
  const read = (path: string): Graph => importOnnx(join(folder, path));
  const text = (n: Graph["nodes"][number] | undefined, key: string): unknown => {
    const a = n?.attrs[key];
    return a === undefined ? undefined : "value" in a ? a.value : undefined;
  };

  it("EPContext: a model of one node for each segment, its tensors named as the plan's, the plan beside it", async () => {
    expect(await exported("mixed.partita", "epcontext", "ctx")).toEqual({ code: 0, error: "" });
    expect(readdirSync(join(folder, "ctx")).sort()).toEqual([
      "mixed_ctx.onnx",
      "tensorrt_0.engine",
      "tensorrt_0_ctx.onnx",
      "tensorrt_2.engine",
      "tensorrt_2_ctx.onnx",
    ]);
    const g = read("ctx/tensorrt_0_ctx.onnx");
    const [n] = g.nodes;
    expect(g.nodes).toHaveLength(1);
    expect([n?.domain, n?.op]).toEqual(["com.microsoft", "EPContext"]);
    expect([...g.inputs, ...g.outputs].map((v) => valueAt(g, v).name)).toEqual(["x", "s"]);
    expect(Object.fromEntries(Object.keys(n?.attrs ?? {}).map((k) => [k, text(n, k)]))).toEqual({
      main_context: 1,
      embed_mode: 0,
      ep_cache_context: "tensorrt_0.engine",
      ep_sdk_version: "110201",
      hardware_architecture: "90",
      partition_name: "tensorrt_0",
      source: "TensorrtExecutionProvider",
    });
    expect(g.opsets["com.microsoft"]).toBe(1);
    expect(readFileSync(join(folder, "ctx/tensorrt_0.engine")).subarray(0, 8).toString()).toBe("FAKEPLAN");
  });

  it("EPContext: the whole graph in one model; ONNX Runtime reads it, and lacks the provider alone", async () => {
    const g = read("ctx/mixed_ctx.onnx");
    expect(g.nodes.map((n) => n.op)).toEqual(["EPContext", "Sigmoid", "EPContext"]);
    expect(g.outputs.map((v) => valueAt(g, v).name)).toEqual(["y", "h", "x"]);
    // What an EPContext makes has its type written, as nothing can infer it.
    const s = g.values.find((v) => v?.name === "s");
    expect(s?.type).toMatchObject({ kind: "tensor", dtype: "float32" });
    for (const model of ["mixed_ctx", "tensorrt_0_ctx", "tensorrt_2_ctx"]) {
      const error = await InferenceSession.create(join(folder, `ctx/${model}.onnx`)).then(
        () => "it runs",
        (e: unknown) => String(e),
      );
      expect(error, model).toMatch(/EPContext node generated by 'TensorrtExecutionProvider' is not compatible with any execution provider/);
    }
  });

  it("EPContext: a stripped plan goes by its name, its weights beside it", async () => {
    expect((await exported("whole.partita", "epcontext", "stripped")).code).toBe(0);
    const [n] = read("stripped/tensorrt_0_ctx.onnx").nodes;
    expect([n?.attrs["ep_cache_context"], n?.attrs["onnx_model_filename"]]).toEqual([
      { kind: "string", value: "tensorrt_0.stripped.engine" },
      { kind: "string", value: "tensorrt_0.onnx" },
    ]);
    expect(read("stripped/tensorrt_0.onnx").constants.size).toBeGreaterThan(0);
    expect(existsSync(join(folder, "stripped/tensorrt_0.stripped.engine"))).toBe(true);
  });

  const config = (path: string): Message => parseText(readFileSync(join(folder, path, "config.pbtxt"), "utf8"));
  const ports = (m: Message, field: string): unknown => (m.fields[field] ?? []).map((t) => (t as Message).fields);

  it("Triton: every part a model with a version, an ensemble under the bundle's name; all fit the schema", async () => {
    expect(await exported("mixed.partita", "triton", "models")).toEqual({ code: 0, error: "" });
    const models = readdirSync(join(folder, "models")).sort();
    expect(models).toEqual(["mixed", "mixed_direct", "mixed_host_1", "mixed_tensorrt_0", "mixed_tensorrt_2"]);
    for (const m of models) {
      expect(problems(config(`models/${m}`)), m).toEqual([]);
      expect(config(`models/${m}`).fields["name"]).toEqual([m]);
      expect(existsSync(join(folder, "models", m, "1")), m).toBe(true);
    }
    const plan = config("models/mixed_tensorrt_0");
    expect([plan.fields["backend"], plan.fields["max_batch_size"]]).toEqual([["tensorrt"], [0]]);
    expect(ports(plan, "input")).toEqual([{ name: ["x"], data_type: [{ word: "TYPE_FP32" }], dims: [-1, 3] }]);
    expect(existsSync(join(folder, "models/mixed_tensorrt_0/1/model.plan"))).toBe(true);
    expect(existsSync(join(folder, "models/mixed_host_1/1/model.onnx"))).toBe(true);
  });

  it("Triton: the ensemble's steps are joined by tensors that one makes before another reads them", () => {
    const e = config("models/mixed");
    const names = (field: string): unknown[] => (e.fields[field] ?? []).map((t) => (t as Message).fields["name"]?.[0]);
    const known = new Set<unknown>(names("input"));
    const [scheduling] = e.fields["ensemble_scheduling"] ?? [];
    const maps = (step: Message, field: string): readonly (readonly [unknown, unknown])[] =>
      (step.fields[field] ?? []).map((m) => [(m as Message).fields["key"]?.[0], (m as Message).fields["value"]?.[0]]);
    for (const step of (scheduling as Message).fields["step"] ?? []) {
      const { fields } = step as Message;
      const model = config(join("models", String(fields["model_name"]?.[0])));
      const own = (field: string): unknown[] => (model.fields[field] ?? []).map((t) => (t as Message).fields["name"]?.[0]);
      // Every port of the model is mapped, once.
      expect(maps(step as Message, "input_map").map(([key]) => key)).toEqual(own("input"));
      expect(maps(step as Message, "output_map").map(([key]) => key)).toEqual(own("output"));
      for (const [, value] of maps(step as Message, "input_map")) expect(known).toContain(value);
      for (const [, value] of maps(step as Message, "output_map")) known.add(value);
    }
    expect(names("output")).toEqual(["y", "h", "x/out"]);
    for (const name of names("output")) expect(known).toContain(name);
  });

  it("Triton: a bundle of one part is one model", async () => {
    expect((await exported("whole.partita", "triton", "one")).code).toBe(0);
    expect(readdirSync(join(folder, "one"))).toEqual(["whole"]);
    expect(problems(config("one/whole"))).toEqual([]);
    expect(existsSync(join(folder, "one", dirname("whole/1/model.plan"), "model.plan"))).toBe(true);
  });

  it("scalars are vectors of one that are reshaped; strings are escaped", async () => {
    const g = parse(`graph "s" opset {"": 18} (%"a \\"b\\"": float32[]) -> (%y) { %y = Exp(%"a \\"b\\"") }`);
    await (await compile(g, { target: "host" })).save(join(folder, "scalar.partita"));
    expect((await exported("scalar.partita", "triton", "scalar")).code).toBe(0);
    const [input] = config("scalar/scalar").fields["input"] as Message[];
    expect(input?.fields["name"]).toEqual(['a "b"']);
    expect(input?.fields["dims"]).toEqual([1]);
    expect(input?.fields["reshape"]).toEqual([{ fields: { shape: [] } }]);
  });

  it("names the segment that the form cannot hold: P2240, P2241, P2242", async () => {
    const { tritonFiles } = await import("../../../src/runtime/triton.js");
    const { epContextFiles } = await import("../../../src/runtime/epcontext.js");
    const port = { name: "x", type: "float32", dims: [2] };
    const plan = { inputs: [port], outputs: [], steps: [{ segment: "cuda_0", inputs: ["x"], outputs: [] }], direct: {} };
    const cuda = { engine: "cuda", key: "", inputs: ["x"], outputs: [], files: [] } as const;
    expect(() => epContextFiles(plan, [cuda], "m")).toThrow(/^P2240 segment 'cuda_0' is of the cuda engine, which EPContext cannot hold/);
    expect(() => tritonFiles(plan, [cuda], "m")).toThrow(/^P2240 .*cuda engine, which a Triton model repository cannot hold/);
    const ports = JSON.stringify({ inputs: [port], outputs: [] });
    const rtx = { ...cuda, engine: "tensorrt", settings: { product: "TensorRT-RTX", ports } } as const;
    expect(() => tritonFiles(plan, [rtx], "m")).toThrow(/^P2240 .*TensorRT-RTX engine.*--trt library=tensorrt/);
    expect(() => tritonFiles(plan, [rtx], "a/b")).toThrow(/^P2241 'a\/b' is no name/);
    expect(() => tritonFiles({ ...plan, inputs: [] }, [rtx], "m")).toThrow(/^P2242 the model has no inputs/);
    expect(() => tritonFiles(plan, [{ ...rtx, settings: {} }], "m")).toThrow(/^P2203 .*do not say what it takes/);
  });
});
