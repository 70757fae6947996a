import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { compile } from "../../../src/compile.js";
import { KernelCache } from "../../../src/engines/cuda/cache.js";
import { compilerInfo, compileSource, nvrtcVersion } from "../../../src/engines/cuda/compiler.js";
import { inspectCubin } from "../../../src/engines/cuda/cubin.js";
import { includesFile } from "../../../src/engines/cuda/includes.js";
import { nvrtcCandidates } from "../../../src/engines/cuda/libraries.js";
import { parse } from "../../../src/ir/parse.js";
import { compilerMissing, needsCompiler } from "../../support/cuda.js";

const folders: string[] = [];
const scratch = (): string => {
  const folder = mkdtempSync(join(tmpdir(), "partita-test-"));
  folders.push(folder);
  return folder;
};
afterAll(() => {
  for (const f of folders) rmSync(f, { recursive: true, force: true });
});
const KEY = "ab".repeat(32);
const add = `extern "C" __global__ void add(const float* a, const float* b, float* c, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) c[i] = a[i] + b[i];
}
`;

describe("kernel cache", () => {
  const entry = { cubin: new Uint8Array([1, 2, 3, 4, 5]), log: "a warning: ü" };
  it("gives back what was put, and nothing for another key", async () => {
    const cache = new KernelCache(scratch());
    await cache.put(KEY, entry);
    expect(await cache.get(KEY)).toEqual(entry);
    expect(await cache.get("cd".repeat(32))).toBeUndefined();
    expect(readdirSync(join(cache.folder, "ab"))).toEqual(["ab".repeat(31)]);
  });
  it("deletes an entry with any bit changed, or cut short", async () => {
    const cache = new KernelCache(scratch());
    await cache.put(KEY, entry);
    const whole = readFileSync(cache.path(KEY));
    for (let at = 0; at < whole.length; at++) {
      const damaged = Buffer.from(whole);
      damaged[at] = (damaged[at] ?? 0) ^ 1;
      writeFileSync(cache.path(KEY), damaged);
      expect(await cache.get(KEY), `byte ${at}`).toBeUndefined();
      expect(readdirSync(join(cache.folder, "ab"))).toEqual([]);
    }
    for (const length of [0, 7, 43, whole.length - 1]) {
      writeFileSync(cache.path(KEY), whole);
      truncateSync(cache.path(KEY), length);
      expect(await cache.get(KEY), `${length} bytes`).toBeUndefined();
    }
  });
  it("is only slower where it cannot write", async () => {
    const file = join(scratch(), "file");
    writeFileSync(file, "");
    const cache = new KernelCache(file);
    await cache.put(KEY, entry);
    expect(await cache.get(KEY)).toBeUndefined();
  });
  it("lets the least recently used go when it grows too large", async () => {
    const cache = new KernelCache(scratch(), 5000);
    for (let i = 0; i < 10; i++) {
      const key = i.toString(16).repeat(64);
      await cache.put(key, { cubin: new Uint8Array(900), log: "" });
      utimesSync(cache.path(key), 1000 + i, 1000 + i);
    }
    await cache.prune();
    const left = readdirSync(cache.folder, { recursive: true })
      .map((n) => join(cache.folder, String(n)))
      .filter((p) => statSync(p).isFile());
    expect(left.length).toBeLessThanOrEqual(4);
    expect(await cache.get("9".repeat(64))).toBeDefined();
    expect(await cache.get("0".repeat(64))).toBeUndefined();
  });
});

describe("sources that read files", () => {
  it.each([
    "#include <cuda.h>",
    'int a;\n  #  include "x"',
    "/* a */ # /* b */ include <x>",
    "/* a\n b */ #include <x>",
    "#inc\\\nlude <x>",
    "%:include <x>",
    "#import <x>",
    'const char* s = "/*";\n#include <x>\n// */',
    'const wchar_t c = L\'"\'; "/*";\n#include <x>\n// */',
    'auto r = R"(\n)";\n#include <x>',
    "int n = 1'000'000; char c = '\"';\n#include <x>",
  ])("finds %j", (text) => expect(includesFile(text)).toBe(true));
  it.each([
    "// #include <x>",
    "/*\n#include <x>\n*/",
    'const char* s = "#include <x>";',
    'auto r = R"x(\n#include <y>\n)x";',
    "#pragma unroll\n#define include 3\nint included;",
    "a #include",
    "",
  ])("takes %j", (text) => expect(includesFile(text)).toBe(false));
  it("is linear", () => {
    const start = performance.now();
    for (const part of ["/*\n", "\n", "/**/", '"', "# ", "'", "\\\n", "1'"]) includesFile(part.repeat(300_000));
    expect(performance.now() - start).toBeLessThan(5000);
  });
});

