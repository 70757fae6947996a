/** ONNX Runtime's results for a model file as it is, without Partita's passes: the outputs, and any values inside by name. */
import { readFileSync } from "node:fs";
import type { Artifact } from "../engines/engine.js";
import { hostEngine } from "../engines/host/index.js";
import { keeps } from "../engines/host/keeps.js";
import { Bindings } from "../import/bind.js";
import { cut } from "../import/cut.js";
import { detect, type ImportOptions, importModel } from "../import/index.js";
import { importOnnx } from "../import/onnx/index.js";
import { valueAt } from "../ir/graph.js";
import type { Graph, ValueType } from "../ir/types.js";
import { inferGraph } from "../ops/infer.js";
import { lower } from "../passes/lower.js";
import type { Tensor, TensorLike } from "../tensor.js";
import { randomFeeds } from "./measure.js";
import { type Feeds, portOf } from "./ports.js";

/** A model that can be asked for its values. */
export interface Untouched {
  /** As imported, with inferred types. */
  readonly graph: Graph;
  /** The named values for these feeds, at ONNX Runtime's optimisation level basic. */
  values(feeds: Feeds, names: readonly string[]): Promise<ReadonlyMap<string, Tensor>>;
}

/** What onnxruntime-node gives back as a tensor. */
const RETURNED: ReadonlySet<string> = new Set(
  "float32 float64 float16 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool string".split(" "),
);
export const isReturned = (t: ValueType): boolean => t.kind === "tensor" && RETURNED.has(t.dtype);

export interface UntouchedOptions extends Omit<ImportOptions, "bindings"> {
  /** What inputs were bound to when the model was compiled: here they are fed. */
  readonly bound?: Readonly<Record<string, Tensor>> | undefined;
}

/**
 * Opens a model. ONNX Runtime reads no TensorFlow models and cuts none, and finds no external data beside bytes: of those it gets what the importer
 * made of them. An ONNX file it gets byte for byte, with more outputs.
 * What else the model asks for, inputs that only served what a bound value decided against, is fed at random.
 */
export async function untouched(path: string, { bound = {}, ...options }: UntouchedOptions = {}): Promise<Untouched> {
  const whole = detect(path) === "onnx" && options.inputs === undefined && options.outputs === undefined;
  const read = async (bindings?: Bindings): Promise<Graph> =>
    inferGraph(whole ? importOnnx(path) : await importModel(path, { ...options, bindings })).graph;
  const plain = await read();
  const fed = (name: string): Tensor | undefined => bound[name] ?? bound[name.replace(/:0$/, "")];
  const known = new Set(plain.inputs.flatMap((v) => [valueAt(plain, v).name, valueAt(plain, v).name.replace(/:0$/, "")]));
  // Defaults that are overridden are no inputs: these are put into the graph.
  const inputsAlone = Object.keys(bound).every((name) => known.has(name));
  const bindings = new Bindings(bound);
  const graph = inputsAlone ? plain : bindings.apply(await read(bindings));
  const asFile = whole && inputsAlone;
  const external = [...graph.constants.values()].some((c) => c.data.kind === "file");
  const inputs = graph.inputs.map((v) => valueAt(graph, v).name);
  return {
    graph,
    async values(feeds, names) {
      const given = (name: string): TensorLike | undefined => feeds[name] ?? feeds[name.replace(/:0$/, "")] ?? fed(name);
      const rest = graph.inputs.map((v) => valueAt(graph, v)).filter((v) => given(v.name) === undefined);
      const random =
        rest.length === 0
          ? {}
          : randomFeeds(
              rest.map((v) => portOf(v.name, v.type)),
              1,
            );
      const tensors = inputs.map((name) => (given(name) ?? random[name]) as TensorLike);
      const own = graph.outputs.map((v) => valueAt(graph, v).name);
      const more = names.filter((name) => !own.includes(name) && !inputs.includes(name));
      const results =
        asFile && !(external && more.length > 0)
          ? await run(fileArtifact(path, external, inputs, [...own, ...more], more), tensors)
          : await runGraph(
              cut(graph, undefined, [...own, ...more]),
              Object.fromEntries(inputs.map((name, i) => [name, tensors[i]])) as Feeds,
            );
      for (const [i, name] of inputs.entries()) if (!results.has(name)) results.set(name, tensors[i] as Tensor);
      return results;
    },
  };
}

/** What ONNX Runtime, at level basic, gives for a graph: its outputs by name. */
export async function runGraph(g: Graph, feeds: Feeds): Promise<Map<string, Tensor>> {
  const artifact = await hostEngine.build(inferGraph(lower(g, keeps)).graph, { target: { sm: 0, tensorrt: 0, precision: "fp32" } });
  const basic = { ...artifact, settings: { ...artifact.settings, level: "basic" } };
  return await run(
    basic,
    artifact.inputs.map((name) => (feeds[name] ?? feeds[name.replace(/:0$/, "")]) as TensorLike),
  );
}

async function run(artifact: Artifact, inputs: readonly TensorLike[]): Promise<Map<string, Tensor>> {
  const executable = await hostEngine.open(artifact, { streams: 1, threads: 0 });
  try {
    const results = await executable.run(inputs);
    return new Map(artifact.outputs.map((name, i) => [name, results[i] as Tensor]));
  } finally {
    await executable.dispose();
  }
}

const fileArtifact = (
  path: string,
  external: boolean,
  inputs: readonly string[],
  outputs: readonly string[],
  more: readonly string[],
): Artifact => ({
  engine: "host",
  key: "",
  inputs,
  outputs,
  files: [external ? { name: "model.onnx", path } : { name: "model.onnx", bytes: withOutputs(readFileSync(path), more) }],
  settings: { level: "basic" },
});

/**
 * A model with more outputs, its own bytes unchanged: a second occurrence of a message field is merged with the first, and repeated fields of the two
 * are joined (protobuf's encoding, "Last One Wins"). ONNX Runtime infers the outputs' types.
 */
export function withOutputs(model: Uint8Array, names: readonly string[]): Uint8Array {
  if (names.length === 0) return model;
  const outputs = names.map((name) => field(12, field(1, Buffer.from(name))));
  return Buffer.concat([model, field(7, Buffer.concat(outputs))]);
}
function field(number: number, content: Uint8Array): Uint8Array {
  return Buffer.concat([varint((number << 3) | 2), varint(content.length), content]);
}
function varint(n: number): Uint8Array {
  const bytes: number[] = [];
  for (; n > 127; n = Math.floor(n / 128)) bytes.push((n % 128) | 128);
  return Uint8Array.from([...bytes, n]);
}
