/** The report's part on quantization: how ranges were found, what was tried, and where the int8 graph leaves the float one. */
import * as v from "valibot";
import type { Drift } from "../quantize/drift.js";
import { wilson } from "../quantize/leads.js";
import type { Trial } from "../quantize/search.js";
import type { QuantizerDecision } from "../quantize/types.js";

const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const amount = v.pipe(v.number(), v.minValue(0));
/** Infinity, which JSON does not have, is null: the outputs were not finite. */
const loss = v.nullable(amount);
const decibels = v.optional(v.number());
export const quantizationSchema = v.strictObject({
  /** "calibration": ranges from feeds; "graph": quantizers that the model carried; "file", "table": ranges that were given. */
  source: v.picklist(["calibration", "graph", "file", "table"]),
  feeds: v.strictObject({ calibration: count, held: count }),
  /** What was chosen, in words. */
  configuration: v.string(),
  /** Of the chosen configuration on the feeds held out: nats a row, or noise over signal. */
  loss: v.optional(loss),
  /** Share of the rows whose largest element is where the float graph has it, with the 95 % interval of the share. */
  agreement: v.optional(v.strictObject({ share: amount, low: amount, high: amount, rows: count })),
  /** The share of rows that will be as in float on many feeds, by the noise of the chosen configuration and how closely the float graph decides. */
  likely: v.optional(amount),
  trials: v.array(v.strictObject({ name: v.string(), loss, agreement: v.optional(amount), likely: v.optional(amount), kept: v.boolean() })),
  /** Why the search ended early, if it did. */
  stopped: v.optional(v.string()),
  /** What is lost beyond what was allowed. */
  shortfall: v.optional(v.string()),
  tensors: v.array(
    v.strictObject({
      name: v.string(),
      node: v.optional(v.string()),
      why: v.string(),
      /** The largest magnitude that stays unclipped; the scale is amax / 127. */
      amax: amount,
      absmax: amount,
      ranges: v.record(v.string(), amount),
      clipped: amount,
      localSqnr: decibels,
      accumulatedSqnr: decibels,
      cosine: v.optional(v.number()),
    }),
  ),
  weights: v.array(v.strictObject({ name: v.string(), node: v.optional(v.string()), least: amount, most: amount, sqnr: decibels })),
  /** Operands that were considered and stayed float, with the reason. */
  floats: v.array(v.strictObject({ name: v.string(), why: v.string() })),
});
export type QuantizationReport = v.InferOutput<typeof quantizationSchema>;

export interface QuantizationFacts {
  readonly source: QuantizationReport["source"];
  readonly feeds: { readonly calibration: number; readonly held: number };
  readonly configuration: string;
  readonly best?: Trial | undefined;
  readonly trials: readonly Trial[];
  readonly stopped?: string | undefined;
  readonly shortfall?: string | undefined;
  readonly drift?: Drift | undefined;
  readonly decisions: readonly QuantizerDecision[];
}

export function quantizationReport(q: QuantizationFacts): QuantizationReport {
  const finite = (x: number): number | null => (Number.isFinite(x) ? digits(x) : null);
  const { best } = q;
  return {
    source: q.source,
    feeds: { ...q.feeds },
    configuration: q.configuration,
    ...(best === undefined ? {} : { loss: finite(best.loss) }),
    ...(best?.agreement === undefined ? {} : { agreement: intervalOf(best.agreement, best.rows) }),
    ...optional("likely", best?.likely),
    trials: q.trials.map((t) => ({
      name: t.name,
      loss: finite(t.loss),
      ...optional("agreement", t.agreement),
      ...optional("likely", t.likely),
      kept: t.kept,
    })),
    ...(q.stopped === undefined ? {} : { stopped: q.stopped }),
    ...(q.shortfall === undefined ? {} : { shortfall: q.shortfall }),
    tensors: (q.drift?.tensors ?? []).map((t) => ({
      name: t.name,
      ...(t.node === undefined ? {} : { node: t.node }),
      why: t.why,
      amax: digits(t.amax),
      absmax: digits(t.absmax),
      ranges: Object.fromEntries(Object.entries(t.ranges).map(([method, x]) => [method, digits(x)])),
      clipped: digits(t.clipped),
      ...optional("localSqnr", t.localSqnr),
      ...optional("accumulatedSqnr", t.accumulatedSqnr),
      ...optional("cosine", t.cosine),
    })),
    weights: (q.drift?.weights ?? []).map((w) => ({
      name: w.name,
      ...(w.node === undefined ? {} : { node: w.node }),
      least: digits(w.scales[0]),
      most: digits(w.scales[1]),
      ...optional("sqnr", w.sqnr),
    })),
    floats: floatsOf(q.decisions),
  };
}

/** Six significant digits: what a reader can use, and the same on every machine. */
const digits = (x: number): number => Number(x.toPrecision(6));
const optional = <K extends string>(key: K, x: number | undefined): Partial<Record<K, number>> =>
  x === undefined ? {} : ({ [key]: digits(x) } as Record<K, number>);

/** A share of independent rows with its 95 % interval. */
export function intervalOf(share: number, rows: number): NonNullable<QuantizationReport["agreement"]> {
  const { low, high } = wilson(share, rows);
  return { share: digits(share), low: digits(low), high: digits(high), rows };
}

function floatsOf(decisions: readonly QuantizerDecision[]): QuantizationReport["floats"] {
  const seen = new Map<string, { name: string; why: string }>();
  for (const d of decisions) if (d.kind === "float") seen.set(`${d.name}\n${d.why}`, { name: d.name, why: d.why });
  return [...seen.values()];
}
