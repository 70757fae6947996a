import { describe, expect, it } from "vitest";
import { Editor } from "../../src/ir/edit.js";
import { parse } from "../../src/ir/parse.js";
import { makeConstant } from "../../src/ir/payload.js";
import type { Node } from "../../src/ir/types.js";
import { inferGraph } from "../../src/ops/infer.js";
import {
  any,
  constant,
  dimsOf,
  either,
  type Match,
  match,
  near,
  numbersOf,
  op,
  type Pattern,
  scalar,
  uniform,
} from "../../src/passes/match.js";
import { elementwise, rewritePass } from "../../src/passes/rewrite.js";
import { applied, graph } from "./support.js";

/** Matches a pattern at the node that makes the last output. */
function find(pattern: Pattern, text: string): { readonly found: Match | undefined; readonly name: (key: string) => string | undefined } {
  const draft = new Editor(inferGraph(parse(text)).graph);
  const root = draft.producer(draft.outputs.at(-1)) as Node;
  const found = match(draft, root, pattern);
  return {
    found,
    name: (key) => {
      const v = found?.maybe(key);
      return v === undefined ? undefined : draft.value(v).name;
    },
  };
}

describe("match", () => {
  it("binds names, tries commutative operands both ways, and keeps the order of others", () => {
    const text = graph("%x: float32[2], %z: float32[2]", "%y", "%a = Neg(%x)", "%y = Add(%z, %a)");
    const found = find(op("Add", [op("Neg", [any("n")]), any("other")]), text);
    expect([found.name("n"), found.name("other")]).toEqual(["x", "z"]);
    const difference = text.replace("Add", "Sub");
    expect(find(op("Sub", [op("Neg", [any()]), any()]), difference).found).toBeUndefined();
    expect(find(op("Sub", [any(), op("Neg", [any()])]), difference).found).toBeDefined();
    expect(find(op("Sub", [op("Neg", [any()]), any()], { commutative: true }), difference).found).toBeDefined();
  });
  it("takes one name for one value, so that patterns may be graphs", () => {
    const silu = op("Mul", [any("x"), op("Sigmoid", [any("x")])]);
    expect(find(silu, graph("%x: float32[2]", "%y", "%s = Sigmoid(%x)", "%y = Mul(%s, %x)")).name("x")).toBe("x");
    expect(find(silu, graph("%x: float32[2], %z: float32[2]", "%y", "%s = Sigmoid(%x)", "%y = Mul(%s, %z)")).found).toBeUndefined();
  });
  it("takes back what a failed alternative bound", () => {
    // The first way round binds x to the Relu, and fails only at the last operand.
    const pattern = op("Add", [op("Mul", [any("x"), any("y")]), op("Sub", [any("y"), any("x")])]);
    const text = graph("%p: float32[2], %q: float32[2]", "%o", "%m = Mul(%p, %q)", "%s = Sub(%p, %q)", "%o = Add(%s, %m)");
    const found = find(pattern, text);
    expect([found.name("x"), found.name("y")]).toEqual(["q", "p"]);
    expect(found.found?.nodes).toHaveLength(3);
  });
  it("wants exactly the inputs of the pattern, left-out ones included", () => {
    const text = graph("%x: float32[2]", "%y", "const %hi = float32[] [6.0]", "%y = Clip(%x, _, %hi)");
    expect(find(op("Clip", [any(), undefined, scalar(6)]), text).found).toBeDefined();
    expect(find(op("Clip", [any(), any(), any()]), text).found).toBeUndefined();
    expect(find(op("Clip", [any()]), text).found).toBeUndefined();
    expect(find(op("Clip", [any(), undefined, any(), any()]), text).found).toBeUndefined();
  });
  it("knows outputs, attributes and domains", () => {
    const text = graph("%x: float32[4]", "%y", "%a, %b = Split(%x) {axis = 0, num_outputs = 2}", "%y = Neg(%b)");
    expect(find(op("Neg", [op("Split", [any()], { output: 1 })]), text).found).toBeDefined();
    expect(find(op("Neg", [op("Split", [any()])]), text).found).toBeUndefined();
    const axis = (wanted: number) => op("Neg", [op("Split", [any()], { output: 1, where: (n) => n.attrs["axis"]?.value === wanted })]);
    expect(find(axis(0), text).found).toBeDefined();
    expect(find(axis(1), text).found).toBeUndefined();
    expect(find(op("Neg", [any()]), graph("%x: float32[4]", "%y", "%y = custom.Neg(%x)").replace("{", "{")).found).toBeUndefined();
  });
  it("reads constants of every float type within its precision", () => {
    for (const dtype of ["float32", "float16", "bfloat16", "float64"] as const) expect(uniform(makeConstant(dtype, [], [0.5]))).toBe(0.5);
    const half = makeConstant("float16", [], [Math.SQRT2]);
    expect(near(uniform(half) ?? 0, Math.SQRT2, "float16")).toBe(true);
    expect(near(Math.SQRT2 * 1.00001, Math.SQRT2, "float32")).toBe(false);
    expect(near(Math.fround(0.044715), 0.044715, "float32")).toBe(true);
    expect(uniform(makeConstant("float32", [2], [1, 2]))).toBeUndefined();
    expect(uniform(makeConstant("float32", [2], [3, 3]))).toBe(3);
    expect(numbersOf(makeConstant("float32", [3], [1, 2, 3]), 2)).toBeUndefined();
    expect(numbersOf({ dtype: "string", dims: [1], data: { kind: "strings", values: [new Uint8Array()] } })).toBeUndefined();
    expect(numbersOf({ dtype: "int4", dims: [2], data: { kind: "bytes", bytes: Uint8Array.of(0x21) } })).toBeUndefined();
  });
  it("takes conditions on values, with types and dims at hand", () => {
    const text = graph("%x: float32[2, 8], %w: float32[8]", "%y", "%y = Mul(%x, %w)");
    const vector = op("Mul", [any("x"), any("w", (v, at) => dimsOf(at, v)?.length === 1)]);
    expect(find(vector, text).name("w")).toBe("w");
    expect(find(vector, text.replace("%w: float32[8]", "%w: float32[1, 8]")).found).toBeUndefined();
    expect(find(op("Mul", [any(), constant("w")]), text).found).toBeUndefined();
  });
  it("tells what leaks out of a match; shared nodes do not", () => {
    const text = graph("%x: float32[2]", "%s, %y", "%s = Sigmoid(%x)", "%y = Mul(%x, %s)");
    const leaking = find(op("Mul", [any("x"), op("Sigmoid", [any("x")])]), text);
    expect(leaking.found?.closed()).toBe(false);
    const shared = find(op("Mul", [any("x"), op("Sigmoid", [any("x")], { shared: true })]), text);
    expect(shared.found?.closed()).toBe(true);
    expect(shared.found?.nodes).toHaveLength(1);
  });
  it("throws for a name that the pattern does not bind", () => {
    const { found } = find(op("Neg", [any()]), graph("%x: float32[2]", "%y", "%y = Neg(%x)"));
    expect(() => found?.value("x")).toThrow("the pattern does not bind 'x'");
    expect(found?.maybe("x")).toBeUndefined();
  });
});

