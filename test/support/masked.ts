/** Attention of a sequence over itself with a mask: padding of the sequence is right where the mask is 0, and not provable. */
import { parse } from "../../src/ir/parse.js";
import type { Graph } from "../../src/ir/types.js";

/** Inputs `x`: float32[batch, symbol, channels] and `mask`: float32[batch, symbol]; output `y` as `x`. */
export const maskedAttention = (name: string, batch: number, symbol: string, channels: number): Graph =>
  parse(`graph "${name}" opset {"": 18} (%x: float32[${batch}, ${symbol}, ${channels}], %mask: float32[${batch}, ${symbol}]) -> (%y) {
  const %axis = int64[1] [1]
  const %one = float32[] [1.0]
  const %low = float32[] [-1e9]
  %t = Transpose(%x) {perm = [0, 2, 1]}
  %s = MatMul(%x, %t)
  %m = Unsqueeze(%mask, %axis)
  %i = Sub(%one, %m)
  %b = Mul(%i, %low)
  %c = Add(%s, %b)
  %p = Softmax(%c) {axis = -1}
  %y = MatMul(%p, %x)
}`);
