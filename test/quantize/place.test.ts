/** Placement of quantizers: what is quantized, what stays float, and why; integer weights and biases. */
import { describe, expect, test } from "vitest";
import { parse } from "../../src/ir/parse.js";
import { typedOf } from "../../src/ir/payload.js";
import { print } from "../../src/ir/print.js";
import type { Graph } from "../../src/ir/types.js";
import { verify } from "../../src/ir/verify.js";
import { inferGraph } from "../../src/ops/infer.js";
import { exclusions } from "../../src/quantize/index.js";
import { carriesQuantizers, type PlaceOptions, place, quantizable } from "../../src/quantize/place.js";
import { methodsOf } from "../../src/quantize/ranges.js";
import { activationScale, channelMaxima, integerWeight, LEAST_SCALE } from "../../src/quantize/weights.js";
import { nodes } from "../passes/support.js";

const weight = (name: string, ...dims: number[]): string =>
  `const %${name} = float32[${dims.join(", ")}] [${Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => ((i * 7) % 19) - 9).join(", ")}]`;
const net = (inputs: string, outputs: string, ...lines: string[]): Graph =>
  inferGraph(parse(`graph "g" opset {"": 21} (${inputs}) -> (${outputs}) {\n${lines.join("\n")}\n}`)).graph;

/** Places with every range 1, or those given by name. */
function placed(g: Graph, ranges: Readonly<Record<string, number>> = {}, options: PlaceOptions = {}) {
  const { facts } = inferGraph(g);
  const known = new Map(quantizable(g, facts, options).map((v) => [g.values[v]?.name ?? "", ranges[g.values[v]?.name ?? ""] ?? 1]));
  const made = place(g, facts, known, options);
  const { graph } = inferGraph(made.graph);
  verify(graph);
  return {
    ...made,
    lines: nodes(print(graph)).map((l) => l.replace(/ @.*/, "")),
    /** name: why, of what stays float. */
    floats: made.decisions.filter((d) => d.kind === "float").map((d) => `${d.name}: ${d.why}`),
    quantized: made.decisions.filter((d) => d.kind === "activation").map((d) => `${d.name} ${d.scales.map((s) => s.toFixed(5)).join()}`),
    scaleOf: (name: string) => made.decisions.find((d) => d.name === name && d.kind === "activation")?.scales[0],
  };
}
const CONV = "{pads = [1, 1, 1, 1]}";

