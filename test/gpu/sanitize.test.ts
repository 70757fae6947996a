/** What compute-sanitizer watches (scripts/gpu-sanitize.sh): a sample of every operator, every template, integers, three models. Few runs of small shapes. */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { compile, readNpz, report } from "../../src/index.js";
import type { TensorLike } from "../../src/tensor.js";
import { attentions, cachedAttentions, convolutions, matrices, recurrences } from "../support/cuda-cases.js";
import { dataDir } from "../support/data.js";
import { emittedSamples, reference } from "../support/emitted.js";
import { integerCases } from "../support/integer-cases.js";
import { figure, gpuMissing, needsGpu } from "./gpu.js";
import { device, onGpu, pooled, ways } from "./run.js";

const tool = process.env["PARTITA_SANITIZER"];
const WIDTH = 8;
/**
 * initcheck does not see what tensor maps copy: it takes memory that they have written for uninitialised, and their tiles' rows beyond a tensor's end for
 * reads. Under it the kernels that use them stay out; the three other tools watch them.
 */
const unmapped = tool === "initcheck";
const MODELS = ["mnist_cntk", "hf_gpt2_kv", "squeezenet"];

describe.skipIf(gpuMissing !== undefined || tool === undefined)(needsGpu(`under ${tool ?? "no sanitizer"}`), () => {
  it("a sample of every operator", async () => {
    const first = new Map(emittedSamples().map((s) => [s.title.split(":", 1)[0], s] as const));
    const wrong: string[] = [];
    await pooled([...first.values()], WIDTH, async (s) => {
      const expected = await reference(s);
      if (expected === undefined) return;
      const result = await onGpu(s.graph, s.inputs, expected, "fp32");
      if (result.wrong !== undefined) wrong.push(`${s.title}: ${result.wrong}`);
    });
    figure(`sanitizer ${tool}: operators`, { operators: first.size });
    expect(wrong).toEqual([]);
  });

  it.each(["fp32", "fp16"] as const)("every template, %s", async (precision) => {
    const wrong: string[] = [];
    const seen = new Set<string>();
    // Long recurrences take long under racecheck, and their steps are all alike.
    const layers = recurrences().filter((c) => / (1|17|256|200) units/.test(c.title));
    await pooled([...matrices(), ...convolutions(), ...attentions(), ...cachedAttentions(), ...layers], WIDTH, async (c) => {
      const result = await onGpu(
        c.graph,
        c.inputs,
        (await reference(c)) ?? [],
        precision,
        unmapped ? { device: { ...device(), arch: "sm_90" } } : {},
      );
      for (const t of result.templates) seen.add(t);
      if (result.wrong !== undefined) wrong.push(`${c.title}: ${result.wrong}`);
    });
    figure(`sanitizer ${tool}: templates, ${precision}`, { templates: [...seen].sort().join(" ") });
    expect(wrong).toEqual([]);
  });

  it("integers, every way", async () => {
    const wrong: string[] = [];
    const seen = new Set<string>();
    await pooled([...integerCases()], WIDTH, async (c) => {
      const options = unmapped ? { device: { ...device(), arch: "sm_90" } } : {};
      for (const [way, picks] of unmapped ? [["", undefined] as const] : ways(c.graph, "int8")) {
        const result = await onGpu(c.graph, c.inputs, c.expected, "int8", { picks, ...options });
        for (const t of result.templates) seen.add(t);
        if (result.wrong !== undefined) wrong.push(`${c.title} by ${way}: ${result.wrong}`);
      }
    });
    figure(`sanitizer ${tool}: integers`, { templates: [...seen].sort().join(" ") });
    expect(wrong).toEqual([]);
  });

  it.each(MODELS)("%s", async (name) => {
    const folder = ["models", "torch", "real"]
      .map((set) => join(dataDir(set) ?? "/nowhere", name))
      .find((f) => existsSync(join(f, "io.npz")));
    if (folder === undefined) throw new Error(`PARTITA_TEST_DATA has no ${name}`);
    const file = join(folder, readdirSync(folder).find((f) => f.endsWith(".onnx")) as string);
    const recorded = readNpz(join(folder, "io.npz"));
    const { inputs } = (await report(file, { target: "cuda" })).data.model;
    const feeds = Object.fromEntries(
      inputs.map((p, i) => [p.name, (recorded.get(`in_${i}`) ?? recorded.get(`in|${p.name}`)) as TensorLike]),
    );
    const shapes = Object.fromEntries(Object.entries(feeds).map(([port, t]) => [port, t.dims]));
    const program = await compile(file, { target: "cuda", precision: unmapped ? "fp32" : "fp16", tune: "none", shapes });
    const session = await program.createSession();
    const found = await session.run(feeds);
    expect(Object.keys(found)).toHaveLength(program.outputs.length);
    await session.dispose();
  });
});
