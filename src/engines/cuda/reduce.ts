/**
 * Operators that combine many elements into one: reductions, pools, prefix sums, and convolutions or products that no matrix kernel takes.
 * A reduction is described by what it combines and how; loops.ts decides which threads do it.
 */
import { add, divide, type Index, modulo, product, scale, subtract, ZERO } from "./indexing.js";
import { literal } from "./pointwise.js";
import type { Scope } from "./scope.js";
import { allOf, axis, broadcastIndex, numbers, type Operand, operand, output, Refused, type Site, type Tensor, within } from "./site.js";
import { type Register, storage } from "./storage.js";

export interface Accumulator {
  readonly type: Register;
  readonly start: string;
}
/** `result[out] = finish(combine over every index r of `over` of element(out, r))`. `combine` is associative and commutative. */
export interface Reduction {
  readonly over: readonly number[];
  readonly accumulators: readonly Accumulator[];
  element(scope: Scope, out: readonly Index[], at: readonly Index[]): readonly string[];
  combine(a: readonly string[], b: readonly string[]): readonly string[];
  finish(scope: Scope, totals: readonly string[], out: readonly Index[]): string;
}

const NEG_INF = "__int_as_float(0xff800000)";
const POS_INF = "__int_as_float(0x7f800000)";
const sum = ([a]: readonly string[], [b]: readonly string[]): readonly string[] => [`${a} + ${b}`];
const largest = ([a]: readonly string[], [b]: readonly string[]): readonly string[] => [`(${a} > ${b} || ${a} != ${a} ? ${a} : ${b})`];
const least = ([a]: readonly string[], [b]: readonly string[]): readonly string[] => [`(${a} < ${b} || ${a} != ${a} ? ${a} : ${b})`];
const lowest = (r: Register): string => (r === "float" ? NEG_INF : r === "int" ? "(-2147483647 - 1)" : "(-9223372036854775807ll - 1)");
const highest = (r: Register): string => (r === "float" ? POS_INF : r === "int" ? "2147483647" : "9223372036854775807ll");

/** Which axes a Reduce* node covers; undefined for a node that reduces nothing (noop_with_empty_axes). */
export function reducedAxes(s: Site): readonly number[] | undefined {
  const rank = operand(s, 0).dims.length;
  const given = s.ins[1] === undefined ? [] : numbers(s, 1);
  if (given.length === 0) return s.attrs.noop_with_empty_axes ? undefined : operand(s, 0).dims.map((_, i) => i);
  return given.map((a) => axis(a, rank));
}

interface Kind {
  start(r: Register): string;
  element?(x: string, float: boolean): string;
  combine: Reduction["combine"];
  finish?(total: string, count: number, float: boolean): string;
}
const plus = (more: Partial<Kind> = {}): Kind => ({ start: (r) => literal(0, r), combine: sum, ...more });
const kinds: Readonly<Record<string, Kind>> = {
  ReduceSum: plus(),
  ReduceMean: plus({ finish: (t, n, float) => (float ? `${t} / ${literal(n, "float")}` : `${t} / ${n}`) }),
  ReduceProd: { start: (r) => literal(1, r), combine: ([a], [b]) => [`${a} * ${b}`] },
  ReduceMax: { start: lowest, combine: largest },
  ReduceMin: { start: highest, combine: least },
  ReduceL1: plus({ element: (x, float) => (float ? `fabsf(${x})` : `(${x} < 0 ? -${x} : ${x})`) }),
  ReduceL2: plus({ element: (x) => `${x} * ${x}`, finish: (t) => `sqrtf(${t})` }),
  ReduceSumSquare: plus({ element: (x) => `${x} * ${x}` }),
  ReduceLogSum: plus({ finish: (t) => `logf(${t})` }),
};

function reduce(s: Site, kind: Kind): Reduction | undefined {
  const [x, y] = [operand(s, 0), output(s)];
  const axes = reducedAxes(s);
  if (axes === undefined) return undefined;
  const register = storage(x.dtype).register;
  const over = axes.map((a) => x.dims[a] as number);
  const kept = x.dims.map((_, i) => i).filter((i) => !axes.includes(i));
  const keep: boolean = s.attrs.keepdims;
  void y;
  return {
    over,
    accumulators: [{ type: register, start: kind.start(register) }],
    element: (scope, out, at) => {
      const index = x.dims.map((_, i): Index => {
        const r = axes.indexOf(i);
        return r >= 0 ? (at[r] as Index) : (out[keep ? i : kept.indexOf(i)] as Index);
      });
      const value = scope.let(register, x.at(scope, index));
      return [kind.element === undefined ? value : scope.let(register, kind.element(value, register === "float"))];
    },
    combine: kind.combine,
    finish: (_, [total = ""]) => kind.finish?.(total, product(over), register === "float") ?? total,
  };
}

