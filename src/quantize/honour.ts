/**
 * Graphs that carry quantizers, in the form `place` writes: quantized constants as integers, transposes of weights in front of their
 * DequantizeLinear, biases of int8 products as int32. Scales and zero points stay the model's own; activations are not touched.
 */
import { intOf } from "../ir/attributes.js";
import { Editor } from "../ir/edit.js";
import { elementCount, makeConstant, transposed, typedOf } from "../ir/payload.js";
import type { Attr, Constant, Graph, Node, ValueId } from "../ir/types.js";
import { flagged, floats } from "../passes/weights.js";
import { roundHalfEven } from "./arithmetic.js";
import { integerBias } from "./weights.js";

export function honoured(g: Graph): Graph {
  const draft = new Editor(g);
  for (const n of g.nodes) if (n.op === "QuantizeLinear" && n.domain === "") quantizedConstant(draft, n);
  for (const n of g.nodes) if (n.op === "Transpose" && n.domain === "") transposedWeight(draft, n);
  for (const n of g.nodes) if (BIASED.has(n.op) && n.domain === "") integerBiasOf(draft, n);
  if (!draft.changed) return g;
  for (const { id } of [...draft.nodes()].reverse()) {
    const n = draft.node(id);
    const dead = n?.outs.every((v) => v === undefined || (draft.uses(v).length === 0 && !draft.isOutput(v)));
    if (n !== undefined && dead === true && n.domain === "" && (n.op === "QuantizeLinear" || n.op === "DequantizeLinear"))
      draft.remove(n.id);
  }
  return draft.finish();
}
const BIASED: ReadonlySet<string> = new Set(["Conv", "ConvTranspose", "Gemm"]);

/** The axis of a quantizer of a tensor of so many dims. */
const axisOf = (n: Node, rank: number): number => {
  const axis = intOf(n, "axis", 1);
  return axis < 0 ? axis + rank : axis;
};

/** QuantizeLinear of a constant: what it gives. */
function quantizedConstant(draft: Editor, n: Node): void {
  const [x, scale, zero] = n.ins.map((v) => draft.constant(v));
  const [values, scales, [y]] = [floats(x), floats(scale), n.outs];
  if (x === undefined || values === undefined || scales === undefined || y === undefined || intOf(n, "block_size", 0) !== 0) return;
  if (n.ins[2] !== undefined && zero === undefined) return;
  const dtype = zero?.dtype ?? "uint8";
  if ((dtype !== "int8" && dtype !== "uint8") || intOf(n, "output_dtype", 0) !== 0 || !scales.every((s) => s > 0 && Number.isFinite(s)))
    return;
  const zeros = zero === undefined ? [0] : Array.from(typedOf(zero) as ArrayLike<number>);
  const axis = axisOf(n, x.dims.length);
  const inner = scales.length === 1 ? Math.max(1, values.length) : x.dims.slice(axis + 1).reduce((a, b) => a * b, 1);
  if (scales.length !== 1 && x.dims[axis] !== scales.length) return;
  const [least, most] = dtype === "int8" ? [-128, 127] : [0, 255];
  const steps = dtype === "int8" ? new Int8Array(values.length) : new Uint8Array(values.length);
  for (let i = 0; i < values.length; i++) {
    const c = Math.floor(i / inner) % scales.length;
    const step = roundHalfEven(Math.fround((values[i] as number) / (scales[c] as number))) + (zeros[c % zeros.length] as number);
    // A NaN becomes the least step.
    steps[i] = step > least ? Math.min(step, most) : least;
  }
  const made: Constant = { dtype, dims: x.dims, data: { kind: "bytes", bytes: new Uint8Array(steps.buffer) } };
  const constant = draft.addConstant(`${draft.value(y).name}.folded`, made);
  draft.replaceUses(y, constant);
  if (!draft.isOutput(y)) draft.remove(n.id);
}

/** Transpose(DequantizeLinear(constant)): DequantizeLinear of the transposed constant. */
function transposedWeight(draft: Editor, n: Node): void {
  const dq = draft.producer(n.ins[0]);
  const [steps, scale, zero] = dq?.ins ?? [];
  const c = draft.constant(steps);
  const perm = n.attrs["perm"]?.kind === "ints" ? n.attrs["perm"].value.map(Number) : c?.dims.map((_, i, d) => d.length - 1 - i);
  if (dq?.op !== "DequantizeLinear" || dq.domain !== "" || c === undefined || perm?.length !== c.dims.length) return;
  if ((c.dtype !== "int8" && c.dtype !== "uint8") || intOf(dq, "block_size", 0) !== 0) return;
  const moved = draft.addConstant(`${draft.value(steps as ValueId).name}.moved`, transposed(c, perm));
  const perTensor = elementCount(draft.constant(scale)?.dims ?? []) === 1;
  const attrs: Readonly<Record<string, Attr>> = perTensor ? {} : { axis: { kind: "int", value: perm.indexOf(axisOf(dq, c.dims.length)) } };
  draft.patch(n.id, { op: "DequantizeLinear", ins: zero === undefined ? [moved, scale] : [moved, scale, zero], attrs });
}

/** A float bias of a product of symmetric int8 operands, at the scale of the sums. */
function integerBiasOf(draft: Editor, n: Node): void {
  const [x, w] = [symmetric(draft, n.ins[0]), symmetric(draft, n.ins[1])];
  const bias = draft.constant(n.ins[2]);
  const values = floats(bias);
  if (x === undefined || w === undefined || bias === undefined || values === undefined || x.scales.length !== 1) return;
  const along = n.op === "ConvTranspose" || (n.op === "Gemm" && !flagged(n, "transB")) ? 1 : 0;
  if (w.scales.length !== 1 && (w.axis !== along || values.length % w.scales.length !== 0)) return;
  const unit = (name: string): boolean => n.attrs[name]?.kind !== "float" || n.attrs[name].value === 1;
  if (bias.dims.length !== 1 || !unit("alpha") || !unit("beta")) return;
  const xScale = x.scales[0] as number;
  const scales = Float32Array.from({ length: values.length }, (_, k) => xScale * (w.scales[k % w.scales.length] as number));
  if (!values.every((b, k) => Math.abs(b / (scales[k] as number)) < 2 ** 30)) return;
  const { name } = draft.value(n.ins[2] as ValueId);
  const steps = draft.addConstant(`${name}/int32`, integerBias(values, w.scales, xScale));
  const scale = draft.addConstant(`${name}/scale`, makeConstant("float32", [scales.length], [...scales]));
  const [dq] = draft.add({
    op: "DequantizeLinear",
    ins: [steps, scale],
    outs: 1,
    name: `${name}/dequantize`,
    attrs: { axis: { kind: "int", value: 0 } },
    origin: n.origin ?? [n.name],
  }).outs;
  draft.patch(n.id, { ins: [n.ins[0], n.ins[1], dq] });
}
function symmetric(draft: Editor, v: ValueId | undefined): { readonly scales: Float32Array; readonly axis: number } | undefined {
  const n = draft.producer(v);
  const [q, scale, zero] = (n?.ins ?? []).map((x) => draft.constant(x));
  const scales = floats(scale);
  if (n?.op !== "DequantizeLinear" || n.domain !== "" || scales === undefined || intOf(n, "block_size", 0) !== 0) return undefined;
  if ((zero ?? q)?.dtype !== "int8" || (n.ins[2] !== undefined && zero === undefined)) return undefined;
  if (zero !== undefined && !Array.from(typedOf(zero) as ArrayLike<number>).every((z) => z === 0)) return undefined;
  return { scales, axis: axisOf(n, q?.dims.length ?? 0) };
}
