/** Loops spelled out give what ONNX Runtime's loop gives; those whose end is not certain stay. */
import { describe, expect, it } from "vitest";
import { plan } from "../../src/compile.js";
import { parse } from "../../src/ir/parse.js";
import { check } from "../../src/partition/check.js";
import { unrollLoops } from "../../src/passes/unroll-loops.js";
import { Tensor } from "../../src/tensor.js";
import { compareTensors } from "../support/compare.js";
import { reference } from "../support/emitted.js";

const loop = (
  count: string,
  condition: string,
  going: string,
): string => `graph "g" opset {"": 18} (%x: float32[3], %n: int64[]) -> (%y, %rows) {
  const %three = int64[] [3]
  const %two = float32[] [2.0]
  const %many = int64[] [1000]
  const %yes = bool[] [1]
  const %no = bool[] [0]
  %y: float32[3], %rows: float32[k, 3] = Loop(${count}, ${condition}, %x) {
    body = graph "body" opset {"": 18} (%i: int64[], %c: bool[], %v: float32[3]) captures (%two: float32[] = %two) -> (%d, %w, %s) {
      const %on = bool[] [1]
      %d: bool[] = ${going}
      %f: float32[] = Cast(%i) {to = 1}
      %t: float32[3] = Mul(%v, %two)
      %w: float32[3] = Add(%t, %f)
      %s: float32[3] = Neg(%w)
    }
  } @"loop"
}`;
const inputs = [new Tensor("float32", Float32Array.of(1, -2, 0.5), [3]), new Tensor("int64", BigInt64Array.of(3n), [])];

describe("unrolled loops", () => {
  it.each([
    ["Identity(%c)", "%yes"],
    ["Identity(%on)", "%yes"],
    ["Identity(%c)", "_"],
  ])("%s, starting with %s: carried values and scanned ones", async (going, condition) => {
    const g = parse(loop("%three", condition, going));
    const made = unrollLoops(g, () => true);
    expect(made.nodes.filter((n) => n.op === "Loop")).toEqual([]);
    const [expected, found] = [await reference({ title: "", graph: g, inputs }), await reference({ title: "", graph: made, inputs })];
    if (expected === undefined || found === undefined) throw new Error("ONNX Runtime does not run it");
    for (const [i, e] of expected.entries())
      expect(compareTensors(found[i] as Tensor, e, { rtolOfMax: 0 }).message).toContain("max error 0 ");
  });
  it.each([
    ["Add", "Identity(%on)"],
    ["Mul", "Identity(%c)"],
  ])("leave no segment without results when %s stays on the host", async (match, going) => {
    const options = { target: "cuda", computeCapability: 9, minimumSegmentSize: 1, pin: [{ match, to: "host" }] } as const;
    const { graph, partition } = await plan(parse(loop("%three", "%yes", going)), options);
    expect(graph.nodes.filter((n) => n.op === "Identity")).toEqual([]);
    expect(partition.segments.length).toBeGreaterThan(0);
    check(graph, partition.segments);
  });
  it("a loop whose body captures what another loop made", async () => {
    const body = (name: string, capture: string, of: string): string => `Loop(%three, %yes, %x) {
      body = graph "body" opset {"": 18} (%i: int64[], %c: bool[], %v: float32[3]) captures (%${capture} = %${of}) -> (%d, %w, %s) {
        %d: bool[] = Identity(%c)
        %r: float32[3] = Gather(%${capture.split(":", 1)[0]}, %i) {axis = 0}
        %w: float32[3] = Add(%v, %r)
        %s: float32[3] = Neg(%w)
      }
    } @"${name}"`;
    const g = parse(`graph "g" opset {"": 18} (%x: float32[3], %z: float32[3, 3]) -> (%b) {
      const %three = int64[] [3]
      const %yes = bool[] [1]
      %a: float32[3], %rows: float32[3, 3] = ${body("first", "t: float32[3, 3]", "z")}
      %b: float32[3], %more: float32[3, 3] = ${body("second", "u: float32[3, 3]", "rows")}
    }`);
    const floats = (...dims: readonly number[]): Tensor =>
      new Tensor(
        "float32",
        Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => 0.5 * i - 1),
        dims,
      );
    const inputs = [floats(3), floats(3, 3)];
    const made = unrollLoops(g, () => true);
    expect(made.nodes.filter((n) => n.op === "Loop")).toEqual([]);
    const [expected, found] = [await reference({ title: "", graph: g, inputs }), await reference({ title: "", graph: made, inputs })];
    if (expected === undefined || found === undefined) throw new Error("ONNX Runtime does not run it");
    expect(compareTensors(found[0] as Tensor, expected[0] as Tensor, { rtolOfMax: 0 }).message).toContain("max error 0 ");
  });
  it.each([
    ["a count that only a run reveals", loop("%n", "%yes", "Identity(%c)")],
    ["a condition that is false", loop("%three", "%no", "Identity(%c)")],
    ["too many trips", loop("%many", "%yes", "Identity(%c)")],
    ["an operator that the engine has not", loop("%three", "%yes", "Identity(%c)").replace("Neg(%w)", "Det(%w)")],
    ["a condition that is computed", loop("%three", "%yes", "Not(%c)")],
  ])("%s: stays a loop", (_, text) => {
    const g = parse(text);
    expect(unrollLoops(g, (n) => n.op !== "Det")).toBe(g);
  });
});