describe("rewritePass", () => {
  const doubled = rewritePass({
    name: "double",
    why: "for this test",
    rules: [
      {
        name: "doubling",
        pattern: either(op("Mul", [any("x"), scalar(2)]), op("Add", [any("x"), any("x")])),
        replace: (found, draft) =>
          elementwise(found, draft) ? { op: "Sum", ins: [found.value("x"), found.value("x")] } : "its constant broadcasts",
      },
    ],
  });
  it("patches the root in place and keeps origins", async () => {
    const silu = rewritePass({
      name: "silu",
      why: "for this test",
      rules: [
        {
          name: "SiLU",
          pattern: op("Mul", [any("x"), op("Sigmoid", [any("x")])]),
          replace: (found) => ({ op: "Swish", ins: [found.value("x")] }),
        },
      ],
    });
    const done = await applied(silu, graph("%x: float32[2]", "%y", '%s = Sigmoid(%x) @"act/sigmoid"', '%y = Mul(%x, %s) @"act/mul"'));
    expect(done.nodes).toEqual(['%y = Swish(%x) @"act/mul" from ["act/sigmoid", "act/mul"]']);
  });
  it("says why it leaves something, and where", async () => {
    const text = graph("%x: float32[2]", "%y", "const %two = float32[3, 1] [2.0, 2.0, 2.0]", '%y = Mul(%x, %two) @"twice"');
    const done = await applied(doubled, text);
    expect(done.remarks).toEqual([
      {
        severity: "note",
        text: "doubling was recognised and left as it is: its constant broadcasts",
        where: { file: undefined, node: "twice", op: "Mul" },
      },
    ]);
  });
  it("reaches into bodies", async () => {
    const done = await applied(
      doubled,
      graph(
        "%x: float32[2], %c: bool[]",
        "%y",
        '%y = If(%c) {\n then_branch = graph "t" () captures (%k: float32[2] = %x) -> (%r) {\n %r = Add(%k, %k)\n }\n else_branch = graph "e" () captures (%k: float32[2] = %x) -> (%r) {\n %r = Neg(%k)\n }\n }',
      ),
    );
    expect(done.text).toContain("Sum(%k, %k)");
  });
});
