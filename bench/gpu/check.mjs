// Kernels against references on the GPU at hand, one plan per case and tactic: INT8 bit for bit against the reference arithmetic of quantization,
// FP16 against ONNX Runtime in single precision. Prints a line per case, and every tactic that is wrong.
//   node bench/gpu/check.mjs [regular expression of cases] [tactics per case]
import { compileSource } from "../../dist/engines/cuda/compiler.js";
import { openPlan } from "../../dist/engines/cuda/executable.js";
import { lower } from "../../dist/engines/cuda/lower.js";
import { h200, tacticName } from "../../dist/engines/cuda/templates/index.js";
import { hostEngine } from "../../dist/engines/host/index.js";
import { Editor, makeConstant } from "../../dist/ir.js";
import { inferGraph } from "../../dist/ops/infer.js";
import * as reference from "../../dist/quantize/arithmetic.js";
import { Tensor } from "../../dist/tensor.js";

const only = new RegExp(process.argv[2] ?? ".");
const most = Number(process.argv[3] ?? 1000);
const int = (value) => ({ kind: "int", value });
const ints = (...value) => ({ kind: "ints", value });
let seed = 1;
const uniform = () => {
  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
  return seed / 2 ** 31 - 1;
};
const product = (dims) => dims.reduce((a, b) => a * b, 1);
const floats = (n, a = 1) => Float32Array.from({ length: n }, () => uniform() * a);
const steps = (n) => Int8Array.from({ length: n }, () => Math.max(-128, Math.min(127, Math.round(uniform() * 128))));
const weights = (n) => Int8Array.from({ length: n }, () => Math.round(uniform() * 127));

class Net {
  constructor() {
    this.e = new Editor({ name: "check", opsets: { "": 20 } });
    this.feeds = [];
    this.count = 0;
  }
  input(dtype, dims, data) {
    const name = `in${this.feeds.length}`;
    this.feeds.push(new Tensor(dtype, data, dims));
    return this.e.addInput(name, { kind: "tensor", dtype, shape: dims });
  }
  constant(dtype, dims, data) {
    return this.e.addConstant(`c${this.count++}`, { dtype, dims, data: { kind: "bytes", bytes: new Uint8Array(data.buffer) } });
  }
  scalar(x) {
    return this.e.addConstant(`c${this.count++}`, makeConstant("float32", [], [x]));
  }
  add(op, ins, attrs = {}) {
    return this.e.add({ op, ins, outs: 1, attrs, name: `${op}${this.count++}` }).outs[0];
  }
  dq(q, scale, axis) {
    const s = typeof scale === "number" ? this.scalar(scale) : this.constant("float32", [scale.length], scale);
    return this.add("DequantizeLinear", [q, s], axis === undefined ? {} : { axis: int(axis) });
  }
  q(v, scale) {
    const zero = this.e.addConstant(`c${this.count++}`, makeConstant("int8", [], [0]));
    return this.add("QuantizeLinear", [v, this.scalar(scale), zero]);
  }
  finish(...outputs) {
    this.e.setOutputs(outputs);
    return inferGraph(this.e.finish()).graph;
  }
}

