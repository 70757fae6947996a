/**
 * Quantized operators as DequantizeLinear, the float operator and QuantizeLinear, and dynamically quantized ones as the operators they join: what engines
 * that take quantizers make integer kernels of. The real numbers are the same; where ONNX Runtime's own kernel for the joined operator rounds in
 * another way (sums and means in fixed point, say), a result may be the neighbouring step.
 */
import { onnxNumber } from "../ir/dtypes.js";
import { makeConstant, typedOf } from "../ir/payload.js";
import type { Attr, Attrs, Node, ValueId } from "../ir/types.js";
import { dtypeOf, type EngineName, type Fact } from "../ops/define.js";
import { doneSite } from "../ops/infer.js";
import { numbersOf } from "../ops/shapes.js";
import { dimsOf } from "./match.js";
import type { Replacement } from "./rewrite.js";
import type { Keep, Speller, Spelling } from "./spelling.js";

const int = (value: number): Attr => ({ kind: "int", value });
type In = ValueId | undefined;

/** Real numbers of a quantized operand; scales along `axis` where there is more than one. Undefined where scale and zero point do not go together. */
function real(s: Speller, x: In, scale: In, zero: In, axis: number): ValueId | undefined {
  if (x === undefined || scale === undefined) return undefined;
  const [few, points] = [dimsOf(s.draft, scale), zero === undefined ? undefined : dimsOf(s.draft, zero)];
  const one = (dims: readonly unknown[] | undefined): boolean => dims?.every((d) => d === 1) === true;
  const along: Attrs = one(few) ? {} : { axis: int(axis) };
  if (few === undefined || few.length > 1) return undefined;
  if (zero === undefined || (one(few) && one(points)) || (!one(few) && points?.length === 1 && !one(points)))
    return s.emit("DequantizeLinear", [x, scale, ...(zero === undefined ? [] : [zero])], along);
  // One zero point for many scales.
  const [c, count] = [s.draft.constant(zero), few[0]];
  if (c === undefined || !one(points) || typeof count !== "number" || (c.dtype !== "int8" && c.dtype !== "uint8")) return undefined;
  const [z = 0] = typedOf(c) as Int8Array;
  const many = s.draft.edit.addConstant("lowered/zeros", makeConstant(c.dtype, [count], new Array<number>(count).fill(z)));
  return s.emit("DequantizeLinear", [x, scale, many], along);
}
const quantized = (x: In, scale: In, zero: In): Replacement | undefined =>
  x === undefined || scale === undefined ? undefined : { op: "QuantizeLinear", ins: [x, scale, ...(zero === undefined ? [] : [zero])] };
/** Product of two scales: a constant where both are. */
function joined(s: Speller, a: In, b: In): ValueId | undefined {
  if (a === undefined || b === undefined) return undefined;
  const [p, q] = [s.draft.constant(a), s.draft.constant(b)];
  if (p?.dtype !== "float32" || q?.dtype !== "float32") return s.emit("Mul", [a, b]);
  const [x, y] = [typedOf(p) as Float32Array, typedOf(q) as Float32Array];
  const [first = 0] = x;
  if (x.length !== 1) return s.emit("Mul", [a, b]);
  return s.draft.edit.addConstant(
    "lowered/scale",
    makeConstant(
      "float32",
      q.dims,
      Array.from(y, (v) => Math.fround(first * v)),
    ),
  );
}
/** An int32 bias in steps of both scales. */
const bias = (s: Speller, b: In, a: In, w: In, axis: number): ValueId | undefined =>
  b === undefined ? undefined : real(s, b, joined(s, a, w), undefined, axis);

/** Dims with the channels last to channels first, and back. */
function turned(s: Speller, x: ValueId, rank: number, back: boolean): ValueId {
  const perm = Array.from({ length: rank }, (_, i) => (i === 0 ? 0 : back ? (i === rank - 1 ? 1 : i + 1) : i === 1 ? rank - 1 : i - 1));
  return s.emit("Transpose", [x], { perm: { kind: "ints", value: perm } });
}
/** A float operator between transposes where the node asks for channels last. */
function placed(n: Node, s: Speller, x: ValueId, op: (x: ValueId) => ValueId): ValueId | undefined {
  if (s.int("channels_last", 0) === 0) return op(x);
  const rank = dimsOf(s.draft, n.ins[0])?.length;
  return rank === undefined || rank < 3 ? undefined : turned(s, op(turned(s, x, rank, false)), rank, true);
}
const without = (n: Node, ...names: readonly string[]): Attrs =>
  Object.fromEntries(Object.entries(n.attrs).filter(([key]) => !names.includes(key)));

