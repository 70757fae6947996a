/** Kernel templates of the CUDA engine: products, convolutions and attention, with an emitted epilogue. */
import { hopperConv, hopperGemm, hopperKernel } from "./hopper.js";
import type { ConvProblem, GemmProblem } from "./problem.js";
import { type DeviceModel, h200, type Tactic, tacticName } from "./tactics.js";
import type { EpilogueText, KernelText } from "./text.js";
import { tiledConv, tiledGemm } from "./tiled.js";

export type { AttentionProblem, HeadStrides } from "./attention.js";
export { attentionKernel, attentionTactics } from "./attention.js";
export { type AttentionStep, attentionStepKernel, type CachePart, takesStep } from "./attention-step.js";
export { depthwiseKernel, depthwiseTactics, isDepthwise } from "./depthwise.js";
export type { ConvProblem, GemmProblem, Operand, Precision } from "./problem.js";
export { convDepth, convFlops, convRows, gemmFlops } from "./problem.js";
export { gatesOf, MOST_UNITS, type RecurrentProblem, recurrentKernel, type StateType } from "./recurrent.js";
export type { AttentionTactic, DepthwiseTactic, DeviceModel, HopperTactic, Tactic, TiledTactic } from "./tactics.js";
export { a100, convTactics, gemmTactics, h200, tacticName } from "./tactics.js";
export type { EpilogueText, KernelArgument, KernelText } from "./text.js";

/** Source and launch of a matrix product by `tactic`. `device` matters to persistent kernels alone: their grid fills it. */
export function gemmKernel(
  problem: GemmProblem,
  tactic: Tactic,
  epilogue: EpilogueText,
  name: string,
  device: DeviceModel = h200,
): KernelText {
  if (tactic.template !== "wgmma") return tiledGemm(problem, tactic, epilogue, name);
  const form = hopperGemm(problem);
  if (form === undefined)
    throw new RangeError(`${name}: the operands' strides cannot be fetched by TMA, so tactic ${tacticName(tactic)} does not apply`);
  return hopperKernel(form, tactic, device, epilogue, name);
}

/** Source and launch of a convolution by `tactic`. */
export function convKernel(
  problem: ConvProblem,
  tactic: Tactic,
  epilogue: EpilogueText,
  name: string,
  device: DeviceModel = h200,
): KernelText {
  if (tactic.template !== "wgmma") return tiledConv(problem, tactic, epilogue, name);
  const form = hopperConv(problem);
  if (form === undefined)
    throw new RangeError(`${name}: this convolution has no im2col map, so tactic ${tacticName(tactic)} does not apply`);
  return hopperKernel(form, tactic, device, epilogue, name);
}
