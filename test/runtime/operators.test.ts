/** Operators that a user supplies as JavaScript functions: ONNX domains and TensorFlow graphs, planned, saved, loaded, run, and what goes wrong. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { compile, load, plan } from "../../src/compile.js";
import { PartitaError } from "../../src/diagnostics.js";
import { parse } from "../../src/ir/parse.js";
import { defineOperator, type Operator } from "../../src/ops/javascript.js";
import { check } from "../../src/partition/check.js";
import { generator } from "../../src/runtime/measure.js";
import { Tensor, type TensorLike } from "../../src/tensor.js";
import { bool, constant, FLOAT, func, graphDef, INT32, int, node, placeholder, STRING, shape, text, type } from "../support/tf-graph.js";

const folder = mkdtempSync(join(tmpdir(), "partita-operators-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const numbers = (t: TensorLike | undefined): number[] => Array.from((t?.data ?? []) as ArrayLike<number>, Number);
async function failure(p: Promise<unknown>): Promise<PartitaError> {
  const error = await p.then(
    () => undefined,
    (e: unknown) => e,
  );
  expect(error).toBeInstanceOf(PartitaError);
  return error as PartitaError;
}

/** x * factor + sum of the other operands, and how many there were. */
const scale = defineOperator({
  name: "Scale",
  domain: "own",
  infer: ([x]) => [x ?? { type: "float32" }, { type: "int64", dims: [] }],
  async run([x, ...others], { factor = 1 }) {
    const data = Float32Array.from(x?.data as Float32Array, (v, i) =>
      others.reduce((sum, o) => sum + ((o?.data as Float32Array | undefined)?.[i] ?? 0), v * Number(factor)),
    );
    return [new Tensor("float32", data, x?.dims ?? []), new Tensor("int64", [1 + others.filter((o) => o !== undefined).length], [])];
  },
});
const MODEL = `graph "g" opset {"": 18, "own": 1} (%x: float32[N, 2]) -> (%y, %count, %z) {
  const %b = float32[2] [10.0, 20.0]
  %early = Neg(%x) @"early"
  %late = Sqrt(%b) @"late"
  %s, %count = "own"."Scale"(%early, _, %b) {factor = 2.0} @"first"
  %t = Add(%s, %late) @"between"
  %u, %c = "own"."Scale"(%t, %x) @"second"
  %y = Relu(%u) @"after"
  %z = Abs(%x) @"aside"
}`;

