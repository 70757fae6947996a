/**
 * Classes of tensors whose channels may be scaled together without changing what a graph computes: what makes them takes the factor into its
 * weights, what reads them takes it out of its own, and everything between commutes with a positive factor per channel. Cross-layer
 * equalization (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019) and SmoothQuant (Xiao et al.,
 * 2022) both choose factors for such classes.
 */
import { intOf } from "../ir/attributes.js";
import { isStatic } from "../ir/dims.js";
import { Editor } from "../ir/edit.js";
import { bodiesOf, producersOf, usesOf } from "../ir/graph.js";
import { smallNumbers } from "../ir/payload.js";
import type { Constant, Dim, Graph, Node, NodeId, Shape, ValueId } from "../ir/types.js";
import { type Fact, shapeOf } from "../ops/define.js";
import { flagged, floats, floatsConstant, groupsOf, outputAxis, scaleAlong } from "../passes/weights.js";

/** A tensor of a class and its axis of channels. */
export interface ChannelTensor {
  readonly value: ValueId;
  readonly axis: number;
}
export interface ChannelClass {
  readonly channels: number;
  readonly tensors: readonly ChannelTensor[];
  /**
   * Nodes whose weights (and bias, or scale and shift) are multiplied by the factors, per output channel. Where there are none, a Mul in front of
   * the consumers multiplies the class's one tensor.
   */
  readonly producers: readonly NodeId[];
  /** Nodes whose weights are divided by the factors, per input channel. */
  readonly consumers: readonly NodeId[];
  /** Constants added to a tensor of the class: multiplied by the factors; with the axis of channels. */
  readonly constants: readonly (ChannelTensor & { readonly reader: NodeId; readonly input: number })[];
}

/** Every class of a graph with at least one producer and one consumer, in topological order of their first tensor. Bodies are left alone. */
export function channelClasses(g: Graph, facts: (v: ValueId) => Fact): readonly ChannelClass[] {
  const search = new Search(g, facts);
  return g.nodes.flatMap((n) => {
    const [x] = n.ins;
    const axis = x === undefined ? undefined : consumedAxis(g, search.shape, n);
    const found = x === undefined || axis === undefined ? undefined : search.from(x, axis);
    return found === undefined ? [] : [found];
  });
}

/** Tensors of chosen classes multiplied by factors (positive, one per channel); in exact arithmetic the graph's outputs stay what they were. */
export function scaleChannels(g: Graph, chosen: readonly { readonly of: ChannelClass; readonly factors: Float64Array }[]): Graph {
  const draft = new Editor(g);
  for (const { of, factors } of chosen) {
    const inverse = factors.map((f) => 1 / f);
    for (const id of of.producers) scaleProducer(draft, id, factors);
    if (of.producers.length === 0) multiply(draft, of, factors);
    for (const id of of.consumers) scaleConsumer(draft, id, inverse);
    for (const { value, axis, reader, input } of of.constants) {
      const n = draft.node(reader);
      const c = draft.constant(n?.ins[input] ?? value);
      const data = floats(c);
      if (n === undefined || c === undefined || data === undefined) continue;
      const scaled = draft.addConstant(
        `${draft.value(value).name}.scaled`,
        floatsConstant(c.dims, scaleAlong(data, c.dims, axis, factors, 1)),
      );
      draft.patch(n.id, { ins: n.ins.map((v, i) => (i === input ? scaled : v)) });
    }
  }
  return draft.finish();
}

/**
 * How much of its output channels' ranges each input channel of a consumer needs: the largest |w| / (largest |w| of the same output channel),
 * over the output channels; in [0, 1]. Scales are per output channel, so this is what an input channel costs the others. Undefined for a
 * depthwise convolution, where an input channel has a scale of its own.
 */
