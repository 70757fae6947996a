/**
 * An opened model: copies of it in worker threads and on the calling one, and where each run goes. Where nobody says how many copies there are to be, it
 * begins with one that uses all processors, which is what a caller alone is served best by, and adds one for each processor when runs overlap.
 */

import { availableParallelism } from "node:os";
import { performance } from "node:perf_hooks";
import type { Tensor, TensorLike } from "../../tensor.js";
import type { Artifact, CallingThread, Executable, HostCopies, LayerFacts, OpenContext, Place, RunOptions } from "../engine.js";
import { Here } from "./here.js";
import { type Pace, Paces } from "./paces.js";
import { MESSAGE_MS, MESSAGE_RUNS } from "./pool.js";
import { type Level, Stream } from "./stream.js";

/** Milliseconds of a run that is over on the calling thread before it had come to another and back: of several at once, and of one alone. */
const SHORT = 0.03;
const ALONE = 0.2;
/** Milliseconds of a run from which on other threads help: what a message and the queue take of the calling thread is the whole of a shorter one. */
const HELPED = 0.015;
/** Milliseconds of such runs in one turn of the event loop: where other threads help, and wait for the next message; and where none does. */
const SLICE = 0.3;
const SLICE_ALONE = 2;
/** Runs that are worth a message. */
const WORTH = 8;
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
  /** Of runs on those, and on the calling thread. */
  readonly #paces: Paces;
  readonly #here: Here;
  #underWay = 0;
  #overlaps = 0;
  #adding: Promise<void> | undefined;
  #disposed: Promise<void> | undefined;
  /** Of the runs that wait, how many go to another thread along with the one before. */
  #along = 0;

  constructor(artifact: Artifact, context: OpenContext, copies: Copies) {
    this.#artifact = artifact;
    this.#context = context;
    this.#wide = copies.wide;
    this.#widePaces = copies.paces;
    this.#paces = copies.wide === undefined ? copies.paces : new Paces();
    this.#shared = copies.wide === undefined ? copies.shared : [];
    this.#first = copies.wide ?? copies.shared[0];
    this.#most = copies.wide === undefined ? this.#shared.length : copies.most;
    const first = this.#first;
    // What is so short has nothing for several threads to share.
    this.#here = new Here(artifact, () => first.options(copies.wide === undefined ? undefined : 1), first.loadedMs);
    this.here = this.#callingThread();
  }

  get streams(): number {
    return Math.max(1, this.#shared.length);
  }

  run(inputs: readonly TensorLike[], options: RunOptions = {}): Promise<readonly Tensor[]> {
    const wide = this.#wide;
    const helpers = this.#helpers(inputs);
    if (wide === undefined) return leastBusy(helpers ?? this.#shared).run(inputs, options);
    const alone = this.#underWay === 0 && options.overlaps !== true;
    if (!alone) this.#crowded(this.#paces.of(inputs).ms ?? this.#widePaces.of(inputs).ms);

    const done = leastBusy(helpers ?? (alone || this.#shared.length === 0 ? [wide] : this.#shared)).run(inputs, options);
    this.#underWay++;
    done.then(this.#ended, this.#ended);
    return done;
  }
  readonly #ended = (): void => {
    this.#underWay--;
  };
  /** Who takes short runs that do not stay on the calling thread, as that takes the others. */
  #helpers(inputs: readonly TensorLike[]): readonly Stream[] | undefined {
    if (this.#shared.length < 2 || (this.#paces.of(inputs).ms ?? Number.POSITIVE_INFINITY) > SHORT || !this.#here.ready) return undefined;
    return this.#shared.slice(1);
  }

  #callingThread(): CallingThread {
    const here = this.#here;
    let pace: Pace = { ms: undefined };
    let now = 0;
    return {
      place: (inputs, waiting, busy): Place => {
        pace = this.#paces.of(inputs);
        let { ms } = pace;
        const alone = waiting === 1 && busy === 0;
        const most = alone ? ALONE : SHORT;
        if (this.#wide !== undefined && !(ms !== undefined && ms <= most)) ms = this.#guessed(pace, inputs, alone);
        if (ms === undefined || ms > most || !here.ready) return "engine";
        let helped = false;
        if (ms >= HELPED) {
          if (waiting >= 2 * WORTH && this.#along === 0) this.#sendAlong(ms, waiting);
          if (this.#along > 0) {
            this.#along--;
            return "engine";
          }
          helped = this.#shared.some((s, i) => i > 0 && !s.worker.late);
        }
        now = performance.now();
        return here.spent(now) < (helped ? SLICE : SLICE_ALONE) ? "here" : "later";
      },
      run: (inputs) => here.run(inputs, pace, now),
      get ms() {
        return here.ms;
      },
    };
  }
  /** What was seen with all processors stands for what one thread has not done yet. */
  #guessed(pace: Pace, inputs: readonly TensorLike[], alone: boolean): number | undefined {
    const { ms } = this.#widePaces.of(inputs);
    if (alone && pace.ms !== undefined && ms !== undefined && ms <= ALONE) pace.ms *= FADE;
    return pace.ms ?? ms;
  }
  #sendAlong(ms: number, waiting: number): void {
    this.#crowded(ms);
    const helpers = this.#shared.slice(1);
    if (helpers.some((s) => !s.worker.late) && leastBusy(helpers).worker.hungry)
      this.#along = Math.min(waiting >> 1, MESSAGE_RUNS, Math.floor(MESSAGE_MS / ms));
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
      this.#shared = await open(this.#artifact, context, wide.level, this.#paces, this.#most);
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
