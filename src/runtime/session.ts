/** Runs a compiled graph: checks feeds, queues runs, joins them where asked to, hands them to the least busy lane, and gives tensors by name. */
import { nextNumber, publishBatch, queueChannel, runChannel, segmentChannel, traced } from "../channels.js";
import { isResident } from "../engines/cuda/resident.js";
import type { DeviceTensor, HostCopies } from "../engines/engine.js";
import { SMALL } from "../engines/host/packing.mjs";
import { addCounters, type CacheCounters, noCounters } from "../engines/shape-cache.js";
import type { NumericDType, Tensor, TensorLike } from "../tensor.js";
import { type Batching, checkBatchable, chooseBatch, cut, type Joinable, join, joining, Scratch } from "./batching.js";
import { badSession, demandNamed, demandRun } from "./errors.js";
import { Interface, type Values, wrongFeed } from "./feeds.js";
import type { Lane } from "./lane.js";
import { randomFeeds } from "./measure.js";
import { OwnTensors } from "./own-tensors.js";
import { Pace } from "./pace.js";
import type { Feeds, Plan, Port, SessionFeeds, SessionRunOptions } from "./ports.js";
import { type Origins, type Profile, profileSegments } from "./profile.js";
import { disposedError, type QueueOptions, type QueueStats, RunQueue, type SubmitOptions, type Ticket } from "./queue.js";
import { type Pinned, Stream, type StreamOptions } from "./stream.js";
import { type Recording, record } from "./trace.js";

export interface SegmentProfile {
  readonly segment: string;
  readonly runs: number;
  /** Milliseconds over all runs. */
  readonly totalMs: number;
}
export interface SessionStats extends QueueStats {
  /** Joined runs that were made, and the runs in them. */
  readonly batches: number;
  readonly batchedRuns: number;
  /** Joined runs that failed, and whose runs were run again one by one. */
  readonly retriedBatches: number;
  /** Of engines that are built by shape, over all segments and devices. */
  readonly cache: CacheCounters;
  /** Where the models of segments on the host are loaded, by segment. */
  readonly host: Readonly<Record<string, HostCopies>>;
}

export interface ProfileOptions {
  readonly detail: "nodes";
  readonly feeds?: Feeds | undefined;
  readonly runs?: number | undefined;
}

/** How a session takes runs in. */
export interface QueueSettings {
  /** The user's nodes behind those of the compiled graph, for profiles. */
  readonly origins?: Origins | undefined;
  /** Runs (or joined runs) inside at once. Default: what the engines take, and more of runs so short that they would wait for the next. */
  readonly maxConcurrency?: number | undefined;
  /** Whether engines that are free share what is to be joined, as each has processors of its own. Default false: batches are as large as may be. */
  readonly spread?: boolean | undefined;
  /** Runs that may wait. Default 1024. */
  readonly maxQueue?: number | undefined;
  readonly batching?: Batching | undefined;
}

/** A run on its way. */
interface Job extends Joinable {
  readonly run: number;
  readonly transfer: boolean | undefined;
  /** The one whose GPU holds some of its feeds. */
  readonly lane: Lane | undefined;
  /** Others were under way or waited when it came. */
  readonly overlaps: boolean;
  /** Runs on this lane, and keeps there what the lane's `residency` says. */
  readonly pinned?: Pinned | undefined;
}

/** A loaded program on this machine. Runs may overlap; `run` never blocks the event loop. */
export class Session {
  readonly inputs: readonly Port[];
  readonly outputs: readonly Port[];
  /** Unique in the process: the one that events on the diagnostics channels carry. */
  readonly id = nextNumber();
  readonly #plan: Plan;
  readonly #lanes: readonly Lane[];
  readonly #interface: Interface;
  readonly #queue: RunQueue<Job, Values>;
  readonly #batching: Batching | undefined;
  /** Whether runs may be on the calling thread. */
  readonly #mayBeHere: boolean;
  readonly #scratch = new Scratch();
  /** Whether outputs are inputs or constants. */
  readonly #hasDirect: boolean;
  #batches = 0;
  #batchedRuns = 0;
  #retriedBatches = 0;
  readonly #streams = new Map<Stream, Lane>();
  readonly #origins: Origins;
  readonly #own: OwnTensors;
  readonly #profiling = new Set<Promise<unknown>>();
  #disposed: Promise<void> | undefined;

