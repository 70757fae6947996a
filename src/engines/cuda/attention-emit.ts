/** Attention: its operands as views by strides, its result put where it is needed next, and the cache of keys and values that grows in the same kernel. */

import { valueAt } from "../../ir/graph.js";
import type { DType, Node, ValueId } from "../../ir/types.js";
import { alwaysFinite, unguarded } from "../../passes/masks.js";
import { numbersOf } from "../../passes/match.js";
import { Block } from "./block.js";
import type { Emission } from "./emission.js";
import type { Fused } from "./fusion.js";
import { attentionShape } from "./heads.js";
import { add, type Index, linear, product, rowMajor, scale, variable } from "./indexing.js";
import { mapKernel, ParameterList, type Tail } from "./loops.js";
import type { Element } from "./scope.js";
import { type Operand, type Site, type Tensor, within } from "./site.js";
import { storage } from "./storage.js";
import {
  type AttentionProblem,
  type AttentionStep,
  attentionKernel,
  attentionStepKernel,
  attentionTactics,
  type CachePart,
  type HeadStrides,
  takesStep,
} from "./templates/index.js";
import { NotEmitted } from "./values.js";
import { naturalOrder, type View } from "./view.js";

type Shape = ReturnType<typeof attentionShape>;
const dtypeOf = (dtype: DType): AttentionProblem["dtype"] => (dtype === "float32" ? "f32" : dtype === "float16" ? "f16" : "bf16");
const aligned = (x: View): boolean => (x.offset * storage(x.dtype).bytes) % 16 === 0;
const dense = (x: View): boolean => x.strides.at(-1) === 1;
/** Strides of [batch, heads, position, channel], or of [batch, position, heads * channel] with heads of `size` channels. */
const headStrides = (x: View, size: number): HeadStrides =>
  x.dims.length === 4
    ? { batch: x.strides[0] as number, head: x.strides[1] as number, position: x.strides[2] as number }
    : { batch: x.strides[0] as number, head: size, position: x.strides[1] as number };

export function emitAttention(e: Emission, s: Site, f: Fused, tail: Tail, nodes: readonly string[]): void {
  const shape = attentionShape(s);
  const wanted = new Set<ValueId>([f.root, ...f.also]);
  const written = (port: number): View | undefined => {
    const v = s.node.outs[port];
    return v !== undefined && wanted.has(v) ? e.written.get(v) : undefined;
  };
  const grown = shape.past === undefined ? undefined : ([written(1), written(2)] as const);
  // The result alone may be put elsewhere by what follows: then the root is what comes out there.
  const out = f.path.length > 1 ? e.written.get(f.root) : written(0);
  if (out === undefined) {
    for (const port of [1, 2] as const) grownCache(e, s, shape, port, grown?.[port - 1], nodes);
    return;
  }
  if (grown !== undefined && step(e, s, f, shape, out, tail, grown, nodes)) return;
  whole(e, s, f, shape, out, tail, grown, nodes);
}

/** An operand in memory in the type that kernels compute with, channels side by side. */
function operandView(e: Emission, x: Operand): View {
  return e.inMemory(x.id, e.stored(x.dtype), naturalOrder(x.dims.length), (v) => dense(v) && aligned(v));
}

interface Mask {
  readonly view: View;
  readonly problem: NonNullable<AttentionProblem["mask"]>;
}
function maskOf(e: Emission, m: Operand | undefined): Mask | undefined {
  if (m === undefined) return undefined;
  const view = e.inMemory(m.id, m.dtype === "bool" ? "bool" : "float32", naturalOrder(m.dims.length), () => true);
  const along = (fromEnd: number): number => {
    const i = view.dims.length - fromEnd;
    return i < 0 || view.dims[i] === 1 ? 0 : (view.strides[i] as number);
  };
  const dtype = m.dtype === "bool" ? "bool" : "f32";
  return { view, problem: { dtype, batch: along(4), head: along(3), query: along(2), key: along(1), even: view.offset % 2 === 0 } };
}

