/** Two reports side by side: two versions of a model, two sets of options, two engines. Nodes are matched by name. */
import type { ReportData } from "./data.js";
import { human, humanUs } from "./text.js";

export const DIFF_SCHEMA = "partita.diff/1";

export interface ReportDiff {
  readonly schema: typeof DIFF_SCHEMA;
  readonly before: { readonly model: string; readonly options: ReportData["options"] };
  readonly after: { readonly model: string; readonly options: ReportData["options"] };
  /** Every figure of `quality` that both have. */
  readonly quality: readonly { readonly figure: string; readonly before: number; readonly after: number }[];
  /** Nodes in both that run on another engine now. */
  readonly moved: readonly {
    readonly node: string;
    readonly op: string;
    readonly before: string;
    readonly after: string;
    readonly why: string;
  }[];
  readonly added: readonly { readonly node: string; readonly op: string; readonly engine: string }[];
  readonly removed: readonly { readonly node: string; readonly op: string; readonly engine: string }[];
  /** Reasons that only one of them has, or that hold for another number of nodes. */
  readonly reasons: readonly { readonly engine: string; readonly why: string; readonly before: number; readonly after: number }[];
  /** Passes that changed another number of nodes. */
  readonly passes: readonly { readonly pass: string; readonly before: number; readonly after: number }[];
}

export function diffReports(a: ReportData, b: ReportData): ReportDiff {
  const figures = Object.keys(a.quality) as (keyof ReportData["quality"])[];
  const quality = figures.flatMap((figure) => {
    const [before, after] = [a.quality[figure], b.quality[figure]];
    return before === undefined || after === undefined ? [] : [{ figure, before, after }];
  });
  const place = (r: ReportData): Map<string, ReportData["nodes"][number]> => new Map(r.nodes.map((n) => [n.name, n]));
  const [old, now] = [place(a), place(b)];
  const engineIn = (r: ReportData, n: ReportData["nodes"][number]): string => r.segments[n.segment]?.engine ?? "host";
  const moved: ReportDiff["moved"][number][] = [];
  const added: ReportDiff["added"][number][] = [];
  for (const [name, n] of now) {
    const was = old.get(name);
    const after = engineIn(b, n);
    if (was === undefined) added.push({ node: name, op: n.op, engine: after });
    else if (engineIn(a, was) !== after) {
      const before = engineIn(a, was);
      const reason = (after === "host" ? n.notOn : was.notOn).find((x) => x.engine === (after === "host" ? before : after));
      const why = reason?.why ?? (after === "host" ? "its engine was not asked for" : "its engine was not asked for before");
      moved.push({ node: name, op: n.op, before, after, why });
    }
  }
  const removed = [...old].filter(([name]) => !now.has(name)).map(([node, n]) => ({ node, op: n.op, engine: engineIn(a, n) }));
  return {
    schema: DIFF_SCHEMA,
    before: { model: a.model.name, options: a.options },
    after: { model: b.model.name, options: b.options },
    quality,
    moved,
    added,
    removed,
    reasons: counted(a.reasons, b.reasons),
    passes: a.passes.flatMap((p) => {
      const q = b.passes.find((x) => x.pass === p.pass);
      const [before, after] = [p.nodesAfter - p.nodesBefore, q === undefined ? 0 : q.nodesAfter - q.nodesBefore];
      return before === after ? [] : [{ pass: p.pass, before, after }];
    }),
  };
}

function counted(a: ReportData["reasons"], b: ReportData["reasons"]): ReportDiff["reasons"] {
  const table = new Map<string, { engine: string; why: string; before: number; after: number }>();
  for (const [side, list] of [
    ["before", a],
    ["after", b],
  ] as const)
    for (const r of list) {
      const key = `${r.engine}|${r.why}`;
      const row = table.get(key) ?? { engine: r.engine, why: r.why, before: 0, after: 0 };
      row[side] = r.nodes;
      table.set(key, row);
    }
  return [...table.values()]
    .filter((r) => r.before !== r.after)
    .sort((x, y) => Math.abs(y.after - y.before) - Math.abs(x.after - x.before) || (x.why < y.why ? -1 : 1));
}

const SHARES = new Set(["flopsCovered", "nodesCovered", "bytesCovered", "largestShare"]);
const LABELS: Readonly<Record<string, string>> = {
  nodes: "nodes",
  segments: "segments",
  engineSegments: "engine segments",
  lowerBound: "lower bound",
  flops: "FLOPs",
  flopsCovered: "FLOPs in engines",
  nodesCovered: "nodes in engines",
  bytesCovered: "bytes in engines",
  cutTensors: "tensors that cross",
  boundaryBytes: "bytes that cross",
  crossings: "changes of side",
  largestShare: "largest segment",
  hostToDeviceBytes: "host to device",
  deviceToHostBytes: "device to host",
  estimatedUs: "estimate of a run",
};
/** A figure's name and value for people. */
export const figureLabel = (figure: string): string => LABELS[figure] ?? figure;
export function figureText(figure: string, x: number): string {
  if (SHARES.has(figure)) return `${(100 * x).toFixed(1)} %`;
  if (figure === "estimatedUs") return humanUs(x);
  return /Bytes|host to|device to/.test(figure) ? human(x, "B") : human(x);
}

export function diffText(d: ReportDiff, rows = 20): string {
  const lines = [
    `${d.before.model} (${d.before.options.targets.join(", ")}) -> ${d.after.model} (${d.after.options.targets.join(", ")})`,
    "",
  ];
  for (const q of d.quality) {
    const mark = q.before === q.after ? " " : "*";
    lines.push(
      `${mark} ${figureLabel(q.figure).padEnd(20)} ${figureText(q.figure, q.before).padStart(12)} -> ${figureText(q.figure, q.after).padStart(12)}`,
    );
  }
  const list = <T>(title: string, items: readonly T[], line: (x: T) => string): void => {
    if (items.length === 0) return;
    lines.push("", `${title}: ${items.length}`);
    for (const x of items.slice(0, rows)) lines.push(`  ${line(x)}`);
    if (items.length > rows) lines.push(`  ... and ${items.length - rows} more`);
  };
  list("Nodes that moved", d.moved, (m) => `${m.op} '${m.node}': ${m.before} -> ${m.after} (${m.why})`);
  list("Nodes only in the second", d.added, (n) => `${n.op} '${n.node}' on ${n.engine}`);
  list("Nodes only in the first", d.removed, (n) => `${n.op} '${n.node}' on ${n.engine}`);
  list("Reasons", d.reasons, (r) => `${r.before} -> ${r.after} nodes not on ${r.engine}: ${r.why}`);
  list("Passes", d.passes, (p) => `${p.pass}: ${signed(p.before)} -> ${signed(p.after)} nodes`);
  return `${lines.join("\n")}\n`;
}
const signed = (x: number): string => (x > 0 ? `+${x}` : String(x));
