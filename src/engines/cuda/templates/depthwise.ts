/** Depthwise convolution: every output channel reads one input channel. Weights lie [T, R, S, K], channels fastest. */
import { chunkElements } from "./contraction.js";
import { type ConvProblem, convRows, elementBytes, precisionIndex, storageType } from "./problem.js";
import type { DepthwiseTactic, DeviceModel } from "./tactics.js";
import { constantsText, type EpilogueText, epilogueFunction, epilogueVector, instantiate, type KernelText } from "./text.js";

/** True when the convolution has as many groups as input channels. */
export const isDepthwise = (p: ConvProblem): boolean => p.groups === p.c && p.groups > 1 && p.k % p.c === 0;

/** Channels a thread takes: what the epilogue, the layout and 16-byte (s8: 8-byte) reads allow. */
function channels(p: ConvProblem, epilogue: EpilogueText | undefined): number {
  const bytes = elementBytes[p.dtype];
  const most = Math.min(8, 16 / bytes, chunkElements(bytes, p.align ?? 16, [p.c, p.k, p.pixelStride ?? p.c]));
  const byEpilogue = epilogue === undefined ? 8 : epilogueVector(epilogue, p.k);
  return Math.min(most, byEpilogue);
}

/** Tactics for a depthwise convolution, the best guess first. */
export function depthwiseTactics(p: ConvProblem, device: DeviceModel): DepthwiseTactic[] {
  const threads = 128;
  const wanted = device.multiprocessors * 6 * threads;
  const out: DepthwiseTactic[] = (p.dtype === "s8" ? [4, 2, 1] : [8, 4, 2, 1])
    .filter((run) => run === 1 || run <= p.q)
    .map((run) => ({ template: "depthwise" as const, run, threads }));
  // Long runs reuse inputs; short ones fill the machine.
  const work = (t: DepthwiseTactic) => (convRows(p) / p.q) * Math.ceil(p.q / t.run) * (p.k / channels(p, undefined));
  const cost = (t: DepthwiseTactic) => {
    const span = (t.run - 1) * (p.stride.at(-1) ?? 1) + (p.s - 1) * (p.dilation.at(-1) ?? 1) + 1;
    const waste = (Math.ceil(p.q / t.run) * t.run) / p.q;
    const registers = (t.run + p.s) * channels(p, undefined);
    return (span / t.run + 2) * waste * Math.max(1, wanted / work(t)) * (registers > 100 ? 4 : 1);
  };
  return out.filter((t) => t.run === 1 || (t.run + p.s) * channels(p, undefined) <= 112).sort((a, b) => cost(a) - cost(b));
}

/** Source and launch of a depthwise convolution: (const T* a, const T* b, epilogue...). */
export function depthwiseKernel(p: ConvProblem, t: DepthwiseTactic, epilogue: EpilogueText, name: string): KernelText {
  if (!isDepthwise(p)) throw new RangeError(`${name}: ${p.groups} groups over ${p.c} channels is no depthwise convolution`);
  const three = (v: readonly number[], fill: number): readonly number[] => (v.length === 2 ? [fill, ...v] : v);
  const [strideD = 1, strideH = 1, strideW = 1] = three(p.stride, 1);
  const [dilationD = 1, dilationH = 1, dilationW = 1] = three(p.dilation, 1);
  const [padD = 0, padH = 0, padW = 0] = three(p.pad, 0);
  const { d, t: taps, o } = p.depth ?? { d: 1, t: 1, o: 1 };
  const V = channels(p, epilogue);
  const runs = Math.ceil(p.q / t.run);
  const work = (convRows(p) / p.q) * runs * (p.k / V);
  const accumulator = p.dtype === "s8" ? "int" : "float";
  const constants = [
    `using T = ${storageType[p.dtype]};`,
    `using Acc = ${accumulator};`,
    constantsText({
      N: p.k,
      MULTIPLIER: p.k / p.c,
      V,
      RUN: t.run,
      RUNS: runs,
      X_D: d,
      X_H: p.h,
      X_W: p.w,
      X_C: p.pixelStride ?? p.c,
      FILTER_T: taps,
      FILTER_R: p.r,
      FILTER_S: p.s,
      OUT_D: o,
      OUT_H: p.p,
      OUT_W: p.q,
      STRIDE_D: strideD,
      STRIDE_H: strideH,
      STRIDE_W: strideW,
      PAD_D: padD,
      PAD_H: padH,
      PAD_W: padW,
      DILATION_D: dilationD,
      DILATION_H: dilationH,
      DILATION_W: dilationW,
      THREADS: t.threads,
      PRECISION: precisionIndex[p.dtype],
      ES: elementBytes[p.dtype],
    }),
    `constexpr long long WORK = ${work};`,
  ];
  return {
    name,
    source: instantiate("depthwise.cu", {
      name,
      constants: constants.join("\n"),
      epilogue: epilogueFunction(epilogue, V, accumulator),
      epilogueParams: epilogue.params,
    }),
    arch: "sm_80",
    grid: [Math.ceil(work / t.threads), 1, 1],
    block: [t.threads, 1, 1],
    shared: 0,
    arguments: [{ kind: "operand", operand: "a" }, { kind: "operand", operand: "b" }, { kind: "epilogue" }],
  };
}
