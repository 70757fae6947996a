/**
 * Small networks of architectures that the data sets lack, spelled as exporters spell them, with seeded random weights: EfficientNet, DenseNet, Swin,
 * ConvNeXt, a decoder with rotary positions, grouped heads and a cache of keys and values.
 */
import { Editor } from "../../src/ir/edit.js";
import { int64Constant, makeConstant } from "../../src/ir/payload.js";
import type { Attr, Graph, ValueId } from "../../src/ir/types.js";
import { Tensor } from "../../src/tensor.js";
import type { Case } from "./cuda-cases.js";

const int = (value: number): Attr => ({ kind: "int", value });
const ints = (...value: readonly number[]): Attr => ({ kind: "ints", value });
const real = (value: number): Attr => ({ kind: "float", value });
const product = (dims: readonly number[]): number => dims.reduce((a, b) => a * b, 1);

/** A graph under construction, and the feeds that go with its inputs. */
class Net {
  readonly #e: Editor;
  readonly feeds: Tensor[] = [];
  #seed: number;
  #count = 0;
  constructor(name: string, seed: number) {
    this.#e = new Editor({ name, opsets: { "": 20 } });
    this.#seed = seed;
  }
  /** Uniform in [-size, size). */
  #random(n: number, size: number): Float32Array {
    return Float32Array.from({ length: n }, () => {
      this.#seed = (Math.imul(this.#seed, 1664525) + 1013904223) >>> 0;
      return (this.#seed / 2 ** 31 - 1) * size;
    });
  }
  input(name: string, dims: readonly number[], size = 1): ValueId {
    this.feeds.push(new Tensor("float32", this.#random(product(dims), size), dims));
    return this.#e.addInput(name, { kind: "tensor", dtype: "float32", shape: dims });
  }
  tokens(name: string, dims: readonly number[], below: number): ValueId {
    this.feeds.push(
      new Tensor(
        "int64",
        BigInt64Array.from({ length: product(dims) }, (_, i) => BigInt((i * 7 + 3) % below)),
        dims,
      ),
    );
    return this.#e.addInput(name, { kind: "tensor", dtype: "int64", shape: dims });
  }
  /** Values around `middle`, by default small enough that sums of `fan` products keep their size. */
  weight(dims: readonly number[], fan: number, middle = 0): ValueId {
    const data = this.#random(product(dims), Math.sqrt(3 / fan)).map((x) => x + middle);
    return this.#e.addConstant(`w${this.#count++}`, {
      dtype: "float32",
      dims,
      data: { kind: "bytes", bytes: new Uint8Array(data.buffer) },
    });
  }
  floats(dims: readonly number[], values: readonly number[]): ValueId {
    return this.#e.addConstant(`c${this.#count++}`, makeConstant("float32", dims, values));
  }
  scalar(x: number): ValueId {
    return this.floats([], [x]);
  }
  int64(...values: readonly number[]): ValueId {
    return this.#e.addConstant(`i${this.#count++}`, int64Constant(values));
  }
  add(op: string, ins: readonly ValueId[], attrs: Readonly<Record<string, Attr>> = {}): ValueId {
    return this.#e.add({ op, ins, outs: 1, attrs, name: `/${op}_${this.#count++}` }).outs[0] as ValueId;
  }
  split(x: ValueId, parts: number, axis: number): readonly ValueId[] {
    const attrs = { axis: int(axis), num_outputs: int(parts) };
    return this.#e.add({ op: "Split", ins: [x], outs: parts, attrs, name: `/Split_${this.#count++}` }).outs as readonly ValueId[];
  }
  finish(title: string, outputs: readonly ValueId[]): Case {
    this.#e.setOutputs(outputs);
    const graph: Graph = this.#e.finish();
    return { title, graph, inputs: this.feeds };
  }

