// Calibration of a model over 512 feeds beside the FP32 model alone on the same threads, and beside onnxruntime's own calibrators:
//   node bench/calibrate.mjs model.onnx [--feeds 512] [--peer-feeds 24] [--python folder]
// `--python`: where onnxruntime and onnx for Python are; without it they are installed into a temporary folder by pip (`--python none`: left
// out). Slices of all contenders alternate, so that they meet the same load (`loadBefore` says how idle the machine was). Processor time is
// of the whole process, the calibration's with its start-up. onnxruntime's histogram calibrators keep every tensor of every feed until the
// end, so they get fewer feeds.
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { availableParallelism, loadavg, tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { record } from "./record.mjs";

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: { feeds: { type: "string", default: "512" }, "peer-feeds": { type: "string", default: "24" }, python: { type: "string" } },
});
const [model] = positionals;
if (model === undefined) throw new Error("usage: node bench/calibrate.mjs model.onnx [--feeds 512] [--peer-feeds 24] [--python folder]");
const FEEDS = Number(flags.feeds);
const [load = 0] = loadavg();
const SLICE = 32;

const at = (path) => new URL(`../dist/${path}`, import.meta.url).href;
const [
  { compile },
  { prepare },
  { settle },
  { inferGraph },
  { quantizable },
  { observe },
  { hostRunner },
  { Tensor, npzBytes },
  { calibrationText },
] = await Promise.all(
  [
    "compile.js",
    "prepare.js",
    "options.js",
    "ops/infer.js",
    "quantize/place.js",
    "quantize/observe.js",
    "engines/host/runner.js",
    "index.js",
    "quantize/calibration.js",
  ].map((path) => import(at(path))),
);

const { graph } = await prepare(model, settle({}), () => {});
const tensors = quantizable(graph, inferGraph(graph).facts);
const threads = availableParallelism();
const input = graph.values[graph.inputs[0]];
const dims = input.type.shape.map((d) => (typeof d === "number" ? d : 1));
const size = dims.reduce((a, d) => a * d, 1);
let seed = 1;
const gaussian = () => {
  const next = () => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return (seed + 1) / 2 ** 32;
  };
  return Math.sqrt(-2 * Math.log(next())) * Math.cos(2 * Math.PI * next());
};
const pool = Array.from({ length: 32 }, () => ({
  [input.name]: new Tensor("float32", Float32Array.from({ length: size }, gaussian), dims),
}));
function* feeds(n) {
  for (let i = 0; i < n; i++) yield pool[i % pool.length];
}

const contenders = {
  session: { what: `the FP32 model alone: a session, one run after another, ${threads} threads a run`, wall: 0, cpu: 0 },
  streams: { what: `the FP32 model alone: ${threads} runs at once, one thread each`, wall: 0, cpu: 0 },
  calibration: { what: `calibration: ${threads} runs at once, one thread each, ${tensors.length} tensors counted`, wall: 0, cpu: 0 },
};
/** Adds a slice of work to a contender's sums. */
async function timed(contender, work) {
  const cpu = process.cpuUsage();
  const start = performance.now();
  await work();
  contender.wall += performance.now() - start;
  const { user, system } = process.cpuUsage(cpu);
  contender.cpu += (user + system) / 1000;
}

