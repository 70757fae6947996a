/**
 * What a segment becomes on the GPU for one set of shapes: sources, buffers, launches. Plain data, stored in the bundle as `plan.json`; the
 * emitter writes it, the executable runs it, neither knows the other.
 */
import type { DType } from "../../ir/types.js";

/** One launch parameter, in the order of the kernel's parameters. */
export type Arg =
  /** The address of a buffer plus `offset` bytes. */
  | { readonly kind: "buffer"; readonly buffer: number; readonly offset: number }
  | { readonly kind: "i32"; readonly value: number }
  | { readonly kind: "f32"; readonly value: number }
  /** A 128-byte CUtensorMap over a buffer, passed by value (`const __grid_constant__`). */
  | { readonly kind: "tensorMap"; readonly buffer: number; readonly offset: number; readonly map: TensorMap };

/** cuTensorMapEncodeTiled or cuTensorMapEncodeIm2col; dims and boxes fastest first, strides in bytes of dims 1 and up. */
export interface TensorMap {
  readonly mode: "tiled" | "im2col";
  readonly dtype: "uint8" | "float16" | "bfloat16" | "float32";
  readonly dims: readonly number[];
  readonly strides: readonly number[];
  /** tiled: elements per dim. im2col: [channels per pixel, pixels per column]. */
  readonly box: readonly number[];
  readonly elementStrides: readonly number[];
  readonly lowerCorner?: readonly number[] | undefined;
  readonly upperCorner?: readonly number[] | undefined;
  /** Bytes of the shared-memory swizzle. */
  readonly swizzle: 0 | 32 | 64 | 128;
}

export interface Launch {
  /** The `extern "C"` name; unique in the plan's source. */
  readonly kernel: string;
  readonly grid: readonly [number, number, number];
  readonly block: readonly [number, number, number];
  /** Dynamic shared memory, bytes. */
  readonly shared: number;
  readonly cluster?: readonly [number, number, number] | undefined;
  /** Programmatic dependent launch: the kernel may start before the one before it has ended, and waits by `griddepcontrol.wait`. */
  readonly dependent?: boolean | undefined;
  readonly args: readonly Arg[];
  /** Node names this launch computes, for profiles and reports. */
  readonly nodes: readonly string[];
}
/** A memory operation between launches. */
export type Operation =
  | { readonly kind: "launch"; readonly launch: Launch }
  /** Sets bytes of a buffer to zero. */
  | { readonly kind: "clear"; readonly buffer: number; readonly offset: number; readonly bytes: number };

/**
 * Device memory. `weights` is one blob uploaded once; `arena` is scratch whose ranges overlap where lifetimes do not; `input` and `output`
 * have an allocation of their own each. Offsets are multiples of 256.
 */
export interface Buffer {
  readonly kind: "weights" | "arena" | "input" | "output";
  readonly offset: number;
  readonly bytes: number;
}

export interface PortSpec {
  readonly name: string;
  /** As the host sees it, row-major. */
  readonly dtype: DType;
  readonly dims: readonly number[];
  /** Index into `buffers`. */
  readonly buffer: number;
}

export interface Translation {
  /** `extern "C"` kernels in this source. */
  readonly kernels: readonly string[];
  /** Complete, self-contained CUDA C++; no #include. */
  readonly source: string;
}

export interface KernelPlan {
  readonly schema: "partita.cuda/1";
  readonly inputs: readonly PortSpec[];
  readonly outputs: readonly PortSpec[];
  readonly buffers: readonly Buffer[];
  readonly arenaBytes: number;
  readonly weightsBytes: number;
  readonly operations: readonly Operation[];
  /** One or more translation units; equal text appears once. */
  readonly sources: readonly Translation[];
  /** Virtual or real architecture the sources need, as NVRTC spells it: "sm_80", "sm_90a". */
  readonly arch: string;
}
