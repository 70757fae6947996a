/**
 * Which of two ways gets more done while there is more than one run to make: on the calling thread, where all processors share each run, or on worker
 * threads, each with runs of its own. That depends on what the processors share (caches, cores) and on what else they do, so it is found by trying: while
 * runs crowd, each way gets a few moments in turn, and the better one is kept until the question is asked again. Time and work come from outside.
 */

export type Way = "here" | "threads";

/** Milliseconds of a moment: first caches, queues and threads settle on the way, then what is done counts. */
const SETTLE = 20;
const COUNTED = 30;
/** Whose the moments of a trial are, the kept way's or its rival's: what the machine does meanwhile meets both. Each way's middle one speaks for it. */
const MOMENTS = ["kept", "rival", "rival", "kept", "kept", "rival"] as const;
/** Milliseconds from one trial to the next: twice as many each time that the outcome is the same, up to a most. */
const AGAIN = { least: 1000, most: 16_000 };
/** How much more the other way must get done: between equals nothing changes. */
const BETTER = 1.05;

export class Ways {
  #kept: Way;
  /** Of the trial under way, -1 without one. */
  #moment = -1;
  #counting = false;
  #since = 0;
  #done = 0;
  #crowded = 0;
  #alone = 0;
  /** Work by millisecond, of the trial's moments. */
  #found: { readonly way: Way; readonly rate: number }[] = [];
  #due = Number.NEGATIVE_INFINITY;
  #again = AGAIN.least;

  constructor(kept: Way) {
    this.#kept = kept;
  }

  get way(): Way {
    return MOMENTS[this.#moment] === "rival" ? other(this.#kept) : this.#kept;
  }
  /** Whether what is done counts now. */
  get counting(): boolean {
    return this.#counting;
  }
  /** So much was done: in any unit that is proportional to time. */
  did(work: number): void {
    this.#done += work;
  }

  /** The way of a run that comes at `now`, milliseconds; `crowded` says whether others waited or were under way, where that can be told. */
  ask(now: number, crowded: boolean | undefined): Way {
    if (crowded === true) this.#crowded++;
    else if (crowded === false) this.#alone++;
    if (this.#moment < 0) {
      if (crowded === true && now >= this.#due) this.#begin(0, now);
    } else if (!this.#counting) {
      if (now - this.#since >= SETTLE) this.#count(now);
    } else if (now - this.#since >= COUNTED) this.#end(now);
    return this.way;
  }

  #begin(moment: number, now: number): void {
    if (moment === 0) this.#found = [];
    this.#moment = moment;
    this.#since = now;
  }
  #count(now: number): void {
    this.#counting = true;
    this.#since = now;
    this.#done = 0;
    this.#crowded = 0;
    this.#alone = 0;
  }
  #end(now: number): void {
    this.#counting = false;
    const ms = now - this.#since;
    // A way that had nothing to do for a while gets less done than it could.
    if (this.#alone >= this.#crowded || ms > 2 * COUNTED) {
      this.#moment = -1;
      this.#due = now + this.#again;
      return;
    }
    this.#found.push({ way: this.way, rate: this.#done / ms });
    if (this.#moment + 1 < MOMENTS.length) this.#begin(this.#moment + 1, now);
    else this.#decide(now);
  }
  #decide(now: number): void {
    this.#moment = -1;
    const rival = other(this.#kept);
    const changed = this.#rate(rival) > BETTER * this.#rate(this.#kept);
    if (changed) this.#kept = rival;
    this.#again = changed ? AGAIN.least : Math.min(2 * this.#again, AGAIN.most);
    this.#due = now + this.#again;
  }
  #rate(of: Way): number {
    const rates = this.#found.filter(({ way }) => way === of).map(({ rate }) => rate);
    return rates.sort((a, b) => a - b)[rates.length >> 1] ?? 0;
  }
}

const other = (way: Way): Way => (way === "here" ? "threads" : "here");
