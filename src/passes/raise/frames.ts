/**
 * Leading dims of attention. Exporters see the same scores as [batch, heads, s, t], as [batch * heads, s, t], or with windows or groups of heads as dims of
 * their own; masks belong to one of these views. Here it is worked out how a tensor of one view is seen in another, and the nodes that show it so are written.
 */
import { exactQuotient, isStatic, product, sameDim } from "../../ir/dims.js";
import { int64Constant } from "../../ir/payload.js";
import type { Attr, Constant, Dim, ValueId } from "../../ir/types.js";
import { refuse, same, shapeOperand } from "./walk.js";

export type Dims = readonly Dim[];
/** A mask as one of other dims: its leading dims expanded, seen otherwise, and `tiled` along its first dim as often as that dim has to be filled. */
export interface Placing {
  readonly expand?: readonly number[];
  readonly dims: Dims;
  readonly tiled?: true;
}

/** How many of the leading dims make up the first dim of `to`; the others make up the second. Undefined where they are not parted so. */
function parted(from: Dims, to: Dims): number | undefined {
  if (to.length === 1) return sameDim(product(from), to[0] ?? "?") === true ? from.length : undefined;
  for (let p = 0; p <= from.length; p++)
    if (sameDim(product(from.slice(0, p)), to[0] ?? "?") === true && sameDim(product(from.slice(p)), to[1] ?? "?") === true) return p;
  return undefined;
}
const ones = (dims: Dims): boolean => dims.every((d) => d === 1);

/** A mask that broadcasts to scores whose leading dims are `from`, as one that broadcasts to scores whose leading dims are `to`; undefined: as it is. */
export function placing(mask: Dims, from: Dims, to: Dims): Placing | undefined {
  const [rows, tail] = [from.length + 2 - mask.length, mask.slice(-2)];
  const wide: Dims = [...new Array<number>(rows).fill(1), ...mask.slice(0, -2)];
  if (ones(wide)) return mask.length <= to.length + 2 ? undefined : { dims: tail };
  if (same(from, to)) return undefined;
  if (same(wide, from)) return seen(mask, [...to, ...tail]);
  const p = parted(from, to);
  if (p === undefined) refuse(`its mask of dims [${mask}] cannot be seen over [${to}]`);
  const groups = to.length === 1 ? [[0, p] as const] : [[0, p] as const, [p, from.length] as const];
  const leads: Dim[] = [];
  const expand: Dim[] = [];
  let tile = false;
  for (const [i, [start, end]] of groups.entries()) {
    const [own, all] = [wide.slice(start, end), from.slice(start, end)];
    const repeated = own.findIndex((d) => d !== 1);
    if (repeated < 0) {
      leads.push(1);
      expand.push(...own);
    } else if (same(own, all)) {
      leads.push(to[i] ?? "?");
      expand.push(...own);
    } else if (i === 0 && all.slice(0, repeated).some((d) => !isStatic(d)) && same(own.slice(repeated), all.slice(repeated))) {
      // The same for each of the outer dims, of which one is open: how often follows from the dim it has to fill.
      tile = true;
      leads.push(product(all.slice(repeated)));
      expand.push(...own);
    } else {
      leads.push(to[i] ?? "?");
      expand.push(...all);
    }
  }
  const dims = [...leads, ...tail];
  if (same(expand, wide) && !tile) return seen(mask, dims);
  if (same(expand, wide) && isStatic(leads[0] ?? "?")) return { dims, tiled: true };
  if (tile || !expand.every(isStatic)) refuse(`its mask of dims [${mask}] cannot be seen over [${to}]`);
  return { expand, dims };
}
const seen = (own: Dims, dims: Dims): Placing | undefined => (same(own, dims) ? undefined : { dims });

/** Leading dims of K or V, which broadcast to `from`, over `to`: as they are, or with one head for a group of `groups` that lie side by side. */
export function shared(own: Dims, from: Dims, to: Dims): { readonly leads: Dims; readonly groups: Dim } {
  if (own.length !== from.length) refuse(`K and V have ${own.length + 2} dims, and its scores ${from.length + 2}`);
  if (same(from, to)) return { leads: own, groups: 1 };
  if (same(own, from)) return { leads: to, groups: 1 };
  const p = to.length === 2 ? parted(from, to) : undefined;
  if (p === undefined || !same(own.slice(0, p), from.slice(0, p))) refuse(`the dims [${own}] of K and V do not go with [${from}]`);
  const first = own.findIndex((d, i) => i >= p && sameDim(d, from[i] ?? "?") !== true);
  if (!ones(own.slice(first))) refuse(`the dims [${own}] of K and V do not go with [${from}]`);
  const groups = product(from.slice(first));
  const heads = exactQuotient(to[1] ?? "?", groups);
  if (heads === undefined) refuse(`the dims [${own}] of K and V do not go with [${from}]`);
  return { leads: [to[0] ?? "?", heads], groups };
}

