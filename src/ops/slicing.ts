/** Slices, splits, pads, joins. */
import { no, yes } from "../diagnostics.js";
import { add, ceilDiv, isStatic, isUnknown, max, min, sub, UNKNOWN } from "../ir/dims.js";
import { makeConstant } from "../ir/payload.js";
import type { Dim } from "../ir/types.js";
import { all, constantInputs, gpu, hostOnly, on, when } from "./answers.js";
import {
  absent,
  defineOp,
  dtypeOf,
  type Fact,
  flag,
  int,
  optInt,
  optInts,
  optional,
  type RawNode,
  type Rewriter,
  shapeOf,
  tensor,
  variadic,
  word,
} from "./define.js";
import { joined, known, partly, small, strided } from "./elements.js";
import { aInt, aText, fed, given, ints64, random } from "./samples.js";
import { axisOf, elementsOf, fact, moves, numbersOf, unknownDims } from "./shapes.js";

const sameScale = { passes: "same-scale" } as const;

function oldSlice(n: RawNode, to: Rewriter): void {
  const list = (key: string): readonly number[] | undefined => {
    const a = n.attrs[key];
    return a?.kind === "ints" ? a.value.map(Number) : undefined;
  };
  const [starts, ends, axes] = [list("starts") ?? [], list("ends") ?? [], list("axes")];
  to.emit("Slice", [n.ins[0], to.int64(starts), to.int64(ends), ...(axes === undefined ? [] : [to.int64(axes)])], {}, n.outs);
}
/** Length of x[start:end:step] with NumPy's clamping. */
function sliced(d: Dim, start: Dim, end: Dim, step: number): Dim {
  if (isStatic(d) && isStatic(start) && isStatic(end)) {
    const low = step > 0 ? 0 : -1;
    const high = step > 0 ? d : d - 1;
    const clamp = (i: number): number => Math.max(low, Math.min(high, i < 0 ? i + d : i));
    // Unlike NumPy, ONNX walks backwards from the first element where the start lies before it.
    const s = Math.max(Math.min(0, high), clamp(start));
    // A very negative end walks past the first element; -1 itself means the last one.
    const e = step < 0 && end < -d ? -1 : clamp(end);
    return Math.max(0, Math.ceil((e - s) / step));
  }
  const open = isStatic(end) && end >= 2 ** 31 - 1;
  if (step === 1) {
    if (isStatic(start) && start < 0) return open ? min(-start, d) : UNKNOWN;
    // Of a symbolic index the sign must be certain: a negative one counts from the end.
    if (max(start, 0) !== start) return UNKNOWN;
    if (isStatic(end) && end < 0) return max(sub(d, isStatic(start) ? start - end : add(start, -end)), 0);
    if (!open && max(end, 0) !== end) return UNKNOWN;
    const until = open ? d : min(d, end);
    return start === 0 ? until : max(sub(until, start), 0);
  }
  if (step === -1 && start === -1 && isStatic(end) && end <= -(2 ** 31 - 1)) return d;
  return step > 1 && start === 0 && open ? ceilDiv(d, step) : UNKNOWN;
}
export const slice = defineOp({
  name: "Slice",
  doc: "x[start:end:step] along axes, with NumPy's clamping of indices.",
  reads: { onnx: [{ since: 1, adapt: oldSlice }, { since: 10 }] },
  in: { x: tensor("T"), starts: tensor("I"), ends: tensor("I"), axes: optional("I"), steps: optional("I") },
  out: { y: tensor("T") },
  attrs: {},
  role: "view",
  infer: (at) => {
    const x = shapeOf(at.in.x);
    const dtype = dtypeOf(at.in.x);
    if (x === undefined) return [fact(dtype, undefined)];
    const [starts, ends] = [elementsOf(at.in.starts), elementsOf(at.in.ends)];
    const n = starts?.length ?? ends?.length ?? (shapeOf(at.in.starts)?.[0] as number | undefined);
    const axes =
      at.in.axes === undefined
        ? typeof n === "number" && n <= x.length
          ? Array.from({ length: n }, (_, i) => i)
          : undefined
        : numbersOf(at.in.axes);
    const steps = at.in.steps === undefined ? axes?.map(() => 1) : numbersOf(at.in.steps);
    if (axes === undefined) return [fact(dtype, unknownDims(x.length))];
    const out: Dim[] = [...x];
    for (const [i, axis] of axes.entries()) {
      const a = axisOf(axis, x.length);
      if (a === undefined) return at.fail(`axis ${axis} is out of range for rank ${x.length}`, "name an axis of the input");
      const step = steps?.[i];
      if (step === 0) return at.fail("a step is 0", "use a step other than 0");
      out[a] = step === undefined ? UNKNOWN : sliced(x[a] ?? UNKNOWN, starts?.[i] ?? UNKNOWN, ends?.[i] ?? UNKNOWN, step);
    }
    const y = fact(dtype, out);
    let part = small(at.in.x);
    if (part === undefined) return [y];
    for (const [i, axis] of axes.entries()) {
      const a = axisOf(axis, x.length) ?? 0;
      const [from, length, step, d] = [starts?.[i], out[a], steps?.[i], x[a]];
      if (typeof from !== "number" || typeof length !== "number" || typeof d !== "number" || step === undefined) return [y];
      const first = Math.max(0, Math.min(step > 0 ? d : d - 1, from < 0 ? from + d : from));
      part = strided(part, a, first, step, length);
    }
    return [known(y, part?.e)];
  },
  cost: moves,
  int8: sameScale,
  on: gpu(constantInputs("starts", "ends", "axes", "steps")),
  *samples() {
    yield {
      name: "two axes",
      in: { x: random("float32", 4, 6), starts: ints64(1, -4), ends: ints64(3, 1000), axes: ints64(0, 1), steps: ints64(1, 2) },
    };
    yield {
      name: "backwards",
      in: { x: random("float32", 5), starts: ints64(-1), ends: ints64(-1000), axes: ints64(0), steps: ints64(-2) },
    };
    yield {
      name: "backwards from before the first",
      in: { x: random("float32", 5), starts: ints64(-9), ends: ints64(-9), axes: ints64(0), steps: ints64(-1) },
    };
    yield { name: "empty", in: { x: random("float32", 5), starts: ints64(3), ends: ints64(1) } };
  },
});