  /** Every lane runs the whole plan. Throws P3108. */
  constructor(plan: Plan, lanes: readonly Lane[], settings: QueueSettings = {}) {
    const { maxConcurrency, maxQueue = 1024, batching, spread = false, origins = (name) => [name] } = settings;
    this.#origins = origins;
    this.inputs = plan.inputs;
    this.outputs = plan.outputs;
    this.#plan = plan;
    this.#lanes = lanes;
    this.#own = new OwnTensors(lanes.flatMap((l) => l.device ?? []));
    this.#interface = new Interface(plan);
    this.#batching = batching;
    if (batching !== undefined) checkBatchable(plan);
    this.#hasDirect = Object.keys(plan.direct).length > 0;
    this.#mayBeHere = batching === undefined && lanes.some((l) => l.hasHere);
    // Runs that could be joined wait outside.
    const [only] = lanes;
    const parallel = lanes.length === 1 && only !== undefined ? () => only.parallel : () => lanes.reduce((n, l) => n + l.parallel, 0);
    const pace = new Pace(parallel);
    this.#queue = new RunQueue<Job, Values>({
      concurrency: maxConcurrency !== undefined ? () => maxConcurrency : batching !== undefined ? parallel : () => pace.depth,
      maxQueue,
      work: (tickets) => {
        pace.started();
        return this.#work(tickets).finally(() => pace.ended());
      },
      choose: batching === undefined ? undefined : chooseBatch(batching, spread),
      ...(this.#mayBeHere ? this.#placing() : {}),
      session: this.id,
      run: (job) => job.run,
    });
  }

  /**
   * Runs the graph on feeds by input name; gives tensors by output name. Where runs are joined, results of one batch are views of one buffer.
   * Throws P3102 to P3107, P20xx, P21xx, P22xx, or the signal's reason.
   */
  run(feeds: SessionFeeds, options: SessionRunOptions = DEFAULT): Promise<Record<string, Tensor>> {
    try {
      if (this.#disposed !== undefined) throw disposedError({});
      // Runs without options, which are the shortest, are not looked at.
      if (options !== DEFAULT) demandRun(options, RUN_OPTIONS, "a run");
      const wanted = this.#interface.wanted(options.outputs);
      const inputs = this.#mayBeHere ? this.#interface.inOrder(feeds) : undefined;
      const short = inputs === undefined ? undefined : this.#short(inputs, wanted, options);
      if (short !== undefined) return short;
      return this.#usual(inputs === undefined ? this.#interface.checked(feeds) : this.#interface.named(inputs), wanted, options);
    } catch (error) {
      return Promise.reject(error);
    }
  }
  #usual(values: Values, wanted: readonly string[], options: SessionRunOptions): Promise<Record<string, Tensor>> {
    return this.#submit(values, options, (v) => this.#interface.results(wanted, v));
  }

  /** Results of a run on this thread, which nothing could be told of or done to on its way, at once or in the next turn. Undefined for others. */
  #short(
    inputs: readonly TensorLike[],
    wanted: readonly string[],
    options: SessionRunOptions,
  ): Promise<Record<string, Tensor>> | undefined {
    const { signal, deadlineMs, transfer } = options;
    if (signal !== undefined || deadlineMs !== undefined || transfer === true) return undefined;
    if (!this.#queue.open || watched()) return undefined;
    const lane = this.#leastBusy();
    const where = lane.place(inputs, 1);
    if (where === "engine") return undefined;
    if (where === "here") return Promise.resolve(this.#queue.pass(() => lane.runHere(inputs, wanted)));
    return this.#queue.hold({
      place: (waiting) => (watched() ? "engine" : lane.place(inputs, waiting)),
      here: () => lane.runHere(inputs, wanted),
      engine: () => this.#usual(this.#interface.named(inputs), wanted, options),
    });
  }

  /** What `finish` makes of the values of a run, when it has been through the queue. */
  #submit<T>(
    values: Values,
    options: SessionRunOptions & SubmitOptions,
    finish: (v: Values) => T | Promise<T>,
    pinned?: Pinned,
  ): Promise<T> {
    const { signal, deadlineMs, since, transfer } = options;
    const run = nextNumber();
    const { key, items } = this.#batching === undefined || pinned !== undefined ? ALONE : joining(this.#plan, values);
    const job: Job = { run, values, transfer, overlaps: this.#queue.busy, lane: this.#holding(values, pinned), pinned, key, items };
    if (!runChannel.hasSubscribers) return this.#queue.submit(job, options, finish);
    return traced(
      runChannel,
      () => ({ run, session: this.id, inputs: this.#dims(values), outputs: options.outputs, batch: this.#first(values) }),
      () => this.#queue.submit(job, { signal, deadlineMs, since }, finish),
    );
  }
  /** Runs that are shorter than the way to another thread stay on this one. Those that somebody watches, or that belong to a stream, take the usual way. */
  #placing(): Pick<QueueOptions<Job, Values>, "place" | "here"> {
    let lane: Lane | undefined;
    let inputs: readonly TensorLike[] = [];
    return {
      place: ({ values, transfer, pinned }, waiting) => {
        if (transfer === true || pinned !== undefined || segmentChannel.hasSubscribers) return "engine";
        lane = this.#leastBusy();
        inputs = this.inputs.map((p) => values.get(p.name) as TensorLike);
        return lane.place(inputs, waiting);
      },
      here: (ticket) => {
        const { values } = ticket.job;
        lane?.runHere(inputs, undefined, values);
        ticket.resolve(values);
      },
    };
  }
  /** The lane of the GPU that some of these are on. Throws P3104 where there is none such, or not one. */
  #holding(values: Values, pinned: Pinned | undefined): Lane | undefined {
    let lane: Lane | undefined = pinned?.lane;
    for (const [name, t] of values) {
      if (!isResident(t)) continue;
      const its = this.#lanes.find((l) => l.device === t.device);
      if (its === undefined || (lane !== undefined && its !== lane)) {
        const expected = lane === undefined ? "what is on the host or on a GPU of the session" : `all that is on a GPU on ${lane.device}`;
        throw wrongFeed({ expected, found: `on GPU ${t.device}` }, { value: name });
      }
      lane = its;
    }
    return lane;
  }
  #dims(values: Values): Readonly<Record<string, readonly number[]>> {
    return Object.fromEntries(this.inputs.map((p) => [p.name, values.get(p.name)?.dims ?? []]));
  }
  #first(values: Values): number | undefined {
    const [port] = this.inputs;
    return port === undefined ? undefined : values.get(port.name)?.dims[0];
  }

  #work(tickets: readonly Ticket<Job, Values>[]): Promise<void> {
    const [first] = tickets;
    if (first === undefined) return Promise.resolve();
    const lane = first.job.lane ?? this.#leastBusy();
    return tickets.length === 1 ? this.#alone(first, lane) : this.#joined(tickets, lane);
  }
  #leastBusy(): Lane {
    const [only] = this.#lanes;
    if (this.#lanes.length === 1 && only !== undefined) return only;
    return this.#lanes.reduce((a, b) => (b.load < a.load ? b : a));
  }
  #alone(ticket: Ticket<Job, Values>, lane: Lane): Promise<void> {
    const { run, values, transfer, overlaps, pinned } = ticket.job;
    const running = lane.run(values, {
      run,
      session: this.id,
      signal: ticket.signal,
      transfer,
      overlaps,
      keep: pinned?.keep,
      taken: pinned?.taken,
      wanted: () => !ticket.settled,
      // The queue has asked where it goes; what is handed over goes away.
      placed: transfer === true || (this.#batching === undefined && pinned === undefined && !segmentChannel.hasSubscribers),
    });
    pinned?.started(running.catch(() => undefined));
    return running.then(
      () => ticket.resolve(values),
      (error: unknown) => ticket.reject(error),
    );
  }
  async #joined(tickets: readonly Ticket<Job, Values>[], lane: Lane): Promise<void> {
    const jobs = tickets.map((t) => t.job);
    const items = jobs.reduce((n, j) => n + j.items, 0);
    const batch = nextNumber();
    const since = tickets.reduce((a, t) => Math.min(a, t.since), Number.POSITIVE_INFINITY);
    publishBatch(() => ({
      session: this.id,
      batch,
      runs: jobs.map((j) => j.run),
      requests: jobs.length,
      items,
      waitedMs: performance.now() - since,
    }));
    this.#batches++;
    this.#batchedRuns += jobs.length;
    let values: Values;
    try {
      values = join(this.#plan, jobs, this.#scratch);
      // The joined feeds are this run's own: what is not small moves. Small tensors go with others in one message.
      const how = { transfer: !isSmall(values), overlaps: jobs.length > 1, placed: !lane.hasHere };
      await lane.run(values, { run: batch, session: this.id, ...how });
      this.#scratch.give(this.#plan, values);
    } catch {
      this.#retriedBatches++;
      for (const t of tickets) if (!t.settled) await this.#alone(t, lane);
      return;
    }
    let from = 0;
    for (const t of tickets) {
      const part = this.#part(values, t.job, from, items);
      from += t.job.items;
      if (part !== undefined) t.resolve(part);
      else if (!t.settled) await this.#alone(t, lane);
    }
  }
  /** What a run gets of a joined one's results; undefined where they turn out not to be of so many items. */
  #part(values: Values, job: Job, from: number, all: number): Values | undefined {
    // An output that is an input is the run's own feed.
    const part: Values = this.#hasDirect ? new Map(job.values) : new Map();
    for (const { name } of this.outputs) {
      const whole = values.get(name);
      if (this.#hasDirect && Object.hasOwn(this.#plan.direct, name)) continue;
      const rows = whole === undefined || isResident(whole) ? undefined : cut(whole, from, job.items, all);
      if (rows === undefined) return undefined;
      part.set(name, rows);
    }
    return part;
  }

  /**
   * A stream of runs with a state: outputs that become inputs of the next run, kept on the device where the segments run there. Throws P3103, P3105
   * and P3130.
   */
  stream(options: StreamOptions): Stream {
    if (this.#disposed !== undefined) throw disposedError({});
    const streams = (lane: Lane): number => [...this.#streams.values()].filter((l) => l === lane).length;
    const lane = this.#lanes.reduce((a, b) => (streams(b) < streams(a) ? b : a));
    const stream = new Stream(
      {
        plan: this.#plan,
        interface: this.#interface,
        lane,
        submit: (values, how, pinned) => this.#submit(values, how, (v) => v, pinned),
        ended: (s) => this.#streams.delete(s),
      },
      options,
    );
    this.#streams.set(stream, lane);
    return stream;
  }

  /**
   * A tensor of zeros to fill and feed, as often as one likes: where the session uses a GPU its memory is page-locked, and the GPU reads it without a copy on
   * the host. It lives as long as the session; its array is empty then. Throws P3130, P3101, P2104.
   */
  allocate<T extends NumericDType>(type: T, dims: readonly number[]): Tensor<T> {
    if (this.#disposed !== undefined) throw disposedError({});
    return this.#own.allocate(type, dims);
  }
  /**
   * A copy of a tensor on a GPU of the session (the first, when none is named), to be fed as often as one likes: such runs go to that GPU. `release` gives its
   * memory back, once the runs that it was fed to are settled; the end of the session does, too. Throws P3130, P3101, P2104, P2105.
   */
  async upload(tensor: TensorLike, device?: number): Promise<DeviceTensor> {
    if (this.#disposed !== undefined) throw disposedError({});
    return await this.#own.upload(tensor, device);
  }

  /** Resolves when the queue has room for one more run: for producers that would rather wait than be refused with P3106. */
  whenReady(): Promise<void> {
    return this.#queue.whenReady();
  }
  stats(): SessionStats {
    return {
      ...this.#queue.stats,
      batches: this.#batches,
      batchedRuns: this.#batchedRuns,
      retriedBatches: this.#retriedBatches,
      cache: this.#lanes.reduce((sum, l) => addCounters(sum, l.cache), noCounters),
      host: Object.assign({}, ...this.#lanes.map((l) => l.copies)),
    };
  }
  /** Time by segment since the session was created. */
  profile(options?: { readonly detail?: "segments" | undefined }): readonly SegmentProfile[];
  /**
   * Where the time of one run goes, by segment and by layer and node of each. Runs the segments one after another on these feeds (default: seeded random
   * ones, open dims at 1), so many times (default 20); runs from elsewhere meanwhile disturb the figures. Throws P3102 to P3105, P3130 and what engines throw.
   */
  profile(options: ProfileOptions): Promise<Profile>;
  profile(options: { readonly detail?: "segments" | undefined } | ProfileOptions = {}): readonly SegmentProfile[] | Promise<Profile> {
    if (options?.detail === "nodes") return this.#profileNodes(options);
    demandNamed(options, PROFILE_OPTIONS, "a profile");
    const { detail = "segments", ...others } = options as Record<string, unknown>;
    if (detail !== "segments") throw badSession({ name: "detail", what: `is '${String(detail)}'`, fix: 'give "segments" or "nodes"' });
    const [stray] = Object.keys(others);
    if (stray !== undefined)
      throw badSession({ name: stray, what: "is of a profile by nodes", fix: 'give detail: "nodes" too, or leave it out' });
    return this.#plan.steps.map((s, i) => ({
      segment: s.segment,
      runs: this.#lanes.reduce((n, l) => n + (l.times[i]?.runs ?? 0), 0),
      totalMs: this.#lanes.reduce((n, l) => n + (l.times[i]?.totalMs ?? 0), 0),
    }));
  }

  async #profileNodes(options: ProfileOptions): Promise<Profile> {
    if (this.#disposed !== undefined) throw disposedError({});
    demandNamed(options, PROFILE_OPTIONS, "a profile");
    const { feeds = randomFeeds(this.inputs, 1), runs = 20 } = options;
    if (!Number.isSafeInteger(runs) || runs < 1) throw badSession({ name: "runs", what: `is ${runs}`, fix: "give a whole number from 1" });
    const values = this.#interface.checked(feeds) as Map<string, TensorLike>;
    const [lane] = this.#lanes;
    const { executables = [], engines = [] } = lane ?? {};
    const profiling = profileSegments({ plan: this.#plan, executables, engines, origins: this.#origins }, values, runs);
    // Its runs go past the queue: the end waits for them as well.
    const over: Promise<unknown> = profiling.then(
      () => this.#profiling.delete(over),
      () => this.#profiling.delete(over),
    );
    this.#profiling.add(over);
    return await profiling;
  }
  /** Records what this session does until `stop` is called, for Chrome's and Perfetto's viewers. */
  trace(): Recording {
    return record(this.id);
  }

  /** Waits for the runs that were taken in, then releases everything. Further runs are refused with P3105. May be called twice. */
  dispose(): Promise<void> {
    this.#disposed ??= (async () => {
      await Promise.all([...this.#streams.keys()].map((s) => s.dispose()));
      await this.#queue.close();
      await Promise.all(this.#profiling);
      await Promise.all(this.#lanes.map((l) => l.dispose()));
      this.#own.end();
    })();
    return this.#disposed;
  }
  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }
}

const isSmall = (values: Values): boolean =>
  [...values.values()].every((t) => !isResident(t) && ArrayBuffer.isView(t.data) && t.data.byteLength <= SMALL / values.size);
const watched = (): boolean => runChannel.hasSubscribers || segmentChannel.hasSubscribers || queueChannel.hasSubscribers;
const ALONE = { key: undefined, items: 0 };
const DEFAULT: SessionRunOptions = {};
const RUN_OPTIONS = ["outputs", "signal", "transfer", "deadlineMs"] as const satisfies readonly (keyof SessionRunOptions)[];
const PROFILE_OPTIONS = ["detail", "feeds", "runs"] as const satisfies readonly (keyof ProfileOptions)[];
