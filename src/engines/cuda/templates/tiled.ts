/** Emits the tile-per-block kernels: mma.sync (f16, bf16, tf32, s8) and FFMA (f32), for products and convolutions alike. */
import { type Contraction, convContraction, gemmContraction, type Side } from "./contraction.js";
import { type ConvProblem, elementBytes, type GemmProblem, precisionIndex, storageType } from "./problem.js";
import type { TiledTactic } from "./tactics.js";
import {
  constantsText,
  type EpilogueText,
  epilogueFunction,
  epilogueVector,
  instantiate,
  type KernelArgument,
  type KernelText,
  templateText,
} from "./text.js";

const ceilDiv = (a: number, b: number) => Math.ceil(a / b);

/** A matrix product by `tactic`. Parameters: (const T* a, const T* b, [scratch], epilogue...). */
export function tiledGemm(problem: GemmProblem, tactic: TiledTactic, epilogue: EpilogueText, name: string): KernelText {
  return emitTiled(gemmContraction(problem), tactic, epilogue, name);
}

/** A convolution by `tactic`, as an implicit product. The same parameters: a is the input, b the weights. */
export function tiledConv(problem: ConvProblem, tactic: TiledTactic, epilogue: EpilogueText, name: string): KernelText {
  return emitTiled(convContraction(problem), tactic, epilogue, name);
}

/** Elements of k in a stage. */
export const stageDepth = (t: TiledTactic, bytes: number): number => t.kb / bytes;

/** Dynamic shared memory of a tactic: the ring, or the finished tile that replaces it. */
export function tiledShared(t: TiledTactic, bytes: number): number {
  const depth = stageDepth(t, bytes);
  const ring = t.template === "simt" ? t.stages * depth * (t.bm + t.bn + 8) * 4 : t.stages * (t.bm + t.bn) * t.kb;
  return Math.max(ring, t.bm * (t.bn + 8) * 4);
}

export const tiledThreads = (t: TiledTactic): number => 32 * (t.bm / t.wm) * (t.bn / t.wn);

/** The chunk a side is loaded by: FFMA tiles with chunks along k take elements one by one, for they are stored transposed; so do tf32 and s8 chunks along rows. */
export function sideVector(side: Side, t: TiledTactic, bytes: number): number {
  const transposes = t.template === "simt" ? side.alongK : !side.alongK && bytes !== 2;
  return transposes ? 1 : side.vector;
}

/** Passes a block makes over one side's stage. */
export function sidePasses(side: Side, rows: number, t: TiledTactic, bytes: number): number {
  const depth = stageDepth(t, bytes);
  const vector = sideVector(side, t, bytes);
  const [outer, inner] = side.alongK ? [rows, depth] : [depth, rows];
  const perLine = inner / vector;
  const threads = tiledThreads(t);
  return threads % perLine === 0 ? ceilDiv(outer, threads / perLine) : Number.POSITIVE_INFINITY;
}

function loaderType(side: Side, rows: string, t: TiledTactic, bytes: number): string {
  const vector = sideVector(side, t, bytes);
  const simt = t.template === "simt";
  const layout = simt
    ? side.alongK
      ? `ColumnsFromRows<${rows}>`
      : `Columns<${rows}>`
    : side.alongK
      ? "KMajor"
      : bytes === 2
        ? `MnMajor<${rows}>`
        : "KMajorFromColumns";
  const source = side.source(vector);
  return side.alongK ? `Loader<${source}, ${layout}, ${rows}, BK, true>` : `Loader<${source}, ${layout}, BK, ${rows}, false>`;
}

/** Blocks per SM to ask of the register allocator: what shared memory and an estimate of the registers allow. */
function minBlocks(c: Contraction, t: TiledTactic, bytes: number, shared: number): number {
  const threads = tiledThreads(t);
  const accumulators = (t.wm * t.wn) / 32;
  const fragments = t.template === "simt" ? (t.wm / 4 + t.wn / 8) * 2 : (t.wm / 16) * 4 + (t.wn / 16) * 4;
  const passes = sidePasses(c.a, t.bm, t, bytes);
  const held = [c.a, c.b].reduce(
    (sum, s, i) => sum + (sideVector(s, t, bytes) * bytes < 4 ? sidePasses(s, i === 0 ? t.bm : t.bn, t, bytes) * 2 : 0),
    0,
  );
  const registers = accumulators + fragments + (c.windows ? 3 * passes + 8 : 0) + held + (c.dtype === "tf32" ? 64 : 40);
  // Each of four schedulers has 512 registers a lane for its warps.
  const byRegisters = Math.floor((4 * Math.floor(512 / Math.min(255, Math.floor(registers / 8) * 8))) / (threads / 32));
  const byShared = Math.floor(233472 / (shared + 1024));
  return Math.max(1, Math.min(byRegisters, byShared, Math.floor(2048 / threads), 4));
}

