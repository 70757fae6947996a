/** A compiled graph: its interface, its report, and the artifacts that sessions are opened from. */
import type { Artifact, Engine, Executable } from "../engines/engine.js";
import type { Report } from "../report/report.js";
import { saveBundle } from "./bundle.js";
import { Lane } from "./lane.js";
import { demandMemory } from "./memory.js";
import { profilerRanges } from "./nvtx.js";
import type { Plan, Port } from "./ports.js";
import { type Origins, originsOf } from "./profile.js";
import { Session } from "./session.js";
import { type SessionOptions, settleSession } from "./settings.js";

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

  /** Opens the artifacts, on every device asked for. Throws P3108, P3109, P3130, or P20xx to P22xx when an engine refuses its own. */
  async createSession(options: SessionOptions = {}): Promise<Session> {
    const { plan, artifacts, engines } = this.#parts;
    const { streams, threads, adapt, devices, queue, gpuMemoryFraction, onRemark, allowHostCode } = settleSession(options);
    const onGpu = artifacts.some((a) => a.engine !== "host");
    if (!onGpu && options.devices !== undefined)
      onRemark?.({
        severity: "note",
        text: "the session was given devices, and no segment of the program runs on one",
        fix: "leave devices out, or compile with a target that uses them",
      });
    const used = onGpu ? devices : [undefined];
    if (gpuMemoryFraction !== undefined && onGpu) demandMemory(this.#parts, { streams, devices, fraction: gpuMemoryFraction });
    profilerRanges();
    const opened: Lane[] = [];
    let origins: Origins | undefined;
    try {
      for (const device of used) {
        const context = { streams, threads, adapt, device, onRemark, allowHostCode };
        const executables = await all(artifacts.map((a) => engines(a.engine).open(a, context)));
        opened.push(new Lane(plan, executables, { engines: artifacts.map((a) => a.engine), device, streams }));
      }
      return new Session(plan, opened, {
        ...queue,
        spread: !onGpu,
        origins: (name) => (origins ??= originsOf(this.report.data))(name),
      });
    } catch (error) {
      await Promise.all(opened.map((l) => l.dispose()));
      throw error;
    }
  }

  /** Writes the bundle: a folder that `load` opens without the model. An existing bundle is replaced whole or not at all. Throws P30xx. */
  async save(folder: string | URL): Promise<void> {
    const { plan, artifacts } = this.#parts;
    await saveBundle(folder, { plan, artifacts, report: this.report });
  }
}

/** All of them, or none: when one cannot be opened, the others are closed again. */
async function all(opening: readonly Promise<Executable>[]): Promise<readonly Executable[]> {
  const settled = await Promise.allSettled(opening);
  const failed = settled.find((o) => o.status === "rejected");
  const opened = settled.flatMap((o) => (o.status === "fulfilled" ? [o.value] : []));
  if (failed === undefined) return opened;
  await Promise.all(opened.map((e) => e.dispose()));
  throw failed.reason;
}
