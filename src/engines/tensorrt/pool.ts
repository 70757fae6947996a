/** Things that serve one caller at a time: more callers wait their turn, and everything is given back before the end. */
import { sessionEnded } from "./errors.js";

interface Waiter<T> {
  readonly give: (item: T) => void;
  readonly refuse: (error: unknown) => void;
}

export class Pool<T> {
  readonly #free: T[];
  readonly #all: readonly T[];
  readonly #waiting: Waiter<T>[] = [];
  #ended: Promise<void> | undefined;
  #whenIdle: (() => void) | undefined;

  constructor(items: readonly T[]) {
    this.#all = items;
    this.#free = [...items];
  }

  /** Runs `work` with an item of its own. Throws P2205 once the end was asked for, or the signal's reason while it waits. */
  async using<R>(work: (item: T) => Promise<R>, signal?: AbortSignal): Promise<R> {
    const item = await this.#acquire(signal);
    try {
      return await work(item);
    } finally {
      this.#giveBack(item);
    }
  }

  /** Refuses who waits, waits for who works, then ends every item. May be called twice. */
  end(release: (item: T) => Promise<void>): Promise<void> {
    this.#ended ??= (async () => {
      for (const w of this.#waiting.splice(0)) w.refuse(sessionEnded({}));
      if (this.#free.length < this.#all.length)
        await new Promise<void>((idle) => {
          this.#whenIdle = idle;
        });
      for (const item of this.#all) await release(item);
    })();
    return this.#ended;
  }

  #acquire(signal: AbortSignal | undefined): Promise<T> {
    if (this.#ended !== undefined) throw sessionEnded({});
    signal?.throwIfAborted();
    const item = this.#free.pop();
    if (item !== undefined) return Promise.resolve(item);
    return new Promise((resolve, reject) => {
      const stop = (): void => {
        this.#waiting.splice(this.#waiting.indexOf(waiter), 1);
        reject(signal?.reason);
      };
      const settle = (): void => signal?.removeEventListener("abort", stop);
      const waiter: Waiter<T> = {
        give(given) {
          settle();
          resolve(given);
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

  #giveBack(item: T): void {
    const next = this.#waiting.shift();
    if (next !== undefined) {
      next.give(item);
      return;
    }
    this.#free.push(item);
    if (this.#free.length === this.#all.length) this.#whenIdle?.();
  }
}
