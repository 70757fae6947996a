// A model with 3 GiB of external data: compiled to a plan and a report in a process whose heap could not hold the weights.
import { fork } from "node:child_process";
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, statSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { record } from "./record.mjs";

const LAYERS = 12;
const SIDE = 8192; // 256 MiB of float32 each
const [, , role, path] = process.argv;

if (role === "compile") {
  const { report } = await import("../dist/index.js");
  const before = process.resourceUsage().maxRSS * 1024;
  const start = performance.now();
  const r = await report(path, { target: "cuda" });
  process.send({
    seconds: (performance.now() - start) / 1000,
    before,
    peak: process.resourceUsage().maxRSS * 1024,
    heap: process.memoryUsage().heapUsed,
    arrays: process.memoryUsage().arrayBuffers,
    head: r.toText({ color: false }).split("\n").slice(0, 3).join("\n"),
  });
} else {
  const folder = mkdtempSync(join(tmpdir(), "partita-bench-"));
  try {
    const file = join(folder, "model.onnx");
    await write(folder, file);
    const found = await new Promise((resolve, reject) => {
      const child = fork(fileURLToPath(import.meta.url), ["compile", file], { stdio: "inherit" });
      child.once("message", resolve);
      child.once("exit", (code) => (code === 0 ? undefined : reject(new Error(`the compiling process ended with ${code}`))));
    });
    const megabytes = (x) => Math.round(x / 1e6);
    record("external", {
      what: "report of a model of 12 dense layers whose weights lie in one external file",
      externalGibibytes: Number((statSync(join(folder, "weights.bin")).size / 2 ** 30).toFixed(2)),
      seconds: Number(found.seconds.toFixed(2)),
      peakMegabytes: megabytes(found.peak),
      beforeMegabytes: megabytes(found.before),
      heapMegabytes: megabytes(found.heap),
      arrayBufferMegabytes: megabytes(found.arrays),
      head: found.head,
    });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** The graph by Partita's own writer, its weights as ranges of a sparse file with a few numbers in it. */
async function write(folder, file) {
  const { Editor, importOnnx, writeOnnx } = await import("../dist/ir.js");
  const bytes = SIDE * SIDE * 4;
  const weights = join(folder, "weights.bin");
  const fd = openSync(weights, "w");
  ftruncateSync(fd, LAYERS * bytes);
  for (let i = 0; i < LAYERS; i++) writeSync(fd, Buffer.from(Float32Array.of(i + 1).buffer), 0, 4, i * bytes);
  closeSync(fd);
  const e = new Editor({ name: "large", opsets: { "": 18 } });
  let x = e.addInput("x", { kind: "tensor", dtype: "float32", shape: ["N", SIDE] });
  for (let i = 0; i < LAYERS; i++) {
    const w = e.addConstant(`w${i}`, {
      dtype: "float32",
      dims: [SIDE, SIDE],
      data: { kind: "file", path: weights, offset: i * bytes, length: bytes },
    });
    [x] = e.add({ op: "MatMul", ins: [x, w], outs: 1, name: `dense${i}`, attrs: {} }).outs;
    [x] = e.add({ op: "Relu", ins: [x], outs: 1, name: `relu${i}`, attrs: {} }).outs;
  }
  e.setOutputs([x]);
  writeOnnx(e.finish(), file);
  void importOnnx;
}
