/** The calibration file: round trip, shards in any order to the same bytes, what is refused; TensorRT's tables both ways. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import type { Remark } from "../../src/diagnostics.js";
import {
  type Calibration,
  COUNTING,
  calibrationText,
  checkCalibration,
  mergeCalibrations,
  parseCalibration,
  readCalibration,
  writeCalibration,
} from "../../src/quantize/calibration.js";
import { hashOfUnion } from "../../src/quantize/feeds.js";
import { ChannelObserver, Observer } from "../../src/quantize/histogram.js";
import { parseTable, readTable, TABLE_HEADER, tableText } from "../../src/quantize/table.js";

const folder = mkdtempSync(join(tmpdir(), "partita-calibration-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A calibration of one shard: data that its seed makes. */
function shard(i: number, of?: number): Calibration {
  const values = (k: number): Float32Array =>
    Float32Array.from({ length: 600 }, (_, j) => Math.sin(i * 977 + j * k) * 10 ** ((i * 5 + k) % 4));
  const observer = (k: number): Observer => {
    const o = new Observer();
    o.add(values(k));
    return o;
  };
  const channels = new ChannelObserver(1, 3);
  channels.add(values(2), 10);
  return {
    keys: { model: "ab".repeat(32), data: i.toString(16).padStart(64, "0"), preprocessing: "", version: COUNTING },
    feeds: 1,
    ...(of === undefined ? {} : { shards: { of, have: [i] } }),
    observations: new Map([
      ["z", observer(1).finish()],
      ["a: b", { ...observer(2).finish(), channels: channels.finish() }],
      ["none", new Observer().finish()],
    ]),
  };
}
const failure = (what: () => unknown): string => {
  try {
    what();
    return "no failure";
  } catch (error) {
    return (error as Error).message.replaceAll(folder, "");
  }
};
const merged = (list: readonly Calibration[]): Calibration =>
  mergeCalibrations(list.map((calibration, i) => ({ calibration, file: `${i}.json` })));

