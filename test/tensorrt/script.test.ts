/** The call script against the stand-in for TensorRT-RTX 1.7. */
import { expect, it } from "vitest";
import { openTensorRt } from "../../src/engines/tensorrt/open.js";
import { compileStandIn } from "../support/fake-tensorrt.js";
import { expected, script } from "../support/tensorrt-script.js";

const made = compileStandIn("rtx-1.5");
it.skipIf(typeof made === "string")(`the stand-in answers the script${typeof made === "string" ? ` (skipped: ${made})` : ""}`, async () => {
  if (typeof made === "string") return;
  expect(await script(openTensorRt(made))).toEqual(expected);
});
