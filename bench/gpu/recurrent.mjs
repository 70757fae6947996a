// Recurrent layers on the CUDA engine beside cuDNN's, by PyTorch, in one run: medians of CUDA-graph replays without copies.
//   node bench/gpu/recurrent.mjs [results.json]        needs a GPU; PyTorch from `python3` on the PATH. DIST names another build.
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";

const dist = process.env.DIST === undefined ? new URL("../../dist/", import.meta.url) : `file://${resolve(process.env.DIST)}/`;
const { cudaEngine } = await import(new URL("engines/cuda/index.js", dist));
const { openDevice } = await import(new URL("engines/cuda/device.js", dist));
const { hostEngine } = await import(new URL("engines/host/index.js", dist));
const { Editor } = await import(new URL("ir.js", dist));
const { inferGraph } = await import(new URL("ops/infer.js", dist));
const { Tensor } = await import(new URL("index.js", dist));

/** [operator, steps, batch, input, hidden, directions] */
const cases = [
  ["LSTM", 100, 1, 40, 128, 1],
  ["LSTM", 100, 1, 256, 256, 2],
  ["LSTM", 64, 32, 256, 256, 1],
  ["LSTM", 64, 1, 512, 512, 1],
  ["LSTM", 50, 64, 512, 1024, 1],
  ["GRU", 100, 1, 40, 128, 1],
  ["GRU", 64, 32, 256, 256, 1],
  ["GRU", 64, 1, 512, 512, 2],
];
const gates = { LSTM: 4, GRU: 3 };

let seed = 1;
/** Uniform in [-size, size). */
function random(dims, size) {
  const data = Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return (seed / 2 ** 31 - 1) * size;
  });
  return new Tensor("float32", data, dims);
}

const rows = [];
for (const [op, steps, batch, input, hidden, directions] of cases)
  for (const precision of ["fp32", "fp16"]) {
    const row = { op, steps, batch, input, hidden, directions, precision };
    const wide = gates[op] * hidden;
    const e = new Editor({ name: op, opsets: { "": 20 } });
    const port = e.addInput("x", { kind: "tensor", dtype: "float32", shape: [steps, batch, input] });
    const weights = { w: [directions, wide, input], r: [directions, wide, hidden], b: [directions, 2 * wide] };
    const operands = Object.entries(weights).map(([name, dims]) => {
      const bytes = new Uint8Array(random(dims, 1 / Math.sqrt(hidden)).data.buffer);
      return e.addConstant(name, { dtype: "float32", dims, data: { kind: "bytes", bytes } });
    });
    const attrs = {
      hidden_size: { kind: "int", value: hidden },
      direction: { kind: "string", value: directions === 2 ? "bidirectional" : "forward" },
      ...(op === "GRU" ? { linear_before_reset: { kind: "int", value: 1 } } : {}),
    };
    const layer = e.add({ op, ins: [port, ...operands], outs: op === "LSTM" ? 3 : 2, attrs, name: op });
    e.setOutputs([layer.outs[0]]);
    const { graph } = inferGraph(e.finish());
    try {
      const x = random([steps, batch, input], 1);
      const artifact = await cudaEngine.build(graph, { target: { sm: 90, tensorrt: 0, precision }, tune: "quick" });
      const executable = await cudaEngine.open(artifact, { streams: 1, threads: 1 });
      const [y] = await executable.run([x]);
      const host = await hostEngine.open(await hostEngine.build(graph, { target: { sm: 0, tensorrt: 0, precision: "fp32" } }), {
        streams: 1,
        threads: 0,
      });
      const [expected] = await host.run([x]);
      await host.dispose();
      let [difference, largest] = [0, 0];
      for (let i = 0; i < expected.data.length; i++) {
        largest = Math.max(largest, Math.abs(expected.data[i]));
        difference = Math.max(difference, Math.abs(y.data[i] - expected.data[i]));
      }
      row.error = Number((difference / largest).toPrecision(3));
      row.us = Number((await executable.timeUs([x])).toPrecision(4));
      await executable.dispose();
    } catch (error) {
      row.failed = String(error?.message ?? error).slice(0, 600);
    }
    rows.push(row);
  }
try {
  const peer = fileURLToPath(new URL("recurrent_peer.py", import.meta.url));
  const times = JSON.parse(execFileSync("python3", [peer], { input: JSON.stringify(rows), encoding: "utf8", timeout: 120_000 }));
  rows.forEach((r, i) => Object.assign(r, times[i]));
} catch (error) {
  console.error(`no peer: ${error.message}`);
}
for (const r of rows) console.log(JSON.stringify(r));
const out = process.argv[2];
if (out !== undefined)
  writeFileSync(
    out,
    `${JSON.stringify(
      {
        name: "gpu-recurrent",
        date: new Date().toISOString().slice(0, 10),
        gpu: openDevice().properties.name,
        driver: process.env.DRIVER,
        what: "one recurrent layer over all its steps, microseconds on the device, medians of CUDA-graph replays without copies; cudnnUs: torch.nn.LSTM and GRU of PyTorch in a CUDA graph in the same run, FP32 without TF32; error against ONNX Runtime",
        rows,
      },
      null,
      1,
    )}\n`,
  );
