/** `createInferenceGraph`, `calibGraphToInferGraph` and `TrtGraphConverterV2`: TF-TRT's entry points, mapped onto `compile`. */
import type { ModelInput } from "../compile.js";
import { presentGpu } from "../engines/tensorrt/load.js";
import type { CompileOptions } from "../options.js";
import type { Feeds } from "../runtime/ports.js";
import { copyOf, type TensorLike } from "../tensor.js";
import { covering, type EngineShapes, InferenceGraph, warnings } from "./graph.js";
import {
  badParameter,
  type ConverterParameters,
  checkParameters,
  type InferenceGraphParameters,
  type ProfileStrategy,
  precisionOf,
} from "./parameters.js";

/** Feeds by input name, or tensors in the order of the inputs. */
type InputFeeds = Feeds | readonly TensorLike[];
/** TF-TRT's `input_fn` and `calibration_input_fn`: gives the feeds, one after another. */
type InputFn = () => Iterable<InputFeeds> | AsyncIterable<InputFeeds>;

/** Graphs that still take calibration feeds, with what `calibGraphToInferGraph` needs of them. */
const calibrating = new WeakMap<
  InferenceGraph,
  { readonly feeds: Feeds[]; readonly finish: (feeds: readonly Feeds[]) => Promise<InferenceGraph> }
>();

/**
 * TF-TRT's `create_inference_graph`: a frozen graph with its outputs, or a SavedModel. INT8 with `useCalibration` gives a graph that runs as it is and
 * remembers its feeds; `calibGraphToInferGraph` makes the final one of it. Throws P1008 and what `compile` throws.
 */
export async function createInferenceGraph(
  inputGraphDef: ModelInput | undefined,
  outputs: readonly string[] | undefined,
  parameters: InferenceGraphParameters = {},
): Promise<InferenceGraph> {
  checkParameters("createInferenceGraph", parameters);
  const { inputSavedModelDir, outputSavedModelDir, isDynamicOp = false, maxBatchSize = 1, maximumCachedEngines = 1 } = parameters;
  const model = inputGraphDef ?? inputSavedModelDir;
  if (model === undefined || (inputGraphDef !== undefined && inputSavedModelDir !== undefined))
    throw badParameter({
      what: "createInferenceGraph takes a graph or 'inputSavedModelDir', one of the two",
      fix: "pass undefined for the graph when you give a SavedModel's folder",
    });
  const made = async (feeds: readonly Feeds[] | undefined): Promise<InferenceGraph> => {
    const graph = await InferenceGraph.of({
      model,
      options: {
        ...compileOptions(parameters, feeds),
        ...(outputs === undefined ? {} : { outputs }),
        ...(parameters.inputSavedModelSignatureKey === undefined ? {} : { signature: parameters.inputSavedModelSignatureKey }),
      },
      maximumCachedEngines,
      buildAtRuntime: isDynamicOp,
    });
    const fixed = isDynamicOp ? undefined : staticDims(graph, maxBatchSize);
    if (fixed !== undefined) await graph.build(fixed);
    if (outputSavedModelDir !== undefined) await graph.save(outputSavedModelDir);
    return graph;
  };
  if (precisionOf(parameters.precisionMode) !== "int8" || parameters.useCalibration === false) return await made(undefined);
  return await calibrationGraph(
    {
      model,
      options: { ...(outputs === undefined ? {} : { outputs }), signature: parameters.inputSavedModelSignatureKey },
      maximumCachedEngines,
    },
    made,
  );
}

/** TF-TRT's `calib_graph_to_infer_graph`: the INT8 graph, by the feeds that the calibration graph was run on. Throws P1008 without any. */
export async function calibGraphToInferGraph(calibrationGraph: InferenceGraph): Promise<InferenceGraph> {
  const state = calibrating.get(calibrationGraph);
  if (state === undefined)
    throw badParameter({
      what: "calibGraphToInferGraph was given a graph that is not being calibrated",
      fix: "make one with createInferenceGraph({ precisionMode: 'INT8' })",
    });
  if (state.feeds.length === 0)
    throw badParameter({ what: "the calibration graph has not been run", fix: "run it on some hundred typical feeds first" });
  const graph = await state.finish(state.feeds);
  await calibrationGraph.dispose();
  return graph;
}

