/**
 * `npm run test:tensorrt -- --full`: what every check needs. Whatever becomes of a check is in the result file at once, so that the file is whole as
 * far as the run came, also where TensorRT ends the process.
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus, release } from "node:os";
import { dirname, join } from "node:path";
import { performance } from "node:perf_hooks";
import { InferenceSession, Tensor as OrtTensor } from "onnxruntime-node";
import { it } from "vitest";
import { PartitaError } from "../../src/diagnostics.js";
import type { Device } from "../../src/engines/cuda/device.js";
import type { TensorRt } from "../../src/engines/tensorrt/native.js";
import type { CompileOptions } from "../../src/index.js";
import { Tensor } from "../../src/tensor.js";
import { tableHeader } from "./fake-tensorrt.js";

const root = join(import.meta.dirname, "../..");

/** "gpu": a real library and a real GPU; "dry": stand-ins for both, to prove the run itself. Empty: not asked for. */
export const mode = process.env["PARTITA_TENSORRT_FULL"] ?? "";
export const dry = mode === "dry";

/**
 * The folder that the processes of a run share: caches, plans, and a file for every check that one of them took. `scripts/test-tensorrt.mjs` makes it,
 * and names the phase: "together" is many processes, each taking the next check that nobody has; "alone" is one process, for what other work would
 * disturb. Without them one process makes all.
 */
export const shared = process.env["PARTITA_TENSORRT_RUN"];
const phase = process.env["PARTITA_TENSORRT_PHASE"] ?? "";

/** True for the first process of the run that asks for it. */
export function claim(name: string): boolean {
  if (shared === undefined) return true;
  try {
    const claims = join(shared, "claims");
    mkdirSync(claims, { recursive: true });
    closeSync(openSync(join(claims, encodeURIComponent(name)), "wx"));
    return true;
  } catch {
    return false;
  }
}

type Figures = Readonly<Record<string, unknown>>;
interface Outcome {
  readonly name: string;
  readonly outcome: "passed" | "failed" | "left out";
  readonly ms: number;
  readonly figures?: Figures;
  readonly error?: { readonly code?: string; readonly message: string };
  readonly why?: string;
}
/** Thrown by a check that cannot be made here, with the reason. */
export class LeftOut extends Error {}

const path = process.env["PARTITA_TENSORRT_RESULTS"] ?? join(root, ".cache/tensorrt/results.json");
const facts: Record<string, unknown> = {};
const checks: Outcome[] = [];

/** What the file says besides the checks. */
export function note(more: Figures): void {
  Object.assign(facts, more);
  write();
}
function write(): void {
  mkdirSync(dirname(path), { recursive: true });
  const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { readonly version: string };
  const head = { schema: "partita.tensorrt-results/2", partita: version, mode, date: new Date().toISOString() };
  const count = (o: Outcome["outcome"]): number => checks.filter((c) => c.outcome === o).length;
  const summary = { passed: count("passed"), failed: count("failed"), leftOut: count("left out") };
  const machine = { cpu: cpus()[0]?.model, cores: availableParallelism(), node: process.version, kernel: release() };
  writeFileSync(
    `${path}.new`,
    `${JSON.stringify({ ...head, machine, ...facts, summary, ...(shared === undefined ? {} : { order }), checks }, undefined, 1)}\n`,
  );
  renameSync(`${path}.new`, path);
}

/** The run's checks by name, in the order in which its file has them. */
const order: string[] = [];

type Work = (figures: Record<string, unknown>) => Promise<void>;
/** A check that others may run beside; its figures go into the file, as does what it failed with. `figures` may be filled before it fails. */
export function check(name: string, work: Work): void {
  register(name, work, phase !== "alone");
}
/** A check that measures time, or takes what others need. */
export function checkAlone(name: string, work: Work): void {
  register(name, work, phase !== "together");
}
function register(name: string, work: Work, here: boolean): void {
  order.push(name);
  if (!here) return;
  it(name, async ({ skip }) => {
    if (!claim(name)) skip("another process of the run makes it");
    const figures: Record<string, unknown> = {};
    const start = performance.now();
    const record = (o: Pick<Outcome, "outcome" | "error" | "why">): void => {
      const ms = Math.round(performance.now() - start);
      checks.push({ name, ...o, ms, ...(Object.keys(figures).length === 0 ? {} : { figures }) });
      write();
    };
    try {
      await work(figures);
      record({ outcome: "passed" });
    } catch (error) {
      if (error instanceof LeftOut) {
        record({ outcome: "left out", why: error.message });
        skip(error.message);
      }
      const message = error instanceof Error ? error.message : String(error);
      record({ outcome: "failed", error: { ...(error instanceof PartitaError ? { code: error.code } : {}), message } });
      throw error;
    }
  });
}

