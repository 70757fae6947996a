/**
 * Operators that need no kernel of their own: an element of the result is an expression over elements of the operands. Views change only the
 * index, so chains of them disappear into the loads of whatever reads them.
 */
import type { Constant } from "../../ir/types.js";
import { indexedRules } from "./indexed.js";
import {
  add,
  constantIndex,
  delinear,
  divide,
  type Index,
  linear,
  modulo,
  product,
  range,
  rowMajor,
  scale,
  subtract,
  variable,
  ZERO,
} from "./indexing.js";
import { literal, pointwise } from "./pointwise.js";
import { unreduced } from "./reduce.js";
import { resize } from "./resize.js";
import type { Element, Scope } from "./scope.js";
import {
  allOf,
  axis,
  broadcastIndex,
  numbers,
  type Operand,
  operand,
  output,
  Refused,
  readWithin,
  type Site,
  type Tensor,
  within,
} from "./site.js";
import { storage } from "./storage.js";
import { largest, scalarOf } from "./weights.js";

export interface Inline {
  /** One per output. */
  readonly elements: readonly Element[];
  /** Only renames or moves: recomputing it costs nothing. */
  readonly view: boolean;
}
type Rule = (s: Site) => Inline;

const one = (element: Element, view = false): Inline => ({ elements: [element], view });
/** A view of the first operand: the operand's index for an index of the result. */
const viewed =
  (map: (s: Site, x: Operand, y: Tensor) => (index: readonly Index[], scope: Scope) => readonly Index[]): Rule =>
  (s) => {
    const x = operand(s, 0);
    const to = map(s, x, output(s));
    return one((scope, index) => x.at(scope, to(index, scope)), true);
  };

/** Same elements in row-major order, other dims. */
export const reshapedIndex =
  (from: readonly number[], to: readonly number[]) =>
  (index: readonly Index[]): readonly Index[] =>
    delinear(linear(index, rowMajor(to)), from);
const reshape = viewed((_, x, y) => reshapedIndex(x.dims, y.dims));

const picked = (scope: Scope, x: Operand, index: readonly Index[], size: number): Index => {
  const raw = x.at(scope, index);
  const wrapped = scope.let("int", `(int)(${raw}) + ((int)(${raw}) < 0 ? ${size} : 0)`);
  // A bad index must not read outside: it is held inside the dim, as nothing can be raised from a kernel.
  return variable(scope.let("int", `min(max(${wrapped}, 0), ${Math.max(size - 1, 0)})`), Math.max(size - 1, 0));
};
const zeroOf = (t: Tensor): string => literal(0, storage(t.dtype).register);

function pad(s: Site): Inline {
  const [x, y] = [operand(s, 0), output(s)];
  const rank = x.dims.length;
  const given = numbers(s, 1);
  const axes = s.ins[3] === undefined ? x.dims.map((_, i) => i) : numbers(s, 3).map((a) => axis(a, rank));
  const before = new Array<number>(rank).fill(0);
  axes.forEach((a, i) => {
    before[a] = given[i] ?? 0;
  });
  const mode: string = s.attrs.mode;
  return one((scope, index) => {
    const at = index.map((d, i) => add(d, -(before[i] as number)));
    if (mode === "constant") {
      const inside = allOf(
        scope,
        at.map((d, i) => within(scope, d, 0, x.dims[i] as number)),
      );
      const fill =
        s.ins[2] === undefined
          ? zeroOf(y)
          : s.ins[2].at(
              scope,
              s.ins[2].dims.map(() => ZERO),
            );
      return readWithin(scope, storage(x.dtype).register, inside, () => x.at(scope, at), fill);
    }
    const folded = at.map((d, i): Index => {
      const size = x.dims[i] as number;
      const r = range(d);
      if (r.min >= 0 && r.max < size) return d;
      const t = scope.index(d);
      if (mode === "edge") return variable(scope.let("int", `min(max(${t}, 0), ${size - 1})`), size - 1);
      if (mode === "wrap") return variable(scope.let("int", `((${t}) % ${size} + ${size}) % ${size}`), size - 1);
      const period = Math.max(2 * (size - 1), 1);
      const m = scope.let("int", `((${t}) % ${period} + ${period}) % ${period}`);
      return variable(scope.let("int", `${m} < ${size} ? ${m} : ${period} - ${m}`), size - 1);
    });
    return x.at(scope, folded);
  });
}

