/** Operators that rename, reorder or repeat elements without computing. */
import { exactQuotient, floorDiv, mul, product, sameDim, UNKNOWN } from "../ir/dims.js";
import type { Dim, Shape } from "../ir/types.js";
import { gpu, hostOnly } from "./answers.js";
import {
  defineOp,
  dtypeOf,
  type Fact,
  flag,
  int,
  MAX_ELEMENTS,
  type OnnxReading,
  optInt,
  optInts,
  optional,
  type RawNode,
  type Rewriter,
  shapeOf,
  tensor,
  word,
} from "./define.js";
import { gathered, known, nonZero as nonZeroOf, type Small, small, spread, transposed } from "./elements.js";
import { axesToInput } from "./pointwise.js";
import { aInt, aInts, aText, fed, ints64, random } from "./samples.js";
import { axesOf, broadcast, elementsFact, elementsOf, fact, free, moves, numbersOf, unknownDims } from "./shapes.js";

const sameScale = { passes: "same-scale" } as const;
/** A view keeps its elements in their order. */
const keepElements = (x: Fact, y: Fact): Fact => (x.elements === undefined && x.constant === undefined ? y : known(y, small(x)?.e));

export const identity = defineOp({
  name: "Identity",
  doc: "Its input.",
  reads: { onnx: [{ since: 1 }] },
  in: { x: tensor() },
  out: { y: tensor() },
  attrs: {},
  role: "view",
  infer: (at) => [at.in.x],
  cost: free,
  int8: sameScale,
  on: gpu(),
  *samples() {
    yield { name: "matrix", in: { x: random("float32", 2, 3) } };
  },
});

