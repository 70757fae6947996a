/**
 * Arithmetic on dims. A symbolic dim is the canonical text of a polynomial with integer coefficients over atoms: names (`batch`), quoted
 * names (`` `odd name` ``) and calls (`floordiv(a, 2)`, `max(a, b)`). Equal texts mean equal dims; different texts may still be equal at
 * run time. `"?"` is unknown and absorbs everything.
 */
import type { Dim, Shape } from "./types.js";

export const UNKNOWN = "?";
/** Longer expressions are not worth carrying; they become unknown. */
const MAX_TERMS = 24;
const MAX_TEXT = 400;

/** Monomial (atoms joined by `*`, sorted; "" is the constant term) to coefficient. */
type Poly = ReadonlyMap<string, number>;

export const isStatic = (d: Dim): d is number => typeof d === "number";
export const isUnknown = (d: Dim): boolean => d === UNKNOWN;
export const isStaticShape = (s: Shape): s is readonly number[] => s?.every(isStatic) ?? false;

/** A symbol from a model's own text: an expression when it reads as one (`past + 1`), a quoted atom otherwise. Empty text is unknown. */
export function symbol(text: string): Dim {
  const t = text.trim();
  if (t === "" || t === UNKNOWN) return UNKNOWN;
  const parsed = t.length <= MAX_TEXT ? evaluate(t) : undefined;
  if (parsed !== undefined && !isUnknown(parsed)) return parsed;
  return `\`${t.slice(0, MAX_TEXT).replaceAll("`", "'")}\``;
}

/** A symbol for a dim of an input that has no name. */
export const axisSymbol = (input: string, axis: number): string => `${input.replaceAll(/\W/g, "_").replace(/^(?=\d)/, "_")}_${axis}`;

export const add = (a: Dim, b: Dim): Dim => combine(a, b, 1);
export const sub = (a: Dim, b: Dim): Dim => combine(a, b, -1);

function combine(a: Dim, b: Dim, sign: 1 | -1): Dim {
  if (isStatic(a) && isStatic(b)) return a + sign * b;
  if (isUnknown(a) || isUnknown(b)) return UNKNOWN;
  const sum = new Map(read(a));
  for (const [m, c] of read(b)) sum.set(m, (sum.get(m) ?? 0) + sign * c);
  return write(sum);
}

export function mul(a: Dim, b: Dim): Dim {
  // Adding 0 keeps -0 out.
  if (isStatic(a) && isStatic(b)) return a * b + 0;
  if (a === 0 || b === 0) return 0;
  if (isUnknown(a) || isUnknown(b)) return UNKNOWN;
  const product = new Map<string, number>();
  for (const [m, c] of read(a)) {
    for (const [n, d] of read(b)) {
      const key = joinMonomials(m, n);
      product.set(key, (product.get(key) ?? 0) + c * d);
    }
  }
  return write(product);
}

export const product = (dims: readonly Dim[]): Dim => dims.reduce(mul, 1);

/** Rounds towards negative infinity. Division by zero is unknown. */
export function floorDiv(a: Dim, b: Dim): Dim {
  if (isStatic(a) && isStatic(b)) return b === 0 ? UNKNOWN : Math.floor(a / b) + 0;
  if (b === 1) return a;
  return exactQuotient(a, b) ?? call("floordiv", a, b);
}

/** Rounds towards zero, where the sign of the quotient is certain; towards negative infinity elsewhere, as shape arithmetic divides nothing negative. */
export function truncDiv(a: Dim, b: Dim): Dim {
  const opposite = mul(-1, a);
  return leastOf(opposite) >= 0 && leastOf(b) >= 1 ? mul(-1, floorDiv(opposite, b)) : floorDiv(a, b);
}

/** Rounds towards positive infinity. */
export function ceilDiv(a: Dim, b: Dim): Dim {
  if (isStatic(a) && isStatic(b)) return b === 0 ? UNKNOWN : Math.ceil(a / b) + 0;
  if (b === 1) return a;
  return exactQuotient(a, b) ?? call("ceildiv", a, b);
}

/** Sign of the divisor, as ONNX Mod with fmod = 0. */
export function mod(a: Dim, b: Dim): Dim {
  if (isStatic(a) && isStatic(b)) return b === 0 ? UNKNOWN : a - b * Math.floor(a / b);
  if (b === 1) return 0;
  return exactQuotient(a, b) === undefined ? call("mod", a, b) : 0;
}

