/** The reference arithmetic against ONNX Runtime's integer kernels on a million random outputs of each family, every bit. */
import { expect, test } from "vitest";
import { compareWithKernels, familyNames } from "../support/integer-kernels.js";

test.each(familyNames)("%s: 10^6 outputs", async (family) => {
  const { compared, wrong, first } = await compareWithKernels(family, 1_000_000, 2024);
  expect(compared).toBeGreaterThanOrEqual(1_000_000);
  expect(`${wrong} differ ${first ?? ""}`).toBe("0 differ ");
});
