// Shapes through buckets, right at every size: ResNet-50 at batches 1 to 128 and BERT-base at sequences of 16 to 512 tokens, against the host engine.
//   node bench/gpu/buckets.mjs [result.json]
// Each model is a part with a deadline of its own: SECONDS, 150. The edges of buckets come first, then what lies between as far as the time goes; results are
// written as they come.
// Needs no files of models: the networks are those of networks.mjs, with seeded random weights. The build in dist/ is measured (npm run build).
// On a machine with a GPU, without anything set: the cuda engine, where every size is padded to its bucket; about 16 CPU cores for the references.
// TARGET=tensorrt builds a plan for each bucket's range instead. Without a GPU, for the script itself: TARGET=host STEP=37 LAYERS=2.
// PRECISION fp32, LIMIT 1e-3 (of the largest value), STEP 1 (sizes that are tried), LAYERS 12 and BATCH 4 (of BERT), MODELS resnet50,bert, TUNE none,
// THREADS of the reference on the host, all; PARTITA_CACHE_DIR as ever.
import { channel } from "node:diagnostics_channel";
import { renameSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { compile, Tensor } from "../../dist/index.js";
import { doctor } from "../../dist/runtime/doctor.js";
import { bert, resnet50 } from "./networks.mjs";
import { inParts, part, row, runPart, underWay } from "./parts.mjs";

const env = (name, fallback) => process.env[name] ?? fallback;
const target = env("TARGET", "cuda");
const precision = env("PRECISION", "fp32");
const limit = Number(env("LIMIT", "1e-3"));
const step = Number(env("STEP", "1"));
const layers = Number(env("LAYERS", "12"));
const wanted = env("MODELS", "resnet50,bert").split(",");
const seconds = Number(env("SECONDS", "150"));

/** Uniform in [-1, 1), the same on every machine. */
function uniform(n, seed) {
  let s = seed >>> 0;
  const out = new Float32Array(n);
  for (let i = 0; i < n; i++) {
    s = (Math.imul(s, 1664525) + 1013904223) >>> 0;
    out[i] = s / 2 ** 31 - 1;
  }
  return out;
}
const BATCH = Number(env("BATCH", "4"));
const tokens = uniform(BATCH * 512, 8);
let pixels;
const images = () => (pixels ??= uniform(128 * 3 * 224 * 224, 7));

const cases = {
  resnet50: {
    graph: () => resnet50("batch"),
    dynamic: { buckets: { batch: [1, 2, 4, 8, 16, 32, 64, 128] } },
    sizes: [1, 128],
    feeds: (n) => ({ input: new Tensor("float32", images().subarray(0, n * 3 * 224 * 224), [n, 3, 224, 224]) }),
    // Rows are apart on the host too: one run of all is the reference of each size, and some sizes are run by themselves to see that.
    rows: true,
  },
  bert: {
    graph: () => bert(BATCH, "seq", { layers }),
    dynamic: { buckets: { seq: [16, 32, 64, 128, 256, 512] }, masked: ["seq"] },
    sizes: [16, 512],
    feeds: (n) => {
      const ids = BigInt64Array.from({ length: BATCH * n }, (_, i) => BigInt(Math.floor((tokens[i % tokens.length] + 1) * 15000)));
      // The last sequence is shorter than the others.
      const mask = BigInt64Array.from({ length: BATCH * n }, (_, i) => (i < (BATCH - 1) * n || i % n < n - 5 ? 1n : 0n));
      return { input_ids: new Tensor("int64", ids, [BATCH, n]), attention_mask: new Tensor("int64", mask, [BATCH, n]) };
    },
    rows: false,
  },
};

const relative = (a, b) => {
  let [worst, scale] = [0, 0];
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  for (let i = 0; i < a.length; i++) {
    const d = Math.abs(a[i] - b[i]);
    worst = d <= worst ? worst : Number.isNaN(d) ? Number.POSITIVE_INFINITY : d;
    scale = Math.max(scale, Math.abs(b[i]));
  }
  return worst / scale;
};
const median = (list) => [...list].sort((a, b) => a - b)[list.length >> 1];

/** Sizes of both ends of every bucket, then the others, spread over all that is left at any moment. */
function inOrder([low, high], buckets) {
  const edges = [low, high, ...buckets.flatMap((b) => [b, b + 1])].filter((n) => n >= low && n <= high);
  const rest = Array.from({ length: Math.floor((high - low) / step) + 1 }, (_, i) => low + i * step);
  const spread = rest.map((n, i) => [(i * 0.6180339887) % 1, n]).sort((a, b) => a[0] - b[0]);
  return [...new Set([...edges, ...spread.map(([, n]) => n)])];
}

async function run(name) {
  const c = cases[name];
  const began = performance.now();
  const left = () => seconds - (performance.now() - began) / 1000;
  const events = {};
  const listen = (e) => {
    events[e.event] = (events[e.event] ?? 0) + 1;
  };
  channel("partita:cache").subscribe(listen);
  const remarks = [];
  const onRemark = (r) => remarks.push(r.text);
  underWay("the reference's session");
  const host = await (await compile(c.graph(), { target: "host" })).createSession({ threads: Number(env("THREADS", "0")) });
  underWay("compiling an engine for each bucket");
  const start = performance.now();
  const padding = target === "host";
  const dynamic = { ...c.dynamic, ...(padding ? { padding } : {}) };
  const program = await compile(c.graph(), { target, precision, dynamic, tune: env("TUNE", "none"), onRemark });
  const compileMs = performance.now() - start;
  underWay("opening the session");
  const opening = performance.now();
  const session = await program.createSession({ onRemark });
  const openMs = performance.now() - opening;
  const [low, high] = c.sizes;
  const [buckets] = Object.values(c.dynamic.buckets);
  const sizes = inOrder(c.sizes, buckets);
  underWay("the reference of all rows");
  const whole = c.rows ? await host.run(c.feeds(high)) : undefined;
  const wrong = [];
  const times = new Map();
  let worst = { size: 0, error: -1 };
  const [key] = session.outputs.map((o) => o.name);
  let tried = 0;
  const figures = () => ({
    part: name,
    model: name,
    target,
    precision,
    segments: program.report.toJSON().segments.map((s) => ({ engine: s.engine, nodes: s.nodes })),
    buckets: c.dynamic,
    ...(name === "bert" ? { batch: BATCH, layers } : {}),
    sizes: { from: low, to: high, step, tried, left: sizes.length - tried },
    limit,
    worst,
    wrong,
    cache: session.stats().cache,
    events,
    compileMs: Math.round(compileMs),
    openMs: Math.round(openMs),
    msByBucket: Object.fromEntries([...times].sort((a, b) => a[0] - b[0]).map(([b, list]) => [b, Number(median(list).toFixed(3))])),
    remarks: [...new Set(remarks)],
  });
  let told = performance.now();
  for (const n of sizes) {
    // What is left of the time is for the end.
    if (left() < Math.min(10, seconds / 5)) break;
    const feeds = c.feeds(n);
    underWay(`size ${n}`);
    const start = performance.now();
    const got = (await session.run(feeds))[key];
    const ms = performance.now() - start;
    const bucket = buckets.find((b) => b >= n);
    times.set(bucket, [...(times.get(bucket) ?? []), ms]);
    underWay(`the reference of size ${n}`);
    const direct = !c.rows || n === low || n === 3 || n === 17;
    const reference = direct ? (await host.run(feeds))[key] : undefined;
    const data = reference?.data ?? whole[key].data.subarray(0, got.data.length);
    const dims = reference?.dims ?? [n, ...whole[key].dims.slice(1)];
    const error = got.dims.join() === dims.join() ? relative(got.data, data) : Number.POSITIVE_INFINITY;
    if (error > worst.error) worst = { size: n, error };
    if (!(error <= limit)) wrong.push({ size: n, error, dims: got.dims });
    tried++;
    if (performance.now() - told > 2000) {
      told = performance.now();
      row(figures());
    }
  }
  row(figures());
  underWay("closing the sessions");
  await session.dispose();
  await host.dispose();
  channel("partita:cache").unsubscribe(listen);
}

/** Everything so far, in place of what was there. */
function write(found) {
  const cases = [...found.values()];
  const result = { schema: "partita.buckets/1", date: new Date().toISOString().slice(0, 10), machine, cases };
  const text = `${JSON.stringify(result, null, 1)}\n`;
  if (process.argv[2] === undefined) return text;
  writeFileSync(`${process.argv[2]}.part`, text);
  renameSync(`${process.argv[2]}.part`, process.argv[2]);
  return text;
}

let machine = [];
if (part !== undefined) {
  const parts = Object.fromEntries(Object.keys(cases).map((name) => [name, () => run(name)]));
  parts.machine = async () => row((await doctor()).filter((f) => /GPU|driver|CPU|Node/i.test(f.name)).map((f) => `${f.name}: ${f.detail}`));
  await runPart(parts);
} else {
  const found = new Map();
  const limits = { machine: 30, ...Object.fromEntries(wanted.map((name) => [name, seconds])) };
  await inParts(fileURLToPath(import.meta.url), limits, (figures, name) => {
    if (Array.isArray(figures)) machine = figures;
    else found.set(name, { ...found.get(name), ...figures });
    write(found);
  });
  process.stdout.write(write(found));
  const bad = (c) => c.failed !== undefined || c.overran !== undefined || c.wrong === undefined || c.wrong.length > 0;
  process.exit([...found.values()].some(bad) ? 1 : 0);
}
