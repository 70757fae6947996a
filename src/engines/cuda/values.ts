/** What a lowering knows of a segment's values: dims, constants, element types on the device, and the order of their dims in memory. */
import { valueAt } from "../../ir/graph.js";
import { smallNumbers, typedOf } from "../../ir/payload.js";
import type { Constant, DType, Graph, Node, ValueId } from "../../ir/types.js";
import type { Fact } from "../../ops/define.js";
import { inferGraph } from "../../ops/infer.js";
import type { Tensor } from "./site.js";
import type { ConvProblem, DeviceModel, EpilogueText, GemmProblem, Tactic } from "./templates/index.js";
import { channelsLast, naturalOrder } from "./view.js";

export interface LowerOptions {
  readonly precision: "fp32" | "tf32" | "fp16" | "bf16" | "int8";
  readonly device: DeviceModel;
  /** Index of the tactic to take, by problem; the first where it says nothing. */
  readonly picks?: ReadonlyMap<string, number> | undefined;
  /** Told of every product and convolution that a template computes. */
  readonly onProblem?: ((p: Problem) => void) | undefined;
}
/** What a template computes and the ways it can, the best guess first. Equal keys are equal problems. */
export type Problem = ProblemEnd &
  (
    | { readonly kind: "gemm"; readonly problem: GemmProblem; readonly tactics: readonly Tactic[] }
    | { readonly kind: "conv"; readonly problem: ConvProblem; readonly tactics: readonly Tactic[] }
  );
interface ProblemEnd {
  readonly key: string;
  /** What its kernel does with the results, and the memory it reads and (the last) writes there. */
  readonly epilogue: EpilogueText;
  readonly operands: readonly { readonly bytes: number; readonly dtype: DType }[];
  /** Names of the nodes it computes, as its launch lists them. */
  readonly nodes: readonly string[];
  /** Which of the operands is fetched by tiles; -1 for none. */
  readonly residual: number;
}

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
const ABOVE_ZERO: ReadonlySet<string> = new Set(["Relu", "Sigmoid", "Softmax", "HardSigmoid", "Abs"]);
/** Their results have the signs of their first operand. */
const SIGN_KEEPING: ReadonlySet<string> = new Set([
  "QuantizeLinear",
  "DequantizeLinear",
  "Identity",
  "Reshape",
  "Flatten",
  "Squeeze",
  "Unsqueeze",
  "Transpose",
  "Slice",
  "MaxPool",
  "AveragePool",
  "GlobalAveragePool",
]);

export class Values {
  readonly graph: Graph;
  readonly options: LowerOptions;
  readonly facts: (v: ValueId) => Fact;
  readonly producer = new Map<ValueId, { readonly node: Node; readonly port: number }>();
  readonly spread: ReadonlySet<ValueId>;
  /** Masks of attention, which single precision alone holds: half turns their large negative numbers into infinities. */
  readonly masks = new Set<ValueId>();
  readonly #nonNegative = new Map<ValueId, boolean>();

  constructor(g: Graph, options: LowerOptions) {
    this.options = options;
    const inferred = inferGraph(g);
    this.graph = inferred.graph;
    this.facts = inferred.facts;
    for (const node of this.graph.nodes)
      for (const [port, v] of node.outs.entries()) if (v !== undefined) this.producer.set(v, { node, port });
    this.spread = this.channelsLastValues();
    for (const n of this.graph.nodes) if (n.op === "Attention" && n.ins[3] !== undefined) this.masks.add(n.ins[3]);
    for (const n of [...this.graph.nodes].reverse())
      if (n.outs.some((v) => v !== undefined && this.masks.has(v))) for (const v of n.ins) if (v !== undefined) this.masks.add(v);
  }

