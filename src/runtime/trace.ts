/**
 * Traces in Chrome's format, for ui.perfetto.dev and chrome://tracing: runs with their time in the queue, batches, segments with their transfers and layers,
 * the engine cache. A recording listens on the diagnostics channels; nothing is kept when none is open. Format: "Trace Event Format", complete events
 * ("X"), instants ("i") and names ("M"), microseconds.
 */
import { performance } from "node:perf_hooks";
import {
  type BatchEvent,
  batchChannel,
  type CacheEvent,
  cacheChannel,
  type QueueEvent,
  queueChannel,
  type RunEvent,
  runChannel,
  type SegmentEvent,
  segmentChannel,
} from "../channels.js";
import { listener } from "./nvtx.js";

export interface TraceEvent {
  readonly name: string;
  readonly cat?: string;
  readonly ph: "X" | "i" | "M";
  /** Microseconds from the start of the recording. */
  readonly ts: number;
  readonly dur?: number;
  readonly pid: number;
  readonly tid: number;
  readonly s?: "t";
  readonly args?: Readonly<Record<string, unknown>>;
}
/** A trace file's content; `JSON.stringify` it. */
export interface Trace {
  readonly traceEvents: readonly TraceEvent[];
  readonly displayTimeUnit: "ms";
  readonly otherData: { readonly schema: "partita.trace/1"; readonly dropped: number };
}
export interface Recording {
  /** Ends the recording; of runs that are under way there is nothing in it. May be called twice. */
  stop(): Trace;
}

/** A slice before it has a track. */
interface Slice {
  readonly group: string;
  readonly name: string;
  readonly from: number;
  readonly to: number;
  readonly args?: Readonly<Record<string, unknown>>;
  readonly parts?: readonly Slice[];
}
interface Instant {
  readonly group: string;
  readonly name: string;
  readonly at: number;
  readonly args: Readonly<Record<string, unknown>>;
}

/** Slices and instants that a recording keeps; later ones are counted, not kept. */
const MOST = 1_000_000;

/** Records what one session does, or all of them. */
export function record(session?: number): Recording {
  const start = performance.now();
  const slices: Slice[] = [];
  const instants: Instant[] = [];
  const since = new WeakMap<object, number>();
  const admitted = new Map<number, number>();
  let dropped = 0;
  let kept = 0;
  const mine = (e: { readonly session: number }): boolean => session === undefined || e.session === session;
  const keep = <T>(into: T[], one: T, parts = 0): void => {
    if (kept >= MOST) dropped++;
    else {
      kept += 1 + parts;
      into.push(one);
    }
  };
  const begin = (e: object & { readonly session: number }): void => {
    if (mine(e)) since.set(e, performance.now());
  };
  const runs = listener<RunEvent>(begin, (e) => {
    const from = since.get(e);
    if (from === undefined) return;
    const to = performance.now();
    const entered = admitted.get(e.run);
    admitted.delete(e.run);
    const group = "runs";
    const parts = entered === undefined || entered <= from ? [] : [{ group, name: "queue", from, to: Math.min(entered, to) }];
    const args = { run: e.run, inputs: e.inputs, ...(e.outputs === undefined ? {} : { outputs: e.outputs }), ...failure(e) };
    keep(slices, { group, name: `run ${e.run}`, from, to, args, parts }, parts.length);
  });
  const beginSegment = (e: SegmentEvent): void => {
    if (mine(e)) e.phases ??= [];
    begin(e);
  };
  const segments = listener<SegmentEvent>(beginSegment, (e) => {
    const from = since.get(e);
    if (from === undefined) return;
    const to = performance.now();
    const group = `${e.segment} (${e.engine}${e.device === undefined ? "" : ` ${e.device}`})`;
    const { phases = [] } = e;
    const layers = phases.filter((p) => p.name === "layer");
    const parts = phases
      .filter((p) => p.name !== "layer")
      .map((p) => ({
        group,
        name: p.name,
        from: p.startMs,
        to: p.endMs,
        parts: p.name === "compute" ? layers.map((l) => ({ group, name: l.label ?? "layer", from: l.startMs, to: l.endMs })) : [],
      }));
    keep(slices, { group, name: e.segment, from, to, args: { run: e.run, engine: e.engine, ...failure(e) }, parts }, phases.length);
  });
  const onQueue = (message: unknown): void => {
    const e = message as QueueEvent;
    if (!mine(e)) return;
    if (e.event === "admit") admitted.set(e.run, performance.now());
    else
      keep(instants, {
        group: "queue",
        name: e.event,
        at: performance.now(),
        args: { run: e.run, waiting: e.waiting, running: e.running },
      });
  };
  const onBatch = (message: unknown): void => {
    const e = message as BatchEvent;
    if (mine(e)) keep(instants, { group: "batches", name: `batch ${e.batch}`, at: performance.now(), args: { ...e } });
  };
  const onCache = (message: unknown): void => {
    const e = message as CacheEvent;
    const now = performance.now();
    const args = { key: e.key, dims: e.dims };
    const name = `${e.event} ${e.segment}`;
    if (e.event === "built" && e.ms !== undefined)
      keep(slices, { group: "engine cache", name, from: Math.max(start, now - e.ms), to: now, args });
    else keep(instants, { group: "engine cache", name, at: now, args });
  };
  runChannel.subscribe(runs);
  segmentChannel.subscribe(segments);
  queueChannel.subscribe(onQueue);
  batchChannel.subscribe(onBatch);
  cacheChannel.subscribe(onCache);
  let done: Trace | undefined;
  return {
    stop() {
      if (done !== undefined) return done;
      runChannel.unsubscribe(runs);
      segmentChannel.unsubscribe(segments);
      queueChannel.unsubscribe(onQueue);
      batchChannel.unsubscribe(onBatch);
      cacheChannel.unsubscribe(onCache);
      done = { traceEvents: eventsOf(slices, instants, start), displayTimeUnit: "ms", otherData: { schema: "partita.trace/1", dropped } };
      return done;
    },
  };
}

