/** Which operators work in either layout, and how each is spelt in the other: the axes, pads and broadcast operands that change. */
import { intOf } from "../ir/attributes.js";
import { dtypeBits } from "../ir/dtypes.js";
import { bytesOf, int64Constant, smallNumbers, transposed } from "../ir/payload.js";
import type { Attr, Attrs, Constant, Node, Shape, ValueId } from "../ir/types.js";

export interface TurnContext {
  readonly shape: (v: ValueId) => Shape;
  readonly constant: (v: ValueId | undefined) => Constant | undefined;
}
export interface Hands {
  /** A tied value in the other layout. */
  readonly at: (v: ValueId) => ValueId;
  readonly constant: (stem: string, c: Constant) => ValueId;
  readonly name: (v: ValueId) => string;
  readonly insert: (op: string, ins: readonly ValueId[], attrs: Attrs, stem: string) => ValueId;
}
/** How one node is turned. */
export interface Turn {
  /** Values that change layout with it. */
  readonly tied: readonly ValueId[];
  /** Elements that turning it transposes besides. */
  readonly cost: number;
  readonly apply: (n: Node, to: Hands) => { readonly ins: readonly (ValueId | undefined)[]; readonly attrs?: Attrs };
}

const words = (text: string): ReadonlySet<string> => new Set(text.split(" "));
const UNARY = words(
  "Relu Sigmoid Tanh LeakyRelu Elu Selu Celu Clip HardSigmoid HardSwish Softplus Softsign Erf Gelu Mish Swish Abs Neg Exp Log Sqrt Reciprocal Sign Ceil Floor Round Cast Identity ThresholdedRelu Not IsNaN IsInf Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh BitwiseNot Shrink Dropout",
);
const BROADCAST = words(
  "Add Sub Mul Div Max Min Pow Sum Mean Equal Less LessOrEqual Greater GreaterOrEqual And Or Xor Mod PRelu Where BitwiseAnd BitwiseOr BitwiseXor",
);
const REDUCE = words("ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum ReduceLogSumExp");
const AXIS = words("Softmax LogSoftmax Hardmax");

/** Where an axis of [N, spatial..., C] is in [N, C, spatial...]. */
const moved = (axis: number, rank: number): number => {
  const a = axis < 0 ? axis + rank : axis;
  return a === 0 ? 0 : a === rank - 1 ? 1 : a + 1;
};
const ints = (n: Node, name: string): readonly number[] | undefined => {
  const a = n.attrs[name];
  return a?.kind === "ints" ? a.value.map(Number) : undefined;
};
const written = (n: Node, name: string, value: number): Attrs => ({ ...n.attrs, [name]: { kind: "int", value } satisfies Attr });

/** Constants whose elements are whole bytes can be written in another order. */
const writable = (c: Constant | undefined): boolean =>
  c === undefined || (c.data.kind !== "strings" && c.data.kind !== "sparse" && dtypeBits(c.dtype) % 8 === 0);

/** The node's turn; undefined where it holds on to its layout. */
export function rulesOf(n: Node, c: TurnContext): Turn | undefined {
  if (n.domain !== "" || !n.ins.every((v) => writable(c.constant(v)))) return undefined;
  const [x] = n.ins;
  const [y] = n.outs;
  if (x === undefined || y === undefined) return undefined;
  const rank = c.shape(y)?.length;
  const from = c.shape(x)?.length;
  if (rank === undefined || from === undefined) return undefined;
  if (UNARY.has(n.op))
    return n.outs.length === 1 && others(n, c) ? tied([x, y], (now, to) => ({ ins: [to.at(x), ...now.ins.slice(1)] })) : undefined;
  if (BROADCAST.has(n.op)) return broadcast(n, y, rank, c);
  if (REDUCE.has(n.op)) return reduce(n, x, y, from, c);
  if (AXIS.has(n.op))
    return tied([x, y], (now, to) => ({ ins: [to.at(x)], attrs: written(now, "axis", moved(intOf(now, "axis", -1), rank)) }));
  switch (n.op) {
    case "Concat": {
      const parts = n.ins.filter((v) => v !== undefined);
      if (!parts.every((v) => c.shape(v)?.length === rank)) return undefined;
      return tied([...parts, y], (now, to) => ({
        ins: parts.map(to.at),
        attrs: written(now, "axis", moved(intOf(now, "axis", 0), rank)),
      }));
    }
    case "Split": {
      const outs = n.outs.filter((v) => v !== undefined);
      return tied([x, ...outs], (now, to) => ({
        ins: [to.at(x), ...now.ins.slice(1)],
        attrs: written(now, "axis", moved(intOf(now, "axis", 0), rank)),
      }));
    }
    case "ArgMax":
    case "ArgMin":
      if (intOf(n, "keepdims", 1) !== 1) return undefined;
      return tied([x, y], (now, to) => ({ ins: [to.at(x)], attrs: written(now, "axis", moved(intOf(now, "axis", 0), rank)) }));
    case "Pad":
      return pad(n, x, y, rank, c);
    case "Slice":
      return slice(n, x, y, rank, c);
    case "Resize":
      return resize(n, x, y, rank, c);
    case "Tile":
      return from === rank ? permutedVector(n, x, y, rank, c) : undefined;
    case "Expand":
      return from === rank && smallNumbers(c.constant(n.ins[1]))?.length === rank ? permutedVector(n, x, y, rank, c) : undefined;
    case "Squeeze":
    case "Unsqueeze":
      return squeeze(n, x, y, from, rank, c);
    case "QuantizeLinear":
    case "DequantizeLinear": {
      const scale = n.ins[1] === undefined ? undefined : c.shape(n.ins[1]);
      if (scale === undefined || scale.length > 1 || n.attrs["block_size"] !== undefined) return undefined;
      const axis = scale.length === 0 ? undefined : moved(intOf(n, "axis", 1), rank);
      return tied([x, y], (now, to) => ({
        ins: [to.at(x), ...now.ins.slice(1)],
        ...(axis === undefined ? {} : { attrs: written(now, "axis", axis) }),
      }));
    }
    default:
      return undefined;
  }
}

