/**
 * First layers with max pooling behind them, as one kernel: of what the convolution gives only the maxima are written. What stands between the two is done
 * after the maxima, which is the same where it never falls: bias, positive scales, Relu, rounding.
 */
import { typedOf } from "../../ir/payload.js";
import type { Emission } from "./emission.js";
import { convolutionEnd } from "./epilogue.js";
import { add, type Index, product, rowMajor, scale } from "./indexing.js";
import { mapKernel, type Tail } from "./loops.js";
import { precisionOf } from "./matrix.js";
import { literal } from "./pointwise.js";
import type { Element } from "./scope.js";
import { allOf, type Operand, operand, output, readWithin, type Site, within } from "./site.js";
import { storage } from "./storage.js";
import { heldOf, LINE, MOST_COLUMNS, type PooledProblem, pooledKernel, rowsOfLine } from "./templates/pooled.js";
import type { View } from "./view.js";
import { packed } from "./weights.js";
import { windowOf } from "./windows.js";

/** Whether a node between the two never falls where its first input rises, and does the same at every position. */
export function rises(s: Site): boolean {
  const [, second] = s.ins;
  const constant = (o: Operand | undefined, holds: (x: number) => boolean): boolean => {
    if (o?.constant === undefined || o.dtype === "string") return false;
    // Channels alone may differ.
    if (o.dims.length > 1 && o.dims.some((d, i) => d !== 1 && i !== o.dims.length - 3)) return false;
    return Array.from(typedOf(o.constant) as ArrayLike<number | bigint>, Number).every(holds);
  };
  switch (s.node.op) {
    case "Relu":
      return true;
    case "Add":
      return constant(second, Number.isFinite);
    case "DequantizeLinear":
    case "QuantizeLinear":
      return (s.ins[2] === undefined || s.ins[2].numbers?.every((z) => z === 0) === true) && constant(second, (x) => x > 0);
    default:
      return false;
  }
}

/** The two as one problem, or undefined. */
export function pooledProblem(e: Emission, conv: Site, pool: Site): PooledProblem | undefined {
  const [x, w, y, z] = [operand(conv, 0), operand(conv, 1), output(conv), output(pool)];
  const dtype = precisionOf({ dtype: e.stored(x.dtype) }, e.options.precision);
  if (e.options.device.arch !== "sm_90a" || (dtype !== "f16" && dtype !== "bf16" && dtype !== "s8")) return undefined;
  if (x.dims.length !== 4 || conv.attrs.group !== 1 || w.constant === undefined || pool.outs.length > 1) return undefined;
  const [k = 0, c = 0, r = 0, taps = 0] = w.dims;
  const [, , p = 0, q = 0] = y.dims;
  const [n = 0, , rows = 0, columns = 0] = z.dims;
  const window = windowOf(conv, x, y, [r, taps]);
  const pooling = windowOf(pool, operand(pool, 0), z, pool.attrs.kernel_shape);
  const all = (list: readonly number[], value: number): boolean => list.every((v) => v === value);
  if (!all(window.strides, 2) || !all(window.dilations, 1) || c > LINE.channels || taps > 8 || r > 8 || (k !== 32 && k !== 64))
    return undefined;
  if (!all(pooling.kernel, 3) || !all(pooling.strides, 2) || !all(pooling.dilations, 1) || !all(pooling.begin, 1)) return undefined;
  if (p !== 2 * rows || q !== 2 * columns || columns > MOST_COLUMNS || columns < 1) return undefined;
  const side = rowsOfLine(dtype);
  const tapLines = Math.ceil(r / side);
  return { images: n, k, rows, columns, lines: (p - 1) * (2 / side) + tapLines, tapLines, dtype };
}

