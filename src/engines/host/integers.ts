/**
 * Quantized graphs as ONNX Runtime's integer kernels are fast at them, the values unchanged.
 *
 * Activations are written as uint8 with zero point 128, each step the int8 one plus 128: products of uint8 and int8 are what processors have
 * instructions for, those of int8 and int8 run several times slower.
 *
 * A convolution between Q/DQ pairs goes to the integer kernel only where a quantizer follows it at once.
 * Q(Relu(x)) is Relu(Q(x)) on int8, and so with Clip, as rounding keeps the order: the activation moves behind the quantizer and the
 * convolution becomes a QLinearConv. A convolution whose result stays float (the sum in front of a residual Add) is computed as sums of
 * integers, rounded to float32 once and scaled: the arithmetic of quantize/arithmetic.ts, bit for bit. The sums come from the float kernel where
 * every partial sum is a whole number below 2^24, which float32 holds exactly (it is the faster one), from ConvInteger elsewhere. ONNX
 * Runtime must not fold the scale into such weights: `FUSIONS_THAT_ROUND` are to be left out.
 */

import { readFileSync } from "node:fs";
import { intOf } from "../../ir/attributes.js";
import { Editor } from "../../ir/edit.js";
import { makeConstant, payloadLength, typedOf } from "../../ir/payload.js";
import type { Attr, Constant, Graph, Node, ValueId } from "../../ir/types.js";
import { dimsOf } from "../../passes/match.js";
import { groupsOf } from "../../passes/weights.js";
import { quantize } from "../../quantize/arithmetic.js";

/** A value that is read through a DequantizeLinear: an activation (uint8 around 128), a symmetric weight (int8) or bias (int32). */
interface Dequantized {
  readonly steps: ValueId;
  readonly scales: Float32Array;
  /** The scales' constant as it stands. */
  readonly scale: ValueId;
}

/** Optimizers of ONNX Runtime that would multiply a scale into whole weights. */
export const FUSIONS_THAT_ROUND = "ConvMulFusion";

/**
 * Whether products of uint8 and int8 are summed without loss here. x86 processors before VNNI add pairs of them in saturating int16; there
 * weights are written as uint8 too, whose kernels widen first.
 */
const mixedIsExact = (): boolean => {
  if (process.arch !== "x64") return true;
  try {
    return /^flags\b.*\b(avx512_vnni|avx_vnni)\b/m.test(readFileSync("/proc/cpuinfo", "utf8"));
  } catch {
    // Another system than Linux: the processor is not known.
    return false;
  }
};

/** The graph with its integer kernels; itself where nothing in it is quantized. `signedWeights`: as this machine's processor wants them. */
export function integers(g: Graph, signedWeights: boolean = mixedIsExact()): Graph {
  if (!g.nodes.some((n) => n.op === "DequantizeLinear")) return g;
  const draft = new Editor(g);
  const spell = new Spell(draft, signedWeights);
  for (const n of g.nodes) spell.unsigned(n);
  for (const n of g.nodes) {
    const now = n.domain === "" ? draft.node(n.id) : undefined;
    if (now?.op === "Conv") spell.convolution(now);
    else if (now?.op === "ConvTranspose") spell.transposed(now);
    else if (now?.op === "Gemm" || now?.op === "MatMul") spell.product(now);
  }
  if (!draft.changed) return g;
  // Dequantizers and activations that lost their readers.
  for (const { id } of [...draft.nodes()].reverse()) {
    const n = draft.node(id);
    if (
      n !== undefined &&
      REMOVABLE.has(n.op) &&
      n.domain === "" &&
      n.outs.every((v) => v === undefined || (draft.uses(v).length === 0 && !draft.isOutput(v)))
    )
      draft.remove(id);
  }
  return draft.finish();
}
/** The zero point of uint8 activations. */
const MIDDLE = 128;
const without = (attrs: Readonly<Record<string, Attr>>, name: string): Readonly<Record<string, Attr>> =>
  Object.fromEntries(Object.entries(attrs).filter(([key]) => key !== name));
const REMOVABLE: ReadonlySet<string> = new Set(["DequantizeLinear", "QuantizeLinear", "Relu", "Clip"]);

