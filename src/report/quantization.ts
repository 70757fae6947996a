/** The report's part on quantization: how ranges were found, what was tried, and where the int8 graph leaves the float one. */
import * as v from "valibot";
import type { Drift } from "../quantize/drift.js";
import { wilson } from "../quantize/leads.js";
import type { Trial } from "../quantize/search.js";
import type { QuantizerDecision } from "../quantize/types.js";
import { cell, escaped, row, table } from "./html-parts.js";

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

const percent = (x: number): string => `${(100 * x).toFixed(2)} %`;
const shareText = (x: number | undefined): string => (x === undefined ? "" : percent(x));
const db = (x: number | undefined): string => (x === undefined ? "" : x.toFixed(1));
const short = (x: number): string =>
  x === 0 ? "0" : Math.abs(x) >= 1e4 || Math.abs(x) < 1e-3 ? x.toExponential(2) : String(Number(x.toPrecision(4)));
const lossText = (x: number | null): string => (x === null ? "not finite" : short(x));

/** Lines for a terminal; `rows` tensors, the noisiest first. */
export function quantizationText(q: QuantizationReport, rows: number): readonly string[] {
  const lines = [summary(q)];
  if (q.trials.length > 1) {
    lines.push(`  ${"loss".padStart(11)}  ${"agreement".padStart(10)}  ${"expected".padStart(10)}  trial`);
    for (const t of q.trials)
      lines.push(
        `  ${lossText(t.loss).padStart(11)}  ${shareText(t.agreement).padStart(10)}  ${shareText(t.likely).padStart(10)}  ${t.name}${t.kept ? "  (best so far)" : ""}`,
      );
  }
  if (q.stopped !== undefined) lines.push(`  The search ended early: ${q.stopped}.`);
  if (q.shortfall !== undefined) lines.push(`  It falls short: ${q.shortfall}.`);
  const noisy = noisiest(q);
  if (noisy.length > 0) {
    lines.push(
      `  ${"SQNR dB".padStart(8)}  ${"local".padStart(6)}  ${"range".padStart(9)}  ${"of".padStart(9)}  ${"clipped".padStart(8)}  tensor`,
    );
    for (const t of noisy.slice(0, rows))
      lines.push(
        `  ${db(t.accumulatedSqnr).padStart(8)}  ${db(t.localSqnr).padStart(6)}  ${short(t.amax).padStart(9)}  ${short(t.absmax).padStart(9)}  ${percent(t.clipped).padStart(8)}  ${t.name}`,
      );
    if (noisy.length > rows) lines.push(`  ... and ${noisy.length - rows} quieter tensors (all are in the JSON and HTML forms)`);
  }
  return lines;
}

function summary(q: QuantizationReport): string {
  const where = {
    calibration: `ranges from ${q.feeds.calibration} feeds`,
    graph: "quantizers that the model carries",
    file: "ranges from a calibration file",
    table: "ranges from a TensorRT calibration table",
  }[q.source];
  const judged =
    q.loss === undefined
      ? ""
      : `; on ${q.feeds.held} feeds held out, loss ${lossText(q.loss)}${
          q.agreement === undefined
            ? ""
            : `, ${percent(q.agreement.share)} of ${q.agreement.rows} rows as in float (95 % interval ${percent(q.agreement.low)} to ${percent(q.agreement.high)})`
        }${q.likely === undefined ? "" : `, ${percent(q.likely)} expected of many`}`;
  return `${where}; ${q.configuration}${judged}.`;
}

/** Least accumulated SQNR first; tensors without one last. */
function noisiest(q: QuantizationReport): QuantizationReport["tensors"] {
  return [...q.tensors].sort((a, b) => (a.accumulatedSqnr ?? 1e9) - (b.accumulatedSqnr ?? 1e9));
}

/** The section of the page. */
export function quantizationHtml(q: QuantizationReport): string {
  const methods = Object.keys(q.tensors[0]?.ranges ?? {});
  const part = (title: string, id: string, head: readonly string[], rows: readonly (readonly string[])[]): string =>
    rows.length === 0
      ? ""
      : `<h3>${escaped(title)}</h3>\n<div class="wide">${table(
          head,
          rows.map((cells) => row(cells.map((c) => cell(c)))),
          id,
        )}</div>`;
  return `<section aria-labelledby="quantization-title">
<h2 id="quantization-title">Quantization</h2>
<p>${escaped(summary(q))}</p>
${q.stopped === undefined ? "" : `<p>The search ended early: ${escaped(q.stopped)}.</p>`}
${q.shortfall === undefined ? "" : `<p>It falls short: ${escaped(q.shortfall)}.</p>`}
${part(
  "What the search tried",
  "trials",
  ["trial", "loss", "agreement", "expected", "best so far"],
  q.trials.map((t) => [t.name, lossText(t.loss), shareText(t.agreement), shareText(t.likely), t.kept ? "yes" : ""]),
)}
${part(
  "Tensors, noisiest first",
  "drift",
  ["tensor", "made by", "SQNR, dB", "local, dB", "cosine", "range", "largest", "clipped", "why", ...methods],
  noisiest(q).map((t) => [
    t.name,
    t.node ?? "",
    db(t.accumulatedSqnr),
    db(t.localSqnr),
    t.cosine === undefined ? "" : t.cosine.toFixed(5),
    short(t.amax),
    short(t.absmax),
    percent(t.clipped),
    t.why,
    ...methods.map((m) => short(t.ranges[m] ?? 0)),
  ]),
)}
${part(
  "Weights",
  "quantized-weights",
  ["weight", "of", "smallest scale", "largest scale", "SQNR, dB"],
  q.weights.map((w) => [w.name, w.node ?? "", short(w.least), short(w.most), db(w.sqnr)]),
)}
${part(
  "Left float",
  "kept-float",
  ["tensor", "why"],
  q.floats.map((f) => [f.name, f.why]),
)}
</section>
`;
}
