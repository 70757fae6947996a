/** Tests generated from every operator's samples: inference against ONNX Runtime's real types and dims, symbolic inference, cost, verdicts. */
import * as ort from "onnxruntime-node";
import { describe, expect, it } from "vitest";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { substitute } from "../../src/ir/dims.js";
import { Editor } from "../../src/ir/edit.js";
import { valueAt } from "../../src/ir/graph.js";
import { numberToHalf } from "../../src/ir/numeric.js";
import { fromTensor } from "../../src/ir/payload.js";
import type { Dim, Graph, Shape, ValueId } from "../../src/ir/types.js";
import { type AnyOp, type AttrSpecs, engineNames, type Sample, type SampleInput, type Slot, type Target } from "../../src/ops/define.js";
import { costOf, doneSite, inferGraph } from "../../src/ops/infer.js";
import { allOps } from "../../src/ops/registry.js";
import { isTensorDType, Tensor } from "../../src/tensor.js";

/** Operators with bodies, and ImageDecoder (no kernel, and its input is an encoded file), carry no samples. What ONNX Runtime 1.30's CPU provider has no kernel for: these samples are inferred and costed, not run. */
const NO_KERNEL = /NOT_IMPLEMENTED|is not a registered function\/op|No Op registered|Could not find an implementation/;

/** They take sequences or maps, which a sample cannot feed; the backend suite runs them. */
const CONTAINERS = new Set([
  "SequenceInsert",
  "SequenceErase",
  "SequenceAt",
  "SequenceLength",
  "ConcatFromSequence",
  "CastMap",
  "DictVectorizer",
]);
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

function randomOf(seed: number): () => number {
  let s = (seed * 2654435761 + 1) >>> 0;
  return () => {
    s = (Math.imul(s, 1664525) + 1013904223) >>> 0;
    return s / 2 ** 32;
  };
}
function tensorOf(s: SampleInput, seed: number): Tensor {
  if (!isTensorDType(s.dtype)) throw new Error(`samples of ${s.dtype} cannot be fed`);
  const count = s.dims.reduce((a, b) => a * b, 1);
  const next = randomOf(seed);
  const draw = (): number | boolean => {
    const r = next();
    if (s.dtype === "bool") return r < 0.5;
    if (s.dtype.startsWith("float")) return 4 * r - 2;
    return s.dtype.startsWith("u") ? Math.floor(r * 16) : Math.floor(r * 17) - 8;
  };
  const values = s.fill === "random" ? Array.from({ length: count }, draw) : s.fill;
  if (s.dtype === "string") return new Tensor("string", values.map(String), s.dims);
  if (s.dtype === "float16")
    return new Tensor(
      "float16",
      Uint16Array.from(values, (x) => numberToHalf(Number(x))),
      s.dims,
    );
  return new Tensor(s.dtype, values as readonly number[], s.dims);
}

interface Built {
  readonly graph: Graph;
  readonly feeds: Readonly<Record<string, Tensor>>;
  readonly bindings: ReadonlyMap<string, number>;
}
/** One node; with `symbolic`, every dim of a fed input is a symbol of its own (dims of equal size that must agree share one). */
function build(def: AnyOp, sample: Sample, symbolic: boolean): Built {
  const e = new Editor({
    name: "sample",
    opsets: { "": 18, ...(def.domain ? { [def.domain]: Math.max(...def.reads.onnx.map((r) => r.since)) } : {}) },
  });
  const feeds: Record<string, Tensor> = {};
  const bindings = new Map<string, number>();
  const ins: (ValueId | undefined)[] = [];
  let seed = 1;
  const dim = (d: number): Dim => {
    if (!symbolic || d <= 1) return d;
    bindings.set(`n${d}`, d);
    return `n${d}`;
  };
  for (const [name, slot] of Object.entries(def.in as Record<string, Slot>)) {
    const raw = sample.in[name];
    const list = (slot.kind === "variadic" ? (raw ?? []) : [raw]) as readonly (SampleInput | undefined)[];
    for (const s of list) {
      if (s === undefined) {
        ins.push(undefined);
        continue;
      }
      const t = tensorOf(s, seed++);
      if (s.constant === true) ins.push(e.addConstant(name, fromTensor(t)));
      else {
        const id = e.addInput(name, { kind: "tensor", dtype: s.dtype, shape: s.dims.map(dim) });
        feeds[e.value(id).name] = t;
        ins.push(id);
      }
    }
  }
  while (ins.length > 0 && ins[ins.length - 1] === undefined) ins.pop();
  const n = e.add({ op: def.name, domain: def.domain ?? "", name: "n", ins, outs: sample.outs ?? 1, attrs: sample.attrs ?? {} });
  e.setOutputs(n.outs.filter((v) => v !== undefined));
  return { graph: e.finish(), feeds, bindings };
}
const contradicts = (s: Shape, dims: readonly number[], bindings: ReadonlyMap<string, number>): boolean =>
  s !== undefined &&
  (s.length !== dims.length ||
    s.some((d, i) => {
      const v = substitute(d, bindings);
      return typeof v === "number" && v !== dims[i];
    }));

