/** What TensorLists and TensorArrays do, over the three forms of a ListHandle. Elements nobody wrote read as zeros, as TensorFlow's do. */
import { isStatic } from "../../ir/dims.js";
import type { Dim, DType, Shape } from "../../ir/types.js";
import type { ListHandle, TfBuilder, TfNode, TfValue, Val } from "./define.js";

/** Longer lists of known length are kept as one tensor. */
const MAX_ELEMENTS = 256;

export function emptyList(b: TfBuilder, dtype: DType, size: Val, element: Shape, grows: boolean): ListHandle {
  const n = size.numbers?.[0];
  const length = b.reshape(b.cast(size, "int64"), []);
  const known = n !== undefined && n >= 0 && n <= MAX_ELEMENTS;
  return {
    kind: "list",
    dtype,
    elements: known ? new Array<Val | undefined>(n).fill(undefined) : undefined,
    items: undefined,
    size: length,
    element,
    grows,
  };
}
export function listOfTensor(b: TfBuilder, items: Val, like: Pick<ListHandle, "element" | "grows">): ListHandle {
  return { kind: "list", dtype: items.dtype, elements: undefined, items, size: b.dim(items, 0), element: like.element, grows: like.grows };
}
const ofElements = (b: TfBuilder, list: ListHandle, elements: readonly (Val | undefined)[]): ListHandle => ({
  ...list,
  elements,
  items: undefined,
  size: b.int64(elements.length),
});

export function listInput(n: TfNode, i: number): ListHandle {
  const at = i < 0 ? i + n.ins.length : i;
  const v: TfValue | undefined = n.ins[at];
  if (v?.kind === "list") return v;
  return n.refuse(`input ${at} is no list: it comes from an operator that has no lowering`);
}

const staticDims = (s: Shape): readonly number[] | undefined => (s?.every(isStatic) === true ? (s as readonly number[]) : undefined);

/** The dims of one element as a 1-D int64 tensor; undefined where nothing tells. */
function elementDims(b: TfBuilder, list: ListHandle): Val | undefined {
  const some = list.elements?.find((e) => e !== undefined);
  if (some !== undefined) return b.shape(some);
  const declared = staticDims(list.element);
  return declared === undefined ? undefined : b.int64(declared);
}
function zero(b: TfBuilder, dtype: DType, dims: Val): Val {
  if (dtype === "string") return b.expand(b.constant({ dtype, dims: [], data: { kind: "strings", values: [new Uint8Array(0)] } }), dims);
  return b.fill(dtype, 0, dims);
}

/** The list as one tensor [size, ...element]; undefined while its elements' shape is open. */
export function denseItems(b: TfBuilder, list: ListHandle): Val | undefined {
  if (list.items !== undefined) return list.items;
  const dims = elementDims(b, list);
  if (dims === undefined) return undefined;
  const { elements } = list;
  if (elements === undefined || elements.every((e) => e === undefined))
    return zero(b, list.dtype, b.concat([b.reshape(list.size, [1]), dims], 0));
  return b.concat(
    elements.map((e) => b.unsqueeze(e ?? zero(b, list.dtype, dims), [0])),
    0,
  );
}
/** The list in tensor form, for loops. */
export function dense(b: TfBuilder, list: ListHandle): ListHandle {
  const items = denseItems(b, list);
  return items === undefined ? { ...list, elements: undefined } : { ...list, elements: undefined, items };
}
function demandItems(n: TfNode, b: TfBuilder, list: ListHandle): Val {
  return denseItems(b, list) ?? n.refuse("a list is read before anything was written to it, and its elements' shape is not declared");
}

