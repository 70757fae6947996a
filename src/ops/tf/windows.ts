/** Sliding windows: TensorFlow's padding as ONNX writes it, by shape where dims are known, else at run time. */
import { isStatic } from "../../ir/dims.js";
import type { Dim } from "../../ir/types.js";
import type { TfBuilder, TfNode, Val } from "./define.js";
import { finiteLimit, upTo } from "./helpers.js";
import { compute, plainType } from "./kernels.js";

/** The operator's layout: where channels and space are. */
export interface Layout {
  readonly channelsFirst: boolean;
  /** Spatial dims. */
  readonly n: number;
}
export const layoutOf = (n: TfNode, spatial: number, fallback: string): Layout => {
  const format = n.string("data_format", fallback);
  if (!/^N(C[DHW]+|[DHW]+C)$/.test(format)) return n.refuse(`its data format '${format}' packs channels into vectors`, "use NHWC or NCHW");
  return { channelsFirst: format.startsWith("NC"), n: spatial };
};
/** The spatial places of a list that has one entry per dimension. The others must be 1. */
export function spatialOf(n: TfNode, layout: Layout, what: string, list: readonly number[]): readonly number[] {
  if (list.length !== layout.n + 2) return n.refuse(`its ${what} [${list.join(", ")}] should have ${layout.n + 2} entries`);
  const at = layout.channelsFirst ? 2 : 1;
  if (list.some((v, i) => (i < at || i >= at + layout.n) && v !== 1))
    return n.refuse(
      `its ${what} [${list.join(", ")}] reach over the batch or the channels`,
      "reshape so that the window lies in the spatial dims",
    );
  return list.slice(at, at + layout.n);
}
export const first = (b: TfBuilder, layout: Layout, x: Val): Val => (layout.channelsFirst ? x : b.toChannelsFirst(x));
export const back = (b: TfBuilder, layout: Layout, x: Val): Val => (layout.channelsFirst ? x : b.toChannelsLast(x));

export interface Window {
  readonly kernel: readonly number[];
  readonly strides: readonly number[];
  readonly dilations: readonly number[];
}
/** Extent of a dilated kernel. */
export const extent = (w: Window, i: number): number => ((w.kernel[i] ?? 1) - 1) * (w.dilations[i] ?? 1) + 1;

/** SAME: ceil(in / stride) results, and the smaller half of the padding in front. */
export function samePadding(size: number, w: Window, i: number): readonly [before: number, after: number] {
  const stride = w.strides[i] ?? 1;
  const total = Math.max(0, (Math.ceil(size / stride) - 1) * stride + extent(w, i) - size);
  return [total >> 1, total - (total >> 1)];
}

/** How a padding is spelled: as `pads` or `auto_pad` of the operator, or by a Pad before it whose amounts are computed. */
export type Padding =
  | { readonly kind: "pads"; readonly pads: readonly number[] }
  | { readonly kind: "auto" }
  | { readonly kind: "computed"; readonly pads: Val };
export function paddingOf(n: TfNode, b: TfBuilder, x: Val, layout: Layout, w: Window): Padding {
  const word = n.string("padding");
  const dims = upTo(layout.n);
  if (word === "VALID") return { kind: "pads", pads: new Array<number>(2 * layout.n).fill(0) };
  if (word === "EXPLICIT") {
    const list = n.ints("explicit_paddings", []);
    const at = layout.channelsFirst ? 4 : 2;
    return { kind: "pads", pads: [...dims.map((i) => list[at + 2 * i] ?? 0), ...dims.map((i) => list[at + 2 * i + 1] ?? 0)] };
  }
  if (word !== "SAME") return n.refuse(`its padding '${word}' is not SAME, VALID or EXPLICIT`);
  const at = layout.channelsFirst ? 2 : 1;
  const sizes: readonly Dim[] = b.dims(x).slice(at, at + layout.n);
  // With stride 1 the padding does not depend on the size, nor with a window of one place.
  const pairs = dims.map((i) => {
    const size = sizes[i];
    if (size !== undefined && isStatic(size)) return samePadding(size, w, i);
    if (w.strides[i] === 1) return samePadding(1 << 20, w, i);
    return extent(w, i) === 1 ? ([0, 0] as const) : undefined;
  });
  if (pairs.every((p) => p !== undefined)) return { kind: "pads", pads: [...pairs.map((p) => p[0]), ...pairs.map((p) => p[1])] };
  // ONNX Runtime computes SAME_UPPER the same way, but for dilations, and for windows that skip places: then its padding may be negative.
  if (dims.every((i) => w.dilations[i] === 1 && (w.kernel[i] ?? 1) >= (w.strides[i] ?? 1))) return { kind: "auto" };
  const totals = dims.map((i) => {
    const [size, stride] = [b.dim(x, at + i), b.int64(w.strides[i] ?? 1)];
    const steps = b.div(b.sub(b.add(size, stride), b.int64(1)), stride);
    const reach = b.add(b.mul(b.sub(steps, b.int64(1)), stride), b.int64(extent(w, i)));
    return b.unsqueeze(b.op("Max", [b.sub(reach, size), b.int64(0)]), [0]);
  });
  const total = b.concat(totals, 0);
  const before = b.div(total, b.int64([2]));
  return { kind: "computed", pads: b.concat([before, b.sub(total, before)], 0) };
}
/** Attributes and operand of a window operator whose operand has channels first. */
export function placed(
  node: TfNode,
  b: TfBuilder,
  x: Val,
  padding: Padding,
  n: number,
  fill: "zero" | "lowest",
): { x: Val; attrs: Record<string, readonly number[] | string> } {
  switch (padding.kind) {
    case "pads":
      return { x, attrs: padding.pads.every((p) => p === 0) ? {} : { pads: padding.pads } };
    case "auto":
      return { x, attrs: { auto_pad: "SAME_UPPER" } };
    case "computed": {
      const zeros = b.int64([0, 0]);
      const amounts = b.concat([zeros, b.slice(padding.pads, [0], [n], [0]), zeros, b.slice(padding.pads, [n], [2 * n], [0])], 0);
      const type = plainType(node, x.dtype);
      const value = b.scalar(type, fill === "zero" ? 0 : finiteLimit(type, "lowest"));
      return { x: compute(node, b)("Pad", [x, amounts, value]), attrs: {} };
    }
    default:
      return padding satisfies never;
  }
}
/** What computing the padding at run time takes. */
export const PADDING_OPS = ["Pad", "Add", "Sub", "Mul", "Div", "Max"] as const;
/** Attributes that are not at their defaults. */
export function windowAttrs(w: Window): Record<string, readonly number[]> {
  return {
    ...(w.strides.some((s) => s !== 1) ? { strides: w.strides } : {}),
    ...(w.dilations.some((d) => d !== 1) ? { dilations: w.dilations } : {}),
  };
}
