/** Images: crops, colours, boxes drawn on them. */
import { defineTfOp, type TfBuilder, type TfNode, type Val } from "./define.js";
import { counting, dimOf, productOf, shapeFrom, upTo } from "./helpers.js";
import { compute, like } from "./kernels.js";

// ---- crops --------------------------------------------------------------------------------------------------------------------------------

/** Positions along a side of every box [m, size] in the image's pixels: spread from corner to corner, or the middle for a single one. */
function spread(b: TfBuilder, low: Val, high: Val, pixels: Val, size: Val): Val {
  const k = (v: number): Val => b.scalar("float32", v);
  const last = b.sub(pixels, k(1));
  const i = b.cast(b.op("Range", [b.int64(0), size, b.int64(1)]), "float32");
  const steps = b.sub(b.cast(size, "float32"), k(1));
  const step = b.div(b.mul(b.sub(high, low), last), b.op("Max", [steps, k(1)]));
  const many = b.add(b.mul(low, last), b.mul(i, step));
  const middle = b.mul(b.mul(k(0.5), b.add(low, high)), last);
  return b.where(b.op("Greater", [steps, k(0)]), many, middle);
}
export const cropAndResize = defineTfOp({
  name: "CropAndResize",
  to: ["Gather", "Range", "Mul", "Add", "Sub", "Div", "Floor", "Ceil", "Where", "Less", "Greater", "Or", "Min", "Max", "Reshape", "Cast"],
  lower: (n, b) => {
    const image = b.cast(n.in(0), "float32");
    const boxes = b.cast(n.in(1), "float32");
    const owner = b.cast(n.in(2), "int64");
    const side = (i: number): Val => b.cast(b.reshape(b.slice(n.in(3), [i], [i + 1], [0]), []), "int64");
    const corner = (i: number): Val => b.slice(boxes, [i], [i + 1], [1]);
    const [height, width] = [b.dim(image, 1), b.dim(image, 2)];
    const y = spread(b, corner(0), corner(2), b.cast(height, "float32"), side(0));
    const x = spread(b, corner(1), corner(3), b.cast(width, "float32"), side(1));
    const rows = b.reshape(image, shapeFrom(b, [productOf(b, image, 0, 3), dimOf(b, image, 3)]));
    // Positions outside are replaced afterwards; until then they must not reach beyond the image.
    const held = (v: Val, pixels: Val): Val => b.op("Max", [b.op("Min", [b.cast(v, "int64"), b.sub(pixels, b.int64(1))]), b.int64(0)]);
    const first = b.unsqueeze(b.mul(owner, height), [1]);
    const pixelsAt = (yi: Val, xi: Val): Val => {
      const line = b.mul(b.add(first, held(yi, height)), width);
      return b.gather(rows, b.add(b.unsqueeze(line, [2]), b.unsqueeze(held(xi, width), [1])));
    };
    const outside = (v: Val, pixels: Val): Val => {
      const last = b.sub(b.cast(pixels, "float32"), b.scalar("float32", 1));
      return b.op("Or", [b.op("Less", [v, b.scalar("float32", 0)]), b.op("Greater", [v, last])]);
    };
    const beyond = b.op("Or", [b.unsqueeze(outside(y, height), [2, 3]), b.unsqueeze(outside(x, width), [1, 3])]);
    const fill = b.scalar("float32", n.float("extrapolation_value", 0));
    if (n.string("method", "bilinear") === "nearest") {
      const half = b.scalar("float32", 0.5);
      const near = (v: Val): Val => b.op("Floor", [b.add(v, half)]);
      return b.where(beyond, fill, pixelsAt(near(y), near(x)));
    }
    const [top, left] = [b.op("Floor", [y]), b.op("Floor", [x])];
    const [bottom, right] = [b.op("Ceil", [y]), b.op("Ceil", [x])];
    const [dy, dx] = [b.unsqueeze(b.sub(y, top), [2, 3]), b.unsqueeze(b.sub(x, left), [1, 3])];
    const between = (p: Val, q: Val, d: Val): Val => b.add(p, b.mul(b.sub(q, p), d));
    const upper = between(pixelsAt(top, left), pixelsAt(top, right), dx);
    const lower = between(pixelsAt(bottom, left), pixelsAt(bottom, right), dx);
    return b.where(beyond, fill, between(upper, lower, dy));
  },
});

// ---- colours ------------------------------------------------------------------------------------------------------------------------------

