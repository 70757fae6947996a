// One worker thread of the host engine: ONNX Runtime's session creation and runs block the thread that calls them, so they happen here.
// Messages in: create, run, runs (several small ones), profile, dispose; optimize, reducer, reduce, collect. Messages out: the same id with a result or an error's text. Plain JavaScript,
// so that the file runs from the sources and from the package alike.
import { readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { parentPort, workerData } from "node:worker_threads";
import { fed, fetchesOf, NativeSession, tensorsOf } from "./native.mjs";
import { pack, packedBytes, unpack } from "./packing.mjs";

const ort = createRequire(workerData.base)("onnxruntime-node");
const sessions = new Map();
/** What takes in the outputs of runs in this thread, by id: see src/quantize/reducer.mjs. */
const reducers = new Map();

/** ONNX Runtime refuses shared memory as input; such data is copied once, here. */
const own = (data) => (ArrayBuffer.isView(data) && data.buffer instanceof SharedArrayBuffer ? data.slice() : data);

/** Of tensors as they come in a message. */
function feedsOf(given) {
  // Any name may be an input's, "__proto__" among them.
  const feeds = Object.create(null);
  for (const [name, type, data, dims] of given)
    feeds[name] = type === "float16" ? fed(type, own(data), dims) : new ort.Tensor(type, own(data), dims);
  return feeds;
}
/** ONNX Runtime's output buffers belong to their call alone; they move to the caller without a copy. */
const buffersOf = (results) => [...new Set(results.filter((t) => ArrayBuffer.isView(t.data)).map((t) => t.data.buffer))];

async function handle(message) {
  switch (message.op) {
    case "create": {
      const model = typeof message.model === "string" ? message.model : new Uint8Array(message.model);
      const session = new NativeSession(workerData.base, model, message.options);
      if (session.refused !== undefined) return { refused: session.refused };
      const { inputs, outputs } = message;
      sessions.set(message.session, Object.assign(session, { inputs, outputs, fetches: fetchesOf(outputs) }));
      return { loadedMs: session.loadedMs };
    }
    case "runs":
      return runs(message);
    case "run": {
      const session = sessions.get(message.session);
      if (session === undefined) throw new Error("the session was disposed");
      const feeds = feedsOf(message.feeds);
      const start = performance.now();
      const results = tensorsOf(session.run(feeds, session.fetches), session.outputs);
      return { out: results.map((t) => [t.type, t.data, t.dims]), ms: performance.now() - start, transfer: buffersOf(results) };
    }
    case "profile":
      return await profiled(message);
    case "optimize": {
      // What ONNX Runtime makes of a model on this machine, as a model.
      const path = join(message.folder, "optimized.onnx");
      const session = await ort.InferenceSession.create(message.model, { ...message.options, optimizedModelFilePath: path });
      await session.release();
      return { model: readFileSync(path) };
    }
    case "reducer": {
      const { open } = await import(message.module);
      cutShort();
      reducers.set(message.reducer, await open(message.settings));
      return {};
    }
    case "reduce":
      reduce(sessions.get(message.session), reducers.get(message.reducer), message);
      return {};
    case "collect": {
      const { seen, transfer } = reducers.get(message.reducer).collect();
      return { seen, transfer };
    }
    case "dispose": {
      reducers.delete(message.reducer);
      const session = sessions.get(message.session);
      sessions.delete(message.session);
      session?.release();
      return {};
    }
    default:
      throw new Error(`unknown message '${message.op}'`);
  }
}

/** Several small runs, one after the other: results, too, go back as one buffer, but those that are large. */
function runs({ of, sessions: ids, packed }) {
  const lists = unpack(packed, false);
  const errors = [];
  const large = [];
  const transfer = new Set();
  const small = [];
  const ms = [];
  let bytes = 0;
  lists.forEach((tensors, i) => {
    const start = performance.now();
    small.push([]);
    try {
      const session = sessions.get(ids[of?.[i] ?? 0]);
      if (session === undefined) throw new Error("the session was disposed");
      const { inputs, outputs } = session;
      const feeds = Object.create(null);
      tensors.forEach(({ type, data, dims }, k) => {
        feeds[inputs[k]] = fed(type, data, dims);
      });
      const found = tensorsOf(session.run(feeds, session.fetches), outputs);
      const size = packedBytes(found);
      if (size === undefined) {
        large.push([i, found.map((t) => [t.type, t.data, t.dims])]);
        for (const buffer of buffersOf(found)) transfer.add(buffer);
      } else {
        small[i] = found;
        bytes += size;
      }
    } catch (error) {
      errors.push([i, error instanceof Error ? error.message : String(error)]);
    }
    ms.push(performance.now() - start);
  });
  const results = pack(small, bytes);
  return { packed: results, large, errors, ms, transfer: [...transfer, results.buffer] };
}

/** Runs a model in a session of its own under ONNX Runtime's profiler, which writes a file when it ends, and gives what of its events is wanted. */
async function profiled({ model, options, feeds: given, outputs, folder, runs }) {
  const source = typeof model === "string" ? model : new Uint8Array(model);
  const profile = { enableProfiling: true, profileFilePrefix: join(folder, "profile") };
  const session = await ort.InferenceSession.create(source, { ...options, ...profile });
  try {
    const feeds = feedsOf(given);
    for (let i = 0; i < runs; i++) await session.run(feeds, outputs);
    session.endProfiling();
  } finally {
    await session.release();
  }
  const files = readdirSync(folder).filter((name) => name.endsWith(".json"));
  const events = files.flatMap((name) => JSON.parse(readFileSync(join(folder, name), "utf8")));
  return { events: events.map((e) => ({ cat: e.cat, name: e.name, ts: e.ts, dur: e.dur, op: e.args?.op_name })) };
}

/**
 * The binding copies every output into new memory before it makes a tensor of it, those too that were written where they were wanted; as much
 * time as the counting takes. While `inPlace` holds, the first tensor that is made ends that: the run itself is over by then.
 */
const DONE = new Error("the outputs are in place");
let inPlace = false;
const cutShort = () =>
  Object.defineProperty(ort.Tensor.prototype, "cpuData", {
    configurable: true,
    set(value) {
      if (inPlace) throw DONE;
      Object.defineProperty(this, "cpuData", { value, writable: true, configurable: true, enumerable: true });
    },
  });

/** Tensors over a reducer's places, made once. */
const wanted = new WeakMap();

/** A run whose outputs stay here. Once their dims are known, ONNX Runtime writes them where the reducer reads them. */
function reduce(session, reducer, message) {
  const feeds = feedsOf(message.feeds);
  const into = reducer.fetches(message.feeds);
  let results;
  if (into !== undefined) {
    let fetches = wanted.get(into);
    if (fetches === undefined) {
      fetches = fetchesOf(session.outputs);
      for (const { name, data, dims } of into) fetches[name] = new ort.Tensor("float32", data, dims);
      wanted.set(into, fetches);
    }
    try {
      inPlace = into.length === session.outputs.length;
      results = session.run(feeds, fetches);
    } catch (error) {
      if (error === DONE) {
        reducer.reduce(message.feeds, [], into);
        return;
      }
      if (!/shape/i.test(error.message)) throw error;
      reducer.unsteady(message.feeds);
    } finally {
      inPlace = false;
    }
  }
  const placed = results === undefined ? undefined : into;
  results ??= session.run(feeds, session.fetches);
  const outputs = tensorsOf(results, session.outputs).map((t, i) => [session.outputs[i], t.type, t.data, t.dims]);
  reducer.reduce(message.feeds, outputs, placed);
}

parentPort.on("message", (message) => {
  handle(message).then(
    ({ transfer, ...result }) => parentPort.postMessage({ id: message.id, result }, transfer),
    (error) => parentPort.postMessage({ id: message.id, error: error instanceof Error ? error.message : String(error) }),
  );
});
