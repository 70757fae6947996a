/** Spellings that several families share. */
import { isFloat, isInteger } from "../../ir/dtypes.js";
import { elementCount, typedOf } from "../../ir/payload.js";
import type { Constant } from "../../ir/types.js";
import type { TfBuilder, TfNode, Val } from "./define.js";
import { compute } from "./kernels.js";

/** The last two dims exchanged. */
export function transposed(b: TfBuilder, x: Val): Val {
  const rank = b.rank(x);
  const perm = Array.from({ length: rank }, (_, i) => i);
  perm.splice(rank - 2, 2, rank - 1, rank - 2);
  return b.transpose(x, perm);
}
/** Adds a vector along the channels: the last dim, or the second where the layout says so. */
export function addBias(n: TfNode, b: TfBuilder, x: Val, bias: Val, channelsFirst: boolean): Val {
  const k = compute(n, b);
  if (!channelsFirst) return k("Add", [x, bias]);
  const trailing = b.rank(x) - 2;
  return k("Add", [
    x,
    b.unsqueeze(
      bias,
      Array.from({ length: trailing }, (_, i) => i + 1),
    ),
  ]);
}
/** What `fused_ops` lists behind a product or convolution; `at` is the first further operand. */
export function fusedTail(n: TfNode, b: TfBuilder, x: Val, channelsFirst: boolean, at: number): Val {
  const k = compute(n, b);
  let [y, next] = [x, at];
  for (const op of n.strings("fused_ops", [])) {
    if (op === "BiasAdd") y = addBias(n, b, y, n.in(next++), channelsFirst);
    else if (op === "Add") y = k("Add", [y, n.in(next++)]);
    else if (op === "FusedBatchNorm") {
      const [scale, offset, mean, variance] = n.list(next, next + 4);
      next += 4;
      if (scale === undefined || offset === undefined || mean === undefined || variance === undefined)
        return n.refuse("its fused batch normalisation lacks operands");
      if (!isFloat(y.dtype)) return n.refuse(`it normalises ${y.dtype}`);
      const epsilon = b.const("float32", [], [n.float("epsilon", 1e-4)]);
      const factor = b.div(scale, b.op("Sqrt", [b.add(variance, epsilon)]));
      const shifted = b.sub(offset, b.mul(mean, factor));
      const across = (v: Val): Val =>
        b.cast(
          channelsFirst
            ? b.unsqueeze(
                v,
                Array.from({ length: b.rank(y) - 2 }, (_, i) => i + 1),
              )
            : v,
          y.dtype,
        );
      y = k("Add", [k("Mul", [y, across(factor)]), across(shifted)]);
    } else y = activation(n, b, op, y);
  }
  return y;
}
export function activation(n: TfNode, b: TfBuilder, op: string, x: Val): Val {
  const k = compute(n, b);
  switch (op) {
    case "":
    case "None":
    case "Identity":
      return x;
    case "Relu":
    case "Elu":
    case "Tanh":
    case "Sigmoid":
      return k(op, [x]);
    case "Relu6":
      return b.via(x, "float32", (v) => b.op("Clip", [v, b.scalar("float32", 0), b.scalar("float32", 6)]));
    case "LeakyRelu":
      return k("LeakyRelu", [x], { alpha: n.float("leakyrelu_alpha", 0.2) });
    case "GeluExact":
      return k("Gelu", [x]);
    case "GeluApproximate":
      return k("Gelu", [x], { approximate: "tanh" });
    default:
      return n.refuse(`it fuses the activation '${op}', which Partita does not know`);
  }
}
/** The least or greatest value of a type; infinite for floats. */
export function limitOf(dtype: string, side: "lowest" | "highest"): number | bigint {
  const m = /^(u?)int(\d+)$/.exec(dtype);
  if (m === null) return side === "lowest" ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY;
  const bits = BigInt(m[2] ?? "32");
  if (m[1] === "u") return side === "lowest" ? 0n : (1n << bits) - 1n;
  return side === "lowest" ? -(1n << (bits - 1n)) : (1n << (bits - 1n)) - 1n;
}

/** Elements of a small integer constant of any rank, in order. */
export function vector(c: Constant): readonly number[] | undefined {
  const count = elementCount(c.dims);
  if (count === undefined || count > 4096 || !isInteger(c.dtype)) return undefined;
  return Array.from(typedOf(c) as ArrayLike<number | bigint>, Number);
}
/** A count that a file claims, refused where it is beyond what a lowering writes out one by one. */
export function bounded(n: TfNode, count: number, most: number, what: string): number {
  if (Number.isSafeInteger(count) && count >= 0 && count <= most) return count;
  return n.refuse(`${what}: ${count}, where 0 to ${most} are written out`);
}
/** Axes counted from the front. */
export const fromFront = (axes: readonly number[], rank: number): readonly number[] => axes.map((a) => (a < 0 ? a + rank : a));
/** 0, 1, ..., n - 1. */
export const upTo = (n: number): readonly number[] => Array.from({ length: Math.max(0, n) }, (_, i) => i);

/** A 1-D int64 tensor of dims, some known and some computed. */
export const shapeFrom = (b: TfBuilder, dims: readonly (number | Val)[]): Val =>
  dims.every((d) => typeof d === "number")
    ? b.int64(dims)
    : b.concat(
        dims.map((d) => (typeof d === "number" ? b.int64([d]) : b.reshape(d, [1]))),
        0,
      );
