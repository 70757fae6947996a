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
  /** The weights of a block's columns stay in shared memory for all its tiles. */
  readonly weightsStay: boolean;
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
    return `wgmma-${t.rows}x${t.bn}-${t.pingPong ? "pp" : "co"}${t.warpgroups}-s${t.stages}${t.resident > 1 ? `-o${t.resident}` : ""}${t.weightsStay ? "-w" : ""}`;
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

/** Operations per clock of one multiprocessor, multiply and add counted as two: mma.sync and FFMA, and wgmma. */
const mmaRate: Readonly<Record<Precision, number>> = { f16: 2700, bf16: 2700, tf32: 1350, s8: 5300, f32: 256 };
const wgmmaRate: Readonly<Record<Precision, number>> = { f16: 4096, bf16: 4096, tf32: 2048, s8: 8192, f32: 1 };
/** The clock the models' cycles are turned into microseconds by, MHz. */
const CLOCK = 1755;
/*
 * The two models below were fitted to 1,800 timings on an H200 (144 layers of ResNet-50 and BERT-base at several batches and precisions, plus
 * square products): the tactic they rank first took 3 % longer than the best one measured, on average; the times themselves are off by 18 %.
 */

function fits(c: Contraction, t: TiledTactic, device: DeviceModel): boolean {
  const bytes = elementBytes[c.dtype];
  if (tiledShared(t, bytes) > device.sharedPerBlock) return false;
  // With 128 accumulators a thread, rounding a deep stage's fragments to TF32 does not fit the registers.
  if (c.dtype === "tf32" && t.wm * t.wn >= 4096 && t.kb > 64) return false;
  const passes = [sidePasses(c.a, t.bm, t, bytes), sidePasses(c.b, t.bn, t, bytes)];
  return passes.every((n) => n <= (c.windows ? 16 : 32));
}

