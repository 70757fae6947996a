/** The report as one self-contained page: summary, a map of the segments on a canvas, tables, search. No network, no dependencies. */
import { escaped } from "./html-parts.js";
import { PAGE_SCRIPT } from "./html-script.js";
import { PAGE_STYLE } from "./html-style.js";
import type { ReportData } from "./report.js";
import { human, humanUs } from "./text.js";

export function renderHtml(r: ReportData): string {
  const q = r.quality;
  // "</script" and "<!--" would end or change the script block they stand in.
  const data = JSON.stringify(r).replaceAll("<", "\\u003c").replaceAll("\u2028", "\\u2028").replaceAll("\u2029", "\\u2029");
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
</div>
</header>
<main>
<section aria-labelledby="map-title">
<h2 id="map-title">Map</h2>
<div class="tools">
<label>Search <input id="search" type="search" placeholder="node, operator, origin" autocomplete="off"></label>
<label>Colour <select id="color"><option value="engine">engine</option><option value="time">time</option><option value="bytes">bytes</option></select></label>
<button id="fit" type="button">Fit</button>
<span id="hits" role="status" aria-live="polite"></span>
</div>
<canvas id="map" tabindex="0" role="img" aria-label="The segments in their order of execution. The table of segments below has the same facts."></canvas>
<aside id="detail" aria-live="polite"><p>Click a segment to open it, click a node for its verdicts. Drag to pan, scroll to zoom; arrow keys, plus and minus do the same.</p></aside>
</section>
<section aria-labelledby="segments-title">
<h2 id="segments-title">Segments</h2>
<table id="segments"><thead><tr><th>segment</th><th>engine</th><th>nodes</th><th>FLOPs</th><th>bytes</th><th>weights</th><th>estimate</th><th>inputs</th><th>outputs</th><th>operators</th></tr></thead><tbody>
${r.segments
  .slice(0, 2000)
  .map(
    (s, i) =>
      `<tr data-segment="${i}"><td><button type="button">${escaped(s.name)}</button></td><td class="${s.engine}">${s.engine}</td><td>${s.nodes}</td><td>${human(s.flops)}</td><td>${human(s.bytes, "B")}</td><td>${human(s.weightsBytes, "B")}</td><td>${humanUs(s.estimatedUs)}</td><td>${s.inputs.length}</td><td>${s.outputs.length}</td><td>${escaped(
        Object.entries(s.ops)
          .map(([op, n]) => `${op}${n > 1 ? ` x${n}` : ""}`)
          .join(", "),
      )}</td></tr>`,
  )
  .join("\n")}
</tbody></table>
</section>
<section aria-labelledby="reasons-title">
<h2 id="reasons-title">On the host, and why</h2>
${
  r.reasons.length === 0
    ? "<p>No engine was asked for, or nothing stayed behind.</p>"
    : `<table id="reasons"><thead><tr><th>nodes</th><th>FLOPs</th><th>not on</th><th>why</th><th>what would change it</th><th>operators</th></tr></thead><tbody>
${r.reasons.map((x) => `<tr><td>${x.nodes}</td><td>${human(x.flops)}</td><td>${x.engine}</td><td>${escaped(x.why)}</td><td>${escaped(x.fix ?? "")}</td><td>${escaped(x.ops.join(", "))}</td></tr>`).join("\n")}
</tbody></table>`
}
</section>
<section aria-labelledby="boundary-title">
<h2 id="boundary-title">Boundary tensors</h2>
<table id="boundary"><thead><tr><th>from</th><th>tensor</th><th>type</th><th>bytes</th></tr></thead><tbody>
${r.segments
  .flatMap((s) => s.outputs.map((t) => ({ s: s.name, ...t })))
  .sort((a, b) => b.bytes - a.bytes)
  .slice(0, 500)
  .map((t) => `<tr><td>${escaped(t.s)}</td><td>${escaped(t.name)}</td><td>${escaped(t.type)}</td><td>${human(t.bytes, "B")}</td></tr>`)
  .join("\n")}
</tbody></table>
</section>
<section aria-labelledby="passes-title">
<h2 id="passes-title">Passes</h2>
<table><thead><tr><th>pass</th><th>nodes before</th><th>after</th></tr></thead><tbody>
${r.passes.map((p) => `<tr class="${p.changed ? "" : "quiet"}"><td>${escaped(p.pass)}</td><td>${p.nodesBefore}</td><td>${p.nodesAfter}</td></tr>`).join("\n")}
</tbody></table>
</section>
</main>
<script type="application/json" id="data">${data}</script>
<script>${PAGE_SCRIPT}</script>
</body>
</html>
`;
}