/** A quantized convolution with everything behind it, and its exact result as [N, P, Q, K] int8. */
function convInt8({
  n = 1,
  c,
  size,
  k,
  r = 3,
  stride = 1,
  pad = Math.floor(r / 2),
  dilation = 1,
  groups = 1,
  relu = true,
  residual = false,
  bias = true,
  entry = false,
  columns = size,
  pool = false,
}) {
  const net = new Net();
  const dims = [n, c, size, columns];
  const xScale = Math.fround(0.021);
  const real = entry ? floats(product(dims), 2.9) : undefined;
  const x = entry ? reference.quantize(real, xScale) : steps(product(dims));
  const wDims = [k, c / groups, r, r];
  const w = weights(product(wDims));
  const wScale = Float32Array.from({ length: k }, () => 0.001 + 0.004 * Math.abs(uniform()));
  const scales = reference.sumScales(xScale, wScale);
  const b = Int32Array.from({ length: k }, () => Math.round(uniform() * 5000));
  const yScale = Math.fround(0.0007 * Math.sqrt((c / groups) * r * r) * 40);
  const input = entry ? net.dq(net.q(net.input("float32", dims, real), xScale), xScale) : net.dq(net.input("int8", dims, x), xScale);
  const ins = [
    input,
    net.dq(net.constant("int8", wDims, w), wScale, 0),
    ...(bias ? [net.dq(net.constant("int32", [k], b), scales, 0)] : []),
  ];
  const window = { strides: [stride, stride], dilations: [dilation, dilation], pads: [pad, pad, pad, pad] };
  let y = net.add("Conv", ins, {
    kernel_shape: ints(r, r),
    strides: ints(stride, stride),
    pads: ints(pad, pad, pad, pad),
    dilations: ints(dilation, dilation),
    group: int(groups),
  });
  const acc = reference.conv({ data: x, dims }, { data: w, dims: wDims }, bias ? b : undefined, { ...window, group: groups });
  let expected;
  if (residual) {
    const rScale = Math.fround(yScale * 0.7);
    const res = steps(product(acc.dims));
    const moved = net.add("MaxPool", [net.input("int8", acc.dims, res)], { kernel_shape: ints(1, 1) });
    y = net.add("Add", [y, net.dq(moved, rScale)]);
    let sum = reference.addResidual(reference.toReal(acc, scales), res, rScale);
    if (relu) sum = sum.map((v) => (v < 0 ? 0 : v));
    expected = reference.quantize(sum, yScale);
  } else {
    expected = reference.requantize(acc, reference.multipliers(xScale, wScale, yScale));
    if (relu) expected = expected.map((v) => Math.max(0, v));
  }
  if (relu) y = net.add("Relu", [y]);
  // A kernel that reads the result keeps it channels-last in int8.
  y = net.q(y, yScale);
  if (pool) {
    const window = { strides: [2, 2], pads: [1, 1, 1, 1] };
    y = net.add("MaxPool", [y], { kernel_shape: ints(3, 3), strides: ints(2, 2), pads: ints(1, 1, 1, 1) });
    expected = reference.maxPool({ data: expected, dims: acc.dims }, [3, 3], window).data;
  }
  const out = net.add("MaxPool", [y], { kernel_shape: ints(1, 1) });
  return { graph: net.finish(out), feeds: net.feeds, expected, exact: true, precision: "int8" };
}

function matmulInt8({ batch = [], m, k, n, gemm = false, dynamic = false, bias = false, relu = false, quantize = true }) {
  const net = new Net();
  const [xScale, wScale] = [
    Math.fround(0.02),
    dynamic ? Math.fround(0.013) : Float32Array.from({ length: n }, () => 0.001 + 0.004 * Math.abs(uniform())),
  ];
  const aDims = [...batch, m, k];
  const bDims = gemm ? [n, k] : dynamic ? [...batch, k, n] : [k, n];
  const [a, b] = [steps(product(aDims)), dynamic ? steps(product(bDims)) : weights(product(bDims))];
  const scales = reference.sumScales(xScale, wScale);
  const add = Int32Array.from({ length: n }, () => Math.round(uniform() * 3000));
  const right = dynamic ? net.dq(net.input("int8", bDims, b), wScale) : net.dq(net.constant("int8", bDims, b), wScale, gemm ? 0 : 1);
  const ins = [net.dq(net.input("int8", aDims, a), xScale), right, ...(bias ? [net.dq(net.constant("int32", [n], add), scales, 0)] : [])];
  let y = net.add(gemm ? "Gemm" : "MatMul", ins, gemm ? { transB: int(1) } : {});
  const [left, rightOf] = [
    { data: a, dims: aDims },
    { data: b, dims: bDims },
  ];
  const acc = gemm ? reference.gemm(left, rightOf, bias ? add : undefined, { transB: true }) : reference.matmul(left, rightOf);
  if (!quantize) return { graph: net.finish(y), feeds: net.feeds, expected: reference.toReal(acc, scales), exact: true, precision: "fp32" };
  const yScale = Math.fround(0.002 * Math.sqrt(k) * 30);
  const factor = dynamic ? reference.multipliers(xScale, wScale, yScale) : reference.multipliers(xScale, wScale, yScale);
  let expected = reference.requantize(acc, factor);
  if (relu) {
    y = net.add("Relu", [y]);
    expected = expected.map((v) => Math.max(0, v));
  }
  return { graph: net.finish(net.q(y, yScale)), feeds: net.feeds, expected, exact: true, precision: "int8" };
}

