/**
 * Writes QuantizeLinear and DequantizeLinear into a graph: ranges become scales, weights and biases integers.
 *
 * A tensor has at most one quantizer; whoever reads it as int8 reads that one, the others read the float. Operators that move int8 through
 * get a pair on either side with one scale, which says to every engine that they run on int8: Q(DQ(q)) is q. Weights are int8 constants
 * behind a DequantizeLinear along their output channels, biases int32 constants at the scale of the sums.
 */
import { Editor } from "../ir/edit.js";
import { producersOf, usesOf, valueAt } from "../ir/graph.js";
import { makeConstant } from "../ir/payload.js";
import type { Attr, Constant, Graph, Node, NodeId, ValueId } from "../ir/types.js";
import type { Fact } from "../ops/define.js";
import { floats } from "../passes/weights.js";
import { type Candidates, candidates, key, nameOf, type Product, passedSlots } from "./candidates.js";
import type { QuantizerDecision, Ranges } from "./types.js";
import { activationScale, integerWeight } from "./weights.js";

export interface PlaceOptions {
  /** Why a node shall stay float, or undefined: the user's exclusions, a search's choices. */
  readonly keepFloat?: ((n: Node) => string | undefined) | undefined;
  /** Weights in steps of their scales, by node, where they are not to be rounded to the nearest; in the weight's layout. */
  readonly rounded?: ReadonlyMap<NodeId, Int8Array> | undefined;
}
export interface Placed {
  readonly graph: Graph;
  readonly decisions: readonly QuantizerDecision[];
}

/** Ranges further apart than this do not share a scale: the smaller one would keep fewer than five bits. */
const APART = 4;

/** Whether a graph carries quantizers of its own, as quantization-aware training and other tools write them. */
export const carriesQuantizers = (g: Graph): boolean =>
  g.nodes.some(
    (n) => (n.domain === "" && (n.op === "QuantizeLinear" || n.op === "DequantizeLinear")) || /^Q(Linear[A-Z]|Gemm$)/.test(n.op),
  );

/** The tensors whose ranges `place` may ask for: what calibration has to observe. */
export function quantizable(g: Graph, facts: (v: ValueId) => Fact, options: PlaceOptions = {}): readonly ValueId[] {
  const { takes } = candidates(g, facts, options);
  const found = new Set<ValueId>();
  for (const n of g.nodes) n.ins.forEach((v, slot) => void (v !== undefined && takes.has(key(n, slot)) && found.add(v)));
  // Whether operators share a scale with their input is decided by the ranges on both sides.
  for (const n of g.nodes)
    if (passedSlots(n, g) !== undefined)
      for (const v of n.outs) if (v !== undefined && n.ins.some((u, slot) => u !== undefined && takes.has(key(n, slot)))) found.add(v);
  return [...found].sort((a, b) => a - b);
}

export function place(g: Graph, facts: (v: ValueId) => Fact, ranges: Ranges, options: PlaceOptions = {}): Placed {
  const range = (v: ValueId): number => ranges.get(valueAt(g, v).name) ?? Number.NaN;
  const found = candidates(g, facts, {
    keepFloat: options.keepFloat,
    hasRange: (v) => Number.isFinite(range(v)),
    mayShare: sharing(g, range),
  });
  return new Placer(g, found, range, options.rounded ?? new Map()).run();
}

/** Ranges within a factor, and no probabilities beside coordinates. */
function sharing(g: Graph, range: (v: ValueId) => number) {
  const producers = producersOf(g);
  const bounded = (v: ValueId): boolean => {
    let p = producers[v];
    for (let left = 8; p !== undefined && left > 0 && p.op !== "Concat" && passedSlots(p, g) !== undefined; left--)
      p = producers[p.ins[0] as ValueId];
    return p !== undefined && (p.op === "Sigmoid" || p.op === "Softmax");
  };
  return (n: Node, ins: readonly ValueId[], outs: readonly ValueId[]): boolean => {
    const all = [...ins, ...outs].map(range);
    // A tensor of zeros shares with everything.
    const seen = all.filter((r) => r > 0);
    if (!all.every(Number.isFinite) || Math.max(...seen) > APART * Math.min(...seen)) return false;
    return n.op !== "Concat" || new Set(ins.map(bounded)).size === 1;
  };
}

const ZERO_POINT = "quantize/zero";
class Placer {
  readonly #g: Graph;
  readonly #found: Candidates;
  readonly #range: (v: ValueId) => number;
  readonly #edit: Editor;
  readonly #rounded: ReadonlyMap<NodeId, Int8Array>;
  readonly #decisions: QuantizerDecision[] = [];
  readonly #producers: readonly (Node | undefined)[];
  /** The root of each group of tensors that share a scale. */
  readonly #group = new Map<ValueId, ValueId>();
  readonly #scales = new Map<ValueId, number>();
  readonly #pairs = new Map<ValueId, ValueId>();
  readonly #scalars = new Map<number, ValueId>();
  #zero: ValueId | undefined;

