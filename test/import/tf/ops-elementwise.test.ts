/** TensorFlow's elementwise operators and reductions: signs, halves, types without a kernel, empty tensors. */
import { it } from "vitest";
import { bool, float, int, text, type } from "../../support/tf-graph.js";
import { check, ci, f, i, t, want, wf, wi } from "../../support/tf-ops.js";

const X = [7, -7, 7, -7, 6, -6];
const Y = [3, 3, -3, -3, 3, 3];

it("divides and takes remainders with TensorFlow's signs", async () => {
  await check("FloorDiv", [i([6], X), i([6], Y)], {}, wi([6], [2, -3, -3, 2, 2, -2]));
  await check("FloorMod", [i([6], X), i([6], Y)], {}, wi([6], [1, 2, -2, -1, 0, 0]));
  await check("Mod", [i([6], X), i([6], Y)], {}, wi([6], [1, -1, 1, -1, 0, 0]));
  await check("TruncateDiv", [i([6], X), i([6], Y)], {}, wi([6], [2, -2, -2, 2, 2, -2]));
  await check("FloorDiv", [f([6], X), f([6], Y)], {}, wf([6], [2, -3, -3, 2, 2, -2]));
  await check("FloorMod", [f([6], X), f([6], Y)], {}, wf([6], [1, 2, -2, -1, 0, 0]));
  await check("TruncateDiv", [f([6], X), f([6], Y)], {}, wf([6], [2, -2, -2, 2, 2, -2]));
  await check("FloorDiv", [t("uint8", [2], [250, 7]), t("uint8", [2], [9, 2])], {}, want("uint8", [2], [27, 3]));
  await check("FloorMod", [t("int64", [1], [-(2n ** 53n) - 1n]), t("int64", [1], [2n ** 40n])], {}, want("int64", [1], [2 ** 40 - 1]));
});
it("gives zero where an operand makes it so", async () => {
  await check("DivNoNan", [f([3], [1, 0, 4]), f([3], [0, 0, 2])], {}, wf([3], [0, 0, 2]));
  await check("MulNoNan", [f([2], [Number.POSITIVE_INFINITY, 3]), f([2], [0, 2])], {}, wf([2], [0, 6]));
  await check("Xlogy", [f([3], [0, 2, 0]), f([3], [0, Math.E, 5])], {}, wf([3], [0, 2, 0]));
  await check("Xdivy", [f([2], [0, 1]), f([2], [0, 4])], {}, wf([2], [0, 0.25]));
  await check("Xlog1py", [f([2], [0, 2]), f([2], [-1, 1])], {}, wf([2], [0, 2 * Math.log(2)]));
});
it("rounds halves to even and keeps small differences from 1", async () => {
  await check("Round", [f([6], [0.5, 1.5, 2.5, -0.5, -1.5, 3.7])], {}, wf([6], [0, 2, 2, 0, -2, 4]));
  await check("Rint", [t("int32", [2], [5, -3])], {}, wi([2], [5, -3]));
  const tiny = [1e-7, -1e-6, 0, 1e-10];
  await check("Log1p", [f([4], tiny)], {}, wf([4], tiny.map(Math.log1p)), { tolerance: 1e-6 });
  await check("Expm1", [f([4], tiny)], {}, wf([4], tiny.map(Math.expm1)), { tolerance: 1e-6 });
  await check("Expm1", [f([3], [-20, 2, Number.POSITIVE_INFINITY])], {}, wf([3], [-1, Math.expm1(2), Number.POSITIVE_INFINITY]));
  await check(
    "Atan2",
    [f([6], [0, 1, -1, 1, -1, 0]), f([6], [1, 0, 0, -1, -1, 0])],
    {},
    wf([6], [0, Math.PI / 2, -Math.PI / 2, 2.35619449, -2.35619449, 0]),
  );
});
it("computes types without a kernel exactly", async () => {
  await check("Maximum", [t("int16", [2], [-5, 300]), t("int16", [2], [2, -300])], {}, want("int16", [2], [2, 300]));
  await check("Sum", [t("uint16", [2, 2], [65535, 1, 2, 3]), ci([1], [1])], {}, want("uint16", [2], [0, 5]));
  await check("Max", [t("uint32", [2], [4294967295, 1]), ci([1], [0])], {}, want("uint32", [], [4294967295]));
  await check(
    "SelectV2",
    [t("bool", [2], [true, false]), t("bool", [2], [true, true]), t("bool", [2], [false, false])],
    {},
    want("bool", [2], [1, 0]),
  );
  await check("Relu", [t("int64", [2], [-(2n ** 60n), 2n ** 53n])], {}, want("int64", [2], [0, 2 ** 53]));
  await check("Tan", [t("float64", [1], [1])], {}, want("float64", [1], [Math.tan(1)]));
  await check("Exp", [t("float16", [2], [1, -1])], {}, want("float16", [2], [Math.E, 1 / Math.E]));
  await check("Pow", [t("int64", [2], [3, -2]), t("int64", [2], [4, 3])], {}, want("int64", [2], [81, -8]));
});
it("selects by a vector over the first dimension", async () => {
  await check("Select", [t("bool", [2], [true, false]), f([2, 2], [1, 2, 3, 4]), f([2, 2], [5, 6, 7, 8])], {}, wf([2, 2], [1, 2, 7, 8]));
});
it("shifts and counts bits", async () => {
  await check("LeftShift", [i([3], [1, -1, 5]), i([3], [4, 3, 100])], {}, wi([3], [16, -8, -2147483648]));
  await check("RightShift", [i([4], [-8, 8, -1, -2147483648]), i([4], [1, 1, 5, 31])], {}, wi([4], [-4, 4, -1, -1]));
  await check("RightShift", [t("int8", [2], [-128, 127]), t("int8", [2], [7, 6])], {}, want("int8", [2], [-1, 1]));
  await check("Invert", [t("uint8", [2], [0, 255])], {}, want("uint8", [2], [255, 0]));
  await check("PopulationCount", [t("int16", [3], [-1, 0, 257])], {}, want("uint8", [3], [16, 0, 2]));
  await check("PopulationCount", [t("int64", [2], [-1n, 2n ** 40n + 1n])], {}, want("uint8", [2], [64, 2]));
});
it("reduces nothing over no axes, and empty axes to the neutral element", async () => {
  await check("Sum", [f([2, 2], [1, 2, 3, 4]), ci([0], [])], {}, wf([2, 2], [1, 2, 3, 4]));
  await check("Sum", [f([0, 2], []), ci([1], [0])], {}, wf([2], [0, 0]));
  await check("Prod", [f([0, 2], []), ci([1], [0])], { keep_dims: bool(true) }, wf([1, 2], [1, 1]));
  await check("Max", [f([2, 0], []), ci([1], [-1])], {}, wf([2], [Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY]), {
    modes: ["static"],
  });
  await check("Any", [t("bool", [2, 0], []), ci([1], [1])], {}, want("bool", [2], [0, 0]));
  await check("All", [t("bool", [2, 0], []), ci([1], [1])], {}, want("bool", [2], [1, 1]));
  await check("All", [t("bool", [2, 2], [true, true, true, false]), ci([], [1])], {}, want("bool", [2], [1, 0]));
  await check("Mean", [i([2, 2], [1, 2, -3, -4]), ci([1], [1])], {}, wi([2], [1, -3]));
});
it("gives positions in the asked type, of ties the first", async () => {
  await check("ArgMax", [f([2, 3], [1, 5, 5, 7, 7, 0]), ci([], [1])], { output_type: type(3) }, wi([2], [1, 0]));
  await check("ArgMin", [t("uint16", [3], [9, 2, 65535]), ci([], [0])], {}, want("int64", [], [1]));
  await check("ArgMax", [t("bool", [3], [false, true, true]), ci([], [0])], {}, want("int64", [], [1]));
});
it("runs sums and products along an axis", async () => {
  await check("Cumsum", [i([4], [1, 2, 3, 4]), ci([], [0])], { exclusive: bool(true), reverse: bool(true) }, wi([4], [9, 7, 4, 0]));
  await check("Cumprod", [f([4], [1, 2, 3, 4]), ci([], [0])], {}, wf([4], [1, 2, 6, 24]));
  await check(
    "CumulativeLogsumexp",
    [f([3], [1, 2, 3]), ci([], [0])],
    {},
    wf([3], [1, Math.log(Math.E + Math.E ** 2), Math.log(Math.E + Math.E ** 2 + Math.E ** 3)]),
  );
});
it("counts with the slopes and limits TensorFlow defaults to", async () => {
  await check("LeakyRelu", [f([2], [-1, 1])], {}, wf([2], [-0.2, 1]));
  await check("LeakyRelu", [f([2], [-1, 1])], { alpha: float(0.5) }, wf([2], [-0.5, 1]));
  await check("Relu6", [f([3], [-1, 3, 9])], {}, wf([3], [0, 3, 6]));
  await check("Relu6", [t("int32", [3], [-1, 3, 9])], {}, wi([3], [0, 3, 6]));
  await check("ClipByValue", [f([4], [-2, -1, 1, 2]), f([], [-1]), f([], [1])], {}, wf([4], [-1, -1, 1, 1]));
  await check("ApproximateEqual", [f([2], [1, 1]), f([2], [1.05, 1.2])], { tolerance: float(0.1) }, want("bool", [2], [1, 0]));
  await check("Cross", [f([3], [1, 2, 3]), f([3], [4, 5, 6])], {}, wf([3], [-3, 6, -3]));
  await check("AddN", [f([2], [1, 2]), f([2], [3, 4]), f([2], [5, 6])], { N: int(3) }, wf([2], [9, 12]));
});
it("casts as TensorFlow does", async () => {
  await check("Cast", [f([4], [-1.9, 1.9, 0, 2.5])], { DstT: type(3) }, wi([4], [-1, 1, 0, 2]));
  await check("Cast", [f([3], [-1.5, 0, Number.NaN])], { DstT: type(10) }, want("bool", [3], [1, 0, 1]));
  await check("Cast", [i([2], [300, -1])], { DstT: type(4) }, want("uint8", [2], [44, 255]));
});
it("multiplies matrices of integers, transposed ones, and batches that broadcast", async () => {
  await check("MatMul", [i([2, 1], [1, 2]), i([2, 1], [3, 4])], { transpose_b: bool(true) }, wi([2, 2], [3, 4, 6, 8]));
  await check("BatchMatMulV2", [f([1, 2, 1], [1, 2]), f([2, 2, 1], [1, 2, 3, 4])], { adj_x: bool(true) }, wf([2, 1, 1], [5, 11]));
  await check("MatMul", [f([2, 0], []), f([0, 2], [])], {}, wf([2, 2], [0, 0, 0, 0]));
});
it("adds the bias along the channels of either layout", async () => {
  await check("BiasAdd", [f([1, 2, 1, 1], [1, 2]), f([2], [10, 20])], { data_format: text("NCHW") }, wf([1, 2, 1, 1], [11, 22]));
});