  conv(
    x: ValueId,
    [cin, cout, k]: readonly [number, number, number],
    more: { stride?: number; group?: number; bias?: boolean } = {},
  ): ValueId {
    const { stride = 1, group = 1, bias = false } = more;
    const pad = stride === k ? 0 : Math.floor(k / 2);
    const w = this.weight([cout, cin / group, k, k], (cin / group) * k * k);
    return this.add("Conv", bias ? [x, w, this.weight([cout], 100)] : [x, w], {
      kernel_shape: ints(k, k),
      strides: ints(stride, stride),
      pads: ints(pad, pad, pad, pad),
      group: int(group),
    });
  }
  batchNorm(x: ValueId, c: number): ValueId {
    const spread = this.#random(c, 0.3).map((v) => v + 1);
    return this.add("BatchNormalization", [
      x,
      this.weight([c], 50, 1),
      this.weight([c], 50),
      this.weight([c], 50),
      this.floats([c], [...spread]),
    ]);
  }
  linear(x: ValueId, from: number, to: number, bias = true): ValueId {
    const y = this.add("MatMul", [x, this.weight([from, to], from)]);
    return bias ? this.add("Add", [y, this.weight([to], 100)]) : y;
  }
  layerNorm(x: ValueId, c: number): ValueId {
    return this.add("LayerNormalization", [x, this.weight([c], 50, 1), this.weight([c], 50)], { axis: int(-1), epsilon: real(1e-6) });
  }
  reshape(x: ValueId, ...dims: readonly number[]): ValueId {
    return this.add("Reshape", [x, this.int64(...dims)]);
  }
  transpose(x: ValueId, ...perm: readonly number[]): ValueId {
    return this.add("Transpose", [x], { perm: ints(...perm) });
  }
  slice(x: ValueId, from: number, to: number, axis: number, step = 1): ValueId {
    return this.add("Slice", [x, this.int64(from), this.int64(to), this.int64(axis), this.int64(step)]);
  }
  swish(x: ValueId): ValueId {
    return this.add("Mul", [x, this.add("Sigmoid", [x])]);
  }
  /** By the error function, in parts. */
  gelu(x: ValueId): ValueId {
    const erf = this.add("Erf", [this.add("Div", [x, this.scalar(Math.SQRT2)])]);
    return this.add("Mul", [this.add("Mul", [x, this.add("Add", [erf, this.scalar(1)])]), this.scalar(0.5)]);
  }
}

export function efficientNet(): Case {
  const n = new Net("efficientnet", 11);
  let x = n.swish(n.batchNorm(n.conv(n.input("image", [2, 3, 48, 48]), [3, 16, 3], { stride: 2 }), 16));
  let c = 16;
  for (const [out, expand, k, stride] of [
    [16, 1, 3, 1],
    [24, 4, 3, 2],
    [24, 4, 3, 1],
    [40, 4, 5, 2],
    [40, 4, 5, 1],
  ] as const) {
    const wide = c * expand;
    let y = expand === 1 ? x : n.swish(n.batchNorm(n.conv(x, [c, wide, 1]), wide));
    y = n.swish(n.batchNorm(n.conv(y, [wide, wide, k], { stride, group: wide }), wide));
    const squeezed = n.swish(n.conv(n.add("ReduceMean", [y, n.int64(2, 3)]), [wide, 8, 1], { bias: true }));
    y = n.add("Mul", [y, n.add("Sigmoid", [n.conv(squeezed, [8, wide, 1], { bias: true })])]);
    y = n.batchNorm(n.conv(y, [wide, out, 1]), out);
    x = stride === 1 && c === out ? n.add("Add", [y, x]) : y;
    c = out;
  }
  x = n.swish(n.batchNorm(n.conv(x, [c, 96, 1]), 96));
  const flat = n.add("Flatten", [n.add("GlobalAveragePool", [x])]);
  return n.finish("EfficientNet", [n.add("Gemm", [flat, n.weight([20, 96], 96), n.weight([20], 100)], { transB: int(1) })]);
}

