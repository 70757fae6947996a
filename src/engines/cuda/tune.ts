/**
 * Picks tactics by timing them: every distinct product and convolution of a segment, its best guesses compiled side by side and run on random
 * data. Timings are kept on disk by problem, compiler and GPU, so that the next compilation times nothing. Without a GPU the first guess stands.
 */
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import type { Graph } from "../../ir/types.js";
import { compileSource, nvrtcVersion } from "./compiler.js";
import { openDevice } from "./device.js";
import { openPlan } from "./executable.js";
import { type LowerOptions, lower, type Problem } from "./lower.js";
import type { Arg, Buffer, KernelPlan, Operation, Translation } from "./plan.js";
import { PRELUDE } from "./storage.js";
import { convKernel, convRows, type EpilogueText, gemmKernel, tacticName } from "./templates/index.js";

export type TuneLevel = "none" | "quick" | "full";
/** Bump when templates change in a way that moves their timings. */
const VERSION = 1;
const CANDIDATES: Readonly<Record<Exclude<TuneLevel, "none">, number>> = { quick: 8, full: 24 };

/** The index of the fastest tactic by problem, for every problem of the segment. */
export async function tune(
  segment: Graph,
  options: LowerOptions,
  level: Exclude<TuneLevel, "none">,
  onProgress: (done: number, total: number) => void = () => {},
): Promise<ReadonlyMap<string, number>> {
  const problems = new Map<string, Problem>();
  lower(segment, { ...options, onProblem: (p) => void problems.set(p.key, p) });
  const device = openDevice();
  const book = new Timings(`${device.properties.name} nvrtc ${await nvrtcVersion()} v${VERSION}`);
  const picks = new Map<string, number>();
  let done = 0;
  for (const p of problems.values()) {
    const tactics = p.tactics.slice(0, CANDIDATES[level]);
    const kept = book.get(`${level} ${p.key}`);
    const known = kept === undefined ? -1 : p.tactics.findIndex((t) => tacticName(t) === kept);
    if (known >= 0) picks.set(p.key, known);
    else if (tactics.length > 1) {
      const best = await fastest(p, tactics.length, options);
      picks.set(p.key, best);
      const tactic = p.tactics[best];
      if (tactic !== undefined) book.set(`${level} ${p.key}`, tacticName(tactic));
    }
    onProgress(++done, problems.size);
  }
  book.save();
  return picks;
}

async function fastest(p: Problem, count: number, options: LowerOptions): Promise<number> {
  const times = await timeTactics(p, count, options);
  return times.reduce((best, t) => (t.ms < best.ms ? t : best), { index: 0, ms: Number.POSITIVE_INFINITY }).index;
}

