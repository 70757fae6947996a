/** Segments that a user's JavaScript function computes: one node each, kept as an ONNX model of that node, run between other segments. */
import { defineError } from "../../diagnostics.js";
import { encodeOnnx } from "../../import/onnx/export.js";
import { importOnnx } from "../../import/onnx/index.js";
import { operatorAttrs } from "../../ir/attributes.js";
import { qualifiedOp, valueAt } from "../../ir/graph.js";
import { graphHash } from "../../ir/hash.js";
import { toTensor } from "../../ir/payload.js";
import type { Graph, ValueId } from "../../ir/types.js";
import { type Operator, operatorOf } from "../../ops/javascript.js";
import { isTensorDType, Tensor, type TensorLike } from "../../tensor.js";
import type { Artifact, Engine, Executable } from "../engine.js";

export const operatorFailed = defineError<{ why: string }>("P2007", "a JavaScript operator failed", ({ why }) => ({
  what: `its function threw: ${why}`,
  fix: "mend the function; the error's `cause` is what it threw",
}));
export const wrongResult = defineError<{ what: string }>("P2008", "a JavaScript operator gives other results than it said", ({ what }) => ({
  what,
  fix: "make `run` give a list with one tensor for every output, of the types and fixed dims that `infer` (or the model) says",
}));

const VERSION = "operator/1";
const FILE = "operator.onnx";
/** The setting of an artifact that names its operator. */
export const OPERATOR = "operator";

/** The operator that an artifact needs, `domain.name`; undefined for those that ONNX Runtime runs. */
export const operatorNeeded = (a: Artifact): string | undefined => a.settings?.[OPERATOR];
export const operatorCalled = (operators: readonly Operator[], called: string): Operator | undefined => {
  const at = called.lastIndexOf(".");
  return operatorOf(operators, { domain: at < 0 ? "" : called.slice(0, at), op: called.slice(at + 1) });
};

/** The host engine that knows these operators. */
export function withOperators(engine: Engine, operators: readonly Operator[]): Engine {
  return {
    ...engine,
    async build(segment, context) {
      const [only] = segment.nodes;
      if (segment.nodes.length !== 1 || only === undefined || operatorOf(operators, only) === undefined)
        return await engine.build(segment, context);
      const names = (ids: readonly ValueId[]): string[] => ids.map((v) => valueAt(segment, v).name);
      return {
        engine: "host",
        key: graphHash(segment, VERSION),
        inputs: names(segment.inputs),
        outputs: names(segment.outputs),
        files: [{ name: FILE, bytes: encodeOnnx(segment) }],
        settings: { [OPERATOR]: qualifiedOp(only) },
      };
    },
    async open(artifact, context) {
      const called = operatorNeeded(artifact);
      if (called === undefined) return await engine.open(artifact, context);
      const operator = operatorCalled(operators, called);
      const [file] = artifact.files;
      if (operator === undefined || file === undefined) throw wrongResult({ what: `operator '${called}' is not there` });
      return executable(importOnnx("bytes" in file ? file.bytes : file.path), operator, artifact);
    },
  };
}

function executable(g: Graph, operator: Operator, artifact: Artifact): Executable {
  const [n] = g.nodes;
  const where = { node: n?.name, op: n === undefined ? operator.name : qualifiedOp(n) };
  if (n === undefined || g.nodes.length !== 1 || n.op !== operator.name)
    throw wrongResult({ what: `the segment of '${operator.name}' does not hold that node alone` }, where);
  const attrs = operatorAttrs(n.attrs);
  const constants = new Map<ValueId, Tensor>();
  for (const [v, c] of g.constants) {
    const t = toTensor(c);
    if (t !== undefined) constants.set(v, t);
  }
  const places = new Map(artifact.inputs.map((name, i) => [name, i]));
  return {
    async run(inputs, { signal } = {}) {
      signal?.throwIfAborted();
      const operands = n.ins.map((v) => {
        if (v === undefined) return undefined;
        const t = inputs[places.get(valueAt(g, v).name) ?? -1];
        return t === undefined ? constants.get(v) : tensorOf(t);
      });
      let results: unknown;
      try {
        results = await operator.run(operands, attrs, { node: n.name, signal });
      } catch (cause) {
        signal?.throwIfAborted();
        throw operatorFailed({ why: cause instanceof Error ? cause.message : String(cause) }, where, cause);
      }
      if (!Array.isArray(results)) throw wrongResult({ what: "`run` did not give a list of tensors" }, where);
      return artifact.outputs.map((name) => {
        const place = n.outs.findIndex((v) => v !== undefined && valueAt(g, v).name === name);
        const id = n.outs[place];
        if (id === undefined) throw wrongResult({ what: `there is no output '${name}'` }, where);
        return checked((results as readonly unknown[])[place], place, g, id, where);
      });
    },
    async dispose() {},
  };
}

const tensorOf = (t: TensorLike): Tensor => (t instanceof Tensor ? t : new Tensor(t.type as never, t.data as never, t.dims));

/** A result as a tensor of the type that was promised for it. Throws P2008 and P3101. */
function checked(
  found: unknown,
  place: number,
  g: Graph,
  id: ValueId,
  where: { readonly node: string | undefined; readonly op: string },
): Tensor {
  const wrong = (what: string): never => {
    throw wrongResult({ what: `result ${place} ${what}` }, where);
  };
  const t = found as TensorLike | null | undefined;
  if (t === undefined || t === null || typeof t.type !== "string" || !Array.isArray(t.dims) || !isTensorDType(t.type))
    return wrong("is no tensor");
  const { type } = valueAt(g, id);
  if (type.kind === "tensor") {
    const dims = type.shape;
    const fits = dims === undefined || (dims.length === t.dims.length && dims.every((d, i) => typeof d !== "number" || d === t.dims[i]));
    if (t.type !== type.dtype || !fits) {
      const said = `${type.dtype}${dims === undefined ? "" : `[${dims.join(", ")}]`}`;
      return wrong(`is ${t.type}[${t.dims.join(", ")}], and was said to be ${said}`);
    }
  }
  return tensorOf(t);
}
