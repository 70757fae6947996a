// Throughput of 64 concurrent callers on the host engine: a session of defaults, one of a copy of one thread for each core, one of defaults that joins runs,
// and bare onnxruntime-node driven the same way.
// Rounds are interleaved and medians reported. `node bench/serving.mjs [seconds of a round] [rounds]`, after `npm run build`.
import { mkdtempSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { fileURLToPath } from "node:url";
import * as ort from "onnxruntime-node";
import { compile, Tensor } from "../dist/index.js";
import { Editor, makeConstant, writeOnnx } from "../dist/ir.js";
import { median, record } from "./record.mjs";

const CALLERS = 64;
const seconds = Number(process.argv[2] ?? 2);
const rounds = Number(process.argv[3] ?? 5);
const cores = availableParallelism();

/** x[N, widths[0]] through layers of the other widths. */
function layers(path, widths) {
  const e = new Editor({ name: "layers", opsets: { "": 18 } });
  let seed = 1;
  const weight = (name, dims) => {
    const values = Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      return (seed / 2 ** 31 - 1) / 8;
    });
    return e.addConstant(name, makeConstant("float32", dims, values));
  };
  let v = e.addInput("x", { kind: "tensor", dtype: "float32", shape: ["N", widths[0]] });
  for (const [i, width] of widths.slice(1).entries()) {
    v = e.add({
      op: "Gemm",
      ins: [v, weight(`w${i}`, [widths[i], width]), weight(`b${i}`, [width])],
      outs: 1,
      name: `layer${i}`,
      attrs: {},
    }).outs[0];
    if (width > 10) v = e.add({ op: "Relu", ins: [v], outs: 1, name: `relu${i}`, attrs: {} }).outs[0];
  }
  v = e.add({ op: "Softmax", ins: [v], outs: 1, name: "softmax", attrs: {} }).outs[0];
  e.setOutputs([v]);
  writeOnnx(e.finish(), path);
}

/** Runs a second from 64 callers, each with its next run as soon as its last is answered; and the delay of the event loop's timers. */
async function driven(run) {
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  let runs = 0;
  const before = process.cpuUsage();
  const start = performance.now();
  const end = start + 1000 * seconds;
  await Promise.all(
    Array.from({ length: CALLERS }, async () => {
      while (performance.now() < end) {
        await run();
        runs++;
      }
    }),
  );
  const elapsed = (performance.now() - start) / 1000;
  delay.disable();
  const { user, system } = process.cpuUsage(before);
  return { runsPerSecond: runs / elapsed, cpuMicroseconds: (user + system) / runs, loopDelayP99Ms: delay.percentile(99) / 1e6 };
}

async function compared(path, dims) {
  const program = await compile(path, { target: "host" });
  const [input] = program.inputs;
  const data = Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(i));
  const feeds = { [input.name]: new Tensor("float32", data, dims) };
  const own = { [input.name]: new ort.Tensor("float32", data, dims) };
  const sessions = {
    defaults: await program.createSession(),
    session: await program.createSession({ streams: cores, threads: 1 }),
    batching: await program.createSession({ batching: { maxBatch: CALLERS } }),
  };
  const bare = {
    bare: await ort.InferenceSession.create(path),
    bareOneThread: await ort.InferenceSession.create(path, { intraOpNumThreads: 1 }),
  };
  const contenders = {
    ...Object.fromEntries(Object.entries(bare).map(([n, s]) => [n, () => s.run(own)])),
    ...Object.fromEntries(Object.entries(sessions).map(([n, s]) => [n, () => s.run(feeds)])),
  };
  const measured = Object.fromEntries(Object.keys(contenders).map((n) => [n, []]));
  for (const run of Object.values(contenders)) for (let i = 0; i < 200; i++) await run();
  for (let i = 0; i < rounds; i++) for (const [n, run] of Object.entries(contenders)) measured[n].push(await driven(run));
  const stats = sessions.batching.stats();
  const copies = Object.values(sessions.defaults.stats().host).map(({ threads }) => threads);
  for (const s of Object.values(sessions)) await s.dispose();
  for (const s of Object.values(bare)) await s.release();
  const figures = Object.fromEntries(
    Object.entries(measured).map(([n, m]) => [
      n,
      {
        runsPerSecond: Math.round(median(m.map((r) => r.runsPerSecond))),
        cpuMicroseconds: +median(m.map((r) => r.cpuMicroseconds)).toFixed(1),
        loopDelayP99Ms: +median(m.map((r) => r.loopDelayP99Ms)).toFixed(2),
      },
    ]),
  );
  // Round by round, over the setting of bare that leaves least: what the machine does meanwhile is mostly the same for all.
  const over = (n) =>
    +Math.min(...Object.keys(bare).map((b) => median(measured[n].map((m, i) => m.runsPerSecond / measured[b][i].runsPerSecond)))).toFixed(
      2,
    );
  return {
    ...figures,
    runsPerBatch: +(stats.batchedRuns / stats.batches).toFixed(1),
    // Threads of the copies that the session of defaults came to load, by segment.
    copies,
    defaultsOverBare: over("defaults"),
    sessionOverBare: over("session"),
    batchingOverBare: over("batching"),
  };
}

const folder = mkdtempSync(join(tmpdir(), "partita-bench-"));
try {
  const models = { tiny: [64, 64, 64, 10], small: [784, 512, 256, 10] };
  for (const [name, widths] of Object.entries(models)) layers(join(folder, `${name}.onnx`), widths);
  const digits = join(dirname(fileURLToPath(import.meta.url)), "../examples/digits/resnet.onnx");
  record("serving", {
    what: `${CALLERS} callers, each with its next run when its last is answered; medians of ${rounds} rounds of ${seconds} s, interleaved; processor time of all threads by run`,
    callers: CALLERS,
    // Less work than a message between threads takes, and what a classifier of digits takes, as layers and as convolutions.
    tiny: { widths: models.tiny, ...(await compared(join(folder, "tiny.onnx"), [1, 64])) },
    small: { widths: models.small, ...(await compared(join(folder, "small.onnx"), [1, 784])) },
    digits: await compared(digits, [1, 1, 16, 16]),
  });
} finally {
  rmSync(folder, { recursive: true, force: true });
}
