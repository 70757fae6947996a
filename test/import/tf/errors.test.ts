/** Every code of the TensorFlow import: what triggers it, and a message with the place, the finding and the remedy. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, unlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { PartitaError } from "../../../src/diagnostics.js";
import { importModel } from "../../../src/import/index.js";
import { type ImportTfOptions, importTf } from "../../../src/import/tf/index.js";
import { demandReadable } from "../../../src/import/tf/unreadable.js";
import { bytesOf as payload } from "../../../src/ir/payload.js";
import {
  BOOL,
  bytesOf,
  constant,
  FLOAT,
  type FunctionSpec,
  func,
  graphDef,
  INT32,
  int,
  type NodeSpec,
  node,
  placeholder,
  RESOURCE,
  shape,
  tensor,
  text,
  type,
  writeSavedModel,
} from "../../support/tf-graph.js";

const folder = mkdtempSync(join(tmpdir(), "partita-tf-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const T = type(FLOAT);
const x = placeholder("x", FLOAT, [2]);
const read = (nodes: readonly NodeSpec[], options?: ImportTfOptions, functions?: readonly FunctionSpec[]): unknown =>
  importTf(graphDef(nodes, functions), { file: "m.pb", ...options });

/** The code and the whole message. */
function failure(f: () => unknown): string {
  try {
    f();
  } catch (error) {
    if (error instanceof PartitaError) return error.message.replaceAll(folder, "DIR");
    throw error;
  }
  throw new Error("nothing was thrown");
}

