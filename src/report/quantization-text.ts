/** The part of a report that tells of quantization, for terminals and as a section of the page. */
import { cell, escaped, row, table } from "./html-parts.js";
import type { QuantizationReport } from "./quantization.js";

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
