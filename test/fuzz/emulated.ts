/** A plan for CUDA without a GPU: kernels are emitted for the dims that come, and run on the CPU; what is on the host runs on ONNX Runtime. */
import { segmentFor } from "../../src/build.js";
import type { Planned } from "../../src/compile.js";
import { cudaEngine } from "../../src/engines/cuda/index.js";
import { type Lowered, lower } from "../../src/engines/cuda/lower.js";
import { h200 } from "../../src/engines/cuda/templates/index.js";
import { hostEngine } from "../../src/engines/host/index.js";
import { openSegment } from "../../src/engines/symbols.js";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { importOnnx } from "../../src/import/onnx/index.js";
import { isStatic } from "../../src/ir/dims.js";
import { valueAt } from "../../src/ir/graph.js";
import { toTensor } from "../../src/ir/payload.js";
import type { Constant, Dim, Graph, ValueId } from "../../src/ir/types.js";
import { shapeOf } from "../../src/ops/define.js";
import { inferGraph } from "../../src/ops/infer.js";
import type { Segment } from "../../src/partition/assign.js";
import type { TensorLike } from "../../src/tensor.js";
import { emulate } from "../support/emulate.js";
import { referenceOf } from "./reference.js";

/** Operators that stay on the host with half of the graphs, which cuts them into segments: one or two of those that an engine takes. */
export function drawnPins(taken: readonly string[], next: () => number): readonly { readonly match: string; readonly to: "host" }[] {
  const all = [...new Set(taken)];
  if (all.length === 0 || next() < 0.5) return [];
  const pick = (): string => all[Math.floor(next() * all.length)] as string;
  return [...new Set([pick(), pick()])].map((match) => ({ match, to: "host" as const }));
}

/** A segment's kernels at the dims for which `sizes` has numbers. Throws `NotEmitted`. */
export function emitted(planned: Planned, s: Segment, sizes: ReadonlyMap<string, number>): Lowered {
  const own = segmentFor(cudaEngine, planned, s);
  const { graph, facts } = inferGraph(own);
  const open = graph.values.some((v) => v !== undefined && shapeOf(facts(v.id))?.every(isStatic) !== true);
  return lower(open ? bound(own, sizes) : own, { precision: "fp32", device: h200 });
}
/** As a run with these dims builds it: from the file that the artifact holds, its types inferred anew. */
function bound(segment: Graph, sizes: ReadonlyMap<string, number>): Graph {
  const { graph, facts } = openSegment(importOnnx(encodeOnnx(segment)));
  const dims = (v: ValueId): readonly Dim[] => (shapeOf(facts(v)) ?? []).map((d) => (typeof d === "string" ? (sizes.get(d) ?? d) : d));
  return inferGraph(graph, { shapes: Object.fromEntries(graph.inputs.map((v) => [valueAt(graph, v).name, dims(v)])) }).graph;
}

/** Results by name, of all outputs of the graph. Throws `NotEmitted`, `NotEmulated`, and what ONNX Runtime says. */
export async function runEmulated(
  planned: Planned,
  feeds: Readonly<Record<string, TensorLike>>,
  sizes: ReadonlyMap<string, number>,
): Promise<ReadonlyMap<string, TensorLike>> {
  const { graph, partition } = planned;
  const name = (v: ValueId): string => valueAt(graph, v).name;
  const values = new Map<string, TensorLike>(Object.entries(feeds));
  for (const s of partition.segments) {
    const read = s.inputs.map((v) => values.get(name(v)) as TensorLike);
    if (s.engine === "cuda") {
      const { plan, weights } = emitted(planned, s, sizes);
      const results = await emulate(plan, weights, read);
      plan.outputs.forEach((p, i) => {
        values.set(p.name, results[i] as TensorLike);
      });
    } else {
      const feedsHere = Object.fromEntries(s.inputs.map((v, i) => [name(v), read[i] as TensorLike]));
      const found = await referenceOf(encodeOnnx(segmentFor(hostEngine, planned, s)), "", feedsHere, true);
      if ("error" in found) throw new Error(`${s.name}: ${found.error}`);
      for (const [key, t] of Object.entries(found.results)) values.set(key, t);
    }
  }
  for (const v of graph.outputs) {
    const c = graph.constants.get(v);
    if (c !== undefined) values.set(name(v), toTensor(c as Constant) as TensorLike);
  }
  return values;
}
