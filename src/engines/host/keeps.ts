/**
 * Raised operators that ONNX Runtime's CPU kernels run at least as fast as their parts: Attention, when its mask has a row for every query
 * (the kernel does not broadcast it). Its Gelu is three times slower than the fusion of Erf that it knows; the others have no kernel that
 * beats their parts, and would raise the segment to operator sets that fewer of its fusions know.
 */
import { sameDim } from "../../ir/dims.js";
import { dtypeOf, shapeOf } from "../../ops/define.js";
import type { Keep } from "../../passes/lower.js";

export const keeps: Keep = (_, n, facts) => {
  if (n.op !== "Attention") return false;
  const [q, , , mask] = n.ins;
  const [x, m] = [q, mask].map((v) => (v === undefined ? undefined : facts(v)));
  if (dtypeOf(x) !== "float32") return false;
  const [queries, rows] = [shapeOf(x)?.at(-2), shapeOf(m)?.at(-2)];
  return m === undefined || (queries !== undefined && rows !== undefined && sameDim(queries, rows) === true);
};
