/**
 * Resizing images [n, h, w, c], each convention by itself: legacy (corner of the first pixel), align_corners, half_pixel_centers. Sources of the
 * positions: image_resizer_state.h and the resize_*_op.cc kernels, described in the comments here.
 */
import { isStatic } from "../../ir/dims.js";
import { typedOf } from "../../ir/payload.js";
import { defineTfOp, type TfBuilder, type TfNode, type Val } from "./define.js";
import { bounded, counting, dimOf, shapeFrom, upTo } from "./helpers.js";

/** Places along a side that are worked out here; longer sides are worked out at run time. */
const MOST = 65_536;
interface Convention {
  readonly align: boolean;
  readonly half: boolean;
}
const conventionOf = (n: TfNode): Convention => ({ align: n.bool("align_corners", false), half: n.bool("half_pixel_centers", false) });

/** The requested height (side 0) or width (side 1). */
function wanted(b: TfBuilder, size: Val, side: 0 | 1): number | Val {
  const known = size.numbers?.[side];
  return known ?? b.cast(b.reshape(b.slice(size, [side], [side + 1], [0]), []), "int64");
}
const float = (b: TfBuilder, d: number | Val): Val => (typeof d === "number" ? b.scalar("float32", d) : b.cast(d, "float32"));
const int = (b: TfBuilder, d: number | Val): Val => (typeof d === "number" ? b.int64(d) : d);

/** in / out; with aligned corners (in - 1) / (out - 1) where there is more than one result. */
function scaleOf(b: TfBuilder, from: number | Val, to: number | Val, align: boolean): Val {
  if (typeof from === "number" && typeof to === "number") return b.scalar("float32", align && to > 1 ? (from - 1) / (to - 1) : from / to);
  const [f, t] = [float(b, from), float(b, to)];
  const plain = b.div(f, t);
  if (!align) return plain;
  const one = b.scalar("float32", 1);
  return b.where(b.op("Greater", [t, one]), b.div(b.sub(f, one), b.op("Max", [b.sub(t, one), one])), plain);
}
/** Where the results' pixels lie in the image, float32 [out]. */
function places(b: TfBuilder, from: number | Val, to: number | Val, c: Convention): Val {
  const scale = scaleOf(b, from, to, c.align);
  const i = b.cast(counting(b, to), "float32");
  if (!c.half) return b.mul(i, scale);
  const half = b.scalar("float32", 0.5);
  return b.sub(b.mul(b.add(i, half), scale), half);
}

/** Rows and columns of an image mixed by matrices [out, in]. */
function mixed(b: TfBuilder, x: Val, rows: Val, cols: Val, height: number | Val, width: number | Val): Val {
  const [batch, h, w, channels] = [0, 1, 2, 3].map((i) => dimOf(b, x, i));
  if (batch === undefined || h === undefined || w === undefined || channels === undefined) throw new Error("an image has four dims");
  const times = (p: number | Val, q: number | Val): number | Val =>
    typeof p === "number" && typeof q === "number" ? p * q : b.mul(int(b, p), int(b, q));
  const tall = b.op("MatMul", [rows, b.reshape(x, shapeFrom(b, [batch, h, times(w, channels)]))]);
  const wide = b.op("MatMul", [cols, b.reshape(tall, shapeFrom(b, [times(batch, height), w, channels]))]);
  return b.reshape(wide, shapeFrom(b, [batch, height, width, channels]));
}

export const resizeBilinear = defineTfOp({
  name: "ResizeBilinear",
  to: ["Resize", "Transpose", "Cast", "Concat", "Shape"],
  lower: (n, b) => {
    const x = b.cast(n.in(0), "float32");
    const c = conventionOf(n);
    const first = b.toChannelsFirst(x);
    const [h, w] = [wanted(b, n.in(1), 0), wanted(b, n.in(1), 1)];
    const sizes = shapeFrom(b, [dimOf(b, first, 0), dimOf(b, first, 1), h, w]);
    const mode = c.align ? "align_corners" : c.half ? "half_pixel" : "asymmetric";
    return b.toChannelsLast(b.op("Resize", [first, undefined, undefined, sizes], { mode: "linear", coordinate_transformation_mode: mode }));
  },
});

