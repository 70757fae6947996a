/** The text of `summary()`: TF-TRT's table of engines, with the reasons for what was not converted. */
import type { ShapeRange } from "../engines/shape-cache.js";
import type { Report } from "../report/report.js";

const typed = (t: { readonly name: string; readonly type: string }): string => `${t.name} ${t.type}`;

export function summaryText(
  report: Report,
  engines: readonly ShapeRange[],
  { detailed = false, lineLength = 120 }: { readonly detailed?: boolean | undefined; readonly lineLength?: number | undefined },
): string {
  const { segments, nodes, reasons } = report.toJSON();
  const lines: string[] = [];
  const rule = "=".repeat(lineLength);
  const columns = (cells: readonly string[]): string => {
    const [name = "", device = "", ...rest] = cells;
    return [name.padEnd(24), device.padEnd(10), ...rest.map((c, i) => (i < rest.length - 1 ? c.padEnd(8) : c))]
      .join(" ")
      .slice(0, lineLength);
  };
  lines.push(rule, columns(["engine", "device", "nodes", "inputs", "outputs"]), rule);
  const taken = segments.filter((s) => s.engine !== "host");
  for (const s of taken) {
    lines.push(columns([s.name, s.engine, String(s.nodes), String(s.inputs.length), String(s.outputs.length)]));
    for (const t of s.inputs) lines.push(`    input  ${typed(t)}`.slice(0, lineLength));
    for (const t of s.outputs) lines.push(`    output ${typed(t)}`.slice(0, lineLength));
    if (detailed) for (const [op, n] of Object.entries(s.ops)) lines.push(`    ${String(n).padStart(6)} ${op}`);
    lines.push("-".repeat(lineLength));
  }
  const inside = taken.reduce((a, s) => a + s.nodes, 0);
  const share = nodes.length === 0 ? 0 : (100 * inside) / nodes.length;
  lines.push(`engines: ${taken.length}; operators converted: ${inside} of ${nodes.length} (${share.toFixed(1)} %)`);
  for (const e of engines) {
    const range = ({ min, max }: { readonly min: readonly number[]; readonly max: readonly number[] }): string =>
      min.join() === max.join() ? `[${max}]` : `[${min}] to [${max}]`;
    lines.push(
      `built for ${Object.entries(e)
        .map(([name, s]) => `${name} ${range(s)}`)
        .join(", ")}`,
    );
  }
  if (reasons.length > 0) {
    lines.push("not converted:");
    for (const r of reasons) lines.push(`    ${r.ops.join(", ")}: ${r.why}`.slice(0, Math.max(lineLength, 200)));
  }
  return lines.join("\n");
}
