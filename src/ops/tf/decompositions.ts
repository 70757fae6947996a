/**
 * Singular values and eigenvalues by Jacobi rotations, all disjoint pairs of columns at once. Golub and Van Loan, Matrix Computations, 8.5
 * (symmetric eigenproblem) and 8.6.3 (one-sided rotations). Signs of vectors are arbitrary, as they are in TensorFlow.
 */
import { defineTfOp, type TfBuilder, type TfNode, type Val } from "./define.js";
import { dimOf, repeated, shapeFrom, transposed, upTo } from "./helpers.js";
import { like } from "./kernels.js";

/** Sweeps after which float32 matrices of any size met in models have converged; convergence is quadratic at the end. */
const SWEEPS = 12;
const MAX_SIZE = 512;

/** Pairs of `n` columns (even) in n - 1 rounds, so that every two meet once: the first stays, the others move round. */
interface Rounds {
  readonly count: number;
  readonly left: Val;
  readonly right: Val;
  /** Brings [left..., right...] back in order. */
  readonly back: Val;
}
function roundsOf(b: TfBuilder, n: number): Rounds {
  const half = n / 2;
  const [left, right, back]: number[][] = [[], [], []];
  let ring = upTo(n - 1).map((i) => i + 1);
  for (let r = 0; r < n - 1; r++) {
    const order = [0, ...ring];
    const [p, q] = [order.slice(0, half), order.slice(half).reverse()];
    left?.push(...p);
    right?.push(...q);
    const now = [...p, ...q];
    back?.push(...upTo(n).map((i) => now.indexOf(i)));
    ring = [...ring.slice(1), ring[0] ?? 1];
  }
  const table = (values: readonly number[] | undefined, width: number): Val => b.const("int64", [n - 1, width], values ?? []);
  return { count: n - 1, left: table(left, half), right: table(right, half), back: table(back, n) };
}
interface Round {
  readonly left: Val;
  readonly right: Val;
  readonly back: Val;
}
const roundAt = (c: TfBuilder, rounds: Rounds, i: Val): Round => {
  const r = c.op("Mod", [i, c.int64(rounds.count)]);
  return { left: c.gather(rounds.left, r), right: c.gather(rounds.right, r), back: c.gather(rounds.back, r) };
};
/** Columns of each pair turned by (cos, sin) [..., 1, pairs]. */
function turned(c: TfBuilder, x: Val, round: Round, cos: Val, sin: Val): Val {
  const [p, q] = [c.gather(x, round.left, -1), c.gather(x, round.right, -1)];
  const both = [c.sub(c.mul(cos, p), c.mul(sin, q)), c.add(c.mul(sin, p), c.mul(cos, q))];
  return c.gather(c.op("Concat", both, { axis: -1 }), round.back, -1);
}
/** The rotation that makes the pair's product `off` vanish, for squared lengths (or diagonal elements) `low` and `high`. */
function rotation(n: TfNode, c: TfBuilder, low: Val, high: Val, off: Val): readonly [cos: Val, sin: Val] {
  const k = (v: number): Val => like(n, c, off, v);
  const none = c.op("Equal", [off, k(0)]);
  const zeta = c.div(c.sub(high, low), c.mul(k(2), c.where(none, k(1), off)));
  const size = c.add(c.op("Abs", [zeta]), c.op("Sqrt", [c.add(k(1), c.mul(zeta, zeta))]));
  const signed = c.where(c.op("Less", [zeta, k(0)]), c.op("Neg", [size]), size);
  const tan = c.where(none, k(0), c.op("Reciprocal", [signed]));
  const cos = c.op("Reciprocal", [c.op("Sqrt", [c.add(k(1), c.mul(tan, tan))])]);
  return [cos, c.mul(cos, tan)];
}
const unitMatrix = (b: TfBuilder, of: Val, size: number, batch: readonly (number | Val)[]): Val => {
  const one = b.const(
    of.dtype === "float64" ? "float64" : "float32",
    [size, size],
    upTo(size * size).map((i) => (i % (size + 1) === 0 ? 1 : 0)),
  );
  return b.expand(one, shapeFrom(b, [...batch, size, size]));
};
const colSum = (c: TfBuilder, x: Val): Val => c.op("ReduceSum", [x, c.int64([-2])], { keepdims: true });
/** Columns of `x` in the order of `order` [..., k]. */
function ordered(b: TfBuilder, x: Val, order: Val): Val {
  const rank = b.rank(x);
  const dims = upTo(rank).map((i) => dimOf(b, x, i));
  const [rows, k] = [dims[rank - 2] ?? 1, dimOf(b, order, b.rank(order) - 1)];
  return b.op("GatherElements", [x, b.expand(b.unsqueeze(order, [-2]), shapeFrom(b, [...dims.slice(0, rank - 2), rows, k]))], { axis: -1 });
}
function prepared(
  n: TfNode,
  b: TfBuilder,
): { readonly x: Val; readonly rows: number; readonly cols: number; readonly batch: readonly (number | Val)[] } {
  const given = n.in(0);
  if (given.dtype.startsWith("complex")) return n.refuse("ONNX Runtime has no complex numbers");
  const x = b.cast(given, given.dtype === "float64" ? "float64" : "float32");
  const rank = b.rank(x);
  const [rows, cols] = [x.shape?.[rank - 2], x.shape?.[rank - 1]];
  if (typeof rows !== "number" || typeof cols !== "number") return n.refuse("the size of its matrices is not known at compile time");
  if (Math.min(rows, cols) === 0 || Math.max(rows, cols) > MAX_SIZE)
    return n.refuse(`matrices of ${rows} by ${cols} are not decomposed here`);
  return { x, rows, cols, batch: upTo(rank - 2).map((i) => dimOf(b, x, i)) };
}
const MADE = [
  "Loop",
  "Gather",
  "GatherElements",
  "Mul",
  "Add",
  "Sub",
  "Div",
  "Sqrt",
  "Reciprocal",
  "Where",
  "ReduceSum",
  "TopK",
  "MatMul",
  "Transpose",
  "Concat",
  "Pad",
  "Mod",
  "Equal",
  "Abs",
  "Less",
  "Neg",
  "Max",
  "ArgMin",
  "Greater",
  "GreaterOrEqual",
];