/** A model with what it is fed. */
export interface Subject {
  readonly name: string;
  readonly path: string;
  readonly shapes: NonNullable<CompileOptions["shapes"]>;
  /** The first feeds are those of accuracy and latency, all of them of calibration. */
  readonly feeds: readonly Readonly<Record<string, Tensor>>[];
  readonly precisions: readonly ("fp32" | "fp16" | "int8")[];
  /** Feeds of a batch of so many rows, where the model's batch is open. */
  readonly batch?: ((rows: number) => Readonly<Record<string, Tensor>>) | undefined;
}

/**
 * What ONNX Runtime makes of a file, by name, without anything of Partita's. At its basic level: what its extended one makes of yolo8_nms is wrong by
 * four fifths of the largest value.
 */
export async function onnxRuntime(model: string | Uint8Array, feeds: Readonly<Record<string, Tensor>>): Promise<Record<string, Tensor>> {
  const basic = { graphOptimizationLevel: "basic" } as const;
  const session = typeof model === "string" ? await InferenceSession.create(model, basic) : await InferenceSession.create(model, basic);
  try {
    const given = Object.entries(feeds).map(
      ([name, t]) => [name, new OrtTensor(t.type as "float32", t.data as Float32Array, t.dims)] as const,
    );
    const results = await session.run(Object.fromEntries(given));
    return Object.fromEntries(Object.entries(results).map(([name, t]) => [name, new Tensor(t.type as "float32", t.data as never, t.dims)]));
  } finally {
    await session.release();
  }
}

/** Other feeds of the same kind: floats a little larger or smaller, whole numbers in another order. */
export function variants(feeds: Readonly<Record<string, Tensor>>, count: number): readonly Readonly<Record<string, Tensor>>[] {
  return Array.from({ length: count }, (_, i) =>
    Object.fromEntries(
      Object.entries(feeds).map(([name, t]) => {
        const values = Array.from(t.data as ArrayLike<number | bigint>);
        const moved = values.map((x, k) =>
          typeof x === "number" && t.type.startsWith("float") ? x * (0.8 + 0.05 * i) : (values[(k + i) % values.length] ?? x),
        );
        return [name, new Tensor(t.type as "float32", moved as never, t.dims)];
      }),
    ),
  );
}

export const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1] as number;

/** The bare loop for the library's slots, compiled once; throws what the compiler said. */
export function bareLoop({ family, version }: TensorRt): string {
  const source = join(root, "test/tensorrt/bare-loop.cc");
  const number = version.major * 10_000 + version.minor * 100 + version.patch;
  const table = tableHeader(family, number);
  const folder = join(
    root,
    ".cache/tensorrt/bare-loop",
    createHash("sha256").update(table).update(readFileSync(source)).digest("hex").slice(0, 16),
  );
  const program = join(folder, "bare-loop");
  if (existsSync(program)) return program;
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "table.h"), table);
  const made = spawnSync("c++", ["-std=c++17", "-O2", "-I", folder, "-o", `${program}.new`, source, "-ldl"], { encoding: "utf8" });
  if (made.error !== undefined || made.status !== 0)
    throw new Error(`the bare loop cannot be compiled: ${made.error?.message ?? made.stderr}`);
  renameSync(`${program}.new`, program);
  return program;
}

export interface BareTimes {
  readonly graph: boolean;
  readonly deviceUs: number;
  readonly hostUs: number;
}
/** Times a plan without Partita. Throws what the loop said. */
export function runBare(rt: TensorRt, folder: string, plan: Uint8Array, feeds: Readonly<Record<string, Tensor>>, runs: number): BareTimes {
  writeFileSync(join(folder, "bare.plan"), plan);
  const inputs = Object.entries(feeds).flatMap(([name, t], i) => {
    const view = t.data as Uint8Array;
    const file = join(folder, `bare-${i}.bin`);
    writeFileSync(file, new Uint8Array(view.buffer, view.byteOffset, view.byteLength));
    return ["--input", `${name}=${t.dims.join("x")}=${file}`];
  });
  const driver = process.env["PARTITA_CUDA_DRIVER"] ?? "libcuda.so.1";
  const fixed = ["--library", rt.library, "--driver", driver, "--plan", join(folder, "bare.plan"), "--runs", String(runs)];
  const { status, stdout, stderr, signal } = spawnSync(bareLoop(rt), [...fixed, ...inputs], { encoding: "utf8" });
  if (status !== 0) throw new Error(`the bare loop ended by ${signal ?? `exit code ${status}`}: ${stderr.trim().slice(-500)}`);
  return JSON.parse(stdout) as BareTimes;
}

/** Takes the GPU's memory until no piece of `piece` bytes is left; the function gives it back. */
export function fill({ addon, context }: Device, piece: number): () => void {
  const taken: ReturnType<typeof addon.memAlloc>[] = [];
  for (let size = 2 ** 36; size >= piece; size /= 2)
    for (;;)
      try {
        taken.push(addon.memAlloc(context, size));
      } catch {
        break;
      }
  return () => {
    for (const m of taken) addon.release(m);
  };
}
