/**
 * Worker threads that run ONNX Runtime, shared by the process. A worker takes one call at a time from its own queue, so that a call that is
 * cancelled while it waits costs nothing; small runs, which take less time than a message, go several to a message. Idle workers do not keep the
 * process alive.
 */
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import { defineError } from "../../diagnostics.js";
import type { TensorLike } from "../../tensor.js";
import { Soon } from "../soon.js";
import { ortFailed } from "./errors.js";
import { learn, type Pace } from "./paces.js";
import { type Packed, pack, unpack } from "./packing.mjs";

export const runtimeMissing = defineError<{ why: string }>(
  "P2001",
  "ONNX Runtime cannot be loaded",
  ({ why }) => ({
    what: `onnxruntime-node does not load: ${why}`,
    why: "the host engine runs on it",
    fix: "install it again with `npm install --ignore-scripts onnxruntime-node`; it supports Linux, macOS and Windows on x64 and arm64",
  }),
  3,
);
export const workerDied = defineError<{ why: string }>(
  "P2003",
  "a worker thread of the host engine ended",
  ({ why }) => ({
    what: `the thread that ran the model ended: ${why}`,
    why: "a crash in native code or a lack of memory ends the thread",
    fix: "run again (a new thread takes over); if it repeats, report the model",
  }),
  70,
);

/** Rejects a call whose session died with the thread before the call began: nothing of it was done, it can be made again. */
export class SessionLost extends Error {}

export interface CallOptions {
  /** These buffers move to the thread. */
  readonly transfer?: readonly ArrayBuffer[] | undefined;
  readonly signal?: AbortSignal | undefined;
  /** The thread that the call's session lives in; the call is rejected with `SessionLost` when another has taken over. */
  readonly generation?: number | undefined;
}
/** A run whose tensors may go packed with those of others. */
export interface SmallRun {
  readonly session: string;
  readonly tensors: readonly TensorLike[];
  readonly pace: Pace;
}
interface Call {
  readonly message: Readonly<Record<string, unknown>>;
  readonly transfer: readonly ArrayBuffer[];
  readonly resolve: (result: never) => void;
  readonly reject: (error: unknown) => void;
  readonly generation: number | undefined;
  /** Where it is small: what goes into a message of several, and its bytes. */
  readonly small?: { readonly run: SmallRun; readonly bytes: number } | undefined;
}
interface Reply {
  readonly id: number;
  readonly result?: never;
  readonly error?: string;
}
interface SmallReply {
  readonly packed: Packed;
  /** By index of the run. */
  readonly large: readonly (readonly [number, readonly (readonly [string, never, readonly number[]])[]])[];
  readonly errors: readonly (readonly [number, string])[];
  /** By run. */
  readonly ms: readonly number[];
}
const RUN = { op: "run" };
/** Milliseconds of work that one message of small runs holds, and the most runs. */
const MESSAGE_MS = 1;
const MESSAGE_RUNS = 32;
/** Milliseconds of work that are worth a message while other threads have nothing to do. */
const WORTH_MS = 0.04;

/** One thread and the calls that wait for it. */
export class HostWorker {
  #worker: Worker | undefined;
  #next = 0;
  readonly #waiting: Call[] = [];
  readonly #soon = new Soon(() => this.#pump());
  /** Messages that are out, by number: one, or two of small runs, that the thread has the next at hand. */
  readonly #out = new Map<number, readonly Call[]>();
  /** Calls in them. */
  #outside = 0;
  /** Grows when the thread is replaced: sessions made before are gone. */
  generation = 0;
  /** Sessions that live here, for choosing the least loaded worker. */
  sessions = 0;

