/** Quantized graphs on the host engine: ONNX Runtime's integer kernels do the work, and give the published arithmetic bit for bit. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import ort from "onnxruntime-node";
import { describe, expect, test } from "vitest";
import { hostEngine } from "../../src/engines/host/index.js";
import { FUSIONS_THAT_ROUND, integers } from "../../src/engines/host/integers.js";
import { hostRunner } from "../../src/engines/host/runner.js";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { importOnnx } from "../../src/import/onnx/index.js";
import { Editor } from "../../src/ir/edit.js";
import { makeConstant } from "../../src/ir/payload.js";
import type { Attr, Graph, ValueId } from "../../src/ir/types.js";
import { inferGraph } from "../../src/ops/infer.js";
import { place, quantizable } from "../../src/quantize/place.js";
import { Tensor } from "../../src/tensor.js";
import { evaluateIntegers } from "../support/integer-graph.js";
import { generator } from "../support/integer-kernels.js";

const ints = (...value: number[]): Attr => ({ kind: "ints", value });
const int = (value: number): Attr => ({ kind: "int", value });

/** Writes layers with random weights. */
class Net {
  readonly edit = new Editor({ name: "net", opsets: { "": 21 } });
  readonly random: () => number;
  constructor(seed: number) {
    this.random = generator(seed);
  }
  floats(count: number, spread = 1): number[] {
    return Array.from({ length: count }, () => Math.fround((this.random() + this.random() - 1) * spread));
  }
  weight(...dims: number[]): ValueId {
    const count = dims.reduce((a, b) => a * b, 1);
    return this.edit.addConstant("w", makeConstant("float32", dims, this.floats(count, 2 / Math.sqrt(count / (dims[0] ?? 1)))));
  }
  node(op: string, ins: (ValueId | undefined)[], attrs: Record<string, Attr> = {}): ValueId {
    const [y] = this.edit.add({ op, ins, outs: 1, name: `${op}${this.random().toString(36).slice(2, 6)}`, attrs }).outs;
    return y as ValueId;
  }
  conv(x: ValueId, from: number, to: number, attrs: Record<string, Attr> = {}, kernel = 3, group = 1): ValueId {
    const pad = (kernel - 1) / 2;
    return this.node("Conv", [x, this.weight(to, from / group, kernel, kernel), this.weight(to)], {
      pads: ints(pad, pad, pad, pad),
      group: int(group),
      ...attrs,
    });
  }
  relu(x: ValueId): ValueId {
    return this.node("Relu", [x]);
  }
  clip(x: ValueId): ValueId {
    const bound = (v: number): ValueId => this.edit.addConstant("bound", makeConstant("float32", [], [v]));
    return this.node("Clip", [x, bound(0), bound(1.5)]);
  }
}

/** Residual blocks, a pool that moves int8, a depthwise block with bounds, a global pool, two fully connected layers. */
function residual(): Graph {
  const n = new Net(3);
  const x = n.edit.addInput("x", { kind: "tensor", dtype: "float32", shape: ["N", 3, 12, 12] });
  const stem = n.node("MaxPool", [n.relu(n.conv(x, 3, 16))], { kernel_shape: ints(2, 2), strides: ints(2, 2) });
  const first = n.relu(n.node("Add", [n.conv(n.relu(n.conv(stem, 16, 16)), 16, 16), stem]));
  const down = n.conv(first, 16, 32, { strides: ints(2, 2) }, 1);
  const main = n.conv(n.relu(n.conv(first, 16, 32, { strides: ints(2, 2) })), 32, 32);
  const second = n.relu(n.node("Add", [main, down]));
  const wide = n.clip(n.conv(second, 32, 48, {}, 1));
  const deep = n.clip(n.conv(wide, 48, 48, {}, 3, 48));
  const pooled = n.node("Flatten", [n.node("GlobalAveragePool", [n.conv(deep, 48, 32, {}, 1)])]);
  const hidden = n.relu(n.node("Gemm", [pooled, n.weight(24, 32), n.weight(24)], { transB: int(1) }));
  n.edit.setOutputs([n.node("Gemm", [hidden, n.weight(24, 16), n.weight(16)])]);
  return n.edit.finish();
}
/** Matrix products with and without activations and biases behind them. */
function tokens(): Graph {
  const n = new Net(5);
  const x = n.edit.addInput("x", { kind: "tensor", dtype: "float32", shape: ["N", 9, 32] });
  const a = n.node("MatMul", [x, n.weight(32, 48)]);
  const b = n.relu(n.node("MatMul", [n.node("Add", [a, n.weight(48)]), n.weight(48, 64)]));
  n.edit.setOutputs([n.node("MatMul", [b, n.weight(64, 20)])]);
  return n.edit.finish();
}

/** Transposed convolutions, in groups and whole, with a quantizer behind them and without. */
function decoder(): Graph {
  const n = new Net(6);
  const x = n.edit.addInput("x", { kind: "tensor", dtype: "float32", shape: ["N", 16, 5, 5] });
  const up = { strides: ints(2, 2) };
  const a = n.relu(n.node("ConvTranspose", [x, n.weight(16, 12, 2, 2), n.weight(24)], { ...up, group: int(2) }));
  const b = n.node("ConvTranspose", [a, n.weight(24, 16, 3, 3)], { ...up, pads: ints(1, 1, 1, 1), output_padding: ints(1, 1) });
  n.edit.setOutputs([n.node("ConvTranspose", [b, n.weight(16, 16, 2, 2), n.weight(16)], up)]);
  return n.edit.finish();
}

