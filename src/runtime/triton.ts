/**
 * Bundles as a model repository of Triton Inference Server: TensorRT plans and the host's ONNX models as models of their own, and an ensemble
 * that joins them under the model's name. A bundle of one part needs no ensemble. Every dim is written out (max_batch_size 0).
 */
import type { Artifact } from "../engines/engine.js";
import { badName, noInputs, notExported } from "../engines/tensorrt/errors.js";
import { portsOf } from "../engines/tensorrt/ports.js";
import { encodeOnnx } from "../import/onnx/export.js";
import { Editor } from "../ir/edit.js";
import { valueAt } from "../ir/graph.js";
import { fromTensor } from "../ir/payload.js";
import type { ValueId, ValueType } from "../ir/types.js";
import { isTensorDType } from "../tensor.js";
import { type ExportedFile, hostGraph } from "./epcontext.js";
import { type Plan, type Port, portOf } from "./ports.js";

const FORMAT = "a Triton model repository";
const TYPES: Readonly<Record<string, string>> = {
  bool: "TYPE_BOOL",
  uint8: "TYPE_UINT8",
  uint16: "TYPE_UINT16",
  uint32: "TYPE_UINT32",
  uint64: "TYPE_UINT64",
  int8: "TYPE_INT8",
  int16: "TYPE_INT16",
  int32: "TYPE_INT32",
  int64: "TYPE_INT64",
  float16: "TYPE_FP16",
  float32: "TYPE_FP32",
  float64: "TYPE_FP64",
  bfloat16: "TYPE_BF16",
  string: "TYPE_STRING",
};

/** One part of the ensemble. */
interface Part {
  readonly model: string;
  readonly inputs: readonly Port[];
  readonly outputs: readonly Port[];
}

/** The repository's files. Throws P2240 for segments of another engine, P2241 for a name that is no folder's, P2242 for a model without inputs. */
export function tritonFiles(plan: Plan, artifacts: readonly Artifact[], name: string): readonly ExportedFile[] {
  if (!/^[A-Za-z0-9_][\w.-]*$/.test(name))
    throw badName({ name, format: FORMAT, fix: "rename the bundle: letters, digits, '_', '-' and '.'" });
  if (plan.inputs.length === 0) throw noInputs({ format: FORMAT });
  const direct = plan.outputs.filter((p) => Object.hasOwn(plan.direct, p.name));
  const alone = plan.steps.length === 1 && direct.length === 0;
  const files: ExportedFile[] = [];
  const parts = plan.steps.map((step, i): Part => {
    const artifact = artifacts[i] as Artifact;
    const model = alone ? name : `${name}_${step.segment}`;
    const part = { model, ...interfaceOf(artifact, step.segment) };
    const rtx = artifact.settings?.["product"] === "TensorRT-RTX";
    if (artifact.engine === "cuda" || rtx)
      throw notExported({
        segment: step.segment,
        engine: rtx ? "TensorRT-RTX" : artifact.engine,
        format: FORMAT,
        fix: rtx ? "compile with TensorRT on the GPU that serves: --trt library=tensorrt" : "compile with --target tensorrt,host",
      });
    files.push(...modelFiles(artifact, model), { name: `${model}/config.pbtxt`, bytes: utf8(modelConfig(artifact, part)) });
    return part;
  });
  if (alone) return files;
  if (direct.length > 0) {
    const part = directPart(plan, direct, `${name}_direct`, files);
    parts.push(part);
  }
  // A version without files: the ensemble has none of its own.
  files.push(
    { name: `${name}/1/.keep`, bytes: new Uint8Array() },
    { name: `${name}/config.pbtxt`, bytes: utf8(ensembleConfig(plan, parts, name)) },
  );
  return files;
}

function interfaceOf(artifact: Artifact, segment: string): Pick<Part, "inputs" | "outputs"> {
  if (artifact.engine === "tensorrt") return portsOf(artifact);
  if (artifact.engine === "cuda") return { inputs: [], outputs: [] };
  const g = hostGraph(artifact, segment);
  const ports = (ids: readonly ValueId[]): Port[] => ids.map((v) => portOf(valueAt(g, v).name, valueAt(g, v).type));
  return { inputs: ports(g.inputs), outputs: ports(g.outputs) };
}

function modelFiles(artifact: Artifact, model: string): readonly ExportedFile[] {
  return artifact.files
    .filter((f) => f.name !== "segment.onnx")
    .map((f) => {
      const at = `${model}/1/${f.name === "engine.plan" ? "model.plan" : f.name}`;
      return "bytes" in f ? { name: at, bytes: f.bytes } : { name: at, path: f.path };
    });
}

