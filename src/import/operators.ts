/** Nodes that a JavaScript function computes: their results get types, so that what comes behind them can be planned. */
import { defineError, type Where } from "../diagnostics.js";
import { operatorAttrs } from "../ir/attributes.js";
import { Editor } from "../ir/edit.js";
import { bodiesOf, displayName, qualifiedOp, valueAt } from "../ir/graph.js";
import type { Attrs, Graph, Node, ValueType } from "../ir/types.js";
import { type InferOptions, inferGraph } from "../ops/infer.js";
import { type Operator, type OperatorType, operatorOf } from "../ops/javascript.js";
import { isTensorDType } from "../tensor.js";

export const untypedResult = defineError<{ index: number }>("P1005", "the results of a JavaScript operator have no type", ({ index }) => ({
  what: `result ${index} has no type: the model declares none, and the operator's \`infer\` gives none`,
  why: "what comes behind it is planned before it has run",
  fix: "give the operator an `infer` that returns { type, dims } for every output",
}));
export const wrongInfer = defineError<{ what: string }>("P1006", "the infer function of an operator fails", ({ what }) => ({
  what: `its \`infer\` ${what}`,
  fix: "return one { type, dims } for every output; type is a tensor type such as 'float32', dims are numbers or names",
}));
export const inBody = defineError<Record<never, never>>("P1007", "a JavaScript operator stands in a loop or branch", () => ({
  what: "it is in the body of a Loop, Scan or If, which one runtime runs as a whole",
  fix: "cut the graph around the loop with `inputs` and `outputs`, or do the loop in JavaScript too",
}));

/** The graph with types for the results of such nodes. Throws P1005 to P1007. */
export function typeOperators(g: Graph, operators: readonly Operator[], options: InferOptions): Graph {
  if (operators.length === 0) return g;
  refuseBodies(g, g, operators);
  let graph = g;
  // One after another: what is inferred of one is what the next is asked with.
  for (const n of g.nodes) {
    const operator = operatorOf(operators, n);
    if (operator === undefined) continue;
    const typed = inferGraph(graph, options).graph;
    const ins = n.ins.map((v) => (v === undefined ? undefined : valueAt(typed, v).type));
    const types = inferredTypes(operator, ins, n.attrs, placeOf(g, n));
    const e = new Editor(graph);
    n.outs.forEach((v, i) => {
      if (v === undefined) return;
      const type = types[i] ?? valueAt(typed, v).type;
      if (type.kind !== "tensor" || !isTensorDType(type.dtype)) throw untypedResult({ index: i }, placeOf(g, n));
      e.setType(v, type);
    });
    graph = e.finish();
  }
  return graph;
}

const placeOf = (g: Graph, n: Node) => ({ file: g.extra?.file, node: displayName(g, n), op: qualifiedOp(n) });

function refuseBodies(top: Graph, g: Graph, operators: readonly Operator[]): void {
  for (const n of g.nodes) {
    if (g !== top && operatorOf(operators, n) !== undefined) throw inBody({}, placeOf(top, n));
    for (const { body } of bodiesOf(n)) refuseBodies(top, body.graph, operators);
  }
}

/** What an operator's `infer` says of its results; undefined for those that it says nothing of. Throws P1006. */
export function inferredTypes(
  operator: Operator,
  ins: readonly (ValueType | undefined)[],
  attrs: Attrs,
  where: Where,
): readonly (ValueType | undefined)[] {
  if (operator.infer === undefined) return [];
  const known = new Set<unknown>();
  const inputs = ins.map((type): OperatorType | undefined => {
    if (type?.kind !== "tensor" || !isTensorDType(type.dtype)) return undefined;
    for (const d of type.shape ?? []) known.add(d);
    return { type: type.dtype, dims: type.shape };
  });
  let types: unknown;
  try {
    types = operator.infer(inputs, operatorAttrs(attrs));
  } catch (cause) {
    throw wrongInfer({ what: `throws: ${cause instanceof Error ? cause.message : String(cause)}` }, where, cause);
  }
  if (!Array.isArray(types)) throw wrongInfer({ what: "does not return a list" }, where);
  const legal = (d: unknown): boolean =>
    typeof d === "number"
      ? Number.isSafeInteger(d) && d >= 0
      : known.has(d) || (typeof d === "string" && /^([A-Za-z_][\w.]*|[?])$/.test(d));
  return types.map((t: Partial<OperatorType> | null | undefined, i): ValueType | undefined => {
    if (t === undefined) return undefined;
    const dims: unknown = t?.dims;
    if (t === null || typeof t.type !== "string" || !isTensorDType(t.type))
      throw wrongInfer({ what: `gives result ${i} no tensor type` }, where);
    if (dims !== undefined && !(Array.isArray(dims) && dims.every(legal)))
      throw wrongInfer({ what: `gives result ${i} the dims ${JSON.stringify(dims)}` }, where);
    return { kind: "tensor", dtype: t.type, shape: dims as OperatorType["dims"] };
  });
}
