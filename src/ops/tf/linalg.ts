/**
 * Matrix decompositions and solvers, as loops of whole-matrix steps over all matrices of a batch at once. Formulas: Golub and Van Loan, Matrix
 * Computations: 3.1 (triangular systems), 3.4 (pivoting), 4.2 (Cholesky), 5.2 (Householder QR), 8.5 and 8.6 (Jacobi).
 */
import { defineTfOp, type TfBuilder, type TfNode, type Val } from "./define.js";
import { counting, dimOf, repeated, shapeFrom, transposed, upTo } from "./helpers.js";
import { like } from "./kernels.js";

/** Element types that ONNX Runtime multiplies: float64 stays, the rest goes through float32. */
function inFloats(n: TfNode, b: TfBuilder, x: Val): Val {
  if (x.dtype.startsWith("complex")) return n.refuse("ONNX Runtime has no complex numbers");
  return b.cast(x, x.dtype === "float64" ? "float64" : "float32");
}
const asTrips = (b: TfBuilder, d: number | Val): Val => (typeof d === "number" ? b.int64(d) : d);
/** A one-hot mask of place `i` along the rows ([k, 1]) or columns ([1, k]). */
const at = (b: TfBuilder, count: number | Val, i: Val, side: "row" | "column"): Val =>
  b.op("Equal", [b.unsqueeze(counting(b, count), [side === "row" ? 1 : 0]), i]);
const sumOver = (b: TfBuilder, x: Val, axis: -1 | -2): Val => b.op("ReduceSum", [x, b.int64([axis])], { keepdims: true });
/** Row or column of `x` that `mask` marks, kept as a matrix of one row or column. */
const pick = (b: TfBuilder, x: Val, mask: Val, zero: Val, axis: -1 | -2): Val => sumOver(b, b.where(mask, x, zero), axis);

/** Rows i and the largest of column i below it change places; then column i is eliminated from all other rows. */
interface Eliminated {
  readonly matrix: Val;
  /** Logarithm of the product of pivots' magnitudes, [..., 1, 1]. */
  readonly log: Val;
  /** Its sign. */
  readonly sign: Val;
}
function eliminate(n: TfNode, b: TfBuilder, matrix: Val, rows: number | Val, cols: number | Val): Eliminated {
  const rank = b.rank(matrix);
  const zero = like(n, b, matrix, 0);
  const batch = upTo(rank - 2).map((i) => dimOf(b, matrix, i));
  const scalars = (v: number): Val => b.expand(like(n, b, matrix, v), shapeFrom(b, [...batch, 1, 1]));
  const [done, log, sign] = repeated(b, "eliminate", asTrips(b, rows), [matrix, scalars(0), scalars(1)], (c, i, [m, l, s]) => {
    if (m === undefined || l === undefined || s === undefined) return [];
    const [row, column] = [at(c, rows, i, "row"), at(c, cols, i, "column")];
    const value = pick(c, m, column, zero, -1);
    const below = c.op("GreaterOrEqual", [c.unsqueeze(counting(c, rows), [1]), i]);
    const size = c.where(below, c.op("Abs", [value]), like(n, c, m, -1));
    const p = c.op("ArgMax", [size], { axis: -2, keepdims: true });
    const pivotRow = c.op("Equal", [c.unsqueeze(counting(c, rows), [1]), p]);
    const [upper, lower] = [pick(c, m, row, zero, -2), pick(c, m, pivotRow, zero, -2)];
    const swapped = c.where(row, lower, c.where(pivotRow, upper, m));
    const pivot = pick(c, lower, column, zero, -1);
    const unit = c.div(lower, pivot);
    const factor = c.where(row, zero, pick(c, swapped, column, zero, -1));
    const next = c.where(row, unit, c.sub(swapped, c.mul(factor, unit)));
    const moved = c.where(c.op("Equal", [p, i]), like(n, c, m, 1), like(n, c, m, -1));
    return [next, c.add(l, c.op("Log", [c.op("Abs", [pivot])])), c.mul(s, c.mul(moved, c.op("Sign", [pivot])))];
  });
  if (done === undefined || log === undefined || sign === undefined) return n.refuse("its elimination has no result");
  return { matrix: done, log, sign };
}
const ELIMINATION = [
  "Loop",
  "Where",
  "Equal",
  "ArgMax",
  "ReduceSum",
  "Div",
  "Mul",
  "Sub",
  "Concat",
  "Slice",
  "Add",
  "Abs",
  "Log",
  "Sign",
  "GreaterOrEqual",
];
const sides = (b: TfBuilder, x: Val): readonly [rank: number, rows: number | Val, cols: number | Val] => {
  const rank = b.rank(x);
  return [rank, dimOf(b, x, rank - 2), dimOf(b, x, rank - 1)];
};
const plus = (b: TfBuilder, x: number | Val, y: number | Val): number | Val =>
  typeof x === "number" && typeof y === "number" ? x + y : b.add(asTrips(b, x), asTrips(b, y));

