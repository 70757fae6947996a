/** Diagonals and bands of matrices, by maps of places that are constants wherever dims are known. */
import { isStatic } from "../../ir/dims.js";
import { defineTfOp, type TfBuilder, type TfNode, type Val } from "./define.js";
import { bounded, counting, dimOf, productOf, shapeFrom, upTo } from "./helpers.js";
import { compute, like, plainType } from "./kernels.js";

/** Which diagonals (0 the main one, above it positive), of which matrix, and to which side short ones are moved in their table. */
interface Band {
  readonly rows: number;
  readonly cols: number;
  readonly low: number;
  readonly high: number;
  readonly align: string;
}
const lengthOf = (m: Band, d: number): number => Math.min(m.rows + Math.min(d, 0), m.cols - Math.max(d, 0));
const widest = (m: Band): number => Math.min(m.rows + Math.min(m.high, 0), m.cols - Math.max(m.low, 0));
function offsetOf(m: Band, d: number): number {
  const left = (d >= 0 && m.align.startsWith("LEFT")) || (d <= 0 && m.align.endsWith("LEFT"));
  return left ? 0 : widest(m) - lengthOf(m, d);
}
/** For every place of the matrix the place in the table of diagonals, or -1. */
function matrixMap(n: TfNode, m: Band): readonly number[] {
  bounded(n, m.rows * m.cols, 1 << 22, "the places of its matrix");
  bounded(n, m.high - m.low, m.rows + m.cols, "the width of its band");
  const map = new Array<number>(m.rows * m.cols).fill(-1);
  for (let d = m.low; d <= m.high; d++)
    for (let p = 0; p < lengthOf(m, d); p++)
      map[(p + Math.max(-d, 0)) * m.cols + p + Math.max(d, 0)] = (m.high - d) * widest(m) + p + offsetOf(m, d);
  return map;
}
/** For every place of the table the place in the matrix, or -1. */
function tableMap(n: TfNode, m: Band): readonly number[] {
  const places = matrixMap(n, m);
  const map = new Array<number>((m.high - m.low + 1) * widest(m)).fill(-1);
  places.forEach((at, i) => {
    if (at >= 0) map[at] = i;
  });
  return map;
}
const boundsOf = (n: TfNode, b: TfBuilder, i: number): readonly [low: number, high: number] => {
  const [low = 0, high = low] = b.numbers(n.in(i), "the list of diagonals");
  return [low, high];
};

/** Elements of `flat`'s last axis by a map of places, `other` where it has none. */
function mapped(n: TfNode, b: TfBuilder, flat: Val, map: readonly number[], dims: readonly number[], other: Val): Val {
  const picked = b.gather(
    flat,
    b.const(
      "int64",
      dims,
      map.map((i) => Math.max(0, i)),
    ),
    -1,
  );
  if (map.every((i) => i >= 0)) return picked;
  return compute(n, b)("Where", [
    b.const(
      "bool",
      dims,
      map.map((i) => i >= 0),
    ),
    picked,
    other,
  ]);
}
/** The last `count` dims as one. */
const flattened = (b: TfBuilder, x: Val, count: number): Val => {
  const rank = b.rank(x);
  if (count === 1) return x;
  return b.reshape(x, shapeFrom(b, [...upTo(rank - count).map((i) => dimOf(b, x, i)), productOf(b, x, rank - count, rank)]));
};
const known = (n: TfNode, x: Val, axis: number): number => {
  const d = x.shape?.at(axis);
  return d !== undefined && isStatic(d)
    ? d
    : n.refuse("the size of its matrices is not known at compile time", "give the graph's inputs shapes");
};

/** i == j over the last two dims. */
const eye = (b: TfBuilder, rows: number | Val, cols: number | Val): Val =>
  b.op("Equal", [b.unsqueeze(counting(b, rows), [1]), b.unsqueeze(counting(b, cols), [0])]);

