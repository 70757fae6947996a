/**
 * What an operator is: one `defineOp({...})` constant in a family file says how it is read from ONNX, its typed inputs, outputs and
 * attributes, shape inference, cost, INT8 scheme, what every engine says of it, and the samples that generate its tests.
 *
 * ONNX Runtime is the reference for values; nothing here computes tensors beyond the integer values of shape arithmetic.
 */
import type { Verdict } from "../diagnostics.js";
import type { Attr, Constant, Dim, DType, Node, NodeId, Shape, TensorType, ValueId, ValueType } from "../ir/types.js";

// ---- slots: named, typed inputs and outputs ---------------------------------------------------------------------------------------

/** `type` is a type variable ("T", looked up in `OpDef.types`) or a fixed element type; absent: anything, sequences and optionals too. */
export interface Slot<K extends "tensor" | "optional" | "variadic" = "tensor" | "optional" | "variadic"> {
  readonly kind: K;
  readonly type?: string | undefined;
}
export type Slots = Readonly<Record<string, Slot>>;
export const tensor = (type?: string): Slot<"tensor"> => ({ kind: "tensor", type });
export const optional = (type?: string): Slot<"optional"> => ({ kind: "optional", type });
/** Takes all remaining inputs or outputs; last in its record. */
export const variadic = (type?: string): Slot<"variadic"> => ({ kind: "variadic", type });
/** Declared slot names become the argument names of infer, cost and supports. */
export type Bound<I, T> = {
  readonly [K in keyof I]: I[K] extends Slot<"tensor"> ? T : I[K] extends Slot<"optional"> ? T | undefined : readonly (T | undefined)[];
};

// ---- attributes ---------------------------------------------------------------------------------------------------------------------

export interface AttrSpec<T> {
  /** The ONNX attribute kind this is written as. */
  readonly kind: Attr["kind"];
  /** Decodes; undefined when the attribute has the wrong kind or an illegal value. */
  readonly read: (raw: Attr) => T | undefined;
  /** The value of an absent attribute; `required` specs have none. */
  readonly fallback: T | undefined;
  readonly required: boolean;
  /** The legal words, for string attributes. */
  readonly oneOf?: readonly string[] | undefined;
}
// biome-ignore lint/suspicious/noExplicitAny: a heterogeneous record; AttrsOf recovers each member's type.
export type AttrSpecs = Readonly<Record<string, AttrSpec<any>>>;
export type AttrsOf<S> = { readonly [K in keyof S]: S[K] extends AttrSpec<infer T> ? T : never };

const asNumber = (v: number | bigint): number => Number(v);
/** The list itself, which may have millions of elements, where it holds numbers alone. */
const asNumbers = (list: readonly (number | bigint)[]): readonly number[] =>
  list.every((x) => typeof x === "number") ? list : list.map(asNumber);
const asStrings = (list: readonly (string | Uint8Array)[]): readonly string[] =>
  list.every((s) => typeof s === "string") ? list : list.map((s) => (typeof s === "string" ? s : Buffer.from(s).toString("latin1")));
function spec<T>(kind: Attr["kind"], read: (raw: Attr) => T | undefined, fallback: T | undefined, required: boolean): AttrSpec<T> {
  return { kind, read, fallback, required };
}
/** Integer attribute. Without a fallback the attribute is required. */
export const int = (fallback?: number): AttrSpec<number> =>
  spec("int", (a) => (a.kind === "int" ? asNumber(a.value) : undefined), fallback, fallback === undefined);
/** Integer attribute whose absence means something of its own. */
export const optInt = (): AttrSpec<number | undefined> =>
  spec("int", (a) => (a.kind === "int" ? asNumber(a.value) : undefined), undefined, false);
export const flag = (fallback: boolean): AttrSpec<boolean> =>
  spec("int", (a) => (a.kind === "int" ? asNumber(a.value) !== 0 : undefined), fallback, false);
export const float = (fallback?: number): AttrSpec<number> =>
  spec("float", (a) => (a.kind === "float" ? a.value : undefined), fallback, fallback === undefined);
export const optFloat = (): AttrSpec<number | undefined> =>
  spec("float", (a) => (a.kind === "float" ? a.value : undefined), undefined, false);
export const ints = (): AttrSpec<readonly number[]> =>
  spec("ints", (a) => (a.kind === "ints" ? asNumbers(a.value) : undefined), undefined, true);
export const optInts = (): AttrSpec<readonly number[] | undefined> =>
  spec("ints", (a) => (a.kind === "ints" ? asNumbers(a.value) : undefined), undefined, false);
export const optFloats = (): AttrSpec<readonly number[] | undefined> =>
  spec("floats", (a) => (a.kind === "floats" ? a.value : undefined), undefined, false);
export const optStrings = (): AttrSpec<readonly string[] | undefined> =>
  spec("strings", (a) => (a.kind === "strings" ? asStrings(a.value) : undefined), undefined, false);