describe("ONNX", () => {
  it("nodes of a custom domain run between segments, saved and loaded alike", async () => {
    const program = await compile(parse(MODEL), { operators: [scale] });
    await program.save(join(folder, "scale.partita"));
    expect(program.outputs.map((o) => `${o.name} ${o.type}[${o.dims}]`)).toEqual(["y float32[N,2]", "count int64[]", "z float32[N,2]"]);
    const x = new Tensor("float32", [-1, -2, 3, 4], [2, 2]);
    for (const p of [program, await load(join(folder, "scale.partita"), { operators: [scale] })]) {
      await using session = await p.createSession({ threads: 1 });
      const { y, count, z } = await session.run({ x });
      const late = [Math.sqrt(10), Math.sqrt(20)] as const;
      // Rows beyond the operand's end are added nothing: the function says so.
      const first = [2 + 10, 4 + 20, -6, -8];
      const want = first.map((v, i) => Math.max(0, v + (late[i % 2] ?? 0) + (numbers(x)[i] ?? 0)));
      numbers(y).forEach((v, i) => expect(v).toBeCloseTo(want[i] ?? 0, 4));
      expect([numbers(count), numbers(z)]).toEqual([[2], [1, 2, 3, 4]]);
      expect(session.profile().map((s) => s.segment)).toEqual(["host_0", "javascript_1", "host_2", "javascript_3", "host_4"]);
    }
  });

  it("a function may be asynchronous, and many runs overlap", async () => {
    const slow: Operator = {
      ...scale,
      run: async (inputs, attrs) => {
        await new Promise((resolve) => setTimeout(resolve, 5 * Math.random()));
        return await scale.run(inputs, attrs);
      },
    };
    await using session = await (await compile(parse(MODEL), { operators: [slow], outputs: ["s"] })).createSession({ threads: 1 });
    const runs = Array.from({ length: 20 }, (_, i) => session.run({ x: new Tensor("float32", [i, i], [1, 2]) }));
    expect((await Promise.all(runs)).map((r) => numbers(r["s"]))).toEqual(runs.map((_, i) => [10 - 2 * i, 20 - 2 * i]));
  });

  it("without a domain it stands for the name in every domain but ONNX's own", async () => {
    const named: Operator = { ...scale, domain: undefined, name: "Relu" };
    const text =
      'graph "g" opset {"": 18, "mine": 1} (%x: float32[1]) -> (%y, %z) { %y, %n = "mine"."Relu"(%x) {factor = 7.0}\n %z = Relu(%x) }';
    await using session = await (await compile(parse(text), { operators: [named] })).createSession({ threads: 1 });
    const { y, z } = await session.run({ x: new Tensor("float32", [-1], [1]) });
    expect([numbers(y), numbers(z)]).toEqual([[-7], [0]]);
  });

  it("reports say that it runs in JavaScript, and plans around it are sound", async () => {
    for (const target of ["cuda", "tensorrt"] as const) {
      const planned = await plan(parse(MODEL), { operators: [scale], target, minimumSegmentSize: 1 });
      check(planned.inferred.graph, planned.partition.segments);
      const data = planned.report.toJSON();
      const first = data.nodes.find((n) => n.name === "first");
      expect(data.segments[first?.segment ?? -1]?.name).toMatch(/^javascript_/);
      expect(first?.notOn).toEqual([{ engine: target, why: "it is a JavaScript function, which runs between segments" }]);
      expect(data.quality.segments).toBe(data.segments.length);
    }
  });

  it("plans of random graphs around such operators are sound, and compute what they compute in one piece", async () => {
    for (let seed = 1; seed <= 12; seed++) {
      const next = generator(seed);
      const values = ["x"];
      const body = Array.from({ length: 3 + Math.floor(next() * 20) }, (_, i) => {
        const pick = (): string => values[Math.floor(next() * values.length)] ?? "x";
        const line =
          next() < 0.3
            ? `%v${i} = "own"."Twice"(%${pick()}) @"t${i}"`
            : `%v${i} = ${next() < 0.5 ? "Add" : "Max"}(%${pick()}, %${pick()}) @"n${i}"`;
        values.push(`v${i}`);
        return line;
      });
      const outs = [values.at(-1), values.at(-2)].map((v) => `%${v}`).join(", ");
      const graph = (lines: readonly string[]) =>
        parse(`graph "g" opset {"": 18, "own": 1} (%x: float32[2]) -> (${outs}) {\n${lines.join("\n")}\n}`);
      const twice: Operator = {
        name: "Twice",
        infer: ([x]) => [x ?? { type: "float32" }],
        run: ([x]) => [
          new Tensor(
            "float32",
            Float32Array.from(x?.data as Float32Array, (v) => v + v),
            x?.dims ?? [],
          ),
        ],
      };
      const planned = await plan(graph(body), { operators: [twice] });
      check(planned.inferred.graph, planned.partition.segments);
      const results = [];
      for (const [g, operators] of [
        [graph(body), [twice]],
        [graph(body.map((l) => l.replace(/"own"\."Twice"\((%\w+)\)/, "Add($1, $1)"))), []],
      ] as const) {
        await using session = await (await compile(g, { operators })).createSession({ threads: 1 });
        results.push(Object.values(await session.run({ x: new Tensor("float32", [1, -0.5], [2]) })).map(numbers));
      }
      expect(results[0], `seed ${seed}`).toEqual(results[1]);
    }
  });
});

