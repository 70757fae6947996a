/**
 * Which operands could be read as int8, by the rules that engines reward, before any scale is known.
 *
 * Every input of Conv, ConvTranspose, Gemm and MatMul; the residual input of an Add behind one of them; average pools whose result is read
 * as int8; and the operators between that move int8 as well as float. All else stays float, with a reason.
 */
import { bodiesOf, displayName, producersOf, readsOf, usesOf } from "../ir/graph.js";
import { smallNumbers } from "../ir/payload.js";
import type { Attr, Graph, Node, NodeId, ValueId } from "../ir/types.js";
import { dtypeOf, type Fact, shapeOf } from "../ops/define.js";
import { flagged, groupsOf } from "../passes/weights.js";
import { depthsOf } from "./layers.js";

/** A product of an activation with another operand: what an integer kernel computes. */
export interface Product {
  readonly node: Node;
  /** Input slots read as activations, per tensor. */
  readonly activations: readonly number[];
  /** The slot of a constant operand, and its axis of output channels (undefined: one scale). */
  readonly weight: { readonly slot: number; readonly axis: number | undefined } | undefined;
  /** The slot of a constant bias that becomes int32. */
  readonly bias: number | undefined;
}
/** A tensor that stays as it is although the operator that reads it could take int8. */
export interface Refusal {
  readonly value: ValueId;
  readonly node: Node;
  readonly why: string;
}
export interface Candidates {
  readonly products: ReadonlyMap<NodeId, Product>;
  /** Why a slot of a node is read as int8, by `key`. */
  readonly takes: ReadonlyMap<string, string>;
  /** Operators that move int8 through: their data inputs and outputs share one scale. */
  readonly through: ReadonlySet<NodeId>;
  readonly refused: readonly Refusal[];
}
export interface CandidateOptions {
  /** Why a node shall stay float, or undefined. */
  readonly keepFloat?: ((n: Node) => string | undefined) | undefined;
  /** Whether these tensors may share one scale, by what is known of their ranges. Absent: yes. */
  readonly mayShare?: ((n: Node, ins: readonly ValueId[], outs: readonly ValueId[]) => boolean) | undefined;
  /** Whether a range is known for an activation. Absent: yes. */
  readonly hasRange?: ((v: ValueId) => boolean) | undefined;
}

export const key = (n: Node, slot: number): string => `${n.id}:${slot}`;

/** Products with fewer input and output channels than this gain nothing on integer units. */
const FEW = 16;
/** Sums of more products may leave int32. */
const MOST_PRODUCTS = 65_536;

const attr = (n: Node, name: string): number | string | undefined => {
  const a: Attr | undefined = n.attrs[name];
  return a?.kind === "float" || a?.kind === "int" ? Number(a.value) : a?.kind === "string" ? String(a.value) : undefined;
};

const isZero = (g: Graph, v: ValueId | undefined): boolean =>
  v === undefined || smallNumbers(g.constants.get(v))?.every((x) => x === 0) === true;

/** Data inputs of operators whose result holds elements of their input and zeros, and no others. */
export function passedSlots(n: Node, g: Graph): readonly number[] | undefined {
  if (n.domain !== "") return undefined;
  switch (n.op) {
    case "Reshape":
    case "Transpose":
    case "Flatten":
    case "Squeeze":
    case "Unsqueeze":
    case "Identity":
    case "Slice":
    case "Split":
    case "Gather":
    case "DepthToSpace":
    case "SpaceToDepth":
      return [0];
    case "Pad":
      return attr(n, "mode") === undefined || attr(n, "mode") === "constant" ? (isZero(g, n.ins[2]) ? [0] : undefined) : undefined;
    case "MaxPool":
      return n.outs[1] === undefined ? [0] : undefined;
    case "Concat":
      return n.ins.some((v) => v === undefined || g.constants.has(v)) ? undefined : n.ins.map((_, i) => i);
    default:
      return undefined;
  }
}

