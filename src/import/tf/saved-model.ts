/** SavedModels and MetaGraphs with a checkpoint: which graph, which signature, and what the variables hold. */
import { existsSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { defineError, didYouMean } from "../../diagnostics.js";
import type { Constant, DType } from "../../ir/types.js";
import { dtypeFromTf } from "../../ops/tf/types.js";
import { decodeMessage } from "./binary.js";
import { type Bundle, openBundle } from "./bundle.js";
import { readWhole } from "./files.js";
import { ARGUMENT, notATensor, parseRef, type RawGraph, type RawModel, type RawNode, type Ref, readGraph } from "./graph.js";
import type { MetaGraphDef, SavedModel, SignatureDef } from "./schema.js";
import { type Part, parsePart } from "./slices.js";
import { constantOfProto, shapeOfProto } from "./tensors.js";
import { parseText } from "./text.js";

export const unknownSignature = defineError<{ what: string; known: readonly string[] }>(
  "P1310",
  "a SavedModel does not have the signature asked for",
  ({ what, known }) => ({
    what,
    fix: known.length === 0 ? "name the tensors with `inputs` and `outputs`" : `use one of ${known.map((k) => `'${k}'`).join(", ")}`,
  }),
);
export const noGraph = defineError<{ what: string }>("P1314", "a SavedModel holds no graph to serve", ({ what }) => ({
  what,
  fix: "save the model again, with the tag 'serve'",
}));
export const noValue = defineError<{ name: string; why: string }>("P1315", "a variable has no value", ({ name, why }) => ({
  what: `variable '${name}' ${why}`,
  fix: "save the model together with its variables, or freeze it",
}));

/** Whether the graph as a whole is meant instead of a signature: where both ends are named, or the outputs and there is no signature. */
export type WholeGraph = "never" | "without-signature" | "always";

export interface SignatureInput {
  /** The user's name for it. */
  readonly name: string;
  readonly dtype: DType | undefined;
  /** Dims with -1 for open ones; undefined where the rank is open. */
  readonly dims: readonly number[] | undefined;
}
export interface LoadedModel {
  readonly model: RawModel;
  readonly file: string;
  readonly name: string;
  /** Inputs by tensor, and outputs, of the signature; undefined where the whole graph is meant. */
  readonly inputs: ReadonlyMap<string, SignatureInput>;
  readonly outputs: readonly { readonly ref: Ref; readonly name: string }[] | undefined;
  readonly variable: (node: RawNode) => Constant;
}

/** Reads the SavedModel in `folder`. Throws P1302 to P1315. */
export function loadSavedModel(folder: string, signature: string | undefined, whole: WholeGraph): LoadedModel {
  const binary = join(folder, "saved_model.pb");
  const file = existsSync(binary) ? binary : join(folder, "saved_model.pbtxt");
  const bytes = readWhole(file);
  const saved = file === binary ? decodeMessage<SavedModel>("SavedModel", bytes, file) : parseText<SavedModel>("SavedModel", bytes, file);
  const graphs = saved.meta_graphs ?? [];
  // Beside the graph to serve there may be one for a TPU, tagged 'serve' as well.
  const serving = graphs.filter((g) => g.meta_info_def?.tags?.includes("serve") === true);
  const meta = serving.find((g) => g.meta_info_def?.tags?.length === 1) ?? serving[0] ?? (graphs.length === 1 ? graphs[0] : undefined);
  if (meta?.graph_def === undefined)
    throw noGraph(
      { what: graphs.length === 0 ? "it holds no graph" : `none of its ${graphs.length} graphs has the tag 'serve'` },
      { file },
    );
  return loaded(meta, file, join(folder, "variables", "variables"), basename(folder), signature, whole);
}

/** Reads a MetaGraph (`prefix.meta`) and the checkpoint beside it. */
export function loadMetaGraph(path: string, signature: string | undefined, whole: WholeGraph): LoadedModel {
  const meta = decodeMessage<MetaGraphDef>("MetaGraphDef", readWhole(path), path);
  if (meta.graph_def === undefined) throw noGraph({ what: "the MetaGraph holds no graph" }, { file: path });
  const prefix = path.replace(/\.meta$/, "");
  return loaded(meta, path, prefix, basename(prefix), signature, (meta.signature_def?.size ?? 0) === 0 ? "always" : whole);
}

function loaded(
  meta: MetaGraphDef,
  file: string,
  prefix: string,
  name: string,
  signature: string | undefined,
  whole: WholeGraph,
): LoadedModel {
  const model = readGraph(meta.graph_def ?? {}, file);
  const none = signaturesOf(meta).length === 0;
  const chosen = whole === "always" || (whole === "without-signature" && none) ? undefined : signatureOf(meta, signature, file);
  const inputs = new Map<string, SignatureInput>();
  for (const [key, info] of chosen?.inputs ?? []) {
    const dims = shapeOfProto(info.tensor_shape, { file, value: key });
    if (info.name !== undefined) inputs.set(canonical(info.name), { name: key, dtype: dtypeFromTf(info.dtype ?? 0), dims });
  }
  const outputs =
    chosen === undefined
      ? undefined
      : [...(chosen.outputs ?? [])].map(([key, info]) => {
          if (info.name === undefined)
            throw notATensor({ what: `'${key}' is a sparse or ragged tensor, which is several` }, { file, value: key });
          return { name: key, ref: parseRef(info.name, { file, value: key }) };
        });
  let bundle: Bundle | undefined;
  let keys: RestoredKeys | undefined;
  return {
    model,
    file,
    name,
    inputs,
    outputs,
    variable(node) {
      if (bundle === undefined) {
        const index = `${prefix}.index`;
        if (!existsSync(index))
          throw noValue(
            { name: node.name, why: `has no checkpoint: '${basename(index)}' is not in '${basename(dirname(index))}'` },
            { file },
          );
        bundle = openBundle(prefix);
        keys = restoredKeys(model, file);
      }
      const shared = node.attrs.get("shared_name")?.s;
      const own = shared === undefined || shared.length === 0 ? node.name : Buffer.from(shared).toString("utf8");
      const restored = keys?.own.get(node.name);
      const candidates = [own, `${own}/.ATTRIBUTES/VARIABLE_VALUE`, node.name].map((key): Restored => ({ key, part: undefined }));
      for (const source of [restored, ...candidates, keys?.copies.get(node.name)]) {
        const found = source === undefined ? undefined : bundle.tensor(source.key, source.part);
        if (found !== undefined) return found;
      }
      const near = didYouMean(own, bundle.keys().slice(0, 5000));
      throw noValue(
        { name: own, why: `is not in the checkpoint${near === undefined ? "" : `; '${near}' is near`}` },
        { file, node: node.name, op: node.op },
      );
    },
  };
}

const canonical = (tensor: string): string => (/:\d+$/.test(tensor) ? tensor : `${tensor}:0`);

const signaturesOf = (meta: MetaGraphDef): readonly [string, SignatureDef][] =>
  [...(meta.signature_def ?? [])].filter(([key]) => !key.startsWith("__saved_model_"));

function signatureOf(meta: MetaGraphDef, wanted: string | undefined, file: string): SignatureDef {
  const all = signaturesOf(meta);
  const known = all.map(([key]) => key);
  const name = wanted ?? "serving_default";
  const found = all.find(([key]) => key === name) ?? (name === "serving_default" && all.length === 1 ? all[0] : undefined);
  if (found === undefined)
    throw unknownSignature({ what: known.length === 0 ? "it has no signatures" : `it has no signature '${name}'`, known }, { file });
  return found[1];
}

/** A tensor of the checkpoint, or a part of it. */
interface Restored {
  readonly key: string;
  readonly part: Part | undefined;
}
interface RestoredKeys {
  /** What of the checkpoint restores a variable, by its node. */
  readonly own: ReadonlyMap<string, Restored>;
  /** Keys of a copy by the variable that it starts as: Keras 3's variables are saved by way of one, and not themselves. */
  readonly copies: ReadonlyMap<string, Restored>;
}
/** The keys are followed back from each assignment to the RestoreV2 that feeds it. */
function restoredKeys(model: RawModel, file: string): RestoredKeys {
  const keys = new Map<string, Restored>();
  const behind = (g: RawGraph, ref: Ref | undefined): { readonly node: RawNode; readonly port: number } | undefined => {
    let at = ref;
    for (let steps = 0; at !== undefined && steps < 100; steps++) {
      const node = g.nodes.get(at.node);
      if (node === undefined) return undefined;
      if (node.op !== "Identity") return { node, port: at.port };
      at = node.ins[0];
    }
    return undefined;
  };
  const lists = new Map<RawNode, readonly Restored[]>();
  const listOf = (g: RawGraph, restore: RawNode): readonly Restored[] => {
    const [names, parts] = [1, 2].map((i) => stringsOf(behind(g, restore.ins[i])?.node, file));
    return (names ?? []).map((key, i) => ({ key, part: parsePart(parts?.[i] ?? "") }));
  };
  const assignments = (g: RawGraph, visit: (target: RawNode, source: Restored) => void): void => {
    for (const n of g.nodes.values()) {
      if (n.op !== "AssignVariableOp" && n.op !== "Assign") continue;
      const [target, source] = [behind(g, n.ins[0]), behind(g, n.ins[1])];
      if (target === undefined || source?.node.op !== "RestoreV2") continue;
      const list = lists.get(source.node) ?? listOf(g, source.node);
      lists.set(source.node, list);
      const key = list[source.port];
      if (key !== undefined) visit(target.node, key);
    }
  };
  assignments(model, (target, key) => keys.set(target.name, key));
  const byFunction = new Map<string, ReadonlyMap<number, Restored>>();
  for (const f of model.functions.values()) {
    const args = new Map<number, Restored>();
    assignments(f, (target, key) => {
      if (target.op === ARGUMENT) args.set(target.index, key);
    });
    if (args.size > 0) byFunction.set(f.name, args);
  }
  for (const n of model.nodes.values()) {
    const called = n.attrs.get("f")?.func?.name;
    const args = called === undefined ? undefined : byFunction.get(called);
    for (const [i, key] of args ?? []) {
      const target = behind(model, n.ins[i]);
      if (target !== undefined) keys.set(target.node.name, key);
    }
  }
  const copies = new Map<string, Restored>();
  const twice = new Set<string>();
  for (const n of model.nodes.values()) {
    if (n.op !== "AssignVariableOp") continue;
    const [target, read] = [behind(model, n.ins[0])?.node, behind(model, n.ins[1])?.node];
    const source = read?.op === "ReadVariableOp" ? behind(model, read.ins[0])?.node : undefined;
    const key = target === undefined ? undefined : keys.get(target.name);
    if (source?.op !== "VarHandleOp" || key === undefined) continue;
    if (copies.has(source.name)) twice.add(source.name);
    copies.set(source.name, key);
  }
  // Of two copies, either may have changed since.
  for (const name of twice) copies.delete(name);
  return { own: keys, copies };
}

function stringsOf(node: RawNode | undefined, file: string): readonly string[] {
  const t = node?.op === "Const" ? node.attrs.get("value")?.tensor : undefined;
  if (t === undefined || node === undefined) return [];
  const c = constantOfProto(t, { file, node: node.name });
  return c.data.kind === "strings" ? c.data.values.map((s) => Buffer.from(s).toString("utf8")) : [];
}
