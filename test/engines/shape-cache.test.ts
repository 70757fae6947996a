/** The cache of engines by shape: TF-TRT's documented cases, builds in the background and on the host, evictions, failures, events. */
import { channel } from "node:diagnostics_channel";
import { afterEach, describe, expect, it } from "vitest";
import type { CacheEvent } from "../../src/channels.js";
import { addCounters, noCounters, type OnMiss, ShapeCache, type ShapeRange, textOf } from "../../src/engines/shape-cache.js";

/** x [1..batch, width]: TF-TRT's engine for a batch. */
const upTo = (batch: number, width = 3): ShapeRange => ({ x: { min: [1, width], opt: [batch, width], max: [batch, width] } });
interface Fake {
  readonly text: string;
  disposed: boolean;
  running: number;
}
function cacheOf({ capacity = 2, onMiss = "build" as OnMiss, fail = [] as string[], slow = [] as string[], refuse = true } = {}) {
  const built: Fake[] = [];
  const gates = new Map<string, () => void>();
  const told: string[] = [];
  const cache = new ShapeCache<Fake>({
    segment: "cuda_0",
    content: "0123456789abcdef0123",
    capacity,
    onMiss,
    build: async (range) => {
      const text = textOf(range);
      if (slow.includes(text)) await new Promise<void>((go) => gates.set(text, go));
      if (fail.includes(text)) throw new Error(`no engine for ${text}`);
      const made: Fake = { text, disposed: false, running: 0 };
      built.push(made);
      return made;
    },
    dispose: async (e) => {
      if (e.running > 0) throw new Error("disposed while it ran");
      e.disposed = true;
    },
    refused: (_, range) => {
      told.push(textOf(range));
      return refuse;
    },
  });
  /** Where a run went. */
  const run = (
    batch: number,
    width = 3,
    wanted: ShapeRange | undefined = upTo(batch, width),
    work?: () => Promise<void>,
  ): Promise<string> =>
    cache.serve<string>(
      { x: [batch, width] },
      {
        wanted,
        work: async (e) => {
          if (e.disposed) throw new Error("a disposed engine ran");
          e.running++;
          await work?.();
          e.running--;
          return e.text;
        },
        host: async () => "host",
      },
    );
  return { cache, built, run, gates, told };
}
const turn = (): Promise<void> => new Promise((go) => setTimeout(go, 5));