/** The view that attention computes in, of those that its scores are seen in, the product's first: [batch, heads], or [batch] of one head each. */
export function frameOf(views: readonly Dims[], k: Dims): Dims {
  const four = views.find((v) => v.length === 2);
  if (four !== undefined) return four;
  const [own = []] = views;
  if (own.length < 2) return own;
  // Heads that one head of K serves are side by side.
  const apart = k.length === own.length && k.at(-1) === 1 && own.at(-1) !== 1 ? own.length - 2 : own.length - 1;
  return [product(own.slice(0, apart)), product(own.slice(apart))];
}

type Add = (suffix: string, op: string, ins: readonly ValueId[], attrs?: Readonly<Record<string, Attr>>) => ValueId;
/** Writes nodes that show values otherwise. */
export class Views {
  readonly add: Add;
  readonly #constant: (suffix: string, c: Constant) => ValueId;
  constructor(add: Add, constant: (suffix: string, c: Constant) => ValueId) {
    this.add = add;
    this.#constant = constant;
  }
  ints(suffix: string, values: readonly number[]): ValueId {
    return this.#constant(suffix, int64Constant(values));
  }
  /** A value of dims `own` as one of the same elements in dims `dims`. */
  reshape(suffix: string, v: ValueId, own: Dims, dims: Dims): ValueId {
    return this.add(suffix, "Reshape", [v, this.shape(suffix, v, own, dims)]);
  }
  /** Operand of a Reshape: numbers where one open dim at most is left, otherwise with dims of the value itself. */
  shape(suffix: string, v: ValueId, own: Dims, dims: Dims): ValueId {
    const known = shapeOperand(dims) ?? shapeOperand(dims.map((d, i) => (!isStatic(d) && sameDim(d, own[i] ?? "?") === true ? 0 : d)));
    if (known !== undefined) return this.ints("shape", known);
    let open = false;
    const parts = dims.map((d): ValueId => {
      if (isStatic(d)) return this.ints("shape", [d]);
      const at = own.findIndex((o) => sameDim(o, d) === true);
      if (at >= 0) return this.add(suffix, "Shape", [v], { start: { kind: "int", value: at }, end: { kind: "int", value: at + 1 } });
      if (open) throw new Error(`[${own}] does not say how to see it as [${dims}]`);
      open = true;
      return this.ints("shape", [-1]);
    });
    return this.add(suffix, "Concat", parts, { axis: { kind: "int", value: 0 } });
  }
  /** Whether `reshape` can be written. */
  static able(own: Dims, dims: Dims): boolean {
    return !dims.includes(0) && dims.filter((d) => !isStatic(d) && !own.some((o) => sameDim(o, d) === true)).length <= 1;
  }
  /** `filled` is a value whose first dim a tile has to fill. */
  place(suffix: string, v: ValueId, own: Dims, p: Placing | undefined, filled: ValueId): ValueId {
    if (p === undefined) return v;
    const wide = p.expand === undefined ? v : this.add(suffix, "Expand", [v, this.ints("shape", [...p.expand, 1, 1])]);
    const from = p.expand === undefined ? own : [...p.expand, ...own.slice(-2)];
    const at = same(from, p.dims) ? wide : this.reshape(suffix, wide, from, p.dims);
    const [period] = p.dims;
    if (p.tiled !== true || !isStatic(period ?? "?")) return at;
    const count = this.add(suffix, "Shape", [filled], { start: { kind: "int", value: 0 }, end: { kind: "int", value: 1 } });
    const times = this.add(suffix, "Div", [count, this.ints("shape", [Number(period)])]);
    const once = p.dims.slice(1).map(() => 1);
    return this.add(suffix, "Tile", [
      at,
      this.add(suffix, "Concat", [times, this.ints("shape", once)], { axis: { kind: "int", value: 0 } }),
    ]);
  }
}
