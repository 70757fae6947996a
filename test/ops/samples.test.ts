/** Tests generated from every operator's samples: inference against ONNX Runtime's real types and dims, symbolic inference, cost, verdicts. */
import * as ort from "onnxruntime-node";
import { describe, expect, it } from "vitest";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { importOnnx } from "../../src/import/onnx/index.js";
import { substitute } from "../../src/ir/dims.js";
import { valueAt } from "../../src/ir/graph.js";
import type { Graph, Shape, ValueType } from "../../src/ir/types.js";
import { engineNames, type Target } from "../../src/ops/define.js";
import { costOf, doneSite, inferGraph } from "../../src/ops/infer.js";
import { allOps } from "../../src/ops/registry.js";
import { buildSample, fetchable, isCanonical } from "../support/samples.js";

/** What ONNX Runtime 1.30's CPU provider has no kernel for: these samples are inferred and costed, not run. */
const NO_KERNEL = /NOT_IMPLEMENTED|is not a registered function\/op|No Op registered|Could not find an implementation|is not a registered/;
/** Operators that no sample can exercise, and why. */
const WITHOUT_SAMPLES: Readonly<Record<string, string>> = {
  ImageDecoder: "its input is an encoded file, and ONNX Runtime has no kernel",
  CastMap: "no operator of tensors makes a map",
  DictVectorizer: "no operator of tensors makes a map",
  Gradient: "it refers to other nodes of its graph, and no runtime has it",
};
/** Their output sizes depend on element values: inference leaves those dims open. */
const DATA_DEPENDENT = new Set([
  "Compress",
  "NonZero",
  "Unique",
  "NonMaxSuppression",
  "Range",
  "ConstantOfShape",
  "StringSplit",
  "SVMClassifier",
]);

const contradicts = (s: Shape, dims: readonly number[], bindings: ReadonlyMap<string, number>): boolean =>
  s !== undefined &&
  (s.length !== dims.length ||
    s.some((d, i) => {
      const v = substitute(d, bindings);
      return typeof v === "number" && v !== dims[i];
    }));
/** Without types at its outputs, ONNX Runtime is not told what inference thinks. */
const untyped = (g: Graph): Graph => ({
  ...g,
  values: g.values.map((v) => (v !== undefined && g.outputs.includes(v.id) ? { ...v, type: { kind: "unknown" } as ValueType } : v)),
});

const cases = allOps().flatMap((def) =>
  [...def.samples()].map((sample) => ({ def, sample, title: `${def.domain ? `${def.domain}.` : ""}${def.name}: ${sample.name}` })),
);
const notRun: string[] = [];

describe("every operator", () => {
  it.each(allOps().map((def) => ({ def, name: def.name })))("$name has samples, a reading and an answer for every engine", ({ def }) => {
    if (WITHOUT_SAMPLES[def.name] === undefined) expect([...def.samples()].length).toBeGreaterThan(0);
    if (isCanonical(def)) expect(def.reads.onnx.findLast((r) => r.adapt === undefined)?.op).toBeUndefined();
    else {
      // Read as other operators: no graph holds it unless something is amiss, and then the host says so.
      expect(def.reads.onnx.every((r) => r.adapt !== undefined)).toBe(true);
      expect("absent" in def.on.host).toBe(true);
    }
    for (const e of engineNames) expect(def.on[e]).toBeDefined();
    expect(def.doc).toMatch(/\.$/);
  });
});

describe("samples", () => {
  it.each(cases)("$title", async ({ def, sample }) => {
    const built = buildSample(def, sample, false);
    const done = inferGraph(built.graph);
    const node = done.graph.nodes.find((n) => n.id === built.node);
    if (node === undefined) throw new Error("the sample has no node");
    const cost = costOf(done.graph, node, done.facts);
    expect(Number.isFinite(cost.flops) && cost.flops >= 0).toBe(true);
    expect(Number.isFinite(cost.bytes) && cost.bytes >= 0).toBe(true);
    const site = doneSite(done.graph, node, done.facts);
    if (site === undefined) throw new Error("the registry does not know its own operator");
    for (const engine of engineNames) {
      for (const precision of ["fp32", "tf32", "fp16", "bf16", "int8"] as const) {
        const target: Target = { sm: 90, tensorrt: 101600, precision };
        const lowering = site.def.on[engine];
        const verdict = "absent" in lowering ? { ok: false as const, why: lowering.absent } : lowering.supports(site.site, target);
        if (!verdict.ok) expect(verdict.why).not.toBe("");
      }
    }
    const shown = fetchable(built.graph, done.facts);
    if (shown.outputs.length === 0) return;
    const all = inferGraph(shown);
    // An operator that is always read as others is read here; what it becomes runs.
    const bytes = encodeOnnx(untyped(all.graph));
    const model = isCanonical(def) ? bytes : encodeOnnx(untyped(importOnnx(bytes)));
    let session: ort.InferenceSession;
    try {
      session = await ort.InferenceSession.create(model, { logSeverityLevel: 4, intraOpNumThreads: 1 });
    } catch (e) {
      if (e instanceof Error && NO_KERNEL.test(e.message)) {
        notRun.push(`${def.name}: ${sample.name}`);
        return;
      }
      throw e;
    }
    const out = await session.run(
      Object.fromEntries(Object.entries(built.feeds).map(([k, t]) => [k, new ort.Tensor(t.type as "float32", t.data as never, t.dims)])),
    );
    await session.release();
    const symbolic = buildSample(def, sample, true);
    const half = inferGraph(fetchable(symbolic.graph, inferGraph(symbolic.graph).facts));
    shown.outputs.forEach((v, i) => {
      const real = out[valueAt(shown, v).name];
      const type = all.facts(v).type;
      if (real === undefined || !("dims" in real)) return;
      expect(type.kind).toBe("tensor");
      if (type.kind !== "tensor") return;
      expect(type.dtype).toBe(real.type);
      if (DATA_DEPENDENT.has(def.name)) expect(contradicts(type.shape, real.dims, new Map())).toBe(false);
      else expect(type.shape).toEqual(real.dims);
      const w = half.graph.outputs[i];
      const loose = w === undefined ? undefined : half.facts(w).type;
      if (loose?.kind === "tensor")
        expect(contradicts(loose.shape, real.dims, symbolic.bindings), `${loose.shape} against ${real.dims}`).toBe(false);
    });
  });
  it("runs nearly all of them on ONNX Runtime", () => {
    expect(notRun.length / cases.length, notRun.join("; ")).toBeLessThan(0.05);
  });
});
