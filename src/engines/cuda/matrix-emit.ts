/** Products and convolutions: operands in memory as the templates want them, a tactic, and the launch. */

import { createHash } from "node:crypto";
import { gemmResult } from "./direct.js";
import type { Emission } from "./emission.js";
import { convolutionEnd, type Epilogue, epilogueOf } from "./epilogue.js";
import { delinear } from "./indexing.js";
import type { Tail } from "./loops.js";
import { conv, gemm, matmul, precisionOf } from "./matrix.js";
import type { Operand, Site, Tensor } from "./site.js";
import { packInput, packWeights, tapRuns } from "./taps.js";
import {
  convKernel,
  convTactics,
  depthwiseKernel,
  depthwiseTactics,
  gemmKernel,
  gemmTactics,
  isDepthwise,
  type KernelText,
  type Tactic,
} from "./templates/index.js";
import { NotEmitted, type Problem } from "./values.js";
import { channelsLast, naturalOrder, type View } from "./view.js";
import { largestSum } from "./weights.js";

export function emitMatrix(e: Emission, kind: "matmul" | "gemm" | "conv", s: Site, out: View, tail: Tail, nodes: readonly string[]): void {
  const [x, w] = [s.ins[0] as Operand, s.ins[1] as Operand];
  const dtype = e.stored(x.dtype);
  const { precision, device } = e.options;
  if (kind === "conv") {
    const rank = x.dims.length;
    const template = precisionOf({ dtype }, precision);
    if (template === undefined) throw new NotEmitted(s.node, `convolutions of ${dtype} have no kernel`);
    const runs = tapRuns(s, template);
    const view =
      runs === undefined ? e.inMemory(x.id, dtype, channelsLast(rank), (v) => conv(s, v, template) !== undefined) : packInput(e, s, runs);
    const problem = runs?.problem ?? conv(s, view, template);
    if (problem === undefined) throw new NotEmitted(s.node, `convolutions of ${dtype} have no kernel`);
    // Depthwise kernels read weights with the channels fastest.
    const taps = Array.from({ length: rank - 2 }, (_, i) => i + 2);
    const weights =
      runs === undefined
        ? e.inMemory(w.id, dtype, isDepthwise(problem) ? [...taps, 1, 0] : [0, ...taps, 1], () => false)
        : packWeights(e, s, runs);
    const y = s.outs[0] as Tensor;
    const positions = [y.dims[0] as number, ...y.dims.slice(2)];
    const epilogue = convolutionEnd(s, problem.k, positions, template === "s8", out, tail);
    const name = e.name("conv");
    const kernel = (): KernelText | undefined => {
      const [depthwise] = isDepthwise(problem) ? depthwiseTactics(problem, device) : [];
      if (depthwise !== undefined) return depthwiseKernel(problem, depthwise, epilogue.text, name);
      const tactic = choose(e, { kind: "conv", problem, tactics: convTactics(problem, device) }, epilogue, nodes);
      return tactic === undefined ? undefined : convKernel(problem, tactic, epilogue.text, name, device);
    };
    const made = kernel();
    if (made === undefined) throw new NotEmitted(s.node, "no tile fits");
    e.pushText(made, { a: view, b: weights, ...epilogue.tiles }, epilogue, [out], nodes);
    return;
  }
  // The matrix units take integers along the summed dim alone.
  const along = (v: View, depth: number): boolean =>
    dtype === "int8" ? v.strides[depth] === 1 || v.dims[depth] === 1 : v.strides.some((st, i) => st === 1 || v.dims[i] === 1);
  const a = e.inMemory(x.id, dtype, naturalOrder(x.dims.length), (v) => along(v, x.dims.length - 1));
  // Weights lie with the summed dim fastest.
  const rank = w.dims.length;
  const transposed = kind === "gemm" && s.attrs.transB === true;
  const columnsFirst = [...naturalOrder(rank - 2), rank - 1, rank - 2];
  const b = e.inMemory(w.id, dtype, transposed ? naturalOrder(rank) : columnsFirst, (v) => along(v, rank - 2));
  const template = precisionOf(a, precision);
  const made = template === undefined ? undefined : kind === "gemm" ? gemm(s, a, b, template) : matmul(a, b, template);
  if (made === undefined) throw new NotEmitted(s.node, `products of ${dtype} have no kernel`);
  const { problem } = made;
  const limit = template === "s8" ? largestSum(w, transposed ? rank - 2 : rank - 1) : undefined;
  const epilogue = epilogueOf(
    problem.N,
    out,
    tail,
    (scope, m, n, acc, batch) => {
      const index = [...delinear(batch, made.batchDims), ...delinear(m, made.rowDims), n];
      // Batch dims of one in front of the rows are part of them.
      const value = kind === "gemm" ? gemmResult(scope, s, acc, index) : acc;
      return { index, value };
    },
    problem.M,
    made.batchDims,
    template === "s8" ? "int" : "float",
    limit,
  );
  const tactic = choose(e, { kind: "gemm", problem, tactics: gemmTactics(problem, device) }, epilogue, nodes);
  if (tactic === undefined) throw new NotEmitted(s.node, "no tile fits");
  e.pushText(gemmKernel(problem, tactic, epilogue.text, e.name(kind), device), { a, b, ...epilogue.tiles }, epilogue, [out], nodes);
}

type Asked =
  | Pick<Problem & { readonly kind: "conv" }, "kind" | "problem" | "tactics">
  | Pick<Problem & { readonly kind: "gemm" }, "kind" | "problem" | "tactics">;

/** The tactic picked for a problem with this end: which is fastest depends on both. */
export function choose(e: Emission, p: Asked, epilogue: Epilogue, nodes: readonly string[]): Tactic | undefined {
  if (e.options.picks === undefined && e.options.onProblem === undefined) return p.tactics[0];
  const { text, parameters, out } = epilogue;
  // Equal ends differ between layers in their numbers alone.
  const end = text.body(text.vector).replace(/-?\b\d[\w.]*(?:e-?\d+f?)?/g, "#");
  const key = `${JSON.stringify(p.problem)} ${out.dtype} ${createHash("sha256").update(end).digest("hex").slice(0, 12)}`;
  const operands = [...parameters.views(), out].map((v) => ({ bytes: e.buffers.get(v.buffer)?.bytes ?? 0, dtype: v.dtype }));
  const residual = epilogue.tiles["residual"];
  const at = residual === undefined ? -1 : parameters.buffers().indexOf(residual.buffer);
  e.options.onProblem?.({ ...p, key, epilogue: text, operands, nodes, residual: at });
  return p.tactics[e.options.picks?.get(key) ?? 0];
}
