/**
 * How a TensorFlow operator is read: one `defineTfOp({...})` constant in a family file names the operator's spellings, the canonical
 * operators it becomes, and the lowering. Lowerings run in topological order with inference beside them, so that what is known of an
 * operand (type, dims, integer elements, constant) can decide the spelling; what is not known is computed at run time.
 */
import type { Body, Constant, Dim, DType, Shape, ValueId, ValueType } from "../../ir/types.js";
import type { Fact } from "../define.js";

// ---- values ---------------------------------------------------------------------------------------------------------------------------

/** A tensor of the graph under construction, with what inference knows of it. */
export interface Val {
  readonly kind: "tensor";
  readonly id: ValueId;
  readonly fact: Fact;
  /** Throws P1331 where the element type is not known (behind an operator that has no lowering). */
  readonly dtype: DType;
  /** Dims as far as they are known; undefined when even the rank is not. */
  readonly shape: Shape;
  readonly rank: number | undefined;
  /** Elements of a small constant of rank 0 or 1 (integers through shape arithmetic too), when all are known numbers. */
  readonly numbers: readonly number[] | undefined;
  readonly constant: Constant | undefined;
}
/** The value of a variable: what ReadVariableOp gives. */
export interface VariableHandle {
  readonly kind: "variable";
  readonly name: string;
  readonly value: Val;
  /** The node that changes it, and whether it has done so before this handle is used. */
  readonly changed?: { readonly by: string; readonly stale: boolean } | undefined;
}
/**
 * A TensorList, or the state of a TensorArray (its flow). One of three forms: `elements`, where length and indices are known (undefined:
 * not written yet); `items`, a tensor [size, ...element]; neither, as long as nothing was written and the shape is open.
 */
export interface ListHandle {
  readonly kind: "list";
  readonly dtype: DType;
  readonly elements: readonly (Val | undefined)[] | undefined;
  readonly items: Val | undefined;
  /** int64 scalar. */
  readonly size: Val;
  /** The declared shape of one element. */
  readonly element: Shape;
  /** Whether writing behind the end makes it longer. */
  readonly grows: boolean;
}
/** A resource nothing is known of but its kind: a table, a queue, an iterator. */
export interface OpaqueHandle {
  readonly kind: "opaque";
  readonly what: string;
}
export type Handle = VariableHandle | ListHandle | OpaqueHandle;
export type TfValue = Val | Handle;

// ---- the node -------------------------------------------------------------------------------------------------------------------------

export interface TfFunc {
  readonly name: string;
  readonly attrs: ReadonlyMap<string, TfAttr>;
}
/** attr_value.proto. Types are numbers of types.proto (`dtypeFromTf`); a shape's unknown dims are -1, an unknown rank is undefined. */
export type TfAttr =
  | { readonly kind: "string"; readonly value: Uint8Array }
  | { readonly kind: "int"; readonly value: number | bigint }
  | { readonly kind: "float"; readonly value: number }
  | { readonly kind: "bool"; readonly value: boolean }
  | { readonly kind: "type"; readonly value: number }
  | { readonly kind: "shape"; readonly value: readonly number[] | undefined }
  | { readonly kind: "tensor"; readonly value: Constant }
  | { readonly kind: "func"; readonly value: TfFunc }
  /** Inside a function body: the caller's attribute of this name. */
  | { readonly kind: "placeholder"; readonly value: string }
  | {
      readonly kind: "list";
      readonly strings: readonly Uint8Array[];
      readonly ints: readonly (number | bigint)[];
      readonly floats: readonly number[];
      readonly bools: readonly boolean[];
      readonly types: readonly number[];
      readonly shapes: readonly (readonly number[] | undefined)[];
      readonly tensors: readonly Constant[];
      readonly funcs: readonly TfFunc[];
    };

/**
 * A NodeDef as its lowering sees it. Attribute getters take the default of TensorFlow's OpDef (SavedModels leave defaults out); without one
 * a missing attribute is P1321, as is one of the wrong kind.
 */
