/** From a TensorFlow model to a graph: GraphDef (binary or text), SavedModel. Inputs and outputs keep TensorFlow's names. */
import { statSync } from "node:fs";
import { basename, dirname } from "node:path";
import { defineError, didYouMean, PartitaError, type Remarks } from "../../diagnostics.js";
import { symbol } from "../../ir/dims.js";
import { Editor } from "../../ir/edit.js";
import { bodiesOf, valueAt } from "../../ir/graph.js";
import type { Dim, Graph, Shape, ValueId, ValueType } from "../../ir/types.js";
import { type Operator, operatorOf } from "../../ops/javascript.js";
import type { TfValue, Val } from "../../ops/tf/define.js";
import type { Bindings } from "../bind.js";
import { decodeMessage } from "./binary.js";
import { Builder, type Shared } from "./builder.js";
import { readWhole } from "./files.js";
import { malformed, notATensor, parseRef, type RawModel, type RawNode, type Ref, readGraph } from "./graph.js";
import { Lowering, type Scope } from "./lower.js";
import { NodeView } from "./node-view.js";
import { type LoadedModel, loadMetaGraph, loadSavedModel, noValue, type SignatureInput } from "./saved-model.js";
import type { GraphDef } from "./schema.js";
import { parseText } from "./text.js";

export const unknownTensor = defineError<{ name: string; near: string | undefined; what: string }>(
  "P1307",
  "an option names a tensor that the TensorFlow graph does not have",
  ({ name, near, what }) => ({
    what: `${what} '${name}' is not in the graph`,
    fix: near === undefined ? "list the names with `partita inspect MODEL --ir`" : `did you mean '${near}'?`,
  }),
);

export interface ImportTfOptions {
  /** Names the model in messages; the path by default. */
  readonly file?: string | undefined;
  /** Tensors (`node` or `node:port`) that become the graph's inputs; what computes them is cut off. Default: the placeholders. */
  readonly inputs?: readonly string[] | undefined;
  /** Tensors that become the outputs. Default: the results that nobody consumes. */
  readonly outputs?: readonly string[] | undefined;
  /** A SavedModel's signature; `serving_default` by default. */
  readonly signature?: string | undefined;
  /** Shapes of inputs by name; they replace the declared ones, so that more can be decided at import. */
  readonly shapes?: Readonly<Record<string, Shape>> | undefined;
  /** Inputs that are bound to values: what they decide is decided at import. */
  readonly bindings?: Bindings | undefined;
  readonly remarks?: Remarks | undefined;
  /** The user's own operators: their nodes are kept as they are, whatever lowering there is. */
  readonly operators?: readonly Operator[] | undefined;
}

/** A model ready to be lowered: its graph, what is asked of it, and what its variables hold. */
export interface TfModel {
  readonly model: RawModel;
  readonly file: string | undefined;
  /** Names the graph. */
  readonly name: string;
  /** The signature's inputs, by `node:port`; placeholders that are not listed are named by their tensor. */
  readonly inputs: ReadonlyMap<string, SignatureInput>;
  readonly outputs: readonly { readonly ref: Ref; readonly name: string }[] | undefined;
  readonly variable: (node: RawNode, view: NodeView, b: Builder) => TfValue;
}

/**
 * Reads a TensorFlow model: a SavedModel's folder, a GraphDef (binary or text), a MetaGraph (`.meta`) with its checkpoint beside it, or the bytes
 * of a GraphDef, which are kept by reference. Throws P11xx, P13xx, P15xx.
 */
export function importTf(input: string | Uint8Array, options: ImportTfOptions = {}): Graph {
  if (typeof input === "string") {
    const folder = statSync(input, { throwIfNoEntry: false })?.isDirectory() === true ? input : undefined;
    const saved = folder ?? (/^saved_model\.pb(txt)?$/.test(basename(input)) ? dirname(input) : undefined);
    const whole = options.outputs === undefined ? "never" : options.inputs === undefined ? "without-signature" : "always";
    if (saved !== undefined) return lowerModel(withVariables(loadSavedModel(saved, options.signature, whole)), options);
    if (input.endsWith(".meta")) return lowerModel(withVariables(loadMetaGraph(input, options.signature, whole)), options);
  }
  const file = options.file ?? (typeof input === "string" ? input : undefined);
  const bytes = typeof input === "string" ? readWhole(input) : input;
  const graph = isText(bytes) ? parseText<GraphDef>("GraphDef", bytes, file) : decodeMessage<GraphDef>("GraphDef", bytes, file);
  return lowerModel(
    {
      model: readGraph(graph, file),
      file,
      name: "graph",
      inputs: new Map(),
      outputs: undefined,
      variable: (n) => {
        throw noValue({ name: n.name, why: "is not frozen, and a GraphDef holds no values" }, { file, node: n.name, op: n.op });
      },
    },
    options,
  );
}

