/**
 * Scaled dot-product attention as exporters spell it: softmax(scale Q K' + mask) V becomes the Attention operator.
 *
 * What varies is written down where it is read: scales on Q, on K, on both, or on the scores; K transposed through any views; masks added,
 * or chosen by Where; float32 softmax inside float16 attention; heads of K and V repeated for groups of queries; a cache concatenated before.
 *
 * Attention gives 0 for a query without any key to look at. A spelled-out Softmax over nothing but -inf gives NaN there (PyTorch exports
 * guard it with IsNaN and Where); a mask of large finite numbers gives the mean of V, and so does Attention with that mask. So the guard,
 * where there is one, is part of the operator, and where there is none only a NaN becomes a 0.
 */
import { intOf } from "../../ir/attributes.js";
import { mul as mulDims, sameDim } from "../../ir/dims.js";
import { originOf } from "../../ir/graph.js";
import { int64Constant } from "../../ir/payload.js";
import type { Attr, Constant, Graph, Node, NodeId, ValueId } from "../../ir/types.js";
import { alwaysFinite, UNGUARDED } from "../masks.js";
import { any, dimsOf, either, type Match, match, op, scalar } from "../match.js";
import { deep, definePass, type PassContext } from "../pass.js";
import { apply, type Draft, draftOf, leave } from "../rewrite.js";
import { type Operand, unrepeated, untransposed } from "./operands.js";
import { Scores } from "./scores.js";
import { Refusal, refuse, same, Walk } from "./walk.js";

export const raiseAttention = definePass({
  name: "raise-attention",
  why: "The scores of attention are its largest tensors; as one operator they need never leave the chip.",
  run: (g, context) => deep(g, (inner) => raised(inner, context)),
});

/** Softmax over the last axis, with or without the guard against rows that are masked altogether. */
const softmax = op("Softmax", [any("scores")], {
  name: "softmax",
  where: (n, subject) => {
    const value = intOf(n, "axis", -1);
    return value === -1 || value === (dimsOf(subject, n.outs[0])?.length ?? 0) - 1;
  },
});
const guarded = either(softmax, op("Where", [op("IsNaN", [softmax]), scalar(0), softmax], { name: "guard" }));
/** In float32 between Casts, or in the type of the rest. */
const weights = either(guarded, op("Cast", [guarded], { name: "narrowed" }));
const core = op("MatMul", [weights, any("v")]);

function raised(g: Graph, context: PassContext): Graph {
  if (!g.nodes.some((n) => n.op === "Softmax" && n.domain === "")) return g;
  const draft = draftOf(g, context);
  for (let i = g.nodes.length - 1; i >= 0; i--) {
    const root = g.nodes[i];
    if (root?.op !== "MatMul" || root.domain !== "" || draft.edit.node(root.id) !== root) continue;
    const found = match(draft, root, core);
    if (found === undefined) continue;
    const leak = found.leak();
    const why = leak === undefined ? new Site(draft, root, found).raise() : `'${draft.value(leak).name}' inside it is read elsewhere`;
    if (why !== undefined) leave(context, g, root, "attention", why);
  }
  return draft.edit.finish();
}

/** One attention under construction. Nodes walked over are collected; new ones are made only once nothing can refuse any more. */
class Site {
  readonly #draft: Draft;
  readonly #root: Node;
  readonly #found: Match;
  readonly #walk: Walk;
  readonly #scores: Scores;

  constructor(draft: Draft, root: Node, found: Match) {
    this.#draft = draft;
    this.#root = root;
    this.#found = found;
    this.#walk = new Walk(draft, found.nodes);
    this.#scores = new Scores(this.#walk);
  }

  /** Rewrites the root, or says why not and changes nothing. */
  raise(): string | undefined {
    try {
      this.#raise(this.#found.value("scores"), this.#found.value("v"), this.#found.maybe("narrowed") !== undefined);
      return undefined;
    } catch (error) {
      if (error instanceof Refusal) return error.message;
      throw error;
    }
  }

