/**
 * Segmentation on typed arrays, independent of the IR. Nodes come in topological order with an engine class each (0 host, 1.. engines).
 *
 * 1. Waves (waves.ts): every node gets a level such that the nodes of one class at one level can run together; heavy tensors first, what
 *    makes and reads a tensor is brought to one level, so that it crosses no border.
 * 2. A piece (a connected part of a wave) with less compute than the floor goes to the host, unless it stands beside a large enough piece
 *    and its move would make more bytes cross. What is left may fit together better, so all is done again, a few times at most.
 * 3. refine.ts moves nodes between neighbouring waves of one engine where a minimum cut says that fewer bytes cross. On small graphs
 *    moves.ts tries clusters further away, last of all.
 * 4. trim.ts gives views at a segment's border to the host where fewer bytes cross then.
 * 5. A wave is a segment. Pieces of one wave that no edge joins share a launch; nothing crosses a border for it.
 * 6. Where times are given: the pieces of a wave that wait for nothing in the host's wave before it become a segment of their own when the
 *    time they can run beside that wave outweighs one more start.
 *
 * The number of engine segments is at most the number of waves, which no order can undercut with one engine class.
 */
import { heaviestFirst, reversed } from "./dag.js";
import { demote, type Floor } from "./demote.js";
import { BYTES_PER_US, CROSSING_US, type SegmentInput } from "./input.js";
import { moveClusters } from "./moves.js";
import { number } from "./number.js";
import { refine } from "./refine.js";
import { trim } from "./trim.js";
import { contract, type Dag, earliest, enginesFirst, latest, type Values } from "./waves.js";

export { edgesOf } from "./dag.js";
export type { Values } from "./waves.js";

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
  const by = (start: Start, floor: Floor): Arrangement => arrange(g, input, values, order, start, floor);
  const first = by("ties", "piece");
  // Where nothing had to be given up, ties have not been beaten.
  const settled = input.n > SMALL || !(first.demoted.includes(1) || first.trimmed.includes(1));
  let all = 0;
  for (let v = 0; v < input.n; v++) if (input.engine[v] !== 0) all += priceOf(input)[v] as number;
  const best = settled ? first : choose([first, ...OTHERS.map(([start, floor]) => by(start, floor))], all);
  if (input.n <= SMALL) moveClusters(g, best.engine, values, best.level, order, input);
  return { ...number(g, best.engine, best.level, best.demoted, input.overlap), trimmed: best.trimmed };
}

/** Where levels start from: ties by bytes, or one end of every window, from which minimum cuts alone go on. */
type Start = "ties" | "earliest" | "latest" | "engines first";
const starts = { earliest, latest, "engines first": enginesFirst } as const;
interface Arrangement {
  readonly engine: Uint8Array;
  readonly level: Int32Array;
  readonly demoted: Uint8Array;
  readonly trimmed: Uint8Array;
  /** Microseconds lost, or else compute nodes, because what an engine takes went to the host. */
  readonly givenUp: number;
  readonly penalty: number;
}

const OTHERS = (["piece", "wave"] as const)
  .flatMap((floor) => (["ties", "earliest", "latest", "engines first"] as const).map((start) => [start, floor] as const))
  .slice(1);

const priceOf = (input: SegmentInput): ArrayLike<number> => input.lossUs ?? input.size;

/** Engines were asked for, so what keeps the most work on them comes first; among what keeps nearly as much, the least penalty wins. */
function choose(all: readonly [Arrangement, ...Arrangement[]], total: number): Arrangement {
  const enough = Math.min(...all.map((a) => a.givenUp)) + NEARLY * total;
  return all.filter((a) => a.givenUp <= enough).reduce((best, a) => (a.penalty < best.penalty ? a : best));
}
/** Share of all work that is worth less than fewer segments and bytes. */
const NEARLY = 0.05;

/** Steps 1 to 4 from one start. */
function arrange(g: Dag, input: SegmentInput, values: Values, order: Int32Array, start: Start, floor: Floor): Arrangement {
  const engine = input.engine.slice();
  const demoted = new Uint8Array(g.n);
  const rounds = g.n > LARGE ? 3 : 8;
  let level: Int32Array = new Int32Array(g.n);
  for (let round = 0, settled = false; round < rounds && !settled; round++) {
    level = start === "ties" ? contract(g, engine, values, order) : starts[start](g, engine);
    settled = !demote(g, input, values, floor, engine, level, demoted);
    // The last round must not spend itself on pieces: what refinement leaves is judged once more.
    if ((settled || round === rounds - 1) && refine(g, engine, values, level, input) > 0)
      settled = !demote(g, input, values, floor, engine, level, demoted);
  }
  if (floor === "wave") while (demote(g, input, values, floor, engine, level, demoted));
  const trimmed = new Uint8Array(g.n);
  trim(g, engine, values, level, (v) => input.size[v] === 0 && input.forced?.[v] !== 1, trimmed);
  let givenUp = 0;
  const price = priceOf(input);
  for (let v = 0; v < g.n; v++) if (demoted[v] === 1 || trimmed[v] === 1) givenUp += price[v] as number;
  return {
    engine,
    level,
    demoted,
    trimmed,
    givenUp,
    penalty: g.n > SMALL ? 0 : penaltyOf(input, values, engine, level) + (input.lossUs === undefined ? 0 : givenUp),
  };
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
    if (crosses) penalty += CROSSING_US + (bytes[t] as number) / BYTES_PER_US;
  }
  return penalty + 20 * waves.size;
}

/** One tensor of weight 1 per node. */
function unitValues(g: Dag): Values {
  const producer = new Int32Array(g.n);
  for (let i = 0; i < g.n; i++) producer[i] = i;
  return { producer, readers: g.successors, bytes: new Float64Array(g.n).fill(1) };
}