export function setItem(n: TfNode, b: TfBuilder, list: ListHandle, index: Val, x: Val): ListHandle {
  const at = index.numbers?.[0];
  if (list.elements !== undefined && at !== undefined && at >= 0 && (at < list.elements.length || (list.grows && at < MAX_ELEMENTS))) {
    const next = [...list.elements];
    while (next.length < at) next.push(undefined);
    next[at] = x;
    return ofElements(b, list, next);
  }
  const i = b.reshape(b.cast(index, "int64"), []);
  const element = b.shape(x);
  let items = denseItems(b, list) ?? zero(b, list.dtype, b.concat([b.reshape(list.size, [1]), element], 0));
  if (list.grows) {
    const missing = b.op("Max", [b.sub(b.add(i, b.int64(1)), b.dim(items, 0)), b.int64(0)]);
    items = b.concat([items, zero(b, list.dtype, b.concat([b.reshape(missing, [1]), element], 0))], 0);
  }
  if (x.dtype !== list.dtype) return n.refuse(`a ${x.dtype} element is written to a list of ${list.dtype}`);
  const written = b.op("ScatterND", [items, b.reshape(i, [1, 1]), b.unsqueeze(x, [0])]);
  return { ...list, elements: undefined, items: written, size: list.grows ? b.dim(written, 0) : list.size };
}
export function getItem(n: TfNode, b: TfBuilder, list: ListHandle, index: Val): Val {
  const at = index.numbers?.[0];
  const known = at === undefined ? undefined : list.elements?.[at];
  if (known !== undefined) return known;
  return b.gather(demandItems(n, b, list), b.reshape(b.cast(index, "int64"), []));
}
export function pushBack(b: TfBuilder, list: ListHandle, x: Val): ListHandle {
  if (list.elements !== undefined && list.elements.length < MAX_ELEMENTS) return ofElements(b, list, [...list.elements, x]);
  const items = denseItems(b, list);
  const one = b.unsqueeze(x, [0]);
  return listOfTensor(b, items === undefined ? one : b.concat([items, one], 0), list);
}
export function popBack(n: TfNode, b: TfBuilder, list: ListHandle): { readonly list: ListHandle; readonly last: Val } {
  const known = list.elements?.[list.elements.length - 1];
  if (list.elements !== undefined && known !== undefined) return { list: ofElements(b, list, list.elements.slice(0, -1)), last: known };
  const items = demandItems(n, b, list);
  const last = b.squeeze(b.slice(items, [-1], [Number.MAX_SAFE_INTEGER], [0]), [0]);
  return { list: listOfTensor(b, b.slice(items, [0], [-1], [0]), list), last };
}
/** Elements at `indices` as one tensor. */
export function gatherItems(n: TfNode, b: TfBuilder, list: ListHandle, indices: Val): Val {
  const at = indices.numbers;
  const picked = at?.map((i) => list.elements?.[i]);
  if (picked !== undefined && picked.length > 0 && picked.every((e) => e !== undefined))
    return b.concat(
      picked.map((e) => b.unsqueeze(e, [0])),
      0,
    );
  return b.gather(demandItems(n, b, list), indices);
}
/** Rows of `value` written to `indices`. */
export function scatterItems(n: TfNode, b: TfBuilder, list: ListHandle, indices: Val, value: Val): ListHandle {
  const at = indices.numbers;
  const length = list.elements?.length ?? list.size.numbers?.[0];
  const whole =
    at === undefined ? false : at.every((x, i) => x === i) && (length === at.length || (list.grows && (length ?? 0) <= at.length));
  if (whole) return listOfTensor(b, value, list);
  if (at !== undefined && list.elements !== undefined && at.length <= MAX_ELEMENTS) {
    let out = list;
    for (const [row, i] of at.entries()) out = setItem(n, b, out, b.int64(i), b.gather(value, b.int64(row)));
    return out;
  }
  const element = b.op("Shape", [value], { start: 1 });
  const most = b.op("ReduceMax", [b.cast(indices, "int64")], { keepdims: 0 });
  let items = denseItems(b, list) ?? zero(b, list.dtype, b.concat([b.reshape(list.size, [1]), element], 0));
  if (list.grows) {
    const missing = b.op("Max", [b.sub(b.add(most, b.int64(1)), b.dim(items, 0)), b.int64(0)]);
    items = b.concat([items, zero(b, list.dtype, b.concat([b.reshape(missing, [1]), element], 0))], 0);
  }
  const written = b.op("ScatterND", [items, b.unsqueeze(b.cast(indices, "int64"), [1]), value]);
  return { ...list, elements: undefined, items: written, size: list.grows ? b.dim(written, 0) : list.size };
}
/** All elements one behind the other along their first axis, and how long each is there. */
export function concatItems(n: TfNode, b: TfBuilder, list: ListHandle): { readonly value: Val; readonly lengths: Val } {
  const written = list.elements?.filter((e) => e !== undefined);
  if (written !== undefined && written.length > 0 && written.length === list.elements?.length)
    return {
      value: b.concat(written, 0),
      lengths: b.concat(
        written.map((e) => b.reshape(b.dim(e, 0), [1])),
        0,
      ),
    };
  const items = demandItems(n, b, list);
  if ((items.rank ?? 2) < 2) return n.refuse("the elements of a concatenated list are scalars");
  const shape = b.shape(items);
  const rest = b.op("Shape", [items], { start: 2 });
  return {
    value: b.reshape(items, b.concat([b.int64([-1]), rest], 0)),
    lengths: b.expand(b.gather(shape, b.int64([1])), b.gather(shape, b.int64([0]))),
  };
}
export function splitItems(n: TfNode, b: TfBuilder, list: ListHandle, value: Val, lengths: Val): ListHandle {
  const sizes = lengths.numbers;
  const count = sizes?.length ?? lengths.shape?.[0];
  if (typeof count !== "number" || count > MAX_ELEMENTS)
    return n.refuse("into how many parts a list is split is not known at compile time");
  if (sizes === undefined) {
    const ends = b.op("CumSum", [b.cast(lengths, "int64"), b.int64(0)]);
    const starts = b.sub(ends, b.cast(lengths, "int64"));
    const part = (i: number): Val => b.op("Slice", [value, b.gather(starts, b.int64([i])), b.gather(ends, b.int64([i])), b.int64([0])]);
    return ofElements(
      b,
      list,
      Array.from({ length: count }, (_, i) => part(i)),
    );
  }
  let at = 0;
  const elements = sizes.map((s) => {
    const part = b.slice(value, [at], [at + s], [0]);
    at += s;
    return part;
  });
  return ofElements(b, list, elements);
}
export const lengthOf = (list: ListHandle): Val => list.size;

/** A shape given as a tensor (-1: open; a scalar -1: unknown rank) as a shape. */
export function shapeOfTensor(x: Val): Shape {
  if (x.rank === 0) return undefined;
  return x.fact.elements?.map((d): Dim => (typeof d === "number" && d < 0 ? "?" : d)) ?? x.numbers?.map((d): Dim => (d < 0 ? "?" : d));
}
