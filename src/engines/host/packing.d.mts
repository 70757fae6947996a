import type { TensorLike } from "../../tensor.js";

/** One buffer with the tensors' elements, one list with their number, types and dims. */
export interface Packed {
  readonly form: readonly number[];
  readonly buffer: ArrayBuffer;
}
/** Bytes of tensors that go packed, at most. */
export const SMALL: number;
export function packedBytes(tensors: readonly TensorLike[]): number | undefined;
export function pack(lists: readonly (readonly TensorLike[])[], bytes: number): Packed;
export function unpack(packed: Packed, own: boolean): (readonly TensorLike[])[];