export function denseNet(): Case {
  const n = new Net("densenet", 12);
  const stem = n.add("Relu", [n.batchNorm(n.conv(n.input("image", [1, 3, 56, 56]), [3, 32, 7], { stride: 2 }), 32)]);
  let x = n.add("MaxPool", [stem], { kernel_shape: ints(3, 3), strides: ints(2, 2), pads: ints(1, 1, 1, 1) });
  let c = 32;
  for (const [block, layers] of [4, 6].entries()) {
    for (let i = 0; i < layers; i++) {
      const narrow = n.conv(n.add("Relu", [n.batchNorm(x, c)]), [c, 32, 1]);
      const grown = n.conv(n.add("Relu", [n.batchNorm(narrow, 32)]), [32, 8, 3]);
      x = n.add("Concat", [x, grown], { axis: int(1) });
      c += 8;
    }
    if (block > 0) continue;
    x = n.conv(n.add("Relu", [n.batchNorm(x, c)]), [c, c / 2, 1]);
    x = n.add("AveragePool", [x], { kernel_shape: ints(2, 2), strides: ints(2, 2) });
    c /= 2;
  }
  const flat = n.add("Flatten", [n.add("GlobalAveragePool", [n.add("Relu", [n.batchNorm(x, c)])])]);
  return n.finish("DenseNet", [n.add("Gemm", [flat, n.weight([20, c], c), n.weight([20], 100)], { transB: int(1) })]);
}

export function convNeXt(): Case {
  const n = new Net("convnext", 13);
  let x = n.conv(n.input("image", [2, 3, 64, 64]), [3, 24, 4], { stride: 4, bias: true });
  const norm2d = (v: ValueId, c: number): ValueId => n.transpose(n.layerNorm(n.transpose(v, 0, 2, 3, 1), c), 0, 3, 1, 2);
  let c = 24;
  x = norm2d(x, c);
  for (const [stage, blocks] of [2, 2].entries()) {
    if (stage > 0) {
      x = n.conv(norm2d(x, c), [c, 2 * c, 2], { stride: 2, bias: true });
      c *= 2;
    }
    for (let i = 0; i < blocks; i++) {
      let y = n.transpose(n.conv(x, [c, c, 7], { group: c, bias: true }), 0, 2, 3, 1);
      y = n.linear(n.gelu(n.linear(n.layerNorm(y, c), c, 4 * c)), 4 * c, c);
      y = n.add("Mul", [n.transpose(y, 0, 3, 1, 2), n.weight([c, 1, 1], 12)]);
      x = n.add("Add", [x, y]);
    }
  }
  const pooled = n.layerNorm(n.add("ReduceMean", [x, n.int64(2, 3)], { keepdims: int(0) }), c);
  return n.finish("ConvNeXt", [n.linear(pooled, c, 20)]);
}

