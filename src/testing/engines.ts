/** Engines against ONNX Runtime: the same graph and feeds, built, opened, run several times at once and disposed of. */
import type { Engine, Executable } from "../engines/engine.js";
import type { Graph } from "../ir/types.js";
import type { Target } from "../ops/define.js";
import { inferGraph } from "../ops/infer.js";
import { generator } from "../runtime/measure.js";
import { isTensorDType, Tensor, type TensorLike } from "../tensor.js";

export interface CheckEngineOptions {
  /** Inputs in the graph's order; absent: seeded random ones, for graphs with static dims. */
  readonly feeds?: readonly TensorLike[] | undefined;
  /** Allowed error, as a share of the largest value. Default 1e-5. */
  readonly tolerance?: number | undefined;
  readonly target?: Target | undefined;
}

/** Throws with the figures when results differ, when runs that overlap disturb each other, or when building twice gives two keys. */
export async function checkOneEngine(
  engine: Engine,
  g: Graph,
  options: CheckEngineOptions,
  oracle: {
    readonly run: (g: Graph, feeds: readonly TensorLike[]) => Promise<readonly Tensor[]>;
    readonly error: (a: readonly TensorLike[], b: readonly TensorLike[]) => number;
  },
): Promise<number> {
  const graph = inferGraph(g).graph;
  const context = { target: options.target ?? { sm: 90, tensorrt: 110_200, precision: "fp32" as const } };
  const available = await engine.available();
  if (!available.ok) throw new Error(`engine '${engine.name}' is not available: ${available.why}`);
  const feeds = options.feeds ?? randomFor(graph);
  const artifact = await engine.build(graph, context);
  const again = await engine.build(graph, context);
  if (artifact.key !== again.key)
    throw new Error(`engine '${engine.name}' gives '${graph.name}' two keys: ${artifact.key} and ${again.key}`);
  const expected = await oracle.run(graph, feeds);
  const executable: Executable = await engine.open(artifact, { streams: 2, threads: 1 });
  try {
    // Overlapping runs share an executable and must not share results.
    const runs = await Promise.all([executable.run(feeds), executable.run(feeds), executable.run(feeds)]);
    const worst = Math.max(...runs.map((r) => oracle.error(r, expected)));
    const limit = options.tolerance ?? 1e-5;
    if (!(worst <= limit))
      throw new Error(
        `engine '${engine.name}' differs from ONNX Runtime on '${graph.name}' by ${worst} of the largest value; ${limit} is allowed`,
      );
    return worst;
  } finally {
    await executable.dispose();
  }
}

function randomFor(g: Graph): readonly Tensor[] {
  const next = generator(1);
  return g.inputs.map((v) => {
    const value = g.values[v];
    const type = value?.type;
    const dims = type?.kind === "tensor" ? type.shape : undefined;
    if (type?.kind !== "tensor" || !isTensorDType(type.dtype) || dims === undefined || !dims.every((d) => typeof d === "number"))
      throw new Error(`'${value?.name}' has no static type: give feeds`);
    const count = dims.reduce((a, d) => a * d, 1);
    const float = type.dtype.startsWith("float");
    return new Tensor(
      type.dtype,
      Array.from({ length: count }, () => (float ? 4 * next() - 2 : Math.floor(next() * 8))),
      dims,
    );
  });
}
