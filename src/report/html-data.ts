/** The report as the page's script reads it: columns instead of records, strings once, places computed. A node takes some sixty bytes. */

import type { ReportData } from "./data.js";
import { timeOf } from "./html-parts.js";
import { layoutOf } from "./layout.js";

class Strings {
  readonly list: string[] = [];
  readonly #index = new Map<string, number>();
  add(s: string): number {
    let i = this.#index.get(s);
    if (i === undefined) this.#index.set(s, (i = this.list.push(s) - 1));
    return i;
  }
}

/** One graph to draw. `group` of a node is a segment, or in the graph before the passes one more: what the passes took away. */
interface Drawn {
  readonly name: readonly number[];
  readonly op: readonly number[];
  readonly group: readonly number[];
  readonly starts: readonly number[];
  readonly after: readonly number[];
  readonly x: readonly number[];
  readonly y: readonly number[];
  readonly boxes: {
    readonly x: readonly number[];
    readonly y: readonly number[];
    readonly w: readonly number[];
    readonly h: readonly number[];
  };
  readonly edges: readonly number[];
}

export function pageData(r: ReportData): unknown {
  const strings = new Strings();
  const lists = new Strings();
  const nodes = r.nodes;
  const now = drawn(
    strings,
    nodes,
    nodes.map((n) => n.segment),
    r.segments.length,
  );
  const origin: Record<number, readonly string[]> = {};
  const weights: Record<number, ReportData["nodes"][number]["weights"]> = {};
  nodes.forEach((n, i) => {
    if (n.origin.length > 0 && (n.origin.length > 1 || n.origin[0] !== n.name)) origin[i] = n.origin;
    if (n.weights !== undefined) weights[i] = n.weights;
  });
  return {
    strings: strings.list,
    now,
    before: r.original === undefined ? undefined : earlier(strings, r, r.original),
    output: nodes.map((n) => strings.add(n.output)),
    inputs: nodes.map((n) => lists.add((n.inputs ?? []).join("\n"))),
    flops: nodes.map((n) => n.flops),
    bytes: nodes.map((n) => n.bytes),
    us: nodes.map((n) => Math.round(timeOf(r, n) * 100) / 100),
    notOn: nodes.map((n) => (n.notOn.length === 0 ? -1 : lists.add(JSON.stringify(n.notOn)))),
    lists: lists.list,
    origin,
    weights,
    segments: r.segments,
    gains: r.reasons.flatMap((x) => (x.gainUs === undefined ? [] : [[x.engine, x.why, x.gainUs, x.nodes]])),
  };
}

function drawn(
  strings: Strings,
  nodes: readonly { readonly name: string; readonly op: string; readonly after: readonly number[] }[],
  group: readonly number[],
  count: number,
): Drawn {
  const layout = layoutOf(
    group,
    count,
    nodes.map((n) => n.after),
  );
  const starts = [0];
  const after: number[] = [];
  for (const n of nodes) {
    for (const a of n.after) after.push(a);
    starts.push(after.length);
  }
  return {
    name: nodes.map((n) => strings.add(n.name)),
    op: nodes.map((n) => strings.add(n.op)),
    group,
    starts,
    after,
    x: [...layout.x],
    y: [...layout.y],
    boxes: { x: [...layout.groups.x], y: [...layout.groups.y], w: [...layout.groups.w], h: [...layout.groups.h] },
    edges: layout.edges,
  };
}

/** The graph before the passes, its nodes grouped by the segment of what became of them. */
function earlier(strings: Strings, r: ReportData, original: NonNullable<ReportData["original"]>): Drawn {
  const became = new Map<string, number>();
  for (const n of r.nodes) for (const o of [n.name, ...n.origin]) if (!became.has(o)) became.set(o, n.segment);
  const gone = r.segments.length;
  return drawn(
    strings,
    original,
    original.map((n) => became.get(n.name) ?? gone),
    gone + 1,
  );
}
