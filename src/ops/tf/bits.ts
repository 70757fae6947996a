/** Bit operations on integers. */
import { dtypeBits, dtypeClass } from "../../ir/dtypes.js";
import { defineTfOp, type TfBuilder, type TfNode, type Val } from "./define.js";
import { compute, plainType } from "./kernels.js";

const same = (name: string, op: string) => defineTfOp({ name, to: [op], lower: (n, b) => compute(n, b)(op, n.list(0)) });
export const bitwiseAnd = same("BitwiseAnd", "BitwiseAnd");
export const bitwiseOr = same("BitwiseOr", "BitwiseOr");
export const bitwiseXor = same("BitwiseXor", "BitwiseXor");
export const invert = same("Invert", "BitwiseNot");

/** ONNX shifts unsigned integers alone; a signed one has the same bits. Amounts are held to the type's width, as TensorFlow does. */
function shift(n: TfNode, b: TfBuilder, x: Val, by: Val, direction: "LEFT" | "RIGHT"): Val {
  const wide = dtypeBits(x.dtype) === 64 ? "uint64" : "uint32";
  const bits = dtypeBits(x.dtype);
  const amount = b.op("Clip", [b.cast(by, "int64"), b.int64(0), b.int64(bits - 1)]);
  return b.cast(b.op("BitShift", [b.cast(x, wide), b.cast(amount, wide)], { direction }), plainType(n, x.dtype));
}
export const leftShift = defineTfOp({
  name: "LeftShift",
  to: ["BitShift", "Clip", "Cast"],
  lower: (n, b) => shift(n, b, n.in(0), n.in(1), "LEFT"),
});
/** Arithmetic of signed integers: a negative one is shifted as its complement. */
export const rightShift = defineTfOp({
  name: "RightShift",
  to: ["BitShift", "Clip", "Cast", "BitwiseNot", "Less", "Where"],
  lower: (n, b) => {
    const [x, by] = [n.in(0), n.in(1)];
    if (dtypeClass(x.dtype) === "uint") return shift(n, b, x, by, "RIGHT");
    const k = compute(n, b);
    const not = (v: Val): Val => b.op("BitwiseNot", [v]);
    const negative = k("Less", [x, b.scalar(plainType(n, x.dtype), 0)]);
    const magnitude = shift(n, b, k("Where", [negative, not(x), x]), by, "RIGHT");
    return k("Where", [negative, not(magnitude), magnitude]);
  },
});
/** Number of bits that are set, by adding neighbours of 1, 2, 4, ... bits. */
export const populationCount = defineTfOp({
  name: "PopulationCount",
  to: ["BitShift", "BitwiseAnd", "Add", "Cast"],
  lower: (n, b) => {
    const bits = dtypeBits(n.in(0).dtype);
    const wide = bits === 64 ? "uint64" : "uint32";
    const c = (v: bigint): Val => b.scalar(wide, v);
    // A signed narrow integer widens with copies of its sign, which do not count.
    let x = b.op("BitwiseAnd", [b.cast(n.in(0), wide), c((1n << BigInt(bits)) - 1n)]);
    const ones = (1n << BigInt(wide === "uint64" ? 64 : 32)) - 1n;
    for (let width = 1n; width < BigInt(bits); width *= 2n) {
      const mask = c(ones / ((1n << width) + 1n));
      const high = b.op("BitShift", [x, c(width)], { direction: "RIGHT" });
      x = b.op("Add", [b.op("BitwiseAnd", [x, mask]), b.op("BitwiseAnd", [high, mask])]);
    }
    return b.cast(x, "uint8");
  },
});
