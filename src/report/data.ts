/**
 * What a report says, as data: its schema and its types. Deterministic: no clock, no machine, no ids. docs/report.schema.json is its published form.
 */
import * as v from "valibot";
import { boundSchema } from "./bound.js";
import { quantizationSchema } from "./quantization.js";

export const REPORT_SCHEMA = "partita.report/1";

const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const amount = v.pipe(v.number(), v.minValue(0));
const engine = v.picklist(["host", "cuda", "tensorrt"]);
const tensor = v.strictObject({ name: v.string(), type: v.string(), bytes: amount });
export const reportSchema = v.strictObject({
  schema: v.literal(REPORT_SCHEMA),
  model: v.strictObject({
    name: v.string(),
    opset: count,
    inputs: v.array(tensor),
    outputs: v.array(tensor),
    nodes: count,
    weightsBytes: amount,
  }),
  options: v.strictObject({
    targets: v.array(engine),
    precision: v.string(),
    minimumSegmentSize: count,
    strict: v.boolean(),
    shapes: v.record(v.string(), v.array(count)),
    bound: v.optional(boundSchema),
  }),
  passes: v.array(v.strictObject({ pass: v.string(), nodesBefore: count, nodesAfter: count, changed: v.boolean() })),
  quality: v.strictObject({
    nodes: count,
    segments: count,
    engineSegments: count,
    lowerBound: count,
    flops: amount,
    flopsCovered: amount,
    nodesCovered: amount,
    bytesCovered: amount,
    cutTensors: count,
    boundaryBytes: amount,
    crossings: count,
    largestShare: amount,
    hostToDeviceBytes: v.optional(amount),
    deviceToHostBytes: v.optional(amount),
    /** Of one run, microseconds; see partition/cost.ts for what it counts. */
    estimatedUs: v.optional(amount),
  }),
  segments: v.array(
    v.strictObject({
      name: v.string(),
      engine,
      nodes: count,
      flops: amount,
      bytes: amount,
      weightsBytes: amount,
      estimatedUs: amount,
      ops: v.record(v.string(), count),
      inputs: v.array(tensor),
      outputs: v.array(tensor),
      /** What the engine emitted for it, where it emits text. */
      source: v.optional(v.string()),
      /** Measured on a GPU: microseconds of one run by engine that could take it, the fastest first. */
      times: v.optional(v.array(v.strictObject({ engine, us: amount }))),
      /** Layers that the engine made of it, with the time of each in one run where it was measured. */
      layers: v.optional(v.array(v.strictObject({ name: v.string(), us: v.optional(amount) }))),
      /** What its engines take on the device, known before it is taken: weights once, results and copies for each stream, scratch at most. */
      deviceMemory: v.optional(
        v.array(
          v.strictObject({
            /** The shapes that the engine is for, where there are several. */
            shape: v.optional(v.string()),
            weightsBytes: v.optional(amount),
            streamBytes: v.optional(amount),
            workspaceLimitBytes: v.optional(amount),
          }),
        ),
      ),
      /** What the engine's inspector says of it, as it says it. */
      inspection: v.optional(v.unknown()),
      /**
       * TensorRT's INT8 beside the reference arithmetic on one random feed: elements of the outputs, the share that is nearest to another quantization step,
       * and the largest difference in steps (absent where one is not finite).
       */
      int8: v.optional(v.strictObject({ elements: count, mismatchPpm: amount, maxSteps: v.optional(amount) })),
    }),
  ),
  nodes: v.array(
    v.strictObject({
      name: v.string(),
      op: v.string(),
      origin: v.array(v.string()),
      segment: count,
      flops: amount,
      bytes: amount,
      output: v.string(),
      /** Nodes it reads from, by place in this list. */
      after: v.array(count),
      /** Microseconds of one run where it runs, if they were measured; they stand for the estimate. */
      measuredUs: v.optional(amount),
      /** Why it does not run on each engine asked for, where it does not. */
      notOn: v.array(v.strictObject({ engine, why: v.string(), fix: v.optional(v.string()) })),
      /** Types of its inputs in their order, "" for one that is left out. */
      inputs: v.optional(v.array(v.string())),
      /** Its constant inputs, with figures over a sample of their elements. */
      weights: v.optional(
        v.array(
          v.strictObject({
            name: v.string(),
            type: v.string(),
            bytes: amount,
            figures: v.optional(
              v.strictObject({ min: v.number(), max: v.number(), mean: v.number(), std: amount, zeros: amount, sampled: count }),
            ),
          }),
        ),
      ),
    }),
  ),
  /** What import and passes found worth saying: declared shapes that do not hold, constants that could not be folded. */
  remarks: v.optional(
    v.array(
      v.strictObject({
        severity: v.picklist(["note", "warning"]),
        text: v.string(),
        fix: v.optional(v.string()),
        node: v.optional(v.string()),
        value: v.optional(v.string()),
      }),
    ),
  ),
  /** Bytes of activations alive while the nodes run one after another, at most 240 samples (each the most of its stretch). */
  memory: v.optional(v.strictObject({ peakBytes: amount, peakNode: v.string(), live: v.array(amount) })),
  /** The graph before the passes; `after` as in `nodes`. */
  original: v.optional(v.array(v.strictObject({ name: v.string(), op: v.string(), after: v.array(count) }))),
  /** Reasons for staying on the host, most work first. */
  reasons: v.array(
    v.strictObject({
      engine,
      why: v.string(),
      fix: v.optional(v.string()),
      ops: v.array(v.string()),
      nodes: count,
      flops: amount,
      /** Microseconds a run would gain if the reason went away; negative: lose. The reasons with the most work have it. */
      gainUs: v.optional(v.number()),
    }),
  ),
  /** Of int8: how ranges were found, what was tried, and where the graph drifts. */
  quantization: v.optional(quantizationSchema),
  /** What support of one more operator would bring, most time first. */
  support: v.optional(
    v.array(
      v.strictObject({
        op: v.string(),
        engine,
        nodes: count,
        gainUs: v.number(),
        engineSegments: count,
        boundaryBytes: amount,
        flopsCovered: amount,
      }),
    ),
  ),
  /** Set when the report is of a supposition: what was supposed, and the figures without it. */
  whatIf: v.optional(
    v.strictObject({
      assumed: v.record(v.string(), engine),
      before: v.strictObject({
        engineSegments: count,
        flopsCovered: amount,
        nodesCovered: amount,
        cutTensors: count,
        boundaryBytes: amount,
        crossings: count,
        estimatedUs: amount,
      }),
    }),
  ),
});
export type ReportData = v.InferOutput<typeof reportSchema>;
export type ReportNode = ReportData["nodes"][number];
export type ReportSegment = ReportData["segments"][number];
