// Shapes through buckets, right at every size: ResNet-50 at batches 1 to 128 and BERT-base at sequences of 16 to 512 tokens, against the host engine.
//   node bench/gpu/buckets.mjs [result.json]
// Needs no files of models: the networks are those of networks.mjs, with seeded random weights. The build in dist/ is measured (npm run build).
// On a machine with a GPU, without anything set: the cuda engine, where every size is padded to its bucket; about 16 CPU cores for the references.
// TARGET=tensorrt builds a plan for each bucket's range instead. Without a GPU, for the script itself: TARGET=host STEP=37 LAYERS=2.
// PRECISION fp32, LIMIT 1e-3 (of the largest value), STEP 1 (sizes that are tried), LAYERS 12 (of BERT), MODELS resnet50,bert, TUNE none,
// PARTITA_CACHE_DIR as ever.
import { channel } from "node:diagnostics_channel";
import { writeFileSync } from "node:fs";
import { compile, Tensor } from "../../dist/index.js";
import { doctor } from "../../dist/runtime/doctor.js";
import { bert, resnet50 } from "./networks.mjs";

const env = (name, fallback) => process.env[name] ?? fallback;
const target = env("TARGET", "cuda");
const precision = env("PRECISION", "fp32");
const limit = Number(env("LIMIT", "1e-3"));
const step = Number(env("STEP", "1"));
const layers = Number(env("LAYERS", "12"));
const wanted = env("MODELS", "resnet50,bert").split(",");

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
const images = uniform(128 * 3 * 224 * 224, 7);
const tokens = uniform(4 * 512, 8);
const BATCH = 4;

const cases = {
  resnet50: {
    graph: () => resnet50("batch"),
    dynamic: { buckets: { batch: [1, 2, 4, 8, 16, 32, 64, 128] } },
    sizes: [1, 128],
    feeds: (n) => ({ input: new Tensor("float32", images.subarray(0, n * 3 * 224 * 224), [n, 3, 224, 224]) }),
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

async function run(name) {
  const c = cases[name];
  const events = {};
  const listen = (e) => {
    events[e.event] = (events[e.event] ?? 0) + 1;
  };
  channel("partita:cache").subscribe(listen);
  const remarks = [];
  const onRemark = (r) => remarks.push(r.text);
  const host = await (await compile(c.graph(), { target: "host" })).createSession();
  const start = performance.now();
  const padding = target === "host";
  const dynamic = { ...c.dynamic, ...(padding ? { padding } : {}) };
  const program = await compile(c.graph(), { target, precision, dynamic, tune: env("TUNE", "none"), onRemark });
  const compileMs = performance.now() - start;
  const opening = performance.now();
  const session = await program.createSession({ onRemark });
  const openMs = performance.now() - opening;
  const [low, high] = c.sizes;
  const sizes = Array.from({ length: Math.floor((high - low) / step) + 1 }, (_, i) => low + i * step);
  if (sizes.at(-1) !== high) sizes.push(high);
  const whole = c.rows ? await host.run(c.feeds(high)) : undefined;
  const wrong = [];
  const times = new Map();
  let worst = { size: 0, error: -1 };
  const [key] = session.outputs.map((o) => o.name);
  for (const n of sizes) {
    const feeds = c.feeds(n);
    const began = performance.now();
    const got = (await session.run(feeds))[key];
    const ms = performance.now() - began;
    const bucket = Object.values(c.dynamic.buckets)[0].find((b) => b >= n);
    times.set(bucket, [...(times.get(bucket) ?? []), ms]);
    const direct = !c.rows || n === low || n === 3 || n === 17;
    const reference = direct ? (await host.run(feeds))[key] : undefined;
    const data = reference?.data ?? whole[key].data.subarray(0, got.data.length);
    const dims = reference?.dims ?? [n, ...whole[key].dims.slice(1)];
    const error = got.dims.join() === dims.join() ? relative(got.data, data) : Number.POSITIVE_INFINITY;
    if (error > worst.error) worst = { size: n, error };
    if (!(error <= limit)) wrong.push({ size: n, error, dims: got.dims });
  }
  const { cache } = session.stats();
  await session.dispose();
  await host.dispose();
  channel("partita:cache").unsubscribe(listen);
  return {
    model: name,
    target,
    precision,
    segments: program.report.toJSON().segments.map((s) => ({ engine: s.engine, nodes: s.nodes })),
    buckets: c.dynamic,
    sizes: { from: low, to: high, step, tried: sizes.length },
    limit,
    worst,
    wrong,
    cache,
    events,
    compileMs: Math.round(compileMs),
    openMs: Math.round(openMs),
    msByBucket: Object.fromEntries([...times].map(([bucket, list]) => [bucket, Number(median(list).toFixed(3))])),
    remarks: [...new Set(remarks)],
  };
}

const found = [];
for (const name of wanted) found.push(await run(name));
const machine = (await doctor()).filter((f) => /GPU|driver|CPU|Node/i.test(f.name)).map((f) => `${f.name}: ${f.detail}`);
const result = { schema: "partita.buckets/1", date: new Date().toISOString().slice(0, 10), machine, cases: found };
const text = `${JSON.stringify(result, null, 1)}\n`;
if (process.argv[2] !== undefined) writeFileSync(process.argv[2], text);
process.stdout.write(text);
if (found.some((c) => c.wrong.length > 0)) process.exitCode = 1;
process.exit();
