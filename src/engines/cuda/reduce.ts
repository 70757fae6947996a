/**
 * Operators that combine many elements into one: reductions, pools, prefix sums, and convolutions or products that no matrix kernel takes.
 * A reduction is described by what it combines and how; loops.ts decides which threads do it.
 */

import { convTranspose } from "./direct.js";
import { einsum } from "./einsum.js";
import { add, type Index, product, subtract, ZERO } from "./indexing.js";
import { literal } from "./pointwise.js";
import { highest, largest, least, lowest, NEG_INF, type Reduction, sum } from "./reduction.js";
import { scatters } from "./scatter.js";
import { axis, numbers, operand, output, Refused, readWithin, type Site, within } from "./site.js";
import { type Register, storage } from "./storage.js";
import { globalPool, normPool, pool, poolIndices } from "./windows.js";

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

/** Sum (or product) up to (or before) a position, each by itself: fits the short axes that models have. */
function cumulative(s: Site, product_: boolean): Reduction {
  const x = operand(s, 0);
  const a = axis(numbers(s, 1)[0] ?? 0, x.dims.length);
  const size = x.dims[a] as number;
  if (product(x.dims) * size > 2 ** 36) throw new Refused(`a prefix sum over ${size} elements takes too long`);
  const neutral = product_ ? 1 : 0;
  const register = storage(x.dtype).register;
  const { exclusive, reverse } = s.attrs;
  return {
    over: [size],
    accumulators: [{ type: register, start: literal(neutral, register) }],
    element: (scope, out, [r = ZERO]) => {
      const distance = reverse ? subtract(r, out[a] as Index) : subtract(out[a] as Index, r);
      const inside = within(scope, distance, exclusive ? 1 : 0, size);
      const index = out.map((d, i) => (i === a ? r : d));
      return [readWithin(scope, register, inside, () => x.at(scope, index), literal(neutral, register))];
    },
    combine: product_ ? ([x1], [x2]) => [`${x1} * ${x2}`] : sum,
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
      const value = readWithin(scope, "float", inside, () => x.at(scope, index), "0.0f");
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

/** One at the largest element of each row (the first of equal ones), zero elsewhere. */
function hardmax(s: Site): Reduction {
  const x = operand(s, 0);
  const a = axis(s.attrs.axis, x.dims.length);
  const largestAt = arg({ ...s, attrs: { axis: a, keepdims: true, select_last_index: false } }, ">");
  return {
    ...largestAt,
    finish: (scope, [, at = ""], out) => scope.let("float", `${at} == ${scope.index(out[a] as Index)} ? 1.0f : 0.0f`),
  };
}

/** Reductions of a node, one per output it has; undefined for a node that is none (or reduces nothing). Each throws `Refused`. */
const families: Readonly<Record<string, (s: Site) => readonly Reduction[] | undefined>> = {
  ReduceLogSumExp: (s) => single(logSumExp(s)),
  ArgMax: (s) => [arg(s, ">")],
  ArgMin: (s) => [arg(s, "<")],
  MaxPool: (s) => (s.outs[1] === undefined ? [pool(s, true)] : [pool(s, true), poolIndices(s)]),
  AveragePool: (s) => [pool(s, false)],
  LpPool: (s) => [normPool(s, false)],
  GlobalAveragePool: (s) => [globalPool(s, false)],
  GlobalMaxPool: (s) => [globalPool(s, true)],
  GlobalLpPool: (s) => [normPool(s, true)],
  ConvTranspose: (s) => [convTranspose(s)],
  CumSum: (s) => [cumulative(s, false)],
  CumProd: (s) => [cumulative(s, true)],
  LRN: (s) => [localResponse(s)],
  Hardmax: (s) => [hardmax(s)],
  Einsum: (s) => [einsum(s)],
  ...Object.fromEntries(Object.entries(scatters).map(([op, rule]) => [op, (s: Site) => [rule(s)]])),
};
const single = (r: Reduction | undefined): readonly Reduction[] | undefined => (r === undefined ? undefined : [r]);

export function reductions(s: Site): readonly Reduction[] | undefined {
  const { op } = s.node;
  if (s.node.domain !== "") return undefined;
  const kind = Object.hasOwn(kinds, op) ? kinds[op] : undefined;
  if (kind !== undefined) return single(reduce(s, kind));
  return Object.hasOwn(families, op) ? families[op]?.(s) : undefined;
}
export const reductionOps: readonly string[] = [...Object.keys(kinds), ...Object.keys(families)];
