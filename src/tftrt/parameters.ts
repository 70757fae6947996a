/** TF-TRT's parameters: names in JavaScript's spelling, defaults, and checks. */
import * as v from "valibot";
import { defineError, didYouMean } from "../diagnostics.js";
import type { CompileOptions } from "../options.js";

export const badParameter = defineError<{ what: string; fix: string }>(
  "P1008",
  "a TF-TRT parameter is misspelt or has an illegal value",
  ({ what, fix }) => ({ what, fix }),
  2,
);

/** TF-TRT's names of precisions; lower case is taken as well. */
export const TrtPrecisionMode = { FP32: "FP32", FP16: "FP16", INT8: "INT8" } as const;
export type PrecisionMode = "FP32" | "FP16" | "INT8" | "fp32" | "fp16" | "int8";
/** How engines are built for the shapes that `build` is given: one for the range of them, one for each, both, or one for the largest batch. */
export type ProfileStrategy = "Range" | "Optimal" | "Range+Optimal" | "ImplicitBatchModeCompatible";

interface Common {
  /** Scratch memory of an engine, bytes. Default 1 GiB. */
  readonly maxWorkspaceSizeBytes?: number | undefined;
  /** Default "FP32". */
  readonly precisionMode?: PrecisionMode | undefined;
  /** Segments with fewer nodes stay with the host. Default 3. */
  readonly minimumSegmentSize?: number | undefined;
  /** Engines that are kept, the least recently used going first. Default 1. */
  readonly maximumCachedEngines?: number | undefined;
  /** INT8 ranges from feeds; false: from the quantization nodes of the graph. Default true. */
  readonly useCalibration?: boolean | undefined;
  /** Not of TF-TRT: which engines. Default: TensorRT, then CUDA, then the host on a machine with a GPU, the host alone on others. */
  readonly target?: CompileOptions["target"];
  /** Not of TF-TRT: how ranges are found from the feeds, as in `compile`. */
  readonly calibration?: Omit<NonNullable<CompileOptions["calibration"]>, "data" | "file" | "table"> | undefined;
}
/** Of `create_inference_graph`. */
export interface InferenceGraphParameters extends Common {
  /** The largest batch of an engine that is built at once. Default 1. */
  readonly maxBatchSize?: number | undefined;
  /** Engines are built at run time, for the shapes that come. Default false. */
  readonly isDynamicOp?: boolean | undefined;
  /** A SavedModel's folder, instead of a graph. */
  readonly inputSavedModelDir?: string | undefined;
  /** Default "serving_default". */
  readonly inputSavedModelSignatureKey?: string | undefined;
  /** Where the result is saved, as a bundle. */
  readonly outputSavedModelDir?: string | undefined;
}
/** Of `TrtGraphConverterV2`. */
export interface ConverterParameters extends Common {
  /** A SavedModel's folder. */
  readonly inputSavedModelDir: string;
  /** Default "serving_default". */
  readonly inputSavedModelSignatureKey?: string | undefined;
  /** Engines for ranges of shapes, by `dynamicShapeProfileStrategy`. Default false: one for each batch that is larger than those before. */
  readonly useDynamicShape?: boolean | undefined;
  /** Default "Range". */
  readonly dynamicShapeProfileStrategy?: ProfileStrategy | undefined;
  /** Whether shapes that no engine serves get one when they come. Default true; otherwise the host runs them. */
  readonly allowBuildAtRuntime?: boolean | undefined;
}

const count = v.pipe(v.number("is no number"), v.safeInteger("is no whole number"), v.minValue(1, "is below 1"));
const flag = v.boolean("is not true or false");
const path = v.pipe(v.string("is no path"), v.minLength(1, "is empty"));
const common = {
  maxWorkspaceSizeBytes: v.pipe(v.number("is no number"), v.safeInteger("is no whole number"), v.minValue(0, "is below 0")),
  precisionMode: v.picklist(["FP32", "FP16", "INT8", "fp32", "fp16", "int8"], "is none of FP32, FP16, INT8"),
  minimumSegmentSize: count,
  maximumCachedEngines: count,
  useCalibration: flag,
  // compile checks these two.
  target: v.any(),
  calibration: v.any(),
};
const schemas = {
  createInferenceGraph: {
    ...common,
    maxBatchSize: count,
    isDynamicOp: flag,
    inputSavedModelDir: path,
    inputSavedModelSignatureKey: path,
    outputSavedModelDir: path,
  },
  TrtGraphConverterV2: {
    ...common,
    inputSavedModelDir: path,
    inputSavedModelSignatureKey: path,
    useDynamicShape: flag,
    dynamicShapeProfileStrategy: v.picklist(
      ["Range", "Optimal", "Range+Optimal", "ImplicitBatchModeCompatible"],
      "is none of Range, Optimal, Range+Optimal, ImplicitBatchModeCompatible",
    ),
    allowBuildAtRuntime: flag,
  },
} as const;

/** TensorFlow's spelling of a name: `maxBatchSize` is `max_batch_size`. */
const camel = (name: string): string => name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());

/** Throws P1008 for names that do not exist and values that are not legal. */
export function checkParameters(of: keyof typeof schemas, given: object): void {
  const known: Readonly<Record<string, v.GenericSchema>> = schemas[of];
  for (const [name, value] of Object.entries(given ?? {})) {
    const schema = Object.hasOwn(known, name) ? known[name] : undefined;
    if (schema === undefined) {
      const near = Object.hasOwn(known, camel(name)) ? camel(name) : didYouMean(name, Object.keys(known));
      const fix = near === undefined ? `its parameters are ${Object.keys(known).join(", ")}` : `did you mean '${near}'?`;
      throw badParameter({ what: `${of} has no parameter '${name}'`, fix });
    }
    if (value === undefined) continue;
    const result = v.safeParse(schema, value);
    if (!result.success)
      throw badParameter({ what: `${of}: '${name}' ${result.issues[0].message}`, fix: "see docs/from-tf-trt.md for what it takes" });
  }
}

export const precisionOf = (mode: PrecisionMode | undefined): "fp32" | "fp16" | "int8" =>
  (mode ?? "FP32").toLowerCase() as "fp32" | "fp16" | "int8";