const failure = (e: { readonly error?: unknown }): Readonly<Record<string, unknown>> =>
  e.error === undefined ? {} : { error: e.error instanceof Error ? e.error.message : String(e.error) };

/** Events in order of time. Slices of a group that overlap lie on tracks of their own; those inside another lie on its track. */
function eventsOf(slices: readonly Slice[], instants: readonly Instant[], start: number): readonly TraceEvent[] {
  const pid = process.pid;
  const tracks = new Map<string, { readonly tid: number; free: number }[]>();
  const names: TraceEvent[] = [{ name: "process_name", ph: "M", ts: 0, pid, tid: 0, args: { name: "partita" } }];
  let last = 0;
  const trackOf = (group: string, from: number, to: number): number => {
    const all = tracks.get(group) ?? [];
    tracks.set(group, all);
    const free = all.find((t) => t.free <= from);
    if (free !== undefined) {
      free.free = to;
      return free.tid;
    }
    const tid = ++last;
    all.push({ tid, free: to });
    const name = all.length === 1 ? group : `${group} ${all.length}`;
    names.push(
      { name: "thread_name", ph: "M", ts: 0, pid, tid, args: { name } },
      { name: "thread_sort_index", ph: "M", ts: 0, pid, tid, args: { sort_index: tid } },
    );
    return tid;
  };
  const us = (ms: number): number => Math.round(1e6 * Math.max(0, ms - start)) / 1e3;
  const events: TraceEvent[] = [];
  const put = (s: Slice, tid: number, low: number, high: number): void => {
    // Parts never stick out of what they are parts of, whatever two clocks say.
    const [from, to] = [Math.min(Math.max(us(s.from), low), high), Math.min(Math.max(us(s.to), low), high)];
    const dur = Math.max(0, Math.round(1e3 * (to - from)) / 1e3);
    events.push({ name: s.name, cat: s.group, ph: "X", ts: from, dur, pid, tid, ...(s.args === undefined ? {} : { args: s.args }) });
    for (const part of s.parts ?? []) put(part, tid, from, from + dur);
  };
  for (const s of [...slices].sort((a, b) => a.from - b.from || b.to - a.to))
    put(s, trackOf(s.group, s.from, s.to), 0, Number.MAX_SAFE_INTEGER);
  for (const i of instants)
    events.push({ name: i.name, cat: i.group, ph: "i", s: "t", ts: us(i.at), pid, tid: trackOf(i.group, i.at, i.at), args: i.args });
  // Outer slices come before the inner ones that begin with them.
  events.sort((a, b) => a.ts - b.ts || (b.dur ?? 0) - (a.dur ?? 0));
  return [...names, ...events];
}
