/**
 * The partition report as data: what went where, why, and what it costs. Deterministic: no clock, no machine, no ids; two compilations of
 * one model with the same options give the same bytes. docs/report.schema.json is its published form.
 */
import * as v from "valibot";
import { displayName, originOf, qualifiedOp, valueAt } from "../ir/graph.js";
import { typeText } from "../ir/print.js";
import type { Graph, NodeId, ValueId } from "../ir/types.js";
import type { EngineName, Fact } from "../ops/define.js";
import { bytes as factBytes } from "../ops/shapes.js";
import type { Partition } from "../partition/assign.js";
import { estimateUs } from "../partition/cost.js";
import type { Verdicts } from "../partition/verdicts.js";
import type { PassRecord } from "../passes/pass.js";
import { renderHtml } from "./html.js";
import { renderText, type TextOptions } from "./text.js";

export const REPORT_SCHEMA = "partita.report/1";

const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const amount = v.pipe(v.number(), v.minValue(0));
const engine = v.picklist(["host", "cuda", "tensorrt"]);
const tensor = v.strictObject({ name: v.string(), type: v.string(), bytes: amount });
export const reportSchema = v.strictObject({
  schema: v.literal(REPORT_SCHEMA),
  model: v.strictObject({
    name: v.string(),
    opset: count,
    inputs: v.array(tensor),
    outputs: v.array(tensor),
    nodes: count,
    weightsBytes: amount,
  }),
  options: v.strictObject({
    targets: v.array(engine),
    precision: v.string(),
    minimumSegmentSize: count,
    strict: v.boolean(),
    shapes: v.record(v.string(), v.array(count)),
  }),
  passes: v.array(v.strictObject({ pass: v.string(), nodesBefore: count, nodesAfter: count, changed: v.boolean() })),
  quality: v.strictObject({
    nodes: count,
    segments: count,
    engineSegments: count,
    lowerBound: count,
    flops: amount,
    flopsCovered: amount,
    nodesCovered: amount,
    bytesCovered: amount,
    cutTensors: count,
    boundaryBytes: amount,
    crossings: count,
    largestShare: amount,
  }),
  segments: v.array(
    v.strictObject({
      name: v.string(),
      engine,
      nodes: count,
      flops: amount,
      bytes: amount,
      weightsBytes: amount,
      estimatedUs: amount,
      ops: v.record(v.string(), count),
      inputs: v.array(tensor),
      outputs: v.array(tensor),
    }),
  ),
  nodes: v.array(
    v.strictObject({
      name: v.string(),
      op: v.string(),
      origin: v.array(v.string()),
      segment: count,
      flops: amount,
      bytes: amount,
      output: v.string(),
      /** Nodes it reads from, by place in this list. */
      after: v.array(count),
      /** Why it does not run on each engine asked for, where it does not. */
      notOn: v.array(v.strictObject({ engine, why: v.string(), fix: v.optional(v.string()) })),
    }),
  ),
  /** Reasons for staying on the host, most work first. */
  reasons: v.array(
    v.strictObject({ engine, why: v.string(), fix: v.optional(v.string()), ops: v.array(v.string()), nodes: count, flops: amount }),
  ),
});
export type ReportData = v.InferOutput<typeof reportSchema>;
export type ReportNode = ReportData["nodes"][number];
export type ReportSegment = ReportData["segments"][number];

/** The report of one compilation. `data` is what the three forms show. */
export class Report {
  readonly data: ReportData;
  constructor(data: ReportData) {
    this.data = data;
  }
  /** For a terminal. Colour only when asked for. */
  toText(options: TextOptions = {}): string {
    return renderText(this.data, options);
  }
  toJSON(): ReportData {
    return this.data;
  }
  /** One self-contained page; needs no network. */
  toHTML(): string {
    return renderHtml(this.data);
  }
  /** The nodes whose name or origin is `name`. */
  find(name: string): readonly ReportNode[] {
    return this.data.nodes.filter((n) => n.name === name || n.origin.includes(name));
  }
}

/** From JSON; throws a ValiError for data that is not a report of this schema. */
export const reportFromJSON = (raw: unknown): Report => new Report(v.parse(reportSchema, raw));

export interface ReportParts {
  readonly original: Graph;
  readonly graph: Graph;
  readonly partition: Partition;
  readonly verdicts: Verdicts;
  readonly facts: (v: ValueId) => Fact;
  readonly passes: readonly PassRecord[];
  readonly modelName: string;
  readonly options: {
    readonly precision: string;
    readonly minimumSegmentSize: number;
    readonly strict: boolean;
    readonly shapes: Readonly<Record<string, readonly number[]>>;
  };
}

