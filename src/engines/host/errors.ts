/** ONNX Runtime's failures as coded errors: the native text is kept, the node's name is taken out of it where it is there. */
import { defineError, type PartitaError } from "../../diagnostics.js";

const failed = defineError<{ native: string; while_: string }>("P2002", "ONNX Runtime refused a model or a run", ({ native, while_ }) => ({
  what: while_ === "create" ? `ONNX Runtime does not load the segment: ${native}` : `ONNX Runtime failed while running: ${native}`,
  fix:
    while_ === "create"
      ? "check the operator and its types against ONNX Runtime 1.30's support, or cut the graph before it with `outputs`"
      : "check the fed values; the model is as it was imported",
}));

/** ONNX Runtime's ways of naming the node and the operator it speaks of. */
const NODES: readonly RegExp[] = [
  /\b[Nn]ode ?\(([^()]+)\)/,
  /\bName: ?'([^']+)'/,
  /\bnode with name ?'([^']+)'/,
  /\bIn Node, \("([^"]+)"/,
  /\bNode: ?([^\s,:()'"]+)/,
];
const OPS: readonly RegExp[] = [
  /\bOp ?\(([A-Za-z]\w*)\)/,
  /\bwhile running (\w+) node/,
  /\bschema\([\w.]*::([A-Za-z]\w*):/,
  /\b(?:implementation|kernel) for ([A-Za-z]\w*)\(\d+\)/i,
  /\bIn Node, \("[^"]*", ([A-Za-z]\w*)/,
  /\boperator \(([A-Za-z]\w*)\)/,
];
function first(patterns: readonly RegExp[], text: string): string | undefined {
  for (const p of patterns) {
    const found = p.exec(text)?.[1];
    if (found !== undefined) return found;
  }
  return undefined;
}

/** P2002, with the node and the operator that ONNX Runtime names. */
export function ortFailed(args: { readonly native: string; readonly while_: string }, file?: string): PartitaError {
  const native = args.native
    .replace(/\s+/g, " ")
    .replace(/[.\s]+$/, "")
    .slice(0, 2000);
  return failed({ native, while_: args.while_ }, { file, node: first(NODES, native), op: first(OPS, native) });
}

/** `tensor`: the one that the output is made of, where it has a name. */
export const noCrossing = defineError<{ direction: "input" | "output"; type: string; tensor?: string | undefined }>(
  "P2004",
  "an input or output has a type that ONNX Runtime does not hand over",
  ({ direction, type, tensor }) => ({
    what: `the ${direction} is ${type}`,
    why: "ONNX Runtime's Node.js binding passes tensors of float16, bfloat16, float32, float64, (u)int8 to (u)int64, bool and string only",
    fix:
      tensor !== undefined
        ? `name '${tensor}' in its place with \`outputs\`: the same values as a tensor, a column for each key`
        : direction === "output"
          ? "name other outputs with `outputs`, or add a Cast behind it where the model is made"
          : "put a Cast before it where the model is made, so that it takes a type that can be fed",
  }),
);
export const tooLarge = defineError<{ bytes: number; limit: number }>(
  "P2005",
  "a tensor is larger than this machine's memory",
  ({ bytes, limit }) => ({
    what: `it takes ${Number.isFinite(bytes) ? bytes : "more than 2^53"} bytes, and at most ${limit} can be had here`,
    fix: "compile with smaller shapes, or on a machine with more memory",
  }),
  3,
);
