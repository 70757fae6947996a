/** Pools and patches: everything that looks through a sliding window without weights. */
import { defineTfOp, type TfBuilder, type TfNode, type Val } from "./define.js";
import { bounded, limitOf, upTo } from "./helpers.js";
import { compute, plainType } from "./kernels.js";
import {
  back,
  extent,
  first,
  type Layout,
  layoutOf,
  PADDING_OPS,
  paddingOf,
  placed,
  spatialOf,
  type Window,
  windowAttrs,
} from "./windows.js";

function windowOf(n: TfNode, layout: Layout, sizes: readonly number[], strides: readonly number[]): Window {
  return {
    kernel: spatialOf(n, layout, "window", sizes),
    strides: spatialOf(n, layout, "strides", strides),
    dilations: new Array<number>(layout.n).fill(1),
  };
}
function pooled(
  n: TfNode,
  b: TfBuilder,
  op: "MaxPool" | "AveragePool",
  spatial: number,
  sizes: readonly number[],
  strides: readonly number[],
): Val {
  const layout = layoutOf(n, spatial, spatial === 2 ? "NHWC" : "NDHWC");
  const w = windowOf(n, layout, sizes, strides);
  const padding = paddingOf(n, b, n.in(0), layout, w);
  const k = compute(n, b);
  const image = first(b, layout, n.in(0));
  const over = (v: Val): Val => {
    const { x, attrs } = placed(n, b, v, padding, layout.n, op === "MaxPool" ? "lowest" : "zero");
    return k(op, [x], { kernel_shape: w.kernel, ...windowAttrs(w), ...attrs });
  };
  const whole = over(image);
  // Padding that a Pad made counts in the mean: divided out again.
  const counts =
    op === "AveragePool" && padding.kind === "computed" ? over(b.fill(plainType(n, image.dtype), 1, b.shape(image))) : undefined;
  return back(b, layout, counts === undefined ? whole : k("Div", [whole, counts]));
}
const pool = (name: string, op: "MaxPool" | "AveragePool", spatial: number) =>
  defineTfOp({
    name,
    to: [op, "Transpose", ...PADDING_OPS],
    lower: (n, b) => pooled(n, b, op, spatial, n.ints("ksize"), n.ints("strides")),
  });
export const maxPool = pool("MaxPool", "MaxPool", 2);
export const maxPool3D = pool("MaxPool3D", "MaxPool", 3);
export const avgPool = pool("AvgPool", "AveragePool", 2);
export const avgPool3D = pool("AvgPool3D", "AveragePool", 3);
export const maxPoolV2 = defineTfOp({
  name: "MaxPoolV2",
  to: ["MaxPool", "Transpose", ...PADDING_OPS],
  lower: (n, b) => pooled(n, b, "MaxPool", 2, b.numbers(n.in(1), "the window"), b.numbers(n.in(2), "the list of strides")),
});
/** Positions are counted with channels last, in TensorFlow; ONNX counts them plane by plane. */
export const maxPoolWithArgmax = defineTfOp({
  name: "MaxPoolWithArgmax",
  outs: ["output", "argmax"],
  to: ["MaxPool", "Transpose", "Mod", ...PADDING_OPS],
  lower: (n, b) => {
    const layout: Layout = { channelsFirst: false, n: 2 };
    const w = windowOf(n, layout, n.ints("ksize"), n.ints("strides"));
    const own = n.in(0).dtype;
    const image = b.cast(b.toChannelsFirst(n.in(0)), own === "float64" ? own : "float32");
    const { x, attrs } = placed(n, b, image, paddingOf(n, b, n.in(0), layout, w), 2, "lowest");
    const [y, at] = b.ops("MaxPool", [x], { kernel_shape: w.kernel, ...windowAttrs(w), ...attrs }, 2);
    if (y === undefined || at === undefined) return n.refuse("MaxPool made no result");
    const [batch, channels, height, width] = [0, 1, 2, 3].map((i) => b.dim(image, i));
    if (batch === undefined || channels === undefined || height === undefined || width === undefined)
      return n.refuse("its operand is no image");
    const plane = b.mul(height, width);
    const place = b.op("Mod", [at, plane]);
    const across = (count: Val, axes: readonly number[]): Val => b.unsqueeze(b.op("Range", [b.int64(0), count, b.int64(1)]), axes);
    let index = b.add(b.mul(place, channels), across(channels, [1, 2]));
    if (n.bool("include_batch_in_index", false)) index = b.add(index, b.mul(across(batch, [1, 2, 3]), b.mul(plane, channels)));
    return [b.cast(b.toChannelsLast(y), own), b.cast(b.toChannelsLast(index), n.type("Targmax", "int64"))];
  },
});
export const fractional = defineTfOp({
  names: ["FractionalMaxPool", "FractionalAvgPool"],
  random: true,
  absent: "its windows are drawn at random",
  fix: "use a pool with fixed windows for inference",
});

