// @ts-check
/**
 * The Open Inference Protocol, version 2 (KServe's and Triton's), over HTTP: requests to feeds and results to responses, as JSON and with the
 * binary tensor extension. A request is believed in nothing: every name, type, dim, count and value is checked before memory is taken for it.
 */
import { Tensor } from "partita";

/**
 * @typedef {import("partita").Port} Port
 * @typedef {import("partita").Tensor} AnyTensor
 * @typedef {{ maxDim: number, maxElements: number }} Limits
 * @typedef {{ name: string, shape: number[], datatype: string, parameters?: Record<string, unknown>, data?: unknown[] }} InputEntry
 * @typedef {{ name: string, parameters?: Record<string, unknown> }} OutputEntry
 * @typedef {{ id?: string, parameters?: Record<string, unknown>, inputs: InputEntry[], outputs?: OutputEntry[] }} Header
 * @typedef {{ feeds: Record<string, AnyTensor>, outputs: { name: string, binary: boolean }[] }} Request
 * @typedef {{ headers: Record<string, string>, body: Buffer }} Response
 */

/** The protocol's names of types by Partita's. */
const DATATYPES = /** @type {const} */ ({
  bool: "BOOL",
  uint8: "UINT8",
  uint16: "UINT16",
  uint32: "UINT32",
  uint64: "UINT64",
  int8: "INT8",
  int16: "INT16",
  int32: "INT32",
  int64: "INT64",
  float16: "FP16",
  float32: "FP32",
  float64: "FP64",
  bfloat16: "BF16",
  string: "BYTES",
});
/** @typedef {keyof typeof DATATYPES} DType */

const ARRAYS = {
  bool: Uint8Array,
  uint8: Uint8Array,
  uint16: Uint16Array,
  uint32: Uint32Array,
  uint64: BigUint64Array,
  int8: Int8Array,
  int16: Int16Array,
  int32: Int32Array,
  int64: BigInt64Array,
  float16: Uint16Array,
  float32: Float32Array,
  float64: Float64Array,
  bfloat16: Uint16Array,
};

/** @type {Readonly<Record<string, readonly [least: number, most: number]>>} */
const RANGES = {
  uint8: [0, 0xff],
  uint16: [0, 0xffff],
  uint32: [0, 0xffffffff],
  uint64: [0, Number.MAX_SAFE_INTEGER],
  int8: [-0x80, 0x7f],
  int16: [-0x8000, 0x7fff],
  int32: [-0x80000000, 0x7fffffff],
  int64: [Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER],
};

export const HEADER_LENGTH = "inference-header-content-length";

/** A request at fault, with the HTTP status that says so. */
export class ProtocolError extends Error {
  /**
   * @param {string} message
   * @param {number} [statusCode]
   */
  constructor(message, statusCode = 400) {
    super(message);
    this.statusCode = statusCode;
  }
}

const PARAMETERS = {
  type: "object",
  maxProperties: 64,
  properties: {
    binary_data: { type: "boolean" },
    binary_data_output: { type: "boolean" },
    binary_data_size: { type: "integer", minimum: 0 },
  },
  additionalProperties: { type: ["string", "number", "boolean"] },
};

/** JSON Schema of a request's JSON part; what depends on the model is checked by `decodeRequest`. */
export const requestSchema = {
  type: "object",
  required: ["inputs"],
  additionalProperties: false,
  properties: {
    id: { type: "string", maxLength: 256 },
    parameters: PARAMETERS,
    inputs: {
      type: "array",
      maxItems: 1024,
      items: {
        type: "object",
        required: ["name", "shape", "datatype"],
        additionalProperties: false,
        properties: {
          name: { type: "string", maxLength: 1024 },
          shape: { type: "array", maxItems: 32, items: { type: "integer" } },
          datatype: { enum: Object.values(DATATYPES) },
          parameters: PARAMETERS,
          data: { type: "array" },
        },
      },
    },
    outputs: {
      type: "array",
      minItems: 1,
      maxItems: 1024,
      items: {
        type: "object",
        required: ["name"],
        additionalProperties: false,
        properties: { name: { type: "string", maxLength: 1024 }, parameters: PARAMETERS },
      },
    },
  },
};

/**
 * Cuts a body into its JSON part and the binary tensors behind it.
 * @param {Buffer} body
 * @param {string | string[] | undefined} headerLength the Inference-Header-Content-Length header; without it all is JSON
 * @param {number} maxJsonBytes
 * @returns {{ header: unknown, binary: Buffer }}
 */
