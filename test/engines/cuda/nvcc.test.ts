/** Where there is no NVRTC: nvcc, or the coded error. Its own file, since a process keeps the compiler it found. */
import { chmodSync, existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { compilerInfo, compileSource } from "../../../src/engines/cuda/compiler.js";
import { doctor } from "../../../src/runtime/doctor.js";
import { craftCubin } from "../../support/fake-cuda.js";

const folder = mkdtempSync(join(tmpdir(), "partita-nvcc-test-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
for (const name of ["CUDA_HOME", "CUDA_PATH"]) delete process.env[name];
process.env["PARTITA_NVRTC_DIR"] = folder;
const path = process.env["PATH"];

describe.skipIf(process.platform === "win32")("nvcc in place of NVRTC", () => {
  it.skipIf(existsSync("/usr/local/cuda/bin/nvcc"))("P2107 when there is neither", async () => {
    process.env["PATH"] = folder;
    await expect(compilerInfo()).rejects.toThrow(
      `P2107 neither NVRTC nor nvcc was found: NVRTC: ${folder} holds no libnvrtc.so.12 or later; nvcc is not on the PATH. ` +
        "Pip install nvidia-cuda-nvrtc, install the CUDA toolkit, or set PARTITA_NVRTC_DIR to the folder of libnvrtc.",
    );
    await expect(compileSource("", "sm_80")).rejects.toThrow("P2107");
    expect((await doctor()).find((f) => f.name === "CUDA compiler")).toMatchObject({
      ok: false,
      detail: expect.stringContaining("nvcc is not on the PATH"),
    });
  });
  it("compiles in a folder of its own, and tells what it said", async () => {
    const cubin = join(folder, "made.cubin");
    writeFileSync(cubin, craftCubin());
    writeFileSync(
      join(folder, "nvcc"),
      `#!/bin/sh
if [ "$1" = --version ]; then echo "Cuda compilation tools, release 13.0, V13.0.88"; exit 0; fi
for last; do :; done
if grep -q broken "$last"; then echo "$last(1): error: broken" >&2; exit 2; fi
echo "$last(1): warning: $*" >&2
while [ "$1" != -o ]; do shift; done
cp ${cubin} "$2"
`,
    );
    chmodSync(join(folder, "nvcc"), 0o755);
    process.env["PATH"] = `${folder}:${path}`;
    expect(await compilerInfo()).toEqual({ kind: "nvcc", version: "13.0", path: join(folder, "nvcc"), archs: [] });
    const made = await compileSource("extern int x;", "sm_90a", { cache: false, name: "stem" });
    expect(made.cubin).toEqual(craftCubin());
    expect(made.log).toMatch(/^stem\.cu\(1\): warning: -cubin --gpu-architecture=sm_90a --std=c\+\+17 -o \S+ stem\.cu$/m);
    await expect(compileSource("broken", "sm_90a", { cache: false })).rejects.toThrow(
      "P2106 the source of 'kernels' does not compile for sm_90a:",
    );
    expect((await doctor()).find((f) => f.name === "CUDA compiler")?.detail).toBe(`nvcc 13.0, ${join(folder, "nvcc")}`);
  });
});