const qLinearConv: Spelling = (n, s) => {
  const [x, xScale, xZero, w, wScale, wZero, yScale, yZero, b] = n.ins;
  const [a, f] = [real(s, x, xScale, xZero, 1), real(s, w, wScale, wZero, 0)];
  const added = bias(s, b, xScale, wScale, 0);
  if (a === undefined || f === undefined || (b !== undefined && added === undefined)) return undefined;
  const attrs = without(n, "channels_last");
  return quantized(
    placed(n, s, a, (v) => s.emit("Conv", added === undefined ? [v, f] : [v, f, added], attrs)),
    yScale,
    yZero,
  );
};
const qLinearMatMul: Spelling = (n, s) => {
  const [a, aScale, aZero, b, bScale, bZero, yScale, yZero] = n.ins;
  const [left, right] = [real(s, a, aScale, aZero, -2), real(s, b, bScale, bZero, -1)];
  if (left === undefined || right === undefined) return undefined;
  return quantized(s.emit("MatMul", [left, right]), yScale, yZero);
};
const qGemm: Spelling = (n, s) => {
  const [a, aScale, aZero, b, bScale, bZero, c, yScale, yZero] = n.ins;
  const [left, right] = [real(s, a, aScale, aZero, 0), real(s, b, bScale, bZero, s.int("transB", 0) !== 0 ? 0 : 1)];
  const added = bias(s, c, aScale, bScale, -1);
  if (left === undefined || right === undefined || (c !== undefined && added === undefined)) return undefined;
  // The addend counts steps of the product, which alpha scales as a whole.
  const alpha: Attr = { kind: "float", value: s.float("alpha", 1) };
  const attrs = { ...n.attrs, alpha, ...(added === undefined ? {} : { beta: alpha }) };
  const ins = added === undefined ? [left, right] : [left, right, added];
  return yScale === undefined ? { op: "Gemm", ins, attrs } : quantized(s.emit("Gemm", ins, attrs), yScale, yZero);
};
const binary =
  (op: string): Spelling =>
  (n, s) => {
    const [a, aScale, aZero, b, bScale, bZero, yScale, yZero] = n.ins;
    const [left, right] = [real(s, a, aScale, aZero, 1), real(s, b, bScale, bZero, 1)];
    return left === undefined || right === undefined ? undefined : quantized(s.emit(op, [left, right]), yScale, yZero);
  };
const unary =
  (op: string, attrs: (n: Node, s: Speller) => Attrs | undefined): Spelling =>
  (n, s) => {
    const [x, xScale, xZero, yScale, yZero] = n.ins;
    const own = attrs(n, s);
    const v = own === undefined ? undefined : real(s, x, xScale, xZero, 1);
    return own === undefined || v === undefined
      ? undefined
      : quantized(
          placed(n, s, v, (at) => s.emit(op, [at], own)),
          yScale,
          yZero,
        );
  };
/** Up to opset 12 Softmax flattened what is behind its axis: the same over the last dim alone. */
function softmaxAttrs(n: Node, s: Speller): Attrs | undefined {
  const [axis, rank] = [s.int("axis", -1), dimsOf(s.draft, n.ins[0])?.length];
  const last = axis === -1 || (rank !== undefined && axis === rank - 1);
  return s.int("opset", 13) >= 13 || last ? { axis: int(axis) } : undefined;
}
const qLinearConcat: Spelling = (n, s) => {
  const [yScale, yZero, ...rest] = n.ins;
  const parts: ValueId[] = [];
  for (let i = 0; i < rest.length; i += 3) {
    const part = real(s, rest[i], rest[i + 1], rest[i + 2], 1);
    if (part === undefined) return undefined;
    parts.push(part);
  }
  return quantized(s.emit("Concat", parts, n.attrs), yScale, yZero);
};
const qLinearWhere: Spelling = (n, s) => {
  const [condition, x, xScale, xZero, y, yScale, yZero, zScale, zZero] = n.ins;
  const [a, b] = [real(s, x, xScale, xZero, 1), real(s, y, yScale, yZero, 1)];
  return a === undefined || b === undefined ? undefined : quantized(s.emit("Where", [condition, a, b]), zScale, zZero);
};

