/**
 * Special functions, computed in float64 by series, continued fractions and asymptotic expansions. Formulas: Abramowitz and Stegun, Handbook of
 * Mathematical Functions, chapters 6 (gamma), 9 (Bessel), 23 (zeta), 26 (beta); continued fractions by the modified Lentz method.
 */
import { isFloat } from "../../ir/dtypes.js";
import { defineTfOp, type TfBuilder, type TfNode, type Val } from "./define.js";
import { inverseErf, upTo } from "./helpers.js";

type Unary = (b: TfBuilder, x: Val) => Val;
const k = (b: TfBuilder, v: number): Val => b.scalar("float64", v);
/** c0 x^n + c1 x^(n-1) + ... */
const polynomial = (b: TfBuilder, x: Val, coefficients: readonly number[]): Val =>
  coefficients.slice(1).reduce((p, c) => b.add(b.mul(p, x), k(b, c)), k(b, coefficients[0] ?? 0));
const log: Unary = (b, x) => b.op("Log", [x]);
const exp: Unary = (b, x) => b.op("Exp", [x]);
const less = (b: TfBuilder, x: Val, y: Val): Val => b.op("Less", [x, y]);
const equal = (b: TfBuilder, x: Val, y: Val): Val => b.op("Equal", [x, y]);
const either = (b: TfBuilder, ...xs: readonly Val[]): Val => xs.reduce((p, x) => b.op("Or", [p, x]));
const NAN = Number.NaN;
const INF = Number.POSITIVE_INFINITY;

function inFloat64(n: TfNode, b: TfBuilder, ins: readonly Val[], f: (b: TfBuilder, ...ins: readonly Val[]) => Val): Val {
  const [first] = ins;
  if (first === undefined) return n.refuse("it has no operands");
  if (!isFloat(first.dtype)) return n.refuse(`it is given ${first.dtype}`);
  const empty = ins.find((x) => x.shape?.includes(0) === true);
  if (empty !== undefined) return empty;
  return b.cast(f(b, ...ins.map((x) => b.cast(x, "float64"))), first.dtype);
}
const MADE = [
  "Log",
  "Exp",
  "Sin",
  "Cos",
  "Sqrt",
  "Pow",
  "Add",
  "Sub",
  "Mul",
  "Div",
  "Where",
  "Less",
  "Equal",
  "Or",
  "Floor",
  "Abs",
  "Cast",
  "Max",
  "Neg",
  "Loop",
  "Greater",
  "And",
  "Reciprocal",
  "ReduceSum",
  "ReduceMean",
  "LessOrEqual",
  "GreaterOrEqual",
  "Mod",
  "Sign",
];
const special = (names: string | readonly string[], f: (b: TfBuilder, ...ins: readonly Val[]) => Val) =>
  defineTfOp({ names: typeof names === "string" ? [names] : names, to: MADE, lower: (n, b) => inFloat64(n, b, n.list(0), f) });
const unary = (name: string, f: Unary) => special(name, (b, x) => (x === undefined ? k(b, 0) : f(b, x)));

// ---- gamma --------------------------------------------------------------------------------------------------------------------------------

/** log |gamma|: Stirling's series (6.1.41) at x + 8, brought back by the recurrence; below 1/2 by reflection (6.1.17). */
const lgamma: Unary = (b, x) => {
  const reflect = less(b, x, k(b, 0.5));
  const y = b.where(reflect, b.sub(k(b, 1), x), x);
  const shifted = b.add(y, k(b, 8));
  const square = b.op("Reciprocal", [b.mul(shifted, shifted)]);
  const series = b.div(polynomial(b, square, [1 / 156, -691 / 360360, 1 / 1188, -1 / 1680, 1 / 1260, -1 / 360, 1 / 12]), shifted);
  const stirling = b.add(
    b.sub(b.mul(b.sub(shifted, k(b, 0.5)), log(b, shifted)), shifted),
    b.add(k(b, 0.5 * Math.log(2 * Math.PI)), series),
  );
  // Logarithms one by one: the product overflows for large x.
  const back = upTo(8).reduce((sum, i) => b.sub(sum, log(b, b.add(y, k(b, i)))), stirling);
  const finite = b.where(equal(b, y, k(b, INF)), k(b, INF), back);
  const sine = b.op("Abs", [b.op("Sin", [b.mul(k(b, Math.PI), b.sub(x, b.op("Floor", [x])))])]);
  return b.where(reflect, b.sub(k(b, Math.log(Math.PI)), b.add(log(b, sine), finite)), finite);
};
export const lgammaOp = unary("Lgamma", lgamma);