const cases = allOps().flatMap((def) =>
  [...def.samples()].map((sample) => ({ def, sample, title: `${def.domain ? `${def.domain}.` : ""}${def.name}: ${sample.name}` })),
);
const notRun: string[] = [];

describe("every operator", () => {
  it.each(allOps().map((def) => ({ def, name: def.name })))(
    "$name has samples, a canonical reading and an answer for every engine",
    ({ def }) => {
      const hasBody = Object.values(def.attrs as AttrSpecs).some((a) => a.kind === "graph");
      if (!hasBody && def.name !== "ImageDecoder" && !CONTAINERS.has(def.name)) expect([...def.samples()].length).toBeGreaterThan(0);
      expect(def.reads.onnx.some((r) => r.adapt === undefined && r.op === undefined)).toBe(true);
      for (const e of engineNames) expect(def.on[e]).toBeDefined();
      expect(def.doc).toMatch(/\.$/);
    },
  );
});

describe("samples", () => {
  it.each(cases)("$title", async ({ def, sample }) => {
    const { graph, feeds } = build(def, sample, false);
    const done = inferGraph(graph);
    const node = done.graph.nodes[0];
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
    // onnxruntime-node hands out tensors of JavaScript's types only.
    if (!graph.outputs.every((v) => done.facts(v).type.kind === "tensor" || done.facts(v).type.kind === "unknown")) return;
    let session: ort.InferenceSession;
    try {
      session = await ort.InferenceSession.create(encodeOnnx(done.graph), { logSeverityLevel: 4, intraOpNumThreads: 1 });
    } catch (e) {
      if (e instanceof Error && NO_KERNEL.test(e.message)) {
        notRun.push(`${def.name}: ${sample.name}`);
        return;
      }
      throw e;
    }
    const out = await session.run(
      Object.fromEntries(Object.entries(feeds).map(([k, t]) => [k, new ort.Tensor(t.type, t.data as never, t.dims)])),
    );
    await session.release();
    const symbolic = build(def, sample, true);
    const half = inferGraph(symbolic.graph);
    graph.outputs.forEach((v, i) => {
      const real = out[valueAt(graph, v).name];
      const type = done.facts(v).type;
      if (real === undefined || type.kind !== "tensor") return;
      expect(type.dtype).toBe(real.type);
      if (DATA_DEPENDENT.has(def.name)) expect(contradicts(type.shape, real.dims, new Map())).toBe(false);
      else expect(type.shape).toEqual(real.dims);
      const w = symbolic.graph.outputs[i];
      const loose = w === undefined ? undefined : half.facts(w).type;
      if (loose?.kind === "tensor")
        expect(contradicts(loose.shape, real.dims, symbolic.bindings), `${loose.shape} against ${real.dims}`).toBe(false);
    });
  });
  it("runs nearly all of them on ONNX Runtime", () => {
    expect(notRun.length / cases.length, notRun.join("; ")).toBeLessThan(0.1);
  });
});