async function calibrationGraph(
  parts: { readonly model: ModelInput; readonly options: CompileOptions; readonly maximumCachedEngines: number },
  finish: (feeds: readonly Feeds[]) => Promise<InferenceGraph>,
): Promise<InferenceGraph> {
  const graph = await InferenceGraph.of({ ...parts, options: { ...parts.options, target: "host" }, buildAtRuntime: false });
  const feeds: Feeds[] = [];
  const run = graph.run.bind(graph);
  graph.run = async (given, options) => {
    // Of what is fed now: a caller may hand the buffers over, or fill them again.
    const kept = typeof given === "object" && given !== null ? copies(given) : {};
    const results = await run(given, options);
    feeds.push(kept);
    return results;
  };
  calibrating.set(graph, { feeds, finish });
  return graph;
}
const copies = (feeds: Feeds): Feeds => Object.fromEntries(Object.entries(feeds).map(([name, t]) => [name, copied(t)]));
/** What is no tensor stays as it is: whoever runs it says so. */
const copied = (t: TensorLike): TensorLike =>
  ArrayBuffer.isView(t?.data) ? { type: t.type, dims: t.dims, data: copyOf(t.data as Float32Array) } : t;

/** Dims of a static engine: the batch is `maxBatchSize` where it is open. Undefined, with a warning, where another dim is open. */
function staticDims(graph: InferenceGraph, maxBatchSize: number): Readonly<Record<string, readonly number[]>> | undefined {
  const found: Record<string, readonly number[]> = {};
  for (const { name, dims } of graph.inputs) {
    const fixed = dims?.map((d, i) => (i === 0 && typeof d === "string" ? maxBatchSize : d));
    if (fixed === undefined || !fixed.every((d) => typeof d === "number")) {
      const text = `input '${name}' leaves more than its batch open: no engine is built before shapes are known; set isDynamicOp`;
      warnings({ severity: "warning", text, where: { value: name } });
      return undefined;
    }
    found[name] = fixed;
  }
  return found;
}

function compileOptions(p: InferenceGraphParameters | ConverterParameters, feeds: readonly Feeds[] | undefined): CompileOptions {
  return {
    target: p.target ?? (presentGpu() === undefined ? "auto" : ["tensorrt", "cuda", "host"]),
    precision: precisionOf(p.precisionMode),
    minimumSegmentSize: p.minimumSegmentSize ?? 3,
    maxWorkspaceSizeBytes: p.maxWorkspaceSizeBytes ?? 2 ** 30,
    maximumCachedEngines: p.maximumCachedEngines ?? 1,
    onRemark: warnings,
    ...(feeds === undefined ? {} : { calibration: { ...p.calibration, data: feeds } }),
  };
}

/** TF-TRT's converter for SavedModels: `convert`, then `build` for known shapes, `save`, `summary`. */
export class TrtGraphConverterV2 {
  readonly #parameters: ConverterParameters;
  #graph: InferenceGraph | undefined;

  /** Throws P1008. */
  constructor(parameters: ConverterParameters) {
    checkParameters("TrtGraphConverterV2", parameters);
    if (parameters.inputSavedModelDir === undefined)
      throw badParameter({ what: "TrtGraphConverterV2 needs 'inputSavedModelDir'", fix: "give the folder of a SavedModel" });
    this.#parameters = parameters;
  }

  /** Converts the SavedModel and gives what runs it. INT8 with `useCalibration` needs `calibrationInputFn`. */
  async convert(calibrationInputFn?: InputFn): Promise<InferenceGraph> {
    const p = this.#parameters;
    const calibrated = precisionOf(p.precisionMode) === "int8" && p.useCalibration !== false;
    if (calibrated !== (calibrationInputFn !== undefined))
      throw badParameter(
        calibrated
          ? {
              what: "INT8 with calibration needs a calibrationInputFn",
              fix: "pass convert a function that gives typical feeds, or set useCalibration to false",
            }
          : { what: "a calibrationInputFn is for INT8 with calibration alone", fix: "leave it out, or set precisionMode to 'INT8'" },
      );
    const signature = p.inputSavedModelSignatureKey === undefined ? {} : { signature: p.inputSavedModelSignatureKey };
    const parts = {
      model: p.inputSavedModelDir,
      maximumCachedEngines: p.maximumCachedEngines ?? 1,
      buildAtRuntime: p.allowBuildAtRuntime ?? true,
    };
    let graph = await InferenceGraph.of({ ...parts, options: { ...compileOptions(p, undefined), ...signature } });
    if (calibrationInputFn !== undefined) {
      const feeds: Feeds[] = [];
      // A generator may fill the same buffers for every feed.
      for await (const given of called(calibrationInputFn, "convert")) feeds.push(copies(named(graph, given)));
      graph = await InferenceGraph.of({ ...parts, options: { ...compileOptions(p, feeds), ...signature } });
    }
    this.#graph = graph;
    return graph;
  }

