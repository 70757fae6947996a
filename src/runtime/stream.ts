/**
 * A session's stream: outputs of one run are inputs of the next, as a decoder's key and value cache is. Where the segments that make and read them
 * run on the device they stay there, and only what the caller asks for crosses to the host.
 */

import { performance } from "node:perf_hooks";
import { isResident } from "../engines/cuda/resident.js";
import type { DeviceTensor } from "../engines/engine.js";
import { isTensorDType, type NumericDType, Tensor, type TensorLike, typedArrayOf } from "../tensor.js";
import { badSession, demandNamed, demandRun } from "./errors.js";
import { type Interface, isSymbol, type Values } from "./feeds.js";
import type { Lane } from "./lane.js";
import type { Plan, Port, SessionFeeds, SessionRunOptions } from "./ports.js";
import { deadlinePassed, disposedError, type SubmitOptions } from "./queue.js";

/** A run of a stream, on the lane that its state lives on. */
export interface Pinned {
  readonly lane: Lane;
  readonly keep: readonly (readonly boolean[])[];
  readonly taken: ReadonlySet<string>;
  /** Told when the run starts, with the moment it is over, whatever became of its caller. */
  readonly started: (over: Promise<void>) => void;
}

export interface StreamOptions {
  /** Input name to the output that becomes it in the next run. */
  readonly carry: Readonly<Record<string, string>>;
  /**
   * The state before the first run, by input name. Default: zeros, where an open dim that another input of the first run does not set is 0: a cache
   * that is still empty.
   */
  readonly initial?: SessionFeeds | undefined;
}
export type StreamRunOptions = Pick<SessionRunOptions, "outputs" | "signal" | "deadlineMs">;

/** What a stream uses of its session. */
export interface StreamHost {
  readonly plan: Plan;
  readonly interface: Interface;
  readonly lane: Lane;
  submit(values: Values, options: SessionRunOptions & SubmitOptions, pinned: Pinned): Promise<Values>;
  ended(stream: Stream): void;
}

/** Runs in the order they are asked for, each on the state that the one before left. A run that fails or is cancelled leaves the state as it was. */
export class Stream {
  readonly #host: StreamHost;
  /** Input to output. */
  readonly #carry: ReadonlyMap<string, string>;
  readonly #keep: readonly (readonly boolean[])[];
  readonly #taken: ReadonlySet<string>;
  #state: Values;
  /** What its runs left on the device. Tensors that the caller fed are the caller's. */
  readonly #own = new Set<DeviceTensor>();
  #tail: Promise<unknown> = Promise.resolve();
  #disposed: Promise<void> | undefined;

