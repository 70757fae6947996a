/** What is seen of programs on a GPU: bisection to a wrong kernel, layers and their sum, traces with transfers, energy. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { compile } from "../../src/compile.js";
import { cudaEngine } from "../../src/engines/cuda/index.js";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { parse } from "../../src/ir/parse.js";
import { benchmark } from "../../src/runtime/bench.js";
import { Tensor } from "../../src/tensor.js";
import { sabotaged, swapped, verifiedOn } from "../support/sabotage.js";
import { gpuMissing, needsGpu } from "./gpu.js";

const folder = mkdtempSync(join(tmpdir(), "partita-observe-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const model = join(folder, "net.onnx");
const numbers = (n: number, by: number): string =>
  Array.from({ length: n }, (_, i) => (((i * 37) % 101) / by - 50 / by).toFixed(4)).join(", ");
const NET = `graph "net" opset {"": 18} (%x: float32[8, 64]) -> (%y) {
  const %w = float32[64, 64] [${numbers(4096, 400)}]
  %a = MatMul(%x, %w) @"first"
  %b = Tanh(%a) @"gate"
  %c = MatMul(%b, %w) @"second"
  %d = Softsign(%c) @"bend"
  %e = Softmax(%d) @"shares"
  %y = MatMul(%e, %w) @"third"
}`;
beforeAll(() => writeFileSync(model, encodeOnnx(parse(NET))));

describe.skipIf(gpuMissing !== undefined)(needsGpu("programs on the GPU, seen"), () => {
  it("verifies, and names the kernel that computes something else", async () => {
    expect(await verifiedOn(model, cudaEngine)).toMatchObject({ ok: true });
    const wrong = await verifiedOn(
      model,
      sabotaged(
        swapped((n) => n.op === "Tanh", "Sigmoid"),
        cudaEngine,
      ),
    );
    expect(wrong.fault).toMatchObject({ engine: "cuda", cause: "engine", node: { name: "gate", op: "Tanh" } });
  });
  it("profiles layers whose sum is the segment's, and traces transfers around them", async () => {
    const session = await (await compile(model, { target: "cuda", minimumSegmentSize: 1, tune: "none" })).createSession();
    try {
      const p = await session.profile({ detail: "nodes", runs: 10 });
      const [s] = p.segments;
      expect(s?.engine).toBe("cuda");
      expect(new Set(s?.layers.flatMap((l) => l.origin))).toEqual(new Set(["first", "gate", "second", "bend", "shares", "third"]));
      expect((s?.layers.reduce((n, l) => n + (l.us ?? 0), 0) ?? 0) + (s?.betweenUs ?? 0)).toBeCloseTo(s?.computeUs ?? 0, 3);
      expect(s?.computeUs).toBeGreaterThan(0);
      const feeds = { x: new Tensor("float32", new Float32Array(512).fill(0.5), [8, 64]) };
      const plain = await session.run(feeds);
      const recording = session.trace();
      const traced = await session.run(feeds);
      const { traceEvents } = recording.stop();
      expect(traced["y"]?.data).toEqual(plain["y"]?.data);
      const names = traceEvents.filter((e) => e.cat?.startsWith("cuda_0")).map((e) => e.name);
      expect(names).toEqual(expect.arrayContaining(["copy in", "compute", "copy out"]));
      const copies = traceEvents.filter((e) => e.name === "copy in" || e.name === "copy out");
      expect(copies.every((e) => (e.dur ?? 0) > 0)).toBe(true);
    } finally {
      await session.dispose();
    }
  });
  it("tells joules an item and device memory, or why it cannot", async () => {
    const program = await compile(model, { target: "cuda", minimumSegmentSize: 1, tune: "none" });
    const r = await benchmark(program, { name: "net", batches: [8], seconds: 1, load: { kind: "closed", concurrency: 1 } });
    const [row] = r.rows;
    console.log(
      JSON.stringify({
        energy: r.method.energy,
        joulesPerItem: row?.joulesPerItem,
        deviceBytes: row?.deviceBytes,
        latencyUs: row?.latencyUs,
      }),
    );
    if (typeof row?.joulesPerItem === "number") expect(row.joulesPerItem).toBeGreaterThan(0);
    else expect(row?.joulesPerItem.missing).toMatch(/NVML/);
    expect(row?.deviceBytes).toBeGreaterThan(0);
  });
});
