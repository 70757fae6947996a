/** Cutting tensors apart and putting them together: slices with every mask, splits, packs, reversals, rotations. */
import { isStatic } from "../../ir/dims.js";
import { defineTfOp, type TfBuilder, type TfNode, type Val } from "./define.js";
import { bounded, fromFront, upTo } from "./helpers.js";
import { plainType } from "./kernels.js";

/** Beyond every dimension; ONNX takes it for the end (with a negative step the other way round). */
const END = Number.MAX_SAFE_INTEGER;
const START = Number.MIN_SAFE_INTEGER;
/** Results of one node. */
const MOST = 65_536;

/** One place of begin, end or strides: a number where it is known, else where to find it. */
type Place = number | Val;
function place(b: TfBuilder, of: Val, i: number): Place {
  const known = of.numbers?.[i] ?? of.fact.elements?.[i];
  if (typeof known === "number") return known;
  return b.cast(b.op("Slice", [of, b.int64([i]), b.int64([i + 1])]), "int64");
}
/** Places as one vector: a constant when all are known. */
function joined(b: TfBuilder, places: readonly Place[]): Val {
  const known = places.filter((p): p is number => typeof p === "number");
  if (known.length === places.length) return b.int64(known);
  return b.concat(
    places.map((p) => (typeof p === "number" ? b.int64([p]) : p)),
    0,
  );
}

/** What a strided slice does along one dimension of its operand. */
interface Cut {
  readonly axis: number;
  readonly begin: Place;
  readonly end: Place;
  readonly step: number;
}
/** The whole of NumPy's basic indexing: bit i of a mask speaks of place i of the specification. */
export const stridedSlice = defineTfOp({
  name: "StridedSlice",
  to: ["Slice", "Squeeze", "Unsqueeze", "Gather", "Concat", "Where", "Less", "Add"],
  lower: (n, b) => stridedSliceOf(n, b, n.in(0)),
});
function stridedSliceOf(n: TfNode, b: TfBuilder, x: Val): Val {
  const [begin, end, strides] = [n.in(1), n.in(2), n.in(3)];
  const length = [begin, end, strides].map((v) => v.shape?.[0]).find((d) => d !== undefined && isStatic(d));
  if (typeof length !== "number") return n.refuse("how many dimensions it slices is not known", "give the graph's inputs shapes");
  const set = (mask: string, i: number): boolean => ((n.int(mask, 0) >>> i) & 1) === 1;
  const cuts: Cut[] = [];
  const shrunk: number[] = [];
  const picked: { readonly axis: number; readonly at: Val }[] = [];
  /** The result's dims in order: `new` ones of size 1, `gone` ones, kept ones. */
  const layout: ("kept" | "new" | "gone")[] = [];
  let axis = 0;
  for (let i = 0; i < length; i++) {
    if (set("ellipsis_mask", i)) {
      const later = upTo(length).filter((j) => j > i && !set("new_axis_mask", j)).length;
      const skip = later === 0 ? 0 : b.rank(x) - later - axis;
      if (later === 0 && upTo(length).some((j) => j > i)) {
        // Only new dimensions follow: they come last.
        const rest = b.rank(x) - axis;
        for (let k = 0; k < rest; k++) layout.push("kept");
        axis += rest;
        continue;
      }
      for (let k = 0; k < skip; k++) layout.push("kept");
      axis += skip;
      continue;
    }
    if (set("new_axis_mask", i)) {
      layout.push("new");
      continue;
    }
    const step = place(b, strides, i);
    if (typeof step !== "number") return n.refuse("its strides are not known at compile time", "make them a constant");
    const from = place(b, begin, i);
    if (set("shrink_axis_mask", i)) {
      layout.push("gone");
      if (typeof from === "number") {
        cuts.push({ axis, begin: from, end: from === -1 ? END : from + 1, step: 1 });
        shrunk.push(axis);
      } else picked.push({ axis, at: from });
      axis++;
      continue;
    }
    layout.push("kept");
    const whole = set("begin_mask", i) && set("end_mask", i) && step === 1;
    if (!whole) {
      const begins = set("begin_mask", i) ? (step > 0 ? 0 : END) : from;
      const ends = set("end_mask", i) ? (step > 0 ? END : START) : place(b, end, i);
      cuts.push({ axis, begin: begins, end: step < 0 ? backwardEnd(b, x, axis, begins, ends) : ends, step });
    }
    axis++;
  }
  let y = x;
  const real = cuts.filter((c) => !(c.begin === 0 && c.end === x.shape?.[c.axis] && c.step === 1));
  if (real.length > 0)
    y = b.op("Slice", [
      y,
      joined(
        b,
        real.map((c) => c.begin),
      ),
      joined(
        b,
        real.map((c) => c.end),
      ),
      b.int64(real.map((c) => c.axis)),
      real.every((c) => c.step === 1) ? undefined : b.int64(real.map((c) => c.step)),
    ]);
  // From the last axis on, so that the numbers of those before stay right. A position of rank 1 keeps the dimension, as 1.
  for (const p of [...picked].reverse()) y = b.gather(y, p.at, p.axis);
  y = b.squeeze(
    y,
    [...shrunk, ...picked.map((p) => p.axis)].sort((p, q) => p - q),
  );
  const present = layout.filter((l) => l !== "gone");
  return b.unsqueeze(
    y,
    present.flatMap((l, i) => (l === "new" ? [i] : [])),
  );
}