export const matrixDiag = defineTfOp({
  names: ["MatrixDiag", "BatchMatrixDiag"],
  to: ["Where", "Equal", "Range", "Unsqueeze"],
  lower: (n, b) => {
    const x = n.in(0);
    const size = dimOf(b, x, b.rank(x) - 1);
    return compute(n, b)("Where", [eye(b, size, size), b.unsqueeze(x, [-1]), like(n, b, x, 0)]);
  },
});
export const matrixDiagV2 = defineTfOp({
  names: ["MatrixDiagV2", "MatrixDiagV3"],
  to: ["Gather", "Where", "Reshape"],
  lower: (n, b) => {
    const x = n.in(0);
    const [low, high] = boundsOf(n, b, 1);
    const longest = known(n, x, -1);
    const count = high - low + 1;
    const [r, c] = [b.number(n.in(2), "the number of rows"), b.number(n.in(3), "the number of columns")];
    // Left out, a size is the least that holds the diagonals, or what the other leaves.
    const [leastRows, leastCols] = [longest - Math.min(high, 0), longest + Math.max(low, 0)];
    const rows = r >= 0 ? r : c >= 0 ? leastRows : Math.max(leastRows, count === 1 && low === 0 ? leastCols : leastRows);
    const cols = c >= 0 ? c : leastCols;
    const square = r < 0 && c < 0;
    const side = Math.max(rows, cols);
    const band: Band = {
      rows: square ? side : rows,
      cols: square ? side : cols,
      low,
      high,
      align: n.string("align", n.op === "MatrixDiagV3" ? "RIGHT_LEFT" : "LEFT_LEFT"),
    };
    const flat = count === 1 && !(n.in(1).rank === 1 && n.in(1).numbers?.length === 2) ? x : flattened(b, x, 2);
    return mapped(n, b, flat, matrixMap(n, band), [band.rows, band.cols], n.in(4));
  },
});
function diagonals(n: TfNode, b: TfBuilder, low: number, high: number, align: string, padding: Val): Val {
  const x = n.in(0);
  const band: Band = { rows: known(n, x, -2), cols: known(n, x, -1), low, high, align };
  const table = high === low ? [widest(band)] : [high - low + 1, widest(band)];
  return mapped(n, b, flattened(b, x, 2), tableMap(n, band), table, padding);
}
export const matrixDiagPart = defineTfOp({
  names: ["MatrixDiagPart", "BatchMatrixDiagPart"],
  to: ["Gather", "Reshape", "Min", "Mul", "Add", "Range"],
  lower: (n, b) => {
    const x = n.in(0);
    const rank = b.rank(x);
    const [rows, cols] = [dimOf(b, x, rank - 2), dimOf(b, x, rank - 1)];
    if (typeof rows === "number" && typeof cols === "number") return diagonals(n, b, 0, 0, "LEFT_LEFT", like(n, b, x, 0));
    const least = b.op("Min", [b.dim(x, rank - 2), b.dim(x, rank - 1)]);
    const places = b.mul(counting(b, least), b.add(b.dim(x, rank - 1), b.int64(1)));
    return b.gather(flattened(b, x, 2), places, -1);
  },
});
export const matrixDiagPartV2 = defineTfOp({
  names: ["MatrixDiagPartV2", "MatrixDiagPartV3"],
  to: ["Gather", "Reshape", "Where"],
  lower: (n, b) =>
    diagonals(n, b, ...boundsOf(n, b, 1), n.string("align", n.op === "MatrixDiagPartV3" ? "RIGHT_LEFT" : "LEFT_LEFT"), n.in(2)),
});
function withDiagonals(n: TfNode, b: TfBuilder, low: number, high: number, align: string): Val {
  const [x, table] = [n.in(0), n.in(1)];
  const band: Band = { rows: known(n, x, -2), cols: known(n, x, -1), low, high, align };
  const flat = b.rank(table) === b.rank(x) ? flattened(b, table, 2) : table;
  return mapped(n, b, flat, matrixMap(n, band), [band.rows, band.cols], x);
}
export const matrixSetDiag = defineTfOp({
  names: ["MatrixSetDiag", "BatchMatrixSetDiag"],
  to: ["Gather", "Where"],
  lower: (n, b) => withDiagonals(n, b, 0, 0, "LEFT_LEFT"),
});
export const matrixSetDiagV2 = defineTfOp({
  names: ["MatrixSetDiagV2", "MatrixSetDiagV3"],
  to: ["Gather", "Where", "Reshape"],
  lower: (n, b) => withDiagonals(n, b, ...boundsOf(n, b, 2), n.string("align", n.op === "MatrixSetDiagV3" ? "RIGHT_LEFT" : "LEFT_LEFT")),
});
/** Keeps `lower` diagonals below the main one and `upper` above; negative numbers keep all. */
export const matrixBandPart = defineTfOp({
  names: ["MatrixBandPart", "BatchMatrixBandPart"],
  to: ["Where", "Range", "Neg", "Sub", "LessOrEqual", "Less", "Or", "And"],
  lower: (n, b) => {
    const x = n.in(0);
    const rank = b.rank(x);
    const [rows, cols] = [dimOf(b, x, rank - 2), dimOf(b, x, rank - 1)];
    const [lower, upper] = [b.cast(b.reshape(n.in(1), []), "int64"), b.cast(b.reshape(n.in(2), []), "int64")];
    const [l, u] = [lower.numbers?.[0], upper.numbers?.[0]];
    let mask: Val;
    if (typeof rows === "number" && typeof cols === "number" && l !== undefined && u !== undefined && rows * cols <= 1 << 16) {
      const keep = upTo(rows).flatMap((i) => upTo(cols).map((j) => (l < 0 || i - j <= l) && (u < 0 || j - i <= u)));
      mask = b.const("bool", [rows, cols], keep);
    } else {
      const below = b.sub(b.unsqueeze(counting(b, rows), [1]), b.unsqueeze(counting(b, cols), [0]));
      const within = (limit: Val, distance: Val): Val =>
        b.op("Or", [b.op("Less", [limit, b.int64(0)]), b.op("LessOrEqual", [distance, limit])]);
      mask = b.op("And", [within(lower, below), within(upper, b.op("Neg", [below]))]);
    }
    return compute(n, b)("Where", [mask, x, like(n, b, x, 0)]);
  },
});
/** The dims twice over, elements where both halves agree. */
export const diag = defineTfOp({
  name: "Diag",
  to: ["Where", "Equal", "Range", "Mul", "Unsqueeze", "Reshape"],
  lower: (n, b) => {
    const x = n.in(0);
    const rank = b.rank(x);
    const dims = upTo(rank).map((i) => dimOf(b, x, i));
    const count = productOf(b, x, 0, rank);
    const square = compute(n, b)("Where", [eye(b, count, count), b.unsqueeze(b.reshape(x, [-1]), [1]), b.scalar(plainType(n, x.dtype), 0)]);
    return b.reshape(square, shapeFrom(b, [...dims, ...dims]));
  },
});
export const diagPart = defineTfOp({
  name: "DiagPart",
  to: ["Gather", "Range", "Mul", "Add", "Reshape"],
  lower: (n, b) => {
    const x = n.in(0);
    const half = b.rank(x) / 2;
    const count = productOf(b, x, 0, half);
    const step = typeof count === "number" ? b.int64(count + 1) : b.add(count, b.int64(1));
    const places = b.mul(counting(b, count), step);
    return b.reshape(
      b.gather(b.reshape(x, [-1]), places),
      shapeFrom(
        b,
        upTo(half).map((i) => dimOf(b, x, i)),
      ),
    );
  },
});
