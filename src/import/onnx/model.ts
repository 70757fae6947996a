/**
 * Decodes a ModelProto into plain records, without building a graph: the names of values are numbers (names.ts), payloads are views or file
 * ranges. Field numbers are those of onnx.proto (IR version 13).
 */
import { defineError } from "../../diagnostics.js";
import { symbol, UNKNOWN } from "../../ir/dims.js";
import { byteLength, dtypeFromOnnx } from "../../ir/dtypes.js";
import { elementCount } from "../../ir/payload.js";
import type { Constant, Dim, DType, Payload, ValueType } from "../../ir/types.js";
import { type NameId, Names } from "./names.js";
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
  readonly ins: NameId[];
  readonly outs: NameId[];
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
  /** The output names of all nodes, in order. */
  outputs(): Iterable<NameId>;
}
export interface RawGraph {
  name: string;
  nodes: RawNodes;
  initializers: { readonly name: NameId; readonly constant: Constant }[];
  inputs: { readonly name: NameId; readonly type: ValueType }[];
  outputs: { readonly name: NameId; readonly type: ValueType }[];
  valueInfo: Map<NameId, ValueType>;
  doc: string | undefined;
  metadata: [string, string][] | undefined;
  unknown: Uint8Array | undefined;
}
export interface RawFunction {
  name: string;
  domain: string;
  overload: string;
  ins: NameId[];
  outs: NameId[];
  attrs: string[];
  defaults: RawAttr[];
  nodes: RawNodeProto[];
  opsets: Map<string, number>;
}
export interface RawModel {
  /** What the numbers of names stand for. */
  readonly names: Names;
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
  *outputs(): Iterable<NameId> {
    for (const n of this) yield* n.outs;
  }
}

/** Where each node's message lies; both walks read the bytes anew with one cursor. */
class LazyNodes implements RawNodes {
  readonly #decoder: Decoder;
  readonly #whole: Cursor;
  readonly #starts: number[] = [];
  readonly #ends: number[] = [];

