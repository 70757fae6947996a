/** Load on something that runs: closed (so many callers, each waits for its answer) or open (arrivals at a rate, whoever is still waiting). */
import { performance } from "node:perf_hooks";
import { PartitaError } from "../diagnostics.js";
import { generator } from "./measure.js";

export type Load = { readonly kind: "closed"; readonly concurrency: number } | { readonly kind: "open"; readonly rate: number };

export interface Loaded {
  /** Milliseconds of each run that was answered: from its call, or under open load from the moment it was due. */
  readonly latencies: number[];
  /** Runs that were refused as the queue was full. */
  readonly refused: number;
  /** Milliseconds from the first call to the last answer. */
  readonly ms: number;
}

/** Code of a run that a full queue refuses. */
const QUEUE_FULL = "P3106";

/** One round of a load. */
export async function underLoad(run: () => Promise<unknown>, load: Load, ms: number, seed: number): Promise<Loaded> {
  return load.kind === "closed" ? await closed(run, load.concurrency, ms) : await open(run, load.rate, ms, seed);
}

async function closed(run: () => Promise<unknown>, concurrency: number, ms: number): Promise<Loaded> {
  const latencies: number[] = [];
  const start = performance.now();
  const caller = async (): Promise<void> => {
    do {
      const from = performance.now();
      await run();
      latencies.push(performance.now() - from);
    } while (performance.now() - start < ms);
  };
  await Promise.all(Array.from({ length: concurrency }, caller));
  return { latencies, refused: 0, ms: performance.now() - start };
}

/**
 * Poisson arrivals: gaps are exponential with mean 1 / rate, drawn before the round. A run that is called late, as the event loop was busy, has waited since
 * it was due: its latency counts from there, so that a slow answer delays nobody's clock ("coordinated omission").
 */
async function open(run: () => Promise<unknown>, rate: number, ms: number, seed: number): Promise<Loaded> {
  const latencies: number[] = [];
  let refused = 0;
  let failure: { readonly error: unknown } | undefined;
  const due = arrivals(rate, ms, seed);
  const running: Promise<void>[] = [];
  const start = performance.now();
  const call = async (at: number): Promise<void> => {
    try {
      await run();
      latencies.push(performance.now() - start - at);
    } catch (error) {
      if (error instanceof PartitaError && error.code === QUEUE_FULL) refused++;
      else failure ??= { error };
    }
  };
  for (let i = 0; i < due.length && failure === undefined; ) {
    const now = performance.now() - start;
    const at = due[i] as number;
    if (at <= now) {
      running.push(call(at));
      i++;
      // Answers are taken in between calls that are late.
      if (i % 16 === 0) await new Promise((resolve) => setImmediate(resolve));
    } else if (at - now > 2) await new Promise((resolve) => setTimeout(resolve, at - now - 1.5));
    else await new Promise((resolve) => setImmediate(resolve));
  }
  await Promise.all(running);
  if (failure !== undefined) throw failure.error;
  return { latencies, refused, ms: performance.now() - start };
}

/** Milliseconds from the start at which runs are due. */
export function arrivals(rate: number, ms: number, seed: number): Float64Array {
  const next = generator(seed);
  const due: number[] = [];
  for (let t = 0; ; ) {
    t += (-Math.log(1 - next()) * 1000) / rate;
    if (t >= ms) return Float64Array.from(due);
    due.push(t);
  }
}
