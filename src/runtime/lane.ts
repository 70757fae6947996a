/** One opened copy of a program: an executable per segment, all on one device where they use one. Independent segments run at once. */
import { performance } from "node:perf_hooks";
import { type Phase, segmentChannel, traced } from "../channels.js";
import { isResident } from "../engines/cuda/resident.js";
import type { CallingThread, DeviceTensor, Executable, HostCopies, Place } from "../engines/engine.js";
import { addCounters, type CacheCounters, noCounters } from "../engines/shape-cache.js";
import type { Tensor, TensorLike } from "../tensor.js";
import { put, type Values } from "./feeds.js";
import type { Plan, Step } from "./ports.js";

export interface LaneSettings {
  /** Engine of each step, for the events. */
  readonly engines?: readonly string[] | undefined;
  /** CUDA device of the segments that use one. */
  readonly device?: number | undefined;
  /** Runs that an engine takes at once, where it says nothing else. Default 1. */
  readonly streams?: number | undefined;
}
export interface LaneRunOptions {
  /** Number of the run or of the batch, for the events. */
  readonly run: number;
  readonly session: number;
  readonly signal?: AbortSignal | undefined;
  readonly transfer?: boolean | undefined;
  /** By step and output: which results stay on the device. Default: those that only steps on the device read. */
  readonly keep?: readonly (readonly boolean[])[] | undefined;
  /** Names of results that the caller takes over, on the device as they may be. */
  readonly taken?: ReadonlySet<string> | undefined;
  /** Whether the caller still takes them when the run is over. */
  readonly wanted?: (() => boolean) | undefined;
  /** Others were under way or waited when it came. */
  readonly overlaps?: boolean | undefined;
  /** It goes to an engine's threads: that has been decided. */
  readonly placed?: boolean | undefined;
}

export class Lane {
  readonly #plan: Plan;
  readonly #executables: readonly Executable[];
  readonly #settings: LaneSettings;
  readonly #times: { runs: number; totalMs: number }[];
  /** By step: which of its outputs may stay on the device, as all who read them take them there. */
  readonly #resident: readonly (readonly boolean[])[];
  /** Whether values may be on the device. */
  readonly #onDevice: boolean;
  /** Of a plan of one step, where its runs may be on the calling thread. */
  readonly #here: CallingThread | undefined;
  /** Of each input of the only step, its place among the plan's; undefined where they are the same. */
  readonly #order: readonly number[] | undefined;
  #load = 0;

  /** `executables[i]` runs `plan.steps[i]`. */
  constructor(plan: Plan, executables: readonly Executable[], settings: LaneSettings = {}) {
    this.#plan = plan;
    this.#executables = executables;
    this.#settings = settings;
    this.#times = plan.steps.map(() => ({ runs: 0, totalMs: 0 }));
    this.#resident = this.residency(new Map());
    this.#onDevice = executables.some((e) => e.runResident !== undefined);
    const [only] = plan.steps;
    const order = only?.inputs.map((name) => plan.inputs.findIndex((p) => p.name === name)) ?? [];
    this.#order = order.length === plan.inputs.length && order.every((k, i) => k === i) ? undefined : order;
    // Every output is the step's.
    const plain = plan.steps.length === 1 && plan.outputs.every((p) => only?.outputs.includes(p.name) === true);
    this.#here = plain && !order.includes(-1) && Object.keys(plan.direct).length === 0 ? executables[0]?.here : undefined;
  }

  /** Runs under way here. */
  get load(): number {
    return this.#load;
  }
  /** Number of the GPU that it uses, if it does. */
  get device(): number | undefined {
    return this.#settings.device;
  }
  /** Runs that the engines take at once: as many as the one that takes fewest. There is one calling thread. */
  get parallel(): number {
    if (this.#here?.preferred === true) return 1;
    const { streams = 1 } = this.#settings;
    let least: number | undefined;
    for (const e of this.#executables) least = Math.min(least ?? Number.POSITIVE_INFINITY, e.streams ?? streams);
    return least ?? streams;
  }
  /** One per step, and its engine, for profiles. */
  get executables(): readonly Executable[] {
    return this.#executables;
  }
  get engines(): readonly string[] {
    return this.#settings.engines ?? [];
  }
  get times(): readonly { readonly runs: number; readonly totalMs: number }[] {
    return this.#times;
  }

  /** Whether runs may be on the calling thread. */
  get hasHere(): boolean {
    return this.#here !== undefined;
  }
  /** Where a run goes when so many wait, it among them. `inputs` in the plan's order, on the host. */
  place(inputs: readonly TensorLike[], waiting: number): Place {
    return this.#here?.place(this.#inOrder(inputs), waiting, this.#load) ?? "engine";
  }
  /** A run of a plan of one step on the calling thread, of the inputs for which `place` has just said so: the outputs `wanted`, or all of them into `values`. */
  runHere(inputs: readonly TensorLike[], wanted: readonly string[] = [], values?: Values): Record<string, Tensor> {
    const [step] = this.#plan.steps;
    if (step === undefined || this.#here === undefined) throw new Error("no run goes here");
    const outs = this.#here.run(this.#inOrder(inputs));
    if (values === undefined) this.#count(0, this.#here.ms);
    else this.#over(0, step, values, outs, this.#here.ms);
    const results: Record<string, Tensor> = {};
    for (const name of wanted) put(results, name, outs[step.outputs.indexOf(name)] as Tensor);
    return results;
  }
  /** Inputs of the only step. */
  #inOrder(inputs: readonly TensorLike[]): readonly TensorLike[] {
    return this.#order === undefined ? inputs : this.#order.map((i) => inputs[i] as TensorLike);
  }
  #count(i: number, ms: number): void {
    const record = this.#times[i];
    if (record === undefined) return;
    record.runs++;
    record.totalMs += ms;
  }
  #over(i: number, step: Step, values: Values, outs: readonly (TensorLike | DeviceTensor)[], ms: number): void {
    this.#count(i, ms);
    for (let k = 0; k < step.outputs.length; k++) {
      const t = outs[k];
      if (t !== undefined) values.set(step.outputs[k] as string, t);
    }
  }

