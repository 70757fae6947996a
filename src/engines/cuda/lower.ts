/**
 * A segment with static shapes to a kernel plan: rules say what each node is (inline.ts, reduce.ts, rows.ts, matrix.ts), fusion.ts says which
 * values are written, and here every written value gets its kernel. emission.ts holds the plan under construction.
 */

import { qualifiedOp, valueAt } from "../../ir/graph.js";
import type { DType, Graph, Node, NodeId, ValueId } from "../../ir/types.js";
import { doneSite } from "../../ops/infer.js";
import { assemble, type Lowered } from "./assemble.js";
import { emitAttention } from "./attention-emit.js";
import { directConv, directGemm, directMatMul } from "./direct.js";
import { spellEinsums } from "./einsum.js";
import { Emission } from "./emission.js";
import { type Fused, fuse, type Weight } from "./fusion.js";
import { attentionShape } from "./heads.js";
import { type Index, product } from "./indexing.js";
import { inline, inlineOps, reshapedIndex } from "./inline.js";
import { spellIntegers } from "./integers.js";
import { mapKernel, noTail, reduceKernel, rowKernel, type Tail } from "./loops.js";
import { precisionOf } from "./matrix.js";
import { emitMatrix } from "./matrix-emit.js";
import { mergeProducts } from "./merge.js";
import { pointwise } from "./pointwise.js";
import { emitPooled, pooledProblem, rises } from "./pooled.js";
import { maxPoolKernel } from "./pooling.js";
import { integerRegions } from "./quantized.js";
import { emitRecurrent, recurrentOps, recurrentShape } from "./recurrent.js";
import { reductionOps, reductions } from "./reduce.js";
import type { Reduction } from "./reduction.js";
import { type RowProgram, rowOps, rowProgram } from "./rows.js";
import type { Element, Scope } from "./scope.js";
import { type Operand, Refused, type Site, type Tensor } from "./site.js";
import { storage, storageOf } from "./storage.js";
import { tapRuns } from "./taps.js";
import type { PooledProblem } from "./templates/pooled.js";
import { emitTopK, topKShape } from "./topk.js";
import { type LowerOptions, NotEmitted, type Problem } from "./values.js";
import { stridesOf, type View } from "./view.js";

export type { Lowered, LowerOptions, Problem };
export { NotEmitted };

/** Throws `NotEmitted` for a node that no rule takes. All dims must be static. */
export function lower(g: Graph, options: LowerOptions): Lowered {
  const { graph, exact } = spellIntegers(integerRegions(g));
  return new Lowering(graph, options, exact).run();
}

/**
 * What of a graph the emitter cannot take, by node: the same rules that emit say so. Nodes whose dims are not known yet are judged by their
 * operator alone.
 */
export function refusals(g: Graph, options: LowerOptions): ReadonlyMap<NodeId, Refused> {
  const { graph, from } = spellIntegers(g);
  const found = new Lowering(graph, options).refusals();
  return new Map([...found].map(([id, refused]) => [from.get(id) ?? id, refused]));
}
const EMITTED: ReadonlySet<string> = new Set([
  ...inlineOps,
  ...reductionOps,
  ...rowOps,
  "MatMul",
  "Gemm",
  "Conv",
  "MatMulInteger",
  "ConvInteger",
  "DynamicQuantizeLinear",
  "Attention",
  "TopK",
  // Answered by inference once the dims are known.
  "Shape",
  "Size",
  ...recurrentOps,
]);
/** Whether any rule takes the operator at all. */
export const emits = (n: Node): boolean => n.domain === "" && EMITTED.has(n.op);

type HeavyKind =
  /** One reduction per output. */
  | { readonly kind: "reduce"; readonly reductions: readonly Reduction[] }
  | { readonly kind: "row"; readonly program: RowProgram }
  | { readonly kind: "matmul" | "gemm" | "conv" | "attention" | "recurrent" | "topk" };

