/**
 * Random graphs of some dozen operators that fit together: chains, branches and joins of convolutions, products, reductions, reshapes and shape
 * arithmetic, with the spellings that exporters use (decomposed LayerNorm, Swish, attention), constants to fold and nodes that nobody needs.
 */
import type { Attr, ValueId } from "../../src/ir/types.js";
import { generator } from "../../src/runtime/measure.js";
import { Builder, count, float, int, ints, LARGEST, type Operand, type Pattern, type RandomGraph, text } from "./builder.js";
import { furtherPatterns } from "./further.js";

/** Sums in another order, through some dozen operators; a row that is all but constant comes out of a normalization 316 times as noisy. */
export const TOLERANCE = { rtolOfMax: 1e-3, atol: 1e-4 };

const smooth = [
  "Relu",
  "Sigmoid",
  "Tanh",
  "Erf",
  "Neg",
  "Abs",
  "Softplus",
  "Softsign",
  "Elu",
  "Selu",
  "HardSigmoid",
  "HardSwish",
  "Sin",
  "Cos",
];

const unary: Pattern = (b) => {
  const x = b.operand();
  if (x === undefined) return false;
  b.keep(b.one(b.pick(smooth), [x.id]), x.dims, x.open);
  return true;
};
const shaped: Pattern = (b) => {
  const x = b.operand();
  if (x === undefined) return false;
  const y = b.pick([
    // Off zero: a root there is all noise.
    () => b.one("Sqrt", [b.one("Add", [b.one("Abs", [x.id]), b.scalar(0.1)])]),
    () => b.one("Clip", [x.id, b.scalar(-0.5), b.scalar(0.75)]),
    () => b.one("Clip", [x.id, undefined, b.scalar(0.75)]),
    () => b.one("LeakyRelu", [x.id], { alpha: float(0.2) }),
    () => b.one("Exp", [b.one("Tanh", [x.id])]),
    () => b.one("Reciprocal", [b.one("Add", [b.one("Abs", [x.id]), b.scalar(1)])]),
    () => b.one("Pow", [b.one("Abs", [x.id]), b.scalar(b.pick([2, 1.5, 3]))]),
    () => b.one("Identity", [x.id]),
    () => b.one("Cast", [b.one("Cast", [x.id], { to: int(11) })], { to: int(1) }),
    // Swish, GELU by its error function and by its tangent, as exporters spell them out.
    () => b.one("Mul", [x.id, b.one("Sigmoid", [x.id])]),
    () =>
      b.one("Mul", [
        b.one("Mul", [x.id, b.scalar(0.5)]),
        b.one("Add", [b.one("Erf", [b.one("Div", [x.id, b.scalar(Math.SQRT2)])]), b.scalar(1)]),
      ]),
    () => {
      const cube = b.one("Mul", [b.one("Pow", [x.id, b.scalar(3)]), b.scalar(0.044715)]);
      const inner = b.one("Tanh", [b.one("Mul", [b.one("Add", [x.id, cube]), b.scalar(Math.sqrt(2 / Math.PI))])]);
      return b.one("Mul", [b.one("Mul", [x.id, b.scalar(0.5)]), b.one("Add", [inner, b.scalar(1)])]);
    },
    () => b.one("Gelu", [x.id], { approximate: text(b.pick(["none", "tanh"])) }),
  ])();
  b.keep(y, x.dims, x.open);
  return true;
};
const binary: Pattern = (b) => {
  const x = b.operand();
  if (x === undefined) return false;
  const op = b.pick(["Add", "Sub", "Mul", "Max", "Min"]);
  const other = b.operand((y) => y.id !== x.id && y.open === x.open && y.dims.join() === x.dims.join());
  const side = b.chance(0.5);
  const join = (y: ValueId): ValueId => b.one(op, side ? [x.id, y] : [y, x.id]);
  if (other !== undefined && b.chance(0.6)) b.keep(join(other.id), x.dims, x.open);
  else if (b.chance(0.3)) b.keep(join(b.scalar(2 * b.below(100) * 0.01 - 1)), x.dims, x.open);
  else {
    // Trailing dims, some of them one.
    const from = x.open ? 1 + b.below(Math.max(1, x.dims.length)) : b.below(x.dims.length);
    const dims = x.dims.slice(from).map((d) => (b.chance(0.4) ? 1 : d));
    b.keep(b.chance(0.15) ? b.one("Div", [x.id, b.weights(dims, 1, true)]) : join(b.weights(dims)), x.dims, x.open);
  }
  return true;
};
const select: Pattern = (b) => {
  const x = b.operand();
  if (x === undefined) return false;
  const mask = b.bool(x.dims.slice(x.open ? 1 : 0).map((d) => (b.chance(0.3) ? 1 : d)));
  b.keep(b.one("Where", [mask, x.id, b.scalar(-1)]), x.dims, x.open);
  return true;
};
const product: Pattern = (b) => {
  const x = b.operand((v) => v.dims.length >= 2);
  if (x === undefined) return false;
  const k = x.dims[x.dims.length - 1] as number;
  const m = b.pick([1, 3, 8, 16, 17]);
  const dims = [...x.dims.slice(0, -1), m];
  if (x.dims.length === 2 && b.chance(0.5)) {
    const trans = b.chance(0.5);
    const bias = b.pick([undefined, [m], [1, m], [1]]);
    const w = b.weights(trans ? [m, k] : [k, m], k);
    const attrs: Record<string, Attr> = trans ? { transB: int(1) } : {};
    if (b.chance(0.3)) attrs["alpha"] = float(0.5);
    b.keep(
      b.one("Gemm", [x.id, w, bias === undefined ? undefined : b.weights(bias)].slice(0, bias === undefined ? 2 : 3), attrs),
      dims,
      x.open,
    );
  } else {
    const y = b.one("MatMul", [x.id, b.weights([k, m], k)]);
    b.keep(b.chance(0.5) ? b.one("Add", b.chance(0.5) ? [y, b.weights([m])] : [b.weights([m]), y]) : y, dims, x.open);
  }
  return true;
};
/** Scaled products of a value with itself, as attention has them: scores, softmax, values. */
const attention: Pattern = (b) => {
  const x = b.operand((v) => v.dims.length === 3 && (v.dims[1] as number) <= 32);
  if (x === undefined) return false;
  const [n, s, c] = x.dims as [number, number, number];
  const heads = b.pick([1, 2, 4]);
  const d = b.pick([2, 4, 8]);
  const split = (w: ValueId): ValueId =>
    b.one("Transpose", [b.one("Reshape", [b.one("MatMul", [x.id, w]), b.int64(b.chance(0.5) ? 0 : -1, s, heads, d)])], {
      perm: ints(0, 2, 1, 3),
    });
  const [q, k, v] = [split(b.weights([c, heads * d], c)), split(b.weights([c, heads * d], c)), split(b.weights([c, heads * d], c))];
  let scores = b.one("MatMul", [q, b.one("Transpose", [k], { perm: ints(0, 1, 3, 2) })]);
  scores = b.chance(0.5) ? b.one("Mul", [scores, b.scalar(1 / Math.sqrt(d))]) : b.one("Div", [scores, b.scalar(Math.sqrt(d))]);
  if (b.chance(0.4))
    scores = b.one("Add", [
      scores,
      b.weights(
        b.pick([
          [s, s],
          [1, 1, s, s],
          [1, heads, s, s],
        ]),
      ),
    ]);
  const out = b.one("MatMul", [b.one("Softmax", [scores], { axis: int(-1) }), v]);
  b.keep(b.one("Reshape", [b.one("Transpose", [out], { perm: ints(0, 2, 1, 3) }), b.int64(-1, s, heads * d)]), [n, s, heads * d], x.open);
  return true;
};
const norm: Pattern = (b) => {
  const x = b.operand((v) => v.dims.length >= 2 && (v.dims[v.dims.length - 1] as number) > 1);
  if (x === undefined) return false;
  const c = x.dims[x.dims.length - 1] as number;
  if (b.chance(0.4))
    b.keep(b.one("LayerNormalization", [x.id, b.weights([c], 1, true), b.weights([c])], { axis: int(-1) }), x.dims, x.open);
  else {
    const axes = b.int64(-1);
    const centred = b.one("Sub", [x.id, b.one("ReduceMean", [x.id, axes])]);
    const square = b.chance(0.5) ? b.one("Mul", [centred, centred]) : b.one("Pow", [centred, b.scalar(2)]);
    const root = b.one("Sqrt", [b.one("Add", [b.one("ReduceMean", [square, axes]), b.scalar(1e-5)])]);
    const y = b.one("Div", [centred, root]);
    b.keep(b.chance(0.7) ? b.one("Add", [b.one("Mul", [y, b.weights([c], 1, true)]), b.weights([c])]) : y, x.dims, x.open);
  }
  return true;
};
const soft: Pattern = (b) => {
  const x = b.operand((v) => v.dims.length >= 2);
  if (x === undefined) return false;
  const axis = b.chance(0.7) ? -1 : 1 + b.below(x.dims.length - 1);
  b.keep(b.one(b.pick(["Softmax", "LogSoftmax"]), [x.id], { axis: int(axis) }), x.dims, x.open);
  return true;
};
const reduce: Pattern = (b) => {
  const x = b.operand((v) => v.dims.length >= 2 && count(v.dims) > 1);
  if (x === undefined) return false;
  const rank = x.dims.length;
  const low = x.open ? 1 : 0;
  const axes = Array.from({ length: rank - low }, (_, i) => i + low).filter(() => b.chance(0.5));
  if (axes.length === 0) axes.push(rank - 1);
  const keepdims = b.chance(0.6);
  const op = b.pick(["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp"]);
  const written = axes.map((a) => (b.chance(0.4) ? a - rank : a));
  const dims = x.dims.flatMap((d, i) => (axes.includes(i) ? (keepdims ? [1] : []) : [d]));
  if (dims.length === 0) return false;
  const y = b.one(op, [x.id, b.int64(...written)], { keepdims: int(keepdims ? 1 : 0) });
  b.keep(b.chance(0.3) ? b.one("Tanh", [y]) : y, dims, x.open);
  return true;
};
const convolution: Pattern = (b) => {
  const x = b.operand(
    (v) => (v.dims.length === 4 || v.dims.length === 3) && (v.dims[2] as number) >= 3 && (v.dims[v.dims.length - 1] as number) >= 3,
  );
  if (x === undefined) return false;
  const [n, c, ...space] = x.dims as [number, number, ...number[]];
  const groups = b.pick([1, 1, 1, c, c % 2 === 0 ? 2 : 1]);
  const m = groups * b.pick([1, 2, 4]);
  const kernel = space.map(() => b.pick([1, 3, 3, 2]));
  const stride = space.map(() => b.pick([1, 1, 2]));
  const pads = [...space, ...space].map(() => b.pick([0, 1]));
  const out = space.map(
    (s, i) =>
      Math.floor((s + (pads[i] as number) + (pads[i + space.length] as number) - (kernel[i] as number)) / (stride[i] as number)) + 1,
  );
  if (out.some((o) => o < 1) || n * m * count(out) > LARGEST) return false;
  const fan = (c / groups) * count(kernel);
  const ins = [x.id, b.weights([m, c / groups, ...kernel], fan), ...(b.chance(0.5) ? [b.weights([m])] : [])];
  const attrs = { kernel_shape: ints(...kernel), strides: ints(...stride), pads: ints(...pads), group: int(groups) };
  let y = b.one("Conv", ins, attrs);
  if (b.chance(0.5))
    y = b.one("BatchNormalization", [y, b.weights([m], 1, true), b.weights([m]), b.weights([m]), b.weights([m], 1, true)], {
      epsilon: float(1e-3),
    });
  if (b.chance(0.5)) y = b.one(b.pick(["Relu", "Sigmoid", "HardSwish", "Tanh"]), [y]);
  b.keep(y, [n, m, ...out], x.open);
  return true;
};
const pool: Pattern = (b) => {
  const x = b.operand((v) => v.dims.length === 4 && (v.dims[2] as number) >= 2 && (v.dims[3] as number) >= 2);
  if (x === undefined) return false;
  const [n, c, h, w] = x.dims as [number, number, number, number];
  if (b.chance(0.25)) {
    b.keep(b.one(b.pick(["GlobalAveragePool", "GlobalMaxPool"]), [x.id]), [n, c, 1, 1], x.open);
    return true;
  }
  const s = b.pick([1, 2]);
  const average = b.chance(0.5);
  const attrs: Record<string, Attr> = { kernel_shape: ints(2, 2), strides: ints(s, s) };
  if (b.chance(0.4)) attrs["ceil_mode"] = int(1);
  const up = attrs["ceil_mode"] !== undefined;
  const out = [h, w].map((d) => (up ? Math.ceil((d - 2) / s) : Math.floor((d - 2) / s)) + 1);
  b.keep(b.one(average ? "AveragePool" : "MaxPool", [x.id], attrs), [n, c, ...out], x.open);
  return true;
};
const reshape: Pattern = (b) => {
  const x = b.operand((v) => v.dims.length >= 2);
  if (x === undefined) return false;
  const rest = x.dims.slice(1);
  const total = count(rest);
  const cut = b.pick([1, 2, 3, 4, 8].filter((d) => total % d === 0));
  const inner = b.pick([
    [total],
    [cut, total / cut],
    [total / cut, cut],
    ...(x.dims.length === 4 ? [[rest[0] as number, count(rest.slice(1))]] : []),
  ]);
  const dims = [x.dims[0] as number, ...inner];
  const form = b.below(4);
  let y: ValueId;
  if (form === 0) y = b.one("Reshape", [x.id, b.int64(b.chance(0.5) ? 0 : -1, ...inner)]);
  else if (form === 1) {
    // The batch by shape arithmetic, as exporters write view(x.size(0), ...).
    const size = b.one("Gather", [b.one("Shape", [x.id]), b.int64(0)], { axis: int(0) });
    y = b.one("Reshape", [x.id, b.one("Concat", [size, b.int64(...inner)], { axis: int(0) })]);
  } else if (form === 2) y = b.one("Reshape", [b.one("Flatten", [x.id], { axis: int(1) }), b.int64(-1, ...inner)]);
  else y = b.one("Squeeze", [b.one("Unsqueeze", [b.one("Reshape", [x.id, b.int64(-1, ...inner)]), b.int64(1)]), b.int64(1)]);
  b.keep(y, dims, x.open);
  return true;
};
const transpose: Pattern = (b) => {
  const x = b.operand((v) => v.dims.length >= 3);
  if (x === undefined) return false;
  const rest = Array.from({ length: x.dims.length - 1 }, (_, i) => i + 1);
  for (let i = rest.length - 1; i > 0; i--) {
    const j = b.below(i + 1);
    [rest[i], rest[j]] = [rest[j] as number, rest[i] as number];
  }
  const perm = [0, ...rest];
  b.keep(
    b.one("Transpose", [x.id], { perm: ints(...perm) }),
    perm.map((p) => x.dims[p] as number),
    x.open,
  );
  return true;
};
const slice: Pattern = (b) => {
  const x = b.operand((v) => v.dims.slice(1).some((d) => d >= 2));
  if (x === undefined) return false;
  const axis = b.pick(x.dims.map((_, i) => i).filter((i) => i > 0 && (x.dims[i] as number) >= 2));
  const d = x.dims[axis] as number;
  const form = b.below(4);
  const cut = (to: number): readonly number[] => x.dims.map((v, i) => (i === axis ? to : v));
  if (form === 0) {
    const start = b.below(d - 1);
    b.keep(b.one("Slice", [x.id, b.int64(start), b.int64(b.chance(0.5) ? d : 2 ** 31), b.int64(axis)]), cut(d - start), x.open);
  } else if (form === 1) b.keep(b.one("Slice", [x.id, b.int64(-1), b.int64(-(2 ** 31)), b.int64(axis), b.int64(-1)]), x.dims, x.open);
  else if (form === 2) {
    const at = 1 + b.below(d - 1);
    const [first, second] = b.node("Split", [x.id, b.int64(at, d - at)], { axis: int(axis) }, 2) as [ValueId, ValueId];
    b.keep(first, cut(at), x.open);
    b.keep(second, cut(d - at), x.open);
  } else {
    const indices = Array.from({ length: 1 + b.below(3) }, () => b.below(2 * d) - d);
    b.keep(b.one("Gather", [x.id, b.int64(...indices)], { axis: int(axis) }), cut(indices.length), x.open);
  }
  return true;
};
const concat: Pattern = (b) => {
  const x = b.operand((v) => v.dims.length >= 2);
  if (x === undefined) return false;
  const axis = 1 + b.below(x.dims.length - 1);
  const fits = (y: Operand): boolean =>
    y.open === x.open && y.dims.length === x.dims.length && y.dims.every((d, i) => i === axis || d === x.dims[i]);
  const parts = [x, ...Array.from({ length: 1 + b.below(2) }, () => b.operand(fits) ?? x)];
  const dims = x.dims.map((d, i) => (i === axis ? parts.reduce((t, p) => t + (p.dims[axis] as number), 0) : d));
  if (count(dims) > LARGEST) return false;
  b.keep(
    b.one(
      "Concat",
      parts.map((p) => p.id),
      { axis: int(b.chance(0.3) ? axis - x.dims.length : axis) },
    ),
    dims,
    x.open,
  );
  return true;
};
const pad: Pattern = (b) => {
  const x = b.operand((v) => v.dims.length >= 2 && (v.dims[v.dims.length - 1] as number) >= 3 && count(v.dims) < LARGEST / 4);
  if (x === undefined) return false;
  const [before, after] = [b.below(3), b.below(3)];
  const rank = x.dims.length;
  const pads = [...new Array<number>(rank - 1).fill(0), before, ...new Array<number>(rank - 1).fill(0), after];
  const mode = b.pick(["constant", "reflect", "edge"]);
  b.keep(
    b.one("Pad", [x.id, b.int64(...pads), ...(mode === "constant" && b.chance(0.5) ? [b.scalar(0.5)] : [])], { mode: text(mode) }),
    x.dims.map((d, i) => (i === rank - 1 ? d + before + after : d)),
    x.open,
  );
  return true;
};
const widen: Pattern = (b) => {
  const x = b.operand((v) => v.dims.length >= 2 && count(v.dims) < LARGEST / 8);
  if (x === undefined) return false;
  const rank = x.dims.length;
  const form = b.below(4);
  if (form === 0) {
    const times = x.dims.map((_, i) => (i === 0 ? 1 : 1 + b.below(2)));
    b.keep(
      b.one("Tile", [x.id, b.int64(...times)]),
      x.dims.map((d, i) => d * (times[i] as number)),
      x.open,
    );
  } else if (form === 1) {
    const by = b.pick([2, 3]);
    const y = b.one("Unsqueeze", [x.id, b.int64(1)]);
    b.keep(
      b.one("Expand", [y, b.int64(1, by, ...new Array<number>(rank - 1).fill(1))]),
      [x.dims[0] as number, by, ...x.dims.slice(1)],
      x.open,
    );
  } else if (form === 2 && rank === 4) {
    const mode = b.pick(["nearest", "linear"]);
    const scales = makeScales(b);
    b.keep(
      b.one("Resize", [x.id, undefined, scales], {
        mode: text(mode),
        coordinate_transformation_mode: text(b.pick(["asymmetric", "half_pixel"])),
        nearest_mode: text("floor"),
      }),
      x.dims.map((d, i) => (i >= 2 ? 2 * d : d)),
      x.open,
    );
  } else if (form === 3 && rank === 4 && (x.dims[1] as number) % 4 === 0) {
    const [n, c, h, w] = x.dims as [number, number, number, number];
    b.keep(b.one("DepthToSpace", [x.id], { blocksize: int(2), mode: text(b.pick(["DCR", "CRD"])) }), [n, c / 4, 2 * h, 2 * w], x.open);
  } else return false;
  return true;
};
const makeScales = (b: Builder): ValueId => b.one("Constant", [], { value_floats: { kind: "floats", value: [1, 1, 2, 2] } });
const running: Pattern = (b) => {
  const x = b.operand((v) => v.dims.length >= 2);
  if (x === undefined) return false;
  const d = x.dims[x.dims.length - 1] as number;
  if (b.chance(0.5)) b.keep(b.one("CumSum", [x.id, b.int64(-1)], { reverse: int(b.below(2)) }), x.dims, x.open);
  else {
    const k = 1 + b.below(d);
    const [values] = b.node("TopK", [x.id, b.int64(k)], { axis: int(-1), largest: int(b.below(2)) }, 2) as [ValueId];
    b.keep(values, [...x.dims.slice(0, -1), k], x.open);
  }
  return true;
};
const upward: Pattern = (b) => {
  const x = b.operand((v) => v.dims.length === 4 && count(v.dims) < LARGEST / 16);
  if (x === undefined) return false;
  const [n, c, h, w] = x.dims as [number, number, number, number];
  const [m, s, k] = [b.pick([1, 3, 4]), b.pick([1, 2]), b.pick([2, 3])];
  const p = b.pick([0, 1]);
  const out = [h, w].map((d) => s * (d - 1) + k - 2 * p);
  if (out.some((d) => d < 1)) return false;
  const attrs = { kernel_shape: ints(k, k), strides: ints(s, s), pads: ints(p, p, p, p) };
  const y = b.one("ConvTranspose", [x.id, b.weights([c, m, k, k], c * k), ...(b.chance(0.5) ? [b.weights([m])] : [])], attrs);
  b.keep(b.chance(0.5) ? b.one("InstanceNormalization", [y, b.weights([m], 1, true), b.weights([m])]) : y, [n, m, ...out], x.open);
  return true;
};
const contraction: Pattern = (b) => {
  const x = b.operand((v) => v.dims.length === 3 && (v.dims[1] as number) <= 32);
  if (x === undefined) return false;
  const [n, i, j] = x.dims as [number, number, number];
  const k = b.pick([2, 5]);
  const [y, dims] = b.pick([
    (): [ValueId, readonly number[]] => [b.one("Einsum", [x.id, b.weights([j, k], j)], { equation: text("bij,jk->bik") }), [n, i, k]],
    (): [ValueId, readonly number[]] => [b.one("Einsum", [x.id, x.id], { equation: text("bij,bkj->bik") }), [n, i, i]],
    (): [ValueId, readonly number[]] => [b.one("Einsum", [x.id], { equation: text("bij->bji") }), [n, j, i]],
    (): [ValueId, readonly number[]] => [b.one("MatMul", [x.id, b.one("Transpose", [x.id], { perm: ints(0, 2, 1) })]), [n, i, i]],
    (): [ValueId, readonly number[]] => [b.one("Trilu", [x.id, b.int64scalar(b.pick([-1, 0, 1]))], { upper: int(b.below(2)) }), x.dims],
  ])();
  b.keep(b.one("Tanh", [y]), dims, x.open);
  return true;
};
/** A layer over time: rows of dim 1 are its steps. */
const recurrent: Pattern = (b) => {
  const x = b.operand((v) => v.dims.length === 3 && (v.dims[1] as number) <= 12 && (v.dims[2] as number) <= 32);
  if (x === undefined) return false;
  const [n, steps, c] = x.dims as [number, number, number];
  const [hidden, both] = [b.pick([2, 5]), b.chance(0.3)];
  const directions = both ? 2 : 1;
  const op = b.pick(["LSTM", "GRU", "RNN"]);
  const gates = { LSTM: 4, GRU: 3, RNN: 1 }[op] as number;
  const over = b.one("Transpose", [x.id], { perm: ints(1, 0, 2) });
  const ins = [over, b.weights([directions, gates * hidden, c], c), b.weights([directions, gates * hidden, hidden], hidden)];
  if (b.chance(0.6)) ins.push(b.weights([directions, 2 * gates * hidden]));
  const attrs: Record<string, Attr> = {
    hidden_size: int(hidden),
    direction: text(both ? "bidirectional" : b.pick(["forward", "reverse"])),
  };
  if (op === "GRU" && b.chance(0.5)) attrs["linear_before_reset"] = int(1);
  const y = b.one(op, ins, attrs);
  // Steps, directions, batch, hidden: back to the batch in front.
  const front = b.one("Transpose", [y], { perm: ints(2, 0, 1, 3) });
  b.keep(b.one("Reshape", [front, b.int64(0, steps, directions * hidden)]), [n, steps, directions * hidden], x.open);
  return true;
};
/** One of two ways by a condition that is a constant, or comes of a shape; the bodies read a value from outside. */
const either: Pattern = (b) => {
  const x = b.operand();
  if (x === undefined) return false;
  const condition = b.chance(0.5) ? b.bool([]) : b.one("Greater", [b.one("Size", [x.id]), b.int64scalar(b.pick([0, 100_000]))]);
  const y = b.one("If", [condition], {
    then_branch: b.body((inner) => [inner.one(b.pick(smooth), [inner.captured(x)])]),
    else_branch: b.body((inner) => [inner.one("Mul", [inner.captured(x), inner.one(b.pick(smooth), [inner.captured(x)])])]),
  });
  b.keep(y, x.dims, x.open);
  return true;
};
/** A value carried through a loop of known length, with another from outside. */
const loop: Pattern = (b) => {
  const x = b.operand();
  if (x === undefined) return false;
  const y = b.one("Loop", [b.int64scalar(1 + b.below(3)), b.chance(0.5) ? b.truth() : undefined, x.id], {
    body: b.body((inner) => {
      inner.parameter("int64", []);
      const go = inner.parameter("bool", []);
      const state = inner.parameter("float32", x.dims, x.open);
      return [inner.one("Identity", [go]), inner.one("Tanh", [inner.one("Add", [state, inner.captured(x)])])];
    }),
  });
  b.keep(y, x.dims, x.open);
  return true;
};
/** What no output needs, and the same thing twice. */
const waste: Pattern = (b) => {
  const x = b.operand();
  if (x === undefined) return false;
  const op = b.pick(smooth);
  const [first, second] = [b.one(op, [x.id]), b.one(op, [x.id])];
  b.one("Exp", [b.one("Tanh", [first])]);
  b.keep(b.one("Add", [first, second]), x.dims, x.open);
  return true;
};

