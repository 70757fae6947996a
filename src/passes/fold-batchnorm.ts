/** Folds an inference BatchNormalization into the Conv, ConvTranspose or Gemm before it. */
import { Editor } from "../ir/edit.js";
import { payloadLength, typedOf } from "../ir/payload.js";
import type { Constant, Graph, Node } from "../ir/types.js";
import { deep, definePass } from "./pass.js";

export const foldBatchNorm = definePass({
  name: "fold-batchnorm",
  why: "y = (x w + b - mean) s + bias with s = scale / sqrt(var + epsilon) is one convolution with weights w s: an operator and a pass over memory less, and what INT8 calibration must see.",
  run: (g) => deep(g, folded),
});

function folded(g: Graph): Graph {
  const draft = new Editor(g);
  for (const bn of g.nodes) {
    if (bn.op !== "BatchNormalization" || bn.domain !== "" || flagged(bn, "training_mode")) continue;
    const [x, scale, bias, mean, variance] = bn.ins;
    const producer = draft.producer(x);
    if (x === undefined || producer === undefined || !draft.hasOneUser(x) || bn.outs.slice(1).some((v) => v !== undefined)) continue;
    const weightIn = producer.ins[1];
    const [w, s, b, m, v] = [floats(draft.constant(weightIn)), ...[scale, bias, mean, variance].map((p) => floats(draft.constant(p)))];
    if (
      weightIn === undefined ||
      w === undefined ||
      s === undefined ||
      b === undefined ||
      m === undefined ||
      v === undefined ||
      !["Conv", "ConvTranspose", "Gemm"].includes(producer.op) ||
      producer.domain !== ""
    )
      continue;
    const weight = draft.constant(weightIn) as Constant;
    const channels = s.length;
    const axis = outputAxis(producer, weight, channels);
    if (axis === undefined) continue;
    const epsilon = bn.attrs["epsilon"]?.kind === "float" ? bn.attrs["epsilon"].value : 1e-5;
    const oldBias = producer.ins[2] === undefined ? undefined : floats(draft.constant(producer.ins[2]));
    if (producer.ins[2] !== undefined && (oldBias === undefined || oldBias.length !== channels)) continue;
    const beta = producer.op === "Gemm" && producer.attrs["beta"]?.kind === "float" ? producer.attrs["beta"].value : 1;
    // In double precision: the factor is rounded once.
    const factor = Float64Array.from({ length: channels }, (_, c) => (s[c] ?? 0) / Math.sqrt((v[c] ?? 0) + epsilon));
    const scaled = scaleAlong(w, weight.dims, axis, factor, groupsOf(producer));
    const shifted = Float32Array.from(
      { length: channels },
      (_, c) => ((oldBias?.[c] ?? 0) * beta - (m[c] ?? 0)) * (factor[c] ?? 0) + (b[c] ?? 0),
    );
    const stem = draft.value(weightIn).name;
    const weightId = draft.addConstant(`${stem}.bn`, constant(weight.dims, scaled));
    const biasId = draft.addConstant(`${stem}.bn.bias`, constant([channels], shifted));
    const [y] = bn.outs;
    if (y === undefined) continue;
    const attrs = producer.op === "Gemm" && beta !== 1 ? { ...producer.attrs, beta: { kind: "float" as const, value: 1 } } : producer.attrs;
    draft.remove(bn.id);
    draft.patch(producer.id, {
      ins: [producer.ins[0], weightId, biasId],
      outs: [y],
      attrs,
      origin: [...(producer.origin ?? [producer.name]), ...(bn.origin ?? [bn.name])],
    });
  }
  return draft.finish();
}

const flagged = (n: Node, name: string): boolean => {
  const a = n.attrs[name];
  return a?.kind === "int" && Number(a.value) !== 0;
};
const floats = (c: Constant | undefined): Float32Array | undefined =>
  c?.dtype === "float32" && c.data.kind !== "sparse" && payloadLength(c.data) < 2 ** 31 ? (typedOf(c) as Float32Array) : undefined;
const constant = (dims: readonly number[], data: Float32Array): Constant => ({
  dtype: "float32",
  dims,
  data: { kind: "bytes", bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) },
});
const groupsOf = (n: Node): number => (n.attrs["group"]?.kind === "int" ? Number(n.attrs["group"].value) : 1);

/** The weight's axis of output channels, when it has `channels` of them. */
function outputAxis(n: Node, w: Constant, channels: number): number | undefined {
  if (n.op === "Conv") return w.dims[0] === channels ? 0 : undefined;
  // ConvTranspose: [C, K / group, ...]; the group is told by the input channel.
  if (n.op === "ConvTranspose") return (w.dims[1] ?? 0) * groupsOf(n) === channels ? 1 : undefined;
  const axis = flagged(n, "transB") ? 0 : 1;
  return w.dims.length === 2 && w.dims[axis] === channels && (n.attrs["alpha"]?.kind !== "float" || n.attrs["alpha"].value === 1)
    ? axis
    : undefined;
}

function scaleAlong(w: Float32Array, dims: readonly number[], axis: number, factor: Float64Array, groups: number): Float32Array {
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
