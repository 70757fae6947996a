/**
 * A big model file without its weights: everything is copied but the raw_data of large initializers, in whose place stands their offset and
 * length in the file. The copy is read with a window, so that neither the file nor its weights pass through memory as a whole.
 */
import { RANGE_FIELD } from "./tensors.js";
import { Writer, wireError } from "./wire.js";

/** raw_data from this many bytes on stays in the file. */
const LARGE = 1 << 16;
const WINDOW = 1 << 20;
/** A model whose structure alone, weights aside, passes this is refused: it is damaged or hostile. */
const MAX_STRUCTURE = 2 ** 31 - 1;

type ReadAt = (at: number, into: Uint8Array) => number;

/** The path of fields that leads to tensors worth leaving out: ModelProto.graph (7), GraphProto.initializer (5), TensorProto.raw_data (9). */
const LEVELS: readonly number[] = [7, 5, 9];

export function skeletonOf(read: ReadAt, size: number, file: string | undefined): Uint8Array {
  const window = new Uint8Array(WINDOW);
  let windowAt = 0;
  let windowEnd = 0;
  const fail = (what: string, offset: number): never => {
    throw wireError({ what }, { file, offset });
  };
  const byte = (at: number): number => {
    if (at < windowAt || at >= windowEnd) {
      windowAt = at;
      windowEnd = at + read(at, window);
      if (windowEnd === at) fail("the file ends too soon", at);
    }
    return window[at - windowAt] as number;
  };
  const varint = (at: number, end: number): { value: number; next: number } => {
    let value = 0;
    let scale = 1;
    for (let i = 0; i < 10; i++) {
      if (at + i >= end) fail("a varint is cut off", at);
      const b = byte(at + i);
      value += (b & 127) * scale;
      if (b < 128) return { value, next: at + i + 1 };
      scale *= 128;
    }
    return fail("a varint is longer than 10 bytes", at);
  };
  const copy = (from: number, to: number, out: Writer): void => {
    if (out.length + (to - from) > MAX_STRUCTURE) fail(`the model's structure takes more than ${MAX_STRUCTURE} bytes`, from);
    out.reserve(to - from + WINDOW);
    const piece = new Uint8Array(Math.min(to - from, WINDOW));
    for (let at = from; at < to; ) {
      const got = read(at, piece.subarray(0, Math.min(to - at, WINDOW)));
      if (got === 0) fail("the file ends too soon", at);
      out.raw(piece.subarray(0, got));
      at += got;
    }
  };
  const message = (from: number, to: number, level: number, out: Writer): void => {
    let pending = from;
    for (let at = from; at < to; ) {
      const tag = varint(at, to);
      const [field, type] = [Math.floor(tag.value / 8), tag.value & 7];
      let next = tag.next;
      if (type === 0) next = varint(next, to).next;
      else if (type === 1) next += 8;
      else if (type === 5) next += 4;
      else if (type === 2) {
        const length = varint(next, to);
        const [start, end] = [length.next, length.next + length.value];
        if (end > to) fail(`a field of ${length.value} bytes reaches past the ${to - start} that are left`, at);
        next = end;
        if (field === LEVELS[level] && length.value >= LARGE) {
          copy(pending, at, out);
          pending = end;
          if (level === LEVELS.length - 1) {
            const range = new Uint8Array(16);
            const view = new DataView(range.buffer);
            view.setBigUint64(0, BigInt(start), true);
            view.setBigUint64(8, BigInt(length.value), true);
            out.bytes(RANGE_FIELD, range);
          } else out.message(field, () => message(start, end, level + 1, out));
        }
      } else fail(`wire type ${type} is not expected here`, at);
      if (next > to) fail("a field reaches past its message", at);
      at = next;
    }
    copy(pending, to, out);
  };
  const out = new Writer();
  message(0, size, 0, out);
  const chunks = out.chunks();
  const [whole] = chunks;
  if (chunks.length === 1 && whole instanceof Uint8Array) return whole;
  const total = chunks.reduce((a, c) => a + c.length, 0);
  const bytes = new Uint8Array(total);
  let at = 0;
  for (const c of chunks) {
    if (c instanceof Uint8Array) bytes.set(c, at);
    at += c.length;
  }
  return bytes;
}
