/**
 * The IR's vocabulary: ids, element types, value types, constants, attributes, nodes, graphs. Plain immutable data, no behaviour.
 *
 * The operator vocabulary is ONNX's in one spelling per operator (see ops/define.ts); a node nobody knows is carried verbatim.
 */

declare const brand: unique symbol;
export type Brand<T, B extends string> = T & { readonly [brand]: B };
/** Index into `Graph.values`. Meaningful only together with its graph. */
export type ValueId = Brand<number, "value">;
/** Identity of a node within its graph; unique, below `Graph.nodeLimit`, not necessarily dense. */
export type NodeId = Brand<number, "node">;

/** Element types. Names are onnxruntime-common's where it has one, ONNX's in lower case otherwise. */
export type DType =
  | "float32"
  | "float64"
  | "float16"
  | "bfloat16"
  | "int8"
  | "int16"
  | "int32"
  | "int64"
  | "uint8"
  | "uint16"
  | "uint32"
  | "uint64"
  | "bool"
  | "string"
  | "complex64"
  | "complex128"
  | "float8e4m3fn"
  | "float8e4m3fnuz"
  | "float8e5m2"
  | "float8e5m2fnuz"
  | "float8e8m0"
  | "int4"
  | "uint4"
  | "int2"
  | "uint2"
  | "float4e2m1";

/** A dimension: a non-negative number, a canonical symbolic expression (see dims.ts), or `"?"`, which equals nothing, itself included. */
export type Dim = number | string;
/** Row-major dims; `undefined` when even the rank is unknown. */
export type Shape = readonly Dim[] | undefined;

export interface TensorType {
  readonly kind: "tensor";
  readonly dtype: DType;
  readonly shape: Shape;
}
export interface SparseTensorType {
  readonly kind: "sparse";
  readonly dtype: DType;
  readonly shape: Shape;
}
export interface SequenceType {
  readonly kind: "sequence";
  readonly of: ValueType;
}
export interface OptionalType {
  readonly kind: "optional";
  readonly of: ValueType;
}
export interface MapType {
  readonly kind: "map";
  readonly key: DType;
  readonly of: ValueType;
}
export interface OpaqueType {
  readonly kind: "opaque";
  readonly domain: string;
  readonly name: string;
}
/** Nothing is known yet: inference has not reached the value, or its producer is unknown to the registry. */
export interface UnknownType {
  readonly kind: "unknown";
}
export type ValueType = TensorType | SparseTensorType | SequenceType | OptionalType | MapType | OpaqueType | UnknownType;

/** A tensor's content. `bytes` are little-endian, row-major; 4-bit and 2-bit elements are packed from the low bits up, as ONNX packs them. */
export type Payload =
  /** A view; the bytes belong to somebody else (usually the model file) and need not be aligned. */
  | { readonly kind: "bytes"; readonly bytes: Uint8Array }
  /** A range of a file that is read when needed. `path` is absolute and was checked against escapes at import. */
  | { readonly kind: "file"; readonly path: string; readonly offset: number; readonly length: number }
  /** Decoded when needed (varint fields of a TensorProto, a variable in a TensorFlow bundle). `length` is what `read` returns, in bytes. */
  | { readonly kind: "lazy"; readonly length: number; readonly read: () => Uint8Array }
  /** UTF-8 strings as bytes, one per element. */
  | { readonly kind: "strings"; readonly values: readonly Uint8Array[] }
  /** COO: `values` is 1-D of nnz elements; `indices` int64, [nnz] linear or [nnz, rank]. */
  | { readonly kind: "sparse"; readonly values: Constant; readonly indices: Constant };

/** A tensor known at compile time. `dims` are static; the element count times the element size equals the payload's length. */
export interface Constant {
  readonly dtype: DType;
  readonly dims: readonly number[];
  readonly data: Payload;
}

