/** Operators on dims: asking for them, changing them, repeating along them; tensors made from a shape. */
import { isStatic } from "../../ir/dims.js";
import type { DType } from "../../ir/types.js";
import { defineTfOp, type TfBuilder, type TfNode, type Val } from "./define.js";
import { vector } from "./helpers.js";
import { carrierOf, compute, like, plainType } from "./kernels.js";

export const shape = defineTfOp({
  name: "Shape",
  to: ["Shape", "Cast"],
  lower: (n, b) => b.cast(b.shape(n.in(0)), n.type("out_type", "int32")),
});
export const shapeN = defineTfOp({
  name: "ShapeN",
  to: ["Shape", "Cast"],
  lower: (n, b) => n.list(0).map((x) => b.cast(b.shape(x), n.type("out_type", "int32"))),
});
export const size = defineTfOp({
  name: "Size",
  to: ["Size", "Cast"],
  lower: (n, b) => b.cast(b.size(n.in(0)), n.type("out_type", "int32")),
});
export const rank = defineTfOp({
  name: "Rank",
  to: ["Shape", "Size", "Cast"],
  lower: (n, b) => {
    const r = n.in(0).rank;
    return r === undefined ? b.cast(b.op("Size", [b.op("Shape", [n.in(0)])]), "int32") : b.scalar("int32", r);
  },
});

export const reshape = defineTfOp({
  name: "Reshape",
  to: ["Reshape"],
  lower: (n, b) => b.reshape(n.in(0), n.in(1).numbers ?? n.in(1)),
});
export const expandDims = defineTfOp({
  name: "ExpandDims",
  to: ["Unsqueeze"],
  lower: (n, b) => b.unsqueeze(n.in(0), [b.number(n.in(1), "the axis")]),
});
export const squeeze = defineTfOp({
  name: "Squeeze",
  to: ["Squeeze", "Reshape"],
  lower: (n, b) => {
    const axes = n.ints(n.has("squeeze_dims") ? "squeeze_dims" : "axis", []);
    const x = n.in(0);
    if (axes.length > 0) return b.squeeze(x, axes);
    const ones = x.shape?.flatMap((d, i) => (d === 1 ? [i] : []));
    return ones !== undefined && x.shape?.every(isStatic) === true ? b.squeeze(x, ones) : b.op("Squeeze", [x]);
  },
});
export const transpose = defineTfOp({
  names: ["Transpose", "ConjugateTranspose"],
  to: ["Transpose"],
  lower: (n, b) => b.transpose(n.in(0), b.numbers(n.in(1), "the permutation")),
});

/** Elements of a vector in the order of another data layout; of a matrix its rows. */
export const dataFormatVecPermute = defineTfOp({
  name: "DataFormatVecPermute",
  to: ["Gather"],
  lower: (n, b) => {
    const x = n.in(0);
    const has = x.shape?.[0];
    const pick = (format: string): string => (has === format.length - 2 ? format.replace(/[NC]/g, "") : format);
    const [from, to] = [pick(n.string("src_format", "NHWC")), pick(n.string("dst_format", "NCHW"))];
    return b.gather(x, b.int64([...to].map((c) => from.indexOf(c))), 0);
  },
});
export const dataFormatDimMap = defineTfOp({
  name: "DataFormatDimMap",
  to: ["Gather"],
  lower: (n, b) => {
    const [from, to] = [n.string("src_format", "NHWC"), n.string("dst_format", "NCHW")];
    const x = n.in(0);
    const table = b.const(
      "int32",
      [from.length],
      [...from].map((c) => to.indexOf(c)),
    );
    return b.cast(b.gather(table, x, 0), x.dtype);
  },
});

