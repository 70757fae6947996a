/**
 * Artifacts on disk by content, shared between processes: `<cache>/<kind>/<aa>/<hash>`. Entries appear whole, carry a hash of their own bytes and are
 * never trusted: a damaged one is deleted and counts as absent. What is slow to make is made by one process at a time: it holds a lock file with
 * its number, and touches it while it works; others wait, and take over from one that died. A cache that cannot be written is only slower.
 */
import { createHash, randomBytes } from "node:crypto";
import { link, mkdir, open, readdir, readFile, rename, rm, stat, utimes } from "node:fs/promises";
import { homedir, hostname } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { cacheFile, isRunning } from "../atomic.js";
import type { Environment } from "./cuda/libraries.js";

/** PARTITA_CACHE_DIR, or the place where this system keeps caches. */
export function cacheFolder(env: Environment = process.env): string {
  const named = env["PARTITA_CACHE_DIR"];
  if (named !== undefined && named !== "") return named;
  if (process.platform === "win32") return join(env["LOCALAPPDATA"] ?? join(homedir(), "AppData/Local"), "partita");
  if (process.platform === "darwin") return join(homedir(), "Library/Caches/partita");
  const base = env["XDG_CACHE_HOME"];
  return join(base !== undefined && base !== "" ? base : join(homedir(), ".cache"), "partita");
}

export interface DiskCacheOptions {
  /** Bytes; beyond them the least recently used entries go until four fifths remain. Default 1 GiB. */
  readonly limit?: number | undefined;
  /** A lock that was not touched for so long is that of a process that died. Default 15 s. */
  readonly staleMs?: number | undefined;
}
/** What an entry holds: pieces in order. */
export type Pieces = readonly Uint8Array[];

const MAGIC = Buffer.from("PTCACHE1");
const DIGEST = 32;
const HEADER = MAGIC.length + DIGEST + 4;
/** Node.js reads files below 2 GiB at once. */
const MAX_ENTRY = 2 ** 31 - 2 ** 20;
/** Temporary files and locks of processes that died are removed after so long. */
const LITTER_MS = 600_000;

export class DiskCache {
  readonly folder: string;
  readonly #limit: number;
  readonly #staleMs: number;
  #written = 0;
  #pruned = false;

  constructor(folder: string, { limit = 1 << 30, staleMs = 15_000 }: DiskCacheOptions = {}) {
    this.folder = folder;
    this.#limit = limit;
    this.#staleMs = staleMs;
  }

  path(key: string): string {
    return join(this.folder, key.slice(0, 2), key.slice(2));
  }

  async get(key: string): Promise<Pieces | undefined> {
    const path = this.path(key);
    const bytes = await readFile(path).catch(() => undefined);
    if (bytes === undefined) return undefined;
    const pieces = decode(bytes);
    if (pieces === undefined) await rm(path, { force: true }).catch(() => undefined);
    else await utimes(path, new Date(), new Date()).catch(() => undefined);
    return pieces;
  }

