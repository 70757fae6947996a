/** Emits the kernel of a first layer with the max pooling behind it (kernels/pooled.cu). */
import { wgmmaText } from "./hopper.js";
import { elementBytes, type Precision, precisionIndex, storageType } from "./problem.js";
import type { DeviceModel } from "./tactics.js";
import { constantsText, type EpilogueText, epilogueFunction, epilogueVector, instantiate, type KernelText } from "./text.js";

/** A convolution of stride 2 over at most 4 channels and 8 columns of a filter, and windows of 3 by 3, stride 2 and pad 1 over its result. */
export interface PooledProblem {
  readonly images: number;
  /** Output channels: 32 or 64. */
  readonly k: number;
  /** Of the pooled result. */
  readonly rows: number;
  readonly columns: number;
  /** Input lines of an image, and those that one output row reads. */
  readonly lines: number;
  readonly tapLines: number;
  readonly dtype: Extract<Precision, "f16" | "bf16" | "s8">;
}

/** Bytes of a line; pixels of one, two by two in planes of even and odd chunks. */
export const LINE = { bytes: 2048, planes: 2, entries: 64, pixels: 2, channels: 4 } as const;
/** Most columns of the result: 8 groups of 7. */
export const MOST_COLUMNS = 56;
/** Input rows side by side in a pixel, so that a chunk holds 16 bytes. */
export const rowsOfLine = (dtype: Precision): number => 2 / elementBytes[dtype];
const WARPGROUPS = 4;

/** Neighbouring channels that a thread of the kernel holds: the order of the weights' image follows it. */
export const heldOf = (p: PooledProblem, epilogue: EpilogueText): number => Math.min(epilogueVector(epilogue, p.k), p.k / 4);

/** Rows that a warpgroup walks down: those with which the busiest one has the least to do. One row of the convolution is done twice. */
function stripOf(p: PooledProblem, device: DeviceModel): number {
  const groups = device.multiprocessors * WARPGROUPS;
  const work = (strip: number): number => Math.ceil((p.images * (p.rows / strip)) / groups) * (2 * strip + (strip === p.rows ? 0 : 1));
  return Array.from({ length: p.rows }, (_, i) => i + 1)
    .filter((strip) => p.rows % strip === 0)
    .reduce((best, strip) => (work(strip) < work(best) ? strip : best));
}

/** Parameters: (lines, image of the weights, epilogue...). */
export function pooledKernel(p: PooledProblem, epilogue: EpilogueText, name: string, device: DeviceModel): KernelText {
  const accumulator = p.dtype === "s8" ? "int" : "float";
  const V = heldOf(p, epilogue);
  const strip = stripOf(p, device);
  const step = 2 / rowsOfLine(p.dtype);
  const ring = p.tapLines + step <= 8 ? 8 : 16;
  const strips = p.images * (p.rows / strip);
  const weights = 2 * p.tapLines * 2 * p.k * 32;
  return {
    name,
    source: instantiate("pooled.cu", {
      name,
      constants: [
        `using T = ${storageType[p.dtype]};`,
        `using Acc = ${accumulator};`,
        constantsText({
          N: p.k,
          IMAGES: p.images,
          ROWS: p.rows,
          COLUMNS: p.columns,
          LINES: p.lines,
          STEP: step,
          TAP_LINES: p.tapLines,
          STRIP: strip,
          WARPGROUPS,
          RING: ring,
          PRECISION: precisionIndex[p.dtype],
          V,
        }),
      ].join("\n"),
      epilogue: epilogueFunction(epilogue, V, accumulator),
      epilogueParams: epilogue.params,
      more: { wgmma: wgmmaText(p.k, p.dtype) },
    }),
    arch: "sm_90a",
    grid: [Math.min(device.multiprocessors, Math.ceil(strips / WARPGROUPS)), 1, 1],
    block: [WARPGROUPS * 128, 1, 1],
    shared: weights + WARPGROUPS * ring * LINE.bytes + (1 + WARPGROUPS * ring) * 8,
    arguments: [{ kind: "operand", operand: "a" }, { kind: "operand", operand: "b" }, { kind: "epilogue" }],
  };
}