/** Single precision by ONNX Runtime; on the GPU the result passes through half-precision memory, channels last. */
function convHalf({
  n = 1,
  c,
  size,
  k,
  r = 3,
  stride = 1,
  pad = Math.floor(r / 2),
  residual = false,
  groups = 1,
  columns = size,
  pool = false,
  precision = "fp16",
}) {
  const net = new Net();
  const dims = [n, c, size, columns];
  const w = net.constant("float32", [k, c / groups, r, r], floats((k * c * r * r) / groups, Math.sqrt(3 / ((c * r * r) / groups))));
  const x = net.input("float32", dims, floats(product(dims)));
  let y = net.add("Conv", [x, w, net.constant("float32", [k], floats(k))], {
    kernel_shape: ints(r, r),
    strides: ints(stride, stride),
    pads: ints(pad, pad, pad, pad),
    group: int(groups),
  });
  if (residual) {
    const out = [n, k, Math.floor((size + 2 * pad - r) / stride) + 1, Math.floor((columns + 2 * pad - r) / stride) + 1];
    y = net.add("Add", [y, net.add("MaxPool", [net.input("float32", out, floats(product(out)))], { kernel_shape: ints(1, 1) })]);
  }
  y = net.add("Relu", [y]);
  if (pool) y = net.add("MaxPool", [y], { kernel_shape: ints(3, 3), strides: ints(2, 2), pads: ints(1, 1, 1, 1) });
  return { graph: net.finish(net.add("MaxPool", [y], { kernel_shape: ints(1, 1) })), feeds: net.feeds, precision };
}
function matmulHalf({ batch = [], m, k, n, residual = false, gelu = false, precision = "fp16" }) {
  const net = new Net();
  const x = net.input("float32", [...batch, m, k], floats(product(batch) * m * k));
  let y = net.add("Add", [
    net.add("MatMul", [x, net.constant("float32", [k, n], floats(k * n, Math.sqrt(3 / k)))]),
    net.constant("float32", [n], floats(n)),
  ]);
  const last = net.e.addConstant("axis", makeConstant("int64", [1], [batch.length + 2]));
  if (residual) {
    const dims = [...batch, m, n, 1];
    y = net.add("Add", [y, net.add("ReduceMax", [net.input("float32", dims, floats(product(dims))), last], { keepdims: int(0) })]);
  }
  if (gelu) y = net.add("Gelu", [y]);
  return { graph: net.finish(net.add("Softmax", [y], { axis: int(-1) })), feeds: net.feeds, precision };
}

/** Max pooling of what a convolution left in memory, channels last. */
function poolHalf({ c = 64, size = 21, precision = "fp16" }) {
  const net = new Net();
  const x = net.add("Conv", [
    net.input("float32", [2, 16, size, size], floats(32 * size * size)),
    net.constant("float32", [c, 16, 1, 1], floats(c * 16)),
  ]);
  const y = net.add("MaxPool", [x], { kernel_shape: ints(3, 3), strides: ints(2, 2), pads: ints(1, 1, 1, 1) });
  return { graph: net.finish(net.add("MaxPool", [y], { kernel_shape: ints(2, 3), dilations: ints(2, 1) })), feeds: net.feeds, precision };
}
function poolInt8({ c = 64, size = 21 }) {
  const net = new Net();
  const dims = [2, c, size, size];
  const x = steps(product(dims));
  const w = weights(c * c);
  const [xScale, wScale, yScale] = [Math.fround(0.02), Math.fround(0.003), Math.fround(0.08)];
  const v = net.q(
    net.add("Conv", [net.dq(net.input("int8", dims, x), xScale), net.dq(net.constant("int8", [c, c, 1, 1], w), wScale)]),
    yScale,
  );
  const acc = reference.conv({ data: x, dims }, { data: w, dims: [c, c, 1, 1] }, undefined, {});
  const q = { data: reference.requantize(acc, reference.multipliers(xScale, wScale, yScale)), dims };
  const window = { strides: [2, 2], pads: [1, 1, 1, 1] };
  const y = net.add("MaxPool", [v], { kernel_shape: ints(3, 3), strides: ints(2, 2), pads: ints(1, 1, 1, 1) });
  const first = reference.maxPool(q, [3, 3], window);
  return {
    graph: net.finish(net.add("MaxPool", [y], { kernel_shape: ints(2, 2) })),
    feeds: net.feeds,
    expected: reference.maxPool(first, [2, 2], {}).data,
    exact: true,
    precision: "int8",
  };
}