describe("products", () => {
  test("every input of a convolution, weights per output channel, the bias as int32 at the scale of the sums", () => {
    const g = net("%x: float32[1, 2, 4, 4]", "%y", weight("w", 16, 2, 3, 3), weight("b", 16), `%y = Conv(%x, %w, %b) ${CONV}`);
    const { lines, decisions, graph } = placed(g, { x: 12.7 });
    expect(lines).toEqual([
      "%x/q = QuantizeLinear(%x, %quantize/scale, %quantize/zero)",
      "%x/dq = DequantizeLinear(%x/q, %quantize/scale, %quantize/zero)",
      "%w/dq = DequantizeLinear(%w/int8, %w/scale) {axis = 0}",
      "%b/dq = DequantizeLinear(%b/int32, %b/scale) {axis = 0}",
      "%y = Conv(%x/dq, %w/dq, %b/dq) {pads = [1, 1, 1, 1]}",
    ]);
    const constants = Object.fromEntries([...graph.constants].map(([v, c]) => [graph.values[v]?.name, typedOf(c)]));
    const [sx, sw, sb] = [0.1, constants["w/scale"], constants["b/scale"]] as [number, Float32Array, Float32Array];
    expect(sw).toHaveLength(16);
    expect(Math.max(...(constants["w/int8"] as Int8Array))).toBe(127);
    expect([...sb]).toEqual([...sw].map((s) => Math.fround(Math.fround(sx) * s)));
    expect([...(constants["b/int32"] as Int32Array)]).toEqual([...sb].map((s, k) => Math.round((((k * 7) % 19) - 9) / s)));
    expect(decisions.map((d) => [d.name, d.kind, d.scales.length])).toEqual([
      ["x", "activation", 1],
      ["w", "weight", 16],
      ["b", "bias", 16],
    ]);
  });
  test("axes: ConvTranspose 1, MatMul 1, Gemm by transB", () => {
    const g = net(
      "%x: float32[1, 16, 4, 4], %t: float32[3, 16]",
      "%y, %m, %a, %b",
      weight("wt", 16, 17, 2, 2),
      weight("wm", 16, 18),
      weight("wg", 20, 16),
      "%y = ConvTranspose(%x, %wt)",
      "%m = MatMul(%t, %wm)",
      "%a = Gemm(%t, %wm)",
      "%b = Gemm(%t, %wg) {transB = 1}",
    );
    const axes = placed(g).lines.filter((l) => l.startsWith("%w"));
    expect(axes).toEqual([
      "%wt/dq = DequantizeLinear(%wt/int8, %wt/scale) {axis = 1}",
      "%wm/dq = DequantizeLinear(%wm/int8, %wm/scale) {axis = 1}",
      "%wm/dq.1 = DequantizeLinear(%wm/int8.1, %wm/scale.1) {axis = 1}",
      "%wg/dq = DequantizeLinear(%wg/int8, %wg/scale) {axis = 0}",
    ]);
  });
  test.each([
    ["a row", "%x: float32[1, 32]", weight("w", 32, 32), "MatMul(%x, %w)", "a product with a vector (1 by 32)"],
    ["a column", "%x: float32[N, 32]", weight("w", 32, 1), "MatMul(%x, %w)", "a product with a vector (? by 1)"],
    ["few columns", "%x: float32[N, 32]", weight("w", 32, 10), "MatMul(%x, %w)", "32 products in 10 columns: fewer than 16"],
    ["few products", "%x: float32[N, 8]", weight("w", 8, 32), "MatMul(%x, %w)", "8 products in 32 columns: fewer than 16"],
    ["few channels", "%x: float32[1, 3, 8, 8]", weight("w", 8, 3, 3, 3), "Conv(%x, %w)", "3 input and 8 output channels"],
    ["another scale", "%x: float32[4, 32]", weight("w", 32, 32), "Gemm(%x, %w) {alpha = 0.5}", "alpha or beta is not 1"],
    ["float16", "%x: float16[4, 32], %w: float16[32, 32]", "", "MatMul(%x, %w)", "an operand is float16"],
  ])("%s stays float", (_what, inputs, constant, node, why) => {
    const { floats, quantized } = placed(net(inputs, "%y", constant, `%y = ${node}`));
    expect(quantized).toEqual([]);
    expect(floats[0]).toContain(why);
  });
  test("two activations are both quantized; inside attention they stay float", () => {
    const inputs = "%q: float32[2, 32, 32], %k: float32[2, 32, 32]";
    expect(placed(net(inputs, "%y", "%y = MatMul(%q, %k)")).quantized).toHaveLength(2);
    const attention = net(inputs, "%y", "%s = MatMul(%q, %k)", "%p = Softmax(%s) {axis = -1}", "%y = MatMul(%p, %k)");
    expect(placed(attention).quantized).toEqual([]);
    expect(placed(attention).floats[0]).toContain("a product inside attention");
  });
  test("graph outputs stay float, and a quantizer serves its readers alone", () => {
    const g = net("%x: float32[1, 16, 4, 4]", "%r, %y", weight("w", 16, 16, 1, 1), "%r = Relu(%x)", "%y = Conv(%r, %w)");
    const { lines, decisions, graph } = placed(g);
    expect(graph.outputs.map((v) => graph.values[v]?.name)).toEqual(["r", "y"]);
    expect(lines.at(-1)).toBe("%y = Conv(%r/dq, %w/dq)");
    expect(decisions.find((d) => d.name === "r")?.reader).toBeDefined();
  });
});

describe("residual sums", () => {
  const block = (last: string): Graph =>
    net(
      "%x: float32[1, 16, 4, 4]",
      "%z",
      weight("w", 16, 16, 3, 3),
      "%r = Relu(%x)",
      `%a = Conv(%r, %w) ${CONV}`,
      last,
      "%s = Relu(%y)",
      `%z = Conv(%s, %w) ${CONV}`,
    );
  test("the operand that skips the block is quantized, the sum in front of the Add is not", () => {
    expect(placed(block("%y = Add(%a, %r)")).lines).toContain("%y = Add(%a, %r/dq)");
    expect(placed(block("%y = Add(%r, %a)")).lines).toContain("%y = Add(%r/dq, %a)");
  });
  test("of two convolutions the longer path stays float", () => {
    const g = net(
      "%x: float32[1, 16, 4, 4]",
      "%z",
      weight("w", 16, 16, 3, 3),
      `%d = Conv(%x, %w) ${CONV}`,
      `%a = Conv(%x, %w) ${CONV}`,
      "%r = Relu(%a)",
      `%b = Conv(%r, %w) ${CONV}`,
      "%z = Add(%d, %b)",
    );
    expect(placed(g).lines).toContain("%z = Add(%d/dq, %b)");
  });
  test("a residual that nobody reads as int8 stays float", () => {
    const g = net(
      "%x: float32[4, 32]",
      "%z",
      weight("w", 32, 32),
      weight("g", 32),
      "%n = LayerNormalization(%x, %g)",
      "%m = MatMul(%n, %w)",
      "%z = Add(%m, %x)",
    );
    expect(placed(g).floats).toEqual(["x: a residual that no other operator reads as int8 stays float: quantizing it alone saves nothing"]);
  });
});

