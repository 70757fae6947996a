/**
 * Concurrent callers of a session in a process of its own: random shapes, random cancellations and deadlines, every answer compared with its formula.
 * argv: how many runs, how many callers, "joined" or "single". As many runs again come first, until code, heap and allocator have settled. Prints one
 * line of JSON.
 */
import { monitorEventLoopDelay, performance } from "node:perf_hooks";
import { compile, PartitaError, type Session, Tensor } from "../../src/index.js";
import { parse } from "../../src/ir/parse.js";

const [runs, callers, mode] = [Number(process.argv[2]), Number(process.argv[3]), process.argv[4]];

/** y = x k + 1 and its sums by row: an item's result depends on all that is its own, and on nothing else. Whole numbers, so that sums are exact. */
const MODEL = `graph "soak" opset {"": 18} (%x: float32[N, M], %k: float32[N, 1]) -> (%y, %s) {
  const %one = float32[1] [1.0]
  const %axes = int64[1] [1]
  %p = Mul(%x, %k)
  %y = Add(%p, %one)
  %s = ReduceSum(%y, %axes)
}`;

/** Mulberry32. */
function random(seed: number): () => number {
  let a = seed;
  return () => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
const counts = { right: 0, wrong: 0, cancelled: 0, expired: 0, failed: [] as string[] };

async function one(session: Session, next: () => number): Promise<void> {
  const whole = (most: number): number => Math.floor(next() * most);
  // Few widths, so that some runs can be joined, and a large one now and then that does not go packed.
  const [n, m] = [1 + whole(8), next() < 0.002 ? 4096 : 1 + whole(6) ** 2];
  const x = Float32Array.from({ length: n * m }, () => whole(16));
  const k = Float32Array.from({ length: n }, () => whole(8));
  const feeds = { x: new Tensor("float32", x, [n, m]), k: new Tensor("float32", k, [n, 1]) };
  const fate = next();
  const controller = fate < 0.15 ? new AbortController() : undefined;
  if (controller !== undefined) {
    const stop = (): void => controller.abort();
    if (fate < 0.05) setImmediate(stop);
    else setTimeout(stop, whole(4));
  }
  const deadlineMs = fate > 0.98 ? 1 : undefined;
  const only = fate > 0.5 && fate < 0.6;
  try {
    const results = await session.run(feeds, { signal: controller?.signal, deadlineMs, ...(only ? { outputs: ["s"] } : {}) });
    const { y, s } = results as { readonly y?: Tensor<"float32">; readonly s: Tensor<"float32"> };
    let sound = s.dims.join() === `${n},1` && Object.keys(results).length === (only ? 1 : 2);
    for (let r = 0; r < n && sound; r++) {
      let sum = 0;
      for (let c = 0; c < m; c++) {
        const expected = (x[r * m + c] ?? Number.NaN) * (k[r] ?? Number.NaN) + 1;
        sum += expected;
        if (!only && y?.data[r * m + c] !== expected) sound = false;
      }
      if (s.data[r] !== sum) sound = false;
    }
    if (!only && y?.dims.join() !== `${n},${m}`) sound = false;
    counts[sound ? "right" : "wrong"]++;
  } catch (error) {
    if (controller !== undefined && error === controller.signal.reason) counts.cancelled++;
    else if (error instanceof PartitaError && error.code === "P3107" && deadlineMs !== undefined) counts.expired++;
    else counts.failed.push(error instanceof Error ? error.message : String(error));
  }
}

const unhandled: string[] = [];
process.on("unhandledRejection", (reason) => unhandled.push(String(reason)));
const session = await (await compile(parse(MODEL), { target: "host" })).createSession({
  streams: 2,
  threads: 1,
  ...(mode === "joined" ? { batching: { maxBatch: 64 } } : {}),
});
const delay = monitorEventLoopDelay({ resolution: 1 });
const rss: number[] = [];
let started = 0;
const start = performance.now();
await Promise.all(
  Array.from({ length: callers }, async (_, caller) => {
    const next = random(caller + 1);
    while (started < 2 * runs) {
      started++;
      if (started === runs) delay.enable();
      if (started > runs && started % Math.max(1, Math.floor(runs / 300)) === 0) rss.push(process.memoryUsage.rss());
      await one(session, next);
    }
  }),
);
delay.disable();
const seconds = (performance.now() - start) / 1000;
const middle = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1] ?? 0;
// A run whose caller went away may be under way until then.
await session.dispose();
const stats = session.stats();
process.stdout.write(
  `${JSON.stringify({
    ...counts,
    unhandled,
    stats,
    runsPerSecond: Math.round((2 * runs) / seconds),
    loopDelayP99Ms: delay.percentile(99) / 1e6,
    // The medians of the first and of the last third.
    rss: { before: middle(rss.slice(0, rss.length / 3)), after: middle(rss.slice((2 * rss.length) / 3)) },
  })}\n`,
);
