/** Attention and rotary position embedding of ai.onnx. */

import { no, yes } from "../diagnostics.js";
import { add, exactQuotient, isStatic, mul, UNKNOWN } from "../ir/dims.js";
import type { Dim } from "../ir/types.js";
import { FLOATS, FLOATS64, hostOnly, on, when } from "./answers.js";
import {
  absent,
  defineOp,
  dtypeOf,
  type Fact,
  flag,
  float,
  int,
  type OnnxReading,
  optFloat,
  optInt,
  optional,
  optString,
  type RawNode,
  type Rewriter,
  shapeOf,
  tensor,
} from "./define.js";
import { aFloat, aInt, random } from "./samples.js";
import { fact, perOutput, traffic } from "./shapes.js";

/** Newer models spell out that there is no local window; a window that is one is kept as it stands. */
function unlimited(n: RawNode, to: Rewriter): void {
  const { left_window_size: left, right_window_size: right, ...rest } = n.attrs;
  const none = (a: typeof left): boolean => a === undefined || (a.kind === "int" && Number(a.value) < 0);
  if ((left ?? right) !== undefined && none(left) && none(right)) to.emit(n.op, n.ins, rest, n.outs);
  else to.keep();
}
const dividedBy = (d: Dim, n: number | undefined): Dim => (n === undefined || n <= 0 ? UNKNOWN : (exactQuotient(d, n) ?? UNKNOWN));

interface Heads {
  readonly batch: Dim;
  readonly heads: Dim;
  readonly length: Dim;
  readonly size: Dim;
}
/** [batch, heads, length, size], or [batch, length, heads * size] with the number of heads as an attribute. */
function headsOf(f: Fact, heads: number | undefined): Heads {
  const s = shapeOf(f);
  if (s?.length === 4) return { batch: s[0] ?? UNKNOWN, heads: s[1] ?? UNKNOWN, length: s[2] ?? UNKNOWN, size: s[3] ?? UNKNOWN };
  if (s?.length === 3)
    return { batch: s[0] ?? UNKNOWN, heads: heads ?? UNKNOWN, length: s[1] ?? UNKNOWN, size: dividedBy(s[2] ?? UNKNOWN, heads) };
  return { batch: UNKNOWN, heads: heads ?? UNKNOWN, length: UNKNOWN, size: UNKNOWN };
}

