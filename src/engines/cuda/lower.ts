/**
 * A segment with static shapes to a kernel plan: rules say what each node is (inline.ts, reduce.ts, rows.ts, matrix.ts), fusion.ts says which
 * values are written, and here every written value gets its kernel, its buffer and its launch.
 */

import { qualifiedOp, valueAt } from "../../ir/graph.js";
import { makeConstant, smallNumbers, typedOf } from "../../ir/payload.js";
import type { Constant, DType, Graph, Node, NodeId, ValueId } from "../../ir/types.js";
import type { Fact } from "../../ops/define.js";
import { doneSite, inferGraph } from "../../ops/infer.js";
import { type Address, assemble, type BufferSize, type Lowered, type Step } from "./assemble.js";
import { Block, type EarlyRead } from "./block.js";
import { type Fused, fuse, type Weight } from "./fusion.js";
import { attentionShape } from "./heads.js";
import { add, delinear, type Index, linear, product, rowMajor, scale, variable } from "./indexing.js";
import { type Inline, inline, inlineOps, reshapedIndex } from "./inline.js";
import { type Kernel, mapKernel, ParameterList, reduceKernel, rowKernel, store, type Tail } from "./loops.js";
import { conv, gemm, matmul, precisionOf } from "./matrix.js";
import { mergeProducts } from "./merge.js";
import { literal, pointwise } from "./pointwise.js";
import { Probe } from "./probe.js";
import { directConv, directGemm, directMatMul, gemmResult, type Reduction, reduction, reductionOps } from "./reduce.js";
import { type RowProgram, rowOps, rowProgram } from "./rows.js";
import type { Element, Scope } from "./scope.js";
import { type Operand, Refused, type Site, type Tensor } from "./site.js";
import { PRELUDE, storage, storageOf } from "./storage.js";
import {
  type AttentionProblem,
  attentionKernel,
  attentionTactics,
  type ConvProblem,
  convKernel,
  convTactics,
  type DeviceModel,
  depthwiseKernel,
  depthwiseTactics,
  type EpilogueText,
  type GemmProblem,
  gemmKernel,
  gemmTactics,
  type HeadStrides,
  isDepthwise,
  type KernelText,
  type Tactic,
} from "./templates/index.js";
import { type BufferName, channelsLast, naturalOrder, stridesOf, type View } from "./view.js";
import { packed } from "./weights.js";

export interface LowerOptions {
  readonly precision: "fp32" | "tf32" | "fp16" | "bf16" | "int8";
  readonly device: DeviceModel;
  /** Index of the tactic to take, by problem; the first where it says nothing. */
  readonly picks?: ReadonlyMap<string, number> | undefined;
  /** Told of every product and convolution that a template computes. */
  readonly onProblem?: ((p: Problem) => void) | undefined;
}
/** What a template computes and the ways it can, the best guess first. Equal keys are equal problems. */
export type Problem =
  | { readonly kind: "gemm"; readonly key: string; readonly problem: GemmProblem; readonly tactics: readonly Tactic[] }
  | { readonly kind: "conv"; readonly key: string; readonly problem: ConvProblem; readonly tactics: readonly Tactic[] };

/** A node that an engine was asked to run and cannot: names the node and why. */
export class NotEmitted extends Error {
  readonly node: Node;
  readonly why: string;
  constructor(node: Node, why: string) {
    super(`${node.op} '${node.name}': ${why}`);
    this.node = node;
    this.why = why;
  }
}

export type { Lowered };

/** Throws `NotEmitted` for a node that no rule takes. All dims must be static. */
export function lower(g: Graph, options: LowerOptions): Lowered {
  return new Lowering(g, options).run();
}

/**
 * What of a graph the emitter cannot take, by node: the same rules that emit say so. Nodes whose dims are not known yet are judged by their
 * operator alone.
 */
export function refusals(g: Graph, options: LowerOptions): ReadonlyMap<NodeId, Refused> {
  return new Lowering(g, options).refusals();
}
const EMITTED: ReadonlySet<string> = new Set([...inlineOps, ...reductionOps, ...rowOps, "MatMul", "Gemm", "Conv", "Attention"]);
/** Whether any rule takes the operator at all. */
export const emits = (n: Node): boolean => n.domain === "" && EMITTED.has(n.op);

type HeavyKind =
  | { readonly kind: "reduce"; readonly reduction: Reduction }
  | { readonly kind: "row"; readonly program: RowProgram }
  | { readonly kind: "matmul" | "gemm" | "conv" | "attention" };