export function candidates(g: Graph, facts: (v: ValueId) => Fact, options: CandidateOptions = {}): Candidates {
  const producers = producersOf(g);
  const uses = usesOf(g);
  const outputs = new Set(g.outputs);
  const products = new Map<NodeId, Product>();
  const takes = new Map<string, string>();
  const through = new Set<NodeId>();
  const refused: Refusal[] = [];
  const depth = depthsOf(g, (n) => n.op in PRODUCTS);
  const isFloat = (v: ValueId | undefined): v is ValueId => v !== undefined && dtypeOf(facts(v)) === "float32";
  const known = options.hasRange ?? (() => true);

  for (const node of g.nodes) {
    const operands = PRODUCTS[node.op];
    if (node.domain !== "" || operands === undefined) continue;
    const found = productOf(g, node, facts, { producers, uses });
    const why = typeof found === "string" ? found : (options.keepFloat?.(node) ?? unknownRange(found));
    if (why === undefined && typeof found !== "string") {
      products.set(node.id, found);
      for (const slot of found.activations) takes.set(key(node, slot), `every input of ${node.op} is quantized`);
    } else for (const v of node.ins.slice(0, 2)) if (v !== undefined) refused.push({ value: v, node, why: why ?? "" });
  }
  function unknownRange(p: Product): string | undefined {
    const open = p.activations.map((slot) => p.node.ins[slot] as ValueId).find((v) => !known(v));
    return open === undefined ? undefined : `calibration gave no finite range for '${g.values[open]?.name}'`;
  }
  const taken = (v: ValueId): boolean => (uses[v] ?? []).some((n) => n.ins.some((u, i) => u === v && takes.has(key(n, i))));
  /** The product that makes a value, perhaps with a constant added to it. */
  const madeBy = (v: ValueId | undefined): Product | undefined => {
    const p = v === undefined ? undefined : producers[v];
    if (p?.op !== "Add" || p.domain !== "") return p === undefined ? undefined : products.get(p.id);
    const [inner] = p.ins.filter((u) => u !== undefined && !g.constants.has(u));
    const q = inner === undefined ? undefined : producers[inner];
    return p.ins.some((u) => u !== undefined && g.constants.has(u)) && q !== undefined ? products.get(q.id) : undefined;
  };

  for (const node of g.nodes) {
    if (node.op !== "Add" || node.domain !== "") continue;
    const [a, b] = node.ins;
    if (!isFloat(a) || !isFloat(b) || a === b || g.constants.has(a) || g.constants.has(b)) continue;
    const sides = [a, b].map((v, slot) => ({ v, slot, made: madeBy(v), depth: depth[v] ?? 0 }));
    // The longer path is the block; the other operand is what skips it.
    const main = sides
      .filter((s) => s.made !== undefined && uses[s.v]?.length === 1 && !outputs.has(s.v))
      .sort((x, y) => y.depth - x.depth || x.slot - y.slot)[0];
    const rest = sides.find((s) => s !== main);
    if (main === undefined || rest === undefined) continue;
    const own = options.keepFloat?.(node);
    const wanted = taken(rest.v) || (rest.made !== undefined && !outputs.has(rest.v));
    const reason =
      own ??
      (!wanted
        ? "a residual that no other operator reads as int8 stays float: quantizing it alone saves nothing"
        : known(rest.v)
          ? undefined
          : "calibration gave no finite range for it");
    if (reason === undefined)
      takes.set(key(node, rest.slot), `the residual input of an Add behind ${main.made?.node.op}; the other is its sum, in float`);
    else refused.push({ value: rest.v, node, why: reason });
  }

  const full = (v: ValueId): boolean => {
    const readers = uses[v] ?? [];
    return (
      !outputs.has(v) &&
      readers.length > 0 &&
      readers.every(
        (n) => readsOf(n).length === n.ins.filter((u) => u !== undefined).length && n.ins.every((u, i) => u !== v || takes.has(key(n, i))),
      )
    );
  };
  for (let i = g.nodes.length - 1; i >= 0; i--) {
    const n = g.nodes[i] as Node;
    const outs = n.outs.filter((v) => v !== undefined);
    const pool = n.domain === "" && averages(n);
    const slots = pool ? [0] : passedSlots(n, g);
    if (slots === undefined || outs.length === 0 || !outs.every(full)) continue;
    const ins = slots.map((slot) => n.ins[slot]);
    if (!ins.every((v) => isFloat(v) && !g.constants.has(v) && known(v))) continue;
    if (options.keepFloat?.(n) !== undefined) continue;
    if (!pool && options.mayShare?.(n, ins as ValueId[], outs) === false) {
      for (const v of ins as ValueId[])
        refused.push({ value: v, node: n, why: `${n.op} stays float: its tensors' ranges are too far apart for one scale` });
      continue;
    }
    if (!pool) through.add(n.id);
    for (const slot of slots)
      takes.set(
        key(n, slot),
        pool ? `${n.op} is computed from int8 where its result is read as int8` : `${n.op} moves int8 and shares its scale`,
      );
  }
  return { products, takes, through, refused };
}

