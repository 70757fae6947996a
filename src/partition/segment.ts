/**
 * Segmentation on typed arrays, independent of the IR. Nodes come in topological order with an engine class each (0 host, 1.. engines).
 *
 * 1. Waves (waves.ts): every node gets a level such that the nodes of one class at one level can run together; heavy tensors first, what
 *    makes and reads a tensor is brought to one level, so that it crosses no border.
 * 2. A piece (a connected part of a wave) with less compute than the floor goes to the host, unless it stands beside a large enough piece
 *    and its move would make more bytes cross. What is left may fit together better, so all is done again, a few times at most.
 * 3. refine.ts moves nodes between neighbouring waves of one engine where a minimum cut says that fewer bytes cross.
 * 4. trim.ts gives views at a segment's border to the host where fewer bytes cross then.
 * 5. A wave is a segment. Pieces of one wave that no edge joins share a launch; nothing crosses a border for it.
 * 6. Where times are given: the pieces of a wave that wait for nothing in the host's wave before it become a segment of their own when the
 *    time they can run beside that wave outweighs one more start.
 *
 * The number of engine segments is at most the number of waves, which no order can undercut with one engine class.
 */
import { Components, type Edges, heaviestFirst, reversed } from "./dag.js";
import { number } from "./number.js";
import { refine } from "./refine.js";
import { trim } from "./trim.js";
import { contract, type Dag, earliest, latest, type Values } from "./waves.js";

export { edgesOf } from "./dag.js";
export type { Values } from "./waves.js";

export interface SegmentInput {
  readonly n: number;
  /** i < j for every edge i to j; parallel edges allowed. */
  readonly successors: Edges;
  /** Engine class by node. */
  readonly engine: Uint8Array;
  /** What a node counts towards `minimumSize`. */
  readonly size: Uint32Array | Uint8Array;
  readonly minimumSize: number;
  /** Keeps a piece although it is small (pins); by node. */
  readonly forced?: Uint8Array | undefined;
  /** The tensors; absent: one per node, of weight 1, read by the node's successors. */
  readonly values?: Values | undefined;
  /** Times, for step 6: microseconds by node, and of one more segment by class. Absent: step 6 is left out. */
  readonly overlap?: { readonly us: Float64Array; readonly startUs: readonly number[] } | undefined;
}
export interface Segmentation {
  /** Segment of every node; segments are numbered in an order in which they can run. */
  readonly segmentOf: Int32Array;
  /** Engine class by segment. */
  readonly engineOf: Uint8Array;
  readonly count: number;
  /** Lower bound on the number of engine segments, for the classes as they ended up. */
  readonly lowerBound: number;
  /** Nodes that step 2 gave to the host. */
  readonly demoted: Uint8Array;
  /** Nodes that step 4 gave to the host. */
  readonly trimmed: Uint8Array;
  /** Microseconds that step 6 expects to save. */
  readonly overlapUs: number;
}

/** Above this many nodes three rounds of the steps must do; below, eight. Taking pieces away is sound at any time, so any round may be the last. */
const LARGE = 200_000;
/** Up to this many nodes other starts are tried too, and what measures best is kept. */
const SMALL = 5_000;

export function segment(input: SegmentInput): Segmentation {
  const g: Dag = { n: input.n, successors: input.successors, predecessors: reversed(input.n, input.successors) };
  const values = input.values ?? unitValues(g);
  const order = heaviestFirst(values.bytes);
  const by = (start: Start): Arrangement => arrange(g, input, values, order, start);
  let best = by("ties");
  // Where nothing had to be given up, ties have not been beaten.
  if (input.n <= SMALL && best.demoted.includes(1)) {
    for (const start of ["earliest", "latest"] as const) {
      const other = by(start);
      if (other.givenUp <= best.givenUp && other.penalty < best.penalty) best = other;
    }
  }
  return { ...number(g, best.engine, best.level, best.demoted, input.overlap), trimmed: best.trimmed };
}

/** Where levels start from: ties by bytes, or one end of every window, from which minimum cuts alone go on. */
type Start = "ties" | "earliest" | "latest";
interface Arrangement {
  readonly engine: Uint8Array;
  readonly level: Int32Array;
  readonly demoted: Uint8Array;
  readonly trimmed: Uint8Array;
  /** Compute that went to the host for want of company. */
  readonly givenUp: number;
  readonly penalty: number;
}

/** Steps 1 to 4 from one start. */
function arrange(g: Dag, input: SegmentInput, values: Values, order: Int32Array, start: Start): Arrangement {
  const engine = input.engine.slice();
  const demoted = new Uint8Array(g.n);
  const rounds = g.n > LARGE ? 3 : 8;
  let level = earliest(g, engine);
  for (let round = 0, settled = false; round < rounds && !settled; round++) {
    if (start === "ties") level = contract(g, engine, values, order);
    else if (round > 0 || start === "latest") level = start === "earliest" ? earliest(g, engine) : latest(g, engine);
    settled = !demote(g, input, values, engine, level, demoted);
    // The last round must not spend itself on pieces: what refinement leaves is judged once more.
    if ((settled || round === rounds - 1) && refine(g, engine, values, level) > 0)
      settled = !demote(g, input, values, engine, level, demoted);
  }
  const trimmed = new Uint8Array(g.n);
  trim(g, engine, values, level, (v) => input.size[v] === 0 && input.forced?.[v] !== 1, trimmed);
  let givenUp = 0;
  for (let v = 0; v < g.n; v++) if (demoted[v] === 1) givenUp += input.size[v] as number;
  return { engine, level, demoted, trimmed, givenUp, penalty: g.n > SMALL ? 0 : penaltyOf(input, values, engine, level) };
}

