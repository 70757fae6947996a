/** Max pooling of channels-last tensors of 8- and 16-bit elements: a thread takes 16 bytes of channels and compares them packed. */
import type { Emission } from "./emission.js";
import { product } from "./indexing.js";
import type { Kernel } from "./loops.js";
import { operand, output, type Site } from "./site.js";
import { storage } from "./storage.js";
import type { View } from "./view.js";
import { windowOf } from "./windows.js";

const THREADS = 256;

/** The least element, and the packed maximum of two words; `more` words of the same bits hold what one word cannot. */
const PACKED: Readonly<Record<string, { readonly least: string; readonly most: string }>> = {
  float16: { least: "0xfc00fc00u", most: "max.NaN.f16x2" },
  bfloat16: { least: "0xff80ff80u", most: "max.NaN.bf16x2" },
};

/** The kernel for a MaxPool whose result goes to `out`; undefined where the general one has to do. */
export function maxPoolKernel(e: Emission, s: Site, out: View, name: string): Kernel | undefined {
  const [x, y] = [operand(s, 0), output(s)];
  if (s.node.op !== "MaxPool" || x.dims.length !== 4 || s.outs.length > 1) return undefined;
  const from = e.view(x.id);
  const { bytes, type } = storage(out.dtype);
  const packed = PACKED[out.dtype];
  if (from === undefined || from.dtype !== out.dtype || (packed === undefined && out.dtype !== "int8")) return undefined;
  const [n = 1, c = 1, h = 1, w = 1] = x.dims;
  const [, , p = 1, q = 1] = y.dims;
  const V = 16 / bytes;
  const dense = (v: View, rows: number, columns: number): boolean =>
    v.strides[1] === 1 &&
    v.strides[3] === c &&
    v.strides[2] === columns * c &&
    (n === 1 || v.strides[0] === rows * columns * c) &&
    (v.offset * bytes) % 16 === 0;
  if (c % V !== 0 || !dense(from, h, w) || !dense(out, p, q) || product(x.dims) >= 2 ** 31) return undefined;
  const { kernel, strides, dilations, begin } = windowOf(s, x, y, s.attrs.kernel_shape);
  const [r = 1, t = 1] = kernel;
  if (r * t > 25) return undefined;
  const [[sh = 1, sw = 1], [dh = 1, dw = 1], [ph = 0, pw = 0]] = [strides, dilations, begin];
  const groups = c / V;
  const count = n * p * q * groups;
  // Bytes are compared as the upper halves of 16-bit numbers: the words as they are hold every second one, shifted by a byte the others.
  const integers = packed === undefined;
  const most = integers
    ? "odd[k] = __vmaxs2(odd[k], v.w[k]), even[k] = __vmaxs2(even[k], v.w[k] << 8);"
    : `asm("${packed.most} %0, %0, %1;" : "+r"(odd[k]) : "r"(v.w[k]));`;
  const least = integers ? "0x80008000u" : packed.least;
  const four = (value: string): string => `{${new Array(4).fill(value).join(", ")}}`;
  const text = `extern "C" __global__ void __launch_bounds__(${THREADS}) ${name}(const ${type}* __restrict__ x, ${type}* __restrict__ out) {
  struct alignas(16) Words { u32 w[4]; };
  const int i = blockIdx.x * ${THREADS} + threadIdx.x;
  if (i >= ${count}) return;
  const int c = i % ${groups} * ${V}, q = i / ${groups} % ${q}, p = i / ${groups * q} % ${p}, n = i / ${groups * q * p};
  const int h = p * ${sh} - ${ph}, w = q * ${sw} - ${pw};
  const ${type}* const from = x + ${from.offset} + ((n * ${h} + h) * ${w} + w) * ${c} + c;
  u32 odd[4] = ${four(least)}${integers ? `, even[4] = ${four(least)}` : ""};
#pragma unroll
  for (int r = 0; r < ${r}; r++)
#pragma unroll
    for (int s = 0; s < ${t}; s++)
      if ((u32)(h + r * ${dh}) < ${h}u && (u32)(w + s * ${dw}) < ${w}u) {
        const Words v = *reinterpret_cast<const Words*>(from + (r * ${dh * w} + s * ${dw}) * ${c});
#pragma unroll
        for (int k = 0; k < 4; k++) ${most}
      }
  Words y;
#pragma unroll
  for (int k = 0; k < 4; k++) y.w[k] = ${integers ? "(odd[k] & 0xff00ff00u) | ((even[k] >> 8) & 0x00ff00ffu)" : "odd[k]"};
  *reinterpret_cast<Words*>(out + ${out.offset} + ((n * ${p} + p) * ${q} + q) * ${c} + c) = y;
}`;
  return {
    name,
    text,
    grid: [Math.ceil(count / THREADS), 1, 1],
    block: [THREADS, 1, 1],
    shared: 0,
    parameters: [from.buffer, out.buffer],
  };
}
