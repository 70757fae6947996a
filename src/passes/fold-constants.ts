/** Evaluates what depends on constants alone, on ONNX Runtime, a region at a time. */
import { isStaticShape } from "../ir/dims.js";
import { byteLength } from "../ir/dtypes.js";
import { Editor } from "../ir/edit.js";
import { bodiesOf, readsOf } from "../ir/graph.js";
import { elementCount, payloadLength, smallNumbers } from "../ir/payload.js";
import type { Constant, Graph, Node, ValueId } from "../ir/types.js";
import type { AnyOp } from "../ops/define.js";
import { lookup } from "../ops/registry.js";
import { deepAsync, definePass, type PassContext } from "./pass.js";

/** Element types that onnxruntime-node gives back. */
const RETURNED: ReadonlySet<string> = new Set([
  "float32",
  "float64",
  "float16",
  "int8",
  "int16",
  "int32",
  "int64",
  "uint8",
  "uint16",
  "uint32",
  "uint64",
  "bool",
  "string",
]);
/** These make big tensors out of small ones; computing them later is cheaper than carrying them. */
const GROWS: ReadonlySet<string> = new Set(["Expand", "Tile", "ConstantOfShape", "Range", "EyeLike", "OneHot"]);

export const foldConstants = definePass({
  name: "fold-constants",
  why: "Weights that exporters transpose, cast or normalise at run time become plain weights, which the fusing passes after it expect.",
  run: (g, context) => deepAsync(g, (inner) => folded(inner, context)),
});

async function folded(g: Graph, context: PassContext): Promise<Graph> {
  const facts = context.facts(g);
  const constant = new Uint8Array(g.values.length);
  for (const v of g.constants.keys()) constant[v] = 1;
  const region: Node[] = [];
  for (const n of g.nodes) {
    const def = lookup(n.domain, n.op);
    if (def === undefined || draws(g, n, def) || n.domain === "com.microsoft" || bodiesOf(n).length > 0) continue;
    // A dequantized weight is how integer kernels are recognised: it stays.
    if (n.op === "QuantizeLinear" || n.op === "DequantizeLinear") continue;
    if (!readsOf(n).every((v) => constant[v] === 1)) continue;
    let bytes = 0;
    const fits = n.outs.every((v) => {
      if (v === undefined) return true;
      const t = facts(v).type;
      if (t.kind !== "tensor" || !RETURNED.has(t.dtype) || !isStaticShape(t.shape)) return false;
      bytes += byteLength(t.dtype, elementCount(t.shape) ?? Number.POSITIVE_INFINITY);
      return true;
    });
    const read = n.ins.reduce((a, v) => a + lengthOf(v === undefined ? undefined : g.constants.get(v)), 0);
    if (!fits || bytes > context.maxFoldedBytes || (GROWS.has(n.op) && bytes > Math.max(1024, 2 * read))) continue;
    region.push(n);
    for (const v of n.outs) if (v !== undefined) constant[v] = 1;
  }
  if (region.length === 0) return g;
  if (context.evaluate === undefined) {
    context.remarks({
      severity: "note",
      text: `${region.length} nodes depend on constants alone and were not folded: there is no evaluator`,
    });
    return g;
  }
  // Results that something outside the region reads.
  const inside = new Set(region.map((n) => n.id));
  const made = new Set<ValueId>(region.flatMap((n) => n.outs.filter((v) => v !== undefined)));
  const wanted = new Set<ValueId>(g.outputs.filter((v) => made.has(v)));
  for (const n of g.nodes) if (!inside.has(n.id)) for (const v of readsOf(n)) if (made.has(v)) wanted.add(v);
  const outputs = [...wanted];
  if (outputs.length === 0) return g;
  const sub = subgraph(g, region, outputs);
  let results: readonly (Constant | undefined)[];
  try {
    results = await context.evaluate(sub);
  } catch (error) {
    context.remarks({ severity: "note", text: `constants were not folded: ${error instanceof Error ? error.message : error}` });
    return g;
  }
  const draft = new Editor(g);
  outputs.forEach((v, i) => {
    const c = results[i];
    const t = facts(v).type;
    if (c === undefined || t.kind !== "tensor" || c.dtype !== t.dtype) return;
    const folded = draft.addConstant(`${draft.value(v).name}.folded`, c);
    draft.replaceUses(v, folded);
  });
  return draft.finish();
}

/** Whether a node's results differ from run to run. */
export function draws(g: Graph, n: Node, def: AnyOp): boolean {
  if (def.random === true) return true;
  const training = n.op === "Dropout" && n.domain === "" ? n.ins[2] : undefined;
  return training !== undefined && smallNumbers(g.constants.get(training))?.[0] !== 0;
}

const lengthOf = (c: Constant | undefined): number => (c === undefined ? 0 : payloadLength(c.data));

/** The region as a graph of its own, without inputs. */
function subgraph(g: Graph, region: readonly Node[], outputs: readonly ValueId[]): Graph {
  const used = new Set<ValueId>(region.flatMap((n) => readsOf(n)));
  const extra = g.extra?.file === undefined ? {} : { extra: { file: g.extra.file } };
  return {
    name: "fold",
    inputs: [],
    captures: [],
    outputs,
    nodes: region,
    values: g.values,
    constants: new Map([...g.constants].filter(([v]) => used.has(v))),
    opsets: g.opsets,
    nodeLimit: g.nodeLimit,
    ...extra,
  };
}
