/** A segment whose dims are open: one executable per set of input dims, made when the dims first come; those used last are kept. */
import type { Tensor, TensorLike } from "../../tensor.js";
import type { DeviceTensor, Executable, RunOptions } from "../engine.js";
import { disposed } from "./errors.js";
import type { CudaExecutable } from "./executable.js";

type Fixed = Executable & Pick<CudaExecutable, "runResident" | "timeUs">;
type Dims = readonly (readonly number[])[];
interface Entry {
  readonly made: Promise<Fixed>;
  /** Runs that have it. */
  users: number;
}

export class ByShape implements Executable {
  readonly #make: (dims: Dims) => Promise<Fixed>;
  readonly #kept: number;
  /** By dims; the one used last stands last. */
  readonly #entries = new Map<string, Entry>();
  #ended = false;

  /** `make` compiles and opens for dims in the order of the inputs; `kept` executables without a run stay open. */
  constructor(make: (dims: Dims) => Promise<Fixed>, kept: number) {
    this.#make = make;
    this.#kept = kept;
  }

  run(inputs: readonly TensorLike[], options?: RunOptions): Promise<readonly Tensor[]> {
    return this.#using(inputs, (e) => e.run(inputs, options));
  }
  /** Dims of a tensor on the device count like those of any other: the executable that made it need not be open any more. */
  runResident(
    inputs: readonly (TensorLike | DeviceTensor)[],
    keep: readonly boolean[],
    options?: RunOptions,
  ): Promise<readonly (Tensor | DeviceTensor)[]> {
    return this.#using(inputs, (e) => e.runResident(inputs, keep, options));
  }
  timeUs(inputs: readonly TensorLike[]): Promise<number | undefined> {
    return this.#using(inputs, (e) => e.timeUs(inputs));
  }
  async dispose(): Promise<void> {
    this.#ended = true;
    const all = [...this.#entries.values()];
    this.#entries.clear();
    await Promise.all(all.map(close));
  }

  async #using<T>(inputs: readonly { readonly dims: readonly number[] }[], work: (e: Fixed) => Promise<T>): Promise<T> {
    if (this.#ended) throw disposed({});
    const entry = this.#entry(inputs.map((t) => t.dims));
    entry.users++;
    try {
      return await work(await entry.made);
    } finally {
      entry.users--;
      await this.#drop();
    }
  }

  #entry(dims: Dims): Entry {
    const key = dims.map((d) => d.join("x")).join(" ");
    let entry = this.#entries.get(key);
    if (entry === undefined) {
      const made: Entry = { made: this.#make(dims), users: 0 };
      // What could not be made is tried again, and waits for nobody's disposal.
      made.made.catch(() => {
        if (this.#entries.get(key) === made) this.#entries.delete(key);
      });
      entry = made;
    }
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    return entry;
  }

  /** The oldest go while there are too many; one with a run under way, or runs that wait for it, stays. */
  async #drop(): Promise<void> {
    for (const [key, entry] of this.#entries) {
      if (this.#entries.size <= this.#kept) return;
      if (entry.users > 0) continue;
      this.#entries.delete(key);
      await close(entry);
    }
  }
}

async function close({ made }: Entry): Promise<void> {
  const executable = await made.catch(() => undefined);
  await executable?.dispose();
}
