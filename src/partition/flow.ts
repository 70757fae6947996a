/** Maximum flow (Dinic) on small graphs; one instance is reused for many. Capacities are non-negative numbers, `Infinity` among them. */

export class Flow {
  #head: number[] = [];
  #next: number[] = [];
  #to: number[] = [];
  #cap: number[] = [];
  #level: number[] = [];
  #at: number[] = [];
  readonly #queue: number[] = [];

  /** Starts a graph without vertices. */
  reset(): void {
    this.#head.length = 0;
    this.#next.length = 0;
    this.#to.length = 0;
    this.#cap.length = 0;
  }
  vertex(): number {
    return this.#head.push(-1) - 1;
  }
  edge(from: number, to: number, capacity: number): void {
    this.#half(from, to, capacity);
    this.#half(to, from, 0);
  }
  #half(from: number, to: number, capacity: number): void {
    this.#next.push(this.#head[from] as number);
    this.#head[from] = this.#to.push(to) - 1;
    this.#cap.push(capacity);
  }

  /** Saturates the graph; stops early once the flow reaches `enough`. Afterwards `inSource` tells the sides of the least cut. */
  run(source: number, sink: number, enough: number): number {
    let total = 0;
    while (total < enough && this.#search(source, sink)) {
      this.#at = this.#head.slice();
      for (let pushed = this.#push(source, sink); pushed > 0; pushed = this.#push(source, sink)) total += pushed;
    }
    return total;
  }
  /** Whether a vertex is on the source's side, after `run` ended by itself. */
  inSource(v: number): boolean {
    return (this.#level[v] as number) >= 0;
  }

  #search(source: number, sink: number): boolean {
    const level = this.#level;
    level.length = this.#head.length;
    level.fill(-1);
    level[source] = 0;
    const queue = this.#queue;
    queue.length = 0;
    queue.push(source);
    for (let i = 0; i < queue.length; i++) {
      const v = queue[i] as number;
      for (let e = this.#head[v] as number; e >= 0; e = this.#next[e] as number) {
        const t = this.#to[e] as number;
        if ((this.#cap[e] as number) <= 0 || (level[t] as number) >= 0) continue;
        level[t] = (level[v] as number) + 1;
        queue.push(t);
      }
    }
    return (level[sink] as number) >= 0;
  }

  /** One augmenting path of the level graph, depth first without recursion; 0 when there is none. */
  #push(source: number, sink: number): number {
    const path: number[] = [];
    let v = source;
    for (;;) {
      if (v === sink) {
        let least = Number.POSITIVE_INFINITY;
        for (const e of path) least = Math.min(least, this.#cap[e] as number);
        for (const e of path) {
          this.#cap[e] = (this.#cap[e] as number) - least;
          this.#cap[e ^ 1] = (this.#cap[e ^ 1] as number) + least;
        }
        return least;
      }
      let e = this.#at[v] as number;
      while (e >= 0 && !((this.#cap[e] as number) > 0 && this.#level[this.#to[e] as number] === (this.#level[v] as number) + 1))
        e = this.#next[e] as number;
      this.#at[v] = e;
      if (e >= 0) {
        path.push(e);
        v = this.#to[e] as number;
        continue;
      }
      const back = path.pop();
      if (back === undefined) return 0;
      this.#level[v] = -1;
      v = this.#to[back ^ 1] as number;
    }
  }
}
