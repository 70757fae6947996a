/**
 * Operators that look at a whole row before they can give its elements: softmax and the normalisations. Each is a few statistics over the
 * row, every one of which may use those before it, and a result per element.
 */
import { add, divide, type Index, product, scale, ZERO } from "./indexing.js";
import { literal } from "./pointwise.js";
import type { Scope } from "./scope.js";
import { axis, broadcastIndex, type Operand, operand, output, Refused, type Site } from "./site.js";

export interface Statistic {
  readonly start: string;
  readonly combine: (a: string, b: string) => string;
  /** What an element adds. `x` is the row's element, `before` the finished statistics. */
  element(x: string, before: readonly string[]): string;
  /** From the combined total, once per row. */
  finish(total: string): string;
}
export interface RowProgram {
  /** Rows, and elements of a row, as dims. */
  readonly outer: readonly number[];
  readonly inner: readonly number[];
  /** Index in the operand (and the result, whose dims are the same) of an element of a row. */
  place(outer: readonly Index[], inner: readonly Index[]): readonly Index[];
  readonly x: Operand;
  readonly statistics: readonly Statistic[];
  result(scope: Scope, x: string, statistics: readonly string[], index: readonly Index[]): string;
}

const total = (element: Statistic["element"], finish: Statistic["finish"] = (t) => t): Statistic => ({
  start: "0.0f",
  combine: (a, b) => `${a} + ${b}`,
  element,
  finish,
});
const maximum: Statistic = {
  start: "__int_as_float(0xff800000)",
  combine: (a, b) => `fmaxf(${a}, ${b})`,
  element: (x) => x,
  finish: (t) => t,
};
const mean = (n: number): Statistic =>
  total(
    (x) => x,
    (t) => `${t} * ${literal(1 / n, "float")}`,
  );
/** Reciprocal of the standard deviation, from squares about the mean (statistic 0). */
const inverseDeviation = (n: number, epsilon: number): Statistic =>
  total(
    (x, [m]) => `(${x} - ${m}) * (${x} - ${m})`,
    (t) => `1.0f / sqrtf(${t} * ${literal(1 / n, "float")} + ${literal(epsilon, "float")})`,
  );

/** Rows along some axes of the operand. */
function along(x: Operand, axes: readonly number[]): Pick<RowProgram, "outer" | "inner" | "place" | "x"> {
  const kept = x.dims.map((_, i) => i).filter((i) => !axes.includes(i));
  return {
    x,
    outer: kept.map((i) => x.dims[i] as number),
    inner: axes.map((i) => x.dims[i] as number),
    place: (outer, inner) =>
      x.dims.map((_, i) => (axes.includes(i) ? (inner[axes.indexOf(i)] as Index) : (outer[kept.indexOf(i)] as Index))),
  };
}

function softmax(s: Site, log: boolean): RowProgram {
  const x = operand(s, 0);
  const rows = along(x, [axis(s.attrs.axis, x.dims.length)]);
  const exponentials = total(
    (v, [m]) => `expf(${v} - ${m})`,
    (t) => (log ? `logf(${t})` : `1.0f / ${t}`),
  );
  return {
    ...rows,
    statistics: [maximum, exponentials],
    result: (scope, v, [m, t]) => scope.let("float", log ? `${v} - ${m} - ${t}` : `expf(${v} - ${m}) * ${t}`),
  };
}