const cases = {
  f16_pool: () => poolHalf({}),
  bf16_pool: () => poolHalf({ precision: "bf16" }),
  s8_pool: () => poolInt8({}),
  s8_1x1: () => convInt8({ n: 2, c: 64, size: 28, k: 256, r: 1 }),
  s8_1x1_plain: () => convInt8({ n: 1, c: 128, size: 14, k: 64, r: 1, relu: false, bias: false }),
  s8_1x1_residual: () => convInt8({ n: 2, c: 64, size: 28, k: 256, r: 1, residual: true }),
  s8_1x1_residual_odd: () => convInt8({ n: 1, c: 96, size: 13, k: 80, r: 1, residual: true, relu: false }),
  s8_3x3: () => convInt8({ n: 2, c: 64, size: 14, k: 128 }),
  s8_3x3_stride: () => convInt8({ n: 1, c: 128, size: 15, k: 64, stride: 2 }),
  s8_3x3_dilated: () => convInt8({ n: 1, c: 64, size: 17, k: 48, dilation: 2, pad: 2 }),
  s8_odd: () => convInt8({ n: 1, c: 17, size: 11, k: 5, relu: false }),
  s8_odd_residual: () => convInt8({ n: 3, c: 20, size: 9, k: 36, residual: true }),
  s8_groups: () => convInt8({ n: 1, c: 64, size: 12, k: 64, groups: 4 }),
  s8_depthwise: () => convInt8({ n: 1, c: 48, size: 14, k: 48, groups: 48 }),
  s8_depthwise_stride: () => convInt8({ n: 2, c: 40, size: 15, k: 40, groups: 40, stride: 2, r: 5 }),
  s8_stem: () => convInt8({ n: 2, c: 3, size: 64, k: 64, r: 7, stride: 2, entry: true, columns: 48 }),
  s8_stem3: () => convInt8({ n: 1, c: 3, size: 33, k: 32, r: 3, stride: 2, entry: true }),
  s8_stem_flat: () => convInt8({ n: 1, c: 1, size: 28, k: 16, r: 3, relu: true }),
  s8_stem_pool: () => convInt8({ n: 3, c: 3, size: 64, k: 64, r: 7, stride: 2, entry: true, columns: 48, pool: true }),
  s8_stem_pool_wide: () => convInt8({ n: 5, c: 3, size: 224, k: 64, r: 7, stride: 2, entry: true, pool: true }),
  s8_stem3_pool: () => convInt8({ n: 2, c: 3, size: 32, k: 32, r: 3, stride: 2, entry: true, relu: false, pool: true }),
  s8_patches: () => convInt8({ n: 1, c: 3, size: 32, k: 64, r: 4, stride: 4, pad: 0, entry: true, relu: false }),
  s8_matmul: () => matmulInt8({ m: 128, k: 768, n: 256 }),
  s8_matmul_batch: () => matmulInt8({ batch: [2, 3], m: 37, k: 64, n: 48, dynamic: true }),
  s8_matmul_float: () => matmulInt8({ m: 65, k: 200, n: 136, quantize: false }),
  s8_gemm: () => matmulInt8({ m: 8, k: 512, n: 1000, gemm: true, bias: true, quantize: false }),
  s8_gemm_relu: () => matmulInt8({ m: 100, k: 128, n: 60, gemm: true, bias: true, relu: true }),
  f16_1x1_residual: () => convHalf({ n: 2, c: 64, size: 28, k: 256, r: 1, residual: true }),
  f16_1x1_residual_odd: () => convHalf({ n: 1, c: 96, size: 13, k: 136, r: 1, residual: true }),
  f16_3x3: () => convHalf({ n: 2, c: 64, size: 14, k: 128 }),
  f16_3x3_narrow: () => convHalf({ n: 2, c: 64, size: 14, k: 40, residual: true }),
  f16_stem: () => convHalf({ n: 2, c: 3, size: 64, k: 64, r: 7, stride: 2, columns: 48 }),
  f16_stem3: () => convHalf({ n: 1, c: 3, size: 33, k: 32, stride: 2 }),
  f16_stem1: () => convHalf({ n: 1, c: 3, size: 21, k: 32, stride: 1 }),
  f16_stem_pool: () => convHalf({ n: 3, c: 3, size: 64, k: 64, r: 7, stride: 2, columns: 48, pool: true }),
  f16_stem_pool_wide: () => convHalf({ n: 5, c: 3, size: 224, k: 64, r: 7, stride: 2, pool: true }),
  f16_stem3_pool: () => convHalf({ n: 2, c: 3, size: 32, k: 32, r: 3, stride: 2, pool: true }),
  bf16_stem_pool: () => convHalf({ n: 2, c: 1, size: 64, k: 64, r: 5, stride: 2, pool: true, precision: "bf16" }),
  f16_patches: () => convHalf({ n: 1, c: 3, size: 64, k: 96, r: 16, stride: 16, pad: 0 }),
  bf16_stem: () => convHalf({ n: 1, c: 3, size: 40, k: 64, r: 7, stride: 2, precision: "bf16" }),
  // Enough tiles for weights that stay in shared memory.
  f16_1x1_many: () => convHalf({ n: 16, c: 64, size: 28, k: 256, r: 1, residual: true }),
  f16_1x1_many_odd: () => convHalf({ n: 17, c: 128, size: 27, k: 200, r: 1 }),
  f16_3x3_many: () => convHalf({ n: 24, c: 64, size: 28, k: 64 }),
  f16_stem_many: () => convHalf({ n: 2, c: 3, size: 224, k: 64, r: 7, stride: 2 }),
  s8_1x1_many: () => convInt8({ n: 16, c: 64, size: 28, k: 256, r: 1, residual: true }),
  s8_1x1_many_plain: () => convInt8({ n: 16, c: 128, size: 26, k: 144, r: 1, relu: false }),
  f16_linear: () => matmulHalf({ batch: [2], m: 100, k: 256, n: 192 }),
  f16_linear_residual: () => matmulHalf({ batch: [2], m: 128, k: 768, n: 768, residual: true }),
  f16_linear_gelu: () => matmulHalf({ batch: [1], m: 128, k: 256, n: 1024, gelu: true }),
};

