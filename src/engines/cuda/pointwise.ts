/**
 * Elementwise operators as C expressions over registers. Values follow ONNX Runtime's: NaN passes through Relu, Clip, Max and Min; integers
 * divide towards zero; Round goes to even.
 */
import type { DType } from "../../ir/types.js";
import type { Scope } from "./scope.js";
import { type Register, storage } from "./storage.js";

export interface Operands {
  readonly scope: Scope;
  /** Registers, in the node's order of inputs. */
  readonly args: readonly string[];
  readonly dtypes: readonly DType[];
  readonly out: DType;
  /** Results keep 11 bits at most: functions within 2^-20 do. */
  readonly coarse: boolean;
  // biome-ignore lint/suspicious/noExplicitAny: each operator's own attributes, typed by its definition.
  readonly attrs: any;
}
export type Pointwise = (x: Operands) => string;

export const literal = (value: number | bigint, register: Register): string => {
  if (register === "float") {
    const x = Number(value);
    if (Number.isNaN(x)) return "__int_as_float(0x7fffffff)";
    if (!Number.isFinite(x)) return `__int_as_float(${x > 0 ? "0x7f800000" : "0xff800000"})`;
    const f = Math.fround(x);
    if (Object.is(f, -0)) return "-0.0f";
    const t = shortest(f);
    return `${/[.e]/.test(t) ? t : `${t}.0`}f`;
  }
  if (register === "int") return Number(value) === -2147483648 ? "(-2147483647 - 1)" : String(value);
  return BigInt(value) === -(2n ** 63n) ? "(-9223372036854775807ll - 1)" : `${value}ll`;
};
/** Fewest digits that round to the same single-precision number. */
function shortest(f: number): string {
  for (let digits = 1; digits <= 9; digits++) {
    const t = f.toPrecision(digits);
    if (Math.fround(Number(t)) === f) return String(Number(t)).length <= t.length ? String(Number(t)) : t;
  }
  return String(f);
}

const isFloat = (d: DType | undefined): boolean => d !== undefined && storage(d).register === "float";
/** By register type: float text, or integer text. */
const either =
  (float: (x: string) => string, integer: (x: string) => string): Pointwise =>
  ({ args: [x = ""], dtypes: [d] }) =>
    isFloat(d) ? float(x) : integer(x);
const call =
  (name: string): Pointwise =>
  ({ args: [x] }) =>
    `${name}(${x})`;
const of =
  (f: (x: string) => string): Pointwise =>
  ({ args: [x = ""] }) =>
    f(x);
const infix =
  (operator: string): Pointwise =>
  ({ args: [a, b] }) =>
    `(${a} ${operator} ${b})`;
/** Left fold over all operands, each step in a register. */
const fold =
  (f: (a: string, b: string, float: boolean) => string): Pointwise =>
  ({ scope, args, out }) => {
    const register = storage(out).register;
    return args.reduce((a, b) => scope.let(register, f(a, b, register === "float")));
  };
/** NaN wins on either side. */
const extreme =
  (operator: ">" | "<") =>
  (a: string, b: string, float: boolean): string =>
    float ? `(${a} ${operator} ${b} || ${a} != ${a} ? ${a} : ${b})` : `(${a} ${operator} ${b} ? ${a} : ${b})`;

/** Converts between register types as Cast does. */
export function cast(x: string, from: DType, to: DType): string {
  const [a, b] = [storage(from).register, storage(to).register];
  switch (to) {
    case "bool":
      return `(${x} != 0 ? 1 : 0)`;
    case "float16":
      return from === "float16" ? x : `half_to_float(float_to_half((float)${x}))`;
    case "bfloat16":
      return from === "bfloat16" ? x : `bf16_to_float(float_to_bf16((float)${x}))`;
    case "int8":
      return from === "int8" || from === "bool" ? x : `(int)(signed char)${a === "float" ? `(int)${x}` : x}`;
    case "uint8":
      return from === "uint8" || from === "bool" ? x : `(int)(unsigned char)${a === "float" ? `(int)${x}` : x}`;
    default:
      return a === b ? x : `(${b})${x}`;
  }
}

const number = (x: number): string => literal(x, "float");

