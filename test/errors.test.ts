/** Every coded error: what triggers it, its code, and a message with the place, the finding and the remedy. */

import { execFile } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { Worker } from "node:worker_threads";
import { afterAll, describe, expect, it, vi } from "vitest";
import { definitions, render } from "../scripts/errors.mjs";
import { run as commandLine } from "../src/cli/program.js";
import { compile, load, report } from "../src/compile.js";
import { PartitaError, type Where } from "../src/diagnostics.js";
import { cudaEngine } from "../src/engines/cuda/index.js";
import { encodeOnnx, writeOnnx } from "../src/import/onnx/export.js";
import { importOnnx } from "../src/import/onnx/index.js";
import { Editor } from "../src/ir/edit.js";
import { parse } from "../src/ir/parse.js";
import { bytesOf, typedOf } from "../src/ir/payload.js";
import { verify } from "../src/ir/verify.js";
import { readNpy } from "../src/npz.js";
import { inferGraph } from "../src/ops/infer.js";
import { check } from "../src/partition/check.js";
import { manifestHash } from "../src/runtime/bundle.js";
import { randomFeeds } from "../src/runtime/measure.js";
import { Tensor } from "../src/tensor.js";
import { verify as verifyModel } from "../src/verify.js";
import { intField, messageField, textField } from "./fuzz/proto.js";
import { attribute, external, FLOAT, INT64, info, intAttribute, model, rawData, tensor } from "./support/onnx-model.js";
import { transpiled } from "./support/transpile.js";

