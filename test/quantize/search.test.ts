/** The search for a configuration: what it tries, keeps, saves and stops at; bias correction; drift. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { compile } from "../../src/compile.js";
import { hostRunner } from "../../src/engines/host/runner.js";
import { parse } from "../../src/ir/parse.js";
import { typedOf } from "../../src/ir/payload.js";
import type { Constant, Graph } from "../../src/ir/types.js";
import { inferGraph } from "../../src/ops/infer.js";
import { biasShifts, correctBias } from "../../src/quantize/bias.js";
import { channelClasses, scaleChannels } from "../../src/quantize/channels.js";
import { driftOf } from "../../src/quantize/drift.js";
import { portsOf } from "../../src/quantize/feeds.js";
import { observe } from "../../src/quantize/observe.js";
import { place, quantizable } from "../../src/quantize/place.js";
import { rangesOf } from "../../src/quantize/ranges.js";
import { learnRounding } from "../../src/quantize/rounding.js";
import { outputsOf, scoreOf } from "../../src/quantize/score.js";
import { collectFeeds } from "../../src/quantize/store.js";
import type { FeedStore } from "../../src/quantize/types.js";
import { generator } from "../../src/runtime/measure.js";
import { Tensor } from "../../src/tensor.js";

const folder = mkdtempSync(join(tmpdir(), "partita-search-"));
afterAll(() => rmSync(folder, { recursive: true }));

const next = generator(11);
const normal = (): number => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
const weights = (name: string, fan: number, ...dims: number[]): string =>
  `const %${name} = float32[${dims.join(", ")}] [${Array.from({ length: dims.reduce((a, d) => a * d, 1) }, () => (normal() / Math.sqrt(fan)).toFixed(5)).join(", ")}]`;
/** Two convolutions and a head of ten classes. */
const network = inferGraph(
  parse(`graph "net" opset {"": 18} (%x: float32[n, 16, 6, 6]) -> (%y) {
    ${weights("w0", 144, 24, 16, 3, 3)}
    ${weights("b0", 24, 24)}
    ${weights("w1", 216, 24, 24, 3, 3)}
    ${weights("b1", 24, 24)}
    ${weights("w2", 24, 24, 32)}
    ${weights("b2", 24, 32)}
    %c0 = Conv(%x, %w0, %b0) {pads = [1, 1, 1, 1]} @"first"
    %r0 = Relu(%c0)
    %c1 = Conv(%r0, %w1, %b1) {pads = [1, 1, 1, 1]} @"second"
    %r1 = Relu(%c1)
    %p = GlobalAveragePool(%r1)
    %f = Flatten(%p)
    %y = Gemm(%f, %w2, %b2) @"head"
  }`),
).graph;
const classifier = (): Graph => network;
const feeds = (count: number) =>
  Array.from({ length: count }, () => ({ x: new Tensor("float32", Float32Array.from({ length: 576 }, normal), [1, 16, 6, 6]) }));
const data = feeds(60);

/** The same function with channels scaled apart by up to a thousand. */
function hurt(g: Graph): Graph {
  const random = generator(3);
  const chosen = channelClasses(g, inferGraph(g).facts).map((of) => ({
    of,
    factors: Float64Array.from({ length: of.channels }, () => 1000 ** (random() - 0.5)),
  }));
  expect(chosen.length).toBe(2);
  return scaleChannels(g, chosen);
}

