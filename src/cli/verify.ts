/** `partita verify`: prints what verification found. */
import type { CompileOptions } from "../options.js";
import type { FaultyNode, ValueError } from "../runtime/bisect.js";
import type { Fault, Verification } from "../runtime/verify.js";
import { verify } from "../verify.js";
import { readFeeds } from "./files.js";
import { parseNumber } from "./syntax.js";
import type { Terminal } from "./terminal.js";

export interface VerifyFlags {
  readonly input: readonly string[];
  readonly tolerance: string;
  readonly batch: string;
  readonly model?: string;
  readonly json?: boolean;
}

export async function verifyCommand(t: Terminal, path: string, options: CompileOptions, flags: VerifyFlags): Promise<void> {
  const result = await verify(path, {
    model: flags.model,
    tolerance: parseNumber("--tolerance", flags.tolerance, { least: 0, whole: false }),
    size: parseNumber("--batch", flags.batch, { least: 1, whole: true }),
    compile: options,
    ...(flags.input.length === 0 ? {} : { feeds: (inputs) => readFeeds(inputs, flags.input) }),
    onProgress: (stage, fraction) => t.progress(stage, fraction),
  });
  t.done();
  if (flags.json === true) t.json(result);
  else t.out(verificationText(result));
  if (!result.ok) t.exitCode = 1;
}

const errorText = (e: ValueError): string =>
  `max error ${e.maxError.toExponential(2)} (${e.relative.toExponential(2)} of the largest value) at [${e.place.join(", ")}]: ${e.actual}, expected ${e.expected}; SQNR ${e.sqnrDb === Number.POSITIVE_INFINITY ? "exact" : `${e.sqnrDb.toFixed(1)} dB`}`;

const CAUSES: Readonly<Record<Fault["cause"], string>> = {
  engine: "the engine gives wrong values for right ones",
  fusion: "the engine gives wrong values for right ones, where it sees these nodes together",
  rewriting: "the compiled graph says something else than the model: passes or quantizers changed it",
  accumulated: "each segment is right for right inputs, and the errors add up",
};
const AGAINST = { model: "", origin: " (against the node it comes from)", segment: " (against ONNX Runtime on the segment)" } as const;

export function verificationText(v: Verification): string {
  const lines: string[] = [];
  for (const s of v.segments) {
    lines.push(`${s.ok ? "ok   " : "WRONG"}  ${s.segment} (${s.engine})`);
    for (const o of s.outputs) lines.push(`         ${o.name}: ${errorText(o)}${AGAINST[o.against]}`);
  }
  for (const o of v.outputs) lines.push(`output ${o.name}: ${errorText(o)}`);
  if (v.fault !== undefined) lines.push(...faultLines(v.fault));
  lines.push(v.ok ? "verified" : `NOT within ${v.tolerance}`);
  return lines.join("\n");
}

function faultLines({ segment, engine, cause, node }: Fault): readonly string[] {
  return [`first wrong segment: ${segment} (${engine}): ${CAUSES[cause]}`, ...(node === undefined ? [] : nodeLines(node))];
}
function nodeLines(n: FaultyNode): readonly string[] {
  const from = n.origin.filter((o) => o !== n.name);
  return [
    `first wrong node:    ${n.name} (${n.op})${from.length === 0 ? "" : `, from ${from.join(", ")}`}`,
    ...n.inputs.map((i) => `         reads ${i.name}: ${i.type}[${i.dims.join(", ")}]`),
    `         gives ${n.output.name}: ${errorText(n.output)}`,
    ...(n.alone === undefined ? [] : [`         alone: ${errorText(n.alone)}`]),
  ];
}
