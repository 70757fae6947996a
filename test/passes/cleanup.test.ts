/** Passes that only take away: no-ops, dead code, repeated computations, views that cancel. In bodies of If, Loop and Scan too. */
import { describe, expect, it } from "vitest";
import { cancelViews } from "../../src/passes/cancel-views.js";
import { commonSubexpressions } from "../../src/passes/common-subexpressions.js";
import { deadCode } from "../../src/passes/dead-code.js";
import { noOps } from "../../src/passes/no-ops.js";
import { applied, difference, graph, leaves, ops } from "./support.js";

const consts: Readonly<Record<string, string>> = {
  ones: "float32[3] [1.0, 1.0, 1.0]",
  zeros: "float32[3] [0.0, 0.0, 0.0]",
  one: "float32[] [1.0]",
  zero: "float32[] [0.0]",
  column: "float32[2, 1] [1.0, 2.0]",
  wide: "float32[4, 1, 1] [1.0, 1.0, 1.0, 1.0]",
  off: "bool[] [0]",
  on: "bool[] [1]",
  noPad: "int64[4] [0, 0, 0, 0]",
  pad: "int64[4] [0, 0, 0, 1]",
  same: "int64[2] [2, 3]",
  open: "int64[2] [0, -1]",
  other: "int64[2] [3, 2]",
  once: "int64[2] [1, 1]",
  twice: "int64[2] [1, 2]",
  start: "int64[1] [0]",
  last: "int64[1] [-1]",
  first: "int64[1] [-4]",
  end: "int64[1] [9]",
  axis: "int64[1] [1]",
  back: "int64[1] [-1]",
  none: "int64[0] []",
};
const text = (line: string): string =>
  graph(
    "%x: float32[2, 3]",
    "%y",
    ...Object.entries(consts)
      .filter(([name]) => new RegExp(`%${name}\\b`).test(line))
      .map(([name, c]) => `const %${name} = ${c}`),
    "%a = Relu(%x)",
    line.replace("%x", "%a").replace(/^/, "%b = "),
    "%y = Abs(%b)",
  );

