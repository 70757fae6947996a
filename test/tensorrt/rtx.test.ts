/**
 * NVIDIA's TensorRT-RTX as far as it goes on this machine: its builder needs no GPU. `pip download tensorrt-rtx-cu13-libs` brings it;
 * PARTITA_TENSORRT_DIR names the folder.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { gpuVerdict } from "../../src/engines/cuda/device.js";
import type { ProfileRange, TensorRt } from "../../src/engines/tensorrt/native.js";
import { openTensorRt } from "../../src/engines/tensorrt/open.js";
import { probeTensorRt } from "../../src/engines/tensorrt/probe.js";
import { dataDir } from "../support/data.js";
import { FLOAT, info, model, rawData, tensor } from "../support/onnx-model.js";
import { batch, layer } from "../support/tensorrt-models.js";
import { tryDamaged } from "../support/tensorrt-plans.js";
import { realLibrary } from "../support/tensorrt-real.js";
import { expected, script } from "../support/tensorrt-script.js";

const { files, why } = realLibrary("rtx");
const gpu = gpuVerdict().ok;
const FLOAT16 = 10;
const INT8 = 3;
const halves = (values: readonly number[]): Uint8Array => new Uint8Array(Uint16Array.from(values).buffer);
const floats = (...values: readonly number[]): Uint8Array => new Uint8Array(Float32Array.from(values).buffer);

/** x W in binary16 throughout. 0x3c00 is 1. */
const half = (): Uint8Array =>
  model({
    nodes: [{ op: "MatMul", name: "product", ins: ["x", "w"], outs: ["y"] }],
    inputs: [info("x", ["N", 8], FLOAT16)],
    outputs: [info("y", ["N", 8], FLOAT16)],
    initializers: [tensor("w", [8, 8], FLOAT16, rawData(halves(Array.from({ length: 64 }, (_, i) => (i % 9 === 0 ? 0x3c00 : 0)))))],
  });
/** relu(conv(Q/DQ(x), DQ(w))) with a scale for each of the weight's channels. */
const quantized = (): Uint8Array => {
  const scale = (name: string, ...values: readonly number[]) =>
    tensor(name, values.length === 1 ? [] : [values.length], FLOAT, rawData(floats(...values)));
  const zero = (name: string, count: number) => tensor(name, count === 1 ? [] : [count], INT8, rawData(new Uint8Array(count)));
  return model({
    nodes: [
      { op: "QuantizeLinear", name: "q", ins: ["x", "xs", "xz"], outs: ["xq"] },
      { op: "DequantizeLinear", name: "dq", ins: ["xq", "xs", "xz"], outs: ["xf"] },
      { op: "DequantizeLinear", name: "dqw", ins: ["w", "ws", "wz"], outs: ["wf"], attrs: [] },
      { op: "Conv", name: "conv", ins: ["xf", "wf"], outs: ["c"] },
      { op: "Relu", name: "relu", ins: ["c"], outs: ["y"] },
    ],
    inputs: [info("x", [1, 4, 16, 16])],
    outputs: [info("y", [1, 8, 14, 14])],
    initializers: [
      ...[scale("xs", 0.05), zero("xz", 1), scale("ws", 0.01), zero("wz", 1)],
      tensor("w", [8, 4, 3, 3], INT8, rawData(Uint8Array.from({ length: 288 }, (_, i) => (i * 7) & 127))),
    ],
  });
};

