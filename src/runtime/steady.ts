/**
 * When a warm-up is over: MSER-5 (White, "An effective truncation heuristic for bias reduction in simulation output", 1997). Latencies are averaged in
 * fives; d, at most half of their number, is how many leading means must go for the standard error of the rest to be smallest. The start is over
 * when d lies below that half, and what is left does not fall any more: the mean of its second half is below that of its first by at most two standard
 * errors of the difference, or by at most one per cent. (A start longer than half of what was seen escapes MSER alone.)
 */

/** Runs in a mean. */
const BATCH = 5;
/** Means that are needed before the rule says anything. */
const LEAST = 10;

/** Leading runs to leave out; undefined while there are too few, or while the rule is not met. */
export function mser5(latencies: readonly number[]): number | undefined {
  const n = Math.floor(latencies.length / BATCH);
  if (n < LEAST) return undefined;
  const means = Array.from({ length: n }, (_, i) => latencies.slice(i * BATCH, (i + 1) * BATCH).reduce((a, b) => a + b, 0) / BATCH);
  let [best, least] = [0, Number.POSITIVE_INFINITY];
  let [sum, squares] = [0, 0];
  const most = Math.floor(n / 2);
  // From the end, so that sums over the rest grow by one mean a step.
  for (let d = n - 1; d >= 0; d--) {
    const x = means[d] as number;
    sum += x;
    squares += x * x;
    const rest = n - d;
    if (d > most) continue;
    const error = (squares - (sum * sum) / rest) / rest ** 2;
    if (error <= least) [best, least] = [d, error];
  }
  return best < most && level(means.slice(best)) ? best * BATCH : undefined;
}

function level(means: readonly number[]): boolean {
  const half = means.length >> 1;
  const [a, b] = [moments(means.slice(0, half)), moments(means.slice(half))];
  return a.mean - b.mean <= Math.max(2 * Math.sqrt(a.error + b.error), 0.01 * b.mean);
}
/** Mean, and the square of its standard error. */
function moments(xs: readonly number[]): { readonly mean: number; readonly error: number } {
  const mean = xs.reduce((x, y) => x + y, 0) / xs.length;
  return { mean, error: xs.reduce((x, y) => x + (y - mean) ** 2, 0) / (xs.length - 1) / xs.length };
}

export interface WarmUp {
  readonly runs: number;
  readonly seconds: number;
  /** Whether the rule was met; the time for it was over otherwise. */
  readonly steady: boolean;
}

/** Runs until the rule is met, at most `seconds` long. */
export async function warmUp(run: () => Promise<unknown>, seconds: number, now: () => number = () => performance.now()): Promise<WarmUp> {
  const latencies: number[] = [];
  const start = now();
  let next = BATCH * LEAST;
  for (;;) {
    const from = now();
    await run();
    latencies.push(now() - from);
    const passed = (now() - start) / 1000;
    if (latencies.length >= next) {
      if (mser5(latencies) !== undefined) return { runs: latencies.length, seconds: passed, steady: true };
      next = Math.ceil((latencies.length * 1.25) / BATCH) * BATCH;
    }
    if (passed >= seconds) return { runs: latencies.length, seconds: passed, steady: false };
  }
}