/** One of a closed set of words; anything else is a P15 error that lists them. */
export const word = <const W extends string>(fallback: W | undefined, ...words: readonly W[]): AttrSpec<W> => ({
  ...spec("string", (a) => (a.kind === "string" ? words.find((w) => w === a.value) : undefined), fallback, fallback === undefined),
  oneOf: words,
});
export const optString = (): AttrSpec<string | undefined> =>
  spec("string", (a) => (a.kind === "string" && typeof a.value === "string" ? a.value : undefined), undefined, false);
export const optTensor = (): AttrSpec<Constant | undefined> =>
  spec("tensor", (a) => (a.kind === "tensor" ? a.value : undefined), undefined, false);
/** A control-flow body; `infer` reaches it through `site.body(name, facts)`. */
export const graphAttr = (): AttrSpec<true> => spec("graph", (a) => (a.kind === "graph" ? true : undefined), undefined, true);

// ---- facts: what is known of a value at compile time -----------------------------------------------------------------------------

export interface Fact {
  readonly type: ValueType;
  /** Elements, row-major, of a small tensor of static shape as far as they are known: the currency of shape arithmetic (see elements.ts). */
  readonly elements?: readonly Dim[] | undefined;
  /** The whole tensor, when it is a constant. */
  readonly constant?: Constant | undefined;
  /** Of a sequence of known length: the type of each item. */
  readonly items?: readonly ValueType[] | undefined;
}
/** Tensors of more elements than this carry none. */
export const MAX_ELEMENTS = 1024;

export const dtypeOf = (f: Fact | undefined): DType | undefined =>
  f?.type.kind === "tensor" || f?.type.kind === "sparse" ? f.type.dtype : undefined;
export const shapeOf = (f: Fact | undefined): Shape => (f?.type.kind === "tensor" || f?.type.kind === "sparse" ? f.type.shape : undefined);
export const rankOf = (f: Fact | undefined): number | undefined => shapeOf(f)?.length;
export const tensorType = (dtype: DType, shape: Shape): TensorType => ({ kind: "tensor", dtype, shape });
export const unknownType: ValueType = { kind: "unknown" };

/** A node as its operator sees it. */
export interface Site<I, A> {
  readonly in: Bound<I, Fact>;
  readonly attrs: A;
  readonly node: Node;
  /** How many output slots the node has (trailing absent ones not counted). */
  readonly outs: number;
  /** Infers the named body with these facts for its inputs and returns its outputs' facts. */
  body(attribute: string, inputs: readonly Fact[]): readonly Fact[];
  /** Raises a coded P15 error at this node: what is wrong with it, and what would mend it. */
  fail(what: string, fix: string): never;
}
/** As `Site`, with the outputs' types inferred. Dims in a `CostSite` are numbers wherever bindings make them so. */
export interface DoneSite<I, A> {
  readonly in: Bound<I, Fact>;
  readonly attrs: A;
  readonly node: Node;
  readonly out: readonly ValueType[];
}
/** `flops`: floating-point or integer operations, a multiply-add counting two. `bytes`: read plus written, each operand once. */
export interface Cost {
  readonly flops: number;
  readonly bytes: number;
}

// ---- engines ------------------------------------------------------------------------------------------------------------------------

export const engineNames = ["host", "cuda", "tensorrt"] as const;
export type EngineName = (typeof engineNames)[number];
/** What an engine is asked for. `sm`: compute capability times ten (90). `tensorrt`: major * 10000 + minor * 100 + patch. */
export interface Target {
  readonly sm: number;
  readonly tensorrt: number;
  readonly precision: "fp32" | "tf32" | "fp16" | "bf16" | "int8";
}
export interface Lowering<I, A> {
  supports(at: DoneSite<I, A>, target: Target): Verdict;
  /** What `supports` asks beyond types and known dims, in a few words for the list of operators. */
  readonly when?: string | undefined;
}
/** The engine cannot run the operator whatever its site, and why; `fix` says what a user can do instead. */
export interface Absent {
  readonly absent: string;
  readonly fix?: string | undefined;
}
export const absent = (why: string, fix?: string): Absent => (fix === undefined ? { absent: why } : { absent: why, fix });
/** One key per engine. A new key here is a compile error in every operator until each says yes or why not. */
export type Lowerings<I, A> = { readonly [E in EngineName]: Lowering<I, A> | Absent };

// ---- reading old spellings ------------------------------------------------------------------------------------------------------------

