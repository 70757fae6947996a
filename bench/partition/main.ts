/**
 * The benchmark of the partitioner: generated graphs of growing size, then the models of the test data, each with every baseline.
 * `npm run bench:partition` writes bench/results/partition.json and the tables and the plot of docs/partitioning.md.
 *   main.js                     everything (PARTITA_TEST_DATA names the models' folder; without it they are left out)
 *   main.js one SHAPE N NAME    one measurement in its own process, as JSON: time and peak memory
 *   main.js ours                Partita on the generated graphs alone; the rest as it stands
 *   main.js models              the models alone; the rest as it stands in bench/results/partition.json
 *   main.js docs                the page anew from bench/results/partition.json
 */
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { cpus, totalmem } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { SegmentInput } from "../../src/partition/input.js";
import { type Segmentation, segment } from "../../src/partition/segment.js";
import { baselines, dropSmall } from "./baselines.js";
import { boundsAt } from "./bounds.js";
import { generate, type Shape, shapes } from "./generators.js";
import { type Figures, measure } from "./measure.js";
import { casesOf, modelFiles } from "./models.js";
import { writeDocs } from "./page.js";
import type { ModelRow, Results, Row } from "./results.js";

/** The repository: four folders up from where the compiler puts this file. */
const root = join(dirname(fileURLToPath(import.meta.url)), "../../../../..");
const OURS = "Partita";
const groupsOf = (s: Segmentation): Int32Array => s.segmentOf.map((k) => (s.engineOf[k] === 0 ? -1 : k));

function one(shape: Shape, n: number, name: string): Row {
  const input = generate(shape, n, 0.1, 1);
  const run = (): readonly [Int32Array, Segmentation | undefined] => {
    if (name === OURS) {
      const s = segment(input);
      return [groupsOf(s), s];
    }
    const method = baselines.find((b) => b.name === name);
    if (method === undefined) throw new Error(`no baseline '${name}'`);
    return [dropSmall(input, method.run(input)), undefined];
  };
  // The least of several: warming up and other work on the machine only ever add.
  let ms = Number.POSITIVE_INFINITY;
  let cpuMs = Number.POSITIVE_INFINITY;
  const began = performance.now();
  let result: ReturnType<typeof run> | undefined;
  for (let i = 0; i < 20 && performance.now() - began < (i < 8 ? 20_000 : 3000); i++) {
    const start = performance.now();
    const cpu = process.cpuUsage();
    result = run();
    const { user, system } = process.cpuUsage(cpu);
    ms = Math.min(ms, performance.now() - start);
    cpuMs = Math.min(cpuMs, (user + system) / 1000);
  }
  const [groups, s] = result ?? run();
  const peakMb = process.resourceUsage().maxRSS / 1024;
  return {
    graph: shape,
    nodes: input.n,
    method: name,
    ms,
    cpuMs,
    peakMb,
    ...measure(input, groups),
    ...(s === undefined ? {} : { lowerBound: s.lowerBound }),
  };
}

/** The size that was asked for: the generators end a block later. */
const sizeOf = (row: Row): number => SIZES.reduce((a, b) => (Math.abs(b - row.nodes) < Math.abs(a - row.nodes) ? b : a));
const SIZES = [10_000, 100_000, 1_000_000];

const PATIENCE_MS = 150_000;
function inOwnProcess(shape: Shape, n: number, name: string): Row | undefined {
  try {
    const text = execFileSync(process.execPath, [fileURLToPath(import.meta.url), "one", shape, String(n), name], {
      encoding: "utf8",
      timeout: PATIENCE_MS,
      stdio: ["ignore", "pipe", "inherit"],
    });
    return JSON.parse(text) as Row;
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ETIMEDOUT") return undefined;
    throw error;
  }
}

async function all(): Promise<void> {
  const graphs: Row[] = [];
  const unfinished: { graph: string; nodes: number; method: string }[] = [];
  for (const shape of shapes)
    for (const n of SIZES)
      for (const name of [OURS, ...baselines.filter((b) => n <= b.limit).map((b) => b.name)]) {
        const row = inOwnProcess(shape, n, name);
        if (row === undefined) unfinished.push({ graph: shape, nodes: n, method: name });
        else graphs.push(row);
        process.stderr.write(
          `${shape} ${n} ${name}: ${row === undefined ? "not finished" : `${row.cpuMs.toFixed(1)} ms of processor time`}\n`,
        );
      }
  const { models, unread } = await onModels();
  const results: Results = {
    machine: { cpu: cpus()[0]?.model ?? "", cores: cpus().length, memoryGb: Math.round(totalmem() / 2 ** 30), node: process.version },
    settings: { unsupported: 0.1, minimumSize: 3, seed: 1 },
    graphs,
    unfinished,
    models,
    unread,
  };
  save(results);
}

function save(results: Results): void {
  mkdirSync(join(root, "bench/results"), { recursive: true });
  // One line a row: differences between two runs are then lines.
  const parts = Object.entries(results).map(([key, part]) => {
    const text = Array.isArray(part) ? `[\n${part.map((row) => `  ${JSON.stringify(row)}`).join(",\n")}\n ]` : JSON.stringify(part);
    return ` ${JSON.stringify(key)}: ${text}`;
  });
  writeFileSync(join(root, "bench/results/partition.json"), `{\n${parts.join(",\n")}\n}\n`);
  writeDocs(join(root, "docs"), results);
}

async function onModels(): Promise<Pick<Results, "models" | "unread">> {
  const models: ModelRow[] = [];
  const unread: { model: string; why: string }[] = [];
  const data = process.env["PARTITA_TEST_DATA"];
  for (const path of data === undefined ? [] : modelFiles(data)) {
    const cases = await casesOf(path);
    if (typeof cases === "string") {
      unread.push({ model: path.slice((data ?? "").length + 1), why: cases });
      continue;
    }
    for (const { model, verdicts, input, work } of cases) models.push({ model, verdicts, nodes: input.n, ...compared(input, work) });
    process.stderr.write(`${path}\n`);
  }
  return { models, unread };
}

function compared(input: SegmentInput, work: Float64Array): Pick<ModelRow, "methods" | "least"> {
  const groups = groupsOf(segment(input));
  const ours = measure(input, groups, work);
  const methods: Record<string, Figures> = { [OURS]: ours };
  for (const b of baselines) methods[b.name] = measure(input, dropSmall(input, b.run(input)), work);
  return { methods, least: boundsAt(input, groups, work) };
}

const [, , mode, shape, n, name] = process.argv;
if (mode === "one") process.stdout.write(JSON.stringify(one(shape as Shape, Number(n), name ?? OURS)));
else if (mode === "models") {
  const stored = JSON.parse(readFileSync(join(root, "bench/results/partition.json"), "utf8")) as Results;
  save({ ...stored, ...(await onModels()) });
} else if (mode === "ours") {
  const stored = JSON.parse(readFileSync(join(root, "bench/results/partition.json"), "utf8")) as Results;
  const graphs = stored.graphs.map((row) => (row.method === OURS ? (inOwnProcess(row.graph as Shape, sizeOf(row), OURS) ?? row) : row));
  save({ ...stored, graphs });
} else if (mode === "docs") save(JSON.parse(readFileSync(join(root, "bench/results/partition.json"), "utf8")) as Results);
else await all();
