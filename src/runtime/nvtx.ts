/**
 * Ranges for NVIDIA's profilers (Nsight Systems and Compute), of runs and segments. NVTX has no library any more that could be loaded: since version 3 it is
 * headers that hand a table to the profiler which NVTX_INJECTION64_PATH names. The addon does the same without the headers; libnvToolsExt, version 2's
 * library, serves where no profiler has injected itself.
 */
import { type RunEvent, runChannel, type SegmentEvent, segmentChannel } from "../channels.js";
import { native } from "../engines/cuda/native.js";

export type Ranges = { readonly way: string; stop(): void } | { readonly missing: string };

/** From now on runs and segments of all sessions are ranges. `missing` says why there is nobody to tell. */
export function nvtxRanges(): Ranges {
  let addon: ReturnType<typeof native>["addon"];
  let way: string;
  try {
    addon = native().addon;
    way = addon.nvtxOpen(["libnvToolsExt.so.1"]).way;
  } catch (error) {
    return { missing: error instanceof Error ? error.message : String(error) };
  }
  const open = new WeakMap<object, bigint>();
  const over = (event: object): void => {
    const range = open.get(event);
    if (range !== undefined) addon.nvtxEnd(range);
    open.delete(event);
  };
  const runs = listener<RunEvent>((e) => void open.set(e, addon.nvtxStart(`partita run ${e.run}`)), over);
  const segments = listener<SegmentEvent>((e) => void open.set(e, addon.nvtxStart(`partita ${e.segment} (${e.engine})`)), over);
  runChannel.subscribe(runs);
  segmentChannel.subscribe(segments);
  return {
    way,
    stop() {
      runChannel.unsubscribe(runs);
      segmentChannel.unsubscribe(segments);
    },
  };
}

let asked = false;
/** Where a profiler started this process, it is told of ranges from the first session on. */
export function profilerRanges(): void {
  if (asked || (process.env["NVTX_INJECTION64_PATH"] ?? "") === "") return;
  asked = true;
  nvtxRanges();
}

/** A tracing channel's subscriber that is told of the beginning and of the end, whatever that is. */
export function listener<E extends object>(start: (event: E) => void, over: (event: E) => void) {
  return { start, end: () => {}, asyncStart: () => {}, asyncEnd: over, error: () => {} };
}
