/** The scores of spelled-out attention, from the softmax down to Q K': masks added, chosen by Where or per window, causal masks, scales. */
import { intOf } from "../../ir/attributes.js";
import { isStatic, mul as mulDims, sameDim } from "../../ir/dims.js";
import { int64Constant, makeConstant } from "../../ir/payload.js";
import type { Constant, Dim, DType, Node, ValueId } from "../../ir/types.js";
import { causalFill } from "../masks.js";
import { dimsOf, uniform } from "../match.js";
import { refuse, same, type Walk } from "./walk.js";

/** An additive mask: as it is, or expanded and then reshaped to other dims. */
interface Added {
  readonly id: ValueId;
  readonly dims?: readonly number[];
  readonly expand?: readonly number[];
}

/** What lies between a softmax and the product of Q and K. */
export class Scores {
  readonly #walk: Walk;
  /** Scalars that are no constants: applied to Q. */
  readonly factors: { readonly op: string; readonly by: ValueId }[] = [];
  /** Additive masks, and boolean ones (true: look). */
  #added: Added[] = [];
  #chosen: { readonly when: ValueId; readonly negated: boolean; readonly fill: number }[] = [];
  #causal = false;
  #softcap = 0;

  constructor(walk: Walk) {
    this.#walk = walk;
  }
  /** Whether later keys are closed to every query. Known after `settle`. */
  get causal(): boolean {
    return this.#causal;
  }
  /** Scores become softcap * tanh(score / softcap) before the masks; 0 where they do not. */
  get softcap(): number {
    return this.#softcap;
  }

