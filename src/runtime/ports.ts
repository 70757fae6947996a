/** What a compiled graph is to those who run it: its ports, its segments in order, and what a run is given. */
import type { DeviceTensor } from "../engines/engine.js";
import type { ValueType } from "../ir/types.js";
import type { Tensor, TensorLike } from "../tensor.js";

/** A graph's input or output: name, element type, dims (numbers, or names of dynamic dims). */
export interface Port {
  readonly name: string;
  readonly type: string;
  readonly dims: readonly (number | string)[] | undefined;
}
export const portOf = (name: string, t: ValueType): Port => ({
  name,
  type: t.kind === "tensor" ? t.dtype : t.kind,
  dims: t.kind === "tensor" ? t.shape : undefined,
});

/** One segment of a plan, by names of values. */
export interface Step {
  readonly segment: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
}
export interface Plan {
  readonly inputs: readonly Port[];
  readonly outputs: readonly Port[];
  readonly steps: readonly Step[];
  /** Outputs that are inputs under another name, or constants: name to where the value comes from. */
  readonly direct: Readonly<Record<string, { readonly input: string } | { readonly constant: Tensor }>>;
  /** Other names of inputs and outputs. */
  readonly aliases?: Readonly<Record<string, string>> | undefined;
  /** Whether runs may be joined along dim 0: "", or what would mix them. Absent where the ports alone forbid it. */
  readonly joins?: string | undefined;
}
export type Feeds = Readonly<Record<string, TensorLike>>;
/** Feeds that may be on a GPU of the session (`session.upload`). */
export type SessionFeeds = Readonly<Record<string, TensorLike | DeviceTensor>>;
export interface SessionRunOptions {
  /** Only these outputs. */
  readonly outputs?: readonly string[] | undefined;
  /** A run that is cancelled while it waits never starts; the result of one that is under way is dropped. Either rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
  /** The feeds' buffers may be taken over: they are detached, and not copied. */
  readonly transfer?: boolean | undefined;
  /** Milliseconds from the call, after which the run is refused with P3107 while it waits, and its result dropped when it is under way. */
  readonly deadlineMs?: number | undefined;
}