  constructor(g: Graph, found: Candidates, range: (v: ValueId) => number, rounded: ReadonlyMap<NodeId, Int8Array>) {
    this.#g = g;
    this.#rounded = rounded;
    this.#found = found;
    this.#range = range;
    this.#edit = new Editor(g);
    this.#producers = producersOf(g);
  }

  run(): Placed {
    this.#share();
    for (const n of this.#g.nodes) {
      const ins = n.ins.map((v, slot) => (v !== undefined && this.#found.takes.has(key(n, slot)) ? this.#pair(v) : v));
      const product = this.#found.products.get(n.id);
      if (product?.weight !== undefined) this.#constants(product, product.weight, ins);
      if (ins.some((v, i) => v !== n.ins[i])) this.#edit.patch(n.id, { ins });
    }
    this.#explain();
    return { graph: this.#edit.finish(), decisions: this.#decisions };
  }

  #rootOf(v: ValueId): ValueId {
    let root = v;
    for (let up = this.#group.get(root); up !== undefined; up = this.#group.get(root)) root = up;
    if (root !== v) this.#group.set(v, root);
    return root;
  }
  /** Joins what moves through one operator, and gives every group the widest range of the tensors that enter it. */
  #share(): void {
    for (const n of this.#g.nodes) {
      if (!this.#found.through.has(n.id)) continue;
      const [first, ...rest] = [...this.#moved(n), ...n.outs.filter((v) => v !== undefined)].map((v) => this.#rootOf(v));
      for (const v of rest)
        if (first !== undefined && this.#rootOf(v) !== this.#rootOf(first)) this.#group.set(this.#rootOf(v), this.#rootOf(first));
    }
    const widest = new Map<ValueId, number>();
    for (const n of this.#g.nodes)
      n.ins.forEach((v, slot) => {
        if (v === undefined || !this.#found.takes.has(key(n, slot))) return;
        const producer = this.#producers[v];
        if (producer !== undefined && this.#found.through.has(producer.id)) return;
        const root = this.#rootOf(v);
        widest.set(root, Math.max(widest.get(root) ?? 0, this.#range(v)));
      });
    for (const [root, amax] of widest) this.#scales.set(root, activationScale(amax));
  }
  #moved(n: Node): readonly ValueId[] {
    return (passedSlots(n, this.#g) ?? []).flatMap((slot) => n.ins[slot] ?? []);
  }
  #scaleOf(v: ValueId): number {
    return this.#scales.get(this.#rootOf(v)) ?? 1;
  }

  /** The dequantized value of a tensor's quantizer. */
  #pair(v: ValueId): ValueId {
    const known = this.#pairs.get(v);
    if (known !== undefined) return known;
    const { name, type } = valueAt(this.#g, v);
    const shape = type.kind === "tensor" ? type.shape : undefined;
    const scale = this.#scalar(this.#scaleOf(v));
    this.#zero ??= this.#edit.addConstant(ZERO_POINT, makeConstant("int8", [], [0]));
    const q = this.#edit.declare(`${name}/q`, { kind: "tensor", dtype: "int8", shape });
    const dq = this.#edit.declare(`${name}/dq`, { kind: "tensor", dtype: "float32", shape });
    const origin = this.#producers[v]?.origin ?? (this.#producers[v] === undefined ? [] : [this.#producers[v]?.name ?? ""]);
    this.#edit.add({ op: "QuantizeLinear", ins: [v, scale, this.#zero], outs: [q], name: `${name}/quantize`, origin });
    this.#edit.add({ op: "DequantizeLinear", ins: [q, scale, this.#zero], outs: [dq], name: `${name}/dequantize`, origin });
    this.#pairs.set(v, dq);
    return dq;
  }
  #scalar(s: number): ValueId {
    let v = this.#scalars.get(s);
    if (v === undefined) {
      v = this.#edit.addConstant("quantize/scale", makeConstant("float32", [], [s]));
      this.#scalars.set(s, v);
    }
    return v;
  }

  /** The weight and the bias of a product as integers; `ins` is changed in place. */
  #constants(p: Product, weight: { readonly slot: number; readonly axis: number | undefined }, ins: (ValueId | undefined)[]): void {
    const { node } = p;
    const [w, x] = [node.ins[weight.slot] as ValueId, node.ins[p.activations[0] ?? 0] as ValueId];
    const b = p.bias === undefined ? undefined : (node.ins[p.bias] as ValueId);
    const xScale = this.#scaleOf(x);
    const made = integerWeight(this.#g.constants.get(w) as Constant, {
      axis: weight.axis,
      xScale,
      bias: b === undefined ? undefined : floats(this.#g.constants.get(b)),
    });
    if (made === undefined) {
      // Weights that are not finite stay; the activation's quantizer with them, as other readers share it.
      this.#say(w, node, "float", `the weight of ${nameOf(this.#g, node)} holds NaN or infinities`, []);
      return;
    }
    const axis = weight.axis ?? 0;
    const perTensor = made.scales.length === 1 && weight.axis === undefined;
    const learnt = this.#rounded.get(node.id);
    const { dims } = made.steps;
    ins[weight.slot] = this.#dequantized(
      w,
      learnt === undefined
        ? made.steps
        : { dtype: "int8", dims, data: { kind: "bytes", bytes: new Uint8Array(learnt.buffer, learnt.byteOffset, learnt.byteLength) } },
      perTensor ? makeConstant("float32", [], [...made.scales]) : made.scales,
      axis,
      node,
    );
    this.#say(
      w,
      node,
      "weight",
      perTensor ? "one scale: its columns are no output channels" : `max |w| / 127 per output channel (axis ${axis})`,
      [...made.scales],
      perTensor ? undefined : axis,
    );
    if (b === undefined || made.bias === undefined || p.bias === undefined) return;
    const count = made.bias.dims[0] ?? 0;
    const scales = Float32Array.from({ length: count }, (_, k) => xScale * (made.scales[k % made.scales.length] as number));
    ins[p.bias] = this.#dequantized(b, made.bias, scales, 0, node);
    this.#say(b, node, "bias", "int32 at the scale of the sums, s_x * s_w[k]", [...scales], 0);
  }
  #dequantized(v: ValueId, steps: Constant, scales: Float32Array | Constant, axis: number, node: Node): ValueId {
    const { name } = valueAt(this.#g, v);
    const constant = scales instanceof Float32Array ? makeConstant("float32", [scales.length], [...scales]) : scales;
    const [q, s] = [this.#edit.addConstant(`${name}/${steps.dtype}`, steps), this.#edit.addConstant(`${name}/scale`, constant)];
    const y = this.#edit.declare(`${name}/dq`, { kind: "tensor", dtype: "float32", shape: steps.dims });
    const attrs: Readonly<Record<string, Attr>> = constant.dims.length === 0 ? {} : { axis: { kind: "int", value: axis } };
    this.#edit.add({
      op: "DequantizeLinear",
      ins: [q, s],
      outs: [y],
      attrs,
      name: `${name}/dequantize`,
      origin: node.origin ?? [node.name],
    });
    return y;
  }

  #say(
    value: ValueId,
    reader: Node | undefined,
    kind: QuantizerDecision["kind"],
    why: string,
    scales: readonly number[],
    axis?: number,
  ): void {
    this.#decisions.push({ value, name: valueAt(this.#g, value).name, reader: reader?.id, kind, why, scales, axis });
  }
  /** One decision a quantizer, and one a refusal. */
  #explain(): void {
    const uses = usesOf(this.#g);
    const outputs = new Set(this.#g.outputs);
    for (const v of this.#pairs.keys()) {
      const readers = uses[v] ?? [];
      const taking = readers.filter((n) => n.ins.some((u, slot) => u === v && this.#found.takes.has(key(n, slot))));
      const reasons = new Set(
        taking.flatMap((n) => n.ins.flatMap((u, slot) => (u === v ? (this.#found.takes.get(key(n, slot)) ?? []) : []))),
      );
      const producer = this.#producers[v];
      const moved =
        producer !== undefined && this.#found.through.has(producer.id)
          ? `; it shares the scale of what ${nameOf(this.#g, producer)} moves`
          : "";
      const scales = [this.#scaleOf(v)];
      const why = `${[...reasons].join("; ")}${moved}`;
      if (taking.length === readers.length && !outputs.has(v)) this.#say(v, undefined, "activation", why, scales);
      else for (const n of taking) this.#say(v, n, "activation", why, scales);
    }
    for (const { value, node, why } of this.#found.refused) this.#say(value, node, "float", why, []);
    const order = new Map<NodeId, number>(this.#g.nodes.map((n, i) => [n.id, i]));
    const at = (d: QuantizerDecision): number =>
      d.reader === undefined ? (order.get((uses[d.value] ?? [])[0]?.id as NodeId) ?? 0) : (order.get(d.reader) ?? 0);
    this.#decisions.sort((a, b) => at(a) - at(b) || a.value - b.value);
  }
}
