/** The report as one self-contained page: summary, a map on a canvas, charts, tables, search. No network, no dependencies. */
import type { ReportData } from "./data.js";
import { memoryChart, operatorChart, segmentChart } from "./html-charts.js";
import { pageData } from "./html-data.js";
import { MAP_SCRIPT } from "./html-map.js";
import { PANEL_SCRIPT } from "./html-panel.js";
import { cell, escaped, row, table } from "./html-parts.js";
import { PAGE_STYLE } from "./html-style.js";
import { quantizationHtml } from "./quantization-text.js";
import { human, humanUs } from "./text.js";

/** Rows of the segment table that come with the page; a button adds the others. */
const STATIC_ROWS = 300;

export function renderHtml(r: ReportData): string {
  const q = r.quality;
  // "</script" and "<!--" would end or change the script block they stand in.
  const data = JSON.stringify(pageData(r)).replaceAll("<", "\\u003c").replaceAll("\u2028", "\\u2028").replaceAll("\u2029", "\\u2029");
  const figure = (label: string, value: string): string =>
    `<div class="figure"><b>${escaped(value)}</b><span>${escaped(label)}</span></div>`;
  const pct = (x: number): string => `${(100 * x).toFixed(1)} %`;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Partita report: ${escaped(r.model.name)}</title>
<style>${PAGE_STYLE}</style>
</head>
<body>
<header>
<h1>${escaped(r.model.name)}</h1>
<p>${r.model.nodes} nodes, ${q.nodes} after passes; targets ${escaped(r.options.targets.join(", "))}; precision ${escaped(r.options.precision)}</p>
<div class="figures">
${figure("FLOPs in engines", pct(q.flopsCovered))}
${figure(`engine segments (bound ${q.lowerBound})`, String(q.engineSegments))}
${figure("tensors cross", String(q.cutTensors))}
${figure("bytes cross a run", human(q.boundaryBytes, "B"))}
${figure("changes of side", String(q.crossings))}
${figure("FLOPs", human(q.flops))}
${figure("weights", human(r.model.weightsBytes, "B"))}
${q.estimatedUs === undefined ? "" : figure("estimate of a run", humanUs(q.estimatedUs))}
</div>
</header>
<main>
<section aria-labelledby="map-title">
<h2 id="map-title">Map</h2>
<div class="tools">
<label>Search <input id="search" type="search" placeholder="node, operator, origin ( / )" autocomplete="off"></label>
<label>Colour <select id="color"><option value="engine">engine</option><option value="time">time</option><option value="bytes">bytes</option><option value="precision">precision</option></select></label>
${r.original === undefined ? "" : '<label>Graph <select id="which"><option value="now">after passes</option><option value="before">before passes</option></select></label>'}
<button id="fit" type="button">Fit</button>
<span id="hits" role="status" aria-live="polite"></span>
</div>
<div class="map">
<canvas id="map" tabindex="0" role="application" aria-label="Map of the segments in their order of execution. The tables below have the same facts. Arrow keys move, plus and minus zoom, n and p go through segments or nodes, Enter opens, Escape shows all."></canvas>
<div class="side" tabindex="0" role="region" aria-label="Search results and details"><ul id="results"></ul><div id="detail" aria-live="polite"><p>Choose a segment or a node. Zoom in to open segments to their nodes; drag to move.</p></div></div>
</div>
</section>
<section aria-labelledby="cost-title">
<h2 id="cost-title">Cost and memory</h2>
<p>Estimated time by operator</p>
${operatorChart(r)}
<p>Estimated time by segment</p>
${segmentChart(r)}
<p>Activation memory over a run</p>
${memoryChart(r)}
</section>
<section aria-labelledby="segments-title">
<h2 id="segments-title">Segments</h2>
<div${lazy(r)}>${table(
    ["segment", "engine", "nodes", "FLOPs", "bytes", "weights", "estimate", "inputs", "outputs", "operators"],
    r.segments.slice(0, STATIC_ROWS).map(segmentRow),
    "segments",
  )}</div>
${r.segments.length > STATIC_ROWS ? `<p class="more"><button type="button" id="segments-more">Show more of the ${r.segments.length} segments</button></p>` : ""}
</section>
${r.quantization === undefined ? "" : quantizationHtml(r.quantization)}${whatIf(r)}${support(r)}<section aria-labelledby="reasons-title">
<h2 id="reasons-title">On the host, and why</h2>
${
  r.reasons.length === 0
    ? "<p>No engine was asked for, or nothing stayed behind.</p>"
    : table(
        ["nodes", "FLOPs", "not on", "why", "what would change it", "would save", "operators"],
        r.reasons.map((x) =>
          row([
            cell(x.nodes),
            cell(human(x.flops)),
            cell(x.engine),
            cell(x.why),
            cell(x.fix ?? ""),
            cell(x.gainUs === undefined || x.gainUs <= 0 ? "" : humanUs(x.gainUs)),
            cell(x.ops.join(", ")),
          ]),
        ),
        "reasons",
      )
}
</section>
<section aria-labelledby="boundary-title">
<h2 id="boundary-title">Boundary tensors</h2>
<div${lazy(r)}>${table(
    ["from", "tensor", "type", "bytes"],
    r.segments
      .flatMap((s) => s.outputs.map((t) => ({ from: s.name, ...t })))
      .sort((a, b) => b.bytes - a.bytes)
      .slice(0, 500)
      .map((t) => row([cell(t.from), cell(t.name), cell(t.type), cell(human(t.bytes, "B"))])),
    "boundary",
  )}</div>
</section>
<section aria-labelledby="passes-title">
<h2 id="passes-title">Passes</h2>
${table(
  ["pass", "nodes before", "after"],
  r.passes.map((p) => row([cell(p.pass), cell(p.nodesBefore), cell(p.nodesAfter)], p.changed ? "" : ' class="quiet"')),
)}
</section>
</main>
<script type="application/json" id="data">${data}</script>
<script>${MAP_SCRIPT}${PANEL_SCRIPT}</script>
</body>
</html>
`;
}

/** Tables of many segments are laid out when they are reached. */
const lazy = (r: ReportData): string => (r.segments.length > 60 ? ' class="lazy"' : "");

function segmentRow(s: ReportData["segments"][number], i: number): string {
  const ops = Object.entries(s.ops).map(([op, n]) => `${op}${n > 1 ? ` x${n}` : ""}`);
  return row(
    [
      `<td><button type="button">${escaped(s.name)}</button></td>`,
      cell(s.engine, s.engine),
      cell(s.nodes),
      cell(human(s.flops)),
      cell(human(s.bytes, "B")),
      cell(human(s.weightsBytes, "B")),
      cell(humanUs(s.estimatedUs)),
      cell(s.inputs.length),
      cell(s.outputs.length),
      cell(ops.join(", ")),
    ],
    ` data-segment="${i}"`,
  );
}

function whatIf(r: ReportData): string {
  if (r.whatIf === undefined) return "";
  const { assumed, before: b } = r.whatIf;
  const q = r.quality;
  const rows: readonly (readonly [string, string, string])[] = [
    ["engine segments", String(b.engineSegments), String(q.engineSegments)],
    ["FLOPs in engines", `${(100 * b.flopsCovered).toFixed(1)} %`, `${(100 * q.flopsCovered).toFixed(1)} %`],
    ["bytes that cross", human(b.boundaryBytes, "B"), human(q.boundaryBytes, "B")],
    ["changes of side", String(b.crossings), String(q.crossings)],
    ["estimate of a run", humanUs(b.estimatedUs), humanUs(q.estimatedUs ?? 0)],
  ];
  const what = Object.entries(assumed)
    .map(([op, e]) => (e === "host" ? `${op} on no engine` : `${op} on ${e}`))
    .join(", ");
  return `<section aria-labelledby="what-if-title">
<h2 id="what-if-title">What if: ${escaped(what)}</h2>
${table(
  ["figure", "now", "then"],
  rows.map((cells) => row(cells.map((c) => cell(c)))),
)}
</section>
`;
}

function support(r: ReportData): string {
  const rows = (r.support ?? []).filter((s) => s.gainUs > 0);
  if (rows.length === 0) return "";
  return `<section aria-labelledby="support-title">
<h2 id="support-title">Operators whose support would help most</h2>
${table(
  ["operator", "on", "nodes", "would save a run", "engine segments then", "FLOPs in engines then"],
  rows.map((s) =>
    row([
      cell(s.op),
      cell(s.engine),
      cell(s.nodes),
      cell(humanUs(s.gainUs)),
      cell(s.engineSegments),
      cell(`${(100 * s.flopsCovered).toFixed(1)} %`),
    ]),
  ),
  "support",
)}
</section>
`;
}