/** The asymptotic series (6.3.18) at x + 10, brought back by the recurrence; below zero by reflection (6.3.7). */
const digamma: Unary = (b, x) => {
  const reflect = b.op("LessOrEqual", [x, k(b, 0)]);
  const y = b.where(reflect, b.sub(k(b, 1), x), x);
  const shifted = b.add(y, k(b, 10));
  const square = b.op("Reciprocal", [b.mul(shifted, shifted)]);
  const series = b.mul(square, polynomial(b, square, [1 / 12, -691 / 32760, 1 / 132, -1 / 240, 1 / 252, -1 / 120, 1 / 12]));
  const far = b.sub(b.sub(log(b, shifted), b.div(k(b, 0.5), shifted)), series);
  const back = upTo(10).reduce((sum, i) => b.sub(sum, b.op("Reciprocal", [b.add(y, k(b, i))])), far);
  const angle = b.mul(k(b, Math.PI), b.sub(x, b.op("Floor", [x])));
  const cotangent = b.div(b.op("Cos", [angle]), b.op("Sin", [angle]));
  const pole = b.op("And", [reflect, equal(b, x, b.op("Floor", [x]))]);
  return b.where(pole, k(b, NAN), b.where(reflect, b.sub(back, b.mul(k(b, Math.PI), cotangent)), back));
};
export const digammaOp = unary("Digamma", digamma);

/** Bernoulli numbers B2, B4, ... over (2j)!. */
const BERNOULLI = [1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160, -691 / 1307674368000, 1 / 74724249600];
const TERMS = 16;
/** Hurwitz's zeta: the first terms, and Euler and Maclaurin's formula for the rest (23.1.30). */
function zeta(b: TfBuilder, s: Val, q: Val): Val {
  const power = (base: Val): Val => b.op("Pow", [base, b.op("Neg", [s])]);
  const first = upTo(TERMS).reduce((sum, i) => b.add(sum, power(b.add(q, k(b, i)))), k(b, 0));
  const a = b.add(q, k(b, TERMS));
  const tail = power(a);
  let rest = b.add(b.div(b.mul(tail, a), b.sub(s, k(b, 1))), b.mul(k(b, 0.5), tail));
  let factor = b.div(b.mul(s, tail), a);
  BERNOULLI.forEach((c, j) => {
    rest = b.add(rest, b.mul(k(b, c), factor));
    const next = b.mul(b.add(s, k(b, 2 * j + 1)), b.add(s, k(b, 2 * j + 2)));
    factor = b.div(b.mul(factor, next), b.mul(a, a));
  });
  const pole = b.op("And", [b.op("LessOrEqual", [q, k(b, 0)]), equal(b, q, b.op("Floor", [q]))]);
  const good = b.where(either(b, equal(b, s, k(b, 1)), pole), k(b, INF), b.add(first, rest));
  return b.where(less(b, s, k(b, 1)), k(b, NAN), good);
}
export const zetaOp = special("Zeta", (b, s, q) => (s === undefined || q === undefined ? k(b, 0) : zeta(b, s, q)));
/** (-1)^(n+1) n! zeta(n + 1, x) (6.4.10). */
export const polygamma = special("Polygamma", (b, n, x) => {
  if (n === undefined || x === undefined) return k(b, 0);
  const order = b.add(n, k(b, 1));
  const sign = b.sub(k(b, 1), b.mul(k(b, 2), b.op("Mod", [order, k(b, 2)], { fmod: 1 })));
  const high = b.mul(b.mul(sign, exp(b, lgamma(b, order))), zeta(b, order, x));
  const zero = equal(b, n, k(b, 0));
  const whole = b.op("And", [b.op("GreaterOrEqual", [n, k(b, 0)]), equal(b, n, b.op("Floor", [n]))]);
  return b.where(whole, b.where(zero, digamma(b, x), high), k(b, NAN));
});