  tensor(v: ValueId): Tensor {
    const { type } = this.facts(v);
    const name = valueAt(this.graph, v).name;
    if (type.kind !== "tensor") throw new Error(`'${name}' is no tensor`);
    const dims = type.shape;
    if (dims === undefined || dims.some((d) => typeof d !== "number")) {
      const by = this.producer.get(v)?.node;
      if (by === undefined) throw new Error(`'${name}' has no static dims`);
      throw new NotEmitted(by, `the dims of '${name}' do not follow from those of the inputs`);
    }
    return { dims: dims as readonly number[], dtype: type.dtype };
  }
  isStatic(v: ValueId): boolean {
    const { type } = this.facts(v);
    return type.kind === "tensor" && type.shape?.every((d) => typeof d === "number") === true;
  }
  constant(v: ValueId): Constant | undefined {
    return this.graph.constants.get(v) ?? this.facts(v).constant;
  }
  numbers(v: ValueId): readonly number[] | undefined {
    const { constant, elements } = this.facts(v);
    const c = this.graph.constants.get(v) ?? constant;
    if (c !== undefined) return smallNumbers(c);
    return elements?.every((e) => typeof e === "number") === true ? (elements as readonly number[]) : undefined;
  }
  /** At hand without a kernel: a constant, or shape arithmetic that inference has done. */
  known(v: ValueId): boolean {
    return this.constant(v) !== undefined || this.numbers(v) !== undefined;
  }
  /** Whether no element is below 0, as far as the operators up to here tell. */
  nonNegative(v: ValueId): boolean {
    // A walk back over moves and quantizers; what it passes has the same answer.
    const passed: ValueId[] = [];
    let [at, result]: [ValueId | undefined, boolean | undefined] = [v, undefined];
    while (result === undefined && at !== undefined) {
      passed.push(at);
      const node: Node | undefined = this.producer.get(at)?.node;
      if (node === undefined || node.domain !== "") break;
      const steps = node.op === "QuantizeLinear" || node.op === "DequantizeLinear";
      if (ABOVE_ZERO.has(node.op)) result = true;
      else if (!SIGN_KEEPING.has(node.op) || (steps && !this.#keepsSigns(node))) result = false;
      else {
        at = node.ins[0];
        result = at === undefined ? false : this.#nonNegative.get(at);
      }
    }
    for (const p of passed) this.#nonNegative.set(p, result ?? false);
    return result ?? false;
  }
  /** Quantizers with steps above 0 and without a zero point do. */
  #keepsSigns({ ins: [, step, zero] }: Node): boolean {
    const c = step === undefined ? undefined : this.constant(step);
    if (c?.dtype !== "float32" || !(typedOf(c) as Float32Array).every((s) => s > 0)) return false;
    return zero === undefined || this.numbers(zero)?.every((x) => x === 0) === true;
  }
  /** Element type in device memory of what the segment computes. */
  stored(dtype: DType): DType {
    if (dtype !== "float32") return dtype;
    const { precision } = this.options;
    return precision === "fp16" || precision === "int8" ? "float16" : precision === "bf16" ? "bfloat16" : "float32";
  }
  order(v: ValueId): readonly number[] {
    const rank = this.tensor(v).dims.length;
    // Heads side by side, as the projection behind attention reads them.
    if (rank === 4 && this.producer.get(v)?.node.op === "Attention") return [0, 2, 1, 3];
    return this.spread.has(v) ? channelsLast(rank) : naturalOrder(rank);
  }
  /** Values of convolutional parts, which lie channels-last: what is connected to a convolution through nodes that keep the rank. */
  channelsLastValues(): ReadonlySet<ValueId> {
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
      const { type } = this.facts(v);
      return type.kind === "tensor" ? (type.shape?.length ?? 0) : 0;
    };
    for (const n of this.graph.nodes) {
      const [y] = n.outs;
      if (y === undefined || rankOf(y) < 3 || n.op === "Transpose" || n.op === "Reshape" || n.op === "MatMul") continue;
      const convolution = n.op === "Conv" || n.op === "ConvInteger" || n.op === "ConvTranspose";
      if (convolution) seeds.push(y);
      for (const v of convolution ? n.ins.slice(0, 1) : n.ins) {
        if (v === undefined || rankOf(v) !== rankOf(y) || this.graph.constants.has(v)) continue;
        const [a, b] = [find(v), find(y)];
        if (a !== b) parent.set(a, b);
      }
    }
    const marked = new Set(seeds.map(find));
    return new Set(this.graph.values.flatMap((v) => (v !== undefined && marked.has(find(v.id)) ? [v.id] : [])));
  }
}
