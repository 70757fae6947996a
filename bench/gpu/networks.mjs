// ResNet-50 v1.5 and BERT-base with seeded random weights, as graphs: the networks of the peers, without a file of weights. In INT8 they carry
// explicit symmetric quantizers, placed as calibration places them, with scales from the second moments that the random weights imply.
import { Editor, makeConstant } from "../../dist/ir.js";

/** Uniform in [-a, a) by a linear congruential generator. */
export function random(seed) {
  let s = seed >>> 0;
  return (n, a) => {
    const out = new Float32Array(n);
    for (let i = 0; i < n; i++) {
      s = (Math.imul(s, 1664525) + 1013904223) >>> 0;
      out[i] = (s / 2 ** 31 - 1) * a;
    }
    return out;
  };
}
const constantOf = (dims, data) => ({ dtype: "float32", dims, data: { kind: "bytes", bytes: new Uint8Array(data.buffer) } });
const int = (value) => ({ kind: "int", value });
const ints = (...value) => ({ kind: "ints", value });

class Net {
  constructor(name, seed) {
    this.e = new Editor({ name, opsets: { "": 20 } });
    this.random = random(seed);
    this.count = 0;
  }
  weight(dims, fan) {
    const n = dims.reduce((a, b) => a * b, 1);
    return this.e.addConstant(`w${this.count++}`, constantOf(dims, this.random(n, Math.sqrt(3 / fan))));
  }
  int64(...values) {
    return this.e.addConstant(`i${this.count++}`, makeConstant("int64", [values.length], values));
  }
  /** A constant int8 weight of the same distribution, dequantized per output channel. */
  weightInt8(dims, fan, axis) {
    const c = this.random(
      dims.reduce((a, b) => a * b, 1),
      Math.sqrt(3 / fan),
    );
    const channels = dims[axis];
    const inner = dims.slice(axis + 1).reduce((a, b) => a * b, 1);
    const most = new Float32Array(channels);
    for (let i = 0; i < c.length; i++)
      most[Math.floor(i / inner) % channels] = Math.max(most[Math.floor(i / inner) % channels], Math.abs(c[i]));
    const scale = most.map((a) => Math.max(a, 1e-8) / 127);
    const q = new Int8Array(c.length);
    for (let i = 0; i < c.length; i++) q[i] = Math.max(-127, Math.min(127, Math.round(c[i] / scale[Math.floor(i / inner) % channels])));
    const value = this.e.addConstant(`w${this.count++}`, { dtype: "int8", dims, data: { kind: "bytes", bytes: new Uint8Array(q.buffer) } });
    const steps = this.e.addConstant(`s${this.count++}`, makeConstant("float32", [channels], [...scale]));
    return { scale, value: this.add("DequantizeLinear", [value, steps], { axis: int(axis) }) };
  }
  biasInt8(n, scales) {
    const bias = this.random(n, 0.05);
    const q = this.e.addConstant(
      `b${this.count++}`,
      makeConstant(
        "int32",
        [n],
        [...bias].map((b, k) => Math.round(b / scales[k])),
      ),
    );
    return this.add("DequantizeLinear", [q, this.e.addConstant(`s${this.count++}`, makeConstant("float32", [n], [...scales]))], {
      axis: int(0),
    });
  }
  /** Quantized to int8 and back; `moment` is the mean square the scale is made for. */
  quantized(v, moment) {
    const scale = Math.fround((4 * Math.sqrt(moment)) / 127);
    const step = this.e.addConstant(`s${this.count++}`, makeConstant("float32", [], [scale]));
    const zero = this.e.addConstant(`z${this.count++}`, makeConstant("int8", [], [0]));
    return { scale, value: this.add("DequantizeLinear", [this.add("QuantizeLinear", [v, step, zero]), step, zero]) };
  }
  add(op, ins, attrs = {}, name = `${op.toLowerCase()}${this.count++}`) {
    return this.e.add({ op, ins, outs: 1, attrs, name }).outs[0];
  }
}