export const max = (a: Dim, b: Dim): Dim => extremum("max", a, b);
export const min = (a: Dim, b: Dim): Dim => extremum("min", a, b);

function extremum(name: "max" | "min", a: Dim, b: Dim): Dim {
  if (isStatic(a) && isStatic(b)) return name === "max" ? Math.max(a, b) : Math.min(a, b);
  if (isUnknown(a) || isUnknown(b)) return UNKNOWN;
  if (a === b) return a;
  if (leastOf(sub(a, b)) >= 0) return name === "max" ? a : b;
  if (leastOf(sub(b, a)) >= 0) return name === "max" ? b : a;
  const [x, y] = String(a) < String(b) ? [a, b] : [b, a];
  return call(name, x, y);
}

/** `d` of `max(0, d)`. */
export function clamped(d: Dim): Dim | undefined {
  const parts = isStatic(d) || !d.startsWith("max(") ? undefined : callParts(d);
  return parts === undefined ? undefined : parts.a === 0 ? parts.b : parts.b === 0 ? parts.a : undefined;
}

/** a / b when it divides as polynomials by a constant or a single monomial, else undefined. */
export function exactQuotient(a: Dim, b: Dim): Dim | undefined {
  if (isUnknown(a) || isUnknown(b) || b === 0) return undefined;
  if (a === b) return 1;
  const divisor = [...read(b)];
  const [only] = divisor;
  if (divisor.length !== 1 || only === undefined) return undefined;
  const [monomial, coefficient] = only;
  const atoms = splitMonomial(monomial);
  const quotient = new Map<string, number>();
  for (const [m, c] of read(a)) {
    if (c % coefficient !== 0) return undefined;
    const rest = splitMonomial(m);
    for (const atom of atoms) {
      const i = rest.indexOf(atom);
      if (i < 0) return undefined;
      rest.splice(i, 1);
    }
    quotient.set(rest.join("*"), c / coefficient);
  }
  return write(quotient);
}

/** Whether two dims are certainly equal (true), certainly different (false), or undecided (undefined). Symbols are at least 0. */
export function sameDim(a: Dim, b: Dim): boolean | undefined {
  if (isUnknown(a) || isUnknown(b)) return undefined;
  if (a === b) return true;
  const difference = sub(a, b);
  if (isStatic(difference)) return difference === 0;
  if (isUnknown(difference)) return undefined;
  return leastOf(difference) > 0 || leastOf(mul(-1, difference)) > 0 ? false : undefined;
}

/** A number that the dim is certainly not below, as symbols are at least 0; -Infinity where there is none. */
function leastOf(d: Dim): number {
  if (isStatic(d)) return d;
  if (isUnknown(d)) return Number.NEGATIVE_INFINITY;
  let sum = 0;
  for (const [m, c] of read(d)) {
    // Of a factor that may be negative, and of what is taken away, nothing is known.
    const factors = splitMonomial(m).map(leastOfAtom);
    if (m !== "" && (c < 0 || factors.some((f) => f < 0))) return Number.NEGATIVE_INFINITY;
    sum += factors.reduce((a, f) => a * f, c);
  }
  return sum;
}
function leastOfAtom(atom: string): number {
  const parts = callParts(atom);
  if (parts === undefined) return 0;
  const [a, b] = [leastOf(parts.a), leastOf(parts.b)];
  switch (parts.name) {
    case "max":
      return Math.max(a, b);
    case "min":
      return Math.min(a, b);
    case "mod":
      return b >= 1 ? 0 : Number.NEGATIVE_INFINITY;
    default:
      // A quotient by something of at least 1 keeps the sign.
      return a >= 0 && b >= 1 ? 0 : Number.NEGATIVE_INFINITY;
  }
}

/** Broadcast of two dims by NumPy's rule; undefined when they certainly do not broadcast. */
export function broadcastDim(a: Dim, b: Dim): Dim | undefined {
  if (a === 1) return b;
  if (b === 1) return a;
  if (isStatic(a) && isStatic(b)) return a === b ? a : undefined;
  // A static dim other than 1 wins: the symbolic one is then 1 or the same number.
  if (isStatic(a)) return a;
  if (isStatic(b)) return b;
  if (sameDim(a, b) === true || atMost(b, a)) return a;
  return atMost(a, b) ? b : UNKNOWN;
}
/** Whether `a` is the smaller of `b` and a number above 1: where the two broadcast, they are equal. */
export function atMost(a: Dim, b: Dim): boolean {
  if (isStatic(a) || isUnknown(a)) return false;
  const parts = callParts(a);
  if (parts?.name !== "min") return false;
  const [limit, other] = isStatic(parts.a) ? [parts.a, parts.b] : [parts.b, parts.a];
  return isStatic(limit) && limit > 1 && other === b;
}

