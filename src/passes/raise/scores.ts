/** The scores of spelled-out attention, from the softmax down to Q K': masks added, chosen by Where or per window, causal masks, scales. */
import { intOf } from "../../ir/attributes.js";
import { atMost, sameDim } from "../../ir/dims.js";
import { makeConstant } from "../../ir/payload.js";
import type { Constant, Dim, DType, Node, ValueId, ValueType } from "../../ir/types.js";
import { alwaysFinite, causalFill } from "../masks.js";
import { dimsOf, uniform } from "../match.js";
import { type Dims, type Placing, placing, Views } from "./frames.js";
import { refuse, same, type Walk } from "./walk.js";

/** An additive mask, of scores of these leading dims. What scales the sum scales the mask: `factor`. */
interface Added {
  readonly id: ValueId;
  readonly leads: Dims;
  readonly factor: number;
}
/** What multiplies or divides scores of these leading dims, one number for all keys of all queries. */
interface Factor {
  readonly op: string;
  readonly by: ValueId;
  readonly leads: Dims;
}
/** A choice between scores, of these leading dims, and a number. */
interface Chosen {
  readonly when: ValueId;
  readonly negated: boolean;
  readonly fill: number;
  readonly leads: Dims;
}

interface Written {
  readonly id: ValueId;
  readonly rank: number;
}
const isHalf = (t: ValueType): boolean => t.kind === "tensor" && (t.dtype === "float16" || t.dtype === "bfloat16");
/** The same elements in the same order. */
const VIEWS: ReadonlySet<string> = new Set(["Reshape", "Squeeze", "Unsqueeze"]);
/** What lies between a softmax and the product of Q and K. */
export class Scores {
  readonly #walk: Walk;
  /** Factors of whole rows, and scalars that are no constants: applied to Q. */
  readonly #factors: Factor[] = [];
  /** Additive masks, and boolean ones (true: look). */
  #added: Added[] = [];
  #chosen: Chosen[] = [];
  /** Leading dims of the scores on the way, those of the product last. */
  readonly #views: Dims[] = [];
  /** Scores below this number become it. */
  #floor = Number.NEGATIVE_INFINITY;
  #placed = new Map<Added | Chosen | Factor, Placing | undefined>();
  #causal = false;
  #softcap = 0;
  #narrow = false;

  constructor(walk: Walk) {
    this.#walk = walk;
  }
  /** Whether later keys are closed to every query. Known after `settle`. */
  get causal(): boolean {
    return this.#causal;
  }
  /** Whether Q and K are in a narrower type than V, which a Cast of their product widens. */
  get narrow(): boolean {
    return this.#narrow;
  }
  /** Scores become softcap * tanh(score / softcap) before the masks; 0 where they do not. */
  get softcap(): number {
    return this.#softcap;
  }

  /** Leading dims of what the scores are seen as, those of the product of Q and K first. */
  get views(): readonly Dims[] {
    return this.#views.toReversed();
  }

