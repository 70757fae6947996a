/**
 * Bias correction: rounding weights and clipping activations move the mean of a layer's outputs, channel by channel; the bias takes the move
 * back (Nagel et al., 2019, section 4.2, measured on calibration feeds). Layers are corrected in the order of the graph, so that a layer sees
 * inputs that are corrected already.
 */
import { Editor } from "../ir/edit.js";
import { usesOf, valueAt } from "../ir/graph.js";
import type { Graph, Node, NodeId, ValueId } from "../ir/types.js";
import { type Fact, rankOf } from "../ops/define.js";
import { flagged, floats, floatsConstant, groupsOf, outputAxis } from "../passes/weights.js";
import { byDepth, depthBefore, depthsOf, exposing } from "./layers.js";
import { type PlaceOptions, place } from "./place.js";
import { numbers } from "./score.js";
import type { FeedStore, Ranges, Runner } from "./types.js";

export interface BiasOptions extends PlaceOptions {
  readonly signal?: AbortSignal | undefined;
  /** Rounds over the feeds at most; layers of neighbouring depth share one when there are more depths. */
  readonly rounds?: number | undefined;
}

/** A layer whose bias can be changed. */
interface Layer {
  readonly node: Node;
  /** Its result before anything is added. */
  readonly output: ValueId;
  readonly axis: number;
  readonly channels: number;
  /** Where the bias is: an input of a node, or undefined where the layer has none yet and can take one. */
  readonly bias: { readonly reader: NodeId; readonly slot: number } | undefined;
  readonly depth: number;
}

/** What a layer's bias takes back: mean(y_k) - mean(y'_k) per channel. */
export interface BiasShift {
  readonly layer: Layer;
  readonly delta: Float64Array;
}

/**
 * The shifts of the biases of the layers that `place` quantizes: b_k += mean(y_k) - mean(y'_k), where y' is the layer's output in the graph that
 * `place` makes once the layers before it are corrected. Layers without a bias that cannot take one are not among them.
 */
export async function biasShifts(
  g: Graph,
  factsOf: (g: Graph) => (v: ValueId) => Fact,
  ranges: Ranges,
  feeds: FeedStore,
  runner: Runner,
  options: BiasOptions = {},
): Promise<readonly BiasShift[]> {
  const quantized = new Set(place(g, factsOf(g), ranges, options).decisions.flatMap((d) => (d.kind === "weight" ? (d.reader ?? []) : [])));
  const layers = layersOf(g, factsOf(g), quantized);
  if (layers.length === 0 || feeds.length === 0) return [];
  const wanted = await means(g, layers, feeds, runner, options.signal);
  const shifts: BiasShift[] = [];
  for (const group of byDepth(layers, options.rounds ?? 12)) {
    const graph = correctBias(g, shifts);
    const placed = place(graph, factsOf(graph), ranges, options);
    const found = await means(placed.graph, group, feeds, runner, options.signal);
    for (const layer of group) {
      const [from, to] = [found.get(layer.output), wanted.get(layer.output)];
      const delta = to?.map((m, k) => m - (from?.[k] ?? Number.NaN));
      if (delta?.every(Number.isFinite)) shifts.push({ layer, delta });
    }
  }
  return shifts;
}

/**
 * The float graph with the biases shifted of the layers that `applies` names; all without it. A layer that stays float after all has nothing
 * to take back, and a shift would move its mean away.
 */
export function correctBias(g: Graph, shifts: readonly BiasShift[], applies: (n: Node) => boolean = () => true): Graph {
  const chosen = shifts.filter(({ layer }) => applies(layer.node));
  if (chosen.length === 0) return g;
  const draft = new Editor(g);
  for (const { layer, delta } of chosen) shift(draft, layer, delta);
  return draft.finish();
}