/** Replaces symbols by numbers; what stays symbolic stays canonical. */
export function substitute(d: Dim, bindings: ReadonlyMap<string, number>): Dim {
  if (isStatic(d) || isUnknown(d)) return d;
  let sum: Dim = 0;
  for (const [m, c] of read(d)) {
    let term: Dim = c;
    for (const atom of splitMonomial(m)) term = mul(term, substituteAtom(atom, bindings));
    sum = add(sum, term);
  }
  return sum;
}

function substituteAtom(atom: string, bindings: ReadonlyMap<string, number>): Dim {
  const bound = bindings.get(atom);
  if (bound !== undefined) return bound;
  const parsed = callParts(atom);
  if (parsed === undefined) return atom;
  const [a, b] = [substitute(parsed.a, bindings), substitute(parsed.b, bindings)];
  switch (parsed.name) {
    case "floordiv":
      return floorDiv(a, b);
    case "ceildiv":
      return ceilDiv(a, b);
    case "mod":
      return mod(a, b);
    case "max":
      return max(a, b);
    case "min":
      return min(a, b);
    default:
      return atom;
  }
}

/** The free symbols of a dim, sorted. */
export function symbolsOf(d: Dim): readonly string[] {
  if (isStatic(d) || isUnknown(d)) return [];
  const found = new Set<string>();
  for (const m of read(d).keys()) {
    for (const atom of splitMonomial(m)) {
      const parts = callParts(atom);
      if (parts === undefined) found.add(atom);
      else for (const s of [...symbolsOf(parts.a), ...symbolsOf(parts.b)]) found.add(s);
    }
  }
  return [...found].sort();
}

// ---- canonical text ------------------------------------------------------------------------------------------------------------

const cache = new Map<string, Poly>();

function read(d: Dim): Poly {
  if (isStatic(d)) return new Map(d === 0 ? [] : [["", d]]);
  const known = cache.get(d);
  if (known !== undefined) return known;
  const parsed = split(d);
  if (cache.size > 20_000) cache.clear();
  cache.set(d, parsed);
  return parsed;
}

function write(p: Poly): Dim {
  const terms = [...p].filter(([, c]) => c !== 0);
  if (terms.length === 0) return 0;
  const [first] = terms;
  if (terms.length === 1 && first !== undefined && first[0] === "") return first[1];
  if (terms.length > MAX_TERMS || terms.some(([, c]) => !Number.isSafeInteger(c))) return UNKNOWN;
  // Constant last; the rest alphabetical.
  terms.sort(([a], [b]) => (a === "" ? 1 : b === "" ? -1 : a < b ? -1 : 1));
  let text = "";
  for (const [m, c] of terms) {
    const magnitude = m === "" ? String(Math.abs(c)) : Math.abs(c) === 1 ? m : `${Math.abs(c)}*${m}`;
    text += text === "" ? (c < 0 ? `-${magnitude}` : magnitude) : c < 0 ? ` - ${magnitude}` : ` + ${magnitude}`;
  }
  return text.length > MAX_TEXT ? UNKNOWN : text;
}

function call(name: string, a: Dim, b: Dim): Dim {
  if (isUnknown(a) || isUnknown(b)) return UNKNOWN;
  const text = `${name}(${a}, ${b})`;
  return text.length > MAX_TEXT ? UNKNOWN : text;
}

function joinMonomials(m: string, n: string): string {
  if (m === "") return n;
  if (n === "") return m;
  return [...splitMonomial(m), ...splitMonomial(n)].sort().join("*");
}

/** Splits at `*` outside parentheses and back-quotes. */
function splitMonomial(m: string): string[] {
  if (m === "") return [];
  if (!m.includes("*")) return [m];
  const atoms: string[] = [];
  let depth = 0;
  let quoted = false;
  let start = 0;
  for (let i = 0; i < m.length; i++) {
    const c = m[i];
    if (c === "`") quoted = !quoted;
    else if (quoted) continue;
    else if (c === "(") depth++;
    else if (c === ")") depth--;
    else if (c === "*" && depth === 0) {
      atoms.push(m.slice(start, i));
      start = i + 1;
    }
  }
  atoms.push(m.slice(start));
  return atoms;
}

