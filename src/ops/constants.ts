/** Tensors made from shapes and scalars. */
import { no, yes } from "../diagnostics.js";
import { ceilDiv, isStatic, max, product, sub, UNKNOWN } from "../ir/dims.js";
import { dtypeFromOnnx, isFloat } from "../ir/dtypes.js";
import { smallNumbers } from "../ir/payload.js";
import type { Dim } from "../ir/types.js";
import { constantInputs, gpu, NUMBERS, on, when } from "./answers.js";
import { absent, defineOp, dtypeOf, int, MAX_ELEMENTS, optInt, optTensor, shapeOf, tensor } from "./define.js";
import { known } from "./elements.js";
import { aInt, fed, given, ints64, random } from "./samples.js";
import { count, elementsOf, fact, moves, unknownDims } from "./shapes.js";

const int8 = absent("made at compile time or cheap");
export const constantOfShape = defineOp({
  name: "ConstantOfShape",
  doc: "A tensor of given dims filled with one value (0 when none is given).",
  reads: { onnx: [{ since: 9 }] },
  in: { shape: tensor("int64") },
  out: { y: tensor() },
  attrs: { value: optTensor() },
  role: "compute",
  infer: (at) => {
    const dims = elementsOf(at.in.shape);
    const rank = shapeOf(at.in.shape)?.[0];
    const y = fact(at.attrs.value?.dtype ?? "float32", dims ?? (typeof rank === "number" ? unknownDims(rank) : undefined));
    const value = at.attrs.value === undefined ? 0 : smallNumbers(at.attrs.value)?.[0];
    const size = dims?.every(isStatic) === true ? product(dims) : UNKNOWN;
    const filled = typeof size === "number" && size >= 0 && size <= MAX_ELEMENTS ? new Array<Dim>(size).fill(value ?? UNKNOWN) : undefined;
    return [known(y, filled)];
  },
  cost: moves,
  int8,
  on: on(
    when("filled with zeros, or small enough to be folded", (at) =>
      at.attrs.value === undefined || (at.out[0] !== undefined && count({ type: at.out[0] }) <= MAX_ELEMENTS)
        ? yes
        : no("a large tensor of one value other than the default has no kernel", "expand a scalar where the model is made"),
    ),
    undefined,
  ),
  *samples() {
    yield { name: "zeros", in: { shape: ints64(2, 3) } };
    yield {
      name: "int64 ones",
      in: { shape: fed("int64", [2], [0, 3]) },
      attrs: {
        value: {
          kind: "tensor",
          value: { dtype: "int64", dims: [1], data: { kind: "bytes", bytes: new Uint8Array(BigInt64Array.of(1n).buffer) } },
        },
      },
    };
  },
});
export const range = defineOp({
  name: "Range",
  doc: "start, start + delta, ... up to but without limit.",
  reads: { onnx: [{ since: 11 }] },
  in: { start: tensor("T"), limit: tensor("T"), delta: tensor("T") },
  out: { y: tensor("T") },
  types: { T: NUMBERS },
  attrs: {},
  role: "shape",
  infer: (at) => {
    const dtype = dtypeOf(at.in.start);
    const of = (f: typeof at.in.start): Dim =>
      f.constant !== undefined ? (smallNumbers(f.constant)?.[0] ?? UNKNOWN) : (f.elements?.[0] ?? UNKNOWN);
    const [start, limit, delta] = [of(at.in.start), of(at.in.limit), of(at.in.delta)];
    if (typeof start === "number" && typeof limit === "number" && typeof delta === "number") {
      if (delta === 0) return at.fail("delta is 0", "use a delta other than 0");
      // The span is taken in the operands' type, the quotient in double: ONNX Runtime's order.
      const span = dtype === "float32" ? Math.fround(limit - start) : limit - start;
      const n = Math.max(0, Math.ceil(span / delta));
      const y = fact(dtype, [n]);
      // ONNX Runtime adds delta up; for fractions that rounds differently from a product.
      const exact = n <= MAX_ELEMENTS && [start, limit, delta].every(Number.isInteger);
      return [
        exact
          ? known(
              y,
              Array.from({ length: n }, (_, i) => start + i * delta),
            )
          : y,
      ];
    }
    if ((dtype !== "int64" && dtype !== "int32") || typeof delta !== "number" || delta === 0) return [fact(dtype, [UNKNOWN])];
    const span = delta > 0 ? sub(limit, start) : sub(start, limit);
    return [fact(dtype, [max(ceilDiv(span, Math.abs(delta)), 0)])];
  },
  cost: moves,
  int8,
  on: on(
    undefined,
    when("floats from constants alone", (at, target) =>
      at.out[0]?.kind === "tensor" && isFloat(at.out[0].dtype) ? constantInputs("start", "limit", "delta").holds(at, target) : yes,
    ),
  ),
  *samples() {
    const i = (x: number) => given("int64", [], [x]);
    yield { name: "up", in: { start: i(1), limit: i(10), delta: i(3) } };
    yield {
      name: "down, float",
      in: { start: fed("float32", [], [5]), limit: fed("float32", [], [0]), delta: fed("float32", [], [-1.5]) },
    };
  },
});
export const eyeLike = defineOp({
  name: "EyeLike",
  doc: "Ones on a diagonal, zeros elsewhere, shaped like its input.",
  reads: { onnx: [{ since: 9 }] },
  in: { x: tensor() },
  out: { y: tensor() },
  attrs: { dtype: optInt(), k: int(0) },
  role: "compute",
  infer: (at) => [fact(at.attrs.dtype === undefined ? dtypeOf(at.in.x) : dtypeFromOnnx(at.attrs.dtype), shapeOf(at.in.x))],
  cost: moves,
  int8,
  on: gpu(),
  *samples() {
    yield { name: "shifted", in: { x: random("float32", 3, 4) }, attrs: { k: aInt(1) } };
  },
});
