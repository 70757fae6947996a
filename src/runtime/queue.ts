/**
 * The queue before the engines: so many runs inside at once, so many more that wait, the rest refused. Whoever waits is dropped without a trace
 * when its signal is aborted or its deadline passes; whoever runs is answered at once then, and its result goes nowhere.
 */
import { performance } from "node:perf_hooks";
import { publishQueue, type QueueEvent } from "../channels.js";
import { defineError } from "../diagnostics.js";
import type { Place } from "../engines/engine.js";
import { Soon } from "../engines/soon.js";

export const queueFull = defineError<{ waiting: number; running: number }>(
  "P3106",
  "a session's queue is full",
  ({ waiting, running }) => ({
    what: `${running} runs are under way and ${waiting} wait, as many as may`,
    why: "runs come in faster than they are done",
    fix: "await session.whenReady() before the next run, refuse work upstream, or raise maxQueue",
  }),
);
export const deadlinePassed = defineError<{ deadlineMs: number; ran: boolean }>(
  "P3107",
  "a run's deadline passed",
  ({ deadlineMs, ran }) => ({
    what: `there was no result after ${deadlineMs} ms: the run ${ran ? "was still under way, and its result is dropped" : "still waited, and was not started"}`,
    fix: "give it more time (deadlineMs), or send fewer runs at once",
  }),
);
export const disposedError = defineError<Record<never, never>>("P3105", "a session was used after it was disposed", () => ({
  what: "the session was disposed",
  fix: "create another with program.createSession()",
}));

/** A run in the queue. Settling it a second time does nothing. */
export interface Ticket<J, R> {
  readonly job: J;
  /** Milliseconds of `performance.now()` when it came. */
  readonly since: number;
  /** Aborted once nobody wants the result. */
  readonly signal: AbortSignal | undefined;
  readonly settled: boolean;
  resolve(result: R): void;
  reject(error: unknown): void;
}
export interface SubmitOptions {
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds from `since`. */
  readonly deadlineMs?: number | undefined;
  /** Milliseconds of `performance.now()`. Default: now. */
  readonly since?: number | undefined;
}
/** What starts next, of those that wait in the order they came, with so many calls free: some of them, or none for so many milliseconds. */
export type Choice<J, R> = (waiting: ReadonlySet<Ticket<J, R>>, now: number, free: number) => readonly Ticket<J, R>[] | number;

export interface QueueOptions<J, R> {
  /** Calls of `work` under way at once; asked anew for every one. */
  readonly concurrency: () => number;
  readonly maxQueue: number;
  /** Where the run that is next goes, with so many that wait, it among them. Asked once all of this moment have come. Default: to `work`. */
  readonly place?: ((job: J, waiting: number) => Place) | undefined;
  /** Settles a ticket before it returns. */
  readonly here?: ((ticket: Ticket<J, R>) => void) | undefined;
  /** Settles every ticket it is given. */
  readonly work: (tickets: readonly Ticket<J, R>[]) => Promise<void>;
  /** Default: the one that came first. */
  readonly choose?: Choice<J, R> | undefined;
  /** Number of the session and of a job's run, for the events. */
  readonly session?: number | undefined;
  readonly run?: ((job: J) => number) | undefined;
}
/** A run that nothing can be told of or done to on its way, and that the calling thread takes when the event loop has had its turn. */
export interface Held<T> {
  /** Where it goes now, with so many like it that wait, it among them. */
  place(waiting: number): Place;
  here(): T;
  /** Takes the usual way. */
  engine(): Promise<T>;
}
interface Holding {
  readonly run: Held<unknown>;
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: unknown) => void;
}
export interface QueueStats {
  /** Runs that wait, and that are under way. */
  readonly queued: number;
  readonly running: number;
  readonly completed: number;
  readonly failed: number;
  /** By their signals. */
  readonly cancelled: number;
  /** Refused as the queue was full. */
  readonly rejected: number;
  /** By their deadlines. */
  readonly expired: number;
}

export class RunQueue<J, R> {
  readonly #options: QueueOptions<J, R>;
  readonly #waiting = new Set<Entry<J, R>>();
  readonly #counts = { completed: 0, failed: 0, cancelled: 0, rejected: 0, expired: 0 };
  /** Calls of `work` under way, and the runs in them. */
  #calls = 0;
  #running = 0;
  /** Runs whose callers have no answer yet. */
  #unsettled = 0;
  #closed = false;
  #timer: NodeJS.Timeout | undefined;
  readonly #soon = new Soon(() => this.#pump());
  /** In the order they came; those before `#next` are gone. */
  #held: Holding[] = [];
  #next = 0;
  #ready: (() => void)[] = [];
  #idle: (() => void)[] = [];

  constructor(options: QueueOptions<J, R>) {
    this.#options = options;
  }