/** Dims that two shapes broadcast to: of each pair the one that is not 1. */
export const broadcastArgs = defineTfOp({
  name: "BroadcastArgs",
  to: ["Concat", "Where", "Equal", "Expand"],
  lower: (n, b) => {
    const [x, y] = [n.in(0), n.in(1)];
    const lengths = [x, y].map((v) => v.shape?.[0]);
    const [p, q] = lengths;
    if (typeof p !== "number" || typeof q !== "number")
      return n.refuse("the ranks it joins are not known", "give the graph's inputs shapes");
    const widest = Math.max(p, q);
    const widened = (v: Val, by: number): Val => (by === widest ? v : b.concat([b.fill(plainType(n, v.dtype), 1, [widest - by]), v], 0));
    const [wx, wy] = [widened(x, p), widened(y, q)];
    const [nx, ny] = [wx.numbers, wy.numbers];
    if (nx !== undefined && ny !== undefined)
      return b.const(
        plainType(n, x.dtype),
        [widest],
        nx.map((d, i) => (d === 1 ? (ny[i] ?? 1) : d)),
      );
    return compute(n, b)("Where", [b.op("Equal", [wx, like(n, b, wx, 1)]), wy, wx]);
  },
});
/** The axes along which a gradient of either operand is summed. */
export const broadcastGradientArgs = defineTfOp({
  name: "BroadcastGradientArgs",
  outs: ["r0", "r1"],
  to: [],
  lower: (n, b) => {
    const [x, y] = [b.numbers(n.in(0), "the first shape"), b.numbers(n.in(1), "the second shape")];
    const widest = Math.max(x.length, y.length);
    const pad = (s: readonly number[]): readonly number[] => [...new Array<number>(widest - s.length).fill(1), ...s];
    const [p, q] = [pad(x), pad(y)];
    const type = plainType(n, n.in(0).dtype);
    const axes = (own: readonly number[], ownRank: number, other: readonly number[]): Val => {
      const list = own.flatMap((d, i) => (i < widest - ownRank || (d === 1 && other[i] !== 1) ? [i] : []));
      return b.const(type, [list.length], list);
    };
    return [axes(p, x.length, q), axes(q, y.length, p)];
  },
});
export const broadcastTo = defineTfOp({
  name: "BroadcastTo",
  to: ["Expand"],
  lower: (n, b) => compute(n, b)("Expand", [n.in(0), b.cast(n.in(1), "int64")]),
});
export const tile = defineTfOp({
  name: "Tile",
  to: ["Tile"],
  lower: (n, b) => compute(n, b)("Tile", [n.in(0), b.cast(n.in(1), "int64")]),
});

export const fill = defineTfOp({
  name: "Fill",
  to: ["Expand", "ConstantOfShape"],
  lower: (n, b) => {
    const [dims, value] = [b.cast(n.in(0), "int64"), n.in(1)];
    const [known] = value.numbers ?? [];
    if (known !== undefined && value.dtype !== "string" && Number.isSafeInteger(known)) return b.fill(value.dtype, known, dims);
    return compute(n, b)("Expand", [b.reshape(value, []), dims]);
  },
});
const filledLike = (name: string, value: 0 | 1) =>
  defineTfOp({
    name,
    to: ["ConstantOfShape"],
    lower: (n, b) => b.fill(plainType(n, n.in(0).dtype), value, b.shape(n.in(0))),
  });
export const zerosLike = filledLike("ZerosLike", 0);
export const onesLike = filledLike("OnesLike", 1);
export const empty = defineTfOp({
  name: "Empty",
  to: ["ConstantOfShape"],
  why: "zeros",
  lower: (n, b) => b.fill(plainType(n, n.type("dtype")), 0, b.cast(n.in(0), "int64")),
});
export const range = defineTfOp({
  name: "Range",
  to: ["Range"],
  lower: (n, b) =>
    compute(n, b)(
      "Range",
      [n.in(0), n.in(1), n.in(2)].map((x) => b.reshape(x, [])),
    ),
});
export const linSpace = defineTfOp({
  name: "LinSpace",
  to: ["Range", "Mul", "Div", "Add", "Sub", "Max", "Where", "Equal"],
  lower: (n, b) => {
    const own = n.in(0).dtype;
    const type: DType = own === "float64" ? "float64" : "float32";
    const [from, to] = [b.cast(b.reshape(n.in(0), []), type), b.cast(b.reshape(n.in(1), []), type)];
    const count = b.cast(b.reshape(n.in(2), []), "int64");
    const steps = b.op("Range", [b.int64(0), count, b.int64(1)]);
    const last = b.sub(count, b.int64(1));
    const delta = b.div(b.sub(to, from), b.cast(b.op("Max", [last, b.int64(1)]), type));
    const points = b.add(from, b.mul(b.cast(steps, type), delta));
    // The last point is the end itself; a single point is the start.
    const end = b.op("And", [b.op("Equal", [steps, last]), b.op("Greater", [count, b.int64(1)])]);
    return b.cast(b.where(end, to, points), own);
  },
});
// ---- padding ------------------------------------------------------------------------------------------------------------------------------

