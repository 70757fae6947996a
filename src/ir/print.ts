/**
 * A graph as text. Values are named `%name` (quoted when the name is no plain word); types follow a colon; an attribute's kind is visible
 * (`1` int, `1.0` float, `"text"`, lists in brackets, `tensor<...>`, `{ ... }` bodies). parse.ts reads it back; docs/ir.md has the grammar.
 */
import { constantHash } from "./hash.js";
import { bytesOf, elementCount, typedOf } from "./payload.js";
import type { Attr, Body, Constant, Graph, Node, ValueId, ValueType, Verbatim } from "./types.js";

export interface PrintOptions {
  /** Receives every constant that is too big to print, by its hash; `parse` finds it there again. Without it big constants print as a hash alone. */
  readonly blobs?: Map<string, Constant> | undefined;
  /** Constants of more elements are printed as a hash. Default 16. */
  readonly inlineElements?: number | undefined;
}

export function print(g: Graph, options: PrintOptions = {}): string {
  const p = new Printer(options);
  p.graph(g, "");
  return `${p.lines.join("\n")}\n`;
}

// A colon only inside: behind a name it introduces the type.
const WORD = /^[A-Za-z0-9_.$/-]+(?::[A-Za-z0-9_.$/-]+)*$/;
const BARE = /^[A-Za-z_][A-Za-z0-9_.]*$/;
/** Words that begin something else where a node may stand. */
const RESERVED: ReadonlySet<string> = new Set(["const", "_"]);
export const quote = (s: string): string => JSON.stringify(s).replaceAll("\u007f", "\\u007f");

/** A double as the shortest text that reads back the same, always with a point, an exponent or a word. */
export function floatText(x: number): string {
  if (Number.isNaN(x)) return "nan";
  if (x === Number.POSITIVE_INFINITY) return "inf";
  if (x === Number.NEGATIVE_INFINITY) return "-inf";
  if (Object.is(x, -0)) return "-0.0";
  const t = String(x);
  return /[.e]/.test(t) ? t : `${t}.0`;
}

export function typeText(t: ValueType): string {
  switch (t.kind) {
    case "tensor":
    case "sparse": {
      const name = t.kind === "sparse" ? `sparse ${t.dtype}` : t.dtype;
      return t.shape === undefined ? name : `${name}[${t.shape.join(", ")}]`;
    }
    case "sequence":
      return `sequence<${typeText(t.of)}>`;
    case "optional":
      return `optional<${typeText(t.of)}>`;
    case "map":
      return `map<${t.key}, ${typeText(t.of)}>`;
    case "opaque":
      return `opaque<${quote(t.domain)}, ${quote(t.name)}>`;
    case "unknown":
      return "unknown";
    default:
      return t satisfies never;
  }
}

class Printer {
  readonly lines: string[] = [];
  readonly #blobs: Map<string, Constant> | undefined;
  readonly #inline: number;

  constructor(options: PrintOptions) {
    this.#blobs = options.blobs;
    this.#inline = options.inlineElements ?? 16;
  }

