/** Times that were measured elsewhere, by the names that reports give to nodes; they replace the estimate that the assignment is by. */
import type { Remarks } from "../diagnostics.js";
import { displayName, originOf } from "../ir/graph.js";
import type { Graph, NodeId } from "../ir/types.js";
import type { EngineName } from "../ops/define.js";
import type { PartitionOptions } from "./assign.js";

/** Microseconds of one run by engine, by node name. */
export type Times = Readonly<Record<string, Readonly<Partial<Record<EngineName, number>>>>>;

/**
 * Looks times up by node. A name is a node's own, or that of the file where exactly one node has come of it: what became several has no time of
 * its own. Names that fit nothing, such as those of nodes that the passes took away, are said in one remark.
 */
export function measuredTimes(g: Graph, times: Times, remarks: Remarks): PartitionOptions["measured"] {
  if (Object.keys(times).length === 0) return undefined;
  const named = new Map<string, NodeId>();
  const came = new Map<string, NodeId | undefined>();
  for (const n of g.nodes) {
    named.set(displayName(g, n), n.id);
    for (const o of originOf(n)) came.set(o, came.has(o) ? undefined : n.id);
  }
  const byNode = new Map<NodeId, Readonly<Partial<Record<EngineName, number>>>>();
  const unknown: string[] = [];
  for (const [name, us] of Object.entries(times)) {
    const node = named.get(name) ?? came.get(name);
    if (node === undefined) unknown.push(name);
    else byNode.set(node, us);
  }
  if (unknown.length > 0)
    remarks({
      severity: "note",
      text: `${unknown.length} of ${Object.keys(times).length} measured times are of no single node, the first of '${unknown[0]}'`,
      fix: "name nodes as the report does",
    });
  return (node, engine) => byNode.get(node)?.[engine];
}