function layerNormalization(s: Site): RowProgram {
  const [x, gamma] = [operand(s, 0), operand(s, 1)];
  const beta = s.ins[2];
  if (s.outs[1] !== undefined || s.outs[2] !== undefined) throw new Refused("the statistics of LayerNormalization are not given out");
  const a = axis(s.attrs.axis, x.dims.length);
  const rows = along(
    x,
    x.dims.map((_, i) => i).filter((i) => i >= a),
  );
  const n = product(rows.inner);
  return {
    ...rows,
    statistics: [mean(n), inverseDeviation(n, s.attrs.epsilon)],
    result: (scope, v, [m, d], index) => {
      const scaled = `(${v} - ${m}) * ${d} * ${gamma.at(scope, broadcastIndex(gamma.dims, index))}`;
      return scope.let("float", beta === undefined ? scaled : `${scaled} + ${beta.at(scope, broadcastIndex(beta.dims, index))}`);
    },
  };
}
function rmsNormalization(s: Site): RowProgram {
  const [x, gamma] = [operand(s, 0), operand(s, 1)];
  const a = axis(s.attrs.axis, x.dims.length);
  const rows = along(
    x,
    x.dims.map((_, i) => i).filter((i) => i >= a),
  );
  const n = product(rows.inner);
  return {
    ...rows,
    statistics: [
      total(
        (v) => `${v} * ${v}`,
        (t) => `1.0f / sqrtf(${t} * ${literal(1 / n, "float")} + ${literal(s.attrs.epsilon, "float")})`,
      ),
    ],
    result: (scope, v, [d], index) => scope.let("float", `${v} * ${d} * ${gamma.at(scope, broadcastIndex(gamma.dims, index))}`),
  };
}
/** Over the spatial dims, per image and channel. */
function instanceNormalization(s: Site): RowProgram {
  const [x, gamma, beta] = [operand(s, 0), operand(s, 1), operand(s, 2)];
  const rows = along(
    x,
    x.dims.map((_, i) => i).filter((i) => i >= 2),
  );
  const n = product(rows.inner);
  return {
    ...rows,
    statistics: [mean(n), inverseDeviation(n, s.attrs.epsilon)],
    result: (scope, v, [m, d], index) => {
      const c = [index[1] as Index];
      return scope.let("float", `(${v} - ${m}) * ${d} * ${gamma.at(scope, c)} + ${beta.at(scope, c)}`);
    },
  };
}
/** Over groups of channels and the spatial dims; scale and bias per channel. */
function groupNormalization(s: Site): RowProgram {
  const [x, gamma, beta] = [operand(s, 0), operand(s, 1), operand(s, 2)];
  const groups: number = s.attrs.num_groups;
  const per = (x.dims[1] as number) / groups;
  const inner = [per, ...x.dims.slice(2)];
  const n = product(inner);
  return {
    x,
    outer: [x.dims[0] as number, groups],
    inner,
    place: ([b = ZERO, g = ZERO], [c = ZERO, ...rest]) => [b, add(scale(g, per), c), ...rest],
    statistics: [mean(n), inverseDeviation(n, s.attrs.epsilon)],
    result: (scope, v, [m, d], index) => {
      const c = index[1] as Index;
      // Scales used to come per group.
      const at = [gamma.dims[0] === groups && groups !== x.dims[1] ? divide(c, per) : c];
      return scope.let("float", `(${v} - ${m}) * ${d} * ${gamma.at(scope, at)} + ${beta.at(scope, at)}`);
    },
  };
}
function lpNormalization(s: Site): RowProgram {
  const x = operand(s, 0);
  const squares = s.attrs.p === 2;
  return {
    ...along(x, [axis(s.attrs.axis, x.dims.length)]),
    statistics: [
      total(
        (v) => (squares ? `${v} * ${v}` : `fabsf(${v})`),
        (t) => (squares ? `sqrtf(${t})` : t),
      ),
    ],
    // A row of zeros stays zero.
    result: (scope, v, [t]) => scope.let("float", `(${t} == 0.0f ? 0.0f : ${v} / ${t})`),
  };
}
function meanVariance(s: Site): RowProgram {
  const x = operand(s, 0);
  const rank = x.dims.length;
  const axes: readonly number[] = (s.attrs.axes ?? [0, 2, 3]).map((a: number) => axis(a, rank));
  const rows = along(x, axes);
  const n = product(rows.inner);
  return {
    ...rows,
    statistics: [
      mean(n),
      total(
        (v, [m]) => `(${v} - ${m}) * (${v} - ${m})`,
        (t) => `1.0f / (sqrtf(${t} * ${literal(1 / n, "float")}) + 1e-9f)`,
      ),
    ],
    result: (scope, v, [m, d]) => scope.let("float", `(${v} - ${m}) * ${d}`),
  };
}

const programs: Readonly<Record<string, (s: Site) => RowProgram>> = {
  Softmax: (s) => softmax(s, false),
  LogSoftmax: (s) => softmax(s, true),
  LayerNormalization: layerNormalization,
  RMSNormalization: rmsNormalization,
  InstanceNormalization: instanceNormalization,
  GroupNormalization: groupNormalization,
  LpNormalization: lpNormalization,
  MeanVarianceNormalization: meanVariance,
};

/** The row program of a node; undefined when it is none. Throws `Refused`. */
export function rowProgram(s: Site): RowProgram | undefined {
  if (s.node.domain !== "" || !Object.hasOwn(programs, s.node.op)) return undefined;
  void output(s);
  return programs[s.node.op]?.(s);
}
export const rowOps: readonly string[] = Object.keys(programs);