/** Emits both: `out` is where the pooled result goes, `tail` what follows the convolution. */
export function emitPooled(e: Emission, p: PooledProblem, conv: Site, out: View, tail: Tail, nodes: readonly string[]): void {
  const epilogue = convolutionEnd(conv, p.k, [p.images, p.rows, p.columns], p.dtype === "s8", out, tail);
  const [a, b] = [lines(e, conv, p), image(e, conv, p, heldOf(p, epilogue.text))];
  e.pushText(pooledKernel(p, epilogue.text, e.name("conv_pool"), e.options.device), { a, b }, epilogue, [out], nodes);
}

/** The input as lines, with zeros around it. */
function lines(e: Emission, s: Site, p: PooledProblem): View {
  const x = s.ins[0] as Operand;
  const [, c = 1, h = 1, width = 1] = x.dims;
  const [top = 0, left = 0] = windowOf(s, x, output(s), operand(s, 1).dims.slice(2)).begin;
  const side = rowsOfLine(p.dtype);
  const dtype = e.stored(x.dtype);
  const name = `lines of ${x.id} ${p.lines} ${top} ${left}`;
  const dims = [p.images, p.lines, LINE.planes, LINE.entries, LINE.pixels, side, LINE.channels];
  const view: View = { buffer: name, dtype, dims, strides: rowMajor(dims), offset: 0 };
  if (e.buffers.has(name)) return view;
  e.buffers.set(name, { kind: "arena", bytes: product(dims) * storage(dtype).bytes });
  const { register } = storage(x.dtype);
  const element: Element = (scope, index) => {
    const [n, line, plane, entry, pixel, row, channel] = index as [Index, Index, Index, Index, Index, Index, Index];
    // Chunk 2 (entry - 1) + plane holds columns twice that and the next.
    const column = add(add(add(scale(entry, 4), scale(plane, 2)), pixel), -4 - left);
    const at = add(add(scale(line, side), row), -top);
    const inside = allOf(scope, [within(scope, channel, 0, c), within(scope, at, 0, h), within(scope, column, 0, width)]);
    return readWithin(scope, register, inside, () => x.at(scope, [n, channel, at, column]), literal(0, register));
  };
  e.push(mapKernel(e.name("lines"), view, element), []);
  return view;
}

/** Weights as the kernel's core matrices: [even, odd columns][line][32 bytes][16 bytes][row of 8 rows][16 bytes]. */
function image(e: Emission, s: Site, p: PooledProblem, held: number): View {
  const w = s.ins[1] as Operand & { readonly constant: NonNullable<Operand["constant"]> };
  const dtype = e.stored(w.dtype);
  const [k = 1, c = 1, r = 1, taps = 1] = w.dims;
  const { bytes } = storage(dtype);
  const side = rowsOfLine(p.dtype);
  const dims = [2, p.tapLines, 2, 2, k, 16 / bytes];
  const name = `image of ${w.id} ${dtype} ${held}`;
  if (!e.buffers.has(name)) {
    e.buffers.set(name, { kind: "weights", bytes: product(dims) * bytes });
    e.weights.set(name, () => {
      const dense = packed(w.constant, { dims: [k, r, taps, c], strides: [c * r * taps, taps, 1, r * taps], offset: 0 }, dtype);
      const out = new Uint8Array(product(dims) * bytes);
      let to = 0;
      for (let odd = 0; odd < 2; odd++)
        for (let line = 0; line < p.tapLines; line++)
          for (let chunk = 0; chunk < 4; chunk++)
            for (let position = 0; position < k; position++) {
              const within = position % (4 * held);
              const filter = position - within + held * ((within >> 1) & 3) + 2 * (within >> 3) + (within & 1);
              for (let pixel = 0; pixel < LINE.pixels; pixel++)
                for (let row = 0; row < side; row++, to += LINE.channels * bytes) {
                  const [at, tap] = [line * side + row, 2 * (chunk ^ odd) + pixel];
                  if (at >= r || tap >= taps) continue;
                  const from = ((filter * r + at) * taps + tap) * c * bytes;
                  out.set(dense.subarray(from, from + c * bytes), to);
                }
            }
      return out;
    });
  }
  return { buffer: name, dtype, dims, strides: rowMajor(dims), offset: 0 };
}
