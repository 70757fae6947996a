/** Decodes TensorFlow's messages from protobuf's text format by the schema: the same records as the binary format gives. */
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
  #string(quote: string): Token {
    const t = this.#text;
    const parts: number[] = [];
    let plainFrom = ++this.#at;
    const chunks: Uint8Array[] = [];
    const flush = (end: number): void => {
      if (end > plainFrom) chunks.push(Buffer.from(t.slice(plainFrom, end), "utf8"));
    };
    for (;;) {
      const c = t[this.#at];
      if (c === undefined || c === "\n") this.#fail("a string has no end");
      if (c === quote) {
        flush(this.#at++);
        break;
      }
      if (c !== "\\") {
        this.#at++;
        continue;
      }
      flush(this.#at);
      const e = t[this.#at + 1] ?? "";
      const octal = /^[0-7]{1,3}/.exec(t.slice(this.#at + 1, this.#at + 4))?.[0];
      const hex = /^[xX]([0-9a-fA-F]{1,2})/.exec(t.slice(this.#at + 1, this.#at + 4));
      parts.length = 0;
      if (octal !== undefined) {
        parts.push(Number.parseInt(octal, 8) & 255);
        this.#at += 1 + octal.length;
      } else if (hex !== null) {
        parts.push(Number.parseInt(hex[1] ?? "0", 16));
        this.#at += 1 + hex[0].length;
      } else {
        const plain = ESCAPES[e];
        if (plain === undefined) this.#fail(`'\\${e}' is no escape`);
        parts.push(plain);
        this.#at += 2;
      }
      chunks.push(Uint8Array.from(parts));
      plainFrom = this.#at;
    }
    const bytes = chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks);
    return { kind: "string", text: "a string", bytes };
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
