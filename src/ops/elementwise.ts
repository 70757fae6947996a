/** Elementwise arithmetic, comparison, logic, bit operations, selection and casts, with NumPy broadcasting. */
import { no, yes } from "../diagnostics.js";
import * as dims from "../ir/dims.js";
import { dtypeFromOnnx, isFloat, isInteger } from "../ir/dtypes.js";
import { roundHalfEven } from "../ir/numeric.js";
import { makeConstant, smallNumbers } from "../ir/payload.js";
import type { Dim, DType } from "../ir/types.js";
import { ANY, FLOATS64, gpu, hostOnly, NUMBERS, on, SIGNED, UNSIGNED, when } from "./answers.js";
import {
  absent,
  defineOp,
  dtypeOf,
  type Fact,
  flag,
  int,
  type OnnxReading,
  optional,
  optString,
  type RawNode,
  type Rewriter,
  type Sample,
  shapeOf,
  tensor,
  variadic,
  word,
} from "./define.js";
import { exactly, known, partly, pointwise, small } from "./elements.js";
import { bare, isIntegral, legacyBroadcast, noInt8, ofNumber, unary } from "./pointwise.js";
import { given, random } from "./samples.js";
import { broadcast, fact, perOutput } from "./shapes.js";

type Two = { readonly in: { readonly a: Fact; readonly b: Fact }; fail(what: string, fix: string): never };

function shapeOfTwo(at: Two): ReturnType<typeof shapeOf> {
  const s = broadcast(shapeOf(at.in.a), shapeOf(at.in.b));
  if (s === null)
    return at.fail(
      `operands of dims [${shapeOf(at.in.a)}] and [${shapeOf(at.in.b)}] do not broadcast`,
      "make each pair of trailing dims equal, or one of them 1",
    );
  return s;
}

/** Elementwise over two small tensors' elements, broadcast. */
function elementwise(y: Fact, a: Fact | undefined, b: Fact | undefined, f: (x: Dim, y: Dim) => Dim): readonly Dim[] | undefined {
  if (a === undefined || b === undefined || (a.elements === undefined && a.constant === undefined)) return undefined;
  if (b.elements === undefined && b.constant === undefined) return undefined;
  return pointwise(shapeOf(y), (p, q) => f(p ?? "?", q ?? "?"), small(a), small(b));
}

const AWKWARD: readonly (readonly [string, readonly number[], readonly number[]])[] = [
  ["same", [2, 3], [2, 3]],
  ["broadcast", [2, 1, 4], [3, 1]],
  ["scalar", [5], []],
  ["empty", [0, 3], [3]],
];
function* twoSamples(dtype: DType, more: readonly DType[] = []): Iterable<Sample> {
  for (const [name, a, b] of AWKWARD) yield { name, in: { a: random(dtype, ...a), b: random(dtype, ...b) } };
  for (const d of more) yield { name: d, in: { a: random(d, 3), b: random(d, 3) } };
}

const arithmetic = <const N extends string>(
  name: N,
  doc: string,
  types: readonly DType[],
  since: number,
  exact?: { readonly integer: (x: Dim, y: Dim) => Dim; readonly float: (x: Dim, y: Dim) => Dim },
  samples?: () => Iterable<Sample>,
) =>
  defineOp({
    name,
    doc,
    reads: { onnx: since >= 7 ? [{ since }] : ([{ since: 1, adapt: legacyBroadcast }, { since: 7 }] as readonly OnnxReading[]) },
    in: { a: tensor("T"), b: tensor("T") },
    out: { y: tensor("T") },
    types: { T: types },
    attrs: {},
    role: "compute",
    infer: (at) => {
      const f = fact(dtypeOf(at.in.a), shapeOfTwo(at));
      const rule = isIntegral(dtypeOf(at.in.a)) ? exact?.integer : exact?.float;
      return [rule === undefined ? f : known(f, elementwise(f, at.in.a, at.in.b, rule))];
    },
    cost: perOutput(1),
    int8: noInt8,
    on: gpu(),
    samples:
      samples ??
      (() => twoSamples(types.includes("float32") ? "float32" : (types[0] ?? "float32"), types.includes("int64") ? ["int64"] : [])),
  });

