/** Operators that no runtime has are refused with their reason when a segment is built. */
import { expect, it } from "vitest";
import { compile } from "../../src/compile.js";
import { parse } from "../../src/ir/parse.js";

it("names the node, the reason and the remedy", async () => {
  const g = parse(`graph "g" opset {"": 18, "ai.onnx.preview.training": 1} (%a: float32[], %b: float32[]) -> (%c, %d) {
    %c: float32[] = Add(%a, %b)
    %d: float32[] = "ai.onnx.preview.training"."Gradient"(%a) {xs = ["a"], y = "c"} @"derivative"
  }`);
  await expect(compile(g, { target: "host" })).rejects.toThrow(
    /^P2006 node 'derivative' \(ai\.onnx\.preview\.training\.Gradient\): ai\.onnx\.preview\.training\.Gradient cannot run on the host: ONNX Runtime for inference does not differentiate graphs\. Export the forward graph alone\.$/,
  );
});

it("finds them in bodies", async () => {
  const g = parse(`graph "g" opset {"": 18, "ai.onnx.preview": 1} (%go: bool, %q: float32[1, 1, 2, 4]) -> (%y) {
    %y: float32[1, 1, 2, 4] = If(%go) {
      then_branch = graph "then" () captures (%x = %q) -> (%z) { %z = "ai.onnx.preview"."FlexAttention"(%x, %x, %x) @"inner" }
      else_branch = graph "else" () captures (%x = %q) -> (%z) { %z = Neg(%x) }
    }
  }`);
  await expect(compile(g, { target: "host" })).rejects.toThrow(/^P2006 node 'inner'/);
});
