/** What a reduction is: what it combines and how; loops.ts decides which threads do it. */
import type { Index } from "./indexing.js";
import type { Scope } from "./scope.js";
import type { Register } from "./storage.js";

export interface Accumulator {
  readonly type: Register;
  readonly start: string;
}
/** `result[out] = finish(combine over every index r of `over` of element(out, r))`. `combine` is associative and commutative. */
export interface Reduction {
  readonly over: readonly number[];
  readonly accumulators: readonly Accumulator[];
  element(scope: Scope, out: readonly Index[], at: readonly Index[]): readonly string[];
  combine(a: readonly string[], b: readonly string[]): readonly string[];
  finish(scope: Scope, totals: readonly string[], out: readonly Index[]): string;
}

export const NEG_INF = "__int_as_float(0xff800000)";
export const POS_INF = "__int_as_float(0x7f800000)";
export const sum = ([a]: readonly string[], [b]: readonly string[]): readonly string[] => [`${a} + ${b}`];
export const largest = ([a]: readonly string[], [b]: readonly string[]): readonly string[] => [
  `(${a} > ${b} || ${a} != ${a} ? ${a} : ${b})`,
];
export const least = ([a]: readonly string[], [b]: readonly string[]): readonly string[] => [`(${a} < ${b} || ${a} != ${a} ? ${a} : ${b})`];
export const lowest = (r: Register): string =>
  r === "float" ? NEG_INF : r === "int" ? "(-2147483647 - 1)" : "(-9223372036854775807ll - 1)";
export const highest = (r: Register): string => (r === "float" ? POS_INF : r === "int" ? "2147483647" : "9223372036854775807ll");