/** x of a x = y for square a. */
function solved(n: TfNode, b: TfBuilder, a: Val, y: Val): Val {
  const [rank, size] = sides(b, a);
  const [, , width] = sides(b, y);
  const { matrix } = eliminate(n, b, b.concat([a, y], rank - 1), size, plus(b, size, width));
  const start = asTrips(b, size);
  return b.op("Slice", [matrix, b.reshape(start, [1]), b.reshape(asTrips(b, plus(b, size, width)), [1]), b.int64([rank - 1])]);
}
const identity = (n: TfNode, b: TfBuilder, of: Val, size: number | Val): Val => {
  const equal = b.op("Equal", [b.unsqueeze(counting(b, size), [1]), b.unsqueeze(counting(b, size), [0])]);
  const one = b.cast(equal, of.dtype);
  return b.add(one, b.mul(of, like(n, b, of, 0)));
};
const emptyMatrix = (x: Val): boolean => x.shape?.includes(0) === true;

export const matrixInverse = defineTfOp({
  names: ["MatrixInverse", "BatchMatrixInverse"],
  to: ELIMINATION,
  lower: (n, b) => {
    if (emptyMatrix(n.in(0))) return n.in(0);
    const x = inFloats(n, b, n.in(0));
    const a = n.bool("adjoint", false) ? transposed(b, x) : x;
    const [, size] = sides(b, a);
    return b.cast(solved(n, b, a, identity(n, b, a, size)), n.in(0).dtype);
  },
});
export const matrixSolve = defineTfOp({
  names: ["MatrixSolve", "BatchMatrixSolve"],
  to: ELIMINATION,
  lower: (n, b) => {
    const x = inFloats(n, b, n.in(0));
    if (emptyMatrix(n.in(1))) return n.in(1);
    return b.cast(solved(n, b, n.bool("adjoint", false) ? transposed(b, x) : x, inFloats(n, b, n.in(1))), n.in(1).dtype);
  },
});
export const matrixDeterminant = defineTfOp({
  names: ["MatrixDeterminant", "BatchMatrixDeterminant"],
  to: ["Det", "Cast"],
  lower: (n, b) => b.cast(b.op("Det", [b.cast(n.in(0), "float32")]), n.in(0).dtype),
});
export const logMatrixDeterminant = defineTfOp({
  name: "LogMatrixDeterminant",
  outs: ["sign", "log_abs_determinant"],
  to: ELIMINATION,
  lower: (n, b) => {
    const x = inFloats(n, b, n.in(0));
    const [, size] = sides(b, x);
    const { sign, log } = eliminate(n, b, x, size, size);
    return [sign, log].map((v) => b.cast(b.squeeze(v, [-2, -1]), n.in(0).dtype));
  },
});