/** [batch, 3, 224, 224] to [batch, 1000]; BatchNorm already folded, as it is after compilation. `bytes`: pixels of 0 to 255, scaled to -1 to 1 first. */
export function resnet50(batch, { bytes = false } = {}) {
  const n = new Net("resnet50", 1);
  const input = n.e.addInput("input", { kind: "tensor", dtype: bytes ? "uint8" : "float32", shape: [batch, 3, 224, 224] });
  const scalar = (v) => n.e.addConstant(`s${n.count++}`, makeConstant("float32", [], [v]));
  const x = bytes ? n.add("Sub", [n.add("Mul", [n.add("Cast", [input], { to: int(1) }), scalar(1 / 127.5)]), scalar(1)]) : input;
  const conv = (v, cin, cout, k, stride, pad) =>
    n.add("Conv", [v, n.weight([cout, cin, k, k], cin * k * k), n.weight([cout], 10000)], {
      kernel_shape: ints(k, k),
      strides: ints(stride, stride),
      pads: ints(pad, pad, pad, pad),
    });
  let v = n.add("Relu", [conv(x, 3, 64, 7, 2, 3)]);
  v = n.add("MaxPool", [v], { kernel_shape: ints(3, 3), strides: ints(2, 2), pads: ints(1, 1, 1, 1) });
  let channels = 64;
  for (const [stage, blocks] of [3, 4, 6, 3].entries()) {
    const width = 64 << stage;
    for (let b = 0; b < blocks; b++) {
      const stride = b === 0 && stage > 0 ? 2 : 1;
      let y = n.add("Relu", [conv(v, channels, width, 1, 1, 0)]);
      y = n.add("Relu", [conv(y, width, width, 3, stride, 1)]);
      y = conv(y, width, 4 * width, 1, 1, 0);
      const skip = b === 0 ? conv(v, channels, 4 * width, 1, stride, 0) : v;
      v = n.add("Relu", [n.add("Add", [y, skip])]);
      channels = 4 * width;
    }
  }
  v = n.add("Flatten", [n.add("GlobalAveragePool", [v])], { axis: int(1) });
  v = n.add("Gemm", [v, n.weight([1000, 2048], 2048), n.weight([1000], 10000)], { transB: int(1) });
  n.e.setOutputs([v]);
  return n.e.finish();
}

/** The same network with quantizers on the inputs of all convolutions, of the residuals and of the classifier. */
export function resnet50Int8(batch) {
  const n = new Net("resnet50_int8", 1);
  const input = n.e.addInput("input", { kind: "tensor", dtype: "float32", shape: [batch, 3, 224, 224] });
  const conv = (x, cin, cout, k, stride, pad) => {
    const w = n.weightInt8([cout, cin, k, k], cin * k * k, 0);
    const scales = w.scale.map((s) => Math.fround(s * x.scale));
    return n.add("Conv", [x.value, w.value, n.biasInt8(cout, scales)], {
      kernel_shape: ints(k, k),
      strides: ints(stride, stride),
      pads: ints(pad, pad, pad, pad),
    });
  };
  const relu = (v) => n.add("Relu", [v]);
  let x = n.quantized(input, 1 / 3);
  // A convolution keeps the mean square, a Relu halves it.
  let moment = 1 / 6;
  x = n.quantized(relu(conv(x, 3, 64, 7, 2, 3)), moment);
  const pooled = n.add("MaxPool", [x.value], { kernel_shape: ints(3, 3), strides: ints(2, 2), pads: ints(1, 1, 1, 1) });
  moment *= 2;
  x = { ...n.quantized(pooled, moment / 2), scale: x.scale };
  let channels = 64;
  for (const [stage, blocks] of [3, 4, 6, 3].entries()) {
    const width = 64 << stage;
    for (let b = 0; b < blocks; b++) {
      const stride = b === 0 && stage > 0 ? 2 : 1;
      let y = n.quantized(relu(conv(x, channels, width, 1, 1, 0)), moment / 2);
      y = n.quantized(relu(conv(y, width, width, 3, stride, 1)), moment / 4);
      const branch = conv(y, width, 4 * width, 1, 1, 0);
      const skip = b === 0 ? n.quantized(conv(x, channels, 4 * width, 1, stride, 0), moment) : x;
      moment = moment / 4 + moment;
      x = n.quantized(relu(n.add("Add", [branch, skip.value])), moment / 2);
      moment /= 2;
      channels = 4 * width;
    }
  }
  const mean = n.quantized(n.add("GlobalAveragePool", [x.value]), moment);
  const w = n.weightInt8([1000, 2048], 2048, 0);
  const scales = w.scale.map((s) => Math.fround(s * mean.scale));
  const flat = n.add("Flatten", [mean.value], { axis: int(1) });
  n.e.setOutputs([n.add("Gemm", [flat, w.value, n.biasInt8(1000, scales)], { transB: int(1) })]);
  return n.e.finish();
}

