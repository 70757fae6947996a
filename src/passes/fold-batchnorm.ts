/** Folds an inference BatchNormalization into the Conv, ConvTranspose or Gemm before it. */
import { Editor } from "../ir/edit.js";
import type { Constant, Graph } from "../ir/types.js";
import { deep, definePass } from "./pass.js";
import { flagged, floats, floatsConstant, groupsOf, outputAxis, scaleAlong } from "./weights.js";

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
    const biasIn = draft.constant(producer.ins[2]);
    const oldBias = floats(biasIn);
    // A Gemm's addend of as many rows is one number per row.
    if (producer.ins[2] !== undefined && (oldBias?.length !== channels || biasIn?.dims.at(-1) !== channels)) continue;
    const beta = producer.op === "Gemm" && producer.attrs["beta"]?.kind === "float" ? producer.attrs["beta"].value : 1;
    // In double precision: the factor is rounded once.
    const factor = Float64Array.from({ length: channels }, (_, c) => (s[c] ?? 0) / Math.sqrt((v[c] ?? 0) + epsilon));
    const scaled = scaleAlong(w, weight.dims, axis, factor, groupsOf(producer));
    const shifted = Float32Array.from(
      { length: channels },
      (_, c) => ((oldBias?.[c] ?? 0) * beta - (m[c] ?? 0)) * (factor[c] ?? 0) + (b[c] ?? 0),
    );
    const stem = draft.value(weightIn).name;
    const weightId = draft.addConstant(`${stem}.bn`, floatsConstant(weight.dims, scaled));
    const biasId = draft.addConstant(`${stem}.bn.bias`, floatsConstant([channels], shifted));
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
