/** Decodes TensorFlow's messages from protobuf's text format by the schema: the same records as the binary format gives. */
import { constants } from "node:buffer";
import { defineError } from "../../diagnostics.js";
import { tfTypeNumber } from "../../ops/tf/types.js";
import { type Field, type Message, messages, type Numbers } from "./schema.js";

export const badText = defineError<{ what: string; line: number }>("P1316", "a text-format protobuf cannot be read", ({ what, line }) => ({
  what: `line ${line}: ${what}`,
  fix: "check that this is a GraphDef or SavedModel in protobuf text format, and that it is whole",
}));

const MAX_DEPTH = 64;

/** The message `name` that `bytes` hold as text. Throws P1316. */
export function parseText<T>(name: string, bytes: Uint8Array, file: string | undefined): T {
  if (bytes.length > constants.MAX_STRING_LENGTH)
    throw badText({ what: `its ${bytes.length} bytes are more than are read as text; save it in the binary format`, line: 1 }, { file });
  const p = new TextParser(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("utf8"), file);
  return p.message(name, undefined, 0) as T;
}

interface Token {
  readonly kind: "word" | "string" | "symbol" | "end";
  readonly text: string;
  /** A string's bytes. */
  readonly bytes?: Uint8Array;
}

class TextParser {
  readonly #text: string;
  readonly #file: string | undefined;
  #at = 0;
  #token: Token;

  constructor(text: string, file: string | undefined) {
    this.#text = text;
    this.#file = file;
    this.#token = this.#read();
  }

