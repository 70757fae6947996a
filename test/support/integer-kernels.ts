/** Random integer layers, computed by the reference arithmetic and by ONNX Runtime's integer kernels: how many elements differ. */
import ort from "onnxruntime-node";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { Editor } from "../../src/ir/edit.js";
import { makeConstant } from "../../src/ir/payload.js";
import type { Attr, DType, ValueId } from "../../src/ir/types.js";
import {
  averagePool,
  conv,
  convTranspose,
  dequantize,
  gemm,
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

/** Elements compared, and those that differ, with the first of them. */
export interface Tally {
  compared: number;
  wrong: number;
  first?: string;
}
const tally = (): Tally => ({ compared: 0, wrong: 0 });

/** A small seeded generator (mulberry32): numbers in [0, 1). */
export function generator(seed: number): () => number {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
class Draw {
  readonly #next: () => number;
  constructor(seed: number) {
    this.#next = generator(seed);
  }
  unit(): number {
    return this.#next();
  }
  whole(low: number, high: number): number {
    return low + Math.floor(this.#next() * (high - low + 1));
  }
  steps(dims: readonly number[], least = -128): Int8 {
    return { dims, data: Int8Array.from({ length: size(dims) }, () => this.whole(least, 127)) };
  }
  scale(): number {
    return Math.fround(2 ** (-10 + 8 * this.#next()));
  }
  scales(n: number): Float32Array {
    return Float32Array.from({ length: n }, () => this.scale());
  }
  list(n: number, low: number, high: number): number[] {
    return Array.from({ length: n }, () => this.whole(low, high));
  }
}
const size = (dims: readonly number[]): number => dims.reduce((a, b) => a * b, 1);
const int = (value: number): Attr => ({ kind: "int", value });
const ints = (value: readonly number[]): Attr => ({ kind: "ints", value });

/** A graph of one node behind fed int8 or float32 tensors, run by ONNX Runtime without its rewrites. */
async function run(
  node: {
    readonly op: string;
    readonly domain?: string;
    readonly attrs?: Readonly<Record<string, Attr>>;
    readonly out: DType;
    readonly rank: number;
  },
  feed: { readonly type: "int8" | "float32"; readonly data: Int8Array | Float32Array; readonly dims: readonly number[] },
  rest: (
    constant: (dtype: Exclude<DType, "string">, dims: readonly number[], values: ArrayLike<number>) => ValueId,
  ) => readonly (ValueId | undefined)[],
): Promise<ArrayLike<number>> {
  const e = new Editor({ name: "one", opsets: { "": 21 } });
  const x = e.addInput("x", { kind: "tensor", dtype: feed.type, shape: feed.dims });
  const others = rest((dtype, dims, values) => e.addConstant("c", makeConstant(dtype, dims, Array.from(values))));
  const y = e.declare("y", { kind: "tensor", dtype: node.out, shape: Array.from({ length: node.rank }, (_, i) => `d${i}`) });
  e.add({ op: node.op, domain: node.domain ?? "", ins: [x, ...others], outs: [y], name: "n", attrs: node.attrs ?? {} });
  e.setOutputs([y]);
  const session = await ort.InferenceSession.create(encodeOnnx(e.finish()), {
    graphOptimizationLevel: "disabled",
    intraOpNumThreads: 1,
    logSeverityLevel: 3,
  });
  try {
    const out = await session.run({ x: new ort.Tensor(feed.type, feed.data as never, feed.dims) });
    return out["y"]?.data as ArrayLike<number>;
  } finally {
    await session.release();
  }
}
function compare(t: Tally, ours: ArrayLike<number>, theirs: ArrayLike<number>, what: string): void {
  if (ours.length !== theirs.length) throw new Error(`${what}: ${ours.length} elements, ONNX Runtime gives ${theirs.length}`);
  for (let i = 0; i < ours.length; i++) {
    t.compared++;
    if (ours[i] === theirs[i]) continue;
    t.wrong++;
    t.first ??= `${what}: element ${i} is ${ours[i]}, ONNX Runtime has ${theirs[i]}`;
  }
}

const one = Int8Array.of(0);
/** Convolutions, one to three spatial dims, groups, strides, dilations, pads, bias; requantized and as sums. */
async function convolution(t: Tally, d: Draw): Promise<void> {
  const rank = d.whole(1, 3);
  const group = d.whole(1, 3) === 1 ? d.whole(2, 6) : 1;
  const [depth, perGroup] = [group > 1 ? d.whole(1, 3) : d.whole(1, 24), group > 1 ? d.whole(1, 3) : d.whole(1, 24)];
  const kernel = d.list(rank, 1, 3);
  const dilations = d.list(rank, 1, 2);
  const extent = kernel.map((k, i) => (k - 1) * (dilations[i] as number) + 1 + d.whole(0, rank === 1 ? 40 : rank === 2 ? 11 : 5));
  const pads = kernel.flatMap((k) => [d.whole(0, k - 1)]);
  const window = { strides: d.list(rank, 1, 2), dilations, pads: [...pads, ...pads.map((p) => d.whole(0, p))], group };
  const x = d.steps([d.whole(1, 2), depth * group, ...extent]);
  const w = d.steps([perGroup * group, depth, ...kernel], -127);
  const bias = d.whole(0, 2) === 0 ? undefined : Int32Array.from({ length: perGroup * group }, () => d.whole(-60_000, 60_000));
  const [xs, ws] = [d.scale(), d.scales(perGroup * group)];
  const acc = conv(x, w, bias, window);
  // An output scale that spreads the sums over the steps, and clips some.
  let most = 1;
  for (let i = 0; i < acc.data.length; i++)
    most = Math.max(most, Math.abs(acc.data[i] as number) * (ws[Math.floor(i / size(acc.dims.slice(2))) % ws.length] as number));
  const ys = Math.fround((most * xs * (0.3 + d.unit())) / 127);
  const attrs = {
    group: int(group),
    strides: ints(window.strides),
    dilations: ints(dilations),
    pads: ints(window.pads),
    kernel_shape: ints(kernel),
  };
  const theirs = await run({ op: "QLinearConv", attrs, out: "int8", rank: rank + 2 }, { type: "int8", ...x }, (c) => [
    c("float32", [], [xs]),
    c("int8", [], one),
    c("int8", w.dims, w.data),
    c("float32", [ws.length], ws),
    c("int8", [ws.length], new Int8Array(ws.length)),
    c("float32", [], [ys]),
    c("int8", [], one),
    bias === undefined ? undefined : c("int32", [bias.length], bias),
  ]);
  compare(t, requantize(acc, multipliers(xs, ws, ys)), theirs, `Conv x[${x.dims}] w[${w.dims}] ${JSON.stringify(window)}`);
}
async function convolutionSums(t: Tally, d: Draw): Promise<void> {
  const x = d.steps([1, d.whole(1, 40), d.whole(3, 12), d.whole(3, 12)]);
  const w = d.steps([d.whole(1, 30), x.dims[1] as number, 3, 3], -127);
  const theirs = await run(
    { op: "ConvInteger", out: "int32", rank: 4, attrs: { pads: ints([1, 1, 1, 1]) } },
    { type: "int8", ...x },
    (c) => [c("int8", w.dims, w.data)],
  );
  compare(t, conv(x, w, undefined, { pads: [1, 1, 1, 1] }).data, theirs, `sums of Conv x[${x.dims}] w[${w.dims}]`);
}
/** Float convolutions of small integers are exact: below 2^24 nothing is rounded. */
async function transposedConvolution(t: Tally, d: Draw): Promise<void> {
  const rank = d.whole(1, 3);
  const group = d.whole(1, 2);
  const kernel = d.list(rank, 1, 3);
  const strides = d.list(rank, 1, 2);
  const pads = kernel.map((k) => d.whole(0, k - 1));
  const window = {
    strides,
    dilations: d.list(rank, 1, 2),
    pads: [...pads, ...pads],
    group,
    outputPadding: strides.map((s) => d.whole(0, s - 1)),
  };
  // ONNX Runtime wants the padding of the output below both stride and dilation.
  window.outputPadding = window.outputPadding.map((p, i) => Math.min(p, (window.strides[i] as number) - 1));
  const x = d.steps([d.whole(1, 2), group * d.whole(1, 5), ...d.list(rank, 3, 6)]);
  const w = d.steps([x.dims[1] as number, d.whole(1, 5), ...kernel], -127);
  const attrs = {
    group: int(group),
    strides: ints(strides),
    dilations: ints(window.dilations),
    pads: ints(window.pads),
    output_padding: ints(window.outputPadding),
    kernel_shape: ints(kernel),
  };
  const theirs = await run(
    { op: "ConvTranspose", attrs, out: "float32", rank: rank + 2 },
    { type: "float32", data: Float32Array.from(x.data), dims: x.dims },
    (c) => [c("float32", w.dims, Float32Array.from(w.data))],
  );
  compare(t, convTranspose(x, w, undefined, window).data, theirs, `ConvTranspose x[${x.dims}] w[${w.dims}] ${JSON.stringify(window)}`);
}
async function product(t: Tally, d: Draw): Promise<void> {
  const [m, k, n] = [d.whole(1, 40), d.whole(1, 200), d.whole(1, 50)];
  const outer = d.whole(0, 1) === 0 ? [] : d.list(d.whole(1, 2), 1, 3);
  const [a, b] = [d.steps([...outer, m, k]), d.steps([k, n], -127)];
  const [as, bs] = [d.scale(), d.scales(n)];
  const acc = matmul(a, b);
  const ys = Math.fround((Math.sqrt(k) * 5000 * as * (bs[0] as number) * (0.3 + d.unit())) / 127);
  const q = await run({ op: "QLinearMatMul", out: "int8", rank: a.dims.length }, { type: "int8", ...a }, (c) => [
    c("float32", [], [as]),
    c("int8", [], one),
    c("int8", b.dims, b.data),
    c("float32", [n], bs),
    c("int8", [n], new Int8Array(n)),
    c("float32", [], [ys]),
    c("int8", [], one),
  ]);
  compare(t, requantize(acc, multipliers(as, bs, ys)), q, `MatMul a[${a.dims}] b[${b.dims}]`);
  const real = await run(
    { op: "MatMulIntegerToFloat", domain: "com.microsoft", out: "float32", rank: a.dims.length },
    { type: "int8", ...a },
    (c) => [c("int8", b.dims, b.data), c("float32", [], [as]), c("float32", [n], bs)],
  );
  compare(t, toReal(acc, sumScales(as, bs)), real, `float MatMul a[${a.dims}] b[${b.dims}]`);
}
async function affine(t: Tally, d: Draw): Promise<void> {
  const [m, k, n] = [d.whole(1, 40), d.whole(1, 200), d.whole(1, 50)];
  const [transA, transB] = [d.whole(0, 1) === 1, d.whole(0, 1) === 1];
  const [a, b] = [d.steps(transA ? [k, m] : [m, k]), d.steps(transB ? [n, k] : [k, n], -127)];
  const bias = d.whole(0, 2) === 0 ? undefined : Int32Array.from({ length: n }, () => d.whole(-90_000, 90_000));
  const [as, bs] = [d.scale(), d.scales(n)];
  const acc = gemm(a, b, bias, { transA, transB });
  const ys = Math.fround((Math.sqrt(k) * 5000 * as * (bs[0] as number) * (0.3 + d.unit())) / 127);
  const attrs = { transA: int(transA ? 1 : 0), transB: int(transB ? 1 : 0) };
  for (const quantized of [true, false]) {
    const theirs = await run(
      { op: "QGemm", domain: "com.microsoft", out: quantized ? "int8" : "float32", rank: 2, attrs },
      { type: "int8", ...a },
      (c) => [
        c("float32", [], [as]),
        c("int8", [], one),
        c("int8", b.dims, b.data),
        c("float32", [n], bs),
        c("int8", [n], new Int8Array(n)),
        bias === undefined ? undefined : c("int32", [n], bias),
        ...(quantized ? [c("float32", [], [ys]), c("int8", [], one)] : []),
      ],
    );
    const ours = quantized ? requantize(acc, multipliers(as, bs, ys)) : toReal(acc, sumScales(as, bs));
    compare(t, ours, theirs, `Gemm a[${a.dims}] b[${b.dims}] ${JSON.stringify({ transA, transB, quantized, bias: bias !== undefined })}`);
  }
}
async function steps(t: Tally, d: Draw): Promise<void> {
  const dims = [d.whole(1, 4), d.whole(1, 9), d.whole(1, 60)];
  const scale = d.scale();
  // Half-way cases, values next to them, far out ones and what is no number.
  const x = Float32Array.from({ length: size(dims) }, () => {
    const kind = d.whole(0, 9);
    if (kind === 0) return Number.NaN;
    if (kind === 1) return d.whole(0, 1) === 0 ? Number.POSITIVE_INFINITY : Number.NEGATIVE_INFINITY;
    if (kind < 6) return (d.whole(-140, 140) + 0.5) * scale;
    return (d.unit() * 400 - 200) * scale;
  });
  const q = await run({ op: "QuantizeLinear", out: "int8", rank: 3 }, { type: "float32", data: x, dims }, (c) => [
    c("float32", [], [scale]),
    c("int8", [], one),
  ]);
  compare(t, quantize(x, scale), q, `QuantizeLinear by ${scale}`);
  const channels = d.scales(dims[1] as number);
  const perChannel = await run(
    { op: "QuantizeLinear", out: "int8", rank: 3, attrs: { axis: int(1) } },
    { type: "float32", data: x, dims },
    (c) => [c("float32", [channels.length], channels), c("int8", [channels.length], new Int8Array(channels.length))],
  );
  compare(t, quantize(x, channels, { dims, axis: 1 }), perChannel, "QuantizeLinear per channel");
  const s = d.steps(dims);
  const back = await run({ op: "DequantizeLinear", out: "float32", rank: 3, attrs: { axis: int(1) } }, { type: "int8", ...s }, (c) => [
    c("float32", [channels.length], channels),
  ]);
  compare(t, dequantize(s.data, channels, { dims, axis: 1 }), back, "DequantizeLinear per channel");
}
async function pools(t: Tally, d: Draw): Promise<void> {
  const x = d.steps([d.whole(1, 3), d.whole(1, 20), d.whole(4, 12), d.whole(4, 12)]);
  const window = { strides: d.list(2, 1, 2), pads: [...d.list(2, 0, 1), ...d.list(2, 0, 1)] };
  const attrs = { kernel_shape: ints([3, 2]), strides: ints(window.strides), pads: ints(window.pads) };
  const most = await run({ op: "MaxPool", out: "int8", rank: 4, attrs }, { type: "int8", ...x }, () => []);
  compare(t, maxPool(x, [3, 2], window).data, most, `MaxPool x[${x.dims}] ${JSON.stringify(window)}`);
  const [xs, ys] = [d.scale(), d.scale()];
  const mean = await run(
    { op: "QLinearGlobalAveragePool", domain: "com.microsoft", out: "int8", rank: 4, attrs: { channels_last: int(0) } },
    { type: "int8", ...x },
    (c) => [c("float32", [], [xs]), c("int8", [], one), c("float32", [], [ys]), c("int8", [], one)],
  );
  compare(t, globalAveragePool(x, xs, ys).data, mean, `GlobalAveragePool x[${x.dims}] ${xs} ${ys}`);
  // Scales in ratios that make ties, too.
  const included = d.whole(0, 1);
  const to = d.whole(0, 1) === 0 ? ys : Math.fround(xs * 2 ** d.whole(-2, 1));
  const kernel = d.list(2, 2, 3);
  const means = await run(
    {
      op: "QLinearAveragePool",
      domain: "com.microsoft",
      out: "int8",
      rank: 4,
      attrs: { kernel_shape: ints(kernel), strides: ints(window.strides), pads: ints(window.pads), count_include_pad: int(included) },
    },
    { type: "int8", ...x },
    (c) => [c("float32", [], [xs]), c("int8", [], one), c("float32", [], [to]), c("int8", [], one)],
  );
  compare(
    t,
    averagePool(x, xs, to, kernel, window, included === 1).data,
    means,
    `AveragePool [${kernel}] x[${x.dims}] ${xs} ${to} ${JSON.stringify(window)}`,
  );
}

const families = {
  Conv: convolution,
  "sums of Conv": convolutionSums,
  ConvTranspose: transposedConvolution,
  MatMul: product,
  Gemm: affine,
  Quantize: steps,
  pools,
};
export type Family = keyof typeof families;
export const familyNames = Object.keys(families) as readonly Family[];

/** Random layers of one family until so many elements were compared. */
export async function compareWithKernels(family: Family, elements: number, seed: number): Promise<Tally> {
  const t = tally();
  const d = new Draw(seed);
  while (t.compared < elements) await families[family](t, d);
  return t;
}
