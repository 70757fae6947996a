/** The registry's samples as the CUDA engine meets them: which of them it emits, and ONNX Runtime's values for them. */
import * as ort from "onnxruntime-node";
import { cudaRefusals } from "../../src/engines/cuda/index.js";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { valueAt } from "../../src/ir/graph.js";
import type { Graph } from "../../src/ir/types.js";
import { type EngineName, engineNames, type Target } from "../../src/ops/define.js";
import { doneSite, inferGraph } from "../../src/ops/infer.js";
import { allOps } from "../../src/ops/registry.js";
import { lower } from "../../src/passes/lower.js";
import { Tensor, type TensorDType, type TensorLike } from "../../src/tensor.js";
import { buildSample, isCanonical } from "./samples.js";

export interface EmittedSample {
  readonly title: string;
  readonly graph: Graph;
  readonly inputs: readonly TensorLike[];
}

/** Samples whose nodes the operator and the emitter both accept. */
export function emittedSamples(): readonly EmittedSample[] {
  const target: Target = { sm: 90, tensorrt: 0, precision: "fp32" };
  const engine: EngineName = engineNames[1];
  return allOps()
    .filter(isCanonical)
    .flatMap((def) =>
      [...def.samples()].flatMap((sample): EmittedSample[] => {
        const built = buildSample(def, sample, false);
        const { graph, facts } = inferGraph(built.graph);
        const accepted = graph.nodes.every((n) => {
          const lowering = doneSite(graph, n, facts)?.def.on[engine];
          const site = doneSite(graph, n, facts)?.site;
          return lowering !== undefined && site !== undefined && !("absent" in lowering) && lowering.supports(site, target).ok;
        });
        if (!accepted || cudaRefusals(graph, "fp32", 90).size > 0) return [];
        const inputs = graph.inputs.map((v) => built.feeds[valueAt(graph, v).name]);
        return inputs.includes(undefined) ? [] : [{ title: `${def.name}: ${sample.name}`, graph, inputs: inputs as TensorLike[] }];
      }),
    );
}

/** ONNX Runtime's values, of the graph's operators spelled out where it takes them only so; undefined where it has no kernel. */
export async function reference(s: EmittedSample): Promise<readonly Tensor[] | undefined> {
  const open = (g: Graph): Promise<ort.InferenceSession | undefined> =>
    ort.InferenceSession.create(encodeOnnx(g), { graphOptimizationLevel: "basic", logSeverityLevel: 4 }).catch(() => undefined);
  const session = (await open(s.graph)) ?? (await open(lower(s.graph, () => false)));
  if (session === undefined) return undefined;
  const names = s.graph.inputs.map((v) => valueAt(s.graph, v).name);
  const feeds = Object.fromEntries(names.map((name, i) => [name, ortTensor(s.inputs[i] as TensorLike)]));
  const found = await session.run(feeds);
  await session.release();
  return s.graph.outputs.map((v) => {
    const t = found[valueAt(s.graph, v).name] as ort.Tensor;
    return new Tensor(t.type as TensorDType, t.data as never, t.dims);
  });
}
const ortTensor = (t: TensorLike): ort.Tensor => new ort.Tensor(t.type as "float32", t.data as Float32Array, t.dims);
