/** Convolutions and their transposes. Filters are [spatial..., in, out]; ONNX wants [out, in, spatial...] and channels first. */
import { isStatic } from "../../ir/dims.js";
import type { PlainAttrs, TfBuilder, TfNode, Val } from "./define.js";
import { defineTfOp } from "./define.js";
import { activation, addBias, fusedTail, upTo } from "./helpers.js";
import { compute } from "./kernels.js";
import {
  back,
  extent,
  first,
  type Layout,
  layoutOf,
  PADDING_OPS,
  paddingOf,
  placed,
  samePadding,
  spatialOf,
  type Window,
  windowAttrs,
} from "./windows.js";

const MADE = ["Conv", "Transpose", "Cast", ...PADDING_OPS];

/** Filter dims as numbers: ONNX spells windows by them. */
function kernelOf(n: TfNode, filter: Val, spatial: number): readonly number[] {
  const dims = filter.shape;
  const kernel = dims?.slice(0, spatial);
  if (dims === undefined || kernel?.every(isStatic) !== true)
    return n.refuse("the size of its filter is not known at compile time", "make the filter a constant");
  return kernel as readonly number[];
}
function windowOf(n: TfNode, layout: Layout, filter: Val): Window {
  return {
    kernel: kernelOf(n, filter, layout.n),
    strides: spatialOf(n, layout, "strides", n.ints("strides")),
    dilations: spatialOf(n, layout, "dilations", n.ints("dilations", new Array<number>(layout.n + 2).fill(1))),
  };
}
/** [spatial..., i, o] to [o, i, spatial...]. */
const outFirst = (b: TfBuilder, filter: Val, spatial: number): Val => b.transpose(filter, [spatial + 1, spatial, ...upTo(spatial)]);

function forward(n: TfNode, b: TfBuilder, x: Val, weights: Val, layout: Layout, w: Window, group: number): Val {
  const padding = paddingOf(n, b, x, layout, w);
  const { x: operand, attrs } = placed(n, b, first(b, layout, x), padding, layout.n, "zero");
  const all: PlainAttrs = { kernel_shape: w.kernel, ...windowAttrs(w), ...attrs, ...(group === 1 ? {} : { group }) };
  return back(b, layout, compute(n, b)("Conv", [operand, weights], all));
}
const channelsOf = (layout: Layout, x: Val, filterIn: number): number => {
  const c = x.shape?.[layout.channelsFirst ? 1 : (x.rank ?? 0) - 1];
  return typeof c === "number" ? c : filterIn;
};
function grouped(n: TfNode, layout: Layout, x: Val, filter: Val): number {
  const perGroup = filter.shape?.[layout.n];
  if (typeof perGroup !== "number") return n.refuse("the size of its filter is not known at compile time", "make the filter a constant");
  return Math.max(1, channelsOf(layout, x, perGroup) / Math.max(1, perGroup));
}
function convolution(n: TfNode, b: TfBuilder, spatial: number, format: string): Val {
  const layout = layoutOf(n, spatial, format);
  const [x, filter] = [n.in(0), n.in(1)];
  return forward(n, b, x, outFirst(b, filter, spatial), layout, windowOf(n, layout, filter), grouped(n, layout, x, filter));
}
export const conv2D = defineTfOp({ name: "Conv2D", to: MADE, lower: (n, b) => convolution(n, b, 2, "NHWC") });
export const conv3D = defineTfOp({ name: "Conv3D", to: MADE, lower: (n, b) => convolution(n, b, 3, "NDHWC") });
export const conv = defineTfOp({
  name: "Conv",
  to: MADE,
  lower: (n, b) => {
    if (n.in(0).rank === 5) return convolution(n, b, 3, "NDHWC");
    return n.in(0).rank === 4 ? convolution(n, b, 2, "NHWC") : n.refuse("it convolves neither images nor volumes");
  },
});

