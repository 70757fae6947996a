/** How long a segment's runs take, learnt from run to run: by the dims of their inputs. */
import type { TensorLike } from "../../tensor.js";

/** Milliseconds of a run on inputs of some dims; undefined before the first. */
export interface Pace {
  ms: number | undefined;
}
/** A thread that had to wait for a processor looks slow for once: what is faster is believed at once, what is slower when it lasts. */
export function learn(pace: Pace, ms: number): void {
  if (pace.ms === undefined || ms < pace.ms) pace.ms = ms;
  else pace.ms += (Math.min(ms, 2 * pace.ms) - pace.ms) / 8;
}
/** Sets of dims that are told apart; beyond that all is learnt anew. */
const KEPT = 4096;

/** Paces by the dims of a run's inputs. */
export class Paces {
  readonly #known = new Map<number, Pace>();

  of(inputs: readonly TensorLike[]): Pace {
    // Two sets of dims of one hash would share a pace, which then is that of the last run.
    let hash = inputs.length;
    for (const { dims } of inputs) {
      hash = Math.imul(hash ^ dims.length, 0x9e3779b1);
      for (const d of dims) {
        hash = Math.imul(hash ^ d, 0x9e3779b1);
        hash ^= hash >>> 15;
      }
    }
    let pace = this.#known.get(hash);
    if (pace === undefined) {
      if (this.#known.size >= KEPT) this.#known.clear();
      pace = { ms: undefined };
      this.#known.set(hash, pace);
    }
    return pace;
  }
}