export const svd = defineTfOp({
  name: "Svd",
  outs: ["s", "u", "v"],
  to: MADE,
  why: "the signs of singular vectors may differ from TensorFlow's",
  lower: (n, b) => {
    const { x, rows, cols, batch } = prepared(n, b);
    const rank = b.rank(x);
    const tall = rows >= cols;
    const [m, k] = tall ? [rows, cols] : [cols, rows];
    // An odd number of columns gets a zero column, which never turns.
    const even = k + (k % 2);
    const a = tall ? x : transposed(b, x);
    const start = even === k ? a : b.op("Pad", [a, b.int64([...upTo(2 * rank - 1).map(() => 0), 1]), undefined]);
    const rounds = even > 1 ? roundsOf(b, even) : undefined;
    const [w, v] =
      rounds === undefined
        ? [start, unitMatrix(b, x, even, batch)]
        : repeated(b, "rotate", b.int64(SWEEPS * rounds.count), [start, unitMatrix(b, x, even, batch)], (c, i, [wi, vi]) => {
            if (wi === undefined || vi === undefined) return [];
            const round = roundAt(c, rounds, i);
            const [p, q] = [c.gather(wi, round.left, -1), c.gather(wi, round.right, -1)];
            const [cos, sin] = rotation(n, c, colSum(c, c.mul(p, p)), colSum(c, c.mul(q, q)), colSum(c, c.mul(p, q)));
            return [turned(c, wi, round, cos, sin), turned(c, vi, round, cos, sin)];
          });
    if (w === undefined || v === undefined) return n.refuse("its loop has no result");
    const kept = (y: Val, rowsToo: boolean): Val =>
      even === k ? y : b.slice(y, rowsToo ? [0, 0] : [0], rowsToo ? [k, k] : [k], rowsToo ? [rank - 2, rank - 1] : [rank - 1]);
    const columns = kept(w, false);
    const lengths = b.squeeze(b.op("Sqrt", [colSum(b, b.mul(columns, columns))]), [-2]);
    const [s, order] = b.ops("TopK", [lengths, b.int64([k])], { axis: -1, largest: true, sorted: true }, 2);
    if (s === undefined || order === undefined) return n.refuse("TopK made no result");
    const own = (y: Val): Val => b.cast(y, n.in(0).dtype);
    if (!n.bool("compute_uv", true)) {
      const none = b.const(x.dtype === "float64" ? "float64" : "float32", [0], []);
      return [own(s), own(none), own(none)];
    }
    const scale = b.unsqueeze(b.op("Max", [s, like(n, b, s, 1e-30)]), [-2]);
    const unit = b.div(ordered(b, columns, order), scale);
    const other = ordered(b, kept(v, true), order);
    const left = n.bool("full_matrices", false) && m > k ? completed(n, b, unit, m, k, batch) : unit;
    const [u, right] = tall ? [left, other] : [other, left];
    return [own(s), own(u), own(right)];
  },
});
/** Orthonormal columns with more put beside them: unit vectors, each freed of what lies in the columns so far (twice, for precision). */
function completed(n: TfNode, b: TfBuilder, u: Val, m: number, k: number, batch: readonly (number | Val)[]): Val {
  const rank = b.rank(u);
  const unit = unitMatrix(b, u, m, batch);
  let all = u;
  for (let j = k; j < m; j++) {
    // Of the unit vectors the one with the largest part outside: that part squared is 1 minus the row's squares.
    const squares = b.op("ReduceSum", [b.mul(all, all), b.int64([-1])], { keepdims: true });
    const best = b.op("ArgMin", [squares], { axis: -2, keepdims: false });
    let e = ordered(b, unit, best);
    for (let pass = 0; pass < 2; pass++) e = b.sub(e, b.op("MatMul", [all, b.op("MatMul", [transposed(b, all), e])]));
    const length = b.op("Sqrt", [colSum(b, b.mul(e, e))]);
    all = b.concat([all, b.div(e, b.op("Max", [length, like(n, b, length, 1e-30)]))], rank - 1);
  }
  return all;
}

