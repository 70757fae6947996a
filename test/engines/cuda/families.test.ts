/** Networks of families that no model of the data sets stands for: all of their arithmetic goes to the GPU, in one segment, attention as one kernel. */
import { describe, expect, it } from "vitest";
import { plan } from "../../../src/compile.js";
import { cudaEngine } from "../../../src/engines/cuda/index.js";
import { lower } from "../../../src/engines/cuda/lower.js";
import { h200 } from "../../../src/engines/cuda/templates/index.js";
import { extractSegment } from "../../../src/partition/extract.js";
import { lower as spelledOut } from "../../../src/passes/lower.js";
import { families } from "../../support/families.js";

/** Attention nodes of a network. */
const attentions: Readonly<Record<string, number>> = { Swin: 3, "a decoder's step behind 17": 2, "a decoder's 4 steps behind 5": 2 };

describe.each(families())("$title", ({ title, graph }) => {
  it.each(["fp32", "fp16"] as const)("%s", async (precision) => {
    const { partition, inferred, report } = await plan(graph, { target: "cuda", precision });
    expect(partition.segments.map((s) => s.engine)).toEqual(["cuda"]);
    expect(report.data.quality.flopsCovered).toBe(1);
    const [segment] = partition.segments;
    if (segment === undefined) return;
    const made = lower(spelledOut(extractSegment(inferred.graph, segment), cudaEngine.keeps ?? (() => true)), { precision, device: h200 });
    const kernels = made.plan.operations.flatMap((o) => (o.kind === "launch" ? [o.launch.kernel.replace(/^k\d+_/, "")] : []));
    expect(kernels.filter((k) => k.startsWith("attention"))).toHaveLength(attentions[title] ?? 0);
    expect(kernels.filter((k) => k.startsWith("Softmax"))).toEqual([]);
  });
});
