/** Runs a kernel plan: set up once, then one native call an inference, off the event loop. Runs beyond the streams wait their turn. */

import { performance } from "node:perf_hooks";
import type { Phase } from "../../channels.js";
import { PartitaError } from "../../diagnostics.js";
import { Tensor, type TensorLike, typedArrayOf } from "../../tensor.js";
import type { DeviceTensor, Executable, LayerFacts, RunOptions } from "../engine.js";
import { checkPlan, portType } from "./check.js";
import { openDevice } from "./device.js";
import { badFeed, disposed, isFault } from "./errors.js";
import { Instance } from "./instance.js";
import { LoadedPlan } from "./loaded.js";
import type { DeviceProperties } from "./native.js";
import type { KernelPlan, PortSpec } from "./plan.js";
import { isResident, ResidentPool } from "./resident.js";

export interface OpenPlanOptions {
  /** Number of the GPU among the visible ones; 0 when absent. */
  readonly device?: number | undefined;
  /** Runs that may be under way at once, each with memory of its own besides the shared weights; 1 when absent. More wait. */
  readonly streams?: number | undefined;
}
/** Milliseconds on the device. */
export interface Timing {
  readonly median: number;
  readonly min: number;
  readonly samples: Float64Array;
}
export interface OperationTiming {
  /** Index into the plan's operations. */
  readonly operation: number;
  /** The kernel, or "clear". */
  readonly name: string;
  readonly nodes: readonly string[];
  /** Median of one execution, back to back with itself. */
  readonly ms: number;
}
export interface TimingOptions {
  /** Replays before the clock starts; 5 when absent. */
  readonly warmup?: number | undefined;
  /** Replays that are timed; 50 when absent. */
  readonly samples?: number | undefined;
  /** Fed in one run before, so that kernels work on real data. */
  readonly inputs?: readonly TensorLike[] | undefined;
}
export interface KernelFacts {
  readonly registers: number;
  /** Static. */
  readonly sharedBytes: number;
  readonly localBytes: number;
}

/** `run` takes tensors in the order of the plan's inputs and gives those of its outputs. Input arrays must not change until it settles. */
export interface CudaExecutable extends Executable {
  readonly device: DeviceProperties & { readonly ordinal: number };
  readonly kernels: ReadonlyMap<string, KernelFacts>;
  /** Bytes: weights once; arena, ports and pinned staging for each stream. */
  readonly memory: { readonly weights: number; readonly arena: number; readonly ports: number; readonly pinned: number };
  readonly runResident: NonNullable<Executable["runResident"]>;
  readonly timeUs: NonNullable<Executable["timeUs"]>;
  /** Replays of the whole graph: its kernels alone, or with `copies` also the transfers to and from the host. */
  timeGraph(options?: TimingOptions & { readonly copies?: boolean | undefined }): Promise<Timing>;
  /** Each operation in a graph of its own, `repeats` times (20 when absent) back to back. */
  profile(options?: TimingOptions & { readonly repeats?: number | undefined }): Promise<readonly OperationTiming[]>;
}

/**
 * Loads a plan onto a GPU. `cubins[i]` is compiled from `plan.sources[i]`; `weights` is the blob of `plan.weightsBytes`. The plan is checked first, whoever
 * wrote it. Throws P2102 to P2105 and P2108 to P2110; nothing stays on the GPU then.
 */
export async function openPlan(
  plan: KernelPlan,
  cubins: readonly Uint8Array[],
  weights: Uint8Array,
  options: OpenPlanOptions = {},
): Promise<CudaExecutable> {
  const sound = checkPlan(plan);
  const loaded = await LoadedPlan.load(openDevice(options.device ?? 0), sound, cubins, weights);
  const instances: Instance[] = [];
  try {
    const streams = Math.max(1, Math.floor(options.streams ?? 1));
    for (let i = 0; i < streams; i++) instances.push(new Instance(loaded));
  } catch (error) {
    for (const i of instances) i.release();
    loaded.release();
    throw error;
  }
  return new PlanExecutable(loaded, instances);
}

interface Waiter {
  readonly give: (instance: Instance) => void;
  readonly refuse: (error: unknown) => void;
}

class PlanExecutable implements CudaExecutable {
  readonly #loaded: LoadedPlan;
  readonly #all: readonly Instance[];
  readonly #free: Instance[];
  readonly #waiting: Waiter[] = [];
  #kept: ResidentPool | undefined;
  #ended: Promise<void> | undefined;
  #whenIdle: (() => void) | undefined;
  /** After a fault inside a kernel nothing on this GPU works any more. */
  #fault: PartitaError | undefined;

  constructor(loaded: LoadedPlan, instances: readonly Instance[]) {
    this.#loaded = loaded;
    this.#all = instances;
    this.#free = [...instances];
  }

