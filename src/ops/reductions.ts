/** Reductions, index of extremes, running sums. */
import { no, yes } from "../diagnostics.js";

import { add, max, min, mul } from "../ir/dims.js";
import type { Dim, DType } from "../ir/types.js";
import { all, attribute, constantInputs, FLOATS64, NUMBERS, on, when } from "./answers.js";
import { absent, defineOp, dtypeOf, type Fact, flag, int, type OnnxReading, optional, shapeOf, tensor } from "./define.js";
import { exactly, known, reduced, small } from "./elements.js";
import { axesToInput, isIntegral } from "./pointwise.js";
import { aInt, ints64, random } from "./samples.js";
import { axesOf, fact, numbersOf, perInput, reducedShape, unknownDims } from "./shapes.js";

const island = absent("a reduction accumulates in float; its neighbours requantize");
/** Rules over known elements. `start`: what reducing no elements gives, where ONNX says. */
const exact: Readonly<Record<string, { readonly f: (a: Dim, b: Dim) => Dim; readonly start?: Dim; readonly integers: boolean }>> = {
  ReduceProd: { f: exactly((a, b) => a * b, mul), start: 1, integers: true },
  ReduceSum: { f: exactly((a, b) => a + b, add), start: 0, integers: true },
  ReduceMax: { f: exactly(Math.max, max), integers: false },
  ReduceMin: { f: exactly(Math.min, min), integers: false },
};
const reduce = <const N extends string>(name: N, doc: string, types: readonly DType[], flops: number, inputSince = 18) =>
  defineOp({
    name,
    doc,
    reads: { onnx: [{ since: 1, adapt: axesToInput }, { since: inputSince }] as readonly OnnxReading[] },
    in: { x: tensor("T"), axes: optional("int64") },
    out: { y: tensor("T") },
    types: { T: types },
    attrs: { keepdims: flag(true), noop_with_empty_axes: flag(false) },
    role: "compute",
    infer: (at) => {
      const [dtype, shape] = [dtypeOf(at.in.x), shapeOf(at.in.x)];
      const keep = at.attrs.keepdims;
      let axes = at.in.axes === undefined ? [] : numbersOf(at.in.axes);
      if (axes === undefined) return [fact(dtype, keep && shape !== undefined ? unknownDims(shape.length) : undefined)];
      if (axes.length === 0) {
        if (at.attrs.noop_with_empty_axes) return [fact(dtype, shape)];
        axes = shape?.map((_, i) => i) ?? [];
        if (shape === undefined) return [fact(dtype, keep ? undefined : [])];
      }
      const y = fact(dtype, reducedShape(shape, axes, keep));
      const rule = exact[name];
      const all = rule === undefined || shape === undefined ? undefined : axesOf(axes, shape.length);
      // Sums and products of floats depend on their order; extremes do not.
      if (rule === undefined || all === undefined || (rule.integers && !isIntegral(dtype))) return [y];
      return [known(y, reduced(small(at.in.x), all, rule.f, rule.start))];
    },
    cost: perInput(flops),
    int8: island,
    on: on(
      name === "ReduceLogSumExp"
        ? when("reducing at least one axis", (at) =>
            at.attrs["noop_with_empty_axes"] === true && (at.in["axes"] === undefined || shapeOf(at.in["axes"] as Fact)?.[0] === 0)
              ? no("it reduces nothing", "drop the node")
              : yes,
          )
        : undefined,
      undefined,
    ),
    *samples() {
      const x = random(types.includes("float32") ? "float32" : (types[0] ?? "float32"), 2, 3, 4);
      yield { name: "all", in: { x } };
      yield { name: "last, dropped", in: { x, axes: ints64(-1) }, attrs: { keepdims: aInt(0) } };
      yield { name: "two", in: { x, axes: ints64(0, 2) } };
      yield { name: "none", in: { x }, attrs: { noop_with_empty_axes: aInt(1) } };
    },
  });