/** [h, w, c, m] to [c m, 1, h, w]: output channel c m + j belongs to input channel c. */
function depthwiseWeights(n: TfNode, b: TfBuilder, filter: Val): { readonly weights: Val; readonly channels: number } {
  const [h, w, c, m] = filter.shape ?? [];
  if (typeof h !== "number" || typeof w !== "number" || typeof c !== "number" || typeof m !== "number")
    return n.refuse("the size of its filter is not known at compile time", "make the filter a constant");
  return { weights: b.transpose(b.reshape(filter, [h, w, 1, c * m]), [3, 2, 0, 1]), channels: c };
}
function depthwise(n: TfNode, b: TfBuilder): Val {
  const layout = layoutOf(n, 2, "NHWC");
  const filter = n.in(1);
  const { weights, channels } = depthwiseWeights(n, b, filter);
  return forward(n, b, n.in(0), weights, layout, windowOf(n, layout, filter), channels);
}
export const depthwiseConv2dNative = defineTfOp({ name: "DepthwiseConv2dNative", to: [...MADE, "Reshape"], lower: depthwise });

const FUSED = [...MADE, "Relu", "Clip", "Elu", "LeakyRelu", "Tanh", "Sigmoid"];
export const fusedConv2D = defineTfOp({
  name: "_FusedConv2D",
  to: FUSED,
  lower: (n, b) => fusedTail(n, b, convolution(n, b, 2, "NHWC"), layoutOf(n, 2, "NHWC").channelsFirst, 2),
});
export const fusedDepthwise = defineTfOp({
  name: "_FusedDepthwiseConv2dNative",
  to: FUSED,
  lower: (n, b) => fusedTail(n, b, depthwise(n, b), layoutOf(n, 2, "NHWC").channelsFirst, 2),
});
/** activation(conv_input_scale conv(x) + side_input_scale side + bias). */
export const fusedConv2DBiasActivation = defineTfOp({
  name: "FusedConv2DBiasActivation",
  to: FUSED,
  lower: (n, b) => {
    const format = n.string("data_format", "NHWC");
    if (n.in(0).dtype === "int8" || n.string("filter_format", "HWIO") !== "HWIO")
      return n.refuse("its filter or data is packed for integer kernels", "freeze the float model and let Partita quantize it");
    const k = compute(n, b);
    const side = b.number(n.in(5), "the scale of the side input");
    let y = k("Mul", [convolution(n, b, 2, "NHWC"), n.in(4)]);
    if (side !== 0) y = k("Add", [y, k("Mul", [n.in(3), n.in(5)])]);
    return activation(n, b, n.string("activation_mode", "Relu"), addBias(n, b, y, n.in(2), format.startsWith("NC")));
  },
});

// ---- the gradient with respect to the input ------------------------------------------------------------------------------------------

/**
 * ConvTranspose without padding gives (out - 1) stride + extent places along a dimension; the wanted ones begin behind the forward
 * convolution's padding. Where all sizes are known `pads` and `output_padding` say so, else the result is padded and cut at run time.
 */
