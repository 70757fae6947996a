import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { bytesOf, elementCount, fromTensor, makeConstant, smallNumbers, toTensor, typedOf } from "../../src/ir/payload.js";
import type { Constant } from "../../src/ir/types.js";
import { Tensor } from "../../src/tensor.js";

const folder = mkdtempSync(join(tmpdir(), "partita-payload-"));
afterAll(() => rmSync(folder, { recursive: true }));

test("element counts refuse what is no natural number or too large", () => {
  expect([[], [2, 3], [0, 9], [-1], [1.5], [2 ** 40, 2 ** 40]].map(elementCount)).toEqual([1, 6, 0, undefined, undefined, undefined]);
});

describe("bytes", () => {
  test("a view stays a view when it is aligned, and is copied when it is not", () => {
    const buffer = new Uint8Array(12);
    new DataView(buffer.buffer).setFloat32(4, 1.5, true);
    const at = (offset: number): Constant => ({
      dtype: "float32",
      dims: [1],
      data: { kind: "bytes", bytes: buffer.subarray(offset, offset + 4) },
    });
    expect(typedOf(at(4))).toEqual(Float32Array.of(1.5));
    expect(typedOf(at(4)).buffer).toBe(buffer.buffer);
    expect(typedOf(at(3)).buffer).not.toBe(buffer.buffer);
  });

  test("file ranges are read when wanted; a file gone or cut short is P1101", () => {
    const path = join(folder, "weights");
    writeFileSync(path, Uint8Array.of(9, 1, 2, 3));
    const range = (length: number, name = path): Constant => ({
      dtype: "uint8",
      dims: [length],
      data: { kind: "file", path: name, offset: 1, length },
    });
    expect([...bytesOf(range(3))]).toEqual([1, 2, 3]);
    const mend =
      "the model refers to bytes that are not there any more. Put the weights file back beside the model, or import the model again.";
    expect(() => bytesOf(range(4))).toThrow(`P1101 ${path}: bytes 1 to 5 are wanted, the file has 4: ${mend}`);
    expect(() => bytesOf(range(4, join(folder, "gone")))).toThrow(/^P1101 .*gone: it cannot be opened: ENOENT/);
  });

  test("sparse tensors become dense; an index outside is P1102", () => {
    const sparse = (index: number): Constant => ({
      dtype: "int8",
      dims: [2, 2],
      data: { kind: "sparse", values: makeConstant("int8", [1], [7]), indices: makeConstant("int64", [1, 2], [1, index]) },
    });
    expect([...bytesOf(sparse(0))]).toEqual([0, 0, 7, 0]);
    expect(() => bytesOf(sparse(5))).toThrow(
      "P1102 a int8 tensor of dims [2, 2] needs 7 bytes and has 4. Write the model again; the file is damaged.",
    );
  });

  test("a length that does not fit the type is P1102", () => {
    expect(() => typedOf({ dtype: "int64", dims: [2], data: { kind: "bytes", bytes: new Uint8Array(8) } })).toThrow(
      "P1102 a int64 tensor of dims [2] needs 16 bytes and has 8. Write the model again; the file is damaged.",
    );
  });
});

test("constants and tensors turn into each other without a copy", () => {
  const t = new Tensor("float32", Float32Array.of(1, 2), [2]);
  const c = fromTensor(t);
  expect(bytesOf(c).buffer).toBe((t.data as Float32Array).buffer);
  expect(toTensor(c)).toEqual(t);
  expect(toTensor(fromTensor(new Tensor("string", ["é", ""], [2])))?.data).toEqual(["é", ""]);
  expect(toTensor(makeConstant("bfloat16", [1], [1]))).toMatchObject({ type: "bfloat16", data: Uint16Array.from([0x3f80]), dims: [1] });
});

test("numbers become elements as the type rounds and saturates", () => {
  expect(smallNumbers(makeConstant("int64", [2], [2 ** 63, -1]))).toEqual([2 ** 63, -1]);
  expect([...(typedOf(makeConstant("float16", [2], [65519, 0.1])) as Uint16Array)]).toEqual([0x7bff, 0x2e66]);
  expect(() => makeConstant("int4", [1], [1])).toThrow("makeConstant does not write int4");
});