const program = await compile(model, { target: "host" });
const session = await program.createSession();
const runner = hostRunner({ threads });
const open = await runner.open(graph);
await session.run(pool[0]);
await open.run(pool[0]);
// One calibration over all feeds; the feeds it reads alternate with slices of the others, so that all meet the same load.
let counted = 0;
let idle = () => {};
async function* slices() {
  for (let from = 0; from < FEEDS; from += SLICE) {
    const list = [...feeds(Math.min(SLICE, FEEDS - from))];
    await timed(contenders.session, async () => {
      for (const f of list) await session.run(f);
    });
    await timed(contenders.streams, async () => {
      const running = new Set();
      for (const f of list) {
        const run = open.run(f).finally(() => running.delete(run));
        running.add(run);
        if (running.size > threads) await Promise.race(running);
      }
      await Promise.all(running);
    });
    const cpu = process.cpuUsage();
    const start = performance.now();
    yield* list;
    if (counted < from + list.length)
      await new Promise((resolve) => {
        idle = () => counted === from + list.length && resolve();
      });
    contenders.calibration.wall += performance.now() - start;
    const { user, system } = process.cpuUsage(cpu);
    contenders.calibration.cpu += (user + system) / 1000;
  }
}
const begin = process.cpuUsage();
const observations = await observe(graph, tensors, slices(), runner, {
  onProgress: ({ done }) => {
    counted = done;
    idle();
  },
});
const all = process.cpuUsage(begin);
const text = calibrationText({ keys: { model: "", data: "", preprocessing: "", version: "" }, feeds: FEEDS, observations });
// What the pass did before its first feed and after its last: ONNX Runtime's look at the model, its sessions, the merge.
const startUp = (all.user + all.system) / 1000 - Object.values(contenders).reduce((sum, c) => sum + c.cpu, 0);
contenders.calibration.cpu += startUp;
await session.dispose();
await open.dispose();

const figures = Object.fromEntries(
  Object.entries(contenders).map(([name, { what, wall, cpu }]) => [
    name,
    { what, cpuMsPerFeed: Number((cpu / FEEDS).toFixed(2)), wallMsPerFeed: Number((wall / FEEDS).toFixed(2)) },
  ]),
);

const peers = flags.python === "none" ? { left: "out" } : peerFigures(flags.python, Number(flags["peer-feeds"]));
const ratio = (a, b) => Number((a / b).toFixed(3));
record("calibrate", {
  what: `calibration of ${basename(model)} over ${FEEDS} feeds of [${dims.join(", ")}]`,
  loadBefore: Number(load.toFixed(1)),
  ...figures,
  startUpMs: Math.round(startUp),
  // 0.5 is half the speed of the model alone.
  speedOfModelAlone: {
    byProcessorTime: ratio(figures.streams.cpuMsPerFeed, figures.calibration.cpuMsPerFeed),
    byWallTime: ratio(figures.streams.wallMsPerFeed, figures.calibration.wallMsPerFeed),
    ofTheSessionByProcessorTime: ratio(figures.session.cpuMsPerFeed, figures.calibration.cpuMsPerFeed),
    ofTheSessionByWallTime: ratio(figures.session.wallMsPerFeed, figures.calibration.wallMsPerFeed),
  },
  stateBytesPerTensor: 64 + 4096 * 8,
  fileBytesPerTensor: Math.round(text.length / tensors.length),
  peers,
});
process.exit(0);

/** onnxruntime's calibrators for Python on the same kind of feeds, each in a process of its own. */
function peerFigures(folder, count) {
  const scratch = mkdtempSync(join(tmpdir(), "partita-calibrate-"));
  try {
    let packages = folder;
    if (packages === undefined) {
      packages = join(scratch, "python");
      const pip = spawnSync("python3", ["-m", "pip", "install", "-q", "--target", packages, "onnxruntime", "onnx"], { stdio: "inherit" });
      if (pip.status !== 0) return { error: "onnxruntime for Python cannot be installed" };
    }
    const data = join(scratch, "feeds.npz");
    writeFileSync(data, npzBytes(Array.from({ length: count }, (_, i) => [`f${i}`, Object.values(pool[i % pool.length])[0]])));
    const script = join(fileURLToPath(import.meta.url), "../calibrate_peers.py");
    const found = {};
    for (const method of ["MinMax", "Entropy", "Percentile"]) {
      const { stdout, stderr, status } = spawnSync("python3", [script, model, input.name, data, method, scratch], {
        encoding: "utf8",
        timeout: 300_000,
        env: { ...process.env, PYTHONPATH: packages },
      });
      found[method] =
        status === 0 ? JSON.parse(stdout.trim().split("\n").at(-1)) : { error: stderr.trim().split("\n").at(-1) ?? "it ended" };
    }
    return { feeds: count, dataMegabytes: Math.round(statSync(data).size / 1e6), ...found };
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}
