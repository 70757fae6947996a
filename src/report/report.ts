/**
 * The partition report: what went where, why, and what it costs, made of a compilation. Two compilations of one model with the same options give
 * the same bytes.
 */
import * as v from "valibot";
import { defineError, type Remark } from "../diagnostics.js";
import type { BoundInput } from "../ir/bound.js";
import { displayName, originOf, qualifiedOp, readsOf, valueAt } from "../ir/graph.js";
import { typeText } from "../ir/print.js";
import type { Graph, Node, NodeId, ValueId } from "../ir/types.js";
import type { EngineName, Fact } from "../ops/define.js";
import { bytes as factBytes } from "../ops/shapes.js";
import type { Partition, PartitionOptions, Quality } from "../partition/assign.js";
import { nodeUs } from "../partition/cost.js";
import { valueBytes } from "../partition/problem.js";
import type { Verdicts } from "../partition/verdicts.js";
import { type Gains, reasonKey, tooSmall } from "../partition/what-if.js";
import type { PassRecord } from "../passes/pass.js";
import { boundOption } from "./bound.js";
import { REPORT_SCHEMA, type ReportData, type ReportNode, type ReportSegment, reportSchema } from "./data.js";
import { diffReports, type ReportDiff } from "./diff.js";
import { renderHtml } from "./html.js";
import type { QuantizationReport } from "./quantization.js";
import { renderText, type TextOptions } from "./text.js";
import { weightFigures } from "./weights.js";
import { type Why, whyOf } from "./why.js";

/** What was measured of a segment. */
export interface Measured {
  readonly times: readonly { readonly engine: EngineName; readonly us: number }[];
  readonly layers?: readonly { readonly name: string; readonly us?: number | undefined }[] | undefined;
  readonly inspection?: unknown;
  readonly int8?: NonNullable<ReportSegment["int8"]> | undefined;
}

export const notAReport = defineError<{ found: string }>("P4005", "a report is compared with something else", ({ found }) => ({
  what: `a report differs from another report; this is ${found === "object" ? "an object that is none" : found}`,
  fix: "give program.report of another program, or what report(model) resolves to; report --diff compares with a report's JSON",
}));

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
  /** The same report with the text that engines emitted, by segment name. */
  withSources(sources: ReadonlyMap<string, string>): Report {
    if (sources.size === 0) return this;
    const segments = this.data.segments.map((s) => {
      const source = sources.get(s.name);
      return source === undefined ? s : { ...s, source };
    });
    return new Report({ ...this.data, segments });
  }
  /** The same report with what engines take on the device, by segment name. */
  withDeviceMemory(memory: ReadonlyMap<string, NonNullable<ReportData["segments"][number]["deviceMemory"]>>): Report {
    if (memory.size === 0) return this;
    const segments = this.data.segments.map((s) => {
      const deviceMemory = memory.get(s.name);
      return deviceMemory === undefined ? s : { ...s, deviceMemory };
    });
    return new Report({ ...this.data, segments });
  }
  /** The same report with what was measured, by segment name. */
  withMeasurements(measured: ReadonlyMap<string, Measured>): Report {
    if (measured.size === 0) return this;
    const segments = this.data.segments.map((s) => {
      const m = measured.get(s.name);
      if (m === undefined) return s;
      const times = m.times.map((t) => ({ engine: t.engine, us: tenths(t.us) }));
      const layers = m.layers?.map((l) => (l.us === undefined ? { name: l.name } : { name: l.name, us: tenths(l.us) }));
      return {
        ...s,
        times,
        ...(layers === undefined ? {} : { layers }),
        ...(m.inspection === undefined ? {} : { inspection: m.inspection }),
        ...(m.int8 === undefined ? {} : { int8: m.int8 }),
      };
    });
    return new Report({ ...this.data, segments });
  }
  /** Why the nodes whose name or origin is `name` run where they do, what would change it, and what that would gain. */
  why(name: string): readonly Why[] {
    return whyOf(this.data, name);
  }
  /** What differs in another report. Throws P4005 for what is none. */
  diff(other: Report): ReportDiff {
    if (other?.data?.schema !== this.data.schema) throw notAReport({ found: other === null ? "null" : typeof other });
    return diffReports(this.data, other.data);
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
  /** Numbers for symbolic dims. */
  readonly bindings?: ReadonlyMap<string, number> | undefined;
  readonly gains?: Gains | undefined;
  /** Times that replaced the estimate. */
  readonly measured?: PartitionOptions["measured"];
  readonly whatIf?: { readonly assumed: Readonly<Record<string, EngineName>>; readonly before: Quality } | undefined;
  readonly passes: readonly PassRecord[];
  readonly quantization?: QuantizationReport | undefined;
  readonly remarks?: readonly Remark[] | undefined;
  readonly modelName: string;
  readonly options: {
    readonly precision: string;
    readonly minimumSegmentSize: number;
    readonly strict: boolean;
    readonly shapes: Readonly<Record<string, readonly number[]>>;
    readonly bound: Readonly<Record<string, BoundInput>>;
  };
}