class Lowering {
  readonly #g: Graph;
  readonly #facts: (v: ValueId) => Fact;
  readonly #options: LowerOptions;
  readonly #sites = new Map<Node, Site>();
  readonly #inline = new Map<Node, Inline>();
  readonly #heavy = new Map<Node, HeavyKind>();
  readonly #producer = new Map<ValueId, { readonly node: Node; readonly port: number }>();
  readonly #written = new Map<ValueId, View>();
  readonly #buffers = new Map<BufferName, BufferSize>();
  readonly #weights = new Map<BufferName, () => Uint8Array>();
  readonly #steps: Step[] = [];
  readonly #copies = new Map<string, View>();
  readonly #spread: ReadonlySet<ValueId>;
  /** Masks of attention, which single precision alone holds: half turns their large negative numbers into infinities. */
  readonly #masks = new Set<ValueId>();
  #count = 0;

  constructor(g: Graph, options: LowerOptions) {
    this.#options = options;
    const inferred = inferGraph(mergeProducts(g));
    this.#g = inferred.graph;
    this.#facts = inferred.facts;
    for (const node of this.#g.nodes)
      for (const [port, v] of node.outs.entries()) if (v !== undefined) this.#producer.set(v, { node, port });
    this.#spread = this.#channelsLastValues();
    for (const n of this.#g.nodes) if (n.op === "Attention" && n.ins[3] !== undefined) this.#masks.add(n.ins[3]);
    for (const n of [...this.#g.nodes].reverse())
      if (n.outs.some((v) => v !== undefined && this.#masks.has(v))) for (const v of n.ins) if (v !== undefined) this.#masks.add(v);
  }

  run(): Lowered {
    const g = this.#g;
    for (const v of g.inputs) this.#written.set(v, this.#port("input", v));
    const nodes = g.nodes.filter((n) => !n.outs.every((v) => v === undefined || this.#known(v)));
    const fused = fuse({
      graph: { ...g, nodes },
      weight: (n) => this.#weigh(n),
      elements: (v) => product(this.#tensor(v).dims),
      known: (v) => this.#known(v),
    });
    for (const f of fused) this.#written.set(f.root, g.outputs.includes(f.root) ? this.#port("output", f.root) : this.#scratch(f.root));
    for (const v of g.outputs) {
      if (this.#written.get(v)?.buffer === this.#outputName(v)) continue;
      // An input or a constant handed through.
      this.#copyOut(v);
    }
    for (const f of fused) this.#emit(f);
    return this.#finish();
  }

  refusals(): ReadonlyMap<NodeId, Refused> {
    const found = new Map<NodeId, Refused>();
    for (const n of this.#g.nodes) {
      if (n.outs.every((v) => v === undefined || this.#known(v))) continue;
      if (!emits(n)) {
        found.set(n.id, new Refused(`no kernel is emitted for ${qualifiedOp(n)}`, "it runs on the host"));
        continue;
      }
      if (![...n.ins, ...n.outs].every((v) => v === undefined || this.#isStatic(v))) continue;
      try {
        this.#weigh(n);
      } catch (error) {
        if (!(error instanceof NotEmitted)) throw error;
        found.set(n.id, new Refused(error.why));
      }
    }
    return found;
  }

  // ---- values ---------------------------------------------------------------------------------------------------------------------------

  #tensor(v: ValueId): Tensor {
    const { type } = this.#facts(v);
    const name = valueAt(this.#g, v).name;
    if (type.kind !== "tensor") throw new Error(`'${name}' is no tensor`);
    const dims = type.shape;
    if (dims === undefined || dims.some((d) => typeof d !== "number")) throw new Error(`'${name}' has no static dims`);
    return { dims: dims as readonly number[], dtype: type.dtype };
  }
  #isStatic(v: ValueId): boolean {
    const { type } = this.#facts(v);
    return type.kind === "tensor" && type.shape?.every((d) => typeof d === "number") === true;
  }
  #constant(v: ValueId): Constant | undefined {
    return this.#g.constants.get(v) ?? this.#facts(v).constant;
  }
  #numbers(v: ValueId): readonly number[] | undefined {
    const { constant, elements } = this.#facts(v);
    const c = this.#g.constants.get(v) ?? constant;
    if (c !== undefined) return smallNumbers(c);
    return elements?.every((e) => typeof e === "number") === true ? (elements as readonly number[]) : undefined;
  }
  /** At hand without a kernel: a constant, or shape arithmetic that inference has done. */
  #known(v: ValueId): boolean {
    return this.#constant(v) !== undefined || this.#numbers(v) !== undefined;
  }
  /** Element type in device memory of what the segment computes. */
  #stored(dtype: DType): DType {
    if (dtype !== "float32") return dtype;
    const { precision } = this.#options;
    return precision === "fp16" || precision === "int8" ? "float16" : precision === "bf16" ? "bfloat16" : "float32";
  }

  #outputName(v: ValueId): BufferName {
    return `output ${valueAt(this.#g, v).name}`;
  }
  #port(kind: "input" | "output", v: ValueId): View {
    const { dims, dtype } = this.#tensor(v);
    const buffer = `${kind} ${valueAt(this.#g, v).name}`;
    this.#buffers.set(buffer, { kind, bytes: product(dims) * storage(dtype).bytes });
    return { buffer, dtype, dims, strides: rowMajor(dims), offset: 0 };
  }
  #scratch(
    v: ValueId,
    dtype = this.#masks.has(v) ? this.#tensor(v).dtype : this.#stored(this.#tensor(v).dtype),
    order = this.#order(v),
    name = `value ${valueAt(this.#g, v).name}`,
  ): View {
    const { dims } = this.#tensor(v);
    this.#buffers.set(name, { kind: "arena", bytes: product(dims) * storage(dtype).bytes });
    return { buffer: name, dtype, dims, strides: stridesOf(dims, order), offset: 0 };
  }
  #order(v: ValueId): readonly number[] {
    const rank = this.#tensor(v).dims.length;
    // Heads side by side, as the projection behind attention reads them.
    if (rank === 4 && this.#producer.get(v)?.node.op === "Attention") return [0, 2, 1, 3];
    return this.#spread.has(v) ? channelsLast(rank) : naturalOrder(rank);
  }
  /** Values of convolutional parts, which lie channels-last: what is connected to a convolution through nodes that keep the rank. */
  #channelsLastValues(): ReadonlySet<ValueId> {
    const parent = new Map<ValueId, ValueId>();
    const find = (v: ValueId): ValueId => {
      let at = v;
      for (let up = parent.get(at); up !== undefined && up !== at; up = parent.get(at)) {
        // Halving the path keeps chains of thousands of nodes near-linear.
        const over = parent.get(up) ?? up;
        parent.set(at, over);
        at = over;
      }
      return at;
    };
    const seeds: ValueId[] = [];
    const rankOf = (v: ValueId): number => {
      const { type } = this.#facts(v);
      return type.kind === "tensor" ? (type.shape?.length ?? 0) : 0;
    };
    for (const n of this.#g.nodes) {
      const [y] = n.outs;
      if (y === undefined || rankOf(y) < 3 || n.op === "Transpose" || n.op === "Reshape" || n.op === "MatMul") continue;
      const convolution = n.op === "Conv" || n.op === "ConvTranspose";
      if (convolution) seeds.push(y);
      for (const v of convolution ? n.ins.slice(0, 1) : n.ins) {
        if (v === undefined || rankOf(v) !== rankOf(y) || this.#g.constants.has(v)) continue;
        const [a, b] = [find(v), find(y)];
        if (a !== b) parent.set(a, b);
      }
    }
    const marked = new Set(seeds.map(find));
    return new Set(this.#g.values.flatMap((v) => (v !== undefined && marked.has(find(v.id)) ? [v.id] : [])));
  }

  /** A constant as a view over the weights, row-major. */
  #weight(v: ValueId, dtype: DType, view?: Pick<View, "dims" | "strides" | "offset">, tag = ""): View {
    const c = this.#constant(v);
    const { dims } = this.#tensor(v);
    const source = view ?? { dims, strides: rowMajor(dims), offset: 0 };
    const name = `weight ${valueAt(this.#g, v).name} ${dtype}${tag}`;
    if (!this.#buffers.has(name)) {
      this.#buffers.set(name, { kind: "weights", bytes: product(source.dims) * storage(dtype).bytes });
      const own = c ?? this.#synthesised(v);
      this.#weights.set(name, () => packed(own, source, dtype));
    }
    return { buffer: name, dtype, dims: source.dims, strides: rowMajor(source.dims), offset: 0 };
  }
  #synthesised(v: ValueId): Constant {
    const { dims, dtype } = this.#tensor(v);
    if (dtype === "string") throw new Error("strings are not computed");
    return makeConstant(dtype, dims, this.#numbers(v) ?? []);
  }

  /** An element of a value: a register at hand, a literal, a load, or the expression of its producer. */
  #at(v: ValueId): Element {
    return (scope, index) => {
      const over = scope.overrides.get(v);
      if (over !== undefined) return over;
      const own = this.#written.get(v);
      if (own !== undefined) return scope.load(own, index);
      if (this.#known(v)) return this.#constantElement(v, scope, index);
      const from = this.#producer.get(v);
      if (from === undefined) throw new Error(`'${valueAt(this.#g, v).name}' is not computed anywhere`);
      const element = this.#inline.get(from.node)?.elements[from.port];
      if (element === undefined) throw new NotEmitted(from.node, "its result is needed where it is not written");
      return element(scope, index);
    };
  }
  #constantElement(v: ValueId, scope: Scope, index: readonly Index[]): string {
    const t = this.#tensor(v);
    const { register } = storage(t.dtype);
    if (product(t.dims) === 1) {
      const numbers = this.#numbers(v);
      const c = this.#constant(v);
      if (c !== undefined) return literal(scalar(c), register);
      if (numbers !== undefined) return literal(numbers[0] as number, register);
    }
    // Tables of embeddings and the like follow the precision; small vectors stay as exact as they came.
    const dtype = product(t.dims) > 65_536 ? this.#stored(t.dtype) : t.dtype;
    return scope.load(this.#weight(v, dtype), index);
  }

  // ---- nodes ----------------------------------------------------------------------------------------------------------------------------

  #site(n: Node): Site {
    const known = this.#sites.get(n);
    if (known !== undefined) return known;
    const done = doneSite(this.#g, n, this.#facts);
    if (done === undefined) throw new NotEmitted(n, "the operator is not known");
    const site: Site = {
      node: n,
      attrs: done.site.attrs,
      ins: n.ins.map((v): Operand | undefined => {
        if (v === undefined) return undefined;
        const t = this.#tensor(v);
        if (storageOf(t.dtype) === undefined) throw new NotEmitted(n, `${t.dtype} has no place in a kernel`);
        return { ...t, id: v, at: this.#at(v), constant: this.#constant(v), numbers: this.#numbers(v) };
      }),
      outs: n.outs.map((v) => (v === undefined ? undefined : this.#tensor(v))),
    };
    this.#sites.set(n, site);
    return site;
  }

  #weigh(n: Node): Weight {
    try {
      const s = this.#site(n);
      const heavy = this.#heavyKind(s);
      if (heavy !== undefined) {
        this.#heavy.set(n, heavy);
        const buffered = heavy.kind === "attention" ? [0, 1, 2, 3] : heavy.kind === "reduce" || heavy.kind === "row" ? [] : [0, 1];
        return { kind: "heavy", buffered, ends: heavy.kind === "attention" ? "views" : "any" };
      }
      const light = inline(s);
      if (light === undefined) throw new Refused(`${n.op} has no kernel`);
      this.#inline.set(n, light);
      const [x, y] = [s.ins[0], s.outs[0]];
      const straight = Object.hasOwn(pointwise, n.op) || n.op === "Clip" || n.op === "BatchNormalization" || n.op === "QuantizeLinear";
      return {
        kind: "light",
        view: light.view,
        pointwise: straight && y !== undefined,
        forward: ["Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"].includes(n.op) && x !== undefined,
      };
    } catch (error) {
      if (error instanceof Refused) throw new NotEmitted(n, error.why);
      throw error;
    }
  }

  #heavyKind(s: Site): HeavyKind | undefined {
    const { op, domain } = s.node;
    if (domain !== "") return undefined;
    const [y] = s.outs;
    const floats = s.ins.slice(0, 2).every((x) => x !== undefined && storage(x.dtype).register === "float" && x.dtype === s.ins[0]?.dtype);
    const empty = y !== undefined && (product(y.dims) === 0 || s.ins.slice(0, 2).some((x) => x !== undefined && product(x.dims) === 0));
    if (op === "MatMul")
      return floats && !empty && s.ins.every((x) => (x?.dims.length ?? 0) >= 2)
        ? { kind: "matmul" }
        : { kind: "reduce", reduction: directMatMul(s) };
    if (op === "Gemm") return floats && !empty ? { kind: "gemm" } : { kind: "reduce", reduction: directGemm(s) };
    if (op === "Conv") return floats && !empty ? { kind: "conv" } : { kind: "reduce", reduction: directConv(s) };
    if (op === "Attention") {
      attentionShape(s);
      return { kind: "attention" };
    }
    const rows = rowProgram(s);
    if (rows !== undefined) return { kind: "row", program: rows };
    const reduced = reduction(s);
    return reduced === undefined ? undefined : { kind: "reduce", reduction: reduced };
  }

  // ---- kernels --------------------------------------------------------------------------------------------------------------------------

  #name(label: string): string {
    return `k${this.#count++}_${label.replace(/\W+/g, "_").slice(0, 40)}`;
  }

  #emit(f: Fused): void {
    const out = this.#written.get(f.root) as View;
    const label = f.heavy?.op ?? this.#producer.get(f.root)?.node.op ?? "copy";
    const nodes = this.#nodeNames(f);
    if (product(out.dims) === 0) return;
    if (f.heavy === undefined) {
      const from = this.#producer.get(f.root);
      const element = from === undefined ? undefined : this.#inline.get(from.node)?.elements[from.port];
      if (element === undefined) throw new Error(`'${valueAt(this.#g, f.root).name}' has no expression`);
      this.#push(mapKernel(this.#name(label), out, element), nodes);
      return;
    }
    const heavy = this.#heavy.get(f.heavy) as HeavyKind;
    const s = this.#site(f.heavy);
    const own = s.outs[0] as Tensor;
    const tail = this.#tail(f);
    switch (heavy.kind) {
      case "reduce": {
        const first = f.path[0] as ValueId;
        // Results are walked in the order in which they will lie in memory, as far as their own dims say.
        const shape = f.path.length === 1 ? out : { ...out, dims: own.dims, strides: stridesOf(own.dims, this.#order(first)), offset: 0 };
        this.#push(reduceKernel(this.#name(label), own.dims, heavy.reduction, out, tail, shape), nodes);
        return;
      }
      case "row":
        this.#push(rowKernel(this.#name(label), heavy.program, out, tail), nodes);
        return;
      case "attention":
        this.#attention(s, f, out, tail, nodes);
        return;
      default:
        this.#matrix(heavy.kind, s, out, tail, nodes);
    }
  }

  #attention(s: Site, f: Fused, out: View, tail: Tail, nodes: readonly string[]): void {
    const shape = attentionShape(s);
    const [q, k, v] = [s.ins[0] as Operand, s.ins[1] as Operand, s.ins[2] as Operand];
    const stored = this.#stored(q.dtype);
    const aligned = (x: View): boolean => x.strides.at(-1) === 1 && (x.offset * storage(x.dtype).bytes) % 16 === 0;
    const lie = (x: Operand): View => this.#inMemory(x.id, stored, naturalOrder(x.dims.length), aligned);
    const views = { q: lie(q), k: lie(k), v: lie(v) };
    const heads = (x: View, size: number): HeadStrides =>
      x.dims.length === 4
        ? { batch: x.strides[0] as number, head: x.strides[1] as number, position: x.strides[2] as number }
        : { batch: x.strides[0] as number, head: size, position: x.strides[1] as number };
    // Where the result goes, seen through what only moves it; a copy makes good what strides cannot say.
    const own = s.outs[0] as Tensor;
    let target = out;
    let placed = out.dtype === stored ? this.#placed(own, out, tail) : undefined;
    if (placed === undefined) {
      const first = f.path[0] as ValueId;
      const made = this.#scratch(first, stored, this.#order(first), `unplaced ${valueAt(this.#g, first).name}`);
      [target, placed] = [made, made];
      if (f.path.length > 1) {
        this.#written.set(first, made);
        const { node, port } = this.#producer.get(f.root) as { node: Node; port: number };
        this.#push(mapKernel(this.#name("place"), out, this.#inline.get(node)?.elements[port] as Element), nodes);
      } else
        this.#push(
          mapKernel(this.#name("place"), out, (scope, index) => scope.load(made, index)),
          nodes,
        );
    }
    const m = s.ins[3];
    const mask =
      m === undefined ? undefined : this.#inMemory(m.id, m.dtype === "bool" ? "bool" : "float32", naturalOrder(m.dims.length), () => true);
    const along = (fromEnd: number): number => {
      const i = (mask?.dims.length ?? 0) - fromEnd;
      return mask === undefined || i < 0 || mask.dims[i] === 1 ? 0 : (mask.strides[i] as number);
    };
    const problem: AttentionProblem = {
      ...shape,
      dtype: stored === "float32" ? "f32" : stored === "float16" ? "f16" : "bf16",
      mask:
        mask === undefined
          ? undefined
          : { dtype: mask.dtype === "bool" ? "bool" : "f32", batch: along(4), head: along(3), query: along(2), key: along(1) },
      q: heads(views.q, shape.dim),
      k: heads(views.k, shape.dim),
      v: heads(views.v, shape.dimV),
      out: heads(placed, shape.dimV),
    };
    const [tactic] = attentionTactics(problem, this.#options.device);
    if (tactic === undefined) throw new NotEmitted(s.node, "its heads are too large for one kernel");
    const kernel = attentionKernel(problem, tactic, this.#name("attention"));
    this.#pushText(kernel, { ...views, out: placed, ...(mask === undefined ? {} : { mask }) }, undefined, target, nodes);
  }

  /** A result's own dims over the memory of what becomes of it, when that only moves it and its last dim stays together. */
  #placed(own: Tensor, out: View, tail: Tail): View | undefined {
    const block = new Block(new ParameterList());
    const index = own.dims.map((d, i) => variable(`d${i}`, d - 1));
    const { index: at, value } = tail(block, index, "result");
    if (value !== "result") return undefined;
    const address = linear(at, out.strides, out.offset);
    if (address.terms.some((t) => t.atom.kind !== "variable")) return undefined;
    const strides = own.dims.map((d, i) => (d === 1 ? 0 : (address.terms.find((t) => t.atom.key === `d${i}`)?.factor ?? 0)));
    return strides.at(-1) === 1 ? { ...out, dims: own.dims, strides, offset: address.constant } : undefined;
  }

  /** From the heavy node's result to the root, element by element. */
  #tail(f: Fused): Tail {
    return (scope, index, value) => {
      let [at, current] = [index, value];
      scope.overrides.set(f.path[0] as ValueId, current);
      for (let i = 1; i < f.path.length; i++) {
        const [from, to] = [f.path[i - 1] as ValueId, f.path[i] as ValueId];
        const { node, port } = this.#producer.get(to) as { node: Node; port: number };
        at = this.#onward(node, this.#tensor(from).dims, this.#tensor(to).dims, at);
        const element = this.#inline.get(node)?.elements[port] as Element;
        current = scope.let(storage(this.#tensor(to).dtype).register, element(scope, at));
        scope.overrides.set(to, current);
      }
      return { index: at, value: current };
    };
  }
  /** Where an element of a node's input ends up in its output. */
  #onward(n: Node, from: readonly number[], to: readonly number[], at: readonly Index[]): readonly Index[] {
    if (n.op === "Transpose") {
      const order: readonly number[] = this.#site(n).attrs.perm ?? from.map((_, i) => from.length - 1 - i);
      return order.map((i) => at[i] as Index);
    }
    if (["Reshape", "Flatten", "Squeeze", "Unsqueeze"].includes(n.op)) return reshapedIndex(to, from)(at);
    // Elementwise: as many elements, perhaps more or fewer dims of one in front.
    return to.length === from.length ? at : reshapedIndex(to, from)(at);
  }

  #nodeNames(f: Fused): readonly string[] {
    const names: string[] = [];
    for (const v of [f.root, ...f.path]) {
      const n = this.#producer.get(v)?.node;
      if (n !== undefined && !names.includes(n.name)) names.push(n.name);
    }
    if (f.heavy !== undefined && !names.includes(f.heavy.name)) names.push(f.heavy.name);
    return names.filter((n) => n !== "");
  }

  #push(k: Kernel, nodes: readonly string[]): void {
    this.#steps.push({
      writes: k.parameters.at(-1) as BufferName,
      reads: k.parameters.slice(0, -1),
      scratch: [],
      kernel: k,
      args: k.parameters,
      source: { kind: "loop", text: k.text },
      nodes,
    });
  }

  #copyOut(v: ValueId): void {
    const out = this.#port("output", v);
    this.#push(mapKernel(this.#name("copy"), out, this.#at(v)), []);
  }

  /** A value as a plain view: what it is in memory seen through transposes, slices and the like. Undefined when it is no such thing. */
  #view(v: ValueId): View | undefined {
    const { dims } = this.#tensor(v);
    const own = this.#written.get(v);
    if (own !== undefined) return own;
    const probe = new Probe();
    const result = this.#at(v)(
      probe,
      dims.map((d, i) => variable(`d${i}`, d - 1)),
    );
    const [only, second] = probe.loads;
    if (only === undefined || second !== undefined || probe.computed || result !== only.name) return undefined;
    const address = linear(only.index, only.view.strides, only.view.offset);
    if (address.terms.some((t) => t.atom.kind !== "variable")) return undefined;
    return {
      buffer: only.view.buffer,
      dtype: only.view.dtype,
      dims,
      strides: dims.map((_, i) => address.terms.find((t) => t.atom.key === `d${i}`)?.factor ?? 0),
      offset: address.constant,
    };
  }

