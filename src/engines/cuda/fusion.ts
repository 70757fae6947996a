/**
 * Which values of a segment are written to memory, and which kernel computes what.
 *
 * Light nodes (elementwise, views) are expressions; heavy nodes (products, reductions, rows) need a kernel. A light value is written only
 * when results of different kernels need it, or when computing it anew would cost more than reading it. A heavy node's kernel goes on through
 * the light nodes behind it for as long as every use of its result lies in that one kernel, and stores what comes out there.
 */
import type { Graph, Node, ValueId } from "../../ir/types.js";

export type Weight =
  /** An expression; `view` costs nothing to repeat. */
  | {
      readonly kind: "light";
      readonly view: boolean;
      readonly pointwise: boolean;
      readonly forward: boolean;
      /** Its result is written in any case: the kernel before it ends there. */
      readonly stop?: boolean | undefined;
    }
  /** A kernel. `buffered` inputs must lie in memory; the others are read as expressions. */
  | {
      readonly kind: "heavy";
      readonly buffered: readonly number[];
      /** What its kernel can do behind the result: anything that goes element by element, only put it elsewhere, or store each of its results. */
      readonly ends: "any" | "views" | "stores";
    };

export interface FusionInput {
  readonly graph: Graph;
  weight(n: Node): Weight;
  elements(v: ValueId): number;
  /** Constants and what is known at compile time: never written, always at hand. */
  known(v: ValueId): boolean;
}
export interface Fused {
  /** The kernel's heavy node, if it has one. */
  readonly heavy: Node | undefined;
  /** What it stores. */
  readonly root: ValueId;
  /** From the heavy node's result to the root: points that everything passes through, the result and the root included. */
  readonly path: readonly ValueId[];
  /** Further results of the heavy node that are wanted: written beside the root. */
  readonly also: readonly ValueId[];
}

/** A light value read by operators over this many times more elements is written rather than computed again. */
const REPEAT = 4;

export function fuse(input: FusionInput): readonly Fused[] {
  const { graph: g } = input;
  const producer = new Map<ValueId, Node>();
  const uses = new Map<ValueId, { node: Node; slot: number }[]>();
  const position = new Map<Node, number>();
  for (const [i, n] of g.nodes.entries()) {
    position.set(n, i);
    for (const v of n.outs) if (v !== undefined) producer.set(v, n);
    for (const [slot, v] of n.ins.entries()) {
      if (v === undefined) continue;
      const users = uses.get(v);
      if (users === undefined) uses.set(v, [{ node: n, slot }]);
      else users.push({ node: n, slot });
    }
  }
  const weights = new Map(g.nodes.map((n) => [n, input.weight(n)]));
  const isOutput = new Set(g.outputs);
  const roots = new Set<ValueId>();

  // From the last node to the first: the kernels that a value's uses end up in.
  const sinks = new Map<ValueId, ReadonlySet<string>>();
  const written = (v: ValueId): ReadonlySet<string> => {
    roots.add(v);
    return new Set([`v${v}`]);
  };
  for (const n of [...g.nodes].reverse()) {
    const own = weights.get(n) as Weight;
    for (const v of n.outs) {
      if (v === undefined) continue;
      const found = new Set<string>();
      let must = isOutput.has(v) || (own.kind === "light" && own.stop === true);
      for (const { node, slot } of uses.get(v) ?? []) {
        const w = weights.get(node) as Weight;
        if (w.kind === "heavy") {
          if (w.buffered.includes(slot)) must ||= !(own.kind === "light" && own.view);
          found.add(`h${position.get(node)}`);
          // What lies in memory for a product may be a view of something else; that is then what is written.
          if (w.buffered.includes(slot)) found.add("memory");
          continue;
        }
        const grows = node.outs.some((o) => o !== undefined && input.elements(o) > REPEAT * input.elements(v));
        if (grows && !(own.kind === "light" && own.view) && !w.view) must = true;
        for (const o of node.outs) if (o !== undefined) for (const s of sinks.get(o) ?? []) found.add(s);
      }
      const free = own.kind === "light" && own.view;
      if (must || (found.size > 1 && !free)) sinks.set(v, written(v));
      else if (found.has("memory") && !free) sinks.set(v, written(v));
      else sinks.set(v, found);
    }
  }

  // From the last heavy node to the first: how far its kernel reaches.
  const claimed = new Set<ValueId>();
  const taken = new Set<Node>();
  const result: Fused[] = [];
  for (const n of [...g.nodes].reverse()) {
    if (weights.get(n)?.kind !== "heavy") continue;
    const [v, ...also] = n.outs.filter((o): o is ValueId => o !== undefined && ((sinks.get(o)?.size ?? 0) > 0 || roots.has(o)));
    if (v === undefined) continue;
    const path = [v];
    let current = v;
    const { ends } = weights.get(n) as Extract<Weight, { kind: "heavy" }>;
    if (ends === "stores" || also.length > 0) {
      // Nothing is fused behind one result of several.
      for (const o of [v, ...also]) {
        roots.add(o);
        claimed.add(o);
      }
      result.push({ heavy: n, root: v, path, also });
      continue;
    }
    while (!roots.has(current)) {
      const next = onward(current, ends === "any");
      if (next === undefined) break;
      for (const passed of next.nodes) taken.add(passed);
      current = next.to;
      path.push(current);
    }
    roots.add(current);
    claimed.add(current);
    result.push({ heavy: n, root: current, path, also });
  }
  for (const v of roots) if (!claimed.has(v) && producer.has(v)) result.push({ heavy: undefined, root: v, path: [v], also: [] });
  return result.sort((a, b) => order(a) - order(b));

  function order(f: Fused): number {
    return position.get(producer.get(f.root) as Node) ?? 0;
  }

  /** The next single value that everything computed from `v` passes through, if the nodes up to it can be done on `v`'s own index. */
  function onward(v: ValueId, pointwise: boolean): { readonly to: ValueId; readonly nodes: readonly Node[] } | undefined {
    const first = uses.get(v) ?? [];
    const distinct = new Set(first.map((u) => u.node));
    if (distinct.size === 0) return undefined;
    const tainted = new Set<ValueId>([v]);
    const open = new Set<Node>(distinct);
    const passed: Node[] = [];
    while (open.size > 0) {
      const n = [...open].reduce((a, b) => ((position.get(a) as number) < (position.get(b) as number) ? a : b));
      open.delete(n);
      const w = weights.get(n) as Weight;
      if (w.kind === "heavy" || taken.has(n) || n.outs.length !== 1 || passed.length > 64) return undefined;
      const [out] = n.outs;
      if (out === undefined) return undefined;
      const straight = pointwise && w.pointwise && input.elements(out) === input.elements(v);
      if (!straight && !(w.forward && open.size === 0 && passed.length === 0 && n.ins[0] === v)) return undefined;
      passed.push(n);
      tainted.add(out);
      if (
        open.size === 0 &&
        passed.every((p) => p === n || p.outs.every((o) => o === undefined || (uses.get(o) ?? []).every((u) => passed.includes(u.node))))
      )
        return passed.some((p) => p !== n && p.outs.some((o) => o !== undefined && roots.has(o))) ? undefined : { to: out, nodes: passed };
      if (roots.has(out)) return undefined;
      for (const u of uses.get(out) ?? []) open.add(u.node);
    }
    return undefined;
  }
}
