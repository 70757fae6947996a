/** What constant weights and windows say of integer products with zero points: sums of columns, zero points that can be taken off, pads. */
import { typedOf } from "../../ir/payload.js";
import type { Attrs, Constant, Node } from "../../ir/types.js";
import { product } from "./indexing.js";

/** How many leading dims are left for the second reduction: halves as equal as the dims allow, none of them where the whole is small. */
export function splitOf(dims: readonly number[]): number {
  if (product(dims) <= 8192) return 0;
  let [best, least] = [0, Number.POSITIVE_INFINITY];
  for (let i = 0; i <= dims.length; i++) {
    const larger = Math.max(product(dims.slice(0, i)), product(dims.slice(i)));
    if (larger < least) [best, least] = [i, larger];
  }
  return best;
}

/** Elements of a constant that differ by one index along `axis` are this far apart. */
const innerOf = (dims: readonly number[], axis: number): number => product(dims.slice(axis + 1));
/** The zero point of element `i`: per index of a dim whose elements are `inner` apart, or one for all. */
const zeroAt = (zeros: readonly number[], inner: number, i: number): number =>
  zeros[zeros.length === 1 ? 0 : Math.floor(i / inner) % zeros.length] as number;
/** Whether a constant less its zero point (per index of `axis`, or one for all) is within int8. */
export function fits(c: Constant, zeros: readonly number[], axis: number): boolean {
  const values = typedOf(c) as Int8Array | Uint8Array;
  const inner = axis < 0 ? 1 : innerOf(c.dims, axis);
  for (let i = 0; i < values.length; i++) {
    const x = (values[i] as number) - zeroAt(zeros, inner, i);
    if (x < -128 || x > 127) return false;
  }
  return true;
}
/** The same, taken off, as int8. */
export function less(c: Constant, zeros: readonly number[], axis: number | undefined): Constant {
  const read = (): Uint8Array => {
    const values = typedOf(c) as Int8Array | Uint8Array;
    const out = new Int8Array(values.length);
    const inner = axis === undefined || axis < 0 ? 1 : innerOf(c.dims, axis);
    for (let i = 0; i < values.length; i++) out[i] = (values[i] as number) - zeroAt(zeros, inner, i);
    return new Uint8Array(out.buffer);
  };
  return { dtype: "int8", dims: c.dims, data: { kind: "lazy", length: product(c.dims), read } };
}
/** Sums of int8 weights over axes, less `depth` times the zero point of each column (an index of `column`, or one for all). */
export function sumsOver(
  c: Constant,
  axes: readonly number[],
  keep: boolean,
  zeros: readonly number[],
  depth: number,
  column: number,
): Constant {
  const kept = c.dims.map((_, i) => i).filter((i) => !axes.includes(i));
  const dims = keep ? c.dims.map((d, i) => (axes.includes(i) ? 1 : d)) : kept.map((i) => c.dims[i] as number);
  const read = (): Uint8Array => {
    const values = typedOf(c) as Int8Array;
    const out = new Int32Array(product(dims));
    // Strides of the result for every dim of the weights.
    const strides = new Array<number>(c.dims.length).fill(0);
    let step = 1;
    for (const i of [...kept].reverse()) {
      strides[i] = step;
      step *= c.dims[i] as number;
    }
    const index = new Array<number>(c.dims.length).fill(0);
    for (let i = 0, to = 0; i < values.length; i++) {
      out[to] = (out[to] as number) + (values[i] as number);
      for (let d = c.dims.length - 1; d >= 0; d--) {
        index[d] = (index[d] as number) + 1;
        to += strides[d] as number;
        if ((index[d] as number) < (c.dims[d] as number)) break;
        to -= (strides[d] as number) * (c.dims[d] as number);
        index[d] = 0;
      }
    }
    if (zeros.some((z) => z !== 0)) {
      const inner = axes.includes(column) ? 1 : (strides[column] as number);
      for (let i = 0; i < out.length; i++) out[i] = ((out[i] as number) - Math.imul(zeroAt(zeros, inner, i), depth)) | 0;
    }
    return new Uint8Array(out.buffer);
  };
  return { dtype: "int32", dims, data: { kind: "lazy", length: 4 * product(dims), read } };
}

/** Pads of a convolution for all of x's dims, and its attributes without them. */
export function padded(
  n: Node,
  x: readonly number[],
  w: readonly number[],
  y: readonly number[],
): { readonly pads: readonly number[]; readonly attrs: Attrs } {
  const list = (name: string): readonly number[] | undefined => {
    const a = n.attrs[name];
    return a?.kind === "ints" ? a.value.map(Number) : undefined;
  };
  const { pads: _, auto_pad: auto, ...attrs } = n.attrs;
  const mode = auto?.kind === "string" ? String(auto.value) : "NOTSET";
  const space = x.length - 2;
  const [given, strides, dilations] = [list("pads"), list("strides"), list("dilations")];
  const begin: number[] = [];
  const end: number[] = [];
  for (let i = 0; i < space; i++) {
    const extent = ((w[i + 2] as number) - 1) * (dilations?.[i] ?? 1) + 1;
    const total = Math.max(((y[i + 2] as number) - 1) * (strides?.[i] ?? 1) + extent - (x[i + 2] as number), 0);
    const half = mode === "SAME_UPPER" ? Math.floor(total / 2) : Math.ceil(total / 2);
    begin.push(mode === "NOTSET" ? (given?.[i] ?? 0) : mode === "VALID" ? 0 : half);
    end.push(mode === "NOTSET" ? (given?.[i + space] ?? 0) : mode === "VALID" ? 0 : total - half);
  }
  return { pads: [0, 0, ...begin, 0, 0, ...end], attrs };
}
