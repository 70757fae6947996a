/**
 * Moves nodes between neighbouring waves of one engine so that the fewest bytes cross between them. For two waves the best division is a
 * minimum cut: a tensor made in the earlier and read in the later costs its bytes, an edge must not run backwards (infinite), and a node
 * is fixed where what lies outside the two leaves it no choice. Waves are taken in pairs from front to back, then back to front.
 *
 * With an infinite edge Infinity - Infinity would arise when one is saturated; a path of infinite edges from source to sink cannot exist,
 * since the division at hand is feasible.
 */
import { Flow } from "./flow.js";
import type { Dag, Values } from "./waves.js";

/** Pairs of waves with more nodes than this keep what contraction found: a flow there costs more than the rest together. */
const MAX_PAIR = 20_000;
/** Nodes put into flows in all: on the largest irregular graphs this bounds refinement to about a second. */
const BUDGET = 1_000_000;

/** What a node counts towards the least size of a wave. */
export interface Sizes {
  readonly size: Uint32Array | Uint8Array;
  readonly minimumSize: number;
}

/** Changes `level` in place; gives the bytes saved. A wave that is large enough stays so, or is emptied. */
export function refine(g: Dag, engine: Uint8Array, values: Values, level: Int32Array, sizes: Sizes): number {
  let depth = 0;
  let classes = 1;
  for (let v = 0; v < g.n; v++) {
    if ((level[v] as number) > depth) depth = level[v] as number;
    if ((engine[v] as number) >= classes) classes = (engine[v] as number) + 1;
  }
  if (depth === 0) return 0;
  const made = valuesByMaker(g.n, values);
  let saved = 0;
  for (let c = 1; c < classes; c++) {
    const waves: number[][] = Array.from({ length: depth + 1 }, () => []);
    for (let v = 0; v < g.n; v++) if (engine[v] === c) waves[level[v] as number]?.push(v);
    const pair = new Pair(g, engine, values, level, made, sizes);
    for (let w = 0; w < depth; w++) saved += pair.divide(waves, w);
    for (let w = depth - 1; w >= 0; w--) saved += pair.divide(waves, w);
  }
  return saved;
}

/** Heads and links of lists of values by the node that makes them. */
export interface Made {
  readonly first: Int32Array;
  readonly next: Int32Array;
}
export function valuesByMaker(n: number, values: Values): Made {
  const first = new Int32Array(n).fill(-1);
  const next = new Int32Array(values.producer.length);
  for (let t = values.producer.length - 1; t >= 0; t--) {
    const p = values.producer[t] as number;
    if (p < 0) continue;
    next[t] = first[p] as number;
    first[p] = t;
  }
  return { first, next };
}

const SOURCE = 0;
const SINK = 1;
/** A node of the pair that has no vertex yet. */
const FREE = -2;

class Pair {
  readonly #g: Dag;
  readonly #engine: Uint8Array;
  readonly #values: Values;
  readonly #level: Int32Array;
  readonly #made: Made;
  readonly #sizes: Sizes;
  readonly #flow = new Flow();
  /** Vertex of each node of the pair at hand; -1 elsewhere. */
  readonly #vertex: Int32Array;
  #budget = BUDGET;

  constructor(g: Dag, engine: Uint8Array, values: Values, level: Int32Array, made: Made, sizes: Sizes) {
    this.#g = g;
    this.#engine = engine;
    this.#values = values;
    this.#level = level;
    this.#made = made;
    this.#sizes = sizes;
    this.#vertex = new Int32Array(g.n).fill(-1);
  }

  /** Divides waves w and w + 1 anew where that saves bytes. */
  divide(waves: number[][], w: number): number {
    const [early, late] = [waves[w] as number[], waves[w + 1] as number[]];
    if (early.length === 0 || late.length === 0 || early.length + late.length > MAX_PAIR) return 0;
    const all = this.#cost(early, w);
    if (all === 0 || this.#budget < early.length + late.length) return 0;
    this.#budget -= early.length + late.length;
    const nodes = [...early, ...late];
    this.#flow.reset();
    this.#bind(nodes, w);
    let before = 0;
    for (const v of nodes) before += this.#place(v, w);
    const after = this.#flow.run(SOURCE, SINK, before);
    let saved = Math.max(0, before - after);
    if (saved > 0) {
      const [first, second]: [number[], number[]] = [[], []];
      for (const v of nodes) (this.#flow.inSource(this.#vertex[v] as number) ? first : second).push(v);
      if (this.#stays(early, first) && this.#stays(late, second)) {
        waves[w] = first;
        waves[w + 1] = second;
        for (const v of first) this.#level[v] = w;
        for (const v of second) this.#level[v] = w + 1;
      } else saved = 0;
    }
    for (const v of nodes) this.#vertex[v] = -1;
    return saved;
  }

  /** Whether a wave that was large enough still is, or has nothing left to count. */
  #stays(before: readonly number[], after: readonly number[]): boolean {
    const now = this.#weigh(after);
    return now === 0 || now >= this.#sizes.minimumSize || this.#weigh(before) < this.#sizes.minimumSize;
  }
  #weigh(wave: readonly number[]): number {
    let total = 0;
    for (const v of wave) total += this.#sizes.size[v] as number;
    return total;
  }

