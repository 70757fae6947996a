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
import { isStatic, mul as mulDims, sameDim } from "../../ir/dims.js";
import { originOf } from "../../ir/graph.js";
import { int64Constant, makeConstant } from "../../ir/payload.js";
import type { Attr, Dim, DType, Graph, Node, NodeId, ValueId } from "../../ir/types.js";
import { alwaysFinite, causalFill, UNGUARDED } from "../masks.js";
import { any, dimsOf, either, type Match, match, numbersOf, op, scalar, uniform } from "../match.js";
import { deep, definePass, type PassContext } from "../pass.js";
import { apply, type Draft, draftOf, leave } from "../rewrite.js";

export const raiseAttention = definePass({
  name: "raise-attention",
  why: "The scores of attention are its largest tensors; as one operator they need never leave the chip.",
  run: (g, context) => deep(g, (inner) => raised(inner, context)),
});

/** Softmax over the last axis, with or without the guard against rows that are masked altogether. */
const softmax = op("Softmax", [any("scores")], {
  name: "softmax",
  where: (n, subject) => {
    const axis = n.attrs["axis"];
    const value = axis?.kind === "int" ? Number(axis.value) : -1;
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

const perm = (n: Node | undefined): readonly number[] | undefined => {
  const a = n?.op === "Transpose" && n.domain === "" ? n.attrs["perm"] : undefined;
  return a?.kind === "ints" ? a.value.map(Number) : undefined;
};
const isIdentity = (p: readonly number[]): boolean => p.every((x, i) => x === i);
const same = (a: readonly Dim[] | undefined, b: readonly Dim[] | undefined): boolean =>
  a !== undefined && b !== undefined && a.length === b.length && a.every((d, i) => sameDim(d, b[i] ?? "?") === true);
const swapLast = (x: readonly number[]): number[] => [...x.slice(0, -2), x.at(-1) ?? 0, x.at(-2) ?? 0];

/** Dims as a Reshape takes them; at most one may be open. */
function shapeOperand(dims: readonly Dim[]): readonly number[] | undefined {
  return dims.filter((d) => !isStatic(d)).length > 1 ? undefined : dims.map((d) => (isStatic(d) ? d : -1));
}

/** A reason for which nothing is changed. */
class Refusal extends Error {}
function refuse(why: string): never {
  throw new Refusal(why);
}

/** K or V as found: `source`, transposed and then reshaped to `dims` where it says so; `groups` query heads share one of its heads. */
interface Operand {
  readonly source: ValueId;
  readonly dims: readonly Dim[];
  readonly groups: Dim;
  readonly transpose?: readonly number[];
  readonly reshape?: readonly number[];
}

/** An additive mask: as it is, or expanded and then reshaped to other dims. */
interface Added {
  readonly id: ValueId;
  readonly dims?: readonly number[];
  readonly expand?: readonly number[];
}

/** One attention under construction. Nodes walked over are collected; new ones are made only once nothing can refuse any more. */
class Site {
  readonly #draft: Draft;
  readonly #root: Node;
  readonly #found: Match;
  readonly #path: Node[];
  #scale = 1;
  /** Scalars that are no constants: applied to Q. */
  readonly #factors: { readonly op: string; readonly by: ValueId }[] = [];
  /** Additive masks, and boolean ones (true: look). */
  #added: Added[] = [];
  #causal = false;
  #chosen: { readonly when: ValueId; readonly negated: boolean; readonly fill: number }[] = [];

  constructor(draft: Draft, root: Node, found: Match) {
    this.#draft = draft;
    this.#root = root;
    this.#found = found;
    this.#path = [...found.nodes];
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
    if (narrowed) {
      const widening = draft.producer(at);
      if (widening?.op !== "Cast" || widening.ins[0] === undefined) refuse("its weights are cast and its scores are not");
      at = this.#inside(widening as Node);
    }
    const product = this.#product(at);
    const [left, right] = product.ins;
    if (left === undefined || right === undefined) refuse("its scores lack an operand");
    const [sDims, vDims] = [dimsOf(draft, product.outs[0]), dimsOf(draft, v)];
    const q = this.#scaled(left);
    const qDims = dimsOf(draft, q);
    if (!same(dimsOf(draft, at), sDims)) refuse("its mask widens the scores");
    if (sDims === undefined || vDims === undefined || qDims === undefined) refuse("the rank of an operand is not known");
    const rank = sDims.length;
    if ((rank !== 4 && rank !== 3) || qDims.length !== rank || vDims.length !== rank)
      refuse(`its operands have ${qDims.length}, ${sDims.length} and ${vDims.length} dims, and 3 or 4 are wanted`);
    const k = this.#untransposed(right, rank);
    const value = this.#unrepeated(v, vDims);
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
    this.#takeCausal(sDims);
    this.#checkMasks(sDims);
    this.#write(q, kSource, vSource, rank, narrowed);
  }

  /** From the softmax's input down to Q K', through masks, then scales. */
  #product(scores: ValueId): Node {
    let masks = true;
    for (let at = scores, steps = 0; steps < 16; steps++) {
      const n = this.#draft.producer(at);
      if (n === undefined || n.domain !== "") break;
      if (n.op === "MatMul") {
        this.#inside(n);
        return n;
      }
      const [a, b] = n.ins;
      if (a === undefined || b === undefined) break;
      if (n.op === "Add" && masks) {
        const into = this.#leadsToProduct(a) ? a : this.#leadsToProduct(b) ? b : refuse("its scores are no product of two matrices");
        this.#added.push({ id: into === a ? b : a });
        at = this.#inside(n, into);
      } else if (n.op === "Where" && masks) {
        const [when, yes, no] = n.ins;
        if (when === undefined || yes === undefined || no === undefined) break;
        const [fillYes, fillNo] = [uniform(this.#draft.constant(yes)), uniform(this.#draft.constant(no))];
        const fill = fillNo ?? fillYes;
        if (fill === undefined || fill > -1e4) refuse("its mask puts something else than a large negative number in the place of scores");
        this.#chosen.push({ when, negated: fillNo === undefined, fill });
        at = this.#inside(n, fillNo === undefined ? no : yes);
      } else if (n.op === "Reshape" && masks) {
        const inner = this.#windowed(n);
        if (inner === undefined) break;
        at = inner;
      } else if (n.op === "Mul" || n.op === "Div") {
        const factor = this.#factor(n);
        if (factor === undefined) break;
        masks = false;
        if (factor.constant !== undefined) this.#scale *= n.op === "Mul" ? factor.constant : 1 / factor.constant;
        else this.#factors.push({ op: n.op, by: factor.by });
        at = this.#inside(n, factor.of);
      } else break;
    }
    const n = this.#draft.producer(scores);
    refuse(
      `its scores come from ${n === undefined ? "no node" : `${n.op} '${this.#name(n)}'`}, not from a product of Q and K that is scaled and masked`,
    );
  }
  /**
   * Windows with a mask of their own (Swin): scores [batch * windows, heads, s, t] are seen as [batch, windows, heads, s, t], a mask is added, and
   * they are seen as before. The mask is then one for every window of the batch. Gives the scores before.
   */
  #windowed(back: Node): ValueId | undefined {
    const draft = this.#draft;
    const sum = draft.producer(back.ins[0]);
    if (sum?.op !== "Add" || sum.domain !== "") return undefined;
    const [a, b] = sum.ins;
    for (const [view, id] of [[a, b] as const, [b, a] as const]) {
      const split = draft.producer(view);
      const inner = split?.op === "Reshape" && split.domain === "" ? split.ins[0] : undefined;
      const [five, four, mask] = [dimsOf(draft, view), dimsOf(draft, inner), dimsOf(draft, id)];
      if (split === undefined || inner === undefined || id === undefined || five?.length !== 5 || four?.length !== 4 || mask === undefined)
        continue;
      const [batch, windows, heads, s, t] = five;
      if (!five.every(isStatic) || mask.length > 5 || !mask.every(isStatic)) continue;
      if (!same(four, [mulDims(batch ?? "?", windows ?? "?"), heads ?? "?", s ?? "?", t ?? "?"])) continue;
      if (!same(four, dimsOf(draft, back.outs[0])) || !same(five, dimsOf(draft, sum.outs[0]))) continue;
      const wide = [...new Array<number>(5 - mask.length).fill(1), ...mask];
      const all = [five[0], five[1], wide[2], wide[3], wide[4]] as readonly number[];
      this.#inside(back);
      this.#inside(sum, view);
      this.#inside(split);
      const [b0 = 1, w0 = 1, ...rest] = all;
      this.#added.push({ id, dims: [b0 * w0, ...rest], ...(wide.every((d, i) => d === all[i]) || b0 === 1 ? {} : { expand: all }) });
      return inner;
    }
    return undefined;
  }
  #name(n: Node): string {
    return n.name !== "" ? n.name : n.outs[0] === undefined ? n.op : this.#draft.value(n.outs[0]).name;
  }
  /** Whether scales, masks and then a MatMul make the value. */
  #leadsToProduct(v: ValueId, depth = 0): boolean {
    const n = this.#draft.producer(v);
    if (n === undefined || n.domain !== "" || depth > 8) return false;
    if (n.op === "MatMul") return true;
    if (n.op === "Mul" || n.op === "Div") {
      const f = this.#factor(n);
      return f !== undefined && this.#leadsToProduct(f.of, depth + 1);
    }
    if (n.op === "Where") return n.ins.slice(1).some((i) => i !== undefined && this.#leadsToProduct(i, depth + 1));
    if (n.op === "Reshape") return n.ins[0] !== undefined && this.#leadsToProduct(n.ins[0], depth + 1);
    return n.op === "Add" && n.ins.some((i) => i !== undefined && this.#leadsToProduct(i, depth + 1));
  }
  /** A node of which only the path may read the result; its input to go on with. */
  #inside(n: Node, next = n.ins[0]): ValueId {
    const [y] = n.outs;
    if (y === undefined || !this.#draft.edit.hasOneUser(y))
      refuse(`'${y === undefined ? n.name : this.#draft.value(y).name}' inside it is read elsewhere`);
    this.#path.push(n);
    return next ?? refuse(`${n.op} '${n.name}' lacks an operand`);
  }

  /** The operand of a Mul or Div that one number scales; a number that is known, or a value of one element. */
  #factor(n: Node): { readonly of: ValueId; readonly by: ValueId; readonly constant: number | undefined } | undefined {
    const [a, b] = n.ins;
    if (a === undefined || b === undefined) return undefined;
    for (const [of, by] of n.op === "Mul" ? [[a, b] as const, [b, a] as const] : [[a, b] as const]) {
      const dims = dimsOf(this.#draft, by);
      const rank = dimsOf(this.#draft, of)?.length;
      if (dims === undefined || rank === undefined || dims.length > rank || !dims.every((d) => d === 1)) continue;
      const x = uniform(this.#draft.constant(by));
      return x === 0 ? undefined : { of, by, constant: x };
    }
    return undefined;
  }
  /** Takes constant scales off an operand; they may have other readers, who keep them. */
  #scaled(v: ValueId): ValueId {
    let at = v;
    for (;;) {
      const n = this.#draft.producer(at);
      if (n === undefined || n.domain !== "" || (n.op !== "Mul" && n.op !== "Div")) return at;
      const f = this.#factor(n);
      if (f?.constant === undefined) return at;
      this.#scale *= n.op === "Mul" ? f.constant : 1 / f.constant;
      this.#path.push(n);
      at = f.of;
    }
  }

  /** K [.., length, size], given K' [.., size, length]. The transposition it still needs, if any, is left for `#write`. */
  #untransposed(right: ValueId, rank: number): Operand {
    const draft = this.#draft;
    const v = this.#scaled(right);
    const dims = dimsOf(draft, v);
    if (dims?.length !== rank) refuse(`K has ${dims?.length ?? "an unknown number of"} dims, and ${rank} are wanted`);
    const wanted = [...dims.slice(0, -2), dims.at(-1) ?? "?", dims.at(-2) ?? "?"];
    const n = draft.producer(v);
    const p = perm(n);
    if (n !== undefined && p !== undefined && n.ins[0] !== undefined) {
      this.#path.push(n);
      return this.#through(n.ins[0], swapLast(p), wanted);
    }
    // Reshape(Transpose(z)): the leading dims were merged for the transposition; the last two pass through.
    if (n?.op === "Reshape" && n.domain === "" && n.ins[0] !== undefined) {
      const inner = draft.producer(n.ins[0]);
      const [q, merged] = [perm(inner), dimsOf(draft, n.ins[0])];
      if (inner?.ins[0] !== undefined && q !== undefined && same(merged?.slice(-2), dims.slice(-2))) {
        const [swapped, reshape] = [swapLast(q), shapeOperand(wanted)];
        if (isIdentity(swapped) || reshape !== undefined) this.#path.push(n, inner);
        if (isIdentity(swapped)) return this.#unrepeated(this.#scaled(inner.ins[0]), wanted);
        if (reshape !== undefined) return { source: inner.ins[0], dims: wanted, groups: 1, transpose: swapped, reshape };
      }
    }
    return { source: v, dims: wanted, groups: 1, transpose: swapLast(wanted.map((_, i) => i)) };
  }
  #through(z: ValueId, p: readonly number[], wanted: readonly Dim[]): Operand {
    if (!isIdentity(p)) return { source: z, dims: wanted, groups: 1, transpose: p };
    return this.#unrepeated(this.#scaled(z), wanted);
  }

  /** Looks through Reshapes for the value itself, or for Expand(Unsqueeze(v, 2)), which repeats heads for groups of queries. */
  #unrepeated(v: ValueId, dims: readonly Dim[]): Operand {
    const draft = this.#draft;
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
      this.#path.push(...views, expand, unsqueeze);
      return { source: z, dims: from, groups: to[2] ?? 1 };
    }
    if (same(dimsOf(draft, at), dims)) {
      this.#path.push(...views);
      return { source: at, dims, groups: 1 };
    }
    return { source: v, dims, groups: 1 };
  }
  /** Without the knowledge of repeated heads: what stands before the repetition cannot be used then. */
  #plain(o: Operand): Operand {
    return o.groups === 1 ? o : refuse("the heads of K are repeated and those of V are not, or otherwise");
  }

  /**
   * A constant mask that closes all later keys becomes an attribute. Beside other masks only one of -inf or the lowest number does: a smaller
   * one would tell rows that the others close altogether where to look.
   */
  #takeCausal(scores: readonly Dim[]): void {
    const [queries, keys] = scores.slice(-2);
    if (typeof queries !== "number" || queries !== keys) return;
    const most = this.#added.length + this.#chosen.length === 1 ? -1e4 : -3e38;
    const isCausal = (c: ValueId, fill: number, negated = false): boolean => {
      const above = causalFill(this.#draft.constant(c), queries, negated);
      return above !== undefined && Math.max(above, fill) <= most;
    };
    const added = this.#added.filter((m) => m.dims !== undefined || !isCausal(m.id, Number.NEGATIVE_INFINITY));
    const chosen = this.#chosen.filter((c) => !isCausal(c.when, c.fill, c.negated));
    this.#causal = added.length < this.#added.length || chosen.length < this.#chosen.length;
    [this.#added, this.#chosen] = [added, chosen];
  }

  /** Masks must broadcast to the scores without widening them, and have their last dim. */
  #checkMasks(scores: readonly Dim[]): void {
    if (this.#added.length + this.#chosen.length > 4) refuse("it has more masks than can be combined");
    for (const { id, dims: seen } of [...this.#added, ...this.#chosen.map((c): Added => ({ id: c.when }))]) {
      const dims = seen ?? dimsOf(this.#draft, id);
      if (dims === undefined || dims.length > scores.length || dims.length < 2)
        refuse(`its mask has ${dims?.length ?? "an unknown number of"} dims, and 2 to ${scores.length} are wanted`);
      dims.forEach((d, i) => {
        const s = scores[i + scores.length - dims.length] ?? "?";
        const last = i === dims.length - 1;
        if (sameDim(d, s) !== true && (last || d !== 1)) refuse(`dim ${i} of its mask is ${d}, that of its scores ${s}`);
      });
    }
    // Attention leaves masked keys out; a finite number in the place of scores leaves a row that is masked altogether with the mean of V.
    for (const c of this.#chosen)
      if (c.fill !== Number.NEGATIVE_INFINITY && c.fill > -1e8)
        refuse(`its mask puts ${c.fill} in the place of scores, which is too small to mask exactly`);
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
    for (const f of this.#factors) q = add("scale", f.op, [q, f.by]);
    let key = k.source;
    if (k.transpose !== undefined) key = add("key", "Transpose", [key], { perm: { kind: "ints", value: k.transpose } });
    if (k.reshape !== undefined) key = add("key", "Reshape", [key, ints("shape", k.reshape)]);
    let value = v.source;
    let mask = this.#mask(add, rank);
    let [pastKey, pastValue]: [ValueId | undefined, ValueId | undefined] = [undefined, undefined];
    let outs: (ValueId | undefined)[] = [...this.#root.outs];
    const cache = rank === 4 && !this.#causal && k.transpose === undefined ? this.#cache(key, value) : undefined;
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
    const attrs: Record<string, Attr> = { scale: { kind: "float", value: Math.fround(this.#scale) } };
    if (this.#causal) attrs["is_causal"] = { kind: "int", value: 1 };
    if (narrowed) attrs["softmax_precision"] = { kind: "int", value: 1 };
    const ins: (ValueId | undefined)[] = [q, key, value];
    if (mask !== undefined || pastKey !== undefined) ins.push(mask?.id);
    if (pastKey !== undefined) ins.push(pastKey, pastValue);
    if (rank === 3) {
      const y = edit.declare(`${stem === "" ? "attention" : stem}/heads`);
      const all = [...new Set(this.#path)];
      const made = edit.add({ op: "Attention", ins, outs: [y], attrs, name: `${stem}/heads`, origin: [...new Set(all.flatMap(originOf))] });
      this.#remember(made.id, mask?.id);
      apply(edit, this.#root, all, { op: "Squeeze", ins: [y, ints("axis", [1])] });
      return;
    }
    if (cache !== undefined)
      for (const c of [outs[1], outs[2]]) {
        const concat = draft.producer(c);
        if (concat === undefined) continue;
        this.#path.push(concat);
        edit.remove(concat.id);
      }
    apply(edit, this.#root, [...new Set(this.#path)], { op: "Attention", ins, outs, attrs });
    this.#remember(this.#root.id, mask?.id);
  }

  /** A row that is masked altogether was NaN in the user's graph: spelled out again, it needs no guard. */
  #remember(attention: NodeId, mask: ValueId | undefined): void {
    const n = this.#draft.edit.node(attention);
    if (n === undefined || mask === undefined || this.#found.maybe("guard") !== undefined || alwaysFinite(this.#draft, mask)) return;
    this.#draft.edit.patch(attention, { extra: { ...n.extra, metadata: [...(n.extra?.metadata ?? []), UNGUARDED] } });
  }

  /** All masks as one: boolean where Where chose -inf, added otherwise. */
  #mask(
    add: (suffix: string, op: string, ins: readonly ValueId[]) => ValueId,
    rank: number,
  ): { readonly id: ValueId; readonly rank: number } | undefined {
    const draft = this.#draft;
    const widest = (a: number, m: ValueId): number => Math.max(a, dimsOf(draft, m)?.length ?? rank);
    const exact = this.#chosen.length > 0 && this.#added.length === 0 && this.#chosen.every((c) => c.fill === Number.NEGATIVE_INFINITY);
    if (exact) {
      const ids = this.#chosen.map((c) => (c.negated ? add("mask", "Not", [c.when]) : c.when));
      const [first, ...rest] = ids;
      if (first === undefined) return undefined;
      return {
        id: rest.reduce((a, b) => add("mask", "And", [a, b]), first),
        rank: this.#chosen.map((c) => c.when).reduce(widest, 0),
      };
    }
    const t = draft.type(this.#root.outs[0] as ValueId);
    const dtype = t.kind === "tensor" ? t.dtype : "float32";
    const shape = (dims: readonly number[]): ValueId => draft.edit.addConstant(`${this.#root.name}/shape`, int64Constant(dims));
    const number = (x: number): ValueId =>
      draft.edit.addConstant(`${this.#root.name}/mask`, makeConstant(dtype as Exclude<DType, "string">, [], [x]));
    const ids = this.#added.map(({ id, dims, expand }) => {
      const wide = expand === undefined ? id : add("mask", "Expand", [id, shape(expand)]);
      return dims === undefined ? wide : add("mask", "Reshape", [wide, shape(dims)]);
    });
    for (const c of this.#chosen) {
      const [zero, fill] = [number(0), number(c.fill)];
      ids.push(add("mask", "Where", c.negated ? [c.when, fill, zero] : [c.when, zero, fill]));
    }
    const [first, ...rest] = ids;
    if (first === undefined) return undefined;
    return {
      id: rest.reduce((a, b) => add("mask", "Add", [a, b]), first),
      rank: Math.max(...this.#added.map((m) => m.dims?.length ?? widest(0, m.id)), ...this.#chosen.map((c) => widest(0, c.when))),
    };
  }

  /** [past key, key, past value, value] when both are a cache and the new entries, one after the other, and nobody else computes with them. */
  #cache(key: ValueId, value: ValueId): readonly [ValueId, ValueId, ValueId, ValueId] | undefined {
    const parts = (v: ValueId): readonly [ValueId, ValueId] | undefined => {
      const n = this.#draft.producer(v);
      const axis = n?.op === "Concat" && n.domain === "" ? n.attrs["axis"] : undefined;
      const [past, now] = n?.ins ?? [];
      if (n === undefined || axis?.kind !== "int" || ![2, -2].includes(Number(axis.value)) || n.ins.length !== 2) return undefined;
      if (past === undefined || now === undefined) return undefined;
      const inside = new Set([...this.#path, this.#root].map((m) => m.id));
      return this.#draft.uses(v).every((u) => inside.has(u.id)) ? [past, now] : undefined;
    };
    const [k, v] = [parts(key), parts(value)];
    return k === undefined || v === undefined ? undefined : [k[0], k[1], v[0], v[1]];
  }
}
