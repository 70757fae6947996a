/**
 * Rounding of weights by what a layer computes, not by what is nearest: every weight may go to the step below or above it, and those are taken
 * that leave the least of |W x - W' x|^2 over inputs x of the layer. That is the problem of AdaRound (Nagel et al., "Up or Down? Adaptive
 * Rounding for Post-Training Quantization", 2020, equation 13), e^T H e per output channel with H = E[x x^T] and e = w' - w; here it is solved by
 * descent over single weights from the nearest rounding, which is deterministic and never ends worse than it began. Layers are taken in the
 * order of the graph and see the inputs that the layers before them give once rounded.
 */
import { valueAt } from "../ir/graph.js";
import type { Graph, Node, NodeId, ValueId } from "../ir/types.js";
import type { Fact } from "../ops/define.js";
import { flagged, floats, groupsOf } from "../passes/weights.js";
import { roundHalfEven } from "./arithmetic.js";
import { byDepth, depthBefore, depthsOf, exposing } from "./layers.js";
import { type PlaceOptions, place } from "./place.js";
import { numbers } from "./score.js";
import type { FeedStore, QuantizerDecision, Ranges, Runner } from "./types.js";

export interface RoundingOptions extends PlaceOptions {
  readonly signal?: AbortSignal | undefined;
  /** Rounds over the feeds at most; layers of neighbouring depth share one. */
  readonly rounds?: number | undefined;
}

/** Layers whose output channels sum more products than this are left at the nearest: H has the square of it. */
const MOST_PRODUCTS = 1152;
/** Input vectors that H is taken from, over all feeds; and feeds. */
const SAMPLES = 2048;
const FEEDS = 32;
const PASSES = 4;
const MOST = 127;

/** A layer's weight as rows of products: `at(row, i)` is an element's place in the weight. */
interface Layer {
  readonly node: Node;
  readonly input: ValueId;
  readonly values: Float32Array;
  readonly scales: readonly number[];
  readonly rows: number;
  readonly products: number;
  readonly groups: number;
  readonly at: (row: number, i: number) => number;
  /** Vectors of inputs of one feed, for every group; `random` in [0, 1). */
  readonly sample: (
    x: ArrayLike<number>,
    dims: readonly number[],
    count: number,
    random: () => number,
    visit: (group: number, vector: Float64Array) => void,
  ) => void;
  readonly depth: number;
}

/** Steps of int8 by node, in the layout of its weight: what `place` takes as `rounded`. Layers that it does not cover are not among them. */
export async function learnRounding(
  g: Graph,
  factsOf: (g: Graph) => (v: ValueId) => Fact,
  ranges: Ranges,
  feeds: FeedStore,
  runner: Runner,
  options: RoundingOptions = {},
): Promise<ReadonlyMap<NodeId, Int8Array>> {
  const rounded = new Map<NodeId, Int8Array>();
  const facts = factsOf(g);
  if (feeds.length === 0) return rounded;
  const few = feeds.length > FEEDS ? feeds.split(FEEDS / feeds.length)[1] : feeds;
  const layers = layersOf(g, place(g, facts, ranges, options).decisions);
  for (const group of byDepth(layers, options.rounds ?? 12)) {
    const seen = await moments(place(g, facts, ranges, { ...options, rounded }).graph, group, few, runner, options.signal);
    for (const layer of group) {
      const h = seen.get(layer.node.id);
      if (h !== undefined) rounded.set(layer.node.id, descend(layer, h));
    }
  }
  return rounded;
}

function layersOf(g: Graph, decisions: readonly QuantizerDecision[]): readonly Layer[] {
  const weights = new Map(decisions.flatMap((d) => (d.kind === "weight" && d.reader !== undefined ? [[d.reader, d] as const] : [])));
  const depths = depthsOf(g, (n) => weights.has(n.id));
  return g.nodes.flatMap((node): Layer[] => {
    const d = weights.get(node.id);
    const [input, w] = node.ins;
    const weight = w === undefined ? undefined : g.constants.get(w);
    const values = floats(weight);
    if (d === undefined || d.value !== w || input === undefined || weight === undefined || values === undefined) return [];
    const form = node.op === "Conv" ? convolution(node, weight.dims) : product(node, weight.dims);
    if (form === undefined || form.products > MOST_PRODUCTS || form.rows % d.scales.length !== 0) return [];
    return [{ node, input, values, scales: d.scales, depth: depthBefore(depths, node), ...form }];
  });
}

