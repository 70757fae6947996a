/** Ways to compute a product: tile sizes, pipeline depth, splits of k. Enumerated, pruned by what fits, ranked by a model of the machine. */
import { type Contraction, convContraction, gemmContraction } from "./contraction.js";
import { type ConvProblem, elementBytes, type GemmProblem, type Precision } from "./problem.js";
import { sidePasses, stageDepth, tiledShared, tiledThreads } from "./tiled.js";

/** One tile per block, mma.sync or FFMA. */
export interface TiledTactic {
  readonly template: "mma" | "simt";
  /** Rows and columns of the block's tile and of a warp's. */
  readonly bm: number;
  readonly bn: number;
  readonly wm: number;
  readonly wn: number;
  /** Bytes of k in a stage: 64 or 128 (mma.sync). */
  readonly kb: number;
  readonly stages: number;
  /** Blocks that share a tile along k; a power of two. */
  readonly split: number;
  /** How their sums meet: in global scratch (sm_80 and up) or in the shared memory of a cluster (sm_90a). */
  readonly reduce: "none" | "workspace" | "cluster";
}

/** A thread computes a vector of channels of `run` neighbouring outputs. */
export interface DepthwiseTactic {
  readonly template: "depthwise";
  readonly run: number;
  readonly threads: number;
}

/** A block computes `queries` rows, `keys` keys at a time. */
export interface AttentionTactic {
  readonly template: "attention" | "attention-simt";
  readonly queries: number;
  readonly keys: number;
}

/** Ways to compute a product or a convolution. */
export type Tactic = TiledTactic;

/** What of the machine the choice depends on. */
export interface DeviceModel {
  /** "sm_80", "sm_89", "sm_90a", ... */
  readonly arch: string;
  readonly multiprocessors: number;
  /** Largest dynamic shared memory of a block, bytes. */
  readonly sharedPerBlock: number;
}
/** An H200 (and H100 SXM). */
export const h200: DeviceModel = { arch: "sm_90a", multiprocessors: 132, sharedPerBlock: 232448 };
/** An A100. */
export const a100: DeviceModel = { arch: "sm_80", multiprocessors: 108, sharedPerBlock: 166912 };

/** A stable name, for timing caches and reports. */
export function tacticName(t: Tactic | DepthwiseTactic | AttentionTactic): string {
  if (t.template === "depthwise") return `depthwise-q${t.run}-t${t.threads}`;
  if ("keys" in t) return `${t.template}-${t.queries}x${t.keys}`;
  const split = t.split === 1 ? "" : `-split${t.split}${t.reduce === "cluster" ? "c" : "w"}`;
  return `${t.template}-${t.bm}x${t.bn}-w${t.wm}x${t.wn}-k${t.kb}-s${t.stages}${split}`;
}

const mmaTiles: readonly (readonly [bm: number, bn: number, wm: number, wn: number])[] = [
  [256, 128, 64, 64],
  [128, 256, 64, 64],
  [128, 128, 64, 64],
  [128, 128, 64, 32],
  [256, 64, 64, 32],
  [128, 64, 64, 32],
  [128, 64, 32, 32],
  [64, 128, 32, 64],
  [64, 128, 32, 32],
  [64, 64, 32, 32],
  [128, 32, 32, 32],
  [64, 32, 32, 16],
  [32, 64, 16, 32],
  [32, 32, 16, 16],
  [16, 128, 16, 32],
  [16, 64, 16, 16],
];
/** A warp of the FFMA kernel computes 4*TM x 8*TN. */
const simtTiles: readonly (readonly [bm: number, bn: number, wm: number, wn: number])[] = [
  [128, 128, 32, 64],
  [128, 64, 32, 32],
  [64, 128, 16, 64],
  [64, 64, 16, 32],
  [32, 64, 16, 32],
  [32, 32, 16, 32],
];

/** Matrix operations per clock of one multiprocessor (multiply and add counted as two). */
const perClock: Readonly<Record<Precision, number>> = { f16: 2700, bf16: 2700, tf32: 1350, s8: 5300, f32: 256 };