/** Operands that a kernel reads from memory; the others are read as expressions. */
const buffered: Readonly<Record<HeavyKind["kind"], readonly number[]>> = {
  reduce: [],
  row: [],
  matmul: [0, 1],
  gemm: [0, 1],
  conv: [0, 1],
  attention: [0, 1, 2, 3, 4, 5],
  recurrent: [0, 1, 2, 3, 4, 5, 6, 7],
  topk: [0],
};
/** Kernels count elements, and threads up to a whole block beyond them, in 32 bits. */
const MOST_ELEMENTS = 2 ** 31 - 2 ** 16;

/** Of int8 and uint8 these may leave the range of their type, which memory alone would bring back. */
const WRAPPING: ReadonlySet<string> = new Set(["Abs", "Add", "BitShift", "BitwiseNot", "Div", "Mul", "Neg", "Pow", "Sub", "Sum"]);
/** A register of a byte's type as what memory would hold: what follows in the same kernel looks at all of its bits. */
function wrapped(scope: Scope, dtype: DType | undefined, value: string): string {
  return dtype === "int8" || dtype === "uint8" ? scope.let("int", `(int)(${storage(dtype).type})(${value})`) : value;
}

const ends: Readonly<Record<HeavyKind["kind"], "any" | "views" | "stores">> = {
  reduce: "any",
  row: "any",
  matmul: "any",
  gemm: "any",
  conv: "any",
  attention: "views",
  recurrent: "stores",
  topk: "stores",
};

/** Integer products of int8 operands run on the matrix units, other products as loops. Zero points have been taken out before (integers.ts). */
function integerKind(s: Site, empty: boolean): HeavyKind {
  if (s.ins.slice(2).some((zero) => zero !== undefined))
    throw new Refused(
      s.node.op === "ConvInteger"
        ? "its weights or their zero points are not constants"
        : "its left operand has more zero points than one, or its right operand others than one for each column",
      "quantize with one zero point, or symmetrically",
    );
  const [x, w] = s.ins;
  const symmetric = x?.dtype === "int8" && w?.dtype === "int8" && !empty;
  if (s.node.op === "ConvInteger") {
    if (!symmetric) throw new Refused("its weights are not constants, or it has no elements", "make the weights initializers");
    return { kind: "conv" };
  }
  return symmetric && x.dims.length >= 2 && w.dims.length >= 2 ? { kind: "matmul" } : { kind: "reduce", reductions: [directMatMul(s)] };
}

class Lowering {
  readonly #e: Emission;
  readonly #sites = new Map<Node, Site>();
  readonly #heavy = new Map<Node, HeavyKind>();
  #castFrom: ReadonlySet<ValueId | undefined> | undefined;

  /** `exact`: values that lie in memory in their own precision. */
  constructor(g: Graph, options: LowerOptions, exact: Iterable<ValueId> = []) {
    this.#e = new Emission(mergeProducts(spellEinsums(g)), options);
    for (const v of exact) this.#e.masks.add(v);
  }