export const add = arithmetic("Add", "a + b, elementwise.", NUMBERS, 1, {
  integer: exactly((x, y) => x + y, dims.add),
  float: exactly((x, y) => x + y),
});
export const sub = arithmetic("Sub", "a - b, elementwise.", NUMBERS, 1, {
  integer: exactly((x, y) => x - y, dims.sub),
  float: exactly((x, y) => x - y),
});
export const mul = arithmetic("Mul", "a * b, elementwise.", NUMBERS, 1, {
  integer: exactly((x, y) => x * y, dims.mul),
  float: exactly((x, y) => x * y),
});
/** Integer Div truncates. */
const truncated = exactly((x, y) => (y === 0 ? Number.NaN : Math.trunc(x / y)), dims.truncDiv);
const quotient = { integer: truncated, float: exactly((x, y) => x / y) };
export const div = arithmetic("Div", "a / b, elementwise; integers truncate towards zero.", NUMBERS, 1, quotient, function* () {
  for (const [name, a, b] of AWKWARD) yield { name, in: { a: random("float32", ...a), b: random("float32", ...b) }, tolerance: 1e-5 };
  yield { name: "int64", in: { a: random("int64", 4), b: given("int64", [4], [3, -2, 5, 7]) } };
});
/** ONNX Runtime cuts the fraction off the power of an integer; CUDA's kernels round, which is the same where there is none. */
const wholePowers = when("integers to the power of integers, or of whole numbers that are constants", (at) => {
  const [a, b] = [at.in["a"] as Fact | undefined, at.in["b"] as Fact | undefined];
  if (!isIntegral(dtypeOf(a)) || isIntegral(dtypeOf(b)) || smallNumbers(b?.constant)?.every(Number.isInteger) === true) return yes;
  return no("integers to the power of numbers that may have fractions have no kernel", "cast the base to float32, and the result back");
});
export const pow = defineOp({
  name: "Pow",
  doc: "a to the power of b, elementwise; the result has a's type.",
  reads: { onnx: [{ since: 1, adapt: legacyBroadcast }, { since: 7 }] },
  in: { a: tensor("T"), b: tensor("T1") },
  out: { y: tensor("T") },
  types: { T: NUMBERS, T1: NUMBERS },
  attrs: {},
  role: "compute",
  infer: (at) => [fact(dtypeOf(at.in.a), shapeOfTwo(at))],
  cost: perOutput(8),
  int8: noInt8,
  on: on(wholePowers, undefined),
  *samples() {
    yield { name: "square", in: { a: random("float32", 2, 3), b: given("float32", [], [2]) } };
    yield { name: "broadcast", in: { a: given("float32", [2, 1], [1.5, 2]), b: random("float32", 3) } };
    yield { name: "mixed", in: { a: random("int32", 4), b: given("float32", [], [2]) } };
  },
});
export const mod = defineOp({
  name: "Mod",
  doc: "Remainder of a / b; the sign follows b, or a with fmod.",
  reads: { onnx: [{ since: 10 }] },
  in: { a: tensor("T"), b: tensor("T") },
  out: { y: tensor("T") },
  types: { T: NUMBERS },
  attrs: { fmod: flag(false) },
  role: "compute",
  infer: (at) => {
    const f = fact(dtypeOf(at.in.a), shapeOfTwo(at));
    if (at.attrs.fmod || !isIntegral(dtypeOf(at.in.a))) return [f];
    const rule = exactly((x, y) => (y === 0 ? Number.NaN : x - y * Math.floor(x / y)), dims.mod);
    return [known(f, elementwise(f, at.in.a, at.in.b, rule))];
  },
  cost: perOutput(4),
  int8: noInt8,
  on: gpu(),
  *samples() {
    yield { name: "signs", in: { a: given("int64", [4], [7, -7, 7, -7]), b: given("int64", [4], [3, 3, -3, -3]) } };
    yield {
      name: "fmod",
      in: { a: random("float32", 2, 3), b: given("float32", [3], [1.5, -0.7, 2]) },
      attrs: { fmod: { kind: "int", value: 1 } },
    };
  },
});
export const prelu = defineOp({
  name: "PRelu",
  doc: "x where positive, slope * x elsewhere; slope broadcasts to x.",
  reads: { onnx: [{ since: 1, adapt: legacySlope }, { since: 7 }] },
  in: { x: tensor("T"), slope: tensor("T") },
  out: { y: tensor("T") },
  types: { T: NUMBERS },
  attrs: {},
  role: "compute",
  infer: (at) => [fact(dtypeOf(at.in.x), shapeOf(at.in.x))],
  cost: perOutput(2),
  int8: noInt8,
  on: gpu(),
  *samples() {
    yield { name: "channel", in: { x: random("float32", 2, 3, 2), slope: random("float32", 3, 1) } };
    yield { name: "scalar", in: { x: random("float32", 5), slope: random("float32", 1) } };
  },
});
/** Up to opset 6 a 1-D slope meant channels, whatever the rank. */
function legacySlope(n: RawNode, to: Rewriter): void {
  const [x, slope] = [to.typeOf(n.ins[0]), to.typeOf(n.ins[1])];
  const rank = x.kind === "tensor" ? x.shape?.length : undefined;
  const one = slope.kind === "tensor" && slope.shape?.length === 1 && slope.shape[0] !== 1;
  if (rank === undefined || rank <= 2 || !one) {
    to.emit("PRelu", n.ins, {}, n.outs);
    return;
  }
  const [wide] = to.emit("Unsqueeze", [n.ins[1], to.int64(Array.from({ length: rank - 2 }, (_, i) => i + 1))]);
  to.emit("PRelu", [n.ins[0], wide], {}, n.outs);
}