export interface TfNode {
  readonly name: string;
  readonly op: string;
  /** Data inputs, flat (a list argument takes several places); control inputs are not among them. */
  readonly ins: readonly TfValue[];
  /** Input `i` as a tensor. Throws P1322 when it is missing, P1323 when it is a handle. `i` < 0 counts from the end. */
  in(i: number): Val;
  /** Inputs `from` up to `to` (exclusive; all the rest by default; `to` < 0 counts from the end) as tensors. */
  list(from: number, to?: number): readonly Val[];
  has(attr: string): boolean;
  attr(name: string): TfAttr | undefined;
  int(name: string, fallback?: number): number;
  float(name: string, fallback?: number): number;
  bool(name: string, fallback?: boolean): boolean;
  string(name: string, fallback?: string): string;
  /** A `type` attribute as the IR's element type. Throws P1324 for a handle type. */
  type(name: string, fallback?: DType): DType;
  /** Unknown dims are -1; undefined is an unknown rank. */
  shape(name: string, fallback?: readonly number[]): readonly number[] | undefined;
  tensor(name: string): Constant;
  func(name: string): TfFunc;
  ints(name: string, fallback?: readonly number[]): readonly number[];
  floats(name: string, fallback?: readonly number[]): readonly number[];
  strings(name: string, fallback?: readonly string[]): readonly string[];
  types(name: string, fallback?: readonly number[]): readonly number[];
  /**
   * Refuses this node with a reason and a remedy (P1330): it stays in the graph as an operator that nothing runs, with this verdict, and
   * what does not depend on it still compiles.
   */
  refuse(why: string, fix?: string): never;
}

// ---- the builder ----------------------------------------------------------------------------------------------------------------------

/** A plain attribute: the registry's declaration of the canonical operator says how it is written (an int, a float, ...). */
export type PlainAttr = number | bigint | boolean | string | readonly number[] | readonly string[] | Constant | BodyRef;
export type PlainAttrs = Readonly<Record<string, PlainAttr | undefined>>;
/** A control-flow body made by `TfBuilder.body`. */
export interface BodyRef {
  readonly kind: "body";
  readonly value: Body;
  readonly outs: readonly Fact[];
}

/**
 * Writes canonical (ONNX-semantics, newest spelling) nodes; their names and `origin` are the TensorFlow node's. A result whose integer
 * elements inference knows comes back as a constant.
 */
export interface TfBuilder {
  /** One node with one result. `domain.Op` names an operator outside ai.onnx (`com.microsoft.Gelu`). */
  op(op: string, ins: readonly (Val | undefined)[], attrs?: PlainAttrs): Val;
  /** One node with `outs` results. */
  ops(op: string, ins: readonly (Val | undefined)[], attrs: PlainAttrs | undefined, outs: number): readonly Val[];
  constant(c: Constant): Val;
  const(dtype: Exclude<DType, "string">, dims: readonly number[], values: readonly (number | bigint | boolean)[]): Val;
  /** A rank-0 constant. */
  scalar(dtype: Exclude<DType, "string">, value: number | bigint | boolean): Val;
  /** A 1-D int64 constant, or a rank-0 one of a plain number. */
  int64(values: readonly (number | bigint)[] | number): Val;

  /** `x` itself when it has the type already. Float to integer truncates and wraps as TensorFlow on x86 does not promise: do not rely on it. */
  cast(x: Val, to: DType): Val;
  /** Runs `f` on `x` cast to `dtype` and casts the result back, where the canonical operator does not take x's type. */
  via(x: Val, dtype: DType, f: (x: Val) => Val): Val;
  /** Dims may be numbers (one -1 allowed; 0 is a zero dimension) or a 1-D integer tensor. */
  reshape(x: Val, dims: readonly number[] | Val): Val;
  transpose(x: Val, perm: readonly number[]): Val;
  squeeze(x: Val, axes: readonly number[]): Val;
  unsqueeze(x: Val, axes: readonly number[]): Val;
  concat(xs: readonly Val[], axis: number): Val;
  /** x[begin:end] along the given axes, constant bounds; `end` may be beyond the dimension. */
  slice(x: Val, begin: readonly number[], end: readonly number[], axes: readonly number[], steps?: readonly number[]): Val;
  gather(x: Val, indices: Val, axis?: number): Val;
  /** `x` broadcast to a shape (numbers or a 1-D integer tensor). */
  expand(x: Val, dims: readonly number[] | Val): Val;
  /** 1-D int64: a constant where all dims are known. */
  shape(x: Val): Val;
  /** int64 scalar. */
  dim(x: Val, axis: number): Val;
  /** Number of elements, int64 scalar. */
  size(x: Val): Val;
  /** A tensor of one value: `dims` numbers or a 1-D integer tensor. */
  fill(dtype: Exclude<DType, "string">, value: number | bigint | boolean, dims: readonly number[] | Val): Val;
  /** Elementwise of two operands of one type, broadcast. */
  add(a: Val, b: Val): Val;
  sub(a: Val, b: Val): Val;
  mul(a: Val, b: Val): Val;
  div(a: Val, b: Val): Val;
  where(condition: Val, a: Val, b: Val): Val;