function concat(s: Site): Inline {
  const y = output(s);
  const a = axis(s.attrs.axis, y.dims.length);
  const parts = s.ins.map((_, i) => operand(s, i));
  const register = storage(y.dtype).register;
  return one((scope, index) => {
    let [start, value] = [0, ""];
    const position = index[a] as Index;
    for (const x of parts) {
      const size = x.dims[a] as number;
      if (size === 0) continue;
      const inside = within(scope, position, start, start + size);
      const at = index.map((d, i) => (i === a ? add(d, -start) : d));
      start += size;
      if (inside === false) continue;
      if (inside === true) return x.at(scope, at);
      const element = scope.guarded(inside, () => x.at(scope, at));
      value = value === "" ? element : scope.let(register, `${inside} ? ${element} : ${value}`);
    }
    return value === "" ? zeroOf(y) : value;
  });
}

function slice(s: Site): Inline {
  const x = operand(s, 0);
  const rank = x.dims.length;
  const [starts, ends] = [numbers(s, 1), numbers(s, 2)];
  const axes = s.ins[3] === undefined ? starts.map((_, i) => i) : numbers(s, 3).map((a) => axis(a, rank));
  const steps = s.ins[4] === undefined ? starts.map(() => 1) : numbers(s, 4);
  const [first, step] = [new Array<number>(rank).fill(0), new Array<number>(rank).fill(1)];
  axes.forEach((a, i) => {
    const [d, st] = [x.dims[a] as number, steps[i] as number];
    const raw = starts[i] as number;
    const begin = raw < 0 ? raw + d : raw;
    first[a] = st > 0 ? Math.min(Math.max(begin, 0), d) : Math.min(Math.max(begin, 0), d - 1);
    step[a] = st;
  });
  void ends;
  return one(
    (scope, index) =>
      x.at(
        scope,
        index.map((d, i) => add(scale(d, step[i] as number), first[i] as number)),
      ),
    true,
  );
}

function split(s: Site): Inline {
  const x = operand(s, 0);
  const a = axis(s.attrs.axis, x.dims.length);
  let start = 0;
  const elements = s.outs.map((y): Element => {
    const from = start;
    start += y?.dims[a] ?? 0;
    return (scope, index) =>
      x.at(
        scope,
        index.map((d, i) => (i === a ? add(d, from) : d)),
      );
  });
  if (s.outs.includes(undefined)) throw new Refused("an output in the middle is not asked for");
  return { elements, view: true };
}

function gather(s: Site): Inline {
  const [x, indices] = [operand(s, 0), operand(s, 1)];
  const a = axis(s.attrs.axis, x.dims.length);
  const r = indices.dims.length;
  return one((scope, index) => {
    const at = picked(scope, indices, index.slice(a, a + r), x.dims[a] as number);
    return x.at(scope, [...index.slice(0, a), at, ...index.slice(a + r)]);
  });
}
function gatherElements(s: Site): Inline {
  const [x, indices] = [operand(s, 0), operand(s, 1)];
  const a = axis(s.attrs.axis, x.dims.length);
  return one((scope, index) =>
    x.at(
      scope,
      index.map((d, i) => (i === a ? picked(scope, indices, index, x.dims[a] as number) : d)),
    ),
  );
}
function gatherND(s: Site): Inline {
  const [x, indices] = [operand(s, 0), operand(s, 1)];
  const batch: number = s.attrs.batch_dims ?? 0;
  const depth = indices.dims.at(-1) ?? 0;
  const outer = indices.dims.length - 1;
  return one((scope, index) => {
    const at = Array.from({ length: depth }, (_, k) =>
      picked(scope, indices, [...index.slice(0, outer), constantIndex(k)], x.dims[batch + k] as number),
    );
    return x.at(scope, [...index.slice(0, batch), ...at, ...index.slice(outer)]);
  });
}

/** Above what float32 additions and products of bounds lose. */
const ROUNDING = 1 + 2 ** -20;
/** 2^23 times a constant step, where that is a float as exact as the step itself. */
function liftedStep(step: string): number | undefined {
  const s = Math.fround(Number(step.replace(/f$/, "")));
  return s > 1e-30 && s < 1e30 ? s * 2 ** 23 : undefined;
}

