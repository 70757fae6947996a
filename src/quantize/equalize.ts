/**
 * Factors that even out the channels of activations before quantization. A tensor has one scale; where its channels' ranges lie far apart, the
 * small ones get few of its 255 levels. Scaling moves the difference into the weights, which have scales of their own per output channel.
 */
import type { Graph, ValueId } from "../ir/types.js";
import type { Fact } from "../ops/define.js";
import { type ChannelClass, channelClasses, inputShares, scaleChannels } from "./channels.js";

/** Largest magnitude per channel, by the name of a value. */
export type ChannelRanges = ReadonlyMap<string, ArrayLike<number>>;

/** A class whose channels are scaled, for the report. */
export interface Equalized {
  /** Names of the tensors that changed range. */
  readonly tensors: readonly string[];
  /** Largest over smallest factor. */
  readonly spread: number;
}

/** Ranges below this share of the largest count as this share: a channel that is nearly silent must not be blown up without bound. */
const SILENT = 1e-6;
/** Classes whose factors differ by less are left alone. */
const WORTH = 1.05;

/** The tensors whose channel ranges `equalize` wants to know, with their axes of channels. */
export function equalizable(g: Graph, facts: (v: ValueId) => Fact): ReadonlyMap<ValueId, number> {
  const wanted = new Map<ValueId, number>();
  for (const c of channelClasses(g, facts)) for (const { value, axis } of readTensors(g, c)) wanted.set(value, axis);
  return wanted;
}

/**
 * Scales every class by f_c = w_c^(1 - alpha) / a_c^alpha, up to a common factor that keeps the largest range: a_c is the channel's largest
 * magnitude, w_c what it takes of its consumers' weight ranges (SmoothQuant's s = a^alpha / w^(1 - alpha), inverted; alpha 0.5 is
 * cross-layer equalization). A class that only depthwise convolutions read is evened out wholly. The graph computes what it did, up to the rounding of
 * the weights.
 */
export function equalize(
  g: Graph,
  facts: (v: ValueId) => Fact,
  ranges: ChannelRanges,
  alpha: number,
): { readonly graph: Graph; readonly equalized: readonly Equalized[] } {
  const chosen: { of: ChannelClass; factors: Float64Array }[] = [];
  const equalized: Equalized[] = [];
  for (const of of channelClasses(g, facts)) {
    const factors = factorsOf(g, of, ranges, alpha);
    if (factors === undefined) continue;
    chosen.push({ of, factors });
    equalized.push({ tensors: of.tensors.map((t) => g.values[t.value]?.name ?? ""), spread: Math.max(...factors) / Math.min(...factors) });
  }
  return { graph: chosen.length === 0 ? g : scaleChannels(g, chosen), equalized };
}

function factorsOf(g: Graph, c: ChannelClass, ranges: ChannelRanges, alpha: number): Float64Array | undefined {
  const active = new Float64Array(c.channels);
  for (const { value } of readTensors(g, c)) {
    const range = ranges.get(g.values[value]?.name ?? "");
    if (range === undefined || range.length !== c.channels) return undefined;
    for (let i = 0; i < c.channels; i++) active[i] = Math.max(active[i] as number, range[i] as number);
  }
  const largest = Math.max(...active);
  if (!(largest > 0) || !Number.isFinite(largest)) return undefined;
  const shares = sharesOf(g, c);
  const exponent = shares === undefined ? 1 : alpha;
  const factors = active.map((a, i) =>
    a === 0 ? Number.NaN : Math.max(shares?.[i] ?? 1, SILENT) ** (1 - exponent) / Math.max(a, SILENT * largest) ** exponent,
  );
  // A channel that never spoke keeps its size beside the loudest.
  const reach = Math.max(...factors.map((f, i) => (Number.isNaN(f) ? 0 : f * (active[i] as number))));
  const scaled = factors.map((f) => (Number.isNaN(f) ? 1 : (f * largest) / reach));
  const spread = Math.max(...scaled) / Math.min(...scaled);
  return spread < WORTH || !Number.isFinite(spread) ? undefined : scaled;
}

/** Tensors of a class that a consumer reads, which are the ones that will be quantized. */
function readTensors(g: Graph, c: ChannelClass): ChannelClass["tensors"] {
  const consumers = new Set(c.consumers);
  const read = new Set(g.nodes.flatMap((n) => (consumers.has(n.id) ? [n.ins[0]] : [])));
  return c.tensors.filter((t) => read.has(t.value));
}

function sharesOf(g: Graph, c: ChannelClass): Float64Array | undefined {
  const consumers = new Set(c.consumers);
  let most: Float64Array | undefined;
  for (const n of g.nodes) {
    if (!consumers.has(n.id)) continue;
    const shares = inputShares(g, n, c.channels);
    if (shares !== undefined) most = most === undefined ? shares : shares.map((s, i) => Math.max(s, most?.[i] ?? 0));
  }
  return most;
}
