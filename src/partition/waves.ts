/**
 * Waves: every node gets a level, and all nodes of one engine class at one level form a wave. Waves run in the order (level, class), the
 * host being class 0; an edge may stay in its wave or lead to a later one, so level(v) >= level(u) + [class(u) > class(v)] for u -> v.
 *
 * The least levels are the longest paths over those constraints; the largest of them is what any order must cross, so no partition has
 * fewer levels. Within that depth most nodes have a window of levels, and the choice decides which tensors cross a border. `contract`
 * makes it: tensors are taken heaviest first, and the nodes that make and read one are tied to one level wherever windows allow.
 */
import { Components, type Edges } from "./dag.js";

/** A DAG whose nodes stand in topological order: i < j for every edge i -> j. Parallel edges are allowed. */
export interface Dag {
  readonly n: number;
  readonly successors: Edges;
  readonly predecessors: Edges;
}
/** What flows along the edges: value t is made by node `producer[t]` and read by the nodes of row t, each listed once or more. */
export interface Values {
  readonly producer: Int32Array;
  readonly readers: Edges;
  /** What it costs when t crosses a border. */
  readonly bytes: Float64Array;
  /** 1 where t leaves the graph: it crosses a border whatever is done. */
  readonly exported?: Uint8Array | undefined;
}

/** The least levels. */
export const earliest = (g: Dag, engine: Uint8Array): Int32Array => leastLevels(g, engine, 0);

/** The least levels when the engines' waves run before the host's: what waits for nothing of the host's is apart from what does. */
export const enginesFirst = (g: Dag, engine: Uint8Array): Int32Array => leastLevels(g, engine, 1);

/** `ofHost`: the level of the host's first wave. At 1 it has an engine wave before it, which may be empty. */
function leastLevels(g: Dag, engine: Uint8Array, ofHost: number): Int32Array {
  const { starts, targets } = g.successors;
  const level = new Int32Array(g.n);
  for (let v = 0; v < g.n; v++) {
    const c = engine[v] as number;
    if (c === 0 && (level[v] as number) < ofHost) level[v] = ofHost;
    const l = level[v] as number;
    for (let e = starts[v] as number; e < (starts[v + 1] as number); e++) {
      const t = targets[e] as number;
      const next = c > (engine[t] as number) ? l + 1 : l;
      if (next > (level[t] as number)) level[t] = next;
    }
  }
  return level;
}

function deepest(level: Int32Array): number {
  let depth = 0;
  for (let v = 0; v < level.length; v++) if ((level[v] as number) > depth) depth = level[v] as number;
  return depth;
}

/** The greatest levels that keep the depth, by default the least one. */
export function latest(g: Dag, engine: Uint8Array, depth = deepest(earliest(g, engine))): Int32Array {
  const { starts, targets } = g.successors;
  const level = new Int32Array(g.n).fill(depth);
  for (let v = g.n - 1; v >= 0; v--) {
    const c = engine[v] as number;
    let l = depth;
    for (let e = starts[v] as number; e < (starts[v + 1] as number); e++) {
      const t = targets[e] as number;
      const next = (level[t] as number) - (c > (engine[t] as number) ? 1 : 0);
      if (next < l) l = next;
    }
    level[v] = l;
  }
  return level;
}

/** The most engine segments that any path must cross: consecutive engine nodes of one class on a path can share one. */
export function alternationBound(g: Dag, engine: Uint8Array): number {
  const { starts, targets } = g.successors;
  // How many engine segments a path has crossed when it reaches v, v's own not among them unless the path is inside it.
  const depth = new Int32Array(g.n);
  let bound = 0;
  for (let v = 0; v < g.n; v++) {
    const c = engine[v] as number;
    if (c !== 0 && depth[v] === 0) depth[v] = 1;
    const d = depth[v] as number;
    if (d > bound) bound = d;
    for (let e = starts[v] as number; e < (starts[v + 1] as number); e++) {
      const t = targets[e] as number;
      const k = engine[t] as number;
      const next = k !== 0 && k !== c ? d + 1 : d;
      if (next > (depth[t] as number)) depth[t] = next;
    }
  }
  return bound;
}