/** An attribute as ONNX types them; `int` is a bigint only outside the safe integer range. Strings that are not UTF-8 stay bytes. */
export type Attr =
  | { readonly kind: "int"; readonly value: number | bigint }
  | { readonly kind: "float"; readonly value: number }
  | { readonly kind: "string"; readonly value: string | Uint8Array }
  | { readonly kind: "tensor"; readonly value: Constant }
  | { readonly kind: "graph"; readonly value: Body }
  | { readonly kind: "type"; readonly value: ValueType }
  | { readonly kind: "ints"; readonly value: readonly (number | bigint)[] }
  | { readonly kind: "floats"; readonly value: readonly number[] }
  | { readonly kind: "strings"; readonly value: readonly (string | Uint8Array)[] }
  | { readonly kind: "tensors"; readonly value: readonly Constant[] }
  | { readonly kind: "graphs"; readonly value: readonly Body[] }
  | { readonly kind: "types"; readonly value: readonly ValueType[] };
export type Attrs = Readonly<Record<string, Attr>>;

/** A control-flow body. `captures[i]`, a value of the enclosing graph, is what `graph.captures[i]`, a value of the body, stands for. */
export interface Body {
  readonly graph: Graph;
  readonly captures: readonly ValueId[];
}

export interface Value {
  readonly id: ValueId;
  /** Unique in its graph, never empty; printed as `%name`. */
  readonly name: string;
  readonly type: ValueType;
}

/** What a file said that the compiler does not use but must write back. */
export interface Verbatim {
  readonly doc?: string | undefined;
  /** metadata_props, in the file's order. */
  readonly metadata?: readonly (readonly [key: string, value: string])[] | undefined;
  /** Fields the compiler does not know, tag included, as they stood on the wire. */
  readonly unknown?: Uint8Array | undefined;
}

export interface Node {
  readonly id: NodeId;
  /** "" is ai.onnx. */
  readonly domain: string;
  readonly op: string;
  /** The user's name for it; may be empty and need not be unique. */
  readonly name: string;
  /** `undefined` is an optional input that is left out. */
  readonly ins: readonly (ValueId | undefined)[];
  /** `undefined` is an output nobody asked for. */
  readonly outs: readonly (ValueId | undefined)[];
  readonly attrs: Attrs;
  /** The nodes of the user's graph it came from, in their own names; absent means `[name]`. */
  readonly origin?: readonly string[] | undefined;
  /** Function overload, where the file has one. */
  readonly overload?: string | undefined;
  readonly extra?: Verbatim | undefined;
}

/**
 * An immutable graph. Invariants (verify.ts checks them): nodes are in topological order; every value has one origin (input, capture,
 * constant or node output); names are unique within the graph; ids index `values`.
 */
export interface Graph {
  readonly name: string;
  readonly inputs: readonly ValueId[];
  /** Values of the enclosing graph that a control-flow body uses; empty at the top. */
  readonly captures: readonly ValueId[];
  readonly outputs: readonly ValueId[];
  readonly nodes: readonly Node[];
  /** Indexed by ValueId; holes where an edit dropped a value. */
  readonly values: readonly (Value | undefined)[];
  readonly constants: ReadonlyMap<ValueId, Constant>;
  /** Operator set version by domain, "" being ai.onnx: what the graph is written back with at least. */
  readonly opsets: Readonly<Record<string, number>>;
  /** All node ids are below this. */
  readonly nodeLimit: number;
  readonly extra?: GraphExtra | undefined;
}

export interface GraphExtra extends Verbatim {
  readonly irVersion?: number | undefined;
  readonly producer?: readonly [name: string, version: string] | undefined;
  readonly modelDomain?: string | undefined;
  readonly modelVersion?: number | undefined;
  /** Constants that the file lists among its inputs too, so that a caller may override them (IR version 4 on); compiled, they are constants. */
  readonly overridable?: readonly string[] | undefined;
  /** Other names that a user may say for an input or an output, with the value's own: tensors behind a SavedModel's signature. */
  readonly aliases?: Readonly<Record<string, string>> | undefined;
  /** The model file it came from, for messages. */
  readonly file?: string | undefined;
}
