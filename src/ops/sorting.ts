/** Sorting, uniqueness, box suppression. */
import { no, yes } from "../diagnostics.js";
import { UNKNOWN } from "../ir/dims.js";
import { all, constantInputs, hostOnly, NUMBERS, on, when } from "./answers.js";
import {
  absent,
  defineOp,
  dtypeOf,
  type Fact,
  flag,
  int,
  optInt,
  optional,
  type RawNode,
  type Rewriter,
  shapeOf,
  tensor,
} from "./define.js";
import { aInt, fed, given, ints64, random } from "./samples.js";
import { axisOf, elementsOf, fact, numbersOf, perInput } from "./shapes.js";

/** k moved from an attribute to an input. */
function attributeK(n: RawNode, to: Rewriter): void {
  const { k, ...rest } = n.attrs;
  to.emit("TopK", [n.ins[0], k?.kind === "int" ? to.int64([Number(k.value)]) : n.ins[1]], rest, n.outs);
}
export const topK = defineOp({
  name: "TopK",
  doc: "The k largest (or smallest) elements along an axis, and their indices.",
  reads: { onnx: [{ since: 1, adapt: attributeK }, { since: 10 }] },
  in: { x: tensor("T"), k: tensor("int64") },
  out: { y: tensor("T"), indices: tensor("int64") },
  types: { T: NUMBERS },
  attrs: { axis: int(-1), largest: flag(true), sorted: flag(true) },
  role: "compute",
  infer: (at) => {
    const x = shapeOf(at.in.x);
    const a = x === undefined ? undefined : axisOf(at.attrs.axis, x.length);
    const s = x?.map((d, i) => (i === a ? (elementsOf(at.in.k)?.[0] ?? UNKNOWN) : d));
    return [fact(dtypeOf(at.in.x), s), fact("int64", s)];
  },
  cost: perInput(8),
  int8: { passes: "same-scale" },
  on: on(
    constantInputs("k"),
    all(
      constantInputs("k"),
      when("k up to 3840, sorted", (at) => {
        const k = numbersOf(at.in["k"] as Fact)?.[0];
        if (k !== undefined && k > 3840) return no(`k is ${k}, and TensorRT takes at most 3840`, "take fewer, or let the host run it");
        return at.attrs["sorted"] === false ? no("unsorted results have no TensorRT layer", "ask for sorted results") : yes;
      }),
    ),
  ),
  *samples() {
    yield { name: "largest", in: { x: random("float32", 3, 7), k: ints64(3) }, outs: 2 };
    yield {
      name: "smallest, first axis",
      in: { x: random("float32", 5, 2), k: ints64(2) },
      attrs: { axis: aInt(0), largest: aInt(0) },
      outs: 2,
    };
    yield {
      name: "equal elements, integers",
      in: { x: fed("int64", [2, 8], [3, 1, 3, 2, 3, 1, 0, 2, -5, -5, -5, -5, 7, 7, 7, 7]), k: ints64(5) },
      outs: 2,
    };
    yield { name: "whole rows", in: { x: random("float32", 2, 300, 3), k: ints64(300) }, attrs: { axis: aInt(1) }, outs: 2 };
  },
});
export const unique = defineOp({
  name: "Unique",
  doc: "Unique elements or slices, with first indices, inverse indices and counts.",
  reads: { onnx: [{ since: 11 }] },
  in: { x: tensor("T") },
  out: { y: tensor("T"), indices: optional("int64"), inverse: optional("int64"), counts: optional("int64") },
  attrs: { axis: optInt(), sorted: flag(true) },
  role: "compute",
  infer: (at) => {
    const x = shapeOf(at.in.x);
    const a = x === undefined || at.attrs.axis === undefined ? undefined : axisOf(at.attrs.axis, x.length);
    const y = at.attrs.axis === undefined ? [UNKNOWN] : x?.map((d, i) => (i === a ? UNKNOWN : d));
    const i = fact("int64", [UNKNOWN]);
    return [fact(dtypeOf(at.in.x), y), i, i, i];
  },
  cost: perInput(8),
  int8: absent("its output's size depends on the data"),
  on: hostOnly("its output's size depends on the data"),
  *samples() {
    yield { name: "flat", in: { x: fed("float32", [6], [2, 1, 1, 3, 4, 3]) }, outs: 4 };
  },
});
export const nonMaxSuppression = defineOp({
  name: "NonMaxSuppression",
  doc: "Indices [batch, class, box] of boxes kept after suppressing those that overlap a better one.",
  reads: { onnx: [{ since: 10 }] },
  in: { boxes: tensor("float32"), scores: tensor("float32"), max: optional("int64"), iou: optional("float32"), score: optional("float32") },
  out: { selected: tensor("int64") },
  attrs: { center_point_box: int(0) },
  role: "compute",
  infer: () => [fact("int64", [UNKNOWN, 3])],
  cost: perInput(50),
  int8: absent("box coordinates need float"),
  on: on(
    absent("the number of boxes it keeps depends on the data", "cut the graph before it with `outputs`, or leave it to the host"),
    absent(
      "TensorRT looks at 5,000 boxes at most and orders those of all classes by score: its results are others than ONNX's",
      "cut the graph before it with `outputs`, or leave it to the host",
    ),
  ),
  *samples() {
    yield {
      name: "overlap",
      in: {
        boxes: fed("float32", [1, 3, 4], [0, 0, 1, 1, 0, 0.1, 1, 1.1, 0, 10, 1, 11]),
        scores: fed("float32", [1, 1, 3], [0.9, 0.75, 0.6]),
        max: given("int64", [1], [3]),
        iou: given("float32", [1], [0.5]),
        score: given("float32", [1], [0]),
      },
    };
  },
});
