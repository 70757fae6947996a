/** Pieces that both pages are made of. */
import { nodeUs } from "../partition/cost.js";
import type { ReportData, ReportNode } from "./report.js";

export const escaped = (s: string): string =>
  s.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");

/** Microseconds of a node where it runs: measured, or else estimated. */
export const timeOf = (r: ReportData, n: ReportNode): number =>
  n.measuredUs ?? nodeUs(r.segments[n.segment]?.engine ?? "host", n, r.options.precision);
