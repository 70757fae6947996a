/** Inputs bound to values: the branch of a merged decoder, flags of training, constants that may be overridden, TensorFlow's placeholders. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { run } from "../../src/cli/program.js";
import { compile, load, plan, report } from "../../src/compile.js";
import type { PartitaError } from "../../src/diagnostics.js";
import { Bindings } from "../../src/import/bind.js";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { type BindValue, boundTensors } from "../../src/ir/bound.js";
import { parse } from "../../src/ir/parse.js";
import { bytesOf } from "../../src/ir/payload.js";
import type { Graph, ValueId } from "../../src/ir/types.js";
import { npyBytes } from "../../src/npz.js";
import { feedsFor } from "../../src/runtime/bench.js";
import { Tensor } from "../../src/tensor.js";
import { verify } from "../../src/verify.js";
import { BOOL, FLOAT, graphDef, int, node, placeholder, tensor, type } from "../support/tf-graph.js";

const folder = mkdtempSync(join(tmpdir(), "partita-bind-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string): string => join(folder, name);

/** As optimum merges a decoder and a decoder with past: one If on an input, bool[1]; the first step feeds an empty past that nothing reads. */
const DECODER = `graph "decoder" opset {"": 18} (%ids: int64[batch, steps], %past: float32[batch, 2, past, 4], %use_cache_branch: bool[1]) -> (%logits, %present) {
  const %table = float32[6, 8] [${Array.from({ length: 48 }, (_, i) => ((i * 7) % 11) / 11 - 0.4).join(", ")}]
  const %split = int64[4] [0, 0, 2, 4]
  const %head = float32[4, 6] [${Array.from({ length: 24 }, (_, i) => ((i * 5) % 7) / 7 - 0.3).join(", ")}]
  %hidden = Gather(%table, %ids)
  %parts = Reshape(%hidden, %split)
  %now = Transpose(%parts) {perm = [0, 2, 1, 3]}
  %attended, %present = If(%use_cache_branch) {
    then_branch = graph "with_past" () captures (%k = %now, %p = %past) -> (%a, %c) {
      %c = Concat(%p, %k) {axis = 2}
      const %axes = int64[1] [2]
      %a = ReduceMean(%c, %axes) {keepdims = 1}
    }
    else_branch = graph "without" () captures (%k = %now) -> (%a, %c) {
      %c = Identity(%k)
      const %axes = int64[1] [2]
      %a = ReduceMax(%k, %axes) {keepdims = 1}
    }
  }
  %act = Tanh(%attended)
  %logits = MatMul(%act, %head)
}`;
const ids = new Tensor("int64", [1n, 4n, 2n], [1, 3]);
const past = new Tensor(
  "float32",
  Array.from({ length: 16 }, (_, i) => i / 16),
  [1, 2, 2, 4],
);
const decoder = at("decoder.onnx");
const training = at("training.onnx");
const TRAINING = `graph "training" opset {"": 18} (%x: float32[N, 4], %is_training: bool[], %scale: float32[4], %times: int64[]) -> (%y, %z) {
  %noise = Mul(%x, %scale)
  %kept = Where(%is_training, %noise, %x)
  %r = Relu(%kept)
  %e = Exp(%r)
  %y = Tanh(%e)
  %n = Cast(%times) {to = 1}
  %z = Mul(%y, %n)
}`;
beforeAll(() => {
  writeFileSync(decoder, encodeOnnx(parse(DECODER)));
  writeFileSync(training, encodeOnnx(parse(TRAINING)));
});

async function runs(model: string | Uint8Array, bind: Record<string, BindValue>, feeds: Record<string, Tensor>) {
  const program = await compile(model, { target: "host", bind });
  const session = await program.createSession();
  try {
    return { program, results: await session.run(feeds) };
  } finally {
    await session.dispose();
  }
}

