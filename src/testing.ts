/** `partita/testing`: passes as text in, text out; operators and engines against ONNX Runtime. Works under any test runner: failures throw. */
import type { Engine } from "./engines/engine.js";
import { evaluate, hostEngine } from "./engines/host/index.js";
import { elementNumber } from "./ir/numeric.js";
import { type ParseOptions, parse } from "./ir/parse.js";
import { print } from "./ir/print.js";
import type { Graph } from "./ir/types.js";
import { verify } from "./ir/verify.js";
import type { AnyOp } from "./ops/define.js";
import { inferGraph } from "./ops/infer.js";
import { type Pass, passContext } from "./passes/pass.js";
import type { Tensor, TensorLike } from "./tensor.js";
import { type CheckEngineOptions, checkOneEngine } from "./testing/engines.js";
import { checkSamples } from "./testing/operators.js";

export type { CheckEngineOptions } from "./testing/engines.js";
export { type SampleGraph, sampleGraph } from "./testing/operators.js";

/** Applies a pass to a graph in text form and gives the result as text, types inferred before. Throws when the pass breaks the graph. */
export async function applyPass(pass: Pass, text: string, options: ParseOptions = {}): Promise<string> {
  const g = inferGraph(parse(text, options)).graph;
  const out = await pass.run(g, passContext({ evaluate }));
  verify(out, pass.name);
  return print(out, { inlineElements: 64 });
}

/** Throws, showing both texts, when a pass does not turn `before` into `after`. White space at line ends does not count. */
export async function checkPass(pass: Pass, before: string, after: string): Promise<void> {
  const [found, wanted] = [await applyPass(pass, before), print(parse(after), { inlineElements: 64 })];
  if (found !== wanted) throw new Error(`pass '${pass.name}' gave\n${found}\nexpected\n${wanted}`);
}

/** Runs a graph on ONNX Runtime as it stands, inputs in the graph's order; `level` says how far ONNX Runtime itself may rewrite it. */
export async function runGraph(g: Graph, inputs: readonly TensorLike[], level: "basic" | "all" = "basic"): Promise<readonly Tensor[]> {
  const artifact = await hostEngine.build(inferGraph(g).graph, { target: { sm: 0, tensorrt: 0, precision: "fp32" } });
  const executable = await hostEngine.open({ ...artifact, settings: { ...artifact.settings, level } }, { streams: 1, threads: 1 });
  try {
    return await executable.run(inputs);
  } finally {
    await executable.dispose();
  }
}

/**
 * Throws when what an operator's definition infers for one of its samples is not what ONNX Runtime gives, or when its cost or a verdict makes
 * no sense. The definition need not be in the registry. Gives the number of samples.
 */
export const checkOp = async (def: AnyOp): Promise<number> => await checkSamples(def, runGraph);

/**
 * Builds and opens a graph (or its text) on an engine, runs it three times at once, and throws when a result is not ONNX Runtime's. Gives the
 * largest error as a share of the largest value.
 */
export const checkEngine = async (engine: Engine, graph: Graph | string, options: CheckEngineOptions = {}): Promise<number> =>
  await checkOneEngine(engine, typeof graph === "string" ? parse(graph) : graph, options, { run: runGraph, error: relativeError });

/** Largest difference between two lists of tensors, relative to the largest magnitude of the second; Infinity when types or dims differ. */
export function relativeError(actual: readonly TensorLike[], expected: readonly TensorLike[]): number {
  let worst = actual.length === expected.length ? 0 : Number.POSITIVE_INFINITY;
  expected.forEach((e, i) => {
    const a = actual[i];
    if (a === undefined || a.type !== e.type || a.dims.join() !== e.dims.join()) {
      worst = Number.POSITIVE_INFINITY;
      return;
    }
    const value = (t: TensorLike, k: number): number => elementNumber(t.type, t.data[k]);
    let [difference, scale] = [0, 0];
    for (let k = 0; k < e.data.length; k++) {
      const [x, y] = [value(a, k), value(e, k)];
      if (Object.is(x, y)) continue;
      difference = Math.max(difference, Number.isNaN(x - y) ? Number.POSITIVE_INFINITY : Math.abs(x - y));
      if (Number.isFinite(y)) scale = Math.max(scale, Math.abs(y));
    }
    for (let k = 0; k < e.data.length; k++) if (Number.isFinite(value(e, k))) scale = Math.max(scale, Math.abs(value(e, k)));
    worst = Math.max(worst, difference === 0 ? 0 : difference / (scale === 0 ? 1 : scale));
  });
  return worst;
}