describe.skipIf(files === undefined)(`TensorRT-RTX${why}`, () => {
  let trt: TensorRt;
  beforeAll(() => {
    if (files !== undefined) trt = openTensorRt({ library: files.library, parser: files.parser });
  });
  const plan = async (bytes: Uint8Array, profile: readonly ProfileRange[] = [], sm = 89): Promise<Uint8Array> =>
    (await trt.build(bytes, { computeCapabilities: [sm], profiles: profile.length === 0 ? [] : [profile] })).plan;

  it("survives its first use in a child process, which tells what works here", async () => {
    if (files === undefined) return;
    const probe = await probeTensorRt({ library: files.library, parser: files.parser, fresh: true });
    expect(probe).toMatchObject({ version: { product: "TensorRT-RTX" }, family: trt.family, parser: { ok: true }, builder: { ok: true } });
    if (!gpu) expect(probe.runtime).toMatchObject({ ok: false, why: expect.stringMatching(/Cuda Runtime/) });
  });
  it("answers the script as the stand-in does", async () => {
    expect(await script(trt)).toEqual(expected);
  });
  it("plans begin with its mark and differ by GPU; the log is its own", async () => {
    const [ada, blackwell] = [await plan(layer(), [batch(1, 4, 8)]), await plan(layer(), [batch(1, 4, 8)], 120)];
    for (const p of [ada, blackwell]) expect(Buffer.from(p.subarray(0, 4)).toString()).toBe("vtrt");
    expect(Buffer.compare(ada, blackwell)).not.toBe(0);
    const { log } = await trt.build(layer(), { computeCapabilities: [89], profiles: [[batch(1, 4, 8)]] });
    expect(log.some((m) => m.severity === "info" && m.text.length > 0)).toBe(true);
  });
  it("compute capabilities arrive: the plan's header has a bit for each, and the library's version", async () => {
    const header = async (...computeCapabilities: readonly number[]): Promise<readonly number[]> => {
      const { plan: built } = await trt.build(layer(), { computeCapabilities, profiles: [[batch(1, 4, 8)]] });
      return [built[32] ?? -1, ...built.subarray(24, 27)];
    };
    const { major, minor, patch } = trt.version;
    expect([await header(89), await header(120), await header(89, 120), await header(120, 86)]).toEqual(
      [8, 16, 24, 20].map((bits) => [bits, major, minor, patch]),
    );
  });
  it("binary16 and INT8 with explicit Q/DQ", async () => {
    const ranges = [{ name: "x", min: [1, 8], opt: [8, 8], max: [32, 8] }];
    expect((await plan(half(), ranges)).length).toBeGreaterThan(1000);
    for (const sm of [89, 120]) {
      const built = await plan(quantized(), [], sm).catch((e: Error) => e);
      // Before 1.7 it has no convolution of bytes: it says so, and the caller learns it.
      if (trt.version.minor < 7) expect(built).toMatchObject({ code: "P2214", message: expect.stringContaining("MyelinCheckException") });
      else expect(built).toBeInstanceOf(Uint8Array);
    }
  });
  it("a node that no version takes is named by its own name", async () => {
    const error = await plan(layer({ name: "block.3/odd", op: "OddOp" }), [batch(1, 4, 8)]).catch((e: Error) => e);
    expect(error).toMatchObject({ code: "P2213", where: { node: "block.3/odd", op: "OddOp" } });
  });
  it.skipIf(gpu)("without a GPU a good plan is refused with the library's own text (P2216)", async () => {
    const bytes = await plan(layer(), [batch(1, 4, 8)]);
    const error = await trt.deserialize(bytes).catch((e: Error) => e);
    expect(error).toMatchObject({ code: "P2216", message: expect.stringMatching(/deserializeCudaEngine.*Cuda Runtime/) });
  });

  it.skipIf(gpu)("plans whose weights can change need a GPU even to be built (P2214)", async () => {
    for (const options of [{ refit: "all" }, { refit: "identical" }, { stripPlan: true }] as const)
      expect(
        await trt.build(layer(), { computeCapabilities: [89], profiles: [[batch(1, 4, 8)]], ...options }).catch((e: Error) => e),
      ).toMatchObject({
        code: "P2214",
        message: expect.stringContaining("CUDA_SUCCESS"),
      });
  });

  it("1,000 damaged plans end in refusals or engines", async () => {
    const { counts, deaths } = await tryDamaged(trt, await plan(layer(), [batch(1, 4, 8)]), Number(process.env["PARTITA_FUZZ"] ?? 1000), 1);
    // 1.4 itself dies of one in some thousands (seen in its deserializer): a bundle's plans have hashes, which are compared before it sees them.
    if (trt.family === "rtx-1.3") expect(deaths.length).toBeLessThan(10);
    else expect(deaths).toEqual([]);
    if (!gpu) expect(Object.keys(counts).filter((k) => k !== "same")).toEqual(["deserializeCudaEngine"]);
  });

  const digits = dataDir("digits");
  describe.skipIf(digits === undefined)(
    `the digits networks${digits === undefined ? " (skipped: PARTITA_TEST_DATA is not set)" : ""}`,
    () => {
      it.each(["resnet", "mobilenet", "vit"])("%s", async (name) => {
        const bytes = readFileSync(join(digits ?? "", `${name}.onnx`));
        expect((await trt.supports(bytes)).supported).toBe(true);
        const profile = [{ name: "x", min: [1, 1, 16, 16], opt: [8, 1, 16, 16], max: [64, 1, 16, 16] }];
        for (const sm of [89, 120]) expect((await plan(bytes, profile, sm)).length).toBeGreaterThan(100_000);
      });
    },
  );
});
