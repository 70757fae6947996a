/** From verdicts to segments: which engine takes which part of a graph, in an order that can run. */
import { isStatic } from "../ir/dims.js";
import { displayName, qualifiedOp, readsOf } from "../ir/graph.js";
import type { Graph, Node, NodeId, ValueId } from "../ir/types.js";
import type { Cost, EngineName, Fact } from "../ops/define.js";
import { costOf } from "../ops/infer.js";
import { lookup } from "../ops/registry.js";
import { bytes as factBytes } from "../ops/shapes.js";
import { edgesOf, segment } from "./segment.js";
import { strictRefused, type Verdicts } from "./verdicts.js";

export interface Segment {
  readonly index: number;
  /** `host_0`, `cuda_1`, ...: the index is over all segments. */
  readonly name: string;
  readonly engine: EngineName;
  /** In topological order. */
  readonly nodes: readonly NodeId[];
  /** Values it reads that others make (constants not among them). */
  readonly inputs: readonly ValueId[];
  /** Values it makes that others, or the graph's outputs, read. */
  readonly outputs: readonly ValueId[];
  readonly constants: readonly ValueId[];
  readonly cost: Cost;
}
/** How good a partition is. Bytes are per run, with symbolic dims bound as asked (1 otherwise). */
export interface Quality {
  readonly segments: number;
  readonly engineSegments: number;
  readonly lowerBound: number;
  readonly flopsCovered: number;
  readonly nodesCovered: number;
  readonly bytesCovered: number;
  /** Distinct values that cross from one segment to another. */
  readonly cutTensors: number;
  readonly boundaryBytes: number;
  /** Most changes between host and engine on any path. */
  readonly crossings: number;
  readonly largestShare: number;
}
export interface Partition {
  readonly segments: readonly Segment[];
  readonly quality: Quality;
  /** Nodes an engine would take that went to the host because their segment was too small. */
  readonly demoted: ReadonlySet<NodeId>;
  readonly costs: ReadonlyMap<NodeId, Cost>;
}
export interface PartitionOptions {
  readonly minimumSegmentSize: number;
  readonly strict?: boolean | undefined;
  readonly facts: (v: ValueId) => Fact;
  /** Numbers for symbolic dims, for costs. */
  readonly bindings?: ReadonlyMap<string, number> | undefined;
}

/** Throws P1703 under `strict` when a compute node would stay on the host. */
export function partition(g: Graph, verdicts: Verdicts, options: PartitionOptions): Partition {
  const { nodes } = g;
  const classes: readonly EngineName[] = ["host", ...verdicts.engines];
  const at = new Map<NodeId, number>(nodes.map((n, i) => [n.id, i]));
  const producer = new Int32Array(g.values.length).fill(-1);
  nodes.forEach((n, i) => {
    for (const v of n.outs) if (v !== undefined) producer[v] = i;
  });
  const from: number[] = [];
  const to: number[] = [];
  nodes.forEach((n, i) => {
    for (const v of readsOf(n)) {
      const p = producer[v] ?? -1;
      if (p < 0) continue;
      from.push(p);
      to.push(i);
    }
  });
  const engine = new Uint8Array(nodes.length);
  const size = new Uint8Array(nodes.length);
  const forced = new Uint8Array(nodes.length);
  nodes.forEach((n, i) => {
    const pin = verdicts.pinned.get(n.id);
    const chosen = pin ?? verdicts.engines.find((e) => verdicts.of(n.id, e).ok) ?? "host";
    engine[i] = Math.max(0, classes.indexOf(chosen));
    if (pin !== undefined && pin !== "host") forced[i] = 1;
    size[i] = (lookup(n.domain, n.op)?.role ?? "compute") === "compute" ? 1 : 0;
  });
  const result = segment({
    n: nodes.length,
    successors: edgesOf(nodes.length, from, to),
    engine,
    size,
    minimumSize: options.minimumSegmentSize,
    forced,
  });
  const costs = new Map<NodeId, Cost>(nodes.map((n) => [n.id, costOf(g, n, options.facts, options.bindings)]));
  const demoted = new Set<NodeId>(nodes.filter((_, i) => result.demoted[i] === 1).map((n) => n.id));
  const segments = describe(
    g,
    result.segmentOf,
    Array.from(result.engineOf, (c) => classes[c] ?? "host"),
    producer,
    costs,
  );
  if (options.strict === true && verdicts.engines.length > 0) refuseHost(g, segments, verdicts, at, demoted, size);
  return { segments, demoted, costs, quality: qualityOf(g, segments, result.lowerBound, producer, result.segmentOf, costs, options) };
}

function refuseHost(
  g: Graph,
  segments: readonly Segment[],
  verdicts: Verdicts,
  at: ReadonlyMap<NodeId, number>,
  demoted: ReadonlySet<NodeId>,
  size: Uint8Array,
): void {
  const left = segments
    .filter((s) => s.engine === "host")
    .flatMap((s) => s.nodes)
    .filter((id) => verdicts.pinned.get(id) !== "host" && size[at.get(id) ?? 0] === 1);
  const [first] = left;
  if (first === undefined) return;
  const n = g.nodes[at.get(first) ?? 0] as Node;
  const verdict = verdicts.of(first, verdicts.engines[0] ?? "host");
  const why = demoted.has(first)
    ? "its segment is smaller than minimumSegmentSize"
    : verdict.ok
      ? "the engine declined its segment"
      : verdict.why;
  throw strictRefused({ count: left.length, why }, { file: g.extra?.file, node: displayName(g, n), op: qualifiedOp(n) });
}

