// Decoding a GraphDef: the importer's reader against code that protobufjs generates from the same schema, each in processes of its own.
// node bench/tf-decode.mjs [frozen.pb]; without a file, a graph of 20,000 nodes and one whose 40 MB of weights stand in float_val.
import { fork } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { median, record } from "./record.mjs";

const PROTO = `syntax = "proto3";
message GraphDef { repeated NodeDef node = 1; FunctionDefLibrary library = 2; VersionDef versions = 4; }
message VersionDef { int32 producer = 1; int32 min_consumer = 2; }
message NodeDef { string name = 1; string op = 2; repeated string input = 3; string device = 4; map<string, AttrValue> attr = 5; }
message AttrValue { ListValue list = 1; bytes s = 2; int64 i = 3; float f = 4; bool b = 5; int32 type = 6; TensorShapeProto shape = 7;
  TensorProto tensor = 8; string placeholder = 9; NameAttrList func = 10; }
message ListValue { repeated bytes s = 2; repeated int64 i = 3; repeated float f = 4; repeated bool b = 5; repeated int32 type = 6;
  repeated TensorShapeProto shape = 7; repeated TensorProto tensor = 8; repeated NameAttrList func = 9; }
message NameAttrList { string name = 1; map<string, AttrValue> attr = 2; }
message TensorShapeProto { repeated Dim dim = 2; bool unknown_rank = 3; }
message Dim { int64 size = 1; string name = 2; }
message TensorProto { int32 dtype = 1; TensorShapeProto tensor_shape = 2; bytes tensor_content = 4; repeated float float_val = 5;
  repeated double double_val = 6; repeated int32 int_val = 7; repeated bytes string_val = 8; repeated int64 int64_val = 10; repeated bool bool_val = 11; }
message FunctionDefLibrary { repeated FunctionDef function = 1; }
message FunctionDef { OpDef signature = 1; repeated NodeDef node_def = 3; map<string, string> ret = 4; }
message OpDef { string name = 1; repeated ArgDef input_arg = 2; repeated ArgDef output_arg = 3; }
message ArgDef { string name = 1; int32 type = 3; string type_attr = 4; string number_attr = 5; string type_list_attr = 6; }`;

const [, , role, path] = process.argv;

if (role === "own" || role === "protobufjs") {
  const bytes = new Uint8Array(readFileSync(path));
  let decode;
  if (role === "own") {
    const { decodeMessage } = await import("../dist/import/tf/binary.js");
    decode = () => decodeMessage("GraphDef", bytes);
  } else {
    const { default: protobuf } = await import("protobufjs");
    const type = protobuf.parse(PROTO, { keepCase: true }).root.lookupType("GraphDef");
    // The first call makes the code that protobufjs-cli would have written to a file.
    type.setup();
    decode = () => type.decode(bytes);
  }
  globalThis.gc();
  const before = process.memoryUsage().heapUsed;
  const start = performance.now();
  const graph = decode();
  const ms = performance.now() - start;
  globalThis.gc();
  process.send({ ms, heap: process.memoryUsage().heapUsed - before, nodes: graph.node.length });
} else {
  const folder = mkdtempSync(join(tmpdir(), "partita-bench-"));
  try {
    const models = role === undefined ? await write(folder) : [["the file given", role]];
    const once = (who, file) =>
      new Promise((resolve, reject) => {
        const child = fork(fileURLToPath(import.meta.url), [who, file], { stdio: "inherit", execArgv: ["--expose-gc"] });
        child.once("message", resolve);
        child.once("exit", (code) => (code === 0 ? undefined : reject(new Error(`${who} ended with ${code}`))));
      });
    const results = [];
    for (const [what, file] of models) {
      const runs = { own: [], protobufjs: [] };
      for (let i = 0; i < 5; i++) for (const who of Object.keys(runs)) runs[who].push(await once(who, file));
      const figures = (list) => ({
        ms: Number(median(list.map((r) => r.ms)).toFixed(1)),
        heapMegabytes: Number((median(list.map((r) => r.heap)) / 1e6).toFixed(1)),
      });
      results.push({ what, nodes: runs.own[0].nodes, own: figures(runs.own), protobufjs: figures(runs.protobufjs) });
    }
    record("tf-decode", { what: "decoding a GraphDef, medians of 5 processes; heap is what the decoded graph keeps", results });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function write(folder) {
  const { Writer } = await import("../dist/import/onnx/wire.js");
  const file = (name, make) => {
    const w = new Writer();
    make(w);
    writeFileSync(join(folder, name), Buffer.concat(w.chunks()));
    return join(folder, name);
  };
  const attr = (w, key, value) =>
    w.message(5, () => {
      w.string(1, key);
      w.message(2, value);
    });
  const many = file("many.pb", (w) => {
    for (let i = 0; i < 20_000; i++)
      w.message(1, () => {
        w.string(1, `block_${i >> 3}/layer_${i}/Conv2D`);
        w.string(2, "Conv2D");
        w.string(3, i === 0 ? "x" : `block_${(i - 1) >> 3}/layer_${i - 1}/Conv2D`);
        w.string(3, `block_${i >> 3}/layer_${i}/kernel/read`);
        attr(w, "T", () => w.uint(6, 1));
        attr(w, "strides", () => w.message(1, () => [1, 2, 2, 1].forEach((s) => w.uint(3, s))));
        attr(w, "padding", () => w.string(2, "SAME"));
        attr(w, "data_format", () => w.string(2, "NHWC"));
      });
  });
  const heavy = file("heavy.pb", (w) => {
    for (let i = 0; i < 10; i++)
      w.message(1, () => {
        w.string(1, `w${i}`);
        w.string(2, "Const");
        attr(w, "dtype", () => w.uint(6, 1));
        attr(w, "value", () =>
          w.message(8, () => {
            w.uint(1, 1);
            w.message(2, () => w.message(2, () => w.int64(1, 1_000_000)));
            w.bytes(5, Buffer.alloc(4_000_000, 63));
          }),
        );
      });
  });
  return [
    ["20,000 Conv2D nodes with four attributes", many],
    ["ten weights of 4 MB each in float_val", heavy],
  ];
}
