// @ts-check
/**
 * An inference server: bundles over HTTP by the Open Inference Protocol, on Fastify. It bounds what it takes in (bytes, elements, requests, time),
 * says 503 where that is more than it can do, stops working for clients that went away, and ends in order.
 */
import { createRequire } from "node:module";
import { performance } from "node:perf_hooks";
import { setTimeout as sleep } from "node:timers/promises";
import Fastify, { LogController } from "fastify";
import { load, PartitaError } from "partita";
import { Metrics } from "./metrics.js";
import { decodeRequest, encodeResponse, HEADER_LENGTH, metadataOf, ProtocolError, requestSchema, splitBody } from "./protocol.js";

/**
 * @typedef {object} Limits
 * @property {number} bodyBytes of one request
 * @property {number} jsonBytes of a request's JSON part; parsing it holds up other requests
 * @property {number} bytesInFlight of all requests that are being answered
 * @property {number} maxDim
 * @property {number} maxElements of one input
 * @property {number} connections
 * @property {number} deadlineMs the longest that a request may take; a client asks for less with X-Request-Timeout-Ms
 */
/**
 * @typedef {object} ServerOptions
 * @property {Readonly<Record<string, string>>} models bundles by the names that they are served under
 * @property {import("partita").SessionOptions} [session] of every model: streams, threads, maxQueue, batching
 * @property {Partial<Limits>} [limits]
 * @property {number} [graceMs] after the signal to end, how long requests are still taken in while /v2/health/ready says no
 * @property {number} [drainMs] how long requests may take to end after that
 * @property {boolean} [processMetrics]
 * @property {import("fastify").FastifyServerOptions["logger"]} [logger]
 */

/** @type {Limits} */
export const LIMITS = {
  bodyBytes: 32 << 20,
  jsonBytes: 4 << 20,
  bytesInFlight: 256 << 20,
  maxDim: 1 << 24,
  maxElements: 1 << 24,
  connections: 1024,
  deadlineMs: 30_000,
};
const TYPES = new Set(["application/json", "application/octet-stream"]);
/** What clients are told after how many seconds a full queue is worth another try. */
const RETRY_SECONDS = "1";
const { version } = /** @type {{ version: string }} */ (createRequire(import.meta.url)("partita/package.json"));

/** Thrown into runs whose clients are gone, and into those that outlast the drain. */
class Gone extends Error {}
class Ending extends Error {}

/**
 * A server that answers /v2/health/live as soon as it listens, and the rest once `load` has opened the models.
 * @param {ServerOptions} options
 */