async function placed(g: Graph, dims: readonly number[], seed: number) {
  const { graph, facts } = inferGraph(g);
  const random = generator(seed);
  const data = Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => random() * 4 - 2);
  const feeds = { x: new Tensor("float32", data, dims) };
  const tensors = quantizable(graph, facts);
  const open = new Editor(graph);
  open.setOutputs([...graph.outputs, ...tensors.filter((v) => !graph.inputs.includes(v))]);
  const floats = await hostRunner().open(open.finish());
  const seen = await floats.run(feeds);
  await floats.dispose();
  const ranges = new Map(
    tensors.map((v) => {
      const name = graph.values[v]?.name ?? "";
      const values = (seen[name]?.data ?? data) as Float32Array;
      // Some elements are clipped.
      return [name, 0.9 * values.reduce((most, y) => Math.max(most, Math.abs(y)), 0)];
    }),
  );
  return { ...place(graph, facts, ranges), feeds, data, dims };
}

describe.each([
  ["residual blocks", residual, [2, 3, 12, 12]],
  ["matrix products", tokens, [3, 9, 32]],
  ["transposed convolutions", decoder, [2, 16, 5, 5]],
] as const)("%s", (_name, build, dims) => {
  test("every bit is the reference arithmetic's", async () => {
    const { graph, feeds, data } = await placed(build(), dims, 11);
    const opened = await hostRunner({ threads: 1 }).open(inferGraph(graph).graph);
    const theirs = await opened.run(feeds);
    await opened.dispose();
    const ours = evaluateIntegers(graph, { x: { data, dims } });
    for (const [name, value] of Object.entries(ours)) expect([...((theirs[name]?.data ?? []) as Float32Array)]).toEqual([...value.data]);
  });

  test("nor do unsigned weights change a bit, for processors that sum mixed products in int16", async () => {
    const { graph, data } = await placed(build(), dims, 12);
    const { graph: typed } = inferGraph(graph);
    const session = await ort.InferenceSession.create(encodeOnnx(integers(typed, false)), {
      graphOptimizationLevel: "all",
      logSeverityLevel: 3,
      extra: { optimization: { disable_specified_optimizers: FUSIONS_THAT_ROUND } },
    });
    const theirs = await session.run({ x: new ort.Tensor("float32", data, dims) });
    await session.release();
    for (const [name, value] of Object.entries(evaluateIntegers(graph, { x: { data, dims } })))
      expect([...((theirs[name]?.data ?? []) as Float32Array)]).toEqual([...value.data]);
  });

  test("no product is left to float kernels but those whose sums are whole", async () => {
    const { graph } = await placed(build(), dims, 11);
    const artifact = await hostEngine.build(inferGraph(graph).graph, { target: { sm: 0, tensorrt: 0, precision: "int8" } });
    const [file] = artifact.files;
    const folder = mkdtempSync(join(tmpdir(), "partita-integers-"));
    try {
      const path = join(folder, "optimised.onnx");
      const session = await ort.InferenceSession.create((file as { bytes: Uint8Array }).bytes, {
        graphOptimizationLevel: "extended",
        optimizedModelFilePath: path,
        logSeverityLevel: 3,
        extra: { optimization: { disable_specified_optimizers: artifact.settings?.["without"] ?? "" } },
      });
      await session.release();
      const optimised = await importOnnx(new Uint8Array(readFileSync(path)));
      const count = (op: string): number => optimised.nodes.filter((n) => n.op === op).length;
      expect({
        QLinearConv: count("QLinearConv"),
        Conv: count("Conv") + count("FusedConv"),
        QGemm: count("QGemm"),
        QLinearMatMul: count("QLinearMatMul"),
        MatMulIntegerToFloat: count("MatMulIntegerToFloat"),
        float: count("Gemm") + count("MatMul") + count("FusedMatMul"),
      }).toEqual(
        build === residual
          ? { QLinearConv: 7, Conv: 2, QGemm: 2, QLinearMatMul: 0, MatMulIntegerToFloat: 0, float: 0 }
          : build === decoder
            ? { QLinearConv: 0, Conv: 0, QGemm: 0, QLinearMatMul: 0, MatMulIntegerToFloat: 0, float: 0 }
            : { QLinearConv: 0, Conv: 0, QGemm: 0, QLinearMatMul: 1, MatMulIntegerToFloat: 2, float: 0 },
      );
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});

test("sums beyond 2^24 come from ConvInteger, as exact", async () => {
  const n = new Net(8);
  const x = n.edit.addInput("x", { kind: "tensor", dtype: "float32", shape: [1, 160, 4, 4] });
  const signs = Array.from({ length: 16 * 160 * 9 }, () => (n.random() < 0.3 ? -1 : 1));
  const w = n.edit.addConstant("w", makeConstant("float32", [16, 160, 3, 3], signs));
  n.edit.setOutputs([n.node("Conv", [x, w, n.weight(16)], { pads: ints(1, 1, 1, 1) })]);
  const { graph, data, dims } = await placed(n.edit.finish(), [1, 160, 4, 4], 4);
  expect(integers(inferGraph(graph).graph).nodes.map((node) => node.op)).toEqual(["QuantizeLinear", "ConvInteger", "Add", "Cast", "Mul"]);
  const opened = await hostRunner({ threads: 1 }).open(inferGraph(graph).graph);
  const theirs = await opened.run({ x: new Tensor("float32", data, dims) });
  await opened.dispose();
  const [[name, value] = ["", undefined]] = Object.entries(evaluateIntegers(graph, { x: { data, dims } }));
  expect([...((theirs[name]?.data ?? []) as Float32Array)]).toEqual([...(value?.data ?? [])]);
});