function emitTiled(c: Contraction, t: TiledTactic, epilogue: EpilogueText, name: string): KernelText {
  const bytes = elementBytes[c.dtype];
  const depth = stageDepth(t, bytes);
  const threads = tiledThreads(t);
  const tilesM = ceilDiv(c.M, t.bm);
  const tilesN = ceilDiv(c.N, t.bn);
  const steps = ceilDiv(c.K, depth);
  let split = t.split;
  while (split > steps) split /= 2;
  const reduce = split === 1 ? "none" : t.reduce;
  const accumulator = c.dtype === "s8" ? "int" : "float";
  const V = epilogueVector(epilogue, c.N);
  const shared = tiledShared(t, bytes);
  const simt = t.template === "simt";
  const constants = [
    `using T = ${storageType[c.dtype]};`,
    `using Acc = ${accumulator};`,
    constantsText({
      M: c.M,
      N: c.N,
      K: c.K,
      ...c.constants,
      BM: t.bm,
      BN: t.bn,
      BK: depth,
      KB: t.kb,
      ...(simt ? { TM: t.wm / 4, TN: t.wn / 8, WARPS_M: t.bm / t.wm, WARPS_N: t.bn / t.wn } : { WM: t.wm, WN: t.wn }),
      STAGES: t.stages,
      THREADS: threads,
      MIN_BLOCKS: minBlocks(c, t, bytes, shared),
      PRECISION: precisionIndex[c.dtype],
      ES: bytes,
      BATCHES: c.batches,
      TILES_M: tilesM,
      TILES_N: tilesN,
      RASTER: Math.min(8, tilesM),
      SPLIT: split,
      STEPS: steps,
      STEPS_PER_SPLIT: ceilDiv(steps, split),
      REDUCE: reduce === "none" ? 0 : reduce === "workspace" ? 1 : 2,
      PITCH: t.bn + 8,
      V,
      N_BASE: c.nBase,
      ...(simt ? {} : { A_ALONG_K: c.a.alongK || bytes !== 2, B_ALONG_K: c.b.alongK || bytes !== 2 }),
    }),
    `__device__ __forceinline__ long long a_offset(int batch) { return ${c.a.offset}; }`,
    `__device__ __forceinline__ long long b_offset(int batch) { return ${c.b.offset}; }`,
    c.declarations,
  ];
  const types = [
    c.windows ? templateText("windows.cu").trimEnd() : "",
    `using ALoader = ${loaderType(c.a, "BM", t, bytes)};`,
    `using BLoader = ${loaderType(c.b, "BN", t, bytes)};`,
  ];
  const scratch: KernelArgument[] =
    reduce === "workspace"
      ? [
          { kind: "scratch", bytes: tilesM * tilesN * c.batches * split * t.bm * t.bn * 4, zero: false },
          { kind: "scratch", bytes: tilesM * tilesN * c.batches * 4, zero: true },
        ]
      : [];
  const source = instantiate(simt ? "simt.cu" : "mma.cu", {
    name,
    constants: constants.filter((line) => line !== "").join("\n"),
    epilogue: epilogueFunction(epilogue, V, accumulator),
    ...(reduce === "workspace"
      ? { workspace: templateText("workspace.cu").trimEnd(), scratchParams: ["Acc* workspace", "u32* counters"] }
      : {}),
    epilogueParams: epilogue.params,
    more: { loaders: types.filter((line) => line !== "").join("\n") },
  });
  return {
    name,
    source,
    arch: reduce === "cluster" ? "sm_90a" : "sm_80",
    grid: [tilesM * tilesN * c.batches, 1, split],
    block: [threads, 1, 1],
    shared,
    ...(reduce === "cluster" ? { cluster: [1, 1, split] as const } : {}),
    arguments: [{ kind: "operand", operand: "a" }, { kind: "operand", operand: "b" }, ...scratch, { kind: "epilogue" }],
  };
}