describe("operators that move int8", () => {
  test("share the scale of their input, with a pair on either side", () => {
    const g = net(
      "%x: float32[1, 16, 8, 8]",
      "%y",
      weight("w", 16, 16, 1, 1),
      "%a = Conv(%x, %w)",
      "%r = Relu(%a)",
      "%p = MaxPool(%r) {kernel_shape = [2, 2], strides = [2, 2]}",
      "%y = Conv(%p, %w)",
    );
    const { lines, scaleOf } = placed(g, { r: 3, p: 2.5 });
    expect(lines).toContain("%p = MaxPool(%r/dq) {kernel_shape = [2, 2], strides = [2, 2]}");
    expect(scaleOf("p")).toBe(Math.fround(3 / 127));
    expect(scaleOf("r")).toBe(Math.fround(3 / 127));
  });
  test("not where another reader wants the float, nor where ranges lie far apart", () => {
    const g = (outputs: string): Graph =>
      net(
        "%x: float32[1, 16, 8, 8]",
        outputs,
        weight("w", 16, 16, 1, 1),
        "%p = MaxPool(%x) {kernel_shape = [2, 2], strides = [2, 2]}",
        "%y = Conv(%p, %w)",
      );
    const read = "%p = MaxPool(%x) {kernel_shape = [2, 2], strides = [2, 2]}";
    expect(placed(g("%y, %p")).lines).toContain(read);
    expect(placed(g("%y"), { x: 100, p: 1 }).lines).toContain(read);
    expect(placed(g("%y"), { x: 100, p: 1 }).floats).toEqual([
      "x: MaxPool stays float: its tensors' ranges are too far apart for one scale",
    ]);
    expect(placed(g("%y"), { x: 2, p: 1 }).lines).toContain(read.replace("%x", "%x/dq"));
  });
  test("Pad moves int8 when it pads with zeros", () => {
    const g = (value: string): Graph =>
      net(
        "%x: float32[1, 16, 8, 8]",
        "%y",
        weight("w", 16, 16, 3, 3),
        "const %pads = int64[8] [0, 0, 0, 0, 0, 0, 1, 1]",
        `const %v = float32[] [${value}]`,
        "%p = Pad(%x, %pads, %v)",
        "%y = Conv(%p, %w)",
      );
    expect(placed(g("0.0")).lines).toContain("%p = Pad(%x/dq, %pads, %v)");
    expect(placed(g("1.0")).lines).toContain("%p = Pad(%x, %pads, %v)");
  });
  const concat = (second: string): Graph =>
    net(
      "%x: float32[1, 16, 8, 8], %t: float32[1, 16, 8, 8]",
      "%y",
      weight("w", 16, 32, 1, 1),
      "%a = Relu(%x)",
      second,
      "%c = Concat(%a, %b) {axis = 1}",
      "%y = Conv(%c, %w)",
    );
  test("operands of a Concat share the widest range", () => {
    const { scaleOf, lines } = placed(concat("%b = Relu(%t)"), { a: 1, b: 3, c: 2.9 });
    expect(lines).toContain("%c = Concat(%a/dq, %b/dq) {axis = 1}");
    expect([scaleOf("a"), scaleOf("b"), scaleOf("c")]).toEqual(new Array(3).fill(Math.fround(3 / 127)));
  });
  test("coordinates and scores do not", () => {
    expect(placed(concat("%b = Sigmoid(%t)"), { a: 1, b: 1, c: 1 }).lines).toContain("%c = Concat(%a, %b) {axis = 1}");
    expect(placed(concat("%b = Relu(%t)"), { a: 50, b: 1, c: 50 }).lines).toContain("%c = Concat(%a, %b) {axis = 1}");
  });
  test("average pools take int8 where their result is read as int8", () => {
    const g = (head: string): Graph =>
      net(
        "%x: float32[N, 32, 4, 4]",
        "%y",
        weight("w", 32, 32),
        weight("few", 32, 5),
        "%p = GlobalAveragePool(%x)",
        "%f = Flatten(%p) {axis = 1}",
        `%y = Gemm(%f, %${head})`,
      );
    expect(placed(g("w")).lines).toContain("%p = GlobalAveragePool(%x/dq)");
    expect(placed(g("few")).lines).toContain("%p = GlobalAveragePool(%x)");
  });
});

