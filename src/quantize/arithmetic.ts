/**
 * The INT8 arithmetic that every engine is held to, bit for bit, in plain loops: the reference, not a fast path.
 *
 * Symmetric, zero point 0. Activations saturate to [-128, 127]; weights were clamped to [-127, 127] when they were made.
 *
 *     q      = saturate(round_half_even(fl(x / s)))                       a true division; a reciprocal gives other bits
 *     acc    = sum of x_q w_q + bias_q                                    int32, modulo 2^32; bias_q has scale fl(s_x s_w[k])
 *     real   = fl(fl32(acc) fl(s_x s_w[k]))                               where the result stays float
 *     y_q    = saturate(round_half_even(fl(fl32(acc) M_k)))               M_k = fl(fl(s_x s_w[k]) / s_y)
 *
 * M is for a product whose one reader is a quantizer, with Relu and Clip alone between them (each with one reader): they are bounds on the steps then,
 * Q(bound), as rounding keeps the order. A product that anything else reads is made real first, and its quantizer divides. So does every other
 * quantizer: an Add of a sum and a residual is fl(real + fl(q s)), then what follows it. A mean over all positions is an int32 sum times one
 * multiplier; a mean over windows is real, and its quantizer divides.
 *
 * fl is rounding to float32, to nearest, ties to even; fl32 the same of an int32. No fused multiply-add, no flush to zero. Padding is 0.
 * A NaN becomes -128. Products of float32 are exact in float64, and quotients and sums of float32 that are rounded to float64 first and
 * then to float32 are rounded right (53 >= 2 * 24 + 2), so Math.fround of JavaScript's arithmetic is float32 arithmetic.
 */

/** Least and greatest value of an activation. Weights keep to [-127, 127]. */
export const LEAST = -128;
export const GREATEST = 127;
const fl = Math.fround;

/** Integer tensors, row-major. */
export interface Int8 {
  readonly data: Int8Array;
  readonly dims: readonly number[];
}
/** Sums of products: int32, row-major; `axis` is that of output channels, which scales and bias run along. */
export interface Accumulator {
  readonly data: Int32Array;
  readonly dims: readonly number[];
  readonly axis: number;
}
/** Spatial parameters of a convolution or a pool; lists are per spatial dim, `pads` all beginnings, then all ends. */
export interface Window {
  readonly strides?: readonly number[] | undefined;
  readonly dilations?: readonly number[] | undefined;
  readonly pads?: readonly number[] | undefined;
}

/** A window with everything said. */
interface Place {
  readonly strides: readonly number[];
  readonly dilations: readonly number[];
  readonly pads: readonly number[];
}

const MAGIC = 1.5 * 2 ** 52;
/** Nearest whole number, ties to even. For |x| below 2^51. */
export const roundHalfEven = (x: number): number => x + MAGIC - MAGIC;
/** A float32 as an activation's step: NaN and all below become -128, all above 127. */
const toStep = (v: number): number => (v > LEAST ? (v < GREATEST ? roundHalfEven(v) : GREATEST) : LEAST);

/** round(x / scale), saturated. `scale` is a positive float32, one for all, or one per index of `axis`. */
export function quantize(
  x: Float32Array,
  scale: number | Float32Array,
  at?: { readonly dims: readonly number[]; readonly axis: number },
): Int8Array {
  const out = new Int8Array(x.length);
  if (typeof scale === "number") for (let i = 0; i < x.length; i++) out[i] = toStep(fl((x[i] as number) / scale));
  else eachChannel(x.length, scale.length, at, (i, c) => void (out[i] = toStep(fl((x[i] as number) / (scale[c] as number)))));
  return out;
}
/** fl(q s). */
export function dequantize(
  q: Int8Array | Int32Array,
  scale: number | Float32Array,
  at?: { readonly dims: readonly number[]; readonly axis: number },
): Float32Array {
  const out = new Float32Array(q.length);
  if (typeof scale === "number") for (let i = 0; i < q.length; i++) out[i] = fl(q[i] as number) * scale;
  else eachChannel(q.length, scale.length, at, (i, c) => void (out[i] = fl(q[i] as number) * (scale[c] as number)));
  return out;
}
function eachChannel(
  count: number,
  channels: number,
  at: { readonly dims: readonly number[]; readonly axis: number } | undefined,
  f: (i: number, c: number) => void,
): void {
  const inner = at === undefined ? 1 : product(at.dims.slice(at.axis + 1));
  for (let i = 0; i < count; i++) f(i, Math.floor(i / inner) % channels);
}
const product = (dims: readonly number[]): number => dims.reduce((a, b) => a * b, 1);

