/** The Node-API addon: where it is found, and the types of its functions. Handles are numbers; a wrong or stale one throws. */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Brand } from "../../ir/types.js";
import { noAddon } from "./errors.js";

export type ContextHandle = Brand<number, "cuda context">;
export type ModuleHandle = Brand<number, "cuda module">;
export type FunctionHandle = Brand<number, "cuda function">;
export type MemoryHandle = Brand<number, "device memory">;
export type PinnedHandle = Brand<number, "pinned memory">;
export type StreamHandle = Brand<number, "cuda stream">;
export type GraphHandle = Brand<number, "cuda graph">;
export type EventHandle = Brand<number, "cuda event">;
/** A run that `begin` has put on its stream. */
export type RunNumber = Brand<number, "run">;
export type AnyHandle =
  | ContextHandle
  | ModuleHandle
  | FunctionHandle
  | MemoryHandle
  | PinnedHandle
  | StreamHandle
  | GraphHandle
  | EventHandle;

export type HostArray = ArrayBufferView<ArrayBuffer> | ArrayBuffer;
/** Memory on the device or pinned, an offset in bytes, and the array that is copied in or out whole. */
export type HostCopy = readonly [memory: MemoryHandle | PinnedHandle, offset: number, array: HostArray];
/** An array for device memory by way of as much pinned memory, in pieces; straight from where it lies when that is pinned itself. */
export type Upload = readonly [...to: HostCopy, by: PinnedHandle, byOffset: number];
type Triple = readonly [number, number, number];

export interface DeviceProperties {
  readonly name: string;
  /** PCI address, by which NVML knows the device; absent where the driver does not tell. */
  readonly bus?: string | undefined;
  readonly memoryBytes: number;
  /** Compute capability, 90 for 9.0. */
  readonly sm: number;
  readonly multiprocessors: number;
  readonly clockKHz: number;
  readonly memoryClockKHz: number;
  readonly busBits: number;
  readonly l2Bytes: number;
  /** With opt-in. */
  readonly sharedPerBlockBytes: number;
  readonly sharedPerMultiprocessorBytes: number;
}
export interface FunctionProperties {
  readonly handle: FunctionHandle;
  readonly registers: number;
  /** Static shared memory. */
  readonly sharedBytes: number;
  readonly localBytes: number;
  readonly maxThreads: number;
  /** [offset, bytes] of each parameter; absent on drivers before CUDA 12.4. */
  readonly parameters?: readonly (readonly [number, number])[];
}

