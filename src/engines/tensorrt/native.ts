/**
 * TensorRT as TypeScript sees it: what a library is, how a plan is built, how an engine runs. `open.ts` implements it over the addon.
 * Long calls run off the event loop. A failure is a coded error (failures.ts) whose `why` is TensorRT's own text and whose `cause` is a
 * `TensorRtFailure` with everything it logged. An aborted call rejects with the signal's reason.
 */
import type { ContextHandle, GraphHandle, HostArray, MemoryHandle, StreamHandle } from "../cuda/native.js";

/** Versions with one binary interface: TensorRT 10.x, 11.x; TensorRT-RTX 1.3 and 1.4; 1.5, 1.6 and 1.7. */
export type Family = "10" | "11" | "rtx-1.3" | "rtx-1.5";

export interface LibraryVersion {
  readonly product: "TensorRT" | "TensorRT-RTX";
  readonly major: number;
  readonly minor: number;
  readonly patch: number;
  /** "10.13.2" */
  readonly text: string;
}

export interface LogMessage {
  readonly severity: "internal" | "error" | "warning" | "info" | "verbose";
  readonly text: string;
}
/** TensorRT's own log, its parser's errors and the call that failed: the cause of coded errors. */
export interface TensorRtFailure extends Error {
  readonly call: string;
  readonly log: readonly LogMessage[];
  readonly parser: readonly ParserError[];
}

/** What the ONNX parser says of a node. */
export interface ParserError {
  /** Index in the model's list of nodes; -1 where the error is of no node. */
  readonly node: number;
  readonly nodeName: string;
  readonly op: string;
  /** "unsupported node", "unsupported node attribute", "invalid graph"...: the parser's ErrorCode in words. */
  readonly code: string;
  readonly text: string;
}

/** A serialized model, or the path of one (weights in external data are found beside it). */
export type OnnxModel = Uint8Array | string;

