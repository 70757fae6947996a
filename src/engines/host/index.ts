/** The host engine: a segment as an ONNX model, run by ONNX Runtime in worker threads. Always there. */
import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { no, PartitaError, yes } from "../../diagnostics.js";
import { encodeOnnx, writeOnnx } from "../../import/onnx/export.js";
import { isStatic, isStaticShape, isUnknown, symbolsOf } from "../../ir/dims.js";
import { byteLength } from "../../ir/dtypes.js";
import { bodiesOf, displayName, qualifiedOp, valueAt } from "../../ir/graph.js";
import { graphHash } from "../../ir/hash.js";
import { elementCount, fromTensor, payloadLength } from "../../ir/payload.js";
import { typeText } from "../../ir/print.js";
import type { Constant, DType, Graph, ValueId } from "../../ir/types.js";
import { shapeOf } from "../../ops/define.js";
import { inferGraph } from "../../ops/infer.js";
import { isTensorDType, Tensor, type TensorDType, type TensorLike } from "../../tensor.js";
import { byShape } from "../by-shape.js";
import type { Artifact, Engine, Executable, LayerFacts, OpenContext, RunOptions } from "../engine.js";
import { halvesTransposed, NCHWC } from "./avoid.js";
import { carried, isBfloat16, narrowed, widened } from "./bfloat16.js";
import { noCrossing, ortFailed, tooLarge } from "./errors.js";
import { guarded } from "./guard.js";
import { Here } from "./here.js";
import { FUSIONS_THAT_ROUND, integers } from "./integers.js";
import { keeps } from "./keeps.js";
import { checkKernels } from "./kernels.js";
import { misfits, withOpenDims } from "./misfits.js";
import { type Pace, Paces } from "./paces.js";
import { packedBytes } from "./packing.mjs";
import { type HostWorker, MESSAGE_MS, MESSAGE_RUNS, pickWorker, SessionLost, workerDied } from "./pool.js";
import { graphOf, layersOf, type ProfileEvent } from "./profile.js";

/** Models above this go to ONNX Runtime as files. */
const IN_MEMORY = 1 << 30;
/** Bump when the way a segment is written changes: caches hold artifacts by key. */
const VERSION = "host/3";

const anyDims: Engine = {
  name: "host",
  serves: "range",
  keeps,
  async available() {
    try {
      import.meta.resolve("onnxruntime-node");
      return yes;
    } catch (error) {
      return no(
        `onnxruntime-node is not installed: ${error instanceof Error ? error.message : error}`,
        "npm install --ignore-scripts onnxruntime-node",
      );
    }
  },
  async build(segment, context) {
    checkKernels(segment);
    checkInterface(segment);
    const spelled = carried(guarded(misfits(segment) ? withOpenDims(segment) : segment));
    const graph = context.target.precision === "int8" ? integers(spelled) : spelled;
    const names = (ids: readonly number[]): string[] => ids.map((v) => valueAt(graph, v as never).name);
    let weights = 0;
    for (const c of graph.constants.values()) weights += payloadLength(c.data);
    // ONNX Runtime turns Q/DQ pairs into integer kernels, whose rounding is that of int8; a graph compiled for a float precision keeps the
    // arithmetic it spells.
    const quantized = graph.nodes.some((n) => n.op === "QuantizeLinear" || n.op === "DequantizeLinear");
    const level: Level = quantized && context.target.precision !== "int8" ? "basic" : "all";
    const without = [
      ...(graph === spelled ? [] : [FUSIONS_THAT_ROUND]),
      ...(padsPools(graph) ? [PAD_FUSION] : []),
      ...(halvesTransposed(graph) ? [NCHWC] : []),
    ];
    const key = graphHash(graph, `${VERSION} ${level}`);
    const bfloat16 = segment.outputs.flatMap((v, i) => (isBfloat16(segment, v) ? [i] : []));
    const signature = {
      settings: {
        level,
        ...(without.length === 0 ? {} : { without: without.join(";") }),
        ...(bfloat16.length === 0 ? {} : { bfloat16: bfloat16.join() }),
        ...(byDims(graph) ? { byDims: "" } : {}),
      },
      engine: "host" as const,
      key,
      inputs: names(graph.inputs),
      outputs: names(graph.outputs),
    };
    if (weights < IN_MEMORY) return { ...signature, files: [{ name: "model.onnx", bytes: encodeOnnx(graph) }] };
    const folder = mkdtempSync(join(tmpdir(), "partita-host-"));
    process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
    writeOnnx(graph, join(folder, "model.onnx"));
    return {
      ...signature,
      files: [
        { name: "model.onnx", path: join(folder, "model.onnx") },
        { name: "model.onnx.data", path: join(folder, "model.onnx.data") },
      ],
    };
  },
  open: (artifact, context) => openModel(artifact, context, artifact.settings?.["level"] === "basic" ? "basic" : "all"),
};
/** Built by shape only where that is asked for: ONNX Runtime takes any dims. */
export const hostEngine: Engine = byShape(anyDims, () => anyDims);

