/** SavedModels and checkpoints in the forms that they have: what a signature may feed, variables in slices, variables that a graph changes. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { compile } from "../../../src/compile.js";
import { decodeMessage } from "../../../src/import/tf/binary.js";
import { openBundle, readTable } from "../../../src/import/tf/bundle.js";
import { importTf } from "../../../src/import/tf/index.js";
import type { TensorProto } from "../../../src/import/tf/schema.js";
import { sliceKey } from "../../../src/import/tf/slices.js";
import { parseText } from "../../../src/import/tf/text.js";
import { bytesOf } from "../../../src/ir/payload.js";
import { Tensor, type TensorLike } from "../../../src/tensor.js";
import {
  constant,
  entry,
  FLOAT,
  func,
  graphDef,
  node,
  placeholder,
  RESOURCE,
  shape,
  tableOf,
  text,
  type,
  writeBundle,
  writeSavedModel,
} from "../../support/tf-graph.js";

const folder = mkdtempSync(join(tmpdir(), "partita-tf-saved-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const T = type(FLOAT);
const numbers = (t: TensorLike | undefined): number[] => Array.from((t?.data ?? []) as ArrayLike<number>, Number);
const tensor = (values: readonly number[], dims: readonly number[] = [values.length]) => new Tensor("float32", [...values], [...dims]);
const at = (name: string): string => join(folder, name);
const add = (name: string, a: string, b: string, controls: readonly string[] = []) => node(name, "AddV2", [a, b, ...controls], { T });

describe("signatures", () => {
  it("feed any tensor: placeholders with a default, with their own dims, and what the graph would compute", async () => {
    writeSavedModel(at("any"), {
      nodes: [
        placeholder("x", FLOAT, [-1]),
        constant("one", FLOAT, [1], [1]),
        node("keep", "PlaceholderWithDefault", ["one"], { dtype: T, shape: shape([-1]) }),
        add("middle", "x", "x"),
        add("y", "middle", "keep"),
      ],
      signatures: {
        serving_default: {
          inputs: { keep: { name: "keep:0", dtype: FLOAT, dims: [-1] }, half: { name: "middle:0", dtype: FLOAT, dims: [-1] } },
          outputs: { y: "y:0" },
        },
      },
    });
    const program = await compile(at("any"), { target: "host" });
    expect(program.inputs.map((p) => p.name).sort()).toEqual(["half", "keep"]);
    await using session = await program.createSession({ threads: 1 });
    expect(numbers((await session.run({ half: tensor([1, 2]), keep: tensor([10, 20]) }))["y"])).toEqual([11, 22]);
    const cut = await compile(at("any"), { target: "host", inputs: ["keep", "x"], outputs: ["y"] });
    expect(cut.inputs.find((p) => p.name.startsWith("keep"))?.dims).toEqual(["keep.d0"]);
  });
  it("have all of their inputs, also those that nothing reads", async () => {
    const x = { name: "x:0", dtype: FLOAT, dims: [2] };
    writeSavedModel(at("unread"), {
      nodes: [placeholder("x", FLOAT, [2]), placeholder("rate", FLOAT, []), add("y", "x", "x")],
      signatures: { serving_default: { inputs: { x, rate: { name: "rate:0", dtype: FLOAT, dims: [] } }, outputs: { y: "y:0" } } },
    });
    const program = await compile(at("unread"), { target: "host" });
    await using session = await program.createSession({ threads: 1 });
    expect(numbers((await session.run({ x: tensor([1, 2]), rate: tensor([1], []) }))["y"])).toEqual([2, 4]);
  });
  it("whose result is a sparse tensor, or whose input has no type, are refused", async () => {
    const sparse = { serving_default: { inputs: { x: "x:0" }, outputs: { y: { dtype: FLOAT, dims: [2] } } } };
    writeSavedModel(at("sparse"), { nodes: [placeholder("x", FLOAT, [2])], signatures: sparse });
    await expect(compile(at("sparse"))).rejects.toThrow(/^P1308 .*'y' is a sparse or ragged tensor/);
    const untyped = { serving_default: { inputs: { m: "m:0" }, outputs: { y: "m:0" } } };
    writeSavedModel(at("untyped"), { nodes: [placeholder("x", FLOAT, [2]), add("m", "x", "x")], signatures: untyped });
    await expect(compile(at("untyped"))).rejects.toThrow(/^P1304 .*the signature's input 'm' has no element type/);
  });
});

describe("variables in slices", () => {
  const rows = (from: number, count: number, columns = 2): number[] =>
    Array.from({ length: count * columns }, (_, i) => from * columns + i);
  const key = (...extents: readonly (readonly [number, number])[]) =>
    sliceKey(
      "w",
      extents.map(([start, length]) => ({ start, length })),
    );
  const whole = [
    [0, 3],
    [3, 2],
  ].map(([start = 0, count = 0]) => ({
    key: key([start, count], [0, -1]),
    dims: [count, 2],
    values: rows(start, count),
    extents: [[start, count] as const, [0, -1] as const],
  }));
  const checkpoint = (name: string, pieces = whole): string => {
    writeBundle(at(name), [{ key: "w", dims: [5, 2], values: [], slices: whole }, ...pieces]);
    return at(name);
  };
  it("are found by a code of their place", () => {
    const code = (start: number, length: number) => Buffer.from(sliceKey("p/w", [{ start, length }]), "latin1").toString("hex");
    expect(code(0, 3)).toBe("00702f7700010101" + "80" + "83");
    expect(code(100, -1)).toBe("00702f7700010101" + "c064" + "7f");
    expect(code(8192, 63)).toBe("00702f7700010101" + "e02000" + "bf");
    expect(sliceKey("\0\u00ff", [])).toBe("\0\0\xff\xc3\xbf\0\x01\0");
  });
  it("are put together, and parts are cut out of them, in all dims", () => {
    const bundle = openBundle(checkpoint("parts"));
    const read = (dims: readonly number[], region: readonly { start: number; length: number }[] | undefined): number[] => {
      const c = bundle.tensor("w", region === undefined ? undefined : { dims, region });
      return c === undefined ? [] : [...new Float32Array(bytesOf(c).slice().buffer)];
    };
    expect(bundle.keys()).toEqual(["w"]);
    expect(read([5, 2], undefined)).toEqual(rows(0, 5));
    expect(
      read(
        [5, 2],
        [
          { start: 3, length: 2 },
          { start: 0, length: 2 },
        ],
      ),
    ).toEqual(rows(3, 2));
    expect(
      read(
        [5, 2],
        [
          { start: 2, length: 3 },
          { start: 1, length: 1 },
        ],
      ),
    ).toEqual([5, 7, 9]);
    expect(() =>
      read(
        [5, 3],
        [
          { start: 0, length: 1 },
          { start: 0, length: 1 },
        ],
      ),
    ).toThrow(/^P1311 .*a part of dims \[5, 3\] is wanted of dims \[5, 2\]/);
  });
  it("that are missing are said to be", () => {
    expect(() => openBundle(checkpoint("missing", whole.slice(0, 1))).tensor("w")).toThrow(
      /^P1311 .*it lacks the slice 3,2:0,2 of dims \[5, 2\]/,
    );
  });
  it("reach the variables that a graph keeps in parts", async () => {
    const variable = (name: string, count: number) => node(name, "VariableV2", [], { dtype: T, shape: shape([count, 2]) });
    writeSavedModel(at("partitioned"), {
      nodes: [
        placeholder("x", FLOAT, [2]),
        ...[3, 2].flatMap((count, i) => [
          variable(`part_${i}`, count),
          node(`part_${i}/read`, "Identity", [`part_${i}`], { T }),
          add(`y${i}`, `part_${i}/read`, "x"),
          node(`restore_${i}`, "Assign", [`part_${i}`, `RestoreV2:${i}`], { T }),
        ]),
        constant("prefix", 7, [], [""]),
        constant("names", 7, [2], ["w", "w"]),
        constant("slices", 7, [2], ["5 2 0,3:-", "5 2 3,2:0,2"]),
        node("RestoreV2", "RestoreV2", ["prefix", "names", "slices"]),
      ],
      signatures: { serving_default: { inputs: { x: "x:0" }, outputs: { a: "y0:0", b: "y1:0" } } },
    });
    checkpoint("partitioned/variables/variables");
    await using session = await (await compile(at("partitioned"), { target: "host" })).createSession({ threads: 1 });
    const { a, b } = await session.run({ x: tensor([0, 0]) });
    expect([numbers(a), numbers(b)]).toEqual([rows(0, 3), rows(3, 2)]);
  });
});

describe("variables that a graph changes", () => {
  const model = (name: string, order: "before" | "after"): string => {
    const change = node("change", "AssignAddVariableOp", ["v", "x", ...(order === "before" ? [] : ["^read"])], { dtype: T });
    writeSavedModel(at(name), {
      nodes: [
        placeholder("x", FLOAT, [2]),
        node("v", "VarHandleOp", [], { dtype: T, shape: shape([2]), shared_name: text("v") }),
        node("call", "StatefulPartitionedCall", ["x", "v"], { f: func("f") }),
      ],
      functions: [
        {
          name: "f",
          args: [
            ["x", FLOAT],
            ["v", RESOURCE],
          ],
          results: [["y", FLOAT, "y:z:0"]],
          nodes: [
            order === "before" ? node("nested", "StatefulPartitionedCall", ["x", "v"], { f: func("g") }) : change,
            node("read", "ReadVariableOp", ["v", ...(order === "before" ? ["^nested"] : [])], { dtype: T }),
            add("y", "x", "read:value:0"),
          ],
        },
        {
          name: "g",
          args: [
            ["x", FLOAT],
            ["v", RESOURCE],
          ],
          results: [],
          nodes: [change],
        },
      ],
      signatures: { serving_default: { inputs: { x: "x:0" }, outputs: { y: "call:0" } } },
      variables: [{ key: "v", dims: [2], values: [10, 20] }],
    });
    return at(name);
  };
  it("and then reads are refused", async () => {
    await expect(compile(model("stale", "before"), { target: "host" })).rejects.toThrow(
      /^P1334 .*node 'read' \(ReadVariableOp\).* it reads variable 'v' after 'nested' has changed it/,
    );
  });
  it("after it has read them keep their value, and a remark says so", async () => {
    const remarks: string[] = [];
    const program = await compile(model("kept", "after"), { target: "host", onRemark: (r) => remarks.push(r.text) });
    expect(remarks).toEqual([
      "in TensorFlow 'change' changes variable 'v' in every run; here every run begins with the value that was saved",
    ]);
    await using session = await program.createSession({ threads: 1 });
    for (let run = 0; run < 2; run++) expect(numbers((await session.run({ x: tensor([1, 2]) }))["y"])).toEqual([11, 22]);
  });
});

it("text is compared, which ONNX can say since opset 19", async () => {
  const text = type(7);
  const nodes = [
    placeholder("s", 7, [2]),
    constant("a", 7, [], ["a"]),
    node("same", "Equal", ["s", "a"], { T: text }),
    node("other", "NotEqual", ["s", "a"], { T: text }),
  ];
  await using session = await (await compile(graphDef(nodes), { target: "host" })).createSession({ threads: 1 });
  const { "same:0": same, "other:0": other } = await session.run({ s: new Tensor("string", ["a", "b"], [2]) });
  expect([numbers(same), numbers(other)]).toEqual([
    [1, 0],
    [0, 1],
  ]);
});

describe("files that ask for work without end", () => {
  it("a table whose keys repeat each other", () => {
    const none = new Uint8Array(0);
    const long = 1 << 20;
    const again = Array.from({ length: 300 }, () => entry(long, none, none)).flat();
    const bytes = tableOf([...entry(0, new Uint8Array(long).fill(0x6b), none), ...again]);
    expect(() => readTable(bytes, "t")).toThrow(/^P1311 .*its keys have more than 268435456 bytes/);
  });
  it("a tensor whose numbers stand alone, and one that is text in escapes, take no longer than others", () => {
    const count = 300_000;
    const value = Uint8Array.from([0x2d, 0, 0, 0x80, 0x3f]);
    const alone = new Uint8Array(5 * count);
    for (let i = 0; i < count; i++) alone.set(value, 5 * i);
    const start = performance.now();
    expect(decodeMessage<TensorProto>("TensorProto", alone).float_val?.runs).toHaveLength(count);
    const escaped = Buffer.from(`tensor_content: "${"\\000\\000\\200?".repeat(count)}"`);
    const content = parseText<TensorProto>("TensorProto", escaped, undefined).tensor_content;
    expect(content?.subarray(-8)).toEqual(Buffer.from([0, 0, 0x80, 0x3f, 0, 0, 0x80, 0x3f]));
    expect(content).toHaveLength(4 * count);
    expect(performance.now() - start).toBeLessThan(2000);
  });
  it("text that begins with an empty line is text", () => {
    const graph = importTf(Buffer.from('\n\nnode { name: "x" op: "Placeholder" attr { key: "dtype" value { type: DT_FLOAT } } }\n'));
    expect(graph.inputs).toHaveLength(1);
  });
});
