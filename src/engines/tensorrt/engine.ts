/** Deserialized plans and their execution contexts: runs wait their turn, disposal waits for runs. */
import type { GraphHandle } from "../cuda/native.js";
import { addon, type EngineHandle, type ExecutionHandle, type LibraryId } from "./addon.js";
import {
  badRun,
  disposedEngine,
  isMemory,
  nativeText,
  notCreated,
  planRefused,
  refitFailed,
  rejection,
  runFailed,
  tensorRtMemory,
} from "./failures.js";
import type {
  Context,
  DeserializeOptions,
  Engine,
  InputBinding,
  IoTensor,
  IoType,
  OnnxModel,
  ProfileRange,
  RefitWeights,
  RunRequest,
  RunResult,
} from "./native.js";

/** By TensorRT's DataType. */
const TYPES: readonly IoType[] = [
  "float32",
  "float16",
  "int8",
  "int32",
  "bool",
  "uint8",
  "fp8",
  "bfloat16",
  "int64",
  "int4",
  "fp4",
  "e8m0",
];
const BITS: Readonly<Record<IoType, number>> = {
  float32: 32,
  float16: 16,
  int8: 8,
  int32: 32,
  bool: 8,
  uint8: 8,
  fp8: 8,
  bfloat16: 16,
  int64: 64,
  int4: 4,
  fp4: 4,
  e8m0: 8,
};

/** Throws P2216, P2221, P2224. */
export async function loadEngine(library: LibraryId, plan: Uint8Array, options: DeserializeOptions = {}): Promise<Engine> {
  if (plan.byteLength === 0) throw planRefused({ why: "it is empty" });
  try {
    const made = await addon().tensorrt.deserialize(library, plan, options.context, options.allowHostCode === true);
    for (const message of made.log) options.onLog?.(message);
    return new LoadedEngine(made);
  } catch (error) {
    const failure = rejection(error);
    if (failure === undefined) throw error;
    for (const message of failure.log) options.onLog?.(message);
    const why = nativeText(failure);
    if (isMemory(failure)) throw tensorRtMemory({ call: failure.call, why }, {}, failure);
    if (failure.call === "createInferRuntime") throw notCreated({ call: failure.call, why }, {}, failure);
    throw planRefused({ why }, {}, failure);
  }
}

type Made = Awaited<ReturnType<ReturnType<typeof addon>["tensorrt"]["deserialize"]>>;

class LoadedEngine implements Engine {
  readonly io: readonly IoTensor[];
  readonly profiles: number;
  readonly layers: number;
  readonly canRefit: boolean;
  readonly deviceMemoryBytes: number;
  refits = 0;
  readonly #handle: EngineHandle;
  readonly #contexts = new Set<LoadedContext>();
  /** Work on the engine itself: contexts being made, refits. */
  readonly #work = new Set<Promise<unknown>>();
  #disposed: Promise<void> | undefined;

  constructor({ handle, io, profiles, layers, refittable, deviceMemoryBytes }: Made) {
    this.#handle = handle;
    this.profiles = profiles;
    this.layers = layers;
    this.canRefit = refittable;
    this.deviceMemoryBytes = deviceMemoryBytes;
    this.io = io.map((t) => ({
      name: t.name,
      mode: t.input ? "input" : "output",
      dtype: TYPES[t.type] ?? "float32",
      dims: t.dims,
      location: t.host ? "host" : "device",
    }));
  }

