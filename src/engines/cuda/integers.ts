/**
 * Integer products and convolutions with zero points, and DynamicQuantizeLinear, in terms of what the matrix units compute: products of int8
 * without zero points. All of it is exact: the results are those of the operators as ONNX defines them, bit for bit.
 *
 *     sum (a - za)(b - zb) = sum a b - za sum b - zb sum a + K za zb
 *
 * uint8 is int8 with 128 added, and so is its zero point. What depends on constant weights alone is computed here; a zero point of weights that
 * leaves them within int8 is taken off them. Convolutions pad with the zero point, in front: every window then has all its elements.
 */
import { intOf } from "../../ir/attributes.js";
import { Editor } from "../../ir/edit.js";
import { int64Constant, makeConstant, smallNumbers, typedOf } from "../../ir/payload.js";
import type { Attr, Attrs, Constant, DType, Graph, Node, NodeId, ValueId } from "../../ir/types.js";
import { type Fact, shapeOf } from "../../ops/define.js";
import { inferGraph } from "../../ops/infer.js";
import { product } from "./indexing.js";
import { fits, less, padded, splitOf, sumsOver } from "./zero-points.js";

export interface Spelled {
  readonly graph: Graph;
  /** The node of the graph before that a new one stands for. */
  readonly from: ReadonlyMap<NodeId, NodeId>;
  /** Scales and ranges: values that are kept in single precision whatever the others are. */
  readonly exact: ReadonlySet<ValueId>;
}

/** Operators that hand on bytes as they are, or compare them: the same for bytes with 128 taken off. */
const MOVERS: ReadonlySet<string> = new Set([
  "Reshape",
  "Flatten",
  "Squeeze",
  "Unsqueeze",
  "Transpose",
  "Slice",
  "MaxPool",
  "Concat",
  "Identity",
]);
const PRODUCTS: ReadonlySet<string> = new Set(["MatMulInteger", "ConvInteger"]);
const own = (n: Node, op: string): boolean => n.domain === "" && n.op === op;
const int = (value: number): Attr => ({ kind: "int", value });
/** Element types by ONNX's numbers. */
const [UINT8, INT8, INT32] = [2, 3, 6];

/** The graph without zero points in its integer products, and without DynamicQuantizeLinear; the graph itself where it has neither. */
export function spellIntegers(g: Graph): Spelled {
  const asked = g.nodes.some((n) => n.domain === "" && (n.op === "DynamicQuantizeLinear" || PRODUCTS.has(n.op)));
  if (!asked) return { graph: g, from: new Map(), exact: new Set() };
  return new Integers(g).run();
}

/** What a zero point is, of operands as int8: numbers known now, or a scalar int32 of a run, made anew for each reader. */
type Zero = readonly number[] | (() => ValueId);
const none = (z: Zero): boolean => typeof z !== "function" && z.every((x) => x === 0);

/** A product and what it is made of. */
interface Terms {
  readonly a: ValueId;
  readonly b: ValueId;
  readonly za: Zero;
  readonly zb: Zero;
  readonly y: ValueId;
  readonly dims: readonly number[];
}
/** What a DynamicQuantizeLinear gives. */
interface Dynamic {
  readonly x: ValueId;
  /** Scalars: views of one vector of two. */
  scale(): ValueId;
  /** The zero point less 128, as float32. */
  zero(): ValueId;
  /** The bytes less 128; of x with zeros around it where pads are given, which quantize to the zero point. */
  bytes(pads?: readonly number[]): ValueId;
}

class Integers {
  readonly #g: Graph;
  readonly #e: Editor;
  readonly #facts: (v: ValueId) => Fact;
  readonly #from = new Map<NodeId, NodeId>();
  readonly #exact = new Set<ValueId>();
  /** uint8 values that integer products read, and what they are moved from. */
  readonly #wanted = new Set<ValueId>();
  /** uint8 values that are not made any more, and the int8 ones, 128 less, that are made instead. */
  readonly #signed = new Map<ValueId, ValueId>();
  /** The same for uint8 values that stay. */
  readonly #shifted = new Map<ValueId, ValueId>();
  /** By each of the results. */
  readonly #dynamic = new Map<ValueId, Dynamic>();
  readonly #sums = new Map<string, ValueId>();
  #now: Node;

  constructor(g: Graph) {
    const inferred = inferGraph(g);
    this.#g = inferred.graph;
    this.#facts = inferred.facts;
    this.#e = new Editor(this.#g);
    this.#now = this.#g.nodes[0] as Node;
  }

