/** From verdicts to segments: which engine takes which part of a graph, in an order that can run. */
import { displayName, qualifiedOp } from "../ir/graph.js";
import type { Node, NodeId, ValueId } from "../ir/types.js";
import type { Cost, EngineName, Fact } from "../ops/define.js";
import { nodeUs, startUs } from "./cost.js";
import { describe, type Quality, qualityOf, type Segment } from "./describe.js";
import { improve } from "./improve.js";
import { type Classes, type Problem, problemOf } from "./problem.js";
import { type Segmentation, segment } from "./segment.js";
import { strictRefused, type Verdicts } from "./verdicts.js";

export type { Quality, Segment } from "./describe.js";
export { bindingsOf } from "./problem.js";

export interface Partition {
  readonly segments: readonly Segment[];
  readonly quality: Quality;
  /** Nodes an engine would take that went to the host because their segment was too small. */
  readonly demoted: ReadonlySet<NodeId>;
  /** Views an engine would take that went to the host because fewer bytes cross then. */
  readonly trimmed: ReadonlySet<NodeId>;
  /** Nodes an engine would take that went elsewhere because the estimate is lower there. */
  readonly unprofitable: ReadonlySet<NodeId>;
  readonly costs: ReadonlyMap<NodeId, Cost>;
}
export interface PartitionOptions {
  readonly minimumSegmentSize: number;
  readonly strict?: boolean | undefined;
  readonly facts: (v: ValueId) => Fact;
  /** Numbers for symbolic dims, for costs. */
  readonly bindings?: ReadonlyMap<string, number> | undefined;
  /** For the time estimates. Default "fp32". */
  readonly precision?: string | undefined;
  /**
   * "order": every node goes to the first engine that takes it; the default. "time": among engines the lower estimate of the whole wins.
   * "time-or-host": the host takes part in that too, so that a segment that gains nothing is not made.
   */
  readonly objective?: "order" | "time" | "time-or-host" | undefined;
  /** Measured microseconds of a node on an engine, where there are any; they replace the estimate. */
  readonly measured?: ((node: NodeId, engine: EngineName) => number | undefined) | undefined;
}

/** Throws P1703 under `strict` when a compute node would stay on the host. */
export function partition(g: Problem["graph"], verdicts: Verdicts, options: PartitionOptions): Partition {
  return solve(problemOf(g, options.facts, options.bindings), verdicts, options);
}

/** As `partition`, for a problem that was built before. */
export function solve(p: Problem, verdicts: Verdicts, options: PartitionOptions): Partition {
  const { nodes } = p.graph;
  const classes: Classes = ["host", ...verdicts.engines];
  const precision = options.precision ?? "fp32";
  const forced = new Uint8Array(nodes.length);
  nodes.forEach((n, i) => {
    const pin = verdicts.pinned.get(n.id);
    if (pin !== undefined && pin !== "host") forced[i] = 1;
  });
  const run = (engine: Uint8Array, overlap = false): Segmentation =>
    segment({
      n: nodes.length,
      successors: p.successors,
      engine,
      size: p.size,
      minimumSize: options.minimumSegmentSize,
      forced,
      values: p.values,
      flops: p.flops,
      lossUs: lossOf(p, classes, engine, precision, options.measured),
      ...(overlap ? { overlap: { us: timesOf(p, classes, engine, precision, options), startUs: classes.map(startUs) } } : {}),
    });
  const rate = (s: Segmentation): Quality => qualityOf(p, s, classes, precision, options.measured);
  const first = assignment(p, verdicts, classes, verdicts.engines);
  let best = { engine: first, s: run(first), us: 0 };
  const objective = options.objective ?? "order";
  if (objective !== "order" && verdicts.engines.length > 0) {
    best.us = rate(best.s).estimatedUs;
    const consider = (engine: Uint8Array): boolean => {
      const s = run(engine);
      const { estimatedUs } = rate(s);
      if (estimatedUs >= best.us) return false;
      best = { engine, s, us: estimatedUs };
      return true;
    };
    if (verdicts.engines.length > 1)
      for (const e of verdicts.engines) consider(assignment(p, verdicts, classes, [e, ...verdicts.engines.filter((x) => x !== e)]));
    const allowed = (i: number, c: number): boolean => {
      const id = (nodes[i] as Node).id;
      const pin = verdicts.pinned.get(id);
      const e = classes[c] ?? "host";
      return pin !== undefined ? pin === e : verdicts.of(id, e).ok;
    };
    if (objective === "time-or-host") consider(best.engine.map((c, i) => (allowed(i, 0) ? 0 : c)));
    const context = { problem: p, classes, precision, allowed, toHost: objective === "time-or-host", measured: options.measured };
    // Each round moves the pieces that gain by themselves; it stops when the whole gains no more.
    for (let round = 0; round < 4; round++) {
      const moved = improve(context, best.s);
      if (moved === undefined || !consider(moved)) break;
    }
    best = { ...best, s: run(best.engine, true) };
  }
  const { s } = best;
  const demoted = new Set<NodeId>();
  const trimmed = new Set<NodeId>();
  const unprofitable = new Set<NodeId>();
  nodes.forEach((n, i) => {
    if (s.demoted[i] === 1) demoted.add(n.id);
    else if (s.trimmed[i] === 1) trimmed.add(n.id);
    else if (first[i] !== 0 && s.engineOf[s.segmentOf[i] as number] === 0) unprofitable.add(n.id);
  });
  const segments = describe(p, s, classes);
  if (options.strict === true && verdicts.engines.length > 0) refuseHost(p, segments, verdicts, demoted);
  return { segments, demoted, trimmed, unprofitable, costs: new Map(nodes.map((n, i) => [n.id, p.costs[i] as Cost])), quality: rate(s) };
}