  #fail(what: string): never {
    const line = this.#text.slice(0, this.#at).split("\n").length;
    throw badText({ what, line }, { file: this.#file });
  }

  #read(): Token {
    const t = this.#text;
    for (;;) {
      const c = t[this.#at];
      if (c === undefined) return { kind: "end", text: "the end" };
      if (c === "#") {
        const end = t.indexOf("\n", this.#at);
        this.#at = end < 0 ? t.length : end;
      } else if (/\s/.test(c)) this.#at++;
      else break;
    }
    const c = t[this.#at] as string;
    if (c === '"' || c === "'") return this.#string(c);
    const word = WORD;
    word.lastIndex = this.#at;
    const found = word.exec(t)?.[0];
    if (found !== undefined && found !== "") {
      this.#at += found.length;
      return { kind: "word", text: found };
    }
    this.#at++;
    return { kind: "symbol", text: c };
  }
  /** A string's bytes, unescaped in place: what stands for a byte is never shorter than it, and weights are millions of escapes. */
  #string(quote: string): Token {
    const t = this.#text;
    const from = ++this.#at;
    let plain = true;
    for (;;) {
      const c = t[this.#at];
      if (c === quote) break;
      if (c === undefined || c === "\n") this.#fail("a string has no end");
      if (c === "\\") plain = false;
      this.#at += c === "\\" ? 2 : 1;
    }
    const bytes = Buffer.from(t.slice(from, this.#at++), "utf8");
    return { kind: "string", text: "a string", bytes: plain ? bytes : bytes.subarray(0, this.#unescaped(bytes)) };
  }
  /** How many bytes are left. */
  #unescaped(bytes: Uint8Array): number {
    let to = 0;
    for (let i = 0; i < bytes.length; ) {
      const c = bytes[i++] as number;
      if (c !== BACKSLASH) {
        bytes[to++] = c;
        continue;
      }
      const e = bytes[i] as number;
      const hex = e === 0x78 || e === 0x58;
      const base = hex ? 16 : 8;
      const first = hex ? i + 1 : i;
      let [value, end] = [0, first];
      for (let d = digit(bytes[end]); d < base && end < first + (hex ? 2 : 3); d = digit(bytes[end])) {
        value = value * base + d;
        end++;
      }
      if (end > first) {
        bytes[to++] = value & 255;
        i = end;
        continue;
      }
      const simple = ESCAPES[String.fromCharCode(e)];
      if (simple === undefined)
        this.#fail(
          `'\\${Buffer.from(bytes.subarray(i, i + 4))
            .toString("utf8")
            .slice(0, 1)}' is no escape`,
        );
      bytes[to++] = simple;
      i++;
    }
    return to;
  }
  #next(): Token {
    const t = this.#token;
    this.#token = this.#read();
    return t;
  }
  #is(symbol: string): boolean {
    return this.#token.kind === "symbol" && this.#token.text === symbol;
  }
  #eat(symbol: string): boolean {
    if (!this.#is(symbol)) return false;
    this.#next();
    return true;
  }

  message(name: string, end: string | undefined, depth: number): Record<string, unknown> {
    if (depth > MAX_DEPTH) this.#fail(`messages are nested more than ${MAX_DEPTH} deep`);
    const fields = fieldsByName(name);
    const out: Record<string, unknown> = {};
    for (;;) {
      if (end === undefined ? this.#token.kind === "end" : this.#eat(end)) return out;
      const key = this.#next();
      if (key.kind !== "word")
        this.#fail(`${key.kind === "end" ? "the text ends" : `'${key.text}' stands`} where a field name is expected`);
      const field = fields.get(key.text);
      const colon = this.#eat(":");
      if (field === undefined) this.#skip(colon, depth);
      else if (this.#eat("[")) {
        while (!this.#eat("]")) {
          this.#value(field, out, depth);
          this.#eat(",");
          if (this.#token.kind === "end") this.#fail("a list has no end");
        }
      } else this.#value(field, out, depth);
      if (!this.#eat(",")) this.#eat(";");
    }
  }

  #value(field: Field, out: Record<string, unknown>, depth: number): void {
    const { name, of } = field;
    if (field.map) {
      const entry = this.#entry(field, depth);
      const known = out[name];
      if (known instanceof Map) known.set(entry.key, entry.value);
      else out[name] = new Map([[entry.key, entry.value]]);
      return;
    }
    const value = typeof of === "object" ? this.message(of.message, this.#open(), depth + 1) : this.#scalar(of);
    if (of === "numbers") {
      const before = out[name] as Numbers | undefined;
      const values = (before?.values as (number | bigint)[] | undefined) ?? [];
      values.push(value as number | bigint);
      out[name] = { runs: [], values } satisfies Numbers;
    } else if (!field.repeated) out[name] = value;
    else {
      const list = out[name];
      if (Array.isArray(list)) list.push(value);
      else out[name] = [value];
    }
  }
  #open(): string {
    if (this.#eat("{")) return "}";
    if (this.#eat("<")) return ">";
    return this.#fail(`'${this.#token.text}' stands where '{' is expected`);
  }
  #entry(field: Field, depth: number): { readonly key: string; readonly value: unknown } {
    const end = this.#open();
    let key = "";
    let value: unknown = typeof field.of === "object" ? {} : "";
    while (!this.#eat(end)) {
      const part = this.#next();
      this.#eat(":");
      if (part.text === "key") key = String(this.#scalar("string"));
      else if (part.text === "value")
        value = typeof field.of === "object" ? this.message(field.of.message, this.#open(), depth + 1) : this.#scalar("string");
      else this.#fail(`'${part.text}' stands in a map entry`);
      if (!this.#eat(",")) this.#eat(";");
    }
    return { key, value };
  }
  #scalar(of: Exclude<Field["of"], object>): unknown {
    const negative = this.#eat("-");
    const t = this.#next();
    if (of === "string" || of === "bytes") {
      if (t.bytes === undefined) this.#fail(`'${t.text}' stands where a string is expected`);
      const parts = [t.bytes];
      while (this.#token.bytes !== undefined) parts.push(this.#next().bytes ?? new Uint8Array(0));
      const bytes = parts.length === 1 ? t.bytes : Buffer.concat(parts);
      return of === "bytes" ? bytes : Buffer.from(bytes).toString("utf8");
    }
    if (t.kind !== "word") this.#fail(`'${t.text}' stands where a value is expected`);
    if (of === "bool") {
      if (/^(true|True|t|1)$/.test(t.text)) return true;
      if (/^(false|False|f|0)$/.test(t.text)) return false;
      this.#fail(`'${t.text}' is neither true nor false`);
    }
    if (of === "type" && !/^\d/.test(t.text)) return tfTypeNumber(t.text) ?? this.#fail(`there is no type '${t.text}'`);
    return this.#number(t.text, negative, of);
  }
  #number(text: string, negative: boolean, of: string): number | bigint {
    const word = text.toLowerCase();
    if (word === "true" || word === "false") return word === "true" ? 1 : 0;
    if (/^inf(inity)?f?$/.test(word)) return negative ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY;
    if (/^nanf?$/.test(word)) return Number.NaN;
    if (/^(0x[0-9a-f]+|\d+)$/.test(word)) {
      const octal = /^0[0-7]+$/.test(word);
      const exact = BigInt(octal ? `0o${word.slice(1)}` : word);
      const big = negative ? -exact : exact;
      const n = Number(big);
      return Number.isSafeInteger(n) ? (negative && n === 0 && of !== "int" ? -0 : n) : big;
    }
    const n = Number(word.replace(/f$/, ""));
    if (!Number.isFinite(n)) this.#fail(`'${text}' is no number`);
    return negative ? -n : n;
  }

  /** Steps over the value of a field that the schema does not have. */
  #skip(colon: boolean, depth: number): void {
    if (depth > MAX_DEPTH) this.#fail(`messages are nested more than ${MAX_DEPTH} deep`);
    if (this.#is("{") || this.#is("<") || this.#is("[")) {
      const pairs: Readonly<Record<string, string>> = { "{": "}", "<": ">", "[": "]" };
      const ends = [pairs[this.#next().text]];
      while (ends.length > 0) {
        const t = this.#next();
        if (t.kind === "end") this.#fail("a message has no end");
        if (t.kind !== "symbol") continue;
        if (pairs[t.text] !== undefined) ends.push(pairs[t.text]);
        else if (t.text === ends[ends.length - 1]) ends.pop();
      }
      return;
    }
    if (!colon) this.#fail(`'${this.#token.text}' stands where ':' is expected`);
    this.#eat("-");
    const t = this.#next();
    if (t.kind === "end" || t.kind === "symbol") this.#fail(`'${t.text}' stands where a value is expected`);
    while (t.bytes !== undefined && this.#token.bytes !== undefined) this.#next();
  }
}

const BACKSLASH = 0x5c;
/** A hexadecimal digit's value; 16 where there is none. */
function digit(c: number | undefined): number {
  if (c === undefined) return 16;
  if (c >= 0x30 && c <= 0x39) return c - 0x30;
  const letter = c | 0x20;
  return letter >= 0x61 && letter <= 0x66 ? letter - 0x57 : 16;
}
const WORD = /[A-Za-z0-9_.+][\w.]*(?:(?<=[eE])[+-]\d+)?/y;
const ESCAPES: Readonly<Record<string, number>> = {
  n: 10,
  r: 13,
  t: 9,
  a: 7,
  b: 8,
  f: 12,
  v: 11,
  "\\": 92,
  "'": 39,
  '"': 34,
  "?": 63,
};
const named = new Map<string, ReadonlyMap<string, Field>>();
function fieldsByName(name: string): ReadonlyMap<string, Field> {
  let found = named.get(name);
  if (found === undefined) {
    const fields: Message | undefined = messages[name];
    if (fields === undefined) throw new Error(`message ${name} is not in the schema`);
    found = new Map([...fields.values()].map((f) => [f.name, f]));
    named.set(name, found);
  }
  return found;
}
