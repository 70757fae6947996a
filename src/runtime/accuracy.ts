/** Top-1 accuracy over labelled feeds: rows are cut into batches, and the largest of each row's scores is compared with its label. */

import { elementNumber } from "../ir/numeric.js";
import { intervalOf } from "../report/quantization.js";
import { Tensor, type TensorLike } from "../tensor.js";
import type { Port } from "./ports.js";

export type Accuracy = ReturnType<typeof intervalOf> | { readonly missing: string };
/** Runs feeds and gives the first output. */
export type FirstOutput = (feeds: Record<string, Tensor>) => Promise<TensorLike | undefined>;

/** Rows `from` to `from + count` of dim 0; those past the end are the first ones again. */
export function rowsOf(t: TensorLike, from: number, count: number): Tensor {
  const [all = 1, ...rest] = t.dims;
  const size = rest.reduce((a, d) => a * d, 1);
  const data = t.data as ArrayLike<never>;
  const out = Array.isArray(t.data)
    ? new Array<never>(count * size)
    : new (t.data.constructor as new (n: number) => Record<number, never>)(count * size);
  for (let r = 0; r < count; r++) {
    const source = ((from + r) % Math.max(1, all)) * size;
    for (let k = 0; k < size; k++) out[r * size + k] = data[source + k] as never;
  }
  return new Tensor(t.type as never, out as never, [count, ...rest]);
}

/** `batch` rows a run; where dim 0 is fixed, the last run is filled up and what is too many dropped. */
export async function accuracyOf(
  inputs: readonly Port[],
  feeds: Readonly<Record<string, TensorLike>>,
  labels: TensorLike,
  batch: number,
  run: FirstOutput,
): Promise<Accuracy> {
  const total = labels.data.length;
  const short = inputs.find((p) => (feeds[p.name]?.dims[0] ?? 0) !== total);
  if (short !== undefined)
    return { missing: `there are ${total} labels, and input '${short.name}' has ${feeds[short.name]?.dims[0] ?? "no"} rows` };
  if (total === 0) return { missing: "there are no labels" };
  const fixed = inputs.map((p) => p.dims?.[0]).find((d) => typeof d === "number") as number | undefined;
  const step = fixed ?? batch;
  let right = 0;
  for (let from = 0; from < total; from += step) {
    const count = Math.min(step, total - from);
    const part = Object.fromEntries(inputs.map((p) => [p.name, rowsOf(feeds[p.name] as TensorLike, from, fixed ?? count)]));
    const scores = await run(part);
    const rows = fixed ?? count;
    if (scores === undefined || scores.dims[0] !== rows || scores.type === "string")
      return {
        missing: `the first output is no row of scores for each row of feeds: ${scores?.type ?? "nothing"}[${scores?.dims.join(", ") ?? ""}]`,
      };
    const classes = scores.data.length / rows;
    for (let r = 0; r < count; r++) {
      const label = elementNumber(labels.type, labels.data[from + r] as never);
      // An output of one element a row is the class itself.
      const found = classes === 1 ? elementNumber(scores.type, scores.data[r] as never) : largest(scores, r * classes, classes);
      if (found === label) right++;
    }
  }
  return intervalOf(right / total, total);
}

function largest(t: TensorLike, from: number, count: number): number {
  let best = 0;
  for (let k = 1; k < count; k++)
    if (elementNumber(t.type, t.data[from + k] as never) > elementNumber(t.type, t.data[from + best] as never)) best = k;
  return best;
}