/** A Reduce* node over no axes: what it does to every element by itself. */
export function unreduced(s: Site): ((x: string) => string) | undefined {
  const kind = Object.hasOwn(kinds, s.node.op) ? kinds[s.node.op] : undefined;
  if (kind === undefined || reducedAxes(s) !== undefined) return undefined;
  const float = storage(operand(s, 0).dtype).register === "float";
  return (x) => {
    const element = kind.element?.(x, float) ?? x;
    return kind.finish?.(`(${element})`, 1, float) ?? element;
  };
}

/** Largest element and the sum of exponentials relative to it, so that nothing overflows. */
function logSumExp(s: Site): Reduction | undefined {
  const base = reduce(s, plus());
  if (base === undefined) return undefined;
  return {
    ...base,
    accumulators: [
      { type: "float", start: NEG_INF },
      { type: "float", start: "0.0f" },
    ],
    element: (scope, out, at) => [base.element(scope, out, at)[0] as string, "1.0f"],
    combine: ([m, a], [n, b]) => {
      const top = `fmaxf(${m}, ${n})`;
      const scaled = (x: string | undefined, total: string | undefined): string =>
        `(${x} == ${top} ? ${total} : ${total} * expf(${x} - ${top}))`;
      return [top, `${scaled(m, a)} + ${scaled(n, b)}`];
    },
    finish: (_, [m, total]) => `${m} + logf(${total})`,
  };
}

/** Largest (or smallest) element's position; among equals the first, or the last on request. */
function arg(s: Site, operator: ">" | "<"): Reduction {
  const x = operand(s, 0);
  const a = axis(s.attrs.axis, x.dims.length);
  const register = storage(x.dtype).register;
  const last: boolean = s.attrs.select_last_index;
  return {
    over: [x.dims[a] as number],
    accumulators: [
      { type: register, start: operator === ">" ? lowest(register) : highest(register) },
      { type: "int", start: last ? "-1" : "2147483647" },
    ],
    element: (scope, out, [r = ZERO]) => {
      const index = x.dims.map((_, i) => (i === a ? r : (out[s.attrs.keepdims || i < a ? i : i - 1] as Index)));
      return [scope.let(register, x.at(scope, index)), scope.let("int", scope.index(r))];
    },
    combine: ([v, i], [w, j]) => {
      const first = `(${v} ${operator} ${w} || (${v} == ${w} && ${i} ${last ? ">" : "<"} ${j}))`;
      return [`(${first} ? ${v} : ${w})`, `(${first} ? ${i} : ${j})`];
    },
    finish: (_, [, at = ""]) => `(long long)${at}`,
  };
}

/** Kernel, strides, dilations and the pads at the beginning of a windowed operator's spatial dims. */
export interface WindowSpec {
  readonly kernel: readonly number[];
  readonly strides: readonly number[];
  readonly dilations: readonly number[];
  readonly begin: readonly number[];
}
export function windowOf(s: Site, x: Tensor, y: Tensor, kernel: readonly number[]): WindowSpec {
  const n = kernel.length;
  const strides: readonly number[] = s.attrs.strides ?? new Array<number>(n).fill(1);
  const dilations: readonly number[] = s.attrs.dilations ?? new Array<number>(n).fill(1);
  const auto: string = s.attrs.auto_pad;
  const begin = Array.from({ length: n }, (_, i) => {
    if (auto === "NOTSET") return (s.attrs.pads?.[i] as number | undefined) ?? 0;
    if (auto === "VALID") return 0;
    const extent = ((kernel[i] as number) - 1) * (dilations[i] as number) + 1;
    const total = Math.max(((y.dims[i + 2] as number) - 1) * (strides[i] as number) + extent - (x.dims[i + 2] as number), 0);
    return auto === "SAME_UPPER" ? Math.floor(total / 2) : Math.ceil(total / 2);
  });
  return { kernel, strides, dilations, begin };
}
const spatial = (w: WindowSpec, out: readonly Index[], at: readonly Index[]): readonly Index[] =>
  w.kernel.map((_, i) =>
    add(add(scale(out[i + 2] as Index, w.strides[i] as number), scale(at[i] as Index, w.dilations[i] as number)), -(w.begin[i] as number)),
  );

