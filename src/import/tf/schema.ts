/**
 * The messages of TensorFlow's protocol buffers that the importer reads, as data: one table serves the binary and the text format. Field
 * numbers and names are those of tensorflow/core/{framework,protobuf}/*.proto; fields that are not here are skipped.
 */
import type { PartitaError } from "../../diagnostics.js";
import { defineError } from "../../diagnostics.js";

export const tfWireError = defineError<{ what: string }>("P1302", "the file is not a well-formed TensorFlow protobuf", ({ what }) => ({
  what,
  fix: "save or download the model again; it is cut off or damaged",
}));
export type Raised = PartitaError;

/** `numbers`: a repeated numeric field that binary files keep as runs of wire bytes, for tensors. */
export type Scalar = "string" | "bytes" | "int" | "float" | "bool" | "type" | "numbers";
export interface Field {
  readonly name: string;
  readonly of: Scalar | { readonly message: string };
  readonly repeated: boolean;
  /** A map field: entries with key 1 and value 2. */
  readonly map: boolean;
}
export type Message = ReadonlyMap<number, Field>;

const one = (name: string, of: Scalar): Field => ({ name, of, repeated: false, map: false });
const many = (name: string, of: Scalar): Field => ({ name, of, repeated: true, map: false });
const sub = (name: string, message: string): Field => ({ name, of: { message }, repeated: false, map: false });
const subs = (name: string, message: string): Field => ({ name, of: { message }, repeated: true, map: false });
const map = (name: string, message: string): Field => ({ name, of: { message }, repeated: true, map: true });
const words = (name: string): Field => ({ name, of: "string", repeated: true, map: true });
const message = (fields: Readonly<Record<number, Field>>): Message => new Map(Object.entries(fields).map(([k, f]) => [Number(k), f]));

export const messages: Readonly<Record<string, Message>> = {
  GraphDef: message({ 1: subs("node", "NodeDef"), 2: sub("library", "FunctionDefLibrary"), 4: sub("versions", "VersionDef") }),
  VersionDef: message({ 1: one("producer", "int"), 2: one("min_consumer", "int") }),
  NodeDef: message({ 1: one("name", "string"), 2: one("op", "string"), 3: many("input", "string"), 5: map("attr", "AttrValue") }),
  AttrValue: message({
    1: sub("list", "ListValue"),
    2: one("s", "bytes"),
    3: one("i", "int"),
    4: one("f", "float"),
    5: one("b", "bool"),
    6: one("type", "type"),
    7: sub("shape", "TensorShapeProto"),
    8: sub("tensor", "TensorProto"),
    9: one("placeholder", "string"),
    10: sub("func", "NameAttrList"),
  }),
  ListValue: message({
    2: many("s", "bytes"),
    3: many("i", "int"),
    4: many("f", "float"),
    5: many("b", "bool"),
    6: many("type", "type"),
    7: subs("shape", "TensorShapeProto"),
    8: subs("tensor", "TensorProto"),
    9: subs("func", "NameAttrList"),
  }),
  NameAttrList: message({ 1: one("name", "string"), 2: map("attr", "AttrValue") }),
  TensorShapeProto: message({ 2: subs("dim", "Dim"), 3: one("unknown_rank", "bool") }),
  Dim: message({ 1: one("size", "int"), 2: one("name", "string") }),
  TensorProto: message({
    1: one("dtype", "type"),
    2: sub("tensor_shape", "TensorShapeProto"),
    4: one("tensor_content", "bytes"),
    5: many("float_val", "numbers"),
    6: many("double_val", "numbers"),
    7: many("int_val", "numbers"),
    8: many("string_val", "bytes"),
    9: many("scomplex_val", "numbers"),
    10: many("int64_val", "numbers"),
    11: many("bool_val", "numbers"),
    12: many("dcomplex_val", "numbers"),
    13: many("half_val", "numbers"),
    16: many("uint32_val", "numbers"),
    17: many("uint64_val", "numbers"),
    18: one("float8_val", "bytes"),
  }),
  FunctionDefLibrary: message({ 1: subs("function", "FunctionDef") }),
  FunctionDef: message({
    1: sub("signature", "OpDef"),
    3: subs("node_def", "NodeDef"),
    4: words("ret"),
    5: map("attr", "AttrValue"),
  }),
  OpDef: message({ 1: one("name", "string"), 2: subs("input_arg", "ArgDef"), 3: subs("output_arg", "ArgDef") }),
  ArgDef: message({
    1: one("name", "string"),
    3: one("type", "type"),
    4: one("type_attr", "string"),
    5: one("number_attr", "string"),
    6: one("type_list_attr", "string"),
  }),
  SavedModel: message({ 1: one("saved_model_schema_version", "int"), 2: subs("meta_graphs", "MetaGraphDef") }),
  MetaGraphDef: message({
    1: sub("meta_info_def", "MetaInfoDef"),
    2: sub("graph_def", "GraphDef"),
    3: sub("saver_def", "SaverDef"),
    5: map("signature_def", "SignatureDef"),
  }),
  MetaInfoDef: message({ 4: many("tags", "string"), 5: one("tensorflow_version", "string") }),
  SaverDef: message({ 1: one("filename_tensor_name", "string"), 3: one("restore_op_name", "string") }),
  SignatureDef: message({ 1: map("inputs", "TensorInfo"), 2: map("outputs", "TensorInfo"), 3: one("method_name", "string") }),
  TensorInfo: message({ 1: one("name", "string"), 2: one("dtype", "type"), 3: sub("tensor_shape", "TensorShapeProto") }),
  BundleHeaderProto: message({ 1: one("num_shards", "int"), 2: one("endianness", "int") }),
  BundleEntryProto: message({
    1: one("dtype", "type"),
    2: sub("shape", "TensorShapeProto"),
    3: one("shard_id", "int"),
    4: one("offset", "int"),
    5: one("size", "int"),
    6: one("crc32c", "numbers"),
    7: subs("slices", "TensorSliceProto"),
  }),
  TensorSliceProto: message({ 1: subs("extent", "Extent") }),
  Extent: message({ 1: one("start", "int"), 2: one("length", "int") }),
};

