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
/** Axes counted from the front. */
export const fromFront = (axes: readonly number[], rank: number): readonly number[] => axes.map((a) => (a < 0 ? a + rank : a));
/** 0, 1, ..., n - 1. */
export const upTo = (n: number): readonly number[] => Array.from({ length: Math.max(0, n) }, (_, i) => i);