/** Scales of the sums: fl(s_x s_w[k]), also the scales of an int32 bias. */
export const sumScales = (x: number, w: number | Float32Array): Float32Array =>
  typeof w === "number" ? Float32Array.of(x * w) : w.map((s) => x * s);
/** M_k = fl(fl(s_x s_w[k]) / s_y). */
export const multipliers = (x: number, w: number | Float32Array, y: number): Float32Array => sumScales(x, w).map((s) => s / y);

/** Sums to activations: one multiplier for all, or one per output channel. */
export function requantize(acc: Accumulator, multiplier: Float32Array): Int8Array {
  const out = new Int8Array(acc.data.length);
  eachChannel(out.length, multiplier.length, acc, (i, c) => {
    out[i] = toStep(fl(fl(acc.data[i] as number) * (multiplier[c] as number)));
  });
  return out;
}
/** Sums to float32, where no quantizer follows. */
export function toReal(acc: Accumulator, scales: Float32Array): Float32Array {
  const out = new Float32Array(acc.data.length);
  eachChannel(out.length, scales.length, acc, (i, c) => {
    out[i] = fl(acc.data[i] as number) * (scales[c] as number);
  });
  return out;
}

/** Every position of a window's taps that hits the input: flat offsets of input and kernel, in pairs. */
function tapsAt(out: readonly number[], size: readonly number[], kernel: readonly number[], w: Place, pairs: number[]): readonly number[] {
  pairs.length = 0;
  const rank = size.length;
  const walk = (d: number, x: number, k: number): void => {
    if (d === rank) {
      pairs.push(x, k);
      return;
    }
    const [n, taps] = [size[d] as number, kernel[d] as number];
    const start = (out[d] as number) * (w.strides[d] as number) - (w.pads[d] as number);
    for (let t = 0; t < taps; t++) {
      const at = start + t * (w.dilations[d] as number);
      if (at >= 0 && at < n) walk(d + 1, x * n + at, k * taps + t);
    }
  };
  walk(0, 0, 0);
  return pairs;
}
function settled(w: Window, rank: number): Place {
  const ones = new Array<number>(rank).fill(1);
  return { strides: w.strides ?? ones, dilations: w.dilations ?? ones, pads: w.pads ?? new Array<number>(2 * rank).fill(0) };
}
/** Extent of a window's result: floor((x + pads - ((k - 1) dilation + 1)) / stride) + 1. */
const extents = (size: readonly number[], kernel: readonly number[], w: Place): number[] =>
  size.map((n, d) => {
    const [k, p] = [kernel[d] as number, (w.pads[d] as number) + (w.pads[d + size.length] as number)];
    return Math.floor((n + p - (k - 1) * (w.dilations[d] as number) - 1) / (w.strides[d] as number)) + 1;
  });
/** Counts through all positions of `dims`, last fastest. */
function eachPosition(dims: readonly number[], f: (at: readonly number[], flat: number) => void): void {
  const at = dims.map(() => 0);
  const count = product(dims);
  for (let flat = 0; flat < count; flat++) {
    f(at, flat);
    for (let d = dims.length - 1; d >= 0; d--) {
      at[d] = (at[d] as number) + 1;
      if ((at[d] as number) < (dims[d] as number)) break;
      at[d] = 0;
    }
  }
}

/** x [N, C, spatial...], w [K, C / group, kernel...], bias [K]: the sums [N, K, spatial...]. One to three spatial dims, or any other number. */
export function conv(x: Int8, w: Int8, bias: Int32Array | undefined, window: Window & { readonly group?: number }): Accumulator {
  const [n = 0, channels = 0, ...size] = x.dims;
  const [filters = 0, depth = 0, ...kernel] = w.dims;
  const place = settled(window, size.length);
  const space = extents(size, kernel, place);
  const [inSize, outSize, taps] = [product(size), product(space), product(kernel)];
  const perGroup = filters / (window.group ?? 1);
  const out = new Int32Array(n * filters * outSize);
  const pairs: number[] = [];
  eachPosition(space, (position, flat) => {
    const hits = tapsAt(position, size, kernel, place, pairs);
    for (let b = 0; b < n; b++)
      for (let k = 0; k < filters; k++) {
        const first = b * channels + Math.floor(k / perGroup) * depth;
        let sum = 0;
        for (let c = 0; c < depth; c++) {
          const [xAt, wAt] = [(first + c) * inSize, (k * depth + c) * taps];
          for (let t = 0; t < hits.length; t += 2)
            sum += (x.data[xAt + (hits[t] as number)] as number) * (w.data[wAt + (hits[t + 1] as number)] as number);
        }
        out[(b * filters + k) * outSize + flat] = sum + (bias?.[k] ?? 0);
      }
  });
  return { data: out, dims: [n, filters, ...space], axis: 1 };
}

