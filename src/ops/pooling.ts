/** Pools over sliding windows, over the whole plane, and over regions. x is [N, C, spatial...]. */
import { no, yes } from "../diagnostics.js";
import { add, mul, sub, UNKNOWN } from "../ir/dims.js";
import type { Shape } from "../ir/types.js";
import { all, FLOATS64, gpu, hostOnly, on, outputsOnly, spatialDims, when } from "./answers.js";
import {
  absent,
  defineOp,
  dtypeOf,
  flag,
  float,
  int,
  ints,
  optInts,
  optional,
  type RawNode,
  type Rewriter,
  shapeOf,
  tensor,
  word,
} from "./define.js";
import { aInt, aInts, aText, fed, random } from "./samples.js";
import { count, fact, numbersOf, perInput, perOutput, traffic, windowDim, windowOf } from "./shapes.js";

const window = {
  auto_pad: word("NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"),
  ceil_mode: flag(false),
  dilations: optInts(),
  kernel_shape: ints(),
  pads: optInts(),
  strides: optInts(),
};
type WindowAttrs = {
  readonly auto_pad: string;
  readonly ceil_mode: boolean;
  readonly dilations: readonly number[] | undefined;
  readonly kernel_shape: readonly number[];
  readonly pads: readonly number[] | undefined;
  readonly strides: readonly number[] | undefined;
};
function pooled(x: Shape, a: WindowAttrs): Shape {
  if (x === undefined) return undefined;
  const w = windowOf(a.kernel_shape.length, a, a.kernel_shape);
  return [x[0] ?? UNKNOWN, x[1] ?? UNKNOWN, ...x.slice(2).map((d, i) => windowDim(d, w, i))];
}
const windowCost = (at: {
  readonly in: object;
  readonly attrs: { readonly kernel_shape: readonly number[] };
  readonly out: readonly Parameters<typeof count>[0][] | readonly unknown[];
}) => ({
  flops: at.attrs.kernel_shape.reduce((a, b) => a * b, 1) * count({ type: at.out[0] as never }),
  bytes: traffic(at.in, at.out as never),
});
/** TensorRT pools over two or three spatial dims, without dilations. */
const planes = all(
  spatialDims(2, 3),
  when("no dilations", (at) =>
    (at.attrs["dilations"] as readonly number[] | undefined)?.some((d) => d !== 1) === true
      ? no("dilated windows have no TensorRT pool", "let the host run it")
      : yes,
  ),
);
const paddingTold = when("count_include_pad with pads that are given", (at) =>
  at.attrs["count_include_pad"] === true && String(at.attrs["auto_pad"]).startsWith("SAME")
    ? no("a mean that counts padding of its own choice has no kernel", "give the pads in place of auto_pad")
    : yes,
);
/** Opset 1 pools had no default for what later versions default. */
export const averagePool = defineOp({
  name: "AveragePool",
  doc: "Mean over a sliding window, with or without the padding.",
  reads: { onnx: [{ since: 1 }] },
  in: { x: tensor("T") },
  out: { y: tensor("T") },
  types: { T: FLOATS64 },
  attrs: { ...window, count_include_pad: flag(false) },
  role: "compute",
  infer: (at) => [fact(dtypeOf(at.in.x), pooled(shapeOf(at.in.x), at.attrs))],
  cost: windowCost,
  int8: absent("the mean needs its own output scale; Q/DQ stand on both sides"),
  on: on(paddingTold, planes),
  *samples() {
    yield {
      name: "padded",
      in: { x: random("float32", 1, 2, 7, 6) },
      attrs: { kernel_shape: aInts(3, 2), pads: aInts(1, 0, 1, 1), strides: aInts(2, 1) },
    };
    yield {
      name: "counting pads, ceil",
      in: { x: random("float32", 1, 1, 8, 8) },
      attrs: { kernel_shape: aInts(3, 3), pads: aInts(1, 1, 1, 1), strides: aInts(2, 2), count_include_pad: aInt(1), ceil_mode: aInt(1) },
    };
  },
});
export const maxPool = defineOp({
  name: "MaxPool",
  doc: "Largest element of a sliding window; optionally its flat index.",
  reads: { onnx: [{ since: 1 }] },
  in: { x: tensor("T") },
  out: { y: tensor("T"), indices: optional("int64") },
  types: { T: [...FLOATS64, "int8", "uint8"] },
  attrs: { ...window, storage_order: int(0) },
  role: "compute",
  infer: (at) => {
    const s = pooled(shapeOf(at.in.x), at.attrs);
    return [fact(dtypeOf(at.in.x), s), fact("int64", s)];
  },
  cost: windowCost,
  int8: { passes: "same-scale" },
  on: on(undefined, all(planes, outputsOnly(1, "indices"))),
  *samples() {
    yield { name: "2x2", in: { x: random("float32", 1, 3, 6, 8) }, attrs: { kernel_shape: aInts(2, 2), strides: aInts(2, 2) } };
    yield {
      name: "ceil, dilated",
      in: { x: random("float32", 1, 1, 9, 7) },
      attrs: { kernel_shape: aInts(2, 3), dilations: aInts(2, 1), ceil_mode: aInt(1), strides: aInts(2, 2) },
    };
    yield {
      name: "same upper, 1-D",
      in: { x: random("float32", 2, 1, 7) },
      attrs: { kernel_shape: aInts(3), auto_pad: aText("SAME_UPPER"), strides: aInts(2) },
    };
    yield { name: "indices", in: { x: random("float32", 1, 1, 4, 4) }, attrs: { kernel_shape: aInts(2, 2) }, outs: 2 };
  },
});
export const lpPool = defineOp({
  name: "LpPool",
  doc: "p-norm of a sliding window.",
  reads: { onnx: [{ since: 1 }] },
  in: { x: tensor("T") },
  out: { y: tensor("T") },
  types: { T: FLOATS64 },
  attrs: { ...window, p: int(2) },
  role: "compute",
  infer: (at) => [fact(dtypeOf(at.in.x), pooled(shapeOf(at.in.x), at.attrs))],
  cost: windowCost,
  int8: absent("needs float"),
  on: on(undefined, planes),
  *samples() {
    yield { name: "2-norm", in: { x: random("float32", 1, 2, 5, 5) }, attrs: { kernel_shape: aInts(3, 2), pads: aInts(1, 0, 1, 1) } };
  },
});
const global = <const N extends string, const P extends boolean>(name: N, doc: string, p: P) =>
  defineOp({
    name,
    doc,
    reads: { onnx: [{ since: 1, adapt: wholeP }, { since: 2 }] },
    in: { x: tensor("T") },
    out: { y: tensor("T") },
    types: { T: FLOATS64 },
    attrs: p ? { p: int(2) } : {},
    role: "compute",
    infer: (at) => [
      fact(
        dtypeOf(at.in.x),
        shapeOf(at.in.x)?.map((d, i) => (i < 2 ? d : 1)),
      ),
    ],
    cost: perInput(1),
    int8: name === "GlobalMaxPool" ? ({ passes: "same-scale" } as const) : absent("the mean needs its own output scale"),
    on: gpu(),
    *samples() {
      yield { name: "plane", in: { x: random("float32", 2, 3, 5, 4) } };
      yield { name: "volume", in: { x: random("float32", 1, 2, 3, 2, 2) } };
    },
  });
