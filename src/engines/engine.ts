/** The interface of an engine: what it can take, how a segment becomes an artifact, how an artifact runs. */
import { defineError, type Verdict } from "../diagnostics.js";
import type { Graph } from "../ir/types.js";
import type { EngineName, Target } from "../ops/define.js";
import type { Keep } from "../passes/lower.js";
import type { Tensor, TensorLike } from "../tensor.js";

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

export interface BuildContext {
  readonly target: Target;
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
}
export interface RunOptions {
  readonly signal?: AbortSignal | undefined;
  /** The inputs' buffers may be taken over (they become detached). */
  readonly transfer?: boolean | undefined;
}

/** A segment ready to run. `run` takes and gives tensors in the artifact's order of inputs and outputs; calls may overlap. */
export interface Executable {
  run(inputs: readonly TensorLike[], options?: RunOptions): Promise<readonly Tensor[]>;
  dispose(): Promise<void>;
}

export interface Engine {
  readonly name: EngineName;
  /** Which raised operators (passes/lower.ts) it runs at least as fast as their parts; the others are spelled out before `build`. All, when absent. */
  readonly keeps?: Keep | undefined;
  /** Whether this machine can build and run it, and what is missing otherwise. */
  available(): Promise<Verdict>;
  build(segment: Graph, context: BuildContext): Promise<Artifact>;
  open(artifact: Artifact, context: OpenContext): Promise<Executable>;
}
/** Checks an engine against the interface without widening it. */
export const defineEngine = <E extends Engine>(engine: E): E => engine;

export const tensorrtAbsent = defineError<{ why: string }>(
  "P2201",
  "the TensorRT engine cannot build or run here",
  ({ why }) => ({
    what: `the segments planned for 'tensorrt' cannot be built: ${why}`,
    fix: "compile with --target host to run on this machine; `partita report --target tensorrt` shows the plan without building it",
  }),
  3,
);