  /** Vertices: what lies outside binds a node to its wave, and with it what it reads there, or what reads it. The others get one of their own. */
  #bind(nodes: readonly number[], w: number): void {
    const flow = this.#flow;
    flow.vertex();
    flow.vertex();
    const vertex = this.#vertex;
    for (const v of nodes) vertex[v] = FREE;
    const stack: number[] = [];
    for (const [side, rows] of [
      [SOURCE, this.#g.predecessors],
      [SINK, this.#g.successors],
    ] as const) {
      for (const v of nodes) {
        if (vertex[v] !== FREE || (side === SOURCE ? this.#mayRise(v, w) : this.#maySink(v, w))) continue;
        vertex[v] = side;
        stack.push(v);
      }
      for (let v = stack.pop(); v !== undefined; v = stack.pop())
        for (let e = rows.starts[v] as number; e < (rows.starts[v + 1] as number); e++) {
          const t = rows.targets[e] as number;
          if (vertex[t] !== FREE) continue;
          vertex[t] = side;
          stack.push(t);
        }
    }
    for (const v of nodes) if (vertex[v] === FREE) vertex[v] = flow.vertex();
  }

  /** Bytes that cross between the two waves though all readers lie in the pair; 0 when what lies outside fixes both ends of each. */
  #cost(early: readonly number[], w: number): number {
    const { starts, targets } = this.#values.readers;
    let total = 0;
    let hope = false;
    for (const v of early)
      for (let t = this.#made.first[v] as number; t >= 0; t = this.#made.next[t] as number) {
        if (this.#reach(v, t, w) !== "later") continue;
        total += this.#values.bytes[t] as number;
        if (hope) continue;
        hope = this.#mayRise(v, w);
        if (hope) continue;
        hope = true;
        for (let e = starts[t] as number; hope && e < (starts[t + 1] as number); e++) {
          const r = targets[e] as number;
          hope = this.#level[r] === w || this.#maySink(r, w);
        }
      }
    return hope ? total : 0;
  }

  /** Whether nothing outside waves w and w + 1 keeps a node of theirs from wave w + 1. */
  #mayRise(v: number, w: number): boolean {
    const { starts, targets } = this.#g.successors;
    const c = this.#engine[v] as number;
    for (let e = starts[v] as number; e < (starts[v + 1] as number); e++) {
      const k = this.#engine[targets[e] as number] as number;
      const l = this.#level[targets[e] as number] as number;
      if (l < w + 1 + (c > k ? 1 : 0) && !(k === c && l === w)) return false;
    }
    return true;
  }
  /** Whether nothing outside the two keeps it from wave w. */
  #maySink(v: number, w: number): boolean {
    const { starts, targets } = this.#g.predecessors;
    const c = this.#engine[v] as number;
    for (let e = starts[v] as number; e < (starts[v + 1] as number); e++) {
      const k = this.#engine[targets[e] as number] as number;
      const l = this.#level[targets[e] as number] as number;
      if (l + (k > c ? 1 : 0) > w && !(k === c && l === w + 1)) return false;
    }
    return true;
  }

  /** Where the readers of value t of node v lie: all in the pair with one in the later wave, all in the earlier, or beyond the pair. */
  #reach(v: number, t: number, w: number): "later" | "earlier" | "beyond" {
    if (this.#values.exported?.[t] === 1) return "beyond";
    const { starts, targets } = this.#values.readers;
    const c = this.#engine[v];
    let later = false;
    for (let e = starts[t] as number; e < (starts[t + 1] as number); e++) {
      const r = targets[e] as number;
      const l = this.#level[r] as number;
      if (this.#engine[r] !== c || l > w + 1) return "beyond";
      if (l === w + 1) later = true;
    }
    return later ? "later" : "earlier";
  }

  /** Edges of one node: the order it keeps, and what its tensors cost. Gives the bytes of those that cross now and need not. */
  #place(v: number, w: number): number {
    const flow = this.#flow;
    const vertex = this.#vertex;
    const own = vertex[v] as number;
    // What a node of the later wave makes stays there, as its readers do.
    if (own === SINK) return 0;
    if (own !== SOURCE) {
      const { starts, targets } = this.#g.successors;
      for (let e = starts[v] as number; e < (starts[v + 1] as number); e++) {
        const reader = vertex[targets[e] as number] as number;
        if (reader > SINK) flow.edge(reader, own, Number.POSITIVE_INFINITY);
      }
    }
    let crossing = 0;
    const { starts, targets } = this.#values.readers;
    for (let t = this.#made.first[v] as number; t >= 0; t = this.#made.next[t] as number) {
      const reach = this.#reach(v, t, w);
      const [begin, end] = [starts[t] as number, starts[t + 1] as number];
      if (reach === "beyond" || begin === end) continue;
      let [bound, free] = [false, 0];
      for (let e = begin; e < end; e++) {
        const reader = vertex[targets[e] as number] as number;
        if (reader === SINK) bound = true;
        else if (reader !== SOURCE) free++;
      }
      // Bound at both ends: it crosses, or does not, whatever is done.
      if (own === SOURCE && (bound || free === 0)) continue;
      const b = this.#values.bytes[t] as number;
      if (reach === "later" && this.#level[v] === w) crossing += b;
      if (bound) {
        flow.edge(own, SINK, b);
        continue;
      }
      // One reader needs no vertex between.
      if (end - begin === 1) {
        flow.edge(own, vertex[targets[begin] as number] as number, b);
        continue;
      }
      const tensor = flow.vertex();
      flow.edge(own, tensor, b);
      for (let e = begin; e < end; e++) {
        const reader = vertex[targets[e] as number] as number;
        if (reader > SINK) flow.edge(tensor, reader, Number.POSITIVE_INFINITY);
      }
    }
    return crossing;
  }
}