describe("TensorFlow", () => {
  const T = type(FLOAT);
  const graph = graphDef([
    placeholder("wav", STRING, []),
    constant("more", FLOAT, [2], [1, 2]),
    node("decoded", "DecodeWav", ["wav"], {
      desired_channels: int(1),
      desired_samples: int(2),
      label: text("ü"),
      dtype: T,
      to: shape([2, -1]),
      flag: bool(true),
    }),
    node("louder", "AddV2", ["decoded", "more"], { T }),
  ]);
  const decode = (seen: unknown[]): Operator =>
    defineOperator({
      name: "DecodeWav",
      infer: () => [
        { type: "float32", dims: [2] },
        { type: "int32", dims: [] },
      ],
      run([wav], attrs, { node: name }) {
        seen.push({ ...attrs }, name);
        const bytes = ((wav as Tensor).data as readonly string[])[0] ?? "";
        return [new Tensor("float32", [bytes.charCodeAt(0), bytes.charCodeAt(1)], [2]), new Tensor("int32", [16_000], [])];
      },
    });

  it("an operator without lowering is supplied, its attributes by their names", async () => {
    const seen: unknown[] = [];
    const program = await compile(graph, { operators: [decode(seen)] });
    await using session = await program.createSession({ threads: 1 });
    const { "louder:0": louder } = await session.run({ wav: new Tensor("string", ["AB"], []) });
    expect(numbers(louder)).toEqual([66, 68]);
    expect(seen).toEqual([{ desired_channels: 1, desired_samples: 2, label: "ü", dtype: "float32", to: [2, -1], flag: 1 }, "decoded"]);
    expect((program.report.toJSON().remarks ?? []).filter((r) => r.severity === "warning")).toEqual([]);
    expect((await failure(compile(graph))).fix).toContain("supply them as JavaScript `operators`");
  });
  it("one inside a function that is inlined keeps its place, and one that has a lowering is overridden", async () => {
    const model = graphDef(
      [placeholder("x", FLOAT, [2]), node("call", "PartitionedCall", ["x"], { f: func("body") })],
      [
        {
          name: "body",
          args: [["a", FLOAT]],
          results: [["r", FLOAT, "out:activations:0"]],
          nodes: [node("mine", "Square", ["a"], { T }), node("out", "Relu", ["mine:y:0"], { T })],
        },
      ],
    );
    const cube: Operator = {
      name: "Square",
      domain: "tensorflow",
      infer: ([x]) => [x ?? { type: "float32" }],
      run: ([x]) => [
        new Tensor(
          "float32",
          Float32Array.from(x?.data as Float32Array, (v) => v ** 3),
          x?.dims ?? [],
        ),
      ],
    };
    for (const [operators, want] of [
      [[], [4, 9]],
      [[cube], [0, 27]],
    ] as const) {
      await using session = await (await compile(model, { operators })).createSession({ threads: 1 });
      expect(numbers(Object.values(await session.run({ x: new Tensor("float32", [-2, 3], [2]) }))[0])).toEqual(want);
    }
  });
  it("results in function bodies go by the names that the operator gives them", async () => {
    const model = graphDef(
      [placeholder("x", FLOAT, [1]), node("call", "PartitionedCall", ["x"], { f: func("body") })],
      [
        {
          name: "body",
          args: [["a", FLOAT]],
          results: [["r", FLOAT, "out:y:0"]],
          nodes: [node("mine", "Pair", ["a"], {}), node("out", "Neg", ["mine:high:0"], { T })],
        },
      ],
    );
    const pair: Operator = {
      name: "Pair",
      outputs: ["low", "high"],
      infer: ([x]) => [x ?? { type: "float32" }, { type: "float32", dims: [1] }],
      run: ([x]) => [x as Tensor, new Tensor("float32", [9], [1])],
    };
    await using session = await (await compile(model, { operators: [pair] })).createSession({ threads: 1 });
    expect(numbers(Object.values(await session.run({ x: new Tensor("float32", [0], [1]) }))[0])).toEqual([-9]);
  });
  it("a constant operand and a second result arrive", async () => {
    const model = graphDef([
      placeholder("x", FLOAT, [1]),
      constant("k", INT32, [2], [5, 6]),
      node("mine", "Custom", ["x", "k"], {}),
      node("y", "Neg", ["mine:1"], { T }),
    ]);
    const custom: Operator = {
      name: "Custom",
      infer: () => [{ type: "float32" }, { type: "float32", dims: ["n"] }],
      run: ([x, k]) => [x as Tensor, new Tensor("float32", Float32Array.from(k?.data as Int32Array), [2])],
    };
    await using session = await (await compile(model, { operators: [custom] })).createSession({ threads: 1 });
    expect(numbers((await session.run({ x: new Tensor("float32", [0], [1]) }))["y:0"])).toEqual([-5, -6]);
  });
});