/**
 * ONNX Runtime's optimizer that makes a Pad part of the operator behind it. A MaxPool's own padding never wins, where a zero of the Pad does; and
 * it makes paddings as wide as the window, which the kernels refuse.
 */
const PAD_FUSION = "Pad_Fusion";
/** Whether a Pad is read by a pool, bodies included. */
function padsPools(g: Graph): boolean {
  const padded = new Set(g.nodes.flatMap((n) => (n.op === "Pad" ? n.outs : [])));
  return g.nodes.some(
    (n) => (n.op.endsWith("Pool") && n.ins.some((v) => padded.has(v))) || bodiesOf(n).some(({ body }) => padsPools(body.graph)),
  );
}

/** Nodes of a graph that runs on the calling thread may have; none of more is as short. */
const MOST_NODES = 500;
/** Whether the work of a run follows from the dims of its inputs alone: no body, and no dim that depends on values. */
function byDims(g: Graph): boolean {
  if (g.nodes.length > MOST_NODES || g.nodes.some((n) => bodiesOf(n).length > 0)) return false;
  const { graph, facts } = inferGraph(g);
  const known = new Set(graph.inputs.flatMap((v) => (shapeOf(facts(v)) ?? []).flatMap((d) => symbolsOf(d))));
  return graph.nodes.every((n) =>
    n.outs.every(
      (v) => v === undefined || shapeOf(facts(v))?.every((d) => isStatic(d) || (!isUnknown(d) && symbolsOf(d).every((s) => known.has(s)))),
    ),
  );
}

type Level = "all" | "basic" | "disabled";
/** ONNX Runtime's options for a session; 0 threads are those of the machine, `without` names optimizers that are left out ("basic": PAD_FUSION). */
export const sessionOptions = (
  threads: number,
  level: Level,
  without = level === "basic" ? PAD_FUSION : undefined,
): Readonly<Record<string, unknown>> => ({
  graphOptimizationLevel: level,
  intraOpNumThreads: threads > 0 ? threads : availableParallelism(),
  logSeverityLevel: 3,
  // Threads that spin between runs starve the event loop on small machines.
  extra: {
    session: { intra_op: { allow_spinning: "0" } },
    ...(without === undefined ? {} : { optimization: { disable_specified_optimizers: without } }),
  },
});

/** What one typed array holds at most. */
const MAX_OUTPUT = 2 ** 32 - 1;
/** Memory this process may have, bytes: the machine's, or its container's. */
const memory = (): number => {
  const constrained = process.constrainedMemory();
  return constrained > 0 ? Math.min(constrained, totalmem()) : totalmem();
};

/**
 * Refuses what would end the process inside ONNX Runtime's binding: element types it cannot make arrays of (P2004), and tensors that no
 * memory holds (P2005).
 */