/** Text begins with a word or a comment; a binary GraphDef with the tag of its first field, which is a line's end as well, and a tag soon after. */
function isText(bytes: Uint8Array): boolean {
  const start = Buffer.from(bytes.subarray(0, 256)).toString("latin1");
  return /^\s*(#|[a-z_]+\s*[:{<])/.test(start) && (bytes[0] !== 0x0a || !/[^\t-\r -~]/.test(start));
}

/** Variables as constants: a handle for resource variables, the tensor itself for TensorFlow 1's. */
function withVariables(m: LoadedModel): TfModel {
  return {
    ...m,
    variable: (node, _view, b) => {
      const value = b.namedConstant(node.name, m.variable(node));
      return node.op === "VarHandleOp" ? { kind: "variable", name: node.name, value } : value;
    },
  };
}

/** Lowers a model's graph. */
export function lowerModel(m: TfModel, options: ImportTfOptions): Graph {
  const { model, file } = m;
  const outputs =
    options.outputs?.map(
      (name) => m.outputs?.find((o) => o.name === name) ?? { ref: refOf(model, name, "output", file), name: full(name) },
    ) ??
    m.outputs ??
    defaultOutputs(model).map((node) => ({ ref: { node, port: -1 }, name: node }));
  if (outputs.length === 0) throw notATensor({ what: "the graph has no result that nobody consumes" }, { file });
  const shared: Shared = { file, remarks: options.remarks ?? (() => {}), nodes: 0, root: undefined };
  const editor = new Editor({ name: m.name, opsets: { "": 18 }, extra: file === undefined ? {} : { file } });
  const b = new Builder(editor, shared, undefined);
  const cuts: Cuts = new Map();
  const made: { readonly id: ValueId; readonly index: number }[] = [];
  const lowering = new Lowering(model, shared, {
    roots: outputs.map((o) => o.ref),
    cuts,
    placeholder: (node, view) => {
      if (model.nodes.get(node.name) !== node)
        throw malformed({ what: "a placeholder in a function is no input" }, { file, node: node.name, op: node.op });
      const name = m.inputs.get(`${node.name}:0`)?.name ?? `${node.name}:0`;
      const v = declare(name, placeholderType(view, name.replace(/:0$/, ""), model.producer), [`${node.name}:0`, node.name]);
      if (editor.constant(v.id) === undefined) made.push({ id: v.id, index: node.index });
      return v;
    },
    variable: (node, view) => m.variable(node, view, b),
    supplied: (op) => operatorOf(options.operators ?? [], { domain: "tensorflow", op }),
  });
  const declare = (name: string, type: ValueType, aliases: readonly string[] = []): Val => {
    const value = options.bindings?.take([name, name.replace(/:0$/, ""), ...aliases], type, file);
    if (value !== undefined) return b.namedConstant(name, value);
    const given = options.shapes?.[name] ?? options.shapes?.[name.replace(/:0$/, "")];
    const v = b.input(name, given !== undefined && type.kind === "tensor" ? { ...type, shape: merged(type.shape, given, name) } : type);
    v.shape?.forEach((d, axis) => {
      if (typeof d === "string" && d !== "?") b.bindSymbol(d, v, axis);
    });
    return v;
  };
  // A default that is overridden is an input, which then is bound.
  const overridden = (options.bindings?.names ?? []).filter(
    (name) => model.nodes.get(name.replace(/:0$/, ""))?.op === "PlaceholderWithDefault",
  );
  for (const name of new Set([...(options.inputs ?? []), ...overridden])) {
    const ref = refOf(model, name, "input", file);
    const node = model.nodes.get(ref.node);
    if (isPlaceholder(node)) continue;
    cut(cuts, ref, declare(full(name), cutType(m, ref, node, options)));
  }
  // A signature may feed any tensor: a placeholder with a default, or what the graph would compute itself.
  for (const [tensor, input] of m.inputs) {
    const ref = refOf(model, tensor, "input", file);
    const node = model.nodes.get(ref.node);
    if (node === undefined || isPlaceholder(node) || cuts.get(ref.node)?.has(ref.port) === true) continue;
    const { dtype, dims, name } = input;
    if (dtype === undefined) throw malformed({ what: `the signature's input '${name}' has no element type` }, { file, value: name });
    const v = declare(name, { kind: "tensor", dtype, shape: symbolic(dims, name) }, [tensor, ref.node]);
    cut(cuts, ref, v);
    if (editor.constant(v.id) === undefined) made.push({ id: v.id, index: node.index });
  }
  const scope: Scope = {
    graph: model,
    builder: b,
    outer: undefined,
    belongs: undefined,
    values: new Map(),
    open: new Set(),
    attrs: undefined,
    calls: [],
    path: "",
  };
  const results = outputs.flatMap(({ ref, name }) => {
    if (ref.port >= 0) return [{ name, value: lowering.value(scope, ref), rename: m.outputs !== undefined }];
    return lowering
      .results(scope, ref.node)
      .flatMap((value, port) => (value === undefined ? [] : [{ name: `${name}:${port}`, value, rename: false }]));
  });
  // Who serves a signature feeds all of its inputs, also those that nothing reads.
  if (options.inputs === undefined && options.outputs === undefined)
    for (const [tensor, { dtype }] of m.inputs) if (dtype !== undefined) lowering.value(scope, refOf(model, tensor, "input", file));
  const tensors = results.flatMap(({ name, value, rename }) => {
    if (value.kind === "tensor") return [{ name, value, rename }];
    if (options.outputs === undefined && m.outputs === undefined) return [];
    throw notATensor({ what: `'${name}' is a ${value.kind === "opaque" ? value.what : value.kind}, no tensor` }, { file, value: name });
  });
  // Inputs in the file's order, whatever the order in which they were needed.
  const given = editor.inputs.filter((v) => !made.some((p) => p.id === v));
  editor.setInputs([...given, ...made.sort((p, q) => p.index - q.index).map((p) => p.id)]);
  b.setOutputs(tensors);
  for (const r of lowering.refusals) shared.remarks({ severity: "warning", text: r.what, where: r.where, fix: r.fix });
  const draft = editor.finish();
  const graph = comparesText(draft) ? { ...draft, opsets: { ...draft.opsets, "": 19 } } : draft;
  const aliases = Object.fromEntries([
    ...[...m.inputs].flatMap(([tensor, { name }]) =>
      graph.inputs.some((v) => valueAt(graph, v).name === name) ? [[tensor, name] as const] : [],
    ),
    ...results.flatMap(({ name }) => {
      const ref = m.outputs?.find((o) => o.name === name)?.ref;
      return ref === undefined ? [] : [[`${ref.node}:${ref.port}`, name]];
    }),
  ]);
  return Object.keys(aliases).length === 0 ? graph : { ...graph, extra: { ...graph.extra, aliases } };
}

type Cuts = Map<string, Map<number, TfValue>>;
function cut(cuts: Cuts, ref: Ref, v: TfValue): void {
  const of = cuts.get(ref.node) ?? new Map<number, TfValue>();
  cuts.set(ref.node, of);
  of.set(ref.port, v);
}
const isPlaceholder = (node: RawNode | undefined): boolean => node?.op === "Placeholder" || node?.op === "PlaceholderV2";

/** Whether text is compared, which ONNX can say since opset 19. */
const comparesText = (g: Graph): boolean =>
  g.nodes.some((n) => {
    const [x] = n.op === "Equal" && n.domain === "" ? n.ins : [];
    const type = x === undefined ? undefined : g.values[x]?.type;
    return (type?.kind === "tensor" && type.dtype === "string") || bodiesOf(n).some(({ body }) => comparesText(body.graph));
  });

/** Given dims, the declared ones where those are open, symbols where both are. */
function merged(declared: Shape, given: readonly Dim[], name: string): Shape {
  const open = symbolic(
    given.map(() => -1),
    name.replace(/:0$/, ""),
  );
  return given.map((d, i) => (d !== "?" ? d : declared?.length === given.length ? (declared[i] ?? d) : (open?.[i] ?? d)));
}

const full = (name: string): string => (/:\d+$/.test(name) ? name : `${name}:0`);

function refOf(model: RawModel, name: string, what: string, file: string | undefined): Ref {
  const ref = parseRef(name, { file, value: name });
  if (model.nodes.has(ref.node)) return ref;
  const near = model.nodes.size > 20_000 ? undefined : didYouMean(ref.node, model.nodes.keys());
  throw unknownTensor({ name, near, what }, { file });
}

const NO_RESULT: ReadonlySet<string> = new Set([
  "NoOp",
  "Assert",
  "ControlTrigger",
  "PrintV2",
  "SaveV2",
  "RestoreV2",
  "Assign",
  "AssignVariableOp",
  "MergeV2Checkpoints",
  "ShardedFilename",
  "VarIsInitializedOp",
]);

/** Nodes whose results nobody reads, by data or by control; where control is all that reads them, those. */
function defaultOutputs(model: RawModel): readonly string[] {
  const read = new Set<string>();
  const controlled = new Set<string>();
  for (const n of model.nodes.values()) {
    for (const r of n.ins) read.add(r.node);
    for (const c of n.controls) controlled.add(c);
  }
  const free = [...model.nodes.values()].filter((n) => !read.has(n.name) && !NO_RESULT.has(n.op));
  const computed = free.filter((n) => n.op !== "Const" && !n.op.startsWith("Placeholder"));
  for (const list of [computed.filter((n) => !controlled.has(n.name)), computed, free]) if (list.length > 0) return list.map((n) => n.name);
  return [];
}

/** Dims that a placeholder leaves open are symbols of its name. */
function placeholderType(view: NodeView, name: string, producer: number): ValueType {
  const dtype = view.type("dtype");
  const said = view.has("shape") ? view.shape("shape") : undefined;
  // Graphs of TensorFlow before version 24 of the format wrote an unknown shape as that of a scalar.
  const declared = said?.length === 0 && producer > 0 && producer < 24 ? undefined : said;
  return { kind: "tensor", dtype, shape: symbolic(declared, name) };
}
export const symbolic = (dims: readonly number[] | undefined, name: string): Shape =>
  dims?.map((d, i): Dim => (d < 0 ? symbol(`${name.replace(/[^\w.]/g, "_").replace(/^(?=\d)/, "_")}.d${i}`) : d));

/** The type of a tensor that becomes an input: what lowering makes of the part in front of it, else what a reader's attributes say. */
function cutType(m: TfModel, ref: Ref, node: RawNode | undefined, options: ImportTfOptions): ValueType {
  // The default may have dims that the placeholder leaves open.
  if (node?.op === "PlaceholderWithDefault" && node.attrs.has("shape"))
    return placeholderType(new NodeView(node, node.name, [], undefined, m.file), node.name, m.model.producer);
  try {
    const g = lowerModel({ ...m, outputs: [{ ref, name: "cut" }] }, { shapes: options.shapes, operators: options.operators });
    const [out] = g.outputs;
    const type = out === undefined ? undefined : g.values[out]?.type;
    if (type?.kind === "tensor") return type;
  } catch (error) {
    // The part in front need not be readable: that is what cutting is for.
    if (!(error instanceof PartitaError)) throw error;
  }
  for (const reader of m.model.nodes.values()) {
    const at = reader.ins.findIndex((r) => r.node === ref.node && r.port === ref.port);
    if (at < 0) continue;
    const view = new NodeView(reader, reader.name, [], undefined, m.file);
    for (const key of ["SrcT", "T"]) if (view.has(key)) return { kind: "tensor", dtype: view.type(key), shape: undefined };
  }
  throw notATensor(
    { what: `the element type of '${ref.node}:${ref.port}' is not known` },
    { file: m.file, node: node?.name, op: node?.op },
  );
}
