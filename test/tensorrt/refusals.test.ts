/**
 * Real libraries beside a GPU that they do not serve: both are found and told apart, each is opened in this process, says in its own words what it
 * cannot do, and the segment goes elsewhere. Runs where a TensorRT and a TensorRT-RTX are found and the GPU is of compute capability 9.0, with
 * PARTITA_TENSORRT_REFUSALS naming the file for what was found (JSON). What a registry offers (the Maven redistributable of TensorRT 11.2 and the wheel
 * of TensorRT-RTX) lacks kernels for that GPU, or refuses it.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { PartitaError } from "../../src/diagnostics.js";
import { tensorRtFacts } from "../../src/engines/tensorrt/doctor.js";
import { tensorrtEngine } from "../../src/engines/tensorrt/index.js";
import { type Flavor, findLibraries } from "../../src/engines/tensorrt/library.js";
import { presentGpu } from "../../src/engines/tensorrt/load.js";
import type { TensorRt } from "../../src/engines/tensorrt/native.js";
import { openTensorRt } from "../../src/engines/tensorrt/open.js";
import { probeTensorRt } from "../../src/engines/tensorrt/probe.js";
import { type CompileOptions, compile } from "../../src/index.js";
import { parse } from "../../src/ir/parse.js";
import { doctor } from "../../src/runtime/doctor.js";
import { Tensor } from "../../src/tensor.js";
import { dataDir } from "../support/data.js";
import { onnxRuntime } from "../support/tensorrt-full.js";
import { batch, layer } from "../support/tensorrt-models.js";

const found = findLibraries();
const pick = (flavor: Flavor) => found.find((f) => f.flavor === flavor && f.parser !== undefined);
const [proper, rtx] = [pick("tensorrt"), pick("rtx")];
const file = process.env["PARTITA_TENSORRT_REFUSALS"] ?? "";
const device = file === "" ? undefined : presentGpu();
const why =
  file === ""
    ? "PARTITA_TENSORRT_REFUSALS is not set"
    : device?.properties.sm !== 90
      ? "there is no GPU of compute capability 9.0"
      : proper === undefined || rtx === undefined
        ? "TensorRT and TensorRT-RTX are not both there"
        : undefined;

describe.skipIf(why !== undefined)(`what libraries refuse${why === undefined ? "" : ` (skipped: ${why})`}`, () => {
  const facts: Record<string, unknown> = { date: new Date().toISOString(), gpu: device?.properties, driver: device?.driver };
  afterAll(() => writeFileSync(file, `${JSON.stringify(facts, undefined, 1)}\n`));
  const open = (flavor: Flavor): TensorRt => {
    const files = flavor === "rtx" ? rtx : proper;
    if (files === undefined) throw new Error("not there");
    return openTensorRt({ library: files.library, parser: files.parser });
  };
  const refused = async (name: string, work: () => Promise<unknown>): Promise<PartitaError> => {
    const error = await work().then(
      () => new Error(`${name}: nothing failed`),
      (e: unknown) => e as Error,
    );
    facts[name] = error instanceof PartitaError ? { code: error.code, what: error.what, why: error.why, fix: error.fix } : error.message;
    if (!(error instanceof PartitaError)) throw error;
    return error;
  };

  it("doctor finds both and names them; a first use in a child process tells what each can do", async () => {
    facts["found"] = found.map(({ flavor, named, library, source }) => ({ flavor, named, library, source }));
    const told = await tensorRtFacts(device?.properties.sm, process.env, (f) =>
      probeTensorRt({ library: f.library, parser: f.parser, fresh: true }),
    );
    facts["facts"] = told;
    facts["doctor"] = (await doctor()).filter((c) => /TensorRT/.test(c.name));
    expect(told.map((t) => t.name)).toEqual(["TensorRT", "TensorRT-RTX"]);
    expect(told[0]?.detail).toContain("libnvinfer_builder_resource_sm90");
    expect(told[1]?.detail).toContain("runs none on this GPU (compute capability 9.0)");
  });
  it("both in one process: versions and families", () => {
    facts["versions"] = (["tensorrt", "rtx"] as const)
      .map(open)
      .map((t) => ({ product: t.version.product, version: t.version.text, family: t.family }));
    expect(facts["versions"]).toMatchObject([
      { product: "TensorRT", family: "11" },
      { product: "TensorRT-RTX", family: "rtx-1.5" },
    ]);
  });
  it("a runtime is made, and plans of others, damaged ones and none are refused", async () => {
    const foreign = (await open("rtx").build(layer(), { computeCapabilities: [89], profiles: [[batch(1, 4, 8)]] })).plan;
    facts["foreign plan"] = `${foreign.length} bytes, of TensorRT-RTX for 8.9`;
    for (const flavor of ["tensorrt", "rtx"] as const) {
      const load = (plan: Uint8Array) => open(flavor).deserialize(plan, { context: device?.context });
      const turned = Uint8Array.from(foreign, (b, i) => (i === foreign.length >> 1 ? b ^ 255 : b));
      // P2224 would be a runtime that was not made.
      for (const [name, plan] of [
        ["a plan for 8.9 of TensorRT-RTX", foreign],
        ["that plan, cut short", foreign.subarray(0, foreign.length >> 1)],
        ["that plan with a byte turned", turned],
        ["4,096 zeros", new Uint8Array(4096)],
      ] as const)
        expect((await refused(`${flavor}: ${name}`, () => load(plan))).code, `${flavor}: ${name}`).toBe("P2216");
    }
  });
  it("TensorRT makes no builder without its kernels for this GPU; TensorRT-RTX builds none for 9.0", async () => {
    const builder = await refused("tensorrt: a build", () =>
      open("tensorrt").build(layer(), { profiles: [[batch(1, 4, 8)]], context: device?.context }),
    );
    expect(builder).toMatchObject({ code: "P2224", message: expect.stringContaining("libnvinfer_builder_resource_sm90") });
    const here = await refused("rtx: a build for 9.0", () =>
      open("rtx").build(layer(), { computeCapabilities: [90], profiles: [[batch(1, 4, 8)]] }),
    );
    expect(here).toMatchObject({ code: "P2214", message: expect.stringContaining("Compute capability is invalid or not supported") });
    // Built for the GPU that is there, none named: that it takes, and refuses the plan.
    const made = await open("rtx")
      .build(layer(), { profiles: [[batch(1, 4, 8)]], context: device?.context })
      .catch((e: Error) => e);
    if (made instanceof Error) facts["rtx: a build for the GPU that is here"] = made.message;
    else {
      const loaded = await refused("rtx: a plan for the GPU that is here", () =>
        open("rtx").deserialize(made.plan, { context: device?.context }),
      );
      expect(loaded.code).toBe("P2216");
    }
  });

  const digits = dataDir("digits");
  const small = parse(
    `graph "net" opset {"": 18} (%x: float32[4, 8]) -> (%y) { %a = Relu(%x)\n %b = Add(%a, %x)\n %c = Tanh(%b)\n %y = Mul(%c, %a) }`,
  );
  for (const library of ["tensorrt", "rtx"] as const)
    it(`${library}: the segment goes to cuda, or to the host, with the reason; strictly it is an error`, async () => {
      const options: CompileOptions = { minimumSegmentSize: 1, tensorrt: { library } };
      const strict = await refused(`${library}: strictly`, () => compile(small, { ...options, target: "tensorrt", strict: true }));
      expect(strict.code).toBe(library === "rtx" ? "P2214" : "P2224");
      for (const target of [["tensorrt", "cuda"], ["tensorrt"]] as const) {
        const program = await compile(small, { ...options, target });
        const { segments, nodes, reasons } = program.report.data;
        const session = await program.createSession();
        const x = new Tensor(
          "float32",
          Float32Array.from({ length: 32 }, (_, i) => Math.sin(i)),
          [4, 8],
        );
        const { y } = await session.run({ x });
        await session.dispose();
        const a = (v: number): number => Math.tanh(Math.max(v, 0) + v) * Math.max(v, 0);
        const worst = Math.max(...Array.from(x.data as Float32Array, (v, i) => Math.abs((y?.data[i] as number) - a(v))));
        // What is on cuda has the reason at its nodes; what is on the host has it also in the list of reasons.
        const why = nodes[0]?.notOn.find((n) => n.engine === "tensorrt")?.why;
        facts[`${library}: --target ${target.join()}`] = { segments: segments.map((s) => s.engine), why, listed: reasons.length, worst };
        expect(segments.map((s) => s.engine)).toEqual([target.length === 2 ? "cuda" : "host"]);
        expect(why).toContain(library === "rtx" ? "not supported" : "libnvinfer_builder_resource_sm90");
        expect(worst).toBeLessThan(1e-5);
      }
    });
  it.skipIf(digits === undefined)("a network of the digits set goes to cuda as a whole, and is right", async () => {
    const path = join(digits ?? "", "resnet.onnx");
    const program = await compile(path, { target: ["tensorrt", "cuda"], shapes: { x: [8, 1, 16, 16] } });
    const { segments, reasons } = program.report.data;
    const x = new Tensor(
      "float32",
      Float32Array.from({ length: 2048 }, (_, i) => Math.abs(Math.sin(0.1 * i))),
      [8, 1, 16, 16],
    );
    const session = await program.createSession();
    const found = Object.values(await session.run({ x }))[0];
    await session.dispose();
    const expected = Object.values(await onnxRuntime(path, { x }))[0];
    const worst = Math.max(...Array.from(expected?.data as Float32Array, (v, i) => Math.abs(v - (found?.data[i] as number))));
    facts["digits resnet: --target tensorrt,cuda"] = { segments: segments.map((s) => s.engine), reasons: reasons.map((r) => r.why), worst };
    expect(segments.every((s) => s.engine === "cuda")).toBe(true);
    expect(worst).toBeLessThan(1e-3);
  });
  it("auto does not ask TensorRT where it cannot build", async () => {
    const verdict = await tensorrtEngine.available();
    facts["available"] = verdict;
    const program = await compile(small, { target: "auto", minimumSegmentSize: 1 });
    facts["auto"] = program.report.data.segments.map((s) => s.engine);
    expect(facts["auto"]).not.toContain("tensorrt");
  });
});