function checkInterface(g: Graph): void {
  const file = g.extra?.file;
  for (const [direction, ids] of [
    ["input", g.inputs],
    ["output", g.outputs],
  ] as const)
    for (const id of ids) {
      const { name, type } = valueAt(g, id);
      // An optional that turns out to be empty ends the process in the binding; as an input it is a tensor that is there.
      const crosses =
        type.kind === "tensor" ? isTensorDType(type.dtype) : type.kind === "unknown" || (type.kind === "optional" && direction === "input");
      if (!crosses) throw noCrossing({ direction, type: typeText(type), tensor: zipped(g, id) }, { file, value: name });
    }
  checkSizes(g, memory(), file);
}
/** The tensor whose columns a ZipMap gives names, as converters of classifiers end them. */
function zipped(g: Graph, id: ValueId): string | undefined {
  const made = g.nodes.find((n) => n.op === "ZipMap" && n.outs.includes(id));
  const [tensor] = made?.ins ?? [];
  return tensor === undefined ? undefined : valueAt(g, tensor).name;
}
function bytesOf(dtype: DType, dims: readonly number[]): number {
  const count = elementCount(dims);
  return count === undefined ? Number.POSITIVE_INFINITY : byteLength(dtype, count);
}
function checkSizes(g: Graph, limit: number, file: string | undefined): void {
  const outputs = new Set(g.outputs);
  // What no array can hold nobody can feed; ONNX Runtime would make room for it all the same.
  for (const id of g.inputs) {
    const { name, type } = valueAt(g, id);
    const bytes = type.kind === "tensor" && isStaticShape(type.shape) ? bytesOf(type.dtype, type.shape) : 0;
    if (bytes > MAX_OUTPUT) throw tooLarge({ bytes, limit: MAX_OUTPUT }, { file, value: name });
  }
  for (const n of g.nodes) {
    for (const id of n.outs) {
      if (id === undefined) continue;
      const { name, type } = valueAt(g, id);
      if (type.kind !== "tensor" || !isStaticShape(type.shape)) continue;
      const bytes = bytesOf(type.dtype, type.shape);
      const most = outputs.has(id) ? Math.min(limit, MAX_OUTPUT) : limit;
      if (bytes > most) throw tooLarge({ bytes, limit: most }, { file, node: displayName(g, n), op: qualifiedOp(n), value: name });
    }
    for (const { body } of bodiesOf(n)) checkSizes(body.graph, limit, file);
  }
}

/** Milliseconds of a run that is over on the calling thread before it had come to another and back: of several at once, and of one alone. */
const SHORT = 0.03;
const ALONE = 0.2;
/** Milliseconds of such runs in one turn of the event loop: where other threads help, and wait for the next message; and where none does. */
const SLICE = 0.3;
const SLICE_ALONE = 2;
/** Runs that are worth a message. */
const WORTH = 8;

