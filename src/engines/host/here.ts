/**
 * Runs on the calling thread, of segments whose runs are over before a message to another thread would have been written and read. They share a turn of
 * the event loop with everything else, so they get a slice of each, and only segments whose work follows from the dims of their inputs: what was short
 * once is short again.
 */
import { performance } from "node:perf_hooks";
import { copyOf, Tensor, type TensorDType, type TensorLike } from "../../tensor.js";
import type { Artifact } from "../engine.js";
import { narrowed, widened } from "./bfloat16.js";
import { ortFailed } from "./errors.js";
import { fed, fetchesOf, NativeSession, tensorsOf } from "./native.mjs";
import { learn, type Pace } from "./paces.js";

/** Bytes of a model, and milliseconds that another thread took to load it, up to which it is loaded on this one. */
const MOST_BYTES = 4 << 20;
const MOST_MS = 100;

/** A second session of the artifact, on this thread. It is loaded when it is first asked for, after what is under way. */
export class Here {
  readonly #artifact: Artifact;
  readonly #options: () => Readonly<Record<string, unknown>>;
  /** Whether an input has a name that no ordinary object can hold. */
  readonly #odd: boolean;
  readonly #fetches: Readonly<Record<string, null>>;
  readonly #narrow: ReadonlySet<number>;
  #session: NativeSession | undefined;
  #never: boolean;
  #loading = false;
  #since: number | undefined;
  /** Of the last run. */
  ms = 0;

  /** `options` are ONNX Runtime's of the session; `loadedMs` what loading it took elsewhere. */
  constructor(artifact: Artifact, options: () => Readonly<Record<string, unknown>>, loadedMs: number) {
    const [file] = artifact.files;
    this.#artifact = artifact;
    this.#options = options;
    this.#odd = artifact.inputs.includes("__proto__");
    this.#fetches = fetchesOf(artifact.outputs);
    this.#narrow = new Set(artifact.settings?.["bfloat16"]?.split(",").map(Number));
    this.#never =
      artifact.settings?.["byDims"] === undefined ||
      file === undefined ||
      "path" in file ||
      file.bytes.length > MOST_BYTES ||
      loadedMs > MOST_MS;
  }

  /** Whether runs can be here; when they cannot yet, they soon can. */
  get ready(): boolean {
    if (this.#session !== undefined) return true;
    if (!this.#never && !this.#loading) {
      this.#loading = true;
      setImmediate(() => this.#load());
    }
    return false;
  }
  get loaded(): boolean {
    return this.#session !== undefined;
  }
  /** Whether there was no run in this turn of the event loop yet. */
  get fresh(): boolean {
    return this.#since === undefined;
  }
  /** Milliseconds since the first run in this turn of the event loop: what callers do in between holds it as well. */
  spent(now: number): number {
    return this.#since === undefined ? 0 : now - this.#since;
  }

  /** `start` is now. Throws P2002. */
  run(inputs: readonly TensorLike[], pace: Pace, start: number): readonly Tensor[] {
    if (this.#since === undefined) {
      this.#since = start;
      setImmediate(() => {
        this.#since = undefined;
      });
    }
    const { inputs: names, outputs } = this.#artifact;
    const feeds = (this.#odd ? Object.create(null) : {}) as Record<string, unknown>;
    for (let i = 0; i < inputs.length; i++) {
      const { type, data, dims } = plain(inputs[i] as TensorLike);
      feeds[names[i] as string] = fed(type, data, dims);
    }
    try {
      const found = tensorsOf((this.#session as NativeSession).run(feeds, this.#fetches), outputs);
      const results = found.map(({ type, data, dims }, i) => {
        const result = new Tensor(type as TensorDType, data as never, dims);
        return this.#narrow.size > 0 && this.#narrow.has(i) ? narrowed(result) : result;
      });
      this.ms = performance.now() - start;
      learn(pace, this.ms);
      return results;
    } catch (error) {
      throw ortFailed({ native: error instanceof Error ? error.message : String(error), while_: "run" });
    }
  }

  dispose(): void {
    this.#never = true;
    this.#session?.release();
    this.#session = undefined;
  }

  #load(): void {
    const [file] = this.#artifact.files;
    if (this.#never || file === undefined || "path" in file) return;
    this.#never = true;
    try {
      const session = new NativeSession(import.meta.url, Uint8Array.prototype.slice.call(file.bytes), this.#options());
      if (session.refused === undefined) this.#session = session;
    } catch {
      // Threads have it open; they go on without this one.
    }
  }
}

/** In an array of the type's own kind, over memory that ONNX Runtime takes. */
function plain(t: TensorLike): TensorLike {
  if (t.type === "bfloat16") return widened(t);
  const own = t instanceof Tensor ? t : new Tensor(t.type as TensorDType, t.data as never, t.dims);
  const { data } = own;
  const shared = ArrayBuffer.isView(data) && data.buffer instanceof SharedArrayBuffer;
  return shared ? new Tensor(own.type, copyOf(data as Float32Array) as never, own.dims) : own;
}