/** Column by column: l[:, j] = (a[:, j] - l l[j, :]^T) / sqrt of its own element j. */
export const cholesky = defineTfOp({
  names: ["Cholesky", "BatchCholesky"],
  to: ["Loop", "MatMul", "Where", "Equal", "GreaterOrEqual", "ReduceSum", "Sqrt", "Mul", "Div", "Sub"],
  lower: (n, b) => {
    if (emptyMatrix(n.in(0))) return n.in(0);
    const a = inFloats(n, b, n.in(0));
    const [, size] = sides(b, a);
    const zero = like(n, b, a, 0);
    const [l] = repeated(b, "cholesky", asTrips(b, size), [b.mul(a, zero)], (c, j, [so]) => {
      if (so === undefined) return [];
      const [row, column] = [at(c, size, j, "row"), at(c, size, j, "column")];
      const own = transposed(c, pick(c, so, row, zero, -2));
      const left = c.sub(pick(c, a, column, zero, -1), c.op("MatMul", [so, own]));
      const root = c.op("Sqrt", [pick(c, left, row, zero, -2)]);
      const below = c.op("GreaterOrEqual", [c.unsqueeze(counting(c, size), [1]), j]);
      return [c.where(column, c.where(below, c.div(left, root), zero), so)];
    });
    return l === undefined ? n.refuse("its loop has no result") : b.cast(l, n.in(0).dtype);
  },
});
/** Row by row, from the first for lower triangles and from the last for upper ones: x_i = (y_i - a_i x) / a_ii. The other triangle is not read. */
export const triangularSolve = defineTfOp({
  names: ["MatrixTriangularSolve", "BatchMatrixTriangularSolve"],
  to: ["Loop", "MatMul", "Where", "Equal", "GreaterOrEqual", "LessOrEqual", "ReduceSum", "Mul", "Div", "Sub", "Transpose"],
  lower: (n, b) => {
    if (emptyMatrix(n.in(1))) return n.in(1);
    const adjoint = n.bool("adjoint", false);
    const lower = n.bool("lower", true) !== adjoint;
    const given = inFloats(n, b, n.in(0));
    const raw = adjoint ? transposed(b, given) : given;
    const [, size] = sides(b, raw);
    const zero = like(n, b, raw, 0);
    const [i, j] = [b.unsqueeze(counting(b, size), [1]), b.unsqueeze(counting(b, size), [0])];
    const a = b.where(b.op(lower ? "GreaterOrEqual" : "LessOrEqual", [i, j]), raw, zero);
    const y = inFloats(n, b, n.in(1));
    // Batches broadcast: zeros of the result's shape.
    const start = b.mul(b.op("MatMul", [a, y]), zero);
    const last = typeof size === "number" ? b.int64(size - 1) : b.sub(size, b.int64(1));
    const [x] = repeated(b, "substitute", asTrips(b, size), [start], (c, step, [so]) => {
      if (so === undefined) return [];
      const row = at(c, size, lower ? step : c.sub(last, step), "row");
      const coefficients = pick(c, a, row, zero, -2);
      const diagonal = pick(c, coefficients, at(c, size, lower ? step : c.sub(last, step), "column"), zero, -1);
      const rest = c.sub(pick(c, y, row, zero, -2), c.op("MatMul", [coefficients, so]));
      return [c.where(row, c.div(rest, diagonal), so)];
    });
    return x === undefined ? n.refuse("its loop has no result") : b.cast(x, n.in(1).dtype);
  },
});
/** By Householder reflections with the sign that makes the diagonal of r negative where the column begins positive, as Eigen's. */
export const qr = defineTfOp({
  name: "Qr",
  outs: ["q", "r"],
  to: [
    "Loop",
    "MatMul",
    "Where",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "LessOrEqual",
    "ReduceSum",
    "Add",
    "Div",
    "Sub",
    "Mul",
    "Neg",
    "Sqrt",
    "Transpose",
    "Slice",
  ],
  lower: (n, b) => {
    const a = inFloats(n, b, n.in(0));
    const [rank, rows, cols] = sides(b, a);
    if (typeof rows !== "number" || typeof cols !== "number") return n.refuse("the size of its matrices is not known at compile time");
    const zero = like(n, b, a, 0);
    const one = like(n, b, a, 1);
    const batch = upTo(rank - 2).map((i) => dimOf(b, a, i));
    const unit = b.cast(b.op("Equal", [b.unsqueeze(counting(b, rows), [1]), b.unsqueeze(counting(b, rows), [0])]), a.dtype);
    const q0 = b.expand(unit, shapeFrom(b, [...batch, rows, rows]));
    const [q, r] = repeated(b, "reflect", b.int64(Math.min(rows, cols)), [q0, a], (c, k, [qk, rk]) => {
      if (qk === undefined || rk === undefined) return [];
      const place = c.unsqueeze(counting(c, rows), [1]);
      const head = c.op("Equal", [place, k]);
      const column = pick(c, rk, at(c, cols, k, "column"), zero, -1);
      const tail = c.where(c.op("Greater", [place, k]), column, zero);
      const first = pick(c, column, head, zero, -2);
      const rest = sumOver(c, c.mul(tail, tail), -2);
      const norm = c.op("Sqrt", [c.add(c.mul(first, first), rest)]);
      const beta = c.where(c.op("GreaterOrEqual", [first, zero]), c.op("Neg", [norm]), norm);
      const flat = c.op("Equal", [rest, zero]);
      const tau = c.where(flat, zero, c.div(c.sub(beta, first), c.where(flat, one, beta)));
      const v = c.where(head, one, c.div(tail, c.where(flat, one, c.sub(first, beta))));
      const t = transposed(c, v);
      const reflected = c.sub(rk, c.mul(tau, c.op("MatMul", [v, c.op("MatMul", [t, rk])])));
      return [c.sub(qk, c.mul(tau, c.op("MatMul", [c.op("MatMul", [qk, v]), t]))), reflected];
    });
    if (q === undefined || r === undefined) return n.refuse("its loop has no result");
    const upper = b.op("LessOrEqual", [b.unsqueeze(counting(b, rows), [1]), b.unsqueeze(counting(b, cols), [0])]);
    const clean = b.where(upper, r, zero);
    const least = Math.min(rows, cols);
    const full = n.bool("full_matrices", false);
    const [fullQ, fullR] = full ? [q, clean] : [b.slice(q, [0], [least], [rank - 1]), b.slice(clean, [0], [least], [rank - 2])];
    return [fullQ, fullR].map((v) => b.cast(v, n.in(0).dtype));
  },
});
