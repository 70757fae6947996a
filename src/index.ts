/** The public names. */
import type { ModelInput } from "./compile.js";
import type { CompileOptions, LoadOptions } from "./options.js";
import type { Report } from "./report/report.js";
import type { Program } from "./runtime/program.js";
import type { Verification } from "./runtime/verify.js";
import type { VerifyModelOptions } from "./verify.js";

// The compiler is loaded when it is first asked for something: a service that imports the package and compiles nothing yet starts at once.

/** Compiles a model into a program. Throws a coded `PartitaError`; docs/errors.md lists the codes. */
export async function compile(model: ModelInput, options: CompileOptions = {}): Promise<Program> {
  return await (await import("./compile.js")).compile(model, options);
}
/** The partition report of a model; nothing is built, and no engine need be there. */
export async function report(model: ModelInput, options: CompileOptions = {}): Promise<Report> {
  return await (await import("./compile.js")).report(model, options);
}
/** Opens a bundle that `program.save` wrote. Throws P3001 to P3006. */
export async function load(path: string | URL, options: LoadOptions = {}): Promise<Program> {
  return await (await import("./compile.js")).load(path, options);
}
/** Compares a model, compiled, or a bundle with ONNX Runtime on the untouched model, and bisects where they differ. docs/observability.md. */
export async function verify(path: string | URL, options: VerifyModelOptions = {}): Promise<Verification> {
  return await (await import("./verify.js")).verify(path, options);
}
export type { BatchEvent, CacheEvent, Phase, QueueEvent, RunEvent, SegmentEvent } from "./channels.js";
export type { ModelInput } from "./compile.js";
export { PartitaError, type Remark, type Verdict, type Where } from "./diagnostics.js";
export type { DeviceTensor } from "./engines/engine.js";
export type { BindValue } from "./ir/bound.js";
export { npyBytes, npzBytes, readNpy, readNpz, writeNpz } from "./npz.js";
export { defineOperator, type Operator, type OperatorAttrs, type OperatorType } from "./ops/javascript.js";
export type {
  CalibrationOptions,
  CompileOptions,
  DynamicOptions,
  LoadOptions,
  Precision,
  ProgressEvent,
  ShapeOption,
  TargetName,
} from "./options.js";
export type { Pin } from "./partition/verdicts.js";
export type { ReportData } from "./report/data.js";
export type { Report } from "./report/report.js";
export type { Batching } from "./runtime/batching.js";
export type { FaultyNode, ValueError } from "./runtime/bisect.js";
export type { Feeds, Port, SessionFeeds, SessionRunOptions } from "./runtime/ports.js";
export type { LayerProfile, Profile, SegmentTimes } from "./runtime/profile.js";
export type { Program } from "./runtime/program.js";
export type { SegmentProfile, Session, SessionStats } from "./runtime/session.js";
export type { SessionOptions } from "./runtime/settings.js";
export type { Stream, StreamOptions, StreamRunOptions } from "./runtime/stream.js";
export type { Recording, Trace, TraceEvent } from "./runtime/trace.js";
export type { Fault, SegmentCheck, SegmentValue, Verification } from "./runtime/verify.js";
export { Tensor, type TensorData, type TensorDType, type TensorLike } from "./tensor.js";
export type { VerifyModelOptions } from "./verify.js";
