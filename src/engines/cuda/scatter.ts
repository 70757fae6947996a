/**
 * Scattering, seen from the result: every element looks for the updates that are meant for it. The order in which they are combined is fixed, the last of
 * several replacements wins as it does on the host, and no atomics are needed.
 */
import { type Index, linear, product, rowMajor, ZERO } from "./indexing.js";
import { literal } from "./pointwise.js";
import { highest, largest, least, lowest, type Reduction, sum } from "./reduction.js";
import type { Scope } from "./scope.js";
import { allOf, axis, type Operand, operand, Refused, readWithin, type Site, within } from "./site.js";
import { type Register, storage } from "./storage.js";

/** Comparisons beyond which a search by every element takes longer than the host. */
const MOST_STEPS = 2 ** 36;

interface Combination {
  readonly neutral: (r: Register) => string;
  readonly join: Reduction["combine"];
}
const combinations: Readonly<Record<string, Combination>> = {
  add: { neutral: (r) => literal(0, r), join: sum },
  mul: { neutral: (r) => literal(1, r), join: ([a], [b]) => [`${a} * ${b}`] },
  max: { neutral: lowest, join: largest },
  min: { neutral: highest, join: least },
};

/** `search` says whether update `at` is meant for the element `out` (C text, or known), and which element of the updates it is. */
function scattered(
  s: Site,
  over: readonly number[],
  search: (
    scope: Scope,
    out: readonly Index[],
    at: readonly Index[],
  ) => { readonly hit: string | boolean; readonly from: readonly Index[] },
): Reduction {
  const [data, updates] = [operand(s, 0), operand(s, 2)];
  const register = storage(data.dtype).register;
  if (product(data.dims) * product(over) > MOST_STEPS)
    throw new Refused(`${product(over)} updates of ${product(data.dims)} elements take too long to search`, "let the host scatter them");
  const combination = combinations[s.attrs.reduction as string];
  const value = (scope: Scope, hit: string | boolean, from: readonly Index[], otherwise: string): string =>
    readWithin(scope, register, hit, () => updates.at(scope, from), otherwise);
  if (combination !== undefined) {
    const neutral = combination.neutral(register);
    return {
      over,
      accumulators: [{ type: register, start: neutral }],
      element: (scope, out, at) => {
        const { hit, from } = search(scope, out, at);
        return [value(scope, hit, from, neutral)];
      },
      combine: combination.join,
      finish: (scope, [total = ""], out) => {
        const own = scope.let(register, data.at(scope, out));
        return scope.let(register, combination.join([own], [total])[0] as string);
      },
    };
  }
  const position = (at: readonly Index[]): Index => linear(at, rowMajor(over));
  return {
    over,
    accumulators: [
      { type: register, start: literal(0, register) },
      { type: "int", start: "-1" },
    ],
    element: (scope, out, at) => {
      const { hit, from } = search(scope, out, at);
      const place = scope.index(position(at));
      return [
        value(scope, hit, from, literal(0, register)),
        hit === true ? scope.let("int", place) : hit === false ? "-1" : scope.let("int", `${hit} ? ${place} : -1`),
      ];
    },
    combine: ([v, i], [w, j]) => [`(${i} > ${j} ? ${v} : ${w})`, `max(${i}, ${j})`],
    finish: (scope, [total = "", at = ""], out) => {
      const own = scope.let(register, data.at(scope, out));
      return scope.let(register, `${at} >= 0 ? ${total} : ${own}`);
    },
  };
}

/** Whether an element of the indices, negative ones counted from the end, is this position. */
function meets(scope: Scope, indices: Operand, at: readonly Index[], size: number, wanted: Index): string {
  const raw = scope.let("int", `(int)(${indices.at(scope, at)})`);
  return scope.let("bool", `${raw} + (${raw} < 0 ? ${size} : 0) == ${scope.index(wanted)}`);
}

function scatterElements(s: Site): Reduction {
  const [data, indices] = [operand(s, 0), operand(s, 1)];
  const a = axis(s.attrs.axis, data.dims.length);
  return scattered(s, [indices.dims[a] as number], (scope, out, [r = ZERO]) => {
    const from = out.map((d, i) => (i === a ? r : d));
    const inside = allOf(
      scope,
      out.map((d, i) => i === a || within(scope, d, 0, indices.dims[i] as number)),
    );
    if (inside === false) return { hit: false, from };
    const test = (): string => meets(scope, indices, from, data.dims[a] as number, out[a] as Index);
    const hit = inside === true ? test() : scope.let("bool", `${inside} && ${scope.guarded(inside, test)}`);
    return { hit, from };
  });
}

function scatterND(s: Site): Reduction {
  const [data, indices] = [operand(s, 0), operand(s, 1)];
  const depth = indices.dims.at(-1) ?? 0;
  return scattered(s, indices.dims.slice(0, -1), (scope, out, at) => ({
    hit: allOf(
      scope,
      Array.from({ length: depth }, (_, k) =>
        meets(scope, indices, [...at, { constant: k, terms: [] }], data.dims[k] as number, out[k] as Index),
      ),
    ),
    from: [...at, ...out.slice(depth)],
  }));
}

/** Elements go back to the flat positions that MaxPool gave for them; zeros elsewhere. */
function maxUnpool(s: Site): Reduction {
  const [x, indices] = [operand(s, 0), operand(s, 1)];
  const y = s.outs[0];
  const register = storage(x.dtype).register;
  const over = x.dims.slice(2);
  if (y === undefined) throw new Refused("its output is not asked for");
  if (product(y.dims) * product(over) > MOST_STEPS) throw new Refused("its planes take too long to search");
  // Positions count in a tensor of the size that the pool had, which is the result's unless a larger one is asked for.
  if (s.ins[2] !== undefined) throw new Refused("an output shape of its own has no kernel");
  return {
    over,
    accumulators: [{ type: register, start: literal(0, register) }],
    element: (scope, out, at) => {
      const from = [out[0] as Index, out[1] as Index, ...at];
      const flat = scope.index(linear(out, rowMajor(y.dims)));
      const hit = scope.let("bool", `${indices.at(scope, from)} == ${flat}`);
      return [scope.let(register, `${hit} ? ${x.at(scope, from)} : ${literal(0, register)}`)];
    },
    combine: sum,
    finish: (_, [total = ""]) => total,
  };
}

export const scatters: Readonly<Record<string, (s: Site) => Reduction>> = {
  ScatterElements: scatterElements,
  ScatterND: scatterND,
  MaxUnpool: maxUnpool,
};