/** Dim `axis` as a number where it is known. */
export const dimOf = (b: TfBuilder, x: Val, axis: number): number | Val => {
  const d = x.shape?.[axis];
  return typeof d === "number" ? d : b.dim(x, axis);
};
/** The product of dims `from` up to `to`. */
export function productOf(b: TfBuilder, x: Val, from: number, to: number): number | Val {
  let known = 1;
  const open: Val[] = [];
  for (let i = from; i < to; i++) {
    const d = dimOf(b, x, i);
    if (typeof d === "number") known *= d;
    else open.push(d);
  }
  return open.length === 0 ? known : open.reduce((product, d) => b.mul(product, d), b.int64(known));
}
/** 0, 1, ..., count - 1 as int64. */
export const counting = (b: TfBuilder, count: number | Val): Val =>
  typeof count === "number" && count <= 4096
    ? b.int64(upTo(count))
    : b.op("Range", [b.int64(0), typeof count === "number" ? b.int64(count) : count, b.int64(1)]);

/**
 * `base` with `updates` written where `indices` [..., depth] point, an index naming a place in the first `depth` dims. Rows are flattened, so
 * that repeated indices are reduced in order: ONNX Runtime's ScatterElements does one after the other, its ScatterND several at a time.
 */
export function scattered(
  n: TfNode,
  b: TfBuilder,
  base: Val,
  indices: Val,
  updates: Val,
  reduction: "none" | "add" | "mul" | "max" | "min",
): Val {
  const rank = b.rank(base);
  const last = indices.shape?.at(-1);
  // Updates are [places..., rest], so that the ranks tell as well.
  const depth = typeof last === "number" ? last : rank - (b.rank(updates) - b.rank(indices) + 1);
  if (depth < 0 || depth > rank) return n.refuse(`its indices name ${depth} dims of ${rank}`);
  const [rows, inner] = [productOf(b, base, 0, depth), productOf(b, base, depth, rank)];
  const index = b.cast(indices, "int64");
  const count = productOf(b, index, 0, b.rank(index) - 1);
  let flat = b.fill("int64", 0, shapeFrom(b, [count, 1]));
  const list = b.reshape(index, shapeFrom(b, [count, depth]));
  for (let i = 0; i < depth; i++) {
    const stride = productOf(b, base, i + 1, depth);
    const part = b.slice(list, [i], [i + 1], [1]);
    const scaled = stride === 1 ? part : b.mul(part, typeof stride === "number" ? b.int64(stride) : stride);
    flat = i === 0 ? scaled : b.add(flat, scaled);
  }
  const wide = inner === 1 ? flat : b.expand(flat, shapeFrom(b, [count, inner]));
  const result = compute(n, b)(
    "ScatterElements",
    [b.reshape(base, shapeFrom(b, [rows, inner])), wide, b.reshape(updates, shapeFrom(b, [count, inner]))],
    reduction === "none" ? { axis: 0 } : { axis: 0, reduction },
  );
  return b.reshape(
    result,
    shapeFrom(
      b,
      upTo(rank).map((i) => dimOf(b, base, i)),
    ),
  );
}
/** The least or greatest finite number of a type. */
export function finiteLimit(dtype: string, side: "lowest" | "highest"): number | bigint {
  const sign = side === "lowest" ? -1 : 1;
  switch (dtype) {
    case "float64":
      return sign * Number.MAX_VALUE;
    case "float16":
      return sign * 65504;
    case "float32":
      return sign * 3.4028234663852886e38;
    case "bfloat16":
      return sign * 3.3895313892515355e38;
    default:
      return limitOf(dtype, side);
  }
}

/** `trips` times `step` over tensors whose types stay the same; gives their last values. */
export function repeated(
  b: TfBuilder,
  name: string,
  trips: Val,
  carried: readonly Val[],
  step: (b: TfBuilder, i: Val, values: readonly Val[]) => readonly Val[],
): readonly Val[] {
  const scalar = (dtype: "int64" | "bool") => ({ kind: "tensor", dtype, shape: [] }) as const;
  const body = b.body(
    name,
    [
      { name: `${name}/i`, type: scalar("int64") },
      { name: `${name}/go`, type: scalar("bool") },
      ...carried.map((v, i) => ({ name: `${name}/${i}`, type: v.fact.type })),
    ],
    (inner, [i, , ...values]) => (i === undefined ? [] : [inner.scalar("bool", true), ...step(inner, i, values)]),
  );
  return b.ops("Loop", [trips, undefined, ...carried], { body }, carried.length);
}

/**
 * Inverse error function of float32 x in (-1, 1): two polynomials in w = -log(1 - x^2), central and tail (Giles, Approximating the erfinv
 * function, 2010); relative error below 4e-7. At -1 and 1 it is infinite.
 */
export function inverseErf(b: TfBuilder, x: Val): Val {
  const k = (v: number): Val => b.scalar("float32", v);
  const polynomial = (w: Val, coefficients: readonly number[]): Val =>
    coefficients.slice(1).reduce((p, c) => b.add(b.mul(p, w), k(c)), k(coefficients[0] ?? 0));
  const w = b.op("Neg", [b.op("Log", [b.mul(b.sub(k(1), x), b.add(k(1), x))])]);
  const centre = polynomial(
    b.sub(w, k(2.5)),
    [2.81022636e-8, 3.43273939e-7, -3.5233877e-6, -4.39150654e-6, 0.00021858087, -0.00125372503, -0.00417768164, 0.246640727, 1.50140941],
  );
  const tail = polynomial(
    b.sub(b.op("Sqrt", [b.op("Max", [w, k(0)])]), k(3)),
    [-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047, 1.00167406, 2.83297682],
  );
  const inside = b.mul(b.where(b.op("Less", [w, k(5)]), centre, tail), x);
  const edge = b.op("Equal", [b.op("Abs", [x]), k(1)]);
  return b.where(edge, b.mul(x, k(Number.POSITIVE_INFINITY)), inside);
}