type Form = Pick<Layer, "rows" | "products" | "groups" | "at" | "sample">;

function product(n: Node, dims: readonly number[]): Form | undefined {
  if ((n.op !== "MatMul" && n.op !== "Gemm") || dims.length !== 2 || flagged(n, "transA")) return undefined;
  const turned = n.op === "Gemm" && flagged(n, "transB");
  const [first = 0, second = 0] = dims;
  const [products, rows] = turned ? [second, first] : [first, second];
  return {
    rows,
    products,
    groups: 1,
    at: turned ? (row, i) => row * products + i : (row, i) => i * rows + row,
    sample(x, _, count, random, visit) {
      const all = x.length / products;
      const vector = new Float64Array(products);
      for (let s = 0; s < Math.min(count, all); s++) {
        const from = (count >= all ? s : Math.floor(random() * all)) * products;
        for (let i = 0; i < products; i++) vector[i] = x[from + i] as number;
        visit(0, vector);
      }
    },
  };
}

function convolution(n: Node, dims: readonly number[]): Form | undefined {
  const [rows = 0, perGroup = 0, ...kernel] = dims;
  const numbersOf = (name: string, fallback: readonly number[]): readonly number[] => {
    const a = n.attrs[name];
    return a?.kind === "ints" && a.value.length === fallback.length ? a.value.map(Number) : fallback;
  };
  const auto = n.attrs["auto_pad"];
  if (auto?.kind === "string" && auto.value !== "NOTSET" && auto.value !== "VALID") return undefined;
  const ones = kernel.map(() => 1);
  const [strides, dilations] = [numbersOf("strides", ones), numbersOf("dilations", ones)];
  const pads = numbersOf("pads", [...ones, ...ones].fill(0));
  const groups = groupsOf(n);
  const taps = kernel.reduce((a, b) => a * b, 1);
  const products = perGroup * taps;
  return {
    rows,
    products,
    groups,
    at: (row, i) => row * products + i,
    sample(x, shape, count, random, visit) {
      const [batch = 1, channels = 1, ...space] = shape;
      const out = space.map((size, a) => {
        const covered = (dilations[a] ?? 1) * ((kernel[a] ?? 1) - 1) + 1;
        return Math.floor((size + (pads[a] ?? 0) + (pads[a + space.length] ?? 0) - covered) / (strides[a] ?? 1)) + 1;
      });
      const positions = out.reduce((a, b) => a * b, batch);
      const plane = space.reduce((a, b) => a * b, 1);
      const vector = new Float64Array(products);
      for (let s = 0; s < Math.min(count, positions); s++) {
        let at = count >= positions ? s : Math.floor(random() * positions);
        const where: number[] = new Array(space.length).fill(0);
        for (let a = space.length - 1; a >= 0; a--) {
          where[a] = at % (out[a] ?? 1);
          at = Math.floor(at / (out[a] ?? 1));
        }
        const offsets = Array.from({ length: taps }, (_, t) => tapOffset(t, where, { kernel, strides, dilations, pads, space }));
        for (let group = 0; group < groups; group++) {
          for (let c = 0; c < perGroup; c++) {
            const from = (at * channels + group * perGroup + c) * plane;
            for (let t = 0; t < taps; t++) {
              const offset = offsets[t] as number;
              vector[c * taps + t] = offset < 0 ? 0 : (x[from + offset] as number);
            }
          }
          visit(group, vector);
        }
      }
    },
  };
}
interface Window {
  readonly kernel: readonly number[];
  readonly strides: readonly number[];
  readonly dilations: readonly number[];
  readonly pads: readonly number[];
  readonly space: readonly number[];
}
/** Place within a channel's plane of a tap's element, -1 in the padding. */
function tapOffset(tap: number, where: readonly number[], w: Window): number {
  let [offset, step, rest] = [0, 1, tap];
  for (let a = w.space.length - 1; a >= 0; a--) {
    const k = rest % (w.kernel[a] ?? 1);
    rest = Math.floor(rest / (w.kernel[a] ?? 1));
    const at = (where[a] ?? 0) * (w.strides[a] ?? 1) - (w.pads[a] ?? 0) + k * (w.dilations[a] ?? 1);
    const size = w.space[a] ?? 1;
    if (at < 0 || at >= size) return -1;
    offset += at * step;
    step *= size;
  }
  return offset;
}

