#!/usr/bin/env node
// @ts-check
/**
 * The server's command line: node main.js --model name=bundle [--model ...] [options]. Ends with 0 on SIGTERM or SIGINT, at once on a second one;
 * with 1 when a model cannot be loaded; with 2 for options that are wrong.
 */
import { parseArgs } from "node:util";
import { createServer, LIMITS } from "./app.js";

const USAGE = `node main.js --model name=bundle [--model name=bundle ...]

  --host ADDRESS          where to listen (127.0.0.1)
  --port N                (8080; 0: any that is free)
  --threads N             threads of one run on the host (see --streams)
  --streams N             runs in one engine at once (without --threads and this, the host finds out)
  --max-queue N           requests that may wait for a model; one more is answered with 503 (256)
  --max-batch N           join requests into batches of at most N (1: do not)
  --max-delay-ms MS       how long a batch waits to be filled (2)
  --deadline-ms MS        longest time of a request (${LIMITS.deadlineMs})
  --max-body-bytes N      of one request (${LIMITS.bodyBytes})
  --max-json-bytes N      of its JSON part (${LIMITS.jsonBytes})
  --max-bytes-in-flight N of all requests being answered (${LIMITS.bytesInFlight})
  --max-elements N        of one input (${LIMITS.maxElements})
  --max-connections N     (${LIMITS.connections})
  --grace-ms MS           after SIGTERM: still takes requests, but is not ready (0)
  --drain-ms MS           after that: how long requests may take to end (20000)
  --log LEVEL             fatal, error, warn, info or debug (info)
`;

/** What a timer takes, and more than any other number here needs. */
const MOST = 2 ** 31 - 1;

/** @param {string} text @returns {never} */
function usage(text) {
  process.stderr.write(`${text}\n\n${USAGE}`);
  process.exit(2);
}

function options() {
  const string = /** @type {const} */ ({ type: "string" });
  try {
    return parseArgs({
      options: {
        model: { type: "string", multiple: true },
        host: string,
        port: string,
        threads: string,
        streams: string,
        "max-queue": string,
        "max-batch": string,
        "max-delay-ms": string,
        "deadline-ms": string,
        "max-body-bytes": string,
        "max-json-bytes": string,
        "max-bytes-in-flight": string,
        "max-elements": string,
        "max-connections": string,
        "grace-ms": string,
        "drain-ms": string,
        log: string,
      },
    }).values;
  } catch (error) {
    return usage(/** @type {Error} */ (error).message);
  }
}
const given = options();

/**
 * @param {Exclude<keyof typeof given, "model">} name
 * @param {number} byDefault
 * @param {number} [least]
 */
function number(name, byDefault, least = 1) {
  const text = given[name];
  if (text === undefined) return byDefault;
  if (!/^\d{1,12}$/.test(text) || Number(text) < least || Number(text) > MOST)
    usage(`--${name} is '${text}': give a whole number from ${least} to ${MOST}`);
  return Number(text);
}

const models = Object.fromEntries(
  (given.model ?? []).map((text) => {
    const [, name, path] = /^([A-Za-z0-9_][\w.-]{0,99})=(.+)$/.exec(text) ?? usage(`--model is '${text}': write name=bundle`);
    return [name, path];
  }),
);
if (Object.keys(models).length === 0) usage("--model is missing");
const maxBatch = number("max-batch", 1);
const server = createServer({
  models,
  session: {
    ...(given.threads === undefined ? {} : { threads: number("threads", 1) }),
    ...(given.streams === undefined ? {} : { streams: number("streams", 1) }),
    maxQueue: number("max-queue", 256),
    ...(maxBatch === 1 ? {} : { batching: { maxBatch, maxDelayMs: number("max-delay-ms", 2, 0) } }),
  },
  limits: {
    deadlineMs: number("deadline-ms", LIMITS.deadlineMs),
    bodyBytes: number("max-body-bytes", LIMITS.bodyBytes),
    jsonBytes: number("max-json-bytes", LIMITS.jsonBytes),
    bytesInFlight: number("max-bytes-in-flight", LIMITS.bytesInFlight),
    maxElements: number("max-elements", LIMITS.maxElements),
    connections: number("max-connections", LIMITS.connections),
  },
  graceMs: number("grace-ms", 0, 0),
  drainMs: number("drain-ms", 20_000, 0),
  logger: { level: given.log ?? "info" },
});

let signals = 0;
for (const signal of ["SIGTERM", "SIGINT"])
  process.on(signal, () => {
    if (++signals > 1) process.exit(1);
    server.app.log.info(`${signal}: draining`);
    server.shutdown().then(
      () => process.exit(0),
      (error) => {
        server.app.log.fatal(error);
        process.exit(1);
      },
    );
  });
try {
  await server.app.listen({ host: given.host ?? "127.0.0.1", port: number("port", 8080, 0) });
  await server.load();
  if (signals === 0) server.app.log.info({ models: Object.keys(models) }, "ready");
} catch (error) {
  server.app.log.fatal(error);
  process.exit(1);
}