export function inputShares(g: Graph, n: Node, channels: number): Float64Array | undefined {
  const w = n.ins[1] === undefined ? undefined : g.constants.get(n.ins[1]);
  const data = floats(w);
  if (w === undefined || data === undefined) return undefined;
  const groups = groupsOf(n);
  if (n.op === "Conv" && w.dims[1] === 1 && groups === channels) return undefined;
  const place = placeOf(n, w.dims, groups);
  const ranges = new Float64Array(data.length === 0 ? 0 : place(data.length - 1).output + 1);
  for (let i = 0; i < data.length; i++) {
    const { output } = place(i);
    ranges[output] = Math.max(ranges[output] as number, Math.abs(data[i] as number));
  }
  const shares = new Float64Array(channels);
  for (let i = 0; i < data.length; i++) {
    const { input, output } = place(i);
    const range = ranges[output] as number;
    if (range > 0) shares[input] = Math.max(shares[input] as number, Math.abs(data[i] as number) / range);
  }
  return shares;
}

/** Input and output channel of a weight's element. The last element lies in the last output channel. */
function placeOf(n: Node, dims: readonly number[], groups: number): (i: number) => { readonly input: number; readonly output: number } {
  const [first = 1, second = 1] = dims;
  const inner = dims.slice(2).reduce((a, b) => a * b, 1);
  if (n.op === "Conv") {
    const outputs = first / groups;
    return (i) => {
      const output = Math.floor(i / (inner * second));
      return { output, input: Math.floor(output / outputs) * second + (Math.floor(i / inner) % second) };
    };
  }
  if (n.op === "ConvTranspose") {
    const inputs = first / groups;
    return (i) => {
      const input = Math.floor(i / (inner * second));
      return { input, output: Math.floor(input / inputs) * second + (Math.floor(i / inner) % second) };
    };
  }
  const turned = n.op === "Gemm" && flagged(n, "transB");
  return (i) => (turned ? { output: Math.floor(i / second), input: i % second } : { output: i % second, input: Math.floor(i / second) });
}

const UNARY: ReadonlySet<string> = new Set([
  "Relu",
  "LeakyRelu",
  "Identity",
  "Dropout",
  "MaxPool",
  "AveragePool",
  "GlobalAveragePool",
  "GlobalMaxPool",
]);
const REDUCE: ReadonlySet<string> = new Set(["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"]);
const WEIGHTED: ReadonlySet<string> = new Set(["Conv", "ConvTranspose", "Gemm", "MatMul"]);

/** The axis of input channels, for nodes that can take a factor out of their input. */
export function consumedAxis(g: Graph, shape: (v: ValueId) => Shape, n: Node): number | undefined {
  if (n.domain !== "" || !WEIGHTED.has(n.op)) return undefined;
  const [x, w] = n.ins;
  const weight = w === undefined ? undefined : g.constants.get(w);
  if (x === undefined || w === undefined || weight === undefined || floats(weight) === undefined || g.constants.has(x)) return undefined;
  if (n.op === "Conv" || n.op === "ConvTranspose") return 1;
  if (weight.dims.length !== 2 || flagged(n, "transA")) return undefined;
  const rank = shape(x)?.length;
  return rank === undefined || rank < 2 ? undefined : rank - 1;
}

/** Breadth first from one tensor over everything that must be scaled with it. */
class Search {
  readonly g: Graph;
  readonly #facts: (v: ValueId) => Fact;
  readonly #producers: readonly (Node | undefined)[];
  readonly #users: readonly (readonly Node[])[];
  readonly #outputs: ReadonlySet<ValueId>;
  /** Tensors that belong to a class, or to none. */
  readonly #seen = new Set<ValueId>();

