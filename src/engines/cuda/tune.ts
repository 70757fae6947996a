/**
 * Picks tactics by timing them: every distinct product and convolution of a segment, its best guesses compiled side by side and run on random
 * data. Timings are kept on disk by problem, compiler and GPU, so that the next compilation times nothing. Without a GPU the first guess stands.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { cacheFile } from "../../atomic.js";
import type { DType, Graph } from "../../ir/types.js";
import { cacheFolder } from "../disk-cache.js";
import { compileSource, nvrtcVersion } from "./compiler.js";
import { openDevice } from "./device.js";
import { openPlan } from "./executable.js";
import { type LowerOptions, lower, type Problem } from "./lower.js";
import type { Arg, Buffer, KernelPlan, Operation, Translation } from "./plan.js";
import { PRELUDE, storage } from "./storage.js";
import { convKernel, gemmKernel, type KernelText, type Precision, type Tactic, tacticName } from "./templates/index.js";

export type TuneLevel = "none" | "quick" | "full";
/** Bump when templates change in a way that moves their timings. */
const VERSION = 3;
/** Tactics timed of each kind of kernel, best guesses first. */
const CANDIDATES: Readonly<Record<Exclude<TuneLevel, "none">, number>> = { quick: 7, full: 30 };

/** The index of the fastest tactic by problem, for every problem of the segment. */
export async function tune(
  segment: Graph,
  options: LowerOptions,
  level: Exclude<TuneLevel, "none">,
  onProgress: (done: number, total: number) => void = () => {},
): Promise<ReadonlyMap<string, number>> {
  const problems = new Map<string, Problem>();
  lower(segment, { ...options, onProblem: (p) => void problems.set(p.key, p) });
  const book = await openBook();
  const picks = new Map<string, number>();
  const open: { readonly problem: Problem; readonly made: Promise<readonly Candidate[]> }[] = [];
  let done = 0;
  for (const p of problems.values()) {
    const kept = book.get(`${level} ${p.key}`);
    const known = kept === undefined ? -1 : p.tactics.findIndex((t) => tacticName(t) === kept);
    const wanted = candidates(p, CANDIDATES[level]);
    if (known >= 0) picks.set(p.key, known);
    else if (wanted.length > 1) {
      // All compile side by side while the first are being timed.
      open.push({ problem: p, made: compiled(p, wanted, options) });
      continue;
    }
    onProgress(++done, problems.size);
  }
  for (const { problem, made } of open) {
    const times = await timed(problem, await made, options);
    const best = times.reduce((x, t) => (t.ms < x.ms ? t : x), { index: 0, ms: Number.POSITIVE_INFINITY }).index;
    picks.set(problem.key, best);
    const tactic = problem.tactics[best];
    if (tactic !== undefined) book.set(`${level} ${problem.key}`, tacticName(tactic));
    onProgress(++done, problems.size);
  }
  await book.save();
  return picks;
}

/** Which of several plans for the same results runs fastest: kept on disk as the tactics are. Each is run twice, in turns; the first stands where one fails. */
export async function fasterOf(plans: readonly KernelPlan[], run: (plan: KernelPlan) => Promise<number>): Promise<number> {
  const book = await openBook();
  const hash = createHash("sha256");
  for (const p of plans) hash.update(JSON.stringify([p.sources, p.operations, p.arenaBytes]));
  const key = `plan ${hash.digest("hex").slice(0, 24)}`;
  const kept = Number(book.get(key) ?? Number.NaN);
  if (kept in plans) return kept;
  const times = plans.map(() => Number.POSITIVE_INFINITY);
  try {
    for (let turn = 0; turn < 2; turn++) for (const [i, p] of plans.entries()) times[i] = Math.min(times[i] as number, await run(p));
  } catch {
    return 0;
  }
  const best = times.indexOf(Math.min(...times));
  book.set(key, String(best));
  await book.save();
  return best;
}

/** Indices of the first few tactics of each template. */
function candidates(p: Problem, most: number): readonly number[] {
  const taken = new Map<string, number>();
  return p.tactics.flatMap((t, i) => {
    const n = taken.get(t.template) ?? 0;
    taken.set(t.template, n + 1);
    return n < most ? [i] : [];
  });
}

