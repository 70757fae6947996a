/** Operators that the registry knows ONNX Runtime to lack: refused when a segment is built, with the reason, rather than when it is loaded. */
import { defineError } from "../../diagnostics.js";
import { bodiesOf, displayName, qualifiedOp, shapeOfType, typeAt } from "../../ir/graph.js";
import type { Graph, Node } from "../../ir/types.js";
import { lookup } from "../../ops/registry.js";

export const noRuntime = defineError<{ op: string; why: string; fix: string | undefined }>(
  "P2006",
  "no runtime has an operator",
  ({ op, why, fix }) => ({
    what: `${op} cannot run on the host: ${why}`,
    fix: fix ?? "cut the graph before it with `outputs`",
  }),
);

/** ONNX Runtime 1.30 reads dims of a DFT's input that a tensor of rank 0 or 1 does not have, and ends the process. */
const trustsRank = (g: Graph, n: Node): boolean =>
  n.op === "DFT" && n.domain === "" && n.ins[0] !== undefined && (shapeOfType(typeAt(g, n.ins[0]))?.length ?? 0) < 2;

/** Throws P2006 for the first such node, those in bodies among them. */
export function checkKernels(g: Graph): void {
  for (const n of g.nodes) {
    const host = lookup(n.domain, n.op)?.on.host;
    if (host !== undefined && "absent" in host)
      throw noRuntime(
        { op: qualifiedOp(n), why: host.absent, fix: host.fix },
        { file: g.extra?.file, node: displayName(g, n), op: qualifiedOp(n) },
      );
    if (trustsRank(g, n))
      throw noRuntime(
        {
          op: qualifiedOp(n),
          why: "its input must have rank 2 or more, which is not known here, and ONNX Runtime does not check it",
          fix: "give the shape of the model's input (`shapes`)",
        },
        { file: g.extra?.file, node: displayName(g, n), op: qualifiedOp(n) },
      );
    for (const { body } of bodiesOf(n)) checkKernels(body.graph);
  }
}
