/**
 * Gives views at the border of an engine segment to the host where fewer bytes cross then: a Reshape whose operand the host reads anyway, a
 * Slice of what the host made. Only nodes that count nothing towards the floor move, and only into host waves that are there already, so
 * neither the work covered nor the number of segments changes.
 */
import { type Edges, reversed } from "./dag.js";
import type { Dag, Values } from "./waves.js";

/** Changes `engine` and `level` in place and marks what moved in `trimmed`; `may` says which nodes can. */
export function trim(
  g: Dag,
  engine: Uint8Array,
  values: Values,
  level: Int32Array,
  may: (v: number) => boolean,
  trimmed: Uint8Array,
): void {
  const candidates: number[] = [];
  for (let v = 0; v < g.n; v++) if (engine[v] !== 0 && may(v)) candidates.push(v);
  if (candidates.length === 0) return;
  const border = new Border(g, engine, values);
  // Chains of views leave from their end, and enter from their start.
  for (const toEnd of [true, false]) {
    for (const v of toEnd ? [...candidates].reverse() : candidates) {
      if (engine[v] === 0) continue;
      // Beside the first of its readers, or the last of what it reads.
      const place = toEnd ? hostLevel(g.successors, engine, level, v, Math.min) : hostLevel(g.predecessors, engine, level, v, Math.max);
      if (place < 0) continue;
      const own = engine[v] as number;
      const before = border.bytes(v);
      engine[v] = 0;
      if (border.bytes(v) < before) {
        level[v] = place;
        trimmed[v] = 1;
      } else engine[v] = own;
    }
  }
}

/** The level picked among a node's neighbours in these rows, if there are any and all are on the host; -1 otherwise. */
function hostLevel(
  { starts, targets }: Edges,
  engine: Uint8Array,
  level: Int32Array,
  v: number,
  pick: (a: number, b: number) => number,
): number {
  let found = -1;
  for (let e = starts[v] as number; e < (starts[v + 1] as number); e++) {
    const t = targets[e] as number;
    if (engine[t] !== 0) return -1;
    found = found < 0 ? (level[t] as number) : pick(found, level[t] as number);
  }
  return found;
}

/** Bytes that cross between host and engines for what one node reads and makes. */
class Border {
  readonly #engine: Uint8Array;
  readonly #values: Values;
  readonly #read: { readonly starts: Int32Array; readonly targets: Int32Array };
  readonly #made: { readonly starts: Int32Array; readonly targets: Int32Array };

  constructor(g: Dag, engine: Uint8Array, values: Values) {
    this.#engine = engine;
    this.#values = values;
    this.#read = reversed(g.n, values.readers);
    const count = values.producer.length;
    const starts = new Int32Array(count + 1);
    const makers: number[] = [];
    for (let t = 0; t < count; t++) {
      if ((values.producer[t] as number) >= 0) makers.push(values.producer[t] as number);
      starts[t + 1] = makers.length;
    }
    this.#made = reversed(g.n, { starts, targets: Int32Array.from(makers) });
  }

  bytes(v: number): number {
    let total = 0;
    for (const rows of [this.#read, this.#made])
      for (let e = rows.starts[v] as number; e < (rows.starts[v + 1] as number); e++) total += this.#crossing(rows.targets[e] as number);
    return total;
  }
  #crossing(t: number): number {
    const { producer, readers, bytes, exported } = this.#values;
    const p = producer[t] as number;
    const onHost = p < 0 || this.#engine[p] === 0;
    // What enters the graph costs its way to the device once; what leaves it, its way back.
    let crosses = !onHost && exported?.[t] === 1;
    for (let e = readers.starts[t] as number; !crosses && e < (readers.starts[t + 1] as number); e++)
      crosses = (this.#engine[readers.targets[e] as number] === 0) !== onHost;
    return crosses ? (bytes[t] as number) : 0;
  }
}
