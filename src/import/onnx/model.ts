/**
 * Decodes a ModelProto into plain records, without building a graph: names are still text, payloads are views or file ranges. Field
 * numbers are those of onnx.proto (IR version 13).
 */
import { defineError } from "../../diagnostics.js";
import { symbol, UNKNOWN } from "../../ir/dims.js";
import { byteLength, dtypeFromOnnx } from "../../ir/dtypes.js";
import { elementCount } from "../../ir/payload.js";
import type { Constant, Dim, DType, Payload, ValueType } from "../../ir/types.js";
import { BYTES, Cursor, FIXED32, VARINT } from "./wire.js";

export const tooDeep = defineError<{ limit: number }>("P1202", "a model is nested too deep", ({ limit }) => ({
  what: `types or control-flow bodies are nested more than ${limit} deep`,
  fix: "flatten the model, or export it again",
}));
export const badTensorProto = defineError<{ what: string }>("P1203", "a tensor in a model is malformed", ({ what }) => ({
  what,
  fix: "export the model again; the tensor is damaged or written by a faulty tool",
}));
export const badType = defineError<{ what: string }>("P1204", "a type in a model is malformed", ({ what }) => ({
  what,
  fix: "export the model again with a current exporter",
}));
export const badText = defineError<{ what: string }>("P1205", "a name in a model is not UTF-8", ({ what }) => ({
  what,
  fix: "export the model again with names in UTF-8",
}));

const MAX_DEPTH = 64;
/** Marks, in the skeleton of a file read by ranges, a raw_data that stayed in the file: 16 bytes, offset and length. */
export const RANGE_FIELD = 300_001;

export interface RawAttr {
  readonly name: string;
  /** AttributeProto.AttributeType; 0 when the file does not say. */
  type: number;
  f?: number;
  i?: number | bigint;
  s?: Uint8Array;
  t?: Constant;
  g?: RawGraph;
  tp?: ValueType;
  floats?: number[];
  ints?: (number | bigint)[];
  strings?: Uint8Array[];
  tensors?: Constant[];
  graphs?: RawGraph[];
  types?: ValueType[];
  sparse?: Constant;
  ref?: string;
}
export interface RawNodeProto {
  readonly ins: string[];
  readonly outs: string[];
  name: string;
  op: string;
  domain: string;
  overload: string;
  attrs: RawAttr[] | undefined;
  doc: string | undefined;
  metadata: [string, string][] | undefined;
  unknown: Uint8Array | undefined;
}
/** A graph's nodes in the file's order. Those of a whole model are decoded when asked for, so that they need not all be in memory at once. */
export interface RawNodes extends Iterable<RawNodeProto> {
  readonly length: number;
  /** The output names of each node. */
  outputs(): Iterable<readonly string[]>;
}
export interface RawGraph {
  name: string;
  nodes: RawNodes;
  initializers: { readonly name: string; readonly constant: Constant }[];
  inputs: { readonly name: string; readonly type: ValueType }[];
  outputs: { readonly name: string; readonly type: ValueType }[];
  valueInfo: Map<string, ValueType>;
  doc: string | undefined;
  metadata: [string, string][] | undefined;
  unknown: Uint8Array | undefined;
}
export interface RawFunction {
  name: string;
  domain: string;
  overload: string;
  ins: string[];
  outs: string[];
  attrs: string[];
  defaults: RawAttr[];
  nodes: RawNodeProto[];
  opsets: Map<string, number>;
}
export interface RawModel {
  irVersion: number;
  producer: [string, string];
  domain: string;
  version: number;
  doc: string | undefined;
  graph: RawGraph | undefined;
  opsets: Map<string, number>;
  functions: RawFunction[];
  metadata: [string, string][] | undefined;
  unknown: Uint8Array | undefined;
}

/** Resolves an external-data reference of the tensor `name` into a payload, or throws. */
export type ExternalData = (entries: ReadonlyMap<string, string>, bytes: number, name: string) => Payload;

