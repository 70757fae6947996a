/** The formats themselves: checksums, tables, the text format, element encodings, and which importer a path gets. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { detect, detectBytes, importModel } from "../../../src/import/index.js";
import { decodeMessage } from "../../../src/import/tf/binary.js";
import { openBundle, readTable } from "../../../src/import/tf/bundle.js";
import { crc32c, masked, unmasked } from "../../../src/import/tf/crc32c.js";
import { importTf } from "../../../src/import/tf/index.js";
import type { TensorProto } from "../../../src/import/tf/schema.js";
import { constantOfProto } from "../../../src/import/tf/tensors.js";
import { parseText } from "../../../src/import/tf/text.js";
import { bytesOf } from "../../../src/ir/payload.js";
import { print } from "../../../src/ir/print.js";
import {
  BOOL,
  constant,
  FLOAT,
  graphDef,
  INT32,
  INT64,
  node,
  placeholder,
  table,
  tensorFields,
  type,
  writeBundle,
  writeSavedModel,
  bytesOf as written,
} from "../../support/tf-graph.js";

const folder = mkdtempSync(join(tmpdir(), "partita-tf-formats-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const T = type(FLOAT);

describe("CRC-32C", () => {
  it("gives the check value of the polynomial, in one piece and in several", () => {
    const digits = Buffer.from("123456789");
    expect(crc32c(digits)).toBe(0xe3069283);
    expect(crc32c(digits.subarray(4), crc32c(digits.subarray(0, 4)))).toBe(0xe3069283);
    // 32 zero bytes, as RFC 3720 (B.4) lists them.
    expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
  });
  it("is masked and unmasked", () => {
    for (const x of [0, 1, 0xe3069283, 0xffffffff]) expect(unmasked(masked(x))).toBe(x);
  });
});

describe("tables and bundles", () => {
  it("keys that share prefixes come back whole", () => {
    const keys = ["", "a", "abc", "abd", "b/very/long/name", "b/very/long/names"];
    const found = readTable(table(keys.map((k) => [k, Buffer.from(k.toUpperCase())])), "t");
    expect([...found].map(([k, v]) => [k, Buffer.from(v).toString()])).toEqual(keys.map((k) => [k, k.toUpperCase()]));
  });
  it("tensors are ranges of the shard, read when asked for", () => {
    const prefix = join(folder, "ckpt");
    writeBundle(prefix, [
      { key: "b", dims: [2], values: [3, 4] },
      { key: "a", dims: [1, 2], values: [1, 2] },
    ]);
    const bundle = openBundle(prefix);
    expect(bundle.keys()).toEqual(["a", "b"]);
    const b = bundle.tensor("b");
    expect(b?.data.kind).toBe("lazy");
    expect(b && [...new Float32Array(Uint8Array.from(bytesOf(b)).buffer)]).toEqual([3, 4]);
    expect(bundle.tensor("c")).toBeUndefined();
  });
});

describe("tensors", () => {
  const read = (dtype: number, dims: readonly number[], values: readonly number[]): number[] => {
    const c = constantOfProto(decodeMessage<TensorProto>("TensorProto", written(tensorFields(dtype, dims, values))), {});
    const bytes = Uint8Array.from(bytesOf(c)).buffer;
    if (c.dtype === "float32") return [...new Float32Array(bytes)];
    if (c.dtype === "int32") return [...new Int32Array(bytes)];
    if (c.dtype === "int64") return [...new BigInt64Array(bytes)].map(Number);
    return [...new Uint8Array(bytes)];
  };
  it.each([
    ["whole", FLOAT, [2, 2], [1, 2, 3, 4], [1, 2, 3, 4]],
    ["one value for all", FLOAT, [3], [5], [5, 5, 5]],
    ["no value at all", INT32, [2], [], [0, 0]],
    ["the last value repeated", INT32, [5], [1, -2], [1, -2, -2, -2, -2]],
    ["large and negative", INT64, [3], [2 ** 53, -1, 7], [2 ** 53, -1, 7]],
    ["booleans", BOOL, [3], [1, 0], [1, 0, 0]],
    ["scalars", FLOAT, [], [0.25], [0.25]],
    ["empty", FLOAT, [0, 3], [], []],
  ] as const)("%s", (_, dtype, dims, values, want) => {
    expect(read(dtype, dims, values)).toEqual(want);
  });
  it("half precision is stored as bits", () => {
    const c = constantOfProto(
      parseText<TensorProto>(
        "TensorProto",
        Buffer.from("dtype: DT_HALF tensor_shape { dim { size: 2 } } half_val: 15360 half_val: 0xC000"),
        undefined,
      ),
      {},
    );
    expect([...new Uint16Array(Uint8Array.from(bytesOf(c)).buffer)]).toEqual([0x3c00, 0xc000]);
  });
});

describe("the text format", () => {
  const nodes = [
    placeholder("x", FLOAT, [-1, 2]),
    constant("w", FLOAT, [2, 2], [1, -2.5, 3]),
    node("y", "MatMul", ["x", "w"], { T }),
    node("z", "Relu", ["y"], { T }),
  ];
  const TEXT = `# A comment.
node { name: "x" op: "Placeholder"
  attr { key: "dtype" value { type: DT_FLOAT } }
  attr { key: "shape" value { shape { dim { size: -1 } dim { size: 2 } } } } }
node {
  name: 'w', op: "Con" "st";
  attr: < key: "dtype", value: < type: DT_FLOAT > >
  attr { key: "value" value { tensor {
    dtype: DT_FLOAT
    tensor_shape { dim { size: 2 } dim { size: 2 } }
    float_val: [1, -2.5f] float_val: 3
  } } }
}
node { name: "y" op: "MatMul" input: "x" input: "w" attr { key: "T" value { type: DT_FLOAT } } device: "/cpu:0" experimental_debug_info { original_node_names: "q" } }
node { name: "\\x7a" op: "R\\145lu" input: ["y"] attr { key: "T" value { type: 1 } } }
versions { producer: 1882 }
`;
  it("gives the graph that the binary format gives", () => {
    const options = { file: "m" };
    expect(print(importTf(Buffer.from(TEXT), options))).toBe(print(importTf(graphDef(nodes), options)));
  });
  it.each([
    ['node { name: "x"', "line 1: the text ends where a field name is expected"],
    ["node { name: 3 }", "line 1: '3' stands where a string is expected"],
    ['node {\n name: "a\n"', "line 2: a string has no end"],
    ['node { attr { key: "T" value { type: DT_WRONG } } }', "line 1: there is no type 'DT_WRONG'"],
    ['node { name: "\\q" }', "line 1: '\\q' is no escape"],
    ["library: [ {", "line 1: the text ends where a field name is expected"],
  ])("%s", (source, message) => {
    expect(() => importTf(Buffer.from(source), { file: "m.pbtxt" })).toThrow(message);
  });
  it("a SavedModel may be text, too", async () => {
    const at = join(folder, "text-model");
    writeSavedModel(at, { nodes });
    rmSync(join(at, "saved_model.pb"));
    writeFileSync(
      join(at, "saved_model.pbtxt"),
      `saved_model_schema_version: 1 meta_graphs { meta_info_def { tags: "serve" } graph_def { ${TEXT.replace(/^#.*\n/, "")} }
       signature_def { key: "serving_default" value { inputs { key: "a" value { name: "x:0" } } outputs { key: "b" value { name: "z:0" } } } } }`,
    );
    const g = await importModel(at);
    expect(g.inputs.map((v) => g.values[v]?.name)).toEqual(["a"]);
    expect(g.outputs.map((v) => g.values[v]?.name)).toEqual(["b"]);
  });
});

describe("detection", () => {
  it("tells TensorFlow's formats from ONNX", () => {
    const at = join(folder, "detected");
    writeSavedModel(at, { nodes: [placeholder("x", FLOAT, [1])] });
    writeFileSync(join(folder, "g.pb"), graphDef([placeholder("x", FLOAT, [1])]));
    writeFileSync(join(folder, "g.pbtxt"), "node {}");
    expect(detect(at)).toBe("saved-model");
    expect(detect(join(at, "saved_model.pb"))).toBe("saved-model");
    expect(detect(join(folder, "g.pb"))).toBe("graphdef");
    expect(detect(join(folder, "g.pbtxt"))).toBe("graphdef");
    expect(detectBytes(Uint8Array.from([8, 7]))).toBe("onnx");
    expect(detectBytes(graphDef([placeholder("x", FLOAT, [1])]))).toBe("graphdef");
  });
});