interface Candidate {
  readonly index: number;
  readonly kernel: KernelText;
  readonly cubin: Uint8Array;
}
/** Those of the tactics that compile. */
async function compiled(p: Problem, wanted: readonly number[], options: LowerOptions): Promise<readonly Candidate[]> {
  const made = await Promise.all(
    wanted.map(async (index): Promise<readonly Candidate[]> => {
      try {
        const tactic = p.tactics[index] as Tactic;
        const name = `tactic_${index}`;
        const kernel =
          p.kind === "conv"
            ? convKernel(p.problem, tactic, p.epilogue, name, options.device)
            : gemmKernel(p.problem, tactic, p.epilogue, name, options.device);
        return [{ index, kernel, cubin: (await compileSource(kernel.source, options.device.arch, { name })).cubin }];
      } catch {
        return [];
      }
    }),
  );
  return made.flat();
}

interface TacticTime {
  readonly index: number;
  readonly name: string;
  readonly ms: number;
}
const BITS: Readonly<Partial<Record<DType, string>>> = {
  float32: "__float_as_uint(f)",
  float16: "float_to_half(f) | (u32)float_to_half(-f) << 16",
  bfloat16: "float_to_bf16(f) | (u32)float_to_bf16(-f) << 16",
  int32: "h & 1023",
};
/** Writes `n` words of random elements: floats in [-1, 1), bytes of any value. */
const fillText = (name: string, bits: string): string => `
extern "C" __global__ void __launch_bounds__(256) ${name}(u32* __restrict__ out, int n, int seed) {
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= n) return;
  u32 h = (u32)i * 2654435761u + (u32)seed;
  h ^= h >> 15; h *= 2246822519u; h ^= h >> 13;
  const float f = (float)(h >> 9) * (1.0f / 4194304.0f) - 1.0f;
  out[i] = ${bits};
}
`;
const fillName = (dtype: DType): string => (Object.hasOwn(BITS, dtype) ? `fill_${dtype}` : "fill_bytes");

async function timed(p: Problem, made: readonly Candidate[], options: LowerOptions): Promise<readonly TacticTime[]> {
  const dtype = DTYPES[p.problem.dtype];
  const { bytes } = storage(dtype);
  const sizes = extents(p);
  const buffers: Buffer[] = [];
  let end = 0;
  const allocate = (size: number): number => {
    buffers.push({ kind: "arena", offset: end, bytes: size });
    end += Math.ceil(size / 256) * 256;
    return buffers.length - 1;
  };
  const operations: Operation[] = [];
  const filled = (type: DType, size: number): number => {
    const buffer = allocate(Math.ceil(size / 4) * 4);
    const words = Math.ceil(size / 4);
    if (words === 0) return buffer;
    const args: readonly Arg[] = [
      { kind: "buffer", buffer, offset: 0 },
      { kind: "i32", value: words },
      { kind: "i32", value: 7 * buffer + 1 },
    ];
    operations.push({
      kind: "launch",
      launch: { kernel: fillName(type), grid: [Math.ceil(words / 256), 1, 1], block: [256, 1, 1], shared: 0, args, nodes: [] },
    });
    return buffer;
  };
  const [a, b] = [filled(dtype, sizes.a * bytes), filled(dtype, sizes.b * bytes)];
  const ends = p.operands.map((o) => filled(o.dtype, o.bytes));
  const out = ends.at(-1) as number;
  const place = (operand: string): number =>
    operand === "a" ? a : operand === "b" ? b : operand === "residual" ? (ends[p.residual] as number) : out;
  const fill = `${PRELUDE}${fillText("fill_bytes", "h")}${Object.entries(BITS)
    .map(([type, bits]) => fillText(fillName(type as DType), bits))
    .join("")}`;
  const sources: Translation[] = [{ kernels: ["fill_bytes", ...Object.keys(BITS).map((type) => fillName(type as DType))], source: fill }];
  const { arch } = options.device;
  const cubins = [(await compileSource(fill, arch, { name: "fill" })).cubin];
  const index = new Map<string, number>();
  for (const { kernel: k, index: i, cubin } of made) {
    const args = k.arguments.flatMap((x): Arg[] => {
      if (x.kind === "epilogue") return ends.map((buffer) => ({ kind: "buffer", buffer, offset: 0 }));
      if (x.kind === "scratch") {
        const buffer = allocate(x.bytes);
        if (x.zero) operations.push({ kind: "clear", buffer, offset: 0, bytes: x.bytes });
        return [{ kind: "buffer", buffer, offset: 0 }];
      }
      const buffer = place(x.operand);
      return [x.kind === "operand" ? { kind: "buffer", buffer, offset: 0 } : { kind: "tensorMap", buffer, offset: 0, map: x.map }];
    });
    const { name, grid, block, shared, cluster } = k;
    operations.push({ kind: "launch", launch: { kernel: name, grid, block, shared, cluster, args, nodes: [] } });
    sources.push({ kernels: [name], source: k.source });
    cubins.push(cubin);
    index.set(name, i);
  }
  const plan: KernelPlan = {
    schema: "partita.cuda/1",
    inputs: [],
    outputs: [],
    buffers,
    arenaBytes: end,
    weightsBytes: 0,
    operations,
    sources,
    arch,
  };
  const executable = await openPlan(plan, cubins, new Uint8Array(0));
  try {
    const times = await executable.profile({ repeats: 10, samples: 7, warmup: 1 });
    return times.flatMap((t) => {
      const at = index.get(t.name);
      const tactic = at === undefined ? undefined : p.tactics[at];
      return at === undefined || tactic === undefined ? [] : [{ index: at, name: tacticName(tactic), ms: t.ms }];
    });
  } finally {
    await executable.dispose();
  }
}
const DTYPES: Readonly<Record<Precision, DType>> = { f16: "float16", bf16: "bfloat16", tf32: "float32", f32: "float32", s8: "int8" };

