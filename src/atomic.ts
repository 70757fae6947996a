/**
 * Files that appear whole or not at all: written under another name in the same folder, flushed, then renamed. Whoever reads sees the old content or
 * the new, also when the writer is killed; what a killed writer leaves is a hidden file whose name says whose it was.
 */
import { randomBytes } from "node:crypto";
import { closeSync, fsyncSync, openSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { mkdir, open, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";

/** What a file is to hold: its content, or what writes it (and flushes it) at the temporary name that it is given. */
export type FileContent = string | Uint8Array | ((temporary: string) => void);

/** A name beside `path` that nobody else takes; it holds the process's number. */
export const temporaryFor = (path: string): string =>
  join(dirname(path), `.${basename(path)}.${process.pid}-${randomBytes(6).toString("hex")}.tmp`);

/** Temporary names that writers of `path` left or are at: the process that made each. */
export function temporariesOf(path: string): readonly { readonly path: string; readonly pid: number }[] {
  const [folder, start] = [dirname(path), `.${basename(path)}.`];
  return readdirSync(folder).flatMap((name) => {
    const found = name.startsWith(start) ? /^(\d+)-[0-9a-f]{12}\.tmp$/.exec(name.slice(start.length)) : null;
    return found === null ? [] : [{ path: join(folder, name), pid: Number(found[1]) }];
  });
}

/** Whether a process of this machine runs. */
export function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error instanceof Error && "code" in error && error.code === "EPERM";
  }
}

/** Writes or replaces a file. Throws what the file system says; the old content stands then. */
export const replaceFile = (path: string, content: FileContent): void => replaceFiles([{ path, content }]);

/** As `replaceFile`, for files that belong together: all are written before the first is renamed, in the order given. */
export function replaceFiles(files: readonly { readonly path: string; readonly content: FileContent }[]): void {
  const staged = files.map((f) => ({ ...f, temporary: temporaryFor(f.path) }));
  try {
    for (const { content, temporary } of staged) {
      if (typeof content === "function") content(temporary);
      else writeFlushed(temporary, content);
    }
    for (const { temporary, path } of staged) renameSync(temporary, path);
  } catch (error) {
    for (const { temporary } of staged) rmSync(temporary, { force: true });
    throw error;
  }
}

function writeFlushed(path: string, content: string | Uint8Array): void {
  const file = openSync(path, "wx");
  try {
    writeFileSync(file, content);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}

/**
 * As `replaceFile`, off the event loop, for caches: the folder is made, nothing is flushed (a cache checks what it reads), and a failure is only told.
 */
export async function cacheFile(path: string, content: string | Uint8Array): Promise<boolean> {
  const temporary = temporaryFor(path);
  try {
    await mkdir(dirname(path), { recursive: true });
    const file = await open(temporary, "wx");
    try {
      await file.writeFile(content);
    } finally {
      await file.close();
    }
    await rename(temporary, path);
    return true;
  } catch {
    await rm(temporary, { force: true }).catch(() => undefined);
    return false;
  }
}