describe("no-ops", () => {
  it.each([
    "Identity(%x)",
    "Dropout(%x)",
    "Dropout(%x, %one, %off)",
    "Cast(%x) {to = 1}",
    "Transpose(%x) {perm = [0, 1]}",
    "Reshape(%x, %same)",
    "Reshape(%x, %open)",
    "Expand(%x, %same)",
    "Flatten(%x)",
    "Squeeze(%x, %none)",
    "Tile(%x, %once)",
    "Pad(%x, %noPad)",
    "Slice(%x, %start, %end)",
    "Slice(%x, %start, %end, %axis, %axis)",
    "Concat(%x) {axis = 0}",
    "Sum(%x)",
    "Max(%x)",
    "Min(%x)",
    "Mean(%x)",
    "Mul(%x, %ones)",
    "Div(%x, %one)",
    "Add(%x, %zeros)",
    "Sub(%x, %zero)",
    "Where(%on, %x, %zero)",
    "Where(%off, %zeros, %x)",
  ])("%s goes", async (line) => {
    const done = await applied(noOps, text(line));
    expect(done.nodes).toEqual(["%a = Relu(%x)", "%y = Abs(%a)"]);
    expect(await difference(done)).toBe(0);
  });
  it.each([
    "Dropout(%x, %zero, %on)",
    "Cast(%x) {to = 10}",
    "Transpose(%x) {perm = [1, 0]}",
    "Reshape(%x, %other)",
    "Tile(%x, %twice)",
    "Pad(%x, %pad)",
    "Slice(%x, %last, %first, %axis, %back)",
    "Concat(%x, %x) {axis = 0}",
    "Sum(%x, %x)",
    "Mul(%x, %column)",
    "Mul(%x, %wide)",
    "Div(%x, %zero)",
    "Add(%x, %one)",
    "Sub(%zero, %x)",
    "Neg(%x)",
    "Where(%off, %x, %zeros)",
    "Where(%on, %x, %wide)",
  ])("%s stays", async (line) => {
    await leaves(noOps, text(line));
  });
  it("read past a cast to a wider type and back, and past no other", async () => {
    const there = (type: string, wide: number, back: number): string =>
      graph(`%x: ${type}[2, 3]`, "%y", `%a = Cast(%x) {to = ${wide}}`, `%b = Cast(%a) {to = ${back}}`, "%y = Identity(%b)");
    // 1 float32, 3 int8, 6 int32, 7 int64, 10 float16, 11 float64, 12 uint32, 16 bfloat16.
    for (const [type, wide, back] of [
      ["float32", 11, 1],
      ["float16", 1, 10],
      ["bfloat16", 11, 16],
      ["int8", 10, 3],
      ["int32", 7, 6],
      ["int32", 11, 6],
      ["uint32", 7, 12],
      ["bool", 1, 9],
    ] as const)
      expect((await applied(noOps, there(type, wide, back))).nodes.join(), type).not.toContain("(%a)");
    for (const [type, wide, back] of [
      ["float32", 10, 1],
      ["float16", 16, 10],
      ["bfloat16", 10, 16],
      ["int32", 1, 6],
      ["uint32", 6, 12],
      ["int64", 11, 7],
      ["float32", 11, 10],
    ] as const)
      expect((await applied(noOps, there(type, wide, back))).nodes.join(), type).toContain("(%a)");
  });
  it("keep a node whose dims are not known to be the same", async () => {
    await leaves(noOps, graph("%x: float32[n, m], %s: int64[2]", "%y", "%a = Reshape(%x, %s)", "%y = Abs(%a)"));
    await leaves(
      noOps,
      graph(
        "%x: float32[?, 3]",
        "%y",
        "const %s = int64[2] [-1, 3]",
        "%a = Slice(%x, %z, %e)",
        "const %z = int64[1] [0]",
        "const %e = int64[1] [5]",
        "%y = Abs(%a)",
      ),
    );
  });
  it("keep the name of a graph output", async () => {
    const done = await applied(noOps, graph("%x: float32[2]", "%y", "%a = Relu(%x)", "%y = Identity(%a)"));
    expect(done.nodes).toEqual(["%y = Relu(%x)"]);
    const both = graph("%x: float32[2]", "%a, %y", "%a = Relu(%x)", "%y = Identity(%a)");
    await leaves(noOps, both);
  });
});

/** One graph with a body under each kind of control flow; `lines` compute %r from %k. */
const bodies = (...lines: string[]): readonly (readonly [string, string])[] => {
  const inner = lines.map((l) => `      ${l}`).join("\n");
  return [
    [
      "If",
      `graph "g" opset {"": 18} (%x: float32[4], %c: bool[]) -> (%y) {
  %y = If(%c) {
    then_branch = graph "t" () captures (%k: float32[4] = %x) -> (%r) {\n${inner}\n    }
    else_branch = graph "e" () captures (%k: float32[4] = %x) -> (%r) {\n      %r = Abs(%k)\n    }
  }
}`,
    ],
    [
      "Loop",
      `graph "g" opset {"": 18} (%x: float32[4], %n: int64[]) -> (%y) {
  const %go = bool[] [1]
  %y = Loop(%n, %go, %x) {
    body = graph "b" (%i: int64[], %on: bool[], %k: float32[4]) -> (%more, %r) {\n      %more = Identity(%on)\n${inner}\n    }
  }
}`,
    ],
    [
      "Scan",
      `graph "g" opset {"": 18} (%x: float32[3, 4]) -> (%y) {
  %y = Scan(%x) {
    num_scan_inputs = 1
    body = graph "b" (%k: float32[4]) -> (%r) {\n${inner}\n    }
  }
}`,
    ],
  ];
};