  constructor(g: Graph, facts: (v: ValueId) => Fact) {
    this.g = g;
    this.#facts = facts;
    this.#producers = producersOf(g);
    this.#users = usesOf(g);
    this.#outputs = new Set(g.outputs);
  }
  readonly shape = (v: ValueId): Shape => shapeOf(this.#facts(v));

  from(value: ValueId, axis: number): ChannelClass | undefined {
    if (this.#seen.has(value)) return undefined;
    const channels = this.shape(value)?.[axis];
    const axes = new Map<ValueId, number>([[value, axis]]);
    const queue: ValueId[] = [value];
    const producers = new Set<NodeId>();
    const consumers = new Set<NodeId>();
    const constants: (ChannelTensor & { readonly reader: NodeId; readonly input: number })[] = [];
    let sound = channels !== undefined && isStatic(channels) && channels > 1;
    const join = (v: ValueId | undefined, at: number | undefined): boolean => {
      if (v === undefined || at === undefined) return false;
      const known = axes.get(v);
      if (known !== undefined) return known === at;
      if (this.shape(v)?.[at] !== channels) return false;
      axes.set(v, at);
      queue.push(v);
      return true;
    };
    for (let v = queue.shift(); v !== undefined; v = queue.shift()) {
      // The search goes on after a refusal: all that hangs together is refused together.
      const at = axes.get(v) as number;
      const touch: Touch = { v, at, join, producers, consumers, constants };
      const producer = this.#producers[v];
      if (producer === undefined || this.#outputs.has(v) || !this.#made(producer, touch, channels)) sound = false;
      for (const n of this.#users[v] ?? []) if (!this.#read(n, touch)) sound = false;
      this.#seen.add(v);
    }
    if (!sound || producers.size === 0 || consumers.size === 0) return undefined;
    return {
      channels: channels as number,
      tensors: [...axes].map(([tensor, a]) => ({ value: tensor, axis: a })),
      producers: [...producers],
      consumers: [...consumers],
      constants,
    };
  }

  /** What makes a tensor: takes the factor, or hands it on to what it reads. */
  #made(n: Node, t: Touch, channels: Dim | undefined): boolean {
    if (n.domain !== "" || n.outs[0] !== t.v || n.outs.slice(1).some((v) => v !== undefined)) return false;
    if (WEIGHTED.has(n.op)) {
      if (!this.#absorbs(n, t, channels as number)) return false;
      t.producers.add(n.id);
      return true;
    }
    if (n.op === "LayerNormalization" || n.op === "RMSNormalization") {
      const axis = intOf(n, "axis", -1);
      const last = (this.shape(t.v)?.length ?? 0) - 1;
      if ((axis !== -1 && axis !== last) || t.at !== last || !this.#vectors(n, [1, 2], channels as number)) return false;
      t.producers.add(n.id);
      return true;
    }
    if (n.op === "BatchNormalization" || n.op === "InstanceNormalization") {
      if (t.at !== 1 || flagged(n, "training_mode") || !this.#vectors(n, [1, 2], channels as number)) return false;
      t.producers.add(n.id);
      return true;
    }
    return this.#passes(n, t);
  }

  /** What reads a tensor: takes the factor out again, or hands it on to what it makes. */
  #read(n: Node, t: Touch): boolean {
    if (n.domain !== "" || bodiesOf(n).length > 0) return false;
    if (WEIGHTED.has(n.op)) {
      if (n.ins.indexOf(t.v) !== 0 || n.ins.lastIndexOf(t.v) !== 0 || consumedAxis(this.g, this.shape, n) !== t.at) return false;
      t.consumers.add(n.id);
      return true;
    }
    return this.#passes(n, t);
  }

  /** Nodes that commute with positive factors: their tensors join the class, with the axis where their channels are. */
  #passes(n: Node, t: Touch): boolean {
    const [x] = n.ins;
    const [y] = n.outs;
    if (x === undefined || y === undefined || n.outs.slice(1).some((v) => v !== undefined)) return false;
    const from = this.shape(x);
    const to = this.shape(y);
    if (from === undefined || to === undefined) return false;
    const both = (a: number | undefined, b: number | undefined): boolean =>
      (t.v === x ? t.at === a && n.ins.lastIndexOf(x) === 0 : t.at === b) && t.join(x, a) && t.join(y, b);
    const same = (): boolean => both(t.at, t.at);
    if (UNARY.has(n.op)) return same() && (!/Pool/.test(n.op) || t.at === 1);
    switch (n.op) {
      case "Clip":
        return n.ins[2] === undefined && this.#scalar(n.ins[1]) === 0 && same();
      case "PRelu":
        return same();
      case "Add":
      case "Sub":
        return this.#sum(n, y, to, t);
      case "Mul":
      case "Div":
        return this.#product(n, y, t);
      case "Transpose": {
        const perm = n.attrs["perm"];
        const order = perm?.kind === "ints" ? perm.value.map(Number) : from.map((_, i) => from.length - 1 - i);
        return t.v === x ? both(t.at, order.indexOf(t.at)) : both(order[t.at], t.at);
      }
      case "Reshape":
        if (t.at === (t.v === x ? from : to).length - 1) {
          const [first, last] = t.v === x ? [n, this.#joinedHeads(n)] : [this.#partedHeads(n), n];
          if (first !== undefined && last !== undefined) return t.join(first.ins[0], t.at) && t.join(last.outs[0], t.at);
        }
        return t.v === x ? both(t.at, landing(from, to, t.at)) : both(landing(to, from, t.at), t.at);
      case "Flatten":
      case "Squeeze":
      case "Unsqueeze":
        return t.v === x ? both(t.at, landing(from, to, t.at)) : both(landing(to, from, t.at), t.at);
      case "Concat": {
        const axis = intOf(n, "axis", 0);
        const along = axis < 0 ? axis + to.length : axis;
        return along !== t.at && [...n.ins, y].every((v) => v !== undefined && !this.g.constants.has(v) && t.join(v, t.at));
      }
      case "Slice":
      case "Gather":
        // Along another axis; a Gather by one index takes its axis away.
        return to.length === from.length && n.ins.lastIndexOf(x) === 0 && !this.#along(n, t.at, from.length) && same();
      case "Pad": {
        const mode = n.attrs["mode"];
        const constantly = mode === undefined || (mode.kind === "string" && mode.value === "constant");
        const pads = smallNumbers(n.ins[1] === undefined ? undefined : this.g.constants.get(n.ins[1]));
        const zero = n.ins[2] === undefined || this.#scalar(n.ins[2]) === 0;
        const clear = n.ins[3] === undefined && pads?.length === 2 * from.length && pads[t.at] === 0 && pads[t.at + from.length] === 0;
        return (!constantly || zero) && clear && same();
      }
      default:
        return REDUCE.has(n.op) && this.#reduced(n, from, to, t, both);
    }
  }

  /**
   * Values of attention: [batch, length, heads * size] is parted into heads by a Reshape and a Transpose, weighed by the scores, and joined again
   * by a Transpose and a Reshape. Sums over the length do not mix channels. From the first Reshape to the last one.
   */
  #joinedHeads(first: Node): Node | undefined {
    const parted = this.#only(first, "Transpose", 0);
    const attention = parted === undefined ? undefined : this.#only(parted, "Attention", 2);
    const weighed =
      attention === undefined || attention.outs.slice(1).some((v) => v !== undefined) ? undefined : this.#only(attention, "Transpose", 0);
    const last = weighed === undefined ? undefined : this.#only(weighed, "Reshape", 0);
    if (parted === undefined || weighed === undefined || last === undefined) return undefined;
    const swaps = [parted, weighed].every((n) => n.attrs["perm"]?.kind === "ints" && n.attrs["perm"].value.join() === "0,2,1,3");
    const shapes = [first.ins[0], first.outs[0], last.ins[0], last.outs[0]].map((v) => (v === undefined ? undefined : this.shape(v)));
    const [whole, heads, back, joined] = shapes;
    const [count, size] = heads?.slice(2) ?? [];
    const fits =
      whole?.length === 3 &&
      joined?.length === 3 &&
      heads?.length === 4 &&
      typeof count === "number" &&
      typeof size === "number" &&
      whole[2] === count * size &&
      joined[2] === whole[2] &&
      back?.[2] === count &&
      back[3] === size;
    return swaps && fits ? last : undefined;
  }
  /** The first Reshape of the chain that ends in this one. */
  #partedHeads(last: Node): Node | undefined {
    let n: Node | undefined = last;
    for (const slot of [0, 0, 2, 0]) {
      const v: ValueId | undefined = n?.ins[slot];
      n = v === undefined ? undefined : this.#producers[v];
    }
    return n?.op === "Reshape" && this.#joinedHeads(n) === last ? n : undefined;
  }
  /** The one node that reads a node's result, when it is of this kind and reads it in this place alone. */
  #only(n: Node, op: string, slot: number): Node | undefined {
    const [y] = n.outs;
    const [reader, ...more] = y === undefined || this.#outputs.has(y) ? [] : (this.#users[y] ?? []);
    const fits = reader?.op === op && reader.domain === "" && more.length === 0 && reader.ins.every((v, i) => (v === y) === (i === slot));
    return fits ? reader : undefined;
  }

  #sum(n: Node, y: ValueId, to: readonly Dim[], t: Touch): boolean {
    const last = to.length - 1 - (t.v === y ? t.at : t.at + to.length - (this.shape(t.v)?.length ?? 0));
    for (const [input, v] of n.ins.entries()) {
      if (v === undefined) return false;
      const at = (this.shape(v)?.length ?? 0) - 1 - last;
      const c = this.g.constants.get(v);
      if (c === undefined) {
        if (!t.join(v, at)) return false;
        continue;
      }
      // A constant that is the same for every channel would have to grow: only one per channel is scaled in place.
      if (floats(c) === undefined || c.dims[at] !== to[to.length - 1 - last]) return false;
      if (!t.constants.some((k) => k.reader === n.id && k.input === input)) t.constants.push({ value: v, axis: at, reader: n.id, input });
    }
    return t.join(y, to.length - 1 - last);
  }

  /** A product with a constant: the other operand and the result are scaled alike. */
  #product(n: Node, y: ValueId, t: Touch): boolean {
    const [a, b] = n.ins;
    if (a === undefined || b === undefined) return false;
    const x = this.g.constants.has(b) ? a : n.op === "Mul" && this.g.constants.has(a) ? b : undefined;
    if (x === undefined) return false;
    const shift = (this.shape(y)?.length ?? 0) - (this.shape(x)?.length ?? 0);
    const at = t.v === x ? t.at : t.at - shift;
    return t.join(x, at) && t.join(y, at + shift);
  }