/** Microseconds a tile-per-block kernel is expected to take. */
function estimate(c: Contraction, t: TiledTactic, device: DeviceModel): number {
  const bytes = elementBytes[c.dtype];
  const simt = t.template === "simt";
  const depth = stageDepth(t, bytes);
  const warps = tiledThreads(t) / 32;
  const tile = t.bm * t.bn;
  const registers = Math.min(255, (t.wm * t.wn) / 32 + 64);
  const resident = Math.max(
    1,
    Math.min(
      Math.floor(233472 / (tiledShared(t, bytes) + 1024)),
      Math.floor((4 * Math.floor(512 / registers)) / warps),
      Math.floor(64 / warps),
    ),
  );
  const blocks = Math.ceil(c.M / t.bm) * Math.ceil(c.N / t.bn) * c.batches * t.split;
  const together = Math.min(resident, Math.ceil(blocks / device.multiprocessors));
  const rounds = Math.ceil(blocks / (device.multiprocessors * together));
  const steps = Math.ceil(Math.ceil(c.K / depth) / t.split);
  // Per stage, in cycles: products, reads of shared memory by the warps, loads from L2, and the latency of one stage.
  const math = (2 * tile * depth) / (mmaRate[c.dtype] * (simt ? 1.05 : 4.2));
  const shared = simt ? 1.22 * warps * depth * (t.wm / 4 + t.wn / 8) : (warps * (t.wm + t.wn) * t.kb) / 128;
  const load = ((t.bm + t.bn) * t.kb) / 21.8;
  const latency = 425 + (c.dtype === "tf32" ? 3.25 * t.kb : 0);
  const step = Math.max(together * (math + 0.81 * shared), together * load, latency);
  const sums = t.split === 1 ? 0 : t.reduce === "cluster" ? 1800 + 0.446 * tile : 2480 + 0.0846 * tile * t.split;
  const end = 876 + 0.152 * together * tile + sums;
  return (1830 + rounds * (steps * step + end)) / CLOCK;
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
function estimateHopper(form: HopperForm, t: HopperTactic, device: DeviceModel): number {
  const bm = hopperRows(t);
  const tile = bm * t.bn;
  const tiles = Math.ceil(form.M / bm) * Math.ceil(form.N / t.bn) * form.batches;
  const together = Math.min(t.resident, Math.ceil(tiles / device.multiprocessors));
  const rounds = Math.ceil(tiles / (device.multiprocessors * together));
  // Per k-block, in cycles: products, loads from L2, and the latency of one block in flight.
  const efficiency = t.bn >= 128 ? 1 : t.bn >= 64 ? 0.588 : 0.381;
  const math = (2 * tile * (form.kb / elementBytes[form.dtype])) / (wgmmaRate[form.dtype] * efficiency);
  // A row of 64 bytes takes the copy engine as long as one of 128.
  const load = ((bm + (t.weightsStay ? 0 : t.bn)) * 128) / 59.7;
  const main = form.blocksK * together * Math.max(math, load, 253 / together);
  // The epilogue: of one warpgroup by itself, and what the multiprocessor gets through.
  const own = 1100 + 0.432 * t.rows * t.bn;
  const through = 0.269 * together * tile;
  if (!t.pingPong) return (4970 + rounds * Math.max(main + own * (together > 1 ? 1.2 : 1), through)) / CLOCK;
  return (264 + rounds * Math.max(main, through, (main + own) / Math.min(t.warpgroups, rounds)) + own) / CLOCK;
}

function hopperTactics(form: HopperForm, device: DeviceModel): { tactic: Tactic; time: number }[] {
  const found: { tactic: Tactic; time: number }[] = [];
  for (const [rows, bn, warpgroups, pingPong, resident] of hopperTiles) {
    if (bn > 32 && bn >= 2 * form.N) continue;
    const limit = resident === 1 ? device.sharedPerBlock : Math.floor(233472 / resident) - 1024;
    for (const weightsStay of [true, false]) {
      const tactic = (stages: number): HopperTactic => ({
        template: "wgmma",
        rows,
        warpgroups,
        bn,
        stages,
        pingPong,
        resident,
        weightsStay,
      });
      // Weights stay where a block has more than one tile of a column to compute, and leave room for the ring.
      const columns = Math.ceil(form.N / bn);
      const tiles = columns * Math.ceil(form.M / hopperRows(tactic(1)));
      const fits = form.batches === 1 && form.blocksK * bn * form.kb <= 131072 / resident && columns <= device.multiprocessors;
      if (weightsStay && !(fits && tiles >= 2 * device.multiprocessors * resident)) continue;
      let stages = 8;
      while (stages > 1 && hopperShared(tactic(stages), form) > limit) stages--;
      if (stages < 3) continue;
      found.push({ tactic: tactic(stages), time: estimateHopper(form, tactic(stages), device) });
      // Where they can stay, fetching them again was never faster.
      if (weightsStay) break;
    }
  }
  return found;
}

function tiledTactics(c: Contraction, device: DeviceModel, largest: number): { tactic: Tactic; time: number }[] {
  const simt = c.dtype === "f32";
  const found: { tactic: Tactic; time: number }[] = [];
  for (const [bm, bn, wm, wn] of simt ? simtTiles : mmaTiles.filter(([m, n]) => m * n <= largest))
    for (const kb of simt ? [64] : [64, 128])
      for (const stages of simt ? [3] : [3, 5])
        for (const tactic of splits(c, { template: simt ? "simt" : "mma", bm, bn, wm, wn, kb, stages }, device))
          if (fits(c, tactic, device)) found.push({ tactic, time: estimate(c, tactic, device) });
  return found;
}

function ranked(c: Contraction, form: HopperForm | undefined, device: DeviceModel): Tactic[] {
  if (form === undefined || device.arch !== "sm_90a") return sorted(tiledTactics(c, device, Number.POSITIVE_INFINITY));
  // Where wgmma applies, mma.sync wins with small tiles alone.
  return sorted([...tiledTactics(c, device, 4096), ...hopperTactics(form, device)]);
}
function sorted(found: readonly { readonly tactic: Tactic; readonly time: number }[]): Tactic[] {
  return [...found].sort((x, y) => x.time - y.time).map((f) => f.tactic);
}

/** Tactics for a product, the best guess first. */
export const gemmTactics = (problem: GemmProblem, device: DeviceModel): Tactic[] =>
  ranked(gemmContraction(problem), hopperGemm(problem), device);
/** Tactics for a convolution, the best guess first. */
export const convTactics = (problem: ConvProblem, device: DeviceModel): Tactic[] =>
  ranked(convContraction(problem), hopperConv(problem), device);