describe("the calibration file", () => {
  it("comes back as it was, and is replaced whole or not at all", () => {
    const path = join(folder, "c.json");
    writeCalibration(path, shard(1, 4));
    const back = readCalibration(path);
    expect([...back.observations].sort()).toStrictEqual([...shard(1, 4).observations].sort());
    expect({ ...back, observations: 0 }).toStrictEqual({ ...shard(1, 4), observations: 0 });
    expect(calibrationText(back)).toBe(readFileSync(path, "utf8"));
    expect(failure(() => writeCalibration(join(folder, "none/c.json"), shard(1)))).toMatch(
      /^P1609 \/none\/c\.json: it cannot be written: ENOENT.*a file that was there before is as it was\.$/,
    );
    expect(failure(() => writeCalibration(folder, shard(1)))).toMatch(/^P1609 /);
    expect(readdirSync(folder)).toEqual(["c.json"]);
  });
  it("16 shards merge to the same bytes in any order and grouping", () => {
    const shards = Array.from({ length: 16 }, (_, i) => shard(i + 1, 16));
    const whole = calibrationText(merged(shards));
    expect(JSON.parse(whole)).toMatchObject({ feeds: 16, keys: { data: hashOfUnion(shards.map((s) => s.keys.data)) } });
    expect(JSON.parse(whole)).not.toHaveProperty("shards");
    let s = 7;
    const next = (): number => {
      s = (s * 48271) % 2147483647;
      return s;
    };
    for (let order = 0; order < 8; order++) {
      const shuffled = shards.map((x) => ({ x, at: next() })).sort((a, b) => a.at - b.at);
      const list = shuffled.map(({ x }) => parseCalibration(calibrationText(x)));
      expect(calibrationText(merged(list))).toBe(whole);
      const halves = merged([merged(list.slice(0, 5)), merged(list.slice(5, 9)), ...list.slice(9)]);
      expect(calibrationText(halves)).toBe(whole);
    }
    expect(merged(shards.slice(3, 5)).shards).toEqual({ of: 16, have: [4, 5] });
    expect(calibrationText(merged([shard(1), shard(2)]))).toBe(calibrationText(merged([shard(2), shard(1)])));
  });
  it("P1610: damaged files", () => {
    const good = JSON.parse(calibrationText(shard(1))) as { tensors: Record<string, unknown>[]; keys: Record<string, unknown> };
    const broken = (change: (c: typeof good & Record<string, unknown>) => void): string => {
      const copy = structuredClone(good) as typeof good & Record<string, unknown>;
      change(copy);
      return failure(() => parseCalibration(JSON.stringify(copy), "c.json"));
    };
    const tensor = (changes: Record<string, unknown>): string => broken((c) => void Object.assign(c.tensors[0] as object, changes));
    expect(failure(() => parseCalibration("{", "c.json"))).toMatch(/^P1610 c\.json: it is not JSON/);
    expect(failure(() => readCalibration(join(folder, "none.json")))).toMatch(/^P1610 \/none\.json: it cannot be read: ENOENT/);
    expect(failure(() => parseCalibration("[]"))).toMatch(/^P1610 it is no calibration file\. Calibrate again/);
    expect(broken((c) => void (c["schema"] = "partita.calibration/9"))).toMatch(
      /its schema is 'partita\.calibration\/9', this version reads partita\.calibration\/1/,
    );
    expect(broken((c) => void (c.keys["data"] = "x"))).toMatch(/its key 'data' is not legal/);
    expect(broken((c) => void (c["feeds"] = -1))).toMatch(/its number of feeds is not legal/);
    expect(broken((c) => void (c["shards"] = { of: 2, have: [3] }))).toMatch(/its shards are not legal/);
    expect(broken((c) => void c.tensors.push(c.tensors[0] as Record<string, unknown>))).toMatch(/tensor 'a: b' is there twice/);
    expect(tensor({ min: 2, max: 1 })).toMatch(/tensor 'a: b': its range is not legal/);
    expect(tensor({ max: 1e30 })).toMatch(/its range lies outside its histogram/);
    expect(tensor({ exponent: 4000 })).toMatch(/its exponent is not legal/);
    expect(tensor({ count: 599 })).toMatch(/its histogram does not add up to its count/);
    expect(tensor({ zeros: 601 })).toMatch(/its counts are not legal/);
    expect(tensor({ counts: "AAA=" })).toMatch(/its histogram is damaged/);
    expect(tensor({ channels: { axis: 1, absmax: "AAAAAA==", high: "", low: "", counts: "" } })).toMatch(/its channels are damaged/);
  });
  it("P1611, P1612, P1613: stale, incomplete, of other tensors", () => {
    const c = shard(1);
    const wanted = { model: c.keys.model, names: ["z"] };
    checkCalibration(c, { ...wanted, preprocessing: "", data: c.keys.data });
    const refused = (w: object, of: Calibration = c): string => failure(() => checkCalibration(of, { ...wanted, ...w }, "c.json"));
    expect(refused({ model: "cd".repeat(32) })).toBe(
      "P1611 c.json: its model is abababababab..., here it is cdcdcdcdcdcd...: ranges hold for the model, the data, the preprocessing and the way of counting they were taken with. Calibrate this model: `partita calibrate MODEL --data DATA`.",
    );
    expect(refused({ preprocessing: "image crop" })).toMatch(/^P1611 c\.json: its preprocessing is none, here it is 'image crop'/);
    expect(refused({ data: "0".repeat(64) })).toMatch(/^P1611 c\.json: its data is 000000000000\.\.\., here it is 000000000000\.\.\./);
    expect(refused({}, { ...c, keys: { ...c.keys, version: "0" } })).toMatch(/^P1611 c\.json: its way of counting is '0', here it is '1'/);
    expect(refused({}, shard(1, 2))).toMatch(/^P1612 c\.json: it holds shards 1 of 2 alone\. Merge all shards first/);
    expect(refused({ names: ["q", "z"] })).toMatch(/^P1613 c\.json: 1 of the 2 tensors to quantize are not in it, the first is 'q'/);
  });
  it("P1612: what does not belong together", () => {
    const [a, b] = [shard(1, 4), shard(2, 4)];
    const other = (change: Partial<Calibration["keys"]>): string => failure(() => merged([a, { ...b, keys: { ...b.keys, ...change } }]));
    expect(failure(() => merged([]))).toMatch(/^P1612 there is nothing to merge/);
    expect(other({ model: "cd" })).toMatch(/^P1612 1\.json: its model is cd, that of '0\.json' is abab/);
    expect(other({ preprocessing: "p" })).toMatch(/its preprocessing is p, that of '0\.json' is none/);
    expect(failure(() => merged([a, shard(2, 5)]))).toMatch(
      /^P1612 1\.json: it is of 5 shards, '0\.json' is of 4\. Merge shards of one division/,
    );
    expect(failure(() => merged([a, shard(2)]))).toMatch(/^P1612 1\.json: it is whole, '0\.json' is of 4/);
    expect(failure(() => merged([a, b, a]))).toMatch(/^P1612 2\.json: shard 1\/4 is in '0\.json' too\. Name every shard once/);
    expect(failure(() => merged([shard(3), shard(3)]))).toMatch(/^P1612 1\.json: data 0{63}3 is in '0\.json' too/);
    expect(failure(() => merged([a, { ...b, observations: new Map() }]))).toMatch(/^P1612 1\.json: tensor 'z' is not in all of the files/);
  });
});

