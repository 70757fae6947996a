/**
 * What the runtime tells whoever listens, through node:diagnostics_channel: runs, segments, the engine cache, batches, the queue. The channels'
 * names and payloads are public; docs/observability.md shows them. Publishing costs a look at `hasSubscribers` when nobody listens.
 */
import { type Channel, channel, type TracingChannel, tracingChannel } from "node:diagnostics_channel";

type Dims = Readonly<Record<string, readonly number[]>>;

/**
 * A run of a session, on the tracing channel `partita:run`: from the call of `session.run` to its results or its error. A batch of joined runs is a run
 * of its own, that of `BatchEvent.batch`.
 */
export interface RunEvent {
  /** Number of the run, unique in the process. */
  readonly run: number;
  /** Number of the session, unique in the process. */
  readonly session: number;
  /** Dims by input name. */
  readonly inputs: Dims;
  /** The outputs asked for; all when absent. */
  readonly outputs?: readonly string[] | undefined;
  /** Size of dim 0 of the first input, where it has one. */
  readonly batch?: number | undefined;
  /** Set by the tracing channel when the run is over. */
  result?: unknown;
  error?: unknown;
}

/** A part of a segment's run, in milliseconds of `performance.now()`. Layers lie inside "compute". */
export interface Phase {
  /** Waiting for a stream; copies to and from the device; the work itself; a kernel of it. */
  readonly name: "wait" | "copy in" | "compute" | "copy out" | "layer";
  /** Of a layer: the nodes that it computes. */
  readonly label?: string | undefined;
  readonly startMs: number;
  readonly endMs: number;
}

/** A segment's part in a run, on the tracing channel `partita:segment`. */
export interface SegmentEvent {
  readonly run: number;
  readonly session: number;
  readonly segment: string;
  readonly engine: string;
  /** CUDA device that it runs on, where it runs on one. */
  readonly device?: number | undefined;
  /** A subscriber that wants the parts puts an empty array here at `start`; the engine fills it. CUDA runs are slower then: no launch overlaps another. */
  phases?: Phase[] | undefined;
  result?: unknown;
  error?: unknown;
}

/** What happened to a segment's engine for some dims, on the channel `partita:cache`. */
export interface CacheEvent {
  /** A built engine served; none did; a build began; it ended; an engine was dropped; the host ran instead; an artifact came from the disk. */
  readonly event: "hit" | "miss" | "build" | "built" | "evict" | "fallback" | "disk-hit";
  readonly segment: string;
  readonly key: string;
  readonly dims: Dims;
  /** Milliseconds that it took: with "built" and "disk-hit". */
  readonly ms?: number | undefined;
}

/** Runs that were joined into one, on the channel `partita:batch`. */
export interface BatchEvent {
  readonly session: number;
  /** Number of the joined run: that of its `SegmentEvent`s. */
  readonly batch: number;
  /** Numbers of the runs in it. */
  readonly runs: readonly number[];
  readonly requests: number;
  /** Sum of the runs' sizes of dim 0. */
  readonly items: number;
  /** Milliseconds that the first of them waited for the others. */
  readonly waitedMs: number;
}

/** What became of a run at the session's queue, on the channel `partita:queue`. */
export interface QueueEvent {
  /** It left the queue and runs; was refused as the queue is full; its deadline passed; its signal was aborted. */
  readonly event: "admit" | "reject" | "deadline" | "cancel";
  readonly session: number;
  readonly run: number;
  /** Runs that wait, and that are under way, after the event. */
  readonly waiting: number;
  readonly running: number;
  /** Milliseconds that the run was in the queue. */
  readonly waitedMs?: number | undefined;
}

export const runChannel: TracingChannel<RunEvent, RunEvent> = tracingChannel<RunEvent, RunEvent>("partita:run");
export const segmentChannel: TracingChannel<SegmentEvent, SegmentEvent> = tracingChannel<SegmentEvent, SegmentEvent>("partita:segment");
export const cacheChannel: Channel = channel("partita:cache");
export const batchChannel: Channel = channel("partita:batch");
export const queueChannel: Channel = channel("partita:queue");

/** Runs `work` inside a tracing channel; `event` is made only when somebody listens, and `work` then gets it. */
export function traced<E extends object, T>(
  on: TracingChannel<E, E>,
  event: () => E,
  work: (event: E | undefined) => Promise<T>,
): Promise<T> {
  if (!on.hasSubscribers) return work(undefined);
  const e = event();
  return on.tracePromise(() => work(e), e);
}
export const publishCache = (event: () => CacheEvent): void => {
  if (cacheChannel.hasSubscribers) cacheChannel.publish(event());
};
export const publishBatch = (event: () => BatchEvent): void => {
  if (batchChannel.hasSubscribers) batchChannel.publish(event());
};
export const publishQueue = (event: () => QueueEvent): void => {
  if (queueChannel.hasSubscribers) queueChannel.publish(event());
};

let numbers = 0;
/** A number for a run or a session, unique in the process. */
export const nextNumber = (): number => ++numbers;
