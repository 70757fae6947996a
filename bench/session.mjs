// What a session costs over bare onnxruntime-node: a small model at batch 1, and large tensors in and out, which must not be copied.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import * as ort from "onnxruntime-node";
import { compile, Tensor } from "../dist/index.js";
import { Editor, writeOnnx } from "../dist/ir.js";
import { median, record } from "./record.mjs";

const digits = join(dirname(fileURLToPath(import.meta.url)), "../examples/digits/resnet.onnx");

async function timed(rounds, contenders) {
  const times = contenders.map(() => []);
  for (const c of contenders) for (let i = 0; i < 50; i++) await c();
  for (let i = 0; i < rounds; i++) {
    for (const [k, c] of contenders.entries()) {
      const start = performance.now();
      await c();
      times[k].push(1000 * (performance.now() - start));
    }
  }
  return times.map(median);
}

async function overhead(path, feeds) {
  const session = await (await compile(path, { target: "host" })).createSession({ threads: 1 });
  const bare = await ort.InferenceSession.create(path, { intraOpNumThreads: 1 });
  const own = Object.fromEntries(Object.entries(feeds).map(([n, t]) => [n, new ort.Tensor(t.type, t.data, t.dims)]));
  const [partita, plain] = await timed(2000, [() => session.run(feeds), () => bare.run(own)]);
  await session.dispose();
  await bare.release();
  return {
    partitaMicroseconds: Math.round(partita),
    bareMicroseconds: Math.round(plain),
    overheadMicroseconds: Math.round(partita - plain),
  };
}

/** Fed 256 MB that are handed over: the feed is detached, and the process never holds a second one on this side. */
async function large(folder) {
  const n = 64 * 2 ** 20;
  const e = new Editor({ name: "large", opsets: { "": 18 } });
  const x = e.addInput("x", { kind: "tensor", dtype: "float32", shape: ["N"] });
  const [y] = e.add({ op: "Neg", ins: [x], outs: 1, name: "neg", attrs: {} }).outs;
  e.setOutputs([y]);
  const path = join(folder, "large.onnx");
  writeOnnx(e.finish(), path);
  const session = await (await compile(path, { target: "host" })).createSession();
  const feed = new Tensor("float32", new Float32Array(n).fill(1), [n]);
  const before = process.memoryUsage().rss;
  const { y: result } = await session.run({ x: feed }, { transfer: true }).then((r) => ({ y: Object.values(r)[0] }));
  const figures = {
    megabytes: (4 * n) / 1e6,
    feedDetached: feed.data.buffer.byteLength === 0,
    first: result.data[0],
    addedMegabytes: Math.round((process.memoryUsage().rss - before) / 1e6),
  };
  await session.dispose();
  return figures;
}

const folder = mkdtempSync(join(tmpdir(), "partita-bench-"));
try {
  const small = await overhead(digits, { x: new Tensor("float32", new Float32Array(256), [1, 1, 16, 16]) });
  record("session", {
    what: "digits network at batch 1, medians of 2,000 runs each, interleaved; then one run of 256 MB in and out",
    small,
    large: await large(folder),
  });
} finally {
  rmSync(folder, { recursive: true, force: true });
}