/** -1 takes what is left, 0 copies the input's dim (unless allowzero). */
function reshaped(x: Shape, wanted: readonly Dim[], allowZero: boolean): readonly Dim[] {
  const copied = wanted.map((d, i) => (d === 0 && !allowZero ? (x?.[i] ?? UNKNOWN) : d));
  const free_ = copied.indexOf(-1);
  if (free_ < 0) return copied;
  let rest: Dim = UNKNOWN;
  if (x !== undefined) {
    // Dims common to both sides cancel first, so that symbols that do not divide as polynomials still vanish.
    const left = [...x];
    const right = copied.filter((_, i) => i !== free_);
    for (let i = right.length - 1; i >= 0; i--) {
      const at = left.findIndex((d) => sameDim(d, right[i] ?? UNKNOWN) === true);
      if (at >= 0 && right[i] !== 0) {
        left.splice(at, 1);
        right.splice(i, 1);
      }
    }
    const [total, known] = [product(left), product(right)];
    rest =
      known === 0
        ? UNKNOWN
        : (exactQuotient(total, known) ?? (typeof total === "string" && typeof known !== "string" ? floorDiv(total, known) : UNKNOWN));
  }
  return copied.map((d, i) => (i === free_ ? rest : d));
}
const reshapeAttribute = (n: RawNode, to: Rewriter): void => {
  const shape = n.attrs["shape"];
  to.emit("Reshape", [n.ins[0], shape?.kind === "ints" ? to.int64(shape.value.map(Number)) : n.ins[1]], {}, n.outs);
};
export const reshape = defineOp({
  name: "Reshape",
  doc: "The same elements under other dims.",
  reads: { onnx: [{ since: 1, adapt: reshapeAttribute }, { since: 5 }] },
  in: { x: tensor("T"), shape: tensor("int64") },
  out: { y: tensor("T") },
  attrs: { allowzero: flag(false) },
  role: "view",
  infer: (at) => {
    const wanted = elementsOf(at.in.shape);
    const rank = shapeOf(at.in.shape)?.[0];
    if (wanted === undefined) return [fact(dtypeOf(at.in.x), typeof rank === "number" ? unknownDims(rank) : undefined)];
    const x = shapeOf(at.in.x);
    const s = reshaped(x, wanted, at.attrs.allowzero);
    if (x?.every((d) => typeof d === "number") && s.every((d) => typeof d === "number") && product(x) !== product(s))
      return at.fail(`dims [${x}] hold ${product(x)} elements, [${wanted}] asks for ${product(s)}`, "make the element counts equal");
    return [keepElements(at.in.x, fact(dtypeOf(at.in.x), s))];
  },
  cost: free,
  int8: sameScale,
  on: gpu(),
  *samples() {
    yield { name: "inferred", in: { x: random("float32", 2, 3, 4), shape: ints64(0, -1) } };
    yield { name: "zero allowed", in: { x: random("float32", 0, 3), shape: ints64(3, 0) }, attrs: { allowzero: aInt(1) } };
    yield { name: "to scalar", in: { x: random("float32", 1), shape: ints64() } };
  },
});
export const flatten = defineOp({
  name: "Flatten",
  doc: "Two dims: the product of those before `axis`, and of the rest.",
  reads: { onnx: [{ since: 1 }] },
  in: { x: tensor("T") },
  out: { y: tensor("T") },
  attrs: { axis: int(1) },
  role: "view",
  infer: (at) => {
    const x = shapeOf(at.in.x);
    if (x === undefined) return [fact(dtypeOf(at.in.x), [UNKNOWN, UNKNOWN])];
    const a = at.attrs.axis < 0 ? at.attrs.axis + x.length : at.attrs.axis;
    return [keepElements(at.in.x, fact(dtypeOf(at.in.x), [product(x.slice(0, a)), product(x.slice(a))]))];
  },
  cost: free,
  int8: sameScale,
  on: gpu(),
  *samples() {
    yield { name: "one", in: { x: random("float32", 2, 3, 4) } };
    yield { name: "negative", in: { x: random("float32", 2, 3, 4) }, attrs: { axis: aInt(-1) } };
    yield { name: "all", in: { x: random("float32", 2, 3) }, attrs: { axis: aInt(0) } };
  },
});
export const squeeze = defineOp({
  name: "Squeeze",
  doc: "Drops dims of 1: those of `axes`, or all.",
  reads: { onnx: [{ since: 1, adapt: axesToInput }, { since: 13 }] },
  in: { x: tensor("T"), axes: optional("int64") },
  out: { y: tensor("T") },
  attrs: {},
  role: "view",
  infer: (at) => {
    const x = shapeOf(at.in.x);
    if (x === undefined) return [fact(dtypeOf(at.in.x), undefined)];
    if (at.in.axes === undefined)
      return [
        x.every((d) => typeof d === "number")
          ? keepElements(
              at.in.x,
              fact(
                dtypeOf(at.in.x),
                x.filter((d) => d !== 1),
              ),
            )
          : fact(dtypeOf(at.in.x), undefined),
      ];
    const axes = numbersOf(at.in.axes);
    const all = axes === undefined ? undefined : axesOf(axes, x.length);
    return [
      all === undefined
        ? fact(dtypeOf(at.in.x), undefined)
        : keepElements(
            at.in.x,
            fact(
              dtypeOf(at.in.x),
              x.filter((_, i) => !all.includes(i)),
            ),
          ),
    ];
  },
  cost: free,
  int8: sameScale,
  on: gpu(),
  *samples() {
    yield { name: "one axis", in: { x: random("float32", 1, 3, 1), axes: ints64(-1) } };
    yield { name: "all", in: { x: random("float32", 1, 3, 1) } };
  },
});
export const unsqueeze = defineOp({
  name: "Unsqueeze",
  doc: "Inserts dims of 1 at `axes` of the result.",
  reads: { onnx: [{ since: 1, adapt: axesToInput }, { since: 13 }] },
  in: { x: tensor("T"), axes: tensor("int64") },
  out: { y: tensor("T") },
  attrs: {},
  role: "view",
  infer: (at) => {
    const x = shapeOf(at.in.x);
    const axes = numbersOf(at.in.axes);
    if (x === undefined || axes === undefined) return [fact(dtypeOf(at.in.x), undefined)];
    const rank = x.length + axes.length;
    const all = axesOf(axes, rank);
    if (all === undefined || new Set(all).size !== all.length)
      return at.fail(`axes [${axes}] are out of range or repeated for rank ${rank}`, "give each new axis once, within the result's rank");
    let next = 0;
    return [
      keepElements(
        at.in.x,
        fact(
          dtypeOf(at.in.x),
          Array.from({ length: rank }, (_, i) => (all.includes(i) ? 1 : (x[next++] ?? UNKNOWN))),
        ),
      ),
    ];
  },
  cost: free,
  int8: sameScale,
  on: gpu(),
  *samples() {
    yield { name: "two", in: { x: random("float32", 2, 3), axes: ints64(0, -1) } };
    yield { name: "scalar", in: { x: random("float32"), axes: ints64(0) } };
  },
});
export const transpose = defineOp({
  name: "Transpose",
  doc: "Reorders dims; reversed when no permutation is given.",
  reads: { onnx: [{ since: 1 }] },
  in: { x: tensor("T") },
  out: { y: tensor("T") },
  attrs: { perm: optInts() },
  role: "view",
  infer: (at) => {
    const x = shapeOf(at.in.x);
    const perm = at.attrs.perm;
    if (x === undefined) return [fact(dtypeOf(at.in.x), perm === undefined ? undefined : unknownDims(perm.length))];
    if (perm !== undefined && (perm.length !== x.length || new Set(axesOf(perm, x.length)).size !== x.length))
      return at.fail(`permutation [${perm}] is not one of ${x.length} dims`, "name each dim once");
    const y = fact(dtypeOf(at.in.x), perm === undefined ? [...x].reverse() : perm.map((p) => x[p < 0 ? p + x.length : p] ?? UNKNOWN));
    const order = perm?.map((p) => (p < 0 ? p + x.length : p)) ?? x.map((_, i) => x.length - 1 - i);
    return [known(y, transposed(small(at.in.x), order))];
  },
  cost: moves,
  int8: sameScale,
  on: gpu(),
  *samples() {
    yield { name: "reversed", in: { x: random("float32", 2, 3, 4) } };
    yield { name: "NHWC", in: { x: random("float32", 1, 3, 4, 5) }, attrs: { perm: aInts(0, 2, 3, 1) } };
  },
});
export const shape = defineOp({
  name: "Shape",
  doc: "Its input's dims, from `start` to `end`.",
  reads: { onnx: [{ since: 1 }] },
  in: { x: tensor() },
  out: { y: tensor("int64") },
  attrs: { start: int(0), end: optInt() },
  role: "shape",
  infer: (at) => {
    const x = shapeOf(at.in.x);
    return [x === undefined ? fact("int64", [UNKNOWN]) : elementsFact(sliceDims(x, at.attrs.start, at.attrs.end), 1)];
  },
  cost: free,
  int8: sameScale,
  on: gpu(),
  *samples() {
    yield { name: "all", in: { x: random("float32", 2, 3) } };
    yield { name: "part", in: { x: random("float32", 2, 3, 4) }, attrs: { start: aInt(-2), end: aInt(10) } };
  },
});
function sliceDims(x: readonly Dim[], start: number, end: number | undefined): readonly Dim[] {
  const clamp = (i: number): number => Math.max(0, Math.min(x.length, i < 0 ? i + x.length : i));
  return x.slice(clamp(start), end === undefined ? x.length : clamp(end));
}
export const size = defineOp({
  name: "Size",
  doc: "Number of its input's elements.",
  reads: { onnx: [{ since: 1 }] },
  in: { x: tensor() },
  out: { y: tensor("int64") },
  attrs: {},
  role: "shape",
  infer: (at) => {
    const x = shapeOf(at.in.x);
    return [x === undefined ? fact("int64", []) : elementsFact([product(x)], 0)];
  },
  cost: free,
  int8: sameScale,
  on: gpu(),
  *samples() {
    yield { name: "matrix", in: { x: random("float32", 2, 3) } };
  },
});
export const expand = defineOp({
  name: "Expand",
  doc: "Broadcasts to the given dims (and its own, by NumPy's rule).",
  reads: { onnx: [{ since: 8 }] },
  in: { x: tensor("T"), shape: tensor("int64") },
  out: { y: tensor("T") },
  attrs: {},
  role: "view",
  infer: (at) => {
    const wanted = elementsOf(at.in.shape);
    const rank = shapeOf(at.in.shape)?.[0];
    const x = shapeOf(at.in.x);
    if (wanted === undefined)
      return [fact(dtypeOf(at.in.x), typeof rank === "number" && x !== undefined ? unknownDims(Math.max(rank, x.length)) : undefined)];
    const s = broadcast(x, wanted);
    if (s === null)
      return at.fail(`dims [${x}] do not broadcast to [${wanted}]`, "make each pair of trailing dims equal, or one of them 1");
    const y = fact(dtypeOf(at.in.x), s);
    return [known(y, spread(small(at.in.x), s))];
  },
  cost: moves,
  int8: sameScale,
  on: gpu(),
  *samples() {
    yield { name: "up", in: { x: random("float32", 3, 1), shape: ints64(2, 1, 6) } };
    yield { name: "ones", in: { x: random("float32", 2, 3), shape: ints64(1, 1) } };
  },
});
/** Opset 1 repeated along one axis. */
const tile1 = (n: RawNode, to: Rewriter): void => void (n.ins.length === 2 ? to.emit("Tile", n.ins, {}, n.outs) : to.keep());
export const tile = defineOp({
  name: "Tile",
  doc: "Repeats its input along every axis.",
  reads: { onnx: [{ since: 1, adapt: tile1 }, { since: 6 }] as readonly OnnxReading[] },
  in: { x: tensor("T"), repeats: tensor("int64") },
  out: { y: tensor("T") },
  attrs: {},
  role: "compute",
  infer: (at) => {
    const x = shapeOf(at.in.x);
    const r = elementsOf(at.in.repeats);
    const y = fact(
      dtypeOf(at.in.x),
      r === undefined ? (x === undefined ? undefined : unknownDims(x.length)) : x?.map((d, i) => mul(d, r[i] ?? UNKNOWN)),
    );
    const e = small(at.in.x);
    if (e === undefined || r?.length !== e.dims.length || !r.every((k) => typeof k === "number")) return [y];
    // Repeating is gathering the same indices again, axis by axis.
    let all: Small | undefined = e;
    e.dims.forEach((d, axis) => {
      const times = (r[axis] as number) * d;
      const indices = { dims: [times], e: Array.from({ length: Math.min(times, MAX_ELEMENTS + 1) }, (_, k) => k % d) };
      const next = gathered(all, indices, axis);
      all = next === undefined || all === undefined ? undefined : { dims: all.dims.map((n, i) => (i === axis ? times : n)), e: next };
    });
    return [known(y, all?.e)];
  },
  cost: moves,
  int8: sameScale,
  on: gpu(),
  *samples() {
    yield { name: "both", in: { x: random("float32", 2, 3), repeats: ints64(2, 3) } };
    yield { name: "none", in: { x: random("float32", 2), repeats: ints64(0) } };
  },
});
const blocks = <const N extends string>(name: N, doc: string, back: boolean) =>
  defineOp({
    name,
    doc,
    reads: { onnx: [{ since: 1 }] },
    in: { x: tensor("T") },
    out: { y: tensor("T") },
    attrs: { blocksize: int(), mode: word("DCR", "DCR", "CRD") },
    role: "compute",
    infer: (at) => {
      const x = shapeOf(at.in.x);
      const b = at.attrs.blocksize;
      if (x?.length !== 4 || b <= 0) return [fact(dtypeOf(at.in.x), unknownDims(4))];
      const [n, c, h, w] = x as readonly [Dim, Dim, Dim, Dim];
      return [
        fact(dtypeOf(at.in.x), back ? [n, mul(c, b * b), floorDiv(h, b), floorDiv(w, b)] : [n, floorDiv(c, b * b), mul(h, b), mul(w, b)]),
      ];
    },
    cost: moves,
    int8: sameScale,
    on: gpu(),
    *samples() {
      yield { name: "2", in: { x: random("float32", 1, 8, 4, 6) }, attrs: { blocksize: aInt(2) } };
      if (!back) yield { name: "CRD", in: { x: random("float32", 1, 8, 2, 3) }, attrs: { blocksize: aInt(2), mode: aText("CRD") } };
    },
  });
export const depthToSpace = blocks("DepthToSpace", "Moves blocks of channels into space.", false);
export const spaceToDepth = blocks("SpaceToDepth", "Moves blocks of space into channels.", true);

export const nonZero = defineOp({
  name: "NonZero",
  doc: "Indices of the elements that are not zero, [rank, count].",
  reads: { onnx: [{ since: 9 }] },
  in: { x: tensor() },
  out: { y: tensor("int64") },
  attrs: {},
  role: "compute",
  infer: (at) => {
    const found = nonZeroOf(small(at.in.x));
    if (found !== undefined) return [known(fact("int64", found.dims), found.e)];
    const x = shapeOf(at.in.x);
    return [fact("int64", [x === undefined ? UNKNOWN : Math.max(1, x.length), UNKNOWN])];
  },
  cost: moves,
  int8: sameScale,
  on: hostOnly("its output's size depends on the data"),
  *samples() {
    yield { name: "matrix", in: { x: fed("float32", [2, 2], [1, 0, 0, 3]) } };
  },
});
