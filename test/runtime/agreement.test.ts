import { expect, it } from "vitest";
import { parse } from "../../src/ir/parse.js";
import { agreementOf } from "../../src/runtime/agreement.js";
import { Tensor } from "../../src/tensor.js";

const floats = (...values: readonly number[]): Tensor => new Tensor("float32", values, [values.length]);

it("outputs behind a quantizer are counted in its steps, others in 127ths of what is expected", () => {
  const g = parse(`graph "g" opset {"": 18} (%q: int8[4], %x: float32[2], %n: int64[1]) -> (%y, %z, %m) {
    const %s = float32[] [0.5]
    const %zero = int8[] [0]
    %y: float32[4] = DequantizeLinear(%q, %s, %zero)
    %z: float32[2] = Relu(%x)
    %m: int64[1] = Identity(%n)
  }`);
  const whole = new Tensor("int64", [7], [1]);
  const expected = [floats(1, -2, 0.5, 60), floats(127, 1), whole];
  expect(agreementOf(g, expected, expected)).toEqual({ elements: 6, mismatchPpm: 0, maxSteps: 0 });
  // One step in a quantized element, 0.25 and 3 steps in floats: two of six are nearest to another step.
  expect(agreementOf(g, [floats(1, -2, 1, 60), floats(127.25, 4), whole], expected)).toEqual({
    elements: 6,
    mismatchPpm: 333333,
    maxSteps: 3,
  });
  expect(agreementOf(g, [floats(1, -2, Number.NaN, 60), floats(127, 1), whole], expected)).toEqual({ elements: 6, mismatchPpm: 166667 });
});

it("says nothing of a graph without float outputs", () => {
  const g = parse(`graph "g" opset {"": 18} (%n: int64[1]) -> (%m) { %m: int64[1] = Identity(%n) }`);
  const whole = [new Tensor("int64", [7], [1])];
  expect(agreementOf(g, whole, whole)).toBeUndefined();
});
