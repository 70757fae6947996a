/** Charts of the page, drawn when the report is written: time by operator, time by segment, activation memory over a run. Each has its figures as text. */

import type { ReportData } from "./data.js";
import { escaped, timeOf } from "./html-parts.js";
import { human, humanUs } from "./text.js";

const BAR = 22;

/** Horizontal bars with their labels and values; a list to a screen reader. */
function bars(rows: readonly { readonly label: string; readonly value: number; readonly text: string; readonly kind: string }[]): string {
  const most = rows.reduce((m, r) => Math.max(m, r.value), 0);
  const height = rows.length * BAR + 4;
  const body = rows.map((r, i) => {
    const width = most === 0 ? 0 : Math.max(1, Math.round((r.value / most) * 380));
    const y = i * BAR;
    return `<text x="196" y="${y + 15}" text-anchor="end">${escaped(r.label.length > 30 ? `${r.label.slice(0, 29)}\u2026` : r.label)}</text><rect x="204" y="${y + 3}" width="${width}" height="${BAR - 7}" class="${r.kind}"/><text x="${210 + width}" y="${y + 15}">${escaped(r.text)}</text>`;
  });
  const spoken = rows.map((r) => `${r.label} ${r.text}`).join("; ");
  return `<svg class="chart" viewBox="0 0 700 ${height}" width="700" height="${height}" role="img" aria-label="${escaped(spoken)}">${body.join("")}</svg>`;
}

export function operatorChart(r: ReportData): string {
  const byOp = new Map<string, { us: number; nodes: number }>();
  for (const n of r.nodes) {
    const row = byOp.get(n.op) ?? { us: 0, nodes: 0 };
    row.us += timeOf(r, n);
    row.nodes++;
    byOp.set(n.op, row);
  }
  const rows = [...byOp].sort(([a, x], [b, y]) => y.us - x.us || (a < b ? -1 : 1)).slice(0, 14);
  return bars(rows.map(([op, x]) => ({ label: `${op} x${x.nodes}`, value: x.us, text: humanUs(x.us), kind: "bar" })));
}

export function segmentChart(r: ReportData): string {
  const rows = [...r.segments].sort((a, b) => b.estimatedUs - a.estimatedUs).slice(0, 14);
  return bars(
    rows.map((s) => ({ label: `${s.name}, ${s.nodes} nodes`, value: s.estimatedUs, text: humanUs(s.estimatedUs), kind: s.engine })),
  );
}

/** Live activations over the nodes of a run, left to right. */
export function memoryChart(r: ReportData): string {
  const m = r.memory;
  if (m === undefined || m.live.length < 2 || m.peakBytes === 0) return "<p>No activations of known size.</p>";
  const [W, H] = [700, 120];
  const step = W / (m.live.length - 1);
  const points = m.live.map((b, i) => `${(i * step).toFixed(1)},${(H - (b / m.peakBytes) * (H - 10)).toFixed(1)}`).join(" ");
  return `<svg class="chart" viewBox="0 0 ${W} ${H}" width="${W}" height="${H}" preserveAspectRatio="none" role="img" aria-label="Live activations over a run, at most ${human(m.peakBytes, "B")}"><polygon points="0,${H} ${points} ${W},${H}" class="area"/></svg>
<p>At most ${human(m.peakBytes, "B")} of activations are live at once${m.peakNode === "" ? "" : `, at ${escaped(m.peakNode)}`}; weights take ${human(r.model.weightsBytes, "B")}.</p>`;
}
