/** What the commands do. */

import { copyFileSync, mkdirSync, readFileSync } from "node:fs";
import { basename, dirname, extname, join, resolve } from "node:path";
import { replaceFile } from "../atomic.js";
import { compile, load, report } from "../compile.js";
import { defineError, didYouMean } from "../diagnostics.js";
import { evaluate } from "../engines/host/index.js";
import { detect, importModel } from "../import/index.js";
import { qualifiedOp } from "../ir/graph.js";
import { print } from "../ir/print.js";
import { writeNpz } from "../npz.js";
import { inferGraph } from "../ops/infer.js";
import { badOption, type CompileOptions } from "../options.js";
import { passContext } from "../passes/pass.js";
import { pipeline } from "../passes/pipeline.js";
import { diffReports, diffText } from "../report/diff.js";
import { renderDiffHtml } from "../report/html-diff.js";
import { type Report, reportFromJSON } from "../report/report.js";
import { whyText } from "../report/why.js";
import { loadBundle } from "../runtime/bundle.js";
import { doctor } from "../runtime/doctor.js";
import { type ExportedFile, epContextFiles } from "../runtime/epcontext.js";
import { profileText } from "../runtime/profile.js";
import { tritonFiles } from "../runtime/triton.js";
import { badFile, demandPlace, isBundle, open, readFeeds, write } from "./files.js";
import { parseNumber } from "./syntax.js";
import type { Terminal } from "./terminal.js";

export const noSuchNode = defineError<{ name: string; near: string | undefined }>(
  "P4002",
  "a report has no such node",
  ({ name, near }) => ({
    what: `no node or origin is named '${name}'`,
    fix: near === undefined ? "list the nodes with --json" : `did you mean '${near}'?`,
  }),
);
export const noSuchPass = defineError<{ name: string; near: string | undefined; known: readonly string[] }>(
  "P4003",
  "there is no such pass",
  ({ name, near, known }) => ({
    what: `there is no pass '${name}'`,
    fix: near === undefined ? `the passes are ${known.join(", ")}` : `did you mean '${near}'?`,
  }),
  2,
);
const EXPORT_FORMATS = ["onnx", "epcontext", "triton"] as const;
export const noSuchFormat = defineError<{ name: string; near: string | undefined }>(
  "P4004",
  "there is no such export format",
  ({ name, near }) => ({
    what: `a bundle cannot be exported as '${name}'`,
    fix: near === undefined ? "use onnx, epcontext or triton" : `did you mean '${near}'?`,
  }),
  2,
);

/** Writes a report in the form that the path's end asks for. Where that is known to fail it throws at once, before there is a report. */
function reportWriter(path: string): (r: Report) => void {
  const forms: Readonly<Record<string, (r: Report) => string>> = {
    ".html": (r) => r.toHTML(),
    ".json": (r) => `${JSON.stringify(r.toJSON(), null, 1)}\n`,
    ".txt": (r) => r.toText(),
  };
  const form = forms[extname(path)];
  if (form === undefined) throw badFile({ what: "a report is .html, .json or .txt", fix: "name it so" }, { file: path });
  demandPlace(path);
  return (r) => write(path, form(r));
}

export async function compileCommand(
  t: Terminal,
  path: string,
  options: CompileOptions,
  flags: { readonly output?: string; readonly report?: string; readonly json?: boolean },
): Promise<void> {
  const output = flags.output ?? `${basename(path).replace(/\.(onnx|pb|pbtxt)$/, "")}.partita`;
  demandPlace(output);
  const writeReport = flags.report === undefined ? undefined : reportWriter(flags.report);
  const program = await compile(path, options);
  await program.save(output);
  writeReport?.(program.report);
  if (flags.json === true) t.json({ schema: "partita.compile/1", bundle: output, report: program.report.toJSON() });
  else {
    t.out(program.report.toText({ color: t.color, width: t.width, rows: 8 }));
    t.out(`bundle: ${output}`);
  }
}

