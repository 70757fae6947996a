/** From levels to numbered segments: the waves in the order in which they run, some of them parted in two. */
import { alternationBound, type Dag } from "./waves.js";

/** Microseconds by node, and of one more segment by class. */
export interface Overlap {
  readonly us: Float64Array;
  readonly startUs: readonly number[];
}
export interface Numbered {
  readonly segmentOf: Int32Array;
  readonly engineOf: Uint8Array;
  readonly count: number;
  readonly lowerBound: number;
  readonly demoted: Uint8Array;
  readonly overlapUs: number;
}

/** Steps 5 and 6: waves that hold nodes, in order. Host waves with no engine wave between them are one part. */
export function number(g: Dag, engine: Uint8Array, level: Int32Array, demoted: Uint8Array, overlap: Overlap | undefined): Numbered {
  let depth = 0;
  let classes = 1;
  for (let v = 0; v < g.n; v++) {
    if ((level[v] as number) > depth) depth = level[v] as number;
    if ((engine[v] as number) >= classes) classes = (engine[v] as number) + 1;
  }
  const apart = overlap === undefined ? { early: undefined, us: 0 } : aside(g, engine, level, classes, depth, overlap);
  // Slots of a level: for each class its early pieces, then (from `classes` on) its wave.
  const slots = 2 * classes;
  const slotOf = (v: number): number => (level[v] as number) * slots + (apart.early?.[v] === 1 ? 0 : classes) + (engine[v] as number);
  const used = new Uint8Array((depth + 1) * slots);
  for (let v = 0; v < g.n; v++) used[slotOf(v)] = 1;
  const indexOf = new Int32Array(used.length).fill(-1);
  const engineOf: number[] = [];
  for (let w = 0; w < used.length; w++) {
    if (used[w] === 0) continue;
    const c = w % classes;
    if (c !== 0 || engineOf[engineOf.length - 1] !== 0) engineOf.push(c);
    indexOf[w] = engineOf.length - 1;
  }
  const segmentOf = new Int32Array(g.n);
  for (let v = 0; v < g.n; v++) segmentOf[v] = indexOf[slotOf(v)] as number;
  return {
    segmentOf,
    engineOf: Uint8Array.from(engineOf),
    count: engineOf.length,
    lowerBound: alternationBound(g, engine),
    demoted,
    overlapUs: apart.us,
  };
}

/** Step 6: marks the nodes that go to their wave's early segment. Only class 1: what a higher class reads at its level may wait itself. */
function aside(
  g: Dag,
  engine: Uint8Array,
  level: Int32Array,
  classes: number,
  depth: number,
  { us, startUs }: Overlap,
): { readonly early: Uint8Array; readonly us: number } {
  const waits = new Uint8Array(g.n);
  const hostUs = new Float64Array(depth + 1);
  for (let v = 0; v < g.n; v++) {
    const l = level[v] as number;
    if (engine[v] === 0) hostUs[l] = (hostUs[l] as number) + (us[v] as number);
    if (engine[v] !== 1) continue;
    for (let e = g.predecessors.starts[v] as number; e < (g.predecessors.starts[v + 1] as number); e++) {
      const p = g.predecessors.targets[e] as number;
      if (level[p] === l && (engine[p] === 0 || (engine[p] === 1 && waits[p] === 1))) waits[v] = 1;
    }
  }
  // A piece waits as a whole: one of its nodes that does would split it otherwise.
  for (let v = g.n - 1; v >= 0; v--) {
    if (engine[v] !== 1 || waits[v] === 1) continue;
    for (let e = g.successors.starts[v] as number; e < (g.successors.starts[v + 1] as number); e++) {
      const t = g.successors.targets[e] as number;
      if (level[t] === level[v] && engine[t] === 1 && waits[t] === 1) waits[v] = 1;
    }
  }
  for (let v = 0; v < g.n; v++) {
    if (engine[v] !== 1 || waits[v] === 1) continue;
    for (let e = g.predecessors.starts[v] as number; e < (g.predecessors.starts[v + 1] as number); e++) {
      const p = g.predecessors.targets[e] as number;
      if (level[p] === level[v] && engine[p] === 1 && waits[p] === 1) waits[v] = 1;
    }
  }
  const earlyUs = new Float64Array(depth + 1);
  const rest = new Uint8Array(depth + 1);
  for (let v = 0; v < g.n; v++) {
    if (engine[v] !== 1) continue;
    const l = level[v] as number;
    if (waits[v] === 1) rest[l] = 1;
    else earlyUs[l] = (earlyUs[l] as number) + (us[v] as number);
  }
  let total = 0;
  const early = new Uint8Array(g.n);
  const split = new Uint8Array(depth + 1);
  for (let l = 0; l <= depth && classes > 1; l++) {
    const saved = Math.min(earlyUs[l] as number, hostUs[l] as number) - (startUs[1] ?? 0);
    if (rest[l] === 0 || saved <= 0) continue;
    split[l] = 1;
    total += saved + (startUs[1] ?? 0);
  }
  for (let v = 0; v < g.n; v++) if (engine[v] === 1 && waits[v] === 0 && split[level[v] as number] === 1) early[v] = 1;
  return { early, us: total };
}
