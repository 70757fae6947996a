/** What every message of a ModelProto has in common: names, texts, numbers and lists of them, element types, metadata entries. */
import { defineError } from "../../diagnostics.js";
import { dtypeFromOnnx } from "../../ir/dtypes.js";
import type { DType } from "../../ir/types.js";
import { type NameId, Names } from "./names.js";
import type { ExternalData } from "./records.js";
import { BYTES, type Cursor, FIXED32, VARINT } from "./wire.js";

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
/** Messages within messages, at most. */
export const MAX_DEPTH = 64;

export class Fields {
  protected readonly file: string | undefined;
  protected readonly external: ExternalData;
  /** The file behind a skeleton; undefined when all bytes are at hand. */
  protected readonly ranges: string | undefined;
  protected names = new Names(new Uint8Array(0));

  constructor(file: string | undefined, external: ExternalData, ranges?: string | undefined) {
    this.file = file;
    this.external = external;
    this.ranges = ranges;
  }

  /** A text as its number: for the names of values. */
  name(c: Cursor): NameId {
    const n = c.length();
    const from = c.at;
    c.at += n;
    try {
      return this.names.idOf(from, n);
    } catch (cause) {
      throw badText({ what: `the ${n} bytes of field ${c.field} are not UTF-8` }, { file: this.file, offset: from }, cause);
    }
  }
  protected text(c: Cursor): string {
    return this.names.text(this.name(c));
  }

  /** A string attribute's element: text, and the bytes themselves where they are not UTF-8. */
  protected string(c: Cursor): string | Uint8Array {
    const n = c.length();
    const from = c.at;
    c.at += n;
    try {
      return this.names.text(this.names.idOf(from, n));
    } catch {
      return c.bytes.subarray(from, from + n);
    }
  }

  protected number(c: Cursor): number {
    if (c.type !== VARINT) c.fail(`field ${c.field} has wire type ${c.type}, a varint is expected`);
    return c.int();
  }

  protected entry(c: Cursor, list: [string, string][] | undefined): [string, string][] {
    const pair: [string, string] = ["", ""];
    while (c.next()) {
      if (c.field === 1) pair[0] = this.text(c);
      else if (c.field === 2) pair[1] = this.text(c);
      else c.step();
    }
    if (list === undefined) return [pair];
    list.push(pair);
    return list;
  }

  protected float(c: Cursor): number {
    if (c.type !== FIXED32) c.fail(`field ${c.field} has wire type ${c.type}, a 32-bit one is expected`);
    return c.float();
  }
  protected int64(c: Cursor): number | bigint {
    if (c.type !== VARINT) c.fail(`field ${c.field} has wire type ${c.type}, a varint is expected`);
    return c.int64();
  }
  protected floats(c: Cursor, into: number[]): void {
    if (c.type !== BYTES && c.type !== FIXED32) c.fail(`field ${c.field} has wire type ${c.type}, a 32-bit one is expected`);
    c.floats(into);
  }
  protected ints(c: Cursor, into: (number | bigint)[]): void {
    if (c.type !== BYTES && c.type !== VARINT) c.fail(`field ${c.field} has wire type ${c.type}, a varint is expected`);
    c.int64s(into);
  }

  /** 0 (undefined) is legal and means unknown. */
  protected dtype(c: Cursor): DType | undefined {
    const at = c.at;
    const n = this.number(c);
    if (n === 0) return undefined;
    const dtype = dtypeFromOnnx(n);
    if (dtype === undefined) throw badType({ what: `element type ${n} is unknown` }, { file: this.file, offset: at });
    return dtype;
  }
}