/** TensorFlow's source pixel, in its own float32 arithmetic. */
function nearestIndex(i: number, from: number, to: number, c: Convention): number {
  const f = Math.fround;
  const scale = f(c.align && to > 1 ? f(from - 1) / f(to - 1) : f(from) / f(to));
  const at = c.half ? Math.floor(f(f(i + 0.5) * scale)) : c.align ? Math.round(f(i * scale)) : Math.floor(f(i * scale));
  return Math.max(0, Math.min(from - 1, at));
}
/** ONNX Runtime's, for the spelling of the same convention: it divides by out / in. */
function runtimeIndex(i: number, from: number, to: number, c: Convention): number {
  const f = Math.fround;
  const scale = f(to / from);
  const at = c.half
    ? Math.round(f(f(f(i + 0.5) / scale) - 0.5))
    : c.align
      ? Math.round(to === 1 ? 0 : f(f(i * (from - 1)) / f(to - 1)))
      : Math.floor(f(i / scale));
  return Math.max(0, Math.min(from - 1, at));
}
export const resizeNearest = defineTfOp({
  name: "ResizeNearestNeighbor",
  to: ["Resize", "Transpose", "Gather", "Range", "Mul", "Add", "Sub", "Div", "Floor", "Min", "Max", "Greater", "Where", "Cast"],
  why: "a Resize where ONNX Runtime picks the same pixels, else two Gathers",
  lower: (n, b) => {
    const x = n.in(0);
    const c = conventionOf(n);
    const sizes = ([0, 1] as const).map((side) => ({ from: dimOf(b, x, side + 1), to: wanted(b, n.in(1), side), axis: side + 1 }));
    const alike = sizes.every(
      ({ from, to }) =>
        typeof from === "number" &&
        typeof to === "number" &&
        to <= MOST &&
        upTo(to).every((i) => nearestIndex(i, from, to, c) === runtimeIndex(i, from, to, c)),
    );
    if (alike && (x.dtype === "float32" || x.dtype === "float16")) {
      const first = b.toChannelsFirst(x);
      const to = shapeFrom(b, [dimOf(b, first, 0), dimOf(b, first, 1), ...sizes.map((s) => s.to)]);
      const spelling = c.align
        ? { coordinate_transformation_mode: "align_corners", nearest_mode: "round_prefer_ceil" }
        : c.half
          ? { coordinate_transformation_mode: "half_pixel", nearest_mode: "round_prefer_ceil" }
          : { coordinate_transformation_mode: "asymmetric", nearest_mode: "floor" };
      return b.toChannelsLast(b.op("Resize", [first, undefined, undefined, to], { mode: "nearest", ...spelling }));
    }
    let y = x;
    for (const { from, to, axis } of sizes) {
      if (typeof from === "number" && typeof to === "number" && to <= MOST) {
        y = b.gather(y, b.int64(upTo(to).map((i) => nearestIndex(i, from, to, c))), axis);
        continue;
      }
      const scale = scaleOf(b, from, to, c.align);
      const i = b.cast(counting(b, to), "float32");
      const half = b.scalar("float32", 0.5);
      const at = c.half ? b.mul(b.add(i, half), scale) : c.align ? b.add(b.mul(i, scale), half) : b.mul(i, scale);
      const last = b.sub(float(b, from), b.scalar("float32", 1));
      const held = b.op("Max", [b.op("Min", [b.op("Floor", [at]), last]), b.scalar("float32", 0)]);
      y = b.gather(y, b.cast(held, "int64"), axis);
    }
    return y;
  },
});

