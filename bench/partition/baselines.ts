/**
 * Other partitioners, written from the published descriptions of their methods, on the same typed arrays. Each gives a group to every
 * engine node (equal numbers: one segment) or -1 for the host. All drop groups below the size floor at the end, as their originals do.
 */

import { reversed } from "../../src/partition/dag.js";
import type { SegmentInput } from "../../src/partition/input.js";

export interface Baseline {
  readonly name: string;
  /** The largest graph it is run on; its running time grows faster than the graph. */
  readonly limit: number;
  run(input: SegmentInput): Int32Array;
}

/** ONNX Runtime's TensorRT provider: runs of supported nodes in the topological order. */
function intervals(input: SegmentInput): Int32Array {
  const group = new Int32Array(input.n).fill(-1);
  let current = -1;
  let inside = false;
  for (let v = 0; v < input.n; v++) {
    if (input.engine[v] === 0) inside = false;
    else {
      if (!inside) current++;
      inside = true;
      group[v] = current;
    }
  }
  return group;
}

/** ONNX Runtime's partitioning_utils: take ready supported nodes as long as there are any, close the group, then the ready others. */
function waves(input: SegmentInput): Int32Array {
  return alternate(input, 1);
}

/** Torch-TensorRT's splitter: two frontiers taken in turns, the host's first, each until nothing of it is ready. */
function frontier(input: SegmentInput): Int32Array {
  return alternate(input, 0);
}

function alternate(input: SegmentInput, first: 0 | 1): Int32Array {
  const { starts, targets } = input.successors;
  const missing = new Int32Array(input.n);
  for (let e = 0; e < targets.length; e++) missing[targets[e] as number] = (missing[targets[e] as number] as number) + 1;
  const group = new Int32Array(input.n).fill(-1);
  const ready: [number[], number[]] = [[], []];
  for (let v = 0; v < input.n; v++) if (missing[v] === 0) ready[input.engine[v] === 0 ? 0 : 1].push(v);
  let side = first;
  for (let wave = 0; ready[0].length + ready[1].length > 0; ) {
    const queue = ready[side];
    for (let v = queue.pop(); v !== undefined; v = queue.pop()) {
      if (side === 1) group[v] = wave;
      for (let e = starts[v] as number; e < (starts[v + 1] as number); e++) {
        const t = targets[e] as number;
        missing[t] = (missing[t] as number) - 1;
        if (missing[t] === 0) ready[input.engine[t] === 0 ? 0 : 1].push(t);
      }
    }
    if (side === 1) wave++;
    side = side === 1 ? 0 : 1;
  }
  return group;
}

/**
 * TF-TRT's segmenter: in reverse topological order, every edge between supported groups is contracted unless a search backwards from the
 * later end, over all other paths, meets the earlier one.
 */
function unionFind(input: SegmentInput): Int32Array {
  const { n, engine, successors } = input;
  const backward = reversed(n, successors);
  const root = Int32Array.from({ length: n }, (_, i) => i);
  const find = (v: number): number => {
    let at = v;
    while (root[at] !== at) {
      root[at] = root[root[at] as number] as number;
      at = root[at] as number;
    }
    return at;
  };
  const members: number[][] = Array.from({ length: n }, (_, i) => [i]);
  const seen = new Int32Array(n).fill(-1);
  let stamp = 0;
  /** Whether a path of two or more edges between groups leads from a to b. */
  const detour = (a: number, b: number): boolean => {
    stamp++;
    const stack: number[] = [];
    for (const v of members[b] as number[])
      for (let e = backward.starts[v] as number; e < (backward.starts[v + 1] as number); e++) {
        const p = find(backward.targets[e] as number);
        if (p !== a && p !== b && seen[p] !== stamp) {
          seen[p] = stamp;
          stack.push(p);
        }
      }
    for (let g = stack.pop(); g !== undefined; g = stack.pop()) {
      for (const v of members[g] as number[])
        for (let e = backward.starts[v] as number; e < (backward.starts[v + 1] as number); e++) {
          const p = find(backward.targets[e] as number);
          if (p === a) return true;
          if (seen[p] !== stamp) {
            seen[p] = stamp;
            stack.push(p);
          }
        }
    }
    return false;
  };
  for (let v = n - 1; v >= 0; v--) {
    if (engine[v] === 0) continue;
    for (let e = successors.starts[v] as number; e < (successors.starts[v + 1] as number); e++) {
      const t = successors.targets[e] as number;
      const [a, b] = [find(v), find(t)];
      if (a === b || engine[t] !== engine[v] || detour(a, b)) continue;
      const [large, small] = (members[a] as number[]).length >= (members[b] as number[]).length ? [a, b] : [b, a];
      (members[large] as number[]).push(...(members[small] as number[]));
      members[small] = [];
      root[small] = large;
    }
  }
  return rootsOf(input, find);
}

/**
 * XLA's edge contraction: the same order and test as above, with Pearce and Kelly's topological ranks, which confine the search to what
 * ranks between the two ends. After a contraction the nodes between are ranked anew.
 */
