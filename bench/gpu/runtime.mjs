// The runtime on GPUs: a decoder whose cache stays on the device, beside ONNX Runtime's tokens and torch's eager generation; two sessions at once on one GPU;
// one session on one GPU and on two, fed tensors on the GPUs, in pinned memory and in plain arrays, beside what the bus and the host's memory give; what one
// caller waits for a run, beside the device's share of it and torch's. One call does all of it, each part in a process and with a deadline of its own, and writes a line of JSON a figure as soon as it is there.
//   node bench/gpu/runtime.mjs results.jsonl [floors,floats,bytes,large,decoder,sessions,latency]   "part:seconds" for another deadline; SMALL=1: stand-in
//   sizes on the host
//   node bench/gpu/runtime.mjs --report results.jsonl gpu driver               writes bench/results/gpu-runtime.json, and gpu-latency.json
import { spawnSync } from "node:child_process";
import { appendFileSync, closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import * as ort from "onnxruntime-node";
import { compile, Tensor } from "../../dist/index.js";
import { parse, writeOnnx } from "../../dist/ir.js";
import { decoder } from "./decoder.mjs";
import { bert, resnet50 } from "./networks.mjs";
import { chosen, inParts, part, row, runPart, underWay } from "./parts.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const small = process.env.SMALL === "1";
const target = small ? "host" : "cuda";
const TOKENS = small ? 24 : 160;
const WARM = small ? 4 : 32;
const PROMPT = 17n;

const SECONDS = { floors: 20, floats: 60, bytes: 50, large: 65, decoder: 120, sessions: 80, latency: 120 };
const [, , first, second, third] = process.argv;
if (part !== undefined)
  await runPart({
    floors,
    floats: () => twoDevices({ batch: 32 }),
    bytes: () => twoDevices({ batch: 32, bytes: true }),
    large: () => twoDevices({ batch: 128 }),
    decoder: generation,
    sessions: twoSessions,
    latency,
  });
else if (first === "--report") report(second, third, process.argv[5]);
else {
  await inParts(fileURLToPath(import.meta.url), chosen(SECONDS, second), tell);
  process.exit();
}

function tell(figures) {
  if (first !== undefined) appendFileSync(first, `${JSON.stringify(figures)}\n`);
  process.stdout.write(`${JSON.stringify(figures).slice(0, 600)}\n`);
}

async function generation() {
  const sizes = small ? { layers: 2, hidden: 128, heads: 4, vocabulary: 500, positions: 64, room: 32 } : { room: 256 };
  const { graph, weights, carry } = decoder(sizes);
  const folder = mkdtempSync(join(tmpdir(), "partita-bench-"));
  const initial = { ids: new Tensor("int64", [PROMPT], [1, 1]), position: new Tensor("int64", [0n], [1, 1]) };
  try {
    const figures = {};
    const tokens = {};
    for (const precision of small ? ["fp32"] : ["fp32", "fp16"]) {
      underWay(`compiling the decoder in ${precision}`);
      const start = performance.now();
      const program = await compile(graph, { target, precision, strict: !small });
      const compileSeconds = (performance.now() - start) / 1000;
      underWay(`${TOKENS} tokens in ${precision}`);
      const session = await program.createSession();
      const stream = session.stream({ carry, initial });
      const [found, times] = [[], []];
      for (let i = 0; i < TOKENS; i++) {
        const begin = performance.now();
        found.push(Number((await stream.run({}, { outputs: ["next"] })).next.data[0]));
        times.push(performance.now() - begin);
      }
      const state = await stream.state();
      underWay(`closing the session in ${precision}`);
      const segments = program.report.data.segments.map((s) => s.name);
      await session.dispose();
      tokens[precision] = found;
      figures[precision] = { msPerToken: mean(times.slice(WARM)), compileSeconds, segments, stateTensors: Object.keys(state).length };
    }
    underWay("ONNX Runtime's tokens");
    const path = join(folder, "decoder.onnx");
    writeOnnx(graph, path);
    const bare = await ort.InferenceSession.create(path);
    const state = Object.fromEntries(
      Object.keys(carry)
        .filter((name) => name.startsWith("past_"))
        .map((name) => {
          const { shape } = bare.inputMetadata.find((m) => m.name === name);
          return [name, new ort.Tensor("float32", new Float32Array(shape.reduce((a, b) => a * b, 1)), shape)];
        }),
    );
    Object.assign(state, { ids: new ort.Tensor("int64", [PROMPT], [1, 1]), position: new ort.Tensor("int64", [0n], [1, 1]) });
    const [theirs, ortTimes] = [[], []];
    for (let i = 0; i < TOKENS; i++) {
      const begin = performance.now();
      const out = await bare.run(state);
      for (const [input, output] of Object.entries(carry)) state[input] = out[output];
      theirs.push(Number(out.next.data[0]));
      ortTimes.push(performance.now() - begin);
    }
    await bare.release();
    underWay("torch's tokens");
    const torch = peer(folder, sizes, weights);
    const same = (list) => list !== undefined && theirs.every((t, i) => t === list[i]);
    row({
      part: "decoder",
      what: `GPT-2 small (random weights), ${TOKENS} tokens from one, the cache in ${sizes.room} places on the device; the mean of the last ${TOKENS - WARM}`,
      partita: figures,
      onnxruntime: { msPerToken: mean(ortTimes.slice(WARM)), where: "CPU", tokens: theirs.slice(0, 16) },
      torch: { ...torch, tokens: undefined },
      differentTokens: new Set(theirs).size,
      tokensAsOnnxruntime: { fp32: same(tokens.fp32), fp16: same(tokens.fp16), torch: same(torch.tokens) },
      overTorchEager: torch.fp32 === undefined ? undefined : torch.fp32.msPerToken / figures.fp32.msPerToken,
    });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Torch's eager generation from the same numbers. */
function peer(folder, sizes, weights) {
  const file = openSync(join(folder, "weights.bin"), "w");
  for (const { data } of weights) writeSync(file, new Uint8Array(data.buffer));
  closeSync(file);
  const index = weights.map(({ name, dims }) => ({ name, dims }));
  writeFileSync(join(folder, "weights.json"), JSON.stringify({ sizes, index, prompt: Number(PROMPT), tokens: TOKENS, warm: WARM }));
  const child = spawnSync("python3", [join(here, "decoder_peer.py"), folder], { encoding: "utf8", timeout: 120_000 });
  if (child.status !== 0) return { failed: `${child.error ?? ""}${child.stderr}`.slice(-600) };
  return JSON.parse(child.stdout.trim().split("\n").at(-1));
}

function bytesOf(data) {
  return Buffer.from(data.buffer, data.byteOffset, data.byteLength);
}

/** Images as floats, or as the bytes that cameras and files hold: then the graph makes floats of them. */
function batchOf(n, bytes = false) {
  const noise = Uint8Array.from({ length: 1 << 20 }, (_, i) => (Math.imul(i, 2654435761) >>> 13) & 255);
  const count = n * 3 * 224 * 224;
  const data = bytes ? new Uint8Array(count) : new Float32Array(count);
  for (let i = 0; i < count; i++) data[i] = bytes ? noise[i % noise.length] : noise[i % noise.length] / 127.5 - 1;
  return { input: new Tensor(bytes ? "uint8" : "float32", data, [n, 3, 224, 224]) };
}

/** Items a second over `seconds`, from `callers` of each session (the feeds of each, by its number), every answer compared with the first. */
async function throughput(sessions, feeds, callers, seconds, expected) {
  const [name] = sessions[0].outputs.map((o) => o.name);
  const items = Object.values(feeds(0))[0].dims[0];
  const drive = async (limit) => {
    let runs = 0;
    let wrong = 0;
    const start = performance.now();
    await Promise.all(
      sessions.flatMap((s) =>
        Array.from({ length: callers }, async (_, caller) => {
          while (performance.now() - start < 1000 * limit) {
            const { data } = (await s.run(feeds(caller)))[name];
            if (!bytesOf(data).equals(bytesOf(expected))) wrong++;
            runs++;
          }
        }),
      ),
    );
    return { itemsPerSecond: (items * runs) / ((performance.now() - start) / 1000), runs, wrong };
  };
  await drive(seconds / 4);
  return await drive(seconds);
}

async function twoSessions() {
  for (const batch of small ? [1] : [1, 8]) {
    underWay(`compiling batch ${batch}`);
    const program = await compile(resnet50(batch), { target, precision: small ? "fp32" : "fp16" });
    const feeds = batchOf(batch);
    const [a, b] = [await program.createSession({ threads: 1 }), await program.createSession({ threads: 1 })];
    const expected = Object.values(await a.run(feeds))[0].data;
    const seconds = small ? 0.5 : 2;
    underWay(`batch ${batch}, one session`);
    const one = await throughput([a], () => feeds, 1, seconds, expected);
    underWay(`batch ${batch}, two sessions`);
    const two = await throughput([a, b], () => feeds, 1, seconds, expected);
    underWay(`closing the sessions of batch ${batch}`);
    await Promise.all([a.dispose(), b.dispose()]);
    row({ part: "sessions", network: "resnet50-fp16", batch, one, two, ratio: two.itemsPerSecond / one.itemsPerSecond });
  }
}

/** A network so short that what is around it is most of a run. */
function shortest() {
  const dims = [256, 512, 256];
  const weights = dims.map((d, i) => Array.from({ length: d * (dims[i + 1] ?? 16) }, (_, k) => (Math.sin(k) / d).toFixed(4)));
  const layers = weights.map((w, i) => [
    `  const %w${i} = float32[${dims[i]}, ${dims[i + 1] ?? 16}] [${w.join(", ")}]`,
    `  %p${i} = MatMul(${i === 0 ? "%x" : `%h${i - 1}`}, %w${i})\n  ${i === dims.length - 1 ? "%y" : `%h${i}`} = Relu(%p${i})`,
  ]);
  return parse(`graph "mlp" opset {"": 18} (%x: float32[1, 256]) -> (%y) {\n${layers.flat().join("\n")}\n}`);
}

/**
 * What one caller waits for a run, call after call, from each kind of feeds: as it is, and with a thread that waits for each run, as runs that crowd have it.
 * Beside it the device's share, copies and kernels in one CUDA graph; and what a second gets done from many callers.
 */
async function latency() {
  const networks = { mlp: shortest(), "resnet50-fp16": resnet50(1), ...(small ? {} : { "bert-base-fp16": bert(1, 128) }) };
  const { openDevice } = small ? {} : await import("../../dist/engines/cuda/device.js");
  const torch = small ? {} : latencyPeer(Object.keys(networks).filter((n) => n !== "mlp"));
  for (const [network, graph] of Object.entries(networks)) {
    underWay(`compiling ${network}`);
    const program = await compile(graph, { target, precision: small || network === "mlp" ? "fp32" : "fp16", strict: !small });
    const feeds = {};
    for (const p of program.inputs) {
      const count = p.dims.reduce((a, b) => a * b, 1);
      const data =
        p.type === "int64"
          ? BigInt64Array.from({ length: count }, (_, i) => (p.name.includes("mask") ? 1n : BigInt(i * 37) % 30000n))
          : Float32Array.from({ length: count }, (_, i) => Math.sin(i));
      feeds[p.name] = new Tensor(p.type, data, p.dims);
    }
    const figures = { part: "latency", network, batch: 1 };
    const ways = small ? ["asItIs"] : ["asItIs", "threads"];
    for (const streams of small ? [1] : [1, 4]) {
      const session = await program.createSession({ threads: 1, streams });
      const device = openDevice?.(0);
      const kinds = { plain: feeds, pinned: {}, resident: {} };
      for (const [name, t] of Object.entries(feeds)) {
        kinds.pinned[name] = session.allocate(t.type, t.dims);
        kinds.pinned[name].data.set(t.data);
        if (!small) kinds.resident[name] = await session.upload(t);
      }
      if (small) delete kinds.resident;
      for (const way of ways) {
        // To a runner, a run of somebody else's.
        if (way === "threads") device.underWay++;
        try {
          if (streams === 1)
            for (const [kind, fed] of Object.entries(kinds)) {
              underWay(`${network}, ${kind}, ${way}`);
              figures[kind] ??= {};
              figures[kind][way] = await microseconds(() => session.run(fed), small ? 50 : 1500);
            }
          underWay(`${network}, 16 callers, ${streams} streams, ${way}`);
          const expected = Object.values(await session.run(feeds))[0].data;
          figures[`callers16streams${streams}`] ??= {};
          figures[`callers16streams${streams}`][way] = await throughput([session], () => feeds, 16, small ? 0.2 : 0.6, expected);
        } finally {
          if (way === "threads") device.underWay--;
        }
      }
      await session.dispose();
    }
    if (!small) {
      underWay(`${network}, the device's share`);
      figures.device = await deviceShare(program);
      figures.torch = torch[network];
    }
    row(figures);
  }
}
async function microseconds(work, runs) {
  for (let i = 0; i < runs / 4; i++) await work();
  const times = [];
  for (let i = 0; i < runs; i++) {
    const start = performance.now();
    await work();
    times.push(1000 * (performance.now() - start));
  }
  times.sort((a, b) => a - b);
  return {
    p50: times[runs >> 1],
    p10: times[Math.floor(runs / 10)],
    p90: times[Math.floor(0.9 * runs)],
    p99: times[Math.floor(0.99 * runs)],
  };
}
/** Microseconds of a replay with the copies of all inputs and outputs, and without. */
async function deviceShare(program) {
  const { cudaEngine } = await import("../../dist/engines/cuda/index.js");
  const folder = mkdtempSync(join(tmpdir(), "partita-bench-"));
  try {
    await program.save(join(folder, "bundle"));
    const { artifacts } = await import("../../dist/runtime/bundle.js").then((m) => m.loadBundle(join(folder, "bundle")));
    const executable = await cudaEngine.open(artifacts[0], { streams: 1, threads: 1 });
    const [whole, kernels] = [await executable.timeGraph({ copies: true }), await executable.timeGraph()];
    await executable.dispose();
    return { withCopies: 1000 * whole.median, kernels: 1000 * kernels.median };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
/** Torch's networks in CUDA graphs: page-locked inputs copied in, a replay, the result copied out and waited for; and the device's share of that. */
function latencyPeer(networks) {
  const python = process.env.PEERS ?? "python3";
  const child = spawnSync(python, [join(here, "latency_peer.py"), networks.join()], { encoding: "utf8", timeout: 60_000 });
  if (child.status !== 0) return { failed: `${child.error ?? ""}${child.stderr}`.slice(-600) };
  return JSON.parse(child.stdout.trim().split("\n").at(-1));
}

/** Gigabytes a second to each of the GPUs alone and to all at once, from pinned memory and from plain arrays, four uploads under way to each. */
async function floors() {
  if (small) return row({ part: "floors", what: "needs GPUs" });
  const { openDevice } = await import("../../dist/engines/cuda/device.js");
  const bytes = 32 * 3 * 224 * 224 * 4;
  const lanes = [0, 1].flatMap((ordinal) => {
    const { addon, context } = openDevice(ordinal);
    return Array.from({ length: 4 }, () => ({
      ordinal,
      addon,
      stream: addon.streamCreate(context),
      memory: addon.memAlloc(context, bytes),
      ring: addon.hostAlloc(context, bytes),
      pinned: addon.hostAlloc(context, bytes).buffer,
      plain: new Uint8Array(bytes).fill(1),
    }));
  });
  const rate = async (from, ordinals) => {
    underWay(`uploading from ${from} to ${ordinals}`);
    let total = 0;
    const drive = async (limit) => {
      total = 0;
      const start = performance.now();
      await Promise.all(
        lanes
          .filter((l) => ordinals.includes(l.ordinal))
          .map(async ({ addon, stream, memory, ring, [from]: array }) => {
            while (performance.now() - start < limit) {
              await addon.execute(stream, undefined, [[memory, 0, array, ring.handle, 0]], []);
              total += bytes;
            }
          }),
      );
      return total / (performance.now() - start) / 1e6;
    };
    await drive(200);
    return await drive(700);
  };
  const figures = { part: "floors", what: "GB/s to the GPUs in pieces of a batch of 32 floats (19.3 MB), 4 under way to each" };
  for (const from of ["pinned", "plain"]) {
    figures[from] = { first: await rate(from, [0]), second: await rate(from, [1]), both: await rate(from, [0, 1]) };
    figures[from].bytesPerItem = bytes / 32;
  }
  row(figures);
}

/** Each figure is a row as soon as it is there; the last of a kind of feeds has them all. */
async function twoDevices({ batch: full, bytes = false }) {
  const batch = small ? 1 : full;
  underWay(`compiling batch ${batch}`);
  const program = await compile(resnet50(batch, { bytes }), { target, precision: small ? "fp32" : "fp16", strict: !small });
  const feeds = batchOf(batch, bytes);
  const { type, dims, data } = feeds.input;
  const seconds = small ? 0.5 : 1.4;
  const streams = small ? 1 : 4;
  const found = {};
  const on = async (name, devices) => {
    underWay(`opening on ${name}, devices ${devices}`);
    const session = await program.createSession({ devices, streams, threads: 1 });
    try {
      const expected = Object.values(await session.run(feeds))[0].data;
      const pinned = session.allocate(type, dims);
      pinned.data.set(data);
      const kinds = { plain: () => feeds, pinned: () => ({ input: pinned }) };
      if (!small) {
        const there = [];
        for (const d of devices) there.push({ input: await session.upload(feeds.input, d) });
        kinds.resident = (caller) => there[caller % there.length];
      }
      for (const [kind, of] of Object.entries(kinds)) {
        underWay(`running on ${name}, devices ${devices}, ${kind}`);
        found[kind] ??= { part: "devices", network: "resnet50-fp16", batch, input: type, feeds: kind, streams };
        found[kind][name] = await throughput([session], of, (streams + 1) * devices.length, seconds, expected);
      }
    } finally {
      underWay(`closing ${name}, devices ${devices}`);
      await session.dispose();
    }
  };
  const told = () => {
    for (const f of Object.values(found)) {
      const single = [f.one, f.other, f.again].filter((x) => x !== undefined);
      row({ ...f, ratio: f.two.itemsPerSecond / Math.max(...single.map((x) => x.itemsPerSecond)) });
    }
  };
  await on("one", [0]);
  await on("two", [0, 1]);
  told();
  if (!small) await on("other", [1]);
  await on("again", [0]);
  told();
}

function mean(values) {
  return values.reduce((a, b) => a + b, 0) / values.length;
}

function sameFigures(a, b) {
  return ["part", "batch", "input", "feeds"].every((key) => a[key] === b[key]);
}
function report(path, gpu, driver) {
  const rows = readFileSync(path, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line))
    // A row of two devices that was followed by its complete one.
    .filter((r, i, all) => r.part !== "devices" || !all.slice(i + 1).some((o) => sameFigures(o, r)));
  const files = { "gpu-runtime": rows.filter((r) => r.part !== "latency"), "gpu-latency": rows.filter((r) => r.part === "latency") };
  for (const [name, own] of Object.entries(files)) {
    if (own.length === 0) continue;
    const figures = { name, date: new Date().toISOString().slice(0, 10), gpu, driver, rows: own };
    writeFileSync(join(here, `../results/${name}.json`), `${JSON.stringify(figures, null, 1)}\n`);
  }
}
