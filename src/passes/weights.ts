/** Constant weights of Conv, ConvTranspose, Gemm and MatMul: their output channels, and weights scaled along them. */
import { intOf } from "../ir/attributes.js";
import { payloadLength, typedOf } from "../ir/payload.js";
import type { Constant, Node } from "../ir/types.js";

export const flagged = (n: Node, name: string): boolean => intOf(n, name, 0) !== 0;
/** The elements of a dense float32 constant below 2 GiB. */
export const floats = (c: Constant | undefined): Float32Array | undefined =>
  c?.dtype === "float32" && c.data.kind !== "sparse" && payloadLength(c.data) < 2 ** 31 ? (typedOf(c) as Float32Array) : undefined;
export const floatsConstant = (dims: readonly number[], data: Float32Array): Constant => ({
  dtype: "float32",
  dims,
  data: { kind: "bytes", bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) },
});
export const groupsOf = (n: Node): number => intOf(n, "group", 1);

/** The weight's axis of output channels, when it has `channels` of them. */
export function outputAxis(n: Node, w: Constant, channels: number): number | undefined {
  if (n.op === "Conv") return w.dims[0] === channels ? 0 : undefined;
  // ConvTranspose: [C, K / group, ...]; the group is told by the input channel.
  if (n.op === "ConvTranspose") return (w.dims[1] ?? 0) * groupsOf(n) === channels ? 1 : undefined;
  const axis = n.op === "Gemm" && flagged(n, "transB") ? 0 : 1;
  return w.dims.length === 2 && w.dims[axis] === channels && (n.attrs["alpha"]?.kind !== "float" || n.attrs["alpha"].value === 1)
    ? axis
    : undefined;
}

/** Weights with every output channel multiplied by its factor. `axis` is the one of output channels, within a group where it is 1. */
export function scaleAlong(w: Float32Array, dims: readonly number[], axis: number, factor: Float64Array, groups: number): Float32Array {
  const out = new Float32Array(w.length);
  const [outer, n] = [dims.slice(0, axis).reduce((a, b) => a * b, 1), dims[axis] ?? 1];
  const inner = dims.slice(axis + 1).reduce((a, b) => a * b, 1);
  const perGroup = outer / groups;
  for (let o = 0; o < outer; o++) {
    const group = axis === 1 && groups > 1 ? Math.floor(o / perGroup) : 0;
    for (let k = 0; k < n; k++) {
      const f = factor[group * n + k] ?? 1;
      const at = (o * n + k) * inner;
      for (let i = at; i < at + inner; i++) out[i] = (w[i] as number) * f;
    }
  }
  return out;
}