/** Means over windows that all have the same number of elements. */
const averages = (n: Node): boolean =>
  n.op === "GlobalAveragePool" ||
  (n.op === "AveragePool" &&
    (n.attrs["auto_pad"] === undefined || attr(n, "auto_pad") === "NOTSET" || attr(n, "auto_pad") === "VALID") &&
    !flagged(n, "ceil_mode") &&
    (flagged(n, "count_include_pad") || n.attrs["pads"]?.kind !== "ints" || n.attrs["pads"].value.every((p) => Number(p) === 0)));

/** Why nothing of a graph is a candidate, where no operand was refused. */
export function whyNone(g: Graph): string {
  const hidden = (n: Node): boolean =>
    bodiesOf(n).some(({ body }) => body.graph.nodes.some((inner) => inner.op in PRODUCTS || hidden(inner)));
  const elsewhere = g.nodes.find(hidden);
  return elsewhere === undefined
    ? "it has no Conv, ConvTranspose, Gemm or MatMul of float32"
    : `its products are in the body of ${nameOf(g, elsewhere)}, and what may not run, or run often, stays float`;
}

const PRODUCTS: Readonly<Record<string, true>> = { Conv: true, ConvTranspose: true, Gemm: true, MatMul: true };
interface Around {
  readonly producers: readonly (Node | undefined)[];
  readonly uses: readonly (readonly Node[])[];
}