const channel = (b: TfBuilder, x: Val, i: number): Val => b.slice(x, [i], [i + 1], [-1]);
/** Hue in 0..1 by the channel that is greatest, saturation, value; grey has hue 0. */
function toHsv(n: TfNode, b: TfBuilder, x: Val): readonly [h: Val, s: Val, v: Val] {
  const k = compute(n, b);
  const c = (value: number): Val => like(n, b, x, value);
  const [red, green, blue] = [channel(b, x, 0), channel(b, x, 1), channel(b, x, 2)];
  const v = k("Max", [k("Max", [red, green]), blue]);
  const range = k("Sub", [v, k("Min", [k("Min", [red, green]), blue])]);
  const coloured = k("Greater", [range, c(0)]);
  const s = k("Where", [k("Greater", [v, c(0)]), k("Div", [range, k("Where", [k("Greater", [v, c(0)]), v, c(1)])]), c(0)]);
  const norm = k("Div", [c(1 / 6), k("Where", [coloured, range, c(1)])]);
  const part = (p: Val, q: Val, add: number): Val => k("Add", [k("Mul", [norm, k("Sub", [p, q])]), c(add)]);
  const other = k("Where", [k("Equal", [green, v]), part(blue, red, 2 / 6), part(red, green, 4 / 6)]);
  const raw = k("Where", [coloured, k("Where", [k("Equal", [red, v]), part(green, blue, 0), other]), c(0)]);
  return [k("Where", [k("Less", [raw, c(0)]), k("Add", [raw, c(1)]), raw]), s, v];
}
function toRgb(n: TfNode, b: TfBuilder, h: Val, s: Val, v: Val): Val {
  const k = compute(n, b);
  const grey = k("Sub", [like(n, b, h, 1), s]);
  const colours = ramps(n, b, h).map((r) => k("Mul", [k("Add", [grey, k("Mul", [s, r])]), v]));
  return b.op("Concat", colours, { axis: -1 });
}
/** How far red, green and blue lie between the least and the greatest channel, by hue. */
function ramps(n: TfNode, b: TfBuilder, h: Val): readonly Val[] {
  const k = compute(n, b);
  const c = (value: number): Val => like(n, b, h, value);
  const six = k("Mul", [h, c(6)]);
  const ramp = (middle: number, sign: 1 | -1, add: number): Val => {
    const distance = k("Abs", [k("Sub", [six, c(middle)])]);
    return k("Clip", [k("Add", [sign === 1 ? distance : k("Neg", [distance]), c(add)]), c(0), c(1)]);
  };
  return [ramp(3, 1, -1), ramp(2, -1, 2), ramp(4, -1, 2)];
}
const COLOURS = [
  "Slice",
  "Max",
  "Min",
  "Sub",
  "Div",
  "Mul",
  "Add",
  "Where",
  "Greater",
  "Less",
  "Equal",
  "Clip",
  "Abs",
  "Neg",
  "Concat",
  "Floor",
  "ReduceMin",
];
export const rgbToHsv = defineTfOp({ name: "RGBToHSV", to: COLOURS, lower: (n, b) => b.op("Concat", toHsv(n, b, n.in(0)), { axis: -1 }) });
export const hsvToRgb = defineTfOp({
  name: "HSVToRGB",
  to: COLOURS,
  lower: (n, b) => toRgb(n, b, channel(b, n.in(0), 0), channel(b, n.in(0), 1), channel(b, n.in(0), 2)),
});
export const adjustHue = defineTfOp({
  name: "AdjustHue",
  to: COLOURS,
  lower: (n, b) => {
    const own = n.in(0).dtype;
    const x = b.cast(n.in(0), "float32");
    const [h, , v] = toHsv(n, b, x);
    const moved = b.add(h, b.cast(b.reshape(n.in(1), []), "float32"));
    // The least and the greatest channel stay, whatever their sign.
    const low = b.op("ReduceMin", [x, b.int64([-1])], { keepdims: true });
    const range = b.sub(v, low);
    const turned = ramps(n, b, b.sub(moved, b.op("Floor", [moved]))).map((r) => b.add(low, b.mul(r, range)));
    return b.cast(b.op("Concat", turned, { axis: -1 }), own);
  },
});
export const adjustSaturation = defineTfOp({
  name: "AdjustSaturation",
  to: COLOURS,
  lower: (n, b) => {
    const own = n.in(0).dtype;
    const [h, s, v] = toHsv(n, b, b.cast(n.in(0), "float32"));
    const scaled = b.mul(s, b.cast(b.reshape(n.in(1), []), "float32"));
    return b.cast(toRgb(n, b, h, b.op("Clip", [scaled, b.scalar("float32", 0), b.scalar("float32", 1)]), v), own);
  },
});
export const adjustContrast = defineTfOp({
  name: "AdjustContrastv2",
  to: ["ReduceMean", "Sub", "Mul", "Add"],
  lower: (n, b) => {
    const own = n.in(0).dtype;
    const x = b.cast(n.in(0), "float32");
    const mean = b.op("ReduceMean", [x, b.int64([-3, -2])], { keepdims: true });
    return b.cast(b.add(b.mul(b.sub(x, mean), b.cast(n.in(1), "float32")), mean), own);
  },
});

// ---- boxes --------------------------------------------------------------------------------------------------------------------------------

