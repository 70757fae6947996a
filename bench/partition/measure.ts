/** What a grouping is worth, whoever made it: counts by the graph alone. */
import type { SegmentInput } from "../../src/partition/input.js";

export interface Figures {
  readonly segments: number;
  /** Distinct tensors that an engine segment reads from, or gives to, anything else; tensors from host to host do not count. */
  readonly cutTensors: number;
  readonly boundaryBytes: number;
  /** Nodes in engine segments. */
  readonly covered: number;
  /** Share of `work` in engine segments. */
  readonly workCovered: number;
  /** Most changes between host and engines on any path of the graph of groups. */
  readonly crossings: number;
}

/** `group` by node: a segment's number, -1 for the host. Throws when the groups do not form a DAG. */
export function measure(input: SegmentInput, group: Int32Array, work?: Float64Array): Figures {
  const { n, successors, values } = input;
  const distinct = new Set<number>();
  let [covered, workCovered, total] = [0, 0, 0];
  for (let v = 0; v < n; v++) {
    const w = work?.[v] ?? 1;
    total += w;
    const g = group[v] as number;
    if (g < 0) continue;
    distinct.add(g);
    covered++;
    workCovered += w;
  }
  let [cutTensors, boundaryBytes] = [0, 0];
  if (values !== undefined)
    for (let t = 0; t < values.producer.length; t++) {
      const p = values.producer[t] as number;
      if (p < 0) continue;
      const g = group[p] as number;
      let cut = g >= 0 && values.exported?.[t] === 1;
      for (let e = values.readers.starts[t] as number; !cut && e < (values.readers.starts[t + 1] as number); e++)
        cut = group[values.readers.targets[e] as number] !== g;
      if (!cut) continue;
      cutTensors++;
      boundaryBytes += values.bytes[t] as number;
    }
  return {
    segments: distinct.size,
    cutTensors,
    boundaryBytes,
    covered,
    workCovered: total === 0 ? 0 : workCovered / total,
    crossings: crossings(n, successors, group),
  };
}

/** Longest path over the quotient graph in which each engine group is one vertex and each host node its own. */
function crossings(n: number, successors: SegmentInput["successors"], group: Int32Array): number {
  const vertex = new Int32Array(n);
  const index = new Map<number, number>();
  let count = 0;
  for (let v = 0; v < n; v++) {
    const g = group[v] as number;
    if (g < 0) vertex[v] = count++;
    else {
      let i = index.get(g);
      if (i === undefined) index.set(g, (i = count++));
      vertex[v] = i;
    }
  }
  const members: number[][] = Array.from({ length: count }, () => []);
  const missing = new Int32Array(count);
  for (let v = 0; v < n; v++) {
    (members[vertex[v] as number] as number[]).push(v);
    for (let e = successors.starts[v] as number; e < (successors.starts[v + 1] as number); e++) {
      const b = vertex[successors.targets[e] as number] as number;
      if (b !== vertex[v]) missing[b] = (missing[b] as number) + 1;
    }
  }
  const changes = new Int32Array(count);
  const queue: number[] = [];
  for (let i = 0; i < count; i++) if (missing[i] === 0) queue.push(i);
  let done = 0;
  let most = 0;
  for (let a = queue.pop(); a !== undefined; a = queue.pop()) {
    done++;
    const own = changes[a] as number;
    if (own > most) most = own;
    for (const v of members[a] as number[])
      for (let e = successors.starts[v] as number; e < (successors.starts[v + 1] as number); e++) {
        const t = successors.targets[e] as number;
        const b = vertex[t] as number;
        if (b === a) continue;
        const next = own + ((group[v] as number) >= 0 === (group[t] as number) >= 0 ? 0 : 1);
        if (next > (changes[b] as number)) changes[b] = next;
        missing[b] = (missing[b] as number) - 1;
        if (missing[b] === 0) queue.push(b);
      }
  }
  if (done !== count) throw new Error("the groups do not form a DAG");
  return most;
}
