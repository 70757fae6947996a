/** First layers that take in the max pooling behind them: which do, what is launched, and that what they need compiles without spills that matter. */
import { describe, expect, it } from "vitest";
import { compileSource } from "../../../src/engines/cuda/compiler.js";
import { type LowerOptions, lower } from "../../../src/engines/cuda/lower.js";
import { a100, h200 } from "../../../src/engines/cuda/templates/index.js";
import { Editor } from "../../../src/ir/edit.js";
import { makeConstant } from "../../../src/ir/payload.js";
import type { Attrs, Graph, ValueId } from "../../../src/ir/types.js";
import { inferGraph } from "../../../src/ops/infer.js";
import { compilerMissing, needsCompiler } from "../../support/cuda.js";

interface Net {
  readonly filters?: number;
  readonly size?: number;
  readonly between?: string;
  readonly pads?: number;
  /** Whether the convolution's result is asked for too. */
  readonly shared?: boolean;
}
function net({ filters = 64, size = 64, between = "Relu", pads = 1, shared = false }: Net = {}): Graph {
  const e = new Editor({ name: "first layer", opsets: { "": 20 } });
  const ints = (...value: number[]) => ({ kind: "ints", value }) as const;
  const add = (op: string, ins: readonly ValueId[], attrs: Attrs = {}) => e.add({ op, ins, outs: 1, attrs, name: op }).outs[0] as ValueId;
  const x = e.addInput("x", { kind: "tensor", dtype: "float32", shape: [2, 3, size, size] });
  const w = e.addConstant("w", makeConstant("float32", [filters, 3, 7, 7], new Array(filters * 147).fill(0.5)));
  const conv = add(between, [add("Conv", [x, w], { pads: ints(3, 3, 3, 3), strides: ints(2, 2) })]);
  const y = add("MaxPool", [conv], { kernel_shape: ints(3, 3), strides: ints(2, 2), pads: ints(pads, pads, pads, pads) });
  e.setOutputs(shared ? [y, conv] : [y]);
  return inferGraph(e.finish()).graph;
}
const emitted = (g: Graph, precision: LowerOptions["precision"] = "fp16", device = h200) => lower(g, { precision, device }).plan;
const labels = (...of: Parameters<typeof emitted>): readonly string[] =>
  emitted(...of).operations.map((o) => (o.kind === "launch" ? o.launch.kernel.replace(/^k\d+_/, "") : o.kind));

describe("first layers with max pooling", () => {
  it("are one kernel behind the copy of the input, whatever the 16-bit type", () => {
    expect(labels(net())).toEqual(["lines", "conv_pool"]);
    expect(labels(net({ filters: 32 }), "bf16")).toEqual(["lines", "conv_pool"]);
  });
  it("stay apart where the maxima would not be the same, or something else reads between", () => {
    expect(labels(net({ between: "Neg" }))).not.toContain("conv_pool");
    expect(labels(net({ shared: true }))).not.toContain("conv_pool");
  });
  it("stay apart where the kernel does not reach: windows, widths, channels, precisions, other GPUs", () => {
    expect(labels(net({ pads: 0 }))).not.toContain("conv_pool");
    expect(labels(net({ size: 256 }))).not.toContain("conv_pool");
    expect(labels(net({ filters: 48 }))).not.toContain("conv_pool");
    expect(labels(net(), "fp32")).not.toContain("conv_pool");
    expect(labels(net(), "fp16", a100)).not.toContain("conv_pool");
  });
  it("walk down strips that keep every warpgroup busy", () => {
    const source = emitted(net()).sources.find((s) => s.kernels.some((k) => k.endsWith("conv_pool")))?.source;
    expect(source).toMatch(/\bROWS = 16, COLUMNS = 16, LINES = 69, STEP = 2, TAP_LINES = 7, STRIP = 1\b/);
  });
});

describe.skipIf(compilerMissing !== undefined)(needsCompiler("first layers compile"), () => {
  it.each(["fp16", "bf16"] as const)("in %s", async (precision) => {
    for (const s of emitted(net({ size: 224 }), precision).sources) {
      const { cubin } = await compileSource(s.source, "sm_90a", { name: s.kernels[0] ?? "" });
      expect(cubin.length).toBeGreaterThan(1000);
    }
  });
});
