/** What the commands do. */

import { copyFileSync, mkdirSync, readFileSync, statSync } from "node:fs";
import { basename, dirname, extname, join, resolve } from "node:path";
import { replaceFile } from "../atomic.js";
import { compile, load, report } from "../compile.js";
import { defineError, didYouMean } from "../diagnostics.js";
import { evaluate } from "../engines/host/index.js";
import { detect, importModel } from "../import/index.js";
import { qualifiedOp } from "../ir/graph.js";
import { print } from "../ir/print.js";
import { readNpy, readNpz, writeNpz } from "../npz.js";
import { inferGraph } from "../ops/infer.js";
import { type CompileOptions, parseNumber } from "../options.js";
import { passContext } from "../passes/pass.js";
import { pipeline } from "../passes/pipeline.js";
import { diffReports, diffText } from "../report/diff.js";
import { renderDiffHtml } from "../report/html-diff.js";
import { type Report, reportFromJSON } from "../report/report.js";
import { human, humanUs } from "../report/text.js";
import { whyText } from "../report/why.js";
import { loadBundle } from "../runtime/bundle.js";
import { doctor } from "../runtime/doctor.js";
import { type ExportedFile, epContextFiles } from "../runtime/epcontext.js";
import { measure, randomFeeds, reference } from "../runtime/measure.js";
import type { Program } from "../runtime/program.js";
import type { Port } from "../runtime/session.js";
import { tritonFiles } from "../runtime/triton.js";
import type { Tensor } from "../tensor.js";
import type { Terminal } from "./terminal.js";

export const badFile = defineError<{ what: string; fix: string }>(
  "P4001",
  "a file named on the command line does not serve",
  ({ what, fix }) => ({ what, fix }),
  2,
);
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
export const noSuchFormat = defineError<{ name: string }>(
  "P4004",
  "there is no such export format",
  ({ name }) => ({ what: `a bundle cannot be exported as '${name}'`, fix: "use onnx, epcontext or triton" }),
  2,
);

const isBundle = (path: string): boolean => statSync(path, { throwIfNoEntry: false })?.isDirectory() === true && detect(path) === "bundle";
const open = async (path: string, options: CompileOptions): Promise<Program> =>
  isBundle(path) ? await load(path) : await compile(path, options);

function write(path: string, text: string): void {
  try {
    replaceFile(path, text);
  } catch (cause) {
    throw badFile(
      { what: `it cannot be written: ${cause instanceof Error ? cause.message : cause}`, fix: "check the folder" },
      { file: path },
      cause,
    );
  }
}
function writeReport(path: string, r: Report): void {
  switch (extname(path)) {
    case ".html":
      write(path, r.toHTML());
      break;
    case ".json":
      write(path, `${JSON.stringify(r.toJSON(), null, 1)}\n`);
      break;
    case ".txt":
      write(path, r.toText());
      break;
    default:
      throw badFile({ what: "a report is .html, .json or .txt", fix: "name it so" }, { file: path });
  }
}

