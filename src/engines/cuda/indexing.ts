/**
 * Integer index expressions of emitted kernels: sums of constant multiples of atoms, where an atom is a variable, a quotient or a remainder.
 * Ranges are carried along, so that the quotients and remainders of reshapes cancel where the dims allow it. All values fit 32 bits.
 */

export type Atom =
  | { readonly kind: "variable"; readonly key: string; readonly min: number; readonly max: number }
  | {
      readonly kind: "div" | "mod";
      readonly key: string;
      readonly min: number;
      readonly max: number;
      readonly inner: Index;
      readonly by: number;
    };
interface Term {
  readonly atom: Atom;
  readonly factor: number;
}

/** `constant + sum of factor * atom`, terms in the order of their keys. */
export interface Index {
  readonly constant: number;
  readonly terms: readonly Term[];
}

export const constantIndex = (constant: number): Index => ({ constant, terms: [] });
export const ZERO = constantIndex(0);
/** A C variable with values from `min` to `max`. */
export const variable = (name: string, max: number, min = 0): Index =>
  max === min ? constantIndex(min) : { constant: 0, terms: [{ atom: { kind: "variable", key: name, min, max }, factor: 1 }] };

export const isConstant = (x: Index): boolean => x.terms.length === 0;

export function range(x: Index): { readonly min: number; readonly max: number } {
  let [min, max] = [x.constant, x.constant];
  for (const { atom, factor } of x.terms) {
    min += factor * (factor > 0 ? atom.min : atom.max);
    max += factor * (factor > 0 ? atom.max : atom.min);
  }
  return { min, max };
}

export function add(a: Index, b: Index | number): Index {
  if (typeof b === "number") return b === 0 ? a : { constant: a.constant + b, terms: a.terms };
  if (a.terms.length === 0) return add(b, a.constant);
  if (b.terms.length === 0) return add(a, b.constant);
  const terms = new Map<string, Term>(a.terms.map((t) => [t.atom.key, t]));
  for (const t of b.terms) {
    const factor = (terms.get(t.atom.key)?.factor ?? 0) + t.factor;
    if (factor === 0) terms.delete(t.atom.key);
    else terms.set(t.atom.key, { atom: t.atom, factor });
  }
  return recombined({ constant: a.constant + b.constant, terms: sorted([...terms.values()]) });
}

export function scale(a: Index, by: number): Index {
  if (by === 1) return a;
  return by === 0 ? ZERO : { constant: a.constant * by + 0, terms: a.terms.map((t) => ({ atom: t.atom, factor: t.factor * by })) };
}
export const subtract = (a: Index, b: Index): Index => add(a, scale(b, -1));

/** Rounds towards minus infinity; `by` is positive. */
export function divide(a: Index, by: number): Index {
  if (by === 1) return a;
  // A quotient's quotient is one quotient.
  const [only, second] = a.terms;
  if (only?.atom.kind === "div" && second === undefined && only.factor === 1 && a.constant === 0)
    return divide(only.atom.inner, only.atom.by * by);
  const [whole, rest] = split(a, by);
  const { min, max } = range(rest);
  if (Math.floor(min / by) === Math.floor(max / by)) return add(whole, Math.floor(min / by));
  // Terms too small to carry into the next multiple of a common factor do not change the quotient.
  for (const g of factors(rest, by)) {
    const [large, small] = split(rest, g);
    const r = range(small);
    if (r.min >= 0 && r.max < g) return add(whole, divide(large, by / g));
  }
  return add(whole, atomOf("div", rest, by, Math.floor(min / by), Math.floor(max / by)));
}

/** In 0 to by - 1; `by` is positive. */
export function modulo(a: Index, by: number): Index {
  if (by === 1) return ZERO;
  const [, rest] = split(a, by);
  const { min, max } = range(rest);
  if (Math.floor(min / by) === Math.floor(max / by)) return add(rest, -by * Math.floor(min / by));
  for (const g of factors(rest, by)) {
    const [large, small] = split(rest, g);
    const r = range(small);
    if (r.min >= 0 && r.max < g) return add(scale(modulo(large, by / g), g), small);
  }
  return atomOf("mod", rest, by, 0, by - 1);
}

/** `a = by * first + second`, `second` holding what is no multiple, with a constant of 0 to by - 1. */
function split(a: Index, by: number): [Index, Index] {
  const whole = a.terms.filter((t) => t.factor % by === 0);
  const rest = a.terms.filter((t) => t.factor % by !== 0);
  const carried = Math.floor(a.constant / by);
  return [
    { constant: carried, terms: whole.map((t) => ({ atom: t.atom, factor: t.factor / by })) },
    { constant: a.constant - carried * by, terms: rest },
  ];
}
function factors(a: Index, by: number): readonly number[] {
  const found = new Set(a.terms.map((t) => gcd(Math.abs(t.factor), by)).filter((g) => g > 1 && g < by));
  return [...found].sort((x, y) => y - x);
}
const gcd = (a: number, b: number): number => (b === 0 ? a : gcd(b, a % b));

function atomOf(kind: "div" | "mod", inner: Index, by: number, min: number, max: number): Index {
  const key = `(${text(inner)})${kind === "div" ? "/" : "%"}${by}`;
  return { constant: 0, terms: [{ atom: { kind, key, min, max, inner, by }, factor: 1 }] };
}

const sorted = (terms: Term[]): Term[] => terms.sort((x, y) => (x.atom.key < y.atom.key ? -1 : x.atom.key > y.atom.key ? 1 : 0));

/** `by * (e / by) + e % by` is `e` again: what linearising the dims of a delinearised index leaves. */
function recombined(a: Index): Index {
  for (const m of a.terms) {
    if (m.atom.kind !== "mod") continue;
    const { inner, by } = m.atom;
    const quotient = divide(inner, by);
    const [q] = quotient.terms;
    if (quotient.terms.length !== 1 || quotient.constant !== 0 || q === undefined || q.factor !== 1) continue;
    const other = a.terms.find((t) => t.atom.key === q.atom.key && t.factor === m.factor * by);
    if (other === undefined) continue;
    const rest: Index = { constant: a.constant, terms: a.terms.filter((t) => t !== m && t !== other) };
    return add(rest, scale(inner, m.factor));
  }
  return a;
}

/** C text in which every atom stands as it is. */
export function text(a: Index, name: (atom: Atom) => string = (atom) => (atom.kind === "variable" ? atom.key : `(${atom.key})`)): string {
  const parts = a.terms.map((t) => (t.factor === 1 ? name(t.atom) : `${t.factor} * ${name(t.atom)}`));
  if (a.constant !== 0 || parts.length === 0) parts.push(String(a.constant));
  return parts.join(" + ").replaceAll("+ -", "- ");
}

/** Row-major strides of dims, in elements. */
export function rowMajor(dims: readonly number[]): readonly number[] {
  const strides = new Array<number>(dims.length).fill(1);
  for (let i = dims.length - 2; i >= 0; i--) strides[i] = (strides[i + 1] as number) * (dims[i + 1] as number);
  return strides;
}
export const linear = (index: readonly Index[], strides: readonly number[], offset = 0): Index =>
  index.reduce((sum, x, i) => add(sum, scale(x, strides[i] as number)), constantIndex(offset));
/** The row-major position `position` in `dims`, as an index. */
export function delinear(position: Index, dims: readonly number[]): readonly Index[] {
  const strides = rowMajor(dims);
  return dims.map((d, i) => (i === 0 ? divide(position, strides[i] as number) : modulo(divide(position, strides[i] as number), d)));
}
export const product = (dims: readonly number[]): number => dims.reduce((a, b) => a * b, 1);
