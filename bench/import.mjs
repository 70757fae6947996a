// Importing an ONNX file of 200,000 nodes, and importing and hashing one whose weights are the attributes of one node, an ensemble of trees: time and peak memory of a
// fresh process, next to protobufjs decoding the same file in its own.
// Processor time is of all threads, the garbage collector's too; where nothing else runs, `seconds` is what a user waits.
import { fork } from "node:child_process";
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { median, record } from "./record.mjs";

const NODES = 200_000;
const TREE_NODES = 3_900_000;
const [, self, role, path] = process.argv;

if (role === "partita") {
  const { importOnnx } = await import("../dist/import/onnx/index.js");
  measure(() => importOnnx(path).nodes.length);
} else if (role === "trees") {
  const { importOnnx } = await import("../dist/import/onnx/index.js");
  const { graphHash } = await import("../dist/ir/hash.js");
  measure(() => {
    const g = importOnnx(path);
    graphHash(g);
    return g.nodes.length;
  });
} else if (role === "protobufjs") {
  const { readFileSync } = await import("node:fs");
  const { onnx } = (await import("onnx-proto")).default ?? (await import("onnx-proto"));
  measure(() => onnx.ModelProto.decode(readFileSync(path)).graph.node.length);
} else {
  const folder = mkdtempSync(join(tmpdir(), "partita-bench-"));
  try {
    const [file, ensemble] = ["large.onnx", "trees.onnx"].map((name) => join(folder, name));
    await write(file);
    await writeTrees(ensemble);
    const once = (name) =>
      new Promise((resolve, reject) => {
        const child = fork(fileURLToPath(import.meta.url), [name, name === "trees" ? ensemble : file], { stdio: "inherit" });
        child.once("message", resolve);
        child.once("exit", (code) => (code === 0 ? undefined : reject(new Error(`${name} ended with ${code}`))));
      });
    const runs = { partita: [], protobufjs: [], trees: [] };
    for (let i = 0; i < 5; i++) for (const name of Object.keys(runs)) runs[name].push(await once(name));
    const figures = Object.fromEntries(
      Object.entries(runs).map(([name, all]) => [
        name,
        {
          seconds: Number((median(all.map((r) => r.ms)) / 1000).toFixed(3)),
          cpuSeconds: Number((median(all.map((r) => r.cpuMs)) / 1000).toFixed(3)),
          peakMegabytes: Math.round(median(all.map((r) => r.peak)) / 1e6),
          nodes: all[0].nodes,
        },
      ]),
    );
    record("import", {
      what: `an ONNX file of ${NODES} nodes, medians of 5 processes each, interleaved`,
      fileMegabytes: Number((statSync(file).size / 1e6).toFixed(1)),
      ...figures,
      trees: {
        what: "importing and hashing an ensemble",
        fileMegabytes: Number((statSync(ensemble).size / 1e6).toFixed(1)),
        treeNodes: TREE_NODES,
        ...figures.trees,
      },
      timesFaster: Number((figures.protobufjs.cpuSeconds / figures.partita.cpuSeconds).toFixed(2)),
    });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
void self;

/** Runs `work`, which answers how many nodes it read, and sends what it took to the parent. */
function measure(work) {
  const [start, before] = [performance.now(), process.cpuUsage()];
  const nodes = work();
  const [ms, cpu] = [performance.now() - start, process.cpuUsage(before)];
  process.send({ ms, cpuMs: (cpu.user + cpu.system) / 1000, nodes, peak: process.resourceUsage().maxRSS * 1024 });
}

/** Blocks of convolution, normalisation, activation and addition, with names as long as exporters write them. */
async function write(file) {
  const { Editor, makeConstant, writeOnnx } = await import("../dist/ir.js");
  const e = new Editor({ name: "large", opsets: { "": 18 } });
  const type = { kind: "tensor", dtype: "float32", shape: [1, 8, 16, 16] };
  let x = e.addInput("input", type);
  const weight = e.addConstant("weight", makeConstant("float32", [8, 8, 1, 1], new Array(64).fill(0.125)));
  const perChannel = ["scale", "bias", "mean", "variance"].map((n) => e.addConstant(n, makeConstant("float32", [8], new Array(8).fill(1))));
  const node = (op, ins, name, attrs = {}) => e.add({ op, ins, outs: 1, name, attrs }).outs[0];
  for (let i = 0; i < NODES / 4; i++) {
    const at = `/features/stage.${i % 7}/block.${i}`;
    const c = node("Conv", [x, weight], `${at}/conv/Conv`, { kernel_shape: { kind: "ints", value: [1, 1] } });
    const n = node("BatchNormalization", [c, ...perChannel], `${at}/norm/BatchNormalization`, { epsilon: { kind: "float", value: 1e-5 } });
    const r = node("Relu", [n], `${at}/act/Relu`);
    x = node("Add", [r, x], `${at}/Add`);
  }
  e.setOutputs([x]);
  writeOnnx(e.finish(), file);
}

/** An ensemble of trees of 4,095 nodes each, as scikit-learn's exporters write them: lists of integers, floats and words, an element a node. */
async function writeTrees(file) {
  const { Editor, writeOnnx } = await import("../dist/ir.js");
  const e = new Editor({ name: "trees", opsets: { "": 18, "ai.onnx.ml": 3 } });
  const x = e.addInput("x", { kind: "tensor", dtype: "float32", shape: ["N", 32] });
  const list = (kind, f) => ({ kind, value: Array.from({ length: TREE_NODES }, (_, i) => f(i % 4095, Math.floor(i / 4095))) });
  const inner = (n) => n < 2047;
  const attrs = {
    nodes_treeids: list("ints", (_, tree) => tree),
    nodes_nodeids: list("ints", (n) => n),
    nodes_featureids: list("ints", (n) => (n * 7) % 32),
    nodes_truenodeids: list("ints", (n) => (inner(n) ? 2 * n + 1 : 0)),
    nodes_falsenodeids: list("ints", (n) => (inner(n) ? 2 * n + 2 : 0)),
    nodes_missing_value_tracks_true: list("ints", () => 0),
    nodes_values: list("floats", (n, tree) => Math.fround(Math.sin(n + tree))),
    nodes_hitrates: list("floats", () => 1),
    nodes_modes: list("strings", (n) => (inner(n) ? "BRANCH_LEQ" : "LEAF")),
    class_treeids: list("ints", (_, tree) => tree),
    class_nodeids: list("ints", (n) => n),
    class_ids: list("ints", (n) => n % 2),
    class_weights: list("floats", (n) => Math.fround(n / 4095)),
    classlabels_int64s: { kind: "ints", value: [0, 1] },
  };
  e.setOutputs(e.add({ op: "TreeEnsembleClassifier", domain: "ai.onnx.ml", ins: [x], outs: 2, name: "trees", attrs }).outs);
  writeOnnx(e.finish(), file);
}
