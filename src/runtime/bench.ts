/** Throughput, latency, memory, energy and accuracy of a program, and of bare onnxruntime-node on the same file in the same run, round by round. */
import { availableParallelism, cpus, totalmem } from "node:os";
import { openDevice } from "../engines/cuda/device.js";
import { fed } from "../engines/host/native.mjs";
import { presentGpu } from "../engines/tensorrt/load.js";
import { detect } from "../import/index.js";
import { boundTensors } from "../ir/bound.js";
import { Tensor, type TensorLike } from "../tensor.js";
import { type Accuracy, accuracyOf, rowsOf } from "./accuracy.js";
import { BENCH_SCHEMA, type BenchResult, type BenchRow } from "./bench-result.js";
import { type EnergyMeter, energyMeter } from "./energy.js";
import { type Load, type Loaded, underLoad } from "./load.js";
import { measure, randomFeeds } from "./measure.js";
import type { Feeds, Port } from "./ports.js";
import type { Program } from "./program.js";
import type { Session } from "./session.js";
import type { SessionOptions } from "./settings.js";
import { type WarmUp, warmUp } from "./steady.js";
import type { Trace } from "./trace.js";

export interface BenchOptions {
  /** Named in the result. */
  readonly name: string;
  /** The model for the bare run; without it, or where ONNX Runtime cannot read it, there is no comparison. */
  readonly model?: string | undefined;
  readonly batches: readonly number[];
  /** Seconds that each contender is measured at each batch. */
  readonly seconds: number;
  readonly load: Load;
  readonly session?: SessionOptions | undefined;
  /** Default: seeded random ones, open dims besides the batch at 1. Rows are repeated or left out to fill the batch. */
  readonly feeds?: Feeds | undefined;
  /** One a row of `feeds`. */
  readonly labels?: TensorLike | undefined;
  /** Given a trace of a little of the load at the last batch, recorded when everything is measured: recording takes time. */
  readonly onTrace?: ((trace: Trace) => void) | undefined;
  readonly onProgress?: ((stage: string, fraction: number) => void) | undefined;
}

const TRACE_MS = 200;
const ROUNDS = 10;
/** Student's t for 95 % with that many rounds less one. */
const T = 2.262;
const RULE =
  "MSER-5 (White 1997): runs go on until leaving out the whole first half of them, in means of five, is no longer what makes the standard error of the rest smallest, and the rest does not fall by more than two standard errors or 1 %; at most twice the measured time";

interface Contender {
  readonly name: BenchRow["contender"];
  readonly precision: string;
  readonly engines: readonly string[];
  readonly run: (feeds: Feeds) => Promise<Readonly<Record<string, TensorLike>>>;
  /** Whether a GPU does some of its work. */
  readonly onGpu: boolean;
}
interface Tally {
  readonly latencies: number[];
  readonly throughput: number[];
  refused: number;
  items: number;
  joules: number;
  resident: number;
  device: number;
}