export function swin(): Case {
  const n = new Net("swin", 14);
  const [side, window, heads] = [16, 4, 3];
  let c = 48;
  const patches = n.conv(n.input("image", [1, 3, 4 * side, 4 * side]), [3, c, 4], { stride: 4, bias: true });
  let x = n.layerNorm(n.transpose(patches, 0, 2, 3, 1), c);
  const area = window * window;
  /** Which entry of the table of relative positions a pair of places reads. */
  const places = Array.from({ length: area * area }, (_, i) => {
    const [a, b] = [Math.floor(i / area), i % area];
    const along = (p: number, q: number): number => p - q + window - 1;
    return along(Math.floor(a / window), Math.floor(b / window)) * (2 * window - 1) + along(a % window, b % window);
  });
  const rolled = (v: ValueId, by: number): ValueId => {
    const along = (at: ValueId, axis: number): ValueId =>
      n.add("Concat", [n.slice(at, by, 2 ** 31, axis), n.slice(at, 0, by, axis)], { axis: int(axis) });
    return along(along(v, 1), 2);
  };
  const block = (v: ValueId, size: number, shift: number): ValueId => {
    const across = size / window;
    let y = n.layerNorm(v, c);
    if (shift > 0) y = rolled(y, shift);
    y = n.transpose(n.reshape(y, 1, across, window, across, window, c), 0, 1, 3, 2, 4, 5);
    const all = n.reshape(y, across * across, area, c);
    const qkv = n.transpose(n.reshape(n.linear(all, c, 3 * c), across * across, area, 3, heads, c / heads), 2, 0, 3, 1, 4);
    const [q, k, w] = n.split(qkv, 3, 0).map((part) => n.add("Squeeze", [part, n.int64(0)])) as [ValueId, ValueId, ValueId];
    const scaled = n.add("Mul", [q, n.scalar(1 / Math.sqrt(c / heads))]);
    let scores = n.add("MatMul", [scaled, n.transpose(k, 0, 1, 3, 2)]);
    const table = n.weight([(2 * window - 1) ** 2, heads], 6);
    const bias = n.transpose(n.reshape(n.add("Gather", [table, n.int64(...places)]), area, area, heads), 2, 0, 1);
    scores = n.add("Add", [scores, n.add("Unsqueeze", [bias, n.int64(0)])]);
    if (shift > 0) {
      const group = (i: number): number => (i < size - window ? 0 : i < size - shift ? 1 : 2);
      const regions = Array.from({ length: across * across * area }, (_, i) => {
        const [win, at] = [Math.floor(i / area), i % area];
        const row = Math.floor(win / across) * window + Math.floor(at / window);
        return 3 * group(row) + group((win % across) * window + (at % window));
      });
      const mask = Array.from({ length: across * across * area * area }, (_, i) => {
        const [win, a, b] = [Math.floor(i / (area * area)), Math.floor(i / area) % area, i % area];
        return regions[win * area + a] === regions[win * area + b] ? 0 : -100;
      });
      const shaped = n.reshape(scores, 1, across * across, heads, area, area);
      scores = n.reshape(n.add("Add", [shaped, n.floats([1, across * across, 1, area, area], mask)]), across * across, heads, area, area);
    }
    const mixed = n.transpose(n.add("MatMul", [n.add("Softmax", [scores], { axis: int(-1) }), w]), 0, 2, 1, 3);
    let z = n.linear(n.reshape(mixed, across * across, area, c), c, c);
    z = n.transpose(n.reshape(z, 1, across, across, window, window, c), 0, 1, 3, 2, 4, 5);
    z = n.reshape(z, 1, size, size, c);
    if (shift > 0) z = rolled(z, size - shift);
    const sum = n.add("Add", [v, z]);
    return n.add("Add", [sum, n.linear(n.gelu(n.linear(n.layerNorm(sum, c), c, 2 * c)), 2 * c, c)]);
  };
  x = block(block(x, side, 0), side, window / 2);
  // Merging of patches: four neighbours become channels.
  const quarter = (r: number, q: number): ValueId => n.slice(n.slice(x, r, 2 ** 31, 1, 2), q, 2 ** 31, 2, 2);
  const four = n.add("Concat", [quarter(0, 0), quarter(1, 0), quarter(0, 1), quarter(1, 1)], { axis: int(-1) });
  x = n.linear(n.layerNorm(four, 4 * c), 4 * c, 2 * c, false);
  c *= 2;
  x = block(x, side / 2, 0);
  const pooled = n.add("ReduceMean", [n.layerNorm(x, c), n.int64(1, 2)], { keepdims: int(0) });
  return n.finish("Swin", [n.linear(pooled, c, 20)]);
}

