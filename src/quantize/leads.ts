/**
 * How far the first class of a row stands before the second in the float graph, how much a quantized graph moves that lead, and how many rows
 * are overtaken by it. Counted, half a point of agreement is no row or one of a hundred; here every row says how much noise there is, and every
 * float row how many stand so close that noise matters.
 */

/** Of one row: the lead in the float graph (nats, not negative), and by how much the other graph changes it. */
export interface Lead {
  readonly margin: number;
  readonly moved: number;
}
/** Where the leads of a model lie: a sample of them, and the bandwidth that makes a density of it (nats). */
export interface Crowd {
  readonly margins: readonly number[];
  readonly width: number;
}

/** The lead of row [at, at + n) of x, logits or probabilities, and what y makes of it. */
export function leadOf(x: ArrayLike<number>, y: ArrayLike<number>, at: number, n: number): Lead {
  const [p, q] = [logProbabilities(x, at, n), logProbabilities(y, at, n)];
  const { first, second } = topTwo(p);
  const margin = (p[first] as number) - (p[second] as number);
  return { margin, moved: (q[first] as number) - (q[second] as number) - margin };
}
/** The lead of row [at, at + n) of x, in nats. */
export function marginOf(x: ArrayLike<number>, at: number, n: number): number {
  const p = logProbabilities(x, at, n);
  const { first, second } = topTwo(p);
  return (p[first] as number) - (p[second] as number);
}
function topTwo(p: Float64Array): { readonly first: number; readonly second: number } {
  const first = largest(p, 0, p.length);
  let second = first === 0 ? 1 : 0;
  for (let i = 0; i < p.length; i++) if (i !== first && (p[i] as number) > (p[second] as number)) second = i;
  return { first, second };
}

/**
 * The leads of rows, with the bandwidth 0.9 min(s, IQR / 1.34) n^(-1/5) (Silverman, "Density Estimation for Statistics and Data Analysis", 1986,
 * section 3.4.2).
 */
export function crowdOf(margins: readonly number[]): Crowd {
  const sorted = margins.filter(Number.isFinite).sort((a, b) => a - b);
  const n = sorted.length;
  if (n === 0) return { margins: sorted, width: 0 };
  const mean = sorted.reduce((a, m) => a + m, 0) / n;
  const deviation = Math.sqrt(sorted.reduce((a, m) => a + (m - mean) ** 2, 0) / n);
  const quartile = (q: number): number => sorted[Math.min(n - 1, Math.floor(q * n))] as number;
  return { margins: sorted, width: 0.9 * Math.min(deviation, (quartile(0.75) - quartile(0.25)) / 1.34) * n ** -0.2 };
}

/** Standard deviation of what moves the leads of the less decided half of the rows, about 0: the others' logits are larger, and their noise with them. */
export function noiseOf(leads: readonly Lead[]): number {
  const close = [...leads].sort((a, b) => a.margin - b.margin).slice(0, Math.ceil(leads.length / 2));
  return Math.sqrt(close.reduce((a, l) => a + l.moved ** 2, 0) / close.length);
}

/** Simpson's rule over [0, REACH] standard deviations of the noise. */
const [STEPS, REACH] = [96, 6];
/** Smoothing over less than this share of the noise changes nothing that the noise does not blur more. */
const NARROW = 1 / 8;
/**
 * Share of rows whose second class overtakes the first when normal noise of standard deviation `sigma` moves the leads. A row with lead m is
 * overtaken with P(Z > m / sigma), so that the share is the integral over u >= 0 of f(u) P(Z > u / sigma), f the density of leads. Only rows
 * within two or three sigma count in it, three of a hundred where the share is one, and a mean over the rows themselves is as uncertain as a count
 * of three; f is therefore the sample's density by Gaussian kernels, mirrored at 0 as the sign of a lead is a matter of names (Silverman, 1986,
 * section 2.10). For rows that all stand level it is arctan(sigma / width) / pi.
 */
export function overtaken({ margins, width }: Crowd, sigma: number): number {
  if (margins.length === 0) return 0;
  if (sigma === 0) return 0;
  if (!Number.isFinite(sigma)) return 1;
  if (width < NARROW * sigma) return margins.reduce((a, m) => a + tail(m / sigma), 0) / margins.length;
  let sum = 0;
  for (let k = 0; k <= STEPS; k++) {
    const x = (REACH * k) / STEPS;
    const weight = k === 0 || k === STEPS ? 1 : k % 2 === 1 ? 4 : 2;
    let density = 0;
    for (const m of margins) density += bell((sigma * x - m) / width) + bell((sigma * x + m) / width);
    sum += weight * tail(x) * density;
  }
  return (((sum * REACH) / STEPS / 3) * sigma) / (width * margins.length);
}
/** The density of a standard normal. */
const bell = (z: number): number => Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI);
/** P(Z > x) of a standard normal Z, x >= 0, to 1e-7 (Abramowitz and Stegun, 26.2.17). */
function tail(x: number): number {
  const t = 1 / (1 + 0.2316419 * x);
  const series = t * (0.31938153 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))));
  return series * bell(x);
}

/** Wilson's 95 % interval of a share of independent rows: it stays inside [0, 1] where few or none count. */
export function wilson(share: number, rows: number): { readonly low: number; readonly high: number } {
  const z = 1.959964;
  const centre = (share + (z * z) / (2 * rows)) / (1 + (z * z) / rows);
  const half = (z / (1 + (z * z) / rows)) * Math.sqrt((share * (1 - share)) / rows + (z * z) / (4 * rows * rows));
  return { low: Math.max(0, centre - half), high: Math.min(1, centre + half) };
}

/** A probability that quantization made 0 counts as this. */
const LEAST = 1e-12;
/** The logarithms of the probabilities of row [at, at + n): of logits by softmax, of probabilities as they are. */
export function logProbabilities(x: ArrayLike<number>, at: number, n: number): Float64Array {
  const row = Float64Array.from({ length: n }, (_, i) => x[at + i] as number);
  const sum = row.reduce((a, b) => a + b, 0);
  if (Math.abs(sum - 1) < 1e-3 && row.every((v) => v >= 0)) return row.map((v) => Math.log(Math.max(v, LEAST)));
  const most = row.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const log = most + Math.log(row.reduce((a, v) => a + Math.exp(v - most), 0));
  return row.map((v) => v - log);
}

/** Place of the largest of [at, at + n), from `at`. */
export function largest(x: ArrayLike<number>, at: number, n: number): number {
  let best = 0;
  for (let i = 1; i < n; i++) if ((x[at + i] as number) > (x[at + best] as number)) best = i;
  return best;
}
