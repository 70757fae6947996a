/** The difference of two reports as one self-contained page of tables. */
import { type diffReports, figureLabel, figureText } from "./diff.js";
import { cell, escaped, row, table } from "./html-parts.js";
import { PAGE_STYLE } from "./html-style.js";

export function renderDiffHtml(d: ReturnType<typeof diffReports>): string {
  const title = `${d.before.model} against ${d.after.model}`;
  const options = (o: typeof d.before.options): string =>
    `${o.targets.join(", ")}; ${o.precision}; segments of ${o.minimumSegmentSize} or more`;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Partita: ${escaped(title)}</title>
<style>${PAGE_STYLE}</style>
</head>
<body>
<header>
<h1>${escaped(title)}</h1>
<p>Before: ${escaped(options(d.before.options))}. After: ${escaped(options(d.after.options))}.</p>
</header>
<main>
${section(
  "Figures",
  ["figure", "before", "after", "change"],
  d.quality.map((q) => [
    figureLabel(q.figure),
    figureText(q.figure, q.before),
    figureText(q.figure, q.after),
    q.before === q.after
      ? ""
      : q.before === 0
        ? "new"
        : `${q.after > q.before ? "+" : ""}${((100 * (q.after - q.before)) / q.before).toFixed(1)} %`,
  ]),
)}
${section(
  "Nodes that moved",
  ["operator", "node", "before", "after", "why"],
  d.moved.map((m) => [m.op, m.node, m.before, m.after, m.why]),
)}
${section(
  "Nodes only after",
  ["operator", "node", "engine"],
  d.added.map((n) => [n.op, n.node, n.engine]),
)}
${section(
  "Nodes only before",
  ["operator", "node", "engine"],
  d.removed.map((n) => [n.op, n.node, n.engine]),
)}
${section(
  "Reasons",
  ["not on", "why", "nodes before", "nodes after"],
  d.reasons.map((r) => [r.engine, r.why, String(r.before), String(r.after)]),
)}
${section(
  "Passes",
  ["pass", "nodes before", "nodes after"],
  d.passes.map((p) => [p.pass, String(p.before), String(p.after)]),
)}
</main>
</body>
</html>
`;
}

const MAX_ROWS = 2000;
function section(title: string, head: readonly string[], rows: readonly (readonly string[])[]): string {
  const body =
    rows.length === 0
      ? "<p>None.</p>"
      : `${table(
          head,
          rows.slice(0, MAX_ROWS).map((r) => row(r.map((c) => cell(c)))),
        )}${rows.length > MAX_ROWS ? `<p>... and ${rows.length - MAX_ROWS} more in the JSON form.</p>` : ""}`;
  return `<section><h2>${escaped(title)}${rows.length === 0 ? "" : ` (${rows.length})`}</h2>\n${body}\n</section>`;
}
