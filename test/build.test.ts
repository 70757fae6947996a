/** Building a plan's segments: what is refused is planned again, rivals are timed, and what cannot be mended is thrown. Engines here are made up. */
import { describe, expect, it } from "vitest";
import { buildSegments } from "../src/build.js";
import { plan } from "../src/compile.js";
import type { PartitaError } from "../src/diagnostics.js";
import type { Artifact, Engine } from "../src/engines/engine.js";
import { noLibrary } from "../src/engines/tensorrt/errors.js";
import { buildFailed, parserRefused, unknownOption } from "../src/engines/tensorrt/failures.js";
import { parse } from "../src/ir/parse.js";
import type { Graph } from "../src/ir/types.js";
import type { EngineName } from "../src/ops/define.js";
import type { CompileOptions } from "../src/options.js";

const NET = `graph "net" opset {"": 18} (%x: float32[64, 64]) -> (%y) {
  const %w = float32[64, 64] [${Array.from({ length: 4096 }, (_, i) => `${i % 7}.0`).join(", ")}]
  %a = MatMul(%x, %w) @"first"
  %b = Relu(%a) @"second"
  %c = MatMul(%b, %w) @"third"
  %y = Relu(%c) @"fourth"
}`;
interface Made {
  readonly built: string[];
  readonly opened: string[];
}
/** `us`: what an engine takes for a segment; `fail`: what its build throws. */
function engineOf(name: EngineName, made: Made, us: number | undefined, fail?: (g: Graph) => PartitaError | undefined): Engine {
  return {
    name,
    available: async () => ({ ok: true }),
    async build(g): Promise<Artifact> {
      const error = fail?.(g);
      if (error !== undefined) throw error;
      made.built.push(`${name} ${g.nodes.map((n) => n.name).join()}`);
      return { engine: name, key: `${name} ${g.name}`, inputs: [], outputs: [], files: [] };
    },
    async open() {
      made.opened.push(name);
      return {
        run: async () => [],
        ...(us === undefined ? {} : { timeUs: async () => us, layers: async () => [{ name: "one", us }] }),
        dispose: async () => {},
      };
    },
  };
}
async function build(
  options: CompileOptions,
  times: Partial<Record<EngineName, number>>,
  fail: Partial<Record<EngineName, (g: Graph) => PartitaError | undefined>> = {},
  gpu: number | "none" = 90,
) {
  const made: Made = { built: [], opened: [] };
  const first = await plan(parse(NET), { minimumSegmentSize: 1, computeCapability: 9, ...options });
  const result = await buildSegments(first, {
    engine: (name) => engineOf(name, made, times[name], fail[name]),
    replan: first.replan,
    gpu: () => (gpu === "none" ? undefined : gpu),
  });
  return { ...result, ...made, report: result.planned.report.withMeasurements(result.measured) };
}
const engines = (r: { readonly report: { readonly data: { readonly segments: readonly { readonly engine: string }[] } } }): string[] =>
  r.report.data.segments.map((s) => s.engine);

describe("two engines that both take a segment", () => {
  it.each([
    ["tensorrt", { tensorrt: 10, cuda: 20 }],
    ["cuda", { tensorrt: 30, cuda: 20 }],
  ] as const)("%s is faster and keeps it; the other one's time is in the report", async (winner, times) => {
    const r = await build({ target: ["tensorrt", "cuda"] }, times);
    expect(engines(r)).toEqual([winner]);
    expect(r.artifacts.map((a) => a.engine)).toEqual([winner]);
    expect(r.built.map((b) => b.split(" ")[0]).sort()).toEqual(["cuda", "tensorrt"]);
    expect(r.report.data.segments[0]?.times?.map((t) => t.engine)).toEqual(winner === "cuda" ? ["cuda", "tensorrt"] : ["tensorrt", "cuda"]);
    // The estimate preferred cuda: where it was wrong the reason says so.
    const why = r.report.data.nodes[0]?.notOn.find((n) => n.engine === "cuda")?.why;
    if (winner === "tensorrt") expect(why).toMatch(/slower here, measured: tensorrt takes 10\.0 us, cuda takes 20\.0 us/);
  });
  it("without a GPU, for another one, or with tune none the estimate decides and nothing is opened", async () => {
    for (const [options, gpu] of [
      [{}, "none"],
      [{}, 80],
      [{ tune: "none" }, 90],
    ] as const) {
      const r = await build({ target: ["tensorrt", "cuda"], ...options }, { tensorrt: 30, cuda: 20 }, {}, gpu);
      expect(r.opened).toEqual([]);
      expect(r.built).toHaveLength(1);
    }
  });
  it("a rival that does not build has lost, and its words are at the nodes", async () => {
    const r = await build({ target: ["tensorrt", "cuda"] }, { tensorrt: 10, cuda: 20 }, { tensorrt: () => buildFailed({ why: "no" }) });
    expect(engines(r)).toEqual(["cuda"]);
    expect(r.report.data.segments[0]?.times).toEqual([{ engine: "cuda", us: 20 }]);
    for (const n of r.report.data.nodes)
      expect(n.notOn.find((x) => x.engine === "tensorrt")?.why).toBe("TensorRT builds no engine of the segment: no (P2214)");
    // Telling of it costs a plan, not a build.
    expect(r.built.map((b) => b.split(" ")[0])).toEqual(["cuda"]);
  });
  it("a pinned node stays where it is pinned, however slow", async () => {
    const r = await build({ target: ["tensorrt", "cuda"], pin: [{ match: "first..fourth", to: "tensorrt" }] }, { tensorrt: 30, cuda: 20 });
    expect(engines(r)).toEqual(["tensorrt"]);
    expect(r.built).toHaveLength(1);
  });
});

