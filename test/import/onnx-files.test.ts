/** ONNX files: external data by ranges and what it may not name, big files, damage at every length, and what hostile structure costs. */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { compile } from "../../src/compile.js";
import { PartitaError } from "../../src/diagnostics.js";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { importOnnx } from "../../src/import/onnx/index.js";
import { parse } from "../../src/ir/parse.js";
import { bytesOf, typedOf } from "../../src/ir/payload.js";
import { Tensor } from "../../src/tensor.js";
import { type Field, intField, messageField, textField } from "../fuzz/proto.js";
import { attribute, external, FLOAT, INT64, info, model, rawData, tensor } from "../support/onnx-model.js";
import { refusal } from "../support/refusal.js";

const root = mkdtempSync(join(tmpdir(), "partita-import-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
let count = 0;
const fresh = (): string => {
  const at = join(root, String(count++), "model");
  mkdirSync(at, { recursive: true });
  return at;
};
const floats = (...x: number[]): Uint8Array => new Uint8Array(Float32Array.from(x).buffer);

/** y = x + w with w of two floats where `entries` say. */
function adder(entries: Readonly<Record<string, string>>, at = fresh()): string {
  const path = join(at, "m.onnx");
  writeFileSync(
    path,
    model({
      nodes: [{ op: "Add", ins: ["x", "w"], outs: ["y"], name: "add" }],
      initializers: [tensor("w", [2], FLOAT, ...external(entries))],
    }),
  );
  return path;
}
async function sum(path: string): Promise<unknown> {
  const session = await (await compile(path)).createSession({ threads: 1 });
  const { y } = await session.run({ x: new Tensor("float32", [100, 200], [2]) });
  await session.dispose();
  return [...(y as Tensor<"float32">).data];
}
describe("external data", () => {
  it("is read at its offset and length, wherever below the model's folder it lies", async () => {
    const at = fresh();
    mkdirSync(join(at, "weights/deep"), { recursive: true });
    writeFileSync(join(at, "weights/deep/w.bin"), floats(0, 1, 2, 3, 4));
    expect(await sum(adder({ location: "weights/deep/w.bin", offset: "8", length: "8" }, at))).toEqual([102, 203]);
    expect(await sum(adder({ location: "./weights/deep/w.bin", offset: "4" }, at))).toEqual([101, 202]);
    expect(await sum(adder({ location: "weights/deep/w.bin" }, at))).toEqual([100, 201]);
  });
  it("may be a link as long as it stays inside, and the model's folder may be reached by a link", async () => {
    const at = fresh();
    writeFileSync(join(at, "w.bin"), floats(5, 6));
    symlinkSync("w.bin", join(at, "other.bin"));
    const path = adder({ location: "other.bin" }, at);
    expect(await sum(path)).toEqual([105, 206]);
    symlinkSync(at, `${at}-link`);
    expect(await sum(join(`${at}-link`, "m.onnx"))).toEqual([105, 206]);
  });
  it.each([
    "../secret.bin",
    "sub/../../secret.bin",
    "sub/../w.bin",
    "/etc/hostname",
    "/dev/zero",
    "/proc/self/environ",
    "C:\\secret.bin",
    "..\\secret.bin",
    "w.bin\0.txt",
    "",
    ".",
    "..",
  ])("may not lie at %j", (location) => {
    const at = fresh();
    mkdirSync(join(at, "sub"));
    writeFileSync(join(at, "w.bin"), floats(5, 6));
    writeFileSync(join(at, "../secret.bin"), floats(7, 8));
    const error = refusal(() => importOnnx(adder({ location }, at)));
    expect(["P1220", "P1221"]).toContain(error.code);
    expect(error.where).toMatchObject({ file: join(at, "m.onnx"), value: "w" });
  });
  it("may not be a link that leads outside, directly or by a folder", () => {
    const at = fresh();
    writeFileSync(join(at, "../secret.bin"), floats(7, 8));
    symlinkSync("../secret.bin", join(at, "w.bin"));
    symlinkSync("..", join(at, "up"));
    for (const location of ["w.bin", "up/secret.bin"])
      expect(refusal(() => importOnnx(adder({ location }, at))).message).toMatch(/^P1220 .* is a link to '.*secret\.bin', outside/);
  });
  it("may not be a folder, a pipe, or go in circles", () => {
    const at = fresh();
    mkdirSync(join(at, "folder"));
    symlinkSync("round", join(at, "round"));
    execFileSync("mkfifo", [join(at, "pipe")]);
    for (const location of ["folder", "round", "pipe", "x".repeat(5000)])
      expect(refusal(() => importOnnx(adder({ location }, at))).code).toBe("P1221");
  });
  it.each([
    [{ offset: "-1" }, "P1203", /offset '-1' is not a natural number/],
    [{ offset: "1e3" }, "P1203", /is not a natural number/],
    [{ offset: "0x8" }, "P1203", /is not a natural number/],
    [{ offset: "9007199254740993" }, "P1203", /is not a natural number/],
    [{ offset: "9223372036854775807" }, "P1203", /is not a natural number/],
    [{ offset: "9007199254740991" }, "P1221", /has 8 bytes, the tensor wants 9007199254740991 to/],
    [{ offset: "4" }, "P1221", /has 8 bytes, the tensor wants 4 to 12/],
    [{ length: "4" }, "P1203", /has length 4, its type needs 8/],
    [{ length: "4294967296" }, "P1203", /has length 4294967296, its type needs 8/],
    [{ location: "none.bin" }, "P1221", /'none\.bin' cannot be read/],
  ])("with %j is refused", (entries, code, message) => {
    const at = fresh();
    writeFileSync(join(at, "w.bin"), floats(5, 6));
    const error = refusal(() => importOnnx(adder({ location: "w.bin", ...entries }, at)));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
  });
  it("that changes after import is noticed", async () => {
    const at = fresh();
    writeFileSync(join(at, "w.bin"), floats(5, 6));
    const g = importOnnx(adder({ location: "w.bin" }, at));
    truncateSync(join(at, "w.bin"), 4);
    await expect(compile(g)).rejects.toMatchObject({ code: "P1101" });
  });
});

describe("big files", () => {
  it("are read by ranges: weights stay where they are, and mean the same", async () => {
    const at = fresh();
    const rows = 1 << 15;
    const weights = new Float32Array(rows * 600);
    weights[weights.length - 1] = 7;
    const bytes = model({
      nodes: [
        { op: "ReduceSum", ins: ["w"], outs: ["s"], name: "sum" },
        { op: "Add", ins: ["x", "s"], outs: ["y"], name: "add" },
      ],
      initializers: [tensor("w", [rows, 600], FLOAT, rawData(new Uint8Array(weights.buffer)))],
      outputs: [info("y")],
    });
    writeFileSync(join(at, "big.onnx"), bytes);
    expect(bytes.length).toBeGreaterThan(64 * 2 ** 20);
    const g = importOnnx(join(at, "big.onnx"));
    const [w] = [...g.constants.values()];
    expect(w?.data.kind).toBe("file");
    expect(bytesOf(w as never).at(-1)).toBe(0x40);
    expect(importOnnx(bytes).constants.size).toBe(1);
    // Cut off in the middle of the weights, by path and by bytes.
    truncateSync(join(at, "big.onnx"), bytes.length - 1000);
    expect(refusal(() => importOnnx(join(at, "big.onnx"))).message).toMatch(/^P1201 .*big\.onnx at byte \d+/);
  });
});

describe("damage", () => {
  const bytes = encodeOnnx(
    parse(`graph "m" opset {"": 18} (%x: float32[N, 2]) -> (%y) {
      const %w = float32[2, 2] [1.0, 2.0, 3.0, 4.0]
      %h = MatMul(%x, %w) @"fc"
      %y = Relu(%h) @"act"
    }`),
  );
  it("at every length is told with a code, or leaves a whole model", () => {
    let refused = 0;
    for (let n = 1; n < bytes.length; n++) {
      try {
        importOnnx(bytes.subarray(0, n));
      } catch (error) {
        expect(error).toBeInstanceOf(PartitaError);
        refused++;
      }
    }
    expect(refused).toBeGreaterThan(bytes.length * 0.9);
  });
  it("of every single byte is told with a code, or gives a graph", () => {
    for (let at = 0; at < bytes.length; at++)
      for (const bit of [1, 8, 128]) {
        const spoilt = bytes.slice();
        spoilt[at] = (spoilt[at] as number) ^ bit;
        try {
          importOnnx(spoilt);
        } catch (error) {
          expect(error, `byte ${at}: ${error instanceof Error ? error.stack : error}`).toBeInstanceOf(PartitaError);
        }
      }
  });
});

describe("hostile structure", () => {
  const body = (depth: number): ReturnType<typeof messageField> => {
    let graph = messageField(6, "graph", textField(2, "innermost"));
    for (let i = 0; i < depth; i++)
      graph = messageField(
        6,
        "graph",
        messageField(
          1,
          "node",
          textField(1, "c"),
          textField(2, `r${i}`),
          textField(4, "If"),
          messageField(5, "attribute", textField(1, "then_branch"), graph, intField(20, 5)),
        ),
        textField(2, `level ${i}`),
      );
    return graph;
  };
  it.each([65, 1000, 1500])("bodies %d deep are refused", (depth) => {
    const deep = model({ nodes: [{ op: "If", ins: ["x"], outs: ["y"], attrs: [attribute("then_branch", body(depth), intField(20, 5))] }] });
    expect(refusal(() => importOnnx(deep)).message).toMatch(/^P1202 .*nested more than 64 deep/);
  });
  it("a tensor that says it is huge allocates nothing", () => {
    const before = process.memoryUsage().arrayBuffers;
    for (const dims of [[2n ** 62n], [2n ** 31n, 2n ** 31n, 2n ** 31n], [2n ** 31n, 1n]])
      for (const data of [[], [rawData(new Uint8Array(8))], external({ location: "w.bin" })])
        expect(refusal(() => importOnnx(model({ initializers: [tensor("w", dims, INT64, ...data)] }))).code).toMatch(/^P12(03|20)$/);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(2 ** 24);
  });
  it("dims of nothing times something huge hold no data and do no harm", () => {
    const g = importOnnx(model({ initializers: [tensor("w", [0, 2n ** 40n], FLOAT)], outputs: [info("w")] }));
    expect([...g.constants.values()][0]?.dims).toEqual([0, 2 ** 40]);
  });
  it("a sparse tensor's indices stay inside", () => {
    const sparse = (index: number) =>
      messageField(
        15,
        "sparse",
        messageField(1, "tensor", ...tensor("w", [1], FLOAT, rawData(floats(5)))),
        messageField(2, "tensor", ...tensor("", [1], INT64, rawData(new Uint8Array(BigInt64Array.of(BigInt(index)).buffer)))),
        intField(3, 4),
      );
    for (const index of [-1, 4, 2 ** 40]) {
      const g = importOnnx(model({ moreOfGraph: [sparse(index)], outputs: [info("w")] }));
      expect(refusal(() => [...g.constants.values()].map(bytesOf)).code).toBe("P1102");
    }
  });
  it("a sparse tensor has elements of whole bytes and int64 indices", () => {
    const sparse = (type: number, indices: number) =>
      messageField(
        15,
        "sparse",
        messageField(1, "tensor", ...tensor("w", [2], type, rawData(new Uint8Array(1)))),
        messageField(2, "tensor", ...tensor("", [2], indices, rawData(new Uint8Array(indices === INT64 ? 16 : 8)))),
        intField(3, 4),
      );
    const why = (type: number, indices: number) => refusal(() => importOnnx(model({ moreOfGraph: [sparse(type, indices)] }))).message;
    expect(why(22, INT64)).toMatch(/^P1203 .*value 'w': a sparse tensor has int4 elements/);
    expect(why(22, 6)).toMatch(/^P1203 .*indices int32\[2\], which are int64/);
  });
  it("unknown fields by the hundred thousand cost no more than they weigh", () => {
    const unknown = Buffer.alloc(1_200_000, Uint8Array.of(0xa0, 6, 1));
    const file = Buffer.concat([model({ nodes: [{ op: "Neg", ins: ["x"], outs: ["y"] }] }), unknown]);
    const start = performance.now();
    expect(importOnnx(file).extra?.unknown?.length).toBe(unknown.length);
    expect(performance.now() - start).toBeLessThan(2000);
  });
  it("unknown fields between known ones keep their order", () => {
    const known: Field = { number: 14, wire: 2, value: { kind: "entry", fields: [textField(1, "k"), textField(2, "v")] } };
    const g = importOnnx(model({ nodes: [{ op: "Neg", ins: ["x"], outs: ["y"] }], more: [intField(100, 1), known, intField(101, 2)] }));
    expect([...(g.extra?.unknown ?? [])]).toEqual([0xa0, 6, 1, 0xa8, 6, 2]);
    expect(g.extra?.metadata).toEqual([["k", "v"]]);
  });
  it("names of a hundred thousand characters are compared with no others", () => {
    const long = (c: string): string => c.repeat(100_000);
    const nodes = [
      { op: "Neg", ins: [long("a")], outs: ["y"], name: "neg" },
      { op: "Neg", ins: ["x"], outs: [long("b")] },
    ];
    expect(refusal(() => importOnnx(model({ nodes }))).message).toMatch(/^P1210 node 'neg'/);
  });
  it("names that are made to meet in a hash table are read like others", () => {
    // Eight characters of which the second four undo, in multiplicative hashing from a known start, what the first four did.
    const names: string[] = [];
    const bytes = Buffer.alloc(8);
    for (let i = 0; names.length < 20_000; i++) {
      for (let k = 0, rest = i; k < 4; k++, rest = Math.floor(rest / 90)) bytes[k] = 36 + (rest % 90);
      let hash = Math.imul(8 ^ bytes.readInt32LE(0), 0x9e3779b1);
      hash ^= hash >>> 15;
      bytes.writeInt32LE(hash ^ 0x30303030, 4);
      if (bytes.every((b) => b < 128)) names.push(bytes.toString("latin1"));
    }
    const nodes = names.map((name, i) => ({ op: "Neg", ins: [i === 0 ? "x" : (names[i - 1] as string)], outs: [name] }));
    const file = model({ nodes, outputs: [info(names[names.length - 1] as string)] });
    const start = performance.now();
    expect(importOnnx(file).nodes).toHaveLength(names.length);
    expect(performance.now() - start).toBeLessThan(1000);
  });
  it("names that JavaScript objects know are ordinary names", async () => {
    const names = ["__proto__", "constructor", "toString", "hasOwnProperty"];
    const nodes = names.map((name, i) => ({ op: "Relu", ins: [i === 0 ? "x" : (names[i - 1] as string)], outs: [name], name }));
    const session = await (
      await compile(
        model({ nodes, inputs: [info("x", [2]), info("valueOf", [2])], outputs: [info("constructor"), info("toString"), info("valueOf")] }),
      )
    ).createSession({
      threads: 1,
    });
    const x = new Tensor("float32", [-1, 2], [2]);
    const out = await session.run({ x, valueOf: x as never });
    expect(Object.keys(out)).toEqual(["constructor", "toString", "valueOf"]);
    expect(Object.values(out).map((t) => [...(t.data as Float32Array)])).toEqual([
      [0, 2],
      [0, 2],
      [-1, 2],
    ]);
    await session.dispose();
    // As domains of operators that nobody knows, too.
    for (const domain of names)
      encodeOnnx(importOnnx(model({ nodes: [{ op: "Own", ins: ["x"], outs: ["y"], domain }], opsets: { "": 18 } })));
    for (const op of names)
      expect((await compile(model({ nodes: [{ op, ins: ["x"], outs: ["y"] }] })).catch((e: PartitaError) => e)) instanceof Error).toBe(
        false,
      );
  });
});

describe("what is no model", () => {
  it.each([
    ["a number", 42, /^P1104 a model is a path, a file URL, bytes or a graph; this is number/],
    ["undefined", undefined, /^P1104 .*this is undefined/],
    ["no bytes", new Uint8Array(0), /^P1104 there are no bytes/],
    ["an empty path", "", /^P1104 the path is empty/],
    ["a path with NUL", "a\0b", /^P1105/],
    ["a path too long", "x".repeat(6000), /^P1105/],
    ["text", Buffer.from("hello, this is no model at all"), /^P1(2|3)\d\d/],
    ["a picture", Buffer.from("89504e470d0a1a0a0000000d49484452", "hex"), /^P1201/],
    ["an archive", Buffer.from("504b0304140000000800", "hex"), /^P1104 it is a zip archive \(\.npz, \.zip\), not a model/],
    ["an array", Buffer.from("934e554d5059010076007b27", "hex"), /^P1104 it is a NumPy array/],
    ["a Keras model", Buffer.from("894844460d0a1a0a", "hex"), /^P1104 it is an HDF5 file \(a Keras model: export it/],
    ["a pointer", Buffer.from("version https://git-lfs.github.com/spec/v1\n"), /^P1104 it is a Git LFS pointer: fetch the file itself/],
    ["JSON", Buffer.from('{"nodes": []}'), /^P1104 it is JSON/],
    ["null", null, /^P1104 a model is a path, a file URL, bytes or a graph; this is null/],
    ["another URL", new URL("https://example.com/net.onnx"), /^P1001 option 'model' is 'https:\/\/example\.com\/net\.onnx'\. Give a path/],
  ])("%s", async (_, input, message) => {
    await expect(compile(input as never)).rejects.toThrow(message);
  });
});

it("a Constant's whole number keeps its 64 bits", () => {
  for (const x of [2n ** 53n + 1n, -(2n ** 63n), 2n ** 63n - 1n]) {
    const constant = { op: "Constant", outs: ["y"], attrs: [attribute("value_int", intField(3, BigInt.asUintN(64, x)), intField(20, 2))] };
    const [c] = importOnnx(model({ nodes: [constant] })).constants.values();
    expect(c === undefined ? [] : [...typedOf(c)]).toEqual([x]);
  }
});

it("values of bodies are written under names that no other value has", async () => {
  const branch = (name: string): string => `graph "${name}" () captures (%"v@1" = %"v@1", %"v@2" = %"v@2", %x = %x) -> (%r, %x) {
    %v = Neg(%"v@1")
    %v/passed = Neg(%"v@2")
    %r = Sub(%v, %v/passed)
  }`;
  const g = parse(`graph "clash" opset {"": 18} (%x: float32[2], %go: bool[]) -> (%y, %z) {
    %"v@1" = Abs(%x)
    %"v@2" = Exp(%x)
    %y: float32[2], %z: float32[2] = If(%go) { then_branch = ${branch("then")} else_branch = ${branch("else")} }
  }`);
  const session = await (await compile(encodeOnnx(g))).createSession({ threads: 1 });
  for (const go of [0, 1]) {
    const { y } = await session.run({ x: new Tensor("float32", [0, -3], [2]), go: new Tensor("bool", Uint8Array.of(go), []) });
    expect((y as Tensor<"float32">).data[0]).toBe(1);
    expect((y as Tensor<"float32">).data[1]).toBeCloseTo(Math.exp(-3) - 3, 5);
  }
  await session.dispose();
});
