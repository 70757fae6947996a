/** Quantized products and convolutions on the GPU: every bit as integer arithmetic gives it, computed here term by term. */
import { describe, expect, it } from "vitest";
import { parse } from "../../src/ir/parse.js";
import { Tensor } from "../../src/tensor.js";
import { figure, gpuMissing, needsGpu } from "./gpu.js";
import { onGpu } from "./run.js";

const { fround } = Math;
let state = 7;
const draw = (low: number, high: number): number => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return low + Math.floor((state / 2 ** 32) * (high - low + 1));
};
const bytes = (n: number): Int8Array => Int8Array.from({ length: n }, () => draw(-128, 127));
const list = (values: Iterable<number>): string => `[${[...values].join(", ")}]`;
/** To the nearest, ties to even. */
function nearest(x: number): number {
  const low = Math.floor(x);
  const d = x - low;
  return d > 0.5 || (d === 0.5 && low % 2 !== 0) ? low + 1 : low;
}
/** round(float(sum) * M) within int8, M = fl(fl(sx * sw) / sy). */
const requantized = (sum: number, sx: number, sw: number, sy: number, relu: boolean): number => {
  const y = fround(fround(relu ? Math.max(sum, 0) : sum) * fround(fround(sx * sw) / sy));
  return Math.min(127, Math.max(-128, nearest(y)));
};
const [sx, sy] = [fround(0.021), fround(0.37)];
const scales = (n: number): Float32Array => Float32Array.from({ length: n }, (_, i) => fround(0.003 + 0.0007 * (i % 13)));

function product(m: number, n: number, k: number): { readonly text: string; readonly x: Tensor; readonly expected: Tensor } {
  const [x, w, sw] = [bytes(m * k), bytes(k * n), scales(n)];
  const y = new Int8Array(m * n);
  for (let i = 0; i < m; i++)
    for (let j = 0; j < n; j++) {
      let sum = 0;
      for (let l = 0; l < k; l++) sum += (x[i * k + l] as number) * (w[l * n + j] as number);
      y[i * n + j] = requantized(sum, sx, sw[j] as number, sy, false);
    }
  return {
    text: `graph "g" opset {"": 20} (%x: int8[${m}, ${k}]) -> (%y) {
      const %sx = float32[] [${sx}]
      const %sy = float32[] [${sy}]
      const %z = int8[] [0]
      const %w = int8[${k}, ${n}] ${list(w)}
      const %sw = float32[${n}] ${list(sw)}
      %a: float32[${m}, ${k}] = DequantizeLinear(%x, %sx)
      %b: float32[${k}, ${n}] = DequantizeLinear(%w, %sw) {axis = 1}
      %p: float32[${m}, ${n}] = MatMul(%a, %b)
      %y: int8[${m}, ${n}] = QuantizeLinear(%p, %sy, %z)
    }`,
    x: new Tensor("int8", x, [m, k]),
    expected: new Tensor("int8", y, [m, n]),
  };
}

function convolution(c: number, k: number, h: number, w: number, r: number, stride: number): ReturnType<typeof product> {
  const [x, f, sw] = [bytes(c * h * w), bytes(k * c * r * r), scales(k)];
  const bias = Int32Array.from({ length: k }, () => draw(-20_000, 20_000));
  const pad = (r - 1) / 2;
  const [p, q] = [h, w].map((d) => Math.floor((d + 2 * pad - r) / stride) + 1) as [number, number];
  const y = new Int8Array(k * p * q);
  for (let n = 0; n < k; n++)
    for (let i = 0; i < p; i++)
      for (let j = 0; j < q; j++) {
        let sum = bias[n] as number;
        for (let ch = 0; ch < c; ch++)
          for (let u = 0; u < r; u++)
            for (let v = 0; v < r; v++) {
              const [row, column] = [i * stride + u - pad, j * stride + v - pad];
              if (row < 0 || column < 0 || row >= h || column >= w) continue;
              sum += (x[(ch * h + row) * w + column] as number) * (f[((n * c + ch) * r + u) * r + v] as number);
            }
        y[(n * p + i) * q + j] = requantized(sum, sx, sw[n] as number, sy, true);
      }
  const joined = Float32Array.from(sw, (s) => fround(sx * s));
  return {
    text: `graph "g" opset {"": 20} (%x: int8[1, ${c}, ${h}, ${w}]) -> (%y) {
      const %sx = float32[] [${sx}]
      const %sy = float32[] [${sy}]
      const %z = int8[] [0]
      const %f = int8[${k}, ${c}, ${r}, ${r}] ${list(f)}
      const %sf = float32[${k}] ${list(sw)}
      const %bias = int32[${k}] ${list(bias)}
      const %sb = float32[${k}] ${list(joined)}
      %a: float32[1, ${c}, ${h}, ${w}] = DequantizeLinear(%x, %sx)
      %b: float32[${k}, ${c}, ${r}, ${r}] = DequantizeLinear(%f, %sf) {axis = 0}
      %d: float32[${k}] = DequantizeLinear(%bias, %sb) {axis = 0}
      %p: float32[1, ${k}, ${p}, ${q}] = Conv(%a, %b, %d) {pads = [${pad}, ${pad}, ${pad}, ${pad}], strides = [${stride}, ${stride}]}
      %s: float32[1, ${k}, ${p}, ${q}] = Relu(%p)
      %y: int8[1, ${k}, ${p}, ${q}] = QuantizeLinear(%s, %sy, %z)
    }`,
    x: new Tensor("int8", x, [1, c, h, w]),
    expected: new Tensor("int8", y, [1, k, p, q]),
  };
}

describe.skipIf(gpuMissing !== undefined)(needsGpu("int8 on the GPU"), () => {
  const cases: readonly (readonly [string, () => ReturnType<typeof product>])[] = [
    ["product 33x72x200", () => product(33, 72, 200)],
    ["product 1x64x128", () => product(1, 64, 128)],
    ["product 37x53x41", () => product(37, 53, 41)],
    ["product 128x128x256", () => product(128, 128, 256)],
    ["convolution of 32 channels", () => convolution(32, 48, 9, 11, 3, 1)],
    ["convolution of 3 channels", () => convolution(3, 20, 12, 13, 3, 1)],
    ["convolution with strides", () => convolution(64, 64, 14, 14, 3, 2)],
    ["pointwise convolution", () => convolution(40, 72, 7, 9, 1, 1)],
  ];
  it.each(cases)("%s", async (title, make) => {
    const c = make();
    const result = await onGpu(parse(c.text), [c.x], [c.expected], "int8");
    figure(title, { templates: result.templates.join(" ") });
    expect(result.wrong).toBeUndefined();
  });
});
