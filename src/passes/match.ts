/**
 * Patterns over the graph: what an expression looks like, written down as data, and the search that finds it.
 *
 * A pattern describes a value by the node that makes it, and that node's operands by patterns again. A name that stands in two places means
 * the same value in both, so patterns may be graphs and not only trees. Commutative operators are tried both ways round. A match is exact
 * or there is none; nothing is changed here (rewrite.ts does that).
 *
 *     const silu = op("Mul", [any("x"), op("Sigmoid", [any("x")])]);
 *     const found = match(draft, node, silu);
 *     if (found !== undefined && found.closed()) ... found.value("x") ...
 *
 * Cost: a pattern looks at a bounded neighbourhood of the node it is tried on; trying k patterns on every node is linear in the graph.
 */
import type { Editor } from "../ir/edit.js";
import { bfloat16ToNumber, halfToNumber } from "../ir/numeric.js";
import { elementCount, typedOf } from "../ir/payload.js";
import type { Constant, Dim, Node, ValueId } from "../ir/types.js";

/** What a pattern needs to see of a graph; an `Editor` is one. */
export type Subject = Pick<Editor, "producer" | "constant" | "uses" | "isOutput" | "type" | "value">;

/** A condition on a value, with the graph to ask for types and constants. */
export type Where = (value: ValueId, subject: Subject) => boolean;

export type Pattern =
  /** Any value. */
  | { readonly kind: "any"; readonly name: string | undefined; readonly where: Where | undefined }
  /** A constant, one element or many. */
  | { readonly kind: "constant"; readonly name: string | undefined; readonly where: Where | undefined }
  /** The result of a node of ai.onnx. */
  | {
      readonly kind: "op";
      readonly ops: readonly string[];
      readonly ins: readonly (Pattern | undefined)[];
      readonly options: OpOptions;
    }
  /** The first alternative that leads to a whole match. */
  | { readonly kind: "either"; readonly options: readonly Pattern[] };

export interface OpOptions {
  /** Binds the node's (first) output value. */
  readonly name?: string | undefined;
  /** Attributes and whatever else the node itself must satisfy. */
  readonly where?: ((node: Node, subject: Subject) => boolean) | undefined;
  /** Which output of the node the value is; 0 when absent. */
  readonly output?: number | undefined;
  /** The node may have readers outside the match: it is read through, not consumed, and stays while anyone reads it. */
  readonly shared?: boolean | undefined;
  /** Overrides what is known of the operator. */
  readonly commutative?: boolean | undefined;
}

/** Any value; under one name always the same one. */
export const any = (name?: string, where?: Where): Pattern => ({ kind: "any", name, where });
/** A constant. */
export const constant = (name?: string, where?: Where): Pattern => ({ kind: "constant", name, where });
/** The first output of a node with one of these operators and exactly these inputs (`undefined`: left out; missing ones at the end: absent). */
export const op = (ops: string | readonly string[], ins: readonly (Pattern | undefined)[], options: OpOptions = {}): Pattern => ({
  kind: "op",
  ops: typeof ops === "string" ? [ops] : ops,
  ins,
  options,
});
export const either = (...options: readonly Pattern[]): Pattern => ({ kind: "either", options });

/**
 * A constant all of whose elements equal `x`, to the precision of its element type: a few units in the last place for float32 (exporters round
 * decimals), half a unit and a bit for the 16-bit types. At most 4096 elements are looked at.
 */
export const scalar = (x: number | ((found: number) => boolean), name?: string): Pattern =>
  constant(name, (v, subject) => {
    const found = uniform(subject.constant(v));
    if (found === undefined) return false;
    return typeof x === "function" ? x(found) : near(found, x, subject.constant(v)?.dtype);
  });

/** Relative precision of a decimal written into a constant of this type. */
const PRECISION: Readonly<Record<string, number>> = { float64: 1e-6, float32: 1e-6, float16: 1e-3, bfloat16: 8e-3 };
/** Whether a constant's element is meant to be `x`. */
export function near(found: number, x: number, dtype: string | undefined): boolean {
  if (found === x) return true;
  return Math.abs(found - x) <= (PRECISION[dtype ?? "float32"] ?? 0) * Math.abs(x);
}

/** The elements of a constant of at most `limit` elements as numbers, 16-bit floats decoded; undefined for strings, packed and sparse ones. */
export function numbersOf(c: Constant | undefined, limit = 4096): readonly number[] | undefined {
  if (c === undefined || c.data.kind === "strings" || c.data.kind === "sparse") return undefined;
  const count = elementCount(c.dims);
  if (count === undefined || count > limit || !WHOLE.has(c.dtype)) return undefined;
  const raw = Array.from(typedOf(c) as ArrayLike<number | bigint>, Number);
  if (c.dtype === "float16") return raw.map(halfToNumber);
  return c.dtype === "bfloat16" ? raw.map(bfloat16ToNumber) : raw;
}
const WHOLE: ReadonlySet<string> = new Set(
  "float16 bfloat16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool".split(" "),
);
/** The one value that all elements of a constant have. */
export function uniform(c: Constant | undefined): number | undefined {
  const values = numbersOf(c);
  const [first] = values ?? [];
  return values?.every((x) => x === first) === true ? first : undefined;
}

/** The dims of a value, as far as its type says; undefined when not even the rank is known. */
export function dimsOf(subject: Subject, v: ValueId | undefined): readonly Dim[] | undefined {
  if (v === undefined) return undefined;
  const t = subject.type(v);
  return t.kind === "tensor" ? t.shape : undefined;
}