/** Every node to its pin, or to the first engine of `order` that takes it, or to the host. */
function assignment(p: Problem, verdicts: Verdicts, classes: Classes, order: readonly EngineName[]): Uint8Array {
  return Uint8Array.from(p.graph.nodes, (n) => {
    const chosen = verdicts.pinned.get(n.id) ?? order.find((e) => verdicts.of(n.id, e).ok) ?? "host";
    return Math.max(0, classes.indexOf(chosen));
  });
}

const timesOf = (p: Problem, classes: Classes, engine: Uint8Array, precision: string, options: PartitionOptions): Float64Array =>
  Float64Array.from(p.graph.nodes, (n, i) => {
    const e = classes[engine[i] as number] ?? "host";
    return options.measured?.(n.id, e) ?? nodeUs(e, p.costs[i] as Cost, precision);
  });

/** Microseconds that the host takes longer for each node than the engine it is given to. */
export function lossOf(
  p: Problem,
  classes: Classes,
  engine: Uint8Array,
  precision: string,
  measured?: PartitionOptions["measured"],
): Float64Array {
  const time = (n: Node, i: number, e: EngineName): number => measured?.(n.id, e) ?? nodeUs(e, p.costs[i] as Cost, precision);
  return Float64Array.from(p.graph.nodes, (n, i) => {
    const e = classes[engine[i] as number] ?? "host";
    return e === "host" ? 0 : Math.max(0, time(n, i, "host") - time(n, i, e));
  });
}

function refuseHost(p: Problem, segments: readonly Segment[], verdicts: Verdicts, demoted: ReadonlySet<NodeId>): void {
  const g = p.graph;
  const left = segments
    .filter((s) => s.engine === "host")
    .flatMap((s) => s.nodes)
    .filter((id) => verdicts.pinned.get(id) !== "host" && p.size[p.at.get(id) ?? 0] === 1);
  const [first] = left;
  if (first === undefined) return;
  const n = g.nodes[p.at.get(first) ?? 0] as Node;
  const verdict = verdicts.of(first, verdicts.engines[0] ?? "host");
  const why = demoted.has(first)
    ? "its segment is smaller than minimumSegmentSize"
    : verdict.ok
      ? "the engine declined its segment"
      : verdict.why;
  throw strictRefused({ count: left.length, why }, { file: g.extra?.file, node: displayName(g, n), op: qualifiedOp(n) });
}
