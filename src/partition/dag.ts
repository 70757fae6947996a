/** Directed acyclic graphs as typed arrays: rows of successors, union-find, stable sorting by weight. */

/** Compressed sparse rows: the targets of row i are `targets[starts[i] .. starts[i + 1]]`. */
export interface Edges {
  readonly starts: Int32Array;
  readonly targets: Int32Array;
}

/** Builds rows from parallel lists; targets keep the order of the lists. Linear. */
export function edgesOf(n: number, from: ArrayLike<number>, to: ArrayLike<number>): Edges {
  const starts = new Int32Array(n + 1);
  for (let e = 0; e < from.length; e++) {
    const row = (from[e] as number) + 1;
    starts[row] = (starts[row] as number) + 1;
  }
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

/** The edges the other way round: rows of predecessors. */
export function reversed(n: number, edges: Edges): Edges {
  const { starts, targets } = edges;
  const back = new Int32Array(n + 1);
  for (let e = 0; e < targets.length; e++) {
    const row = (targets[e] as number) + 1;
    back[row] = (back[row] as number) + 1;
  }
  for (let i = 0; i < n; i++) back[i + 1] = (back[i + 1] as number) + (back[i] as number);
  const sources = new Int32Array(targets.length);
  const fill = back.slice(0, n);
  const rows = starts.length - 1;
  for (let v = 0; v < rows; v++) {
    for (let e = starts[v] as number; e < (starts[v + 1] as number); e++) {
      const t = targets[e] as number;
      const at = fill[t] as number;
      sources[at] = v;
      fill[t] = at + 1;
    }
  }
  return { starts: back, targets: sources };
}

/** Union-find with path halving; the larger set's root stays. */
export class Components {
  readonly #parent: Int32Array;
  readonly #size: Int32Array;
  constructor(n: number) {
    this.#parent = new Int32Array(n);
    for (let i = 0; i < n; i++) this.#parent[i] = i;
    this.#size = new Int32Array(n).fill(1);
  }
  find(v: number): number {
    const p = this.#parent;
    let at = v;
    let up = p[at] as number;
    while (up !== at) {
      const over = p[up] as number;
      p[at] = over;
      at = over;
      up = p[at] as number;
    }
    return at;
  }
  /** How many are in the set of v. */
  sizeOf(v: number): number {
    return this.#size[this.find(v)] as number;
  }
  /** The root that stays. */
  unite(a: number, b: number): number {
    const x = this.find(a);
    const y = this.find(b);
    if (x === y) return x;
    const keep = (this.#size[x] as number) >= (this.#size[y] as number);
    const root = keep ? x : y;
    const leaf = keep ? y : x;
    this.#parent[leaf] = root;
    this.#size[root] = (this.#size[root] as number) + (this.#size[leaf] as number);
    return root;
  }
}

/**
 * Indices by weight, heaviest first, equal weights last index first. Weights are compared as float32. Long lists take two radix
 * passes over the bit patterns, which order as the non-negative floats do.
 */
export function heaviestFirst(weights: Float64Array): Int32Array {
  const n = weights.length;
  // The counting tables of a radix pass cost more than sorting a short list.
  if (n < 10_000) {
    const w = new Float32Array(weights);
    return Int32Array.from(weights.keys()).sort((a, b) => (w[b] as number) - (w[a] as number) || b - a);
  }
  const keys = new Uint32Array(new Float32Array(weights).buffer);
  let from = new Int32Array(n);
  let to = new Int32Array(n);
  for (let i = 0; i < n; i++) from[i] = n - 1 - i;
  for (const shift of [0, 16]) {
    const counts = new Int32Array(65537);
    for (let i = 0; i < n; i++) {
      const k = 65535 - (((keys[i] as number) >>> shift) & 65535);
      counts[k + 1] = (counts[k + 1] as number) + 1;
    }
    for (let k = 0; k < 65536; k++) counts[k + 1] = (counts[k + 1] as number) + (counts[k] as number);
    for (let i = 0; i < n; i++) {
      const x = from[i] as number;
      const k = 65535 - (((keys[x] as number) >>> shift) & 65535);
      const at = counts[k] as number;
      to[at] = x;
      counts[k] = at + 1;
    }
    [from, to] = [to, from];
  }
  return from;
}
