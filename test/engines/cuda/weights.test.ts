import { describe, expect, it } from "vitest";
import { halfBits, packed } from "../../../src/engines/cuda/weights.js";
import { numberToHalf } from "../../../src/ir/numeric.js";
import { makeConstant } from "../../../src/ir/payload.js";

describe("weights", () => {
  it("rounds to half as the exact conversion does, at every boundary", () => {
    const [one, bits] = [new Float32Array(1), new Uint32Array(1)];
    const float = new Float32Array(bits.buffer);
    void one;
    for (let h = 0; h < 0x7c00; h += 7) {
      for (const delta of [-1, 0, 1, 0xfff, 0x1000, 0x1001]) {
        const exponent = h >>> 10;
        const base =
          exponent === 0 ? (new Uint32Array(Float32Array.of((h & 0x3ff) * 2 ** -24).buffer)[0] as number) : (h << 13) + 0x38000000;
        bits[0] = Math.max(0, base + delta);
        expect(halfBits(bits[0] as number), `bits ${bits[0]}`).toBe(numberToHalf(float[0] as number));
      }
    }
    for (const x of [0, -0, 65504, 65519.99, 65520, 1e9, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 5.96e-8, 2.98e-8, 2.99e-8]) {
      float[0] = x;
      expect(halfBits(bits[0] as number)).toBe(numberToHalf(Math.fround(x)));
    }
    float[0] = Number.NaN;
    expect(halfBits(bits[0] as number) & 0x7c00).toBe(0x7c00);
  });
  it("reorders and converts", () => {
    const c = makeConstant("float32", [2, 3], [0, 1, 2, 3, 4, 5]);
    const out = packed(c, { dims: [3, 2], strides: [1, 3], offset: 0 }, "float32");
    expect([...new Float32Array(out.buffer, out.byteOffset, 6)]).toEqual([0, 3, 1, 4, 2, 5]);
    const halves = packed(c, { dims: [2], strides: [3], offset: 1 }, "float16");
    expect([...new Uint16Array(halves.buffer)]).toEqual([1, 4].map(numberToHalf));
  });
});