/** Token ids and mask [batch, seq] to the last hidden state [batch, seq, hidden]. Dims may be names; `longest` is then the number of positions. */
export function bert(batch, seq, { layers = 12, hidden = 768, heads = 12, vocabulary = 30522, int8 = false, longest = 512 } = {}) {
  const n = new Net("bert", 2);
  const ids = n.e.addInput("input_ids", { kind: "tensor", dtype: "int64", shape: [batch, seq] });
  const mask = n.e.addInput("attention_mask", { kind: "tensor", dtype: "int64", shape: [batch, seq] });
  const scalar = (x) => n.e.addConstant(`s${n.count++}`, makeConstant("float32", [], [x]));
  const norm = (v) =>
    n.add("LayerNormalization", [v, n.weight([hidden], 3), n.weight([hidden], 10000)], {
      axis: int(-1),
      epsilon: { kind: "float", value: 1e-12 },
    });
  // Quantized: the products of the projections alone; attention, norms and GELU stay float.
  const quantizers = new Map();
  const dense = (v, a, b) => {
    if (int8 && !quantizers.has(v)) quantizers.set(v, n.quantized(v, 1 / 3));
    const product = int8 ? [quantizers.get(v).value, n.weightInt8([a, b], a, 1).value] : [v, n.weight([a, b], a)];
    return n.add("Add", [n.add("MatMul", product), n.weight([b], 10000)]);
  };
  const words = n.add("Gather", [n.weight([vocabulary, hidden], 3), ids]);
  const open = typeof seq === "string";
  const length = () => n.add("Slice", [n.add("Shape", [ids]), n.int64(1), n.int64(2)]);
  const table = n.weight([1, open ? longest : seq, hidden], 3);
  const positions = open ? n.add("Slice", [table, n.int64(0), length(), n.int64(1)]) : table;
  // In a Reshape 0 is the dim of the operand.
  const [rows, columns] = [batch, seq].map((d) => (typeof d === "string" ? 0 : d));
  let v = norm(n.add("Add", [words, positions]));
  const seen = n.add("Unsqueeze", [n.add("Cast", [mask], { to: int(1) }), n.int64(1, 2)]);
  const bias = n.add("Mul", [n.add("Sub", [scalar(1), seen]), scalar(-10000)]);
  const size = hidden / heads;
  const split = (x, perm) => n.add("Transpose", [n.add("Reshape", [x, n.int64(rows, columns, heads, size)])], { perm: ints(...perm) });
  for (let l = 0; l < layers; l++) {
    const q = split(dense(v, hidden, hidden), [0, 2, 1, 3]);
    const k = split(dense(v, hidden, hidden), [0, 2, 3, 1]);
    const w = split(dense(v, hidden, hidden), [0, 2, 1, 3]);
    const scores = n.add("Add", [n.add("Div", [n.add("MatMul", [q, k]), scalar(Math.sqrt(size))]), bias]);
    const mixed = n.add("MatMul", [n.add("Softmax", [scores], { axis: int(-1) }), w]);
    const joined = n.add("Reshape", [n.add("Transpose", [mixed], { perm: ints(0, 2, 1, 3) }), n.int64(rows, columns, hidden)]);
    v = norm(n.add("Add", [dense(joined, hidden, hidden), v]));
    const up = n.add("Gelu", [dense(v, hidden, 4 * hidden)]);
    v = norm(n.add("Add", [dense(up, 4 * hidden, hidden), v]));
  }
  n.e.setOutputs([v]);
  return n.e.finish();
}
