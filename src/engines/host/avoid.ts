/** Graphs that end the process inside ONNX Runtime 1.30 and 1.31 at its highest level, and the optimizer that is left out for them. */
import { bodiesOf, typeAt } from "../../ir/graph.js";
import type { Graph, ValueId } from "../../ir/types.js";

/** ONNX Runtime's optimizer for blocked channels. A float16 MatMul that reads a Transpose of leading axes is a segmentation fault in it. */
export const NCHWC = "NchwcTransformer";
/** Whether a float16 MatMul by a constant reads a Transpose, bodies included. */
export function halvesTransposed(g: Graph): boolean {
  const turned = new Set(g.nodes.flatMap((n) => (n.op === "Transpose" ? n.outs : [])));
  const half = (v: ValueId | undefined): boolean => {
    const t = v === undefined ? undefined : typeAt(g, v);
    return t?.kind === "tensor" && t.dtype === "float16";
  };
  return g.nodes.some(
    (n) =>
      (n.op === "MatMul" && half(n.ins[0]) && n.ins.some((v) => turned.has(v))) ||
      bodiesOf(n).some(({ body }) => halvesTransposed(body.graph)),
  );
}