/** The product a node is, or why it stays float. */
function productOf(g: Graph, n: Node, facts: (v: ValueId) => Fact, around: Around): Product | string {
  const [x, w, b] = n.ins;
  if (x === undefined || w === undefined) return "an operand is missing";
  for (const v of [x, w]) {
    const t = dtypeOf(facts(v));
    if (t !== "float32")
      return t === undefined ? "the type of an operand is not known" : `an operand is ${t}; float32 is what is quantized`;
  }
  const [constantX, constantW] = [g.constants.has(x), g.constants.has(w)];
  if (constantX && constantW) return "both operands are constants";
  if (constantX && n.op !== "MatMul" && n.op !== "Gemm") return "its input is a constant";
  const [xs, ws] = [shapeOf(facts(x)), shapeOf(facts(w))];
  if (xs === undefined || ws === undefined) return "the rank of an operand is not known; fix the model's input shapes";
  if (!constantX && !constantW && inAttention(n, around))
    return "a product inside attention: its softmax stays float, and engines fuse the three";
  const number = (d: number | string | undefined): number | undefined => (typeof d === "number" ? d : undefined);
  let axis: number | undefined;
  if (n.op === "Conv" || n.op === "ConvTranspose") {
    axis = n.op === "Conv" ? 0 : 1;
    const group = groupsOf(n);
    const [inputs, outs] = n.op === "Conv" ? [number(ws[1]), number(ws[0])] : [number(ws[0]), number(ws[1])];
    if (group === 1 && (inputs ?? FEW) < FEW && (outs ?? FEW) < FEW)
      return `${inputs} input and ${outs} output channels: fewer than ${FEW} fill no integer kernel`;
    const products = (n.op === "Conv" ? ws.slice(1) : [ws[0] ?? 1, ...ws.slice(2)]).reduce<number>((a, d) => a * (number(d) ?? 1), 1);
    if (products > MOST_PRODUCTS) return `sums of ${products} products may leave int32`;
  } else {
    if (xs.length < 1 || ws.length < 1) return "an operand is a scalar";
    if ((attr(n, "alpha") ?? 1) !== 1 || (attr(n, "beta") ?? 1) !== 1) return "alpha or beta is not 1";
    const [transA, transB] = [flagged(n, "transA"), flagged(n, "transB")];
    const k = number(xs.at(transA ? -2 : -1));
    const columns = ws.length === 1 ? 1 : number(ws.at(transB ? -2 : -1));
    // Behind a matrix that all batches share, the batches are rows.
    const rowDims = transA ? [xs.at(-1)] : ws.length <= 2 ? xs.slice(0, -1) : [xs.at(-2)];
    const rows =
      xs.length === 1
        ? 1
        : rowDims.every((d) => typeof d === "number")
          ? rowDims.reduce<number>((a, d) => a * (number(d) ?? 1), 1)
          : undefined;
    if (columns === 1 || rows === 1)
      return `a product with a vector (${rows ?? "?"} by ${columns ?? "?"}): reading it is the cost, not computing`;
    if ((k ?? FEW) < FEW || (columns ?? FEW) < FEW)
      return `${k ?? "?"} products in ${columns ?? "?"} columns: fewer than ${FEW} fill no integer kernel`;
    if ((k ?? 0) > MOST_PRODUCTS) return `sums of ${k} products may leave int32`;
    axis = ws.length === 2 ? (transB ? 0 : 1) : undefined;
  }
  const activations = [0, 1].filter((slot) => !(slot === 0 ? constantX : constantW));
  const weight = constantW ? { slot: 1, axis } : constantX ? { slot: 0, axis: undefined } : undefined;
  return { node: n, activations, weight, bias: b !== undefined && constantW && biasFits(g, b, n, ws, axis) ? 2 : undefined };
}

/** A bias of one element per output channel. */
function biasFits(g: Graph, b: ValueId, n: Node, w: readonly (number | string)[], axis: number | undefined): boolean {
  const c = g.constants.get(b);
  if (c?.dtype !== "float32" || axis === undefined) return false;
  const channels = Number(w[axis]) * (n.op === "ConvTranspose" ? groupsOf(n) : 1);
  return c.dims.at(-1) === channels && c.dims.every((d, i) => d === 1 || i === c.dims.length - 1);
}

/** Whether a softmax stands behind the product or in front of it, with scaling, masks and views between. */
function inAttention(n: Node, { producers, uses }: Around): boolean {
  const BETWEEN = new Set([
    "Mul",
    "Div",
    "Add",
    "Where",
    "Cast",
    "Transpose",
    "Reshape",
    "Dropout",
    "Identity",
    "Squeeze",
    "Unsqueeze",
    "Expand",
  ]);
  const up = (v: ValueId | undefined, left: number): boolean => {
    const p = v === undefined ? undefined : producers[v];
    if (p === undefined || left === 0) return false;
    return p.op === "Softmax" || (BETWEEN.has(p.op) && p.ins.some((u) => up(u, left - 1)));
  };
  const down = (v: ValueId | undefined, left: number): boolean =>
    v !== undefined && left > 0 && (uses[v] ?? []).some((u) => u.op === "Softmax" || (BETWEEN.has(u.op) && down(u.outs[0], left - 1)));
  return n.ins.some((v) => up(v, 6)) || down(n.outs[0], 6);
}

/** The name of a node for a reason. */
export const nameOf = (g: Graph, n: Node): string => `${n.op} '${displayName(g, n)}'`;