/** (x - zero) * scale, scales per tensor or per slice of one axis. */
function dequantize(s: Site): Inline {
  const [x, factor] = [operand(s, 0), operand(s, 1)];
  const zero = s.ins[2];
  const symmetric = zero === undefined || zero.numbers?.every((z) => z === 0) === true;
  const at = scaleIndex(s, x, factor);
  const most = factor.constant?.dtype === "float32" ? largest(factor.constant) : Number.POSITIVE_INFINITY;
  return one((scope, index) => {
    const i = at(index);
    const raw = x.at(scope, index);
    const shifted = symmetric ? raw : `(${raw} - ${zero?.at(scope, i)})`;
    const step = factor.at(scope, i);
    const real = symmetric && x.dtype === "int8" ? `byte_to_float(${shifted})` : `(float)${shifted}`;
    const lifted = symmetric && x.dtype === "int8" && x.nonNegative ? liftedStep(step) : undefined;
    // Never part of a fused multiply-add: the product rounds by itself.
    const result = scope.let(
      "float",
      lifted === undefined ? `__fmul_rn(${real}, ${step})` : `byte_times(${shifted}, ${step}, ${literal(-lifted, "float")})`,
    );
    const integers = scope.numbers.get(raw)?.limit ?? (x.dtype === "int8" ? 128 : x.dtype === "uint8" ? 255 : 2 ** 31);
    if (most < 1e20 && symmetric) scope.numbers.set(result, { under: result, limit: integers * most * ROUNDING });
    return result;
  });
}
function quantize(s: Site): Inline {
  const [x, factor, y] = [operand(s, 0), operand(s, 1), output(s)];
  const zero = s.ins[2];
  const bounds = y.dtype === "int8" ? [-128, 127] : y.dtype === "uint8" ? [0, 255] : undefined;
  if (bounds === undefined) throw new Refused(`quantizing to ${y.dtype} has no kernel`);
  const at = scaleIndex(s, x, factor);
  const [first = 0, ...more] = zero === undefined ? [0] : (zero.numbers ?? [Number.NaN]);
  const point = more.every((z) => z === first) ? first : Number.NaN;
  return one((scope, index) => {
    const i = at(index);
    const step = factor.at(scope, i);
    const value = x.at(scope, index);
    if (!Number.isNaN(point)) {
      const { under, limit } = scope.numbers.get(value) ?? { under: value, limit: Number.POSITIVE_INFINITY };
      // What is held above the lower bound need not be held above 0 before.
      const [least = 0, high = 0] = bounds;
      const low = under === value ? least : Math.max(least, point);
      // Where the integer fits half a word in any case it is held there, four results at a time.
      const free = y.dtype === "int8" && limit / Number(step.replace(/f$/, "")) < 32_000;
      const near = nearestStep(scope, under, step, [low - point, high - point], free);
      const word = scope.let("int", `__float_as_int(${near})${point === 0 ? "" : ` + ${point}`}`);
      const result = scope.let("int", free ? `min(max((int)(short)${word}, ${low}), ${high})` : `(int)(${storage(y.dtype).type})${word}`);
      scope.lowBytes.set(result, free ? { word, held: { low, high } } : { word });
      return result;
    }
    const real = step === "1.0f" ? value : `${value} / ${step}`;
    const q = scope.let("float", `rintf(${real})`);
    const shifted = zero === undefined ? q : `${q} + (float)${zero.at(scope, i)}`;
    return scope.let("int", `(int)fminf(fmaxf(${shifted}, ${bounds[0]}.0f), ${bounds[1]}.0f)`);
  });
}
/**
 * `value / step` held between `bounds` and rounded half to even, as a float at 1.5 * 2^23: its last bit is worth 1 there, so its low byte is the
 * integer. A constant step divides by its reciprocal, put right by the remainder: r = fl(1 / s), q = fl(x r), then q + (x - q s) r. Twice that is
 * the correctly rounded quotient (Markstein, IBM J. Res. Dev. 34, 1990); once where it decides all ties as the quotient does. NaN becomes the
 * lower bound. A `free` value is a number whose quotient is far below 2^22 and is left unheld.
 */
