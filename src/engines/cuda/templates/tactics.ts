/** Ways to compute a product: tile sizes, pipeline depth, splits of k. Enumerated, pruned by what fits, ranked by a model of the machine. */
import { type Contraction, convContraction, gemmContraction } from "./contraction.js";
import { type HopperForm, hopperConv, hopperGemm, hopperRows, hopperShared } from "./hopper.js";
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

/** Persistent blocks, wgmma fed by TMA (sm_90a). */
export interface HopperTactic {
  readonly template: "wgmma";
  /** Rows of a warpgroup's products: 64 or 128. */
  readonly rows: 64 | 128;
  /** Consumer warpgroups of a block. */
  readonly warpgroups: number;
  /** Columns of a tile. */
  readonly bn: number;
  readonly stages: number;
  /** Every warpgroup takes its own tiles, or all share one of rows * warpgroups rows. */
  readonly pingPong: boolean;
  /** Blocks per multiprocessor. */
  readonly resident: number;
}

/** A thread computes a vector of channels of `run` neighbouring outputs. */
export interface DepthwiseTactic {
  readonly template: "depthwise";
  readonly run: number;
  readonly threads: number;
}

/** A block of `warps` warps computes `queries` rows, `keys` keys at a time. */
export interface AttentionTactic {
  readonly template: "attention" | "attention-simt";
  readonly queries: number;
  readonly keys: number;
  readonly warps: number;
}

/** Ways to compute a product or a convolution. */
export type Tactic = TiledTactic | HopperTactic;

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
  if (t.template === "wgmma")
    return `wgmma-${t.rows}x${t.bn}-${t.pingPong ? "pp" : "co"}${t.warpgroups}-s${t.stages}${t.resident > 1 ? `-o${t.resident}` : ""}`;
  if ("keys" in t) return `${t.template}-${t.queries}x${t.keys}-w${t.warps}`;
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
  const busy =
    Math.min(1, warps / 8) *
    (t.template === "simt"
      ? 0.2 + (t.wm / 4) * (t.wn / 8) * 0.009 + 0.1
      : t.wm * t.wn >= 4096
        ? 0.8
        : t.wm * t.wn >= 2048
          ? 0.6
          : t.wm * t.wn >= 1024
            ? 0.5
            : 0.4);
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

/** [rows, columns, warpgroups, ping-pong, blocks per multiprocessor] */
const hopperTiles: readonly (readonly [64 | 128, number, number, boolean, number])[] = [
  [128, 128, 2, true, 1],
  [128, 64, 2, true, 1],
  [64, 128, 2, true, 1],
  [64, 256, 2, true, 1],
  [64, 64, 2, true, 1],
  [64, 64, 2, true, 2],
  [64, 64, 3, true, 1],
  [64, 128, 3, true, 1],
  [64, 32, 2, true, 2],
  [64, 256, 2, false, 1],
  [128, 128, 2, false, 1],
  [64, 192, 2, false, 1],
  [64, 128, 2, false, 1],
  [64, 64, 2, false, 2],
  [64, 128, 1, false, 3],
  [64, 64, 1, false, 4],
];

/** Microseconds a persistent kernel is expected to take. */
export function estimateHopper(form: HopperForm, t: HopperTactic, device: DeviceModel): number {
  const bm = hopperRows(t);
  const tiles = Math.ceil(form.M / bm) * Math.ceil(form.N / t.bn) * form.batches;
  const bytes = elementBytes[form.dtype];
  const slots = device.multiprocessors * t.resident;
  const rounds = Math.ceil(tiles / slots);
  const together = Math.min(t.resident, Math.ceil(tiles / device.multiprocessors));
  const peak: Readonly<Record<Precision, number>> = { f16: 4096, bf16: 4096, tf32: 2048, s8: 8192, f32: 1 };
  const wide = t.bn >= 128 ? 0.85 : t.bn >= 64 ? 0.7 : 0.4;
  const math = (2 * bm * t.bn * (form.kb / bytes)) / (peak[form.dtype] * wide);
  const load = ((bm + t.bn) * form.kb) / 36;
  const main = form.blocksK * Math.max(math, load, t.pingPong ? 0 : 60) * together;
  // Bytes that leave (and residuals that come): about 20 a clock and multiprocessor.
  const tail = (bm * t.bn * Math.min(4, bytes * 1.5)) / 20;
  const perRound =
    t.pingPong && rounds * t.resident > 1 ? Math.max(main, tail * together) : main + tail * (together > 1 ? 0.6 * together : 1);
  return (1800 + rounds * perRound + (t.pingPong ? tail : 0) + 500) / 1755;
}

function hopperTactics(form: HopperForm, device: DeviceModel): { tactic: Tactic; time: number }[] {
  const found: { tactic: Tactic; time: number }[] = [];
  for (const [rows, bn, warpgroups, pingPong, resident] of hopperTiles) {
    if (bn > 32 && bn >= 2 * form.N) continue;
    const tactic = (stages: number): HopperTactic => ({ template: "wgmma", rows, warpgroups, bn, stages, pingPong, resident });
    const limit = resident === 1 ? device.sharedPerBlock : Math.floor(233472 / resident) - 1024;
    let stages = 8;
    while (stages > 1 && hopperShared(tactic(stages), form.kb) > limit) stages--;
    if (stages < 3) continue;
    found.push({ tactic: tactic(stages), time: estimateHopper(form, tactic(stages), device) });
  }
  return found;
}

function tiledTactics(c: Contraction, device: DeviceModel): { tactic: Tactic; time: number }[] {
  const simt = c.dtype === "f32";
  const found: { tactic: Tactic; time: number }[] = [];
  for (const [bm, bn, wm, wn] of simt ? simtTiles : mmaTiles)
    for (const kb of simt ? [64] : [64, 128])
      for (const stages of simt ? [3, 4] : [3, 4, 5])
        for (const tactic of splits(c, { template: simt ? "simt" : "mma", bm, bn, wm, wn, kb, stages }, device))
          if (fits(c, tactic, device)) found.push({ tactic, time: estimate(c, tactic, device) });
  return found;
}

function ranked(c: Contraction, form: HopperForm | undefined, device: DeviceModel): Tactic[] {
  const hopper = form !== undefined && device.arch === "sm_90a" ? hopperTactics(form, device) : [];
  return [...tiledTactics(c, device), ...hopper].sort((x, y) => x.time - y.time).map((f) => f.tactic);
}

/** Tactics for a product, the best guess first. */
export const gemmTactics = (problem: GemmProblem, device: DeviceModel): Tactic[] =>
  ranked(gemmContraction(problem), hopperGemm(problem), device);
/** Tactics for a convolution, the best guess first. */
export const convTactics = (problem: ConvProblem, device: DeviceModel): Tactic[] =>
  ranked(convContraction(problem), hopperConv(problem), device);