function callParts(atom: string): { name: string; a: Dim; b: Dim } | undefined {
  const open = atom.indexOf("(");
  if (open <= 0 || !atom.endsWith(")") || atom.startsWith("`")) return undefined;
  const inner = atom.slice(open + 1, -1);
  let depth = 0;
  let quoted = false;
  for (let i = 0; i < inner.length; i++) {
    const c = inner[i];
    if (c === "`") quoted = !quoted;
    else if (quoted) continue;
    else if (c === "(") depth++;
    else if (c === ")") depth--;
    else if (c === "," && depth === 0) return { name: atom.slice(0, open), a: number(inner.slice(0, i)), b: number(inner.slice(i + 1)) };
  }
  return undefined;
}

function number(text: string): Dim {
  const t = text.trim();
  return /^-?\d+$/.test(t) ? Number(t) : t;
}

const functions: Readonly<Record<string, (a: Dim, b: Dim) => Dim>> = { floordiv: floorDiv, ceildiv: ceilDiv, mod, max, min };

/** Recursive descent over `+ - * ( )`, names, quoted names and two-argument calls; undefined when the text is none of that. */
function evaluate(text: string): Dim | undefined {
  let at = 0;
  let depth = 0;
  const space = (): void => {
    while (text[at] === " ") at++;
  };
  const eat = (c: string): boolean => {
    space();
    if (text[at] !== c) return false;
    at++;
    return true;
  };
  const sum = (): Dim | undefined => {
    if (++depth > 50) return undefined;
    let total: Dim | undefined = eat("-") ? negate(term()) : term();
    for (;;) {
      space();
      const c = text[at];
      if (total === undefined || (c !== "+" && c !== "-")) break;
      at++;
      const next = term();
      total = next === undefined ? undefined : c === "+" ? add(total, next) : sub(total, next);
    }
    depth--;
    return total;
  };
  const negate = (d: Dim | undefined): Dim | undefined => (d === undefined ? undefined : mul(-1, d));
  const term = (): Dim | undefined => {
    let total = factor();
    while (total !== undefined && eat("*")) {
      const next = factor();
      total = next === undefined ? undefined : mul(total, next);
    }
    return total;
  };
  const factor = (): Dim | undefined => {
    space();
    const rest = text.slice(at);
    const digits = /^\d{1,15}(?![\w.])/.exec(rest)?.[0];
    if (digits !== undefined) {
      at += digits.length;
      return Number(digits);
    }
    const quoted = /^`[^`]*`/.exec(rest)?.[0];
    if (quoted !== undefined) {
      at += quoted.length;
      return quoted;
    }
    const name = /^[A-Za-z_][\w.]*/.exec(rest)?.[0];
    if (name !== undefined) {
      at += name.length;
      if (text[at] !== "(") return name;
      const fn = functions[name];
      if (fn === undefined) return undefined;
      at++;
      const a = sum();
      if (a === undefined || !eat(",")) return undefined;
      const b = sum();
      if (b === undefined || !eat(")")) return undefined;
      return fn(a, b);
    }
    if (eat("(")) {
      const inner = sum();
      return inner !== undefined && eat(")") ? inner : undefined;
    }
    return undefined;
  };
  const result = sum();
  space();
  return at === text.length ? result : undefined;
}

/** Reads canonical text (terms at top level, each `[c*]monomial`) without evaluating it. */
function split(text: string): Poly {
  const terms = new Map<string, number>();
  let depth = 0;
  let quoted = false;
  let start = 0;
  let sign = 1;
  const push = (raw: string): void => {
    const t = raw.trim();
    if (t === "") return;
    const lead = /^(\d+)(?:\*|$)/.exec(t);
    const monomial = lead === null ? t : t.slice(lead[0].length);
    terms.set(monomial, (terms.get(monomial) ?? 0) + sign * (lead === null ? 1 : Number(lead[1])));
  };
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (c === "`") quoted = !quoted;
    else if (quoted) continue;
    else if (c === "(") depth++;
    else if (c === ")") depth--;
    else if (depth === 0 && (c === "+" || c === "-")) {
      push(text.slice(start, i));
      sign = c === "+" ? 1 : -1;
      start = i + 1;
    }
  }
  push(text.slice(start));
  return terms;
}