function nearestStep(scope: Scope, value: string, step: string, [low = 0, high = 0]: readonly number[], free: boolean): string {
  const held = (x: string, a: number, b: number): string =>
    free ? x : scope.let("float", `fminf(fmaxf(${x}, ${literal(a, "float")}), ${literal(b, "float")})`);
  const s = Math.fround(Number(step.replace(/f$/, "")));
  if (step === "1.0f") return `__fadd_rn(${held(value, low, high)}, 12582912.0f)`;
  if (!(s > 1e-20 && s < 1e20)) return `__fadd_rn(${held(`${value} / ${step}`, low, high)}, 12582912.0f)`;
  // The bounds times s divide back to within half a step of themselves.
  const x = held(value, low * s, high * s);
  const near = Math.fround(1 / s);
  const r = literal(near, "float");
  const rest = Math.fround(1 / s - near);
  if (sumSuffices(s, near, rest, low, high)) {
    const q = scope.let("float", `fmaf(${x}, ${r}, __fmul_rn(${x}, ${literal(rest, "float")}))`);
    return `__fadd_rn(${q}, 12582912.0f)`;
  }
  let q = scope.let("float", `__fmul_rn(${x}, ${r})`);
  for (let i = onceSuffices(s, Math.fround(1 / s), low, high) ? 1 : 2; i > 0; i--)
    q = scope.let("float", `fmaf(fmaf(-${q}, ${step}, ${x}), ${r}, ${q})`);
  return `__fadd_rn(${q}, 12582912.0f)`;
}
/** a * b + c of float32, rounded once. */
function fused(a: number, b: number, c: number): number {
  // The product is exact in float64; of the sum, what rounding to float64 dropped decides between neighbours of float32.
  const p = a * b;
  const sum = p + c;
  const back = sum - p;
  const rest = p - (sum - back) + (c - back);
  const near = Math.fround(sum);
  const half = sum - near;
  if (rest === 0 || half === 0) return near;
  const away = Math.fround(near + 2 * half);
  return Math.abs(half) * 2 === Math.abs(away - near) && Math.sign(rest) === Math.sign(half) ? away : near;
}
const bits = new Float32Array(1);
const pattern = new Int32Array(bits.buffer);
/** Whether x times a reciprocal in two parts decides every tie between steps as the true quotient does. */
const sumSuffices = (s: number, r: number, rest: number, low: number, high: number): boolean =>
  decides(s, low, high, (x) => fused(x, r, Math.fround(x * rest)));
/** Whether one correction does. */
const onceSuffices = (s: number, r: number, low: number, high: number): boolean =>
  decides(s, low, high, (x) => {
    const q = Math.fround(x * r);
    return fused(fused(-q, s, x), r, q);
  });
/** Only floats next to a tie times `s` could tell. */
function decides(s: number, low: number, high: number, quotientOf: (x: number) => number): boolean {
  for (let k = low; k < high; k++) {
    bits[0] = (k + 0.5) * s;
    const tie = pattern[0] as number;
    for (let d = -6; d <= 6; d++) {
      pattern[0] = tie + d;
      const x = bits[0] as number;
      if (Math.sign(quotientOf(x) - (k + 0.5)) !== Math.sign(Math.fround(x / s) - (k + 0.5))) return false;
    }
  }
  return true;
}
function scaleIndex(s: Site, x: Operand, factor: Operand): (index: readonly Index[]) => readonly Index[] {
  if (factor.dims.length === 0) return () => [];
  if (factor.dims.length > 1) throw new Refused("blocked scales have no kernel", "use one scale per tensor or per channel");
  if (factor.dims[0] === 1) return () => [ZERO];
  const a = axis(s.attrs.axis, x.dims.length);
  return (index) => [index[a] as Index];
}

/** gamma * (x - mean) / sqrt(var + epsilon) + beta along axis 1, with running statistics. */
function batchNormalization(s: Site): Inline {
  if (s.attrs.training_mode) throw new Refused("training mode has no kernel", "export the model for inference");
  const [x, g, b, m, v] = [operand(s, 0), operand(s, 1), operand(s, 2), operand(s, 3), operand(s, 4)];
  return one((scope, index) => {
    const c = [index[1] ?? ZERO];
    const factor = scope.let("float", `${g.at(scope, c)} / sqrtf(${v.at(scope, c)} + ${literal(s.attrs.epsilon, "float")})`);
    return scope.let("float", `(${x.at(scope, index)} - ${m.at(scope, c)}) * ${factor} + ${b.at(scope, c)}`);
  });
}

