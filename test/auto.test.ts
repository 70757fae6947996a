import { expect, it } from "vitest";
import { machineTargets } from "../src/auto.js";
import { no, type Remark, yes } from "../src/diagnostics.js";
import { gpuVerdict } from "../src/engines/cuda/device.js";
import { report } from "../src/index.js";
import { parse } from "../src/ir/parse.js";

it("takes the CUDA engine where it is available, and says nothing", async () => {
  const remarks: Remark[] = [];
  const cuda = async () => yes;
  const tensorrt = async () => no("it builds no plan here");
  expect(await machineTargets((r) => remarks.push(r), true, { cuda, tensorrt })).toEqual(["cuda", "host"]);
  expect(remarks).toEqual([]);
});

it("takes TensorRT beside it where that serves this GPU and segments are timed", async () => {
  const both = { cuda: async () => yes, tensorrt: async () => yes };
  expect(await machineTargets(() => {}, true, both)).toEqual(["cuda", "tensorrt", "host"]);
  expect(await machineTargets(() => {}, false, both)).toEqual(["cuda", "host"]);
});

it("takes the host where it is not, and says why", async () => {
  const remarks: Remark[] = [];
  expect(await machineTargets((r) => remarks.push(r), true, { cuda: async () => no("the driver shows no device") })).toEqual(["host"]);
  expect(remarks).toEqual([
    {
      severity: "note",
      text: "target auto is the host on this machine: the driver shows no device",
      fix: "see `partita doctor`; compile with target cuda to build for a GPU elsewhere",
    },
  ]);
});

it.skipIf(gpuVerdict().ok)("the report of a machine without a GPU has the reason", async () => {
  const graph = parse(`graph "g" opset {"": 18} (%x: float32[4]) -> (%y) { %y: float32[4] = Exp(%x) }`);
  const { data } = await report(graph);
  expect(data.segments.map((s) => s.engine)).toEqual(["host"]);
  expect((data.remarks ?? []).map((r) => r.text).join()).toMatch(/^target auto is the host on this machine: ./);
});
