/** Compiled kernels on disk, by content: cubins with the compiler's warnings. */
import { join } from "node:path";
import { cacheFolder, DiskCache } from "../disk-cache.js";

/** What a compiler made of a source. */
export interface Compiled {
  readonly cubin: Uint8Array;
  /** The compiler's warnings; often empty. */
  readonly log: string;
}

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
    const [cubin, log] = (await this.#disk.get(key)) ?? [];
    return cubin === undefined || log === undefined ? undefined : { cubin, log: Buffer.from(log).toString("utf8") };
  }
  async put(key: string, { cubin, log }: Compiled): Promise<void> {
    await this.#disk.put(key, [cubin, Buffer.from(log)]);
  }
  async prune(): Promise<void> {
    await this.#disk.prune();
  }
}