export const pointwise: Readonly<Record<string, Pointwise>> = {
  Identity: of((x) => x),
  Dropout: of((x) => x),
  Abs: either(
    (x) => `fabsf(${x})`,
    (x) => `(${x} < 0 ? -${x} : ${x})`,
  ),
  Neg: of((x) => `(-${x})`),
  Sign: either(
    (x) => `(${x} > 0.0f ? 1.0f : ${x} < 0.0f ? -1.0f : ${x} == 0.0f ? 0.0f : ${x})`,
    (x) => `((${x} > 0) - (${x} < 0))`,
  ),
  Ceil: call("ceilf"),
  Floor: call("floorf"),
  Round: call("rintf"),
  Sqrt: call("sqrtf"),
  Reciprocal: of((x) => `(1.0f / ${x})`),
  Exp: call("expf"),
  Log: call("logf"),
  Erf: call("erff"),
  Sin: call("sinf"),
  Cos: call("cosf"),
  Tan: call("tanf"),
  Asin: call("asinf"),
  Acos: call("acosf"),
  Atan: call("atanf"),
  Sinh: call("sinhf"),
  Cosh: call("coshf"),
  Asinh: call("asinhf"),
  Acosh: call("acoshf"),
  Atanh: call("atanhf"),
  Not: of((x) => `(!${x})`),
  BitwiseNot: of((x) => `(~${x})`),
  IsNaN: of((x) => `(${x} != ${x} ? 1 : 0)`),
  IsInf: ({ args: [x], attrs }) => {
    const [up, down] = [`${x} == __int_as_float(0x7f800000)`, `${x} == __int_as_float(0xff800000)`];
    if (attrs.detect_positive && attrs.detect_negative) return `(${up} || ${down} ? 1 : 0)`;
    return attrs.detect_positive ? `(${up} ? 1 : 0)` : attrs.detect_negative ? `(${down} ? 1 : 0)` : "0";
  },
  Relu: ({ scope, args: [x = ""], out }) =>
    !isFloat(out) ? `(${x} < 0 ? 0 : ${x})` : scope.numbers.has(x) ? `fmaxf(${x}, 0.0f)` : `relu(${x})`,
  Sigmoid: ({ args: [x], coarse }) => (coarse ? `coarse_sigmoid(${x})` : `(1.0f / (1.0f + expf(-${x})))`),
  Tanh: ({ args: [x], coarse }) => `${coarse ? "coarse_tanh" : "tanhf"}(${x})`,
  Softplus: of((x) => `(${x} > 0.0f ? ${x} + log1pf(expf(-${x})) : log1pf(expf(${x})))`),
  Softsign: of((x) => `(${x} / (1.0f + fabsf(${x})))`),
  HardSwish: of((x) => `(${x} * fmaxf(0.0f, fminf(1.0f, ${x} * ${number(1 / 6)} + 0.5f)))`),
  Mish: ({ scope, args: [x], coarse }) => {
    if (!coarse) return `(${x} * tanhf(${x} > 0.0f ? ${x} + log1pf(expf(-${x})) : log1pf(expf(${x}))))`;
    // tanh(log(1 + e)) = (e^2 + 2 e) / (e^2 + 2 e + 2), which is 1 from e = e^20 on.
    const e = scope.let("float", `power_of_two(fminf(${x}, 20.0f) * 1.44269504f)`);
    const n = scope.let("float", `${e} * (${e} + 2.0f)`);
    return `(${x} * (${n} * reciprocal(${n} + 2.0f)))`;
  },
  LeakyRelu: ({ args: [x], attrs }) => `(${x} < 0.0f ? ${number(attrs.alpha)} * ${x} : ${x})`,
  Elu: ({ args: [x], attrs }) => `(${x} < 0.0f ? ${number(attrs.alpha)} * expm1f(${x}) : ${x})`,
  Celu: ({ args: [x], attrs }) => `(${x} > 0.0f ? ${x} : ${number(attrs.alpha)} * expm1f(${x} / ${number(attrs.alpha)}))`,
  Selu: ({ args: [x], attrs }) => `(${number(attrs.gamma)} * (${x} > 0.0f ? ${x} : ${number(attrs.alpha)} * expm1f(${x})))`,
  HardSigmoid: ({ scope, args: [x], attrs }) => {
    const t = scope.let("float", `${number(attrs.alpha)} * ${x} + ${number(attrs.beta)}`);
    return `(${t} < 0.0f ? 0.0f : ${t} > 1.0f ? 1.0f : ${t})`;
  },
  ThresholdedRelu: ({ args: [x], attrs }) => `(${x} > ${number(attrs.alpha)} ? ${x} : 0.0f)`,
  Shrink: ({ args: [x], attrs }) =>
    `(${x} < ${number(-attrs.lambd)} ? ${x} + ${number(attrs.bias)} : ${x} > ${number(attrs.lambd)} ? ${x} - ${number(attrs.bias)} : 0.0f)`,
  Gelu: ({ scope, args: [x], attrs, coarse }) => {
    if (attrs.approximate !== "tanh") return `gelu(${x})`;
    if (!coarse) return `(0.5f * ${x} * (1.0f + tanhf(0.7978845608f * (${x} + 0.044715f * ${x} * ${x} * ${x}))))`;
    // (1 + tanh(u)) / 2 is the sigmoid of 2 u.
    return `(${x} * coarse_sigmoid(${scope.let("float", `${x} * fmaf(${x} * ${x}, ${number(2 * 0.7978845608 * 0.044715)}, ${number(2 * 0.7978845608)})`)}))`;
  },
  Swish: ({ args: [x], attrs, coarse }) =>
    coarse ? `(${x} * coarse_sigmoid(${number(attrs.alpha)} * ${x}))` : `(${x} / (1.0f + expf(${number(-attrs.alpha)} * ${x})))`,
  PRelu: ({ args: [x, slope] }) => `(${x} < 0 ? ${slope} * ${x} : ${x})`,
  Add: infix("+"),
  Sub: infix("-"),
  Mul: infix("*"),
  Div: ({ args: [a, b], out }) => (isFloat(out) ? `(${a} / ${b})` : `(${b} == 0 ? 0 : ${a} / ${b})`),
  Pow: ({ args: [a = "", b = ""], dtypes: [, e], out }) => {
    if (!isFloat(out)) return `(${storage(out).register})llrint(pow((double)${a}, (double)${b}))`;
    const power = Number(b.replace(/f$|ll$/, ""));
    if (power === 2) return `(${a} * ${a})`;
    if (power === 3) return `(${a} * ${a} * ${a})`;
    if (power === 1) return a;
    if (power === -1) return `(1.0f / ${a})`;
    if (power === 0.5) return `sqrtf(${a})`;
    return `powf(${a}, ${isFloat(e) ? b : `(float)${b}`})`;
  },
  Mod: ({ scope, args: [a, b], out, attrs }) => {
    if (isFloat(out)) {
      const r = scope.let("float", `fmodf(${a}, ${b})`);
      return attrs.fmod ? r : `(${r} != 0.0f && (${r} < 0.0f) != (${b} < 0.0f) ? ${r} + ${b} : ${r})`;
    }
    const r = scope.let(storage(out).register, `(${b} == 0 ? 0 : ${a} % ${b})`);
    return attrs.fmod ? r : `(${r} != 0 && (${r} < 0) != (${b} < 0) ? ${r} + ${b} : ${r})`;
  },
  Equal: infix("=="),
  Greater: infix(">"),
  GreaterOrEqual: infix(">="),
  Less: infix("<"),
  LessOrEqual: infix("<="),
  And: infix("&&"),
  Or: infix("||"),
  Xor: ({ args: [a, b] }) => `((${a} != 0) != (${b} != 0))`,
  BitwiseAnd: infix("&"),
  BitwiseOr: infix("|"),
  BitwiseXor: infix("^"),
  BitShift: ({ args: [a, b], attrs }) => `(${a} ${attrs.direction === "LEFT" ? "<<" : ">>"} ${b})`,
  Where: ({ args: [c, a, b] }) => `(${c} ? ${a} : ${b})`,
  Max: fold(extreme(">")),
  Min: fold(extreme("<")),
  Sum: fold((a, b) => `(${a} + ${b})`),
  Mean: (x) => `(${fold((a, b) => `(${a} + ${b})`)(x)} / ${number(x.args.length)})`,
  Cast: ({ args: [x = ""], dtypes: [from], out }) => cast(x, from ?? out, out),
  CastLike: ({ args: [x = ""], dtypes: [from], out }) => cast(x, from ?? out, out),
};