  /** Throws P3103, P3130. */
  constructor(host: StreamHost, options: StreamOptions) {
    demandNamed(options ?? {}, ["carry", "initial"], "a stream");
    const { carry = {}, initial = {} }: Partial<StreamOptions> = options ?? {};
    for (const [name, by] of Object.entries({ carry, initial }))
      if (by === null || typeof by !== "object" || Array.isArray(by))
        throw badSession({
          name,
          what: `is ${by === null ? "null" : `a ${Array.isArray(by) ? "list" : typeof by}`}`,
          fix: "give an object by input name",
        });
    this.#host = host;
    this.#carry = new Map(Object.entries(carry).map(([input, output]) => [host.interface.input(input), host.interface.output(output)]));
    if (this.#carry.size === 0)
      throw badSession({ name: "carry", what: "names nothing", fix: "name the inputs that are outputs of the run before" });
    for (const [input, output] of this.#carry) demandAlike(host.plan, input, output);
    this.#state = new Map(Object.entries(initial).map(([name, t]) => [host.interface.input(name), t]));
    for (const name of this.#state.keys())
      if (!this.#carry.has(name))
        throw badSession({ name: "initial", what: `has '${name}', which is not carried`, fix: "feed it in every run, or carry it" });
    this.#taken = new Set(this.#carry.values());
    const later = (output: string): string[] => [...this.#carry].flatMap(([input, from]) => (from === output ? [input] : []));
    this.#keep = host.lane.residency(new Map([...this.#taken].map((output) => [output, later(output)])));
  }

  /** Runs on `feeds`, which are the inputs that are not carried; one that is carried may be fed to set its state anew. Gives the other outputs. */
  run(feeds: SessionFeeds, options: StreamRunOptions = {}): Promise<Record<string, Tensor>> {
    if (this.#disposed !== undefined) return Promise.reject(disposedError({}));
    try {
      demandRun(options, ["outputs", "signal", "deadlineMs"], "a stream's run");
    } catch (error) {
      return Promise.reject(error);
    }
    const { signal, deadlineMs } = options;
    if (signal === undefined && deadlineMs === undefined) return this.#next(() => this.#run(feeds, options));
    return this.#patient(feeds, options);
  }
  /** A run that may be given up while others are before it. */
  #patient(feeds: SessionFeeds, options: StreamRunOptions): Promise<Record<string, Tensor>> {
    const { signal, deadlineMs } = options;
    const since = performance.now();
    return new Promise((resolve, reject) => {
      let gone = false;
      let timer: NodeJS.Timeout | undefined;
      const stop = (): void => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", cancel);
      };
      const giveUp = (reason: unknown): void => {
        gone = true;
        stop();
        reject(reason);
      };
      const cancel = (): void => giveUp(signal?.reason);
      if (signal?.aborted === true) {
        cancel();
        return;
      }
      signal?.addEventListener("abort", cancel, { once: true });
      if (deadlineMs !== undefined) timer = setTimeout(() => giveUp(deadlinePassed({ deadlineMs, ran: false })), deadlineMs);
      this.#next(async () => {
        if (gone) return;
        stop();
        resolve(await this.#run(feeds, { ...options, since }));
      }).catch(reject);
    });
  }
  /** Does its work when all that was asked for before is over. */
  #next<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(work);
    this.#tail = result.catch(() => undefined);
    return result;
  }
  async #run(feeds: SessionFeeds, options: StreamRunOptions & Pick<SubmitOptions, "since">): Promise<Record<string, Tensor>> {
    const { plan, lane, interface: face } = this.#host;
    const wanted =
      options.outputs === undefined ? plan.outputs.flatMap((p) => (this.#taken.has(p.name) ? [] : [p.name])) : face.wanted(options.outputs);
    const values = face.checked(feeds, this.#complete(feeds ?? {}));
    const fed = new Set(values.values());
    let started: Promise<void> | undefined;
    const pinned: Pinned = {
      lane,
      keep: this.#keep,
      taken: this.#taken,
      started: (over) => {
        started = over;
      },
    };
    try {
      await this.#host.submit(values, { ...options, outputs: wanted }, pinned);
    } catch (error) {
      // What a run that was given up still reads must stay until it is over.
      await started;
      throw error;
    }
    const after: Values = new Map();
    for (const [input, output] of this.#carry) {
      const t = face.valueOf(output, values);
      if (t === undefined) continue;
      after.set(input, t);
      if (isResident(t) && !fed.has(t)) this.#own.add(t);
    }
    const results = await face.results(wanted, values);
    this.#replace(after);
    return results;
  }

  /** The state by input name, on the host. */
  async state(): Promise<Record<string, Tensor>> {
    await this.#tail;
    if (this.#disposed !== undefined) throw disposedError({});
    const entries: [string, Tensor][] = [];
    for (const [name, t] of this.#state)
      entries.push([name, isResident(t) ? await t.fetch() : new Tensor(t.type as never, t.data as never, t.dims)]);
    return Object.fromEntries(entries);
  }

  /** Waits for the runs that were asked for, then gives the state's memory back. May be called twice. */
  dispose(): Promise<void> {
    this.#disposed ??= this.#tail.then(() => {
      this.#replace(new Map());
      this.#host.ended(this);
    });
    return this.#disposed;
  }
  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  #replace(state: Values): void {
    const kept = new Set(state.values());
    for (const t of this.#own)
      if (!kept.has(t)) {
        t.release();
        this.#own.delete(t);
      }
    this.#state = state;
  }

  /** The state, with an empty one for what has none yet. */
  #complete(feeds: SessionFeeds): Values {
    const missing = [...this.#carry.keys()].filter((name) => !this.#state.has(name));
    if (missing.length === 0) return this.#state;
    const { plan, interface: face } = this.#host;
    const sizes = new Map<string, number>();
    const given: Values = new Map([...this.#state, ...Object.entries(feeds).map(([name, t]) => [face.input(name), t] as const)]);
    for (const port of plan.inputs)
      port.dims?.forEach((d, i) => {
        const size = given.get(port.name)?.dims?.[i];
        if (typeof d === "string" && isSymbol(d) && size !== undefined) sizes.set(d, size);
      });
    const whole: Values = new Map(this.#state);
    for (const port of plan.inputs) if (missing.includes(port.name) && !given.has(port.name)) whole.set(port.name, emptyState(port, sizes));
    return whole;
  }
}

function portNamed(ports: readonly Port[], name: string): Port {
  const port = ports.find((p) => p.name === name);
  if (port === undefined) throw new Error(`no port '${name}'`);
  return port;
}
/** An output can be an input later when types agree, and dims as far as they are numbers. */
function demandAlike(plan: Plan, input: string, output: string): void {
  const [to, from] = [portNamed(plan.inputs, input), portNamed(plan.outputs, output)];
  const text = (p: Port): string => `${p.type}${p.dims === undefined ? "" : `[${p.dims.join(", ")}]`}`;
  const alike =
    to.type === from.type &&
    (to.dims === undefined ||
      from.dims === undefined ||
      (to.dims.length === from.dims.length &&
        to.dims.every((d, i) => typeof d !== "number" || typeof from.dims?.[i] !== "number" || d === from.dims[i])));
  if (!alike)
    throw badSession({
      name: "carry",
      what: `makes '${output}', which is ${text(from)}, the input '${input}', which is ${text(to)}`,
      fix: "carry an output whose type and dims the input takes",
    });
}
function emptyState(port: Port, sizes: ReadonlyMap<string, number>): TensorLike {
  const dims = port.dims?.map((d) => (typeof d === "number" ? d : isSymbol(d) ? (sizes.get(d) ?? 0) : undefined));
  if (dims === undefined || dims.includes(undefined) || !isTensorDType(port.type) || port.type === "string")
    throw badSession({
      name: "initial",
      what: `lacks '${port.name}', and its dims do not say how an empty one would be`,
      fix: "give it in initial",
    });
  const sized = dims as readonly number[];
  const Kind = typedArrayOf(port.type as NumericDType);
  return new Tensor(port.type, new Kind(sized.reduce((a, d) => a * d, 1)) as never, sized);
}
