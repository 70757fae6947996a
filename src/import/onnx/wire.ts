/** Protocol-buffer wire format, both ways: a cursor that trusts no length, and a writer that leaves big payloads where they are. */
import { defineError, type PartitaError, type Where } from "../../diagnostics.js";

export const wireError = defineError<{ what: string }>("P1201", "the file is not a well-formed ONNX protobuf", ({ what }) => ({
  what,
  fix: "export or download the model again; it is cut off or damaged",
}));

/** Wire types of protobuf. */
export const VARINT = 0;
export const FIXED64 = 1;
export const BYTES = 2;
export const FIXED32 = 5;
const START_GROUP = 3;
const END_GROUP = 4;

/** Makes the error of a malformed message; other formats of the same wire have a code of their own. */
export type Raise = (args: { what: string }, where: Where) => PartitaError;

/** A read position in a range of bytes. Offsets in errors are those of the whole file. */
export class Cursor {
  at: number;
  end: number;
  readonly bytes: Uint8Array;
  readonly file: string | undefined;
  readonly #raise: Raise;
  /** Field number and wire type of the last tag. */
  field = 0;
  type = 0;
  /** Where the last tag began. */
  tagAt = 0;

  constructor(bytes: Uint8Array, at: number, end: number, file: string | undefined, raise: Raise = wireError) {
    this.#raise = raise;
    this.bytes = bytes;
    this.at = at;
    this.end = end;
    this.file = file;
  }

  /** Another cursor over a range of the same bytes. */
  over(at: number, end: number): Cursor {
    return new Cursor(this.bytes, at, end, this.file, this.#raise);
  }
  /** Starts anew at another range of the same bytes. */
  move(at: number, end: number): void {
    this.at = at;
    this.end = end;
  }

  fail(what: string): never {
    throw this.#raise({ what }, { file: this.file, offset: this.at });
  }

  /** Moves to the next field; false at the end of the message. */
  next(): boolean {
    if (this.at >= this.end) return false;
    this.tagAt = this.at;
    const byte = this.bytes[this.at] as number;
    // Tags of one byte, fields up to 15, are nearly all of them.
    if (byte < 0x80) this.at++;
    const tag = byte < 0x80 ? byte : this.uint();
    this.field = Math.floor(tag / 8);
    this.type = tag & 7;
    if (this.field === 0 || this.field > 536_870_911) this.fail(`field number ${this.field} is not legal`);
    return true;
  }

  /** An unsigned varint below 2^53; larger values lose precision (use `int64`). */
  uint(): number {
    const b = this.bytes;
    let at = this.at;
    const end = this.end;
    let byte = at < end ? (b[at++] as number) : this.fail("a varint is cut off");
    if (byte < 0x80) {
      this.at = at;
      return byte;
    }
    let value = byte & 0x7f;
    let scale = 128;
    for (let i = 1; i < 10; i++) {
      byte = at < end ? (b[at++] as number) : this.fail("a varint is cut off");
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        this.at = at;
        return value;
      }
      scale *= 128;
    }
    return this.fail("a varint is longer than 10 bytes");
  }

  /** A signed 64-bit varint: a number when safe, else a bigint. */
  int64(): number | bigint {
    const start = this.at;
    const value = this.uint();
    if (value <= Number.MAX_SAFE_INTEGER) return value;
    let big = 0n;
    for (let i = start, shift = 0n; i < this.at; i++, shift += 7n) big |= BigInt((this.bytes[i] as number) & 0x7f) << shift;
    big = BigInt.asIntN(64, big);
    return big >= BigInt(Number.MIN_SAFE_INTEGER) && big <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(big) : big;
  }

  int(): number {
    return Number(this.int64());
  }

  /** The length of a length-delimited field, checked against what is left. */
  length(): number {
    if (this.type !== BYTES) this.fail(`field ${this.field} has wire type ${this.type}, a length-delimited one is expected`);
    const n = this.uint();
    if (n > this.end - this.at) this.fail(`a field of ${n} bytes reaches past the ${this.end - this.at} that are left`);
    return n;
  }

