// Small tensors of several runs as one buffer and one list of numbers: a message with them costs less than one with each tensor as an object. Plain
// JavaScript for both sides, the event loop's and the worker thread's; packing.d.mts has the types.

const ARRAYS = [
  ["float32", Float32Array],
  ["float64", Float64Array],
  ["float16", Uint16Array],
  ["int8", Int8Array],
  ["int16", Int16Array],
  ["int32", Int32Array],
  ["int64", BigInt64Array],
  ["uint8", Uint8Array],
  ["uint16", Uint16Array],
  ["uint32", Uint32Array],
  ["uint64", BigUint64Array],
  ["bool", Uint8Array],
];
const CODES = new Map(ARRAYS.map(([type], i) => [type, i]));
const aligned = (bytes) => (bytes + 7) & ~7;

/** Up to this, tensors are copied into a message's buffer. */
export const SMALL = 1 << 16;

/** Bytes of the tensors together, undefined when one of them is not packed: strings, and what is large. */
export function packedBytes(tensors) {
  let bytes = 0;
  for (const t of tensors) {
    if (!CODES.has(t.type) || !ArrayBuffer.isView(t.data)) return undefined;
    bytes += aligned(t.data.byteLength);
  }
  return bytes <= SMALL ? bytes : undefined;
}

/** Lists of tensors of `bytes` in all, as `unpack` reads them. */
export function pack(lists, bytes) {
  const buffer = new Uint8Array(bytes);
  const form = [];
  let at = 0;
  for (const tensors of lists) {
    form.push(tensors.length);
    for (const { type, data, dims } of tensors) {
      form.push(CODES.get(type), dims.length, ...dims);
      buffer.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), at);
      at += aligned(data.byteLength);
    }
  }
  return { form, buffer: buffer.buffer };
}

/** The lists again, as views of the buffer, or each with memory of its own. */
export function unpack({ form, buffer }, own) {
  const lists = [];
  let [k, at] = [0, 0];
  while (k < form.length) {
    const tensors = [];
    for (let n = form[k++]; n > 0; n--) {
      const [type, Kind] = ARRAYS[form[k++]];
      const rank = form[k++];
      const dims = form.slice(k, k + rank);
      k += rank;
      let count = 1;
      for (const d of dims) count *= d;
      const view = new Kind(buffer, at, count);
      tensors.push({ type, data: own ? new Kind(view) : view, dims });
      at += aligned(count * Kind.BYTES_PER_ELEMENT);
    }
    lists.push(tensors);
  }
  return lists;
}