/** Elements that each operand spans. */
function extents(p: Problem): { readonly a: number; readonly b: number } {
  if (p.kind === "conv") {
    const c = p.problem;
    const depth = c.depth ?? { d: 1, t: 1, o: 1 };
    return {
      a: c.n * depth.d * c.h * (c.lineStride ?? c.w * (c.pixelStride ?? c.c)),
      b: c.k * (c.weightStride ?? (depth.t * c.r * c.s * c.c) / c.groups),
    };
  }
  const { M, N, K, batch, a, b } = p.problem;
  const span = (rows: number, o: typeof a): number =>
    1 + (rows - 1) * o.rowStride + (K - 1) * o.colStride + batch.reduce((sum, d, i) => sum + (d - 1) * (o.batchStride?.[i] ?? 0), 0);
  return { a: span(M, a), b: span(N, b) };
}

const openBook = async (): Promise<Timings> => new Timings(`${openDevice().properties.name} nvrtc ${await nvrtcVersion()} v${VERSION}`);

/** A JSON file of tactic names; unreadable ones are as good as none. */
class Timings {
  readonly #path: string;
  readonly #entries: Record<string, string>;
  #changed = false;

  constructor(identity: string) {
    this.#path = join(cacheFolder(), "tactics", `${createHash("sha256").update(identity).digest("hex").slice(0, 24)}.json`);
    this.#entries = this.#stored();
  }
  #stored(): Record<string, string> {
    const found = Object.create(null) as Record<string, string>;
    try {
      for (const [key, value] of Object.entries(JSON.parse(readFileSync(this.#path, "utf8")) as object))
        if (typeof value === "string") found[key] = value;
    } catch {
      // None yet, or none that can be read.
    }
    return found;
  }
  get(key: string): string | undefined {
    return this.#entries[key];
  }
  set(key: string, value: string): void {
    this.#entries[key] = value;
    this.#changed = true;
  }
  /** With what other processes have stored meanwhile. */
  async save(): Promise<void> {
    if (this.#changed) await cacheFile(this.#path, `${JSON.stringify({ ...this.#stored(), ...this.#entries }, null, 1)}\n`);
  }
}