/** Steps until `done` says so of every element; `step` gives the next state. */
function iterated(
  b: TfBuilder,
  name: string,
  state: readonly Val[],
  step: (c: TfBuilder, i: Val, state: readonly Val[]) => { readonly next: readonly Val[]; readonly open: Val },
): readonly Val[] {
  const MOST = 2000;
  const body = b.body(
    name,
    [
      { name: `${name}/i`, type: { kind: "tensor", dtype: "int64", shape: [] } },
      { name: `${name}/go`, type: { kind: "tensor", dtype: "bool", shape: [] } },
      ...state.map((v, i) => ({ name: `${name}/${i}`, type: v.fact.type })),
    ],
    (c, [i, , ...values]) => {
      if (i === undefined) return [];
      const { next, open } = step(c, c.add(c.cast(i, "float64"), k(c, 1)), values);
      const count = c.op("ReduceSum", [c.cast(open, "int64")], { keepdims: false });
      return [c.op("Greater", [count, c.int64(0)]), ...next];
    },
  );
  return b.ops("Loop", [b.int64(MOST), b.scalar("bool", true), ...state], { body }, state.length);
}
const EPSILON = 1e-15;
const TINY = 1e-300;
/** Not zero, as Lentz's method needs its denominators. */
const apart = (c: TfBuilder, v: Val): Val => c.where(less(c, c.op("Abs", [v]), k(c, TINY)), k(c, TINY), v);

/** The regularised incomplete gamma functions: a power series below a + 1 (6.5.29), a continued fraction above it (6.5.31). */
function incompleteGamma(b: TfBuilder, a0: Val, x0: Val, upper: boolean): Val {
  // Both of the common shape.
  const a1 = b.add(a0, b.mul(x0, k(b, 0)));
  const infinite = equal(b, x0, k(b, INF));
  const finite = b.where(infinite, k(b, 1), x0);
  const a = b.add(a0, b.mul(finite, k(b, 0)));
  const x = b.add(finite, b.mul(a0, k(b, 0)));
  const series = less(b, x, b.add(a, k(b, 1)));
  const front = exp(b, b.sub(b.sub(b.mul(a, log(b, x)), x), lgamma(b, a)));
  const [sa, sx] = [b.where(series, a, k(b, 1)), b.where(series, x, k(b, 0.5))];
  const start = b.op("Reciprocal", [sa]);
  const [, sum] = iterated(b, "series", [start, start], (c, i, [term, total]) => {
    if (term === undefined || total === undefined) return { next: [], open: c.scalar("bool", false) };
    const next = c.div(c.mul(term, sx), c.add(sa, i));
    const grown = c.add(total, next);
    return { next: [next, grown], open: c.op("Greater", [c.op("Abs", [next]), c.mul(c.op("Abs", [grown]), k(c, EPSILON))]) };
  });
  const [ca, cx] = [b.where(series, k(b, 1), a), b.where(series, k(b, 3), x)];
  const b0 = b.add(b.sub(cx, ca), k(b, 1));
  const d0 = b.op("Reciprocal", [apart(b, b0)]);
  const c0 = b.add(k(b, 1 / TINY), b.mul(b0, k(b, 0)));
  const [, , , fraction] = iterated(b, "fraction", [b0, c0, d0, d0], (c, i, [bi, ci, di, h]) => {
    if (bi === undefined || ci === undefined || di === undefined || h === undefined) return { next: [], open: c.scalar("bool", false) };
    const an = c.mul(c.op("Neg", [i]), c.sub(i, ca));
    const next = c.add(bi, k(c, 2));
    const d = c.op("Reciprocal", [apart(c, c.add(c.mul(an, di), next))]);
    const cn = apart(c, c.add(next, c.div(an, ci)));
    const factor = c.mul(d, cn);
    const open = c.op("Greater", [c.op("Abs", [c.sub(factor, k(c, 1))]), k(c, EPSILON)]);
    return { next: [next, cn, d, c.mul(h, factor)], open };
  });
  if (sum === undefined || fraction === undefined) throw new Error("Loop made no result");
  const [p, q] = [b.mul(front, sum), b.mul(front, fraction)];
  const one = k(b, 1);
  const value = upper ? b.where(series, b.sub(one, p), q) : b.where(series, p, b.sub(one, q));
  const atZero = b.where(equal(b, x, k(b, 0)), k(b, upper ? 1 : 0), value);
  const atEnd = b.where(infinite, k(b, upper ? 0 : 1), atZero);
  return b.where(either(b, less(b, x0, k(b, 0)), b.op("LessOrEqual", [a1, k(b, 0)])), k(b, NAN), atEnd);
}
export const igamma = special("Igamma", (b, a, x) => (a === undefined || x === undefined ? k(b, 0) : incompleteGamma(b, a, x, false)));
export const igammac = special("Igammac", (b, a, x) => (a === undefined || x === undefined ? k(b, 0) : incompleteGamma(b, a, x, true)));

