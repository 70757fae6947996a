/** Observation on ONNX Runtime: counted in worker threads or here, the same; bit-identical in any order, batch and shard; what is refused. */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { calibrate } from "../../src/calibrate.js";
import type { Remark } from "../../src/diagnostics.js";
import { hostRunner } from "../../src/engines/host/runner.js";
import { parse as parseText } from "../../src/ir/parse.js";
import type { Graph, ValueId } from "../../src/ir/types.js";
import { npzBytes } from "../../src/npz.js";
import { inferGraph } from "../../src/ops/infer.js";
import { calibrationText, mergeCalibrations, readCalibration } from "../../src/quantize/calibration.js";
import { channelMeans, type Observation, type Observations, Observer } from "../../src/quantize/histogram.js";
import { type ObserveOptions, observe } from "../../src/quantize/observe.js";
import type { Feeds, Runner } from "../../src/quantize/types.js";
import { Tensor } from "../../src/tensor.js";

const folder = mkdtempSync(join(tmpdir(), "partita-observe-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const parse = (text: string): Graph => inferGraph(parseText(text)).graph;
const TEXT = `graph "net" opset {"": 18} (%x: float32[N, 16, 5, 5]) -> (%y) {
  const %w = float32[16, 16, 3, 3] [${Array.from({ length: 2304 }, (_, i) => ((i * 37) % 19) / 10 - 0.9).join(", ")}]
  %c = Conv(%x, %w) @"conv"
  %r = Relu(%c) @"relu"
  %y = GlobalAveragePool(%r) @"pool"
}`;
const net = parse(TEXT);
const id = (g: Graph, name: string): ValueId => {
  const found = g.values.find((v) => v?.name === name);
  if (found === undefined) throw new Error(name);
  return found.id;
};
const SIZE = 16 * 25;
const sample = (i: number): Float32Array => Float32Array.from({ length: SIZE }, (_, j) => Math.sin(i * 13 + j * j) * (1 + i));
const feedsOf = (list: readonly number[], batch = 1): Feeds[] => {
  const feeds: Feeds[] = [];
  for (let at = 0; at < list.length; at += batch) {
    const rows = list.slice(at, at + batch);
    const data = new Float32Array(rows.length * SIZE);
    rows.forEach((i, k) => void data.set(sample(i), k * SIZE));
    feeds.push({ x: new Tensor("float32", data, [rows.length, 16, 5, 5]) });
  }
  return feeds;
};
const all = Array.from({ length: 24 }, (_, i) => i);
const text = (seen: Observations): string =>
  calibrationText({ keys: { model: "", data: "", preprocessing: "", version: "" }, feeds: 0, observations: seen });
const run = (
  feeds: Iterable<Feeds>,
  options: ObserveOptions = {},
  runner: Runner = hostRunner(),
  names = ["x", "r", "c"],
): Promise<Observations> =>
  observe(
    net,
    names.map((n) => id(net, n)),
    feeds,
    runner,
    options,
  );
const plain = (): Runner => {
  const { open } = hostRunner();
  return { open };
};
const failure = async (what: Promise<unknown>): Promise<string> =>
  await what.then(
    () => "no failure",
    (error: Error) => error.message.replaceAll(folder, ""),
  );

describe("observe", () => {
  it("counts what ONNX Runtime computes, the graph's inputs too", async () => {
    const seen = await run(feedsOf(all));
    const graph = { ...net, outputs: [id(net, "r")] };
    const model = await hostRunner().open(graph);
    const [x, r] = [new Observer(), new Observer()];
    for (const f of feedsOf(all)) {
      x.add(f["x"]?.data as Float32Array);
      r.add((await model.run(f))["r"]?.data as Float32Array);
    }
    await model.dispose();
    expect([...seen.keys()]).toEqual(["x", "r", "c"]);
    expect(seen.get("x")).toStrictEqual(x.finish());
    expect(seen.get("r")).toStrictEqual(r.finish());
    expect(seen.get("r")?.zeros).toBeGreaterThan(0);
  });
  it("is bit-identical in any order and batch, on one thread or two, in worker threads or in this one", async () => {
    const channels = new Map([
      [id(net, "r"), 1],
      [id(net, "x"), -1],
    ]);
    const whole = text(await run(feedsOf(all), { channels }));
    expect(text(await run(feedsOf([...all].reverse(), 5), { channels }))).toBe(whole);
    expect(text(await run(feedsOf(all, 24), { channels }, hostRunner({ threads: 1 })))).toBe(whole);
    expect(text(await run(feedsOf(all, 7), { channels }, plain()))).toBe(whole);
  });
  it("gives channels their ranges and means", async () => {
    const seen = await run(feedsOf(all, 3), { channels: new Map([[id(net, "x"), 1]]) });
    const c = (seen.get("x") as Observation).channels;
    if (c === undefined) throw new Error("no channels");
    const values = all.flatMap((i) => Array.from(sample(i).subarray(25, 50)));
    expect(c.absmax[1]).toBe(Math.max(...values.map(Math.abs)));
    expect(channelMeans(c)[1]).toBeCloseTo(values.reduce((a, v) => a + v, 0) / values.length, 8);
    expect(Array.from(c.counts)).toEqual(new Array(16).fill(600));
    expect((seen.get("r") as Observation).channels).toBeUndefined();
  });
  it("copes with dims that change from feed to feed, and with those that depend on the data", async () => {
    const g = parse(`graph "odd" opset {"": 18} (%x: float32[N]) -> (%y) {
      %i = NonZero(%x) @"where"
      %t = Transpose(%i) {perm = [1, 0]} @"turn"
      %y = GatherND(%x, %t) @"pick"
    }`);
    const lists = [
      [1, 0, 2],
      [3, 0, 0],
      [4, 5, 6],
      [7, 8, 0, 9],
      [0, 1, 1],
      [0, 0, 2],
    ];
    const feeds = lists.map((l) => ({ x: new Tensor("float32", l, [l.length]) }));
    const y = new Observer();
    for (const l of lists) y.add(Float32Array.from(l.filter((v) => v !== 0)));
    const seen = await observe(g, [id(g, "y")], feeds, hostRunner({ threads: 1 }));
    expect(seen.get("y")).toStrictEqual(y.finish());
  });
  it("tells how far it is, and hands over what it has seen now and then", async () => {
    const progress: (number | undefined)[][] = [];
    const saved: { done: number; count: number | undefined }[] = [];
    await run(feedsOf(all), {
      total: 24,
      onProgress: (p) => progress.push([p.done, p.total]),
      checkpointSeconds: 0,
      onCheckpoint: (seen, done) => void saved.push({ done, count: seen.get("x")?.count }),
    });
    expect(progress.map(([done]) => done)).toEqual(all.map((i) => i + 1));
    expect(saved.length).toBeGreaterThan(5);
    for (const s of saved) expect(s.count).toBe(SIZE * s.done);
  });
  it("P1614, P1615, P1601 and a remark: constants, integers, nothing finite, no feeds, some infinities", async () => {
    expect(await failure(observe(net, [id(net, "w")], feedsOf(all), hostRunner()))).toMatch(
      /^P1614 value 'w': it is a constant\. Take its range from its values/,
    );
    const g = parse('graph "g" opset {"": 18} (%x: float32[2], %n: int64[2]) -> (%y, %l) { %y = Log(%x)\n %l = Neg(%n) }');
    const feed = (a: number, b: number): Feeds[] => [{ x: new Tensor("float32", [a, b], [2]), n: new Tensor("int64", [1n, 2n], [2]) }];
    expect(await failure(observe(g, [id(g, "n")], feed(1, 1), hostRunner()))).toMatch(
      /^P1614 value 'n': it is int64\. Observe float32, float16 and float64/,
    );
    expect(await failure(observe(g, [id(g, "y")], feed(-1, 0), hostRunner()))).toMatch(
      /^P1615 value 'y': all of its 2 elements were NaN or infinite: there is no range/,
    );
    expect(await failure(run([]))).toMatch(/^P1601 /);
    const remarks: Remark[] = [];
    await observe(g, [id(g, "y")], feed(1, 0), hostRunner(), { remarks: (r) => remarks.push(r) });
    expect(remarks[0]?.text).toBe("1 of 2 elements of 'y' were NaN or infinite during calibration; its range is that of the others");
    expect(await run(feedsOf(all), {}, hostRunner(), [])).toEqual(new Map());
  });
  it("stops at the first failure and at the signal", async () => {
    const bad = [...feedsOf([1, 2]), { x: new Tensor("float32", new Float32Array(5), [1, 1, 1, 5]) }, ...feedsOf([3])];
    expect(await failure(run(bad))).toMatch(/^P2002 /);
    const controller = new AbortController();
    function* endless(): Generator<Feeds> {
      for (let i = 0; ; i++) {
        if (i === 5) controller.abort(new Error("enough"));
        yield feedsOf([i])[0] as Feeds;
      }
    }
    expect(await failure(run(endless(), { signal: controller.signal }))).toBe("enough");
  });
});

describe("calibrate", () => {
  const data = join(folder, "data.npz");
  const rows = new Float32Array(24 * SIZE);
  for (const i of all) rows.set(sample(i), i * SIZE);
  writeFileSync(data, npzBytes([["x", new Tensor("float32", rows, [24, 16, 5, 5])]]));
  const quiet = { onRemark: () => {} };

  it("16 shards in any order merge to the bytes of the whole", async () => {
    const whole = await calibrate(net, { data }, quiet);
    expect(whole.calibration.feeds).toBe(24);
    expect([...whole.calibration.observations.keys()]).toContain("x");
    const shards = [];
    for (let index = 16; index >= 1; index--) {
      const { calibration } = await calibrate(net, { data, shard: { index, of: 16 } }, quiet).catch(async (error: Error) => {
        throw new Error(`shard ${index}: ${error.message}`);
      });
      shards.push({ calibration });
    }
    for (const order of [shards, [...shards].reverse(), [...shards.slice(7), ...shards.slice(0, 7)]])
      expect(calibrationText(mergeCalibrations(order))).toBe(calibrationText(whole.calibration));
  });
  it("goes on where it was interrupted; what it kept is of no use when the data has changed", async () => {
    const whole = calibrationText((await calibrate(net, { data }, quiet)).calibration);
    const checkpoint = join(folder, "c.json.partial");
    const interrupt = async (): Promise<void> => {
      const controller = new AbortController();
      const stopped = calibrate(
        net,
        { data, checkpoint, onProgress: ({ done }) => void (done === 9 && controller.abort(new Error("stop"))) },
        { ...quiet, signal: controller.signal },
      );
      expect(await failure(stopped)).toBe("stop");
    };
    await interrupt();
    const kept = readCalibration(checkpoint);
    expect(kept.feeds).toBeGreaterThanOrEqual(9);
    expect(kept.feeds).toBeLessThan(24);
    const resumed = await calibrate(net, { data, checkpoint }, quiet);
    expect(resumed.resumed).toBe(kept.feeds);
    expect(calibrationText(resumed.calibration)).toBe(whole);

    const other = join(folder, "other.npz");
    writeFileSync(
      other,
      npzBytes([
        [
          "x",
          new Tensor(
            "float32",
            rows.map((v) => v + 1),
            [24, 16, 5, 5],
          ),
        ],
      ]),
    );
    const remarks: string[] = [];
    const anew = await calibrate(net, { data: other, checkpoint }, { onRemark: (r) => remarks.push(r.text) });
    expect(anew.resumed).toBe(0);
    expect(remarks).toContain("the interrupted calibration is not used, a new one starts: the data has changed");
    writeFileSync(checkpoint, "{");
    await calibrate(net, { data, checkpoint }, { onRemark: (r) => remarks.push(r.text) });
    expect(remarks.at(-2)).toMatch(/^the interrupted calibration is not used, a new one starts: it is not JSON/);
    expect(existsSync(checkpoint)).toBe(true);
  });
  it("refuses shards that are none, models with quantizers and models without products", async () => {
    expect(await failure(calibrate(net, { data, shard: { index: 3, of: 2 } }))).toMatch(/^P1001 option 'shard' is 3\/2/);
    const relu = parse('graph "r" opset {"": 18} (%x: float32[2]) -> (%y) { %y = Relu(%x) }');
    expect(await failure(calibrate(relu, { data }))).toMatch(/^P1633 /);
    const qdq = parse(`graph "q" opset {"": 18} (%x: float32[2]) -> (%y) {
      const %s = float32[] [0.5]
      const %z = int8[] [0]
      %q = QuantizeLinear(%x, %s, %z)
      %y = DequantizeLinear(%q, %s, %z)
    }`);
    expect(await failure(calibrate(qdq, { data }))).toMatch(/^P1001 option 'model' carries quantizers of its own/);
  });
});
