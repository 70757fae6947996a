/** Inputs of operator samples, in few words. */
import { Editor } from "../ir/edit.js";
import type { Attr, DType, ValueId } from "../ir/types.js";
import type { SampleInput, SampleSequence } from "./define.js";

/** Random elements at run time. */
export const random = (dtype: DType, ...dims: readonly number[]): SampleInput => ({ dtype, dims, fill: "random" });
/** Fixed elements, as a constant of the graph. */
export const given = (dtype: DType, dims: readonly number[], fill: readonly (number | bigint | string | boolean)[]): SampleInput => ({
  dtype,
  dims,
  fill,
  constant: true,
});
/** Fixed elements, fed at run time. */
export const fed = (dtype: DType, dims: readonly number[], fill: readonly (number | bigint | string | boolean)[]): SampleInput => ({
  dtype,
  dims,
  fill,
});
export const ints64 = (...fill: readonly number[]): SampleInput => given("int64", [fill.length], fill);

export const aInt = (value: number): Attr => ({ kind: "int", value });
export const aInts = (...value: readonly number[]): Attr => ({ kind: "ints", value });
export const aFloat = (value: number): Attr => ({ kind: "float", value });
export const aFloats = (...value: readonly number[]): Attr => ({ kind: "floats", value });
export const aText = (value: string): Attr => ({ kind: "string", value });
export const aSequence = (...items: readonly SampleInput[]): SampleSequence => ({ items });
/** A control-flow body that captures nothing: `write` declares inputs, adds nodes and returns the outputs. */
export function aBody(write: (e: Editor) => readonly (ValueId | undefined)[]): Attr {
  const e = new Editor({ name: "body" });
  e.setOutputs(write(e).filter((v) => v !== undefined));
  return { kind: "graph", value: { graph: e.finish(), captures: [] } };
}
