/** Graphs of integer products with zero points, of quantized operators and of dynamic quantization, with feeds. */
import { parse } from "../../src/ir/parse.js";
import type { Graph } from "../../src/ir/types.js";
import { inferGraph } from "../../src/ops/infer.js";
import { lower } from "../../src/passes/lower.js";
import { Tensor, type TensorLike } from "../../src/tensor.js";

export interface ZeroPointCase {
  readonly title: string;
  readonly text: string;
  readonly inputs: readonly TensorLike[];
}

let state = 11;
const draw = (low: number, high: number): number => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return low + Math.floor((state / 2 ** 32) * (high - low + 1));
};
const size = (dims: readonly number[]): number => dims.reduce((a, d) => a * d, 1);
const many = (dims: readonly number[], low: number, high: number): number[] => Array.from({ length: size(dims) }, () => draw(low, high));
const bytes = (dims: readonly number[]): Tensor => new Tensor("uint8", Uint8Array.from(many(dims, 0, 255)), dims);
const signed = (dims: readonly number[]): Tensor => new Tensor("int8", Int8Array.from(many(dims, -128, 127)), dims);
const floats = (dims: readonly number[], offset = 0): Tensor =>
  new Tensor(
    "float32",
    Float32Array.from(many(dims, -9999, 9999), (x) => offset + x / 3000),
    dims,
  );
const scalar = (type: "uint8" | "int8", x: number): Tensor => new Tensor(type, type === "uint8" ? Uint8Array.of(x) : Int8Array.of(x), []);
/** A constant as text. */
const constant = (name: string, type: "uint8" | "int8", dims: readonly number[], low: number, high: number): string =>
  `const %${name} = ${type}[${dims.join(", ")}] ${dims.length === 0 ? `[${draw(low, high)}]` : `[${many(dims, low, high).join(", ")}]`}`;
const graph = (inputs: string, outputs: string, ...lines: readonly string[]): string =>
  `graph "g" opset {"": 18} (${inputs}) -> (${outputs}) {\n${lines.join("\n")}\n}`;

function product(
  title: string,
  a: readonly ["uint8" | "int8", ...number[]],
  w: readonly ["uint8" | "int8", ...number[]],
  zeros: { readonly a?: number | "run"; readonly b?: readonly [low: number, high: number, count?: number] | "run" },
  y: readonly number[],
  fed = false,
): ZeroPointCase {
  const [ta, ...da] = a;
  const [tb, ...db] = w;
  const ranges = { uint8: [0, 255], int8: [-128, 127] } as const;
  const [low, high] = ranges[tb];
  const inputs: TensorLike[] = [ta === "uint8" ? bytes(da) : signed(da)];
  const [heads, lines] = [[`%a: ${ta}[${da.join(", ")}]`], [] as string[]];
  if (fed) {
    heads.push(`%b: ${tb}[${db.join(", ")}]`);
    inputs.push(tb === "uint8" ? bytes(db) : signed(db));
  } else lines.push(constant("b", tb, db, low, high));
  const fedZero = (name: string, type: "uint8" | "int8", x: number): void => {
    heads.push(`%${name}: ${type}[]`);
    inputs.push(scalar(type, x));
  };
  if (zeros.a === "run") fedZero("za", ta, 77);
  else if (zeros.a !== undefined) lines.push(`const %za = ${ta}[] [${zeros.a}]`);
  if (zeros.b === "run") fedZero("zb", tb, 19);
  else if (zeros.b !== undefined) lines.push(constant("zb", tb, zeros.b[2] === undefined ? [] : [zeros.b[2]], zeros.b[0], zeros.b[1]));
  const [za, zb] = [zeros.a === undefined ? "_" : "%za", zeros.b === undefined ? "" : ", %zb"];
  const operands = zeros.a === undefined && zeros.b === undefined ? "%a, %b" : `%a, %b, ${za}${zb}`;
  lines.push(`%y: int32[${y.join(", ")}] = MatMulInteger(${operands})`);
  return { title, text: graph(heads.join(", "), "%y", ...lines), inputs };
}

function convolution(
  title: string,
  x: readonly ["uint8" | "int8", ...number[]],
  w: readonly ["uint8" | "int8", ...number[]],
  zeros: { readonly x?: number | "run"; readonly w?: number },
  attrs: string,
  y: readonly number[],
): ZeroPointCase {
  const [tx, ...dx] = x;
  const [tw, ...dw] = w;
  const inputs: TensorLike[] = [tx === "uint8" ? bytes(dx) : signed(dx)];
  const heads = [`%x: ${tx}[${dx.join(", ")}]`];
  const lines = [constant("w", tw, dw, tw === "uint8" ? 0 : -128, tw === "uint8" ? 255 : 127)];
  if (zeros.x === "run") {
    heads.push(`%zx: ${tx}[]`);
    inputs.push(scalar(tx, 93));
  } else lines.push(`const %zx = ${tx}[] [${zeros.x ?? 0}]`);
  if (zeros.w !== undefined) lines.push(`const %zw = ${tw}[] [${zeros.w}]`);
  lines.push(`%y: int32[${y.join(", ")}] = ConvInteger(%x, %w, %zx${zeros.w === undefined ? "" : ", %zw"}) {${attrs}}`);
  return { title, text: graph(heads.join(", "), "%y", ...lines), inputs };
}