/** How much of every source pixel [in] each result [out] covers, of a whole of `scale`. The last pixel stands for everything behind it, too. */
function areaWeights(b: TfBuilder, from: number | Val, to: number | Val, align: boolean): Val {
  const scale = scaleOf(b, from, to, align);
  const i = b.unsqueeze(b.cast(counting(b, to), "float32"), [1]);
  const [start, end] = [b.mul(i, scale), b.mul(b.add(i, b.scalar("float32", 1)), scale)];
  const pixel = b.unsqueeze(b.cast(counting(b, from), "float32"), [0]);
  const next = b.add(pixel, b.scalar("float32", 1));
  const open = b.where(b.op("GreaterOrEqual", [next, float(b, from)]), b.scalar("float32", 1e9), next);
  const covered = b.sub(b.op("Min", [open, end]), b.op("Max", [pixel, start]));
  return b.div(b.op("Max", [covered, b.scalar("float32", 0)]), scale);
}
/**
 * Four neighbours weighted by a cubic of a = -0.75, read from a table of 1024 steps, so that distances are rounded to those. With half-pixel
 * centres a = -0.5 (Keys), and neighbours outside the image count nothing.
 */
function cubicWeights(b: TfBuilder, from: number | Val, to: number | Val, c: Convention): Val {
  const k = (v: number): Val => b.scalar("float32", v);
  const a = c.half ? -0.5 : -0.75;
  const at = places(b, from, to, c);
  const low = b.op("Floor", [at]);
  const steps = k(1024);
  const d = b.div(b.op("Round", [b.mul(b.sub(at, low), steps)]), steps);
  const polynomial = (x: Val, ...coefficients: readonly number[]): Val =>
    coefficients.slice(1).reduce((y, v) => b.add(b.mul(y, x), k(v)), k(coefficients[0] ?? 0));
  const near = (x: Val): Val => polynomial(x, a + 2, -(a + 3), 0, 1);
  const far = (x: Val): Val => polynomial(x, a, -5 * a, 8 * a, -4 * a);
  const one = k(1);
  const weights = [far(b.add(d, one)), near(d), near(b.sub(one, d)), far(b.sub(k(2), d))];
  const last = b.sub(float(b, from), one);
  const pixel = b.unsqueeze(b.cast(counting(b, from), "float32"), [0]);
  let sum: Val | undefined;
  weights.forEach((weight, j) => {
    const place = b.add(low, k(j - 1));
    const bound = c.half ? place : b.op("Max", [b.op("Min", [place, last]), k(0)]);
    const part = b.where(b.op("Equal", [b.unsqueeze(bound, [1]), pixel]), b.unsqueeze(weight, [1]), k(0));
    sum = sum === undefined ? part : b.add(sum, part);
  });
  if (sum === undefined) throw new Error("a cubic has four weights");
  return c.half ? b.div(sum, b.op("ReduceSum", [sum, b.int64([1])], { keepdims: true })) : sum;
}
const byWeights = (name: string, weights: (b: TfBuilder, from: number | Val, to: number | Val, c: Convention) => Val) =>
  defineTfOp({
    name,
    to: [
      "MatMul",
      "Reshape",
      "Range",
      "Mul",
      "Add",
      "Sub",
      "Div",
      "Min",
      "Max",
      "Floor",
      "Round",
      "Where",
      "Equal",
      "Greater",
      "GreaterOrEqual",
      "ReduceSum",
      "Cast",
    ],
    why: "two matrix products by the weights of rows and columns",
    lower: (n, b) => {
      const x = b.cast(n.in(0), "float32");
      const c = conventionOf(n);
      const [h, w] = [wanted(b, n.in(1), 0), wanted(b, n.in(1), 1)];
      return mixed(b, x, weights(b, dimOf(b, x, 1), h, c), weights(b, dimOf(b, x, 2), w, c), h, w);
    },
  });
export const resizeArea = byWeights("ResizeArea", (b, from, to, c) => areaWeights(b, from, to, c.align));
export const resizeBicubic = byWeights("ResizeBicubic", cubicWeights);

