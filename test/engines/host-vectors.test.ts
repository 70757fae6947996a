/** Products with vectors behind a Transpose, which ONNX Runtime's optimizer gets wrong: what the host engine makes of them. */
import * as ort from "onnxruntime-node";
import { afterEach, describe, expect, it } from "vitest";
import { compile } from "../../src/compile.js";
import { guarded } from "../../src/engines/host/guard.js";
import { hostEngine } from "../../src/engines/host/index.js";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { parse } from "../../src/ir/parse.js";
import type { Session } from "../../src/runtime/session.js";
import { Tensor, type TensorLike } from "../../src/tensor.js";

const open: Session[] = [];
async function session(text: string): Promise<Session> {
  const s = await (await compile(parse(text))).createSession({ threads: 1 });
  open.push(s);
  return s;
}
afterEach(async () => {
  await Promise.all(open.splice(0).map((s) => s.dispose()));
});
const elements = (t: TensorLike | undefined): unknown[] => (t === undefined ? [] : Array.from(t.data as ArrayLike<unknown>));

describe("the guard against ONNX Runtime's Transpose and MatMul with a vector", () => {
  it("holds in bodies too", async () => {
    const s = await session(`graph "g" opset {"": 18} (%c: bool[], %x: float32[3, 3], %v: float32[3]) -> (%y) {
      %y = If(%c) {
        then_branch = graph "then" () captures (%a = %x, %b = %v) -> (%r) {
          %t = Transpose(%a) {perm = [1, 0]}
          %r = MatMul(%t, %b)
        }
        else_branch = graph "else" () captures (%b = %v) -> (%b) {
        }
      }
    }`);
    const x = new Tensor("float32", [1, 2, 3, 4, 5, 6, 7, 8, 9], [3, 3]);
    const { y } = await s.run({ c: new Tensor("bool", [true], []), x, v: new Tensor("float32", [1, 10, 100], [3]) });
    expect(elements(y)).toEqual([741, 852, 963]);
  });
  // Transpose(x) @ v: at full optimisation ONNX Runtime 1.30 multiplies by x itself.
  const bug = (order: string, shape: string): string => `graph "g" opset {"": 18} (%x: float32[${shape}], %v: float32[3]) -> (%y) {
    %t = Transpose(%x) {perm = [1, 0]} @"t"
    %y = MatMul(${order}) @"mm"
  }`;
  it.each([
    ["on the right", "%t, %v", "3, 3"],
    ["on the left", "%v, %t", "3, 3"],
    ["on the right, another size", "%t, %v", "3, 5"],
    ["on the left, another size", "%v, %t", "5, 3"],
  ])("%s", async (_, order, shape) => {
    const [rows = 0, columns = 0] = shape.split(", ").map(Number);
    const x = Float32Array.from({ length: rows * columns }, (_, i) => i + 1);
    const v = Float32Array.of(1, 10, 100);
    const s = await session(bug(order, shape));
    const { y } = await s.run({ x: new Tensor("float32", x, [rows, columns]), v: new Tensor("float32", v, [3]) });
    const right = order.startsWith("%t");
    // t[i, j] = x[j, i]; (t v)[i] = sum_j x[j, i] v[j]; (v t)[j] = sum_i v[i] x[j, i].
    const expected = Array.from({ length: right ? columns : rows }, (_, k) =>
      [0, 1, 2].reduce((a, m) => a + (right ? (x[m * columns + k] ?? 0) : (x[k * columns + m] ?? 0)) * (v[m] ?? 0), 0),
    );
    expect(elements(y)).toEqual(expected);
  });
});

