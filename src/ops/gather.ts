/** Gathers, scatters and one-hot. */
import { UNKNOWN } from "../ir/dims.js";
import { attribute, constantInputs, gpu, on } from "./answers.js";
import { absent, defineOp, dtypeOf, int, optional, shapeOf, tensor, word } from "./define.js";
import { gathered, known, small } from "./elements.js";
import { aInt, aText, fed, given, random } from "./samples.js";
import { axisOf, elementsOf, fact, moves } from "./shapes.js";

const sameScale = { passes: "same-scale" } as const;

export const gather = defineOp({
  name: "Gather",
  doc: "Slices of x along an axis at the given indices.",
  reads: { onnx: [{ since: 1 }] },
  in: { x: tensor("T"), indices: tensor("I") },
  out: { y: tensor("T") },
  attrs: { axis: int(0) },
  role: "compute",
  infer: (at) => {
    const [x, i] = [shapeOf(at.in.x), shapeOf(at.in.indices)];
    if (x === undefined || i === undefined) return [fact(dtypeOf(at.in.x), undefined)];
    const a = axisOf(at.attrs.axis, x.length);
    if (a === undefined) return at.fail(`axis ${at.attrs.axis} is out of range for rank ${x.length}`, "name an axis of the input");
    const y = fact(dtypeOf(at.in.x), [...x.slice(0, a), ...i, ...x.slice(a + 1)]);
    if (at.in.x.elements === undefined && at.in.x.constant === undefined) return [y];
    return [known(y, gathered(small(at.in.x), small(at.in.indices), a))];
  },
  cost: moves,
  int8: sameScale,
  on: gpu(),
  *samples() {
    yield { name: "rows", in: { x: random("float32", 5, 3), indices: fed("int64", [2, 2], [0, 4, -1, 2]) } };
    yield { name: "scalar", in: { x: random("float32", 2, 4), indices: given("int64", [], [1]) }, attrs: { axis: aInt(1) } };
  },
});
export const gatherElements = defineOp({
  name: "GatherElements",
  doc: "Elements of x at indices along an axis, shaped like the indices.",
  reads: { onnx: [{ since: 11 }] },
  in: { x: tensor("T"), indices: tensor("I") },
  out: { y: tensor("T") },
  attrs: { axis: int(0) },
  role: "compute",
  infer: (at) => [fact(dtypeOf(at.in.x), shapeOf(at.in.indices))],
  cost: moves,
  int8: sameScale,
  on: gpu(),
  *samples() {
    yield { name: "columns", in: { x: random("float32", 3, 3), indices: fed("int64", [2, 3], [1, 2, 0, -1, 0, 0]) } };
  },
});
export const gatherND = defineOp({
  name: "GatherND",
  doc: "Slices of x at index vectors, after shared batch dims.",
  reads: { onnx: [{ since: 11 }] },
  in: { x: tensor("T"), indices: tensor("int64") },
  out: { y: tensor("T") },
  attrs: { batch_dims: int(0) },
  role: "compute",
  infer: (at) => {
    const [x, i] = [shapeOf(at.in.x), shapeOf(at.in.indices)];
    const last = i?.[i.length - 1];
    // ONNX Runtime allocates by these before it looks, and ends the process.
    const shared = at.attrs.batch_dims;
    const most = Math.min(x?.length ?? 64, i?.length ?? 64);
    if (shared < 0 || shared >= most) at.fail(`batch_dims is ${shared}, not from 0 to ${most - 1}`, "export the model again");
    if (typeof last === "number" && x !== undefined && (last < 1 || shared + last > x.length))
      at.fail(`index vectors of ${last} entries behind ${shared} batch dims, for rank ${x.length}`, "export the model again");
    if (x === undefined || i === undefined || typeof last !== "number") return [fact(dtypeOf(at.in.x), undefined)];
    return [fact(dtypeOf(at.in.x), [...i.slice(0, -1), ...x.slice(at.attrs.batch_dims + last)])];
  },
  cost: moves,
  int8: sameScale,
  on: gpu(),
  *samples() {
    yield { name: "elements", in: { x: random("float32", 2, 3), indices: fed("int64", [2, 2], [0, 1, 1, -1]) } };
    yield { name: "batched", in: { x: random("float32", 2, 3, 2), indices: fed("int64", [2, 1], [1, 0]) }, attrs: { batch_dims: aInt(1) } };
  },
});
const reduction = word("none", "none", "add", "mul", "max", "min");
export const scatterElements = defineOp({
  name: "ScatterElements",
  doc: "x with elements replaced (or reduced) at indices along an axis.",
  reads: { onnx: [{ op: "Scatter", since: 9, adapt: (n, to) => void to.emit("ScatterElements", n.ins, n.attrs, n.outs) }, { since: 11 }] },
  in: { x: tensor("T"), indices: tensor("I"), updates: tensor("T") },
  out: { y: tensor("T") },
  attrs: { axis: int(0), reduction },
  role: "compute",
  infer: (at) => [fact(dtypeOf(at.in.x), shapeOf(at.in.x))],
  cost: moves,
  int8: sameScale,
  on: on(undefined, attribute("reduction", ["none"])),
  *samples() {
    yield {
      name: "replace",
      in: { x: random("float32", 3, 3), indices: fed("int64", [1, 3], [1, 0, 2]), updates: random("float32", 1, 3) },
    };
    yield {
      name: "add",
      in: { x: random("float32", 1, 5), indices: fed("int64", [1, 2], [1, 1]), updates: random("float32", 1, 2) },
      attrs: { axis: aInt(1), reduction: aText("add") },
    };
    yield {
      name: "largest, from the end",
      in: { x: random("float32", 4, 6), indices: fed("int64", [2, 3], [-1, 0, 2, -1, 1, 1]), updates: random("float32", 2, 3) },
      attrs: { axis: aInt(-1), reduction: aText("max") },
    };
    yield {
      name: "integers, products",
      in: { x: random("int32", 5, 2), indices: fed("int64", [3, 2], [0, 1, 0, 4, -5, 1]), updates: random("int32", 3, 2) },
      attrs: { reduction: aText("mul") },
    };
  },
});
export const scatterND = defineOp({
  name: "ScatterND",
  doc: "x with slices replaced (or reduced) at index vectors.",
  reads: { onnx: [{ since: 11 }] },
  in: { x: tensor("T"), indices: tensor("int64"), updates: tensor("T") },
  out: { y: tensor("T") },
  attrs: { reduction },
  role: "compute",
  infer: (at) => [fact(dtypeOf(at.in.x), shapeOf(at.in.x))],
  cost: moves,
  int8: sameScale,
  on: on(undefined, attribute("reduction", ["none"])),
  *samples() {
    yield { name: "rows", in: { x: random("float32", 4, 3), indices: fed("int64", [2, 1], [3, 0]), updates: random("float32", 2, 3) } };
    yield {
      name: "elements, added twice",
      in: { x: random("float32", 4, 3), indices: fed("int64", [3, 2], [3, 0, 1, -1, 3, 0]), updates: random("float32", 3) },
      attrs: { reduction: aText("add") },
    };
    yield {
      name: "the last wins",
      in: { x: random("float32", 5, 2), indices: fed("int64", [2, 2, 1], [1, 2, 1, -1]), updates: random("float32", 2, 2, 2) },
    };
  },
});
export const tensorScatter = defineOp({
  name: "TensorScatter",
  doc: "A cache with new entries written at per-item positions along an axis.",
  reads: { onnx: [{ since: 24 }] },
  in: { past: tensor("T"), update: tensor("T"), positions: optional("int64") },
  out: { present: tensor("T") },
  attrs: { axis: int(-2), mode: word("linear", "linear", "circular") },
  role: "compute",
  infer: (at) => [fact(dtypeOf(at.in.past), shapeOf(at.in.past))],
  cost: moves,
  int8: sameScale,
  on: on(undefined, absent("updating a cache in place has no translation", "concatenate the cache where the model is made")),
  *samples() {
    yield {
      name: "linear",
      in: { past: random("float32", 2, 1, 4, 3), update: random("float32", 2, 1, 1, 3), positions: fed("int64", [2], [1, 2]) },
    };
  },
});
export const oneHot = defineOp({
  name: "OneHot",
  doc: "Off and on values at the classes of the indices, along a new axis.",
  reads: { onnx: [{ since: 9 }] },
  in: { indices: tensor(), depth: tensor(), values: tensor("T") },
  out: { y: tensor("T") },
  attrs: { axis: int(-1) },
  role: "compute",
  infer: (at) => {
    const i = shapeOf(at.in.indices);
    const a = i === undefined ? undefined : axisOf(at.attrs.axis, i.length + 1);
    if (i === undefined || a === undefined) return [fact(dtypeOf(at.in.values), undefined)];
    return [fact(dtypeOf(at.in.values), [...i.slice(0, a), elementsOf(at.in.depth)?.[0] ?? UNKNOWN, ...i.slice(a)])];
  },
  cost: moves,
  int8: sameScale,
  on: gpu(constantInputs("depth")),
  *samples() {
    yield {
      name: "last",
      in: { indices: fed("int64", [3], [0, 2, -1]), depth: given("int64", [], [4]), values: given("float32", [2], [0, 1]) },
    };
    yield {
      name: "first",
      in: { indices: fed("int64", [2], [1, 5]), depth: given("int64", [], [3]), values: given("int64", [2], [7, 9]) },
      attrs: { axis: aInt(0) },
    };
  },
});
