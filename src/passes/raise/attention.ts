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
import { exactQuotient, isStatic, mul as mulDims, sameDim } from "../../ir/dims.js";
import { originOf } from "../../ir/graph.js";
import type { Attr, Constant, Dim, DType, Graph, Node, NodeId, ValueId } from "../../ir/types.js";
import { alwaysFinite, UNGUARDED } from "../masks.js";
import { any, dimsOf, either, type Match, match, op, type Pattern, type Subject, scalar } from "../match.js";
import { deep, definePass, type PassContext } from "../pass.js";
import { apply, type Draft, draftOf, leave } from "../rewrite.js";
import { einsumsAsProducts } from "./einsum.js";
import { frameOf, shared, Views } from "./frames.js";
import { type Operand, unrepeated, untransposed } from "./operands.js";
import { Scores } from "./scores.js";
import { isShape, Refusal, refuse, same, Walk } from "./walk.js";

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
const narrowed = either(guarded, op("Cast", [guarded], { name: "narrowed" }));
/** Of the same rows and columns, the leading dims grouped otherwise. */
const regrouped = (p: Pattern): Pattern => op("Reshape", [p, any()], { where: keepsRows });
const keepsRows = (n: Node, subject: Subject): boolean => same(dimsOf(subject, n.ins[0])?.slice(-2), dimsOf(subject, n.outs[0])?.slice(-2));
const weights = either(narrowed, regrouped(either(narrowed, regrouped(narrowed))));
const core = op("MatMul", [weights, any("v")]);

function raised(g: Graph, context: PassContext): Graph {
  if (!g.nodes.some((n) => n.op === "Softmax" && n.domain === "")) return g;
  const draft = draftOf(g, context);
  einsumsAsProducts(draft, g.nodes);
  const nodes = [...draft.edit.nodes()];
  for (let i = nodes.length - 1; i >= 0; i--) {
    const root = nodes[i];
    if (root?.op !== "MatMul" || root.domain !== "" || draft.edit.node(root.id) !== root) continue;
    const found = match(draft, root, core);
    if (found === undefined) continue;
    // Their shape is known from Q and K as well.
    const leak = found.leak(isShape);
    const why = leak === undefined ? new Site(draft, root, found).raise() : `'${draft.value(leak).name}' inside it is read elsewhere`;
    if (why !== undefined) leave(context, g, root, "attention", why);
  }
  return draft.edit.finish();
}