function tied(values: readonly ValueId[], apply: Turn["apply"]): Turn {
  return { tied: values, cost: 0, apply };
}
/** The further operands of a unary operator (bounds, ratios) are scalars. */
const others = (n: Node, c: TurnContext): boolean =>
  n.ins.slice(1).every((v) => v === undefined || (c.shape(v)?.length ?? 9) === 0 || n.op === "Dropout");

/** Operands of the result's rank are tied; constants and narrower ones are written in the other layout, which moves no bytes for vectors. */
function broadcast(n: Node, y: ValueId, rank: number, c: TurnContext): Turn | undefined {
  const values: ValueId[] = [y];
  let cost = 0;
  for (const v of n.ins) {
    if (v === undefined) return undefined;
    const s = c.shape(v);
    if (s === undefined) return undefined;
    if (s.length === rank && c.constant(v) === undefined) values.push(v);
    else if (s.length > rank) return undefined;
    else if (c.constant(v) === undefined && s.length > 1 && s.length < rank)
      cost += s.reduce<number>((a, d) => a * (typeof d === "number" ? d : 1), 1);
  }
  // Constants alone: nothing to turn.
  if (values.length < 2) return undefined;
  return {
    tied: values,
    cost,
    apply: (now, to) => ({ ins: now.ins.map((v) => (v === undefined ? v : values.includes(v) ? to.at(v) : operand(v, rank, c, to))) }),
  };
}
function operand(v: ValueId, rank: number, c: TurnContext, to: Hands): ValueId {
  const s = c.shape(v) ?? [];
  if (s.length === 0) return v;
  const lead = rank - s.length;
  const constant = c.constant(v);
  const perm = toFirst(rank);
  if (constant !== undefined) {
    // [C] behind broadcasting is [C, 1, ...].
    if (s.length === 1)
      return to.constant(`${to.name(v)}.nchw`, { ...constant, dims: [...constant.dims, ...new Array<number>(rank - 2).fill(1)] });
    return to.constant(
      `${to.name(v)}.nchw`,
      transposed({ ...constant, dims: [...new Array<number>(lead).fill(1), ...constant.dims] }, perm),
    );
  }
  if (s.length === 1)
    return to.insert(
      "Unsqueeze",
      [v, to.constant(`${to.name(v)}.axes`, int64Constant(Array.from({ length: rank - 2 }, (_, i) => i + 1)))],
      {},
      `${to.name(v)}.nchw`,
    );
  const wide =
    lead === 0
      ? v
      : to.insert(
          "Unsqueeze",
          [v, to.constant(`${to.name(v)}.axes`, int64Constant(Array.from({ length: lead }, (_, i) => i)))],
          {},
          `${to.name(v)}.wide`,
        );
  return to.insert("Transpose", [wide], { perm: { kind: "ints", value: perm } }, `${to.name(v)}.nchw`);
}

function reduce(n: Node, x: ValueId, y: ValueId, rank: number, c: TurnContext): Turn | undefined {
  const keep = intOf(n, "keepdims", 1) === 1;
  const axes = n.ins[1] === undefined ? undefined : smallNumbers(c.constant(n.ins[1]));
  if (axes === undefined) return undefined;
  const all = axes.map((a) => (a < 0 ? a + rank : a));
  const turn: Turn["apply"] = (_, to) => ({
    ins: [to.at(x), to.constant(`${to.name(x)}.axes`, int64Constant(all.map((a) => moved(a, rank)).sort((a, b) => a - b)))],
  });
  if (keep) return tied([x, y], turn);
  // What is left keeps its order in the other layout when either the channels or all spatial axes go.
  const left = Array.from({ length: rank }, (_, i) => i).filter((a) => !all.includes(a));
  const places = left.map((a) => moved(a, rank));
  return places.every((p, i) => i === 0 || (places[i - 1] ?? 0) < p) ? tied([x], turn) : undefined;
}

