/** LSTM, GRU and RNN nodes: what they ask of the kernels, and the two launches they become: one product for all steps' inputs, then the steps. */
import type { ValueId } from "../../ir/types.js";
import type { Emission } from "./emission.js";
import { epilogueOf } from "./epilogue.js";
import type { Fused } from "./fusion.js";
import { product, rowMajor } from "./indexing.js";
import { noTail } from "./loops.js";
import { matmul, precisionOf } from "./matrix.js";
import { choose } from "./matrix-emit.js";
import { literal } from "./pointwise.js";
import { type Operand, operand, Refused, type Site } from "./site.js";
import { storage } from "./storage.js";
import { gatesOf, gemmKernel, gemmTactics, MOST_UNITS, type RecurrentProblem, recurrentKernel, type StateType } from "./templates/index.js";
import { NotEmitted } from "./values.js";
import { naturalOrder, type View } from "./view.js";

type Kind = RecurrentProblem["kind"];
export const recurrentOps: readonly string[] = Object.keys(gatesOf);

const number = (x: number): string => literal(x, "float");
/** Activation functions of recurrent layers as C expressions of x, with their default alpha and beta (ONNX LSTM, "activations"). */
const functions: Readonly<
  Record<string, { readonly alpha?: number; readonly beta?: number; readonly text: (a: string, b: string) => string }>
> = {
  relu: { text: () => "fmaxf(x, 0.0f)" },
  tanh: { text: () => "tanhf(x)" },
  sigmoid: { text: () => "1.0f / (1.0f + expf(-x))" },
  affine: { alpha: 1, beta: 0, text: (a, b) => `${a} * x + ${b}` },
  leakyrelu: { alpha: 0.01, text: (a) => `(x < 0.0f ? ${a} * x : x)` },
  thresholdedrelu: { alpha: 1, text: (a) => `(x > ${a} ? x : 0.0f)` },
  scaledtanh: { alpha: 1, beta: 1, text: (a, b) => `${a} * tanhf(${b} * x)` },
  hardsigmoid: { alpha: 0.2, beta: 0.5, text: (a, b) => `fmaxf(0.0f, fminf(1.0f, ${a} * x + ${b}))` },
  elu: { alpha: 1, text: (a) => `(x < 0.0f ? ${a} * expm1f(x) : x)` },
  softsign: { text: () => "x / (1.0f + fabsf(x))" },
  softplus: { text: () => "(x > 0.0f ? x + log1pf(expf(-x)) : log1pf(expf(x)))" },
};
const defaults: Readonly<Record<Kind, readonly string[]>> = { LSTM: ["Sigmoid", "Tanh", "Tanh"], GRU: ["Sigmoid", "Tanh"], RNN: ["Tanh"] };

/** Three functions a direction; alpha and beta are consumed in the order of the functions that have them. */
function activationsOf(s: Site, kind: Kind, directions: number): RecurrentProblem["activations"] {
  const each = defaults[kind].length;
  const names: readonly string[] = s.attrs.activations ?? Array.from({ length: directions }, () => defaults[kind]).flat();
  const [alphas, betas] = [[...(s.attrs.activation_alpha ?? [])], [...(s.attrs.activation_beta ?? [])]] as [number[], number[]];
  const texts = names.map((name) => {
    const f = Object.hasOwn(functions, name.toLowerCase()) ? functions[name.toLowerCase()] : undefined;
    if (f === undefined) throw new Refused(`the activation '${name}' has no kernel`);
    const alpha = f.alpha === undefined ? 0 : (alphas.shift() ?? f.alpha);
    const beta = f.beta === undefined ? 0 : (betas.shift() ?? f.beta);
    return f.text(number(alpha), number(beta));
  });
  return Array.from({ length: directions }, (_, d) => {
    const own = texts.slice(d * each, (d + 1) * each);
    return [own[0] ?? "x", own[1] ?? "x", own[2] ?? "x"] as const;
  });
}

