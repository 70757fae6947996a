/** Tensors padded and cut along their axes. */
import { Tensor, type TensorLike } from "../tensor.js";

/** What new places hold: the last one again, which is as good as any data, or zeros. */
export type Fill = "last" | "zero";

/** The tensor with these dims, of the same rank: cut at the end, or padded there. Axes that stay cost nothing; `fill(axis)` is asked where one grows. */
export function resized(t: TensorLike, dims: readonly number[], fill: (axis: number) => Fill = () => "zero"): TensorLike {
  let data = t.data as Elements;
  const now = [...t.dims];
  for (const [axis, to] of dims.entries()) {
    const from = now[axis] as number;
    if (from === to) continue;
    const outer = now.slice(0, axis).reduce((a, d) => a * d, 1);
    const inner = now.slice(axis + 1).reduce((a, d) => a * d, 1);
    data = to < from ? cut(data, outer, from * inner, to * inner) : grown(data, outer, from, to, inner, fill(axis));
    now[axis] = to;
  }
  return now.every((d, i) => d === t.dims[i]) ? t : new Tensor(t.type as never, data as never, now);
}

type Elements = Float32Array | string[];
const emptyLike = (data: Elements, length: number): Elements =>
  Array.isArray(data) ? new Array<string>(length).fill("") : new (data.constructor as Float32ArrayConstructor)(length);
function copy(from: Elements, start: number, end: number, to: Elements, at: number): void {
  if (!Array.isArray(from)) (to as Float32Array).set(from.subarray(start, end), at);
  else for (let i = start; i < end; i++) to[at + i - start] = from[i] as never;
}

/** The first `to` elements of every `from`. One block is a view. */
function cut(data: Elements, outer: number, from: number, to: number): Elements {
  if (outer === 1) return Array.isArray(data) ? data.slice(0, to) : data.subarray(0, to);
  const result = emptyLike(data, outer * to);
  for (let o = 0; o < outer; o++) copy(data, o * from, o * from + to, result, o * to);
  return result;
}

function grown(data: Elements, outer: number, from: number, to: number, inner: number, fill: Fill): Elements {
  const result = emptyLike(data, outer * to * inner);
  for (let o = 0; o < outer; o++) {
    const [start, at] = [o * from * inner, o * to * inner];
    const end = start + from * inner;
    copy(data, start, end, result, at);
    if (fill === "last" && from > 0) for (let k = from; k < to; k++) copy(data, end - inner, end, result, at + k * inner);
  }
  return result;
}