  #reduced(
    n: Node,
    from: readonly Dim[],
    to: readonly Dim[],
    t: Touch,
    both: (a: number | undefined, b: number | undefined) => boolean,
  ): boolean {
    const axes = smallNumbers(n.ins[1] === undefined ? undefined : this.g.constants.get(n.ins[1]))?.map((a) =>
      a < 0 ? a + from.length : a,
    );
    if (axes === undefined || axes.length === 0) return false;
    const keeps = to.length === from.length;
    const kept = from.map((_, i) => i).filter((i) => !axes.includes(i));
    if (t.v === n.ins[0]) return !axes.includes(t.at) && both(t.at, keeps ? t.at : kept.indexOf(t.at));
    const source = keeps ? t.at : kept[t.at];
    return source !== undefined && !axes.includes(source) && both(source, t.at);
  }

  /** Whether a Slice or Gather works on this axis; true when that cannot be told. */
  #along(n: Node, axis: number, rank: number): boolean {
    if (n.op === "Gather") {
      const a = intOf(n, "axis", 0);
      return (a < 0 ? a + rank : a) === axis;
    }
    const axes = n.ins[3] === undefined ? undefined : smallNumbers(this.g.constants.get(n.ins[3]));
    return axes === undefined || axes.some((a) => (a < 0 ? a + rank : a) === axis);
  }

  #scalar(v: ValueId | undefined): number | undefined {
    const values = v === undefined ? undefined : smallNumbers(this.g.constants.get(v));
    return values?.length === 1 ? values[0] : undefined;
  }

  /** Whether the inputs at these places are constants with one element per channel, or absent. */
  #vectors(n: Node, places: readonly number[], channels: number): boolean {
    return places.every((i) => {
      const v = n.ins[i];
      if (v === undefined) return i > 1;
      const c = this.g.constants.get(v);
      return floats(c)?.length === channels && c?.dims.length === 1;
    });
  }

  #absorbs(n: Node, t: Touch, channels: number): boolean {
    const [, w, b] = n.ins;
    const weight: Constant | undefined = w === undefined ? undefined : this.g.constants.get(w);
    if (weight === undefined || floats(weight) === undefined || outputAxis(n, weight, channels) === undefined) return false;
    const rank = this.shape(t.v)?.length;
    if (t.at !== (n.op === "Conv" || n.op === "ConvTranspose" ? 1 : (rank ?? 0) - 1)) return false;
    if (b === undefined) return true;
    const bias = this.g.constants.get(b);
    return floats(bias)?.length === channels && bias?.dims.at(-1) === channels;
  }
}

