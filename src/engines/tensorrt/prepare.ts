/**
 * A segment as TensorRT's ONNX parser takes it: strongly typed at the precision asked for, Q/DQ explicit, every node under a name of its own
 * that leads back to the user's, so that what the parser says of a node can be told of the model.
 */
import { encodeOnnx } from "../../import/onnx/export.js";
import { intOf } from "../../ir/attributes.js";
import { Editor } from "../../ir/edit.js";
import { displayName, qualifiedOp, valueAt } from "../../ir/graph.js";
import { elementCount, typedOf } from "../../ir/payload.js";
import type { Constant, Graph, Node } from "../../ir/types.js";
import type { Target } from "../../ops/define.js";
import { inferGraph } from "../../ops/infer.js";
import type { DimRanges } from "../engine.js";
import type { ProfileRange } from "./native.js";
import { noRanges, profileOf } from "./profile.js";
import { atHalfPrecision } from "./typed.js";

export interface Prepared {
  readonly graph: Graph;
  /** The serialized model. */
  readonly onnx: Uint8Array;
  readonly profile: readonly ProfileRange[];
  /** By index in the model's list of nodes: the user's name, and the operator as the model has it. */
  readonly nodes: readonly { readonly name: string; readonly op: string }[];
}

/** Throws P1151 past 2 GiB, P2230 and P2231 for what has no profile. */
export function prepareSegment(segment: Graph, precision: Target["precision"], ranges: DimRanges = noRanges): Prepared {
  const inferred = inferGraph(segment);
  const profile = profileOf(inferred.graph, inferred.facts, ranges);
  const graph = prepared(inferred.graph, precision);
  const users = graph.nodes.map((n) => ({ name: userName(graph, n), op: qualifiedOp(n) }));
  return { graph: named(graph), onnx: encodeOnnx(named(graph)), profile, nodes: users };
}

/** The graph under the names and in the spellings that go to the parser. Nodes keep their ids. */
export const spelledForParser = (g: Graph): Graph => named(dequantizedBiases(positionalAxes(g)));

function prepared(g: Graph, precision: Target["precision"]): Graph {
  const spelled = dequantizedBiases(positionalAxes(g));
  if (precision === "fp16") return atHalfPrecision(spelled, "float16");
  if (precision === "bf16") return atHalfPrecision(spelled, "bfloat16");
  return spelled;
}

/** What a person calls a node: the model's own name where one node of it became this one. */
function userName(g: Graph, n: Node): string {
  const [first, ...others] = n.origin ?? [];
  return first !== undefined && first !== "" && others.length === 0 ? first : displayName(g, n);
}

/** The parser tells of nodes by name: each gets one, and none twice. */
function named(g: Graph): Graph {
  const taken = new Set<string>();
  const draft = new Editor(g);
  for (const n of g.nodes) {
    const stem = displayName(g, n);
    let name = stem;
    for (let i = 1; taken.has(name); i++) name = `${stem}.${i}`;
    taken.add(name);
    if (n.name !== name) draft.patch(n.id, { name });
  }
  return draft.finish();
}

/** The parser reads int32 constants behind DequantizeLinear (quantized biases) as an error; they are constants all the same. */
function dequantizedBiases(g: Graph): Graph {
  const draft = new Editor(g);
  for (const n of g.nodes) {
    if (n.op !== "DequantizeLinear" || n.domain !== "") continue;
    const [x, scale] = n.ins.map((v) => (v === undefined ? undefined : g.constants.get(v)));
    const [out] = n.outs;
    if (x?.dtype !== "int32" || scale?.dtype !== "float32" || out === undefined || g.outputs.includes(out)) continue;
    const value = dequantized(x, scale, n);
    if (value === undefined) continue;
    draft.remove(n.id);
    draft.setConstant(out, value);
  }
  return draft.finish();
}

function dequantized(x: Constant, scale: Constant, n: Node): Constant | undefined {
  const [q, s] = [typedOf(x) as Int32Array, typedOf(scale) as Float32Array];
  const at = intOf(n, "axis", 1);
  const channels = s.length;
  const dim = at < 0 ? at + x.dims.length : at;
  const inner = channels === 1 ? 1 : (elementCount(x.dims.slice(dim + 1)) ?? 1);
  // A scale that is neither per tensor nor per channel is left to the parser.
  if (channels !== 1 && (scale.dims.length !== 1 || x.dims[dim] !== channels)) return undefined;
  const y = new Float32Array(q.length);
  for (let i = 0; i < q.length; i++) y[i] = (q[i] as number) * (s[channels === 1 ? 0 : Math.floor(i / inner) % channels] as number);
  return { dtype: "float32", dims: x.dims, data: { kind: "bytes", bytes: new Uint8Array(y.buffer) } };
}

/** Per-channel scales with a negative axis: the parser counts from the front. */
function positionalAxes(g: Graph): Graph {
  const draft = new Editor(g);
  for (const n of g.nodes) {
    const axis = n.attrs["axis"];
    const [x] = n.ins;
    if (n.domain !== "" || axis?.kind !== "int" || Number(axis.value) >= 0 || x === undefined) continue;
    if (n.op !== "QuantizeLinear" && n.op !== "DequantizeLinear") continue;
    const { type } = valueAt(g, x);
    const rank = type.kind === "tensor" ? type.shape?.length : undefined;
    if (rank !== undefined) draft.patch(n.id, { attrs: { ...n.attrs, axis: { kind: "int", value: Number(axis.value) + rank } } });
  }
  return draft.finish();
}
