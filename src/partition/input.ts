/** What is segmented, on typed arrays, and what the steps weigh it by. */
import type { Edges } from "./dag.js";
import type { Values } from "./waves.js";

export interface SegmentInput {
  readonly n: number;
  /** i < j for every edge i to j; parallel edges allowed. */
  readonly successors: Edges;
  /** Engine class by node. */
  readonly engine: Uint8Array;
  /** What a node counts towards `minimumSize`. */
  readonly size: Uint32Array | Uint8Array;
  readonly minimumSize: number;
  /** Keeps a piece although it is small (pins); by node. */
  readonly forced?: Uint8Array | undefined;
  /** The tensors; absent: one per node, of weight 1, read by the node's successors. */
  readonly values?: Values | undefined;
  /** Microseconds more that a node takes on the host than on its engine; absent: what crosses alone decides about small pieces. */
  readonly lossUs?: Float64Array | undefined;
  /** Arithmetic by node; absent: every node computes something. */
  readonly flops?: Float64Array | undefined;
  /** Times, for step 6: microseconds by node, and of one more segment by class. Absent: step 6 is left out. */
  readonly overlap?: { readonly us: Float64Array; readonly startUs: readonly number[] } | undefined;
}

/** Bytes that cross between host and device in a microsecond. */
export const BYTES_PER_US = 50e3;
/** Microseconds of a tensor's crossing besides its bytes. */
export const CROSSING_US = 1;