/** Eigenvalues in ascending order; only the lower triangle is read. */
export const selfAdjointEig = defineTfOp({
  name: "SelfAdjointEigV2",
  outs: ["e", "v"],
  to: MADE,
  why: "the signs of eigenvectors may differ from TensorFlow's",
  lower: (n, b) => {
    const { x, rows: k, batch } = prepared(n, b);
    const rank = b.rank(x);
    const place = (side: 0 | 1): Val => b.unsqueeze(b.int64(upTo(k)), [side]);
    const lower = b.where(b.op("GreaterOrEqual", [place(1), place(0)]), x, like(n, b, x, 0));
    const strict = b.where(b.op("Greater", [place(1), place(0)]), x, like(n, b, x, 0));
    const a = b.add(lower, transposed(b, strict));
    const even = k + (k % 2);
    const odd = even !== k;
    const start = odd
      ? b.op("Pad", [a, b.int64([...upTo(rank - 2).map(() => 0), 0, 0, ...upTo(rank - 2).map(() => 0), 1, 1]), undefined])
      : a;
    const rounds = roundsOf(b, even);
    const [d, v] = repeated(b, "rotate", b.int64(SWEEPS * rounds.count), [start, unitMatrix(b, x, even, batch)], (c, i, [ai, vi]) => {
      if (ai === undefined || vi === undefined) return [];
      const round = roundAt(c, rounds, i);
      const rowOf = (side: Val): Val => c.op("Equal", [c.unsqueeze(c.int64(upTo(even)), [1]), c.unsqueeze(side, [0])]);
      const [p, q] = [c.gather(ai, round.left, -1), c.gather(ai, round.right, -1)];
      const at = (columns: Val, side: Val): Val => colSum(c, c.where(rowOf(side), columns, like(n, c, ai, 0)));
      const [cos, sin] = rotation(n, c, at(p, round.left), at(q, round.right), at(q, round.left));
      const once = turned(c, ai, round, cos, sin);
      return [transposed(c, turned(c, transposed(c, once), round, cos, sin)), turned(c, vi, round, cos, sin)];
    });
    if (d === undefined || v === undefined) return n.refuse("its loop has no result");
    const eye = b.op("Equal", [b.unsqueeze(b.int64(upTo(even)), [1]), b.unsqueeze(b.int64(upTo(even)), [0])]);
    const all = b.squeeze(colSum(b, b.where(eye, d, like(n, b, d, 0))), [-2]);
    const values = odd ? b.slice(all, [0], [k], [rank - 2]) : all;
    const [e, order] = b.ops("TopK", [values, b.int64([k])], { axis: -1, largest: false, sorted: true }, 2);
    if (e === undefined || order === undefined) return n.refuse("TopK made no result");
    const vectors = odd ? b.slice(v, [0, 0], [k, k], [rank - 2, rank - 1]) : v;
    return [e, ordered(b, vectors, order)].map((y) => b.cast(y, n.in(0).dtype));
  },
});
export const otherDecompositions = defineTfOp({
  names: [
    "Eig",
    "Lu",
    "MatrixExponential",
    "MatrixLogarithm",
    "MatrixSquareRoot",
    "TridiagonalSolve",
    "BandedTriangularSolve",
    "MatrixSolveLs",
  ],
  absent: "ONNX has no operator for this decomposition",
  fix: "compute it outside the graph, cut with `inputs` and `outputs`",
});