  /** Queues a call; its promise rejects with the signal's reason when it is aborted before it starts, or when it ends after. */
  call<T>(message: Readonly<Record<string, unknown>>, options: CallOptions = {}): Promise<T> {
    return this.#queued<T>(message, options);
  }
  /** As `call` of a run whose inputs are small, giving its outputs. */
  run(run: SmallRun, bytes: number, options: Omit<CallOptions, "transfer">): Promise<readonly TensorLike[]> {
    return this.#queued(RUN, options, { run, bytes });
  }
  #queued<T>(message: Call["message"], { transfer = [], signal, generation }: CallOptions, small?: Call["small"]): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (signal?.aborted === true) {
        reject(signal.reason);
        return;
      }
      const call: Call = { message, transfer, resolve: resolve as (result: never) => void, reject, generation, small };
      if (signal !== undefined) {
        const drop = (): void => {
          const at = this.#waiting.indexOf(call);
          if (at >= 0) this.#waiting.splice(at, 1);
          reject(signal.reason);
        };
        signal.addEventListener("abort", drop, { once: true });
        const settle =
          (done: (x: never) => void) =>
          (x: never): void => {
            signal.removeEventListener("abort", drop);
            done(x);
          };
        Object.assign(call, { resolve: settle(call.resolve), reject: settle(call.reject as (x: never) => void) });
      }
      this.#waiting.push(call);
      // Small runs of one moment go into one message.
      if (small === undefined) this.#pump();
      else this.#soon.ask(queueMicrotask);
    });
  }

  /** Calls that wait or are out. */
  get load(): number {
    return this.#waiting.length + this.#outside;
  }
  /** Whether small runs of this moment have not filled a message yet. */
  get filling(): boolean {
    if (!this.#soon.pending || this.#waiting.length >= MESSAGE_RUNS) return false;
    let ms = 0;
    for (const { small } of this.#waiting) ms += small?.run.pace.ms ?? WORTH_MS;
    return ms < WORTH_MS;
  }

  #pump(): void {
    for (;;) {
      const [head] = this.#waiting;
      if (head === undefined) {
        if (this.#out.size === 0) this.#worker?.unref();
        return;
      }
      if (!this.#mayStart(head)) return;
      this.#waiting.shift();
      if (head.generation !== undefined && head.generation !== this.generation) {
        head.reject(new SessionLost());
        continue;
      }
      const calls = [head, ...this.#more(head)];
      let worker: Worker;
      try {
        worker = this.#worker ??= this.#start();
      } catch (error) {
        for (const call of calls) call.reject(error);
        continue;
      }
      worker.ref();
      const id = this.#next++;
      this.#out.set(id, calls);
      this.#outside += calls.length;
      try {
        post(worker, ...this.#message(id, calls));
      } catch (error) {
        this.#out.delete(id);
        this.#outside -= calls.length;
        for (const call of calls) call.reject(error);
      }
    }
  }
  /** One message is out at a time, but a second one of runs that are over before it could be called back. */
  #mayStart({ small }: Call): boolean {
    if (this.#out.size === 0) return true;
    if (this.#out.size > 1 || small?.run.pace.ms === undefined || small.run.pace.ms > MESSAGE_MS) return false;
    for (const calls of this.#out.values()) return calls[0]?.small !== undefined;
    return true;
  }
  /** Small runs that wait behind the first and fit into one message with it. */
  #more({ small, generation }: Call): readonly Call[] {
    const more: Call[] = [];
    let ms = small?.run.pace.ms ?? MESSAGE_MS;
    while (small !== undefined && more.length + 1 < MESSAGE_RUNS) {
      const next = this.#waiting[more.length];
      ms += next?.small?.run.pace.ms ?? MESSAGE_MS;
      if (next?.small === undefined || next.generation !== generation || ms > MESSAGE_MS) break;
      more.push(next);
    }
    this.#waiting.splice(0, more.length);
    return more;
  }
  #message(id: number, calls: readonly Call[]): [unknown, readonly ArrayBuffer[]] {
    const [first] = calls;
    if (first?.small === undefined) return [{ ...first?.message, id }, first?.transfer ?? []];
    const small = calls.flatMap((c) => c.small ?? []);
    const packed = pack(
      small.map((s) => s.run.tensors),
      small.reduce((n, s) => n + s.bytes, 0),
    );
    // Mostly all are of one session; `of` is absent then.
    const sessions = [...new Set(small.map((s) => s.run.session))];
    const of = sessions.length === 1 ? undefined : small.map((s) => sessions.indexOf(s.run.session));
    return [{ op: "runs", id, sessions, of, packed }, [packed.buffer]];
  }

  #start(): Worker {
    // A missing package is told apart from a failing one here, where the error has a code.
    try {
      createRequire(import.meta.url).resolve("onnxruntime-node");
    } catch (cause) {
      throw runtimeMissing({ why: cause instanceof Error ? cause.message : String(cause) }, {}, cause);
    }
    const worker = new Worker(new URL("./worker.mjs", import.meta.url), {
      workerData: { base: import.meta.url },
      stderr: false,
      // Flags of the process are not for its workers: Node refuses some of them there (--max-old-space-size, --input-type).
      execArgv: [],
    });
    worker.on("message", (reply: Reply) => {
      const calls = this.#out.get(reply.id);
      if (calls === undefined) return;
      this.#out.delete(reply.id);
      this.#outside -= calls.length;
      const failed = (call: Call, error: string): void => call.reject(ortFailed({ native: error, while_: String(call.message["op"]) }));
      if (reply.error !== undefined) for (const call of calls) failed(call, reply.error);
      else if (calls[0]?.small === undefined) calls[0]?.resolve(reply.result as never);
      else {
        const { packed, large, errors, ms }: SmallReply = reply.result as never;
        const results: (readonly TensorLike[])[] = unpack(packed, true);
        for (const [i, tensors] of large) results[i] = tensors.map(([type, data, dims]) => ({ type, data, dims }));
        const wrong = new Map(errors);
        calls.forEach((call, i) => {
          if (call.small !== undefined) learn(call.small.run.pace, ms[i] as number);
          const error = wrong.get(i);
          if (error === undefined) call.resolve(results[i] as never);
          else failed(call, error);
        });
      }
      this.#pump();
    });
    const ended = (why: string, cause?: unknown): void => {
      if (this.#worker !== worker) return;
      this.#worker = undefined;
      this.generation++;
      const failure = /Cannot find module|ERR_DLOPEN|invalid ELF|cannot open shared object/.test(why)
        ? runtimeMissing({ why }, {}, cause)
        : workerDied({ why }, {}, cause);
      const out = [...this.#out.values()];
      this.#out.clear();
      this.#outside = 0;
      for (const [k, calls] of out.entries())
        for (const call of calls) {
          // Which of several runs it was nobody knows: each is made again, in a message of its own.
          if (call.small !== undefined) call.small.run.pace.ms = undefined;
          call.reject(k > 0 || calls.length > 1 ? new SessionLost() : failure);
        }
      this.#pump();
    };
    worker.on("error", (error) => ended(error instanceof Error ? error.message : String(error), error));
    worker.on("exit", (code) => ended(`exit code ${code}`));
    return worker;
  }
}

/** What cannot move to another thread (memory of WebAssembly, page-locked memory) is copied there. */
function post(worker: Worker, message: unknown, transfer: readonly ArrayBuffer[]): void {
  try {
    worker.postMessage(message, transfer);
  } catch (error) {
    if (transfer.length === 0 || !(error instanceof Error && error.name === "DataCloneError")) throw error;
    worker.postMessage(message);
  }
}

let pool: HostWorker[] | undefined;
/** The least loaded of the process's workers, other than those given. */
export function pickWorker(except: readonly HostWorker[] = []): HostWorker {
  pool ??= Array.from({ length: Math.max(1, availableParallelism()) }, () => new HostWorker());
  const free = pool.filter((w) => !except.includes(w));
  const candidates = free.length > 0 ? free : pool;
  const best = candidates.reduce((a, b) => (b.sessions < a.sessions ? b : a));
  return best;
}
