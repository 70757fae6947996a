/** Sequences and optionals: containers of tensors that only the host holds. */
import { add, isStatic, UNKNOWN } from "../ir/dims.js";
import { dtypeFromOnnx } from "../ir/dtypes.js";
import type { Attr, Dim, Shape, ValueType } from "../ir/types.js";
import { ANY, hostOnly } from "./answers.js";
import {
  type AttrSpec,
  absent,
  defineOp,
  dtypeOf,
  type Fact,
  flag,
  graphAttr,
  int,
  optional,
  shapeOf,
  tensor,
  tensorType,
  unknownType,
  variadic,
} from "./define.js";
import { aBody, aInt, aSequence, given, ints64, random } from "./samples.js";
import { axisOf, elementsFact, fact, free, moves, numbersOf } from "./shapes.js";

const int8 = absent("a container holds tensors; what makes and takes them is quantized");
const on = hostOnly("engines take tensors, not sequences or optionals", "concatenate the tensors where the model is made");

/** What is common to two shapes: dims that agree. */
function common(a: Shape, b: Shape): Shape {
  if (a === undefined || b === undefined || a.length !== b.length) return undefined;
  return a.map((d, i) => (d === b[i] && d !== UNKNOWN ? d : UNKNOWN));
}
/** The type of every element of a sequence made of these. */
function elementType(types: readonly (ValueType | undefined)[]): ValueType {
  let out: ValueType | undefined;
  for (const t of types) {
    if (t === undefined || t.kind !== "tensor") return unknownType;
    if (out === undefined) out = t;
    else if (out.kind !== "tensor" || out.dtype !== t.dtype) return unknownType;
    else out = { ...out, shape: common(out.shape, t.shape) };
  }
  return out ?? unknownType;
}
const sequenceOf = (of: ValueType): Fact => (of.kind === "unknown" ? { type: unknownType } : { type: { kind: "sequence", of } });
/** A sequence of known length; `empty` is the element type of one without items. Long ones are not followed item by item. */
function sequenceWith(items: readonly ValueType[], empty: ValueType = unknownType): Fact {
  const f = sequenceOf(items.length === 0 ? empty : elementType(items));
  return f.type.kind === "unknown" || items.length > MAX_ITEMS ? f : { ...f, items };
}
const MAX_ITEMS = 256;
/** The place of an item, or of an insertion, in a sequence of known length; undefined when it is not known or outside. */
function placeOf(position: Fact | undefined, length: number, absent: number): number | undefined {
  if (position === undefined) return absent;
  const at = numbersOf(position)?.[0];
  if (at === undefined || at < -length || at > length) return undefined;
  return at < 0 ? at + length : at;
}
const elementOf = (f: Fact | undefined): ValueType => (f?.type.kind === "sequence" ? f.type.of : unknownType);
/** An element type whose dims may be anything. */
const loose = (t: ValueType): ValueType => (t.kind === "tensor" ? { ...t, shape: undefined } : t);

