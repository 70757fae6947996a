/**
 * Writes a graph as an ONNX model. Weights are never copied through an encoder: they are chunks (views or file ranges) between the
 * written bytes, and go to disk by `writev`. Models past 2 GiB, which protobuf readers refuse, put their weights into a data file beside.
 */
import { closeSync, fsyncSync, openSync, writeSync, writevSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { replaceFiles } from "../../atomic.js";
import { defineError } from "../../diagnostics.js";
import { onnxNumber } from "../../ir/dtypes.js";
import { bodiesOf, valueAt } from "../../ir/graph.js";
import { bytesOf, payloadLength, readRange } from "../../ir/payload.js";
import type { Attr, Body, Constant, Dim, Graph, Node, ValueId, ValueType, Verbatim } from "../../ir/types.js";
import { exportOpset, lookup } from "../../ops/registry.js";
import { type Chunk, chunkLength, Writer } from "./wire.js";

export const cannotWrite = defineError<{ what: string }>("P1150", "a model file cannot be written", ({ what }) => ({
  what,
  fix: "check the folder, its permissions and the room on the disk",
}));
export const tooLargeForOneBuffer = defineError<{ bytes: number }>("P1151", "a model is too large for one buffer", ({ bytes }) => ({
  what: `the model takes ${bytes} bytes`,
  why: "a protobuf message ends at 2 GiB",
  fix: "write it to a file, where its weights go into a data file beside it",
}));

/** The opsets ONNX Runtime 1.30 implements, and the lowest one Partita writes: old spellings are normalised upwards. */
export const LOWEST_OPSET = 18;
export const HIGHEST_OPSET = 26;
const PROTOBUF_LIMIT = 2 ** 31 - 1;
/** Above this a file's weights go out of line, with room left for the rest of the message. */
const INLINE_LIMIT = 2 ** 31 - 2 ** 26;
/** ONNX's recommendation for external data: page-aligned tensors can be mapped. */
const ALIGNMENT = 4096;

export interface ExportOptions {
  /** Put tensors of at least this many bytes into an external data file. Default: only when the model would pass 2 GiB. */
  readonly externalDataThreshold?: number | undefined;
}

interface External {
  readonly location: string;
  readonly threshold: number;
  readonly chunks: Chunk[];
  length: number;
}

/** The ai.onnx opset a graph is written in: at least its own, at least what each operator's spelling needs. */
export function opsetOf(g: Graph): number {
  let opset = Math.max(LOWEST_OPSET, Math.min(HIGHEST_OPSET, g.opsets[""] ?? LOWEST_OPSET));
  const visit = (graph: Graph): void => {
    for (const n of graph.nodes) {
      if (n.domain === "") opset = Math.max(opset, exportOpset("", n.op) ?? 0);
      for (const { body } of bodiesOf(n)) visit(body.graph);
    }
  };
  visit(g);
  return Math.min(opset, Math.max(HIGHEST_OPSET, g.opsets[""] ?? 0));
}

/** IR version: 10 (opset 21), or what the opset or an element type asks for. */
function irVersionOf(opset: number, types: ReadonlySet<number>): number {
  let version = 10;
  if (opset >= 23 || types.has(23)) version = Math.max(version, 11);
  if (opset >= 24 || types.has(24)) version = Math.max(version, 12);
  if (opset >= 25 || types.has(25) || types.has(26)) version = Math.max(version, 13);
  return version;
}

class ModelWriter {
  readonly w = new Writer();
  readonly #external: External | undefined;
  readonly types = new Set<number>();
  #scope = 0;
  /** Between a value's name and the number of its body: in no name of the model. */
  #mark = "@";
  readonly #nodeNames = new Set<string>();

  constructor(external: External | undefined) {
    this.#external = external;
  }

  model(g: Graph, opset: number): void {
    const { w } = this;
    // The graph goes into its own field after ir_version; types are only known once it is written, so it is written first elsewhere.
    const extra = g.extra;
    w.string(2, "partita");
    if (extra?.modelDomain !== undefined && extra.modelDomain !== "") w.string(4, extra.modelDomain);
    if (extra?.modelVersion !== undefined && extra.modelVersion !== 0) w.int64(5, extra.modelVersion);
    const domains = new Set<string>();
    const graphs: Graph[] = [];
    const visit = (graph: Graph): void => {
      graphs.push(graph);
      for (const n of graph.nodes) {
        domains.add(n.domain);
        for (const { body } of bodiesOf(n)) visit(body.graph);
      }
    };
    visit(g);
    domains.add("");
    if (graphs.length > 1)
      for (const { values } of graphs) for (const v of values) while (v?.name.includes(this.#mark) === true) this.#mark += "@";
    w.message(7, () => this.graph(g, new Map()));
    for (const domain of [...domains].sort()) {
      w.message(8, () => {
        if (domain !== "") w.string(1, domain);
        w.int64(2, domain === "" ? opset : Object.hasOwn(g.opsets, domain) ? (g.opsets[domain] ?? 1) : 1);
      });
    }
    w.uint(1, Math.max(irVersionOf(opset, this.types), Math.min(extra?.irVersion ?? 0, 13)));
    this.#verbatim(extra, 6, 14);
  }

  /** `outer`: names of the values a body captures, by its own ids. */
  graph(g: Graph, outer: ReadonlyMap<ValueId, string>): void {
    const { w } = this;
    // Names inside a body must not shadow names outside; a suffix per body keeps them apart.
    const suffix = this.#scope++ === 0 ? "" : `${this.#mark}${this.#scope - 1}`;
    const name = (v: ValueId): string => outer.get(v) ?? `${valueAt(g, v).name}${suffix}`;
    for (const n of g.nodes) w.message(1, () => this.#node(n, name));
    // A body may not hand out a value of the graph around it as it is: it goes through an Identity.
    const passed = new Map<ValueId, string>();
    for (const v of g.outputs) {
      const source = outer.get(v);
      if (source === undefined || passed.has(v)) continue;
      // Nothing else that is written has anything behind the number.
      const target = `${valueAt(g, v).name}${suffix}/passed`;
      passed.set(v, target);
      w.message(1, () => {
        w.string(1, source);
        w.string(2, target);
        w.string(4, "Identity");
      });
    }
    w.string(2, g.name === "" ? "graph" : g.name);
    for (const [id, c] of g.constants) {
      if (c.data.kind === "sparse") w.message(15, () => this.#sparse(c, name(id)));
      else w.message(5, () => this.#tensor(c, name(id)));
    }
    for (const v of g.inputs) w.message(11, () => this.#valueInfo(name(v), valueAt(g, v).type));
    if (suffix === "" && g.extra?.overridable !== undefined) {
      const names = new Set(g.extra.overridable);
      for (const id of g.constants.keys())
        if (names.has(valueAt(g, id).name)) w.message(11, () => this.#valueInfo(name(id), valueAt(g, id).type));
    }
    for (const v of g.outputs) w.message(12, () => this.#valueInfo(passed.get(v) ?? name(v), valueAt(g, v).type));
    // Nobody can infer what an unknown operator makes.
    for (const n of g.nodes)
      if (n.domain !== "" && lookup(n.domain, n.op) === undefined)
        for (const v of n.outs)
          if (v !== undefined && !g.outputs.includes(v) && valueAt(g, v).type.kind !== "unknown")
            w.message(13, () => this.#valueInfo(name(v), valueAt(g, v).type));
    if (suffix !== "") this.#verbatim(g.extra, 10, 16);
  }

  #node(n: Node, name: (v: ValueId) => string): void {
    const { w } = this;
    const last = (list: readonly (ValueId | undefined)[]): number => list.findLastIndex((v) => v !== undefined);
    for (const v of n.ins.slice(0, last(n.ins) + 1)) w.string(1, v === undefined ? "" : name(v));
    for (const v of n.outs.slice(0, last(n.outs) + 1)) w.string(2, v === undefined ? "" : name(v));
    if (n.name !== "") w.string(3, this.#uniqueName(n.name));
    w.string(4, n.op);
    for (const [key, a] of Object.entries(n.attrs)) w.message(5, () => this.#attribute(key, a, name));
    if (n.domain !== "") w.string(7, n.domain);
    if (n.overload !== undefined && n.overload !== "") w.string(8, n.overload);
    this.#verbatim(n.extra, 6, 9);
  }

  /** ONNX lets nodes share a name; ONNX Runtime's optimizers do not. */
  #uniqueName(name: string): string {
    let unique = name;
    for (let i = 1; this.#nodeNames.has(unique); i++) unique = `${name}.${i}`;
    this.#nodeNames.add(unique);
    return unique;
  }

  #attribute(key: string, a: Attr, name: (v: ValueId) => string): void {
    const { w } = this;
    const text = (field: number, s: string | Uint8Array): void => (typeof s === "string" ? w.string(field, s) : w.bytes(field, s));
    const body = (b: Body): void => this.graph(b.graph, new Map(b.graph.captures.map((inner, i) => [inner, name(b.captures[i] ?? inner)])));
    w.string(1, key);
    switch (a.kind) {
      case "float":
        w.float(2, a.value);
        break;
      case "int":
        w.int64(3, a.value);
        break;
      case "string":
        text(4, a.value);
        break;
      case "tensor":
        if (a.value.data.kind === "sparse") w.message(22, () => this.#sparse(a.value, ""));
        else w.message(5, () => this.#tensor(a.value, ""));
        break;
      case "graph":
        w.message(6, () => body(a.value));
        break;
      case "type":
        w.message(14, () => this.#type(a.value));
        break;
      case "floats":
        w.floats(7, a.value);
        break;
      case "ints":
        w.int64s(8, a.value);
        break;
      case "strings":
        w.strings(9, a.value);
        break;
      case "tensors":
        for (const t of a.value) w.message(10, () => this.#tensor(t, ""));
        break;
      case "graphs":
        for (const b of a.value) w.message(11, () => body(b));
        break;
      case "types":
        for (const t of a.value) w.message(15, () => this.#type(t));
        break;
      default:
        a satisfies never;
    }
    w.uint(20, a.kind === "tensor" && a.value.data.kind === "sparse" ? 11 : attributeTypes[a.kind]);
  }

  #tensor(c: Constant, name: string): void {
    const { w } = this;
    for (const d of c.dims) w.int64(1, d);
    w.uint(2, onnxNumber(c.dtype));
    this.types.add(onnxNumber(c.dtype));
    if (name !== "") w.string(8, name);
    if (c.data.kind === "strings") {
      for (const s of c.data.values) w.bytes(6, s);
      return;
    }
    const e = this.#external;
    if (e !== undefined && name !== "" && payloadLength(c.data) >= e.threshold) {
      const chunk = chunkOf(c);
      const padding = (ALIGNMENT - (e.length % ALIGNMENT)) % ALIGNMENT;
      if (padding > 0) e.chunks.push(new Uint8Array(padding));
      const offset = e.length + padding;
      e.chunks.push(chunk);
      e.length = offset + chunkLength(chunk);
      for (const [key, value] of [
        ["location", e.location],
        ["offset", String(offset)],
        ["length", String(chunkLength(chunk))],
      ] as const) {
        w.message(13, () => {
          w.string(1, key);
          w.string(2, value);
        });
      }
      w.uint(14, 1);
      return;
    }
    const chunk = chunkOf(c);
    if (chunk instanceof Uint8Array) w.bytes(9, chunk);
    else w.range(9, chunk);
  }

  #sparse(c: Constant, name: string): void {
    const data = c.data;
    if (data.kind !== "sparse") return;
    const { w } = this;
    w.message(1, () => this.#tensor(data.values, name));
    w.message(2, () => this.#tensor(data.indices, ""));
    for (const d of c.dims) w.int64(3, d);
  }

  #valueInfo(name: string, type: ValueType): void {
    this.w.string(1, name);
    if (type.kind !== "unknown") this.w.message(2, () => this.#type(type));
  }

  #type(t: ValueType): void {
    const { w } = this;
    switch (t.kind) {
      case "tensor":
      case "sparse":
        this.types.add(onnxNumber(t.dtype));
        w.message(t.kind === "tensor" ? 1 : 8, () => {
          w.uint(1, onnxNumber(t.dtype));
          const shape = t.shape;
          if (shape !== undefined)
            w.message(2, () => {
              for (const d of shape) w.message(1, () => this.#dim(d));
            });
        });
        break;
      case "sequence":
        w.message(4, () => w.message(1, () => this.#type(t.of)));
        break;
      case "optional":
        w.message(9, () => w.message(1, () => this.#type(t.of)));
        break;
      case "map":
        w.message(5, () => {
          w.uint(1, onnxNumber(t.key));
          w.message(2, () => this.#type(t.of));
        });
        break;
      case "opaque":
        w.message(7, () => {
          w.string(1, t.domain);
          w.string(2, t.name);
        });
        break;
      case "unknown":
        break;
      default:
        t satisfies never;
    }
  }
  #dim(d: Dim): void {
    if (typeof d === "number") this.w.int64(1, d);
    else if (d !== "?") this.w.string(2, d.startsWith("`") && d.endsWith("`") ? d.slice(1, -1) : d);
  }

  #verbatim(v: Verbatim | undefined, doc: number, metadata: number): void {
    const { w } = this;
    if (v?.doc !== undefined && v.doc !== "") w.string(doc, v.doc);
    for (const [key, value] of v?.metadata ?? []) {
      w.message(metadata, () => {
        w.string(1, key);
        w.string(2, value);
      });
    }
    if (v?.unknown !== undefined) w.raw(v.unknown);
  }
}

const attributeTypes: Readonly<Record<Attr["kind"], number>> = {
  float: 1,
  int: 2,
  string: 3,
  tensor: 4,
  graph: 5,
  floats: 6,
  ints: 7,
  strings: 8,
  tensors: 9,
  graphs: 10,
  type: 13,
  types: 14,
};

function chunkOf(c: Constant): Chunk {
  if (c.data.kind === "file") return { path: c.data.path, offset: c.data.offset, length: c.data.length };
  return bytesOf(c);
}

/** The model as chunks in order: views of the weights and ranges of files between freshly written bytes. */
export function onnxChunks(g: Graph): readonly Chunk[] {
  const writer = new ModelWriter(undefined);
  writer.model(g, opsetOf(g));
  return writer.w.chunks();
}

/** The model as one buffer. Throws P1151 past 2 GiB. */
export function encodeOnnx(g: Graph): Uint8Array {
  const chunks = onnxChunks(g);
  const bytes = chunks.reduce((a, c) => a + chunkLength(c), 0);
  if (bytes > PROTOBUF_LIMIT) throw tooLargeForOneBuffer({ bytes });
  const out = new Uint8Array(bytes);
  let at = 0;
  for (const c of chunks) {
    out.set(c instanceof Uint8Array ? c : readRange(c.path, c.offset, c.length), at);
    at += chunkLength(c);
  }
  return out;
}

/**
 * Writes `path`, and `<name>.data` beside it when weights go out of line. Both appear whole or not at all: they are written under temporary
 * names, flushed, then renamed, the data file first. Throws P1150.
 */
export function writeOnnx(g: Graph, path: string, options: ExportOptions = {}): void {
  let weights = 0;
  for (const c of g.constants.values()) weights += payloadLength(c.data);
  const threshold = options.externalDataThreshold ?? (weights > INLINE_LIMIT ? ALIGNMENT : Number.POSITIVE_INFINITY);
  const external: External | undefined = Number.isFinite(threshold)
    ? { location: `${basename(path)}.data`, threshold, chunks: [], length: 0 }
    : undefined;
  const writer = new ModelWriter(external);
  writer.model(g, opsetOf(g));
  const file = (at: string, chunks: readonly Chunk[]) => ({ path: at, content: (temporary: string) => writeChunks(temporary, chunks) });
  const files = [file(path, writer.w.chunks())];
  if (external !== undefined && external.length > 0) files.unshift(file(join(dirname(path), external.location), external.chunks));
  try {
    replaceFiles(files);
  } catch (cause) {
    if (cause instanceof Error && "syscall" in cause) throw cannotWrite({ what: cause.message }, { file: path }, cause);
    throw cause;
  }
}

/** Writes chunks to a new file and flushes it; file ranges are copied through a bounded buffer. */
export function writeChunks(path: string, chunks: Iterable<Chunk>): void {
  const file = openSync(path, "wx");
  try {
    let batch: Uint8Array[] = [];
    const flush = (): void => {
      let rest = batch;
      while (rest.length > 0) {
        let written = writevSync(file, rest.slice(0, 512));
        let i = 0;
        for (; i < rest.length; i++) {
          const length = (rest[i] as Uint8Array).length;
          if (written < length) break;
          written -= length;
        }
        rest = rest.slice(i);
        if (written > 0 && rest[0] !== undefined) rest[0] = rest[0].subarray(written);
      }
      batch = [];
    };
    for (const c of chunks) {
      if (c instanceof Uint8Array) {
        // One writev call takes below 2 GiB.
        for (let at = 0; at < c.length; at += 1 << 30) batch.push(c.subarray(at, Math.min(c.length, at + (1 << 30))));
        if (batch.length >= 512 || c.length > 1 << 28) flush();
        continue;
      }
      flush();
      for (let at = 0; at < c.length; at += 1 << 26) {
        const piece = readRange(c.path, c.offset + at, Math.min(1 << 26, c.length - at));
        for (let done = 0; done < piece.length; ) done += writeSync(file, piece, done);
      }
    }
    flush();
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}
