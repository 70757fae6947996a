/** Feeds that can be read again: kept in memory up to a cap, beyond it in a temporary file that goes when the store is disposed. */
import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { defineError } from "../diagnostics.js";
import type { TensorLike } from "../tensor.js";
import { type FeedOptions, type FeedSource, FeedTally, feedsOf, hashOfUnion, tensorOver } from "./feeds.js";
import type { FeedPort, FeedStore, Feeds } from "./types.js";

export const noRoom = defineError<{ why: string }>(
  "P1608",
  "calibration feeds cannot be kept on disk",
  ({ why }) => ({
    what: `the temporary file cannot be written: ${why}`,
    fix: "make room in the folder for temporary files (TMPDIR), or give fewer feeds",
  }),
  3,
);

export interface StoreOptions extends FeedOptions {
  /** Feeds beyond this many bytes go to a temporary file. Default 1 GiB. */
  readonly memoryBytes?: number | undefined;
  /** After every feed. */
  readonly onProgress?: ((done: number) => void) | undefined;
}
export interface StoredFeeds extends FeedStore {
  /** Frees the memory and the temporary file, for stores split from this one too. */
  dispose(): Promise<void>;
}

interface Kept {
  readonly hash: string;
  read(): Feeds;
}

/**
 * Reads a source to its end. Throws what `feedsOf` throws, P1601 when there was no feed, P1604 when all were the same, P1608 when the disk is
 * full; remarks on repeated and on few feeds.
 */
export async function collectFeeds(source: FeedSource, ports: readonly FeedPort[], options: StoreOptions = {}): Promise<StoredFeeds> {
  const tally = new FeedTally();
  const kept: Kept[] = [];
  const spill = new Spill();
  let bytes = 0;
  try {
    for await (const feed of feedsOf(source, ports, options)) {
      const hash = tally.add(feed);
      bytes += Object.values(feed).reduce((n, t) => n + sizeOf(t), 0);
      kept.push({ hash, read: bytes <= (options.memoryBytes ?? 2 ** 30) ? () => feed : spill.keep(feed) });
      options.onProgress?.(kept.length);
    }
    tally.finish(options.remarks, typeof source === "string" ? source : undefined);
  } catch (error) {
    spill.dispose();
    throw error;
  }
  return { ...storeOf(kept), dispose: async () => spill.dispose() };
}

function storeOf(kept: readonly Kept[]): FeedStore {
  return {
    length: kept.length,
    hash: hashOfUnion(kept.map((k) => k.hash)),
    async *all() {
      for (const k of kept) yield k.read();
    },
    split(share) {
      // By rank of the hash, so that the same feeds in another order fall apart the same way; equal feeds stay together in rank.
      const wanted = Math.round(kept.length * Math.min(1, Math.max(0, share)));
      const count = kept.length > 1 && share > 0 && share < 1 ? Math.min(kept.length - 1, Math.max(1, wanted)) : wanted;
      const ranked = kept.map((k, i) => ({ k, i })).sort((a, b) => (a.k.hash < b.k.hash ? -1 : a.k.hash > b.k.hash ? 1 : a.i - b.i));
      const second = new Set(ranked.slice(0, count).map(({ k }) => k));
      return [storeOf(kept.filter((k) => !second.has(k))), storeOf(kept.filter((k) => second.has(k)))];
    },
  };
}

const sizeOf = (t: TensorLike): number =>
  ArrayBuffer.isView(t.data) ? t.data.byteLength : (t.data as readonly string[]).reduce((n, s) => n + 2 * String(s).length + 16, 0);

/** The temporary file. */
class Spill {
  #folder: string | undefined;
  #fd = -1;
  #at = 0;
  readonly #drop = (): void => this.dispose();

  keep(feed: Feeds): () => Feeds {
    const entries = Object.entries(feed).map(([name, t]) => {
      const binary = ArrayBuffer.isView(t.data);
      const bytes = ArrayBuffer.isView(t.data)
        ? new Uint8Array(t.data.buffer, t.data.byteOffset, t.data.byteLength)
        : Buffer.from(JSON.stringify(t.data));
      return { name, type: t.type, dims: [...t.dims], binary, at: this.#append(bytes), length: bytes.length };
    });
    return () =>
      Object.fromEntries(
        entries.map((e) => {
          const bytes = this.#read(e.at, e.length);
          const t = e.binary
            ? tensorOver(e.type, bytes.buffer, e.dims)
            : { type: e.type, data: JSON.parse(Buffer.from(bytes).toString("utf8")) as string[], dims: e.dims };
          return [e.name, t] as const;
        }),
      );
  }

  #append(bytes: Uint8Array): number {
    try {
      if (this.#folder === undefined) {
        this.#folder = mkdtempSync(join(tmpdir(), "partita-feeds-"));
        this.#fd = openSync(join(this.#folder, "feeds"), "w+");
        process.once("exit", this.#drop);
      }
      const start = this.#at;
      for (let done = 0; done < bytes.length; ) done += writeSync(this.#fd, bytes, done, bytes.length - done, start + done);
      this.#at += bytes.length;
      return start;
    } catch (cause) {
      throw noRoom({ why: cause instanceof Error ? cause.message : String(cause) }, {}, cause);
    }
  }

  #read(at: number, length: number): Uint8Array<ArrayBuffer> {
    if (this.#folder === undefined) throw new Error("the feed store was disposed");
    const bytes = new Uint8Array(length);
    for (let done = 0; done < length; ) {
      const n = readSync(this.#fd, bytes, done, length - done, at + done);
      if (n === 0) throw noRoom({ why: "it was cut off" });
      done += n;
    }
    return bytes;
  }

  dispose(): void {
    if (this.#folder === undefined) return;
    process.off("exit", this.#drop);
    closeSync(this.#fd);
    rmSync(this.#folder, { recursive: true, force: true });
    this.#folder = undefined;
  }
}