export async function reportCommand(
  t: Terminal,
  path: string,
  options: CompileOptions,
  flags: { readonly html?: string; readonly why?: string; readonly diff?: string; readonly rows: string; readonly json?: boolean },
): Promise<void> {
  const rows = parseNumber("--rows", flags.rows, { least: 1, whole: true });
  if (flags.why !== undefined && flags.diff !== undefined)
    throw badOption({ name: "--why", what: "is of one report, --diff of two", fix: "give one of the two" });
  const page = flags.html === undefined || flags.html.endsWith(".html") ? flags.html : `${flags.html}.html`;
  if (page !== undefined) demandPlace(page);
  const r = await reportOf(path, options);
  if (flags.diff !== undefined) {
    const d = diffReports(r.data, (await reportOf(flags.diff, options)).data);
    if (page !== undefined) write(page, renderDiffHtml(d));
    if (flags.json === true) t.json(d);
    else t.out(diffText(d, rows));
    return;
  }
  if (page !== undefined) write(page, r.toHTML());
  if (flags.why !== undefined) why(t, r, flags.why, flags.json === true);
  else if (flags.json === true) t.json(r.toJSON());
  else t.out(r.toText({ color: t.color, width: t.width, rows }));
}

/** The report of a bundle, of a report's JSON, or of a model. */
async function reportOf(path: string, options: CompileOptions): Promise<Report> {
  if (isBundle(path)) return (await load(path)).report;
  if (extname(path) !== ".json") return await report(path, options);
  try {
    return reportFromJSON(JSON.parse(readFileSync(path, "utf8")));
  } catch (cause) {
    throw badFile(
      {
        what: `it is not a report: ${cause instanceof Error ? cause.message : cause}`,
        fix: "write one with `partita report MODEL --json`",
      },
      { file: path },
      cause,
    );
  }
}

function why(t: Terminal, r: Report, name: string, json: boolean): void {
  const answers = r.why(name);
  if (answers.length === 0)
    throw noSuchNode({
      name,
      near: didYouMean(
        name,
        r.data.nodes.map((n) => n.name),
      ),
    });
  if (json) t.json({ schema: "partita.why/1", nodes: answers });
  else t.out(whyText(answers));
}

/** Layers of a segment that are shown. */
const PROFILE_ROWS = 20;

export interface RunFlags {
  readonly input: readonly string[];
  readonly output?: string;
  readonly profile?: boolean;
  readonly trace?: string;
  readonly json?: boolean;
}

export async function runCommand(t: Terminal, path: string, options: CompileOptions, flags: RunFlags): Promise<void> {
  for (const file of [flags.output, flags.trace]) if (file !== undefined) demandPlace(file);
  const program = await open(path, options);
  const session = await program.createSession();
  try {
    const feeds = readFeeds(session.inputs, flags.input);
    const recording = flags.trace === undefined ? undefined : session.trace();
    const results = await session.run(feeds);
    if (flags.trace !== undefined) write(flags.trace, `${JSON.stringify(recording?.stop())}\n`);
    const profile = flags.profile === true ? await session.profile({ detail: "nodes", feeds }) : undefined;
    if (flags.output !== undefined) writeNpz(flags.output, Object.entries(results));
    const shown = Object.entries(results).map(([name, r]) => ({
      name,
      type: r.type,
      dims: r.dims,
      first: Array.from(r.data as ArrayLike<unknown>)
        .slice(0, 8)
        .map((x) => (typeof x === "bigint" ? String(x) : x)),
    }));
    if (flags.json === true) t.json({ schema: "partita.run/1", outputs: shown, ...(profile === undefined ? {} : { profile }) });
    else {
      for (const o of shown)
        t.out(
          `${o.name}: ${o.type}[${o.dims.join(", ")}] = ${o.first.join(", ")}${o.first.length < o.dims.reduce((a, d) => a * d, 1) ? ", ..." : ""}`,
        );
      if (profile !== undefined) t.out(profileText(profile, PROFILE_ROWS));
    }
  } finally {
    await session.dispose();
  }
}

