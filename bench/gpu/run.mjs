// Networks on the CUDA engine: right against ONNX Runtime at batch 1, compiled and tuned cold and again from the caches, timed as CUDA graphs, every
// launch next to its floor.
//   node bench/gpu/run.mjs [cases] [results.jsonl]     measures; cases are NAME-PRECISION-BATCH
//   node bench/gpu/run.mjs --report results.jsonl     writes bench/results/gpu-networks.json
// TUNE=none|quick|full. PEERS=PYTHON, one with torch, torchvision and transformers: they are set up first, then timed in turn with ours, ROUNDS times (7).
// The floor of a launch is the larger of its operations at the matrix units' rate and its bytes, each buffer once, at 4.8 TB/s.
import { spawn } from "node:child_process";
import { appendFileSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";

const RATES = { fp16: 989e12, int8: 1979e12 };
const BYTES_PER_SECOND = 4.8e12;

async function measure(names, out) {
  const { plan } = await import("../../dist/compile.js");
  const { cudaEngine } = await import("../../dist/engines/cuda/index.js");
  const { openDevice } = await import("../../dist/engines/cuda/device.js");
  const { lower: emit } = await import("../../dist/engines/cuda/lower.js");
  const { convFlops, gemmFlops, h200 } = await import("../../dist/engines/cuda/templates/index.js");
  const { hostEngine } = await import("../../dist/engines/host/index.js");
  const { extractSegment } = await import("../../dist/partition/extract.js");
  const { lower } = await import("../../dist/passes/lower.js");
  const { randomFeeds } = await import("../../dist/runtime/measure.js");
  const { bert, resnet50, resnet50Int8 } = await import("./networks.mjs");
  /** Operations, and a name by which equal layers are known: filter, stride, channels and output size, or rows x columns x depth. */
  const workOf = ({ kind, problem: p, residual }) => {
    const float = p.dtype !== "s8";
    const added = residual >= 0 ? " + residual" : "";
    if (kind === "gemm") return { flops: gemmFlops(p), float, what: `${p.M} x ${p.N} x ${p.K}${added}` };
    const stride = p.stride[0] > 1 ? `/${p.stride[0]}` : "";
    return { flops: convFlops(p), float, what: `${p.r}x${p.s}${stride} ${p.c} to ${p.k} at ${p.p}${added}` };
  };
  const dimsOf = (graph, v) => graph.values[v].type.shape;
  /** A convolution that is no problem of the tuner's: the one that took in the max pooling behind it. */
  const firstLayer = (graph, names) => {
    const n = graph.nodes.find((n) => n.op === "Conv" && names.some((name) => name === n.name || name === `${n.name}.integer`));
    if (n === undefined) return undefined;
    const [w, y] = [dimsOf(graph, n.ins[1]), dimsOf(graph, n.outs[0])];
    const flops = 2 * y.reduce((a, b) => a * b, 1) * w.slice(1).reduce((a, b) => a * b, 1);
    return { flops, what: `${w[2]}x${w[3]}/2 ${w[1]} to ${w[0]} at ${y[2]}, max pooling` };
  };
  const graphs = {
    "resnet50-fp16": resnet50,
    "resnet50-int8": resnet50Int8,
    "bert-base-fp16": (batch) => bert(batch, 128),
    "bert-base-int8": (batch) => bert(batch, 128, { int8: true }),
  };
  const all = Object.keys(graphs).flatMap((name) => [1, 32, 128].map((batch) => `${name}-${batch}`));
  const asked = names === "" ? all : names.split(",");
  const peerOf = (name) => `${name.startsWith("bert") ? "bert-base" : "resnet50"}-${name.slice(name.lastIndexOf("-") + 1)}`;
  const peers = process.env.PEERS ? await Peers.start(process.env.PEERS, [...new Set(asked.map(peerOf))]) : undefined;
  const [rows, opened] = [[], []];
  for (const name of asked) {
    const [network, batch] = [name.slice(0, name.lastIndexOf("-")), Number(name.slice(name.lastIndexOf("-") + 1))];
    const precision = network.slice(network.lastIndexOf("-") + 1);
    const row = { name: network, precision, batch };
    try {
      const { properties } = openDevice();
      row.gpu = properties.name;
      const graph = graphs[network](batch);
      const tune = process.env.TUNE ?? "quick";
      const target = { sm: 90, tensorrt: 0, precision };
      const prepare = async () => {
        const { partition, inferred } = await plan(graph, { target: "cuda", precision });
        const segment = partition.segments.find((s) => s.engine === "cuda");
        return { part: lower(extractSegment(inferred.graph, segment), cudaEngine.keeps), segments: partition.segments };
      };
      const start = performance.now();
      const { part, segments } = await prepare();
      const artifact = await cudaEngine.build(part, { target, tune });
      row.compileSeconds = { first: (performance.now() - start) / 1000 };
      row.segments = segments.map((s) => `${s.name} ${s.nodes.length}`);
      row.tune = tune;
      const again = performance.now();
      await cudaEngine.build((await prepare()).part, { target, tune });
      row.compileSeconds.again = (performance.now() - again) / 1000;
      const executable = await cudaEngine.open(artifact, { streams: 1, threads: 1 });
      const ports = part.inputs.map((v) => ({
        name: part.values[v].name,
        type: part.values[v].type.dtype,
        dims: part.values[v].type.shape,
      }));
      const feeds = randomFeeds(ports, 1, 7);
      const inputs = ports.map((p) => {
        const t = feeds[p.name];
        // Token ids stay inside the vocabulary; the mask is open.
        if (p.type === "int64") for (let i = 0; i < t.data.length; i++) t.data[i] = p.name.includes("mask") ? 1n : BigInt(i * 37) % 30000n;
        return t;
      });
      const [result] = await executable.run(inputs);
      if (batch === 1) {
        const host = await hostEngine.open(
          await hostEngine.build(lower(part, hostEngine.keeps), { target: { sm: 0, tensorrt: 0, precision: "fp32" } }),
          { streams: 1, threads: 0 },
        );
        const [expected] = await host.run(inputs);
        await host.dispose();
        let [difference, largest] = [0, 0];
        for (let i = 0; i < expected.data.length; i++) {
          largest = Math.max(largest, Math.abs(expected.data[i]));
          const d = Math.abs(result.data[i] - expected.data[i]);
          if (!(d <= difference)) difference = d;
        }
        row.error = difference / largest;
      }
      opened.push({ row, executable, peer: peerOf(name) });
      const timing = await executable.timeGraph({ copies: false });
      row.ms = { median: timing.median, min: timing.min };
      const works = new Map();
      const { plan: kernels } = emit(part, { precision, device: h200, onProblem: (p) => works.set(p.nodes.join(" "), workOf(p)) });
      const launches = kernels.operations.flatMap((o) => (o.kind === "launch" ? [o.launch] : []));
      const profile = await executable.profile();
      row.layers = profile.map((p, i) => {
        const l = launches[i];
        const buffers = new Set((l?.args ?? []).flatMap((a) => (a.kind === "buffer" || a.kind === "tensorMap" ? [a.buffer] : [])));
        const bytes = [...buffers].reduce((n, b) => n + kernels.buffers[b].bytes, 0);
        const work = works.get(p.nodes.join(" ")) ?? firstLayer(part, p.nodes);
        const floor = Math.max(
          bytes / BYTES_PER_SECOND,
          (work?.flops ?? 0) / (precision === "int8" && work?.float !== true ? RATES.int8 : RATES.fp16),
        );
        const kernel = p.name.replace(/^k\d+_/, "");
        return { kernel, what: work?.what ?? kernel, nodes: p.nodes.join(" "), us: p.ms * 1000, floorUs: floor * 1e6 };
      });
      row.floorMs = row.layers.reduce((n, l) => n + l.floorUs, 0) / 1000;
    } catch (error) {
      row.failed = String(error?.message ?? error).slice(0, 1500);
    }
    const { layers = [], ...head } = row;
    console.log(JSON.stringify(head));
    rows.push(row);
    for (const l of [...layers].sort((a, b) => b.us - b.floorUs - (a.us - a.floorUs)).slice(0, Number(process.env.TOP ?? 12)))
      console.log("   ", `${l.us.toFixed(2)} us, floor ${l.floorUs.toFixed(2)}: ${l.kernel} ${l.nodes.slice(0, 70)}`);
  }
  // In turn: what the clock or the memory does to one, it does to all.
  for (let round = 0; round < Number(process.env.ROUNDS ?? 7) && peers !== undefined; round++)
    for (const { row, executable, peer } of opened) {
      const each = {
        ours: (await executable.timeGraph({ copies: false })).median,
        compile: await peers.time(peer, "torch.compile"),
        graph: await peers.time(peer, "eager in a CUDA graph"),
      };
      row.rounds ??= [];
      row.rounds.push(each);
    }
  for (const { executable } of opened) await executable.dispose();
  peers?.stop();
  for (const row of rows) {
    if (row.rounds !== undefined) {
      const of = (engine) => row.rounds.map((r) => r[engine]).filter((x) => x !== undefined);
      row.ms.median = median(of("ours"));
      row.peers = { torch: peers.version, compile: median(of("compile")), graph: median(of("graph")) };
      // Of each round by itself, the least and the most.
      const ratios = row.rounds.flatMap((r) => (r.compile === undefined ? [] : [r.compile / r.ours]));
      if (ratios.length > 0) row.peers.compileOverOurs = [Math.min(...ratios), Math.max(...ratios)];
      console.log(row.name, row.batch, JSON.stringify({ ours: row.ms.median, ...row.peers }));
    }
    if (out !== undefined) appendFileSync(out, `${JSON.stringify(row)}\n`);
  }
}

function median(list) {
  const sorted = [...list].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length === 0 ? undefined : sorted.length % 2 === 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

/** PyTorch in a process of its own, asked for a few samples at a time. */
class Peers {
  static async start(python, cases) {
    const peers = new Peers();
    const child = spawn(python, [join(import.meta.dirname, "network_peer.py"), cases.join(",")], { stdio: ["pipe", "pipe", "inherit"] });
    Object.assign(peers, { child, lines: createInterface(child.stdout)[Symbol.asyncIterator]() });
    for (let said = {}; said !== undefined && said.ready === undefined; ) {
      said = await peers.next();
      console.log("peer:", JSON.stringify(said));
      peers.version ??= said?.torch;
      peers.gone = said === undefined;
    }
    return peers;
  }
  /** What it says next that is an object; undefined when it has ended. */
  async next() {
    for (;;) {
      const { value, done } = await this.lines.next();
      if (done) return undefined;
      if (value.startsWith("{")) return JSON.parse(value);
    }
  }
  /** Milliseconds, the median of 50; undefined when it cannot. */
  async time(which, engine) {
    if (this.gone) return undefined;
    this.child.stdin.write(`${JSON.stringify({ case: which, engine, samples: 50 })}\n`);
    const said = await this.next();
    this.gone = said === undefined;
    return median(said?.ms ?? []);
  }
  stop() {
    this.child.stdin.end();
  }
}

/** One file of results: every network with its layers, the worst offenders first, and the peers of the same run. */
function report(measured) {
  const lines = (path) =>
    readFileSync(path, "utf8")
      .split("\n")
      .filter((l) => l.startsWith("{"))
      .map((l) => JSON.parse(l));
  const three = (x) => Number(x.toPrecision(4));
  const rows = lines(measured).map((r) => {
    const { layers = [], segments, ms, gpu, tune, peers, rounds, ...head } = r;
    for (const k of Object.keys(head.compileSeconds ?? {})) head.compileSeconds[k] = three(head.compileSeconds[k]);
    const offenders = [...layers].sort((a, b) => b.us - b.floorUs - (a.us - a.floorUs));
    return {
      ...head,
      ...(ms === undefined ? {} : { ms: three(ms.median), msLeast: three(ms.min) }),
      ...(r.floorMs === undefined ? {} : { floorMs: three(r.floorMs) }),
      ...(peers?.compile === undefined
        ? {}
        : { torchCompileMs: three(peers.compile), torchCompileOverOurs: peers.compileOverOurs.map(three) }),
      ...(peers?.graph === undefined ? {} : { torchEagerGraphMs: three(peers.graph) }),
      launches: layers.length,
      layers: offenders.map((l) => ({ what: l.what, us: three(l.us), floorUs: three(l.floorUs), nodes: l.nodes.slice(0, 60) })),
    };
  });
  const path = new URL("../results/gpu-networks.json", import.meta.url);
  const figures = {
    name: "gpu-networks",
    date: new Date().toISOString().slice(0, 10),
    gpu: lines(measured)[0]?.gpu,
    driver: process.env.DRIVER,
    note: process.env.NOTE,
    what: "medians of CUDA-graph replays without copies, random weights, of seven rounds in turn with torch.compile and eager in a CUDA graph (PyTorch 2.11, FP16; torchCompileOverOurs: the least and the most of the rounds); compileSeconds: with tuning, from empty caches and again; layers: launches by what they lose to their floor (the larger of operations at 989 TFLOP/s, INT8 1979 TOP/s, and each buffer's bytes once at 4.8 TB/s), microseconds",
    rows,
  };
  writeFileSync(path, `${JSON.stringify(figures, null, 1)}\n`);
}

const [, , names = "", out] = process.argv;
if (names === "--report") report(out);
else await measure(names, out);