export interface ProfileRange {
  readonly name: string;
  readonly min: readonly number[];
  readonly opt: readonly number[];
  readonly max: readonly number[];
  /** The ranges are of the elements of a shape tensor (at most 64), not of a tensor's dims. */
  readonly values?: boolean | undefined;
}
export interface Progress {
  readonly phase: string;
  readonly parent: string | undefined;
  /** Steps done of `steps`; undefined when the phase has ended. */
  readonly step: number | undefined;
  readonly steps: number;
}
export interface BuildOptions {
  /** One list of ranges a profile; every input with an open dim is in each. */
  readonly profiles?: readonly (readonly ProfileRange[])[] | undefined;
  readonly workspaceBytes?: number | undefined;
  /** 0 to 5; TensorRT's default is 3. */
  readonly optimizationLevel?: number | undefined;
  /** 89 for 8.9. Only TensorRT-RTX builds for a GPU that is not there; others throw P2219. */
  readonly computeCapabilities?: readonly number[] | undefined;
  /** The network is strongly typed unless this is false, which 11 and RTX from 1.5 on do not know (P2219). */
  readonly stronglyTyped?: boolean | undefined;
  readonly versionCompatible?: boolean | undefined;
  readonly hardwareCompatibility?: "none" | "ampere-plus" | "same-compute-capability" | undefined;
  /** The plan holds no weights that refit can bring. */
  readonly stripPlan?: boolean | undefined;
  /** "identical": only with the weights it was built from; "all": with any. */
  readonly refit?: "none" | "identical" | "all" | undefined;
  /** TF32 in float32 layers; TensorRT's default is true. */
  readonly tf32?: boolean | undefined;
  readonly sparseWeights?: boolean | undefined;
  /** A bit set of TensorRT's TacticSource values. */
  readonly tacticSources?: number | undefined;
  readonly maxAuxiliaryStreams?: number | undefined;
  /** Default "names". */
  readonly profilingVerbosity?: "none" | "names" | "detailed" | undefined;
  /** Bytes of an earlier `BuildResult.timingCache`; an empty array asks for a new one. One that TensorRT refuses counts as empty, with a warning in the log. */
  readonly timingCache?: Uint8Array | undefined;
  /** The GPU to time on. TensorRT needs one; RTX builds without. */
  readonly context?: ContextHandle | undefined;
  /** What goes into `log` and to `onLog`: this severity and graver ones. Default "info". */
  readonly logLevel?: LogMessage["severity"] | undefined;
  readonly onLog?: ((message: LogMessage) => void) | undefined;
  readonly onProgress?: ((progress: Progress) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}
export interface BuildResult {
  readonly plan: Uint8Array;
  readonly timingCache: Uint8Array | undefined;
  readonly log: readonly LogMessage[];
  readonly parseMs: number;
  readonly buildMs: number;
}

/** The parser's own verdict on a model. */
export interface Support {
  readonly supported: boolean;
  /** Indexes into the model's nodes, in its order. Empty where the library (10.0) cannot tell. */
  readonly subgraphs: readonly { readonly nodes: readonly number[]; readonly supported: boolean }[];
  readonly errors: readonly ParserError[];
  readonly log: readonly LogMessage[];
}

export type IoType = "float32" | "float16" | "int8" | "int32" | "bool" | "uint8" | "fp8" | "bfloat16" | "int64" | "int4" | "fp4" | "e8m0";
export interface IoTensor {
  readonly name: string;
  readonly mode: "input" | "output";
  readonly dtype: IoType;
  /** -1 where a profile or the data decides. */
  readonly dims: readonly number[];
  /** "host": a shape tensor, whose binding gives `host` instead of `memory`. */
  readonly location: "device" | "host";
}

export interface InputBinding {
  readonly name: string;
  readonly dims: readonly number[];
  /** Memory of the addon: the same that the CUDA engine's buffers are. */
  readonly memory?: MemoryHandle | undefined;
  /** Bytes into `memory`. TensorRT wants 256-byte alignment. */
  readonly offset?: number | undefined;
  /** Copied into `memory` first (device tensors), or read in place (host tensors). */
  readonly host?: HostArray | undefined;
}
export interface OutputBinding {
  readonly name: string;
  /** Without memory TensorRT asks for some once it knows the dims: for outputs whose dims the data decides. Their elements are in `RunResult.data`. */
  readonly memory?: MemoryHandle | undefined;
  readonly offset?: number | undefined;
  /** Copied out of `memory` last: exactly the bytes of the output's dims are written, so it may be longer. */
  readonly host?: HostArray | undefined;
}
export interface RunRequest {
  readonly stream: StreamHandle;
  readonly inputs: readonly InputBinding[];
  readonly outputs: readonly OutputBinding[];
}
export interface LayerTime {
  readonly name: string;
  readonly ms: number;
}
export interface RunResult {
  /** Dims of each output, in the request's order. */
  readonly dims: readonly (readonly number[])[];
  /** Elements of the outputs that were given no memory, in the request's order; absent where all had some. */
  readonly data?: readonly (Uint8Array | undefined)[] | undefined;
}

/** An execution context: one run at a time. */
export interface Context {
  /** Dims of the engine's outputs for these input dims, -1 where the data decides. Throws P2217. */
  outputDims(inputs: readonly Pick<InputBinding, "name" | "dims" | "host">[]): Readonly<Record<string, readonly number[]>>;
  /** Copies in, enqueueV3, copies out, the wait. Arrays must stay as they are until it settles. Throws P2217, P2218. */
  run(request: RunRequest): Promise<RunResult>;
  /** As `run`, with the time of each layer; slower, for reports. */
  profile(request: RunRequest): Promise<RunResult & { readonly layers: readonly LayerTime[] }>;
  /**
   * enqueueV3 as a CUDA graph at fixed dims and addresses, for the CUDA addon's `execute`, `timeGraph` and `release`; one run settles TensorRT's lazy
   * work before. Disposing of the context fails (P2217) while the graph lives. Throws P2217, P2218.
   */
  capture(request: RunRequest): Promise<GraphHandle>;
  /** Waits for a run that is under way. Twice is no error. */
  dispose(): Promise<void>;
}

export interface RefitWeights {
  /** The name of an initializer of the ONNX model. */
  readonly name: string;
  readonly dtype: IoType;
  readonly data: Uint8Array;
}

export interface Engine {
  readonly io: readonly IoTensor[];
  readonly profiles: number;
  readonly layers: number;
  /** Whether it was built with `refit` or `stripPlan`. */
  readonly canRefit: boolean;
  /** Bytes of activations that one context needs. */
  readonly deviceMemoryBytes: number;
  /** min, opt and max of an input in a profile; undefined for one without open dims. */
  range(name: string, profile?: number): ProfileRange | undefined;
  /** TensorRT's inspector, parsed JSON. Full only for engines built with "detailed". */
  inspect(): unknown;
  /** An execution context on one of the engine's profiles. Throws P2216, P2221. */
  createContext(options?: { readonly profile?: number | undefined }): Promise<Context>;
  /** Names of the weights that a refit can bring, and those that it must. */
  refittable(): Promise<{ readonly all: readonly string[]; readonly missing: readonly string[] }>;
  /** Takes the weights of an ONNX model of the same structure, or those that are named. Waits for runs, and runs wait for it. Throws P2220, P2221. */
  refit(weights: OnnxModel | readonly RefitWeights[]): Promise<void>;
  /** How often its weights were exchanged: graphs that were captured before are of the old ones. */
  readonly refits: number;
  /** Waits for the runs of its contexts and disposes of those too. Twice is no error. */
  dispose(): Promise<void>;
}

export interface DeserializeOptions {
  /** The GPU; runs use its streams and memory. Without one the library is asked all the same, and refuses (P2216). */
  readonly context?: ContextHandle | undefined;
  /** Lets plans built with `versionCompatible` bring host code: TensorRT runs it. Default false. */
  readonly allowHostCode?: boolean | undefined;
  readonly onLog?: ((message: LogMessage) => void) | undefined;
}

/** One opened library. It stays loaded for the life of the process. */
export interface TensorRt {
  readonly version: LibraryVersion;
  readonly family: Family;
  readonly library: string;
  readonly parser: string | undefined;
  /** Parses and builds. Throws P2213 (the parser, with the node), P2214, P2219, P2221, P2223, P2224. */
  build(model: OnnxModel, options?: BuildOptions): Promise<BuildResult>;
  /** Asks the parser which nodes it takes of a model that holds its weights; on a GPU, with the builder that builds there. Throws P2223, P2224. */
  supports(model: Uint8Array, context?: ContextHandle | undefined): Promise<Support>;
  /** Ends the builder that waits for work, and what it holds of memory; the next call makes one, which takes seconds. */
  rest(): Promise<void>;
  /** Throws P2216, P2221, P2224. */
  deserialize(plan: Uint8Array, options?: DeserializeOptions): Promise<Engine>;
}

export interface OpenOptions {
  /** Path, or a name for the loader. */
  readonly library: string;
  /** The ONNX parser's library; without it only plans can be run. */
  readonly parser?: string | undefined;
}
