/**
 * A float32 segment at half precision, for a strongly typed network: every float32 tensor and weight becomes float16 or bfloat16, with casts
 * at the segment's edge, so that its inputs and outputs stay what they are. What half precision cannot hold stays float32, with casts around:
 * operators whose sums and powers leave its range, and arithmetic on positions, lengths and masks, which starts from integers.
 */
import { onnxNumber } from "../../ir/dtypes.js";
import { Editor } from "../../ir/edit.js";
import { bodiesOf, displayName, readsOf, valueAt } from "../../ir/graph.js";
import { makeConstant, typedOf } from "../../ir/payload.js";
import type { Attr, Body, Constant, DType, Graph, Node, ValueId, ValueType } from "../../ir/types.js";
import { halfBits } from "../cuda/weights.js";

export type HalfType = "float16" | "bfloat16";

/** Sums and powers that leave float16's range on ordinary data, and what ONNX defines for float32 alone. */
const FULL: ReadonlySet<string> = new Set([
  "CumSum",
  "Exp",
  "LpNormalization",
  "MeanVarianceNormalization",
  "NonMaxSuppression",
  "Pow",
  "ReduceL1",
  "ReduceL2",
  "ReduceLogSum",
  "ReduceLogSumExp",
  "ReduceProd",
  "ReduceSum",
  "ReduceSumSquare",
]);
/** Where the work is: these run at half precision whatever their operands came from. */
const HEAVY: ReadonlySet<string> = new Set(["Conv", "ConvTranspose", "Einsum", "GRU", "Gemm", "LSTM", "MatMul", "RNN"]);
/** Inputs that ONNX wants in float32 whatever the data's type: Resize's roi and scales. */
const FULL_INPUTS: Readonly<Record<string, readonly number[]>> = { Resize: [1, 2] };
/** Largest finite float16. */
const LARGEST = 65504;

/** The graph with `half` for float32. A graph without float32 tensors comes back as it is. */
export function atHalfPrecision(g: Graph, half: HalfType): Graph {
  const floats = (v: ValueId): boolean => isFloat(valueAt(g, v).type);
  if (!g.values.some((v) => v !== undefined && isFloat(v.type))) return g;
  return new Halver(g, half, floats).run();
}

const OTHER_FLOATS: ReadonlySet<string> = new Set(["float16", "bfloat16", "float64"]);
const dtypeAt = (g: Graph, v: ValueId): string => {
  const { type } = valueAt(g, v);
  return type.kind === "tensor" ? type.dtype : type.kind;
};
const isFloat = (t: ValueType): boolean => t.kind === "tensor" && t.dtype === "float32";

class Halver {
  readonly #g: Graph;
  readonly #half: HalfType;
  readonly #floats: (v: ValueId) => boolean;
  readonly #edit: Editor;
  /** New ids by old id: of the value as float32 (or of a type that stays), and at half precision. */
  readonly #full = new Map<ValueId, ValueId>();
  readonly #low = new Map<ValueId, ValueId>();
  /** Float values computed from integers alone. */
  readonly #exact = new Set<ValueId>();
  readonly #outputs: ReadonlySet<ValueId>;
  #bounds: readonly [ValueId, ValueId] | undefined;

  constructor(g: Graph, half: HalfType, floats: (v: ValueId) => boolean) {
    this.#g = g;
    this.#half = half;
    this.#floats = floats;
    this.#outputs = new Set(g.outputs);
    this.#edit = new Editor({ name: g.name, opsets: g.opsets, extra: g.extra });
  }

