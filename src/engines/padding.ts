/**
 * Whether an engine built for a larger dim gives the right answers for a smaller one: feeds are padded along the dim, and results cut back. That is so
 * where no result before the cut depends on what was padded, which is proved here by following the dim through the graph: along which axis of
 * each value it lies, and whether each operator keeps the places of that axis apart. What no rule knows is refused.
 */
import { intOf } from "../ir/attributes.js";
import { exactQuotient, isStatic, product, sameDim, symbolsOf } from "../ir/dims.js";
import { bodiesOf, displayName, qualifiedOp, readsOf, valueAt } from "../ir/graph.js";
import { smallNumbers } from "../ir/payload.js";
import type { Attr, Dim, Graph, Node, ValueId } from "../ir/types.js";
import { type Fact, shapeOf } from "../ops/define.js";

/** Why a dim cannot be padded. */
export interface Crossing {
  /** The node that joins places of the dim, under the user's name; undefined where an input or output is at fault. */
  readonly node: string | undefined;
  readonly op: string | undefined;
  readonly why: string;
}

/** undefined: values of the dim `symbol` may be padded at their end. `facts` are those of the graph with that symbol in it. */
export const paddingRefusal = (g: Graph, facts: (v: ValueId) => Fact, symbol: string): Crossing | undefined =>
  refusal(new Proof(g, facts, symbol, false));
/** undefined: runs may be joined along the dim. That takes more than padding: what is at a place may not depend on which place it is. */
export const joiningRefusal = (g: Graph, facts: (v: ValueId) => Fact, symbol: string): Crossing | undefined =>
  refusal(new Proof(g, facts, symbol, true));

function refusal(proof: Proof): Crossing | undefined {
  try {
    proof.run();
    return undefined;
  } catch (error) {
    if (error instanceof Refused) return error.crossing;
    throw error;
  }
}

class Refused extends Error {
  readonly crossing: Crossing;
  constructor(crossing: Crossing) {
    super(crossing.why);
    this.crossing = crossing;
  }
}

/** Each element of the result is made of the elements at its own place, operands broadcast. */
const POINTWISE: ReadonlySet<string> = new Set(
  `Abs Acos Acosh Add And Asin Asinh Atan Atanh BiasGelu BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu Clip Cos Cosh
   DequantizeLinear Div Dropout Elu Equal Erf Exp FastGelu Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less
   LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow QuantizeLinear QuickGelu Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus
   Softsign Sqrt Sub Sum SwiGLU Swish Tan Tanh ThresholdedRelu Where Xor`.split(/\s+/),
);
/** Rows of axis 0 of the first operand are apart; the other operands are weights. */
const BATCHED: ReadonlySet<string> = new Set(
  `AveragePool BatchNormalization Conv ConvInteger ConvTranspose DepthToSpace GlobalAveragePool GlobalLpPool GlobalMaxPool GroupNormalization
   InstanceNormalization LRN LpPool MaxPool QLinearConv Resize SpaceToDepth`.split(/\s+/),
);
/** Work along the axes named by the attribute `axis` (default given) alone. */
const ALONG: Readonly<Record<string, number>> = {
  ArgMax: 0,
  ArgMin: 0,
  Hardmax: -1,
  LogSoftmax: -1,
  LpNormalization: -1,
  Softmax: -1,
  TopK: -1,
};
/** Normalise from `axis` to the last. */
const BEHIND: ReadonlySet<string> = new Set(["LayerNormalization", "RMSNormalization"]);
/** Only move elements, row-major order kept. */
const RESHAPES: ReadonlySet<string> = new Set(["Flatten", "Reshape", "Squeeze", "Unsqueeze"]);
/** Operands that hold sizes and places, not data. */
const SIZES: Readonly<Record<string, readonly number[]>> = {
  ConstantOfShape: [0],
  Expand: [1],
  Range: [0, 1, 2],
  Reshape: [1],
  Slice: [1, 2, 3, 4],
};