/** x [N, C, spatial...], w [C, K / group, kernel...], bias [K]: the gradient of `conv` with respect to its input. */
export function convTranspose(
  x: Int8,
  w: Int8,
  bias: Int32Array | undefined,
  window: Window & { readonly group?: number; readonly outputPadding?: readonly number[] },
): Accumulator {
  const [n = 0, channels = 0, ...size] = x.dims;
  const [, perGroup = 0, ...kernel] = w.dims;
  const place = settled(window, size.length);
  const groups = window.group ?? 1;
  const filters = perGroup * groups;
  const depth = channels / groups;
  const space = size.map((s, d) => {
    const pads = (place.pads[d] as number) + (place.pads[d + size.length] as number);
    const reach = ((kernel[d] as number) - 1) * (place.dilations[d] as number) + 1;
    return (s - 1) * (place.strides[d] as number) + reach + (window.outputPadding?.[d] ?? 0) - pads;
  });
  const [inSize, outSize, taps] = [product(size), product(space), product(kernel)];
  // In float64 the sums are exact: below 2^53 for any tensor that fits memory.
  const sums = new Float64Array(n * filters * outSize);
  const pairs: number[] = [];
  // A position of the input reaches those of the output that a convolution's window at this position would read.
  eachPosition(size, (position, flat) => {
    const hits = tapsAt(position, space, kernel, place, pairs);
    for (let b = 0; b < n; b++)
      for (let c = 0; c < channels; c++) {
        const value = x.data[(b * channels + c) * inSize + flat] as number;
        const first = b * filters + Math.floor(c / depth) * perGroup;
        for (let k = 0; k < perGroup; k++) {
          const [yAt, wAt] = [(first + k) * outSize, (c * perGroup + k) * taps];
          for (let t = 0; t < hits.length; t += 2) {
            const at = yAt + (hits[t] as number);
            sums[at] = (sums[at] as number) + value * (w.data[wAt + (hits[t + 1] as number)] as number);
          }
        }
      }
  });
  const out = new Int32Array(sums.length);
  for (let i = 0; i < out.length; i++) out[i] = (sums[i] as number) + (bias?.[Math.floor(i / outSize) % filters] ?? 0);
  return { data: out, dims: [n, filters, ...space], axis: 1 };
}

/** a [..., M, K] times b [..., K, N], outer dims broadcast, 1-D operands as NumPy treats them: the sums [..., M, N]. */
export function matmul(a: Int8, b: Int8): Accumulator {
  const [aDims, bDims] = [a.dims.length === 1 ? [1, ...a.dims] : a.dims, b.dims.length === 1 ? [...b.dims, 1] : b.dims];
  const [m, k, n] = [aDims.at(-2) as number, aDims.at(-1) as number, bDims.at(-1) as number];
  const [aOuter, bOuter] = [aDims.slice(0, -2), bDims.slice(0, -2)];
  const rank = Math.max(aOuter.length, bOuter.length);
  const wide = (outer: readonly number[]): readonly number[] => [...new Array<number>(rank - outer.length).fill(1), ...outer];
  const [aw, bw] = [wide(aOuter), wide(bOuter)];
  const outer = aw.map((d, i) => (d === 1 ? (bw[i] as number) : d));
  const out = new Int32Array(product(outer) * m * n);
  const offset = (dims: readonly number[], at: readonly number[]): number =>
    dims.reduce((flat, d, i) => flat * d + (d === 1 ? 0 : (at[i] as number)), 0);
  eachPosition(outer, (at, flat) => {
    const [aAt, bAt] = [offset(aw, at) * m * k, offset(bw, at) * k * n];
    for (let i = 0; i < m; i++)
      for (let j = 0; j < n; j++) {
        let sum = 0;
        for (let t = 0; t < k; t++) sum += (a.data[aAt + i * k + t] as number) * (b.data[bAt + t * n + j] as number);
        out[(flat * m + i) * n + j] = sum;
      }
  });
  const dims = [...outer, ...(a.dims.length === 1 ? [] : [m]), ...(b.dims.length === 1 ? [] : [n])];
  return { data: out, dims, axis: Math.max(0, dims.length - 1) };
}