class DecodedNodes extends Array<RawNodeProto> implements RawNodes {
  *outputs(): Iterable<readonly string[]> {
    for (const n of this) yield n.outs;
  }
}

class LazyNodes implements RawNodes {
  readonly #decoder: Decoder;
  readonly #messages: Cursor[] = [];

  constructor(decoder: Decoder) {
    this.#decoder = decoder;
  }
  get length(): number {
    return this.#messages.length;
  }
  add(message: Cursor): void {
    this.#messages.push(message);
  }
  *outputs(): Iterable<readonly string[]> {
    for (const m of this.#messages) {
      const outs: string[] = [];
      const c = m.again();
      while (c.next()) {
        if (c.field === 2) outs.push(this.#decoder.text(c));
        else c.skip();
      }
      yield outs;
    }
  }
  *[Symbol.iterator](): Iterator<RawNodeProto> {
    for (const m of this.#messages) yield this.#decoder.node(m.again());
  }
}

/** ASCII strings by their bytes: an open-addressing table, probed linearly. */
class Names {
  #slots = new Int32Array(1 << 12);
  readonly #strings: string[] = [""];
  readonly #hashes: number[] = [0];

  take(bytes: Uint8Array, from: number, n: number, hash: number): string {
    if (n === 0) return "";
    const mask = this.#slots.length - 1;
    for (let at = hash & mask; ; at = (at + 1) & mask) {
      const k = this.#slots[at] as number;
      if (k === 0) return this.#add(bytes, from, n, hash, at);
      if (this.#hashes[k] !== hash) continue;
      const s = this.#strings[k] as string;
      if (s.length !== n) continue;
      let i = 0;
      while (i < n && s.charCodeAt(i) === bytes[from + i]) i++;
      if (i === n) return s;
    }
  }
  #add(bytes: Uint8Array, from: number, n: number, hash: number, at: number): string {
    const s = Buffer.prototype.latin1Slice.call(bytes, from, from + n);
    const k = this.#strings.length;
    this.#strings.push(s);
    this.#hashes.push(hash);
    this.#slots[at] = k;
    if (k * 2 > this.#slots.length) this.#grow();
    return s;
  }
  #grow(): void {
    const slots = new Int32Array(this.#slots.length * 2);
    const mask = slots.length - 1;
    for (let k = 1; k < this.#strings.length; k++) {
      let at = (this.#hashes[k] as number) & mask;
      while (slots[at] !== 0) at = (at + 1) & mask;
      slots[at] = k;
    }
    this.#slots = slots;
  }
}

export class Decoder {
  readonly #file: string | undefined;
  readonly #external: ExternalData;
  /** The file behind a skeleton; undefined when all bytes are at hand. */
  readonly #ranges: string | undefined;
  readonly #interned = new Map<string, string>();
  readonly #names = new Names();
  readonly #decoder = new TextDecoder("utf-8", { fatal: true });
  #depth = 0;

  constructor(file: string | undefined, external: ExternalData, ranges?: string | undefined) {
    this.#file = file;
    this.#external = external;
    this.#ranges = ranges;
  }

  model(bytes: Uint8Array): RawModel {
    const c = new Cursor(bytes, 0, bytes.length, this.#file);
    const m: RawModel = {
      irVersion: 0,
      producer: ["", ""],
      domain: "",
      version: 0,
      doc: undefined,
      graph: undefined,
      opsets: new Map(),
      functions: [],
      metadata: undefined,
      unknown: undefined,
    };
    while (c.next()) {
      switch (c.field) {
        case 1:
          m.irVersion = this.#number(c);
          break;
        case 2:
          m.producer[0] = this.text(c);
          break;
        case 3:
          m.producer[1] = this.text(c);
          break;
        case 4:
          m.domain = this.text(c);
          break;
        case 5:
          m.version = this.#number(c);
          break;
        case 6:
          m.doc = this.text(c);
          break;
        case 7:
          m.graph = this.#graph(c.message(), true);
          break;
        case 8:
          this.#opset(c.message(), m.opsets);
          break;
        case 14:
          m.metadata = this.#entry(c.message(), m.metadata);
          break;
        case 25:
          m.functions.push(this.#function(c.message()));
          break;
        default:
          m.unknown = concat(m.unknown, c.skip());
      }
    }
    return m;
  }

  text(c: Cursor): string {
    const n = c.length();
    const from = c.at;
    c.at += n;
    const { bytes } = c;
    // Names come again and again: one that is known is found by its bytes, and no string is made of them.
    let hash = 0x811c9dc5;
    let ascii = true;
    for (let i = from; i < from + n; i++) {
      const byte = bytes[i] as number;
      if (byte > 127) {
        ascii = false;
        break;
      }
      hash = Math.imul(hash ^ byte, 0x01000193);
    }
    if (ascii) return this.#names.take(bytes, from, n, hash >>> 0);
    try {
      const s = this.#decoder.decode(bytes.subarray(from, from + n));
      const known = this.#interned.get(s);
      if (known !== undefined) return known;
      this.#interned.set(s, s);
      return s;
    } catch (cause) {
      throw badText({ what: `the ${n} bytes of field ${c.field} are not UTF-8` }, { file: this.#file, offset: from }, cause);
    }
  }

  #number(c: Cursor): number {
    if (c.type !== VARINT) c.fail(`field ${c.field} has wire type ${c.type}, a varint is expected`);
    return c.int();
  }

  #opset(c: Cursor, into: Map<string, number>): void {
    let domain = "";
    let version = 0;
    while (c.next()) {
      if (c.field === 1) domain = this.text(c);
      else if (c.field === 2) version = this.#number(c);
      else c.skip();
    }
    into.set(domain === "ai.onnx" ? "" : domain, version);
  }

  #entry(c: Cursor, list: [string, string][] | undefined): [string, string][] {
    const pair: [string, string] = ["", ""];
    while (c.next()) {
      if (c.field === 1) pair[0] = this.text(c);
      else if (c.field === 2) pair[1] = this.text(c);
      else c.skip();
    }
    if (list === undefined) return [pair];
    list.push(pair);
    return list;
  }

  /** `lazy`: nodes are decoded in passes over the bytes; those of bodies are decoded once, as a body in a body would be decoded again and again. */
  #graph(c: Cursor, lazy = false): RawGraph {
    const nodes = lazy ? new LazyNodes(this) : new DecodedNodes();
    if (++this.#depth > MAX_DEPTH) throw tooDeep({ limit: MAX_DEPTH }, { file: this.#file, offset: c.at });
    const g: RawGraph = {
      name: "",
      nodes,
      initializers: [],
      inputs: [],
      outputs: [],
      valueInfo: new Map(),
      doc: undefined,
      metadata: undefined,
      unknown: undefined,
    };
    while (c.next()) {
      switch (c.field) {
        case 1:
          if (nodes instanceof LazyNodes) nodes.add(c.message());
          else nodes.push(this.node(c.message()));
          break;
        case 2:
          g.name = this.text(c);
          break;
        case 5: {
          const { name, constant } = this.#tensor(c.message());
          g.initializers.push({ name, constant });
          break;
        }
        case 10:
          g.doc = this.text(c);
          break;
        case 11:
          g.inputs.push(this.#valueInfo(c.message()));
          break;
        case 12:
          g.outputs.push(this.#valueInfo(c.message()));
          break;
        case 13: {
          const v = this.#valueInfo(c.message());
          g.valueInfo.set(v.name, v.type);
          break;
        }
        case 15: {
          const { name, constant } = this.#sparse(c.message());
          g.initializers.push({ name, constant });
          break;
        }
        case 16:
          g.metadata = this.#entry(c.message(), g.metadata);
          break;
        default:
          g.unknown = concat(g.unknown, c.skip());
      }
    }
    this.#depth--;
    return g;
  }

  /** One NodeProto. */
  node(c: Cursor): RawNodeProto {
    const n: RawNodeProto = {
      ins: [],
      outs: [],
      name: "",
      op: "",
      domain: "",
      overload: "",
      attrs: undefined,
      doc: undefined,
      metadata: undefined,
      unknown: undefined,
    };
    while (c.next()) {
      switch (c.field) {
        case 1:
          n.ins.push(this.text(c));
          break;
        case 2:
          n.outs.push(this.text(c));
          break;
        case 3:
          n.name = this.text(c);
          break;
        case 4:
          n.op = this.text(c);
          break;
        case 5:
          (n.attrs ??= []).push(this.#attribute(c.message()));
          break;
        case 6:
          n.doc = this.text(c);
          break;
        case 7: {
          const domain = this.text(c);
          n.domain = domain === "ai.onnx" ? "" : domain;
          break;
        }
        case 8:
          n.overload = this.text(c);
          break;
        case 9:
          n.metadata = this.#entry(c.message(), n.metadata);
          break;
        default:
          n.unknown = concat(n.unknown, c.skip());
      }
    }
    return n;
  }

  #attribute(c: Cursor): RawAttr {
    const a: RawAttr = { name: "", type: 0 };
    let name = "";
    while (c.next()) {
      switch (c.field) {
        case 1:
          name = this.text(c);
          break;
        case 2:
          a.f = this.#float(c);
          break;
        case 3:
          a.i = this.#int64(c);
          break;
        case 4:
          a.s = c.view();
          break;
        case 5:
          a.t = this.#tensor(c.message()).constant;
          break;
        case 6:
          a.g = this.#graph(c.message());
          break;
        case 7:
          this.#floats(c, (a.floats ??= []));
          break;
        case 8:
          this.#ints(c, (a.ints ??= []));
          break;
        case 9:
          (a.strings ??= []).push(c.view());
          break;
        case 10:
          (a.tensors ??= []).push(this.#tensor(c.message()).constant);
          break;
        case 11:
          (a.graphs ??= []).push(this.#graph(c.message()));
          break;
        case 14:
          a.tp = this.#type(c.message(), 0);
          break;
        case 15:
          (a.types ??= []).push(this.#type(c.message(), 0));
          break;
        case 20:
          a.type = this.#number(c);
          break;
        case 21:
          a.ref = this.text(c);
          break;
        case 22:
          a.sparse = this.#sparse(c.message()).constant;
          break;
        default:
          c.skip();
      }
    }
    return Object.assign(a, { name });
  }

  #float(c: Cursor): number {
    if (c.type !== FIXED32) c.fail(`field ${c.field} has wire type ${c.type}, a 32-bit one is expected`);
    return c.float();
  }
  #int64(c: Cursor): number | bigint {
    if (c.type !== VARINT) c.fail(`field ${c.field} has wire type ${c.type}, a varint is expected`);
    return c.int64();
  }
  #floats(c: Cursor, into: number[]): void {
    if (c.type === BYTES) {
      const sub = c.message();
      while (sub.at < sub.end) into.push(sub.float());
    } else into.push(this.#float(c));
  }
  #ints(c: Cursor, into: (number | bigint)[]): void {
    if (c.type === BYTES) {
      const sub = c.message();
      while (sub.at < sub.end) into.push(sub.int64());
    } else into.push(this.#int64(c));
  }

  #function(c: Cursor): RawFunction {
    const f: RawFunction = { name: "", domain: "", overload: "", ins: [], outs: [], attrs: [], defaults: [], nodes: [], opsets: new Map() };
    while (c.next()) {
      switch (c.field) {
        case 1:
          f.name = this.text(c);
          break;
        case 4:
          f.ins.push(this.text(c));
          break;
        case 5:
          f.outs.push(this.text(c));
          break;
        case 6:
          f.attrs.push(this.text(c));
          break;
        case 7:
          f.nodes.push(this.node(c.message()));
          break;
        case 9:
          this.#opset(c.message(), f.opsets);
          break;
        case 10: {
          const domain = this.text(c);
          f.domain = domain === "ai.onnx" ? "" : domain;
          break;
        }
        case 11:
          f.defaults.push(this.#attribute(c.message()));
          break;
        case 13:
          f.overload = this.text(c);
          break;
        default:
          c.skip();
      }
    }
    return f;
  }

  // ---- types ----------------------------------------------------------------------------------------------------------------------------

  #valueInfo(c: Cursor): { name: string; type: ValueType } {
    let name = "";
    let type: ValueType = { kind: "unknown" };
    while (c.next()) {
      if (c.field === 1) name = this.text(c);
      else if (c.field === 2) type = this.#type(c.message(), 0);
      else c.skip();
    }
    return { name, type };
  }

  #type(c: Cursor, depth: number): ValueType {
    if (depth > MAX_DEPTH) throw tooDeep({ limit: MAX_DEPTH }, { file: this.#file, offset: c.at });
    let type: ValueType = { kind: "unknown" };
    while (c.next()) {
      switch (c.field) {
        case 1:
        case 8: {
          const kind = c.field === 1 ? "tensor" : "sparse";
          const t = this.#tensorType(c.message());
          type = t === undefined ? { kind: "unknown" } : { kind, ...t };
          break;
        }
        case 4:
          type = { kind: "sequence", of: this.#elementType(c.message(), depth) };
          break;
        case 9:
          type = { kind: "optional", of: this.#elementType(c.message(), depth) };
          break;
        case 5: {
          const sub = c.message();
          let key: DType = "int64";
          let of: ValueType = { kind: "unknown" };
          while (sub.next()) {
            if (sub.field === 1) key = this.#dtype(sub) ?? "int64";
            else if (sub.field === 2) of = this.#type(sub.message(), depth + 1);
            else sub.skip();
          }
          type = { kind: "map", key, of };
          break;
        }
        case 7: {
          const sub = c.message();
          let [domain, name] = ["", ""];
          while (sub.next()) {
            if (sub.field === 1) domain = this.text(sub);
            else if (sub.field === 2) name = this.text(sub);
            else sub.skip();
          }
          type = { kind: "opaque", domain, name };
          break;
        }
        default:
          c.skip();
      }
    }
    return type;
  }
  #elementType(c: Cursor, depth: number): ValueType {
    let of: ValueType = { kind: "unknown" };
    while (c.next()) {
      if (c.field === 1) of = this.#type(c.message(), depth + 1);
      else c.skip();
    }
    return of;
  }
  /** 0 (undefined) is legal and means unknown. */
  #dtype(c: Cursor): DType | undefined {
    const at = c.at;
    const n = this.#number(c);
    if (n === 0) return undefined;
    const dtype = dtypeFromOnnx(n);
    if (dtype === undefined) throw badType({ what: `element type ${n} is unknown` }, { file: this.#file, offset: at });
    return dtype;
  }
  #tensorType(c: Cursor): { dtype: DType; shape: readonly Dim[] | undefined } | undefined {
    let dtype: DType | undefined;
    let shape: Dim[] | undefined;
    while (c.next()) {
      if (c.field === 1) dtype = this.#dtype(c);
      else if (c.field === 2) {
        shape = [];
        const dims = c.message();
        while (dims.next()) {
          if (dims.field !== 1) {
            dims.skip();
            continue;
          }
          const d = dims.message();
          let dim: Dim = UNKNOWN;
          while (d.next()) {
            if (d.field === 1) {
              const n = this.#number(d);
              // Exporters write -1 (and TensorFlow's converters 0) for "unknown"; only negatives are taken so.
              dim = n < 0 ? UNKNOWN : n;
            } else if (d.field === 2) {
              // Some exporters write numbers as text.
              dim = symbol(this.text(d));
              if (typeof dim === "number" && dim < 0) dim = UNKNOWN;
            } else d.skip();
          }
          shape.push(dim);
        }
      } else c.skip();
    }
    return dtype === undefined ? undefined : { dtype, shape };
  }

  // ---- tensors --------------------------------------------------------------------------------------------------------------------------

  #sparse(c: Cursor): { name: string; constant: Constant } {
    const start = c.at;
    let values: { name: string; constant: Constant } | undefined;
    let indices: Constant | undefined;
    const dims: number[] = [];
    while (c.next()) {
      if (c.field === 1) values = this.#tensor(c.message());
      else if (c.field === 2) indices = this.#tensor(c.message()).constant;
      else if (c.field === 3) this.#ints(c, dims as (number | bigint)[]);
      else c.skip();
    }
    const where = { file: this.#file, offset: start, value: values?.name };
    const size = elementCount(dims);
    const nnz = values?.constant.dims[0] ?? 0;
    if (values === undefined || indices === undefined || size === undefined)
      throw badTensorProto({ what: "a sparse tensor lacks its values, its indices or legal dims" }, where);
    const rank = indices.dims.length;
    const fits = indices.dtype === "int64" && indices.dims[0] === nnz && (rank === 1 || (rank === 2 && indices.dims[1] === dims.length));
    if (values.constant.dims.length !== 1 || !fits || nnz > size || size > 2 ** 31)
      throw badTensorProto(
        { what: `a sparse tensor of dims [${dims}] has values [${values.constant.dims}] and indices [${indices.dims}]` },
        where,
      );
    return {
      name: values.name,
      constant: { dtype: values.constant.dtype, dims, data: { kind: "sparse", values: values.constant, indices } },
    };
  }

  #tensor(c: Cursor): { name: string; constant: Constant } {
    const start = c.at;
    const end = c.end;
    let name = "";
    let number = 0;
    const dims: (number | bigint)[] = [];
    let raw: Payload | undefined;
    let fields = false;
    let strings: Uint8Array[] | undefined;
    let external: Map<string, string> | undefined;
    let location = 0;
    while (c.next()) {
      switch (c.field) {
        case 1:
          this.#ints(c, dims);
          break;
        case 2:
          number = this.#number(c);
          break;
        case 6:
          (strings ??= []).push(c.view());
          break;
        case 8:
          name = this.text(c);
          break;
        case 9:
          raw = { kind: "bytes", bytes: c.view() };
          break;
        case 13: {
          const [pair] = this.#entry(c.message(), undefined);
          if (pair !== undefined) (external ??= new Map()).set(pair[0], pair[1]);
          break;
        }
        case 14:
          location = this.#number(c);
          break;
        case 4:
        case 5:
        case 7:
        case 10:
        case 11:
          fields = true;
          c.skip();
          break;
        case RANGE_FIELD:
          if (this.#ranges !== undefined) {
            const v = c.view();
            const view = new DataView(v.buffer, v.byteOffset, 16);
            raw = {
              kind: "file",
              path: this.#ranges,
              offset: Number(view.getBigUint64(0, true)),
              length: Number(view.getBigUint64(8, true)),
            };
          } else c.skip();
          break;
        default:
          c.skip();
      }
    }
    const where = { file: this.#file, offset: start, value: name === "" ? undefined : name };
    const dtype = dtypeFromOnnx(number);
    if (dtype === undefined) throw badTensorProto({ what: `its element type ${number} is unknown` }, where);
    const shape = dims.map(Number);
    const count = elementCount(shape);
    if (count === undefined)
      throw badTensorProto({ what: `its dims [${dims.join(", ")}] are not natural numbers with a representable product` }, where);
    const done = (data: Payload): { name: string; constant: Constant } => ({ name, constant: { dtype, dims: shape, data } });
    if (dtype === "string") {
      const values = strings ?? [];
      if (values.length !== count)
        throw badTensorProto({ what: `dims [${shape}] ask for ${count} strings, ${values.length} are there` }, where);
      return done({ kind: "strings", values });
    }
    const needs = byteLength(dtype, count);
    if (location === 1) return done(this.#external(external ?? new Map(), needs, name));
    if (raw !== undefined) {
      const has = raw.kind === "bytes" ? raw.bytes.length : raw.kind === "file" ? raw.length : 0;
      if (has !== needs)
        throw badTensorProto({ what: `a ${dtype} tensor of dims [${shape}] needs ${needs} bytes, raw_data has ${has}` }, where);
      return done(raw);
    }
    if (count === 0) return done({ kind: "bytes", bytes: new Uint8Array(0) });
    if (!fields) throw badTensorProto({ what: `a ${dtype} tensor of dims [${shape}] has no data` }, where);
    return done(this.#typedFields(c.bytes, start, end, dtype, count, where));
  }

  /** Data in the typed repeated fields: packed floats and doubles are views, varints are decoded when asked for. */
  #typedFields(
    bytes: Uint8Array,
    start: number,
    end: number,
    dtype: DType,
    count: number,
    where: { file: string | undefined; offset: number; value: string | undefined },
  ): Payload {
    const field = typedField(dtype);
    const fail = (has: number): never => {
      throw badTensorProto({ what: `its dims ask for ${count} ${dtype} elements, ${has} are in the data field` }, where);
    };
    // One packed run of fixed-size numbers is already the payload.
    const runs: Uint8Array[] = [];
    let elements = 0;
    const c = new Cursor(bytes, start, end, this.#file);
    while (c.next()) {
      if (c.field !== field) {
        c.skip();
        continue;
      }
      if (c.type === BYTES) {
        const run = c.view();
        runs.push(run);
        elements += field === 4 ? run.length / 4 : field === 10 ? run.length / 8 : varints(run);
      } else {
        const from = c.at;
        c.skip();
        runs.push(bytes.subarray(from, c.at));
        elements++;
      }
    }
    const perEntry = dtype === "complex64" || dtype === "complex128" ? 2 : 1;
    // 4-bit and 2-bit elements: each int32 entry holds one packed byte.
    const expected = dtypeIsPacked(dtype) ? byteLength(dtype, count) : count * perEntry;
    if (elements !== expected) fail(elements);
    const [only] = runs;
    if (runs.length === 1 && only !== undefined && (field === 4 || field === 10)) return { kind: "bytes", bytes: only };
    const length = byteLength(dtype, count);
    return { kind: "lazy", length, read: () => decodeRuns(runs, field, dtype, length) };
  }
}

function dtypeIsPacked(d: DType): boolean {
  return d === "int4" || d === "uint4" || d === "float4e2m1" || d === "int2" || d === "uint2";
}
/** TensorProto field that holds a dtype's elements when raw_data does not. */
function typedField(d: DType): number {
  switch (d) {
    case "float32":
    case "complex64":
      return 4;
    case "int64":
      return 7;
    case "float64":
    case "complex128":
      return 10;
    case "uint32":
    case "uint64":
      return 11;
    default:
      return 5;
  }
}
function varints(run: Uint8Array): number {
  let n = 0;
  for (const b of run) if (b < 128) n++;
  return n;
}
function decodeRuns(runs: readonly Uint8Array[], field: number, dtype: DType, length: number): Uint8Array {
  const out = new Uint8Array(length);
  if (field === 4 || field === 10) {
    let at = 0;
    for (const r of runs) {
      out.set(r, at);
      at += r.length;
    }
    return out;
  }
  const view = new DataView(out.buffer);
  const width = dtypeIsPacked(dtype)
    ? 1
    : dtype === "int64" || dtype === "uint64"
      ? 8
      : dtype === "int32" || dtype === "uint32"
        ? 4
        : dtype.endsWith("16")
          ? 2
          : 1;
  let at = 0;
  for (const r of runs) {
    const c = new Cursor(r, 0, r.length, undefined);
    while (c.at < c.end) {
      const x = c.int64();
      if (width === 8) view.setBigInt64(at, BigInt.asIntN(64, BigInt(x)), true);
      else if (width === 4) view.setInt32(at, Number(BigInt.asIntN(32, BigInt(x))), true);
      else if (width === 2) view.setUint16(at, Number(BigInt.asUintN(16, BigInt(x))), true);
      else view.setUint8(at, Number(BigInt.asUintN(8, BigInt(x))));
      at += width;
    }
  }
  return out;
}
function concat(a: Uint8Array | undefined, b: Uint8Array): Uint8Array {
  if (a === undefined) return b.slice();
  const out = new Uint8Array(a.length + b.length);
  out.set(a);
  out.set(b, a.length);
  return out;
}