export function splitBody(body, headerLength, maxJsonBytes) {
  let length = body.length;
  if (headerLength !== undefined) {
    if (typeof headerLength !== "string" || !/^\d{1,15}$/.test(headerLength) || Number(headerLength) > body.length)
      throw new ProtocolError(`Inference-Header-Content-Length is '${headerLength}', the body has ${body.length} bytes`);
    length = Number(headerLength);
  }
  // Parsing JSON holds up every other request: large tensors are for the binary extension.
  if (length > maxJsonBytes)
    throw new ProtocolError(`the JSON part has ${length} bytes, more than ${maxJsonBytes}: send large tensors as binary data`, 413);
  try {
    return { header: JSON.parse(body.toString("utf8", 0, length)), binary: body.subarray(length) };
  } catch {
    throw new ProtocolError("the JSON part of the body is not valid JSON");
  }
}

/**
 * A request's feeds and the outputs that it wants. `header` fits `requestSchema`.
 * @param {Header} header
 * @param {Buffer} binary
 * @param {{ inputs: readonly Port[], outputs: readonly Port[] }} model
 * @param {Limits} limits
 * @returns {Request}
 */
export function decodeRequest(header, binary, model, limits) {
  /** @type {Record<string, AnyTensor>} */
  const feeds = Object.create(null);
  let offset = 0;
  for (const entry of header.inputs) {
    const port = model.inputs.find((p) => p.name === entry.name);
    if (port === undefined) throw new ProtocolError(`there is no input '${entry.name}'; the inputs are ${listOf(model.inputs)}`);
    if (feeds[entry.name] !== undefined) throw new ProtocolError(`input '${entry.name}' comes twice`);
    const type = typeOf(port);
    if (DATATYPES[type] !== entry.datatype)
      throw new ProtocolError(`input '${entry.name}' is ${entry.datatype}, the model takes ${DATATYPES[type]}`);
    const count = countOf(entry, port, limits);
    const size = entry.parameters?.["binary_data_size"];
    if ((size === undefined) === (entry.data === undefined))
      throw new ProtocolError(`input '${entry.name}' needs either 'data' or the parameter 'binary_data_size'`);
    if (typeof size === "number") {
      if (size > binary.length - offset)
        throw new ProtocolError(`input '${entry.name}' claims ${size} bytes of binary data, ${binary.length - offset} are left`);
      const bytes = binary.subarray(offset, offset + size);
      offset += size;
      feeds[entry.name] = new Tensor(type, fromBytes(bytes, type, count, entry.name), entry.shape);
    } else feeds[entry.name] = new Tensor(type, fromJson(entry, type, count), entry.shape);
  }
  if (offset !== binary.length) throw new ProtocolError(`${binary.length - offset} bytes of binary data belong to no input`);
  for (const p of model.inputs) if (feeds[p.name] === undefined) throw new ProtocolError(`input '${p.name}' is missing`);

  const everywhere = header.parameters?.["binary_data_output"] === true;
  const wanted = header.outputs ?? model.outputs.map((p) => ({ name: p.name, parameters: undefined }));
  const seen = new Set();
  const outputs = wanted.map(({ name, parameters }) => {
    if (!model.outputs.some((p) => p.name === name))
      throw new ProtocolError(`there is no output '${name}'; the outputs are ${listOf(model.outputs)}`);
    if (seen.has(name)) throw new ProtocolError(`output '${name}' is wanted twice`);
    seen.add(name);
    return { name, binary: typeof parameters?.["binary_data"] === "boolean" ? parameters["binary_data"] : everywhere };
  });
  return { feeds, outputs };
}

/**
 * The response to a request. Throws a ProtocolError for values that JSON does not have, of outputs that are wanted as JSON.
 * @param {string} model
 * @param {string | undefined} id
 * @param {Record<string, AnyTensor>} results
 * @param {Request["outputs"]} wanted
 * @returns {Response}
 */
