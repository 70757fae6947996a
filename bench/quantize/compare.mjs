// Partita's int8 with default options beside onnxruntime's quantize_static and NNCF: the same float graph, the same calibration feeds, the same
// test feeds, in one run. A setting of a peer "loses less" when it is right (with labels) or agrees with FP32 (without) on more rows, by more
// than the 95 % interval of the paired difference. Counted twice: by the scores as they are, and with every score above FP32's own as no loss.
//
//   node bench/quantize/compare.mjs DATA --python PYTHON [--only NAME] [--stamps FOLDER] [--record NAME]
//
// PYTHON has onnxruntime and onnx, and nncf for its lines.
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { plan } from "../../dist/compile.js";
import { encodeOnnx } from "../../dist/import/onnx/export.js";
import { compile, readNpz, Tensor, writeNpz } from "../../dist/index.js";
import { record } from "../record.mjs";
import { models } from "./models.mjs";
import { argmax, interval, points } from "./score.mjs";

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    python: { type: "string", default: "python3" },
    only: { type: "string" },
    stamps: { type: "string" },
    record: { type: "string" },
  },
});
const [data] = positionals;
if (data === undefined) throw new Error("usage: compare.mjs DATA --python PYTHON [--only NAME] [--stamps FOLDER] [--record NAME]");
const SETTINGS = ["ort-minmax", "ort-entropy", "ort-percentile", "nncf", "nncf-transformer"];

const rowsOf = (t) => {
  const size = t.data.length / t.dims[0];
  return Array.from({ length: t.dims[0] }, (_, i) => argmax(t.data.subarray(i * size, (i + 1) * size)));
};
function stacked(feeds) {
  const [first] = feeds;
  const all = new Float32Array(feeds.length * first.data.length);
  feeds.forEach((t, i) => all.set(t.data, i * first.data.length));
  return new Tensor("float32", all, [feeds.length * first.dims[0], ...first.dims.slice(1)]);
}
async function rows(program, feeds) {
  const session = await program.createSession({ threads: 1 });
  const [input, output] = [session.inputs[0].name, session.outputs[0].name];
  const found = [];
  for (const feed of feeds) found.push(argmax((await session.run({ [input]: feed }))[output].data));
  await session.dispose();
  return found;
}

/** Points by which a peer is better, and half the 95 % interval of that paired difference. */
function against(own, peer, wanted) {
  const n = wanted.length;
  let [better, worse] = [0, 0];
  for (let i = 0; i < n; i++) {
    better += peer[i] === wanted[i] && own[i] !== wanted[i];
    worse += own[i] === wanted[i] && peer[i] !== wanted[i];
  }
  return { points: points((100 * (better - worse)) / n), interval: interval(better, worse, n) };
}

const found = [];
const folder = mkdtempSync(join(tmpdir(), "partita-compare-"));
try {
  for (const m of models(data, { only: flags.only, stamps: flags.stamps })) {
    const { inferred } = await plan(m.path, { target: "host", ...m.options });
    const float = await compile(m.path, { target: "host", ...m.options });
    const input = float.inputs[0].name;
    const [calibration, test] = [m.calibration, m.test].map((set) => set.map((f) => Object.values(f)[0]));
    const int8 = await compile(m.path, {
      target: "host",
      ...m.options,
      precision: "int8",
      calibration: { data: calibration.map((t) => ({ [input]: t })) },
    });
    const fp32 = await rows(float, test);
    const own = await rows(int8, test);
    const wanted = m.labels ?? fp32;
    const share = (x) => points((100 * x.filter((r, i) => r === wanted[i]).length) / wanted.length);
    writeFileSync(join(folder, "model.onnx"), encodeOnnx(inferred.graph));
    writeNpz(join(folder, "calibration.npz"), [[input, stacked(calibration)]]);
    writeNpz(join(folder, "test.npz"), [[input, stacked(test)]]);
    const files = ["model.onnx", "calibration.npz", "test.npz", "peers"].map((f) => join(folder, f));
    const script = fileURLToPath(new URL("./peers.py", import.meta.url));
    const run = spawnSync(flags.python, [script, ...files], { encoding: "utf8", maxBuffer: 2 ** 28 });
    const lines = new Map(
      run.stdout
        .split("\n")
        .filter((l) => l.startsWith("{"))
        .map((l) => JSON.parse(l))
        .map((l) => [l.setting, l]),
    );
    const loss = (x) => Math.max(0, share(fp32) - share(x));
    const peers = SETTINGS.map((setting) => {
      const line = lines.get(setting);
      if (line === undefined || line.error !== undefined)
        return { setting, error: line?.error ?? run.stderr.trim().split("\n").at(-1)?.slice(0, 300) ?? "no result" };
      const theirs = rowsOf(readNpz(join(files[3], `${setting}.npz`)).get("y"));
      const difference = against(own, theirs, wanted);
      return {
        setting,
        share: share(theirs),
        better: difference,
        losesLess: difference.points > difference.interval,
        losesLessOfFp32: loss(own) - loss(theirs) > difference.interval,
      };
    });
    rmSync(files[3], { recursive: true, force: true });
    const row = {
      model: m.name,
      data: m.data,
      measure: m.labels === undefined ? "agreement with FP32" : "top-1",
      rows: wanted.length,
      fp32: share(fp32),
      partita: share(own),
      configuration: int8.report.data.quantization?.configuration,
      peers,
    };
    found.push(row);
    process.stderr.write(`${JSON.stringify(row)}\n`);
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
const named = (which) => found.flatMap((r) => r.peers.filter((p) => p[which]).map((p) => `${r.model}: ${p.setting}`));
const figures = {
  models: found,
  settings: found.reduce((a, r) => a + r.peers.filter((p) => p.error === undefined).length, 0),
  losesLess: named("losesLess"),
  // Where a score above FP32's own is no loss, neither the peer's nor Partita's.
  losesLessOfFp32: named("losesLessOfFp32"),
};
if (flags.record !== undefined) record(flags.record, figures);
else process.stdout.write(`${JSON.stringify(figures, null, 1)}\n`);
process.exit(0);