/** The regularised incomplete beta function by its continued fraction (26.5.8), mirrored where that converges faster. */
export const betainc = special("Betainc", (b, p, q, x) => {
  if (p === undefined || q === undefined || x === undefined) return k(b, 0);
  const one = k(b, 1);
  const zeros = b.mul(b.add(b.add(p, q), x), k(b, 0));
  const mirrored = b.op("Greater", [b.add(x, zeros), b.div(b.add(p, one), b.add(b.add(p, q), k(b, 2)))]);
  const inside = b.op("And", [b.op("Greater", [x, k(b, 0)]), less(b, x, one)]);
  const safe = b.where(inside, b.add(x, zeros), k(b, 0.5));
  const [a, c0] = [b.where(mirrored, q, p), b.where(mirrored, p, q)];
  const z = b.where(mirrored, b.sub(one, safe), safe);
  const logs = b.add(b.mul(a, log(b, z)), b.mul(c0, log(b, b.sub(one, z))));
  const front = b.div(exp(b, b.add(b.sub(lgamma(b, b.add(a, c0)), b.add(lgamma(b, a), lgamma(b, c0))), logs)), a);
  const both = b.add(a, c0);
  const d0 = b.op("Reciprocal", [apart(b, b.sub(one, b.div(b.mul(both, z), b.add(a, one))))]);
  const start = b.add(one, b.mul(d0, k(b, 0)));
  const [, , h] = iterated(b, "fraction", [start, d0, d0], (c, m, [ci, di, hi]) => {
    if (ci === undefined || di === undefined || hi === undefined) return { next: [], open: c.scalar("bool", false) };
    const twice = c.add(c.add(a, m), m);
    const step = (factor: Val, cn: Val, dn: Val): readonly [c: Val, d: Val] => [
      apart(c, c.add(k(c, 1), c.div(factor, cn))),
      c.op("Reciprocal", [apart(c, c.add(k(c, 1), c.mul(factor, dn)))]),
    ];
    const even = c.div(c.mul(c.mul(m, c.sub(c0, m)), z), c.mul(c.sub(twice, k(c, 1)), twice));
    const [c1, d1] = step(even, ci, di);
    const odd = c.op("Neg", [c.div(c.mul(c.mul(c.add(a, m), c.add(both, m)), z), c.mul(twice, c.add(twice, k(c, 1))))]);
    const [c2, d2] = step(odd, c1, d1);
    const factor = c.mul(d2, c2);
    const open = c.op("Greater", [c.op("Abs", [c.sub(factor, k(c, 1))]), k(c, EPSILON)]);
    return { next: [c2, d2, c.mul(c.mul(hi, c.mul(d1, c1)), factor)], open };
  });
  if (h === undefined) throw new Error("Loop made no result");
  const direct = b.mul(front, h);
  const value = b.where(mirrored, b.sub(one, direct), direct);
  const edges = b.where(b.op("LessOrEqual", [x, k(b, 0)]), k(b, 0), b.where(b.op("GreaterOrEqual", [x, one]), one, value));
  const wrong = either(
    b,
    b.op("LessOrEqual", [p, k(b, 0)]),
    b.op("LessOrEqual", [q, k(b, 0)]),
    less(b, x, k(b, 0)),
    b.op("Greater", [x, one]),
  );
  return b.where(wrong, k(b, NAN), edges);
});