/** x, quantized as it is, times weights, real again. */
const linear = (
  title: string,
  dims: readonly number[],
  columns: number,
  weights: "uint8" | "int8",
  scales: number,
  offset = 0,
): ZeroPointCase => {
  const depth = dims.at(-1) as number;
  const y = [...dims.slice(0, -1), columns].join(", ");
  const list = Array.from({ length: scales === 0 ? 1 : scales }, (_, i) => Math.fround(0.003 + 0.0007 * (i % 13)));
  return {
    title,
    text: graph(
      `%x: float32[${dims.join(", ")}]`,
      "%y",
      constant("w", weights, [depth, columns], weights === "uint8" ? 0 : -127, weights === "uint8" ? 255 : 127),
      `const %zw = ${weights}[${scales === 0 ? "" : scales}] [${list.map((_, i) => (weights === "uint8" ? 121 + i : 0)).join(", ")}]`,
      `const %sw = float32[${scales === 0 ? "" : scales}] [${list.join(", ")}]`,
      `const %bias = float32[${columns}] [${Array.from({ length: columns }, (_, i) => i / 8).join(", ")}]`,
      `%q: uint8[${dims.join(", ")}], %s: float32[], %z: uint8[] = DynamicQuantizeLinear(%x)`,
      `%sums: int32[${y}] = MatMulInteger(%q, %w, %z, %zw)`,
      `%real: float32[${y}] = Cast(%sums) {to = 1}`,
      `%step: float32[${scales === 0 ? "" : scales}] = Mul(%s, %sw)`,
      `%scaled: float32[${y}] = Mul(%real, %step)`,
      `%y: float32[${y}] = Add(%scaled, %bias)`,
    ),
    inputs: [floats(dims, offset)],
  };
};

const dynamicConvolution = (
  title: string,
  x: readonly number[],
  w: readonly number[],
  attrs: string,
  y: readonly number[],
  zero: number,
): ZeroPointCase => ({
  title,
  text: graph(
    `%x: float32[${x.join(", ")}]`,
    "%y",
    constant("w", "uint8", w, 0, 255),
    `const %zw = uint8[] [${zero}]`,
    "const %sw = float32[] [0.004]",
    `%q: uint8[${x.join(", ")}], %s: float32[], %z: uint8[] = DynamicQuantizeLinear(%x)`,
    `%sums: int32[${y.join(", ")}] = ConvInteger(%q, %w, %z, %zw) {${attrs}}`,
    `%real: float32[${y.join(", ")}] = Cast(%sums) {to = 1}`,
    "%step: float32[] = Mul(%s, %sw)",
    `%y: float32[${y.join(", ")}] = Mul(%real, %step)`,
  ),
  inputs: [floats(x)],
});