function fits(c: Contraction, t: TiledTactic, device: DeviceModel): boolean {
  const bytes = elementBytes[c.dtype];
  if (tiledShared(t, bytes) > device.sharedPerBlock) return false;
  // With 128 accumulators a thread, rounding a deep stage's fragments to TF32 does not fit the registers.
  if (c.dtype === "tf32" && t.wm * t.wn >= 4096 && t.kb > 64) return false;
  const passes = [sidePasses(c.a, t.bm, t, bytes), sidePasses(c.b, t.bn, t, bytes)];
  return passes.every((n) => n <= (c.windows ? 16 : 32));
}

/** Microseconds a tactic is expected to take: only the order among tactics matters. */
export function estimate(c: Contraction, t: TiledTactic, device: DeviceModel): number {
  const bytes = elementBytes[c.dtype];
  const depth = stageDepth(t, bytes);
  const threads = tiledThreads(t);
  const tiles = Math.ceil(c.M / t.bm) * Math.ceil(c.N / t.bn) * c.batches;
  const steps = Math.ceil(c.K / depth);
  const resident = Math.max(
    1,
    Math.min(
      Math.floor(233472 / (tiledShared(t, bytes) + 1024)),
      Math.floor(65536 / (threads * ((t.wm * t.wn) / 32 + 64))),
      Math.floor(2048 / threads),
    ),
  );
  const blocks = tiles * t.split;
  const onEach = Math.ceil(blocks / device.multiprocessors);
  const together = Math.min(resident, onEach);
  // One block alone cannot keep the matrix unit busy: a warp issues, waits, and meets barriers.
  const warps = (threads / 32) * together;
  const busy = Math.min(1, warps / 8) * (t.template === "simt" ? 0.85 : t.wm * t.wn >= 2048 ? 0.9 : t.wm * t.wn >= 1024 ? 0.75 : 0.55);
  const math = (2 * t.bm * t.bn * depth) / (perClock[c.dtype] * busy);
  // Loads of a stage out of L2: 40 bytes a clock and multiprocessor.
  const load = ((t.bm + t.bn) * t.kb) / 40;
  const perSplit = Math.ceil(steps / t.split);
  const latency = 700 + (perSplit < t.stages ? 0 : 30 * perSplit);
  const epilogue = (t.bm * t.bn * 4) / 64 + (t.split === 1 ? 0 : t.reduce === "cluster" ? 900 : 1800 + (t.bm * t.bn * 4 * t.split) / 64);
  const wave = together * perSplit * Math.max(math, load) + epilogue;
  return ((onEach / together) * wave + latency) / 1755;
}

function splits(c: Contraction, t: Omit<TiledTactic, "split" | "reduce">, device: DeviceModel): TiledTactic[] {
  const tiles = Math.ceil(c.M / t.bm) * Math.ceil(c.N / t.bn) * c.batches;
  const steps = Math.ceil(c.K / stageDepth(t as TiledTactic, elementBytes[c.dtype]));
  const hopper = device.arch.startsWith("sm_90");
  const out: TiledTactic[] = [{ ...t, split: 1, reduce: "none" }];
  for (let split = 2; split <= 16 && steps >= 2 * split && tiles * split <= 3 * device.multiprocessors; split *= 2)
    out.push({ ...t, split, reduce: hopper && split <= 8 ? "cluster" : "workspace" });
  return out;
}

function contractionTactics(c: Contraction, device: DeviceModel): Tactic[] {
  const simt = c.dtype === "f32";
  const found: { tactic: TiledTactic; time: number }[] = [];
  for (const [bm, bn, wm, wn] of simt ? simtTiles : mmaTiles)
    for (const kb of simt ? [64] : [64, 128])
      for (const stages of simt ? [3, 4] : [3, 4, 5])
        for (const tactic of splits(c, { template: simt ? "simt" : "mma", bm, bn, wm, wn, kb, stages }, device))
          if (fits(c, tactic, device)) found.push({ tactic, time: estimate(c, tactic, device) });
  return found.sort((x, y) => x.time - y.time).map((f) => f.tactic);
}

/** Tactics for a product, the best guess first. */
export const gemmTactics = (problem: GemmProblem, device: DeviceModel): Tactic[] => contractionTactics(gemmContraction(problem), device);
/** Tactics for a convolution, the best guess first. */
export const convTactics = (problem: ConvProblem, device: DeviceModel): Tactic[] => contractionTactics(convContraction(problem), device);
