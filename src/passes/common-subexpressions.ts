/** Computes once what two nodes compute alike: same operator, operands and attributes. */
import { Editor } from "../ir/edit.js";
import { bodiesOf } from "../ir/graph.js";
import { constantHash } from "../ir/hash.js";
import { payloadLength } from "../ir/payload.js";
import type { Attr, Graph, ValueId } from "../ir/types.js";
import { lookup } from "../ops/registry.js";
import { draws } from "./fold-constants.js";
import { deep, definePass } from "./pass.js";

/** Constants up to this size are compared by content; bigger ones by identity, hashing them would read every weight. */
const SMALL = 4096;

export const commonSubexpressions = definePass({
  name: "common-subexpressions",
  why: "Exporters repeat shape arithmetic and masks per layer; merged, they are one node at the top instead of many small cuts.",
  run: (g) => deep(g, merged),
});

function merged(g: Graph): Graph {
  const draft = new Editor(g);
  const outputs = new Set(g.outputs);
  const constants = new Map<string, ValueId>();
  const same = new Map<ValueId, ValueId>();
  for (const [v, c] of g.constants) {
    if (outputs.has(v) || payloadLength(c.data) > SMALL) continue;
    const key = constantHash(c);
    const first = constants.get(key);
    if (first === undefined) constants.set(key, v);
    else same.set(v, first);
  }
  const seen = new Map<string, readonly (ValueId | undefined)[]>();
  for (const n of g.nodes) {
    const def = lookup(n.domain, n.op);
    if (def === undefined || draws(g, n, def) || bodiesOf(n).length > 0 || n.outs.some((v) => v !== undefined && outputs.has(v))) continue;
    const of = (v: ValueId | undefined): string => (v === undefined ? "_" : String(same.get(v) ?? v));
    const key = `${n.domain}.${n.op}(${n.ins.map(of).join(",")})${n.outs.length}${attributes(n.attrs)}`;
    const first = seen.get(key);
    if (first === undefined) {
      seen.set(key, n.outs);
      continue;
    }
    // A result that the first one does not give cannot be shared.
    if (n.outs.some((v, i) => v !== undefined && first[i] === undefined)) continue;
    n.outs.forEach((v, i) => {
      const f = first[i];
      if (v !== undefined && f !== undefined) same.set(v, f);
    });
    draft.remove(n.id);
  }
  if (same.size === 0) return g;
  for (const [from, to] of same) draft.replaceUses(from, to);
  return draft.finish();
}

function attributes(attrs: Readonly<Record<string, Attr>>): string {
  const keys = Object.keys(attrs).sort();
  if (keys.length === 0) return "";
  return keys
    .map((k) => {
      const a = attrs[k] as Attr;
      if (a.kind === "tensor") return `${k}=${constantHash(a.value)}`;
      return `${k}=${a.kind}${JSON.stringify(a.value, (_, x) => (typeof x === "bigint" ? `${x}n` : typeof x === "number" && !Number.isFinite(x) ? String(x) : x instanceof Uint8Array ? Buffer.from(x).toString("hex") : Object.is(x, -0) ? "-0" : x))}`;
    })
    .join(";");
}
