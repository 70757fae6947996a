/**
 * How many runs should be inside at once, that no engine waits for the event loop between two: as many as take a few milliseconds together. More would
 * only wait in there, where they are started even when nobody wants them any more.
 */

/** Milliseconds of work inside. */
const AHEAD = 4;
/** Runs inside for each that an engine takes at once, at most. */
const MOST = 32;

export class Pace {
  /** Runs that engines take at once now. */
  readonly #least: () => number;
  /** Mean milliseconds between two runs' ends while there is work. */
  #mean = AHEAD;
  #last = 0;
  #inside = 0;

  constructor(least: () => number) {
    this.#least = least;
  }
  get depth(): number {
    const least = this.#least();
    return Math.min(MOST * least, Math.max(least, Math.ceil(AHEAD / this.#mean)));
  }
  started(): void {
    if (this.#inside++ === 0) this.#last = performance.now();
  }
  ended(): void {
    this.#inside--;
    const now = performance.now();
    // Runs end several at a time; over a hundred of them it evens out.
    this.#mean += (now - this.#last - this.#mean) / 64;
    this.#last = now;
  }
}