  async put(key: string, pieces: Pieces): Promise<void> {
    const size = pieces.reduce((n, p) => n + p.length + 8, HEADER);
    if (size > Math.min(MAX_ENTRY, this.#limit)) return;
    if (!(await cacheFile(this.path(key), encode(pieces)))) return;
    this.#written += size;
    if (this.#pruned && this.#written < this.#limit / 10) return;
    this.#pruned = true;
    this.#written = 0;
    await this.prune();
  }

  /** The entry, made by one process at a time where there is none. What `make` throws goes to its caller alone: who waited tries it again. */
  async once(
    key: string,
    make: () => Promise<Pieces>,
    signal?: AbortSignal,
  ): Promise<{ readonly pieces: Pieces; readonly found: boolean }> {
    for (;;) {
      signal?.throwIfAborted();
      const before = await this.get(key);
      if (before !== undefined) return { pieces: before, found: true };
      const lock = await Lock.take(`${this.path(key)}.lock`, this.#staleMs);
      if (lock === "held") {
        await sleep(50, undefined, { signal }).catch(() => signal?.throwIfAborted());
        continue;
      }
      try {
        // Who held the lock until now may have left the entry.
        const made = await this.get(key);
        if (made !== undefined) return { pieces: made, found: true };
        const pieces = await make();
        await this.put(key, pieces);
        return { pieces, found: false };
      } finally {
        await lock?.release();
      }
    }
  }

  /** Deletes the least recently used entries when all together exceed the limit, and what dead processes left. */
  async prune(): Promise<void> {
    const entries: { path: string; size: number; used: number }[] = [];
    for (const name of await readdir(this.folder, { recursive: true }).catch(() => [])) {
      const path = join(this.folder, name);
      const s = await stat(path).catch(() => undefined);
      if (s?.isFile() !== true) continue;
      if (!/\.(tmp|lock|stale)$/.test(name)) entries.push({ path, size: s.size, used: s.mtimeMs });
      else if (Date.now() - s.mtimeMs > LITTER_MS) await rm(path, { force: true }).catch(() => undefined);
    }
    let total = entries.reduce((n, e) => n + e.size, 0);
    if (total <= this.#limit) return;
    for (const e of entries.sort((a, b) => a.used - b.used)) {
      if (total <= this.#limit * 0.8) break;
      await rm(e.path, { force: true }).catch(() => undefined);
      total -= e.size;
    }
  }
}

/** The right to make one entry: a file that names its owner, and is touched while the owner works. */
class Lock {
  readonly #path: string;
  readonly #text: string;
  readonly #beat: NodeJS.Timeout;

  private constructor(path: string, text: string, staleMs: number) {
    this.#path = path;
    this.#text = text;
    this.#beat = setInterval(() => void utimes(path, new Date(), new Date()).catch(() => undefined), Math.max(10, staleMs / 5));
    this.#beat.unref();
  }

  /** "held" by another process; undefined where no lock can be written: then everybody makes it. */
  static async take(path: string, staleMs: number): Promise<Lock | "held" | undefined> {
    const text = `${process.pid} ${hostname()} ${randomBytes(6).toString("hex")}`;
    try {
      await mkdir(dirname(path), { recursive: true });
      const file = await open(path, "wx");
      try {
        await file.writeFile(text);
      } finally {
        await file.close();
      }
      return new Lock(path, text, staleMs);
    } catch (error) {
      if (!(error instanceof Error && "code" in error && error.code === "EEXIST")) return undefined;
    }
    await removeStale(path, staleMs);
    return "held";
  }

  async release(): Promise<void> {
    clearInterval(this.#beat);
    // Another took over where this process was held up for long: that lock is not ours.
    if ((await readFile(this.#path, "utf8").catch(() => "")) === this.#text) await rm(this.#path, { force: true }).catch(() => undefined);
  }
}

/** Moves a lock away whose owner died. Only what was seen to be stale goes: a lock that came in its place meanwhile is put back. */
async function removeStale(path: string, staleMs: number): Promise<void> {
  const [text, found] = await Promise.all([readFile(path, "utf8").catch(() => undefined), stat(path).catch(() => undefined)]);
  if (text === undefined || found === undefined) return;
  const [pid, host] = text.split(" ");
  const here = host === hostname();
  const old = Date.now() - found.mtimeMs > staleMs;
  // A lock without its text yet is as fresh as its file.
  if (!(old || (here && pid !== undefined && !isRunning(Number(pid))))) return;
  const aside = `${path}.${process.pid}-${randomBytes(4).toString("hex")}.stale`;
  try {
    await rename(path, aside);
    if ((await readFile(aside, "utf8")) !== text) await link(aside, path).catch(() => undefined);
  } catch {
    // Another was faster.
  }
  await rm(aside, { force: true }).catch(() => undefined);
}

function encode(pieces: Pieces): Buffer {
  const table = Buffer.alloc(4 + 8 * pieces.length);
  table.writeUInt32LE(pieces.length, 0);
  pieces.forEach((p, i) => table.writeBigUInt64LE(BigInt(p.length), 4 + 8 * i));
  const hash = createHash("sha256").update(table);
  for (const p of pieces) hash.update(p);
  return Buffer.concat([MAGIC, hash.digest(), table, ...pieces]);
}

function decode(bytes: Buffer): Pieces | undefined {
  if (bytes.length < HEADER || !bytes.subarray(0, MAGIC.length).equals(MAGIC)) return undefined;
  const body = bytes.subarray(MAGIC.length + DIGEST);
  if (
    !createHash("sha256")
      .update(body)
      .digest()
      .equals(bytes.subarray(MAGIC.length, MAGIC.length + DIGEST))
  )
    return undefined;
  const count = body.readUInt32LE(0);
  if (4 + 8 * count > body.length) return undefined;
  const pieces: Uint8Array[] = [];
  let at = 4 + 8 * count;
  for (let i = 0; i < count; i++) {
    const end = at + Number(body.readBigUInt64LE(4 + 8 * i));
    if (end > body.length) return undefined;
    pieces.push(new Uint8Array(body.subarray(at, end)));
    at = end;
  }
  return at === body.length ? pieces : undefined;
}
