/** `partita bench`: prints what the benchmark measured. */
import { basename } from "node:path";
import { readNpy, readNpz } from "../npz.js";
import { badOption, type CompileOptions } from "../options.js";
import { human, humanUs } from "../report/text.js";
import type { BenchResult, BenchRow } from "../runtime/bench-result.js";
import type { Load } from "../runtime/load.js";
import type { Port } from "../runtime/ports.js";
import type { Tensor } from "../tensor.js";
import { badFile, demandPlace, isBundle, open, readFeeds, write } from "./files.js";
import { parseNumber } from "./syntax.js";
import type { Terminal } from "./terminal.js";

export interface BenchFlags {
  readonly batch?: string;
  readonly seconds: string;
  readonly concurrency?: string;
  readonly rate?: string;
  readonly streams?: string;
  readonly threads?: string;
  readonly maxBatch?: string;
  readonly maxDelay?: string;
  readonly input: readonly string[];
  readonly labels?: string;
  readonly model?: string;
  readonly trace?: string;
  readonly json?: boolean;
}

const whole = { least: 1, whole: true } as const;

export async function bench(t: Terminal, path: string, options: CompileOptions, flags: BenchFlags): Promise<void> {
  const { benchmark } = await import("../runtime/bench.js");
  const asked = flags.batch?.split(",").map((b) => parseNumber("--batch", b, whole));
  const seconds = parseNumber("--seconds", flags.seconds, { least: 0.001, whole: false });
  const load = loadOf(flags);
  const maxBatch = flags.maxBatch === undefined ? undefined : parseNumber("--max-batch", flags.maxBatch, { least: 2, whole: true });
  const maxDelayMs = flags.maxDelay === undefined ? undefined : parseNumber("--max-delay", flags.maxDelay, { least: 0, whole: false });
  if (maxDelayMs !== undefined && maxBatch === undefined)
    throw badOption({ name: "--max-delay", what: "is for runs that are joined, and none are", fix: "give --max-batch too" });
  if (flags.labels !== undefined && flags.input.length === 0)
    throw badOption({ name: "--labels", what: "are of the rows of --input, and there is none", fix: "give --input too" });
  const session = {
    ...(flags.streams === undefined ? {} : { streams: parseNumber("--streams", flags.streams, whole) }),
    ...(flags.threads === undefined ? {} : { threads: parseNumber("--threads", flags.threads, whole) }),
    ...(maxBatch === undefined ? {} : { batching: { maxBatch, ...(maxDelayMs === undefined ? {} : { maxDelayMs }) } }),
  };
  if (flags.trace !== undefined) demandPlace(flags.trace);
  const program = await open(path, options);
  const batches = batchesFor(program.inputs, asked);
  const result = await benchmark(program, {
    name: basename(path),
    model: flags.model ?? (isBundle(path) ? undefined : path),
    batches,
    seconds,
    load,
    session,
    feeds: flags.input.length === 0 ? undefined : readFeeds(program.inputs, flags.input),
    labels: flags.labels === undefined ? undefined : readLabels(flags.labels),
    onProgress: (stage, f) => t.progress(stage, f),
    onTrace: flags.trace === undefined ? undefined : (trace) => write(flags.trace as string, `${JSON.stringify(trace)}\n`),
  });
  t.done();
  if (flags.json === true) t.json(result);
  else t.out(benchText(result));
}

/** What was asked for, or what a model of a fixed batch takes: its items are counted then. */
function batchesFor(inputs: readonly Port[], asked: readonly number[] | undefined): readonly number[] {
  const firsts = inputs.flatMap((p) => p.dims?.slice(0, 1) ?? []);
  if (inputs.some((p) => p.dims === undefined) || firsts.some((d) => typeof d === "string")) return asked ?? [1];
  const [first] = new Set(firsts).size === 1 ? firsts : [];
  const fixed = typeof first === "number" && first > 0 ? first : 1;
  const other = asked?.find((b) => b !== fixed);
  if (other !== undefined)
    throw badOption({
      name: "--batch",
      what: `is ${other}, and dim 0 of every input is fixed: ${inputs.map((p) => `${p.name} [${p.dims?.join(", ")}]`).join(", ")}`,
      fix: "leave it out, or export the model with an open batch",
    });
  return [fixed];
}