interface Touch {
  readonly v: ValueId;
  readonly at: number;
  readonly join: (v: ValueId | undefined, at: number | undefined) => boolean;
  readonly producers: Set<NodeId>;
  readonly consumers: Set<NodeId>;
  readonly constants: (ChannelTensor & { readonly reader: NodeId; readonly input: number })[];
}

/** Where an axis is after a change of dims that leaves the elements' order: as many elements must stand before it, and the dim be the same. */
function landing(from: readonly Dim[], to: readonly Dim[], axis: number): number | undefined {
  const after = (dims: readonly Dim[], at: number): number | undefined =>
    dims.slice(at + 1).reduce<number | undefined>((a, d) => (a === undefined || !isStatic(d) ? undefined : a * d), 1);
  const rest = after(from, axis);
  if (rest === undefined) return undefined;
  const found = to.findIndex((d, i) => d === from[axis] && after(to, i) === rest);
  return found < 0 ? undefined : found;
}

/** The class's tensor times the factors, for its consumers alone. */
function multiply(draft: Editor, { tensors: [tensor], consumers }: ChannelClass, factors: Float64Array): void {
  const [first] = consumers.map((id) => draft.node(id));
  if (tensor === undefined || first === undefined) return;
  const { name, type } = draft.value(tensor.value);
  // Channels are before the positions of a convolution, and last for matrices.
  const positions = first.op === "Conv" || first.op === "ConvTranspose" ? (draft.constant(first.ins[1])?.dims.length ?? 2) - 2 : 0;
  const dims = [factors.length, ...Array.from({ length: positions }, () => 1)];
  const constant = draft.addConstant(`${name}.factors`, floatsConstant(dims, Float32Array.from(factors)));
  const scaled = draft.declare(`${name}.scaled`, type);
  draft.add({ op: "Mul", ins: [tensor.value, constant], outs: [scaled], name: `${name}/scale`, origin: [name] });
  for (const id of consumers) {
    const n = draft.node(id);
    if (n !== undefined) draft.patch(id, { ins: n.ins.map((v, i) => (i === 0 ? scaled : v)) });
  }
}