export function buildReport(parts: ReportParts): Report {
  const { graph: g, partition, verdicts, facts } = parts;
  const tensorOf = (id: ValueId): ReportData["model"]["inputs"][number] => ({
    name: valueAt(g, id).name,
    type: typeText(facts(id).type),
    bytes: Math.round(factBytes(facts(id))),
  });
  const segmentOf = new Map<NodeId, number>();
  for (const s of partition.segments) for (const id of s.nodes) segmentOf.set(id, s.index);
  const place = new Map<NodeId, number>(g.nodes.map((n, i) => [n.id, i]));
  const maker = new Map<ValueId, number>();
  for (const n of g.nodes) for (const out of n.outs) if (out !== undefined) maker.set(out, place.get(n.id) ?? 0);
  const weightBytes = (id: ValueId): number => factBytes(facts(id));
  let flops = 0;
  const nodes = g.nodes.map((n): ReportNode => {
    const cost = partition.costs.get(n.id) ?? { flops: 0, bytes: 0 };
    flops += cost.flops;
    const own = partition.segments[segmentOf.get(n.id) ?? 0]?.engine ?? "host";
    const [first] = n.outs.filter((o) => o !== undefined);
    return {
      name: displayName(g, n),
      op: qualifiedOp(n),
      origin: originOf(n).filter((o) => o !== ""),
      segment: segmentOf.get(n.id) ?? 0,
      flops: Math.round(cost.flops),
      bytes: Math.round(cost.bytes),
      output: first === undefined ? "" : typeText(facts(first).type),
      after: [...new Set(n.ins.flatMap((id) => (id === undefined ? [] : (maker.get(id) ?? []))))].sort((a, b) => a - b),
      notOn: verdicts.engines.flatMap((e) => (e === own ? [] : reasonFor(n.id, e, parts))),
    };
  });
  const segments = partition.segments.map((s): ReportSegment => {
    const ops: Record<string, number> = {};
    for (const id of s.nodes) {
      const op = nodes[place.get(id) ?? 0]?.op ?? "";
      ops[op] = (ops[op] ?? 0) + 1;
    }
    return {
      name: s.name,
      engine: s.engine,
      nodes: s.nodes.length,
      flops: Math.round(s.cost.flops),
      bytes: Math.round(s.cost.bytes),
      weightsBytes: Math.round(s.constants.reduce((a, id) => a + weightBytes(id), 0)),
      estimatedUs:
        Math.round(
          estimateUs(
            s.engine,
            s.nodes.map((id) => partition.costs.get(id) ?? { flops: 0, bytes: 0 }),
            parts.options.precision,
          ) * 10,
        ) / 10,
      ops: Object.fromEntries(Object.entries(ops).sort(([a, x], [b, y]) => y - x || (a < b ? -1 : 1))),
      inputs: s.inputs.map(tensorOf),
      outputs: s.outputs.map(tensorOf),
    };
  });
  const q = partition.quality;
  const round = (x: number): number => Math.round(x * 1e6) / 1e6;
  let weightsBytes = 0;
  for (const id of g.constants.keys()) weightsBytes += weightBytes(id);
  return new Report({
    schema: REPORT_SCHEMA,
    model: {
      name: parts.modelName,
      opset: g.opsets[""] ?? 0,
      inputs: g.inputs.map(tensorOf),
      outputs: g.outputs.map(tensorOf),
      nodes: parts.original.nodes.length,
      weightsBytes: Math.round(weightsBytes),
    },
    options: {
      targets: [...verdicts.engines, "host"],
      precision: parts.options.precision,
      minimumSegmentSize: parts.options.minimumSegmentSize,
      strict: parts.options.strict,
      shapes: Object.fromEntries(Object.entries(parts.options.shapes).map(([k, d]) => [k, [...d]])),
    },
    passes: parts.passes.map((p) => ({ ...p })),
    quality: {
      nodes: g.nodes.length,
      segments: q.segments,
      engineSegments: q.engineSegments,
      lowerBound: q.lowerBound,
      flops: Math.round(flops),
      flopsCovered: round(q.flopsCovered),
      nodesCovered: round(q.nodesCovered),
      bytesCovered: round(q.bytesCovered),
      cutTensors: q.cutTensors,
      boundaryBytes: Math.round(q.boundaryBytes),
      crossings: q.crossings,
      largestShare: round(q.largestShare),
    },
    segments,
    nodes,
    reasons: reasonsOf(nodes, segments),
  });
}

function reasonFor(id: NodeId, engineName: EngineName, parts: ReportParts): ReportNode["notOn"] {
  const verdict = parts.verdicts.of(id, engineName);
  if (!verdict.ok) return [{ engine: engineName, why: verdict.why, ...(verdict.fix === undefined ? {} : { fix: verdict.fix }) }];
  if (parts.partition.demoted.has(id))
    return [
      {
        engine: engineName,
        why: `its segment has fewer than ${parts.options.minimumSegmentSize} compute nodes`,
        fix: "lower minimumSegmentSize, or pin the nodes",
      },
    ];
  return [{ engine: engineName, why: "another engine was preferred" }];
}

function reasonsOf(nodes: readonly ReportNode[], segments: readonly ReportSegment[]): ReportData["reasons"] {
  const groups = new Map<string, { engine: EngineName; why: string; fix?: string; ops: Set<string>; nodes: number; flops: number }>();
  for (const n of nodes) {
    if (segments[n.segment]?.engine !== "host") continue;
    for (const r of n.notOn) {
      const key = `${r.engine}|${r.why}`;
      const group = groups.get(key) ?? {
        engine: r.engine,
        why: r.why,
        ...(r.fix === undefined ? {} : { fix: r.fix }),
        ops: new Set<string>(),
        nodes: 0,
        flops: 0,
      };
      group.ops.add(n.op);
      group.nodes++;
      group.flops += n.flops;
      groups.set(key, group);
    }
  }
  return [...groups.values()]
    .sort((a, b) => b.flops - a.flops || b.nodes - a.nodes || (a.why < b.why ? -1 : 1))
    .map((r) => ({ ...r, ops: [...r.ops].sort() }));
}