  get stats(): QueueStats {
    return { queued: this.#waiting.size + this.#holds, running: this.#running, ...this.#counts };
  }

  /** Resolves with what `finish` makes of the job's result. Rejects with P3105, P3106, P3107, the signal's reason, or what `work` or `finish` say. */
  submit(job: J, options?: SubmitOptions): Promise<R>;
  submit<T>(job: J, options: SubmitOptions, finish: (result: R) => T | Promise<T>): Promise<T>;
  submit(job: J, { signal, deadlineMs, since }: SubmitOptions = {}, finish: (result: R) => unknown = (result) => result): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#closed) throw disposedError({});
      const entry = new Entry<J, R>(this, job, (result) => resolve(finish(result)), reject);
      if (signal?.aborted === true) {
        this.#counts.cancelled++;
        this.#tell("cancel", entry);
        throw signal.reason;
      }
      const { choose, place } = this.#options;
      if (this.#full) {
        this.#counts.rejected++;
        this.#tell("reject", entry);
        throw queueFull({ waiting: this.#waiting.size + this.#holds, running: this.#running });
      }
      entry.watch(signal, deadlineMs, since);
      this.#waiting.add(entry);
      this.#unsettled++;
      // What is chosen among is everything that comes in this turn of the event loop, those too that answers of this turn set off.
      if (choose !== undefined) this.#nextTurn();
      else if (place === undefined) this.#pump();
      else this.#soon.ask(queueMicrotask);
    });
  }

  /** Whether a run that came now would start at once. */
  get open(): boolean {
    return this.#waiting.size === 0 && !this.#closed && this.#free > 0;
  }
  /** Whether somebody waits for the result of a run. */
  get busy(): boolean {
    return this.#unsettled > 0 || this.#holds > 0;
  }
  /** Counts a run that is over when the call returns, and did not come through the queue. */
  pass<T>(work: () => T): T {
    try {
      const result = work();
      this.#counts.completed++;
      return result;
    } catch (error) {
      this.#counts.failed++;
      throw error;
    }
  }
  /** Keeps a run for the next turn of the event loop, before all that wait. Undefined where that is not open to it. */
  hold<T>(run: Held<T>): Promise<T> | undefined {
    if (!this.open || this.#holds >= this.#options.maxQueue) return undefined;
    return new Promise<T>((resolve, reject) => {
      this.#held.push({ run, resolve: resolve as (result: unknown) => void, reject });
      this.#soon.ask(setImmediate);
    });
  }
  get #holds(): number {
    return this.#held.length - this.#next;
  }
  /** Whether all that were held are gone. */
  #released(): boolean {
    while (this.#holds > 0 && this.#free > 0) {
      const { run, resolve, reject } = this.#held[this.#next] as Holding;
      const where = run.place(this.#holds);
      if (where === "later") {
        this.#soon.ask(setImmediate);
        return false;
      }
      this.#next++;
      try {
        // A closed queue takes nothing in.
        resolve(where === "engine" && !this.#closed ? run.engine() : this.pass(() => run.here()));
      } catch (error) {
        reject(error);
      }
    }
    if (this.#holds > 0) return false;
    this.#held = [];
    this.#next = 0;
    return true;
  }
  /** Resolves when one more run may wait. */
  whenReady(): Promise<void> {
    if (this.#closed || !this.#full) return Promise.resolve();
    return new Promise((resolve) => this.#ready.push(resolve));
  }

  /** Refuses further runs with P3105; resolves when all that were taken in are settled and over. */
  close(): Promise<void> {
    this.#closed = true;
    const over = new Promise<void>((resolve) => this.#idle.push(resolve));
    this.#pump();
    return over;
  }

  get #full(): boolean {
    const { maxQueue, place } = this.#options;
    // Those that only wait for the end of this moment are not in the way.
    const room = place !== undefined || this.#waiting.size === 0 ? this.#free : 0;
    return this.#waiting.size + this.#holds >= maxQueue + room;
  }
  get #free(): number {
    return Math.max(0, this.#options.concurrency() - this.#calls);
  }
  #nextTurn(): void {
    if (this.#free > 0) this.#soon.ask(setImmediate);
  }
  #pump(): void {
    clearTimeout(this.#timer);
    if (this.#holds === 0 || this.#released()) this.#admit();
    this.#wake();
    this.#rest();
  }
  #admit(): void {
    const { place } = this.#options;
    while (this.#waiting.size > 0 && this.#free > 0) {
      const where = place === undefined ? "engine" : this.#placed(place);
      if (where === "here") continue;
      if (where === "later") {
        this.#nextTurn();
        break;
      }
      const chosen = this.#choose();
      if (typeof chosen === "number") {
        this.#timer = setTimeout(() => this.#pump(), chosen);
        return;
      }
      for (const t of chosen) {
        this.#waiting.delete(t);
        t.running = true;
      }
      this.#start(chosen);
    }
  }
  /** Tells who waits for the end, where nothing is left. */
  #rest(): void {
    if (this.#idle.length > 0 && this.#calls === 0 && this.#waiting.size === 0 && this.#holds === 0)
      for (const done of this.#idle.splice(0)) done();
  }
  get #first(): Entry<J, R> | undefined {
    return this.#waiting.values().next().value;
  }
  /** Asks for the one that came first, and runs it where it is to be here. */
  #placed(place: NonNullable<QueueOptions<J, R>["place"]>): Place {
    const first = this.#first;
    const where = first === undefined ? "engine" : place(first.job, this.#waiting.size);
    if (first === undefined || where !== "here") return where;
    this.#waiting.delete(first);
    first.running = true;
    this.#running++;
    this.#tell("admit", first);
    try {
      this.#options.here?.(first);
    } catch (error) {
      first.reject(error);
    }
    this.#running--;
    return where;
  }
  #choose(): readonly Entry<J, R>[] | number {
    const { choose } = this.#options;
    if (choose === undefined) {
      const first = this.#first;
      return first === undefined ? [] : [first];
    }
    // The tickets it is shown are entries of this queue, and a closed queue waits for no more of them.
    const chosen = choose(this.#waiting, this.#closed ? Number.POSITIVE_INFINITY : performance.now(), this.#free);
    return chosen as readonly Entry<J, R>[] | number;
  }
  #start(entries: readonly Entry<J, R>[]): void {
    this.#calls++;
    this.#running += entries.length;
    for (const e of entries) this.#tell("admit", e);
    const ended = (): void => {
      this.#calls--;
      this.#running -= entries.length;
      this.#pump();
    };
    this.#options.work(entries).then(ended, (error: unknown) => {
      for (const e of entries) e.reject(error);
      ended();
    });
  }
  #wake(): void {
    const room = this.#options.maxQueue - this.#waiting.size - this.#holds + this.#free;
    if (this.#ready.length > 0 && room > 0) for (const ready of this.#ready.splice(0, room)) ready();
  }

  /** An entry is over: it is counted, and leaves the queue where it still waits. */
  over(entry: Entry<J, R>, how: "completed" | "failed" | "cancelled" | "expired"): void {
    this.#counts[how]++;
    this.#unsettled--;
    const waited = this.#waiting.delete(entry);
    if (how === "cancelled") this.#tell("cancel", entry);
    if (how === "expired") this.#tell("deadline", entry);
    if (!waited) return;
    this.#wake();
    this.#rest();
  }
  #tell(event: QueueEvent["event"], entry: Entry<J, R>): void {
    const { session = 0, run } = this.#options;
    publishQueue(() => ({
      event,
      session,
      run: run?.(entry.job) ?? 0,
      waiting: this.#waiting.size,
      running: this.#running,
      waitedMs: performance.now() - entry.since,
    }));
  }
}

