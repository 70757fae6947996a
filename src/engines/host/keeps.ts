/**
 * Raised operators that ONNX Runtime's CPU kernels run exactly, and at least as fast as their parts: Attention, as far as its mask allows.
 * Its Gelu is three times slower than the fusion of Erf that it knows; the others have no kernel that beats their parts, and would raise the
 * segment to operator sets that fewer of its fusions know.
 */
import { sameDim } from "../../ir/dims.js";
import { payloadLength, typedOf } from "../../ir/payload.js";
import type { Constant } from "../../ir/types.js";
import { dtypeOf, type Fact, shapeOf } from "../../ops/define.js";
import { lowerable } from "../../passes/lower.js";
import type { Keep } from "../../passes/spelling.js";

export const keeps: Keep = (_, n, facts) => {
  // What ONNX Runtime fused or quantized is its own.
  if (n.domain !== "" || !lowerable.includes(n.op)) return true;
  if (n.op !== "Attention") return false;
  const [q, , , mask] = n.ins;
  const [x, m] = [q, mask].map((v) => (v === undefined ? undefined : facts(v)));
  return dtypeOf(x) === "float32" && (m === undefined || exactMask(m, shapeOf(x)?.at(-2)));
};

/**
 * The kernel broadcasts no mask over the queries, and takes the lowest float32 for -inf: a row full of it then gives 0 and not the mean of V.
 * Exporters do fill masks with that number, so a mask of floats must be known to leave every query a key.
 */
function exactMask(mask: Fact, queries: number | string | undefined): boolean {
  const rows = shapeOf(mask)?.at(-2);
  if (queries === undefined || rows === undefined || sameDim(queries, rows) !== true) return false;
  return dtypeOf(mask) === "bool" || (mask.constant !== undefined && everyRowOpen(mask.constant));
}
const LOWEST = -3.4028234663852886e38;
/** Constants above this many bytes are not looked through. */
const MAX_BYTES = 2 ** 26;
function everyRowOpen(c: Constant): boolean {
  if (c.dtype !== "float32" || c.data.kind === "sparse" || payloadLength(c.data) > MAX_BYTES) return false;
  const [values, width] = [typedOf(c) as Float32Array, c.dims.at(-1) ?? 0];
  for (let row = 0; row < values.length; row += width) if (!values.subarray(row, row + width).some((x) => x > LOWEST)) return false;
  return width > 0;
}
