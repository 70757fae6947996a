/** TensorRT's own opinion of a graph's nodes: its ONNX parser is asked, and what it does not take is refused with its words. */

import { no, PartitaError, type Verdict } from "../../diagnostics.js";
import { encodeOnnx } from "../../import/onnx/export.js";
import { readsOf, valueAt } from "../../ir/graph.js";
import type { Graph, NodeId, ValueId } from "../../ir/types.js";
import type { Parts } from "../../passes/parts.js";
import type { TensorRtOptions } from "../engine.js";
import { type Loaded, loadLibrary, presentGpu } from "./load.js";
import type { LibraryVersion, Support } from "./native.js";
import { spelledForParser } from "./prepare.js";

/** What the operators' tables are asked for where no library says what it is: TensorRT 11.2. */
const DEFAULT_VERSION = 110_200;
const numberOf = ({ major, minor, patch }: LibraryVersion): number => major * 10_000 + minor * 100 + patch;

/** The library that plans will be built with; undefined where there is none, which building tells of. */
export async function libraryFor(options: TensorRtOptions, sm: number): Promise<Loaded | undefined> {
  try {
    return await loadLibrary({ flavor: options.library, sm });
  } catch (error) {
    if (error instanceof PartitaError) return undefined;
    throw error;
  }
}
export const versionNumber = (loaded: Loaded | undefined): number => (loaded === undefined ? DEFAULT_VERSION : numberOf(loaded.rt.version));

/**
 * Nodes among `candidates` that the parser refuses, with its reason. What it gets in parts is refused for any of them. What it cannot be asked is
 * left to the build.
 */
export async function parserRefusals(
  { graph, parts }: { readonly graph: Graph; readonly parts: Parts | undefined },
  candidates: (node: NodeId) => boolean,
  { rt }: Loaded,
): Promise<ReadonlyMap<NodeId, Verdict>> {
  const owner = (id: NodeId): NodeId => parts?.owner(id) ?? id;
  const part = spelledForParser(candidateGraph(parts?.graph ?? graph, (id) => candidates(owner(id))));
  if (part.nodes.length === 0) return new Map();
  let support: Support;
  try {
    support = await rt.supports(encodeOnnx(part), presentGpu()?.context);
  } catch (error) {
    if (error instanceof PartitaError) return new Map();
    throw error;
  }
  const refused = refusedBy(support, part, `${rt.version.product} ${rt.version.text}`);
  return new Map([...refused].map(([id, verdict]) => [owner(id), verdict]));
}

/** By node id: what is in no part that the parser takes, and what it complains of. */
function refusedBy(support: Support, part: Graph, name: string): ReadonlyMap<NodeId, Verdict> {
  const refused = new Map<NodeId, Verdict>();
  if (support.supported) return refused;
  const said = new Map(support.errors.filter((e) => e.node >= 0).map((e) => [e.node, e.text]));
  const bad = new Set([...said.keys(), ...support.subgraphs.filter((s) => !s.supported).flatMap((s) => s.nodes)]);
  if (support.subgraphs.length > 0) {
    const good = new Set(support.subgraphs.filter((s) => s.supported).flatMap((s) => s.nodes));
    part.nodes.forEach((_, i) => {
      if (!good.has(i)) bad.add(i);
    });
  }
  for (const i of bad) {
    const n = part.nodes[i];
    if (n !== undefined)
      refused.set(n.id, no(`${name}'s parser does not take it${said.has(i) ? `: ${said.get(i)}` : ""}`, "a newer TensorRT may"));
  }
  return refused;
}

/** The candidates alone: what they read from elsewhere is fed, what others read is given out. Node ids stay. */
function candidateGraph(g: Graph, candidates: (node: NodeId) => boolean): Graph {
  const nodes = g.nodes.filter((n) => candidates(n.id));
  const made = new Set<ValueId>();
  for (const n of nodes) for (const v of n.outs) if (v !== undefined) made.add(v);
  const inputs = new Set<ValueId>();
  const read = new Set<ValueId>();
  const constants = new Map<ValueId, NonNullable<ReturnType<Graph["constants"]["get"]>>>();
  for (const n of nodes)
    for (const v of readsOf(n)) {
      read.add(v);
      const c = g.constants.get(v);
      if (c !== undefined) constants.set(v, c);
      else if (!made.has(v)) inputs.add(v);
    }
  const outside = new Set(g.outputs);
  for (const n of g.nodes) if (!candidates(n.id)) for (const v of readsOf(n)) outside.add(v);
  // A result that nobody reads is an output too: the parser drops what leads nowhere.
  const outputs = [...made].filter((v) => outside.has(v) || !read.has(v));
  const live = new Set([...inputs, ...made, ...constants.keys()]);
  return {
    name: g.name,
    inputs: [...inputs].sort((a, b) => (valueAt(g, a).name < valueAt(g, b).name ? -1 : 1)),
    captures: [],
    outputs,
    nodes,
    values: g.values.map((v) => (v !== undefined && live.has(v.id) ? v : undefined)),
    constants,
    opsets: g.opsets,
    nodeLimit: g.nodeLimit,
  };
}
