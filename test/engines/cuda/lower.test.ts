import { describe, expect, it } from "vitest";
import { type LowerOptions, lower, NotEmitted, refusals } from "../../../src/engines/cuda/lower.js";
import { h200 } from "../../../src/engines/cuda/templates/index.js";
import { parse } from "../../../src/ir/parse.js";

const options: LowerOptions = { precision: "fp16", device: h200 };
/** The launches of a plan: kernel name without its number, and the nodes it computes. */
const launches = (text: string, precision: LowerOptions["precision"] = "fp16"): string[] =>
  lower(parse(text), { ...options, precision }).plan.operations.map((o) =>
    o.kind === "launch" ? `${o.launch.kernel.replace(/^k\d+_/, "")}: ${[...o.launch.nodes].sort().join(" ")}` : o.kind,
  );
const sourceOf = (text: string, precision: LowerOptions["precision"] = "fp32"): string => {
  const { source } = lower(parse(text), { ...options, precision }).plan.sources[0] as { source: string };
  return source.slice(source.indexOf('extern "C"'));
};

describe("fusion", () => {
  it("makes one kernel of an elementwise chain, views and broadcasts included", () => {
    expect(
      launches(`graph "g" opset {"": 18} (%x: float32[8, 16], %b: float32[16]) -> (%y) {
        %a: float32[8, 16] = Add(%x, %b) @"add"
        %s: float32[8, 16] = Sigmoid(%a) @"sigmoid"
        %m: float32[8, 16] = Mul(%a, %s) @"mul"
        %y: float32[16, 8] = Transpose(%m) {perm = [1, 0]} @"transpose"
      }`),
    ).toEqual(["Transpose: transpose"]);
  });
  it("ends a product with bias, activation and residual", () => {
    expect(
      launches(`graph "g" opset {"": 18} (%x: float32[64, 128], %w: float32[128, 256], %b: float32[256], %r: float32[64, 256]) -> (%y) {
        %p: float32[64, 256] = MatMul(%x, %w) @"product"
        %a: float32[64, 256] = Add(%p, %b) @"bias"
        %g: float32[64, 256] = Relu(%a) @"relu"
        %y: float32[64, 256] = Add(%g, %r) @"residual"
      }`).filter((l) => !l.startsWith("pack")),
    ).toEqual(["matmul: bias product relu residual"]);
  });
  it("gives the join of two products to the later one", () => {
    const found = launches(`graph "g" opset {"": 18} (%x: float32[64, 64], %w: float32[64, 64], %v: float32[64, 64]) -> (%y) {
      %p: float32[64, 64] = MatMul(%x, %w) @"first"
      %q: float32[64, 64] = MatMul(%x, %v) @"second"
      %e: float32[64, 64] = Exp(%p) @"exp"
      %y: float32[64, 64] = Add(%e, %q) @"join"
    }`).filter((l) => !l.startsWith("pack"));
    expect(found).toEqual(["matmul: exp first", "matmul: join second"]);
  });
  it("writes a result that two kernels need, once", () => {
    expect(
      launches(
        `graph "g" opset {"": 18} (%x: float32[64, 128], %g: float32[128]) -> (%y, %z) {
        %a: float32[64, 128] = Exp(%x) @"exp"
        %y: float32[64, 128] = LayerNormalization(%a, %g) @"norm"
        %z: float32[64, 1] = ReduceMax(%a, %axes) @"max"
        const %axes = int64[1] [1]
      }`
          .replace(/\n\s+const %axes = int64\[1\] \[1\]/, "")
          .replace("{\n", "{\n const %axes = int64[1] [1]\n"),
      ),
    ).toEqual(["Exp: exp", "LayerNormalization: norm", "ReduceMax: max"]);
  });
  it("merges products of one operand with constant weights", () => {
    const w = (name: string): string => `const %${name} = float32[2, 2] [1.0, 2.0, 3.0, 4.0]\n`;
    const found = launches(`graph "g" opset {"": 18} (%x: float32[4, 2]) -> (%a, %b) {
      ${w("w")}${w("v")}
      %a: float32[4, 2] = MatMul(%x, %w) @"a"
      %b: float32[4, 2] = MatMul(%x, %v) @"b"
    }`);
    expect(found.filter((l) => l.startsWith("matmul"))).toHaveLength(1);
  });
});