const cases: readonly (readonly [code: string, run: () => unknown, message: string])[] = [
  [
    "P1302",
    () => importTf(graphDef([x]).subarray(0, 20), { file: "m.pb" }),
    "P1302 m.pb at byte 2: a field of 46 bytes reaches past the 18 that are left. Save or download the model again; it is cut off or damaged.",
  ],
  [
    "P1303",
    () => read([{ name: "c", op: "Const", attrs: { dtype: T, value: tensor(FLOAT, [2], [1, 2, 3]) } }]),
    "P1303 m.pb, node 'c' (Const), attribute 'value': a tensor of dims [2] has 3 values. Freeze or save the model again; the tensor is damaged or written by a faulty tool.",
  ],
  [
    "P1303 too large",
    () => read([{ name: "c", op: "Const", attrs: { dtype: T, value: tensor(FLOAT, [100_000, 100_000], [1]) } }]),
    "P1303 m.pb, node 'c' (Const), attribute 'value': a float32 tensor of dims [100000, 100000] has 1 of its 10000000000 values, too few to be meant. Freeze or save the model again; the tensor is damaged or written by a faulty tool.",
  ],
  [
    "P1303 torn",
    () =>
      read([
        {
          name: "c",
          op: "Const",
          attrs: {
            dtype: T,
            value: (w) =>
              w.message(8, () => {
                w.uint(1, FLOAT);
                w.message(2, () => w.message(2, () => w.int64(1, 2)));
                w.message(5, () => w.raw(new Uint8Array(7)));
              }),
          },
        },
      ]),
    "P1303 m.pb, node 'c' (Const), attribute 'value': 7 bytes of packed values are not whole numbers of 4 bytes. Freeze or save the model again; the tensor is damaged or written by a faulty tool.",
  ],
  [
    "P1304 dangling",
    () => read([x, node("y", "Relu", ["xx"], { T })]),
    "P1304 m.pb, value 'xx': 'xx' is read and no node has that name; 'x' is near. Freeze or save the model again; the graph is damaged or was edited by hand.",
  ],
  [
    "P1304 twice",
    () => read([x, x]),
    "P1304 m.pb, node 'x' (Placeholder): two nodes are named 'x'. Freeze or save the model again; the graph is damaged or was edited by hand.",
  ],
  [
    "P1304 port",
    () => read([x, node("y", "Relu", ["x:3"], { T })]),
    "P1304 m.pb, node 'x': 'x:3' is read, and 'x' has 1 results. Freeze or save the model again; the graph is damaged or was edited by hand.",
  ],
  [
    "P1305",
    () => read([node("a", "Relu", ["b"], { T }), node("b", "Relu", ["a"], { T })], { outputs: ["a"] }),
    "P1305 m.pb, node 'b' (Relu): these nodes wait for each other: 'a', 'b': only NextIteration may lead back. Freeze or save the model again; the graph was edited by hand.",
  ],
  [
    "P1306 missing",
    () => read([x, node("y", "PartitionedCall", ["x"], { f: func("gone") })]),
    "P1306 m.pb, node 'y' (PartitionedCall): function 'gone' is called, and the library does not have it. Save the model again with its function library, without recursion.",
  ],
  [
    "P1306 recursive",
    () =>
      read([x, node("y", "PartitionedCall", ["x"], { f: func("f") })], {}, [
        {
          name: "f",
          args: [["a", FLOAT]],
          results: [["r", FLOAT, "again:output:0"]],
          nodes: [node("again", "PartitionedCall", ["a"], { f: func("f") })],
        },
      ]),
    "P1306 m.pb, node 'again' (PartitionedCall): function 'f' calls itself. Save the model again with its function library, without recursion.",
  ],
  [
    "P1307",
    () => read([x, node("act", "Relu", ["x"], { T })], { outputs: ["akt"] }),
    "P1307 m.pb: output 'akt' is not in the graph. Did you mean 'act'?",
  ],
  ["P1308", () => read([node("n", "NoOp", [])]), "P1308 m.pb: the graph has no result that nobody consumes. Name other `outputs`."],
  [
    "P1309",
    () => read([x, node("y", "Exit", ["x"], { T })]),
    "P1309 m.pb, node 'y' (Exit): an Exit does not leave a loop: no Switch of a Merge is before it. Cut the graph behind it with `inputs`, or before it with `outputs`.",
  ],
  [
    "P1321",
    () => read([x, node("y", "Cast", ["x"], { SrcT: T })]),
    "P1321 m.pb, node 'y' (Cast), attribute 'DstT': the attribute is required and missing. Freeze or save the model again; the node is incomplete.",
  ],
  [
    "P1321 kind",
    () => read([x, node("y", "Cast", ["x"], { SrcT: T, DstT: int(3) })]),
    "P1321 m.pb, node 'y' (Cast), attribute 'DstT': the attribute is a int, a type is needed. Freeze or save the model again; the node is incomplete.",
  ],
  [
    "P1322",
    () => read([x, node("y", "Cast", [], { SrcT: T, DstT: type(INT32) })]),
    "P1322 m.pb, node 'y' (Cast): input 0 is missing; the node has 0. Freeze or save the model again; the node is incomplete.",
  ],
  [
    "P1334",
    () =>
      demandReadable(
        importTf(graphDef([x, node("odd", "FrobnicateV7", ["x"], { T }), node("y", "Relu", ["odd"], { T })]), { file: "m.pb" }),
      ),
    "P1334 m.pb, node 'odd' (FrobnicateV7): 1 TensorFlow operator has no lowering (FrobnicateV7): operator FrobnicateV7 is not known. Cut the graph before them with `outputs`, or behind them with `inputs` and feed what they compute; or supply them as JavaScript `operators`.",
  ],
  [
    "P1335",
    () => read([x, { name: "dims", op: "Const", attrs: { value: tensor(FLOAT, [1], [0.5]) } }, node("y", "Reshape", ["x", "dims"], { T })]),
    "P1335 m.pb, node 'y' (Reshape): its operands cannot be read: The number 0.5 cannot be converted to a BigInt because it is not an integer. Freeze or save the model again; if TensorFlow runs it, report this as a defect.",
  ],
  [
    "P1316",
    () => importTf(Buffer.from('node {\n name: "x"\n op: Placeholder\n}'), { file: "m.pbtxt" }),
    "P1316 m.pbtxt: line 4: 'Placeholder' stands where a string is expected. Check that this is a GraphDef or SavedModel in protobuf text format, and that it is whole.",
  ],
];
describe("GraphDefs", () => {
  it.each(cases)("%s", (code, run, message) => {
    const found = failure(run);
    expect(found).toBe(message);
    expect(found.startsWith(code.slice(0, 5))).toBe(true);
  });
  it("P1323, P1324, P1330 and P1331 are reasons of kept nodes, not errors", () => {
    const texts: string[] = [];
    const remarks = (r: { text: string; where?: { node?: string | undefined } | undefined }): void =>
      void texts.push(`${r.where?.node}: ${r.text}`);
    importTf(graphDef([placeholder("u", FLOAT, undefined), node("s", "Transpose", ["u", "p"], { T }), placeholder("p", INT32, [3])]), {
      remarks,
    });
    importTf(graphDef([x, node("odd", "Odd", ["x"]), node("y", "Square", ["odd"])]), { remarks });
    importTf(graphDef([placeholder("r", RESOURCE, []), node("z", "Identity", ["r"])]), { remarks });
    importTf(
      graphDef([
        node("list", "TensorListReserve", ["e", "e"], { element_dtype: T }),
        constant("e", INT32, [], [1]),
        node("w", "Neg", ["list"]),
      ]),
      {
        remarks,
      },
    );
    expect(texts).toEqual([
      "s: the permutation ('p:0') is not known at compile time",
      "odd: operator Odd is not known",
      "y: the element type of 'odd:0' is not known",
      "r: the type is DT_RESOURCE, a handle",
      "w: input 0 is a list, a tensor is needed",
    ]);
  });
  it("P1332: branches nested too deep", () => {
    const depth = 70;
    const nodes: NodeSpec[] = [x];
    for (let k = 0; k < depth; k++) {
      nodes.push(placeholder(`p${k}`, BOOL, []));
      nodes.push(node(`s${k}`, "Switch", [k === 0 ? "x" : `s${k - 1}:1`, `p${k}`], { T }));
      nodes.push(node(`no${k}`, "Neg", [`s${k}`], { T }));
    }
    nodes.push(node("inner", "Square", [`s${depth - 1}:1`], { T }));
    for (let k = depth - 1; k >= 0; k--)
      nodes.push(node(`m${k}`, "Merge", [`no${k}`, k === depth - 1 ? "inner" : `m${k + 1}`], { T, N: int(2) }));
    expect(failure(() => read(nodes, { outputs: ["m0"] }))).toMatch(
      /^P1332 m\.pb.*: loops, branches and calls are nested more than 60 deep\. Check for a function that calls itself; flatten the model where it is made\.$/,
    );
  });
  it("P1306 and P1333: functions nested too deep, and functions that call each other many times over", () => {
    const chain = Array.from(
      { length: 70 },
      (_, i): FunctionSpec => ({
        name: `f${i}`,
        args: [["a", FLOAT]],
        results: [["r", FLOAT, "c:output:0"]],
        nodes: [node("c", "PartitionedCall", ["a"], { f: func(`f${i + 1}`) })],
      }),
    );
    expect(failure(() => read([x, node("y", "PartitionedCall", ["x"], { f: func("f0") })], {}, chain))).toMatch(
      /^P1306 .* functions are nested more than 50 deep\./,
    );
    const bomb = Array.from(
      { length: 40 },
      (_, i): FunctionSpec => ({
        name: `g${i}`,
        args: [["a", FLOAT]],
        results: [["r", FLOAT, i === 39 ? "p:y:0" : "q:output:0"]],
        nodes:
          i === 39
            ? [node("p", "Neg", ["a"], { T })]
            : [
                node("p", "PartitionedCall", ["a"], { f: func(`g${i + 1}`) }),
                node("q", "PartitionedCall", ["p:output:0"], { f: func(`g${i + 1}`) }),
              ],
      }),
    );
    expect(failure(() => read([x, node("y", "PartitionedCall", ["x"], { f: func("g0") })], {}, bomb))).toMatch(
      /^P1333 .*: lowering it makes more than \d+ nodes\. Check for functions that call each other many times over\.$/,
    );
  });
});