describe("NVRTC candidates", () => {
  it("PARTITA_NVRTC_DIR is the only place when it is set; builtins of the same version go with a library", () => {
    const folder = scratch();
    for (const f of [
      "libnvrtc.so.12",
      "libnvrtc.so.13",
      "libnvrtc-builtins.so.13.0",
      "libnvrtc-builtins.so.12.8",
      "libnvrtc.so.11",
      "libnvrtc.so",
    ])
      writeFileSync(join(folder, f), "");
    expect(nvrtcCandidates({ PARTITA_NVRTC_DIR: folder })).toEqual([
      { library: join(folder, "libnvrtc.so.13"), builtins: [join(folder, "libnvrtc-builtins.so.13.0")] },
      { library: join(folder, "libnvrtc.so.12"), builtins: [join(folder, "libnvrtc-builtins.so.12.8")] },
    ]);
    expect(nvrtcCandidates({ VIRTUAL_ENV: "/nowhere", LD_LIBRARY_PATH: folder }).map((c) => c.library)).toContain(
      join(folder, "libnvrtc.so.13"),
    );
    expect(nvrtcCandidates({}).at(-1)).toEqual({ library: "libnvrtc.so.12", builtins: [] });
  });
});

describe("sources that are refused before a compiler sees them", () => {
  it("architectures, includes, NUL", async () => {
    await expect(compileSource(add, "compute_90")).rejects.toThrow(
      "P2108 the kernel plan is not sound: 'compute_90' is no architecture such as sm_80 or sm_90a. Compile the model again.",
    );
    await expect(compileSource(`#include "/etc/hostname"\n${add}`, "sm_80", { name: "stem" })).rejects.toThrow(
      "the source of 'stem' includes a file",
    );
    await expect(compileSource(`${add}\0`, "sm_80")).rejects.toThrow("has a NUL character");
  });
});