/** What of a recurrent node does not depend on where things lie. Throws `Refused`. */
export function recurrentShape(s: Site): Omit<RecurrentProblem, "weights" | "y" | "yh" | "yc"> & { readonly input: number } {
  const kind = s.node.op as Kind;
  const [x, w, r] = [operand(s, 0), operand(s, 1), operand(s, 2)];
  if (storage(x.dtype).register !== "float") throw new Refused(`${x.dtype} has no kernel`);
  if (s.attrs.layout === 1) throw new Refused("the batch-first layout has no kernel");
  if (product(x.dims) === 0 || product(r.dims) === 0) throw new Refused("an empty operand has no kernel");
  const directions = s.attrs.direction === "bidirectional" ? 2 : 1;
  const hidden = r.dims[2] as number;
  const gates = gatesOf[kind];
  if (w.dims[0] !== directions || r.dims[0] !== directions || w.dims[1] !== gates * hidden || r.dims[1] !== gates * hidden)
    throw new Refused("its weights do not go together");
  if (hidden > MOST_UNITS) throw new Refused(`${hidden} hidden units do not fit a block's shared memory`);
  const has = (i: number): boolean => s.ins[i] !== undefined;
  return {
    kind,
    steps: x.dims[0] as number,
    batch: x.dims[1] as number,
    input: x.dims[2] as number,
    directions,
    hidden,
    reverse: s.attrs.direction === "reverse",
    linearBeforeReset: kind === "GRU" && s.attrs.linear_before_reset === true,
    coupled: kind === "LSTM" && s.attrs.input_forget === true,
    clip: s.attrs.clip,
    activations: activationsOf(s, kind, directions),
    has: { bias: has(3), lengths: has(4), h0: has(5), c0: has(6), peephole: has(7) },
  };
}

const stateType = (v: View): StateType => (v.dtype === "float16" ? "f16" : v.dtype === "bfloat16" ? "bf16" : "f32");

export function emitRecurrent(e: Emission, s: Site, f: Fused, nodes: readonly string[]): void {
  const { input, ...shape } = recurrentShape(s);
  const { steps, batch, directions, hidden, kind } = shape;
  const { precision, device } = e.options;
  const [x, w, r] = [s.ins[0], s.ins[1], s.ins[2]] as [Operand, Operand, Operand];
  const stored = e.stored(x.dtype);
  const dense = (v: View): boolean => rowMajor(v.dims).every((st, i) => v.dims[i] === 1 || v.strides[i] === st);
  const lie = (v: Operand, dtype = stored): View => e.inMemory(v.id, dtype, naturalOrder(v.dims.length), dense);

  // xw = x W', for every step, direction and gate at once.
  const [rows, columns] = [steps * batch, directions * gatesOf[kind] * hidden];
  const a: View = { ...lie(x), dims: [rows, input], strides: [input, 1] };
  const b: View = { ...lie(w), dims: [input, columns], strides: [1, input] };
  const template = precisionOf(a, precision);
  const made = template === undefined ? undefined : matmul(a, b, template);
  if (made === undefined) throw new NotEmitted(s.node, `products of ${stored} have no kernel`);
  const buffer = `projected ${e.name(kind)}`;
  e.buffers.set(buffer, { kind: "arena", bytes: rows * columns * 4 });
  const xw: View = { buffer, dtype: "float32", dims: [rows, columns], strides: [columns, 1], offset: 0 };
  const epilogue = epilogueOf(columns, xw, noTail, (_, m, n, acc) => ({ index: [m, n], value: acc }), rows, []);
  const tactic = choose(
    e,
    {
      kind: "gemm",
      problem: made.problem,
      tactics: gemmTactics(made.problem, device),
    },
    epilogue,
    nodes,
  );
  if (tactic === undefined) throw new NotEmitted(s.node, "no tile fits");
  e.pushText(gemmKernel(made.problem, tactic, epilogue.text, e.name(`${kind} inputs`), device), { a, b }, epilogue, [xw], nodes);

  // Summed dim first, so that neighbouring threads read neighbouring units.
  const weights = e.inMemory(r.id, stored, [0, 2, 1], () => false);
  const optional = (["bias", "lengths", "h0", "c0", "peephole"] as const).flatMap((name, i) => {
    const v = s.ins[3 + i];
    return v === undefined ? [] : [[name, lie(v, name === "lengths" ? "int32" : "float32")] as const];
  });
  const wanted = new Set<ValueId>([f.root, ...f.also]);
  const result = (port: number): View | undefined => {
    const v = s.node.outs[port];
    return v !== undefined && wanted.has(v) ? e.written.get(v) : undefined;
  };
  const [y, yh, yc] = [result(0), result(1), result(2)];
  const kernel = recurrentKernel(
    {
      ...shape,
      weights: stateType(weights),
      y: y === undefined ? undefined : { dtype: stateType(y), strides: y.strides as unknown as readonly [number, number, number, number] },
      yh: yh === undefined ? undefined : stateType(yh),
      yc: yc === undefined ? undefined : stateType(yc),
    },
    device,
    e.name(kind),
  );
  const results = Object.entries({ y, yh, yc }).filter((entry): entry is [string, View] => entry[1] !== undefined);
  e.pushText(
    kernel,
    { xw, r: weights, ...Object.fromEntries(optional), ...Object.fromEntries(results) },
    undefined,
    results.map(([, v]) => v),
    nodes,
  );
}