function clip(s: Site): Inline {
  const x = operand(s, 0);
  const register = storage(x.dtype).register;
  return one((scope, index) => {
    let value = scope.let(register, x.at(scope, index));
    const [low, high] = [
      s.ins[1]?.at(
        scope,
        s.ins[1].dims.map(() => ZERO),
      ),
      s.ins[2]?.at(
        scope,
        s.ins[2].dims.map(() => ZERO),
      ),
    ];
    if (low !== undefined) value = scope.let(register, `(${value} < ${low} ? ${low} : ${value})`);
    if (high !== undefined) value = scope.let(register, `(${value} > ${high} ? ${high} : ${value})`);
    return value;
  });
}

/** Operators whose results are numbers where their operands are, and not too large. */
const NUMBERS: ReadonlySet<string> = new Set(["Add", "Sub", "Relu", "Gelu"]);

const limitOf = (scope: Scope, x: Operand, value: string): number =>
  scope.numbers.get(value)?.limit ?? (x.constant === undefined ? Number.POSITIVE_INFINITY : largest(x.constant));

function elementwise(s: Site): Inline {
  const y = output(s);
  const rule = pointwise[s.node.op];
  const mask = s.node.op === "Dropout";
  if (!mask && s.outs.slice(1).some((o) => o !== undefined)) throw new Refused("its further outputs are not given out");
  if (rule === undefined) throw new Refused(`no kernel for ${s.node.op}`);
  const used = s.node.op === "Dropout" || s.node.op === "CastLike" ? s.ins.slice(0, 1) : s.ins;
  const args = used.map((_, i) => operand(s, i));
  const register = storage(y.dtype).register;
  const made = one(
    (scope, index) => {
      const values = args.map((a) => scope.let(storage(a.dtype).register, a.at(scope, broadcastIndex(a.dims, index))));
      const result = scope.let(
        register,
        rule({ scope, args: values, dtypes: args.map((a) => a.dtype), out: y.dtype, coarse: s.coarse, attrs: s.attrs }),
      );
      const [first = ""] = values;
      if (!NUMBERS.has(s.node.op)) return result;
      const limits = values.map((v, i) => limitOf(scope, args[i] as Operand, v));
      const limit = limits.reduce((a, b) => a + b, 0) * (register === "float" ? ROUNDING : 1);
      if (limit < (register === "float" ? 1e38 : 2 ** 31))
        scope.numbers.set(result, { under: s.node.op === "Relu" ? first : result, limit });
      return result;
    },
    s.node.op === "Identity" || mask,
  );
  // In inference nothing is dropped: the mask is true throughout.
  return mask ? { ...made, elements: [...made.elements, () => "1"] } : made;
}

