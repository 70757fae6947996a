/** Convolutions and products as plain sums: the fallback of the matrix kernels, and transposed convolutions. */
import { add, divide, type Index, modulo, scale, subtract, ZERO } from "./indexing.js";
import { literal } from "./pointwise.js";
import { type Reduction, sum } from "./reduction.js";
import type { Scope } from "./scope.js";
import { allOf, broadcastIndex, type Operand, operand, output, readWithin, type Site, within } from "./site.js";
import { storage } from "./storage.js";
import { spatial, windowOf } from "./windows.js";

/** Direct convolution of any rank: the fallback of the matrix kernels. */
export function directConv(s: Site): Reduction {
  const [x, w, y] = [operand(s, 0), operand(s, 1), output(s)];
  const bias = s.ins[2];
  const groups: number = s.attrs.group;
  const perGroup = (y.dims[1] as number) / groups;
  const depth = w.dims[1] as number;
  const window = windowOf(s, x, y, w.dims.slice(2));
  return {
    over: [...window.kernel, depth],
    accumulators: [{ type: "float", start: "0.0f" }],
    element: (scope, out, at) => {
      const c = at[window.kernel.length] as Index;
      const index = spatial(window, out, at);
      const inside = allOf(
        scope,
        index.map((d, i) => within(scope, d, 0, x.dims[i + 2] as number)),
      );
      if (inside === false) return ["0.0f"];
      const channel = add(scale(divide(out[1] as Index, perGroup), depth), c);
      const value = readWithin(scope, "float", inside, () => x.at(scope, [out[0] as Index, channel, ...index]), "0.0f");
      const weight = w.at(scope, [out[1] as Index, c, ...at.slice(0, window.kernel.length)]);
      return [scope.let("float", `${value} * ${weight}`)];
    },
    combine: sum,
    finish: (scope, [total = ""], out) =>
      bias === undefined ? total : scope.let("float", `${total} + ${bias.at(scope, [out[1] as Index])}`),
  };
}

/** Transposed convolution, gathered: each output sums the inputs whose windows reach it. */
export function convTranspose(s: Site): Reduction {
  const [x, w, y] = [operand(s, 0), operand(s, 1), output(s)];
  const bias = s.ins[2];
  const n = x.dims.length - 2;
  const kernel = w.dims.slice(2);
  const strides: readonly number[] = s.attrs.strides ?? new Array<number>(n).fill(1);
  const dilations: readonly number[] = s.attrs.dilations ?? new Array<number>(n).fill(1);
  const groups: number = s.attrs.group;
  const [perGroup, depth] = [w.dims[1] as number, (x.dims[1] as number) / groups];
  const extra: readonly number[] = s.attrs.output_padding ?? new Array<number>(n).fill(0);
  const begin = Array.from({ length: n }, (_, i) => {
    const full =
      ((x.dims[i + 2] as number) - 1) * (strides[i] as number) +
      (extra[i] as number) +
      ((kernel[i] as number) - 1) * (dilations[i] as number) +
      1;
    const total = full - (y.dims[i + 2] as number);
    if (s.attrs.output_shape === undefined && s.attrs.auto_pad === "NOTSET") return (s.attrs.pads?.[i] as number | undefined) ?? 0;
    return s.attrs.auto_pad === "SAME_UPPER" ? Math.floor(total / 2) : total - Math.floor(total / 2);
  });
  return {
    over: [...kernel, depth],
    accumulators: [{ type: "float", start: "0.0f" }],
    element: (scope, out, at) => {
      const reach = kernel.map((_, i) =>
        subtract(add(out[i + 2] as Index, begin[i] as number), scale(at[i] as Index, dilations[i] as number)),
      );
      const index = reach.map((d, i) => divide(d, strides[i] as number));
      const conditions = reach.flatMap((d, i) => {
        const m = modulo(d, strides[i] as number);
        return [within(scope, m, 0, 1), within(scope, index[i] as Index, 0, x.dims[i + 2] as number)];
      });
      const inside = allOf(scope, conditions);
      if (inside === false) return ["0.0f"];
      const group = divide(out[1] as Index, perGroup);
      const c = add(scale(group, depth), at[n] as Index);
      const value = readWithin(scope, "float", inside, () => x.at(scope, [out[0] as Index, c, ...index]), "0.0f");
      const weight = w.at(scope, [c, modulo(out[1] as Index, perGroup), ...at.slice(0, n)]);
      return [scope.let("float", `${value} * ${weight}`)];
    },
    combine: sum,
    finish: (scope, [total = ""], out) =>
      bias === undefined ? total : scope.let("float", `${total} + ${bias.at(scope, [out[1] as Index])}`),
  };
}

/** Product of any two operands: the fallback of the matrix kernels (integers, vectors, tiny sizes). */
export function directMatMul(s: Site): Reduction {
  const [a, b, y] = [operand(s, 0), operand(s, 1), output(s)];
  const register = storage(y.dtype).register;
  const [va, vb] = [a.dims.length === 1, b.dims.length === 1];
  const batchOf = (x: Operand, batch: readonly Index[]): readonly Index[] => broadcastIndex(x.dims.slice(0, -2), batch);
  return {
    over: [a.dims.at(-1) as number],
    accumulators: [{ type: register, start: literal(0, register) }],
    element: (scope, out, [k = ZERO]) => {
      const tail = (va ? 0 : 1) + (vb ? 0 : 1);
      const batch = out.slice(0, out.length - tail);
      const m = va ? undefined : out[batch.length];
      const n = vb ? undefined : out[out.length - 1];
      const left = a.at(scope, va ? [k] : [...batchOf(a, batch), m as Index, k]);
      const right = b.at(scope, vb ? [k] : [...batchOf(b, batch), k, n as Index]);
      return [scope.let(register, `${left} * ${right}`)];
    },
    combine: sum,
    finish: (_, [total = ""]) => total,
  };
}
export function directGemm(s: Site): Reduction {
  const [a, b] = [operand(s, 0), operand(s, 1)];
  const register = storage(output(s).dtype).register;
  const [ta, tb]: [boolean, boolean] = [s.attrs.transA, s.attrs.transB];
  return {
    over: [a.dims[ta ? 0 : 1] as number],
    accumulators: [{ type: register, start: literal(0, register) }],
    element: (scope, [m = ZERO, n = ZERO], [k = ZERO]) => [
      scope.let(register, `${a.at(scope, ta ? [k, m] : [m, k])} * ${b.at(scope, tb ? [n, k] : [k, n])}`),
    ],
    combine: sum,
    finish: (scope, [total = ""], out) => gemmResult(scope, s, total, out),
  };
}
/** alpha * product + beta * C. */
export function gemmResult(scope: Scope, s: Site, total: string, out: readonly Index[]): string {
  const c = s.ins[2];
  const register = storage(output(s).dtype).register;
  const { alpha, beta } = s.attrs;
  const scaled = alpha === 1 ? total : scope.let(register, `${literal(alpha, "float")} * ${total}`);
  if (c === undefined || beta === 0) return scaled;
  const added = c.at(scope, broadcastIndex(c.dims, out));
  return scope.let(register, `${scaled} + ${beta === 1 ? added : `${literal(beta, "float")} * ${added}`}`);
}