class Entry<J, R> implements Ticket<J, R> {
  readonly job: J;
  readonly since = performance.now();
  signal: AbortSignal | undefined;
  settled = false;
  running = false;
  readonly #queue: RunQueue<J, R>;
  readonly #done: (result: R) => void;
  readonly #failed: (error: unknown) => void;
  #forget: (() => void) | undefined;

  constructor(queue: RunQueue<J, R>, job: J, done: (result: R) => void, failed: (error: unknown) => void) {
    this.#queue = queue;
    this.job = job;
    this.#done = done;
    this.#failed = failed;
  }

  watch(signal: AbortSignal | undefined, deadlineMs: number | undefined, since = this.since): void {
    if (deadlineMs === undefined) {
      if (signal === undefined) return;
      this.signal = signal;
      const cancel = (): void => this.#drop("cancelled", signal.reason);
      signal.addEventListener("abort", cancel, { once: true });
      this.#forget = () => signal.removeEventListener("abort", cancel);
      return;
    }
    // One signal for both, that the engines drop what still waits there.
    const either = new AbortController();
    this.signal = either.signal;
    const cancel = (): void => {
      this.#drop("cancelled", signal?.reason);
      either.abort(signal?.reason);
    };
    const timer = setTimeout(
      () => {
        const error = deadlinePassed({ deadlineMs, ran: this.running });
        this.#drop("expired", error);
        either.abort(error);
      },
      Math.max(0, deadlineMs - (this.since - since)),
    );
    signal?.addEventListener("abort", cancel, { once: true });
    this.#forget = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", cancel);
    };
  }
  resolve(result: R): void {
    if (!this.#settle()) return;
    this.#queue.over(this, "completed");
    try {
      this.#done(result);
    } catch (error) {
      this.#failed(error);
    }
  }
  reject(error: unknown): void {
    if (!this.#settle()) return;
    this.#queue.over(this, "failed");
    this.#failed(error);
  }
  #drop(how: "cancelled" | "expired", reason: unknown): void {
    if (!this.#settle()) return;
    this.#queue.over(this, how);
    this.#failed(reason);
  }
  #settle(): boolean {
    if (this.settled) return false;
    this.settled = true;
    this.#forget?.();
    return true;
  }
}