  run(): Spelled {
    this.#findWanted();
    for (const n of this.#g.nodes) {
      this.#now = n;
      const [y] = n.outs;
      if (own(n, "DynamicQuantizeLinear")) this.#dynamicQuantizer(n);
      else if (n.domain === "" && PRODUCTS.has(n.op)) this.#product(n);
      else if (y !== undefined && this.#wanted.has(y) && own(n, "QuantizeLinear")) this.#quantizer(n, y);
      else if (y !== undefined && this.#wanted.has(y) && this.#moves(n)) this.#move(n, y);
      else if (own(n, "DequantizeLinear")) this.#dequantizer(n);
    }
    this.#joinScales();
    for (const [y, q] of this.#signed) this.#restore(y, q);
    this.#removeUnread();
    return { graph: this.#e.finish(), from: this.#from, exact: this.#exact };
  }

  // ---- what is known --------------------------------------------------------------------------------------------------------------------------

  #dims(v: ValueId | undefined): readonly number[] | undefined {
    const shape = v === undefined ? undefined : shapeOf(this.#facts(v));
    return shape?.every((d): d is number => typeof d === "number") === true ? (shape as readonly number[]) : undefined;
  }
  #dtype(v: ValueId): DType | undefined {
    const { type } = this.#facts(v);
    return type.kind === "tensor" ? type.dtype : undefined;
  }
  #moves(n: Node): boolean {
    return n.domain === "" && MOVERS.has(n.op) && n.outs.length === 1;
  }
  /** Those of a mover's operands that it moves. */
  #moved(n: Node): readonly ValueId[] {
    return (n.op === "Concat" ? n.ins : n.ins.slice(0, 1)).filter((v) => v !== undefined);
  }
  #findWanted(): void {
    for (const n of [...this.#g.nodes].reverse()) {
      const reads =
        n.domain === "" && PRODUCTS.has(n.op)
          ? n.ins.slice(0, 2)
          : this.#moves(n) && this.#wanted.has(n.outs[0] as ValueId)
            ? this.#moved(n)
            : [];
      for (const v of reads) if (v !== undefined && this.#dtype(v) === "uint8" && !this.#g.constants.has(v)) this.#wanted.add(v);
    }
  }

  // ---- writing --------------------------------------------------------------------------------------------------------------------------------

  #emit(op: string, ins: readonly (ValueId | undefined)[], attrs: Attrs = {}, out?: ValueId): ValueId {
    const n = this.#now;
    const stem = n.name === "" ? n.op.toLowerCase() : n.name;
    const made = this.#e.add({
      op,
      ins,
      attrs,
      outs: out === undefined ? 1 : [out],
      name: `${stem}.${op.toLowerCase()}`,
      origin: n.origin ?? [n.name],
    });
    this.#from.set(made.id, n.id);
    return made.outs[0] as ValueId;
  }
  #cast(v: ValueId, to: number, out?: ValueId): ValueId {
    return this.#emit("Cast", [v], { to: int(to) }, out);
  }
  #constant(c: Constant): ValueId {
    return this.#e.addConstant("integers", c);
  }
  #number(dtype: "float32" | "int8" | "int32", x: number): ValueId {
    return this.#constant(makeConstant(dtype, [], [x]));
  }
  #int64(...values: readonly number[]): ValueId {
    return this.#constant(int64Constant(values));
  }
  #retire(n: Node): void {
    this.#e.remove(n.id);
  }

  // ---- bytes less 128 -------------------------------------------------------------------------------------------------------------------------

  /** A value of bytes as int8: itself, or 128 less. */
  #asSigned(v: ValueId): ValueId {
    if (this.#dtype(v) === "int8") return v;
    const known = this.#signed.get(v) ?? this.#dynamic.get(v)?.bytes() ?? this.#shifted.get(v);
    if (known !== undefined) return known;
    const c = this.#e.constant(v);
    const made =
      c === undefined
        ? this.#cast(this.#emit("Sub", [this.#cast(v, INT32), this.#number("int32", 128)]), INT8)
        : this.#constant(less(c, [128], undefined));
    this.#shifted.set(v, made);
    return made;
  }
  /** Constants of zero points, 128 less where they are of uint8; undefined where only a run tells. */
  #zeroNumbers(v: ValueId | undefined, dtype: DType | undefined): readonly number[] | undefined {
    const shift = dtype === "uint8" ? 128 : 0;
    if (v === undefined) return [-shift];
    return smallNumbers(this.#e.constant(v), 1 << 16)?.map((z) => z - shift);
  }
  #zero(v: ValueId | undefined, dtype: DType | undefined): Zero | undefined {
    const known = this.#zeroNumbers(v, dtype);
    if (known !== undefined || v === undefined) return known;
    const dims = this.#dims(v);
    if (dims === undefined || product(dims) !== 1) return undefined;
    const dynamic = this.#dynamic.get(v);
    if (dynamic !== undefined) return () => this.#cast(dynamic.zero(), INT32);
    return () => {
      const wide = this.#cast(v, INT32);
      return dtype === "uint8" ? this.#emit("Sub", [wide, this.#number("int32", 128)]) : wide;
    };
  }
  #quantizer(n: Node, y: ValueId): void {
    const zeros = this.#zeroNumbers(n.ins[2], "uint8");
    const dims = this.#e.constant(n.ins[2])?.dims ?? [];
    if (zeros === undefined || intOf(n, "block_size", 0) !== 0) return;
    const { output_dtype: _, ...attrs } = n.attrs;
    this.#signed.set(y, this.#emit("QuantizeLinear", [n.ins[0], n.ins[1], this.#constant(makeConstant("int8", dims, [...zeros]))], attrs));
    this.#retire(n);
  }
  #move(n: Node, y: ValueId): void {
    const moved = this.#moved(n);
    const ins = n.ins.map((v) => (v !== undefined && moved.includes(v) ? this.#asSigned(v) : v));
    this.#signed.set(y, this.#emit(n.op, ins, n.attrs));
    this.#retire(n);
  }
  #dequantizer(n: Node): void {
    const [x, scale, zero] = n.ins;
    const q = x === undefined ? undefined : this.#signed.get(x);
    const zeros = q === undefined ? undefined : this.#zeroNumbers(zero, "uint8");
    if (q === undefined || zeros === undefined) return;
    const dims = this.#e.constant(zero)?.dims ?? [];
    const symmetric = zeros.every((z) => z === 0);
    this.#e.patch(n.id, { ins: symmetric ? [q, scale] : [q, scale, this.#constant(makeConstant("int8", dims, [...zeros]))] });
  }
  /** What still reads the bytes as they were gets them back. */
  #restore(y: ValueId, q: ValueId): void {
    if (!this.#e.isOutput(y) && this.#e.uses(y).length === 0) return;
    this.#now = this.#e.producer(q) ?? this.#now;
    this.#cast(this.#emit("Add", [this.#cast(q, INT32), this.#number("int32", 128)]), UINT8, y);
  }

  // ---- DynamicQuantizeLinear ------------------------------------------------------------------------------------------------------------------

  /**
   * One vector [scale, zero point - 128] of the largest x and the largest -x, at least 0: the second is less the smallest x. Trailing dims are
   * reduced first, then the others: two kernels of some width rather than one block.
   */
  #dynamicQuantizer(n: Node): void {
    const [x] = n.ins;
    const [y, scale, zero] = n.outs;
    const dims = this.#dims(x);
    if (x === undefined || dims === undefined || product(dims) === 0) return;
    const row = this.#emit("Unsqueeze", [x, this.#int64(0)]);
    const both = this.#emit("Concat", [row, this.#emit("Neg", [row])], { axis: int(0) });
    const inner = splitOf(dims);
    const over = (v: ValueId, axes: readonly number[]): ValueId => {
      const made = this.#emit("ReduceMax", [v, this.#int64(...axes)], { keepdims: int(0) });
      this.#exact.add(made);
      return made;
    };
    let most = both;
    if (inner < dims.length) most = over(most, range(inner + 1, dims.length + 1));
    if (inner > 0) most = over(most, range(1, inner + 1));
    const ends = this.#emit("Max", [most, this.#number("float32", 0)]);
    const part = (v: ValueId, i: number): ValueId => this.#emit("Slice", [v, this.#int64(i), this.#int64(i + 1), this.#int64(0)]);
    const span = this.#emit("Add", [part(ends, 0), part(ends, 1)]);
    const step = this.#emit("Where", [
      this.#emit("Equal", [span, this.#number("float32", 0)]),
      this.#number("float32", 1),
      this.#emit("Div", [span, this.#number("float32", 255)]),
    ]);
    const start = this.#emit("Clip", [this.#emit("Div", [part(ends, 1), step]), this.#number("float32", 0), this.#number("float32", 255)]);
    const shifted = this.#emit("Sub", [this.#emit("Round", [start]), this.#number("float32", 128)]);
    const parameters = this.#emit("Concat", [step, shifted], { axis: int(0) });
    this.#exact.add(ends);
    this.#exact.add(parameters);
    const scalar = (i: number, out?: ValueId): ValueId => this.#emit("Squeeze", [part(parameters, i), this.#int64(0)], {}, out);
    const made = new Map<string, ValueId>();
    const bytes = (pads: readonly number[] = []): ValueId => {
      const known = made.get(pads.join());
      if (known !== undefined) return known;
      const whole = pads.length === 0 ? x : this.#emit("Pad", [x, this.#int64(...pads)]);
      const q = this.#emit("Add", [this.#emit("Round", [this.#emit("Div", [whole, scalar(0)])]), scalar(1)]);
      const held = this.#emit("Clip", [q, this.#number("float32", -128), this.#number("float32", 127)]);
      const v = this.#cast(held, INT8);
      made.set(pads.join(), v);
      return v;
    };
    const dynamic: Dynamic = { x, scale: () => scalar(0), zero: () => scalar(1), bytes };
    this.#retire(n);
    if (scale !== undefined) scalar(0, scale);
    for (const v of [y, scale, zero]) if (v !== undefined) this.#dynamic.set(v, dynamic);
    // Who reads the bytes or the zero point themselves gets uint8; products do not.
    if (y !== undefined && this.#readElsewhere(y))
      this.#cast(this.#emit("Add", [this.#cast(bytes(), INT32), this.#number("int32", 128)]), UINT8, y);
    if (zero !== undefined && this.#readElsewhere(zero))
      this.#cast(this.#emit("Add", [scalar(1), this.#number("float32", 128)]), UINT8, zero);
  }
  #readElsewhere(v: ValueId): boolean {
    return this.#e.isOutput(v) || this.#e.uses(v).some((n) => !(n.domain === "" && PRODUCTS.has(n.op)) || this.#terms(n) === undefined);
  }

  /**
   * Products of the scale with constants that multiply large tensors: written for every element, they are part of the kernel that reads them; as one
   * number each they would be a kernel of their own.
   */
  #joinScales(): void {
    const done = new Set<ValueId>();
    for (const [v, dynamic] of this.#dynamic) {
      if (done.has(v)) continue;
      done.add(v);
      for (const n of this.#e.uses(v)) {
        const other = n.ins.find((i) => i !== v);
        const [y] = n.outs;
        if (!own(n, "Mul") || other === undefined || y === undefined || this.#e.constant(other) === undefined) continue;
        for (const user of this.#e.uses(y)) {
          const dims = this.#dims(user.outs[0]);
          if (!own(user, "Mul") || dims === undefined || product(dims) <= 4) continue;
          this.#now = n;
          const wide = this.#emit("Mul", [this.#expanded(dynamic.scale(), dims), other]);
          this.#e.patch(user.id, { ins: user.ins.map((i) => (i === y ? wide : i)) });
        }
      }
    }
  }
  #expanded(scalar: ValueId, dims: readonly number[]): ValueId {
    return this.#emit("Expand", [scalar, this.#int64(...dims)]);
  }

  // ---- products -------------------------------------------------------------------------------------------------------------------------------

  /** What a product is made of; undefined for one that stays as it is. */
  #terms(n: Node): Terms | undefined {
    const [a, b, aZero, bZero] = n.ins;
    const [y] = n.outs;
    const dims = this.#dims(y);
    if (a === undefined || b === undefined || y === undefined || dims === undefined || [a, b].some((v) => this.#dims(v) === undefined))
      return undefined;
    const types = [this.#dtype(a), this.#dtype(b)];
    if (types.every((t) => t === "int8") && aZero === undefined && bZero === undefined) return undefined;
    const [za, zb] = [this.#zero(aZero, types[0]), this.#zero(bZero, types[1])];
    if (za === undefined || zb === undefined || (typeof za !== "function" && za.length !== 1)) return undefined;
    const columns = n.op === "ConvInteger" ? this.#dims(b)?.[0] : (this.#dims(b)?.length ?? 0) < 2 ? 1 : this.#dims(b)?.at(-1);
    if (typeof zb !== "function" && zb.length !== 1 && zb.length !== columns) return undefined;
    if (n.op === "ConvInteger" && this.#e.constant(b) === undefined) return undefined;
    return { a, b, za, zb, y, dims };
  }

  #product(n: Node): void {
    const terms = this.#terms(n);
    if (terms === undefined) return;
    if (n.op === "ConvInteger") this.#convolution(n, terms);
    else this.#matmul(n, terms);
  }

  /** Weights with their zero point taken off where that leaves them within int8, and the zero point that is left. */
  #weights(b: ValueId, zb: Zero, columns: number): { readonly b8: ValueId; readonly z: Zero; readonly c: Constant | undefined } {
    const constant = this.#e.constant(b);
    if (constant === undefined) return { b8: this.#asSigned(b), z: zb, c: undefined };
    const shift = constant.dtype === "uint8" ? 128 : 0;
    if (typeof zb === "function" || none(zb)) {
      const b8 = this.#asSigned(b);
      return { b8, z: zb, c: this.#e.constant(b8) };
    }
    const off = zb.map((z) => z + shift);
    if (!fits(constant, off, columns)) {
      const b8 = this.#asSigned(b);
      return { b8, z: zb, c: this.#e.constant(b8) };
    }
    const key = `less ${b} ${off.length > 8 ? columns : off.join()} ${zb.length}`;
    const b8 = this.#sums.get(key) ?? this.#constant(less(constant, off, columns));
    if (off.length <= 8) this.#sums.set(key, b8);
    return { b8, z: [0], c: this.#e.constant(b8) };
  }

  #matmul(n: Node, { a, b, za, zb, y, dims }: Terms): void {
    const [da, db] = [this.#dims(a) as readonly number[], this.#dims(b) as readonly number[]];
    const a8 = this.#asSigned(a);
    const column = db.length < 2 ? 0 : db.length - 1;
    const { b8, z, c } = this.#weights(b, zb, db.length < 2 ? -1 : column);
    const depth = da.at(-1) ?? 0;
    const subtractions: ValueId[] = [];
    // za (sum b - K zb): along the columns.
    if (!none(za)) {
      const along = db.length < 2 ? 0 : db.length - 2;
      const keep = db.length >= 2 && da.length >= 2;
      if (c !== undefined && typeof z !== "function") {
        const sums = sumsOver(c, [along], keep, z, depth, column);
        subtractions.push(this.#scaled(za, sums, dims));
      } else {
        const summed = this.#summed(b8, [along], keep);
        const rest = this.#times(z, depth, keep && typeof z !== "function" && z.length > 1);
        subtractions.push(this.#multiplied(za, rest === undefined ? summed : this.#emit("Sub", [summed, rest]), dims));
      }
    }
    // zb sum a: along the rows.
    if (!none(z)) subtractions.push(this.#multiplied(z, this.#summed(a8, [da.length - 1], da.length >= 2 && db.length >= 2), dims));
    this.#finish(n, "MatMulInteger", [a8, b8], {}, subtractions, y);
  }

  #convolution(n: Node, { a, b, za, zb, y, dims }: Terms): void {
    const [da, dw] = [this.#dims(a) as readonly number[], this.#dims(b) as readonly number[]];
    const { b8, z, c } = this.#weights(b, zb, 0);
    if (c === undefined || typeof z === "function") return;
    const { pads, attrs } = padded(n, da, dw, dims);
    const outside = pads.some((p) => p !== 0) && !none(za);
    const dynamic = this.#dynamic.get(a);
    let x = a;
    if (!outside) x = this.#asSigned(a);
    else if (dynamic !== undefined) x = dynamic.bytes(pads);
    else {
      const q = this.#asSigned(a);
      const fill = typeof za === "function" ? this.#cast(za(), INT8) : this.#number("int8", za[0] as number);
      x = this.#emit("Pad", [q, this.#int64(...pads), fill]);
    }
    const window = outside ? attrs : n.attrs;
    const subtractions: ValueId[] = [];
    const spatial = dw.slice(2).map(() => 1);
    if (!none(za)) {
      const sums = sumsOver(c, range(1, dw.length), false, z, product(dw.slice(1)), 0);
      subtractions.push(this.#scaled(za, { ...sums, dims: [1, dw[0] as number, ...spatial] }, dims));
    }
    if (!none(z)) {
      // How large the windows are, once for each group: a convolution with ones.
      const groups = intOf(n, "group", 1);
      const each = (dw[0] as number) / groups;
      const ones = this.#constant(makeConstant("int8", [groups, ...dw.slice(1)], new Array<number>(groups * product(dw.slice(1))).fill(1)));
      let windows = this.#emit("ConvInteger", [x, ones], window);
      if (groups > 1 && each > 1) {
        const [batch = 1, , ...space] = dims;
        const apart = this.#emit("Reshape", [windows, this.#int64(batch, groups, 1, ...space)]);
        windows = this.#emit("Reshape", [this.#emit("Expand", [apart, this.#int64(batch, groups, each, ...space)]), this.#int64(...dims)]);
      }
      const zeros = z.length === 1 ? makeConstant("int32", [], [z[0] as number]) : makeConstant("int32", [1, z.length, ...spatial], [...z]);
      subtractions.push(this.#emit("Mul", [windows, this.#constant(zeros)]));
    }
    this.#finish(n, "ConvInteger", [x, b8], window, subtractions, y);
  }

  #finish(n: Node, op: string, ins: readonly ValueId[], attrs: Attrs, subtractions: readonly ValueId[], y: ValueId): void {
    this.#retire(n);
    const left = subtractions.filter((v) => !this.#takenByBias(v, y));
    let at = this.#emit(op, ins, attrs, left.length === 0 ? y : undefined);
    for (const [i, v] of left.entries()) at = this.#emit("Sub", [at, v], {}, i === left.length - 1 ? y : undefined);
  }
  /** Whether a constant for each column could be taken off the bias that is added to y. */
  #takenByBias(v: ValueId, y: ValueId): boolean {
    const [c, [user]] = [this.#e.constant(v), this.#e.hasOneUser(y) ? this.#e.uses(y) : []];
    const added = user !== undefined && own(user, "Add") ? user.ins.find((i) => i !== y) : undefined;
    const bias = this.#e.constant(added);
    if (c === undefined || user === undefined || bias === undefined) return false;
    const trailing = (dims: readonly number[]): string => dims.join().replace(/^(1(,|$))+/, "");
    if (trailing(bias.dims) !== trailing(c.dims)) return false;
    const read = (): Uint8Array => {
      const off = typedOf(c) as Int32Array;
      return new Uint8Array(Int32Array.from(typedOf(bias) as Int32Array, (b, i) => b - (off[i] as number)).buffer);
    };
    const joined = this.#constant({ dtype: "int32", dims: bias.dims, data: { kind: "lazy", length: 4 * product(bias.dims), read } });
    this.#e.patch(user.id, { ins: user.ins.map((i) => (i === added ? joined : i)) });
    return true;
  }
  /** A zero point times constant sums, for a result of these dims. */
  #scaled(z: Zero, sums: Constant, dims: readonly number[]): ValueId {
    if (typeof z === "function") return this.#emit("Mul", [this.#expanded(z(), dims), this.#constant(sums)]);
    const [by = 0] = z;
    return this.#constant(
      makeConstant(
        "int32",
        sums.dims,
        Array.from(typedOf(sums) as Int32Array, (s) => Math.imul(s, by)),
      ),
    );
  }
  #multiplied(z: Zero, v: ValueId, dims: readonly number[]): ValueId {
    if (typeof z === "function") return this.#emit("Mul", [this.#expanded(z(), dims), v]);
    return this.#emit("Mul", [v, this.#constant(makeConstant("int32", z.length === 1 ? [] : [z.length], [...z]))]);
  }
  /** K zb, to be taken off sums of columns; undefined for none. */
  #times(z: Zero, depth: number, row: boolean): ValueId | undefined {
    if (typeof z === "function") return this.#emit("Mul", [z(), this.#number("int32", depth)]);
    if (none(z)) return undefined;
    return this.#constant(
      makeConstant(
        "int32",
        z.length === 1 ? [] : row ? [1, z.length] : [z.length],
        z.map((x) => Math.imul(x, depth)),
      ),
    );
  }
  #summed(v: ValueId, axes: readonly number[], keep: boolean): ValueId {
    const key = `${v} ${axes.join()} ${keep}`;
    const known = this.#sums.get(key);
    if (known !== undefined) return known;
    const made = this.#emit("ReduceSum", [this.#cast(v, INT32), this.#int64(...axes)], { keepdims: int(keep ? 1 : 0) });
    this.#sums.set(key, made);
    return made;
  }

  #removeUnread(): void {
    for (let again = true; again; ) {
      again = false;
      for (const n of [...this.#e.nodes()].reverse()) {
        if (n.outs.some((v) => v !== undefined && (this.#e.isOutput(v) || this.#e.uses(v).length > 0))) continue;
        this.#e.remove(n.id);
        again = true;
      }
    }
  }
}

const range = (from: number, to: number): number[] => Array.from({ length: Math.max(to - from, 0) }, (_, i) => from + i);
