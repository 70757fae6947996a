/** Verification of a model or a bundle: compiled or loaded, run beside ONNX Runtime on the untouched model, and bisected where they differ. */

import { contextOf, segmentFor } from "./build.js";
import { compileKept, enginesWith, load, plan } from "./compile.js";
import { defineError } from "./diagnostics.js";
import { cut } from "./import/cut.js";
import { detect } from "./import/index.js";
import { importOnnx } from "./import/onnx/index.js";
import { boundTensors } from "./ir/bound.js";
import { valueAt } from "./ir/graph.js";
import type { ValueId } from "./ir/types.js";
import { inferGraph } from "./ops/infer.js";
import { type CompileOptions, demandKnown, type Precision, pathOf, settleLoad } from "./options.js";
import { loadBundle } from "./runtime/bundle.js";
import { randomFeeds } from "./runtime/measure.js";
import type { Feeds, Port } from "./runtime/ports.js";
import type { Program } from "./runtime/program.js";
import { untouched } from "./runtime/untouched.js";
import { type Verifiable, type Verification, verifyProgram } from "./runtime/verify.js";
import type { Tensor } from "./tensor.js";

export const modelMissing = defineError<Record<never, never>>(
  "P3110",
  "a bundle is verified without its model",
  () => ({
    what: "a bundle does not hold the untouched model to compare with",
    fix: "give the model too: --model FILE, or { model }",
  }),
  2,
);

export const otherModel = defineError<{ name: string; known: readonly string[] }>(
  "P3112",
  "a bundle is verified against another model",
  ({ name, known }) => ({
    what: `the bundle has an input '${name}', and the model has none of that name: its inputs are ${known.map((k) => `'${k}'`).join(", ")}`,
    fix: "give the model that the bundle was compiled from, with the `inputs` that it was cut at",
  }),
);

export interface VerifyModelOptions {
  /** The untouched model, when a bundle is verified. */
  readonly model?: string | undefined;
  /** Default: seeded random ones, dynamic dims at `size`. */
  readonly feeds?: Feeds | ((inputs: readonly Port[]) => Feeds) | undefined;
  /** Default 1. */
  readonly size?: number | undefined;
  /** Allowed error as a share of the largest magnitude expected of a tensor. Default 1e-3. */
  readonly tolerance?: number | undefined;
  /** Of the compilation, or of loading: `operators`. */
  readonly compile?: CompileOptions | undefined;
  readonly onProgress?: ((stage: string, fraction: number) => void) | undefined;
}

const verifyOptions = [
  "model",
  "feeds",
  "size",
  "tolerance",
  "compile",
  "onProgress",
] as const satisfies readonly (keyof VerifyModelOptions)[];

/** Throws what compiling, loading and running throw, P3110 and P3112. */
export async function verify(given: string | URL, options: VerifyModelOptions = {}): Promise<Verification> {
  demandKnown(options, verifyOptions);
  const path = pathOf(given, "path");
  const { compile: how = {}, tolerance = 1e-3, size = 1, onProgress } = options;
  const bundle = detect(path) === "bundle";
  const modelPath = bundle ? options.model : path;
  if (modelPath === undefined) throw modelMissing({}, { file: path });
  const { program, verifiable } = bundle ? await loadKept(path, modelPath, how) : await compileKept(path, how);
  const bound = boundTensors(program.report.data.options.bound);
  const model = await untouched(modelPath, { inputs: how.inputs, outputs: how.outputs, signature: how.signature, bound });
  const known = model.graph.inputs.map((v) => valueAt(model.graph, v).name);
  const stray = program.inputs.find((p) => !known.includes(p.name));
  if (stray !== undefined) throw otherModel({ name: stray.name, known }, { file: modelPath });
  const feeds = typeof options.feeds === "function" ? options.feeds(program.inputs) : (options.feeds ?? randomFeeds(program.inputs, size));
  const session = await program.createSession();
  let outputs: Record<string, Tensor>;
  try {
    outputs = await session.run(feeds);
  } finally {
    // The segments are opened again one by one: two copies of a program need not fit into a GPU.
    await session.dispose();
  }
  return await verifyProgram(verifiable, model, feeds, outputs, { tolerance, onProgress });
}

/** A bundle with what verification looks into. Graphs of segments that it does not hold are made from the model again. */
async function loadKept(
  path: string,
  model: string,
  how: CompileOptions,
): Promise<{ readonly program: Program; readonly verifiable: Verifiable }> {
  const { operators } = how;
  const program = await load(path, { operators });
  const { plan: loaded, artifacts } = await loadBundle(path);
  const { precision, targets, minimumSegmentSize, shapes, bound } = program.report.data.options;
  const again: CompileOptions = {
    precision: precision as Precision,
    minimumSegmentSize,
    shapes,
    bind: boundTensors(bound),
    target: targets.length === 0 ? "host" : targets,
  };
  const { operators: _, target: __, ...said } = how;
  const planned = await plan(model, { ...said, ...again, operators }, { unbuilt: true });
  const engines = enginesWith(settleLoad({ operators }));
  const name = (id: ValueId): string => valueAt(planned.graph, id).name;
  const context = contextOf(planned);
  const segment: Verifiable["segment"] = (i) => {
    const [step, artifact] = [loaded.steps[i], artifacts[i]];
    if (step === undefined || artifact === undefined) return undefined;
    const [file] = artifact.files;
    if (artifact.engine === "host" && file !== undefined && "path" in file)
      return { graph: inferGraph(importOnnx(file.path)).graph, context };
    const engine = engines(artifact.engine);
    const equal = (ids: readonly ValueId[], names: readonly string[]): boolean =>
      ids.length === names.length && ids.every((id, k) => name(id) === names[k]);
    const same = planned.partition.segments.find((s) => equal(s.inputs, step.inputs) && equal(s.outputs, step.outputs));
    if (same !== undefined) return { graph: segmentFor(engine, planned, same), context };
    // Compiled otherwise than this version of the compiler does: the model's own nodes between those values.
    const typed = inferGraph(planned.original).graph;
    const known = new Set(typed.values.map((v) => v?.name));
    return [...step.inputs, ...step.outputs].every((n) => known.has(n))
      ? { graph: cut(typed, step.inputs, step.outputs), context }
      : undefined;
  };
  return { program, verifiable: { plan: loaded, artifacts, engines, segment } };
}