const patterns: readonly Pattern[] = [
  ...[unary, shaped, binary, binary, product, convolution, convolution, norm],
  ...[select, attention, soft, reduce, pool, reshape, transpose, slice, concat, pad, widen, running, waste],
  ...[upward, contraction, recurrent, either, loop],
];

/** Series below this one have the patterns of this file alone, so that graphs that were looked at once stay what they were. */
const FURTHER = 100_000_000;

/** The graph of a seed: the same everywhere. */
export function randomGraph(seed: number): RandomGraph {
  const b = new Builder(generator(seed));
  const known = seed < FURTHER ? patterns : [...patterns, ...furtherPatterns];
  const open = b.chance(0.4);
  const batch = b.pick([1, 2, 3]);
  const spatial = b.chance(0.55);
  for (let i = 0, n = 1 + b.below(2); i < n; i++)
    b.input(
      spatial
        ? [batch, b.pick([1, 3, 4, 8]), b.pick([5, 8, 12]), b.pick([7, 8, 9])]
        : b.pick([
            [batch, b.pick([4, 7, 16])],
            [batch, b.pick([3, 8, 10]), b.pick([4, 8, 12])],
          ]),
      open,
    );
  const size = 2 + b.below(24);
  for (let made = 0, tries = 0; made < size && tries < 200; tries++) if (b.pick(known)(b)) made++;
  return b.finish();
}