export function buildReport(parts: ReportParts): Report {
  const { graph: g, partition, verdicts, facts } = parts;
  const tensorOf = (id: ValueId): ReportData["model"]["inputs"][number] => ({
    name: valueAt(g, id).name,
    type: typeText(facts(id).type),
    bytes: Math.round(valueBytes(facts(id), parts.bindings)),
  });
  const segmentOf = new Map<NodeId, number>();
  for (const s of partition.segments) for (const id of s.nodes) segmentOf.set(id, s.index);
  const place = new Map<NodeId, number>(g.nodes.map((n, i) => [n.id, i]));
  const maker = new Map<ValueId, number>();
  for (const n of g.nodes) for (const out of n.outs) if (out !== undefined) maker.set(out, place.get(n.id) ?? 0);
  const weightBytes = (id: ValueId): number => factBytes(facts(id));
  let flops = 0;
  const weights = new Map<ValueId, Weights[number] | undefined>();
  const nodes = g.nodes.map((n): ReportNode => {
    const cost = partition.costs.get(n.id) ?? { flops: 0, bytes: 0 };
    flops += cost.flops;
    const own = partition.segments[segmentOf.get(n.id) ?? 0]?.engine ?? "host";
    const [first] = n.outs.filter((o) => o !== undefined);
    const measuredUs = parts.measured?.(n.id, own);
    return {
      name: displayName(g, n),
      op: qualifiedOp(n),
      origin: originOf(n).filter((o) => o !== ""),
      segment: segmentOf.get(n.id) ?? 0,
      flops: Math.round(cost.flops),
      bytes: Math.round(cost.bytes),
      ...(measuredUs === undefined ? {} : { measuredUs }),
      output: first === undefined ? "" : typeText(facts(first).type),
      after: readFrom(n, maker),
      notOn: verdicts.engines.flatMap((e) => (e === own ? [] : reasonFor(n.id, e, parts))),
      inputs: n.ins.map((id) => (id === undefined ? "" : typeText(facts(id).type))),
      ...weightsOf(g, n, facts, weights),
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
      estimatedUs: tenths(
        s.nodes.reduce((us, id) => {
          const cost = partition.costs.get(id) ?? { flops: 0, bytes: 0 };
          return us + (parts.measured?.(id, s.engine) ?? nodeUs(s.engine, cost, parts.options.precision));
        }, 0),
      ),
      ops: Object.fromEntries(Object.entries(ops).sort(([a, x], [b, y]) => y - x || (a < b ? -1 : 1))),
      inputs: s.inputs.map(tensorOf),
      outputs: s.outputs.map(tensorOf),
    };
  });
  const q = partition.quality;
  let weightsBytes = 0;
  for (const id of g.constants.keys()) weightsBytes += weightBytes(id);
  // Fields stand in the schema's order, in which a report that is read back has them: the same report is the same bytes.
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
      ...boundOption(parts.options.bound),
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
      hostToDeviceBytes: Math.round(q.hostToDeviceBytes),
      deviceToHostBytes: Math.round(q.deviceToHostBytes),
      estimatedUs: tenths(q.estimatedUs),
    },
    segments,
    nodes,
    ...remarksOf(parts.remarks ?? []),
    memory: memoryOf(parts),
    original: originalNodes(parts.original),
    reasons: reasonsOf(nodes, segments, parts.gains),
    ...(parts.quantization === undefined ? {} : { quantization: parts.quantization }),
    support: (parts.gains?.operators ?? []).map((o) => ({
      op: o.op,
      engine: o.engine,
      nodes: o.nodes,
      gainUs: tenths(o.gainUs),
      engineSegments: o.engineSegments,
      boundaryBytes: Math.round(o.boundaryBytes),
      flopsCovered: round(o.flopsCovered),
    })),
    ...(parts.whatIf === undefined ? {} : { whatIf: supposition(parts.whatIf) }),
  });
}

const round = (x: number): number => Math.round(x * 1e6) / 1e6;
const tenths = (x: number): number => Math.round(x * 10) / 10 + 0;

/** Places of the nodes that a node reads from, ascending. */
function readFrom(n: Node, maker: ReadonlyMap<ValueId, number>): number[] {
  return [...new Set(readsOf(n).flatMap((id) => maker.get(id) ?? []))].sort((a, b) => a - b);
}

function originalNodes(g: Graph): NonNullable<ReportData["original"]> {
  const maker = new Map<ValueId, number>();
  g.nodes.forEach((n, i) => {
    for (const out of n.outs) if (out !== undefined) maker.set(out, i);
  });
  return g.nodes.map((n) => ({ name: displayName(g, n), op: qualifiedOp(n), after: readFrom(n, maker) }));
}