describe("what TensorRT refuses", () => {
  const third = (g: Graph): PartitaError | undefined =>
    g.nodes.some((n) => n.name === "third") ? parserRefused({ why: "no such plugin" }, { node: "third" }) : undefined;
  it("goes to the next engine, the named node alone", async () => {
    const pin = ["first", "second", "fourth"].map((match) => ({ match, to: "tensorrt" as const }));
    const r = await build({ target: ["tensorrt", "cuda"], pin, tune: "none" }, {}, { tensorrt: third });
    const node = r.report.data.nodes.find((n) => n.name === "third");
    expect(r.report.data.segments[node?.segment ?? 0]?.engine).toBe("cuda");
    expect(node?.notOn.find((n) => n.engine === "tensorrt")).toMatchObject({ why: expect.stringContaining("no such plugin (P2213)") });
    expect(r.report.data.nodes.find((n) => n.name === "first")?.notOn.some((n) => n.why.includes("P2213"))).toBe(false);
  });
  it("to the host, where no other engine was asked for", async () => {
    const r = await build({ target: "tensorrt", tune: "none" }, {}, { tensorrt: () => buildFailed({ why: "no tactic" }) });
    expect(engines(r)).toEqual(["host"]);
    expect(r.report.data.reasons[0]).toMatchObject({ engine: "tensorrt", why: expect.stringContaining("no tactic (P2214)") });
  });
  it.each([
    ["under strict", { target: "tensorrt", strict: true }, () => buildFailed({ why: "no tactic" }), "P2214"],
    ["for a pinned node", { target: ["tensorrt", "cuda"], pin: [{ match: "third", to: "tensorrt" }] }, third, "P2213"],
    ["a wrong option", { target: "tensorrt" }, () => unknownOption({ option: "o", version: "v", fix: "f" }), "P2219"],
    ["no library, nothing else asked for", { target: "tensorrt" }, () => noLibrary({ why: "w", fix: "f" }), "P2201"],
  ] as const)("is thrown: %s", async (_, options, fail, code) => {
    await expect(build({ tune: "none", ...options } as CompileOptions, {}, { tensorrt: fail })).rejects.toMatchObject({ code });
  });
  it("no library, and another engine asked for: that one takes it", async () => {
    const r = await build(
      { target: ["tensorrt", "cuda"], tune: "none" },
      {},
      { tensorrt: () => noLibrary({ why: "none here", fix: "f" }) },
    );
    expect(engines(r)).toEqual(["cuda"]);
  });
});

it("open dims that the model gives no name keep nothing on the host", async () => {
  const { report, graph } = await plan(
    parse(`graph "net" opset {"": 18} (%x: float32[?, 3, ?, ?]) -> (%y) {
      const %w = float32[2, 3, 1, 1] [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
      %c = Conv(%x, %w)
      %s = Sigmoid(%c)
      %p = Mul(%c, %s)
      %y = Add(%p, %c)
    }`),
    { target: "cuda", computeCapability: 9 },
  );
  expect(report.data.segments.map((s) => s.engine)).toEqual(["cuda"]);
  expect(graph.values[graph.inputs[0] ?? -1]?.type).toMatchObject({ shape: ["x_0", 3, "x_2", "x_3"] });
});