function transposedConv(n: TfNode, b: TfBuilder, weights: Val, layout: Layout, w: Window, group: number, sizes: Val): Val {
  const y = n.in(2);
  const at = layout.channelsFirst ? 2 : 1;
  const dims = upTo(layout.n);
  // Sizes of the space alone are allowed, too.
  const offset = sizes.shape?.[0] === layout.n ? 0 : at;
  const wanted = dims.map((i) => sizes.numbers?.[offset + i] ?? sizes.fact.elements?.[offset + i]);
  const given = dims.map((i) => b.dims(y)[at + i]);
  const explicit = n.string("padding") === "EXPLICIT" ? paddingOf(n, b, y, layout, w) : undefined;
  const k = compute(n, b);
  const attrs: PlainAttrs = { kernel_shape: w.kernel, ...windowAttrs(w), ...(group === 1 ? {} : { group }) };
  const x = first(b, layout, y);
  const before = (i: number, size: number): number => {
    if (explicit?.kind === "pads") return explicit.pads[i] ?? 0;
    return n.string("padding") === "SAME" ? samePadding(size, w, i)[0] : 0;
  };
  if (wanted.every((d) => typeof d === "number") && given.every((d) => typeof d === "number")) {
    const over = dims.map(
      (i) => ((given[i] as number) - 1) * (w.strides[i] ?? 1) + extent(w, i) - before(i, wanted[i] as number) - (wanted[i] as number),
    );
    // What is lacking behind is output padding, what is too much is padding.
    const extra = over.map((o) => Math.max(0, -o));
    if (extra.every((e, i) => e < Math.max(w.strides[i] ?? 1, w.dilations[i] ?? 1))) {
      const pads = [...dims.map((i) => before(i, wanted[i] as number)), ...over.map((o) => Math.max(0, o))];
      return back(
        b,
        layout,
        k("ConvTranspose", [x, weights], {
          ...attrs,
          ...(pads.some((p) => p !== 0) ? { pads } : {}),
          ...(extra.some((e) => e !== 0) ? { output_padding: extra } : {}),
        }),
      );
    }
  }
  let full = k("ConvTranspose", [x, weights], attrs);
  const size64 = b.cast(sizes, "int64");
  const size = b.slice(size64, [offset], [offset + layout.n], [0]);
  const has = b.op("Slice", [b.shape(full), b.int64([2]), b.int64([2 + layout.n])]);
  const none = b.int64(0);
  const starts =
    explicit?.kind === "pads"
      ? b.int64(explicit.pads.slice(0, layout.n))
      : n.string("padding") === "SAME"
        ? b.div(b.op("Max", [b.sub(has, size), none]), b.int64(2))
        : b.int64(new Array<number>(layout.n).fill(0));
  const lacking = b.op("Max", [b.sub(b.add(starts, size), has), none]);
  const zeros = b.int64(new Array<number>(layout.n + 4).fill(0));
  full = k("Pad", [full, b.concat([zeros, lacking], 0), undefined]);
  return back(b, layout, b.op("Slice", [full, starts, b.add(starts, size), b.int64(dims.map((i) => i + 2))]));
}
const TRANSPOSED = ["ConvTranspose", "Transpose", "Slice", "Cast", ...PADDING_OPS];
const transposedOf =
  (spatial: number, format: string) =>
  (n: TfNode, b: TfBuilder): Val => {
    const layout = layoutOf(n, spatial, format);
    const filter = n.in(1);
    // [out, in, spatial...] is what ConvTranspose calls [in, out, spatial...].
    const sizes = n.op === "Conv3DBackpropInput" ? b.shape(n.in(0)) : n.in(0);
    const out = filter.shape?.[spatial + 1];
    const has = n.in(2).shape?.[layout.channelsFirst ? 1 : spatial + 1];
    if (typeof out === "number" && typeof has === "number" && out !== has)
      return n.refuse("its filter is grouped in a way ONNX does not have");
    return transposedConv(n, b, outFirst(b, filter, spatial), layout, windowOf(n, layout, filter), 1, sizes);
  };
export const conv2DBackpropInput = defineTfOp({ name: "Conv2DBackpropInput", to: TRANSPOSED, lower: transposedOf(2, "NHWC") });
export const conv3DBackpropInput = defineTfOp({
  names: ["Conv3DBackpropInputV2", "Conv3DBackpropInput"],
  to: TRANSPOSED,
  lower: transposedOf(3, "NDHWC"),
});
export const depthwiseBackpropInput = defineTfOp({
  name: "DepthwiseConv2dNativeBackpropInput",
  to: [...TRANSPOSED, "Reshape"],
  lower: (n, b) => {
    const layout = layoutOf(n, 2, "NHWC");
    const { weights, channels } = depthwiseWeights(n, b, n.in(1));
    return transposedConv(n, b, weights, layout, windowOf(n, layout, n.in(1)), channels, n.in(0));
  },
});
const training = {
  absent: "it trains: the gradient with respect to a filter has no lowering",
  fix: "export the model for inference",
} as const;
export const backpropFilter = defineTfOp({
  names: ["Conv2DBackpropFilter", "Conv3DBackpropFilterV2", "DepthwiseConv2dNativeBackpropFilter"],
  ...training,
});
