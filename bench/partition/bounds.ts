/**
 * What no partition can undercut that keeps on the engine what a given one keeps there: least segments, boundary bytes and crossings. Where a
 * method is lower than that, it pays with coverage, and no other arrangement of the same work would do.
 *
 * A node with work that the given partition covers must be on its engine, one that the engine refuses must be on the host, the others are
 * free. All three bounds take the free nodes at their best, each bound for itself, so they may lie below what is possible, never above.
 */
import { Flow } from "../../src/partition/flow.js";
import type { SegmentInput } from "../../src/partition/input.js";

export interface Bounds {
  readonly segments: number;
  readonly boundaryBytes: number;
  readonly crossings: number;
}

/** `group` by node: a segment's number, -1 for the host; `work` by node. One engine class. */
export function boundsAt(input: SegmentInput, group: Int32Array, work: Float64Array): Bounds {
  const side = Int8Array.from({ length: input.n }, (_, v) =>
    input.engine[v] === 0 ? HOST : (group[v] as number) >= 0 && (work[v] as number) > 0 ? ENGINE : FREE,
  );
  return { ...alternations(input, side), boundaryBytes: leastCut(input, side) };
}
const [HOST, ENGINE, FREE] = [0, 1, 2];

/** Longest path by changes of side among the nodes that cannot choose. */
function alternations({ n, successors }: SegmentInput, side: Int8Array): { readonly segments: number; readonly crossings: number } {
  // Before each node, by the last side that was fixed: changes so far, and engine runs so far; -1 where no such path is.
  const changes = [new Int32Array(n).fill(-1), new Int32Array(n).fill(-1)] as const;
  const runs = [new Int32Array(n).fill(-1), new Int32Array(n).fill(-1)] as const;
  let [crossings, segments] = [0, 0];
  for (let v = 0; v < n; v++) {
    const own = side[v] as number;
    if (own !== FREE) {
      const [same, other] = [own as 0 | 1, (1 - own) as 0 | 1];
      const started = own === ENGINE ? 1 : 0;
      changes[same][v] = Math.max(
        0,
        changes[same][v] as number,
        (changes[other][v] as number) + ((changes[other][v] as number) < 0 ? 0 : 1),
      );
      runs[same][v] = Math.max(started, runs[same][v] as number, (runs[other][v] as number) < 0 ? 0 : (runs[other][v] as number) + started);
      changes[other][v] = -1;
      runs[other][v] = -1;
      crossings = Math.max(crossings, changes[same][v] as number);
      segments = Math.max(segments, runs[same][v] as number);
    }
    for (let e = successors.starts[v] as number; e < (successors.starts[v + 1] as number); e++) {
      const t = successors.targets[e] as number;
      for (const s of [0, 1] as const) {
        changes[s][t] = Math.max(changes[s][t] as number, changes[s][v] as number);
        runs[s][t] = Math.max(runs[s][t] as number, runs[s][v] as number);
      }
    }
  }
  return { segments, crossings };
}

/** Least bytes between the host and all engine segments together: a minimum cut in which a tensor costs its bytes once. */
function leastCut({ n, values }: SegmentInput, side: Int8Array): number {
  if (values === undefined) return 0;
  const flow = new Flow();
  flow.reset();
  const [source, sink] = [flow.vertex(), flow.vertex()];
  const node = Array.from({ length: n }, () => flow.vertex());
  for (let v = 0; v < n; v++) {
    if (side[v] === ENGINE) flow.edge(source, node[v] as number, Number.POSITIVE_INFINITY);
    if (side[v] === HOST) flow.edge(node[v] as number, sink, Number.POSITIVE_INFINITY);
  }
  const { producer, readers, bytes, exported } = values;
  for (let t = 0; t < producer.length; t++) {
    const p = producer[t] as number;
    if (p < 0) continue;
    const members = new Set([p, ...readers.targets.subarray(readers.starts[t], readers.starts[t + 1])].map((v) => node[v] as number));
    // A result of the graph crosses where an engine makes it.
    if (exported?.[t] === 1) members.add(sink);
    const [before, after] = [flow.vertex(), flow.vertex()];
    flow.edge(before, after, bytes[t] as number);
    for (const v of members) {
      flow.edge(v, before, Number.POSITIVE_INFINITY);
      flow.edge(after, v, Number.POSITIVE_INFINITY);
    }
  }
  return flow.run(source, sink, Number.POSITIVE_INFINITY);
}
