/** The report for a terminal: the answer first, then segments, reasons, and what would change them. */
import { styleText } from "node:util";
import { boundLines } from "./bound.js";
import type { ReportData } from "./data.js";
import { quantizationText } from "./quantization-text.js";

export interface TextOptions {
  readonly color?: boolean | undefined;
  /** Columns. Default 100. */
  readonly width?: number | undefined;
  /** Segments and reasons shown before the rest is summed up. Default 20. */
  readonly rows?: number | undefined;
}

const UNITS = ["", "k", "M", "G", "T", "P"];
/** 1234567 as "1.23 M". */
export function human(x: number, unit = ""): string {
  let [value, i] = [x, 0];
  while (value >= 1000 && i < UNITS.length - 1) {
    value /= 1000;
    i++;
  }
  const digits = value >= 100 || Number.isInteger(value) ? 0 : value >= 10 ? 1 : 2;
  return `${value.toFixed(digits)} ${UNITS[i] ?? ""}${unit}`.trim();
}
export const humanUs = (us: number): string =>
  us >= 1e6 ? `${(us / 1e6).toFixed(2)} s` : us >= 1000 ? `${(us / 1000).toFixed(2)} ms` : `${us.toFixed(1)} us`;
const percent = (x: number): string => `${(100 * x).toFixed(x > 0 && x < 0.0995 ? 2 : 1)} %`;
const COLORS = { host: "yellow", cuda: "green", tensorrt: "cyan" } as const;

const memoryText = (m: NonNullable<ReportData["segments"][number]["deviceMemory"]>[number]): string =>
  [
    ...(m.weightsBytes === undefined ? [] : [`weights ${human(m.weightsBytes, "B")}`]),
    ...(m.streamBytes === undefined ? [] : [`${human(m.streamBytes, "B")} a stream`]),
    ...(m.workspaceLimitBytes === undefined ? [] : [`at most ${human(m.workspaceLimitBytes, "B")} of scratch`]),
  ].join(", ");
const counted = (n: number, what: string): string => `${n} ${what}${n === 1 ? "" : "s"}`;