  /** From the softmax's input down to Q K', through masks, then scales. `wide`: masks are in a wider type than the product, which a Cast below them widens. */
  product(scores: ValueId, wide = false): Node {
    const { draft } = this.#walk;
    let masks = true;
    let widened = !wide;
    const tail = dimsOf(draft, scores)?.slice(-2);
    for (let at = scores, steps = 0; steps < 20; steps++) {
      const n = draft.producer(at);
      const dims = dimsOf(draft, at);
      if (n === undefined || n.domain !== "") break;
      if (dims === undefined || dims.length < 2) refuse("the rank of its scores is not known");
      const leads = dims.slice(0, -2);
      if (VIEWS.has(n.op)) {
        // In the end of the same rows and columns, so that the leading dims alone are grouped otherwise.
        if (same(dims.slice(-2), tail)) this.#views.push(leads);
        at = this.#walk.inside(n);
        continue;
      }
      if (!same(dims.slice(-2), tail)) refuse("its mask widens the scores");
      this.#views.push(leads);
      if (n.op === "MatMul") {
        if (!widened) refuse("its weights are cast and its scores are not");
        this.#walk.inside(n);
        return n;
      }
      const [a, b] = n.ins;
      const from = (v: ValueId): ValueId => (same(dimsOf(draft, v), dims) ? this.#walk.inside(n, v) : refuse("its mask widens the scores"));
      if (n.op === "Cast" && !widened && a !== undefined && intOf(n, "to", 0) === 1) {
        // In the narrower type only a mask that leaves scores alone or takes them out is the same mask.
        this.#added = this.#added.filter((m) => !this.#takeChosen(m));
        if (this.#added.length > 0 || this.#chosen.some((c) => c.fill !== Number.NEGATIVE_INFINITY))
          refuse("its mask holds other numbers than 0 and -inf, in a wider type than its operands");
        widened = true;
        at = this.#walk.inside(n);
        continue;
      }
      if (n.op === "Cast" && !wide && !this.#narrow && a !== undefined && intOf(n, "to", 0) === 1 && isHalf(draft.type(a))) {
        // Everything behind the product is in float32, so that Q and K may be as well.
        this.#narrow = true;
        at = this.#walk.inside(n);
        continue;
      }
      if (n.op === "Tanh" && this.#softcap === 0 && this.#factors.length === 0) {
        // p tanh(a QK') = c tanh((a p QK') / c) for c = |p|: what stands outside scales what is inside as well.
        masks = false;
        this.#softcap = Math.abs(this.#walk.scale);
        at = this.#walk.inside(n);
        continue;
      }
      if (a === undefined || b === undefined) break;
      const choice = n.op === "Add" && masks ? this.#choice(n) : undefined;
      if (choice !== undefined) {
        this.#choose({ ...choice.choice, leads });
        from(choice.part);
        at = this.#walk.inside(choice.product, choice.of);
      } else if (n.op === "Add" && masks) {
        const into = this.#leadsToProduct(a) ? a : this.#leadsToProduct(b) ? b : refuse("its scores are no product of two matrices");
        // A mask of large finite numbers could become infinite.
        if (Math.abs(this.#walk.scale) > 1) refuse(`its mask is scaled by ${this.#walk.scale}`);
        this.#added.push({ id: into === a ? b : a, leads, factor: this.#walk.scale });
        at = from(into);
      } else if (n.op === "Where" && masks) {
        const [when, yes, no] = n.ins;
        if (when === undefined || yes === undefined || no === undefined) break;
        const [fillYes, fillNo] = [uniform(draft.constant(yes)), uniform(draft.constant(no))];
        this.#choose({ when, negated: fillNo === undefined, fill: fillNo ?? fillYes ?? 0, leads });
        at = from(fillNo === undefined ? no : yes);
      } else if (n.op === "Max" && masks && n.ins.length === 2 && this.#walk.scale === 1 && this.#added.length === 0) {
        const [floorA, floorB] = [uniform(draft.constant(a)), uniform(draft.constant(b))];
        const floor = floorB ?? floorA;
        // A float32 so low takes in any score that is added to it.
        if (floor === undefined || floor > -3e38) break;
        this.#floor = floor;
        at = from(floorB === undefined ? b : a);
      } else if (n.op === "Mul" || n.op === "Div") {
        const factor = this.#walk.factor(n) ?? this.#perHead(n, leads);
        if (factor === undefined) break;
        if (factor.constant !== undefined) this.#walk.scale *= n.op === "Mul" ? factor.constant : 1 / factor.constant;
        else {
          if (this.#narrow) refuse("its scores are scaled in a narrower type than its softmax");
          masks = false;
          this.#factors.push({ op: n.op, by: factor.by, leads });
        }
        at = from(factor.of);
      } else break;
    }
    const n = this.#walk.draft.producer(scores);
    refuse(
      `its scores come from ${n === undefined ? "no node" : `${n.op} '${this.#name(n)}'`}, not from a product of Q and K that is scaled and masked`,
    );
  }
  #choose(c: Chosen): void {
    const fill = Math.max(c.fill * this.#walk.scale, this.#floor);
    if (!(fill <= -1e4)) refuse("its mask puts something else than a large negative number in the place of scores");
    this.#chosen.push({ ...c, fill });
  }
  /** A choice by arithmetic, as tf2onnx writes it: scores * look + fill * !look. */
  #choice(n: Node) {
    const { draft } = this.#walk;
    /** A product with a boolean as numbers: that boolean, and what it is multiplied by. */
    const product = (v: ValueId | undefined) => {
      const made = draft.producer(v);
      if (made?.op !== "Mul" || made.domain !== "") return undefined;
      for (const [x, y] of [made.ins, made.ins.toReversed()]) {
        const cast = draft.producer(x);
        const look = cast?.op === "Cast" && cast.domain === "" ? cast.ins[0] : undefined;
        const t = look === undefined ? undefined : draft.type(look);
        if (look !== undefined && y !== undefined && t?.kind === "tensor" && t.dtype === "bool") return { made, look, other: y };
      }
      return undefined;
    };
    for (const [a, b] of [n.ins, n.ins.toReversed()]) {
      const [scores, rest] = [product(a), product(b)];
      const not = draft.producer(rest?.look);
      const fill = rest === undefined ? undefined : uniform(draft.constant(rest.other));
      if (a === undefined || scores === undefined || fill === undefined || not?.op !== "Not" || not.ins[0] !== scores.look) continue;
      return { choice: { when: scores.look, negated: false, fill }, part: a, product: scores.made, of: scores.other };
    }
    return undefined;
  }
  /** The operand of a Mul or Div by a tensor that differs from head to head alone: [.., 1, 1]. */
  #perHead(n: Node, leads: Dims): { readonly of: ValueId; readonly by: ValueId; readonly constant: undefined } | undefined {
    const [a, b] = n.ins;
    if (a === undefined || b === undefined) return undefined;
    for (const [of, by] of n.op === "Mul" ? [[a, b] as const, [b, a] as const] : [[a, b] as const]) {
      const dims = dimsOf(this.#walk.draft, by);
      if (dims !== undefined && dims.length > 2 && dims.length <= leads.length + 2 && dims.slice(-2).every((d) => d === 1))
        return { of, by, constant: undefined };
    }
    return undefined;
  }
  /** An additive mask that Where made of 0 and -inf is one that chooses. */
  #takeChosen({ id, factor, leads }: Added): boolean {
    const { draft } = this.#walk;
    const n = draft.producer(id);
    const [when, yes, no] = n?.op === "Where" && n.domain === "" ? n.ins : [];
    if (when === undefined || !same(dimsOf(draft, when), dimsOf(draft, id)) || !(factor > 0) || this.#floor !== Number.NEGATIVE_INFINITY)
      return false;
    const [a, b] = [uniform(draft.constant(yes)), uniform(draft.constant(no))];
    const fill = Number.NEGATIVE_INFINITY;
    if (!(a === 0 && b === fill) && !(a === fill && b === 0)) return false;
    this.#chosen.push({ when, negated: a === fill, fill, leads });
    return true;
  }
  /** Whether scales, masks and then a MatMul make the value. */
  #leadsToProduct(v: ValueId, depth = 0): boolean {
    const n = this.#walk.draft.producer(v);
    if (n === undefined || n.domain !== "" || depth > 12) return false;
    if (n.op === "MatMul") return true;
    if (n.op === "Mul" || n.op === "Div") {
      const f = this.#walk.factor(n) ?? this.#perHead(n, (dimsOf(this.#walk.draft, v) ?? []).slice(0, -2));
      return f !== undefined && this.#leadsToProduct(f.of, depth + 1);
    }
    if (n.op === "Where") return n.ins.slice(1).some((i) => i !== undefined && this.#leadsToProduct(i, depth + 1));
    if (VIEWS.has(n.op) || n.op === "Cast" || n.op === "Tanh") return n.ins[0] !== undefined && this.#leadsToProduct(n.ins[0], depth + 1);
    return (n.op === "Add" || n.op === "Max") && n.ins.some((i) => i !== undefined && this.#leadsToProduct(i, depth + 1));
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
    const added = this.#added.filter((m) => m.factor !== 1 || !isCausal(m.id, Number.NEGATIVE_INFINITY));
    const chosen = this.#chosen.filter((c) => !isCausal(c.when, c.fill, c.negated));
    this.#causal = added.length < this.#added.length || chosen.length < this.#chosen.length;
    [this.#added, this.#chosen] = [added, chosen];
  }

  /** Masks must broadcast to the scores without widening them, and have their last dim. `to`: the leading dims that attention computes in. */
  settle(scores: readonly Dim[], to: Dims): void {
    const { draft } = this.#walk;
    this.#takeCausal(scores);
    if (this.#added.length + this.#chosen.length > 4) refuse("it has more masks than can be combined");
    const floored = this.#floor > Number.NEGATIVE_INFINITY;
    if (floored && (this.#added.length > 1 || this.#added.some((m) => m.factor !== 1 || !alwaysFinite(draft, m.id))))
      refuse("its scores are kept above a number, and its mask may be below it");
    for (const f of this.#factors) {
      const dims = dimsOf(draft, f.by) ?? [];
      this.#placed.set(f, dims.length < 2 ? undefined : this.#seen("factor", dims, f.leads, to));
    }
    for (const m of [...this.#added, ...this.#chosen]) {
      const frame = [...m.leads, ...scores.slice(-2)];
      const dims = dimsOf(draft, "id" in m ? m.id : m.when);
      if (dims === undefined || dims.length > frame.length || dims.length < 2)
        refuse(`its mask has ${dims?.length ?? "an unknown number of"} dims, and 2 to ${frame.length} are wanted`);
      dims.forEach((d, i) => {
        const s = frame[i + frame.length - dims.length] ?? "?";
        const last = i === dims.length - 1;
        // Where the two broadcast, a smaller one of the two is the other.
        if (sameDim(d, s) !== true && !atMost(d, s) && (last || d !== 1)) refuse(`dim ${i} of its mask is ${d}, that of its scores ${s}`);
      });
      this.#placed.set(m, this.#seen("mask", dims, m.leads, to));
    }
    // Attention leaves masked keys out; a finite number in the place of scores leaves a row that is masked altogether with the mean of V.
    for (const c of this.#chosen)
      if (c.fill !== Number.NEGATIVE_INFINITY && c.fill > -1e8)
        refuse(`its mask puts ${c.fill} in the place of scores, which is too small to mask exactly`);
  }

  #seen(what: string, dims: Dims, from: Dims, to: Dims): Placing | undefined {
    const placed = placing(dims, from, to);
    const able =
      placed === undefined || Views.able(placed.expand === undefined ? dims : [...placed.expand, ...dims.slice(-2)], placed.dims);
    return able ? placed : refuse(`its ${what} of dims [${dims}] cannot be seen over [${to}]`);
  }

  /** Q with what scales the scores. */
  scaled(views: Views, q: ValueId): ValueId {
    const by = (f: Factor): ValueId => views.place("scale", f.by, dimsOf(this.#walk.draft, f.by) ?? [], this.#placed.get(f), q);
    return this.#factors.reduce((at, f) => views.add("scale", f.op, [at, by(f)]), q);
  }
  /** All masks as one: boolean where Where chose -inf, added otherwise. `q` is Q as attention reads it. */
  write(views: Views, constant: (suffix: string, c: Constant) => ValueId, dtype: DType, q: ValueId): Written | undefined {
    const { draft } = this.#walk;
    let rank = 0;
    const shown = (v: ValueId, m: Added | Chosen): ValueId => {
      const [own, placed] = [dimsOf(draft, v) ?? [], this.#placed.get(m)];
      rank = Math.max(rank, placed?.dims.length ?? own.length);
      return views.place("mask", v, own, placed, q);
    };
    const joined = (op: string, ids: readonly ValueId[]): Written | undefined => {
      const [first, ...rest] = ids;
      return first === undefined ? undefined : { id: rest.reduce((a, b) => views.add("mask", op, [a, b]), first), rank };
    };
    const exact = this.#chosen.length > 0 && this.#added.length === 0 && this.#chosen.every((c) => c.fill === Number.NEGATIVE_INFINITY);
    if (exact) {
      const looks = this.#chosen.map((c) => {
        const when = shown(c.when, c);
        return c.negated ? views.add("mask", "Not", [when]) : when;
      });
      return joined("And", looks);
    }
    const number = (x: number): ValueId => constant("mask", makeConstant(dtype as Exclude<DType, "string">, [], [x]));
    const ids = this.#added.map((m) => {
      const id = shown(m.id, m);
      return m.factor === 1 ? id : views.add("mask", "Mul", [id, number(m.factor)]);
    });
    for (const c of this.#chosen) {
      const when = shown(c.when, c);
      const [zero, fill] = [number(0), number(c.fill)];
      ids.push(views.add("mask", "Where", c.negated ? [when, fill, zero] : [when, zero, fill]));
    }
    return joined("Add", ids);
  }
}
