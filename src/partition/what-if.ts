/** What support would be worth: the partition as if an operator, or all nodes with one reason, could run on an engine. */
import { type Verdict, yes } from "../diagnostics.js";
import { qualifiedOp } from "../ir/graph.js";
import type { Node, NodeId } from "../ir/types.js";
import type { EngineName } from "../ops/define.js";
import { type Partition, type PartitionOptions, solve } from "./assign.js";
import { nodeUs } from "./cost.js";
import type { Problem } from "./problem.js";
import { assume, type Verdicts } from "./verdicts.js";

/** What would come of a change. `gainUs` is the estimate of a run now minus the estimate then; negative where it would cost time. */
export interface Gain {
  readonly engine: EngineName;
  /** Nodes whose verdict the change turns. */
  readonly nodes: number;
  readonly gainUs: number;
  readonly engineSegments: number;
  readonly boundaryBytes: number;
  readonly flopsCovered: number;
}
export interface Gains {
  /** By operator that an engine does not take today, most time gained first. */
  readonly operators: readonly (Gain & { readonly op: string })[];
  /** By engine and reason, as `key` makes it. */
  readonly reasons: ReadonlyMap<string, Gain>;
}
/** The key of a reason in `Gains.reasons`. */
export const reasonKey = (engine: EngineName, why: string): string => `${engine}|${why}`;
/** The reason of nodes whose segment fell below the floor. */
export const tooSmall = (minimum: number): string => `its segment has fewer than ${minimum} compute nodes`;

/** Groups tried at most, those with the most host time first: each costs a partition of the whole graph. */
const MAX_GROUPS = 24;
const MAX_GROUPS_LARGE = 6;

export function gainsOf(p: Problem, verdicts: Verdicts, now: Partition, options: PartitionOptions): Gains {
  const operators: (Gain & { readonly op: string })[] = [];
  const reasons = new Map<string, Gain>();
  const onHost = new Set(now.segments.filter((s) => s.engine === "host").flatMap((s) => s.nodes));
  const relaxed = { ...options, strict: false };
  const trial = (engine: EngineName, nodes: ReadonlySet<NodeId>, minimum?: number): Gain => {
    const then = solve(
      p,
      assume(verdicts, (id, e): Verdict | undefined => (e === engine && nodes.has(id) ? yes : undefined)),
      minimum === undefined ? relaxed : { ...relaxed, minimumSegmentSize: minimum },
    ).quality;
    return {
      engine,
      nodes: nodes.size,
      gainUs: now.quality.estimatedUs - then.estimatedUs,
      engineSegments: then.engineSegments,
      boundaryBytes: then.boundaryBytes,
      flopsCovered: then.flopsCovered,
    };
  };
  for (const engine of verdicts.engines) {
    const byOp = new Map<string, Group>();
    const byReason = new Map<string, Group>();
    p.graph.nodes.forEach((n, i) => {
      if (!onHost.has(n.id) || verdicts.pinned.has(n.id)) return;
      const us = nodeUs("host", p.costs[i] ?? { flops: 0, bytes: 0 }, "fp32");
      const verdict = verdicts.of(n.id, engine);
      if (!verdict.ok) {
        put(byOp, qualifiedOp(n), n, us);
        put(byReason, verdict.why, n, us);
      } else if (now.demoted.has(n.id)) put(byReason, tooSmall(options.minimumSegmentSize), n, us);
    });
    const most = p.graph.nodes.length > 50_000 ? MAX_GROUPS_LARGE : MAX_GROUPS;
    for (const [op, group] of ranked(byOp, most)) operators.push({ op, ...trial(engine, group.nodes) });
    for (const [why, group] of ranked(byReason, most))
      reasons.set(reasonKey(engine, why), trial(engine, group.nodes, why === tooSmall(options.minimumSegmentSize) ? 1 : undefined));
  }
  operators.sort((a, b) => b.gainUs - a.gainUs || b.nodes - a.nodes || (a.op < b.op ? -1 : a.op > b.op ? 1 : 0));
  return { operators, reasons };
}

interface Group {
  readonly nodes: Set<NodeId>;
  us: number;
}
function put(groups: Map<string, Group>, key: string, n: Node, us: number): void {
  let group = groups.get(key);
  if (group === undefined) groups.set(key, (group = { nodes: new Set(), us: 0 }));
  group.nodes.add(n.id);
  group.us += us;
}
const ranked = (groups: ReadonlyMap<string, Group>, most: number): readonly (readonly [string, Group])[] =>
  [...groups].sort(([a, x], [b, y]) => y.us - x.us || y.nodes.size - x.nodes.size || (a < b ? -1 : 1)).slice(0, most);