/** The result: [..leading dims of the computation, length, size], the dims that the model gives it, and its type. */
interface Result {
  readonly heads: readonly Dim[];
  readonly y: readonly Dim[];
  readonly dtype: DType;
}
/** An element of a shape: a number, or a value's dim, multiplied or divided. */
type Length = number | { readonly of: ValueId; readonly at: number; readonly op: "Mul" | "Div"; readonly by: number };
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
    for (const n of this.#found.nodes) if (n !== this.#root) this.#walk.measures(n);
    const product = this.#scores.product(scores, narrowed);
    const [left, right] = product.ins;
    if (left === undefined || right === undefined) refuse("its scores lack an operand");
    const [sDims, vDims, yDims] = [dimsOf(draft, product.outs[0]), dimsOf(draft, v), dimsOf(draft, this.#root.outs[0])];
    const wDims = dimsOf(draft, this.#root.ins[0]);
    const qIn = this.#walk.scaled(left);
    const [qDims, kDims] = [dimsOf(draft, qIn), dimsOf(draft, right)];
    if (
      sDims === undefined ||
      vDims === undefined ||
      qDims === undefined ||
      kDims === undefined ||
      yDims === undefined ||
      wDims === undefined
    )
      refuse("the rank of an operand is not known");
    if (sDims.length < 3 || qDims.length !== sDims.length || vDims.length !== wDims.length)
      refuse(`its operands have ${qDims.length}, ${sDims.length} and ${vDims.length} dims`);
    const [from, out] = [sDims.slice(0, -2), wDims.slice(0, -2)];
    const to = frameOf([...this.#scores.views, out], kDims.slice(0, -2));
    const rank = to.length + 2;
    const whole = same(qDims.slice(0, -2), from);
    const q: Operand =
      same(from, to) || !whole ? { source: qIn, dims: qDims, groups: 1 } : unrepeated(this.#walk, qIn, qDims, [...to, ...qDims.slice(-2)]);
    if (q.groups !== 1 || q.dims.length !== rank) refuse(`Q of dims [${qDims}] cannot be seen over [${to}]`);
    const [kShared, vShared] = [shared(kDims.slice(0, -2), from, to), shared(vDims.slice(0, -2), out, to)];
    const k = untransposed(this.#walk, right, kShared.leads);
    const value = unrepeated(this.#walk, v, vDims, [...vShared.leads, ...vDims.slice(-2)]);
    const groups = [mulDims(k.groups, kShared.groups), mulDims(value.groups, vShared.groups)] as const;
    const grouped = rank === 4 && groups[0] !== 1 && sameDim(...groups) === true;
    if (!grouped && groups.some((g) => g !== 1)) refuse("the heads of K are repeated and those of V are not, or otherwise");
    // MatMul broadcasts, Attention does not.
    for (let d = 0; d < rank - 2; d++) {
      const [a, b, c] = [q.dims[d] ?? "?", k.dims[d] ?? "?", value.dims[d] ?? "?"];
      // One head of K and V serves any number of heads of Q.
      const wanted = d === 1 && grouped ? mulDims(b, groups[0]) : d === 1 && rank === 4 && b === 1 ? a : b;
      if (sameDim(a, wanted) !== true || sameDim(b, c) !== true)
        refuse(`dim ${d} of Q, K and V is ${a}, ${wanted} and ${c}; they must be known to be equal`);
    }
    for (const o of [q, k, value])
      if (o.before !== undefined && !Views.able(o.before, o.dims)) refuse(`[${o.before}] cannot be seen as [${o.dims}]`);
    const heads = [...to, ...yDims.slice(-2)];
    if (!same(heads, yDims) && !Views.able(heads, yDims)) refuse(`[${heads}] cannot be seen as [${yDims}]`);
    const typeOf = (id: ValueId | undefined): DType | undefined => {
      const t = id === undefined ? undefined : draft.type(id);
      return t?.kind === "tensor" ? t.dtype : undefined;
    };
    const [ofQ, ofK, ofV, dtype] = [q.source, k.source, value.source, this.#root.outs[0]].map(typeOf);
    if (dtype === "float64") refuse("float64 stays as it is");
    if (dtype === undefined || ofV !== dtype || ofQ !== ofK || (this.#scores.narrow ? dtype !== "float32" : ofQ !== dtype))
      refuse("Q, K, V and the result differ in type");
    this.#scores.settle(sDims, to);
    for (const n of this.#walk.measured)
      if (this.#lengths(n, q.source, k.source) === undefined)
        refuse(`'${draft.value(n.ins[0] as ValueId).name}' inside it is read elsewhere`);
    this.#write(q, k, value, { heads, y: yDims, dtype }, narrowed);
  }

  // ---- writing: nothing refuses from here on --------------------------------------------------------------------------------------------

  #write(q: Operand, k: Operand, v: Operand, result: Result, narrowed: boolean): void {
    const draft = this.#draft;
    const edit = draft.edit;
    const stem = this.#root.name;
    const origin = this.#root.origin ?? [this.#root.name];
    const add = (suffix: string, opName: string, ins: readonly ValueId[], attrs: Readonly<Record<string, Attr>> = {}): ValueId => {
      const y = edit.declare(`${stem === "" ? "attention" : stem}/${suffix}`);
      edit.add({ op: opName, ins, outs: [y], attrs, name: `${stem}/${suffix}`, origin });
      return y;
    };
    const constant = (suffix: string, c: Constant): ValueId => edit.addConstant(`${stem}/${suffix}`, c);
    const views = new Views(add, constant);
    const operand = (suffix: string, o: Operand): ValueId => {
      const turned =
        o.transpose === undefined ? o.source : add(suffix, "Transpose", [o.source], { perm: { kind: "ints", value: o.transpose } });
      return o.before === undefined ? turned : views.reshape(suffix, turned, o.before, o.dims);
    };
    for (const n of this.#walk.measured) {
      const parts = (this.#lengths(n, q.source, k.source) ?? []).map((d) => {
        if (typeof d === "number") return views.ints("shape", [d]);
        const length = add("shape", "Shape", [d.of], { start: { kind: "int", value: d.at }, end: { kind: "int", value: d.at + 1 } });
        return d.by === 1 ? length : add("shape", d.op, [length, views.ints("shape", [d.by])]);
      });
      const [only, ...more] = parts;
      if (only === undefined) continue;
      edit.replaceUses(n.outs[0] as ValueId, more.length === 0 ? only : add("shape", "Concat", parts, { axis: { kind: "int", value: 0 } }));
      edit.remove(n.id);
    }
    const wide = (suffix: string, v: ValueId): ValueId =>
      this.#scores.narrow ? add(suffix, "Cast", [v], { to: { kind: "int", value: 1 } }) : v;
    let query = wide("query", operand("query", q));
    query = this.#scores.scaled(views, query);
    let key = wide("key", operand("key", k));
    let value = operand("value", v);
    const rank = q.dims.length;
    let mask = this.#scores.write(views, constant, result.dtype, query);
    let [pastKey, pastValue]: [ValueId | undefined, ValueId | undefined] = [undefined, undefined];
    let outs: (ValueId | undefined)[] = [...this.#root.outs];
    const regroups = !same(result.heads, result.y);
    const cache =
      rank === 4 && !this.#scores.causal && !regroups && key === k.source && value === v.source ? this.#cache(key, value) : undefined;
    if (cache !== undefined) {
      outs = [outs[0], key, value];
      [pastKey, key, pastValue, value] = cache;
    }
    if (rank === 3) {
      // One head: Attention wants four dims.
      const axis = views.ints("axis", [1]);
      [query, key, value] = [
        add("q", "Unsqueeze", [query, axis]),
        add("k", "Unsqueeze", [key, axis]),
        add("v", "Unsqueeze", [value, axis]),
      ];
      if (mask !== undefined && mask.rank === 3) mask = { id: add("m", "Unsqueeze", [mask.id, axis]), rank: 4 };
    }
    const attrs: Record<string, Attr> = { scale: { kind: "float", value: Math.fround(this.#walk.scale) } };
    if (this.#scores.causal) attrs["is_causal"] = { kind: "int", value: 1 };
    if (this.#scores.softcap > 0) attrs["softcap"] = { kind: "float", value: Math.fround(this.#scores.softcap) };
    if (narrowed) attrs["softmax_precision"] = { kind: "int", value: 1 };
    const ins: (ValueId | undefined)[] = [query, key, value];
    if (mask !== undefined || pastKey !== undefined) ins.push(mask?.id);
    if (pastKey !== undefined) ins.push(pastKey, pastValue);
    if (rank === 3 || regroups) {
      const t = { kind: "tensor", dtype: result.dtype, shape: rank === 3 ? undefined : result.heads } as const;
      const y = edit.declare(`${stem === "" ? "attention" : stem}/heads`, t);
      const all = [...new Set(this.#walk.path)];
      const made = edit.add({ op: "Attention", ins, outs: [y], attrs, name: `${stem}/heads`, origin: [...new Set(all.flatMap(originOf))] });
      this.#remember(made.id, mask?.id);
      if (rank === 3) apply(edit, this.#root, all, { op: "Squeeze", ins: [y, views.ints("axis", [1])] });
      else {
        // Mostly the model sees the result by heads again.
        for (const u of [...draft.uses(this.#root.outs[0] as ValueId)]) {
          const [again] = u.outs;
          if (
            u.op !== "Reshape" ||
            u.domain !== "" ||
            again === undefined ||
            draft.isOutput(again) ||
            !same(dimsOf(draft, again), result.heads)
          )
            continue;
          edit.replaceUses(again, y);
          edit.remove(u.id);
        }
        apply(edit, this.#root, all, { op: "Reshape", ins: [y, views.shape("heads", y, result.heads, result.y)] });
      }
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
  /** What a Shape inside gives: numbers, and dims of Q and K, their multiples and parts. */
  #lengths(n: Node, q: ValueId, k: ValueId): readonly Length[] | undefined {
    const draft = this.#draft;
    const dims = dimsOf(draft, n.ins[0]);
    if (dims === undefined || n.outs[0] === undefined || draft.isOutput(n.outs[0])) return undefined;
    const found = dims.slice(intOf(n, "start", 0), intOf(n, "end", dims.length)).map((d): Length | undefined => {
      if (isStatic(d)) return d;
      for (const of of [q, k])
        for (const [at, o] of (dimsOf(draft, of) ?? []).entries()) {
          if (isStatic(o)) continue;
          const [times, parts] = [exactQuotient(d, o), exactQuotient(o, d)];
          if (times !== undefined && isStatic(times)) return { of, at, op: "Mul", by: times };
          if (parts !== undefined && isStatic(parts)) return { of, at, op: "Div", by: parts };
        }
      return undefined;
    });
    return found.length > 0 && found.every((d) => d !== undefined) ? found : undefined;
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
