/**
 * Factors that even out the channels of activations before quantization. A tensor has one scale; where its channels' ranges lie far apart, the
 * small ones get few of its 255 levels. Scaling moves the difference into the weights, which have scales of their own per output channel.
 */
import type { Graph, ValueId } from "../ir/types.js";
import type { Fact } from "../ops/define.js";
import { type ChannelClass, channelClasses, inputShares, scaleChannels } from "./channels.js";
import { entryClasses } from "./entries.js";

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
/** Classes whose factors differ by less are left alone; those of inputs take an operator more, and must win two bits for it. */
const WORTH = 1.05;
const WORTH_A_MUL = 4;

/** Exponents of the activations' ranges; undefined: these classes are left alone. */
export interface Alphas {
  readonly alpha: number | undefined;
  /** Of the graph's inputs, which a Mul scales. */
  readonly inputs: number | undefined;
}

/** The tensors whose channel ranges `equalize` wants to know, with their axes of channels; of inputs those that will be `quantized`. */
export function equalizable(g: Graph, facts: (v: ValueId) => Fact, quantized: ReadonlySet<ValueId>): ReadonlyMap<ValueId, number> {
  const wanted = new Map<ValueId, number>();
  for (const c of entryClasses(g, facts)) for (const { value, axis } of c.tensors) if (quantized.has(value)) wanted.set(value, axis);
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
  { alpha, inputs }: Alphas,
): { readonly graph: Graph; readonly equalized: readonly Equalized[] } {
  const chosen: { of: ChannelClass; factors: Float64Array }[] = [];
  const equalized: Equalized[] = [];
  const classes = [
    ...(inputs === undefined ? [] : entryClasses(g, facts).map((of) => ({ of, exponent: inputs, worth: WORTH_A_MUL }))),
    ...(alpha === undefined ? [] : channelClasses(g, facts).map((of) => ({ of, exponent: alpha, worth: WORTH }))),
  ];
  for (const { of, exponent, worth } of classes) {
    const factors = factorsOf(g, of, ranges, exponent);
    const spread = factors === undefined ? 0 : largest(factors) * largest(factors.map((f) => 1 / f));
    if (factors === undefined || !(spread >= worth)) continue;
    chosen.push({ of, factors });
    equalized.push({ tensors: of.tensors.map((t) => g.values[t.value]?.name ?? ""), spread });
  }
  return { graph: chosen.length === 0 ? g : scaleChannels(g, chosen), equalized };
}

/** Of positive numbers, of which there may be more than a call takes arguments. */
const largest = (values: Float64Array): number => values.reduce((a, v) => Math.max(a, v), 0);

function factorsOf(g: Graph, c: ChannelClass, ranges: ChannelRanges, alpha: number): Float64Array | undefined {
  const active = new Float64Array(c.channels);
  for (const { value } of readTensors(g, c)) {
    const range = ranges.get(g.values[value]?.name ?? "");
    if (range === undefined || range.length !== c.channels) return undefined;
    for (let i = 0; i < c.channels; i++) active[i] = Math.max(active[i] as number, range[i] as number);
  }
  const most = largest(active);
  if (!(most > 0) || !Number.isFinite(most)) return undefined;
  const shares = sharesOf(g, c);
  const exponent = shares === undefined ? 1 : alpha;
  const factors = active.map((a, i) =>
    a === 0 ? Number.NaN : Math.max(shares?.[i] ?? 1, SILENT) ** (1 - exponent) / Math.max(a, SILENT * most) ** exponent,
  );
  // A channel that never spoke keeps its size beside the loudest.
  const reach = largest(factors.map((f, i) => (Number.isNaN(f) ? 0 : f * (active[i] as number))));
  const scaled = factors.map((f) => (Number.isNaN(f) ? 1 : (f * most) / reach));
  return scaled.every((f) => Number.isFinite(1 / f)) ? scaled : undefined;
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