describe("what goes wrong", () => {
  const one = 'graph "g" opset {"": 18, "own": 1} (%x: float32[2]) -> (%y) { %h = "own"."Op"(%x) @"op"\n %y = Relu(%h) }';
  const op = (o: Partial<Operator>): Operator => ({
    name: "Op",
    infer: () => [{ type: "float32", dims: [2] }],
    run: ([x]) => [x as Tensor],
    ...o,
  });
  const run = async (o: Partial<Operator>): Promise<unknown> => {
    await using session = await (await compile(parse(one), { operators: [op(o)] })).createSession({ threads: 1 });
    return await session.run({ x: new Tensor("float32", [1, 2], [2]) });
  };

  it("no type: P1005", async () => {
    const error = await failure(compile(parse(one), { operators: [{ name: "Op", run: () => [] }] }));
    expect(error.message).toMatch(/^P1005 node 'op' \(own\.Op\): result 0 has no type/);
  });
  it.each([
    [
      "throws",
      () => {
        throw new Error("no idea");
      },
      "its `infer` throws: no idea",
    ],
    ["no list", () => 7, "its `infer` does not return a list"],
    ["no type", () => [{ type: "float33" }], "its `infer` gives result 0 no tensor type"],
    ["odd dims", () => [{ type: "float32", dims: [-1] }], "its `infer` gives result 0 the dims [-1]"],
  ])("infer %s: P1006", async (_, infer, says) => {
    const error = await failure(run({ infer: infer as never }));
    expect(error.message).toContain(`P1006 node 'op' (own.Op): ${says}`);
  });
  it("in a body: P1007", async () => {
    const text = `graph "g" opset {"": 18, "own": 1} (%x: float32[2], %c: bool) -> (%y) {
      %y = If(%c) {
        then_branch = graph "a" () captures (%i = %x) -> (%r) { %r = "own"."Op"(%i) @"op" }
        else_branch = graph "b" () captures (%i = %x) -> (%r) { %r = Neg(%i) }
      } @"if"
    }`;
    expect((await failure(compile(parse(text), { operators: [op({})] }))).message).toMatch(
      /^P1007 node 'op' \(own\.Op\): it is in the body/,
    );
  });
  it("a function that throws: P2007, with the cause", async () => {
    const cause = new Error("out of ink");
    const error = await failure(
      run({
        run: () => {
          throw cause;
        },
      }),
    );
    expect(error.message).toBe(
      "P2007 node 'op' (own.Op): its function threw: out of ink. Mend the function; the error's `cause` is what it threw.",
    );
    expect(error.cause).toBe(cause);
  });
  it.each([
    ["nothing", () => undefined, "`run` did not give a list of tensors"],
    ["too few", () => [], "result 0 is no tensor"],
    ["no tensor", () => [3], "result 0 is no tensor"],
    ["another type", () => [new Tensor("int32", [1, 2], [2])], "result 0 is int32[2], and was said to be float32[2]"],
    ["other dims", () => [new Tensor("float32", [1], [1])], "result 0 is float32[1], and was said to be float32[2]"],
  ])("results that were not promised, %s: P2008", async (_, f, says) => {
    expect((await failure(run({ run: f as never }))).message).toMatch(`P2008 node 'op' (own.Op): ${says}`);
  });
  it("a bundle without its operator: P3006", async () => {
    const path = join(folder, "needs.partita");
    await (await compile(parse(one), { operators: [op({})] })).save(path);
    const error = await failure(load(path));
    expect(error.message).toMatch(/^P3006 .*compiled with the JavaScript operator 'own\.Op', which is not given/);
    expect(error.fix).toBe("give it: load(path, { operators: [...] })");
    expect((await failure(load(path, { operator: [] } as never))).message).toMatch(/^P1002 .*did you mean 'operators'/i);
  });
  it("options that are no operators: P1001", async () => {
    for (const operators of [7, [{}], [{ name: "x" }], [{ name: "", run() {} }], [null]])
      expect((await failure(compile(parse(one), { operators: operators as never }))).code).toBe("P1001");
  });
  it("an aborted run rejects with its reason, not with the operator's", async () => {
    const stop = new AbortController();
    const reason = new Error("enough");
    await using session = await (
      await compile(parse(one), {
        operators: [
          op({
            run: async (_, __, { signal }) => {
              stop.abort(reason);
              signal?.throwIfAborted();
              return [];
            },
          }),
        ],
      })
    ).createSession({ threads: 1 });
    await expect(session.run({ x: new Tensor("float32", [1, 2], [2]) }, { signal: stop.signal })).rejects.toBe(reason);
  });
});
