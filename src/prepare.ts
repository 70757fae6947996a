/** From a model to the graph that is quantized and partitioned: import, cut, inference, passes. Calibration and compilation share it. */
import type { Remarks } from "./diagnostics.js";
import { evaluate } from "./engines/host/index.js";
import { Bindings } from "./import/bind.js";
import { cut, valueNamed } from "./import/cut.js";
import { detect, detectBytes, type Format, importModel } from "./import/index.js";
import { typeOperators } from "./import/operators.js";
import type { BoundInput } from "./ir/bound.js";
import { axisSymbol, symbolsOf } from "./ir/dims.js";
import { Editor } from "./ir/edit.js";
import { readsOf, valueAt } from "./ir/graph.js";
import { canonicalOrder } from "./ir/order.js";
import type { Graph, Value } from "./ir/types.js";
import { type InferOptions, inferGraph } from "./ops/infer.js";
import { badOption, pathOf, type Settings } from "./options.js";
import { type PassRecord, runPasses } from "./passes/pass.js";
import { pipeline } from "./passes/pipeline.js";

/** A path, a file URL, the bytes of a model, or a graph. */
export type ModelInput = string | URL | Uint8Array | Graph;

export interface Prepared {
  /** As imported and cut. */
  readonly original: Graph;
  /** With inferred types. */
  readonly typed: Graph;
  /** What the passes left. */
  readonly graph: Graph;
  readonly passes: readonly PassRecord[];
  /** Dims of inputs by their own names; those of a range are open. */
  readonly shapes: NonNullable<InferOptions["shapes"]>;
  /** The value's own name behind what a user calls it: a node's name, an alias. */
  readonly own: (name: string) => string;
  /** Inputs that were bound to values, by what the caller calls them. */
  readonly bound: Readonly<Record<string, BoundInput>>;
}

export async function prepare(model: ModelInput, settings: Settings, remarks: Remarks): Promise<Prepared> {
  const step = (stage: string, fraction: number): void => {
    settings.signal?.throwIfAborted();
    settings.onProgress({ stage, fraction });
  };
  const given = Object.fromEntries(Object.entries(settings.shapes).map(([name, s]) => [name, dynamicDims(s)]));
  step("import", 0);
  const bindings = new Bindings(settings.bind, given);
  const source = model instanceof URL ? pathOf(model, "model") : model;
  demandSigned(source, settings.signature);
  const imported =
    typeof source === "object" && source !== null && "nodes" in source
      ? cut(source, settings.inputs, settings.outputs)
      : await importModel(source, {
          signature: settings.signature,
          inputs: settings.inputs,
          outputs: settings.outputs,
          shapes: given,
          bindings,
          remarks: settings.onRemark,
          operators: settings.operators,
        });
  const untyped = canonicalOrder(bindings.apply(imported));
  // Shapes may be given under a node's name or an alias; from here on they go by the value's own.
  const own = (name: string): string => (bindings.has(name) ? name : valueAt(untyped, valueNamed(untyped, name)).name);
  const shapes: Record<string, readonly (number | string)[]> = Object.fromEntries(
    Object.entries(settings.shapes).flatMap(([name, s]) =>
      bindings.has(name) ? [] : [[own(name), openDims(s, valueAt(untyped, valueNamed(untyped, name)))] as const],
    ),
  );
  // Engines by shape need a name for every open dim: kernels are made for the dims that come, and a name says which of them are one.
  for (const id of settings.dynamic === undefined && settings.targets.every((t) => t === "host") ? [] : untyped.inputs) {
    const value = valueAt(untyped, id);
    const dims = value.type.kind === "tensor" ? value.type.shape : undefined;
    if (dims?.includes("?") === true && !Object.hasOwn(shapes, value.name))
      shapes[value.name] = dims.map((d, i) => (d === "?" ? axisSymbol(value.name, i) : d));
  }
  const original = typeOperators(untyped, settings.operators, { shapes });
  step("infer", 0.1);
  const typed = inferGraph(original, { shapes, remarks }).graph;
  const { graph, log } = await runPasses(typed, pipeline, {
    evaluate,
    remarks,
    shapes,
    verify: settings.verify,
    onPass: (pass) => step(pass, 0.2),
  });
  const { bound } = bindings;
  const decided = Object.keys(bound).length === 0 ? graph : withoutUnread(graph, original, remarks);
  return { original, typed, graph: decided, passes: log, shapes, own, bound };
}

/** Without the inputs that only what was decided against by a bound value had read: the branch of a decoder that is not taken. */
function withoutUnread(g: Graph, original: Graph, remarks: Remarks): Graph {
  const needed = (of: Graph) => new Set([...of.outputs, ...of.nodes.flatMap(readsOf)].map((id) => valueAt(of, id).name));
  const [before, after] = [needed(original), needed(g)];
  const gone = g.inputs.map((id) => valueAt(g, id).name).filter((name) => before.has(name) && !after.has(name));
  if (gone.length === 0) return g;
  remarks({
    severity: "note",
    text: `nothing reads ${gone.length === 1 ? "input" : "the inputs"} ${gone.map((name) => `'${name}'`).join(", ")} any more, as other inputs are bound: not among the program's inputs`,
  });
  const e = new Editor(g);
  e.setInputs(g.inputs.filter((id) => !gone.includes(valueAt(g, id).name)));
  return e.finish();
}

/** Dims of a range: those that do not vary are numbers, the others stay open. */
function dynamicDims(s: Settings["shapes"][string]): readonly (number | string)[] {
  return s.opt.map((d, i) => (s.min[i] === s.max[i] ? d : "?"));
}
/** As `dynamicDims`, where a dim that varies has a name: the model's own for it, or the input's with its place. */
function openDims(s: Settings["shapes"][string], { name, type }: Value): readonly (number | string)[] {
  const declared = type.kind === "tensor" ? type.shape : undefined;
  return dynamicDims(s).map((d, i) => {
    if (typeof d === "number") return d;
    const own = declared?.[i];
    return typeof own === "string" && symbolsOf(own).join() === own ? own : axisSymbol(name, i);
  });
}

/** Throws P1001 for a signature, other than the default one, of a model that can have none. What is no model is told by whoever reads it. */
function demandSigned(model: string | Uint8Array | Graph, signature: string): void {
  if (signature === "serving_default") return;
  let kind: string | undefined;
  // A .meta is a GraphDef that may have signatures.
  if (typeof model === "string") kind = model === "" || model.endsWith(".meta") ? undefined : KINDS[detect(model)];
  else if (model instanceof Uint8Array) kind = model.length === 0 ? undefined : KINDS[detectBytes(model)];
  else if (typeof model === "object" && model !== null && "nodes" in model) kind = "a graph";
  if (kind !== undefined)
    throw badOption({
      name: "signature",
      what: `is '${signature}', and ${kind} has none`,
      fix: "leave it out: it chooses among those of a SavedModel",
    });
}
const KINDS: Partial<Record<Format, string>> = { onnx: "an ONNX model", graphdef: "a GraphDef" };
