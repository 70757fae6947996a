/** Attention: its operands as views by strides, and its result put where it is needed next. */

import { valueAt } from "../../ir/graph.js";
import type { Node, ValueId } from "../../ir/types.js";
import { Block } from "./block.js";
import type { Emission } from "./emission.js";
import type { Fused } from "./fusion.js";
import { attentionShape } from "./heads.js";
import { linear, variable } from "./indexing.js";
import { mapKernel, ParameterList, type Tail } from "./loops.js";
import type { Element } from "./scope.js";
import type { Operand, Site, Tensor } from "./site.js";
import { storage } from "./storage.js";
import { type AttentionProblem, attentionKernel, attentionTactics, type HeadStrides } from "./templates/index.js";
import { NotEmitted } from "./values.js";
import { naturalOrder, type View } from "./view.js";

export function emitAttention(e: Emission, s: Site, f: Fused, out: View, tail: Tail, nodes: readonly string[]): void {
  const shape = attentionShape(s);
  const [q, k, v] = [s.ins[0] as Operand, s.ins[1] as Operand, s.ins[2] as Operand];
  const stored = e.stored(q.dtype);
  const aligned = (x: View): boolean => x.strides.at(-1) === 1 && (x.offset * storage(x.dtype).bytes) % 16 === 0;
  const lie = (x: Operand): View => e.inMemory(x.id, stored, naturalOrder(x.dims.length), aligned);
  const views = { q: lie(q), k: lie(k), v: lie(v) };
  const heads = (x: View, size: number): HeadStrides =>
    x.dims.length === 4
      ? { batch: x.strides[0] as number, head: x.strides[1] as number, position: x.strides[2] as number }
      : { batch: x.strides[0] as number, head: size, position: x.strides[1] as number };
  // Where the result goes, seen through what only moves it; a copy makes good what strides cannot say.
  const own = s.outs[0] as Tensor;
  let target = out;
  let placed = out.dtype === stored ? placedIn(own, out, tail) : undefined;
  if (placed === undefined) {
    const first = f.path[0] as ValueId;
    const made = e.scratch(first, stored, e.order(first), `unplaced ${valueAt(e.graph, first).name}`);
    [target, placed] = [made, made];
    if (f.path.length > 1) {
      e.written.set(first, made);
      const { node, port } = e.producer.get(f.root) as { node: Node; port: number };
      e.push(mapKernel(e.name("place"), out, e.inline.get(node)?.elements[port] as Element), nodes);
    } else
      e.push(
        mapKernel(e.name("place"), out, (scope, index) => scope.load(made, index)),
        nodes,
      );
  }
  const m = s.ins[3];
  const mask =
    m === undefined ? undefined : e.inMemory(m.id, m.dtype === "bool" ? "bool" : "float32", naturalOrder(m.dims.length), () => true);
  const along = (fromEnd: number): number => {
    const i = (mask?.dims.length ?? 0) - fromEnd;
    return mask === undefined || i < 0 || mask.dims[i] === 1 ? 0 : (mask.strides[i] as number);
  };
  const problem: AttentionProblem = {
    ...shape,
    dtype: stored === "float32" ? "f32" : stored === "float16" ? "f16" : "bf16",
    mask:
      mask === undefined
        ? undefined
        : { dtype: mask.dtype === "bool" ? "bool" : "f32", batch: along(4), head: along(3), query: along(2), key: along(1) },
    q: heads(views.q, shape.dim),
    k: heads(views.k, shape.dim),
    v: heads(views.v, shape.dimV),
    out: heads(placed, shape.dimV),
  };
  const [tactic] = attentionTactics(problem, e.options.device);
  if (tactic === undefined) throw new NotEmitted(s.node, "its heads are too large for one kernel");
  const kernel = attentionKernel(problem, tactic, e.name("attention"));
  e.pushText(kernel, { ...views, out: placed, ...(mask === undefined ? {} : { mask }) }, undefined, [target], nodes);
}

/** A result's own dims over the memory of what becomes of it, when that only moves it and its last dim stays together. */
function placedIn(own: Tensor, out: View, tail: Tail): View | undefined {
  const block = new Block(new ParameterList());
  const index = own.dims.map((d, i) => variable(`d${i}`, d - 1));
  const { index: at, value } = tail(block, index, "result");
  if (value !== "result") return undefined;
  const address = linear(at, out.strides, out.offset);
  if (address.terms.some((t) => t.atom.kind !== "variable")) return undefined;
  const strides = own.dims.map((d, i) => (d === 1 ? 0 : (address.terms.find((t) => t.atom.key === `d${i}`)?.factor ?? 0)));
  return strides.at(-1) === 1 ? { ...out, dims: own.dims, strides, offset: address.constant } : undefined;
}