/** Edges looked at for one tie before it is given up: a hub's tie would drag half the graph along, and rarely holds. */
const TIE_BUDGET = 2048;

/**
 * Ties makers and readers of tensors to one level, heaviest tensor first. Windows of untouched nodes shrink as ties fix what they depend
 * on; a tie that would empty a window, or close a cycle, is undone. Returns the level of every node. Only tensors within one engine class
 * that do not leave the graph are worth a tie: all others cross a border anyway.
 */
export function contract(g: Dag, engine: Uint8Array, values: Values, order: Int32Array): Int32Array {
  const low = earliest(g, engine);
  const depth = deepest(low);
  if (depth === 0) return low;
  const high = latest(g, engine, depth);
  const worth = worthTying(engine, values, low, high);
  const windows = new Windows(g, engine, low, high);
  const { producer, readers } = values;
  const { starts, targets } = readers;
  for (const of of [ENGINES, HOST])
    for (let k = 0; k < order.length; k++) {
      const t = order[k] as number;
      if (worth[t] === of) windows.tie(producer[t] as number, targets, starts[t] as number, starts[t + 1] as number);
    }
  return windows.levels();
}

const ENGINES = 1;
const HOST = 2;
/**
 * Which tensors may be tied, and in which pass. By weight they come in no order that memory likes, so that what needs no try is sorted out
 * here, in the order in which they stand: what crosses a border anyway, and what is made and read where windows are single levels already.
 */
function worthTying(engine: Uint8Array, values: Values, low: Int32Array, high: Int32Array): Uint8Array {
  const { producer, readers, exported } = values;
  const { starts, targets } = readers;
  const worth = new Uint8Array(producer.length);
  for (let t = 0; t < producer.length; t++) {
    const p = producer[t] as number;
    if (p < 0 || exported?.[t] === 1) continue;
    const c = engine[p] as number;
    let open = low[p] !== high[p];
    let same = true;
    for (let e = starts[t] as number; same && e < (starts[t + 1] as number); e++) {
      const r = targets[e] as number;
      same = engine[r] === c;
      if (low[r] !== high[r]) open = true;
    }
    if (same && open) worth[t] = c === 0 ? HOST : ENGINES;
  }
  return worth;
}

/** Windows [low, high] of groups of nodes that share a level. */
class Windows {
  readonly #g: Dag;
  readonly #engine: Uint8Array;
  /** Least and greatest level of each group by turns: both are looked at together, in no order that memory likes. */
  readonly #window: Int32Array;
  readonly #groups: Components;
  /** Circular lists of the members of each group. */
  readonly #next: Int32Array;
  /** Marks the groups of the tie at hand. */
  readonly #mark: Int32Array;
  #stamp = 0;
  /** Changes of the tie at hand, newest last, for undoing: place in `#window` and the old bound. */
  readonly #log: number[] = [];
  readonly #stack: number[] = [];
  #budget = 0;

  constructor(g: Dag, engine: Uint8Array, low: Int32Array, high: Int32Array) {
    this.#g = g;
    this.#engine = engine;
    this.#window = new Int32Array(2 * g.n);
    for (let i = 0; i < g.n; i++) {
      this.#window[2 * i] = low[i] as number;
      this.#window[2 * i + 1] = high[i] as number;
    }
    this.#groups = new Components(g.n);
    this.#next = new Int32Array(g.n);
    for (let i = 0; i < g.n; i++) this.#next[i] = i;
    this.#mark = new Int32Array(g.n);
  }