describe.skipIf(compilerMissing !== undefined)(needsCompiler("compiler"), () => {
  it("says what it is", async () => {
    const info = await compilerInfo();
    expect(info.version).toMatch(/^1\d\.\d+$/);
    expect(await nvrtcVersion()).toBe(info.version);
    if (info.kind === "nvrtc") expect(info.archs).toEqual(expect.arrayContaining([80, 90]));
  });
  it.each(["sm_80", "sm_90a"])("makes a cubin for %s with the kernel's parameters", async (arch) => {
    const { cubin, cached } = await compileSource(add, arch, { cache: false });
    expect(cached).toBe(false);
    const info = inspectCubin(cubin);
    expect(info.sm).toBe(Number(arch.slice(3, 5)));
    expect(info.kernels).toHaveLength(1);
    expect(info.kernels[0]).toMatchObject({
      name: "add",
      sharedBytes: 0,
      localBytes: 0,
      parameters: [
        [0, 8],
        [8, 8],
        [16, 8],
        [24, 4],
      ],
    });
    expect(info.kernels[0]?.registers).toBeGreaterThan(4);
  });
  it("counts static shared memory and spills", async () => {
    const source = `extern "C" __global__ void big(float* p, const int* at) {
      __shared__ float s[1000];
      float local[64];
      for (int i = 0; i < 64; i++) local[i] = p[i * 3];
      for (int i = 0; i < 99; i++) local[at[i] & 63] += local[at[i + 1] & 63];
      s[threadIdx.x] = local[at[5] & 63];
      __syncthreads();
      p[threadIdx.x] = s[999 - threadIdx.x];
    }`;
    const [kernel] = inspectCubin((await compileSource(source, "sm_80", { cache: false })).cubin).kernels;
    expect(kernel?.sharedBytes).toBe(4000);
    expect(kernel?.localBytes).toBeGreaterThanOrEqual(256);
  });
  it("keeps results on the disk, shares equal calls, and mends a damaged entry", async () => {
    const cache = new KernelCache(scratch());
    const [a, b] = await Promise.all([compileSource(add, "sm_80", { cache }), compileSource(add, "sm_80", { cache })]);
    expect(a.cubin).toBe(b.cubin);
    const again = await compileSource(add, "sm_80", { cache });
    expect(again.cached).toBe(true);
    expect(again.cubin).toEqual(a.cubin);
    const files = readdirSync(cache.folder, { recursive: true })
      .map((n) => join(cache.folder, String(n)))
      .filter((p) => statSync(p).isFile());
    expect(files).toHaveLength(1);
    truncateSync(files[0] ?? "", 100);
    const mended = await compileSource(add, "sm_80", { cache });
    expect(mended.cached).toBe(false);
    expect(mended.cubin).toEqual(a.cubin);
    expect((await compileSource(add, "sm_80", { cache })).cached).toBe(true);
    expect((await compileSource(add, "sm_90a", { cache })).cached).toBe(false);
  });
  it("tells what is wrong with a source, and the next one still compiles", async () => {
    const bad = `extern "C" __global__ void f(float* p) { p[0] = undeclared; }`;
    const failures = await Promise.allSettled([1, 2].map(() => compileSource(bad, "sm_80", { name: "stem", cache: false })));
    for (const f of failures) {
      expect(f.status).toBe("rejected");
      const message = f.status === "rejected" ? String(f.reason.message) : "";
      expect(message).toMatch(/^P2106 the source of 'stem' does not compile for sm_80: .*identifier "undeclared" is undefined/s);
      expect(message).toContain("stem.cu");
    }
    await compileSource(add, "sm_80", { cache: false });
  });
  it("names the architectures it knows", async () => {
    if ((await compilerInfo()).kind === "nvrtc")
      await expect(compileSource(add, "sm_20")).rejects.toThrow(/^P2113 NVRTC .* cannot compile for 'sm_20'. Use one of .*sm_90/);
  });
  it.each([
    ["fixed", "4"],
    ["open", "N"],
  ])("a model of %s dims is compiled for no architecture that it does not know", async (_, dim) => {
    const { kind, version, archs } = await compilerInfo();
    if (kind !== "nvrtc") return;
    const g = parse(`graph "g" opset {"": 18} (%x: float32[${dim}, 64]) -> (%y) { %e = Exp(%x) %y = Softmax(%e) }`);
    const built = compile(g, { target: "cuda", computeCapability: "3.5", tune: "none", minimumSegmentSize: 1 });
    await expect(built).rejects.toMatchObject({ code: "P2113", exit: 3 });
    const known = archs.map((a) => `sm_${a}`).join(", ");
    await expect(built).rejects.toThrow(`P2113 NVRTC ${version} cannot compile for 'sm_35'. Use one of ${known}, or install another`);
  });
  it("stops waiting when told to, also for what has not begun", async () => {
    const stop = new AbortController();
    const runs = Array.from({ length: 12 }, (_, i) => compileSource(`${add}// ${i}`, "sm_80", { cache: false, signal: stop.signal }));
    setTimeout(() => stop.abort(new Error("enough")), 5);
    const settled = await Promise.allSettled(runs);
    expect(settled.filter((s) => s.status === "rejected" && String(s.reason) === "Error: enough").length).toBeGreaterThan(0);
    await expect(compileSource(add, "sm_80", { signal: AbortSignal.abort(new Error("before")) })).rejects.toThrow("before");
    await compileSource(`${add}// 11`, "sm_80", { cache: false });
  });
  it("divides with correct rounding: the code is longer than that of the approximation", async () => {
    const kernel = (inverse: string): string => `extern "C" __global__ void f(float* p) { p[threadIdx.x] = ${inverse}; }`;
    const exact = await compileSource(kernel("1.0f / p[threadIdx.x]"), "sm_80", { cache: false });
    const fast = await compileSource(kernel("__fdividef(1.0f, p[threadIdx.x])"), "sm_80", { cache: false });
    expect(exact.cubin.byteLength).toBeGreaterThan(fast.cubin.byteLength);
  });
});
