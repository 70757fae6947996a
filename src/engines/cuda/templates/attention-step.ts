/** Attention of few queries over a cache and what is new behind it, as one kernel that also writes the grown cache. */
import type { AttentionProblem, HeadStrides } from "./attention.js";
import { chunkElements } from "./contraction.js";
import type { DeviceModel } from "./tactics.js";
import { constantsText, instantiate, type KernelText, templateText } from "./text.js";

type Stored = "f16" | "bf16" | "f32";
/** Keys or values in memory. */
export interface CachePart extends HeadStrides {
  readonly dtype: Stored;
  /** Whether its first element lies on a multiple of 16 bytes. */
  readonly aligned: boolean;
}
/** `k` and `v` are the new ones, `keys` counts those of the past too. */
export interface AttentionStep extends Omit<AttentionProblem, "causal"> {
  readonly causal: boolean;
  /** Keys in the cache; 0 where it is empty. */
  readonly past: number;
  readonly pastK: CachePart;
  readonly pastV: CachePart;
  /** Where the cache with the new ones goes, where somebody wants it. */
  readonly grownK: CachePart | undefined;
  readonly grownV: CachePart | undefined;
  /** Whether q, k and v start on multiples of 16 bytes. */
  readonly aligned: boolean;
}

const THREADS = 256;
/** Rows of one head of keys, all its queries: more are better off on the matrix units. */
const MOST_ROWS = 16;
const bytesOf = (t: Stored): number => (t === "f32" ? 4 : 2);
const typeName: Readonly<Record<Stored, string>> = { f16: "Half", bf16: "Brain", f32: "float" };

interface Spread {
  readonly splits: number;
  readonly span: number;
  readonly slices: number;
  readonly veK: number;
  readonly veV: number;
  readonly shared: number;
}

/** How the keys are spread over the blocks of a cluster; undefined where the problem is not one for this kernel. */
function spreadOf(p: AttentionStep, device: DeviceModel): Spread | undefined {
  const rows = p.queries * (p.heads / p.kvHeads);
  if (rows > MOST_ROWS || p.dim > 256 || p.dimV > 256) return undefined;
  const clusters = device.arch.startsWith("sm_9") || device.arch.startsWith("sm_1");
  const wanted = Math.min(device.multiprocessors / (p.kvHeads * p.batch), p.keys / 64);
  let splits = 1;
  while (clusters && splits < 8 && splits * 2 <= wanted) splits *= 2;
  const chunk = (dim: number, parts: readonly (CachePart | undefined)[], own: HeadStrides): number => {
    const all = [...parts.filter((x) => x !== undefined), { ...own, dtype: p.dtype, aligned: p.aligned }];
    const widest = Math.max(...all.map((x) => bytesOf(x.dtype)));
    const strides = all.flatMap((x) => [...(p.batch > 1 ? [x.batch] : []), x.head, x.position]);
    // One access of the widest type takes 16 bytes at most.
    return all.every((x) => x.aligned) ? chunkElements(widest, 16, [dim, ...strides]) : 1;
  };
  const [veK, veV] = [chunk(p.dim, [p.pastK, p.grownK], p.k), chunk(p.dimV, [p.pastV, p.grownV], p.v)];
  for (; ; splits *= 2) {
    const span = Math.ceil(p.keys / splits);
    for (let slices = Math.floor((THREADS * veV) / p.dimV); slices >= 1; slices = Math.floor(slices / 2)) {
      const shared = 4 * rows * (p.dim + span + 2 + p.dimV + slices * p.dimV);
      if (shared <= device.sharedPerBlock) return { splits, span, slices, veK, veV, shared };
    }
    if (!clusters || splits >= 8) return undefined;
  }
}
/** Whether the kernel takes it: few queries, and scores that fit shared memory. */
export const takesStep = (p: AttentionStep, device: DeviceModel): boolean => spreadOf(p, device) !== undefined;