export const sequenceEmpty = defineOp({
  name: "SequenceEmpty",
  doc: "A sequence without elements, of tensors of `dtype` (float32 when absent).",
  reads: { onnx: [{ since: 11 }] },
  in: {},
  out: { sequence: tensor() },
  attrs: { dtype: int(1) },
  role: "compute",
  infer: (at) => {
    const d = dtypeFromOnnx(at.attrs.dtype);
    return [d === undefined ? { type: unknownType } : sequenceWith([], tensorType(d, undefined))];
  },
  cost: free,
  int8,
  on,
  *samples() {
    yield { name: "half", in: {}, attrs: { dtype: aInt(10) } };
  },
});
export const sequenceConstruct = defineOp({
  name: "SequenceConstruct",
  doc: "The sequence of its operands.",
  reads: { onnx: [{ since: 11 }] },
  in: { items: variadic("T") },
  out: { sequence: tensor() },
  types: { T: ANY },
  attrs: {},
  role: "compute",
  infer: (at) => [sequenceWith(at.in.items.map((f) => f?.type ?? unknownType))],
  cost: moves,
  int8,
  on,
  *samples() {
    yield { name: "two", in: { items: [random("float32", 2, 3), random("float32", 4, 3)] } };
  },
});
export const sequenceInsert = defineOp({
  name: "SequenceInsert",
  doc: "The sequence with a tensor inserted at `position`, or at the end.",
  reads: { onnx: [{ since: 11 }] },
  in: { sequence: tensor(), item: tensor(), position: optional() },
  out: { sequence: tensor() },
  attrs: {},
  role: "compute",
  infer: (at) => {
    const [of, item] = [elementOf(at.in.sequence), at.in.item.type];
    const { items } = at.in.sequence;
    const place = items === undefined ? undefined : placeOf(at.in.position, items.length, items.length);
    if (items !== undefined && place !== undefined) return [sequenceWith([...items.slice(0, place), item, ...items.slice(place)])];
    return [sequenceOf(of.kind === "tensor" && item.kind === "tensor" ? elementType([of, item]) : loose(of))];
  },
  cost: free,
  int8,
  on,
  *samples() {
    const sequence = aSequence(random("float32", 2, 3), random("float32", 4, 3));
    yield { name: "behind", in: { sequence, item: random("float32", 5, 3) } };
    yield { name: "in front", in: { sequence, item: random("float32", 5, 3), position: given("int64", [], [-2]) } };
  },
});
export const sequenceErase = defineOp({
  name: "SequenceErase",
  doc: "The sequence without the element at `position`, or without the last.",
  reads: { onnx: [{ since: 11 }] },
  in: { sequence: tensor(), position: optional() },
  out: { sequence: tensor() },
  attrs: {},
  role: "compute",
  infer: (at) => {
    const { items, type } = at.in.sequence;
    const place = items === undefined ? undefined : placeOf(at.in.position, items.length, items.length - 1);
    return [
      items === undefined || place === undefined
        ? { type }
        : sequenceWith(
            items.filter((_, i) => i !== place),
            elementOf(at.in.sequence),
          ),
    ];
  },
  cost: free,
  int8,
  on,
  *samples() {
    const sequence = aSequence(random("float32", 2, 3), random("float32", 4, 3));
    yield { name: "last", in: { sequence } };
    yield { name: "first", in: { sequence, position: given("int64", [], [0]) } };
  },
});
export const sequenceAt = defineOp({
  name: "SequenceAt",
  doc: "The element at `position`; negative ones count from the end.",
  reads: { onnx: [{ since: 11 }] },
  in: { sequence: tensor(), position: tensor() },
  out: { item: tensor() },
  attrs: {},
  role: "compute",
  infer: (at) => {
    const { items } = at.in.sequence;
    const place = items === undefined ? undefined : placeOf(at.in.position, items.length, items.length);
    return [{ type: (place === undefined ? undefined : items?.[place]) ?? elementOf(at.in.sequence) }];
  },
  cost: free,
  int8,
  on,
  *samples() {
    yield {
      name: "from the end",
      in: { sequence: aSequence(random("float32", 2, 3), random("float32", 4, 3)), position: given("int64", [], [-1]) },
    };
  },
});
export const sequenceLength = defineOp({
  name: "SequenceLength",
  doc: "Number of elements of a sequence.",
  reads: { onnx: [{ since: 11 }] },
  in: { sequence: tensor() },
  out: { length: tensor("int64") },
  attrs: {},
  role: "shape",
  infer: (at) => [at.in.sequence.items === undefined ? fact("int64", []) : elementsFact([at.in.sequence.items.length], 0)],
  cost: free,
  int8,
  on,
  *samples() {
    yield { name: "two", in: { sequence: aSequence(random("float32", 2, 3), random("float32", 4, 3)) } };
  },
});