  #raise(scores: ValueId, v: ValueId, narrowed: boolean): void {
    const draft = this.#draft;
    let at = scores;
    const widening = narrowed ? draft.producer(at) : undefined;
    if (widening?.op === "Cast") at = this.#walk.inside(widening);
    const product = this.#scores.product(at, narrowed && widening?.op !== "Cast");
    const [left, right] = product.ins;
    if (left === undefined || right === undefined) refuse("its scores lack an operand");
    const [sDims, vDims] = [dimsOf(draft, product.outs[0]), dimsOf(draft, v)];
    const q = this.#walk.scaled(left);
    const qDims = dimsOf(draft, q);
    if (sDims === undefined || vDims === undefined || qDims === undefined) refuse("the rank of an operand is not known");
    if (!same(dimsOf(draft, at), sDims)) refuse("its mask widens the scores");
    const rank = sDims.length;
    if ((rank !== 4 && rank !== 3) || qDims.length !== rank || vDims.length !== rank)
      refuse(`its operands have ${qDims.length}, ${sDims.length} and ${vDims.length} dims, and 3 or 4 are wanted`);
    const k = untransposed(this.#walk, right, rank);
    const value = unrepeated(this.#walk, v, vDims);
    const grouped = rank === 4 && k.groups !== 1 && sameDim(k.groups, value.groups) === true;
    const [kSource, vSource] = grouped ? [k, value] : [this.#plain(k), this.#plain(value)];
    // MatMul broadcasts, Attention does not.
    for (let d = 0; d < rank - 2; d++) {
      const [a, b, c] = [qDims[d] ?? "?", kSource.dims[d] ?? "?", vSource.dims[d] ?? "?"];
      // One head of K and V serves any number of heads of Q.
      const wanted = d === 1 && grouped ? mulDims(b, k.groups) : d === 1 && rank === 4 && b === 1 ? a : b;
      if (sameDim(a, wanted) !== true || sameDim(b, c) !== true)
        refuse(`dim ${d} of Q, K and V is ${a}, ${wanted} and ${c}; they must be known to be equal`);
    }
    const types = [q, kSource.source, vSource.source, this.#root.outs[0]].map((id) => (id === undefined ? undefined : draft.type(id)));
    const dtype = types[0]?.kind === "tensor" ? types[0].dtype : undefined;
    if (dtype === "float64") refuse("float64 stays as it is");
    if (dtype === undefined || !types.every((t) => t?.kind === "tensor" && t.dtype === dtype))
      refuse("Q, K, V and the result differ in type");
    this.#scores.settle(sDims);
    this.#write(q, kSource, vSource, rank, narrowed);
  }

  /** Without the knowledge of repeated heads: what stands before the repetition cannot be used then. */
  #plain(o: Operand): Operand {
    return o.groups === 1 ? o : refuse("the heads of K are repeated and those of V are not, or otherwise");
  }

  // ---- writing: nothing refuses from here on --------------------------------------------------------------------------------------------

  #write(qIn: ValueId, k: Operand, v: Operand, rank: number, narrowed: boolean): void {
    const draft = this.#draft;
    const edit = draft.edit;
    const stem = this.#root.name;
    const origin = this.#root.origin ?? [this.#root.name];
    const add = (suffix: string, opName: string, ins: readonly ValueId[], attrs: Readonly<Record<string, Attr>> = {}): ValueId => {
      const y = edit.declare(`${stem === "" ? "attention" : stem}/${suffix}`);
      edit.add({ op: opName, ins, outs: [y], attrs, name: `${stem}/${suffix}`, origin });
      return y;
    };
    const ints = (suffix: string, values: readonly number[]): ValueId => edit.addConstant(`${stem}/${suffix}`, int64Constant(values));
    let q = qIn;
    for (const f of this.#scores.factors) q = add("scale", f.op, [q, f.by]);
    let key = k.source;
    if (k.transpose !== undefined) key = add("key", "Transpose", [key], { perm: { kind: "ints", value: k.transpose } });
    if (k.reshape !== undefined) key = add("key", "Reshape", [key, ints("shape", k.reshape)]);
    let value = v.source;
    const t = draft.type(this.#root.outs[0] as ValueId);
    const constant = (suffix: string, c: Constant): ValueId => edit.addConstant(`${stem}/${suffix}`, c);
    let mask = this.#scores.write(add, constant, t.kind === "tensor" ? t.dtype : "float32", rank);
    let [pastKey, pastValue]: [ValueId | undefined, ValueId | undefined] = [undefined, undefined];
    let outs: (ValueId | undefined)[] = [...this.#root.outs];
    const cache = rank === 4 && !this.#scores.causal && k.transpose === undefined ? this.#cache(key, value) : undefined;
    if (cache !== undefined) {
      outs = [outs[0], key, value];
      [pastKey, key, pastValue, value] = cache;
    }
    if (rank === 3) {
      // One head: Attention wants four dims.
      const axis = ints("axis", [1]);
      [q, key, value] = [add("q", "Unsqueeze", [q, axis]), add("k", "Unsqueeze", [key, axis]), add("v", "Unsqueeze", [value, axis])];
      if (mask !== undefined && (dimsOf(draft, mask.id)?.length ?? mask.rank) === 3)
        mask = { id: add("m", "Unsqueeze", [mask.id, axis]), rank: 4 };
    }
    const attrs: Record<string, Attr> = { scale: { kind: "float", value: Math.fround(this.#walk.scale) } };
    if (this.#scores.causal) attrs["is_causal"] = { kind: "int", value: 1 };
    if (this.#scores.softcap > 0) attrs["softcap"] = { kind: "float", value: Math.fround(this.#scores.softcap) };
    if (narrowed) attrs["softmax_precision"] = { kind: "int", value: 1 };
    const ins: (ValueId | undefined)[] = [q, key, value];
    if (mask !== undefined || pastKey !== undefined) ins.push(mask?.id);
    if (pastKey !== undefined) ins.push(pastKey, pastValue);
    if (rank === 3) {
      const y = edit.declare(`${stem === "" ? "attention" : stem}/heads`);
      const all = [...new Set(this.#walk.path)];
      const made = edit.add({ op: "Attention", ins, outs: [y], attrs, name: `${stem}/heads`, origin: [...new Set(all.flatMap(originOf))] });
      this.#remember(made.id, mask?.id);
      apply(edit, this.#root, all, { op: "Squeeze", ins: [y, ints("axis", [1])] });
      return;
    }
    if (cache !== undefined)
      for (const c of [outs[1], outs[2]]) {
        const concat = draft.producer(c);
        if (concat === undefined) continue;
        this.#walk.path.push(concat);
        edit.remove(concat.id);
      }
    apply(edit, this.#root, [...new Set(this.#walk.path)], { op: "Attention", ins, outs, attrs });
    this.#remember(this.#root.id, mask?.id);
  }

  /** A row that is masked altogether was NaN in the user's graph: spelled out again, it needs no guard. */
  #remember(attention: NodeId, mask: ValueId | undefined): void {
    const n = this.#draft.edit.node(attention);
    if (n === undefined || mask === undefined || this.#found.maybe("guard") !== undefined || alwaysFinite(this.#draft, mask)) return;
    this.#draft.edit.patch(attention, { extra: { ...n.extra, metadata: [...(n.extra?.metadata ?? []), UNGUARDED] } });
  }

  /** [past key, key, past value, value] when both are a cache and the new entries, one after the other, and nobody else computes with them. */
  #cache(key: ValueId, value: ValueId): readonly [ValueId, ValueId, ValueId, ValueId] | undefined {
    const parts = (v: ValueId): readonly [ValueId, ValueId] | undefined => {
      const n = this.#draft.producer(v);
      const axis = n?.op === "Concat" && n.domain === "" ? n.attrs["axis"] : undefined;
      const [past, now] = n?.ins ?? [];
      if (n === undefined || axis?.kind !== "int" || ![2, -2].includes(Number(axis.value)) || n.ins.length !== 2) return undefined;
      if (past === undefined || now === undefined) return undefined;
      const going = this.#going();
      const only = (u: Node): boolean => going.has(u.id) || (u.op === "Shape" && u.domain === "" && this.#endsIn(going, u));
      return this.#draft.uses(v).every(only) ? [past, now] : undefined;
    };
    const [k, v] = [parts(key), parts(value)];
    return k === undefined || v === undefined ? undefined : [k[0], k[1], v[0], v[1]];
  }
  /** The root, and the nodes passed that nobody reads once it is rewritten. */
  #going(): ReadonlySet<NodeId> {
    const going = new Set([this.#root.id]);
    // From the root up: readers come before what they read.
    for (let before = 0; before !== going.size; ) {
      before = going.size;
      for (const n of this.#walk.path) if (this.#readBy(n).every((u) => u !== undefined && going.has(u.id))) going.add(n.id);
    }
    return going;
  }
  /** Whether all that is computed from a node's result, shape arithmetic in a few steps, is for these nodes. */
  #endsIn(going: ReadonlySet<NodeId>, n: Node): boolean {
    const seen = new Set<NodeId>();
    const todo = [n];
    for (let at = todo.pop(); at !== undefined; at = todo.pop()) {
      if (seen.has(at.id)) continue;
      seen.add(at.id);
      for (const u of this.#readBy(at)) {
        if (u === undefined || seen.size > 64) return false;
        if (!going.has(u.id)) todo.push(u);
      }
    }
    return true;
  }
  /** The readers of a node's results; undefined stands for the graph's outputs. */
  #readBy(n: Node): readonly (Node | undefined)[] {
    const draft = this.#draft;
    return n.outs.flatMap((v) => (v === undefined ? [] : [...draft.uses(v), ...(draft.isOutput(v) ? [undefined] : [])]));
  }
}
