/** The interface of an engine: what it can take, how a segment becomes an artifact, how an artifact runs. */
import type { Phase } from "../channels.js";
import type { Remark, Verdict } from "../diagnostics.js";
import type { Graph } from "../ir/types.js";
import type { EngineName, Target } from "../ops/define.js";
import type { Keep } from "../passes/spelling.js";
import type { Tensor, TensorLike } from "../tensor.js";
import type { MemoryHandle } from "./cuda/native.js";
import type { CacheCounters, OnMiss } from "./shape-cache.js";

/** A file of an artifact, relative to its folder in a bundle. `bytes`, or an existing file that is copied. */
export type ArtifactFile = { readonly name: string; readonly bytes: Uint8Array } | { readonly name: string; readonly path: string };

/** A built segment: everything needed to run it again without the model. */
export interface Artifact {
  readonly engine: EngineName;
  /** Content hash of the segment, the options and the engine's version: the key of every cache. */
  readonly key: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly files: readonly ArtifactFile[];
  /** What `open` must know besides the files. */
  readonly settings?: Readonly<Record<string, string>> | undefined;
}

/** What TensorRT is asked for besides the target. Every field has a default that suits most. */
export interface TensorRtOptions {
  /** Which product, where both are there. Default: TensorRT on the GPU it builds for, TensorRT-RTX otherwise. */
  readonly library?: "tensorrt" | "rtx" | undefined;
  /** 0 to 5: how long the builder looks for tactics. TensorRT's default is 3. */
  readonly optimizationLevel?: number | undefined;
  /** The plan loads in later versions of the same major version; it then brings host code, which a session must be allowed to run. Default false. */
  readonly versionCompatible?: boolean | undefined;
  /** Whether the plan runs on other GPUs than the one it was built on. Default "none". */
  readonly hardwareCompatibility?: "none" | "ampere-plus" | "same-compute-capability" | undefined;
  /** The plan holds no weights; they lie beside it and are put in when it is opened. Default false. */
  readonly stripWeights?: boolean | undefined;
  /** Whether weights can be exchanged later: with the same ones, or with any. Default "none". */
  readonly refit?: "none" | "identical" | "all" | undefined;
  /** Lets TensorRT use the structured sparsity of weights that have it. Default false. */
  readonly sparseWeights?: boolean | undefined;
  /** Bit set of TensorRT's tactic sources; its own default when absent. */
  readonly tacticSources?: number | undefined;
  /** Streams that one run may use besides its own; TensorRT's own choice when absent. */
  readonly auxiliaryStreams?: number | undefined;
  /** Measured tactics are kept on disk and used again: in the cache folder, or in a file of that name. Default true. */
  readonly timingCache?: boolean | string | undefined;
  /** How much the plan says of its layers. Default "names". */
  readonly inspection?: "none" | "names" | "detailed" | undefined;
  /** TensorRT's messages that become remarks: of this severity and graver. Default "error". */
  readonly log?: "error" | "warning" | "info" | "verbose" | undefined;
  /** Runs at dims that come again are CUDA graphs. Default true. */
  readonly cudaGraphs?: boolean | undefined;
}
/** Numbers for symbolic dims: smallest, the one to be fastest at, largest. */
export interface DimRanges {
  readonly min: ReadonlyMap<string, number>;
  readonly opt: ReadonlyMap<string, number>;
  readonly max: ReadonlyMap<string, number>;
}

/** How segments of open dims get their engines. Dims go by the model's names for them. */
export interface DynamicShapes {
  /** Engines that serve ranges of dims and are built by shape all the same, as the user asks for it. */
  readonly engines: readonly EngineName[];
  readonly onMiss: OnMiss;
  /** Engines kept for a segment. */
  readonly capacity: number;
  /** Sizes that dims are rounded up to, ascending. */
  readonly buckets: Readonly<Record<string, readonly number[]>>;
  /** Dims that the graph masks itself: padding is zeros, and is not proved to change nothing. */
  readonly masked: readonly string[];
  /** Feeds are padded also where an engine takes a range of dims. */
  readonly padding: boolean;
  /** Dims of axis 0 of the model's inputs. */
  readonly batch: readonly string[];
  /** What cannot be built is an error, and does not run on the host. */
  readonly strict: boolean;
}

