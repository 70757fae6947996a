/** What is known of attention masks at compile time. */
import { payloadLength, typedOf } from "../ir/payload.js";
import type { Constant, Node, ValueId, Verbatim } from "../ir/types.js";
import { numbersOf, type Subject } from "./match.js";

/**
 * Metadata of an Attention node that stands for a Softmax without a guard: a row that the mask closes altogether was NaN there, and spelled
 * out again it may be so.
 */
export const UNGUARDED = ["partita.closed_rows", "nan"] as const;
export const unguarded = (n: Node): boolean => n.extra?.metadata?.some(([key]) => key === UNGUARDED[0]) ?? false;
/** What else the file said of the node. */
export function withoutMark(n: Node): Verbatim | undefined {
  if (!unguarded(n)) return n.extra;
  const metadata = n.extra?.metadata?.filter(([key]) => key !== UNGUARDED[0]) ?? [];
  const { metadata: _, ...rest } = n.extra ?? {};
  if (metadata.length > 0) return { ...rest, metadata };
  return Object.keys(rest).length > 0 ? rest : undefined;
}

/** The same constant serves every layer. */
const causal = new WeakMap<Constant, number | undefined>();
/**
 * The largest number above the diagonal of a constant additive mask [1, .., n, n] that is 0 on and below it: a causal mask. A boolean one
 * (true: look) counts as -inf there; `negated`: true means do not look. Undefined for anything else, and above 2^24 elements.
 */
export function causalFill(c: Constant | undefined, n: number, negated = false): number | undefined {
  if (c === undefined || n < 2 || c.dims.length < 2 || !c.dims.every((d, i) => d === (i < c.dims.length - 2 ? 1 : n))) return undefined;
  if (c.dtype !== "bool" && causal.has(c)) return causal.get(c);
  const values = numbersOf(c, 2 ** 24);
  let fill: number | undefined = Number.NEGATIVE_INFINITY;
  const look = c.dtype === "bool" ? (negated ? 0 : 1) : 0;
  for (let i = 0; i < n && fill !== undefined; i++)
    for (let j = 0; j < n; j++) {
      const x = values?.[i * n + j];
      const open = x === look;
      if (x === undefined || j <= i !== open || (j > i && c.dtype !== "bool" && !(x < 0))) {
        fill = undefined;
        break;
      }
      if (j > i && c.dtype !== "bool") fill = Math.max(fill, x);
    }
  if (c.dtype !== "bool") causal.set(c, fill);
  return fill;
}

const VIEWS: ReadonlySet<string> = new Set(
  "Unsqueeze Squeeze Reshape Transpose Expand Slice Gather Concat Identity Tile Flatten".split(" "),
);
/** Whether an additive mask is certainly free of infinities, so that it leaves no query without a key. Looks through shape and sum. */
export function alwaysFinite(subject: Pick<Subject, "constant" | "producer" | "type">, v: ValueId, depth = 0): boolean {
  const c = subject.constant(v);
  if (c !== undefined) {
    if (c.data.kind === "sparse" || c.data.kind === "strings" || payloadLength(c.data) > 2 ** 26) return false;
    if (c.dtype === "float32" || c.dtype === "float64") return (typedOf(c) as Float32Array).every(Number.isFinite);
    if (c.dtype === "float16") return (typedOf(c) as Uint16Array).every((x) => (x & 0x7c00) !== 0x7c00);
    if (c.dtype === "bfloat16") return (typedOf(c) as Uint16Array).every((x) => (x & 0x7f80) !== 0x7f80);
    return c.dtype !== "bool";
  }
  const n = subject.producer(v);
  const t = subject.type(v);
  // A boolean mask closes what it leaves out; as an operand of Cast it is as finite as any number.
  if (depth === 0 && t.kind === "tensor" && t.dtype === "bool") return false;
  if (n === undefined || n.domain !== "" || depth > 12) return false;
  const all = (ins: readonly (ValueId | undefined)[]): boolean => ins.every((i) => i !== undefined && alwaysFinite(subject, i, depth + 1));
  if (n.op === "Where") return all(n.ins.slice(1));
  if (n.op === "Add" || n.op === "Sub" || n.op === "Mul" || n.op === "Concat") return all(n.ins);
  if (n.op === "Cast") {
    const from = n.ins[0] === undefined ? undefined : subject.type(n.ins[0]);
    const whole = from?.kind === "tensor" && (from.dtype === "bool" || /^u?int/.test(from.dtype));
    return whole || all(n.ins.slice(0, 1));
  }
  return VIEWS.has(n.op) && all(n.ins.slice(0, 1));
}
