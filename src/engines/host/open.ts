/**
 * An opened model: copies of it in worker threads and on the calling one, and where each run goes. Where nobody says how many copies there are to be, it
 * begins with one that uses all processors, which is what a caller alone is served best by, and adds one for each processor when runs overlap. Runs of a
 * few microseconds are on the calling thread; whether somewhat longer ones are there or on the workers while they crowd is found by trying.
 */

import { availableParallelism } from "node:os";
import { performance } from "node:perf_hooks";
import type { Tensor, TensorLike } from "../../tensor.js";
import type { Artifact, CallingThread, Executable, HostCopies, LayerFacts, OpenContext, Place, RunOptions } from "../engine.js";
import { Here } from "./here.js";
import { type Pace, Paces } from "./paces.js";
import { type Level, Stream } from "./stream.js";
import { Ways } from "./ways.js";

/** Milliseconds of a run that comes alone and is over on the calling thread before it had come to another and back. */
const ALONE = 0.2;
/** Milliseconds of a run from which on other threads may help: what a message and the queue take of the calling thread is the whole of a shorter one. */
const HELPED = 0.015;
/** Milliseconds of the longest run that may be on the calling thread while runs crowd, and of all of them in one turn of the event loop. */
const CROWDED = 0.5;
const SLICE = 2;
/** Milliseconds for which runs crowd after one has found another: callers that are answered come again one by one. */
const LULL = 5;
/** Threads of a run on the calling thread, at most, and no more than there are processors: there is too little in it for more to share. */
const MOST_THREADS = 8;
/** Microseconds for which they look for the next run's work. From one run to the next it is a few, and a thread that sleeps takes as long as a run to wake. */
const SPIN_US = 50;
/** Runs that found another one under way, until copies are added. */
const OVERLAPS = 16;
/** Bytes of a model's copies that nobody asked for. */
const MOST_BYTES = 256 << 20;
/** What is left of a time that speaks against the calling thread, with every run that goes elsewhere: it is tried again after some hundreds. */
const FADE = 0.998;

/** Opens it with `streams` copies, or with one and as many as turn out to be of use. Throws P2001 to P2004. */
export async function openModel(artifact: Artifact, context: OpenContext, level: Level): Promise<Executable> {
  const most = context.adapt === true ? copiesOf(artifact) : 1;
  if (most > 1) {
    const paces = new Paces();
    return new OpenModel(artifact, context, { wide: await Stream.open(artifact, context, level, paces, []), paces, most });
  }
  const paces = new Paces();
  return new OpenModel(artifact, context, { shared: await open(artifact, context, level, paces, context.streams), paces });
}

/** Copies of one thread, or of a few, that runs may come to share: one for each processor, as far as their memory goes unnoticed. */
function copiesOf({ files: [file] }: Artifact): number {
  if (file === undefined || "path" in file) return 1;
  return Math.min(availableParallelism(), Math.floor(MOST_BYTES / file.bytes.length));
}

/** All, or none. */
async function open(
  artifact: Artifact,
  context: Pick<OpenContext, "threads" | "onRemark">,
  level: Level,
  paces: Paces,
  count: number,
): Promise<readonly [Stream, ...Stream[]]> {
  const streams: Stream[] = [];
  try {
    do {
      const taken = streams.map((s) => s.worker);
      streams.push(await Stream.open(artifact, context, level, paces, taken));
    } while (streams.length < count);
  } catch (error) {
    await Promise.all(streams.map((s) => s.dispose()));
    throw error;
  }
  return streams as [Stream, ...Stream[]];
}

/** Copies that were opened as they were asked for; or the first one, and how many there may be beside it. */
type Copies =
  | { readonly shared: readonly [Stream, ...Stream[]]; readonly wide?: undefined; readonly paces: Paces }
  | { readonly wide: Stream; readonly paces: Paces; readonly most: number };

class OpenModel implements Executable {
  readonly here: CallingThread;
  readonly #artifact: Artifact;
  readonly #context: OpenContext;
  readonly #first: Stream;
  /** Takes runs that come alone, and all while there are no others. */
  readonly #wide: Stream | undefined;
  readonly #widePaces: Paces;
  /** Takes runs that overlap. */
  #shared: readonly Stream[];
  /** How many those may be. */
  readonly #most: number;
  readonly #sharedPaces: Paces;
  readonly #here: Here;
  readonly #herePaces = new Paces();
  readonly #ways = new Ways("here");
  #crowdedAt = Number.NEGATIVE_INFINITY;
  #underWay = 0;
  #overlaps = 0;
  #adding: Promise<void> | undefined;
  #disposed: Promise<void> | undefined;

  constructor(artifact: Artifact, context: OpenContext, copies: Copies) {
    this.#artifact = artifact;
    this.#context = context;
    this.#wide = copies.wide;
    this.#widePaces = copies.paces;
    this.#sharedPaces = copies.wide === undefined ? copies.paces : new Paces();
    this.#shared = copies.wide === undefined ? copies.shared : [];
    this.#first = copies.wide ?? copies.shared[0];
    this.#most = copies.wide === undefined ? this.#shared.length : copies.most;
    const first = this.#first;
    const threads = Math.min(first.threads, MOST_THREADS, availableParallelism());
    this.#here = new Here(artifact, () => first.options({ threads, spinUs: threads > 1 ? SPIN_US : 0 }), first.loadedMs);
    this.here = this.#callingThread();
  }