describe("a merged decoder", () => {
  it.each([true, false])("is one decoder when its branch is bound: %s", async (branch) => {
    const whole = await runs(decoder, {}, { ids, past, use_cache_branch: new Tensor("bool", [branch], [1]) });
    const bound = await runs(decoder, { use_cache_branch: branch }, branch ? { ids, past } : { ids });
    expect(bound.program.inputs.map((p) => p.name)).toEqual(branch ? ["ids", "past"] : ["ids"]);
    expect(bound.program.report.data.nodes.map((n) => n.op)).not.toContain("If");
    expect(whole.program.report.data.nodes.map((n) => n.op)).toContain("If");
    expect(bound.results).toEqual(whole.results);
    expect(bound.program.report.data.options.bound).toEqual({ use_cache_branch: { type: "bool", dims: [1], values: [branch] } });
    expect(bound.program.report.toText()).toContain(`  is   use_cache_branch = ${branch} (bool[1])\n`);
  });

  it("says which inputs only the other branch had read", async () => {
    const { report: r } = await plan(decoder, { target: "host", bind: { use_cache_branch: "false" } }, { unbuilt: true });
    expect(r.data.remarks?.map((x) => x.text)).toContain(
      "nothing reads input 'past' any more, as other inputs are bound: not among the program's inputs",
    );
  });

  it("leaves no host part in front of the engine", async () => {
    const of = async (bind: Record<string, BindValue>) =>
      (await report(decoder, { target: "cuda", shapes: { ids: [1, 3], past: [1, 2, 2, 4] }, bind })).data.segments.map((s) => s.engine);
    expect(await of({})).toContain("host");
    expect(await of({ use_cache_branch: true })).toEqual(["cuda"]);
  });

  it("is verified against the untouched model, as a bundle too", async () => {
    const bind = { use_cache_branch: false };
    const v = await verify(decoder, { compile: { target: "host", bind }, size: 2 });
    expect(v).toMatchObject({ ok: true });
    const program = await compile(decoder, { target: "host", bind });
    await program.save(at("decoder.partita"));
    const loaded = await load(at("decoder.partita"));
    expect(loaded.inputs.map((p) => p.name)).toEqual(["ids"]);
    expect(await verify(at("decoder.partita"), { model: decoder, size: 2 })).toMatchObject({ ok: true });
    expect(Object.keys(feedsFor(loaded.inputs, 2, undefined))).toEqual(["ids"]);
  });
});

describe("flags and numbers", () => {
  const x = new Tensor("float32", [1, -2, 3, -4], [1, 4]);
  it("fold a Where, and its other operand's inputs go", async () => {
    const { program, results } = await runs(training, { is_training: 0, times: 3n }, { x });
    expect(program.inputs.map((p) => p.name)).toEqual(["x"]);
    expect(program.report.data.nodes.map((n) => n.op)).toEqual(["Relu", "Exp", "Tanh", "Mul"]);
    const plain = await runs(
      training,
      {},
      {
        x,
        is_training: new Tensor("bool", [false], []),
        scale: new Tensor("float32", [1, 1, 1, 1], [4]),
        times: new Tensor("int64", [3n], []),
      },
    );
    expect(results).toEqual(plain.results);
  });

  it("one element fills an input, a list and text give all", async () => {
    const { graph } = await plan(training, { target: "host", bind: { is_training: "TRUE", scale: 2, times: "7" } });
    expect(graph.inputs.map((v) => graph.values[v]?.name)).toEqual(["x"]);
    const same = await plan(training, { target: "host", bind: { is_training: true, scale: "2, 2,2,2", times: 7 } });
    expect(same.report.data.options.bound?.["scale"]).toEqual({ type: "float32", dims: [4], values: [2, 2, 2, 2] });
  });
});

/** A graph of one input of a type, and what it is bound to. */
function bound(typed: string, value: BindValue, shape?: readonly (number | string)[]) {
  const g = parse(`graph "g" opset {"": 18} (%x: ${typed}) -> (%y) { %y = Identity(%x) }`);
  const bindings = new Bindings({ x: value }, shape === undefined ? {} : { x: shape });
  const graph: Graph = bindings.apply(g);
  return { graph, kept: bindings.bound["x"] };
}
const floats = (t: Tensor | undefined): readonly number[] => [...((t?.data ?? []) as Float32Array)];
const refused = (run: () => unknown): string => {
  try {
    run();
  } catch (error) {
    return (error as PartitaError).message;
  }
  throw new Error("nothing was refused");
};

