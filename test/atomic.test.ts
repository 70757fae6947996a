/** Files that appear whole or not at all. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { cacheFile, isRunning, replaceFile, replaceFiles, temporariesOf, temporaryFor } from "../src/atomic.js";

const folder = mkdtempSync(join(tmpdir(), "partita-atomic-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("a file is replaced, by text, bytes and a writer, and nothing else stays in the folder", () => {
  const path = join(folder, "a.txt");
  replaceFile(path, "one");
  expect(readFileSync(path, "utf8")).toBe("one");
  replaceFile(path, new TextEncoder().encode("two"));
  expect(readFileSync(path, "utf8")).toBe("two");
  replaceFile(path, (temporary) => writeFileSync(temporary, "three"));
  expect(readFileSync(path, "utf8")).toBe("three");
  expect(readdirSync(folder)).toEqual(["a.txt"]);
});

test("a writer that fails leaves the old content, of all files that belong together", () => {
  const [a, b] = [join(folder, "a.txt"), join(folder, "b.txt")];
  replaceFile(a, "old a");
  replaceFile(b, "old b");
  const fail = (): never => {
    throw new Error("no room");
  };
  expect(() =>
    replaceFiles([
      { path: a, content: "new a" },
      { path: b, content: fail },
    ]),
  ).toThrow("no room");
  expect([a, b].map((p) => readFileSync(p, "utf8"))).toEqual(["old a", "old b"]);
  expect(readdirSync(folder).sort()).toEqual(["a.txt", "b.txt"]);
});

test("a cache's file makes its folder, and tells that it could not be written", async () => {
  const path = join(folder, "deep", "er", "c");
  expect(await cacheFile(path, "x")).toBe(true);
  expect(readFileSync(path, "utf8")).toBe("x");
  // A file stands where a folder would have to.
  expect(await cacheFile(join(path, "below"), "y")).toBe(false);
  expect(readdirSync(join(folder, "deep", "er"))).toEqual(["c"]);
});

test("what a killed writer leaves is found by the name, with its process", () => {
  const path = join(folder, "left", "model.bin");
  mkdirSync(join(folder, "left"));
  const mine = temporaryFor(path);
  writeFileSync(mine, "half");
  writeFileSync(join(folder, "left", ".model.bin.1-zz.tmp"), "not of this form");
  writeFileSync(temporaryFor(`${path}x`), "another file's");
  expect(temporariesOf(path)).toEqual([{ path: mine, pid: process.pid }]);
  expect(isRunning(process.pid)).toBe(true);
  // Above the largest number of a process that Linux gives.
  expect(isRunning(2 ** 22 + 1)).toBe(false);
});