/** Outputs that are inputs or constants: ensembles hand nothing through by themselves. */
function directPart(plan: Plan, direct: readonly Port[], model: string, files: ExportedFile[]): Part {
  const draft = new Editor({ name: model, opsets: { "": 18 } });
  const inputs = new Map<string, ValueId>();
  const used: Port[] = [];
  const outs = direct.map((p) => {
    const from = plan.direct[p.name] as Plan["direct"][string];
    const out = draft.declare("input" in from ? `${p.name}/out` : p.name, typeOf(p));
    let source: ValueId;
    if ("input" in from) {
      const port = plan.inputs.find((q) => q.name === from.input) as Port;
      source = inputs.get(port.name) ?? draft.addInput(port.name, typeOf(port));
      if (!inputs.has(port.name)) used.push(port);
      inputs.set(port.name, source);
    } else source = draft.addConstant(`${p.name}/value`, fromTensor(from.constant));
    draft.add({ op: "Identity", ins: [source], outs: [out], name: p.name });
    return out;
  });
  if (used.length === 0) {
    // A model without inputs is none that an ensemble can call.
    const [first] = plan.inputs;
    if (first !== undefined) {
      draft.addInput(first.name, typeOf(first));
      used.push(first);
    }
  }
  draft.setOutputs(outs);
  const g = draft.finish();
  const outputs = outs.map((v) => portOf(valueAt(g, v).name, valueAt(g, v).type));
  const part: Part = { model, inputs: used, outputs };
  files.push(
    { name: `${model}/1/model.onnx`, bytes: encodeOnnx(g) },
    {
      name: `${model}/config.pbtxt`,
      bytes: utf8(
        [
          ...head(model, ["backend", "onnxruntime"]),
          ...tensors("input", used),
          ...tensors("output", outputs),
          ...instances("KIND_CPU"),
        ].join("\n"),
      ),
    },
  );
  return { ...part, outputs: direct.map((p, i) => ({ ...p, name: (outputs[i] as Port).name })) };
}

function modelConfig(artifact: Artifact, { model, inputs, outputs }: Part): string {
  const plan = artifact.engine === "tensorrt";
  return [
    ...head(model, ["backend", plan ? "tensorrt" : "onnxruntime"]),
    ...(plan ? [`default_model_filename: "model.plan"`] : []),
    ...tensors("input", inputs),
    ...tensors("output", outputs),
    ...instances(plan ? "KIND_GPU" : "KIND_CPU"),
    "",
  ].join("\n");
}

function ensembleConfig(plan: Plan, parts: readonly Part[], name: string): string {
  // What a part gives under a name of its own is an ensemble tensor of the output's name.
  const direct = plan.outputs.filter((p) => Object.hasOwn(plan.direct, p.name)).map((p) => p.name);
  const map = (key: string, value: string, field: string): string[] => [
    `      ${field} {`,
    `        key: ${quoted(key)}`,
    `        value: ${quoted(value)}`,
    "      }",
  ];
  const renamed = new Map(direct.map((n) => [n, plan.inputs.some((p) => p.name === n) ? `${n}/out` : n]));
  const steps = parts.flatMap((p, i) => {
    const last = direct.length > 0 && i === parts.length - 1;
    return [
      "    {",
      `      model_name: ${quoted(p.model)}`,
      "      model_version: -1",
      ...p.inputs.flatMap((t) => map(t.name, t.name, "input_map")),
      ...p.outputs.flatMap((t, k) => map(t.name, last ? (renamed.get(direct[k] as string) as string) : t.name, "output_map")),
      "    }",
    ];
  });
  const outputs = plan.outputs.map((p) => ({ ...p, name: renamed.get(p.name) ?? p.name }));
  return [
    ...head(name, ["platform", "ensemble"]),
    ...tensors("input", plan.inputs, false),
    ...tensors("output", outputs, false),
    "ensemble_scheduling {",
    "  step [",
    steps.join("\n").replaceAll("    }\n    {", "    },\n    {"),
    "  ]",
    "}",
    "",
  ].join("\n");
}

const head = (model: string, [key, value]: readonly [string, string]): string[] => [
  `name: ${quoted(model)}`,
  `${key}: ${quoted(value)}`,
  "max_batch_size: 0",
];

const instances = (kind: string): string[] => ["instance_group [", "  {", "    count: 1", `    kind: ${kind}`, "  }", "]"];

/** Scalars have no dims, and Triton wants some: models reshape a vector of one; an ensemble passes that vector on. */
function tensors(field: "input" | "output", ports: readonly Port[], reshapes = true): string[] {
  const entries = ports.map((p) => {
    const type = TYPES[p.type];
    if (type === undefined || p.dims === undefined)
      throw badName({
        name: `${p.name}: ${p.type}${p.dims === undefined ? " of unknown rank" : ""}`,
        format: FORMAT,
        fix: "give the model's inputs shapes, and keep sequences and maps within one part",
      });
    const scalar = p.dims.length === 0;
    const dims = scalar ? [1] : p.dims.map((d) => (typeof d === "number" ? d : -1));
    return [
      "  {",
      `    name: ${quoted(p.name)}`,
      `    data_type: ${type}`,
      `    dims: [ ${dims.join(", ")} ]`,
      ...(scalar && reshapes ? ["    reshape {", "      shape: [ ]", "    }"] : []),
      "  }",
    ].join("\n");
  });
  return [`${field} [`, entries.join(",\n"), "]"];
}

const typeOf = ({ type, dims }: Port): ValueType =>
  isTensorDType(type) ? { kind: "tensor", dtype: type, shape: dims } : { kind: "unknown" };

/** A string of protobuf's text format. */
const quoted = (s: string): string =>
  `"${[...utf8(s)].map((b) => (b === 0x22 || b === 0x5c ? `\\${String.fromCharCode(b)}` : b >= 0x20 && b < 0x7f ? String.fromCharCode(b) : `\\${b.toString(8).padStart(3, "0")}`)).join("")}"`;
const utf8 = (s: string): Uint8Array => new TextEncoder().encode(s);
