/** Keys and values of spelled-out attention: the tensors behind transpositions, merged heads and repeated heads. */
import { mul as mulDims } from "../../ir/dims.js";
import type { Dim, Node, ValueId } from "../../ir/types.js";
import { dimsOf, numbersOf } from "../match.js";
import { Views } from "./frames.js";
import { isIdentity, perm, refuse, same, swapLast, type Walk } from "./walk.js";

/** Q, K or V as found: `source`, transposed and then seen as `dims` where it says so; `groups` query heads share one of its heads. */
export interface Operand {
  readonly source: ValueId;
  readonly dims: readonly Dim[];
  readonly groups: Dim;
  readonly transpose?: readonly number[];
  /** Its dims before it is seen otherwise. */
  readonly before?: readonly Dim[];
}

/** K, given K' [.., size, length]: [..leading, length, size]. The transposition it still needs, if any, is left for who writes. */
export function untransposed(walk: Walk, right: ValueId, leading: readonly Dim[]): Operand {
  const { draft } = walk;
  const v = walk.scaled(right);
  const dims = dimsOf(draft, v);
  if (dims === undefined) refuse("K has an unknown number of dims");
  const own = swapLast(dims);
  const wanted = [...leading, ...own.slice(-2)];
  const turned = (source: ValueId, transpose: readonly number[], before: readonly Dim[]): Operand => ({
    source,
    dims: wanted,
    groups: 1,
    transpose,
    ...(same(before, wanted) ? {} : { before }),
  });
  const n = draft.producer(v);
  const p = perm(n);
  if (n !== undefined && p !== undefined && n.ins[0] !== undefined) {
    walk.path.push(n);
    const swapped = swapLast(p);
    return isIdentity(swapped) ? unrepeated(walk, walk.scaled(n.ins[0]), own, wanted) : turned(n.ins[0], swapped, own);
  }
  // Reshape(Transpose(z)): the leading dims were merged for the transposition; the last two pass through.
  if (n?.op === "Reshape" && n.domain === "" && n.ins[0] !== undefined) {
    const inner = draft.producer(n.ins[0]);
    const [q, merged] = [perm(inner), dimsOf(draft, n.ins[0])];
    if (inner?.ins[0] !== undefined && q !== undefined && merged !== undefined && same(merged.slice(-2), dims.slice(-2))) {
      const swapped = swapLast(q);
      const before = swapLast(merged);
      const seen = same(before, wanted) || Views.able(before, wanted);
      if (isIdentity(swapped) || seen) walk.path.push(n, inner);
      if (isIdentity(swapped)) return unrepeated(walk, walk.scaled(inner.ins[0]), before, wanted);
      if (seen) return turned(inner.ins[0], swapped, before);
    }
  }
  return turned(v, swapLast(dims.map((_, i) => i)), own);
}

/** Looks through Reshapes for the value itself in the dims that are wanted, or for Expand(Unsqueeze(v, 2)), which repeats heads for groups of queries. */
export function unrepeated(walk: Walk, v: ValueId, own: readonly Dim[], wanted: readonly Dim[]): Operand {
  const { draft } = walk;
  const views: Node[] = [];
  const found: { readonly source: ValueId; readonly views: number }[] = [];
  let at = v;
  for (let n = draft.producer(at); ; n = draft.producer(at)) {
    if (same(dimsOf(draft, at), wanted)) found.push({ source: at, views: views.length });
    if (n?.op !== "Reshape" || n.domain !== "" || n.ins[0] === undefined) break;
    views.push(n);
    at = n.ins[0];
  }
  const expand = draft.producer(at);
  const unsqueeze = draft.producer(expand?.ins[0]);
  const [to, axes] = [dimsOf(draft, at), numbersOf(draft.constant(unsqueeze?.ins[1]))];
  const z = unsqueeze?.ins[0];
  const from = dimsOf(draft, z);
  if (
    views.length > 0 &&
    wanted.length === 4 &&
    expand?.op === "Expand" &&
    unsqueeze?.op === "Unsqueeze" &&
    z !== undefined &&
    axes?.join() === "2" &&
    to?.length === 5 &&
    from?.length === 4 &&
    same([to[0] ?? "?", mulDims(to[1] ?? "?", to[2] ?? "?"), to[3] ?? "?", to[4] ?? "?"], wanted) &&
    same([from[0] ?? "?", from[1] ?? "?", to[2] ?? "?", from[2] ?? "?", from[3] ?? "?"], to)
  ) {
    walk.path.push(...views, expand, unsqueeze);
    return { source: z, dims: from, groups: to[2] ?? 1 };
  }
  const deepest = found.at(-1);
  if (deepest !== undefined) {
    walk.path.push(...views.slice(0, deepest.views));
    return { source: deepest.source, dims: wanted, groups: 1 };
  }
  return { source: v, dims: wanted, groups: 1, ...(same(own, wanted) ? {} : { before: own }) };
}
