/** Options of a session: their defaults, and what they must be. */
import type { Remark } from "../diagnostics.js";
import type { Batching } from "./batching.js";
import { badSession, demandNamed, MAX_DELAY } from "./errors.js";
import type { QueueSettings } from "./session.js";

export interface SessionOptions {
  /**
   * Runs that may be in one engine at once. More streams take more memory. Default 1; on the host, where `threads` is left out as well, the session finds
   * out: a run that comes alone gets all cores, and where runs overlap the model is loaded once more for each core, copies of up to 256 MB together
   * (`session.stats().host`).
   */
  readonly streams?: number | undefined;
  /** Threads of one run on the host, in workers and on the calling thread. Default: all cores, and one where the session finds out that this is better; see `streams`. */
  readonly threads?: number | undefined;
  /** CUDA devices by number: each gets the program once, and a run goes to the least busy. Default: the first. */
  readonly devices?: readonly number[] | undefined;
  /** Runs (or joined runs) inside at once. Default: streams × devices, and more of runs that take less than a few milliseconds. */
  readonly maxConcurrency?: number | undefined;
  /** Runs that may wait; one more is refused with P3106. Default 1024. */
  readonly maxQueue?: number | undefined;
  /**
   * Joins runs that wait along dim 0 of all inputs, and cuts their results apart again as views of one buffer. The graph's first dim must be one open
   * dim of all its inputs and outputs, of whose items each is computed on its own. Default: no run is joined.
   */
  readonly batching?: Batching | undefined;
  /** The session does not open when it needs more than this share of a device's memory, 0 to 1. Default: whatever there is. */
  readonly gpuMemoryFraction?: number | undefined;
  /** Told of what was not as the program says: kernels compiled again for this machine's GPU. */
  readonly onRemark?: ((remark: Remark) => void) | undefined;
  /** Lets version-compatible TensorRT plans run the host code that they bring. Default false: code in a bundle is not run. */
  readonly allowHostCode?: boolean | undefined;
}
export interface SessionSettings {
  readonly streams: number;
  readonly threads: number;
  /** Neither streams nor threads were given: the engine may choose. */
  readonly adapt: boolean;
  readonly devices: readonly number[];
  readonly queue: QueueSettings;
  readonly gpuMemoryFraction: number | undefined;
  readonly onRemark: SessionOptions["onRemark"];
  readonly allowHostCode: boolean | undefined;
}

const names = [
  "streams",
  "threads",
  "devices",
  "maxConcurrency",
  "maxQueue",
  "batching",
  "gpuMemoryFraction",
  "onRemark",
  "allowHostCode",
] as const satisfies readonly (keyof SessionOptions)[];

const BATCHING = ["maxBatch", "maxDelayMs"] as const satisfies readonly (keyof Batching)[];

/** More threads or streams than this are a slip: a process cannot start them. */
const MOST = 1024;

/** Throws P3130. */
export function settleSession(options: SessionOptions): SessionSettings {
  demandNamed(options, names, "a session");
  const {
    streams = 1,
    threads = 0,
    devices = [0],
    maxConcurrency,
    maxQueue,
    batching,
    gpuMemoryFraction,
    onRemark,
    allowHostCode,
  } = options;
  whole("streams", streams, 1, MOST);
  whole("threads", threads, 0, MOST);
  if (!Array.isArray(devices) || devices.length === 0 || new Set(devices).size < devices.length)
    throw badSession({ name: "devices", what: `is [${devices}]`, fix: "list at least one device, each once" });
  for (const d of devices) whole("devices", d, 0);
  if (maxConcurrency !== undefined) whole("maxConcurrency", maxConcurrency, 1);
  if (maxQueue !== undefined) whole("maxQueue", maxQueue, 0);
  if (batching !== undefined) {
    demandNamed(batching, BATCHING, "batching");
    whole("batching.maxBatch", batching.maxBatch, 2);
    if (batching.maxDelayMs !== undefined) within("batching.maxDelayMs", batching.maxDelayMs, 0, MAX_DELAY);
  }
  if (onRemark !== undefined && typeof onRemark !== "function")
    throw badSession({ name: "onRemark", what: "is no function", fix: "give a function, or leave it out" });
  if (allowHostCode !== undefined && typeof allowHostCode !== "boolean")
    throw badSession({ name: "allowHostCode", what: `is ${String(allowHostCode)}`, fix: "give true or false" });
  if (gpuMemoryFraction !== undefined) within("gpuMemoryFraction", gpuMemoryFraction, Number.MIN_VALUE, 1);
  const queue = { maxConcurrency, maxQueue, batching };
  const adapt = options.streams === undefined && options.threads === undefined;
  return { streams, threads, adapt, devices, queue, gpuMemoryFraction, onRemark, allowHostCode };
}
function whole(name: string, value: unknown, least: number, most = Number.POSITIVE_INFINITY): void {
  if (!Number.isSafeInteger(value) || (value as number) < least || (value as number) > most)
    throw badSession({
      name,
      what: `is ${String(value)}`,
      fix: `give a whole number from ${least}${most === Number.POSITIVE_INFINITY ? "" : ` to ${most}`}`,
    });
}
function within(name: string, value: unknown, least: number, most: number): void {
  if (typeof value !== "number" || !(value >= least && value <= most))
    throw badSession({
      name,
      what: `is ${String(value)}`,
      fix: `give a number from ${least === Number.MIN_VALUE ? "just above 0" : least} to ${most}`,
    });
}