// ---- comparison, logic, bits --------------------------------------------------------------------------------------------------------------

const comparison = <const N extends string>(
  name: N,
  doc: string,
  types: readonly DType[],
  since: number,
  exact?: (x: Dim, y: Dim) => boolean | undefined,
) =>
  defineOp({
    name,
    doc,
    reads: { onnx: since >= 7 ? [{ since }] : ([{ since: 1, adapt: legacyBroadcast }, { since: 7 }] as readonly OnnxReading[]) },
    in: { a: tensor("T"), b: tensor("T") },
    out: { y: tensor("bool") },
    types: { T: types },
    attrs: {},
    role: "compute",
    infer: (at) => {
      const f = fact("bool", shapeOfTwo(at));
      if (exact === undefined) return [f];
      const rule = (x: Dim, y: Dim): Dim => {
        const holds = exact(x, y);
        return holds === undefined ? "?" : holds ? 1 : 0;
      };
      return [known(f, elementwise(f, at.in.a, at.in.b, rule))];
    },
    cost: perOutput(1),
    int8: noInt8,
    on: gpu(),
    samples: () => twoSamples(types.includes("float32") ? "float32" : "bool", types.includes("int64") ? ["int64"] : []),
  });
/** A comparison of two known numbers. */
const ordered =
  (f: (x: number, y: number) => boolean) =>
  (x: Dim, y: Dim): boolean | undefined =>
    typeof x === "number" && typeof y === "number" ? f(x, y) : undefined;
/** Three-valued logic: one operand may decide by itself. */
const conjunction = (x: Dim, y: Dim): boolean | undefined => (x === 0 || y === 0 ? false : x === 1 && y === 1 ? true : undefined);
const disjunction = (x: Dim, y: Dim): boolean | undefined => (x === 1 || y === 1 ? true : x === 0 && y === 0 ? false : undefined);
export const equal = comparison("Equal", "a = b, elementwise.", [...NUMBERS, "bool", "string"], 1, dims.sameDim);
export const greater = comparison(
  "Greater",
  "a > b, elementwise.",
  NUMBERS,
  1,
  ordered((x, y) => x > y),
);
export const greaterOrEqual = comparison(
  "GreaterOrEqual",
  "a >= b, elementwise.",
  NUMBERS,
  12,
  ordered((x, y) => x >= y),
);
export const less = comparison(
  "Less",
  "a < b, elementwise.",
  NUMBERS,
  1,
  ordered((x, y) => x < y),
);
export const lessOrEqual = comparison(
  "LessOrEqual",
  "a <= b, elementwise.",
  NUMBERS,
  12,
  ordered((x, y) => x <= y),
);
export const and = comparison("And", "Logical and, elementwise.", ["bool"], 1, conjunction);
export const or = comparison("Or", "Logical or, elementwise.", ["bool"], 1, disjunction);
export const xor = comparison(
  "Xor",
  "Logical exclusive or, elementwise.",
  ["bool"],
  1,
  ordered((x, y) => x !== y),
);

