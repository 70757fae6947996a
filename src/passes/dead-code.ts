/** Removes nodes whose results nobody reads, and captures that a body no longer uses. */
import { Editor } from "../ir/edit.js";
import { bodiesOf, readsOf } from "../ir/graph.js";
import type { Attr, Graph, Node, ValueId } from "../ir/types.js";
import type { Slots } from "../ops/define.js";
import { lookup } from "../ops/registry.js";
import { deep, definePass } from "./pass.js";

export const deadCode = definePass({
  name: "dead-code",
  why: "Other passes leave nodes without readers; they would cost time on an engine and hide segments from the partitioner.",
  run: (g) => deep(g, (inner) => swept(trimmed(inner))),
});

/** Without the nodes that nobody reads; bodies are left as they are. */
export function swept(g: Graph): Graph {
  const live = new Uint8Array(g.values.length);
  for (const v of g.outputs) live[v] = 1;
  const dead: Node[] = [];
  let outputsDropped = false;
  for (let i = g.nodes.length - 1; i >= 0; i--) {
    const n = g.nodes[i] as Node;
    if (n.outs.some((v) => v !== undefined && live[v] === 1)) for (const v of readsOf(n)) live[v] = 1;
    else dead.push(n);
    outputsDropped ||= n.outs.length > 1;
  }
  if (dead.length === 0 && !outputsDropped) return g;
  const draft = new Editor(g);
  for (const n of dead) draft.remove(n.id);
  // An optional output nobody reads need not be computed: trailing ones go, the others keep their place.
  for (const n of draft.nodes()) {
    if (n.outs.length < 2 || bodiesOf(n).length > 0 || n.domain !== "") continue;
    const def = lookup(n.domain, n.op);
    const slots = Object.values((def?.out ?? {}) as Slots);
    // What is not optional has to be there; the number of variadic outputs has a meaning of its own.
    if (slots.length === 0 || slots.some((slot) => slot.kind === "variadic")) continue;
    const required = Math.max(slots.findLastIndex((slot) => slot.kind === "tensor") + 1, def?.least?.(n) ?? 0);
    const last = n.outs.findLastIndex((v) => v !== undefined && live[v] === 1);
    const kept = Math.max(required, last + 1);
    if (last >= 0 && kept < n.outs.length) draft.patch(n.id, { outs: n.outs.slice(0, kept) });
  }
  return draft.finish();
}

/** Captures that the bodies of a node do not read any more. */
function trimmed(g: Graph): Graph {
  let changed = false;
  const nodes = g.nodes.map((n): Node => {
    const bodies = bodiesOf(n);
    if (bodies.length === 0) return n;
    let touched = false;
    const attrs: Record<string, Attr> = { ...n.attrs };
    for (const { attribute, body } of bodies) {
      if (n.attrs[attribute]?.kind !== "graph") continue;
      const used = new Set<ValueId>(body.graph.outputs);
      for (const inner of body.graph.nodes) for (const v of readsOf(inner)) used.add(v);
      if (body.graph.captures.every((v) => used.has(v))) continue;
      const kept = body.graph.captures.map((v, i) => [v, body.captures[i] as ValueId] as const).filter(([v]) => used.has(v));
      const values = body.graph.values.map((v) =>
        v !== undefined && body.graph.captures.includes(v.id) && !used.has(v.id) ? undefined : v,
      );
      attrs[attribute] = {
        kind: "graph",
        value: { graph: { ...body.graph, values, captures: kept.map(([v]) => v) }, captures: kept.map(([, outer]) => outer) },
      };
      touched = true;
    }
    if (!touched) return n;
    changed = true;
    return { ...n, attrs };
  });
  return changed ? { ...g, nodes } : g;
}
