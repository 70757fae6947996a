/** Maximum flow (Dinic) on small graphs; one instance is reused for many. Capacities are non-negative numbers, `Infinity` among them. */

export class Flow {
  #vertices = 0;
  #edges = 0;
  /** First edge of a vertex, -1 for none; edges e and e ^ 1 are each other's reverse. */
  #head = new Int32Array(1 << 10);
  #level = new Int32Array(1 << 10);
  #at = new Int32Array(1 << 10);
  #queue = new Int32Array(1 << 10);
  #next = new Int32Array(1 << 12);
  #to = new Int32Array(1 << 12);
  #cap = new Float64Array(1 << 12);

  /** Starts a graph without vertices. */
  reset(): void {
    this.#vertices = 0;
    this.#edges = 0;
  }
  vertex(): number {
    if (this.#vertices === this.#head.length) {
      this.#head = grown(this.#head);
      this.#level = grown(this.#level);
      this.#at = grown(this.#at);
      this.#queue = grown(this.#queue);
    }
    this.#head[this.#vertices] = -1;
    return this.#vertices++;
  }
  edge(from: number, to: number, capacity: number): void {
    if (this.#edges === this.#to.length) {
      this.#next = grown(this.#next);
      this.#to = grown(this.#to);
      const cap = new Float64Array(this.#cap.length * 2);
      cap.set(this.#cap);
      this.#cap = cap;
    }
    this.#half(from, to, capacity);
    this.#half(to, from, 0);
  }
  #half(from: number, to: number, capacity: number): void {
    const e = this.#edges++;
    this.#next[e] = this.#head[from] as number;
    this.#head[from] = e;
    this.#to[e] = to;
    this.#cap[e] = capacity;
  }

  /** Saturates the graph; stops early once the flow reaches `enough`. Afterwards `inSource` tells the sides of the least cut. */
  run(source: number, sink: number, enough: number): number {
    let total = 0;
    while (total < enough && this.#search(source, sink)) total += this.#block(source, sink);
    return total;
  }
  /** Whether a vertex is on the source's side, after `run` ended by itself. */
  inSource(v: number): boolean {
    return (this.#level[v] as number) >= 0;
  }

  #search(source: number, sink: number): boolean {
    const [level, queue, next, to, cap, head] = [this.#level, this.#queue, this.#next, this.#to, this.#cap, this.#head];
    level.fill(-1, 0, this.#vertices);
    level[source] = 0;
    queue[0] = source;
    for (let i = 0, filled = 1; i < filled; i++) {
      const v = queue[i] as number;
      const deeper = (level[v] as number) + 1;
      for (let e = head[v] as number; e >= 0; e = next[e] as number) {
        const t = to[e] as number;
        if ((cap[e] as number) <= 0 || (level[t] as number) >= 0) continue;
        level[t] = deeper;
        queue[filled++] = t;
      }
    }
    return (level[sink] as number) >= 0;
  }

  /** A blocking flow of the level graph: depth first without recursion; after each path it goes on where that one is saturated. */
  #block(source: number, sink: number): number {
    const [level, at, next, to, cap] = [this.#level, this.#at, this.#next, this.#to, this.#cap];
    at.set(this.#head.subarray(0, this.#vertices));
    // The search is over: its queue serves as the path, which visits each vertex at most once.
    const path = this.#queue;
    let [v, depth, total] = [source, 0, 0];
    for (;;) {
      if (v === sink) {
        let least = Number.POSITIVE_INFINITY;
        for (let i = 0; i < depth; i++) least = Math.min(least, cap[path[i] as number] as number);
        // Only an infeasible start has such a path; no cut is finite then.
        if (least === Number.POSITIVE_INFINITY) return least;
        let full = depth;
        for (let i = depth - 1; i >= 0; i--) {
          const e = path[i] as number;
          cap[e] = (cap[e] as number) - least;
          cap[e ^ 1] = (cap[e ^ 1] as number) + least;
          if (cap[e] === 0) full = i;
        }
        total += least;
        depth = full;
        v = to[(path[full] as number) ^ 1] as number;
      }
      const wanted = (level[v] as number) + 1;
      let e = at[v] as number;
      while (e >= 0 && !((cap[e] as number) > 0 && level[to[e] as number] === wanted)) e = next[e] as number;
      at[v] = e;
      if (e >= 0) {
        path[depth++] = e;
        v = to[e] as number;
      } else if (depth === 0) return total;
      else {
        level[v] = -1;
        v = to[(path[--depth] as number) ^ 1] as number;
      }
    }
  }
}

function grown(a: Int32Array<ArrayBuffer>): Int32Array<ArrayBuffer> {
  const twice = new Int32Array(a.length * 2);
  twice.set(a);
  return twice;
}