function scaleProducer(draft: Editor, id: NodeId, factors: Float64Array): void {
  const n = draft.node(id);
  if (n === undefined) return;
  const scaledVector = (v: ValueId | undefined): ValueId | undefined => {
    const c = draft.constant(v);
    const data = floats(c);
    if (v === undefined || c === undefined || data === undefined) return v;
    return draft.addConstant(
      `${draft.value(v).name}.scaled`,
      floatsConstant(c.dims, scaleAlong(data, c.dims, c.dims.length - 1, factors, 1)),
    );
  };
  const [x, w, b, ...rest] = n.ins;
  if (!WEIGHTED.has(n.op)) {
    draft.patch(id, { ins: trimmed([x, scaledVector(w), scaledVector(b), ...rest]) });
    return;
  }
  const weight = draft.constant(w);
  const data = floats(weight);
  if (w === undefined || weight === undefined || data === undefined) return;
  const axis = outputAxis(n, weight, factors.length) ?? 0;
  const scaled = scaleAlong(data, weight.dims, axis, factors, groupsOf(n));
  const replaced = draft.addConstant(`${draft.value(w).name}.scaled`, floatsConstant(weight.dims, scaled));
  draft.patch(id, { ins: trimmed([x, replaced, scaledVector(b), ...rest]) });
}

function scaleConsumer(draft: Editor, id: NodeId, factors: Float64Array): void {
  const n = draft.node(id);
  const w = n?.ins[1];
  const weight = draft.constant(w);
  const data = floats(weight);
  if (n === undefined || w === undefined || weight === undefined || data === undefined) return;
  const replaced = draft.addConstant(
    `${draft.value(w).name}.scaled`,
    floatsConstant(weight.dims, scaleInputs(n, data, weight.dims, factors)),
  );
  draft.patch(id, { ins: n.ins.map((v, i) => (i === 1 ? replaced : v)) });
}

/** Weights with every input channel multiplied by its factor. */
function scaleInputs(n: Node, w: Float32Array, dims: readonly number[], factors: Float64Array): Float32Array {
  const place = placeOf(n, dims, groupsOf(n));
  return w.map((x, i) => x * (factors[place(i).input] ?? 1));
}

const trimmed = (ins: readonly (ValueId | undefined)[]): readonly (ValueId | undefined)[] => {
  const last = ins.findLastIndex((v) => v !== undefined);
  return ins.slice(0, last + 1);
};
