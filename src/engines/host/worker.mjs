// One worker thread of the host engine: ONNX Runtime's session creation and runs block the thread that calls them, so they happen here.
// Messages in: create, run, dispose. Messages out: the same id with a result or an error's text. Plain JavaScript, so that the file runs
// from the sources and from the package alike.
import { createRequire } from "node:module";
import { parentPort, workerData } from "node:worker_threads";

const ort = createRequire(workerData.base)("onnxruntime-node");
const sessions = new Map();
const RETURNED = new Set("float32 float64 float16 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool string".split(" "));

/** ONNX Runtime refuses shared memory as input; such data is copied once, here. */
const own = (data) => (ArrayBuffer.isView(data) && data.buffer instanceof SharedArrayBuffer ? data.slice() : data);

async function handle(message) {
  switch (message.op) {
    case "create": {
      const model = typeof message.model === "string" ? message.model : new Uint8Array(message.model);
      const session = await ort.InferenceSession.create(model, message.options);
      // The binding ends the process over results of other types, so they are refused before a run.
      for (const m of session.outputMetadata) {
        if (m.isTensor && RETURNED.has(m.type)) continue;
        await session.release();
        return { refused: { name: m.name, type: m.isTensor ? m.type : "no tensor" } };
      }
      sessions.set(message.session, session);
      return {};
    }
    case "run": {
      const session = sessions.get(message.session);
      if (session === undefined) throw new Error("the session was disposed");
      // Any name may be an input's, "__proto__" among them.
      const feeds = Object.create(null);
      for (const [name, type, data, dims] of message.feeds) feeds[name] = new ort.Tensor(type, own(data), dims);
      const results = await session.run(feeds, message.outputs);
      const out = [];
      const transfer = [];
      for (const name of message.outputs) {
        const t = results[name];
        if (t?.dims === undefined) throw new Error(`output '${name}' holds no tensor and cannot be returned`);
        out.push([t.type, t.data, t.dims]);
        // ONNX Runtime's output buffers belong to this call alone; they move to the caller without a copy.
        if (ArrayBuffer.isView(t.data) && !transfer.includes(t.data.buffer)) transfer.push(t.data.buffer);
      }
      return { out, transfer };
    }
    case "dispose": {
      const session = sessions.get(message.session);
      sessions.delete(message.session);
      await session?.release();
      return {};
    }
    default:
      throw new Error(`unknown message '${message.op}'`);
  }
}

parentPort.on("message", (message) => {
  handle(message).then(
    ({ transfer, ...result }) => parentPort.postMessage({ id: message.id, result }, transfer),
    (error) => parentPort.postMessage({ id: message.id, error: error instanceof Error ? error.message : String(error) }),
  );
});
