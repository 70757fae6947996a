/** Walking through an expression that a pass means to replace: what was passed, the scale collected on the way, and reasons to stop. */
import { isStatic, sameDim } from "../../ir/dims.js";
import type { Dim, Node, ValueId } from "../../ir/types.js";
import { dimsOf, uniform } from "../match.js";
import type { Draft } from "../rewrite.js";

/** A reason for which nothing is changed; nothing is written before the last of them could be thrown. */
export class Refusal extends Error {}
export function refuse(why: string): never {
  throw new Refusal(why);
}

/** A Transpose's permutation. */
export const perm = (n: Node | undefined): readonly number[] | undefined => {
  const a = n?.op === "Transpose" && n.domain === "" ? n.attrs["perm"] : undefined;
  return a?.kind === "ints" ? a.value.map(Number) : undefined;
};
export const isIdentity = (p: readonly number[]): boolean => p.every((x, i) => x === i);
export const isShape = (n: Node): boolean => n.op === "Shape" && n.domain === "";
/** Certainly the same dims. */
export const same = (a: readonly Dim[] | undefined, b: readonly Dim[] | undefined): boolean =>
  a !== undefined && b !== undefined && a.length === b.length && a.every((d, i) => sameDim(d, b[i] ?? "?") === true);
export const swapLast = <T>(x: readonly T[]): T[] => [...x.slice(0, -2), ...x.slice(-2).reverse()];

/** Dims as a Reshape takes them; at most one may be open. */
export function shapeOperand(dims: readonly Dim[]): readonly number[] | undefined {
  return dims.filter((d) => !isStatic(d)).length > 1 ? undefined : dims.map((d) => (isStatic(d) ? d : -1));
}

export class Walk {
  readonly draft: Draft;
  /** The nodes passed, root first; those that nobody reads afterwards go. */
  readonly path: Node[];
  /** Shapes of what is passed, which are asked for. */
  readonly measured = new Set<Node>();
  /** Product of the constant scales taken off on the way. */
  scale = 1;

  constructor(draft: Draft, nodes: readonly Node[]) {
    this.draft = draft;
    this.path = [...nodes];
  }

  /** A node of which only the path may read the result; its input to go on with. */
  inside(n: Node, next = n.ins[0]): ValueId {
    const [y] = n.outs;
    this.measures(n);
    if (y === undefined || this.draft.isOutput(y) || this.draft.uses(y).filter((u) => !isShape(u)).length !== 1)
      refuse(`'${y === undefined ? n.name : this.draft.value(y).name}' inside it is read elsewhere`);
    this.path.push(n);
    return next ?? refuse(`${n.op} '${n.name}' lacks an operand`);
  }

  /** Notes who asks for the shape of a node's result. */
  measures(n: Node): void {
    const [y] = n.outs;
    if (y !== undefined) for (const u of this.draft.uses(y)) if (isShape(u)) this.measured.add(u);
  }

  /** The operand of a Mul or Div that one number scales; a number that is known, or a value of one element. */
  factor(n: Node): { readonly of: ValueId; readonly by: ValueId; readonly constant: number | undefined } | undefined {
    const [a, b] = n.ins;
    if (a === undefined || b === undefined) return undefined;
    for (const [of, by] of n.op === "Mul" ? [[a, b] as const, [b, a] as const] : [[a, b] as const]) {
      const dims = dimsOf(this.draft, by);
      const rank = dimsOf(this.draft, of)?.length;
      if (dims === undefined || rank === undefined || dims.length > rank || !dims.every((d) => d === 1)) continue;
      const x = uniform(this.draft.constant(by));
      return x === 0 ? undefined : { of, by, constant: x };
    }
    return undefined;
  }
  /** Takes constant scales off an operand; they may have other readers, who keep them. */
  scaled(v: ValueId): ValueId {
    let at = v;
    for (;;) {
      const n = this.draft.producer(at);
      if (n === undefined || n.domain !== "" || (n.op !== "Mul" && n.op !== "Div")) return at;
      const f = this.factor(n);
      if (f?.constant === undefined) return at;
      this.scale *= n.op === "Mul" ? f.constant : 1 / f.constant;
      this.path.push(n);
      at = f.of;
    }
  }
}
