/**
 * Bundles as ONNX models with EPContext nodes (domain com.microsoft), which ONNX Runtime's TensorRT providers load without building anything:
 * one model of a single node for every TensorRT segment, and one of the whole graph, host parts as they are. Plans lie beside, by name.
 */
import type { Artifact } from "../engines/engine.js";
import { notExported } from "../engines/tensorrt/errors.js";
import { portsOf } from "../engines/tensorrt/ports.js";
import { encodeOnnx } from "../import/onnx/export.js";
import { importOnnx } from "../import/onnx/index.js";
import { Editor } from "../ir/edit.js";
import { bodiesOf, displayName, valueAt } from "../ir/graph.js";
import { fromTensor } from "../ir/payload.js";
import type { Attr, Body, Graph, ValueId, ValueType } from "../ir/types.js";
import { isTensorDType } from "../tensor.js";
import type { Plan, Port } from "./ports.js";

/** A file to write: its name within the folder, and what is in it. */
export type ExportedFile = { readonly name: string; readonly bytes: Uint8Array } | { readonly name: string; readonly path: string };

const FORMAT = "EPContext";
const PROVIDERS: Readonly<Record<string, string>> = {
  TensorRT: "TensorrtExecutionProvider",
  "TensorRT-RTX": "NvTensorRTRTXExecutionProvider",
};

/** The files of the export; `name` is the mixed model's. Throws P2240 for segments of another engine than TensorRT and the host. */
export function epContextFiles(plan: Plan, artifacts: readonly Artifact[], name: string): readonly ExportedFile[] {
  const files: ExportedFile[] = [];
  const draft = new Editor({ name, opsets: {} });
  const known = new Map<string, ValueId>();
  for (const p of plan.inputs) known.set(p.name, draft.addInput(p.name, typeOf(p)));
  plan.steps.forEach((step, i) => {
    const artifact = artifacts[i] as Artifact;
    if (artifact.engine === "host") {
      graft(draft, known, hostGraph(artifact, step.segment));
      return;
    }
    if (artifact.engine !== "tensorrt")
      throw notExported({ segment: step.segment, engine: artifact.engine, format: FORMAT, fix: "compile with --target tensorrt,host" });
    files.push(...planFiles(artifact, step.segment));
    const alone = new Editor({ name: step.segment, opsets: {} });
    const inside = new Map<string, ValueId>();
    for (const p of portsOf(artifact).inputs) inside.set(p.name, alone.addInput(p.name, typeOf(p)));
    contextNode(alone, inside, artifact, step.segment);
    alone.setOutputs(artifact.outputs.map((o) => inside.get(o) as ValueId));
    files.push({ name: `${step.segment}_ctx.onnx`, bytes: encodeOnnx(alone.finish()) });
    contextNode(draft, known, artifact, step.segment);
  });
  draft.setOutputs(plan.outputs.map((p) => outputOf(draft, known, plan, p)));
  files.push({ name: `${name}_ctx.onnx`, bytes: encodeOnnx(draft.finish()) });
  return files;
}

/** The plan, and the weights that a stripped one lacks. ONNX Runtime knows a stripped plan by its name. */
function planFiles(artifact: Artifact, segment: string): readonly ExportedFile[] {
  const as = (from: string, name: string): readonly ExportedFile[] => {
    const f = artifact.files.find((file) => file.name === from);
    return f === undefined ? [] : ["bytes" in f ? { name, bytes: f.bytes } : { name, path: f.path }];
  };
  return [...as("engine.plan", planName(artifact, segment)), ...as("segment.onnx", `${segment}.onnx`)];
}
const planName = (artifact: Artifact, segment: string): string =>
  `${segment}${artifact.settings?.["weights"] === "stripped" ? ".stripped" : ""}.engine`;