/** Source and launch: (const T* q, const T* k, const T* v, T* out, past_k, past_v, [grown_k], [grown_v], [mask]). */
export function attentionStepKernel(p: AttentionStep, device: DeviceModel, name: string): KernelText {
  const s = spreadOf(p, device);
  if (s === undefined) throw new RangeError(`${name}: too many queries or keys for one step`);
  const strides = (prefix: string, x: HeadStrides | undefined) => ({
    [`${prefix}_B`]: x?.batch ?? 0,
    [`${prefix}_H`]: x?.head ?? 0,
    [`${prefix}_S`]: x?.position ?? 0,
  });
  const wide = {
    ...strides("Q", p.q),
    ...strides("K", p.k),
    ...strides("V", p.v),
    ...strides("O", p.out),
    ...strides("PK", p.pastK),
    ...strides("PV", p.pastV),
    ...strides("GK", p.grownK),
    ...strides("GV", p.grownV),
    ...(p.mask === undefined ? {} : { M_B: p.mask.batch, M_H: p.mask.head, M_Q: p.mask.query, M_K: p.mask.key }),
  };
  const maskType = { f32: "float", f16: "unsigned short", bf16: "unsigned short", bool: "unsigned char" };
  const float = (value: number) => `${Math.fround(value)}`.replace(/^(-?\d+)$/, "$1.0").concat("f");
  const constants = [
    constantsText({
      SPLITS: s.splits,
      SPAN: s.span,
      SLICES: s.slices,
      QUERIES: p.queries,
      KEYS: p.keys,
      PAST: p.past,
      GROUP: p.heads / p.kvHeads,
      DIM: p.dim,
      DIM_V: p.dimV,
      VE_K: s.veK,
      VE_V: s.veV,
      THREADS,
      MASK: p.mask === undefined ? 0 : { f32: 1, f16: 2, bf16: 3, bool: 4 }[p.mask.dtype],
      CAUSAL: p.causal,
      STORE_K: p.grownK !== undefined,
      STORE_V: p.grownV !== undefined,
    }),
    `constexpr long long ${Object.entries(wide)
      .map(([key, value]) => `${key} = ${value}`)
      .join(", ")};`,
    `constexpr float SCALE = ${float(p.scale)}${p.softcap === undefined ? "" : `, CAP = ${float(p.softcap)}`};`,
    "#define INFINITE __int_as_float(0x7f800000)",
    ...(p.mask === undefined ? [] : [`using MaskT = ${maskType[p.mask.dtype]};`]),
  ];
  const types = [
    `using T = ${typeName[p.dtype]};`,
    // A cache that nobody wants has no parameter either.
    ...(p.grownK === undefined ? ["constexpr T* grown_k = nullptr;"] : []),
    ...(p.grownV === undefined ? ["constexpr T* grown_v = nullptr;"] : []),
    ...(p.mask === undefined ? ["constexpr int mask = 0;", "__device__ float masked(float, int, int, int, int, int);"] : []),
  ];
  const operands: readonly (readonly [operand: string, declaration: string])[] = [
    ["pastK", `const ${typeName[p.pastK.dtype]}* __restrict__ past_k`],
    ["pastV", `const ${typeName[p.pastV.dtype]}* __restrict__ past_v`],
    ...(p.grownK === undefined ? [] : ([["grownK", `${typeName[p.grownK.dtype]}* __restrict__ grown_k`]] as const)),
    ...(p.grownV === undefined ? [] : ([["grownV", `${typeName[p.grownV.dtype]}* __restrict__ grown_v`]] as const)),
    ...(p.mask === undefined ? [] : ([["mask", "const MaskT* __restrict__ mask"]] as const)),
  ];
  return {
    name,
    source: instantiate("attention_step.cu", {
      name,
      constants: constants.join("\n"),
      scratchParams: operands.map(([, declaration]) => declaration),
      more: {
        types: types.join("\n"),
        cap: p.softcap === undefined ? "" : "      score = CAP * tanhf(score / CAP);",
        mask: p.mask === undefined ? "" : templateText("attention_mask.cu").trimEnd(),
      },
    }),
    arch: s.splits > 1 ? "sm_90a" : "sm_80",
    grid: [s.splits, p.kvHeads, p.batch],
    block: [THREADS, 1, 1],
    shared: s.shared,
    ...(s.splits > 1 ? { cluster: [s.splits, 1, 1] as const } : {}),
    arguments: ["q", "k", "v", "out", ...operands.map(([operand]) => operand)].map((operand) => ({ kind: "operand" as const, operand })),
  };
}