describe("in bodies", () => {
  it.each(bodies("%p = Neg(%k)", "%q = Identity(%p)", "%r = Abs(%q)"))("no-ops go from %s", async (_, t) => {
    const done = await applied(noOps, t);
    expect(done.text).toContain("%r: float32[4] = Abs(%p)");
    expect(done.text).not.toContain("Identity(%p)");
  });
  it.each(bodies("%dead = Exp(%k)", "%r = Neg(%k)"))("dead code goes from %s", async (_, t) => {
    const done = await applied(deadCode, t);
    expect(done.text).not.toContain("Exp");
    expect(await difference(done)).toBe(0);
  });
  it.each(bodies("%p = Exp(%k)", "%q = Exp(%k)", "%r = Add(%p, %q)"))("repeated computations go from %s", async (_, t) => {
    const done = await applied(commonSubexpressions, t);
    expect(done.text.match(/Exp/g)).toHaveLength(1);
    expect(await difference(done)).toBe(0);
  });
  it.each(
    bodies(
      "%p = Unsqueeze(%k, %a)",
      "const %a = int64[1] [0]",
      "%q = Transpose(%p) {perm = [1, 0]}",
      "%s = Relu(%q)",
      "%t = Transpose(%s) {perm = [1, 0]}",
      "%r = Squeeze(%t, %a)",
    ),
  )("views cancel in %s", async (_, t) => {
    const done = await applied(cancelViews, t);
    expect(done.text).not.toContain("Transpose");
    expect(await difference(done)).toBe(0);
  });
});

describe("dead-code", () => {
  it("drops trailing optional outputs, and keeps the places of others", async () => {
    const t = graph(
      "%x: float32[1, 1, 4, 4], %q: float32[1, 2, 3, 4], %pk: float32[1, 2, 2, 4]",
      "%y, %o, %pv",
      "%y, %i = MaxPool(%x) {kernel_shape = [2, 2]}",
      "%o, %kk, %pv = Attention(%q, %q, %q, _, %pk, %pk)",
    );
    const done = await applied(deadCode, t);
    expect(done.nodes).toEqual(["%y = MaxPool(%x) {kernel_shape = [2, 2]}", "%o, %kk, %pv = Attention(%q, %q, %q, _, %pk, %pk)"]);
  });
  it("keeps what ONNX Runtime wants, read or not", async () => {
    const t = graph(
      "%x: float32[2, 3, 4], %c: float32[3], %q: float32[1, 2, 3, 4], %pk: float32[1, 2, 2, 4]",
      "%y, %o",
      "%y, %mean, %variance = BatchNormalization(%x, %c, %c, %c, %c) {training_mode = 1}",
      "%o, %kk, %pv, %s = Attention(%q, %q, %q, _, %pk, %pk)",
    );
    const done = await applied(deadCode, t);
    expect(done.nodes).toEqual([
      "%y, %mean, %variance = BatchNormalization(%x, %c, %c, %c, %c) {training_mode = 1}",
      "%o, %kk, %pv = Attention(%q, %q, %q, _, %pk, %pk)",
    ]);
    expect(await difference(done)).toBe(0);
  });
  it("keeps Split whole, whose outputs say how it splits", async () => {
    await leaves(deadCode, graph("%x: float32[4]", "%a", "%a, %b = Split(%x) {axis = 0, num_outputs = 2}"));
  });
  it("drops what only a dead body reads", async () => {
    const t = graph(
      "%x: float32[4], %c: bool[]",
      "%y",
      "%only = Exp(%x)",
      "%z = If(%c) {",
      '  then_branch = graph "t" () captures (%k: float32[4] = %only) -> (%r) {',
      "    %r = Neg(%k)",
      "  }",
      '  else_branch = graph "e" () captures (%k: float32[4] = %only) -> (%r) {',
      "    %r = Abs(%k)",
      "  }",
      "}",
      "%y = Relu(%x)",
    );
    expect(ops((await applied(deadCode, t)).after)).toEqual(["Relu"]);
  });
});

