/** A pool of child processes that answer one message at a time. A native crash ends a child, not the tests: it is replaced. */
import { type ChildProcess, fork } from "node:child_process";

/** `crashed`: the child ended or did not answer in time. */
export type Reply<T> = { readonly id: number } & ({ readonly result: T } | { readonly error: string } | { readonly crashed: string });

interface Call {
  readonly message: object;
  readonly timeoutMs: number;
  readonly resolve: (reply: Reply<never>) => void;
}

/** `script` reads { id, ...message } from its parent and sends { id, result } or { id, error }. */
export class ProcessPool {
  readonly #script: URL;
  readonly #args: readonly string[];
  readonly #size: number;
  readonly #idle: ChildProcess[] = [];
  readonly #all = new Set<ChildProcess>();
  readonly #queue: Call[] = [];
  #id = 0;

  constructor(script: URL, size: number, args: readonly string[] = []) {
    this.#script = script;
    this.#size = size;
    this.#args = args;
  }

  run<T>(message: object, timeoutMs = 120_000): Promise<Reply<T>> {
    return new Promise((resolve) => {
      this.#queue.push({ message, timeoutMs, resolve: resolve as (reply: Reply<never>) => void });
      this.#pump();
    });
  }

  #pump(): void {
    const call = this.#queue[0];
    if (call === undefined) return;
    const child = this.#idle.pop() ?? (this.#all.size < this.#size ? this.#start() : undefined);
    if (child === undefined) return;
    this.#queue.shift();
    const id = this.#id++;
    const done = (reply: Reply<never>): void => {
      clearTimeout(timer);
      child.removeAllListeners();
      if ("crashed" in reply) {
        this.#all.delete(child);
        child.kill("SIGKILL");
      } else this.#idle.push(child);
      call.resolve(reply);
      this.#pump();
    };
    const timer = setTimeout(() => done({ id, crashed: `no answer within ${call.timeoutMs} ms` }), call.timeoutMs);
    child.on("message", (m) => done(m as Reply<never>));
    child.on("error", (e) => done({ id, crashed: e.message }));
    child.on("exit", (code, signal) => done({ id, crashed: `the process ended with ${signal ?? `exit code ${code}`}` }));
    child.send({ ...call.message, id });
  }

  #start(): ChildProcess {
    const child = fork(this.#script, this.#args, { serialization: "advanced", stdio: ["ignore", "ignore", "ignore", "ipc"] });
    this.#all.add(child);
    return child;
  }

  close(): void {
    for (const child of this.#all) child.kill("SIGKILL");
    this.#all.clear();
    this.#idle.length = 0;
  }
}