const onBits = on(undefined, absent("TensorRT has no layers for bits"));
const bits = <const N extends string>(name: N, doc: string) =>
  defineOp({ ...arithmetic(name, doc, [...SIGNED, ...UNSIGNED], 18, undefined, () => twoSamples("int32")), on: onBits });
export const bitwiseAnd = bits("BitwiseAnd", "Bitwise and, elementwise.");
export const bitwiseOr = bits("BitwiseOr", "Bitwise or, elementwise.");
export const bitwiseXor = bits("BitwiseXor", "Bitwise exclusive or, elementwise.");
export const bitShift = defineOp({
  name: "BitShift",
  doc: "a shifted by b bits, elementwise, on integers.",
  reads: { onnx: [{ since: 11 }] },
  in: { a: tensor("T"), b: tensor("T") },
  out: { y: tensor("T") },
  types: { T: [...SIGNED, ...UNSIGNED] },
  attrs: { direction: word(undefined, "LEFT", "RIGHT") },
  role: "compute",
  infer: (at) => [fact(dtypeOf(at.in.a), shapeOfTwo(at))],
  cost: perOutput(1),
  int8: noInt8,
  on: onBits,
  *samples() {
    yield {
      name: "left",
      in: { a: given("uint8", [3], [1, 2, 255]), b: given("uint8", [3], [1, 2, 3]) },
      attrs: { direction: { kind: "string", value: "LEFT" } },
    };
  },
});

// ---- one operand ------------------------------------------------------------------------------------------------------------------------------

