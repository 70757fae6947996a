/** Operators against ONNX Runtime: what a definition says of its samples must be what ONNX Runtime makes of them. */
import { encodeOnnx } from "../import/onnx/export.js";
import { importOnnx } from "../import/onnx/index.js";
import { Editor } from "../ir/edit.js";
import { typeAt } from "../ir/graph.js";
import { numberToBfloat16, numberToHalf } from "../ir/numeric.js";
import { fromTensor } from "../ir/payload.js";
import type { Graph, Node, ValueId, ValueType } from "../ir/types.js";
import { type AnyOp, engineNames, type Fact, type Sample, type SampleInput, type Slot } from "../ops/define.js";
import { constantFact, inferNode, siteOf } from "../ops/infer.js";
import { generator } from "../runtime/measure.js";
import { isTensorDType, Tensor, type TensorLike } from "../tensor.js";

/** A sample as a graph of one node, with what to feed. */
export interface SampleGraph {
  readonly graph: Graph;
  readonly node: Node;
  readonly feeds: readonly Tensor[];
}

/** Throws for samples that hold sequences: they need nodes around the operator. */
export function sampleGraph(def: AnyOp, sample: Sample): SampleGraph {
  const domain = def.domain ?? "";
  const since = Math.max(...def.reads.onnx.filter((r) => r.adapt === undefined).map((r) => r.since));
  const draft = new Editor({
    name: sample.name,
    opsets: { "": Math.max(18, domain === "" ? since : 0), ...(domain === "" ? {} : { [domain]: since }) },
  });
  const next = generator(1);
  const feeds: Tensor[] = [];
  const operand = (name: string, s: SampleInput): ValueId => {
    const t = filled(s, next);
    if (s.constant === true) return draft.addConstant(name, fromTensor(t));
    feeds.push(t);
    return draft.addInput(name, { kind: "tensor", dtype: s.dtype, shape: s.dims });
  };
  const ins: (ValueId | undefined)[] = [];
  for (const [name, slot] of Object.entries(def.in as Record<string, Slot>)) {
    const raw = sample.in[name];
    for (const s of slot.kind === "variadic" ? ((raw ?? []) as readonly SampleInput[]) : [raw]) {
      if (s !== undefined && "items" in s) throw new Error(`sample '${sample.name}' feeds a sequence`);
      ins.push(s === undefined ? undefined : operand(name, s as SampleInput));
    }
  }
  while (ins.length > 0 && ins[ins.length - 1] === undefined) ins.pop();
  const node = draft.add({ op: def.name, domain, name: "sample", ins, outs: sample.outs ?? 1, attrs: sample.attrs ?? {} });
  draft.setOutputs(node.outs.filter((v) => v !== undefined));
  return { graph: draft.finish(), node, feeds };
}

function filled(s: SampleInput, next: () => number): Tensor {
  if (!isTensorDType(s.dtype)) throw new Error(`a sample of ${s.dtype} cannot be fed`);
  const count = s.dims.reduce((a, d) => a * d, 1);
  const draw = (): number | boolean =>
    s.dtype === "bool"
      ? next() < 0.5
      : /^b?float/.test(s.dtype)
        ? 4 * next() - 2
        : Math.floor(next() * 17) - (s.dtype.startsWith("u") ? 0 : 8);
  const values = s.fill === "random" ? Array.from({ length: count }, draw) : s.fill;
  if (s.dtype === "string") return new Tensor("string", values.map(String), s.dims);
  if (s.dtype === "float16")
    return new Tensor(
      "float16",
      Uint16Array.from(values, (x) => numberToHalf(Number(x))),
      s.dims,
    );
  if (s.dtype === "bfloat16")
    return new Tensor(
      "bfloat16",
      Uint16Array.from(values, (x) => numberToBfloat16(Number(x))),
      s.dims,
    );
  return new Tensor(s.dtype, values as readonly number[], s.dims);
}

/**
 * Throws when a sample's inferred types are not those of ONNX Runtime's results, when a cost is not a number, or when an engine says no
 * without a reason. The definition need not be in the registry. `run`: a graph on ONNX Runtime.
 */
export async function checkSamples(
  def: AnyOp,
  run: (g: Graph, feeds: readonly TensorLike[]) => Promise<readonly Tensor[]>,
): Promise<number> {
  let checked = 0;
  for (const sample of def.samples()) {
    const fail = (what: string): never => {
      throw new Error(`${def.name}, sample '${sample.name}': ${what}`);
    };
    const { graph, node, feeds } = sampleGraph(def, sample);
    const factOf = (v: ValueId): Fact => {
      const c = graph.constants.get(v);
      return c === undefined ? { type: typeAt(graph, v) } : constantFact(c);
    };
    const { facts } = inferNode(node, factOf, { def });
    const results = await run(importOnnx(encodeOnnx(graph)), feeds);
    const types = node.outs.map((_, i): ValueType => facts[i]?.type ?? { kind: "unknown" });
    results.forEach((r, i) => {
      const t = types[i];
      if (t?.kind !== "tensor")
        return fail(`output ${i} is inferred as ${t?.kind ?? "nothing"}, ONNX Runtime gives ${r.type}[${r.dims.join(", ")}]`);
      const agrees =
        t.dtype === r.type &&
        (t.shape === undefined || (t.shape.length === r.dims.length && t.shape.every((d, k) => typeof d === "string" || d === r.dims[k])));
      if (!agrees)
        fail(`output ${i} is inferred as ${t.dtype}[${t.shape?.join(", ") ?? "?"}], ONNX Runtime gives ${r.type}[${r.dims.join(", ")}]`);
      return undefined;
    });
    const site = siteOf(node, def, factOf, types);
    const { flops, bytes } = def.cost(site);
    if (!(flops >= 0 && bytes >= 0 && Number.isFinite(flops + bytes))) fail(`its cost is ${flops} FLOP and ${bytes} bytes`);
    for (const e of engineNames) {
      const on = def.on[e];
      const verdict =
        "absent" in on ? { ok: false as const, why: on.absent } : on.supports(site, { sm: 90, tensorrt: 110_200, precision: "fp32" });
      if (!verdict.ok && verdict.why === "") fail(`'${e}' says no without a reason`);
    }
    checked++;
  }
  if (checked === 0) throw new Error(`${def.name} has no samples`);
  return checked;
}
