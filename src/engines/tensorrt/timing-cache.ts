/**
 * TensorRT's timing cache on disk: one file a version and GPU, under a hash of its own bytes, written whole or not at all. A damaged file
 * counts as none, and one that cannot be written makes the next build slower, no more.
 */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { cacheFile } from "../../atomic.js";
import type { Environment } from "../cuda/libraries.js";
import { cacheFolder } from "../disk-cache.js";
import type { LibraryVersion } from "./native.js";

const MAGIC = Buffer.from("PTTIME01");
const HEADER = MAGIC.length + 32;

/** Where measurements of that version on that GPU are kept: TensorRT takes them back on no other. */
export function timingCachePath(version: LibraryVersion, gpu: string, env: Environment = process.env): string {
  const safe = gpu.replaceAll(/[^\w.-]+/g, "-");
  return join(cacheFolder(env), "tensorrt", `${version.product}-${version.text}-${safe}.timing`);
}

/** The bytes for TensorRT; empty where there is no file, or a damaged one. */
export async function readTimingCache(path: string): Promise<Uint8Array> {
  const bytes = await readFile(path).catch(() => undefined);
  if (bytes === undefined || bytes.length < HEADER || !bytes.subarray(0, MAGIC.length).equals(MAGIC)) return new Uint8Array();
  const body = bytes.subarray(HEADER);
  return digest(body).equals(bytes.subarray(MAGIC.length, HEADER)) ? new Uint8Array(body) : new Uint8Array();
}

export async function writeTimingCache(path: string, bytes: Uint8Array): Promise<void> {
  await cacheFile(path, Buffer.concat([MAGIC, digest(bytes), bytes]));
}

const digest = (bytes: Uint8Array): Buffer => createHash("sha256").update(bytes).digest();