export const reduceSum = reduce("ReduceSum", "Sum over axes.", NUMBERS, 1, 13);
export const reduceMean = reduce("ReduceMean", "Mean over axes.", NUMBERS, 1);
export const reduceMax = reduce("ReduceMax", "Largest element over axes.", [...NUMBERS, "bool"], 1);
export const reduceMin = reduce("ReduceMin", "Smallest element over axes.", [...NUMBERS, "bool"], 1);
export const reduceProd = reduce("ReduceProd", "Product over axes.", NUMBERS, 1);
export const reduceL1 = reduce("ReduceL1", "Sum of magnitudes over axes.", NUMBERS, 2);
export const reduceL2 = reduce("ReduceL2", "Euclidean norm over axes.", NUMBERS, 2);
export const reduceSumSquare = reduce("ReduceSumSquare", "Sum of squares over axes.", NUMBERS, 2);
export const reduceLogSum = reduce("ReduceLogSum", "Logarithm of the sum over axes.", NUMBERS, 1);
export const reduceLogSumExp = reduce("ReduceLogSumExp", "Logarithm of the sum of exponentials over axes.", NUMBERS, 9);

const arg = <const N extends string>(name: N, doc: string) =>
  defineOp({
    name,
    doc,
    reads: { onnx: [{ since: 1 }] },
    in: { x: tensor("T") },
    out: { y: tensor("int64") },
    types: { T: NUMBERS },
    attrs: { axis: int(0), keepdims: flag(true), select_last_index: flag(false) },
    role: "compute",
    infer: (at) => [fact("int64", reducedShape(shapeOf(at.in.x), [at.attrs.axis], at.attrs.keepdims))],
    cost: perInput(1),
    int8: { passes: "same-scale" },
    on: on(undefined, attribute("select_last_index", [false])),
    *samples() {
      yield { name: "first", in: { x: random("float32", 3, 4) } };
      yield { name: "last, dropped", in: { x: random("float32", 2, 3, 4) }, attrs: { axis: aInt(-1), keepdims: aInt(0) } };
    },
  });
export const argMax = arg("ArgMax", "Index of the largest element along an axis.");
export const argMin = arg("ArgMin", "Index of the smallest element along an axis.");

const running = <const N extends string>(name: N, doc: string, since: number) =>
  defineOp({
    name,
    doc,
    reads: { onnx: [{ since }] },
    in: { x: tensor("T"), axis: tensor() },
    out: { y: tensor("T") },
    types: { T: [...FLOATS64, "int32", "int64", "uint32", "uint64"] },
    attrs: { exclusive: flag(false), reverse: flag(false) },
    role: "compute",
    infer: (at) => [fact(dtypeOf(at.in.x), shapeOf(at.in.x))],
    cost: perInput(1),
    int8: island,
    on:
      name === "CumProd"
        ? on(constantInputs("axis"), absent("a running product has no translation"))
        : on(
            all(
              constantInputs("axis"),
              when("up to 65,536 elements along the axis", (at) => {
                const [x, axis] = [shapeOf(at.in["x"] as Fact), numbersOf(at.in["axis"] as Fact)?.[0] ?? 0];
                const size = x?.[axis < 0 ? axis + x.length : axis];
                return typeof size === "number" && size > 65_536 ? no(`a running sum over ${size} elements has no kernel`) : yes;
              }),
            ),
            constantInputs("axis"),
          ),
    *samples() {
      yield { name: "plain", in: { x: random("float32", 2, 4), axis: { dtype: "int64", dims: [], fill: [1], constant: true } } };
      yield {
        name: "reverse, exclusive",
        in: { x: random("float32", 5), axis: { dtype: "int64", dims: [], fill: [0], constant: true } },
        attrs: { exclusive: aInt(1), reverse: aInt(1) },
      };
    },
  });
export const cumSum = running("CumSum", "Running sum along an axis.", 11);
export const cumProd = running("CumProd", "Running product along an axis.", 26);