const COMMUTATIVE: ReadonlySet<string> = new Set("Add Mul Max Min Sum Mean And Or Xor Equal BitwiseAnd BitwiseOr BitwiseXor".split(" "));

/** A found pattern: what its names stand for, and the nodes it is made of. */
export class Match {
  readonly root: Node;
  readonly #values: ReadonlyMap<string, ValueId>;
  /** The matched nodes, root first; those that the pattern marks `shared` are not among them. */
  readonly nodes: readonly Node[];
  readonly #subject: Subject;

  constructor(subject: Subject, root: Node, values: ReadonlyMap<string, ValueId>, nodes: readonly Node[]) {
    this.root = root;
    this.nodes = nodes;
    this.#values = values;
    this.#subject = subject;
  }
  /** The value a name stands for; throws for a name that the pattern always binds and did not (a mistake in the pattern). */
  value(name: string): ValueId {
    const v = this.#values.get(name);
    if (v === undefined) throw new Error(`the pattern does not bind '${name}'`);
    return v;
  }
  /** The value of a name that only some alternatives bind. */
  maybe(name: string): ValueId | undefined {
    return this.#values.get(name);
  }
  /** The elements of the constant that a name stands for. */
  numbers(name: string): readonly number[] | undefined {
    return numbersOf(this.#subject.constant(this.#values.get(name)));
  }
  /** The one value of all its elements. */
  number(name: string): number | undefined {
    return uniform(this.#subject.constant(this.#values.get(name)));
  }
  /**
   * The first value inside the match that somebody outside reads, or that is a graph output; undefined when there is none and the nodes but
   * the root may go. `besides`: readers that do not count.
   */
  leak(besides: (n: Node) => boolean = () => false): ValueId | undefined {
    const inside = new Set(this.nodes.map((n) => n.id));
    for (const n of this.nodes) {
      if (n === this.root) continue;
      for (const v of n.outs)
        if (v !== undefined && (this.#subject.isOutput(v) || this.#subject.uses(v).some((u) => !inside.has(u.id) && !besides(u)))) return v;
    }
    return undefined;
  }
  /** Whether nothing outside reads a value inside. */
  closed(): boolean {
    return this.leak() === undefined;
  }
}

/** Matches a pattern with the value that a node makes first; undefined when it does not fit. */
export function match(subject: Subject, root: Node, pattern: Pattern): Match | undefined {
  const [out] = root.outs;
  if (out === undefined) return undefined;
  const search = new Search(subject);
  if (!search.value(pattern, out, () => true)) return undefined;
  return new Match(subject, root, search.values, [...new Set(search.nodes)]);
}

/** Depth-first search with undo: `then` is the rest of the pattern, and a choice stands only if the rest fits too. */
class Search {
  readonly values = new Map<string, ValueId>();
  readonly nodes: Node[] = [];
  readonly #subject: Subject;

  constructor(subject: Subject) {
    this.#subject = subject;
  }

  value(p: Pattern, v: ValueId, then: () => boolean): boolean {
    switch (p.kind) {
      case "any":
        return (p.where?.(v, this.#subject) ?? true) && this.#bind(p.name, v, then);
      case "constant":
        return this.#subject.constant(v) !== undefined && (p.where?.(v, this.#subject) ?? true) && this.#bind(p.name, v, then);
      case "either":
        return p.options.some((option) => this.value(option, v, then));
      case "op":
        return this.#node(p, v, then);
      default:
        return p satisfies never;
    }
  }

  #node(p: Pattern & { readonly kind: "op" }, v: ValueId, then: () => boolean): boolean {
    const n = this.#subject.producer(v);
    if (n === undefined || n.domain !== "" || !p.ops.includes(n.op) || n.outs[p.options.output ?? 0] !== v) return false;
    for (let i = p.ins.length; i < n.ins.length; i++) if (n.ins[i] !== undefined) return false;
    if (p.options.where !== undefined && !p.options.where(n, this.#subject)) return false;
    const mark = this.nodes.length;
    if (p.options.shared !== true) this.nodes.push(n);
    const rest = (): boolean => this.#bind(p.options.name, v, then);
    const [a, b] = p.ins;
    const swaps = p.options.commutative ?? COMMUTATIVE.has(n.op);
    const fits =
      this.#operands(p.ins, n.ins, 0, rest) ||
      (swaps && p.ins.length === 2 && a !== undefined && b !== undefined && this.#operands([b, a], n.ins, 0, rest));
    if (!fits) this.nodes.length = mark;
    return fits;
  }

  #operands(patterns: readonly (Pattern | undefined)[], ins: readonly (ValueId | undefined)[], i: number, then: () => boolean): boolean {
    if (i === patterns.length) return then();
    const [p, v] = [patterns[i], ins[i]];
    if (p === undefined || v === undefined) return p === undefined && v === undefined && this.#operands(patterns, ins, i + 1, then);
    const mark = this.nodes.length;
    if (this.value(p, v, () => this.#operands(patterns, ins, i + 1, then))) return true;
    this.nodes.length = mark;
    return false;
  }

  #bind(name: string | undefined, v: ValueId, then: () => boolean): boolean {
    if (name === undefined) return then();
    const known = this.values.get(name);
    if (known !== undefined) return known === v && then();
    this.values.set(name, v);
    if (then()) return true;
    this.values.delete(name);
    return false;
  }
}
