/** TensorRT on a machine without a GPU: plans are not opened, TensorRT itself builds none, TensorRT-RTX does. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it, vi } from "vitest";
import { tensorrtEngine } from "../../../src/engines/tensorrt/index.js";
import { compile } from "../../../src/index.js";
import { parse } from "../../../src/ir/parse.js";
import { standInFolder } from "../../support/tensorrt-folder.js";

// Nothing has opened a driver in this process yet.
process.env["PARTITA_CUDA_DRIVER"] = "/nowhere/libcuda.so.1";
const net = () => parse(`graph "net" opset {"": 18} (%x: float32[4, 3]) -> (%y) { %a = Relu(%x)\n %b = Add(%a, %x)\n %y = Relu(%b) }`);
const options = { target: "tensorrt", strict: true, minimumSegmentSize: 1 } as const;

describe("without a GPU", () => {
  const cache = mkdtempSync(join(tmpdir(), "partita-no-gpu-"));
  vi.stubEnv("PARTITA_CACHE_DIR", cache);
  afterAll(() => rmSync(cache, { recursive: true, force: true }));

  it("a plan is not opened: P2206", async () => {
    const artifact = {
      engine: "tensorrt",
      key: "k",
      inputs: [],
      outputs: [],
      files: [{ name: "engine.plan", bytes: new Uint8Array(8) }],
      settings: { product: "TensorRT", version: "11.2.1", sm: "90" },
    } as const;
    await expect(tensorrtEngine.open(artifact, { streams: 1, threads: 1 })).rejects.toMatchObject({
      code: "P2206",
      exit: 3,
      message: expect.stringContaining("the plan is for compute capability 9.0, and there is no usable NVIDIA GPU"),
    });
  });

  const proper = standInFolder("11");
  it.skipIf(proper.missing !== undefined)("TensorRT itself builds nothing: P2232", async () => {
    vi.stubEnv("PARTITA_TENSORRT_DIR", proper.folder);
    expect((await tensorrtEngine.available()).ok).toBe(true);
    await expect(compile(net(), { ...options, computeCapability: "9.0" })).rejects.toMatchObject({
      code: "P2232",
      exit: 3,
      message: expect.stringContaining("9.0 was asked for, and there is no GPU here"),
    });
  });

  const rtx = standInFolder("rtx-1.5");
  it.skipIf(rtx.missing !== undefined)("TensorRT-RTX builds for GPUs that are named, and the bundle says for which", async () => {
    vi.stubEnv("PARTITA_TENSORRT_DIR", rtx.folder);
    for (const computeCapability of [8.9, 12]) {
      const program = await compile(net(), { ...options, computeCapability });
      expect(program.report.data.segments.map((s) => s.engine)).toEqual(["tensorrt"]);
      expect(program.report.data.segments[0]?.times).toBeUndefined();
      await expect(program.createSession()).rejects.toMatchObject({ code: "P2206" });
    }
    await expect(compile(net(), { ...options, computeCapability: 9 })).rejects.toMatchObject({ code: "P2214" });
    // Without an answer to what it runs on, nothing else is there to run it.
    vi.stubEnv("PARTITA_TENSORRT_DIR", cache);
    expect(await tensorrtEngine.available()).toMatchObject({ ok: false, why: expect.stringContaining("holds neither libnvinfer.so") });
  });
});
