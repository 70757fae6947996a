/** Attributes of many elements, as ensembles of trees have them: read in rows, packed or not, hashed by content, written again. */
import { describe, expect, it } from "vitest";
import type { PartitaError } from "../../src/diagnostics.js";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { importOnnx } from "../../src/import/onnx/index.js";
import { Writer } from "../../src/import/onnx/wire.js";
import { graphHash } from "../../src/ir/hash.js";
import type { Attr, Graph } from "../../src/ir/types.js";

const N = 10_000;
const WHOLE = [
  0,
  1,
  127,
  128,
  16_383,
  16_384,
  2 ** 28 - 1,
  2 ** 28,
  2 ** 31,
  2 ** 40,
  2 ** 53 - 1,
  -1,
  -(2 ** 31),
  2n ** 62n,
  -(2n ** 63n),
];
const REAL = [0, -0, 1, 0.5, -3.25, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN, 2 ** -149].map(Math.fround);
const TEXT = ["BRANCH_LEQ", "LEAF", "", "ä", "ff", Uint8Array.of(255), "x".repeat(300)];
const many = <T>(list: readonly T[], n = N): T[] => Array.from({ length: n }, (_, i) => list[(i * 8 + (i >> 5)) % list.length] as T);
const small = Array.from({ length: N }, (_, i) => (i * 37) % 5000);
const attrs: Record<string, Attr> = {
  small: { kind: "ints", value: small },
  ints: { kind: "ints", value: many(WHOLE) },
  floats: { kind: "floats", value: many(REAL) },
  strings: { kind: "strings", value: many(TEXT) },
};

/** A model of one node with these attributes; `write` writes the elements. */
function model(attributes: Readonly<Record<string, (w: Writer) => void>>): Uint8Array {
  const w = new Writer();
  w.uint(1, 9);
  w.message(7, () => {
    w.message(1, () => {
      w.string(1, "x");
      w.string(2, "y");
      w.string(4, "Trees");
      for (const [name, write] of Object.entries(attributes))
        w.message(5, () => {
          w.string(1, name);
          write(w);
        });
      w.string(7, "example");
    });
    w.string(2, "g");
    for (const [field, name] of [
      [11, "x"],
      [12, "y"],
    ] as const)
      w.message(field, () => w.string(1, name));
  });
  w.message(8, () => w.uint(2, 18));
  return new Uint8Array(Buffer.concat(w.chunks() as Uint8Array[]));
}
/** One element after the other. */
const plain = model(
  Object.fromEntries(
    Object.entries(attrs).map(([name, a]) => [
      name,
      (w: Writer) => {
        if (a.kind === "ints") for (const x of a.value) w.int64(8, x);
        if (a.kind === "floats") for (const x of a.value) w.float(7, x);
        if (a.kind === "strings") for (const x of a.value) w.bytes(9, typeof x === "string" ? Buffer.from(x) : x);
        w.uint(20, { ints: 7, floats: 6, strings: 8 }[a.kind as "ints"]);
      },
    ]),
  ),
);
const of = (g: Graph): Graph["nodes"][number]["attrs"] => g.nodes[0]?.attrs ?? {};
const withAttr = (name: string, a: Attr): Graph => {
  const g = importOnnx(plain);
  return { ...g, nodes: g.nodes.map((n) => ({ ...n, attrs: { ...n.attrs, [name]: a } })) };
};

/** Bytes behind a list. */
const behind =
  (list: (w: Writer) => void, ...bytes: readonly number[]) =>
  (w: Writer): void => {
    list(w);
    w.raw(Uint8Array.from(bytes));
  };