export function encodeResponse(model, id, results, wanted) {
  /** @type {Buffer[]} */
  const blobs = [];
  const entries = wanted.map(({ name, binary }) => {
    const t = results[name];
    if (t === undefined) throw new Error(`the session gave no output '${name}'`);
    const start = `{"name":${JSON.stringify(name)},"shape":${JSON.stringify(t.dims)},"datatype":"${DATATYPES[t.type]}"`;
    if (!binary) return `${start},"data":${toJson(t, name)}}`;
    const bytes = toBytes(t);
    blobs.push(bytes);
    return `${start},"parameters":{"binary_data_size":${bytes.length}}}`;
  });
  const text = `{"model_name":${JSON.stringify(model)}${id === undefined ? "" : `,"id":${JSON.stringify(id)}`},"outputs":[${entries.join(",")}]}`;
  const json = Buffer.from(text);
  if (blobs.length === 0) return { headers: { "content-type": "application/json" }, body: json };
  return {
    headers: { "content-type": "application/octet-stream", [HEADER_LENGTH]: String(json.length) },
    body: Buffer.concat([json, ...blobs]),
  };
}

/**
 * A model's metadata: dims that are open are -1.
 * @param {string} name
 * @param {{ inputs: readonly Port[], outputs: readonly Port[] }} model
 */
export function metadataOf(name, model) {
  const ports = (/** @type {readonly Port[]} */ list) =>
    list.map((p) => ({ name: p.name, datatype: DATATYPES[typeOf(p)], shape: (p.dims ?? []).map((d) => (typeof d === "number" ? d : -1)) }));
  return { name, platform: "partita", inputs: ports(model.inputs), outputs: ports(model.outputs) };
}

/**
 * @param {Port} port
 * @returns {DType}
 */
export function typeOf(port) {
  if (!Object.hasOwn(DATATYPES, port.type)) throw new Error(`'${port.name}' is a ${port.type}: the protocol has tensors only`);
  return /** @type {DType} */ (port.type);
}

/**
 * The element count of a shape that fits its port and the limits.
 * @param {InputEntry} entry
 * @param {Port} port
 * @param {Limits} limits
 */
function countOf({ name, shape }, port, limits) {
  const { dims } = port;
  if (dims !== undefined && (shape.length !== dims.length || dims.some((d, i) => typeof d === "number" && d !== shape[i])))
    throw new ProtocolError(
      `input '${name}' has the shape [${shape}], the model takes [${dims.map((d) => (typeof d === "number" ? d : -1))}]`,
    );
  let count = 1;
  for (const d of shape) {
    if (d < 1 || d > limits.maxDim) throw new ProtocolError(`input '${name}' has a dim of ${d}; dims are from 1 to ${limits.maxDim}`);
    count *= d;
    if (count > limits.maxElements) throw new ProtocolError(`input '${name}' has more than ${limits.maxElements} elements`);
  }
  return count;
}

/**
 * @param {Buffer} bytes
 * @param {DType} type
 * @param {number} count
 * @param {string} name
 */
function fromBytes(bytes, type, count, name) {
  if (type === "string") return stringsOf(bytes, count, name);
  const Wanted = ARRAYS[type];
  if (bytes.length !== count * Wanted.BYTES_PER_ELEMENT)
    throw new ProtocolError(`input '${name}' has ${bytes.length} bytes, its shape wants ${count * Wanted.BYTES_PER_ELEMENT}`);
  // A copy: of its own, so that it can be handed over, and aligned.
  const own = new Uint8Array(bytes);
  if (type === "bool" && own.some((b) => b > 1)) throw new ProtocolError(`input '${name}' has a BOOL that is neither 0 nor 1`);
  return new Wanted(own.buffer);
}

/**
 * Strings with their lengths before them, four bytes each.
 * @param {Buffer} bytes
 * @param {number} count
 * @param {string} name
 */
function stringsOf(bytes, count, name) {
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  /** @type {string[]} */
  const strings = [];
  let at = 0;
  while (strings.length < count && at + 4 <= bytes.length) {
    const length = bytes.readUInt32LE(at);
    at += 4;
    if (length > bytes.length - at) throw new ProtocolError(`input '${name}' has a string that ends behind its data`);
    try {
      strings.push(decoder.decode(bytes.subarray(at, at + length)));
    } catch {
      throw new ProtocolError(`input '${name}' has a string that is not UTF-8`);
    }
    at += length;
  }
  if (strings.length !== count || at !== bytes.length) throw new ProtocolError(`input '${name}' does not hold ${count} strings`);
  return strings;
}

/**
 * @param {InputEntry} entry
 * @param {DType} type
 * @param {number} count
 */
