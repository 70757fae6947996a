// @ts-check
/** Prometheus metrics of the server: HTTP requests, and what the runtime tells on its diagnostics channels. The names are documented in docs/serving.md. */
import diagnostics from "node:diagnostics_channel";
import { performance } from "node:perf_hooks";
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";

/**
 * @typedef {{ name: string, session: import("partita").Session }} Served
 */

const SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];
const SIZES = [1, 2, 4, 8, 16, 32, 64, 128, 256];

export class Metrics {
  #registry = new Registry();
  /** @type {(() => void)[]} */
  #subscriptions = [];
  /** @type {Map<number, string>} Names of models by the number of their session. */
  #models = new Map();
  /** @type {Served[]} */
  #served = [];
  #requests;
  #seconds;
  #open;

  /** @param {{ process?: boolean }} [options] `process: false` leaves out what is about the process as a whole */
  constructor({ process = true } = {}) {
    const registers = [this.#registry];
    if (process) collectDefaultMetrics({ register: this.#registry });
    this.#requests = new Counter({
      name: "partita_requests_total",
      help: "Inference requests by model and HTTP status; 499: the client went away.",
      labelNames: ["model", "code"],
      registers,
    });
    this.#seconds = new Histogram({
      name: "partita_request_duration_seconds",
      help: "From a request's first byte to the end of its response.",
      labelNames: ["model"],
      buckets: SECONDS,
      registers,
    });
    this.#open = new Gauge({ name: "partita_requests_in_flight", help: "Inference requests being answered.", registers });
    this.#queue(registers);
    this.#runs(registers);
    this.#batches(registers);
    this.#cache(registers);
  }

  get contentType() {
    return this.#registry.contentType;
  }
  text() {
    return this.#registry.metrics();
  }

  /** A model whose session's events count from now on. @param {Served} served */
  add(served) {
    this.#served.push(served);
    this.#models.set(served.session.id, served.name);
  }
  /** A request begins. The function that is given ends it. */
  request() {
    const start = performance.now();
    this.#open.inc();
    return (/** @type {string} */ model, /** @type {number} */ code) => {
      this.#open.dec();
      this.#requests.inc({ model, code });
      this.#seconds.observe({ model }, (performance.now() - start) / 1000);
    };
  }
  /** Stops listening. */
  close() {
    for (const end of this.#subscriptions.splice(0)) end();
  }

  /** @param {Registry[]} registers */
  #queue(registers) {
    const served = this.#served;
    new Gauge({
      name: "partita_queue_waiting",
      help: "Runs that wait in a session's queue.",
      labelNames: ["model"],
      registers,
      collect() {
        for (const { name, session } of served) this.set({ model: name }, session.stats().queued);
      },
    });
    new Gauge({
      name: "partita_queue_running",
      help: "Runs under way in a session.",
      labelNames: ["model"],
      registers,
      collect() {
        for (const { name, session } of served) this.set({ model: name }, session.stats().running);
      },
    });
    const events = new Counter({
      name: "partita_queue_events_total",
      help: "Runs by what became of them at the queue: admit, reject, deadline, cancel.",
      labelNames: ["model", "event"],
      registers,
    });
    const waits = new Histogram({
      name: "partita_queue_wait_seconds",
      help: "How long runs waited that were then started.",
      labelNames: ["model"],
      buckets: SECONDS,
      registers,
    });
    this.#subscribe("partita:queue", (/** @type {import("partita").QueueEvent} */ e) => {
      const model = this.#models.get(e.session);
      if (model === undefined) return;
      events.inc({ model, event: e.event });
      if (e.event === "admit" && e.waitedMs !== undefined) waits.observe({ model }, e.waitedMs / 1000);
    });
  }

  /** @param {Registry[]} registers */
  #runs(registers) {
    const runs = new Histogram({
      name: "partita_run_duration_seconds",
      help: "Runs of a session, waiting included.",
      labelNames: ["model"],
      buckets: SECONDS,
      registers,
    });
    const segments = new Histogram({
      name: "partita_segment_duration_seconds",
      help: "Runs of a segment in its engine.",
      labelNames: ["model", "segment", "engine"],
      buckets: SECONDS,
      registers,
    });
    this.#trace("partita:run", (/** @type {import("partita").RunEvent} */ e, seconds) => {
      const model = this.#models.get(e.session);
      if (model !== undefined) runs.observe({ model }, seconds);
    });
    this.#trace("partita:segment", (/** @type {import("partita").SegmentEvent} */ e, seconds) => {
      const model = this.#models.get(e.session);
      if (model !== undefined) segments.observe({ model, segment: e.segment, engine: e.engine }, seconds);
    });
  }

  /** @param {Registry[]} registers */
  #batches(registers) {
    const sizes = new Histogram({
      name: "partita_batch_requests",
      help: "Requests joined into one batch.",
      labelNames: ["model"],
      buckets: SIZES,
      registers,
    });
    const waits = new Histogram({
      name: "partita_batch_wait_seconds",
      help: "How long a batch's first request waited for the others.",
      labelNames: ["model"],
      buckets: SECONDS,
      registers,
    });
    this.#subscribe("partita:batch", (/** @type {import("partita").BatchEvent} */ e) => {
      const model = this.#models.get(e.session);
      if (model === undefined) return;
      sizes.observe({ model }, e.requests);
      waits.observe({ model }, e.waitedMs / 1000);
    });
  }

  /** @param {Registry[]} registers */
  #cache(registers) {
    const events = new Counter({
      name: "partita_engine_cache_events_total",
      help: "Engines of segments with open dims: hit, miss, build, built, evict, fallback, disk-hit.",
      labelNames: ["segment", "event"],
      registers,
    });
    const builds = new Histogram({
      name: "partita_engine_build_seconds",
      help: "Builds of engines at run time.",
      labelNames: ["segment"],
      buckets: [0.1, 0.5, 1, 5, 10, 30, 60, 300],
      registers,
    });
    this.#subscribe("partita:cache", (/** @type {import("partita").CacheEvent} */ e) => {
      events.inc({ segment: e.segment, event: e.event });
      if (e.event === "built" && e.ms !== undefined) builds.observe({ segment: e.segment }, e.ms / 1000);
    });
  }

  /**
   * @template E
   * @param {string} name
   * @param {(event: E) => void} listener
   */
  #subscribe(name, listener) {
    const on = /** @type {(message: unknown) => void} */ (listener);
    diagnostics.subscribe(name, on);
    this.#subscriptions.push(() => diagnostics.unsubscribe(name, on));
  }

  /**
   * Listens to the ends of what a tracing channel traces.
   * @template {object} E
   * @param {string} name
   * @param {(event: E, seconds: number) => void} listener
   */
  #trace(name, listener) {
    /** @type {WeakMap<object, number>} */
    const starts = new WeakMap();
    this.#subscribe(`tracing:${name}:start`, (/** @type {E} */ e) => void starts.set(e, performance.now()));
    this.#subscribe(`tracing:${name}:asyncEnd`, (/** @type {E} */ e) => {
      const start = starts.get(e);
      if (start !== undefined) listener(e, (performance.now() - start) / 1000);
    });
  }
}
