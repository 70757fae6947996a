/** What Partita makes of ONNX Runtime's messages: code, node, operator, native text. */
import { expect, it } from "vitest";
import { ortFailed } from "../../src/engines/host/errors.js";

it.each([
  [
    "Non-zero status code returned while running Mod node. Name:'/m/Mod' Status Message: fmod attribute must be true.",
    "/m/Mod",
    "Mod",
    "run",
  ],
  ["Non-zero status code returned while running Mod node. Name:'' Status Message: fmod attribute must be true.", undefined, "Mod", "run"],
  ["Could not find an implementation for Swish(24) node with name 'act'", "act", "Swish", "create"],
  ['In Node, ("a", Attention, "", -1) : ("Q": tensor(float)) , Error Unrecognized attribute', "a", "Attention", "create"],
  ['In Node, ("", Attention, "", -1) : ("Q": tensor(float)) , Error Unrecognized attribute', undefined, "Attention", "create"],
  ["Node () Op (Scan) [TypeInferenceError] Scan input 0 was not a tensor", undefined, "Scan", "create"],
  ["Node (s1) Op (Scan) [TypeInferenceError] Scan input 0 was not a tensor", "s1", "Scan", "create"],
  ["Type Error: Type 'tensor(int8)' of input parameter (x) of operator (BitShift) in node (b) is invalid.", "b", "BitShift", "create"],
])("%s", (native, node, op, while_) => {
  const error = ortFailed({ native, while_ });
  expect(error.code).toBe("P2002");
  expect(error.message).toContain(native.replace(/\.$/, ""));
  expect(error.message).toMatch(while_ === "create" ? /does not load the segment/ : /failed while running/);
  expect(error.where.node).toBe(node);
  expect(error.where.op).toBe(op);
});