  constructor(decoder: Decoder, whole: Cursor) {
    this.#decoder = decoder;
    this.#whole = whole;
  }
  get length(): number {
    return this.#starts.length;
  }
  add(start: number, end: number): void {
    this.#starts.push(start);
    this.#ends.push(end);
  }
  *outputs(): Iterable<NameId> {
    const c = this.#whole.over(0, 0);
    for (let i = 0; i < this.#starts.length; i++) {
      c.move(this.#starts[i] as number, this.#ends[i] as number);
      while (c.next()) {
        if (c.field === 2) yield this.#decoder.name(c);
        else c.step();
      }
    }
  }
  *[Symbol.iterator](): Iterator<RawNodeProto> {
    const c = this.#whole.over(0, 0);
    for (let i = 0; i < this.#starts.length; i++) {
      c.move(this.#starts[i] as number, this.#ends[i] as number);
      yield this.#decoder.node(c);
    }
  }
}

export class Decoder {
  readonly #file: string | undefined;
  readonly #external: ExternalData;
  /** The file behind a skeleton; undefined when all bytes are at hand. */
  readonly #ranges: string | undefined;
  #names = new Names(new Uint8Array(0));
  #depth = 0;

  constructor(file: string | undefined, external: ExternalData, ranges?: string | undefined) {
    this.#file = file;
    this.#external = external;
    this.#ranges = ranges;
  }

  model(bytes: Uint8Array): RawModel {
    const c = new Cursor(bytes, 0, bytes.length, this.#file);
    this.#names = new Names(bytes);
    const m: RawModel = {
      names: this.#names,
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
          m.producer[0] = this.#text(c);
          break;
        case 3:
          m.producer[1] = this.#text(c);
          break;
        case 4:
          m.domain = this.#text(c);
          break;
        case 5:
          m.version = this.#number(c);
          break;
        case 6:
          m.doc = this.#text(c);
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

  /** A text as its number: for the names of values. */
  name(c: Cursor): NameId {
    const n = c.length();
    const from = c.at;
    c.at += n;
    try {
      return this.#names.idOf(from, n);
    } catch (cause) {
      throw badText({ what: `the ${n} bytes of field ${c.field} are not UTF-8` }, { file: this.#file, offset: from }, cause);
    }
  }
  #text(c: Cursor): string {
    return this.#names.text(this.name(c));
  }

  #number(c: Cursor): number {
    if (c.type !== VARINT) c.fail(`field ${c.field} has wire type ${c.type}, a varint is expected`);
    return c.int();
  }

  #opset(c: Cursor, into: Map<string, number>): void {
    let domain = "";
    let version = 0;
    while (c.next()) {
      if (c.field === 1) domain = this.#text(c);
      else if (c.field === 2) version = this.#number(c);
      else c.step();
    }
    into.set(domain === "ai.onnx" ? "" : domain, version);
  }

  #entry(c: Cursor, list: [string, string][] | undefined): [string, string][] {
    const pair: [string, string] = ["", ""];
    while (c.next()) {
      if (c.field === 1) pair[0] = this.#text(c);
      else if (c.field === 2) pair[1] = this.#text(c);
      else c.step();
    }
    if (list === undefined) return [pair];
    list.push(pair);
    return list;
  }

  /** `lazy`: nodes are decoded in passes over the bytes; those of bodies are decoded once, as a body in a body would be decoded again and again. */
  #graph(c: Cursor, lazy = false): RawGraph {
    const nodes = lazy ? new LazyNodes(this, c) : new DecodedNodes();
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
          if (nodes instanceof LazyNodes) {
            const n = c.length();
            nodes.add(c.at, c.at + n);
            c.at += n;
          } else nodes.push(this.node(c.message()));
          break;
        case 2:
          g.name = this.#text(c);
          break;
        case 5: {
          const { name, constant } = this.#tensor(c.message());
          g.initializers.push({ name, constant });
          break;
        }
        case 10:
          g.doc = this.#text(c);
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
          n.ins.push(this.name(c));
          break;
        case 2:
          n.outs.push(this.name(c));
          break;
        case 3:
          n.name = this.#text(c);
          break;
        case 4:
          n.op = this.#text(c);
          break;
        case 5:
          (n.attrs ??= []).push(this.#attribute(c.message()));
          break;
        case 6:
          n.doc = this.#text(c);
          break;
        case 7: {
          const domain = this.#text(c);
          n.domain = domain === "ai.onnx" ? "" : domain;
          break;
        }
        case 8:
          n.overload = this.#text(c);
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
          name = this.#text(c);
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
          a.ref = this.#text(c);
          break;
        case 22:
          a.sparse = this.#sparse(c.message()).constant;
          break;
        default:
          c.step();
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
          f.name = this.#text(c);
          break;
        case 4:
          f.ins.push(this.name(c));
          break;
        case 5:
          f.outs.push(this.name(c));
          break;
        case 6:
          f.attrs.push(this.#text(c));
          break;
        case 7:
          f.nodes.push(this.node(c.message()));
          break;
        case 9:
          this.#opset(c.message(), f.opsets);
          break;
        case 10: {
          const domain = this.#text(c);
          f.domain = domain === "ai.onnx" ? "" : domain;
          break;
        }
        case 11:
          f.defaults.push(this.#attribute(c.message()));
          break;
        case 13:
          f.overload = this.#text(c);
          break;
        default:
          c.step();
      }
    }
    return f;
  }

  // ---- types ----------------------------------------------------------------------------------------------------------------------------

  #valueInfo(c: Cursor): { name: NameId; type: ValueType } {
    let name: NameId = 0;
    let type: ValueType = { kind: "unknown" };
    while (c.next()) {
      if (c.field === 1) name = this.name(c);
      else if (c.field === 2) type = this.#type(c.message(), 0);
      else c.step();
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
            else sub.step();
          }
          type = { kind: "map", key, of };
          break;
        }
        case 7: {
          const sub = c.message();
          let [domain, name] = ["", ""];
          while (sub.next()) {
            if (sub.field === 1) domain = this.#text(sub);
            else if (sub.field === 2) name = this.#text(sub);
            else sub.step();
          }
          type = { kind: "opaque", domain, name };
          break;
        }
        default:
          c.step();
      }
    }
    return type;
  }
  #elementType(c: Cursor, depth: number): ValueType {
    let of: ValueType = { kind: "unknown" };
    while (c.next()) {
      if (c.field === 1) of = this.#type(c.message(), depth + 1);
      else c.step();
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
            dims.step();
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
              dim = symbol(this.#text(d));
              if (typeof dim === "number" && dim < 0) dim = UNKNOWN;
            } else d.step();
          }
          shape.push(dim);
        }
      } else c.step();
    }
    return dtype === undefined ? undefined : { dtype, shape };
  }

  // ---- tensors --------------------------------------------------------------------------------------------------------------------------

  #sparse(c: Cursor): { name: NameId; constant: Constant } {
    const start = c.at;
    let values: { name: NameId; constant: Constant } | undefined;
    let indices: Constant | undefined;
    const dims: number[] = [];
    while (c.next()) {
      if (c.field === 1) values = this.#tensor(c.message());
      else if (c.field === 2) indices = this.#tensor(c.message()).constant;
      else if (c.field === 3) this.#ints(c, dims as (number | bigint)[]);
      else c.step();
    }
    const where = { file: this.#file, offset: start, value: values === undefined ? undefined : this.#names.text(values.name) };
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

  #tensor(c: Cursor): { name: NameId; constant: Constant } {
    const start = c.at;
    const end = c.end;
    let name: NameId = 0;
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
          name = this.name(c);
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
          c.step();
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
          } else c.step();
          break;
        default:
          c.step();
      }
    }
    const where = { file: this.#file, offset: start, value: name === 0 ? undefined : this.#names.text(name) };
    const dtype = dtypeFromOnnx(number);
    if (dtype === undefined) throw badTensorProto({ what: `its element type ${number} is unknown` }, where);
    const shape = dims.map(Number);
    const count = elementCount(shape);
    if (count === undefined)
      throw badTensorProto({ what: `its dims [${dims.join(", ")}] are not natural numbers with a representable product` }, where);
    const done = (data: Payload): { name: NameId; constant: Constant } => ({ name, constant: { dtype, dims: shape, data } });
    if (dtype === "string") {
      const values = strings ?? [];
      if (values.length !== count)
        throw badTensorProto({ what: `dims [${shape}] ask for ${count} strings, ${values.length} are there` }, where);
      return done({ kind: "strings", values });
    }
    const needs = byteLength(dtype, count);
    if (location === 1) return done(this.#external(external ?? new Map(), needs, this.#names.text(name)));
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
        c.step();
        continue;
      }
      if (c.type === BYTES) {
        const run = c.view();
        runs.push(run);
        elements += field === 4 ? run.length / 4 : field === 10 ? run.length / 8 : varints(run);
      } else {
        const from = c.at;
        c.step();
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
