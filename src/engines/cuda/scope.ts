/** What index and element expressions are written into: a block of C text, or a probe that asks what a value is. */
import type { Index } from "./indexing.js";
import type { Register } from "./storage.js";
import type { View } from "./view.js";

export interface Scope {
  /** Results at hand in a register, by value, whatever the index. */
  readonly overrides: ReadonlyMap<number, string>;
  /** Registers that are numbers whatever the input, no NaN: each with what it is the larger of with 0, or with itself. */
  readonly numbers: Map<string, string>;
  /** Words whose low byte is the integer of a register. */
  readonly lowBytes: Map<string, string>;
  let(type: Register | "bool", expression: string): string;
  index(x: Index): string;
  /** An element, widened to its register type. */
  load(view: View, index: readonly Index[]): string;
  /** Loads inside happen only where the condition holds, and give 0 elsewhere. */
  guarded<T>(condition: string, body: () => T): T;
  /** A loop whose result is a register: for operators that sum over a small window of their input. */
  fresh(prefix: string): string;
}
/** The element of a value at an index: C text of the value's register type. */
export type Element = (scope: Scope, index: readonly Index[]) => string;