const arch = "sm_90a";
const dry = process.env.DRY === "1";
async function compileAll(plan) {
  return Promise.all(plan.sources.map(async (s) => (await compileSource(s.source, arch, { name: s.kernels[0] })).cubin));
}
let [runs, wrong] = [0, 0];
for (const [name, make] of Object.entries(cases)) {
  if (!only.test(name)) continue;
  const { graph, feeds, expected: given, exact = false, precision } = make();
  let problem;
  lower(graph, { precision, device: h200, onProblem: (p) => (problem ??= p) });
  const seen = new Set();
  const chosen = (problem?.tactics ?? [undefined]).flatMap((t, i) => {
    const shape =
      t === undefined
        ? ""
        : tacticName(t)
            .replace(/-s\d+/, "")
            .replace(/split\d+/, "split");
    if (seen.has(shape) || seen.size >= most) return [];
    seen.add(shape);
    return [i];
  });
  let expected = given;
  if (expected === undefined && !dry) {
    const host = await hostEngine.open(await hostEngine.build(graph, { target: { sm: 0, tensorrt: 0, precision: "fp32" } }), {
      streams: 1,
      threads: 0,
    });
    expected = (await host.run(feeds))[0].data;
    await host.dispose();
  }
  const plans = await Promise.all(
    chosen.map(async (i) => {
      const picks = problem === undefined ? undefined : new Map([[problem.key, i]]);
      const { plan, weights: blob } = lower(graph, { precision, device: h200, ...(picks === undefined ? {} : { picks }) });
      const tactic = problem === undefined ? "only" : tacticName(problem.tactics[i]);
      try {
        return { plan, blob, tactic, cubins: await compileAll(plan) };
      } catch (error) {
        return { tactic, failed: String(error.message).slice(0, 1200) };
      }
    }),
  );
  let worst = 0;
  for (const { plan, blob, tactic, cubins, failed } of plans) {
    runs++;
    if (failed !== undefined) {
      wrong++;
      console.log(`  ${name} ${tactic}: ${failed}`);
      continue;
    }
    if (dry) continue;
    try {
      const executable = await openPlan(plan, cubins, blob);
      // Twice: what a launch leaves behind must not matter to the next.
      await executable.run(feeds);
      const [{ data }] = await executable.run(feeds);
      await executable.dispose();
      let [error, largest, at] = [0, 0, -1];
      for (let i = 0; i < expected.length; i++) {
        largest = Math.max(largest, Math.abs(expected[i]));
        const d = Math.abs(data[i] - expected[i]);
        if (!(d <= error)) [error, at] = [Number.isNaN(d) ? Number.POSITIVE_INFINITY : d, i];
      }
      const relative = exact ? error : error / largest;
      worst = Math.max(worst, relative);
      if (data.length !== expected.length || !(relative <= (exact ? 0 : precision === "bf16" ? 1.6e-2 : 2e-3))) {
        wrong++;
        let count = 0;
        for (let i = 0; i < expected.length; i++) if (Math.abs(data[i] - expected[i]) > (exact ? 0 : 2e-3 * largest)) count++;
        console.log(`  ${name} ${tactic}: WRONG ${relative}, ${count} of ${expected.length}, at ${at}: ${data[at]} for ${expected[at]}`);
      }
    } catch (error) {
      wrong++;
      console.log(`  ${name} ${tactic}: ${String(error.message).slice(0, 300)}`);
    }
  }
  console.log(name, precision, plans.length, "tactics, worst", worst);
}
console.log(JSON.stringify({ check: { runs, wrong } }));
process.exit(0);