/** Opset 1 wrote p as a float. */
function wholeP(n: RawNode, to: Rewriter): void {
  const p = n.attrs["p"];
  to.emit(n.op, n.ins, p?.kind === "float" ? { p: { kind: "int", value: Math.round(p.value) } } : { ...n.attrs }, n.outs);
}
export const globalAveragePool = global("GlobalAveragePool", "Mean over all spatial dims.", false);
export const globalMaxPool = global("GlobalMaxPool", "Largest element over all spatial dims.", false);
export const globalLpPool = global("GlobalLpPool", "p-norm over all spatial dims.", true);

export const maxUnpool = defineOp({
  name: "MaxUnpool",
  doc: "Partial inverse of MaxPool: elements go back to their indices, zeros elsewhere.",
  reads: { onnx: [{ since: 9 }] },
  in: { x: tensor("T"), indices: tensor("int64"), shape: optional("int64") },
  out: { y: tensor("T") },
  types: { T: FLOATS64 },
  attrs: { kernel_shape: ints(), pads: optInts(), strides: optInts() },
  role: "compute",
  infer: (at) => {
    const x = shapeOf(at.in.x);
    if (at.in.shape !== undefined) return [fact(dtypeOf(at.in.x), numbersOf(at.in.shape))];
    const n = at.attrs.kernel_shape.length;
    return [
      fact(
        dtypeOf(at.in.x),
        x?.map((d, i) => {
          if (i < 2) return d;
          const k = i - 2;
          const pads = (at.attrs.pads?.[k] ?? 0) + (at.attrs.pads?.[k + n] ?? 0);
          return add(mul(sub(d, 1), at.attrs.strides?.[k] ?? 1), (at.attrs.kernel_shape[k] ?? 1) - pads);
        }),
      ),
    ];
  },
  cost: perOutput(0),
  int8: absent("scatters by run-time indices"),
  on: on(
    when("without an output shape", (at) =>
      at.in["shape"] === undefined ? yes : no("an output shape of its own has no kernel", "leave it out, or let the host run it"),
    ),
    absent("scattering by pool indices has no translation"),
  ),
  *samples() {
    yield {
      name: "2x2",
      in: { x: fed("float32", [1, 1, 2, 2], [1, 2, 3, 4]), indices: fed("int64", [1, 1, 2, 2], [5, 7, 13, 15]) },
      attrs: { kernel_shape: aInts(2, 2), strides: aInts(2, 2) },
    };
  },
});
export const maxRoiPool = defineOp({
  name: "MaxRoiPool",
  doc: "Max pool of each region of interest to one size.",
  reads: { onnx: [{ since: 1 }] },
  in: { x: tensor("T"), rois: tensor("T") },
  out: { y: tensor("T") },
  types: { T: FLOATS64 },
  attrs: { pooled_shape: ints(), spatial_scale: float(1) },
  role: "compute",
  infer: (at) => [
    fact(dtypeOf(at.in.x), [shapeOf(at.in.rois)?.[0] ?? UNKNOWN, shapeOf(at.in.x)?.[1] ?? UNKNOWN, ...at.attrs.pooled_shape]),
  ],
  cost: perOutput(16),
  int8: absent("regions are only known at run time"),
  on: hostOnly("region pooling has no kernel"),
  *samples() {
    yield {
      name: "one region",
      in: { x: random("float32", 1, 2, 8, 8), rois: fed("float32", [1, 5], [0, 0, 0, 5, 5]) },
      attrs: { pooled_shape: aInts(2, 2) },
    };
  },
});