/** Microseconds of the order of: a start and a synchronisation per segment, and the tensors that cross. */
function penaltyOf(input: SegmentInput, values: Values, engine: Uint8Array, level: Int32Array): number {
  const waves = new Set<number>();
  let penalty = 0;
  for (let v = 0; v < input.n; v++) {
    if (engine[v] !== 0) waves.add((level[v] as number) * 256 + (engine[v] as number));
  }
  const { producer, readers, bytes, exported } = values;
  for (let t = 0; t < producer.length; t++) {
    const p = producer[t] as number;
    if (p < 0) continue;
    let crosses = engine[p] !== 0 && exported?.[t] === 1;
    for (let e = readers.starts[t] as number; !crosses && e < (readers.starts[t + 1] as number); e++) {
      const r = readers.targets[e] as number;
      crosses = engine[r] !== engine[p] || (engine[p] !== 0 && level[r] !== level[p]);
    }
    if (crosses) penalty += 1 + (bytes[t] as number) / 50e3;
  }
  return penalty + 20 * waves.size;
}

/** One tensor of weight 1 per node. */
function unitValues(g: Dag): Values {
  const producer = new Int32Array(g.n);
  for (let i = 0; i < g.n; i++) producer[i] = i;
  return { producer, readers: g.successors, bytes: new Float64Array(g.n).fill(1) };
}

/**
 * Step 2. What a piece of class 1 reads comes from lower levels or from the host's wave at its own, which it can join. A piece of a higher
 * class may read class 1 at its own level, and joins the host's wave at the next: what reads it stands no lower.
 */
function demote(g: Dag, input: SegmentInput, values: Values, engine: Uint8Array, level: Int32Array, demoted: Uint8Array): boolean {
  const { n, size, minimumSize, forced } = input;
  const { starts, targets } = g.successors;
  const pieces = new Components(n);
  for (let v = 0; v < n; v++) {
    if (engine[v] === 0) continue;
    for (let e = starts[v] as number; e < (starts[v + 1] as number); e++) {
      const t = targets[e] as number;
      if (engine[t] === engine[v] && level[t] === level[v]) pieces.unite(v, t);
    }
  }
  /** By node, a node of its piece that stands for all of it; -1 on the host. */
  const piece = new Int32Array(n).fill(-1);
  const weight = new Float64Array(n);
  for (let v = 0; v < n; v++) {
    if (engine[v] === 0) continue;
    const root = pieces.find(v);
    piece[v] = root;
    // What is pinned is enough by itself.
    weight[root] = (weight[root] as number) + (forced?.[v] === 1 ? minimumSize : (size[v] as number));
  }
  const small = (v: number): boolean => piece[v] !== -1 && (weight[piece[v] as number] as number) < minimumSize;
  let [any, depth] = [false, 0];
  for (let v = 0; v < n; v++) {
    if (small(v)) any = true;
    if ((level[v] as number) > depth) depth = level[v] as number;
  }
  if (!any) return false;
  // Small pieces beside large ones: by the bytes that their move would add.
  const classes = engine.reduce((a, c) => Math.max(a, c), 0) + 1;
  const large = new Uint8Array((depth + 1) * classes);
  const waveOf = (v: number): number => (level[v] as number) * classes + (engine[v] as number);
  for (let v = 0; v < n; v++) if (engine[v] !== 0 && !small(v)) large[waveOf(v)] = 1;
  const gain = new Float64Array(n);
  const { producer, readers, bytes, exported } = values;
  for (let t = 0; t < producer.length; t++) {
    const p = producer[t] as number;
    if (p < 0) continue;
    const own = piece[p] as number;
    // Bytes cross for t when a reader runs elsewhere than its maker, host to host not counted.
    let elsewhere = exported?.[t] === 1;
    let readBy = -1;
    let severalReaders = false;
    let hostReads = false;
    for (let e = readers.starts[t] as number; e < (readers.starts[t + 1] as number); e++) {
      const r = readers.targets[e] as number;
      const q = piece[r] as number;
      if (q === own && q !== -1) continue;
      if (q === -1) hostReads = true;
      else if (engine[r] !== engine[p] || level[r] !== level[p]) {
        if (readBy !== -1 && readBy !== q) severalReaders = true;
        readBy = q;
      }
      if (engine[r] !== engine[p] || level[r] !== level[p]) elsewhere = true;
    }
    const b = bytes[t] as number;
    // The maker's piece moving to the host: t stops crossing when only the host reads it (or nothing outside), starts when it was internal.
    if (own !== -1 && elsewhere && readBy === -1 && hostReads) gain[own] = (gain[own] as number) - b;
    // A reader's piece moving to the host: t stops crossing when the host makes it and only that piece reads it.
    if (own === -1 && readBy !== -1 && !severalReaders) gain[readBy] = (gain[readBy] as number) - b;
  }
  let changed = false;
  for (let v = 0; v < n; v++) {
    if (!small(v) || ((gain[piece[v] as number] as number) >= 0 && large[waveOf(v)] === 1)) continue;
    changed = true;
    demoted[v] = 1;
  }
  for (let v = 0; changed && v < n; v++) {
    if (demoted[v] === 0 || engine[v] === 0) continue;
    if (engine[v] !== 1) level[v] = (level[v] as number) + 1;
    engine[v] = 0;
  }
  return changed;
}