async function openModel(artifact: Artifact, context: OpenContext, level: Level): Promise<Executable> {
  const streams: Stream[] = [];
  const paces = new Paces();
  try {
    for (let i = 0; i < Math.max(1, context.streams); i++) {
      const taken = streams.map((s) => s.worker);
      streams.push(await Stream.open(artifact, context, level, paces, taken));
    }
  } catch (error) {
    await Promise.all(streams.map((s) => s.dispose()));
    throw error;
  }
  const leastBusy = (of: readonly Stream[]): Stream =>
    of.find((s) => s.worker.filling) ?? of.reduce((a, b) => (b.worker.load < a.worker.load ? b : a));
  const [first, ...others] = streams as [Stream, ...Stream[]];
  const here = new Here(artifact, () => first.options, first.loadedMs);
  // One of the streams is this thread while runs are short; the others get messages of several. Who of those that wait goes along:
  let along = 0;
  let pace: Pace = { ms: undefined };
  let now = 0;
  let disposed = false;
  return {
    run(inputs, options = {}) {
      const short = others.length > 0 && (paces.of(inputs).ms ?? Number.POSITIVE_INFINITY) <= SHORT && here.ready;
      return leastBusy(short ? others : streams).run(inputs, options);
    },
    here: {
      place(inputs, waiting, busy) {
        pace = paces.of(inputs);
        const { ms } = pace;
        const alone = waiting === 1 && busy === 0;
        if (ms === undefined || ms > (alone ? ALONE : SHORT) || !here.ready) return "engine";
        const helped = others.some((s) => !s.worker.late);
        if (along === 0 && waiting >= 2 * WORTH && helped && leastBusy(others).worker.hungry)
          along = Math.min(waiting >> 1, MESSAGE_RUNS, Math.floor(MESSAGE_MS / ms));
        if (along > 0) {
          along--;
          return "engine";
        }
        now = performance.now();
        return here.spent(now) < (helped ? SLICE : SLICE_ALONE) ? "here" : "later";
      },
      run: (inputs) => here.run(inputs, pace, now),
      get ms() {
        return here.ms;
      },
    },
    async layers(inputs) {
      const [stream] = streams;
      return (await stream?.layers(inputs)) ?? [];
    },
    async dispose() {
      if (disposed) return;
      disposed = true;
      here.dispose();
      await Promise.all(streams.map((s) => s.dispose()));
    },
  };
}

/** Runs under the profiler: before it counts, and that count. */
const WARM = 3;
const MEASURED = 10;

const REFUSED = ortFailed({ native: "", while_: "create" }).code;

/** One ONNX Runtime session on one worker. It is made again when the worker had to be replaced. */
class Stream {
  readonly worker: HostWorker;
  readonly #artifact: Artifact;
  readonly #context: Pick<OpenContext, "threads" | "onRemark">;
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

  private constructor(
    worker: HostWorker,
    artifact: Artifact,
    context: Pick<OpenContext, "threads" | "onRemark">,
    level: Level,
    paces: Paces,
  ) {
    this.worker = worker;
    this.#paces = paces;
    this.#artifact = artifact;
    this.#context = context;
    this.#level = level;
    this.#narrow = new Set(artifact.settings?.["bfloat16"]?.split(",").map(Number));
  }

  static async open(
    artifact: Artifact,
    context: Pick<OpenContext, "threads" | "onRemark">,
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

  /** ONNX Runtime's, of the session. */
  get options(): Readonly<Record<string, unknown>> {
    return this.#optionsAt(this.#level);
  }
  #optionsAt(level: Level): Readonly<Record<string, unknown>> {
    return sessionOptions(this.#context.threads, level, this.#artifact.settings?.["without"]);
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
      { op: "create", session, model, options: this.#optionsAt(level), inputs, outputs },
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
        options: this.options,
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
        if (!whole) data = (data as Float32Array).slice();
        const { buffer } = data as Float32Array<ArrayBuffer>;
        if ((options.transfer === true || !whole) && !transfer.includes(buffer)) transfer.push(buffer);
      }
      return [this.#artifact.inputs[i], t.type, data, t.dims];
    });
    return async () => {
      const { out } = await this.worker.call<{ out: readonly (readonly [string, never, readonly number[]])[] }>(
        { op: "run", session: this.#session, feeds },
        { transfer, signal: options.signal, generation: this.#generation },
      );
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

/** Runs a graph without inputs and gives its outputs as constants: the evaluator of constant folding. Exactness over speed: level basic. */
export async function evaluate(graph: Graph): Promise<readonly Constant[]> {
  const artifact = await hostEngine.build(graph, { target: { sm: 0, tensorrt: 0, precision: "fp32" } });
  const executable = await openModel(artifact, { streams: 1, threads: 1 }, "basic");
  try {
    return (await executable.run([])).map((t) => fromTensor(t));
  } finally {
    await executable.dispose();
  }
}