/** The colours boxes get in turn, red, green, blue, opaque. */
const TURN: readonly (readonly [number, number, number, number])[] = [
  [1, 1, 0, 1],
  [0, 0, 1, 1],
  [1, 0, 0, 1],
  [0, 1, 0, 1],
  [0.5, 0, 0.5, 1],
  [0.5, 0.5, 0, 1],
  [0.5, 0, 0, 1],
  [0, 0, 0.5, 1],
  [0, 1, 1, 1],
  [1, 0, 1, 1],
];
const MAX_BOXES = 256;
export const drawBoundingBoxes = defineTfOp({
  names: ["DrawBoundingBoxes", "DrawBoundingBoxesV2"],
  to: ["Sub", "Slice", "Mul", "Cast", "Equal", "And", "Or", "LessOrEqual", "GreaterOrEqual", "Less", "Where", "Range"],
  lower: (n, b) => {
    const images = n.in(0);
    const boxes = b.cast(n.in(1), "float32");
    const [count, depth] = [boxes.shape?.[1], images.shape?.[3]];
    if (typeof count !== "number" || typeof depth !== "number") return n.refuse("the number of its boxes or channels is not known");
    if (count > MAX_BOXES) return n.refuse(`it draws ${count} boxes, one after the other`, `draw at most ${MAX_BOXES} boxes`);
    const given = n.ins.length > 2 && n.in(2).shape?.includes(0) !== true ? b.cast(n.in(2), images.dtype) : undefined;
    const table = given === undefined ? TURN.length : given.shape?.[0];
    if (typeof table !== "number") return n.refuse("the number of its colours is not known");
    const [height, width] = [b.dim(images, 1), b.dim(images, 2)];
    const [rows, cols] = [b.unsqueeze(counting(b, height), [1]), b.unsqueeze(counting(b, width), [0])];
    const zero = b.int64(0);
    let y = images;
    for (const i of upTo(count)) {
      const box = b.slice(boxes, [i], [i + 1], [1]);
      const edge = (side: number, size: Val): Val => {
        const at = b.mul(b.slice(box, [side], [side + 1], [2]), b.cast(b.sub(size, b.int64(1)), "float32"));
        return b.cast(at, "int64");
      };
      const [top, left, bottom, right] = [edge(0, height), edge(1, width), edge(2, height), edge(3, width)];
      const within = (v: Val, low: Val, high: Val): Val => b.op("And", [b.op("GreaterOrEqual", [v, low]), b.op("LessOrEqual", [v, high])]);
      const on = (v: Val, p: Val, q: Val): Val => b.op("Or", [b.op("Equal", [v, p]), b.op("Equal", [v, q])]);
      const horizontal = b.op("And", [on(rows, top, bottom), within(cols, left, right)]);
      const vertical = b.op("And", [on(cols, left, right), within(rows, top, bottom)]);
      const sane = b.op("And", [b.op("LessOrEqual", [top, bottom]), b.op("LessOrEqual", [left, right])]);
      const inside = b.op("And", [
        b.op("And", [b.op("Less", [top, height]), b.op("Less", [left, width])]),
        b.op("And", [b.op("GreaterOrEqual", [bottom, zero]), b.op("GreaterOrEqual", [right, zero])]),
      ]);
      const drawn = b.op("And", [b.op("And", [sane, inside]), b.op("Or", [horizontal, vertical])]);
      const colour =
        given === undefined
          ? constantColour(n, b, images, depth, i)
          : b.reshape(b.slice(given, [i % table, 0], [(i % table) + 1, depth], [0, 1]), [depth]);
      y = compute(n, b)("Where", [b.unsqueeze(drawn, [3]), colour, y]);
    }
    return y;
  },
});
function constantColour(n: TfNode, b: TfBuilder, like_: Val, depth: number, i: number): Val {
  const colour = TURN[i % TURN.length] ?? [1, 1, 1, 1];
  if (depth > 4) return n.refuse(`it draws on ${depth} channels without a table of colours`);
  return b.cast(b.const("float32", [depth], depth === 1 ? [1] : colour.slice(0, depth)), like_.dtype);
}
export const imageFiles = defineTfOp({
  names: [
    "DecodeJpeg",
    "DecodePng",
    "DecodeBmp",
    "DecodeGif",
    "DecodeImage",
    "DecodeAndCropJpeg",
    "DecodeWebP",
    "EncodeJpeg",
    "EncodeJpegVariableQuality",
    "EncodePng",
    "ExtractJpegShape",
  ],
  absent: "image files are not decoded or encoded inside a graph",
  fix: "decode the image in your program and cut the graph behind this node with `inputs`",
});
export const randomCrops = defineTfOp({
  names: ["RandomCrop", "SampleDistortedBoundingBox", "SampleDistortedBoundingBoxV2", "StatelessSampleDistortedBoundingBox"],
  random: true,
  absent: "it draws random crops, for training",
  fix: "export the model for inference",
});
export const warps = defineTfOp({
  names: ["ImageProjectiveTransformV2", "ImageProjectiveTransformV3", "ExtractGlimpse", "ExtractGlimpseV2"],
  absent: "ONNX has no operator that samples like it",
  fix: "do it in your program and cut the graph with `inputs`",
});
