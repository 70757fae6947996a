/** Decodes TensorFlow's messages from protobuf's wire format by the schema. Bytes fields are views; nothing is copied. */
import { BYTES, Cursor, FIXED32, VARINT } from "../onnx/wire.js";
import { type Field, type Message, messages, type Numbers, tfWireError } from "./schema.js";

const MAX_DEPTH = 64;
const utf8 = new TextDecoder("utf-8", { fatal: true });

/** The message `name` that `bytes` hold. Throws P1302. */
export function decodeMessage<T>(name: string, bytes: Uint8Array, file?: string | undefined): T {
  return new Decoder().message(name, new Cursor(bytes, 0, bytes.length, file, tfWireError), 0) as T;
}

class Decoder {
  readonly #interned = new Map<string, string>();

  message(name: string, c: Cursor, depth: number): Record<string, unknown> {
    if (depth > MAX_DEPTH) c.fail(`messages are nested more than ${MAX_DEPTH} deep`);
    const fields: Message | undefined = messages[name];
    if (fields === undefined) throw new Error(`message ${name} is not in the schema`);
    const out: Record<string, unknown> = {};
    while (c.next()) {
      const field = fields.get(c.field);
      if (field === undefined) c.skip();
      else this.#field(c, field, out, depth);
    }
    return out;
  }

  #field(c: Cursor, field: Field, out: Record<string, unknown>, depth: number): void {
    const { name, of } = field;
    if (field.map) {
      const known = out[name];
      const entries = known instanceof Map ? (known as Map<string, unknown>) : new Map<string, unknown>();
      if (known === undefined) out[name] = entries;
      this.#entry(c.message(), field, entries, depth);
      return;
    }
    if (typeof of === "object") {
      const value = this.message(of.message, c.message(), depth + 1);
      if (field.repeated) push(out, name, value);
      // The same field twice means its parts merged; files written by libraries never do that, the last one wins.
      else out[name] = value;
      return;
    }
    if (of === "numbers") {
      const { runs } = (out[name] as Numbers | undefined) ?? { runs: [] };
      const from = c.at;
      let run: Uint8Array;
      if (c.type === BYTES) run = c.view();
      else {
        c.skip();
        run = c.bytes.subarray(from, c.at);
      }
      // Every number may stand alone, and there may be millions.
      (runs as Uint8Array[]).push(run);
      out[name] = { runs, values: [] } satisfies Numbers;
      return;
    }
    if (!field.repeated) {
      out[name] = this.#scalar(c, of);
      return;
    }
    if (c.type !== BYTES || of === "string" || of === "bytes") {
      push(out, name, this.#scalar(c, of));
      return;
    }
    const packed = c.message();
    while (packed.at < packed.end) push(out, name, this.#plain(packed, of));
  }

  #entry(c: Cursor, field: Field, into: Map<string, unknown>, depth: number): void {
    let key = "";
    let value: unknown;
    while (c.next()) {
      if (c.field === 1) key = this.#text(c);
      else if (c.field === 2) value = typeof field.of === "object" ? this.message(field.of.message, c.message(), depth + 1) : this.#text(c);
      else c.skip();
    }
    into.set(key, value ?? (typeof field.of === "object" ? {} : ""));
  }

  #scalar(c: Cursor, of: Exclude<Field["of"], object>): unknown {
    if (of === "string") return this.#text(c);
    if (of === "bytes") return c.view();
    const wanted = of === "float" ? FIXED32 : VARINT;
    if (c.type !== wanted) c.fail(`field ${c.field} has wire type ${c.type}, ${wanted} is expected`);
    return this.#plain(c, of);
  }
  #plain(c: Cursor, of: Exclude<Field["of"], object>): unknown {
    switch (of) {
      case "float":
        return c.float();
      case "bool":
        return c.int64() !== 0;
      case "type":
        return Number(c.int64());
      default:
        return c.int64();
    }
  }

  #text(c: Cursor): string {
    const bytes = c.view();
    let s: string;
    try {
      s = utf8.decode(bytes);
    } catch (cause) {
      throw tfWireError(
        { what: `the ${bytes.length} bytes of field ${c.field} are not UTF-8` },
        { file: c.file, offset: c.at - bytes.length },
        cause,
      );
    }
    const known = this.#interned.get(s);
    if (known !== undefined) return known;
    this.#interned.set(s, s);
    return s;
  }
}

function push(out: Record<string, unknown>, name: string, value: unknown): void {
  const list = out[name];
  if (Array.isArray(list)) list.push(value);
  else out[name] = [value];
}
