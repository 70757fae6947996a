/** Where the time of a host segment's run goes: ONNX Runtime's own profiler, in a session made for it, and its nodes as nodes of the segment again. */
import { importOnnx } from "../../import/onnx/index.js";
import { displayName, producersOf, readsOf } from "../../ir/graph.js";
import type { Graph, Node } from "../../ir/types.js";
import type { LayerFacts } from "../engine.js";

/** An event of ONNX Runtime's profile, in microseconds. */
export interface ProfileEvent {
  readonly cat: string;
  readonly name: string;
  readonly ts: number;
  readonly dur: number;
  readonly op?: string | undefined;
}

const KERNEL = "_kernel_time";

/**
 * Means over the last `runs` runs: each node that ONNX Runtime ran, and what of a run is spent between nodes; together they are the run. Nodes of control
 * flow's bodies stand under their node (`inside`), and count there.
 */
export function layersOf(events: readonly ProfileEvent[], runs: number, graph: Graph): readonly LayerFacts[] {
  const whole = events.filter((e) => e.cat === "Session" && e.name === "model_run").slice(-runs);
  const [first] = whole;
  if (first === undefined) return [];
  const kernels = events
    .filter((e) => e.cat === "Node" && e.name.endsWith(KERNEL) && e.ts >= first.ts)
    .sort((a, b) => a.ts - b.ts || b.dur - a.dur);
  const sums = new Map<string, { op: string | undefined; us: number; inside: string | undefined }>();
  const open: ProfileEvent[] = [];
  let inNodes = 0;
  for (const e of kernels) {
    while (open.length > 0 && (open.at(-1) as ProfileEvent).ts + (open.at(-1) as ProfileEvent).dur <= e.ts) open.pop();
    const inside = open.at(-1)?.name.slice(0, -KERNEL.length);
    const name = e.name.slice(0, -KERNEL.length);
    const key = `${inside ?? ""}\0${name}`;
    const sum = sums.get(key) ?? { op: e.op, us: 0, inside };
    sum.us += e.dur;
    sums.set(key, sum);
    if (inside === undefined) inNodes += e.dur;
    open.push(e);
  }
  const total = whole.reduce((n, e) => n + e.dur, 0);
  const found = [...sums].map(([key, s]) => ({ name: key.slice(key.indexOf("\0") + 1), ...s }));
  const nodes = nodesBehind(
    graph,
    found.filter((f) => f.inside === undefined).map((f) => f.name),
  );
  return [
    ...found.map(({ name, op, us, inside }) => ({
      name,
      us: us / whole.length,
      ...(op === undefined ? {} : { op }),
      ...(inside === undefined ? { nodes: nodes.get(name) ?? [] } : { inside }),
    })),
    { name: "between nodes", us: (total - inNodes) / whole.length, nodes: [] },
  ];
}

/** What ONNX Runtime's rewrites append to the name of a node or of the value it makes. */
const SUFFIX = /(_nchwc|_token_\d+|_fused|_quant)+$/;

/** What a fused node begins with, and what ONNX Runtime fuses behind one rather than before it. */
const HEADS: ReadonlySet<string> = new Set(["Conv", "ConvTranspose", "MatMul", "Gemm", "MaxPool", "AveragePool", "GlobalAveragePool"]);
const TAILS: ReadonlySet<string> = new Set(
  "Add Sub Mul Div Sum Relu Clip Sigmoid Tanh LeakyRelu HardSigmoid HardSwish Elu Gelu".split(" "),
);

/**
 * The segment's nodes behind each node that ran. Those keep a name of the segment's, or are named after a value that they make; nodes that did not run on
 * their own were fused, with one that reads them or else one that they read.
 */
function nodesBehind(g: Graph, ran: readonly string[]): ReadonlyMap<string, readonly string[]> {
  const made = producersOf(g);
  const byName = new Map(g.nodes.flatMap((n) => (n.name === "" ? [] : [[n.name, n] as const])));
  const byValue = new Map(
    g.values.flatMap((v) => (v === undefined || made[v.id] === undefined ? [] : [[v.name, made[v.id] as Node] as const])),
  );
  const anchors = new Map<Node, string>();
  for (const name of ran) {
    const bare = name.replace(SUFFIX, "");
    const node = byName.get(name) ?? byValue.get(name) ?? byName.get(bare) ?? byValue.get(bare);
    if (node !== undefined && !anchors.has(node)) anchors.set(node, name);
  }
  const owner = new Map<Node, string>(anchors);
  // Backwards: what a fused node reads and did not run is part of it.
  const backwards = (all: boolean): void => {
    for (const n of g.nodes.toReversed()) {
      const mine = owner.get(n);
      if (mine === undefined) continue;
      for (const v of readsOf(n)) {
        const p = made[v];
        if (p !== undefined && !owner.has(p) && (all || !(HEADS.has(n.op) && TAILS.has(p.op)))) owner.set(p, mine);
      }
    }
  };
  backwards(false);
  // Forwards: what is left was fused into the node before it.
  for (const n of g.nodes) {
    if (owner.has(n)) continue;
    const before = readsOf(n)
      .map((v) => made[v])
      .find((p) => p !== undefined && owner.has(p));
    if (before !== undefined) owner.set(n, owner.get(before) as string);
  }
  backwards(true);
  const nodes = new Map<string, string[]>();
  for (const n of g.nodes) {
    const name = owner.get(n);
    if (name !== undefined) nodes.set(name, [...(nodes.get(name) ?? []), displayName(g, n)]);
  }
  return nodes;
}

/** The graph of a host artifact's model. */
export const graphOf = (file: { readonly bytes: Uint8Array } | { readonly path: string }): Graph =>
  importOnnx("bytes" in file ? file.bytes : file.path);