  /** A sub-message: a cursor over it; this one moves behind. */
  message(): Cursor {
    const n = this.length();
    const sub = new Cursor(this.bytes, this.at, this.at + n, this.file, this.#raise);
    this.at += n;
    return sub;
  }

  /** A view of a bytes field. */
  view(): Uint8Array {
    const n = this.length();
    this.at += n;
    return this.bytes.subarray(this.at - n, this.at);
  }

  float(): number {
    if (this.end - this.at < 4) this.fail("a 32-bit field is cut off");
    this.at += 4;
    return new DataView(this.bytes.buffer, this.bytes.byteOffset + this.at - 4, 4).getFloat32(0, true);
  }

  /**
   * The elements of a repeated field of 32-bit floats: all of a packed one, otherwise this one and those behind it in a row. Lists have millions
   * of elements where a model is an ensemble of trees.
   */
  floats(into: number[]): void {
    if (this.type === BYTES) {
      const sub = this.message();
      if (sub.at < sub.end) sub.#floats(into, undefined);
    } else this.#floats(into, this.#rowTag());
  }
  /** The same of signed 64-bit varints. */
  int64s(into: (number | bigint)[]): void {
    if (this.type === BYTES) {
      const sub = this.message();
      if (sub.at < sub.end) sub.#int64s(into, undefined);
    } else this.#int64s(into, this.#rowTag());
  }
  /** The last tag as its one byte; -1, which no byte is, where it has more: then no row is followed. */
  #rowTag(): number {
    return this.at - this.tagAt === 1 ? (this.bytes[this.tagAt] as number) : -1;
  }
  /** Without a tag the elements follow each other up to the end. */
  #floats(into: number[], tag: number | undefined): void {
    const view = new DataView(this.bytes.buffer, this.bytes.byteOffset, this.bytes.byteLength);
    const { bytes, end } = this;
    let at = this.at;
    let row = tag === undefined ? Math.floor((end - at) / 4) : 1;
    if (tag !== undefined) while (bytes[at + 5 * row - 1] === tag && at + 5 * row < end) row++;
    let i = roomIn(into, row, 0.5);
    for (;;) {
      if (end - at < 4) {
        this.at = at;
        this.fail("a 32-bit field is cut off");
      }
      into[i++] = view.getFloat32(at, true);
      at += 4;
      if (at >= end || (tag !== undefined && bytes[at] !== tag)) break;
      if (tag !== undefined) at++;
    }
    this.at = at;
  }
  #int64s(into: (number | bigint)[], tag: number | undefined): void {
    const { bytes, end } = this;
    let at = this.at;
    let row = 0;
    for (let last = at; last < end; last++) {
      if ((bytes[last] as number) >= 128) continue;
      row++;
      if (tag !== undefined && bytes[++last] !== tag) break;
    }
    let i = roomIn(into, row, 0);
    for (;;) {
      const start = at;
      let [x, shift, byte] = [0, 0, 128];
      for (; byte >= 128 && shift < 28 && at < end; shift += 7) {
        byte = bytes[at++] as number;
        x |= (byte & 127) << shift;
      }
      if (byte < 128) into[i++] = x;
      else {
        // Longer, or cut off.
        this.at = start;
        into[i++] = this.int64();
        at = this.at;
      }
      if (at >= end || (tag !== undefined && bytes[at] !== tag)) break;
      if (tag !== undefined) at++;
    }
    this.at = at;
  }

  /** Steps over the current field, whatever it is. */
  step(): void {
    this.#skipBody(0);
  }
  /** The same, returning its bytes with the tag. */
  skip(): Uint8Array {
    this.#skipBody(0);
    return this.bytes.subarray(this.tagAt, this.at);
  }
  #skipBody(depth: number): void {
    switch (this.type) {
      case VARINT:
        this.uint();
        return;
      case FIXED64:
        this.#step(8);
        return;
      case BYTES:
        {
          // length() moves the cursor, so it must run before the position is read.
          const n = this.length();
          this.at += n;
        }
        return;
      case START_GROUP: {
        // Groups are obsolete but legal; they end with their own tag.
        if (depth > 32) this.fail("groups are nested too deep");
        const group = this.field;
        const start = this.tagAt;
        for (;;) {
          if (!this.next()) this.fail("a group has no end");
          if ((this.type as number) === END_GROUP) {
            if (this.field !== group) this.fail("a group ends with another group's tag");
            break;
          }
          this.#skipBody(depth + 1);
        }
        this.field = group;
        this.tagAt = start;
        return;
      }
      case FIXED32:
        this.#step(4);
        return;
      default:
        this.fail(`wire type ${this.type} does not exist`);
    }
  }
  #step(n: number): void {
    if (this.end - this.at < n) this.fail("a fixed-size field is cut off");
    this.at += n;
  }
}

