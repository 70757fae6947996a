/** Types and dims of a TensorRT artifact's inputs and outputs, as its settings keep them: what exports must say of a plan without loading it. */
import * as v from "valibot";
import { valueAt } from "../../ir/graph.js";
import type { Graph } from "../../ir/types.js";
import type { Artifact } from "../engine.js";
import { planIncomplete } from "./errors.js";

export interface PlanPort {
  readonly name: string;
  readonly type: string;
  readonly dims: readonly (number | string)[];
}
export interface PlanPorts {
  readonly inputs: readonly PlanPort[];
  readonly outputs: readonly PlanPort[];
}

const port = v.strictObject({ name: v.string(), type: v.string(), dims: v.array(v.union([v.number(), v.string()])) });
const schema = v.strictObject({ inputs: v.array(port), outputs: v.array(port) });

/** For the artifact's settings. */
export function encodePorts(g: Graph): string {
  const ports = (ids: Graph["inputs"]): PlanPort[] =>
    ids.map((id) => {
      const { name, type } = valueAt(g, id);
      return { name, type: type.kind === "tensor" ? type.dtype : type.kind, dims: type.kind === "tensor" ? (type.shape ?? []) : [] };
    });
  return JSON.stringify({ inputs: ports(g.inputs), outputs: ports(g.outputs) } satisfies PlanPorts);
}

/** In the artifact's order. Throws P2203 where they are missing or do not fit. */
export function portsOf(artifact: Artifact): PlanPorts {
  let raw: unknown;
  try {
    raw = JSON.parse(artifact.settings?.["ports"] ?? "");
  } catch {
    throw planIncomplete({ what: "its settings do not say what it takes and gives" });
  }
  const parsed = v.safeParse(schema, raw);
  const fits = (ports: readonly PlanPort[], names: readonly string[]): boolean => ports.map((p) => p.name).join("\n") === names.join("\n");
  if (!parsed.success || !fits(parsed.output.inputs, artifact.inputs) || !fits(parsed.output.outputs, artifact.outputs))
    throw planIncomplete({ what: "its settings do not say what it takes and gives" });
  return parsed.output;
}