describe("emitted text", () => {
  it("of an addition: vector loads and stores, nothing else", () => {
    expect(
      sourceOf(`graph "g" opset {"": 18} (%x: float32[2048, 256], %y: float32[2048, 256]) -> (%z) {
        %z: float32[2048, 256] = Add(%x, %y) @"add"
      }`),
    ).toMatchInlineSnapshot(`
      "extern "C" __global__ void __launch_bounds__(256) k0_Add(const float* __restrict__ p0, const float* __restrict__ p1, float* __restrict__ out) {
        const int i = blockIdx.x * 256 + threadIdx.x;
        const Pack<float, 4> v12 = load_pack<float, 4>(p0 + 4 * i);
        const float f0 = v12.e[0];
        const Pack<float, 4> v13 = load_pack<float, 4>(p1 + 4 * i);
        const float f1 = v13.e[0];
        const float f2 = (f0 + f1);
        const float f3 = v12.e[1];
        const float f4 = v13.e[1];
        const float f5 = (f3 + f4);
        const float f6 = v12.e[2];
        const float f7 = v13.e[2];
        const float f8 = (f6 + f7);
        const float f9 = v12.e[3];
        const float f10 = v13.e[3];
        const float f11 = (f9 + f10);
        store_pack<float, 4>(out + 4 * i, {{f2, f5, f8, f11}});
      }
      "
    `);
  });
  it.each([
    ["ConvTranspose", "%y: float32[1, 2, 9, 9] = ConvTranspose(%e, %w) {strides = [2, 2]}"],
    ["LpPool", "%y: float32[1, 2, 4, 4] = LpPool(%e) {kernel_shape = [3, 3], pads = [1, 1, 1, 1]}"],
    ["LRN", "%y: float32[1, 2, 4, 4] = LRN(%e) {size = 3}"],
    ["MaxPool", "%y: float32[1, 2, 4, 4] = MaxPool(%e) {kernel_shape = [3, 3], pads = [1, 1, 1, 1]}"],
  ])("of %s behind an operator that makes no 0 of 0: what lies outside is 0 all the same", (_, line) => {
    const text = sourceOf(`graph "g" opset {"": 18} (%x: float32[1, 2, 4, 4], %w: float32[2, 2, 3, 3]) -> (%y) {
      %e: float32[1, 2, 4, 4] = Exp(%x) @"exp"
      ${line} @"window"
    }`);
    const kernel = text.slice(text.indexOf("_window") + 1);
    // Values of the element that an output shares with no border are read as they are (the middle of LRN's window).
    const made = [...kernel.matchAll(/const float (f\d+) = \(?expf\((f\d+)\)\)?;/g)];
    const guarded = made.filter(([, , from]) => new RegExp(`const float ${from} = c\\d+ \\?`).test(kernel));
    expect(guarded.length).toBeGreaterThan(0);
    for (const [, value] of guarded)
      for (const [use] of kernel.matchAll(new RegExp(`[^\\n]*[^\\w]${value}\\b(?! = )[^\\n]*`, "g")))
        expect(use).toMatch(new RegExp(`c\\d+ \\? ${value} : `));
  });
  it.each(["Sigmoid", "Tanh", "Mish", "Swish"])(
    "%s is accurate in FP32 and TF32, and from the units' approximations where results keep 11 bits",
    (op) => {
      const g = parse(`graph "g" opset {"": 24} (%x: float32[64]) -> (%y) {
      %y: float32[64] = ${op}(%x)
    }`);
      const text = (precision: "fp32" | "tf32" | "fp16" | "bf16" | "int8"): string => {
        const { source } = lower(g, { ...options, precision }).plan.sources[0] as { readonly source: string };
        return source.slice(source.indexOf('extern "C"'));
      };
      for (const precision of ["fp32", "tf32"] as const) expect(text(precision)).toMatch(/ = \(?.*(expf|tanhf)\(/);
      for (const precision of ["fp16", "bf16", "int8"] as const) {
        expect(text(precision)).toMatch(/coarse_|power_of_two\(/);
        expect(text(precision)).not.toMatch(/expf\(|tanhf\(|log1pf\(/);
      }
    },
  );
  it.each([
    ["Resize", '%y: float32[1, 1, 16, 14] = Resize(%x, _, %s) {mode = "linear", coordinate_transformation_mode = "asymmetric"}'],
    [
      "Resize by nearest",
      '%y: float32[1, 1, 16, 14] = Resize(%x, _, %s) {mode = "nearest", coordinate_transformation_mode = "align_corners"}',
    ],
    ["Range", "%r: float32[224] = Range(%low, %high, %step)\n%y: float32[1, 1, 16, 14] = Reshape(%r, %n)"],
  ])("of %s read at a sum of indices: the sum is one number", (_, line) => {
    const text = sourceOf(`graph "g" opset {"": 18} (%x: float32[1, 1, 8, 7]) -> (%z) {
      const %s = float32[4] [1.0, 1.0, 2.0, 2.0]
      const %low = float32[] [0.25]
      const %high = float32[] [112.25]
      const %step = float32[] [0.5]
      const %n = int64[4] [1, 1, 16, 14]
      ${line} @"y"
      %z: float32[1, 1, 15, 13] = MaxPool(%y) {kernel_shape = [2, 2]} @"z"
    }`);
    expect(text).toContain("MaxPool");
    // A conversion that takes but the first of the summands.
    expect(text).not.toMatch(/\((?:float|long long|int)\)\w+ [+-] \d+ [*/]/);
  });
  it("is the same every time", () => {
    const text = `graph "g" opset {"": 18} (%x: float32[2, 3, 16, 16]) -> (%y) {
      %a: float32[2, 3, 16, 16] = Softmax(%x) {axis = 1} @"softmax"
      %y: float32[2, 3, 8, 8] = MaxPool(%a) {kernel_shape = [2, 2], strides = [2, 2]} @"pool"
    }`;
    expect(sourceOf(text)).toBe(sourceOf(text));
  });
});

describe("refusals", () => {
  it("name the node and say why", () => {
    const g = parse(`graph "g" opset {"": 18} (%x: float32[1, 1, 4, 4]) -> (%y) {
      const %s = float32[4] [1.0, 1.0, 2.0, 2.0]
      %y: float32[1, 1, 8, 8] = Resize(%x, _, %s) {mode = "cubic", antialias = 1} @"up"
    }`);
    expect(() => lower(g, options)).toThrow(NotEmitted);
    expect(() => lower(g, options)).toThrow("Resize 'up': antialiased resizing has no kernel");
    expect([...refusals(g, options).values()].map((r) => r.why)).toEqual(["antialiased resizing has no kernel"]);
  });
  it("do not read an attention mask beyond its end", () => {
    const why = (mask: string): readonly string[] => {
      const g = parse(`graph "g" opset {"": 23} (%q: float32[2, 4, 3, 8], %k: float32[2, 2, 5, 8], %m: float32[${mask}]) -> (%y) {
        %y: float32[2, 4, 3, 8] = Attention(%q, %k, %k, %m)
      }`);
      return [...refusals(g, options).values()].map((r) => r.why);
    };
    for (const mask of ["3, 5", "1, 5", "4, 3, 5", "2, 1, 1, 5"]) expect(why(mask)).toEqual([]);
    for (const mask of ["3, 4", "3, 1", "2, 5", "2, 3, 5"])
      expect(why(mask)).toEqual([`a mask of dims [${mask.replaceAll(" ", "")}] does not go with scores [2,4,3,5]`]);
  });
  it("name a node whose dims only a run reveals", () => {
    const g = parse(`graph "g" opset {"": 18} (%x: float32[1, 1, 4, 4], %s: float32[4]) -> (%y) {
      %u = Resize(%x, _, %s) {mode = "nearest"} @"up"
      %y = Relu(%u) @"relu"
    }`);
    expect(() => lower(g, options)).toThrow(NotEmitted);
    expect(() => lower(g, options)).toThrow("Resize 'up': the dims of 'u' do not follow from those of the inputs");
  });
  it("name what makes strings too", () => {
    const g = parse(`graph "g" opset {"": 18} (%x: int64[3]) -> (%y) { %y: string[3] = Cast(%x) {to = 8} @"text" }`);
    expect([...refusals(g, options).values()].map((r) => r.why)).toEqual(["string has no place in a kernel"]);
  });

  it("are of both sides of an element type that kernels do not hold", () => {
    const g = parse(`graph "g" opset {"": 18} (%x: float32[2, 3]) -> (%y) {
      %wide: float64[2, 3] = Cast(%x) {to = 11} @"widen"
      %y: float32[2, 3] = Cast(%wide) {to = 1} @"narrow"
    }`);
    expect([...refusals(g, options).values()].map((r) => r.why)).toEqual([
      "float64 has no place in a kernel",
      "float64 has no place in a kernel",
    ]);
  });
});