/** Throws what opening and running throw. */
export async function benchmark(program: Program, options: BenchOptions): Promise<BenchResult> {
  const { batches, seconds, load, onProgress = () => {} } = options;
  const data = program.report.data;
  const engines = [...new Set(data.segments.map((s) => s.engine))];
  const onGpu = engines.some((e) => e !== "host");
  const device = onGpu ? openDevice(options.session?.devices?.[0] ?? 0) : undefined;
  const free = device?.freeBytes;
  const meter: EnergyMeter | { readonly missing: string } = onGpu
    ? energyMeter(device?.ordinal)
    : { missing: "no segment runs on a GPU, and NVML knows no other energy" };
  const session = await program.createSession(options.session);
  const bare = await openBare(options, session, boundTensors(data.options.bound));
  const contenders: Contender[] = [
    { name: "partita", precision: data.options.precision, engines, run: (feeds) => session.run(feeds), onGpu },
    ...(bare === undefined ? [] : [bare.contender]),
  ];
  const rows: BenchRow[] = [];
  const comparison: BenchResult["comparison"] = [];
  try {
    for (const [b, batch] of batches.entries()) {
      const feeds = feedsFor(program.inputs, batch, options.feeds);
      const warm: WarmUp[] = [];
      for (const c of contenders) warm.push(await warmUp(() => c.run(feeds), 2 * seconds));
      const records: Tally[] = contenders.map(() => ({
        latencies: [],
        throughput: [],
        refused: 0,
        items: 0,
        joules: 0,
        resident: 0,
        device: 0,
      }));
      for (let r = 0; r < ROUNDS; r++) {
        onProgress(`batch ${batch}`, (b + r / ROUNDS) / batches.length);
        for (const [i, c] of contenders.entries()) {
          const stop = "start" in meter && c.onGpu ? meter.start() : undefined;
          const found = await underLoad(() => c.run(feeds), load, (seconds * 1000) / ROUNDS, 1 + r);
          add(records[i] as Tally, found, batch, stop?.());
          const record = records[i] as Tally;
          record.resident = Math.max(record.resident, process.memoryUsage.rss());
          record.device = Math.max(record.device, (free ?? 0) - (device?.freeBytes ?? 0));
        }
      }
      const first = contenders.length === 2 ? await contenders[1]?.run(feeds) : undefined;
      for (const [i, c] of contenders.entries())
        rows.push({
          batch,
          contender: c.name,
          precision: c.precision,
          engines: [...c.engines],
          warmUp: warm[i] as WarmUp,
          ...figures(records[i] as Tally),
          deviceBytes:
            c.onGpu && free !== undefined
              ? (records[i]?.device ?? 0)
              : { missing: c.onGpu ? "the driver does not tell" : "it runs on no GPU" },
          joulesPerItem: energyOf(c, meter, records[i] as Tally),
          accuracy: await accuracy(program.inputs, options, batch, c),
          difference: i === 0 ? differenceOf(await c.run(feeds), first, bare) : { missing: "it is the reference" },
        });
      const [mine, theirs] = records;
      if (mine !== undefined && theirs !== undefined) comparison.push({ batch, ...ratio(mine.throughput, theirs.throughput) });
    }
    const last = batches.at(-1);
    if (options.onTrace !== undefined && last !== undefined) {
      const feeds = feedsFor(program.inputs, last, options.feeds);
      const recording = session.trace();
      await underLoad(() => session.run(feeds), load, Math.min(TRACE_MS, 1000 * seconds), 1);
      options.onTrace(recording.stop());
    }
    onProgress("done", 1);
  } finally {
    await session.dispose();
    await bare?.release();
  }
  const energy = "how" in meter ? meter.how : `not available: ${meter.missing}`;
  return {
    schema: BENCH_SCHEMA,
    model: options.name,
    machine: machine(),
    load,
    method: { warmUp: RULE, rounds: ROUNDS, secondsPerRound: seconds / ROUNDS, energy },
    rows,
    comparison,
  };
}

const machine = (): BenchResult["machine"] => ({
  node: process.versions.node,
  platform: `${process.platform}-${process.arch}`,
  cpu: cpus()[0]?.model ?? "unknown",
  cores: availableParallelism(),
  memoryBytes: totalmem(),
  gpu: presentGpu()?.properties.name ?? null,
  date: new Date().toISOString(),
});

interface Bare {
  readonly contender: Contender;
  release(): Promise<void>;
}
/** onnxruntime-node as a user calls it, in this thread, with its own defaults. */
async function openBare(
  { model, session: how }: BenchOptions,
  { inputs, outputs }: Session,
  bound: Readonly<Record<string, Tensor>>,
): Promise<Bare | undefined> {
  if (model === undefined || detect(model) !== "onnx") return undefined;
  const ort = await import("onnxruntime-node");
  const session = await ort.InferenceSession.create(model, how?.threads === undefined ? {} : { intraOpNumThreads: how.threads });
  const named = outputs.map((o) => o.name).filter((name) => session.outputNames.includes(name));
  // What the program was compiled with the values of, and what only served what they decide against.
  const fixed = {
    ...randomFeeds(
      session.inputMetadata.flatMap((m) => (inputs.some((p) => p.name === m.name) || !m.isTensor ? [] : [barePort(m)])),
      1,
    ),
    ...bound,
  };
  const run = async (feeds: Feeds): Promise<Readonly<Record<string, TensorLike>>> => {
    const given = Object.fromEntries(
      Object.entries({ ...fixed, ...feeds }).map(([name, t]) => [
        name,
        t.type === "float16" ? (fed(t.type, t.data, t.dims) as never) : new ort.Tensor(t.type as "float32", t.data as Float32Array, t.dims),
      ]),
    );
    return (await session.run(given, named)) as never;
  };
  return {
    contender: { name: "onnxruntime-node", precision: "as the model", engines: ["host"], run, onGpu: false },
    release: () => session.release(),
  };
}

const barePort = (m: { readonly name: string; readonly type: string; readonly shape: readonly (number | string)[] }): Port => ({
  name: m.name,
  type: m.type,
  dims: m.shape,
});

