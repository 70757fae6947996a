/**
 * Segmentation on typed arrays, independent of the IR. Nodes come in topological order with an engine class each (0 host, 1.. engines).
 *
 * 1. Alternation level: L(v) = max over predecessors p of L(p) + [class(p) > class(v)]. A path that leaves a (level, class) group comes back
 *    only at a higher level, so every group is convex, and its weakly connected parts are segments. The most
 *    alternations on any path bound the number of engine segments from below.
 * 2. Segments of one class that an edge joins across levels are contracted where the order of the quotient graph stays valid: when every
 *    other successor of the earlier one comes after the later one, or every other predecessor of the later one before the earlier one.
 *    Adjacency merges small into large; a node whose last 16 tries failed is a hub and is not tried again.
 * 3. Engine segments with less compute than the floor are given to the host, and all is done again until nothing changes.
 * 4. Host nodes that can run together become one part: ready host work is taken as long as it lasts, then the ready engine segments.
 */

/** Compressed sparse rows: the successors of node i are `targets[starts[i] .. starts[i + 1]]`. */
export interface Edges {
  readonly starts: Int32Array;
  readonly targets: Int32Array;
}
export interface SegmentInput {
  readonly n: number;
  /** i < j for every edge i to j; parallel edges allowed. */
  readonly successors: Edges;
  /** Engine class by node. */
  readonly engine: Uint8Array;
  /** What a node counts towards `minimumSize`. */
  readonly size: Uint32Array | Uint8Array;
  readonly minimumSize: number;
  /** Keeps a segment although it is small (pins); by node. */
  readonly forced?: Uint8Array | undefined;
}
export interface Segmentation {
  /** Segment of every node; segments are numbered in an order in which they can run. */
  readonly segmentOf: Int32Array;
  /** Engine class by segment. */
  readonly engineOf: Uint8Array;
  readonly count: number;
  /** Lower bound on the number of engine segments, for the classes as they ended up. */
  readonly lowerBound: number;
  /** Nodes that step 3 gave to the host. */
  readonly demoted: Uint8Array;
}

const HUB_FAILURES = 16;
/** Contracting around nodes with more neighbours than this costs more than it gains. */
const MAX_SCAN = 4096;

/** Builds the edges of a graph from parallel lists. Linear. */
export function edgesOf(n: number, from: ArrayLike<number>, to: ArrayLike<number>): Edges {
  const starts = new Int32Array(n + 1);
  for (let e = 0; e < from.length; e++)
    (starts as { [i: number]: number })[(from[e] as number) + 1] = (starts[(from[e] as number) + 1] as number) + 1;
  for (let i = 0; i < n; i++) starts[i + 1] = (starts[i + 1] as number) + (starts[i] as number);
  const targets = new Int32Array(from.length);
  const fill = starts.slice(0, n);
  for (let e = 0; e < from.length; e++) {
    const f = from[e] as number;
    const at = fill[f] as number;
    targets[at] = to[e] as number;
    fill[f] = at + 1;
  }
  return { starts, targets };
}

export function segment(input: SegmentInput): Segmentation {
  const engine = Uint8Array.from(input.engine);
  const demoted = new Uint8Array(input.n);
  for (;;) {
    const levels = levelsOf(input, engine);
    const groups = new Components(input.n);
    uniteLevels(input, engine, levels, groups);
    contract(input, engine, levels, groups);
    const weight = new Float64Array(input.n);
    const keep = new Uint8Array(input.n);
    for (let v = 0; v < input.n; v++) {
      const r = groups.find(v);
      weight[r] = (weight[r] as number) + (input.size[v] as number);
      if (input.forced?.[v] === 1) keep[r] = 1;
    }
    let changed = false;
    for (let v = 0; v < input.n; v++) {
      if (engine[v] === 0) continue;
      const r = groups.find(v);
      if ((weight[r] as number) >= input.minimumSize || keep[r] === 1) continue;
      engine[v] = 0;
      demoted[v] = 1;
      changed = true;
    }
    if (!changed) return number(input, engine, groups, demoted);
  }
}

/** L(v) as the header defines it. */
function levelsOf(input: SegmentInput, engine: Uint8Array): Int32Array {
  const { starts, targets } = input.successors;
  const levels = new Int32Array(input.n);
  for (let v = 0; v < input.n; v++) {
    const [l, c] = [levels[v] as number, engine[v] as number];
    for (let e = starts[v] as number; e < (starts[v + 1] as number); e++) {
      const t = targets[e] as number;
      const next = c > (engine[t] as number) ? l + 1 : l;
      if (next > (levels[t] as number)) levels[t] = next;
    }
  }
  return levels;
}

