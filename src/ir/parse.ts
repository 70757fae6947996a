/** Reads the text of print.ts back into a graph. Errors are coded and give line and column, what was found and what was expected. */
import { defineError } from "../diagnostics.js";
import { symbol } from "./dims.js";
import { byteLength, isDType } from "./dtypes.js";
import { Editor } from "./edit.js";
import { elementCount, makeConstant } from "./payload.js";
import type { Attr, Attrs, Body, Constant, Dim, DType, Graph, GraphExtra, ValueId, ValueType, Verbatim } from "./types.js";

export const syntaxError = defineError<{ line: number; column: number; found: string; expected: string }>(
  "P1402",
  "the text of a graph does not parse",
  ({ line, column, found, expected }) => ({
    what: `line ${line}, column ${column}: found ${found}, expected ${expected}`,
    fix: "see docs/ir.md for the grammar",
  }),
);
export const nameError = defineError<{ line: number; name: string; twice: boolean }>(
  "P1403",
  "the text of a graph misuses a name",
  ({ line, name, twice }) => ({
    what: `line ${line}: %${name} is ${twice ? "defined twice" : "used and not defined"}`,
    fix: twice ? "give each value a name of its own" : "define it as an input, a constant or a node's output",
  }),
);
export const blobMissing = defineError<{ hash: string; line: number }>(
  "P1404",
  "the text of a graph refers to bytes that were not given",
  ({ hash, line }) => ({
    what: `line ${line}: no constant with hash ${hash.slice(0, 16)}... is among the blobs`,
    fix: "pass the map that print filled as `blobs`",
  }),
);

export interface ParseOptions {
  readonly blobs?: ReadonlyMap<string, Constant> | undefined;
}
const MAX_DEPTH = 64;

interface Token {
  readonly kind: "word" | "value" | "string" | "number" | "punctuation" | "end";
  readonly text: string;
  readonly at: number;
}
const PATTERN =
  /\s+|#[^\n]*|(%"(?:[^"\\]|\\.)*"|%[A-Za-z0-9_.$/-]+(?::[A-Za-z0-9_.$/-]+)*)|("(?:[^"\\\n]|\\.)*")|(-?inf\b|nan\b|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?n?)|([A-Za-z_][A-Za-z0-9_.]*)|(->|[(){}[\]:,=<>@_.*+`-])/gy;

export function parse(source: string, options: ParseOptions = {}): Graph {
  return new Parser(source, options).top();
}

class Parser {
  readonly #source: string;
  readonly #blobs: ReadonlyMap<string, Constant> | undefined;
  #token: Token;
  #at = 0;
  #depth = 0;

  constructor(source: string, options: ParseOptions) {
    this.#source = source;
    this.#blobs = options.blobs;
    this.#token = this.#scan();
  }