function pool(s: Site, max: boolean): Reduction {
  const [x, y] = [operand(s, 0), output(s)];
  const w = windowOf(s, x, y, s.attrs.kernel_shape);
  const register = storage(x.dtype).register;
  const float = register === "float";
  const size = product(w.kernel);
  const counted = !max && !s.attrs.count_include_pad;
  const end = (i: number): number =>
    s.attrs.auto_pad === "NOTSET" ? ((s.attrs.pads?.[i + w.kernel.length] as number | undefined) ?? 0) : 0;
  return {
    over: w.kernel,
    accumulators: [
      { type: register, start: max ? lowest(register) : literal(0, register) },
      ...(max ? [] : [{ type: "int" as const, start: "0" }]),
    ],
    element: (scope, out, at) => {
      const index = spatial(w, out, at);
      const inside = allOf(
        scope,
        index.map((d, i) => within(scope, d, 0, x.dims[i + 2] as number)),
      );
      // A window hanging over the padded edge (ceil_mode) counts neither that part nor, unless asked, the pads.
      const padded = counted
        ? inside
        : allOf(
            scope,
            index.map((d, i) => within(scope, d, -(w.begin[i] as number), (x.dims[i + 2] as number) + end(i))),
          );
      const number = (c: string | boolean): string => (typeof c === "string" ? `(${c} ? 1 : 0)` : c ? "1" : "0");
      const rest = max ? [] : [scope.let("int", number(padded))];
      const absent = max ? lowest(register) : literal(0, register);
      if (inside === false) return [absent, ...rest];
      const full = [out[0] as Index, out[1] as Index, ...index];
      if (inside === true) return [scope.let(register, x.at(scope, full)), ...rest];
      const value = scope.guarded(inside, () => x.at(scope, full));
      return [scope.let(register, `${inside} ? ${value} : ${absent}`), ...rest];
    },
    combine: ([a, n], [b, m]) => (max ? largest([a as string], [b as string]) : [`${a} + ${b}`, `${n} + ${m}`]),
    finish: (_, [total = "", n]) => (max ? total : float ? `${total} / (float)${n}` : `${total} / ${n ?? size}`),
  };
}
function globalPool(s: Site, max: boolean): Reduction {
  const x = operand(s, 0);
  const over = x.dims.slice(2);
  return {
    over,
    accumulators: [{ type: "float", start: max ? NEG_INF : "0.0f" }],
    element: (scope, out, at) => [scope.let("float", x.at(scope, [out[0] as Index, out[1] as Index, ...at]))],
    combine: max ? largest : sum,
    finish: (_, [total = ""]) => (max ? total : `${total} / ${literal(product(over), "float")}`),
  };
}

/** Direct convolution of any rank: the fallback of the matrix kernels. */
export function directConv(s: Site): Reduction {
  const [x, w, y] = [operand(s, 0), operand(s, 1), output(s)];
  const bias = s.ins[2];
  const groups: number = s.attrs.group;
  const perGroup = (y.dims[1] as number) / groups;
  const depth = w.dims[1] as number;
  const window = windowOf(s, x, y, w.dims.slice(2));
  return {
    over: [...window.kernel, depth],
    accumulators: [{ type: "float", start: "0.0f" }],
    element: (scope, out, at) => {
      const c = at[window.kernel.length] as Index;
      const index = spatial(window, out, at);
      const inside = allOf(
        scope,
        index.map((d, i) => within(scope, d, 0, x.dims[i + 2] as number)),
      );
      if (inside === false) return ["0.0f"];
      const channel = add(scale(divide(out[1] as Index, perGroup), depth), c);
      const read = (): string => x.at(scope, [out[0] as Index, channel, ...index]);
      const value = inside === true ? read() : scope.guarded(inside, read);
      const weight = w.at(scope, [out[1] as Index, c, ...at.slice(0, window.kernel.length)]);
      return [scope.let("float", `${value} * ${weight}`)];
    },
    combine: sum,
    finish: (scope, [total = ""], out) =>
      bias === undefined ? total : scope.let("float", `${total} + ${bias.at(scope, [out[1] as Index])}`),
  };
}

