/** ONNX Runtime on a file as it is, and the comparison of two sets of results. */
import * as ort from "onnxruntime-node";
import { isTensorDType, Tensor, type TensorLike } from "../../src/tensor.js";
import { compareTensors } from "../support/compare.js";

export type Reference = { readonly error: string } | { readonly results: Record<string, TensorLike> };

/** `run` false: the model is only loaded. */
export async function referenceOf(
  bytes: Uint8Array,
  path: string,
  feeds: Readonly<Record<string, TensorLike>>,
  run: boolean,
  level: "disabled" | "basic" | "all" = "basic",
): Promise<Reference> {
  let session: ort.InferenceSession | undefined;
  try {
    const options = { graphOptimizationLevel: level, logSeverityLevel: 4, intraOpNumThreads: 1, interOpNumThreads: 1 } as const;
    session = Buffer.from(bytes).includes("location")
      ? await ort.InferenceSession.create(path, options)
      : await ort.InferenceSession.create(bytes, options);
    if (!run) return { results: {} };
    const names = new Set(session.inputNames);
    const out = await session.run(
      Object.fromEntries(
        Object.entries(feeds)
          .filter(([name]) => names.has(name))
          .map(([name, t]) => [name, new ort.Tensor(t.type as "float32", t.data as Float32Array, t.dims)]),
      ),
    );
    const results: Record<string, TensorLike> = {};
    for (const [name, t] of Object.entries(out)) if (isTensorDType(t.type)) results[name] = new Tensor(t.type, t.data as never, t.dims);
    return { results };
  } catch (error) {
    return { error: error instanceof Error ? error.message : String(error) };
  } finally {
    await session?.release();
  }
}

/** The first output that differs, in words; undefined when all agree. `rtolOfMax`: what may differ, as a share of the largest value. */
export function describeDifference(
  ours: Readonly<Record<string, TensorLike>>,
  theirs: Readonly<Record<string, TensorLike>>,
  rtolOfMax = 1e-3,
): string | undefined {
  for (const [name, expected] of Object.entries(theirs)) {
    const actual = ours[name];
    if (actual === undefined) return `no output '${name}'`;
    const c = compareTensors(actual, expected, { rtolOfMax, atol: 1e-6 });
    if (!c.ok) return `'${name}': ${c.message}`;
  }
  return undefined;
}
