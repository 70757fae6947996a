/** A model in ONNX Runtime on one worker thread: its options, how it is loaded there, and how runs get there and back. */
import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { PartitaError } from "../../diagnostics.js";
import { copyOf, Tensor, type TensorDType, type TensorLike } from "../../tensor.js";
import type { Artifact, LayerFacts, OpenContext, RunOptions } from "../engine.js";
import { narrowed, widened } from "./bfloat16.js";
import { noCrossing, ortFailed } from "./errors.js";
import { learn, type Paces } from "./paces.js";
import { packedBytes } from "./packing.mjs";
import { type HostWorker, pickWorker, SessionLost, workerDied } from "./pool.js";
import { graphOf, layersOf, type ProfileEvent } from "./profile.js";

/**
 * ONNX Runtime's optimizer that makes a Pad part of the operator behind it. A MaxPool's own padding never wins, where a zero of the Pad does; and
 * it makes paddings as wide as the window, which the kernels refuse.
 */
export const PAD_FUSION = "Pad_Fusion";
/** ONNX Runtime's levels of optimization that are used. */
export type Level = "all" | "basic" | "disabled";
const threadsOf = (threads: number): number => (threads > 0 ? threads : availableParallelism());
/**
 * ONNX Runtime's options for a session; 0 threads are those of the machine, `without` names optimizers that are left out ("basic": PAD_FUSION). Threads
 * look for work for `spinUs` microseconds before they sleep.
 */
export const sessionOptions = (
  threads: number,
  level: Level,
  without = level === "basic" ? PAD_FUSION : undefined,
  spinUs = 0,
): Readonly<Record<string, unknown>> => ({
  graphOptimizationLevel: level,
  intraOpNumThreads: threadsOf(threads),
  logSeverityLevel: 3,
  // Threads that spin between runs starve the event loop on small machines; ONNX Runtime's own measure is some 10 ms.
  extra: {
    session: { intra_op: spinUs === 0 ? { allow_spinning: "0" } : { allow_spinning: "1", spin_duration_us: `${spinUs}` } },
    ...(without === undefined ? {} : { optimization: { disable_specified_optimizers: without } }),
  },
});

/** Runs under the profiler: before it counts, and that count. */
const WARM = 3;
const MEASURED = 10;

const REFUSED = ortFailed({ native: "", while_: "create" }).code;

type StreamContext = Pick<OpenContext, "threads" | "onRemark">;

/** One ONNX Runtime session on one worker. It is made again when the worker had to be replaced. */
export class Stream {
  readonly worker: HostWorker;
  readonly #artifact: Artifact;
  readonly #context: StreamContext;
  #level: Level;
  /** Outputs that come as float32 and are bfloat16. */
  readonly #narrow: ReadonlySet<number>;
  #session = "";
  /** The worker's thread that the session lives in. */
  #generation = -1;
  #opening: Promise<void> | undefined;
  readonly #paces: Paces;
  /** Milliseconds that ONNX Runtime took to load the model. */
  loadedMs = 0;

  private constructor(worker: HostWorker, artifact: Artifact, context: StreamContext, level: Level, paces: Paces) {
    this.worker = worker;
    this.#paces = paces;
    this.#artifact = artifact;
    this.#context = context;
    this.#level = level;
    this.#narrow = new Set(artifact.settings?.["bfloat16"]?.split(",").map(Number));
  }

  static async open(
    artifact: Artifact,
    context: StreamContext,
    level: Level,
    paces: Paces,
    except: readonly HostWorker[],
  ): Promise<Stream> {
    const stream = new Stream(pickWorker(except), artifact, context, level, paces);
    stream.worker.sessions++;
    try {
      await stream.#opened();
    } catch (error) {
      stream.worker.sessions--;
      throw error;
    }
    return stream;
  }

