/** What the steps that go through a graph layer by layer share: chosen values as outputs, and layers in groups by their depth. */
import { Editor } from "../ir/edit.js";
import { readsOf, shapeOfType, typeAt } from "../ir/graph.js";
import { elementCount } from "../ir/payload.js";
import type { Graph, Node, ValueId } from "../ir/types.js";
import { deadCode } from "../passes/dead-code.js";
import { passContext } from "../passes/pass.js";

/** The graph whose outputs are these values, each once, without what only its own outputs needed. */
export function exposing(g: Graph, values: Iterable<ValueId>): Graph {
  const draft = new Editor(g);
  // Small ones first: a runner may have to copy the first before it can leave out the others.
  const size = (v: ValueId): number => elementCount((shapeOfType(typeAt(g, v)) ?? []).map((d) => (typeof d === "number" ? d : 1))) ?? 0;
  draft.setOutputs([...new Set(values)].sort((a, b) => size(a) - size(b)));
  return deadCode.run(draft.finish(), passContext({})) as Graph;
}

/** By value: how many of the counted nodes lie on the longest path to it, the one that makes it among them. */
export function depthsOf(g: Graph, counts: (n: Node) => boolean): readonly number[] {
  const depths = new Array<number>(g.values.length).fill(0);
  for (const n of g.nodes) {
    const own = depthBefore(depths, n) + (counts(n) ? 1 : 0);
    for (const v of n.outs) if (v !== undefined) depths[v] = own;
  }
  return depths;
}
/** The depth of the deepest value that a node reads. */
export const depthBefore = (depths: readonly number[], n: Node): number => readsOf(n).reduce((a, v) => Math.max(a, depths[v] ?? 0), 0);

/** Layers of one depth together, in the order of depth; neighbouring depths too, where there would be more than `most` groups. */
export function byDepth<L extends { readonly depth: number }>(layers: readonly L[], most: number): readonly (readonly L[])[] {
  const depths = [...new Set(layers.map((l) => l.depth))].sort((a, b) => a - b);
  const size = Math.max(1, Math.ceil(depths.length / most));
  return Array.from({ length: Math.ceil(depths.length / size) }, (_, i) => {
    const own = new Set(depths.slice(i * size, (i + 1) * size));
    return layers.filter((l) => own.has(l.depth));
  });
}
