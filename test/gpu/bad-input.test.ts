/** What goes wrong with a whole program on a real GPU: other architectures, damaged bundles, sources that do not compile, more memory than there is. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { cudaEngine } from "../../src/engines/cuda/index.js";
import type { Artifact } from "../../src/engines/engine.js";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { compile, load } from "../../src/index.js";
import { parse } from "../../src/ir/parse.js";
import { inferGraph } from "../../src/ops/infer.js";
import { Tensor } from "../../src/tensor.js";
import { gpuMissing, needsGpu } from "./gpu.js";

const graph = parse(`graph "g" opset {"": 20} (%x: float32[4, 64], %w: float32[64, 32]) -> (%y) {
  %p: float32[4, 32] = MatMul(%x, %w) @"product"
  %r: float32[4, 32] = Relu(%p) @"relu"
  %y: float32[4, 32] = Softmax(%r) @"softmax"
}`);
const feeds = {
  x: new Tensor(
    "float32",
    Float32Array.from({ length: 256 }, (_, i) => Math.sin(i)),
    [4, 64],
  ),
  w: new Tensor(
    "float32",
    Float32Array.from({ length: 2048 }, (_, i) => Math.cos(3 * i)),
    [64, 32],
  ),
};
const context = { streams: 1, threads: 1 };
const folder = mkdtempSync(join(tmpdir(), "partita-bad-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const built = (sm: number): Promise<Artifact> =>
  cudaEngine.build(inferGraph(graph).graph, { target: { sm, tensorrt: 0, precision: "fp32" } });
const changed = (a: Artifact, name: RegExp, change: (bytes: Uint8Array) => Uint8Array): Artifact => ({
  ...a,
  files: a.files.map((f) => (name.test(f.name) && "bytes" in f ? { ...f, bytes: change(f.bytes) } : f)),
});

describe.skipIf(gpuMissing !== undefined)(needsGpu("bad input"), () => {
  it.each([8.0, 8.9, 12.0])(
    "a bundle for compute capability %f: compiled again from its sources, said so, and right",
    async (capability) => {
      const options = { target: "cuda", computeCapability: capability, minimumSegmentSize: 1 } as const;
      const program = await compile(encodeOnnx(graph), options);
      expect(program.report.data.segments.map((s) => s.engine)).toEqual(["cuda"]);
      const path = join(folder, `for-${capability}.partita`);
      await program.save(path);
      const remarks: string[] = [];
      await using session = await (await load(path)).createSession({ onRemark: (r) => remarks.push(r.text) });
      const { y } = await session.run(feeds);
      expect(remarks).toHaveLength(1);
      expect(remarks[0]).toMatch(/were compiled for sm_\d+; this GPU is sm_90a, for which they were compiled again/);
      await using host = await (await compile(encodeOnnx(graph), { target: "host" })).createSession();
      const expected = (await host.run(feeds))["y"] as Tensor;
      (y as Tensor).data.forEach((v, i) => expect(Math.abs(Number(v) - Number(expected.data[i]))).toBeLessThan(1e-5));
    },
  );

  it("a damaged cubin: P2109, whatever part of it is damaged", async () => {
    const a = await built(90);
    for (const damage of [
      (b: Uint8Array) => b.subarray(0, b.length >> 1),
      (b: Uint8Array) => b.map((x, i) => (i < 64 ? x ^ 0xff : x)),
      () => new Uint8Array(0),
    ])
      await expect(cudaEngine.open(changed(a, /\.cubin$/, damage), context)).rejects.toMatchObject({ code: "P2109" });
    const good = await cudaEngine.open(a, context);
    expect(await good.run([feeds.x, feeds.w])).toHaveLength(1);
    await good.dispose();
  });

  it("a bundle with a file that was changed is not opened", async () => {
    const path = join(folder, "changed.partita");
    await (await compile(encodeOnnx(graph), { target: "cuda", minimumSegmentSize: 1 })).save(path);
    const cubin = readdirSync(path, { recursive: true, encoding: "utf8" }).find((f) => f.endsWith(".cubin"));
    if (cubin === undefined) throw new Error("the bundle has no cubin");
    const bytes = readFileSync(join(path, cubin));
    bytes.writeUInt8(bytes.readUInt8(200) ^ 1, 200);
    writeFileSync(join(path, cubin), bytes);
    await expect(load(path).then((p) => p.createSession())).rejects.toThrow(/^P3002 .* does not have the content the manifest says/);
  });

  it("P2106 for a source that does not compile, with what the compiler says", async () => {
    const broken = changed(await built(80), /\.cu$/, (b) => Buffer.concat([b, Buffer.from("\nint main() { return undeclared; }\n")]));
    await expect(cudaEngine.open(broken, context)).rejects.toMatchObject({
      code: "P2106",
      message: expect.stringContaining('identifier "undeclared" is undefined'),
    });
  });

  it("P2104 for a model larger than the GPU, and what is smaller still runs", async () => {
    const huge = parse(`graph "g" opset {"": 20} (%a: float32[300000, 1], %b: float32[1, 300000]) -> (%y) {
      %s: float32[300000, 300000] = Add(%a, %b) @"add"
      %e: float32[300000, 300000] = Exp(%s) @"exp"
      %y: float32[300000, 300000] = Softmax(%e) @"softmax"
    }`);
    const program = await compile(encodeOnnx(huge), { target: "cuda", minimumSegmentSize: 1, tune: "none" });
    await expect(program.createSession()).rejects.toThrow(
      /^P2104 memory for an? \w+ needs 343322\.\d MiB, the GPU has \d+\.\d MiB free\. Free memory on the GPU, use a smaller batch, or open fewer streams\./,
    );
    const e = await cudaEngine.open(await built(90), context);
    expect(await e.run([feeds.x, feeds.w])).toHaveLength(1);
    await e.dispose();
  });
});