const MEMORY_SAMPLES = 240;
/** A value lives from the node that makes it to the last that reads it; inputs live from the start, outputs to the end. */
function memoryOf({ graph: g, facts, bindings }: ReportParts): NonNullable<ReportData["memory"]> {
  const last = new Map<ValueId, number>();
  g.nodes.forEach((n, i) => {
    for (const v of [...n.outs, ...readsOf(n)]) if (v !== undefined) last.set(v, i);
  });
  for (const v of g.outputs) last.set(v, g.nodes.length);
  const ends = new Map<number, number>();
  const bytesOf = (v: ValueId): number => (g.constants.has(v) ? 0 : valueBytes(facts(v), bindings));
  for (const [v, i] of last) ends.set(i, (ends.get(i) ?? 0) + bytesOf(v));
  let now = g.inputs.reduce((t, v) => t + bytesOf(v), 0);
  let [peakBytes, peakNode] = [0, ""];
  const samples = Math.min(MEMORY_SAMPLES, g.nodes.length);
  const live = new Array<number>(samples).fill(0);
  g.nodes.forEach((n, i) => {
    for (const v of n.outs) if (v !== undefined) now += bytesOf(v);
    if (now > peakBytes) [peakBytes, peakNode] = [now, displayName(g, n)];
    const at = Math.floor((i * samples) / g.nodes.length);
    live[at] = Math.max(live[at] ?? 0, Math.round(now));
    now -= ends.get(i) ?? 0;
  });
  return { peakBytes: Math.round(peakBytes), peakNode, live };
}

type Weights = NonNullable<ReportNode["weights"]>;
/** The constants a node reads; `seen` keeps those that many nodes read from being sampled again. */
function weightsOf(
  g: Graph,
  n: Node,
  facts: ReportParts["facts"],
  seen: Map<ValueId, Weights[number] | undefined>,
): Pick<ReportNode, "weights"> {
  const weights: Weights = [];
  for (const id of n.ins) {
    if (id === undefined) continue;
    if (!seen.has(id)) seen.set(id, weightOf(g, id, facts));
    const weight = seen.get(id);
    if (weight !== undefined) weights.push(weight);
  }
  return weights.length === 0 ? {} : { weights };
}
function weightOf(g: Graph, id: ValueId, facts: ReportParts["facts"]): Weights[number] | undefined {
  const c = g.constants.get(id);
  if (c === undefined) return undefined;
  const figures = weightFigures(c);
  return {
    name: valueAt(g, id).name,
    type: typeText(facts(id).type),
    bytes: Math.round(factBytes(facts(id))),
    ...(figures === undefined ? {} : { figures }),
  };
}

function supposition({ assumed, before: q }: NonNullable<ReportParts["whatIf"]>): NonNullable<ReportData["whatIf"]> {
  return {
    assumed: { ...assumed },
    before: {
      engineSegments: q.engineSegments,
      flopsCovered: round(q.flopsCovered),
      nodesCovered: round(q.nodesCovered),
      cutTensors: q.cutTensors,
      boundaryBytes: Math.round(q.boundaryBytes),
      crossings: q.crossings,
      estimatedUs: tenths(q.estimatedUs),
    },
  };
}

/** Remarks beyond this many say nothing new. */
const MAX_REMARKS = 200;
function remarksOf(remarks: readonly Remark[]): Pick<ReportData, "remarks"> {
  if (remarks.length === 0) return {};
  return {
    remarks: remarks.slice(0, MAX_REMARKS).map((r) => ({
      severity: r.severity,
      text: r.text,
      ...(r.fix === undefined ? {} : { fix: r.fix }),
      ...(r.where?.node === undefined ? {} : { node: r.where.node }),
      ...(r.where?.value === undefined ? {} : { value: r.where.value }),
    })),
  };
}

function reasonFor(id: NodeId, engineName: EngineName, parts: ReportParts): ReportNode["notOn"] {
  const verdict = parts.verdicts.of(id, engineName);
  if (!verdict.ok) return [{ engine: engineName, why: verdict.why, ...(verdict.fix === undefined ? {} : { fix: verdict.fix }) }];
  if (parts.partition.demoted.has(id))
    return [
      {
        engine: engineName,
        why: tooSmall(parts.options.minimumSegmentSize),
        fix: "lower minimumSegmentSize, or pin the nodes",
      },
    ];
  if (parts.partition.trimmed.has(id))
    return [
      {
        engine: engineName,
        why: "it is a view at a segment's border, and fewer bytes cross when the host has it",
        fix: "pin it, if it matters",
      },
    ];
  if (parts.partition.unprofitable.has(id))
    return [
      {
        engine: engineName,
        why: "by the estimate its segment would cost more than it saves",
        fix: "leave host out of the targets, or pin the nodes",
      },
    ];
  return [{ engine: engineName, why: "another engine was preferred" }];
}

function reasonsOf(nodes: readonly ReportNode[], segments: readonly ReportSegment[], gains: Gains | undefined): ReportData["reasons"] {
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
    .map((r) => {
      const gain = gains?.reasons.get(reasonKey(r.engine, r.why));
      return { ...r, ops: [...r.ops].sort(), ...(gain === undefined ? {} : { gainUs: tenths(gain.gainUs) }) };
    });
}