/** Sizes of all pieces along the axis, when they are known. */
function pieceSizes(whole: Dim, split: Fact | undefined): readonly number[] | undefined {
  if (split === undefined) return isStatic(whole) ? new Array<number>(Math.min(whole, MAX_ITEMS + 1)).fill(1) : undefined;
  const sizes = numbersOf(split);
  if (sizes === undefined || shapeOf(split)?.length !== 0) return sizes;
  const [each] = sizes;
  if (each === undefined || each <= 0 || !isStatic(whole) || whole / each > MAX_ITEMS) return undefined;
  return Array.from({ length: Math.ceil(whole / each) }, (_, i) => Math.min(each, whole - i * each));
}
/** The dim that each piece has along the axis; unknown where pieces differ. */
function pieceDim(whole: Dim, split: Fact | undefined): Dim {
  if (split === undefined) return 1;
  const sizes = numbersOf(split);
  const first = sizes?.[0];
  if (sizes === undefined || first === undefined) return UNKNOWN;
  if (shapeOf(split)?.length === 0) return isStatic(whole) && first > 0 && whole % first === 0 ? first : UNKNOWN;
  return sizes.every((n) => n === first) ? first : UNKNOWN;
}
export const splitToSequence = defineOp({
  name: "SplitToSequence",
  doc: "Pieces of a tensor along an axis: of one size, of given sizes, or single slices (with or without their axis).",
  reads: { onnx: [{ since: 11 }] },
  in: { x: tensor(), split: optional() },
  out: { sequence: tensor() },
  attrs: { axis: int(0), keepdims: flag(true) },
  role: "compute",
  infer: (at) => {
    const [d, s] = [dtypeOf(at.in.x), shapeOf(at.in.x)];
    if (d === undefined) return [{ type: unknownType }];
    if (s === undefined) return [sequenceOf(tensorType(d, undefined))];
    const axis = axisOf(at.attrs.axis, s.length);
    if (axis === undefined) return at.fail(`axis ${at.attrs.axis} is out of range for rank ${s.length}`, "use an axis of the operand");
    const drop = at.in.split === undefined && !at.attrs.keepdims;
    const part = (piece: Dim): ValueType =>
      tensorType(d, drop ? s.filter((_, i) => i !== axis) : s.map((x, i) => (i === axis ? piece : x)));
    const sizes = pieceSizes(s[axis] ?? UNKNOWN, at.in.split);
    if (sizes !== undefined && sizes.length > 0 && sizes.length <= MAX_ITEMS) return [sequenceWith(sizes.map(part))];
    return [sequenceOf(part(pieceDim(s[axis] ?? UNKNOWN, at.in.split)))];
  },
  cost: moves,
  int8,
  on,
  *samples() {
    yield { name: "single slices", in: { x: random("float32", 3, 4) }, attrs: { keepdims: aInt(0) } };
    yield { name: "sizes", in: { x: random("float32", 3, 4), split: ints64(1, 3) }, attrs: { axis: aInt(-1) } };
  },
});
export const concatFromSequence = defineOp({
  name: "ConcatFromSequence",
  doc: "The elements of a sequence joined along an axis, or stacked along a new one.",
  reads: { onnx: [{ since: 11 }] },
  in: { sequence: tensor() },
  out: { y: tensor() },
  attrs: { axis: int(), new_axis: flag(false) },
  role: "compute",
  infer: (at) => {
    const of = elementOf(at.in.sequence);
    if (of.kind !== "tensor" || of.shape === undefined) return [{ type: of.kind === "tensor" ? of : unknownType }];
    const rank = of.shape.length + (at.attrs.new_axis ? 1 : 0);
    const axis = axisOf(at.attrs.axis, rank);
    if (axis === undefined) return at.fail(`axis ${at.attrs.axis} is out of range for rank ${rank}`, "use an axis of the result");
    const s = [...of.shape];
    const { items } = at.in.sequence;
    const along = items?.map((t): Dim => (t.kind === "tensor" ? (t.shape?.[axis] ?? UNKNOWN) : UNKNOWN));
    const whole = items === undefined ? UNKNOWN : at.attrs.new_axis ? items.length : (along ?? []).reduce(add, 0);
    s.splice(axis, at.attrs.new_axis ? 0 : 1, whole);
    return [fact(of.dtype, s)];
  },
  cost: free,
  int8,
  on,
  *samples() {
    yield { name: "joined", in: { sequence: aSequence(random("float32", 2, 3), random("float32", 4, 3)) }, attrs: { axis: aInt(0) } };
    yield {
      name: "stacked",
      in: { sequence: aSequence(random("float32", 2, 3), random("float32", 2, 3)) },
      attrs: { axis: aInt(-1), new_axis: aInt(1) },
    };
  },
});
export const sequenceMap = defineOp({
  name: "SequenceMap",
  doc: "Applies a body to each element of a sequence (and of further sequences of its length); other operands are the same for all.",
  reads: { onnx: [{ since: 17 }] },
  in: { sequence: tensor(), others: variadic() },
  out: { ys: variadic() },
  attrs: { body: graphAttr() },
  role: "compute",
  infer: (at) => {
    const operands = [at.in.sequence, ...at.in.others].map(
      (f): Fact => (f?.type.kind === "sequence" ? { type: f.type.of } : (f ?? { type: unknownType })),
    );
    const length = at.in.sequence.items?.length;
    if (length === undefined || length > 16) return at.body("body", operands).map((f) => sequenceOf(loose(f.type)));
    // Short sequences item by item; the body keeps what holds for all items.
    const each = Array.from({ length }, (_, i) =>
      at.body(
        "body",
        [at.in.sequence, ...at.in.others].map(
          (f): Fact => (f?.items?.[i] === undefined ? (f ?? { type: unknownType }) : { type: f.items[i] }),
        ),
      ),
    );
    return at.body("body", operands).map((f, k) =>
      sequenceWith(
        each.map((outs) => outs[k]?.type ?? unknownType),
        loose(f.type),
      ),
    );
  },
  cost: free,
  int8,
  on,
  *samples() {
    const body = aBody((e) => {
      const x = e.addInput("x", tensorType("float32", undefined));
      return [e.add({ op: "Neg", ins: [x], outs: 1 }).outs[0]];
    });
    yield { name: "negated", in: { sequence: aSequence(random("float32", 2, 3), random("float32", 4, 3)) }, attrs: { body } };
  },
});

