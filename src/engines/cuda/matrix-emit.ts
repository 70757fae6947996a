/** Products and convolutions: operands in memory as the templates want them, a tactic, and the launch. */

import type { Emission } from "./emission.js";
import { epilogueOf } from "./epilogue.js";
import { delinear, type Index, product } from "./indexing.js";
import type { Tail } from "./loops.js";
import { conv, gemm, matmul, precisionOf } from "./matrix.js";
import { gemmResult } from "./direct.js";
import type { Operand, Site, Tensor } from "./site.js";
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

export function emitMatrix(e: Emission, kind: "matmul" | "gemm" | "conv", s: Site, out: View, tail: Tail, nodes: readonly string[]): void {
  const [x, w] = [s.ins[0] as Operand, s.ins[1] as Operand];
  const dtype = e.stored(x.dtype);
  const { precision, device } = e.options;
  if (kind === "conv") {
    const rank = x.dims.length;
    const view = e.inMemory(x.id, dtype, channelsLast(rank), (v) => conv(s, v, precisionOf(v, precision) ?? "f32") !== undefined);
    const template = precisionOf(view, precision);
    const problem = template === undefined ? undefined : conv(s, view, template);
    if (problem === undefined) throw new NotEmitted(s.node, `convolutions of ${dtype} have no kernel`);
    // Depthwise kernels read weights with the channels fastest.
    const taps = Array.from({ length: rank - 2 }, (_, i) => i + 2);
    const weights = e.inMemory(w.id, dtype, isDepthwise(problem) ? [...taps, 1, 0] : [0, ...taps, 1], () => false);
    const y = s.outs[0] as Tensor;
    const positions = [y.dims[0] as number, ...y.dims.slice(2)];
    const bias = s.ins[2];
    const epilogue = epilogueOf(
      problem.k,
      out,
      tail,
      (scope, m, n, acc) => {
        const at = delinear(m, positions);
        const index = [at[0] as Index, n, ...at.slice(1)];
        const value = bias === undefined ? acc : scope.let("float", `${acc} + ${bias.at(scope, [n])}`);
        return { index, value };
      },
      product(positions),
      [],
    );
    const name = e.name("conv");
    const kernel = (): KernelText | undefined => {
      const [depthwise] = isDepthwise(problem) ? depthwiseTactics(problem, device) : [];
      if (depthwise !== undefined) return depthwiseKernel(problem, depthwise, epilogue.text, name);
      const tactic = choose(e, { kind: "conv", problem, key: JSON.stringify(problem), tactics: convTactics(problem, device) });
      return tactic === undefined ? undefined : convKernel(problem, tactic, epilogue.text, name, device);
    };
    const made = kernel();
    if (made === undefined) throw new NotEmitted(s.node, "no tile fits");
    e.pushText(made, { a: view, b: weights }, epilogue, [out], nodes);
    return;
  }
  const inner = (v: View): boolean => v.strides.filter((st, i) => st === 1 || v.dims[i] === 1).length > 0;
  const a = e.inMemory(x.id, dtype, naturalOrder(x.dims.length), inner);
  // Weights lie with the summed dim fastest.
  const rank = w.dims.length;
  const transposed = kind === "gemm" && s.attrs.transB === true;
  const columnsFirst = [...naturalOrder(rank - 2), rank - 1, rank - 2];
  const b = e.inMemory(w.id, dtype, transposed ? naturalOrder(rank) : columnsFirst, inner);
  const template = precisionOf(a, precision);
  const made = template === undefined ? undefined : kind === "gemm" ? gemm(s, a, b, template) : matmul(a, b, template);
  if (made === undefined) throw new NotEmitted(s.node, `products of ${dtype} have no kernel`);
  const { problem } = made;
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
  );
  const tactic = choose(e, { kind: "gemm", problem, key: JSON.stringify(problem), tactics: gemmTactics(problem, device) });
  if (tactic === undefined) throw new NotEmitted(s.node, "no tile fits");
  e.pushText(gemmKernel(problem, tactic, epilogue.text, e.name(kind), device), { a, b }, epilogue, [out], nodes);
}

export function choose(e: Emission, p: Problem): Tactic | undefined {
  e.options.onProblem?.(p);
  return p.tactics[e.options.picks?.get(p.key) ?? 0];
}