  run(): Graph {
    const g = this.#g;
    for (const v of g.inputs) {
      const { name, type } = valueAt(g, v);
      this.#full.set(v, this.#edit.addInput(name, type));
    }
    // An output keeps its name and its float32; names are taken before anything else can take them.
    for (const v of g.outputs) if (!this.#full.has(v) && !g.constants.has(v)) this.#declareFull(v);
    for (const n of g.nodes) this.#node(n);
    for (const v of g.outputs) this.#settle(v);
    this.#edit.setOutputs(g.outputs.map((v) => this.#full.get(v) as ValueId));
    return this.#edit.finish();
  }

  #node(n: Node): void {
    const full = this.#staysFull(n);
    const except = FULL_INPUTS[n.op] ?? [];
    const ins = n.ins.map((v, i) => (v === undefined ? undefined : full || except.includes(i) ? this.#asFull(v) : this.#asHalf(v)));
    const outs = n.outs.map((v) => {
      if (v === undefined) return undefined;
      if (!this.#floats(v)) return this.#full.get(v) ?? this.#declareFull(v);
      if (full) {
        if (this.#fromIntegers(n)) this.#exact.add(v);
        return this.#full.get(v) ?? this.#declareFull(v);
      }
      const { name, type } = valueAt(this.#g, v);
      // The plain name belongs to an output's float32.
      const id = this.#edit.declare(this.#outputs.has(v) ? `${name}/${this.#half}` : name, this.#lowered(type));
      this.#low.set(v, id);
      return id;
    });
    const { origin, overload, extra } = n;
    this.#edit.add({
      op: n.op,
      domain: n.domain,
      name: displayName(this.#g, n),
      ins,
      outs,
      attrs: full ? this.#captured(n) : this.#attributes(n),
      ...(origin === undefined ? {} : { origin }),
      ...(overload === undefined ? {} : { overload }),
      ...(extra === undefined ? {} : { extra }),
    });
  }

  #staysFull(n: Node): boolean {
    if (bodiesOf(n).length > 0 || (n.domain === "" && FULL.has(n.op))) return true;
    return this.#fromIntegers(n);
  }
  /** Whether a node computes floats from integers, or from floats that came from them. */
  #fromIntegers(n: Node): boolean {
    if (HEAVY.has(n.op) || bodiesOf(n).length > 0) return false;
    const reads = readsOf(n).filter((v) => this.#floats(v));
    const moving = reads.filter((v) => !this.#g.constants.has(v));
    if (moving.length > 0) return moving.every((v) => this.#exact.has(v));
    // No floats at all (a Cast, a Range); a table of constants looked up is data, as are floats of another type.
    const others = readsOf(n).some((v) => OTHER_FLOATS.has(dtypeAt(this.#g, v)));
    return reads.length === 0 && !others && n.outs.some((v) => v !== undefined && this.#floats(v));
  }

  #declareFull(v: ValueId): ValueId {
    const { name, type } = valueAt(this.#g, v);
    const id = this.#edit.declare(name, type);
    this.#full.set(v, id);
    return id;
  }
  #lowered(t: ValueType): ValueType {
    return t.kind === "tensor" && t.dtype === "float32" ? { ...t, dtype: this.#half } : t;
  }

  #asFull(v: ValueId): ValueId {
    const low = this.#low.get(v);
    const known = this.#full.get(v);
    if (known !== undefined && (low === undefined || !this.#outputs.has(v))) return known;
    const c = this.#g.constants.get(v);
    if (c !== undefined) {
      const id = this.#edit.addConstant(valueAt(this.#g, v).name, c);
      this.#full.set(v, id);
      return id;
    }
    if (low === undefined) throw new Error(`value '${valueAt(this.#g, v).name}' is read before it is made`);
    if (known !== undefined) {
      this.#settle(v);
      return known;
    }
    const { name, type } = valueAt(this.#g, v);
    const id = this.#edit.declare(`${name}/float32`, type);
    this.#cast(low, id, "float32");
    this.#full.set(v, id);
    return id;
  }

  #asHalf(v: ValueId): ValueId {
    if (!this.#floats(v)) return this.#asFull(v);
    const known = this.#low.get(v);
    if (known !== undefined) return known;
    const { name, type } = valueAt(this.#g, v);
    const c = this.#g.constants.get(v);
    if (c !== undefined) {
      const id = this.#edit.addConstant(name, halfConstant(c, this.#half));
      this.#low.set(v, id);
      return id;
    }
    let from = this.#asFull(v);
    // A mask of -3e38 must not become infinite: a row of nothing else would be NaN behind Softmax.
    if (this.#half === "float16" && this.#exact.has(v)) from = this.#clipped(from);
    const id = this.#edit.declare(`${name}/${this.#half}`, this.#lowered(type));
    this.#cast(from, id, this.#half);
    this.#low.set(v, id);
    return id;
  }

  #settled = new Set<ValueId>();
  /** Makes an output's float32, where only its half is there. */
  #settle(v: ValueId): void {
    if (this.#settled.has(v)) return;
    this.#settled.add(v);
    const low = this.#low.get(v);
    const full = this.#full.get(v);
    if (full === undefined) this.#asFull(v);
    else if (low !== undefined && this.#edit.producer(full) === undefined && !this.#g.inputs.includes(v)) this.#cast(low, full, "float32");
  }

  #cast(from: ValueId, to: ValueId, dtype: DType): void {
    this.#edit.add({
      op: "Cast",
      name: `${this.#edit.value(to).name}/Cast`,
      ins: [from],
      outs: [to],
      attrs: { to: { kind: "int", value: onnxNumber(dtype) } },
      origin: [],
    });
  }
  #clipped(v: ValueId): ValueId {
    this.#bounds ??= [
      this.#edit.addConstant("half/lowest", makeConstant("float32", [], [-LARGEST])),
      this.#edit.addConstant("half/largest", makeConstant("float32", [], [LARGEST])),
    ];
    const { name, type } = this.#edit.value(v);
    const out = this.#edit.declare(`${name}/clipped`, type);
    this.#edit.add({ op: "Clip", name: `${name}/Clip`, ins: [v, ...this.#bounds], outs: [out], origin: [] });
    return out;
  }

  /** Attributes that name an element type or hold floats' fill values follow the tensors. */
  #attributes(n: Node): Readonly<Record<string, Attr>> {
    const changed: Record<string, Attr> = { ...n.attrs };
    for (const key of ["to", "dtype", "output_dtype", "stash_type"]) {
      const a = n.attrs[key];
      // Statistics keep their float32: that is what stash_type is for.
      if (
        key !== "stash_type" &&
        a?.kind === "int" &&
        Number(a.value) === onnxNumber("float32") &&
        n.outs.some((v) => v !== undefined && this.#floats(v))
      )
        changed[key] = { kind: "int", value: onnxNumber(this.#half) };
    }
    const fill = n.attrs["value"];
    if (fill?.kind === "tensor" && fill.value.dtype === "float32")
      changed["value"] = { kind: "tensor", value: halfConstant(fill.value, this.#half) };
    return changed;
  }
  /** Bodies stay float32 within; what they capture is the float32 of the new graph. */
  #captured(n: Node): Readonly<Record<string, Attr>> {
    if (bodiesOf(n).length === 0) return n.attrs;
    const body = (b: Body): Body => ({ graph: b.graph, captures: b.captures.map((v) => this.#asFull(v)) });
    return Object.fromEntries(
      Object.entries(n.attrs).map(([key, a]): readonly [string, Attr] => {
        if (a.kind === "graph") return [key, { kind: "graph", value: body(a.value) }];
        if (a.kind === "graphs") return [key, { kind: "graphs", value: a.value.map(body) }];
        return [key, a];
      }),
    );
  }
}

/** A float32 constant at half precision, to nearest even; what is finite stays finite. */
export function halfConstant(c: Constant, half: HalfType): Constant {
  if (c.data.kind === "sparse" || c.dtype !== "float32") return c;
  const { dims } = c;
  const { length } = c.data.kind === "bytes" ? c.data.bytes : { length: dims.reduce((a, d) => a * d, 4) };
  // Converted when it is written: a model's weights need not be there twice.
  return { dtype: half, dims, data: { kind: "lazy", length: length / 2, read: () => halves(typedOf(c) as Float32Array, half) } };
}

function halves(values: Float32Array, half: HalfType): Uint8Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = new Uint16Array(values.length);
  if (half === "float16")
    for (let i = 0; i < bits.length; i++) {
      const x = bits[i] as number;
      const h = halfBits(x);
      // Infinite only where the number was.
      out[i] = (h & 0x7fff) === 0x7c00 && (x & 0x7fffffff) !== 0x7f800000 ? h - 1 : h;
    }
  else
    for (let i = 0; i < bits.length; i++) {
      const x = bits[i] as number;
      const nan = (x & 0x7fffffff) > 0x7f800000;
      const rounded = (x + 0x7fff + ((x >>> 16) & 1)) >>> 16;
      out[i] = nan ? (x >>> 16) | 0x40 : (rounded & 0x7fff) === 0x7f80 && (x & 0x7fffffff) !== 0x7f800000 ? rounded - 1 : rounded;
    }
  return new Uint8Array(out.buffer);
}