describe("the search", () => {
  it("finds the equalization that a model with channels far apart needs, and says what it tried", async () => {
    const { report } = await compile(hurt(classifier()), { precision: "int8", calibration: { data } });
    const q = report.data.quantization;
    if (q === undefined) throw new Error("the report has nothing on quantization");
    expect(q.feeds).toEqual({ calibration: 60, held: 30 });
    expect(q.configuration).toContain("equalized");
    const plain = q.trials.filter((t) => !t.name.includes("equalized")).map((t) => t.loss ?? Number.POSITIVE_INFINITY) ?? [];
    expect(q.loss).toBeLessThan(Math.min(...plain) / 20);
    expect(q.trials.filter((t) => t.kept).at(-1)?.name).toBe(q.configuration);
    expect(q.tensors.map((t) => t.name).sort()).toEqual(
      ["r0", "r1", "x"]
        .sort()
        .concat(q.tensors.length > 3 ? ["f", "p"] : [])
        .sort(),
    );
    expect(report.toText()).toContain("(best so far)");
    expect(report.toHTML()).toContain('id="trials"');
  });
  it("gives the same configuration and the same scales whatever the order of the feeds", async () => {
    const g = classifier();
    const once = await compile(g, { precision: "int8", calibration: { data } });
    const again = await compile(g, { precision: "int8", calibration: { data: [...data].reverse() } });
    expect(again.report.data.quantization).toEqual(once.report.data.quantization);
  });
  it("saves every trial, goes on from them, and leaves nothing half-written", async () => {
    const trials = join(folder, "trials.json");
    const first = await compile(classifier(), { precision: "int8", calibration: { data, trials, budgetSeconds: 0 } });
    expect(first.report.data.quantization?.trials).toHaveLength(1);
    expect(first.report.data.quantization?.stopped).toMatch(/time for trials, 0 s/);
    const saved = JSON.parse(readFileSync(trials, "utf8"));
    expect(saved.trials).toHaveLength(1);
    // A loss that no run would give: it is taken over, not measured anew.
    saved.trials[0].loss = 1e-9;
    writeFileSync(trials, JSON.stringify(saved));
    const second = await compile(classifier(), { precision: "int8", calibration: { data, trials } });
    expect(second.report.data.quantization?.trials[0]?.loss).toBe(1e-9);
    expect(second.report.data.quantization?.trials.length).toBeGreaterThan(5);
    expect(readdirSync(folder)).toEqual(["trials.json"]);
  });
  it("refuses trials of another search, and files that are none: P1650", async () => {
    const trials = join(folder, "other.json");
    await compile(classifier(), { precision: "int8", calibration: { data, trials, method: "max" } });
    const fails = (path: string, options: object) =>
      expect(compile(classifier(), { precision: "int8", calibration: { data, trials: path, ...options } })).rejects.toMatchObject({
        code: "P1650",
      });
    await fails(trials, { method: "mse" });
    const broken = join(folder, "broken.json");
    for (const text of ["{", "{}", '{"schema":"partita.trials/1","key":"","trials":[{"name":1}]}']) {
      writeFileSync(broken, text);
      await fails(broken, {});
    }
    expect(existsSync(broken)).toBe(true);
  });
  it("leaves layers float where agreement is lost and the share allows it, and not where it does not", async () => {
    // One channel is 3000 times the others and weighs a 3000th: neither its tensor nor its weights have levels for the rest, and Tanh holds
    // equalization off.
    const g = parse(`graph "net" opset {"": 18} (%x: float32[n, 32]) -> (%y) {
      const %a = float32[32, 32] [${Array.from({ length: 1024 }, (_, i) => (i % 33 === 0 ? (i === 0 ? 3000 : 1) : 0)).join(", ")}]
      const %b = float32[32, 32] [${Array.from({ length: 1024 }, (_, i) => (i < 32 ? normal() / 3000 : normal() / 3).toFixed(8)).join(", ")}]
      const %c = float32[32, 32] [${Array.from({ length: 1024 }, () => (normal() / 60).toFixed(5)).join(", ")}]
      %u = MatMul(%x, %a) @"stretch"
      %v = Tanh(%u)
      %w = MatMul(%u, %b) @"wide"
      %s = Sigmoid(%w)
      %z = MatMul(%v, %c) @"plain"
      %y = Add(%s, %z)
    }`);
    const rows = Array.from({ length: 50 }, () => ({ x: new Tensor("float32", Float32Array.from({ length: 32 }, normal), [1, 32]) }));
    const options = { data: rows, maxDrop: 0 };
    const kept = (await compile(g, { precision: "int8", calibration: { ...options, maxFloatShare: 0.5 } })).report.data.quantization;
    const bound = (await compile(g, { precision: "int8", calibration: { ...options, maxFloatShare: 0 } })).report.data.quantization;
    expect(bound?.configuration).not.toContain("float:");
    expect(bound?.trials.some((t) => t.name.includes("float: "))).toBe(true);
    expect(bound?.shortfall).toMatch(
      /^about \d+\.\d points of agreement are lost, 0 were allowed; maxFloatShare 0 allows no more float layers/,
    );
    expect(kept?.configuration).toContain("float: ");
    expect(kept?.loss ?? 1).toBeLessThan(bound?.loss ?? 0);
    // Int8 wins less than a call costs: the share that is allowed without a word, a tenth, is less than one of the layers, and a half is given.
    const small = (await compile(g, { precision: "int8", calibration: options })).report.data.quantization;
    expect(
      small?.configuration
        .split("float: ")[1]
        ?.split(", ")
        .filter((name) => name !== "stretch"),
    ).toHaveLength(1);
  });
  it("scales the inputs of a model whose features differ in size, and goes on from trials that did", async () => {
    const sizes = Array.from({ length: 24 }, (_, i) => 1000 ** ((i % 4) / 3));
    const table = parse(`graph "table" opset {"": 18} (%x: float32[n, 24]) -> (%y) {
      const %w = float32[24, 32] [${Array.from({ length: 768 }, (_, i) => (normal() / (sizes[Math.floor(i / 32)] ?? 1)).toFixed(6)).join(", ")}]
      ${weights("v", 32, 32, 16)}
      %h = MatMul(%x, %w) @"first"
      %t = Tanh(%h)
      %y = MatMul(%t, %v) @"second"
    }`);
    const rows = Array.from({ length: 40 }, () => ({
      x: new Tensor(
        "float32",
        Float32Array.from(sizes, (s) => s * normal()),
        [1, 24],
      ),
    }));
    const trials = join(folder, "inputs.json");
    const calibration = { data: rows, trials, maxFloatShare: 0 };
    const { report } = await compile(table, { precision: "int8", calibration });
    const q = report.data.quantization;
    expect(q?.configuration).toMatch(/inputs scaled, alpha (0\.5|0\.75|1)/);
    expect(report.data.nodes.map((n) => n.op)).toContain("Mul");
    const plain = q?.trials.filter((t) => !t.name.includes("inputs")).map((t) => t.loss ?? Number.POSITIVE_INFINITY) ?? [];
    expect(q?.loss).toBeLessThan(Math.min(...plain) / 4);
    // All that was tried is in the file: no time is needed to come to the same end.
    const again = await compile(table, { precision: "int8", calibration: { ...calibration, budgetSeconds: 0 } });
    expect(again.report.data.quantization?.configuration).toBe(q?.configuration);
    expect(again.report.data.quantization?.trials).toEqual(q?.trials);
  });
  it("spends a time budget on float layers even where nothing is lost, and no more than the budget", async () => {
    const floats = async (maxSlowdown: number) => {
      const { report } = await compile(classifier(), { precision: "int8", calibration: { data, maxSlowdown } });
      return report.data.quantization?.configuration.split("float: ")[1]?.split(", ") ?? [];
    };
    // The head is so small that int8 makes it no faster.
    expect(await floats(1)).toEqual(["head"]);
    expect((await floats(10)).length).toBeGreaterThan(1);
  });
  it("tells which feed, which trial and the best one so far", async () => {
    const details: string[] = [];
    await compile(classifier(), {
      precision: "int8",
      calibration: { data: data.slice(0, 20), maxFloatShare: 0 },
      onProgress: ({ stage, detail }) => stage === "calibrate" && detail !== undefined && details.push(detail),
    });
    expect(details[0]).toBe("ranges of the first trial from feed 1 of 10");
    const trials = details.filter((d) => d.startsWith("trial"));
    expect(trials.length).toBeGreaterThan(2);
    for (const [i, t] of trials.entries())
      expect(t).toMatch(new RegExp(`^trial ${i + 1}, best so far '.+' \\(expected agreement \\d+\\.\\d\\d %\\)$`));
    expect(details.at(-1)).toBe("ranges from feed 20 of 20");
  });
  it("ends when its signal is aborted", async () => {
    const controller = new AbortController();
    const done = compile(classifier(), {
      precision: "int8",
      calibration: { data },
      signal: controller.signal,
      onProgress: ({ stage }) => stage === "calibrate" && controller.abort(new Error("enough")),
    });
    await expect(done).rejects.toThrow("enough");
  });
  it("is left out on request", async () => {
    const { report } = await compile(classifier(), { precision: "int8", calibration: { data, search: "none", method: "max" } });
    expect(report.data.quantization).toMatchObject({ configuration: "max", trials: [], tensors: [] });
  });
});