export interface BuildContext {
  readonly dynamic?: DynamicShapes | undefined;
  readonly target: Target;
  /** Ranges of the graph's symbolic dims, where the user gave any. */
  readonly ranges?: DimRanges | undefined;
  /** Scratch memory the engine may take. */
  readonly workspaceBytes?: number | undefined;
  readonly tensorrt?: TensorRtOptions | undefined;
  readonly onRemark?: ((remark: Remark) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
  /** How long to look for the fastest way, on the GPU of this machine: not at all when absent. */
  readonly tune?: "none" | "quick" | "full" | undefined;
  readonly onTune?: ((done: number, total: number) => void) | undefined;
}
export interface OpenContext {
  /** Concurrent runs that one executable should serve. */
  readonly streams: number;
  /** Threads for one run. */
  readonly threads: number;
  /** Whether the engine may go beyond that, as it learns what runs cost and how many come at once. */
  readonly adapt?: boolean | undefined;
  /** Number of the GPU among the visible ones, for engines that use one; 0 when absent. */
  readonly device?: number | undefined;
  /** Whether plans may bring host code that is run: TensorRT plans built to be version-compatible. */
  readonly allowHostCode?: boolean | undefined;
  /** Told of what was not as the artifact says: kernels compiled again for another GPU. */
  readonly onRemark?: ((remark: Remark) => void) | undefined;
}
export interface RunOptions {
  readonly signal?: AbortSignal | undefined;
  /** The inputs' buffers may be taken over (they become detached). */
  readonly transfer?: boolean | undefined;
  /** Whether others were under way or waited when it came: what an engine that adapts goes by. */
  readonly overlaps?: boolean | undefined;
  /** Where the run tells its parts, when somebody wants to know. */
  readonly phases?: Phase[] | undefined;
}

/** Where a run goes: to the engine's threads or device, or it is over first on the calling thread, now or when the event loop has had its turn. */
export type Place = "engine" | "here" | "later";
/** Runs on the calling thread, of an executable whose runs may be shorter than the way to another thread. */
export interface CallingThread {
  /** Where a run on such inputs goes, when so many wait, it among them, and so many are under way elsewhere. */
  place(inputs: readonly TensorLike[], waiting: number, busy: number): Place;
  /** As the executable's `run`, over when it returns: of the inputs for which `place` has just said "here". */
  run(inputs: readonly TensorLike[]): readonly Tensor[];
  /** Whether `place` has last said "here" or "later". */
  readonly preferred: boolean;
  /** Milliseconds that the last run took. */
  readonly ms: number;
}

/** A segment ready to run. `run` takes and gives tensors in the artifact's order of inputs and outputs; calls may overlap. */
export interface Executable {
  run(inputs: readonly TensorLike[], options?: RunOptions): Promise<readonly Tensor[]>;
  /**
   * As `run`, where inputs may be on the device already, and outputs with `keep[i]` stay there: who gets those releases them. Only executables of
   * one device that have this hand tensors to each other so.
   */
  runResident?(
    inputs: readonly (TensorLike | DeviceTensor)[],
    keep: readonly boolean[],
    options?: RunOptions,
  ): Promise<readonly (Tensor | DeviceTensor)[]>;
  readonly here?: CallingThread | undefined;
  /** Runs that it takes at once now, where it adapts; those of `OpenContext.streams` otherwise. */
  readonly streams?: number | undefined;
  /** Where copies of the model are loaded on the host now. */
  copies?(): HostCopies;
  /** Microseconds of one run on the device, without copies to and from the host: the median of several. Undefined where that cannot be told. */
  timeUs?(inputs: readonly TensorLike[]): Promise<number | undefined>;
  /** What the engine made of the segment, with the time of each layer in one run where the device was asked. */
  layers?(inputs: readonly TensorLike[]): Promise<readonly LayerFacts[]>;
  /** How often engines for the shapes that came were there. Only where engines are built by shape. */
  cache?(): CacheCounters;
  /** What the engine's own inspector says, as JSON. */
  inspect?(): unknown;
  dispose(): Promise<void>;
}
/** Copies of a segment's model that ONNX Runtime has loaded. */
export interface HostCopies {
  /** Of each copy in a worker thread, in the order they were loaded: the threads that a run on it uses. */
  readonly threads: readonly number[];
  /** Whether there is another one on the calling thread, for runs that are shorter than the way to a worker. */
  readonly callingThread: boolean;
}
/** A tensor in the memory of a GPU, row-major, its elements as in a `Tensor`. It is complete when it is handed over. */
export interface DeviceTensor {
  readonly type: string;
  readonly dims: readonly number[];
  readonly memory: MemoryHandle;
  /** Bytes of `memory` from its start; at least those of the elements. */
  readonly room: number;
  /** Number of the GPU. */
  readonly device: number;
  /** Whether `release` was called: it is of no use any more. */
  readonly released?: boolean | undefined;
  /** Gives the memory back; once is enough. */
  release(): void;
  /** A copy on the host. */
  fetch(): Promise<Tensor>;
}
/** A layer of a built engine: a kernel, a node, a fused region, or what of a run lies between those. */
export interface LayerFacts {
  readonly name: string;
  /** Microseconds of one run. */
  readonly us?: number | undefined;
  /** The engine's operator or kernel. */
  readonly op?: string | undefined;
  /** Names of the segment's nodes that it computes, where the engine tells. */
  readonly nodes?: readonly string[] | undefined;
  /** The layer that it is a part of, and whose time holds its own. */
  readonly inside?: string | undefined;
}

export interface Engine {
  readonly name: EngineName;
  /** Which raised operators (passes/lower.ts) it runs at least as fast as their parts; the others are spelled out before `build`. All, when absent. */
  readonly keeps?: Keep | undefined;
  /** What one build takes: one set of dims, or a range of them. An engine that says neither gets open dims as they are. */
  readonly serves?: "dims" | "range" | undefined;
  /** What its artifacts depend on besides the segment and the options, where they are worth keeping on disk; larger ones are not kept. */
  storage?(context: BuildContext): Promise<{ readonly identity: string; readonly maxBytes: number } | undefined>;
  /** Compute capability, times ten, of the device that runs what is opened. Throws where this machine can open nothing. */
  ready?(context: OpenContext): number;
  /** Whether this machine can build and run it, and what is missing otherwise. */
  available(): Promise<Verdict>;
  build(segment: Graph, context: BuildContext): Promise<Artifact>;
  open(artifact: Artifact, context: OpenContext): Promise<Executable>;
  /** Device memory that an artifact will take when it is opened, read off the artifact. Undefined where only opening it tells. */
  memory?(artifact: Artifact): MemoryPlan | undefined;
}
/** Bytes of device memory. */
export interface MemoryPlan {
  /** Once: weights. */
  readonly sharedBytes: number;
  /** For each stream: intermediate results, inputs, outputs. */
  readonly streamBytes: number;
  /** The same of each engine that was built beforehand, where there is one for each of several shapes. */
  readonly byShape?: readonly (Pick<MemoryPlan, "sharedBytes" | "streamBytes"> & { readonly shape: string })[] | undefined;
}
/** Checks an engine against the interface without widening it. */
export const defineEngine = <E extends Engine>(engine: E): E => engine;