/** Kernels of ScaleAndTranslate: their radius and their weight at a distance. */
const kernels: Readonly<Record<string, { readonly radius: number; readonly at: (x: number) => number }>> = {
  lanczos1: { radius: 1, at: (x) => lanczos(x, 1) },
  lanczos3: { radius: 3, at: (x) => lanczos(x, 3) },
  lanczos5: { radius: 5, at: (x) => lanczos(x, 5) },
  gaussian: { radius: 1.5, at: (x) => Math.exp((-x * x) / (2 * 0.5 * 0.5)) },
  box: { radius: 1, at: (x) => (x < 0.5 ? 1 : x === 0.5 ? 0.5 : 0) },
  triangle: { radius: 1, at: (x) => Math.max(0, 1 - x) },
  keyscubic: { radius: 2, at: (x) => (x >= 2 ? 0 : x >= 1 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : (1.5 * x - 2.5) * x * x + 1) },
  mitchellcubic: {
    radius: 2,
    at: (x) => (x >= 2 ? 0 : x >= 1 ? (((-7 / 18) * x + 2) * x - 10 / 3) * x + 16 / 9 : ((7 / 6) * x - 2) * x * x + 8 / 9),
  },
};
function lanczos(x: number, radius: number): number {
  if (x > radius) return 0;
  if (x <= 1e-3) return 1;
  return (radius * Math.sin(Math.PI * x) * Math.sin((Math.PI * x) / radius)) / (Math.PI * Math.PI * x * x);
}
/** Weights of the pixels under the kernel, which widens where the image shrinks (antialiasing); they sum to 1. */
function spanWeights(
  from: number,
  to: number,
  scale: number,
  shift: number,
  kernel: { readonly radius: number; readonly at: (x: number) => number },
  antialias: boolean,
): number[] {
  const inverse = 1 / scale;
  const width = antialias ? Math.max(inverse, 1) : 1;
  const out = new Array<number>(from * to).fill(0);
  for (let i = 0; i < to; i++) {
    const centre = (i + 0.5) * inverse - inverse * shift;
    if (centre < 0 || centre > from) continue;
    const reach = kernel.radius * width;
    const [start, end] = [Math.max(0, Math.ceil(centre - reach - 0.5)), Math.min(from - 1, Math.floor(centre + reach - 0.5))];
    let total = 0;
    for (let j = start; j <= end; j++) {
      const weight = kernel.at(Math.abs((j + 0.5 - centre) / width));
      out[i * from + j] = weight;
      total += weight;
    }
    if (Math.abs(total) >= 1e-30) for (let j = start; j <= end; j++) out[i * from + j] = (out[i * from + j] ?? 0) / total;
  }
  return out;
}
export const scaleAndTranslate = defineTfOp({
  name: "ScaleAndTranslate",
  to: ["MatMul", "Reshape", "Cast"],
  why: "two matrix products by the weights of rows and columns",
  lower: (n, b) => {
    const x = b.cast(n.in(0), "float32");
    const [height, width] = b.numbers(n.in(1), "the size");
    const [scales, shifts] = [floats(n, n.in(2)), floats(n, n.in(3))];
    const [from, across] = [x.shape?.[1], x.shape?.[2]];
    bounded(n, Math.max(height ?? 0, width ?? 0), MOST, "the size of its result");
    const kernel = kernels[n.string("kernel_type", "lanczos3")];
    if (kernel === undefined) return n.refuse(`its kernel '${n.string("kernel_type")}' is not known`);
    if (height === undefined || width === undefined || from === undefined || across === undefined || !isStatic(from) || !isStatic(across))
      return n.refuse("the image's size is not known at compile time", "give the graph's inputs shapes");
    bounded(n, Math.max(from * height, across * width), 1 << 24, "the weights of its rows or columns");
    const matrix = (side: 0 | 1, size: number, to: number): Val =>
      b.const("float32", [to, size], spanWeights(size, to, scales[side] ?? 1, shifts[side] ?? 0, kernel, n.bool("antialias", true)));
    return mixed(b, x, matrix(0, from, height), matrix(1, across, width), height, width);
  },
});
function floats(n: TfNode, x: Val): readonly number[] {
  const c = x.constant;
  if (c === undefined || c.dtype !== "float32" || c.dims.length !== 1 || c.dims[0] !== 2)
    return n.refuse("its scale or translation is not known at compile time", "make it a constant");
  return Array.from(typedOf(c) as ArrayLike<number>);
}