/** Sums of x x^T by layer and group, of inputs as the layers read them in the quantized graph. */
async function moments(
  placed: Graph,
  layers: readonly Layer[],
  feeds: FeedStore,
  runner: Runner,
  signal: AbortSignal | undefined,
): Promise<ReadonlyMap<NodeId, readonly Float64Array[]>> {
  const nodes = new Map(placed.nodes.map((n) => [n.id, n]));
  const read = new Map(layers.map((l) => [l.node.id, nodes.get(l.node.id)?.ins[0] ?? l.input]));
  const open = await runner.open(exposing(placed, read.values()));
  const sums = new Map(layers.map((l) => [l.node.id, Array.from({ length: l.groups }, () => new Float64Array(l.products ** 2))]));
  try {
    for await (const feed of feeds.all()) {
      // The same places in every feed: what is drawn does not depend on the feeds' order.
      const random = lehmer(1);
      signal?.throwIfAborted();
      const out = await open.run(feed);
      for (const l of layers) {
        const t = out[valueAt(placed, read.get(l.node.id) as ValueId).name];
        const x = t === undefined ? undefined : numbers(t);
        if (t === undefined || x === undefined) continue;
        const all = sums.get(l.node.id) ?? [];
        l.sample(x, t.dims, Math.ceil(SAMPLES / feeds.length), random, (group, v) => add(all[group] as Float64Array, v));
      }
    }
  } finally {
    await open.dispose();
  }
  return sums;
}

/** Lehmer's generator of period 2^31 - 2. */
function lehmer(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 48271) % 2147483647;
    return state / 2147483647;
  };
}

/** h += v v^T; activations are often zero. */
function add(h: Float64Array, v: Float64Array): void {
  const n = v.length;
  const filled: number[] = [];
  for (let i = 0; i < n; i++) if (v[i] !== 0) filled.push(i);
  for (const i of filled) {
    const a = v[i] as number;
    const row = i * n;
    for (const j of filled) h[row + j] = (h[row + j] as number) + a * (v[j] as number);
  }
}

/** Descent over single weights, row by row: a step is taken when it lowers e^T H e. */
function descend(l: Layer, h: readonly Float64Array[]): Int8Array {
  const n = l.products;
  const steps = new Int8Array(l.values.length);
  const perGroup = l.rows / l.groups;
  const [q, below, e, slope] = [new Int32Array(n), new Int32Array(n), new Float64Array(n), new Float64Array(n)];
  for (let row = 0; row < l.rows; row++) {
    const s = l.scales[row % l.scales.length] as number;
    const matrix = h[Math.floor(row / perGroup)] as Float64Array;
    for (let i = 0; i < n; i++) {
      const w = l.values[l.at(row, i)] as number;
      const t = Math.fround(w / s);
      q[i] = clamp(roundHalfEven(t));
      below[i] = Math.floor(t);
      e[i] = (q[i] as number) * s - w;
    }
    slope.fill(0);
    for (let i = 0; i < n; i++) {
      const v = e[i] as number;
      if (v !== 0) for (let j = 0; j < n; j++) slope[j] = (slope[j] as number) + v * (matrix[i * n + j] as number);
    }
    for (let pass = 0, moved = true; pass < PASSES && moved; pass++) {
      moved = false;
      for (let i = 0; i < n; i++) {
        const own = matrix[i * n + i] as number;
        const now = q[i] as number;
        const other = clamp(now === below[i] ? now + 1 : (below[i] as number));
        const d = (other - now) * s;
        // Of two roundings that a layer cannot tell apart, the nearest stays.
        if (d === 0 || own === 0 || 2 * d * (slope[i] as number) + d * d * own >= -1e-9 * own * s * s) continue;
        q[i] = other;
        moved = true;
        for (let j = 0; j < n; j++) slope[j] = (slope[j] as number) + d * (matrix[i * n + j] as number);
      }
    }
    for (let i = 0; i < n; i++) steps[l.at(row, i)] = q[i] as number;
  }
  return steps;
}
const clamp = (x: number): number => Math.max(-MOST, Math.min(MOST, x));