  /** From the softmax's input down to Q K', through masks, then scales. `wide`: masks are in a wider type than the product, which a Cast below them widens. */
  product(scores: ValueId, wide = false): Node {
    let masks = true;
    let widened = !wide;
    for (let at = scores, steps = 0; steps < 16; steps++) {
      const n = this.#walk.draft.producer(at);
      if (n === undefined || n.domain !== "") break;
      if (n.op === "MatMul") {
        if (!widened) refuse("its weights are cast and its scores are not");
        this.#walk.inside(n);
        return n;
      }
      const [a, b] = n.ins;
      if (n.op === "Cast" && !widened && a !== undefined && intOf(n, "to", 0) === 1) {
        // In the narrower type only a mask that leaves scores alone or takes them out is the same mask.
        this.#added = this.#added.filter((m) => !this.#takeChosen(m.id));
        if (this.#added.length > 0 || this.#chosen.some((c) => c.fill !== Number.NEGATIVE_INFINITY))
          refuse("its mask holds other numbers than 0 and -inf, in a wider type than its operands");
        widened = true;
        at = this.#walk.inside(n);
        continue;
      }
      if (n.op === "Tanh" && this.#softcap === 0 && this.factors.length === 0) {
        // p tanh(a QK') = c tanh((a p QK') / c) for c = |p|: what stands outside scales what is inside as well.
        masks = false;
        this.#softcap = Math.abs(this.#walk.scale);
        at = this.#walk.inside(n);
        continue;
      }
      if (a === undefined || b === undefined) break;
      if (n.op === "Add" && masks) {
        const into = this.#leadsToProduct(a) ? a : this.#leadsToProduct(b) ? b : refuse("its scores are no product of two matrices");
        this.#added.push({ id: into === a ? b : a });
        at = this.#walk.inside(n, into);
      } else if (n.op === "Where" && masks) {
        const [when, yes, no] = n.ins;
        if (when === undefined || yes === undefined || no === undefined) break;
        const [fillYes, fillNo] = [uniform(this.#walk.draft.constant(yes)), uniform(this.#walk.draft.constant(no))];
        const fill = fillNo ?? fillYes;
        if (fill === undefined || fill > -1e4) refuse("its mask puts something else than a large negative number in the place of scores");
        this.#chosen.push({ when, negated: fillNo === undefined, fill });
        at = this.#walk.inside(n, fillNo === undefined ? no : yes);
      } else if (n.op === "Reshape" && masks) {
        const inner = this.#windowed(n);
        if (inner === undefined) break;
        at = inner;
      } else if (n.op === "Mul" || n.op === "Div") {
        const factor = this.#walk.factor(n);
        if (factor === undefined) break;
        masks = false;
        if (factor.constant !== undefined) this.#walk.scale *= n.op === "Mul" ? factor.constant : 1 / factor.constant;
        else this.factors.push({ op: n.op, by: factor.by });
        at = this.#walk.inside(n, factor.of);
      } else break;
    }
    const n = this.#walk.draft.producer(scores);
    refuse(
      `its scores come from ${n === undefined ? "no node" : `${n.op} '${this.#name(n)}'`}, not from a product of Q and K that is scaled and masked`,
    );
  }
  /** An additive mask that Where made of 0 and -inf is one that chooses. */
  #takeChosen(mask: ValueId): boolean {
    const { draft } = this.#walk;
    const n = draft.producer(mask);
    const [when, yes, no] = n?.op === "Where" && n.domain === "" ? n.ins : [];
    if (when === undefined || !same(dimsOf(draft, when), dimsOf(draft, mask))) return false;
    const [a, b] = [uniform(draft.constant(yes)), uniform(draft.constant(no))];
    const fill = Number.NEGATIVE_INFINITY;
    if (!(a === 0 && b === fill) && !(a === fill && b === 0)) return false;
    this.#chosen.push({ when, negated: a === fill, fill });
    return true;
  }
  /**
   * Windows with a mask of their own (Swin): scores [batch * windows, heads, s, t] are seen as [batch, windows, heads, s, t], a mask is added, and
   * they are seen as before. The mask is then one for every window of the batch. Gives the scores before.
   */
  #windowed(back: Node): ValueId | undefined {
    const draft = this.#walk.draft;
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
      this.#walk.inside(back);
      this.#walk.inside(sum, view);
      this.#walk.inside(split);
      const [b0 = 1, w0 = 1, ...rest] = all;
      this.#added.push({ id, dims: [b0 * w0, ...rest], ...(wide.every((d, i) => d === all[i]) || b0 === 1 ? {} : { expand: all }) });
      return inner;
    }
    return undefined;
  }
  /** Whether scales, masks and then a MatMul make the value. */
  #leadsToProduct(v: ValueId, depth = 0): boolean {
    const n = this.#walk.draft.producer(v);
    if (n === undefined || n.domain !== "" || depth > 8) return false;
    if (n.op === "MatMul") return true;
    if (n.op === "Mul" || n.op === "Div") {
      const f = this.#walk.factor(n);
      return f !== undefined && this.#leadsToProduct(f.of, depth + 1);
    }
    if (n.op === "Where") return n.ins.slice(1).some((i) => i !== undefined && this.#leadsToProduct(i, depth + 1));
    if (n.op === "Reshape" || n.op === "Cast" || n.op === "Tanh")
      return n.ins[0] !== undefined && this.#leadsToProduct(n.ins[0], depth + 1);
    return n.op === "Add" && n.ins.some((i) => i !== undefined && this.#leadsToProduct(i, depth + 1));
  }
  #name(n: Node): string {
    return n.name !== "" ? n.name : n.outs[0] === undefined ? n.op : this.#walk.draft.value(n.outs[0]).name;
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
      const above = causalFill(this.#walk.draft.constant(c), queries, negated);
      return above !== undefined && Math.max(above, fill) <= most;
    };
    const added = this.#added.filter((m) => m.dims !== undefined || !isCausal(m.id, Number.NEGATIVE_INFINITY));
    const chosen = this.#chosen.filter((c) => !isCausal(c.when, c.fill, c.negated));
    this.#causal = added.length < this.#added.length || chosen.length < this.#chosen.length;
    [this.#added, this.#chosen] = [added, chosen];
  }

  /** Masks must broadcast to the scores without widening them, and have their last dim. */
  settle(scores: readonly Dim[]): void {
    this.#takeCausal(scores);
    if (this.#added.length + this.#chosen.length > 4) refuse("it has more masks than can be combined");
    for (const { id, dims: seen } of [...this.#added, ...this.#chosen.map((c): Added => ({ id: c.when }))]) {
      const dims = seen ?? dimsOf(this.#walk.draft, id);
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

  /** All masks as one: boolean where Where chose -inf, added otherwise. */
  write(
    add: (suffix: string, op: string, ins: readonly ValueId[]) => ValueId,
    constant: (suffix: string, c: Constant) => ValueId,
    dtype: DType,
    rank: number,
  ): { readonly id: ValueId; readonly rank: number } | undefined {
    const { draft } = this.#walk;
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
    const shape = (dims: readonly number[]): ValueId => constant("shape", int64Constant(dims));
    const number = (x: number): ValueId => constant("mask", makeConstant(dtype as Exclude<DType, "string">, [], [x]));
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
}
