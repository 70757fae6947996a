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
        /** It begins at an even element of its buffer. */
        readonly even: boolean;
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

/** [queries of a block, warps] */
const shapes: readonly (readonly [number, number])[] = [
  [128, 4],
  [64, 4],
  [256, 8],
  [128, 8],
  [64, 2],
  [32, 2],
  [16, 1],
];

const tilesOf = (t: AttentionTactic) => t.queries / 16 / t.warps;
/** Whether Q stays in registers: where it leaves room. */
const keepsQ = (p: AttentionProblem, t: AttentionTactic) => (tilesOf(t) * roundUp(p.dim, 16)) / 4 <= 32;
/** Registers a thread of the matrix-unit kernel needs, roughly. */
function registers(p: AttentionProblem, t: AttentionTactic): number {
  const q = keepsQ(p, t) ? roundUp(p.dim, 16) / 4 : 4;
  return tilesOf(t) * (roundUp(p.dimV, 16) / 2 + t.keys / 2 + q + 8) + Math.round(28 + 0.18 * t.keys) + (p.mask === undefined ? 0 : 14);
}
function minBlocks(p: AttentionProblem, t: AttentionTactic): number {
  // Each of four schedulers has 512 registers a lane for its warps.
  const byRegisters = Math.floor((4 * Math.floor(512 / registers(p, t))) / t.warps);
  return Math.max(1, Math.min(byRegisters, Math.floor(233472 / (attentionShared(p, t) + 1024)), Math.floor(2048 / (t.warps * 32)), 8));
}

/** Tactics for an attention, the best guess first; none when the heads are too large for the machine's shared memory or registers. */
export function attentionTactics(p: AttentionProblem, device: DeviceModel): AttentionTactic[] {
  if (p.dim > 256 || p.dimV > 256) return [];
  const simt = p.dtype === "f32";
  const all: AttentionTactic[] = simt
    ? [64, 32].map((keys) => ({ template: "attention-simt" as const, queries: 64, keys, warps: 4 }))
    : shapes.flatMap(([queries, warps]) => [64, 128, 32].map((keys) => ({ template: "attention" as const, queries, keys, warps })));
  const wide = Math.max(p.dim, p.dimV);
  // Heads of more than 128 channels leave registers for 64 keys at a time.
  const fits = (t: AttentionTactic) =>
    attentionShared(p, t) <= device.sharedPerBlock && (t.keys <= (simt ? 32 : 64) || wide <= 128) && (simt || registers(p, t) <= 250);
  const cost = (t: AttentionTactic) => {
    const blocks = Math.ceil(p.queries / t.queries) * p.heads * p.batch;
    const resident = Math.min(
      Math.floor(233472 / (attentionShared(p, t) + 1024)),
      Math.floor(2048 / (t.warps * 32)),
      Math.floor(65536 / (t.warps * 32 * (simt ? 128 : registers(p, t)))),
    );
    const each = Math.ceil(blocks / device.multiprocessors);
    const together = Math.max(1, Math.min(resident, each));
    // Ten warps hide each other's latencies, better so in blocks that wait apart; blocks of few queries read keys and values more often.
    const rate = Math.min(1, (together * t.warps) / 10) ** 0.7 * (together > 1 ? 1 : 0.8) * (simt || tilesOf(t) > 1 ? 1 : 0.99);
    const padded = Math.ceil(p.keys / t.keys) * t.keys;
    return (each * t.queries * padded * (1 + 12 / t.keys) * (1 + 12 / t.queries)) / rate;
  };
  return all.filter(fits).sort((a, b) => cost(a) - cost(b));
}

/** Whether the mask's elements of keys 2i and 2i + 1 can be read as one. */
function pairs({ mask: m, keys }: AttentionProblem): boolean {
  return m?.key === 1 && m.even && [keys, m.batch, m.head, m.query].every((n) => n % 2 === 0);
}

/** What stands in the templates where there is a mask. One that is the same for all queries is read once for all of a thread's rows. */
function maskText({ mask }: AttentionProblem, simt: boolean): Readonly<Record<string, string>> {
  const none = { mask: "", mask_of_keys: "", mask_of_query: "", apply_mask: "", apply_mask_simt: "" };
  if (mask === undefined) return none;
  const text = templateText("attention_mask.cu").trimEnd();
  if (simt) return { ...none, mask: text, apply_mask_simt: "        x = masked(x, mask, batch, head, query, key);" };
  const shared = mask.query === 0;
  return {
    ...none,
    mask: `${text}\n${templateText("attention_mask_pairs.cu").trimEnd()}`,
    ...(shared
      ? { mask_of_keys: "        const MaskPair m = mask_pair(mask, batch, head, 0, key);" }
      : { mask_of_query: "            const MaskPair m = mask_pair(mask, batch, head, row + i * 16 + h * 8, key);" }),
    apply_mask: "              x = with_mask(x, m.e[c]);",
  };
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
        : {
            DIM_P: dimP,
            DIM_V_P: roundUp(p.dimV, 16),
            WARPS: t.warps,
            TILES: t.queries / 16 / t.warps,
            MIN_BLOCKS: minBlocks(p, t),
            VE_K: chunk(p.dim, p.q, p.k),
            VE_V: chunk(p.dimV, p.v),
          }),
      BKEYS: t.keys,
      GROUP: p.heads / p.kvHeads,
      MASK: p.mask === undefined ? 0 : { f32: 1, f16: 2, bf16: 3, bool: 4 }[p.mask.dtype],
      ...(simt || p.mask === undefined ? {} : { MASK_PAIRS: pairs(p) }),
      CAUSAL_OFFSET: p.causal?.offset ?? 0,
      PRECISION: precisionIndex[p.dtype],
      ES: bytes,
      CAUSAL: p.causal !== undefined,
      SOFTCAP: p.softcap !== undefined,
      ...(simt ? {} : { KEEP_Q: keepsQ(p, t), FOLD: p.mask === undefined && p.softcap === undefined && p.scale > 0 }),
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
      more: maskText(p, simt),
    }),
    arch: "sm_80",
    grid: [Math.ceil(p.queries / t.queries), p.heads, p.batch],
    block: [t.warps * 32, 1, 1],
    shared: attentionShared(p, t),
    arguments: ["q", "k", "v", "out", ...(p.mask === undefined ? [] : ["mask"])].map((operand) => ({ kind: "operand" as const, operand })),
  };
}
