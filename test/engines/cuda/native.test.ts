import { readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { addonPaths, loadAddon, type NativeAddon, native } from "../../../src/engines/cuda/native.js";

const root = join(dirname(fileURLToPath(import.meta.url)), "../../..");
const linux = process.platform === "linux" && process.arch === "x64";

describe("finding the addon", () => {
  it("prebuilds come first, then the build; PARTITA_NATIVE alone when it is set", () => {
    const [prebuilt, built, ...more] = addonPaths({});
    expect(prebuilt).toBe(join(root, "prebuilds", `${process.platform}-${process.arch}`, "partita_native.node"));
    expect(built).toBe(join(root, "build/Release/partita_native.node"));
    expect(more).toEqual([]);
    expect(addonPaths({ PARTITA_NATIVE: "/some/where.node" })).toEqual(["/some/where.node"]);
  });
  it("P2102 lists every reason", () => {
    const text = join(root, "package.json");
    expect(() => loadAddon(["/nowhere/a.node", "/nowhere/b.node"])).toThrow(
      "P2102 the native part of the CUDA engine cannot be loaded: /nowhere/a.node does not exist; /nowhere/b.node does not exist. " +
        "Build it in a checkout with `npm run build:native` (cmake and a C++17 compiler), or compile with --target host.",
    );
    expect(() => loadAddon([fileURLToPath(import.meta.url)])).toThrow(/^P2102 /);
    expect(statSync(text).size).toBeGreaterThan(0);
  });
});

describe.runIf(linux)("the prebuilt addon", () => {
  it("was built from the sources beside it, and is stripped", async () => {
    const { sourceHash } = (await import(join(root, "scripts/build-native.mjs"))) as { sourceHash(): string };
    const { addon, path } = loadAddon(addonPaths({}));
    expect(path).toContain("prebuilds");
    expect(addon.sourceHash, "run `npm run build:native -- --prebuilt` and commit the binary").toBe(sourceHash());
    const bytes = readFileSync(path);
    expect(bytes.length).toBeLessThan(400_000);
    expect(bytes.includes(".symtab")).toBe(false);
    expect(bytes.includes(Buffer.from("/native/src/"))).toBe(false);
  });
});

describe.runIf(linux)("the addon without a driver", () => {
  const { addon } = native();
  const functions = Object.entries(addon).filter(([, f]) => typeof f === "function") as unknown as [
    string,
    (...args: unknown[]) => unknown,
  ][];

  it("has every function of the interface", () => {
    expect(functions.map(([name]) => name).sort()).toEqual(
      (
        [
          "begin",
          "captureBegin",
          "captureEnd",
          "contextCreate",
          "copy",
          "deviceInfo",
          "ended",
          "eventCreate",
          "eventElapsed",
          "eventRecord",
          "execute",
          "fill",
          "functionGet",
          "hostAlloc",
          "launch",
          "live",
          "memAddress",
          "memAlloc",
          "memoryInfo",
          "moduleLoad",
          "nvmlOpen",
          "nvmlRead",
          "nvrtcCompile",
          "nvrtcOpen",
          "nvtxEnd",
          "nvtxOpen",
          "nvtxStart",
          "open",
          "release",
          "streamCreate",
          "tensorMapIm2col",
          "tensorMapTiled",
          "timeGraph",
          "wait",
        ] satisfies (keyof NativeAddon)[]
      ).sort(),
    );
  });
  it.each(functions.filter(([name]) => name !== "live" && name !== "release"))("%s throws an Error for whatever it is given", (_, f) => {
    const odd = [
      undefined,
      null,
      0,
      -1,
      1,
      1.5,
      Number.NaN,
      1e300,
      "text",
      {},
      [],
      [[1, 2, 3]],
      new Uint8Array(4),
      7n,
      () => 1,
      Symbol("s"),
    ];
    for (const a of odd) {
      expect(() => f(a)).toThrow(Error);
      for (const b of odd) expect(() => f(a, b, a, b, a, b, a, b)).toThrow(Error);
    }
    expect(() => f()).toThrow(Error);
  });
  it("keeps the loader's message", () => {
    expect(() => addon.open(["libnothing.so.1", "/nowhere/libcuda.so"])).toThrow(
      /^dlopen: libnothing\.so\.1: cannot open shared object file: No such file or directory; \/nowhere\/libcuda\.so: cannot open/,
    );
    try {
      addon.open(["libnothing.so.1"]);
    } catch (error) {
      expect(error).toMatchObject({ call: "dlopen", status: -1, native: expect.stringContaining("libnothing.so.1") });
    }
    expect(() => addon.open([])).toThrow(Error);
  });
  it("refuses handles that were never given out", () => {
    expect(() => addon.memAlloc(3 as never, 10)).toThrow(new TypeError("expected a live context handle, got 3"));
    expect(() => addon.deviceInfo(0)).toThrow("open has not succeeded");
    expect(() => addon.release(12345 as never)).not.toThrow();
    expect(() => addon.release("x" as never)).toThrow(new TypeError("handle must be a number"));
    expect(Object.values(addon.live()).every((n) => n === 0)).toBe(true);
  });
});