export async function inspect(
  t: Terminal,
  path: string,
  flags: { readonly ir?: boolean; readonly ops?: boolean; readonly after?: string; readonly json?: boolean },
): Promise<void> {
  let g = inferGraph(await importModel(path)).graph;
  if (flags.after !== undefined) {
    const known = pipeline.map((p) => p.name);
    const last = flags.after === "all" ? pipeline.length - 1 : known.indexOf(flags.after);
    if (last < 0) throw noSuchPass({ name: flags.after, near: didYouMean(flags.after, known), known });
    const context = passContext({ evaluate });
    for (const pass of pipeline.slice(0, last + 1)) g = await pass.run(g, context);
    g = inferGraph(g).graph;
  }
  const ops = new Map<string, number>();
  for (const n of g.nodes) ops.set(qualifiedOp(n), (ops.get(qualifiedOp(n)) ?? 0) + 1);
  const counts = [...ops].sort(([a, x], [b, y]) => y - x || (a < b ? -1 : 1));
  if (flags.json === true)
    t.json({
      schema: "partita.inspect/1",
      name: g.name,
      nodes: g.nodes.length,
      constants: g.constants.size,
      opsets: g.opsets,
      operators: Object.fromEntries(counts),
      ...(flags.ir === true ? { ir: print(g) } : {}),
    });
  else if (flags.ir === true) t.out(print(g));
  else {
    t.out(`${g.name}: ${g.nodes.length} nodes, ${g.constants.size} constants, opset ${g.opsets[""] ?? "?"}`);
    for (const [op, n] of counts) t.out(`${String(n).padStart(7)}  ${op}`);
  }
}

export async function exportBundle(
  t: Terminal,
  path: string,
  format: string,
  flags: { readonly output?: string; readonly json?: boolean },
): Promise<void> {
  const known = EXPORT_FORMATS.find((f) => f === format);
  if (known === undefined) throw noSuchFormat({ name: format, near: didYouMean(format, EXPORT_FORMATS) });
  const { output } = flags;
  if (output === undefined) throw badOption({ name: "--output", what: "is missing", fix: `say where the files go: -o ${format}` });
  if (detect(path) !== "bundle")
    throw badFile({ what: "it is a model, and bundles are exported", fix: "compile it first: partita compile MODEL" }, { file: path });
  const { artifacts, plan: loaded } = await loadBundle(path);
  const name = basename(resolve(path)).replace(/\.partita$/, "");
  let exported: readonly ExportedFile[];
  switch (known) {
    case "onnx":
      if (artifacts.every((a) => a.engine !== "host"))
        throw badFile({ what: "nothing of it runs on the host", fix: "compile the model with --target host" }, { file: path });
      exported = artifacts.flatMap((a, i) =>
        a.engine !== "host"
          ? []
          : a.files.map((f) => (artifacts.length === 1 ? f : { ...f, name: join(loaded.steps[i]?.segment ?? String(i), f.name) })),
      );
      break;
    case "epcontext":
      exported = epContextFiles(loaded, artifacts, name);
      break;
    case "triton":
      exported = tritonFiles(loaded, artifacts, name);
      break;
    default:
      throw known satisfies never;
  }
  const files: string[] = [];
  try {
    for (const f of exported) {
      const at = join(output, f.name);
      mkdirSync(dirname(at), { recursive: true });
      replaceFile(at, "bytes" in f ? f.bytes : (temporary) => copyFileSync(f.path, temporary));
      files.push(at);
    }
  } catch (cause) {
    throw badFile(
      { what: `it cannot be written: ${cause instanceof Error ? cause.message : cause}`, fix: "check the folder" },
      { file: output },
      cause,
    );
  }
  if (flags.json === true) t.json({ schema: "partita.export/1", files });
  else for (const f of files) t.out(f);
}

export async function doctorCommand(t: Terminal, flags: { readonly json?: boolean }): Promise<void> {
  const facts = await doctor();
  if (flags.json === true) t.json({ schema: "partita.doctor/1", facts });
  else
    for (const f of facts)
      t.out(
        `${f.ok ? "found  " : "missing"}  ${f.name.padEnd(18)} ${f.detail}${f.remedy === undefined ? "" : `\n         ${" ".repeat(18)} ${f.remedy}`}`,
      );
}
