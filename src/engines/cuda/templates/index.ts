/** Kernel templates of the CUDA engine: products, convolutions and attention, with an emitted epilogue. */
import type { ConvProblem, GemmProblem } from "./problem.js";
import type { Tactic } from "./tactics.js";
import type { EpilogueText, KernelText } from "./text.js";
import { tiledConv, tiledGemm } from "./tiled.js";

export type { AttentionProblem, HeadStrides } from "./attention.js";
export { attentionKernel, attentionTactics } from "./attention.js";
export { depthwiseKernel, depthwiseTactics, isDepthwise } from "./depthwise.js";
export type { ConvProblem, GemmProblem, Operand, Precision } from "./problem.js";
export { convDepth, convFlops, convRows, gemmFlops } from "./problem.js";
export type { AttentionTactic, DepthwiseTactic, DeviceModel, Tactic } from "./tactics.js";
export { a100, convTactics, gemmTactics, h200, tacticName } from "./tactics.js";
export type { EpilogueText, KernelArgument, KernelText } from "./text.js";

/** Source and launch of a matrix product by `tactic`. */
export function gemmKernel(problem: GemmProblem, tactic: Tactic, epilogue: EpilogueText, name: string): KernelText {
  return tiledGemm(problem, tactic, epilogue, name);
}

/** Source and launch of a convolution by `tactic`. */
export function convKernel(problem: ConvProblem, tactic: Tactic, epilogue: EpilogueText, name: string): KernelText {
  return tiledConv(problem, tactic, epilogue, name);
}
