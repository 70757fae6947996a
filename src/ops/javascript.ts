/** Operators that a user supplies as a JavaScript function: what the function is told, and which nodes it stands for. */
import type { Node } from "../ir/types.js";
import type { Tensor, TensorDType, TensorLike } from "../tensor.js";

/** A tensor's type before it is there. `dims` are numbers or names of open dims; absent, the rank is not known. */
export interface OperatorType {
  readonly type: TensorDType;
  readonly dims?: readonly (number | string)[] | undefined;
}
/** Flags are 0 or 1; TensorFlow's element types are their names ("float32"), its shapes lists with -1 for open dims. */
export type OperatorAttr = number | bigint | string | Tensor | readonly (number | bigint)[] | readonly string[];
export type OperatorAttrs = Readonly<Record<string, OperatorAttr>>;

export interface Operator {
  /** The operator's name in the model: `MyOp`, `DecodeWav`. */
  readonly name: string;
  /** Its ONNX domain; "tensorflow" for one of a TensorFlow graph. By default those of TensorFlow and of every domain but ONNX's own. */
  readonly domain?: string | undefined;
  /** Names of the results, as function bodies of TensorFlow call them; needed there alone, and when there is more than one. */
  readonly outputs?: readonly string[] | undefined;
  /**
   * Computes the node: inputs in the node's order, those left out undefined; results in the order of its outputs. It runs on the thread that called
   * `session.run`, between segments, and may be asynchronous. Inputs belong to the graph: they are read, not changed.
   */
  run(
    inputs: readonly (Tensor | undefined)[],
    attrs: OperatorAttrs,
    context: { readonly node: string; readonly signal: AbortSignal | undefined },
  ): readonly TensorLike[] | Promise<readonly TensorLike[]>;
  /**
   * Types of the results. Without it they are what the model declares. What comes behind is planned with these types, and a result of another type
   * or another fixed dim is refused (P2008).
   */
  infer?(inputs: readonly (OperatorType | undefined)[], attrs: OperatorAttrs): readonly OperatorType[];
}
/** Checks an operator against the interface without widening it. */
export const defineOperator = <O extends Operator>(operator: O): O => operator;

/** The operator that computes a node. */
export const operatorOf = (operators: readonly Operator[], n: Pick<Node, "domain" | "op">): Operator | undefined =>
  operators.find((o) => o.name === n.op && (o.domain === undefined ? n.domain !== "" && n.domain !== "ai.onnx.ml" : o.domain === n.domain));