  run(): Lowered {
    const g = this.#e.graph;
    for (const v of g.inputs) this.#e.written.set(v, this.#e.port("input", v));
    const nodes = g.nodes.filter((n) => !n.outs.every((v) => v === undefined || this.#e.known(v)));
    const fused = fuse({
      graph: { ...g, nodes },
      weight: (n) => this.#weigh(n),
      elements: (v) => product(this.#e.tensor(v).dims),
      known: (v) => this.#e.known(v),
    });
    for (const v of fused.flatMap((f) => [f.root, ...f.also]))
      this.#e.written.set(v, g.outputs.includes(v) ? this.#e.port("output", v) : this.#e.scratch(v));
    for (const v of g.outputs) {
      if (this.#e.written.get(v)?.buffer === this.#e.outputName(v)) continue;
      // An input or a constant handed through.
      this.#e.copyOut(v);
    }
    const pooled = this.#pooled(fused);
    const absorbed = new Set([...pooled.values()].map((x) => x.conv));
    for (const f of fused) {
      const pair = pooled.get(f);
      if (pair !== undefined)
        emitPooled(this.#e, pair.problem, this.#site(pair.conv.heavy as Node), this.#e.written.get(f.root) as View, this.#tail(pair.conv), [
          ...this.#nodeNames(pair.conv),
          ...this.#nodeNames(f),
        ]);
      else if (!absorbed.has(f)) this.#emit(f);
    }
    return this.#finish();
  }

  refusals(): ReadonlyMap<NodeId, Refused> {
    const found = new Map<NodeId, Refused>();
    for (const n of this.#e.graph.nodes) {
      if (n.outs.every((v) => v === undefined || this.#e.known(v))) continue;
      if (!emits(n)) {
        found.set(n.id, new Refused(`no kernel is emitted for ${qualifiedOp(n)}`, "it runs on the host"));
        continue;
      }
      if (![...n.ins, ...n.outs].every((v) => v === undefined || this.#e.isStatic(v))) continue;
      try {
        this.#weigh(n);
      } catch (error) {
        if (!(error instanceof NotEmitted)) throw error;
        found.set(n.id, new Refused(error.why));
      }
    }
    return found;
  }

  /** Max poolings that can be done where the first layer in front of them is, which nothing else reads. */
  #pooled(fused: readonly Fused[]): ReadonlyMap<Fused, { readonly conv: Fused; readonly problem: PooledProblem }> {
    const g = this.#e.graph;
    const found = new Map<Fused, { readonly conv: Fused; readonly problem: PooledProblem }>();
    const byRoot = new Map(fused.map((f) => [f.root, f]));
    for (const f of fused) {
      const x = f.heavy?.op === "MaxPool" && f.path.length === 1 && f.also.length === 0 ? f.heavy.ins[0] : undefined;
      const conv = x === undefined ? undefined : byRoot.get(x);
      if (x === undefined || f.heavy === undefined || conv?.heavy === undefined || this.#heavy.get(conv.heavy)?.kind !== "conv") continue;
      if (conv.also.length > 0 || g.outputs.includes(x) || g.nodes.filter((n) => n.ins.includes(x)).length !== 1) continue;
      const between = conv.path.slice(1).map((v) => this.#site((this.#e.producer.get(v) as { node: Node }).node));
      const problem = between.every(rises) ? pooledProblem(this.#e, this.#site(conv.heavy), this.#site(f.heavy)) : undefined;
      if (problem !== undefined) found.set(f, { conv, problem });
    }
    return found;
  }

  // ---- nodes ----------------------------------------------------------------------------------------------------------------------------

  #site(n: Node): Site {
    const known = this.#sites.get(n);
    if (known !== undefined) return known;
    const done = doneSite(this.#e.graph, n, this.#e.facts);
    if (done === undefined) throw new NotEmitted(n, "the operator is not known");
    const stored = (v: ValueId): Tensor => {
      const t = this.#e.tensor(v);
      if (storageOf(t.dtype) === undefined) throw new NotEmitted(n, `${t.dtype} has no place in a kernel`);
      if (product(t.dims) > MOST_ELEMENTS) throw new NotEmitted(n, `a tensor of ${product(t.dims)} elements is more than kernels count`);
      return t;
    };
    const site: Site = {
      node: n,
      attrs: done.site.attrs,
      ins: n.ins.map((v): Operand | undefined =>
        v === undefined
          ? undefined
          : {
              ...stored(v),
              id: v,
              at: this.#e.at(v),
              constant: this.#e.constant(v),
              numbers: this.#e.numbers(v),
              nonNegative: this.#e.nonNegative(v),
            },
      ),
      outs: n.outs.map((v) => (v === undefined ? undefined : stored(v))),
      coarse: this.#e.options.precision !== "fp32" && this.#e.options.precision !== "tf32",
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
        // A convolution of few channels copies its input anyway: what makes the input is done in that copy.
        const copies =
          heavy.kind === "conv" &&
          tapRuns(s, precisionOf({ dtype: this.#e.stored(s.ins[0]?.dtype ?? "float32") }, this.#e.options.precision) ?? "f32") !==
            undefined;
        return { kind: "heavy", buffered: copies ? [1] : buffered[heavy.kind], ends: ends[heavy.kind] };
      }
      const light = inline(s);
      if (light === undefined) throw new Refused(`${n.op} has no kernel`);
      const made = WRAPPING.has(n.op)
        ? light.elements.map(
            (element): Element =>
              (scope, index) =>
                wrapped(scope, s.outs[0]?.dtype, element(scope, index)),
          )
        : light.elements;
      this.#e.inline.set(n, { ...light, elements: made });
      const [x, y] = [s.ins[0], s.outs[0]];
      const straight =
        Object.hasOwn(pointwise, n.op) ||
        n.op === "Clip" ||
        n.op === "BatchNormalization" ||
        n.op === "QuantizeLinear" ||
        // Sums of an integer product become real; int8 values stay as they are until they are read.
        (n.op === "DequantizeLinear" && x?.dtype === "int32");
      return {
        kind: "light",
        view: light.view,
        pointwise: straight && y !== undefined,
        forward: ["Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"].includes(n.op) && x !== undefined,
        stop: this.#requantizes(n),
      };
    } catch (error) {
      if (error instanceof Refused) throw new NotEmitted(n, error.why);
      throw error;
    }
  }

  /** A quantizer behind an integer product, or in front of integer sums: int8 is the cheapest form to keep. */
  #requantizes(n: Node): boolean {
    if (n.op !== "QuantizeLinear") return false;
    this.#castFrom ??= new Set(this.#e.graph.nodes.flatMap((u) => (u.op === "Cast" ? u.ins : [])));
    if (this.#castFrom.has(n.outs[0])) return true;
    const before = (v: ValueId | undefined): Node | undefined => (v === undefined ? undefined : this.#e.producer.get(v)?.node);
    const from = before(n.ins[0]);
    const scaled = from?.op === "Relu" ? before(from.ins[0]) : from;
    const sums = scaled?.op === "DequantizeLinear" ? scaled.ins[0] : undefined;
    return sums !== undefined && this.#e.tensor(sums).dtype === "int32";
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
        : { kind: "reduce", reductions: [directMatMul(s)] };
    if (op === "Gemm") return floats && !empty ? { kind: "gemm" } : { kind: "reduce", reductions: [directGemm(s)] };
    if (op === "Conv") return floats && !empty ? { kind: "conv" } : { kind: "reduce", reductions: [directConv(s)] };
    if (op === "ConvInteger" || op === "MatMulInteger") return integerKind(s, empty);
    if (op === "Attention") {
      attentionShape(s);
      return { kind: "attention" };
    }
    if (recurrentOps.includes(op)) {
      recurrentShape(s);
      return { kind: "recurrent" };
    }
    const rows = rowProgram(s);
    if (rows !== undefined) return { kind: "row", program: rows };
    if (op === "TopK") {
      topKShape(s);
      return { kind: "topk" };
    }
    const reduced = reductions(s);
    return reduced === undefined ? undefined : { kind: "reduce", reductions: reduced };
  }

  // ---- kernels --------------------------------------------------------------------------------------------------------------------------

  #emit(f: Fused): void {
    const out = this.#e.written.get(f.root) as View;
    const label = f.heavy?.op ?? this.#e.producer.get(f.root)?.node.op ?? "copy";
    const nodes = this.#nodeNames(f);
    if (product(out.dims) === 0) return;
    if (f.heavy === undefined) {
      const from = this.#e.producer.get(f.root);
      const element = from === undefined ? undefined : this.#e.inline.get(from.node)?.elements[from.port];
      if (element === undefined) throw new Error(`'${valueAt(this.#e.graph, f.root).name}' has no expression`);
      this.#e.push(mapKernel(this.#e.name(label), out, element), nodes);
      return;
    }
    const heavy = this.#heavy.get(f.heavy) as HeavyKind;
    const s = this.#site(f.heavy);
    const own = s.outs[0] as Tensor;
    const tail = this.#tail(f);
    switch (heavy.kind) {
      case "reduce": {
        const first = f.path[0] as ValueId;
        const pooled = f.path.length === 1 ? maxPoolKernel(this.#e, s, out, this.#e.name(label)) : undefined;
        if (pooled !== undefined) {
          this.#e.push(pooled, nodes);
          return;
        }
        // Results are walked in the order in which they will lie in memory, as far as their own dims say.
        const shape = f.path.length === 1 ? out : { ...out, dims: own.dims, strides: stridesOf(own.dims, this.#e.order(first)), offset: 0 };
        const port = this.#e.producer.get(first)?.port ?? 0;
        this.#e.push(reduceKernel(this.#e.name(label), own.dims, heavy.reductions[port] as Reduction, out, tail, shape), nodes);
        for (const v of f.also) {
          const further = heavy.reductions[this.#e.producer.get(v)?.port ?? 0] as Reduction;
          this.#e.push(reduceKernel(this.#e.name(label), this.#e.tensor(v).dims, further, this.#e.written.get(v) as View, noTail), nodes);
        }
        return;
      }
      case "row":
        this.#e.push(rowKernel(this.#e.name(label), heavy.program, out, tail), nodes);
        return;
      case "topk":
        emitTopK(this.#e, s, f, nodes);
        return;
      case "recurrent":
        emitRecurrent(this.#e, s, f, nodes);
        return;
      case "attention":
        emitAttention(this.#e, s, f, tail, nodes);
        return;
      default:
        emitMatrix(this.#e, heavy.kind, s, out, tail, nodes);
    }
  }

  /** From the heavy node's result to the root, element by element. */
  #tail(f: Fused): Tail {
    return (scope, index, value) => {
      // Sums of updates wrap too.
      const scattered = f.heavy?.op === "ScatterElements" || f.heavy?.op === "ScatterND";
      let [at, current] = [index, scattered ? wrapped(scope, this.#e.tensor(f.path[0] as ValueId).dtype, value) : value];
      scope.overrides.set(f.path[0] as ValueId, current);
      for (let i = 1; i < f.path.length; i++) {
        const [from, to] = [f.path[i - 1] as ValueId, f.path[i] as ValueId];
        const { node, port } = this.#e.producer.get(to) as { node: Node; port: number };
        at = this.#onward(node, this.#e.tensor(from).dims, this.#e.tensor(to).dims, at);
        const element = this.#e.inline.get(node)?.elements[port] as Element;
        current = scope.let(storage(this.#e.tensor(to).dtype).register, element(scope, at));
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
      const n = this.#e.producer.get(v)?.node;
      if (n !== undefined && !names.includes(n.name)) names.push(n.name);
    }
    if (f.heavy !== undefined && !names.includes(f.heavy.name)) names.push(f.heavy.name);
    return names.filter((n) => n !== "");
  }

  // ---- the plan -------------------------------------------------------------------------------------------------------------------------

  #finish(): Lowered {
    const ports = (
      values: readonly ValueId[],
    ): readonly { readonly name: string; readonly dims: readonly number[]; readonly dtype: DType }[] =>
      values.map((v) => ({ name: valueAt(this.#e.graph, v).name, ...this.#e.tensor(v) }));
    return assemble({
      steps: this.#e.steps,
      buffers: this.#e.buffers,
      weights: this.#e.weights,
      inputs: ports(this.#e.graph.inputs),
      outputs: ports(this.#e.graph.outputs),
      arch: this.#e.options.device.arch,
    });
  }
}