const F = FLOATS64;
export const abs = unary("Abs", "Absolute value.", NUMBERS, 1, 1, { exact: ofNumber(Math.abs) });
export const neg = unary("Neg", "-x.", [...F, ...SIGNED], 1, 1, { exact: (x) => (typeof x === "number" ? -x : dims.mul(-1, x)) });
export const sign = unary("Sign", "-1, 0 or 1.", NUMBERS, 9, 1, { exact: ofNumber(Math.sign) });
export const ceil = unary("Ceil", "Rounds up.", F, 1, 1, { exact: ofNumber(Math.ceil) });
export const floor = unary("Floor", "Rounds down.", F, 1, 1, { exact: ofNumber(Math.floor) });
/** Half to even, the sign kept on zero. */
const rounded = (x: number): number => Math.abs(roundHalfEven(x)) * (x < 0 || Object.is(x, -0) ? -1 : 1);
export const round = unary("Round", "Rounds to nearest, ties to even.", F, 11, 1, { exact: ofNumber(rounded) });
export const sqrt = unary("Sqrt", "Square root.", F, 1, 4, { positive: true, exact: ofNumber(Math.sqrt) });
export const reciprocal = unary("Reciprocal", "1 / x.", F, 1, 4, { positive: true, exact: ofNumber((x) => 1 / x) });
export const exp = unary("Exp", "e to the x.", F, 1, 8);
export const log = unary("Log", "Natural logarithm.", F, 1, 8, { positive: true });
export const erf = unary("Erf", "Gauss error function.", F, 9, 16);
export const sin = unary("Sin", "Sine.", F, 7, 8);
export const cos = unary("Cos", "Cosine.", F, 7, 8);
export const tan = unary("Tan", "Tangent.", F, 7, 8);
export const asin = unary("Asin", "Inverse sine.", F, 7, 8, { positive: true });
export const acos = unary("Acos", "Inverse cosine.", F, 7, 8, { positive: true });
export const atan = unary("Atan", "Inverse tangent.", F, 7, 8);
export const sinh = unary("Sinh", "Hyperbolic sine.", F, 9, 8);
export const cosh = unary("Cosh", "Hyperbolic cosine.", F, 9, 8);
export const asinh = unary("Asinh", "Inverse hyperbolic sine.", F, 9, 8);
export const acosh = defineOp({
  ...unary("Acosh", "Inverse hyperbolic cosine.", F, 9, 8),
  *samples() {
    yield { name: "above one", in: { x: given("float32", [3], [1, 1.5, 9]) } };
  },
});
export const atanh = unary("Atanh", "Inverse hyperbolic tangent.", F, 9, 8, { positive: true });
export const not = unary("Not", "Logical not.", ["bool"], 1, 1, { exact: ofNumber((x) => 1 - x) });
export const bitwiseNot = defineOp({
  ...unary("BitwiseNot", "Bitwise not.", [...SIGNED, ...UNSIGNED], 18, 1, { dtype: "int32" }),
  on: onBits,
});
export const isNan = unary("IsNaN", "Whether x is NaN.", F, 9, 1, { out: "bool" });
export const isInf = defineOp({
  name: "IsInf",
  doc: "Whether x is infinite, of the signs asked for.",
  reads: { onnx: [{ since: 10 }] },
  in: { x: tensor("T") },
  out: { y: tensor("bool") },
  types: { T: FLOATS64 },
  attrs: { detect_negative: flag(true), detect_positive: flag(true) },
  role: "compute",
  infer: (at) => [fact("bool", shapeOf(at.in.x))],
  cost: perOutput(1),
  int8: noInt8,
  on: gpu(),
  *samples() {
    const x = given("float32", [4], [1, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN]);
    yield { name: "both", in: { x } };
    yield { name: "positive", in: { x }, attrs: { detect_negative: { kind: "int", value: 0 } } };
  },
});

// ---- several operands ---------------------------------------------------------------------------------------------------------------------------

const many = <const N extends string>(
  name: N,
  doc: string,
  types: readonly DType[],
  exact?: { readonly integer: (x: Dim, y: Dim) => Dim; readonly float: (x: Dim, y: Dim) => Dim },
) =>
  defineOp({
    name,
    doc,
    reads: { onnx: [{ since: 1, adapt: bare }, { since: 6 }] },
    in: { xs: variadic("T") },
    out: { y: tensor("T") },
    types: { T: types },
    attrs: {},
    role: "compute",
    infer: (at) => {
      const s = broadcast(...at.in.xs.map((x) => shapeOf(x)));
      if (s === null) return at.fail("its operands do not broadcast", "make each pair of trailing dims equal, or one of them 1");
      const [first] = at.in.xs;
      const f = fact(dtypeOf(first), s);
      const rule = isIntegral(dtypeOf(first)) ? exact?.integer : exact?.float;
      if (rule === undefined || at.in.xs.some((x) => x?.elements === undefined && x?.constant === undefined)) return [f];
      return [
        known(
          f,
          pointwise(s, (...e) => e.reduce((x, y) => rule(x, y)), ...at.in.xs.map(small)),
        ),
      ];
    },
    cost: (at) => perOutput(Math.max(1, at.in.xs.length - 1))(at),
    int8: noInt8,
    on: gpu(),
    *samples() {
      yield { name: "three", in: { xs: [random("float32", 2, 3), random("float32", 3), random("float32", 2, 1)] } };
      yield { name: "one", in: { xs: [random("float32", 2)] } };
    },
  });
export const max = many("Max", "Largest of its operands, elementwise.", NUMBERS, {
  integer: exactly(Math.max, dims.max),
  float: exactly(Math.max),
});
export const min = many("Min", "Smallest of its operands, elementwise.", NUMBERS, {
  integer: exactly(Math.min, dims.min),
  float: exactly(Math.min),
});
export const sum = many("Sum", "Sum of its operands, elementwise.", FLOATS64);
export const mean = many("Mean", "Mean of its operands, elementwise.", FLOATS64);