  range(name: string, profile = 0): ProfileRange | undefined {
    const found = this.#live(() => addon().tensorrt.range(this.#handle, name, profile));
    if (found === undefined) return undefined;
    const [min, opt, max] = found;
    return { name, min, opt, max };
  }
  inspect(): unknown {
    return JSON.parse(this.#live(() => addon().tensorrt.inspect(this.#handle)));
  }
  async createContext({ profile = 0 }: { readonly profile?: number | undefined } = {}): Promise<Context> {
    const handle = await this.#during(() => addon().tensorrt.contextCreate(this.#handle, profile), planRefused);
    const context = new LoadedContext(handle, () => this.#contexts.delete(context));
    this.#contexts.add(context);
    // The engine was disposed of while the context was made: nothing else would end it.
    if (this.#disposed !== undefined) {
      await context.dispose();
      throw disposedEngine({ what: "engine" });
    }
    return context;
  }
  async refittable(): Promise<{ readonly all: readonly string[]; readonly missing: readonly string[] }> {
    return await this.#idle(() => addon().tensorrt.refittable(this.#handle));
  }
  async refit(weights: OnnxModel | readonly RefitWeights[]): Promise<void> {
    const model = typeof weights === "string" || weights instanceof Uint8Array ? weights : undefined;
    const list = model === undefined ? (weights as readonly RefitWeights[]) : [];
    await this.#idle(() =>
      addon().tensorrt.refit(
        this.#handle,
        model,
        list.map(({ name, dtype, data }) => ({
          name,
          type: TYPES.indexOf(dtype),
          count: Math.floor((data.byteLength * 8) / BITS[dtype]),
          data,
        })),
      ),
    ).finally(() => {
      this.refits++;
    });
  }

  /** Weights change when no context runs. */
  async #idle<T>(call: () => Promise<T>): Promise<T> {
    const ends = [...this.#contexts].map((c) => c.pause());
    const resume = await Promise.all(ends);
    try {
      return await this.#during(call, refitFailed);
    } finally {
      for (const go of resume) go();
    }
  }
  async #during<T>(call: () => Promise<T>, coded: typeof planRefused): Promise<T> {
    const work = this.#live(call);
    this.#work.add(work);
    try {
      return await work;
    } catch (error) {
      const failure = rejection(error);
      if (failure === undefined) throw error;
      const why = nativeText(failure);
      throw isMemory(failure) ? tensorRtMemory({ call: failure.call, why }, {}, failure) : coded({ why }, {}, failure);
    } finally {
      this.#work.delete(work);
    }
  }
  #live<T>(call: () => T): T {
    if (this.#disposed !== undefined) throw disposedEngine({ what: "engine" });
    try {
      return call();
    } catch (error) {
      const failure = rejection(error);
      if (failure !== undefined) throw planRefused({ why: nativeText(failure) }, {}, failure);
      throw error instanceof RangeError || error instanceof TypeError ? badRun({ what: error.message }, {}, error) : error;
    }
  }
  dispose(): Promise<void> {
    this.#disposed ??= (async () => {
      try {
        await Promise.allSettled(this.#work);
        await Promise.all([...this.#contexts].map((c) => c.dispose()));
        addon().release(this.#handle);
      } catch (error) {
        this.#disposed = undefined;
        throw error;
      }
    })();
    return this.#disposed;
  }
}

class LoadedContext implements Context {
  readonly #handle: ExecutionHandle;
  readonly #gone: () => void;
  /** The last of the runs that wait for each other. */
  #tail: Promise<unknown> = Promise.resolve();
  #disposed: Promise<void> | undefined;

  constructor(handle: ExecutionHandle, gone: () => void) {
    this.#handle = handle;
    this.#gone = gone;
  }

  outputDims(inputs: readonly Pick<InputBinding, "name" | "dims" | "host">[]): Readonly<Record<string, readonly number[]>> {
    if (this.#disposed !== undefined) throw disposedEngine({ what: "context" });
    try {
      return addon().tensorrt.outputDims(this.#handle, inputs);
    } catch (error) {
      throw runError(error);
    }
  }
  run({ stream, inputs, outputs }: RunRequest): Promise<RunResult> {
    return this.#next(() => addon().tensorrt.run(this.#handle, stream, inputs, outputs, false));
  }
  async profile({ stream, inputs, outputs }: RunRequest): ReturnType<Context["profile"]> {
    const { layers = [], ...result } = await this.#next(() => addon().tensorrt.run(this.#handle, stream, inputs, outputs, true));
    return { ...result, layers };
  }
  capture({ stream, inputs, outputs }: RunRequest): Promise<GraphHandle> {
    return this.#next(() => addon().tensorrt.capture(this.#handle, stream, inputs, outputs));
  }
  /** Waits for the runs before, keeps those after waiting until the function it gives is called. */
  async pause(): Promise<() => void> {
    let go: () => void = () => undefined;
    const before = this.#tail;
    this.#tail = new Promise<void>((resolve) => {
      go = resolve;
    });
    await before;
    return go;
  }

  #next<T>(call: () => Promise<T>): Promise<T> {
    if (this.#disposed !== undefined) return Promise.reject(disposedEngine({ what: "context" }));
    const mine = this.#tail.then(async () => {
      try {
        return await call();
      } catch (error) {
        throw runError(error);
      }
    });
    this.#tail = mine.catch(() => undefined);
    return mine;
  }
  dispose(): Promise<void> {
    this.#disposed ??= this.#tail.then(() => {
      try {
        addon().release(this.#handle);
      } catch (error) {
        // A graph captured from it lives: so does the context.
        this.#disposed = undefined;
        throw badRun({ what: error instanceof Error ? error.message : String(error) }, {}, error);
      }
      this.#gone();
    });
    return this.#disposed;
  }
}

/** Calls that refuse a request before anything runs. */
const REQUEST = new Set(["bind", "setInputShape", "setTensorAddress", "inferShapes"]);

function runError(error: unknown): unknown {
  const failure = rejection(error);
  if (failure === undefined)
    return error instanceof RangeError || error instanceof TypeError ? badRun({ what: error.message }, {}, error) : error;
  const why = nativeText(failure);
  if (isMemory(failure)) return tensorRtMemory({ call: failure.call, why }, {}, failure);
  if (!REQUEST.has(failure.call)) return runFailed({ why: failure.log.length > 0 ? `${failure.call}: ${why}` : why }, {}, failure);
  const said = failure.log.length > 0 ? `: ${why}` : "";
  return badRun({ what: `${failure.native}${said}` }, {}, failure);
}