/** [n, 2] amounts as ONNX wants them: all in front, then all behind. */
function amounts(b: TfBuilder, paddings: Val): Val {
  const flat = b.cast(paddings, "int64");
  const c = paddings.constant;
  const rows = paddings.shape?.[0];
  if (c !== undefined && typeof rows === "number") {
    const values = vector(c);
    if (values !== undefined)
      return b.int64([
        ...Array.from({ length: rows }, (_, i) => values[2 * i] ?? 0),
        ...Array.from({ length: rows }, (_, i) => values[2 * i + 1] ?? 0),
      ]);
  }
  return b.reshape(b.transpose(flat, [1, 0]), [-1]);
}
function padded(n: TfNode, b: TfBuilder, x: Val, paddings: Val, mode: string, value: Val | undefined): Val {
  // Where Pad has no kernel for a type the elements pass through one that has; a string never does.
  if (carrierOf("Pad", x.dtype) === undefined)
    return n.refuse(`${x.dtype} cannot be padded on ONNX Runtime`, "pad before or behind the graph");
  return compute(n, b)("Pad", [x, amounts(b, paddings), value], { mode });
}
export const pad = defineTfOp({
  name: "Pad",
  to: ["Pad"],
  lower: (n, b) => padded(n, b, n.in(0), n.in(1), "constant", undefined),
});
export const padV2 = defineTfOp({
  name: "PadV2",
  to: ["Pad"],
  lower: (n, b) => padded(n, b, n.in(0), n.in(1), "constant", n.in(2)),
});
/** REFLECT leaves the border out; SYMMETRIC repeats it: then every place of the result is counted to and fro over the dimension. */
export const mirrorPad = defineTfOp({
  name: "MirrorPad",
  to: ["Pad", "Slice", "Concat", "Gather", "Range", "Mod", "Where", "Mul", "Neg", "Add", "Sub", "Less"],
  lower: (n, b) => {
    const [x, paddings] = [n.in(0), n.in(1)];
    if (n.string("mode") === "REFLECT") return padded(n, b, x, paddings, "reflect", undefined);
    const flat = paddings.constant === undefined ? undefined : vector(paddings.constant);
    let y = x;
    for (let axis = 0; axis < b.rank(x); axis++) {
      if (flat === undefined) {
        const [before, after] = [0, 1].map((side) =>
          b.cast(b.reshape(b.slice(paddings, [axis, side], [axis + 1, side + 1], [0, 1]), []), "int64"),
        );
        if (before === undefined || after === undefined) return n.refuse("it has no amounts");
        const dim = b.dim(y, axis);
        const around = b.mul(dim, b.int64(2));
        const at = b.op("Mod", [b.op("Range", [b.op("Neg", [before]), b.add(dim, after), b.int64(1)]), around]);
        const back = b.sub(b.sub(around, b.int64(1)), at);
        y = b.gather(y, b.where(b.op("Less", [at, dim]), at, back), axis);
        continue;
      }
      const [before, after] = [flat[2 * axis] ?? 0, flat[2 * axis + 1] ?? 0];
      const parts = [y];
      // Turned round: from position before-1 down to 0; from the last one down to `after` places before the end.
      if (before > 0) parts.unshift(b.slice(y, [before - 1], [Number.MIN_SAFE_INTEGER], [axis], [-1]));
      if (after > 0) parts.push(b.slice(y, [-1], [-after - 1], [axis], [-1]));
      y = b.concat(parts, axis);
    }
    return y;
  },
});

export const invertPermutation = defineTfOp({
  name: "InvertPermutation",
  to: ["ScatterElements", "Range", "Size"],
  lower: (n, b) => {
    const x = n.in(0);
    const known = x.numbers;
    if (known !== undefined && new Set(known).size === known.length && known.every((p) => p >= 0 && p < known.length)) {
      const inverse = new Array<number>(known.length).fill(0);
      known.forEach((p, i) => {
        inverse[p] = i;
      });
      return b.const(plainType(n, x.dtype), [known.length], inverse);
    }
    const places = b.cast(b.op("Range", [b.int64(0), b.size(x), b.int64(1)]), x.dtype);
    return b.op("ScatterElements", [x, x, places], { axis: 0 });
  },
});
/** Where the parts of a concatenation begin: zero but along the axis. */
export const concatOffset = defineTfOp({
  name: "ConcatOffset",
  to: ["Mul", "Add"],
  lower: (n, b) => {
    const axis = b.number(n.in(0), "the axis");
    const shapes = n.list(1);
    const [first] = shapes;
    const length = first?.shape?.[0];
    if (first === undefined || typeof length !== "number") return n.refuse("the rank of the parts is not known");
    const at = axis < 0 ? axis + length : axis;
    const only = b.const(
      plainType(n, first.dtype),
      [length],
      Array.from({ length }, (_, i) => (i === at ? 1 : 0)),
    );
    let begin = b.fill(plainType(n, first.dtype), 0, [length]);
    return shapes.map((s) => {
      const here = begin;
      begin = b.add(begin, b.mul(s, only));
      return here;
    });
  },
});
