/** What a ModelProto holds, as plain records. Names of values are numbers (names.ts), payloads are views or file ranges. */
import type { Constant, Payload, ValueType } from "../../ir/types.js";
import type { NameId, Names } from "./names.js";

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
  strings?: (string | Uint8Array)[];
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