const facts = (g: Graph) => inferGraph(g).facts;
async function parts(g: Graph, method: "max" | "entropy") {
  const store = (await collectFeeds(data, portsOf(g), {})) as FeedStore;
  const runner = hostRunner({ threads: 1 });
  const observations = await observe(g, quantizable(g, facts(g)), store.all(), runner);
  const outputs = async (graph: Graph) => {
    const open = await runner.open(graph);
    const out = await outputsOf(open, store);
    await open.dispose();
    return out;
  };
  return { store, runner, observations, ranges: rangesOf(g, observations, method), outputs };
}

describe("bias correction", () => {
  it("brings back the means that clipping moves", async () => {
    const g = classifier();
    const { store, runner, ranges, outputs } = await parts(g, "max");
    // Ranges cut to a third clip every layer on one side.
    const cut = new Map([...ranges].map(([name, r]) => [name, r / 3]));
    const corrected = correctBias(g, await biasShifts(g, facts, cut, store, runner));
    const expected = await outputs(g);
    const before = scoreOf(expected, await outputs(place(g, facts(g), cut).graph));
    const after = scoreOf(expected, await outputs(place(corrected, facts(corrected), cut).graph));
    expect(after.loss).toBeLessThan(before.loss / 2);
  });
  it("is for layers that are quantized: one that stays float keeps its bias", async () => {
    const g = classifier();
    const { store, runner, ranges } = await parts(g, "max");
    const shifts = await biasShifts(g, facts, ranges, store, runner);
    const biases = (graph: Graph) => graph.nodes.filter((n) => n.ins.length === 3).map((n) => n.ins[2]);
    const [before, all, some] = [g, correctBias(g, shifts), correctBias(g, shifts, (n) => n.name !== "second")].map(biases);
    expect(all?.map((v, i) => v === before?.[i])).toEqual([false, false, false]);
    expect(some?.map((v, i) => v === before?.[i])).toEqual([false, true, false]);
    expect(correctBias(g, shifts, () => false)).toBe(g);
  });
  it("leaves a graph without quantized layers alone", async () => {
    const g = classifier();
    const { store, runner } = await parts(g, "max");
    expect(correctBias(g, await biasShifts(g, facts, new Map(), store, runner))).toBe(g);
  });
});