  levels(): Int32Array {
    const out = new Int32Array(this.#g.n);
    for (let v = 0; v < out.length; v++) out[v] = this.#window[2 * this.#groups.find(v)] as number;
    return out;
  }

  /** Ties node p and targets[from .. to] to one level if that can be. */
  tie(p: number, targets: Int32Array, from: number, to: number): boolean {
    const groups = this.#groups;
    const window = this.#window;
    const first = groups.find(p);
    const [low, high] = [window[2 * first] as number, window[2 * first + 1] as number];
    let floor = low;
    let ceiling = high;
    let several = false;
    let equal = true;
    for (let e = from; e < to; e++) {
      const r = groups.find(targets[e] as number);
      if (r === first) continue;
      several = true;
      const l = window[2 * r] as number;
      const h = window[2 * r + 1] as number;
      if (l !== low || h !== high) equal = false;
      if (l > floor) floor = l;
      if (h < ceiling) ceiling = h;
      if (floor > ceiling) return false;
    }
    if (!several) return true;
    if (!equal) {
      const stamp = ++this.#stamp;
      this.#mark[first] = stamp;
      for (let e = from; e < to; e++) this.#mark[groups.find(targets[e] as number)] = stamp;
      this.#budget = TIE_BUDGET;
      this.#log.length = 0;
      let ok = this.#raise(first, floor, stamp) && this.#lower(first, ceiling, stamp);
      for (let e = from; ok && e < to; e++) {
        const r = groups.find(targets[e] as number);
        ok = this.#raise(r, floor, stamp) && this.#lower(r, ceiling, stamp);
      }
      if (!ok) {
        this.#undo();
        return false;
      }
    }
    let root = first;
    for (let e = from; e < to; e++) {
      const r = groups.find(targets[e] as number);
      if (r === root) continue;
      const swapped = this.#next[root] as number;
      this.#next[root] = this.#next[r] as number;
      this.#next[r] = swapped;
      root = groups.unite(root, r);
    }
    return true;
  }

  /** Raises a group's lower bound, and those of what comes after it as far as need be. */
  #raise(group: number, floor: number, stamp: number): boolean {
    const window = this.#window;
    if ((window[2 * group] as number) >= floor) return true;
    const { starts, targets } = this.#g.successors;
    const engine = this.#engine;
    const stack = this.#stack;
    this.#log.push(2 * group, window[2 * group] as number);
    window[2 * group] = floor;
    stack.length = 0;
    stack.push(group);
    for (let r = stack.pop(); r !== undefined; r = stack.pop()) {
      const level = window[2 * r] as number;
      let v = r;
      do {
        const begin = starts[v] as number;
        const end = starts[v + 1] as number;
        this.#budget -= 1 + end - begin;
        if (this.#budget < 0) return false;
        for (let e = begin; e < end; e++) {
          const t = targets[e] as number;
          const need = (engine[v] as number) > (engine[t] as number) ? level + 1 : level;
          const s = this.#groups.find(t);
          const has = window[2 * s] as number;
          if (has >= need) continue;
          // A tied group that its own tie pushes up lies behind itself.
          if (need > (window[2 * s + 1] as number) || (this.#mark[s] === stamp && need > floor)) return false;
          this.#log.push(2 * s, has);
          window[2 * s] = need;
          stack.push(s);
        }
        v = this.#next[v] as number;
      } while (v !== r);
    }
    return true;
  }

  /** Lowers a group's upper bound, and those of what comes before it. */
  #lower(group: number, ceiling: number, stamp: number): boolean {
    const window = this.#window;
    if ((window[2 * group + 1] as number) <= ceiling) return true;
    const { starts, targets } = this.#g.predecessors;
    const engine = this.#engine;
    const stack = this.#stack;
    this.#log.push(2 * group + 1, window[2 * group + 1] as number);
    window[2 * group + 1] = ceiling;
    stack.length = 0;
    stack.push(group);
    for (let r = stack.pop(); r !== undefined; r = stack.pop()) {
      const level = window[2 * r + 1] as number;
      let v = r;
      do {
        const begin = starts[v] as number;
        const end = starts[v + 1] as number;
        this.#budget -= 1 + end - begin;
        if (this.#budget < 0) return false;
        for (let e = begin; e < end; e++) {
          const p = targets[e] as number;
          const need = (engine[p] as number) > (engine[v] as number) ? level - 1 : level;
          const s = this.#groups.find(p);
          const has = window[2 * s + 1] as number;
          if (has <= need) continue;
          if (need < (window[2 * s] as number) || (this.#mark[s] === stamp && need < ceiling)) return false;
          this.#log.push(2 * s + 1, has);
          window[2 * s + 1] = need;
          stack.push(s);
        }
        v = this.#next[v] as number;
      } while (v !== r);
    }
    return true;
  }

  #undo(): void {
    for (let i = this.#log.length - 2; i >= 0; i -= 2) this.#window[this.#log[i] as number] = this.#log[i + 1] as number;
  }
}