export const where = defineOp({
  name: "Where",
  doc: "a where the condition holds, b elsewhere, elementwise.",
  reads: { onnx: [{ since: 9 }] },
  in: { condition: tensor("bool"), a: tensor("T"), b: tensor("T") },
  out: { y: tensor("T") },
  types: { T: ANY },
  attrs: {},
  role: "compute",
  infer: (at) => {
    const s = broadcast(shapeOf(at.in.condition), shapeOf(at.in.a), shapeOf(at.in.b));
    if (s === null) return at.fail("its operands do not broadcast", "make each pair of trailing dims equal, or one of them 1");
    const f = fact(dtypeOf(at.in.a), s);
    if (at.in.condition.elements === undefined && at.in.condition.constant === undefined) return [f];
    const pick = (c: Dim | undefined, x: Dim = "?", y: Dim = "?"): Dim =>
      c === 1 ? x : c === 0 ? y : dims.sameDim(x, y) === true ? x : "?";
    // One branch may do: where the condition holds throughout, the other's elements do not matter.
    return [known(f, pointwise(s, pick, small(at.in.condition), partly(at.in.a), partly(at.in.b)))];
  },
  cost: perOutput(1),
  int8: noInt8,
  on: gpu(),
  *samples() {
    yield {
      name: "broadcast",
      in: { condition: given("bool", [2, 1], [true, false]), a: random("float32", 3), b: random("float32", 2, 3) },
    };
    yield { name: "int64", in: { condition: given("bool", [2], [true, false]), a: random("int64", 2), b: random("int64", 1) } };
  },
});

const limit = (n: RawNode, key: string): number | undefined => {
  const a = n.attrs[key];
  return a?.kind === "float" ? a.value : undefined;
};
export const clip = defineOp({
  name: "Clip",
  doc: "x limited to [min, max]; a limit that is absent does not bind.",
  reads: {
    onnx: [
      {
        since: 1,
        adapt: (n, to) => {
          const [lo, hi] = [limit(n, "min"), limit(n, "max")];
          const t = to.typeOf(n.ins[0]);
          const dtype = t.kind === "tensor" && (t.dtype === "float64" || t.dtype === "float16") ? t.dtype : "float32";
          const scalar = (x: number | undefined) => (x === undefined ? undefined : to.constant(scalarConstant(dtype, x)));
          const [min_, max_] = [scalar(lo), scalar(hi)];
          to.emit("Clip", max_ === undefined ? [n.ins[0], min_] : [n.ins[0], min_, max_], {}, n.outs);
        },
      },
      { since: 11 },
    ],
  },
  in: { x: tensor("T"), min: optional("T"), max: optional("T") },
  out: { y: tensor("T") },
  types: { T: NUMBERS },
  attrs: {},
  role: "compute",
  infer: (at) => {
    const { x, min: lo, max: hi } = at.in;
    const f = fact(dtypeOf(x), shapeOf(x));
    const [up, down] = isIntegral(dtypeOf(x)) ? [dims.max, dims.min] : [];
    const above = lo === undefined ? small(x)?.e : elementwise(f, x, lo, exactly(Math.max, up));
    const both = above === undefined || hi === undefined ? above : elementwise(f, known(f, above), hi, exactly(Math.min, down));
    return [known(f, both)];
  },
  cost: perOutput(2),
  int8: noInt8,
  on: gpu(),
  *samples() {
    yield { name: "both", in: { x: random("float32", 3, 2), min: given("float32", [], [-0.5]), max: given("float32", [], [0.5]) } };
    yield { name: "max alone", in: { x: random("float32", 4), max: given("float32", [], [0]) } };
    yield { name: "int8", in: { x: random("int8", 4), min: given("int8", [], [-2]) } };
  },
});

const scalarConstant = (dtype: "float32" | "float64" | "float16", x: number) => makeConstant(dtype, [], [x]);

// ---- casts --------------------------------------------------------------------------------------------------------------------------------------------