export const attention = defineOp({
  name: "Attention",
  doc: "softmax(cap(scale * Q K') + mask) V per head, cap(x) = softcap * tanh(x / softcap) where that is given; operands [batch, heads, length, size] or [batch, length, heads * size]; keys and values grow by their past.",
  reads: { onnx: [{ since: 23 }, { since: 25, adapt: unlimited }] as readonly OnnxReading[] },
  in: {
    q: tensor("T1"),
    k: tensor("T1"),
    v: tensor("T2"),
    mask: optional(),
    pastKey: optional("T1"),
    pastValue: optional("T2"),
    lengths: optional("int64"),
  },
  out: { y: tensor("T1"), presentKey: optional("T1"), presentValue: optional("T2"), scores: optional("T1") },
  types: { T1: FLOATS64, T2: FLOATS64 },
  attrs: {
    is_causal: flag(false),
    kv_num_heads: optInt(),
    q_num_heads: optInt(),
    qk_matmul_output_mode: int(0),
    scale: optFloat(),
    softcap: float(0),
    softmax_precision: optInt(),
  },
  role: "compute",
  // With a past, ONNX Runtime computes on the present, which has to be there.
  least: (n) => (n.ins[4] === undefined ? 1 : 3),
  infer: (at) => {
    const q = headsOf(at.in.q, at.attrs.q_num_heads);
    const k = headsOf(at.in.k, at.attrs.kv_num_heads);
    const v = headsOf(at.in.v, at.attrs.kv_num_heads);
    const rank = shapeOf(at.in.q)?.length;
    const past = at.in.pastKey === undefined ? 0 : (shapeOf(at.in.pastKey)?.[2] ?? UNKNOWN);
    const total = add(past, k.length);
    const [t1, t2] = [dtypeOf(at.in.q), dtypeOf(at.in.v)];
    return [
      fact(t1, rank === 4 ? [q.batch, q.heads, q.length, v.size] : rank === 3 ? [q.batch, q.length, mul(q.heads, v.size)] : undefined),
      fact(t1, [k.batch, k.heads, total, k.size]),
      fact(t2, [v.batch, v.heads, total, v.size]),
      fact(t1, [q.batch, q.heads, q.length, total]),
    ];
  },
  cost: (at) => {
    const [q, k, v] = [
      headsOf(at.in.q, at.attrs.q_num_heads),
      headsOf(at.in.k, at.attrs.kv_num_heads),
      headsOf(at.in.v, at.attrs.kv_num_heads),
    ];
    const past = at.in.pastKey === undefined ? 0 : (shapeOf(at.in.pastKey)?.[2] ?? 0);
    const scores = [q.batch, q.heads, q.length, add(past, k.length)].reduce<number>((n, d) => n * (isStatic(d) ? d : 1), 1);
    const sizes = (isStatic(q.size) ? q.size : 1) + (isStatic(v.size) ? v.size : 1);
    return { flops: scores * (2 * sizes + 8), bytes: traffic(at.in, at.out) };
  },
  int8: absent("the products of activations stay in float; quantize the projections around it"),
  on: on(
    when("no lengths of rows, no scores given out", (at) => {
      if (at.in["lengths"] !== undefined) return no("the fused kernel takes no lengths of rows", "mask the keys behind them");
      if (at.out.length > (at.in["pastKey"] === undefined ? 1 : 3))
        return no("the fused kernel gives the result and the grown cache", "drop the unused outputs");
      if (!(Number(at.attrs["softcap"]) >= 0)) return no("the fused kernel caps scores at a positive number");
      return yes;
    }),
    absent("the one-node form is not translated for TensorRT, which fuses MatMul, Softmax and MatMul itself"),
  ),
  *samples() {
    const heads = (...d: readonly number[]) => random("float32", ...d);
    yield { name: "4-D", in: { q: heads(2, 3, 4, 8), k: heads(2, 3, 6, 8), v: heads(2, 3, 6, 8) } };
    yield { name: "value size", in: { q: heads(2, 3, 4, 8), k: heads(2, 3, 6, 8), v: heads(2, 3, 6, 10) }, attrs: { scale: aFloat(0.25) } };
    yield {
      name: "3-D, grouped",
      in: { q: heads(2, 4, 24), k: heads(2, 6, 12), v: heads(2, 6, 12) },
      attrs: { q_num_heads: aInt(4), kv_num_heads: aInt(2) },
    };
    yield {
      name: "past",
      in: {
        q: heads(1, 2, 3, 4),
        k: heads(1, 2, 3, 4),
        v: heads(1, 2, 3, 4),
        mask: random("float32", 3, 5),
        pastKey: heads(1, 2, 2, 4),
        pastValue: heads(1, 2, 2, 4),
      },
      outs: 4,
    };
    yield {
      name: "capped scores",
      in: { q: heads(2, 4, 5, 8), k: heads(2, 2, 7, 8), v: heads(2, 2, 7, 8), mask: random("float32", 5, 7) },
      attrs: { softcap: aFloat(0.5) },
    };
    yield {
      name: "capped scores, past",
      in: {
        q: heads(1, 4, 1, 8),
        k: heads(1, 2, 1, 8),
        v: heads(1, 2, 1, 8),
        pastKey: heads(1, 2, 6, 8),
        pastValue: heads(1, 2, 6, 8),
      },
      attrs: { softcap: aFloat(0.25), is_causal: aInt(1) },
      outs: 3,
    };
    yield { name: "causal", in: { q: heads(1, 2, 5, 4), k: heads(1, 2, 5, 4), v: heads(1, 2, 5, 4) }, attrs: { is_causal: aInt(1) } };
  },
});

export const rotaryEmbedding = defineOp({
  name: "RotaryEmbedding",
  doc: "Rotates pairs of features by angles whose cosines and sines are given: X [batch, heads, length, size] or [batch, length, heads * size].",
  reads: { onnx: [{ since: 23 }] },
  in: { x: tensor("T"), cos: tensor("T"), sin: tensor("T"), positions: optional("int64") },
  out: { y: tensor("T") },
  types: { T: FLOATS },
  attrs: { interleaved: flag(false), num_heads: int(0), rotary_embedding_dim: int(0) },
  role: "compute",
  infer: (at) => [fact(dtypeOf(at.in.x), shapeOf(at.in.x))],
  cost: perOutput(3),
  int8: absent("elementwise: it runs in float between the projections and the attention"),
  on: on(undefined, absent("the one-node form has no translation", "export the rotation as Mul, Sub, Add and Concat (opset 22 or lower)")),
  *samples() {
    yield { name: "4-D", in: { x: random("float32", 2, 3, 4, 8), cos: random("float32", 2, 4, 4), sin: random("float32", 2, 4, 4) } };
    yield {
      name: "3-D, interleaved",
      in: { x: random("float32", 2, 4, 24), cos: random("float32", 2, 4, 4), sin: random("float32", 2, 4, 4) },
      attrs: { interleaved: aInt(1), num_heads: aInt(3) },
    };
    yield {
      name: "positions",
      in: {
        x: random("float32", 1, 2, 3, 8),
        cos: random("float32", 10, 4),
        sin: random("float32", 10, 4),
        positions: { dtype: "int64", dims: [1, 3], fill: [4, 5, 9] },
      },
    };
    yield {
      name: "a part of the features",
      in: { x: random("float32", 2, 2, 3, 10), cos: random("float32", 2, 3, 3), sin: random("float32", 2, 3, 3) },
      attrs: { rotary_embedding_dim: aInt(6) },
    };
  },
});

