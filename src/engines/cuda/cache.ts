/** Compiled kernels on disk, by content: cubins with the compiler's warnings. */
import { join } from "node:path";
import { cacheFolder, DiskCache, type Pieces } from "../disk-cache.js";

/** What a compiler made of a source. */
export interface Compiled {
  readonly cubin: Uint8Array;
  /** The compiler's warnings; often empty. */
  readonly log: string;
}

const piecesOf = ({ cubin, log }: Compiled): Pieces => [cubin, Buffer.from(log)];
const compiledOf = ([cubin, log]: Pieces): Compiled | undefined =>
  cubin === undefined || log === undefined ? undefined : { cubin, log: Buffer.from(log).toString("utf8") };

export class KernelCache {
  readonly #disk: DiskCache;

  /** `limit`: bytes that all entries may take. */
  constructor(folder: string = join(cacheFolder(), "kernels"), limit?: number) {
    this.#disk = new DiskCache(folder, { limit });
  }

  get folder(): string {
    return this.#disk.folder;
  }
  path(key: string): string {
    return this.#disk.path(key);
  }
  async get(key: string): Promise<Compiled | undefined> {
    return compiledOf((await this.#disk.get(key)) ?? []);
  }
  async put(key: string, entry: Compiled): Promise<void> {
    await this.#disk.put(key, piecesOf(entry));
  }
  /** The entry; where there is none, `make` makes it, in one process at a time. */
  async once(key: string, make: () => Promise<Compiled>): Promise<Compiled> {
    let made: Compiled | undefined;
    const { pieces } = await this.#disk.once(key, async () => {
      made = await make();
      return piecesOf(made);
    });
    return made ?? compiledOf(pieces) ?? (await make());
  }
  async prune(): Promise<void> {
    await this.#disk.prune();
  }
}
