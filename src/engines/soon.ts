/** Work that is asked for many times in a moment and done once, when the moment is over. */
export class Soon {
  readonly #work: () => void;
  #pending = false;

  constructor(work: () => void) {
    this.#work = work;
  }
  /** Whether it was asked for and is still to come. */
  get pending(): boolean {
    return this.#pending;
  }
  /** Once, when `when` says so: `queueMicrotask`, or `setImmediate` for the next turn of the event loop. What was asked for before stands. */
  ask(when: (work: () => void) => unknown): void {
    if (this.#pending) return;
    this.#pending = true;
    when(this.#now);
  }
  readonly #now = (): void => {
    this.#pending = false;
    this.#work();
  };
}
