/** TensorFlow models through the whole line: compiled, saved, loaded and run, under the names their users know. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { compile, load, report } from "../../../src/compile.js";
import { Tensor, type TensorLike } from "../../../src/tensor.js";
import {
  constant,
  FLOAT,
  func,
  graphDef,
  INT32,
  metaGraph,
  type NodeSpec,
  node,
  placeholder,
  RESOURCE,
  shape,
  text,
  type,
  writeBundle,
  writeSavedModel,
} from "../../support/tf-graph.js";

const folder = mkdtempSync(join(tmpdir(), "partita-tf-program-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const T = type(FLOAT);
const x = new Tensor("float32", [1, 2, 3, 4], [2, 2]);
const numbers = (t: TensorLike | undefined): number[] => Array.from((t?.data ?? []) as ArrayLike<number>, Number);

/** y = x w + b, w and b variables that the checkpoint knows by keys of its own, read in a function, as Keras saves them. */
function saved(name: string): string {
  const at = join(folder, name);
  const handle = (n: string, dims: readonly number[]) => node(n, "VarHandleOp", [], { dtype: T, shape: shape(dims), shared_name: text(n) });
  writeSavedModel(at, {
    nodes: [
      placeholder("serving_default_features", FLOAT, [-1, 2]),
      handle("kernel", [2, 1]),
      handle("bias", [1]),
      node("StatefulPartitionedCall", "StatefulPartitionedCall", ["serving_default_features", "kernel", "bias"], { f: func("wrapper") }),
      constant("saver_filename", 7, [], [""]),
      node("StatefulPartitionedCall_1", "StatefulPartitionedCall", ["saver_filename", "kernel", "bias"], { f: func("restore") }),
    ],
    functions: [
      {
        name: "wrapper",
        args: [
          ["features", FLOAT],
          ["k", RESOURCE],
          ["b", RESOURCE],
        ],
        results: [["out", FLOAT, "model/dense/BiasAdd:output:0"]],
        nodes: [
          node("model/dense/MatMul/ReadVariableOp", "ReadVariableOp", ["k"], { dtype: T }),
          node("model/dense/BiasAdd/ReadVariableOp", "ReadVariableOp", ["b"], { dtype: T }),
          node("model/dense/MatMul", "MatMul", ["features", "model/dense/MatMul/ReadVariableOp:value:0"], { T }),
          node("model/dense/BiasAdd", "BiasAdd", ["model/dense/MatMul:product:0", "model/dense/BiasAdd/ReadVariableOp:value:0"], { T }),
        ],
      },
      {
        name: "restore",
        args: [
          ["prefix", 7],
          ["k", RESOURCE],
          ["b", RESOURCE],
        ],
        results: [],
        nodes: [
          constant("names", 7, [2], ["layers/0/k/.ATTRIBUTES/VARIABLE_VALUE", "layers/0/b/.ATTRIBUTES/VARIABLE_VALUE"]),
          constant("slices", 7, [2], ["", ""]),
          node("RestoreV2", "RestoreV2", ["prefix", "names:output:0", "slices:output:0"]),
          node("Identity", "Identity", ["RestoreV2:tensors:0"], { T }),
          node("AssignVariableOp", "AssignVariableOp", ["k", "Identity:output:0"], { dtype: T }),
          node("AssignVariableOp_1", "AssignVariableOp", ["b", "RestoreV2:tensors:1"], { dtype: T }),
        ],
      },
    ],
    signatures: {
      serving_default: { inputs: { features: "serving_default_features:0" }, outputs: { score: "StatefulPartitionedCall:0" } },
    },
    variables: [
      { key: "layers/0/k/.ATTRIBUTES/VARIABLE_VALUE", dims: [2, 1], values: [10, 100] },
      { key: "layers/0/b/.ATTRIBUTES/VARIABLE_VALUE", dims: [1], values: [0.5] },
    ],
  });
  return at;
}

