/** Plans: made from a partition, and as JSON in a bundle's manifest. */
import * as v from "valibot";
import type { PartitaError } from "../diagnostics.js";
import { joiningRefusal } from "../engines/padding.js";
import { valueAt } from "../ir/graph.js";
import { toTensor } from "../ir/payload.js";
import type { Graph } from "../ir/types.js";
import { npyBytes, readNpy } from "../npz.js";
import { inferGraph } from "../ops/infer.js";
import type { Segment } from "../partition/assign.js";
import { batchSymbol } from "./batching.js";
import { type Plan, portOf } from "./ports.js";

/** The plan of a partitioned graph: its segments in order, by names of values. */
export function planOf(g: Graph, segments: readonly Segment[]): Plan {
  const name = (id: Graph["inputs"][number]): string => valueAt(g, id).name;
  // Without a prototype: "__proto__" may be an output's name.
  const direct: Record<string, Plan["direct"][string]> = Object.create(null) as Record<string, never>;
  for (const out of g.outputs) {
    const c = g.constants.get(out);
    const t = c === undefined ? undefined : toTensor(c);
    if (t !== undefined) direct[name(out)] = { constant: t };
    else if (g.inputs.includes(out)) direct[name(out)] = { input: name(out) };
  }
  const plan: Plan = {
    inputs: g.inputs.map((id) => portOf(name(id), valueAt(g, id).type)),
    outputs: g.outputs.map((id) => portOf(name(id), valueAt(g, id).type)),
    steps: segments.map((s) => ({ segment: s.name, inputs: s.inputs.map(name), outputs: s.outputs.map(name) })),
    direct,
    ...(g.extra?.aliases === undefined ? {} : { aliases: g.extra.aliases }),
  };
  const symbol = batchSymbol(plan);
  if (typeof symbol !== "string") return plan;
  const mixed = joiningRefusal(g, inferGraph(g).facts, symbol);
  const at = mixed?.node === undefined ? "" : `node '${mixed.node}' (${mixed.op}): `;
  return { ...plan, joins: mixed === undefined ? "" : `${at}${mixed.why}` };
}

const port = v.strictObject({ name: v.string(), type: v.string(), dims: v.optional(v.array(v.union([v.number(), v.string()]))) });
const names = v.array(v.string());
const schema = v.strictObject({
  inputs: v.array(port),
  outputs: v.array(port),
  steps: v.array(v.strictObject({ segment: v.string(), inputs: names, outputs: names })),
  direct: v.record(v.string(), v.union([v.strictObject({ input: v.string() }), v.strictObject({ npy: v.string() })])),
  aliases: v.optional(v.record(v.string(), v.string())),
  joins: v.optional(v.string()),
});

export function encodePlan(plan: Plan): unknown {
  const direct = Object.fromEntries(
    Object.entries(plan.direct).map(([name, d]) => [
      name,
      "input" in d ? d : { npy: Buffer.from(npyBytes(d.constant)).toString("base64") },
    ]),
  );
  return {
    inputs: plan.inputs,
    outputs: plan.outputs,
    steps: plan.steps,
    direct,
    ...(plan.aliases === undefined ? {} : { aliases: plan.aliases }),
    ...(plan.joins === undefined ? {} : { joins: plan.joins }),
  };
}

/** `fail` makes the error for a plan that is not sound: wrong shape, or a step that reads what nothing made. */
export function decodePlan(raw: unknown, fail: (what: string) => PartitaError): Plan {
  const parsed = v.safeParse(schema, raw);
  if (!parsed.success) throw fail(`its plan is not valid at '${v.getDotPath(parsed.issues[0]) ?? ""}': ${parsed.issues[0].message}`);
  const { inputs, outputs, steps } = parsed.output;
  const known = new Set(inputs.map((p) => p.name));
  for (const s of steps) {
    for (const name of s.inputs) if (!known.has(name)) throw fail(`segment '${s.segment}' reads '${name}', which nothing before it makes`);
    for (const name of s.outputs) known.add(name);
  }
  const direct: Record<string, Plan["direct"][string]> = Object.create(null) as Record<string, never>;
  for (const [name, d] of Object.entries(parsed.output.direct))
    direct[name] = "input" in d ? d : { constant: readNpy(Buffer.from(d.npy, "base64"), "manifest.json") };
  for (const p of outputs) if (!known.has(p.name) && !Object.hasOwn(direct, p.name)) throw fail(`output '${p.name}' is made by nothing`);
  return {
    inputs: inputs.map((p) => ({ name: p.name, type: p.type, dims: p.dims })),
    outputs: outputs.map((p) => ({ name: p.name, type: p.type, dims: p.dims })),
    steps,
    direct,
    ...(parsed.output.aliases === undefined ? {} : { aliases: parsed.output.aliases }),
    ...(parsed.output.joins === undefined ? {} : { joins: parsed.output.joins }),
  };
}
