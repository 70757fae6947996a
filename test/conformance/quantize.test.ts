/** INT8 with default options on trained models with labels: top-1 against FP32, in every form a model comes in, and on models built to hurt. */
import { describe, expect, it } from "vitest";
import { compile, type ModelInput, plan } from "../../src/compile.js";
import { readNpz } from "../../src/npz.js";
import type { CompileOptions } from "../../src/options.js";
import type { Program } from "../../src/runtime/program.js";
import { Tensor } from "../../src/tensor.js";
import { dataDir } from "../support/data.js";
import { type Hurt, hurt } from "../support/hurt.js";

const folder = dataDir("digits");
const images = (name: string, dims: readonly number[]): readonly Tensor[] => {
  const t = readNpz(`${folder}/data.npz`).get(name);
  if (t === undefined) throw new Error(`data.npz has no ${name}`);
  return Array.from(
    { length: t.dims[0] ?? 0 },
    (_, i) => new Tensor("float32", (t.data as Float32Array).slice(i * 256, (i + 1) * 256), [1, ...dims]),
  );
};
const labels = (): number[] => Array.from(readNpz(`${folder}/data.npz`).get("y_test")?.data as BigInt64Array, Number);

/** NHWC where the model's last dim is the channel. */
const dimsOf = (p: Program): readonly number[] => (p.inputs[0]?.dims?.at(-1) === 1 ? [16, 16, 1] : [1, 16, 16]);

async function top1(p: Program): Promise<number> {
  const [input, output] = [p.inputs[0]?.name ?? "", p.outputs[0]?.name ?? ""];
  await using session = await p.createSession();
  const wanted = labels();
  const right = await Promise.all(
    images("x_test", dimsOf(p)).map(async (x, i) => {
      const logits = (await session.run({ [input]: x }))[output]?.data as Float32Array;
      return logits.indexOf(Math.max(...logits)) === wanted[i];
    }),
  );
  return (100 * right.filter(Boolean).length) / right.length;
}
async function int8(model: ModelInput, float: Program, options: NonNullable<CompileOptions["calibration"]> = {}): Promise<Program> {
  const name = float.inputs[0]?.name ?? "";
  return await compile(model, {
    precision: "int8",
    calibration: { data: images("x_val", dimsOf(float)).map((x) => ({ [name]: x })), ...options },
  });
}

describe.skipIf(folder === undefined)("digits, 540 test images (skipped when PARTITA_TEST_DATA is not set)", () => {
  it.each<[string, number]>([
    ["resnet", 0.2],
    ["mobilenet", 0.4],
    ["vit", 0.4],
  ])("%s loses at most %f points in every form", async (name, most) => {
    for (const form of [".onnx", "_bn.onnx", "_dynamo.onnx", ".pb", "_saved_model"]) {
      const model = `${folder}/${name}${form}`;
      const float = await compile(model);
      const quantized = await int8(model, float);
      const [a, b] = [await top1(float), await top1(quantized)];
      console.log(`${name}${form}: ${a.toFixed(2)} -> ${b.toFixed(2)}; ${quantized.report.data.quantization?.configuration}`);
      expect(a - b, form).toBeLessThanOrEqual(most);
      // Integer kernels did the work: as much of the graph is quantized as the placement rules say.
      expect(quantized.report.data.quantization?.tensors.length, form).toBeGreaterThan(5);
    }
  });
  it.each<[string, Hurt]>([
    ["mobilenet_bn", "channels apart"],
    ["resnet_bn", "channels apart"],
    ["vit", "outlier channels"],
  ])("%s with %s: plain quantization falls by more than 5 points, the search comes within 0.5", async (name, how) => {
    const { inferred } = await plan(`${folder}/${name}.onnx`);
    const model = hurt(inferred.graph, how);
    const float = await compile(model);
    const fp32 = await top1(float);
    const plain = await top1(await int8(model, float, { search: "none", method: "max" }));
    const found = await int8(model, float);
    const best = await top1(found);
    console.log(
      `${name}, ${how}: ${fp32.toFixed(2)} plain ${plain.toFixed(2)} search ${best.toFixed(2)}; ${found.report.data.quantization?.configuration}`,
    );
    expect(fp32 - plain).toBeGreaterThan(5);
    expect(fp32 - best).toBeLessThanOrEqual(0.5);
  });
});