/** Backwards from a place before the first element there is nothing; ONNX begins with the first one then, unless the end lies behind it. */
function backwardEnd(b: TfBuilder, x: Val, axis: number, begin: Place, end: Place): Place {
  if (typeof begin === "number" && begin >= -1) return end;
  const dim = x.shape?.[axis];
  if (typeof begin === "number" && typeof dim === "number") return begin + dim < 0 ? END : end;
  const from = typeof begin === "number" ? b.int64([begin]) : begin;
  const before = b.op("Less", [b.add(from, b.dim(x, axis)), b.int64([0])]);
  return b.where(before, b.int64([END]), typeof end === "number" ? b.int64([end]) : end);
}

export const slice = defineTfOp({
  name: "Slice",
  to: ["Slice", "Add", "Where", "Equal"],
  lower: (n, b) => {
    const [x, begin, size] = [n.in(0), n.in(1), n.in(2)];
    const rank = [begin, size].map((v) => v.shape?.[0]).find((d) => typeof d === "number") ?? x.rank;
    if (typeof rank !== "number") return n.refuse("the rank of its operand is not known", "give the graph's inputs shapes");
    const starts: Place[] = [];
    const ends: Place[] = [];
    for (const i of upTo(rank)) {
      const [s, d] = [place(b, begin, i), place(b, size, i)];
      starts.push(s);
      if (d === -1) ends.push(END);
      else if (typeof s === "number" && typeof d === "number") ends.push(s + d);
      else {
        const [sv, dv] = [typeof s === "number" ? b.int64([s]) : s, typeof d === "number" ? b.int64([d]) : d];
        const sum = b.add(sv, dv);
        ends.push(typeof d === "number" ? sum : b.where(b.op("Equal", [dv, b.int64([-1])]), b.int64([END]), sum));
      }
    }
    const real = upTo(rank).filter((i) => !(starts[i] === 0 && (ends[i] === END || ends[i] === x.shape?.[i])));
    if (real.length === 0) return x;
    const pick = (places: readonly Place[]): Val =>
      joined(
        b,
        real.map((i) => places[i] ?? 0),
      );
    return b.op("Slice", [x, pick(starts), pick(ends), b.int64(real)]);
  },
});

export const concat = defineTfOp({
  name: "ConcatV2",
  to: ["Concat"],
  lower: (n, b) => b.concat(n.list(0, -1), b.number(n.in(-1), "the axis")),
});
export const concatV1 = defineTfOp({
  name: "Concat",
  to: ["Concat"],
  lower: (n, b) => b.concat(n.list(1), b.number(n.in(0), "the axis")),
});
export const parallelConcat = defineTfOp({ name: "ParallelConcat", to: ["Concat"], lower: (n, b) => b.concat(n.list(0), 0) });
export const pack = defineTfOp({
  name: "Pack",
  to: ["Unsqueeze", "Concat"],
  lower: (n, b) => {
    const axis = n.int("axis", 0);
    return b.concat(
      n.list(0).map((x) => b.unsqueeze(x, [axis])),
      axis,
    );
  },
});
export const unpack = defineTfOp({
  name: "Unpack",
  to: ["Split", "Squeeze"],
  lower: (n, b) => {
    const [x, count, axis] = [n.in(0), bounded(n, n.int("num"), MOST, "the number of its results"), n.int("axis", 0)];
    if (count === 0) return [];
    return parts(b, x, new Array<number>(count).fill(1), axis).map((p) => b.squeeze(p, [axis]));
  },
});
function parts(b: TfBuilder, x: Val, sizes: readonly number[], axis: number): readonly Val[] {
  return sizes.length === 1 ? [x] : b.ops("Split", [x, b.int64(sizes)], { axis }, sizes.length);
}
export const split = defineTfOp({
  name: "Split",
  to: ["Split"],
  lower: (n, b) => {
    const [axis, x] = [b.number(n.in(0), "the axis"), n.in(1)];
    const count = bounded(n, n.int("num_split"), MOST, "the number of its results");
    const dim = x.shape?.[axis < 0 ? axis + (x.rank ?? 0) : axis];
    if (count === 1) return [x];
    if (typeof dim === "number") return parts(b, x, new Array<number>(count).fill(Math.floor(dim / count)), axis);
    return b.ops("Split", [x], { axis, num_outputs: count }, count);
  },
});
export const splitV = defineTfOp({
  name: "SplitV",
  to: ["Split", "Where", "Equal", "Sub", "ReduceSum"],
  lower: (n, b) => {
    const [x, sizes, axis] = [n.in(0), n.in(1), b.number(n.in(2), "the axis")];
    const count = bounded(n, n.int("num_split"), MOST, "the number of its results");
    const known = sizes.numbers;
    if (count === 1) return [x];
    if (known !== undefined && !known.includes(-1)) return parts(b, x, known, axis);
    const total = x.shape?.[axis < 0 ? axis + (x.rank ?? 0) : axis];
    if (known !== undefined && typeof total === "number") {
      const rest = total - known.reduce((sum, d) => (d === -1 ? sum : sum + d), 0);
      return parts(
        b,
        x,
        known.map((d) => (d === -1 ? rest : d)),
        axis,
      );
    }
    const s = b.cast(sizes, "int64");
    const free = b.op("Equal", [s, b.int64(-1)]);
    const given = b.op("ReduceSum", [b.where(free, b.int64(0), s)], { keepdims: false });
    return b.ops("Split", [x, b.where(free, b.sub(b.dim(x, axis), given), s)], { axis }, count);
  },
});

