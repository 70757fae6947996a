/** Quantized regions become integer products: which kernels they are, what they store, and that the emitted arithmetic is the reference's. */
import { describe, expect, it } from "vitest";
import { lower } from "../../../src/engines/cuda/lower.js";
import { integerRegions } from "../../../src/engines/cuda/quantized.js";
import { a100, h200 } from "../../../src/engines/cuda/templates/index.js";
import { Editor } from "../../../src/ir/edit.js";
import { makeConstant } from "../../../src/ir/payload.js";
import type { Attrs, Graph, ValueId } from "../../../src/ir/types.js";

const ints = (...value: number[]) => ({ kind: "ints", value }) as const;
const int = (value: number) => ({ kind: "int", value }) as const;

class Net {
  readonly e = new Editor({ name: "quantized", opsets: { "": 20 } });
  #count = 0;
  input(dtype: "float32" | "int8", ...shape: number[]): ValueId {
    return this.e.addInput(`in${this.#count++}`, { kind: "tensor", dtype, shape });
  }
  add(op: string, ins: readonly ValueId[], attrs: Attrs = {}): ValueId {
    return this.e.add({ op, ins, outs: 1, attrs, name: `${op}${this.#count++}` }).outs[0] as ValueId;
  }
  constant(dtype: "float32" | "int8" | "int32", dims: readonly number[], value: (i: number) => number): ValueId {
    const count = dims.reduce((a, b) => a * b, 1);
    return this.e.addConstant(
      `c${this.#count++}`,
      makeConstant(
        dtype,
        dims,
        Array.from({ length: count }, (_, i) => value(i)),
      ),
    );
  }
  dequantized(v: ValueId, scale: readonly number[] | number, axis = 0): ValueId {
    const list = typeof scale === "number" ? undefined : scale;
    const s = this.constant("float32", list === undefined ? [] : [list.length], (i) => list?.[i] ?? (scale as number));
    return this.add("DequantizeLinear", [v, s], list === undefined ? {} : { axis: int(axis) });
  }
  quantized(v: ValueId, scale: number): ValueId {
    const zero = this.constant("int8", [], () => 0);
    return this.add("QuantizeLinear", [v, this.constant("float32", [], () => scale), zero]);
  }
  conv(x: ValueId, xScale: number, dims: readonly number[], attrs: Attrs = {}, biasScale?: number): ValueId {
    const k = dims[0] as number;
    const w = this.dequantized(
      this.constant("int8", dims, (i) => (i % 5) - 2),
      Array.from({ length: k }, () => 0.5),
    );
    const b = this.dequantized(
      this.constant("int32", [k], (i) => i),
      Array.from({ length: k }, () => biasScale ?? Math.fround(Math.fround(xScale) * 0.5)),
    );
    return this.add("Conv", [x, w, b], attrs);
  }
  finish(...outputs: ValueId[]): Graph {
    this.e.setOutputs(outputs);
    return this.e.finish();
  }
}
const ops = (g: Graph): readonly string[] => integerRegions(g).nodes.map((n) => n.op);
const emitted = (g: Graph, device = h200) => lower(g, { precision: "int8", device });
const sources = (g: Graph): string =>
  emitted(g)
    .plan.sources.map((s) => s.source)
    .join("\n");