/** Sums times the product of the scales, and the bias. */
function scaled(s: Speller, sums: readonly In[], aScale: In, bScale: In, added: In): Replacement | undefined {
  const step = joined(s, aScale, bScale);
  if (step === undefined) return undefined;
  const whole = s.emit("Cast", [s.emit("MatMulInteger", sums)], { to: int(onnxNumber("float32")) });
  if (added === undefined) return { op: "Mul", ins: [whole, step] };
  return { op: "Add", ins: [s.emit("Mul", [whole, step]), added] };
}
const trimmed = (...ins: readonly In[]): readonly In[] => ins.slice(0, ins.findLastIndex((v) => v !== undefined) + 1);
const matMulIntegerToFloat: Spelling = (n, s) => {
  const [a, b, aScale, bScale, aZero, bZero, added] = n.ins;
  return s.dtype(aScale) === "float32" ? scaled(s, trimmed(a, b, aZero, bZero), aScale, bScale, added) : undefined;
};
const dynamicQuantizeMatMul: Spelling = (n, s) => {
  const [a, b, bScale, bZero, added] = n.ins;
  if (a === undefined || s.dtype(a) !== "float32") return undefined;
  // Products of one operand share its quantizer.
  const parts = [0, 1, 2].map((i) => s.once(`dynamic ${a} ${i}`, () => s.fresh(["bytes", "scale", "zero"][i] as string)));
  s.once(`dynamic ${a}`, () => {
    s.emitAll("DynamicQuantizeLinear", [a], {}, parts);
    return parts[0] as ValueId;
  });
  return scaled(s, trimmed(parts[0], b, parts[2], bZero), parts[1], bScale, added);
};
/** The same operators of ai.onnx, for types that it has had from the start. */
const standard =
  (op: string): Spelling =>
  (n, s) => {
    const [x, , zero] = n.ins;
    const bytes = [x, zero].map((v) => s.dtype(v)).find((t) => t === "int8" || t === "uint8" || t === "int32");
    return bytes === undefined ? undefined : { op, ins: n.ins, attrs: n.attrs };
  };

/** Only where dims are known, at least by name: elsewhere no engine takes the parts either, and the host keeps the operator, its kernel and its rounding. */
const placeable = (spellings: Readonly<Record<string, Spelling>>): Readonly<Record<string, Spelling>> =>
  Object.fromEntries(
    Object.entries(spellings).map(([name, spell]) => [
      name,
      (n, s) => {
        const known = [...n.ins, ...n.outs].every((v) => v === undefined || dimsOf(s.draft, v)?.includes("?") === false);
        return known ? spell(n, s) : undefined;
      },
    ]),
  );

/**
 * What stays joined because of the engines asked for: TensorRT takes symmetric int8 alone, so that with any other zero point the parts would be
 * torn between it and the host, whose kernels are for the whole operator.
 */
export const staysQuantized =
  (engines: readonly EngineName[]): Keep =>
  (g, n, facts) => {
    const spellings = n.domain === "" ? quantizedSpellings : n.domain === "com.microsoft" ? fusedQuantizedSpellings : {};
    if (engines.includes("cuda") || !Object.hasOwn(spellings, n.op)) return false;
    const operands = Object.entries((doneSite(g, n, facts)?.site.in ?? {}) as Readonly<Record<string, Fact | undefined>>);
    const zeros = operands.filter(([name]) => /^zero$|Zero$/.test(name)).map(([, f]) => f);
    return n.op === "QLinearConcat" || zeros.some((f) => dtypeOf(f) !== "int8" || numbersOf(f)?.every((z) => z === 0) !== true);
  };

/** By the name in ai.onnx. */
export const quantizedSpellings = placeable({ QLinearConv: qLinearConv, QLinearMatMul: qLinearMatMul });
/** By the name in com.microsoft. */
export const fusedQuantizedSpellings = placeable({
  QLinearConv: qLinearConv,
  QGemm: qGemm,
  QLinearAdd: binary("Add"),
  QLinearMul: binary("Mul"),
  QLinearSigmoid: unary("Sigmoid", () => ({})),
  QLinearLeakyRelu: unary("LeakyRelu", (n) => n.attrs),
  QLinearSoftmax: unary("Softmax", softmaxAttrs),
  QLinearGlobalAveragePool: unary("GlobalAveragePool", () => ({})),
  QLinearAveragePool: unary("AveragePool", (n) => without(n, "channels_last")),
  QLinearConcat: qLinearConcat,
  QLinearWhere: qLinearWhere,
  MatMulIntegerToFloat: matMulIntegerToFloat,
  DynamicQuantizeMatMul: dynamicQuantizeMatMul,
  QuantizeLinear: standard("QuantizeLinear"),
  DequantizeLinear: standard("DequantizeLinear"),
});
