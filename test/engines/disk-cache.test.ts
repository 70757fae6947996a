/** The cache on disk: whole entries, one builder over many processes, takeover from the dead, the limit on its size. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { native } from "../../src/engines/cuda/native.js";
import { cacheFolder, DiskCache } from "../../src/engines/disk-cache.js";
import { compilerMissing } from "../support/cuda.js";
import { transpiled } from "../support/transpile.js";

const root = mkdtempSync(join(tmpdir(), "partita-disk-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
const fresh = (): string => mkdtempSync(join(root, "c-"));
const KEY = "ab".repeat(32);
const script = join(import.meta.dirname, "../support/cache-child.mjs");
const start = (args: readonly string[], env: Record<string, string> = {}, js = transpiled()): ChildProcess =>
  spawn(process.execPath, [script, join(js, "src"), ...args], { stdio: ["ignore", "pipe", "inherit"], env: { ...process.env, ...env } });
async function answer<T>(child: ChildProcess): Promise<T> {
  let text = "";
  child.stdout?.on("data", (d: Buffer) => {
    text += d.toString();
  });
  await once(child, "close");
  return JSON.parse(text) as T;
}
const text = (pieces: readonly Uint8Array[] | undefined): string[] | undefined => pieces?.map((p) => Buffer.from(p).toString());

describe("an entry", () => {
  it("comes back piece by piece, empty ones too; damage of any byte counts as absent and is removed", async () => {
    const cache = new DiskCache(fresh());
    await cache.put(KEY, [Buffer.from("one"), new Uint8Array(), Buffer.from("three")]);
    expect(text(await cache.get(KEY))).toEqual(["one", "", "three"]);
    const whole = readFileSync(cache.path(KEY));
    for (let at = 0; at < whole.length; at += 3) {
      const hurt = Buffer.from(whole);
      hurt[at] = (hurt[at] ?? 0) ^ 4;
      writeFileSync(cache.path(KEY), hurt);
      expect(await cache.get(KEY), `byte ${at}`).toBeUndefined();
      expect(existsSync(cache.path(KEY))).toBe(false);
    }
    writeFileSync(cache.path(KEY), whole);
    truncateSync(cache.path(KEY), whole.length - 1);
    expect(await cache.get(KEY)).toBeUndefined();
  });
  it("is made once, found afterwards, and made again by the next when making fails", async () => {
    const cache = new DiskCache(fresh());
    await expect(cache.once(KEY, async () => Promise.reject(new Error("no")))).rejects.toThrow("no");
    expect(text((await cache.once(KEY, async () => [Buffer.from("x")])).pieces)).toEqual(["x"]);
    expect(await cache.once(KEY, async () => Promise.reject(new Error("not asked")))).toMatchObject({ found: true });
    expect(readdirSync(join(cache.folder, "ab"))).toEqual(["ab".repeat(31)]);
  });
  it("larger than the limit is not kept; where nothing can be written, everything is made", async () => {
    const small = new DiskCache(fresh(), { limit: 100 });
    await small.put(KEY, [new Uint8Array(200)]);
    expect(await small.get(KEY)).toBeUndefined();
    const file = join(root, "file");
    writeFileSync(file, "");
    expect(await new DiskCache(file).once(KEY, async () => [Buffer.from("x")])).toMatchObject({ found: false });
  });
  it("the least recently used go when all together are too large, and what the dead left", async () => {
    const cache = new DiskCache(fresh(), { limit: 5000 });
    for (let i = 0; i < 10; i++) {
      await cache.put(i.toString(16).repeat(64), [new Uint8Array(900)]);
      utimesSync(cache.path(i.toString(16).repeat(64)), 1000 + i, 1000 + i);
    }
    const litter = [`${cache.path("9".repeat(64))}.lock`, join(cache.folder, "99", ".x.1-0123456789ab.tmp")];
    for (const path of litter) {
      writeFileSync(path, "");
      utimesSync(path, 1, 1);
    }
    await cache.prune();
    expect(litter.map((p) => existsSync(p))).toEqual([false, false]);
    expect(await cache.get("9".repeat(64))).toBeDefined();
    expect(await cache.get("0".repeat(64))).toBeUndefined();
  });
  it("waiting for another's entry ends with the caller's signal", async () => {
    const cache = new DiskCache(fresh());
    let go = (): void => {};
    const first = cache.once(KEY, () => new Promise((done) => (go = () => done([Buffer.from("x")]))));
    await expect.poll(() => existsSync(`${cache.path(KEY)}.lock`)).toBe(true);
    await expect(cache.once(KEY, async () => [], AbortSignal.timeout(30))).rejects.toMatchObject({ name: "TimeoutError" });
    go();
    expect(await first).toMatchObject({ found: false });
  });
  it("lies where PARTITA_CACHE_DIR says", () => {
    expect(cacheFolder({ PARTITA_CACHE_DIR: "/somewhere" })).toBe("/somewhere");
    expect(cacheFolder({ PARTITA_CACHE_DIR: "", XDG_CACHE_HOME: "/x", LOCALAPPDATA: "/x" })).toMatch(/partita$/);
  });
});

describe("many processes", () => {
  it("eight at once make an entry once, and all read it whole", async () => {
    const folder = fresh();
    const log = join(folder, "log");
    const all = await Promise.all(
      Array.from({ length: 8 }, () => answer<{ found: boolean; right: boolean }>(start(["once", folder, KEY, log]))),
    );
    expect(all.every((a) => a.right)).toBe(true);
    expect(all.filter((a) => !a.found)).toHaveLength(1);
    expect(readFileSync(log, "utf8").trim().split("\n")).toHaveLength(1);
  });
  it("the builder is killed: another takes over at once, and nothing of it stays", async () => {
    const folder = fresh();
    const holder = start(["hold", folder, KEY]);
    await once(holder.stdout as NonNullable<typeof holder.stdout>, "data");
    holder.kill("SIGKILL");
    await once(holder, "close");
    const began = performance.now();
    expect(await new DiskCache(folder).once(KEY, async () => [Buffer.from("mine")])).toMatchObject({ found: false });
    expect(performance.now() - began).toBeLessThan(5000);
    expect(readdirSync(join(folder, "ab"))).toEqual(["ab".repeat(31)]);
  });
  it("a lock of another machine is taken over when it is not touched any more, not before", async () => {
    const cache = new DiskCache(fresh(), { staleMs: 300 });
    await cache.put(KEY, [Buffer.from("x")]);
    rmSync(cache.path(KEY));
    writeFileSync(`${cache.path(KEY)}.lock`, "1 another-machine 0123");
    const began = performance.now();
    expect(await cache.once(KEY, async () => [Buffer.from("mine")])).toMatchObject({ found: false });
    expect(performance.now() - began).toBeGreaterThan(200);
  });
  it.skipIf(compilerMissing !== undefined)(
    `eight that compile the same model build its engine once, and have the same kernels${compilerMissing === undefined ? "" : " (skipped: no CUDA compiler; set PARTITA_NVRTC_DIR)"}`,
    async () => {
      const model = `graph "net" opset {"": 18} (%x: float32[4, 8]) -> (%y) {
        const %w = float32[8, 8] [${Array.from({ length: 64 }, (_, i) => `${i % 5}.0`).join(", ")}]
        %a = MatMul(%x, %w)
        %b = Relu(%a)
        %c = MatMul(%b, %w)
        %y = Softmax(%c)
      }`;
      const js = transpiled("kernels");
      const env = { PARTITA_CACHE_DIR: fresh(), PARTITA_NATIVE: native().path };
      const all = await Promise.all(
        Array.from({ length: 8 }, () => answer<{ events: string[]; hash: string; engines: string[] }>(start(["compile", model], env, js))),
      );
      expect(all.map((a) => a.engines)).toEqual(Array(8).fill(["cuda"]));
      expect(new Set(all.map((a) => a.hash)).size).toBe(1);
      expect(all.filter((a) => a.events.length === 0)).toHaveLength(1);
      expect(all.filter((a) => a.events.join() === "disk-hit")).toHaveLength(7);
    },
  );
});