const wordToNumber: Readonly<Record<string, number>> = {
  FLOAT: 1,
  UINT8: 2,
  INT8: 3,
  UINT16: 4,
  INT16: 5,
  INT32: 6,
  INT64: 7,
  STRING: 8,
  BOOL: 9,
  FLOAT16: 10,
  DOUBLE: 11,
  UINT32: 12,
  UINT64: 13,
  COMPLEX64: 14,
  COMPLEX128: 15,
};
/** A number under a conversion; symbols are integers, and stay. */
const converted =
  (from: DType | undefined, to: DType | undefined) =>
  (x: Dim): Dim => {
    if (typeof x !== "number") return x;
    if (to === "bool") return x === 0 ? 0 : 1;
    const rounded = from !== undefined && isFloat(from) && to !== undefined && isInteger(to) ? Math.trunc(x) : x;
    return Object.is(rounded, -0) ? 0 : rounded;
  };
const castFact = (x: Fact, to: DType | undefined): Fact => {
  const y = fact(to, shapeOf(x));
  return known(y, small(x)?.e.map(converted(dtypeOf(x), to)));
};
export const cast = defineOp({
  name: "Cast",
  doc: "Converts the element type; float to integer truncates, to float8 saturates unless told otherwise.",
  reads: {
    onnx: [
      {
        since: 1,
        adapt: (n, to) => {
          const a = n.attrs["to"];
          const target = a?.kind === "string" && typeof a.value === "string" ? wordToNumber[a.value.toUpperCase()] : undefined;
          to.emit("Cast", n.ins, target === undefined ? { ...n.attrs } : { to: { kind: "int", value: target } }, n.outs);
        },
      },
      { since: 6 },
    ],
  },
  in: { x: tensor() },
  out: { y: tensor() },
  attrs: { to: int(), saturate: flag(true), round_mode: optString() },
  role: "compute",
  infer: (at) => {
    const to = dtypeFromOnnx(at.attrs.to);
    if (to === undefined) return at.fail(`element type ${at.attrs.to} is unknown`, "use a TensorProto.DataType number");
    return [castFact(at.in.x, to)];
  },
  cost: perOutput(1),
  int8: noInt8,
  on: gpu(),
  *samples() {
    const to = (n: number) => ({ to: { kind: "int" as const, value: n } });
    yield { name: "float to int64", in: { x: given("float32", [4], [1.7, -1.7, 0, 3]) }, attrs: to(7) };
    yield { name: "int32 to float", in: { x: random("int32", 2, 2) }, attrs: to(1) };
    yield { name: "float to half", in: { x: random("float32", 3) }, attrs: to(10) };
    yield { name: "float to bool", in: { x: given("float32", [3], [0, 1, -2]) }, attrs: to(9) };
  },
});
export const castLike = defineOp({
  name: "CastLike",
  doc: "Converts to the second operand's element type.",
  reads: { onnx: [{ since: 15 }] },
  in: { x: tensor(), like: tensor() },
  out: { y: tensor() },
  attrs: { saturate: flag(true), round_mode: optString() },
  role: "compute",
  infer: (at) => [castFact(at.in.x, dtypeOf(at.in.like))],
  cost: perOutput(1),
  int8: noInt8,
  on: gpu(),
  *samples() {
    yield { name: "to int32", in: { x: random("float32", 3), like: random("int32", 1) } };
  },
});
export const bitCast = defineOp({
  name: "BitCast",
  doc: "Reads the same bits as another element type of the same size.",
  reads: { onnx: [{ since: 26 }] },
  in: { x: tensor() },
  out: { y: tensor() },
  attrs: { to: int() },
  role: "compute",
  infer: (at) => [fact(dtypeFromOnnx(at.attrs.to), shapeOf(at.in.x))],
  cost: perOutput(0),
  int8: noInt8,
  on: hostOnly("a reinterpretation of bits is not emitted", "use Cast where the value is meant"),
  *samples() {
    yield { name: "float bits", in: { x: random("float32", 3) }, attrs: { to: { kind: "int", value: 6 } } };
  },
});