function oldSplit(n: RawNode, to: Rewriter): void {
  const { split, ...rest } = n.attrs;
  const sizes = split?.kind === "ints" ? to.int64(split.value.map(Number)) : n.ins[1];
  to.emit(
    "Split",
    sizes === undefined ? [n.ins[0]] : [n.ins[0], sizes],
    sizes === undefined ? { ...rest, num_outputs: { kind: "int", value: n.outs.length } } : rest,
    n.outs,
  );
}
export const split = defineOp({
  name: "Split",
  doc: "Cuts along an axis into parts of the sizes given, or into equal parts (the last one smaller).",
  reads: { onnx: [{ since: 1, adapt: oldSplit }, { since: 18 }] },
  in: { x: tensor("T"), split: optional("int64") },
  out: { ys: variadic("T") },
  attrs: { axis: int(0), num_outputs: optInt() },
  role: "view",
  infer: (at) => {
    const x = shapeOf(at.in.x);
    const dtype = dtypeOf(at.in.x);
    const axis = x === undefined ? undefined : axisOf(at.attrs.axis, x.length);
    if (x === undefined || axis === undefined) return Array.from({ length: at.outs }, () => fact(dtype, undefined));
    const d = x[axis] ?? UNKNOWN;
    const sizes = elementsOf(at.in.split);
    const all = small(at.in.x);
    let start = 0;
    return Array.from({ length: at.outs }, (_, i): Fact => {
      let part: Dim = UNKNOWN;
      if (at.in.split !== undefined) part = sizes?.[i] ?? UNKNOWN;
      else {
        const each = ceilDiv(d, at.attrs.num_outputs ?? at.outs);
        part =
          isStatic(d) && isStatic(each)
            ? Math.max(0, Math.min(each, d - each * i))
            : at.outs === 1
              ? d
              : i < at.outs - 1 || !String(each).startsWith("ceildiv")
                ? each
                : UNKNOWN;
      }
      const y = fact(
        dtype,
        x.map((v, k) => (k === axis ? part : v)),
      );
      if (typeof part !== "number") return y;
      start += part;
      return known(y, strided(all, axis, start - part, 1, part)?.e);
    });
  },
  cost: moves,
  int8: sameScale,
  on: gpu(constantInputs("split")),
  *samples() {
    yield { name: "sizes", in: { x: random("float32", 2, 6), split: ints64(1, 2, 3) }, attrs: { axis: aInt(1) }, outs: 3 };
    yield { name: "uneven", in: { x: random("float32", 7) }, attrs: { num_outputs: aInt(3) }, outs: 3 };
  },
});

