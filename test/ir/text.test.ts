import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { PartitaError } from "../../src/diagnostics.js";
import { Editor } from "../../src/ir/edit.js";
import { graphHash } from "../../src/ir/hash.js";
import { parse } from "../../src/ir/parse.js";
import { makeConstant } from "../../src/ir/payload.js";
import { print } from "../../src/ir/print.js";
import type { Constant, Graph, ValueType } from "../../src/ir/types.js";
import { verify } from "../../src/ir/verify.js";

const CONV = `graph "main" opset {"": 18} (%x: float32[N, 3, 8, 8]) -> (%y) {
  const %w = float32[4, 3, 1, 1] [1.0, -0.0, 0.10000000149011612, 4.0, inf, -inf, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0]
  %y: float32[N, 4, 8, 8] = Conv(%x, %w, _) {strides = [1, 1], auto_pad = "NOTSET"} @"conv1"
}
`;
const BODIES = `graph "loops" opset {"": 18, "com.example": 1} meta {"irVersion":8,"producer":["p","1"],"metadata":[["k","v"]],"unknown":{"hex":"0aff"}} (%n: int64, %go: bool, %x: float32[past + 1, ?, floordiv(2*a, 3)], %"odd name:": sequence<optional<float16>>) -> (%out, %last) {
  %out: float32, _ = Loop(%n, %go, %x) {
    note = "kept"
    body = graph "body" (%i: int64, %c: bool, %state) captures (%outer = %x) -> (%c, %next) {
      %next = Add(%state, %outer) @"inner"
      %t = If(%c) {
        then_branch = graph "then" () captures (%deep = %outer) -> (%r) {
          %r = Neg(%deep)
        }
        else_branch = graph "else" () captures (%deep = %outer) -> (%deep) {
        }
      }
    }
  } @"loop" from ["a", "b"]
  %last = "com.example"."Odd Op"(%"odd name:", _) {i = 1, f = 1.0, big = 9223372036854775807, is = [1, -2], fs = [1.5, nan, -inf, -0.0], s = "a\\"b\\n", bytes = hex "ff00", ss = ["x", hex "fe"], none = ints [], nof = floats [], nos = strings [], t = type map<string, sequence<int64[?, 2]>>, ts = types [opaque<"d", "n">, sparse float32[4], unknown], c = int8[2] [1, -2], cs = tensors [bool[] [1], string[1] ["s"]], "odd key" = 2} overload "o" meta {"doc":"d"}
}
`;

describe("text of graphs", () => {
  test.each([
    ["a convolution", CONV],
    ["bodies, captures, all attribute kinds and extras", BODIES],
  ])("%s: print(parse(t)) is t", (_, text) => {
    const g = parse(text);
    verify(g);
    expect(print(g)).toBe(text);
  });

  test("integers and floats are told apart", () => {
    const g = parse(`graph "g" () -> () { Op() {a = 1, b = 1.0, c = 1e3, d = [1], e = [1.0]} }`);
    expect(Object.values(g.nodes[0]?.attrs ?? {}).map((a) => a.kind)).toEqual(["int", "float", "float", "ints", "floats"]);
  });

  test("every kind of constant survives, NaN payloads and unreadable strings included", () => {
    const editor = new Editor({ name: "g", opsets: { "": 18 } });
    const constants: Constant[] = [
      makeConstant("float32", [2], [Number.NaN, 1]),
      { dtype: "float32", dims: [1], data: { kind: "bytes", bytes: Uint8Array.of(1, 0, 0xc0, 0x7f) } },
      { dtype: "int4", dims: [3], data: { kind: "bytes", bytes: Uint8Array.of(0x21, 0x0f) } },
      { dtype: "float8e4m3fn", dims: [1, 1], data: { kind: "bytes", bytes: Uint8Array.of(0x7f) } },
      { dtype: "complex64", dims: [], data: { kind: "bytes", bytes: new Uint8Array(8).fill(3) } },
      { dtype: "string", dims: [2], data: { kind: "strings", values: [Uint8Array.of(0xff, 0xfe), Buffer.from("ok\ufeff")] } },
      makeConstant("int64", [2], [-(2n ** 63n), 2n ** 63n - 1n]),
      makeConstant("uint64", [1], [2n ** 64n - 1n]),
      makeConstant("float16", [2], [0.1, -65504]),
      makeConstant("float32", [0, 3], []),
      {
        dtype: "float32",
        dims: [2, 2],
        data: { kind: "sparse", values: makeConstant("float32", [1], [5]), indices: makeConstant("int64", [1], [3]) },
      },
    ];
    const ids = constants.map((c, i) => editor.addConstant(`c${i}`, c));
    editor.setOutputs(ids);
    const g = editor.finish();
    verify(g);
    const again = parse(print(g));
    expect(print(again)).toBe(print(g));
    expect(graphHash(again)).toBe(graphHash(g));
  });

  test("big constants go by hash, through a store", () => {
    const editor = new Editor({ name: "g" });
    const big = makeConstant(
      "float32",
      [100],
      Array.from({ length: 100 }, (_, i) => i),
    );
    editor.setOutputs([editor.addConstant("w", big)]);
    const g = editor.finish();
    const blobs = new Map<string, Constant>();
    const text = print(g, { blobs });
    expect([...blobs.values()]).toEqual([big]);
    const again = parse(text, { blobs });
    expect([...again.constants.values()][0]).toBe(big);
    expect(() => parse(text)).toThrow(
      /^P1404 line 2: no constant with hash [0-9a-f]{16}\.\.\. is among the blobs\. Pass the map that print filled as `blobs`\.$/,
    );
  });

  test("any value name and any type can be written", () => {
    const dtype = fc.constantFrom("float32", "bool", "int4", "string") as fc.Arbitrary<"float32">;
    const dim = fc.oneof(fc.nat(9), fc.constantFrom("?", "n", "n + 1", "`odd, dim]`"));
    const { type } = fc.letrec<{ type: ValueType }>((tie) => ({
      type: fc.oneof(
        { depthSize: "small" },
        fc.record({
          kind: fc.constantFrom("tensor" as const, "sparse" as const),
          dtype,
          shape: fc.option(fc.array(dim, { maxLength: 3 }), { nil: undefined }),
        }),
        fc.record({ kind: fc.constantFrom("sequence" as const, "optional" as const), of: tie("type") }),
        fc.record({ kind: fc.constant("map" as const), key: dtype, of: tie("type") }),
        fc.record({ kind: fc.constant("opaque" as const), domain: fc.string(), name: fc.string() }),
      ),
    }));
    fc.assert(
      fc.property(fc.string({ minLength: 1, unit: "binary" }), type, fc.string({ unit: "binary" }), (name, t, op) => {
        const editor = new Editor({ name });
        const x = editor.addInput(name, t);
        editor.add({ op, ins: [x], outs: 1, name: op });
        editor.setOutputs([x]);
        const g = editor.finish();
        const again = parse(print(g));
        expect(print(again)).toBe(print(g));
        expect(again.values).toEqual(g.values);
        expect(again.nodes[0]?.op).toBe(op);
      }),
      { numRuns: 500 },
    );
  });
});

