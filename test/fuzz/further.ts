/** Further patterns of random graphs: windows, indices, sampling, scatters and masks with the attributes that exporters seldom write. */
import type { Attr, ValueId } from "../../src/ir/types.js";
import { type Builder, count, float, int, ints, LARGEST, type Pattern, text } from "./builder.js";

const image = (b: Builder, least = 3, most = LARGEST) =>
  b.operand((v) => v.dims.length === 4 && (v.dims[2] as number) >= least && (v.dims[3] as number) >= least && count(v.dims) < most);

/** Pools with pads, dilations and windows that hang over the end; norms of windows and of channels. */
const windows: Pattern = (b) => {
  const x = image(b);
  if (x === undefined) return false;
  const [n, c, h, w] = x.dims as [number, number, number, number];
  if (b.chance(0.25)) {
    b.keep(b.one("LRN", [x.id], { size: int(b.pick([1, 3, 5])), alpha: float(0.5), bias: float(b.pick([1, 2])) }), x.dims, x.open);
    return true;
  }
  const op = b.pick(["MaxPool", "AveragePool", "LpPool"]);
  const kernel = [b.pick([1, 2, 3]), b.pick([2, 3])];
  const [strides, dilations] = [
    [b.pick([1, 2]), b.pick([1, 2, 3])],
    [b.pick([1, 2]), b.pick([1, 2])],
  ];
  const pads = [0, 1, 2, 3].map((i) => b.below(Math.min(2, kernel[i % 2] as number)));
  const out = [h, w].map(
    (d, i) =>
      Math.floor(
        (d + (pads[i] as number) + (pads[i + 2] as number) - (dilations[i] as number) * ((kernel[i] as number) - 1) - 1) /
          (strides[i] as number),
      ) + 1,
  );
  if (out.some((d) => d < 1)) return false;
  const attrs: Record<string, Attr> = {
    kernel_shape: ints(...kernel),
    strides: ints(...strides),
    dilations: ints(...dilations),
    pads: ints(...pads),
  };
  if (op === "AveragePool") attrs["count_include_pad"] = int(b.below(2));
  if (op === "LpPool") attrs["p"] = int(b.pick([1, 2]));
  b.keep(b.one(op, [x.id], attrs), [n, c, ...out], x.open);
  return true;
};
/** Transposed convolutions of groups, dilations and uneven pads, of one to three dims. */
const transposedConvolution: Pattern = (b) => {
  const x = b.operand((v) => v.dims.length >= 3 && v.dims.length <= 5 && count(v.dims) < LARGEST / 32);
  if (x === undefined) return false;
  const [n, c, ...space] = x.dims as [number, number, ...number[]];
  const groups = b.pick([1, c, c % 2 === 0 ? 2 : 1]);
  const m = b.pick([1, 2]);
  const kernel = space.map(() => b.pick([1, 2, 3]));
  const strides = space.map(() => b.pick([1, 2, 3]));
  const dilations = space.map(() => b.pick([1, 1, 2]));
  const pads = [...space, ...space].map(() => b.below(2));
  const extra = strides.map((s) => b.below(s));
  const out = space.map(
    (d, i) =>
      (strides[i] as number) * (d - 1) +
      (extra[i] as number) +
      ((kernel[i] as number) - 1) * (dilations[i] as number) +
      1 -
      (pads[i] as number) -
      (pads[i + space.length] as number),
  );
  if (out.some((d) => d < 1) || n * m * groups * count(out) > LARGEST) return false;
  const ins = [x.id, b.weights([c, m, ...kernel], (c / groups) * count(kernel)), ...(b.chance(0.5) ? [b.weights([m * groups])] : [])];
  const y = b.one("ConvTranspose", ins, {
    kernel_shape: ints(...kernel),
    strides: ints(...strides),
    dilations: ints(...dilations),
    pads: ints(...pads),
    output_padding: ints(...extra),
    group: int(groups),
  });
  b.keep(y, [n, m * groups, ...out], x.open);
  return true;
};
const dilatedConvolution: Pattern = (b) => {
  const x = image(b, 5);
  if (x === undefined) return false;
  const [n, c, h, w] = x.dims as [number, number, number, number];
  const m = b.pick([1, 3, 5]);
  const auto = b.pick(["SAME_UPPER", "SAME_LOWER", "VALID"]);
  // ONNX Runtime dilates only where it does not pad by itself.
  const [dilation, stride] = [auto === "VALID" ? 2 : 1, b.pick([1, 2, 3])];
  const extent = 2 * dilation + 1;
  const out = [h, w].map((d) => (auto === "VALID" ? Math.floor((d - extent) / stride) + 1 : Math.ceil(d / stride)));
  const attrs = {
    kernel_shape: ints(3, 3),
    strides: ints(stride, stride),
    dilations: ints(dilation, dilation),
    auto_pad: text(auto),
  };
  if (out.some((d) => d < 1)) return false;
  b.keep(b.one("Conv", [x.id, b.weights([m, c, 3, 3], 9 * c)], attrs), [n, m, ...out], x.open);
  return true;
};
/** Every way to resize that is not all noise at borders. */
const resizing: Pattern = (b) => {
  const x = image(b, 2, LARGEST / 9);
  if (x === undefined) return false;
  const [n, c, h, w] = x.dims as [number, number, number, number];
  const mode = b.pick(["nearest", "linear", "cubic"]);
  const attrs: Record<string, Attr> = {
    mode: text(mode),
    coordinate_transformation_mode: text(b.pick(["asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel"])),
  };
  if (mode === "nearest") attrs["nearest_mode"] = text(b.pick(["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]));
  if (mode === "cubic") {
    attrs["cubic_coeff_a"] = float(b.pick([-0.75, -0.5]));
    if (b.chance(0.3)) attrs["exclude_outside"] = int(1);
  }
  if (b.chance(0.5)) {
    const [up, across] = [b.pick([1, 2, 0.5, 3]), b.pick([1, 2, 1.5])];
    const dims = [n, c, Math.floor(h * up), Math.floor(w * across)];
    const scales = b.one("Constant", [], { value_floats: { kind: "floats", value: [1, 1, up, across] } });
    b.keep(b.one("Resize", [x.id, undefined, scales], attrs), dims, x.open);
  } else {
    const dims = [b.pick([h, h + 3, 2 * h, Math.ceil(h / 2)]), b.pick([w, w + 1, 2 * w])];
    attrs["axes"] = ints(2, 3);
    b.keep(b.one("Resize", [x.id, undefined, undefined, b.int64(...dims)], attrs), [n, c, ...dims], x.open);
  }
  return true;
};
/** Elements by constant indices, taken and put. */
const byIndex: Pattern = (b) => {
  const x = b.operand((v) => v.dims.length >= 2 && (v.dims[v.dims.length - 1] as number) >= 2 && count(v.dims) < LARGEST / 2);
  if (x === undefined) return false;
  const rank = x.dims.length;
  const d = x.dims[rank - 1] as number;
  const form = x.open ? 2 + b.below(2) : b.below(4);
  if (form === 0) {
    const k = 1 + b.below(d);
    const dims = [...x.dims.slice(0, -1), k];
    b.keep(b.one("GatherElements", [x.id, b.indices(dims, d)], { axis: int(-1) }), dims, x.open);
  } else if (form === 1) {
    // Places that are met once, so that their order does not matter.
    const rows = x.dims.slice(0, -1);
    const updates = b.weights([...rows, 1]);
    const reduction = b.pick(["none", "add", "mul", "max"]);
    const y = b.one("ScatterElements", [x.id, b.indices([...rows, 1], d), updates], { axis: int(-1), reduction: text(reduction) });
    b.keep(y, x.dims, x.open);
  } else if (form === 2) {
    const at = Array.from({ length: 2 }, () => b.below(d));
    b.keep(b.one("Gather", [x.id, b.int64(...at)], { axis: int(rank - 1) }), [...x.dims.slice(0, -1), 2], x.open);
  } else {
    if (x.open) return false;
    const lengths = b.int64(...x.dims.slice(0, 1).flatMap((n) => Array.from({ length: n }, () => 1 + b.below(x.dims[1] as number))));
    b.keep(b.one("ReverseSequence", [x.id, lengths], { batch_axis: int(0), time_axis: int(1) }), x.dims, x.open);
  }
  return true;
};
/** Slices with steps, forwards and backwards, of several axes at once; pads of every axis, some of them negative. */
const cuts: Pattern = (b) => {
  const x = b.operand((v) => v.dims.length >= 2 && v.dims.slice(1).every((d) => d >= 2) && count(v.dims) < LARGEST / 6);
  if (x === undefined) return false;
  const rest = x.dims.slice(1);
  if (b.chance(0.5)) {
    const steps = rest.map(() => b.pick([1, 2, 3, -1, -2]));
    const dims = rest.map((d, i) => Math.ceil(d / Math.abs(steps[i] as number)));
    const starts = steps.map((s) => (s > 0 ? 0 : -1));
    const ends = steps.map((s) => (s > 0 ? 2 ** 31 : -(2 ** 31)));
    const axes = rest.map((_, i) => i + 1);
    b.keep(
      b.one("Slice", [x.id, b.int64(...starts), b.int64(...ends), b.int64(...axes), b.int64(...steps)]),
      [x.dims[0] as number, ...dims],
      x.open,
    );
    return true;
  }
  const mode = b.pick(["constant", "reflect", "edge", "wrap"]);
  const [before, after] = [rest.map(() => b.below(2)), rest.map(() => (mode === "constant" ? b.below(4) - 1 : b.below(2)))];
  const dims = rest.map((d, i) => d + (before[i] as number) + (after[i] as number));
  const y = b.one("Pad", [x.id, b.int64(0, ...before, 0, ...after), ...(mode === "constant" ? [b.scalar(0.25)] : [])], {
    mode: text(mode),
  });
  b.keep(y, [x.dims[0] as number, ...dims], x.open);
  return true;
};
/** Conditions on values, joined; half precision and whole numbers in between. */
const masks: Pattern = (b) => {
  const x = b.operand();
  if (x === undefined) return false;
  const other = b.operand((y) => y.open === x.open && y.dims.join() === x.dims.join()) ?? x;
  const above = b.one(b.pick(["Greater", "LessOrEqual"]), [x.id, b.scalar(0.1371)]);
  const below = b.one("Less", [other.id, b.scalar(0.5273)]);
  const mask = b.pick([
    () => above,
    () => b.one("And", [above, below]),
    () => b.one("Xor", [above, below]),
    () => b.one("Not", [b.one("Or", [above, below])]),
  ])();
  const y = b.pick([
    () => b.one("Where", [mask, x.id, other.id]),
    () => b.one("Where", [mask, x.id, b.scalar(-1)]),
    () => b.one("Mul", [x.id, b.one("Cast", [mask], { to: int(1) })]),
    () => b.one("Where", [mask, b.one("Exp", [b.one("Tanh", [x.id])]), other.id]),
  ])();
  b.keep(y, x.dims, x.open);
  return true;
};
const activations: Pattern = (b) => {
  const x = b.operand();
  if (x === undefined) return false;
  const y = b.pick([
    () => b.one("Celu", [x.id], { alpha: float(0.7) }),
    () => b.one("Mish", [x.id]),
    () => b.one("PRelu", [x.id, b.weights([x.dims[x.dims.length - 1] as number])]),
    () => b.one("ThresholdedRelu", [x.id], { alpha: float(0.1371) }),
    () => b.one("Asinh", [x.id]),
    () => b.one("Atan", [x.id]),
    () => b.one("Sum", [x.id, x.id, b.weights([x.dims[x.dims.length - 1] as number])]),
    () => b.one("Mean", [x.id, b.scalar(0.5), b.weights([x.dims[x.dims.length - 1] as number])]),
    () => b.one("Mod", [b.one("Add", [b.one("Abs", [x.id]), b.scalar(0.0371)]), b.scalar(1000)], { fmod: int(1) }),
    () => b.one("Log", [b.one("Add", [b.one("Abs", [x.id]), b.scalar(0.5)])]),
  ])();
  b.keep(y, x.dims, x.open);
  return true;
};
const norms: Pattern = (b) => {
  const x = b.operand((v) => v.dims.length >= 3 && v.dims.slice(2).every((d) => d >= 2));
  if (x === undefined) return false;
  const c = x.dims[1] as number;
  const y = b.pick([
    () => b.one("InstanceNormalization", [x.id, b.weights([c], 1, true), b.weights([c])]),
    () =>
      b.one("LpNormalization", [b.one("Add", [b.one("Abs", [x.id]), b.scalar(0.1)])], {
        axis: int(b.pick([1, -1])),
        p: int(b.pick([1, 2])),
      }),
    () => b.one("BatchNormalization", [x.id, b.weights([c], 1, true), b.weights([c]), b.weights([c]), b.weights([c], 1, true)]),
    () => b.one("LayerNormalization", [x.id, b.weights(x.dims.slice(2), 1, true)], { axis: int(2) }),
    () => b.one("CumSum", [x.id, b.int64(b.pick([1, 2]))], { exclusive: int(b.below(2)), reverse: int(b.below(2)) }),
    () => b.one("Softmax", [x.id], { axis: int(1) }),
  ])();
  b.keep(y, x.dims, x.open);
  return true;
};
/** Samples at constant places, some of them outside. */
const sampling: Pattern = (b) => {
  const x = image(b, 2);
  if (x === undefined || x.open) return false;
  const [n, c] = x.dims as [number, number];
  const [h, w] = [b.pick([2, 5]), b.pick([3, 4])];
  const grid = b.weights([n, h, w, 2], 2);
  const attrs = {
    mode: text("linear"),
    padding_mode: text(b.pick(["zeros", "border", "reflection"])),
    align_corners: int(b.below(2)),
  };
  b.keep(b.one("GridSample", [x.id, grid], attrs), [n, c, h, w], x.open);
  return true;
};
const blocks: Pattern = (b) => {
  const x = b.operand((v) => v.dims.length === 4 && (v.dims[2] as number) % 2 === 0 && (v.dims[3] as number) % 2 === 0);
  if (x === undefined) return false;
  const [n, c, h, w] = x.dims as [number, number, number, number];
  b.keep(b.one("SpaceToDepth", [x.id], { blocksize: int(2) }), [n, 4 * c, h / 2, w / 2], x.open);
  return true;
};
/** Positions that are counted, as encodings have them. */
const positions: Pattern = (b) => {
  const x = b.operand((v) => v.dims.length >= 2);
  if (x === undefined) return false;
  const d = x.dims[x.dims.length - 1] as number;
  const range = b.one("Range", [b.scalar(0.25), b.scalar(0.25 + 0.125 * d), b.scalar(0.125)]);
  const encoded: ValueId = b.chance(0.5) ? b.one("Sin", [range]) : range;
  b.keep(b.one(b.pick(["Add", "Mul"]), [x.id, encoded]), x.dims, x.open);
  return true;
};

export const furtherPatterns: readonly Pattern[] = [
  ...[windows, windows, transposedConvolution, transposedConvolution, dilatedConvolution, resizing, resizing],
  ...[byIndex, byIndex, cuts, cuts, masks, activations, norms, sampling, blocks, positions],
];