  /**
   * By step and output: what stays on the device. Results of the session do not, but those among `carried`, output to the inputs it becomes
   * later, do where all who will read them take them there.
   */
  residency(carried: ReadonlyMap<string, readonly string[]>): readonly (readonly boolean[])[] {
    const { steps, outputs } = this.#plan;
    const onDevice = this.#executables.map((e) => e.runResident !== undefined);
    const wanted = new Set(outputs.map((p) => p.name));
    return steps.map((step, i) =>
      step.outputs.map((name) => {
        const later = carried.get(name);
        if (onDevice[i] !== true || (later === undefined && wanted.has(name))) return false;
        const names = [name, ...(later ?? [])];
        const readers = steps.flatMap((s, k) => (names.some((n) => s.inputs.includes(n)) ? [k] : []));
        return readers.length > 0 && readers.every((k) => onDevice[k] === true);
      }),
    );
  }

  /** Runs every step on `values`, and puts there what they make. What is on the device and was not there before is released, but what is taken. */
  async run(values: Values, options: LaneRunOptions): Promise<void> {
    this.#load++;
    const before = this.#onDevice ? new Set(values.values()) : undefined;
    let done = false;
    try {
      const [only] = this.#plan.steps;
      if (this.#plan.steps.length === 1 && only !== undefined) await this.#step(0, only, values, options);
      else await this.#steps(values, options);
      done = true;
    } finally {
      this.#load--;
      for (const [name, t] of before === undefined ? [] : values)
        if (isResident(t) && before?.has(t) !== true && !(done && options.taken?.has(name) === true && options.wanted?.() !== false)) {
          t.release();
          values.delete(name);
        }
    }
  }

  /** Steps start as soon as their inputs are there. */
  async #steps(values: Values, options: LaneRunOptions): Promise<void> {
    const waiting = new Map<string, Promise<void>>();
    const all = this.#plan.steps.map((step, i) => {
      const before = step.inputs.map((name) => waiting.get(name)).filter((p) => p !== undefined);
      const done = Promise.all(before).then(() => this.#step(i, step, values, { ...options, transfer: false }));
      for (const name of step.outputs) waiting.set(name, done);
      return done;
    });
    for (const s of await Promise.allSettled(all)) if (s.status === "rejected") throw s.reason;
  }

  async #step(i: number, step: Step, values: Values, options: LaneRunOptions): Promise<void> {
    const executable = this.#executables[i];
    if (executable === undefined) throw new Error(`no executable for ${step.segment}`);
    let feeds = step.inputs.map((name) => values.get(name) as TensorLike | DeviceTensor);
    if (executable.runResident === undefined && feeds.some(isResident))
      feeds = await Promise.all(feeds.map((t) => (isResident(t) ? t.fetch() : t)));
    const keep = (options.keep ?? this.#resident)[i] ?? [];
    const { run, session, signal, transfer, overlaps } = options;
    const { engines, device } = this.#settings;
    const engine = engines?.[i] ?? "host";
    const start = performance.now();
    const here = this.#mayBeHere(executable, feeds, options);
    const work = (event?: { readonly phases?: Phase[] | undefined }): Promise<readonly (TensorLike | DeviceTensor)[]> => {
      if (here !== undefined) return settled(() => here.run(feeds as readonly TensorLike[]));
      return executable.runResident !== undefined && (keep.includes(true) || feeds.some(isResident))
        ? executable.runResident(feeds, keep, { signal })
        : executable.run(feeds as readonly TensorLike[], { signal, transfer, overlaps, phases: event?.phases });
    };
    const outs = segmentChannel.hasSubscribers
      ? await traced(
          segmentChannel,
          () => ({ run, session, segment: step.segment, engine, device: engine === "host" ? undefined : device }),
          work,
        )
      : await work();
    this.#over(i, step, values, outs, performance.now() - start);
  }
  #mayBeHere(executable: Executable, feeds: readonly (TensorLike | DeviceTensor)[], options: LaneRunOptions): CallingThread | undefined {
    const { here } = executable;
    if (here === undefined || options.placed === true || feeds.some(isResident)) return undefined;
    const waiting = options.overlaps === true ? 2 : 1;
    return here.place(feeds as readonly TensorLike[], waiting, this.#load - 1) === "here" ? here : undefined;
  }

  /** Of the engines that are built by shape. */
  get cache(): CacheCounters {
    return this.#executables.reduce((sum, e) => (e.cache === undefined ? sum : addCounters(sum, e.cache())), noCounters);
  }

  /** By segment, of those on the host. */
  get copies(): Readonly<Record<string, HostCopies>> {
    return Object.fromEntries(
      this.#plan.steps.flatMap(({ segment }, i) => {
        const copies = this.#executables[i]?.copies?.();
        return copies === undefined ? [] : [[segment, copies]];
      }),
    );
  }

  async dispose(): Promise<void> {
    await Promise.all(this.#executables.map((e) => e.dispose()));
  }
}

const settled = async <T>(work: () => T): Promise<T> => work();