it("a SavedModel runs under its signature's names, and under its tensors'", async () => {
  const program = await compile(saved("keras"));
  expect(program.inputs).toEqual([{ name: "features", type: "float32", dims: ["features.d0", 2] }]);
  expect(program.outputs.map((o) => o.name)).toEqual(["score"]);
  const path = join(folder, "keras.partita");
  await program.save(path);
  for (const p of [program, await load(path)]) {
    await using session = await p.createSession({ threads: 1 });
    for (const name of ["features", "serving_default_features", "serving_default_features:0"])
      expect(numbers((await session.run({ [name]: x }))["score"])).toEqual([210.5, 430.5]);
    const only = await session.run({ features: x }, { outputs: ["StatefulPartitionedCall"] });
    expect(Object.keys(only)).toEqual(["score"]);
    await expect(session.run({ feature: x })).rejects.toThrow(/P3103 .*did you mean 'features'/i);
  }
});
it.each([
  [1, [213, 439]],
  [2, undefined],
])("a variable that only %d copies of it are saved of, as Keras 3 under a module", async (count, wanted) => {
  const at = join(folder, `copies${count}`);
  const handle = (n: string): NodeSpec => node(n, "VarHandleOp", [], { dtype: T, shape: shape([2, 1]), shared_name: text(n) });
  const copies = Array.from({ length: count }, (_, i) => `Variable_${i}`);
  const keys = copies.map((_, i) => `keep/${i}/.ATTRIBUTES/VARIABLE_VALUE`);
  writeSavedModel(at, {
    nodes: [
      placeholder("x", FLOAT, [-1, 2]),
      handle("kernel"),
      node("kernel/Read", "ReadVariableOp", ["kernel"], { dtype: T }),
      node("y", "MatMul", ["x", "kernel/Read"], { T }),
      constant("prefix", 7, [], [""]),
      constant("names", 7, [count], keys),
      constant(
        "slices",
        7,
        [count],
        keys.map(() => ""),
      ),
      node("RestoreV2", "RestoreV2", ["prefix", "names", "slices"]),
      ...copies.flatMap((name, i) => [
        node(`${name}/Initializer/ReadVariableOp`, "ReadVariableOp", ["kernel"], { dtype: T }),
        handle(name),
        node(`${name}/Assign`, "AssignVariableOp", [name, `${name}/Initializer/ReadVariableOp`], { dtype: T }),
        node(`${name}/Restore`, "AssignVariableOp", [name, `RestoreV2:${i}`], { dtype: T }),
      ]),
    ],
    signatures: { serving_default: { inputs: { x: "x:0" }, outputs: { y: "y:0" } } },
    variables: keys.map((key) => ({ key, dims: [2, 1], values: [13, 100] })),
  });
  if (wanted === undefined) {
    await expect(compile(at)).rejects.toThrow(/^P1315 .*variable 'kernel' is not in the checkpoint/);
    return;
  }
  await using session = await (await compile(at)).createSession({ threads: 1 });
  expect(numbers((await session.run({ x }))["y"])).toEqual(wanted);
});
it("a SavedModel and its frozen form give the same bits", async () => {
  const frozen = join(folder, "keras.pb");
  writeFileSync(
    frozen,
    graphDef([
      placeholder("features", FLOAT, [-1, 2]),
      constant("kernel", FLOAT, [2, 1], [10, 100]),
      constant("bias", FLOAT, [1], [0.5]),
      node("kernel/read", "Identity", ["kernel"], { T }),
      node("dense/MatMul", "MatMul", ["features", "kernel/read"], { T }),
      node("dense/BiasAdd", "BiasAdd", ["dense/MatMul", "bias"], { T }),
    ]),
  );
  const features = new Tensor("float32", [0.1, -3.3, 7.7e-3, 1e8, Number.NaN, 1], [3, 2]);
  const bits: string[] = [];
  for (const model of [saved("twin"), frozen]) {
    await using session = await (await compile(model)).createSession({ threads: 1 });
    const [result] = Object.values(await session.run({ features }));
    if (result !== undefined) bits.push(Buffer.from((result.data as Float32Array).buffer).toString("hex"));
  }
  expect(bits[0]).toBe(bits[1]);
  expect(bits[0]).toHaveLength(24);
});
it("reports speak of the layers, not of the calls around them", async () => {
  const text = JSON.stringify((await report(saved("report"))).toJSON());
  expect(text).toContain("model/dense/");
  expect(text).not.toContain("StatefulPartitionedCall/");
});
it("a frozen graph runs under node and node:port; shapes go by either", async () => {
  const file = join(folder, "frozen.pb");
  writeFileSync(
    file,
    graphDef([
      placeholder("x", FLOAT, [-1, 2]),
      constant("axis", INT32, [], [1]),
      node("total", "Sum", ["x", "axis"], { T, Tidx: type(INT32) }),
      node("top", "Max", ["x", "axis"], { T, Tidx: type(INT32) }),
    ]),
  );
  const program = await compile(file, { shapes: { x: [2, 2] }, outputs: ["total"] });
  expect(program.inputs).toEqual([{ name: "x:0", type: "float32", dims: [2, 2] }]);
  await using session = await program.createSession({ threads: 1 });
  expect(numbers((await session.run({ x }))["total:0"])).toEqual([3, 7]);
});
it("`inputs` cuts a front end that nothing runs, which compiling without it names", async () => {
  const file = join(folder, "audio.pb");
  writeFileSync(
    file,
    graphDef([placeholder("wav", 7, []), node("decoded", "DecodeWav", ["wav"]), node("louder", "AddV2", ["decoded", "decoded"], { T })]),
  );
  await expect(compile(file)).rejects.toThrow(/^P1334 .*node 'decoded' \(DecodeWav\): 1 TensorFlow operator has no lowering \(DecodeWav\)/);
  const program = await compile(file, { inputs: ["decoded"], shapes: { decoded: [2, 2] } });
  await using session = await program.createSession({ threads: 1 });
  expect(numbers((await session.run({ decoded: x }))["louder:0"])).toEqual([2, 4, 6, 8]);
});
it.each(["model.ckpt", "saved/"])("a MetaGraph is read with the checkpoint beside it, saved as '%s'", async (name) => {
  const prefix = `${folder}/${name}`;
  mkdirSync(dirname(`${prefix}.meta`), { recursive: true });
  writeFileSync(
    `${prefix}.meta`,
    metaGraph([
      placeholder("x", FLOAT, [2, 2]),
      node("w", "VariableV2", [], { dtype: T, shape: shape([2]) }),
      node("w/read", "Identity", ["w"], { T }),
      node("y", "Mul", ["x", "w/read"], { T }),
    ]),
  );
  writeBundle(prefix, [{ key: "w", dims: [2], values: [2, 3] }]);
  const program = await compile(`${prefix}.meta`);
  await using session = await program.createSession({ threads: 1 });
  expect(numbers((await session.run({ x }))["y:0"])).toEqual([2, 6, 6, 12]);
});