/** Activations with bounds and the quantizer behind them. */
interface Chain {
  readonly activations: readonly Node[];
  readonly quantizer: Node;
  readonly scale: ValueId;
  readonly step: number;
}

class Spell {
  readonly #draft: Editor;
  readonly #scalars = new Map<string, ValueId>();
  readonly #signed: boolean;
  constructor(draft: Editor, signed: boolean) {
    this.#draft = draft;
    this.#signed = signed;
  }

  /** A weight's steps and zero points: one, or a list as long as the scales. */
  #weight(w: Dequantized, one = w.scales.length === 1): readonly [steps: ValueId, zero: ValueId] {
    const c = this.#draft.constant(w.steps);
    if (this.#signed || c === undefined) return [w.steps, one ? this.#scalar("int8", 0) : this.#middles("int8", w.scales.length)];
    const name = `unsigned ${w.steps}`;
    let steps = this.#scalars.get(name);
    if (steps === undefined) {
      const moved = makeConstant(
        "uint8",
        c.dims,
        Array.from(typedOf(c) as Int8Array, (q) => q + MIDDLE),
      );
      steps = this.#draft.addConstant(`${this.#draft.value(w.steps).name}/uint8`, moved);
      this.#scalars.set(name, steps);
    }
    return [steps, one ? this.#scalar("uint8", MIDDLE) : this.#middles("uint8", w.scales.length)];
  }

  /** A quantizer of symmetric int8, and the dequantizers that alone read it, around 128 instead of 0. */
  unsigned(n: Node): void {
    const [q] = n.outs;
    if (
      n.op !== "QuantizeLinear" ||
      n.domain !== "" ||
      q === undefined ||
      this.#draft.isOutput(q) ||
      this.#perTensor(n, "int8") === undefined
    )
      return;
    const readers = this.#draft.uses(q);
    if (
      !readers.every(
        (r) => r.op === "DequantizeLinear" && r.domain === "" && r.ins[0] === q && r.ins[1] !== undefined && this.#isScalar(r.ins[1]),
      )
    )
      return;
    if (!readers.every((r) => r.ins[2] === undefined || this.#around(r.ins[2], "int8", 0))) return;
    const type = this.#draft.type(q);
    const middle = this.#scalar("uint8", MIDDLE);
    this.#draft.setType(q, { kind: "tensor", dtype: "uint8", shape: type.kind === "tensor" ? type.shape : undefined });
    const attrs = without(n.attrs, "output_dtype");
    for (const r of [n, ...readers]) this.#draft.patch(r.id, { ins: [r.ins[0], r.ins[1], middle], ...(r === n ? { attrs } : {}) });
  }

  convolution(n: Node): void {
    const [x, w] = [this.#dequantized(n.ins[0], "uint8"), this.#dequantized(n.ins[1], "int8", 0)];
    const [y] = n.outs;
    const weight = this.#draft.constant(w?.steps);
    if (x === undefined || w === undefined || weight === undefined || y === undefined || x.scales.length !== 1) return;
    const scales = w.scales.map((s) => s * (x.scales[0] as number));
    const bias = this.#bias(n, scales);
    const fits = bias !== undefined;
    const chain = n.ins[2] === undefined || fits ? this.#quantizer(y) : undefined;
    if (chain !== undefined) this.#requantized(n, { x, w, bias, ...chain });
    else this.#summed(n, { x, w, weight, bias, after: fits ? undefined : n.ins[2], scales, y });
  }

  /** ConvTranspose has no integer kernel: whole numbers in the float one, where they stay exact. Weights [C, K / group, kernel...]. */
  transposed(n: Node): void {
    const [x, w] = [this.#dequantized(n.ins[0], "uint8"), this.#dequantized(n.ins[1], "int8", 1)];
    const [weight, [y]] = [this.#draft.constant(w?.steps), n.outs];
    if (x === undefined || w === undefined || weight === undefined || y === undefined || x.scales.length !== 1) return;
    const [groups, perGroup] = [groupsOf(n), weight.dims[1] ?? 1];
    const scales = Float32Array.from(
      { length: groups * perGroup },
      (_, k) => (x.scales[0] as number) * (w.scales[k % w.scales.length] as number),
    );
    const bias = this.#bias(n, scales);
    const values = bias === undefined ? undefined : (typedOf(this.#draft.constant(bias) as Constant) as Int32Array);
    const steps = typedOf(weight) as Int8Array;
    if ((n.ins[2] !== undefined && values === undefined) || !exactInFloat(byOutput(steps, weight.dims, groups), [scales.length], values))
      return;
    const chain = this.#quantizer(y);
    const stem = n.name !== "" ? n.name : this.#draft.value(y).name;
    const origin = n.origin ?? [n.name];
    const declare = (what: string, of: ValueId | undefined): ValueId =>
      this.#draft.declare(`${stem}/${what}`, { kind: "tensor", dtype: "float32", shape: dimsOf(this.#draft, of) });
    const [whole, sums] = [declare("whole", n.ins[0]), declare("sums", y)];
    const out = chain === undefined ? y : this.#activated(n, chain);
    if (out === undefined) return;
    this.#draft.remove(n.id);
    const [one, middle] = [this.#scalar("float32", 1), this.#scalar("uint8", MIDDLE)];
    this.#draft.add({ op: "DequantizeLinear", ins: [x.steps, one, middle], outs: [whole], name: `${stem}/whole`, origin });
    const ins = [whole, this.#draft.addConstant(`${stem}/steps`, makeConstant("float32", weight.dims, Array.from(steps)))];
    if (values !== undefined)
      ins.push(this.#draft.addConstant(`${stem}/bias`, makeConstant("float32", [values.length], Array.from(values))));
    this.#draft.add({ op: "ConvTranspose", ins, outs: [sums], name: `${stem}/sums`, attrs: n.attrs, origin });
    const factors = chain === undefined ? scales : scales.map((s) => s / chain.step);
    const column = [factors.length, ...new Array<number>(weight.dims.length - 2).fill(1)];
    const factor = this.#draft.addConstant(`${stem}/scale`, makeConstant("float32", column, Array.from(factors)));
    const scaled = chain === undefined ? y : declare("scaled", sums);
    this.#draft.add({ op: "Mul", ins: [sums, factor], outs: [scaled], name: stem, origin });
    // The quantizer of steps that are there already rounds and saturates.
    if (chain !== undefined)
      this.#draft.add({ op: "QuantizeLinear", ins: [scaled, one, middle], outs: [out], name: `${stem}/quantize`, origin });
  }

  /** A bias whose scale is that of the sums. */
  #bias(n: Node, scales: Float32Array): ValueId | undefined {
    const bias = this.#dequantized(n.ins[2], "int32", 0);
    return bias?.scales.every((s, k) => s === scales[scales.length === 1 ? 0 : k]) === true ? bias.steps : undefined;
  }

  /** Matrix products: requantized where a quantizer follows, to float otherwise, both without a detour. */
  product(n: Node): void {
    const flag = (name: string): boolean => n.attrs[name]?.kind === "int" && Number(n.attrs[name].value) !== 0;
    const unit = (name: string): boolean => n.attrs[name]?.kind !== "float" || n.attrs[name].value === 1;
    const rank = dimsOf(this.#draft, n.ins[1])?.length;
    const axis = n.op === "MatMul" ? (rank === 2 ? 1 : undefined) : flag("transB") ? 0 : 1;
    const [a, [y]] = [this.#dequantized(n.ins[0], "uint8"), n.outs];
    const weight = this.#dequantized(n.ins[1], "int8", axis);
    const b = weight ?? this.#dequantized(n.ins[1], "uint8");
    if (a === undefined || b === undefined || y === undefined || a.scales.length !== 1 || rank === undefined || rank < 2) return;
    const scales = b.scales.map((s) => s * (a.scales[0] as number));
    const bias = n.op === "Gemm" ? this.#bias(n, scales) : undefined;
    if (n.op === "Gemm" && ((n.ins[2] !== undefined && bias === undefined) || !unit("alpha") || !unit("beta"))) return;
    const middle = this.#scalar("uint8", MIDDLE);
    const [steps, zero] = weight === undefined ? [b.steps, middle] : this.#weight(b);
    const chain = this.#quantizer(y);
    const stem = n.name !== "" ? n.name : this.#draft.value(y).name;
    const origin = n.origin ?? [n.name];
    const out = chain === undefined ? y : this.#activated(n, chain);
    if (out === undefined) return;
    const result = chain === undefined ? [] : [chain.scale, middle];
    this.#draft.remove(n.id);
    if (n.op === "Gemm") {
      const { transA, transB } = n.attrs;
      const attrs = { ...(transA === undefined ? {} : { transA }), ...(transB === undefined ? {} : { transB }) };
      const ins = [a.steps, a.scale, middle, steps, b.scale, zero, bias, ...result];
      this.#draft.add({ op: "QGemm", domain: "com.microsoft", ins, outs: [out], name: stem, attrs, origin });
    } else if (chain !== undefined) {
      const ins = [a.steps, a.scale, middle, steps, b.scale, zero, ...result];
      this.#draft.add({ op: "QLinearMatMul", ins, outs: [out], name: stem, origin });
    } else {
      const ins = [a.steps, steps, a.scale, b.scale, middle, zero];
      this.#draft.add({ op: "MatMulIntegerToFloat", domain: "com.microsoft", ins, outs: [out], name: stem, origin });
    }
    this.#draft.setOpset("com.microsoft", 1);
  }

  /** The activations of a chain as bounds on uint8, in place of the quantizer; gives the value that the product is to make. */
  #activated(n: Node, chain: Chain): ValueId | undefined {
    const [out] = chain.quantizer.outs;
    if (out === undefined) return undefined;
    const { name } = this.#draft.value(out);
    const type = { kind: "tensor", dtype: "uint8", shape: dimsOf(this.#draft, n.outs[0]) } as const;
    this.#draft.remove(chain.quantizer.id);
    for (const a of chain.activations) this.#draft.remove(a.id);
    let v = chain.activations.length === 0 ? out : this.#draft.declare(`${name}/product`, type);
    const first = v;
    chain.activations.forEach((a, i) => {
      const y = i === chain.activations.length - 1 ? out : this.#draft.declare(`${name}/${a.op}`, type);
      const bounds = a.op === "Clip" ? [1, 2].map((slot) => this.#bound(a.ins[slot], chain.step)) : [this.#scalar("uint8", MIDDLE)];
      this.#draft.add({ op: "Clip", ins: [v, ...bounds], outs: [y], name: `${a.name}/uint8`, origin: a.origin ?? [a.name] });
      v = y;
    });
    return first;
  }

  /** QLinearConv, then the activations on uint8. */
  #requantized(n: Node, c: Chain & { readonly x: Dequantized; readonly w: Dequantized; readonly bias: ValueId | undefined }): void {
    const out = this.#activated(n, c);
    if (out === undefined) return;
    const middle = this.#scalar("uint8", MIDDLE);
    const [steps, zero] = this.#weight(c.w);
    const ins = [c.x.steps, c.x.scale, middle, steps, c.w.scale, zero, c.scale, middle, ...(c.bias === undefined ? [] : [c.bias])];
    const stem = n.name !== "" ? n.name : this.#draft.value(out).name;
    this.#draft.remove(n.id);
    this.#draft.add({ op: "QLinearConv", ins, outs: [out], name: stem, attrs: n.attrs, origin: n.origin ?? [n.name] });
  }
  #bound(v: ValueId | undefined, step: number): ValueId | undefined {
    const c = this.#draft.constant(v);
    if (c === undefined) return undefined;
    const [q = 0] = quantize(typedOf(c) as Float32Array, step);
    return this.#scalar("uint8", q + MIDDLE);
  }

  /** Sums of integers, to float32, times their scales. */
  #summed(
    n: Node,
    c: {
      readonly x: Dequantized;
      readonly w: Dequantized;
      readonly weight: Constant;
      readonly bias: ValueId | undefined;
      /** A float bias, added behind the scales. */
      readonly after: ValueId | undefined;
      readonly scales: Float32Array;
      readonly y: ValueId;
    },
  ): void {
    const rank = c.weight.dims.length;
    const spread = (k: number): readonly number[] => (k === 1 ? [] : [k, ...new Array<number>(rank - 2).fill(1)]);
    const stem = n.name !== "" ? n.name : this.#draft.value(c.y).name;
    const origin = n.origin ?? [n.name];
    const shape = dimsOf(this.#draft, c.y);
    const emit = (
      op: string,
      ins: readonly (ValueId | undefined)[],
      dtype: "float32" | "int32",
      attrs: Readonly<Record<string, Attr>> = {},
    ): ValueId => {
      const v = this.#draft.declare(`${stem}/${op}`, { kind: "tensor", dtype, shape });
      this.#draft.add({ op, ins, outs: [v], name: `${stem}/${op}`, attrs, origin });
      return v;
    };
    const steps = typedOf(c.weight) as Int8Array;
    const bias = c.bias === undefined ? undefined : this.#draft.constant(c.bias);
    const values = bias === undefined ? undefined : (typedOf(bias) as Int32Array);
    this.#draft.remove(n.id);
    let sums: ValueId;
    if (exactInFloat(steps, c.weight.dims, values)) {
      // Dequantized by a scale of one: the steps themselves.
      const x = this.#draft.declare(`${stem}/whole`, { kind: "tensor", dtype: "float32", shape: dimsOf(this.#draft, n.ins[0]) });
      const ins = [c.x.steps, this.#scalar("float32", 1), this.#scalar("uint8", MIDDLE)];
      this.#draft.add({ op: "DequantizeLinear", ins, outs: [x], name: `${stem}/whole`, origin });
      const w = this.#draft.addConstant(`${stem}/steps`, makeConstant("float32", c.weight.dims, Array.from(steps)));
      const b =
        values === undefined
          ? undefined
          : this.#draft.addConstant(`${stem}/bias`, makeConstant("float32", [values.length], Array.from(values)));
      sums = emit("Conv", b === undefined ? [x, w] : [x, w, b], "float32", n.attrs);
    } else {
      const [w, zero] = this.#weight(c.w, true);
      let whole = emit("ConvInteger", [c.x.steps, w, this.#scalar("uint8", MIDDLE), zero], "int32", n.attrs);
      if (values !== undefined)
        whole = emit(
          "Add",
          [whole, this.#draft.addConstant(`${stem}/bias`, makeConstant("int32", spread(values.length), Array.from(values)))],
          "int32",
        );
      sums = emit("Cast", [whole], "float32", { to: { kind: "int", value: 1 } });
    }
    const scale = this.#draft.addConstant(`${stem}/scale`, makeConstant("float32", spread(c.scales.length), Array.from(c.scales)));
    if (c.after === undefined) {
      this.#draft.add({ op: "Mul", ins: [sums, scale], outs: [c.y], name: stem, origin });
      return;
    }
    const scaled = emit("Mul", [sums, scale], "float32");
    const axes = this.#draft.addConstant(
      `${stem}/axes`,
      makeConstant(
        "int64",
        [rank - 2],
        Array.from({ length: rank - 2 }, (_, i) => i + 1),
      ),
    );
    const column = this.#draft.declare(`${stem}/column`);
    this.#draft.add({ op: "Unsqueeze", ins: [c.after, axes], outs: [column], name: `${stem}/column`, origin });
    this.#draft.add({ op: "Add", ins: [scaled, column], outs: [c.y], name: stem, origin });
  }

  /** The activations and the one quantizer behind a value, where nobody else reads any of them. */
  #quantizer(y: ValueId): Chain | undefined {
    const activations: Node[] = [];
    for (let v = y; ; ) {
      const [reader] = this.#draft.uses(v);
      if (reader === undefined || reader.domain !== "" || !this.#draft.hasOneUser(v) || reader.ins[0] !== v) return undefined;
      if (reader.op === "QuantizeLinear") {
        const scale = this.#perTensor(reader, "uint8");
        return scale === undefined ? undefined : { activations, quantizer: reader, ...scale };
      }
      const [next] = reader.outs;
      const bounded =
        reader.op === "Relu" || (reader.op === "Clip" && reader.ins.slice(1).every((b) => b === undefined || this.#isScalar(b)));
      if (!bounded || next === undefined) return undefined;
      activations.push(reader);
      v = next;
    }
  }
  #isScalar(v: ValueId): boolean {
    const c = this.#draft.constant(v);
    return c?.dtype === "float32" && payloadLength(c.data) === 4;
  }
  /** The scale of a symmetric int8 quantizer of whole tensors. */
  #perTensor(n: Node, dtype: "int8" | "uint8"): { readonly scale: ValueId; readonly step: number } | undefined {
    const [, scale, zero] = n.ins;
    if (scale === undefined || zero === undefined || !this.#isScalar(scale) || !this.#around(zero, dtype, dtype === "uint8" ? MIDDLE : 0))
      return undefined;
    return {
      scale: this.#scalar("float32", (typedOf(this.#draft.constant(scale) as Constant) as Float32Array)[0] ?? 1),
      step: (typedOf(this.#draft.constant(scale) as Constant) as Float32Array)[0] ?? 1,
    };
  }
  #around(zero: ValueId, dtype: string, middle: number): boolean {
    const c = this.#draft.constant(zero);
    return c?.dtype === dtype && (typedOf(c) as Int8Array).every((z) => z === middle);
  }
  #dequantized(v: ValueId | undefined, dtype: "int8" | "uint8" | "int32", along?: number): Dequantized | undefined {
    const n = this.#draft.producer(v);
    const [steps, scale, zero] = n?.ins ?? [];
    if (n?.op !== "DequantizeLinear" || n.domain !== "" || steps === undefined || scale === undefined) return undefined;
    const type = this.#draft.type(steps);
    const found = this.#draft.constant(scale);
    if (type.kind !== "tensor" || type.dtype !== dtype || found?.dtype !== "float32") return undefined;
    if (zero === undefined ? dtype === "uint8" : !this.#around(zero, dtype, dtype === "uint8" ? MIDDLE : 0)) return undefined;
    if (intOf(n, "block_size", 0) !== 0) return undefined;
    const scales = typedOf(found) as Float32Array;
    const said = intOf(n, "axis", 1);
    const axis = said < 0 ? said + (this.#draft.constant(steps)?.dims.length ?? 0) : said;
    const channels = along === undefined ? undefined : this.#draft.constant(steps)?.dims[along];
    // Along the output channels, or one for all.
    if (scales.length !== 1 && (axis !== along || scales.length !== channels)) return undefined;
    return { steps, scale: scales.length === 1 ? this.#scalar("float32", scales[0] as number) : scale, scales };
  }
  #scalar(dtype: "int8" | "uint8" | "float32", x: number): ValueId {
    const name = `${dtype} ${x}`;
    let v = this.#scalars.get(name);
    if (v === undefined) {
      v = this.#draft.addConstant(`integers/${x}`, makeConstant(dtype, [], [x]));
      this.#scalars.set(name, v);
    }
    return v;
  }
  #middles(dtype: "int8" | "uint8", count: number): ValueId {
    const name = `${dtype} middles ${count}`;
    let v = this.#scalars.get(name);
    if (v === undefined) {
      const middles = new Array<number>(count).fill(dtype === "int8" ? 0 : MIDDLE);
      v = this.#draft.addConstant(`integers/${dtype}x${count}`, makeConstant(dtype, [count], middles));
      this.#scalars.set(name, v);
    }
    return v;
  }
}

/** Whether every partial sum of every output, in any order, is a whole number that float32 holds: below 2^24. */
function exactInFloat(steps: Int8Array, dims: readonly number[], bias: Int32Array | undefined): boolean {
  const filters = dims[0] ?? 1;
  const size = steps.length / filters;
  for (let k = 0; k < filters; k++) {
    let most = Math.abs(bias?.[k] ?? 0);
    for (let i = k * size; i < (k + 1) * size; i++) most += 128 * Math.abs(steps[i] as number);
    if (most >= 2 ** 24) return false;
  }
  return true;
}
/** Weights of a ConvTranspose with those of one output channel together: [group * K / group, C / group * kernel]. */
function byOutput(steps: Int8Array, dims: readonly number[], groups: number): Int8Array {
  const [channels = 1, perGroup = 1] = dims;
  const [taps, depth] = [steps.length / Math.max(1, channels * perGroup), channels / groups];
  const out = new Int8Array(steps.length);
  for (let c = 0; c < channels; c++)
    for (let k = 0; k < perGroup; k++) {
      const row = Math.floor(c / depth) * perGroup + k;
      const from = (c * perGroup + k) * taps;
      out.set(steps.subarray(from, from + taps), (row * depth + (c % depth)) * taps);
    }
  return out;
}