describe("TensorRT's calibration tables", () => {
  const table = "TRT-8601-EntropyCalibration2\ninput: 3c010a14\nlayer: 1: out: 3f800000\n(Unnamed Layer* 3) [Constant]_output: 00000000\n";
  it("are read: big-endian scales, names with colons", () => {
    const { header, ranges } = parseTable(table);
    expect(header).toBe("TRT-8601-EntropyCalibration2");
    expect([...ranges]).toEqual([
      ["input", expect.closeTo(1.000244, 6)],
      ["layer: 1: out", 127],
      ["(Unnamed Layer* 3) [Constant]_output", 0],
    ]);
  });
  it("are written as they were read", () => {
    expect(tableText(parseTable(table).ranges)).toBe(table);
    expect(tableText(new Map([["x", 127]]), "TRT-10000-MinMaxCalibration")).toBe("TRT-10000-MinMaxCalibration\nx: 3f800000\n");
    expect(TABLE_HEADER).toBe("TRT-8601-EntropyCalibration2");
  });
  it("serve a graph by its names", () => {
    const path = join(folder, "table");
    writeFileSync(path, table.replaceAll("\n", "\r\n"));
    const remarks: Remark[] = [];
    expect([...readTable(path, ["input", "other"], (r) => remarks.push(r)).ranges.keys()]).toEqual(["input"]);
    expect(remarks[0]?.text).toBe("2 of the table's 3 names are not among the tensors to quantize, the first is 'layer: 1: out'");
    expect(failure(() => readTable(path, ["inputs", "q"]))).toBe(
      "P1617 /table: none of its 3 names is a tensor of the graph; the first is 'input', the graph has 'inputs': tables go by the names of tensors, which change when a model is exported again. Use the table of this very model file, or calibrate with `partita calibrate`.",
    );
  });
  it("P1616: what is no table", () => {
    const bad = (text: string): string => failure(() => parseTable(text, "t"));
    expect(bad("")).toMatch(/^P1616 t: line 1: there is no header\. Write the table again with TensorRT/);
    expect(bad("x: 3f800000\n")).toMatch(/line 1: there is no header/);
    expect(bad("TRT\nx 3f800000\n")).toMatch(/line 2: 'x 3f800000' is not NAME: and eight hexadecimal digits/);
    expect(bad("TRT\nx: 7f800000\n")).toMatch(/line 2: the scale of 'x' is Infinity/);
    expect(bad("TRT\nx: bf800000\n")).toMatch(/line 2: the scale of 'x' is -1/);
    expect(bad("TRT\nx: 3f800000\nx: 3f800000\n")).toMatch(/line 3: 'x' is there twice/);
    expect(bad("TRT\n")).toMatch(/^P1616 t: it holds no tensor/);
    expect(failure(() => readTable(join(folder, "none"), []))).toMatch(/^P1616 \/none: it cannot be read: ENOENT/);
    expect(failure(() => tableText(new Map([["a\nb", 1]])))).toMatch(/^P1616 the name "a\\nb" has no place in a table/);
    expect(failure(() => tableText(new Map([["a", 1e42]])))).toMatch(/^P1616 the range of 'a' is 1e\+42/);
    expect(failure(() => tableText(new Map(), "a: b"))).toMatch(/^P1616 'a: b' is no header/);
  });
});
