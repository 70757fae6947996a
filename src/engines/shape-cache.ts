/**
 * Built engines by the shapes that they serve, the least recently used going first. An engine serves what lies in its range of dims; among several the
 * smallest is taken, which for ranges "batch 1 to n" is TF-TRT's rule: the smallest cached batch that fits, all other dims equal. What no engine
 * serves is built, or runs on the host, or on the host until it is built. One build a range at a time; an engine that runs is never disposed.
 */
import { performance } from "node:perf_hooks";
import { type CacheEvent, publishCache } from "../channels.js";

type Dims = readonly number[];
/** Dims by input. */
export type Shapes = Readonly<Record<string, Dims>>;
/** Smallest dims, those to be fastest at, largest, by input. */
export type ShapeRange = Readonly<Record<string, { readonly min: Dims; readonly opt: Dims; readonly max: Dims }>>;

export interface CacheCounters {
  /** Runs that a built engine served. */
  readonly hits: number;
  /** Runs for which there was none. */
  readonly misses: number;
  readonly builds: number;
  readonly evictions: number;
  /** Runs on the host in place of an engine. */
  readonly fallbacks: number;
}
export const noCounters: CacheCounters = { hits: 0, misses: 0, builds: 0, evictions: 0, fallbacks: 0 };
export const addCounters = (a: CacheCounters, b: CacheCounters): CacheCounters => ({
  hits: a.hits + b.hits,
  misses: a.misses + b.misses,
  builds: a.builds + b.builds,
  evictions: a.evictions + b.evictions,
  fallbacks: a.fallbacks + b.fallbacks,
});

/** What a run does that no engine serves: waits for one, runs on the host while one is built, or runs on the host and none is built. */
export type OnMiss = "build" | "background" | "host";

export interface ShapeCacheOptions<E> {
  /** For events: the segment, and the hash of its content. */
  readonly segment: string;
  readonly content: string;
  readonly capacity: number;
  readonly onMiss: OnMiss;
  readonly build: (range: ShapeRange) => Promise<E>;
  readonly dispose: (engine: E) => Promise<void>;
  /** Told once of a range that cannot be built; true: the host runs its shapes from then on, otherwise those who wait hear the error. */
  readonly refused?: ((error: unknown, range: ShapeRange) => boolean) | undefined;
}

interface Entry<E> {
  readonly range: ShapeRange;
  readonly engine: Promise<E>;
  ready: boolean;
  used: number;
  /** Runs that it serves, or that wait for it. */
  active: number;
  evicted: boolean;
}

export class ShapeCache<E> {
  readonly #options: ShapeCacheOptions<E>;
  #entries: Entry<E>[] = [];
  readonly #refused = new Set<string>();
  readonly #retiring = new Set<Promise<void>>();
  readonly #counters = { hits: 0, misses: 0, builds: 0, evictions: 0, fallbacks: 0 };
  #clock = 0;

  constructor(options: ShapeCacheOptions<E>) {
    this.#options = options;
  }