function reversed(b: TfBuilder, x: Val, axes: readonly number[]): Val {
  if (axes.length === 0) return x;
  const all = (v: number): readonly number[] => new Array<number>(axes.length).fill(v);
  return b.slice(x, all(-1), all(START), axes, all(-1));
}
export const reverseV2 = defineTfOp({
  name: "ReverseV2",
  to: ["Slice"],
  lower: (n, b) => reversed(b, n.in(0), b.numbers(n.in(1), "the list of axes")),
});
export const reverse = defineTfOp({
  name: "Reverse",
  to: ["Slice"],
  lower: (n, b) =>
    reversed(
      b,
      n.in(0),
      b.numbers(n.in(1), "the list of axes").flatMap((on, i) => (on === 0 ? [] : [i])),
    ),
});
export const reverseSequence = defineTfOp({
  name: "ReverseSequence",
  to: ["ReverseSequence", "Transpose"],
  lower: (n, b) => {
    const x = n.in(0);
    const rank = b.rank(x);
    const [time, batch] = [n.int("seq_dim"), n.int("batch_dim", 0)];
    // ONNX takes the first two dims alone.
    const perm = [time, batch, ...upTo(rank).filter((i) => i !== time && i !== batch)];
    const back = upTo(rank).map((i) => perm.indexOf(i));
    const y = b.transpose(x, perm);
    const carried = y.dtype === "bfloat16" ? b.cast(y, "float32") : y;
    const turned = b.op("ReverseSequence", [carried, b.cast(n.in(1), "int64")], { batch_axis: 1, time_axis: 0 });
    return b.transpose(b.cast(turned, plainOrString(n, x)), back);
  },
});
const plainOrString = (n: TfNode, x: Val): Val["dtype"] => (x.dtype === "string" ? "string" : plainType(n, x.dtype));

/** Element i comes from i - shift, counted round. Several shifts of one axis add up. */
export const roll = defineTfOp({
  name: "Roll",
  to: ["Gather", "Mod", "Range", "Sub", "ReduceSum", "Slice", "Concat"],
  lower: (n, b) => {
    const [x, shift] = [n.in(0), n.in(1)];
    const axes = fromFront(b.numbers(n.in(2), "the list of axes"), b.rank(x));
    const shifts = shift.numbers;
    let y = x;
    for (const axis of new Set(axes)) {
      const places = axes.flatMap((a, i) => (a === axis ? [i] : []));
      const dim = x.shape?.[axis];
      if (dim === 0) continue;
      if (shifts !== undefined && typeof dim === "number") {
        const by = places.reduce((sum, i) => sum + (shifts[i] ?? 0), 0);
        const from = (((-by % dim) + dim) % dim) + 0;
        if (from === 0) continue;
        y = b.concat([b.slice(y, [from], [END], [axis]), b.slice(y, [0], [from], [axis])], axis);
        continue;
      }
      const flat = b.reshape(b.cast(shift, "int64"), [-1]);
      const by = b.op("ReduceSum", [b.gather(flat, b.int64(places))], { keepdims: false });
      const length = b.dim(y, axis);
      const at = b.sub(b.op("Range", [b.int64(0), length, b.int64(1)]), by);
      y = b.gather(y, b.op("Mod", [at, length]), axis);
    }
    return y;
  },
});
