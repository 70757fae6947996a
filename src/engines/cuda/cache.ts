/**
 * Compiled kernels on disk, by content: `<cache>/kernels/<aa>/<hash>`. Entries carry a hash of their own bytes, are written under another name and
 * renamed, and are never trusted: a damaged one is deleted and counts as absent. A cache that cannot be written is only slower.
 */
import { createHash } from "node:crypto";
import { readdir, readFile, rm, stat, utimes } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { cacheFile } from "../../atomic.js";
import type { Environment } from "./libraries.js";

/** What a compiler made of a source. */
export interface Compiled {
  readonly cubin: Uint8Array;
  /** The compiler's warnings; often empty. */
  readonly log: string;
}

/** PARTITA_CACHE_DIR, or the place where this system keeps caches. */
export function cacheFolder(env: Environment = process.env): string {
  const named = env["PARTITA_CACHE_DIR"];
  if (named !== undefined && named !== "") return named;
  if (process.platform === "win32") return join(env["LOCALAPPDATA"] ?? join(homedir(), "AppData/Local"), "partita");
  if (process.platform === "darwin") return join(homedir(), "Library/Caches/partita");
  const base = env["XDG_CACHE_HOME"];
  return join(base !== undefined && base !== "" ? base : join(homedir(), ".cache"), "partita");
}

const MAGIC = Buffer.from("PTKERN01");
const HEADER = MAGIC.length + 32 + 4;
/** When entries take more than this, the least recently used go until four fifths remain. */
const MAX_BYTES = 1 << 30;

export class KernelCache {
  readonly folder: string;
  readonly #limit: number;
  #written = 0;
  #pruned = false;

  constructor(folder: string = join(cacheFolder(), "kernels"), limit: number = MAX_BYTES) {
    this.folder = folder;
    this.#limit = limit;
  }

  path(key: string): string {
    return join(this.folder, key.slice(0, 2), key.slice(2));
  }

  async get(key: string): Promise<Compiled | undefined> {
    const path = this.path(key);
    const bytes = await readFile(path).catch(() => undefined);
    if (bytes === undefined) return undefined;
    const entry = decode(bytes);
    if (entry === undefined) await rm(path, { force: true }).catch(() => undefined);
    else await utimes(path, new Date(), new Date()).catch(() => undefined);
    return entry;
  }

  async put(key: string, entry: Compiled): Promise<void> {
    const bytes = encode(entry);
    if (!(await cacheFile(this.path(key), bytes))) return;
    this.#written += bytes.length;
    if (this.#pruned && this.#written < this.#limit / 10) return;
    this.#pruned = true;
    this.#written = 0;
    await this.prune();
  }

  /** Deletes the least recently used entries when all together exceed the limit. */
  async prune(): Promise<void> {
    const entries: { path: string; size: number; used: number }[] = [];
    for (const name of await readdir(this.folder, { recursive: true }).catch(() => [])) {
      const path = join(this.folder, name);
      const s = await stat(path).catch(() => undefined);
      if (s?.isFile() === true) entries.push({ path, size: s.size, used: s.mtimeMs });
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

function encode({ cubin, log }: Compiled): Buffer {
  const text = Buffer.from(log);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(text.length);
  const body = Buffer.concat([length, text, cubin]);
  return Buffer.concat([MAGIC, createHash("sha256").update(body).digest(), body]);
}

function decode(bytes: Buffer): Compiled | undefined {
  if (bytes.length < HEADER || !bytes.subarray(0, MAGIC.length).equals(MAGIC)) return undefined;
  const body = bytes.subarray(MAGIC.length + 32);
  if (
    !createHash("sha256")
      .update(body)
      .digest()
      .equals(bytes.subarray(MAGIC.length, MAGIC.length + 32))
  )
    return undefined;
  const length = body.readUInt32LE(0);
  if (length > body.length - 4) return undefined;
  return { log: body.toString("utf8", 4, 4 + length), cubin: new Uint8Array(body.subarray(4 + length)) };
}
