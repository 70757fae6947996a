/** `partita/ir`: for people who write passes, operators and engines. */

export {
  type Artifact,
  type ArtifactFile,
  type BuildContext,
  defineEngine,
  type Engine,
  type Executable,
  type OpenContext,
  type RunOptions,
} from "./engines/engine.js";
export { encodeOnnx, writeOnnx } from "./import/onnx/export.js";
export { importOnnx } from "./import/onnx/index.js";
export * as dims from "./ir/dims.js";
export { Editor, type NodeSpec } from "./ir/edit.js";
export { bodiesOf, constantOf, displayName, originOf, producersOf, qualifiedOp, readsOf, typeAt, usesOf, valueAt } from "./ir/graph.js";
export { constantHash, graphHash } from "./ir/hash.js";
export { type ParseOptions, parse } from "./ir/parse.js";
export { bytesOf, fromTensor, makeConstant, smallNumbers, toTensor, typedOf } from "./ir/payload.js";
export { type PrintOptions, print, typeText } from "./ir/print.js";
export type * from "./ir/types.js";
export { verify } from "./ir/verify.js";
export * as define from "./ops/define.js";
export { absent, defineOp, type OpDef, type Sample } from "./ops/define.js";
export { inferGraph } from "./ops/infer.js";
export { allOps, lookup } from "./ops/registry.js";
export { lower } from "./passes/lower.js";
export {
  any,
  constant,
  dimsOf,
  either,
  Match,
  match,
  numbersOf,
  type OpOptions,
  op,
  type Pattern,
  type Subject,
  scalar,
} from "./passes/match.js";
export { definePass, type Pass, type PassContext, runPasses } from "./passes/pass.js";
export { pipeline } from "./passes/pipeline.js";
export { type Draft, elementwise, type Replacement, type Rule, rewritePass } from "./passes/rewrite.js";
export type { Keep } from "./passes/spelling.js";