  /** [N, spatial..., C] to [N, C, spatial...] and back; `rank` is the tensor's (4 for images). */
  toChannelsFirst(x: Val): Val;
  toChannelsLast(x: Val): Val;

  /** The rank of `x`; refuses the node when it is not known, since ONNX spells the operator by rank. */
  rank(x: Val): number;
  /** `x`'s dims; refuses the node when the rank is not known. */
  dims(x: Val): readonly Dim[];
  /** The elements of input `x` as numbers; refuses the node, naming the operand, when they are not known at compile time. */
  numbers(x: Val, what: string): readonly number[];
  /** As `numbers`, for one element. */
  number(x: Val, what: string): number;

  /**
   * A body graph for If, Loop and Scan: `inputs` are its formal inputs; values of the enclosing graph may be used inside and are captured.
   * Pass the result as attribute: `b.ops("If", [c], { then_branch: t, else_branch: e }, 1)`.
   */
  body(
    name: string,
    inputs: readonly { readonly name: string; readonly type: ValueType }[],
    make: (b: TfBuilder, ins: readonly Val[]) => readonly Val[],
  ): BodyRef;
  /** Says something worth knowing about this node that stops nothing. */
  remark(text: string, fix?: string): void;
}

// ---- the definition -------------------------------------------------------------------------------------------------------------------

interface TfOpNames {
  /** TensorFlow's operator name, or several with one lowering. */
  readonly name?: string | undefined;
  readonly names?: readonly string[] | undefined;
  /** Names of the output arguments, in order, where there is more than one: function bodies refer to results by them. */
  readonly outs?: readonly string[] | undefined;
  /** Differs from run to run. */
  readonly random?: boolean | undefined;
}
export interface TfLowering extends TfOpNames {
  /** The canonical operators it may become; empty where it becomes an operand, a constant, or nothing. */
  readonly to: readonly string[];
  /** What is worth saying in docs/operators.md: a condition, a difference. */
  readonly why?: string | undefined;
  /** The values of the node's output ports, in order; one value stands for a list of one, [] for a node without results. */
  lower(n: TfNode, b: TfBuilder): TfValue | readonly TfValue[];
}
/** Read by the importer itself, which sees more than one node at a time: inputs, functions, control flow. */
export interface TfStructure extends TfOpNames {
  readonly to: readonly string[];
  /** What becomes of it. */
  readonly structure: string;
}
export interface TfAbsent extends TfOpNames {
  /** There is no lowering, and why. */
  readonly absent: string;
  readonly fix?: string | undefined;
}
export interface TfOpDef {
  readonly names: readonly string[];
  readonly outs: readonly string[] | undefined;
  readonly random: boolean;
  readonly to: readonly string[];
  readonly why: string | undefined;
  readonly rule:
    | { readonly kind: "lower"; readonly lower: TfLowering["lower"] }
    | { readonly kind: "structure"; readonly what: string }
    | { readonly kind: "absent"; readonly why: string; readonly fix: string | undefined };
}
export function defineTfOp(def: TfLowering | TfStructure | TfAbsent): TfOpDef {
  const names = def.names ?? (def.name === undefined ? [] : [def.name]);
  if (names.length === 0) throw new Error("a TensorFlow operator needs a name");
  const common = { names, outs: def.outs, random: def.random ?? false };
  if ("absent" in def) return { ...common, to: [], why: undefined, rule: { kind: "absent", why: def.absent, fix: def.fix } };
  if ("structure" in def) return { ...common, to: def.to, why: undefined, rule: { kind: "structure", what: def.structure } };
  return { ...common, to: def.to, why: def.why, rule: { kind: "lower", lower: def.lower } };
}
