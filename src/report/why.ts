/** "Why is this node where it is": the verdicts on a node, what would change them, and what the change would gain. */
import type { ReportData, ReportNode } from "./data.js";
import { human, humanUs } from "./text.js";

export interface Why {
  readonly node: string;
  readonly op: string;
  readonly origin: readonly string[];
  /** The segment it runs in. */
  readonly segment: string;
  readonly engine: ReportData["segments"][number]["engine"];
  readonly flops: number;
  readonly bytes: number;
  readonly output: string;
  /** Every engine asked for that does not run it. */
  readonly notOn: readonly WhyNot[];
}
export interface WhyNot {
  readonly engine: string;
  readonly why: string;
  readonly fix: string | undefined;
  /** Nodes that stay on the host for the same reason, this one among them; 0 when it runs on another engine. */
  readonly sameReason: number;
  /** Microseconds a run would gain if this reason went away for all of them. */
  readonly gainUs: number | undefined;
  /** Microseconds a run would gain if the engine took the whole operator. */
  readonly operatorGainUs: number | undefined;
}

/** One answer per node whose name or origin is `name`. */
export function whyOf(r: ReportData, name: string): readonly Why[] {
  return r.nodes.filter((n) => n.name === name || n.origin.includes(name)).map((n) => answer(r, n));
}

function answer(r: ReportData, n: ReportNode): Why {
  const segment = r.segments[n.segment];
  return {
    node: n.name,
    op: n.op,
    origin: n.origin,
    segment: segment?.name ?? "",
    engine: segment?.engine ?? "host",
    flops: n.flops,
    bytes: n.bytes,
    output: n.output,
    notOn: n.notOn.map((x): WhyNot => {
      const reason = r.reasons.find((y) => y.engine === x.engine && y.why === x.why);
      const support = r.support?.find((s) => s.engine === x.engine && s.op === n.op);
      return {
        engine: x.engine,
        why: x.why,
        fix: x.fix,
        sameReason: segment?.engine === "host" ? (reason?.nodes ?? 0) : 0,
        gainUs: segment?.engine === "host" ? reason?.gainUs : undefined,
        operatorGainUs: segment?.engine === "host" ? support?.gainUs : undefined,
      };
    }),
  };
}

export function whyText(answers: readonly Why[]): string {
  const lines: string[] = [];
  for (const w of answers) {
    lines.push(`${w.op} '${w.node}' runs in ${w.segment}; ${w.output}; ${human(w.flops, "FLOP")}, ${human(w.bytes, "B")}`);
    if (w.origin.some((o) => o !== w.node)) lines.push(`  from ${w.origin.map((o) => `'${o}'`).join(", ")}`);
    if (w.notOn.length === 0) lines.push(w.engine === "host" ? "  no engine was asked for" : "  the first engine asked for takes it");
    for (const x of w.notOn) {
      lines.push(`  not on ${x.engine}: ${x.why}`);
      if (x.fix !== undefined) lines.push(`    to change it: ${x.fix}`);
      if (x.gainUs !== undefined) {
        const many = x.sameReason > 1 ? ` for all ${x.sameReason} nodes that it holds for` : "";
        lines.push(`    without this reason${many} a run would ${gained(x.gainUs)} by the estimate`);
      }
      if (x.operatorGainUs !== undefined && x.operatorGainUs !== x.gainUs)
        lines.push(`    with ${w.op} supported throughout it would ${gained(x.operatorGainUs)}`);
    }
  }
  return `${lines.join("\n")}\n`;
}
const gained = (us: number): string => (us > 0 ? `take ${humanUs(us)} less` : us < 0 ? `take ${humanUs(-us)} more` : "take as long as now");