/** All queries over all keys, on the matrix units where the precision has them; the grown cache is written before. */
function whole(
  e: Emission,
  s: Site,
  f: Fused,
  shape: Shape,
  out: View,
  tail: Tail,
  grown: readonly [View | undefined, View | undefined] | undefined,
  nodes: readonly string[],
): void {
  const [q, k, v] = [s.ins[0] as Operand, s.ins[1] as Operand, s.ins[2] as Operand];
  const stored = e.stored(q.dtype);
  const views =
    grown === undefined
      ? { q: operandView(e, q), k: operandView(e, k), v: operandView(e, v) }
      : {
          q: operandView(e, q),
          k: grownCache(e, s, shape, 1, grown[0], nodes),
          v: grownCache(e, s, shape, 2, grown[1], nodes),
        };
  const { target, placed } = destination(e, s, f, shape, out, tail, stored, nodes);
  const mask = maskOf(e, s.ins[3]);
  const problem: AttentionProblem = {
    ...shape,
    dtype: dtypeOf(stored),
    mask: mask?.problem,
    q: headStrides(views.q, shape.dim),
    k: headStrides(views.k, shape.dim),
    v: headStrides(views.v, shape.dimV),
    out: headStrides(placed, shape.dimV),
  };
  const [tactic] = attentionTactics(problem, e.options.device);
  if (tactic === undefined) throw new NotEmitted(s.node, "its heads are too large for one kernel");
  const kernel = attentionKernel(problem, tactic, e.name("attention"));
  e.pushText(kernel, { ...views, out: placed, ...(mask === undefined ? {} : { mask: mask.view }) }, undefined, [target], nodes);
}

/** Few queries behind a cache: one launch reads the cache, writes the grown one and gives the result. False where it is not for that kernel. */
function step(
  e: Emission,
  s: Site,
  f: Fused,
  shape: Shape,
  out: View,
  tail: Tail,
  [grownK, grownV]: readonly [View | undefined, View | undefined],
  nodes: readonly string[],
): boolean {
  const [q, k, v] = [s.ins[0] as Operand, s.ins[1] as Operand, s.ins[2] as Operand];
  const past = shape.past ?? 0;
  if ([grownK, grownV].some((g) => g !== undefined && !dense(g))) return false;
  const stored = e.stored(q.dtype);
  const asItLies = (x: Operand): View => {
    const there = e.known(x.id) ? undefined : e.view(x.id);
    return there !== undefined && dense(there) ? there : operandView(e, x);
  };
  // What the problem needs to be judged does not depend on where things lie.
  const natural: HeadStrides = { batch: 4, head: 4, position: 4 };
  const part: CachePart = { ...natural, dtype: "f32", aligned: true };
  const judged: AttentionStep = {
    ...shape,
    causal: shape.causal !== undefined,
    past,
    dtype: dtypeOf(stored),
    mask: undefined,
    q: natural,
    k: natural,
    v: natural,
    out: natural,
    pastK: part,
    pastV: part,
    grownK: part,
    grownV: part,
    aligned: false,
  };
  if (!takesStep(judged, e.options.device)) return false;
  const views = { q: operandView(e, q), k: operandView(e, k), v: operandView(e, v) };
  // Of an empty cache nothing is read.
  const pastK = past === 0 ? views.k : asItLies(s.ins[4] as Operand);
  const pastV = past === 0 ? views.v : asItLies(s.ins[5] as Operand);
  const { target, placed } = destination(e, s, f, shape, out, tail, stored, nodes);
  const mask = maskOf(e, s.ins[3]);
  const cache = (x: View, size: number): CachePart => ({ ...headStrides(x, size), dtype: dtypeOf(x.dtype), aligned: aligned(x) });
  const problem: AttentionStep = {
    ...judged,
    mask: mask?.problem,
    q: headStrides(views.q, shape.dim),
    k: headStrides(views.k, shape.dim),
    v: headStrides(views.v, shape.dimV),
    out: headStrides(placed, shape.dimV),
    pastK: cache(pastK, shape.dim),
    pastV: cache(pastV, shape.dimV),
    grownK: grownK === undefined ? undefined : cache(grownK, shape.dim),
    grownV: grownV === undefined ? undefined : cache(grownV, shape.dimV),
    aligned: [views.k, views.v].every(aligned),
  };
  const kernel = attentionStepKernel(problem, e.options.device, e.name("attention_step"));
  const caches = Object.entries({ grownK, grownV }).filter((entry): entry is [string, View] => entry[1] !== undefined);
  const operands = {
    ...views,
    out: placed,
    pastK,
    pastV,
    ...Object.fromEntries(caches),
    ...(mask === undefined ? {} : { mask: mask.view }),
  };
  e.pushText(kernel, operands, undefined, [target, ...caches.map(([, x]) => x)], nodes);
  return true;
}