describe("what users say", () => {
  const g = net("%x: float32[1, 16, 4, 4]", "%z", weight("w", 16, 16, 1, 1), '%y = Conv(%x, %w) @"stem"', '%z = Conv(%y, %w) @"head"');
  test("excluded nodes stay float, and are not asked for", () => {
    const keepFloat = exclusions(g, ["he*"]);
    const { lines, floats } = placed(g, {}, { keepFloat });
    expect(lines.at(-1)).toBe("%z = Conv(%y, %w)");
    expect(floats).toEqual(["w: excluded by 'he*'", "y: excluded by 'he*'"]);
    expect(quantizable(g, inferGraph(g).facts, { keepFloat }).map((v) => g.values[v]?.name)).toEqual(["x"]);
  });
  test("an exclusion of nothing is refused", () => {
    expect(() => exclusions(g, ["stam"])).toThrow(
      "P1631 no node, origin or operator matches 'stam' in calibration.exclude. Did you mean 'stem'?",
    );
  });
  test("a tensor without a finite range keeps its reader float", () => {
    const { facts } = inferGraph(g);
    const { decisions } = place(
      g,
      facts,
      new Map([
        ["x", 1],
        ["y", Number.NaN],
      ]),
    );
    expect(decisions.filter((d) => d.kind === "float").map((d) => d.why)).toEqual(
      new Array(2).fill("calibration gave no finite range for 'y'"),
    );
  });
});

test("a graph's own quantizers are seen", () => {
  const plain = net("%x: float32[4]", "%y", "%y = Relu(%x)");
  expect(carriesQuantizers(plain)).toBe(false);
  const g = net(
    "%x: float32[4]",
    "%y",
    "const %s = float32[] [0.5]",
    "const %z = int8[] [0]",
    "%q = QuantizeLinear(%x, %s, %z)",
    "%y = DequantizeLinear(%q, %s, %z)",
  );
  expect(carriesQuantizers(g)).toBe(true);
});
test("the rule of methods: nothing is clipped behind a normalisation, GELU or attention, through views", () => {
  const g = net(
    "%x: float32[2, 4, 8]",
    "%t, %r",
    weight("g", 8),
    "%n = LayerNormalization(%x, %g)",
    "%t = Transpose(%n) {perm = [0, 2, 1]}",
    "%r = Relu(%n)",
  );
  const rule = methodsOf(g);
  const of = (name: string) => rule(g.values.find((v) => v?.name === name)?.id as never);
  expect(["x", "n", "t", "r"].map(of)).toEqual(["mse", "max", "max", "mse"]);
});

describe("integer weights", () => {
  const floats = (dims: readonly number[], values: number[]) => ({
    dtype: "float32" as const,
    dims,
    data: { kind: "bytes" as const, bytes: new Uint8Array(Float32Array.from(values).buffer) },
  });
  test("never reach -128; a dead channel has a scale", () => {
    const made = integerWeight(floats([2, 2], [-2, 1, 0, 0]), { axis: 0, xScale: 1 });
    expect([...(typedOf(made?.steps as never) as Int8Array)]).toEqual([-127, 64, 0, 0]);
    expect([...(made?.scales ?? [])]).toEqual([Math.fround(2 / 127), LEAST_SCALE]);
  });
  test("the scale grows where the bias would leave int32", () => {
    const made = integerWeight(floats([2, 1], [0, 1e-6]), { axis: 0, xScale: 1e-3, bias: Float32Array.of(5, -3) });
    const bias = [...(typedOf(made?.bias as never) as Int32Array)];
    for (const [k, b] of [5, -3].entries()) {
      expect(Math.abs(bias[k] as number)).toBeLessThanOrEqual(2 ** 30 + 64);
      expect((bias[k] as number) * Math.fround(Math.fround(1e-3) * (made?.scales[k] as number))).toBeCloseTo(b, 5);
    }
  });
  test("what is not finite is left", () => {
    expect(integerWeight(floats([1], [Number.NaN]), { axis: undefined, xScale: 1 })).toBeUndefined();
    expect(integerWeight(floats([1], [1]), { axis: 0, xScale: 1, bias: Float32Array.of(Number.POSITIVE_INFINITY) })).toBeUndefined();
  });
  test("maxima along any axis; a tensor of zeros has a scale", () => {
    expect([...channelMaxima(Float32Array.of(1, -5, 2, 3), [2, 2], 1)]).toEqual([2, 5]);
    expect([...channelMaxima(Float32Array.of(1, -5, 2, 3), [2, 2], undefined)]).toEqual([5]);
    expect(activationScale(0)).toBe(Math.fround(1 / 127));
    expect(activationScale(1e-30)).toBe(LEAST_SCALE);
  });
});