function describe(
  g: Graph,
  segmentOf: Int32Array,
  engines: readonly EngineName[],
  producer: Int32Array,
  costs: ReadonlyMap<NodeId, Cost>,
): readonly Segment[] {
  const members: Node[][] = engines.map(() => []);
  g.nodes.forEach((n, i) => members[segmentOf[i] as number]?.push(n));
  const inputs: Set<ValueId>[] = engines.map(() => new Set());
  const constants: Set<ValueId>[] = engines.map(() => new Set());
  const outputs: Set<ValueId>[] = engines.map(() => new Set());
  g.nodes.forEach((n, i) => {
    const s = segmentOf[i] as number;
    for (const v of readsOf(n)) {
      if (g.constants.has(v)) constants[s]?.add(v);
      else {
        const p = producer[v] ?? -1;
        const q = p < 0 ? -1 : (segmentOf[p] as number);
        if (q === s) continue;
        inputs[s]?.add(v);
        if (q >= 0) outputs[q]?.add(v);
      }
    }
  });
  for (const v of g.outputs) {
    const p = producer[v] ?? -1;
    if (p >= 0) outputs[segmentOf[p] as number]?.add(v);
  }
  return engines.map((engine, index) => {
    const nodes = (members[index] ?? []).map((n) => n.id);
    let [flops, bytes] = [0, 0];
    for (const id of nodes) {
      flops += costs.get(id)?.flops ?? 0;
      bytes += costs.get(id)?.bytes ?? 0;
    }
    return {
      index,
      name: `${engine}_${index}`,
      engine,
      nodes,
      inputs: [...(inputs[index] ?? [])],
      outputs: [...(outputs[index] ?? [])],
      constants: [...(constants[index] ?? [])],
      cost: { flops, bytes },
    };
  });
}

function qualityOf(
  g: Graph,
  segments: readonly Segment[],
  lowerBound: number,
  producer: Int32Array,
  segmentOf: Int32Array,
  costs: ReadonlyMap<NodeId, Cost>,
  options: PartitionOptions,
): Quality {
  const total = { flops: 0, bytes: 0 };
  for (const c of costs.values()) {
    total.flops += c.flops;
    total.bytes += c.bytes;
  }
  const engines = segments.filter((s) => s.engine !== "host");
  const covered = engines.reduce(
    (a, s) => ({ flops: a.flops + s.cost.flops, bytes: a.bytes + s.cost.bytes, nodes: a.nodes + s.nodes.length }),
    { flops: 0, bytes: 0, nodes: 0 },
  );
  const cut = new Set<ValueId>();
  for (const s of segments) for (const v of s.inputs) if ((producer[v] ?? -1) >= 0) cut.add(v);
  let boundaryBytes = 0;
  for (const v of cut) boundaryBytes += factBytes(options.facts(v));
  // Longest path counted in changes of side.
  const changes = new Int32Array(g.nodes.length);
  let crossings = 0;
  g.nodes.forEach((n, i) => {
    for (const v of readsOf(n)) {
      const p = producer[v] ?? -1;
      if (p < 0) continue;
      const [a, b] = [segments[segmentOf[p] as number]?.engine === "host", segments[segmentOf[i] as number]?.engine === "host"];
      changes[i] = Math.max(changes[i] as number, (changes[p] as number) + (a === b ? 0 : 1));
    }
    crossings = Math.max(crossings, changes[i] as number);
  });
  const share = (part: number, whole: number): number => (whole === 0 ? 0 : part / whole);
  return {
    segments: segments.length,
    engineSegments: engines.length,
    lowerBound,
    flopsCovered: share(covered.flops, total.flops),
    nodesCovered: share(covered.nodes, g.nodes.length),
    bytesCovered: share(covered.bytes, total.bytes),
    cutTensors: cut.size,
    boundaryBytes,
    crossings,
    largestShare: share(Math.max(0, ...engines.map((s) => s.cost.flops)), total.flops),
  };
}

/** Bindings for symbolic dims from a user's shapes: each free symbol of an input gets the number at its place. */
export function bindingsOf(g: Graph, shapes: Readonly<Record<string, readonly number[]>> | undefined): ReadonlyMap<string, number> {
  const bindings = new Map<string, number>();
  for (const v of g.inputs) {
    const value = g.values[v];
    const given = value === undefined ? undefined : shapes?.[value.name];
    if (given === undefined || value?.type.kind !== "tensor") continue;
    value.type.shape?.forEach((d, i) => {
      if (!isStatic(d) && d !== "?" && given[i] !== undefined) bindings.set(d, given[i] as number);
    });
  }
  return bindings;
}