describe("TF-TRT's documented cases", () => {
  it("no engine: one is built for the shapes, and serves them", async () => {
    const { cache, run } = cacheOf();
    expect(await run(4)).toBe("x[1..4,3]");
    expect(cache.counters).toEqual({ hits: 0, misses: 1, builds: 1, evictions: 0, fallbacks: 0 });
  });
  it("the same shapes again: the engine that is there", async () => {
    const { cache, run } = cacheOf();
    for (let i = 0; i < 3; i++) expect(await run(4)).toBe("x[1..4,3]");
    expect(cache.counters).toMatchObject({ hits: 2, builds: 1 });
  });
  it("a smaller batch: the engine of the larger one", async () => {
    const { cache, run } = cacheOf();
    await run(8);
    expect(await run(3)).toBe("x[1..8,3]");
    expect(cache.counters).toMatchObject({ hits: 1, builds: 1 });
  });
  it("several engines fit: the smallest batch among them", async () => {
    const { cache, run } = cacheOf({ capacity: 3 });
    for (const range of [upTo(16), upTo(4), upTo(8)]) await cache.ensure(range);
    expect(await run(3)).toBe("x[1..4,3]");
    expect(await run(5)).toBe("x[1..8,3]");
    expect(await run(16)).toBe("x[1..16,3]");
  });
  it("a batch above all engines: a new one", async () => {
    const { cache, run } = cacheOf();
    await run(4);
    expect(await run(5)).toBe("x[1..5,3]");
    expect(cache.counters).toMatchObject({ misses: 2, builds: 2, evictions: 0 });
  });
  it("another dim differs: a new one, whatever the batch", async () => {
    const { run } = cacheOf();
    await run(8, 3);
    expect(await run(2, 5)).toBe("x[1..2,5]");
  });
  it("another rank, and an input that is not known, are served by none", async () => {
    const { cache, run } = cacheOf();
    await run(4);
    expect(await cache.has({ x: [4] })).toBe(false);
    expect(await cache.has({ y: [4, 3] })).toBe(false);
  });
  it("it is full: the least recently used goes, not the oldest", async () => {
    const { cache, built, run } = cacheOf({ capacity: 2 });
    await run(2, 3);
    await run(2, 5);
    await run(2, 3);
    await run(2, 7);
    expect(cache.ranges.map(textOf)).toEqual(["x[1..2,3]", "x[1..2,7]"]);
    await turn();
    expect(built.map((e) => e.disposed)).toEqual([false, true, false]);
    expect(cache.counters.evictions).toBe(1);
  });
  it("maximum_cached_engines 1: every change of shapes that does not fit builds", async () => {
    const { cache, run } = cacheOf({ capacity: 1 });
    for (const width of [3, 5, 3, 5]) await run(2, width);
    expect(cache.counters).toMatchObject({ builds: 4, evictions: 3, hits: 0 });
    expect(cache.ranges).toHaveLength(1);
  });
  it("it may not be built: the original operators run", async () => {
    const { cache, run } = cacheOf();
    await cache.ensure(upTo(2));
    expect(await cache.serve({ x: [9, 3] }, { wanted: undefined, work: async (e) => e.text, host: async () => "host" })).toBe("host");
    expect(await run(1)).toBe("x[1..2,3]");
    expect(cache.counters).toMatchObject({ hits: 1, misses: 1, builds: 1, fallbacks: 1 });
  });
  it("it cannot be built: the original operators run, that is told once, and it is not tried again", async () => {
    const { cache, run, told } = cacheOf({ fail: ["x[1..4,3]"] });
    expect([await run(4), await run(4), await run(2)]).toEqual(["host", "host", "x[1..2,3]"]);
    expect(told).toEqual(["x[1..4,3]"]);
    expect(cache.counters).toMatchObject({ builds: 2, fallbacks: 2 });
  });
  it("build before deployment: engines for the shapes given, in order, counted as builds", async () => {
    const { cache, run } = cacheOf({ capacity: 4 });
    for (const batch of [1, 4]) await cache.ensure(upTo(batch));
    await cache.ensure(upTo(4));
    expect(cache.counters).toMatchObject({ builds: 2, hits: 0, misses: 0 });
    expect(await run(2)).toBe("x[1..4,3]");
  });
});

describe("what a miss does", () => {
  it("background: the host runs until the engine is built, and one build is under way", async () => {
    const { cache, run, gates, built } = cacheOf({ onMiss: "background", slow: ["x[1..4,3]"] });
    expect(await Promise.all([run(4), run(4), run(3)])).toEqual(["host", "host", "host"]);
    expect(cache.counters).toEqual({ hits: 0, misses: 3, builds: 1, evictions: 0, fallbacks: 3 });
    gates.get("x[1..4,3]")?.();
    await turn();
    expect(built).toHaveLength(1);
    expect(await run(3)).toBe("x[1..4,3]");
    expect(cache.counters.hits).toBe(1);
  });
  it("background: a build that fails leaves the host", async () => {
    const { run, told } = cacheOf({ onMiss: "background", fail: ["x[1..4,3]"] });
    expect(await run(4)).toBe("host");
    await turn();
    expect(await run(4)).toBe("host");
    expect(told).toHaveLength(1);
  });
  it("host: nothing is ever built", async () => {
    const { cache, run } = cacheOf({ onMiss: "host" });
    expect(await run(4)).toBe("host");
    expect(cache.counters).toMatchObject({ builds: 0, fallbacks: 1 });
  });
  it("build: calls at once share one build; a failure that nobody takes over is heard by all of them", async () => {
    const { run, gates, cache } = cacheOf({ slow: ["x[1..4,3]"] });
    const all = [run(4), run(4), run(2)];
    await turn();
    gates.get("x[1..4,3]")?.();
    expect(await Promise.all(all)).toEqual(["x[1..4,3]", "x[1..4,3]", "x[1..4,3]"]);
    expect(cache.counters).toMatchObject({ builds: 1, misses: 1, hits: 2 });
    const failing = cacheOf({ fail: ["x[1..4,3]"], refuse: false });
    const settled = await Promise.allSettled([failing.run(4), failing.run(4)]);
    expect(settled.map((s) => (s.status === "rejected" ? String(s.reason) : "ran"))).toEqual(
      Array(2).fill("Error: no engine for x[1..4,3]"),
    );
    // It is tried again.
    await expect(failing.run(4)).rejects.toThrow("no engine");
    expect(failing.cache.counters.builds).toBe(2);
  });
});