describe("text that does not parse", () => {
  const failure = (text: string): string => {
    try {
      parse(text);
    } catch (error) {
      if (error instanceof PartitaError) return error.message;
      throw error;
    }
    return "it parsed";
  };

  test.each([
    ["", "P1402 line 1, column 1: found the end of the text, expected 'graph'. See docs/ir.md for the grammar."],
    [`graph "g" () -> () {\n  %y = Conv(%x\n}`, "P1402 line 3, column 1: found '}', expected ','. See docs/ir.md for the grammar."],
    [
      `graph "g" (%x: float33) -> () {}`,
      "P1402 line 1, column 16: found 'float33', expected an element type. See docs/ir.md for the grammar.",
    ],
    [`graph "g" () -> (%y) {}`, "P1403 line 1: %y is used and not defined. Define it as an input, a constant or a node's output."],
    [`graph "g" (%x) -> () {\n %x = Neg(%x) }`, "P1403 line 2: %x is defined twice. Give each value a name of its own."],
    [
      `graph "g" () -> () { const %c = int64[2] [1] }`,
      "P1402 line 1, column 46: found '}', expected 2 elements before this. See docs/ir.md for the grammar.",
    ],
    [
      `graph "g" () -> () { const %c = int64[9007199254740993, 9] [1] }`,
      "P1402 line 1, column 60: found '[', expected dims with a representable product before this. See docs/ir.md for the grammar.",
    ],
    [
      `graph "g" () -> (%a) { %a = Neg(%b) %b = Neg(%a) }`,
      "P1401 2 nodes lie on a cycle or behind one, the first of them 'Neg', 'Neg': a graph must be acyclic; loops are written with Loop or Scan. Break the cycle where the model is made.",
    ],
  ])("%j", (text, message) => {
    expect(failure(text)).toBe(message);
  });

  test("nesting beyond any sense is an error, not a crash", () => {
    const body = (depth: number): string => `graph "g" () -> () { If() { b = `.repeat(depth);
    expect(failure(body(100_000))).toContain("expected at most 64 nested graphs");
    expect(failure(`graph "g" (%x: ${"sequence<".repeat(100_000)}`)).toContain("expected at most 64 nested types");
    expect(failure(`graph "g" () -> () { const %c = ${"sparse float32[1] values ".repeat(100_000)}`)).toContain("expected an element type");
    expect(failure(`graph "g" () -> () meta ${"[".repeat(100_000)}`)).toMatch(/^P1402/);
    expect(print(parse(`graph "g" (%x: float32[${"(".repeat(10_000)}a${")".repeat(10_000)}]) -> () {}`))).toMatch(/^graph/);
  });

  test("damaged text gives a coded error or another graph", () => {
    const source = fc.constantFrom(CONV, BODIES);
    fc.assert(
      fc.property(source, fc.nat(), fc.nat(20), fc.string({ maxLength: 6 }), (text, where, cut, put) => {
        const at = where % text.length;
        const damaged = text.slice(0, at) + put + text.slice(at + cut);
        let g: Graph;
        try {
          g = parse(damaged);
        } catch (error) {
          if (!(error instanceof PartitaError)) throw new Error(`${String(error)} for\n${damaged}`);
          return;
        }
        expect(typeof print(g)).toBe("string");
      }),
      { numRuns: 2000 },
    );
  });
});