function layersOf(g: Graph, facts: (v: ValueId) => Fact, quantized: ReadonlySet<NodeId>): readonly Layer[] {
  const uses = usesOf(g);
  const depths = depthsOf(g, (n) => quantized.has(n.id));
  const layers: Layer[] = [];
  for (const n of g.nodes) {
    const [, w, b] = n.ins;
    const [y] = n.outs;
    const weight = w === undefined ? undefined : g.constants.get(w);
    if (!quantized.has(n.id) || w === undefined || weight === undefined || y === undefined) continue;
    const rank = rankOf(facts(y));
    const convolution = n.op === "Conv" || n.op === "ConvTranspose";
    const [first = 0, second = 0] = weight.dims;
    const columns = n.op === "Gemm" && flagged(n, "transB") ? first : second;
    const channels = n.op === "Conv" ? first : n.op === "ConvTranspose" ? second * groupsOf(n) : columns;
    if (outputAxis(n, weight, channels) === undefined || rank === undefined || rank < 2) continue;
    const base = { node: n, output: y, axis: convolution ? 1 : rank - 1, channels, depth: depthBefore(depths, n) };
    if (n.op === "MatMul") {
      // Its bias is a constant that an Add behind it adds.
      const [add, ...more] = uses[y] ?? [];
      const slot = add?.op === "Add" && add.domain === "" && more.length === 0 ? 1 - add.ins.indexOf(y) : -1;
      if (add !== undefined && slot >= 0 && isVector(g, add.ins[slot], channels)) layers.push({ ...base, bias: { reader: add.id, slot } });
    } else if (b === undefined) layers.push({ ...base, bias: undefined });
    else if (isVector(g, b, channels)) layers.push({ ...base, bias: { reader: n.id, slot: 2 } });
  }
  return layers;
}

const isVector = (g: Graph, v: ValueId | undefined, channels: number): boolean => {
  const c = v === undefined ? undefined : g.constants.get(v);
  return c !== undefined && floats(c)?.length === channels && c.dims.at(-1) === channels;
};

/** Means per channel of layers' outputs over all feeds. */
async function means(
  g: Graph,
  layers: readonly Layer[],
  feeds: FeedStore,
  runner: Runner,
  signal: AbortSignal | undefined,
): Promise<ReadonlyMap<ValueId, Float64Array>> {
  const open = await runner.open(
    exposing(
      g,
      layers.map((l) => l.output),
    ),
  );
  const sums = new Map(layers.map((l) => [l.output, { sum: new Float64Array(l.channels), count: 0 }]));
  try {
    for await (const feed of feeds.all()) {
      signal?.throwIfAborted();
      const out = await open.run(feed);
      for (const { output, axis, channels } of layers) {
        const t = out[valueAt(g, output).name];
        const x = t === undefined ? undefined : numbers(t);
        const total = sums.get(output);
        if (t === undefined || x === undefined || total === undefined) continue;
        const inner = t.dims.slice(axis + 1).reduce((a, b) => a * b, 1);
        for (let i = 0, k = 0; i < x.length; k = (k + 1) % channels) {
          let s = 0;
          for (const end = i + inner; i < end; i++) s += x[i] as number;
          total.sum[k] = (total.sum[k] as number) + s;
        }
        total.count += x.length / channels;
      }
    }
  } finally {
    await open.dispose();
  }
  return new Map([...sums].map(([v, { sum, count }]) => [v, sum.map((s) => s / Math.max(1, count))]));
}

function shift(draft: Editor, layer: Layer, delta: Float64Array): void {
  const stem = `${draft.value(layer.output).name}.bias`;
  if (layer.bias === undefined) {
    const added = draft.addConstant(stem, floatsConstant([layer.channels], Float32Array.from(delta)));
    const n = draft.node(layer.node.id);
    if (n !== undefined) draft.patch(n.id, { ins: [n.ins[0], n.ins[1], added] });
    return;
  }
  const { reader, slot } = layer.bias;
  const n = draft.node(reader);
  const c = draft.constant(n?.ins[slot]);
  const old = floats(c);
  if (n === undefined || c === undefined || old === undefined) return;
  const moved = draft.addConstant(
    stem,
    floatsConstant(
      c.dims,
      Float32Array.from(delta, (d, k) => (old[k] as number) + d),
    ),
  );
  draft.patch(n.id, { ins: n.ins.map((v, i) => (i === slot ? moved : v)) });
}
