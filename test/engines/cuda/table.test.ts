/** The registry's word on the CUDA engine is the emitter's: no operator is promised that has no rule, none withheld that has one, and their samples agree. */
import { describe, expect, it } from "vitest";
import { cudaRefusals } from "../../../src/engines/cuda/index.js";
import { emits } from "../../../src/engines/cuda/lower.js";
import type { Node } from "../../../src/ir/types.js";
import { doneSite, inferGraph } from "../../../src/ops/infer.js";
import { allOps } from "../../../src/ops/registry.js";
import { buildSample } from "../../support/samples.js";

/** Shape and Size are answered by inference wherever the engine runs them; Attention is a template of its own (kernels/attention.cu), not a rule. */
const WITHOUT_RULE = new Set(["Shape", "Size", "Attention"]);
const ops = allOps().filter((def) => !WITHOUT_RULE.has(def.name));
const ruled = (def: (typeof ops)[number]): boolean => emits({ op: def.name, domain: def.domain ?? "" } as Node);

it("has a rule for every operator that the registry promises, and the other way round", () => {
  expect(ops.filter((def) => !ruled(def) && !("absent" in def.on.cuda)).map((def) => def.name)).toEqual([]);
  expect(ops.filter((def) => ruled(def) && "absent" in def.on.cuda).map((def) => def.name)).toEqual([]);
});

describe("samples", () => {
  const cases = ops.flatMap((def) =>
    ruled(def) ? [...def.samples()].map((sample) => ({ title: `${def.name}: ${sample.name}`, def, sample })) : [],
  );
  it.each(cases)("$title", ({ def, sample }) => {
    const built = buildSample(def, sample, false);
    const { graph, facts } = inferGraph(built.graph);
    const node = graph.nodes.find((n) => n.id === built.node);
    const done = node === undefined ? undefined : doneSite(graph, node, facts);
    const lowering = def.on.cuda;
    if (done === undefined || "absent" in lowering) throw new Error("the sample has no verdict");
    const verdict = lowering.supports(done.site, { sm: 90, tensorrt: 110_200, precision: "fp32" });
    // The registry may know more reasons (dims that only a run reveals); what it promises, the emitter must keep.
    if (verdict.ok) expect(cudaRefusals(graph, "fp32", 90).get(built.node)).toBeUndefined();
  });
});
