/**
 * Moves of clusters, after the minimum cuts: those divide two neighbouring waves at their best, but what would gain only further away, or only
 * together, stays. Nodes of a wave are joined along their heaviest tensors into clusters of at most 1, 4, 16, 64 and any number of nodes, and a
 * cluster goes to that level of its window at which the fewest bytes cross, until none gains (the refinement of multilevel partitioners).
 */
import { Components, type Edges, reversed } from "./dag.js";
import { type Sizes, valuesByMaker } from "./refine.js";
import type { Dag, Values } from "./waves.js";

const LIMITS = [1, 4, 16, 64, Number.POSITIVE_INFINITY] as const;
/** Sweeps over the clusters of one size; nearly all that is gained comes with the first. */
const SWEEPS = 4;

/** Changes `level` in place; gives the bytes saved. `order` lists the tensors, heaviest first. */
export function moveClusters(g: Dag, engine: Uint8Array, values: Values, level: Int32Array, order: Int32Array, sizes: Sizes): number {
  const moves = new Moves(g, engine, values, level, sizes);
  let saved = 0;
  for (const limit of LIMITS)
    for (let sweep = 0; sweep < SWEEPS; sweep++) {
      const gained = moves.sweep(order, limit);
      saved += gained;
      if (gained === 0) break;
    }
  return saved;
}

class Moves {
  readonly #g: Dag;
  readonly #engine: Uint8Array;
  readonly #values: Values;
  readonly #level: Int32Array;
  readonly #sizes: Sizes;
  readonly #made: ReturnType<typeof valuesByMaker>;
  /** Tensors that each node reads. */
  readonly #read: Edges;
  /** What each wave counts towards the least size, by level and class. */
  readonly #weight = new Map<number, number>();
  /** Marks the cluster at hand, and the tensors that it touches. */
  readonly #inside: Int32Array;
  readonly #touched: Int32Array;
  #stamp = 0;