describe("values", () => {
  it.each<[string, BindValue, unknown, readonly number[]]>([
    ["float32[]", 0.5, [0.5], []],
    ["float16[2]", [1, "-inf"], [1, "-Infinity"], [2]],
    ["bfloat16[1, 1]", "1.5", [1.5], [1, 1]],
    ["float64[]", "nan", ["NaN"], []],
    ["float32[]", "-0", ["-0"], []],
    ["int8[n]", [-128, 127n, "3"], [-128, 127, 3], [3]],
    ["int64[n, 2]", "1,2,3,9007199254740993", [1, 2, 3, "9007199254740993"], [2, 2]],
    ["uint64[]", 2n ** 64n - 1n, ["18446744073709551615"], []],
    ["bool[n]", true, [true], [1]],
    ["bool[2]", "false, 1", [false, true], [2]],
    ["string[2]", "a,b", ["a,b", "a,b"], [2]],
    ["int32[2, 3]", 1, [1, 1, 1, 1, 1, 1], [2, 3]],
    ["float32[2]", new Tensor("float32", [1, 2], [2]), [1, 2], [2]],
  ])("%s = %s", (typed, value, values, dims) => {
    const { graph, kept } = bound(typed, value);
    expect(kept).toEqual({ type: typed.replace(/\[.*/, ""), dims, values });
    expect(graph.inputs).toEqual([]);
    // What a report keeps gives the same bytes again.
    const c = graph.constants.get(graph.nodes[0]?.ins[0] as ValueId);
    const again = boundTensors(JSON.parse(JSON.stringify({ x: kept })))["x"] as Tensor;
    if (again.type !== "string" && c !== undefined)
      expect(Buffer.from((again.data as Uint8Array).buffer, 0, (again.data as Uint8Array).byteLength)).toEqual(Buffer.from(bytesOf(c)));
  });

  it("go by the dims that the caller gives", () => {
    expect(bound("float32[n, m]", 1, [2, 3]).kept?.dims).toEqual([2, 3]);
    expect(bound("float32[n, m]", [1, 2, 3, 4], ["?", 2]).kept?.dims).toEqual([2, 2]);
  });

  it.each<[string, BindValue, string]>([
    ["int32[]", "three", "the input is of int32, and 'three' is no element of it. Give a whole number"],
    ["int32[]", 1.5, "the input is of int32, and 1.5 is no element of it. Give a whole number"],
    ["int32[]", "", "the input is of int32, and '' is no element of it. Give a whole number"],
    ["int64[]", true, "the input is of int64, and true is no element of it. Give a whole number"],
    ["uint8[]", 256, "the input is of uint8, and 256 is no element of it. Give one from 0 to 255"],
    ["int8[]", "-129", "the input is of int8, and '-129' is no element of it. Give one from -128 to 127"],
    ["float16[]", 70000, "the input is of float16, and 70000 is no element of it. Give one in its range"],
    ["float32[]", "x", "the input is of float32, and 'x' is no element of it. Give a number"],
    ["float32[]", false, "the input is of float32, and false is no element of it. Give a number"],
    ["bool[1]", "maybe", "the input is of bool, and 'maybe' is no element of it. Give true or false"],
    ["string[]", 3, "the input is of string, and 3 is no element of it. Give text"],
    ["float32[3]", [1, 2], "the input is float32[3], and 2 elements do not fill it. Give one element, or all of them"],
    ["float32[n, m]", [1, 2], "the input is float32[n, m], and 2 elements do not fill it. Give its dims too (shapes, --shape)"],
    ["float32[n, 8]", 1, "the input is float32[n, 8], and 1 element does not fill it. Give its dims too (shapes, --shape)"],
    ["float32[4097]", 1, "that is 4097 elements, and at most 4096 are bound. Feed it, or make it an initializer of the model"],
    [
      "float32[2]",
      new Tensor("float32", [1], [1]),
      "the input is float32[2], the tensor float32[1]. Give a tensor of the input's type and dims",
    ],
    [
      "float32[1]",
      new Tensor("float64", [1], [1]),
      "the input is float32[1], the tensor float64[1]. Give a tensor of the input's type and dims",
    ],
    ["sequence<float32[1]>", 1, "the input is sequence<float32[1]>, and only tensors of common element types can be bound. Feed it"],
  ])("%s is not %s: P1010", (typed, value, message) => {
    expect(refused(() => bound(typed, value))).toContain(`P1010 value 'x': ${message}`);
  });

  it("names that are no inputs are P1009", async () => {
    const say = (bind: Record<string, BindValue>) => report(training, { bind }).then(String, (e: Error) => e.message);
    expect(await say({ is_trainin: true })).toMatch(
      /P1009 .*training\.onnx, value 'is_trainin': there is no input 'is_trainin'\. Did you mean 'is_training'\?$/,
    );
    expect(await say({ entirely: 1 })).toContain("there is no input 'entirely'. The inputs are x, is_training, scale, times.");
    expect(await say({ noise: 1 })).toContain(
      "'noise' is computed by the graph, and is no input. Make it an input first (inputs, --inputs)",
    );
    const cutThere = await plan(training, { target: "host", inputs: ["noise"], bind: { noise: [1, 2, 3, 4] } });
    expect(cutThere.report.data.model.inputs.map((p) => p.name)).toEqual(["x", "is_training", "times"]);
  });

  it("the option itself is checked: P1001", async () => {
    await expect(report(training, { bind: "is_training" as never })).rejects.toThrow(
      "option 'bind' is not an object of values by input name",
    );
    await expect(report(training, { bind: { x: {} as never } })).rejects.toThrow(
      "option 'bind.x' is neither a number, true, false, text, a list of these, nor a tensor",
    );
  });
});

it("a constant that may be overridden is overridden", async () => {
  const g = parse('graph "g" opset {"": 18} (%x: float32[2]) -> (%y) { const %k = float32[] [2.0] %y = Mul(%x, %k) }');
  const file = at("default.onnx");
  writeFileSync(file, encodeOnnx({ ...g, extra: { ...g.extra, overridable: ["k"] } }));
  const x = new Tensor("float32", [1, 2], [2]);
  expect(floats((await runs(file, {}, { x })).results["y"])).toEqual([2, 4]);
  expect(floats((await runs(file, { k: 5 }, { x })).results["y"])).toEqual([5, 10]);
  expect(await verify(file, { compile: { target: "host", bind: { k: 5 } } })).toMatchObject({ ok: true });
});

describe("TensorFlow", () => {
  const T = type(FLOAT);
  const model = graphDef([
    placeholder("x", FLOAT, [-1, 2]),
    placeholder("is_training", BOOL, []),
    node("sx", "Switch", ["x", "is_training"], { T }),
    node("half", "Mul", ["sx:1", "k"], { T }),
    node("plain", "Identity", ["sx"], { T }),
    node("k", "PlaceholderWithDefault", ["two"], { dtype: T }),
    node("two", "Const", [], { dtype: T, value: tensor(FLOAT, [], [2]) }),
    node("m", "Merge", ["plain", "half"], { T, N: int(2) }),
    node("y", "Relu", ["m"], { T }),
  ]);
  const x = new Tensor("float32", [1, 2], [1, 2]);
  it("a placeholder that is bound decides Switch and Merge while the model is read", async () => {
    const file = at("switch.pb");
    writeFileSync(file, model);
    const { program, results } = await runs(file, { is_training: true }, { x });
    expect(program.inputs.map((p) => p.name)).toEqual(["x:0"]);
    expect(program.report.data.nodes.map((n) => n.op)).not.toContain("If");
    expect(floats(results["y:0"])).toEqual([2, 4]);
    const other = await runs(file, { "is_training:0": true, k: 3 }, { x });
    expect(floats(other.results["y:0"])).toEqual([3, 6]);
    expect(await verify(file, { compile: { target: "host", bind: { is_training: true, k: 3 } } })).toMatchObject({ ok: true });
  });
});

describe("the command line", () => {
  const partita = async (...argv: string[]) => {
    let [out, err] = ["", ""];
    const code = await run(argv, {
      stdout: { write: (s: string) => void (out += s), isTTY: false, columns: 100 },
      stderr: { write: (s: string) => void (err += s), isTTY: false, columns: 100 },
      env: {},
    } as never);
    return { code, out, err };
  };
  it("takes values and .npy files", async () => {
    writeFileSync(at("scale.npy"), npyBytes(new Tensor("float32", [1, 2, 3, 4], [4])));
    const r = await partita(
      "report",
      training,
      "--target",
      "host",
      "--bind",
      "is_training=true",
      "--bind",
      `scale=${at("scale.npy")}`,
      "--bind",
      "times=2",
    );
    expect(r.code).toBe(0);
    expect(r.out).toContain("  is   scale = 1, 2, 3, 4 (float32[4])\n");
    expect(r.out).toContain("  is   times = 2 (int64[])\n");
  });
  it("measures beside the untouched model", async () => {
    const r = await partita("bench", decoder, "--target", "host", "--bind", "use_cache_branch=false", "--seconds", "0.05", "--json");
    expect(r.code, r.err).toBe(0);
    expect(JSON.parse(r.out).rows[0].difference).toMatchObject({ relative: 0 });
  });
  it("refuses what is no NAME=VALUE", async () => {
    const r = await partita("report", training, "--bind", "is_training");
    expect(r.code).toBe(2);
    expect(r.err).toContain(
      "P1001 option '--bind' 'is_training' is not NAME=VALUE. Write it as is_training=false, ids=1,2,3, or mask=mask.npy.",
    );
  });
});
