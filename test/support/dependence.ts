/**
 * Which values of a graph have shapes that only the data decides: results of operators like NonZero, and of any operator whose shape operand
 * is computed from the data of a graph input. Written apart from the operators' own inference, which it judges.
 */
import { bodiesOf } from "../../src/ir/graph.js";
import type { Graph, Node, ValueId } from "../../src/ir/types.js";

/** Their results' sizes depend on element values whatever their operands. */
const ALWAYS = new Set([
  "NonZero",
  "Unique",
  "Compress",
  "NonMaxSuppression",
  "StringSplit",
  "RegexSplit",
  "TfIdfVectorizer",
  "StringNormalizer",
]);
/** Operands whose values decide the result's shape. */
const SHAPE_OPERANDS: Readonly<Record<string, readonly number[]>> = {
  Reshape: [1],
  Expand: [1],
  Tile: [1],
  Slice: [1, 2, 3, 4],
  Pad: [1, 3],
  Resize: [1, 2, 3],
  Upsample: [1],
  ConstantOfShape: [0],
  Range: [0, 1, 2],
  OneHot: [1],
  TopK: [1],
  Squeeze: [1],
  Unsqueeze: [1],
  Split: [1],
  SplitToSequence: [1],
  CenterCropPad: [1],
  AffineGrid: [1],
  MaxUnpool: [2],
  Col2Im: [1, 2],
  DFT: [1, 2],
  STFT: [1, 3],
  HannWindow: [0],
  HammingWindow: [0],
  BlackmanWindow: [0],
  MelWeightMatrix: [0, 1],
  SequenceAt: [1],
  ReduceSum: [1],
  ReduceMean: [1],
  ReduceMax: [1],
  ReduceMin: [1],
  ReduceProd: [1],
  ReduceL1: [1],
  ReduceL2: [1],
  ReduceLogSum: [1],
  ReduceLogSumExp: [1],
  ReduceSumSquare: [1],
  Loop: [0, 1],
  If: [0],
};

interface Taint {
  /** Its elements depend on the data. */
  readonly data: boolean;
  /** Its shape does. */
  readonly shape: boolean;
}
const NONE: Taint = { data: false, shape: false };

/** Values with shapes that only the data decides. Graph inputs have fixed shapes. */
export function dataDependent(g: Graph): ReadonlySet<ValueId> {
  const found = analyse(
    g,
    g.inputs.map(() => ({ data: true, shape: false })),
    [],
  );
  return new Set(g.values.flatMap((v) => (v !== undefined && found[v.id]?.shape === true ? [v.id] : [])));
}

function analyse(g: Graph, inputs: readonly Taint[], captures: readonly Taint[]): Taint[] {
  const at: Taint[] = [];
  g.inputs.forEach((v, i) => {
    at[v] = inputs[i] ?? { data: true, shape: true };
  });
  g.captures.forEach((v, i) => {
    at[v] = captures[i] ?? NONE;
  });
  for (const n of g.nodes) {
    const taints = n.ins.map((v) => (v === undefined ? NONE : (at[v] ?? NONE)));
    const results = resultsOf(n, taints, at);
    n.outs.forEach((v, i) => {
      if (v !== undefined) at[v] = results(i);
    });
  }
  return at;
}

function resultsOf(n: Node, ins: readonly Taint[], at: readonly Taint[]): (out: number) => Taint {
  const shape = ALWAYS.has(n.op) || ins.some((t) => t.shape) || (SHAPE_OPERANDS[n.op] ?? []).some((i) => ins[i]?.data === true);
  if (n.op === "Shape" || n.op === "Size") return () => ({ data: shape, shape });
  const bodies = bodiesOf(n);
  const data = bodies.length > 0 || n.op.startsWith("Random") || ins.some((t) => t.data);
  if (bodies.length === 0) return () => ({ data, shape });
  // A body's inputs change from turn to turn: their elements count as data.
  const changing: Taint = { data: true, shape };
  const inner = bodies.map(({ body }) => {
    const first = n.op === "Loop" ? [{ data: true, shape: false }, ins[1] ?? NONE] : [];
    const given = body.graph.inputs.map((_, i) => first[i] ?? changing);
    const found = analyse(
      body.graph,
      given,
      body.captures.map((v) => at[v] ?? NONE),
    );
    return body.graph.outputs.map((v) => found[v] ?? NONE);
  });
  // The number of turns is the data's affair when the body computes its condition.
  const open = n.op === "Loop" && inner.some((outs) => outs[0]?.data === true);
  const skipped = n.op === "Loop" ? 1 : 0;
  return (i) => ({ data, shape: shape || open || inner.some((outs) => outs[i + skipped]?.shape === true) });
}