/** A' B' + bias, the operands transposed where asked: a [M, K], b [K, N], bias [N]. */
export function gemm(
  a: Int8,
  b: Int8,
  bias: Int32Array | undefined,
  { transA = false, transB = false }: { readonly transA?: boolean; readonly transB?: boolean } = {},
): Accumulator {
  const acc = matmul(transA ? transposed(a) : a, transB ? transposed(b) : b);
  if (bias !== undefined)
    for (let i = 0; i < acc.data.length; i++) acc.data[i] = (acc.data[i] as number) + (bias[i % bias.length] as number);
  return acc;
}
function transposed({ data, dims: [rows = 0, columns = 0] }: Int8): Int8 {
  const out = new Int8Array(data.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) out[j * rows + i] = data[i * columns + j] as number;
  return { data: out, dims: [columns, rows] };
}

/** A float32 tensor and a quantized residual of the same dims: fl(x + fl(q s)), then as the next reader takes it. */
export function addResidual(x: Float32Array, residual: Int8Array, scale: number): Float32Array {
  return x.map((v, i) => v + fl((residual[i] as number) * scale));
}
/** Both operands quantized, of the same dims: Q(fl(fl(a s_a) + fl(b s_b))). */
export function add(a: Int8Array, aScale: number, b: Int8Array, bScale: number, yScale: number): Int8Array {
  const sum = new Float32Array(a.length);
  for (let i = 0; i < a.length; i++) sum[i] = fl((a[i] as number) * aScale) + fl((b[i] as number) * bScale);
  return quantize(sum, yScale);
}

/** The greatest step of each window; scale and bits pass through. Windows lie in the input at least in part. x is [N, C, spatial...]. */
export function maxPool(x: Int8, kernel: readonly number[], window: Window): Int8 {
  return pooled(x, kernel, window, (hits, base) => {
    let most = LEAST;
    for (let t = 0; t < hits.length; t += 2) most = Math.max(most, x.data[base + (hits[t] as number)] as number);
    return most;
  });
}
/** The mean of each channel over its n positions: the sum of their steps times fl(s_x / fl(s_y n)). */
export function globalAveragePool(x: Int8, xScale: number, yScale: number): Int8 {
  return pooled(x, x.dims.slice(2), {}, (hits, base) => {
    let sum = 0;
    for (let t = 0; t < hits.length; t += 2) sum += x.data[base + (hits[t] as number)] as number;
    return toStep(fl(fl(sum) * fl(xScale / fl(yScale * (hits.length / 2)))));
  });
}
/** The mean of each window's n elements: float32 sums of fl(q s_x) in the window's row-major order, divided by n and by s_y. `includePads`: n counts padding. */
export function averagePool(x: Int8, xScale: number, yScale: number, kernel: readonly number[], window: Window, includePads = false): Int8 {
  const all = product(kernel);
  return pooled(x, kernel, window, (hits, base) => {
    let sum = 0;
    for (let t = 0; t < hits.length; t += 2) sum = fl(sum + fl((x.data[base + (hits[t] as number)] as number) * xScale));
    return toStep(fl(fl(sum / (includePads ? all : hits.length / 2)) / yScale));
  });
}
function pooled(x: Int8, kernel: readonly number[], window: Window, f: (hits: readonly number[], base: number) => number): Int8 {
  const [n = 0, channels = 0, ...size] = x.dims;
  const place = settled(window, size.length);
  const space = extents(size, kernel, place);
  const [inSize, outSize] = [product(size), product(space)];
  const out = new Int8Array(n * channels * outSize);
  const pairs: number[] = [];
  eachPosition(space, (position, flat) => {
    const hits = tapsAt(position, size, kernel, place, pairs);
    for (let p = 0; p < n * channels; p++) out[p * outSize + flat] = f(hits, p * inSize);
  });
  return { data: out, dims: [n, channels, ...space] };
}
