/**
 * Coded errors and remarks: what was found, where, why it is wrong, and how to mend it.
 *
 * Every error the product raises on purpose comes from a factory made by `defineError`; the code says the area:
 * P10 options and usage, P11 files and weights, P12 ONNX import, P13 TensorFlow import, P14 IR, P15 operators, P16 passes,
 * P17 partition, P18 quantization, P20 host engine, P21 CUDA engine, P22 TensorRT engine, P30 bundle, P31 session and feeds,
 * P40 report and command line, P90 internal.
 */

/** The place a diagnostic speaks of. Names are the user's own (file, node, value), never internal ids. */
export interface Where {
  readonly file?: string | undefined;
  readonly node?: string | undefined;
  readonly op?: string | undefined;
  readonly attribute?: string | undefined;
  readonly value?: string | undefined;
  /** Byte offset in `file`. */
  readonly offset?: number | undefined;
}

/** Process exit codes: 1 the model or the options are at fault, 2 usage, 3 the machine lacks what was asked for, 70 internal. */
export type ExitCode = 1 | 2 | 3 | 70;

export interface Explanation {
  /** What was found, one sentence without a full stop. */
  readonly what: string;
  /** Why that is wrong, where `what` alone does not say it. */
  readonly why?: string | undefined;
  /** How to mend it, imperative. */
  readonly fix: string;
}

export interface ErrorSpec {
  readonly code: string;
  /** A short heading for docs/errors.md. */
  readonly title: string;
  readonly exit: ExitCode;
}

/** A coded, explained failure. `message` is complete for a person; the fields serve programs. */
export class PartitaError extends Error {
  override readonly name = "PartitaError";
  readonly code: string;
  readonly where: Where;
  readonly what: string;
  readonly why: string | undefined;
  readonly fix: string;
  readonly exit: ExitCode;

  constructor(spec: ErrorSpec, where: Where, text: Explanation, cause?: unknown) {
    super(render(spec.code, where, text), cause === undefined ? undefined : { cause });
    this.code = spec.code;
    this.where = where;
    this.what = text.what;
    this.why = text.why;
    this.fix = text.fix;
    this.exit = spec.exit;
  }

  toJSON(): Record<string, unknown> {
    return { code: this.code, what: this.what, why: this.why, fix: this.fix, where: this.where };
  }
}

/** `file: node 'x' (Op), attribute 'y'`: the parts of a place that are known, most general first. */
export function renderWhere(where: Where): string {
  const parts: string[] = [];
  if (where.file !== undefined) parts.push(where.offset === undefined ? where.file : `${where.file} at byte ${where.offset}`);
  else if (where.offset !== undefined) parts.push(`byte ${where.offset}`);
  if (where.node !== undefined) parts.push(`node '${where.node}'${where.op === undefined ? "" : ` (${where.op})`}`);
  else if (where.op !== undefined) parts.push(`operator ${where.op}`);
  if (where.attribute !== undefined) parts.push(`attribute '${where.attribute}'`);
  if (where.value !== undefined) parts.push(`value '${where.value}'`);
  return parts.join(", ");
}

function render(code: string, where: Where, text: Explanation): string {
  const place = renderWhere(where);
  const why = text.why === undefined ? "" : `: ${text.why}`;
  const end = text.fix.endsWith("?") ? "" : ".";
  return `${code} ${place === "" ? "" : `${place}: `}${text.what}${why}. ${text.fix.charAt(0).toUpperCase()}${text.fix.slice(1)}${end}`;
}

const specs = new Map<string, ErrorSpec>();

/** A factory of one coded error. `A` is what the call site must tell; `describe` turns it into words. */
export type ErrorFactory<A> = (args: A, where?: Where, cause?: unknown) => PartitaError;

/**
 * Declares a code once for the whole product; declaring it twice throws at load.
 * `code` is `P` and four digits, `exit` the command line's exit code for it.
 */
export function defineError<A>(code: string, title: string, describe: (args: A) => Explanation, exit: ExitCode = 1): ErrorFactory<A> {
  if (!/^P\d{4}$/.test(code)) throw new Error(`'${code}' is not an error code`);
  if (specs.has(code)) throw new Error(`error code ${code} is declared twice`);
  const spec: ErrorSpec = { code, title, exit };
  specs.set(code, spec);
  const make: ErrorFactory<A> = (args, where = {}, cause) => {
    const error = new PartitaError(spec, where, describe(args), cause);
    // The stack begins where the error was raised, not in this factory.
    Error.captureStackTrace(error, make);
    return error;
  };
  return make;
}

/** All codes declared by the modules loaded so far, sorted; docs/errors.md is made of them. */
export function declaredErrors(): readonly ErrorSpec[] {
  return [...specs.values()].sort((a, b) => (a.code < b.code ? -1 : 1));
}

/** Something worth knowing that stops nothing. */
export interface Remark {
  readonly severity: "note" | "warning";
  readonly text: string;
  readonly where?: Where | undefined;
  readonly fix?: string | undefined;
}

/** Where a stage puts its remarks; a stage that is handed none drops them. */
export type Remarks = (remark: Remark) => void;

/** The answer to "can this engine run this node": every no says why, and what would change it. */
export type Verdict = { readonly ok: true } | { readonly ok: false; readonly why: string; readonly fix?: string | undefined };
export const yes: Verdict = { ok: true };
export const no = (why: string, fix?: string): Verdict => (fix === undefined ? { ok: false, why } : { ok: false, why, fix });

/** Longer words are not compared: nobody misspells them, and the comparison takes time and memory by the square of the length. */
const LONGEST_WORD = 200;

/** The known word nearest to a misspelt one, or undefined when none is near (Damerau-Levenshtein distance at most a third of its length). */
export function didYouMean(word: string, known: Iterable<string>): string | undefined {
  let best: string | undefined;
  let bestDistance = Number.POSITIVE_INFINITY;
  if (word.length > LONGEST_WORD) return undefined;
  for (const candidate of known) {
    if (candidate.length > LONGEST_WORD) continue;
    const d = editDistance(word.toLowerCase(), candidate.toLowerCase());
    if (d < bestDistance) [best, bestDistance] = [candidate, d];
  }
  return best !== undefined && bestDistance <= Math.max(1, Math.floor(best.length / 3)) ? best : undefined;
}

function editDistance(a: string, b: string): number {
  const width = b.length + 1;
  const table = new Uint32Array((a.length + 1) * width);
  const at = (i: number, j: number): number => table[i * width + j] ?? 0;
  for (let i = 0; i <= a.length; i++) {
    for (let j = 0; j <= b.length; j++) {
      let d: number;
      if (i === 0 || j === 0) d = i + j;
      else {
        d = Math.min(at(i - 1, j) + 1, at(i, j - 1) + 1, at(i - 1, j - 1) + (a[i - 1] === b[j - 1] ? 0 : 1));
        const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
        if (swapped) d = Math.min(d, at(i - 2, j - 2) + 1);
      }
      table[i * width + j] = d;
    }
  }
  return at(a.length, b.length);
}