/** Of opsets that ONNX Runtime 1.30 does not have; kept as they are, with types and costs. */
const tooNew = (fix: string) => ({
  ...hostOnly("no kernel for it yet, and no runtime has it", fix),
  host: absent("ONNX Runtime 1.30 stops at opset 26 and has no preview operators", fix),
});
export const linearAttention = defineOp({
  name: "LinearAttention",
  doc: "Recurrent attention with a matrix state per head: q, k, v [batch, length, heads * size], state [batch, heads, key size, value size].",
  reads: { onnx: [{ since: 27 }] },
  in: { q: tensor("T"), k: tensor("T"), v: tensor("T"), past: optional("T"), decay: optional("T"), beta: optional("T") },
  out: { y: tensor("T"), state: optional("T") },
  types: { T: FLOATS },
  attrs: { q_num_heads: int(), kv_num_heads: int(), update_rule: optString(), scale: optFloat(), chunk_size: optInt() },
  role: "compute",
  infer: (at) => {
    const { q_num_heads: heads, kv_num_heads: states } = at.attrs;
    const [q, k, v] = [shapeOf(at.in.q), shapeOf(at.in.k), shapeOf(at.in.v)];
    const [keys, values] = [dividedBy(k?.[2] ?? UNKNOWN, states), dividedBy(v?.[2] ?? UNKNOWN, states)];
    const dtype = dtypeOf(at.in.q);
    return [
      fact(dtype, q?.length === 3 ? [q[0] ?? UNKNOWN, q[1] ?? UNKNOWN, mul(values, heads)] : undefined),
      fact(dtype, [q?.[0] ?? UNKNOWN, states, keys, values]),
    ];
  },
  cost: (at) => {
    const state = (at.out[1]?.kind === "tensor" ? at.out[1].shape : undefined) ?? [];
    const length = shapeOf(at.in.q)?.[1] ?? 1;
    return { flops: 4 * [...state, length].reduce<number>((n, d) => n * (isStatic(d) ? d : 1), 1), bytes: traffic(at.in, at.out) };
  },
  int8: absent("the recurrence feeds its own rounding back; kept in float"),
  on: tooNew("export it as a Scan"),
  *samples() {
    const x = random("float32", 2, 4, 32);
    yield {
      name: "gated delta",
      in: { q: x, k: x, v: x, past: random("float32", 2, 4, 8, 8), decay: x, beta: random("float32", 2, 4, 4) },
      attrs: { q_num_heads: aInt(4), kv_num_heads: aInt(4) },
      outs: 2,
    };
  },
});
export const flexAttention = defineOp({
  name: "FlexAttention",
  domain: "ai.onnx.preview",
  doc: "Attention over [batch, heads, length, size] whose scores and probabilities pass through bodies of the model's own.",
  reads: { onnx: [{ since: 1 }] },
  in: { q: tensor("T"), k: tensor("T"), v: tensor("T") },
  out: { y: tensor("T") },
  types: { T: FLOATS64 },
  attrs: { scale: optFloat(), softmax_precision: optInt() },
  role: "compute",
  infer: (at) => {
    const [q, v] = [shapeOf(at.in.q), shapeOf(at.in.v)];
    return [fact(dtypeOf(at.in.q), q?.length === 4 ? [q[0] ?? UNKNOWN, q[1] ?? UNKNOWN, q[2] ?? UNKNOWN, v?.[3] ?? UNKNOWN] : undefined)];
  },
  cost: (at) => {
    const [q, k] = [headsOf(at.in.q, undefined), headsOf(at.in.k, undefined)];
    const scores = [q.batch, q.heads, q.length, k.length].reduce<number>((n, d) => n * (isStatic(d) ? d : 1), 1);
    return { flops: scores * (4 * (isStatic(q.size) ? q.size : 1) + 8), bytes: traffic(at.in, at.out) };
  },
  int8: absent("the products of activations stay in float; quantize the projections around it"),
  on: tooNew("export it as MatMul, Softmax and MatMul with the modifications between"),
  *samples() {
    const x = random("float32", 1, 2, 3, 4);
    yield { name: "plain", in: { q: x, k: x, v: x } };
  },
});
