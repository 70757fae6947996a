// Models with recorded runs, with target cuda in single and half precision: their results against the recorded ones, the share of the arithmetic on the
// GPU, and what stays on the host, with reasons.
//   node bench/gpu/models.mjs DATA results.jsonl [part of a name]    compiles and runs; several processes share the models (JOBS, 4 when absent)
//   node bench/gpu/models.mjs --report results.jsonl...              writes bench/results/gpu-models.json; notes of rows that are still beyond stay
// DRY=1 compiles and runs nothing: that needs no GPU. DATA holds the sets torch, tf, real and real_tf, or any of them. DIST names another build.
import { fork } from "node:child_process";
import { appendFileSync, existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const SETS = ["torch", "tf", "real", "real_tf"];
const PRECISIONS = (process.env.PRECISIONS ?? "fp32,fp16").split(",");
const LIMITS = { fp32: 1e-3, fp16: 2e-2 };
/** Their scores tie, so which of equal boxes comes first is arbitrary: dims and sorted values are compared. */
const TIED = new Set(["torch/ssdlite320"]);
/** TensorFlow alone makes these from strings and sound: the graph is cut behind them, and fed with what the recorded run has there. */
const CUTS = { "str:0": "StringToHashBucketFast:0", "Mfcc:0": "Mfcc:0" };

if (process.send !== undefined) serve();
else if (process.argv[2] === "--report") report(process.argv.slice(3));
else await share(...process.argv.slice(2));

// ---- models -------------------------------------------------------------------------------------------------------------------------------

/** Every form of every model that has a recorded run: {name, path, io, bytes}. */
function models(data) {
  const size = (path) =>
    statSync(path).isDirectory() ? readdirSync(path).reduce((n, f) => n + size(join(path, f)), 0) : statSync(path).size;
  return SETS.filter((set) => existsSync(join(data, set))).flatMap((set) =>
    readdirSync(join(data, set))
      .sort()
      .flatMap((folder) => {
        const at = join(data, set, folder);
        if (!statSync(at).isDirectory() || !existsSync(join(at, "io.npz"))) return [];
        const forms = readdirSync(at).filter((f) => f.endsWith(".onnx") || f.endsWith(".pb") || f === "saved_model");
        return forms.map((form) => ({
          name: forms.length === 1 ? `${set}/${folder}` : `${set}/${folder}/${form}`,
          path: join(at, form),
          io: join(at, "io.npz"),
          bytes: size(join(at, form)),
        }));
      }),
  );
}

/** The largest models first, so that none is left alone at the end. */
async function share(data, out, part = "") {
  const queue = models(resolve(data))
    .filter((m) => m.name.includes(part))
    .sort((a, b) => b.bytes - a.bytes);
  const total = queue.length * PRECISIONS.length;
  let [done, wrong] = [0, 0];
  const one = () =>
    new Promise((end) => {
      const child = fork(fileURLToPath(import.meta.url), { stdio: ["ignore", "inherit", "inherit", "ipc"] });
      let at;
      const next = () => {
        at = queue.shift();
        if (at === undefined) child.disconnect();
        else child.send(at);
      };
      const say = (row) => {
        done++;
        if (row.failed !== undefined || row.ok === false) wrong++;
        if (out !== undefined) appendFileSync(out, `${JSON.stringify(row)}\n`);
        const { remains = [], ...head } = row;
        console.log(`${done}/${total} ${JSON.stringify({ ...head, remains: remains.length }).slice(0, 420)}`);
      };
      child.on("message", (row) => {
        if (row === "next") next();
        else say(row);
      });
      child.on("exit", (code, signal) => {
        // A process that died took its model with it; the others go on.
        if (at !== undefined) say({ name: at.name, failed: `the process ended with ${signal ?? code}` });
        end(at === undefined ? undefined : one());
      });
    });
  await Promise.all(Array.from({ length: Number(process.env.JOBS ?? 4) }, one));
  console.log(`${done} runs, ${wrong} wrong`);
  process.exitCode = wrong === 0 ? 0 : 1;
}

// ---- one model ----------------------------------------------------------------------------------------------------------------------------

function serve() {
  process.on("message", async (m) => {
    for (const precision of PRECISIONS) {
      let row;
      try {
        row = await measure(m, precision);
      } catch (error) {
        row = { failed: String(error?.message ?? error).slice(0, 2000) };
      }
      process.send({ name: m.name, bytes: m.bytes, precision, ...row });
    }
    process.send("next");
  });
  process.send("next");
}

/** What of a recorded run is fed and what is expected; `in|name`, `out|name`, or `in_0`, `out_0` in the graph's order. */
function recordedRun(io) {
  const cut = Object.keys(CUTS).find((name) => io.has(`out|${name}`) && (io.get(`out|${name}`).type === "string" || name === "Mfcc:0"));
  const side = (prefix) => new Map([...io].filter(([k]) => k.startsWith(prefix)).map(([k, t]) => [k.replace(/^(in|out)[|]/, ""), t]));
  const [given, wanted] = [side("in"), side("out")];
  if (cut === undefined) return { given, wanted };
  const t = io.get(`out|${cut}`);
  wanted.delete(cut);
  if (cut === "Mfcc:0") return { given: new Map([[CUTS[cut], t]]), wanted, inputs: [CUTS[cut]] };
  given.delete("s:0");
  given.set(CUTS[cut], { type: "int64", dims: t.dims, data: BigInt64Array.from(t.data, BigInt) });
  return { given, wanted: new Map([...wanted, [cut, t]]), inputs: [CUTS[cut]] };
}

async function measure(m, precision) {
  const { readNpz, Tensor } = await import(new URL("index.js", base()));
  const { compile, plan } = await import(new URL("compile.js", base()));
  const io = readNpz(m.io);
  const { given, wanted, inputs } = recordedRun(io);
  const named = [...io.keys()].some((k) => k.includes("|"));
  const common = {
    target: "cuda",
    precision,
    tune: "none",
    computeCapability: 9,
    ...(named ? { outputs: [...wanted.keys()] } : {}),
    ...(inputs === undefined ? {} : { inputs }),
  };
  const { original } = await plan(m.path, common, { unbuilt: true });
  const names = original.inputs.map((v) => original.values[v].name);
  const pick = (from, prefix, name, i) =>
    from.get(name) ?? from.get(name.replace(/:0$/, "")) ?? from.get(`${name}:0`) ?? from.get(`${prefix}_${i}`);
  const feeds = Object.fromEntries(names.map((name, i) => [name, pick(given, "in", name, i)]));
  for (const [name, t] of Object.entries(feeds)) if (t === undefined) throw new Error(`nothing is recorded for the input '${name}'`);
  const started = performance.now();
  const program = await compile(m.path, { ...common, shapes: Object.fromEntries(Object.entries(feeds).map(([k, t]) => [k, t.dims])) });
  const row = { compileMs: Math.round(performance.now() - started), ...placement(program.report.data) };
  if (process.env.DRY === "1") return row;
  const session = await program.createSession();
  try {
    const found = await session.run(Object.fromEntries(program.inputs.map(({ name }) => [name, tensor(feeds[name], Tensor)])));
    const again = await session.run(Object.fromEntries(program.inputs.map(({ name }) => [name, tensor(feeds[name], Tensor)])));
    let [error, place, absolute, beyond, of, compared] = [0, undefined, 0, 0, 0, 0];
    program.outputs.forEach(({ name }, i) => {
      const expected = pick(wanted, "out", name, i);
      if (expected === undefined) return;
      compared++;
      const c = compare(found[name], expected, TIED.has(m.name), LIMITS[precision]);
      if (c.error > error || place === undefined) [error, place] = [c.error, c.index === undefined ? name : `${name}[${c.index}]`];
      absolute = Math.max(absolute, c.absolute);
      beyond += c.beyond;
      of += c.beyond === 0 ? 0 : expected.data.length;
      const same = compare(again[name], found[name], false, 0);
      if (same.beyond !== 0) throw new Error(`'${name}' differs between two runs: ${JSON.stringify(same)}`);
    });
    if (compared === 0) throw new Error("nothing was compared");
    return {
      ...row,
      outputs: compared,
      error: error === Number.POSITIVE_INFINITY ? "Infinity" : error,
      place,
      absolute,
      ...(beyond === 0 ? {} : { beyond, of }),
      ok: beyond === 0,
    };
  } finally {
    await session.dispose();
  }
}
const base = () =>
  new URL(`${process.env.DIST === undefined ? new URL("../../dist", import.meta.url) : `file://${resolve(process.env.DIST)}`}/`);
const tensor = (t, Tensor) => (t instanceof Tensor ? t : new Tensor(t.type, t.data, t.dims));

/** Segments, the share of the arithmetic on the GPU, and what is left for the host: operators with how many and why. */
function placement(data) {
  const onGpu = new Set(data.segments.flatMap((s, i) => (s.engine === "cuda" ? [i] : [])));
  const remains = new Map();
  for (const n of data.nodes) {
    if (onGpu.has(n.segment)) continue;
    const why = n.notOn.find((r) => r.engine === "cuda")?.why ?? "it lies between nodes of the host";
    const key = `${n.op}: ${why}`;
    const known = remains.get(key) ?? { op: n.op, why, nodes: 0, flops: 0 };
    known.nodes++;
    known.flops += n.flops;
    remains.set(key, known);
  }
  return {
    segments: data.segments.map((s) => `${s.name}:${s.nodes}`),
    flops: data.quality.flops,
    share: data.quality.flopsCovered,
    remains: [...remains.values()].sort((a, b) => b.flops - a.flops),
  };
}

/** Smaller differences are none: results of a sigmoid far from its middle are smaller than what frameworks' own approximations differ by. */
const FLOOR = 1e-6;

/** Largest difference, also as a share of the largest value, where it is, and how many elements are beyond the limit: integers and strings that differ at all. */
function compare(found, expected, tied, limit) {
  if (found?.type !== expected.type || found.dims.join() !== expected.dims.join())
    throw new Error(`it is ${found?.type}[${found?.dims}], expected ${expected.type}[${expected.dims}]`);
  const float = /^float/.test(expected.type);
  const order = (t) => (tied ? Array.from(t.data, Number).sort((a, b) => a - b) : t.data);
  const [a, b] = [order(found), order(expected)];
  // What else than scores depends on the order of boxes is compared by its dims alone.
  if (tied && !(float && expected.dims.length === 1)) return { error: 0, absolute: 0, beyond: 0 };
  if (!float) return { error: 0, absolute: 0, beyond: b.reduce((n, y, i) => n + (a[i] === y ? 0 : 1), 0) };
  let [absolute, largest, index] = [0, 0, undefined];
  const differences = new Float64Array(b.length);
  for (let i = 0; i < b.length; i++) {
    const [x, y] = [a[i], b[i]];
    if (Number.isFinite(y)) largest = Math.max(largest, Math.abs(y));
    const d = Object.is(x, y) || x === y || (Number.isNaN(x) && Number.isNaN(y)) ? 0 : Math.abs(x - y);
    differences[i] = Number.isNaN(d) ? Number.POSITIVE_INFINITY : d;
    if (differences[i] > absolute) [absolute, index] = [differences[i], i];
  }
  const most = limit === 0 ? 0 : Math.max(limit * largest, FLOOR);
  return { error: absolute / (largest || 1), absolute, index, beyond: differences.reduce((n, d) => n + (d > most ? 1 : 0), 0) };
}

// ---- report -------------------------------------------------------------------------------------------------------------------------------

/** Later lines about the same model and precision replace earlier ones. */
function report(paths) {
  const file = new URL("../results/gpu-models.json", import.meta.url);
  // Why a row is beyond its limit was found out by hand; it stands until the row is within.
  const notes = new Map(JSON.parse(readFileSync(file, "utf8")).rows.map((r) => [`${r.name} ${r.precision}`, r.note]));
  const rows = new Map();
  for (const line of paths.flatMap((p) => readFileSync(p, "utf8").split("\n")))
    if (line.startsWith("{")) {
      const { bytes, flops, compileMs, absolute, ...row } = JSON.parse(line);
      const key = `${row.name} ${row.precision}`;
      const note = row.ok ? undefined : notes.get(key);
      rows.set(key, {
        ...row,
        ...(note === undefined ? {} : { note }),
        ...(row.error > 0 ? { error: Number(row.error.toPrecision(3)) } : {}),
        ...(row.error > LIMITS[row.precision] ? { absolute } : {}),
        ...(row.share === undefined ? {} : { share: Number(row.share.toFixed(6)) }),
      });
    }
  const sorted = [...rows.values()].sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : a.precision < b.precision ? 1 : -1));
  const figures = {
    name: "gpu-models",
    date: new Date().toISOString().slice(0, 10),
    gpu: process.env.GPU,
    driver: process.env.DRIVER,
    what: "recorded runs of models reproduced with target cuda, untuned; error: largest difference as a share of the output's largest value, and where; share: of the FLOPs on the GPU; remains: nodes on the host and why; every model ran twice with equal results; ok: within 1e-3 (fp32) or 2e-2 (fp16), or apart by less than 1e-6",
    rows: sorted,
  };
  writeFileSync(file, `${JSON.stringify(figures, null, 1)}\n`);
}
