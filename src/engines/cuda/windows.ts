/** Sliding windows: where a window of the input begins, and the pools over them. */
import { add, type Index, linear, product, rowMajor, scale } from "./indexing.js";
import { literal } from "./pointwise.js";
import { largest, lowest, NEG_INF, type Reduction, sum } from "./reduction.js";
import { allOf, operand, output, readWithin, type Site, type Tensor, within } from "./site.js";
import { storage } from "./storage.js";

/** Kernel, strides, dilations and the pads at the beginning of a windowed operator's spatial dims. */
export interface WindowSpec {
  readonly kernel: readonly number[];
  readonly strides: readonly number[];
  readonly dilations: readonly number[];
  readonly begin: readonly number[];
}
export function windowOf(s: Site, x: Tensor, y: Tensor, kernel: readonly number[]): WindowSpec {
  const n = kernel.length;
  const strides: readonly number[] = s.attrs.strides ?? new Array<number>(n).fill(1);
  const dilations: readonly number[] = s.attrs.dilations ?? new Array<number>(n).fill(1);
  const auto: string = s.attrs.auto_pad;
  const begin = Array.from({ length: n }, (_, i) => {
    if (auto === "NOTSET") return (s.attrs.pads?.[i] as number | undefined) ?? 0;
    if (auto === "VALID") return 0;
    const extent = ((kernel[i] as number) - 1) * (dilations[i] as number) + 1;
    const total = Math.max(((y.dims[i + 2] as number) - 1) * (strides[i] as number) + extent - (x.dims[i + 2] as number), 0);
    return auto === "SAME_UPPER" ? Math.floor(total / 2) : Math.ceil(total / 2);
  });
  return { kernel, strides, dilations, begin };
}
export const spatial = (w: WindowSpec, out: readonly Index[], at: readonly Index[]): readonly Index[] =>
  w.kernel.map((_, i) =>
    add(add(scale(out[i + 2] as Index, w.strides[i] as number), scale(at[i] as Index, w.dilations[i] as number)), -(w.begin[i] as number)),
  );

export function pool(s: Site, max: boolean): Reduction {
  const [x, y] = [operand(s, 0), output(s)];
  const w = windowOf(s, x, y, s.attrs.kernel_shape);
  const register = storage(x.dtype).register;
  const float = register === "float";
  const size = product(w.kernel);
  const counted = !max && !s.attrs.count_include_pad;
  const end = (i: number): number =>
    s.attrs.auto_pad === "NOTSET" ? ((s.attrs.pads?.[i + w.kernel.length] as number | undefined) ?? 0) : 0;
  return {
    over: w.kernel,
    accumulators: [
      { type: register, start: max ? lowest(register) : literal(0, register) },
      ...(max ? [] : [{ type: "int" as const, start: "0" }]),
    ],
    element: (scope, out, at) => {
      const index = spatial(w, out, at);
      const inside = allOf(
        scope,
        index.map((d, i) => within(scope, d, 0, x.dims[i + 2] as number)),
      );
      // A window hanging over the padded edge (ceil_mode) counts neither that part nor, unless asked, the pads.
      const padded = counted
        ? inside
        : allOf(
            scope,
            index.map((d, i) => within(scope, d, -(w.begin[i] as number), (x.dims[i + 2] as number) + end(i))),
          );
      const number = (c: string | boolean): string => (typeof c === "string" ? `(${c} ? 1 : 0)` : c ? "1" : "0");
      const rest = max ? [] : [scope.let("int", number(padded))];
      const absent = max ? lowest(register) : literal(0, register);
      const full = [out[0] as Index, out[1] as Index, ...index];
      return [readWithin(scope, register, inside, () => scope.let(register, x.at(scope, full)), absent), ...rest];
    },
    combine: ([a, n], [b, m]) => (max ? largest([a as string], [b as string]) : [`${a} + ${b}`, `${n} + ${m}`]),
    finish: (_, [total = "", n]) => (max ? total : float ? `${total} / (float)${n}` : `${total} / ${n ?? size}`),
  };
}
/** Flat positions of the largest elements, the first of equal ones (MaxPool's second output). */
export function poolIndices(s: Site): Reduction {
  const [x, y] = [operand(s, 0), output(s)];
  const w = windowOf(s, x, y, s.attrs.kernel_shape);
  const register = storage(x.dtype).register;
  const n = w.kernel.length;
  // Column-major positions count the first spatial dim fastest.
  const strides = [...rowMajor(x.dims)];
  if (s.attrs.storage_order === 1) {
    let step = 1;
    for (let i = 2; i < n + 2; i++) {
      strides[i] = step;
      step *= x.dims[i] as number;
    }
  }
  return {
    over: w.kernel,
    accumulators: [
      { type: register, start: lowest(register) },
      { type: "int", start: "2147483647" },
    ],
    element: (scope, out, at) => {
      const index = spatial(w, out, at);
      const inside = allOf(
        scope,
        index.map((d, i) => within(scope, d, 0, x.dims[i + 2] as number)),
      );
      if (inside === false) return [lowest(register), "2147483647"];
      const full = [out[0] as Index, out[1] as Index, ...index];
      const place = scope.let("int", scope.index(linear(full, strides)));
      const value = readWithin(scope, register, inside, () => scope.let(register, x.at(scope, full)), lowest(register));
      return [value, inside === true ? place : scope.let("int", `${inside} ? ${place} : 2147483647`)];
    },
    combine: ([v, i], [u, j]) => {
      const first = `(${v} > ${u} || (${v} == ${u} && ${i} < ${j}))`;
      return [`(${first} ? ${v} : ${u})`, `(${first} ? ${i} : ${j})`];
    },
    finish: (_, [, at = ""]) => `(long long)${at}`,
  };
}

/** (sum of |x|^p over a window) ^ (1 / p); of a whole plane where there is no window. */
export function normPool(s: Site, global: boolean): Reduction {
  const [x, y] = [operand(s, 0), output(s)];
  const p: number = s.attrs.p;
  const w = global ? undefined : windowOf(s, x, y, s.attrs.kernel_shape);
  const power = (v: string): string => (p === 1 ? `fabsf(${v})` : p === 2 ? `${v} * ${v}` : `powf(fabsf(${v}), ${literal(p, "float")})`);
  return {
    over: w?.kernel ?? x.dims.slice(2),
    accumulators: [{ type: "float", start: "0.0f" }],
    element: (scope, out, at) => {
      const index = w === undefined ? at : spatial(w, out, at);
      const inside = allOf(
        scope,
        index.map((d, i) => within(scope, d, 0, x.dims[i + 2] as number)),
      );
      if (inside === false) return ["0.0f"];
      const full = [out[0] as Index, out[1] as Index, ...index];
      const value = readWithin(scope, "float", inside, () => scope.let("float", x.at(scope, full)), "0.0f");
      return [scope.let("float", power(value))];
    },
    combine: sum,
    finish: (_, [total = ""]) => (p === 1 ? total : p === 2 ? `sqrtf(${total})` : `powf(${total}, ${literal(1 / p, "float")})`),
  };
}

export function globalPool(s: Site, max: boolean): Reduction {
  const x = operand(s, 0);
  const over = x.dims.slice(2);
  return {
    over,
    accumulators: [{ type: "float", start: max ? NEG_INF : "0.0f" }],
    element: (scope, out, at) => [scope.let("float", x.at(scope, [out[0] as Index, out[1] as Index, ...at]))],
    combine: max ? largest : sum,
    finish: (_, [total = ""]) => (max ? total : `${total} / ${literal(product(over), "float")}`),
  };
}