/** Lists longer than this get their room at once; arrays of more than the other have no fast elements when they are made so. */
const [LONG, LONGEST] = [4096, 2 ** 25];
/** Room for `n` more elements of the kind of `like` in a list that grows long; where the next one goes. */
function roomIn<T>(list: T[], n: number, like: T): number {
  const at = list.length;
  if (n > LONG && at + n < LONGEST) {
    list.push(like);
    list.length = at + n;
  }
  return at;
}

/** A piece of a written message: bytes, or a range of a file that is copied through at the end. */
export type Chunk = Uint8Array | { readonly path: string; readonly offset: number; readonly length: number };
export const chunkLength = (c: Chunk): number => c.length;

/** Payloads smaller than this are copied into the message; a separate chunk costs more. */
const INLINE = 4096;

/** Elements of a repeated field that are written at once, and texts that are remembered. */
const PIECE = 4096;
/** Texts up to so many bytes, tag and length among them, are remembered. */
const REPEATED = 64;

/** Writes protobuf. Big payloads are not copied: they become chunks of their own between the written bytes. */
export class Writer {
  #bytes = new Uint8Array(1 << 14);
  #at = 0;
  /** Payloads out of line: they belong before written byte `at`. */
  readonly #outside: { at: number; readonly chunk: Chunk }[] = [];
  #outsideBytes = 0;
  readonly #text = new TextEncoder();