function uniteLevels(input: SegmentInput, engine: Uint8Array, levels: Int32Array, groups: Components): void {
  const { starts, targets } = input.successors;
  for (let v = 0; v < input.n; v++) {
    for (let e = starts[v] as number; e < (starts[v + 1] as number); e++) {
      const t = targets[e] as number;
      if (levels[v] === levels[t] && engine[v] === engine[t]) groups.unite(v, t);
    }
  }
}

/** Step 2 of the header. */
function contract(input: SegmentInput, engine: Uint8Array, levels: Int32Array, groups: Components): void {
  const { starts, targets } = input.successors;
  const { n } = input;
  // Rank of a component: (level, class), then first node: a topological order of the quotient graph.
  const rank = new Float64Array(n);
  let candidates = 0;
  for (let v = n - 1; v >= 0; v--) rank[groups.find(v)] = ((levels[v] as number) * 256 + (engine[v] as number)) * 2 ** 31 + v;
  for (let v = 0; v < n && candidates === 0; v++) {
    for (let e = starts[v] as number; e < (starts[v + 1] as number); e++) {
      const t = targets[e] as number;
      if (engine[v] !== 0 && engine[v] === engine[t] && groups.find(v) !== groups.find(t)) candidates++;
    }
  }
  if (candidates === 0) return;
  const next = new Map<number, Map<number, number>>();
  const previous = new Map<number, Map<number, number>>();
  const link = (table: Map<number, Map<number, number>>, a: number, b: number): void => {
    let row = table.get(a);
    if (row === undefined) table.set(a, (row = new Map()));
    row.set(b, 1);
  };
  for (let v = 0; v < n; v++) {
    const a = groups.find(v);
    for (let e = starts[v] as number; e < (starts[v + 1] as number); e++) {
      const b = groups.find(targets[e] as number);
      if (a === b) continue;
      link(next, a, b);
      link(previous, b, a);
    }
  }
  const failures = new Uint8Array(n);
  const classOf = (r: number): number => engine[r] as number;
  for (let v = n - 1; v >= 0; v--) {
    if (engine[v] === 0) continue;
    for (let e = starts[v] as number; e < (starts[v + 1] as number); e++) {
      const t = targets[e] as number;
      if (engine[t] !== engine[v]) continue;
      const [a, b] = [groups.find(v), groups.find(t)];
      if (a === b || (failures[a] as number) >= HUB_FAILURES || classOf(a) !== classOf(b)) continue;
      const [after, before] = [next.get(a), previous.get(b)];
      if (after === undefined || before === undefined) continue;
      let place: number | undefined;
      if (after.size <= MAX_SCAN && every(after, (s) => s === b || (rank[s] as number) > (rank[b] as number))) place = rank[b] as number;
      else if (before.size <= MAX_SCAN && every(before, (p) => p === a || (rank[p] as number) < (rank[a] as number)))
        place = rank[a] as number;
      if (place === undefined) {
        failures[a] = (failures[a] as number) + 1;
        continue;
      }
      const kept = groups.unite(a, b);
      const gone = kept === a ? b : a;
      merge(next, previous, kept, gone);
      merge(previous, next, kept, gone);
      rank[kept] = place;
      failures[kept] = 0;
    }
  }
}
function every(row: Map<number, number>, holds: (x: number) => boolean): boolean {
  for (const x of row.keys()) if (!holds(x)) return false;
  return true;
}
/** Row `gone` of a table goes into row `kept`; the mirrored entries follow. Small rows move into large ones. */
function merge(table: Map<number, Map<number, number>>, mirror: Map<number, Map<number, number>>, kept: number, gone: number): void {
  const a = table.get(kept) ?? new Map<number, number>();
  const b = table.get(gone) ?? new Map<number, number>();
  for (const x of b.keys()) {
    const row = mirror.get(x);
    row?.delete(gone);
    if (x !== kept) row?.set(kept, 1);
  }
  const [large, small] = a.size >= b.size ? [a, b] : [b, a];
  for (const x of small.keys()) large.set(x, 1);
  large.delete(kept);
  large.delete(gone);
  table.set(kept, large);
  table.delete(gone);
}