const typeAttr = (): AttrSpec<ValueType | undefined> => ({
  kind: "type",
  read: (a: Attr) => (a.kind === "type" ? a.value : undefined),
  fallback: undefined,
  required: false,
});
export const optional_ = defineOp({
  name: "Optional",
  doc: "An optional that holds its operand, or, without one, nothing of `type`.",
  reads: { onnx: [{ since: 15 }] },
  in: { x: optional() },
  out: { y: tensor() },
  attrs: { type: typeAttr() },
  role: "compute",
  infer: (at) => {
    const of = at.in.x?.type ?? at.attrs.type ?? unknownType;
    return [{ type: of.kind === "unknown" ? unknownType : { kind: "optional", of } }];
  },
  cost: free,
  int8,
  on,
  *samples() {
    yield { name: "tensor", in: { x: random("float32", 2) } };
  },
});
export const optionalHasElement = defineOp({
  name: "OptionalHasElement",
  doc: "Whether an optional holds something; tensors and sequences always do, an absent operand never.",
  reads: { onnx: [{ since: 15 }] },
  in: { x: optional() },
  out: { y: tensor("bool") },
  attrs: {},
  role: "shape",
  infer: () => [fact("bool", [])],
  cost: free,
  int8,
  on,
  *samples() {
    yield { name: "tensor", in: { x: random("float32", 2) } };
  },
});
export const optionalGetElement = defineOp({
  name: "OptionalGetElement",
  doc: "What an optional holds; tensors and sequences pass through.",
  reads: { onnx: [{ since: 15 }] },
  in: { x: tensor() },
  out: { y: tensor() },
  attrs: {},
  role: "compute",
  infer: (at) => [at.in.x.type.kind === "optional" ? { type: at.in.x.type.of } : at.in.x],
  cost: free,
  int8,
  on,
  *samples() {
    yield { name: "tensor", in: { x: random("float32", 2, 3) } };
  },
});
