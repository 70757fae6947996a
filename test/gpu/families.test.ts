/** Networks of families that no model of the data sets stands for, whole, against ONNX Runtime. */
import { describe, expect, it } from "vitest";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { compile } from "../../src/index.js";
import { valueAt } from "../../src/ir/graph.js";
import type { Tensor } from "../../src/tensor.js";
import { compareTensors } from "../support/compare.js";
import { reference } from "../support/emitted.js";
import { families } from "../support/families.js";
import { figure, gpuMissing, needsGpu } from "./gpu.js";

const limit = { fp32: 1e-3, fp16: 2e-2 } as const;

describe.skipIf(gpuMissing !== undefined)(needsGpu("families of networks"), () => {
  describe.each(families())("$title", (c) => {
    it.each(Object.keys(limit) as (keyof typeof limit)[])("%s", async (precision) => {
      const expected = await reference(c);
      if (expected === undefined) throw new Error("ONNX Runtime does not take it");
      const program = await compile(encodeOnnx(c.graph), { target: "cuda", precision, tune: "none" });
      await using session = await program.createSession();
      const feeds = Object.fromEntries(c.graph.inputs.map((v, i) => [valueAt(c.graph, v).name, c.inputs[i] as Tensor]));
      const found = await session.run(feeds);
      let relative = 0;
      for (const [i, v] of c.graph.outputs.entries()) {
        const { name } = valueAt(c.graph, v);
        const result = compareTensors(found[name] as Tensor, expected[i] as Tensor, { rtolOfMax: limit[precision] });
        expect(result.ok, `${name}: ${result.message}`).toBe(true);
        relative = Math.max(relative, result.relative);
      }
      const { quality, segments } = program.report.data;
      expect(quality.flopsCovered).toBe(1);
      figure(`family ${c.title}, ${precision}`, { relative, share: quality.flopsCovered, segments: segments.length });
    });
  });
});
