/** Rare forms of operators: what kernels give for them, run on the CPU and held to ONNX Runtime, and which of them stay on the host. */
import { expect, it } from "vitest";
import { cudaRefusals } from "../../../src/engines/cuda/index.js";
import { lower } from "../../../src/engines/cuda/lower.js";
import { h200 } from "../../../src/engines/cuda/templates/index.js";
import { encodeOnnx } from "../../../src/import/onnx/export.js";
import { valueAt } from "../../../src/ir/graph.js";
import { parse } from "../../../src/ir/parse.js";
import { doneSite, inferGraph } from "../../../src/ops/infer.js";
import { UNGUARDED } from "../../../src/passes/masks.js";
import { Tensor } from "../../../src/tensor.js";
import { referenceOf } from "../../fuzz/reference.js";
import { compareTensors } from "../../support/compare.js";
import { emulate, emulationMissing } from "../../support/emulate.js";

/** Each graph's nodes and outputs have names of their own, so that they make one plan. */
const FORMS = `graph "forms" opset {"": 23} (%a: uint8[6], %b: uint8[6], %i: int8[3], %at: int64[3, 1], %q: float32[1, 2, 3, 8], %k: float32[1, 2, 4, 8], %open: bool[3, 4]) -> (%flipped, %shifted, %less, %sums, %signs, %scattered, %seen, %moved, %late) {
  %not: uint8[6] = BitwiseNot(%a)
  %flipped: int32[6] = Cast(%not) {to = 6}
  %up: uint8[6] = BitShift(%a, %b) {direction = "LEFT"}
  %shifted: uint8[6] = BitShift(%up, %b) {direction = "RIGHT"}
  %d: uint8[6] = Sub(%b, %a)
  %less: bool[6] = Less(%d, %a)
  %p: uint8[6] = Mul(%a, %a)
  %sums: float32[6] = Cast(%p) {to = 1}
  %n: int8[3] = Neg(%i)
  %signs: int32[3] = Cast(%n) {to = 6}
  %u: uint8[3] = Slice(%a, %zero, %three)
  %added: uint8[6] = ScatterND(%a, %at, %u) {reduction = "add"}
  %scattered: int32[6] = Cast(%added) {to = 6}
  %seen: float32[1, 2, 3, 8] = Attention(%q, %k, %k, %open)
  %turned: float32[1, 2, 3, 8] = Attention(%q, %k, %k, %low)
  %moved: float32[1, 3, 2, 8] = Transpose(%turned) {perm = [0, 2, 1, 3]}
  %late: float32[1, 2, 3, 8] = Attention(%q, %k, %k, %open) {is_causal = 1}
  const %zero = int64[1] [0]
  const %three = int64[1] [3]
  const %low = float32[3, 4] [0.0, 0.0, 0.0, 0.0, -inf, -inf, -inf, -inf, 0.0, -inf, 0.0, 0.0]
}`;

it.skipIf(emulationMissing !== undefined)("gives what ONNX Runtime gives where bytes wrap and where masks close rows", async () => {
  const { graph } = inferGraph(parse(FORMS));
  const some = (n: number): Float32Array => Float32Array.from({ length: n }, (_, i) => Math.sin(3 * i + 1));
  const feeds: Record<string, Tensor> = {
    a: new Tensor("uint8", Uint8Array.of(0, 1, 100, 200, 250, 255), [6]),
    b: new Tensor("uint8", Uint8Array.of(1, 0, 3, 2, 5, 7), [6]),
    i: new Tensor("int8", Int8Array.of(-128, 127, -1), [3]),
    at: new Tensor("int64", BigInt64Array.of(3n, -1n, 3n), [3, 1]),
    q: new Tensor("float32", some(48), [1, 2, 3, 8]),
    k: new Tensor("float32", some(64), [1, 2, 4, 8]),
    open: new Tensor("bool", Uint8Array.of(0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1), [3, 4]),
  };
  const reference = await referenceOf(encodeOnnx(graph), "", feeds, true, "disabled");
  if ("error" in reference) throw new Error(reference.error);
  const { plan, weights } = lower(graph, { precision: "fp32", device: h200 });
  const found = await emulate(
    plan,
    weights,
    graph.inputs.map((v) => feeds[valueAt(graph, v).name] as Tensor),
  );
  for (const [i, p] of plan.outputs.entries()) {
    const expected = reference.results[p.name] as Tensor;
    const c = compareTensors(found[i] as Tensor, expected, { rtolOfMax: 1e-5 });
    expect(c.ok, `${p.name}: ${c.message}`).toBe(true);
    expect((expected.data as Float32Array).some(Number.isNaN), p.name).toBe(false);
  }
});