function pad(n: Node, x: ValueId, y: ValueId, rank: number, c: TurnContext): Turn | undefined {
  const pads = smallNumbers(c.constant(n.ins[1]));
  if (pads === undefined) return undefined;
  const axes = n.ins[3] === undefined ? undefined : smallNumbers(c.constant(n.ins[3]));
  if (n.ins[3] !== undefined && axes === undefined) return undefined;
  return tied([x, y], (now, to) => {
    if (axes !== undefined) {
      const turned = axes.map((a) => moved(a, rank));
      return { ins: [to.at(x), now.ins[1], now.ins[2], to.constant(`${to.name(x)}.axes`, int64Constant(turned))] };
    }
    const half = permute(pads.slice(0, rank), rank).concat(permute(pads.slice(rank), rank));
    return { ins: [to.at(x), to.constant(`${to.name(x)}.pads`, int64Constant(half)), ...now.ins.slice(2)] };
  });
}
/** A vector with an entry per axis, in the other layout. */
const permute = (list: readonly number[], rank: number): number[] => toFirst(rank).map((p) => list[p] ?? 0);

function slice(n: Node, x: ValueId, y: ValueId, rank: number, c: TurnContext): Turn | undefined {
  const starts = n.ins[1] === undefined ? undefined : c.shape(n.ins[1])?.[0];
  const axes = n.ins[3] === undefined ? undefined : smallNumbers(c.constant(n.ins[3]));
  if (typeof starts !== "number" || (n.ins[3] !== undefined && axes === undefined)) return undefined;
  const list = axes ?? Array.from({ length: starts }, (_, i) => i);
  return tied([x, y], (now, to) => ({
    ins: [
      to.at(x),
      now.ins[1],
      now.ins[2],
      to.constant(`${to.name(x)}.axes`, int64Constant(list.map((a) => moved(a, rank)))),
      ...now.ins.slice(4),
    ],
  }));
}

function resize(n: Node, x: ValueId, y: ValueId, rank: number, c: TurnContext): Turn | undefined {
  if (n.ins[1] !== undefined && c.constant(n.ins[1])?.dims[0] !== 0) return undefined;
  const axes = ints(n, "axes");
  if (axes !== undefined)
    return tied([x, y], (now, to) => ({
      ins: [to.at(x), ...now.ins.slice(1)],
      attrs: { ...now.attrs, axes: { kind: "ints", value: axes.map((a) => moved(a, rank)) } },
    }));
  return tied([x, y], (now, to) => ({
    ins: [
      to.at(x),
      now.ins[1],
      ...now.ins.slice(2).map((v) => (v === undefined || c.constant(v)?.dims[0] === 0 ? v : reordered(v, rank, c, to))),
    ],
  }));
}
function permutedVector(n: Node, x: ValueId, y: ValueId, rank: number, c: TurnContext): Turn | undefined {
  const v = n.ins[1];
  if (v === undefined || c.shape(v)?.[0] !== rank) return undefined;
  return tied([x, y], (_, to) => ({ ins: [to.at(x), reordered(v, rank, c, to)] }));
}
/** The entries of a vector with one per axis, for the other layout. A constant stays one: no pass after this one folds, and dims follow from it. */
function reordered(v: ValueId, rank: number, c: TurnContext, to: Hands): ValueId {
  const known = c.constant(v);
  const order = toFirst(rank);
  if (known?.dims.length === 1 && known.dims[0] === rank) return to.constant(`${to.name(v)}.nchw`, entries(known, order));
  return to.insert(
    "Gather",
    [v, to.constant(`${to.name(v)}.order`, int64Constant(order))],
    { axis: { kind: "int", value: 0 } },
    `${to.name(v)}.nchw`,
  );
}
function entries(c: Constant, order: readonly number[]): Constant {
  const width = dtypeBits(c.dtype) / 8;
  const from = bytesOf(c);
  const bytes = new Uint8Array(order.length * width);
  order.forEach((p, i) => {
    bytes.set(from.subarray(p * width, (p + 1) * width), i * width);
  });
  return { dtype: c.dtype, dims: [order.length], data: { kind: "bytes", bytes } };
}

/** A spatial axis that comes or goes keeps the others in their places. */
function squeeze(n: Node, x: ValueId, y: ValueId, from: number, rank: number, c: TurnContext): Turn | undefined {
  const axes = n.ins[1] === undefined ? undefined : smallNumbers(c.constant(n.ins[1]));
  const wide = Math.max(from, rank);
  if (axes === undefined || Math.min(from, rank) < 3) return undefined;
  const all = axes.map((a) => (a < 0 ? a + wide : a));
  if (all.some((a) => a <= 0 || a >= wide - 1)) return undefined;
  return tied([x, y], (_, to) => ({
    ins: [to.at(x), to.constant(`${to.name(x)}.axes`, int64Constant(all.map((a) => moved(a, wide))))],
  }));
}

/** [N, spatial..., C] to [N, C, spatial...]: which axis each place takes. */
export const toFirst = (rank: number): readonly number[] => [0, rank - 1, ...Array.from({ length: rank - 2 }, (_, i) => i + 1)];
export const toLast = (rank: number): readonly number[] => [0, ...Array.from({ length: rank - 2 }, (_, i) => i + 2), 1];