  /** The level that the model was loaded at. */
  get level(): Level {
    return this.#level;
  }
  /** Threads of a run. */
  get threads(): number {
    return threadsOf(this.#context.threads);
  }
  /** ONNX Runtime's, of the session, or of one with so many threads that spin so long. */
  options({ threads = this.#context.threads, level = this.#level, spinUs = 0 } = {}): Readonly<Record<string, unknown>> {
    return sessionOptions(threads, level, this.#artifact.settings?.["without"], spinUs);
  }

  /** Makes the session where it is not there (any more); calls at the same time share one. */
  async #opened(): Promise<void> {
    if (this.#generation === this.worker.generation) return;
    this.#opening ??= this.#create().finally(() => {
      this.#opening = undefined;
    });
    await this.#opening;
  }

  async #create(): Promise<void> {
    try {
      await this.#load(this.#level);
    } catch (error) {
      // Its optimizer makes models of some that it then refuses itself: a Pad wider than the window of the pool that it is fused into.
      if (!(error instanceof PartitaError) || error.code !== REFUSED || this.#level === "disabled") throw error;
      try {
        await this.#load("disabled");
      } catch {
        throw error;
      }
      this.#level = "disabled";
      this.#context.onRemark?.({
        severity: "warning",
        text: `ONNX Runtime's optimizer breaks this segment, which runs as it is written: ${error.what}`,
      });
    }
  }

  async #load(level: Level): Promise<void> {
    const [file] = this.#artifact.files;
    if (file === undefined) throw new Error("a host artifact without its model");
    // The artifact keeps its bytes (they are saved, and other streams load them); ONNX Runtime refuses shared memory, so a copy moves over.
    const model = "path" in file ? file.path : (Uint8Array.prototype.slice.call(file.bytes).buffer as ArrayBuffer);
    const session = randomUUID();
    const { inputs, outputs } = this.#artifact;
    const { refused, loadedMs = 0 } = await this.worker.call<{
      readonly refused?: { readonly name: string; readonly type: string };
      readonly loadedMs?: number;
    }>(
      { op: "create", session, model, options: this.options({ level }), inputs, outputs },
      { transfer: typeof model === "string" ? [] : [model] },
    );
    if (refused !== undefined) throw noCrossing({ direction: "output", type: refused.type }, { value: refused.name });
    this.loadedMs = loadedMs;
    // Only now is the thread known: the call may have started it.
    this.#session = session;
    this.#generation = this.worker.generation;
  }

  /** In a session of its own beside this one, with its options: ONNX Runtime tells of its nodes only when it was asked before. */
  async layers(inputs: readonly TensorLike[]): Promise<readonly LayerFacts[]> {
    const [file] = this.#artifact.files;
    if (file === undefined) return [];
    const folder = mkdtempSync(join(tmpdir(), "partita-profile-"));
    try {
      const { events } = await this.worker.call<{ events: readonly ProfileEvent[] }>({
        op: "profile",
        model: "path" in file ? file.path : file.bytes,
        options: this.options(),
        feeds: inputs
          .map((t) => (t.type === "bfloat16" ? widened(t) : t))
          .map((t, i) => [this.#artifact.inputs[i], t.type, t.data, t.dims]),
        outputs: this.#artifact.outputs,
        folder,
        runs: WARM + MEASURED,
      });
      return layersOf(events, MEASURED, graphOf(file));
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }

  run(inputs: readonly TensorLike[], options: RunOptions): Promise<readonly Tensor[]> {
    const crossing = inputs.some((t) => t.type === "bfloat16") ? inputs.map((t) => (t.type === "bfloat16" ? widened(t) : t)) : inputs;
    // What may be taken over is: it moves to the thread as it is.
    const bytes = options.transfer === true ? undefined : packedBytes(crossing);
    const call = bytes === undefined ? this.#large(crossing, options) : this.#small(crossing, bytes, options);
    if (this.#generation !== this.worker.generation) return this.#again(call, 0);
    return call().then(this.#tensors, (error: unknown) => {
      if (!(error instanceof SessionLost)) throw error;
      return this.#again(call, 1);
    });
  }
  /** In a session that is made anew. */
  async #again(call: () => Promise<readonly TensorLike[]>, attempts: number): Promise<readonly Tensor[]> {
    for (let attempt = attempts; ; attempt++) {
      await this.#opened();
      try {
        return this.#tensors(await call());
      } catch (error) {
        if (!(error instanceof SessionLost)) throw error;
        if (attempt >= 3) throw workerDied({ why: "it was replaced several times in a row" });
      }
    }
  }
  readonly #tensors = (found: readonly TensorLike[]): readonly Tensor[] =>
    found.map(({ type, data, dims }, i) => {
      const t = new Tensor(type as TensorDType, data as never, dims);
      return this.#narrow.has(i) ? narrowed(t) : t;
    });
  #small(tensors: readonly TensorLike[], bytes: number, { signal }: RunOptions): () => Promise<readonly TensorLike[]> {
    const pace = this.#paces.of(tensors);
    return () =>
      this.worker.run({ session: this.#session, tensors, pace }, bytes, {
        signal,
        generation: this.#generation,
      });
  }
  #large(tensors: readonly TensorLike[], options: RunOptions): () => Promise<readonly TensorLike[]> {
    const transfer: ArrayBuffer[] = [];
    const feeds = tensors.map((t, i) => {
      let { data } = t;
      if (ArrayBuffer.isView(data) && data.buffer instanceof ArrayBuffer) {
        const whole = data.byteLength === data.buffer.byteLength;
        // A message holds the whole buffer of a view: of one that is a part, a copy goes; others may read the rest.
        if (!whole) data = copyOf(data as Float32Array);
        const { buffer } = data as Float32Array<ArrayBuffer>;
        if ((options.transfer === true || !whole) && !transfer.includes(buffer)) transfer.push(buffer);
      }
      return [this.#artifact.inputs[i], t.type, data, t.dims];
    });
    return async () => {
      const { out, ms } = await this.worker.call<{ out: readonly (readonly [string, never, readonly number[]])[]; ms: number }>(
        { op: "run", session: this.#session, feeds },
        { transfer, signal: options.signal, generation: this.#generation },
      );
      learn(this.#paces.of(tensors), ms);
      return out.map(([type, data, dims]) => ({ type, data, dims }));
    };
  }

  async dispose(): Promise<void> {
    this.worker.sessions--;
    // A worker that died has nothing left to release.
    if (this.#generation !== this.worker.generation) return;
    try {
      await this.worker.call({ op: "dispose", session: this.#session }, { generation: this.#generation });
    } catch (error) {
      if (error instanceof SessionLost || (error instanceof PartitaError && error.code === workerDied({ why: "" }).code)) return;
      throw error;
    }
  }
}