/** Of two dims that have to be equal, the one that says so in fewer words. */
const simpler = (a: Dim, b: Dim): Dim => (isUnknown(a) || (!isStatic(a) && !isUnknown(b) && `${b}`.length < a.length) ? b : a);
export const concat = defineOp({
  name: "Concat",
  doc: "Joins its inputs along an axis.",
  reads: {
    onnx: [
      { since: 1, adapt: (n, to) => void to.emit("Concat", n.ins, { axis: n.attrs["axis"] ?? { kind: "int", value: 1 } }, n.outs) },
      { since: 4 },
    ],
  },
  in: { xs: variadic("T") },
  out: { y: tensor("T") },
  attrs: { axis: int() },
  role: "compute",
  infer: (at) => {
    const dtype = dtypeOf(at.in.xs[0]);
    const shapes = at.in.xs.map((x) => shapeOf(x));
    const first = shapes.find((s) => s !== undefined);
    if (first === undefined) return [fact(dtype, undefined)];
    const axis = axisOf(at.attrs.axis, first.length);
    if (axis === undefined) return at.fail(`axis ${at.attrs.axis} is out of range for rank ${first.length}`, "name an axis of the inputs");
    const out: Dim[] = first.map((d, i) => (i === axis ? 0 : d));
    for (const s of shapes) {
      if (s !== undefined && s.length !== first.length)
        return at.fail(`inputs of ranks ${first.length} and ${s.length}`, "give all inputs one rank");
      for (let i = 0; i < out.length; i++) {
        const d = s?.[i] ?? UNKNOWN;
        if (i === axis) out[i] = add(out[i] ?? 0, d);
        else if (isStatic(d)) {
          const was = out[i] ?? UNKNOWN;
          if (isStatic(was) && was !== d)
            return at.fail(`inputs differ in dim ${i}: ${was} and ${d}`, "make all dims but the joined one equal");
          out[i] = d;
        } else out[i] = simpler(out[i] ?? UNKNOWN, d);
      }
    }
    const y = fact(dtype, out);
    if (at.in.xs.every((x) => x?.elements === undefined && x?.constant === undefined)) return [y];
    return [known(y, joined(at.in.xs.map(partly), axis))];
  },
  cost: moves,
  int8: sameScale,
  on: gpu(),
  *samples() {
    yield { name: "channels", in: { xs: [random("float32", 1, 2, 3), random("float32", 1, 4, 3)] }, attrs: { axis: aInt(1) } };
    yield {
      name: "with empty",
      in: { xs: [random("float32", 0, 3), random("float32", 2, 3), random("float32", 1, 3)] },
      attrs: { axis: aInt(-2) },
    };
  },
});

