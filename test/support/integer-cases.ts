/**
 * Quantized layers as graphs with feeds, and every bit of their results by the reference arithmetic (src/quantize/arithmetic.ts): what the INT8 kernels are
 * held to on a GPU.
 */
import { Editor } from "../../src/ir/edit.js";
import { makeConstant } from "../../src/ir/payload.js";
import type { Attrs, Graph, ValueId } from "../../src/ir/types.js";
import { inferGraph } from "../../src/ops/infer.js";
import {
  type Accumulator,
  addResidual,
  conv,
  globalAveragePool,
  type Int8,
  matmul,
  maxPool,
  multipliers,
  quantize,
  requantize,
  sumScales,
  toReal,
} from "../../src/quantize/arithmetic.js";
import { Tensor } from "../../src/tensor.js";
import { generator } from "./integer-kernels.js";

export interface IntegerCase {
  readonly title: string;
  readonly graph: Graph;
  readonly inputs: readonly Tensor[];
  readonly expected: readonly Tensor[];
}

/** Steps in the graph and their values: a quantizer's result. */
interface Steps extends Int8 {
  readonly id: ValueId;
  readonly scale: number;
}
interface End {
  /** The largest result in steps of 127: above 1 the largest results saturate. */
  readonly reach?: number;
  readonly relu?: boolean;
  /** Added before the activation. */
  readonly residual?: Steps;
}
interface Filter extends End {
  readonly size?: number;
  readonly stride?: number;
  readonly group?: number;
}

const { fround } = Math;
const ints = (...value: number[]) => ({ kind: "ints", value }) as const;
const int = (value: number) => ({ kind: "int", value }) as const;
const count = (dims: readonly number[]): number => dims.reduce((a, b) => a * b, 1);

/** Builds the graph and computes it at once, layer by layer. */
class Layers {
  readonly #e = new Editor({ name: "integers", opsets: { "": 20 } });
  readonly #next: () => number;
  readonly #inputs: Tensor[] = [];
  #names = 0;
  constructor(seed: number) {
    this.#next = generator(seed);
  }

  input(...dims: number[]): Steps {
    const data = this.#bytes(count(dims), -128);
    this.#inputs.push(new Tensor("int8", data, dims));
    const id = this.#e.addInput(this.#name("x"), { kind: "tensor", dtype: "int8", shape: dims });
    return { id, data, dims, scale: fround(0.021) };
  }

  conv(x: Steps, filters: number, { size = 1, stride = 1, group = 1, ...end }: Filter): Steps {
    const dims = [filters, (x.dims[1] as number) / group, size, size];
    const w = { data: this.#bytes(count(dims), -127), dims };
    const bias = Int32Array.from({ length: filters }, () => Math.round((this.#next() - 0.5) * 40_000));
    const pads = ints(...new Array<number>(4).fill((size - 1) / 2));
    const scales = this.#scales(filters);
    const ends = [this.#real(x), this.#weights(w, scales, 0), this.#bias(bias, sumScales(x.scale, scales))];
    const y = this.#add("Conv", ends, { pads, strides: ints(stride, stride), group: int(group) });
    return this.#end(y, conv(x, w, bias, { pads: pads.value, strides: [stride, stride], group }), x.scale, scales, end);
  }

  product(x: Steps, columns: number, end: End): Steps {
    const dims = [x.dims.at(-1) as number, columns];
    const w = { data: this.#bytes(count(dims), -127), dims };
    const scales = this.#scales(columns);
    const y = this.#add("MatMul", [this.#real(x), this.#weights(w, scales, 1)]);
    return this.#end(y, matmul(x, w), x.scale, scales, end);
  }

  maxPool(x: Steps): Steps {
    const window = { strides: [2, 2], pads: [1, 1, 1, 1] };
    const attrs = { kernel_shape: ints(3, 3), strides: ints(...window.strides), pads: ints(...window.pads) };
    const pooled = maxPool(x, [3, 3], window);
    return { ...pooled, id: this.#quantized(this.#add("MaxPool", [this.#real(x)], attrs), x.scale), scale: x.scale };
  }

  mean(x: Steps): Steps {
    const scale = fround(x.scale / 2);
    const data = globalAveragePool(x, x.scale, scale);
    return { ...data, id: this.#quantized(this.#add("GlobalAveragePool", [this.#real(x)]), scale), scale };
  }

  finish(title: string, ...outputs: Steps[]): IntegerCase {
    this.#e.setOutputs(outputs.map((o) => o.id));
    const expected = outputs.map((o) => new Tensor("int8", o.data, o.dims));
    return { title, graph: inferGraph(this.#e.finish()).graph, inputs: this.#inputs, expected };
  }

  #end(y: ValueId, sums: Accumulator, xScale: number, scales: Float32Array, { reach = 1.25, relu = false, residual }: End): Steps {
    const real = toReal(sums, sumScales(xScale, scales));
    const whole = residual === undefined ? real : addResidual(real, residual.data, residual.scale);
    const scale = fround(whole.reduce((most, v) => Math.max(most, Math.abs(v)), 0) / (127 * reach));
    const added = residual === undefined ? y : this.#add("Add", [y, this.#real(residual)]);
    const id = this.#quantized(relu ? this.#add("Relu", [added]) : added, scale);
    const data = residual === undefined ? requantize(sums, multipliers(xScale, scales, scale)) : quantize(whole, scale);
    // Rounding keeps the order: zero bounds the steps as it bounds the values.
    return { id, data: relu ? data.map((q) => Math.max(q, 0)) : data, dims: sums.dims, scale };
  }
  #real(x: Steps): ValueId {
    return this.#add("DequantizeLinear", [x.id, this.#float([], [x.scale])]);
  }
  #quantized(v: ValueId, scale: number): ValueId {
    return this.#add("QuantizeLinear", [
      v,
      this.#float([], [scale]),
      this.#e.addConstant(this.#name("zero"), makeConstant("int8", [], [0])),
    ]);
  }
  #weights(w: Int8, scales: Float32Array, axis: number): ValueId {
    const steps = this.#e.addConstant(this.#name("w"), makeConstant("int8", w.dims, [...w.data]));
    return this.#add("DequantizeLinear", [steps, this.#float([scales.length], [...scales])], { axis: int(axis) });
  }
  #bias(bias: Int32Array, scales: Float32Array): ValueId {
    const steps = this.#e.addConstant(this.#name("b"), makeConstant("int32", [bias.length], [...bias]));
    return this.#add("DequantizeLinear", [steps, this.#float([scales.length], [...scales])], { axis: int(0) });
  }
  #float(dims: readonly number[], values: readonly number[]): ValueId {
    return this.#e.addConstant(this.#name("s"), makeConstant("float32", dims, values));
  }
  #add(op: string, ins: readonly ValueId[], attrs: Attrs = {}): ValueId {
    return this.#e.add({ op, ins, outs: 1, attrs, name: this.#name(op) }).outs[0] as ValueId;
  }
  #name(of: string): string {
    return `${of}${this.#names++}`;
  }
  #bytes(n: number, least: number): Int8Array {
    return Int8Array.from({ length: n }, () => least + Math.floor(this.#next() * (128 - least)));
  }
  #scales(n: number): Float32Array {
    return Float32Array.from({ length: n }, (_, i) => fround(0.0003 + 0.00007 * (i % 13)));
  }
}