  #room(n: number): void {
    if (this.#at + n <= this.#bytes.length) return;
    const grown = new Uint8Array(Math.max(this.#bytes.length * 2, this.#at + n));
    grown.set(this.#bytes.subarray(0, this.#at));
    this.#bytes = grown;
  }
  /** Bytes written so far, payloads out of line included. */
  get length(): number {
    return this.#at + this.#outsideBytes;
  }

  /** Makes room for so many bytes at once. */
  reserve(bytes: number): void {
    this.#room(bytes);
  }
  raw(bytes: Uint8Array): void {
    this.#room(bytes.length);
    this.#bytes.set(bytes, this.#at);
    this.#at += bytes.length;
  }
  #varint(x: number): void {
    this.#room(10);
    let rest = x;
    while (rest >= 128) {
      this.#bytes[this.#at++] = (rest % 128) | 128;
      rest = Math.floor(rest / 128);
    }
    this.#bytes[this.#at++] = rest;
  }
  #tag(field: number, type: number): void {
    this.#varint(field * 8 + type);
  }
  uint(field: number, x: number): void {
    this.#tag(field, VARINT);
    this.#varint(x);
  }
  /** A signed 64-bit field. */
  int64(field: number, x: number | bigint): void {
    this.#tag(field, VARINT);
    this.signed(x);
  }
  /** A signed 64-bit varint without a tag, for packed lists. */
  signed(x: number | bigint): void {
    if (typeof x === "number" && x >= 0) {
      this.#varint(x);
      return;
    }
    this.#room(10);
    let rest = BigInt.asUintN(64, BigInt(x));
    while (rest >= 128n) {
      this.#bytes[this.#at++] = Number(rest & 127n) | 128;
      rest >>= 7n;
    }
    this.#bytes[this.#at++] = Number(rest);
  }
  float(field: number, x: number): void {
    this.#tag(field, FIXED32);
    this.floatBits(x);
  }
  floatBits(x: number): void {
    this.#room(4);
    new DataView(this.#bytes.buffer, this.#bytes.byteOffset).setFloat32(this.#at, x, true);
    this.#at += 4;
  }
  /** A repeated field of 32-bit floats, each under its tag as `onnx.proto` has it. */
  floats(field: number, list: readonly number[]): void {
    this.#rows(list, 5, (at, from, to) => {
      const view = new DataView(this.#bytes.buffer, this.#bytes.byteOffset);
      const tag = field * 8 + FIXED32;
      for (let i = from; i < to; i++, at += 5) {
        view.setUint8(at, tag);
        view.setFloat32(at + 1, list[i] as number, true);
      }
      return at;
    });
  }
  /** The same of signed 64-bit varints. */
  int64s(field: number, list: readonly (number | bigint)[]): void {
    this.#rows(list, 11, (start, from, to) => {
      const bytes = this.#bytes;
      const tag = field * 8 + VARINT;
      let at = start;
      for (let i = from; i < to; i++) {
        const x = list[i] as number | bigint;
        bytes[at++] = tag;
        if (typeof x === "number" && x >= 0 && x < 2 ** 31) {
          let rest = x;
          for (; rest >= 128; rest >>>= 7) bytes[at++] = (rest & 127) | 128;
          bytes[at++] = rest;
        } else {
          this.#at = at;
          this.signed(x);
          at = this.#at;
        }
      }
      return at;
    });
  }
  /** Elements of at most `width` bytes, written piece by piece where there is room for a whole piece. The field's tag is one byte. */
  #rows(list: readonly unknown[], width: number, write: (at: number, from: number, to: number) => number): void {
    for (let from = 0; from < list.length; from += PIECE) {
      const to = Math.min(from + PIECE, list.length);
      this.#room((to - from) * width);
      this.#at = write(this.#at, from, to);
    }
  }
  /** A repeated field of texts: those that come again are encoded once. */
  strings(field: number, list: readonly (string | Uint8Array)[]): void {
    const known = new Map<string, Uint8Array>();
    for (const s of list) {
      if (typeof s !== "string") this.bytes(field, s);
      else {
        const before = known.get(s);
        if (before !== undefined) this.#again(before);
        else {
          const start = this.#at;
          this.string(field, s);
          if (known.size < PIECE && this.#at - start <= REPEATED) known.set(s, this.#bytes.slice(start, this.#at));
        }
      }
    }
  }
  #again(bytes: Uint8Array): void {
    this.#room(bytes.length);
    const into = this.#bytes;
    let at = this.#at;
    for (let i = 0; i < bytes.length; i++) into[at++] = bytes[i] as number;
    this.#at = at;
  }
  string(field: number, s: string): void {
    this.#tag(field, BYTES);
    const at = this.#at;
    // One byte of length fits most names; longer ones are moved.
    this.#room(s.length * 3 + 6);
    const n = this.#text.encodeInto(s, this.#bytes.subarray(at + 1)).written;
    if (n < 128) {
      this.#bytes[at] = n;
      this.#at = at + 1 + n;
      return;
    }
    let width = 1;
    for (let rest = n; rest >= 128; rest = Math.floor(rest / 128)) width++;
    this.#bytes.copyWithin(at + width, at + 1, at + 1 + n);
    this.#varint(n);
    this.#at = at + width + n;
  }
  bytes(field: number, b: Uint8Array): void {
    this.#tag(field, BYTES);
    this.#varint(b.length);
    if (b.length < INLINE) this.raw(b);
    else this.#put(b);
  }
  /** A bytes field that is a range of a file. */
  range(field: number, chunk: Chunk): void {
    this.#tag(field, BYTES);
    this.#varint(chunkLength(chunk));
    this.#put(chunk);
  }
  #put(chunk: Chunk): void {
    if (chunkLength(chunk) === 0) return;
    this.#outside.push({ at: this.#at, chunk });
    this.#outsideBytes += chunkLength(chunk);
  }
  /** A sub-message; its length goes in front once it is known. */
  message(field: number, write: () => void): void {
    this.#tag(field, BYTES);
    const start = this.#at;
    const [outside, outsideBytes] = [this.#outside.length, this.#outsideBytes];
    write();
    const inline = this.#at - start;
    const length = inline + this.#outsideBytes - outsideBytes;
    let width = 1;
    for (let rest = length; rest >= 128; rest = Math.floor(rest / 128)) width++;
    this.#room(width);
    this.#bytes.copyWithin(start + width, start, start + inline);
    for (let i = outside; i < this.#outside.length; i++) {
      const o = this.#outside[i];
      if (o !== undefined) o.at += width;
    }
    this.#at = start;
    this.#varint(length);
    this.#at = start + width + inline;
  }
  /** The whole message, in order. */
  chunks(): Chunk[] {
    const out: Chunk[] = [];
    let from = 0;
    for (const { at, chunk } of this.#outside) {
      if (at > from) out.push(this.#bytes.subarray(from, at));
      from = at;
      out.push(chunk);
    }
    if (this.#at > from) out.push(this.#bytes.subarray(from, this.#at));
    return out;
  }
}