/** The cache and what is new behind it, written to `grown` where somebody wants that; gives where it lies for the products. */
function grownCache(e: Emission, s: Site, shape: Shape, port: 1 | 2, grown: View | undefined, nodes: readonly string[]): View {
  const [now, cache] = [s.ins[port] as Operand, s.ins[port + 3] as Operand];
  const stored = e.stored(now.dtype);
  const size = port === 1 ? shape.dim : shape.dimV;
  const past = shape.past ?? 0;
  const dims = [shape.batch, shape.kvHeads, shape.keys, size];
  const element: Element = (scope, index) => {
    const [b, h, p, c] = index as [Index, Index, Index, Index];
    const behind = add(p, -past);
    const fresh = (): string => now.at(scope, now.dims.length === 4 ? [b, h, behind, c] : [b, behind, add(scale(h, size), c)]);
    const before = past === 0 ? false : within(scope, p, 0, past);
    if (before === false) return fresh();
    const old = (): string => cache.at(scope, index);
    if (before === true) return old();
    const [x, y] = [scope.guarded(before, old), scope.guarded(`!${before}`, fresh)];
    return scope.let(storage(now.dtype).register, `${before} ? ${x} : ${y}`);
  };
  if (grown !== undefined) e.push(mapKernel(e.name("append"), grown, element), nodes);
  if (grown !== undefined && grown.dtype === stored && dense(grown) && aligned(grown)) return grown;
  const buffer = `grown ${e.name(port === 1 ? "keys" : "values")}`;
  e.buffers.set(buffer, { kind: "arena", bytes: product(dims) * storage(stored).bytes });
  const made: View = { buffer, dtype: stored, dims, strides: rowMajor(dims), offset: 0 };
  e.push(mapKernel(e.name("append"), made, grown === undefined ? element : (scope, index) => scope.load(grown, index)), nodes);
  return made;
}

/** Whether the mask may close a row altogether where that is 0: an Attention node that stands for a Softmax without a guard gives NaN there, as the kernels do. */
function closesRows(e: Emission, s: Site, { causal, queries, keys }: Shape): boolean {
  const mask = s.ins[3];
  if (mask === undefined || unguarded(s.node)) return false;
  const subject = {
    constant: (v: ValueId) => e.constant(v),
    producer: (v: ValueId) => e.producer.get(v)?.node,
    type: (v: ValueId) => e.facts(v).type,
  };
  if (alwaysFinite(subject, mask.id)) return false;
  const values = numbersOf(mask.constant, 2 ** 24);
  if (values === undefined) return true;
  const open = (x: number): boolean => (mask.dtype === "bool" ? x !== 0 : x !== Number.NEGATIVE_INFINITY);
  const rows = mask.dims.at(-2) ?? 1;
  return Array.from({ length: values.length / keys }, (_, r) => r).some((r) => {
    // One row serves all queries where there is no other: the first of them sees least.
    const seen = causal === undefined ? keys : Math.min((rows === queries ? r % rows : 0) + causal.offset + 1, keys);
    return !values.slice(r * keys, r * keys + seen).some(open);
  });
}

/**
 * Where the result goes, seen through what only moves it; a copy makes good what strides cannot say, and the rows that a mask has closed: ONNX Runtime's
 * Attention gives 0 for them.
 */
function destination(
  e: Emission,
  s: Site,
  f: Fused,
  shape: Shape,
  out: View,
  tail: Tail,
  stored: DType,
  nodes: readonly string[],
): { readonly target: View; readonly placed: View } {
  const own = s.outs[0] as Tensor;
  const closed = closesRows(e, s, shape);
  const finished =
    (element: Element): Element =>
    (scope, index) => {
      const x = scope.let("float", element(scope, index));
      return closed ? scope.let("float", `${x} == ${x} ? ${x} : 0.0f`) : x;
    };
  const placed = out.dtype === stored && !closed ? placedIn(own, out, tail) : undefined;
  if (placed !== undefined) return { target: out, placed };
  const first = s.node.outs[0] as ValueId;
  const made = e.scratch(first, stored, e.order(first), `unplaced ${valueAt(e.graph, first).name}`);
  if (f.path.length > 1) {
    e.written.set(first, made);
    const { node, port } = e.producer.get(f.root) as { node: Node; port: number };
    e.push(mapKernel(e.name("place"), out, finished(e.inline.get(node)?.elements[port] as Element)), nodes);
  } else
    e.push(
      mapKernel(
        e.name("place"),
        out,
        finished((scope, index) => scope.load(made, index)),
      ),
      nodes,
    );
  return { target: made, placed: made };
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
