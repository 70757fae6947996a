/** `partita/tftrt`: TF-TRT's names, parameters and defaults for people who come from there. docs/from-tf-trt.md is their guide. */
export { calibGraphToInferGraph, createInferenceGraph, TrtGraphConverterV2 } from "./tftrt/converter.js";
export type { EngineShapes, InferenceGraph, InferenceGraphCounters } from "./tftrt/graph.js";
export {
  type ConverterParameters,
  type InferenceGraphParameters,
  type PrecisionMode,
  type ProfileStrategy,
  TrtPrecisionMode,
} from "./tftrt/parameters.js";