/** Numbers the segments in an order they can run in, host work taken together as long as it lasts (step 4 of the header). */
function number(input: SegmentInput, engine: Uint8Array, groups: Components, demoted: Uint8Array): Segmentation {
  const { n } = input;
  const { starts, targets } = input.successors;
  const index = new Int32Array(n).fill(-1);
  let parts = 0;
  for (let v = 0; v < n; v++) {
    const r = groups.find(v);
    if (index[r] === -1) index[r] = parts++;
  }
  const partOf = (v: number): number => index[groups.find(v)] as number;
  const from: number[] = [];
  const to: number[] = [];
  const classes = new Uint8Array(parts);
  const seen = new Int32Array(parts).fill(-1);
  const members: number[][] = Array.from({ length: parts }, () => []);
  for (let v = 0; v < n; v++) {
    const p = partOf(v);
    classes[p] = engine[v] as number;
    (members[p] as number[]).push(v);
  }
  for (let p = 0; p < parts; p++) {
    for (const v of members[p] as number[]) {
      for (let e = starts[v] as number; e < (starts[v + 1] as number); e++) {
        const q = partOf(targets[e] as number);
        if (q === p || seen[q] === p) continue;
        seen[q] = p;
        from.push(p);
        to.push(q);
      }
    }
  }
  const quotient = edgesOf(parts, from, to);
  const missing = new Int32Array(parts);
  for (const q of to) missing[q] = (missing[q] as number) + 1;
  const segmentOfPart = new Int32Array(parts).fill(-1);
  const engineOf: number[] = [];
  let hosts: number[] = [];
  let engines: number[] = [];
  for (let p = 0; p < parts; p++) if (missing[p] === 0) (classes[p] === 0 ? hosts : engines).push(p);
  const release = (p: number): void => {
    for (let e = quotient.starts[p] as number; e < (quotient.starts[p + 1] as number); e++) {
      const q = quotient.targets[e] as number;
      missing[q] = (missing[q] as number) - 1;
      if (missing[q] === 0) (classes[q] === 0 ? hosts : engines).push(q);
    }
  };
  while (hosts.length > 0 || engines.length > 0) {
    if (hosts.length > 0) {
      const s = engineOf.push(0) - 1;
      // Host parts that become ready through host work alone join the same segment.
      for (let p = hosts.pop(); p !== undefined; p = hosts.pop()) {
        segmentOfPart[p] = s;
        release(p);
      }
      hosts = [];
    }
    const ready = engines.sort((a, b) => a - b);
    engines = [];
    for (const p of ready) {
      segmentOfPart[p] = engineOf.push(classes[p] as number) - 1;
      release(p);
    }
  }
  const segmentOf = new Int32Array(n);
  for (let v = 0; v < n; v++) segmentOf[v] = segmentOfPart[partOf(v)] as number;
  return { segmentOf, engineOf: Uint8Array.from(engineOf), count: engineOf.length, lowerBound: alternationBound(input, engine), demoted };
}

/** The most engine segments that any path must cross: consecutive engine nodes of one class on a path can share one. */
function alternationBound(input: SegmentInput, engine: Uint8Array): number {
  const { starts, targets } = input.successors;
  const depth = new Int32Array(input.n);
  let bound = 0;
  for (let v = 0; v < input.n; v++) {
    const c = engine[v] as number;
    const own = (depth[v] as number) + (c !== 0 && (depth[v] as number) === 0 ? 1 : 0);
    depth[v] = Math.max(depth[v] as number, own);
    const d = depth[v] as number;
    bound = Math.max(bound, d);
    for (let e = starts[v] as number; e < (starts[v + 1] as number); e++) {
      const t = targets[e] as number;
      const k = engine[t] as number;
      const next = k !== 0 && k !== c ? d + 1 : d;
      if (next > (depth[t] as number)) depth[t] = next;
    }
  }
  return bound;
}

/** Union-find with path halving; the larger set's root stays. */
class Components {
  readonly #parent: Int32Array;
  readonly #size: Int32Array;
  constructor(n: number) {
    this.#parent = Int32Array.from({ length: n }, (_, i) => i);
    this.#size = new Int32Array(n).fill(1);
  }
  find(v: number): number {
    const p = this.#parent;
    let at = v;
    while (p[at] !== at) {
      p[at] = p[p[at] as number] as number;
      at = p[at] as number;
    }
    return at;
  }
  unite(a: number, b: number): number {
    const [x, y] = [this.find(a), this.find(b)];
    if (x === y) return x;
    const [root, leaf] = (this.#size[x] as number) >= (this.#size[y] as number) ? [x, y] : [y, x];
    this.#parent[leaf] = root;
    this.#size[root] = (this.#size[root] as number) + (this.#size[leaf] as number);
    return root;
  }
}
