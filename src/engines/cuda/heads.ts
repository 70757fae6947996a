/** What an Attention node asks of the attention kernel. */
import { product } from "./indexing.js";
import { type Operand, Refused, type Site } from "./site.js";
import { storage } from "./storage.js";
import type { AttentionProblem } from "./templates/index.js";

/** Along the second and third dim of a grid (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"): heads and items of the batch. */
const MOST_BLOCKS = 65_535;

type Sizes = Pick<AttentionProblem, "batch" | "heads" | "kvHeads" | "queries" | "keys" | "dim" | "dimV" | "scale" | "softcap" | "causal">;

/** The sizes of an Attention node, `keys` with those of the cache; `past` where there is one. Throws `Refused` for what the kernels do not do. */
export function attentionShape(s: Site): Sizes & { readonly past: number | undefined } {
  const [q, k, v] = [s.ins[0], s.ins[1], s.ins[2]];
  if (q === undefined || k === undefined || v === undefined) throw new Refused("an operand is missing");
  if (storage(q.dtype).register !== "float" || k.dtype !== q.dtype || v.dtype !== q.dtype) throw new Refused("its operands differ in type");
  const [pastK, pastV] = [s.ins[4], s.ins[5]];
  if ((pastK === undefined) !== (pastV === undefined)) throw new Refused("half a cache has no kernel");
  if (s.ins[6] !== undefined) throw new Refused("lengths of rows have no kernel", "mask the keys behind them");
  if (s.outs[3] !== undefined || (pastK === undefined && s.outs.slice(1).some((o) => o !== undefined)))
    throw new Refused("its further outputs are not given out");
  if (!(s.attrs.softcap >= 0)) throw new Refused("scores capped at a negative number have no kernel");
  const flat = q.dims.length === 3;
  const heads: number = flat ? s.attrs.q_num_heads : (q.dims[1] as number);
  const kvHeads: number = flat ? s.attrs.kv_num_heads : (k.dims[1] as number);
  const size = (x: Operand, n: number): number => (flat ? (x.dims[2] as number) / n : (x.dims[3] as number));
  const length = (x: Operand): number => x.dims[flat ? 1 : 2] as number;
  if (product(q.dims) === 0 || product(k.dims) === 0 || product(v.dims) === 0) throw new Refused("an empty operand has no kernel");
  if ((q.dims[0] as number) > MOST_BLOCKS || heads > MOST_BLOCKS)
    throw new Refused(`${q.dims[0]} items of ${heads} heads are more than one launch takes`, "run smaller batches");
  if (size(q, heads) > 256 || size(v, kvHeads) > 256) throw new Refused(`heads of ${size(q, heads)} channels have no kernel`);
  const past = pastK?.dims[2];
  checkMask(s.ins[3], [q.dims[0] as number, heads, length(q), length(k) + (past ?? 0)]);
  for (const [cache, x] of [
    [pastK, k],
    [pastV, v],
  ] as const)
    if (cache !== undefined && cache.dims.join() !== [q.dims[0], kvHeads, past, size(x, kvHeads)].join())
      throw new Refused(`a cache of dims [${cache.dims}] does not go with its keys`);
  return {
    past,
    batch: q.dims[0] as number,
    heads,
    kvHeads,
    queries: length(q),
    keys: length(k) + (past ?? 0),
    dim: size(q, heads),
    dimV: size(v, kvHeads),
    scale: s.attrs.scale ?? 1 / Math.sqrt(size(q, heads)),
    softcap: s.attrs.softcap === 0 ? undefined : s.attrs.softcap,
    causal: s.attrs.is_causal ? { offset: past ?? 0 } : undefined,
  };
}

/** The kernel reads the mask for every score: one that is narrower, which the operator fills up with closed keys, would be read beyond its end. */
function checkMask(mask: Operand | undefined, scores: readonly number[]): void {
  if (mask === undefined) return;
  const wanted = scores.slice(-mask.dims.length);
  const fits = mask.dims.length <= 4 && mask.dims.every((d, i) => d === wanted[i] || (d === 1 && i < mask.dims.length - 1));
  if (!fits) throw new Refused(`a mask of dims [${mask.dims}] does not go with scores [${scores}]`, "give it a column for every key");
}
