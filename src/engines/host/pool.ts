/**
 * Worker threads that run ONNX Runtime, shared by the process. A worker takes one call at a time from its own queue, so that a call that is
 * cancelled while it waits costs nothing; idle workers do not keep the process alive.
 */
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import { defineError } from "../../diagnostics.js";
import { ortFailed } from "./errors.js";

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
interface Call {
  readonly message: Readonly<Record<string, unknown>>;
  readonly transfer: readonly ArrayBuffer[];
  readonly resolve: (result: never) => void;
  readonly reject: (error: unknown) => void;
  readonly generation: number | undefined;
}

/** One thread and the calls that wait for it. */
export class HostWorker {
  #worker: Worker | undefined;
  #next = 0;
  readonly #waiting: Call[] = [];
  #running: { readonly id: number; readonly call: Call } | undefined;
  /** Grows when the thread is replaced: sessions made before are gone. */
  generation = 0;
  /** Sessions that live here, for choosing the least loaded worker. */
  sessions = 0;

  /** Queues a call; its promise rejects with the signal's reason when it is aborted before it starts, or when it ends after. */
  call<T>(message: Readonly<Record<string, unknown>>, { transfer = [], signal, generation }: CallOptions = {}): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (signal?.aborted === true) {
        reject(signal.reason);
        return;
      }
      const call: Call = { message, transfer, resolve: resolve as (result: never) => void, reject, generation };
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
      this.#pump();
    });
  }

  get load(): number {
    return this.#waiting.length + (this.#running === undefined ? 0 : 1);
  }

  #pump(): void {
    if (this.#running !== undefined) return;
    const call = this.#waiting.shift();
    if (call === undefined) {
      this.#worker?.unref();
      return;
    }
    if (call.generation !== undefined && call.generation !== this.generation) {
      call.reject(new SessionLost());
      this.#pump();
      return;
    }
    let worker: Worker;
    try {
      worker = this.#worker ??= this.#start();
    } catch (error) {
      call.reject(error);
      this.#pump();
      return;
    }
    worker.ref();
    const id = this.#next++;
    this.#running = { id, call };
    try {
      worker.postMessage({ ...call.message, id }, call.transfer);
    } catch (error) {
      this.#running = undefined;
      call.reject(error);
      this.#pump();
    }
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
    worker.on("message", (reply: { id: number; result?: never; error?: string }) => {
      if (this.#running?.id !== reply.id) return;
      const { call } = this.#running;
      this.#running = undefined;
      if (reply.error !== undefined) call.reject(ortFailed({ native: reply.error, while_: String(call.message["op"]) }));
      else call.resolve(reply.result as never);
      this.#pump();
    });
    const ended = (why: string, cause?: unknown): void => {
      if (this.#worker !== worker) return;
      this.#worker = undefined;
      this.generation++;
      const running = this.#running;
      this.#running = undefined;
      const failure = /Cannot find module|ERR_DLOPEN|invalid ELF|cannot open shared object/.test(why)
        ? runtimeMissing({ why }, {}, cause)
        : workerDied({ why }, {}, cause);
      running?.call.reject(failure);
      this.#pump();
    };
    worker.on("error", (error) => ended(error instanceof Error ? error.message : String(error), error));
    worker.on("exit", (code) => ended(`exit code ${code}`));
    return worker;
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
