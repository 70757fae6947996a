/** The public names. */
export { compile, load, type ModelInput, report } from "./compile.js";
export { PartitaError, type Remark, type Verdict, type Where } from "./diagnostics.js";
export { npyBytes, npzBytes, readNpy, readNpz, writeNpz } from "./npz.js";
export type { CompileOptions, Precision, ProgressEvent, ShapeOption, TargetName } from "./options.js";
export type { Pin } from "./partition/verdicts.js";
export type { Report, ReportData } from "./report/report.js";
export type { Program, SessionOptions } from "./runtime/program.js";
export type { Feeds, Port, SegmentProfile, Session, SessionRunOptions } from "./runtime/session.js";
export { Tensor, type TensorData, type TensorDType, type TensorLike } from "./tensor.js";
