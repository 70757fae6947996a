import { describe, expect, test } from "vitest";
import { add, addResidual, conv, matmul, quantize, requantize, roundHalfEven } from "../../src/quantize/arithmetic.js";
import { compareWithKernels, familyNames } from "../support/integer-kernels.js";

describe("the arithmetic of ONNX Runtime's integer kernels, bit for bit", () => {
  test.each(familyNames)("%s", async (family) => {
    const { wrong, first, compared } = await compareWithKernels(family, 15_000, 7);
    expect(compared).toBeGreaterThanOrEqual(15_000);
    expect(`${wrong} differ ${first ?? ""}`).toBe("0 differ ");
  });
});

describe("corners", () => {
  test("ties go to the even step, on both sides of zero", () => {
    expect([0.5, 1.5, 2.5, -0.5, -1.5, -2.5].map(roundHalfEven)).toEqual([0, 2, 2, 0, -2, -2]);
  });
  test("activations reach -128; NaN does too", () => {
    expect([...quantize(Float32Array.of(-1000, 1000, Number.NaN, -127.6), 1)]).toEqual([-128, 127, -128, -128]);
  });
  test("a quotient is divided, not multiplied by a reciprocal", () => {
    // Halves of this scale come out as ties by division alone.
    const s = Math.fround(0.1);
    const x = Float32Array.from({ length: 255 }, (_, i) => Math.fround((i - 127 + 0.5) * s));
    const byReciprocal = x.map((v) => roundHalfEven(Math.fround(v * Math.fround(1 / s))));
    expect([...quantize(x, s)].filter((q, i) => q !== byReciprocal[i]).length).toBeGreaterThan(0);
  });
  test("sums are int32 modulo 2^32, and rounded to float32 before the multiplier", () => {
    const acc = conv(
      { data: Int8Array.of(1), dims: [1, 1, 1] },
      { data: Int8Array.of(1), dims: [1, 1, 1] },
      Int32Array.of(2 ** 31 - 1),
      {},
    );
    expect([...acc.data]).toEqual([-(2 ** 31)]);
    const large = { data: Int32Array.of(16_777_217), dims: [1], axis: 0 };
    expect([...requantize(large, Float32Array.of(2 ** -18))]).toEqual([64]);
  });
  test("an empty product is zero", () => {
    expect(matmul({ data: new Int8Array(0), dims: [2, 0] }, { data: new Int8Array(0), dims: [0, 3] })).toEqual({
      data: new Int32Array(6),
      dims: [2, 3],
      axis: 1,
    });
  });
  test("sums of operands round once each", () => {
    expect([...addResidual(Float32Array.of(0.25), Int8Array.of(3), 0.5)]).toEqual([1.75]);
    expect([...add(Int8Array.of(-128, 5), 0.5, Int8Array.of(-128, 3), 0.25, 0.5)]).toEqual([-128, 6]);
  });
});