const folder = mkdtempSync(join(tmpdir(), "partita-errors-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const MLP = `graph "mlp" opset {"": 18} (%x: float32[N, 2]) -> (%y) {
  const %w = float32[2, 2] [1.0, 2.0, 3.0, 4.0]
  %h = MatMul(%x, %w) @"fc"
  %y = Relu(%h) @"act"
}`;
const mlp = () => parse(MLP);
const relu = { op: "Relu", ins: ["x"], outs: ["y"], name: "act" };
/** A model in a folder of its own. */
function onDisk(name: string, bytes: Uint8Array, files: Readonly<Record<string, Uint8Array>> = {}): string {
  const at = mkdtempSync(join(folder, `${name}-`));
  for (const [file, content] of Object.entries(files)) writeFileSync(join(at, file), content);
  writeFileSync(join(at, `${name}.onnx`), bytes);
  return join(at, `${name}.onnx`);
}
async function savedBundle(): Promise<string> {
  const path = join(mkdtempSync(join(folder, "bundle-")), "mlp.partita");
  await (await compile(mlp())).save(path);
  return path;
}
/** Changes a manifest and makes its own hash fit again. */
function forge(bundle: string, change: (m: Record<string, unknown> & { artifacts: { files: { path: string }[] }[] }) => void): void {
  const path = join(bundle, "manifest.json");
  const m = JSON.parse(readFileSync(path, "utf8"));
  change(m);
  writeFileSync(path, JSON.stringify({ ...m, sha256: manifestHash(m) }));
}
async function session() {
  return await (await compile(mlp())).createSession({ threads: 1 });
}
/** Runs a command in the process and rethrows what it reported as JSON. */
async function cli(...argv: string[]): Promise<never> {
  let out = "";
  const sink = { write: (s: string) => void (out += s) };
  const code = await commandLine([...argv, "--json"], { stdout: sink, stderr: { write: () => {} }, env: {} });
  const { error } = JSON.parse(out) as { error: { code: string; what: string; why?: string; fix: string; where: Where } };
  throw new PartitaError({ code: error.code, title: "", exit: code as 1 }, error.where, error);
}
const twice = (body: readonly Parameters<typeof messageField>[]) => [
  textField(1, "Twice"),
  textField(4, "a"),
  textField(5, "b"),
  ...body.map((b) => messageField(...b)),
  messageField(9, "opset", intField(2, 18)),
  messageField(9, "opset", textField(1, "own"), intField(2, 1)),
  textField(10, "own"),
];
const external4 = (entries: Readonly<Record<string, string>>): Uint8Array =>
  model({
    nodes: [{ op: "Add", ins: ["x", "w"], outs: ["y"], name: "add" }],
    initializers: [tensor("w", [2], FLOAT, ...external(entries))],
  });

interface Trigger {
  readonly code: string;
  readonly title: string;
  readonly run: () => unknown;
  /** Pieces of the message: the finding, and the remedy. */
  readonly says: readonly (string | RegExp)[];
  readonly where?: Partial<Where>;
  readonly exit?: number;
}
const TRIGGERS: readonly Trigger[] = [
  // ---- options -----------------------------------------------------------------------------------------------------------------------------
  {
    code: "P1001",
    title: "value",
    run: () => compile(mlp(), { minimumSegmentSize: 0 }),
    says: ["option 'minimumSegmentSize' is below 1"],
    exit: 2,
  },
  {
    code: "P1001",
    title: "word",
    run: () => compile(mlp(), { precision: "fp61" as "fp16" }),
    says: ["'precision'", "did you mean 'fp16'?"],
    exit: 2,
  },
  {
    code: "P1002",
    title: "name",
    run: () => compile(mlp(), { minimumSegmntSize: 3 } as object),
    says: ["no option 'minimumSegmntSize'", "Did you mean 'minimumSegmentSize'?"],
    exit: 2,
  },
  {
    code: "P1003",
    title: "output",
    run: () => compile(mlp(), { outputs: ["yy"] }),
    says: ["no value 'yy'", "Did you mean 'y'?"],
    where: { value: "yy" },
  },
  {
    code: "P1003",
    title: "shape of no input",
    run: () => compile(mlp(), { shapes: { elsewhere: [1] } }),
    says: ["no value 'elsewhere'", "partita inspect --ir"],
  },
  {
    code: "P1004",
    title: "a cut at a value of unknown type",
    run: () =>
      compile(parse('graph "g" opset {"": 18, "own": 1} (%x: float32[2]) -> (%y) { %h = own.Op(%x) @"op"\n %y = Relu(%h) }'), {
        inputs: ["h"],
      }),
    says: ["value 'h': the graph is to be cut here", "Cut it at a value whose type the model says"],
    where: { value: "h" },
  },
  // ---- files -------------------------------------------------------------------------------------------------------------------------------
  {
    code: "P1101",
    title: "weights that went away",
    run: () => {
      const path = onDisk("gone", external4({ location: "w.bin" }), { "w.bin": new Uint8Array(8) });
      const g = importOnnx(path);
      unlinkSync(join(path, "../w.bin"));
      for (const c of g.constants.values()) bytesOf(c);
    },
    says: [/w\.bin: it cannot be opened/, "Put the weights file back"],
  },
  {
    code: "P1102",
    title: "bytes of another length",
    run: () => typedOf({ dtype: "float32", dims: [3], data: { kind: "bytes", bytes: new Uint8Array(8) } }),
    says: ["a float32 tensor of dims [3] needs 12 bytes and has 8", "Write the model again"],
  },
  {
    code: "P1103",
    title: "a folder as a file",
    run: () => importOnnx(folder),
    says: ["it is not a regular file", "Check the path"],
    where: { file: folder },
  },
  {
    code: "P1104",
    title: "an empty file",
    run: () => compile(onDisk("empty", new Uint8Array(0))),
    says: [/empty\.onnx: the file is empty/, "Give an ONNX file"],
  },
  { code: "P1104", title: "a folder of nothing", run: () => compile(folder), says: ["neither a bundle", "SavedModel"] },
  {
    code: "P1105",
    title: "no file",
    run: () => compile(join(folder, "missing.onnx")),
    says: [/missing\.onnx: the file does not exist/, "Check the path"],
  },
  { code: "P1110", title: "a damaged array", run: () => readNpy(Buffer.from("nothing of NumPy")), says: [/P1110/] },
  {
    code: "P1150",
    title: "no folder to write to",
    run: () => writeOnnx(mlp(), join(folder, "no/such/folder/m.onnx")),
    says: ["ENOENT", "Check the folder"],
  },
  {
    code: "P1151",
    title: "more than a buffer holds",
    run: () => {
      const e = new Editor({ name: "g", opsets: { "": 18 } });
      const data = { kind: "file", path: "weights.bin", offset: 0, length: 2 ** 32 } as const;
      e.setOutputs([e.addConstant("w", { dtype: "float32", dims: [2 ** 30], data })]);
      encodeOnnx(e.finish());
    },
    says: [/the model takes 42949\d+ bytes/, "Write it to a file"],
  },
  // ---- ONNX import ---------------------------------------------------------------------------------------------------------------------------
  {
    code: "P1201",
    title: "a file cut off",
    run: () => compile(onDisk("cut", model({ nodes: [relu] }).slice(0, -3))),
    says: [/cut\.onnx at byte \d+/, "cut off or damaged"],
  },
  { code: "P1201", title: "text", run: () => importOnnx(Buffer.from("<html>not a model</html>")), says: [/byte \d+/] },
  {
    code: "P1202",
    title: "types without end",
    run: () => {
      let type = messageField(2, "type", messageField(1, "tensorType", intField(1, 1)));
      for (let i = 0; i < 70; i++) type = messageField(2, "type", messageField(4, "element", { ...type, number: 1 }));
      return importOnnx(model({ nodes: [relu], inputs: [[textField(1, "x"), type]] }));
    },
    says: ["nested more than 64 deep", "Flatten the model"],
  },
  {
    code: "P1203",
    title: "bytes that do not fit the dims",
    run: () => importOnnx(model({ initializers: [tensor("w", [3], FLOAT, rawData(new Uint8Array(8)))], outputs: [info("w")] })),
    says: ["a float32 tensor of dims [3] needs 12 bytes, raw_data has 8"],
    where: { value: "w" },
  },
  {
    code: "P1203",
    title: "dims beyond counting",
    run: () => importOnnx(model({ initializers: [tensor("w", [2n ** 40n, 2n ** 40n], FLOAT)] })),
    says: ["natural numbers with a representable product"],
    where: { value: "w" },
  },
  {
    code: "P1203",
    title: "an unknown element type",
    run: () => importOnnx(model({ initializers: [tensor("w", [1], 99)] })),
    says: ["element type 99 is unknown"],
  },
  {
    code: "P1204",
    title: "a declared type",
    run: () => importOnnx(model({ nodes: [relu], inputs: [info("x", [2], 77)] })),
    says: ["element type 77 is unknown", "current exporter"],
  },
  {
    code: "P1205",
    title: "a name",
    run: () => importOnnx(model({ nodes: [relu], moreOfGraph: [{ number: 10, wire: 2, value: Uint8Array.of(0xff, 0xfe) }] })),
    says: ["2 bytes of field 10 are not UTF-8", "names in UTF-8"],
  },
  {
    code: "P1210",
    title: "a value of nowhere",
    run: () => importOnnx(model({ nodes: [{ ...relu, ins: ["xx"] }] }), { file: "m.onnx" }),
    says: ["m.onnx, node 'act' (Relu), value 'xx'", "Did the model mean 'x'?"],
    where: { file: "m.onnx", node: "act", value: "xx" },
  },
  {
    code: "P1211",
    title: "two definitions",
    run: () => importOnnx(model({ nodes: [relu, { ...relu, name: "again" }] })),
    says: ["'y' is defined more than once", "a name of its own"],
    where: { value: "y" },
  },
  {
    code: "P1212",
    title: "recursion",
    run: () =>
      importOnnx(
        model({
          nodes: [{ op: "Twice", ins: ["x"], outs: ["y"], domain: "own", name: "call" }],
          opsets: { "": 18, own: 1 },
          functions: [twice([[7, "node", textField(1, "a"), textField(2, "b"), textField(4, "Twice"), textField(7, "own")]])],
        }),
      ),
    says: ["function 'Twice' calls itself", "Break the recursion"],
  },
  {
    code: "P1212",
    title: "doubling at every level",
    run: () => {
      const name = (i: number) => (i < 0 ? "Neg" : `F${i}`);
      const functions = Array.from({ length: 30 }, (_, i) => [
        textField(1, name(i)),
        textField(4, "a"),
        textField(5, "c"),
        messageField(7, "node", textField(1, "a"), textField(2, "b"), textField(4, name(i - 1)), textField(7, i === 0 ? "" : "own")),
        messageField(7, "node", textField(1, "b"), textField(2, "c"), textField(4, name(i - 1)), textField(7, i === 0 ? "" : "own")),
        messageField(9, "opset", intField(2, 18)),
        messageField(9, "opset", textField(1, "own"), intField(2, 1)),
        textField(10, "own"),
      ]);
      importOnnx(model({ nodes: [{ op: "F29", ins: ["x"], outs: ["y"], domain: "own" }], opsets: { "": 18, own: 1 }, functions }));
    },
    says: [/function 'F29' would, with the others, become more than \d+ nodes and values/],
  },
  {
    code: "P1213",
    title: "no operator",
    run: () => importOnnx(model({ nodes: [{ ...relu, op: "" }] })),
    says: ["node 'act'", "op_type is empty"],
    where: { node: "act" },
  },
  { code: "P1214", title: "no graph", run: () => importOnnx(Uint8Array.of(8, 8)), says: ["the model holds no graph", "ONNX model file"] },
  {
    code: "P1215",
    title: "no operator set",
    run: () => importOnnx(model({ nodes: [relu], opsets: {} })),
    says: ["no operator set for domain 'ai.onnx'", "released operator set"],
  },
  {
    code: "P1215",
    title: "an operator set to come",
    run: () => importOnnx(model({ nodes: [relu], opsets: { "": 99 } })),
    says: ["operator set 99 of domain 'ai.onnx' does not exist"],
  },
  {
    code: "P1216",
    title: "an attribute twice",
    run: () => importOnnx(model({ nodes: [{ ...relu, attrs: [intAttribute("a", 1), intAttribute("a", 2)] }] })),
    says: ["attribute 'a'", "given twice"],
    where: { node: "act", attribute: "a" },
  },
  {
    code: "P1216",
    title: "an attribute without a value",
    run: () => importOnnx(model({ nodes: [{ ...relu, attrs: [attribute("a")] }] })),
    says: ["attribute 'a'", "holds no value"],
  },
  {
    code: "P1220",
    title: "a path upwards",
    run: () => importOnnx(onDisk("up", external4({ location: "../w.bin" }))),
    says: ["'../w.bin' has '..' in it", "below its own folder", "beside the model"],
    where: { value: "w" },
  },
  {
    code: "P1220",
    title: "an absolute path",
    run: () => importOnnx(onDisk("absolute", external4({ location: "/etc/hostname" }))),
    says: ["'/etc/hostname' is not a relative path"],
  },
  {
    code: "P1220",
    title: "a link that leads outside",
    run: () => {
      const path = onDisk("link", external4({ location: "w.bin" }));
      writeFileSync(join(folder, "outside.bin"), new Uint8Array(8));
      symlinkSync(join(folder, "outside.bin"), join(path, "../w.bin"));
      importOnnx(path);
    },
    says: [/is a link to '.*outside\.bin', outside/],
  },
  {
    code: "P1220",
    title: "bytes without a folder",
    run: () => importOnnx(external4({ location: "w.bin" })),
    says: ["the model was given as bytes"],
  },
  {
    code: "P1221",
    title: "no such file",
    run: () => importOnnx(onDisk("missing", external4({ location: "w.bin" }))),
    says: ["'w.bin' cannot be read", "Copy the data file whole"],
  },
  {
    code: "P1221",
    title: "a short file",
    run: () => importOnnx(onDisk("short", external4({ location: "w.bin", offset: "4" }), { "w.bin": new Uint8Array(8) })),
    says: ["'w.bin' has 8 bytes, the tensor wants 4 to 12"],
  },
  // ---- graphs --------------------------------------------------------------------------------------------------------------------------------
  {
    code: "P1401",
    title: "a cycle",
    run: () =>
      importOnnx(
        model({
          nodes: [
            { op: "Add", ins: ["x", "b"], outs: ["a"], name: "first" },
            { op: "Neg", ins: ["a"], outs: ["b"], name: "second" },
          ],
          outputs: [info("b")],
        }),
        { file: "cycle.onnx" },
      ),
    says: ["cycle.onnx", "2 nodes lie on a cycle", "'first', 'second'", "Break the cycle"],
  },
  { code: "P1402", title: "text", run: () => parse('graph "g" (%x) -> %y'), says: ["line 1, column", "See docs/ir.md"] },
  { code: "P1403", title: "a name in text", run: () => parse('graph "g" () -> (%y) {\n}'), says: ["%y is used and not defined"] },
  {
    code: "P1404",
    title: "bytes by hash",
    run: () => parse(`graph "g" () -> (%w) {\n  const %w = float32[4] blob "${"0".repeat(64)}"\n}`),
    says: ["no constant with hash", "as `blobs`"],
  },
  {
    code: "P1410",
    title: "a broken graph",
    run: () => {
      const g = mlp();
      verify({ ...g, nodes: [...g.nodes].reverse() });
    },
    says: ["invariant 3 does not hold"],
    exit: 70,
  },
  // ---- operators -----------------------------------------------------------------------------------------------------------------------------
  {
    code: "P1501",
    title: "dims that do not fit",
    run: () =>
      compile(
        model({
          nodes: [{ op: "MatMul", ins: ["x", "w"], outs: ["y"], name: "mm" }],
          inputs: [info("x", [2, 3]), info("w", [4, 5])],
          outputs: [info("y")],
        }),
      ),
    says: ["node 'mm' (MatMul)"],
    where: { node: "mm", op: "MatMul" },
  },
  {
    code: "P1502",
    title: "a missing input",
    run: () => compile(model({ nodes: [{ op: "Add", ins: ["x"], outs: ["y"], name: "sum" }] })),
    says: ["node 'sum' (Add)", "required input 'b' is missing"],
    where: { node: "sum" },
  },
  {
    code: "P1503",
    title: "an illegal attribute",
    run: () => compile(model({ nodes: [{ ...relu, op: "Transpose", attrs: [attribute("perm", textField(4, "x"), intField(20, 3))] }] })),
    says: ["attribute 'perm'", "is not a legal ints"],
    where: { attribute: "perm" },
  },
  {
    code: "P1504",
    title: "two element types",
    run: () =>
      compile(
        model({ nodes: [{ op: "Add", ins: ["x", "k"], outs: ["y"], name: "sum" }], inputs: [info("x", [2]), info("k", [2], INT64)] }),
      ),
    says: ["node 'sum' (Add)", "is int64, where float32", "Insert a Cast"],
  },
  {
    code: "P1505",
    title: "too many inputs",
    run: () => compile(model({ nodes: [{ ...relu, ins: ["x", "x", "x"] }] })),
    says: ["takes 1 inputs, the node has 3"],
  },
  {
    code: "P1506",
    title: "a declared type that cannot be",
    run: () => compile(model({ nodes: [relu], outputs: [info("y", [2], INT64)] })),
    says: ["node 'act' (Relu), value 'y'", "declared int64[2], the node makes float32[2]", "Export the model again"],
    where: { node: "act", value: "y" },
  },
  // ---- partition -----------------------------------------------------------------------------------------------------------------------------
  {
    code: "P1701",
    title: "a pin on nothing",
    run: () => report(mlp(), { target: "cuda", pin: [{ match: "fcc", to: "host" }] }),
    says: ["matches the pin 'fcc'", "Did you mean 'fc'?"],
  },
  {
    code: "P1702",
    title: "a pin that cannot be",
    run: () =>
      report(parse('graph "g" opset {"": 18} (%x: string[2]) -> (%y) { %y = StringConcat(%x, %x) @"cat" }'), {
        target: "cuda",
        pin: [{ match: "cat", to: "cuda" }],
      }),
    says: ["node 'cat' (StringConcat)", "pinned to 'cuda', which cannot run it", "Pin it elsewhere"],
  },
  {
    code: "P1703",
    title: "strict",
    run: () =>
      report(parse('graph "g" opset {"": 18} (%x: string[2]) -> (%y) { %y = StringConcat(%x, %x) @"cat" }'), {
        target: "cuda",
        strict: true,
      }),
    says: ["1 node would run on the host", "compile without strict"],
  },
  {
    code: "P1704",
    title: "a what-if of nothing",
    run: () => report(mlp(), { target: "cuda", whatIf: { Reluu: "cuda" } }),
    says: ["no node has the operator 'Reluu'", "Did you mean 'Relu'?"],
  },
  { code: "P1710", title: "an unsound partition", run: () => check(mlp(), []), says: ["lies in no segment"], exit: 70 },
  // ---- engines -------------------------------------------------------------------------------------------------------------------------------
  {
    code: "P2002",
    title: "a model that does not load",
    run: async () =>
      await (
        await compile(model({ nodes: [{ op: "Nope", ins: ["x"], outs: ["y"], name: "what", domain: "own" }], opsets: { "": 18, own: 1 } }))
      ).createSession(),
    says: ["ONNX Runtime does not load the segment", "Nope", "cut the graph before it"],
  },
  {
    code: "P2002",
    title: "a run that fails",
    run: async () => {
      const g = parse('graph "g" opset {"": 18} (%x: float32[N], %y: float32[M]) -> (%z) { %z = Add(%x, %y) @"sum" }');
      const s = await (await compile(g)).createSession({ threads: 1 });
      await s.run({ x: new Tensor("float32", [1, 2]), y: new Tensor("float32", [1, 2, 3]) }).finally(() => s.dispose());
    },
    says: ["node 'sum' (Add)", "ONNX Runtime failed while running", "Check the fed values"],
  },
  {
    code: "P2001",
    title: "ONNX Runtime is not installed",
    run: async () => {
      // A process of its own, in which the package cannot be found.
      const script = `
        const Module = require("node:module");
        const resolve = Module._resolveFilename;
        Module._resolveFilename = function (request, ...rest) {
          if (request === "onnxruntime-node") throw Object.assign(new Error("Cannot find module 'onnxruntime-node'"), { code: "MODULE_NOT_FOUND" });
          return resolve.call(this, request, ...rest);
        };
        import(process.argv[1]).then(async ({ compile, parse }) => {
          try {
            await (await compile(parse(process.argv[2]))).createSession();
          } catch (error) {
            console.log(JSON.stringify({ ...error.toJSON(), exit: error.exit }));
          }
        });`;
      const entry = `data:text/javascript,export * from ${JSON.stringify(pathToFileURL(join(transpiled(), "src/index.js")))};export * from ${JSON.stringify(pathToFileURL(join(transpiled(), "src/ir.js")))};`;
      const { stdout } = await promisify(execFile)(process.execPath, ["-e", script, entry, MLP]);
      const e = JSON.parse(stdout) as { code: string; exit: 3; where: Where; what: string; why: string; fix: string };
      throw new PartitaError({ code: e.code, title: "", exit: e.exit }, e.where, e);
    },
    says: ["onnxruntime-node does not load: Cannot find module", "npm install --ignore-scripts onnxruntime-node"],
    exit: 3,
  },
  {
    code: "P2003",
    title: "a thread that ends",
    run: async () => {
      const s = await session();
      const workers = new Set<Worker>();
      const post = vi.spyOn(Worker.prototype, "postMessage").mockImplementation(function (this: Worker) {
        workers.add(this);
      });
      const running = s.run({ x: new Tensor("float32", [1, 2], [1, 2]) });
      running.catch(() => {});
      await vi.waitFor(() => expect(workers.size).toBe(1));
      for (const w of workers) await w.terminate();
      post.mockRestore();
      await running.finally(() => s.dispose());
    },
    says: ["the thread that ran the model ended: exit code 1", "Run again (a new thread takes over)"],
    exit: 70,
  },
  {
    code: "P2004",
    title: "an output that cannot leave",
    run: () => compile(parse('graph "g" opset {"": 21} (%x: float32[2]) -> (%y) { %y = Cast(%x) {to = 17} @"c" }')),
    says: ["value 'y': the output is float8e4m3fn[2]", "Name other outputs"],
    where: { value: "y" },
  },
  {
    code: "P2004",
    title: "an input that cannot be fed",
    run: () => compile(parse('graph "g" opset {"": 21} (%x: float8e5m2[2]) -> (%y) { %y = Cast(%x) {to = 1} @"c" }')),
    says: ["value 'x': the input is float8e5m2[2]", "Put a Cast before it"],
  },
  {
    code: "P2005",
    title: "a tensor beyond memory",
    run: () =>
      compile(
        parse(
          'graph "g" opset {"": 18} (%x: float32[1]) -> (%y) {\n const %s = int64[2] [4194304, 4194304]\n %e = Expand(%x, %s) @"grow"\n %y = ReduceSum(%e) @"sum"\n }',
        ),
      ),
    says: ["node 'grow' (Expand), value 'e'", "70368744177664 bytes", "smaller shapes"],
    exit: 3,
  },
  {
    code: "P2005",
    title: "an input beyond any array",
    run: () => compile(parse('graph "g" opset {"": 18} (%x: int32[2147483648]) -> (%y) { %y = Shape(%x) {start = 0} @"s" }')),
    says: ["value 'x'", "8589934592 bytes", "smaller shapes"],
    exit: 3,
  },
  {
    code: "P2114",
    title: "a node without a kernel",
    run: () =>
      cudaEngine.build(inferGraph(parse('graph "g" opset {"": 18} (%x: float32[2, 2]) -> (%y) { %y = Det(%x) @"det" }')).graph, {
        target: { sm: 90, tensorrt: 0, precision: "fp32" },
      }),
    says: ["node 'det' (Det)", "no kernel can be emitted for it", "Pin the node to the host"],
    where: { node: "det" },
  },
  {
    code: "P2115",
    title: "a segment without its files",
    run: () =>
      cudaEngine.open(
        { engine: "cuda", key: "k", inputs: [], outputs: [], files: [], settings: { precision: "fp32", sm: "90", shapes: "fixed" } },
        { streams: 1, threads: 1 },
      ),
    says: ["it has no 'plan.json'", "Compile the model again"],
  },
  {
    code: "P2201",
    title: "no TensorRT",
    run: async () => {
      vi.stubEnv("PARTITA_TENSORRT_DIR", folder);
      try {
        await compile(mlp(), { target: "tensorrt", minimumSegmentSize: 1 });
      } finally {
        vi.unstubAllEnvs();
      }
    },
    says: ["there is no TensorRT to build or run with", "holds neither libnvinfer.so nor libtensorrt_rtx.so", "tensorrt-rtx-cu13-libs"],
    exit: 3,
  },
  // ---- bundles -------------------------------------------------------------------------------------------------------------------------------
  { code: "P3001", title: "no bundle", run: () => load(folder), says: ["no readable manifest.json", "`partita compile -o`"] },
  {
    code: "P3002",
    title: "a changed weight",
    run: async () => {
      const bundle = await savedBundle();
      const at = join(bundle, "host", readdirSync(join(bundle, "host"))[0] ?? "", "model.onnx");
      const bytes = readFileSync(at);
      bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] as number) ^ 1;
      writeFileSync(at, bytes);
      await load(bundle);
    },
    says: [/'host\/\w+\/model\.onnx' does not have the content the manifest says/, "Compile the model again"],
  },
  {
    code: "P3003",
    title: "a path upwards",
    run: async () => {
      const bundle = await savedBundle();
      forge(bundle, (m) => {
        for (const a of m.artifacts) for (const f of a.files) f.path = "../../secret";
      });
      await load(bundle);
    },
    says: ["'../../secret' is not a plain path inside the bundle", "do not trust"],
  },
  {
    code: "P3004",
    title: "a schema to come",
    run: async () => {
      const bundle = await savedBundle();
      forge(bundle, (m) => {
        m["schema"] = "partita.bundle/2";
      });
      await load(bundle);
    },
    says: ["'partita.bundle/2', this version reads 'partita.bundle/1'", "Compile the model again"],
  },
  {
    code: "P3005",
    title: "something in the way",
    run: async () => {
      const at = mkdtempSync(join(folder, "taken-"));
      writeFileSync(join(at, "mine.txt"), "precious");
      await (await compile(mlp())).save(at);
    },
    says: ["something that is not a bundle is in the way", "Choose another name; only a bundle is replaced"],
  },
  // ---- sessions ------------------------------------------------------------------------------------------------------------------------------
  {
    code: "P3101",
    title: "dims and data",
    run: () => new Tensor("float32", [1, 2, 3], [2, 2]),
    says: ["dims [2, 2] hold 4 elements, the data has 3"],
  },
  {
    code: "P3102",
    title: "no feed",
    run: async () => await (await session()).run({}),
    says: ["value 'x': input 'x' is missing", "Feed all of 'x'"],
  },
  {
    code: "P3103",
    title: "a feed's name",
    run: async () => await (await session()).run({ X: new Tensor("float32", [1, 2], [1, 2]) }),
    says: ["nothing named 'X'", "Did you mean 'x'?"],
  },
  {
    code: "P3104",
    title: "a feed's type",
    run: async () => await (await session()).run({ x: new Tensor("float64", [1, 2], [1, 2]) }),
    says: ["value 'x': it is float64[1, 2], the graph takes float32[N, 2]", "nothing is converted silently"],
  },
  {
    code: "P3105",
    title: "after dispose",
    run: async () => {
      const s = await session();
      await s.dispose();
      await s.run({ x: new Tensor("float32", [1, 2], [1, 2]) });
    },
    says: ["the session was disposed", "program.createSession()"],
  },
  {
    code: "P3110",
    title: "a bundle without its model",
    run: async () => {
      const at = join(mkdtempSync(join(folder, "alone-")), "b.partita");
      await (await compile(mlp(), { target: "host" })).save(at);
      await verifyModel(at);
    },
    says: ["a bundle does not hold the untouched model", "Give the model too: --model FILE"],
    exit: 2,
  },
  {
    code: "P3111",
    title: "open dims of a billion",
    run: () => randomFeeds([{ name: "x", type: "float32", dims: ["N", 256] }], 1e9),
    says: ["the inputs would hold 953.7 GiB", "Give smaller dims (--batch), or feeds of your own (--input)"],
    exit: 2,
  },
  // ---- command line --------------------------------------------------------------------------------------------------------------------------
  {
    code: "P4001",
    title: "a report's format",
    run: () => cli("compile", onDisk("cli", encodeOnnx(mlp())), "-o", join(folder, "cli.partita"), "--report", "r.pdf"),
    says: ["r.pdf: a report is .html, .json or .txt"],
    exit: 2,
  },
  {
    code: "P4002",
    title: "a node",
    run: () => cli("report", onDisk("cli", encodeOnnx(mlp())), "--why", "fcc"),
    says: ["'fcc'", "Did you mean 'fc'?"],
  },
  {
    code: "P4003",
    title: "a pass",
    run: () => cli("inspect", onDisk("cli", encodeOnnx(mlp())), "--after", "no-opps"),
    says: ["no pass 'no-opps'", "Did you mean 'no-ops'?"],
    exit: 2,
  },
  {
    code: "P4004",
    title: "a format",
    run: async () => await cli("export", await savedBundle(), "tflite", "-o", join(folder, "out")),
    says: ["exported as 'tflite'", "Use onnx"],
    exit: 2,
  },
  {
    code: "P4006",
    title: "a command line",
    run: () => cli("compile"),
    says: ["missing required argument 'model'", "See partita compile --help"],
    exit: 2,
  },
  {
    code: "P9001",
    title: "an error of Partita itself",
    run: async () => {
      // A terminal that breaks down once, in the middle of a result.
      let broken = false;
      let out = "";
      const write = (text: string): void => {
        if (!broken) {
          broken = true;
          throw new Error("the terminal is gone");
        }
        out += text;
      };
      const exit = await commandLine(["doctor", "--json"], { stdout: { write }, stderr: { write: () => {} }, env: {} });
      const { error } = JSON.parse(out) as { error: { code: string; what: string; why: string; fix: string } };
      throw new PartitaError({ code: error.code, title: "", exit: exit as 70 }, {}, error);
    },
    says: ["the terminal is gone", "not of the model", "Report it with the command and the model"],
    exit: 70,
  },
];

async function failureOf(run: () => unknown): Promise<unknown> {
  try {
    await run();
  } catch (error) {
    return error;
  }
  return undefined;
}

describe("coded errors", () => {
  mkdirSync(folder, { recursive: true });
  it.each(TRIGGERS.map((t) => [`${t.code} ${t.title}`, t] as const))(
    "%s",
    async (_, t) => {
      const error = await failureOf(t.run);
      expect(error).toBeInstanceOf(PartitaError);
      if (!(error instanceof PartitaError)) return;
      expect(error.code, error.message).toBe(t.code);
      expect(error.message.startsWith(`${t.code} `)).toBe(true);
      for (const piece of t.says) {
        if (typeof piece === "string") expect(error.message).toContain(piece);
        else expect(error.message).toMatch(piece);
      }
      expect(error.fix).not.toBe("");
      expect(error.where).toMatchObject(t.where ?? {});
      expect(error.exit).toBe(t.exit ?? 1);
    },
    120_000,
  );
});

/** Codes that a test outside this file pins: the text of all of them but this one. */
function testsText(at: string): string {
  return readdirSync(at, { withFileTypes: true })
    .map((e) => {
      const path = join(at, e.name);
      if (e.isDirectory()) return e.name === "fuzz" ? "" : testsText(path);
      return e.name.endsWith(".test.ts") && path !== import.meta.filename ? readFileSync(path, "utf8") : "";
    })
    .join("\n");
}

describe("the list of errors", () => {
  const known = definitions();
  it("every code is pinned by a test that triggers it", () => {
    const here = new Set(TRIGGERS.map((t) => t.code));
    const elsewhere = testsText(import.meta.dirname);
    const unpinned = known
      .filter((d) => !here.has(d.code) && !elsewhere.includes(d.code))
      .map((d) => `${d.code} (${d.source}: ${d.title})`);
    expect(unpinned).toEqual([]);
  });
  it("every trigger is of a code that exists", () => {
    const codes = new Set(known.map((d) => d.code));
    expect(TRIGGERS.filter((t) => !codes.has(t.code)).map((t) => t.code)).toEqual([]);
  });
  it("docs/errors.md is what scripts/errors.mjs makes (run `npm run docs`)", () => {
    expect(readFileSync(join(import.meta.dirname, "../docs/errors.md"), "utf8")).toBe(render());
  });
});