describe("engines that run", () => {
  it("are not disposed by an eviction before they are done, nor by disposing the cache", async () => {
    const { cache, built, run } = cacheOf({ capacity: 1 });
    let go = (): void => {};
    const gate = new Promise<void>((done) => {
      go = done;
    });
    const first = run(2, 3, upTo(2, 3), () => gate);
    await turn();
    await run(2, 5);
    expect(built.map((e) => e.disposed)).toEqual([false, false]);
    go();
    expect(await first).toBe("x[1..2,3]");
    await turn();
    expect(built.map((e) => e.disposed)).toEqual([true, false]);
    await cache.dispose();
    expect(built.every((e) => e.disposed)).toBe(true);
  });
  it("more shapes at once than are kept: every run ends on its own engine", async () => {
    const { cache, built, run } = cacheOf({ capacity: 1 });
    const widths = [3, 5, 7, 3, 5, 7, 3, 5, 7];
    expect(await Promise.all(widths.map((w) => run(2, w)))).toEqual(widths.map((w) => `x[1..2,${w}]`));
    await turn();
    expect(built.filter((e) => !e.disposed)).toHaveLength(1);
    expect(cache.ranges).toHaveLength(1);
  });
  it("an engine put there counts as no build, and is evicted like any other", async () => {
    const { cache, run, built } = cacheOf({ capacity: 1 });
    const given: Fake = { text: "given", disposed: false, running: 0 };
    cache.put(upTo(8), given);
    expect(await run(2)).toBe("given");
    expect(cache.counters).toMatchObject({ hits: 1, builds: 0 });
    await run(2, 5);
    await turn();
    expect([given.disposed, built.length]).toEqual([true, 1]);
  });
});

describe("events", () => {
  const heard: CacheEvent[] = [];
  const listen = (e: unknown): void => void heard.push(e as CacheEvent);
  afterEach(() => {
    channel("partita:cache").unsubscribe(listen);
    heard.length = 0;
  });
  it("tell of every hit, miss, build, eviction and fallback, with segment, key and dims", async () => {
    channel("partita:cache").subscribe(listen);
    const { run } = cacheOf({ capacity: 1, fail: ["x[1..9,3]"] });
    await run(2);
    await run(1);
    await run(2, 5);
    await run(9);
    expect(heard.map((e) => e.event)).toEqual([
      "miss",
      "build",
      "built",
      "hit",
      "miss",
      "build",
      "evict",
      "built",
      "miss",
      "build",
      "evict",
      "fallback",
    ]);
    expect(heard[0]).toMatchObject({ segment: "cuda_0", key: "0123456789abcdef x[1..2,3]", dims: { x: [2, 3] } });
    expect(heard[2]?.ms).toBeGreaterThanOrEqual(0);
  });
  it("counters of several caches add up", () => {
    const one = { hits: 1, misses: 2, builds: 3, evictions: 4, fallbacks: 5 };
    expect(addCounters(addCounters(noCounters, one), one)).toEqual({ hits: 2, misses: 4, builds: 6, evictions: 8, fallbacks: 10 });
  });
});