describe("quantized regions", () => {
  it("multiply the sums by the joined scale where only a Relu stands before the quantizer", () => {
    const n = new Net();
    const y = n.add("Relu", [n.conv(n.dequantized(n.input("int8", 1, 64, 8, 8), 0.25), 0.25, [32, 64, 1, 1])]);
    const g = n.finish(n.quantized(y, 0.5));
    expect(ops(g)).toEqual(["ConvInteger", "Add", "DequantizeLinear", "Relu", "QuantizeLinear"]);
    const scale = integerRegions(g).constants;
    // M = fl(fl(0.25 * 0.5) / 0.5), and the quantizer's own step is 1.
    expect(
      [...scale.values()].some(
        (c) =>
          c.dtype === "float32" &&
          c.dims[0] === 32 &&
          new Float32Array(new Uint8Array((c.data as { bytes: Uint8Array }).bytes).buffer)[0] === 0.25,
      ),
    ).toBe(true);
    const text = sources(g);
    expect(text).toContain("s32.s8.s8");
    expect(text).not.toMatch(/ \/ 0\.5f/);
  });
  it("divide where a residual is added, without a fused multiply-add, by a reciprocal in two parts that decides ties as the quotient does", () => {
    const n = new Net();
    const y = n.conv(n.dequantized(n.input("int8", 1, 64, 8, 8), 0.25), 0.25, [64, 64, 1, 1]);
    const sum = n.add("Add", [y, n.dequantized(n.input("int8", 1, 64, 8, 8), 0.3)]);
    const g = n.finish(n.add("MaxPool", [n.quantized(sum, 0.7)], { kernel_shape: ints(1, 1) }));
    expect(ops(g)).toContain("ConvInteger");
    const text = sources(g);
    expect(text).toContain("__fmul_rn((float)");
    expect(text).toMatch(/fmaf\(f\d+, 1\.42857\d*f, __fmul_rn\(f\d+, -?[\d.e-]+f\)\)/);
    expect(text).toContain("12582912.0f");
  });
  describe("hold results between their bounds", () => {
    const net = (residual: "after a Relu" | "signed", scale: number): Graph => {
      const n = new Net();
      const x = n.dequantized(n.input("int8", 1, 64, 8, 8), 0.25);
      const first = n.conv(x, 0.25, [32, 64, 1, 1]);
      const held = n.dequantized(n.quantized(residual === "signed" ? first : n.add("Relu", [first]), 0.5), 0.5);
      const y = n.add("Relu", [n.add("Add", [n.conv(x, 0.25, [32, 64, 1, 1]), held])]);
      // Its reader takes channels side by side, as a graph's output would not.
      return n.finish(n.conv(n.dequantized(n.quantized(y, scale), scale), scale, [32, 32, 1, 1]));
    };
    it("four at a time, as halves of words, where the weights keep the sums small enough for that", () => {
      // 64 times at most 2 times 128, times 0.125, by a step of 0.5: at most 4,096 and the bias.
      const text = sources(net("signed", 0.5));
      expect(text).toContain("held_bytes<0, 127>(n");
      expect(text).toContain("held_bytes<-128, 127>(n");
      expect(text).not.toMatch(/fminf\(fmaxf\(f\d/);
    });
    it("one by one in float where they do not", () => {
      const text = sources(net("signed", 0.01));
      expect(text).not.toContain("held_bytes<0, 127>(n");
      expect(text).toMatch(/fminf\(fmaxf\(f\d+, 0\.0f\), 1\.27f\)/);
    });
    it("and read a residual that is not negative in one step", () => {
      expect(sources(net("after a Relu", 0.5))).toMatch(/byte_times<3>\(v\d+\.e\[3\], 0\.5f, -4194304\.0f\)/);
      expect(sources(net("signed", 0.5))).toMatch(/__fmul_rn\(byte_to_float<3>\(v\d+\.e\[3\]\), 0\.5f\)/);
    });
  });
  it("keep int8 through operators that only move or compare", () => {
    const n = new Net();
    const x = n.dequantized(n.input("int8", 1, 64, 8, 8), 0.25);
    const pooled = n.quantized(n.add("MaxPool", [x], { kernel_shape: ints(2, 2), strides: ints(2, 2) }), 0.25);
    const g = n.finish(n.quantized(n.conv(n.dequantized(pooled, 0.25), 0.25, [16, 64, 1, 1]), 0.5));
    expect(ops(g)).toEqual(["MaxPool", "ConvInteger", "Add", "DequantizeLinear", "QuantizeLinear"]);
    const { plan } = emitted(g);
    // The pool and the convolution, whose results lie as the output is asked for.
    expect(plan.operations).toHaveLength(2);
  });
  it("leave a bias of another scale in float, and a quantizer of another scale where it stands", () => {
    const n = new Net();
    const x = n.dequantized(n.input("int8", 1, 64, 8, 8), 0.25);
    const moved = n.quantized(n.add("Transpose", [x], { perm: ints(0, 1, 3, 2) }), 0.5);
    const g = n.finish(moved, n.conv(x, 0.25, [16, 64, 1, 1], {}, 0.1));
    const names = ops(g);
    expect(names.filter((o) => o === "QuantizeLinear")).toHaveLength(1);
    expect(names).toContain("ConvInteger");
    expect(names.indexOf("Add")).toBeGreaterThan(names.indexOf("ConvInteger") + 1);
  });
  it("say nothing about graphs without quantizers", () => {
    const plain = new Net();
    const a = plain.finish(plain.add("Relu", [plain.input("float32", 2)]));
    expect(integerRegions(a)).toBe(a);
  });
  it("take zero points that are constants, and no others", () => {
    const net = (zero: (n: Net) => ValueId): Graph => {
      const n = new Net();
      const x = n.add("DequantizeLinear", [n.input("int8", 1, 8, 4, 4), n.constant("float32", [], () => 0.1), zero(n)]);
      return n.finish(n.conv(x, 0.1, [4, 8, 1, 1]));
    };
    const [product] = integerRegions(net((n) => n.constant("int8", [], () => 3))).nodes;
    expect([product?.op, product?.ins.length]).toEqual(["ConvInteger", 4]);
    expect(ops(net((n) => n.input("int8")))).toContain("Conv");
  });
  it("sum means in integers", () => {
    const n = new Net();
    const x = n.dequantized(n.input("int8", 1, 64, 7, 7), 0.25);
    expect(ops(n.finish(n.quantized(n.add("GlobalAveragePool", [x]), 0.1)))).toEqual([
      "Cast",
      "ReduceSum",
      "DequantizeLinear",
      "QuantizeLinear",
    ]);
  });
  it("share one quantizer of one scale, and one product of one operand", () => {
    const n = new Net();
    const x = n.input("float32", 4, 64);
    const product = (k: number) => {
      const w = n.dequantized(
        n.constant("int8", [64, k], (i) => (i % 7) - 3),
        Array.from({ length: k }, () => 0.5),
        1,
      );
      return n.add("MatMul", [n.dequantized(n.quantized(x, 0.25), 0.25), w]);
    };
    const { plan } = emitted(n.finish(product(32), product(48)));
    // The quantizer, the product, and what takes it apart.
    expect(plan.operations).toHaveLength(4);
  });
});

describe("first layers", () => {
  const stem = (device = h200) => {
    const n = new Net();
    const x = n.input("float32", 64, 3, 224, 224);
    const w = n.constant("float32", [64, 3, 7, 7], (i) => i % 3);
    return lower(
      n.finish(n.add("Relu", [n.add("Conv", [x, w], { kernel_shape: ints(7, 7), strides: ints(2, 2), pads: ints(3, 3, 3, 3) })])),
      {
        precision: "fp16",
        device,
      },
    );
  };
  it("read the taps of two filter rows as one pixel of 64 channels", () => {
    const { plan } = stem();
    const maps = plan.operations
      .flatMap((o) => (o.kind === "launch" ? o.launch.args : []))
      .flatMap((a) => (a.kind === "tensorMap" ? [a.map] : []));
    const [input] = maps.filter((m) => m.mode === "im2col");
    // 112 columns of windows, two pixels of 2 x 4 halves apart, in 113 pairs of rows of 230 padded pixels.
    expect(input?.dims).toEqual([64, 112, 113, 64]);
    expect(input?.strides).toEqual([32, 230 * 16, 113 * 230 * 16]);
  });
  it("have a kernel for Ampere over the same copy", () => {
    expect(stem(a100).plan.operations).toHaveLength(2);
  });
});