/** Every window's elements by offset, channels last: for offset (i, j) the strided slice that begins there. */
function shifted(n: TfNode, b: TfBuilder, x: Val, w: Window): readonly Val[] {
  bounded(
    n,
    w.kernel.reduce((count, k) => count * k, 1),
    4096,
    "the places of its window",
  );
  const dims = upTo(w.kernel.length);
  let offsets: readonly (readonly number[])[] = [[]];
  for (const i of dims) offsets = offsets.flatMap((o) => upTo(w.kernel[i] ?? 1).map((v) => [...o, v * (w.dilations[i] ?? 1)]));
  return offsets.map((o) => {
    const ends = dims.map((i) => {
      const left = extent(w, i) - 1 - (o[i] ?? 0);
      return left === 0 ? Number.MAX_SAFE_INTEGER : -left;
    });
    return b.slice(
      x,
      o,
      ends,
      dims.map((i) => i + 1),
      w.strides,
    );
  });
}
function paddedLast(n: TfNode, b: TfBuilder, x: Val, w: Window, fill: number | bigint): Val {
  const spatial = w.kernel.length;
  const padding = paddingOf(n, b, x, { channelsFirst: false, n: spatial }, w);
  if (padding.kind === "pads" && padding.pads.every((p) => p === 0)) return x;
  let pads: Val;
  if (padding.kind === "pads") pads = b.int64([0, ...padding.pads.slice(0, spatial), 0, 0, ...padding.pads.slice(spatial), 0]);
  else {
    // Of strides alone the amounts depend on the size: computed as for a dilated window.
    const dims = upTo(spatial);
    const totals = dims.map((i) => {
      const [size, stride] = [b.dim(x, i + 1), b.int64(w.strides[i] ?? 1)];
      const steps = b.div(b.sub(b.add(size, stride), b.int64(1)), stride);
      const reach = b.add(b.mul(b.sub(steps, b.int64(1)), stride), b.int64(extent(w, i)));
      return b.unsqueeze(b.op("Max", [b.sub(reach, size), b.int64(0)]), [0]);
    });
    const total = b.concat(totals, 0);
    const before = b.div(total, b.int64([2]));
    const zero = b.int64([0]);
    pads = b.concat([zero, before, zero, zero, b.sub(total, before), zero], 0);
  }
  return compute(n, b)("Pad", [x, pads, b.scalar(plainType(n, x.dtype), fill)]);
}
const patches = (name: string, spatial: number) =>
  defineTfOp({
    name,
    to: ["Slice", "Concat", ...PADDING_OPS],
    lower: (n, b) => {
      const layout: Layout = { channelsFirst: false, n: spatial };
      const w: Window = {
        kernel: spatialOf(n, layout, "window", n.ints("ksizes")),
        strides: spatialOf(n, layout, "strides", n.ints("strides")),
        dilations: spatialOf(n, layout, "rates", n.ints("rates", new Array<number>(spatial + 2).fill(1))),
      };
      return b.concat(shifted(n, b, paddedLast(n, b, n.in(0), w, 0), w), spatial + 1);
    },
  });
export const extractImagePatches = patches("ExtractImagePatches", 2);
export const extractVolumePatches = patches("ExtractVolumePatches", 3);
/** The greatest sum of an element and the filter's at its place in the window. */
export const dilation2D = defineTfOp({
  name: "Dilation2D",
  to: ["Slice", ...PADDING_OPS],
  lower: (n, b) => {
    const layout: Layout = { channelsFirst: false, n: 2 };
    const [x, filter] = [n.in(0), n.in(1)];
    const [h, w] = filter.shape ?? [];
    if (typeof h !== "number" || typeof w !== "number") return n.refuse("the size of its filter is not known at compile time");
    const window: Window = {
      kernel: [h, w],
      strides: spatialOf(n, layout, "strides", n.ints("strides")),
      dilations: spatialOf(n, layout, "rates", n.ints("rates")),
    };
    const k = compute(n, b);
    const filled = paddedLast(n, b, x, window, limitOf(x.dtype, "lowest"));
    const sums = shifted(n, b, filled, window).map((s, i) => {
      const row = b.slice(b.reshape(filter, [h * w, -1]), [i], [i + 1], [0]);
      return k("Add", [s, b.reshape(row, [-1])]);
    });
    return sums.reduce((top, s) => k("Max", [top, s]));
  },
});