describe("attributes of many elements", () => {
  it("are read as they stand", () => expect(of(importOnnx(plain))).toEqual(attrs));

  it("are read packed", () => {
    const packed = model({
      small: (w) => w.message(8, () => small.forEach((x) => void w.signed(x))),
      ints: (w) => w.message(8, () => many(WHOLE).forEach((x) => void w.signed(x))),
      floats: (w) => w.message(7, () => many(REAL).forEach((x) => void w.floatBits(x))),
      strings: (w) => w.strings(9, many(TEXT)),
    });
    expect(of(importOnnx(packed))).toEqual(attrs);
    expect(graphHash(importOnnx(packed))).toBe(graphHash(importOnnx(plain)));
  });

  it("are read where other fields stand between", () => {
    const mixed = model({
      mixed: (w) => {
        w.int64s(8, small);
        w.uint(20, 7);
        w.int64s(8, [5, -5]);
        w.message(8, () => {});
        w.int64(8, 6);
      },
    });
    expect(of(importOnnx(mixed))).toEqual({ mixed: { kind: "ints", value: [...small, 5, -5, 6] } });
  });

  it("are written as one element after the other is", () => {
    const again = encodeOnnx(importOnnx(plain));
    expect(of(importOnnx(again))).toEqual(attrs);
    const rows = model({
      ints: (w) => w.int64s(8, many(WHOLE)),
      floats: (w) => w.floats(7, many(REAL)),
      strings: (w) => w.strings(9, many(TEXT)),
    });
    const each = model({
      ints: (w) => many(WHOLE).forEach((x) => void w.int64(8, x)),
      floats: (w) => many(REAL).forEach((x) => void w.float(7, x)),
      strings: (w) => many(TEXT).forEach((x) => void (typeof x === "string" ? w.string(9, x) : w.bytes(9, x))),
    });
    expect(Buffer.compare(rows, each)).toBe(0);
  });

  it("are hashed by content", () => {
    const hash = graphHash(importOnnx(plain));
    const swapped = <T>(list: readonly T[]): T[] => [...list.slice(1), list[0] as T];
    const others = [
      withAttr("small", { kind: "ints", value: swapped(small) }),
      withAttr("small", { kind: "ints", value: small.slice(1) }),
      withAttr("small", { kind: "floats", value: small }),
      withAttr("ints", { kind: "ints", value: swapped(many(WHOLE)) }),
      withAttr("floats", { kind: "floats", value: many(REAL).map((x) => (Object.is(x, -0) ? 0 : x)) }),
      withAttr("strings", { kind: "strings", value: swapped(many(TEXT)) }),
      withAttr("strings", { kind: "strings", value: many(TEXT).map((x) => (typeof x === "string" ? x : "ff")) }),
      withAttr("strings", { kind: "strings", value: many(TEXT).map((x) => (x === "ff" ? Uint8Array.of(255) : x)) }),
    ].map((g) => graphHash(g));
    expect(new Set([hash, ...others]).size).toBe(others.length + 1);
    expect(graphHash(withAttr("small", { kind: "ints", value: [...small] }))).toBe(hash);
  });

  it.each<[string, (w: Writer) => void, string]>([
    ["a float", behind((w) => w.floats(7, many(REAL, 5000)), 0x3d, 1, 2), "a 32-bit field is cut off"],
    ["a packed float", (w) => w.bytes(7, new Uint8Array(40_002)), "a 32-bit field is cut off"],
    ["an int", behind((w) => w.int64s(8, small), 0x40, 0x80), "a varint is cut off"],
    [
      "an int that does not end",
      behind((w) => w.int64s(8, small), 0x40, ...new Array<number>(19).fill(0xff)),
      "a varint is longer than 10 bytes",
    ],
    ["the wrong wire type", (w) => w.uint(7, 3), "field 7 has wire type 0, a 32-bit one is expected"],
  ])("%s that is cut off is P1201", (_, write, says) => {
    try {
      importOnnx(model({ broken: write }));
      expect.unreachable();
    } catch (error) {
      expect((error as PartitaError).code).toBe("P1201");
      expect((error as PartitaError).message).toContain(says);
    }
  });
});
