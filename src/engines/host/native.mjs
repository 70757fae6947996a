// ONNX Runtime as its binding has it, below onnxruntime-node's promises: a run begins and ends within the call. For worker threads, which have nothing else
// to do meanwhile, and for runs that are over before a message to a thread is written. Plain JavaScript for both sides; native.d.mts has the types.
import { createRequire } from "node:module";

/** Element types by ONNX's numbers; of those up to RETURNED the binding makes arrays, over others it ends the process. */
const TYPES =
  " float32 uint8 int8 uint16 int16 int32 int64 string bool float16 float64 uint32 uint64 complex64 complex128 bfloat16 float8e4m3fn float8e4m3fnuz float8e5m2 float8e5m2fnuz uint4 int4".split(
    " ",
  );
const RETURNED = 13;

export class NativeSession {
  #session;

  constructor(base, model, options) {
    const require = createRequire(base);
    const { binding, initOrt } = require("onnxruntime-node/dist/binding.js");
    initOrt();
    const start = performance.now();
    this.#session = new binding.InferenceSession();
    if (typeof model === "string") this.#session.loadModel(model, options);
    else this.#session.loadModel(model.buffer, model.byteOffset, model.byteLength, options);
    this.loadedMs = performance.now() - start;
    const wrong = this.#session.outputMetadata.find(({ isTensor, type }) => !isTensor || type > RETURNED);
    if (wrong === undefined) return;
    this.release();
    this.refused = { name: wrong.name, type: wrong.isTensor ? (TYPES[wrong.type] ?? `type ${wrong.type}`) : "no tensor" };
  }
  run(feeds, fetches) {
    // Options, even none, are read property by property: a thirtieth of a short run.
    return this.#session.run(feeds, fetches);
  }
  release() {
    this.#session.dispose();
  }
}

export function fetchesOf(names) {
  // Any name may be an output's, "__proto__" among them. Looking up a name in an ordinary object is faster.
  const fetches = names.includes("__proto__") ? Object.create(null) : {};
  for (const name of names) fetches[name] = null;
  return fetches;
}

export function tensorsOf(results, names) {
  return names.map((name) => {
    const t = results[name];
    if (t?.dims === undefined) throw new Error(`output '${name}' holds no tensor and cannot be returned`);
    return t;
  });
}

/**
 * A tensor as the binding reads it, without the checks of making one. It finds no elements in a Float16Array, which is what onnxruntime-node's own tensors
 * make of half bits where Node.js has such arrays: it gets the bits.
 */
export function fed(type, data, dims) {
  const half = type === "float16" && data[Symbol.toStringTag] === "Float16Array";
  return { type, data: half ? new Uint16Array(data.buffer, data.byteOffset, data.length) : data, dims, location: "cpu" };
}
