/** Keys and values of spelled-out attention: the tensors behind transpositions, merged heads and repeated heads. */
import { mul as mulDims } from "../../ir/dims.js";
import type { Dim, Node, ValueId } from "../../ir/types.js";
import { dimsOf, numbersOf } from "../match.js";
import { isIdentity, perm, refuse, same, shapeOperand, swapLast, type Walk } from "./walk.js";

/** K or V as found: `source`, transposed and then reshaped to `dims` where it says so; `groups` query heads share one of its heads. */
export interface Operand {
  readonly source: ValueId;
  readonly dims: readonly Dim[];
  readonly groups: Dim;
  readonly transpose?: readonly number[];
  readonly reshape?: readonly number[];
}

/** K [.., length, size], given K' [.., size, length]. The transposition it still needs, if any, is left for who writes. */
export function untransposed(walk: Walk, right: ValueId, rank: number): Operand {
  const { draft } = walk;
  const v = walk.scaled(right);
  const dims = dimsOf(draft, v);
  if (dims?.length !== rank) refuse(`K has ${dims?.length ?? "an unknown number of"} dims, and ${rank} are wanted`);
  const wanted = [...dims.slice(0, -2), dims.at(-1) ?? "?", dims.at(-2) ?? "?"];
  const n = draft.producer(v);
  const p = perm(n);
  if (n !== undefined && p !== undefined && n.ins[0] !== undefined) {
    walk.path.push(n);
    return through(walk, n.ins[0], swapLast(p), wanted);
  }
  // Reshape(Transpose(z)): the leading dims were merged for the transposition; the last two pass through.
  if (n?.op === "Reshape" && n.domain === "" && n.ins[0] !== undefined) {
    const inner = draft.producer(n.ins[0]);
    const [q, merged] = [perm(inner), dimsOf(draft, n.ins[0])];
    if (inner?.ins[0] !== undefined && q !== undefined && same(merged?.slice(-2), dims.slice(-2))) {
      const [swapped, reshape] = [swapLast(q), shapeOperand(wanted)];
      if (isIdentity(swapped) || reshape !== undefined) walk.path.push(n, inner);
      if (isIdentity(swapped)) return unrepeated(walk, walk.scaled(inner.ins[0]), wanted);
      if (reshape !== undefined) return { source: inner.ins[0], dims: wanted, groups: 1, transpose: swapped, reshape };
    }
  }
  return { source: v, dims: wanted, groups: 1, transpose: swapLast(wanted.map((_, i) => i)) };
}
function through(walk: Walk, z: ValueId, p: readonly number[], wanted: readonly Dim[]): Operand {
  if (!isIdentity(p)) return { source: z, dims: wanted, groups: 1, transpose: p };
  return unrepeated(walk, walk.scaled(z), wanted);
}

/** Looks through Reshapes for the value itself, or for Expand(Unsqueeze(v, 2)), which repeats heads for groups of queries. */
export function unrepeated(walk: Walk, v: ValueId, dims: readonly Dim[]): Operand {
  const { draft } = walk;
  const views: Node[] = [];
  let at = v;
  for (let n = draft.producer(at); n?.op === "Reshape" && n.domain === "" && n.ins[0] !== undefined; n = draft.producer(at)) {
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
    dims.length === 4 &&
    expand?.op === "Expand" &&
    unsqueeze?.op === "Unsqueeze" &&
    z !== undefined &&
    axes?.join() === "2" &&
    to?.length === 5 &&
    from?.length === 4 &&
    same([to[0] ?? "?", mulDims(to[1] ?? "?", to[2] ?? "?"), to[3] ?? "?", to[4] ?? "?"], dims) &&
    same([from[0] ?? "?", from[1] ?? "?", to[2] ?? "?", from[2] ?? "?", from[3] ?? "?"], to)
  ) {
    walk.path.push(...views, expand, unsqueeze);
    return { source: z, dims: from, groups: to[2] ?? 1 };
  }
  if (same(dimsOf(draft, at), dims)) {
    walk.path.push(...views);
    return { source: at, dims, groups: 1 };
  }
  return { source: v, dims, groups: 1 };
}