  /** Builds engines for the shapes of the feeds that `inputFn` gives, by the profile strategy. */
  async build(inputFn: InputFn): Promise<void> {
    const graph = this.#converted("build");
    const shapes: EngineShapes[] = [];
    for await (const given of called(inputFn, "build")) {
      const feeds = named(graph, given);
      shapes.push(Object.fromEntries(Object.entries(feeds).map(([name, { dims }]) => [name, { min: dims, opt: dims, max: dims }])));
    }
    if (shapes.length === 0) throw badParameter({ what: "build was given no feeds", fix: "give one for every shape that shall be served" });
    const { useDynamicShape = false, dynamicShapeProfileStrategy = "Range" } = this.#parameters;
    const strategy: ProfileStrategy = useDynamicShape ? dynamicShapeProfileStrategy : "ImplicitBatchModeCompatible";
    const dimsOf = (s: EngineShapes): Readonly<Record<string, readonly number[]>> =>
      Object.fromEntries(Object.entries(s).map(([name, { max }]) => [name, max]));
    switch (strategy) {
      case "Range":
        await graph.buildRange(covering(shapes));
        break;
      case "Optimal":
        for (const s of shapes) await graph.buildRange(s);
        break;
      case "Range+Optimal":
        await graph.buildRange(covering(shapes));
        for (const s of shapes) await graph.buildRange(s);
        break;
      case "ImplicitBatchModeCompatible":
        for (const s of shapes) await graph.build(dimsOf(s));
        break;
      default:
        strategy satisfies never;
    }
  }

  /** Saves the result as a bundle, which `load` opens. */
  async save(outputSavedModelDir: string): Promise<void> {
    await this.#converted("save").save(outputSavedModelDir);
  }

  /** Prints what was converted, and gives it as text. */
  async summary(lineLength = 160, detailed = true, printFn: (text: string) => void = console.log): Promise<string> {
    const text = await this.#converted("summary").summary({ lineLength, detailed });
    printFn(text);
    return text;
  }

  #converted(method: string): InferenceGraph {
    if (this.#graph === undefined) throw badParameter({ what: `${method} was called before convert`, fix: "await convert() first" });
    return this.#graph;
  }
}

/** What a function gives to iterate over. Throws P1008 for what gives nothing such. */
function called(fn: InputFn, method: string): ReturnType<InputFn> {
  const given: unknown = typeof fn === "function" ? fn() : undefined;
  if (typeof given === "object" && given !== null && (Symbol.iterator in given || Symbol.asyncIterator in given))
    return given as ReturnType<InputFn>;
  throw badParameter({
    what:
      typeof fn === "function"
        ? `the function that ${method} was given returned nothing to iterate over`
        : `${method} was given no function`,
    fix: "pass a generator function that yields feeds",
  });
}

/** Feeds by the inputs' own names. Throws P1008. */
function named(graph: InferenceGraph, given: InputFeeds): Feeds {
  if (typeof given !== "object" || given === null)
    throw badParameter({
      what: `a feed is ${given === null ? "null" : `a ${typeof given}`}`,
      fix: "give tensors by input name, or in the inputs' order",
    });
  if (!Array.isArray(given)) {
    const feeds = given as Feeds;
    return Object.fromEntries(
      graph.inputs.map(({ name }) => {
        const t = feeds[name] ?? feeds[name.replace(/:0$/, "")];
        if (t === undefined)
          throw badParameter({
            what: `a feed has no '${name}'`,
            fix: `the inputs are ${graph.inputs.map((p) => `'${p.name}'`).join(", ")}`,
          });
        return [name, t];
      }),
    );
  }
  const list = given as readonly TensorLike[];
  if (list.length !== graph.inputs.length)
    throw badParameter({
      what: `a feed has ${list.length} tensors, the graph takes ${graph.inputs.length}`,
      fix: `give them in the order ${graph.inputs.map((p) => `'${p.name}'`).join(", ")}, or by name`,
    });
  return Object.fromEntries(graph.inputs.map(({ name }, i) => [name, list[i] as TensorLike]));
}
