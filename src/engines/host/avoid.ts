/** Graphs that ONNX Runtime 1.30 and 1.31 end the process on at their highest level, or get wrong, and the optimizer that is left out for them. */
import { bodiesOf, typeAt } from "../../ir/graph.js";
import type { Graph, ValueId } from "../../ir/types.js";
import { inferGraph } from "../../ops/infer.js";
import { turnedValues, vectorProducts } from "./vectors.js";

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

/** ONNX Runtime's optimizer that makes Transpose and MatMul one. By a vector the result is wrong (vectors.ts). */
export const TRANSPOSE_FUSION = "MatmulTransposeFusion";
/** Whether a MatMul behind a Transpose multiplies by what may be a vector, bodies included. Those that are known to be one are matrices by now. */
export function maybeByVector(g: Graph): boolean {
  // What operators were spelled out to has no types yet.
  return someByVector(g, []) && someByVector(inferGraph(g).graph, []);
}
function someByVector(g: Graph, captured: readonly ValueId[]): boolean {
  if (vectorProducts(g, captured).length > 0) return true;
  const nested = g.nodes.flatMap((n) => bodiesOf(n).map(({ body }) => ({ body, branch: n.op === "If" })));
  if (nested.length === 0) return false;
  const turned = turnedValues(g, captured);
  return nested.some(({ body, branch }) => {
    const inner = body.graph.captures.filter((_, i) => branch && turned.has(body.captures[i] as ValueId));
    return someByVector(body.graph, inner);
  });
}
