/**
 * Quantized regions as integer arithmetic. A product or convolution between DequantizeLinear and QuantizeLinear becomes an integer product
 * summed in int32, the int32 bias added, one multiplication by the joined scale, and the rounding of the quantizer behind it; what lies
 * between (residual additions, activations) is fused by the emitter as anywhere else. Operators that only move or compare elements run on the
 * int8 values themselves when the scales before and behind them are equal.
 *
 * The arithmetic: float(sum + bias) rounds to nearest even; M[k] = fl(fl(s_x * s_w[k]) / s_y) where nothing but a Relu stands before the
 * quantizer, and s_x * s_w[k] elsewhere, where the quantizer divides. int8 and uint8 with constant scales and zero points take part; what zero points
 * add to the sums is left to integers.ts.
 */
import { Editor } from "../../ir/edit.js";
import { int64Constant, makeConstant, smallNumbers, typedOf } from "../../ir/payload.js";
import type { Attr, Constant, DType, Graph, Node, ValueId } from "../../ir/types.js";
import { inferGraph } from "../../ops/infer.js";
import { packed } from "./weights.js";

/** Values that bytes of a type stand for: what one step is worth, and which byte is 0. */
interface Grid {
  readonly step: number;
  readonly zero: number;
  readonly dtype: DType;
}
const sameGrid = (a: Grid, b: Grid): boolean => a.step === b.step && a.zero === b.zero && a.dtype === b.dtype;
/** A dequantized value: where the integers are, what one step is worth, and the zero points, none where all are 0. */
interface Source {
  readonly q: ValueId;
  readonly dtype: DType;
  readonly zero: { readonly value: ValueId; readonly numbers: readonly number[] } | undefined;
  readonly scale: Float32Array;
  /** The dim that per-channel scales follow; undefined for one scale. */
  readonly axis: number | undefined;
}

