/** Several TensorRTs on one machine: which is taken, which makes room for the next, two in one process; and outputs whose dims the data decides. */
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeEach, describe, expect, it } from "vitest";
import { buildFailed, planRefused } from "../../../src/engines/tensorrt/failures.js";
import { loadLibrary, presentGpu, servesThisGpu } from "../../../src/engines/tensorrt/load.js";
import { openTensorRt } from "../../../src/engines/tensorrt/open.js";
import { compile, Tensor } from "../../../src/index.js";
import { parse } from "../../../src/ir/parse.js";
import { useFakeDriver } from "../../support/fake-cuda.js";
import { compileStandIn } from "../../support/fake-tensorrt.js";
import { batch, layer } from "../../support/tensorrt-models.js";

const noDriver = useFakeDriver();
const [ten, eleven, twelve] = [compileStandIn("10"), compileStandIn("11"), compileStandIn("11", { version: 120000 })];
const missing = noDriver ?? [ten, eleven, twelve].find((s): s is string => typeof s === "string");

it("a GPU that TensorRT-RTX does not serve has a remedy of its own; other refusals keep theirs", () => {
  const served = /^compile the segment with --target cuda or host, or with TensorRT itself/;
  const words = "the engine cannot run on this GPU: TensorRT-RTX does not support this compute capability";
  expect(planRefused({ why: words }).fix).toMatch(served);
  expect(buildFailed({ why: "Compute capability is invalid or not supported" }).fix).toMatch(served);
  expect(planRefused({ why: "checksum failed" }).fix).toMatch(/^compile again on the machine that runs it/);
  expect(buildFailed({ why: "no tactic" }).fix).toMatch(/^give a profile for every open dim/);
});

describe.skipIf(missing !== undefined)(`several versions${missing === undefined ? "" : ` (skipped: ${missing})`}`, () => {
  const top = mkdtempSync(join(tmpdir(), "partita-versions-"));
  const before = { ...process.env };
  beforeEach(() => {
    process.env["PARTITA_CACHE_DIR"] = join(top, "cache");
  });
  afterAll(() => {
    process.env = before;
    rmSync(top, { recursive: true, force: true });
  });
  /** A folder with these majors; "broken" is a file that is no library. */
  function installed(name: string, majors: Readonly<Record<number, typeof ten | "broken">>): NodeJS.ProcessEnv {
    const folder = join(top, name);
    mkdirSync(folder);
    for (const [major, made] of Object.entries(majors))
      for (const stem of ["nvinfer", "nvonnxparser"]) {
        const file = join(folder, `lib${stem}.so.${major}`);
        if (typeof made === "string") writeFileSync(file, "no library");
        else symlinkSync(made.library, file);
      }
    return { ...process.env, PARTITA_TENSORRT_DIR: folder };
  }

  it("the newest is taken", async () => {
    const { rt, why } = await loadLibrary({ sm: 90 }, installed("both", { 10: ten, 11: eleven }));
    expect([rt.version.text, why]).toEqual(["11.2.1", "it is the newest that has its ONNX parser"]);
  });
  it("one of an unknown version makes room for the next, and is named", async () => {
    const { rt, why } = await loadLibrary({ sm: 90 }, installed("unknown", { 10: ten, 12: twelve }));
    expect(rt.version.text).toBe("10.13.2");
    expect(why).toMatch(/libnvinfer\.so\.12' does not serve: .*is TensorRT 12\.0\.0, whose binary interface is not known$/);
  });
  it("so does one that does not load; alone it is the error: P2210", async () => {
    const { why } = await loadLibrary({ sm: 90 }, installed("broken", { 10: ten, 11: "broken" }));
    expect(why).toMatch(/libnvinfer\.so\.11' does not serve: .*cannot be loaded as TensorRT$/);
    await expect(loadLibrary({ sm: 90 }, installed("alone", { 11: "broken" }))).rejects.toMatchObject({ code: "P2210" });
  });
  it("two work side by side in one process", async () => {
    const plans = await Promise.all(
      [ten, eleven].map(async (s) => {
        if (typeof s === "string") throw new Error(s);
        const { plan } = await openTensorRt(s).build(layer(), { profiles: [[batch(1, 4, 8)]] });
        return new DataView(plan.buffer, plan.byteOffset).getInt32(16, true);
      }),
    );
    expect(plans).toEqual([101302, 110201]);
  });
  it("auto asks whether it builds here", async () => {
    const env = installed("auto", { 11: eleven });
    process.env["FAKE_TENSORRT_FAIL"] = "createInferBuilder";
    try {
      expect(await servesThisGpu(env)).toMatchObject({ ok: false, why: expect.stringContaining("libfake_builder_resource") });
    } finally {
      delete process.env["FAKE_TENSORRT_FAIL"];
    }
    process.env["PARTITA_CACHE_DIR"] = join(top, "other");
    expect(await servesThisGpu(env)).toEqual({ ok: true });
    expect(await servesThisGpu({ PARTITA_TENSORRT_DIR: top })).toMatchObject({ ok: false, why: "there is no TensorRT" });
    expect(await servesThisGpu(installed("later", { 12: twelve }))).toMatchObject({ ok: false, why: expect.stringContaining("12.0.0") });
  });

  it("outputs whose dims the data decides come as long as they are, run after run", async () => {
    process.env["PARTITA_TENSORRT_DIR"] = installed("decided", { 11: eleven })["PARTITA_TENSORRT_DIR"];
    const g = parse(`graph "rows" opset {"": 18} (%x: float32[N, 2]) -> (%y) {
      const %b = float32[2] [0.0, 1.0]
      %s = Add(%x, %b) @"fake:data-dims"
      %y = Relu(%s)
    }`);
    const shapes = { x: { min: [1, 2], opt: [4, 2], max: [8, 2] } };
    const program = await compile(g, { target: "tensorrt", minimumSegmentSize: 1, tune: "none", shapes });
    expect(program.report.data.segments.map((s) => s.engine)).toEqual(["tensorrt"]);
    const session = await program.createSession();
    const live = presentGpu()?.addon.live();
    for (const rows of [[1, 0, 2, 0], [3], [0, 0], [1, 2, 3, 4, 5, 6, 7, 8], [1, 0, 2, 0], [1, 0, 2, 0]]) {
      const x = new Tensor(
        "float32",
        rows.flatMap((v) => [v, 9]),
        [rows.length, 2],
      );
      const { y } = await session.run({ x });
      const kept = rows.filter((v) => v !== 0);
      expect([y?.dims, Array.from(y?.data as Float32Array)]).toEqual([[kept.length, 2], kept.flatMap((v) => [v, 10])]);
    }
    // No graph was captured of them.
    expect(presentGpu()?.addon.live()["graph"]).toBe(live?.["graph"]);
    await session.dispose();
  });
});