// ---- errors and Bessel ----------------------------------------------------------------------------------------------------------------------

export const erfinv = defineTfOp({
  name: "Erfinv",
  to: [...MADE, "Erf"],
  lower: (n, b) => b.via(n.in(0), "float32", (x) => inverseErf(b, x)),
});
/** The quantile of the normal distribution. */
export const ndtri = defineTfOp({
  name: "Ndtri",
  to: [...MADE],
  lower: (n, b) =>
    b.via(n.in(0), "float32", (x) => {
      const c = (v: number): Val => b.scalar("float32", v);
      return b.mul(inverseErf(b, b.sub(b.mul(x, c(2)), c(1))), c(Math.SQRT2));
    }),
});
const POINTS = 256;
/**
 * exp(-|x|) I(x) as the mean of exp(|x| (cos t - 1)) (times cos t for order 1) over the circle (9.6.19), which equidistant points give to
 * within exp(-POINTS^2 / 2|x|); beyond that the asymptotic series (9.7.1).
 */
function besselScaled(b: TfBuilder, x: Val, order: 0 | 1): Val {
  const size = b.op("Abs", [x]);
  const angles = upTo(POINTS).map((i) => Math.cos((2 * Math.PI * (i + 0.5)) / POINTS));
  const drops = b.const(
    "float64",
    [POINTS],
    angles.map((c) => c - 1),
  );
  const waves = exp(b, b.mul(b.unsqueeze(size, [-1]), drops));
  const weighed = order === 0 ? waves : b.mul(waves, b.const("float64", [POINTS], angles));
  const near = b.op("ReduceMean", [weighed, b.int64([-1])], { keepdims: false });
  const mu = 4 * order * order;
  const inverse = b.div(k(b, 1), b.mul(k(b, 8), b.op("Max", [size, k(b, 1)])));
  const series = polynomial(b, inverse, [-((mu - 1) * (mu - 9) * (mu - 25)) / 6, ((mu - 1) * (mu - 9)) / 2, -(mu - 1), 1]);
  const far = b.div(series, b.op("Sqrt", [b.mul(k(b, 2 * Math.PI), b.op("Max", [size, k(b, 1)]))]));
  const value = b.where(less(b, size, k(b, 800)), near, far);
  return order === 0 ? value : b.mul(value, b.op("Sign", [x]));
}
const bessel = (name: string, order: 0 | 1, scaled: boolean) =>
  unary(name, (b, x) => {
    const y = besselScaled(b, x, order);
    return scaled ? y : b.mul(y, exp(b, b.op("Abs", [x])));
  });
export const besselI0e = bessel("BesselI0e", 0, true);
export const besselI1e = bessel("BesselI1e", 1, true);
export const besselI0 = bessel("BesselI0", 0, false);
export const besselI1 = bessel("BesselI1", 1, false);
export const otherSpecial = defineTfOp({
  names: [
    "BesselJ0",
    "BesselJ1",
    "BesselY0",
    "BesselY1",
    "BesselK0",
    "BesselK1",
    "BesselK0e",
    "BesselK1e",
    "Dawsn",
    "Expint",
    "FresnelCos",
    "FresnelSin",
    "Spence",
    "IgammaGradA",
    "NextAfter",
  ],
  absent: "ONNX has no operators to compute this function with",
  fix: "compute it in your program and cut the graph with `inputs` and `outputs`",
});