/** A step of a decoder: `length` new tokens behind `past` ones, heads of keys and values shared by groups of queries, the cache given back. */
export function decoder(past: number, length: number): Case {
  const n = new Net("decoder", 15);
  const [hidden, heads, kvHeads, size, vocabulary] = [96, 6, 2, 16, 64];
  let x = n.add("Gather", [n.weight([vocabulary, hidden], 3), n.tokens("tokens", [1, length], vocabulary)]);
  const angle = (f: (a: number) => number): ValueId =>
    n.floats(
      [1, 1, length, size],
      Array.from({ length: length * size }, (_, i) => f((past + Math.floor(i / size)) / 10000 ** ((2 * (i % (size / 2))) / size))),
    );
  const [cos, sin] = [angle(Math.cos), angle(Math.sin)];
  const rotated = (v: ValueId): ValueId => {
    const [low, high] = [n.slice(v, 0, size / 2, -1), n.slice(v, size / 2, 2 ** 31, -1)];
    const half = n.add("Concat", [n.add("Neg", [high]), low], { axis: int(-1) });
    return n.add("Add", [n.add("Mul", [v, cos]), n.add("Mul", [half, sin])]);
  };
  const rms = (v: ValueId): ValueId => {
    const mean = n.add("ReduceMean", [n.add("Pow", [v, n.scalar(2)]), n.int64(-1)], { keepdims: int(1) });
    const root = n.add("Sqrt", [n.add("Add", [mean, n.scalar(1e-6)])]);
    return n.add("Mul", [n.weight([hidden], 50, 1), n.add("Mul", [v, n.add("Reciprocal", [root])])]);
  };
  const split = (v: ValueId, count: number): ValueId => n.transpose(n.reshape(v, 1, length, count, size), 0, 2, 1, 3);
  const all = past + length;
  const repeated = (v: ValueId): ValueId =>
    n.reshape(n.add("Expand", [n.add("Unsqueeze", [v, n.int64(2)]), n.int64(1, kvHeads, heads / kvHeads, all, size)]), 1, heads, all, size);
  const later = Array.from({ length: length * all }, (_, i) => (i % all > past + Math.floor(i / all) ? -3.4028234663852886e38 : 0));
  const mask = n.floats([1, 1, length, all], later);
  const caches: ValueId[] = [];
  for (const layer of [0, 1]) {
    const y = rms(x);
    const q = rotated(split(n.linear(y, hidden, heads * size, false), heads));
    const cached = (name: string, now: ValueId): ValueId => {
      const whole = n.add("Concat", [n.input(`past.${layer}.${name}`, [1, kvHeads, past, size]), now], { axis: int(-2) });
      caches.push(whole);
      return whole;
    };
    const k = cached("key", rotated(split(n.linear(y, hidden, kvHeads * size, false), kvHeads)));
    const v = cached("value", split(n.linear(y, hidden, kvHeads * size, false), kvHeads));
    const product_ = n.add("MatMul", [q, n.transpose(repeated(k), 0, 1, 3, 2)]);
    const scores = n.add("Add", [n.add("Mul", [product_, n.scalar(1 / Math.sqrt(size))]), mask]);
    const mixed = n.add("MatMul", [n.add("Softmax", [scores], { axis: int(-1) }), repeated(v)]);
    x = n.add("Add", [x, n.linear(n.reshape(n.transpose(mixed, 0, 2, 1, 3), 1, length, heads * size), heads * size, hidden, false)]);
    const z = rms(x);
    const gated = n.add("Mul", [n.swish(n.linear(z, hidden, 160, false)), n.linear(z, hidden, 160, false)]);
    x = n.add("Add", [x, n.linear(gated, 160, hidden, false)]);
  }
  const title = `a decoder's ${length === 1 ? "step" : `${length} steps`} behind ${past}`;
  return n.finish(title, [n.linear(rms(x), hidden, vocabulary, false), ...caches]);
}

export const families = (): readonly Case[] => [efficientNet(), denseNet(), convNeXt(), swin(), decoder(17, 1), decoder(5, 4)];
