/** A control-flow body's nodes in the graph around it. */
import type { Editor } from "../ir/edit.js";
import { valueAt } from "../ir/graph.js";
import type { Attr, Body, ValueId } from "../ir/types.js";

/** Adds a copy of the body's nodes; `bound` says what its inputs stand for. Gives the value that a value of the body became. */
export function spellBody(draft: Editor, { graph: body, captures }: Body, bound: ReadonlyMap<ValueId, ValueId>): (v: ValueId) => ValueId {
  const outer = new Map(bound);
  body.captures.forEach((v, i) => {
    const captured = captures[i];
    if (captured !== undefined) outer.set(v, captured);
  });
  for (const [v, c] of body.constants) if (!outer.has(v)) outer.set(v, draft.addConstant(valueAt(body, v).name, c));
  const at = (v: ValueId): ValueId => {
    const known = outer.get(v);
    if (known !== undefined) return known;
    const { name, type } = valueAt(body, v);
    const made = draft.declare(name, type);
    outer.set(v, made);
    return made;
  };
  const each = (list: readonly (ValueId | undefined)[]): (ValueId | undefined)[] => list.map((v) => (v === undefined ? v : at(v)));
  for (const inner of body.nodes) {
    const attrs: Record<string, Attr> = {};
    for (const [key, a] of Object.entries(inner.attrs)) attrs[key] = recaptured(a, at);
    draft.add({ ...inner, ins: each(inner.ins), outs: each(inner.outs), attrs });
  }
  return at;
}
/** Bodies inside the body capture what now stands outside. */
function recaptured(a: Attr, at: (v: ValueId) => ValueId): Attr {
  if (a.kind === "graph") return { kind: "graph", value: { graph: a.value.graph, captures: a.value.captures.map(at) } };
  if (a.kind === "graphs") return { kind: "graphs", value: a.value.map((b) => ({ graph: b.graph, captures: b.captures.map(at) })) };
  return a;
}
