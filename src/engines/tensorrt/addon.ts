/** The addon's `tensorrt` object: numbers, names and bytes. `open.ts` and `engine.ts` make of it what native.ts promises. */
import type { Brand } from "../../ir/types.js";
import { type AnyHandle, type ContextHandle, type GraphHandle, type NativeAddon, native, type StreamHandle } from "../cuda/native.js";
import type { InputBinding, LayerTime, LogMessage, OnnxModel, OutputBinding, ProfileRange } from "./native.js";

export type LibraryId = Brand<number, "tensorrt library">;
export type EngineHandle = Brand<number, "tensorrt engine">;
export type ExecutionHandle = Brand<number, "tensorrt execution context">;

export interface BuildRequest {
  readonly stronglyTyped: boolean;
  readonly profiles?: readonly (readonly ProfileRange[])[] | undefined;
  readonly workspaceBytes?: number | undefined;
  readonly optimizationLevel?: number | undefined;
  readonly hardwareCompatibility?: number | undefined;
  readonly tacticSources?: number | undefined;
  readonly maxAuxiliaryStreams?: number | undefined;
  readonly profilingVerbosity?: number | undefined;
  readonly computeCapabilities?: readonly number[] | undefined;
  readonly refit?: boolean | undefined;
  readonly refitIdentical?: boolean | undefined;
  readonly stripPlan?: boolean | undefined;
  readonly versionCompatible?: boolean | undefined;
  readonly tf32?: boolean | undefined;
  readonly sparseWeights?: boolean | undefined;
  readonly timingCache?: Uint8Array | undefined;
  readonly context?: ContextHandle | undefined;
  readonly logLevel?: number | undefined;
}
export type NativeEvent =
  | LogMessage
  | { readonly phase: string; readonly parent: string; readonly steps: number }
  | { readonly phase: string; readonly step: number }
  | { readonly phase: string };
export interface NativeComplaint {
  readonly node: number;
  readonly code: number;
  readonly nodeName: string;
  readonly op: string;
  readonly text: string;
}
export interface NativeIo {
  readonly name: string;
  readonly input: boolean;
  readonly host: boolean;
  readonly type: number;
  readonly dims: readonly number[];
}
type Dims = readonly number[];

/** A rejection carries `call`, `native`, `memory`, `log` and `parser`; wrong arguments and busy handles throw at once. */
export interface TensorRtAddon {
  open(
    library: string,
    parser: string | undefined,
  ): { readonly id: LibraryId; readonly version: number; readonly parserVersion?: number; readonly family?: string };
  bind(library: LibraryId, family: string): void;
  build(
    library: LibraryId,
    model: OnnxModel,
    request: BuildRequest,
    listener: ((events: readonly NativeEvent[]) => void) | undefined,
  ): {
    readonly promise: Promise<{
      readonly plan: Uint8Array;
      readonly timingCache?: Uint8Array;
      readonly log: readonly LogMessage[];
      readonly parseMs: number;
      readonly buildMs: number;
    }>;
    cancel(): void;
  };
  /** Ends the builders that wait for work. */
  rest(library: LibraryId): Promise<void>;
  supports(
    library: LibraryId,
    model: Uint8Array,
    context: ContextHandle | undefined,
  ): Promise<{
    readonly supported: boolean;
    readonly subgraphs: readonly { readonly nodes: readonly number[]; readonly supported: boolean }[];
    readonly errors: readonly NativeComplaint[];
    readonly log: readonly LogMessage[];
  }>;
  deserialize(
    library: LibraryId,
    plan: Uint8Array,
    context: ContextHandle | undefined,
    allowHostCode: boolean,
  ): Promise<{
    readonly handle: EngineHandle;
    readonly io: readonly NativeIo[];
    readonly layers: number;
    readonly profiles: number;
    readonly refittable: boolean;
    readonly deviceMemoryBytes: number;
    readonly log: readonly LogMessage[];
  }>;
  inspect(engine: EngineHandle): string;
  range(engine: EngineHandle, input: string, profile: number): readonly [Dims, Dims, Dims] | undefined;
  contextCreate(engine: EngineHandle, profile: number): Promise<ExecutionHandle>;
  outputDims(context: ExecutionHandle, inputs: readonly Pick<InputBinding, "name" | "dims" | "host">[]): Readonly<Record<string, Dims>>;
  run(
    context: ExecutionHandle,
    stream: StreamHandle,
    inputs: readonly InputBinding[],
    outputs: readonly OutputBinding[],
    timed: boolean,
  ): Promise<{
    readonly dims: readonly Dims[];
    readonly data?: readonly (Uint8Array | undefined)[];
    readonly layers?: readonly LayerTime[];
  }>;
  capture(
    context: ExecutionHandle,
    stream: StreamHandle,
    inputs: readonly InputBinding[],
    outputs: readonly OutputBinding[],
  ): Promise<GraphHandle>;
  refittable(engine: EngineHandle): Promise<{ readonly all: readonly string[]; readonly missing: readonly string[] }>;
  refit(
    engine: EngineHandle,
    model: OnnxModel | undefined,
    weights: readonly { readonly name: string; readonly type: number; readonly count: number; readonly data: Uint8Array }[],
  ): Promise<void>;
}

type Addon = Omit<NativeAddon, "release"> & {
  readonly tensorrt: TensorRtAddon;
  release(handle: AnyHandle | EngineHandle | ExecutionHandle): void;
};
/** The process's addon. Throws P2102. */
export const addon = (): Addon => native().addon as unknown as Addon;
