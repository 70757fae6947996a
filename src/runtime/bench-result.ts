/** What a benchmark gives: the shape of its JSON. docs/bench.schema.json is its published form. */
import * as v from "valibot";

const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const amount = v.pipe(v.number(), v.minValue(0));
/** A figure, or why there is none. */
const missing = v.strictObject({ missing: v.string() });
const interval = { low: v.number(), high: v.number() };
/** A mean over rounds, with the 95 % interval of Student's t. */
const estimate = v.strictObject({ mean: amount, ...interval });

export const BENCH_SCHEMA = "partita.bench/2";

export const benchSchema = v.strictObject({
  schema: v.literal(BENCH_SCHEMA),
  model: v.string(),
  /** Where and when it was measured. */
  machine: v.strictObject({
    node: v.string(),
    platform: v.string(),
    cpu: v.string(),
    cores: count,
    memoryBytes: amount,
    gpu: v.nullable(v.string()),
    date: v.string(),
  }),
  load: v.union([
    v.strictObject({ kind: v.literal("closed"), concurrency: count }),
    /** Poisson arrivals, calls a second; latency counts from the moment a call was due. */
    v.strictObject({ kind: v.literal("open"), rate: amount }),
  ]),
  /** The rule of the warm-up, and how rounds were run. */
  method: v.strictObject({ warmUp: v.string(), rounds: count, secondsPerRound: amount, energy: v.string() }),
  rows: v.array(
    v.strictObject({
      batch: count,
      contender: v.picklist(["partita", "onnxruntime-node"]),
      precision: v.string(),
      engines: v.array(v.string()),
      warmUp: v.strictObject({ runs: count, seconds: amount, steady: v.boolean() }),
      runs: count,
      /** Calls that a full queue refused. */
      refused: count,
      itemsPerSecond: estimate,
      latencyUs: v.strictObject({ p50: amount, p90: amount, p99: amount, mean: amount, max: amount }),
      /** The most resident memory of the process, seen between rounds; both contenders are loaded in it. */
      residentBytes: amount,
      /** The most device memory taken since before the program was opened. */
      deviceBytes: v.union([amount, missing]),
      joulesPerItem: v.union([amount, missing]),
      /** Share of labels met, with Wilson's 95 % interval. */
      accuracy: v.union([v.strictObject({ share: amount, ...interval, rows: count }), missing]),
      /** Largest difference from bare onnxruntime-node on the same feeds, over all outputs. */
      difference: v.union([
        v.strictObject({ output: v.string(), maxError: v.nullable(amount), relative: v.nullable(amount), sqnrDb: v.nullable(v.number()) }),
        missing,
      ]),
    }),
  ),
  /** Throughput of partita over that of bare onnxruntime-node: geometric mean over rounds that were run in turn, with the 95 % interval. */
  comparison: v.array(v.strictObject({ batch: count, ratio: amount, ...interval })),
});
export type BenchResult = v.InferOutput<typeof benchSchema>;
export type BenchRow = BenchResult["rows"][number];
