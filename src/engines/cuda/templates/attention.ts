/** Attention as one kernel: softmax(scale * Q K^T + mask) V without the scores ever reaching memory. */
import { chunkElements } from "./contraction.js";
import { precisionIndex, storageType } from "./problem.js";
import type { AttentionTactic, DeviceModel } from "./tactics.js";
import { constantsText, instantiate, type KernelText, templateText } from "./text.js";

/** Strides of [batch, head, position, channel] in elements; channels are contiguous. */
export interface HeadStrides {
  readonly batch: number;
  readonly head: number;
  readonly position: number;
}

export interface AttentionProblem {
  readonly batch: number;
  readonly heads: number;
  /** Heads of k and v; divides `heads`. Query head h reads head floor(h / (heads / kvHeads)). */
  readonly kvHeads: number;
  readonly queries: number;
  readonly keys: number;
  /** Channels of a head of q and k. */
  readonly dim: number;
  /** Channels of a head of v and the result. */
  readonly dimV: number;
  readonly dtype: "f16" | "bf16" | "f32";
  readonly scale: number;
  /** Scores become softcap * tanh(score / softcap), before the mask. */
  readonly softcap?: number | undefined;
  /** Key j is seen by query i when j <= i + offset; offset is the number of past keys. */
  readonly causal?: { readonly offset: number } | undefined;
  /** Added to the scores, or (bool) keys kept where true. Strides may be 0. */
  readonly mask?:
    | {
        readonly dtype: "f32" | "f16" | "bf16" | "bool";
        readonly batch: number;
        readonly head: number;
        readonly query: number;
        readonly key: number;
      }
    | undefined;
  readonly q: HeadStrides;
  readonly k: HeadStrides;
  readonly v: HeadStrides;
  readonly out: HeadStrides;
}

const roundUp = (value: number, unit: number) => Math.ceil(value / unit) * unit;

/** Dynamic shared memory of a tactic, bytes. */
export function attentionShared(p: AttentionProblem, t: AttentionTactic): number {
  if (t.template === "attention-simt") {
    const dimV = roundUp(p.dimV, 32);
    return 4 * (p.dim * 68 + p.dim * (t.keys + 4) + t.keys * (dimV + 4) + t.keys * 68);
  }
  const rowK = roundUp(p.dim, 16) * 2 + 16;
  const rowV = roundUp(p.dimV, 16) * 2 + 16;
  return (t.queries + t.keys) * rowK + t.keys * rowV;
}

/** Tactics for an attention, the best guess first; none when the heads are too large for the machine's shared memory or registers. */
export function attentionTactics(p: AttentionProblem, device: DeviceModel): AttentionTactic[] {
  if (p.dim > 256 || p.dimV > 256) return [];
  const simt = p.dtype === "f32";
  const all: AttentionTactic[] = simt
    ? [64, 32].map((keys) => ({ template: "attention-simt" as const, queries: 64, keys }))
    : [128, 64, 32, 16].flatMap((queries) => [64, 128, 32].map((keys) => ({ template: "attention" as const, queries, keys })));
  const wide = Math.max(p.dim, p.dimV);
  const fits = (t: AttentionTactic) =>
    attentionShared(p, t) <= device.sharedPerBlock &&
    (simt ? t.keys === 32 || wide <= 128 : t.keys * 4 + roundUp(p.dimV, 16) * 4 <= (wide > 128 ? 1300 : 1100));
  const cost = (t: AttentionTactic) => {
    const blocks = Math.ceil(p.queries / t.queries) * p.heads * p.batch;
    const warps = t.queries / 16;
    const each = Math.ceil(blocks / device.multiprocessors);
    // A block's time: its keys, at a rate that grows with its warps until four schedulers are fed.
    const rate = Math.min(1, (Math.min(each, 2) * warps) / 8);
    const tail = roundUp(p.keys, t.keys) * (1 + 12 / t.keys);
    return (each * warps * tail) / rate + (simt ? 0 : wide > 128 && t.keys > 64 ? 1e6 : 0);
  };
  return all.filter(fits).sort((a, b) => cost(a) - cost(b));
}