/** Times the first `count` tactics of a problem in one plan, by their index; a tactic that does not compile or does not fit is passed over. */
export async function timeTactics(
  p: Problem,
  count: number,
  options: LowerOptions,
): Promise<readonly { readonly index: number; readonly name: string; readonly ms: number }[]> {
  const bytes = p.problem.dtype === "f16" || p.problem.dtype === "bf16" ? 2 : 4;
  const type = bytes === 2 ? "unsigned short" : "float";
  const sizes = extents(p);
  const columns = p.kind === "conv" ? p.problem.k : p.problem.N;
  const rows = p.kind === "conv" ? convRows(p.problem) : p.problem.M;
  let vector = 16 / bytes;
  while (vector > 1 && columns % vector !== 0) vector /= 2;
  const narrow = p.problem.dtype === "f16" ? "float_to_half" : p.problem.dtype === "bf16" ? "float_to_bf16" : "";
  const epilogue: EpilogueText = {
    prelude: PRELUDE,
    params: [`${type}* __restrict__ out`],
    vector,
    body: (V) =>
      `  Pack<${type}, ${V}> v;\n#pragma unroll\n  for (int i = 0; i < ${V}; i++) v.e[i] = ${narrow}(acc[i]);\n  store_pack<${type}, ${V}>(out + ((long long)b * ${rows} + m) * ${columns} + n, v);`,
  };
  const buffers: Buffer[] = [];
  let end = 0;
  const allocate = (size: number): number => {
    buffers.push({ kind: "arena", offset: end, bytes: size });
    end += Math.ceil(size / 256) * 256;
    return buffers.length - 1;
  };
  const [a, b, out] = [allocate(sizes.a * bytes), allocate(sizes.b * bytes), allocate(sizes.out * bytes)];
  const fill = `${PRELUDE}
extern "C" __global__ void __launch_bounds__(256) fill(${type}* __restrict__ out, int n, int seed) {
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= n) return;
  u32 h = (u32)i * 2654435761u + (u32)seed;
  h ^= h >> 15; h *= 2246822519u; h ^= h >> 13;
  out[i] = ${narrow}((float)(h >> 9) * (1.0f / 4194304.0f) - 1.0f);
}
`;
  const sources: Translation[] = [{ kernels: ["fill"], source: fill }];
  const operations: Operation[] = [];
  const launchFill = (buffer: number, n: number): void => {
    const args: readonly Arg[] = [
      { kind: "buffer", buffer, offset: 0 },
      { kind: "i32", value: n },
      { kind: "i32", value: 7 * buffer + 1 },
    ];
    operations.push({
      kind: "launch",
      launch: { kernel: "fill", grid: [Math.ceil(n / 256), 1, 1], block: [256, 1, 1], shared: 0, args, nodes: [] },
    });
  };
  launchFill(a, sizes.a);
  launchFill(b, sizes.b);
  const { arch } = options.device;
  const compiled = await Promise.all(
    p.tactics.slice(0, count).map(async (t, i) => {
      try {
        const k =
          p.kind === "conv"
            ? convKernel(p.problem, t, epilogue, `tactic_${i}`, options.device)
            : gemmKernel(p.problem, t, epilogue, `tactic_${i}`, options.device);
        return { k, i, cubin: (await compileSource(k.source, arch, { name: k.name })).cubin };
      } catch {
        return undefined;
      }
    }),
  );
  const cubins = [(await compileSource(fill, arch, { name: "fill" })).cubin];
  const index = new Map<string, number>();
  for (const c of compiled) {
    if (c === undefined) continue;
    const args = c.k.arguments.map((x): Arg => {
      if (x.kind === "epilogue") return { kind: "buffer", buffer: out, offset: 0 };
      if (x.kind === "scratch") {
        const buffer = allocate(x.bytes);
        if (x.zero) operations.push({ kind: "clear", buffer, offset: 0, bytes: x.bytes });
        return { kind: "buffer", buffer, offset: 0 };
      }
      const buffer = x.operand === "a" ? a : b;
      return x.kind === "operand" ? { kind: "buffer", buffer, offset: 0 } : { kind: "tensorMap", buffer, offset: 0, map: x.map };
    });
    const { name, grid, block, shared, cluster } = c.k;
    operations.push({ kind: "launch", launch: { kernel: name, grid, block, shared, cluster, args, nodes: [] } });
    sources.push({ kernels: [name], source: c.k.source });
    cubins.push(c.cubin);
    index.set(name, c.i);
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

/** Elements that each operand spans. */
function extents(p: Problem): { readonly a: number; readonly b: number; readonly out: number } {
  if (p.kind === "conv") {
    const c = p.problem;
    const depth = c.depth ?? { d: 1, t: 1, o: 1 };
    return {
      a: c.n * depth.d * c.h * c.w * (c.pixelStride ?? c.c),
      b: c.k * (c.weightStride ?? (depth.t * c.r * c.s * c.c) / c.groups),
      out: convRows(c) * c.k,
    };
  }
  const { M, N, K, batch, a, b } = p.problem;
  const span = (rows: number, o: typeof a): number =>
    1 + (rows - 1) * o.rowStride + (K - 1) * o.colStride + batch.reduce((sum, d, i) => sum + (d - 1) * (o.batchStride?.[i] ?? 0), 0);
  return { a: span(M, a), b: span(N, b), out: M * N * batch.reduce((x, d) => x * d, 1) };
}

/** A JSON file of tactic names; unreadable ones are as good as none. */
class Timings {
  readonly #path: string;
  readonly #entries: Record<string, string>;
  #changed = false;

  constructor(identity: string) {
    const folder = process.env["PARTITA_CACHE_DIR"] ?? join(process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "partita");
    this.#path = join(folder, "tactics", `${createHash("sha256").update(identity).digest("hex").slice(0, 24)}.json`);
    this.#entries = Object.create(null) as Record<string, string>;
    try {
      for (const [key, value] of Object.entries(JSON.parse(readFileSync(this.#path, "utf8")) as object))
        if (typeof value === "string") this.#entries[key] = value;
    } catch {
      // None yet, or none that can be read.
    }
  }
  get(key: string): string | undefined {
    return this.#entries[key];
  }
  set(key: string, value: string): void {
    this.#entries[key] = value;
    this.#changed = true;
  }
  save(): void {
    if (!this.#changed) return;
    try {
      mkdirSync(join(this.#path, ".."), { recursive: true });
      const part = `${this.#path}.${process.pid}.part`;
      writeFileSync(part, `${JSON.stringify(this.#entries, null, 1)}\n`);
      renameSync(part, this.#path);
    } catch {
      // A cache that cannot be written costs time, not results.
    }
  }
}