/** Transposed convolution, gathered: each output sums the inputs whose windows reach it. */
function convTranspose(s: Site): Reduction {
  const [x, w, y] = [operand(s, 0), operand(s, 1), output(s)];
  const bias = s.ins[2];
  const n = x.dims.length - 2;
  const kernel = w.dims.slice(2);
  const strides: readonly number[] = s.attrs.strides ?? new Array<number>(n).fill(1);
  const dilations: readonly number[] = s.attrs.dilations ?? new Array<number>(n).fill(1);
  const groups: number = s.attrs.group;
  const [perGroup, depth] = [w.dims[1] as number, (x.dims[1] as number) / groups];
  const extra: readonly number[] = s.attrs.output_padding ?? new Array<number>(n).fill(0);
  const begin = Array.from({ length: n }, (_, i) => {
    const full =
      ((x.dims[i + 2] as number) - 1) * (strides[i] as number) +
      (extra[i] as number) +
      ((kernel[i] as number) - 1) * (dilations[i] as number) +
      1;
    const total = full - (y.dims[i + 2] as number);
    if (s.attrs.output_shape === undefined && s.attrs.auto_pad === "NOTSET") return (s.attrs.pads?.[i] as number | undefined) ?? 0;
    return s.attrs.auto_pad === "SAME_UPPER" ? Math.floor(total / 2) : total - Math.floor(total / 2);
  });
  return {
    over: [...kernel, depth],
    accumulators: [{ type: "float", start: "0.0f" }],
    element: (scope, out, at) => {
      const reach = kernel.map((_, i) =>
        subtract(add(out[i + 2] as Index, begin[i] as number), scale(at[i] as Index, dilations[i] as number)),
      );
      const index = reach.map((d, i) => divide(d, strides[i] as number));
      const conditions = reach.flatMap((d, i) => {
        const m = modulo(d, strides[i] as number);
        return [within(scope, m, 0, 1), within(scope, index[i] as Index, 0, x.dims[i + 2] as number)];
      });
      const inside = allOf(scope, conditions);
      if (inside === false) return ["0.0f"];
      const group = divide(out[1] as Index, perGroup);
      const c = add(scale(group, depth), at[n] as Index);
      const read = (): string => x.at(scope, [out[0] as Index, c, ...index]);
      const value = inside === true ? read() : scope.guarded(inside, read);
      const weight = w.at(scope, [c, modulo(out[1] as Index, perGroup), ...at.slice(0, n)]);
      return [scope.let("float", `${value} * ${weight}`)];
    },
    combine: sum,
    finish: (scope, [total = ""], out) =>
      bias === undefined ? total : scope.let("float", `${total} + ${bias.at(scope, [out[1] as Index])}`),
  };
}

/** Product of any two operands: the fallback of the matrix kernels (integers, vectors, tiny sizes). */
export function directMatMul(s: Site): Reduction {
  const [a, b, y] = [operand(s, 0), operand(s, 1), output(s)];
  const register = storage(y.dtype).register;
  const [va, vb] = [a.dims.length === 1, b.dims.length === 1];
  const batchOf = (x: Operand, batch: readonly Index[]): readonly Index[] => broadcastIndex(x.dims.slice(0, -2), batch);
  return {
    over: [a.dims.at(-1) as number],
    accumulators: [{ type: register, start: literal(0, register) }],
    element: (scope, out, [k = ZERO]) => {
      const tail = (va ? 0 : 1) + (vb ? 0 : 1);
      const batch = out.slice(0, out.length - tail);
      const m = va ? undefined : out[batch.length];
      const n = vb ? undefined : out[out.length - 1];
      const left = a.at(scope, va ? [k] : [...batchOf(a, batch), m as Index, k]);
      const right = b.at(scope, vb ? [k] : [...batchOf(b, batch), k, n as Index]);
      return [scope.let(register, `${left} * ${right}`)];
    },
    combine: sum,
    finish: (_, [total = ""]) => total,
  };
}
export function directGemm(s: Site): Reduction {
  const [a, b] = [operand(s, 0), operand(s, 1)];
  const register = storage(output(s).dtype).register;
  const [ta, tb]: [boolean, boolean] = [s.attrs.transA, s.attrs.transB];
  return {
    over: [a.dims[ta ? 0 : 1] as number],
    accumulators: [{ type: register, start: literal(0, register) }],
    element: (scope, [m = ZERO, n = ZERO], [k = ZERO]) => [
      scope.let(register, `${a.at(scope, ta ? [k, m] : [m, k])} * ${b.at(scope, tb ? [n, k] : [k, n])}`),
    ],
    combine: sum,
    finish: (scope, [total = ""], out) => gemmResult(scope, s, total, out),
  };
}
/** alpha * product + beta * C. */
export function gemmResult(scope: Scope, s: Site, total: string, out: readonly Index[]): string {
  const c = s.ins[2];
  const register = storage(output(s).dtype).register;
  const { alpha, beta } = s.attrs;
  const scaled = alpha === 1 ? total : scope.let(register, `${literal(alpha, "float")} * ${total}`);
  if (c === undefined || beta === 0) return scaled;
  const added = c.at(scope, broadcastIndex(c.dims, out));
  return scope.let(register, `${scaled} + ${beta === 1 ? added : `${literal(beta, "float")} * ${added}`}`);
}