const MOVERS: ReadonlySet<string> = new Set(["Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "MaxPool", "Relu"]);
const BYTES: readonly DType[] = ["int8", "uint8"];
const PRODUCTS: ReadonlySet<string> = new Set(["Conv", "MatMul", "Gemm"]);

/** The graph with its quantized regions spelled in integers; the graph itself when it has none. */
export function integerRegions(g: Graph): Graph {
  if (!g.nodes.some((n) => n.domain === "" && n.op === "DequantizeLinear")) return g;
  const regions = new Regions(inferGraph(g).graph);
  regions.run();
  return regions.finish();
}

class Regions {
  readonly #e: Editor;
  readonly #moved = new Map<string, ValueId>();

  constructor(g: Graph) {
    this.#e = new Editor(g);
  }

  run(): void {
    this.#joinEqualQuantizers();
    for (const n of this.#e.nodes()) if (n.domain === "" && PRODUCTS.has(n.op)) this.#product(n);
    for (const n of this.#e.nodes()) if (n.domain === "" && n.op === "GlobalAveragePool") this.#mean(n);
    for (const n of this.#e.nodes()) if (n.domain === "" && n.op === "QuantizeLinear") this.#move(n);
  }
  finish(): Graph {
    // What nothing reads any more: dequantizers of operands that are now read as integers.
    for (let again = true; again; ) {
      again = false;
      for (const n of [...this.#e.nodes()].reverse()) {
        if (n.outs.some((v) => v !== undefined && (this.#e.isOutput(v) || this.#e.uses(v).length > 0))) continue;
        this.#e.remove(n.id);
        again = true;
      }
    }
    return this.#e.finish();
  }

  // ---- what quantizers say ----------------------------------------------------------------------------------------------------------------

  #floats(v: ValueId | undefined): Float32Array | undefined {
    const c = this.#e.constant(v);
    return c?.dtype === "float32" ? (typedOf(c) as Float32Array) : undefined;
  }
  /** Zero points that are not all 0; undefined where they are no constants. */
  #zero(n: Node): { readonly value: ValueId; readonly numbers: readonly number[] } | "none" | undefined {
    const value = n.ins[2];
    const numbers = value === undefined ? [] : smallNumbers(this.#e.constant(value), 1 << 16);
    if (value === undefined || numbers === undefined) return value === undefined ? "none" : undefined;
    return numbers.every((z) => z === 0) ? "none" : { value, numbers };
  }
  #dtype(v: ValueId): DType | undefined {
    const t = this.#e.type(v);
    return t.kind === "tensor" ? t.dtype : undefined;
  }
  #rank(v: ValueId): number | undefined {
    const t = this.#e.type(v);
    return t.kind === "tensor" ? t.shape?.length : undefined;
  }
  #source(v: ValueId | undefined, dtypes: readonly DType[] = BYTES): Source | undefined {
    const n = this.#e.producer(v);
    const q = n?.ins[0];
    const dtype = q === undefined ? undefined : this.#dtype(q);
    if (n === undefined || n.op !== "DequantizeLinear" || n.domain !== "" || q === undefined) return undefined;
    if (dtype === undefined || !dtypes.includes(dtype) || v === undefined || this.#dtype(v) !== "float32") return undefined;
    const [zero, scale] = [this.#zero(n), this.#floats(n.ins[1])];
    if (zero === undefined || scale === undefined || intOf(n.attrs["block_size"], 0) !== 0) return undefined;
    const found = { q, dtype, scale, zero: zero === "none" ? undefined : zero };
    if (scale.length === 1) return { ...found, axis: undefined };
    const rank = this.#rank(q);
    const axis = intOf(n.attrs["axis"], 1);
    return rank === undefined ? undefined : { ...found, axis: axis < 0 ? axis + rank : axis };
  }
  /** The grid of a source with one scale. */
  #gridOf({ axis, scale, zero, dtype }: Source): Grid | undefined {
    return axis === undefined ? { step: scale[0] as number, zero: zero?.numbers[0] ?? 0, dtype } : undefined;
  }
  /** The same for a value that has been moved since it was dequantized: the integers, moved. */
  #movedSource(v: ValueId | undefined): Source | undefined {
    const direct = this.#source(v);
    if (direct !== undefined || v === undefined) return direct;
    let from: Source | undefined;
    for (
      let n = this.#e.producer(v), steps = 0;
      n !== undefined && MOVERS.has(n.op) && steps < 16;
      n = this.#e.producer(n.ins[0]), steps++
    ) {
      from = this.#source(n.ins[0]);
      if (from !== undefined) break;
    }
    const grid = from === undefined ? undefined : this.#gridOf(from);
    const q = grid === undefined ? undefined : this.#integers(v, grid, 0);
    return from === undefined || q === undefined ? undefined : { ...from, q };
  }
  /** What a quantizer to bytes with one scale makes. */
  #grid(n: Node): Grid | undefined {
    const [y] = n.outs;
    const dtype = y === undefined ? undefined : this.#dtype(y);
    if (n.op !== "QuantizeLinear" || n.domain !== "" || dtype === undefined || !BYTES.includes(dtype)) return undefined;
    const [zero, scale] = [this.#zero(n), this.#floats(n.ins[1])];
    if (zero === undefined || scale?.length !== 1 || intOf(n.attrs["block_size"], 0) !== 0) return undefined;
    return { step: scale[0] as number, zero: zero === "none" ? 0 : (zero.numbers[0] ?? 0), dtype };
  }

  /** Quantizers of one value with one scale are one quantizer. */
  #joinEqualQuantizers(): void {
    const first = new Map<string, ValueId>();
    for (const n of this.#e.nodes()) {
      const grid = this.#grid(n);
      const [y] = n.outs;
      if (grid === undefined || y === undefined || this.#e.isOutput(y)) continue;
      const key = `${n.ins[0]} ${grid.step} ${grid.zero} ${grid.dtype}`;
      const kept = first.get(key);
      if (kept === undefined) first.set(key, y);
      else this.#replace(y, kept);
    }
  }
  #replace(from: ValueId, to: ValueId): void {
    for (const user of this.#e.uses(from)) this.#e.patch(user.id, { ins: user.ins.map((v) => (v === from ? to : v)) });
  }

  // ---- products -----------------------------------------------------------------------------------------------------------------------------

  #product(n: Node): void {
    const [a, b] = [this.#movedSource(n.ins[0]), this.#movedSource(n.ins[1])];
    const [y] = n.outs;
    if (a === undefined || b === undefined || y === undefined || a.axis !== undefined) return;
    const [rankA, rankB, rank] = [this.#rank(a.q), this.#rank(b.q), this.#rank(y)];
    if (rankA === undefined || rankB === undefined || rank === undefined || rankA < 2 || rankB < 2) return;
    const conv = n.op === "Conv";
    const transposed = n.op === "Gemm" && intOf(n.attrs["transB"], 0) === 1;
    if (n.op === "Gemm" && (intOf(n.attrs["transA"], 0) !== 0 || floatOf(n.attrs["alpha"], 1) !== 1 || floatOf(n.attrs["beta"], 1) !== 1))
      return;
    // Scales may follow the output channels alone.
    const columns = conv || transposed ? 0 : rankB - 1;
    if (b.axis !== undefined && b.axis !== columns) return;
    // Windows whose weights are not known have no sums to take zero points off.
    const plain = a.dtype === "int8" && b.dtype === "int8" && a.zero === undefined && b.zero === undefined;
    if (conv && !plain && this.#e.constant(b.q) === undefined) return;
    const joined = Float32Array.from(b.scale, (w) => Math.fround(Math.fround(a.scale[0] as number) * w));
    const axis = conv ? 1 : rank - 1;
    const stem = n.name === "" ? n.op.toLowerCase() : n.name;
    const origin = n.origin ?? [n.name];
    const weight = transposed ? this.#transposed(b.q, stem) : b.q;
    if (weight === undefined) return;
    const bias = this.#bias(n, joined, axis, rank);
    if (bias === "none fits") return;

    let [acc] = this.#e.add({
      op: conv ? "ConvInteger" : "MatMulInteger",
      ins: plain ? [a.q, weight] : [a.q, weight, this.#zeroOf(a), this.#zeroOf(b)],
      outs: 1,
      name: `${stem}.integer`,
      origin,
      ...(conv ? { attrs: n.attrs } : {}),
    }).outs;
    if (bias?.kind === "int32") [acc] = this.#e.add({ op: "Add", ins: [acc, bias.value], outs: 1, name: `${stem}.bias`, origin }).outs;
    // Where a quantizer follows at once, its division is part of the joined scale.
    const end = bias?.kind === "float" ? undefined : this.#quantizerBehind(y);
    const scale = end === undefined ? joined : joined.map((s) => Math.fround(s / end.step));
    this.#e.remove(n.id);
    const result = bias?.kind === "float" ? this.#e.declare(`${stem}.scaled`, this.#e.type(y)) : y;
    this.#e.add({
      op: "DequantizeLinear",
      ins: [acc, this.#e.addConstant(`${stem}.scale`, makeConstant("float32", scale.length === 1 ? [] : [scale.length], [...scale]))],
      outs: [result],
      name: `${stem}.scale`,
      origin,
      attrs: { axis: { kind: "int", value: axis } },
    });
    if (bias?.kind === "float") this.#e.add({ op: "Add", ins: [result, bias.value], outs: [y], name: `${stem}.bias`, origin });
    if (end !== undefined) this.#unit(end.quantizer, stem);
  }

  /** The zero points of a source: where there are none, one that is 0. */
  #zeroOf({ zero, dtype }: Source): ValueId {
    return zero?.value ?? this.#e.addConstant("zero", makeConstant(dtype === "uint8" ? "uint8" : "int8", [], [0]));
  }
  /** [N, K] as [K, N]; constants alone. */
  #transposed(v: ValueId, stem: string): ValueId | undefined {
    const c = this.#e.constant(v);
    if (c === undefined) return undefined;
    const [rows, depth] = c.dims as [number, number];
    const read = (): Uint8Array => packed(c, { dims: [depth, rows], strides: [1, depth], offset: 0 }, c.dtype);
    return this.#e.addConstant(`${stem}.weight`, {
      dtype: c.dtype,
      dims: [depth, rows],
      data: { kind: "lazy", length: rows * depth, read },
    });
  }

  /** The addend of a Conv or Gemm, shaped to broadcast against the result: int32 where its steps are those of the sums. */
  #bias(
    n: Node,
    joined: Float32Array,
    axis: number,
    rank: number,
  ): { readonly kind: "int32" | "float"; readonly value: ValueId } | "none fits" | undefined {
    const v = n.ins[2];
    if (v === undefined) return undefined;
    const shaped = (c: Constant): Constant => {
      const channels = c.dims.reduce((x, y) => x * y, 1);
      return { ...c, dims: Array.from({ length: rank }, (_, i) => (i === axis ? channels : 1)) };
    };
    const stem = `${n.name === "" ? n.op.toLowerCase() : n.name}.bias`;
    const constant = this.#e.constant(v);
    const one = (c: Constant): boolean =>
      c.dims.filter((d) => d !== 1).length <= 1 && (c.dims.length === 1 || (c.dims.at(-1) ?? 1) !== 1 || n.op === "Conv");
    if (constant?.dtype === "float32")
      return one(constant) ? { kind: "float", value: this.#e.addConstant(stem, shaped(constant)) } : "none fits";
    const from = this.#source(v, ["int32"]);
    const c = this.#e.constant(from?.q);
    if (from === undefined || from.zero !== undefined || c === undefined || !one(c)) return "none fits";
    const steps = typedOf(c).length;
    const at = (list: Float32Array, i: number): number => list[list.length === 1 ? 0 : i] as number;
    let same = true;
    for (let k = 0; k < steps && same; k++) same = at(from.scale, k) === at(joined, k);
    if (same) return { kind: "int32", value: this.#e.addConstant(stem, shaped(c)) };
    const values = Float32Array.from(typedOf(c) as ArrayLike<number>, (x, k) => Math.fround(Math.fround(Number(x)) * at(from.scale, k)));
    return { kind: "float", value: this.#e.addConstant(stem, shaped(makeConstant("float32", c.dims, [...values]))) };
  }

  /** The one quantizer that reads a value, directly or behind a Relu. */
  #quantizerBehind(v: ValueId): (Grid & { readonly quantizer: Node }) | undefined {
    if (!this.#e.hasOneUser(v)) return undefined;
    const [user] = this.#e.uses(v);
    if (user === undefined || user.domain !== "") return undefined;
    if (user.op === "Relu") {
      const [y] = user.outs;
      return y === undefined || user.ins[0] !== v ? undefined : this.#quantizerBehindRelu(y);
    }
    const grid = user.ins[0] === v ? this.#grid(user) : undefined;
    return grid === undefined ? undefined : { ...grid, quantizer: user };
  }
  #quantizerBehindRelu(v: ValueId): (Grid & { readonly quantizer: Node }) | undefined {
    const [user] = this.#e.hasOneUser(v) ? this.#e.uses(v) : [];
    const grid = user === undefined ? undefined : this.#grid(user);
    return user === undefined || grid === undefined ? undefined : { ...grid, quantizer: user };
  }

  /** A mean between quantizers: the sum of the steps times fl(s_x / fl(s_y n)). */
  #mean(n: Node): void {
    const from = this.#source(n.ins[0]);
    const [y] = n.outs;
    const t = from === undefined ? undefined : this.#e.type(from.q);
    const end = y === undefined ? undefined : this.#quantizerBehind(y);
    if (from === undefined || from.axis !== undefined || end === undefined || t?.kind !== "tensor" || t.shape === undefined) return;
    const space = t.shape.slice(2);
    if (space.length === 0 || !space.every((d): d is number => typeof d === "number")) return;
    const count = space.reduce((a, b) => a * b, 1);
    const scale = Math.fround((from.scale[0] as number) / Math.fround(end.step * count));
    const stem = n.name === "" ? "mean" : n.name;
    const origin = n.origin ?? [n.name];
    const to: Attr = { kind: "int", value: 6 };
    const [wide] = this.#e.add({ op: "Cast", ins: [from.q], outs: 1, name: `${stem}.steps`, origin, attrs: { to } }).outs;
    const axes = this.#e.addConstant(`${stem}.axes`, int64Constant(space.map((_, i) => i + 2)));
    let [sum] = this.#e.add({ op: "ReduceSum", ins: [wide, axes], outs: 1, name: `${stem}.sum`, origin }).outs;
    const [zero = 0] = from.zero?.numbers ?? [];
    if (zero !== 0) {
      const rest = this.#e.addConstant(`${stem}.zero`, makeConstant("int32", [], [-zero * count]));
      [sum] = this.#e.add({ op: "Add", ins: [sum, rest], outs: 1, name: `${stem}.zero`, origin }).outs;
    }
    this.#e.remove(n.id);
    const factor = this.#e.addConstant(`${stem}.scale`, makeConstant("float32", [], [scale]));
    this.#e.add({ op: "DequantizeLinear", ins: [sum, factor], outs: [y], name: `${stem}.scale`, origin });
    this.#unit(end.quantizer, stem);
  }
  /** Its division is done already. */
  #unit(quantizer: Node, stem: string): void {
    const one = this.#e.addConstant(`${stem}.one`, makeConstant("float32", [], [1]));
    this.#e.patch(quantizer.id, { ins: [quantizer.ins[0], one, ...quantizer.ins.slice(2)] });
  }

  // ---- what commutes with quantization --------------------------------------------------------------------------------------------------------

  /** A quantizer whose operand only moves integers of the same scale: those integers, moved. */
  #move(quantizer: Node): void {
    const grid = this.#grid(quantizer);
    const [x] = quantizer.ins;
    const [y] = quantizer.outs;
    if (grid === undefined || x === undefined || y === undefined) return;
    const found = this.#integers(x, grid, 0);
    if (found === undefined || found === y) return;
    if (this.#e.isOutput(y)) {
      this.#e.remove(quantizer.id);
      this.#e.add({ op: "Identity", ins: [found], outs: [y], name: quantizer.name });
    } else this.#replace(y, found);
  }
  #integers(v: ValueId, grid: Grid, depth: number): ValueId | undefined {
    const from = this.#source(v);
    if (from !== undefined) {
      const own = this.#gridOf(from);
      return own !== undefined && sameGrid(own, grid) ? from.q : undefined;
    }
    const key = `${v} ${grid.step} ${grid.zero} ${grid.dtype}`;
    const made = this.#moved.get(key);
    if (made !== undefined) return made;
    const n = this.#e.producer(v);
    if (n === undefined || n.domain !== "" || depth > 16) return undefined;
    const all = n.op === "Concat";
    if (!all && !MOVERS.has(n.op)) return undefined;
    // Below a zero point other than 0 there are bytes above 0.
    if (n.op === "Relu" && (grid.zero !== 0 || grid.dtype !== "int8")) return undefined;
    // What is more than a change of the index is not done twice.
    if (n.outs.length !== 1 || (n.op === "MaxPool" && !this.#e.hasOneUser(v))) return undefined;
    const ins: (ValueId | undefined)[] = [];
    for (const [i, x] of n.ins.entries()) {
      const moves = all || i === 0;
      const q = x === undefined || !moves ? x : this.#integers(x, grid, depth + 1);
      if (moves && q === undefined) return undefined;
      ins.push(q);
    }
    const type = this.#e.type(v);
    const [result] = this.#e.add({
      op: n.op,
      ins,
      outs: [
        this.#e.declare(
          `${n.name === "" ? n.op.toLowerCase() : n.name}.${grid.dtype}`,
          type.kind === "tensor" ? { ...type, dtype: grid.dtype } : type,
        ),
      ],
      name: n.name,
      attrs: n.attrs,
      origin: n.origin ?? [n.name],
    }).outs;
    if (result !== undefined) this.#moved.set(key, result);
    return result;
  }
}

const intOf = (a: Attr | undefined, otherwise: number): number => (a?.kind === "int" ? Number(a.value) : otherwise);
const floatOf = (a: Attr | undefined, otherwise: number): number => (a?.kind === "float" ? a.value : otherwise);
