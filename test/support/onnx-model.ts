/** Makes ONNX files field by field, faults included: what the exporter would never write. */
import { type Field, intField, messageField, textField, writeMessage } from "../fuzz/proto.js";

export const FLOAT = 1;
export const INT64 = 7;

export interface NodeSpec {
  readonly op: string;
  readonly ins?: readonly string[];
  readonly outs?: readonly string[];
  readonly name?: string;
  readonly domain?: string;
  readonly attrs?: readonly Field[];
}
export const node = (n: NodeSpec): readonly Field[] => [
  ...(n.ins ?? []).map((s) => textField(1, s)),
  ...(n.outs ?? []).map((s) => textField(2, s)),
  ...(n.name === undefined ? [] : [textField(3, n.name)]),
  textField(4, n.op),
  ...(n.domain === undefined ? [] : [textField(7, n.domain)]),
  ...(n.attrs ?? []),
];
/** An AttributeProto of a node: its own fields, the name in front. */
export const attribute = (name: string, ...fields: readonly Field[]): Field => messageField(5, "attribute", textField(1, name), ...fields);
export const intAttribute = (name: string, x: number): Field => attribute(name, intField(3, x), intField(20, 2));

/** A ValueInfoProto of a tensor; dims that are text are symbolic, undefined leaves the shape out. */
export const info = (name: string, dims?: readonly (number | string)[], type = FLOAT): readonly Field[] => [
  textField(1, name),
  messageField(
    2,
    "type",
    messageField(
      1,
      "tensorType",
      intField(1, type),
      ...(dims === undefined
        ? []
        : [messageField(2, "shape", ...dims.map((d) => messageField(1, "dim", typeof d === "number" ? intField(1, d) : textField(2, d))))]),
    ),
  ),
];
/** A TensorProto: dims, type, and what else it holds. */
export const tensor = (name: string, dims: readonly (number | bigint)[], type: number, ...fields: readonly Field[]): readonly Field[] => [
  ...dims.map((d) => intField(1, d)),
  intField(2, type),
  textField(8, name),
  ...fields,
];
export const rawData = (bytes: Uint8Array): Field => ({ number: 9, wire: 2, value: bytes });
/** Says that a tensor's bytes lie in another file. */
export const external = (entries: Readonly<Record<string, string>>): readonly Field[] => [
  ...Object.entries(entries).map(([k, v]) => messageField(13, "entry", textField(1, k), textField(2, v))),
  intField(14, 1),
];

export interface ModelSpec {
  readonly nodes?: readonly NodeSpec[];
  readonly inputs?: readonly (readonly Field[])[];
  readonly outputs?: readonly (readonly Field[])[];
  readonly infos?: readonly (readonly Field[])[];
  readonly initializers?: readonly (readonly Field[])[];
  /** Versions of operator sets by domain. Default: ai.onnx 18. */
  readonly opsets?: Readonly<Record<string, number>>;
  /** FunctionProtos. */
  readonly functions?: readonly (readonly Field[])[];
  /** More fields of the model, and of the graph. */
  readonly more?: readonly Field[];
  readonly moreOfGraph?: readonly Field[];
}
export function model(m: ModelSpec): Uint8Array {
  return writeMessage({
    kind: "model",
    fields: [
      intField(1, 8),
      messageField(
        7,
        "graph",
        ...(m.nodes ?? []).map((n) => messageField(1, "node", ...node(n))),
        textField(2, "main"),
        ...(m.initializers ?? []).map((t) => messageField(5, "tensor", ...t)),
        ...(m.inputs ?? [info("x", [2])]).map((i) => messageField(11, "info", ...i)),
        ...(m.outputs ?? [info("y", [2])]).map((i) => messageField(12, "info", ...i)),
        ...(m.infos ?? []).map((i) => messageField(13, "info", ...i)),
        ...(m.moreOfGraph ?? []),
      ),
      ...Object.entries(m.opsets ?? { "": 18 }).map(([domain, version]) =>
        messageField(8, "opset", textField(1, domain), intField(2, version)),
      ),
      ...(m.functions ?? []).map((f) => messageField(25, "function", ...f)),
      ...(m.more ?? []),
    ],
  });
}