export async function compileCommand(
  t: Terminal,
  path: string,
  options: CompileOptions,
  flags: { readonly output?: string; readonly report?: string; readonly json?: boolean },
): Promise<void> {
  const program = await compile(path, options);
  const output = flags.output ?? `${basename(path).replace(/\.(onnx|pb|pbtxt)$/, "")}.partita`;
  await program.save(output);
  if (flags.report !== undefined) writeReport(flags.report, program.report);
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
  const r = await reportOf(path, options);
  if (flags.diff !== undefined) {
    const d = diffReports(r.data, (await reportOf(flags.diff, options)).data);
    if (flags.html !== undefined) write(flags.html.endsWith(".html") ? flags.html : `${flags.html}.html`, renderDiffHtml(d));
    if (flags.json === true) t.json(d);
    else t.out(diffText(d, rows));
    return;
  }
  if (flags.html !== undefined) writeReport(flags.html.endsWith(".html") ? flags.html : `${flags.html}.html`, r);
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

/** Feeds from `--input` files: .npz by name, .npy for the only input, name=file. */
function readFeeds(inputs: readonly Port[], files: readonly string[]): Record<string, Tensor> {
  const feeds: Record<string, Tensor> = {};
  for (const text of files) {
    const at = text.indexOf("=");
    if (at > 0) feeds[text.slice(0, at)] = readNpy(text.slice(at + 1));
    else if (text.endsWith(".npz")) for (const [name, tensor] of readNpz(text)) feeds[name] = tensor;
    else {
      const [only] = inputs;
      if (inputs.length !== 1 || only === undefined)
        throw badFile(
          { what: `a bare file feeds a graph with one input; this one has ${inputs.length}`, fix: "write name=file.npy, or use an .npz" },
          { file: text },
        );
      feeds[only.name] = readNpy(text);
    }
  }
  return feeds;
}

export async function runCommand(
  t: Terminal,
  path: string,
  options: CompileOptions,
  flags: { readonly input: readonly string[]; readonly output?: string; readonly json?: boolean },
): Promise<void> {
  const program = await open(path, options);
  const session = await program.createSession();
  try {
    const results = await session.run(readFeeds(session.inputs, flags.input));
    if (flags.output !== undefined) writeNpz(flags.output, Object.entries(results));
    const shown = Object.entries(results).map(([name, r]) => ({
      name,
      type: r.type,
      dims: r.dims,
      first: Array.from(r.data as ArrayLike<unknown>)
        .slice(0, 8)
        .map((x) => (typeof x === "bigint" ? String(x) : x)),
    }));
    if (flags.json === true) t.json({ schema: "partita.run/1", outputs: shown });
    else
      for (const o of shown)
        t.out(
          `${o.name}: ${o.type}[${o.dims.join(", ")}] = ${o.first.join(", ")}${o.first.length < o.dims.reduce((a, d) => a * d, 1) ? ", ..." : ""}`,
        );
  } finally {
    await session.dispose();
  }
}

export async function verifyCommand(
  t: Terminal,
  path: string,
  options: CompileOptions,
  flags: { readonly input: readonly string[]; readonly tolerance: string; readonly json?: boolean },
): Promise<void> {
  if (isBundle(path)) throw badFile({ what: "a bundle does not hold the untouched model", fix: "give the model itself" }, { file: path });
  const limit = parseNumber("--tolerance", flags.tolerance, { least: 0, whole: false });
  const program = await compile(path, options);
  const session = await program.createSession();
  try {
    const feeds = flags.input.length > 0 ? readFeeds(session.inputs, flags.input) : randomFeeds(session.inputs, 1);
    const [ours, theirs] = [
      await session.run(feeds),
      await reference(path, feeds, { inputs: options.inputs, outputs: options.outputs, signature: options.signature }),
    ];
    const rows = Object.entries(theirs).map(([name, expected]) => ({ name, ...measure(ours[name], expected) }));
    const ok = rows.every((r) => r.relative <= limit);
    if (flags.json === true) t.json({ schema: "partita.verify/1", ok, tolerance: limit, outputs: rows });
    else {
      for (const r of rows)
        t.out(
          `${r.name}: max error ${r.maxError.toExponential(2)} (${r.relative.toExponential(2)} of the largest value) at ${r.index}: ${r.actual}, expected ${r.expected}; SQNR ${r.sqnrDb === Number.POSITIVE_INFINITY ? "exact" : `${r.sqnrDb.toFixed(1)} dB`}`,
        );
      t.out(ok ? "verified" : `NOT within ${limit}`);
    }
    if (!ok) t.exitCode = 1;
  } finally {
    await session.dispose();
  }
}

export async function bench(
  t: Terminal,
  path: string,
  options: CompileOptions,
  flags: { readonly batch: string; readonly seconds: string; readonly json?: boolean },
): Promise<void> {
  const { benchmark } = await import("../runtime/bench.js");
  const batches = flags.batch.split(",").map((b) => parseNumber("--batch", b, { least: 1, whole: true }));
  const seconds = parseNumber("--seconds", flags.seconds, { least: 0.001, whole: false });
  const program = await open(path, options);
  const rows = await benchmark(program, isBundle(path) ? undefined : path, batches, seconds, (stage, f) => t.progress(stage, f));
  if (flags.json === true) t.json({ schema: "partita.bench/1", energy: "not available", results: rows });
  else {
    t.out("batch  engine            items/s      p50        p90        p99     memory peak");
    for (const r of rows)
      t.out(
        `${String(r.batch).padStart(5)}  ${r.engine.padEnd(16)}${r.itemsPerSecond.toFixed(1).padStart(9)}${humanUs(r.p50Us).padStart(11)}${humanUs(r.p90Us).padStart(11)}${humanUs(r.p99Us).padStart(11)}${human(r.peakBytes, "B").padStart(12)}`,
      );
    t.out("energy per item: not available on this machine");
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
  flags: { readonly output: string; readonly json?: boolean },
): Promise<void> {
  const { artifacts, plan: loaded } = await loadBundle(path);
  const name = basename(resolve(path)).replace(/\.partita$/, "");
  let exported: readonly ExportedFile[];
  switch (format) {
    case "onnx":
      exported = artifacts.flatMap((a, i) =>
        a.files.map((f) => (artifacts.length === 1 ? f : { ...f, name: join(loaded.steps[i]?.segment ?? String(i), f.name) })),
      );
      break;
    case "epcontext":
      exported = epContextFiles(loaded, artifacts, name);
      break;
    case "triton":
      exported = tritonFiles(loaded, artifacts, name);
      break;
    default:
      throw noSuchFormat({ name: format });
  }
  const files: string[] = [];
  try {
    for (const f of exported) {
      const at = join(flags.output, f.name);
      mkdirSync(dirname(at), { recursive: true });
      replaceFile(at, "bytes" in f ? f.bytes : (temporary) => copyFileSync(f.path, temporary));
      files.push(at);
    }
  } catch (cause) {
    throw badFile(
      { what: `it cannot be written: ${cause instanceof Error ? cause.message : cause}`, fix: "check the folder" },
      { file: flags.output },
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
