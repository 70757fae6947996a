import { describe, expect, it } from "vitest";
import { parse } from "../../src/ir/parse.js";
import { print } from "../../src/ir/print.js";
import { verify } from "../../src/ir/verify.js";
import { deadCode } from "../../src/passes/dead-code.js";
import { inlineIf } from "../../src/passes/inline-if.js";
import { passContext, runPasses } from "../../src/passes/pass.js";
import { pipeline } from "../../src/passes/pipeline.js";
import { Tensor } from "../../src/tensor.js";
import { checkPass, relativeError, runGraph } from "../../src/testing.js";

/** PyTorch's squeeze(0) of a tensor whose first dim may or may not be 1. */
const SQUEEZE = `graph "g" opset {"": 18} (%x: float32[1, 4]) -> (%y) {
  const %one = int64[] [1]
  const %zero = int64[] [0]
  %s = Shape(%x)
  %n = Gather(%s, %zero) {axis = 0}
  %is = Equal(%n, %one)
  %z = If(%is) {
    then_branch = graph "then" () captures (%v = %x) -> (%r) {
      const %axes = int64[1] [0]
      %r = Squeeze(%v, %axes)
    }
    else_branch = graph "else" () captures (%v = %x) -> (%r) {
      %r = Identity(%v)
    }
  }
  %y = Relu(%z)
}
`;

describe("inline-if", () => {
  it("takes the branch that shapes decide", async () => {
    await checkPass(
      inlineIf,
      SQUEEZE,
      `graph "g" opset {"": 18} (%x: float32[1, 4]) -> (%y) {
  const %one = int64[] [1]
  const %zero = int64[] [0]
  const %axes = int64[1] [0]
  %s: int64[2] = Shape(%x)
  %n: int64[] = Gather(%s, %zero) {axis = 0}
  %is: bool[] = Equal(%n, %one)
  %r: float32[4] = Squeeze(%x, %axes)
  %y: float32[4] = Relu(%r)
}
`,
    );
  });

  it("gives the same results, and leaves nothing of the question", async () => {
    const g = parse(SQUEEZE);
    const { graph } = await runPasses(g, pipeline, { verify: true });
    expect(graph.nodes.length).toBe(2);
    expect(graph.nodes.some((n) => n.op === "If" || n.op === "Shape")).toBe(false);
    const x = new Tensor("float32", [1, -2, 3, -4], [1, 4]);
    expect(relativeError(await runGraph(graph, [x]), await runGraph(g, [x]))).toBe(0);
  });

  it("leaves a condition that only a run knows", async () => {
    const g = parse(SQUEEZE.replace("float32[1, 4]", "float32[n, 4]"));
    expect(await inlineIf.run(g, passContext())).toBe(g);
  });

  it("follows branches within branches, keeps outputs' names, hands captures on", async () => {
    const g = parse(`graph "g" opset {"": 18} (%x: float32[2]) -> (%y, %w) {
      const %yes = bool[] [1]
      const %no = bool[] [0]
      %y, %w = If(%yes) {
        then_branch = graph "then" () captures (%v = %x, %c = %no) -> (%r, %v) {
          %r = If(%c) {
            then_branch = graph "deep" () captures (%u = %v) -> (%q) { %q = Neg(%u) }
            else_branch = graph "deeper" () captures (%u = %v) -> (%q) { %q = Exp(%u) }
          }
        }
        else_branch = graph "else" () captures (%v = %x) -> (%v, %v) { }
      }
    }`);
    const out = await inlineIf.run(g, passContext());
    verify(out, "inline-if");
    const swept = await deadCode.run(out, passContext());
    expect(swept.nodes.map((n) => n.op).sort()).toEqual(["Exp", "Identity"]);
    expect(print(swept)).toMatch(/-> \(%y, %w\)/);
    const x = new Tensor("float32", [1, -2], [2]);
    expect(relativeError(await runGraph(swept, [x]), await runGraph(g, [x]))).toBe(0);
  });

  it("hands the result of one on to the next", async () => {
    const g = parse(`graph "g" opset {"": 18} (%x: float32[2]) -> (%z) {
      const %yes = bool[] [1]
      %y = If(%yes) {
        then_branch = graph "then" () captures (%v = %x) -> (%r) { %r = Neg(%v) }
        else_branch = graph "else" () captures (%v = %x) -> (%r) { %r = Exp(%v) }
      }
      %z = If(%yes) {
        then_branch = graph "then" () captures (%v = %y) -> (%r) { %r = Abs(%v) }
        else_branch = graph "else" () captures (%v = %y) -> (%r) { %r = Exp(%v) }
      }
    }`);
    const out = await inlineIf.run(g, passContext());
    verify(out, "inline-if");
    expect(out.nodes.map((n) => n.op)).toEqual(["Neg", "Abs"]);
  });

  it("looks into loops", async () => {
    const g = parse(`graph "g" opset {"": 18} (%n: int64[], %go: bool[], %x: float32[2]) -> (%y) {
      %y: float32[2] = Loop(%n, %go, %x) {
        body = graph "body" (%i: int64[], %c: bool[], %s: float32[2]) -> (%c, %t) {
          const %yes = bool[] [1]
          %t = If(%yes) {
            then_branch = graph "then" () captures (%v = %s) -> (%r) { %r = Neg(%v) }
            else_branch = graph "else" () captures (%v = %s) -> (%r) { %r = Exp(%v) }
          }
        }
      }
    }`);
    const out = await inlineIf.run(g, passContext());
    verify(out, "inline-if");
    expect(print(out)).not.toMatch(/ If\(/);
    expect(print(out)).toMatch(/Neg\(/);
  });
});