/** Feeds of a batch: dim 0 of the inputs, where it is open, is the batch. */
export function feedsFor(inputs: readonly Port[], batch: number, given: Feeds | undefined): Feeds {
  const leading = new Set(inputs.map((p) => p.dims?.[0]).filter((d) => typeof d === "string"));
  if (given === undefined) {
    const bound = inputs.map((p) => ({
      ...p,
      dims: p.dims?.map((d, i) => (typeof d === "number" ? d : i === 0 || leading.has(d) ? batch : 1)),
    }));
    return randomFeeds(bound, 1);
  }
  return Object.fromEntries(
    Object.entries(given).map(([name, t]) => {
      const port = inputs.find((p) => p.name === name);
      const want = typeof port?.dims?.[0] === "number" ? port.dims[0] : batch;
      return [name, t.dims.length === 0 || t.dims[0] === want ? t : rowsOf(t, 0, want)];
    }),
  );
}

function add(record: Tally, found: Loaded, batch: number, joules: number | undefined): void {
  // One by one: a round may have more runs than a call takes arguments.
  for (const l of found.latencies) record.latencies.push(l);
  record.refused += found.refused;
  record.items += batch * found.latencies.length;
  record.throughput.push((1000 * batch * found.latencies.length) / found.ms);
  record.joules += joules ?? 0;
}

function figures(record: Tally): Pick<BenchRow, "runs" | "refused" | "itemsPerSecond" | "latencyUs" | "residentBytes"> {
  const sorted = Float64Array.from(record.latencies).sort();
  const at = (q: number): number => 1000 * (sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? 0);
  const { mean, half } = student(record.throughput);
  return {
    runs: sorted.length,
    refused: record.refused,
    itemsPerSecond: { mean, low: Math.max(0, mean - half), high: mean + half },
    latencyUs: {
      p50: at(0.5),
      p90: at(0.9),
      p99: at(0.99),
      mean: (1000 * sorted.reduce((a, b) => a + b, 0)) / Math.max(1, sorted.length),
      max: 1000 * (sorted.at(-1) ?? 0),
    },
    residentBytes: record.resident,
  };
}

function student(xs: readonly number[]): { readonly mean: number; readonly half: number } {
  const mean = xs.reduce((a, b) => a + b, 0) / xs.length;
  const variance = xs.reduce((a, x) => a + (x - mean) ** 2, 0) / (xs.length - 1);
  return { mean, half: T * Math.sqrt(variance / xs.length) };
}
/** Rounds of both were run in turn: their ratios, in logarithms. Rounds in which either had no answer say nothing. */
function ratio(
  mine: readonly number[],
  theirs: readonly number[],
): { readonly ratio: number; readonly low: number; readonly high: number } {
  const logs = mine.flatMap((x, i) => (x > 0 && (theirs[i] ?? 0) > 0 ? [Math.log(x / (theirs[i] as number))] : []));
  if (logs.length < 2) return { ratio: 0, low: 0, high: 0 };
  const { mean, half } = student(logs);
  return { ratio: Math.exp(mean), low: Math.exp(mean - half), high: Math.exp(mean + half) };
}

function energyOf(c: Contender, meter: EnergyMeter | { readonly missing: string }, record: Tally): BenchRow["joulesPerItem"] {
  if ("missing" in meter) return { missing: meter.missing };
  if (!c.onGpu) return { missing: "it runs on no GPU" };
  return record.items === 0 || !Number.isFinite(record.joules) ? { missing: "nothing was measured" } : record.joules / record.items;
}

async function accuracy(inputs: readonly Port[], { labels, feeds }: BenchOptions, batch: number, c: Contender): Promise<Accuracy> {
  if (labels === undefined) return { missing: "no labels were given" };
  if (feeds === undefined) return { missing: "labels are of feeds, and none were given" };
  return await accuracyOf(inputs, feeds, labels, batch, async (part) => Object.values(await c.run(part))[0]);
}

function differenceOf(
  mine: Readonly<Record<string, TensorLike>>,
  theirs: Readonly<Record<string, TensorLike>> | undefined,
  bare: Bare | undefined,
): BenchRow["difference"] {
  if (bare === undefined || theirs === undefined) return { missing: "there is no bare run" };
  let worst: BenchRow["difference"] = { missing: "no output is in both" };
  let most = -1;
  const finite = (x: number): number | null => (Number.isFinite(x) ? x : null);
  for (const [name, t] of Object.entries(theirs)) {
    const m = measure(mine[name], new Tensor(t.type as never, t.data as never, t.dims));
    if (m.relative <= most) continue;
    most = m.relative;
    worst = { output: name, maxError: finite(m.maxError), relative: finite(m.relative), sqnrDb: finite(m.sqnrDb) };
  }
  return worst;
}