  /** A value in memory with this element type and, unless `fits` accepts what is there, this order of dims: a copy where need be. */
  #inMemory(v: ValueId, dtype: DType, order: readonly number[], fits: (view: View) => boolean): View {
    const t = this.#tensor(v);
    if (this.#known(v)) {
      const dims = order.map((i) => t.dims[i] as number);
      const natural = rowMajor(t.dims);
      const view = this.#weight(v, dtype, { dims, strides: order.map((i) => natural[i] as number), offset: 0 }, ` ${order.join("")}`);
      const strides = new Array<number>(order.length).fill(0);
      order.forEach((d, i) => {
        strides[d] = view.strides[i] as number;
      });
      return { ...view, dims: t.dims, strides };
    }
    const view = this.#view(v);
    if (view !== undefined && view.dtype === dtype && fits(view)) return view;
    const key = `copy ${valueAt(this.#g, v).name} ${dtype} ${order.join("")}`;
    const made = this.#copies.get(key);
    if (made !== undefined) return made;
    const copy = this.#scratch(v, dtype, order, key);
    this.#copies.set(key, copy);
    this.#push(mapKernel(this.#name("pack"), copy, this.#at(v)), []);
    return copy;
  }

  #matrix(kind: "matmul" | "gemm" | "conv", s: Site, out: View, tail: Tail, nodes: readonly string[]): void {
    const [x, w] = [s.ins[0] as Operand, s.ins[1] as Operand];
    const dtype = this.#stored(x.dtype);
    const { precision, device } = this.#options;
    if (kind === "conv") {
      const rank = x.dims.length;
      const view = this.#inMemory(x.id, dtype, channelsLast(rank), (v) => conv(s, v, precisionOf(v, precision) ?? "f32") !== undefined);
      const template = precisionOf(view, precision);
      const problem = template === undefined ? undefined : conv(s, view, template);
      if (problem === undefined) throw new NotEmitted(s.node, `convolutions of ${dtype} have no kernel`);
      // Depthwise kernels read weights with the channels fastest.
      const taps = Array.from({ length: rank - 2 }, (_, i) => i + 2);
      const weights = this.#inMemory(w.id, dtype, isDepthwise(problem) ? [...taps, 1, 0] : [0, ...taps, 1], () => false);
      const y = s.outs[0] as Tensor;
      const positions = [y.dims[0] as number, ...y.dims.slice(2)];
      const bias = s.ins[2];
      const epilogue = this.#epilogue(
        problem.k,
        out,
        tail,
        (scope, m, n, acc) => {
          const at = delinear(m, positions);
          const index = [at[0] as Index, n, ...at.slice(1)];
          const value = bias === undefined ? acc : scope.let("float", `${acc} + ${bias.at(scope, [n])}`);
          return { index, value };
        },
        product(positions),
        [],
      );
      const name = this.#name("conv");
      const kernel = (): KernelText | undefined => {
        const [depthwise] = isDepthwise(problem) ? depthwiseTactics(problem, device) : [];
        if (depthwise !== undefined) return depthwiseKernel(problem, depthwise, epilogue.text, name);
        const tactic = this.#choose({ kind: "conv", problem, key: JSON.stringify(problem), tactics: convTactics(problem, device) });
        return tactic === undefined ? undefined : convKernel(problem, tactic, epilogue.text, name, device);
      };
      const made = kernel();
      if (made === undefined) throw new NotEmitted(s.node, "no tile fits");
      this.#pushText(made, { a: view, b: weights }, epilogue, out, nodes);
      return;
    }
    const inner = (v: View): boolean => v.strides.filter((st, i) => st === 1 || v.dims[i] === 1).length > 0;
    const a = this.#inMemory(x.id, dtype, naturalOrder(x.dims.length), inner);
    // Weights lie with the summed dim fastest.
    const rank = w.dims.length;
    const transposed = kind === "gemm" && s.attrs.transB === true;
    const columnsFirst = [...naturalOrder(rank - 2), rank - 1, rank - 2];
    const b = this.#inMemory(w.id, dtype, transposed ? naturalOrder(rank) : columnsFirst, inner);
    const template = precisionOf(a, precision);
    const made = template === undefined ? undefined : kind === "gemm" ? gemm(s, a, b, template) : matmul(a, b, template);
    if (made === undefined) throw new NotEmitted(s.node, `products of ${dtype} have no kernel`);
    const { problem } = made;
    const epilogue = this.#epilogue(
      problem.N,
      out,
      tail,
      (scope, m, n, acc, batch) => {
        const index = [...delinear(batch, made.batchDims), ...delinear(m, made.rowDims), n];
        // Batch dims of one in front of the rows are part of them.
        const value = kind === "gemm" ? gemmResult(scope, s, acc, index) : acc;
        return { index, value };
      },
      problem.M,
      made.batchDims,
    );
    const tactic = this.#choose({ kind: "gemm", problem, key: JSON.stringify(problem), tactics: gemmTactics(problem, device) });
    if (tactic === undefined) throw new NotEmitted(s.node, "no tile fits");
    this.#pushText(gemmKernel(problem, tactic, epilogue.text, this.#name(kind), device), { a, b }, epilogue, out, nodes);
  }

  #choose(p: Problem): Tactic | undefined {
    this.#options.onProblem?.(p);
    return p.tactics[this.#options.picks?.get(p.key) ?? 0];
  }

  /** What a template does with V neighbouring results: the operator's own end, the nodes fused behind it, and the store. */
  #epilogue(
    columns: number,
    out: View,
    tail: Tail,
    own: (scope: Block, m: Index, n: Index, acc: string, batch: Index) => { readonly index: readonly Index[]; readonly value: string },
    rows: number,
    batchDims: readonly number[],
  ): { readonly text: EpilogueText; readonly parameters: ParameterList; readonly out: View } {
    const parameters = new ParameterList();
    const write = (V: number): { readonly body: string; readonly early: readonly EarlyRead[] } => {
      const b = new Block(parameters);
      // A residual is large and its address known from the start: it is fetched while the product is still being summed.
      const early = b.readEarly((view) => !view.buffer.startsWith("weight"), ["m", "nv", "b"]);
      b.line(`const int nv = n / ${V};`);
      const done = Array.from({ length: V }, (_, k) => {
        const n = add(scale(variable("nv", columns / V - 1), V), k);
        const { index, value } = own(
          b,
          variable("m", rows - 1),
          n,
          b.let("float", `acc[${k}]`),
          variable("b", Math.max(product(batchDims) - 1, 0)),
        );
        return tail(b, index, value);
      });
      store(
        b,
        out,
        done.map((d) => d.index),
        done.map((d) => d.value),
      );
      return { body: b.render().join("\n"), early };
    };
    const width = 16 / storage(out.dtype).bytes;
    let vector = Math.min(8, width);
    while (vector > 1 && columns % vector !== 0) vector /= 2;
    // Every width names the same parameters in the same order: the text of one is written now, to know them.
    const reads = write(vector).early.length > 0;
    const type = storage(out.dtype).type;
    const early: EpilogueText["early"] = reads
      ? {
          type: (V) =>
            `struct { ${write(V)
              .early.map((e, i) => `${e.type} p${i};`)
              .join(" ")} }`,
          body: (V) =>
            `  const int nv = n / ${V};\n  return {${write(V)
              .early.map((e) => e.load)
              .join(", ")}};`,
        }
      : undefined;
    return {
      text: {
        prelude: PRELUDE,
        params: [...parameters.declarations(), `${type}* __restrict__ out`],
        body: (V) => write(V).body,
        vector,
        ...(early === undefined ? {} : { early }),
      },
      parameters,
      out,
    };
  }

  #pushText(
    k: KernelText,
    operands: Readonly<Record<string, View>>,
    epilogue: { readonly parameters: ParameterList; readonly out: View } | undefined,
    out: View,
    nodes: readonly string[],
  ): void {
    const args: Address[] = [];
    const named = (operand: string): { readonly buffer: BufferName; readonly offset: number } => {
      const view = operands[operand];
      if (view === undefined) throw new Error(`${k.name} asks for an operand '${operand}'`);
      return { buffer: view.buffer, offset: view.offset * storage(view.dtype).bytes };
    };
    const scratch: { name: BufferName; bytes: number; zero: boolean }[] = [];
    for (const a of k.arguments) {
      switch (a.kind) {
        case "operand":
          args.push(named(a.operand));
          break;
        case "tensorMap":
          args.push({ ...named(a.operand), map: a.map });
          break;
        case "scratch": {
          const name = `scratch ${k.name} ${scratch.length}`;
          this.#buffers.set(name, { kind: "arena", bytes: a.bytes });
          scratch.push({ name, bytes: a.bytes, zero: a.zero });
          args.push(name);
          break;
        }
        case "epilogue":
          if (epilogue !== undefined) args.push(...epilogue.parameters.buffers(), epilogue.out.buffer);
          break;
        default:
          a satisfies never;
      }
    }
    this.#steps.push({
      writes: out.buffer,
      reads: [...Object.values(operands).map((v) => v.buffer), ...(epilogue?.parameters.buffers() ?? [])].filter((b) => b !== out.buffer),
      scratch,
      kernel: k,
      args,
      source: { kind: "whole", text: k.source },
      nodes,
    });
  }

  // ---- the plan -------------------------------------------------------------------------------------------------------------------------

  #finish(): Lowered {
    const ports = (
      values: readonly ValueId[],
    ): readonly { readonly name: string; readonly dims: readonly number[]; readonly dtype: DType }[] =>
      values.map((v) => ({ name: valueAt(this.#g, v).name, ...this.#tensor(v) }));
    return assemble({
      steps: this.#steps,
      buffers: this.#buffers,
      weights: this.#weights,
      inputs: ports(this.#g.inputs),
      outputs: ports(this.#g.outputs),
      arch: this.#options.device.arch,
    });
  }
}

function scalar(c: Constant): number | bigint {
  const [first] = typedOf(c) as unknown as ArrayLike<number | bigint> & Iterable<number | bigint>;
  const raw = first as number | bigint;
  return typeof raw === "bigint" || (c.dtype !== "float16" && c.dtype !== "bfloat16") ? raw : halfScalar(c);
}
function halfScalar(c: Constant): number {
  const view = packed(c, { dims: [1], strides: [1], offset: 0 }, "float32");
  return new Float32Array(view.buffer, view.byteOffset, 1)[0] as number;
}