  get streams(): number {
    return Math.max(1, this.#shared.length);
  }

  run(inputs: readonly TensorLike[], options: RunOptions = {}): Promise<readonly Tensor[]> {
    const alone = this.#underWay === 0 && options.overlaps !== true;
    if (!alone) this.#crowded(this.#elsewhere(inputs));
    const wide = this.#wide !== undefined && (alone || this.#shared.length === 0);
    // Feeds that are handed over are empty afterwards.
    const share = work(inputs);
    const done = leastBusy(wide ? [this.#first] : this.#shared).run(inputs, options);
    this.#underWay++;
    const ended = (): void => {
      this.#underWay--;
      this.#ways.did(share);
    };
    done.then(ended, ended);
    return done;
  }

  #callingThread(): CallingThread {
    const here = this.#here;
    let pace: Pace = { ms: undefined };
    let now = 0;
    let preferred = false;
    return {
      place: (inputs, waiting, busy): Place => {
        pace = this.#herePaces.of(inputs);
        now = performance.now();
        preferred = this.#belongsHere(pace, inputs, waiting > 1 || busy > 0, now);
        if (!preferred) return "engine";
        return here.spent(now) < SLICE ? "here" : "later";
      },
      run: (inputs) => {
        if (this.#ways.counting) this.#ways.did(work(inputs));
        // The first run there is slow: code and weights come from afar.
        pace.ms ??= this.#elsewhere(inputs);
        return here.run(inputs, pace, now);
      },
      get preferred() {
        return preferred;
      },
      get ms() {
        return here.ms;
      },
    };
  }
  #belongsHere(pace: Pace, inputs: readonly TensorLike[], others: boolean, now: number): boolean {
    if (pace.ms !== undefined && pace.ms < HELPED) return this.#here.ready;
    const { fresh } = this.#here;
    if (others) this.#crowdedAt = now;
    const crowded = now - this.#crowdedAt <= LULL;
    const most = crowded ? CROWDED : ALONE;
    const ms = this.#expected(pace, inputs, most);
    if (ms === undefined || ms > most || !this.#here.ready) return false;
    if (!crowded || ms < HELPED) return true;
    this.#crowded(ms);
    // Of a turn's further runs nobody knows who waits behind them.
    return this.#ways.ask(now, fresh ? others : undefined) === "here";
  }
  /** Milliseconds on the calling thread; what was seen elsewhere stands for what was not done there yet. */
  #expected(pace: Pace, inputs: readonly TensorLike[], most: number): number | undefined {
    if (pace.ms !== undefined && pace.ms <= most) return pace.ms;
    const elsewhere = this.#elsewhere(inputs);
    if (pace.ms !== undefined && elsewhere !== undefined && elsewhere <= most) pace.ms *= FADE;
    return pace.ms ?? elsewhere;
  }
  /** Milliseconds on a worker thread. */
  #elsewhere(inputs: readonly TensorLike[]): number | undefined {
    return this.#sharedPaces.of(inputs).ms ?? this.#widePaces.of(inputs).ms;
  }

  /** A run of so long has found another one under way. */
  #crowded(ms = 0): void {
    if (this.#wide === undefined || this.#adding !== undefined || ms < HELPED || ++this.#overlaps < OVERLAPS) return;
    this.#adding = this.#add(this.#wide);
  }
  async #add(wide: Stream): Promise<void> {
    const { onRemark } = this.#context;
    try {
      const context = { threads: Math.floor(availableParallelism() / this.#most), onRemark };
      this.#shared = await open(this.#artifact, context, wide.level, this.#sharedPaces, this.#most);
    } catch (error) {
      onRemark?.({
        severity: "warning",
        text: `runs at once share one copy of the model, as more could not be loaded: ${error instanceof Error ? error.message : error}`,
        fix: "give streams and threads",
      });
    }
  }

  copies(): HostCopies {
    const all = this.#wide === undefined ? this.#shared : [this.#wide, ...this.#shared];
    return { threads: all.map((s) => s.threads), callingThread: this.#here.loaded };
  }
  layers(inputs: readonly TensorLike[]): Promise<readonly LayerFacts[]> {
    return this.#first.layers(inputs);
  }
  dispose(): Promise<void> {
    this.#disposed ??= (async () => {
      this.#here.dispose();
      await this.#adding;
      await Promise.all([...(this.#wide === undefined ? [] : [this.#wide]), ...this.#shared].map((s) => s.dispose()));
    })();
    return this.#disposed;
  }
}

const leastBusy = (of: readonly Stream[]): Stream =>
  of.find((s) => s.worker.filling) ?? of.reduce((a, b) => (b.worker.load < a.worker.load ? b : a));

/** What of it there is in a run, by what it is fed: of one model, in proportion to its time. */
function work(inputs: readonly TensorLike[]): number {
  let elements = 0;
  for (const { data } of inputs) elements += data.length;
  return elements;
}