describe("common-subexpressions", () => {
  it("keeps apart what draws: two Dropouts in training", async () => {
    const two = ["%a = Dropout(%x, %r, %on)", "%b = Dropout(%x, %r, %on)", "%y = Sub(%a, %b)"];
    await leaves(commonSubexpressions, graph("%x: float32[2, 2]", "%y", "const %r = float32[] [0.5]", "const %on = bool[] [1]", ...two));
  });
  it("keeps nodes apart that differ in attribute, operand order, number of outputs, or name an output", async () => {
    await leaves(
      commonSubexpressions,
      graph(
        "%x: float32[2, 2], %z: float32[2, 2]",
        "%a, %b, %c, %d, %e, %f",
        "%a = Sub(%x, %z)",
        "%b = Sub(%z, %x)",
        "%c = Softmax(%x) {axis = 0}",
        "%d = Softmax(%x) {axis = 1}",
        "%e = Relu(%x)",
        "%f = Relu(%x)",
      ),
    );
  });
  it("merges chains, and equal constants of another name but not of another type", async () => {
    const done = await applied(
      commonSubexpressions,
      graph(
        "%x: float32[2]",
        "%y, %z",
        "const %a = int64[1] [2]",
        "const %b = int64[1] [2]",
        "const %c = int32[1] [2]",
        "%p = Expand(%x, %a)",
        "%q = Expand(%x, %b)",
        "%r = Neg(%p)",
        "%s = Neg(%q)",
        "%y = Add(%r, %s)",
        "%z = Cast(%c) {to = 1}",
      ),
    );
    expect(done.nodes).toEqual(["%p = Expand(%x, %a)", "%r = Neg(%p)", "%y = Add(%r, %r)", "%z = Cast(%c) {to = 1}"]);
  });
});

describe("cancel-views", () => {
  it.each([
    [
      "behind a two-sided operator",
      [
        "%a = Transpose(%x) {perm = [1, 0]}",
        "%b = Transpose(%z) {perm = [1, 0]}",
        "%c = Add(%a, %b)",
        "%y = Transpose(%c) {perm = [1, 0]}",
      ],
    ],
    [
      "past a scalar",
      [
        "const %s = float32[] [2.0]",
        "%a = Transpose(%x) {perm = [1, 0]}",
        "%b = Mul(%s, %a)",
        "%c = Sub(%b, %s)",
        "%d = Transpose(%c) {perm = [1, 0]}",
        "%y = Add(%d, %z)",
      ],
    ],
  ])("transposes cancel %s", async (_, lines) => {
    const done = await applied(cancelViews, graph("%x: float32[2, 3], %z: float32[2, 3]", "%y", ...(lines as string[])));
    expect(ops(done.after)).not.toContain("Transpose");
    expect(await difference(done)).toBeLessThan(1e-6);
  });
  it.each([
    ["a transpose that nothing undoes", ["%a = Transpose(%x) {perm = [1, 0]}", "%y = Relu(%a)"]],
    [
      "one that has another reader",
      [
        "%a = Transpose(%x) {perm = [1, 0]}",
        "%b = Relu(%a)",
        "%c = Transpose(%b) {perm = [1, 0]}",
        "%d = MatMul(%x, %a)",
        "%y = MatMul(%d, %c)",
      ],
    ],
    [
      "one beside a vector",
      ["const %s = float32[2] [2.0, 3.0]", "%a = Transpose(%x) {perm = [1, 0]}", "%b = Mul(%a, %s)", "%y = Transpose(%b) {perm = [1, 0]}"],
    ],
  ])("leaves %s", async (_, lines) => {
    await leaves(cancelViews, graph("%x: float32[2, 3]", "%y", ...(lines as string[])));
  });
});
