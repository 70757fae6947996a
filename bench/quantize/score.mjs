// What the INT8 benchmarks measure outputs by.

/** Place of the largest element. */
export const argmax = (x) => x.reduce((best, v, i) => (v > x[best] ? i : best), 0);
export const points = (x) => Number(x.toFixed(2));
/** Half the width of the 95 % interval of a paired difference, in points: of `n` rows, `better` were gained and `worse` lost. */
export function interval(better, worse, n) {
  const mean = (better - worse) / n;
  return points(196 * Math.sqrt(((better + worse) / n - mean ** 2) / n));
}
