/** A compiled graph: its interface, its report, and the artifacts that sessions are opened from. */
import type { Remark } from "../diagnostics.js";
import type { Artifact, Engine } from "../engines/engine.js";
import type { Report } from "../report/report.js";
import { saveBundle } from "./bundle.js";
import { type Plan, type Port, Session } from "./session.js";

export interface SessionOptions {
  /** Runs that may be in ONNX Runtime at once. More streams take more memory. Default 1. */
  readonly streams?: number | undefined;
  /** Threads of one run on the host. Default: all cores. */
  readonly threads?: number | undefined;
  /** Told of what was not as the program says: kernels compiled again for this machine's GPU. */
  readonly onRemark?: ((remark: Remark) => void) | undefined;
  /** Lets version-compatible TensorRT plans run the host code that they bring. Default false: code in a bundle is not run. */
  readonly allowHostCode?: boolean | undefined;
}
export interface ProgramParts {
  readonly plan: Plan;
  /** One per step of the plan. */
  readonly artifacts: readonly Artifact[];
  readonly engines: (name: Artifact["engine"]) => Engine;
  readonly report: Report;
}

export class Program {
  readonly inputs: readonly Port[];
  readonly outputs: readonly Port[];
  readonly report: Report;
  readonly #parts: ProgramParts;

  constructor(parts: ProgramParts) {
    this.inputs = parts.plan.inputs;
    this.outputs = parts.plan.outputs;
    this.report = parts.report;
    this.#parts = parts;
  }

  /** Opens the artifacts. Throws P20xx when an engine refuses its own. */
  async createSession(options: SessionOptions = {}): Promise<Session> {
    const { plan, artifacts, engines } = this.#parts;
    const opened = await Promise.allSettled(
      artifacts.map((a) =>
        engines(a.engine).open(a, {
          streams: options.streams ?? 1,
          threads: options.threads ?? 0,
          onRemark: options.onRemark,
          allowHostCode: options.allowHostCode,
        }),
      ),
    );
    const failed = opened.find((o) => o.status === "rejected");
    if (failed !== undefined) {
      await Promise.all(opened.map((o) => (o.status === "fulfilled" ? o.value.dispose() : undefined)));
      throw failed.reason;
    }
    return new Session(
      plan,
      opened.map((o) => (o as PromiseFulfilledResult<Awaited<ReturnType<Engine["open"]>>>).value),
    );
  }

  /** Writes the bundle: a folder that `load` opens without the model. An existing bundle is replaced whole or not at all. Throws P30xx. */
  async save(path: string): Promise<void> {
    const { plan, artifacts } = this.#parts;
    await saveBundle(path, { plan, artifacts, report: this.report });
  }
}
