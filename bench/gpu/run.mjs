// Networks on the CUDA engine: right against ONNX Runtime at batch 1, compiled and tuned cold and again from the caches, timed as CUDA graphs, every
// launch next to its floor.
//   node bench/gpu/run.mjs [cases] [results.jsonl]     measures; cases are NAME-PRECISION-BATCH
//   node bench/gpu/run.mjs --report results.jsonl [peers.jsonl]     writes bench/results/gpu-networks.json, with the peers' lines of that run
// TUNE=none|quick|full. The floor of a launch is the larger of its operations at the matrix units' rate and its bytes, each buffer once, at 4.8 TB/s.
import { appendFileSync, readFileSync, writeFileSync } from "node:fs";

const RATES = { fp16: 989e12, int8: 1979e12 };
const BYTES_PER_SECOND = 4.8e12;

const [, , names = "", out, third] = process.argv;
if (names === "--report") report(out, third);
else await measure(names, out);

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
  for (const name of names === "" ? all : names.split(",")) {
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
      await executable.dispose();
    } catch (error) {
      row.failed = String(error?.message ?? error).slice(0, 1500);
    }
    const { layers = [], ...head } = row;
    console.log(JSON.stringify(head));
    if (out !== undefined) appendFileSync(out, `${JSON.stringify(row)}\n`);
    for (const l of [...layers].sort((a, b) => b.us - b.floorUs - (a.us - a.floorUs)).slice(0, Number(process.env.TOP ?? 12)))
      console.log("   ", `${l.us.toFixed(2)} us, floor ${l.floorUs.toFixed(2)}: ${l.kernel} ${l.nodes.slice(0, 70)}`);
  }
}

/** One file of results: every network with its layers, the worst offenders first, and the peers of the same run. */
function report(measured, peers) {
  const lines = (path) =>
    readFileSync(path, "utf8")
      .split("\n")
      .filter((l) => l.startsWith("{"))
      .map((l) => JSON.parse(l));
  const others = peers === undefined ? [] : lines(peers).filter((p) => p.ms_median !== undefined);
  const three = (x) => Number(x.toPrecision(4));
  const rows = lines(measured).map((r) => {
    const model = r.name.startsWith("resnet50") ? "resnet50" : "bert_base";
    const beside = others.filter((p) => p.model === model && p.batch === r.batch);
    const time = (engine) => beside.find((p) => p.engine.startsWith(engine))?.ms_median;
    const { layers = [], segments, ms, gpu, tune, ...head } = r;
    for (const k of Object.keys(head.compileSeconds ?? {})) head.compileSeconds[k] = three(head.compileSeconds[k]);
    const offenders = [...layers].sort((a, b) => b.us - b.floorUs - (a.us - a.floorUs));
    return {
      ...head,
      ...(ms === undefined ? {} : { ms: three(ms.median), msLeast: three(ms.min) }),
      ...(r.floorMs === undefined ? {} : { floorMs: three(r.floorMs) }),
      torchCompileMs: time("compile"),
      torchEagerGraphMs: time("graph"),
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
    what: "medians of CUDA-graph replays without copies, random weights; torch.compile: PyTorch 2.11 FP16; compileSeconds: with tuning, from empty caches and again; layers: launches by what they lose to their floor (the larger of operations at 989 TFLOP/s, INT8 1979 TOP/s, and each buffer's bytes once at 4.8 TB/s), microseconds",
    rows,
  };
  writeFileSync(path, `${JSON.stringify(figures, null, 1)}\n`);
}