/** Errors of the driver and of NVRTC carry `call`, `status` and `native` (see `NativeFailure`); wrong arguments are TypeErrors and RangeErrors. */
export interface NativeAddon {
  /** Hash of the sources it was built from (see scripts/build-native.mjs). */
  readonly sourceHash: string;
  open(libraries: readonly string[]): { readonly version: number; readonly devices: number; readonly library: string };
  deviceInfo(ordinal: number): DeviceProperties;
  contextCreate(ordinal: number): ContextHandle;
  memoryInfo(context: ContextHandle): { readonly freeBytes: number; readonly totalBytes: number };
  moduleLoad(context: ContextHandle, cubin: Uint8Array): ModuleHandle;
  functionGet(module: ModuleHandle, name: string, dynamicSharedBytes: number): FunctionProperties;
  memAlloc(context: ContextHandle, bytes: number): MemoryHandle;
  memAddress(memory: MemoryHandle): bigint;
  hostAlloc(context: ContextHandle, bytes: number): { readonly handle: PinnedHandle; readonly buffer: ArrayBuffer };
  fill(stream: StreamHandle, memory: MemoryHandle, offset: number, bytes: number, value: number): void;
  copy(
    stream: StreamHandle,
    to: MemoryHandle | PinnedHandle,
    toOffset: number,
    from: MemoryHandle | PinnedHandle,
    fromOffset: number,
    bytes: number,
  ): void;
  streamCreate(context: ContextHandle): StreamHandle;
  /** `parameters`: the packed parameter buffer, at most 4096 bytes. */
  launch(
    stream: StreamHandle,
    f: FunctionHandle,
    grid: Triple,
    block: Triple,
    sharedBytes: number,
    parameters: Uint8Array,
    cluster: Triple | undefined,
    dependent: boolean,
  ): void;
  captureBegin(stream: StreamHandle): void;
  captureEnd(stream: StreamHandle): GraphHandle;
  /**
   * Off the event loop, on a thread that is not one of libuv's: arrays copied in, the graph, arrays copied out, the wait. Arrays must stay as they are until
   * it settles.
   */
  execute(
    stream: StreamHandle,
    graph: GraphHandle | undefined,
    into: readonly (HostCopy | Upload)[],
    out: readonly HostCopy[],
  ): Promise<void>;
  /**
   * As `execute`, put on the stream before it returns, without the wait: `ended` or `wait` must follow. Undefined, and nothing has happened, where a thread
   * had to wait for an array that is not page-locked, or to copy more than 1 MiB.
   */
  begin(
    stream: StreamHandle,
    graph: GraphHandle | undefined,
    into: readonly (HostCopy | Upload)[],
    out: readonly HostCopy[],
  ): RunNumber | undefined;
  /** Whether a run that has begun is over: its arrays are written then, and its number is gone. Throws what failed; the number is gone then, too. */
  ended(run: RunNumber): boolean;
  /** The rest of a run that has begun, off the event loop; its number is gone at once. */
  wait(run: RunNumber): Promise<void>;
  /** Off the event loop: milliseconds of each of `count` replays after `warmup` more, between two events. */
  timeGraph(stream: StreamHandle, graph: GraphHandle, warmup: number, count: number): Promise<Float64Array>;
  eventCreate(context: ContextHandle): EventHandle;
  /** `captured`: the stream is being captured, and every launch of its graph records the event anew. */
  eventRecord(stream: StreamHandle, event: EventHandle, captured: boolean): void;
  /** Milliseconds on the device between two events that were recorded, and whose streams were waited for. */
  eventElapsed(from: EventHandle, to: EventHandle): number;
  /** Throws with every reason where no library loads or NVML does not start. */
  nvmlOpen(libraries: readonly string[]): { readonly library: string };
  /** Of the GPU at a PCI address; `refused` says why a figure is absent. */
  nvmlRead(bus: string): {
    readonly energyMillijoules?: number;
    readonly powerMilliwatts?: number;
    readonly usedBytes?: number;
    readonly refused: Readonly<Record<string, string>>;
  };
  /** How ranges are told to a profiler; throws why nobody is told. The first call decides. */
  nvtxOpen(libraries: readonly string[]): { readonly way: string };
  nvtxStart(name: string): bigint;
  nvtxEnd(range: bigint): void;
  tensorMapTiled(
    memory: MemoryHandle,
    offset: number,
    type: number,
    dims: readonly number[],
    strides: readonly number[],
    box: readonly number[],
    elementStrides: readonly number[],
    interleave: number,
    swizzle: number,
    l2: number,
    fill: number,
  ): Uint8Array;
  tensorMapIm2col(
    memory: MemoryHandle,
    offset: number,
    type: number,
    dims: readonly number[],
    strides: readonly number[],
    lower: readonly number[],
    upper: readonly number[],
    channels: number,
    pixels: number,
    elementStrides: readonly number[],
    interleave: number,
    swizzle: number,
    l2: number,
    fill: number,
  ): Uint8Array;
  /** Ends whatever the handle is; one that is gone is no error, one in use by `execute` is. */
  release(handle: AnyHandle): void;
  /** How many handles of each kind are live, and `device bytes`. */
  live(): Readonly<Record<string, number>>;
  nvrtcOpen(
    builtins: readonly string[],
    libraries: readonly string[],
  ): { readonly version: readonly [number, number]; readonly archs: readonly number[]; readonly library: string };
  nvrtcCompile(source: string, name: string, options: readonly string[]): Promise<{ readonly cubin: Uint8Array; readonly log: string }>;
}

export interface LoadedAddon {
  readonly addon: NativeAddon;
  readonly path: string;
}

/** Files that may be the addon, in the order they are tried. PARTITA_NATIVE names one outright. */
export function addonPaths(env: Readonly<Record<string, string | undefined>> = process.env): readonly string[] {
  if (env["PARTITA_NATIVE"] !== undefined && env["PARTITA_NATIVE"] !== "") return [env["PARTITA_NATIVE"]];
  // dist/engines/cuda and src/engines/cuda lie equally deep.
  const root = join(dirname(fileURLToPath(import.meta.url)), "../../..");
  return [
    join(root, "prebuilds", `${process.platform}-${process.arch}`, "partita_native.node"),
    join(root, "build/Release/partita_native.node"),
  ];
}

/** Loads the first of `paths` that is there and loads. Throws P2102 with every reason. */
export function loadAddon(paths: readonly string[] = addonPaths()): LoadedAddon {
  const reasons: string[] = [];
  const require = createRequire(import.meta.url);
  for (const path of paths) {
    if (!existsSync(path)) {
      reasons.push(`${path} does not exist`);
      continue;
    }
    try {
      return { addon: require(path) as NativeAddon, path };
    } catch (error) {
      reasons.push(error instanceof Error ? error.message : String(error));
    }
  }
  throw noAddon({ why: reasons.join("; ") });
}

let loaded: LoadedAddon | undefined;
/** The process's addon. Throws P2102. */
export const native = (): LoadedAddon => (loaded ??= loadAddon());
