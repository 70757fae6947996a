/** Resize by nearest, linear or cubic sampling, with ONNX's coordinate rules, as an element expression. */
import { divide, type Index, variable } from "./indexing.js";
import { literal } from "./pointwise.js";
import type { Element, Scope } from "./scope.js";
import { axis, numbers, operand, output, Refused, type Site } from "./site.js";
import { storage } from "./storage.js";

/** The position in the input that an output position samples, as C text in single precision (ONNX Resize, "coordinate_transformation_mode"). */
function coordinate(scope: Scope, mode: string, out: Index, from: number, to: number, factor: number): string {
  const f = literal(factor, "float");
  // A name: the index may be a sum, as in the window of a pool behind.
  const x = scope.let("int", scope.index(out));
  switch (mode) {
    case "half_pixel":
      return `((float)${x} + 0.5f) / ${f} - 0.5f`;
    case "pytorch_half_pixel":
      return to > 1 ? `((float)${x} + 0.5f) / ${f} - 0.5f` : "0.0f";
    case "half_pixel_symmetric": {
      const adjustment = to / (factor * from);
      const offset = (from / 2) * (1 - adjustment);
      return `${literal(offset, "float")} + ((float)${x} + 0.5f) / ${f} - 0.5f`;
    }
    case "align_corners":
      return to === 1 ? "0.0f" : `(float)${x} * ${literal(from - 1, "float")} / ${literal(to - 1, "float")}`;
    case "asymmetric":
      return `(float)${x} / ${f}`;
    case "tf_half_pixel_for_nn":
      return `((float)${x} + 0.5f) / ${f}`;
    default:
      throw new Refused(`resizing by '${mode}' has no kernel`);
  }
}
const roundings: Readonly<Record<string, (x: string) => string>> = {
  round_prefer_floor: (x) => `ceilf(${x} - 0.5f)`,
  round_prefer_ceil: (x) => `floorf(${x} + 0.5f)`,
  floor: (x) => `floorf(${x})`,
  ceil: (x) => `ceilf(${x})`,
};

export function resize(s: Site): Element {
  const [x, y] = [operand(s, 0), output(s)];
  const { mode, antialias, coordinate_transformation_mode: how, nearest_mode: rounding } = s.attrs;
  if (antialias) throw new Refused("antialiased resizing has no kernel");
  const rank = x.dims.length;
  const axes: readonly number[] = (s.attrs.axes ?? x.dims.map((_, i) => i)).map((a: number) => axis(a, rank));
  const given = s.ins[2] !== undefined && s.ins[2].dims[0] !== 0 ? floats(s, 2) : undefined;
  const factors = x.dims.map((d, i) => {
    const k = axes.indexOf(i);
    return k >= 0 && given !== undefined ? (given[k] as number) : Math.fround((y.dims[i] as number) / d);
  });
  const register = storage(x.dtype).register;

  return (scope, index) => {
    const sampled = (at: readonly Index[], i: number): string => {
      if (i === rank) return x.at(scope, at);
      const [from, to, factor] = [x.dims[i] as number, y.dims[i] as number, factors[i] as number];
      const out = index[i] as Index;
      if (from === to && factor === 1) return sampled([...at, out], i + 1);
      if (mode === "nearest") return sampled([...at, nearest(scope, out, how, rounding, from, to, factor)], i + 1);
      if (mode === "cubic") {
        const position = scope.let("float", coordinate(scope, how, out, from, to, factor));
        const low = scope.let("float", `floorf(${position})`);
        const taps = cubic(scope, position, low, s.attrs.cubic_coeff_a);
        const places = taps.map((_, k) => scope.let("int", `(int)${low} + ${k - 1}`));
        // Taps beyond the border repeat it, or do not count.
        const weights = s.attrs.exclude_outside
          ? taps.map((w, k) => scope.let("float", `${places[k]} >= 0 && ${places[k]} < ${from} ? ${w} : 0.0f`))
          : taps;
        const values = places.map((p) => sampled([...at, variable(scope.let("int", `min(max(${p}, 0), ${from - 1})`), from - 1)], i + 1));
        const total = scope.let("float", values.map((v, k) => `(float)${v} * ${weights[k]}`).join(" + "));
        return s.attrs.exclude_outside ? scope.let("float", `${total} / (${weights.join(" + ")})`) : total;
      }
      const position = scope.let(
        "float",
        `fminf(fmaxf(${coordinate(scope, how, out, from, to, factor)}, 0.0f), ${literal(from - 1, "float")})`,
      );
      const low = scope.let("int", `(int)${position}`);
      const high = scope.let("int", `min(${low} + 1, ${from - 1})`);
      const weight = scope.let("float", `${position} - (float)${low}`);
      const a = sampled([...at, variable(low, from - 1)], i + 1);
      const b = sampled([...at, variable(high, from - 1)], i + 1);
      return scope.let("float", `(float)${a} * (1.0f - ${weight}) + (float)${b} * ${weight}`);
    };
    const value = sampled([], 0);
    return register === "float" ? value : scope.let(register, `(${register})${value}`);
  };
}

/** Weights of the four taps around a position (Keys, "Cubic Convolution Interpolation", 1981). */
function cubic(scope: Scope, position: string, low: string, a: number): readonly string[] {
  const t = scope.let("float", `${position} - ${low}`);
  const c = (x: number): string => literal(x, "float");
  const near = (d: string): string => scope.let("float", `((${c(a + 2)} * ${d} - ${c(a + 3)}) * ${d}) * ${d} + 1.0f`);
  const far = (d: string): string => scope.let("float", `((${c(a)} * ${d} - ${c(5 * a)}) * ${d} + ${c(8 * a)}) * ${d} - ${c(4 * a)}`);
  const u = scope.let("float", `1.0f - ${t}`);
  return [far(scope.let("float", `${t} + 1.0f`)), near(t), near(u), far(scope.let("float", `${u} + 1.0f`))];
}

function nearest(scope: Scope, out: Index, how: string, rounding: string, from: number, to: number, factor: number): Index {
  const round = roundings[rounding];
  if (round === undefined) throw new Refused(`rounding by '${rounding}' has no kernel`);
  // Whole factors under the two usual rules are a plain division.
  if (
    Number.isInteger(factor) &&
    from * factor === to &&
    ((how === "asymmetric" && rounding === "floor") ||
      (how === "half_pixel" && rounding === "round_prefer_floor") ||
      how === "tf_half_pixel_for_nn")
  )
    return divide(out, factor);
  const position = coordinate(scope, how, out, from, to, factor);
  return variable(scope.let("int", `min(max((int)${round(position)}, 0), ${from - 1})`), from - 1);
}

function floats(s: Site, i: number): readonly number[] {
  const found = numbers(s, i);
  return found.map(Math.fround);
}