  get counters(): CacheCounters {
    return { ...this.#counters };
  }
  /** Of the engines that are there or being built, the oldest first. */
  get ranges(): readonly ShapeRange[] {
    return this.#entries.map((e) => e.range);
  }
  /** The newest engine. */
  newest(): Promise<E> | undefined {
    return this.#entries.at(-1)?.engine;
  }
  all(): readonly Promise<E>[] {
    return this.#entries.map((e) => e.engine);
  }

  /**
   * Runs `work` on the engine for these shapes, or `host` where none serves them; undefined: shapes that no engine can serve. `wanted` is the range to build for on a miss; undefined builds
   * none. Throws what building throws, where nobody refuses it, and what `work` and `host` throw.
   */
  async serve<R>(
    given: Shapes | undefined,
    how: {
      readonly wanted: ShapeRange | undefined;
      readonly work: (engine: E, range: ShapeRange) => Promise<R>;
      readonly host: () => Promise<R>;
    },
  ): Promise<R> {
    const { onMiss } = this.#options;
    const shapes = given ?? {};
    const found = given === undefined ? undefined : this.#find(shapes);
    if (found?.ready === true) {
      this.#counters.hits++;
      this.#tell("hit", found.range, shapes);
      return await this.#use(found, how.work);
    }
    const { wanted } = how;
    // Who waits for a build that another run began is served by it.
    if (found !== undefined && onMiss === "build") {
      this.#counters.hits++;
      this.#tell("hit", found.range, shapes);
    } else {
      this.#counters.misses++;
      this.#tell("miss", found?.range ?? wanted, shapes);
    }
    const may = wanted !== undefined && onMiss !== "host" && !this.#refused.has(textOf(wanted));
    const entry = found ?? (may ? this.#add(wanted, shapes) : undefined);
    if (entry !== undefined && onMiss === "build") {
      const failed = Symbol("failed");
      const result = await this.#use(entry, how.work, failed);
      if (result !== failed) return result as R;
    }
    this.#counters.fallbacks++;
    this.#tell("fallback", entry?.range ?? wanted, shapes);
    return await how.host();
  }

  /** Builds an engine for a range, unless there is one for exactly that. Throws what building throws. */
  async ensure(range: ShapeRange): Promise<void> {
    const text = textOf(range);
    const entry = this.#entries.find((e) => textOf(e.range) === text) ?? this.#add(range, largest(range));
    await entry.engine;
  }
  /** Whether an engine serves these shapes, built or being built; waits for it. */
  async has(shapes: Shapes): Promise<boolean> {
    const found = this.#find(shapes);
    await found?.engine;
    return found !== undefined;
  }
  /** Takes an engine that was built elsewhere: no build is counted. */
  put(range: ShapeRange, engine: E): void {
    this.#insert({ range, engine: Promise.resolve(engine), ready: true, used: ++this.#clock, active: 0, evicted: false });
  }

  /** Waits for builds under way and disposes all. */
  async dispose(): Promise<void> {
    for (const e of this.#entries.splice(0)) {
      e.evicted = true;
      this.#retire(e);
    }
    await Promise.all(this.#retiring);
  }

  #find(shapes: Shapes): Entry<E> | undefined {
    let best: Entry<E> | undefined;
    for (const e of this.#entries) if (holds(e.range, shapes) && (best === undefined || sizeOf(e.range) < sizeOf(best.range))) best = e;
    return best;
  }

  #add(range: ShapeRange, shapes: Shapes): Entry<E> {
    this.#counters.builds++;
    this.#tell("build", range, shapes);
    const start = performance.now();
    const engine = this.#options.build(range);
    const entry: Entry<E> = { range, engine, ready: false, used: ++this.#clock, active: 0, evicted: false };
    engine.then(
      () => {
        entry.ready = true;
        this.#tell("built", range, shapes, performance.now() - start);
      },
      (error) => {
        // One that cannot be built serves nobody.
        this.#entries = this.#entries.filter((e) => e !== entry);
        if (this.#options.refused?.(error, range) === true) this.#refused.add(textOf(range));
      },
    );
    this.#insert(entry);
    return entry;
  }
  #insert(entry: Entry<E>): void {
    this.#entries.push(entry);
    while (this.#entries.length > this.#options.capacity) {
      const oldest = this.#entries.filter((e) => e !== entry).reduce((a, b) => (b.used < a.used ? b : a));
      this.#entries = this.#entries.filter((e) => e !== oldest);
      this.#counters.evictions++;
      this.#tell("evict", oldest.range, largest(oldest.range));
      oldest.evicted = true;
      this.#retire(oldest);
    }
  }

  /** With `failed`, that comes back where the engine cannot be built and the host takes over. */
  async #use<R>(entry: Entry<E>, work: (engine: E, range: ShapeRange) => Promise<R>, failed: symbol): Promise<R | symbol>;
  async #use<R>(entry: Entry<E>, work: (engine: E, range: ShapeRange) => Promise<R>): Promise<R>;
  async #use<R>(entry: Entry<E>, work: (engine: E, range: ShapeRange) => Promise<R>, failed?: symbol): Promise<R | symbol> {
    entry.used = ++this.#clock;
    entry.active++;
    try {
      let engine: E;
      try {
        engine = await entry.engine;
      } catch (error) {
        if (failed !== undefined && this.#refused.has(textOf(entry.range))) return failed;
        throw error;
      }
      return await work(engine, entry.range);
    } finally {
      entry.active--;
      this.#retire(entry);
    }
  }

  /** Releases an engine that has gone, once no run is on it. */
  #retire(entry: Entry<E>): void {
    if (!entry.evicted || entry.active > 0) return;
    entry.evicted = false;
    // One that was never built has nothing to release.
    const gone = entry.engine.then((e) => this.#options.dispose(e)).catch(() => undefined);
    this.#retiring.add(gone);
    void gone.then(() => this.#retiring.delete(gone));
  }

  #tell(event: CacheEvent["event"], range: ShapeRange | undefined, dims: Shapes, ms?: number): void {
    const { segment, content } = this.#options;
    const key = `${content.slice(0, 16)} ${range === undefined ? "" : textOf(range)}`.trim();
    publishCache(() => ({ event, segment, key, dims, ...(ms === undefined ? {} : { ms }) }));
  }
}

const holds = (range: ShapeRange, shapes: Shapes): boolean =>
  Object.entries(shapes).every(([name, dims]) => {
    const r = range[name];
    return r?.max.length === dims.length && dims.every((d, i) => (r.min[i] ?? 0) <= d && d <= (r.max[i] ?? 0));
  });
/** Elements at the largest dims: of engines that fit, the one that wastes least. */
const sizeOf = (range: ShapeRange): number => Object.values(range).reduce((sum, s) => sum + s.max.reduce((a, d) => a * d, 1), 0);
const largest = (range: ShapeRange): Shapes => Object.fromEntries(Object.entries(range).map(([name, { max }]) => [name, max]));
/** `x[1..8,3]`. */
export const textOf = (range: ShapeRange): string =>
  Object.entries(range)
    .map(([name, { min, max }]) => `${name}[${max.map((d, i) => (min[i] === d ? d : `${min[i]}..${d}`)).join()}]`)
    .join(" ");
