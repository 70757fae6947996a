/** A segmentation told in the graph's own terms: segments with their interfaces, and how good the whole is. */
import { readsOf } from "../ir/graph.js";
import type { NodeId, ValueId } from "../ir/types.js";
import type { Cost, EngineName } from "../ops/define.js";
import { convertUs, nodeUs, startUs, transferUs } from "./cost.js";
import type { Classes, Problem } from "./problem.js";
import type { Segmentation } from "./segment.js";

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
  /** No partition with these engines for these nodes has fewer engine segments. */
  readonly lowerBound: number;
  readonly flopsCovered: number;
  readonly nodesCovered: number;
  readonly bytesCovered: number;
  /** Distinct values that an engine segment reads from, or gives to, another segment; between host parts nothing moves. */
  readonly cutTensors: number;
  readonly boundaryBytes: number;
  readonly hostToDeviceBytes: number;
  readonly deviceToHostBytes: number;
  /** Most changes between host and engine on any path. */
  readonly crossings: number;
  readonly largestShare: number;
  /** Of one run: segments one after another but for what packing left apart, transfers and starts included; see cost.ts. */
  readonly estimatedUs: number;
}

export function describe(p: Problem, s: Segmentation, classes: Classes): readonly Segment[] {
  const g = p.graph;
  const { producer } = p.values;
  const count = s.count;
  const members: NodeId[][] = Array.from({ length: count }, () => []);
  const inputs: Set<ValueId>[] = Array.from({ length: count }, () => new Set());
  const constants: Set<ValueId>[] = Array.from({ length: count }, () => new Set());
  const outputs: Set<ValueId>[] = Array.from({ length: count }, () => new Set());
  const flops = new Float64Array(count);
  const bytes = new Float64Array(count);
  g.nodes.forEach((n, i) => {
    const own = s.segmentOf[i] as number;
    members[own]?.push(n.id);
    flops[own] = (flops[own] as number) + (p.costs[i]?.flops ?? 0);
    bytes[own] = (bytes[own] as number) + (p.costs[i]?.bytes ?? 0);
    for (const v of readsOf(n)) {
      if (g.constants.has(v)) constants[own]?.add(v);
      else {
        const maker = producer[p.indexOf[v] ?? -1] ?? -1;
        const other = maker < 0 ? -1 : (s.segmentOf[maker] as number);
        if (other === own) continue;
        inputs[own]?.add(v);
        if (other >= 0) outputs[other]?.add(v);
      }
    }
  });
  for (const v of g.outputs) {
    const maker = producer[p.indexOf[v] ?? -1] ?? -1;
    if (maker >= 0) outputs[s.segmentOf[maker] as number]?.add(v);
  }
  return members.map((nodes, index) => {
    const engine = classes[s.engineOf[index] as number] ?? "host";
    return {
      index,
      name: `${engine}_${index}`,
      engine,
      nodes,
      inputs: [...(inputs[index] ?? [])],
      outputs: [...(outputs[index] ?? [])],
      constants: [...(constants[index] ?? [])],
      cost: { flops: flops[index] as number, bytes: bytes[index] as number },
    };
  });
}

/** `measured`: microseconds of a node on an engine where they are known; the roofline otherwise. */
export function qualityOf(
  p: Problem,
  s: Segmentation,
  classes: Classes,
  precision: string,
  measured?: (node: NodeId, engine: EngineName) => number | undefined,
): Quality {
  const { nodes } = p.graph;
  const { producer, readers, bytes, exported } = p.values;
  const classOf = (i: number): number => s.engineOf[s.segmentOf[i] as number] as number;
  const total = { flops: 0, bytes: 0 };
  const covered = { flops: 0, bytes: 0, nodes: 0 };
  const flopsOf = new Float64Array(s.count);
  let estimatedUs = -s.overlapUs;
  for (let i = 0; i < s.count; i++) estimatedUs += startUs(classes[s.engineOf[i] as number] ?? "host");
  for (let i = 0; i < nodes.length; i++) {
    const cost = p.costs[i] as Cost;
    const c = classOf(i);
    const engine = classes[c] ?? "host";
    total.flops += cost.flops;
    total.bytes += cost.bytes;
    estimatedUs += measured?.((nodes[i] as { id: NodeId }).id, engine) ?? nodeUs(engine, cost, precision);
    if (c === 0) continue;
    covered.flops += cost.flops;
    covered.bytes += cost.bytes;
    covered.nodes++;
    const own = s.segmentOf[i] as number;
    flopsOf[own] = (flopsOf[own] as number) + cost.flops;
  }
  let [cutTensors, boundaryBytes, hostToDeviceBytes, deviceToHostBytes] = [0, 0, 0, 0];
  for (let v = 0; v < producer.length; v++) {
    const maker = producer[v] as number;
    const own = maker < 0 ? -1 : (s.segmentOf[maker] as number);
    const onHost = own < 0 || s.engineOf[own] === 0;
    let [toHost, toEngine] = [exported?.[v] === 1, false];
    for (let e = readers.starts[v] as number; e < (readers.starts[v + 1] as number); e++) {
      const other = s.segmentOf[readers.targets[e] as number] as number;
      if (other === own) continue;
      if (s.engineOf[other] === 0) toHost = true;
      else toEngine = true;
    }
    const b = bytes[v] as number;
    if (own >= 0 && ((toHost && !onHost) || toEngine)) {
      cutTensors++;
      boundaryBytes += b;
    }
    if (onHost && toEngine) {
      hostToDeviceBytes += b;
      estimatedUs += transferUs(b) + convertUs(b, precision);
    } else if (!onHost && toHost) {
      deviceToHostBytes += b;
      estimatedUs += transferUs(b) + convertUs(b, precision);
    }
  }
  const share = (part: number, whole: number): number => (whole === 0 ? 0 : part / whole);
  let largest = 0;
  for (const f of flopsOf) if (f > largest) largest = f;
  let engineSegments = 0;
  for (const c of s.engineOf) if (c !== 0) engineSegments++;
  return {
    segments: s.count,
    engineSegments,
    lowerBound: s.lowerBound,
    flopsCovered: share(covered.flops, total.flops),
    nodesCovered: share(covered.nodes, nodes.length),
    bytesCovered: share(covered.bytes, total.bytes),
    cutTensors,
    boundaryBytes,
    hostToDeviceBytes,
    deviceToHostBytes,
    crossings: crossingsOf(p, classOf),
    largestShare: share(largest, total.flops),
    estimatedUs,
  };
}

/** Longest path counted in changes of side. */
function crossingsOf(p: Problem, classOf: (i: number) => number): number {
  const { starts, targets } = p.successors;
  const n = starts.length - 1;
  const changes = new Int32Array(n);
  let most = 0;
  for (let i = 0; i < n; i++) {
    const own = changes[i] as number;
    if (own > most) most = own;
    const host = classOf(i) === 0;
    for (let e = starts[i] as number; e < (starts[i + 1] as number); e++) {
      const t = targets[e] as number;
      const next = own + ((classOf(t) === 0) === host ? 0 : 1);
      if (next > (changes[t] as number)) changes[t] = next;
    }
  }
  return most;
}
