/** Simulated quantization: TensorFlow's nudging, computed anew here in float32, and the Q/DQ pairs it becomes. */
import { expect, it } from "vitest";
import { evaluate } from "../../../src/engines/host/index.js";
import { importTf } from "../../../src/import/tf/index.js";
import { typedOf } from "../../../src/ir/payload.js";
import { inferGraph } from "../../../src/ops/infer.js";
import { foldConstants } from "../../../src/passes/fold-constants.js";
import { passContext } from "../../../src/passes/pass.js";
import { bool, constant, float, graphDef, int, node, placeholder, text } from "../../support/tf-graph.js";
import { cf, check, ci, f, t, wf } from "../../support/tf-ops.js";

const F = Math.fround;
/** fake_quant_ops_functor.h, step by step. */
function fakeQuant(x: number, min: number, max: number, bits: number, narrow: boolean): number {
  if (min === 0 && max === 0) return 0;
  const [least, most] = [narrow ? 1 : 0, 2 ** bits - 1];
  const scale = F(F(max - min) / F(most - least));
  const from = F(least - F(min / scale));
  const zero = from < least ? least : from > most ? most : Math.floor(from + 0.5);
  const [low, high] = [F(F(least - zero) * scale), F(F(most - zero) * scale)];
  const held = F(Math.max(low, Math.min(high, x)) - low);
  return F(F(Math.floor(F(F(held * F(1 / scale)) + 0.5)) * scale) + low);
}
const X = [-7, -3.3, -1.01, -0.26, 0, 0.11, 0.6, 1.7, 2.9, 5.9, 6, 8];

it.each([
  [-6, 6, 8, false],
  [0, 6, 8, false],
  [-1, 3, 8, false],
  [-1, 3, 8, true],
  [-2, 2, 8, true],
  [-0.5, 4, 4, false],
  [-1, 1, 16, true],
  [0.5, 4, 8, false],
  [-4, -1, 8, false],
  [0, 0, 8, false],
] as const)("nudges the range %d to %d of %d bits (narrow: %s)", async (min, max, bits, narrow) => {
  const attrs = { num_bits: int(bits), narrow_range: bool(narrow) };
  const wanted = wf(
    [X.length],
    X.map((x) => fakeQuant(F(x), F(min), F(max), bits, narrow)),
  );
  await check("FakeQuantWithMinMaxVars", [f([X.length], X), cf([], [min]), cf([], [max])], attrs, wanted);
  await check("FakeQuantWithMinMaxVars", [f([X.length], X), f([], [min]), f([], [max])], attrs, wanted);
  await check("FakeQuantWithMinMaxArgs", [f([X.length], X)], { ...attrs, min: float(min), max: float(max) }, wanted);
});
it("nudges by channel", async () => {
  const x = [-3, 3, 0.3, -0.3, 9, 9];
  const wanted = x.map((v, k) => fakeQuant(F(v), k % 2 === 0 ? -1 : -2, k % 2 === 0 ? 1.5 : 2, 8, false));
  await check("FakeQuantWithMinMaxVarsPerChannel", [f([3, 2], x), cf([2], [-1, -2]), cf([2], [1.5, 2])], {}, wf([3, 2], wanted));
});
it("becomes a symmetric pair without a zero point where the range is symmetric", async () => {
  const g = importTf(
    graphDef([
      placeholder("x", 1, [4]),
      constant("min", 1, [], [-2.54]),
      constant("max", 1, [], [2.54]),
      node("y", "FakeQuantWithMinMaxVars", ["x", "min", "max"], { narrow_range: bool(true) }),
    ]),
  );
  const folded = await foldConstants.run(inferGraph(g).graph, passContext({ evaluate }));
  const q = folded.nodes.find((n) => n.op === "QuantizeLinear");
  const [scale, zero] = [q?.ins[1], q?.ins[2]].map((v) => (v === undefined ? undefined : folded.constants.get(v)));
  expect(zero?.dtype).toBe("int8");
  expect(zero === undefined ? [] : Array.from(typedOf(zero) as Int8Array)).toEqual([0]);
  expect(scale === undefined ? 0 : (typedOf(scale) as Float32Array)[0]).toBeCloseTo(0.02, 6);
});
it("scales by the side that needs more, keeping zero", async () => {
  const x = [-0.9, -0.5, 0, 0.3, 1.1];
  const rint = (v: number): number => {
    const low = Math.floor(v);
    return v - low > 0.5 || (v - low === 0.5 && low % 2 !== 0) ? low + 1 : low;
  };
  const by = (scale: number, low: number, high: number) => x.map((v) => Math.max(low, Math.min(high, rint(v / scale))) * scale);
  const given = { range_given: bool(true) };
  await check("QuantizeAndDequantizeV2", [f([5], x), f([], [-1]), f([], [1])], given, wf([5], by(1 / 127, -128, 127)));
  await check("QuantizeAndDequantizeV2", [f([5], x), f([], [-1.28]), f([], [1])], given, wf([5], by(0.01, -128, 127)));
  await check(
    "QuantizeAndDequantizeV2",
    [f([5], x), f([], [-1]), f([], [1])],
    { ...given, narrow_range: bool(true) },
    wf([5], by(1 / 127, -127, 127)),
  );
  await check("QuantizeAndDequantizeV4", [f([5], x), f([], [0]), f([], [0])], {}, wf([5], by(1.1 / 127, -128, 127)));
  await check(
    "QuantizeAndDequantizeV3",
    [f([5], x), f([], [0]), f([], [1]), ci([], [4])],
    { signed_input: bool(false), range_given: bool(true) },
    wf([5], by(1 / 15, 0, 15)),
  );
});
it("reads stored quantized tensors in every mode", async () => {
  const steps = t("uint8", [3], [0, 128, 255]);
  await check("Dequantize", [steps, f([], [-1]), f([], [1])], {}, wf([3], [-1, -1 + 256 / 255, 1]));
  await check("Dequantize", [steps, f([], [0]), f([], [2])], { mode: text("SCALED") }, wf([3], [0, (128 * 2) / 255, 2]));
  await check("Dequantize", [t("int8", [2], [-128, 127]), f([], [-1]), f([], [1])], { mode: text("SCALED") }, wf([2], [-128 / 127, 1]));
  await check("Dequantize", [t("int8", [2], [-128, 127]), f([], [-1]), f([], [1])], {}, wf([2], [-1, 1]));
});