describe("rounding by layers' outputs", () => {
  it("is never further from the layer's float output than the nearest, and within a step of it", async () => {
    const g = classifier();
    const { store, runner, ranges, outputs } = await parts(g, "max");
    const rounded = await learnRounding(g, facts, ranges, store, runner);
    expect([...rounded.keys()]).toHaveLength(3);
    const expected = await outputs(g);
    const nearest = place(g, facts(g), ranges);
    const learnt = place(g, facts(g), ranges, { rounded });
    // Noise over signal at every layer: the outputs of the layers, not the classes.
    for (const name of ["c0", "c1"]) {
      const v = g.values.find((x) => x?.name === name)?.id;
      if (v === undefined) throw new Error(name);
      const at = (graph: Graph) => ({ ...graph, outputs: [v] });
      const wanted = await outputs(at(g));
      const [a, b] = [scoreOf(wanted, await outputs(at(nearest.graph))), scoreOf(wanted, await outputs(at(learnt.graph)))];
      console.log(name, "noise over signal, nearest:", a.loss, "learnt:", b.loss);
      expect(b.loss).toBeLessThan(a.loss);
    }
    expect(scoreOf(expected, await outputs(learnt.graph)).loss).toBeLessThan(1e-2);
    for (const d of nearest.decisions.filter((x) => x.kind === "weight")) {
      const steps = rounded.get(d.reader as never);
      const w = typedOf(g.constants.get(d.value) as Constant) as Float32Array;
      const inner = w.length / d.scales.length;
      // Gemm's weight has its output channels last.
      const scale = (i: number): number => d.scales[d.axis === 0 ? Math.floor(i / inner) : i % d.scales.length] as number;
      w.forEach((x, i) => expect(Math.abs((steps?.[i] ?? 999) - x / scale(i))).toBeLessThan(1.001));
    }
  });
});

describe("drift", () => {
  it("is the quantizer's own noise at the first tensor, and more behind it", async () => {
    const g = classifier();
    const { store, runner, observations, ranges } = await parts(g, "max");
    const placed = place(g, facts(g), ranges);
    const drift = await driftOf(g, placed, observations, store, runner, { feeds: 4 });
    expect(drift.feeds).toBe(4);
    const x = drift.tensors.find((t) => t.name === "x");
    // By hand: x / s rounded to even, s the float32 that the graph holds.
    const scale = placed.decisions.find((d) => d.name === "x")?.scales[0] ?? 0;
    let [signal, noise] = [0, 0];
    for await (const feed of store.split(4 / store.length)[1].all()) {
      for (const v of (feed["x"] as Tensor).data as Float32Array) {
        const q = Math.max(-128, Math.min(127, Math.round(v / scale))) * scale;
        signal += v * v;
        noise += (v - q) ** 2;
      }
    }
    expect(x?.localSqnr).toBeCloseTo(10 * Math.log10(signal / noise), 3);
    expect(x?.accumulatedSqnr).toBeUndefined();
    const later = drift.tensors.find((t) => t.name === "r1");
    expect(later?.accumulatedSqnr).toBeLessThan(later?.localSqnr ?? 0);
    expect(later?.cosine).toBeGreaterThan(0.999);
    expect(x?.clipped).toBe(0);
    expect(x?.ranges.max).toBeCloseTo(x?.absmax ?? 0, 12);
    expect(drift.weights.map((w) => w.node)).toEqual(["first", "second", "head"]);
    for (const w of drift.weights) expect(w.sqnr).toBeGreaterThan(35);
  });
});
