/** Whole models with `--target cuda`: their recorded inputs give their recorded outputs, in single and in half precision. */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { compile, readNpz, report } from "../../src/index.js";
import type { TensorLike } from "../../src/tensor.js";
import { compareTensors } from "../support/compare.js";
import { dataDir } from "../support/data.js";
import { figure, gpuMissing, median, needsGpu, rounded } from "./gpu.js";

/** Folders with a model and `io.npz`. */
const models = ["models", "torch", "real"].flatMap((set) => {
  const root = dataDir(set);
  return root === undefined
    ? []
    : readdirSync(root).flatMap((name) => {
        const folder = join(root, name);
        const file = existsSync(join(folder, "io.npz")) ? readdirSync(folder).find((f) => f.endsWith(".onnx")) : undefined;
        return file === undefined ? [] : [{ name, file: join(folder, file), io: join(folder, "io.npz") }];
      });
});
const limit = { fp32: 1e-3, fp16: 2e-2 } as const;
const reason = gpuMissing ?? (models.length === 0 ? "PARTITA_TEST_DATA names no models" : undefined);

describe.skipIf(reason !== undefined)(reason === undefined ? "models on the GPU" : needsGpu(`models on the GPU: ${reason}`), () => {
  describe.each(Object.keys(limit) as (keyof typeof limit)[])("%s", (precision) => {
    it.each(models)("$name", async ({ name, file, io }) => {
      const recorded = readNpz(io);
      const of = (side: "in" | "out", i: number, port: string): TensorLike | undefined =>
        recorded.get(`${side}_${i}`) ?? recorded.get(`${side}|${port}`);
      const { inputs } = (await report(file, { target: "cuda" })).data.model;
      const feeds = Object.fromEntries(inputs.map((p, i) => [p.name, of("in", i, p.name) as TensorLike]));
      const started = performance.now();
      const program = await compile(file, {
        target: "cuda",
        precision,
        tune: "none",
        shapes: Object.fromEntries(Object.entries(feeds).map(([port, t]) => [port, t.dims])),
      });
      const compileMs = performance.now() - started;
      const session = await program.createSession();
      try {
        const found = await session.run(feeds);
        let relative = 0;
        for (const [i, port] of program.outputs.entries()) {
          const want = of("out", i, port.name);
          if (want === undefined) continue;
          const got = found[port.name] as TensorLike;
          const result = compareTensors(got, want, { rtolOfMax: limit[precision] });
          expect(result.ok, `${port.name}: ${result.message}`).toBe(true);
          relative = Math.max(relative, result.relative);
        }
        const times: number[] = [];
        for (let k = 0; k < 15; k++) {
          const before = performance.now();
          await session.run(feeds);
          times.push(performance.now() - before);
        }
        const segments = program.report.data.segments.map((s) => s.name).join(" ");
        figure(`model ${name}, ${precision}`, { relative, segments, compileMs: Math.round(compileMs), runMs: rounded(median(times), 3) });
      } finally {
        await session.dispose();
      }
    });
  });
});