const rules: Readonly<Record<string, Rule>> = {
  Reshape: reshape,
  Flatten: reshape,
  Squeeze: reshape,
  Unsqueeze: reshape,
  Transpose: viewed((s, x) => {
    const order: readonly number[] = s.attrs.perm ?? x.dims.map((_, i) => x.dims.length - 1 - i);
    return (index) => x.dims.map((_, i) => index[order.indexOf(i)] as Index);
  }),
  Expand: viewed((_, x) => (index) => broadcastIndex(x.dims, index)),
  Tile: viewed((_, x) => (index) => index.map((d, i) => modulo(d, x.dims[i] as number))),
  DepthToSpace: viewed((s, x) => {
    const [n = 1, c = 1, h = 1, w = 1] = x.dims;
    const b: number = s.attrs.blocksize;
    void n;
    const deep = c / (b * b);
    return ([in_ = ZERO, ic = ZERO, ih = ZERO, iw = ZERO]) => {
      const block = add(scale(modulo(ih, b), b), modulo(iw, b));
      const channel = s.attrs.mode === "CRD" ? add(scale(ic, b * b), block) : add(scale(block, deep), ic);
      void h;
      void w;
      return [in_, channel, divide(ih, b), divide(iw, b)];
    };
  }),
  SpaceToDepth: viewed((s, x) => {
    const c = x.dims[1] as number;
    const b: number = s.attrs.blocksize;
    return ([in_ = ZERO, ic = ZERO, ih = ZERO, iw = ZERO]) => {
      const block = divide(ic, c);
      return [in_, modulo(ic, c), add(scale(ih, b), divide(block, b)), add(scale(iw, b), modulo(block, b))];
    };
  }),
  ...indexedRules,
  Slice: slice,
  Split: split,
  Concat: concat,
  Pad: pad,
  Gather: gather,
  GatherElements: gatherElements,
  GatherND: gatherND,
  QuantizeLinear: quantize,
  DequantizeLinear: dequantize,
  BatchNormalization: batchNormalization,
  Clip: clip,
  Resize: (s) => one(resize(s)),
  Trilu: (s) => {
    const [x, y] = [operand(s, 0), output(s)];
    const k = s.ins[1] === undefined ? 0 : (numbers(s, 1)[0] ?? 0);
    const r = x.dims.length;
    return one((scope, index) => {
      const distance = subtract(index[r - 1] as Index, index[r - 2] as Index);
      const keep = s.attrs.upper ? within(scope, distance, k, 2 ** 30) : within(scope, distance, -(2 ** 30), k + 1);
      return readWithin(scope, storage(y.dtype).register, keep, () => x.at(scope, index), zeroOf(y));
    });
  },
  OneHot: (s) => {
    const [indices, values, y] = [operand(s, 0), operand(s, 2), output(s)];
    const depth = numbers(s, 1)[0] ?? 0;
    const a = axis(s.attrs.axis, y.dims.length);
    return one((scope, index) => {
      const raw = indices.at(scope, [...index.slice(0, a), ...index.slice(a + 1)]);
      const at = scope.let("int", `(int)(${raw}) + ((int)(${raw}) < 0 ? ${depth} : 0)`);
      const [off, on] = [values.at(scope, [constantIndex(0)]), values.at(scope, [constantIndex(1)])];
      return scope.let(storage(y.dtype).register, `${at} == ${scope.index(index[a] as Index)} ? ${on} : ${off}`);
    });
  },
  Range: (s) => {
    const [start, , step, y] = [operand(s, 0), operand(s, 1), operand(s, 2), output(s)];
    const register = storage(y.dtype).register;
    return one((scope, index) =>
      scope.let(
        register,
        `${start.at(
          scope,
          start.dims.map(() => ZERO),
        )} + (${register})${scope.let("int", scope.index(index[0] as Index))} * ${step.at(
          scope,
          step.dims.map(() => ZERO),
        )}`,
      ),
    );
  },
  ConstantOfShape: (s) => {
    const y = output(s);
    const given: Constant | undefined = s.attrs.value;
    const fill = given === undefined ? zeroOf(y) : literal(scalarOf(given), storage(y.dtype).register);
    return one(() => fill, true);
  },
  EyeLike: (s) => {
    const y = output(s);
    return one((scope, [i = ZERO, j = ZERO]) => {
      const on = within(scope, subtract(j, i), s.attrs.k, s.attrs.k + 1);
      const [t, f] = [literal(1, storage(y.dtype).register), zeroOf(y)];
      return on === true ? t : on === false ? f : scope.let(storage(y.dtype).register, `${on} ? ${t} : ${f}`);
    });
  },
};

/** How a node's results are written as expressions; undefined when it needs a kernel of its own. Throws `Refused`. */
export function inline(s: Site): Inline | undefined {
  if (s.node.domain !== "") return undefined;
  if (Object.hasOwn(rules, s.node.op)) return rules[s.node.op]?.(s);
  const alone = unreduced(s);
  if (alone !== undefined) {
    const x = operand(s, 0);
    const { register } = storage(x.dtype);
    return one((scope, index) => scope.let(register, alone(scope.let(register, x.at(scope, index)))));
  }
  return Object.hasOwn(pointwise, s.node.op) ? elementwise(s) : undefined;
}
export const inlineOps: readonly string[] = [...Object.keys(rules), ...Object.keys(pointwise)];
export const elementsIn = (t: Tensor): number => product(t.dims);