/** Sum up to (or before) a position, each by itself: fits the short axes that models have. */
function cumulative(s: Site): Reduction {
  const x = operand(s, 0);
  const a = axis(numbers(s, 1)[0] ?? 0, x.dims.length);
  const size = x.dims[a] as number;
  if (size > 4096) throw new Refused(`a prefix sum over ${size} elements has no kernel`);
  const register = storage(x.dtype).register;
  const { exclusive, reverse } = s.attrs;
  return {
    over: [size],
    accumulators: [{ type: register, start: literal(0, register) }],
    element: (scope, out, [r = ZERO]) => {
      const distance = reverse ? subtract(r, out[a] as Index) : subtract(out[a] as Index, r);
      const inside = within(scope, distance, exclusive ? 1 : 0, size);
      if (inside === false) return [literal(0, register)];
      const index = out.map((d, i) => (i === a ? r : d));
      if (inside === true) return [x.at(scope, index)];
      const value = scope.guarded(inside, () => x.at(scope, index));
      return [scope.let(register, `${inside} ? ${value} : ${literal(0, register)}`)];
    },
    combine: sum,
    finish: (_, [total = ""]) => total,
  };
}

/** x / (bias + alpha / size * sum of squares over neighbouring channels) ^ beta. */
function localResponse(s: Site): Reduction {
  const x = operand(s, 0);
  const size: number = s.attrs.size;
  const before = Math.floor((size - 1) / 2);
  return {
    over: [size],
    accumulators: [{ type: "float", start: "0.0f" }],
    element: (scope, out, [r = ZERO]) => {
      const c = add(add(out[1] as Index, r), -before);
      const inside = within(scope, c, 0, x.dims[1] as number);
      if (inside === false) return ["0.0f"];
      const index = out.map((d, i) => (i === 1 ? c : d));
      const value = inside === true ? x.at(scope, index) : scope.guarded(inside, () => x.at(scope, index));
      return [scope.let("float", `${value} * ${value}`)];
    },
    combine: sum,
    finish: (scope, [total = ""], out) => {
      const { alpha, beta, bias } = s.attrs;
      const base = scope.let("float", `${literal(bias, "float")} + ${literal(alpha / size, "float")} * ${total}`);
      return scope.let("float", `${x.at(scope, out)} / powf(${base}, ${literal(beta, "float")})`);
    },
  };
}

/** The reduction of a node; undefined when it is none (or reduces nothing). Throws `Refused`. */
export function reduction(s: Site): Reduction | undefined {
  const { op } = s.node;
  if (s.node.domain !== "") return undefined;
  const kind = Object.hasOwn(kinds, op) ? kinds[op] : undefined;
  if (kind !== undefined) return reduce(s, kind);
  switch (op) {
    case "ReduceLogSumExp":
      return logSumExp(s);
    case "ArgMax":
      return arg(s, ">");
    case "ArgMin":
      return arg(s, "<");
    case "MaxPool":
      if (s.outs.length > 1 && s.outs[1] !== undefined) throw new Refused("the indices of a pool have no kernel");
      return pool(s, true);
    case "AveragePool":
      return pool(s, false);
    case "GlobalAveragePool":
      return globalPool(s, false);
    case "GlobalMaxPool":
      return globalPool(s, true);
    case "ConvTranspose":
      return convTranspose(s);
    case "CumSum":
      return cumulative(s);
    case "LRN":
      return localResponse(s);
    default:
      return undefined;
  }
}
export const reductionOps: readonly string[] = [
  ...Object.keys(kinds),
  "ReduceLogSumExp",
  "ArgMax",
  "ArgMin",
  "MaxPool",
  "AveragePool",
  "GlobalAveragePool",
  "GlobalMaxPool",
  "ConvTranspose",
  "CumSum",
  "LRN",
];
