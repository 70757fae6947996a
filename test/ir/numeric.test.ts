import { describe, expect, test } from "vitest";
import * as numeric from "../../src/ir/numeric.js";

/** binary16 to number, from the definition in IEEE 754: sign, exponent with bias 15, ten bits of fraction. */
function reference(bits: number): number {
  const [s, e, f] = [bits >> 15, (bits >> 10) & 31, bits & 1023];
  const magnitude =
    e === 31 ? (f === 0 ? Number.POSITIVE_INFINITY : Number.NaN) : e === 0 ? (f / 1024) * 2 ** -14 : (1 + f / 1024) * 2 ** (e - 15);
  return s === 1 ? -magnitude : magnitude;
}
const finite: { readonly bits: number; readonly value: number }[] = [];
for (let bits = 0; bits < 0x7c00; bits++) finite.push({ bits, value: reference(bits) });

describe("float16", () => {
  test("all 65536 patterns decode, and encode to themselves", () => {
    let wrong = 0;
    for (let bits = 0; bits < 0x10000; bits++) {
      const x = numeric.halfToNumber(bits);
      const again = numeric.numberToHalf(x);
      if (!Object.is(x, reference(bits)) || again !== (Number.isNaN(x) ? 0x7e00 : bits)) wrong++;
    }
    expect(wrong).toBe(0);
  });

  test("between neighbours it rounds to the nearest, ties to even", () => {
    let wrong = 0;
    for (let i = 0; i + 1 < finite.length; i++) {
      const [low, high] = [finite[i], finite[i + 1]];
      if (low === undefined || high === undefined) continue;
      const middle = (low.value + high.value) / 2;
      const gap = high.value - low.value;
      const even = low.bits % 2 === 0 ? low.bits : high.bits;
      if (numeric.numberToHalf(middle) !== even) wrong++;
      if (numeric.numberToHalf(middle - gap * 1e-6) !== low.bits || numeric.numberToHalf(middle + gap * 1e-6) !== high.bits) wrong++;
      if (numeric.numberToHalf(-middle) !== even + 0x8000) wrong++;
    }
    expect(wrong).toBe(0);
    expect(numeric.numberToHalf(65519.99)).toBe(0x7bff);
    expect(numeric.numberToHalf(65520)).toBe(0x7c00);
    expect(numeric.numberToHalf(1e300)).toBe(0x7c00);
    expect(numeric.numberToHalf(5e-324)).toBe(0);
    expect(numeric.numberToHalf(-5e-324)).toBe(0x8000);
  });
});

test("bfloat16 rounds to nearest even and keeps every pattern", () => {
  let wrong = 0;
  for (let bits = 0; bits < 0x10000; bits++) {
    const x = numeric.bfloat16ToNumber(bits);
    if (numeric.numberToBfloat16(x) !== (Number.isNaN(x) ? 0x7fc0 : bits)) wrong++;
  }
  expect(wrong).toBe(0);
  expect(numeric.numberToBfloat16(1 + 2 ** -8)).toBe(0x3f80);
  expect(numeric.numberToBfloat16(1 + 3 * 2 ** -8)).toBe(0x3f82);
  expect(numeric.numberToBfloat16(3.4e38)).toBe(0x7f80);
});

test("ties go to even", () => {
  expect([0.5, 1.5, 2.5, -0.5, -1.5, 2.4999999999999996].map((x) => numeric.roundHalfEven(x) + 0)).toEqual([0, 2, 2, 0, -2, 2]);
});