// ---- the records ------------------------------------------------------------------------------------------------------------------------

/** A repeated numeric field: wire bytes of packed runs and single values (binary), or numbers (text). */
export interface Numbers {
  readonly runs: readonly Uint8Array[];
  readonly values: readonly (number | bigint)[];
}
export interface ShapeProto {
  readonly dim?: readonly { readonly size?: number | bigint }[];
  readonly unknown_rank?: boolean;
}
export interface TensorProto {
  readonly dtype?: number;
  readonly tensor_shape?: ShapeProto;
  readonly tensor_content?: Uint8Array;
  readonly float_val?: Numbers;
  readonly double_val?: Numbers;
  readonly int_val?: Numbers;
  readonly string_val?: readonly Uint8Array[];
  readonly scomplex_val?: Numbers;
  readonly int64_val?: Numbers;
  readonly bool_val?: Numbers;
  readonly dcomplex_val?: Numbers;
  readonly half_val?: Numbers;
  readonly uint32_val?: Numbers;
  readonly uint64_val?: Numbers;
  readonly float8_val?: Uint8Array;
}
export interface NameAttrList {
  readonly name?: string;
  readonly attr?: ReadonlyMap<string, AttrValue>;
}
export interface AttrValue {
  readonly list?: {
    readonly s?: readonly Uint8Array[];
    readonly i?: readonly (number | bigint)[];
    readonly f?: readonly number[];
    readonly b?: readonly boolean[];
    readonly type?: readonly number[];
    readonly shape?: readonly ShapeProto[];
    readonly tensor?: readonly TensorProto[];
    readonly func?: readonly NameAttrList[];
  };
  readonly s?: Uint8Array;
  readonly i?: number | bigint;
  readonly f?: number;
  readonly b?: boolean;
  readonly type?: number;
  readonly shape?: ShapeProto;
  readonly tensor?: TensorProto;
  readonly placeholder?: string;
  readonly func?: NameAttrList;
}
export interface NodeDef {
  readonly name?: string;
  readonly op?: string;
  readonly input?: readonly string[];
  readonly attr?: ReadonlyMap<string, AttrValue>;
}
export interface ArgDef {
  readonly name?: string;
  readonly type?: number;
  readonly type_attr?: string;
  readonly number_attr?: string;
  readonly type_list_attr?: string;
}
export interface FunctionDef {
  readonly signature?: { readonly name?: string; readonly input_arg?: readonly ArgDef[]; readonly output_arg?: readonly ArgDef[] };
  readonly node_def?: readonly NodeDef[];
  readonly ret?: ReadonlyMap<string, string>;
  readonly attr?: ReadonlyMap<string, AttrValue>;
}
export interface GraphDef {
  readonly node?: readonly NodeDef[];
  readonly library?: { readonly function?: readonly FunctionDef[] };
  readonly versions?: { readonly producer?: number; readonly min_consumer?: number };
}
export interface TensorInfo {
  readonly name?: string;
  readonly dtype?: number;
  readonly tensor_shape?: ShapeProto;
}
export interface SignatureDef {
  readonly inputs?: ReadonlyMap<string, TensorInfo>;
  readonly outputs?: ReadonlyMap<string, TensorInfo>;
  readonly method_name?: string;
}
export interface MetaGraphDef {
  readonly meta_info_def?: { readonly tags?: readonly string[]; readonly tensorflow_version?: string };
  readonly graph_def?: GraphDef;
  readonly saver_def?: { readonly filename_tensor_name?: string; readonly restore_op_name?: string };
  readonly signature_def?: ReadonlyMap<string, SignatureDef>;
}
export interface SavedModel {
  readonly saved_model_schema_version?: number;
  readonly meta_graphs?: readonly MetaGraphDef[];
}
export interface BundleHeader {
  readonly num_shards?: number;
  readonly endianness?: number;
}
export interface BundleEntry {
  readonly dtype?: number;
  readonly shape?: ShapeProto;
  readonly shard_id?: number;
  readonly offset?: number;
  readonly size?: number;
  readonly crc32c?: Numbers;
  readonly slices?: readonly {
    readonly extent?: readonly { readonly start?: number | bigint; readonly length?: number | bigint }[];
  }[];
}
