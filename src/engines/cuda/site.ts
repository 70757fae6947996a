/** A node as the emitter's rules see it: static dims, operands as elements, attributes typed by the operator's definition. */
import type { Constant, DType, Node, ValueId } from "../../ir/types.js";
import { add, type Index, isConstant, range, ZERO } from "./indexing.js";
import type { Element, Scope } from "./scope.js";
import type { Register } from "./storage.js";

export interface Tensor {
  readonly dims: readonly number[];
  readonly dtype: DType;
}
export interface Operand extends Tensor {
  readonly id: ValueId;
  readonly at: Element;
  readonly constant: Constant | undefined;
  /** Small integer constants as numbers, row-major. */
  readonly numbers: readonly number[] | undefined;
  /** No element is below 0, whatever the input. */
  readonly nonNegative: boolean;
}
export interface Site {
  readonly node: Node;
  // biome-ignore lint/suspicious/noExplicitAny: each operator's own attributes, typed by its definition.
  readonly attrs: any;
  readonly ins: readonly (Operand | undefined)[];
  readonly outs: readonly (Tensor | undefined)[];
  /** Results keep 11 bits at most, in memory or in what follows. */
  readonly coarse: boolean;
}

/** The node cannot be emitted as it stands, and why. */
export class Refused extends Error {
  readonly why: string;
  readonly fix: string | undefined;
  constructor(why: string, fix?: string) {
    super(why);
    this.why = why;
    this.fix = fix;
  }
}

export function operand(s: Site, i: number): Operand {
  const found = s.ins[i];
  if (found === undefined) throw new Refused(`input ${i} is missing`);
  return found;
}
export function output(s: Site, i = 0): Tensor {
  const found = s.outs[i];
  if (found === undefined) throw new Refused(`output ${i} is not asked for`);
  return found;
}
/** Constant integers of an input. */
export function numbers(s: Site, i: number): readonly number[] {
  const found = operand(s, i).numbers;
  if (found === undefined) throw new Refused(`input ${i} is not a constant`, "let constant folding compute it, or fix the input shapes");
  return found;
}

export const axis = (a: number, rank: number): number => (a < 0 ? a + rank : a);

/** The index of an operand that is broadcast to `dims` (aligned at the right). */
export function broadcastIndex(dims: readonly number[], index: readonly Index[]): readonly Index[] {
  const skip = index.length - dims.length;
  return dims.map((d, i) => (d === 1 ? ZERO : (index[i + skip] as Index)));
}

/** `low <= x < high` as C text, or what is known of it without running. */
export function within(scope: Scope, x: Index, low: number, high: number): string | boolean {
  const r = range(x);
  const [above, below] = [r.min >= low, r.max < high];
  if (above && below) return true;
  if (r.max < low || r.min >= high) return false;
  const name = scope.index(isConstant(x) ? x : add(x, 0));
  return scope.let("bool", above ? `${name} < ${high}` : below ? `${name} >= ${low}` : `${name} >= ${low} && ${name} < ${high}`);
}
/**
 * A value read where a condition holds, `outside` elsewhere. That loads give 0 there is not enough: what an expression in front makes of zeros (a Where, an
 * Exp) need not be 0.
 */
export function readWithin(scope: Scope, type: Register, inside: string | boolean, read: () => string, outside: string): string {
  if (inside === true) return read();
  if (inside === false) return outside;
  return scope.let(type, `${inside} ? ${scope.guarded(inside, read)} : ${outside}`);
}
export function allOf(scope: Scope, conditions: readonly (string | boolean)[]): string | boolean {
  if (conditions.includes(false)) return false;
  const open = conditions.filter((c): c is string => typeof c === "string");
  return open.length === 0 ? true : open.length === 1 ? (open[0] as string) : scope.let("bool", open.join(" && "));
}
