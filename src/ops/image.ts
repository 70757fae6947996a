/** Resampling: Resize, GridSample, AffineGrid, RoiAlign, Col2Im, ImageDecoder. */

import { no, yes } from "../diagnostics.js";
import { floorDiv, isStatic, mul, UNKNOWN } from "../ir/dims.js";
import { smallNumbers } from "../ir/payload.js";
import type { Attr, Dim, ValueId } from "../ir/types.js";
import { all, attribute, FLOATS64, hostOnly, on, spatialDims, when } from "./answers.js";
import {
  absent,
  defineOp,
  dtypeOf,
  flag,
  float,
  int,
  optInts,
  optional,
  type RawNode,
  type Rewriter,
  shapeOf,
  tensor,
  word,
} from "./define.js";
import { aInt, aText, fed, given, ints64, random } from "./samples.js";
import { axisOf, elementsOf, fact, perOutput, unknownDims } from "./shapes.js";

const text = (value: string): Attr => ({ kind: "string", value });
/** Upsample (7 to 9) and Resize 10 sampled asymmetrically, nearest rounding down; ONNX Runtime's Resize 10 rounds up along what it shrinks. */
function asymmetric(n: RawNode, to: Rewriter): void {
  const scales = n.attrs["scales"];
  const list = (values: readonly number[]) =>
    to.constant({
      dtype: "float32",
      dims: [values.length],
      data: { kind: "bytes", bytes: new Uint8Array(Float32Array.from(values).buffer) },
    });
  const mode = n.attrs["mode"];
  const [w, h] = [n.attrs["width_scale"], n.attrs["height_scale"]];
  const given =
    scales?.kind === "floats" ? list(scales.value) : w?.kind === "float" && h?.kind === "float" ? list([1, 1, h.value, w.value]) : n.ins[1];
  const name = mode?.kind === "string" && mode.value !== "nearest" ? "linear" : "nearest";
  const resized = (x: ValueId | undefined, by: ValueId | undefined, rounding: string, outs: readonly (ValueId | undefined)[] | number) =>
    to.emit(
      "Resize",
      [x, undefined, by],
      { coordinate_transformation_mode: text("asymmetric"), mode: text(name), nearest_mode: text(rounding) },
      outs,
    );
  const factors = name === "nearest" && n.op === "Resize" ? (smallNumbers(to.constantOf(given)) ?? []) : [];
  const shrinks = factors.some((f) => f < 1);
  if (!shrinks || !factors.some((f) => f > 1)) resized(n.ins[0], given, shrinks ? "ceil" : "floor", n.outs);
  else {
    const [smaller] = resized(n.ins[0], list(factors.map((f) => Math.min(f, 1))), "ceil", 1);
    resized(smaller, list(factors.map((f) => Math.max(f, 1))), "floor", n.outs);
  }
}
/** CUDA's kernels take a whole factor for a plain division, and compute the offset of half_pixel_symmetric in other steps than ONNX Runtime. */
const sureNearest = when("nearest: tf_half_pixel_for_nn rounding down, no half_pixel_symmetric", (at) => {
  const { mode, coordinate_transformation_mode: how, nearest_mode: rounding } = at.attrs as Readonly<Record<string, unknown>>;
  if (mode !== "nearest") return yes;
  if (how === "half_pixel_symmetric") return no("the nearest pixels by half_pixel_symmetric have no kernel", "sample by half_pixel");
  return how !== "tf_half_pixel_for_nn" || rounding === "floor"
    ? yes
    : no(`the nearest pixels by tf_half_pixel_for_nn have no kernel that rounds by ${rounding}`, "set nearest_mode to floor");
});
export const resize = defineOp({
  name: "Resize",
  doc: "Resamples to new sizes or by scales: nearest, linear or cubic, with ONNX's coordinate conventions.",
  reads: { onnx: [{ op: "Upsample", since: 1, adapt: asymmetric }, { since: 10, adapt: asymmetric }, { since: 11 }] },
  in: { x: tensor("T"), roi: optional(), scales: optional(), sizes: optional("int64") },
  out: { y: tensor("T") },
  attrs: {
    antialias: flag(false),
    axes: optInts(),
    coordinate_transformation_mode: word(
      "half_pixel",
      "half_pixel",
      "half_pixel_symmetric",
      "pytorch_half_pixel",
      "align_corners",
      "asymmetric",
      "tf_half_pixel_for_nn",
      "tf_crop_and_resize",
    ),
    cubic_coeff_a: float(-0.75),
    exclude_outside: flag(false),
    extrapolation_value: float(0),
    keep_aspect_ratio_policy: word("stretch", "stretch", "not_larger", "not_smaller"),
    mode: word("nearest", "nearest", "linear", "cubic"),
    nearest_mode: word("round_prefer_floor", "round_prefer_floor", "round_prefer_ceil", "floor", "ceil"),
  },
  role: "compute",
  infer: (at) => {
    const x = shapeOf(at.in.x);
    if (x === undefined) return [fact(dtypeOf(at.in.x), undefined)];
    const axes = (at.attrs.axes ?? x.map((_, i) => i)).map((a) => axisOf(a, x.length) ?? 0);
    const out: Dim[] = [...x];
    const sizes = elementsOf(at.in.sizes);
    const scales = smallNumbers(at.in.scales?.constant);
    if (at.in.sizes !== undefined && (shapeOf(at.in.sizes)?.[0] ?? 1) !== 0) {
      const whole = at.attrs.keep_aspect_ratio_policy === "stretch";
      const numbers = axes.map((a, i) => [x[a], sizes?.[i]] as const);
      if (sizes === undefined) return [fact(dtypeOf(at.in.x), unknownDims(x.length))];
      if (whole)
        axes.forEach((a, i) => {
          out[a] = sizes[i] ?? UNKNOWN;
        });
      else {
        const known = numbers.every(([d, s]) => typeof d === "number" && typeof s === "number");
        const ratios = numbers.map(([d, s]) => Number(s) / Number(d));
        const r = at.attrs.keep_aspect_ratio_policy === "not_larger" ? Math.min(...ratios) : Math.max(...ratios);
        for (const a of axes) out[a] = known ? Math.floor(Number(x[a]) * r + 0.5) : UNKNOWN;
      }
    } else if (scales !== undefined && scales.length === axes.length) {
      axes.forEach((a, i) => {
        const [d, s] = [x[a] ?? UNKNOWN, Math.fround(scales[i] ?? 1)];
        out[a] = isStatic(d)
          ? Math.floor(Math.fround(d * s))
          : Number.isInteger(s)
            ? mul(d, s)
            : Number.isInteger(1 / s)
              ? floorDiv(d, 1 / s)
              : UNKNOWN;
      });
    } else return [fact(dtypeOf(at.in.x), unknownDims(x.length))];
    return [fact(dtypeOf(at.in.x), out)];
  },
  cost: perOutput(8),
  int8: absent("interpolation needs a scale of its own"),
  on: on(
    all(
      attribute("antialias", [false]),
      attribute("keep_aspect_ratio_policy", ["stretch"]),
      sureNearest,
      attribute("coordinate_transformation_mode", [
        "half_pixel",
        "half_pixel_symmetric",
        "pytorch_half_pixel",
        "tf_half_pixel_for_nn",
        "asymmetric",
        "align_corners",
      ]),
    ),
    all(
      attribute("antialias", [false]),
      attribute("exclude_outside", [false]),
      attribute("keep_aspect_ratio_policy", ["stretch"]),
      attribute("coordinate_transformation_mode", [
        "half_pixel",
        "pytorch_half_pixel",
        "tf_half_pixel_for_nn",
        "asymmetric",
        "align_corners",
      ]),
    ),
  ),
  *samples() {
    const x = random("float32", 1, 2, 4, 5);
    yield { name: "nearest x2", in: { x, scales: given("float32", [4], [1, 1, 2, 2]) } };
    yield { name: "linear to size", in: { x, sizes: ints64(1, 2, 7, 3) }, attrs: { mode: aText("linear") } };
    yield {
      name: "aligned corners",
      in: { x, sizes: ints64(1, 2, 8, 10) },
      attrs: { mode: aText("linear"), coordinate_transformation_mode: aText("align_corners") },
    };
    yield { name: "cubic", in: { x, scales: given("float32", [4], [1, 1, 1.5, 1.5]) }, attrs: { mode: aText("cubic") } };
    yield {
      name: "floor, asymmetric",
      in: { x, scales: given("float32", [4], [1, 1, 0.6, 2.5]) },
      attrs: { coordinate_transformation_mode: aText("asymmetric"), nearest_mode: aText("floor") },
    };
  },
});