/** A node as an importer found it, before normalisation; its inputs are values of the graph under construction. */
export interface RawNode {
  readonly op: string;
  readonly name: string;
  readonly ins: readonly (ValueId | undefined)[];
  readonly outs: readonly (ValueId | undefined)[];
  readonly attrs: Readonly<Record<string, Attr>>;
  /** The model's opset for the node's domain. */
  readonly opset: number;
}
/** What an adapter writes with. `emit` appends a node; the raw node's outputs must each be given to exactly one emitted node. */
export interface Rewriter {
  /** `outs`: values to define (some of the raw node's), or how many fresh ones to make. Names and origin follow the raw node. */
  emit(
    op: string,
    ins: readonly (ValueId | undefined)[],
    attrs?: Readonly<Record<string, Attr>>,
    outs?: readonly (ValueId | undefined)[] | number,
    domain?: string,
  ): readonly ValueId[];
  constant(c: Constant): ValueId;
  /** A 1-D (or, given a number alone, 0-D) int64 constant. */
  int64(values: readonly number[] | number): ValueId;
  /** The tensor a value holds, when it is a constant. */
  constantOf(v: ValueId | undefined): Constant | undefined;
  /** Declared or already inferred type; `unknown` otherwise. */
  typeOf(v: ValueId | undefined): ValueType;
  /** Keeps the raw node as it stands, for the host. */
  keep(): void;
}
/**
 * How opset versions of an ONNX operator are read. Entries are tried in order; the one with the largest `since` not above the model's
 * opset applies. Without `adapt` that spelling is the canonical one, and the `since` of the last such entry is the lowest opset that a
 * graph with this operator can be written in. Entries behind it read newer spellings back into it.
 */
export interface OnnxReading {
  /** ONNX operator name; the definition's own when absent (Upsample is read as Resize, Scatter as ScatterElements). */
  readonly op?: string | undefined;
  readonly since: number;
  readonly adapt?: ((node: RawNode, to: Rewriter) => void) | undefined;
}

// ---- the definition ---------------------------------------------------------------------------------------------------------------------

/** What a node is for the partitioner's size floor: only `compute` counts towards minimumSegmentSize. `view`: moves or renames bytes. `shape`: shape arithmetic. */
export type Role = "compute" | "view" | "shape";

export interface Sample {
  /** Distinguishes the samples of one operator. */
  readonly name: string;
  /** Graph inputs by slot name (lists for a variadic slot): runtime values, or constants where `constant` is set. */
  readonly in: Readonly<Record<string, SampleInput | SampleSequence | readonly (SampleInput | SampleSequence)[] | undefined>>;
  readonly attrs?: Readonly<Record<string, Attr>> | undefined;
  /** Output slots to ask for; 1 when absent. */
  readonly outs?: number | undefined;
  /** Absolute tolerance times the largest value, for float results; 0 asks for equality. Default 1e-5. */
  readonly tolerance?: number | undefined;
}
/** A small tensor: dtype, dims, and its elements; `fill: "random"` draws them from a seeded generator in [-2, 2] (integers: -8..8 or 0..15). */
export interface SampleInput {
  readonly dtype: DType;
  readonly dims: readonly number[];
  readonly fill: "random" | readonly (number | bigint | string | boolean)[];
  readonly constant?: boolean | undefined;
}

/** A sequence of fed tensors. */
export interface SampleSequence {
  readonly items: readonly SampleInput[];
}

export interface OpDef<N extends string, I extends Slots, O extends Slots, S extends AttrSpecs> {
  readonly name: N;
  /** "" (ai.onnx) when absent. */
  readonly domain?: string | undefined;
  /** One sentence: what it computes, and the layout of its operands. */
  readonly doc: string;
  readonly reads: { readonly onnx: readonly OnnxReading[] };
  readonly in: I;
  readonly out: O;
  /** Type variables of the slots: the element types each may take. All slots of one variable agree. */
  readonly types?: Readonly<Record<string, readonly DType[]>> | undefined;
  readonly attrs: S;
  readonly role: Role;
  /** Random operators differ from run to run: never folded, never merged. */
  readonly random?: boolean | undefined;
  /** How many outputs the node must have, read or not, where an input or an attribute asks for more than the slots do. */
  least?(node: Node): number;
  /** One fact per output slot that the node has; extra facts are ignored. */
  infer(at: Site<NoInfer<I>, AttrsOf<NoInfer<S>>>): readonly Fact[];
  cost(at: DoneSite<NoInfer<I>, AttrsOf<NoInfer<S>>>): Cost;
  /** `axis`: the weight's output-channel axis. */
  readonly int8: { readonly axis: number; readonly accumulate: "i32" } | { readonly passes: "same-scale" } | Absent;
  /** Only `in` and `attrs` decide the type parameters, so that lowerings shared by many operators do not widen them. */
  readonly on: Lowerings<NoInfer<I>, AttrsOf<NoInfer<S>>>;
  samples(): Iterable<Sample>;
}
/** Identity with inference: checks one operator against the contract without widening it. */
export function defineOp<const N extends string, const I extends Slots, const O extends Slots, const S extends AttrSpecs>(
  def: OpDef<N, I, O, S>,
): OpDef<N, I, O, S> {
  return def;
}
// biome-ignore lint/suspicious/noExplicitAny: the erased form every definition is assignable to.
export type AnyOp = OpDef<string, any, any, any>;

export type { NodeId };