interface Quantized {
  readonly type: "uint8" | "int8";
  readonly dims: readonly number[];
  readonly zero: number;
}
/** A QLinearConv, by weights with a scale for each channel where their zero point is 0; `rest` reads %y. */
function quantizedConvolution(
  title: string,
  x: Quantized,
  w: Quantized,
  y: Quantized,
  attrs: string,
  bias: boolean,
  rest: { readonly lines: readonly string[]; readonly out: string } = { lines: [], out: "%y" },
): ZeroPointCase {
  const [channels = 1] = w.dims;
  const many = w.zero === 0;
  const scales = Array.from({ length: many ? channels : 1 }, (_, i) => Math.fround(0.003 + 0.0007 * (i % 13)));
  const dims = many ? `${channels}` : "";
  return {
    title,
    text: graph(
      `%x: ${x.type}[${x.dims.join(", ")}]`,
      rest.out,
      constant("w", w.type, w.dims, w.type === "uint8" ? 0 : -127, w.type === "uint8" ? 255 : 127),
      "const %sx = float32[] [0.021]",
      `const %zx = ${x.type}[] [${x.zero}]`,
      `const %sw = float32[${dims}] [${scales.join(", ")}]`,
      `const %zw = ${w.type}[${dims}] [${scales.map(() => w.zero).join(", ")}]`,
      `const %sy = float32[] [${Math.fround(0.0007 * Math.sqrt(size(w.dims) / channels))}]`,
      `const %zy = ${y.type}[] [${y.zero}]`,
      `const %b = int32[${channels}] [${Array.from({ length: channels }, (_, i) => (i - 5) * 301).join(", ")}]`,
      `%y: ${y.type}[${y.dims.join(", ")}] = QLinearConv(%x, %sx, %zx, %w, %sw, %zw, %sy, %zy${bias ? ", %b" : ""}) {${attrs}}`,
      ...rest.lines,
    ),
    inputs: [x.type === "uint8" ? bytes(x.dims) : signed(x.dims)],
  };
}
const quantizedProduct = (title: string, op: string, m: number, k: number, n: number, weights: string, zero: number): ZeroPointCase => ({
  title,
  text: graph(
    `%x: uint8[${m}, ${k}]`,
    "%y",
    `const %w = ${weights}[${k}, ${n}] [${many([k, n], weights === "uint8" ? 0 : -128, weights === "uint8" ? 255 : 127).join(", ")}]`,
    "const %sx = float32[] [0.013]",
    "const %zx = uint8[] [143]",
    "const %sw = float32[] [0.004]",
    `const %zw = ${weights}[] [${zero}]`,
    `const %sy = float32[] [${Math.fround(0.006 * Math.sqrt(k))}]`,
    "const %zy = uint8[] [111]",
    `const %b = int32[${n}] [${Array.from({ length: n }, (_, i) => (i - 3) * 207).join(", ")}]`,
    op === "QGemm"
      ? `%y: uint8[${m}, ${n}] = "com.microsoft"."QGemm"(%x, %sx, %zx, %w, %sw, %zw, %b, %sy, %zy)`
      : `%y: uint8[${m}, ${n}] = QLinearMatMul(%x, %sx, %zx, %w, %sw, %zw, %sy, %zy)`,
  ).replace('{"": 18}', '{"": 18, "com.microsoft": 1}'),
  inputs: [bytes([m, k])],
});

/** A case's graph, and what is left of it for an engine that takes no quantized operators. */
export function graphsOf({ text }: ZeroPointCase): { readonly before: Graph; readonly spelled: Graph } {
  const before = inferGraph(parse(text)).graph;
  return { before, spelled: inferGraph(lower(before, () => false)).graph };
}

