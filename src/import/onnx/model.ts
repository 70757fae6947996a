/**
 * Decodes a ModelProto into plain records, without building a graph: the names of values are numbers (names.ts), payloads are views or file
 * ranges. Field numbers are those of onnx.proto (IR version 13).
 */
import { MAX_DEPTH, tooDeep } from "./fields.js";
import { type NameId, Names } from "./names.js";
import type { RawAttr, RawFunction, RawGraph, RawModel, RawNodeProto, RawNodes } from "./records.js";
import { TypeDecoder } from "./value-types.js";
import { Cursor } from "./wire.js";

/** The fields of a message that are not known. They are put together once, at the end: a file may hold millions. */
class Unknown {
  readonly #ends: number[] = [];
  #whole: Uint8Array | undefined;

  /** Takes the current field and steps over it. */
  add(c: Cursor): void {
    const from = c.tagAt;
    c.step();
    this.#whole = c.bytes;
    const ends = this.#ends;
    if (ends[ends.length - 1] === from) ends[ends.length - 1] = c.at;
    else ends.push(from, c.at);
  }
  bytes(): Uint8Array | undefined {
    const [whole, ends] = [this.#whole, this.#ends];
    if (whole === undefined) return undefined;
    let length = 0;
    for (let i = 0; i < ends.length; i += 2) length += (ends[i + 1] as number) - (ends[i] as number);
    const out = new Uint8Array(length);
    for (let i = 0, at = 0; i < ends.length; i += 2) {
      const piece = whole.subarray(ends[i], ends[i + 1]);
      out.set(piece, at);
      at += piece.length;
    }
    return out;
  }
}

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

export class Decoder extends TypeDecoder {
  #depth = 0;

  model(bytes: Uint8Array): RawModel {
    const c = new Cursor(bytes, 0, bytes.length, this.file);
    this.names = new Names(bytes);
    const unknown = new Unknown();
    const m: RawModel = {
      names: this.names,
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
          m.irVersion = this.number(c);
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
          m.version = this.number(c);
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
          m.metadata = this.entry(c.message(), m.metadata);
          break;
        case 25:
          m.functions.push(this.#function(c.message()));
          break;
        default:
          unknown.add(c);
      }
    }
    m.unknown = unknown.bytes();
    return m;
  }

  #opset(c: Cursor, into: Map<string, number>): void {
    let domain = "";
    let version = 0;
    while (c.next()) {
      if (c.field === 1) domain = this.text(c);
      else if (c.field === 2) version = this.number(c);
      else c.step();
    }
    into.set(domain === "ai.onnx" ? "" : domain, version);
  }

  /** `lazy`: nodes are decoded in passes over the bytes; those of bodies are decoded once, as a body in a body would be decoded again and again. */
  #graph(c: Cursor, lazy = false): RawGraph {
    const nodes = lazy ? new LazyNodes(this, c) : new DecodedNodes();
    if (++this.#depth > MAX_DEPTH) throw tooDeep({ limit: MAX_DEPTH }, { file: this.file, offset: c.at });
    const unknown = new Unknown();
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
          g.name = this.text(c);
          break;
        case 5: {
          const { name, constant } = this.tensor(c.message());
          g.initializers.push({ name, constant });
          break;
        }
        case 10:
          g.doc = this.text(c);
          break;
        case 11:
          g.inputs.push(this.valueInfo(c.message()));
          break;
        case 12:
          g.outputs.push(this.valueInfo(c.message()));
          break;
        case 13: {
          const v = this.valueInfo(c.message());
          g.valueInfo.set(v.name, v.type);
          break;
        }
        case 15: {
          const { name, constant } = this.sparse(c.message());
          g.initializers.push({ name, constant });
          break;
        }
        case 16:
          g.metadata = this.entry(c.message(), g.metadata);
          break;
        default:
          unknown.add(c);
      }
    }
    g.unknown = unknown.bytes();
    this.#depth--;
    return g;
  }

  /** One NodeProto. */
  node(c: Cursor): RawNodeProto {
    let unknown: Unknown | undefined;
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
          n.metadata = this.entry(c.message(), n.metadata);
          break;
        default:
          (unknown ??= new Unknown()).add(c);
      }
    }
    n.unknown = unknown?.bytes();
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
          a.f = this.float(c);
          break;
        case 3:
          a.i = this.int64(c);
          break;
        case 4:
          a.s = c.view();
          break;
        case 5:
          a.t = this.tensor(c.message()).constant;
          break;
        case 6:
          a.g = this.#graph(c.message());
          break;
        case 7:
          this.floats(c, (a.floats ??= []));
          break;
        case 8:
          this.ints(c, (a.ints ??= []));
          break;
        case 9:
          (a.strings ??= []).push(this.string(c));
          break;
        case 10:
          (a.tensors ??= []).push(this.tensor(c.message()).constant);
          break;
        case 11:
          (a.graphs ??= []).push(this.#graph(c.message()));
          break;
        case 14:
          a.tp = this.type(c.message(), 0);
          break;
        case 15:
          (a.types ??= []).push(this.type(c.message(), 0));
          break;
        case 20:
          a.type = this.number(c);
          break;
        case 21:
          a.ref = this.text(c);
          break;
        case 22:
          a.sparse = this.sparse(c.message()).constant;
          break;
        default:
          c.step();
      }
    }
    return Object.assign(a, { name });
  }

  #function(c: Cursor): RawFunction {
    const f: RawFunction = { name: "", domain: "", overload: "", ins: [], outs: [], attrs: [], defaults: [], nodes: [], opsets: new Map() };
    while (c.next()) {
      switch (c.field) {
        case 1:
          f.name = this.text(c);
          break;
        case 4:
          f.ins.push(this.name(c));
          break;
        case 5:
          f.outs.push(this.name(c));
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
          c.step();
      }
    }
    return f;
  }
}