it("looks for closed rows only where a mask may close them, and where they were no NaN", () => {
  const launches = (mask: string, mark = false): number => {
    const graph = parse(`graph "g" opset {"": 23} (%q: float32[1, 2, 2, 8]) -> (%y) {
      const %c = ${mask}
      %y: float32[1, 2, 2, 8] = Attention(%q, %q, %q, %c) {is_causal = 1}
    }`);
    const nodes = graph.nodes.map((n) => (mark ? { ...n, extra: { metadata: [UNGUARDED] } } : n));
    return lower({ ...graph, nodes }, { precision: "fp32", device: h200 }).plan.operations.length;
  };
  expect(launches("float32[2, 2] [0.0, -inf, 0.0, -inf]")).toBe(1);
  expect(launches("bool[2, 2] [1, 0, 0, 1]")).toBe(1);
  // The first query sees the first key alone.
  expect(launches("bool[2, 2] [0, 1, 0, 1]")).toBe(2);
  expect(launches("bool[1, 2] [0, 1]")).toBe(2);
  expect(launches("bool[1, 2] [0, 1]", true)).toBe(1);
});

const answer = (inputs: string, statement: string): string => {
  const { graph, facts } = inferGraph(parse(`graph "g" opset {"": 23} (${inputs}) -> (%y) {\n${statement}\n}`));
  const [n] = graph.nodes;
  const done = n === undefined ? undefined : doneSite(graph, n, facts);
  if (done === undefined) throw new Error("the operator is not known");
  const lowering = done.def.on.cuda;
  if ("absent" in lowering) return lowering.absent;
  const verdict = lowering.supports(done.site, { sm: 90, tensorrt: 0, precision: "fp32" });
  const more = [...cudaRefusals(graph, "fp32", 90).values()][0];
  return !verdict.ok ? verdict.why : more === undefined || more.ok ? "yes" : more.why;
};
it.each<readonly [string, string, string | RegExp]>([
  ["%x: int32[4], %e: float32[]", "%y = Pow(%x, %e)", /^integers to the power of numbers that may have fractions/],
  ["%x: int32[4]", "const %e = float32[] [1.5]\n%y = Pow(%x, %e)", /^integers to the power/],
  ["%x: int32[4]", "const %e = float32[] [2.0]\n%y = Pow(%x, %e)", "yes"],
  ["%x: int32[4], %e: int64[4]", "%y = Pow(%x, %e)", "yes"],
  [
    "%x: float32[1, 1, 4, 4]",
    'const %s = float32[4] [1.0, 1.0, 2.0, 2.0]\n%y = Resize(%x, _, %s) {coordinate_transformation_mode = "tf_half_pixel_for_nn"}',
    "the nearest pixels by tf_half_pixel_for_nn have no kernel that rounds by round_prefer_floor",
  ],
  [
    "%x: float32[1, 1, 4, 4]",
    'const %s = float32[4] [1.0, 1.0, 2.0, 2.0]\n%y = Resize(%x, _, %s) {coordinate_transformation_mode = "tf_half_pixel_for_nn", nearest_mode = "floor"}',
    "yes",
  ],
  [
    "%x: float32[1, 1, 4, 4]",
    'const %s = float32[4] [1.0, 1.0, 2.0, 2.0]\n%y = Resize(%x, _, %s) {coordinate_transformation_mode = "half_pixel_symmetric"}',
    "the nearest pixels by half_pixel_symmetric have no kernel",
  ],
  [
    "%x: float32[1, 1, 4, 5]",
    'const %z = int64[2] [7, 9]\n%y = Resize(%x, _, _, %z) {mode = "linear", axes = [2, 3], keep_aspect_ratio_policy = "not_larger"}',
    /^keep_aspect_ratio_policy is not_larger/,
  ],
  [
    "%x: float32[1, 1, 7, 8]",
    '%y = AveragePool(%x) {kernel_shape = [3, 3], strides = [2, 3], auto_pad = "SAME_UPPER", count_include_pad = 1}',
    "a mean that counts padding of its own choice has no kernel",
  ],
  [
    "%x: float32[5, 6]",
    'const %p = int64[4] [-1, 2, 1, -2]\n%y = Pad(%x, %p) {mode = "wrap"}',
    "repeating what cropping leaves has no kernel",
  ],
  ["%x: float32[5, 6]", 'const %p = int64[4] [-1, 2, 1, -2]\n%y = Pad(%x, %p) {mode = "edge"}', "yes"],
  ["%q: float32[65536, 2, 3, 8]", "%y = Attention(%q, %q, %q)", "65536 items of 2 heads are more than one launch takes"],
  ["%q: float32[65535, 2, 3, 8]", "%y = Attention(%q, %q, %q)", "yes"],
  ["%x: float16[65536, 32768]", "%y = Relu(%x)", "a tensor of 2147483648 elements is more than kernels count"],
  ["%x: float16[65536, 32767]", "%y = Relu(%x)", "yes"],
])("of (%s), %s: %s", (inputs, statement, expected) => {
  const found = answer(inputs, statement);
  if (typeof expected === "string") expect(found).toBe(expected);
  else expect(found).toMatch(expected);
});
