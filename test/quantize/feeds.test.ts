/** Feeds from iterables, files and folders; what is wrong with them is said; stores keep them, in memory or on disk. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import type { Remark } from "../../src/diagnostics.js";
import { parse } from "../../src/ir/parse.js";
import { npyBytes, npzBytes } from "../../src/npz.js";
import { type FeedOptions, type FeedSource, feedHash, feedsOf, hashOfUnion, portsOf } from "../../src/quantize/feeds.js";
import { imageFeeds, inputOf, preprocessingText } from "../../src/quantize/images.js";
import { collectFeeds } from "../../src/quantize/store.js";
import type { FeedPort, Feeds } from "../../src/quantize/types.js";
import { Tensor } from "../../src/tensor.js";

const folder = mkdtempSync(join(tmpdir(), "partita-feedtest-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string, bytes?: Uint8Array | string): string => {
  const path = join(folder, name);
  mkdirSync(join(path, ".."), { recursive: true });
  if (bytes !== undefined) writeFileSync(path, bytes);
  return path;
};
const floats = (dims: readonly number[], start = 0): Tensor =>
  new Tensor(
    "float32",
    Float32Array.from({ length: dims.reduce((a, d) => a * d, 1) }, (_, i) => start + i),
    dims,
  );
const open: readonly FeedPort[] = [{ name: "x", type: "float32", dims: ["N", 3] }];
const fixed: readonly FeedPort[] = [{ name: "x", type: "float32", dims: [2, 3] }];
const two: readonly FeedPort[] = [
  { name: "ids", type: "int64", dims: ["N", "S"] },
  { name: "rate", type: "float32", dims: [1] },
];

async function read(source: FeedSource, ports: readonly FeedPort[], options?: FeedOptions): Promise<Feeds[]> {
  const all: Feeds[] = [];
  for await (const f of feedsOf(source, ports, options)) all.push(f);
  return all;
}
const dimsOf = (feeds: readonly Feeds[], name = "x"): (readonly number[])[] => feeds.map((f) => f[name]?.dims ?? []);
const failure = async (what: Promise<unknown>): Promise<string> =>
  await what.then(
    () => "no failure",
    (error: Error) => error.message.replaceAll(folder, ""),
  );

describe("sources", () => {
  it("knows a graph's inputs", () => {
    expect(portsOf(parse('graph "g" opset {"": 18} (%x: float32[N, 3]) -> (%y) { %y = Relu(%x) }'))).toEqual(open);
  });
  it("cuts the first dim of an .npz: open dims by batch, fixed ones by their size, one dim more is a stack", async () => {
    const npz = (dims: readonly number[]): string => at(`${dims.join("x")}.npz`, npzBytes([["x", floats(dims)]]));
    expect(dimsOf(await read(npz([5, 3]), open))).toEqual([
      [1, 3],
      [1, 3],
      [1, 3],
      [1, 3],
      [1, 3],
    ]);
    expect(dimsOf(await read(npz([5, 3]), open, { batch: 2 }))).toEqual([
      [2, 3],
      [2, 3],
      [1, 3],
    ]);
    expect(dimsOf(await read(npz([6, 3]), fixed))).toEqual([
      [2, 3],
      [2, 3],
      [2, 3],
    ]);
    expect(dimsOf(await read(npz([2, 3]), fixed))).toEqual([[2, 3]]);
    const stack = await read(npz([4, 2, 3]), fixed);
    expect(dimsOf(stack)).toEqual([
      [2, 3],
      [2, 3],
      [2, 3],
      [2, 3],
    ]);
    expect(Array.from(stack[3]?.["x"]?.data as Float32Array)).toEqual([18, 19, 20, 21, 22, 23]);
  });
  it("gives arrays of a wholly fixed input to every feed, and leaves others of the archive alone", async () => {
    const ids = new Tensor("int64", [1n, 2n, 3n, 4n, 5n, 6n], [3, 2]);
    const path = at(
      "ids.npz",
      npzBytes([
        ["ids", ids],
        ["rate", floats([1], 7)],
        ["labels", floats([3])],
      ]),
    );
    const feeds = await read(path, two);
    expect(dimsOf(feeds, "ids")).toEqual([
      [1, 2],
      [1, 2],
      [1, 2],
    ]);
    expect(feeds.map((f) => f["rate"]?.data[0])).toEqual([7, 7, 7]);
  });
  it("takes .npy for one input, and an .npz of one array without a name", async () => {
    expect(dimsOf(await read(at("one.npy", npyBytes(floats([2, 3]))), open))).toEqual([
      [1, 3],
      [1, 3],
    ]);
    expect(dimsOf(await read(at("anon.npz", npzBytes([["arr_0", floats([1, 3])]])), open))).toEqual([[1, 3]]);
  });
  it("takes folders: a file that fits is one feed, in the order of names; .npy named after inputs belong together", async () => {
    at("dir/b.npz", npzBytes([["x", floats([4, 3], 100)]]));
    at("dir/a.npy", npyBytes(floats([2, 3])));
    expect(dimsOf(await read(at("dir"), open))).toEqual([
      [2, 3],
      [4, 3],
    ]);
    expect(dimsOf(await read(at("dir"), fixed))).toEqual([
      [2, 3],
      [2, 3],
      [2, 3],
    ]);
    at("named/ids.npy", npyBytes(new Tensor("int64", [1n, 2n], [2, 1])));
    at("named/rate.npy", npyBytes(floats([1])));
    expect(dimsOf(await read(at("named"), two), "ids")).toEqual([
      [1, 1],
      [1, 1],
    ]);
  });
  it("copies what an iterable hands over, which may be filled again", async () => {
    function* same(): Generator<Feeds> {
      const x = floats([1, 3]);
      for (let i = 0; i < 3; i++) {
        (x.data as Float32Array).fill(i);
        yield { x };
      }
    }
    expect((await read(same(), open)).map((f) => f["x"]?.data[0])).toEqual([0, 1, 2]);
  });
});

describe("bad feeds are coded errors that say what to do", () => {
  const one = async (x: unknown): Promise<string> => await failure(read([{ x }] as Feeds[], open));
  it("P1602: names, types, dims", async () => {
    expect(await failure(read([{ X: floats([1, 3]) }], open))).toBe(
      "P1602 value 'X': feed 0: the graph has no input 'X'. Did you mean 'x'?",
    );
    expect(await failure(read([{}], open))).toBe("P1602 value 'x': feed 0: input 'x' is missing. Give every input in every feed.");
    expect(await one(floats([1, 4]))).toBe(
      "P1602 value 'x': feed 0: it is float32[1, 4], the graph takes float32[N, 3]. Feed tensors of those dims.",
    );
    expect(await one(new Tensor("float64", [1, 2, 3], [1, 3]))).toMatch(
      /^P1602 .* it is float64\[1, 3\], the graph takes float32\[N, 3\]\. Convert it before/,
    );
    expect(await one(floats([0, 3]))).toMatch(/^P1602 .* it is float32\[0, 3\]: empty\. Leave empty feeds out\.$/);
    expect(await one({ type: "float32", data: new Float32Array(0), dims: [1, 3] })).toMatch(
      /^P1602 .* has 0 elements\. Make dims and data agree; a buffer that was transferred is empty\.$/,
    );
    expect(await one(3)).toMatch(/^P1602 .* it is no tensor/);
    expect(await failure(read([null] as never, open))).toMatch(/^P1602 feed 0: it is not an object of tensors/);
  });
  it("P1603: NaN and infinities", async () => {
    expect(await one(new Tensor("float32", [1, Number.NaN, Number.POSITIVE_INFINITY], [1, 3]))).toBe(
      "P1603 value 'x': feed 0: 2 of 3 elements are not finite, the first is NaN at 1: ranges taken from such a feed mean nothing. Leave the feed out, or mend its preprocessing (a division by a zero deviation is the usual cause).",
    );
    const half: readonly FeedPort[] = [{ name: "x", type: "float16", dims: [2] }];
    expect(await failure(read([{ x: new Tensor("float16", Uint16Array.from([0x3c00, 0xfc00]), [2]) }], half))).toMatch(
      /^P1603 .* the first is -Infinity at 1/,
    );
  });
  it("takes infinities, and no NaN, where no quantizer reads: a mask spoils no range", async () => {
    const mask = [{ x: new Tensor("float32", [0, -Infinity, Infinity], [1, 3]) }];
    const port: FeedPort = { name: "x", type: "float32", dims: ["n", 3], infinite: true };
    expect(await read(mask, [port])).toHaveLength(1);
    expect(await failure(read([{ x: new Tensor("float32", [0, Number.NaN, -Infinity], [1, 3]) }], [port]))).toMatch(
      /^P1603 .* 1 of 3 elements are not finite, the first is NaN at 1/,
    );
    const half = new Tensor("float16", Uint16Array.from([0xfc00, 0x7c00]), [2]);
    expect(await read([{ x: half }], [{ name: "x", type: "float16", dims: [2], infinite: true }])).toHaveLength(1);
  });
  it("hears a signal between feeds that wait for nothing", async () => {
    function* endless() {
      for (;;) yield { x: floats([1, 3]) };
    }
    const controller = new AbortController();
    setTimeout(() => controller.abort(new Error("enough")), 5);
    await expect(collectFeeds(endless(), open, { signal: controller.signal })).rejects.toThrow("enough");
  });
  it("P1601, P1604 and remarks: empty, all the same, repeated, few", async () => {
    expect(await failure(collectFeeds([], open))).toMatch(/^P1601 the calibration data is empty\. Give at least one feed/);
    const same = [{ x: floats([1, 3]) }, { x: floats([1, 3]) }];
    expect(await failure(collectFeeds(same, open))).toMatch(
      /^P1604 all 2 feeds hold the same bytes: one buffer that is filled again .*\. Make a new tensor for each feed/,
    );
    const remarks: Remark[] = [];
    await collectFeeds([...same, { x: floats([1, 3], 9) }], open, { remarks: (r) => remarks.push(r) });
    expect(remarks.map((r) => r.text)).toEqual([
      "1 of 3 calibration feeds repeat earlier ones",
      "3 calibration samples are few: ranges may be too narrow for what comes later",
    ]);
  });
  it("P1605: files that do not serve", async () => {
    expect(await failure(read(at("none"), open))).toBe("P1605 /none: there is no such file or folder. Check the path.");
    expect(await failure(read(at("a.txt", "x"), open))).toMatch(/^P1605 \/a\.txt: it is neither an \.npz nor an \.npy nor a folder/);
    mkdirSync(at("hollow"));
    expect(await failure(read(at("hollow"), open))).toMatch(/^P1605 \/hollow: it holds no \.npz, \.npy or image/);
    at("mixed/a.npy", npyBytes(floats([1, 3])));
    at("mixed/a.png", "x");
    expect(await failure(read(at("mixed"), open))).toBe("P1605 /mixed: it holds 1 NumPy files and 1 images. Keep them in two folders.");
    expect(await failure(read(at("ids.npz"), open))).toBe(
      "P1605 /ids.npz: no array is named after an input: its arrays are 'ids', 'rate', 'labels', the inputs 'x'. Name the arrays after the inputs: np.savez(file, **{\"x\": array}).",
    );
    // One array serves one input only where it has no name of its own.
    expect(await failure(read(at("labels.npz", npzBytes([["labels", floats([4, 3])]])), open))).toMatch(
      /^P1605 \/labels\.npz: no array is named after an input: its arrays are 'labels', the inputs 'x'\. /,
    );
    expect(await failure(read(at("one.npy"), two))).toMatch(/^P1605 \/one\.npy: an \.npy feeds a graph with one input; this one has 2/);
    expect(await failure(read(at("5x3.npz"), fixed))).toMatch(/^P1605 \/5x3\.npz: array 'x' \[5, 3\] makes 2\.5 feeds\. Give whole feeds/);
  });
});

describe("stores", () => {
  const feeds = Array.from({ length: 20 }, (_, i) => ({ x: floats([1, 3], i * 10) }));
  const first = async (all: AsyncIterable<Feeds>): Promise<unknown[]> => {
    const list: unknown[] = [];
    for await (const f of all) list.push(f["x"]?.data[0]);
    return list;
  };
  it("read again, in order; on disk beyond the cap, and nothing is left of it", async () => {
    const { TMPDIR } = process.env;
    process.env["TMPDIR"] = folder;
    const spills = (): number => readdirSync(folder).filter((n) => n.startsWith("partita-feeds-")).length;
    const memory = await collectFeeds(feeds, open);
    const disk = await collectFeeds(feeds, open, { memoryBytes: 50 });
    expect(spills()).toBe(1);
    for (let round = 0; round < 2; round++) expect(await first(disk.all())).toEqual(await first(memory.all()));
    expect([disk.length, disk.hash]).toEqual([20, memory.hash]);
    await disk.dispose();
    await memory.dispose();
    expect(spills()).toBe(0);
    await expect(first(disk.all())).rejects.toThrow("the feed store was disposed");
    process.env["TMPDIR"] = join(folder, "gone");
    expect(await failure(collectFeeds(feeds, open, { memoryBytes: 0 }))).toMatch(
      /^P1608 the temporary file cannot be written: ENOENT.*\. Make room in the folder for temporary files \(TMPDIR\), or give fewer feeds\.$/,
    );
    if (TMPDIR === undefined) delete process.env["TMPDIR"];
    else process.env["TMPDIR"] = TMPDIR;
  });
  it("keeps strings on disk too", async () => {
    const words: readonly FeedPort[] = [{ name: "x", type: "string", dims: ["N"] }];
    const store = await collectFeeds([{ x: new Tensor("string", ["a", "é"], [2]) }, { x: new Tensor("string", ["b"], [1]) }], words, {
      memoryBytes: 0,
    });
    expect(await first(store.all())).toEqual(["a", "b"]);
    await store.dispose();
  });
  it("the hash and the split depend on content, not on order", async () => {
    const [a, b] = [await collectFeeds(feeds, open), await collectFeeds([...feeds].reverse(), open)];
    expect(b.hash).toBe(a.hash);
    const [[restA, heldA], [restB, heldB]] = [a.split(0.25), b.split(0.25)];
    expect([restA.length, heldA.length]).toEqual([15, 5]);
    expect((await first(heldA.all())).sort()).toEqual((await first(heldB.all())).sort());
    expect(restB.hash).toBe(restA.hash);
    expect(hashOfUnion([restA.hash, heldA.hash])).toBe(a.hash);
    expect(hashOfUnion(feeds.map(feedHash))).toBe(a.hash);
    expect((await first(a.split(0.001)[1].all())).length).toBe(1);
    expect(a.split(0)[1].length).toBe(0);
  });
});

describe("images", () => {
  const port: readonly FeedPort[] = [{ name: "image", type: "float32", dims: ["N", 3, 2, 2] }];
  const pixels = Uint8Array.from([255, 0, 51, 0, 255, 51, 0, 0, 0, 255, 255, 255]);
  const fake = (calls: string[]) => async () => (file: string) => {
    const image = new Proxy({} as never, {
      get: (_, method: string) =>
        method === "toBuffer"
          ? async () => ({ data: pixels, info: { width: 2, height: 2, channels: 3 } })
          : (...args: unknown[]) => {
              calls.push(`${method} ${JSON.stringify(args)}`);
              return image;
            },
    });
    calls.push(file);
    return image;
  };
  const feedsFrom = async (ports: readonly FeedPort[], p = {}, calls: string[] = []): Promise<Feeds[]> => {
    const all: Feeds[] = [];
    for await (const f of imageFeeds(["a.png"], ports, p, fake(calls))) all.push(f);
    return all;
  };
  it("are resized, cut and normalised as stated", async () => {
    const calls: string[] = [];
    const [feed] = await feedsFrom(port, { mean: [0, 0, 0.2], std: [1, 2, 1] }, calls);
    expect(calls).toEqual([
      "a.png",
      "removeAlpha []",
      'toColourspace ["srgb"]',
      'resize [2,2,{"fit":"cover","kernel":"linear"}]',
      'extract [{"left":0,"top":0,"width":2,"height":2}]',
      "raw []",
    ]);
    expect(feed?.["image"]?.dims).toEqual([1, 3, 2, 2]);
    expect(Array.from(feed?.["image"]?.data as Float32Array)).toEqual([
      1,
      0,
      0,
      1,
      0,
      0.5,
      0,
      0.5,
      0,
      0,
      expect.closeTo(-0.2, 6),
      expect.closeTo(0.8, 6),
    ]);
    expect(preprocessingText({ fit: "stretch" })).toBe("image stretch rgb (x / 255 - [0.485 0.456 0.406]) / [0.229 0.224 0.225]");
  });
  it("last channels, blue first, raw bytes", () => {
    const plan = {
      name: "i",
      type: "uint8",
      height: 2,
      width: 2,
      channels: 3,
      channelsLast: true,
      fit: "crop",
      order: "bgr",
      divide: 255,
      mean: [0, 0, 0],
      std: [1, 1, 1],
    } as const;
    expect(Array.from(inputOf(pixels, plan).data as Uint8Array).slice(0, 6)).toEqual([51, 0, 255, 51, 255, 0]);
  });
  it("P1606 without sharp, P1607 for what is no image input or no preprocessing", async () => {
    at("images/a.png", "no image");
    expect(await failure(read(at("images"), port))).toMatch(/^P160[67] /);
    const missing = imageFeeds(["a.png"], port, {}, async () => {
      const { sharpMissing } = await import("../../src/quantize/images.js");
      throw sharpMissing({ why: "Cannot find package 'sharp'" });
    });
    expect(await failure(missing.next())).toBe(
      "P1606 the package sharp does not load: Cannot find package 'sharp': images are decoded by it, and it is not installed with Partita. Npm install sharp, or give the images as arrays in an .npz.",
    );
    expect(await failure(feedsFrom(open))).toMatch(
      /^P1607 the graph's inputs are x: float32\[N, 3\]\. Images feed one float32 or uint8 input/,
    );
    expect(await failure(feedsFrom([{ name: "i", type: "float32", dims: ["N", 4, 5, 6] }]))).toMatch(
      /^P1607 value 'i': neither dim 1 nor dim 3/,
    );
    expect(await failure(feedsFrom([{ name: "i", type: "float32", dims: ["N", 3, "H", "W"] }]))).toMatch(
      /^P1607 value 'i': the graph leaves the image's size open/,
    );
    expect(await failure(feedsFrom(port, { std: [1, 0, 1] }))).toMatch(/^P1607 value 'image': std \[1, 0, 1\] does not fit 3 channels/);
    expect(await failure(feedsFrom(port, { divide: 0 }))).toMatch(/^P1607 value 'image': divide is 0/);
    expect(await failure(feedsFrom([{ name: "i", type: "float32", dims: [1, 3, 4, 4] }]))).toMatch(
      /^P1607 a\.png: it cannot be decoded: it became 2x2 with 3 channels/,
    );
  });
});