function contextNode(draft: Editor, known: Map<string, ValueId>, artifact: Artifact, segment: string): void {
  const settings = artifact.settings ?? {};
  const text = (value: string): Attr => ({ kind: "string", value });
  const [major = 0, minor = 0, patch = 0] = (settings["version"] ?? "").split(".").map(Number);
  const outs = portsOf(artifact).outputs.map((p) => {
    const id = draft.declare(p.name, typeOf(p));
    known.set(p.name, id);
    return id;
  });
  draft.setOpset("com.microsoft", 1);
  draft.add({
    op: "EPContext",
    domain: "com.microsoft",
    name: segment,
    ins: artifact.inputs.map((name) => known.get(name) as ValueId),
    outs,
    attrs: {
      main_context: { kind: "int", value: 1 },
      embed_mode: { kind: "int", value: 0 },
      ep_cache_context: text(planName(artifact, segment)),
      ep_sdk_version: text(String(major * 10_000 + minor * 100 + patch)),
      hardware_architecture: text(settings["hardware"] === "ampere-plus" ? "80+" : (settings["sm"] ?? "")),
      partition_name: text(segment),
      source: text(PROVIDERS[settings["product"] ?? ""] ?? "TensorrtExecutionProvider"),
      ...(settings["weights"] === "stripped" ? { onnx_model_filename: text(`${segment}.onnx`) } : {}),
    },
  });
}

/** The ONNX model of a host part. Throws P3002's kin where the file is not there. */
export function hostGraph(artifact: Artifact, segment: string): Graph {
  const [file] = artifact.files;
  if (file === undefined)
    throw notExported({ segment, engine: "host", format: FORMAT, fix: "compile the model again: its file is missing" });
  return "path" in file ? importOnnx(file.path) : importOnnx(file.bytes);
}

/** Writes a part's nodes into the draft; what it reads is known by name, and what it makes becomes known. */
function graft(draft: Editor, known: Map<string, ValueId>, part: Graph): void {
  const own = new Map<ValueId, ValueId>();
  for (const v of part.inputs) own.set(v, known.get(valueAt(part, v).name) as ValueId);
  const outputs = new Set(part.outputs);
  const at = (v: ValueId): ValueId => {
    const mapped = own.get(v);
    if (mapped !== undefined) return mapped;
    const { name, type } = valueAt(part, v);
    const c = part.constants.get(v);
    const id = c === undefined ? draft.declare(name, type) : draft.addConstant(name, c);
    own.set(v, id);
    return id;
  };
  // Interface names are taken first; inner ones may have to give way.
  for (const v of part.outputs) known.set(valueAt(part, v).name, at(v));
  for (const [domain, version] of Object.entries(part.opsets))
    draft.setOpset(domain, Math.max(version, Object.hasOwn(draft.opsets, domain) ? (draft.opsets[domain] as number) : 0));
  for (const n of part.nodes) {
    const body = (b: Body): Body => ({ graph: b.graph, captures: b.captures.map(at) });
    const attrs = Object.fromEntries(
      Object.entries(n.attrs).map(([key, a]): readonly [string, Attr] =>
        a.kind === "graph"
          ? [key, { kind: "graph", value: body(a.value) }]
          : a.kind === "graphs"
            ? [key, { kind: "graphs", value: a.value.map(body) }]
            : [key, a],
      ),
    );
    draft.add({
      op: n.op,
      domain: n.domain,
      name: displayName(part, n),
      ins: n.ins.map((v) => (v === undefined ? undefined : at(v))),
      outs: n.outs.map((v) => (v === undefined ? undefined : at(v))),
      attrs: bodiesOf(n).length === 0 ? n.attrs : attrs,
      ...(n.overload === undefined ? {} : { overload: n.overload }),
    });
  }
  for (const v of outputs) if (part.inputs.includes(v)) known.set(valueAt(part, v).name, own.get(v) as ValueId);
}

/** A graph output: what a segment made, an input that is handed through, or a constant. */
function outputOf(draft: Editor, known: Map<string, ValueId>, plan: Plan, { name }: Port): ValueId {
  const direct = Object.hasOwn(plan.direct, name) ? plan.direct[name] : undefined;
  if (direct === undefined || "input" in direct) return known.get(direct === undefined ? name : direct.input) as ValueId;
  return draft.addConstant(name, fromTensor(direct.constant));
}

const typeOf = ({ type, dims }: Port): ValueType =>
  isTensorDType(type) ? { kind: "tensor", dtype: type, shape: dims } : { kind: "unknown" };