function fromJson({ name, shape, data = [] }, type, count) {
  if (type === "float16" || type === "bfloat16")
    throw new ProtocolError(`input '${name}' is ${DATATYPES[type]}, which JSON does not have: send it as binary data`);
  const flat = flattened(name, shape, data);
  if (flat.length !== count) throw new ProtocolError(`input '${name}' has ${flat.length} values, its shape wants ${count}`);
  const wrong = (/** @type {unknown} */ x) => {
    const shown = JSON.stringify(x) ?? "undefined";
    return new ProtocolError(
      `input '${name}' holds ${shown.length > 40 ? `${shown.slice(0, 40)}...` : shown}, which is no ${DATATYPES[type]}`,
    );
  };
  if (type === "string") {
    for (const x of flat) if (typeof x !== "string") throw wrong(x);
    return /** @type {string[]} */ (flat);
  }
  if (type === "bool") {
    for (const x of flat) if (typeof x !== "boolean") throw wrong(x);
    return Uint8Array.from(flat, Number);
  }
  const array = new ARRAYS[type](count);
  const [least, most] = RANGES[type] ?? [-Number.MAX_VALUE, Number.MAX_VALUE];
  const whole = RANGES[type] !== undefined;
  for (let i = 0; i < count; i++) {
    const x = flat[i];
    if (typeof x !== "number" || (whole && !Number.isInteger(x))) throw wrong(x);
    if (!(x >= least && x <= most))
      throw type.endsWith("int64")
        ? new ProtocolError(`input '${name}' holds ${x}: JSON numbers are exact to 2^53, send it as binary data`)
        : wrong(x);
    if (array instanceof BigInt64Array || array instanceof BigUint64Array) array[i] = BigInt(x);
    else array[i] = x;
    if (type === "float32" && !Number.isFinite(array[i])) throw wrong(x);
  }
  return array;
}

/**
 * Values in a row, or nested as the shape says.
 * @param {string} name
 * @param {readonly number[]} shape
 * @param {unknown[]} data
 * @returns {unknown[]}
 */
function flattened(name, shape, data) {
  if (shape.length < 2 || !Array.isArray(data[0])) return data;
  let level = data;
  for (let depth = 0; depth < shape.length; depth++) {
    // Every level is as long as its dims say before it is opened further: nesting cannot grow beyond the shape.
    const expected = shape.slice(0, depth + 1).reduce((a, d) => a * d, 1);
    if (level.length !== expected) throw new ProtocolError(`input '${name}' is not nested as its shape [${shape}]`);
    if (depth === shape.length - 1) break;
    const length = shape[depth + 1];
    for (const part of level)
      if (!Array.isArray(part) || part.length !== length) throw new ProtocolError(`input '${name}' is not nested as its shape [${shape}]`);
    level = level.flat(1);
  }
  return level;
}

/**
 * @param {AnyTensor} t
 * @param {string} name
 */
function toJson(t, name) {
  if (t.type === "string") return JSON.stringify(t.data);
  if (t.type === "bool") return JSON.stringify(Array.from(/** @type {Uint8Array} */ (t.data), Boolean));
  if (t.type === "float16" || t.type === "bfloat16")
    throw new ProtocolError(`output '${name}' is ${DATATYPES[t.type]}, which JSON does not have: ask for binary data`, 422);
  if (t.data instanceof BigInt64Array || t.data instanceof BigUint64Array) return `[${t.data.join(",")}]`;
  const values = /** @type {number[]} */ (Array.from(/** @type {Float32Array} */ (t.data)));
  if (!values.every(Number.isFinite))
    throw new ProtocolError(`output '${name}' holds a NaN or an infinity, which JSON does not have: ask for binary data`, 422);
  return JSON.stringify(values);
}

/** @param {AnyTensor} t */
function toBytes(t) {
  if (t.type !== "string") {
    const { buffer, byteOffset, byteLength } = /** @type {Uint8Array} */ (t.data);
    return Buffer.from(buffer, byteOffset, byteLength);
  }
  return Buffer.concat(
    /** @type {readonly string[]} */ (t.data).flatMap((s) => {
      const text = Buffer.from(s);
      const length = Buffer.alloc(4);
      length.writeUInt32LE(text.length);
      return [length, text];
    }),
  );
}

const listOf = (/** @type {readonly Port[]} */ ports) => ports.map((p) => `'${p.name}'`).join(", ");
