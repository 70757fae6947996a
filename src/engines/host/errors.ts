/** ONNX Runtime's failures as coded errors: the native text is kept, the node's name is taken out of it where it is there. */
import { defineError, type PartitaError } from "../../diagnostics.js";

const failed = defineError<{ native: string; while_: string }>("P2002", "ONNX Runtime refused a model or a run", ({ native, while_ }) => ({
  what: while_ === "create" ? `ONNX Runtime does not load the segment: ${native}` : `ONNX Runtime failed while running: ${native}`,
  fix:
    while_ === "create"
      ? "check the operator and its types against ONNX Runtime 1.30's support, or cut the graph before it with `outputs`"
      : "check the fed values; the model is as it was imported",
}));

/** Where ONNX Runtime puts the name and the operator of the node it speaks of; the name is often empty. */
const nodePatterns = [/\bname: ?'([^']+)'/i, /with name '([^']+)'/, /In Node, \("([^"]+)"/, /[Nn]ode \(([^'()\s]+)\)/, /\(node:'([^']+)'/];
const opPatterns = [
  /running (\w+) node/,
  /In Node, \("[^"]*", (\w+)/,
  /\bOp \((\w+)\)/,
  /operator \((\w+)\)/,
  /(?:implementation|kernel) for (\w+)\(/,
  /Optype \((\w+)\)/,
];
const firstOf = (patterns: readonly RegExp[], text: string): string | undefined => {
  for (const p of patterns) {
    const found = p.exec(text)?.[1];
    if (found !== undefined) return found;
  }
  return undefined;
};

/** P2002, with the node and the operator that ONNX Runtime names. */
export function ortFailed(args: { readonly native: string; readonly while_: string }, file?: string): PartitaError {
  const native = args.native
    .replace(/\s+/g, " ")
    .replace(/[.\s]+$/, "")
    .slice(0, 2000);
  return failed({ native, while_: args.while_ }, { file, node: firstOf(nodePatterns, native), op: firstOf(opPatterns, native) });
}
