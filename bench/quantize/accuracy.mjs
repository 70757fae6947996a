// INT8 against FP32 on trained models, both through compile() on the host engine: top-1, agreement, signal to noise, time.
//
//   node bench/quantize/accuracy.mjs DATA [--search auto|none] [--method auto|max|mse|...] [--only NAME] [--stamps FOLDER] [--record NAME] [--feeds FOLDER]
//
// DATA holds the unpacked sets digits, real and real_tf. --feeds writes the calibration and test feeds of each model as .npz, for peers.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { compile, Tensor, writeNpz } from "../../dist/index.js";
import { record } from "../record.mjs";
import { models } from "./models.mjs";
import { argmax, interval, points } from "./score.mjs";

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    search: { type: "string" },
    method: { type: "string" },
    only: { type: "string" },
    stamps: { type: "string" },
    record: { type: "string" },
    feeds: { type: "string" },
  },
});
const [data] = positionals;
if (data === undefined)
  throw new Error(
    "usage: accuracy.mjs DATA [--search auto|none] [--method NAME] [--only NAME] [--stamps FOLDER] [--record NAME] [--feeds FOLDER]",
  );

async function outputs(program, feeds) {
  const session = await program.createSession({ threads: 1 });
  const [{ name }] = session.outputs;
  const own = session.inputs[0].name;
  const results = [];
  const start = performance.now();
  for (const feed of feeds) results.push((await session.run({ [own]: Object.values(feed)[0] }))[name].data);
  const ms = (performance.now() - start) / feeds.length;
  await session.dispose();
  return { results, ms };
}
const percent = (part, all) => points((100 * part) / all);

/** How much more probable the largest output is than the next, by softmax where the outputs are logits. */
function lead(x, best) {
  const most = x[best];
  const sum = x.reduce((a, v) => a + v, 0);
  const p = x.every((v) => v >= 0) && Math.abs(sum - 1) < 1e-3 ? [...x] : [...x].map((v) => Math.exp(v - most));
  const all = p.reduce((a, v) => a + v, 0);
  return (p[best] - Math.max(...p.filter((_, i) => i !== best))) / all;
}

const found = [];
for (const m of models(data, { only: flags.only, stamps: flags.stamps })) {
  const remarks = [];
  try {
    const float = await compile(m.path, { target: "host", ...m.options });
    const input = float.inputs[0].name;
    const calibration = { data: m.calibration.map((f) => ({ [input]: Object.values(f)[0] })) };
    if (flags.search !== undefined) calibration.search = flags.search;
    if (flags.method !== undefined) calibration.method = flags.method;
    const start = performance.now();
    const int8 = await compile(m.path, {
      target: "host",
      ...m.options,
      precision: "int8",
      calibration,
      onRemark: (r) => remarks.push(r.text),
    });
    const seconds = (performance.now() - start) / 1000;
    const [a, b] = [await outputs(float, m.test), await outputs(int8, m.test)];
    const n = m.test.length;
    let [clear, clearAgree] = [0, 0];
    let [agree, right, rightInt8, gained, lost, signal, noise] = [0, 0, 0, 0, 0, 0, 0];
    for (let i = 0; i < n; i++) {
      const [x, y] = [argmax(a.results[i]), argmax(b.results[i])];
      agree += x === y;
      if (lead(a.results[i], x) >= 0.1) {
        clear++;
        clearAgree += x === y;
      }
      if (m.labels !== undefined) {
        const [was, is] = [x === m.labels[i], y === m.labels[i]];
        right += was;
        rightInt8 += is;
        gained += is && !was;
        lost += was && !is;
      }
      a.results[i].forEach((v, k) => {
        signal += v * v;
        noise += (v - b.results[i][k]) ** 2;
      });
    }
    const q = int8.report.data.quantization;
    const quantizers = int8.report.data.nodes.filter((node) => node.op === "QuantizeLinear").length;
    const row = {
      model: m.name,
      data: m.data,
      ...(m.labels === undefined
        ? {}
        : {
            fp32: percent(right, n),
            int8: percent(rightInt8, n),
            drop: points(percent(right, n) - percent(rightInt8, n)),
            interval: interval(gained, lost, n),
          }),
      agreement: percent(agree, n),
      // What the search expected of many rows, from the calibration feeds alone.
      ...(q?.likely === undefined ? {} : { expected: percent(q.likely, 1) }),
      // Of the feeds for which FP32 is not undecided itself: feeds that are not the model's own data often leave it so.
      agreementWhereClear: clear === 0 ? null : percent(clearAgree, clear),
      clear: percent(clear, n),
      classes: new Set(a.results.map(argmax)).size,
      sqnrDb: noise === 0 ? null : Number((10 * Math.log10(signal / noise)).toFixed(1)),
      quantizers,
      configuration: q?.configuration,
      trials: q?.trials.length,
      compileSeconds: Number(seconds.toFixed(1)),
      msFp32: Number(a.ms.toFixed(3)),
      msInt8: Number(b.ms.toFixed(3)),
      ...(quantizers === 0 ? { remark: remarks.find((text) => text.includes("float")) } : {}),
    };
    found.push(row);
    process.stderr.write(`${JSON.stringify(row)}\n`);
    if (flags.feeds !== undefined) {
      mkdirSync(flags.feeds, { recursive: true });
      for (const set of ["calibration", "test"]) {
        const feeds = m[set].map((f) => Object.values(f)[0]);
        const all = new Float32Array(feeds.length * feeds[0].data.length);
        feeds.forEach((t, i) => all.set(t.data, i * t.data.length));
        writeNpz(join(flags.feeds, `${m.name}.${set}.npz`), [
          [input, new Tensor("float32", all, [feeds.length, ...feeds[0].dims.slice(1)])],
        ]);
      }
    }
  } catch (error) {
    found.push({ model: m.name, data: m.data, error: error instanceof Error ? error.message.slice(0, 300) : String(error) });
    process.stderr.write(`${m.name}: ${error instanceof Error ? error.message.slice(0, 300) : error}\n`);
  }
}
const labelled = found.filter((r) => r.drop !== undefined);
/** Expected against counted disagreement, in points, over the models that have both. */
function foresight() {
  const pairs = found.filter((r) => r.expected !== undefined).map((r) => [100 - r.expected, 100 - r.agreement]);
  const mean = (x) => x.reduce((a, v) => a + v, 0) / x.length;
  const [e, c] = [0, 1].map((k) => pairs.map((p) => p[k]));
  const together = (x, y) => mean(x.map((v, i) => (v - mean(x)) * (y[i] - mean(y))));
  return {
    models: pairs.length,
    expected: points(mean(e)),
    counted: points(mean(c)),
    correlation: points(together(e, c) / Math.sqrt(together(e, e) * together(c, c))),
    meanAbsoluteDifference: points(mean(e.map((v, i) => Math.abs(v - c[i])))),
  };
}
const figures = {
  search: flags.search ?? "auto",
  method: flags.method ?? "auto",
  largestDrop: Math.max(...labelled.map((r) => r.drop)),
  disagreement: foresight(),
  models: found,
};
if (flags.record !== undefined) record(flags.record, figures);
else process.stdout.write(`${JSON.stringify(figures, null, 1)}\n`);
process.exit(0);