class Proof {
  readonly #g: Graph;
  readonly #facts: (v: ValueId) => Fact;
  readonly #symbol: string;
  /** The axis that the dim lies along; values that it does not reach are absent. */
  readonly #axes = new Map<ValueId, number>();
  /** Values that hold the size of the dim. */
  readonly #sizes = new Set<ValueId>();
  /** Whether all places must be alike: none may know that it is the first, or the third. */
  readonly #alike: boolean;

  constructor(g: Graph, facts: (v: ValueId) => Fact, symbol: string, alike: boolean) {
    this.#alike = alike;
    this.#g = g;
    this.#facts = facts;
    this.#symbol = symbol;
  }

  run(): void {
    const g = this.#g;
    for (const v of g.inputs) this.#arrives(v, undefined);
    for (const n of g.nodes) this.#node(n);
    for (const v of g.outputs) {
      const shape = this.#shape(v);
      if (this.#sizes.has(v)) this.#refuse(undefined, `output '${valueAt(g, v).name}' holds the size of the dim`);
      if (shape === undefined || shape.some((d) => d === "?"))
        this.#refuse(undefined, `the dims of output '${valueAt(g, v).name}' are not known beforehand, so that it cannot be cut back`);
    }
  }

  #refuse(n: Node | undefined, why: string): never {
    throw new Refused({
      node: n === undefined ? undefined : displayName(this.#g, n),
      op: n === undefined ? undefined : qualifiedOp(n),
      why,
    });
  }
  #shape(v: ValueId | undefined): readonly Dim[] | undefined {
    return v === undefined ? undefined : shapeOf(this.#facts(v));
  }
  #holds(d: Dim): boolean {
    return !isStatic(d) && symbolsOf(d).includes(this.#symbol);
  }
  /** The axis of a value by its dims alone: the only one that the symbol is a factor of. */
  #arrives(v: ValueId, n: Node | undefined): number | undefined {
    const shape = this.#shape(v) ?? [];
    const found = shape.flatMap((d, i) => (this.#holds(d) ? [i] : []));
    const [axis] = found;
    const { name } = valueAt(this.#g, v);
    if (axis === undefined) return undefined;
    if (found.length > 1) this.#refuse(n, `'${name}' has the dim along several axes`);
    if (exactQuotient(shape[axis] as Dim, this.#symbol) === undefined)
      this.#refuse(n, `'${name}' has ${shape[axis]} along axis ${axis}, which is no multiple of the dim`);
    this.#axes.set(v, axis);
    return axis;
  }

  #node(n: Node): void {
    const ins = n.ins.map((v) => (v === undefined ? undefined : this.#axes.get(v)));
    const reached = ins.some((a) => a !== undefined);
    const sized = n.ins.some((v) => v !== undefined && this.#sizes.has(v));
    const outs = n.outs.filter((v) => v !== undefined);
    const dims = outs.some((v) => (this.#shape(v) ?? []).some((d) => this.#holds(d)));
    if (n.op === "Shape" || n.op === "Size" || (sized && !reached)) {
      if (this.#arithmetic(n, outs)) return;
      if (n.op === "Shape" || n.op === "Size" || SIZES[n.op] === undefined) this.#refuse(n, "it computes with the size of the dim");
    }
    const inside = bodiesOf(n).length > 0 && readsOf(n).some((v) => this.#axes.has(v) || this.#sizes.has(v));
    if (!reached && !sized && !dims && !inside) return;
    if (n.domain !== "" && !POINTWISE.has(n.op) && n.op !== "FusedMatMul")
      this.#refuse(n, `no rule says what ${qualifiedOp(n)} does along the dim`);
    n.ins.forEach((v, i) => {
      if (v !== undefined && this.#sizes.has(v) && !(SIZES[n.op] ?? []).includes(i))
        this.#refuse(n, "it computes with the size of the dim");
      if (v !== undefined && this.#axes.has(v) && (SIZES[n.op] ?? []).includes(i)) this.#refuse(n, "data decides its result's dims");
    });
    const first = outs[0];
    if (first === undefined) return;
    const axis = this.#through(n, ins, first);
    for (const v of outs) {
      const shape = this.#shape(v);
      if (shape === undefined) this.#refuse(n, `the dims of '${valueAt(this.#g, v).name}' are not known`);
      const own = v === first ? axis : this.#aside(n, v, axis);
      shape.forEach((d, i) => {
        if (this.#holds(d) !== (i === own)) this.#refuse(n, `'${valueAt(this.#g, v).name}' has the dim along another axis than expected`);
      });
      if (own === undefined) continue;
      if (exactQuotient(shape[own] as Dim, this.#symbol) === undefined)
        this.#refuse(n, `'${valueAt(this.#g, v).name}' has ${shape[own]} along axis ${own}, which is no multiple of the dim`);
      this.#axes.set(v, own);
    }
  }
  /** Further outputs have the first one's axis where they have its rank. */
  #aside(n: Node, v: ValueId, axis: number | undefined): number | undefined {
    if (axis === undefined || axis < (this.#shape(v)?.length ?? 0)) return axis;
    return this.#refuse(n, `no rule says where the dim lies in '${valueAt(this.#g, v).name}'`);
  }

  /** Shape arithmetic: all outputs' elements are known, as dims. */
  #arithmetic(n: Node, outs: readonly ValueId[]): boolean {
    const known = outs.map((v) => this.#facts(v).elements);
    const [x] = n.ins;
    if (n.op === "Shape" && known[0] === undefined && x !== undefined && this.#axes.get(x) === undefined && !this.#sizes.has(x))
      return true;
    if (known.some((e) => e === undefined || e.includes("?"))) return false;
    outs.forEach((v, i) => {
      if (known[i]?.some((e) => this.#holds(e)) === true) this.#sizes.add(v);
    });
    return true;
  }

  /** The axis of the first output; undefined where the dim ends here. */
  #through(n: Node, ins: readonly (number | undefined)[], y: ValueId): number | undefined {
    const shape = this.#shape(y);
    const rank = shape?.length;
    if (shape === undefined || rank === undefined) return this.#refuse(n, `the dims of '${valueAt(this.#g, y).name}' are not known`);
    const [a] = ins;
    const at = (i: number): readonly Dim[] => this.#shape(n.ins[i]) ?? this.#refuse(n, "the dims of an operand are not known");
    const only = (i: number): number => {
      const axis = ins[i];
      if (axis === undefined || ins.some((other, k) => other !== undefined && k !== i))
        return this.#refuse(n, `the dim does not come from operand ${i} of ${n.op} alone`);
      return axis;
    };
    const counted = (axis: number, of: number): number => (axis < 0 ? axis + of : axis);
    if (POINTWISE.has(n.op)) return this.#aligned(n, ins, shape);
    if (n.op === "BatchNormalization" && intOf(n, "training_mode", 0) === 1) return this.#refuse(n, "it normalises over the batch");
    if (BATCHED.has(n.op)) return only(0) === 0 ? 0 : this.#refuse(n, `${n.op} joins places of axis ${a}`);
    if (RESHAPES.has(n.op)) return this.#reshaped(n, at(0), only(0), shape);
    if (BEHIND.has(n.op)) {
      const axis = only(0);
      return axis < counted(intOf(n, "axis", -1), rank) ? axis : this.#refuse(n, `${n.op} normalises over the dim`);
    }
    const along = ALONG[n.op];
    if (along !== undefined) {
      const axis = only(0);
      const worked = counted(intOf(n, "axis", along), at(0).length);
      if (axis === worked) return this.#refuse(n, `${n.op} works along the dim`);
      return intOf(n, "keepdims", 1) === 0 && /^Arg/.test(n.op) && axis > worked ? axis - 1 : axis;
    }
    if (n.op.startsWith("Reduce")) return this.#reduced(n, only(0), at(0).length);
    switch (n.op) {
      case "Transpose": {
        const axis = only(0);
        const perm = intsOf(n.attrs["perm"]) ?? shape.map((_, i) => rank - 1 - i);
        return perm.indexOf(axis);
      }
      case "MatMul":
      case "FusedMatMul":
      case "MatMulInteger":
      case "QLinearMatMul":
        return this.#product(n, ins, rank);
      case "Gemm": {
        const rows = intOf(n, "transA", 0) === 0 ? 0 : 1;
        if (ins[1] !== undefined || (a !== undefined && a !== rows)) return this.#refuse(n, "Gemm sums over the dim");
        const bias = ins[2] === undefined ? undefined : ins[2] + 2 - at(2).length;
        if (bias !== undefined && bias !== 0) return this.#refuse(n, "Gemm has the dim along its columns");
        return 0;
      }
      case "Concat": {
        const axis = this.#aligned(n, ins, shape);
        return axis === counted(intOf(n, "axis", 0), rank) ? this.#refuse(n, "Concat joins along the dim") : axis;
      }
      case "Split": {
        const axis = only(0);
        return axis === counted(intOf(n, "axis", 0), rank) ? this.#refuse(n, "Split cuts along the dim") : axis;
      }
      case "Gather": {
        const axis = counted(intOf(n, "axis", 0), at(0).length);
        if (ins[1] !== undefined) return a === undefined ? axis + ins[1] : this.#refuse(n, "the dim reaches both operands of Gather");
        const data = only(0);
        if (data === axis) return this.#first(n, smallNumbers(this.#g.constants.get(n.ins[1] as ValueId)));
        return data < axis ? data : data - 1 + at(1).length;
      }
      case "Slice":
        return this.#sliced(n, a, shape);
      case "Expand":
      case "ConstantOfShape":
        return shape.findIndex((d) => this.#holds(d)) < 0 ? undefined : this.#expanded(n, a, shape);
      case "Range":
        return this.#alike ? this.#refuse(n, "Range counts the places of the dim") : 0;
      case "Attention":
        return ins.every((x) => x === undefined || x === 0) ? 0 : this.#refuse(n, "Attention weighs places of the dim against each other");
      case "Einsum":
        return this.#einsum(n, ins);
      default:
        return this.#refuse(n, `no rule says what ${qualifiedOp(n)} does along the dim`);
    }
  }

  /** Operands aligned at their last axis: all have the dim at the same place. */
  #aligned(n: Node, ins: readonly (number | undefined)[], shape: readonly Dim[]): number {
    let found: number | undefined;
    ins.forEach((axis, i) => {
      if (axis === undefined) return;
      const place = axis + shape.length - (this.#shape(n.ins[i])?.length ?? 0);
      if (found !== undefined && found !== place) this.#refuse(n, "its operands have the dim along different axes");
      found = place;
    });
    return found ?? this.#refuse(n, "the dim comes from no operand");
  }

  /** In row-major order everything before the axis keeps its extent, and the dim leads the axis it lands on. */
  #reshaped(n: Node, from: readonly Dim[], axis: number, to: readonly Dim[]): number {
    const before = product(from.slice(0, axis));
    const landing = to.findIndex((d, j) => this.#holds(d) && sameDim(product(to.slice(0, j)), before) === true);
    if (landing < 0) return this.#refuse(n, `${n.op} mixes the dim with those before it`);
    return landing;
  }

  #reduced(n: Node, axis: number, rank: number): number {
    const given = n.ins[1];
    const axes = given === undefined ? [] : smallNumbers(this.#g.constants.get(given));
    if (axes === undefined) return this.#refuse(n, `${n.op}'s axes are not constant`);
    if (axes.length === 0 && intOf(n, "noop_with_empty_axes", 0) === 1) return axis;
    const gone = axes.length === 0 ? Array.from({ length: rank }, (_, i) => i) : axes.map((x) => (x < 0 ? x + rank : x));
    if (gone.includes(axis)) return this.#refuse(n, `${n.op} reduces over the dim`);
    return intOf(n, "keepdims", 1) === 1 ? axis : axis - gone.filter((x) => x < axis).length;
  }

  #product(n: Node, ins: readonly (number | undefined)[], rank: number): number {
    const second = n.op === "QLinearMatMul" ? 3 : 1;
    const operands = [0, second] as const;
    if (["transA", "transB", "transBatchA", "transBatchB"].some((name) => intOf(n, name, 0) !== 0))
      return this.#refuse(n, "its operands are transposed");
    let found: number | undefined;
    for (const i of operands) {
      const axis = ins[i];
      const own = this.#shape(n.ins[i])?.length ?? 0;
      if (axis === undefined) continue;
      const left = i === 0;
      if (own < 2 || rank < 2 || axis === (left ? own - 1 : own - 2)) return this.#refuse(n, `${n.op} sums over the dim`);
      const place = axis + rank - own;
      if (found !== undefined && found !== place) return this.#refuse(n, "its operands have the dim along different axes");
      found = place;
    }
    if (ins.some((axis, i) => axis !== undefined && i !== 0 && i !== second)) return this.#refuse(n, "its scales have the dim");
    return found ?? this.#refuse(n, "the dim comes from no operand");
  }

  /** The first place along the dim is never padded. */
  #first(n: Node, indices: readonly number[] | undefined): undefined {
    if (this.#alike || indices === undefined || indices.length === 0 || indices.some((i) => i !== 0))
      this.#refuse(n, `${n.op} picks places of the dim`);
    return undefined;
  }

  #sliced(n: Node, axis: number | undefined, shape: readonly Dim[]): number | undefined {
    const [starts, ends, given, steps] = [1, 2, 3, 4].map((i) => {
      const v = n.ins[i];
      return v === undefined ? undefined : this.#facts(v).elements;
    });
    const rank = shape.length;
    if (starts === undefined || ends === undefined) return this.#refuse(n, "where it cuts is not known");
    const axes = (given ?? starts.map((_, i) => i)).map((x) => (isStatic(x) && x < 0 ? x + rank : x));
    const place = axis ?? shape.findIndex((d) => this.#holds(d));
    if (place < 0) return this.#sizesFree(n);
    const i = axes.indexOf(place);
    if (i < 0) return axis;
    // A whole slice is one of as many places as came.
    if (this.#alike && !(axis !== undefined && sameDim(shape[place] as Dim, this.#shape(n.ins[0])?.[axis] as Dim) === true))
      return this.#refuse(n, "Slice picks places of the dim");
    const [start, step] = [starts[i], steps?.[i] ?? 1];
    if (start !== 0 || step !== 1) return this.#refuse(n, "Slice cuts along the dim");
    // From the first place on: all of it, as many of a constant as the dim says, or the first alone.
    if (this.#holds(shape[place] as Dim)) return place;
    return ends[i] === 1 ? undefined : this.#refuse(n, "Slice cuts along the dim");
  }
  #sizesFree(n: Node): undefined {
    return this.#refuse(n, "it computes with the size of the dim");
  }

  #expanded(n: Node, axis: number | undefined, shape: readonly Dim[]): number {
    const places = shape.flatMap((d, i) => (this.#holds(d) ? [i] : []));
    const [place] = places;
    const own = axis === undefined ? place : axis + shape.length - (this.#shape(n.ins[0])?.length ?? 0);
    return places.length === 1 && place !== undefined && own === place ? place : this.#refuse(n, `${n.op} has the dim along several axes`);
  }

  #einsum(n: Node, ins: readonly (number | undefined)[]): number {
    const said = n.attrs["equation"];
    const text = said?.kind === "string" ? String(said.value).replaceAll(/\s/g, "") : "";
    const [terms = "", out] = text.split("->");
    if (out === undefined || text.includes(".")) return this.#refuse(n, "its equation is not spelt out");
    const letters = new Set(terms.split(",").flatMap((term, i) => (ins[i] === undefined ? [] : [term[ins[i] as number]])));
    const [letter] = letters;
    const place = letter === undefined ? -1 : out.indexOf(letter);
    return letters.size === 1 && place >= 0 ? place : this.#refuse(n, "Einsum sums over the dim");
  }
}

const intsOf = (a: Attr | undefined): readonly number[] | undefined => (a?.kind === "ints" ? a.value.map(Number) : undefined);