/** Source and launch: (const T* q, const T* k, const T* v, T* out, [mask]). */
export function attentionKernel(p: AttentionProblem, t: AttentionTactic, name: string): KernelText {
  const simt = t.template === "attention-simt";
  const bytes = simt ? 4 : 2;
  const strides = (prefix: string, s: HeadStrides) => ({ [`${prefix}_B`]: s.batch, [`${prefix}_H`]: s.head, [`${prefix}_S`]: s.position });
  const chunk = (dim: number, ...list: readonly HeadStrides[]) =>
    chunkElements(bytes, 16, [dim, ...list.flatMap((s) => [...(p.batch > 1 ? [s.batch] : []), s.head, s.position])]);
  const dimP = roundUp(p.dim, 16);
  const wide = {
    ...strides("Q", p.q),
    ...strides("K", p.k),
    ...strides("V", p.v),
    ...strides("O", p.out),
    ...(p.mask === undefined ? {} : { M_B: p.mask.batch, M_H: p.mask.head, M_Q: p.mask.query, M_K: p.mask.key }),
  };
  const maskType = { f32: "float", f16: "unsigned short", bf16: "unsigned short", bool: "unsigned char" };
  const float = (value: number) => `${Math.fround(value)}`.replace(/^(-?\d+)$/, "$1.0").concat("f");
  const constants = [
    `using T = ${storageType[p.dtype]};`,
    "using Acc = float;",
    constantsText({
      QUERIES: p.queries,
      KEYS: p.keys,
      DIM: p.dim,
      DIM_V: p.dimV,
      ...(simt ? { DIM_V_P: roundUp(p.dimV, 32), VE_V: chunk(p.dimV, p.v) } : {}),
      ...(simt
        ? {}
        : { DIM_P: dimP, DIM_V_P: roundUp(p.dimV, 16), WARPS: t.queries / 16, VE_K: chunk(p.dim, p.q, p.k), VE_V: chunk(p.dimV, p.v) }),
      BKEYS: t.keys,
      GROUP: p.heads / p.kvHeads,
      MASK: p.mask === undefined ? 0 : { f32: 1, f16: 2, bf16: 3, bool: 4 }[p.mask.dtype],
      CAUSAL_OFFSET: p.causal?.offset ?? 0,
      PRECISION: precisionIndex[p.dtype],
      ES: bytes,
      CAUSAL: p.causal !== undefined,
      SOFTCAP: p.softcap !== undefined,
      ...(simt ? {} : { KEEP_Q: dimP <= 128 }),
    }),
    `constexpr long long ${Object.entries(wide)
      .map(([key, value]) => `${key} = ${value}`)
      .join(", ")};`,
    `constexpr float SCALE = ${float(p.scale)}, CAP = ${float(p.softcap ?? 1)};`,
    "#define INFINITE __int_as_float(0x7f800000)",
    ...(p.mask === undefined ? [] : [`using MaskT = ${maskType[p.mask.dtype]};`]),
  ];
  return {
    name,
    source: instantiate(simt ? "attention_simt.cu" : "attention.cu", {
      name,
      constants: constants.join("\n"),
      scratchParams: p.mask === undefined ? [] : ["const MaskT* __restrict__ mask"],
      more: {
        apply_mask: p.mask === undefined ? "" : "        x = masked(x, mask, batch, head, query, key);",
        mask: p.mask === undefined ? "" : templateText("attention_mask.cu").trimEnd(),
      },
    }),
    arch: "sm_80",
    grid: [Math.ceil(p.queries / t.queries), p.heads, p.batch],
    block: [simt ? 128 : t.queries * 2, 1, 1],
    shared: attentionShared(p, t),
    arguments: ["q", "k", "v", "out", ...(p.mask === undefined ? [] : ["mask"])].map((operand) => ({ kind: "operand" as const, operand })),
  };
}