let seed = 0;
const made = (title: string, build: (l: Layers) => readonly Steps[]): IntegerCase => {
  const layers = new Layers(++seed);
  return layers.finish(title, ...build(layers));
};

/** Products, convolutions and blocks of awkward and of common sizes; residuals of either sign, ends that saturate, a stem with its pool. */
export function integerCases(): readonly IntegerCase[] {
  seed = 0;
  const product = (rows: number, columns: number, depth: number): IntegerCase =>
    made(`product ${rows}x${columns}x${depth}`, (l) => [l.product(l.input(rows, depth), columns, {})]);
  const convolution = (title: string, dims: readonly number[], filters: number, filter: Filter): IntegerCase =>
    made(title, (l) => [l.conv(l.input(...dims), filters, filter)]);
  /** 1x1, 3x3, 1x1 and what skips them; the residual has been through a Relu where `positive`. */
  const bottleneck = (title: string, [n, c, h]: readonly [number, number, number], positive: boolean, reach: number): IntegerCase =>
    made(title, (l) => {
      const first = l.input(n, c, h, h);
      const x = positive ? l.conv(first, c, { relu: true }) : first;
      const a = l.conv(x, c / 4, { relu: true });
      const b = l.conv(a, c / 4, { size: 3, relu: true });
      return [b, l.conv(b, c, { residual: x, relu: true, reach })];
    });
  return [
    product(33, 72, 200),
    product(1, 64, 128),
    product(37, 53, 41),
    product(128, 128, 256),
    convolution("convolution of 32 channels", [1, 32, 9, 11], 48, { size: 3, relu: true }),
    convolution("convolution of 3 channels", [1, 3, 12, 13], 20, { size: 3, relu: true }),
    convolution("convolution with strides", [1, 64, 14, 14], 64, { size: 3, stride: 2, relu: true }),
    convolution("pointwise convolution", [1, 40, 7, 9], 72, { relu: true }),
    convolution("convolution in groups", [1, 32, 8, 9], 48, { size: 3, group: 4 }),
    convolution("depthwise convolution", [1, 24, 9, 11], 24, { size: 3, group: 24, relu: true }),
    bottleneck("bottleneck, residual of either sign", [2, 128, 14], false, 1),
    bottleneck("bottleneck, residual without negatives", [2, 256, 14], true, 1.5),
    bottleneck("bottleneck that saturates", [1, 128, 7], true, 20),
    bottleneck("bottleneck of odd channels", [1, 20, 9], true, 1),
    made("linear bottleneck", (l) => {
      const x = l.input(1, 24, 12, 12);
      const a = l.conv(x, 96, { relu: true });
      const b = l.conv(a, 96, { size: 3, group: 96, relu: true });
      return [l.conv(b, 24, { residual: x })];
    }),
    made("a block that halves", (l) => {
      const x = l.conv(l.input(1, 64, 14, 14), 64, { relu: true });
      const a = l.conv(x, 64, { size: 3, stride: 2, relu: true });
      return [l.conv(a, 128, { residual: l.conv(x, 128, { stride: 2 }), relu: true })];
    }),
    made("a stem, its pool and a layer", (l) => {
      const stem = l.conv(l.input(2, 3, 64, 64), 64, { size: 7, stride: 2, relu: true });
      return [l.conv(l.maxPool(stem), 32, { relu: true })];
    }),
    made("tokens through two products and what skips them", (l) => {
      const x = l.input(130, 128);
      return [l.product(l.product(x, 256, { relu: true }), 128, { residual: x })];
    }),
    made("a layer and its mean", (l) => [l.mean(l.conv(l.input(3, 64, 7, 7), 64, { relu: true }))]),
  ];
}