  constructor(g: Dag, engine: Uint8Array, values: Values, level: Int32Array, sizes: Sizes) {
    this.#g = g;
    this.#engine = engine;
    this.#values = values;
    this.#level = level;
    this.#sizes = sizes;
    this.#made = valuesByMaker(g.n, values);
    this.#read = reversed(g.n, values.readers);
    this.#inside = new Int32Array(g.n);
    this.#touched = new Int32Array(values.producer.length);
    for (let v = 0; v < g.n; v++) if (engine[v] !== 0) this.#count(v, sizes.size[v] as number);
  }
  #wave(v: number, level: number): number {
    return level * 256 + (this.#engine[v] as number);
  }
  #count(v: number, by: number): void {
    const wave = this.#wave(v, this.#level[v] as number);
    this.#weight.set(wave, (this.#weight.get(wave) ?? 0) + by);
  }

  sweep(order: Int32Array, limit: number): number {
    let gained = 0;
    for (const cluster of this.#clusters(order, limit)) gained += this.#place(cluster);
    return gained;
  }

  #clusters(order: Int32Array, limit: number): readonly (readonly number[])[] {
    const { producer, readers } = this.#values;
    const sets = new Components(this.#g.n);
    for (let k = 0; k < order.length && limit > 1; k++) {
      const t = order[k] as number;
      const p = producer[t] as number;
      if (p < 0 || this.#engine[p] === 0) continue;
      for (let e = readers.starts[t] as number; e < (readers.starts[t + 1] as number); e++) {
        const r = readers.targets[e] as number;
        if (this.#engine[r] === this.#engine[p] && this.#level[r] === this.#level[p] && sets.sizeOf(p) + sets.sizeOf(r) <= limit)
          sets.unite(p, r);
      }
    }
    const lists = new Map<number, number[]>();
    for (let v = 0; v < this.#g.n; v++) {
      if (this.#engine[v] === 0) continue;
      const root = sets.find(v);
      const list = lists.get(root);
      if (list === undefined) lists.set(root, [v]);
      else list.push(v);
    }
    return [...lists.values()];
  }

  /** Puts a cluster where the fewest bytes cross; gives the bytes saved. */
  #place(cluster: readonly number[]): number {
    const [first] = cluster;
    if (first === undefined) return 0;
    const own = this.#level[first] as number;
    const stamp = ++this.#stamp;
    for (const v of cluster) this.#inside[v] = stamp;
    let [low, high] = [0, Number.POSITIVE_INFINITY];
    const wanted = new Set<number>();
    const { successors, predecessors } = this.#g;
    for (const v of cluster) {
      const c = this.#engine[v] as number;
      for (let e = predecessors.starts[v] as number; e < (predecessors.starts[v + 1] as number); e++) {
        const p = predecessors.targets[e] as number;
        if (this.#inside[p] === stamp) continue;
        const k = this.#engine[p] as number;
        low = Math.max(low, (this.#level[p] as number) + (k > c ? 1 : 0));
        if (k === c) wanted.add(this.#level[p] as number);
      }
      for (let e = successors.starts[v] as number; e < (successors.starts[v + 1] as number); e++) {
        const s = successors.targets[e] as number;
        if (this.#inside[s] === stamp) continue;
        const k = this.#engine[s] as number;
        high = Math.min(high, (this.#level[s] as number) - (c > k ? 1 : 0));
        if (k === c) wanted.add(this.#level[s] as number);
      }
    }
    wanted.delete(own);
    if (low >= high || wanted.size === 0 || !this.#mayLeave(cluster, first, own)) return 0;
    const before = this.#bytes(cluster);
    let [best, to] = [before, own];
    for (const l of wanted) {
      // Only waves that are there already: a segment costs more than it could save.
      if (l < low || l > high || (this.#weight.get(this.#wave(first, l)) ?? 0) === 0) continue;
      for (const v of cluster) this.#level[v] = l;
      const bytes = this.#bytes(cluster);
      if (bytes < best) [best, to] = [bytes, l];
    }
    for (const v of cluster) this.#level[v] = own;
    if (to === own) return 0;
    for (const v of cluster) {
      this.#count(v, -(this.#sizes.size[v] as number));
      this.#level[v] = to;
      this.#count(v, this.#sizes.size[v] as number);
    }
    return before - best;
  }
  /** Whether the wave it leaves stays large enough, or is emptied. */
  #mayLeave(cluster: readonly number[], first: number, own: number): boolean {
    const has = this.#weight.get(this.#wave(first, own)) ?? 0;
    let left = has;
    for (const v of cluster) left -= this.#sizes.size[v] as number;
    return left === 0 || left >= this.#sizes.minimumSize || has < this.#sizes.minimumSize;
  }

  /** Bytes that cross a border for what a cluster reads and makes. */
  #bytes(cluster: readonly number[]): number {
    const stamp = ++this.#stamp;
    let total = 0;
    const add = (t: number): void => {
      if (this.#touched[t] === stamp) return;
      this.#touched[t] = stamp;
      total += this.#crossing(t);
    };
    for (const v of cluster) {
      for (let t = this.#made.first[v] as number; t >= 0; t = this.#made.next[t] as number) add(t);
      for (let e = this.#read.starts[v] as number; e < (this.#read.starts[v + 1] as number); e++) add(this.#read.targets[e] as number);
    }
    return total;
  }
  #crossing(t: number): number {
    const { producer, readers, bytes, exported } = this.#values;
    const p = producer[t] as number;
    // What the graph or the host gives, and what the graph hands out, crosses wherever its readers stand.
    if (p < 0 || this.#engine[p] === 0 || exported?.[t] === 1) return 0;
    for (let e = readers.starts[t] as number; e < (readers.starts[t + 1] as number); e++) {
      const r = readers.targets[e] as number;
      if (this.#engine[r] !== this.#engine[p] || this.#level[r] !== this.#level[p]) return bytes[t] as number;
    }
    return 0;
  }
}
