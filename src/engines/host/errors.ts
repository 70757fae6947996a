/** ONNX Runtime's failures as coded errors: the native text is kept, the node's name is taken out of it where it is there. */
import { defineError, type PartitaError } from "../../diagnostics.js";

const failed = defineError<{ native: string; while_: string }>("P2002", "ONNX Runtime refused a model or a run", ({ native, while_ }) => ({
  what: while_ === "create" ? `ONNX Runtime does not load the segment: ${native}` : `ONNX Runtime failed while running: ${native}`,
  fix:
    while_ === "create"
      ? "check the operator and its types against ONNX Runtime 1.30's support, or cut the graph before it with `outputs`"
      : "check the fed values; the model is as it was imported",
}));

/** P2002, with the node that ONNX Runtime names. */
export function ortFailed(args: { readonly native: string; readonly while_: string }, file?: string): PartitaError {
  const native = args.native.replace(/\s+/g, " ").replace(/\.+$/, "").slice(0, 2000);
  const node = /Node(?::| \(|\s*\(name:)?\s*['"(]?([^'")\s]+)['")]?/.exec(native)?.[1];
  const op = /(?:Op|op_type|OpType|node)\s*\(?([A-Z][A-Za-z0-9]+)[\s,(:]/.exec(native)?.[1];
  return failed({ native, while_: args.while_ }, { file, node, op: node === undefined ? undefined : op });
}