  graph(g: Graph, indent: string, captures?: readonly string[]): void {
    const name = (v: ValueId): string => valueName(g, v);
    const typed = (v: ValueId): string => {
      const value = g.values[v];
      return value === undefined || value.type.kind === "unknown" ? name(v) : `${name(v)}: ${typeText(value.type)}`;
    };
    const head: string[] = [`graph ${quote(g.name)}`];
    const opsets = Object.entries(g.opsets);
    if (opsets.length > 0) head.push(`opset {${opsets.map(([d, n]) => `${quote(d)}: ${n}`).join(", ")}}`);
    const extra = g.extra === undefined ? "" : metaText({ ...g.extra });
    if (extra !== "") head.push(`meta ${extra}`);
    this.#open(
      `${indent}${head.join(" ")} (${g.inputs.map(typed).join(", ")})${captures === undefined ? "" : ` captures (${g.captures.map((v, i) => `${typed(v)} = ${captures[i]}`).join(", ")})`} -> (${g.outputs.map(name).join(", ")}) {`,
    );
    for (const [v, c] of g.constants) this.lines.push(`${indent}  const ${name(v)} = ${this.#constant(c)}`);
    for (const n of g.nodes) this.#node(g, n, `${indent}  `, typed, name);
    this.lines.push(`${indent}}`);
  }

  /** Continues the line of an attribute that opens a body. */
  #open(text: string): void {
    const last = this.lines[this.lines.length - 1];
    if (last?.endsWith("= ") === true) this.lines[this.lines.length - 1] = last + text.trimStart();
    else this.lines.push(text);
  }

  #node(g: Graph, n: Node, indent: string, typed: (v: ValueId) => string, name: (v: ValueId) => string): void {
    const outs = n.outs.map((v) => (v === undefined ? "_" : typed(v))).join(", ");
    const ins = n.ins.map((v) => (v === undefined ? "_" : name(v))).join(", ");
    const op = n.domain === "" && BARE.test(n.op) && !RESERVED.has(n.op) ? n.op : `${quote(n.domain)}.${quote(n.op)}`;
    const tail: string[] = [];
    if (n.name !== "") tail.push(`@${quote(n.name)}`);
    if (n.origin !== undefined) tail.push(`from [${n.origin.map(quote).join(", ")}]`);
    if (n.overload !== undefined) tail.push(`overload ${quote(n.overload)}`);
    const meta = n.extra === undefined ? "" : metaText(n.extra as Verbatim & Record<string, unknown>);
    if (meta !== "") tail.push(`meta ${meta}`);
    const end = tail.length === 0 ? "" : ` ${tail.join(" ")}`;
    const entries = Object.entries(n.attrs);
    const call = `${indent}${outs}${n.outs.length === 0 ? "" : " = "}${op}(${ins})`;
    if (!entries.some(([, a]) => a.kind === "graph" || a.kind === "graphs")) {
      const attrs = entries.length === 0 ? "" : ` {${entries.map(([k, a]) => `${key(k)} = ${this.#attr(a)}`).join(", ")}}`;
      this.lines.push(call + attrs + end);
      return;
    }
    this.lines.push(`${call} {`);
    const body = (b: Body): void =>
      this.graph(
        b.graph,
        `${indent}  `,
        b.captures.map((v) => valueName(g, v)),
      );
    for (const [k, a] of entries) {
      this.lines.push(`${indent}  ${key(k)} = `);
      if (a.kind === "graph") body(a.value);
      else if (a.kind === "graphs") {
        this.lines[this.lines.length - 1] += "graphs [";
        for (const b of a.value) body(b);
        this.lines.push(`${indent}  ]`);
      } else this.lines[this.lines.length - 1] += this.#attr(a);
    }
    this.lines.push(`${indent}}${end}`);
  }

  #attr(a: Exclude<Attr, { kind: "graph" | "graphs" }> | Attr): string {
    switch (a.kind) {
      case "int":
        return String(a.value);
      case "float":
        return floatText(a.value);
      case "string":
        return text(a.value);
      case "tensor":
        return this.#constant(a.value);
      case "type":
        return `type ${typeText(a.value)}`;
      // The kind of an empty list cannot be read off its elements.
      case "ints":
        return a.value.length === 0 ? "ints []" : `[${a.value.join(", ")}]`;
      case "floats":
        return a.value.length === 0 ? "floats []" : `[${a.value.map(floatText).join(", ")}]`;
      case "strings":
        return a.value.length === 0 ? "strings []" : `[${a.value.map(text).join(", ")}]`;
      case "tensors":
        return `tensors [${a.value.map((c) => this.#constant(c)).join(", ")}]`;
      case "types":
        return `types [${a.value.map(typeText).join(", ")}]`;
      case "graph":
      case "graphs":
        throw new Error("bodies are printed line by line");
      default:
        return a satisfies never;
    }
  }

  #constant(c: Constant): string {
    const type = `${c.dtype}[${c.dims.join(", ")}]`;
    if (c.data.kind === "sparse") return `sparse ${type} values ${this.#constant(c.data.values)} indices ${this.#constant(c.data.indices)}`;
    if (c.data.kind === "strings" && c.data.values.length <= this.#inline)
      return `${type} [${c.data.values.map((s) => text(utf8(s))).join(", ")}]`;
    const count = elementCount(c.dims) ?? Number.POSITIVE_INFINITY;
    if (count <= this.#inline && c.data.kind !== "strings") {
      if (c.dtype === "float32" || c.dtype === "float64") {
        const values = Array.from(typedOf(c) as Float32Array | Float64Array);
        // A NaN's payload has no text; such constants print their bytes.
        if (!values.some(Number.isNaN)) return `${type} [${values.map(floatText).join(", ")}]`;
      } else if (/^u?int(8|16|32|64)$|^bool$/.test(c.dtype))
        return `${type} [${Array.from(typedOf(c) as ArrayLike<number | bigint>, String).join(", ")}]`;
      return `${type} hex "${Buffer.from(bytesOf(c)).toString("hex")}"`;
    }
    const hash = constantHash(c);
    this.#blobs?.set(hash, c);
    return `${type} blob "${hash}"`;
  }
}

const valueName = (g: Graph, v: ValueId): string => {
  const name = g.values[v]?.name ?? `?${v}`;
  return `%${WORD.test(name) ? name : quote(name)}`;
};
const key = (k: string): string => (BARE.test(k) ? k : quote(k));
const text = (s: string | Uint8Array): string => (typeof s === "string" ? quote(s) : `hex "${Buffer.from(s).toString("hex")}"`);
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
function utf8(bytes: Uint8Array): string | Uint8Array {
  try {
    return decoder.decode(bytes);
  } catch {
    return bytes;
  }
}

/** Verbatim extras as JSON, bytes in hexadecimal; empty text when there is nothing. */
function metaText(extra: Record<string, unknown> | (Verbatim & Record<string, unknown>)): string {
  const entries = Object.entries(extra).filter(([, v]) => v !== undefined);
  if (entries.length === 0) return "";
  return JSON.stringify(
    Object.fromEntries(entries.map(([k, v]) => [k, v instanceof Uint8Array ? { hex: Buffer.from(v).toString("hex") } : v])),
  );
}
