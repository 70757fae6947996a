import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deflateRawSync } from "node:zlib";
import { describe, expect, it } from "vitest";
import { npyBytes, npzBytes, readNpy, readNpz, writeNpz } from "../src/npz.js";
import { Tensor } from "../src/tensor.js";

describe("npy", () => {
  it.each([
    new Tensor("float32", [1.5, -2, Number.NaN], [3]),
    new Tensor("int64", [1n, -(2n ** 62n)], [2, 1]),
    new Tensor("bool", [1, 0, 1, 1], [2, 2]),
    new Tensor("float16", [15360], []),
    new Tensor("bfloat16", [0x3f80, 0xc000], [2]),
    new Tensor("uint8", [], [0, 4]),
    new Tensor("string", ["häß", "", "𝄞x"], [3]),
  ])("writes and reads $type $dims", (t) => {
    const back = readNpy(npyBytes(t));
    expect(back).toEqual(t);
  });

  it("reads column-major and big-endian arrays", () => {
    const header = (text: string): Buffer =>
      Buffer.concat([Buffer.from([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, text.length, 0]), Buffer.from(text)]);
    const fortran = Buffer.concat([
      header("{'descr': '<i2', 'fortran_order': True, 'shape': (2, 3)}\n"),
      Buffer.from(Int16Array.from([1, 4, 2, 5, 3, 6]).buffer),
    ]);
    expect(readNpy(fortran).data).toEqual(Int16Array.from([1, 2, 3, 4, 5, 6]));
    const big = Buffer.concat([header("{'descr': '>i2', 'fortran_order': False, 'shape': (2,)}\n"), Buffer.from([1, 2, 3, 4])]);
    expect(readNpy(big).data).toEqual(Int16Array.from([0x0102, 0x0304]));
  });

  it.each([
    [
      "not npy at all",
      Buffer.from("hello world, hello"),
      "P1110 x.npy: it does not begin with the .npy magic. Write the file again with numpy.save or numpy.savez.",
    ],
    [
      "too short for its shape",
      npyBytes(new Tensor("float32", [1, 2], [2])).subarray(0, -1),
      "P1110 x.npy: shape (2) of float32 needs 8 bytes, the file has 7. Write the file again with numpy.save or numpy.savez.",
    ],
    [
      "strings without end in no bytes",
      Buffer.from("\x93NUMPY\x01\0D\0{'descr': '<U0', 'fortran_order': False, 'shape': (300000000,)}    \n", "latin1"),
      "P1110 x.npy: 300000000 strings of 0 bytes do not fit into 0.",
    ],
  ])("refuses %s", (_, bytes, message) => {
    expect(() => readNpy(bytes, "x.npy")).toThrow(message);
  });
});

describe("npz", () => {
  it.each([
    [
      "an object",
      {},
      "P1110 arrays are given as object, not as pairs of name and tensor. Give Object.entries(tensors), or a Map of tensors by name.",
    ],
    ["nothing", undefined, "P1110 arrays are given as undefined, not as pairs"],
    ["tensors without names", [new Tensor("float32", [1], [1])], "P1110 an array is not given as a pair of name and tensor."],
    ["a name alone", [["x"]], "P1110 what is to be written is undefined, not a tensor. Give a Tensor."],
    ["plain numbers", [["x", [1, 2]]], "P1110 what is to be written is object, not a tensor."],
    [
      "a plain array for data",
      [["x", { type: "float32", data: [1, 2], dims: [2] }]],
      "P1110 the data of float32[2] is 2 elements in Array.",
    ],
    [
      "too little data",
      [["x", { type: "float32", data: new Float32Array(1), dims: [2] }]],
      "P1110 the data of float32[2] is 1 elements in Float32Array.",
    ],
  ])("writes no file of %s", (_, arrays, message) => {
    expect(() => writeNpz(join(tmpdir(), "partita-never.npz"), arrays as never)).toThrow(message);
    expect(existsSync(join(tmpdir(), "partita-never.npz"))).toBe(false);
  });
  it("writes and reads names and values, and leaves nothing half-written", () => {
    const dir = mkdtempSync(join(tmpdir(), "partita-npz-"));
    try {
      const arrays = new Map<string, Tensor>([
        ["a", new Tensor("float32", [1, 2], [2])],
        ["b/c:0", new Tensor("int32", [7], [])],
      ]);
      writeNpz(join(dir, "x.npz"), arrays);
      expect(readNpz(join(dir, "x.npz"))).toEqual(arrays);
      expect(() => writeNpz(join(dir, "missing", "x.npz"), arrays)).toThrow(/P1110 .*it cannot be written: ENOENT/);
      expect(readdirSync(dir)).toEqual(["x.npz"]);
    } finally {
      rmSync(dir, { recursive: true });
    }
  });

  it("refuses a flipped bit by checksum, and never inflates past the stated size", () => {
    const bytes = Buffer.from(npzBytes([["a", new Tensor("uint8", new Uint8Array(64), [64])]]));
    const flipped = Buffer.from(bytes);
    const at = 30 + 5 + 130;
    flipped[at] = (flipped[at] ?? 0) ^ 1;
    expect(() => readNpz(flipped, "x.npz")).toThrow("P1110 x.npz: entry 'a.npy' has a wrong checksum");
    const bomb = deflateRawSync(Buffer.alloc(1 << 20));
    const name = Buffer.from("b.npy");
    const local = Buffer.alloc(30);
    local.writeUInt32LE(0x04034b50, 0);
    local.writeUInt16LE(name.length, 26);
    const central = Buffer.alloc(46);
    central.writeUInt32LE(0x02014b50, 0);
    central.writeUInt16LE(8, 10);
    central.writeUInt32LE(bomb.length, 20);
    central.writeUInt32LE(100, 24);
    central.writeUInt16LE(name.length, 28);
    const end = Buffer.alloc(22);
    end.writeUInt32LE(0x06054b50, 0);
    end.writeUInt16LE(1, 10);
    end.writeUInt32LE(30 + name.length + bomb.length, 16);
    expect(() => readNpz(Buffer.concat([local, name, bomb, central, name, end]), "x.npz")).toThrow(
      "P1110 x.npz: entry 'b.npy' does not inflate",
    );
  });

  it("keeps the bytes of the file apart from the tensors", () => {
    const bytes = npzBytes([["a", new Tensor("float32", [1], [1])]]);
    const t = readNpz(bytes).get("a");
    bytes.fill(0);
    expect(t?.data).toEqual(Float32Array.of(1));
  });
});