function ranked(input: SegmentInput): Int32Array {
  const { n, engine, successors } = input;
  const root = Int32Array.from({ length: n }, (_, i) => i);
  const find = (v: number): number => {
    let at = v;
    while (root[at] !== at) {
      root[at] = root[root[at] as number] as number;
      at = root[at] as number;
    }
    return at;
  };
  const rank = Int32Array.from({ length: n }, (_, i) => i);
  const next: (Set<number> | undefined)[] = new Array(n);
  const previous: (Set<number> | undefined)[] = new Array(n);
  for (let v = 0; v < n; v++) {
    next[v] = new Set();
    previous[v] = new Set();
  }
  for (let v = 0; v < n; v++)
    for (let e = successors.starts[v] as number; e < (successors.starts[v + 1] as number); e++) {
      next[v]?.add(successors.targets[e] as number);
      previous[successors.targets[e] as number]?.add(v);
    }
  const failures = new Uint8Array(n);
  const seen = new Int32Array(n).fill(-1);
  let stamp = 0;
  /** What `start` reaches through `table` without its edge to `end`, ranked inside (low, high); undefined when `end` itself is reached. */
  const window = (table: (Set<number> | undefined)[], start: number, end: number, low: number, high: number): number[] | undefined => {
    stamp++;
    const reached: number[] = [];
    const stack = [start];
    for (let g = stack.pop(); g !== undefined; g = stack.pop())
      for (const s of table[g] as Set<number>) {
        if (s === end) {
          if (g !== start) return undefined;
          continue;
        }
        if ((rank[s] as number) >= high || (rank[s] as number) <= low || seen[s] === stamp) continue;
        seen[s] = stamp;
        reached.push(s);
        stack.push(s);
      }
    return reached;
  };
  const degree = (g: number): number => (next[g] as Set<number>).size + (previous[g] as Set<number>).size;
  const byRank = (x: number, y: number): number => (rank[x] as number) - (rank[y] as number);
  for (let v = n - 1; v >= 0; v--) {
    if (engine[v] === 0) continue;
    for (let e = successors.starts[v] as number; e < (successors.starts[v + 1] as number); e++) {
      const t = successors.targets[e] as number;
      const [a, b] = [find(v), find(t)];
      if (a === b || engine[t] !== engine[v] || (failures[a] as number) >= 16) continue;
      const [low, high] = [rank[a] as number, rank[b] as number];
      const after = window(next, a, b, low, high);
      const before = after === undefined ? undefined : window(previous, b, a, low, high);
      if (after === undefined || before === undefined) {
        failures[a] = (failures[a] as number) + 1;
        continue;
      }
      failures[a] = 0;
      const merged = degree(a) > degree(b) ? a : b;
      const gone = merged === a ? b : a;
      const ranks = [a, b, ...after, ...before].map((x) => rank[x] as number).sort((x, y) => x - y);
      const order = [...before.sort(byRank), merged, ...after.sort(byRank)];
      order.forEach((x, i) => {
        rank[x] = ranks[i] as number;
      });
      root[gone] = merged;
      absorb(next, previous, merged, gone);
      absorb(previous, next, merged, gone);
    }
  }
  return rootsOf(input, find);
}
function absorb(table: (Set<number> | undefined)[], mirror: (Set<number> | undefined)[], kept: number, gone: number): void {
  const [mine, theirs] = [table[kept] as Set<number>, table[gone] as Set<number>];
  for (const x of theirs) {
    mirror[x]?.delete(gone);
    if (x !== kept) {
      mirror[x]?.add(kept);
      mine.add(x);
    }
  }
  mine.delete(gone);
  table[gone] = undefined;
}

function rootsOf(input: SegmentInput, find: (v: number) => number): Int32Array {
  const group = new Int32Array(input.n).fill(-1);
  for (let v = 0; v < input.n; v++) if (input.engine[v] !== 0) group[v] = find(v);
  return group;
}

/** Groups below the floor go to the host. */
export function dropSmall(input: SegmentInput, group: Int32Array): Int32Array {
  const weight = new Map<number, number>();
  for (let v = 0; v < input.n; v++) {
    const g = group[v] as number;
    if (g >= 0) weight.set(g, (weight.get(g) ?? 0) + (input.size[v] as number));
  }
  return group.map((g) => (g >= 0 && (weight.get(g) ?? 0) >= input.minimumSize ? g : -1));
}

export const baselines: readonly Baseline[] = [
  { name: "TF-TRT (union-find, search per edge)", limit: 30_000, run: unionFind },
  { name: "XLA (ranked contraction)", limit: 2_000_000, run: ranked },
  { name: "ONNX Runtime TensorRT (intervals)", limit: 10_000_000, run: intervals },
  { name: "ONNX Runtime waves (Kahn)", limit: 10_000_000, run: waves },
  { name: "Torch-TensorRT (frontiers)", limit: 10_000_000, run: frontier },
];
