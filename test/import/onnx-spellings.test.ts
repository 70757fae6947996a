/** What older operator sets wrote otherwise is read into today's spelling, in the types that the file has. */
import { expect, it } from "vitest";
import { importOnnx } from "../../src/import/onnx/index.js";
import { print } from "../../src/ir/print.js";
import { type Field, intField } from "../fuzz/proto.js";
import { attribute, info, model } from "../support/onnx-model.js";

const FLOAT16 = 10;
const realField = (number: number, x: number): Field => ({
  number,
  wire: 5,
  value: Uint8Array.from(Buffer.from(Float32Array.of(x).buffer)),
});

it("a Pad of float16 fills with a number of that type", () => {
  const pads = attribute("pads", intField(8, 1), intField(8, 0), intField(20, 7));
  const value = attribute("value", realField(2, 1.5), intField(20, 1));
  const g = importOnnx(
    model({
      nodes: [{ op: "Pad", ins: ["x"], outs: ["y"], attrs: [pads, value] }],
      inputs: [info("x", [2], FLOAT16)],
      outputs: [info("y", [3], FLOAT16)],
      opsets: { "": 10 },
    }),
  );
  expect(print(g)).toContain(`= float16[] hex "003e"`);
});