export function renderText(r: ReportData, options: TextOptions = {}): string {
  const width = Math.max(60, options.width ?? 100);
  const rows = options.rows ?? 20;
  const paint = (style: Parameters<typeof styleText>[0], s: string): string => (options.color === true ? styleText(style, s) : s);
  const lines: string[] = [];
  const heading = (s: string): void => void lines.push("", paint("bold", s));
  const q = r.quality;
  const engines = r.options.targets.filter((t) => t !== "host");
  lines.push(paint("bold", `Partita report: ${r.model.name}`));
  lines.push(
    `${r.model.nodes} nodes, ${q.nodes} after passes; ${human(q.flops, "FLOP")}; weights ${human(r.model.weightsBytes, "B")}; opset ${r.model.opset}; precision ${r.options.precision}`,
  );
  for (const t of r.model.inputs) lines.push(`  in   ${t.name}: ${t.type}`);
  lines.push(...boundLines(r.options.bound));
  for (const t of r.model.outputs) lines.push(`  out  ${t.name}: ${t.type}`);
  if (engines.length === 0) lines.push("Everything runs on the host, on ONNX Runtime.");
  else {
    const say = (text: string): void => void lines.push(...wrap(text, width, "", "  "));
    say(
      `${percent(q.flopsCovered)} of the FLOPs and ${percent(q.nodesCovered)} of the nodes in ${counted(q.engineSegments, "engine segment")} (lower bound ${q.lowerBound})${q.segments === q.engineSegments ? "" : `; the rest in ${counted(q.segments - q.engineSegments, "host part")}`}.`,
    );
    say(
      `${counted(q.cutTensors, "tensor")} ${q.cutTensors === 1 ? "crosses" : "cross"} (${human(q.boundaryBytes, "B")} a run), at most ${counted(q.crossings, "change")} of side on a path.`,
    );
    lines.push(bar(r, Math.min(width, 80), paint));
    if (q.estimatedUs !== undefined)
      lines.push(
        `Estimate of a run: ${humanUs(q.estimatedUs)}; ${human(q.hostToDeviceBytes ?? 0, "B")} to the device, ${human(q.deviceToHostBytes ?? 0, "B")} back.`,
      );
  }
  if (r.whatIf !== undefined) {
    const { assumed, before } = r.whatIf;
    heading(
      `What if: ${Object.entries(assumed)
        .map(([op, e]) => (e === "host" ? `${op} on no engine` : `${op} on ${e}`))
        .join(", ")}`,
    );
    const line = (label: string, old: string, now: string): void => void lines.push(`  ${label.padEnd(20)} ${old.padStart(12)} -> ${now}`);
    line("engine segments", String(before.engineSegments), String(q.engineSegments));
    line("FLOPs in engines", percent(before.flopsCovered), percent(q.flopsCovered));
    line("bytes that cross", human(before.boundaryBytes, "B"), human(q.boundaryBytes, "B"));
    line("changes of side", String(before.crossings), String(q.crossings));
    line("estimate of a run", humanUs(before.estimatedUs), humanUs(q.estimatedUs ?? 0));
  }
  heading("Segments");
  lines.push(row(["segment", "nodes", "FLOPs", "bytes", "estimate", "in/out", "operators"], width));
  const shown =
    r.segments.length > rows ? [...r.segments].sort((a, b) => b.flops - a.flops || b.nodes - a.nodes).slice(0, rows) : r.segments;
  for (const s of shown) {
    const ops = Object.entries(s.ops)
      .map(([op, n]) => (n === 1 ? op : `${op} x${n}`))
      .join(", ");
    const text = row(
      [s.name, String(s.nodes), human(s.flops), human(s.bytes, "B"), humanUs(s.estimatedUs), `${s.inputs.length}/${s.outputs.length}`, ops],
      width,
    );
    lines.push(paint(COLORS[s.engine], text));
    if (s.times !== undefined && s.times.length > 0)
      lines.push(paint("dim", `    measured: ${s.times.map((t) => `${t.engine} ${humanUs(t.us)}`).join(", ")}`));
    for (const m of s.deviceMemory ?? [])
      lines.push(paint("dim", `    on the device${m.shape === undefined ? "" : ` for ${m.shape}`}: ${memoryText(m)}`));
    if (s.int8 !== undefined) lines.push(paint("dim", `    TensorRT's int8: ${agreementText(s.int8)}`));
  }
  if (shown.length < r.segments.length)
    lines.push(`... and ${r.segments.length - shown.length} smaller ones (all are in the JSON and HTML forms)`);
  if (r.reasons.length > 0) {
    heading("On the host, and why");
    for (const reason of r.reasons.slice(0, rows)) {
      lines.push(
        ...wrap(
          `${reason.nodes} node${reason.nodes === 1 ? "" : "s"}, ${human(reason.flops, "FLOP")} (${reason.ops.slice(0, 6).join(", ")}${reason.ops.length > 6 ? ", ..." : ""}), not on ${reason.engine}: ${reason.why}`,
          width,
          "  ",
          "    ",
        ),
      );
      if (reason.fix !== undefined) lines.push(...wrap(paint("dim", `to change it: ${reason.fix}`), width, "    ", "      "));
      if (reason.gainUs !== undefined && reason.gainUs > 0) lines.push(paint("dim", `    it would save ${humanUs(reason.gainUs)} a run`));
    }
  }
  const helpful = (r.support ?? []).filter((s) => s.gainUs > 0);
  if (helpful.length > 0) {
    heading("Operators whose support would help most");
    for (const s of helpful.slice(0, rows))
      lines.push(
        ...wrap(
          `${s.op} on ${s.engine}, ${counted(s.nodes, "node")}: saves ${humanUs(s.gainUs)} a run; then ${counted(s.engineSegments, "engine segment")}, ${percent(s.flopsCovered)} of the FLOPs`,
          width,
          "  ",
          "    ",
        ),
      );
  }
  if (r.quantization !== undefined) {
    heading("Quantization");
    for (const line of quantizationText(r.quantization, rows))
      lines.push(...(line.startsWith(" ") ? [line] : wrap(line, width, "  ", "    ")));
  }
  const remarks = r.remarks ?? [];
  if (remarks.length > 0) {
    heading("Remarks");
    for (const m of remarks.slice(0, rows)) {
      lines.push(...wrap(paint(m.severity === "warning" ? "yellow" : "dim", `${m.severity}: ${m.text}`), width, "  ", "    "));
      if (m.fix !== undefined) lines.push(...wrap(paint("dim", `to mend it: ${m.fix}`), width, "    ", "      "));
    }
    if (remarks.length > rows) lines.push(`  ... and ${remarks.length - rows} more (all are in the JSON form)`);
  }
  const changed = r.passes.filter((p) => p.changed);
  if (changed.length > 0) {
    heading("Passes that changed the graph");
    for (const p of changed) lines.push(`  ${p.pass.padEnd(24)} ${String(p.nodesBefore).padStart(6)} -> ${p.nodesAfter} nodes`);
  }
  return `${lines.join("\n")}\n`;
}

const COLUMNS = [16, 7, 9, 10, 10, 7] as const;
function row(cells: readonly string[], width: number): string {
  const fixed = COLUMNS.map((w, i) => (i === 0 ? (cells[i] ?? "").padEnd(w) : (cells[i] ?? "").padStart(w))).join("");
  const rest = Math.max(10, width - fixed.length - 4);
  const last = cells[COLUMNS.length] ?? "";
  return `  ${fixed}  ${last.length > rest ? `${last.slice(0, rest - 3)}...` : last}`;
}

/** Where the FLOPs are, left to right in the order of execution. */
function bar(r: ReportData, width: number, paint: (style: Parameters<typeof styleText>[0], s: string) => string): string {
  const total = r.segments.reduce((a, s) => a + s.flops, 0);
  if (total === 0) return "";
  const glyph = { host: "░", cuda: "█", tensorrt: "▓" } as const;
  const pieces = r.segments.map((s) => ({ s, cells: Math.round((s.flops / total) * (width - 4)) })).filter((p) => p.cells > 0);
  return `  ${pieces.map(({ s, cells }) => paint(COLORS[s.engine], glyph[s.engine].repeat(cells))).join("")}`;
}

function wrap(text: string, width: number, first: string, next: string): string[] {
  const lines: string[] = [];
  let line = first;
  for (const word of text.split(" ")) {
    if (line.trim() !== "" && line.length + word.length > width) {
      lines.push(line.trimEnd());
      line = next;
    }
    line += `${word} `;
  }
  lines.push(line.trimEnd());
  return lines;
}

function agreementText({ elements, mismatchPpm, maxSteps }: NonNullable<ReportData["segments"][number]["int8"]>): string {
  const most = maxSteps === undefined ? "not all finite" : `by ${maxSteps} steps at most`;
  return `${mismatchPpm} ppm of ${elements} elements differ from the reference arithmetic, ${most}`;
}