  get device(): DeviceProperties & { readonly ordinal: number } {
    const { ordinal, properties } = this.#loaded.device;
    return { ...properties, ordinal };
  }
  get kernels(): ReadonlyMap<string, KernelFacts> {
    return new Map(
      [...this.#loaded.functions].map(([name, { registers, sharedBytes, localBytes }]) => [name, { registers, sharedBytes, localBytes }]),
    );
  }
  get memory(): CudaExecutable["memory"] {
    const { plan } = this.#loaded;
    const ports = plan.buffers.reduce((n, b) => n + (b.kind === "input" || b.kind === "output" ? b.bytes : 0), 0);
    return { weights: plan.weightsBytes, arena: plan.arenaBytes, ports, pinned: this.#all[0]?.pinnedBytes ?? 0 };
  }

  async run(inputs: readonly TensorLike[], options: RunOptions = {}): Promise<readonly Tensor[]> {
    const bytes = this.#bytesOf(inputs);
    const { phases } = options;
    const called = performance.now();
    return await this.#using(async (instance) => {
      const results = phases === undefined ? await instance.run(bytes) : await this.#told(instance, bytes, phases, called);
      return this.#loaded.plan.outputs.map((p, i) => tensorOf(p, results[i]));
    }, options.signal);
  }

  /** A run whose parts are told. The device's clock is not the host's: its times are laid so that they end when the host saw the end. */
  async #told(instance: Instance, bytes: readonly Uint8Array[], phases: Phase[], called: number): Promise<readonly ArrayBuffer[]> {
    const start = performance.now();
    phases.push({ name: "wait", startMs: called, endMs: start });
    const { results, marks } = await instance.runMarked(bytes);
    const end = performance.now();
    const from = Math.max(start, end - (marks.at(-1) ?? 0));
    const at = (i: number): number => Math.min(end, from + (marks[i] ?? 0));
    const { operations } = this.#loaded.plan;
    phases.push({ name: "copy in", startMs: from, endMs: at(0) }, { name: "compute", startMs: at(0), endMs: at(operations.length) });
    operations.forEach((o, i) => {
      const label = o.kind === "launch" ? o.launch.nodes.join(", ") || o.launch.kernel : "clear";
      phases.push({ name: "layer", label, startMs: at(i), endMs: at(i + 1) });
    });
    phases.push({ name: "copy out", startMs: at(operations.length), endMs: at(operations.length + 1) });
    return results;
  }

  async runResident(
    inputs: readonly (TensorLike | DeviceTensor)[],
    keep: readonly boolean[],
    options: RunOptions = {},
  ): Promise<readonly (Tensor | DeviceTensor)[]> {
    const { plan, device } = this.#loaded;
    if (inputs.length !== plan.inputs.length)
      throw badFeed({ what: `${inputs.length} inputs were given, the kernels take ${plan.inputs.length}` });
    const from = plan.inputs.map((p, i) => {
      const t = inputs[i] as TensorLike | DeviceTensor;
      if (!isResident(t)) return bytesOf(p, t);
      checkFits(p, t);
      return t;
    });
    return await this.#using(async (instance) => {
      this.#kept ??= new ResidentPool(device, "memory for results that stay on the GPU");
      const pool = this.#kept;
      const kept: (DeviceTensor | undefined)[] = [];
      try {
        for (const [i, p] of plan.outputs.entries())
          kept.push(keep[i] === true ? pool.take(p.dtype, p.dims, plan.buffers[p.buffer]?.bytes) : undefined);
        const results = await instance.runResident(
          from,
          kept.map((t) => t?.memory),
        );
        return plan.outputs.map((p, i) => kept[i] ?? tensorOf(p, results[i]));
      } catch (error) {
        for (const t of kept) t?.release();
        throw error;
      }
    }, options.signal);
  }
  async timeUs(inputs: readonly TensorLike[]): Promise<number> {
    return 1000 * (await this.timeGraph({ inputs })).median;
  }

  async timeGraph(options: TimingOptions & { readonly copies?: boolean | undefined } = {}): Promise<Timing> {
    const { warmup = 5, samples = 50, inputs, copies = false } = options;
    const bytes = inputs === undefined ? undefined : this.#bytesOf(inputs);
    return await this.#using(async (instance) => {
      if (bytes !== undefined) await (copies ? instance.runWhole(bytes) : instance.run(bytes));
      return timing(await instance.time(copies ? instance.wholeGraph() : instance.computeGraph(), warmup, samples));
    });
  }

  async profile(options: TimingOptions & { readonly repeats?: number | undefined } = {}): Promise<readonly OperationTiming[]> {
    const { warmup = 2, samples = 20, repeats = 20, inputs } = options;
    const bytes = inputs === undefined ? undefined : this.#bytesOf(inputs);
    return await this.#using(async (instance) => {
      if (bytes !== undefined) await instance.run(bytes);
      const times: OperationTiming[] = [];
      for (const [operation, o] of this.#loaded.plan.operations.entries()) {
        const graph = instance.capture(() => {
          for (let i = 0; i < repeats; i++) instance.issue(o, { dependent: false });
        });
        try {
          const { median } = timing(await instance.time(graph, warmup, samples));
          const named = o.kind === "launch" ? { name: o.launch.kernel, nodes: o.launch.nodes } : { name: "clear", nodes: [] };
          times.push({ operation, ...named, ms: median / repeats });
        } finally {
          instance.drop(graph);
        }
      }
      return times;
    });
  }

  async layers(inputs: readonly TensorLike[]): Promise<readonly LayerFacts[]> {
    const operations = await this.profile({ inputs });
    return operations.map(({ name, nodes, ms }) => ({
      name: nodes.length === 0 ? name : nodes.join(", "),
      op: name,
      nodes,
      us: 1000 * ms,
    }));
  }

  dispose(): Promise<void> {
    this.#ended ??= this.#end();
    return this.#ended;
  }
  async #end(): Promise<void> {
    for (const w of this.#waiting.splice(0)) w.refuse(disposed({}));
    if (this.#free.length < this.#all.length)
      await new Promise<void>((idle) => {
        this.#whenIdle = idle;
      });
    // What cannot be freed after a fault is gone with the context; the fault has been told to whoever ran into it.
    for (const i of this.#all) i.release();
    this.#kept?.end();
    this.#loaded.release();
  }

  async #using<T>(work: (instance: Instance) => Promise<T>, signal?: AbortSignal): Promise<T> {
    const instance = await this.#acquire(signal);
    try {
      return await work(instance);
    } catch (error) {
      if (error instanceof PartitaError && isFault(error)) this.#fault = error;
      throw error;
    } finally {
      this.#giveBack(instance);
    }
  }

  #acquire(signal: AbortSignal | undefined): Promise<Instance> {
    if (this.#ended !== undefined) throw disposed({});
    if (this.#fault !== undefined) throw this.#fault;
    signal?.throwIfAborted();
    const instance = this.#free.pop();
    if (instance !== undefined) return Promise.resolve(instance);
    return new Promise((resolve, reject) => {
      const stop = (): void => {
        this.#waiting.splice(this.#waiting.indexOf(waiter), 1);
        reject(signal?.reason);
      };
      const settle = (): void => signal?.removeEventListener("abort", stop);
      const waiter: Waiter = {
        give(i) {
          settle();
          resolve(i);
        },
        refuse(error) {
          settle();
          reject(error);
        },
      };
      this.#waiting.push(waiter);
      signal?.addEventListener("abort", stop, { once: true });
    });
  }

  #giveBack(instance: Instance): void {
    const next = this.#fault === undefined ? this.#waiting.shift() : undefined;
    if (next !== undefined) {
      next.give(instance);
      return;
    }
    if (this.#fault !== undefined) for (const w of this.#waiting.splice(0)) w.refuse(this.#fault);
    this.#free.push(instance);
    if (this.#free.length === this.#all.length) this.#whenIdle?.();
  }

  #bytesOf(inputs: readonly TensorLike[]): readonly Uint8Array[] {
    const ports = this.#loaded.plan.inputs;
    if (inputs.length !== ports.length) throw badFeed({ what: `${inputs.length} inputs were given, the kernels take ${ports.length}` });
    return ports.map((p, i) => bytesOf(p, inputs[i] as TensorLike));
  }
}

/** Throws P2111. */
function checkFits(p: PortSpec, t: Pick<TensorLike, "type" | "dims">): void {
  const fits = t.type === p.dtype && t.dims.length === p.dims.length && t.dims.every((d, i) => d === p.dims[i]);
  if (!fits)
    throw badFeed({ what: `input '${p.name}' is ${t.type} [${t.dims.join(", ")}], the kernels take ${p.dtype} [${p.dims.join(", ")}]` });
}
/** The bytes of a tensor that must be what the port says. Throws P2111. */
function bytesOf(p: PortSpec, t: TensorLike): Uint8Array {
  checkFits(p, t);
  const { data } = new Tensor(portType(p), t.data as never, t.dims);
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}
function tensorOf(p: PortSpec, bytes: ArrayBuffer = new ArrayBuffer(0)): Tensor {
  const type = portType(p);
  return new Tensor(type, new (typedArrayOf(type))(bytes) as never, p.dims);
}

function timing(samples: Float64Array): Timing {
  const sorted = samples.toSorted();
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  const median = sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? upper) + upper) / 2;
  return { median, min: sorted[0] ?? Number.NaN, samples };
}