describe("SavedModels", () => {
  const variable: NodeSpec = { name: "v", op: "VarHandleOp", attrs: { dtype: T, shape: shape([2]), shared_name: text("v") } };
  const nodes = [x, variable, node("v/Read", "ReadVariableOp", ["v"], { dtype: T }), node("y", "AddV2", ["x", "v/Read"], { T })];
  const signatures = { serving_default: { inputs: { a: "x:0" }, outputs: { sum: "y:0" } } };
  const variables = [{ key: "v", dims: [2], values: [1, 2] }];
  const save = (name: string, m: Partial<Parameters<typeof writeSavedModel>[1]> = {}): string => {
    const at = join(folder, name);
    writeSavedModel(at, { nodes, signatures, variables, ...m });
    return at;
  };
  const weights = (at: string): Uint8Array[] => [...importTf(at).constants.values()].map(payload);

  it("P1310: a signature that is not there", () => {
    expect(failure(() => importTf(save("p1310"), { signature: "train" }))).toBe(
      "P1310 DIR/p1310/saved_model.pb: it has no signature 'train'. Use one of 'serving_default'.",
    );
  });
  it("P1311: a damaged index", () => {
    const at = save("p1311");
    const index = join(at, "variables/variables.index");
    writeFileSync(index, readFileSync(index).subarray(1));
    expect(failure(() => importTf(at))).toMatch(
      /^P1312 DIR\/p1311\/variables\/variables.index: the index block at \d+ has another checksum than it says\. Copy or download the checkpoint again; it is damaged\.$/,
    );
    writeFileSync(index, "short");
    expect(failure(() => importTf(at))).toBe(
      "P1311 DIR/p1311/variables/variables.index: it has 5 bytes, its footer alone needs 48. Copy the checkpoint again, index and data files together, or save it again.",
    );
  });
  it("P1311: a shape that does not fit", () => {
    const at = save("p1311b", { variables: [{ key: "v", dims: [3], values: [1, 2] }] });
    expect(failure(() => importTf(at))).toMatch(
      /^P1311 .*value 'v': a float32 tensor of dims \[3\] needs 12 bytes, the index gives it 8\./,
    );
  });
  it("P1312: a weight whose checksum does not fit, when it is read", () => {
    expect(failure(() => weights(save("p1312", { variables: [{ key: "v", dims: [2], values: [1, 2], crc: 7 }] })))).toMatch(
      /^P1312 .*value 'v': the 8 bytes at 0 of 'variables.data-00000-of-00001' have another checksum than the index says\./,
    );
  });
  it("P1313: a missing data file, a short one, a missing index", () => {
    const at = save("p1313");
    const data = join(at, "variables/variables.data-00000-of-00001");
    writeFileSync(data, new Uint8Array(4));
    expect(failure(() => importTf(at))).toMatch(
      /^P1313 .*'variables.data-00000-of-00001' has 4 bytes, the tensor wants 0 to 8\. Put all data files/,
    );
    unlinkSync(data);
    expect(failure(() => importTf(at))).toMatch(/^P1313 .*'variables.data-00000-of-00001' cannot be read: ENOENT/);
  });
  it("P1314: no graph with the tag 'serve' among several", () => {
    const at = join(folder, "p1314");
    mkdirSync(at);
    writeFileSync(
      join(at, "saved_model.pb"),
      bytesOf((w) => w.uint(1, 1)),
    );
    expect(failure(() => importTf(at))).toBe(
      "P1314 DIR/p1314/saved_model.pb: it holds no graph. Save the model again, with the tag 'serve'.",
    );
  });
  it("P1315: a variable that the checkpoint does not have, and no checkpoint", () => {
    expect(failure(() => importTf(save("p1315", { variables: [{ key: "w", dims: [2], values: [1, 2] }] })))).toMatch(
      /^P1315 DIR\/p1315\/saved_model.pb, node 'v' \(VarHandleOp\): variable 'v' is not in the checkpoint; 'w' is near\. Save the model together with its variables, or freeze it\.$/,
    );
    const at = join(folder, "none");
    writeSavedModel(at, { nodes, signatures });
    expect(failure(() => importTf(at))).toMatch(/^P1315 .* has no checkpoint: 'variables.index' is not in 'variables'\./);
  });
  it("P1103 and P1104: paths that hold no model", async () => {
    await expect(importModel(folder)).rejects.toThrow(/^P1104 .*neither a bundle/);
    expect(failure(() => importTf(join(folder, "gone.pb")))).toMatch(/^P1103 .*ENOENT/);
  });
});