function oldPad(n: RawNode, to: Rewriter): void {
  const pads = n.attrs["pads"] ?? n.attrs["paddings"];
  const value = n.attrs["value"];
  const t = to.typeOf(n.ins[0]);
  const dtype = t.kind === "tensor" && (t.dtype === "float64" || t.dtype === "float16") ? t.dtype : "float32";
  const fill = value?.kind === "float" && value.value !== 0 ? [to.constant(makeConstant(dtype, [], [value.value]))] : [];
  const mode = n.attrs["mode"];
  to.emit(
    "Pad",
    [n.ins[0], to.int64(pads?.kind === "ints" ? pads.value.map(Number) : []), ...fill],
    mode === undefined ? {} : { mode },
    n.outs,
  );
}
/** ONNX Runtime repeats what cropping leaves. */
const uncropped = when("mode wrap without cropping", (at) =>
  at.attrs["mode"] === "wrap" && elementsOf(at.in["pads"] as Fact | undefined)?.some((p) => typeof p !== "number" || p < 0) === true
    ? no("repeating what cropping leaves has no kernel", "write it as Slice and Pad")
    : yes,
);
export const pad = defineOp({
  name: "Pad",
  doc: "Adds (or with negative counts removes) elements at the begin and end of axes.",
  reads: { onnx: [{ since: 1, adapt: oldPad }, { since: 11 }] },
  in: { x: tensor("T"), pads: tensor("int64"), value: optional("T"), axes: optional() },
  out: { y: tensor("T") },
  attrs: { mode: word("constant", "constant", "reflect", "edge", "wrap") },
  role: "compute",
  infer: (at) => {
    const x = shapeOf(at.in.x);
    if (x === undefined) return [fact(dtypeOf(at.in.x), undefined)];
    const pads = elementsOf(at.in.pads);
    const axes = at.in.axes === undefined ? x.map((_, i) => i) : numbersOf(at.in.axes);
    if (pads === undefined || axes === undefined) return [fact(dtypeOf(at.in.x), unknownDims(x.length))];
    const out: Dim[] = [...x];
    for (const [i, axis] of axes.entries()) {
      const a = axisOf(axis, x.length);
      if (a !== undefined) out[a] = add(add(x[a] ?? UNKNOWN, pads[i] ?? UNKNOWN), pads[i + axes.length] ?? UNKNOWN);
    }
    return [fact(dtypeOf(at.in.x), out)];
  },
  cost: moves,
  int8: absent("its fill value needs the scale of its input"),
  on: on(all(constantInputs("pads", "axes"), uncropped), constantInputs("pads", "axes")),
  *samples() {
    yield { name: "constant", in: { x: random("float32", 2, 3), pads: ints64(1, 0, 0, 2), value: given("float32", [], [1.5]) } };
    yield { name: "reflect", in: { x: random("float32", 1, 5), pads: ints64(0, 2, 0, 3) }, attrs: { mode: aText("reflect") } };
    yield {
      name: "edge, one axis",
      in: { x: random("float32", 2, 3), pads: ints64(1, 2), axes: ints64(-1), value: undefined },
      attrs: { mode: aText("edge") },
    };
    yield { name: "cropping", in: { x: random("float32", 4, 4), pads: ints64(-1, 0, 0, -2) } };
  },
});
export const trilu = defineOp({
  name: "Trilu",
  doc: "Upper or lower triangle of the last two dims, zeros elsewhere.",
  reads: { onnx: [{ since: 14 }] },
  in: { x: tensor("T"), k: optional("int64") },
  out: { y: tensor("T") },
  attrs: { upper: flag(true) },
  role: "compute",
  infer: (at) => [fact(dtypeOf(at.in.x), shapeOf(at.in.x))],
  cost: moves,
  int8: sameScale,
  on: gpu(constantInputs("k")),
  *samples() {
    yield { name: "upper", in: { x: random("float32", 3, 4) } };
    yield { name: "lower, shifted", in: { x: random("float32", 2, 3, 3), k: given("int64", [], [1]) }, attrs: { upper: aInt(0) } };
  },
});
export const centerCropPad = defineOp({
  name: "CenterCropPad",
  doc: "Crops or pads around the centre to a size.",
  reads: { onnx: [{ since: 18 }] },
  in: { x: tensor("T"), shape: tensor("I") },
  out: { y: tensor("T") },
  attrs: { axes: optInts() },
  role: "compute",
  infer: (at) => {
    const x = shapeOf(at.in.x);
    const wanted = elementsOf(at.in.shape);
    if (x === undefined || wanted === undefined) return [fact(dtypeOf(at.in.x), x === undefined ? undefined : unknownDims(x.length))];
    const axes = at.attrs.axes ?? x.map((_, i) => i);
    const out: Dim[] = [...x];
    axes.forEach((a, i) => {
      const k = axisOf(a, x.length);
      if (k !== undefined) out[k] = wanted[i] ?? UNKNOWN;
    });
    return [fact(dtypeOf(at.in.x), out)];
  },
  cost: moves,
  int8: sameScale,
  on: hostOnly("it is a Pad and a Slice to engines", "write it as Slice and Pad"),
  *samples() {
    yield { name: "crop and pad", in: { x: random("float32", 5, 4), shape: ints64(3, 6) } };
  },
});
export const reverseSequence = defineOp({
  name: "ReverseSequence",
  doc: "Reverses the first elements of each sequence of a batch.",
  reads: { onnx: [{ since: 10 }] },
  in: { x: tensor("T"), lengths: tensor("int64") },
  out: { y: tensor("T") },
  attrs: { batch_axis: int(1), time_axis: int(0) },
  role: "compute",
  infer: (at) => [fact(dtypeOf(at.in.x), shapeOf(at.in.x))],
  cost: moves,
  int8: sameScale,
  on: gpu(),
  *samples() {
    yield { name: "time first", in: { x: random("float32", 4, 3), lengths: fed("int64", [3], [4, 2, 1]) } };
  },
});
export const compress = defineOp({
  name: "Compress",
  doc: "The slices along an axis (or elements) whose condition holds.",
  reads: { onnx: [{ since: 9 }] },
  in: { x: tensor("T"), condition: tensor("bool") },
  out: { y: tensor("T") },
  attrs: { axis: optInt() },
  role: "compute",
  infer: (at) => {
    const x = shapeOf(at.in.x);
    if (at.attrs.axis === undefined) return [fact(dtypeOf(at.in.x), [UNKNOWN])];
    const a = x === undefined ? undefined : axisOf(at.attrs.axis, x.length);
    return [
      fact(
        dtypeOf(at.in.x),
        x?.map((d, i) => (i === a ? UNKNOWN : d)),
      ),
    ];
  },
  cost: moves,
  int8: sameScale,
  on: hostOnly("its output's size depends on the data"),
  *samples() {
    yield { name: "rows", in: { x: random("float32", 3, 2), condition: fed("bool", [3], [true, false, true]) }, attrs: { axis: aInt(0) } };
  },
});