function loadOf({ concurrency, rate }: BenchFlags): Load {
  if (rate === undefined) return { kind: "closed", concurrency: parseNumber("--concurrency", concurrency ?? "1", whole) };
  if (concurrency !== undefined)
    throw badOption({
      name: "--rate",
      what: "is of arrivals, --concurrency of callers that wait for each other",
      fix: "give one of the two",
    });
  return { kind: "open", rate: parseNumber("--rate", rate, { least: 0.001, whole: false }) };
}

function readLabels(path: string): Tensor {
  if (!path.endsWith(".npz")) return readNpy(path);
  const arrays = [...readNpz(path)];
  const [only] = arrays;
  if (only !== undefined && arrays.length === 1) return only[1];
  const named = arrays.find(([name]) => name === "labels" || name === "y");
  if (named !== undefined) return named[1];
  throw badFile(
    { what: `it has ${arrays.length} arrays, none called labels`, fix: "keep the labels in an .npy of their own" },
    { file: path },
  );
}

/** For a terminal. */
export function benchText(r: BenchResult): string {
  const load = r.load.kind === "closed" ? `${r.load.concurrency} at once` : `${r.load.rate} arrivals a second`;
  const lines = [`${r.model}, ${load}, ${r.machine.cpu} (${r.machine.cores} cores)${r.machine.gpu === null ? "" : `, ${r.machine.gpu}`}`];
  const cells = [
    ["batch", "contender", "items/s", "± 95 %", "p50", "p90", "p99", "memory", "GPU memory", "J/item", "top-1"],
    ...r.rows.map(rowCells),
  ];
  const widths = cells[0]?.map((_, k) => Math.max(...cells.map((row) => row[k]?.length ?? 0))) ?? [];
  for (const row of cells) lines.push(row.map((c, k) => (k === 1 ? c.padEnd(widths[k] ?? 0) : c.padStart(widths[k] ?? 0))).join("  "));
  for (const c of r.comparison)
    lines.push(
      `batch ${c.batch}: ${c.ratio.toFixed(2)} times the throughput of onnxruntime-node (95 %: ${c.low.toFixed(2)} to ${c.high.toFixed(2)})`,
    );
  for (const row of r.rows) {
    lines.push(...notes(row));
    if (r.load.kind === "open" && row.itemsPerSecond.mean < 0.95 * r.load.rate * row.batch)
      lines.push(`batch ${row.batch}, ${row.contender}: more calls come than it can answer: latency only tells how long the rounds are`);
  }
  lines.push(`energy: ${r.method.energy}`);
  return lines.join("\n");
}

const figure = (x: number | { readonly missing: string }, show: (n: number) => string): string => (typeof x === "number" ? show(x) : "-");
const rowCells = (r: BenchRow): string[] => [
  String(r.batch),
  r.contender,
  r.itemsPerSecond.mean.toFixed(1),
  ((r.itemsPerSecond.high - r.itemsPerSecond.low) / 2).toFixed(1),
  humanUs(r.latencyUs.p50),
  humanUs(r.latencyUs.p90),
  humanUs(r.latencyUs.p99),
  human(r.residentBytes, "B"),
  figure(r.deviceBytes, (n) => human(n, "B")),
  figure(r.joulesPerItem, (n) => n.toPrecision(3)),
  "missing" in r.accuracy ? "-" : `${(100 * r.accuracy.share).toFixed(2)} %`,
];
function notes(r: BenchRow): readonly string[] {
  const of = `batch ${r.batch}, ${r.contender}:`;
  return [
    ...(r.warmUp.steady ? [] : [`${of} still not steady after ${r.warmUp.runs} runs of warm-up: figures may drift`]),
    ...(r.refused === 0 ? [] : [`${of} ${r.refused} calls were refused, as the queue was full`]),
    ...("missing" in r.accuracy
      ? []
      : [
          `${of} top-1 ${(100 * r.accuracy.low).toFixed(2)} % to ${(100 * r.accuracy.high).toFixed(2)} % (Wilson, 95 %, ${r.accuracy.rows} rows)`,
        ]),
    ...("missing" in r.difference
      ? []
      : [
          `${of} differs from onnxruntime-node by at most ${r.difference.maxError?.toExponential(2) ?? "infinity"} (${r.difference.relative?.toExponential(2) ?? "infinity"} of the largest value) in '${r.difference.output}'`,
        ]),
  ];
}
