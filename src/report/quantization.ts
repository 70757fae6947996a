/** The report's part on quantization: how ranges were found, what was tried, and where the int8 graph leaves the float one. */
import * as v from "valibot";
import type { Drift } from "../quantize/drift.js";
import { wilson } from "../quantize/leads.js";
import type { Trial } from "../quantize/search.js";
import type { QuantizerDecision } from "../quantize/types.js";
import { escaped } from "./html-parts.js";

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
  const head = (...cells: readonly string[]): string => `<thead><tr>${cells.map((c) => `<th scope="col">${c}</th>`).join("")}</tr></thead>`;
  const methods = Object.keys(q.tensors[0]?.ranges ?? {});
  const cell = (s: string): string => `<td>${escaped(s)}</td>`;
  const table = (id: string, header: string, rows: readonly string[]): string =>
    rows.length === 0 ? "" : `<table id="${id}">${header}<tbody>\n${rows.join("\n")}\n</tbody></table>`;
  return `<section aria-labelledby="quantization-title">
<h2 id="quantization-title">Quantization</h2>
<p>${escaped(summary(q))}</p>
${q.stopped === undefined ? "" : `<p>The search ended early: ${escaped(q.stopped)}.</p>`}
${q.shortfall === undefined ? "" : `<p>It falls short: ${escaped(q.shortfall)}.</p>`}
${table(
  "trials",
  head("trial", "loss", "agreement", "expected", "best so far"),
  q.trials.map(
    (t) =>
      `<tr>${cell(t.name)}${cell(lossText(t.loss))}${cell(shareText(t.agreement))}${cell(shareText(t.likely))}${cell(t.kept ? "yes" : "")}</tr>`,
  ),
)}
${table(
  "drift",
  head("tensor", "made by", "SQNR, dB", "local, dB", "cosine", "range", "largest", "clipped", ...methods.map(escaped), "why"),
  noisiest(q).map(
    (t) =>
      `<tr>${cell(t.name)}${cell(t.node ?? "")}${cell(db(t.accumulatedSqnr))}${cell(db(t.localSqnr))}${cell(t.cosine === undefined ? "" : t.cosine.toFixed(5))}${cell(short(t.amax))}${cell(short(t.absmax))}${cell(percent(t.clipped))}${methods.map((m) => cell(short(t.ranges[m] ?? 0))).join("")}${cell(t.why)}</tr>`,
  ),
)}
${table(
  "quantized-weights",
  head("weight", "of", "smallest scale", "largest scale", "SQNR, dB"),
  q.weights.map((w) => `<tr>${cell(w.name)}${cell(w.node ?? "")}${cell(short(w.least))}${cell(short(w.most))}${cell(db(w.sqnr))}</tr>`),
)}
${table(
  "kept-float",
  head("kept float", "why"),
  q.floats.map((f) => `<tr>${cell(f.name)}${cell(f.why)}</tr>`),
)}
</section>
`;
}