/** Opset 16 named the modes after images. */
function gridModes(n: RawNode, to: Rewriter): void {
  const mode = n.attrs["mode"];
  const name = mode?.kind === "string" ? mode.value : "bilinear";
  to.emit(
    "GridSample",
    n.ins,
    { ...n.attrs, mode: text(name === "bilinear" ? "linear" : name === "bicubic" ? "cubic" : String(name)) },
    n.outs,
  );
}
export const gridSample = defineOp({
  name: "GridSample",
  doc: "Samples x at the normalised positions of a grid.",
  reads: { onnx: [{ since: 16, adapt: gridModes }, { since: 20 }] },
  in: { x: tensor("T"), grid: tensor("G") },
  out: { y: tensor("T") },
  types: { G: FLOATS64 },
  attrs: {
    align_corners: flag(false),
    mode: word("linear", "linear", "nearest", "cubic"),
    padding_mode: word("zeros", "zeros", "border", "reflection"),
  },
  role: "compute",
  infer: (at) => {
    const [x, g] = [shapeOf(at.in.x), shapeOf(at.in.grid)];
    return [fact(dtypeOf(at.in.x), x === undefined || g === undefined ? undefined : [x[0] ?? UNKNOWN, x[1] ?? UNKNOWN, ...g.slice(1, -1)])];
  },
  cost: perOutput(16),
  int8: absent("interpolation needs a scale of its own"),
  on: on(all(spatialDims(2, 2), attribute("mode", ["linear", "nearest"], "sample linearly")), spatialDims(2, 2)),
  *samples() {
    yield { name: "linear", in: { x: random("float32", 1, 2, 4, 4), grid: random("float32", 1, 3, 5, 2) } };
    yield {
      name: "nearest, border",
      in: { x: random("float32", 2, 1, 5, 4), grid: random("float32", 2, 3, 3, 2) },
      attrs: { mode: aText("nearest"), padding_mode: aText("border"), align_corners: aInt(1) },
    };
    yield {
      name: "linear, reflected",
      in: { x: random("float32", 1, 2, 4, 5), grid: random("float32", 1, 4, 4, 2) },
      attrs: { padding_mode: aText("reflection") },
    };
  },
});
export const affineGrid = defineOp({
  name: "AffineGrid",
  doc: "A grid of sampling positions from affine matrices.",
  reads: { onnx: [{ since: 20 }] },
  in: { theta: tensor("T"), size: tensor("int64") },
  out: { grid: tensor("T") },
  types: { T: FLOATS64 },
  attrs: { align_corners: flag(false) },
  role: "compute",
  infer: (at) => {
    const s = elementsOf(at.in.size);
    const rank = shapeOf(at.in.size)?.[0];
    return [
      fact(
        dtypeOf(at.in.theta),
        s !== undefined ? [s[0] ?? UNKNOWN, ...s.slice(2), s.length - 2] : typeof rank === "number" ? unknownDims(rank) : undefined,
      ),
    ];
  },
  cost: perOutput(6),
  int8: absent("positions need float"),
  on: hostOnly("grids have no kernel"),
  *samples() {
    yield { name: "plane", in: { theta: random("float32", 1, 2, 3), size: ints64(1, 1, 3, 4) } };
  },
});
/** Samples of one region in RoiAlign: far more than any model takes, and their weights fit into memory. */
const MOST_SAMPLES = 2 ** 24;
export const roiAlign = defineOp({
  name: "RoiAlign",
  doc: "Pools regions of interest to one size with bilinear samples.",
  reads: {
    onnx: [
      {
        since: 10,
        adapt: (n, to) =>
          void to.emit("RoiAlign", n.ins, { ...n.attrs, coordinate_transformation_mode: text("output_half_pixel") }, n.outs),
      },
      { since: 16 },
    ],
  },
  in: { x: tensor("T"), rois: tensor("T"), batch: tensor("int64") },
  out: { y: tensor("T") },
  types: { T: FLOATS64 },
  attrs: {
    coordinate_transformation_mode: word("half_pixel", "half_pixel", "output_half_pixel"),
    mode: word("avg", "avg", "max"),
    output_height: int(1),
    output_width: int(1),
    sampling_ratio: int(0),
    spatial_scale: float(1),
  },
  role: "compute",
  infer: (at) => {
    const { output_height: height, output_width: width, sampling_ratio: ratio } = at.attrs;
    // ONNX Runtime counts a region's samples without looking for an overflow, and ends the process then.
    const samples = height * width * Math.max(1, ratio) ** 2;
    if (ratio < 0 || !(samples <= MOST_SAMPLES))
      at.fail(
        `sampling_ratio ${ratio} for ${height} by ${width} bins is ${ratio < 0 ? "negative" : `more than ${MOST_SAMPLES} samples of a region`}`,
        "set it where the model is made: 0 goes by the region's size, 2 is usual",
      );
    return [fact(dtypeOf(at.in.x), [shapeOf(at.in.rois)?.[0] ?? UNKNOWN, shapeOf(at.in.x)?.[1] ?? UNKNOWN, height, width])];
  },
  cost: perOutput(32),
  int8: absent("interpolation needs a scale of its own"),
  on: on(absent("region pooling has no kernel"), undefined),
  *samples() {
    yield {
      name: "one",
      in: { x: random("float32", 1, 1, 6, 6), rois: fed("float32", [1, 4], [0, 0, 4, 4]), batch: fed("int64", [1], [0]) },
      attrs: { output_height: aInt(2), output_width: aInt(2), sampling_ratio: aInt(2) },
    };
  },
});
export const col2Im = defineOp({
  name: "Col2Im",
  doc: "Adds columns of blocks back into an image.",
  reads: { onnx: [{ since: 18 }] },
  in: { x: tensor("T"), image: tensor("int64"), block: tensor("int64") },
  out: { y: tensor("T") },
  attrs: { dilations: optInts(), pads: optInts(), strides: optInts() },
  role: "compute",
  infer: (at) => {
    const [x, image, block] = [shapeOf(at.in.x), elementsOf(at.in.image), elementsOf(at.in.block)];
    const rank = shapeOf(at.in.image)?.[0];
    if (image === undefined || block === undefined)
      return [fact(dtypeOf(at.in.x), typeof rank === "number" ? unknownDims(rank + 2) : undefined)];
    return [fact(dtypeOf(at.in.x), [x?.[0] ?? UNKNOWN, floorDiv(x?.[1] ?? UNKNOWN, block.reduce<Dim>(mul, 1)), ...image])];
  },
  cost: perOutput(4),
  int8: absent("sums blocks"),
  on: hostOnly("adding blocks back has no kernel"),
  *samples() {
    yield { name: "5x5", in: { x: random("float32", 1, 5, 5), image: ints64(5, 5), block: ints64(1, 5) } };
  },
});
export const imageDecoder = defineOp({
  name: "ImageDecoder",
  doc: "Decodes an encoded image.",
  reads: { onnx: [{ since: 20 }] },
  in: { x: tensor("uint8") },
  out: { y: tensor("uint8") },
  attrs: { pixel_format: word("RGB", "RGB", "BGR", "Grayscale") },
  role: "compute",
  infer: () => [fact("uint8", [UNKNOWN, UNKNOWN, UNKNOWN])],
  cost: perOutput(100),
  int8: absent("pixels"),
  on: hostOnly("decoding belongs to the host", "feed decoded pixels"),
  *samples() {},
});