describe("a Transpose that ONNX Runtime makes part of a product with a vector", () => {
  const x = new Tensor("float32", [1, 2, 3, 4, 5, 6], [2, 3]);
  const v = new Tensor("float32", [1, 10], [2]);
  const product = (g: { x?: string; v?: string; y: string }): string =>
    `graph "g" opset {"": 18, "com.microsoft": 1} (%x: ${g.x ?? "float32[2, 3]"}, %v: ${g.v ?? "float32[2]"}) -> (%y) {
      const %two = float32[] [2.0]
      const %none = int64[1] [0]
      const %pads = int64[4] [0, 0, 0, 0]
      const %true = bool[] [1]
      ${g.y}
    }`;
  const T = "%t = Transpose(%x) {perm = [1, 0]}";
  const through = ["Relu(%t)", "Pad(%a, %pads)", "Max(%b, %two)", "Pad(%c, %pads)", "Relu(%d)", "Pad(%e, %pads)"]
    .map((op, i) => `%${"abcdef"[i]} = ${op}`)
    .join("\n");
  // [rows of x^T] v: 1 + 4 * 10, ...; behind Max(x, 2): 2 + 4 * 10, ...
  const plain = [41, 52, 63];
  const cases: readonly [string, string, readonly number[], string | undefined][] = [
    ["written out", product({ y: `${T}\n%y = MatMul(%t, %v)` }), plain, undefined],
    ["of float64, cast", product({ x: "float64[2, 3]", y: `${T}\n%w = Cast(%t) {to = 1}\n%y = MatMul(%w, %v)` }), plain, undefined],
    ["a vector of unknown rank", product({ v: "float32", y: `${T}\n%y = MatMul(%t, %v)` }), plain, "MatmulTransposeFusion"],
    ["both of unknown rank", product({ x: "float32", v: "float32", y: `${T}\n%y = MatMul(%t, %v)` }), plain, "MatmulTransposeFusion"],
    [
      "FusedMatMul",
      product({ y: `${T}\n%y = "com.microsoft"."FusedMatMul"(%t, %v) {alpha = 2.0, transB = 1}` }),
      [82, 104, 126],
      undefined,
    ],
    ["FusedMatMul that transposes itself", product({ y: '%y = "com.microsoft"."FusedMatMul"(%x, %v) {transA = 1}' }), plain, undefined],
    [
      "many operators between",
      product({ y: `${T}\n${through}\n%z = Transpose(%f) {perm = [1, 0]}\n%p = MatMul(%f, %v)\n%s = ReduceMax(%z)\n%y = Max(%p, %s)` }),
      [42, 52, 63],
      undefined,
    ],
    [
      "a branch that ONNX Runtime puts into the graph",
      product({
        y: `%t = If(%true) {
          then_branch = graph "t" () captures (%a = %x) -> (%r) {
            %r = Transpose(%a) {perm = [1, 0]}
          }
          else_branch = graph "e" () captures (%a = %x) -> (%a) {
          }
        }
        %y = MatMul(%t, %v)`,
      }),
      plain,
      undefined,
    ],
    [
      "a branch that multiplies, by a vector of unknown rank",
      product({
        v: "float32",
        y: `${T}
        %y = If(%true) {
          then_branch = graph "t" () captures (%a = %t, %b = %v) -> (%r) {
            %r = MatMul(%a, %b)
          }
          else_branch = graph "e" () captures (%b = %v) -> (%b) {
          }
        }`,
      }),
      plain,
      "MatmulTransposeFusion",
    ],
  ];
  it.each(cases)("%s", async (title, text, expected, without) => {
    const g = parse(text);
    const feed = title.startsWith("of float64") ? new Tensor("float64", Array.from(x.data), x.dims) : x;
    // ONNX Runtime by itself: what is avoided is there.
    const alone = await ort.InferenceSession.create(encodeOnnx(g), { graphOptimizationLevel: "all", logSeverityLevel: 4 });
    const wrong = await alone.run({
      x: new ort.Tensor(feed.type as "float32", feed.data as Float32Array, feed.dims),
      v: new ort.Tensor(v.data, v.dims),
    });
    await alone.release();
    expect(elements(wrong["y"] as unknown as TensorLike)).not.toEqual(expected);
    // The segment as it is, which no pass has simplified, and the whole line.
    const built = await hostEngine.build(g, { target: { sm: 0, tensorrt: 0, precision: "fp32" } });
    expect(built.settings?.["without"]).toBe(without);
    const executable = await hostEngine.open(built, { streams: 1, threads: 1 });
    try {
      expect(elements((await executable.run([feed, v]))[0])).toEqual(expected);
    } finally {
      await executable.dispose();
    }
    expect(elements((await (await session(text)).run({ x: feed, v }))["y"])).toEqual(expected);
  });

  it.each([
    ["a matrix", product({ v: "float32[2, 1]", y: `${T}\n%y = MatMul(%t, %v)` })],
    ["a matrix whose rank no value says", product({ v: "float32[2, 1]", y: `${T}\n%s = Neg(%v)\n%y = MatMul(%t, %s)` })],
    ["a vector on the left", product({ y: `%t = Transpose(%x) {perm = [1, 0]}\n%u = Transpose(%t) {perm = [1, 0]}\n%y = MatMul(%v, %u)` })],
    ["no Transpose before it", product({ x: "float32[3, 2]", v: "float32", y: "%y = MatMul(%x, %v)" })],
    [
      "a body that is no branch",
      product({
        v: "float32",
        y: `${T}
        const %n = int64[] [2]
        %y = Loop(%n, %true, %two) {
          body = graph "b" (%i: int64[], %c: bool[], %s: float32) captures (%a = %t, %b = %v) -> (%c, %r) {
            %r = MatMul(%a, %b)
          }
        }`,
      }),
    ],
  ])("%s keeps the optimizer, and what is written", async (_, text) => {
    const g = parse(text);
    const built = await hostEngine.build(g, { target: { sm: 0, tensorrt: 0, precision: "fp32" } });
    expect(built.settings?.["without"]).toBeUndefined();
    expect(guarded(g)).toBe(g);
  });
});