export function createServer(options) {
  const limits = { ...LIMITS, ...options.limits };
  const { graceMs = 0, drainMs = 20_000 } = options;
  const maxQueue = options.session?.maxQueue ?? 256;
  const metrics = new Metrics({ process: options.processMetrics ?? true });
  /** @type {Map<string, import("partita").Session>} */
  const models = new Map();
  /** @type {Set<AbortController>} */
  const underWay = new Set();
  let loaded = false;
  let ending = false;
  let bytesInFlight = 0;

  const app = Fastify({
    logger: options.logger ?? false,
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: limits.bodyBytes,
    requestTimeout: limits.deadlineMs,
    connectionTimeout: limits.deadlineMs + 30_000,
    routerOptions: { maxParamLength: 256 },
    ajv: { customOptions: { coerceTypes: false, removeAdditional: false, useDefaults: false, allErrors: false, allowUnionTypes: true } },
  });
  app.server.maxConnections = limits.connections;
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("*", { parseAs: "buffer" }, (request, body, done) => {
    try {
      done(null, splitBody(/** @type {Buffer} */ (body), request.headers[HEADER_LENGTH], limits.jsonBytes));
    } catch (error) {
      done(/** @type {Error} */ (error));
    }
  });
  app.addHook("onSend", async (_, reply) => {
    if (ending) reply.header("connection", "close");
  });
  app.setNotFoundHandler((request, reply) => reply.code(404).send({ error: `there is no ${request.method} ${request.url.slice(0, 200)}` }));
  app.setErrorHandler((error, request, reply) => {
    const { status, message } = answerTo(error);
    if (status === 500) request.log.error(error);
    if (status === 503) reply.header("retry-after", RETRY_SECONDS);
    return reply.code(status).send({ error: message });
  });

  const ready = () => loaded && !ending;
  /** @param {string} name */
  const modelOf = (name) => {
    const session = models.get(name);
    if (session !== undefined) return session;
    if (!loaded && Object.hasOwn(options.models, name)) throw new ProtocolError(`model '${name}' is being loaded`, 503);
    throw new ProtocolError(`there is no model '${name.slice(0, 200)}'`, 404);
  };

  app.get("/v2", async () => ({ name: "partita", version, extensions: ["binary_tensor_data"] }));
  app.get("/v2/health/live", async () => ({ live: true }));
  app.get("/v2/health/ready", async (_, reply) => reply.code(ready() ? 200 : 503).send({ ready: ready() }));
  app.get("/metrics", async (_, reply) => reply.type(metrics.contentType).send(await metrics.text()));
  /** @typedef {{ Params: { name: string } }} Named */
  app.get("/v2/models/:name", async (/** @type {import("fastify").FastifyRequest<Named>} */ { params }) =>
    metadataOf(params.name, modelOf(params.name)),
  );
  app.get("/v2/models/:name/ready", async (/** @type {import("fastify").FastifyRequest<Named>} */ { params }, reply) => {
    modelOf(params.name);
    return reply.code(ready() ? 200 : 503).send({ name: params.name, ready: ready() });
  });

  /** When a request came. @type {WeakMap<object, number>} */
  const since = new WeakMap();
  app.post(
    "/v2/models/:name/infer",
    {
      schema: { body: { type: "object", properties: { header: requestSchema } } },
      // Before the body is read: what will be refused takes no memory.
      onRequest: async (/** @type {import("fastify").FastifyRequest<Named>} */ request, reply) => {
        since.set(request, performance.now());
        const done = metrics.request();
        const known = models.has(request.params.name) ? request.params.name : "";
        const claimed = Number(request.headers["content-length"] ?? limits.bodyBytes);
        const taken = Math.min(claimed, limits.bodyBytes);
        bytesInFlight += taken;
        reply.raw.once("close", () => {
          bytesInFlight -= taken;
          done(known, reply.raw.writableFinished ? reply.raw.statusCode : 499);
        });
        const session = modelOf(request.params.name);
        const type = request.headers["content-type"]?.split(";")[0]?.trim().toLowerCase();
        if (type !== undefined && !TYPES.has(type))
          throw new ProtocolError(`the body is ${type}; send application/json, or application/octet-stream with binary tensors`, 415);
        if ((request.headers["content-encoding"] ?? "identity") !== "identity")
          throw new ProtocolError("the body is compressed, which is not supported", 415);
        if (session.stats().queued >= maxQueue) throw new ProtocolError("the queue is full", 503);
        if (bytesInFlight > limits.bytesInFlight) throw new ProtocolError("the requests under way have too many bytes", 503);
      },
    },
    async (/** @type {import("fastify").FastifyRequest<Named>} */ request, reply) => {
      const { name } = request.params;
      const session = modelOf(name);
      const { header, binary } = /** @type {{ header: import("./protocol.js").Header, binary: Buffer }} */ (request.body);
      const { feeds, outputs } = decodeRequest(header, binary, session, limits);
      const deadlineMs =
        deadlineOf(request.headers["x-request-timeout-ms"], limits.deadlineMs) - (performance.now() - (since.get(request) ?? 0));
      if (deadlineMs <= 0) throw new ProtocolError("the deadline passed before the request was read", 504);
      const abort = new AbortController();
      underWay.add(abort);
      reply.raw.once("close", () => {
        if (!reply.raw.writableFinished) abort.abort(new Gone("the client went away"));
      });
      try {
        const names = outputs.map((o) => o.name);
        const results = await session.run(feeds, { outputs: names, signal: abort.signal, transfer: true, deadlineMs });
        const { headers, body } = encodeResponse(name, header.id, results, outputs);
        return reply.headers(headers).send(body);
      } finally {
        underWay.delete(abort);
      }
    },
  );

  return {
    app,
    metrics,
    /** Opens the models. Throws what `load` and `createSession` throw, and for models that the protocol cannot express. */
    async load() {
      for (const [name, path] of Object.entries(options.models)) {
        const program = await load(path);
        metadataOf(name, program);
        const settings = { ...options.session, maxQueue };
        const session = await program.createSession(settings).catch((error) => {
          if (!(error instanceof PartitaError && error.code === "P3108")) throw error;
          app.log.warn(`model '${name}' is served without batching: ${error.message}`);
          return program.createSession({ ...settings, batching: undefined });
        });
        if (ending) {
          await session.dispose();
          return;
        }
        models.set(name, session);
        metrics.add({ name, session });
      }
      loaded = true;
    },
    /** Not ready from now on; takes nothing in after the grace, ends what runs, for at most `drainMs`, and releases everything. */
    async shutdown() {
      if (ending) return;
      ending = true;
      await sleep(graceMs);
      const cut = setTimeout(() => {
        for (const abort of underWay) abort.abort(new Ending("the server is ending"));
        // What is answered now may still be sent; clients that do not read it are cut off.
        setTimeout(() => app.server.closeAllConnections(), 1000).unref();
      }, drainMs);
      await app.close();
      clearTimeout(cut);
      await Promise.race([Promise.all([...models.values()].map((s) => s.dispose())), sleep(5000, undefined, { ref: false })]);
      metrics.close();
    },
  };
}

/**
 * @param {string | string[] | undefined} asked
 * @param {number} most
 */
function deadlineOf(asked, most) {
  if (asked === undefined) return most;
  if (typeof asked !== "string" || !/^[1-9]\d{0,8}$/.test(asked))
    throw new ProtocolError(`X-Request-Timeout-Ms is '${String(asked).slice(0, 40)}': give milliseconds, a whole number`);
  return Math.min(Number(asked), most);
}

/**
 * By the runtime's error codes, what HTTP says: feeds that do not fit the graph or an engine's range, a full queue or GPU, a deadline, a session that ends.
 * @type {Readonly<Record<string, number>>}
 */
const STATUS = { P2104: 503, P2111: 400, P2204: 400, P3101: 400, P3102: 400, P3103: 400, P3104: 400, P3105: 503, P3106: 503, P3107: 504 };

/** @param {unknown} error */
function answerTo(error) {
  if (error instanceof Gone) return { status: 499, message: error.message };
  if (error instanceof Ending) return { status: 503, message: error.message };
  if (error instanceof PartitaError) {
    const status = STATUS[error.code] ?? 500;
    return { status, message: status === 500 ? `${error.code}: the model could not be run on these inputs` : error.message };
  }
  const status = /** @type {{ statusCode?: unknown }} */ (error).statusCode;
  // Fastify's own refusals and this server's; anything else is told to the log alone.
  if (typeof status === "number" && status >= 400 && status < 600 && status !== 500)
    return { status, message: /** @type {Error} */ (error).message };
  return { status: 500, message: "internal error" };
}