export const zeroPointCases: readonly ZeroPointCase[] = [
  quantizedConvolution(
    "QLinearConv, a scale for each channel",
    { type: "uint8", dims: [1, 16, 7, 6], zero: 119 },
    { type: "int8", dims: [24, 16, 3, 3], zero: 0 },
    { type: "uint8", dims: [1, 24, 7, 6], zero: 120 },
    "pads = [1, 1, 1, 1]",
    true,
  ),
  quantizedConvolution(
    "QLinearConv of three channels, weights with a zero point",
    { type: "uint8", dims: [2, 3, 12, 13], zero: 255 },
    { type: "uint8", dims: [8, 3, 3, 3], zero: 99 },
    { type: "uint8", dims: [2, 8, 6, 7], zero: 0 },
    "pads = [1, 1, 1, 1], strides = [2, 2]",
    false,
  ),
  quantizedConvolution(
    "QLinearConv, then a pool and a mean of zero points",
    { type: "int8", dims: [1, 32, 8, 8], zero: -5 },
    { type: "int8", dims: [32, 32, 1, 1], zero: 0 },
    { type: "int8", dims: [1, 32, 8, 8], zero: 9 },
    "",
    true,
    {
      lines: [
        "%p: int8[1, 32, 4, 4] = MaxPool(%y) {kernel_shape = [2, 2], strides = [2, 2]}",
        "const %w1 = int8[1, 32, 1, 1] [7, -3, 12, 25, -60, 127, -128, 3, 7, -3, 12, 25, -60, 127, -128, 3, 7, -3, 12, 25, -60, 127, -128, 3, 7, -3, 12, 25, -60, 127, -128, 3]",
        "const %s1 = float32[] [0.004]",
        "const %z1 = int8[] [0]",
        "%v: int8[1, 1, 4, 4] = QLinearConv(%p, %sy, %zy, %w1, %s1, %z1, %sx, %zx)",
      ],
      out: "%v",
    },
  ),
  quantizedProduct("QLinearMatMul", "QLinearMatMul", 17, 64, 40, "uint8", 117),
  quantizedProduct("QGemm", "QGemm", 9, 48, 32, "int8", 0),
  product("uint8 by int8", ["uint8", 33, 48], ["int8", 48, 40], { a: 131 }, [33, 40]),
  product("uint8 by int8, no zero points", ["uint8", 2, 3, 16], ["int8", 16, 8], {}, [2, 3, 8]),
  product("uint8 by uint8 with a zero point in its middle", ["uint8", 17, 32], ["uint8", 32, 24], { a: 3, b: [127, 129] }, [17, 24]),
  product("a zero point for each column", ["uint8", 5, 32], ["uint8", 32, 24], { a: 200, b: [90, 160, 24] }, [5, 24]),
  product("zero points of a run", ["uint8", 2, 5, 20], ["uint8", 20, 12], { a: "run", b: "run" }, [2, 5, 12]),
  product("both operands of a run", ["uint8", 3, 5, 16], ["int8", 3, 16, 7], { a: "run", b: [-3, 9] }, [3, 5, 7], true),
  product("a vector on the left", ["uint8", 16], ["uint8", 2, 16, 8], { a: 4, b: [100, 110] }, [2, 8]),
  product("a vector on the right", ["int8", 3, 16], ["uint8", 16], { a: -7, b: [100, 110] }, [3]),
  convolution("uint8 by int8, padded", ["uint8", 1, 16, 7, 6], ["int8", 24, 16, 3, 3], { x: 119 }, "pads = [1, 1, 1, 1]", [1, 24, 7, 6]),
  convolution(
    "weights with a zero point",
    ["uint8", 2, 16, 6, 5],
    ["uint8", 8, 16, 3, 3],
    { x: 14, w: 99 },
    "pads = [1, 0, 1, 2], strides = [2, 1]",
    [2, 8, 3, 5],
  ),
  convolution(
    "three channels, the zero point of a run",
    ["uint8", 1, 3, 12, 13],
    ["uint8", 8, 3, 3, 3],
    { x: "run", w: 120 },
    'auto_pad = "SAME_UPPER", strides = [2, 2]',
    [1, 8, 6, 7],
  ),
  convolution("groups", ["uint8", 1, 32, 5, 5], ["uint8", 32, 16, 3, 3], { x: 5, w: 140 }, "group = 2, pads = [1, 1, 1, 1]", [1, 32, 5, 5]),
  convolution(
    "depthwise",
    ["uint8", 1, 16, 7, 7],
    ["uint8", 16, 1, 3, 3],
    { x: 250, w: 3 },
    "group = 16, pads = [1, 1, 1, 1]",
    [1, 16, 7, 7],
  ),
  convolution(
    "one spatial dim",
    ["uint8", 2, 8, 19],
    ["uint8", 12, 8, 5],
    { x: 40, w: 128 },
    "pads = [2, 2], dilations = [2]",
    [2, 12, 15],
  ),
  linear("dynamic, int8 weights", [2, 7, 64], 48, "int8", 0),
  linear("dynamic, uint8 weights", [2, 7, 64], 48, "uint8", 0),
  linear("dynamic, a scale for each column", [9, 32], 24, "int8", 24),
  linear("dynamic, of numbers above 0", [128, 96], 16, "int8", 0, 9),
  dynamicConvolution("dynamic convolution", [1, 16, 9, 9], [24, 16, 3, 3], "pads = [1, 1, 1, 1]", [1, 24, 9, 9], 128),
  dynamicConvolution(
    "dynamic convolution of three channels",
    [1, 3, 15, 15],
    [8, 3, 3, 3],
    "pads = [1, 1, 1, 1], strides = [2, 2]",
    [1, 8, 8, 8],
    113,
  ),
  {
    title: "dynamic quantization alone, and of one number",
    text: graph(
      "%x: float32[3, 50], %one: float32[]",
      "%q, %s, %z, %p, %t, %u",
      "%q: uint8[3, 50], %s: float32[], %z: uint8[] = DynamicQuantizeLinear(%x)",
      "%p: uint8[], %t: float32[], %u: uint8[] = DynamicQuantizeLinear(%one)",
    ),
    inputs: [floats([3, 50]), new Tensor("float32", Float32Array.of(-2.5), [])],
  },
  {
    title: "quantized bytes that are moved and read elsewhere too",
    text: graph(
      "%x: float32[1, 8, 6, 6]",
      "%y, %r, %t",
      constant("w", "int8", [16, 8, 3, 3], -127, 127),
      "const %s = float32[] [0.03]",
      "const %z = uint8[] [141]",
      "%q: uint8[1, 8, 6, 6] = QuantizeLinear(%x, %s, %z)",
      "%p: uint8[1, 8, 3, 3] = MaxPool(%q) {kernel_shape = [2, 2], strides = [2, 2]}",
      "%t: uint8[1, 8, 3, 3] = Identity(%p)",
      "%y: int32[1, 16, 3, 3] = ConvInteger(%p, %w, %z) {pads = [1, 1, 1, 1]}",
      "%r: float32[1, 8, 6, 6] = DequantizeLinear(%q, %s, %z)",
    ),
    inputs: [floats([1, 8, 6, 6])],
  },
];