  top(): Graph {
    const g = this.#graph(undefined).graph;
    if (this.#token.kind !== "end") this.#fail("the end");
    return g;
  }

  // ---- tokens -----------------------------------------------------------------------------------------------------------------------------

  #scan(): Token {
    for (;;) {
      if (this.#at >= this.#source.length) return { kind: "end", text: "the end of the text", at: this.#at };
      PATTERN.lastIndex = this.#at;
      const m = PATTERN.exec(this.#source);
      if (m === null) {
        this.#token = { kind: "punctuation", text: this.#source[this.#at] ?? "", at: this.#at };
        return this.#fail("a token");
      }
      const at = this.#at;
      this.#at = PATTERN.lastIndex;
      if (m[1] !== undefined) return { kind: "value", text: m[1].startsWith('%"') ? this.#json(m[1].slice(1), at) : m[1].slice(1), at };
      if (m[2] !== undefined) return { kind: "string", text: this.#json(m[2], at), at };
      if (m[3] !== undefined) return { kind: "number", text: m[3], at };
      if (m[4] !== undefined) return { kind: "word", text: m[4], at };
      if (m[5] !== undefined) return { kind: m[5] === "_" ? "word" : "punctuation", text: m[5], at };
    }
  }
  #json(text: string, at: number): string {
    try {
      return JSON.parse(text) as string;
    } catch {
      this.#token = { kind: "string", text, at };
      return this.#fail("a string with JSON's escapes");
    }
  }
  #line(at: number): number {
    let line = 1;
    for (let i = this.#source.indexOf("\n"); i >= 0 && i < at; i = this.#source.indexOf("\n", i + 1)) line++;
    return line;
  }
  #fail(expected: string): never {
    const { at, text, kind } = this.#token;
    const line = this.#line(at);
    const column = at - this.#source.lastIndexOf("\n", at - 1);
    throw syntaxError({ line, column, found: kind === "end" ? text : `'${text.slice(0, 40)}'`, expected });
  }
  #next(): Token {
    const t = this.#token;
    this.#token = this.#scan();
    return t;
  }
  #is(text: string): boolean {
    return this.#token.text === text && (this.#token.kind === "punctuation" || this.#token.kind === "word");
  }
  #eat(text: string): boolean {
    if (!this.#is(text)) return false;
    this.#next();
    return true;
  }
  #expect(text: string): void {
    if (!this.#eat(text)) this.#fail(`'${text}'`);
  }
  #take(kind: Token["kind"], what: string): string {
    if (this.#token.kind !== kind) this.#fail(what);
    return this.#next().text;
  }
  #list<T>(close: string, one: () => T): T[] {
    const out: T[] = [];
    while (!this.#eat(close)) {
      if (out.length > 0) this.#expect(",");
      out.push(one());
    }
    return out;
  }

  // ---- graphs -----------------------------------------------------------------------------------------------------------------------------

  /** `outer` finds the enclosing graph's values for the captures of a body. */
  #graph(outer: ((name: string, at: number) => ValueId) | undefined): Body {
    if (++this.#depth > MAX_DEPTH) this.#fail(`at most ${MAX_DEPTH} nested graphs`);
    this.#expect("graph");
    const name = this.#take("string", "the graph's name in quotes");
    const opsets: Record<string, number> = {};
    if (this.#eat("opset")) {
      this.#expect("{");
      this.#list("}", () => {
        const domain = this.#take("string", "a domain in quotes");
        this.#expect(":");
        opsets[domain] = Number(this.#take("number", "a version"));
      });
    }
    const extra = this.#eat("meta") ? (this.#meta() as GraphExtra) : undefined;
    const editor = new Editor({ name, opsets, ...(extra === undefined ? {} : { extra }) });
    const ids = new Map<string, ValueId>();
    const defined = new Set<ValueId>();
    const captures: ValueId[] = [];
    const define = (id: ValueId, label: string, at: number): void => {
      if (defined.has(id)) throw nameError({ line: this.#line(at), name: label, twice: true });
      defined.add(id);
    };
    const typed = (make: (name: string, type: ValueType) => ValueId): ValueId => {
      const at = this.#token.at;
      const label = this.#take("value", "a value");
      if (ids.has(label)) throw nameError({ line: this.#line(at), name: label, twice: true });
      const type: ValueType = this.#eat(":") ? this.#type(0) : { kind: "unknown" };
      const id = make(label, type);
      ids.set(label, id);
      define(id, label, at);
      return id;
    };
    this.#expect("(");
    this.#list(")", () => typed((n, t) => editor.addInput(n, t)));
    if (outer !== undefined) {
      if (this.#eat("captures")) {
        this.#expect("(");
        this.#list(")", () => {
          typed((n, t) => editor.addCapture(n, t));
          this.#expect("=");
          const at = this.#token.at;
          captures.push(outer(this.#take("value", "a value of the enclosing graph"), at));
        });
      }
    }
    this.#expect("->");
    this.#expect("(");
    const results = this.#list(")", () => ({ at: this.#token.at, label: this.#take("value", "a value") }));
    this.#expect("{");
    const used: { readonly id: ValueId; readonly label: string; readonly at: number }[] = [];
    /** Values may be read before their node comes; they are declared on sight and checked at the end. */
    const reference = (label: string, at: number): ValueId => {
      let id = ids.get(label);
      if (id === undefined) {
        id = editor.declare(label);
        ids.set(label, id);
      }
      used.push({ id, label, at });
      return id;
    };
    while (!this.#eat("}")) {
      if (this.#is("const")) {
        this.#next();
        const at = this.#token.at;
        const label = this.#take("value", "a value");
        this.#expect("=");
        const c = this.#constant();
        const known = ids.get(label);
        if (known === undefined) ids.set(label, editor.addConstant(label, c));
        else editor.setConstant(known, c);
        define(ids.get(label) as ValueId, label, at);
        continue;
      }
      this.#node(editor, ids, define, reference);
    }
    editor.setOutputs(results.map(({ label, at }) => reference(label, at)));
    for (const { id, label, at } of used) if (!defined.has(id)) throw nameError({ line: this.#line(at), name: label, twice: false });
    this.#depth--;
    return { graph: editor.finish(), captures };
  }

  #node(
    editor: Editor,
    ids: Map<string, ValueId>,
    define: (id: ValueId, label: string, at: number) => void,
    reference: (label: string, at: number) => ValueId,
  ): void {
    const outs: (ValueId | undefined)[] = [];
    while (this.#token.kind === "value" || this.#is("_")) {
      const { kind, text: label, at } = this.#next();
      if (kind === "value") {
        const type: ValueType = this.#eat(":") ? this.#type(0) : { kind: "unknown" };
        let id = ids.get(label);
        if (id === undefined) {
          id = editor.declare(label, type);
          ids.set(label, id);
        } else if (type.kind !== "unknown") editor.setType(id, type);
        define(id, label, at);
        outs.push(id);
      } else outs.push(undefined);
      if (!this.#eat(",")) break;
    }
    if (outs.length > 0) this.#expect("=");
    let domain = "";
    let op: string;
    if (this.#token.kind === "string") {
      domain = this.#next().text;
      this.#expect(".");
      op = this.#take("string", "the operator in quotes");
    } else op = this.#take("word", "an operator");
    this.#expect("(");
    const ins = this.#list(")", () => {
      if (this.#eat("_")) return undefined;
      const at = this.#token.at;
      return reference(this.#take("value", "a value or _"), at);
    });
    const attrs: Record<string, Attr> = {};
    if (this.#eat("{")) {
      while (!this.#eat("}")) {
        const key = this.#token.kind === "string" ? this.#next().text : this.#take("word", "an attribute's name");
        this.#expect("=");
        Object.defineProperty(attrs, key, { value: this.#attr(reference), enumerable: true, configurable: true, writable: true });
        this.#eat(",");
      }
    }
    const name = this.#eat("@") ? this.#take("string", "the node's name in quotes") : "";
    let origin: string[] | undefined;
    if (this.#eat("from")) {
      this.#expect("[");
      origin = this.#list("]", () => this.#take("string", "a name in quotes"));
    }
    const overload = this.#eat("overload") ? this.#take("string", "the overload in quotes") : undefined;
    const extra = this.#eat("meta") ? (this.#meta() as Verbatim) : undefined;
    editor.add({
      op,
      domain,
      name,
      ins,
      outs,
      ...(Object.keys(attrs).length === 0 ? {} : { attrs: attrs as Attrs }),
      origin,
      overload,
      extra,
    });
  }

  // ---- attributes ---------------------------------------------------------------------------------------------------------------------------

  #attr(outer: (name: string, at: number) => ValueId): Attr {
    const t = this.#token;
    if (t.kind === "number") return isFloatText(t.text) ? { kind: "float", value: this.#float() } : { kind: "int", value: this.#int() };
    if (t.kind === "string") return { kind: "string", value: this.#next().text };
    if (this.#is("graph")) return { kind: "graph", value: this.#graph(outer) };
    if (this.#eat("hex")) return { kind: "string", value: this.#hex() };
    if (this.#eat("type")) return { kind: "type", value: this.#type(0) };
    if (this.#eat("[")) return this.#attrList();
    for (const kind of ["ints", "floats", "strings"] as const) {
      if (!this.#eat(kind)) continue;
      this.#expect("[");
      this.#expect("]");
      return { kind, value: [] };
    }
    if (this.#eat("tensors")) {
      this.#expect("[");
      return { kind: "tensors", value: this.#list("]", () => this.#constant()) };
    }
    if (this.#eat("types")) {
      this.#expect("[");
      return { kind: "types", value: this.#list("]", () => this.#type(0)) };
    }
    if (this.#eat("graphs")) {
      this.#expect("[");
      const value: Body[] = [];
      while (!this.#eat("]")) value.push(this.#graph(outer));
      return { kind: "graphs", value };
    }
    return { kind: "tensor", value: this.#constant() };
  }
  #attrList(): Attr {
    const t = this.#token;
    if (t.kind === "number") {
      if (isFloatText(t.text)) return { kind: "floats", value: this.#list("]", () => this.#float()) };
      return { kind: "ints", value: this.#list("]", () => this.#int()) };
    }
    return { kind: "strings", value: this.#list("]", () => (this.#eat("hex") ? this.#hex() : this.#take("string", "a string"))) };
  }
  #int(): number | bigint {
    const text = this.#take("number", "an integer");
    if (!/^-?\d+n?$/.test(text)) this.#fail("an integer before this");
    const n = Number(text.replace("n", ""));
    return Number.isSafeInteger(n) ? n : BigInt(text.replace("n", ""));
  }
  #float(): number {
    return floatOf(this.#take("number", "a float"));
  }
  #hex(): Uint8Array {
    const text = this.#take("string", "hexadecimal digits in quotes");
    if (!/^([0-9a-f]{2})*$/.test(text)) this.#fail("an even number of hexadecimal digits before this");
    return new Uint8Array(Buffer.from(text, "hex"));
  }

  // ---- types and constants --------------------------------------------------------------------------------------------------------------------

  #dtype(): DType {
    const at = this.#token;
    const text = this.#take("word", "an element type");
    if (isDType(text)) return text;
    this.#token = at;
    return this.#fail("an element type");
  }
  #type(depth: number): ValueType {
    if (depth > MAX_DEPTH) this.#fail(`at most ${MAX_DEPTH} nested types`);
    if (this.#eat("unknown")) return { kind: "unknown" };
    for (const kind of ["sequence", "optional"] as const) {
      if (!this.#eat(kind)) continue;
      this.#expect("<");
      const of = this.#type(depth + 1);
      this.#expect(">");
      return { kind, of };
    }
    if (this.#eat("map")) {
      this.#expect("<");
      const key = this.#dtype();
      this.#expect(",");
      const of = this.#type(depth + 1);
      this.#expect(">");
      return { kind: "map", key, of };
    }
    if (this.#eat("opaque")) {
      this.#expect("<");
      const domain = this.#take("string", "a domain in quotes");
      this.#expect(",");
      const name = this.#take("string", "a name in quotes");
      this.#expect(">");
      return { kind: "opaque", domain, name };
    }
    const kind = this.#eat("sparse") ? "sparse" : "tensor";
    const dtype = this.#dtype();
    return { kind, dtype, shape: this.#is("[") ? this.#dims() : undefined };
  }
  /** Dims are expressions; they are cut out of the text as they stand, up to a comma or bracket outside parentheses and back-quotes. */
  #dims(): readonly Dim[] {
    const dims: Dim[] = [];
    let at = this.#token.at + 1;
    let start = at;
    let depth = 0;
    let quoted = false;
    for (; at < this.#source.length; at++) {
      const c = this.#source[at];
      if (c === "`") quoted = !quoted;
      else if (quoted) continue;
      else if (c === "(") depth++;
      else if (c === ")") depth--;
      else if ((c === "," || c === "]") && depth === 0) {
        const text = this.#source.slice(start, at).trim();
        if (text !== "" || c === "," || dims.length > 0) dims.push(/^\d+$/.test(text) ? Number(text) : symbol(text));
        start = at + 1;
        if (c === "]") break;
      }
    }
    if (at >= this.#source.length) this.#fail("']' behind the dims");
    this.#at = at + 1;
    this.#token = this.#scan();
    return dims;
  }

  #constant(dense = false): Constant {
    if (!dense && this.#eat("sparse")) {
      const dtype = this.#dtype();
      const dims = this.#staticDims();
      this.#expect("values");
      const values = this.#constant(true);
      this.#expect("indices");
      return { dtype, dims, data: { kind: "sparse", values, indices: this.#constant(true) } };
    }
    const dtype = this.#dtype();
    const dims = this.#staticDims();
    const start = this.#token.at;
    const count = elementCount(dims);
    if (count === undefined) this.#fail("dims with a representable product before this");
    if (this.#eat("blob")) {
      const hash = this.#take("string", "a hash in quotes");
      const found = this.#blobs?.get(hash);
      if (found === undefined) throw blobMissing({ hash, line: this.#line(start) });
      if (found.dtype !== dtype || found.dims.join() !== dims.join())
        this.#fail(`a blob of type ${found.dtype}[${found.dims.join(", ")}] before this`);
      return found;
    }
    if (this.#eat("hex")) {
      const bytes = this.#hex();
      if (bytes.length !== byteLength(dtype, count ?? 0)) this.#fail(`${byteLength(dtype, count ?? 0)} bytes before this`);
      return { dtype, dims, data: { kind: "bytes", bytes } };
    }
    this.#expect("[");
    if (dtype === "string") {
      const values = this.#list("]", () =>
        this.#eat("hex") ? this.#hex() : new Uint8Array(Buffer.from(this.#take("string", "a string"), "utf8")),
      );
      if (values.length !== count) this.#fail(`${count} strings before this`);
      return { dtype, dims, data: { kind: "strings", values } };
    }
    const values = this.#list("]", () => {
      const text = this.#take("number", "a number");
      return /^-?\d+$/.test(text) && !Number.isSafeInteger(Number(text)) ? BigInt(text) : floatOf(text);
    });
    if (values.length !== count) this.#fail(`${count} elements before this`);
    return makeConstant(dtype, dims, values);
  }
  #staticDims(): readonly number[] {
    if (!this.#is("[")) this.#fail("dims in brackets");
    const dims = this.#dims();
    if (!dims.every((d) => typeof d === "number")) this.#fail("static dims before this");
    return dims as readonly number[];
  }

  /** JSON, as it stands in the text. */
  #meta(): unknown {
    const start = this.#token.at;
    let depth = 0;
    let at = start;
    for (let quoted = false; at < this.#source.length; at++) {
      const c = this.#source[at];
      if (quoted) {
        if (c === "\\") at++;
        else if (c === '"') quoted = false;
      } else if (c === '"') quoted = true;
      else if (c === "{" || c === "[") depth++;
      else if ((c === "}" || c === "]") && --depth === 0) break;
    }
    try {
      const value = JSON.parse(this.#source.slice(start, at + 1), (_, v: unknown) =>
        v !== null && typeof v === "object" && "hex" in v && Object.keys(v).length === 1
          ? new Uint8Array(Buffer.from(String(v.hex), "hex"))
          : v,
      ) as unknown;
      this.#at = at + 1;
      this.#token = this.#scan();
      return value;
    } catch {
      return this.#fail("JSON");
    }
  }
}

const isFloatText = (t: string): boolean => /[.e]|inf|nan/.test(t);
const floatOf = (t: string): number =>
  t === "nan"
    ? Number.NaN
    : t === "inf"
      ? Number.POSITIVE_INFINITY
      : t === "-inf"
        ? Number.NEGATIVE_INFINITY
        : t === "-0.0"
          ? -0
          : Number(t);
