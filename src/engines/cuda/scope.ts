/** What index and element expressions are written into: a block of C text, or a probe that asks what a value is. */
import type { Index } from "./indexing.js";
import type { Register } from "./storage.js";
import type { View } from "./view.js";

/** What is known of a register that is a number whatever the input, no NaN. */
export interface Known {
  /** What it is the larger of with 0, or itself. */
  readonly under: string;
  /** No value of `under` is farther from 0. */
  readonly limit: number;
}
/** An integer on its way to a byte. */
export interface Low {
  /** A word whose low byte is the integer. */
  readonly word: string;
  /** Where given, the low byte is right only once the lower half of the word, as a signed integer, is held between these two. */
  readonly held?: { readonly low: number; readonly high: number };
}

export interface Scope {
  /** Results at hand in a register, by value, whatever the index. */
  readonly overrides: ReadonlyMap<number, string>;
  readonly numbers: Map<string, Known>;
  /** By the register that holds the integer. */
  readonly lowBytes: Map<string, Low>;
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
