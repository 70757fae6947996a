/** Pieces that both pages are made of. */
import { nodeUs } from "../partition/cost.js";
import type { ReportData, ReportNode } from "./data.js";

export const escaped = (s: string): string =>
  s.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");

/** Cells longer than this wrap, within a word if they must (tensors' names are one word); shorter ones stay on one line. */
export const LONG_CELL = 24;
/** A cell of plain text; `kind` is a class. */
export function cell(text: string | number, kind = ""): string {
  const classes = [kind, String(text).length > LONG_CELL ? "text" : ""].filter((c) => c !== "").join(" ");
  return `<td${classes === "" ? "" : ` class="${classes}"`}>${escaped(String(text))}</td>`;
}
/** A row of cells; `attributes` stand in its tag as they are. */
export const row = (cells: readonly string[], attributes = ""): string => `<tr${attributes}>${cells.join("")}</tr>`;
/** A table of rows under a head of plain text. */
export function table(head: readonly string[], rows: readonly string[], id?: string): string {
  const heads = head.map((h) => `<th scope="col">${escaped(h)}</th>`).join("");
  return `<table${id === undefined ? "" : ` id="${id}"`}><thead><tr>${heads}</tr></thead><tbody>\n${rows.join("\n")}\n</tbody></table>`;
}

/** Microseconds of a node where it runs: measured, or else estimated. */
export const timeOf = (r: ReportData, n: ReportNode): number =>
  n.measuredUs ?? nodeUs(r.segments[n.segment]?.engine ?? "host", n, r.options.precision);
