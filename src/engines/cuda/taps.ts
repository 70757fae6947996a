/**
 * Convolutions of few channels (first layers): the taps of a filter row become one run of memory, those of as many rows as the stride steps over
 * side by side. The input is copied once with its channels padded to 4 or 8 and its rows padded with zeros, so that the window of every output
 * column begins at a multiple of 16 bytes; a run is then read as one pixel of 32 or more channels, neighbouring windows overlapping in memory.
 * Weights get zeros where the padding is.
 */
import type { Emission } from "./emission.js";
import { add, type Index, product, rowMajor, scale } from "./indexing.js";
import { mapKernel } from "./loops.js";
import { literal } from "./pointwise.js";
import type { Element } from "./scope.js";
import { allOf, type Operand, operand, output, readWithin, type Site, within } from "./site.js";
import { storage } from "./storage.js";
import type { ConvProblem, Precision } from "./templates/index.js";
import type { View } from "./view.js";
import { packed } from "./weights.js";
import { windowOf } from "./windows.js";

export interface TapRuns {
  readonly problem: ConvProblem;
  /** Padded channels of a pixel, rows side by side, pixels of a padded row, and groups of rows; the first group begins `above` rows early. */
  readonly channels: number;
  readonly fold: number;
  readonly columns: number;
  readonly groups: number;
  readonly above: number;
}

const BYTES: Readonly<Partial<Record<Precision, number>>> = { f16: 2, bf16: 2, s8: 1 };

/** The convolution over runs of taps; undefined where its channels already fill 16 bytes, or where nothing would be gained. */
export function tapRuns(s: Site, dtype: Precision): TapRuns | undefined {
  const [x, w, y] = [operand(s, 0), operand(s, 1), output(s)];
  const bytes = BYTES[dtype];
  if (bytes === undefined || x.dims.length !== 4 || s.attrs.group !== 1 || w.constant === undefined) return undefined;
  const [n = 1, c = 1, h = 1, width = 1] = x.dims;
  const [k = 1, , r = 1, taps = 1] = w.dims;
  const [, , p = 1, q = 1] = y.dims;
  if (c > 8 || (c * bytes) % 16 === 0 || r * taps === 1) return undefined;
  const { strides, dilations, begin } = windowOf(s, x, y, [r, taps]);
  const [strideH = 1, strideW = 1] = strides;
  const [dilationH = 1, dilationW = 1] = dilations;
  const [padH = 0, padW = 0] = begin;
  if (dilationW !== 1) return undefined;
  const fold = dilationH === 1 && strideH <= Math.min(r, 4) ? strideH : 1;
  let channels = 1;
  while (channels < c || (channels * fold * strideW * bytes) % 16 !== 0) channels *= 2;
  if (channels > 16) return undefined;
  const pixel = channels * fold;
  const run = (Math.ceil((taps * pixel * bytes) / 64) * 64) / bytes;
  // Rows and images begin at multiples of 16 bytes too.
  const unit = Math.max(1, 16 / (pixel * bytes));
  const reach = (q - 1) * strideW + run / pixel;
  const columns = Math.ceil(Math.max(reach, padW + width) / unit) * unit;
  const above = padH % fold;
  const groups = Math.ceil((h + above) / fold);
  return {
    channels,
    fold,
    columns,
    groups,
    above,
    problem: {
      n,
      h: groups,
      w: q,
      c: run,
      k,
      r: Math.ceil(r / fold),
      s: 1,
      p,
      q,
      stride: [strideH / fold, 1],
      dilation: [dilationH, 1],
      pad: [Math.floor(padH / fold), 0],
      groups: 1,
      dtype,
      pixelStride: strideW * pixel,
      lineStride: columns * pixel,
      align: 16,
    },
  };
}

/** The padded copy of the input. */
export function packInput(e: Emission, s: Site, runs: TapRuns): View {
  const x = s.ins[0] as Operand;
  const { channels, fold, columns, groups, above } = runs;
  const [n = 1, c = 1, h = 1, width = 1] = x.dims;
  const left = windowOf(s, x, output(s), operand(s, 1).dims.slice(2)).begin[1] ?? 0;
  const dtype = e.stored(x.dtype);
  const name = `runs of ${x.id} ${fold} ${above} ${channels} ${columns} ${left}`;
  const dims = [n, groups, columns, fold, channels];
  const view: View = { buffer: name, dtype, dims, strides: rowMajor(dims), offset: 0 };
  if (e.buffers.has(name)) return view;
  e.buffers.set(name, { kind: "arena", bytes: product(dims) * storage(dtype).bytes });
  const { register } = storage(x.dtype);
  const element: Element = (scope, [image, group, column, part, channel]) => {
    const at = add(column as Index, -left);
    const row = add(add(scale(group as Index, fold), part as Index), -above);
    const inside = allOf(scope, [within(scope, channel as Index, 0, c), within(scope, row, 0, h), within(scope, at, 0, width)]);
    return readWithin(scope, register, inside, () => x.at(scope, [image as Index, channel as Index, row, at]), literal(0, register));
  };
  e.push(mapKernel(e.name("runs"), view, element), []);
  return view;
}

/** Weights [K, C, R, S] as [K, R / fold, run]. */
export function packWeights(e: Emission, s: Site, runs: TapRuns): View {
  const w = s.ins[1] as Operand;
  const dtype = e.stored(w.dtype);
  const [k = 1, c = 1, r = 1, taps = 1] = w.dims;
  const { channels, fold, problem } = runs;
  const dims = [k, problem.r, problem.c];
  const name = `weight runs of ${w.id} ${dtype} ${dims.join(" ")} ${fold} ${channels}`;
  const constant = w.constant;
  if (constant === undefined) throw new Error("weights of runs are constants");
  if (!e.buffers.has(name)) {
    const { bytes } = storage(dtype);
    e.buffers.set(name, { kind: "weights", bytes: product(dims) * bytes });
    e.weights.set(name, () => {
      const dense = packed(constant, { dims: [k, r, taps, c], strides: [c * r * taps, taps, 1, r * taps], offset: 0 }, dtype);
      const out = new Uint8Array(product(dims) * bytes);
      const pixel = c * bytes;
      for (let filter = 0; filter < k; filter++)
        for (let row = 0; row < r; row++)
          for (let t = 0; t < taps; t++) {
            const from = ((filter * r + row) * taps + t) * pixel;
            const run = (filter * problem.r + Math.floor(row / fold)) * problem.c;
            out.set(dense.subarray(from, from + pixel), (run + (t * fold + (row % fold)) * channels) * bytes);
          }
      return out;
    });
  }
  return { buffer: name, dtype, dims, strides: rowMajor(dims), offset: 0 };
}
